//! A session: one text being read and written, with its key and value cache.

mod embed;
mod feed;
mod options;
mod pass;
mod save;
mod score;
mod together;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use embed::Pooling;
pub use feed::Feed;
pub use options::SessionOptions;
use pass::{Results, Wanted};
pub use score::Score;

use crate::error::{ErrorKind, Result, TokenId};
use crate::kv_cache::KvCache;
use crate::model::Model;
use crate::tokenizer::Decoder;

impl Model {
    /// A new session with an empty context as long as the model was made for.
    #[must_use]
    pub fn session(&self) -> Session {
        self.session_with(SessionOptions::default())
    }

    /// A new session with options.
    #[must_use]
    pub fn session_with(&self, options: SessionOptions) -> Session {
        Session::new(self.clone(), options)
    }
}

/// One text: the tokens fed so far, and their keys and values.
///
/// [`Session::generate`] leaves its last token pending: it belongs to the text, but isn't fed
/// before the text goes on. Whatever feeds the session feeds it first. Only [`Session::truncate`]
/// and [`Session::keep_prefix`] take it back.
///
/// If all layers of a model have a [window](crate::Config::sliding_window) and the context is much
/// longer, keys and values that are out of sight are let go: the memory doesn't grow with the text.
/// To go back by up to 512 tokens, or an eighth of the window, costs nothing. After going further
/// back the next call that feeds tokens reads the text up to there again: the same bits, after some
/// time. Memory for a long text comes as it is read then, so when there is none, tokens of passes
/// that were complete stay fed.
///
/// ```
/// # let model = babyllama::Model::open("models/babyllama.gguf")?;
/// let mut session = model.session();
/// let logits = session.forward(&[1, 403, 407])?; // prefill three tokens
/// assert_eq!(logits.len(), model.config().vocab_size);
/// session.forward(&[261])?;                      // decode one more
/// session.truncate(3);                           // and take it back
/// assert_eq!(session.position(), 3);
/// # Ok::<(), babyllama::Error>(())
/// ```
pub struct Session {
    model: Model,
    cache: KvCache,
    /// What was fed; its length is the position.
    tokens: Vec<TokenId>,
    /// How many of them the cache has: all, except after going back to where the window is gone.
    n_cached: usize,
    capacity: usize,
    /// What was computed of the last of them.
    results: Results,
    tail: Tail,
    cancel: Option<Arc<AtomicBool>>,
}

/// Where a generation left the text. The next one continues it as if there had been no end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail {
    /// The token that was handed out last, if it isn't fed yet.
    pub(crate) pending: Option<TokenId>,
    /// The decoder after that token, which may hold the first bytes of a character. `None`: no
    /// generation came last.
    pub(crate) decoder: Option<Decoder>,
    /// Decoded text that wasn't handed out, since it may be the beginning of a stop string.
    pub(crate) held: String,
}

impl Tail {
    fn clear(&mut self) {
        self.pending = None;
        self.decoder = None;
        self.held.clear();
    }
}

/// Without the weights and the cache.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("model", &self.model)
            .field("position", &self.position())
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

impl Session {
    fn new(model: Model, options: SessionOptions) -> Self {
        let capacity = options.context_length.unwrap_or(model.config().max_seq_len);
        let cache = KvCache::new(model.config(), capacity, options.cache_dtype);
        Self {
            model,
            cache,
            tokens: Vec::new(),
            n_cached: 0,
            capacity,
            results: Results::default(),
            tail: Tail::default(),
            cancel: None,
        }
    }

    /// The model.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// assert_eq!(model.session().model().config().dim, 128);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The number of tokens fed so far. One that is [pending](Self::pending) isn't counted.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let mut session = model.session();
    /// session.forward(&[1, 403])?;
    /// assert_eq!(session.position(), 2);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn position(&self) -> usize {
        self.tokens.len()
    }

    /// The number of tokens that can be fed in all.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let options = babyllama::SessionOptions::new().context_length(2);
    /// let mut session = model.session_with(options);
    /// assert_eq!(session.capacity(), 2);
    /// session.forward(&[1, 403])?;
    /// assert!(session.forward(&[407]).is_err());
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The tokens fed so far.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let mut session = model.session();
    /// session.forward(&[1, 403])?;
    /// session.forward(&[407])?;
    /// assert_eq!(session.tokens(), [1, 403, 407]);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// The token that a generation handed out last, while it isn't fed: whatever feeds the session
    /// next feeds it first.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// # let mut sampler = babyllama::Sampler::default();
    /// let mut session = model.session();
    /// let piece = session.generate(&[1, 403], &mut sampler)?.next().unwrap()?;
    /// assert_eq!((session.tokens(), session.pending()), (&[1, 403][..], piece.token()));
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn pending(&self) -> Option<TokenId> {
        self.tail.pending
    }

    /// The logits that follow the last token fed: (`vocab_size`). `None` if nothing was fed since
    /// the start or since [`Session::truncate`]. A token that is [pending](Self::pending) was
    /// chosen by them.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let mut session = model.session();
    /// let fed = session.forward(&[1, 403])?.to_vec();
    /// assert_eq!(session.logits(), Some(&fed[..]));
    /// session.truncate(1);
    /// assert_eq!(session.logits(), None);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn logits(&self) -> Option<&[f32]> {
        self.results.last_logits(self.model.config())
    }

    /// The logits of all tokens that the last call fed, (n, `vocab_size`), if it wanted them:
    /// [`Session::forward_all`], a step of [`Feed::all_logits`], or
    /// [`Model::forward_together`] with such a feed. After another call, those of
    /// [`Session::logits`].
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let (mut one, mut other) = (model.session(), model.session());
    /// model.forward_together([one.feed(&[1, 403]).all_logits(), other.feed(&[1])])?;
    /// assert_eq!(one.all_logits(), Some(model.session().forward_all(&[1, 403])?));
    /// assert_eq!(other.all_logits(), other.logits());
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn all_logits(&self) -> Option<&[f32]> {
        self.results.wanted_logits(self.model.config())
    }

    /// Feeds tokens after those fed before and returns the logits of the last: (`vocab_size`).
    ///
    /// A token that is [pending](Self::pending) goes first; it alone is fed if there are no others.
    /// A prompt may be fed in one call, token by token, or in [steps](Self::feed) with progress;
    /// all give the same bits. After the first call, calls with no more tokens than the longest
    /// before allocate nothing until the cache has to grow, which doubles it.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let (mut whole, mut parts) = (model.session(), model.session());
    /// parts.forward(&[1, 403])?;
    /// assert_eq!(parts.forward(&[407])?, whole.forward(&[1, 403, 407])?);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::EmptyInput`], [`ErrorKind::TokenOutOfRange`], [`ErrorKind::ContextFull`],
    /// [`ErrorKind::OutOfMemory`], and [`ErrorKind::ThreadPool`] if the model's threads, which
    /// start with its first pass, can't be had; nothing was fed then.
    pub fn forward(&mut self, tokens: &[TokenId]) -> Result<&[f32]> {
        self.forward_guessing(tokens, &[])
    }

    /// Feeds tokens as [`Session::forward`] does, and reads in the same pass what may be fed next.
    ///
    /// If the tokens fed next begin with the guess, that part costs nothing: its logits are there.
    /// Nothing else can be observed: position, tokens, forks and results are those of a session
    /// without guesses. A guess is cut where the context ends, or where a token isn't the model's,
    /// and it is gone once other tokens are fed.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let (mut session, mut plain) = (model.session(), model.session());
    /// session.forward_guessing(&[1, 403], &[407, 261])?;
    /// let logits = session.forward(&[407])?; // no pass
    /// assert_eq!(logits, plain.forward(&[1, 403, 407])?);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Session::forward`].
    pub fn forward_guessing(&mut self, tokens: &[TokenId], guess: &[TokenId]) -> Result<&[f32]> {
        self.check(tokens)?;
        let rows = match self.tail.pending {
            Some(pending) if tokens.is_empty() => self.run_passes(&[pending], guess, Wanted::Last)?,
            Some(pending) => {
                // In one pass, which takes hardly longer than one of the pending token alone.
                let mut all = Vec::with_capacity(1 + tokens.len());
                all.push(pending);
                all.extend_from_slice(tokens);
                self.run_passes(&all, guess, Wanted::Last)?
            }
            None if tokens.is_empty() => return Err(ErrorKind::EmptyInput.into()),
            None => self.run_passes(tokens, guess, Wanted::Last)?,
        };
        Ok(self.results.logits(rows, self.model.config()))
    }

    /// As [`Session::forward`], but returns the logits of every one of `tokens`: (`n_tokens`,
    /// `vocab_size`).
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let (mut session, mut other) = (model.session(), model.session());
    /// let rows = session.forward_all(&[1, 403])?;
    /// let (first, last) = rows.split_at(model.config().vocab_size);
    /// assert_eq!(first, other.forward(&[1])?);
    /// assert_eq!(last, other.forward(&[403])?);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Session::forward`].
    pub fn forward_all(&mut self, tokens: &[TokenId]) -> Result<&[f32]> {
        self.feed_all(tokens, &[])
    }

    /// As [`Session::forward_all`], with a guess.
    fn feed_all(&mut self, tokens: &[TokenId], guess: &[TokenId]) -> Result<&[f32]> {
        self.feed_pending_before(tokens)?;
        let rows = self.run_passes(tokens, guess, Wanted::All)?;
        Ok(self.results.logits(rows, self.model.config()))
    }

    /// Checks and reserves all, then feeds the pending token, before tokens whose results are all
    /// wanted.
    fn feed_pending_before(&mut self, tokens: &[TokenId]) -> Result<()> {
        if tokens.is_empty() {
            return Err(ErrorKind::EmptyInput.into());
        }
        self.check(tokens)?;
        self.reserve_all(tokens.len())?;
        if let Some(pending) = self.tail.pending {
            self.run_passes(&[pending], &[], Wanted::Last)?;
        }
        Ok(())
    }

    /// While the flag is true, passes end between layers with [`ErrorKind::Cancelled`], in less
    /// time than one layer takes. Tokens of passes that were complete stay fed, and the session can
    /// go on when the flag is false again. Forks made later share it.
    ///
    /// ```
    /// # use babyllama::ErrorKind;
    /// # use std::sync::{Arc, atomic::{AtomicBool, Ordering}};
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let stop = Arc::new(AtomicBool::new(false));
    /// let mut session = model.session();
    /// session.cancel_on(Arc::clone(&stop)); // another thread has `stop`
    /// session.forward(&[1, 403])?;
    /// stop.store(true, Ordering::Relaxed);
    /// let error = session.forward(&[407]).unwrap_err();
    /// assert!(matches!(error.kind(), ErrorKind::Cancelled));
    /// assert_eq!(session.tokens(), &[1, 403]);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    pub fn cancel_on(&mut self, flag: Arc<AtomicBool>) {
        self.cancel = Some(flag);
    }

    /// Bytes of memory that the session holds: keys and values, tokens and results. What it shares
    /// with forks counts in each of them, and pages that aren't written yet count too.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let mut session = model.session();
    /// let before = session.memory_used();
    /// session.forward(&[1, 403])?;
    /// assert!(session.memory_used() > before);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn memory_used(&self) -> usize {
        self.cache.bytes() + self.tokens.capacity() * size_of::<TokenId>() + self.results.bytes()
    }

    /// Forgets all tokens except the first `position`, and a token that is
    /// [pending](Self::pending). `truncate(session.position())` forgets only the pending one.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let mut session = model.session();
    /// session.forward(&[1, 403, 407])?;
    /// session.truncate(2);
    /// assert_eq!(session.tokens(), [1, 403]);
    /// assert_eq!(session.forward(&[261])?, model.session().forward(&[1, 403, 261])?);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    pub fn truncate(&mut self, position: usize) {
        if position <= self.tokens.len() {
            self.tail.clear();
        }
        if position < self.tokens.len() {
            self.tokens.truncate(position);
            self.n_cached = self.n_cached.min(position);
            self.results.clear();
        }
    }

    /// Forgets everything except the longest prefix that the session shares with `tokens`, without
    /// the last of them, and returns its length `n`: feed `&tokens[n..]`, and the session has read
    /// exactly `tokens`, none of them twice.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let mut session = model.session();
    /// session.forward(&[1, 403, 407, 261])?;
    /// let tokens = [1, 403, 407, 315, 9];
    /// let n = session.keep_prefix(&tokens);
    /// assert_eq!(n, 3);
    /// session.forward(&tokens[n..])?;
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    pub fn keep_prefix(&mut self, tokens: &[TokenId]) -> usize {
        let n = self.shared_prefix(tokens);
        self.truncate(n);
        n
    }

    /// The number of tokens that [`Session::keep_prefix`] would keep: to find the session that has
    /// read most of a text already.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let (mut one, mut other) = (model.session(), model.session());
    /// model.forward_together([one.feed(&[1, 403, 407]), other.feed(&[1, 261])])?;
    /// assert_eq!(one.shared_prefix(&[1, 403, 261]), 2);
    /// assert_eq!(other.shared_prefix(&[1, 403, 261]), 1);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn shared_prefix(&self, tokens: &[TokenId]) -> usize {
        let before_last = &tokens[..tokens.len().saturating_sub(1)];
        self.tokens.iter().zip(before_last).take_while(|(held, token)| held == token).count()
    }

    /// Where the last generation left the text.
    pub(crate) fn tail(&self) -> &Tail {
        &self.tail
    }

    pub(crate) fn tail_mut(&mut self) -> &mut Tail {
        &mut self.tail
    }

    /// Makes the token that a generation hands out the pending one, and adds its text to what is
    /// held.
    pub(crate) fn hand_out(&mut self, token: TokenId) {
        self.tail.pending = Some(token);
        if let (Some(decoder), Some(tokenizer)) = (&mut self.tail.decoder, self.model.tokenizer()) {
            self.tail.held.push_str(decoder.push(tokenizer, token));
        }
    }

    /// An independent session that has read the same tokens and has the same pending token. They
    /// share the keys and values of what was read: a fork takes no time, and the first to go on
    /// copies at most 63 positions.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let mut question = model.session();
    /// question.forward(&[1, 403, 407])?;
    /// let mut answers = Vec::new();
    /// for token in [261, 315] {
    ///     let mut answer = question.fork()?;
    ///     answers.push(answer.forward(&[token])?.to_vec());
    /// }
    /// assert_ne!(answers[0], answers[1]);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`].
    pub fn fork(&self) -> Result<Self> {
        Ok(Self {
            model: self.model.clone(),
            cache: self.cache.fork(self.tokens.len()),
            tokens: self.tokens.clone(),
            n_cached: if self.cache.sees(self.n_cached) { self.n_cached } else { 0 },
            capacity: self.capacity,
            results: self.results.of_last(self.model.config()),
            tail: self.tail.clone(),
            cancel: self.cancel.clone(),
        })
    }

    /// Checks that these tokens could be fed now, after the pending one.
    pub(crate) fn check(&self, tokens: &[TokenId]) -> Result<()> {
        let vocab_size = self.model.config().vocab_size;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(ErrorKind::TokenOutOfRange { token, vocab_size }.into());
        }
        let n_pending = usize::from(self.tail.pending.is_some());
        let requested = self.position().saturating_add(n_pending).saturating_add(tokens.len());
        if requested > self.capacity {
            return Err(ErrorKind::ContextFull { capacity: self.capacity, requested }.into());
        }
        Ok(())
    }
}
