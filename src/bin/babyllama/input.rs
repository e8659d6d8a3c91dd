//! Where a conversation's messages come from: a line editor, or lines as they are.

use std::io::{self, BufRead, IsTerminal};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use crate::error::CliError;
use crate::interrupt;
use crate::output::{ask, takes_escapes};

/// Encloses a message of several lines.
const FENCE: &str = "\"\"\"";

/// Messages, read by a thread of its own: so a signal can end the wait for one.
#[derive(Debug)]
pub(crate) struct Input {
    is_typed: bool,
    requests: Sender<()>,
    events: Receiver<Event>,
}

#[derive(Debug)]
enum Event {
    Message(Result<Option<String>, CliError>),
    /// A signal ends the program.
    Leave,
}

impl Input {
    pub(crate) fn new() -> Self {
        let is_typed = io::stdin().is_terminal();
        let (requests, requested) = mpsc::channel();
        let (sender, events) = mpsc::channel();
        // The source stays in its thread: an editor can't change threads everywhere.
        thread::spawn(move || {
            let leave = sender.clone();
            let mut source = Source::new(is_typed, move || drop(leave.send(Event::Leave)));
            while requested.recv().is_ok() {
                let message = match &mut source {
                    Ok(source) => source.next(),
                    Err(error) => Err(CliError::of("terminal", &error)),
                };
                let _ = sender.send(Event::Message(message));
            }
        });
        Self { is_typed, requests, events }
    }

    /// Whether somebody types, so that there are commands.
    pub(crate) fn is_typed(&self) -> bool {
        self.is_typed
    }

    /// The next message, which may have several lines if it is typed; `None` at the end of input.
    pub(crate) fn next(&mut self) -> Result<Option<String>, CliError> {
        let _ = self.requests.send(());
        match self.events.recv() {
            Ok(Event::Message(message)) => message,
            Ok(Event::Leave) => {
                interrupt::restore_terminal();
                Err(CliError::Interrupted)
            }
            Err(_) => Ok(None),
        }
    }
}

enum Source {
    Typed(Box<DefaultEditor>),
    /// Standard input as it is: the lines of a script, or typed at a terminal that doesn't take the
    /// escape sequences of a line editor.
    Plain {
        stdin: io::StdinLock<'static>,
        is_typed: bool,
    },
}

impl Source {
    fn new(is_typed: bool, leave: impl FnOnce() + Send + 'static) -> Result<Self, ReadlineError> {
        let has_editor = is_typed && takes_escapes(&io::stdout());
        let source = if has_editor {
            Self::Typed(Box::new(DefaultEditor::new()?))
        } else {
            Self::Plain { stdin: io::stdin().lock(), is_typed }
        };
        interrupt::at_prompt(has_editor, leave);
        Ok(source)
    }

    /// The next message.
    fn next(&mut self) -> Result<Option<String>, CliError> {
        let Some(mut message) = self.line("> ")? else { return Ok(None) };
        if matches!(self, Self::Plain { is_typed: false, .. }) {
            return Ok(Some(message));
        }
        if let Some(begin) = message.trim_start().strip_prefix(FENCE) {
            message = begin.into();
            while !message.contains(FENCE)
                && let Some(line) = self.line(". ")?
            {
                message = message + "\n" + &line;
            }
            message.truncate(message.find(FENCE).unwrap_or(message.len()));
        } else {
            while message.ends_with('\\') {
                message.pop();
                message = message + "\n" + &self.line(". ")?.unwrap_or_default();
            }
        }
        if let Self::Typed(editor) = self {
            editor.add_history_entry(&message).map_err(terminal)?;
        }
        Ok(Some(message))
    }

    /// The next line, without its end.
    fn line(&mut self, prompt: &str) -> Result<Option<String>, CliError> {
        match self {
            Self::Typed(editor) => match editor.readline(prompt) {
                Ok(line) => Ok(Some(line)),
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
                Err(error) => Err(terminal(error)),
            },
            Self::Plain { stdin, is_typed } => {
                if *is_typed {
                    ask(prompt)?;
                }
                let mut line = Vec::new();
                let n = stdin.read_until(b'\n', &mut line).map_err(|e| CliError::of("standard input", e))?;
                let line = String::from_utf8(line)
                    .map_err(|_| CliError::of("standard input", "a line is not UTF-8"))?;
                let line = line.strip_suffix('\n').unwrap_or(&line);
                Ok((n > 0).then(|| line.strip_suffix('\r').unwrap_or(line).to_string()))
            }
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn terminal(error: ReadlineError) -> CliError {
    CliError::of("terminal", error)
}
