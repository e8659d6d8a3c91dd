//! Models in GGUF's weight formats: their logits against those of the decoded weights in f64.

mod common;

use std::collections::HashSet;
use std::fs;

use babyllama::{Dtype, Isa, Model, ModelOptions};
use common::gguf::Gguf;
use common::{GOLDEN, RandomModel, logits, max_abs_diff, std_dev};

/// What `tests/golden/mixed_formats.py` feeds.
const TOKENS: [u32; 10] = [1, 71, 30, 2, 30, 0, 55, 64, 13, 7];

fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn open(file: &[u8], isa: Isa, threads: usize) -> Model {
    Model::from_bytes_with(file.to_vec(), &ModelOptions::new().isa(isa).threads(threads)).unwrap()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn the_golden_file_has_a_matrix_in_every_format_of_gguf() {
    let model = Model::from_bytes(golden("mixed_formats.gguf")).unwrap();
    let matrices = model.tensors().into_iter().filter(|tensor| tensor.shape.len() == 2);
    let found: HashSet<Dtype> = matrices.map(|tensor| tensor.dtype).collect();
    assert_eq!(found, Dtype::ALL.iter().copied().collect());
}

#[test]
fn a_formats_name_is_read_in_upper_or_lower_case() {
    for &dtype in Dtype::ALL.iter().chain(&[Dtype::Int8 { group_size: 64 }]) {
        assert_eq!(dtype.to_string().parse(), Ok(dtype));
        assert_eq!(dtype.to_string().to_ascii_lowercase().parse(), Ok(dtype));
    }
    assert_eq!("IQ4_xs".parse(), Ok(Dtype::Iq4Xs));
    let error = "q9".parse::<Dtype>().unwrap_err().to_string();
    assert!(error.starts_with("\"q9\" is not a weight format: these are f32, f16, bf16, q8_0, "), "{error}");
    assert!(error.ends_with(", iq4_nl, iq4_xs"), "{error}");
}

/// How far int8 activations may take the logits of two layers, in standard deviations: root mean
/// square.
///
/// `tolerance` in `tests/quantized.rs` says where it comes from; here activations are in groups of
/// 32.
fn tolerance() -> f64 {
    let e = (2.0 * 64_f64.ln()).sqrt() / (127.0 * 12_f64.sqrt());
    2.0 * f64::from(4 * 2 + 1).sqrt() * e
}

#[test]
fn every_format_gives_hugging_faces_logits_of_the_weights_that_gguf_decodes() {
    let file = golden("mixed_formats.gguf");
    let expected: Vec<f64> = golden("mixed_formats.f64")
        .chunks_exact(8)
        .map(|x| f64::from_le_bytes(x.try_into().unwrap()))
        .collect();
    for isa in Isa::available() {
        let model = open(&file, isa, 2);
        let mut session = model.session();
        let found = session.forward_all(&TOKENS).unwrap();
        assert_eq!(found.len(), expected.len());
        let squares = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).powi(2));
        let error = (squares.sum::<f64>() / expected.len() as f64).sqrt() / std_dev(&expected);
        println!("{}: {error:.4}, tolerance {:.4}", isa.name(), tolerance());
        assert!(error < tolerance(), "{}: {error} > {}", isa.name(), tolerance());
    }
}

#[test]
fn every_format_gives_the_same_bits_fed_at_once_or_in_parts() {
    let file = golden("mixed_formats.gguf");
    for isa in Isa::available() {
        let model = open(&file, isa, 1);
        let together = model.session().forward_all(&TOKENS).unwrap().to_vec();
        for part in 1..TOKENS.len() {
            let mut session = model.session();
            let mut found = Vec::new();
            for tokens in TOKENS.chunks(part) {
                found.extend_from_slice(session.forward_all(tokens).unwrap());
            }
            assert_eq!(bits(&found), bits(&together), "{} in parts of {part}", isa.name());
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
    /// As in `tests/golden.rs`, for rows of at most 344 and three layers. With activations of 16
    /// bits the error would be 100 times as large.
    const TOLERANCE: f64 = 26.0 * 18.55 / (1 << 24) as f64;
    let f16 = |x: f32| (half::f16::from_f32(x).to_f32(), half::f16::from_f32(x).to_bits());
    let bf16 = |x: f32| (half::bf16::from_f32(x).to_f32(), half::bf16::from_f32(x).to_bits());
    for case in GOLDEN {
        for (name, kind, round) in [("f16", 1, f16 as fn(f32) -> (f32, u16)), ("bf16", 30, bf16)] {
            let (rounded, file) = sixteen_bits(&case.model(), kind, round);
            let expected = logits(&rounded, case.tokens, 1e-5, 1e4).concat();
            for isa in Isa::available() {
                let model = open(&file.to_bytes(), isa, 1);
                let mut session = model.session();
                let found = session.forward_all(case.tokens).unwrap();
                let error = max_abs_diff(found, &expected) / std_dev(&expected);
                assert!(error < TOLERANCE, "{} {name} {}: {error:e}", case.name, isa.name());
            }
        }
    }
}
