//! A session: one text being read and written, with its key and value cache.

mod feed;

use std::fmt;

use crate::compute::Compute;
use crate::config::{Config, beyond_window};
use crate::error::{ErrorKind, Result, TokenId};
use crate::forward::{Scratch, forward};
use crate::kv_cache::{BLOCK, CacheDtype, KvCache};
use crate::model::Model;
use crate::tokenizer::Decoder;

pub use feed::Feed;

/// Tokens that pass through the layers together, at most. With more the weights would be read less
/// often, but activations would no longer fit the processor's cache.
const MAX_BATCH: usize = 512;

/// In a thread pool of the caller's, a thread does at most about this many multiplications of
/// attention without a pause, some milliseconds: so the deeper in the text, the fewer tokens pass
/// together.
const MAX_LENT_ATTENTION: usize = 64 << 20;

/// But no fewer tokens than this, so that weights aren't read much more often.
const MIN_LENT_BATCH: usize = 64;

/// A model whose weights take fewer bytes than this runs on the calling thread alone: its forward
/// pass takes less time than waking another thread.
const MIN_SHARED_MODEL_BYTES: usize = 2 << 20;

/// The cache is allocated for the whole context at once if that takes no more than the weights, or
/// than this.
const MIN_INITIAL_CACHE_BYTES: usize = 4 << 20;

/// How a session is made. Everything has a default; the methods set it, and say what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct SessionOptions {
    /// See [`SessionOptions::context_length`](#method.context_length).
    pub context_length: Option<usize>,
    /// See [`SessionOptions::cache_dtype`](#method.cache_dtype).
    pub cache_dtype: CacheDtype,
}

impl SessionOptions {
    /// All defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of positions that the session can hold. The default is the model's `max_seq_len`;
    /// more is possible, though the model has never seen such positions. A model whose attention
    /// has a sliding window takes no more than that: such a session refuses every token, with
    /// [`ErrorKind::InvalidOption`].
    #[must_use]
    pub fn context_length(mut self, positions: usize) -> Self {
        self.context_length = Some(positions);
        self
    }

    /// How keys and values are kept. The default is [`CacheDtype::F32`].
    #[must_use]
    pub fn cache_dtype(mut self, dtype: CacheDtype) -> Self {
        self.cache_dtype = dtype;
        self
    }

    /// Bytes that a session of a model with these hyperparameters takes, in addition to the model,
    /// when its whole context is used: its cache, and the buffers of a pass. A context that is used
    /// in part takes less.
    ///
    /// ```no_run
    /// use babyllama::{CacheDtype, Model, SessionOptions};
    ///
    /// # let model = Model::open("model.bin")?;
    /// let options = SessionOptions::new().context_length(4096);
    /// let exact = options.memory_bytes(model.config());
    /// assert!(options.cache_dtype(CacheDtype::F16).memory_bytes(model.config()) < exact);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn memory_bytes(&self, config: &Config) -> u64 {
        let positions = self.context_length.unwrap_or(config.max_seq_len);
        // The cache grows in blocks.
        let cached = positions.checked_next_multiple_of(BLOCK).unwrap_or(positions) as u64;
        let per_position = KvCache::bytes_per_position(config.n_layers, config.kv_dim(), self.cache_dtype)
            + Scratch::bytes_per_position(config);
        let batch = positions.min(MAX_BATCH) as u64;
        (per_position as u64)
            .saturating_mul(cached)
            .saturating_add(batch * Scratch::bytes_per_token(config) as u64 + config.vocab_size as u64 * 4)
    }
}

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
/// ```no_run
/// # let model = babyllama::Model::open("model.bin")?;
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
    scratch: Scratch,
    cache: KvCache,
    /// What was fed; its length is the position.
    tokens: Vec<TokenId>,
    capacity: usize,
    logits: Vec<f32>, // (1 or n_tokens, vocab_size)
    /// Whether the last row of `logits` follows the last of `tokens`.
    has_logits: bool,
    tail: Tail,
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
        let Config { n_layers, max_seq_len, head_dim, .. } = *model.config();
        let capacity = options.context_length.unwrap_or(max_seq_len);
        let cache = KvCache::new(n_layers, model.config().kv_dim(), head_dim, options.cache_dtype);
        let scratch = Scratch::default();
        Self {
            model,
            scratch,
            cache,
            tokens: Vec::new(),
            capacity,
            logits: Vec::new(),
            has_logits: false,
            tail: Tail::default(),
        }
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The number of tokens fed so far. One that is [pending](Self::pending) isn't counted.
    #[must_use]
    pub fn position(&self) -> usize {
        self.tokens.len()
    }

    /// The number of tokens that can be fed in all.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The tokens fed so far.
    #[must_use]
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// The token that a generation handed out last, while it isn't fed: whatever feeds the session
    /// next feeds it first.
    #[must_use]
    pub fn pending(&self) -> Option<TokenId> {
        self.tail.pending
    }

    /// The logits that follow the last token fed: (`vocab_size`). `None` if nothing was fed since
    /// the start or since [`Session::truncate`]. A token that is [pending](Self::pending) was
    /// chosen by them.
    #[must_use]
    pub fn logits(&self) -> Option<&[f32]> {
        let last = self.logits.len().checked_sub(self.model.config().vocab_size)?;
        self.has_logits.then(|| &self.logits[last..])
    }

    /// Feeds tokens after those fed before and returns the logits of the last: (`vocab_size`).
    ///
    /// A token that is [pending](Self::pending) goes first; it alone is fed if there are no others.
    /// A prompt may be fed in one call, token by token, or in [steps](Self::feed) with progress;
    /// all give the same bits. After the first call, calls with no more tokens than the longest
    /// before allocate nothing until the cache has to grow, which doubles it.
    ///
    /// # Errors
    /// [`ErrorKind::EmptyInput`], [`ErrorKind::TokenOutOfRange`], [`ErrorKind::ContextFull`],
    /// [`ErrorKind::OutOfMemory`], and [`ErrorKind::ThreadPool`] if the model's threads, which
    /// start with its first pass, can't be had; nothing was fed then.
    pub fn forward(&mut self, tokens: &[TokenId]) -> Result<&[f32]> {
        self.check(tokens)?;
        match self.tail.pending {
            Some(pending) if tokens.is_empty() => self.run_passes(&[pending], Logits::Last)?,
            Some(pending) => {
                // In one pass, which takes hardly longer than one of the pending token alone.
                let mut all = Vec::with_capacity(1 + tokens.len());
                all.push(pending);
                all.extend_from_slice(tokens);
                self.run_passes(&all, Logits::Last)?;
            }
            None if tokens.is_empty() => return Err(ErrorKind::EmptyInput.into()),
            None => self.run_passes(tokens, Logits::Last)?,
        }
        self.fed_after_tail(tokens);
        Ok(&self.logits)
    }

    /// As [`Session::forward`], but returns the logits of every one of `tokens`: (`n_tokens`,
    /// `vocab_size`).
    ///
    /// # Errors
    /// As [`Session::forward`].
    pub fn forward_all(&mut self, tokens: &[TokenId]) -> Result<&[f32]> {
        if tokens.is_empty() {
            return Err(ErrorKind::EmptyInput.into());
        }
        self.check(tokens)?;
        self.reserve(tokens.len(), tokens.len())?;
        if let Some(pending) = self.tail.pending {
            self.run_passes(&[pending], Logits::Last)?;
            self.fed_after_tail(&[]);
        }
        self.run_passes(tokens, Logits::All)?;
        self.fed_after_tail(tokens);
        Ok(&self.logits)
    }

    /// Forgets all tokens except the first `position`, and a token that is
    /// [pending](Self::pending). `truncate(session.position())` forgets only the pending one.
    pub fn truncate(&mut self, position: usize) {
        if position <= self.tokens.len() {
            self.tail.clear();
        }
        if position < self.tokens.len() {
            self.tokens.truncate(position);
            self.has_logits = false;
        }
    }

    /// Forgets everything except the longest prefix that the session shares with `tokens`, without
    /// the last of them, and returns its length `n`: feed `&tokens[n..]`, and the session has read
    /// exactly `tokens`, none of them twice.
    ///
    /// ```no_run
    /// # let model = babyllama::Model::open("model.bin")?;
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

    /// The number of tokens that [`Session::keep_prefix`] would keep.
    pub(crate) fn shared_prefix(&self, tokens: &[TokenId]) -> usize {
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

    /// Updates the tail after the pending token and then `tokens` were fed. Without tokens the text
    /// is still the generation's.
    fn fed_after_tail(&mut self, tokens: &[TokenId]) {
        if tokens.is_empty() {
            self.tail.pending = None;
        } else {
            self.tail.clear();
        }
    }

    /// An independent session that has read the same tokens and has the same pending token. It
    /// copies their keys and values.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`].
    pub fn fork(&self) -> Result<Self> {
        Ok(Self {
            model: self.model.clone(),
            scratch: Scratch::default(),
            cache: self.cache.fork(self.tokens.len())?,
            tokens: self.tokens.clone(),
            capacity: self.capacity,
            logits: self.logits.clone(),
            has_logits: self.has_logits,
            tail: self.tail.clone(),
        })
    }

    /// Checks that these tokens could be fed now, after the pending one.
    pub(crate) fn check(&self, tokens: &[TokenId]) -> Result<()> {
        let vocab_size = self.model.config().vocab_size;
        if let Some(&token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(ErrorKind::TokenOutOfRange { token, vocab_size }.into());
        }
        if let Some(window) = self.model.config().sliding_window.filter(|&window| self.capacity > window) {
            let (value, reason) = (self.capacity.to_string(), beyond_window(window));
            return Err(ErrorKind::InvalidOption { name: "context_length", value, reason }.into());
        }
        let n_pending = usize::from(self.tail.pending.is_some());
        let requested = self.position().saturating_add(n_pending).saturating_add(tokens.len());
        if requested > self.capacity {
            return Err(ErrorKind::ContextFull { capacity: self.capacity, requested }.into());
        }
        Ok(())
    }

    /// Feeds these tokens, at least one, which were checked. Its callers see to the pending one.
    fn run_passes(&mut self, tokens: &[TokenId], wanted: Logits) -> Result<()> {
        let alone = self.model.llama().weights.bytes_per_token() < MIN_SHARED_MODEL_BYTES;
        if !alone {
            self.model.thread_team().start()?;
        }
        let n_rows = match wanted {
            Logits::Last => 1,
            Logits::All => tokens.len(),
        };
        self.reserve_positions(self.position() + tokens.len(), n_rows)?;
        self.has_logits = false;
        self.logits.resize(n_rows * self.model.config().vocab_size, 0.0);

        let llama = self.model.llama();
        let vocab_size = llama.config.vocab_size;
        let mut done = 0;
        while done < tokens.len() {
            let position = self.tokens.len();
            let batch = &tokens[done..tokens.len().min(done + self.max_batch())];
            let logits = match wanted {
                Logits::Last => &mut self.logits[..],
                Logits::All => &mut self.logits[done * vocab_size..][..batch.len() * vocab_size],
            };
            self.model.thread_team().enter(alone, |team| {
                let compute = Compute { isa: self.model.isa(), numerics: llama.numerics, team };
                forward(llama, &compute, &mut self.scratch, &mut self.cache, batch, position, logits);
            });
            self.tokens.extend_from_slice(batch);
            done += batch.len();
        }
        self.has_logits = true;
        Ok(())
    }

    /// The number of tokens that pass through the layers together next. Any gives the same bits.
    fn max_batch(&self) -> usize {
        if !self.model.thread_team().are_lent() {
            return MAX_BATCH;
        }
        let Config { n_heads, n_kv_heads, head_dim, .. } = *self.model.config();
        // A thread computes with the queries that share a head of keys, and all its keys and
        // values.
        let per_position = 2 * head_dim * n_heads / n_kv_heads;
        let positions = self.position() + MIN_LENT_BATCH;
        (MAX_LENT_ATTENTION / (per_position * positions)).clamp(MIN_LENT_BATCH, MAX_BATCH)
    }

    /// Allocates all that feeding the pending token and `n_tokens` takes, with `n_rows` of logits,
    /// so that it can't fail halfway.
    fn reserve(&mut self, n_tokens: usize, n_rows: usize) -> Result<()> {
        let n_pending = usize::from(self.tail.pending.is_some());
        self.reserve_positions(self.position() + n_pending + n_tokens, n_rows)
    }

    fn reserve_positions(&mut self, needed: usize, n_rows: usize) -> Result<()> {
        let llama = self.model.llama();
        let per_position = self.cache.position_bytes() + Scratch::bytes_per_position(&llama.config);
        let at_once = llama.weights.bytes_per_token().max(MIN_INITIAL_CACHE_BYTES) / per_position;
        self.cache.reserve(needed.max(at_once.min(self.capacity)), self.capacity)?;
        self.scratch.reserve_scores(&llama.config, self.cache.capacity())?;
        self.tokens.reserve(self.cache.capacity().saturating_sub(self.tokens.len()));

        let len = n_rows.saturating_mul(llama.config.vocab_size);
        let bytes = (len as u64).saturating_mul(size_of::<f32>() as u64);
        let out_of_memory = |_| ErrorKind::OutOfMemory { what: "the logits", bytes }.into();
        self.logits.try_reserve_exact(len.saturating_sub(self.logits.len())).map_err(out_of_memory)
    }
}

/// Whose logits a pass should write.
#[derive(Clone, Copy)]
enum Logits {
    Last,
    All,
}
