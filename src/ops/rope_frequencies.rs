//! By which angles RoPE rotates, at each position.

use crate::config::{Config, RopeScaling};

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
