//! The settings that config.json and params.json may have, and what is done with each.
//!
//! Source: `configuration_utils.py`, `configuration_llama.py`, `configuration_mistral.py` and
//! `modeling_rope_utils.py` of transformers 5.24, and what 4.x wrote; `args.py` of
//! mistral-inference, `model.py` of Llama 2, 3 and llama2.c.

use serde_json::Value;

use super::json::Object;
use crate::error::Result;
use crate::settings::{self, Setting, Treatment, harmless, honored, refused};

/// Whether a value changes nothing.
type Unless = fn(&Value) -> bool;

fn is_false(value: &Value) -> bool {
    value == &Value::Bool(false)
}

fn is_true(value: &Value) -> bool {
    value == &Value::Bool(true)
}

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

/// Nothing, in any way that JSON can say it.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Bool(is_there) => !is_there,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(values) => values.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Null => true,
    }
}

/// No scale: 1, or nothing.
fn is_no_scale(value: &Value) -> bool {
    is_one(value) || is_nothing(value)
}

fn is_silu(value: &Value) -> bool {
    matches!(value.as_str(), Some("silu" | "swish"))
}

fn is_rotary(value: &Value) -> bool {
    matches!(value.as_str(), Some("rope" | "rotary"))
}

fn is_rms_norm(value: &Value) -> bool {
    matches!(value.as_str(), Some("rms_norm" | "rmsnorm" | "RMSNorm" | "rms"))
}

fn never(_: &Value) -> bool {
    false
}

const BIAS: &str = "no model that is supported says so that it has biases";
const SCALE: &str = "no Llama scales this, so babyllama doesn't either";
const SOFTCAP: &str = "no Llama caps its logits, so babyllama doesn't either";
const EXPERTS: &str = "mixtures of experts are not supported";
const FORK: &str = "it isn't Llama's, but a variant's that is not supported";
const QUANTIZED: &str = "only floating-point weights are supported";
const TRAINING: &str = "it counts in training alone";
const GENERATION: &str = "it is about sampling, which the caller's options decide";
const OUTPUT: &str = "it is about what Python's functions give back";
const NAMES: &str = "it names something for people or programs";
const OTHER_MODELS: &str = "transformers' Llama and Mistral don't read it";
const IMPLEMENTATION: &str = "it chooses how the same numbers are computed";

/// config.json's, except what is in `rope_scaling` or `rope_parameters`.
pub(super) const CONFIG: &[Setting<Unless>] = &[
    honored("architectures"),
    honored("model_type"),
    honored("vocab_size"),
    honored("hidden_size"),
    honored("intermediate_size"),
    honored("num_hidden_layers"),
    honored("num_attention_heads"),
    honored("num_key_value_heads"),
    honored("head_dim"),
    honored("rms_norm_eps"),
    honored("max_position_embeddings"),
    honored("max_sequence_length"),
    honored("tie_word_embeddings"),
    honored("rope_theta"),
    honored("rope_scaling"),
    honored("rope_parameters"),
    honored("original_max_position_embeddings"),
    honored("sliding_window"),
    honored("layer_types"),
    honored("attention_bias"),
    honored("mlp_bias"),
    honored("bos_token_id"),
    honored("eos_token_id"),
    honored("auto_map"),
    refused("hidden_act", is_silu, "only silu is supported"),
    refused("hidden_activation", is_silu, "only silu is supported"),
    refused("bias", is_false, BIAS),
    refused("qkv_bias", is_false, BIAS),
    refused("use_bias", is_false, BIAS),
    refused("lm_head_bias", is_false, BIAS),
    refused("partial_rotary_factor", is_one, "only 1 is supported"),
    refused("rotary_pct", is_one, "only 1 is supported"),
    refused("rope_interleaved", is_false, "only halves of heads that are rotated together are supported"),
    refused("quantization_config", never, QUANTIZED),
    refused("compression_config", never, QUANTIZED),
    refused("quantization", never, QUANTIZED),
    refused("is_causal", is_true, "models that read in both directions are not supported"),
    refused("is_encoder_decoder", is_false, "only decoders are supported"),
    refused("add_cross_attention", is_false, "only decoders are supported"),
    refused("pruned_heads", is_nothing, "heads that were pruned are not supported"),
    refused("text_config", is_nothing, "models of images or sounds are not supported"),
    refused("vision_config", is_nothing, "models of images or sounds are not supported"),
    refused("num_local_experts", is_nothing, EXPERTS),
    refused("num_experts", is_nothing, EXPERTS),
    refused("n_routed_experts", is_nothing, EXPERTS),
    refused("moe", is_nothing, EXPERTS),
    refused("logit_scale", is_no_scale, SCALE),
    refused("logits_scaling", is_no_scale, SCALE),
    refused("output_multiplier_scale", is_no_scale, SCALE),
    refused("embedding_multiplier", is_no_scale, SCALE),
    refused("embedding_scale", is_no_scale, SCALE),
    refused("residual_multiplier", is_no_scale, SCALE),
    refused("attention_multiplier", is_nothing, SCALE),
    refused("scale_emb", is_no_scale, SCALE),
    refused("scale_depth", is_nothing, SCALE),
    refused("dim_model_base", is_nothing, SCALE),
    refused("query_pre_attn_scalar", is_nothing, SCALE),
    refused("attn_temperature_tuning", is_nothing, SCALE),
    refused("final_logit_softcapping", is_nothing, SOFTCAP),
    refused("attn_logit_softcapping", is_nothing, SOFTCAP),
    refused("clip_qkv", is_nothing, FORK),
    refused("use_qk_norm", is_nothing, FORK),
    refused("qk_norm", is_nothing, FORK),
    refused("qk_layernorm", is_nothing, FORK),
    refused("alibi", is_nothing, FORK),
    refused("use_parallel_residual", is_nothing, FORK),
    refused("parallel_attn", is_nothing, FORK),
    refused("no_rope_layers", is_nothing, FORK),
    refused("no_rope_layer_interval", is_nothing, FORK),
    refused("kv_lora_rank", is_nothing, FORK),
    refused("num_nextn_predict_layers", is_nothing, FORK),
    refused("position_embedding_type", is_rotary, FORK),
    refused("norm_type", is_rms_norm, FORK),
    harmless("attention_dropout", TRAINING),
    harmless("hidden_dropout", TRAINING),
    harmless("hidden_dropout_prob", TRAINING),
    harmless("attn_pdrop", TRAINING),
    harmless("resid_pdrop", TRAINING),
    harmless("residual_dropout", TRAINING),
    harmless("embd_pdrop", TRAINING),
    harmless("initializer_range", TRAINING),
    harmless("gradient_checkpointing", TRAINING),
    harmless("neftune_noise_alpha", TRAINING),
    harmless("pretraining_tp", IMPLEMENTATION),
    harmless("use_cache", IMPLEMENTATION),
    harmless("cache_implementation", IMPLEMENTATION),
    harmless("attn_implementation", IMPLEMENTATION),
    harmless("use_flash_attn", IMPLEMENTATION),
    harmless("use_flash_attention", IMPLEMENTATION),
    harmless("chunk_size_feed_forward", IMPLEMENTATION),
    harmless("torch_dtype", "the tensors say themselves how they are stored"),
    harmless("dtype", "the tensors say themselves how they are stored"),
    harmless("use_bfloat16", "the tensors say themselves how they are stored"),
    harmless("torchscript", IMPLEMENTATION),
    harmless("tf_legacy_loss", TRAINING),
    harmless("problem_type", TRAINING),
    harmless("num_labels", OTHER_MODELS),
    harmless("id2label", OTHER_MODELS),
    harmless("label2id", OTHER_MODELS),
    harmless("use_sliding_window", "Llama and Mistral don't read it; Qwen's is honored"),
    harmless("max_window_layers", "Llama and Mistral don't read it; Qwen's is honored"),
    harmless("layer_norm_eps", OTHER_MODELS),
    harmless("is_decoder", OTHER_MODELS),
    harmless("tie_encoder_decoder", OTHER_MODELS),
    harmless("cross_attention_hidden_size", OTHER_MODELS),
    harmless("decoder_start_token_id", OTHER_MODELS),
    harmless("sep_token_id", OTHER_MODELS),
    harmless("pad_token_id", "it fills batches up, of which there are none"),
    harmless("unk_token_id", "the tokenizer's files say it"),
    harmless("tokenizer_class", "the tokenizer's files say it"),
    harmless("return_dict", OUTPUT),
    harmless("return_dict_in_generate", OUTPUT),
    harmless("output_hidden_states", OUTPUT),
    harmless("output_attentions", OUTPUT),
    harmless("output_scores", OUTPUT),
    harmless("transformers_version", NAMES),
    harmless("finetuning_task", NAMES),
    harmless("name_or_path", NAMES),
    harmless("prefix", NAMES),
    harmless("task_specific_params", GENERATION),
    harmless("max_length", GENERATION),
    harmless("min_length", GENERATION),
    harmless("do_sample", GENERATION),
    harmless("early_stopping", GENERATION),
    harmless("num_beams", GENERATION),
    harmless("num_beam_groups", GENERATION),
    harmless("diversity_penalty", GENERATION),
    harmless("temperature", GENERATION),
    harmless("top_k", GENERATION),
    harmless("top_p", GENERATION),
    harmless("typical_p", GENERATION),
    harmless("repetition_penalty", GENERATION),
    harmless("length_penalty", GENERATION),
    harmless("no_repeat_ngram_size", GENERATION),
    harmless("encoder_no_repeat_ngram_size", GENERATION),
    harmless("bad_words_ids", GENERATION),
    harmless("num_return_sequences", GENERATION),
    harmless("forced_bos_token_id", GENERATION),
    harmless("forced_eos_token_id", GENERATION),
    harmless("remove_invalid_values", GENERATION),
    harmless("exponential_decay_length_penalty", GENERATION),
    harmless("suppress_tokens", GENERATION),
    harmless("begin_suppress_tokens", GENERATION),
    harmless("unsloth_version", NAMES),
    harmless("_name_or_path", NAMES),
    harmless("_commit_hash", NAMES),
    harmless("_auto_class", NAMES),
    harmless("_from_auto", NAMES),
    harmless("_from_model_config", NAMES),
    harmless("_diffusers_version", NAMES),
    harmless("_attn_implementation", IMPLEMENTATION),
    harmless("_attn_implementation_autoset", IMPLEMENTATION),
    harmless("_attn_implementation_internal", IMPLEMENTATION),
    harmless("_experts_implementation", IMPLEMENTATION),
    harmless("_experts_implementation_internal", IMPLEMENTATION),
    harmless("_flash_attn_2_enabled", IMPLEMENTATION),
    harmless("_output_attentions", OUTPUT),
    harmless("unsloth_fixed", NAMES),
];

/// What is in config.json's `rope_scaling` or `rope_parameters`.
pub(super) const ROPE: &[Setting<Unless>] = &[
    honored("rope_type"),
    honored("type"),
    honored("rope_theta"),
    honored("factor"),
    honored("low_freq_factor"),
    honored("high_freq_factor"),
    honored("original_max_position_embeddings"),
    honored("beta_fast"),
    honored("beta_slow"),
    honored("attention_factor"),
    honored("mscale"),
    honored("mscale_all_dim"),
    honored("long_factor"),
    honored("short_factor"),
    refused("truncate", is_true, "yarn is supported only with whole corrections"),
    refused("partial_rotary_factor", is_one, "only 1 is supported"),
    refused("full_attention", never, "rotary frequencies of each kind of layer are not supported"),
    refused("sliding_attention", never, "rotary frequencies of each kind of layer are not supported"),
    refused("alpha", is_no_scale, FORK),
    refused("mrope_section", is_nothing, FORK),
    refused("mrope_interleaved", is_nothing, FORK),
    harmless("max_position_embeddings", "the one outside says it"),
    harmless("finetuned", "it says how the model was made, not what it computes"),
];

/// params.json's, of Meta and of Mistral, and those of llama2.c's ckpt.pt.
pub(super) const PARAMS: &[Setting<Unless>] = &[
    honored("dim"),
    honored("n_layers"),
    honored("n_heads"),
    honored("n_kv_heads"),
    honored("head_dim"),
    honored("hidden_dim"),
    honored("vocab_size"),
    honored("norm_eps"),
    honored("rope_theta"),
    honored("use_scaled_rope"),
    honored("rope_scaling_factor"),
    honored("low_freq_factor"),
    honored("high_freq_factor"),
    honored("rope_high_freq_factor"),
    honored("max_seq_len"),
    honored("max_position_embeddings"),
    honored("sliding_window"),
    honored("_sliding_window"),
    honored("tied_embeddings"),
    refused("model_type", |value| value.as_str() == Some("transformer"), "only transformers are supported"),
    refused("causal", is_true, "models that read in both directions are not supported"),
    refused("moe", is_nothing, EXPERTS),
    refused("moe_args", is_nothing, EXPERTS),
    refused("lora", is_nothing, "merge LoRA's matrices into the weights first"),
    refused("lora_args", is_nothing, "merge LoRA's matrices into the weights first"),
    refused("lora_modules", is_nothing, "merge LoRA's matrices into the weights first"),
    refused("quantization", is_nothing, QUANTIZED),
    refused("quantization_args", is_nothing, QUANTIZED),
    refused("vision_encoder", is_nothing, "models of images or sounds are not supported"),
    refused("vision_args", is_nothing, "models of images or sounds are not supported"),
    refused("multimodal", is_nothing, "models of images or sounds are not supported"),
    refused("vision_chunk_size", |value| value.as_i64() == Some(-1), "models of images are not supported"),
    refused(
        "vision_num_cross_attention_layers",
        |value| value.as_i64() == Some(-1),
        "models of images are not supported",
    ),
    refused(
        "vision_max_num_chunks",
        |value| is_nothing(value) || value.as_i64() == Some(4),
        "models of images are not supported",
    ),
    refused("use_qk_norm", is_nothing, FORK),
    refused("nope_layer_interval", is_nothing, FORK),
    refused("attention_chunk_size", is_nothing, FORK),
    refused("attn_temperature_tuning", is_nothing, SCALE),
    refused("use_biases", is_false, BIAS),
    refused("yarn", is_nothing, "yarn is supported in config.json alone"),
    refused("llama_4_scaling", is_nothing, SCALE),
    harmless("multiple_of", "it only says how hidden_dim was found"),
    harmless("ffn_dim_multiplier", "it only says how hidden_dim was found"),
    harmless("ffn_exp", "it only says how hidden_dim was found"),
    harmless("max_batch_size", "it is about memory"),
    harmless("model_parallel_size", "the number of files says it"),
    harmless("dropout", TRAINING),
];

/// `adapter_config.json`'s, of PEFT.
pub(super) const ADAPTER: &[Setting<Unless>] = &[
    honored("r"),
    honored("lora_alpha"),
    honored("use_rslora"),
    honored("use_dora"),
    honored("rank_pattern"),
    honored("alpha_pattern"),
    honored("target_modules"),
    honored("base_model_name_or_path"),
    refused("peft_type", |value| value.as_str() == Some("LORA"), "only LORA is supported"),
    refused("task_type", |value| value.as_str() == Some("CAUSAL_LM"), "only CAUSAL_LM is supported"),
    refused(
        "init_lora_weights",
        leaves_base,
        "the base that it was trained on had other weights than the published one",
    ),
    refused("layer_replication", is_nothing, "layers that are there several times are not supported"),
    refused("trainable_token_indices", is_nothing, "tokens that are trained by themselves are not supported"),
    refused("target_parameters", is_nothing, "parameters that are no module's weight are not supported"),
    refused(
        "alora_invocation_tokens",
        is_nothing,
        "an adapter that counts from some tokens on can't be merged",
    ),
    refused("use_qalora", is_nothing, "QALoRA is not supported"),
    refused("use_bdlora", is_nothing, "block-diagonal LoRA is not supported"),
    refused("arrow_config", is_nothing, "adapters that are chosen by the text can't be merged"),
    refused("kasa_config", is_nothing, "KaSA is not supported"),
    refused("monteclora_config", is_nothing, "MonteCLoRA is not supported"),
    refused("velora_config", is_nothing, "VeLoRA is not supported"),
    harmless("bias", WHOLE),
    harmless("modules_to_save", WHOLE),
    harmless("lora_bias", WHOLE),
    harmless("exclude_modules", WHOLE),
    harmless("layers_to_transform", WHOLE),
    harmless("layers_pattern", WHOLE),
    harmless("ensure_weight_tying", "what changes one of the embeddings and the classifier alone is refused"),
    harmless(
        "fan_in_fan_out",
        "PEFT takes it for false where a module is a linear layer, as all of a Llama's are",
    ),
    harmless("lora_dropout", TRAINING),
    harmless("inference_mode", TRAINING),
    harmless("loftq_config", TRAINING),
    harmless("eva_config", TRAINING),
    harmless("corda_config", TRAINING),
    harmless("lora_ga_config", TRAINING),
    harmless("qalora_group_size", "it is QALoRA's alone, which is refused"),
    harmless("runtime_config", IMPLEMENTATION),
    harmless("megatron_config", IMPLEMENTATION),
    harmless("megatron_core", IMPLEMENTATION),
    harmless("auto_mapping", NAMES),
    harmless("revision", NAMES),
    harmless("peft_version", NAMES),
];

const WHOLE: &str = "what the adapter's file holds is merged, and nothing else";

/// Whether an adapter was begun in a way that leaves the base's weights as they are.
fn leaves_base(value: &Value) -> bool {
    value.is_boolean() || matches!(value.as_str(), Some("gaussian" | "orthogonal" | "eva"))
}

/// Goes through the settings of an object, of which some count for its model alone. Gives the names
/// of those that aren't known.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) names the first that is refused.
pub(super) fn go_through(
    object: &Object<'_>,
    table: &'static [Setting<Unless>],
    honored: &[&str],
) -> Result<Vec<String>> {
    let mut unknown = Vec::new();
    for (key, value) in object.map.iter().filter(|(_, value)| !value.is_null()) {
        match settings::find(table, key) {
            _ if honored.contains(&&**key) => {}
            Some(Setting { key, treatment: Treatment::RefusedUnless(unless, reason) }) if !unless(value) => {
                return Err(object.refuse(key, &shown(value), reason));
            }
            Some(_) => {}
            None => unknown.push(object.name(key)),
        }
    }
    unknown.sort(); // serde_json keeps the file's order where some other crate asks for it
    Ok(unknown)
}

/// Says that some settings aren't known, for people.
pub(super) fn unknown_note(file: &str, unknown: &[String]) -> Option<String> {
    let note = || {
        let (these, were) = if unknown.len() == 1 { ("a setting", "was") } else { ("settings", "were") };
        format!(
            "{file} has {these} that babyllama doesn't know, which {were} passed over: {}",
            unknown.join(", ")
        )
    };
    (!unknown.is_empty()).then(note)
}

/// A value for people: strings as they are, long values cut short.
fn shown(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if text.chars().count() <= 60 { text } else { text.chars().take(60).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests;
