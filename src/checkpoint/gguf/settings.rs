//! The keys of an architecture, such as `llama.*`, that a file may have, and what is done with
//! each.
//!
//! Source: `src/llama-arch.cpp` and `src/models/` in the llama.cpp repository, which tell what each
//! of its architectures reads.

use super::keys as key;
use super::metadata::Metadata;
use super::value::{FromValue, Value};
use crate::arch::Architecture;
use crate::error::{Error, Result};
use crate::settings::{self, Setting, Treatment, harmless, honored, refused};

/// Whether a value changes nothing.
type Unless = fn(&Value<'_>) -> bool;

fn number(value: &Value<'_>) -> Option<f64> {
    f64::from_value(value).or_else(|| value.integer().map(|integer| integer as f64))
}

fn is_true(value: &Value<'_>) -> bool {
    bool::from_value(value) == Some(true)
}

fn is_one(value: &Value<'_>) -> bool {
    number(value) == Some(1.0)
}

/// 0 or false.
fn is_nothing(value: &Value<'_>) -> bool {
    number(value) == Some(0.0) || bool::from_value(value) == Some(false)
}

/// No scale: 1, or 0, which stands for none.
fn is_no_scale(value: &Value<'_>) -> bool {
    is_one(value) || is_nothing(value)
}

const EXPERTS: &str = "mixtures of experts are not supported";
const NO_EXPERTS: &str = "it is about experts, of which there are none";
const SCALE: &str = "no Llama scales this, so babyllama doesn't either";
const FORK: &str = "it isn't Llama's, but a variant's that is not supported";
const SWA: &str = "layers with a sliding window of other shapes than the rest are not supported";

/// The keys, without the architecture's name. The writer's tests go through them.
pub(crate) const KEYS: &[Setting<Unless>] = &[
    honored(key::VOCAB_SIZE),
    honored(key::MAX_SEQ_LEN),
    honored(key::DIM),
    honored(key::N_LAYERS),
    honored(key::HIDDEN_DIM),
    honored(key::N_HEADS),
    honored(key::N_KV_HEADS),
    honored(key::HEAD_DIM),
    honored(key::VALUE_DIM),
    honored(key::NORM_EPS),
    honored(key::SLIDING_WINDOW),
    honored(key::SLIDING_WINDOW_PATTERN),
    honored(key::ROPE_DIM),
    honored(key::ROPE_THETA),
    honored(key::ROPE_SCALE_LINEAR),
    honored(key::ROPE_SCALING_TYPE),
    honored(key::ROPE_SCALING_FACTOR),
    honored(key::ROPE_ATTN_FACTOR),
    honored(key::ROPE_ORIGINAL_CONTEXT),
    honored(key::YARN_LOG_MULTIPLIER),
    honored(key::YARN_EXT_FACTOR),
    honored(key::YARN_BETA_FAST),
    honored(key::YARN_BETA_SLOW),
    refused("rope.scaling.yarn_attn_factor", is_one, "only 1 is supported"),
    refused("rope.scaling.alpha", is_no_scale, FORK),
    refused("rope.dimension_sections", is_nothing, FORK),
    refused("attention.causal", is_true, "models that read in both directions are not supported"),
    refused("expert_count", is_nothing, EXPERTS),
    refused("expert_shared_count", is_nothing, EXPERTS),
    refused("logit_scale", is_no_scale, SCALE),
    refused("embedding_scale", is_no_scale, SCALE),
    refused("residual_scale", is_no_scale, SCALE),
    refused("attention.scale", is_nothing, SCALE),
    refused("attention.output_scale", is_no_scale, SCALE),
    refused("attention.value_scale", is_no_scale, SCALE),
    refused("attention.temperature_length", is_nothing, SCALE),
    refused("attention.temperature_scale", is_nothing, SCALE),
    refused("attn_logit_softcapping", is_nothing, SCALE),
    refused("final_logit_softcapping", is_nothing, SCALE),
    refused("attention.max_alibi_bias", is_nothing, FORK),
    refused("attention.clamp_kqv", is_nothing, FORK),
    refused("use_parallel_residual", is_nothing, FORK),
    refused("nextn_predict_layers", is_nothing, FORK),
    refused("attention.key_length_mla", is_nothing, FORK),
    refused("attention.value_length_mla", is_nothing, FORK),
    refused("attention.q_lora_rank", is_nothing, FORK),
    refused("attention.kv_lora_rank", is_nothing, FORK),
    refused("interleave_moe_layer_step", is_nothing, EXPERTS),
    refused("attention.key_length_swa", is_nothing, SWA),
    refused("attention.value_length_swa", is_nothing, SWA),
    refused("rope.dimension_count_swa", is_nothing, SWA),
    refused("rope.freq_base_swa", is_nothing, SWA),
    harmless("attention.layer_norm_epsilon", "Llama has no such norms"),
    harmless("expert_used_count", NO_EXPERTS),
    harmless("expert_feed_forward_length", NO_EXPERTS),
    harmless("expert_weights_scale", NO_EXPERTS),
    harmless("expert_weights_norm", NO_EXPERTS),
    harmless("expert_gating_func", NO_EXPERTS),
    harmless("rope.scaling.finetuned", "it says how the model was made, not what it computes"),
    harmless("tensor_data_layout", "llama.cpp reads every file of this architecture alike"),
    harmless("pooling_type", "Model::embed pools as it says; logits don't depend on it"),
    harmless("tie_lm_head", "whether output.weight is stored says it"),
];

/// Goes through the keys of an architecture, of which some count for it alone. Gives a note of
/// those that aren't known.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) names the first that is refused.
pub(super) fn go_through(metadata: &Metadata<'_>, architecture: &Architecture) -> Result<Option<String>> {
    let mut unknown = Vec::new();
    for (key, value) in metadata.iter() {
        let Some(short) = key.strip_prefix(architecture.name).and_then(|rest| rest.strip_prefix('.')) else {
            continue;
        };
        if let Some((key, reason)) =
            architecture.refused.filter(|(key, _)| *key == short && !is_nothing(value))
        {
            return Err(Error::config(key, value.bare(), reason));
        }
        match settings::find(KEYS, short) {
            Some(_) if architecture.keys.contains(&short) => {}
            Some(&Setting { key, treatment: Treatment::RefusedUnless(unless, reason) }) if !unless(value) => {
                return Err(Error::config(key, value.bare(), reason));
            }
            Some(_) => {}
            None => unknown.push(key),
        }
    }
    let note = || {
        let keys = unknown.join(", ");
        format!("the file has keys of the model that babyllama doesn't know, which were passed over: {keys}")
    };
    Ok((!unknown.is_empty()).then(note))
}
