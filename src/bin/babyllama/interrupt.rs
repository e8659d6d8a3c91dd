//! Ctrl-C: stops what is being computed, and a second time, or when nothing is, the program.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a shell gives for a program that SIGINT ended.
pub(crate) const EXIT_CODE: u8 = 130;

/// Whether somebody asks [`Watch::interrupted`] now and then.
static WATCHED: AtomicBool = AtomicBool::new(false);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Takes Ctrl-C over, once. SIGTERM and SIGHUP stay what they are: whoever sends them wants the program gone.
///
/// rustyline takes SIGINT too, for as long as an editor lives, though it reads the key itself. So this must come after
/// an editor was made; with the first [`Watch`] it does, and until then there is nothing to stop politely.
fn take_over() {
    static TAKEN: Once = Once::new();
    let handler = || {
        if !WATCHED.load(Ordering::SeqCst) || INTERRUPTED.swap(true, Ordering::SeqCst) {
            std::process::exit(EXIT_CODE.into());
        }
    };
    // Without a handler Ctrl-C still ends the program, only less politely.
    TAKEN.call_once(|| drop(ctrlc::set_handler(handler)));
}

/// While it lives, a first Ctrl-C only sets a flag.
#[derive(Debug)]
pub(crate) struct Watch(());

impl Watch {
    pub(crate) fn new() -> Self {
        take_over();
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
