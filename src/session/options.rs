//! How a session is made.

use super::pass::MAX_BATCH;
use crate::config::Config;
use crate::forward::Scratch;
use crate::kv_cache::{BLOCK, CacheDtype, KvCache, Reach};

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
    /// more is possible, though the model has never seen such positions.
    ///
    /// Of a model with long RoPE factors ([`RopeScaling::Long`], Phi 3's), it chooses them for the
    /// whole text, as in llama.cpp: the short ones up to the original length, the long ones in a
    /// longer context. transformers chooses by the length of the text: for the same logits of a
    /// text that is no longer than the original length, ask for no longer a context.
    ///
    /// [`RopeScaling::Long`]: crate::RopeScaling::Long
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
    /// in part takes less. Of a model of which all layers have a window, the cache keeps no more
    /// than that and some steps.
    ///
    /// ```
    /// use babyllama::{CacheDtype, Model, SessionOptions};
    ///
    /// # let model = Model::open("models/babyllama.gguf")?;
    /// let options = SessionOptions::new().context_length(4096);
    /// let exact = options.memory_bytes(model.config());
    /// assert!(options.cache_dtype(CacheDtype::F16).memory_bytes(model.config()) < exact);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn memory_bytes(&self, config: &Config) -> u64 {
        let positions = self.context_length.unwrap_or(config.max_seq_len);
        let held = Reach::new(config, positions).most_held(positions);
        // The cache grows in blocks.
        let cached = held.checked_next_multiple_of(BLOCK).unwrap_or(held) as u64;
        let scored = positions.checked_next_multiple_of(BLOCK).unwrap_or(positions) as u64;
        let batch = positions.min(MAX_BATCH) as u64;
        (KvCache::bytes_per_position(config, self.cache_dtype) as u64)
            .saturating_mul(cached)
            .saturating_add((Scratch::bytes_per_position(config) as u64).saturating_mul(scored))
            .saturating_add(batch * Scratch::bytes_per_token(config) as u64 + config.vocab_size as u64 * 4)
    }
}
