//! How the files of published models vary: what is the same model all the same, what is left out
//! and said, and what is refused in words that help.

use std::fs;
use std::path::Path;

use babyllama::convert::Source;
use babyllama::{ErrorKind, ModelOptions};
use serde_json::{Map, Value, json};

use crate::common::{TempFile, assert_says, refuses};
use crate::{Directory, Stored, Variant, assert_noted, checked_gguf, notes_have, safetensors};

/// The frequencies of the base 5e5 for heads of 4, and other numbers.
fn f32s(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[test]
fn tables_that_are_computed_anew_are_left_out() {
    let frequencies = [1.0, 5e5_f32.powf(-0.5)];
    let plain = checked_gguf(&Variant::new().open().unwrap());
    let angles = |of: fn(f32) -> f32| -> Vec<f32> {
        (0..64).flat_map(|p| [0, 1, 0, 1].map(|i| of(p as f32 * frequencies[i]))).collect()
    };
    let cases = [
        ("model.rotary_emb.inv_freq", vec![2], frequencies.to_vec(), false),
        ("model.layers.1.self_attn.rotary_emb.inv_freq", vec![2], frequencies.to_vec(), false),
        ("model.layers.1.self_attn.rotary_emb.inv_freq", vec![2], vec![1.0, 1.0], true),
        ("model.layers.0.self_attn.rotary_emb.cos_cached", vec![1, 1, 64, 4], angles(f32::cos), false),
        ("model.layers.0.self_attn.rotary_emb.sin_cached", vec![1, 1, 64, 4], angles(f32::sin), false),
        ("model.layers.0.self_attn.rotary_emb.sin_cached", vec![1, 1, 64, 4], angles(f32::cos), true),
        ("model.layers.0.self_attn.bias", vec![1, 1, 8, 8], vec![1.0; 64], false),
    ];
    for (name, shape, numbers, is_other) in cases {
        let table = Stored("F32".into(), shape, f32s(&numbers));
        let source = Variant::new().tensor(name, table).open().unwrap();
        assert!(checked_gguf(&source) == plain, "{name}");
        assert_eq!(notes_have(&source, "holds other values"), is_other, "{name}: {:?}", source.notes());
    }
    let sinks = Stored("F32".into(), vec![4], f32s(&[1.0; 4]));
    assert_says(
        &Variant::new().tensor("model.layers.0.self_attn.sinks", sinks).refusal(),
        &["tensor model.layers.0.self_attn.sinks is not supported"],
    );
}

#[test]
fn names_that_wrappers_changed_are_the_same_tensors() {
    let plain = checked_gguf(&Variant::new().open().unwrap());
    for prefix in ["_orig_mod.", "module.", "base_model.model.", "module._orig_mod."] {
        let mut copy = Variant::new();
        copy.tensors.iter_mut().for_each(|(name, _)| *name = format!("{prefix}{name}"));
        assert!(checked_gguf(&copy.open().unwrap()) == plain, "{prefix}");
    }
    let mut copy = Variant::new();
    copy.tensors.iter_mut().for_each(|(name, _)| *name = name.trim_start_matches("model.").into());
    assert!(checked_gguf(&copy.open().unwrap()) == plain);
}

#[test]
fn doubles_are_rounded() {
    let plain = checked_gguf(&Variant::new().open().unwrap());
    let mut copy = Variant::new();
    for (_, Stored(dtype, _, bytes)) in &mut copy.tensors {
        let double = |bytes: &[u8; 2]| {
            let number = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            f64::from(number).to_le_bytes()
        };
        *bytes = bytes.as_chunks::<2>().0.iter().flat_map(double).collect();
        *dtype = "F64".into();
    }
    let source = copy.open().unwrap();
    assert!(checked_gguf(&source) == plain);
    assert_noted(&source, "float64");
}

#[test]
fn the_index_decides_where_a_tensor_is() {
    let copy = Variant::new();
    let plain = checked_gguf(&copy.open().unwrap());
    let zeros = |(name, Stored(dtype, shape, bytes)): &(String, Stored)| {
        (name.clone(), Stored(dtype.clone(), shape.clone(), vec![0; bytes.len()]))
    };
    // Both files have all tensors, the second as zeros.
    copy.write("a.safetensors", safetensors(&copy.tensors));
    copy.write("b.safetensors", safetensors(&copy.tensors.iter().map(zeros).collect::<Vec<_>>()));
    let mut map: Map<String, Value> =
        copy.tensors.iter().map(|(name, _)| (name.clone(), json!("a.safetensors"))).collect();
    map.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), json!("b.safetensors"));
    copy.write("model.safetensors.index.json", json!({"weight_map": map}).to_string());
    fs::remove_file(copy.folder().join("model.safetensors")).unwrap();
    let source = Source::open(copy.folder(), &ModelOptions::new()).unwrap();
    assert!(checked_gguf(&source) == plain);
    assert_noted(&source, "the index names 1 tensors that no file has");
}

#[test]
fn refusals_say_what_it_is_and_what_to_do() {
    let gptq = json!({"quant_method": "gptq", "bits": 4});
    let bitsandbytes = json!({"load_in_4bit": true, "quant_method": "bitsandbytes"});
    let packed = || Stored("I32".into(), vec![2, 16], vec![0; 128]);
    let empty = Stored("BF16".into(), vec![0], Vec::new());
    let mut zero = Variant::new();
    zero.tensors.iter_mut().for_each(|(_, tensor)| *tensor = empty.clone());
    let add = |name: &str| Variant::new().tensor(&format!("model.layers.0.mlp.up_proj.{name}"), packed());
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "beta_fast": 1.0, "beta_slow": 32.0});
    let mlx = json!({"group_size": 64, "bits": 4});
    let mut eight_bits = Variant::new();
    let weights = eight_bits.tensors.iter_mut().find(|(name, _)| name.ends_with("up_proj.weight")).unwrap();
    let n = weights.1.1.iter().product();
    (weights.1.0, weights.1.2) = ("F8_E4M3".into(), vec![0; n]);
    let cases: [(Variant, &[&str]); 22] = [
        (Variant::new().set("quantization", mlx.clone()), &["MLX", "--dtype"]),
        (Variant::new().set("quantization_config", mlx), &["MLX", "--dtype"]),
        (Variant::new().set("quantization_config", json!({})), &["by a method that isn't named"]),
        (Variant::new().set("rope_scaling", yarn), &["beta_fast is 1", "beta_slow is 32"]),
        (Variant::new().set("_unknown_window", json!(4)).set("num_hidden_layers", json!(2.5)), &["integer"]),
        (Variant::new().set("architectures", json!(["LlamaForCausalLM", "Bird"])), &["Bird"]),
        (add("g_idx"), &["GPTQ"]),
        (add("scales"), &["quantized: convert the model"]),
        (add("W_q"), &["quantized: convert the model"]),
        (add("weight_scale_inv"), &["quantized: convert the model"]),
        (add("weight.quant_state.bitsandbytes__nf4"), &["bitsandbytes"]),
        (eight_bits, &["F8_E4M3", "quantized: convert the model"]),
        (add("lora_magnitude_vector.default"), &["LoRA adapter", "merge it first"]),
        (add("base_layer.weight"), &["LoRA adapter", "merge it first"]),
        (Variant::new().set("quantization_config", gptq), &["GPTQ", "--dtype"]),
        (Variant::new().set("quantization_config", json!({"quant_method": "awq"})), &["AWQ", "--dtype"]),
        (Variant::new().set("quantization_config", bitsandbytes), &["bitsandbytes", "--dtype"]),
        (Variant::new().tensor("model.layers.0.mlp.up_proj.qweight", packed()), &["GPTQ or AWQ"]),
        (
            Variant::new().tensor("model.layers.0.mlp.up_proj.lora_A.weight", packed()),
            &["LoRA adapter", "merge it first"],
        ),
        (zero, &["is empty", "ZeRO-3", "zero_to_fp32.py"]),
        (
            Variant::new().set("tie_word_embeddings", json!(false)),
            &["tie_word_embeddings is false", "lm_head.weight is missing", "aren't whole"],
        ),
        (
            Variant::new().drop("tie_word_embeddings"),
            &["tie_word_embeddings is not there, which means false"],
        ),
    ];
    for (copy, parts) in cases {
        assert_says(&copy.refusal(), parts);
    }
}

#[test]
fn what_transformers_leaves_out_is_left_out_and_said() {
    let plain = checked_gguf(&Variant::new().open().unwrap());
    let tensor = |dtype: &str, shape: Vec<usize>, bytes: usize| Stored(dtype.into(), shape, vec![0; bytes]);
    let cases = [
        ("model.causal_mask", tensor("BOOL", vec![2, 2], 4), "model.causal_mask"),
        ("model.embed_tokens.position_ids", tensor("I64", vec![2], 16), "position_ids"),
        ("model.layers.0.self_attn._extra_state", tensor("U8", vec![0], 0), "_extra_state"),
        ("model.layers.0.self_attn.k_scale", tensor("F32", vec![], 4), "k_scale"),
        ("step", tensor("I64", vec![], 8), "step"),
        ("v_head.summary.weight", tensor("F32", vec![1, 2], 8), "v_head.summary.weight"),
        ("score.weight", tensor("F32", vec![1, 2], 8), "score.weight"),
        (
            "model.layers.2.mlp.up_proj.weight",
            tensor("F32", vec![1, 2], 8),
            "has 2 layers, and the files have more",
        ),
    ];
    for (name, tensor, note) in cases {
        let source = Variant::new().tensor(name, tensor).open().unwrap();
        assert_says(&source.notes().join("\n"), &[note, "left out"]);
        assert!(checked_gguf(&source) == plain, "{name}");
    }
    let unknown = tensor("F32", vec![2, 2], 16);
    assert_says(&Variant::new().tensor("model.layers.0.bird", unknown).refusal(), &["it can't tell whether"]);
}

#[test]
fn the_file_that_is_named_is_converted() {
    let copy = Variant::new();
    let plain = checked_gguf(&copy.open().unwrap());
    let mut other = Variant::new();
    other.tensors.iter_mut().for_each(|(_, Stored(_, _, bytes))| bytes.fill(0));
    copy.write("model.other.safetensors", safetensors(&other.tensors));
    let open = |name: &str| Source::open(copy.folder().join(name), &ModelOptions::new()).unwrap();
    assert!(checked_gguf(&open("model.safetensors")) == plain && checked_gguf(&open("config.json")) == plain);
    let zeros = checked_gguf(&other.open().unwrap());
    assert!(zeros != plain && checked_gguf(&open("model.other.safetensors")) == zeros);
}

#[test]
fn what_is_missing_is_said() {
    let refusal = |path: &Path| Source::open(path, &ModelOptions::new()).unwrap_err().to_string();
    let copy = Variant::new().saved();
    fs::rename(copy.path("model.safetensors"), copy.path("model-00001-of-00002.safetensors")).unwrap();
    assert_says(&copy.refusal(), &["but not model.safetensors.index.json"]);
    fs::remove_file(copy.path("config.json")).unwrap();
    assert_says(&copy.refusal(), &["it has weights, but not config.json"]);
    copy.write("config.json", "Entry not found");
    assert_says(&copy.refusal(), &["it is text"]);
    let file = TempFile::new("x.gguf", b"GGUF");
    let folder = file.folder();
    assert_says(&refusal(folder), &["name one, such as x.gguf"]);
    let snapshot = folder.join("snapshots").join("0a1b");
    fs::create_dir_all(&snapshot).unwrap();
    assert_says(&refusal(folder), &[&format!("convert {}", snapshot.display())]);
    for path in ["https://huggingface.co/a/b", "meta-llama/Llama-3.2-1B"] {
        assert_says(&refusal(Path::new(path)), &["babyllama doesn't download"]);
    }
}

#[test]
fn files_of_something_else_are_named() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n";
    let page = b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>";
    let answer = br#"{"error": "Repository not found"}"#;
    for (bytes, expected) in [(&pointer[..], "Git LFS pointer"), (&page[..], "HTML"), (&answer[..], "error")]
    {
        for file in ["model.safetensors", "config.json"] {
            let copy = Variant::new().saved();
            copy.write(file, bytes);
            assert_says(&copy.refusal(), &[file, expected]);
        }
        let copy = Variant::new().saved();
        fs::remove_file(copy.path("model.safetensors")).unwrap();
        for file in ["pytorch_model.bin", "model.safetensors.index.json"] {
            copy.write(file, bytes);
            assert_says(&copy.refusal(), &[file, expected]);
            fs::remove_file(copy.path(file)).unwrap();
        }
    }
}

#[test]
fn adapters_and_weights_alone_are_named() {
    let adapter = r#"{"peft_type": "LORA", "base_model_name_or_path": "meta-llama/Llama-2-7b-hf"}"#;
    let copy = Variant::new().saved();
    copy.write("adapter_config.json", adapter);
    assert_noted(&copy.open().unwrap(), "LoRA adapter beside the model");
    let open = |path: &Path| Source::open(path, &ModelOptions::new()).unwrap_err().to_string();

    fs::remove_file(copy.path("config.json")).unwrap();
    let weights = copy.path("model.safetensors");
    for path in [copy.folder(), &*weights] {
        assert_says(&open(path), &["a LoRA adapter of meta-llama/Llama-2-7b-hf", "merge"]);
    }
    fs::remove_file(copy.path("adapter_config.json")).unwrap();
    assert_says(&open(&weights), &["config.json", "is missing beside it"]);
}

#[test]
fn of_two_kinds_of_files_the_whole_one_is_taken() {
    let (copy, meta) = (Directory::of("llama3"), Directory::of("meta_1"));
    for name in ["params.json", "consolidated.00.pth"] {
        fs::copy(meta.path(name), copy.path(name)).unwrap();
    }
    let open = |name: &str| Source::open(copy.path(name), &ModelOptions::new()).unwrap();
    let is_meta = |source: &Source| source.format().starts_with("Meta");
    assert!(!is_meta(&copy.open().unwrap()));
    for name in ["config.json", "model-00002-of-00003.safetensors", "model.safetensors.index.json"] {
        assert!(!is_meta(&open(name)), "{name}");
    }
    assert!(is_meta(&open("params.json")) && is_meta(&open("consolidated.00.pth")));
    fs::write(copy.path("model-00002-of-00003.safetensors"), "version https://git-lfs.github.com/spec/v1\n")
        .unwrap();
    let source = copy.open().unwrap();
    assert!(is_meta(&source) && source.notes()[0].contains("aren't whole"), "{:?}", source.notes());
}

#[test]
fn files_that_are_missing_or_lead_elsewhere_are_refused() {
    let copy = Directory::of("llama3");
    fs::remove_file(copy.path("model-00002-of-00003.safetensors")).unwrap();
    let refusal = copy.refusal();
    assert!(refusal.starts_with("model-00002-of-00003.safetensors: it is missing"), "{refusal}");
    assert!(refusal.contains("1 of the model's 3 files are to be downloaded"), "{refusal}");

    for name in ["../model.safetensors", "/etc/passwd", "", "..", "a\\\\b", "c:x"] {
        let copy = Directory::of("llama3");
        copy.edit("model.safetensors.index.json", "model-00002-of-00003.safetensors", name);
        assert_says(&copy.refusal(), &["expected the name of a file beside the index"]);
    }

    let copy = Directory::of("llama3");
    copy.edit("model.safetensors.index.json", "model.norm.weight", "model.other.weight");
    let source = copy.open().unwrap();
    assert_noted(&source, "such as model.other.weight");
    let copy = Directory::of("llama3");
    let file = "model-00003-of-00003.safetensors";
    let bytes = fs::read(copy.path(file)).unwrap();
    let at = bytes.windows(10).position(|window| window == b"model.norm").unwrap();
    fs::write(copy.path(file), [&bytes[..at], b"model.bird", &bytes[at + 10..]].concat()).unwrap();
    assert!(copy.refusal().ends_with("tensor model.norm.weight is missing"), "{}", copy.refusal());

    let copy = Directory::of("meta_2");
    fs::rename(copy.path("consolidated.00.pth"), copy.path("consolidated.02.pth")).unwrap();
    assert!(copy.refusal().starts_with("consolidated.00.pth: it is missing"), "{}", copy.refusal());
    let copy = Directory::of("meta_2");
    fs::remove_file(copy.path("consolidated.01.pth")).unwrap();
    refuses!(copy.open(), ErrorKind::TensorShape { .. });

    let copy = Directory::of("meta_1");
    fs::remove_file(copy.path("params.json")).unwrap();
    refuses!(copy.open(), ErrorKind::UnknownFormat { .. });
}
