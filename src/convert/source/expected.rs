//! What config.json or params.json says a model computes, derived once more, straight from the file
//! and by transformers' own steps: the check of a converted file holds it against this.
//!
//! Nothing here is shared with what the conversion reads, so a setting that only one of the two
//! honors is found.
//!
//! Source: `modeling_rope_utils.py` in the transformers repository.

use std::f64::consts::TAU;

use serde_json::{Map, Value};

use super::json::whole;

/// What a converted file must compute with.
#[derive(Debug)]
pub(crate) struct Expected {
    /// By how much each pair of a head is rotated from one position to the next: in every context,
    /// or in those of no more positions than `short_context`, and then in longer ones.
    pub(crate) frequencies: Vec<Vec<f64>>,
    pub(crate) short_context: Option<u64>,
    /// What cosines and sines are multiplied with.
    pub(crate) magnitude: f64,
    pub(crate) norm_eps: f64,
    /// What embeddings, what blocks add, and products of queries and keys are multiplied with, and
    /// what logits are divided by.
    pub(crate) scales: [f64; 4],
    /// Positions that a query sees, if not all.
    pub(crate) window: Option<u64>,
    /// Layers, heads, heads of keys, and the width inside the feed-forward network.
    pub(crate) counts: [u64; 4],
}

/// A number of an object, if it is there and one.
fn number(map: &Map<String, Value>, key: &str) -> Option<f64> {
    map.get(key).and_then(Value::as_f64)
}

impl Expected {
    /// Of a file whose settings were all honored; `None` if it lacks what every one has.
    pub(crate) fn of(json: &Map<String, Value>) -> Option<Self> {
        let count = |key: &str| json.get(key).and_then(whole);
        let (dim, heads) = (count("hidden_size")?, count("num_attention_heads")?);
        let kinds = json.get("architectures").and_then(Value::as_array).map_or(&[][..], |kinds| kinds);
        let class = kinds.first().and_then(Value::as_str).unwrap_or_default().replace("ForCausalLM", "");
        let kind = json.get("model_type").and_then(Value::as_str).map_or(class.to_lowercase(), str::to_owned);
        // Heads of keys, their width and positions, where nothing says them.
        let (usual_kv_heads, usual_head_dim, usual_positions) = match &*kind {
            "mistral" => (8, dim / heads.max(1), 131_072),
            "qwen2" => (32, dim / heads.max(1), 32_768),
            "qwen3" => (32, 128, 32_768),
            "phi3" => (heads, dim / heads.max(1), 4096),
            "seed_oss" => (8, 128, 524_288),
            "ministral3" => (8, 128, 262_144),
            "smollm3" => (4, dim / heads.max(1), 32_768),
            _ => (heads, dim / heads.max(1), 2048),
        };
        let is_null = |key: &str| json.get(key).is_some_and(Value::is_null);
        let usual_kv_heads = if is_null("num_key_value_heads") { heads } else { usual_kv_heads };
        let head_dim = count("head_dim").unwrap_or(usual_head_dim);
        let positions = count("max_position_embeddings").or(count("max_sequence_length"));
        let positions = positions.unwrap_or(usual_positions);
        let positions = positions.max(count("max_sequence_length").unwrap_or(0));
        let usual_eps = if matches!(&*kind, "olmo2" | "ministral3" | "phi3") { 1e-5 } else { 1e-6 };
        let usual_theta = if kind == "smollm3" { 2e6 } else { 1e4 };
        let is_long = kind == "phi3" && matches!(rope_type(json), "longrope" | "su" | "yarn");
        let short_context = is_long.then(|| count("original_max_position_embeddings").unwrap_or(4096));
        let (frequencies, magnitude) = match short_context {
            Some(original) => long_rope(json, head_dim, positions as f64, original as f64)?,
            None => {
                let (frequencies, magnitude) = rope(json, head_dim, positions as f64, usual_theta)?;
                (vec![frequencies], magnitude)
            }
        };
        let n_layers = count("num_hidden_layers")?;
        Some(Self {
            frequencies,
            short_context,
            magnitude,
            scales: scales(json, &kind, dim, n_layers, head_dim),
            norm_eps: number(json, "rms_norm_eps").unwrap_or(usual_eps),
            window: window(json, &kind, n_layers),
            counts: [
                n_layers,
                heads,
                count("num_key_value_heads").unwrap_or(usual_kv_heads),
                count("intermediate_size")?,
            ],
        })
    }
}

impl Expected {
    /// Of Meta's or Mistral's params.json, beside weights that tell the width inside the
    /// feed-forward network.
    pub(crate) fn of_params(json: &Map<String, Value>, hidden_dim: u64) -> Option<Self> {
        let count = |key: &str| json.get(key).and_then(whole);
        let (dim, layers, heads) = (count("dim")?, count("n_layers")?, count("n_heads")?);
        let kv_heads = count("n_kv_heads").unwrap_or(heads);
        let given = |key: &&str| json.get(*key).is_some_and(|value| !value.is_null());
        let windows =
            ["sliding_window", "_sliding_window"].iter().find(|key| given(key)).map(|key| &json[*key]);
        let window = windows.and_then(|window| match window {
            Value::Array(windows) => windows.iter().filter_map(whole).min(),
            window => whole(window),
        });
        let is_mistral = ["head_dim", "sliding_window", "_sliding_window", "model_type"].iter().any(given);
        let usual = if is_mistral && window.is_none() { 1e6 } else { 1e4 };
        let theta = number(json, "rope_theta").unwrap_or(usual);
        let head_dim = count("head_dim").unwrap_or(dim / heads.max(1));
        let plain = (0..head_dim / 2).map(|i| 1.0 / theta.powf(2.0 * i as f64 / head_dim as f64));
        let is_scaled = json.get("use_scaled_rope") == Some(&Value::Bool(true));
        let of_shape = if (dim, layers) == (2048, 16) || (dim, layers) == (3072, 28) { 32.0 } else { 8.0 };
        let factor = number(json, "rope_scaling_factor").unwrap_or(of_shape);
        let low = number(json, "low_freq_factor").unwrap_or(1.0);
        let high = number(json, "high_freq_factor").or_else(|| number(json, "rope_high_freq_factor"));
        let scaled = |it: f64| llama3(it, factor, low, high.unwrap_or(4.0), 8192.0);
        Some(Self {
            frequencies: vec![plain.map(|it| if is_scaled { scaled(it) } else { it }).collect()],
            short_context: None,
            magnitude: 1.0,
            scales: [1.0, 1.0, 1.0 / (head_dim as f64).sqrt(), 1.0],
            norm_eps: number(json, "norm_eps")?,
            window,
            counts: [layers, heads, kv_heads, hidden_dim],
        })
    }
}

/// What is scaled, and by how much.
fn scales(json: &Map<String, Value>, kind: &str, dim: u64, n_layers: u64, head_dim: u64) -> [f64; 4] {
    let said = |key: &str| number(json, key).unwrap_or(1.0);
    let attention = 1.0 / (head_dim as f64).sqrt();
    match kind {
        "granite" => {
            ["embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"]
                .map(said)
        }
        "minicpm" => {
            let residual = said("scale_depth") / (n_layers as f64).sqrt();
            [said("scale_emb"), residual, attention, dim as f64 / said("dim_model_base")]
        }
        _ => [1.0, 1.0, attention, 1.0],
    }
}

/// The smallest window of the layers: of each of a Mistral, unless some are said to have none; of a
/// Qwen's last layers, if it is said to be used.
fn window(json: &Map<String, Value>, kind: &str, n_layers: u64) -> Option<u64> {
    let is_used = match kind {
        "mistral" | "ministral3" | "phi3" => true,
        "qwen2" | "qwen3" | "smollm3" => json.get("use_sliding_window") == Some(&Value::Bool(true)),
        _ => false,
    };
    let first = if matches!(kind, "mistral" | "ministral3" | "phi3" | "smollm3") {
        0
    } else {
        json.get("max_window_layers").and_then(whole).unwrap_or(28)
    };
    let kinds = json.get("layer_types").and_then(Value::as_array);
    let is_full =
        kinds.map_or(first >= n_layers, |kinds| kinds.iter().all(|kind| *kind == *"full_attention"));
    match json.get("sliding_window") {
        _ if is_full || !is_used => None,
        None => (!matches!(kind, "smollm3" | "ministral3" | "phi3")).then_some(4096),
        Some(window) => whole(window),
    }
}

/// How rotary frequencies are scaled, if anything says so.
fn scaling(json: &Map<String, Value>) -> Option<&Map<String, Value>> {
    let filled = |key: &str| json.get(key).and_then(Value::as_object).filter(|map| !map.is_empty());
    filled("rope_scaling").or_else(|| filled("rope_parameters"))
}

fn rope_type(json: &Map<String, Value>) -> &str {
    let text = |key: &str| scaling(json).and_then(|scaling| scaling.get(key)).and_then(Value::as_str);
    text("rope_type").or_else(|| text("type")).unwrap_or("default")
}

/// Phi 3's rotary frequencies in short contexts and in long ones, and what cosines and sines are
/// multiplied with.
fn long_rope(
    json: &Map<String, Value>,
    head_dim: u64,
    positions: f64,
    original: f64,
) -> Option<(Vec<Vec<f64>>, f64)> {
    let scaling = scaling(json)?;
    let theta = number(scaling, "rope_theta").or_else(|| number(json, "rope_theta")).unwrap_or(1e4);
    let divided = |key: &str| -> Option<Vec<f64>> {
        let factors = scaling.get(key)?.as_array()?.iter();
        let power = |i: usize| theta.powf((2 * i) as f64 / head_dim as f64);
        factors.enumerate().map(|(i, factor)| Some(1.0 / (factor.as_f64()? * power(i)))).collect()
    };
    let factor = number(scaling, "factor").unwrap_or(positions / original);
    let magnitude = number(scaling, "attention_factor")
        .unwrap_or_else(|| if factor > 1.0 { (1.0 + factor.ln() / original.ln()).sqrt() } else { 1.0 });
    Some((vec![divided("short_factor")?, divided("long_factor")?], magnitude))
}

/// The rotary frequencies, and what cosines and sines are multiplied with.
fn rope(
    json: &Map<String, Value>,
    head_dim: u64,
    positions: f64,
    usual_theta: f64,
) -> Option<(Vec<f64>, f64)> {
    let none = Map::new();
    let scaling = scaling(json).unwrap_or(&none);
    let theta = number(scaling, "rope_theta").or_else(|| number(json, "rope_theta")).unwrap_or(usual_theta);
    let dim = head_dim as f64;
    let plain: Vec<f64> = (0..head_dim / 2).map(|i| 1.0 / theta.powf(2.0 * i as f64 / dim)).collect();
    let original = number(json, "original_max_position_embeddings")
        .or_else(|| number(scaling, "original_max_position_embeddings"))
        .unwrap_or(positions);
    let factor = number(scaling, "factor").unwrap_or(positions / original);
    match rope_type(json) {
        "linear" => Some((plain.iter().map(|frequency| frequency / factor).collect(), 1.0)),
        "llama3" => {
            let (low, high) = (number(scaling, "low_freq_factor")?, number(scaling, "high_freq_factor")?);
            Some((plain.into_iter().map(|it| llama3(it, factor, low, high, original)).collect(), 1.0))
        }
        "yarn" => {
            let beta = |key: &str, usual: f64| number(scaling, key).filter(|&it| it != 0.0).unwrap_or(usual);
            let corrected = |rotations: f64| dim * (original / (rotations * TAU)).ln() / (2.0 * theta.ln());
            let low = corrected(beta("beta_fast", 32.0)).floor().max(0.0);
            let high = corrected(beta("beta_slow", 1.0)).ceil().min(dim - 1.0);
            let high = if low == high { high + 0.001 } else { high };
            let mixed = |(i, frequency): (usize, f64)| {
                let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                frequency / factor * ramp + frequency * (1.0 - ramp)
            };
            Some((plain.into_iter().enumerate().map(mixed).collect(), yarn_magnitude(scaling, factor)))
        }
        _ => Some((plain, 1.0)),
    }
}

fn llama3(frequency: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    let wavelength = TAU / frequency;
    if wavelength < original / high {
        frequency
    } else if wavelength > original / low {
        frequency / factor
    } else {
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

fn yarn_magnitude(scaling: &Map<String, Value>, factor: f64) -> f64 {
    let scale = |mscale: f64| if factor > 1.0 { 1.0 + 0.1 * mscale * factor.ln() } else { 1.0 };
    let truthy = |key: &str| number(scaling, key).filter(|&value| value != 0.0);
    match (number(scaling, "attention_factor"), truthy("mscale"), truthy("mscale_all_dim")) {
        (Some(given), ..) => given,
        (None, Some(mscale), Some(all)) => scale(mscale) / scale(all),
        _ => scale(1.0),
    }
}
