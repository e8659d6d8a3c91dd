//! Chat templates: how a conversation is laid out for a model that was tuned on it.
//!
//! A rendering keeps the tokens that steer the model apart from text, so that what a user types can't become one of
//! them: text is encoded as text, whatever it says.

use crate::error::{ErrorKind, Result, TokenId};
use crate::tokenizer::Tokenizer;

/// How a conversation is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Template {
    /// Llama 2 Chat (arXiv 2307.09288, appendix A.3.3): `[INST] <<SYS>>...<</SYS>> user [/INST] assistant`.
    Llama2,
}

/// A part of a rendered turn.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The token that begins a text.
    Bos,
    /// The token that ends a text.
    Eos,
    /// Text, never a control token.
    Text(String),
}

impl Template {
    /// Lays out a user's turn, up to where the assistant's answer begins. `system` belongs to the first turn; a later
    /// turn first ends the answer before it.
    ///
    /// ```
    /// use babyllama::chat::{Part, Template};
    ///
    /// let parts = Template::Llama2.turn(true, Some("Be brief."), "Hello");
    /// let text = "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello [/INST]".to_string();
    /// assert_eq!(parts, [Part::Bos, Part::Text(text)]);
    /// ```
    #[must_use]
    pub fn turn(self, first: bool, system: Option<&str>, user: &str) -> Vec<Part> {
        let Self::Llama2 = self;
        let user = user.trim();
        let text = match system.filter(|system| first && !system.is_empty()) {
            Some(system) => format!("[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{user} [/INST]"),
            None => format!("[INST] {user} [/INST]"),
        };
        let end = if first { None } else { Some(Part::Eos) };
        end.into_iter().chain([Part::Bos, Part::Text(text)]).collect()
    }
}

/// The tokens of a rendered turn.
///
/// # Errors
/// [`ErrorKind::Tokenizer`] if the tokenizer lacks a token that the template needs.
pub fn encode(parts: &[Part], tokenizer: &Tokenizer) -> Result<Vec<TokenId>> {
    let missing =
        |name| ErrorKind::Tokenizer { reason: format!("it has no {name} token, which the chat needs") };
    let mut tokens = Vec::new();
    for part in parts {
        match part {
            Part::Bos => tokens.push(tokenizer.bos().ok_or_else(|| missing("BOS"))?),
            Part::Eos => tokens.push(tokenizer.eos().ok_or_else(|| missing("EOS"))?),
            Part::Text(text) => tokenizer.encode_into(text, &mut tokens),
        }
    }
    Ok(tokens)
}
