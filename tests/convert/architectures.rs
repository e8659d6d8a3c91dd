//! Each architecture that runs: what its config.json and tensors become computes what transformers
//! computes. `tests/golden/architectures.py` made the cases.

use std::collections::BTreeMap;

use babyllama::convert::{GgufOptions, Llama2c, Source, to_llama2c};
use babyllama::{Isa, Model, ModelOptions, RopeScaling, SessionOptions};
use serde_json::{Map, Value, json};

use crate::common::{
    SplitMix64, all_logits, assert_same_bits, assert_says, f32_tolerance, golden_bytes, golden_f64, max_error,
};
use crate::{Directory, Stored, checked_gguf, gguf, safetensors, unwritable};

/// What `architectures.py` feeds.
pub(crate) const TOKENS: [u32; 24] =
    [1, 39, 7, 26, 15, 7, 28, 0, 3, 3, 11, 38, 2, 9, 17, 5, 30, 21, 8, 4, 33, 12, 6, 19];

/// A model of `architectures.json`.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) config: Map<String, Value>,
    pub(crate) tensors: Vec<(String, Stored)>,
    /// Every 5th logit after each token.
    pub(crate) logits: Vec<f64>,
}

pub(crate) fn cases() -> Vec<Case> {
    let cases: Map<String, Value> = serde_json::from_slice(&golden_bytes("architectures.json")).unwrap();
    let numbers = golden_f64("architectures.f64");
    assert_eq!(numbers.len(), cases.len() * TOKENS.len() * 8);
    let case = |(name, case): (&String, &Value)| {
        let at = case["at"].as_u64().unwrap() as usize * TOKENS.len() * 8;
        let shapes: BTreeMap<String, Vec<usize>> = serde_json::from_value(case["tensors"].clone()).unwrap();
        let mut rng = SplitMix64::new(7);
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let width = *shape.last().unwrap() as f64;
            let (center, scale) = match &*name {
                "model.embed_tokens.weight" => (0.0, 1.0),
                name if name.ends_with("norm.weight") => (1.0, 0.25),
                name if name.ends_with(".bias") => (0.0, 0.5),
                _ => (0.0, (3.0 / width).sqrt() as f32),
            };
            let numbers = rng.tensor(shape.iter().product(), center, scale);
            let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
            (name, Stored("F32".into(), shape, bytes))
        };
        Case {
            name: name.clone(),
            config: case["config"].as_object().unwrap().clone(),
            tensors: shapes.into_iter().map(tensor).collect(),
            logits: numbers[at..][..TOKENS.len() * 8].to_vec(),
        }
    };
    cases.iter().map(case).collect()
}

/// The case of this name.
pub(crate) fn named(name: &str) -> Case {
    cases().into_iter().find(|case| case.name == name).unwrap()
}

impl Case {
    pub(crate) fn set(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.into(), value);
        self
    }

    pub(crate) fn directory(&self) -> Directory {
        let directory = Directory::with_files("llama3", |_| false);
        directory.write("config.json", Value::Object(self.config.clone()).to_string());
        directory.write("model.safetensors", safetensors(&self.tensors));
        directory
    }

    #[track_caller]
    fn refusal(&self) -> String {
        self.directory().refusal()
    }

    /// How far a file's logits are from those expected, in standard deviations of the latter.
    pub(crate) fn error(&self, file: Vec<u8>, isa: Isa) -> f64 {
        let model = Model::from_bytes_with(file, &ModelOptions::new().isa(isa)).unwrap();
        let n = model.config().vocab_size;
        // As long as the text, by which transformers chooses Phi 3's factors.
        let mut session = model.session_with(SessionOptions::new().context_length(TOKENS.len()));
        let logits = session.forward_all(&TOKENS).unwrap();
        let kept: Vec<f32> = logits.chunks_exact(n).flat_map(|row| row.iter().copied().step_by(5)).collect();
        max_error(&kept, &self.logits)
    }
}

#[test]
fn architectures_compute_what_transformers_computes() {
    let mut largest = 0.0_f64;
    for case in cases() {
        let directory = case.directory();
        let source = directory.open().unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(source.notes(), <[String; 0]>::default(), "{}", case.name);
        let file = checked_gguf(&source);
        let config = source.config();
        let tolerance = f32_tolerance(config.n_layers, config.dim.max(config.hidden_dim));
        for isa in Isa::available() {
            let error = case.error(file.clone(), isa);
            assert!(error < tolerance, "{}: {}: {error:e}", case.name, isa.name());
            largest = largest.max(error / tolerance);
        }
        // What is written again computes the same.
        let again = Source::from_bytes(file.clone(), &ModelOptions::new()).unwrap();
        let again = Model::from_bytes(gguf(&again, &GgufOptions::new())).unwrap();
        let model = Model::from_bytes(file).unwrap();
        assert_eq!((again.config(), again.tensors()), (model.config(), model.tensors()), "{}", case.name);
        assert_same_bits(&all_logits(&again, &TOKENS), &all_logits(&model, &TOKENS), &case.name);
    }
    println!("architectures: at most {largest} of the tolerance");
}

#[test]
fn settings_that_a_model_has_not_are_refused_by_name() {
    let llama = || named("llama with biases");
    let says = |case: Case, parts: &[&str]| assert_says(&case.refusal(), parts);
    says(llama().set("attention_bias", json!(false)), &["attention_bias", "q_proj.bias is stored"]);
    says(named("qwen2").set("attention_multiplier", json!(0.5)), &["attention_multiplier is 0.5"]);
    says(named("qwen3").set("attention_bias", json!(true)), &["tensor", "bias is missing"]);
    says(named("smollm3").set("no_rope_layers", json!([1, 0, 1, 1, 1])), &["no_rope_layers", "fourth"]);
    let interval = named("smollm3").set("no_rope_layers", Value::Null);
    says(interval.set("no_rope_layer_interval", json!(3)), &["no_rope_layer_interval is 3"]);
    let unknown =
        llama().set("model_type", json!("gemma2")).set("architectures", json!(["Gemma2ForCausalLM"]));
    says(unknown, &["Gemma2ForCausalLM"]);
}

#[test]
fn factors_of_rope_that_llama_cpp_does_not_take_are_noted() {
    let rope = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16, "rope_theta": 5e5,
    });
    for (name, is_noted) in
        [("qwen2", true), ("qwen3", true), ("granite", false), ("llama with biases", false)]
    {
        let source = named(name).set("rope_parameters", rope.clone()).directory().open().unwrap();
        let has_note = source.notes().iter().any(|note| note.contains("rope_freqs.weight"));
        assert_eq!(has_note, is_noted, "{name}: {:?}", source.notes());
    }
}

#[test]
fn kinds_of_layers_that_contradict_the_window_are_refused() {
    // Alternating, whatever the model's number of layers.
    let kinds = |case: &Case| -> Value {
        let n = case.config["num_hidden_layers"].as_u64().unwrap();
        (0..n).map(|l| if l % 2 == 0 { "sliding_attention" } else { "full_attention" }).collect()
    };
    for name in ["ministral3", "phi3 with a window"] {
        let case = named(name).set("sliding_window", json!(8));
        let kinds = kinds(&case);
        assert_says(&case.set("layer_types", kinds).refusal(), &["layer_types", "every layer"]);
    }
    for name in ["qwen2", "qwen3", "smollm3"] {
        let case = named(name).set("sliding_window", json!(8)).set("use_sliding_window", json!(false));
        let kinds = kinds(&case);
        let refusal = case.set("layer_types", kinds.clone()).refusal();
        assert_says(&refusal, &["layer_types", "use_sliding_window isn't true"]);
        // Without a window the kinds make no difference.
        let case = named(name).set("sliding_window", Value::Null).set("layer_types", kinds);
        assert_eq!(case.directory().open().unwrap().config().sliding_window, None, "{name}");
    }
}

#[test]
fn the_growth_of_queries_is_said_in_several_ways_and_is_not_lost() {
    for name in ["ministral3", "ministral3 tied"] {
        let mut case = named(name);
        let rope = case.config.remove("rope_parameters").unwrap();
        assert_says(&case.refusal(), &["rope_parameters is absent", "written out"]);
        let older = named(name).set("rope_parameters", json!({})).set("rope_scaling", rope.clone());
        let error = older.error(checked_gguf(&older.directory().open().unwrap()), Isa::best());
        assert!(error < 1e-5, "{name}: {error:e}");
        // With other types of RoPE there is its length too.
        for kind in ["default", "linear"] {
            let mut rope = rope.clone();
            rope["rope_type"] = json!(kind);
            let source = named(name).set("rope_parameters", rope).directory().open().unwrap();
            let model = Model::from_bytes(checked_gguf(&source)).unwrap();
            let growth = source.config().query_growth.unwrap();
            assert_eq!((model.config().query_growth, growth.length < 64), (Some(growth), true), "{kind}");
        }
    }
}

#[test]
fn long_rope_factors_that_are_none_are_refused() {
    let with = |key: &str, value: Value| {
        let mut case = named("phi3 with long factors");
        case.config["rope_parameters"][key] = value;
        case
    };
    for key in ["long_factor", "short_factor"] {
        let says = |value: Value, parts: &[&str]| {
            let refusal = with(key, value).refusal();
            assert_says(&refusal, &["config.json", key]);
            assert_says(&refusal, parts);
        };
        says(json!([3.0]), &["of 1 numbers", "must be 2"]);
        says(json!([3.0, 4.0, 5.0]), &["of 3 numbers", "must be 2"]);
        says(json!([3.0, 0.0]), &["is 0", "positive"]);
        says(json!([3.0, -1]), &["is -1", "positive"]);
        says(json!([3.0, 1e-60]), &["positive"]); // as f32 it is 0
        says(json!([3.0, "NaN"]), &["is \"NaN\"", "positive"]);
        says(json!(3.0), &["expected an array"]);
        says(Value::Null, &["is missing"]);
    }
    assert_says(&with("attention_factor", json!(0)).refusal(), &["rope magnitude is 0"]);
    let original = named("phi3 with long factors").set("original_max_position_embeddings", json!(0));
    assert_says(&original.refusal(), &["original_context_length is 0"]);
    // Of no other model.
    for (kind, class) in [("llama", "LlamaForCausalLM"), ("qwen2", "Qwen2ForCausalLM")] {
        let other = named("phi3 with long factors").set("model_type", json!(kind));
        assert_says(&other.set("architectures", json!([class])).refusal(), &["rope_type is longrope"]);
    }
    assert_says(&with("partial_rotary_factor", json!(0.75)).refusal(), &["partial_rotary_factor is 0.75"]);
}

#[test]
fn long_rope_is_said_in_several_ways() {
    let scaling = |case: Case| case.directory().open().unwrap().config().rope_scaling;
    let expected = scaling(named("phi3 with long factors"));
    let magnitude = (1.0 + 4.0_f64.ln() / 16.0_f64.ln()).sqrt();
    let RopeScaling::Long { original_context_length: 16, magnitude: found, .. } = expected else {
        panic!("not long: {expected:?}")
    };
    assert!((found - magnitude).abs() < 1e-12);
    for name in ["su", "yarn"] {
        let mut case = named("phi3 with long factors");
        let mut rope = case.config.remove("rope_parameters").unwrap();
        rope.as_object_mut().unwrap().remove("rope_type");
        rope["type"] = json!(name);
        let case = case.set("rope_scaling", rope);
        checked_gguf(&case.directory().open().unwrap());
        assert_eq!(scaling(case), expected, "{name}");
    }
    // transformers' default counts more than the one inside.
    let mut case = named("phi3 with long factors");
    case.config.remove("original_max_position_embeddings");
    checked_gguf(&case.directory().open().unwrap());
    let RopeScaling::Long { original_context_length: 4096, magnitude: 1.0, .. } = scaling(case) else {
        panic!("not 4096 positions")
    };
}

#[test]
fn llama2cs_formats_hold_no_other_architecture() {
    let long = "phi3 with long factors";
    for (name, part) in
        [("llama with biases", "bias"), ("qwen2", "another"), ("granite", "another"), (long, "scaled")]
    {
        let directory = named(name).directory();
        let refused = to_llama2c(&directory.open().unwrap(), Llama2c::V1, &mut Vec::new());
        assert_says(&unwritable(refused), &[part]);
    }
}
