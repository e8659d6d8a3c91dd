//! GGUF files named phi3, in which several matrices are one, are written again as that.

use babyllama::convert::{GgufOptions, ImportanceMatrix, Recipe, Source, check, quantize};
use babyllama::inspect::GgufFile;
use babyllama::{Dtype, Isa, Model, ModelOptions};
use serde_json::Value;

use crate::architectures::{Case, TOKENS, named};
use crate::common::gguf::{Gguf, Tensor, Value as Key};
use crate::common::{
    RandomModel, Shape, SplitMix64, TempFile, all_logits, assert_same_bits, f32_tolerance, max_error,
};
use crate::{SHAPE, checked_gguf, gguf};

const CASES: [&str; 4] = [
    "phi3 with a window",
    "phi3 with short factors",
    "phi3 with long factors",
    "phi3 with long factors and an attention factor",
];

/// The model as llama.cpp's converter writes it: Hugging Face's tensors under other names.
fn phi3(case: &Case) -> Gguf {
    let mut file = Gguf::default();
    file.set("general.architecture", Key::str("phi3"));
    for (key, setting) in [
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("block_count", "num_hidden_layers"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("attention.sliding_window", "sliding_window"),
        ("rope.scaling.original_context_length", "original_max_position_embeddings"),
    ] {
        if let Some(number) = case.config.get(setting).and_then(Value::as_u64) {
            file.set(&format!("phi3.{key}"), Key::U32(number as u32));
        }
    }
    let number = |value: &Value| value.as_f64().unwrap() as f32;
    file.set("phi3.attention.layer_norm_rms_epsilon", Key::F32(number(&case.config["rms_norm_eps"])));
    let rope = &case.config["rope_parameters"];
    file.set("phi3.rope.freq_base", Key::F32(number(&rope["rope_theta"])));
    if let Some(factors) = rope.get("short_factor") {
        let [context, original] = ["max_position_embeddings", "original_max_position_embeddings"]
            .map(|setting| case.config[setting].as_f64().unwrap());
        let usual = (1.0 + (context / original).ln() / original.ln()).sqrt() as f32;
        let factor = rope.get("attention_factor").map_or(usual, number);
        file.set("phi3.rope.scaling.attn_factor", Key::F32(factor));
        for (name, factors) in [("short", factors), ("long", &rope["long_factor"])] {
            let factors: Vec<f32> = factors.as_array().unwrap().iter().map(number).collect();
            file.tensor(&format!("rope_factors_{name}.weight"), &[factors.len() as u64], &factors);
        }
    }
    for (name, stored) in &case.tensors {
        let mut name = name.replace("model.", "").replace("layers.", "blk.");
        for (from, to) in [
            ("lm_head", "output"),
            ("embed_tokens", "token_embd"),
            ("input_layernorm", "attn_norm"),
            ("post_attention_layernorm", "ffn_norm"),
            ("self_attn.qkv_proj", "attn_qkv"),
            ("self_attn.o_proj", "attn_output"),
            ("mlp.gate_up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
        ] {
            name = name.replace(from, to);
        }
        let name = if name == "norm.weight" { "output_norm.weight".into() } else { name };
        let dims: Vec<u64> = stored.1.iter().rev().map(|&n| n as u64).collect();
        let numbers: Vec<f32> =
            stored.2.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        file.tensor(&name, &dims, &numbers);
    }
    file
}

fn source(file: &[u8]) -> Source {
    Source::from_bytes(file.to_vec(), &ModelOptions::new()).unwrap()
}

/// The tensors of a file: name, shape and format, by their names.
fn tensors(file: &[u8]) -> Vec<(String, Vec<u64>, String)> {
    let file = TempFile::new("m.gguf", file);
    let mut tensors: Vec<_> = GgufFile::open(&file)
        .unwrap()
        .tensors
        .into_iter()
        .map(|tensor| (tensor.name, tensor.shape, tensor.dtype))
        .collect();
    tensors.sort();
    tensors
}

#[test]
fn phi_3_is_written_again_with_the_same_tensors_and_computes_what_transformers_computes() {
    for name in CASES {
        let case = named(name);
        let file = phi3(&case).to_bytes();
        let written = checked_gguf(&source(&file));
        assert_eq!(tensors(&written), tensors(&file), "{name}");
        let [before, after] = [&file, &written].map(|file| Model::from_bytes(file.clone()).unwrap());
        let keys = |model: &Model| -> Vec<(String, String)> {
            model.metadata().iter().filter(|(key, _)| key.starts_with("phi3.")).cloned().collect()
        };
        assert_eq!((after.config(), keys(&after)), (before.config(), keys(&before)), "{name}");
        assert_same_bits(&all_logits(&after, &TOKENS), &all_logits(&before, &TOKENS), name);
        let config = after.config();
        let tolerance = f32_tolerance(config.n_layers, config.dim.max(config.hidden_dim));
        let error = case.error(written.clone(), Isa::best());
        assert!(error < tolerance, "{name}: {error:e}");
        // Without a recipe the weights are copied.
        assert!(gguf(&source(&written), &GgufOptions::new()) == gguf(&source(&file), &GgufOptions::new()));
    }
}

/// A random model whose rows are long enough for K-quants, with these matrices as one.
fn large() -> (RandomModel, Gguf) {
    let model = RandomModel::new(Shape { dim: 256, hidden_dim: 512, n_layers: 3, ..SHAPE }, 21);
    let mut file = model.to_gguf(1e-5, 1e4);
    file.set("general.architecture", Key::str("phi3"));
    for (key, _) in &mut file.keys {
        if let Some(rest) = key.strip_prefix(b"llama.") {
            *key = [b"phi3.", rest].concat();
        }
    }
    for l in 0..3 {
        for (whole, parts) in
            [("attn_qkv", &["attn_q", "attn_k", "attn_v"][..]), ("ffn_up", &["ffn_gate", "ffn_up"])]
        {
            let name = |part: &str| format!("blk.{l}.{part}.weight").into_bytes();
            let data =
                parts.iter().flat_map(|part| file.find(&format!("blk.{l}.{part}.weight")).data.clone());
            let data: Vec<u8> = data.collect();
            file.tensors.retain(|tensor| !parts.iter().any(|part| tensor.name == name(part)));
            let dims = vec![256, data.len() as u64 / 1024];
            file.tensors.push(Tensor { name: name(whole), dims, kind: 0, offset: None, hole: 0, data });
        }
    }
    (model, file)
}

#[test]
fn a_whole_is_quantized_as_its_parts_are() {
    let (model, file) = large();
    let file = file.to_bytes();
    let layer = &model.layers[1];
    let qkv = [&layer.wq[..], &layer.wk, &layer.wv].concat();
    let up = [&layer.w1[..], &layer.w3].concat();
    // llama.cpp takes the format of values for the whole.
    for (recipe, of_qkv, of_up) in [
        (Recipe::Q8_0, Dtype::Q8_0, Dtype::Q8_0),
        (Recipe::Q4KM, Dtype::Q4K, Dtype::Q4K),
        (Recipe::Q4KS, Dtype::Q5K, Dtype::Q4K),
        (Recipe::Q3KL, Dtype::Q5K, Dtype::Q3K),
    ] {
        let source = source(&file);
        let written = gguf(&source, &GgufOptions::new().recipe(recipe));
        let kept = TempFile::new("m.gguf", &written);
        check(&source, &kept, |_| ()).unwrap();
        for (name, weights, dtype) in [("attn_qkv", &qkv, of_qkv), ("ffn_up", &up, of_up)] {
            let mut bytes = Vec::new();
            quantize(weights, dtype, &mut bytes).unwrap();
            assert!(written.windows(bytes.len()).any(|window| window == bytes), "{recipe}: {name}");
            let name = format!("blk.1.{name}.weight");
            let found = tensors(&written).into_iter().find(|tensor| tensor.0 == name).unwrap();
            assert_eq!(found.2.to_ascii_lowercase(), dtype.to_string().to_ascii_lowercase(), "{recipe}");
        }
        // Copied, as the source now is.
        let options = GgufOptions::new().recipe(recipe);
        assert!(gguf(&Source::open(&kept, &ModelOptions::new()).unwrap(), &options) == written, "{recipe}");
    }
    // An importance matrix knows the whole.
    let importance: Vec<f32> = SplitMix64::new(5).tensor(256, 1.0, 1.0).iter().map(|x| x.abs()).collect();
    let mut matrix = 1_u32.to_le_bytes().to_vec();
    matrix.extend(21_u32.to_le_bytes());
    matrix.extend(b"blk.1.attn_qkv.weight");
    matrix.extend([1_u32.to_le_bytes(), 256_u32.to_le_bytes()].concat());
    matrix.extend(importance.iter().flat_map(|x| x.to_le_bytes()));
    let importance = ImportanceMatrix::open(TempFile::new("imatrix.dat", &matrix)).unwrap();
    let plain = GgufOptions::new().recipe(Recipe::Q4KM);
    let [plain, important] =
        [plain.clone(), plain.importance(importance)].map(|options| gguf(&source(&file), &options));
    // The keys differ, which say so.
    let n_weights: usize = source(&plain).tensors().iter().map(|tensor| tensor.bytes).sum();
    let weights = |file: &[u8]| file[file.len() - n_weights..].to_vec();
    let differing = weights(&plain).iter().zip(weights(&important)).filter(|(a, b)| **a != *b).count();
    let bytes = (256 + 2 * SHAPE.n_kv_heads * 256 / SHAPE.n_heads) * 144;
    assert!(differing > 0 && differing <= bytes, "{differing} of {bytes}");
}

/// An adapter's row for each row of `blk.0.attn_qkv` and of `blk.1.ffn_up`, as llama.cpp's
/// converter writes it, and for `blk.1.attn_output` beside them.
fn adapter(rows: &[(&str, usize)]) -> Gguf {
    let mut file = Gguf::default();
    file.set("general.architecture", Key::str("phi3")).set("general.type", Key::str("adapter"));
    file.set("adapter.type", Key::str("lora")).set("adapter.lora.alpha", Key::F32(3.0));
    let mut rng = SplitMix64::new(9);
    for &(name, n) in rows {
        file.tensor(&format!("{name}.weight.lora_a"), &[256, 2], &rng.tensor(512, 0.0, 0.25));
        file.tensor(&format!("{name}.weight.lora_b"), &[2, n as u64], &rng.tensor(2 * n, 0.0, 0.25));
    }
    file
}

#[test]
fn an_adapter_of_the_whole_is_merged_into_its_parts() {
    let (_, file) = large();
    let rows = [("blk.0.attn_qkv", 512), ("blk.1.ffn_up", 1024), ("blk.1.attn_output", 256)];
    let adapter = adapter(&rows);
    let path = TempFile::new("adapter.gguf", &adapter.to_bytes());
    let mut merging = source(&file.to_bytes());
    merging.merge_lora(&path, 0.5).unwrap();
    let merged = Model::from_bytes(checked_gguf(&merging)).unwrap();
    // The same sums, of the whole.
    let mut expected = file.clone();
    for (name, n) in rows {
        let part = |end: &str| {
            let name = format!("{name}.weight.{end}");
            let tensor = adapter.tensors.iter().find(|tensor| tensor.name == name.as_bytes()).unwrap();
            tensor.data.as_chunks().0.iter().map(|x| f64::from(f32::from_le_bytes(*x))).collect::<Vec<_>>()
        };
        let (a, b) = (part("lora_a"), part("lora_b"));
        let whole = expected.find(&format!("{name}.weight"));
        assert_eq!(whole.data.len(), n * 1024);
        for (i, x) in whole.data.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let (row, column) = (i / 256, i % 256);
            let added: f64 = (0..2).map(|r| b[2 * row + r] * a[256 * r + column]).sum();
            *x = ((f64::from(f32::from_le_bytes(*x)) + 0.75 * added) as f32).to_le_bytes();
        }
    }
    let expected = Model::from_bytes(expected.to_bytes()).unwrap();
    let tokens = &TOKENS[..9];
    let (found, expected) = (all_logits(&merged, tokens), all_logits(&expected, tokens));
    let expected: Vec<f64> = expected.iter().copied().map(f64::from).collect();
    assert!(max_error(&found, &expected) < f32_tolerance(3, 512));
    // Of another number of rows it is refused.
    let wrong = self::adapter(&[("blk.0.attn_qkv", 511)]);
    let wrong = TempFile::new("adapter.gguf", &wrong.to_bytes());
    let error = source(&file.to_bytes()).merge_lora(&wrong, 1.0).unwrap_err().to_string();
    assert!(error.contains("blk.0.attn_qkv.weight.lora_"), "{error}");
}
