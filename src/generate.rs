//! Generation: a session's tokens, sampled one after another, as an iterator of pieces of text.

mod piece;

use crate::error::{ErrorKind, Result, TokenId};
use crate::logprobs::LogSoftmax;
use crate::sampler::Sampler;
use crate::session::{Session, Tail};

pub use piece::Piece;
use piece::{Logprobs, Text};

/// Few pieces have more bytes than this: with capacity for one more, a text is generated without
/// allocations.
const MAX_USUAL_PIECE: usize = 64;

/// What a generation begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Prompt<'a> {
    /// Text, to be encoded with the model's tokenizer.
    Text(&'a str),
    /// Tokens, to be fed as they are.
    Tokens(&'a [TokenId]),
}

impl<'a> From<&'a str> for Prompt<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Prompt<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [TokenId]> for Prompt<'a> {
    fn from(tokens: &'a [TokenId]) -> Self {
        Self::Tokens(tokens)
    }
}

impl<'a> From<&'a Vec<TokenId>> for Prompt<'a> {
    fn from(tokens: &'a Vec<TokenId>) -> Self {
        Self::Tokens(tokens)
    }
}

impl<'a, const N: usize> From<&'a [TokenId; N]> for Prompt<'a> {
    fn from(tokens: &'a [TokenId; N]) -> Self {
        Self::Tokens(tokens)
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model generated this end-of-text token. It isn't shown, and wasn't fed.
    EndOfText(TokenId),
    /// The limit set with [`Generate::max_tokens`] was reached.
    MaxTokens,
    /// The stop string with this index came up. The text ends before it.
    StopString(usize),
    /// The session's context is full.
    ContextFull,
}

/// Generates text: each item is the text that one more token makes.
///
/// The pieces joined are the generated text; one may be empty while a character is incomplete or a
/// stop string may be beginning. The first `next` feeds the prompt, in one call of
/// [`Session::forward`]; before that, nothing has happened. (For progress or a stop in between,
/// [feed](Session::feed) the prompt and generate with an empty one.) A sampled token is fed by the
/// `next` after it. After an error the iterator ends.
///
/// # Continuing
/// However a generation ends or is dropped, the session knows where it was, and one with an empty
/// prompt continues there: with the same sampler, the items of all of them are those of a single
/// generation, and so are the random numbers, wherever the cuts are. What is incomplete at a cut
/// stays with the session until then: the last token, which is [`Session::pending`], the bytes of
/// an incomplete character, and text that may be the beginning of a stop string. A generation with
/// a prompt feeds the pending token and then the prompt, and begins a text of its own.
///
/// ```
/// # use babyllama::{Model, Sampler, SamplerOptions};
/// # fn main() -> babyllama::Result<()> {
/// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
/// let mut whole = String::new();
/// let mut sampler = Sampler::new(SamplerOptions::default());
/// for piece in model.session().generate("Once upon a time", &mut sampler)?.max_tokens(30) {
///     whole += piece?.as_str();
/// }
///
/// let mut parts = String::new();
/// let mut sampler = Sampler::new(SamplerOptions::default());
/// let mut session = model.session();
/// for prompt in ["Once upon a time", "", ""] {
///     for piece in session.generate(prompt, &mut sampler)?.max_tokens(10) {
///         parts += piece?.as_str();
///     }
/// }
/// assert_eq!(parts, whole);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Generate<'a> {
    /// Its tail holds what this generation leaves to the next.
    session: &'a mut Session,
    sampler: &'a mut Sampler,
    /// Fed by the first `next`.
    prompt: Vec<TokenId>,
    has_begun: bool,
    max_tokens: usize,
    stops: Vec<String>,
    /// How many of the likeliest tokens each piece lists, if it has log-probabilities at all.
    logprobs: Option<usize>,
    n_generated: usize,
    finished: Option<FinishReason>,
    failed: bool,
}

impl Session {
    /// Continues a text: feeds the prompt, then samples token after token. See [`Generate`].
    ///
    /// A text is encoded with the tokenizer: at the start of a session with the token that begins a
    /// text, later without it and without SentencePiece's dummy prefix. Tokens (`&[TokenId]`) are
    /// fed as they are. An empty prompt continues the tokens that were fed.
    ///
    /// # Errors
    /// [`ErrorKind::NoTokenizer`]: generation needs one, to turn tokens into text;
    /// [`ErrorKind::EmptyInput`] if there is nothing to continue; [`ErrorKind::ContextFull`] and
    /// [`ErrorKind::TokenOutOfRange`] for the prompt.
    #[allow(single_use_lifetimes, reason = "anonymous lifetimes in impl Trait are unstable")]
    pub fn generate<'a, 'p>(
        &'a mut self,
        prompt: impl Into<Prompt<'p>>,
        sampler: &'a mut Sampler,
    ) -> Result<Generate<'a>> {
        Generate::new(self, prompt.into(), sampler)
    }
}

impl<'a> Generate<'a> {
    fn new(session: &'a mut Session, prompt: Prompt<'_>, sampler: &'a mut Sampler) -> Result<Self> {
        let tokenizer = session.model().tokenizer().ok_or(ErrorKind::NoTokenizer)?;
        let prompt = match prompt {
            Prompt::Tokens(tokens) => tokens.to_vec(),
            Prompt::Text(text) => match session.pending().or(session.tokens().last().copied()) {
                Some(previous) => tokenizer.encode_after(previous, text),
                None => tokenizer.encode_prompt(text),
            },
        };
        if !prompt.is_empty() {
            session.check(&prompt)?;
        } else if session.pending().is_none() && session.logits().is_none() {
            return Err(ErrorKind::EmptyInput.into());
        }
        Ok(Self {
            session,
            sampler,
            prompt,
            has_begun: false,
            max_tokens: usize::MAX,
            stops: Vec::new(),
            logprobs: None,
            n_generated: 0,
            finished: None,
            failed: false,
        })
    }

    /// Ends after this many tokens. With 0 it feeds the prompt and ends.
    ///
    /// Text that is held back then, and the bytes of an incomplete character, come with the next
    /// generation: see [`Generate`], and [`Generate::held`] for a text that ends here.
    #[must_use]
    pub fn max_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = max_tokens;
        self
    }

    /// Ends before this text would come up. May be given several times; an empty one is ignored.
    ///
    /// The token that completes it is the last one generated. Its text after the stop string comes
    /// with the next generation, if that continues the text.
    #[must_use]
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        let text = text.into();
        // The beginning of a stop string, and one more piece.
        self.session.tail_mut().held.reserve(text.len() + MAX_USUAL_PIECE);
        self.stops.push(text);
        self
    }

    /// Has each piece tell the log-probability of its token, [`Piece::logprob`], and the `n`
    /// likeliest tokens in its place, [`Piece::top_logprobs`]; 0 leaves these out.
    ///
    /// ```
    /// # use babyllama::{Model, Sampler, SamplerOptions};
    /// # fn main() -> babyllama::Result<()> {
    /// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
    /// let mut session = model.session();
    /// let mut sampler = Sampler::new(SamplerOptions::default());
    /// for piece in session.generate("Once upon a time", &mut sampler)?.logprobs(3).max_tokens(9) {
    ///     let piece = piece?;
    ///     let likeliest = piece.top_logprobs()[0];
    ///     assert!(piece.logprob().unwrap() <= likeliest.logprob);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn logprobs(mut self, n: usize) -> Self {
        self.logprobs = Some(n);
        self
    }

    /// Why it ended; `None` before it does, and after an error.
    #[must_use]
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finished
    }

    /// The number of tokens generated, not counting one that ended the text.
    #[must_use]
    pub fn n_generated(&self) -> usize {
        self.n_generated
    }

    /// Text that isn't handed out yet, because it may be the beginning of a stop string. Where
    /// [`max_tokens`](Self::max_tokens) ends the text for good, this belongs to it.
    #[must_use]
    pub fn held(&self) -> &str {
        // Before the prompt is fed, it is what an earlier generation held.
        if self.has_begun || self.prompt.is_empty() { &self.session.tail().held } else { "" }
    }

    /// What is held back, for a text that no other generation continues.
    pub(crate) fn take_held(&mut self) -> Option<Piece> {
        let held = &mut self.session.tail_mut().held;
        let piece = Piece::of_text(Text::new(held));
        let is_empty = held.is_empty();
        held.clear();
        (!is_empty).then_some(piece)
    }

    /// Feeds the prompt, and prepares the decoder that turns tokens into text. Without a prompt
    /// that of the generation before stays.
    fn begin(&mut self) -> Result<()> {
        if !self.prompt.is_empty() {
            self.session.forward(&self.prompt)?; // it clears what was held
            self.prompt.iter().for_each(|&token| self.sampler.accept(token));
        }
        if self.session.tail().decoder.is_none() {
            let tokenizer = self.session.model().tokenizer().ok_or(ErrorKind::NoTokenizer)?;
            let decoder = match self.session.tokens().last() {
                Some(&previous) => tokenizer.decoder_after(previous),
                None => tokenizer.decoder(),
            };
            self.session.tail_mut().decoder = Some(decoder);
        }
        self.session.tail_mut().held.reserve(MAX_USUAL_PIECE);
        self.has_begun = true;
        Ok(())
    }

    /// Feeds the pending token, samples the next and returns the text that has become certain.
    fn step(&mut self) -> Result<Option<Piece>> {
        if !self.has_begun {
            self.begin()?;
            // What was held may be a stop string of this generation.
            if let Some(text) = self.stopped() {
                return Ok((!text.as_str().is_empty()).then_some(Piece::of_text(text)));
            }
        }
        if self.n_generated >= self.max_tokens {
            self.finished = Some(FinishReason::MaxTokens);
            return Ok(None);
        }
        if self.session.pending().is_some() {
            if self.session.position() >= self.session.capacity() {
                return Ok(self.finish(FinishReason::ContextFull));
            }
            self.session.forward(&[])?;
        }
        // A padded model has more logits than the tokenizer has pieces: these are never sampled.
        let tokenizer = self.session.model().tokenizer().ok_or(ErrorKind::NoTokenizer)?;
        let logits = self.session.logits().ok_or(ErrorKind::EmptyInput)?;
        let n_pieces = tokenizer.vocab_size();
        let softmax = self.logprobs.map(|_| LogSoftmax::new(logits)).transpose()?;
        let token = self.sampler.sample(&logits[..n_pieces])?;
        if tokenizer.is_end(token) {
            return Ok(self.finish(FinishReason::EndOfText(token)));
        }
        let logprobs = self.logprobs.zip(softmax);
        let logprobs = logprobs.map(|(n, softmax)| Logprobs::new(&softmax, token, n, n_pieces));
        self.sampler.accept(token);
        self.n_generated += 1;
        self.session.hand_out(token);
        let token = Some(token);
        if let Some(text) = self.stopped() {
            return Ok(Some(Piece { token, logprobs, text }));
        }
        let Tail { held, .. } = self.session.tail_mut();
        let certain = held.len() - possible_stop(held, &self.stops);
        let text = Text::new(&held[..certain]);
        held.drain(..certain);
        Ok(Some(Piece { token, logprobs, text }))
    }

    /// Ends at the first stop string, if there is one, and returns the text before it. What is
    /// after it stays held.
    fn stopped(&mut self) -> Option<Text> {
        let held = &mut self.session.tail_mut().held;
        let (at, stop) = find_stop(held, &self.stops)?;
        let text = Text::new(&held[..at]);
        held.drain(..at + self.stops[stop].len());
        self.finished = Some(FinishReason::StopString(stop));
        Some(text)
    }

    /// Ends for good, with the text that was held back, if any.
    fn finish(&mut self, reason: FinishReason) -> Option<Piece> {
        self.finished = Some(reason);
        let Tail { decoder, held, .. } = self.session.tail_mut();
        held.push_str(decoder.take().as_mut().map_or("", |decoder| decoder.finish()));
        let text = match find_stop(held, &self.stops) {
            Some((at, stop)) => {
                self.finished = Some(FinishReason::StopString(stop));
                Text::new(&held[..at])
            }
            None => Text::new(held),
        };
        let is_empty = held.is_empty();
        held.clear();
        (!is_empty).then_some(Piece::of_text(text))
    }
}

impl Iterator for Generate<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished.is_some() || self.failed {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        step.transpose()
    }
}

impl std::iter::FusedIterator for Generate<'_> {}

/// Where the first stop string begins, and its index.
fn find_stop(text: &str, stops: &[String]) -> Option<(usize, usize)> {
    let found = stops.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
    found.filter_map(|(i, stop)| text.find(stop.as_str()).map(|at| (at, i))).min()
}

/// The length of the longest suffix of `text` that is a prefix of some stop string.
fn possible_stop(text: &str, stops: &[String]) -> usize {
    let longest = stops.iter().map(String::len).max().unwrap_or(0);
    let earliest = text.len().saturating_sub(longest);
    let ends = (earliest..text.len()).filter(|&at| text.is_char_boundary(at));
    let mut ends = ends.filter(|&at| stops.iter().any(|stop| stop.starts_with(&text[at..])));
    ends.next().map_or(0, |at| text.len() - at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_may_begin_a_stop_string_is_held() {
        let stops = ["###".to_string(), "</s>".to_string()];
        assert_eq!(possible_stop("a story ##", &stops), 2);
        assert_eq!(possible_stop("a story <", &stops), 1);
        assert_eq!(possible_stop("a story", &stops), 0);
        assert_eq!(possible_stop("é#", &stops), 1);
        assert_eq!(find_stop("x</s>###", &stops), Some((1, 1)));
        assert_eq!(find_stop("x</s", &stops), None);
        assert_eq!(find_stop("x", &[String::new()]), None);
    }
}
