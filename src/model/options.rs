//! How a model is opened.

use std::path::PathBuf;
#[cfg(feature = "rayon")]
use std::sync::Arc;

use crate::config::Config;
use crate::error::Result;
#[cfg(feature = "rayon")]
use crate::parallel::ThreadPool;
use crate::parallel::Threads;
use crate::simd::Isa;
use crate::tokenizer::Tokenizer;

/// How a model is opened. Everything has a default; the methods set it, and say what it is.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct ModelOptions {
    /// See [`ModelOptions::threads`](#method.threads).
    pub threads: Option<usize>,
    /// See [`ModelOptions::pool`](#method.pool).
    #[cfg(feature = "rayon")]
    #[cfg_attr(feature = "serde", serde(skip))]
    pub pool: Option<Arc<ThreadPool>>,
    /// See [`ModelOptions::isa`](#method.isa).
    pub isa: Option<Isa>,
    /// See [`ModelOptions::tokenizer`](#method.tokenizer).
    pub tokenizer: TokenizerSource,
    /// See [`ModelOptions::norm_eps`](#method.norm_eps).
    pub norm_eps: Option<f32>,
    /// See [`ModelOptions::rope_theta`](#method.rope_theta).
    pub rope_theta: Option<f64>,
    /// See [`ModelOptions::max_seq_len`](#method.max_seq_len).
    pub max_seq_len: Option<usize>,
    /// See [`ModelOptions::huge_pages`](#method.huge_pages).
    pub huge_pages: bool,
}

/// Where a model's tokenizer comes from.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum TokenizerSource {
    /// The model's own file; a file beside it, if it has none.
    #[default]
    Model,
    /// This file.
    File(PathBuf),
    /// This one, which can't be written with serde.
    #[cfg_attr(feature = "serde", serde(skip))]
    Given(Tokenizer),
    /// There is none: the model then takes tokens alone.
    None,
}

impl ModelOptions {
    /// All defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of threads, the calling one included. The default is the number that the machine
    /// runs at once. The others are a pool of the model's own, which starts with its first pass; a
    /// small model never needs them.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Uses the caller's pool instead of one of the model's own; [`ModelOptions::threads`] is then
    /// ignored. The process-global pool is never used.
    #[cfg(feature = "rayon")]
    #[must_use]
    pub fn pool(mut self, pool: Arc<ThreadPool>) -> Self {
        self.pool = Some(pool);
        self
    }

    /// The instruction set to compute with. The default is the fastest that the processor has.
    #[must_use]
    pub fn isa(mut self, isa: Isa) -> Self {
        self.isa = Some(isa);
        self
    }

    /// A tokenizer, instead of the one beside the model.
    #[must_use]
    pub fn tokenizer(mut self, tokenizer: Tokenizer) -> Self {
        self.tokenizer = TokenizerSource::Given(tokenizer);
        self
    }

    /// The file of a tokenizer, instead of the one beside the model.
    #[must_use]
    pub fn tokenizer_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.tokenizer = TokenizerSource::File(path.into());
        self
    }

    /// No tokenizer, even if one lies beside the model: the model then takes tokens alone.
    #[must_use]
    pub fn no_tokenizer(mut self) -> Self {
        self.tokenizer = TokenizerSource::None;
        self
    }

    /// Overrides what is added to the mean square in RMSNorm. llama2.c files don't hold it; 1e-5 is
    /// the default, and LLaMA 1 wants 1e-6.
    #[must_use]
    pub fn norm_eps(mut self, norm_eps: f32) -> Self {
        self.norm_eps = Some(norm_eps);
        self
    }

    /// Overrides the base of the rotary frequencies. llama2.c files don't hold it; 10,000 is the
    /// default, and Code Llama wants 1,000,000.
    #[must_use]
    pub fn rope_theta(mut self, rope_theta: f64) -> Self {
        self.rope_theta = Some(rope_theta);
        self
    }

    /// Overrides the number of positions that the model was made for.
    #[must_use]
    pub fn max_seq_len(mut self, max_seq_len: usize) -> Self {
        self.max_seq_len = Some(max_seq_len);
        self
    }

    /// Copies the weights once into memory in pages of 2 MiB, from which they are read faster than
    /// from a mapped file; off by default. It takes as much memory as they do, and the time to
    /// read the file. Only Linux has such pages; elsewhere it is a plain copy.
    #[must_use]
    pub fn huge_pages(mut self, huge_pages: bool) -> Self {
        self.huge_pages = huge_pages;
        self
    }

    pub(super) fn build_threads(&self) -> Result<Threads> {
        #[cfg(feature = "rayon")]
        if let Some(pool) = &self.pool {
            return Ok(Threads::from_pool(Arc::clone(pool)));
        }
        Threads::of_option(self.threads)
    }

    /// Sets the hyperparameters that are to be other than the file says.
    pub(crate) fn override_config(&self, config: &mut Config) -> Result<()> {
        config.norm_eps = self.norm_eps.unwrap_or(config.norm_eps);
        config.rope_theta = self.rope_theta.unwrap_or(config.rope_theta);
        config.max_seq_len = self.max_seq_len.unwrap_or(config.max_seq_len);
        config.validate()
    }
}
