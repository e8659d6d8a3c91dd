//! Generation: a session's tokens, sampled one after another, as an iterator of pieces of text.

mod draft;
mod generation;
mod piece;
mod stops;

pub use draft::{Draft, DraftModel, PromptLookup};
pub use generation::Generation;
pub use piece::Piece;
use piece::Text;

use crate::constraint::Constraint;
use crate::error::{Result, TokenId};
use crate::sampler::Sampler;
use crate::session::Session;

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
/// # let model = Model::open("models/babyllama.gguf")?;
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
/// # Ok::<(), babyllama::Error>(())
/// ```
#[derive(Debug)]
pub struct Generate<'a> {
    session: &'a mut Session,
    sampler: &'a mut Sampler,
    generation: Generation,
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
    ///
    /// [`ErrorKind::NoTokenizer`]: crate::ErrorKind::NoTokenizer
    /// [`ErrorKind::EmptyInput`]: crate::ErrorKind::EmptyInput
    /// [`ErrorKind::ContextFull`]: crate::ErrorKind::ContextFull
    /// [`ErrorKind::TokenOutOfRange`]: crate::ErrorKind::TokenOutOfRange
    #[allow(single_use_lifetimes, reason = "anonymous lifetimes in impl Trait are unstable")]
    pub fn generate<'a, 'p>(
        &'a mut self,
        prompt: impl Into<Prompt<'p>>,
        sampler: &'a mut Sampler,
    ) -> Result<Generate<'a>> {
        let generation = Generation::new(self, prompt)?;
        Ok(Generate { session: self, sampler, generation, failed: false })
    }
}

impl Generate<'_> {
    /// Ends after this many tokens. With 0 it feeds the prompt and ends.
    ///
    /// Text that is held back then, and the bytes of an incomplete character, come with the next
    /// generation: see [`Generate`], and [`Generate::held`] for a text that ends here.
    #[must_use]
    pub fn max_tokens(mut self, max_tokens: usize) -> Self {
        self.generation = self.generation.max_tokens(max_tokens);
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
        self.generation = self.generation.stop(text);
        self
    }

    /// Has each piece tell the log-probability of its token, [`Piece::logprob`], and the `n`
    /// likeliest tokens in its place, [`Piece::top_logprobs`]; 0 leaves these out.
    ///
    /// ```
    /// # use babyllama::{Model, Sampler, SamplerOptions};
    /// # let model = Model::open("models/babyllama.gguf")?;
    /// let mut session = model.session();
    /// let mut sampler = Sampler::new(SamplerOptions::default());
    /// for piece in session.generate("Once upon a time", &mut sampler)?.logprobs(3).max_tokens(9) {
    ///     let piece = piece?;
    ///     let likeliest = piece.top_logprobs()[0];
    ///     assert!(piece.logprob().unwrap() <= likeliest.logprob);
    /// }
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn logprobs(mut self, n: usize) -> Self {
        self.generation = self.generation.logprobs(n);
        self
    }

    /// Reads ahead what the draft proposes: the same tokens, faster where it guesses well. See
    /// [`Draft`].
    ///
    /// ```
    /// # use babyllama::{Model, PromptLookup, Sampler, SamplerOptions};
    /// # let model = Model::open("models/babyllama.gguf")?;
    /// let text = |session: &mut babyllama::Session, draft: bool| -> babyllama::Result<String> {
    ///     let mut sampler = Sampler::new(SamplerOptions::default());
    ///     let generate = session.generate("Lily had a cat.", &mut sampler)?.max_tokens(40);
    ///     if draft { generate.draft(PromptLookup::new()).collect() } else { generate.collect() }
    /// };
    /// assert_eq!(text(&mut model.session(), true)?, text(&mut model.session(), false)?);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn draft(mut self, draft: impl Draft + 'static) -> Self {
        self.generation = self.generation.draft(draft);
        self
    }

    /// Lets only what `constraint` allows come next. The text then ends
    /// ([`FinishReason::EndOfText`]) only where the constraint allows a token that ends it.
    ///
    /// The constraint goes with this generation: see [`Constraint`] for one that goes on in the
    /// next. Of several the last one counts.
    #[must_use]
    pub fn constrain(mut self, constraint: impl Constraint + 'static) -> Self {
        self.generation = self.generation.constrain(constraint);
        self
    }

    /// Why it ended; `None` before it does, and after an error.
    #[must_use]
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.generation.finish_reason()
    }

    /// The number of tokens generated, not counting one that ended the text.
    #[must_use]
    pub fn n_generated(&self) -> usize {
        self.generation.n_generated()
    }

    /// Text that isn't handed out yet, because it may be the beginning of a stop string. Where
    /// [`max_tokens`](Self::max_tokens) ends the text for good, this belongs to it.
    #[must_use]
    pub fn held(&self) -> &str {
        self.generation.held(self.session)
    }

    /// What is held back, for a text that no other generation continues.
    pub(crate) fn take_held(&mut self) -> Option<Piece> {
        let held = &mut self.session.tail_mut().held;
        let piece = Piece::of_text(Text::new(held));
        let is_empty = held.is_empty();
        held.clear();
        (!is_empty).then_some(piece)
    }

    /// Feeds what is next, the prompt or the pending token, and samples.
    fn step(&mut self) -> Result<Option<Piece>> {
        self.generation.feed(self.session, usize::MAX).whole()?;
        self.generation.next(self.session, self.sampler)
    }
}

impl Iterator for Generate<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finish_reason().is_some() || self.failed {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        step.transpose()
    }
}

impl std::iter::FusedIterator for Generate<'_> {}
