//! The small operations of a Llama: everything that isn't a matrix product or attention.
//!
//! They round as llama2.c's do: sums are added up in the plain order of their terms, and exponentials are rounded as if
//! exact, where a C library's may be off by one in the last bit once in a thousand times. That matters where activations
//! are quantised, because a difference in the last bit can move a value across a rounding boundary, and from then on
//! logits differ by a hundredth of their spread. (Sums in vector lanes would save about 0.3 % of a token's time.)

use crate::simd::{Simd, kernel};

kernel! {
    /// RMSNorm (arXiv 1910.07467): `out = x / sqrt(mean(x^2) + eps) * weight`. All are (`dim`).
    pub(crate) fn rmsnorm(_s; out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let squares = x.iter().fold(0.0, |sum, x| sum + x * x);
        let scale = 1.0 / (squares / x.len() as f32 + eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = weight * (scale * x);
        }
    }
}

kernel! {
    /// SwiGLU (arXiv 2002.05202): `gate = silu(gate) * up`, where `silu(g) = g / (1 + exp(-g))`.
    pub(crate) fn swiglu(_s; gate: &mut [f32], up: &[f32]) {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = *gate * (1.0 / (1.0 + exp(-*gate))) * up;
        }
    }
}

/// `x = exp(x - max(x)) / sum(exp(x - max(x)))`
#[inline(always)]
pub(crate) fn softmax<S: Simd>(s: S, x: &mut [f32]) {
    let mut max = s.splat(f32::NEG_INFINITY);
    let mut chunks = x.chunks_exact(S::LANES);
    for chunk in &mut chunks {
        max = s.max(s.load(chunk), max);
    }
    let max = chunks.remainder().iter().fold(s.max_lane(max), |max, &x| if x > max { x } else { max });
    for x in x.iter_mut() {
        *x = exp(*x - max);
    }
    let sum = x.iter().fold(0.0, |sum, x| sum + x);
    for x in x.iter_mut() {
        *x /= sum;
    }
}

/// `e^x`, rounded as if it had been computed exactly but for one case in a million; 0 below -104, infinite above 88.8.
///
/// `x = n ln 2 + r` with whole `n` and `|r| <= ln 2 / 2`, so `e^x = 2^n e^r`, and `e^r` is its Taylor polynomial of
/// degree 10 in f64, whose remainder is below `r^11 / 11! = 2.2e-13`. There are no branches and no calls, so that a
/// loop over it becomes vector code.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it to a small f64 rounds that to a whole number, which then stands in the sum's low bits.
    const ROUNDER: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
    // Written with `>` and `<` so that a NaN stays one.
    let x = f64::from(x);
    let x = if x < -110.0 { -110.0 } else { x };
    let x = if x > 100.0 { 100.0 } else { x };
    let shifted = x * std::f64::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = x - n * std::f64::consts::LN_2; // n is below 160, so the product's rounding error is below 1e-14
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

/// The angle by which each pair of a head turns from one position to the next, in radians: (`head_dim / 2`).
#[derive(Clone, Debug)]
pub(crate) enum RopeFrequencies {
    /// Angles are f64 products: at position 100,000 an f32 angle would be wrong in the third decimal.
    Exact(Vec<f64>),
    /// Angles are f32 products, as llama2.c makes them. The int8 files have runq's arithmetic for their definition.
    Llama2c(Vec<f32>),
}

impl RopeFrequencies {
    pub(crate) fn exact(head_dim: usize, theta: f64) -> Self {
        let exponent = |pair: usize| -2.0 * pair as f64 / head_dim as f64;
        Self::Exact((0..head_dim / 2).map(|pair| theta.powf(exponent(pair))).collect())
    }

    pub(crate) fn llama2c(head_dim: usize, theta: f32) -> Self {
        let exponent = |pair: usize| (2 * pair) as f32 / head_dim as f32;
        Self::Llama2c((0..head_dim / 2).map(|pair| 1.0 / theta.powf(exponent(pair))).collect())
    }

    /// The cosine and sine of every pair's angle at one position, interleaved: (`head_dim / 2`, 2).
    pub(crate) fn angles(&self, position: usize, table: &mut [f32]) {
        let pairs = table.chunks_exact_mut(2);
        match self {
            Self::Exact(frequencies) => {
                for (pair, frequency) in pairs.zip(frequencies) {
                    let (sin, cos) = (position as f64 * frequency).sin_cos();
                    pair.copy_from_slice(&[cos as f32, sin as f32]);
                }
            }
            Self::Llama2c(frequencies) => {
                for (pair, frequency) in pairs.zip(frequencies) {
                    let (sin, cos) = (position as f32 * frequency).sin_cos();
                    pair.copy_from_slice(&[cos, sin]);
                }
            }
        }
    }
}

/// RoPE (arXiv 2104.09864): turns each adjacent pair of each head by its angle. `x` is (n heads, `head_dim`).
pub(crate) fn rope(x: &mut [f32], angles: &[f32]) {
    for head in x.chunks_exact_mut(angles.len()) {
        for (x, angle) in head.chunks_exact_mut(2).zip(angles.chunks_exact(2)) {
            let (a, b, cos, sin) = (x[0], x[1], angle[0], angle[1]);
            x[0] = a * cos - b * sin;
            x[1] = a * sin + b * cos;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;

    #[test]
    fn exp_is_rounded_as_if_exact() {
        let mut wrong = 0;
        let inputs = (0..2_000_000).map(|i| i as f32 * 1e-4 - 105.0);
        for x in inputs.filter(|x| *x < 88.7) {
            let want = f64::from(x).exp() as f32;
            wrong += usize::from(exp(x) != want);
        }
        assert!(wrong <= 4, "{wrong} of two million are rounded the other way");
    }

    #[test]
    fn exp_keeps_its_edges() {
        assert_eq!([exp(0.0), exp(-0.0)], [1.0, 1.0]);
        assert_eq!([exp(1000.0), exp(f32::INFINITY)], [f32::INFINITY; 2]);
        assert_eq!([exp(-1000.0), exp(f32::NEG_INFINITY)], [0.0; 2]);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn every_isa_gives_the_bits_of_the_plain_formulas() {
        for isa in Isa::available() {
            for n in 1..=67usize {
                let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
                let w: Vec<f32> = (0..n).map(|i| 1.0 + (i as f32 * 0.3).cos() * 0.1).collect();

                let mut out = vec![0.0; n];
                rmsnorm(isa, &mut out, &x, &w, 1e-5);
                let mut squares = 0.0f32;
                for v in &x {
                    squares += v * v;
                }
                let scale = 1.0 / (squares / n as f32 + 1e-5).sqrt();
                let want: Vec<f32> = x.iter().zip(&w).map(|(x, w)| w * (scale * x)).collect();
                assert_eq!(out, want, "{} n {n}", isa.name());

                let mut gate = x.clone();
                swiglu(isa, &mut gate, &w);
                let silu = |g: f32| g * (1.0 / (1.0 + (f64::from(-g)).exp() as f32));
                let want: Vec<f32> = x.iter().zip(&w).map(|(&x, w)| silu(x) * w).collect();
                assert_eq!(gate, want, "{} n {n}", isa.name());
            }
        }
    }
}
