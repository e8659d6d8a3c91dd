//! What is done with each key of a tokenizer that GGUF files may have, for SentencePiece's
//! (`llama`) and byte-level ones (`gpt2`).
//!
//! Source: llama.cpp's list of keys, and its behavior: what it passes over for these two kinds
//! changes no token there.

use super::keys;
use super::metadata::{Metadata, Value};
use crate::error::{ErrorKind, Result};
use crate::settings::Setting;
use crate::settings::Treatment::{self, Harmless, Honored, RefusedUnless};

/// Whether a value changes nothing.
type ChangesNothing = fn(&Value<'_>) -> bool;

const fn setting(key: &'static str, treatment: Treatment<ChangesNothing>) -> Setting<ChangesNothing> {
    Setting { key, treatment }
}

const OTHER_KINDS: Treatment<ChangesNothing> =
    Harmless("llama.cpp reads it for tokenizers of other kinds alone, such as T5's and BERT's");
const NO_TEXT: Treatment<ChangesNothing> =
    Harmless("it names a token that no text becomes and that ends none");
const A_COPY: Treatment<ChangesNothing> = Harmless("it repeats what the other keys say");

/// Every key that is known.
pub(super) const SETTINGS: &[Setting<ChangesNothing>] = &[
    setting(keys::TOKENIZER, Honored),
    setting(keys::PRE_TOKENIZER, Honored),
    setting(keys::PIECES, Honored),
    setting(keys::PIECE_KINDS, Honored),
    setting(keys::SCORES, Honored),
    setting(keys::MERGES, Honored),
    setting("tokenizer.ggml.bos_token_id", Honored),
    setting("tokenizer.ggml.eos_token_id", Honored),
    setting("tokenizer.ggml.eot_token_id", Honored),
    setting("tokenizer.ggml.eom_token_id", Honored),
    setting("tokenizer.ggml.unknown_token_id", Honored),
    setting("tokenizer.ggml.fim_pre_token_id", Honored),
    setting("tokenizer.ggml.fim_suf_token_id", Honored),
    setting("tokenizer.ggml.fim_mid_token_id", Honored),
    setting("tokenizer.ggml.fim_pad_token_id", Honored),
    setting("tokenizer.ggml.fim_rep_token_id", Honored),
    setting("tokenizer.ggml.fim_sep_token_id", Honored),
    setting("tokenizer.ggml.prefix_token_id", Honored),
    setting("tokenizer.ggml.suffix_token_id", Honored),
    setting("tokenizer.ggml.middle_token_id", Honored),
    setting(keys::ADD_BOS, Honored),
    setting(keys::ADD_EOS, Honored),
    setting(keys::ADD_SPACE_PREFIX, Honored),
    setting(keys::CHAT_TEMPLATE, Honored),
    setting(
        "tokenizer.ggml.suppress_tokens",
        RefusedUnless(is_empty, "tokens that must never be sampled are not supported"),
    ),
    setting("tokenizer.ggml.seperator_token_id", NO_TEXT),
    setting("tokenizer.ggml.padding_token_id", NO_TEXT),
    setting("tokenizer.ggml.cls_token_id", NO_TEXT),
    setting("tokenizer.ggml.mask_token_id", NO_TEXT),
    setting("tokenizer.ggml.add_sep_token", Harmless("it stands between two texts, and here is one")),
    setting("tokenizer.ggml.token_type_count", OTHER_KINDS),
    setting("tokenizer.ggml.remove_extra_whitespaces", OTHER_KINDS),
    setting("tokenizer.ggml.precompiled_charsmap", OTHER_KINDS),
    setting("tokenizer.ggml.normalizer.lowercase", OTHER_KINDS),
    setting("tokenizer.ggml.normalizer.strip_accents", OTHER_KINDS),
    setting("tokenizer.rwkv.world", OTHER_KINDS),
    setting("tokenizer.ggml.added_tokens", A_COPY),
    setting("tokenizer.huggingface.json", A_COPY),
    setting("tokenizer.chat_templates", Harmless("it lists templates for special uses")),
];

/// Refuses what would change tokens and isn't supported.
pub(super) fn check(metadata: &Metadata<'_>) -> Result<()> {
    for Setting { key, treatment } in SETTINGS {
        if let (RefusedUnless(changes_nothing, why), Some(value)) = (treatment, metadata.get(key))
            && !changes_nothing(value)
        {
            return Err(ErrorKind::Tokenizer { reason: format!("{key} is {value}: {why}") }.into());
        }
    }
    Ok(())
}

/// Whether a key is one of a tokenizer's and isn't in the table. A template may have a name after
/// the key.
#[cfg(feature = "convert")]
pub(crate) fn is_unknown(key: &str) -> bool {
    let is_known = || crate::settings::find(SETTINGS, key).is_some();
    key.starts_with("tokenizer.") && !key.starts_with("tokenizer.chat_template.") && !is_known()
}

fn is_empty(value: &Value<'_>) -> bool {
    value.items().is_some_and(|items| items.len() == 0)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::metadata::{Kind, Value};
    use super::super::vocabulary;
    use super::*;
    use crate::tokenizer::Tokenizer;

    #[test]
    fn every_key_is_there_once() {
        let keys: HashSet<_> = SETTINGS.iter().map(|setting| setting.key).collect();
        assert_eq!(keys.len(), SETTINGS.len());
    }

    /// An array of strings as a file has it.
    fn strings(texts: &[&str]) -> Vec<u8> {
        let string = |text: &&str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        texts.iter().flat_map(string).collect()
    }

    /// What a tokenizer makes of some texts, with keys besides the usual ones; or why there is
    /// none.
    fn outcome(model: &str, key: &str, value: Option<Value<'_>>) -> Result<String> {
        let texts = [
            "<unk>", "<s>", "</s>", "\u{2581}", "a", "b", "ab", "ba", "<x>", "<PRE>", "<SUF>", "<MID>", "bb",
        ];
        let (tokens, merges) = (strings(&texts), strings(&["a b"]));
        let scores: Vec<u8> = (0..13_u8).flat_map(|i| (-f32::from(i)).to_le_bytes()).collect();
        let types = [2_u8, 3, 3, 1, 1, 1, 1, 1, 4, 1, 1, 1, 1];
        let array = |kind, n, bytes| Value::array(kind, n, bytes, true);
        let mut usual = vec![
            (keys::TOKENIZER, Value::single(Kind::String, model.as_bytes())),
            (keys::PIECES, array(Kind::String, 13, &tokens)),
            (keys::SCORES, array(Kind::F32, 13, &scores)),
            (keys::PIECE_KINDS, array(Kind::U8, 13, &types)),
            (keys::MERGES, array(Kind::String, 1, &merges)),
        ];
        usual.retain(|&(usual, _)| usual != key);
        usual.extend(value.map(|value| (key, value)));
        let mut metadata = Metadata::default();
        for (key, value) in usual {
            metadata.insert(key.into(), value)?;
        }
        let Some(spec) = vocabulary::spec(&metadata)? else { return Ok("none".into()) };
        let tokenizer = Tokenizer::from_spec(&spec)?;
        let encoded = ["aba", "<x>ab", "bb", "\u{e9}"].map(|text| tokenizer.encode_prompt(text));
        let ends: Vec<_> = (0..13).filter(|&id| tokenizer.is_end(id)).collect();
        let kinds = [9, 10, 11].map(|id| tokenizer.kind(id));
        Ok(format!("{encoded:?} {ends:?} {kinds:?}"))
    }

    /// A value that would change tokens, if the key counted.
    fn telling(key: &str) -> Value<'static> {
        static NINE: [u8; 4] = 9_u32.to_le_bytes();
        let short = key.trim_start_matches("tokenizer.").trim_start_matches("ggml.");
        match short {
            "model" => Value::single(Kind::String, b"none"),
            "pre" => Value::single(Kind::String, b"llama-bpe"),
            "tokens" | "merges" => Value::array(Kind::String, 0, b"", true),
            "scores" => {
                Value::array(Kind::U8, 13, b"\x01\x01\x01\x01\x01\x01\x06\x07\x01\x01\x01\x01\x01", true)
            }
            "token_type" => Value::array(Kind::U8, 13, &[1; 13], true),
            "add_bos_token" | "add_space_prefix" => Value::single(Kind::Bool, &[0]),
            _ if short.starts_with("add_") || short.contains('.') => Value::single(Kind::Bool, &[1]),
            "remove_extra_whitespaces" => Value::single(Kind::Bool, &[1]),
            "suppress_tokens" | "precompiled_charsmap" => Value::array(Kind::I32, 1, &NINE, true),
            _ => Value::single(Kind::U32, &NINE),
        }
    }

    #[test]
    fn keys_do_what_the_table_says() {
        for Setting { key, treatment } in SETTINGS {
            let with = |model| outcome(model, key, Some(telling(key))).map_err(|error| error.to_string());
            let without = |model| outcome(model, "", None).map_err(|error| error.to_string());
            let changes = ["llama", "gpt2"].map(|model| with(model) != without(model));
            match treatment {
                // Tests of chat, and of control tokens' names, have these.
                Honored if key.ends_with("chat_template") => {}
                Honored
                    if ["prefix", "suffix", "middle", "fim_pre", "fim_suf", "fim_mid"]
                        .iter()
                        .any(|part| key.contains(&format!(".{part}_"))) => {}
                Honored => assert!(changes.contains(&true), "{key}"),
                Harmless(_) => assert_eq!(changes, [false; 2], "{key}"),
                RefusedUnless(_, why) => {
                    assert!(with("llama").unwrap_err().contains(why), "{key}");
                    let nothing = Value::array(Kind::I32, 0, b"", true);
                    assert_eq!(outcome("gpt2", key, Some(nothing)).unwrap(), without("gpt2").unwrap());
                }
            }
        }
    }
}
