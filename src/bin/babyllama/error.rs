//! Why a command ended early.

use std::fmt::Display;
use std::io;

use babyllama::ErrorKind;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum CliError {
    /// An error message, which begins with the file's name.
    Error(String),
    /// Invalid arguments.
    Usage(String),
    /// The reader of the output has closed the pipe: not an error.
    ReaderGone,
    /// Ctrl-C.
    Interrupted,
}

impl CliError {
    /// An error in a file or a stream.
    pub(crate) fn of(file: impl Display, reason: impl Display) -> Self {
        Self::Error(format!("{file}: {reason}"))
    }

    /// A failed write to standard output.
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
