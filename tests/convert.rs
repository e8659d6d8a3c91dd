//! The writer of GGUF and the quantisers against PyPI `gguf`, and converted models against what
//! they were made from.

mod common;

use std::fs;
use std::io::Write;

use babyllama::convert::gguf::{Array, Header, Value};
use babyllama::convert::{GgufOptions, OutputFile, Recipe, Source, dtypes, gguf_bytes, quantize, to_gguf};
use babyllama::{Dtype, ErrorKind, Model, ModelOptions, PieceKind, Tokenizer};
use common::{RandomModel, Shape, TempFile, max_abs_diff, tokenizer_bin};

const SHAPE: Shape = Shape {
    dim: 64,
    hidden_dim: 96,
    n_layers: 2,
    n_heads: 4,
    n_kv_heads: 2,
    vocab_size: 40,
    max_seq_len: 32,
    tied: false,
};

fn golden(name: &str) -> Vec<u8> {
    fs::read(format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Bytes of a block in `quantized.bin`: as f32, and then in each format.
const QUANTIZED: usize = 128 + 64 + 64 + 34 + 18 + 20 + 22 + 24;

/// That an error is a refusal to write, and what it says.
#[track_caller]
fn refusal<T: std::fmt::Debug>(result: babyllama::Result<T>) -> String {
    let error = result.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unwritable { .. }), "{error}");
    error.to_string()
}

/// The bytes of a model as GGUF.
fn converted(source: &TempFile, open: &ModelOptions, options: &GgufOptions) -> Vec<u8> {
    let source = Source::open(source, open).unwrap();
    let mut file = Vec::new();
    to_gguf(&source, options, &mut file).unwrap();
    assert_eq!(file.len() as u64, gguf_bytes(&source, options).unwrap());
    file
}

fn logits(model: &Model) -> Vec<f32> {
    model.session().forward_all(&[1, 7, 30, 2, 11, 39, 5]).unwrap().to_vec()
}

// --- Weights

#[test]
fn blocks_are_what_pypi_gguf_makes_of_them() {
    let formats = [
        (Dtype::F16, 64),
        (Dtype::Bf16, 64),
        (Dtype::Q8_0, 34),
        (Dtype::Q4_0, 18),
        (Dtype::Q4_1, 20),
        (Dtype::Q5_0, 22),
        (Dtype::Q5_1, 24),
    ];
    let golden = golden("quantized.bin");
    let blocks = golden.chunks_exact(QUANTIZED);
    assert!(blocks.len() == 64 && blocks.remainder().is_empty());
    for (i, block) in blocks.enumerate() {
        let (weights, mut rest) = block.split_at(128);
        let weights: Vec<f32> =
            weights.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        for (dtype, bytes) in formats {
            let mut out = Vec::new();
            quantize(&weights, dtype, &mut out).unwrap();
            assert_eq!(out, rest[..bytes], "block {i} as {dtype}: {weights:?}");
            rest = &rest[bytes..];
        }
    }
}

#[test]
fn quantize_appends_and_leaves_f32_as_it_is() {
    let weights = [1.5, f32::NAN, f32::INFINITY];
    let mut out = vec![7];
    quantize(&weights, Dtype::F32, &mut out).unwrap();
    let expected: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    assert_eq!((out[0], &out[1..]), (7, &*expected));
}

#[test]
fn weights_that_a_format_cannot_hold_are_refused() {
    let mut out = Vec::new();
    let reason = refusal(quantize(&[0.0; 33], Dtype::Q8_0, &mut out));
    assert_eq!(reason, "Q8_0 can't be written: 33 weights are not a multiple of its block of 32");
    for bad in [f32::NAN, f32::INFINITY, -65_505.0] {
        let mut weights = [1.0; 32];
        weights[9] = bad;
        for dtype in [Dtype::F16, Dtype::Q8_0] {
            let reason = refusal(quantize(&weights, dtype, &mut out));
            assert_eq!(reason, format!("{dtype} can't be written: a weight is {bad}"));
        }
        quantize(&weights, Dtype::Bf16, &mut Vec::new()).unwrap();
    }
    refusal(quantize(&[0.0; 32], Dtype::Int8 { group_size: 32 }, &mut out));
    assert!(dtypes().all(|dtype| dtype.block().is_some()));
    assert!(out.is_empty(), "something was written");
}

// --- The file

#[test]
fn a_file_of_every_type_is_what_pypi_gguf_writes() {
    let floats = |n: u16| -> Vec<f32> { (0..n).map(f32::from).collect() };
    let strings = |texts: &[&str]| Array::String(texts.iter().map(|text| text.as_bytes().to_vec()).collect());
    let mut header = Header::new();
    let values: [(&str, Value); 18] = [
        ("general.architecture", "example".into()),
        ("a.u8", 200_u8.into()),
        ("a.i8", (-100_i8).into()),
        ("a.u16", 60_000_u16.into()),
        ("a.i16", (-30_000_i16).into()),
        ("a.u32", 4_000_000_000_u32.into()),
        ("a.i32", (-2_000_000_000_i32).into()),
        ("a.u64", u64::MAX.into()),
        ("a.i64", i64::MIN.into()),
        ("a.f32", 0.1_f32.into()),
        ("a.f64", 0.1_f64.into()),
        ("a.bool", true.into()),
        ("a.string", "llama \u{e9}\u{1f999}".into()),
        ("b.strings", strings(&["a", "", "\u{2581}b"]).into()),
        ("b.i32", Array::I32(vec![1, -2, 3]).into()),
        ("b.f32", Array::F32(vec![0.5, -0.25]).into()),
        ("b.bool", Array::Bool(vec![true, false]).into()),
        ("b.arrays", Array::Array(vec![Array::I32(vec![1, 2]), Array::I32(vec![3])]).into()),
    ];
    for (key, value) in values {
        header.set(key, value).unwrap();
    }
    let blocks: Vec<f32> = golden("quantized.bin")
        .chunks_exact(QUANTIZED)
        .take(2)
        .flat_map(|block| block[..128].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())))
        .collect();
    let tensors: [(&str, &[usize], Dtype, Vec<f32>); 4] = [
        ("one", &[1], Dtype::F32, floats(1)),
        ("three.f16", &[3], Dtype::F16, floats(3)),
        ("cube", &[2, 3, 4], Dtype::F32, floats(24)),
        ("q8", &[1, 64], Dtype::Q8_0, blocks),
    ];
    for (name, shape, dtype, _) in &tensors {
        header.tensor(name, shape, *dtype).unwrap();
    }
    let expected = golden("every_type.gguf");
    assert_eq!(header.file_bytes(), expected.len() as u64);
    let mut writer = header.write(Vec::new()).unwrap();
    for (name, _, dtype, weights) in &tensors {
        let mut bytes = Vec::new();
        quantize(weights, *dtype, &mut bytes).unwrap();
        for part in bytes.chunks(7) {
            writer.write(name, part).unwrap();
        }
    }
    assert_eq!(writer.finish().unwrap(), expected);
}

#[test]
fn what_gguf_forbids_is_refused() {
    let mut header = Header::new();
    header.set("a", 1_u8).unwrap();
    assert_eq!(refusal(header.set("a", 2_u8)), "key \"a\" can't be written: it is there already");
    refusal(header.set("", 1_u8));
    refusal(header.set(&"k".repeat(65_536), 1_u8));
    refusal(header.set("general.alignment", 64_u32));
    header.set(&"k".repeat(65_535), 1_u8).unwrap();

    header.tensor("a", &[2, 32], Dtype::Q8_0).unwrap();
    refusal(header.tensor("a", &[2, 32], Dtype::Q8_0));
    refusal(header.tensor("", &[1], Dtype::F32));
    refusal(header.tensor(&"n".repeat(64), &[1], Dtype::F32));
    let reason = refusal(header.tensor("b", &[32, 48], Dtype::Q8_0));
    assert_eq!(reason, "tensor \"b\" can't be written: a tensor of shape [32, 48] can't be stored as Q8_0");
    let shapes: [&[usize]; 6] =
        [&[], &[0], &[0, 32], &[1, 1, 1, 1, 32], &[usize::MAX, 32], &[1 << 31, 1 << 31]];
    for shape in shapes {
        refusal(header.tensor("b", shape, Dtype::F32));
    }
    refusal(header.tensor("b", &[1, 32], Dtype::Int8 { group_size: 32 }));
    header.tensor(&"n".repeat(63), &[1, 1, 1, 32], Dtype::F32).unwrap();
}

#[test]
fn tensors_are_written_whole_and_in_order() {
    let mut header = Header::new();
    header.tensor("a", &[3], Dtype::F32).unwrap();
    header.tensor("b", &[1], Dtype::F32).unwrap();
    let mut writer = header.write(Vec::new()).unwrap();
    assert_eq!(refusal(writer.write("b", &[0; 4])), "tensor \"b\" can't be written: tensor \"a\" is due");
    writer.write("a", &[1; 8]).unwrap();
    refusal(writer.write("a", &[1; 5]));
    writer.write("a", &[1; 4]).unwrap();
    refusal(writer.write("a", &[1]));
    let unfinished = "tensor \"b\" can't be written: only 0 of its 4 bytes were given";
    assert_eq!(refusal(writer.finish()), unfinished);
}

// --- Models

#[test]
fn f32_models_are_the_same_as_gguf() {
    for tied in [true, false] {
        let model = RandomModel::new(Shape { tied, ..SHAPE }, 3);
        for bytes in [model.to_v0(), model.to_v1()] {
            let source = TempFile::new("model.bin", &bytes);
            let file = converted(&source, &ModelOptions::new(), &GgufOptions::new());
            let expected = Model::open(&source).unwrap();
            let gguf = Model::from_bytes(file).unwrap();
            assert_eq!(gguf.config(), expected.config());
            assert_eq!(gguf.tensors(), expected.tensors());
            assert_eq!(logits(&gguf), logits(&expected));
        }
    }
}

#[test]
fn overridden_hyperparameters_are_written() {
    let source = TempFile::new("model.bin", &RandomModel::new(SHAPE, 3).to_v0());
    let options = ModelOptions::new().norm_eps(1e-6).rope_theta(1e6).max_seq_len(77);
    let gguf = Model::from_bytes(converted(&source, &options, &GgufOptions::new())).unwrap();
    let config = gguf.config();
    assert_eq!((config.norm_eps, config.rope_theta, config.max_seq_len), (1e-6, 1e6, 77));
}

/// A format's largest rounding error of a weight, for weights up to 1: half a step, and what
/// rounding the scale adds.
#[test]
fn each_format_keeps_weights_within_its_step() {
    let random = RandomModel::new(SHAPE, 4);
    let source = TempFile::new("model.bin", &random.to_v0());
    let formats = [
        (Recipe::F16, Dtype::F16, 2.0_f32.powi(-11)),
        (Recipe::Bf16, Dtype::Bf16, 2.0_f32.powi(-8)),
        (Recipe::Q8_0, Dtype::Q8_0, 0.5 / 127.0 + 127.5 * 2.0_f32.powi(-11) / 127.0),
    ];
    for (mix, dtype, relative) in formats {
        let file = converted(&source, &ModelOptions::new(), &GgufOptions::new().recipe(mix));
        let gguf = Model::from_bytes(file.clone()).unwrap();
        for tensor in gguf.tensors() {
            let expected = if tensor.shape.len() == 1 { Dtype::F32 } else { dtype };
            assert_eq!(tensor.dtype, expected, "{}", tensor.name);
        }
        // Back to f32: a model whose weights are what the format stands for.
        let largest = random.tok_embeddings.iter().fold(0.0_f32, |max, weight| max.max(weight.abs()));
        let embeddings = dequantized_embeddings(&file, dtype);
        let error = max_abs_diff(&embeddings, &random.tok_embeddings);
        assert!(error > 0.0 && error <= f64::from(largest * relative), "{dtype}: {error}");
    }
}

/// The embeddings of a file of [`SHAPE`], decoded here.
fn dequantized_embeddings(file: &[u8], dtype: Dtype) -> Vec<f32> {
    let count = SHAPE.vocab_size * SHAPE.dim;
    let (block, bytes) = dtype.block().unwrap();
    // They are the first tensor: their bytes start at the first multiple of 32 behind the last
    // info, that of the output.
    let name = b"output.weight";
    let at = file.windows(name.len()).rposition(|window| window == name).unwrap();
    let start = (at + name.len() + 4 + 2 * 8 + 4 + 8).next_multiple_of(32);
    let half = |bytes: &[u8]| u16::from_le_bytes(bytes.try_into().unwrap());
    let decode = |block: &[u8]| -> Vec<f32> {
        match dtype {
            Dtype::F16 => vec![half::f16::from_bits(half(block)).to_f32()],
            Dtype::Bf16 => vec![f32::from_bits(u32::from(half(block)) << 16)],
            _ => {
                let d = half::f16::from_bits(half(&block[..2])).to_f32();
                block[2..].iter().map(|&q| d * f32::from(q.cast_signed())).collect()
            }
        }
    };
    file[start..][..count / block * bytes].chunks_exact(bytes).flat_map(decode).collect()
}

#[test]
fn rows_that_are_no_whole_blocks_become_f16() {
    let shape = Shape { hidden_dim: 80, ..SHAPE };
    let source = TempFile::new("model.bin", &RandomModel::new(shape, 5).to_v0());
    let file = converted(&source, &ModelOptions::new(), &GgufOptions::new().recipe(Recipe::Q8_0));
    let gguf = Model::from_bytes(file).unwrap();
    for tensor in gguf.tensors().iter().filter(|tensor| tensor.shape.len() == 2) {
        let expected = if tensor.name.ends_with(".w2") { Dtype::F16 } else { Dtype::Q8_0 };
        assert_eq!(tensor.dtype, expected, "{}", tensor.name);
    }
}

#[test]
fn int8_models_become_q8_0() {
    let source = TempFile::new("model.bin", &RandomModel::new(SHAPE, 6).to_v2(32));
    let gguf = Model::from_bytes(converted(&source, &ModelOptions::new(), &GgufOptions::new())).unwrap();
    assert!(gguf.tensors().iter().all(|tensor| tensor.shape.len() == 1 || tensor.dtype == Dtype::Q8_0));
    assert!(gguf.metadata().contains(&("general.file_type".into(), "u32 7".into())));
}

#[test]
fn a_weight_that_is_no_number_is_refused_with_its_tensor() {
    let mut model = RandomModel::new(SHAPE, 7);
    model.layers[1].w2[5] = f32::NAN;
    let source = Source::open(TempFile::new("model.bin", &model.to_v0()), &ModelOptions::new()).unwrap();
    let result = to_gguf(&source, &GgufOptions::new().recipe(Recipe::Q8_0), Vec::new());
    let expected = "tensor \"blk.1.ffn_down.weight\" as Q8_0 can't be written: a weight is NaN";
    assert_eq!(refusal(result), expected);
}

#[test]
fn keys_come_from_the_options_once() {
    let source = TempFile::new("model.bin", &RandomModel::new(SHAPE, 8).to_v0());
    let options = GgufOptions::new().metadata("general.name", "Random").metadata("general.license", "MIT");
    let gguf = Model::from_bytes(converted(&source, &ModelOptions::new(), &options)).unwrap();
    for (key, value) in [("general.name", "string \"Random\""), ("general.license", "string \"MIT\"")] {
        assert!(gguf.metadata().contains(&(key.into(), value.into())), "{key}");
    }
    let source = Source::open(&source, &ModelOptions::new()).unwrap();
    for key in ["general.architecture", "llama.block_count", "general.name"] {
        let twice = options.clone().metadata(key, "x");
        let reason = format!("key {key:?} can't be written: it is there already");
        assert_eq!(refusal(to_gguf(&source, &twice, Vec::new())), reason);
    }
}

// --- Tokenizers

const PIECES: [&[u8]; 9] =
    [b" ", b"a", b"b", b" a", b"ab", b"\xc3\xa9", b"two words", b"\xff", "\u{2581}".as_bytes()];

#[test]
fn a_tokenizer_is_the_same_as_gguf() {
    let bytes = tokenizer_bin(&PIECES);
    let expected = Tokenizer::from_llama2c(&bytes).unwrap();
    let shape = Shape { vocab_size: expected.vocab_size(), ..SHAPE };
    let source = TempFile::new("model.bin", &RandomModel::new(shape, 10).to_v0());
    let options = ModelOptions::new().tokenizer(expected.clone());
    let gguf = Model::from_bytes(converted(&source, &options, &GgufOptions::new())).unwrap();
    let tokenizer = gguf.tokenizer().unwrap();
    assert_eq!(tokenizer.vocab_size(), expected.vocab_size());
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
    for id in 0..expected.vocab_size() as u32 {
        assert_eq!(tokenizer.kind(id), expected.kind(id), "{id}");
        assert_eq!(tokenizer.bytes(id), if id == 11 { b" " } else { expected.bytes(id) }, "{id}");
        assert_eq!(tokenizer.score(id), expected.score(id), "{id}");
        // A story of llama2.c ends with either.
        assert_eq!(tokenizer.is_end(id), matches!(id, 1 | 2), "{id}");
    }
    for text in ["", "a", "ab a\u{e9}", "  two words", "\u{2581}x", "<s>"] {
        assert_eq!(tokenizer.encode_prompt(text), expected.encode_prompt(text), "{text:?}");
    }
}

#[test]
fn logits_without_a_piece_get_an_unused_one() {
    let tokenizer = Tokenizer::from_llama2c(&tokenizer_bin(&PIECES)).unwrap();
    let n_pieces = tokenizer.vocab_size();
    let source = TempFile::new("model.bin", &RandomModel::new(SHAPE, 11).to_v0());
    let options = ModelOptions::new().tokenizer(tokenizer);
    let gguf = Model::from_bytes(converted(&source, &options, &GgufOptions::new())).unwrap();
    let tokenizer = gguf.tokenizer().unwrap();
    assert_eq!(tokenizer.vocab_size(), SHAPE.vocab_size);
    for id in n_pieces..SHAPE.vocab_size {
        assert_eq!(tokenizer.kind(id as u32), Some(PieceKind::Unused));
        assert_eq!(tokenizer.decode(&[id as u32]), "");
    }
}

#[test]
fn a_tokenizer_with_too_many_pieces_is_refused() {
    let tokenizer = Tokenizer::from_llama2c(&tokenizer_bin(&[b"x".as_slice(); 38])).unwrap();
    let source = TempFile::new("model.bin", &RandomModel::new(SHAPE, 12).to_v0());
    let error = Source::open(&source, &ModelOptions::new().tokenizer(tokenizer)).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::VocabMismatch { tokenizer: 41, model: 40 }), "{error}");
    assert_eq!(error.path(), Some(source.path()));
}

// --- The bundled model

/// What `models/README.md` says to call the program with.
fn bundled_command() -> Vec<String> {
    let card = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/models/README.md")).unwrap();
    let (_, command) = card.split_once("babyllama convert ").unwrap();
    let (command, _) = command.split_once("```").unwrap();
    // Words as a shell has them: a backslash at a line's end goes on, and quotes hold spaces
    // together.
    let command = command.replace("\\\n", " ");
    let quoted = command.split('"').enumerate();
    let word = |(i, part): (usize, &str)| {
        if i % 2 == 0 { part.replace([' ', '\n'], "\0") } else { part.into() }
    };
    let words: String = quoted.map(word).collect();
    words.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[test]
fn the_bundled_model_is_what_its_card_says_how_to_make() {
    let Some(shared) = common::shared("the bundled model's making") else { return };
    let command = bundled_command();
    let mut options = GgufOptions::new();
    let [source, target, flags @ ..] = &*command else { panic!("{command:?}") };
    let mut open = ModelOptions::new();
    for pair in flags.chunks_exact(2) {
        match (&*pair[0], &*pair[1]) {
            ("--tokenizer", path) => open = open.tokenizer_path(shared.join("models/512").join(path)),
            ("--dtype", "q8_0") => options = options.recipe(Recipe::Q8_0),
            ("--set", text) => {
                let (key, text) = text.split_once('=').unwrap();
                options = options.metadata(key, text);
            }
            (flag, value) => panic!("{flag} {value}"),
        }
    }
    assert_eq!((&**target, flags.len()), ("models/babyllama.gguf", 10), "{command:?}");
    let source = Source::open(shared.join("models/512").join(source), &open).unwrap();
    let mut made = Vec::new();
    to_gguf(&source, &options, &mut made).unwrap();
    let bundled = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf")).unwrap();
    assert!(made == bundled, "{} bytes were made, there are {}", made.len(), bundled.len());
}

// --- Output files

#[test]
fn an_output_file_takes_its_place_only_when_it_is_whole() {
    let target = TempFile::new("target", b"old");
    let folder = target.path().parent().unwrap();
    let names = || fs::read_dir(folder).unwrap().count();

    let error = OutputFile::create(&target, false).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Exists), "{error}");
    assert_eq!(error.to_string(), format!("{}: the file is there already", target.path().display()));

    let mut file = OutputFile::create(&target, true).unwrap();
    file.write_all(b"half").unwrap();
    assert_eq!((fs::read(&target).unwrap(), names()), (b"old".to_vec(), 2));
    drop(file);
    assert_eq!((fs::read(&target).unwrap(), names()), (b"old".to_vec(), 1), "nothing is left behind");

    let mut file = OutputFile::create(&target, true).unwrap();
    file.write_all(b"whole").unwrap();
    file.persist().unwrap();
    assert_eq!((fs::read(&target).unwrap(), names()), (b"whole".to_vec(), 1));

    let other = folder.join("other");
    let mut file = OutputFile::create(&other, false).unwrap();
    file.write_all(b"ours").unwrap();
    fs::write(&other, b"theirs").unwrap();
    assert!(matches!(file.persist().unwrap_err().kind(), ErrorKind::Exists));
    assert_eq!(fs::read(&other).unwrap(), b"theirs");
    assert!(matches!(OutputFile::create(folder, true).unwrap_err().kind(), ErrorKind::Io(_)));
}
