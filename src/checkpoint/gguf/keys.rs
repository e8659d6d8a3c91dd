//! The names of a GGUF file's keys, which its reader and its writer share. What is only refused or
//! ignored is in [`settings`](super::settings) and
//! [`tokenizer_settings`](super::tokenizer_settings); keys of our own are with what they set.

/// What kind of model is in the file.
pub(crate) const ARCHITECTURE: &str = "general.architecture";

pub(crate) const ALIGNMENT: &str = "general.alignment";
pub(crate) const CHAT_TEMPLATE: &str = "tokenizer.chat_template";
/// What names of templates for special uses are listed under, and what is before each.
#[cfg(feature = "convert")]
pub(crate) const CHAT_TEMPLATES: &str = "tokenizer.chat_templates";
pub(crate) const CHAT_TEMPLATE_OF: &str = "tokenizer.chat_template.";
pub(super) const TYPE: &str = "general.type";
pub(super) const NAME: &str = "general.name";
/// llama.cpp's number for the formats of all tensors.
#[cfg(feature = "convert")]
pub(crate) const FILE_TYPE: &str = "general.file_type";
#[cfg(feature = "convert")]
pub(crate) const QUANTIZATION_VERSION: &str = "general.quantization_version";

// Of the importance matrix that a model was quantized with: its file and that of its text, its
// tensors, and the parts of the text. Nothing computes with them.
#[cfg(feature = "convert")]
pub(crate) const IMPORTANCE: &str = "quantize.imatrix.";
#[cfg(feature = "convert")]
pub(crate) const IMPORTANCE_FILE: &str = "quantize.imatrix.file";
#[cfg(feature = "convert")]
pub(crate) const IMPORTANCE_TEXT: &str = "quantize.imatrix.dataset";
#[cfg(feature = "convert")]
pub(crate) const IMPORTANCE_TENSORS: &str = "quantize.imatrix.entries_count";
#[cfg(feature = "convert")]
pub(crate) const IMPORTANCE_CHUNKS: &str = "quantize.imatrix.chunks_count";

// Of the tokenizer.
pub(crate) const TOKENIZER: &str = "tokenizer.ggml.model";
pub(crate) const PRE_TOKENIZER: &str = "tokenizer.ggml.pre";
pub(crate) const PIECES: &str = "tokenizer.ggml.tokens";
pub(crate) const SCORES: &str = "tokenizer.ggml.scores";
pub(crate) const PIECE_KINDS: &str = "tokenizer.ggml.token_type";
pub(crate) const MERGES: &str = "tokenizer.ggml.merges";
pub(crate) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(crate) const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
pub(crate) const ADD_SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";

// Of a model in several files.
pub(super) const SPLIT_COUNT: &str = "split.count";
pub(super) const SPLIT_NUMBER: &str = "split.no";
pub(super) const SPLIT_TENSORS: &str = "split.tensors.count";

// Hyperparameters, without the architecture's name before them.
pub(crate) const VOCAB_SIZE: &str = "vocab_size";
pub(crate) const MAX_SEQ_LEN: &str = "context_length";
pub(crate) const DIM: &str = "embedding_length";
pub(crate) const N_LAYERS: &str = "block_count";
pub(crate) const HIDDEN_DIM: &str = "feed_forward_length";
pub(crate) const N_HEADS: &str = "attention.head_count";
pub(crate) const N_KV_HEADS: &str = "attention.head_count_kv";
pub(crate) const HEAD_DIM: &str = "attention.key_length";
pub(crate) const VALUE_DIM: &str = "attention.value_length";
pub(crate) const NORM_EPS: &str = "attention.layer_norm_rms_epsilon";
pub(crate) const SLIDING_WINDOW: &str = "attention.sliding_window";
pub(crate) const SLIDING_WINDOW_PATTERN: &str = "attention.sliding_window_pattern";
pub(crate) const ROPE_DIM: &str = "rope.dimension_count";
pub(crate) const ROPE_THETA: &str = "rope.freq_base";
pub(crate) const ROPE_SCALE_LINEAR: &str = "rope.scale_linear";
pub(crate) const ROPE_SCALING_TYPE: &str = "rope.scaling.type";
pub(crate) const ROPE_SCALING_FACTOR: &str = "rope.scaling.factor";
pub(crate) const ROPE_ATTN_FACTOR: &str = "rope.scaling.attn_factor";
pub(crate) const ROPE_ORIGINAL_CONTEXT: &str = "rope.scaling.original_context_length";
pub(crate) const YARN_LOG_MULTIPLIER: &str = "rope.scaling.yarn_log_multiplier";
pub(crate) const YARN_EXT_FACTOR: &str = "rope.scaling.yarn_ext_factor";
pub(crate) const YARN_BETA_FAST: &str = "rope.scaling.yarn_beta_fast";
pub(crate) const YARN_BETA_SLOW: &str = "rope.scaling.yarn_beta_slow";

/// The key of a special token's id.
pub(crate) fn token_id(name: &str) -> String {
    format!("tokenizer.ggml.{name}_token_id")
}
