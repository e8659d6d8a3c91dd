//! The tokens of a rendering.
//!
//! Invariant: only a part that says so becomes a control token: text is encoded as text, whatever
//! it says.

use super::{Part, Template, detect, layouts};
use crate::error::{ErrorKind, Result, TokenId};
use crate::tokenizer::{PieceKind, Tokenizer, is_stripped};

/// The tokens of a rendering.
///
/// Text is encoded as text: the names of control tokens in it stay text. Some files have the tokens
/// that steer a chat as user-defined pieces, which are found in any text; here they aren't. A
/// SentencePiece tokenizer puts its dummy prefix before each text that follows a control token, as
/// llama.cpp does. A control token that the vocabulary lacks is written as text, as the first
/// models that were tuned so had it.
///
/// # Errors
/// [`ErrorKind::Tokenizer`] if the tokenizer has no BOS or EOS and the template needs it.
pub fn encode(parts: &[Part], tokenizer: &Tokenizer) -> Result<Vec<TokenId>> {
    let mut tokens = Vec::new();
    let missing =
        |name| ErrorKind::Tokenizer { reason: format!("it has no {name} token, which the chat needs") };
    let mut writer =
        Writer { tokenizer, text: String::new(), after_text: false, strips: false, tokens: &mut tokens };
    for part in parts {
        match part {
            Part::Begin if tokenizer.adds_bos() => writer.control(tokenizer.bos()),
            Part::Begin => {}
            Part::Bos => writer.control(Some(tokenizer.bos().ok_or_else(|| missing("BOS"))?)),
            Part::Eos => writer.control(Some(tokenizer.eos().ok_or_else(|| missing("EOS"))?)),
            Part::Control(name) => match tokenizer.control(name) {
                Some(token) => writer.control(Some(token)),
                None => writer.text.push_str(name),
            },
            Part::Text(text) => writer.text.push_str(text),
            Part::Cut => writer.control(None),
        }
    }
    writer.control(None);
    Ok(tokens)
}

/// The tokens of a rendering of a whole conversation, with a model that brings this Jinja text, if
/// any. Where that is what the template was detected by, and writes BOS itself, there is one,
/// also if the tokenizer puts none before prompts.
pub(super) fn encode_whole(
    mut parts: Vec<Part>,
    template: Template,
    jinja: Option<&str>,
    tokenizer: &Tokenizer,
) -> Result<Vec<TokenId>> {
    let writes_bos = |jinja: &&str| Template::detect(jinja) == Some(template) && detect::writes_bos(jinja);
    if jinja.filter(writes_bos).is_some()
        && tokenizer.bos().is_some()
        && let Some(begin @ Part::Begin) = parts.first_mut()
    {
        *begin = Part::Bos;
    }
    encode(&parts, tokenizer)
}

/// Turns parts into tokens, each text as a whole.
struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    /// What has been said since the last control token.
    text: String,
    /// Whether `text` goes on from text that is tokens already.
    after_text: bool,
    /// Whether the last control token takes the spaces after it.
    strips: bool,
    tokens: &'a mut Vec<TokenId>,
}

impl Writer<'_> {
    /// Ends the text, and appends a control token.
    fn control(&mut self, token: Option<TokenId>) {
        let strip = token.map(|id| self.tokenizer.strip_of(id)).unwrap_or_default();
        let text = if self.strips { self.text.trim_start_matches(is_stripped) } else { &self.text };
        let text = if strip.left { text.trim_end_matches(is_stripped) } else { text };
        for fragment in without_marks(text, self.tokenizer) {
            if self.after_text {
                self.tokenizer.encode_continued(fragment, self.tokens);
            } else if self.tokens.is_empty() {
                self.tokenizer.encode_into(fragment, self.tokens);
            } else {
                self.tokenizer.encode_after_control(fragment, self.tokens);
            }
            (self.after_text, self.strips) = (true, false);
        }
        self.text.clear();
        if token.is_some() {
            (self.after_text, self.strips) = (false, strip.right);
            self.tokens.extend(token);
        }
    }
}

/// The text in fragments, cut so that no user-defined piece that steers a chat is in any of them.
fn without_marks<'a>(text: &'a str, tokenizer: &Tokenizer) -> Vec<&'a str> {
    let is_user_defined = |name: &str| {
        tokenizer.control(name).is_some_and(|id| tokenizer.kind(id) == Some(PieceKind::UserDefined))
    };
    let present = layouts::MARKS.iter().filter(|mark| text.contains(**mark) && is_user_defined(mark));
    cut(text, &present.copied().collect::<Vec<_>>())
}

/// The text in fragments, none of which has one of the marks in it. Takes time in proportion to the
/// text, however many marks are in it: each place is looked at once.
pub(super) fn cut<'a>(text: &'a str, marks: &[&str]) -> Vec<&'a str> {
    let mut fragments = Vec::new();
    let mut start = 0;
    for (at, _) in text.char_indices().filter(|(_, c)| matches!(c, '<' | '[')) {
        // All marks begin with one of these, a character of one byte: a cut after it parts the
        // mark.
        if marks.iter().any(|mark| text[at..].starts_with(mark)) {
            fragments.push(&text[start..=at]);
            start = at + 1;
        }
    }
    if start < text.len() {
        fragments.push(&text[start..]);
    }
    fragments
}
