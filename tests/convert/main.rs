//! Models as they are published and files of ours: what is written, what it computes, and what is
//! refused.

#[path = "../common/mod.rs"]
mod common;

mod architectures;
mod byte_level;
mod damaged;
mod defaults;
mod fused;
mod importance;
mod llama2c;
mod lora;
#[cfg(feature = "jinja")]
mod named_templates;
mod published;
mod requantize;
mod settings;
mod stored;
mod tokenizers;
mod written;

use std::fs;
use std::path::{Path, PathBuf};

use babyllama::convert::{GgufOptions, Recipe, Source, check, gguf_bytes, to_gguf};
use babyllama::{ErrorKind, Model, ModelOptions};
use serde_json::{Map, Value, json};

use common::{Shape, TempFile, all_logits, assert_says, golden, refuses};

/// What `variants.py` and `published.py` feed.
const TOKENS: [u32; 8] = [1, 351, 7, 260, 150, 7, 288, 0];

const SHAPE: Shape = Shape::new(64, 96).layers(2).heads(4, 2).vocab(40).context(32);

fn published(name: &str) -> PathBuf {
    golden("published").join(name)
}

/// A directory with files of a published model. It goes when it is dropped.
struct Directory {
    /// In the directory, and it makes the directory.
    marker: TempFile,
}

impl Directory {
    /// A copy of one of the models that `tests/golden/published.py` makes.
    fn of(model: &str) -> Self {
        Self::with_files(model, |_| true)
    }

    fn without_tokenizer() -> Self {
        Self::with_files("llama2", |name| !name.contains("token"))
    }

    fn with_files(model: &str, wanted: impl Fn(&str) -> bool) -> Self {
        let marker = TempFile::new("marker", b"");
        for entry in fs::read_dir(published(model)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if wanted(&name) {
                fs::copy(entry.path(), marker.beside(name)).unwrap();
            }
        }
        Self { marker }
    }

    fn folder(&self) -> &Path {
        self.marker.folder()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.marker.beside(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Self {
        fs::write(self.path(name), bytes).unwrap();
        self
    }

    /// Replaces a part of a text file.
    #[track_caller]
    fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{name} has no {from}");
        self.write(name, text.replace(from, to));
    }

    fn open(&self) -> babyllama::Result<Source> {
        Source::open(self.folder(), &ModelOptions::new())
    }

    /// Without the tokenizer.
    fn open_weights(&self) -> babyllama::Result<Source> {
        Source::open(self.folder(), &ModelOptions::new().no_tokenizer())
    }

    /// The error without the directory's name.
    #[track_caller]
    fn refusal(&self) -> String {
        let error = self.open().unwrap_err();
        assert!(error.path().is_some(), "{error}");
        error.to_string().replace(&format!("{}/", self.folder().display()), "")
    }
}

/// A tensor of a safetensors file: its type, its shape and its bytes.
#[derive(Clone)]
struct Stored(String, Vec<usize>, Vec<u8>);

/// A copy of `published/llama3` with its tensors in one file, to be changed.
struct Variant {
    directory: Directory,
    config: Map<String, Value>,
    tensors: Vec<(String, Stored)>,
}

fn read_safetensors(path: &Path) -> Vec<(String, Stored)> {
    let bytes = fs::read(path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    let entry = |(name, entry): (&String, &Value)| {
        let numbers = |key: &str| -> Vec<usize> { serde_json::from_value(entry[key].clone()).unwrap() };
        let at = numbers("data_offsets");
        let data = bytes[8 + len..][at[0]..at[1]].to_vec();
        (name.clone(), Stored(entry["dtype"].as_str().unwrap().into(), numbers("shape"), data))
    };
    header.iter().filter(|(name, _)| *name != "__metadata__").map(entry).collect()
}

fn safetensors(tensors: &[(String, Stored)]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, Stored(dtype, shape, bytes)) in tensors {
        let at = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": at}));
        data.extend(bytes);
    }
    let header = Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

impl Variant {
    fn new() -> Self {
        let is_weights = |name: &str| name.contains(".safetensors");
        let mut tensors = Vec::new();
        for entry in fs::read_dir(published("llama3")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                tensors.extend(read_safetensors(&path));
            }
        }
        let config = fs::read(published("llama3/config.json")).unwrap();
        Self {
            directory: Directory::with_files("llama3", |name| !is_weights(name)),
            config: serde_json::from_slice(&config).unwrap(),
            tensors,
        }
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.into(), value);
        self
    }

    fn with(self, settings: &Value) -> Self {
        let settings = settings.as_object().into_iter().flatten();
        settings.fold(self, |copy, (key, value)| copy.set(key, value.clone()))
    }

    fn drop(mut self, key: &str) -> Self {
        self.config.remove(key);
        self
    }

    fn tensor(mut self, name: &str, tensor: Stored) -> Self {
        self.tensors.push((name.into(), tensor));
        self
    }

    fn get(&self, name: &str) -> &Stored {
        &self.tensors.iter().find(|(of, _)| of == name).unwrap().1
    }

    fn folder(&self) -> &Path {
        self.directory.folder()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        self.directory.write(name, bytes);
    }

    fn save(&self) -> &Directory {
        self.write("config.json", Value::Object(self.config.clone()).to_string());
        self.write("model.safetensors", safetensors(&self.tensors));
        &self.directory
    }

    fn saved(self) -> Directory {
        self.save();
        self.directory
    }

    fn open(&self) -> babyllama::Result<Source> {
        self.save().open()
    }

    #[track_caller]
    fn refusal(&self) -> String {
        self.save().refusal()
    }
}

/// The bytes of a model as GGUF.
#[track_caller]
fn gguf(source: &Source, options: &GgufOptions) -> Vec<u8> {
    let mut file = Vec::new();
    to_gguf(source, options, &mut file).unwrap();
    assert_eq!(file.len() as u64, gguf_bytes(source, options).unwrap());
    file
}

/// The bytes of a model as GGUF of f32, after its settings were checked.
#[track_caller]
fn checked_gguf(source: &Source) -> Vec<u8> {
    let file = gguf(source, &GgufOptions::new().recipe(Recipe::F32));
    check(source, TempFile::new("model.gguf", &file), |_| ()).unwrap();
    file
}

#[track_caller]
fn converted(source: &TempFile, open: &ModelOptions, options: &GgufOptions) -> Vec<u8> {
    gguf(&Source::open(source, open).unwrap(), options)
}

fn logits(model: &Model) -> Vec<f32> {
    all_logits(model, &[1, 7, 30, 2, 11, 39, 5])
}

/// The message of an error that refuses to write.
#[track_caller]
fn unwritable<T>(result: babyllama::Result<T>) -> String {
    refuses!(result, ErrorKind::Unwritable { .. }).to_string()
}

fn notes_have(source: &Source, part: &str) -> bool {
    source.notes().iter().any(|note| note.contains(part))
}

#[track_caller]
fn assert_noted(source: &Source, part: &str) {
    assert_says(&source.notes().join("\n"), &[part]);
}
