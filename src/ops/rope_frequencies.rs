//! By which angles RoPE rotates, at each position.

use crate::config::{Config, RopeScaling};

/// What each pair's rotary frequency is divided by: (`rope_dim / 2`) each.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RopeFactors {
    /// In contexts up to the original length; in all, if there are no others.
    pub(crate) short: Option<Vec<f32>>,
    /// In longer ones, of a model that has others there ([`RopeScaling::Long`]).
    pub(crate) long: Option<Vec<f32>>,
}

/// A model's rotary frequencies, by the length of the context.
///
/// A session's capacity chooses, and not the position: keys in the cache are rotated already, and
/// a text must have the same bits however it is cut into calls.
#[derive(Debug)]
pub(crate) struct RopeByContext {
    short: RopeFrequencies,
    /// Those of contexts that are longer than so many positions.
    long: Option<(usize, RopeFrequencies)>,
}

impl RopeByContext {
    pub(crate) fn accurate(config: &Config, factors: &RopeFactors) -> Self {
        let of = |factors: &Option<Vec<f32>>| RopeFrequencies::accurate(config, factors.as_deref());
        let long = match config.rope_scaling {
            RopeScaling::Long { original_context_length, .. } => {
                Some((original_context_length, of(&factors.long)))
            }
            _ => None,
        };
        Self { short: of(&factors.short), long }
    }

    pub(crate) fn runq_compatible(head_dim: usize, theta: f32) -> Self {
        Self { short: RopeFrequencies::runq_compatible(head_dim, theta), long: None }
    }

    /// The length above which a context is long, if that matters.
    pub(crate) fn longest_short_context(&self) -> Option<usize> {
        self.long.as_ref().map(|&(original, _)| original)
    }

    pub(crate) fn is_long(&self, context_length: usize) -> bool {
        self.longest_short_context().is_some_and(|original| context_length > original)
    }

    pub(crate) fn of(&self, context_length: usize) -> &RopeFrequencies {
        self.long.as_ref().filter(|_| self.is_long(context_length)).map_or(&self.short, |(_, long)| long)
    }

    /// Those of short contexts, and then those of long ones, if they are others.
    pub(crate) fn all(&self) -> impl Iterator<Item = &RopeFrequencies> {
        [&self.short].into_iter().chain(self.long.as_ref().map(|(_, long)| long))
    }
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
        /// Cosines and sines are multiplied by it: 1 except for `YaRN` and `LongRoPE`.
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
            RopeScaling::Long { magnitude, .. } => {
                Self::Accurate { frequencies: pairs.map(plain).collect(), magnitude }
            }
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
