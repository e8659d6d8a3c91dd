//! Models and tokenizers of llama2.c as GGUF, against what they were made from.

use std::fs;

use babyllama::convert::{GgufOptions, Recipe, Source, to_gguf};
use babyllama::{Dtype, ErrorKind, Model, ModelOptions, PieceKind, Tokenizer};

use crate::common::{RandomModel, Shape, TempFile, max_abs_diff, refuses, shared, tokenizer_bin};
use crate::{SHAPE, converted, gguf, logits, unwritable};

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
    // They are the first tensor: their bytes start at the first multiple of 32 after the last
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
fn rows_that_are_not_a_multiple_of_a_block_become_f16() {
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
    assert_eq!(unwritable(result), expected);
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
        assert_eq!(unwritable(to_gguf(&source, &twice, Vec::new())), reason);
    }
}

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
    let opened = Source::open(&source, &ModelOptions::new().tokenizer(tokenizer));
    let error = refuses!(opened, ErrorKind::VocabMismatch { tokenizer: 41, model: 40 });
    assert_eq!(error.path(), Some(source.path()));
}

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
    let Some(shared) = shared("the bundled model's making") else { return };
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
    let made = gguf(&Source::open(shared.join("models/512").join(source), &open).unwrap(), &options);
    let bundled = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf")).unwrap();
    assert!(made == bundled, "{} bytes were made, there are {}", made.len(), bundled.len());
}
