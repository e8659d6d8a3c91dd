//! Walks the reader's table of keys: each row must be true of what it does with files that have
//! them.

use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{self, gguf::KEYS};
use crate::convert::gguf::Value;
use crate::convert::{GgufOptions, Source, to_gguf};
use crate::model::ModelOptions;
use crate::settings::Treatment;
use crate::storage::Storage;

/// What is read of a file: the hyperparameters and what else decides what is computed, and the
/// notes; or the error.
type Outcome = Result<(String, Vec<String>), String>;

fn read(bytes: Vec<u8>) -> Outcome {
    let read = checkpoint::read(&Arc::new(Storage::from_vec(bytes)));
    read.map(|it| (format!("{:?} {:?}", it.config, it.rope_factors), it.notes)).map_err(|e| e.to_string())
}

fn odd_values() -> [Value; 6] {
    [7_u32.into(), 0.5_f32.into(), true.into(), false.into(), "odd".into(), (-3_i32).into()]
}

/// A file with another key, in a folder of its own.
struct Base(std::path::PathBuf);

impl Base {
    fn new(name: &str, options: &ModelOptions, keys: &[(&str, Value)]) -> Self {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/published/llama3");
        let source = Source::open(from, options).unwrap();
        let mut options = GgufOptions::new();
        for (key, value) in keys {
            options = options.metadata(&format!("llama.{key}"), value.clone());
        }
        let mut bytes = Vec::new();
        to_gguf(&source, &options, &mut bytes).unwrap();
        let path = std::env::temp_dir().join(format!("babyllama-{}-{name}.gguf", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn with(&self, key: &str, value: Value) -> Vec<u8> {
        let source = Source::open(&self.0, &ModelOptions::new()).unwrap();
        let options = GgufOptions::new().metadata(&format!("llama.{key}"), value);
        let mut bytes = Vec::new();
        to_gguf(&source, &options, &mut bytes).unwrap();
        bytes
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn keys_are_as_their_table_says() {
    let yarn: [(&str, Value); 3] = [
        ("rope.scaling.type", "yarn".into()),
        ("rope.scaling.factor", 4_f32.into()),
        ("rope.scaling.yarn_ext_factor", 1_f32.into()),
    ];
    let bases = [
        Base::new("plain", &ModelOptions::new(), &[]),
        Base::new("yarn", &ModelOptions::new(), &yarn),
        Base::new("windowed", &ModelOptions::new(), &[("attention.sliding_window", 8_u32.into())]),
        Base::new("mute", &ModelOptions::new().no_tokenizer(), &[]),
    ];
    for setting in KEYS {
        let mut counts = 0;
        for base in &bases {
            let plain = read(std::fs::read(&base.0).unwrap()).unwrap();
            for value in odd_values() {
                let bytes = base.with(setting.key, value.clone());
                let storage = Storage::from_vec(bytes.clone());
                let found = read(bytes);
                let keys = checkpoint::gguf::metadata(&storage).unwrap();
                let name = format!("llama.{}", setting.key);
                let (_, written) = keys.iter().find(|(key, _)| *key == name).unwrap();
                match setting.treatment {
                    Treatment::Honored => counts += usize::from(found.as_ref() != Ok(&plain)),
                    Treatment::RefusedUnless(unless, reason) if !unless(written) => {
                        let error = found.unwrap_err();
                        assert!(error.contains(&format!("{} is ", setting.key)), "{value:?}: {error}");
                        assert!(error.contains(reason), "{error}");
                        counts += 1;
                    }
                    _ => assert_eq!(found.as_ref(), Ok(&plain), "{}: {value:?}", setting.key),
                }
            }
        }
        let is_harmless = matches!(setting.treatment, Treatment::Harmless(_));
        assert!(is_harmless || counts > 0, "{} changes nothing", setting.key);
    }
    let unknown = read(bases[0].with("hyper_scale", 7_u32.into())).unwrap();
    assert!(unknown.1[0].ends_with("passed over: llama.hyper_scale"), "{unknown:?}");
    assert!(read(std::fs::read(&bases[0].0).unwrap()).unwrap().1.is_empty());
}
