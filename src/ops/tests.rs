//! The small operations against their formulas, in f64 or as plain f32 loops.

use super::*;
use crate::config::{Config, RopeScaling};
use crate::simd::Isa;

fn config(rope_dim: usize, rope_theta: f64, rope_scaling: RopeScaling) -> Config {
    Config { head_dim: 64, rope_dim, rope_theta, rope_scaling, ..Config::new(64, 64, 1, 1, 1, 1, 64) }
}

/// The rotary frequencies and the magnitude.
fn frequencies(config: &Config, factors: Option<&[f32]>) -> (Vec<f64>, f64) {
    match RopeFrequencies::accurate(config, factors) {
        RopeFrequencies::Accurate { frequencies, magnitude } => (frequencies, magnitude),
        RopeFrequencies::RunqCompatible(_) => unreachable!("not accurate"),
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
    // The paper's terms: r is how many rotations a pair makes over the original context. It scales
    // fully below beta_slow, not at all above beta_fast. (ggml and Hugging Face then blend along
    // the pairs' indices, rounded outward.)
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
    // Pairs 20.9 and 45.03 make 32 rotations and one: 64 ln(4096 / (2 pi r)) / ln(10000).
    let (first, last) = (20.0, 46.0);
    let mut mixed = 0;
    for (pair, &found) in yarn.iter().enumerate() {
        let plain = (-(pair as f64) / 64.0 * theta.ln()).exp();
        let rotations = f64::from(original as u32) * plain / std::f64::consts::TAU;
        let kept = 1.0 - ((pair as f64 - first) / (last - first)).clamp(0.0, 1.0);
        let want = plain * kept + plain * (1.0 - kept) / factor;
        assert!((found / want - 1.0).abs() < 1e-12, "pair {pair}: {found}, not {want}");
        if kept == 1.0 {
            assert!(rotations > 32.0, "pair {pair}: {rotations} rotations");
        } else if kept == 0.0 {
            assert!(rotations < 1.0, "pair {pair}: {rotations} rotations");
        } else {
            mixed += 1;
        }
    }
    assert_eq!(mixed, 25);
}

#[test]
fn angles_are_the_position_times_the_frequency_and_as_large_as_the_magnitude() {
    let frequencies = RopeFrequencies::Accurate { frequencies: vec![0.5, 1e-3], magnitude: 1.5 };
    let mut table = [0.0; 4];
    frequencies.angles(100_000, &mut table);
    let want = [50_000.0_f64, 100.0].map(|angle| [1.5 * angle.cos(), 1.5 * angle.sin()]);
    for (found, want) in table.iter().zip(want.concat()) {
        assert!((f64::from(*found) - want).abs() < 1e-7, "{found} {want}");
    }
}

#[test]
fn rope_rotates_a_heads_first_dimensions_and_leaves_the_rest() {
    let mut heads: Vec<f32> = (0..12).map(|i| i as f32).collect(); // two heads of six
    rope(&mut heads, &[0.0, 1.0, -1.0, 0.0], 6, RopePairs::Adjacent); // by 90 and by 180 degrees
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
fn accurate_norms_lose_no_more_than_three_roundings_whatever_their_length() {
    for isa in Isa::available() {
        for n in (1..=67).chain([4096, 100_000]) {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin() * 1e15).collect();
            let w: Vec<f32> = (0..n).map(|i| 1.0 + (i as f32 * 0.3).cos() * 0.1).collect();
            let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n as f64;
            let mut out = vec![0.0; n];
            rmsnorm_row(isa, Numerics::Accurate, &mut out, &x, &w, 1e-5);
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
            rmsnorm_row(isa, Numerics::RunqCompatible, &mut out, &x, &w, 1e-5);
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
fn accurate_swiglu_loses_few_roundings_and_keeps_its_edges() {
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
            assert!((f64::from(found) - want).abs() <= bound, "{} {gate}: {found}, not {want}", isa.name());
        }
        assert!(found[gates.len() - 1].is_nan(), "minus infinity has no sigmoid");
        let found: Vec<u32> = found.iter().map(|x| x.to_bits()).collect();
        assert_eq!(*bits.get_or_insert_with(|| found.clone()), found, "{}", isa.name());
    }
}
