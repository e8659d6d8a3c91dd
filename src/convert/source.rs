//! Where a model comes from: hyperparameters, a tokenizer, and tensors one after another.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{self, Checkpoint};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelOptions;
use crate::storage::Storage;
use crate::tokenizer::{Tokenizer, TokenizerParts};
use crate::weights::{TensorInfo, Weight};

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
}

/// Decodes some rows of a tensor: (rows, columns). A vector is one row.
type ReadRows<'a> = Box<dyn Fn(Range<usize>, &mut [f32]) -> Result<()> + 'a>;

/// A tensor that is read in parts, so that it need not fit the memory.
pub(crate) struct SourceTensor<'a> {
    pub(crate) info: TensorInfo,
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
    /// Opens a model to convert it: a file of llama2.c's v0, v1 or v2. Its tokenizer is found as [`Model::open`] finds it, or
    /// named in the options, which may also override hyperparameters that the file doesn't hold.
    ///
    /// # Errors
    /// Whatever is wrong with the file or its tokenizer; [`ErrorKind::Unwritable`] for a file that is GGUF already.
    ///
    /// [`Model::open`]: crate::Model::open
    pub fn open(path: impl AsRef<Path>, options: &ModelOptions) -> Result<Self> {
        let storage = Arc::new(Storage::open(path.as_ref())?);
        let model = Llama2c::read(&storage, options).map_err(|e| e.at(storage.path()))?;
        Ok(Self(Box::new(model)))
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
        if checkpoint::gguf::has_magic(storage) {
            let (what, reason) = ("a GGUF file".into(), "it is the source, and GGUF already".into());
            return Err(ErrorKind::Unwritable { what, reason }.into());
        }
        let mut checkpoint = checkpoint::read(storage)?;
        options.override_config(&mut checkpoint.config)?;
        let tokenizer = options.find_tokenizer(storage)?;
        if let Some(tokenizer) = &tokenizer
            && tokenizer.vocab_size() > checkpoint.config.vocab_size
        {
            let (tokenizer, model) = (tokenizer.vocab_size(), checkpoint.config.vocab_size);
            return Err(ErrorKind::VocabMismatch { tokenizer, model }.into());
        }
        Ok(Self { checkpoint, tokenizer })
    }
}

impl SourceModel for Llama2c {
    fn config(&self) -> &Config {
        &self.checkpoint.config
    }

    fn rope_factors(&self) -> Option<&[f32]> {
        self.checkpoint.rope_factors.as_deref()
    }

    fn tokenizer(&self) -> Result<Option<TokenizerParts<'_>>> {
        let Some(tokenizer) = &self.tokenizer else { return Ok(None) };
        let unknown = || {
            let (what, reason) = ("the tokenizer".into(), "its merges are no longer known".into());
            Error::from(ErrorKind::Unwritable { what, reason })
        };
        tokenizer.to_parts().map(Some).ok_or_else(unknown)
    }

    fn chat_template(&self) -> Option<&str> {
        self.checkpoint.chat_template.as_deref()
    }

    fn tensors(&self) -> Vec<SourceTensor<'_>> {
        self.checkpoint.weights.named().into_iter().map(|(name, weight)| tensor(name, weight)).collect()
    }
}

fn tensor(name: String, weight: Weight<'_>) -> SourceTensor<'_> {
    let info = weight.info(name);
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
    SourceTensor { info, read }
}
