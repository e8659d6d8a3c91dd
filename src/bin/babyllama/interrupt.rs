//! Ctrl-C: stops what is being computed; pressed again, or when nothing is, it ends the program.
//! SIGTERM and SIGHUP stop it too, and then always end the program: what it was computing is left
//! in good order.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

/// What a shell gives for a program that SIGINT ended.
const EXIT_CODE: u8 = 130;

/// How often it was pressed since the last [`Watch::new`].
static PRESSES: AtomicU32 = AtomicU32::new(0);
/// How many presses the program outlives: none while nobody watches, or any at a prompt.
static OUTLIVED: AtomicU32 = AtomicU32::new(0);
/// Whether a line editor reads the key while nobody watches.
static HAS_PROMPT: AtomicBool = AtomicBool::new(false);

/// Whether somebody watches.
static WATCHED: AtomicBool = AtomicBool::new(false);
/// SIGTERM or SIGHUP, when it has come; 0 before.
static TERMINATION: AtomicI32 = AtomicI32::new(0);

/// Takes Ctrl-C over, once, and SIGTERM and SIGHUP.
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
    TAKEN.call_once(|| {
        drop(ctrlc::set_handler(handler));
        #[cfg(unix)]
        termination::take_over();
    });
}

/// Whether the program is to end, whatever it was about to do next.
pub(crate) fn is_terminated() -> bool {
    TERMINATION.load(Ordering::SeqCst) != 0
}

/// What a shell gives for a program that ended as this one does, after a signal.
pub(crate) fn exit_code() -> u8 {
    match TERMINATION.load(Ordering::SeqCst) {
        0 => EXIT_CODE,
        signal => 128 + signal as u8,
    }
}

#[cfg(unix)]
mod termination {
    use std::sync::atomic::Ordering;
    use std::{fs, thread};

    use signal_hook::consts::{SIGHUP, SIGTERM};
    use signal_hook::iterator::Signals;
    use signal_hook::low_level::emulate_default_handler;

    use super::{PRESSES, TERMINATION, WATCHED};

    /// While somebody watches, the first such signal is as Ctrl-C. Else, and a second time, it does
    /// what it always does.
    pub(super) fn take_over() {
        let taken = [SIGTERM, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal));
        let Ok(mut signals) = Signals::new(taken) else { return };
        thread::spawn(move || {
            for signal in signals.forever() {
                let before = TERMINATION.swap(signal, Ordering::SeqCst);
                if before != 0 || !WATCHED.load(Ordering::SeqCst) {
                    let _ = emulate_default_handler(signal);
                }
                PRESSES.fetch_add(1, Ordering::SeqCst);
            }
        });
    }

    /// Whether whoever started this program had a signal ignored, as `nohup` does. Only Linux
    /// tells.
    fn is_ignored(signal: i32) -> bool {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
    }
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
    WATCHED.store(is_watched, Ordering::SeqCst);
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
        PRESSES.store(u32::from(is_terminated()), Ordering::SeqCst);
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
