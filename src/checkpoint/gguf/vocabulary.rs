//! The tokenizer of a GGUF file, as the keys `tokenizer.ggml.*` describe it, and those of our own:
//! `babyllama.tokenizer.*`.

use std::borrow::Cow;

use super::metadata::{FromValue, Metadata, Value};
use super::{keys, tokenizer_settings};
use crate::error::{Error, ErrorKind, Result, TokenId};
use crate::tokenizer::{
    ADDED_TOKEN_FLAGS, ADDED_TOKENS, END_TOKENS, FLAGS, FimIds, PieceKind, PieceSpec, Strip, TextSettings,
    TokenizerModel, TokenizerSpec,
};

/// The number of pieces, if the file has a vocabulary.
pub(super) fn len(metadata: &Metadata<'_>) -> Result<Option<usize>> {
    Ok(metadata.strings(keys::PIECES)?.map(|tokens| tokens.len()))
}

/// What the file says of its tokenizer. `None` if it has none.
pub(super) fn spec<'a>(metadata: &Metadata<'a>) -> Result<Option<TokenizerSpec<'a>>> {
    let model = match metadata.optional::<String>(keys::TOKENIZER)?.as_deref() {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some("llama") => TokenizerModel::SentencePiece {
            add_space_prefix: metadata.optional(keys::ADD_SPACE_PREFIX)?.unwrap_or(true),
        },
        Some("gpt2") => TokenizerModel::BytePairs {
            pre: metadata.text(keys::PRE_TOKENIZER)?.filter(|pre| !pre.is_empty()).unwrap_or("default"),
            merges: metadata
                .strings(keys::MERGES)?
                .ok_or_else(|| Error::missing_key(keys::MERGES))?
                .map(Cow::Borrowed)
                .collect(),
        },
        Some(model) => {
            let reason = format!("tokenizers of the kind {model:?} are not supported");
            return Err(ErrorKind::Tokenizer { reason }.into());
        }
    };
    tokenizer_settings::check(metadata)?;
    let pieces = pieces(metadata)?;
    let id = |names: &[&str]| special(metadata, names, pieces.len());
    let fim = FimIds {
        prefix: id(&["fim_pre", "prefix"])?,
        suffix: id(&["fim_suf", "suffix"])?,
        middle: id(&["fim_mid", "middle"])?,
        pad: id(&["fim_pad"])?,
        repository: id(&["fim_rep"])?,
        separator: id(&["fim_sep"])?,
    };
    Ok(Some(TokenizerSpec {
        bos: id(&["bos"])?,
        eos: id(&["eos"])?,
        eot: id(&["eot"])?,
        eom: id(&["eom"])?,
        other_ends: metadata
            .array(END_TOKENS, "an array of integers below 2^32", u32::from_value)?
            .unwrap_or_default(),
        unk: id(&["unknown"])?,
        fim,
        strips: strips(metadata, &pieces)?,
        text: text_settings(metadata)?,
        add_bos: metadata.optional(keys::ADD_BOS)?,
        add_eos: metadata.optional(keys::ADD_EOS)?,
        pieces,
        model,
        notes: Vec::new(),
    }))
}

/// The id of a special token, which goes by one of some names; the last that is there counts. An id
/// beyond the vocabulary is as none.
fn special(metadata: &Metadata<'_>, names: &[&str], n_pieces: usize) -> Result<Option<TokenId>> {
    let mut found = None;
    for name in names {
        let id = metadata.optional::<TokenId>(&keys::token_id(name))?;
        found = id.filter(|&id| (id as usize) < n_pieces).or(found);
    }
    Ok(found)
}

/// Which pieces strip the spaces around them: no key says it, so llama.cpp goes by names of models.
fn strips(metadata: &Metadata<'_>, pieces: &[PieceSpec<'_>]) -> Result<Vec<(TokenId, Strip)>> {
    let pre = metadata.text(keys::PRE_TOKENIZER)?.unwrap_or_default();
    let name = metadata.get(keys::NAME).and_then(Value::text).unwrap_or_default();
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let has_masks = ["jina-v2-de", "jina-v2-es", "jina-v2-code"].iter().any(|of| pre.contains(of));
    let is_phi_3 = name.contains("phi-3") || name.contains("phi3");
    let strip = |text: &[u8]| match text {
        b"<mask>" if has_masks => Some(Strip { left: true, right: false }),
        _ if has_masks => None,
        b"<unk>" | b"<s>" | b"<|endoftext|>" => None,
        _ if is_phi_3 => Some(Strip { left: false, right: true }),
        b"[MASK]" if name.contains("modern-bert") => Some(Strip { left: true, right: false }),
        _ => None,
    };
    let can_be_taken_out = |piece: &PieceSpec<'_>| !matches!(piece.kind, PieceKind::Byte | PieceKind::Unused);
    let pieces = (0..).zip(pieces).filter(|(_, piece)| can_be_taken_out(piece));
    Ok(pieces.filter_map(|(id, piece)| Some((id, strip(&piece.text)?))).collect())
}

/// What only our own converter writes. A token beyond the vocabulary is never found.
fn text_settings(metadata: &Metadata<'_>) -> Result<TextSettings> {
    let mut settings = TextSettings::default();
    for (key, flag) in FLAGS {
        *flag(&mut settings) = metadata.optional(key)?.unwrap_or(false);
    }
    let numbers = |key| metadata.array(key, "an array of integers below 2^32", u32::from_value);
    let ids = numbers(ADDED_TOKENS)?.unwrap_or_default();
    let flags = numbers(ADDED_TOKEN_FLAGS)?.unwrap_or_default();
    if ids.len() != flags.len() {
        let reason = format!("{} flags for {} added tokens", flags.len(), ids.len());
        return Err(ErrorKind::Tokenizer { reason }.into());
    }
    settings.added = ids.into_iter().zip(flags).collect();
    Ok(settings)
}

/// The pieces. Without scores all have 0, without types all are text.
fn pieces<'a>(metadata: &Metadata<'a>) -> Result<Vec<PieceSpec<'a>>> {
    let tokens = metadata.strings(keys::PIECES)?.ok_or_else(|| Error::missing_key(keys::PIECES))?;
    let score = |value: &Value<'_>| {
        let integer = || value.integer().map(|score| score as f32);
        f64::from_value(value).map(|score| score as f32).or_else(integer)
    };
    let scores = metadata.array(keys::SCORES, "an array of numbers", score)?;
    let kinds = metadata.array(keys::PIECE_KINDS, "an array of types of pieces", kind)?;
    let (n_scores, n_kinds) = (scores.as_ref().map(Vec::len), kinds.as_ref().map(Vec::len));
    for (what, found) in [("scores", n_scores), ("types", n_kinds)] {
        // What is too many stands for no piece.
        if let Some(found) = found.filter(|&found| found < tokens.len()) {
            let reason = format!("{found} {what} for {} pieces", tokens.len());
            return Err(ErrorKind::Tokenizer { reason }.into());
        }
    }
    let piece = |(i, text)| PieceSpec {
        text: Cow::Borrowed(text),
        score: scores.as_ref().map_or(0.0, |scores| scores[i]),
        kind: kinds.as_ref().map_or(PieceKind::Normal, |kinds| kinds[i]),
    };
    Ok(tokens.enumerate().map(piece).collect())
}

/// What a piece is for. 0 is what a writer leaves undefined; as text it's found in text, and so are
/// numbers that don't exist.
fn kind(value: &Value<'_>) -> Option<PieceKind> {
    let number = value.integer()?;
    Some(u64::try_from(number).ok().and_then(PieceKind::from_number).unwrap_or(PieceKind::Normal))
}
