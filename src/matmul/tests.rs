//! Products in every weight format, on every instruction set, against f64.
//!
//! Quantized weights are multiplied with activations that were rounded to int8, so the products are
//! those of the decoded weights and the decoded activations, except for the rounding of f32; and
//! that is bounded.

use std::sync::Arc;

use super::*;
use crate::compute::Numerics;
use crate::parallel::Threads;
use crate::quant::Dtype;
use crate::rng::SplitMix64;
use crate::storage::Storage;
use proptest::prelude::*;

/// A format as it is tested.
#[derive(Clone, Copy, Debug)]
struct Case {
    dtype: Dtype,
    /// Where a block has scales and minima, half-precision numbers, and for each of them the most
    /// that `|scale * q| + |min|` can be, in units of its size, decoded as the kernels do it:
    /// `scale * q - 8 * scale` counts as `(15 + 8) * scale`.
    halves: &'static [(usize, f64)],
}

/// All formats. A new one says here what its blocks hold.
fn cases() -> Vec<Case> {
    let case = |&dtype| {
        let halves: &[_] = match dtype {
            Dtype::F32 | Dtype::F16 | Dtype::Bf16 => &[],
            Dtype::Q8_0 => &[(0, 128.0)],
            Dtype::Q4_0 => &[(0, 15.0 + 8.0)],
            Dtype::Q4_1 => &[(0, 15.0), (2, 1.0)],
            Dtype::Q5_0 => &[(0, 31.0 + 16.0)],
            Dtype::Q5_1 => &[(0, 31.0), (2, 1.0)],
            Dtype::Q2K => &[(80, 15.0 * 3.0), (82, 15.0)],
            Dtype::Q3K => &[(108, (63.0 + 32.0) * (7.0 + 4.0))],
            Dtype::Q4K => &[(0, 63.0 * 15.0), (2, 63.0)],
            Dtype::Q5K => &[(0, 63.0 * 31.0), (2, 63.0)],
            Dtype::Q6K => &[(208, 128.0 * (63.0 + 32.0))],
            Dtype::Iq4Nl => &[(0, 127.0)],
            Dtype::Iq4Xs => &[(0, (63.0 + 32.0) * 127.0)],
            Dtype::Iq2Xxs => &[(0, 31.0 / 8.0 * 43.0)],
            Dtype::Iq2Xs | Dtype::Iq2S => &[(0, 31.0 / 8.0 * (43.0 + 64.0 + 64.0))],
            Dtype::Iq3Xxs => &[(0, 31.0 / 4.0 * 62.0)],
            Dtype::Iq3S => &[(0, 31.0 * 15.0)],
            Dtype::Iq1S => &[(0, 15.0 / 8.0 * (25.0 + 16.0))],
            Dtype::Iq1M => &[(48, 15.0 / 8.0 * (25.0 + 16.0))],
            Dtype::Tq1_0 => &[(52, 2.0 + 1.0)],
            Dtype::Tq2_0 => &[(64, 3.0 + 1.0)],
            Dtype::Mxfp4 => &[(0, 12.0)],
            Dtype::Int8 { .. } => unreachable!("it isn't in the table"),
        };
        Case { dtype, halves }
    };
    Dtype::ALL.iter().map(case).collect()
}

/// What the bytes of quantized weights are.
#[derive(Clone, Copy, Debug)]
enum Bytes {
    Any,
    /// The same everywhere: 128 is an int8 of -128, 255 the greatest of every unsigned number.
    All(u8),
}

/// What activations are.
#[derive(Clone, Copy, Debug)]
enum Activations {
    Even,
    /// Of one size with either sign: their int8 are 127 and -127.
    Extreme,
    Zero,
    /// Of very different sizes, from 1e-14 to 1e28.
    Spread,
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    rows: usize,
    columns: usize,
    n_tokens: usize,
}

/// The bytes of a matrix of finite weights.
fn finite_weights(case: Case, sizes: Sizes, bytes: Bytes, noise: &mut SplitMix64) -> Vec<u8> {
    let (weights, len) = case.dtype.block().unwrap();
    let mut data = Vec::new();
    for _ in 0..sizes.rows * sizes.columns / weights {
        match case.dtype {
            Dtype::F32 => data.extend(noise.next_f32().to_le_bytes()),
            Dtype::F16 => data.extend(half::f16::from_f32(noise.next_f32()).to_le_bytes()),
            Dtype::Bf16 => data.extend(half::bf16::from_f32(noise.next_f32()).to_le_bytes()),
            _ => {
                let start = data.len();
                data.extend(match bytes {
                    Bytes::Any => noise.bytes(len),
                    Bytes::All(byte) => vec![byte; len],
                });
                for &(at, _) in case.halves {
                    put_scale(case.dtype, &mut data[start..], at, noise.next_f32());
                }
            }
        }
    }
    data
}

/// Writes a scale into a block: a half-precision number or, in MXFP4, a power of two. IQ1_M has a
/// nibble of it in each of four words.
fn put_scale(dtype: Dtype, block: &mut [u8], at: usize, scale: f32) {
    let half = half::f16::from_f32(scale).to_bits();
    match dtype {
        Dtype::Mxfp4 => block[at] = (scale.to_bits() >> 23) as u8,
        Dtype::Iq1M => {
            for i in 0..4 {
                let byte = &mut block[at + 2 * i + 1];
                *byte = *byte & 15 | ((half >> (4 * i)) as u8) << 4;
            }
        }
        _ => block[at..at + 2].copy_from_slice(&half.to_le_bytes()),
    }
}

/// The size of a scale that [`put_scale`] wrote.
fn scale_size(dtype: Dtype, block: &[u8], at: usize) -> f64 {
    let word = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
    let half = match dtype {
        Dtype::Mxfp4 => return 2.0_f64.powi(i32::from(block[at]) - 128),
        Dtype::Iq1M => (0..4).map(|i| word(at + 2 * i) >> 12 << (4 * i)).sum(),
        _ => word(at),
    };
    f64::from(half::f16::from_bits(half)).abs()
}

fn tensor(dtype: Dtype, columns: usize, data: &[u8]) -> Tensor {
    let (weights, bytes) = dtype.block().unwrap();
    let rows = data.len() / bytes * weights / columns;
    Tensor::new(&Arc::new(Storage::from_vec(data.to_vec())), 0..data.len(), rows, columns, dtype).unwrap()
}

fn activations(kind: Activations, sizes: Sizes, noise: &mut SplitMix64) -> Vec<f32> {
    let one = |noise: &mut SplitMix64| match kind {
        Activations::Even => noise.next_f32(),
        Activations::Extreme => 0.3f32.copysign(noise.next_f32()),
        Activations::Zero => 0.0f32.copysign(noise.next_f32()),
        Activations::Spread => noise.next_f32() * 10f32.powi((noise.next_u64() % 43) as i32 - 14),
    };
    (0..sizes.n_tokens * sizes.columns).map(|_| one(noise)).collect()
}

/// Finite weights as bytes and as a matrix, and activations.
fn operands(
    case: Case,
    sizes: Sizes,
    bytes: Bytes,
    kind: Activations,
    seed: u64,
) -> (Vec<u8>, Tensor, Vec<f32>) {
    let mut noise = SplitMix64::new(seed);
    let data = finite_weights(case, sizes, bytes, &mut noise);
    let x = activations(kind, sizes, &mut noise);
    let w = tensor(case.dtype, sizes.columns, &data);
    (data, w, x)
}

/// `x W^T`: (`n_tokens`, rows)
fn product(isa: Isa, w: &Tensor, x: &[f32]) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / w.columns() * w.rows()];
    Threads::new(1).unwrap().enter(true, |team| {
        let compute = Compute { isa, numerics: Numerics::Accurate, team };
        matmul(&compute, [&mut out], [w], x, &mut Default::default());
    });
    out
}

/// What activations become for these weights: int8 and a scale for every 32, unless they stay what
/// they are.
fn rounded(dtype: Dtype, x: &[f32]) -> Vec<f64> {
    if matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16) {
        return x.iter().map(|&x| f64::from(x)).collect();
    }
    let round = |group: &[f32]| -> Vec<f64> {
        let scale = group.iter().fold(0f32, |max, x| max.max(x.abs())) / 127.0;
        let q = |x: &f32| if scale == 0.0 { 0.0 } else { f64::from((x / scale).round()) };
        group.iter().map(|x| q(x) * f64::from(scale)).collect()
    };
    x.chunks(32).flat_map(round).collect()
}

/// For each weight, the most that what is added up to it can be.
fn magnitudes(case: Case, data: &[u8], weights: &[f32]) -> Vec<f64> {
    if case.halves.is_empty() {
        return weights.iter().map(|w| f64::from(w.abs())).collect();
    }
    let (weights, bytes) = case.dtype.block().unwrap();
    let most = |block: &[u8]| -> f64 {
        case.halves.iter().map(|&(at, most)| most * scale_size(case.dtype, block, at)).sum()
    };
    data.chunks(bytes).flat_map(|block| std::iter::repeat_n(most(block), weights)).collect()
}

/// The exact products, and how far those in f32 may be from them.
///
/// Let u = 2^-24. However n terms are added up, each goes through at most n - 1 additions, so a sum
/// is within `(n - 1) u` times the sum of their sizes, to first order (Higham, Accuracy and
/// Stability, 4.2). Of f32 weights the terms are n products, each rounded once or not at all. Of
/// blocks they are a group's integer product times its scale, less its sum times its minimum,
/// times the activations' scale; each of these, the scale and the minimum is rounded, as is the
/// decoded weight in the exact product (twice): fewer than 12 times in all, and sub-blocks of
/// groups have terms of their own.
fn exact(case: Case, n: usize, data: &[u8], x: &[f32]) -> Vec<(f64, f64)> {
    let weights = tensor(case.dtype, n, data).to_f32();
    let (sizes, x) = (magnitudes(case, data, &weights), rounded(case.dtype, x));
    let roundings = if case.halves.is_empty() { n } else { n / 16 + 12 };
    let mut products = Vec::new();
    for x in x.chunks_exact(n) {
        for (w, sizes) in weights.chunks_exact(n).zip(sizes.chunks_exact(n)) {
            let sum = w.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum();
            let size: f64 = sizes.iter().zip(x).map(|(w, x)| w * x.abs()).sum();
            products.push((sum, roundings as f64 * size / f64::from(1 << 24)));
        }
    }
    products
}

/// Beside floats, blocks have no panels however many tokens there are; the last of 57 shares a row
/// with none.
#[test]
fn blocks_beside_floats_have_the_same_products() {
    for case in cases().into_iter().filter(|case| case.dtype.block().unwrap().0 > 1) {
        let sizes = Sizes { rows: 19, columns: 512, n_tokens: 57 };
        let (_, w, x) = operands(case, sizes, Bytes::Any, Activations::Even, 5);
        let floats = tensor(Dtype::F16, 512, &vec![0; 2 * 512 * 3]);
        for isa in Isa::available() {
            for n_tokens in [2, 8, 9, 17, 57] {
                let (mut out, mut zeros) = (vec![0.0; n_tokens * 19], vec![1.0; n_tokens * 3]);
                Threads::new(1).unwrap().enter(true, |team| {
                    let compute = Compute { isa, numerics: Numerics::Accurate, team };
                    let x = &x[..n_tokens * 512];
                    matmul(&compute, [&mut out, &mut zeros], [&w, &floats], x, &mut Default::default());
                });
                let alone: Vec<f32> =
                    x.chunks(512).take(n_tokens).flat_map(|x| product(isa, &w, x)).collect();
                assert_eq!(bits(&out), bits(&alone), "{} {isa} {n_tokens}", case.dtype);
                assert!(zeros.iter().all(|&x| x == 0.0), "{isa}");
            }
        }
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Any format and any sizes: less than a tile of rows and several, some blocks and some left over,
/// one token and many.
fn any_product() -> impl Strategy<Value = (Case, Sizes)> {
    let n_tokens = prop_oneof![Just(1), 2..=9usize, 10..=70usize];
    let rows = prop_oneof![1..=9usize, 10..=70usize];
    // More than a block of `gemm::float` has, of one sum or two.
    let columns = prop_oneof![3 => 1..=300usize, 1 => 1000..=1100usize, 1 => 2000..=2200usize];
    (prop::sample::select(cases()), rows, columns, n_tokens).prop_map(|(case, rows, columns, n_tokens)| {
        let columns = match case.dtype.block().unwrap().0 {
            1 => columns,
            32 => 32 * (1 + columns % 25),
            block => block * (1 + columns % 4),
        };
        (case, Sizes { rows, columns, n_tokens })
    })
}

fn any_contents() -> impl Strategy<Value = (Bytes, Activations, u64)> {
    let bytes = prop_oneof![
        4 => Just(Bytes::Any),
        1 => prop_oneof![Just(0), Just(127), Just(128), Just(255)].prop_map(Bytes::All),
    ];
    let activations = prop_oneof![
        4 => Just(Activations::Even),
        1 => Just(Activations::Extreme),
        1 => Just(Activations::Zero),
        1 => Just(Activations::Spread),
    ];
    (bytes, activations, any::<u64>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 128 } else { 512 }))]

    #[test]
    fn products_are_those_of_the_decoded_weights_on_every_isa(
        (case, sizes) in any_product(),
        (bytes, kind, seed) in any_contents(),
    ) {
        let (data, w, x) = operands(case, sizes, bytes, kind, seed);
        let expected = exact(case, sizes.columns, &data, &x);
        for isa in Isa::available() {
            let name = format!("{} {}", case.dtype, isa.name());
            for (i, (found, (sum, bound))) in product(isa, &w, &x).iter().zip(&expected).enumerate() {
                let error = (f64::from(*found) - sum).abs();
                prop_assert!(error <= *bound, "{name}: {i} is {found}, not {sum}: {error:e} > {bound:e}");
            }
        }
    }

    #[test]
    fn a_product_has_the_same_bits_whatever_stands_beside_it(
        (case, sizes) in any_product(),
        (bytes, kind, seed) in any_contents(),
    ) {
        let (data, w, x) = operands(case, sizes, bytes, kind, seed);
        let last_row = tensor(case.dtype, sizes.columns, &data[data.len() / sizes.rows * (sizes.rows - 1)..]);
        for isa in Isa::available() {
            let name = format!("{} {}", case.dtype, isa.name());
            let together = product(isa, &w, &x);
            for (token, x) in x.chunks_exact(sizes.columns).enumerate() {
                let beside = &together[token * sizes.rows..][..sizes.rows];
                prop_assert_eq!(bits(&product(isa, &w, x)), bits(beside), "{} token {}", &name, token);
            }
            let beside: Vec<f32> = together.chunks_exact(sizes.rows).map(|row| row[sizes.rows - 1]).collect();
            prop_assert_eq!(bits(&product(isa, &last_row, &x)), bits(&beside), "{} last row", &name);
        }
    }

    /// Except the scalar one, which may round a product before it is added.
    #[test]
    fn a_product_has_the_same_bits_on_every_isa(
        (case, sizes) in any_product(),
        (bytes, kind, seed) in any_contents(),
    ) {
        let (_, w, x) = operands(case, sizes, bytes, kind, seed);
        let isas = Isa::available();
        for pair in isas[1..].windows(2) {
            let [one, other] = [pair[0], pair[1]].map(|isa| bits(&product(isa, &w, &x)));
            prop_assert_eq!(one, other, "{} {:?}", case.dtype, pair);
        }
    }

    #[test]
    fn an_activation_that_is_not_finite_shows_in_its_tokens_products_alone(
        (case, sizes) in any_product(),
        (_, _, seed) in any_contents(),
        place in any::<prop::sample::Index>(),
        bad in prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
    ) {
        let mut noise = SplitMix64::new(seed);
        let w = tensor(case.dtype, sizes.columns, &finite_weights(case, sizes, Bytes::Any, &mut noise));
        let x = activations(Activations::Even, sizes, &mut noise);
        let mut broken = x.clone();
        let at = place.index(x.len());
        broken[at] = bad;
        for isa in Isa::available() {
            let (intact, found) = (product(isa, &w, &x), product(isa, &w, &broken));
            for (i, (found, intact)) in found.iter().zip(&intact).enumerate() {
                let same = found.to_bits() == intact.to_bits();
                let right = if i / sizes.rows == at / sizes.columns { !found.is_finite() } else { same };
                prop_assert!(right, "{} {}: {i} is {found}", case.dtype, isa.name());
            }
        }
    }

    #[test]
    fn a_scale_that_is_not_finite_shows_in_its_rows_products_alone(
        (case, sizes) in any_product().prop_filter("all scales are finite", |(case, _)| case.dtype != Dtype::Mxfp4),
        (_, kind, seed) in any_contents(),
        place in any::<prop::sample::Index>(),
        bad in prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
    ) {
        let mut noise = SplitMix64::new(seed);
        let mut data = finite_weights(case, sizes, Bytes::Any, &mut noise);
        let x = activations(kind, sizes, &mut noise);
        let (_, bytes) = case.dtype.block().unwrap();
        let at = place.index(data.len() / bytes);
        let block = &mut data[at * bytes..][..bytes];
        match (case.dtype, case.halves) {
            (Dtype::F32, _) => block.copy_from_slice(&bad.to_le_bytes()),
            (Dtype::Bf16, _) => block.copy_from_slice(&half::bf16::from_f32(bad).to_le_bytes()),
            (_, halves) => {
                let start = halves.get(seed as usize % 2).or(halves.first()).map_or(0, |(start, _)| *start);
                put_scale(case.dtype, block, start, bad);
            }
        }
        let broken_row = at / (data.len() / bytes / sizes.rows);
        let w = tensor(case.dtype, sizes.columns, &data);
        for isa in Isa::available() {
            for (i, found) in product(isa, &w, &x).iter().enumerate() {
                let right = found.is_finite() != (i % sizes.rows == broken_row);
                prop_assert!(right, "{} {}: {i} is {found}", case.dtype, isa.name());
            }
        }
    }
}
