//! Writes models: from the files that they are published in to GGUF, in another weight format if
//! wanted, or to llama2.c's.
//!
//! A [`Source`] is a model to convert; [`to_gguf`] or [`to_llama2c`] writes it to anything that
//! takes bytes, such as an [`OutputFile`]. Tensors pass through a few megabytes of memory, however
//! large the model is.
//!
//! - `source`: the files that models are published in, and what a model is to everything here
//! - `recipe`: which format each matrix gets
//! - `quantize`: weight formats, and `importance` which columns matter most for them
//! - `weights`: tensors from the one into the other
//! - [`gguf`]: the file
//! - `llama2c`: the same for llama2.c's formats
//! - `check`: whether a converted model is what it was made from
//! - `output`: files that are moved to their target only when they are whole
//!
//! ```no_run
//! use babyllama::ModelOptions;
//! use babyllama::convert::{GgufOptions, Recipe, OutputFile, Source, to_gguf};
//!
//! let open = ModelOptions::new().tokenizer_path("tokenizer.bin");
//! let source = Source::open("stories15M.bin", &open)?;
//! let options = GgufOptions::new().recipe(Recipe::Q8_0).metadata("general.name", "Stories 15M");
//! let mut file = OutputFile::create("stories15M.gguf", false)?;
//! to_gguf(&source, &options, &mut file)?;
//! file.persist()?;
//! # Ok::<(), babyllama::Error>(())
//! ```

mod check;
pub mod gguf;
mod importance;
mod llama2c;
mod output;
mod quantize;
mod recipe;
mod source;
mod weights;

use std::io::Write;
#[cfg(feature = "rayon")]
use std::sync::Arc;

pub use check::check;
pub use importance::ImportanceMatrix;
pub use llama2c::{Llama2c, llama2c_bytes, to_llama2c, to_tokenizer_bin};
pub use output::OutputFile;
pub use quantize::{dtypes, quantize};
pub use recipe::Recipe;
pub use source::Source;

use crate::error::Result;
#[cfg(feature = "rayon")]
use crate::parallel::ThreadPool;
use crate::parallel::Threads;
use gguf::{Value, llama};
use weights::Converter;

/// How a model is written as GGUF. Everything has a default; the methods set it, and say what it
/// is.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct GgufOptions {
    /// See [`GgufOptions::recipe`](#method.recipe).
    pub recipe: Option<Recipe>,
    /// See [`GgufOptions::importance`](#method.importance).
    pub importance: Option<ImportanceMatrix>,
    /// See [`GgufOptions::metadata`](#method.metadata).
    pub metadata: Vec<(String, Value)>,
    /// See [`GgufOptions::threads`](#method.threads).
    pub threads: Option<usize>,
    /// See [`GgufOptions::pool`](#method.pool).
    #[cfg(feature = "rayon")]
    pub pool: Option<Arc<ThreadPool>>,
}

impl GgufOptions {
    /// Weights as they are in the source, or in the nearest format that GGUF has; no metadata
    /// except what the model needs, and what a source that is GGUF says.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The formats of matrices. One that is stored in its format already is copied.
    #[must_use]
    pub fn recipe(mut self, recipe: Recipe) -> Self {
        self.recipe = Some(recipe);
        self
    }

    /// Which columns of matrices matter most, for formats of 2 to 6 bits: their weights come nearer
    /// to what they were, at the cost of others'. Refused if none of its tensors is written so.
    #[must_use]
    pub fn importance(mut self, importance: ImportanceMatrix) -> Self {
        self.importance = Some(importance);
        self
    }

    /// Adds a key, such as `general.name` or `general.license`. It takes the place of the source's.
    #[must_use]
    pub fn metadata(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// The number of threads that encode weights, the calling one included. The default is the
    /// number that the machine runs at once. Any number writes the same bytes.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Uses the caller's pool instead of threads of our own; [`GgufOptions::threads`] is then
    /// ignored. The process-global pool is never used.
    #[cfg(feature = "rayon")]
    #[must_use]
    pub fn pool(mut self, pool: Arc<ThreadPool>) -> Self {
        self.pool = Some(pool);
        self
    }

    fn build_threads(&self) -> Result<Threads> {
        #[cfg(feature = "rayon")]
        if let Some(pool) = &self.pool {
            return Ok(Threads::from_pool(Arc::clone(pool)));
        }
        let threads = Threads::of_option(self.threads)?;
        threads.start()?;
        Ok(threads)
    }
}

/// Bytes that [`to_gguf`] will write.
///
/// # Errors
/// As [`to_gguf`].
pub fn gguf_bytes(source: &Source, options: &GgufOptions) -> Result<u64> {
    Ok(llama::header(source.model(), options)?.file_bytes())
}

/// Writes a model as GGUF, of the architecture that it has. The same source and options give the
/// same bytes.
///
/// What GGUF has no words for in a tokenizer (where spaces go, and how added tokens are found) is
/// written in keys of our own, `babyllama.tokenizer.*`, and only where it is needed: then
/// [`Source::notes`] says which texts have other tokens for programs that don't know these keys.
///
/// # Errors
/// [`ErrorKind::Io`]; [`ErrorKind::Unwritable`] for what GGUF or the weights' format can't hold;
/// [`ErrorKind::InvalidOption`] or [`ErrorKind::ThreadPool`] for options; and the
/// errors of reading the source.
///
/// [`ErrorKind::Io`]: crate::ErrorKind::Io
/// [`ErrorKind::Unwritable`]: crate::ErrorKind::Unwritable
/// [`ErrorKind::InvalidOption`]: crate::ErrorKind::InvalidOption
/// [`ErrorKind::ThreadPool`]: crate::ErrorKind::ThreadPool
pub fn to_gguf(source: &Source, options: &GgufOptions, to: impl Write) -> Result<()> {
    let source = source.model();
    // A setting that only one of two readers honors is found before anything is written.
    if let Some(expected) = &source.expected {
        check::compare_expected(expected, &source.config, &source.rope_factors)?;
    }
    let threads = options.build_threads()?;
    let header = llama::header(source, options)?;
    let choice = llama::Choice::of(source, options);
    let mut to = header.write(to)?;
    let mut converter = Converter::new(&threads);
    for (name, tensor) in gguf::fused::tensors(source) {
        let dtype = choice.dtype(&tensor.info);
        let importance = match (&options.importance, &*tensor.info.shape) {
            (Some(matrix), &[_, columns]) => matrix.columns(&name, columns)?,
            _ => None,
        };
        converter.convert(&tensor, &name, dtype, importance, |bytes| to.write(&name, bytes))?;
    }
    for (name, factors) in source.rope_factors.tensors() {
        let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
        to.write(name, &bytes)?;
    }
    to.finish().map(drop)
}
