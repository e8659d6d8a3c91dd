//! Hugging Face's `tokenizer.json`: byte-level BPE, as that of Llama 3, and SentencePiece's in the
//! form of BPE.
//!
//! A byte-level tokenizer must cut a text into words in a way that GGUF has a name for. The other
//! kind is in `spaced_bpe`.
//!
//! Source: the documentation of Hugging Face's tokenizers; llama.cpp's names of pre-tokenizers.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::added_tokens::{self, AddedToken, Normalized};
use super::json::{JsonFile, Object};
use super::post_processor::bos_eos;
use super::spaced_bpe::{self, MergedTexts, Spaces};
use super::tokenizer_settings::{self as settings, ADDED_TOKEN, MODEL, TOKENIZER};
use super::vocabulary::{OwnedSpec, refuse, unused};
use super::words::{self, KnownWords};
use crate::error::{Error, ErrorKind, Result, TokenId};
use crate::tokenizer::{PieceKind, PieceSpec, TokenizerModel, encode_alphabet};

const JSON: &str = "tokenizer.json";
/// The largest that is read: those of the largest vocabularies have about 35 MB.
const MAX_BYTES: u64 = 1 << 26;

/// A `tokenizer.json`.
#[derive(Debug)]
pub(super) struct TokenizerJson(JsonFile);

impl TokenizerJson {
    pub(super) fn open(path: &Path) -> Result<Self> {
        JsonFile::open_up_to(path, MAX_BYTES).map(Self)
    }

    /// The tokenizer of a model that knows `vocab_size` tokens. Others say of added tokens too, and
    /// have the last word.
    pub(super) fn spec(&self, vocab_size: usize, others: Vec<AddedToken>) -> Result<OwnedSpec> {
        let file = self.0.object();
        let mut notes = Vec::new();
        settings::check(JSON, "", file.map, TOKENIZER, &mut notes)?;
        let model = file.object("model")?.ok_or_else(|| Error::missing_key("model"))?;
        // Old files don't name it.
        let kind = model.optional("type")?.unwrap_or("BPE");
        if kind != "BPE" {
            return Err(refuse(format!("tokenizers of the kind {kind:?} are not supported")));
        }
        settings::check(JSON, "model.", model.map, MODEL, &mut notes)?;
        let stages = stages(file.get("pre_tokenizer"), "pretokenizers");
        let is_byte_level = stages.iter().any(|stage| kind_of(stage) == Some("ByteLevel"));
        let own = self.added_tokens(vocab_size, &mut notes)?.into_iter();
        let tokens: BTreeMap<TokenId, AddedToken> =
            own.chain(others).map(|token| (token.id, token)).collect();
        let tokens: Vec<_> = tokens.into_values().collect();
        let pieces = pieces(&model, vocab_size)?;
        let mut spec = if is_byte_level {
            let mut spec = self.byte_level(&model, pieces, &stages)?;
            added_tokens::add(&mut spec, &tokens, Normalized::Text, &HashSet::new())?;
            spec
        } else {
            self.spaced(&model, pieces, &stages, &tokens, &mut notes)?
        };
        notes.append(&mut spec.notes);
        spec.notes = notes;
        let (bos, eos) = bos_eos(file.get("post_processor"))?;
        if let Some(id) = [bos, eos].into_iter().flatten().find(|&id| id as usize >= spec.pieces.len()) {
            return Err(refuse(format!("its post_processor adds token {id}, which there isn't")));
        }
        (spec.bos, spec.eos) = (bos, eos);
        (spec.add_bos, spec.add_eos) = (Some(bos.is_some()), Some(eos.is_some()));
        Ok(spec)
    }

    fn byte_level(
        &self,
        model: &Object<'_>,
        pieces: Vec<PieceSpec<'static>>,
        stages: &[&Map<String, Value>],
    ) -> Result<OwnedSpec> {
        let file = self.0.object();
        let normalizers = self::stages(file.get("normalizer"), "normalizers");
        if let Some(stage) = normalizers.iter().find(|stage| kind_of(stage) != Some("NFC")) {
            return Err(unsupported("normalizer", &Value::Object((*stage).clone())));
        }
        let ignore_merges = model.optional("ignore_merges")?.unwrap_or(false);
        let found = words::known(stages, ignore_merges).ok_or_else(|| {
            if words::known(stages, !ignore_merges).is_none() {
                return unsupported("pre_tokenizer", &file.map["pre_tokenizer"]);
            }
            let reason = "GGUF's name for this pre_tokenizer means the opposite, and it has no other";
            refuse(format!("model.ignore_merges is {ignore_merges}: {reason}"))
        });
        let KnownWords { pre, unicode_case, note } = found?;
        let known: HashSet<&[u8]> = pieces.iter().map(|piece| &*piece.text).collect();
        // Of those that text can have.
        let bytes = (0..0xf5_u8).filter(|byte| !matches!(byte, 0xc0 | 0xc1));
        let lost = bytes.filter(|&byte| !known.contains(&*encode_alphabet(&[byte])));
        let lost: Vec<String> = lost.map(|byte| format!("{byte:#04x}")).collect();
        let mut spec = OwnedSpec {
            model: TokenizerModel::BytePairs { pre, merges: merges(model)? },
            ..OwnedSpec::default()
        };
        if !lost.is_empty() {
            let note =
                format!("the tokenizer has no piece for some bytes, which texts lose: {}", lost.join(", "));
            if model.optional::<&str>("unk_token")?.is_some_and(|unk| known.contains(unk.as_bytes())) {
                return Err(refuse(format!(
                    "{note}; they are unknown tokens in the source, which GGUF can't say"
                )));
            }
            spec.notes.push(note);
        }
        spec.pieces = pieces;
        spec.text.unicode_case = unicode_case;
        spec.notes.extend(note.map(str::to_owned));
        spec.text.nfc = !normalizers.is_empty();
        Ok(spec)
    }

    /// A tokenizer of SentencePiece's kind.
    fn spaced(
        &self,
        model: &Object<'_>,
        mut pieces: Vec<PieceSpec<'static>>,
        stages: &[&Map<String, Value>],
        tokens: &[AddedToken],
        notes: &mut Vec<String>,
    ) -> Result<OwnedSpec> {
        if model.optional("byte_fallback")? != Some(true) || !spaced_bpe::has_all_bytes(&pieces) {
            return Err(refuse("it is neither byte-level nor has it a piece for each byte".into()));
        }
        if model.optional("ignore_merges")? == Some(true) {
            return Err(refuse(
                "model.ignore_merges is true: that is only supported for byte-level BPE".into(),
            ));
        }
        let Spaces { add_space_prefix, text, normalized } =
            Spaces::read(self.0.object().get("normalizer"), stages, notes)?;
        let merged = MergedTexts::read(&merges(model)?)?;
        merged.score(&mut pieces, model.optional("unk_token")?);
        let mut spec = OwnedSpec {
            pieces,
            model: TokenizerModel::SentencePiece { add_space_prefix },
            ..OwnedSpec::default()
        };
        spec.text = text;
        added_tokens::add(&mut spec, tokens, normalized, &merged.texts())?;
        merged.check(&spec.pieces)?;
        Ok(spec)
    }

    /// Tokens that aren't a part of the vocabulary proper. Those that the model doesn't know are
    /// left out.
    pub(super) fn added_tokens(&self, vocab_size: usize, notes: &mut Vec<String>) -> Result<Vec<AddedToken>> {
        let Some(tokens) = self.0.object().optional::<&Vec<Value>>("added_tokens")? else {
            return Ok(Vec::new());
        };
        let mut added = Vec::new();
        for token in tokens {
            let token = token.as_object().ok_or_else(|| Error::missing_key("added_tokens"))?;
            settings::check(JSON, "", token, ADDED_TOKEN, notes)?;
            let token = Object::of(token);
            let id = token.required::<TokenId>("id")?;
            if (id as usize) < vocab_size {
                added.push(AddedToken::read(id, &token)?);
            }
        }
        Ok(added)
    }

    /// The pieces in the order of their ids.
    pub(super) fn pieces(&self, vocab_size: usize) -> Result<Vec<PieceSpec<'static>>> {
        let model = self.0.object().object("model")?.ok_or_else(|| Error::missing_key("model"))?;
        pieces(&model, vocab_size)
    }
}

pub(super) fn unsupported(what: &str, value: &Value) -> Error {
    let value: String = value.to_string().chars().take(300).collect();
    let known = match what {
        "normalizer" => "the text must stay as it is, except for U+2581 in place of spaces and one in front",
        "pre_tokenizer" => "babyllama's converter doesn't know it",
        _ => {
            "only one token before a text and one after it are; leave it out, and write the others into the prompt"
        }
    };
    refuse(format!("the {what} is not supported: {value}: {known}"))
}

/// The pieces in the order of their ids. An id that none has gets an unused one.
fn pieces(model: &Object<'_>, vocab_size: usize) -> Result<Vec<PieceSpec<'static>>> {
    let vocab: &Map<String, Value> = model.required("vocab")?;
    let mut texts: Vec<Option<&str>> = vec![None; vocab_size];
    for (text, id) in vocab {
        let id = id.as_u64().ok_or_else(|| model.wrong_type("vocab", "integers", id))?;
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
            PieceSpec { text: (*text).to_owned().into_bytes().into(), score: 0.0, kind: PieceKind::Normal }
        }
        None => unused(id),
    };
    Ok(texts[..n].iter().enumerate().map(piece).collect())
}

/// The merges, each two texts with a space between: so they are written, or as arrays of two.
fn merges(model: &Object<'_>) -> Result<Vec<Cow<'static, [u8]>>> {
    let merges: &Vec<Value> = model.required("merges")?;
    let merge = |merge: &Value| -> Option<Cow<'static, [u8]>> {
        let text = match merge.as_array().map(|pair| &**pair) {
            Some([left, right]) => [left.as_str()?, right.as_str()?].join(" "),
            Some(_) => return None,
            None => merge.as_str()?.to_owned(),
        };
        Some(text.into_bytes().into())
    };
    let wrong = |found| model.wrong_type("merges", "pairs of texts", found);
    merges.iter().map(|found| merge(found).ok_or_else(|| wrong(found))).collect()
}

static NO_STAGE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

/// The parts of a sequence, or the only part.
pub(super) fn stages<'a>(value: Option<&'a Value>, key: &str) -> Vec<&'a Map<String, Value>> {
    let Some(value) = value.filter(|value| !value.is_null()) else { return Vec::new() };
    // What isn't an object is a stage of no kind, which no reader takes.
    let Some(object) = value.as_object() else { return vec![&NO_STAGE] };
    match object.get(key).and_then(Value::as_array) {
        Some(parts) => parts.iter().map(|part| part.as_object().unwrap_or(&NO_STAGE)).collect(),
        None => vec![object],
    }
}

pub(super) fn kind_of(stage: &Map<String, Value>) -> Option<&str> {
    stage.get("type")?.as_str()
}
