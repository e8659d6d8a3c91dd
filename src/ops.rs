//! The small operations of a Llama: everything that isn't a matrix product or attention.
//!
//! For int8 files they round as llama2.c's do: terms are summed one after another in their order,
//! and exponentials are correctly rounded, where a C library's may be off by one in the last bit
//! once in a thousand times. That matters where activations are quantized: a difference in the last
//! bit can move a value across a rounding boundary, and from then on logits differ by a hundredth
//! of their standard deviation.

use crate::compute::{Compute, Numerics};
use crate::config::{Config, RopeScaling};
use crate::parallel::ColumnPartition;
use crate::simd::{Simd, kernel};

/// RMSNorm of each token: `out` and `x` are (`n_tokens`, `dim`).
pub(crate) fn rmsnorm(compute: &Compute<'_>, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    let bytes = size_of_val(x);
    let dim = weight.len();
    let (len, isa, numerics) = (out.len(), compute.isa, compute.numerics);
    // To the partition it is one row of n_tokens items of dim columns: a token is an item.
    let partition = ColumnPartition::new(out, len, dim);
    compute.team.columns([[partition]], bytes, move |_, tokens, [mut out]| {
        for (out, x) in out.row(0).chunks_exact_mut(dim).zip(x[tokens.start * dim..].chunks_exact(dim)) {
            rmsnorm_row(isa, numerics, out, x, weight, eps);
        }
    });
}

// `kernel!` (`simd/isa.rs`) compiles a body for every instruction set; it is called as
// `rmsnorm_row(isa, numerics, ...)`.
kernel! { float
    /// RMSNorm (arXiv 1910.07467): `out = x / sqrt(mean(x^2) + eps) * weight`. All are (`dim`).
    fn rmsnorm_row(
        _s; numerics: Numerics, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32,
    ) {
        let scale = match numerics {
            Numerics::Accurate => (1.0 / (sum_of_squares(x) / x.len() as f64 + f64::from(eps)).sqrt()) as f32,
            Numerics::RunqCompatible => {
                let squares = x.iter().fold(0.0, |sum, x| sum + x * x);
                1.0 / (squares / x.len() as f32 + eps).sqrt()
            }
        };
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = weight * (scale * x);
        }
    }
}

/// In f64, where the square of an f32 is exact: so a fused multiply-add gives the same bits as a
/// multiplication and an addition.
#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f64 {
    let mut sums = [0.0; 16];
    let mut chunks = x.chunks_exact(16);
    for chunk in &mut chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(chunks.remainder()) {
        *sum += f64::from(x) * f64::from(x);
    }
    sums.iter().sum()
}

/// The rotary frequencies: the angle by which each pair of a head's dimensions is rotated from one
/// position to the next.
#[derive(Clone, Debug)]
pub(crate) enum RopeFrequencies {
    /// Angles are f64 products: at position 100,000 an f32 angle would be wrong in the third
    /// decimal.
    Accurate {
        /// In radians: (`rope_dim / 2`).
        frequencies: Vec<f64>,
        /// Cosines and sines are multiplied by it: 1 except for `YaRN`.
        magnitude: f64,
    },
    /// Angles are f32 products, as llama2.c makes them.
    RunqCompatible(Vec<f32>),
}

impl RopeFrequencies {
    /// Pair i has the frequency `theta^(-2i / rope_dim)`, divided by its factor if there are
    /// factors (Llama 3.1's way to a longer context), and then scaled. `factors` is (`rope_dim /
    /// 2`).
    pub(crate) fn accurate(config: &Config, factors: Option<&[f32]>) -> Self {
        let Config { rope_dim, rope_theta, rope_scaling, .. } = *config;
        let factor = |pair: usize| factors.map_or(1.0, |factors| f64::from(factors[pair]));
        let plain = |pair: usize| rope_theta.powf(-2.0 * pair as f64 / rope_dim as f64) / factor(pair);
        let pairs = 0..rope_dim / 2;
        match rope_scaling {
            RopeScaling::None => Self::Accurate { frequencies: pairs.map(plain).collect(), magnitude: 1.0 },
            RopeScaling::Linear { factor } => Self::Accurate {
                frequencies: pairs.map(|pair| plain(pair) / factor).collect(),
                magnitude: 1.0,
            },
            RopeScaling::Yarn { factor, original_context_length, beta_fast, beta_slow, magnitude } => {
                // The pair, as a real number, that makes n rotations over the original context.
                let pair_with_rotations = |n: f64| {
                    let context = original_context_length as f64;
                    let wavelengths = context / (n * std::f64::consts::TAU);
                    rope_dim as f64 * wavelengths.ln() / (2.0 * rope_theta.ln())
                };
                let first = pair_with_rotations(beta_fast).floor().max(0.0);
                let last = pair_with_rotations(beta_slow).ceil().min(rope_dim as f64 - 1.0);
                let frequency = |pair: usize| {
                    let slowness = ((pair as f64 - first) / (last - first).max(0.001)).clamp(0.0, 1.0);
                    plain(pair) * (1.0 - slowness) + plain(pair) / factor * slowness
                };
                Self::Accurate { frequencies: pairs.map(frequency).collect(), magnitude }
            }
        }
    }

    pub(crate) fn runq_compatible(head_dim: usize, theta: f32) -> Self {
        let exponent = |pair: usize| (2 * pair) as f32 / head_dim as f32;
        Self::RunqCompatible((0..head_dim / 2).map(|pair| 1.0 / theta.powf(exponent(pair))).collect())
    }

    /// The cosine and sine of every pair's angle at one position: (`rope_dim / 2`, 2).
    pub(crate) fn angles(&self, position: usize, table: &mut [f32]) {
        let pairs = table.chunks_exact_mut(2);
        match self {
            Self::Accurate { frequencies, magnitude } => {
                for (pair, frequency) in pairs.zip(frequencies) {
                    let (sin, cos) = (position as f64 * frequency).sin_cos();
                    pair.copy_from_slice(&[(cos * magnitude) as f32, (sin * magnitude) as f32]);
                }
            }
            Self::RunqCompatible(frequencies) => {
                for (pair, frequency) in pairs.zip(frequencies) {
                    let (sin, cos) = (position as f32 * frequency).sin_cos();
                    pair.copy_from_slice(&[cos, sin]);
                }
            }
        }
    }
}

/// RoPE (arXiv 2104.09864): rotates pairs of adjacent dimensions of each head by their angles. `x`
/// is (n heads, `head_dim`), `angles` (pairs, 2). Where a head has more dimensions than there are
/// angles, the rest stays as it is.
#[inline(always)]
pub(crate) fn rope(x: &mut [f32], angles: &[f32], head_dim: usize) {
    for head in x.chunks_exact_mut(head_dim) {
        for (x, angle) in head.chunks_exact_mut(2).zip(angles.chunks_exact(2)) {
            let (a, b, cos, sin) = (x[0], x[1], angle[0], angle[1]);
            x[0] = a * cos - b * sin;
            x[1] = a * sin + b * cos;
        }
    }
}

/// Softmax (arXiv 1706.03762), where the caller divides: `x = exp(x - max(x))`, and the result is
/// what everything computed from `x` has yet to be divided by, their sum. In runq's numerics `x` is
/// divided here, and the result is 1.
#[inline(always)]
pub(crate) fn softmax<S: Simd>(s: S, numerics: Numerics, x: &mut [f32]) -> f32 {
    exponentials(s, numerics, x);
    match numerics {
        Numerics::Accurate => sum(x),
        Numerics::RunqCompatible => {
            let mut sum = 0.0;
            for &mut x in &mut *x {
                sum += x;
            }
            for x in x {
                *x /= sum;
            }
            1.0
        }
    }
}

/// `x = exp(x - max(x))`
#[inline(always)]
fn exponentials<S: Simd>(s: S, numerics: Numerics, x: &mut [f32]) {
    let mut max = s.splat(f32::NEG_INFINITY);
    let mut chunks = x.chunks_exact(S::LANES);
    for chunk in &mut chunks {
        max = s.max(s.load(chunk), max);
    }
    let max = chunks.remainder().iter().fold(s.max_lane(max), |max, &x| if x > max { x } else { max });
    match numerics {
        Numerics::Accurate => {
            for x in x {
                *x = exp_in_f32(*x - max);
            }
        }
        Numerics::RunqCompatible => {
            for x in x {
                *x = exp(*x - max);
            }
        }
    }
}

/// The sum, in sixteen parts, so that it is the same bits on every instruction set.
#[inline(always)]
fn sum(x: &[f32]) -> f32 {
    let mut sums = [0.0; 16];
    let mut chunks = x.chunks_exact(16);
    for chunk in &mut chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(chunks.remainder()) {
        *sum += x;
    }
    sums.iter().sum()
}

kernel! { float
    /// SwiGLU (arXiv 2002.05202): `gate = silu(gate) * up`, where `silu(g) = g / (1 + exp(-g))`.
    pub(crate) fn swiglu(_s; numerics: Numerics, gate: &mut [f32], up: &[f32]) {
        match numerics {
            Numerics::Accurate => {
                for (gate, up) in gate.iter_mut().zip(up) {
                    *gate = *gate / (1.0 + exp_in_f32(-*gate)) * up;
                }
            }
            Numerics::RunqCompatible => {
                for (gate, up) in gate.iter_mut().zip(up) {
                    *gate = *gate * (1.0 / (1.0 + exp(-*gate))) * up;
                }
            }
        }
    }
}

/// `e^x` to within one unit in the last place, in a fifth of [`exp`]'s time. Below -87 it is
/// `e^-87`, above 88.4 infinite.
///
/// The method is [`exp`]'s, with ln 2 in two parts and a polynomial of degree 7. Its coefficient of
/// `r^6` makes up for most of the term `r^8 / 8!` that it lacks: what is left is below 1e-9.
#[inline(always)]
fn exp_in_f32(x: f32) -> f32 {
    const ROUNDER: f32 = 12_582_912.0; // 1.5 * 2^23
    const LN_2_HIGH: f32 = 0.693_145_75; // 16 bits, so that its products with n are exact
    const LN_2_LOW: f32 = 1.428_606_8e-6;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let mut e = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0 + 2.2e-6, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        e = r.mul_add(e, coefficient);
    }
    let e = (r * r).mul_add(e, r) + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    e * power
}

/// `e^x`, correctly rounded except in one case in a million; 0 below -104, infinite above 88.8.
///
/// `x = n ln 2 + r` with an integer `n` and `|r| <= ln 2 / 2`, so `e^x = 2^n e^r`, and `e^r` is its
/// Taylor polynomial of degree 10 in f64, whose remainder is below `r^11 / 11! = 2.2e-13`. There
/// are no branches and no calls, so that a loop over it becomes vector code.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding it to a small f64 rounds that to an integer, which then stands in the sum's low bits.
    const ROUNDER: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
    // Written with `>` and `<` so that a NaN stays one.
    let x = f64::from(x);
    let x = if x < -110.0 { -110.0 } else { x };
    let x = if x > 100.0 { 100.0 } else { x };
    let shifted = x * std::f64::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    // n is below 160, so the product's rounding error is below 1e-14
    let r = x - n * std::f64::consts::LN_2;
    let mut e = 1.0 / 3_628_800.0;
    for coefficient in [
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        e = e * r + coefficient;
    }
    // 2^n, from its exponent bits.
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    (e * power) as f32
}

#[cfg(test)]
mod tests;
