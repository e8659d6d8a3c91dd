//! The small operations of a Llama: everything that isn't a matrix product or attention.
//!
//! For int8 files they round as llama2.c's do: terms are summed one after another in their order,
//! and exponentials are correctly rounded, where a C library's may be off by one in the last bit
//! once in a thousand times. That matters where activations are quantized: a difference in the last
//! bit can move a value across a rounding boundary, and from then on logits differ by a hundredth
//! of their standard deviation.

mod exp;
mod rope_frequencies;

use exp::{exp, exp_in_f32};
pub(crate) use rope_frequencies::{RopeByContext, RopeFactors, RopeFrequencies};

use crate::compute::{Compute, Numerics};
use crate::config::RopePairs;
use crate::parallel::ColumnPartition;
use crate::simd::{Simd, kernel};

/// RMSNorm of each token, or a copy without weights: `out` and `x` are (`n_tokens`, `dim`).
pub(crate) fn rmsnorm(compute: &Compute<'_>, out: &mut [f32], x: &[f32], weight: Option<&[f32]>, eps: f32) {
    let Some(weight) = weight else { return out.copy_from_slice(x) };
    let (bytes, dim) = (size_of_val(x), weight.len());
    let (len, isa, numerics) = (out.len(), compute.isa, compute.numerics);
    // To the partition it is one row of n_tokens items of dim columns: a token is an item.
    let partition = ColumnPartition::new(out, len, dim);
    compute.team.columns([[partition]], bytes, move |_, tokens, [mut out]| {
        for (out, x) in out.row(0).chunks_exact_mut(dim).zip(x[tokens.start * dim..].chunks_exact(dim)) {
            rmsnorm_row(isa, numerics, out, x, weight, eps);
        }
    });
}

/// RMSNorm in place, of each head or each row, whichever is as wide as `weight`, if there is one.
pub(crate) fn rmsnorm_in_place(compute: &Compute<'_>, x: &mut [f32], weight: Option<&[f32]>, eps: f32) {
    let Some(weight) = weight else { return };
    let (isa, numerics) = (compute.isa, compute.numerics);
    for_rows(compute, x, weight.len(), move |x| rmsnorm_row_in_place(isa, numerics, x, weight, eps));
}

/// Adds the bias that a product may have to each token's row: `x` is (`n_tokens`, width).
pub(crate) fn add_bias(compute: &Compute<'_>, x: &mut [f32], bias: Option<&[f32]>) {
    let Some(bias) = bias else { return };
    for_rows(compute, x, bias.len(), move |x| x.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias));
}

/// `x += scale * y`, of any length.
pub(crate) fn add_scaled(x: &mut [f32], y: &[f32], scale: f32) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += scale * y);
}

/// Calls `change` for each row of `width`.
fn for_rows(compute: &Compute<'_>, x: &mut [f32], width: usize, change: impl Fn(&mut [f32]) + Copy + Sync) {
    let (bytes, len) = (size_of_val(x), x.len());
    compute.team.columns([[ColumnPartition::new(x, len, width)]], bytes, move |_, _, [mut x]| {
        x.row(0).chunks_exact_mut(width).for_each(change);
    });
}

// `kernel!` (`simd/isa.rs`) compiles a body for every instruction set; it is called as
// `rmsnorm_row(isa, numerics, ...)`.
kernel! { float
    /// RMSNorm (arXiv 1910.07467): `out = x / sqrt(mean(x^2) + eps) * weight`. All are (`dim`).
    fn rmsnorm_row(_s; numerics: Numerics, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let scale = rms_scale(numerics, x, eps);
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = weight * (scale * x);
        }
    }
}

kernel! { float
    fn rmsnorm_row_in_place(_s; numerics: Numerics, x: &mut [f32], weight: &[f32], eps: f32) {
        let scale = rms_scale(numerics, x, eps);
        for (x, weight) in x.iter_mut().zip(weight) {
            *x = weight * (scale * *x);
        }
    }
}

/// `1 / sqrt(mean(x^2) + eps)`
#[inline(always)]
fn rms_scale(numerics: Numerics, x: &[f32], eps: f32) -> f32 {
    match numerics {
        Numerics::Accurate => (1.0 / (sum_of_squares(x) / x.len() as f64 + f64::from(eps)).sqrt()) as f32,
        Numerics::RunqCompatible => {
            let squares = x.iter().fold(0.0, |sum, x| sum + x * x);
            1.0 / (squares / x.len() as f32 + eps).sqrt()
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

/// RoPE (arXiv 2104.09864): rotates pairs of each head's dimensions by their angles: adjacent ones,
/// or those that are half of all rotated ones apart. `x` is (n heads, `head_dim`), `angles` (pairs,
/// 2). Dimensions of a head beyond those that have angles stay as they are.
#[inline(always)]
pub(crate) fn rope(x: &mut [f32], angles: &[f32], head_dim: usize, pairs: RopePairs) {
    let rotate = |a: &mut f32, b: &mut f32, angle: &[f32]| {
        let (cos, sin) = (angle[0], angle[1]);
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    };
    let angle_pairs = angles.chunks_exact(2);
    for head in x.chunks_exact_mut(head_dim) {
        match pairs {
            RopePairs::Adjacent => {
                for ([a, b], angle) in head.as_chunks_mut().0.iter_mut().zip(angle_pairs.clone()) {
                    rotate(a, b, angle);
                }
            }
            RopePairs::Halves => {
                let (first, second) = head[..angles.len()].split_at_mut(angles.len() / 2);
                for ((a, b), angle) in first.iter_mut().zip(second).zip(angle_pairs.clone()) {
                    rotate(a, b, angle);
                }
            }
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

#[cfg(test)]
mod tests;
