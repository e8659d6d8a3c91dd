//! GGUF files with long RoPE factors, and those that are none.

use babyllama::{ErrorKind, Model, RopeScaling, SessionOptions};

use crate::common::gguf::{Gguf, Value};
use crate::common::{assert_same_bits, open, refuses, try_open};
use crate::with;

const NAMES: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

/// A Llama says it by the type.
fn llama(change: impl FnOnce(&mut Gguf)) -> Gguf {
    with(|file| {
        file.set("llama.rope.scaling.type", Value::str("longrope"));
        file.set("llama.rope.scaling.original_context_length", Value::U32(8));
        change(file);
    })
}

/// The same numbers as another architecture, whose files say no type.
fn named(architecture: &str, file: Gguf) -> Gguf {
    let mut file = file;
    file.remove("llama.rope.scaling.type").set("general.architecture", Value::str(architecture));
    for (key, _) in &mut file.keys {
        if let Some(rest) = key.strip_prefix(b"llama.") {
            *key = [architecture.as_bytes(), b".", rest].concat();
        }
    }
    file
}

fn with_factors(file: &mut Gguf, [short, long]: [&[f32]; 2]) {
    for (name, factors) in NAMES.iter().zip([short, long]) {
        file.tensor(name, &[factors.len() as u64], factors);
    }
}

fn whole(file: &mut Gguf) {
    with_factors(file, [&[1.0, 2.0], &[3.0, 40.0]]);
}

fn logits(model: &Model, capacity: usize) -> Vec<f32> {
    let mut session = model.session_with(SessionOptions::new().context_length(capacity));
    session.forward_all(&[1, 19, 0, 7, 3]).unwrap().to_vec()
}

#[test]
fn long_factors_are_read_by_type_and_of_phi_3_by_their_tensors() {
    let untyped = || {
        llama(|file| {
            file.remove("llama.rope.scaling.type");
        })
    };
    for architecture in ["llama", "phi3"] {
        let one_set = |factors: &[f32]| {
            let mut file = untyped();
            file.tensor("rope_freqs.weight", &[2], factors);
            open(&named(architecture, file))
        };
        let file = if architecture == "llama" { llama(whole) } else { named("phi3", llama(whole)) };
        let model = open(&file);
        let expected = RopeScaling::Long { original_context_length: 8, magnitude: 1.0 };
        assert_eq!(model.config().rope_scaling, expected);
        for (capacity, factors) in [(5, [1.0, 2.0]), (8, [1.0, 2.0]), (9, [3.0, 40.0]), (16, [3.0, 40.0])] {
            let one_set = one_set(&factors);
            assert_same_bits(&logits(&model, capacity), &logits(&one_set, capacity), architecture);
        }
        assert_ne!(logits(&model, 8), logits(&model, 9));
        // Queries and keys grow by the attention factor, in both.
        let mut file = file;
        file.set(&format!("{architecture}.rope.scaling.attn_factor"), Value::F32(1.25));
        let grown = open(&file);
        assert!(matches!(grown.config().rope_scaling, RopeScaling::Long { magnitude: 1.25, .. }));
        for capacity in [8, 9] {
            assert_ne!(logits(&grown, capacity), logits(&model, capacity));
        }
        // Without an original context it is the context.
        file.remove(&format!("{architecture}.rope.scaling.original_context_length"));
        let RopeScaling::Long { original_context_length: 16, .. } = open(&file).config().rope_scaling else {
            panic!("not 16 positions")
        };
    }
}

#[test]
fn long_factors_that_are_none_are_refused() {
    for file in [llama, |change: fn(&mut Gguf)| named("phi3", llama(change))] {
        for missing in NAMES {
            let mut one = file(whole);
            one.tensors.retain(|tensor| tensor.name != missing.as_bytes());
            refuses!(try_open(&one), ErrorKind::MissingTensor { .. }, missing);
        }
        for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            for (i, field) in ["rope_factors_short", "rope_factors_long"].into_iter().enumerate() {
                let mut one = file(whole);
                one.find(NAMES[i]).data[4..].copy_from_slice(&bad.to_le_bytes());
                let refused = try_open(&one);
                refuses!(refused, ErrorKind::Config { field: found, .. } if *found == field, "positive");
            }
        }
        let short = file(|file| with_factors(file, [&[1.0, 2.0], &[3.0]]));
        refuses!(try_open(&short), ErrorKind::TensorShape { .. }, "rope_factors_long");
        let long = file(|file| with_factors(file, [&[1.0, 2.0, 3.0], &[3.0, 4.0]]));
        refuses!(try_open(&long), ErrorKind::TensorShape { .. }, "rope_factors_short");
        // With those of Llama 3.1 it isn't clear which count.
        let both = file(|file| {
            whole(file);
            file.tensor("rope_freqs.weight", &[2], &[1.0; 2]);
        });
        refuses!(try_open(&both), ErrorKind::UnsupportedTensor { .. }, "rope_freqs");
    }
    let key = |key: &str, value: Value| {
        let mut file = llama(whole);
        file.set(&format!("llama.rope.scaling.{key}"), value);
        try_open(&file)
    };
    refuses!(
        key("factor", Value::F32(4.0)),
        ErrorKind::Config { field: "rope.scaling.factor", .. },
        "longrope"
    );
    for bad in [0.0, -1.0, f32::NAN] {
        let refused = key("attn_factor", Value::F32(bad));
        refuses!(refused, ErrorKind::Config { field: "rope magnitude", .. }, "positive");
    }
    let refused = key("original_context_length", Value::U32(0));
    refuses!(refused, ErrorKind::Config { field: "original_context_length", .. }, "at least 1");
}

#[test]
fn other_architectures_have_no_long_factors() {
    let mut typed = named("qwen2", llama(whole));
    typed.set("qwen2.rope.scaling.type", Value::str("longrope"));
    refuses!(try_open(&typed), ErrorKind::Config { field: "rope.scaling.type", .. }, "longrope");
    let untyped = named("qwen2", llama(whole));
    refuses!(try_open(&untyped), ErrorKind::UnsupportedTensor { .. }, "rope_factors");
    // Nor has a Llama of another type.
    let mut linear = llama(whole);
    linear.set("llama.rope.scaling.type", Value::str("linear"));
    refuses!(try_open(&linear), ErrorKind::UnsupportedTensor { .. }, "rope_factors");
}
