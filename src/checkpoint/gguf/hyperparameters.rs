//! A model's hyperparameters, from the keys of a GGUF file.

use super::metadata::{Metadata, wrong_type};
use super::value::{FromValue, Value};
use super::{keys as key, settings};
use crate::arch::{
    ATTENTION_SCALE, Architecture, EMBEDDING_SCALE, HAS_ROPE, LOGIT_SCALE, LongRope, QUERY_GROWTH,
    RESIDUAL_SCALE, architecture_names,
};
use crate::config::{Config, MAX_LAYERS, QueryGrowth, RopeScaling};
use crate::error::{Error, ErrorKind, Result};

/// What kind of model the file holds, if it is one that runs.
pub(super) fn architecture(metadata: &Metadata<'_>) -> Result<&'static Architecture> {
    let found: String = metadata.required(key::ARCHITECTURE)?;
    Architecture::named(&found).ok_or_else(|| {
        ErrorKind::UnsupportedArchitecture { found, supported: architecture_names().into() }.into()
    })
}

/// The hyperparameters, not yet validated. `vocab_size` is not taken from the keys: the embeddings'
/// rows tell it.
///
/// [`settings`] has the table of all keys. Of those that aren't known a note is added.
///
/// `attention.sliding_window` is one that Mistral 7B's first version may have. llama.cpp doesn't
/// apply it to this architecture; the model was made with it.
pub(super) fn config(
    metadata: &Metadata<'_>,
    architecture: &'static Architecture,
    vocab_size: usize,
    has_long_factors: bool,
    notes: &mut Vec<String>,
) -> Result<Config> {
    let keys = Keys { metadata, architecture };
    notes.extend(settings::go_through(metadata, architecture)?);
    let dim = keys.required(key::DIM)?;
    let n_layers: usize = keys.required(key::N_LAYERS)?;
    let per_layer = PerLayer { keys: &keys, n_layers };
    let n_heads = per_layer.required(key::N_HEADS)?;
    let n_kv_heads = per_layer.optional(key::N_KV_HEADS)?.unwrap_or(n_heads);
    let head_dim = match keys.optional(key::HEAD_DIM)? {
        Some(head_dim) => head_dim,
        None if n_heads != 0 && dim % n_heads == 0 => dim / n_heads,
        None => return Err(Error::config("n_heads", n_heads, format!("must divide dim, {dim}"))),
    };
    if let Some(found) = keys.optional::<usize>(key::VALUE_DIM)?.filter(|&found| found != head_dim) {
        let reason = format!("values as wide as keys, {head_dim}, are all that is supported");
        return Err(Error::config(key::VALUE_DIM, found, reason));
    }
    let hidden_dim = per_layer.required(key::HIDDEN_DIM)?;
    let max_seq_len = keys.required(key::MAX_SEQ_LEN)?;
    let plain = Config::new(dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len);
    let mut config = Config {
        head_dim,
        rope_dim: keys.optional(key::ROPE_DIM)?.unwrap_or(head_dim),
        norm_eps: keys.required::<f64>(key::NORM_EPS)? as f32,
        rope_theta: keys.optional(key::ROPE_THETA)?.unwrap_or(1e4),
        rope_scaling: rope_scaling(&keys, max_seq_len, has_long_factors)?,
        ..plain
    };
    architecture.configure(&mut config);
    scales(&keys, &mut config)?;
    config.sliding_window = keys.optional(key::SLIDING_WINDOW)?.filter(|&window| window != 0);
    if config.sliding_window.is_some() {
        config.windowed_layers = windowed_layers(&keys, n_layers)?;
    }
    Ok(config)
}

/// Which layers have the window: a flag for each; or of how many layers the last one hasn't.
fn windowed_layers(keys: &Keys<'_>, n_layers: usize) -> Result<Vec<bool>> {
    const EXPECTED: &str = "an integer, or true or false for each layer";
    let Some(value) = keys.get(key::SLIDING_WINDOW_PATTERN) else { return Ok(Vec::new()) };
    let wrong = || wrong_type(&keys.name(key::SLIDING_WINDOW_PATTERN), EXPECTED, value);
    if let Some(items) = value.items().filter(|items| items.len() == n_layers) {
        return items.map(|item| bool::from_value(&item)).collect::<Option<_>>().ok_or_else(wrong);
    }
    match usize::from_value(value).ok_or_else(wrong)? {
        0 => Ok(Vec::new()),
        every if n_layers <= MAX_LAYERS => Ok((0..n_layers).map(|l| l % every != every - 1).collect()),
        _ => Ok(Vec::new()), // they are refused
    }
}

/// Sets the scales, of an architecture whose keys say them: 0 stands for none, as in llama.cpp.
fn scales(keys: &Keys<'_>, config: &mut Config) -> Result<()> {
    let own = |key: &str| keys.architecture.keys.contains(&key);
    let scale = |key: &'static str, usual: f32| -> Result<f32> {
        let said = if own(key) { keys.optional::<f64>(key)? } else { None };
        Ok(said.map_or(usual, |scale| if scale == 0.0 { 1.0 } else { scale as f32 }))
    };
    config.embedding_scale = scale(EMBEDDING_SCALE, config.embedding_scale)?;
    config.residual_scale = scale(RESIDUAL_SCALE, config.residual_scale)?;
    config.logit_divisor = scale(LOGIT_SCALE, config.logit_divisor)?;
    if own(ATTENTION_SCALE) {
        let said = keys.optional::<f64>(ATTENTION_SCALE)?.filter(|&scale| scale != 0.0);
        config.attention_scale = said.map(|scale| scale as f32);
    }
    let beta = if own(QUERY_GROWTH) { keys.optional::<f64>(QUERY_GROWTH)?.unwrap_or(0.0) } else { 0.0 };
    if beta != 0.0 {
        let length = keys.optional(key::ROPE_ORIGINAL_CONTEXT)?.unwrap_or(config.max_seq_len);
        config.query_growth = Some(QueryGrowth { beta, length });
    }
    if own(HAS_ROPE) && keys.optional(HAS_ROPE)? == Some(false) {
        config.no_rope_interval = Some(1);
    }
    Ok(())
}

/// llama.cpp's rules: without a type a factor means linear scaling, and a factor of 0 means none.
///
/// `YaRN`'s betas and its logarithmic multiplier, which llama.cpp reads for other architectures
/// alone, count here too: converters write them where the model was trained with them.
///
/// llama.cpp would divide frequencies by a factor once more with long `RoPE`: no file has one.
fn rope_scaling(keys: &Keys<'_>, max_seq_len: usize, has_long_factors: bool) -> Result<RopeScaling> {
    let kind = keys.optional::<String>(key::ROPE_SCALING_TYPE)?.unwrap_or_else(|| "linear".into());
    // The second name is older.
    let factor = match keys.optional(key::ROPE_SCALING_FACTOR)? {
        Some(factor) => Some(factor),
        None => keys.optional(key::ROPE_SCALE_LINEAR)?,
    };
    let factor = factor.filter(|&factor: &f64| factor != 0.0).unwrap_or(1.0);
    let attn_factor = keys.optional(key::ROPE_ATTN_FACTOR)?.unwrap_or(1.0);
    let no_attn_factor = || match attn_factor {
        1.0 => Ok(()),
        _ => Err(Error::config(key::ROPE_ATTN_FACTOR, attn_factor, "is supported with yarn alone")),
    };
    let by_tensors = has_long_factors && keys.architecture.long_rope == LongRope::ByTensors;
    match &*kind {
        "none" | "linear" if by_tensors => long_rope(keys, max_seq_len, factor, attn_factor),
        "longrope" if keys.architecture.long_rope != LongRope::No => {
            long_rope(keys, max_seq_len, factor, attn_factor)
        }
        "none" => no_attn_factor().map(|()| RopeScaling::None),
        "linear" if factor == 1.0 => no_attn_factor().map(|()| RopeScaling::None),
        "linear" => no_attn_factor().map(|()| RopeScaling::Linear { factor }),
        "yarn" => {
            if let Some(found) = keys.optional::<f64>(key::YARN_EXT_FACTOR)?.filter(|&x| x != 1.0) {
                return Err(Error::config(key::YARN_EXT_FACTOR, found, "only 1 is supported"));
            }
            let log_multiplier = keys.optional(key::YARN_LOG_MULTIPLIER)?.unwrap_or(0.0);
            let growth = |multiplier: f64| 1.0 + 0.1 * multiplier * factor.max(1.0).ln();
            Ok(RopeScaling::Yarn {
                factor,
                original_context_length: keys
                    .optional(key::ROPE_ORIGINAL_CONTEXT)?
                    .filter(|&positions| positions != 0)
                    .unwrap_or(max_seq_len),
                beta_fast: keys.optional(key::YARN_BETA_FAST)?.unwrap_or(32.0),
                beta_slow: keys.optional(key::YARN_BETA_SLOW)?.unwrap_or(1.0),
                magnitude: growth(1.0) / growth(log_multiplier) * attn_factor,
            })
        }
        _ => Err(Error::config(key::ROPE_SCALING_TYPE, kind, "only none, linear and yarn are supported")),
    }
}

fn long_rope(keys: &Keys<'_>, max_seq_len: usize, factor: f64, magnitude: f64) -> Result<RopeScaling> {
    if factor != 1.0 {
        return Err(Error::config(key::ROPE_SCALING_FACTOR, factor, "only 1 is supported with longrope"));
    }
    let original_context_length = keys.optional(key::ROPE_ORIGINAL_CONTEXT)?.unwrap_or(max_seq_len);
    Ok(RopeScaling::Long { original_context_length, magnitude })
}

/// The keys of the architecture, without its name.
#[derive(Debug)]
struct Keys<'a> {
    metadata: &'a Metadata<'a>,
    architecture: &'static Architecture,
}

impl<'a> Keys<'a> {
    fn name(&self, key: &str) -> String {
        self.architecture.key(key)
    }

    fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.metadata.get(&self.name(key))
    }

    fn optional<T: FromValue>(&self, key: &str) -> Result<Option<T>> {
        self.metadata.optional(&self.name(key))
    }

    fn required<T: FromValue>(&self, key: &str) -> Result<T> {
        self.metadata.required(&self.name(key))
    }
}

/// Keys that may give a number for each layer. Here all layers must have the same.
#[derive(Debug)]
struct PerLayer<'a> {
    keys: &'a Keys<'a>,
    n_layers: usize,
}

impl PerLayer<'_> {
    fn optional(&self, key: &'static str) -> Result<Option<usize>> {
        const EXPECTED: &str = "an integer, the same for every layer";
        let Some(value) = self.keys.get(key) else { return Ok(None) };
        let Some(items) = value.items() else { return self.keys.optional(key) };
        let wrong = || wrong_type(&self.keys.name(key), EXPECTED, value);
        if items.len() != self.n_layers {
            return Err(wrong());
        }
        let mut widths = items.map(|item| usize::from_value(&item));
        let first = widths.next().flatten().ok_or_else(wrong)?;
        if widths.all(|width| width == Some(first)) { Ok(Some(first)) } else { Err(wrong()) }
    }

    fn required(&self, key: &'static str) -> Result<usize> {
        self.optional(key)?.ok_or_else(|| Error::missing_key(self.keys.name(key)))
    }
}
