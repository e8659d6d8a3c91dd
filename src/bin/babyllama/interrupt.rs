//! Signals. Ctrl-C stops the current computation; pressed again, or without a computation, it ends
//! the program. SIGTERM and SIGHUP stop the computation too, and then always end the program, with
//! unfinished files removed and the terminal restored. Where a conversation waits for input, it is
//! told first, so that it can be saved.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use babyllama::convert::OutputFile;

/// The exit code that shells report for a program ended by SIGINT.
const EXIT_CODE: u8 = 130;

/// Number of Ctrl-C presses since the last [`Watch::new`].
static PRESSES: AtomicU32 = AtomicU32::new(0);
/// The number of presses that don't end the program: none without a [`Watch`], any number at a
/// prompt.
static TOLERATED: AtomicU32 = AtomicU32::new(0);
/// Whether a line editor reads the key while there is no [`Watch`].
static HAS_PROMPT: AtomicBool = AtomicBool::new(false);

/// Whether there is a [`Watch`].
static WATCHED: AtomicBool = AtomicBool::new(false);
/// SIGTERM or SIGHUP once received; 0 before.
static TERMINATION: AtomicI32 = AtomicI32::new(0);
/// Told once that a signal ends the program, so that it ends by itself.
static LEAVE: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);
/// Files being written, under their temporary names.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Registers a file to be removed if a signal ends the program before the file is complete.
pub(crate) fn remove_when_killed(file: &OutputFile) {
    let Some(path) = file.unfinished_path() else { return };
    let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
    if !unfinished.iter().any(|known| known == path) {
        unfinished.push(path.into());
    }
}

/// Cleans up before the program exits at once, which runs no destructors.
fn clean_up() {
    for path in &*UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner) {
        // A completed file no longer has this name.
        let _ = fs::remove_file(path);
    }
    restore_terminal();
}

/// Gives the terminal the settings that it had before a line editor changed them.
pub(crate) fn restore_terminal() {
    #[cfg(unix)]
    terminal::restore();
}

/// Has the program end by itself, if it waits for input or will soon. A second time it doesn't: it
/// may hang.
fn leaves() -> bool {
    let leave = LEAVE.lock().unwrap_or_else(PoisonError::into_inner).take();
    leave.map(|leave| leave()).is_some()
}

/// Installs the handlers of Ctrl-C, SIGTERM and SIGHUP, once.
///
/// rustyline handles SIGINT too while an editor lives, though it reads the key itself. So this must
/// run after an editor was made, as it does from [`at_prompt`] and the first [`Watch`].
fn install() {
    static INSTALLED: Once = Once::new();
    // It runs in a thread of its own, perhaps only after the computation has ended by itself.
    let handler = || {
        let is_last = PRESSES.fetch_add(1, Ordering::SeqCst) >= TOLERATED.load(Ordering::SeqCst);
        if is_last && (WATCHED.load(Ordering::SeqCst) || !leaves()) {
            clean_up();
            std::process::exit(EXIT_CODE.into());
        }
    };
    // Without a handler Ctrl-C still ends the program, but without cleaning up.
    INSTALLED.call_once(|| {
        drop(ctrlc::set_handler(handler));
        #[cfg(unix)]
        termination::install();
    });
}

/// Whether SIGTERM or SIGHUP has asked the program to end.
pub(crate) fn is_terminated() -> bool {
    TERMINATION.load(Ordering::SeqCst) != 0
}

/// The exit code that shells report for the signal received, with which the program now ends.
pub(crate) fn exit_code() -> u8 {
    restore_terminal(); // the editor may have begun a line after the signal
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

    use super::{PRESSES, TERMINATION, WATCHED, clean_up, leaves};

    /// While there is a [`super::Watch`], the first such signal acts like Ctrl-C; while a
    /// conversation waits for input, it ends it. Otherwise, and the second time, it has its default
    /// effect.
    pub(super) fn install() {
        let taken = [SIGTERM, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal));
        let Ok(mut signals) = Signals::new(taken) else { return };
        thread::spawn(move || {
            for signal in signals.forever() {
                let before = TERMINATION.swap(signal, Ordering::SeqCst);
                if before != 0 || !(WATCHED.load(Ordering::SeqCst) || leaves()) {
                    clean_up();
                    let _ = emulate_default_handler(signal);
                }
                PRESSES.fetch_add(1, Ordering::SeqCst);
            }
        });
    }

    /// Whether the parent process made this one ignore a signal, as `nohup` does. Only Linux tells.
    fn is_ignored(signal: i32) -> bool {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
    }
}

/// A line editor changes the terminal's settings while it reads a line; a signal in between must
/// restore them.
#[cfg(unix)]
mod terminal {
    use std::io;
    use std::sync::{Mutex, PoisonError};

    use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
    use nix::unistd::{getpgrp, tcgetpgrp, write};

    /// The settings before an editor changed them.
    static SETTINGS: Mutex<Option<Termios>> = Mutex::new(None);
    /// Turns bracketed paste off, and ends the line that was being typed.
    const LEAVE: &[u8] = b"\x1b[?2004l\n";

    pub(super) fn remember() {
        *SETTINGS.lock().unwrap_or_else(PoisonError::into_inner) = tcgetattr(io::stdin()).ok();
    }

    pub(super) fn restore() {
        let settings = SETTINGS.lock().unwrap_or_else(PoisonError::into_inner);
        // In the background the terminal belongs to another process.
        let is_ours = tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp());
        if let Some(settings) = settings.as_ref().filter(|_| is_ours)
            && tcgetattr(io::stdin()).is_ok_and(|now| now != *settings)
        {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, settings);
            // Not through Rust's stdout, whose lock may be held by the thread that prints.
            let _ = write(io::stdout(), LEAVE);
        }
    }
}

/// Sets the number of presses that don't end the program, with and without a [`Watch`].
fn watched(is_watched: bool) {
    let tolerated = match (is_watched, HAS_PROMPT.load(Ordering::SeqCst)) {
        (true, false) => 1,
        (true, true) => 2,
        (false, false) => 0,
        (false, true) => u32::MAX,
    };
    TOLERATED.store(tolerated, Ordering::SeqCst);
    WATCHED.store(is_watched, Ordering::SeqCst);
}

/// From now on input is waited for while there is no [`Watch`], and a signal that ends the program
/// calls `leave` then.
///
/// A line editor reads the key of Ctrl-C itself. A signal that still arrives was meant for the
/// reply that has just ended, and does nothing. During a reply the third press ends the program, in
/// case it hangs.
pub(crate) fn at_prompt(has_editor: bool, leave: impl FnOnce() + Send + 'static) {
    *LEAVE.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(leave));
    if has_editor {
        #[cfg(unix)]
        terminal::remember();
        HAS_PROMPT.store(true, Ordering::SeqCst);
        watched(false);
    }
    install();
}

/// While it lives, the first Ctrl-C only sets a flag.
#[derive(Debug)]
pub(crate) struct Watch(());

impl Watch {
    pub(crate) fn new() -> Self {
        install();
        PRESSES.store(u32::from(is_terminated()), Ordering::SeqCst);
        watched(true);
        Self(())
    }

    /// Whether Ctrl-C was pressed since [`Watch::new`].
    #[allow(clippy::unused_self, reason = "there is an answer only while a Watch lives")]
    pub(crate) fn interrupted(&self) -> bool {
        PRESSES.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        watched(false);
    }
}
