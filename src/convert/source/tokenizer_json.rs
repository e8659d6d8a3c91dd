//! Hugging Face's `tokenizer.json`: byte-level BPE, as that of Llama 3, and SentencePiece's in the form of BPE.
//!
//! A byte-level tokenizer must cut a text into words in a way that GGUF has a name for. SentencePiece's scores aren't in the
//! file: the merges are in their order, so a piece's score is the place of the first merge that makes it.
//!
//! Source: the documentation of Hugging Face's tokenizers; llama.cpp's names of pre-tokenizers.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::json::{JsonFile, Object};
use super::vocabulary::{OwnMerging, Vocabulary, refuse, unused};
use crate::error::{ErrorKind, Result, TokenId};
use crate::tokenizer::{PieceKind, PiecePart};

/// The largest that is read: those of the largest vocabularies have about 35 MB.
const MAX_BYTES: u64 = 1 << 26;

/// The expression of Llama 3 but for its numbers, and behind them.
const LLAMA_3: [&str; 2] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];
/// Mistral's Tekken.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A token that isn't a part of the vocabulary proper.
#[derive(Clone, Debug)]
pub(super) struct AddedToken {
    pub(super) id: TokenId,
    pub(super) text: String,
    pub(super) is_control: bool,
}

/// A `tokenizer.json`.
#[derive(Debug)]
pub(super) struct TokenizerJson(JsonFile);

impl TokenizerJson {
    pub(super) fn open(path: &Path) -> Result<Self> {
        JsonFile::open_up_to(path, MAX_BYTES).map(Self)
    }

    /// The tokenizer of a model that knows so many tokens.
    pub(super) fn vocabulary(&self, vocab_size: usize) -> Result<Vocabulary> {
        let file = self.0.object();
        let model = file.object("model")?.ok_or_else(|| missing("model"))?;
        // Old files don't name it.
        let kind = model.optional("type")?.unwrap_or("BPE");
        if kind != "BPE" {
            return Err(refuse(format!("tokenizers of the kind {kind:?} are not supported")));
        }
        let mut pieces = pieces(&model, vocab_size)?;
        let merges = merges(&model)?;
        let stages = stages(file.get("pre_tokenizer"), "pretokenizers");
        let is_byte_level = stages.iter().any(|stage| kind_of(stage) == Some("ByteLevel"));
        let mut vocabulary = if is_byte_level {
            if let Some(normalizer) = file.get("normalizer") {
                return Err(unsupported("normalizer", normalizer));
            }
            let ignore_merges = model.optional("ignore_merges")?.unwrap_or(false);
            let pre = pre_tokenizer(&stages, ignore_merges);
            let pre = pre.ok_or_else(|| unsupported("pre_tokenizer", &file.map["pre_tokenizer"]))?;
            Vocabulary::new(pieces, OwnMerging::BytePairs { pre, merges })
        } else if model.optional("byte_fallback")? == Some(true) {
            let add_space_prefix = space_prefix(file.get("normalizer"), &stages)?;
            score_by_merges(&mut pieces, &merges, model.optional("unk_token")?);
            Vocabulary::new(pieces, OwnMerging::SentencePiece { add_space_prefix })
        } else {
            return Err(refuse("it is neither byte-level nor has it a piece for each byte".into()));
        };
        for AddedToken { id, text, is_control } in self.added_tokens(vocab_size)? {
            vocabulary.set_added(id, &text, is_control);
        }
        let frame = frame(file.get("post_processor"));
        let id = |name: &Option<String>| name.as_deref().and_then(|name| vocabulary.find(name));
        let (bos, eos) = (id(&frame.0), id(&frame.1));
        if is_byte_level || file.get("post_processor").is_some() {
            vocabulary.add_bos = Some(bos.is_some());
            vocabulary.add_eos = Some(eos.is_some());
        }
        (vocabulary.bos, vocabulary.eos) = (bos, eos);
        Ok(vocabulary)
    }

    /// Tokens that aren't a part of the vocabulary proper. Those that the model doesn't know are left out.
    pub(super) fn added_tokens(&self, vocab_size: usize) -> Result<Vec<AddedToken>> {
        let Some(tokens) = self.0.object().optional::<&Vec<Value>>("added_tokens")? else {
            return Ok(Vec::new());
        };
        let mut added = Vec::new();
        for token in tokens {
            let token = token.as_object().ok_or_else(|| missing("added_tokens"))?;
            let token = Object::of(token);
            let (id, text) = (token.required::<TokenId>("id")?, token.required::<&str>("content")?);
            let is_control = token.optional("special")?.unwrap_or(false);
            if (id as usize) < vocab_size {
                added.push(AddedToken { id, text: text.into(), is_control });
            }
        }
        Ok(added)
    }
}

fn missing(key: &str) -> ErrorKind {
    ErrorKind::MissingKey { key: key.into() }
}

fn unsupported(what: &str, value: &Value) -> crate::error::Error {
    let value: String = value.to_string().chars().take(300).collect();
    refuse(format!("the {what} is not supported: {value}"))
}

/// The pieces in the order of their ids. An id that none has gets an unused one.
fn pieces(model: &Object<'_>, vocab_size: usize) -> Result<Vec<PiecePart<'static>>> {
    let vocab: &Map<String, Value> = model.required("vocab")?;
    let mut texts: Vec<Option<&str>> = vec![None; vocab_size];
    for (text, id) in vocab {
        let id = id.as_u64().ok_or_else(|| model.wrong_type("vocab", "whole numbers", id))?;
        let Some(place) = usize::try_from(id).ok().and_then(|id| texts.get_mut(id)) else {
            let tokenizer = usize::try_from(id).unwrap_or(usize::MAX).saturating_add(1);
            return Err(ErrorKind::VocabMismatch { tokenizer, model: vocab_size }.into());
        };
        if let Some(other) = place.replace(text) {
            return Err(refuse(format!("{other:?} and {text:?} are both token {id}")));
        }
    }
    // The rest may be added tokens, or nothing.
    let n = texts.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    let piece = |(id, text): (usize, &Option<&str>)| match text {
        Some(text) => {
            PiecePart { text: (*text).to_owned().into_bytes().into(), score: 0.0, kind: PieceKind::Normal }
        }
        None => unused(id),
    };
    Ok(texts[..n].iter().enumerate().map(piece).collect())
}

/// The merges, each two texts with a space between: so they are written, or as arrays of two.
fn merges(model: &Object<'_>) -> Result<Vec<Vec<u8>>> {
    let merges: &Vec<Value> = model.required("merges")?;
    let merge = |merge: &Value| -> Option<Vec<u8>> {
        let text = match merge.as_array().map(|pair| &**pair) {
            Some([left, right]) => [left.as_str()?, right.as_str()?].join(" "),
            Some(_) => return None,
            None => merge.as_str()?.to_owned(),
        };
        Some(text.into_bytes())
    };
    let wrong = |found| model.wrong_type("merges", "pairs of texts", found);
    merges.iter().map(|found| merge(found).ok_or_else(|| wrong(found))).collect()
}

/// The parts of a sequence, or the only part.
fn stages<'a>(value: Option<&'a Value>, key: &str) -> Vec<&'a Map<String, Value>> {
    let Some(object) = value.and_then(Value::as_object) else { return Vec::new() };
    match object.get(key).and_then(Value::as_array) {
        Some(parts) => parts.iter().filter_map(Value::as_object).collect(),
        None => vec![object],
    }
}

fn kind_of(stage: &Map<String, Value>) -> Option<&str> {
    stage.get("type")?.as_str()
}

/// GGUF's name for a way to cut a text into words, if it has one.
fn pre_tokenizer(stages: &[&Map<String, Value>], ignore_merges: bool) -> Option<&'static str> {
    let flag = |stage: &Map<String, Value>, key: &str| stage.get(key).and_then(Value::as_bool);
    let (last, first) = stages.split_last()?;
    if kind_of(last) != Some("ByteLevel") || flag(last, "add_prefix_space") == Some(true) {
        return None;
    }
    let splits_as_gpt2 = flag(last, "use_regex") != Some(false);
    match *first {
        [] if splits_as_gpt2 => Some("gpt-2"),
        [digits] if splits_as_gpt2 && kind_of(digits) == Some("Digits") => {
            (flag(digits, "individual_digits") == Some(true)).then_some("smollm")
        }
        [split] if !splits_as_gpt2 && kind_of(split) == Some("Split") => {
            let isolates = split.get("behavior").and_then(Value::as_str) == Some("Isolated");
            if !isolates || flag(split, "invert") == Some(true) {
                return None;
            }
            let pattern = split.get("pattern")?.get("Regex")?.as_str()?;
            let rest = pattern.strip_prefix(LLAMA_3[0]).and_then(|rest| rest.strip_suffix(LLAMA_3[1]));
            match (rest, ignore_merges) {
                (Some("{1,3}"), true) => Some("llama-bpe"),
                (Some("{1,3}"), false) => Some("smaug-bpe"),
                (Some(""), false) => Some("qwen2"),
                _ => (pattern == TEKKEN && ignore_merges).then_some("tekken"),
            }
        }
        _ => None,
    }
}

/// Whether SentencePiece's dummy space is put in front of a text. Nothing else may be done to it.
fn space_prefix(normalizer: Option<&Value>, stages: &[&Map<String, Value>]) -> Result<bool> {
    let mut prefix = false;
    for stage in self::stages(normalizer, "normalizers") {
        let text = |key: &str| stage.get(key).and_then(Value::as_str);
        let spaces = stage.get("pattern").and_then(|pattern| pattern.get("String"));
        match kind_of(stage) {
            Some("Prepend") if text("prepend") == Some("\u{2581}") => prefix = true,
            Some("Replace")
                if spaces.and_then(Value::as_str) == Some(" ") && text("content") == Some("\u{2581}") => {}
            _ => return Err(unsupported("normalizer", &Value::Object(stage.clone()))),
        }
    }
    for stage in stages {
        let scheme = stage.get("prepend_scheme").and_then(Value::as_str);
        let old = stage.get("add_prefix_space").and_then(Value::as_bool);
        match kind_of(stage) {
            Some("Metaspace") => prefix |= scheme.map_or(old != Some(false), |scheme| scheme != "never"),
            _ => return Err(unsupported("pre_tokenizer", &Value::Object((*stage).clone()))),
        }
    }
    Ok(prefix)
}

/// Gives pieces the scores and kinds that SentencePiece's file has.
fn score_by_merges(pieces: &mut [PiecePart<'static>], merges: &[Vec<u8>], unk: Option<&str>) {
    let mut places = HashMap::new();
    for (place, merge) in merges.iter().enumerate() {
        let parts = merge.iter().position(|&byte| byte == b' ').map(|at| merge.split_at(at));
        if let Some((left, right)) = parts {
            places.entry([left, &right[1..]].concat()).or_insert(place);
        }
    }
    for piece in pieces.iter_mut().filter(|piece| piece.kind == PieceKind::Normal) {
        let is_byte = matches!(*piece.text, [b'<', b'0', b'x', _, _, b'>']);
        if is_byte {
            piece.kind = PieceKind::Byte;
        } else if unk.is_some_and(|unk| *piece.text == *unk.as_bytes()) {
            piece.kind = PieceKind::Unknown;
        } else {
            piece.score = -(places.get(&*piece.text).copied().unwrap_or(merges.len()) as f32);
        }
    }
}

/// The tokens that are put in front of a text and behind it.
fn frame(processor: Option<&Value>) -> (Option<String>, Option<String>) {
    let stages = stages(processor, "processors");
    let template = stages.into_iter().find(|stage| kind_of(stage) == Some("TemplateProcessing"));
    let parts = template.and_then(|template| template.get("single")?.as_array());
    let name = |part: Option<&Value>| -> Option<String> {
        Some(part?.get("SpecialToken")?.get("id")?.as_str()?.to_owned())
    };
    let parts = parts.map_or(&[][..], |parts| parts);
    (name(parts.first()), name(parts.last()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(json: &str, ignore_merges: bool) -> Option<&'static str> {
        let value: Value = serde_json::from_str(json).unwrap();
        pre_tokenizer(&stages(Some(&value), "pretokenizers"), ignore_merges)
    }

    #[test]
    fn pre_tokenizers_are_known_by_what_they_do() {
        let bytes = r#"{"type": "ByteLevel", "add_prefix_space": false, "use_regex": REGEX}"#;
        let sequence = |first: &str, regex: &str| {
            let bytes = bytes.replace("REGEX", regex);
            format!(r#"{{"type": "Sequence", "pretokenizers": [{first}{bytes}]}}"#)
        };
        let split = |numbers: &str| {
            let pattern = Value::from([LLAMA_3[0], numbers, LLAMA_3[1]].concat());
            format!(r#"{{"type": "Split", "pattern": {{"Regex": {pattern}}}, "behavior": "Isolated"}}, "#)
        };
        assert_eq!(named(&bytes.replace("REGEX", "true"), false), Some("gpt-2"));
        assert_eq!(named(&sequence(&split("{1,3}"), "false"), true), Some("llama-bpe"));
        assert_eq!(named(&sequence(&split("{1,3}"), "false"), false), Some("smaug-bpe"));
        assert_eq!(named(&sequence(&split(""), "false"), false), Some("qwen2"));
        assert_eq!(named(&sequence(&split("{1,4}"), "false"), false), None);
        let digits = r#"{"type": "Digits", "individual_digits": true}, "#;
        assert_eq!(named(&sequence(digits, "true"), false), Some("smollm"));
        assert_eq!(named(&sequence(digits, "false"), false), None);
    }
}
