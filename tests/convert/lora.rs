//! Adapters that are merged compute what PEFT's `merge_and_unload` computes. `tests/golden/lora.py`
//! made the cases.

use std::collections::BTreeMap;

use babyllama::convert::{GgufOptions, Recipe, Source};
use babyllama::{ErrorKind, Model, ModelOptions};
use serde_json::{Map, Value, json};

use crate::architectures::{TOKENS, named};
use crate::common::gguf::{Gguf, Value as Key};
use crate::common::{
    SplitMix64, TempFile, all_logits, assert_same_bits, assert_says, f32_tolerance, golden_bytes, golden_f64,
    max_error,
};
use crate::{Directory, Stored, checked_gguf, gguf, safetensors};

/// An adapter of `lora.json`.
#[derive(Clone)]
struct Adapter {
    config: Map<String, Value>,
    tensors: Vec<(String, Stored)>,
}

struct Case {
    name: String,
    base: String,
    adapters: Vec<Adapter>,
    /// Every 5th logit after each token.
    logits: Vec<f64>,
}

impl Adapter {
    fn new(saved: &Value, seed: u64) -> Self {
        let shapes: BTreeMap<String, Vec<usize>> = serde_json::from_value(saved["tensors"].clone()).unwrap();
        let mut rng = SplitMix64::new(seed);
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let width = *shape.last().unwrap() as f64;
            let is_norm = name.contains("magnitude") || name.ends_with("norm.weight");
            let factor = if name.contains(".lora_") { 0.25 } else { 1.0 };
            let (center, scale) =
                if is_norm { (1.0, 0.25) } else { (0.0, (factor * (3.0 / width).sqrt()) as f32) };
            let numbers = rng.tensor(shape.iter().product(), center, scale);
            (name, Stored("F32".into(), shape, numbers.iter().flat_map(|x| x.to_le_bytes()).collect()))
        };
        let tensors = shapes.into_iter().map(tensor).collect();
        Self { config: saved["config"].as_object().unwrap().clone(), tensors }
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.into(), value);
        self
    }

    fn directory(&self) -> Directory {
        let directory = Directory::with_files("llama3", |_| false);
        directory.write("adapter_config.json", Value::Object(self.config.clone()).to_string());
        directory.write("adapter_model.safetensors", safetensors(&self.tensors));
        directory
    }

    fn tensor(&mut self, part: &str) -> &mut (String, Stored) {
        self.tensors.iter_mut().find(|(name, _)| name.contains(part)).unwrap()
    }

    /// What merging it into a base says, without the directory's name.
    #[track_caller]
    fn refusal(&self, base: &str) -> String {
        let directory = self.directory();
        let mut source = named(base).directory().open().unwrap();
        let before = gguf(&source, &GgufOptions::new());
        let error = source.merge_lora(directory.folder(), 1.0).unwrap_err();
        assert!(error.path().is_some(), "{error}");
        assert!(gguf(&source, &GgufOptions::new()) == before, "the model stays as it was");
        error.to_string().replace(&format!("{}/", directory.folder().display()), "")
    }
}

fn cases() -> Vec<Case> {
    let cases: Map<String, Value> = serde_json::from_slice(&golden_bytes("lora.json")).unwrap();
    let numbers = golden_f64("lora.f64");
    assert_eq!(numbers.len(), cases.len() * TOKENS.len() * 8);
    let case = |(name, case): (&String, &Value)| Case {
        name: name.clone(),
        base: case["base"].as_str().unwrap().into(),
        adapters: case["adapters"]
            .as_array()
            .unwrap()
            .iter()
            .zip(11..)
            .map(|(it, seed)| Adapter::new(it, seed))
            .collect(),
        logits: numbers[case["at"].as_u64().unwrap() as usize * TOKENS.len() * 8..][..TOKENS.len() * 8]
            .to_vec(),
    };
    cases.iter().map(case).collect()
}

fn adapter(name: &str) -> Adapter {
    cases().into_iter().find(|case| case.name == name).unwrap().adapters.remove(0)
}

/// A case's base, with these adapters.
fn merged(base: &str, adapters: &[Adapter]) -> Source {
    let mut source = named(base).directory().open().unwrap();
    for adapter in adapters {
        source.merge_lora(adapter.directory().folder(), 1.0).unwrap();
    }
    source
}

#[test]
fn an_adapter_that_torch_saved_is_the_one_in_safetensors() {
    let adapter = adapter("fused layers with dora");
    let (safe, torch) = (adapter.directory(), adapter.directory());
    std::fs::remove_file(torch.path("adapter_model.safetensors")).unwrap();
    torch.write("adapter_model.bin", golden_bytes("lora_adapter.bin"));
    let merged = |path: &std::path::Path| {
        let mut source = named("phi3 with a window").directory().open().unwrap();
        source.merge_lora(path, 1.0).unwrap();
        assert_eq!(source.notes(), <[String; 0]>::default());
        checked_gguf(&source)
    };
    let expected = merged(safe.folder());
    // By the directory, or by the file.
    assert!(merged(torch.folder()) == expected && merged(&torch.path("adapter_model.bin")) == expected);
    // Cut off anywhere it is refused.
    let whole = golden_bytes("lora_adapter.bin");
    for len in (0..whole.len()).step_by(7) {
        torch.write("adapter_model.bin", &whole[..len]);
        let mut source = named("phi3 with a window").directory().open().unwrap();
        assert_says(&source.merge_lora(torch.folder(), 1.0).unwrap_err().to_string(), &["adapter_model.bin"]);
    }
}

#[test]
fn adapters_compute_what_peft_computes() {
    let mut largest = 0.0_f64;
    for Case { name, base, adapters, logits } in cases() {
        let directories: Vec<Directory> = adapters.iter().map(Adapter::directory).collect();
        let base = named(&base).directory();
        let mut source = base.open().unwrap();
        for directory in &directories {
            source.merge_lora(directory.folder(), 1.0).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert_eq!(source.notes(), <[String; 0]>::default(), "{name}");
        let model = Model::from_bytes(checked_gguf(&source)).unwrap();
        let n = model.config().vocab_size;
        let found = all_logits(&model, &TOKENS);
        let kept: Vec<f32> = found.chunks_exact(n).flat_map(|row| row.iter().copied().step_by(5)).collect();
        let error = max_error(&kept, &logits);
        let config = source.config();
        let tolerance = f32_tolerance(config.n_layers, config.dim.max(config.hidden_dim));
        assert!(error < tolerance, "{name}: {error:e}");
        largest = largest.max(error / tolerance);
        // Into a GGUF file of the base, too.
        let file = gguf(&base.open().unwrap(), &GgufOptions::new());
        let mut source = Source::from_bytes(file, &ModelOptions::new()).unwrap();
        directories.iter().for_each(|directory| source.merge_lora(directory.folder(), 1.0).unwrap());
        let again = Model::from_bytes(gguf(&source, &GgufOptions::new())).unwrap();
        assert_same_bits(&all_logits(&again, &TOKENS), &found, &name);
    }
    println!("adapters: at most {largest} of the tolerance");
}

/// llama.cpp's name of a matrix, and the width of heads if its rows are rotated.
fn gguf_name(name: &str) -> (String, Option<usize>) {
    let rest = name.strip_prefix("base_model.model.model.layers.").unwrap();
    let [layer, _, matrix, ..] = rest.split('.').collect::<Vec<_>>()[..] else { unreachable!() };
    let (matrix, heads) = match matrix {
        "q_proj" => ("attn_q", Some(4)),
        "k_proj" => ("attn_k", Some(4)),
        "v_proj" => ("attn_v", None),
        "o_proj" => ("attn_output", None),
        "gate_proj" => ("ffn_gate", None),
        "up_proj" => ("ffn_up", None),
        _ => ("ffn_down", None),
    };
    let part = if name.contains("lora_A") { "lora_a" } else { "lora_b" };
    (format!("blk.{layer}.{matrix}.weight.{part}"), heads.filter(|_| part == "lora_b"))
}

/// An adapter as `convert_lora_to_gguf.py` writes it.
fn as_gguf(adapter: &Adapter, alpha: f32) -> Gguf {
    let mut file = Gguf::default();
    file.set("general.type", Key::str("adapter")).set("general.architecture", Key::str("llama"));
    file.set("adapter.type", Key::str("lora")).set("adapter.lora.alpha", Key::F32(alpha));
    for (name, Stored(_, shape, bytes)) in &adapter.tensors {
        let (name, head_dim) = gguf_name(name);
        let rows: Vec<&[u8]> = bytes.chunks_exact(4 * shape[1]).collect();
        // Halves of a head become pairs.
        let row = |i: usize| head_dim.map_or(i, |d| i / d * d + i % d / 2 + i % 2 * (d / 2));
        let numbers =
            |row: &[u8]| row.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect::<Vec<_>>();
        let data: Vec<f32> = (0..shape[0]).flat_map(|i| numbers(rows[row(i)])).collect();
        file.tensor(&name, &[shape[1] as u64, shape[0] as u64], &data);
    }
    file
}

#[test]
fn llama_cpps_adapters_are_equal_to_pefts() {
    let (peft, base) = (adapter("all linear layers"), named("llama with biases").directory());
    let mut expected = base.open().unwrap();
    expected.merge_lora(peft.directory().folder(), 0.5).unwrap();
    let file = TempFile::new("adapter.gguf", &as_gguf(&peft, 8.0).to_bytes());
    let mut source = base.open().unwrap();
    source.merge_lora(&file, 0.5).unwrap();
    let recipe = GgufOptions::new().recipe(Recipe::F32);
    assert!(gguf(&source, &recipe) == gguf(&expected, &recipe));
    // Without an alpha the product is added as it is; here 8 / 4 times 0.5 is 1.
    let file = TempFile::new("adapter.gguf", &as_gguf(&peft, 0.0).to_bytes());
    let mut source = base.open().unwrap();
    source.merge_lora(&file, 1.0).unwrap();
    assert!(gguf(&source, &recipe) == gguf(&expected, &recipe));

    let refusal = |change: &dyn Fn(&mut Gguf)| {
        let mut file = as_gguf(&peft, 8.0);
        change(&mut file);
        let file = TempFile::new("adapter.gguf", &file.to_bytes());
        base.open().unwrap().merge_lora(&file, 1.0).unwrap_err().to_string()
    };
    let set = |key: &'static str, value: Key| {
        refusal(&move |file| {
            file.set(key, value.clone());
        })
    };
    assert_says(
        &set("general.architecture", Key::str("qwen2")),
        &["adapter.gguf", "general.architecture", "qwen2", "llama"],
    );
    assert_says(&set("adapter.type", Key::str("control")), &["adapter.type is control"]);
    assert_says(&set("general.type", Key::str("model")), &["no adapter", "model"]);
    assert_says(&set("adapter.lora.alpha", Key::F32(f32::NAN)), &["adapter.lora.alpha", "NaN"]);
    let tokens = Key::Array(4, vec![Key::U32(1)]);
    assert_says(&set("adapter.alora.invocation_tokens", tokens), &["adapter.alora.invocation_tokens"]);
    assert_says(&refusal(&|file| drop(file.tensors.remove(0))), &["blk.0.ffn_down.weight.lora_a is missing"]);
    let renamed = refusal(&|file| file.tensors[1].name = b"blk.7.ffn_down.weight.lora_b".to_vec());
    assert_says(&renamed, &["blk.", "adapter.gguf"]);
    let turned = refusal(&|file| file.tensors[1].dims.reverse());
    assert_says(&turned, &["adapter.gguf", "blk.0.ffn_down.weight.lora_", "expected shape (16, "]);
}

#[test]
fn scales_multiply_and_several_adapters_add_up() {
    let adapter = adapter("all linear layers");
    let doubled = adapter.clone().set("lora_alpha", json!(16));
    let directory = adapter.directory();
    let file = |scales: &[f32], adapter: &Directory| {
        let mut source = named("llama with biases").directory().open().unwrap();
        scales.iter().for_each(|&scale| source.merge_lora(adapter.folder(), scale).unwrap());
        gguf(&source, &GgufOptions::new())
    };
    assert!(file(&[2.0], &directory) == file(&[1.0], &doubled.directory()));
    assert!(file(&[1.0, 1.0], &directory) == file(&[2.0], &directory));
    assert!(file(&[0.0], &directory) == file(&[], &directory));
    let mut source = named("llama with biases").directory().open().unwrap();
    let error = source.merge_lora(directory.folder(), f32::NAN).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidOption { .. }), "{error}");
    let whole = self::adapter("modules to save").directory();
    let mut source = named("mistral with a window").directory().open().unwrap();
    let error = source.merge_lora(whole.folder(), 0.5).unwrap_err();
    assert_says(&error.to_string(), &["takes the place of", "0.5"]);
}

#[test]
fn adapters_for_other_bases_are_refused_by_tensor_and_shape() {
    let adapter = || adapter("all linear layers");
    let base = "llama with biases";
    // Narrower, and with other layers.
    let refusal = adapter().refusal("qwen2 untied");
    assert_says(
        &refusal,
        &["adapter_model.safetensors", "lora_A.weight", "expected shape (4, 30), found (4, 16)"],
    );
    let mut other = adapter();
    other.tensors.iter_mut().for_each(|(name, _)| *name = name.replace("layers.1.", "layers.9."));
    assert_says(&other.refusal(base), &["adapter_model.safetensors", "layers.9.mlp.down_proj.lora_A.weight"]);
    assert_says(&adapter().set("r", json!(5)).refusal(base), &["lora_A.weight", "(5, 16), found (4, 16)"]);
    let mut other = adapter();
    other.tensors.remove(0);
    assert_says(&other.refusal(base), &["layers.0.mlp.down_proj.lora_A is missing"]);
    let mut other = adapter();
    other.tensor("down_proj.lora_B").1.1 = vec![4, 16];
    assert_says(&other.refusal(base), &["down_proj.lora_B.weight", "expected shape (16, 4), found (4, 16)"]);
    let mut other = adapter();
    other.tensor("q_proj.lora_B").0 = "base_model.model.score.weight".into();
    assert_says(&other.refusal(base), &["q_proj.lora_B is missing"]);
    let mut other = adapter();
    let copy = other.tensors[0].clone();
    other.tensors.push(("base_model.model.score.weight".into(), copy.1));
    assert_says(&other.refusal(base), &["base_model.model.score.weight", "adapter_model.safetensors"]);
    let biases = self::adapter("biases");
    assert_says(&biases.refusal("mistral with a window"), &["q_proj.bias", "the base has no such tensor"]);
    let tied = self::adapter("embeddings and classifier");
    assert_says(
        &tied.refusal("llama with biases of attention"),
        &["tensor output.weight", "classifier is its embeddings"],
    );
    let mut alone = self::adapter("embeddings and classifier");
    alone.tensors.retain(|(name, _)| !name.contains("lm_head"));
    let alone = alone.set("modules_to_save", json!(["embed_tokens"]));
    assert_says(&alone.refusal("llama with biases of attention"), &["classifier is its embeddings"]);
}

#[test]
fn settings_of_adapters_are_honored_or_refused_by_name() {
    let base = "llama with biases";
    for (key, value, says) in [
        ("peft_type", json!("IA3"), "only LORA"),
        ("task_type", json!("SEQ_CLS"), "only CAUSAL_LM"),
        ("init_lora_weights", json!("pissa"), "the base that it was trained on"),
        ("layer_replication", json!([[0, 1]]), "several times"),
        ("trainable_token_indices", json!([1]), "tokens that are trained"),
        ("target_parameters", json!(["x"]), "no module's weight"),
        ("alora_invocation_tokens", json!([1]), "can't be merged"),
        ("use_qalora", json!(true), "QALoRA"),
        ("rank_pattern", json!({"(q|k)_proj": 4}), "only names, dots"),
        ("alpha_pattern", json!({"q_proj": 4, "self_attn.q_proj": 5}), "several patterns match"),
        ("alpha_pattern", json!({"q_proj": "x"}), "a number"),
        ("target_modules", json!(["q_proj"]), "which is none of them"),
        ("r", json!(0), "must be 1 or more"),
        ("lora_alpha", json!("x"), "a number"),
    ] {
        let refusal = adapter("all linear layers").set(key, value).refusal(base);
        assert_says(&refusal, &["adapter_config.json", key.split('_').next().unwrap(), says]);
    }
    let mut targets = adapter("all linear layers").config["target_modules"].as_array().unwrap().clone();
    targets.push(json!("lm_head"));
    let source = merged(base, &[adapter("all linear layers").set("target_modules", json!(targets))]);
    assert_says(&source.notes()[0], &["adapter_config.json", "doesn't change: lm_head"]);
    assert_says(
        &adapter("dora").set("use_dora", json!(false)).refusal("qwen3 untied with biases"),
        &["lora_magnitude_vector"],
    );
    let refusal = adapter("all linear layers").set("use_dora", json!(true)).refusal(base);
    assert_says(&refusal, &["lora_magnitude_vector is missing"]);
    // What isn't known is noted, and what changes nothing isn't.
    let source = merged(
        base,
        &[adapter("all linear layers").set("new_thing", json!(1)).set("lora_dropout", json!(0.1))],
    );
    assert_eq!(source.notes().len(), 1);
    assert_says(&source.notes()[0], &["adapter_config.json", "new_thing"]);
}
