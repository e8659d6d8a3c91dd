//! GGUF files as sources: what is carried over, what is copied, and what is encoded anew.

use std::fs;

use babyllama::convert::{GgufOptions, Recipe, Source, quantize};
use babyllama::{Dtype, Model, ModelOptions, Tokenizer};

use crate::common::gguf::{Gguf, Value};
use crate::common::{RandomModel, Shape, SplitMix64, TempFile, golden_bytes, tokenizer_bin};
use crate::{SHAPE, gguf, logits};

/// A file as GGUF again.
fn converted(file: &[u8], open: &ModelOptions, options: &GgufOptions) -> Vec<u8> {
    crate::converted(&TempFile::new("model.gguf", file), open, options)
}

fn unchanged(file: &[u8]) -> Vec<u8> {
    converted(file, &ModelOptions::new(), &GgufOptions::new())
}

fn open(file: &[u8]) -> Model {
    crate::common::open(file.to_vec())
}

/// Keys and values for people, except those that tell how weights are stored.
fn keys(model: &Model) -> Vec<(String, String)> {
    let of_weights = ["general.file_type", "general.quantization_version"];
    model.metadata().iter().filter(|(key, _)| !of_weights.contains(&&**key)).cloned().collect()
}

fn value<'a>(model: &'a Model, key: &str) -> &'a str {
    model.metadata().iter().find(|(name, _)| name == key).map_or("none", |(_, value)| value)
}

fn mixed_formats() -> Vec<u8> {
    golden_bytes("mixed_formats.gguf")
}

#[test]
fn a_file_of_all_formats_is_copied_weight_by_weight() {
    let file = mixed_formats();
    let made = unchanged(&file);
    let (before, after) = (open(&file), open(&made));
    assert_eq!(after.tensors(), before.tensors());
    assert_eq!(keys(&after), keys(&before));
    assert!(logits(&after) == logits(&before), "the logits differ");
    assert!(unchanged(&made) == made, "a second time makes another file");
}

#[test]
fn what_isnt_encoded_anew_keeps_its_bytes() {
    let mut file = RandomModel::new(Shape { dim: 256, hidden_dim: 512, ..SHAPE }, 11).to_gguf(1e-5, 1e4);
    // Of every format: its number, and the weights and bytes of a block. Any bytes will do, also
    // scales that are no number.
    let formats =
        [(1, 1, 2), (2, 32, 18), (8, 32, 34), (11, 256, 110), (14, 256, 210), (23, 256, 136), (30, 1, 2)];
    let mut random = SplitMix64::new(12);
    for ((number, weights, bytes), tensor) in formats.into_iter().cycle().zip(&mut file.tensors) {
        if tensor.dims.len() == 2 {
            let n_blocks = (tensor.data.len() / 4 / weights) as u64;
            tensor.kind = number;
            tensor.data = random.bytes((n_blocks * bytes) as usize);
        }
    }
    let made = unchanged(&file.to_bytes());
    let there = |bytes: &[u8]| {
        made.chunks_exact(32)
            .enumerate()
            .any(|(i, chunk)| chunk == &bytes[..32] && made[32 * i..].starts_with(bytes))
    };
    for tensor in &file.tensors {
        assert!(there(&tensor.data), "{}", String::from_utf8_lossy(&tensor.name));
    }
}

#[test]
fn values_of_every_type_are_carried_over() {
    let mut file = RandomModel::new(SHAPE, 1).to_gguf(1e-6, 5e5);
    let numbers = |kind: u32, values: Vec<Value>| Value::Array(kind, values);
    file.set("tokenizer.ggml.model", Value::str("none"));
    file.set("a.u8", Value::U8(200))
        .set("a.i8", Value::I8(-100))
        .set("a.u16", Value::U16(60_000))
        .set("a.i16", Value::I16(-30_000))
        .set("a.u32", Value::U32(4_000_000_000))
        .set("a.i32", Value::I32(-2_000_000_000))
        .set("a.u64", Value::U64(u64::MAX))
        .set("a.i64", Value::I64(i64::MIN))
        .set("a.f32", Value::F32(0.1))
        .set("a.f64", Value::F64(0.1))
        .set("a.bool", Value::Bool(true))
        .set("a.string", Value::str("llama \u{e9}\u{1f999}"))
        .set("b.strings", Value::strings(&["a", "", "\u{2581}b"]))
        .set("b.i32", numbers(5, vec![Value::I32(1), Value::I32(-2)]))
        .set("b.f32", numbers(6, vec![Value::F32(0.5)]))
        .set("b.bool", numbers(7, vec![Value::Bool(true), Value::Bool(false)]));
    let original = file.to_bytes();
    let made = unchanged(&original);
    assert_eq!(keys(&open(&made)), keys(&open(&original)));
    // The keys come first, in their own order: a file that has them in that order is the same up to
    // the tensors.
    let contains = |part: &[u8]| made.windows(part.len()).any(|window| window == part);
    let strings =
        [&3_u64.to_le_bytes()[..], &[1, 0, 0, 0, 0, 0, 0, 0, b'a'], &[0; 8], &[4, 0, 0, 0, 0, 0, 0, 0]];
    assert!(contains(&strings.concat()));
    assert!(contains(
        &[&5_u32.to_le_bytes()[..], &2_u64.to_le_bytes(), &1_i32.to_le_bytes(), &(-2_i32).to_le_bytes()]
            .concat()
    ));
    assert!(contains(&0.1_f64.to_le_bytes()));
}

#[test]
fn versions_1_and_2_and_another_alignment_become_version_3() {
    for (version, alignment) in [(1, 32), (2, 32), (3, 256)] {
        let mut file = RandomModel::new(SHAPE, 2).to_gguf(1e-5, 1e4);
        file.version = version;
        file.set("tokenizer.ggml.model", Value::str("none")).set("b.strings", Value::strings(&["x", "yz"]));
        if alignment != 32 {
            file.alignment = alignment;
            file.set("general.alignment", Value::U32(alignment as u32));
        }
        let original = file.to_bytes();
        let model = open(&unchanged(&original));
        assert_eq!(model.format(), "GGUF v3");
        assert_eq!(
            (value(&model, "general.alignment"), value(&model, "b.strings")),
            ("none", "array of 2 string")
        );
        assert!(logits(&model) == logits(&open(&original)), "the logits differ");
    }
}

/// A tokenizer's keys, with everything that a tokenizer may have.
fn with_tokenizer(mut file: Gguf) -> Gguf {
    let texts: Vec<String> = (0..40)
        .map(|i| match i {
            0..=2 => ["<unk>", "<s>", "</s>"][i].into(),
            _ => format!("t{i}"),
        })
        .collect();
    let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
    file.set("tokenizer.ggml.model", Value::str("llama"))
        .set("tokenizer.ggml.tokens", Value::strings(&texts))
        .set("tokenizer.ggml.scores", Value::Array(6, (0..40).map(|i| Value::F32(-(i as f32))).collect()))
        .set(
            "tokenizer.ggml.token_type",
            Value::Array(5, (0..40).map(|i| Value::I32([2, 3, 3, 1][i.min(3)])).collect()),
        )
        .set("tokenizer.ggml.bos_token_id", Value::U32(1))
        .set("tokenizer.ggml.eos_token_id", Value::U32(2))
        .set("tokenizer.ggml.padding_token_id", Value::U32(39))
        .set("tokenizer.ggml.add_bos_token", Value::Bool(true))
        .set("tokenizer.chat_template", Value::str("{{ messages }}"));
    file
}

#[test]
fn the_tokenizer_and_the_template_are_carried_over() {
    let original = with_tokenizer(RandomModel::new(SHAPE, 3).to_gguf(1e-5, 1e4)).to_bytes();
    let (before, after) = (open(&original), open(&unchanged(&original)));
    assert_eq!(keys(&after), keys(&before));
    assert_eq!(after.chat_template(), Some("{{ messages }}"));
    let (before, after) = (before.tokenizer().unwrap(), after.tokenizer().unwrap());
    for id in 0..40 {
        assert_eq!(
            (after.kind(id), after.bytes(id), after.score(id)),
            (before.kind(id), before.bytes(id), before.score(id))
        );
    }
    assert_eq!((after.bos(), after.eos()), (before.bos(), before.eos()));
}

#[test]
fn another_tokenizer_takes_the_place_of_the_files_own() {
    let original = with_tokenizer(RandomModel::new(SHAPE, 3).to_gguf(1e-5, 1e4)).to_bytes();
    let tokenizer = Tokenizer::from_llama2c(&tokenizer_bin(&[b" ", b"a", b"b"])).unwrap();
    let shape = Shape { vocab_size: tokenizer.vocab_size(), ..SHAPE };
    let bare = RandomModel::new(shape, 3).to_gguf(1e-5, 1e4).to_bytes();
    let given = ModelOptions::new().tokenizer(tokenizer.clone());
    let model = open(&converted(&bare, &given, &GgufOptions::new()));
    assert_eq!(model.tokenizer().unwrap().encode("ab"), tokenizer.encode("ab"));

    let none = open(&converted(&original, &ModelOptions::new().no_tokenizer(), &GgufOptions::new()));
    assert!(none.tokenizer().is_none());
    assert_eq!(value(&none, "tokenizer.ggml.padding_token_id"), "none");
    assert_eq!(none.chat_template(), Some("{{ messages }}"));
}

#[test]
fn options_overrule_what_the_file_says() {
    let mut file = RandomModel::new(SHAPE, 4).to_gguf(1e-5, 1e4);
    file.set("general.name", Value::str("old")).set("general.license", Value::str("MIT"));
    file.set("llama.rope.scaling.type", Value::str("linear"))
        .set("llama.rope.scaling.factor", Value::F32(4.0));
    let overrides = ModelOptions::new().norm_eps(1e-6).rope_theta(1e6).max_seq_len(77);
    let model =
        open(&converted(&file.to_bytes(), &overrides, &GgufOptions::new().metadata("general.name", "new")));
    assert_eq!(
        (value(&model, "general.name"), value(&model, "general.license")),
        ("string \"new\"", "string \"MIT\"")
    );
    let config = model.config();
    assert_eq!((config.norm_eps, config.rope_theta, config.max_seq_len), (1e-6, 1e6, 77));
    assert_eq!(config.rope_scaling, open(&file.to_bytes()).config().rope_scaling);
}

#[test]
fn rotary_factors_are_carried_over() {
    let factors: Vec<f32> = (0..8).map(|i| 1.0 + i as f32).collect();
    let mut file = RandomModel::new(SHAPE, 5).to_gguf(1e-5, 1e4);
    file.tensor("rope_freqs.weight", &[8], &factors);
    let original = file.to_bytes();
    assert!(logits(&open(&unchanged(&original))) == logits(&open(&original)), "the logits differ");
}

#[test]
fn a_split_model_becomes_one_file() {
    let whole = RandomModel::new(SHAPE, 6).to_gguf(1e-5, 1e4);
    let folder = TempFile::new("x", b"");
    let path = |i: usize| folder.beside(format!("m-{:05}-of-00002.gguf", i + 1));
    for (i, part) in whole.split(2).iter().enumerate() {
        fs::write(path(i), part.to_bytes()).unwrap();
    }
    let source = Source::open(path(0), &ModelOptions::new()).unwrap();
    let made = gguf(&source, &GgufOptions::new());
    assert!(made == unchanged(&whole.to_bytes()), "the file differs from that of the whole model");
}

#[test]
fn weights_are_encoded_from_what_the_file_stands_for() {
    // From F16 and from a file of the same weights in f32 alike.
    let random = RandomModel::new(SHAPE, 7).to_gguf(1e-5, 1e4).to_bytes();
    let f16 = converted(&random, &ModelOptions::new(), &GgufOptions::new().recipe(Recipe::F16));
    let f32 = converted(&f16, &ModelOptions::new(), &GgufOptions::new().recipe(Recipe::F32));
    for mix in [Recipe::Q4_0, Recipe::Q5KM, Recipe::Bf16] {
        let options = GgufOptions::new().recipe(mix);
        let [from_f16, from_f32] = [&f16, &f32].map(|file| converted(file, &ModelOptions::new(), &options));
        assert!(from_f16 == from_f32, "{mix}");
    }
}

#[test]
fn only_matrices_of_another_format_are_encoded_anew() {
    let random =
        RandomModel::new(Shape { dim: 256, hidden_dim: 512, ..SHAPE }, 8).to_gguf(1e-5, 1e4).to_bytes();
    let of = |file: &[u8], mix| converted(file, &ModelOptions::new(), &GgufOptions::new().recipe(mix));
    let small = of(&random, Recipe::Q4KS);
    let medium = of(&small, Recipe::Q4KM);
    let file_types = [&small, &medium].map(|file| value(&open(file), "general.file_type").to_owned());
    assert_eq!(file_types, ["u32 14", "u32 15"]);
    let bytes_in = |file: &[u8], wanted: Dtype| -> usize {
        open(file).tensors().iter().filter(|tensor| tensor.dtype == wanted).map(|tensor| tensor.bytes).sum()
    };
    assert!(bytes_in(&medium, Dtype::Q6K) > bytes_in(&small, Dtype::Q6K));
    assert!(of(&medium, Recipe::Q4KM) == medium, "the same mix makes another file");
    assert_eq!(unchanged(&medium), medium);
}

#[test]
fn any_number_of_threads_writes_the_same_bytes() {
    // The embeddings are four parts, of which the last is smaller.
    let shape = Shape { dim: 256, hidden_dim: 256, n_layers: 1, vocab_size: 999, ..SHAPE };
    let random = RandomModel::new(shape, 9).to_gguf(1e-5, 1e4).to_bytes();
    for mix in [Recipe::F16, Recipe::Q4_0, Recipe::Q4KM] {
        let of = |threads| {
            converted(&random, &ModelOptions::new(), &GgufOptions::new().recipe(mix).threads(threads))
        };
        let alone = of(1);
        for threads in [2, 3, 8] {
            assert!(of(threads) == alone, "{mix} with {threads} threads");
        }
    }
}

#[test]
fn what_is_written_is_what_quantize_makes_of_it() {
    let model = RandomModel::new(Shape { dim: 256, hidden_dim: 512, ..SHAPE }, 10);
    let file = converted(
        &model.to_gguf(1e-5, 1e4).to_bytes(),
        &ModelOptions::new(),
        &GgufOptions::new().recipe(Recipe::Q4KM),
    );
    for (weights, dtype) in [(&model.tok_embeddings, Dtype::Q4K), (&model.layers[1].w2, Dtype::Q6K)] {
        let mut bytes = Vec::new();
        quantize(weights, dtype, &mut bytes).unwrap();
        assert!(file.windows(bytes.len()).any(|window| window == bytes), "{dtype}");
    }
}
