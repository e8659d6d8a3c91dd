//! `--session FILE`: what was read and written, kept for the next time.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use babyllama::convert::OutputFile;
use babyllama::{Error, ErrorKind, Model, Session, SessionOptions};

use crate::error::CliError;
use crate::interrupt::{Watch, is_terminated, remove_when_killed};
use crate::models;
use crate::output::holds_something;

/// The most bytes of messages that are read: a context of a million tokens is some 5 MB.
pub(crate) const MAX_MESSAGES: u64 = 1 << 26;

/// A file that is to hold a session, and messages after it if it is a conversation.
#[derive(Debug)]
pub(crate) struct SessionFile {
    path: PathBuf,
    target: OutputFile,
}

impl SessionFile {
    /// The file that was named, if one was, and the session and the messages that it holds.
    /// Nothing is written before [`save`](Self::save), but what can't be is refused now: the files
    /// that are read meanwhile, and a file that holds something else.
    pub(crate) fn open(
        path: Option<&Path>,
        model: &Model,
        options: SessionOptions,
        read: &[&Path],
    ) -> Result<(Option<Self>, Session, String), CliError> {
        let Some(path) = path else { return Ok((None, model.session_with(options), String::new())) };
        let (session, messages) = if holds_something(path) {
            restore(path, model, options)?
        } else {
            (model.session_with(options), String::new())
        };
        let target = OutputFile::create_apart(path, true, read)?;
        remove_when_killed(&target);
        Ok((Some(Self { path: path.into(), target }), session, messages))
    }

    /// Writes the session, in place of what the file held. The first signal meanwhile waits for it.
    pub(crate) fn save(self, session: &Session, messages: &str) -> Result<(), CliError> {
        let _watch = Watch::new();
        let failed = |e: Error| CliError::of(self.path.display(), e);
        let mut writer = BufWriter::new(self.target);
        session.save(&mut writer).map_err(failed)?;
        writer.write_all(messages.as_bytes()).map_err(|e| failed(e.into()))?;
        writer.into_inner().map_err(|e| failed(e.into_error().into()))?.persist()?;
        if is_terminated() { Err(CliError::Interrupted) } else { Ok(()) }
    }
}

/// The session in a file, and the messages after it.
fn restore(path: &Path, model: &Model, options: SessionOptions) -> Result<(Session, String), CliError> {
    let failed = |e: Error| CliError::of(path.display(), e);
    let mut file = File::open(path).map_err(|e| failed(e.into()))?;
    let session = model.restore(&mut file, options).map_err(|e| match e.kind() {
        ErrorKind::ContextFull { capacity, requested } => {
            let longer = models::LONGER;
            let reason = format!("it holds {requested} tokens, and the context {capacity}; {longer}");
            CliError::of(path.display(), reason)
        }
        _ => failed(e),
    })?;
    let mut messages = String::new();
    file.take(MAX_MESSAGES).read_to_string(&mut messages).map_err(|e| failed(e.into()))?;
    Ok((session, messages))
}
