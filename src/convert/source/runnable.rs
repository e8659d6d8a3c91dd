//! Checkpoints that this library runs as they are: llama2.c's, whose tokenizer lies beside them,
//! and GGUF.

use std::sync::Arc;

use super::gguf::Keys;
use super::tokenizer::SourceTokenizer;
use super::{ReadRows, SourceModel, SourceTensor, SourceWeights};
use crate::arch::{TensorId, Weight};
use crate::checkpoint;
use crate::error::Result;
use crate::model::ModelOptions;
use crate::storage::Storage;

pub(super) fn read(storage: &Arc<Storage>, options: &ModelOptions) -> Result<SourceModel> {
    let mut checkpoint = checkpoint::read(storage)?;
    let original = checkpoint.config.clone();
    options.override_config(&mut checkpoint.config)?;
    let tokenizer = SourceTokenizer::find(options, &checkpoint.config, || {
        let own = options.find_tokenizer(storage)?;
        Ok(own.map(|tokenizer| SourceTokenizer::Tokenizer(Box::new(tokenizer))))
    })?;
    let is_gguf = checkpoint::gguf::has_magic(storage);
    let keys = is_gguf
        .then(|| Keys::read(storage, options, checkpoint.architecture, &original, &checkpoint.config))
        .transpose()?;
    let mut notes = checkpoint.notes;
    notes.extend(keys.iter().flat_map(|keys| keys.notes.clone()));
    notes.extend(tokenizer.iter().flat_map(SourceTokenizer::notes).cloned());
    Ok(SourceModel {
        format: checkpoint.format,
        architecture: checkpoint.architecture,
        config: checkpoint.config,
        rope_factors: checkpoint.rope_factors,
        weights: SourceWeights::Runnable(checkpoint.weights),
        tokenizer,
        chat_template: checkpoint.chat_template,
        named_templates: checkpoint.named_templates,
        adapters: Vec::new(),
        described: Vec::new(), // the keys have it
        metadata: checkpoint.metadata,
        file_bytes: checkpoint.file_bytes,
        notes,
        keys,
        expected: None,
    })
}

pub(super) fn tensor(id: TensorId, weight: Weight<'_>) -> SourceTensor<'_> {
    let info = weight.info(id.to_string());
    let bytes = match weight {
        Weight::Vector(_) => None,
        Weight::Matrix(tensor) => tensor.row_bytes().map(|bytes| vec![bytes]),
    };
    let read: ReadRows<'_> = match weight {
        Weight::Vector(vector) => Box::new(|_, out| {
            out.copy_from_slice(vector);
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
    SourceTensor { id, info, bytes, read }
}
