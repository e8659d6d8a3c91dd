//! Ctrl-C: stops what is being computed; pressed again, or when nothing is, it ends the program.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// What a shell gives for a program that SIGINT ended.
pub(crate) const EXIT_CODE: u8 = 130;

/// How often it was pressed since the last [`Watch::new`].
static PRESSES: AtomicU32 = AtomicU32::new(0);
/// How many presses the program outlives: none while nobody watches, or any at a prompt.
static OUTLIVED: AtomicU32 = AtomicU32::new(0);
/// Whether a line editor reads the key while nobody watches.
static HAS_PROMPT: AtomicBool = AtomicBool::new(false);

/// Takes Ctrl-C over, once. SIGTERM and SIGHUP stay what they are: whoever sends them wants the program gone.
///
/// rustyline takes SIGINT too, for as long as an editor lives, though it reads the key itself. So this must come after
/// an editor was made; with [`at_prompt`] and the first [`Watch`] it does.
fn take_over() {
    static TAKEN: Once = Once::new();
    // It runs in a thread of its own, so it may come late: after what was to be stopped has ended by itself.
    let handler = || {
        if PRESSES.fetch_add(1, Ordering::SeqCst) >= OUTLIVED.load(Ordering::SeqCst) {
            std::process::exit(EXIT_CODE.into());
        }
    };
    // Without a handler Ctrl-C still ends the program, only less politely.
    TAKEN.call_once(|| drop(ctrlc::set_handler(handler)));
}

/// Sets how many presses the program outlives while somebody watches, or nobody does.
fn watched(is_watched: bool) {
    let outlived = match (is_watched, HAS_PROMPT.load(Ordering::SeqCst)) {
        (true, false) => 1,
        (true, true) => 2,
        (false, false) => 0,
        (false, true) => u32::MAX,
    };
    OUTLIVED.store(outlived, Ordering::SeqCst);
}

/// From now on a line editor reads the key itself while nobody watches. What still comes as a signal was meant for the
/// answer that has just ended, and does nothing. Within an answer three end the program, should it hang.
pub(crate) fn at_prompt() {
    HAS_PROMPT.store(true, Ordering::SeqCst);
    watched(false);
    take_over();
}

/// While it lives, a first Ctrl-C only sets a flag.
#[derive(Debug)]
pub(crate) struct Watch(());

impl Watch {
    pub(crate) fn new() -> Self {
        take_over();
        PRESSES.store(0, Ordering::SeqCst);
        watched(true);
        Self(())
    }

    /// Whether Ctrl-C was pressed since [`Watch::new`].
    #[allow(clippy::unused_self, reason = "only who watches may ask")]
    pub(crate) fn interrupted(&self) -> bool {
        PRESSES.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        watched(false);
    }
}
