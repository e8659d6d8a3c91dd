//! What can be asked of a [`Sampler`](super::Sampler).

use crate::error::{Error, ErrorKind, Result, TokenId};

/// Makes the options of a list. A row is an option's documentation, name, type and default, and
/// what its values must be.
macro_rules! options {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr $(, $rule:expr)?;)*) => {
        /// How a [`Sampler`](super::Sampler) chooses. The defaults are llama2.c's.
        ///
        /// ```
        /// use babyllama::SamplerOptions;
        ///
        /// let options = SamplerOptions::new().temperature(0.8).top_k(40);
        /// assert_eq!(options.top_p, 0.9);
        /// options.validate()?;
        /// # Ok::<(), babyllama::Error>(())
        /// ```
        #[derive(Clone, Debug, PartialEq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
        #[non_exhaustive]
        pub struct SamplerOptions {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl Default for SamplerOptions {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl SamplerOptions {
            $(
                #[doc = concat!("Sets [`", stringify!($name), "`](#structfield.", stringify!($name), ").")]
                #[must_use]
                pub fn $name(mut self, $name: $type) -> Self {
                    self.$name = $name;
                    self
                }
            )*

            /// Checks every option.
            ///
            /// # Errors
            /// [`ErrorKind::InvalidOption`] names the first option that can't be honored.
            pub fn validate(&self) -> Result<()> {
                $($(check(stringify!($name), self.$name, $rule)?;)?)*
                if self.dry_breakers.iter().any(Vec::is_empty) {
                    return Err(invalid("dry_breakers", "[]".into(), "must have a token each"));
                }
                self.logit_bias.iter().try_for_each(|&(_, bias)| check("logit_bias", bias, BELOW_INFINITY))
            }
        }
    };
}

options! {
    /// Divides the logits: below 1 the likely tokens get likelier, above 1 the choice gets more
    /// even, and 0 always takes the likeliest token and no random number. Default 1.
    temperature: f32 = 1.0, AT_LEAST_0;
    /// Applies the temperature after the filters, which then see the probabilities of temperature
    /// 1, as llama.cpp does by default. Top-n-sigma and the penalties are not affected. Default
    /// false.
    temperature_last: bool = false;
    /// Keeps the likeliest tokens up to the one with which their probabilities together exceed
    /// this; off at 0 or below and at 1 or above. Default 0.9.
    top_p: f32 = 0.9, A_NUMBER;
    /// Keeps this number of the likeliest tokens; 0 is off. Default 0.
    top_k: usize = 0;
    /// Drops tokens that are less likely than this times the likeliest; from 0, which is off, to 1.
    /// Default 0.
    min_p: f32 = 0.0, FROM_0_TO_1;
    /// Keeps the tokens of which the information content is closest to the entropy, up to the one
    /// with which their probabilities together reach this: locally typical sampling. Above 0; 1 is
    /// off. Default 1.
    typical_p: f32 = 1.0, ABOVE_0_TO_1;
    /// Drops tokens of which the logit is more than this number of standard deviations of all
    /// logits below the greatest. The temperature doesn't change what it keeps. 0 is off. Default
    /// 0.
    top_n_sigma: f32 = 0.0, AT_LEAST_0;
    /// How often XTC ("exclude top choices") drops tokens, as a probability: of several tokens that
    /// reach [`xtc_threshold`](Self#structfield.xtc_threshold), all except the least likely. Takes
    /// a random number more for each token if it is on. At temperature 0 it does nothing. 0 is off.
    /// Default 0.
    xtc_probability: f32 = 0.0, FROM_0_TO_1;
    /// The probability from which a token is a top choice, among what the other filters leave;
    /// above 0.5, which two tokens can't reach, XTC is off. Default 0.1.
    xtc_threshold: f32 = 0.1, FROM_0_TO_1;
    /// DRY ("don't repeat yourself") subtracts `dry_multiplier * dry_base ^ (length -
    /// dry_allowed_length)` from the logit of a token that would continue a repetition: it followed
    /// the last `length` tokens before. 0 is off, 0.8 is usual. Default 0.
    dry_multiplier: f32 = 0.0, AT_LEAST_0;
    /// How fast DRY's penalty grows with the length of the repetition; 1 or more. Default 1.75.
    dry_base: f32 = 1.75, AT_LEAST_1;
    /// The length from which DRY penalizes repetitions. At 0 the penalty is as for 1, times the
    /// base. Default 2.
    dry_allowed_length: usize = 2;
    /// How many of the last accepted tokens DRY looks at: a repetition at a greater distance isn't
    /// found. The time grows with it. 0 switches DRY off. Default 1024.
    dry_window: usize = 1024;
    /// Sequences of tokens that DRY follows no repetition across, such as line breaks and quotation
    /// marks, and which it doesn't penalize if they are a single token. What they are for a text,
    /// [`Tokenizer::breakers`](crate::Tokenizer::breakers) says. None may be empty. Default none.
    dry_breakers: Vec<Vec<TokenId>> = Vec::new();
    /// Divides the positive logits of recent tokens and multiplies the negative ones; above 0. 1 is
    /// off. Default 1.
    repetition_penalty: f32 = 1.0, ABOVE_0;
    /// Subtracted from a token's logit once for each time that it occurs among the recent tokens. 0
    /// is off. Default 0.
    frequency_penalty: f32 = 0.0, FINITE;
    /// Subtracted from a token's logit once if it occurs among the recent tokens. 0 is off. Default
    /// 0.
    presence_penalty: f32 = 0.0, FINITE;
    /// How many of the last accepted tokens are recent. 0 switches the three penalties off. Default
    /// 64.
    penalty_window: usize = 64;
    /// Added to the tokens' logits; minus infinity bans a token. Ids without a logit are ignored.
    /// Default empty.
    #[cfg_attr(feature = "serde", serde(with = "biases"))]
    logit_bias: Vec<(TokenId, f32)> = Vec::new();
    /// Where the random numbers start: the same seed gives the same choices. Default 42, so vary it
    /// for variety.
    seed: u64 = 42;
}

impl SamplerOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many of the last tokens change the logits.
    pub(super) fn remembered(&self) -> usize {
        let penalties = if self.has_penalties() { self.penalty_window } else { 0 };
        penalties.max(if self.has_dry() { self.dry_window } else { 0 })
    }

    /// Whether the counts of recent tokens change the logits.
    pub(super) fn has_penalties(&self) -> bool {
        self.has_repetition_penalty() || self.has_count_penalties()
    }

    pub(super) fn has_repetition_penalty(&self) -> bool {
        self.penalty_window > 0 && self.repetition_penalty != 1.0
    }

    pub(super) fn has_count_penalties(&self) -> bool {
        self.penalty_window > 0 && (self.frequency_penalty, self.presence_penalty) != (0.0, 0.0)
    }

    pub(super) fn has_dry(&self) -> bool {
        self.dry_window > 0 && self.dry_multiplier > 0.0
    }

    pub(super) fn has_xtc(&self) -> bool {
        self.xtc_probability > 0.0 && self.xtc_threshold <= 0.5
    }
}

/// What a number must be, and how to say so.
type Rule = (fn(f32) -> bool, &'static str);

const A_NUMBER: Rule = (|x| !x.is_nan(), "must be a number");
const FINITE: Rule = (f32::is_finite, "must be a finite number");
const AT_LEAST_0: Rule = (|x| x.is_finite() && x >= 0.0, "must be a finite number, 0 or more");
const AT_LEAST_1: Rule = (|x| x.is_finite() && x >= 1.0, "must be a finite number, 1 or more");
const ABOVE_0: Rule = (|x| x.is_finite() && x > 0.0, "must be a finite number above 0");
const FROM_0_TO_1: Rule = (|x| (0.0..=1.0).contains(&x), "must be from 0 to 1");
const ABOVE_0_TO_1: Rule = (|x| x > 0.0 && x <= 1.0, "must be above 0, and at most 1");
const BELOW_INFINITY: Rule = (|x| x < f32::INFINITY, "must be a finite number or minus infinity");

fn check(name: &'static str, value: f32, (holds, reason): Rule) -> Result<()> {
    if holds(value) { Ok(()) } else { Err(invalid(name, value.to_string(), reason)) }
}

fn invalid(name: &'static str, value: String, reason: &'static str) -> Error {
    ErrorKind::InvalidOption { name, value, reason: reason.into() }.into()
}

/// JSON has no infinities: the most negative f64 stands for one, which is minus infinity as an f32.
#[cfg(feature = "serde")]
mod biases {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::error::TokenId;

    pub(super) fn serialize<S: Serializer>(
        biases: &[(TokenId, f32)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(biases.iter().map(|&(token, bias)| (token, f64::from(bias).max(f64::MIN))))
    }

    /// By way of f64: read as f32, the one that stands for infinity may be refused.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(TokenId, f32)>, D::Error> {
        let biases = Vec::<(TokenId, f64)>::deserialize(deserializer)?;
        Ok(biases.into_iter().map(|(token, bias)| (token, bias as f32)).collect())
    }
}
