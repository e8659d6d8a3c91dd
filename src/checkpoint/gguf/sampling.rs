//! What a file recommends for sampling: the keys `general.sampling.*`.
//!
//! A model runs whatever they say, so what can't be honored is a note, which names the key, and not
//! an error.
//!
//! Source: `gguf-py/gguf/constants.py` in the llama.cpp repository, and what its programs do with
//! these keys.

use super::metadata::Metadata;
use super::value::{FromValue, Value};
use crate::error::ErrorKind;
use crate::sampler::{RECOMMENDATIONS, SamplingDefaults};

/// What is before the name of each.
pub(crate) const PREFIX: &str = "general.sampling.";

/// Keys that aren't honored, and why; a value of 0 changes nothing.
const OTHERS: &[(&str, &str)] = &[
    ("sequence", "the order of filters is always the same here"),
    ("mirostat", "Mirostat is not supported"),
    ("mirostat_tau", ""),
    ("mirostat_eta", ""),
];

/// The recommendations, and notes of those that don't count.
pub(super) fn read(metadata: &Metadata<'_>, notes: &mut Vec<String>) -> SamplingDefaults {
    let mut defaults = SamplingDefaults::default();
    for (key, value) in metadata.iter() {
        let Some(name) = key.strip_prefix(PREFIX) else { continue };
        if let Err(reason) = read_one(name, value, &mut defaults) {
            notes
                .push(format!("key {key} is {value}, which isn't taken for a default of sampling: {reason}"));
        }
    }
    defaults
}

fn read_one(name: &str, value: &Value<'_>, to: &mut SamplingDefaults) -> Result<(), String> {
    if let Some((_, reason)) = OTHERS.iter().find(|(other, _)| *other == name) {
        let is_harmless = reason.is_empty() || value.integer() == Some(0);
        return if is_harmless { Ok(()) } else { Err((*reason).into()) };
    }
    let recommendation = RECOMMENDATIONS.iter().find(|it| it.gguf == name);
    let recommendation = recommendation.ok_or("the key isn't known")?;
    let integer = value.integer().map(|n| n as f64);
    let number = if recommendation.is_integer { integer } else { f64::from_value(value).or(integer) };
    let number = number.ok_or(if recommendation.is_integer {
        "an integer is expected"
    } else {
        "a number is expected"
    })?;
    recommendation.set(to, number).map_err(|e| match e.kind() {
        ErrorKind::InvalidOption { reason, .. } => reason.to_string(),
        _ => e.to_string(),
    })
}
