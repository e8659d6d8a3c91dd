//! Walks the tables: each row must be true of what the reader does.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Map, Value, json};

use super::{CONFIG, PARAMS, ROPE, Unless};
use crate::convert::{GgufOptions, Source, to_gguf};
use crate::model::ModelOptions;
use crate::settings::{Setting, Treatment};

/// A model's directory with other settings. It goes when it is dropped.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What becomes of a published model: the bytes that are written and the notes, or the error.
type Outcome = Result<(Vec<u8>, Vec<String>), String>;

/// What becomes of a model if a setting has another value.
type Convert<'a> = &'a dyn Fn(Option<(&str, Value)>) -> Outcome;

impl Directory {
    fn of(name: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let unique = format!("babyllama-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(unique);
        fs::create_dir_all(&folder).unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/published").join(name);
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
        Self(folder)
    }

    fn settings(&self, file: &str) -> Map<String, Value> {
        serde_json::from_slice(&fs::read(self.0.join(file)).unwrap()).unwrap()
    }

    fn with(&self, file: &str, settings: &Map<String, Value>) -> Outcome {
        fs::write(self.0.join(file), serde_json::to_vec(settings).unwrap()).unwrap();
        let convert = || -> crate::error::Result<_> {
            let source = Source::open(&self.0, &ModelOptions::new())?;
            let mut bytes = Vec::new();
            to_gguf(&source, &GgufOptions::new(), &mut bytes)?;
            Ok((bytes, source.notes().to_vec()))
        };
        convert().map_err(|e| e.to_string())
    }
}

/// Values that no setting has, or hardly any.
fn odd_values() -> [Value; 8] {
    [json!(7), json!(0.5), json!("odd"), json!(true), json!(false), json!([1]), json!({"a": 1}), json!(-3)]
}

/// Holds a table against what becomes of each of some models when a setting has an odd value.
fn walk(table: &[Setting<Unless>], outcomes: &[Convert<'_>]) {
    for outcome in outcomes {
        let (plain, notes) = outcome(None).unwrap();
        for Setting { key, treatment } in table {
            for value in odd_values() {
                let found = outcome(Some((key, value.clone())));
                match treatment {
                    Treatment::Honored => continue,
                    Treatment::RefusedUnless(unless, reason) if !unless(&value) => {
                        let error = found.unwrap_err();
                        assert!(error.contains(&format!("{key} is ")), "{key}: {value}: {error}");
                        assert!(!reason.is_empty());
                        continue;
                    }
                    Treatment::RefusedUnless(..) => {}
                    Treatment::Harmless(reason) => assert!(!reason.is_empty()),
                }
                let found = found.unwrap_or_else(|error| panic!("{key}: {value}: {error}"));
                assert!(found == (plain.clone(), notes.clone()), "{key}: {value} changes something");
            }
        }
    }
    for Setting { key, treatment } in table {
        let differs = |value: &Value| {
            outcomes.iter().any(|outcome| outcome(Some((key, value.clone()))) != outcome(None))
        };
        let is_refused = |value: &Value| match treatment {
            Treatment::RefusedUnless(unless, _) => !unless(value),
            _ => true,
        };
        match treatment {
            Treatment::Honored => {
                assert!(odd_values().iter().any(differs), "{key} changes nothing");
            }
            _ => assert!(odd_values().iter().any(is_refused), "{key} is never refused"),
        }
    }
    for (i, Setting { key, .. }) in table.iter().enumerate() {
        assert!(!table[..i].iter().any(|other| other.key == *key), "{key} is there twice");
    }
}

#[test]
fn config_json_is_as_its_table_says() {
    let directory = Directory::of("llama3");
    let settings = directory.settings("config.json");
    let outcome = |change: Option<(&str, Value)>| {
        let mut settings = settings.clone();
        settings.extend(change.map(|(key, value)| (key.to_owned(), value)));
        directory.with("config.json", &settings)
    };
    walk(CONFIG, &[&outcome]);
}

#[test]
fn rope_scaling_is_as_its_table_says() {
    let directory = Directory::of("llama3");
    let settings = directory.settings("config.json");
    let outcome = |scaling: Value, change: Option<(&str, Value)>| {
        let mut settings = settings.clone();
        let mut scaling = scaling.as_object().unwrap().clone();
        scaling.extend(change.map(|(key, value)| (key.to_owned(), value)));
        settings.insert("rope_scaling".into(), scaling.into());
        settings.remove("rope_parameters");
        directory.with("config.json", &settings)
    };
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16, "rope_theta": 5e5,
    });
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.4});
    let linear = json!({"type": "linear", "factor": 2.0});
    let long = json!({"rope_type": "longrope", "short_factor": [1, 2], "long_factor": [3, 4]});
    let phi = |change: Option<(&str, Value)>| {
        let mut phi = settings.clone();
        let mut scaling = long.as_object().unwrap().clone();
        scaling.extend(change.map(|(key, value)| (key.to_owned(), value)));
        phi.insert("rope_scaling".into(), scaling.into());
        phi.remove("rope_parameters");
        phi.insert("model_type".into(), json!("phi3"));
        phi.insert("architectures".into(), json!(["Phi3ForCausalLM"]));
        directory.with("config.json", &phi)
    };
    walk(
        ROPE,
        &[
            &|change| outcome(llama3.clone(), change),
            &|change| outcome(yarn.clone(), change),
            &|change| outcome(linear.clone(), change),
            &phi,
        ],
    );
}

#[test]
fn params_json_is_as_its_table_says() {
    let directory = Directory::of("meta_1");
    let settings = directory.settings("params.json");
    let outcome = |base: &Map<String, Value>, change: Option<(&str, Value)>| {
        let mut settings = base.clone();
        settings.extend(change.map(|(key, value)| (key.to_owned(), value)));
        directory.with("params.json", &settings)
    };
    let mut scaled = settings.clone();
    scaled.insert("use_scaled_rope".into(), true.into());
    walk(PARAMS, &[&|change| outcome(&settings, change), &|change| outcome(&scaled, change)]);
}
