//! What a GGUF file may not be.

use babyllama::ErrorKind;

use crate::common::gguf::{Gguf, Value};
use crate::common::{refuses, try_open};
use crate::{small, with, with_key};

#[track_caller]
fn malformed(file: &Gguf, text: &str) {
    refuses!(try_open(file), ErrorKind::Malformed { .. }, text);
}

#[track_caller]
fn wrong_layout(file: &Gguf, text: &str) {
    refuses!(try_open(file), ErrorKind::TensorLayout { .. }, text);
}

#[test]
fn other_models_are_refused_by_name() {
    let file = with_key("general.architecture", Value::str("gemma2"));
    refuses!(
        try_open(&file),
        ErrorKind::UnsupportedArchitecture { .. },
        "\"gemma2\" are not supported: llama, "
    );
    refuses!(
        try_open(&with_key("llama.expert_count", Value::U32(8))),
        ErrorKind::Config { .. },
        "expert_count is 8"
    );
    assert!(try_open(&with_key("llama.expert_count", Value::U32(0))).is_ok());
    refuses!(
        try_open(&with_key("llama.attention.causal", Value::Bool(false))),
        ErrorKind::Config { .. },
        "causal"
    );
    let sinks = with(|file| {
        file.tensor("blk.1.attn_sinks.weight", &[8], &[0.0; 8]);
    });
    refuses!(
        try_open(&sinks),
        ErrorKind::UnsupportedTensor { .. },
        "tensor blk.1.attn_sinks.weight is not supported"
    );
    for version in [0, 4, 1000] {
        let file = with(|file| file.version = version);
        refuses!(try_open(&file), ErrorKind::UnsupportedVersion { .. }, "GGUF version");
    }
    for version in [2_u32, 3] {
        let file = with(|file| file.version = version.swap_bytes());
        refuses!(try_open(&file), ErrorKind::BigEndian { .. }, "big-endian");
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
        refuses!(try_open(&file), ErrorKind::MissingKey { .. }, key);
    }
}

#[test]
fn every_tensor_that_a_llama_needs_is_missed_and_measured() {
    let names: Vec<_> = small().tensors.iter().map(|tensor| tensor.name.clone()).collect();
    for name in names {
        let text = std::str::from_utf8(&name).unwrap();
        if text != "output.weight" {
            let file = with(|file| file.tensors.retain(|tensor| tensor.name != name));
            refuses!(try_open(&file), ErrorKind::MissingTensor { .. }, text);
        }
        for dim in 0..small().find(text).dims.len() {
            let file = with(|file| {
                let tensor = file.find(text);
                let row = tensor.data.len() / tensor.dims[dim] as usize;
                tensor.data.resize(tensor.data.len() - row, 0);
                tensor.dims[dim] -= 1;
            });
            refuses!(try_open(&file), ErrorKind::TensorShape { .. }, "expected shape (");
        }
        let file = with(|file| file.find(text).dims.extend([1, 1]));
        assert!(try_open(&file).is_ok(), "{text}: dimensions of 1 after the others change nothing");
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
        refuses!(try_open(&file), ErrorKind::KeyType { .. }, message, key);
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
        refuses!(try_open(&with_key(key, value)), ErrorKind::Config { .. });
    }
}

#[test]
fn tensors_lie_in_the_file_aligned_and_apart() {
    let place = |offset: u64| with(|file| file.find("blk.0.attn_q.weight").offset = Some(offset));
    wrong_layout(&place(4), "blk.0.attn_q.weight: its offset 4 is not a multiple of the alignment, 32");
    wrong_layout(&place(0), "overlaps tensor token_embd.weight");
    for offset in [1 << 20, 1 << 62, u64::MAX - 31] {
        wrong_layout(&place(offset), "don't end within the file");
    }
    let dims = |dims: &[u64]| with(|file| file.find("blk.0.attn_q.weight").dims = dims.to_vec());
    wrong_layout(&dims(&[8, 8, 1, 1, 1]), "5 dimensions");
    wrong_layout(&dims(&[1 << 32, 1 << 32]), "overflows");
    wrong_layout(&dims(&[u64::MAX]), "overflows");
    wrong_layout(&dims(&[0, 8]), "a dimension of 0: [0, 8]");
    wrong_layout(&dims(&[8, 8, 0]), "a dimension of 0: [8, 8, 0]");
    wrong_layout(&dims(&[8, 8, 1 << 20]), "don't end within");
    let kind = |kind: u32| with(|file| file.find("blk.0.attn_q.weight").kind = kind);
    wrong_layout(&kind(2), "rows of 8 weights are not a multiple of Q4_0's block of 32");
    for (number, name) in [
        (4, "Q4_2 (which was taken back: download the model in Q4_0)"),
        (5, "Q4_3 (which was taken back: download the model in Q4_1)"),
        (31, "Q4_0_4_4 (which was taken back: download the model in Q4_0)"),
        (38, "IQ4_NL_8_8 (which was taken back: download the model in IQ4_NL)"),
        (99, "number 99"),
        (u32::MAX, "number 4294967295"),
    ] {
        refuses!(try_open(&kind(number)), ErrorKind::UnsupportedTensorType { .. }, format!("type {name}"));
    }
    for number in [24, 25] {
        refuses!(
            try_open(&kind(number)),
            ErrorKind::UnsupportedTensorType { .. },
            "attn_q.weight: weights of type I"
        );
    }
    for alignment in [0, 3, 48] {
        malformed(&with_key("general.alignment", Value::U32(alignment)), "power of two");
    }
    let odd = with(|file| {
        file.set("general.alignment", Value::U32(1)).alignment = 1;
        file.set("x", Value::U8(1));
        let (header, _) = file.header();
        if header.len().is_multiple_of(4) {
            file.set("x", Value::U16(1));
        }
    });
    wrong_layout(&odd, "not aligned");
}

#[test]
fn a_type_of_weights_takes_the_bytes_that_ggml_gives_it() {
    // The number of the type, the weights of a block and its bytes, as ggml has them.
    #[rustfmt::skip]
    let types: [(u32, u64, usize); 35] = [
        (0, 1, 4), (1, 1, 2), (2, 32, 18), (3, 32, 20), (6, 32, 22),
        (7, 32, 24), (8, 32, 34), (9, 32, 36), (10, 256, 84), (11, 256, 110),
        (12, 256, 144), (13, 256, 176), (14, 256, 210), (15, 256, 292), (16, 256, 66),
        (17, 256, 74), (18, 256, 98), (19, 256, 50), (20, 32, 18), (21, 256, 110),
        (22, 256, 82), (23, 256, 136), (24, 1, 1), (25, 1, 2), (26, 1, 4),
        (27, 1, 8), (28, 1, 8), (29, 256, 56), (30, 1, 2), (34, 256, 54),
        (35, 256, 66), (39, 32, 17), (40, 64, 36), (41, 128, 18), (42, 64, 18),
    ];
    for (kind, weights, bytes) in types {
        for (missing, three_rows) in [(0, vec![0; 6 * bytes]), (1, vec![0; 6 * bytes - 1])] {
            let file = with(|file| {
                file.tensor("odd", &[2 * weights, 3], &[]);
                let tensor = file.find("odd");
                (tensor.kind, tensor.data) = (kind, three_rows);
            });
            let error = try_open(&file).unwrap_err();
            match error.kind() {
                ErrorKind::UnsupportedTensor { name } => {
                    assert_eq!((missing, &**name), (0, "odd"), "{kind}");
                }
                ErrorKind::TensorLayout { name, .. } => {
                    assert_eq!((missing, &**name), (1, "odd"), "{kind}");
                }
                _ => panic!("type {kind}, {missing} bytes missing: {error}"),
            }
        }
        if weights > 1 {
            let file = with(|file| {
                file.tensor("odd", &[weights + 1, 1], &[]);
                file.find("odd").kind = kind;
            });
            wrong_layout(&file, "not a multiple of");
        }
    }
}

#[test]
fn names_are_unique_and_utf8_and_of_bounded_length() {
    let key = |key: &[u8]| with(|file| file.keys.push((key.to_vec(), Value::U8(1))));
    malformed(&key(b"llama.block_count"), "key llama.block_count appears twice");
    malformed(&key(b"\xFF\xFE"), "is not UTF-8");
    malformed(&key(b""), "has 0 bytes");
    malformed(&key(&[b'x'; 1 << 16]), "has 65536 bytes");
    assert!(try_open(&key(&[b'x'; 65535])).is_ok());
    let name = |name: &[u8]| with(|file| file.tensors[2].name = name.to_vec());
    malformed(&name(b"token_embd.weight"), "tensor token_embd.weight appears twice");
    malformed(&name(b"\xC3("), "is not UTF-8");
    malformed(&name(&[b'x'; 65]), "has 65 bytes");
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
        assert!(try_open(&nested(depth)).is_ok(), "{depth}");
    }
    malformed(&nested(5), "nested deeper than 4");
    let bomb = Value::Raw(9, [[9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]; 100_000].concat());
    malformed(&with_key("bomb", bomb), "nested deeper than 4");
    for kind in [13, 255, u32::MAX] {
        malformed(&with_key("odd", Value::Raw(kind, vec![0; 64])), "no value type");
        let array = [kind.to_le_bytes().to_vec(), vec![0; 64]].concat();
        malformed(&with_key("odd", Value::Raw(9, array)), "no value type");
    }
}
