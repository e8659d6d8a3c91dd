//! What is done with each setting of the files that describe a tokenizer, except SentencePiece's
//! own.

use serde_json::{Map, Value};

use super::vocabulary::refuse;
use crate::error::Result;
use crate::settings::{self, Setting, Treatment, harmless, honored, refused};

/// A setting of a JSON file.
pub(super) type JsonSetting = Setting<fn(&Value) -> bool>;

/// `tokenizer.json`, outermost.
pub(super) const TOKENIZER: &[JsonSetting] = &[
    harmless("version", "there is one version"),
    harmless("truncation", "texts are encoded whole, as transformers does where it isn't asked to cut them"),
    harmless("padding", "texts aren't padded, as transformers doesn't where it isn't asked to"),
    honored("added_tokens"),
    honored("normalizer"),
    honored("pre_tokenizer"),
    honored("post_processor"),
    harmless("decoder", "the pieces say what they spell"),
    honored("model"),
];

/// `model` in `tokenizer.json`.
pub(super) const MODEL: &[JsonSetting] = &[
    honored("model.type"),
    honored("model.vocab"),
    honored("model.merges"),
    honored("model.unk_token"),
    honored("model.byte_fallback"),
    honored("model.ignore_merges"),
    harmless("model.fuse_unk", "every byte has a piece, so nothing is unknown"),
    refused(
        "model.dropout",
        is_zero,
        "merges that are left out at random give other tokens each time; set it to null",
    ),
    refused("model.continuing_subword_prefix", is_empty, "GGUF has no such pieces"),
    refused("model.end_of_word_suffix", is_empty, "GGUF has no such pieces"),
];

/// A stage `Metaspace` of a pre-tokenizer.
pub(super) const METASPACE: &[JsonSetting] = &[
    honored("pre_tokenizer.type"),
    refused("pre_tokenizer.replacement", is_mark, "only U+2581 can stand for a space"),
    harmless("pre_tokenizer.str_rep", "tokenizers passes it over: it is the replacement again"),
    honored("pre_tokenizer.prepend_scheme"),
    honored("pre_tokenizer.add_prefix_space"),
    honored("pre_tokenizer.split"),
];

/// An entry of `added_tokens`, or of `added_tokens_decoder`.
pub(super) const ADDED_TOKEN: &[JsonSetting] = &[
    honored("id"),
    honored("content"),
    honored("special"),
    honored("lstrip"),
    honored("rstrip"),
    honored("single_word"),
    honored("normalized"),
    harmless("__type", "it is transformers' own mark"),
];

const NAMES: &str = "it only names a token or a file";
const BATCHES: &str = "it is about batches of texts, which there are none of";
const DECODED: &str = "it is about how transformers shows a text";
const INFILLING: &str = "it is for filling gaps in code, which only a caller's own prompt does";
const OTHERS: &str = "no tokenizer of a Llama reads it";

/// `tokenizer_config.json`.
pub(super) const CONFIG: &[JsonSetting] = &[
    honored("add_bos_token"),
    honored("add_eos_token"),
    honored("add_prefix_space"),
    honored("added_tokens_decoder"),
    honored("bos_token"),
    honored("chat_template"),
    honored("eos_token"),
    honored("legacy"),
    honored("tokenizer_class"),
    honored("unk_token"),
    refused(
        "sp_model_kwargs",
        samples_nothing,
        "pieces that are drawn at random give other tokens each time; remove it",
    ),
    honored("additional_special_tokens"),
    harmless("backend", NAMES),
    harmless("clean_up_tokenization_spaces", DECODED),
    honored("cls_token"),
    harmless("do_lower_case", OTHERS),
    harmless("eot_token", INFILLING),
    harmless("errors", DECODED),
    honored("extra_special_tokens"),
    harmless("fill_token", INFILLING),
    harmless("from_slow", NAMES),
    harmless("is_local", NAMES),
    honored("mask_token"),
    harmless("max_length", BATCHES),
    harmless("middle_token", INFILLING),
    harmless("model_input_names", BATCHES),
    harmless("model_max_length", "it is the model's context again"),
    honored("model_specific_special_tokens"),
    harmless("name_or_path", NAMES),
    harmless("pad_to_multiple_of", BATCHES),
    honored("pad_token"),
    harmless("pad_token_type_id", BATCHES),
    harmless("padding", BATCHES),
    harmless("padding_side", BATCHES),
    harmless("prefix_token", INFILLING),
    harmless("processor_class", NAMES),
    harmless("return_token_type_ids", BATCHES),
    honored("sep_token"),
    harmless("spaces_between_special_tokens", DECODED),
    harmless("special_tokens_map_file", NAMES),
    harmless("split_special_tokens", "control tokens are never looked for in a text"),
    harmless("stride", BATCHES),
    harmless("suffix_first", INFILLING),
    harmless("suffix_token", INFILLING),
    harmless("tokenizer_file", NAMES),
    harmless("truncation", BATCHES),
    harmless("truncation_side", BATCHES),
    harmless("truncation_strategy", BATCHES),
    harmless("use_default_system_prompt", "only a template of transformers' own reads it"),
    harmless("use_fast", NAMES),
];

const CHOOSING: &str = "it is about choosing tokens, GGUF has no key for it, and whoever generates decides";
const IDS: &str = "config.json and the tokenizer's own files say it";

/// `generation_config.json`.
pub(super) const GENERATION: &[JsonSetting] = &[
    honored("eos_token_id"),
    honored("temperature"),
    honored("top_k"),
    honored("top_p"),
    honored("min_p"),
    honored("repetition_penalty"),
    // Of llama.cpp's converter alone.
    honored("penalty_repeat"),
    honored("penalty_last_n"),
    honored("xtc_probability"),
    honored("xtc_threshold"),
    harmless("_from_model_config", CHOOSING),
    harmless("assistant_confidence_threshold", CHOOSING),
    harmless("assistant_early_exit", CHOOSING),
    harmless("assistant_ensemble_weight", CHOOSING),
    harmless("assistant_lookbehind", CHOOSING),
    harmless("bad_words_ids", CHOOSING),
    harmless("begin_suppress_tokens", CHOOSING),
    harmless("bos_token_id", IDS),
    harmless("cache_config", CHOOSING),
    harmless("cache_implementation", CHOOSING),
    harmless("chat_format", CHOOSING),
    harmless("compile_config", CHOOSING),
    harmless("constraints", CHOOSING),
    harmless("continuous_batching_config", CHOOSING),
    harmless("decoder_start_token_id", IDS),
    harmless("disable_compile", CHOOSING),
    harmless("diversity_penalty", CHOOSING),
    harmless("do_sample", CHOOSING),
    harmless("dola_layers", CHOOSING),
    harmless("early_stopping", CHOOSING),
    harmless("encoder_no_repeat_ngram_size", CHOOSING),
    harmless("encoder_repetition_penalty", CHOOSING),
    harmless("epsilon_cutoff", CHOOSING),
    harmless("eta_cutoff", CHOOSING),
    harmless("exponential_decay_length_penalty", CHOOSING),
    harmless("force_words_ids", CHOOSING),
    harmless("forced_bos_token_id", CHOOSING),
    harmless("forced_eos_token_id", CHOOSING),
    harmless("guidance_scale", CHOOSING),
    harmless("is_assistant", CHOOSING),
    harmless("length_penalty", CHOOSING),
    harmless("low_memory", CHOOSING),
    harmless("max_cache_len", CHOOSING),
    harmless("max_length", CHOOSING),
    harmless("max_matching_ngram_size", CHOOSING),
    harmless("max_new_tokens", CHOOSING),
    harmless("max_time", CHOOSING),
    harmless("max_window_size", CHOOSING),
    harmless("min_length", CHOOSING),
    harmless("min_new_tokens", CHOOSING),
    harmless("no_repeat_ngram_size", CHOOSING),
    harmless("num_assistant_tokens", CHOOSING),
    harmless("num_assistant_tokens_schedule", CHOOSING),
    harmless("num_beam_groups", CHOOSING),
    harmless("num_beams", CHOOSING),
    harmless("num_return_sequences", CHOOSING),
    harmless("output_attentions", CHOOSING),
    harmless("output_hidden_states", CHOOSING),
    harmless("output_logits", CHOOSING),
    harmless("output_scores", CHOOSING),
    harmless("pad_token_id", IDS),
    harmless("penalty_alpha", CHOOSING),
    harmless("prefill_chunk_size", CHOOSING),
    harmless("prompt_lookup_num_tokens", CHOOSING),
    harmless("remove_invalid_values", CHOOSING),
    harmless("renormalize_logits", CHOOSING),
    harmless("return_dict_in_generate", CHOOSING),
    harmless("sequence_bias", CHOOSING),
    harmless("speculation_type", CHOOSING),
    harmless("stop_strings", CHOOSING),
    harmless("suppress_tokens", CHOOSING),
    harmless("target_lookbehind", CHOOSING),
    harmless("token_healing", CHOOSING),
    harmless("top_h", CHOOSING),
    harmless("transformers_version", CHOOSING),
    harmless("typical_p", CHOOSING),
    harmless("use_cache", CHOOSING),
    harmless("use_mtp", CHOOSING),
    harmless("watermarking_config", CHOOSING),
];

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn is_empty(value: &Value) -> bool {
    value.as_str() == Some("")
}

fn is_mark(value: &Value) -> bool {
    value.as_str() == Some("\u{2581}")
}

fn samples_nothing(value: &Value) -> bool {
    value.as_object().is_some_and(|map| map.get("enable_sampling").is_none_or(|it| it == &Value::Bool(false)))
}

/// Goes through the settings of a section whose keys begin with `prefix` in its table. What isn't
/// known is named in a note.
///
/// # Errors
/// The first setting that is refused, and why.
pub(super) fn check(
    file: &str,
    prefix: &str,
    section: &Map<String, Value>,
    table: &[JsonSetting],
    notes: &mut Vec<String>,
) -> Result<()> {
    for (key, value) in section {
        let name = format!("{prefix}{key}");
        match settings::find(table, &name) {
            Some(Setting { treatment: Treatment::RefusedUnless(is_harmless, reason), .. })
                if !value.is_null() && !is_harmless(value) =>
            {
                let value: String = value.to_string().chars().take(60).collect();
                return Err(refuse(format!("{name} is {value}: {reason}")));
            }
            Some(_) => {}
            None => {
                let name: String = name.chars().take(60).collect();
                let note = format!("{file} has a setting {name:?}, which is not known and was passed over");
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_setting_is_there_once() {
        for table in [TOKENIZER, MODEL, METASPACE, ADDED_TOKEN, CONFIG] {
            let mut keys: Vec<_> = table.iter().map(|setting| setting.key).collect();
            keys.sort_unstable();
            let n = keys.len();
            keys.dedup();
            assert_eq!(keys.len(), n);
        }
    }

    #[test]
    fn what_is_honored_is_read() {
        let readers = [
            include_str!("added_tokens.rs"),
            include_str!("hf_tokenizer.rs"),
            include_str!("hf_templates.rs"),
            include_str!("../../sampler/defaults.rs"),
            include_str!("spaced_bpe.rs"),
            include_str!("special_names.rs"),
            include_str!("tokenizer_json.rs"),
        ]
        .concat();
        for setting in [TOKENIZER, MODEL, METASPACE, ADDED_TOKEN, CONFIG, GENERATION].into_iter().flatten() {
            let key = setting.key.rsplit('.').next().unwrap();
            let is_read = readers.contains(&format!("\"{key}\""));
            assert!(is_read || !matches!(setting.treatment, Treatment::Honored), "{}", setting.key);
        }
    }

    /// Each setting that is refused, a value of it that is, and one that isn't.
    #[test]
    fn what_is_refused_is_refused_by_name() {
        let cases = [
            ("model.dropout", json!(0.1), json!(0.0)),
            ("model.continuing_subword_prefix", json!("##"), json!("")),
            ("model.end_of_word_suffix", json!("</w>"), json!("")),
            ("pre_tokenizer.replacement", json!("_"), json!("\u{2581}")),
            ("sp_model_kwargs", json!({"enable_sampling": true}), json!({"alpha": 0.1})),
        ];
        let tables = [TOKENIZER, MODEL, METASPACE, ADDED_TOKEN, CONFIG, GENERATION];
        let mut n_refused = 0;
        for setting in tables.into_iter().flatten() {
            let section = |value: &Value| Map::from_iter([(setting.key.to_owned(), value.clone())]);
            let table = std::slice::from_ref(setting);
            let read = |value: &Value| check("x", "", &section(value), table, &mut Vec::new());
            read(&Value::Null).unwrap();
            if !matches!(setting.treatment, Treatment::RefusedUnless(..)) {
                read(&json!("anything")).unwrap();
                continue;
            }
            let (_, bad, good) = cases.iter().find(|(key, ..)| *key == setting.key).unwrap();
            assert!(read(bad).unwrap_err().to_string().contains(setting.key));
            read(good).unwrap();
            n_refused += 1;
        }
        assert_eq!(n_refused, cases.len());
    }

    #[test]
    fn what_is_not_known_is_named_once() {
        let section = Map::from_iter([("new".to_owned(), json!(1)), ("type".to_owned(), json!("BPE"))]);
        let mut notes = Vec::new();
        for _ in 0..2 {
            check("tokenizer.json", "model.", &section, MODEL, &mut notes).unwrap();
        }
        assert_eq!(
            notes,
            ["tokenizer.json has a setting \"model.new\", which is not known and was passed over"]
        );
    }
}
