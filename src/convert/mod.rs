//! Writes models: from the files that they are published in to GGUF, in another weight format if wanted, or to llama2.c's.
//!
//! A [`Source`] is a model to convert; [`to_gguf`] or [`to_llama2c`] writes it to anything that takes bytes, such as an
//! [`OutputFile`].
//! Tensors pass through a few megabytes of memory, whatever the size of the model.
//!
//! - `source`: the files that models are published in, and what a model is to everything here
//! - `quantize`: weight formats
//! - [`gguf`]: the file
//! - `llama2c`: the same for llama2.c's formats
//! - `check`: whether a converted model is what it was made from
//! - `output`: files that take their place only when they are whole
//!
//! ```no_run
//! use babyllama::convert::{GgufOptions, OutputFile, Source, to_gguf};
//! use babyllama::{Dtype, ModelOptions};
//!
//! let source = Source::open("stories15M.bin", &ModelOptions::new().tokenizer_path("tokenizer.bin"))?;
//! let options = GgufOptions::new().dtype(Dtype::Q8_0).metadata("general.name", "Stories 15M");
//! let mut file = OutputFile::create("stories15M.gguf", false)?;
//! to_gguf(&source, &options, &mut file)?;
//! file.keep()?;
//! # Ok::<(), babyllama::Error>(())
//! ```

mod check;
pub mod gguf;
mod llama2c;
mod output;
mod quantize;
mod source;

use std::io::Write;

pub use check::check;
pub use llama2c::{Llama2c, llama2c_bytes, to_llama2c, to_tokenizer_bin};
pub use output::OutputFile;
pub use quantize::{dtypes, quantize};
pub use source::Source;

use crate::error::{ErrorKind, Result};
use crate::quant::Dtype;
use gguf::{TensorWriter, Value, llama};
use source::SourceTensor;

/// Weights that are in memory at once, but for rows that are longer.
const CHUNK: usize = 1 << 20;

/// How a model is written as GGUF.
#[derive(Clone, Debug, Default)]
pub struct GgufOptions {
    dtype: Option<Dtype>,
    metadata: Vec<(String, Value)>,
}

impl GgufOptions {
    /// Weights as they are in the source, or in the nearest format that GGUF has; no metadata but what the model needs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The format of matrices. One whose rows are no whole number of blocks becomes F16; vectors are always F32.
    #[must_use]
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Adds a key, such as `general.name` or `general.license`.
    #[must_use]
    pub fn metadata(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }
}

/// Bytes that [`to_gguf`] will write.
///
/// # Errors
/// As [`to_gguf`].
pub fn gguf_bytes(source: &Source, options: &GgufOptions) -> Result<u64> {
    Ok(llama::header(source.model(), options)?.file_bytes())
}

/// Writes a model as GGUF, of architecture `llama`. The same source and options give the same bytes.
///
/// # Errors
/// [`ErrorKind::Io`]; [`ErrorKind::Unwritable`] for what GGUF or the weights' format can't hold; and whatever is wrong with the
/// source.
pub fn to_gguf(source: &Source, options: &GgufOptions, to: impl Write) -> Result<()> {
    let source = source.model();
    let header = llama::header(source, options)?;
    let mut to = header.write(to)?;
    for tensor in source.tensors() {
        let dtype = llama::dtype(&tensor.info, options);
        write_tensor(&tensor, &llama::name(&tensor.info)?, dtype, &mut to)?;
    }
    if let Some(factors) = source.rope_factors() {
        let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
        to.write(crate::checkpoint::gguf::names::ROPE_FREQS, &bytes)?;
    }
    to.finish().map(drop)
}

fn write_tensor<W: Write>(
    tensor: &SourceTensor<'_>,
    name: &str,
    dtype: Dtype,
    to: &mut TensorWriter<'_, W>,
) -> Result<()> {
    let (rows, columns) = tensor.rows_and_columns();
    let step = (CHUNK / columns).clamp(1, rows);
    let mut weights = vec![0.0; step * columns];
    let mut bytes = Vec::new();
    for first in (0..rows).step_by(step) {
        let chunk = first..rows.min(first + step);
        let weights = &mut weights[..chunk.len() * columns];
        (tensor.read)(chunk, weights)?;
        bytes.clear();
        quantize(weights, dtype, &mut bytes).map_err(|e| match e.kind() {
            ErrorKind::Unwritable { what, reason } => {
                let (what, reason) = (format!("tensor {name:?} as {what}"), reason.clone());
                ErrorKind::Unwritable { what, reason }.into()
            }
            _ => e,
        })?;
        to.write(name, &bytes)?;
    }
    Ok(())
}
