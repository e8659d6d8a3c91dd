//! The small operations of a Llama: everything that isn't a matrix product or attention.
//!
//! For int8 files they round as llama2.c's do: sums are added up in the plain order of their terms,
//! and exponentials are rounded as if exact, where a C library's may be off by one in the last bit
//! once in a thousand times. That matters where activations are quantised, because a difference in
//! the last bit can move a value across a rounding boundary, and from then on logits differ by a
//! hundredth of their spread.

use crate::config::{Config, RopeScaling};
use crate::matmul::Compute;
use crate::parallel::ColumnPartition;
use crate::simd::{Simd, kernel};

/// Where engines differ in how they compute what isn't a matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numerics {
    /// Angles and the sums of norms are in f64. Those sums in f32 would be most of what an f32
    /// model's logits are off by: 4e-7 of their spread instead of 2.7e-7, at a width of 256.
    Accurate,
    /// All of it is in f32, as in llama2.c: an int8 file stands for what runq makes of it, bit for
    /// bit.
    RunqCompatible,
}

kernel! {
    /// RMSNorm (arXiv 1910.07467): `out = x / sqrt(mean(x^2) + eps) * weight`. All are (`dim`).
    fn rmsnorm(
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

/// In f64, where squares are exact, so it makes no difference whether they are rounded before they
/// are added.
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

impl Compute<'_> {
    /// RMSNorm of each token: `out` and `x` are (`n_tokens`, `dim`).
    pub(crate) fn rmsnorm(&self, out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
        let bytes = size_of_val(x);
        let dim = weight.len();
        let (len, isa, numerics) = (out.len(), self.isa, self.numerics);
        self.team.bands([[ColumnPartition::new(out, len, dim)]], bytes, move |_, units, [mut out]| {
            for (out, x) in out.row(0).chunks_exact_mut(dim).zip(x[units.start * dim..].chunks_exact(dim)) {
                rmsnorm(isa, numerics, out, x, weight, eps);
            }
        });
    }
}

kernel! {
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

/// `x = exp(x - max(x))`: a softmax, but for the division by their sum.
#[inline(always)]
pub(crate) fn exponentials<S: Simd>(s: S, numerics: Numerics, x: &mut [f32]) {
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
pub(crate) fn sum(x: &[f32]) -> f32 {
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

/// `e^x` to within one unit in the last place, in a fifth of [`exp`]'s time; as at -87 below that,
/// and infinite above 88.4.
///
/// As [`exp`], with ln 2 in two parts and a polynomial of degree 7. Its coefficient of `r^6` makes
/// up for most of the term `r^8 / 8!` that it lacks: what is left is below 1e-9.
#[inline(always)]
pub(crate) fn exp_in_f32(x: f32) -> f32 {
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

/// `e^x`, rounded as if it had been computed exactly but for one case in a million; 0 below -104,
/// infinite above 88.8.
///
/// `x = n ln 2 + r` with whole `n` and `|r| <= ln 2 / 2`, so `e^x = 2^n e^r`, and `e^r` is its
/// Taylor polynomial of degree 10 in f64, whose remainder is below `r^11 / 11! = 2.2e-13`. There
/// are no branches and no calls, so that a loop over it becomes vector code.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it to a small f64 rounds that to a whole number, which then stands in the sum's low
    /// bits.
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

/// How fast each pair of a head turns, and how the interleaved vector grows.
#[derive(Clone, Debug)]
pub(crate) enum RopeFrequencies {
    /// Angles are f64 products: at position 100,000 an f32 angle would be wrong in the third
    /// decimal.
    Exact {
        /// Radians from one position to the next: (`rope_dim / 2`).
        frequencies: Vec<f64>,
        /// What cosines and sines are multiplied with: 1 but for `YaRN`.
        magnitude: f64,
    },
    /// Angles are f32 products, as llama2.c makes them. The int8 files have runq's arithmetic for
    /// their definition.
    Llama2c(Vec<f32>),
}

impl RopeFrequencies {
    /// Pair i turns by `theta^(-2i / rope_dim)`, divided by its factor if there are factors (Llama
    /// 3.1's way to a longer context), and then scaled. `factors` is (`rope_dim / 2`).
    pub(crate) fn exact(config: &Config, factors: Option<&[f32]>) -> Self {
        let Config { rope_dim, rope_theta, rope_scaling, .. } = *config;
        let factor = |pair: usize| factors.map_or(1.0, |factors| f64::from(factors[pair]));
        let plain = |pair: usize| rope_theta.powf(-2.0 * pair as f64 / rope_dim as f64) / factor(pair);
        let pairs = 0..rope_dim / 2;
        match rope_scaling {
            RopeScaling::None => Self::Exact { frequencies: pairs.map(plain).collect(), magnitude: 1.0 },
            RopeScaling::Linear { factor } => {
                Self::Exact { frequencies: pairs.map(|pair| plain(pair) / factor).collect(), magnitude: 1.0 }
            }
            RopeScaling::Yarn { factor, original_context_length, beta_fast, beta_slow, magnitude } => {
                // The pair, as a real number, that turns so many times over the original context.
                let pair_that_turns = |times: f64| {
                    let context = original_context_length as f64;
                    let turns = context / (times * std::f64::consts::TAU);
                    rope_dim as f64 * turns.ln() / (2.0 * rope_theta.ln())
                };
                let first = pair_that_turns(beta_fast).floor().max(0.0);
                let last = pair_that_turns(beta_slow).ceil().min(rope_dim as f64 - 1.0);
                let frequency = |pair: usize| {
                    let slowness = ((pair as f64 - first) / (last - first).max(0.001)).clamp(0.0, 1.0);
                    plain(pair) * (1.0 - slowness) + plain(pair) / factor * slowness
                };
                Self::Exact { frequencies: pairs.map(frequency).collect(), magnitude }
            }
        }
    }

    pub(crate) fn llama2c(head_dim: usize, theta: f32) -> Self {
        let exponent = |pair: usize| (2 * pair) as f32 / head_dim as f32;
        Self::Llama2c((0..head_dim / 2).map(|pair| 1.0 / theta.powf(exponent(pair))).collect())
    }

    /// The cosine and sine of every pair's angle at one position, interleaved: (`rope_dim / 2`, 2).
    pub(crate) fn angles(&self, position: usize, table: &mut [f32]) {
        let pairs = table.chunks_exact_mut(2);
        match self {
            Self::Exact { frequencies, magnitude } => {
                for (pair, frequency) in pairs.zip(frequencies) {
                    let (sin, cos) = (position as f64 * frequency).sin_cos();
                    pair.copy_from_slice(&[(cos * magnitude) as f32, (sin * magnitude) as f32]);
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

/// RoPE (arXiv 2104.09864): turns adjacent pairs of each head by their angles. `x` is (n heads,
/// `head_dim`), `angles` (pairs, 2). Where a head has more dimensions than there are angles, the
/// rest stays as it is.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Isa;

    fn config(rope_dim: usize, rope_theta: f64, rope_scaling: RopeScaling) -> Config {
        Config {
            dim: 64,
            hidden_dim: 64,
            n_layers: 1,
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 64,
            rope_dim,
            vocab_size: 1,
            max_seq_len: 64,
            norm_eps: 1e-5,
            rope_theta,
            rope_scaling,
            sliding_window: None,
        }
    }

    /// The angle by which each pair turns from one position to the next, and the magnitude.
    fn frequencies(config: &Config, factors: Option<&[f32]>) -> (Vec<f64>, f64) {
        match RopeFrequencies::exact(config, factors) {
            RopeFrequencies::Exact { frequencies, magnitude } => (frequencies, magnitude),
            RopeFrequencies::Llama2c(_) => unreachable!("not exact"),
        }
    }

    #[test]
    fn frequencies_fall_as_powers_of_theta_and_factors_divide_them() {
        // 2^20 to the powers 0, -1/4, -1/2, -3/4.
        let theta = f64::from(1 << 20);
        let (plain, magnitude) = frequencies(&config(8, theta, RopeScaling::None), None);
        let exact = [1.0, 1.0 / 32.0, 1.0 / 1024.0, 1.0 / 32768.0];
        for (found, want) in plain.iter().zip(exact) {
            assert!((found / want - 1.0).abs() < 1e-14, "{found} {want}");
        }
        assert_eq!(magnitude, 1.0);
        let factors = [1.0, 2.0, 8.0, 0.5];
        let (divided, _) = frequencies(&config(8, theta, RopeScaling::None), Some(&factors));
        let (linear, _) = frequencies(&config(8, theta, RopeScaling::Linear { factor: 4.0 }), None);
        for pair in 0..4 {
            assert_eq!(divided[pair], plain[pair] / f64::from(factors[pair]));
            assert_eq!(linear[pair], plain[pair] / 4.0);
        }
    }

    #[test]
    fn yarn_keeps_fast_pairs_and_slows_the_others() {
        // The paper's terms: r is how often a pair turns over the original context. It scales fully
        // below beta_slow, not at all above beta_fast. (ggml and Hugging Face then blend along the
        // pairs' numbers, rounded outwards.)
        let (original, factor, theta, dim) = (4096, 16.0, 1e4, 128);
        let scaling = RopeScaling::Yarn {
            factor,
            original_context_length: original,
            beta_fast: 32.0,
            beta_slow: 1.0,
            magnitude: 1.25,
        };
        let config = Config { head_dim: dim, ..config(dim, theta, scaling) };
        let (yarn, magnitude) = frequencies(&config, None);
        assert_eq!(magnitude, 1.25);
        // Pairs 20.9 and 45.03 turn 32 times and once: 64 ln(4096 / (2 pi r)) / ln(10000).
        let (first, last) = (20.0, 46.0);
        let mut mixed = 0;
        for (pair, &found) in yarn.iter().enumerate() {
            let plain = (-(pair as f64) / 64.0 * theta.ln()).exp();
            let turns = f64::from(original as u32) * plain / std::f64::consts::TAU;
            let kept = 1.0 - ((pair as f64 - first) / (last - first)).clamp(0.0, 1.0);
            let want = plain * kept + plain * (1.0 - kept) / factor;
            assert!((found / want - 1.0).abs() < 1e-12, "pair {pair}: {found}, not {want}");
            if kept == 1.0 {
                assert!(turns > 32.0, "pair {pair} turns {turns} times");
            } else if kept == 0.0 {
                assert!(turns < 1.0, "pair {pair} turns {turns} times");
            } else {
                mixed += 1;
            }
        }
        assert_eq!(mixed, 25);
    }

    #[test]
    fn angles_are_the_position_times_the_frequency_and_as_large_as_the_magnitude() {
        let frequencies = RopeFrequencies::Exact { frequencies: vec![0.5, 1e-3], magnitude: 1.5 };
        let mut table = [0.0; 4];
        frequencies.angles(100_000, &mut table);
        let want = [50_000.0_f64, 100.0].map(|angle| [1.5 * angle.cos(), 1.5 * angle.sin()]);
        for (found, want) in table.iter().zip(want.concat()) {
            assert!((f64::from(*found) - want).abs() < 1e-7, "{found} {want}");
        }
    }

    #[test]
    fn rope_turns_a_heads_first_dimensions_and_leaves_the_rest() {
        let mut heads: Vec<f32> = (0..12).map(|i| i as f32).collect(); // two heads of six
        rope(&mut heads, &[0.0, 1.0, -1.0, 0.0], 6); // a quarter turn, a half turn
        assert_eq!(heads, [-1.0, 0.0, -2.0, -3.0, 4.0, 5.0, -7.0, 6.0, -8.0, -9.0, 10.0, 11.0]);
    }

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
    fn exp_in_f32_is_off_by_less_than_one_unit_in_the_last_place() {
        let mut worst = 0.0f64;
        for x in (0..1_750_000).map(|i| i as f32 * 1e-4 - 87.0) {
            let want = f64::from(x).exp();
            let unit = f64::from(f32::from_bits((want as f32).to_bits() + 1) - want as f32);
            worst = worst.max((f64::from(exp_in_f32(x)) - want).abs() / unit);
        }
        assert!(worst < 1.0, "{worst} units");
        assert_eq!(exp_in_f32(0.0), 1.0);
        assert!(exp_in_f32(f32::NEG_INFINITY) < 2e-38);
        assert!(exp_in_f32(f32::NAN).is_nan());
        assert_eq!([exp_in_f32(89.0), exp_in_f32(1e30), exp_in_f32(f32::INFINITY)], [f32::INFINITY; 3]);
    }

    #[test]
    fn exp_keeps_its_edges() {
        assert_eq!([exp(0.0), exp(-0.0)], [1.0, 1.0]);
        assert_eq!([exp(1000.0), exp(f32::INFINITY)], [f32::INFINITY; 2]);
        assert_eq!([exp(-1000.0), exp(f32::NEG_INFINITY)], [0.0; 2]);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn exact_norms_lose_no_more_than_three_roundings_whatever_their_length() {
        for isa in Isa::available() {
            for n in (1..=67).chain([4096, 100_000]) {
                let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin() * 1e15).collect();
                let w: Vec<f32> = (0..n).map(|i| 1.0 + (i as f32 * 0.3).cos() * 0.1).collect();
                let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n as f64;
                let mut out = vec![0.0; n];
                rmsnorm(isa, Numerics::Accurate, &mut out, &x, &w, 1e-5);
                for i in 0..n {
                    let want = f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(w[i]);
                    // The scale, its product with x, and that with the weight: 2^-24 each, to first
                    // order.
                    let bound = 3.001 * want.abs() / f64::from(1 << 24);
                    let error = (f64::from(out[i]) - want).abs();
                    assert!(error <= bound, "{} {n}: {} is off by {error:e}", isa.name(), out[i]);
                }
            }
        }
    }

    #[test]
    fn every_isa_gives_the_bits_of_the_plain_formulas() {
        for isa in Isa::available() {
            for n in 1..=67usize {
                let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
                let w: Vec<f32> = (0..n).map(|i| 1.0 + (i as f32 * 0.3).cos() * 0.1).collect();

                let mut out = vec![0.0; n];
                rmsnorm(isa, Numerics::RunqCompatible, &mut out, &x, &w, 1e-5);
                let mut squares = 0.0f32;
                for v in &x {
                    squares += v * v;
                }
                let scale = 1.0 / (squares / n as f32 + 1e-5).sqrt();
                let want: Vec<f32> = x.iter().zip(&w).map(|(x, w)| w * (scale * x)).collect();
                assert_eq!(out, want, "{} n {n}", isa.name());

                let mut gate = x.clone();
                swiglu(isa, Numerics::RunqCompatible, &mut gate, &w);
                let silu = |g: f32| g * (1.0 / (1.0 + (f64::from(-g)).exp() as f32));
                let want: Vec<f32> = x.iter().zip(&w).map(|(&x, w)| silu(x) * w).collect();
                assert_eq!(gate, want, "{} n {n}", isa.name());
            }
        }
    }

    #[test]
    fn exact_swiglu_loses_few_roundings_and_keeps_its_edges() {
        let edges = [0.0, -0.0, 1e-30, -88.5, -1000.0, 1000.0, f32::MIN, f32::NEG_INFINITY];
        let gates: Vec<f32> = (0..4001).map(|i| i as f32 * 0.02 - 40.0).chain(edges).collect();
        let up = vec![1.5; gates.len()];
        let mut bits: Option<Vec<u32>> = None;
        for isa in Isa::available() {
            let mut found = gates.clone();
            swiglu(isa, Numerics::Accurate, &mut found, &up);
            for (&gate, &found) in gates.iter().zip(&found).take(gates.len() - 1) {
                let gate = f64::from(gate);
                let want = gate / (1.0 + (-gate).exp()) * 1.5;
                // The exponential's unit, and the roundings of the sum, the quotient and the
                // product; or next to nothing.
                let bound = 5.0 * want.abs() / f64::from(1 << 24) + 1e-34;
                assert!(
                    (f64::from(found) - want).abs() <= bound,
                    "{} {gate}: {found}, not {want}",
                    isa.name()
                );
            }
            assert!(found[gates.len() - 1].is_nan(), "minus infinity has no sigmoid");
            let found: Vec<u32> = found.iter().map(|x| x.to_bits()).collect();
            assert_eq!(*bits.get_or_insert_with(|| found.clone()), found, "{}", isa.name());
        }
    }
}
