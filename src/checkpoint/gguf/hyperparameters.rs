//! A Llama's hyperparameters, from the keys of a GGUF file.

use super::metadata::{Metadata, wrong_type};
use super::value::{FromValue, Value};
use super::{keys as key, settings};
use crate::config::{Config, RopeScaling};
use crate::error::{Error, ErrorKind, Result};

/// Checks that the file holds a Llama.
pub(super) fn check_architecture(metadata: &Metadata<'_>) -> Result<()> {
    let found: String = metadata.required(key::ARCHITECTURE)?;
    if found == key::LLAMA { Ok(()) } else { Err(ErrorKind::UnsupportedArchitecture { found }.into()) }
}

/// The hyperparameters, not yet validated. `vocab_size` is not taken from the keys: the embeddings'
/// rows tell it.
///
/// [`settings`] has the table of all keys. Of those that aren't known a note is added.
///
/// `attention.sliding_window` is one that Mistral 7B's first version may have. llama.cpp doesn't
/// apply it to this architecture; here the context ends with it, and within it there is no
/// difference.
pub(super) fn config(metadata: &Metadata<'_>, vocab_size: usize, notes: &mut Vec<String>) -> Result<Config> {
    let keys = Keys(metadata);
    notes.extend(settings::go_through(metadata, key::LLAMA)?);
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
    let max_seq_len = keys.required(key::MAX_SEQ_LEN)?;
    let mut config = Config {
        dim,
        hidden_dim: per_layer.required(key::HIDDEN_DIM)?,
        n_layers,
        n_heads,
        n_kv_heads,
        head_dim,
        rope_dim: keys.optional(key::ROPE_DIM)?.unwrap_or(head_dim),
        vocab_size,
        max_seq_len,
        norm_eps: keys.required::<f64>(key::NORM_EPS)? as f32,
        rope_theta: keys.optional(key::ROPE_THETA)?.unwrap_or(1e4),
        rope_scaling: rope_scaling(&keys, max_seq_len)?,
        sliding_window: None,
    };
    if let Some(window) = keys.optional(key::SLIDING_WINDOW)?.filter(|&window| window != 0) {
        notes.extend(config.keep_inside_window(window));
    }
    Ok(config)
}

/// llama.cpp's rules: without a type a factor means linear scaling, and a factor of 0 means none.
///
/// `YaRN`'s betas and its logarithmic multiplier, which llama.cpp reads for other architectures
/// alone, count here too: converters write them where the model was trained with them.
fn rope_scaling(keys: &Keys<'_>, max_seq_len: usize) -> Result<RopeScaling> {
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
    match &*kind {
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

/// The keys of the architecture, without its name.
#[derive(Debug)]
struct Keys<'a>(&'a Metadata<'a>);

impl<'a> Keys<'a> {
    fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.0.get(&key::llama(key))
    }

    fn optional<T: FromValue>(&self, key: &str) -> Result<Option<T>> {
        self.0.optional(&key::llama(key))
    }

    fn required<T: FromValue>(&self, key: &str) -> Result<T> {
        self.0.required(&key::llama(key))
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
        let wrong = || wrong_type(&key::llama(key), EXPECTED, value);
        if items.len() != self.n_layers {
            return Err(wrong());
        }
        let mut widths = items.map(|item| usize::from_value(&item));
        let first = widths.next().flatten().ok_or_else(wrong)?;
        if widths.all(|width| width == Some(first)) { Ok(Some(first)) } else { Err(wrong()) }
    }

    fn required(&self, key: &'static str) -> Result<usize> {
        self.optional(key)?.ok_or_else(|| Error::missing_key(key::llama(key)))
    }
}
