//! The hyperparameters of a Llama, and the arithmetic that everything else relies on, checked once.

use crate::error::{Error, Result};

/// The most layers. No Llama has more than 126. The smallest layer takes a hundred bytes in a file
/// but a thousand in memory, so without a limit a file could take ten times its size in memory, and
/// a sparse file any amount.
pub(crate) const MAX_LAYERS: usize = 1024;

/// The hyperparameters, under Meta's names.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// Width of the residual stream.
    #[doc(alias = "hidden_size")]
    pub dim: usize,
    /// Width inside the feed-forward network.
    #[doc(alias = "intermediate_size")]
    pub hidden_dim: usize,
    /// Number of transformer blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; fewer than `n_heads` in grouped-query attention (arXiv 2305.13245).
    pub n_kv_heads: usize,
    /// Width of a head. `dim / n_heads` in nearly all models, but any number is possible.
    pub head_dim: usize,
    /// How many of a head's `head_dim` dimensions, its first ones, RoPE rotates: all of them in
    /// nearly all models.
    #[doc(alias = "partial_rotary_factor")]
    pub rope_dim: usize,
    /// Number of logits.
    pub vocab_size: usize,
    /// Positions that the model was made for.
    #[doc(alias = "max_position_embeddings")]
    pub max_seq_len: usize,
    /// Added to the mean square in RMSNorm.
    #[doc(alias = "rms_norm_eps")]
    pub norm_eps: f32,
    /// Base of the rotary frequencies (arXiv 2104.09864).
    pub rope_theta: f64,
    /// How the rotary frequencies were changed to make the context longer.
    pub rope_scaling: RopeScaling,
    /// Which of a head's dimensions RoPE rotates together.
    pub rope_pairs: RopePairs,
    /// Every how many layers one doesn't rotate: with 4, layers 3, 7, 11 and so on (`SmolLM3`).
    pub no_rope_interval: Option<usize>,
    /// Whether queries and keys are normed before RoPE.
    pub qk_norm: QkNorm,
    /// Whether norms stand after attention and the feed-forward network, and not before them
    /// (`OLMo` 2).
    pub norms_after: bool,
    /// What embeddings are multiplied with; 1 in most models.
    #[doc(alias = "embedding_multiplier")]
    pub embedding_scale: f32,
    /// What each block's output is multiplied with before it joins the residual stream; 1 in most
    /// models.
    #[doc(alias = "residual_multiplier")]
    pub residual_scale: f32,
    /// What products of queries and keys are multiplied with; `None` if it is `1 / sqrt(head_dim)`,
    /// as in most models.
    #[doc(alias = "attention_multiplier")]
    pub attention_scale: Option<f32>,
    /// What logits are divided by; 1 in most models.
    #[doc(alias = "logits_scaling")]
    pub logit_divisor: f32,
    /// By how much queries grow with their position.
    pub query_growth: Option<QueryGrowth>,
    /// Positions that a query sees, its own included; `None` if it sees all before it.
    pub sliding_window: Option<usize>,
    /// Which layers have the sliding window: one for each layer, or none if all have it.
    pub windowed_layers: Vec<bool>,
}

/// Queries grow with their position: beyond the first `length` positions, and again beyond each
/// further `length`, they are multiplied by `1 + beta ln(1 + floor(position / length))`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct QueryGrowth {
    /// How fast they grow.
    pub beta: f64,
    /// Positions of the same size.
    pub length: usize,
}

impl QueryGrowth {
    pub(crate) fn at(self, position: usize) -> f32 {
        (1.0 + self.beta * ((1 + position / self.length) as f64).ln()) as f32
    }
}

/// Which of a head's dimensions RoPE rotates together. A model can be stored either way, as rows of
/// its queries and keys can be put in another order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RopePairs {
    /// Adjacent ones: 0 and 1, 2 and 3, as in Meta's files.
    #[default]
    Adjacent,
    /// Those that are half of `rope_dim` apart (NEOX order), as in Hugging Face's files.
    Halves,
}

/// Whether queries and keys are normed before RoPE, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum QkNorm {
    /// They aren't.
    #[default]
    None,
    /// Each head by itself, with weights of (`head_dim`).
    Heads,
    /// All of a position together, with weights as wide as they are.
    Whole,
}

/// How rotary frequencies are changed, so that a model reads further than it was first trained for.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All are divided by `factor`, as if positions lay closer together (arXiv 2306.15595).
    Linear {
        /// How many times longer the context becomes.
        factor: f64,
    },
    /// `YaRN` (arXiv 2309.00071): low frequencies are divided by `factor`, high ones stay as they
    /// are, those between are interpolated; and queries and keys are scaled up a little.
    Yarn {
        /// How many times longer the context becomes.
        factor: f64,
        /// Positions that the model was first trained for.
        original_context_length: usize,
        /// Pairs that make more rotations than this over the original context keep their frequency;
        /// 32 in most models.
        beta_fast: f64,
        /// Pairs that make fewer rotations than this get the linear scaling; 1 in most models.
        beta_slow: f64,
        /// Cosines and sines are multiplied by it, which scales queries and keys; `0.1 ln(factor) +
        /// 1` in most models.
        magnitude: f64,
    },
    /// `LongRoPE` (arXiv 2402.13753): each frequency is divided by a factor of its own, one in
    /// sessions whose context is no longer than the original one, another in longer ones.
    Long {
        /// Positions that the model was first trained for.
        original_context_length: usize,
        /// Cosines and sines are multiplied by it in contexts of any length.
        magnitude: f64,
    },
}

impl RopeScaling {
    fn validate(self) -> Result<()> {
        let positive = |field, value: f64| {
            let fine = value > 0.0 && value.is_finite();
            if fine { Ok(()) } else { Err(Error::config(field, value, "must be a positive number")) }
        };
        if let Self::Yarn { original_context_length: 0, .. } | Self::Long { original_context_length: 0, .. } =
            self
        {
            return Err(Error::config("original_context_length", 0, "must be at least 1"));
        }
        match self {
            Self::None => Ok(()),
            Self::Linear { factor } => positive("rope scaling factor", factor),
            Self::Long { magnitude, .. } => positive("rope magnitude", magnitude),
            Self::Yarn { factor, beta_fast, beta_slow, magnitude, .. } => {
                positive("rope scaling factor", factor)?;
                positive("beta_fast", beta_fast)?;
                positive("beta_slow", beta_slow)?;
                positive("rope magnitude", magnitude)
            }
        }
    }
}

impl Config {
    /// Hyperparameters of a model like llama2.c's: heads of `dim / n_heads`, a `norm_eps` of 1e-5,
    /// a `rope_theta` of 10,000, and nothing scaled or windowed. They are checked when they are
    /// used.
    #[must_use]
    pub fn new(
        dim: usize,
        hidden_dim: usize,
        n_layers: usize,
        n_heads: usize,
        n_kv_heads: usize,
        vocab_size: usize,
        max_seq_len: usize,
    ) -> Self {
        let head_dim = dim.checked_div(n_heads).unwrap_or(0);
        Self {
            dim,
            hidden_dim,
            n_layers,
            n_heads,
            n_kv_heads,
            head_dim,
            rope_dim: head_dim,
            vocab_size,
            max_seq_len,
            norm_eps: 1e-5,
            rope_theta: 1e4,
            rope_scaling: RopeScaling::None,
            rope_pairs: RopePairs::Adjacent,
            no_rope_interval: None,
            qk_norm: QkNorm::None,
            norms_after: false,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            attention_scale: None,
            logit_divisor: 1.0,
            query_growth: None,
            sliding_window: None,
            windowed_layers: Vec::new(),
        }
    }

    /// Whether nothing is set that no Llama has.
    #[cfg(feature = "convert")]
    pub(crate) fn is_llama(&self) -> bool {
        let &Self { dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len, .. } = self;
        let llama = Self {
            head_dim: self.head_dim,
            rope_dim: self.rope_dim,
            norm_eps: self.norm_eps,
            rope_theta: self.rope_theta,
            rope_scaling: self.rope_scaling,
            sliding_window: self.sliding_window,
            windowed_layers: self.windowed_layers.clone(),
            ..Self::new(dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len)
        };
        llama == *self
    }

    /// Whether a layer rotates its queries and keys.
    pub(crate) fn rotates(&self, layer: usize) -> bool {
        self.no_rope_interval.is_none_or(|interval| !(layer + 1).is_multiple_of(interval))
    }

    /// Width of all keys, or all values, of a position: `n_kv_heads * head_dim`.
    #[must_use]
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Width of all queries of a position: `n_heads * head_dim`.
    #[must_use]
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Positions that a query sees in a layer, its own included.
    pub(crate) fn window(&self, layer: usize) -> usize {
        let is_windowed = self.windowed_layers.get(layer).copied().unwrap_or(true);
        self.sliding_window.filter(|_| is_windowed).unwrap_or(usize::MAX)
    }

    /// Checks what the forward pass relies on: nothing is zero, heads divide evenly, their
    /// dimensions pair up for RoPE, and no product of two widths overflows.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) names the first hyperparameter that breaks a
    /// rule.
    pub(crate) fn validate(&self) -> Result<()> {
        let counts = [
            ("dim", self.dim),
            ("hidden_dim", self.hidden_dim),
            ("n_layers", self.n_layers),
            ("n_heads", self.n_heads),
            ("n_kv_heads", self.n_kv_heads),
            ("head_dim", self.head_dim),
            ("vocab_size", self.vocab_size),
            ("max_seq_len", self.max_seq_len),
        ];
        for (field, value) in counts {
            if value == 0 || value > i32::MAX as usize {
                return Err(Error::config(field, value, "must be between 1 and 2^31 - 1"));
            }
        }
        if self.n_layers > MAX_LAYERS {
            return Err(Error::config("n_layers", self.n_layers, format!("must be at most {MAX_LAYERS}")));
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(Error::config(
                "n_kv_heads",
                self.n_kv_heads,
                format!("must divide n_heads, {}", self.n_heads),
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(Error::config("head_dim", self.head_dim, "must be even: RoPE rotates pairs"));
        }
        if !self.rope_dim.is_multiple_of(2) || !(2..=self.head_dim).contains(&self.rope_dim) {
            let reason = format!("must be even and at most head_dim, {}", self.head_dim);
            return Err(Error::config("rope_dim", self.rope_dim, reason));
        }
        if self.n_heads.checked_mul(self.head_dim).is_none_or(|q| q > i32::MAX as usize) {
            return Err(Error::config("n_heads", self.n_heads, "n_heads * head_dim must be below 2^31"));
        }
        if !(self.norm_eps >= 0.0 && self.norm_eps.is_finite()) {
            return Err(Error::config("norm_eps", self.norm_eps, "must be a number that is not negative"));
        }
        if !(self.rope_theta > 0.0 && self.rope_theta.is_finite()) {
            return Err(Error::config("rope_theta", self.rope_theta, "must be a positive number"));
        }
        self.validate_scales()?;
        self.rope_scaling.validate()
    }

    /// Checks what few models have.
    fn validate_scales(&self) -> Result<()> {
        if self.no_rope_interval == Some(0) {
            return Err(Error::config("no_rope_interval", 0, "must be at least 1"));
        }
        let scales = [
            ("embedding_scale", self.embedding_scale),
            ("residual_scale", self.residual_scale),
            ("attention_scale", self.attention_scale.unwrap_or(1.0)),
            ("logit_divisor", self.logit_divisor),
        ];
        for (field, scale) in scales {
            if !(scale > 0.0 && scale.is_finite()) {
                return Err(Error::config(field, scale, "must be a positive number"));
            }
        }
        if let Some(QueryGrowth { beta, length }) = self.query_growth
            && !(length > 0 && beta >= 0.0 && beta.is_finite())
        {
            let value = format!("{beta} each {length} positions");
            return Err(Error::config("query_growth", value, "must be positive"));
        }
        if self.sliding_window == Some(0) {
            return Err(Error::config("sliding_window", 0, "must be at least 1"));
        }
        let n_windowed = self.windowed_layers.len();
        if n_windowed != 0 && n_windowed != self.n_layers {
            let reason = format!("must be one for each of the {} layers", self.n_layers);
            return Err(Error::config("windowed_layers", n_windowed, reason));
        }
        Ok(())
    }
}
