//! Quantizers against ggml's, and what they do with weights that no model has.

use super::*;
use crate::rng::SplitMix64;
use crate::storage::Storage;
use crate::tensor::Tensor;
use std::sync::Arc;

/// Weights, and what ggml makes of them, which `tests/golden/k_quants.py` wrote.
const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/k_quants.bin");

/// Blocks of 256 in it.
const BLOCKS: usize = 20;

/// The formats in it. `FORMATS` in that script must be equal to this table.
const K_QUANTS: [Dtype; 5] = [Dtype::Q2K, Dtype::Q3K, Dtype::Q4K, Dtype::Q5K, Dtype::Q6K];

/// The other formats that heed importances. `SHORT_FORMATS` there must be equal to this table.
const SHORT: [Dtype; 4] = [Dtype::Q4_0, Dtype::Q4_1, Dtype::Q5_0, Dtype::Q5_1];

/// The formats that heed importances.
fn by_importance() -> impl Iterator<Item = Dtype> {
    K_QUANTS.into_iter().chain(SHORT)
}

/// The formats whose weights share scales.
fn block_formats() -> impl Iterator<Item = Dtype> {
    dtypes().filter(|dtype| dtype.block().is_some_and(|(weights, _)| weights > 1))
}

fn golden_weights() -> Vec<f32> {
    GOLDEN[..BLOCKS * 1024].chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect()
}

fn quantized(isa: Isa, weights: &[f32], dtype: Dtype) -> Vec<u8> {
    let (block, bytes) = dtype.block().unwrap();
    let mut out = vec![0; weights.len() / block * bytes];
    quantize_into(isa, weights, None, dtype, &mut out).unwrap();
    out
}

fn dequantized(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    let (block, size) = dtype.block().unwrap();
    let storage = Arc::new(Storage::from_vec(bytes.to_vec()));
    Tensor::new(&storage, 0..bytes.len(), 1, bytes.len() / size * block, dtype).unwrap().to_f32()
}

/// What weights become.
fn there_and_back(weights: &[f32], dtype: Dtype) -> Vec<f32> {
    dequantized(&quantized(Isa::best(), weights, dtype), dtype)
}

/// The squared error, as a part of the square.
fn error(found: &[f32], weights: &[f32]) -> f64 {
    let squared = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = found.iter().zip(weights).map(|(a, b)| squared(a - b)).sum();
    error / weights.iter().map(|&x| squared(x)).sum::<f64>()
}

/// How far a weight may be from what it becomes, if its group has it and zeros alone: as scales and
/// minima have 11 bits. MXFP4 has two bits for all.
fn step(dtype: Dtype) -> f32 {
    if dtype == Dtype::Mxfp4 { 0.25 } else { 2.0_f32.powi(-10) }
}

/// The most that the error of numbers spread evenly may be, as a part of their square. Two bits
/// leave a ninth, three values a quarter.
fn most_error(dtype: Dtype) -> f64 {
    if matches!(dtype, Dtype::Tq1_0 | Dtype::Tq2_0) { 0.27 } else { 0.12 }
}

/// Random weights in -1..1.
fn random(n: usize, seed: u64) -> Vec<f32> {
    SplitMix64::new(seed).tensor(n, 0.0, 1.0)
}

#[test]
fn k_quants_are_no_farther_from_the_weights_than_ggmls() {
    let weights = golden_weights();
    let mut rest = &GOLDEN[BLOCKS * 1024..];
    for dtype in K_QUANTS {
        let (golden, left) = rest.split_at(BLOCKS * dtype.block().unwrap().1);
        rest = left;
        let (ours, theirs) = (there_and_back(&weights, dtype), dequantized(golden, dtype));
        // Each block counts as much as another.
        let mean = |found: &[f32]| -> f64 {
            let blocks = found.chunks_exact(256).zip(weights.chunks_exact(256));
            blocks.map(|(found, weights)| error(found, weights)).sum::<f64>() / BLOCKS as f64
        };
        let (ours, theirs) = (mean(&ours), mean(&theirs));
        assert!(ours <= 1.01 * theirs, "{dtype}: {ours:e}, ggml {theirs:e}");
    }
    assert!(rest.is_empty());
}

/// How much each column counts, and what ggml makes of the same weights then.
const BY_IMPORTANCE: &[u8] = include_bytes!("../../../tests/golden/k_quants_by_importance.bin");

/// Blocks that are like weights: the first in the file. Of the others, mostly zeros become worse in
/// Q5_K than ggml's, and those of other formats better.
const ORDINARY: usize = 14;

#[test]
fn by_importance_weights_are_no_farther_off_than_ggmls() {
    let weights = golden_weights();
    let (columns, mut rest) = BY_IMPORTANCE.split_at(1024);
    let columns: Vec<f32> =
        columns.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
    let weighted = |x: &[f32]| -> Vec<f32> {
        x.iter().zip(columns.iter().cycle()).map(|(x, importance)| x * importance.sqrt()).collect()
    };
    for dtype in by_importance() {
        let (block, bytes) = dtype.block().unwrap();
        let bytes = BLOCKS * 256 / block * bytes;
        let (golden, left) = rest.split_at(bytes);
        rest = left;
        let mut ours = vec![0; bytes];
        quantize_into(Isa::best(), &weights, Some(&columns), dtype, &mut ours).unwrap();
        let mean = |bytes: &[u8]| -> f64 {
            let (found, weights) = (weighted(&dequantized(bytes, dtype)), weighted(&weights));
            let blocks = found.chunks_exact(256).zip(weights.chunks_exact(256));
            blocks.take(ORDINARY).map(|(found, weights)| error(found, weights)).sum::<f64>() / ORDINARY as f64
        };
        let (without, theirs, ours) =
            (mean(&quantized(Isa::best(), &weights, dtype)), mean(golden), mean(&ours));
        assert!(ours <= 1.01 * theirs, "{dtype}: {ours:e}, ggml {theirs:e}");
        assert!(ours < without, "{dtype}: {ours:e}, without importance {without:e}");
    }
    assert!(rest.is_empty());
}

#[test]
fn formats_depend_on_importances_or_are_known_not_to() {
    let weights = random(256 * 4, 21);
    let columns: Vec<f32> = random(256, 22).into_iter().map(|x| x * x).collect();
    for dtype in dtypes() {
        let plain = quantized(Isa::best(), &weights, dtype);
        let mut weighted = vec![0; plain.len()];
        quantize_into(Isa::best(), &weights, Some(&columns), dtype, &mut weighted).unwrap();
        assert_eq!(weighted != plain, heeds_importance(dtype), "{dtype}");
        assert_eq!(by_importance().any(|of| of == dtype), heeds_importance(dtype), "{dtype}");
    }
}

/// Q4_1 and Q5_1 have minima above zero, where they come nearer than from zero.
#[test]
fn by_importance_minima_may_be_above_zero() {
    let weights: Vec<f32> = random(256, 23).into_iter().map(|x| 10.0 + x.abs()).collect();
    for dtype in [Dtype::Q4_1, Dtype::Q5_1] {
        let mut bytes = vec![0; quantized(Isa::best(), &weights, dtype).len()];
        quantize_into(Isa::best(), &weights, Some(&[1.0; 256]), dtype, &mut bytes).unwrap();
        for (found, weight) in dequantized(&bytes, dtype).iter().zip(&weights) {
            assert!((found - weight).abs() < 0.06, "{dtype}: {weight} becomes {found}");
        }
    }
}

#[test]
fn importances_that_are_all_zero_are_survived() {
    for dtype in by_importance() {
        let mut out = vec![0; quantized(Isa::best(), &random(256, 8), dtype).len()];
        quantize_into(Isa::best(), &random(256, 8), Some(&[0.0; 256]), dtype, &mut out).unwrap();
        assert!(dequantized(&out, dtype).iter().all(|x| x.is_finite()), "{dtype}");
    }
}

#[test]
fn every_instruction_set_makes_the_same_bytes() {
    let mut weights = golden_weights();
    weights.extend(random(256 * 40, 5).iter().enumerate().map(|(i, x)| x * 10.0_f32.powi(i as i32 % 13 - 8)));
    for dtype in dtypes() {
        let scalar = quantized(Isa::available()[0], &weights, dtype);
        for isa in Isa::available() {
            assert!(quantized(isa, &weights, dtype) == scalar, "{dtype} on {}", isa.name());
        }
    }
}

#[test]
fn a_block_depends_on_its_own_weights_alone() {
    let weights = golden_weights();
    for dtype in dtypes() {
        let whole = quantized(Isa::best(), &weights, dtype);
        let parts: Vec<u8> =
            weights.chunks(256).flat_map(|part| quantized(Isa::best(), part, dtype)).collect();
        assert!(whole == parts, "{dtype}");
    }
}

#[test]
fn zeros_stay_zeros() {
    for dtype in dtypes() {
        for zero in [0.0, -0.0] {
            assert!(there_and_back(&[zero; 256], dtype).iter().all(|&x| x == 0.0), "{dtype}");
        }
    }
}

#[test]
fn weights_that_are_all_the_same_stay_near_it() {
    for dtype in block_formats() {
        for weight in [1.0, -1.0, 0.02, -0.02, 65_504.0, -65_504.0, 1e-3] {
            for found in there_and_back(&[weight; 256], dtype) {
                // A scale has 11 bits, or a distance of 2^-25 where it is subnormal. The least is
                // Q6_K's, the weight divided by 32 * 128.
                let tolerance = step(dtype) * weight.abs() + 4096.0 * 2.0_f32.powi(-25);
                assert!((found - weight).abs() <= tolerance, "{dtype}: {weight} becomes {found}");
            }
        }
    }
}

#[test]
fn the_largest_and_the_smallest_weights_become_finite_ones() {
    let wave = random(256, 9);
    for dtype in block_formats() {
        for scale in [65_504.0, 1e-5, 1e-7, 1e-20, 1e-38, 1e-42, f32::from_bits(1)] {
            let weights: Vec<f32> = wave.iter().map(|x| x * scale).collect();
            let found = there_and_back(&weights, dtype);
            let largest = found.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            assert!(found.iter().all(|x| x.is_finite()), "{dtype} at {scale:e}: {found:?}");
            // Rounding a scale to the least step of f16 at most doubles it.
            assert!(largest <= 2.001 * scale, "{dtype} at {scale:e}: {largest:e}");
            if scale == 65_504.0 {
                assert!(error(&found, &weights) < most_error(dtype), "{dtype}: {}", error(&found, &weights));
            }
        }
    }
}

#[test]
fn one_weight_among_zeros_keeps_its_place() {
    for dtype in block_formats() {
        for at in [0, 15, 16, 31, 32, 100, 255] {
            for weight in [0.75, -0.75] {
                let mut weights = [0.0; 256];
                weights[at] = weight;
                let found = there_and_back(&weights, dtype);
                for (i, &found) in found.iter().enumerate() {
                    let error = (found - weights[i]).abs();
                    assert!(error <= 0.75 * step(dtype), "{dtype}: {weight} at {at}: {found} at {i}");
                }
            }
        }
    }
}

#[test]
fn groups_of_very_different_sizes_do_not_spoil_each_other() {
    // The small ones are below every step, so they become zeros, except where a scale reaches them.
    let mut weights = random(256, 3);
    weights[..128].iter_mut().for_each(|x| *x *= 1e-30);
    for dtype in block_formats() {
        let found = there_and_back(&weights, dtype);
        let reached = dtype == Dtype::Mxfp4 && error(&found[..128], &weights[..128]) < 0.12;
        assert!(reached || found[..128].iter().all(|&x| x == 0.0), "{dtype}: {:?}", &found[..128]);
        assert!(error(&found, &weights) < most_error(dtype), "{dtype}: {}", error(&found, &weights));
    }
}

/// Where the scale is exact in f16 and the weights are steps, there is nothing to lose.
#[test]
fn weights_that_are_steps_already_stay_as_they_are() {
    let step = 0.25;
    let of = |steps: std::ops::RangeInclusive<i32>| -> Vec<f32> {
        let all: Vec<i32> = steps.collect();
        (0..256).map(|i| step * all[i * 7 % all.len()] as f32).collect()
    };
    let formats = [
        (Dtype::Q4_0, of(-8..=7)),
        (Dtype::Q4_1, of(-3..=12)),
        (Dtype::Q5_0, of(-16..=15)),
        (Dtype::Q5_1, of(-9..=22)),
        (Dtype::Q8_0, of(-127..=127)),
        (Dtype::Q3K, of(-4..=3)),
        (Dtype::Q6K, of(-32..=31)),
        (Dtype::Tq1_0, of(-1..=1)),
        (Dtype::Tq2_0, of(-1..=1)),
        (Dtype::Mxfp4, of(-4..=4)),
    ];
    for (dtype, weights) in formats {
        // Each group of 32 or 16 must hold the first and the last step for that.
        let mut weights = weights;
        let least = weights.iter().copied().fold(f32::INFINITY, f32::min);
        let greatest = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for group in weights.chunks_exact_mut(16) {
            (group[0], group[1]) = (least, greatest);
        }
        assert_eq!(there_and_back(&weights, dtype), weights, "{dtype}");
    }
}

#[test]
fn what_was_encoded_once_is_encoded_the_same_again() {
    // Of formats whose scale the farthest weight alone decides: that weight comes back as it was
    // decoded.
    let floats_and_signed = [Dtype::F16, Dtype::Bf16, Dtype::Q8_0, Dtype::Q4_0, Dtype::Q5_0];
    for dtype in floats_and_signed.into_iter().chain([Dtype::Tq1_0, Dtype::Tq2_0, Dtype::Mxfp4]) {
        let once = quantized(Isa::best(), &random(256 * 8, 7), dtype);
        let twice = quantized(Isa::best(), &dequantized(&once, dtype), dtype);
        assert!(dequantized(&once, dtype) == dequantized(&twice, dtype), "{dtype}");
    }
}
