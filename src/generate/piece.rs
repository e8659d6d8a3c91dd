//! What a generation hands out.

use std::fmt;

use crate::error::TokenId;
use crate::logprobs::{LogSoftmax, TokenLogprob};

/// One item of a generation: a token and the text that became certain with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    pub(super) token: Option<TokenId>,
    pub(super) logprobs: Option<Logprobs>,
    pub(super) text: Text,
}

/// No log-probability is NaN.
impl Eq for Piece {}

/// What a piece tells of its token.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Logprobs {
    logprob: f64,
    top: Box<[TokenLogprob]>,
}

impl Logprobs {
    /// With the `n` likeliest of the first `n_tokens`.
    pub(super) fn new(softmax: &LogSoftmax<'_>, token: TokenId, n: usize, n_tokens: usize) -> Self {
        Self { logprob: softmax.logprob(token), top: softmax.top(n, n_tokens) }
    }
}

impl Piece {
    /// Without a token.
    pub(crate) fn new(text: &str) -> Self {
        Self::of_text(Text::new(text))
    }

    pub(super) fn of_text(text: Text) -> Self {
        Self { token: None, logprobs: None, text }
    }

    /// The same token with another text.
    pub(crate) fn with_text(self, text: &str) -> Self {
        Self { text: Text::new(text), ..self }
    }

    /// The token; `None` for text that was held back until the end.
    #[must_use]
    pub fn token(&self) -> Option<TokenId> {
        self.token
    }

    /// The log-probability of the token: log-softmax of the model's logits, as they were before any
    /// stage of the sampler, in f64. [`Session::score`](crate::Session::score) gives the same bits.
    ///
    /// `None` without a token, and if [`Generate::logprobs`](crate::Generate::logprobs) wasn't
    /// called.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let (mut session, mut sampler) = (model.session(), babyllama::Sampler::default());
    /// let mut generate = session.generate("Once upon a", &mut sampler)?.logprobs(0);
    /// let piece = generate.next().unwrap()?;
    /// assert!(piece.logprob().unwrap() <= 0.0);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn logprob(&self) -> Option<f64> {
        self.logprobs.as_ref().map(|logprobs| logprobs.logprob)
    }

    /// The likeliest tokens in the place of this one and their log-probabilities, the greatest
    /// first, and of equals the lowest id. The token itself need not be among them.
    ///
    /// There are the `n` that [`Generate::logprobs`](crate::Generate::logprobs) was given, if the
    /// vocabulary has them: ids without a piece, which are never sampled, aren't listed. There are
    /// none where [`logprob`](Self::logprob) is `None`.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// # let mut session = model.session();
    /// let mut sampler = babyllama::Sampler::default();
    /// let mut generate = session.generate("Once upon a", &mut sampler)?.logprobs(3);
    /// let piece = generate.next().unwrap()?;
    /// let likeliest = piece.top_logprobs();
    /// assert_eq!(likeliest.len(), 3);
    /// assert!(likeliest[0].logprob >= piece.logprob().unwrap());
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn top_logprobs(&self) -> &[TokenLogprob] {
        self.logprobs.as_ref().map_or(&[], |logprobs| &logprobs.top)
    }

    /// The text, which may be empty.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text.as_str()
    }
}

impl AsRef<str> for Piece {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq<str> for Piece {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for Piece {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

/// The text that pieces make.
impl FromIterator<Piece> for String {
    fn from_iter<I: IntoIterator<Item = Piece>>(pieces: I) -> Self {
        let mut text = Self::new();
        text.extend(pieces);
        text
    }
}

impl Extend<Piece> for String {
    fn extend<I: IntoIterator<Item = Piece>>(&mut self, pieces: I) {
        pieces.into_iter().for_each(|piece| self.push_str(piece.as_str()));
    }
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A string that needs no allocation if it is short, as nearly all pieces are.
#[derive(Clone)]
pub(super) enum Text {
    Short { len: u8, bytes: [u8; Text::SHORT] },
    Long(Box<str>),
}

impl Text {
    const SHORT: usize = 38;

    pub(super) fn new(text: &str) -> Self {
        if text.len() > Self::SHORT {
            return Self::Long(text.into());
        }
        let mut bytes = [0; Self::SHORT];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Self::Short { len: text.len() as u8, bytes }
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            // These bytes were copied from a str.
            Self::Short { len, bytes } => str::from_utf8(&bytes[..usize::from(*len)]).unwrap_or_default(),
            Self::Long(text) => text,
        }
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Text {}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_texts_are_kept() {
        for n in [0, 1, 37, 38, 39, 200] {
            let text = "é".repeat(n);
            assert_eq!(Text::new(&text).as_str(), text);
        }
    }
}
