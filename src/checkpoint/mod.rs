//! Readers of checkpoint files: bytes in, hyperparameters and weights out.
//!
//! A file is untrusted. Readers do their arithmetic in a type that can't overflow, compare sizes
//! before they make a tensor, allocate no more than the file's own length justifies, and never
//! panic. A new format is a file here and a line in [`READERS`].

pub(crate) mod file_kind;
pub(crate) mod gguf;
pub(crate) mod llama2c;

use std::path::Path;
use std::sync::Arc;

use file_kind::{FileKind, Wanted};

use crate::arch::{Architecture, LLAMA};
use crate::compute::Numerics;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::ops::RopeFactors;
use crate::sampler::SamplingDefaults;
use crate::storage::{Storage, folder};
use crate::tokenizer::Tokenizer;
use crate::weights::Weights;

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// The format's name, for people.
    pub(crate) format: &'static str,
    #[cfg_attr(not(feature = "convert"), allow(dead_code, reason = "conversion asks for it alone"))]
    pub(crate) architecture: &'static Architecture,
    pub(crate) config: Config,
    pub(crate) weights: Weights,
    pub(crate) rope_factors: RopeFactors,
    pub(crate) numerics: Numerics,
    /// How a chat is written, in Jinja.
    pub(crate) chat_template: Option<String>,
    /// Templates for special uses, by name.
    pub(crate) named_templates: Vec<(String, String)>,
    /// How to sample.
    pub(crate) sampling: SamplingDefaults,
    /// Keys of the file and descriptions of their values, for people.
    pub(crate) metadata: Vec<(String, String)>,
    /// Of all files that it was read from.
    pub(crate) file_bytes: u64,
    /// Notes for whoever runs it, each a sentence.
    pub(crate) notes: Vec<String>,
}

impl Checkpoint {
    /// What a file holds that has nothing but hyperparameters and weights.
    fn plain(
        storage: &Storage,
        format: &'static str,
        config: Config,
        weights: Weights,
        numerics: Numerics,
    ) -> Self {
        let file_bytes = storage.len();
        let (rope_factors, chat_template, metadata) = (RopeFactors::default(), None, Vec::new());
        let notes = Vec::new();
        let architecture = &LLAMA;
        Self {
            format,
            architecture,
            config,
            weights,
            rope_factors,
            numerics,
            chat_template,
            named_templates: Vec::new(),
            sampling: SamplingDefaults::default(),
            metadata,
            file_bytes,
            notes,
        }
    }
}

struct Reader {
    /// Whether the file looks like this format. The first reader that says so reads it.
    detects: fn(&Storage) -> bool,
    read: fn(&Arc<Storage>) -> Result<Checkpoint>,
}

/// The formats. The last has no magic and detects a file by its size alone.
const READERS: &[Reader] = &[
    Reader { detects: gguf::has_magic, read: gguf::read },
    Reader { detects: llama2c::has_magic, read: llama2c::read_versioned },
    Reader { detects: llama2c::looks_like_v0, read: llama2c::read_v0 },
];

/// Whether it is a model of llama2.c's.
pub(crate) fn is_llama2c(storage: &Storage) -> bool {
    llama2c::has_magic(storage) || llama2c::looks_like_v0(storage)
}

/// Reads a checkpoint of any known format.
pub(crate) fn read(storage: &Arc<Storage>) -> Result<Checkpoint> {
    let reader = READERS.iter().find(|reader| (reader.detects)(storage));
    let reader = reader.ok_or_else(|| ErrorKind::UnknownFormat { hint: hint(storage) });
    reader
        .map_err(Error::from)
        .and_then(|r| (r.read)(storage))
        .map_err(|e| unfinished(e, storage).at(storage.path()))
}

/// The error of a file; if its name says that its download isn't complete, the error says so.
fn unfinished(error: Error, storage: &Storage) -> Error {
    match storage.path().filter(|path| file_kind::is_unfinished(path)) {
        Some(_) => {
            let hint = format!("its name says that its download isn't done, and {}", error.kind());
            Error::unknown_format(hint)
        }
        None => error,
    }
}

/// Reads the tokenizer that a file brings, if it brings one. There need not be a model in the file.
///
/// It is separate from [`read`], since with another tokenizer errors in this one don't matter, and
/// reading it would take time.
pub(crate) fn read_tokenizer(storage: &Storage) -> Result<Option<Tokenizer>> {
    let tokenizer = if gguf::has_magic(storage) { gguf::read_tokenizer(storage) } else { Ok(None) };
    tokenizer.map_err(|e| e.at(storage.path()))
}

/// What a file that no reader takes might be.
fn hint(storage: &Storage) -> String {
    let kind = FileKind::detect(storage.bytes(), storage.len());
    let folder = storage.path().map(|path| path.parent().unwrap_or(path));
    if let (Some(FileKind::LoraSafetensors | FileKind::AdapterConfigJson), Some(folder)) = (kind, folder) {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let base = folder::adapter_base(folder).flatten();
        let sentence = FileKind::LoraSafetensors.sentence(Wanted::Model);
        return base.map_or(sentence.clone(), |base| format!("{sentence}; its base is {base}"));
    }
    kind.map_or_else(
        || format!("it has no known magic number, and as llama2.c's v0 {}", llama2c::why_not_v0(storage)),
        |kind| kind.sentence(Wanted::Model),
    )
}
