//! Where a model comes from: hyperparameters, a tokenizer, and tensors one after another.

mod gguf;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{self, Checkpoint};
use crate::config::Config;
use crate::convert::gguf::Value;
use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelOptions;
use crate::storage::Storage;
use crate::tokenizer::{Tokenizer, TokenizerParts};
use crate::weights::{TensorInfo, Weight, Weights};

/// A model that can be converted, whatever files it is in.
#[derive(Debug)]
pub struct Source(Box<dyn SourceModel>);

/// What a kind of files must tell of a model in them.
///
/// Tensors have Meta's names, shapes and order of rows: RoPE turns adjacent pairs.
pub(crate) trait SourceModel: std::fmt::Debug + Send + Sync {
    fn config(&self) -> &Config;

    /// What each pair's rotary frequency is divided by: (`rope_dim / 2`).
    fn rope_factors(&self) -> Option<&[f32]>;

    fn tokenizer(&self) -> Result<Option<TokenizerParts<'_>>>;

    /// How a chat is written, in Jinja.
    fn chat_template(&self) -> Option<&str>;

    /// The tensors, in the order in which they are best read.
    fn tensors(&self) -> Vec<SourceTensor<'_>>;

    /// Of a source that is GGUF: its keys, but for those that tell how weights are stored. They hold whatever the other
    /// functions tell, unless one is missing: then that is to be written anew.
    fn metadata(&self) -> Option<Vec<(String, Value)>> {
        None
    }

    /// What the source says of its weights' formats: llama.cpp's number for a [`Mix`](super::Mix).
    fn file_type(&self) -> Option<u32> {
        None
    }
}

/// Decodes some rows of a tensor: (rows, columns). A vector is one row.
type ReadRows<'a> = Box<dyn Fn(Range<usize>, &mut [f32]) -> Result<()> + Sync + 'a>;

/// A tensor that is read in parts, by several threads at once, so that it need not fit the memory.
pub(crate) struct SourceTensor<'a> {
    pub(crate) info: TensorInfo,
    /// The weights as they are stored, if that is how GGUF stores them in `info.dtype`.
    pub(crate) bytes: Option<&'a [u8]>,
    pub(crate) read: ReadRows<'a>,
}

impl SourceTensor<'_> {
    /// (rows, columns)
    pub(crate) fn rows_and_columns(&self) -> (usize, usize) {
        match *self.info.shape {
            [rows, columns] => (rows, columns),
            _ => (1, self.info.shape.iter().product()),
        }
    }
}

impl Source {
    /// Opens a model to convert it: GGUF, or a file of llama2.c's v0, v1 or v2. Its tokenizer is found as [`Model::open`]
    /// finds it, or named in the options, which may also override hyperparameters.
    ///
    /// # Errors
    /// Whatever is wrong with the file or its tokenizer.
    ///
    /// [`Model::open`]: crate::Model::open
    pub fn open(path: impl AsRef<Path>, options: &ModelOptions) -> Result<Self> {
        let storage = Arc::new(Storage::open(path.as_ref())?);
        let model: Result<Box<dyn SourceModel>> = if checkpoint::gguf::has_magic(&storage) {
            gguf::Gguf::read(&storage, options).map(|model| Box::new(model) as _)
        } else {
            Llama2c::read(&storage, options).map(|model| Box::new(model) as _)
        };
        model.map(Self).map_err(|e| e.at(storage.path()))
    }

    /// The model's hyperparameters.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.0.config()
    }

    /// What tensors it has, in the order in which they are converted.
    #[must_use]
    pub fn tensors(&self) -> Vec<TensorInfo> {
        self.0.tensors().into_iter().map(|tensor| tensor.info).collect()
    }

    pub(super) fn model(&self) -> &dyn SourceModel {
        &*self.0
    }
}

/// A checkpoint of llama2.c, and its tokenizer.
#[derive(Debug)]
struct Llama2c {
    checkpoint: Checkpoint,
    tokenizer: Option<Tokenizer>,
}

impl Llama2c {
    fn read(storage: &Arc<Storage>, options: &ModelOptions) -> Result<Self> {
        let mut checkpoint = checkpoint::read(storage)?;
        options.override_config(&mut checkpoint.config)?;
        let tokenizer = options.find_tokenizer(storage)?;
        check_vocab(tokenizer.as_ref(), &checkpoint.config)?;
        Ok(Self { checkpoint, tokenizer })
    }
}

/// That there are no more pieces than logits.
fn check_vocab(tokenizer: Option<&Tokenizer>, config: &Config) -> Result<()> {
    match tokenizer.map(Tokenizer::vocab_size) {
        Some(tokenizer) if tokenizer > config.vocab_size => {
            Err(ErrorKind::VocabMismatch { tokenizer, model: config.vocab_size }.into())
        }
        _ => Ok(()),
    }
}

/// A tokenizer as it can be written.
fn parts(tokenizer: Option<&Tokenizer>) -> Result<Option<TokenizerParts<'_>>> {
    let Some(tokenizer) = tokenizer else { return Ok(None) };
    let unknown = || {
        let (what, reason) = ("the tokenizer".into(), "its merges are no longer known".into());
        Error::from(ErrorKind::Unwritable { what, reason })
    };
    tokenizer.to_parts().map(Some).ok_or_else(unknown)
}

impl SourceModel for Llama2c {
    fn config(&self) -> &Config {
        &self.checkpoint.config
    }

    fn rope_factors(&self) -> Option<&[f32]> {
        self.checkpoint.rope_factors.as_deref()
    }

    fn tokenizer(&self) -> Result<Option<TokenizerParts<'_>>> {
        parts(self.tokenizer.as_ref())
    }

    fn chat_template(&self) -> Option<&str> {
        self.checkpoint.chat_template.as_deref()
    }

    fn tensors(&self) -> Vec<SourceTensor<'_>> {
        tensors(&self.checkpoint.weights)
    }
}

/// The tensors of a checkpoint.
fn tensors(weights: &Weights) -> Vec<SourceTensor<'_>> {
    weights.named().into_iter().map(|(name, weight)| tensor(name, weight)).collect()
}

fn tensor(name: String, weight: Weight<'_>) -> SourceTensor<'_> {
    let info = weight.info(name);
    let bytes = match weight {
        Weight::Norm(_) => None,
        Weight::Matrix(tensor) => tensor.row_bytes(),
    };
    let read: ReadRows<'_> = match weight {
        Weight::Norm(norm) => Box::new(|_, out| {
            out.copy_from_slice(norm);
            Ok(())
        }),
        Weight::Matrix(tensor) => Box::new(|rows, out| {
            let matrix = tensor.matrix();
            for (row, out) in rows.zip(out.chunks_exact_mut(matrix.n_columns)) {
                matrix.rows.dequantize(row, out);
            }
            Ok(())
        }),
    };
    SourceTensor { info, bytes, read }
}
