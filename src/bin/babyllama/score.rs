//! `babyllama score`: how likely a model holds each token of a text to be.

use std::fmt::Write as _;

use babyllama::{PieceKind, Score, TokenId, Tokenizer};
use serde_json::json;

use crate::commands::ScoreArgs;
use crate::error::CliError;
use crate::models;
use crate::output::{count, json_line, note, print, read_text};

/// Tokens whose lines are printed together.
const PART: usize = 128;

pub(crate) fn run(args: &ScoreArgs) -> Result<(), CliError> {
    let options = args.engine.model_options(args.tokenizer.path.as_deref());
    let model = models::open(&args.model, &options)?;
    let tokenizer = models::tokenizer(&model, &args.model)?;
    let tokens = tokenizer.encode_prompt(&read_text(&args.file)?);
    let mut session = model.session_with(args.engine.session_options());
    models::check_context(&session, tokens.len())?;

    let mut total = 0.0;
    for part in tokens.chunks(PART) {
        let scores = session.score(part)?;
        total += scores.iter().map(|score| score.logprob).sum::<f64>();
        let lines = part.iter().zip(&scores).map(|(&token, score)| match args.json {
            true => json_line(&to_json(tokenizer, token, score)),
            false => format!("{token}\t{}\t{:.6}\n", escaped(text(tokenizer, token)), score.logprob),
        });
        print(lines.collect::<String>().as_bytes())?;
    }
    let predicted = tokens.len().saturating_sub(1); // the first is given
    let mean = if predicted > 0 { format!(", mean {:.4}", total / predicted as f64) } else { String::new() };
    note(&format!("{} predicted: total {total:.4}{mean}", count(predicted, "token")));
    Ok(())
}

fn to_json(tokenizer: &Tokenizer, token: TokenId, score: &Score) -> serde_json::Value {
    let text = String::from_utf8_lossy(text(tokenizer, token));
    json!({ "id": token, "text": text, "logprob": score.logprob, "is_greatest": score.is_greatest })
}

/// A token's text, or the name of a control token.
fn text(tokenizer: &Tokenizer, token: TokenId) -> &[u8] {
    match tokenizer.kind(token) {
        Some(PieceKind::Control) => tokenizer.piece(token).unwrap_or_default(),
        _ => tokenizer.bytes(token),
    }
}

/// Text that stays on its line, in its column: what would leave them, backslashes and bytes that
/// are no UTF-8 are escaped.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' | '\u{2028}' | '\u{2029}' => text.extend(c.escape_default()),
                c if c.is_control() => text.extend(c.escape_default()),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}"); // a String takes everything
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_text_stays_on_its_line() {
        assert_eq!(escaped(b" a\tb\r\n\\ \x1b"), r" a\tb\r\n\\ \u{1b}");
        assert_eq!(escaped("caf\u{e9} \u{2028}\u{9b}\u{1f999}\"'".as_bytes()), "café \\u{2028}\\u{9b}🦙\"'");
        assert_eq!(escaped(b"\xc3 \xf0\x9f"), r"\xc3 \xf0\x9f");
    }
}
