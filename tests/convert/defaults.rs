//! What a directory says beside its weights is in the GGUF file: how to sample, templates for
//! special uses, the license and the models that it was made from.

use babyllama::convert::{GgufOptions, Source};
use babyllama::{ErrorKind, Model, ModelOptions, SamplerOptions, SamplingDefaults};
use serde_json::{Value, json};

use crate::common::gguf::{Gguf, Value as Key};
use crate::common::{RandomModel, assert_says, golden_bytes};
use crate::{Directory, SHAPE, gguf};

fn file() -> Gguf {
    RandomModel::new(SHAPE, 1).to_gguf(1e-5, 1e4)
}

fn converted(directory: &Directory) -> Model {
    Model::from_bytes(gguf(&directory.open().unwrap(), &GgufOptions::new())).unwrap()
}

#[test]
fn sampling_defaults_are_carried_and_each_sets_an_option() {
    let directory = Directory::of("llama3");
    assert_eq!(converted(&directory).sampling_defaults(), &SamplingDefaults::default());
    let said = json!({
        "eos_token_id": [349, 350], "do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.1,
        "repetition_penalty": 1.05, "xtc_probability": 0.5, "xtc_threshold": 0.2, "penalty_last_n": -1,
    });
    directory.write("generation_config.json", said.to_string());
    let model = converted(&directory);
    let expected = SamplerOptions::new().temperature(0.6).top_k(20).top_p(0.95).min_p(0.1);
    let expected = expected.repetition_penalty(1.05).xtc_probability(0.5).xtc_threshold(0.2);
    let options = model.sampling_defaults().apply(SamplerOptions::new());
    assert_eq!(options, expected.penalty_window(usize::MAX));
    let keys = |model: &Model| -> Vec<(String, String)> {
        let is_sampling = |(key, _): &&(String, String)| key.starts_with("general.sampling.");
        model.metadata().iter().filter(is_sampling).cloned().collect()
    };
    let listed: Vec<_> =
        keys(&model).into_iter().map(|(key, value)| format!("{} {value}", &key[17..])).collect();
    assert_eq!(
        listed.join(", "),
        "min_p f32 0.10000000149011612, penalty_last_n i32 -1, penalty_repeat f32 1.0499999523162842, temp f32 \
         0.6000000238418579, top_k i32 20, top_p f32 0.949999988079071, xtc_probability f32 0.5, xtc_threshold f32 \
         0.20000000298023224"
    );
    // From one GGUF file to the next.
    let bytes = gguf(&directory.open().unwrap(), &GgufOptions::new());
    let again = gguf(&Source::from_bytes(bytes, &ModelOptions::new()).unwrap(), &GgufOptions::new());
    assert_eq!(keys(&Model::from_bytes(again).unwrap()), keys(&model));
}

#[test]
fn what_gguf_has_no_key_for_is_noted_if_it_changes_anything() {
    let directory = Directory::of("llama3");
    let notes = |said: Value| {
        directory.write("generation_config.json", said.to_string());
        let notes = directory.open().unwrap().notes().join("\n");
        notes.lines().find(|note| note.contains("generation_config.json")).map(str::to_owned)
    };
    let nothing = json!({
        "do_sample": true, "typical_p": 1.0, "no_repeat_ngram_size": 0, "suppress_tokens": null, "bad_words_ids": [],
    });
    assert_eq!(notes(nothing), None);
    let asks =
        json!({"do_sample": false, "typical_p": 0.9, "suppress_tokens": [3, 4], "stop_strings": ["x"]});
    let parts = ["do_sample: false", "typical_p: 0.9", "suppress_tokens: [3,4]", "stop_strings: [\"x\"]"];
    assert_says(&notes(asks).unwrap(), &parts);
}

#[test]
fn senseless_defaults_of_a_directory_are_refused_by_name() {
    let directory = Directory::of("llama3");
    for (key, value, says) in [
        ("temperature", json!("hot"), "a number"),
        ("temperature", json!(-1), "must be a finite number, 0 or more"),
        ("temperature", json!(1e39), "must be a finite number, 0 or more"),
        ("top_k", json!(1.5), "an integer below 2^31"),
        ("top_k", json!(1e12), "an integer below 2^31"),
        ("top_p", json!(2), "must be from 0 to 1"),
        ("min_p", json!([0.1]), "a number"),
        ("repetition_penalty", json!(0), "must be a finite number above 0"),
        ("penalty_last_n", json!(-2), "must be an integer from -1 on"),
        ("xtc_probability", json!(true), "a number"),
    ] {
        directory.write("generation_config.json", json!({key: value}).to_string());
        let error = directory.open().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Config { .. } | ErrorKind::KeyType { .. }), "{error:?}");
        assert_says(
            &error.to_string(),
            &["generation_config.json", key, says, &value.to_string().replace('"', "")],
        );
    }
    directory.write("generation_config.json", "{\"temperature\": NaN}");
    assert_says(&directory.refusal(), &["generation_config.json", "temperature", "NaN"]);
    directory.write("generation_config.json", "{\"temperature\": null, \"top_k\": -1, \"top_p\": 1}");
    assert_eq!(converted(&directory).sampling_defaults().top_k, Some(0));
}

#[test]
fn senseless_defaults_of_a_gguf_file_are_noted_by_name_and_do_not_count() {
    let nan = Key::F32(f32::NAN);
    for (key, value, says) in [
        ("temp", nan.clone(), "f32 NaN"),
        ("temp", Key::F32(-0.5), "f32 -0.5"),
        ("temp", Key::str("0.5"), "a number is expected"),
        ("top_p", Key::F32(1.5), "must be from 0 to 1"),
        ("top_p", Key::Array(6, vec![Key::F32(0.5)]), "a number is expected"),
        ("top_k", Key::F32(40.0), "an integer is expected"),
        ("min_p", Key::F64(f64::INFINITY), "must be from 0 to 1"),
        ("xtc_probability", nan.clone(), "must be from 0 to 1"),
        ("xtc_threshold", nan, "must be from 0 to 1"),
        ("penalty_repeat", Key::I32(0), "must be a finite number above 0"),
        ("penalty_last_n", Key::I64(-9), "must be an integer from -1 on"),
        ("sequence", Key::str("temperature;top_k"), "order of filters"),
        ("mirostat", Key::I32(2), "Mirostat is not supported"),
        ("dynatemp", Key::F32(1.0), "isn't known"),
    ] {
        let mut file = file();
        file.set(&format!("general.sampling.{key}"), value);
        let model = Model::from_bytes(file.to_bytes()).unwrap();
        assert_eq!(model.sampling_defaults(), &SamplingDefaults::default(), "{key}");
        assert_eq!(model.notes().len(), 1, "{key}");
        assert_says(&model.notes()[0], &[&format!("general.sampling.{key}"), says]);
    }
    let mut file = file();
    file.set("general.sampling.temp", Key::U8(1)).set("general.sampling.top_k", Key::U64(u64::MAX));
    file.set("general.sampling.mirostat", Key::I32(0)).set("general.sampling.mirostat_tau", Key::F32(5.0));
    let model = Model::from_bytes(file.to_bytes()).unwrap();
    assert_eq!(model.sampling_defaults().temperature, Some(1.0));
    assert_eq!((model.sampling_defaults().top_k, model.notes()), (Some(usize::MAX), &[][..]));
}

#[test]
fn templates_for_special_uses_are_carried() {
    let named = |model: &Model| model.named_chat_templates().to_vec();
    let expected = [("rag".to_owned(), "R".to_owned()), ("tool_use".into(), "T".into())];
    // As a list, with a name that isn't one of GGUF's.
    let directory = Directory::of("llama3");
    let list = json!([
        {"name": "rag", "template": "R"}, {"name": "default", "template": "D"}, {"name": "tool-use", "template": "T"},
    ]);
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(directory.path("tokenizer_config.json")).unwrap()).unwrap();
    config["chat_template"] = list;
    directory.write("tokenizer_config.json", config.to_string());
    let model = converted(&directory);
    assert_eq!((model.chat_template(), &named(&model)[..]), (Some("D"), &expected[..]));
    let list = model.metadata().iter().find(|(key, _)| key == "tokenizer.chat_templates").unwrap();
    assert_eq!(list.1, "array of 2 string");
    // As files, which count before it.
    directory.write("chat_template.jinja", "D2");
    assert_eq!((converted(&directory).chat_template(), named(&converted(&directory))), (Some("D2"), vec![]));
    std::fs::create_dir(directory.path("additional_chat_templates")).unwrap();
    for (name, text) in [("tool_use.jinja", "T"), ("rag.jinja", "R"), ("notes.txt", "N")] {
        directory.write(&format!("additional_chat_templates/{name}"), text);
    }
    let model = converted(&directory);
    assert_eq!((model.chat_template(), &named(&model)[..]), (Some("D2"), &expected[..]));
    directory.write("additional_chat_templates/bad.jinja", b"\xff");
    assert_says(&directory.refusal(), &["bad.jinja", "not UTF-8"]);
    std::fs::remove_dir_all(directory.path("additional_chat_templates")).unwrap();
    std::fs::remove_file(directory.path("chat_template.jinja")).unwrap();
    config["chat_template"] = json!([{"name": "default"}]);
    directory.write("tokenizer_config.json", config.to_string());
    assert_says(
        &directory.refusal(),
        &["tokenizer_config.json", "chat_template", "a name and a template each"],
    );
    // In a GGUF file what is no text is noted.
    let mut file = file();
    file.set("tokenizer.chat_template.x", Key::U32(3));
    let model = Model::from_bytes(file.to_bytes()).unwrap();
    assert_says(&model.notes()[0], &["tokenizer.chat_template.x", "u32 3"]);
}

#[test]
fn license_and_base_models_are_as_llama_cpps_converter_has_them() {
    let ids: Vec<Value> = String::from_utf8(golden_bytes("model_cards.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let directory = Directory::of("llama3");
    let bases: String = ids.iter().map(|case| format!("- {}\n", case["id"].as_str().unwrap())).collect();
    let card = format!(
        "---\nlicense: other\nlicense_name: 'llama3'\nbase_model:\n{bases}license_link: LICENSE\n---\n# M\n"
    );
    directory.write("README.md", card);
    let source = directory.open().unwrap();
    let options = GgufOptions::new().metadata("general.license", "mit");
    let model = Model::from_bytes(gguf(&source, &options)).unwrap();
    let find =
        |key: &str| model.metadata().iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
    let text = |text: &str| Some(format!("string {text:?}"));
    assert_eq!(find("general.license"), text("mit"), "--set counts first");
    assert_eq!(find("general.license.name"), text("llama3"));
    assert_eq!(find("general.license.link"), text("LICENSE"));
    assert_eq!(find("general.base_model.count"), Some(format!("u32 {}", ids.len())));
    for (i, case) in ids.iter().enumerate() {
        for part in ["name", "organization", "version", "repo_url"] {
            let found = find(&format!("general.base_model.{i}.{part}"));
            // Of longer texts a model shows the beginning.
            if case[part].as_str().is_none_or(|text| text.len() <= 72) {
                assert_eq!(found, case[part].as_str().and_then(text), "{case} {part}");
            }
        }
    }
    // What isn't understood is said.
    directory.write("README.md", "---\nlicense: {a: b}\n---\n");
    assert_says(&directory.open().unwrap().notes().join("\n"), &["README.md", "license", "--set"]);
    directory.write("README.md", "No settings");
    assert_eq!(directory.open().unwrap().notes(), Directory::of("llama3").open().unwrap().notes());
}
