//! Settings of published models: what becomes of them computes what transformers computes.

use std::fs;
use std::path::Path;

use babyllama::convert::Source;
use babyllama::{Model, ModelOptions};
use serde_json::{Map, Value, json};

use crate::common::{TempFile, all_logits, assert_says, f32_tolerance, golden_bytes, golden_f64, max_error};
use crate::{
    Directory, Stored, TOKENS, Variant, assert_noted, checked_gguf, notes_have, published, safetensors,
};

/// A classifier of its own, as `variants.py` makes it: BF16.
fn other_classifier() -> Stored {
    let number = |i: i64| (i * 37 % 101 - 50) as f32 / 256.0;
    let bf16 = |number: f32| ((number.to_bits() >> 16) as u16).to_le_bytes();
    Stored("BF16".into(), vec![352, 16], (0..352 * 16).flat_map(|i| bf16(number(i))).collect())
}

#[test]
fn variants_compute_what_transformers_computes() {
    let variants: Map<String, Value> = serde_json::from_slice(&golden_bytes("variants.json")).unwrap();
    let numbers = golden_f64("variants.f64");
    // Norms, softmax and angles are f32 in transformers too: n roundings more.
    let tolerance = 2.0 * f32_tolerance(2, 40);
    let mut largest = 0.0_f64;
    assert!(variants.len() > 20 && numbers.len() == variants.len() * 8 * 32);
    for (name, variant) in &variants {
        // The maps of serde_json are sorted, so each says its place.
        let at = variant["at"].as_u64().unwrap() as usize * 8 * 32;
        let expected = &numbers[at..at + 8 * 32];
        let mut copy = Variant::new();
        for key in variant["drop"].as_array().into_iter().flatten() {
            copy = copy.drop(key.as_str().unwrap());
        }
        copy = copy.with(&variant["set"]);
        copy = match variant["lm_head"].as_str() {
            Some("same") => {
                let embeddings = copy.get("model.embed_tokens.weight").clone();
                copy.tensor("lm_head.weight", embeddings)
            }
            Some(_) => copy.tensor("lm_head.weight", other_classifier()),
            None => copy,
        };
        let source = copy.open().unwrap_or_else(|error| panic!("{name}: {error}"));
        let model = Model::from_bytes(checked_gguf(&source)).unwrap();
        let logits = all_logits(&model, &TOKENS);
        // Every 11th after each token, as `variants.py` keeps them.
        let kept: Vec<f32> =
            logits.chunks_exact(352).flat_map(|row| row.iter().copied().step_by(11)).collect();
        let error = max_error(&kept, expected);
        assert!(error < tolerance, "{name}: {error:e}");
        largest = largest.max(error / tolerance);
    }
    println!("variants: at most {largest} of the tolerance");
}

#[test]
fn contexts_that_no_file_says_are_transformers_own() {
    let source = Variant::new().drop("max_position_embeddings").open().unwrap();
    assert_eq!(source.config().max_seq_len, 2048);
    assert_noted(&source, "doesn't say max_position_embeddings: 2048");
    let mistral = Variant::new().set("model_type", json!("mistral")).set("sliding_window", Value::Null);
    assert_eq!(mistral.drop("max_position_embeddings").open().unwrap().config().max_seq_len, 131_072);
}

#[test]
fn windows_are_those_that_transformers_applies() {
    let (part, full) = ("sliding_attention", "full_attention");
    let unread = "doesn't apply to a Llama"; // transformers doesn't read it
    let cases = [
        ("mistral", json!({"sliding_window": 32}), Some(32), &[][..], ""),
        ("mistral", json!({"sliding_window": 128}), Some(128), &[], ""),
        ("mistral", json!({"sliding_window": null}), None, &[], ""),
        // transformers' default
        ("mistral", json!({"max_position_embeddings": 32768}), Some(4096), &[], ""),
        ("mistral", json!({"sliding_window": 32, "use_sliding_window": false}), Some(32), &[], ""),
        ("llama", json!({"sliding_window": 32}), None, &[], unread),
        ("llama", json!({"sliding_window": 32, "layer_types": [part, part]}), None, &[], unread),
        ("mistral", json!({"sliding_window": 32, "layer_types": [part, full]}), Some(32), &[true, false], ""),
        ("mistral", json!({"sliding_window": 32, "layer_types": [full, full]}), None, &[], ""),
    ];
    for (kind, settings, window, layers, note) in cases {
        let source = Variant::new().set("model_type", json!(kind)).with(&settings).open().unwrap();
        let config = source.config();
        assert_eq!((config.sliding_window, &*config.windowed_layers), (window, layers));
        let is_said = if note.is_empty() { source.notes().is_empty() } else { notes_have(&source, note) };
        assert!(is_said, "{:?}", source.notes());
        // The written file says the same.
        let model = Model::from_bytes(checked_gguf(&source)).unwrap();
        assert_eq!(model.config(), config);
    }
}

#[test]
fn nothing_is_read_beyond_the_sliding_window() {
    let source =
        Variant::new().set("model_type", json!("mistral")).set("sliding_window", json!(8)).open().unwrap();
    let model = Model::from_bytes(checked_gguf(&source)).unwrap();
    let logits = |changed: usize| {
        let mut tokens: Vec<u32> = (0..40).map(|i| i * 7 % 352).collect();
        tokens[changed] += 1;
        let mut session = model.session();
        session.forward(&tokens).unwrap().to_vec()
    };
    // Two layers look back 7 positions each.
    assert_eq!(logits(24), logits(0));
    assert_ne!(logits(25), logits(0));
}

#[test]
fn integers_may_be_written_as_floats() {
    let plain = Variant::new();
    let written = checked_gguf(&plain.open().unwrap());
    let mut copy = Variant::new();
    let keys =
        ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings"];
    for key in keys {
        let number = plain.config[key].as_f64().unwrap();
        copy = copy.set(key, json!(number));
    }
    assert!(checked_gguf(&copy.open().unwrap()) == written);
    let copy = Variant::new().set("architectures", json!([]));
    assert!(checked_gguf(&copy.open().unwrap()) == written);
    let copy = Variant::new().set("architectures", json!(["LlamaForCausalLM", "MistralForCausalLM"]));
    assert!(checked_gguf(&copy.open().unwrap()) == written);
    // Python's own are named, as are others that nobody knows.
    let source = Variant::new().set("_name_or_path", json!("x")).set("_window", json!(3)).open().unwrap();
    assert_noted(&source, "doesn't know, which was passed over: _window");
}

#[test]
fn settings_that_are_not_known_are_named() {
    let source = Variant::new().set("hyper_scale", json!(3)).set("_private", json!(1)).open().unwrap();
    assert_noted(&source, "passed over: _private, hyper_scale");
    let none = Variant::new().open().unwrap();
    assert!(none.notes().is_empty(), "{:?}", none.notes());
}

#[test]
fn not_a_number_is_refused_only_where_it_counts() {
    let plain = checked_gguf(&Variant::new().open().unwrap());
    for number in ["NaN", "Infinity", "-Infinity"] {
        let with = |key: &str| {
            let copy = Variant::new().set(key, json!("HERE"));
            let text = Value::Object(copy.config.clone()).to_string().replace("\"HERE\"", number);
            assert!(text.contains(number));
            copy.write("config.json", text);
            copy.write("model.safetensors", safetensors(&copy.tensors));
            Source::open(copy.folder(), &ModelOptions::new())
        };
        assert!(checked_gguf(&with("initializer_range").unwrap()) == plain);
        let used = with("rms_norm_eps").unwrap_err().to_string();
        assert!(used.contains("rms_norm_eps: expected a number, found") && used.contains(number), "{used}");
    }
}

#[test]
fn what_llama2c_saves_while_it_trains_is_a_model() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ckpt.pt");
    let source = Source::open(path, &ModelOptions::new()).unwrap();
    let meta = Source::open(published("meta_1"), &ModelOptions::new().max_seq_len(64)).unwrap();
    let model = |source: &Source| Model::from_bytes(checked_gguf(source)).unwrap();
    let (found, expected) = (model(&source), model(&meta));
    assert_eq!(found.config(), expected.config());
    assert_eq!(
        found.session().forward_all(&TOKENS).unwrap(),
        expected.session().forward_all(&TOKENS).unwrap()
    );
    let passed_over = ["optimizer", "iter_num", "best_val_loss", "config"];
    assert_noted(&source, &format!("passed over: {}", passed_over.join(", ")));
}

/// `published/meta_1` with other params.json.
fn meta(change: impl FnOnce(&mut Map<String, Value>)) -> (TempFile, babyllama::Result<Source>) {
    let marker = TempFile::new("marker", b"");
    for entry in fs::read_dir(published("meta_1")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, marker.path().with_file_name(path.file_name().unwrap())).unwrap();
    }
    let params = marker.path().with_file_name("params.json");
    let mut map: Map<String, Value> = serde_json::from_slice(&fs::read(&params).unwrap()).unwrap();
    change(&mut map);
    fs::write(params, Value::Object(map).to_string()).unwrap();
    let source = Source::open(marker.folder(), &ModelOptions::new());
    (marker, source)
}

#[test]
fn mistrals_own_directories_are_as_its_program_takes_them() {
    let cases = [
        (json!({"head_dim": 4}), 1e6, None, 32_768),
        (json!({"head_dim": 4, "hidden_dim": 40, "vocab_size": 352}), 1e6, None, 32_768),
        (json!({"sliding_window": 4096}), 1e4, Some(4096), 32_768),
        (json!({"sliding_window": [128, null]}), 1e4, Some(128), 32_768),
        (json!({"head_dim": 4, "rope_theta": 5e5, "max_seq_len": 77}), 5e5, None, 77),
        (json!({"sliding_window": null}), 1e4, None, 4096), // Meta's
    ];
    for (changes, theta, window, context) in cases {
        let (_marker, source) = meta(|map| map.extend(changes.as_object().unwrap().clone()));
        let source = source.unwrap();
        let config = source.config();
        let found = (config.rope_theta, config.sliding_window, config.max_seq_len);
        assert_eq!(found, (theta, window, context), "{changes}");
        let layers = if window == Some(128) { &[true, false][..] } else { &[] };
        assert_eq!(config.windowed_layers, layers, "{changes}");
        checked_gguf(&source); // and its settings are checked
    }
    let (_marker, source) = meta(|map| drop(map.insert("sliding_window".into(), json!([4096, null, 128]))));
    assert!(
        source.unwrap_err().to_string().contains("sliding_window is [4096,null,128]: layers with windows")
    );
    let (_marker, source) = meta(|map| drop(map.insert("hidden_dim".into(), json!(41))));
    assert!(source.unwrap_err().to_string().contains("hidden_dim is 41: feed_forward.w1 has 40 rows"));
}

#[test]
fn llama_3s_factor_is_said_or_known() {
    for (changes, said) in [
        (json!({"use_scaled_rope": true}), true),
        (json!({"use_scaled_rope": true, "rope_scaling_factor": 32}), false),
    ] {
        let (_marker, source) = meta(|map| map.extend(changes.as_object().unwrap().clone()));
        let source = source.unwrap();
        assert_eq!(notes_have(&source, "rope_scaling_factor: 8, Llama 3.1's"), said, "{:?}", source.notes());
        assert_eq!(source.config().max_seq_len, 131_072);
        checked_gguf(&source); // and its settings are checked
    }
}

#[test]
fn settings_that_cannot_be_honored_are_refused() {
    let edits = [
        ("\"LlamaForCausalLM\"", "\"GemmaForCausalLM\"", "architecture \"GemmaForCausalLM\""),
        ("\"attention_bias\": false", "\"attention_bias\": true", "self_attn.q_proj.bias is missing"),
        ("\"mlp_bias\": false", "\"mlp_bias\": true", "mlp.gate_proj.bias is missing"),
        ("\"silu\"", "\"gelu\"", "hidden_act is gelu"),
        ("\"rope_type\": \"llama3\"", "\"rope_type\": \"longrope\"", "rope_type is longrope"),
        ("\"low_freq_factor\": 1.0", "\"low_freq_factor\": 4.0", "rope_scaling is"),
        ("\"hidden_size\": 16", "\"hidden_size\": \"16\"", "key hidden_size: expected an integer"),
        ("\"hidden_size\": 16", "\"hidden_size\": -16", "key hidden_size: expected an integer"),
        ("\"hidden_size\": 16", "\"hidden_size\": 32", "expected shape (352, 32), found (352, 16)"),
        ("\"vocab_size\": 352", "\"vocab_size\": 353", "expected shape (353, 16), found (352, 16)"),
        (
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 3",
            "model.layers.2.input_layernorm.weight is missing",
        ),
        ("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "must divide n_heads"),
        (
            "\"tie_word_embeddings\": true",
            "\"tie_word_embeddings\": false",
            "tensor lm_head.weight is missing",
        ),
        (
            "\"vocab_size\": 352",
            "\"quantization_config\": {\"quant_method\": \"gptq\"}, \"vocab_size\": 352",
            "gptq",
        ),
        ("{", "[", "malformed JSON file"),
    ];
    for (from, to, expected) in edits {
        let copy = Directory::of("llama3");
        copy.edit("config.json", from, to);
        assert_says(&copy.refusal(), &[expected]);
    }
    let copy = Directory::of("llama3");
    copy.edit("config.json", "\"hidden_size\": 16,", "");
    assert_eq!(copy.refusal(), "config.json: key hidden_size is missing");
}

#[test]
fn params_json_decides_the_classifier_and_the_window() {
    let first =
        |copy: &Directory| fs::read_to_string(copy.path("params.json")).unwrap().replace(['\n', ' '], "");
    let with = |extra: &str| {
        let copy = Directory::of("meta_1");
        let params = first(&copy).replacen('{', &format!("{{{extra},"), 1);
        fs::write(copy.path("params.json"), params).unwrap();
        copy
    };
    let source = with("\"_sliding_window\":8").open().unwrap();
    assert_eq!((source.config().sliding_window, source.config().max_seq_len), (Some(8), 32_768));
    assert_says(
        &with("\"_sliding_window\":8,\"sliding_window\":9").refusal(),
        &["sliding_window is 9: _sliding_window is 8"],
    );

    let source = with("\"tied_embeddings\":true").open().unwrap();
    assert_noted(&source, "it counts");
    assert!(source.tensors().iter().any(|tensor| tensor.name == "output"));

    // Without a classifier: under another name it is none.
    for (copy, expected) in [
        (Directory::of("meta_1"), "tied_embeddings is not there, which means false"),
        (with("\"tied_embeddings\":false"), "tied_embeddings is false"),
        (with("\"tied_embeddings\":true"), "tensor output.weighs is not supported"),
    ] {
        let path = copy.path("consolidated.00.pth");
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(13).position(|window| window == b"output.weight").unwrap();
        bytes[at + 12] = b's';
        fs::write(&path, bytes).unwrap();
        assert_says(&copy.refusal(), &[expected]);
    }
}
