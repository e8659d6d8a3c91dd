//! Why a command ended early.

use std::fmt::Display;
use std::io;

use babyllama::ErrorKind;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum CliError {
    /// What went wrong, beginning with the file it went wrong in.
    Error(String),
    /// What is wrong with the arguments.
    Usage(String),
    /// Whoever read the output has seen enough: not an error.
    ReaderGone,
    /// Ctrl-C.
    Interrupted,
}

impl CliError {
    /// An error of a file, or of what stands for one.
    pub(crate) fn of(file: impl Display, reason: impl Display) -> Self {
        Self::Error(format!("{file}: {reason}"))
    }

    /// What a failed write to standard output means.
    pub(crate) fn of_output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::of("standard output", error),
        }
    }
}

impl From<babyllama::Error> for CliError {
    fn from(error: babyllama::Error) -> Self {
        Self::Error(match error.kind() {
            ErrorKind::Exists => format!("{error}: --force replaces it"),
            _ => error.to_string(),
        })
    }
}
