//! Ctrl-C: stops what is being computed; pressed again, or when nothing is, it ends the program.
//! SIGTERM and SIGHUP stop it too, and then always end the program: what it was computing is left
//! in good order.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use babyllama::convert::OutputFile;

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
/// The files in the making, under the names that they have until they are kept.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// From now on a signal that ends the program at once removes this file, unless it was kept.
pub(crate) fn remove_when_killed(file: &OutputFile) {
    let Some(path) = file.unfinished_path() else { return };
    let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
    if !unfinished.iter().any(|known| known == path) {
        unfinished.push(path.into());
    }
}

/// What must be done before the program ends at once, since nothing is dropped then.
fn clean_up() {
    for path in &*UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner) {
        // One that was kept isn't there any more.
        let _ = fs::remove_file(path);
    }
    #[cfg(unix)]
    terminal::restore();
}

/// Takes Ctrl-C over, once, and SIGTERM and SIGHUP.
///
/// rustyline takes SIGINT too, for as long as an editor lives, though it reads the key itself. So
/// this must come after an editor was made; with [`at_prompt`] and the first [`Watch`] it does.
fn take_over() {
    static TAKEN: Once = Once::new();
    // It runs in a thread of its own, so it may come late: after what was to be stopped has ended
    // by itself.
    let handler = || {
        if PRESSES.fetch_add(1, Ordering::SeqCst) >= OUTLIVED.load(Ordering::SeqCst) {
            clean_up();
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

    use super::{PRESSES, TERMINATION, WATCHED, clean_up};

    /// While somebody watches, the first such signal is as Ctrl-C. Else, and a second time, it does
    /// what it always does.
    pub(super) fn take_over() {
        let taken = [SIGTERM, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal));
        let Ok(mut signals) = Signals::new(taken) else { return };
        thread::spawn(move || {
            for signal in signals.forever() {
                let before = TERMINATION.swap(signal, Ordering::SeqCst);
                if before != 0 || !WATCHED.load(Ordering::SeqCst) {
                    clean_up();
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

/// A line editor takes a terminal's settings over while it reads, and gives them back when it has a
/// line.
#[cfg(unix)]
mod terminal {
    use std::io;
    use std::sync::{Mutex, PoisonError};

    use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
    use nix::unistd::{getpgrp, tcgetpgrp, write};

    /// What it was when no editor read from it.
    static SETTINGS: Mutex<Option<Termios>> = Mutex::new(None);
    /// Ends the marks around what is pasted, and the line that was typed.
    const LEAVE: &[u8] = b"\x1b[?2004l\n";

    pub(super) fn remember() {
        *SETTINGS.lock().unwrap_or_else(PoisonError::into_inner) = tcgetattr(io::stdin()).ok();
    }

    pub(super) fn restore() {
        let settings = SETTINGS.lock().unwrap_or_else(PoisonError::into_inner);
        // In the background the terminal is another's.
        let is_ours = tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp());
        if let Some(settings) = settings.as_ref().filter(|_| is_ours)
            && tcgetattr(io::stdin()).is_ok_and(|now| now != *settings)
        {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, settings);
            // Past the lock of standard output, which an answer may hold.
            let _ = write(io::stdout(), LEAVE);
        }
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

/// From now on a line editor reads the key itself while nobody watches. What still comes as a
/// signal was meant for the answer that has just ended, and does nothing. Within an answer three
/// end the program, should it hang.
pub(crate) fn at_prompt() {
    #[cfg(unix)]
    terminal::remember();
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
