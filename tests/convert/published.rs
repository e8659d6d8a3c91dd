//! Models in the files that they are published in, made by `tests/golden/published.py`: what
//! becomes of them computes what Hugging Face's transformers computes, and has their tokens.

use std::fs;

use babyllama::convert::{
    GgufOptions, Llama2c, Recipe, Source, check, llama2c_bytes, to_llama2c, to_tokenizer_bin,
};
use babyllama::{Dtype, ErrorKind, Model, ModelOptions, PieceKind, RopeScaling, Tokenizer};

use crate::common::{
    TempFile, all_logits, f32_tolerance, golden_f64, golden_tokens, max_error, refuses, shared,
};
use crate::{TOKENS, gguf, published};

fn source(name: &str) -> Source {
    Source::open(published(name), &ModelOptions::new()).unwrap()
}

/// The error of the logits, in the standard deviation of Hugging Face's.
fn error(model: &Model, golden: &str) -> f64 {
    max_error(&all_logits(model, &TOKENS), &golden_f64(&format!("published/{golden}")))
}

fn assert_tokens(tokenizer: &Tokenizer, golden: &str) {
    let golden = golden_tokens(&format!("published/{golden}"));
    assert!(golden.len() > 10);
    for (text, tokens) in golden {
        assert_eq!(tokenizer.encode_prompt(&text), tokens, "{text:?}");
    }
}

#[test]
fn logits_of_published_models_are_hugging_faces() {
    let f32 = GgufOptions::new().recipe(Recipe::F32);
    let tolerance = f32_tolerance(2, 40);
    for (name, golden) in [
        ("llama3", "llama3.f64"),
        ("llama2", "llama2.f64"),
        ("meta_1", "llama2.f64"),
        ("meta_2", "llama2.f64"),
    ] {
        let source = source(name);
        let model = Model::from_bytes(gguf(&source, &f32)).unwrap();
        let found = error(&model, golden);
        println!("{name}: {} of its tolerance", found / tolerance);
        assert!(found < tolerance, "{name}: {found:e}");
        if name == "llama3" {
            continue; // its frequencies are scaled
        }
        for version in [Llama2c::V0, Llama2c::V1] {
            let mut file = Vec::new();
            to_llama2c(&source, version, &mut file).unwrap();
            assert_eq!(file.len() as u64, llama2c_bytes(&source, version).unwrap());
            let found = error(&Model::from_bytes(file).unwrap(), golden);
            assert!(found < tolerance, "{name} as {version:?}: {found:e}");
        }
    }
}

#[test]
fn shards_make_the_model_that_was_cut_into_them() {
    let options = GgufOptions::new();
    let whole = gguf(&source("meta_1"), &options);
    assert!(whole == gguf(&source("meta_2"), &options));
    // Hugging Face's has the same weights and another tokenizer's file beside.
    let weights = |name: &str| Model::from_bytes(gguf(&source(name), &options)).unwrap().tensors();
    assert_eq!(weights("meta_1"), weights("llama2"));
}

#[test]
fn weights_stay_as_they_are_stored() {
    for (name, dtype) in [("llama3", Dtype::Bf16), ("llama2", Dtype::F16), ("meta_2", Dtype::F16)] {
        let model = Model::from_bytes(gguf(&source(name), &GgufOptions::new())).unwrap();
        for tensor in model.tensors().iter().filter(|tensor| tensor.shape.len() == 2) {
            assert_eq!(tensor.dtype, dtype, "{name}: {}", tensor.name);
        }
    }
}

#[test]
fn tokenizers_are_those_of_their_libraries() {
    for (name, golden) in
        [("llama3", "llama3.tokens"), ("llama2", "llama2.tokens"), ("meta_1", "llama2.tokens")]
    {
        let source = source(name);
        assert_tokens(&source.tokenizer().unwrap().unwrap(), golden);
        let model = Model::from_bytes(gguf(&source, &GgufOptions::new())).unwrap();
        assert_tokens(model.tokenizer().unwrap(), golden);
    }
}

#[test]
fn special_tokens_and_the_template_come_along() {
    let model = Model::from_bytes(gguf(&source("llama3"), &GgufOptions::new())).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (Some(348), Some(349), true));
    assert!(tokenizer.is_end(350), "generation_config.json says so");
    assert_eq!(tokenizer.control("<|eot_id|>"), Some(350));
    assert_eq!(tokenizer.kind(351), Some(PieceKind::UserDefined));
    assert!(model.chat_template().unwrap().contains("message['content']"));

    let model = Model::from_bytes(gguf(&source("llama2"), &GgufOptions::new())).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.vocab_size()), (Some(1), Some(2), 352));
    assert_eq!(tokenizer.kind(351), Some(PieceKind::Control));
    assert_eq!(tokenizer.kind(3), Some(PieceKind::Byte));
    assert_eq!(model.chat_template(), None);
}

#[test]
fn hyperparameters_come_from_config_json_and_params_json() {
    let llama3 = source("llama3");
    let config = llama3.config();
    assert_eq!((config.dim, config.hidden_dim, config.n_layers, config.n_heads), (16, 40, 2, 4));
    assert_eq!((config.n_kv_heads, config.vocab_size, config.max_seq_len), (2, 352, 64));
    assert_eq!((config.rope_theta, config.rope_scaling), (5e5, RopeScaling::None));
    let meta = source("meta_2");
    let mut expected = source("llama2").config().clone();
    expected.max_seq_len = 4096; // nothing says it, so it is taken for a Llama 2
    assert_eq!(meta.config(), &expected);
    assert!(meta.metadata().contains(&("multiple_of".into(), "8".into())));
}

#[test]
fn a_file_of_a_directory_means_the_directory() {
    for file in [
        "llama3/model.safetensors.index.json",
        "llama3/model-00002-of-00003.safetensors",
        "llama3/config.json",
        "llama2/pytorch_model-00001-of-00002.bin",
        "meta_2/consolidated.01.pth",
        "meta_2/params.json",
    ] {
        let directory = source(file.split_once('/').unwrap().0);
        assert_eq!(source(file).tensors(), directory.tensors(), "{file}");
    }
}

#[test]
fn check_finds_what_was_changed() {
    let source = source("llama2");
    for mix in [None, Some(Recipe::F32), Some(Recipe::Q8_0)] {
        let options = mix.map_or_else(GgufOptions::new, |mix| GgufOptions::new().recipe(mix));
        let mut file = gguf(&source, &options);
        let mut compared = 0;
        check(&source, TempFile::new("m.gguf", &file), |weights| compared = weights).unwrap();
        assert_eq!(compared, 16_720);
        // The last tensor ends the file, except for padding.
        let last = file.len() - 40;
        file[last] ^= 0x40;
        let checked = check(&source, TempFile::new("m.gguf", &file), |_| ());
        refuses!(checked, ErrorKind::Mismatch { .. }, "tensor output differs");
    }
    for version in [Llama2c::V0, Llama2c::V1, Llama2c::V2 { group_size: 64 }] {
        let mut file = Vec::new();
        to_llama2c(&source, version, &mut file).unwrap();
        let file = TempFile::new("model.bin", &file);
        let mut tokenizer = Vec::new();
        to_tokenizer_bin(&source, &mut tokenizer).unwrap();
        fs::write(file.path().with_file_name("tokenizer.bin"), &tokenizer).unwrap();
        check(&source, &file, |_| ()).unwrap();
        // The last piece is a control token, whose name means nothing: the one before ends here.
        let at = tokenizer.len() - "<pad>".len() - 8 - 1;
        tokenizer[at] ^= 1;
        fs::write(file.path().with_file_name("tokenizer.bin"), &tokenizer).unwrap();
        refuses!(check(&source, &file, |_| ()), ErrorKind::Mismatch { .. }, "piece 350 differs");
    }
}

#[test]
fn llama2c_files_are_what_its_export_writes() {
    let Some(shared) = shared("llama2.c's export of the trained model") else { return };
    let file = |name: &str| shared.join("models/512").join(name);
    let open = ModelOptions::new().tokenizer_path(file("babyllama.tokenizer.model"));
    let source = Source::open(file("babyllama.v0.bin"), &open).unwrap();
    let write = |version| {
        let mut made = Vec::new();
        to_llama2c(&source, version, &mut made).unwrap();
        made
    };
    let v2 = write(Llama2c::V2 { group_size: 32 });
    assert!(v2 == fs::read(file("babyllama.v2.bin")).unwrap(), "v2 differs");
    let mut tokenizer = Vec::new();
    to_tokenizer_bin(&source, &mut tokenizer).unwrap();
    assert!(tokenizer == fs::read(file("babyllama.tokenizer.bin")).unwrap(), "the tokenizer differs");
    // The tables of v0 come from a library that doesn't round every frequency correctly. One that
    // is an ulp off moves the angle of a position by up to the position's number of ulps. All else
    // is the same.
    let (made, expected) = (write(Llama2c::V0), fs::read(file("babyllama.v0.bin")).unwrap());
    assert_eq!(made.len(), expected.len());
    let config = source.config();
    let tables = made.len() - 4 * config.max_seq_len * config.head_dim;
    assert!(made[..tables] == expected[..tables], "v0 differs");
    let tolerance = config.max_seq_len as f32 * f32::EPSILON;
    let words = |bytes: &[u8]| bytes[tables..].as_chunks::<4>().0.to_vec();
    for (made, expected) in words(&made).into_iter().zip(words(&expected)) {
        let (a, b) = (f32::from_le_bytes(made), f32::from_le_bytes(expected));
        assert!((a - b).abs() <= tolerance, "{a} and {b}");
    }
}
