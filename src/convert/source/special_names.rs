//! Tokens that `tokenizer_config.json` and `special_tokens_map.json` only name.
//!
//! transformers adds a name that isn't in the vocabulary to it, under the next free number; what
//! isn't written out in `tokenizer.json` or `added_tokens_decoder` isn't known here. So a token
//! that begins or ends texts must be there if the model has room for it, and others are noted.

use std::path::Path;

use serde_json::Value;

use super::hf_tokenizer::CONFIG;
use super::json::{JsonFile, Object};
use super::vocabulary::{OwnedSpec, refuse};
use crate::error::Result;
use crate::tokenizer::PieceKind;

const MAP: &str = "special_tokens_map.json";

/// Keys whose token begins or ends texts.
const MARKS: [&str; 2] = ["bos_token", "eos_token"];
const KEYS: [&str; 8] = [
    "unk_token",
    "pad_token",
    "cls_token",
    "sep_token",
    "mask_token",
    "additional_special_tokens",
    "extra_special_tokens",
    "model_specific_special_tokens",
];

/// What `special_tokens_map.json` says, if it is there.
pub(super) fn open(folder: &Path) -> Result<Option<JsonFile>> {
    JsonFile::open_if_there(&folder.join(MAP))
}

/// The text of a token, which may be in an object.
pub(super) fn text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// Checks the names of both files of a folder; `vocab_size` is the model's.
pub(super) fn check(
    spec: &OwnedSpec,
    config: Option<&Object<'_>>,
    map: Option<&Object<'_>>,
    (folder, vocab_size): (&Path, usize),
    notes: &mut Vec<String>,
) -> Result<()> {
    let n_pieces = spec.pieces.iter().rposition(|piece| piece.kind != PieceKind::Unused).map_or(0, |i| i + 1);
    let has_room = n_pieces < vocab_size;
    for (file, object) in [(CONFIG, config), (MAP, map)] {
        let Some(object) = object else { continue };
        for key in MARKS.into_iter().chain(KEYS) {
            let missing = names(object.get(key)).into_iter().find(|name| spec.find(name).is_none());
            let Some(name) = missing.filter(|name| !name.is_empty()) else { continue };
            let says = format!("{key} is {name:?}, which is no token of the vocabulary");
            if MARKS.contains(&key) && has_room {
                return Err(refuse(format!(
                    "{says}: transformers adds it as token {n_pieces}; save the tokenizer with transformers, \
                     which writes it out (AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)), or \
                     remove the key"
                ))
                .at(Some(&folder.join(file))));
            }
            notes.push(format!("{file}: {says}: transformers makes it a token, and here it is text"));
        }
    }
    for key in MARKS {
        let of = |object: Option<&Object<'_>>| object?.get(key).and_then(text).map(str::to_owned);
        if let (Some(one), Some(other)) = (of(config), of(map))
            && one != other
        {
            notes.push(format!(
                "{CONFIG} says {key} is {one:?}, which counts, and {MAP} says {other:?}, which counts in \
                 transformers 5"
            ));
        }
    }
    Ok(())
}

/// The names that a value has: one, or several in a list or an object.
fn names(value: Option<&Value>) -> Vec<&str> {
    match value {
        Some(Value::Array(values)) => values.iter().filter_map(text).collect(),
        Some(Value::Object(fields)) if !fields.contains_key("content") => {
            fields.values().filter_map(text).collect()
        }
        value => value.and_then(text).into_iter().collect(),
    }
}
