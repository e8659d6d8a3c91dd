//! Where a model comes from: hyperparameters, a tokenizer, and tensors one after another.
//!
//! - here: what a model is to everything that is done with it, and which files are which
//! - [`runnable`]: checkpoints that this library runs; [`gguf`] the keys of those that are GGUF
//! - [`hugging_face`] (with [`models`], [`hf_tensors`] and [`needless`]) and [`meta`]: directories,
//!   as models are published; [`llama`] is what they have in common
//! - [`safetensors`], [`torch`], [`zip`] and [`pickle`]: files of tensors, [`stored`] the tensors,
//!   [`file`] the files
//! - [`vocabulary`], [`added_tokens`], [`sentencepiece`], [`tiktoken`], [`tokenizer_json`] (with
//!   [`spaced_bpe`], [`words`] and [`post_processor`]) and [`hf_tokenizer`]: tokenizers;
//!   [`tokenizer_settings`] what is done with each setting of theirs; [`tokenizer`] which of them
//!   it is
//! - [`described`]: what a directory says of its model beside its weights, with [`card`] and
//!   [`hf_templates`]
//! - [`lora`]: adapters, which are merged into any of these
//! - [`json`]: questions to JSON; [`missing`] what to do about what isn't there

mod added_tokens;
mod card;
#[cfg(test)]
mod damaged;
mod described;
mod expected;
mod file;
mod gguf;
mod hf_templates;
mod hf_tensors;
mod hf_tokenizer;
mod hugging_face;
mod json;
mod llama;
mod lora;
mod meta;
mod missing;
mod models;
mod needless;
mod pickle;
mod post_processor;
mod rope;
mod runnable;
mod safetensors;
mod sentencepiece;
mod settings;
mod spaced_bpe;
mod special_names;
mod stored;
mod tiktoken;
mod tokenizer;
mod tokenizer_json;
mod tokenizer_settings;
mod torch;
mod vocabulary;
mod words;
mod zip;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

pub(crate) use described::Described;
pub(crate) use expected::Expected;
use gguf::Keys;
use lora::Adapter;
use stored::ShardedTensor;
use tokenizer::SourceTokenizer;

use crate::arch::{Architecture, TensorId};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::model::{ModelBytes, ModelOptions};
use crate::ops::RopeFactors;
use crate::storage::Storage;
use crate::tokenizer::{Tokenizer, TokenizerSpec};
use crate::weights::{TensorInfo, Weights};

/// A model that can be converted.
#[derive(Debug)]
pub struct Source(SourceModel);

/// A model's files, of any format, opened.
#[derive(Debug)]
pub(crate) struct SourceModel {
    /// The format's name, for people.
    pub(crate) format: &'static str,
    /// As which it is written.
    pub(crate) architecture: &'static Architecture,
    pub(crate) config: Config,
    pub(crate) rope_factors: RopeFactors,
    weights: SourceWeights,
    tokenizer: Option<SourceTokenizer>,
    /// How a chat is written, in Jinja.
    pub(crate) chat_template: Option<String>,
    named_templates: Vec<(String, String)>,
    /// What else the files say that GGUF has keys for.
    pub(crate) described: Described,
    /// Adapters that are merged while tensors are read.
    adapters: Vec<Adapter>,
    /// Keys of the files and descriptions of their values, for people.
    metadata: Vec<(String, String)>,
    /// Of all files of weights.
    file_bytes: u64,
    /// What the converted file can't say or does otherwise, each a sentence for people. Empty if it
    /// is the source's equal.
    notes: Vec<String>,
    /// Of a source that is GGUF: its keys, except those that tell how weights are stored. They hold
    /// what the other fields say; what they lack is written from those fields.
    pub(crate) keys: Option<Keys>,
    /// What the files say that the model computes, derived without the code that made `config`.
    /// `None` if it can't be.
    pub(crate) expected: Option<Expected>,
}

/// Where the weights are.
#[derive(Debug)]
enum SourceWeights {
    /// In a checkpoint that this library runs.
    Runnable(Weights),
    /// In the files of a published model.
    Published(Vec<(TensorId, ShardedTensor)>),
}

impl SourceModel {
    /// The tensors, in the order in which they are best read. They have Meta's names, shapes and
    /// order of rows: RoPE rotates adjacent pairs.
    pub(crate) fn tensors(&self) -> Vec<SourceTensor<'_>> {
        let tensors: Vec<_> = match &self.weights {
            SourceWeights::Runnable(weights) => {
                weights.tensors().map(|(id, weight)| runnable::tensor(id, weight)).collect()
            }
            SourceWeights::Published(tensors) => {
                tensors.iter().map(|(id, tensor)| tensor.as_source(*id)).collect()
            }
        };
        tensors.into_iter().map(|tensor| lora::merged(&self.adapters, tensor)).collect()
    }

    /// Whether the classifier is the embeddings.
    pub(crate) fn is_tied(&self) -> bool {
        !self.tensors().iter().any(|tensor| tensor.id.kind.is_output())
    }

    /// The tokenizer as it is written.
    pub(crate) fn tokenizer(&self) -> Result<Option<TokenizerSpec<'_>>> {
        self.tokenizer.as_ref().map(SourceTokenizer::spec).transpose()
    }
}

/// Decodes some rows of a tensor: (rows, columns). A vector is one row.
type ReadRows<'a> = Box<dyn Fn(Range<usize>, &mut [f32]) -> Result<()> + Sync + 'a>;

/// A tensor that is read in parts, by several threads at once, so that it need not fit the memory.
pub(crate) struct SourceTensor<'a> {
    pub(crate) id: TensorId,
    pub(crate) info: TensorInfo,
    /// The weights as they are stored, in parts, if that is how GGUF stores them in `info.dtype`,
    /// and if they are mapped.
    pub(crate) bytes: Option<Vec<&'a [u8]>>,
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
    /// Opens a model to convert it: a directory, or a file in it, of Hugging Face's (`config.json`;
    /// safetensors or `pytorch_model.bin`) or of Meta's (`params.json`, `consolidated.NN.pth`); or
    /// a file: GGUF, or llama2.c's v0, v1 or v2.
    ///
    /// Its tokenizer is in the directory, or found as [`Model::open`] finds it, or named in the
    /// options: what [`Tokenizer::open`] takes, or a `tokenizer.model` or `tokenizer.json`. The
    /// options may also override hyperparameters that the files don't hold.
    ///
    /// Only the places of weights are read now, so this takes milliseconds for any size.
    ///
    /// # Errors
    /// Those of the files and of the tokenizer, each with the file's name: among
    /// them [`ErrorKind::UnsupportedArchitecture`], [`ErrorKind::MissingTensor`],
    /// [`ErrorKind::UnsupportedTensor`] for one that a Llama doesn't have, and
    /// [`ErrorKind::TensorShape`].
    ///
    /// [`Model::open`]: crate::Model::open
    ///
    /// [`ErrorKind::UnsupportedArchitecture`]: crate::ErrorKind::UnsupportedArchitecture
    /// [`ErrorKind::MissingTensor`]: crate::ErrorKind::MissingTensor
    /// [`ErrorKind::UnsupportedTensor`]: crate::ErrorKind::UnsupportedTensor
    /// [`ErrorKind::TensorShape`]: crate::ErrorKind::TensorShape
    pub fn open(path: impl AsRef<Path>, options: &ModelOptions) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            return Self::open_directory(path, options);
        }
        if let Some(error) = missing::elsewhere(path) {
            return Err(error);
        }
        if let Some(model) = Self::open_part(path, options)? {
            return Ok(model);
        }
        Self::refuse_weights_alone(path)?;
        let storage = Arc::new(Storage::open(path)?);
        runnable::read(&storage, options).map(Self).map_err(|e| e.at(storage.path()))
    }

    /// Takes a model that is in memory: GGUF, or llama2.c's v0, v1 or v2.
    ///
    /// # Errors
    /// Like [`Source::open`]'s.
    pub fn from_bytes(bytes: impl Into<ModelBytes>, options: &ModelOptions) -> Result<Self> {
        runnable::read(&Arc::new(bytes.into().0), options).map(Self)
    }

    /// Merges an adapter (`LoRA`) into the model, times `scale`, which is usually 1: PEFT's
    /// directory or a file of weights in it, or a GGUF file of llama.cpp's. Several are merged in
    /// turn. What is read and written afterwards is the merged model; weights are added in f64, and
    /// rounded once to how the base's are stored, or to what they are converted to.
    ///
    /// # Errors
    /// Those of the files; [`ErrorKind::TensorShape`], [`ErrorKind::TensorLayout`] or
    /// [`ErrorKind::UnsupportedTensor`] where the adapter is for another base, and
    /// [`ErrorKind::Config`] for a setting of it that can't be honored. The model is then as it
    /// was.
    ///
    /// [`ErrorKind::Config`]: crate::ErrorKind::Config
    /// [`ErrorKind::TensorLayout`]: crate::ErrorKind::TensorLayout
    /// [`ErrorKind::TensorShape`]: crate::ErrorKind::TensorShape
    /// [`ErrorKind::UnsupportedTensor`]: crate::ErrorKind::UnsupportedTensor
    pub fn merge_lora(&mut self, path: impl AsRef<Path>, scale: f32) -> Result<()> {
        self.0.merge_lora(path.as_ref(), scale)
    }

    fn open_directory(folder: &Path, options: &ModelOptions) -> Result<Self> {
        let has = |name: &str| folder.join(name).is_file();
        let weights = if has(hugging_face::CONFIG) { hf_tensors::find(folder) } else { None };
        let is_whole = weights.as_deref().is_some_and(hf_tensors::is_whole);
        if has(meta::PARAMS) && (weights.is_none() || (!is_whole && meta::is_whole(folder))) {
            let mut model = meta::open(folder, options)?;
            if let Some(weights) = weights {
                let name = weights.file_name().unwrap_or_default().to_string_lossy();
                model.notes.push(format!(
                    "the weights of {name} aren't whole, so those that {} describes are converted",
                    meta::PARAMS
                ));
            }
            return Ok(Self(model));
        }
        if has(hugging_face::CONFIG) {
            return hugging_face::open(folder, None, options).map(Self);
        }
        if has(hugging_face::ADAPTER) {
            return Err(hugging_face::adapter(folder));
        }
        Err(missing::description(folder))
    }

    /// Opens a file of a published model's directory: the weights that are named are those that are
    /// converted. `None` if it is no such file.
    fn open_part(path: &Path, options: &ModelOptions) -> Result<Option<Self>> {
        let folder = folder_of(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let has = |name: &str| folder.join(name).is_file();
        let opened = |model: Result<SourceModel>| model.map(|model| Some(Self(model)));
        match &*name {
            meta::PARAMS => return opened(meta::open(folder, options)),
            hugging_face::CONFIG => return Self::open_directory(folder, options).map(Some),
            index if index.ends_with(".index.json") => {
                return opened(hugging_face::open(folder, Some(path), options));
            }
            _ if !begins_as_part(path) => return Ok(None),
            _ => {}
        }
        if meta::is_shard(&name) && has(meta::PARAMS) {
            return opened(meta::open(folder, options));
        }
        if torch::has_magic(&beginning(path))
            && let Some(model) = meta::open_training(path, options)?
        {
            return Ok(Some(Self(model)));
        }
        if has(hugging_face::CONFIG) {
            return opened(hugging_face::open(folder, Some(path), options));
        }
        if has(meta::PARAMS) {
            let hint = format!(
                "{} describes the files consolidated.* beside it, and not this one: name the directory, or move the other \
                 files away",
                meta::PARAMS
            );
            return Err(Error::unknown_format(hint).at(Some(path)));
        }
        Ok(None)
    }

    /// Refuses a file of weights that nothing describes.
    fn refuse_weights_alone(path: &Path) -> Result<()> {
        let start = beginning(path);
        if !torch::has_magic(&start) && !safetensors::has_magic(&start) {
            return Ok(());
        }
        let folder = folder_of(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if folder.join(hugging_face::ADAPTER).is_file() || name.starts_with("adapter_model.") {
            return Err(hugging_face::adapter(folder));
        }
        let hint = format!(
            "it holds a model's weights alone, and {} (or Meta's {}) is missing beside it, which says what they are: \
             download the whole directory",
            hugging_face::CONFIG,
            meta::PARAMS
        );
        Err(Error::unknown_format(hint).at(Some(path)))
    }

    /// The format's name, for people.
    #[must_use]
    pub fn format(&self) -> &'static str {
        self.0.format
    }

    /// The size of its files of weights in bytes.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.0.file_bytes
    }

    /// What its files say of the model: each key, and its value for people to read.
    #[must_use]
    pub fn metadata(&self) -> &[(String, String)] {
        &self.0.metadata
    }

    /// What a user should know before converting it: settings that aren't known, and what the
    /// written file can't say or does otherwise than the source. Each is a sentence for people, and
    /// none means that the written file is the source's equal.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.0.notes
    }

    /// The template that its files bring for chats, in Jinja.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        self.0.chat_template.as_deref()
    }

    /// The templates that its files bring for special uses, such as tools: name and Jinja.
    #[must_use]
    pub fn named_chat_templates(&self) -> &[(String, String)] {
        &self.0.named_templates
    }

    /// Its tokenizer, if it has one.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] for one that can be read but not used.
    ///
    /// [`ErrorKind::Tokenizer`]: crate::ErrorKind::Tokenizer
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>> {
        self.0.tokenizer.as_ref().map(SourceTokenizer::usable).transpose()
    }

    /// The model's hyperparameters.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// What tensors it has, in the order in which they are converted.
    #[must_use]
    pub fn tensors(&self) -> Vec<TensorInfo> {
        self.0.tensors().into_iter().map(|tensor| tensor.info).collect()
    }

    pub(super) fn model(&self) -> &SourceModel {
        &self.0
    }
}

/// The directory that a file is in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether a file begins as those do that PyTorch or safetensors write.
fn begins_as_part(path: &Path) -> bool {
    let start = beginning(path);
    torch::has_magic(&start) || safetensors::has_magic(&start)
}

/// A file's first bytes; none of what can't be read.
fn beginning(path: &Path) -> [u8; 16] {
    let mut start = [0; 16];
    match file::DataFile::open(path).and_then(|file| file.read_at("its magic number", 0, &mut start)) {
        Ok(()) => start,
        Err(_) => [0; 16],
    }
}
