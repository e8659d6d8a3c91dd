//! A generation apart from its session and its sampler, so that a caller can run many of them.

use std::fmt;

use super::draft::Drafting;
use super::piece::{Logprobs, Text};
use super::stops::{find_stop, possible_stop};
use super::{Draft, FinishReason, MAX_USUAL_PIECE, Piece, Prompt};
use crate::constraint::{Constrained, Constraint};
use crate::error::{ErrorKind, Result, TokenId};
use crate::logprobs::LogSoftmax;
use crate::model::Model;
use crate::sampler::Sampler;
use crate::session::{Feed, Session, Tail};

/// The most tokens that must come and are read ahead.
const MAX_FORCED: usize = 64;

/// The state of a generation, for callers that run many sessions in a loop of their own:
/// [`feed`](Self::feed) says what the session has to read next, [`next`](Self::next) samples.
/// [`Generate`](super::Generate) is this with a session and a sampler, as an iterator; all that it
/// says of texts, ends and continuing holds here.
///
/// It owns neither session nor sampler: between two calls, whose they are may fork, save or give
/// them up.
///
/// Continuous batching: sessions come and go while one pass reads the weights for all of them.
///
/// ```
/// # use babyllama::{Generation, Model, Sampler, SamplerOptions, Session};
/// # let model = Model::open("models/babyllama.gguf")?;
/// struct Running {
///     session: Session,
///     sampler: Sampler,
///     generation: Generation,
///     text: String,
/// }
/// let mut running = Vec::new();
/// for prompt in ["Once upon a time", "Lily had a cat", "Tom"] {
///     let session = model.session();
///     let generation = Generation::new(&session, prompt)?.max_tokens(20);
///     let sampler = Sampler::new(SamplerOptions::default());
///     running.push(Running { session, sampler, generation, text: String::new() });
/// }
/// let mut finished = Vec::new();
/// while !running.is_empty() {
///     // At most 128 tokens of a prompt in each pass, so that a long one delays nobody.
///     let feeds = running.iter_mut().map(|r| r.generation.feed(&mut r.session, 128));
///     model.forward_together(feeds)?;
///     for mut r in std::mem::take(&mut running) {
///         match r.generation.next(&mut r.session, &mut r.sampler)? {
///             Some(piece) => {
///                 r.text += piece.as_str();
///                 running.push(r);
///             }
///             None => finished.push(r.text),
///         }
///     }
/// }
/// assert_eq!(finished.len(), 3);
/// # Ok::<(), babyllama::Error>(())
/// ```
pub struct Generation {
    /// The session's.
    model: Model,
    prompt: Vec<TokenId>,
    /// The session's position when the prompt began, after the pending token.
    start: usize,
    has_begun: bool,
    max_tokens: usize,
    stops: Vec<String>,
    /// How many of the likeliest tokens each piece lists, if it has log-probabilities at all.
    logprobs: Option<usize>,
    constraint: Option<Constrained>,
    /// Pieces of the tokenizer.
    n_pieces: usize,
    n_generated: usize,
    finished: Option<FinishReason>,
    /// The text before a stop string that was held from an earlier generation.
    early: Option<Piece>,
    drafting: Option<Drafting>,
    /// What the constraint said must come.
    forced: Vec<TokenId>,
}

/// Without the draft.
impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("prompt", &self.prompt)
            .field("max_tokens", &self.max_tokens)
            .field("stops", &self.stops)
            .field("n_generated", &self.n_generated)
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

impl Generation {
    /// Of a prompt that continues a session's text, as [`Session::generate`] says. Feed the session
    /// nothing else until it ends.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// # use babyllama::Generation;
    /// let session = model.session();
    /// assert!(Generation::new(&session, "Once upon a time").is_ok());
    /// let nothing: &[u32] = &[];
    /// assert!(Generation::new(&session, nothing).is_err()); // to continue
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Session::generate`].
    #[allow(single_use_lifetimes, reason = "anonymous lifetimes in impl Trait are unstable")]
    pub fn new<'p>(session: &Session, prompt: impl Into<Prompt<'p>>) -> Result<Self> {
        let tokenizer = session.model().tokenizer().ok_or(ErrorKind::NoTokenizer)?;
        let n_pieces = tokenizer.vocab_size();
        let prompt = match prompt.into() {
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
            model: session.model().clone(),
            prompt,
            start: session.position() + usize::from(session.pending().is_some()),
            has_begun: false,
            max_tokens: usize::MAX,
            stops: Vec::new(),
            logprobs: None,
            constraint: None,
            n_pieces,
            n_generated: 0,
            finished: None,
            early: None,
            drafting: None,
            forced: Vec::new(),
        })
    }

    /// See [`Generate::max_tokens`](super::Generate::max_tokens).
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// # use babyllama::{Generation, Sampler};
    /// # let (mut session, mut sampler) = (model.session(), Sampler::default());
    /// let mut generation = Generation::new(&session, "Once")?.max_tokens(1);
    /// model.forward_together([generation.feed(&mut session, 128)])?;
    /// assert!(generation.next(&mut session, &mut sampler)?.is_some());
    /// assert!(generation.next(&mut session, &mut sampler)?.is_none());
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn max_tokens(mut self, max_tokens: usize) -> Self {
        self.max_tokens = max_tokens;
        self
    }

    /// See [`Generate::stop`](super::Generate::stop).
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// # use babyllama::{FinishReason, Generation, Sampler, SamplerOptions};
    /// # let mut session = model.session();
    /// # let mut sampler = Sampler::new(SamplerOptions::new().temperature(0.0));
    /// let mut generation = Generation::new(&session, "Once upon a")?.stop(" time");
    /// model.forward_together([generation.feed(&mut session, 128)])?;
    /// generation.next(&mut session, &mut sampler)?;
    /// assert_eq!(generation.finish_reason(), Some(FinishReason::StopString(0)));
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.stops.push(text.into());
        self
    }

    /// See [`Generate::logprobs`](super::Generate::logprobs).
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// # use babyllama::{Generation, Sampler};
    /// # let (mut session, mut sampler) = (model.session(), Sampler::default());
    /// let mut generation = Generation::new(&session, "Once")?.logprobs(3);
    /// model.forward_together([generation.feed(&mut session, 128)])?;
    /// let piece = generation.next(&mut session, &mut sampler)?.unwrap();
    /// assert_eq!(piece.top_logprobs().len(), 3);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn logprobs(mut self, n: usize) -> Self {
        self.logprobs = Some(n);
        self
    }

    /// See [`Generate::constrain`](super::Generate::constrain).
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// # use babyllama::{Constraint, Generation, Result, Sampler, TokenId, TokenMask};
    /// # let (mut session, mut sampler) = (model.session(), Sampler::default());
    /// struct Only(TokenId);
    ///
    /// impl Constraint for Only {
    ///     fn allow(&mut self, next: &mut TokenMask) -> Result<()> {
    ///         next.allow(self.0);
    ///         Ok(())
    ///     }
    ///
    ///     fn accept(&mut self, _token: TokenId) -> Result<()> { Ok(()) }
    /// }
    ///
    /// let mut generation = Generation::new(&session, "Once")?.constrain(Only(403));
    /// model.forward_together([generation.feed(&mut session, 128)])?;
    /// assert_eq!(generation.next(&mut session, &mut sampler)?.unwrap().token(), Some(403));
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn constrain(mut self, constraint: impl Constraint + 'static) -> Self {
        self.constraint = Some(Constrained::new(Box::new(constraint), self.n_pieces));
        self
    }

    /// See [`Generate::draft`](super::Generate::draft).
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// # use babyllama::{Generation, PromptLookup, Sampler, SamplerOptions};
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// # let mut session = model.session();
    /// # let mut sampler = Sampler::new(SamplerOptions::new().temperature(0.0));
    /// let mut generation = Generation::new(&session, "Once upon")?.draft(PromptLookup::new());
    /// model.forward_together([generation.feed(&mut session, 128)])?;
    /// assert_eq!(generation.next(&mut session, &mut sampler)?.unwrap(), " a");
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn draft(mut self, draft: impl Draft + 'static) -> Self {
        self.drafting = Some(Drafting::new(Box::new(draft)));
        self
    }

    /// See [`Generate::finish_reason`](super::Generate::finish_reason).
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// # use babyllama::{FinishReason, Generation, Sampler};
    /// # let (mut session, mut sampler) = (model.session(), Sampler::default());
    /// let mut generation = Generation::new(&session, "Once")?.max_tokens(0);
    /// assert_eq!(generation.finish_reason(), None);
    /// model.forward_together([generation.feed(&mut session, 128)])?;
    /// assert_eq!(generation.next(&mut session, &mut sampler)?, None);
    /// assert_eq!(generation.finish_reason(), Some(FinishReason::MaxTokens));
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finished
    }

    /// See [`Generate::n_generated`](super::Generate::n_generated).
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// # use babyllama::{Generation, Sampler};
    /// # let (mut session, mut sampler) = (model.session(), Sampler::default());
    /// let mut generation = Generation::new(&session, "Once")?;
    /// model.forward_together([generation.feed(&mut session, 128)])?;
    /// generation.next(&mut session, &mut sampler)?;
    /// assert_eq!(generation.n_generated(), 1);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn n_generated(&self) -> usize {
        self.n_generated
    }

    /// See [`Generate::held`](super::Generate::held).
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// # use babyllama::{Generation, Sampler, SamplerOptions};
    /// # let mut session = model.session();
    /// # let mut sampler = Sampler::new(SamplerOptions::new().temperature(0.0));
    /// let mut generation = Generation::new(&session, "Once upon")?.stop(" a dog").max_tokens(1);
    /// model.forward_together([generation.feed(&mut session, 128)])?;
    /// assert_eq!(generation.next(&mut session, &mut sampler)?.unwrap(), "");
    /// assert_eq!(generation.held(&session), " a"); // which may become a stop string
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn held<'s>(&self, session: &'s Session) -> &'s str {
        // Before the prompt is fed, it is what an earlier generation held.
        if self.has_begun || self.prompt.is_empty() { &session.tail().held } else { "" }
    }

    /// What the session reads next: of the prompt at most so many tokens, and later the token that
    /// was handed out last, with the draft's guess. Give it to
    /// [`Model::forward_together`](crate::Model::forward_together) with those of other sessions.
    /// It is empty when nothing is to be read, as after the last token.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// # use babyllama::Generation;
    /// let (mut session, prompt) = (model.session(), [1, 403, 407]);
    /// let mut generation = Generation::new(&session, &prompt)?;
    /// model.forward_together([generation.feed(&mut session, 2)])?;
    /// assert_eq!(session.tokens(), [1, 403]);
    /// model.forward_together([generation.feed(&mut session, 2)])?;
    /// assert_eq!(session.tokens(), prompt);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    pub fn feed<'a>(&'a mut self, session: &'a mut Session, at_most: usize) -> Feed<'a> {
        let read = session.position().saturating_sub(self.start);
        if read < self.prompt.len() {
            let end = self.prompt.len().min(read.saturating_add(at_most.max(1)));
            return session.feed(&self.prompt[read..end]);
        }
        if !self.has_begun {
            self.begin(session);
        }
        let is_full = session.position() >= session.capacity();
        if self.finished.is_some() || self.n_generated >= self.max_tokens || is_full {
            return session.feed(&[]).keeping_pending();
        }
        let guess = self.guess(session);
        session.feed(&[]).guessing(guess)
    }

    /// What may follow the pending token: what the constraint says must come, or else what the
    /// draft proposes.
    fn guess(&mut self, session: &Session) -> &[TokenId] {
        self.forced.clear();
        if let Some(constraint) = &mut self.constraint
            && session.pending().is_some_and(|pending| !session.is_guessed(pending))
        {
            constraint.forced(&mut self.forced);
            self.forced.truncate(MAX_FORCED);
        }
        match &mut self.drafting {
            Some(drafting) if self.forced.is_empty() => {
                drafting.guess(session, self.max_tokens - self.n_generated)
            }
            _ => &self.forced,
        }
    }

    /// Samples a token, once the session has read what [`feed`](Self::feed) said, and returns the
    /// text that became certain. An empty piece while the prompt isn't read whole; `None` at the
    /// end.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// # use babyllama::{Generation, Sampler};
    /// # let (mut session, mut sampler) = (model.session(), Sampler::default());
    /// let mut generation = Generation::new(&session, &[1, 403])?;
    /// model.forward_together([generation.feed(&mut session, 1)])?;
    /// assert_eq!(generation.next(&mut session, &mut sampler)?.unwrap(), ""); // not read whole
    /// model.forward_together([generation.feed(&mut session, 1)])?;
    /// let piece = generation.next(&mut session, &mut sampler)?.unwrap();
    /// assert_eq!(piece.token(), session.pending());
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Sampler::sample`] and of the constraint; [`ErrorKind::DifferentModels`].
    pub fn next(&mut self, session: &mut Session, sampler: &mut Sampler) -> Result<Option<Piece>> {
        if !self.model.is_same(session.model()) {
            return Err(ErrorKind::DifferentModels.into());
        }
        if self.finished.is_some() && self.early.is_none() {
            return Ok(None);
        }
        if session.position().saturating_sub(self.start) < self.prompt.len() {
            return Ok(Some(Piece::of_text(Text::new(""))));
        }
        if let Some(drafting) = &mut self.drafting {
            drafting.has_read();
        }
        if !self.has_begun {
            self.begin(session);
        }
        // The prompt joins the text that the penalties count.
        std::mem::take(&mut self.prompt).into_iter().for_each(|token| sampler.accept(token));
        if self.finished.is_some() {
            return Ok(self.early.take().filter(|piece| !piece.as_str().is_empty()));
        }
        if self.n_generated >= self.max_tokens {
            self.finished = Some(FinishReason::MaxTokens);
            return Ok(None);
        }
        if session.pending().is_some() {
            if session.position() >= session.capacity() {
                return Ok(self.finish(session, FinishReason::ContextFull));
            }
            return Ok(Some(Piece::of_text(Text::new("")))); // it isn't read yet
        }
        self.sample(session, sampler)
    }

    fn sample(&mut self, session: &mut Session, sampler: &mut Sampler) -> Result<Option<Piece>> {
        // A padded model has more logits than the tokenizer has pieces: these are never sampled.
        let tokenizer = session.model().tokenizer().ok_or(ErrorKind::NoTokenizer)?;
        let logits = session.logits().ok_or(ErrorKind::EmptyInput)?;
        let softmax = self.logprobs.map(|_| LogSoftmax::new(session.model().isa(), logits)).transpose()?;
        let of_pieces = &logits[..self.n_pieces];
        let token = match &mut self.constraint {
            Some(constraint) => {
                if self.n_generated == 0 {
                    constraint.begin(tokenizer, session.tokens().last().copied())?;
                }
                constraint.sample(sampler, of_pieces)?
            }
            None => sampler.sample(of_pieces)?,
        };
        if tokenizer.is_end(token) {
            return Ok(self.finish(session, FinishReason::EndOfText(token)));
        }
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token)?;
        }
        let logprobs = self.logprobs.zip(softmax);
        let logprobs = logprobs.map(|(n, softmax)| Logprobs::new(&softmax, token, n, self.n_pieces));
        sampler.accept(token);
        self.n_generated += 1;
        if let Some(drafting) = &mut self.drafting {
            drafting.sampled(session.is_guessed(token));
        }
        session.hand_out(token);
        let token = Some(token);
        if let Some(text) = self.stopped(session) {
            return Ok(Some(Piece { token, logprobs, text }));
        }
        let Tail { held, .. } = session.tail_mut();
        let certain = held.len() - possible_stop(held, &self.stops);
        let text = Text::new(&held[..certain]);
        held.drain(..certain);
        Ok(Some(Piece { token, logprobs, text }))
    }

    /// Prepares the decoder that turns tokens into text, when the prompt was read. Without a prompt
    /// that of the generation before stays, and what it held may be a stop string of this one.
    fn begin(&mut self, session: &mut Session) {
        let decoder = session.model().tokenizer().map(|tokenizer| match session.tokens().last() {
            Some(&previous) => tokenizer.decoder_after(previous),
            None => tokenizer.decoder(),
        });
        let tail = session.tail_mut();
        if tail.decoder.is_none() {
            tail.decoder = decoder;
        }
        let longest_stop = self.stops.iter().map(String::len).max().unwrap_or(0);
        tail.held.reserve(longest_stop + MAX_USUAL_PIECE);
        self.has_begun = true;
        self.early = self.stopped(session).map(Piece::of_text);
    }

    /// Ends at the first stop string, if there is one, and returns the text before it. What is
    /// after it stays held.
    fn stopped(&mut self, session: &mut Session) -> Option<Text> {
        let held = &mut session.tail_mut().held;
        let (at, stop) = find_stop(held, &self.stops)?;
        let text = Text::new(&held[..at]);
        held.drain(..at + self.stops[stop].len());
        self.finished = Some(FinishReason::StopString(stop));
        Some(text)
    }

    /// Ends for good, with the text that was held back, if any.
    fn finish(&mut self, session: &mut Session, reason: FinishReason) -> Option<Piece> {
        self.finished = Some(reason);
        let Tail { decoder, held, .. } = session.tail_mut();
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
