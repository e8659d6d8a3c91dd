//! Checkpoints of llama2.c, which this library runs as they are; their tokenizer lies beside them.

use std::sync::Arc;

use super::tokenizer::SourceTokenizer;
use super::{ReadRows, SourceModel, SourceTensor};
use crate::checkpoint::{self, Checkpoint};
use crate::config::Config;
use crate::error::Result;
use crate::model::ModelOptions;
use crate::storage::Storage;
use crate::tokenizer::{Tokenizer, TokenizerParts};
use crate::weights::{Weight, Weights};

/// A checkpoint of llama2.c, and its tokenizer.
#[derive(Debug)]
pub(super) struct Llama2c {
    checkpoint: Checkpoint,
    tokenizer: Option<SourceTokenizer>,
}

impl Llama2c {
    pub(super) fn read(storage: &Arc<Storage>, options: &ModelOptions) -> Result<Self> {
        let mut checkpoint = checkpoint::read(storage)?;
        options.override_config(&mut checkpoint.config)?;
        let tokenizer = SourceTokenizer::find(options, &checkpoint.config, || {
            let beside = options.find_tokenizer(storage)?;
            Ok(beside.map(|tokenizer| SourceTokenizer::Tokenizer(Box::new(tokenizer))))
        })?;
        Ok(Self { checkpoint, tokenizer })
    }
}

impl SourceModel for Llama2c {
    fn format(&self) -> &'static str {
        self.checkpoint.format
    }

    fn config(&self) -> &Config {
        &self.checkpoint.config
    }

    fn rope_factors(&self) -> Option<&[f32]> {
        self.checkpoint.rope_factors.as_deref()
    }

    fn tokenizer(&self) -> Result<Option<TokenizerParts<'_>>> {
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

    fn tensors(&self) -> Vec<SourceTensor<'_>> {
        tensors(&self.checkpoint.weights)
    }
}

/// The tensors of a checkpoint.
pub(super) fn tensors(weights: &Weights) -> Vec<SourceTensor<'_>> {
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
