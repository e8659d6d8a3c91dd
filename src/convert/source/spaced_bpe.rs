//! `tokenizer.json` of SentencePiece's kind: BPE of characters, with U+2581 for spaces and a piece
//! for each byte.
//!
//! SentencePiece's scores aren't in the file: the merges are in their order, so a piece's score is
//! the place of the first merge that makes it. That is the same tokenizer only if the merges are
//! those that scores imply, which is looked at here.
//!
//! Source: the documentation of Hugging Face's tokenizers, and the behavior of `metaspace.rs` in
//! its repository.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::added_tokens::Normalized;
use super::tokenizer_json::{kind_of, stages, unsupported};
use super::tokenizer_settings::{self as settings, METASPACE};
use super::vocabulary::refuse;
use crate::error::Result;
use crate::tokenizer::{PieceKind, PieceSpec, TextSettings};

/// The longest piece: all its cuts are looked at.
const MAX_PIECE: usize = 1 << 10;
const MARK: &str = "\u{2581}";

/// What is done to a text before pieces are merged.
#[derive(Debug)]
pub(super) struct Spaces {
    pub(super) add_space_prefix: bool,
    pub(super) text: TextSettings,
    pub(super) normalized: Normalized,
}

impl Spaces {
    /// Reads a normalizer and the stages of a pre-tokenizer, which write U+2581 for spaces, one in
    /// front, and do no more.
    pub(super) fn read(
        normalizer: Option<&Value>,
        pre_tokenizers: &[&Map<String, Value>],
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        let (mut prepends, mut replaces) = (false, false);
        for stage in stages(normalizer, "normalizers") {
            let text = |key: &str| stage.get(key).and_then(Value::as_str);
            let pattern = stage.get("pattern").and_then(|pattern| pattern.get("String")?.as_str());
            let done = match kind_of(stage) {
                Some("Prepend") if text("prepend") == Some(MARK) => &mut prepends,
                Some("Replace") if (pattern, text("content")) == (Some(" "), Some(MARK)) => &mut replaces,
                _ => return Err(unsupported("normalizer", &Value::Object(stage.clone()))),
            };
            if std::mem::replace(done, true) && kind_of(stage) == Some("Prepend") {
                return Err(refuse("its normalizer puts two spaces before a text".into()));
            }
        }
        let metaspace = match pre_tokenizers {
            [] => None,
            [stage] if kind_of(stage) == Some("Metaspace") => Some(Metaspace::read(stage, notes)?),
            [stage, ..] => {
                return Err(unsupported("pre_tokenizer", &Value::Object((*stage).clone())));
            }
        };
        if !replaces && metaspace.is_none() {
            return Err(refuse("nothing writes U+2581 for spaces, which is not supported".into()));
        }
        let normalized = match (&metaspace, prepends, replaces) {
            (Some(_), false, false) => Normalized::Text,
            (Some(_), false, true) => Normalized::Marked,
            (None, prefixed, _) => Normalized::Merged { prefixed },
            (Some(_), true, _) => Normalized::Unknown,
        };
        // What the normalizer put in front is a space that Metaspace finds there.
        let Metaspace { prefix, once, split } = metaspace.unwrap_or_default();
        let by_metaspace = prefix && !prepends;
        let text = TextSettings {
            prefix_unless_space: by_metaspace,
            prefix_once: by_metaspace && once,
            split_words: split,
            ..TextSettings::default()
        };
        Ok(Self { add_space_prefix: prepends || prefix, text, normalized })
    }
}

/// A stage that writes U+2581 for spaces, and one in front of a text that doesn't begin with one.
#[derive(Clone, Copy, Debug, Default)]
struct Metaspace {
    prefix: bool,
    /// Only before the whole text.
    once: bool,
    split: bool,
}

impl Metaspace {
    fn read(stage: &Map<String, Value>, notes: &mut Vec<String>) -> Result<Self> {
        settings::check("tokenizer.json", "pre_tokenizer.", stage, METASPACE, notes)?;
        let old = stage.get("add_prefix_space").and_then(Value::as_bool);
        // Old files have no scheme.
        let (prefix, once) = match stage.get("prepend_scheme").and_then(Value::as_str) {
            Some("never") => (false, false),
            Some("first") => (true, true),
            Some("always") => (true, false),
            None if !stage.contains_key("prepend_scheme") => (old != Some(false), false),
            _ => return Err(unsupported("pre_tokenizer", &Value::Object(stage.clone()))),
        };
        let split = stage.get("split").and_then(Value::as_bool).unwrap_or(true);
        Ok(Self { prefix, once, split })
    }
}

/// The texts that merges make, each with the place of the first merge that makes it.
#[derive(Debug)]
pub(super) struct MergedTexts {
    places: HashMap<Vec<u8>, usize>,
    /// Merges, as they are written.
    merges: HashSet<Vec<u8>>,
}

impl MergedTexts {
    /// Reads merges. All that make the same text must follow each other, as they do where each text
    /// has a score.
    pub(super) fn read(merges: &[Cow<'_, [u8]>]) -> Result<Self> {
        let mut places = HashMap::new();
        let mut last = Vec::new();
        for (place, merge) in merges.iter().enumerate() {
            let Some(at) = merge.iter().position(|&byte| byte == b' ') else { continue };
            let text = [&merge[..at], &merge[at + 1..]].concat();
            if text != last && places.insert(text.clone(), place).is_some() {
                let text = String::from_utf8_lossy(&text);
                return Err(other_merges(&format!("those that make {text:?} don't follow each other")));
            }
            last = text;
        }
        Ok(Self { places, merges: merges.iter().map(|merge| merge.to_vec()).collect() })
    }

    pub(super) fn texts(&self) -> HashSet<Vec<u8>> {
        self.places.keys().cloned().collect()
    }

    /// Gives pieces the scores and kinds that SentencePiece's file has.
    pub(super) fn score(&self, pieces: &mut [PieceSpec<'static>], unk: Option<&str>) {
        for piece in pieces.iter_mut().filter(|piece| piece.kind == PieceKind::Normal) {
            if is_byte(&piece.text) {
                piece.kind = PieceKind::Byte;
            } else if unk.is_some_and(|unk| *piece.text == *unk.as_bytes()) {
                piece.kind = PieceKind::Unknown;
            } else {
                let place = self.places.get(&*piece.text).copied().unwrap_or(self.merges.len());
                piece.score = -(place as f32);
            }
        }
    }

    /// That each piece comes out of all pairs that it can be cut into, as SentencePiece has it.
    pub(super) fn check(&self, pieces: &[PieceSpec<'static>]) -> Result<()> {
        let normal = pieces.iter().filter(|piece| piece.kind == PieceKind::Normal);
        let texts: Vec<&str> = normal.filter_map(|piece| str::from_utf8(&piece.text).ok()).collect();
        let known: HashSet<&str> = texts.iter().copied().collect();
        let is_symbol = |text: &str| text.chars().nth(1).is_none() || known.contains(text);
        for text in texts {
            if text.len() > MAX_PIECE {
                return Err(refuse(format!(
                    "a piece has {} bytes, at most {MAX_PIECE} are possible",
                    text.len()
                )));
            }
            for (at, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(at);
                let merge = || [left, right].join(" ").into_bytes();
                if is_symbol(left) && is_symbol(right) && !self.merges.contains(&merge()) {
                    return Err(other_merges(&format!("{left:?} and {right:?} don't make {text:?}")));
                }
            }
        }
        Ok(())
    }
}

fn other_merges(reason: &str) -> crate::error::Error {
    refuse(format!(
        "its merges aren't those of a SentencePiece model, which GGUF needs here: {reason}; convert with the tokenizer.model if \
         there is one"
    ))
}

/// Whether there is a piece for each byte.
pub(super) fn has_all_bytes(pieces: &[PieceSpec<'static>]) -> bool {
    let bytes: HashSet<&[u8]> =
        pieces.iter().map(|piece| &*piece.text).filter(|text| is_byte(text)).collect();
    (0..=u8::MAX).all(|byte| bytes.contains(format!("<0x{byte:02X}>").as_bytes()))
}

fn is_byte(text: &[u8]) -> bool {
    matches!(text, [b'<', b'0', b'x', _, _, b'>'])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The prefix, its exceptions and the split, or why not.
    fn spaces(normalizer: &Value, stages: &[Value]) -> std::result::Result<(bool, bool, bool, bool), String> {
        let stages: Vec<_> = stages.iter().map(|stage| stage.as_object().unwrap()).collect();
        let read = Spaces::read(Some(normalizer), &stages, &mut Vec::new());
        let flags = |it: Spaces| {
            (it.add_space_prefix, it.text.prefix_unless_space, it.text.prefix_once, it.text.split_words)
        };
        read.map(flags).map_err(|e| e.to_string())
    }

    #[test]
    fn spaces_are_written_in_every_way_that_files_have() {
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": MARK});
        let prepend = json!({"type": "Prepend", "prepend": MARK});
        let sequence = |parts: Value| json!({"type": "Sequence", "normalizers": parts});
        let meta = |more: Value| {
            let mut stage = json!({"type": "Metaspace", "replacement": MARK});
            stage.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            stage
        };
        let scheme = |scheme: &str, split: bool| meta(json!({"prepend_scheme": scheme, "split": split}));
        let (none, empty) = (Value::Null, sequence(json!([])));
        let both = sequence(json!([prepend, replace]));
        for (normalizer, stages, expected) in [
            (&both, vec![], (true, false, false, false)),
            (&replace, vec![], (false, false, false, false)),
            (&none, vec![scheme("first", false)], (true, true, true, false)),
            (&empty, vec![scheme("always", false)], (true, true, false, false)),
            (&replace, vec![scheme("never", true)], (false, false, false, true)),
            (&both, vec![scheme("first", true)], (true, false, false, true)),
            (&none, vec![meta(json!({}))], (true, true, false, true)),
            (
                &none,
                vec![meta(json!({"add_prefix_space": false, "str_rep": MARK}))],
                (false, false, false, true),
            ),
        ] {
            assert_eq!(spaces(normalizer, &stages), Ok(expected), "{normalizer} {stages:?}");
        }
        let twice = sequence(json!([prepend, prepend, replace]));
        let other =
            json!({"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": false});
        for (normalizer, stages, reason) in [
            (&twice, vec![], "two spaces"),
            (&prepend, vec![], "nothing writes U+2581"),
            (&none, vec![], "nothing writes U+2581"),
            (&none, vec![other], "pre_tokenizer.replacement"),
            (&none, vec![scheme("last", false)], "pre_tokenizer is not supported"),
            (&none, vec![scheme("first", false), scheme("first", false)], "pre_tokenizer is not supported"),
            (&json!({"type": "NFKC"}), vec![], "NFKC"),
        ] {
            let error = spaces(normalizer, &stages).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn merges_must_be_those_of_scores() {
        let piece = |text: &&str| PieceSpec {
            text: text.as_bytes().to_vec().into(),
            score: 0.0,
            kind: PieceKind::Normal,
        };
        let check = |texts: &[&str], merges: &[&str]| {
            let merges: Vec<Cow<'_, [u8]>> = merges.iter().map(|merge| merge.as_bytes().into()).collect();
            let mut pieces: Vec<_> = texts.iter().map(piece).collect();
            let merged = MergedTexts::read(&merges).map_err(|e| e.to_string())?;
            merged.score(&mut pieces, None);
            merged.check(&pieces).map_err(|e| e.to_string())?;
            Ok(pieces.iter().map(|piece| piece.score).collect::<Vec<f32>>())
        };
        let all = ["a", "b", "ab", "aab", "aa"];
        let scores = check(&all, &["a b", "a ab", "aa b", "a a"]);
        assert_eq!(scores, Ok(vec![-4.0, -4.0, 0.0, -1.0, -3.0]));
        // Pieces that training made have one merge each.
        let error: std::result::Result<Vec<f32>, String> = check(&all, &["a b", "a ab", "a a"]);
        assert!(error.unwrap_err().contains("\"aa\" and \"b\" don't make \"aab\""));
        let error = check(&all, &["a b", "a ab", "a a", "aa b"]);
        assert!(error.unwrap_err().contains("\"aab\" don't follow each other"));
    }
}
