//! The architectures that run, as a table: what each is called in files, and in what it differs
//! from Llama. Everything else goes by the numbers of a [`Config`], and knows no names.

use super::TensorId;
use crate::config::{Config, QkNorm, RopePairs};

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// GGUF's name, with which the keys of hyperparameters begin, too.
    pub(crate) name: &'static str,
    /// What RoPE rotates together in GGUF files.
    rope_pairs: RopePairs,
    qk_norm: QkNorm,
    no_rope_interval: Option<usize>,
    norms_after: bool,
    pub(crate) long_rope: LongRope,
    /// Keys of GGUF files that count here and are refused, or change nothing, of a Llama.
    pub(crate) keys: &'static [&'static str],
    /// A tensor that has another name in GGUF files, and that name.
    renamed: Option<(&'static str, &'static str)>,
    /// A key that is refused here, unless it says nothing, and the reason.
    pub(crate) refused: Option<(&'static str, &'static str)>,
    /// What files that lack some of these keys mean.
    defaults: fn(&mut Config),
    /// Whether its GGUF files have some matrices as several in one: see [`FUSED`].
    #[cfg_attr(not(feature = "convert"), allow(dead_code, reason = "conversion asks for it alone"))]
    pub(crate) is_fused: bool,
}

/// Whether rotary frequencies may have other factors in long contexts, and what says so in GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LongRope {
    No,
    /// The type of RoPE's scaling.
    ByType,
    /// The type, or the factors' tensors alone.
    ByTensors,
}

/// A Llama in all except its name.
const fn like_llama(name: &'static str) -> Architecture {
    Architecture {
        name,
        rope_pairs: RopePairs::Adjacent,
        qk_norm: QkNorm::None,
        no_rope_interval: None,
        norms_after: false,
        long_rope: LongRope::No,
        keys: &[],
        renamed: None,
        refused: None,
        defaults: |_| {},
        is_fused: false,
    }
}

pub(crate) static LLAMA: Architecture = Architecture { long_rope: LongRope::ByType, ..like_llama("llama") };

/// Qwen 2 and 2.5, and what was made from them: queries, keys and values have biases.
pub(crate) static QWEN2: Architecture = Architecture { rope_pairs: RopePairs::Halves, ..like_llama("qwen2") };

pub(crate) static QWEN3: Architecture =
    Architecture { rope_pairs: RopePairs::Halves, qk_norm: QkNorm::Heads, ..like_llama("qwen3") };

pub(crate) static GRANITE: Architecture = Architecture {
    keys: &[EMBEDDING_SCALE, RESIDUAL_SCALE, ATTENTION_SCALE, LOGIT_SCALE, HAS_ROPE],
    ..like_llama("granite")
};

/// `MiniCPM` 1 and 2. Early files lack the keys: those models have these scales.
pub(crate) static MINICPM: Architecture = Architecture {
    keys: &[EMBEDDING_SCALE, RESIDUAL_SCALE, LOGIT_SCALE],
    defaults: |config| {
        config.embedding_scale = 12.0;
        config.residual_scale = (1.4 / (config.n_layers as f64).sqrt()) as f32;
        config.logit_divisor = config.dim as f32 / 256.0;
    },
    ..like_llama("minicpm")
};

pub(crate) static SMOLLM3: Architecture = Architecture { no_rope_interval: Some(4), ..like_llama("smollm3") };

/// `OLMo` 2: norms stand after each block, and queries and keys are normed as a whole.
pub(crate) static OLMO2: Architecture = Architecture {
    rope_pairs: RopePairs::Halves,
    qk_norm: QkNorm::Whole,
    norms_after: true,
    refused: Some((
        "attention.sliding_window",
        "OLMo 3, whose layers with a window rotate otherwise, is not supported",
    )),
    ..like_llama("olmo2")
};

/// Ministral 3: queries grow with their position.
pub(crate) static MISTRAL3: Architecture = Architecture { keys: &[QUERY_GROWTH], ..like_llama("mistral3") };

/// `Seed-OSS`: queries, keys and values have biases.
pub(crate) static SEED_OSS: Architecture = Architecture {
    rope_pairs: RopePairs::Halves,
    renamed: Some(("ffn_norm", "post_attention_norm")),
    ..like_llama("seed_oss")
};

/// Phi 3: some matrices are several in one. Hugging Face's becomes a Llama.
static PHI3: Architecture = Architecture {
    rope_pairs: RopePairs::Halves,
    long_rope: LongRope::ByTensors,
    is_fused: true,
    ..like_llama("phi3")
};

/// Tensors of GGUF files that are several in one, and these, whose rows stand one after another:
/// the names after the layer's.
pub(crate) static FUSED: [(&str, &[&str]); 2] =
    [("attn_qkv", &["attn_q", "attn_k", "attn_v"]), ("ffn_up", &["ffn_gate", "ffn_up"])];

static ALL: [&Architecture; 10] =
    [&LLAMA, &QWEN2, &QWEN3, &GRANITE, &MINICPM, &SMOLLM3, &OLMO2, &MISTRAL3, &SEED_OSS, &PHI3];

// Keys that count for some alone, without the architecture's name before them.
pub(crate) const EMBEDDING_SCALE: &str = "embedding_scale";
pub(crate) const RESIDUAL_SCALE: &str = "residual_scale";
pub(crate) const ATTENTION_SCALE: &str = "attention.scale";
pub(crate) const LOGIT_SCALE: &str = "logit_scale";
pub(crate) const QUERY_GROWTH: &str = "attention.temperature_scale";
/// Of a Granite it says whether any layer rotates queries and keys.
pub(crate) const HAS_ROPE: &str = "rope.scaling.finetuned";

/// Their names in GGUF files.
pub(crate) fn architecture_names() -> [&'static str; 10] {
    ALL.map(|row| row.name)
}

impl Architecture {
    /// The one of this name in GGUF files.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        ALL.into_iter().find(|row| row.name == name)
    }

    /// The whole name of a hyperparameter's key.
    pub(crate) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    /// A tensor's name in its GGUF files.
    pub(crate) fn tensor(&self, id: TensorId) -> String {
        let name = id.gguf();
        let Some((from, to)) = self.renamed else { return name };
        name.replace(&format!(".{from}."), &format!(".{to}."))
    }

    /// Of a tensor that is a part of another in its GGUF files, the other's name and those of all
    /// its parts.
    #[cfg(feature = "convert")]
    pub(crate) fn fused(&self, id: TensorId) -> Option<(String, Vec<String>)> {
        let own = self.tensor(id);
        FUSED.iter().filter(|_| self.is_fused).find_map(|(fused, parts)| {
            let (layer, end) = parts.iter().find_map(|part| own.split_once(&format!(".{part}.")))?;
            let name = |part: &&str| format!("{layer}.{part}.{end}");
            Some((name(fused), parts.iter().map(name).collect()))
        })
    }

    /// Sets what every model of this architecture has.
    pub(crate) fn configure(&self, config: &mut Config) {
        (config.rope_pairs, config.qk_norm) = (self.rope_pairs, self.qk_norm);
        config.no_rope_interval = self.no_rope_interval;
        config.norms_after = self.norms_after;
        (self.defaults)(config);
    }
}
