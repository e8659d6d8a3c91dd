//! Ctrl-C: stops what is being computed, and a second time, or when nothing is, the program.

use std::sync::atomic::{AtomicBool, Ordering};

/// What a shell gives for a program that SIGINT ended.
pub(crate) const EXIT_CODE: u8 = 130;

/// Whether somebody asks [`Watch::interrupted`] now and then.
static WATCHED: AtomicBool = AtomicBool::new(false);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Takes Ctrl-C over. SIGTERM and SIGHUP stay what they are: whoever sends them wants the program gone.
pub(crate) fn install() {
    let handler = || {
        if !WATCHED.load(Ordering::SeqCst) || INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(EXIT_CODE.into());
        }
    };
    // Without a handler Ctrl-C still ends the program, only less politely.
    let _ = ctrlc::set_handler(handler);
}

/// While it lives, a first Ctrl-C only sets a flag.
#[derive(Debug)]
pub(crate) struct Watch(());

impl Watch {
    pub(crate) fn new() -> Self {
        INTERRUPTED.store(false, Ordering::SeqCst);
        WATCHED.store(true, Ordering::SeqCst);
        Self(())
    }

    /// Whether Ctrl-C was pressed since [`Watch::new`].
    #[allow(clippy::unused_self, reason = "only who watches may ask")]
    pub(crate) fn interrupted(&self) -> bool {
        INTERRUPTED.load(Ordering::SeqCst)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED.store(false, Ordering::SeqCst);
    }
}
