//! The keys of a GGUF file that is a source: what it says of itself is carried over.

use crate::arch::Architecture;
use crate::checkpoint::gguf::tokenizer_settings::is_unknown;
use crate::checkpoint::gguf::{keys, metadata};
use crate::config::Config;
use crate::convert::gguf::Value;
use crate::error::Result;
use crate::model::ModelOptions;
use crate::storage::Storage;

/// How keys begin that tell how the file is laid out or how its weights are stored.
const OF_THE_FILE: [&str; 4] = [keys::ALIGNMENT, keys::FILE_TYPE, keys::QUANTIZATION_VERSION, "split."];

/// How keys begin that describe the tokenizer; the last are our own.
const OF_THE_TOKENIZER: [&str; 2] = ["tokenizer.ggml.", "babyllama.tokenizer."];

/// What is carried over.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) metadata: Vec<(String, Value)>,
    pub(crate) file_type: Option<u32>,
    /// What is carried over and isn't known.
    pub(super) notes: Vec<String>,
}

impl Keys {
    /// Reads the keys of a model whose hyperparameters are `original` in the file and are to be
    /// `config`.
    pub(super) fn read(
        storage: &Storage,
        options: &ModelOptions,
        architecture: &Architecture,
        original: &Config,
        config: &Config,
    ) -> Result<Self> {
        let overrides = overrides(architecture, original, config);
        let replaced = |key: &str| {
            overrides.iter().any(|(name, _)| key == name)
                || options.names_tokenizer() && OF_THE_TOKENIZER.iter().any(|start| key.starts_with(start))
        };
        let mut metadata = Vec::new();
        let mut file_type = None;
        let mut notes = Vec::new();
        for (key, value) in self::metadata(storage)? {
            if key == keys::FILE_TYPE {
                file_type = value.integer().and_then(|number| number.try_into().ok());
            }
            if is_unknown(&key) {
                notes.push(format!(
                    "the key {key} isn't known: its value is carried over and does nothing here"
                ));
            }
            if !replaced(&key) && !OF_THE_FILE.iter().any(|start| key.starts_with(start)) {
                metadata.extend(Value::carried(&value).map(|value| (key, value)));
            }
        }
        metadata.extend(overrides);
        Ok(Self { metadata, file_type, notes })
    }
}

/// The keys of hyperparameters that are to be other than the file says.
fn overrides(architecture: &Architecture, original: &Config, config: &Config) -> Vec<(String, Value)> {
    let mut changed = Vec::new();
    if config.norm_eps != original.norm_eps {
        changed.push((architecture.key(keys::NORM_EPS), config.norm_eps.into()));
    }
    if config.rope_theta != original.rope_theta {
        changed.push((architecture.key(keys::ROPE_THETA), (config.rope_theta as f32).into()));
    }
    if config.max_seq_len != original.max_seq_len {
        let positions = u32::try_from(config.max_seq_len).unwrap_or(u32::MAX);
        changed.push((architecture.key(keys::MAX_SEQ_LEN), positions.into()));
    }
    changed
}
