//! How a model's makers recommend to sample from it, as its file says.

use super::options::SamplerOptions;
use crate::error::{Error, ErrorKind, Result};

/// What a model's file recommends for sampling: `None` where it says nothing.
///
/// ```
/// use babyllama::{Model, SamplerOptions};
///
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf");
/// let model = Model::open(path)?;
/// let options = model.sampling_defaults().apply(SamplerOptions::new().temperature(0.7));
/// assert_eq!(options.temperature, 0.7); // of this the file says nothing
/// # Ok::<(), babyllama::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct SamplingDefaults {
    /// See [`SamplerOptions::temperature`](SamplerOptions#structfield.temperature).
    pub temperature: Option<f32>,
    /// See [`SamplerOptions::top_k`](SamplerOptions#structfield.top_k).
    pub top_k: Option<usize>,
    /// See [`SamplerOptions::top_p`](SamplerOptions#structfield.top_p).
    pub top_p: Option<f32>,
    /// See [`SamplerOptions::min_p`](SamplerOptions#structfield.min_p).
    pub min_p: Option<f32>,
    /// See [`SamplerOptions::xtc_probability`](SamplerOptions#structfield.xtc_probability).
    pub xtc_probability: Option<f32>,
    /// See [`SamplerOptions::xtc_threshold`](SamplerOptions#structfield.xtc_threshold).
    pub xtc_threshold: Option<f32>,
    /// See [`SamplerOptions::repetition_penalty`](SamplerOptions#structfield.repetition_penalty).
    pub repetition_penalty: Option<f32>,
    /// See [`SamplerOptions::penalty_window`](SamplerOptions#structfield.penalty_window).
    pub penalty_window: Option<usize>,
}

impl SamplingDefaults {
    /// Sets the options of which the file says something; the others stay as they are.
    #[must_use]
    pub fn apply(&self, mut options: SamplerOptions) -> SamplerOptions {
        fn set<T: Copy>(option: &mut T, said: Option<T>) {
            *option = said.unwrap_or(*option);
        }
        set(&mut options.temperature, self.temperature);
        set(&mut options.top_k, self.top_k);
        set(&mut options.top_p, self.top_p);
        set(&mut options.min_p, self.min_p);
        set(&mut options.xtc_probability, self.xtc_probability);
        set(&mut options.xtc_threshold, self.xtc_threshold);
        set(&mut options.repetition_penalty, self.repetition_penalty);
        set(&mut options.penalty_window, self.penalty_window);
        options
    }
}

/// A recommendation: where files have it.
#[derive(Debug)]
pub(crate) struct Recommendation {
    /// GGUF's key, after `general.sampling.`.
    pub(crate) gguf: &'static str,
    /// The settings of `generation_config.json`, of which the first that is there counts.
    #[cfg_attr(not(feature = "convert"), allow(dead_code, reason = "conversion asks for it alone"))]
    pub(crate) json: &'static [&'static str],
    pub(crate) is_integer: bool,
    set: fn(&mut SamplingDefaults, f64),
}

const fn float(
    gguf: &'static str,
    json: &'static [&'static str],
    set: fn(&mut SamplingDefaults, f64),
) -> Recommendation {
    Recommendation { gguf, json, is_integer: false, set }
}

const fn integer(
    gguf: &'static str,
    json: &'static [&'static str],
    set: fn(&mut SamplingDefaults, f64),
) -> Recommendation {
    Recommendation { gguf, json, is_integer: true, set }
}

/// All that are honored. llama.cpp takes numbers below 1 for a `top_k` that is off, and -1 for a
/// penalty of the whole context.
pub(crate) const RECOMMENDATIONS: &[Recommendation] = &[
    integer("top_k", &["top_k"], |to, n| to.top_k = Some(n.max(0.0) as usize)),
    float("top_p", &["top_p"], |to, x| to.top_p = Some(x as f32)),
    float("min_p", &["min_p"], |to, x| to.min_p = Some(x as f32)),
    float("xtc_probability", &["xtc_probability"], |to, x| to.xtc_probability = Some(x as f32)),
    float("xtc_threshold", &["xtc_threshold"], |to, x| to.xtc_threshold = Some(x as f32)),
    float("temp", &["temperature"], |to, x| to.temperature = Some(x as f32)),
    integer("penalty_last_n", &["penalty_last_n"], |to, n| {
        to.penalty_window = Some(if n < 0.0 { usize::MAX } else { n as usize });
    }),
    float("penalty_repeat", &["penalty_repeat", "repetition_penalty"], |to, x| {
        to.repetition_penalty = Some(x as f32);
    }),
];

impl Recommendation {
    /// Sets a value if it is one that can be honored.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`], with the reason.
    pub(crate) fn set(&self, to: &mut SamplingDefaults, value: f64) -> Result<()> {
        let mut alone = SamplingDefaults::default();
        (self.set)(&mut alone, value);
        alone.apply(SamplerOptions::new()).validate()?;
        let reason = match self.gguf {
            "top_p" if !(0.0..=1.0).contains(&value) => "must be from 0 to 1",
            "penalty_last_n" if value < -1.0 => "must be an integer from -1 on",
            _ => {
                (self.set)(to, value);
                return Ok(());
            }
        };
        let (name, value) = (self.gguf, value.to_string());
        Err(Error::from(ErrorKind::InvalidOption { name, value, reason: reason.into() }))
    }
}
