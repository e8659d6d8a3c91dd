//! Standard output and standard error, and text that is safe to show.

use std::borrow::Cow;
use std::env;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::CliError;

/// Whether --quiet was given.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Turns notes and progress bars off.
pub(crate) fn set_quiet(quiet: bool) {
    QUIET.store(quiet, Ordering::Relaxed);
}

fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Writes to standard output and flushes it, so that text appears token by token.
pub(crate) fn print(bytes: &[u8]) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|e| CliError::of_output(&e))
}

/// Writes generated text to standard output.
pub(crate) fn print_text(text: &str) -> Result<(), CliError> {
    print(visible(text).as_bytes())
}

/// Writes the prompt of an input line to the terminal: redirected standard output gets only text.
pub(crate) fn ask(prompt: &str) -> Result<(), CliError> {
    if io::stdout().is_terminal() {
        return print(prompt.as_bytes());
    }
    let _ = write!(io::stderr(), "{prompt}");
    Ok(())
}

/// Writes a line to standard error, unless --quiet was given.
pub(crate) fn note(line: &str) {
    if !is_quiet() {
        tell(line);
    }
}

/// Writes a line to standard error. Failures are ignored: there is nowhere to report them.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{}", visible(line));
}

/// A [`note`] that is dimmed where the terminal can show that.
pub(crate) fn aside(line: &str) {
    let (dim, plain) = if takes_escapes(&io::stderr()) { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    if !is_quiet() {
        let _ = writeln!(io::stderr(), "{dim}{}{plain}", visible(line));
    }
}

/// A progress bar on standard error, where a terminal can show it; hidden elsewhere and by --quiet.
pub(crate) fn progress_bar(template: &str, len: u64) -> ProgressBar {
    let bar = ProgressBar::hidden();
    if takes_escapes(&io::stderr()) && !is_quiet() {
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_length(len);
        bar.set_draw_target(ProgressDrawTarget::stderr());
    }
    bar
}

/// Whether escape sequences may be written to standard output.
pub(crate) fn takes_escapes_on_stdout() -> bool {
    takes_escapes(&io::stdout())
}

/// Whether escape sequences may be written there: it is a terminal that interprets them, and the
/// user hasn't asked for plain text.
pub(crate) fn takes_escapes(to: &impl IsTerminal) -> bool {
    let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    to.is_terminal() && !is_set("NO_COLOR") && !is_dumb
}

/// Whether overwriting a file would lose something. An empty one has nothing to lose: `mktemp`
/// leaves such files.
pub(crate) fn holds_something(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() > 0)
}

/// All of a file, or of standard input for `-`, which must be UTF-8.
pub(crate) fn read_text(file: &Path) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    let (name, read) = if file == Path::new("-") {
        ("standard input".into(), io::stdin().lock().read_to_end(&mut bytes))
    } else {
        (file.to_string_lossy(), File::open(file).and_then(|mut file| file.read_to_end(&mut bytes)))
    };
    read.map_err(|e| CliError::of(&name, e))?;
    String::from_utf8(bytes).map_err(|e| {
        CliError::of(&name, format!("is not UTF-8 from byte {} on", e.utf8_error().valid_up_to()))
    })
}

/// The text without control characters other than white space: as in llama2.c, a model that
/// generates ESC must not control the terminal.
fn visible(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| c.is_control() && !matches!(c, '\t'..='\r');
    if text.contains(hidden) { text.replace(hidden, "").into() } else { text.into() }
}

/// Prints JSON on several lines.
pub(crate) fn print_json(json: &serde_json::Value) -> Result<(), CliError> {
    print(without_controls(&format!("{json:#}\n")).as_bytes())
}

/// JSON on one line, with its newline.
pub(crate) fn json_line(json: &serde_json::Value) -> String {
    without_controls(&format!("{json}\n"))
}

/// JSON without control characters: those that serde leaves unescaped are inside strings.
fn without_controls(json: &str) -> String {
    let hidden = |c: char| c.is_control() && c != '\n';
    let escaped = json.chars().map(|c| if hidden(c) { format!("\\u{:04x}", c as u32) } else { c.into() });
    escaped.collect()
}

/// A count and its noun: "1 token", "2 tokens".
pub(crate) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_lose_their_escape() {
        assert_eq!(visible("a\x1b[2Jb\x07\u{9b}\u{7f}\0c"), "a[2Jbc");
        assert_eq!(visible("a\tb\nc\r\n\u{e9}"), "a\tb\nc\r\n\u{e9}");
    }
}
