//! Models in GGUF's weight formats: their logits against those of the decoded weights in f64.

use std::collections::HashSet;

use babyllama::{Dtype, Isa, Model};

use crate::common::gguf::Gguf;
use crate::common::{
    GOLDEN, RandomModel, all_logits, assert_same_bits, golden_bytes, golden_f64, int8_tolerance, logits,
    max_error, open_on, rms_error,
};

/// What `tests/golden/mixed_formats.py` feeds.
const TOKENS: [u32; 10] = [1, 71, 30, 2, 30, 0, 55, 64, 13, 7];

/// The models that it writes.
const FILES: [&str; 2] = ["mixed_formats", "low_bit_formats"];

#[test]
fn the_golden_files_have_a_matrix_in_every_format_of_gguf() {
    let models = FILES.map(|name| Model::from_bytes(golden_bytes(&format!("{name}.gguf"))).unwrap());
    let tensors = models.iter().flat_map(Model::tensors);
    let found: HashSet<Dtype> =
        tensors.filter(|tensor| tensor.shape.len() == 2).map(|tensor| tensor.dtype).collect();
    assert_eq!(found, Dtype::ALL.iter().copied().collect());
}

#[test]
fn a_formats_name_is_read_in_upper_or_lower_case() {
    for &dtype in Dtype::ALL.iter().chain(&[Dtype::Int8 { group_size: 64 }]) {
        assert_eq!(dtype.to_string().parse::<Dtype>().unwrap(), dtype);
        assert_eq!(dtype.to_string().to_ascii_lowercase().parse::<Dtype>().unwrap(), dtype);
    }
    assert_eq!("IQ4_xs".parse::<Dtype>().unwrap(), Dtype::Iq4Xs);
    let error = "q9".parse::<Dtype>().unwrap_err().to_string();
    assert!(error.starts_with("option weight format = q9: must be one of f32, f16, bf16, q8_0, "), "{error}");
    assert!(error.ends_with(", tq2_0, mxfp4"), "{error}");
}

#[test]
fn every_format_gives_hugging_faces_logits_of_the_weights_that_gguf_decodes() {
    let tolerance = int8_tolerance(2, 32); // two layers, activations in groups of 32
    for name in FILES {
        let file = golden_bytes(&format!("{name}.gguf"));
        let expected = golden_f64(&format!("{name}.f64"));
        for isa in Isa::available() {
            let error = rms_error(&all_logits(&open_on(file.clone(), isa, 2), &TOKENS), &expected);
            println!("{name} {}: {error:.4}, tolerance {tolerance:.4}", isa.name());
            assert!(error < tolerance, "{name} {}: {error} > {tolerance}", isa.name());
        }
    }
}

#[test]
fn every_format_gives_the_same_bits_fed_at_once_or_in_parts() {
    let files = FILES.map(|name| golden_bytes(&format!("{name}.gguf")));
    for (file, isa) in files.iter().flat_map(|file| Isa::available().into_iter().map(move |isa| (file, isa)))
    {
        let model = open_on(file.clone(), isa, 1);
        let together = all_logits(&model, &TOKENS);
        for part in 1..TOKENS.len() {
            let mut session = model.session();
            let mut found = Vec::new();
            for tokens in TOKENS.chunks(part) {
                found.extend_from_slice(session.forward_all(tokens).unwrap());
            }
            assert_same_bits(&found, &together, &format!("{} in parts of {part}", isa.name()));
        }
    }
}

/// A model and its file with 16-bit matrices: what `round` makes of a weight is the weight and its
/// bits.
fn sixteen_bits(model: &RandomModel, kind: u32, round: fn(f32) -> (f32, u16)) -> (RandomModel, Gguf) {
    let mut rounded = model.clone();
    for matrix in rounded.matrices_mut() {
        for weight in matrix {
            *weight = round(*weight).0;
        }
    }
    let mut file = rounded.to_gguf(1e-5, 1e4);
    for tensor in file.tensors.iter_mut().filter(|tensor| tensor.dims.len() == 2) {
        let weights = tensor.data.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap()));
        tensor.data = weights.flat_map(|weight| round(weight).1.to_le_bytes()).collect();
        tensor.kind = kind;
    }
    (rounded, file)
}

#[test]
fn sixteen_bit_weights_are_multiplied_without_rounding_the_activations() {
    // With activations of 16 bits the error would be 100 times as large as the tolerance.
    let f16 = |x: f32| (half::f16::from_f32(x).to_f32(), half::f16::from_f32(x).to_bits());
    let bf16 = |x: f32| (half::bf16::from_f32(x).to_f32(), half::bf16::from_f32(x).to_bits());
    for case in GOLDEN {
        for (name, kind, round) in [("f16", 1, f16 as fn(f32) -> (f32, u16)), ("bf16", 30, bf16)] {
            let (rounded, file) = sixteen_bits(&case.model(), kind, round);
            let expected = logits(&rounded, case.tokens, 1e-5, 1e4).concat();
            for isa in Isa::available() {
                let found = all_logits(&open_on(&file, isa, 1), case.tokens);
                let error = max_error(&found, &expected);
                assert!(error < case.f32_tolerance(), "{} {name} {}: {error:e}", case.name, isa.name());
            }
        }
    }
}
