//! GGUF files: what is read from them, and that no file, however it is damaged, does worse than
//! give an error.

mod common;
#[path = "common/counting.rs"]
mod counting;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use babyllama::{Error, ErrorKind, Model, ModelOptions, PieceKind, RopeScaling, Tokenizer};
use common::gguf::{Gguf, Value};
use common::{GOLDEN, RandomModel, Shape, SplitMix64, TempFile, max_abs_diff, std_dev, tokenizer_bin};
use counting::{Counting, peak};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn options() -> ModelOptions {
    ModelOptions::new().threads(1)
}

fn open(file: &Gguf) -> Result<Model, Error> {
    Model::from_bytes_with(file.to_bytes(), &options())
}

#[track_caller]
fn refused(file: &Gguf) -> Error {
    open(file).unwrap_err()
}

/// Fails unless opening the file gives this kind of error, with a message that has this text.
macro_rules! refuses {
    ($file:expr, $kind:pat, $text:expr) => {{
        let error = refused(&$file);
        assert!(matches!(error.kind(), $kind), "{error:?}");
        let message = error.to_string();
        assert!(message.contains($text), "{message:?} lacks {:?}", $text);
    }};
}

const SHAPE: Shape = Shape {
    dim: 8,
    hidden_dim: 12,
    n_layers: 2,
    n_heads: 2,
    n_kv_heads: 1,
    vocab_size: 20,
    max_seq_len: 16,
    tied: false,
};

fn small() -> Gguf {
    RandomModel::new(SHAPE, 51).to_gguf(1e-5, 1e4)
}

fn with(change: impl FnOnce(&mut Gguf)) -> Gguf {
    let mut file = small();
    change(&mut file);
    file
}

fn with_key(key: &str, value: Value) -> Gguf {
    with(|file| {
        file.set(key, value);
    })
}

fn logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    model.session().forward_all(tokens).unwrap().to_vec()
}

// --- Models

#[test]
fn f32_files_give_the_bits_of_llama2cs_and_hugging_faces_logits() {
    for case in GOLDEN {
        let model = case.model();
        let file = model.to_gguf(case.norm_eps as f32, case.rope_theta as f32);
        let found = logits(&open(&file).unwrap(), case.tokens);
        let expected = case.logits().concat();
        let error = max_abs_diff(&found, &expected) / std_dev(&expected);
        assert!(error < 2.9e-5, "{}: {error:e} standard deviations", case.name); // as in golden.rs
        let same = options().norm_eps(case.norm_eps as f32).rope_theta(case.rope_theta);
        let v0 = Model::from_bytes_with(model.to_v0(), &same).unwrap();
        assert_eq!(found, logits(&v0, case.tokens), "{}", case.name);
    }
}

#[test]
fn all_versions_and_alignments_read_the_same() {
    let expected = logits(&open(&small()).unwrap(), &[1, 19, 0]);
    for version in [1, 2, 3] {
        for alignment in [None, Some(4), Some(32), Some(4096)] {
            let file = with(|file| {
                file.version = version;
                if let Some(alignment) = alignment {
                    file.set("general.alignment", Value::U32(alignment)).alignment = alignment.into();
                }
            });
            let model = open(&file).unwrap();
            assert_eq!(model.format(), format!("GGUF v{version}"));
            assert_eq!(logits(&model, &[1, 19, 0]), expected, "version {version}, alignment {alignment:?}");
        }
    }
}

#[test]
fn a_file_is_mapped_and_says_what_it_has() {
    let mut file = small();
    file.set(
        "general.name",
        Value::str(
            "A \u{1f999} and a name that is so long that nobody wants to read all of it, or even half",
        ),
    )
    .set("tokenizer.chat_template", Value::str("{{ messages }}"))
    .set("an.array", Value::Array(5, vec![Value::I32(1); 7]));
    let bytes = file.to_bytes();
    let path = TempFile::new("m.gguf", &bytes);
    let model = Model::open_with(&path, &options()).unwrap();
    assert_eq!(model.file_bytes(), bytes.len() as u64);
    assert_eq!(model.chat_template(), Some("{{ messages }}"));
    let metadata = |key: &str| &*model.metadata().iter().find(|(name, _)| name == key).unwrap().1;
    assert_eq!(metadata("llama.embedding_length"), "u32 8");
    assert_eq!(metadata("an.array"), "array of 7 i32");
    assert!(metadata("general.name").starts_with("string \"A \u{1f999} and"));
    assert!(metadata("general.name").ends_with("..."));
    assert_eq!(model.metadata().len(), file.keys.len());
    assert_eq!(model.tensors().len(), file.tensors.len());
    assert_eq!(Model::from_bytes(small().to_bytes()).unwrap().chat_template(), None);
}

#[test]
fn errors_name_the_file() {
    let path = TempFile::new("m.gguf", &with_key("llama.block_count", Value::U32(3)).to_bytes());
    let error = Model::open(&path).unwrap_err();
    assert_eq!(error.path(), Some(path.path()));
    assert!(error.to_string().ends_with("m.gguf: tensor blk.2.attn_norm.weight is missing"), "{error}");
}

#[test]
fn heads_may_be_wider_than_dim_over_heads_and_turn_in_part() {
    // Zeros beside each head's dimensions change nothing, if the first ones turn as before and the
    // scores' divisor, the root of the width, is made good for: so Hugging Face's logits hold for
    // wider heads too.
    for case in GOLDEN {
        let model = case.model();
        let Shape { dim, n_heads, n_kv_heads, n_layers, .. } = case.shape;
        let (narrow, wide) = (case.shape.head_dim(), case.shape.head_dim() + 6);
        let widen = |w: &[f32], heads: usize, scale: f64| -> Vec<f32> {
            let mut out = Vec::new();
            for head in w.chunks_exact(narrow * dim).take(heads) {
                out.extend(head.iter().map(|&w| (f64::from(w) * scale) as f32));
                out.resize(out.len() + (wide - narrow) * dim, 0.0);
            }
            out
        };
        let widen_columns = |w: &[f32]| -> Vec<f32> {
            let zeros = vec![0.0; wide - narrow];
            w.chunks_exact(narrow).flat_map(|head| [head, &zeros].concat()).collect()
        };
        let mut file = model.to_gguf(case.norm_eps as f32, case.rope_theta as f32);
        file.set("llama.attention.key_length", Value::U32(wide as u32))
            .set("llama.attention.value_length", Value::U32(wide as u32))
            .set("llama.rope.dimension_count", Value::U32(narrow as u32));
        let scale = (wide as f64 / narrow as f64).sqrt();
        let (q_dim, kv_dim) = ((n_heads * wide) as u64, (n_kv_heads * wide) as u64);
        for (l, layer) in model.layers.iter().enumerate().take(n_layers) {
            let mut replace = |name: &str, dims: [u64; 2], data: Vec<f32>| {
                let tensor = file.find(&format!("blk.{l}.{name}.weight"));
                tensor.dims = dims.to_vec();
                tensor.data = data.iter().flat_map(|x| x.to_le_bytes()).collect();
            };
            replace("attn_q", [dim as u64, q_dim], widen(&layer.wq, n_heads, scale));
            replace("attn_k", [dim as u64, kv_dim], widen(&layer.wk, n_kv_heads, 1.0));
            replace("attn_v", [dim as u64, kv_dim], widen(&layer.wv, n_kv_heads, 1.0));
            replace("attn_output", [q_dim, dim as u64], widen_columns(&layer.wo));
        }
        let opened = open(&file).unwrap();
        let config = opened.config();
        assert_eq!((config.head_dim, config.rope_dim, config.q_dim()), (wide, narrow, n_heads * wide));
        let expected = case.logits().concat();
        let error = max_abs_diff(&logits(&opened, case.tokens), &expected) / std_dev(&expected);
        assert!(error < 2.9e-5, "{}: {error:e} standard deviations", case.name);
        file.remove("llama.rope.dimension_count");
        let error = max_abs_diff(&logits(&open(&file).unwrap(), case.tokens), &expected) / std_dev(&expected);
        assert!(error > 1e-3, "{}: turning all of a head goes unnoticed", case.name);
    }
}

#[test]
fn frequency_factors_divide_and_linear_scaling_divides_too() {
    let tokens: Vec<u32> = (0..12).collect();
    let expected = logits(&open(&small()).unwrap(), &tokens);
    let factors = |factor: f32| {
        with(|file| {
            file.tensor("rope_freqs.weight", &[2], &[factor; 2]);
        })
    };
    assert_eq!(logits(&open(&factors(1.0)).unwrap(), &tokens), expected);
    let linear = |key: &str, factor: f32| with_key(key, Value::F32(factor));
    let scaled = logits(&open(&linear("llama.rope.scaling.factor", 4.0)).unwrap(), &tokens);
    assert_ne!(scaled, expected);
    assert_eq!(logits(&open(&factors(4.0)).unwrap(), &tokens), scaled);
    assert_eq!(logits(&open(&linear("llama.rope.scale_linear", 4.0)).unwrap(), &tokens), scaled);
    for factor in [0.0, 1.0] {
        assert_eq!(logits(&open(&linear("llama.rope.scaling.factor", factor)).unwrap(), &tokens), expected);
    }
    for factor in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        refuses!(factors(factor), ErrorKind::Config { field: "rope_freqs", .. }, "positive");
    }
}

#[test]
fn rotary_frequencies_in_every_layer_are_no_news() {
    let tokens = [1, 7, 3, 2, 11];
    let expected = logits(&open(&with(|_| {})).unwrap(), &tokens);
    let frequencies = |name: &str, second: f32| {
        with(|file| {
            file.tensor(&name.replace('N', "0"), &[2], &[1.0, second]);
            file.tensor(&name.replace('N', "1"), &[2], &[1.0, second]);
        })
    };
    for name in ["blk.N.attn_rot_embd", "blk.N.attn_rot_embd.weight"] {
        // The base is 1e4, and a head has two pairs.
        assert_eq!(logits(&open(&frequencies(name, 0.01)).unwrap(), &tokens), expected, "{name}");
        refuses!(frequencies(name, 0.02), ErrorKind::TensorLayout { .. }, "other rotary frequencies");
    }
}

#[test]
fn the_context_ends_with_the_sliding_window() {
    let file = |window: u32| with_key("llama.attention.sliding_window", Value::U32(window));
    let context = open(&with(|_| {})).unwrap().config().max_seq_len;
    for (window, expected, found) in [(0, None, context), (8, Some(8), 8), (4096, Some(4096), context)] {
        let model = open(&file(window)).unwrap();
        assert_eq!((model.config().sliding_window, model.config().max_seq_len), (expected, found));
        assert_eq!(model.notes().iter().any(|note| note.contains("sliding window of 8")), window == 8);
    }
}

#[test]
fn rope_scaling_is_read_by_its_type() {
    let file = |kind: &str| {
        let mut file = with_key("llama.rope.scaling.type", Value::str(kind));
        file.set("llama.rope.scaling.factor", Value::F32(8.0));
        file
    };
    let scaling = |file: &Gguf| open(file).unwrap().config().rope_scaling;
    assert_eq!(scaling(&small()), RopeScaling::None);
    assert_eq!(scaling(&file("none")), RopeScaling::None);
    assert_eq!(scaling(&file("linear")), RopeScaling::Linear { factor: 8.0 });
    let mut yarn = file("yarn");
    let RopeScaling::Yarn { original_context_length, beta_fast, beta_slow, magnitude, .. } = scaling(&yarn)
    else {
        panic!("not yarn")
    };
    assert_eq!((original_context_length, beta_fast, beta_slow), (16, 32.0, 1.0));
    assert!((magnitude - (1.0 + 0.1 * 8.0_f64.ln())).abs() < 1e-12);
    yarn.set("llama.rope.scaling.original_context_length", Value::U32(4))
        .set("llama.rope.scaling.attn_factor", Value::F32(0.5));
    let RopeScaling::Yarn { original_context_length: 4, magnitude, .. } = scaling(&yarn) else {
        panic!("not yarn with 4 positions")
    };
    assert!((magnitude - 0.5 * (1.0 + 0.1 * 8.0_f64.ln())).abs() < 1e-12);
    refuses!(file("longrope"), ErrorKind::Config { field: "rope.scaling.type", .. }, "longrope");
}

#[test]
fn numbers_may_have_any_width_and_widths_may_be_given_for_each_layer() {
    let expected = open(&small()).unwrap().config().clone();
    for value in [Value::U8(8), Value::I16(8), Value::U64(8), Value::I64(8)] {
        assert_eq!(open(&with_key("llama.embedding_length", value)).unwrap().config(), &expected);
    }
    let each =
        |a, b| with_key("llama.feed_forward_length", Value::Array(4, vec![Value::U32(a), Value::U32(b)]));
    assert_eq!(open(&each(12, 12)).unwrap().config(), &expected);
    refuses!(
        each(12, 16),
        ErrorKind::KeyType { .. },
        "llama.feed_forward_length: expected an integer, the same"
    );
    let three = Value::Array(4, vec![Value::U32(12); 3]);
    refuses!(with_key("llama.feed_forward_length", three), ErrorKind::KeyType { .. }, "array of 3 u32");
    let no_kv = with(|file| {
        file.remove("llama.attention.head_count_kv");
    });
    refuses!(no_kv, ErrorKind::TensorShape { .. }, "attn_k.weight: expected shape (8, 8), found (4, 8)");
    let no_theta = with(|file| {
        file.remove("llama.rope.freq_base");
    });
    assert_eq!(open(&no_theta).unwrap().config(), &expected);
}

// --- Tokenizers

#[test]
fn a_file_brings_its_tokenizer() {
    let model = open(&rich()).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!(tokenizer.vocab_size(), 7);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
    assert_eq!(tokenizer.kind(1), Some(PieceKind::Control));
    assert_eq!(tokenizer.score(5), Some(-5.0));
    assert_eq!(tokenizer.encode_prompt("ab"), [1, 4, 5]);
    assert!(open(&small()).unwrap().tokenizer().is_none());

    let another = Tokenizer::from_llama2c(&tokenizer_bin(&[b" ", b"x"])).unwrap();
    let options = options().tokenizer(another.clone());
    let model = Model::from_bytes_with(rich().to_bytes(), &options).unwrap();
    assert_eq!(model.tokenizer().unwrap().vocab_size(), another.vocab_size());
}

#[test]
fn a_tokenizer_may_be_read_without_a_model() {
    let mut file = rich();
    file.tensors.clear();
    let path = TempFile::new("vocab.gguf", &file.to_bytes());
    assert_eq!(Tokenizer::from_gguf(&path).unwrap().encode("ab"), [4, 5]);
    let error = Model::open(&path).unwrap_err();
    assert!(error.to_string().contains("it is a tokenizer alone"), "{error}");
    for bytes in [small().to_bytes(), b"something else".to_vec()] {
        let path = TempFile::new("no.gguf", &bytes);
        let error = Tokenizer::from_gguf(&path).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::NoTokenizer), "{error}");
        assert_eq!(error.path(), Some(path.path()));
    }
}

#[test]
fn a_bad_tokenizer_is_an_error_unless_another_is_given() {
    let tokens = |key: &str, value: Value| {
        let mut file = rich();
        file.set(&format!("tokenizer.ggml.{key}"), value);
        file
    };
    let floats = |n: usize| Value::Array(6, vec![Value::F32(0.0); n]);
    for file in [
        tokens("model", Value::str("bert")),
        tokens("model", Value::U8(1)),
        tokens("model", Value::str("gpt2")), // it has no merges
        tokens("scores", floats(6)),
        tokens("scores", Value::Array(6, vec![Value::F32(f32::NAN); 7])),
        tokens("scores", Value::strings(&["0"; 7])),
        tokens("token_type", Value::Array(5, vec![Value::I32(1); 6])),
        tokens("token_type", floats(7)),
        tokens("bos_token_id", Value::I32(-1)),
        tokens("add_bos_token", Value::U8(1)),
    ] {
        let error = open(&file).unwrap_err();
        let known = matches!(
            error.kind(),
            ErrorKind::Tokenizer { .. } | ErrorKind::KeyType { .. } | ErrorKind::MissingKey { .. }
        );
        assert!(known, "{error}");
        assert!(Model::from_bytes_with(file.to_bytes(), &options().no_tokenizer()).is_ok(), "{error}");
    }
    let pieces = Value::Array(8, vec![Value::str("a"); 21]);
    let mut file = tokens("tokens", pieces);
    file.remove("tokenizer.ggml.scores").remove("tokenizer.ggml.token_type");
    refuses!(file, ErrorKind::VocabMismatch { tokenizer: 21, model: 20 }, "21 pieces");
    file.set("tokenizer.ggml.tokens", Value::Array(8, vec![Value::Str(vec![0xFF, 0xFE]); 20]));
    assert!(open(&file).is_ok(), "a piece need not be UTF-8");
    file.set("tokenizer.ggml.bos_token_id", Value::U32(20)).remove("tokenizer.ggml.add_bos_token");
    assert_ne!(open(&file).unwrap().tokenizer().unwrap().bos(), Some(20), "an id beyond the vocabulary");
    for name in ["none", "no_vocab"] {
        assert!(open(&tokens("model", Value::str(name))).unwrap().tokenizer().is_none());
    }
}

// --- Split models

/// The parts of a model, written to a folder that goes when the first file is dropped.
fn write_parts(count: u16, change: impl Fn(usize, &mut Gguf)) -> (TempFile, Vec<PathBuf>) {
    let whole = small();
    let per_part = whole.tensors.len().div_ceil(count.into());
    let mut paths = Vec::new();
    let folder = TempFile::new("x", b"");
    for (i, tensors) in whole.tensors.chunks(per_part).enumerate() {
        let mut part = Gguf { tensors: tensors.to_vec(), ..Gguf::default() };
        if i == 0 {
            part.keys = whole.keys.clone();
        }
        part.set("split.no", Value::U16(i as u16))
            .set("split.count", Value::U16(count))
            .set("split.tensors.count", Value::I32(whole.tensors.len() as i32));
        change(i, &mut part);
        let path = folder.path().with_file_name(format!("m-{:05}-of-{count:05}.gguf", i + 1));
        fs::write(&path, part.to_bytes()).unwrap();
        paths.push(path);
    }
    (folder, paths)
}

#[test]
fn a_split_model_is_opened_by_its_first_part() {
    for count in [1, 2, 3, 5] {
        let (_folder, paths) = write_parts(count, |_, _| {});
        let model = Model::open_with(&paths[0], &options()).unwrap();
        assert_eq!(logits(&model, &[3, 4]), logits(&open(&small()).unwrap(), &[3, 4]));
        let sizes = paths.iter().map(|path| fs::metadata(path).unwrap().len());
        assert_eq!(model.file_bytes(), sizes.sum::<u64>());
    }
}

#[test]
fn a_part_that_is_missing_wrong_or_not_the_first_is_told() {
    let (_folder, paths) = write_parts(3, |_, _| {});
    let error = Model::open(&paths[1]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Split { .. }), "{error}");
    let first = paths[0].display().to_string();
    assert!(error.to_string().ends_with(&format!("this is part 2 of 3: open {first}")), "{error}");

    let error = Model::from_bytes(fs::read(&paths[0]).unwrap()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Split { .. }), "{error}");

    let renamed = paths[0].with_file_name("other.gguf");
    fs::copy(&paths[0], &renamed).unwrap();
    let error = Model::open(&renamed).unwrap_err();
    assert!(error.to_string().contains("must end in -00001-of-00003.gguf"), "{error}");

    fs::copy(&paths[1], &paths[2]).unwrap();
    let error = Model::open(&paths[0]).unwrap_err();
    assert_eq!(error.path(), Some(&*paths[2]));
    assert!(error.to_string().contains("part 3 of 3 was expected, and it says it is part 2 of 3"), "{error}");

    fs::write(&paths[2], b"no GGUF").unwrap();
    assert_eq!(Model::open(&paths[0]).unwrap_err().path(), Some(&*paths[2]));

    fs::remove_file(&paths[2]).unwrap();
    let error = Model::open(&paths[0]).unwrap_err();
    assert_eq!(error.path(), Some(&*paths[2]));
    assert!(matches!(error.kind(), ErrorKind::Io(_)), "{error}");

    let (_folder, paths) = write_parts(2, |i, part| {
        if i == 1 {
            part.tensors.pop();
        }
    });
    let error = Model::open(&paths[0]).unwrap_err();
    assert!(error.to_string().contains("should have 21 tensors, they have 20"), "{error}");

    let (_folder, paths) = write_parts(2, |i, part| {
        if i == 1 {
            part.tensors[0].name = b"token_embd.weight".to_vec();
        }
    });
    let error = Model::open(&paths[0]).unwrap_err();
    assert_eq!(error.path(), Some(&*paths[1]));
    assert!(error.to_string().contains("token_embd.weight appears twice"), "{error}");
}

// --- What a file may not be

#[test]
fn other_models_are_refused_by_name() {
    let file = with_key("general.architecture", Value::str("qwen2"));
    refuses!(file, ErrorKind::UnsupportedArchitecture { .. }, "\"qwen2\"");
    refuses!(with_key("llama.expert_count", Value::U32(8)), ErrorKind::Config { .. }, "expert_count is 8");
    assert!(open(&with_key("llama.expert_count", Value::U32(0))).is_ok());
    refuses!(with_key("llama.attention.causal", Value::Bool(false)), ErrorKind::Config { .. }, "causal");
    let bias = with(|file| {
        file.tensor("blk.1.attn_q.bias", &[8], &[0.0; 8]);
    });
    refuses!(bias, ErrorKind::UnsupportedTensor { .. }, "tensor blk.1.attn_q.bias is not supported");
    for version in [0, 4, 1000] {
        let file = with(|file| file.version = version);
        refuses!(file, ErrorKind::UnsupportedVersion { .. }, "GGUF version");
    }
    for version in [2_u32, 3] {
        let file = with(|file| file.version = version.swap_bytes());
        refuses!(file, ErrorKind::BigEndian { .. }, "big-endian");
    }
}

#[test]
fn every_key_that_a_llama_needs_is_missed() {
    for key in [
        "general.architecture",
        "llama.context_length",
        "llama.embedding_length",
        "llama.block_count",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
    ] {
        let file = with(|file| {
            file.remove(key);
        });
        refuses!(file, ErrorKind::MissingKey { .. }, key);
    }
}

#[test]
fn every_tensor_that_a_llama_needs_is_missed_and_measured() {
    let names: Vec<_> = small().tensors.iter().map(|tensor| tensor.name.clone()).collect();
    for name in names {
        let text = std::str::from_utf8(&name).unwrap();
        if text != "output.weight" {
            let file = with(|file| file.tensors.retain(|tensor| tensor.name != name));
            refuses!(file, ErrorKind::MissingTensor { .. }, text);
        }
        for dim in 0..small().find(text).dims.len() {
            let file = with(|file| {
                let tensor = file.find(text);
                let row = tensor.data.len() / tensor.dims[dim] as usize;
                tensor.data.resize(tensor.data.len() - row, 0);
                tensor.dims[dim] -= 1;
            });
            refuses!(file, ErrorKind::TensorShape { .. }, "expected shape (");
        }
        let file = with(|file| file.find(text).dims.extend([1, 1]));
        assert!(open(&file).is_ok(), "{text}: dimensions of 1 behind the others change nothing");
    }
}

#[test]
fn a_value_of_the_wrong_type_is_named_with_both_types() {
    for (key, value, message) in [
        ("llama.embedding_length", Value::F32(8.0), "expected an integer that is not negative, found f32 8"),
        ("llama.embedding_length", Value::I32(-8), "found i32 -8"),
        ("llama.block_count", Value::str("2"), "found string \"2\""),
        ("llama.rope.freq_base", Value::U32(10000), "expected a floating-point number, found u32 10000"),
        ("general.architecture", Value::U8(1), "expected a string of UTF-8, found u8 1"),
        ("general.architecture", Value::Str(vec![0xFF]), "expected a string of UTF-8, found string"),
        ("general.alignment", Value::str("32"), "found string \"32\""),
        ("llama.attention.head_count", Value::Array(6, vec![Value::F32(2.0); 2]), "array of 2 f32"),
        (
            "tokenizer.ggml.tokens",
            Value::Array(4, vec![]),
            "expected an array of strings, found array of 0 u32",
        ),
        ("split.count", Value::str("x"), "found string \"x\""),
    ] {
        let file = with_key(key, value);
        refuses!(file, ErrorKind::KeyType { .. }, message);
        assert!(refused(&file).to_string().contains(key));
    }
}

#[test]
fn hyperparameters_that_no_llama_has_are_refused() {
    for (key, value) in [
        ("llama.embedding_length", Value::U32(0)),
        ("llama.block_count", Value::U32(0)),
        ("llama.block_count", Value::U32(u32::MAX)),
        ("llama.block_count", Value::U64(u64::MAX)),
        ("llama.attention.head_count", Value::U32(0)),
        ("llama.attention.head_count", Value::U32(3)),
        ("llama.attention.head_count_kv", Value::U32(0)),
        ("llama.attention.head_count_kv", Value::U64(1 << 40)),
        ("llama.attention.key_length", Value::U32(3)),
        ("llama.attention.key_length", Value::U32(0)),
        ("llama.attention.key_length", Value::U64(u64::MAX)),
        ("llama.attention.value_length", Value::U32(2)),
        ("llama.rope.dimension_count", Value::U32(0)),
        ("llama.rope.dimension_count", Value::U32(3)),
        ("llama.rope.dimension_count", Value::U32(6)),
        ("llama.rope.freq_base", Value::F32(f32::NAN)),
        ("llama.rope.freq_base", Value::F32(-1.0)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::INFINITY)),
        ("llama.rope.scaling.factor", Value::F32(-2.0)),
        ("llama.rope.scaling.factor", Value::F32(f32::NAN)),
        ("llama.context_length", Value::U32(0)),
    ] {
        let error = refused(&with_key(key, value.clone()));
        assert!(matches!(error.kind(), ErrorKind::Config { .. }), "{key} {value:?}: {error:?}");
    }
}

#[test]
fn tensors_lie_in_the_file_aligned_and_apart() {
    let place = |offset: u64| with(|file| file.find("blk.0.attn_q.weight").offset = Some(offset));
    refuses!(place(4), ErrorKind::TensorLayout { .. }, "blk.0.attn_q.weight: its offset 4 is no multiple");
    refuses!(place(0), ErrorKind::TensorLayout { .. }, "overlaps tensor token_embd.weight");
    for offset in [1 << 20, 1 << 62, u64::MAX - 31] {
        refuses!(place(offset), ErrorKind::TensorLayout { .. }, "don't end within the file");
    }
    let dims = |dims: &[u64]| with(|file| file.find("blk.0.attn_q.weight").dims = dims.to_vec());
    refuses!(dims(&[8, 8, 1, 1, 1]), ErrorKind::TensorLayout { .. }, "5 dimensions");
    refuses!(dims(&[1 << 32, 1 << 32]), ErrorKind::TensorLayout { .. }, "overflows");
    refuses!(dims(&[u64::MAX]), ErrorKind::TensorLayout { .. }, "overflows");
    refuses!(dims(&[0, 8]), ErrorKind::TensorLayout { .. }, "a dimension of 0: [0, 8]");
    refuses!(dims(&[8, 8, 0]), ErrorKind::TensorLayout { .. }, "a dimension of 0: [8, 8, 0]");
    refuses!(dims(&[8, 8, 1 << 20]), ErrorKind::TensorLayout { .. }, "don't end within");
    let kind = |kind: u32| with(|file| file.find("blk.0.attn_q.weight").kind = kind);
    refuses!(
        kind(2),
        ErrorKind::TensorLayout { .. },
        "rows of 8 weights are not a multiple of Q4_0's block of 32"
    );
    for (number, name) in [
        (4, "Q4_2 (which was taken back: download the model in Q4_0)"),
        (5, "Q4_3 (which was taken back: download the model in Q4_1)"),
        (31, "Q4_0_4_4 (which was taken back: download the model in Q4_0)"),
        (38, "IQ4_NL_8_8 (which was taken back: download the model in IQ4_NL)"),
        (99, "number 99"),
        (u32::MAX, "number 4294967295"),
    ] {
        refuses!(kind(number), ErrorKind::UnsupportedTensorType { .. }, &format!("type {name}"));
    }
    for number in [24, 25] {
        refuses!(kind(number), ErrorKind::UnsupportedTensorType { .. }, "attn_q.weight: weights of type I");
    }
    for alignment in [0, 3, 48] {
        refuses!(
            with_key("general.alignment", Value::U32(alignment)),
            ErrorKind::Malformed { .. },
            "power of two"
        );
    }
    let odd = with(|file| {
        file.set("general.alignment", Value::U32(1)).alignment = 1;
        file.set("x", Value::U8(1));
        let (header, _) = file.header();
        if header.len().is_multiple_of(4) {
            file.set("x", Value::U16(1));
        }
    });
    refuses!(odd, ErrorKind::TensorLayout { .. }, "not aligned");
}

#[test]
fn a_type_of_weights_takes_the_bytes_that_ggml_gives_it() {
    // The number of the type, the weights of a block and its bytes, as ggml has them.
    let types: [(u32, u64, usize); 35] = [
        (0, 1, 4),
        (1, 1, 2),
        (2, 32, 18),
        (3, 32, 20),
        (6, 32, 22),
        (7, 32, 24),
        (8, 32, 34),
        (9, 32, 36),
        (10, 256, 84),
        (11, 256, 110),
        (12, 256, 144),
        (13, 256, 176),
        (14, 256, 210),
        (15, 256, 292),
        (16, 256, 66),
        (17, 256, 74),
        (18, 256, 98),
        (19, 256, 50),
        (20, 32, 18),
        (21, 256, 110),
        (22, 256, 82),
        (23, 256, 136),
        (24, 1, 1),
        (25, 1, 2),
        (26, 1, 4),
        (27, 1, 8),
        (28, 1, 8),
        (29, 256, 56),
        (30, 1, 2),
        (34, 256, 54),
        (35, 256, 66),
        (39, 32, 17),
        (40, 64, 36),
        (41, 128, 18),
        (42, 64, 18),
    ];
    for (kind, weights, bytes) in types {
        for (missing, three_rows) in [(0, vec![0; 6 * bytes]), (1, vec![0; 6 * bytes - 1])] {
            let file = with(|file| {
                file.tensor("odd", &[2 * weights, 3], &[]);
                let tensor = file.find("odd");
                (tensor.kind, tensor.data) = (kind, three_rows);
            });
            let error = refused(&file);
            match error.kind() {
                ErrorKind::UnsupportedTensor { name } => {
                    assert_eq!((missing, &**name), (0, "odd"), "{kind}")
                }
                ErrorKind::TensorLayout { name, .. } => {
                    assert_eq!((missing, &**name), (1, "odd"), "{kind}")
                }
                _ => panic!("type {kind}, {missing} bytes missing: {error}"),
            }
        }
        if weights > 1 {
            let file = with(|file| {
                file.tensor("odd", &[weights + 1, 1], &[]);
                file.find("odd").kind = kind;
            });
            refuses!(file, ErrorKind::TensorLayout { .. }, "not a multiple of");
        }
    }
}

#[test]
fn names_are_unique_and_utf8_and_of_bounded_length() {
    let key = |key: &[u8]| with(|file| file.keys.push((key.to_vec(), Value::U8(1))));
    refuses!(key(b"llama.block_count"), ErrorKind::Malformed { .. }, "key llama.block_count appears twice");
    refuses!(key(b"\xFF\xFE"), ErrorKind::Malformed { .. }, "is not UTF-8");
    refuses!(key(b""), ErrorKind::Malformed { .. }, "has 0 bytes");
    refuses!(key(&[b'x'; 1 << 16]), ErrorKind::Malformed { .. }, "has 65536 bytes");
    assert!(open(&key(&[b'x'; 65535])).is_ok());
    let name = |name: &[u8]| with(|file| file.tensors[2].name = name.to_vec());
    refuses!(
        name(b"token_embd.weight"),
        ErrorKind::Malformed { .. },
        "tensor token_embd.weight appears twice"
    );
    refuses!(name(b"\xC3("), ErrorKind::Malformed { .. }, "is not UTF-8");
    refuses!(name(&[b'x'; 65]), ErrorKind::Malformed { .. }, "has 65 bytes");
}

#[test]
fn arrays_nest_only_a_little() {
    let nested = |depth: usize| {
        let mut value = Value::Array(0, vec![Value::U8(1), Value::U8(2)]);
        for _ in 1..depth {
            value = Value::Array(9, vec![value.clone(), value]);
        }
        with_key("nested", value)
    };
    for depth in 1..=4 {
        assert!(open(&nested(depth)).is_ok(), "{depth}");
    }
    refuses!(nested(5), ErrorKind::Malformed { .. }, "nested deeper than 4");
    let bomb = Value::Raw(9, [[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]; 100_000].concat());
    refuses!(with_key("bomb", bomb), ErrorKind::Malformed { .. }, "nested deeper than 4");
    for kind in [13, 255, u32::MAX] {
        refuses!(
            with_key("odd", Value::Raw(kind, vec![0; 64])),
            ErrorKind::Malformed { .. },
            "no value type"
        );
        let array = [kind.to_le_bytes().to_vec(), vec![0; 64]].concat();
        refuses!(with_key("odd", Value::Raw(9, array)), ErrorKind::Malformed { .. }, "no value type");
    }
}

// --- Damage

/// What a small file may take beyond its own size while it is opened.
const OPEN: usize = 64 << 10;

/// Opens, uses if it can be opened, and checks that it took no more memory than the file justifies.
#[track_caller]
fn try_bytes(bytes: Vec<u8>, case: &str) -> Result<(), Error> {
    let len = bytes.len();
    let (result, taken) = peak(|| {
        catch_unwind(AssertUnwindSafe(|| Model::from_bytes_with(bytes, &options())))
            .unwrap_or_else(|_| panic!("{case}: panicked"))
    });
    assert!(taken <= 12 * len + OPEN, "{case}: opening {len} bytes took {taken}");
    let model = result?;
    let last = model.config().vocab_size as u32 - 1;
    catch_unwind(AssertUnwindSafe(|| {
        let mut session = model.session();
        if session.capacity() > 1 {
            session.forward(&[0, last]).unwrap();
        }
    }))
    .unwrap_or_else(|_| panic!("{case}: panicked when used"));
    Ok(())
}

/// A small file with everything in it that is read.
fn rich() -> Gguf {
    let mut file = small();
    file.set("general.alignment", Value::U32(32))
        .set("llama.rope.dimension_count", Value::U32(4))
        .set("llama.rope.scaling.type", Value::str("yarn"))
        .set("llama.rope.scaling.factor", Value::F32(2.0))
        .set("tokenizer.ggml.model", Value::str("llama"))
        .set("tokenizer.ggml.tokens", Value::strings(&["<unk>", "<s>", "</s>", "a", "\u{2581}", "ab", "b"]))
        .set("tokenizer.ggml.scores", Value::Array(6, (0..7).map(|i| Value::F32(-(i as f32))).collect()))
        .set("tokenizer.ggml.token_type", Value::Array(5, [2, 3, 3, 1, 1, 1, 1].map(Value::I32).to_vec()))
        .set("tokenizer.ggml.bos_token_id", Value::U32(1))
        .set("tokenizer.ggml.eos_token_id", Value::U32(2))
        .set("tokenizer.ggml.add_bos_token", Value::Bool(true))
        .set("tokenizer.chat_template", Value::str("{{ x }}"))
        .set("nested", Value::Array(9, vec![Value::Array(3, vec![Value::I16(5); 3]); 2]));
    file.tensor("rope_freqs.weight", &[2], &[1.0, 2.0]);
    file
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    for version in [1, 2, 3] {
        let mut file = rich();
        file.version = version;
        let bytes = file.to_bytes();
        try_bytes(bytes.clone(), "whole").unwrap();
        let header = file.header().0.len();
        let cuts = (0..header + 40).chain((header + 40..bytes.len()).step_by(61));
        for len in cuts.chain([bytes.len() - 1]) {
            let error = try_bytes(bytes[..len].to_vec(), &format!("cut at {len}")).unwrap_err();
            let known = match error.kind() {
                ErrorKind::UnknownFormat { .. } => len < 4,
                ErrorKind::Truncated { needed, available, .. } => needed > available && len < header,
                ErrorKind::TensorLayout { .. } => len >= header,
                _ => false,
            };
            assert!(known, "cut at {len} of {header} and {}: {error:?}", bytes.len());
        }
    }
}

#[test]
fn random_damage_is_an_error_or_a_working_model() {
    let file = rich();
    let whole = file.to_bytes();
    let header = file.header().0.len();
    let rounds = if cfg!(debug_assertions) { 4_000 } else { 60_000 };
    let mut rng = SplitMix64::new(52);
    let mut opened = 0;
    for round in 0..rounds {
        let mut bytes = whole.clone();
        for _ in 0..=rng.next_u64() % 3 {
            let at = rng.next_u64() as usize % header;
            bytes[at] = match rng.next_u64() % 4 {
                0 => bytes[at] ^ 1 << (rng.next_u64() % 8),
                1 => rng.next_u64() as u8,
                _ => [0, 1, 0x7F, 0x80, 0xFF][rng.next_u64() as usize % 5],
            };
        }
        opened += usize::from(try_bytes(bytes, &format!("round {round}")).is_ok());
    }
    // Damage to keys that aren't read, and to numbers that may be anything.
    assert!(opened > rounds / 100 && opened < rounds, "{opened} of {rounds} were opened");
}

#[test]
fn huge_counts_are_refused_before_anything_is_allocated() {
    for count in [1 << 16, 1 << 31, 1 << 32, 1 << 62, u64::MAX] {
        for at in [8, 16] {
            let mut bytes = rich().to_bytes();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            try_bytes(bytes, &format!("{count} at {at}")).unwrap_err();
        }
        let length = count.to_le_bytes();
        for element in 0..=12_u32 {
            let array = [&element.to_le_bytes()[..], &length].concat();
            let error =
                try_bytes(with_key("x", Value::Raw(9, array)).to_bytes(), &format!("array of {count}"));
            error.unwrap_err();
        }
        try_bytes(with_key("x", Value::Raw(8, length.to_vec())).to_bytes(), "a string").unwrap_err();
    }
}

#[test]
fn many_keys_take_memory_in_proportion() {
    let mut file = small();
    for i in 0..16_000 {
        file.keys.push((format!("{i:x}").into_bytes(), Value::U8(1)));
    }
    try_bytes(file.to_bytes(), "16,000 keys").unwrap();
    for i in 16_000..17_000 {
        file.keys.push((format!("{i:x}").into_bytes(), Value::U8(1)));
    }
    let error = try_bytes(file.to_bytes(), "17,000 keys").unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Malformed { .. }), "{error}");
}

// --- True shapes

/// A name, dim, `hidden_dim`, layers, heads, heads of keys and values, and pieces.
const TRUE_SHAPES: [(&str, u64, u64, u64, u64, u64, u64); 8] = [
    ("LLaMA 7B", 4096, 11008, 32, 32, 32, 32000),
    ("LLaMA 13B", 5120, 13824, 40, 40, 40, 32000),
    ("LLaMA 33B", 6656, 17920, 60, 52, 52, 32000),
    ("LLaMA 65B", 8192, 22016, 80, 64, 64, 32000),
    ("Llama 2 70B", 8192, 28672, 80, 64, 8, 32000),
    ("Mistral 7B", 4096, 14336, 32, 32, 8, 32000),
    ("Llama 3 8B", 4096, 14336, 32, 32, 8, 128_256),
    ("Llama 3 70B", 8192, 28672, 80, 64, 8, 128_256),
];

/// A file of a true shape with holes for weights: a type's number, and weights and bytes of its
/// blocks.
fn true_shape(index: usize, (kind, weights, bytes): (u32, u64, u64)) -> Gguf {
    let (_, dim, hidden, n_layers, n_heads, n_kv_heads, vocab) = TRUE_SHAPES[index];
    let kv_dim = dim / n_heads * n_kv_heads;
    let mut file = Gguf::default();
    file.set("general.architecture", Value::str("llama"))
        .set("llama.context_length", Value::U32(4096))
        .set("llama.embedding_length", Value::U32(dim as u32))
        .set("llama.block_count", Value::U32(n_layers as u32))
        .set("llama.feed_forward_length", Value::U32(hidden as u32))
        .set("llama.attention.head_count", Value::U32(n_heads as u32))
        .set("llama.attention.head_count_kv", Value::U32(n_kv_heads as u32))
        .set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    let pieces = (0..vocab).map(|i| Value::str(&format!("\u{2581}piece{i}"))).collect();
    file.set("tokenizer.ggml.model", Value::str("llama"))
        .set("tokenizer.ggml.tokens", Value::Array(8, pieces))
        .set("tokenizer.ggml.scores", Value::Array(6, vec![Value::F32(0.5); vocab as usize]))
        .set("tokenizer.ggml.token_type", Value::Array(5, vec![Value::I32(1); vocab as usize]));
    let mut matrix = |name: &str, columns: u64, rows: u64| {
        file.hole(name, &[columns, rows], kind, columns / weights * bytes * rows);
    };
    matrix("token_embd.weight", dim, vocab);
    matrix("output.weight", dim, vocab);
    for l in 0..n_layers {
        matrix(&format!("blk.{l}.attn_q.weight"), dim, dim);
        matrix(&format!("blk.{l}.attn_k.weight"), dim, kv_dim);
        matrix(&format!("blk.{l}.attn_v.weight"), dim, kv_dim);
        matrix(&format!("blk.{l}.attn_output.weight"), dim, dim);
        matrix(&format!("blk.{l}.ffn_gate.weight"), dim, hidden);
        matrix(&format!("blk.{l}.ffn_down.weight"), hidden, dim);
        matrix(&format!("blk.{l}.ffn_up.weight"), dim, hidden);
    }
    for l in 0..n_layers {
        file.hole(&format!("blk.{l}.attn_norm.weight"), &[dim], 0, 4 * dim);
        file.hole(&format!("blk.{l}.ffn_norm.weight"), &[dim], 0, 4 * dim);
    }
    file.hole("output_norm.weight", &[dim], 0, 4 * dim);
    file
}

#[test]
#[cfg(all(unix, target_pointer_width = "64"))]
fn files_of_true_shapes_open_in_milliseconds() {
    for (format, block) in [("F32", (0, 1, 4)), ("F16", (1, 1, 2)), ("Q4_0", (2, 32, 18))] {
        for index in 0..TRUE_SHAPES.len() {
            let (name, dim, hidden, n_layers, n_heads, n_kv_heads, vocab) = TRUE_SHAPES[index];
            let name = format!("{name} {format}");
            let path = TempFile::new("m.gguf", b"");
            let len = true_shape(index, block).write_sparse(path.path());
            let start = Instant::now();
            let (model, taken) = peak(|| Model::open_with(&path, &options()).unwrap());
            let session = model.session();
            let time = start.elapsed();
            println!("{name}: {len} bytes, {time:?}, {taken} bytes of memory");
            assert_eq!(session.capacity(), 4096);
            assert_eq!(model.file_bytes(), len);
            assert_eq!(model.tokenizer().unwrap().vocab_size() as u64, vocab);
            let kv_dim = dim / n_heads * n_kv_heads;
            let matrices = n_layers * (2 * dim * dim + 2 * kv_dim * dim + 3 * hidden * dim) + 2 * vocab * dim;
            let norms = (2 * n_layers + 1) * dim;
            let tensors = model.tensors();
            let found: u64 = tensors.iter().map(|t| t.shape.iter().map(|&n| n as u64).product::<u64>()).sum();
            assert_eq!(found, matrices + norms, "{name}: weights");
            let bytes: u64 = tensors.iter().map(|t| t.bytes as u64).sum();
            assert_eq!(bytes, matrices / block.1 * block.2 + 4 * norms, "{name}: bytes");
            assert!(taken < 100 << 20, "{name}: {taken} bytes of memory");
            if !cfg!(debug_assertions) {
                // 3 to 30 ms where nothing else runs; tests run beside each other.
                assert!(time < Duration::from_millis(300), "{name}: {time:?}");
            }
        }
    }
}
