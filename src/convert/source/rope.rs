//! What config.json says of RoPE: the base of the rotary frequencies, and how they are scaled.
//!
//! Old files say it in `rope_theta` and `rope_scaling`, whose `type` was renamed to `rope_type`;
//! newer ones in `rope_parameters`. Where both are there, `rope_scaling` counts, and a base inside
//! counts more than one outside: so it is in transformers 5.24 and in llama.cpp's converter.
//!
//! Source: `modeling_rope_utils.py` in the transformers repository.

use serde_json::Value;

use super::json::Object;
use super::llama::Llama3Scaling;
use super::models::HfModel;
use super::settings::{self, ROPE};
use crate::config::{Config, RopeScaling};
use crate::error::Result;
use crate::ops::RopeFactors;

/// What [`read`] found that is not in the [`Config`].
#[derive(Debug, Default)]
pub(super) struct Rope {
    /// Llama 3's scaling, which is a tensor in GGUF.
    pub(super) llama3: Option<Llama3Scaling>,
    /// Phi 3's factors.
    pub(super) long: Option<RopeFactors>,
    /// Names of settings that aren't known.
    pub(super) unknown: Vec<String>,
    pub(super) notes: Vec<String>,
}

/// Sets the base of the rotary frequencies and how they are scaled.
pub(super) fn read(json: &Object<'_>, model: &HfModel, config: &mut Config) -> Result<Rope> {
    let mut rope = Rope::default();
    let filled = |key| -> Result<_> { Ok(json.object(key)?.filter(|object| !object.map.is_empty())) };
    let (older, newer) = (filled("rope_scaling")?, filled("rope_parameters")?);
    if older.is_some() && newer.is_some() {
        let both =
            "config.json has both rope_scaling and rope_parameters: rope_scaling counts, as in transformers";
        rope.notes.push(both.into());
    }
    let outside = json.optional("rope_theta")?;
    let Some(scaling) = older.or(newer) else {
        config.rope_theta = outside.unwrap_or(config.rope_theta);
        return Ok(rope);
    };
    rope.unknown = settings::go_through(&scaling, ROPE, model.settings)?;
    let inside = scaling.optional("rope_theta")?;
    config.rope_theta = inside.or(outside).unwrap_or(config.rope_theta);
    let kind = scaling.optional::<&str>("rope_type")?;
    let kind = if kind.is_some() { kind } else { scaling.optional("type")? };
    // Outside counts more than inside. Where neither says it, it is the context's length.
    let original = match json.optional("original_max_position_embeddings")? {
        Some(outside) => Some(outside),
        None => scaling.optional("original_max_position_embeddings")?,
    };
    match kind.unwrap_or("default") {
        // Phi 3's first files call it otherwise, as transformers knows.
        "longrope" | "su" | "yarn" if model.long_rope.is_some() => {
            // transformers takes the one outside alone.
            let original = json.optional("original_max_position_embeddings")?.or(model.long_rope);
            let original = original.unwrap_or(config.max_seq_len);
            let (scaling, factors) = long(&scaling, original, config)?;
            (config.rope_scaling, rope.long) = (scaling, Some(factors));
        }
        "default" => {}
        "dynamic" => {
            let positions = config.max_seq_len;
            rope.notes.push(format!(
                "config.json's rope_type dynamic changes nothing up to position {positions}, which is all that the \
                 written file is for"
            ));
        }
        "linear" => config.rope_scaling = RopeScaling::Linear { factor: scaling.required("factor")? },
        "yarn" => config.rope_scaling = yarn(&scaling, original, config.max_seq_len)?,
        "llama3" => {
            rope.llama3 = Some(Llama3Scaling {
                factor: scaling.required("factor")?,
                low_freq_factor: scaling.required("low_freq_factor")?,
                high_freq_factor: scaling.required("high_freq_factor")?,
                original_context_length: original.unwrap_or(config.max_seq_len) as f64,
            });
        }
        kind => {
            let reason = "only default, linear, dynamic, yarn and llama3 are supported";
            return Err(scaling.refuse("rope_type", &kind, reason));
        }
    }
    Ok(rope)
}

/// What frequencies are divided by: Phi 3's factors, or what Llama 3's scaling makes of the base.
pub(super) fn factors(
    long: Option<RopeFactors>,
    llama3: Option<Llama3Scaling>,
    config: &Config,
) -> Result<RopeFactors> {
    let short = llama3.map(|scaling| scaling.factors(config.rope_dim, config.rope_theta)).transpose()?;
    Ok(long.unwrap_or(RopeFactors { short, long: None }))
}

/// Phi 3's factors, and what transformers takes for the magnitude where nothing says it.
fn long(scaling: &Object<'_>, original: usize, config: &Config) -> Result<(RopeScaling, RopeFactors)> {
    let factors = |key: &'static str| -> Result<Option<Vec<f32>>> {
        let said: &Vec<Value> = scaling.required(key)?;
        let wanted = config.rope_dim / 2;
        if said.len() != wanted {
            let reason = format!("must be {wanted}: one for each pair that is rotated");
            return Err(scaling.refuse(key, &format!("of {} numbers", said.len()), &reason));
        }
        let positive = |value: &Value| match value.as_f64().map(|factor| factor as f32) {
            Some(factor) if factor > 0.0 && factor.is_finite() => Ok(factor),
            _ => Err(scaling.refuse(key, value, "must be positive numbers")),
        };
        said.iter().map(positive).collect::<Result<_>>().map(Some)
    };
    let factors = RopeFactors { short: factors("short_factor")?, long: factors("long_factor")? };
    let factor = scaling.optional("factor")?.unwrap_or(config.max_seq_len as f64 / original as f64);
    let usual = || if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() };
    let magnitude = scaling.optional("attention_factor")?.unwrap_or_else(usual);
    Ok((RopeScaling::Long { original_context_length: original, magnitude }, factors))
}

fn yarn(scaling: &Object<'_>, original: Option<usize>, max_seq_len: usize) -> Result<RopeScaling> {
    let factor: f64 = match (scaling.optional("factor")?, original) {
        (Some(factor), _) => factor,
        // A factor that is null is the ratio of the contexts.
        (None, Some(original)) if scaling.map.contains_key("factor") => max_seq_len as f64 / original as f64,
        (None, _) => scaling.required("factor")?,
    };
    // Python takes 0 for nothing, too.
    let given = |key| -> Result<_> { Ok(scaling.optional::<f64>(key)?.filter(|&value| value != 0.0)) };
    let growth = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    let magnitude = match (scaling.optional("attention_factor")?, given("mscale")?, given("mscale_all_dim")?)
    {
        (Some(magnitude), _, _) => magnitude,
        (None, Some(mscale), Some(all_dim)) => growth(mscale) / growth(all_dim),
        // One of them alone counts for nothing.
        (None, _, _) => growth(1.0),
    };
    let (beta_fast, beta_slow) = (given("beta_fast")?.unwrap_or(32.0), given("beta_slow")?.unwrap_or(1.0));
    if beta_fast < beta_slow {
        let reason = format!("beta_slow is {beta_slow}, and must not be above it: are they swapped?");
        return Err(scaling.refuse("beta_fast", &beta_fast, &reason));
    }
    Ok(RopeScaling::Yarn {
        factor,
        original_context_length: original.unwrap_or(max_seq_len),
        beta_fast,
        beta_slow,
        magnitude,
    })
}
