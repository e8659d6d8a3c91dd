//! Checkpoints that this library runs as they are: llama2.c's, whose tokenizer lies beside them,
//! and GGUF.

use std::sync::Arc;

use super::gguf::Keys;
use super::tokenizer::SourceTokenizer;
use super::{ReadRows, SourceModel, SourceTensor};
use crate::checkpoint::{self, Checkpoint};
use crate::config::Config;
use crate::convert::gguf::Value;
use crate::error::Result;
use crate::model::ModelOptions;
use crate::storage::Storage;
use crate::tokenizer::{Tokenizer, TokenizerSpec};
use crate::weights::Weight;

/// A checkpoint and its tokenizer.
#[derive(Debug)]
pub(super) struct RunnableSource {
    checkpoint: Checkpoint,
    tokenizer: Option<SourceTokenizer>,
    /// Of GGUF alone.
    keys: Option<Keys>,
    notes: Vec<String>,
}

impl RunnableSource {
    pub(super) fn read(storage: &Arc<Storage>, options: &ModelOptions) -> Result<Self> {
        let mut checkpoint = checkpoint::read(storage)?;
        let original = checkpoint.config.clone();
        options.override_config(&mut checkpoint.config)?;
        let tokenizer = SourceTokenizer::find(options, &checkpoint.config, || {
            let own = options.find_tokenizer(storage)?;
            Ok(own.map(|tokenizer| SourceTokenizer::Tokenizer(Box::new(tokenizer))))
        })?;
        let is_gguf = checkpoint::gguf::has_magic(storage);
        let keys =
            is_gguf.then(|| Keys::read(storage, options, &original, &checkpoint.config)).transpose()?;
        let of_keys = keys.iter().flat_map(|keys| &keys.notes);
        let of_tokenizer = tokenizer.iter().flat_map(SourceTokenizer::notes);
        let notes = checkpoint.notes.iter().chain(of_keys).chain(of_tokenizer).cloned().collect();
        Ok(Self { checkpoint, tokenizer, keys, notes })
    }
}

impl SourceModel for RunnableSource {
    fn format(&self) -> &'static str {
        self.checkpoint.format
    }

    fn config(&self) -> &Config {
        &self.checkpoint.config
    }

    fn rope_factors(&self) -> Option<&[f32]> {
        self.checkpoint.rope_factors.as_deref()
    }

    fn tokenizer(&self) -> Result<Option<TokenizerSpec<'_>>> {
        self.tokenizer.as_ref().map(SourceTokenizer::parts).transpose()
    }

    fn usable_tokenizer(&self) -> Result<Option<Tokenizer>> {
        self.tokenizer.as_ref().map(SourceTokenizer::usable).transpose()
    }

    fn chat_template(&self) -> Option<&str> {
        self.checkpoint.chat_template.as_deref()
    }

    fn described(&self) -> &[(String, String)] {
        &self.checkpoint.metadata
    }

    fn file_bytes(&self) -> u64 {
        self.checkpoint.file_bytes
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn tensors(&self) -> Vec<SourceTensor<'_>> {
        self.checkpoint.weights.named().into_iter().map(|(name, weight)| tensor(name, weight)).collect()
    }

    fn metadata(&self) -> Option<Vec<(String, Value)>> {
        self.keys.as_ref().map(|keys| keys.metadata.clone())
    }

    fn file_type(&self) -> Option<u32> {
        self.keys.as_ref().and_then(|keys| keys.file_type)
    }
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
