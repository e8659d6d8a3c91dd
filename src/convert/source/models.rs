//! The models of Hugging Face's that run: what config.json calls each, and what transformers takes
//! where it says nothing.
//!
//! Source: `configuration_NAME.py` and `modeling_NAME.py` of each in the transformers repository.

use serde_json::Value;

use super::json::Object;
use crate::arch::{Architecture, GRANITE, LLAMA, MINICPM, MISTRAL3, OLMO2, QWEN2, QWEN3, SEED_OSS, SMOLLM3};
use crate::config::{Config, QueryGrowth};
use crate::error::{Error, ErrorKind, Result};

/// A row of the table.
#[derive(Debug)]
pub(super) struct HfModel {
    /// What `architectures` may say.
    classes: &'static [&'static str],
    /// What `model_type` says.
    pub(super) model_type: &'static str,
    /// As which it is written.
    pub(super) architecture: &'static Architecture,
    pub(super) n_kv_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    pub(super) max_seq_len: usize,
    pub(super) rope_theta: f64,
    pub(super) norm_eps: f64,
    /// Whether the classifier is the embeddings.
    pub(super) is_tied: bool,
    /// Which matrices have a bias: the part of their names after the layer's, and the setting that
    /// says so, unless all such models have it.
    pub(super) biases: &'static [(&'static str, Option<&'static str>)],
    /// Settings that count here and are refused of a Llama.
    pub(super) settings: &'static [&'static str],
    /// Sets what these settings say.
    pub(super) read: fn(&Object<'_>, &mut Config) -> Result<()>,
    pub(super) window: Window,
    /// Of a model that may have long RoPE factors: the original context where nothing says it.
    pub(super) long_rope: Option<usize>,
}

/// Whether attention has a window, and where that is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Window {
    /// It has none, whatever a file says.
    None,
    /// `sliding_window` says it, and if it isn't there, it is this.
    Of(Option<usize>),
    /// `sliding_window` says it, for all layers.
    OfAll,
    /// As `sliding_window` says, or else this, if `use_sliding_window` is true; in the layers from
    /// `max_window_layers` on, or else from this one.
    IfUsed(Option<usize>, usize),
}

const Q: &str = "self_attn.q_proj.bias";
const K: &str = "self_attn.k_proj.bias";
const V: &str = "self_attn.v_proj.bias";
const O: &str = "self_attn.o_proj.bias";

const ATTENTION: Option<&str> = Some("attention_bias");
const MLP: Option<&str> = Some("mlp_bias");
const LLAMA_BIASES: &[(&str, Option<&str>)] = &[
    (Q, ATTENTION),
    (K, ATTENTION),
    (V, ATTENTION),
    (O, ATTENTION),
    ("mlp.gate_proj.bias", MLP),
    ("mlp.up_proj.bias", MLP),
    ("mlp.down_proj.bias", MLP),
];

const MODELS: [HfModel; 11] = [
    LLAMA_MODEL,
    HfModel {
        classes: &["MistralForCausalLM"],
        model_type: "mistral",
        n_kv_heads: Some(8),
        max_seq_len: 131_072,
        biases: &[],
        window: Window::Of(Some(4096)),
        ..LLAMA_MODEL
    },
    HfModel {
        classes: &["Qwen2ForCausalLM"],
        model_type: "qwen2",
        architecture: &QWEN2,
        n_kv_heads: Some(32),
        max_seq_len: 32_768,
        biases: &[(Q, None), (K, None), (V, None)],
        window: Window::IfUsed(Some(4096), 28),
        ..LLAMA_MODEL
    },
    HfModel {
        classes: &["Qwen3ForCausalLM"],
        model_type: "qwen3",
        architecture: &QWEN3,
        n_kv_heads: Some(32),
        head_dim: Some(128),
        max_seq_len: 32_768,
        biases: LLAMA_BIASES.split_at(4).0,
        window: Window::IfUsed(Some(4096), 28),
        ..LLAMA_MODEL
    },
    HfModel {
        classes: &["GraniteForCausalLM"],
        model_type: "granite",
        architecture: &GRANITE,
        settings: &["embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"],
        read: |json, config| {
            let scale = |key: &str| -> Result<f32> {
                Ok(json.optional::<f64>(key)?.map_or(1.0, |scale| scale as f32))
            };
            config.embedding_scale = scale("embedding_multiplier")?;
            config.residual_scale = scale("residual_multiplier")?;
            config.attention_scale = Some(scale("attention_multiplier")?);
            config.logit_divisor = scale("logits_scaling")?;
            Ok(())
        },
        ..LLAMA_MODEL
    },
    HfModel {
        classes: &["MiniCPMForCausalLM"],
        model_type: "minicpm",
        architecture: &MINICPM,
        is_tied: true,
        biases: &[],
        settings: &["scale_emb", "scale_depth", "dim_model_base"],
        read: |json, config| {
            let depth: f64 = json.required("scale_depth")?;
            config.embedding_scale = json.required::<f64>("scale_emb")? as f32;
            config.residual_scale = (depth / (config.n_layers as f64).sqrt()) as f32;
            config.logit_divisor = (config.dim as f64 / json.required::<f64>("dim_model_base")?) as f32;
            Ok(())
        },
        ..LLAMA_MODEL
    },
    HfModel {
        classes: &["SmolLM3ForCausalLM"],
        model_type: "smollm3",
        architecture: &SMOLLM3,
        n_kv_heads: Some(4),
        max_seq_len: 32_768,
        rope_theta: 2e6,
        is_tied: true,
        settings: &["no_rope_layers", "no_rope_layer_interval"],
        read: no_rope_layers,
        window: Window::IfUsed(None, 0),
        ..LLAMA_MODEL
    },
    HfModel {
        classes: &["Olmo2ForCausalLM"],
        model_type: "olmo2",
        architecture: &OLMO2,
        norm_eps: 1e-5,
        biases: LLAMA_BIASES.split_at(4).0,
        ..LLAMA_MODEL
    },
    HfModel {
        classes: &["Ministral3ForCausalLM"],
        model_type: "ministral3",
        architecture: &MISTRAL3,
        n_kv_heads: Some(8),
        head_dim: Some(128),
        max_seq_len: 262_144,
        norm_eps: 1e-5,
        biases: &[],
        settings: &["llama_4_scaling_beta"],
        read: query_growth,
        window: Window::OfAll,
        ..LLAMA_MODEL
    },
    HfModel {
        classes: &["SeedOssForCausalLM"],
        model_type: "seed_oss",
        architecture: &SEED_OSS,
        n_kv_heads: Some(8),
        head_dim: Some(128),
        max_seq_len: 524_288,
        biases: &[(Q, ATTENTION), (K, ATTENTION), (V, ATTENTION), (O, Some("attention_out_bias"))],
        settings: &["attention_out_bias"],
        ..LLAMA_MODEL
    },
    // A Llama whose matrices are several in one.
    HfModel {
        classes: &["Phi3ForCausalLM"],
        model_type: "phi3",
        max_seq_len: 4096,
        norm_eps: 1e-5,
        biases: &[],
        window: Window::OfAll,
        long_rope: Some(4096),
        ..LLAMA_MODEL
    },
];

/// How queries grow with their position.
fn query_growth(json: &Object<'_>, config: &mut Config) -> Result<()> {
    let filled = |name| Ok::<_, Error>(json.object(name)?.filter(|rope| !rope.map.is_empty()));
    // The older name counts where both are there: see `rope.rs`.
    let Some(rope) = filled("rope_scaling")?.or(filled("rope_parameters")?) else {
        let reason = "without it a model of this type has YaRN and queries that grow: it must be written out";
        return Err(json.refuse("rope_parameters", &"absent", reason));
    };
    let Some(beta) = rope.optional::<f64>("llama_4_scaling_beta")?.filter(|&beta| beta != 0.0) else {
        return Ok(());
    };
    let length = rope.required("original_max_position_embeddings")?;
    config.query_growth = Some(QueryGrowth { beta: f64::from(beta as f32), length });
    Ok(())
}

/// Checks that each fourth layer doesn't rotate, which is all that GGUF can say.
fn no_rope_layers(json: &Object<'_>, config: &mut Config) -> Result<()> {
    let reason = "only a model of which each fourth layer has no RoPE is supported";
    let Some(layers) = json.optional::<&Vec<Value>>("no_rope_layers")? else {
        return match json.optional::<usize>("no_rope_layer_interval")?.unwrap_or(4) {
            4 => Ok(()),
            interval => Err(json.refuse("no_rope_layer_interval", &interval, reason)),
        };
    };
    let is_right = |(l, flag): (usize, &Value)| flag.as_u64() == Some(config.rotates(l).into());
    if layers.len() >= config.n_layers && layers.iter().take(config.n_layers).enumerate().all(is_right) {
        return Ok(());
    }
    Err(json.refuse("no_rope_layers", &"another pattern", reason))
}

const LLAMA_MODEL: HfModel = HfModel {
    classes: &["LlamaForCausalLM", "LLaMAForCausalLM"],
    model_type: "llama",
    architecture: &LLAMA,
    n_kv_heads: None,
    head_dim: None,
    max_seq_len: 2048,
    rope_theta: 1e4,
    norm_eps: 1e-6,
    is_tied: false,
    biases: LLAMA_BIASES,
    settings: &[],
    read: |_, _| Ok(()),
    window: Window::None,
    long_rope: None,
};

/// The row of a model: `model_type` decides, as in transformers, if `architectures` has nothing
/// that isn't known.
pub(super) fn find(json: &Object<'_>) -> Result<&'static HfModel> {
    static ROWS: [HfModel; MODELS.len()] = MODELS;
    let names = json.optional::<&Vec<Value>>("architectures")?.filter(|names| !names.is_empty());
    let of_class = |name: &Value| ROWS.iter().find(|row| row.classes.iter().any(|class| *name == **class));
    let unknown = names.into_iter().flatten().find(|name| of_class(name).is_none());
    let kind = json.optional::<&str>("model_type")?;
    let of_kind = kind.and_then(|kind| ROWS.iter().find(|row| row.model_type == kind));
    let of_names = names.and_then(|names| of_class(&names[0]));
    let refused = match (unknown, names, kind) {
        (Some(name), ..) => Some(name.to_string()),
        (None, None, None) => json.required::<&str>("model_type").map(|_| None)?,
        (None, None, Some(kind)) if of_kind.is_none() => Some(kind.into()),
        _ => None,
    };
    if let Some(found) = refused {
        let supported = ROWS.iter().flat_map(|row| row.classes).copied().collect();
        let found = found.trim_matches('"').into();
        return Err(ErrorKind::UnsupportedArchitecture { found, supported }.into());
    }
    // transformers goes by the type. One that it doesn't know is passed over if the class is known.
    Ok(of_kind.or(of_names).unwrap_or(&ROWS[0]))
}
