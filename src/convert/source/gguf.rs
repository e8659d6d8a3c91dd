//! A GGUF file as a source: what it says of itself is carried over, key by key.

use std::sync::Arc;

use super::llama2c::tensors;
use super::tokenizer::SourceTokenizer;
use super::{SourceModel, SourceTensor};
use crate::checkpoint::gguf::metadata;
use crate::checkpoint::{self, Checkpoint};
use crate::config::Config;
use crate::convert::gguf::Value;
use crate::convert::gguf::llama::{CONTEXT_LENGTH, FILE_TYPE, NORM_EPS, ROPE_THETA};
use crate::error::Result;
use crate::model::ModelOptions;
use crate::storage::Storage;
use crate::tokenizer::{Tokenizer, TokenizerParts};

/// How keys begin that tell how the file is laid out or how its weights are stored.
const OF_THE_FILE: [&str; 4] = ["general.alignment", FILE_TYPE, "general.quantization_version", "split."];

/// A model in GGUF, in one file or in several.
#[derive(Debug)]
pub(super) struct Gguf {
    checkpoint: Checkpoint,
    tokenizer: Option<SourceTokenizer>,
    metadata: Vec<(String, Value)>,
    file_type: Option<u32>,
}

impl Gguf {
    pub(super) fn read(storage: &Arc<Storage>, options: &ModelOptions) -> Result<Self> {
        let mut checkpoint = checkpoint::read(storage)?;
        let original = checkpoint.config.clone();
        options.override_config(&mut checkpoint.config)?;
        let tokenizer = SourceTokenizer::find(options, &checkpoint.config, || {
            let own = options.find_tokenizer(storage)?;
            Ok(own.map(|tokenizer| SourceTokenizer::Tokenizer(Box::new(tokenizer))))
        })?;

        let overrides = overrides(&original, &checkpoint.config);
        let replaced = |key: &str| {
            overrides.iter().any(|(name, _)| key == *name)
                || options.names_tokenizer() && key.starts_with("tokenizer.ggml.")
        };
        let mut metadata = Vec::new();
        let mut file_type = None;
        for (key, value) in self::metadata(storage)? {
            if key == FILE_TYPE {
                file_type = value.integer().and_then(|number| number.try_into().ok());
            }
            if !replaced(&key) && !OF_THE_FILE.iter().any(|start| key.starts_with(start)) {
                metadata.extend(Value::carried(&value).map(|value| (key, value)));
            }
        }
        metadata.extend(overrides.into_iter().map(|(key, value)| (key.into(), value)));
        Ok(Self { checkpoint, tokenizer, metadata, file_type })
    }
}

/// The keys of hyperparameters that are to be other than the file says.
fn overrides(original: &Config, config: &Config) -> Vec<(&'static str, Value)> {
    let mut keys = Vec::new();
    if config.norm_eps != original.norm_eps {
        keys.push((NORM_EPS, config.norm_eps.into()));
    }
    if config.rope_theta != original.rope_theta {
        keys.push((ROPE_THETA, (config.rope_theta as f32).into()));
    }
    if config.max_seq_len != original.max_seq_len {
        keys.push((CONTEXT_LENGTH, u32::try_from(config.max_seq_len).unwrap_or(u32::MAX).into()));
    }
    keys
}

impl SourceModel for Gguf {
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

    fn metadata(&self) -> Option<Vec<(String, Value)>> {
        Some(self.metadata.clone())
    }

    fn file_type(&self) -> Option<u32> {
        self.file_type
    }
}
