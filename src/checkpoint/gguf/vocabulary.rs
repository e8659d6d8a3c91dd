//! The tokenizer of a GGUF file, as the keys `tokenizer.ggml.*` describe it.

use std::borrow::Cow;

use super::metadata::{FromValue, Metadata, Value};
use crate::error::{ErrorKind, Result, TokenId};
use crate::tokenizer::{Merging, PieceKind, PiecePart, TokenizerParts};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";

/// The number of pieces, if the file has a vocabulary.
pub(super) fn len(metadata: &Metadata<'_>) -> Result<Option<usize>> {
    Ok(metadata.strings(TOKENS)?.map(|tokens| tokens.len()))
}

/// What the file says of its tokenizer. `None` if it has none.
pub(super) fn parts<'a>(metadata: &Metadata<'a>) -> Result<Option<TokenizerParts<'a>>> {
    let merging = match metadata.optional::<String>(MODEL)?.as_deref() {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some("llama") => Merging::SentencePiece {
            add_space_prefix: metadata.optional("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
        },
        Some("gpt2") => Merging::BytePairs {
            pre: metadata.text(PRE)?.unwrap_or("default"),
            merges: metadata.strings(MERGES)?.ok_or_else(|| missing(MERGES))?.collect(),
        },
        Some(model) => {
            let reason = format!("tokenizers of the kind {model:?} are not supported");
            return Err(ErrorKind::Tokenizer { reason }.into());
        }
    };
    let pieces = pieces(metadata)?;
    // An id beyond the vocabulary stands for nothing.
    let special = |name: &str| -> Result<Option<TokenId>> {
        let id = metadata.optional::<TokenId>(&format!("tokenizer.ggml.{name}_token_id"))?;
        Ok(id.filter(|&id| (id as usize) < pieces.len()))
    };
    let (bos, eos, eot, unk) = (special("bos")?, special("eos")?, special("eot")?, special("unknown")?);
    let add_bos = metadata.optional("tokenizer.ggml.add_bos_token")?;
    let add_eos = metadata.optional("tokenizer.ggml.add_eos_token")?;
    Ok(Some(TokenizerParts { pieces, merging, bos, eos, eot, unk, add_bos, add_eos }))
}

/// The pieces. Without scores all have 0, without types all are text.
fn pieces<'a>(metadata: &Metadata<'a>) -> Result<Vec<PiecePart<'a>>> {
    let tokens = metadata.strings(TOKENS)?.ok_or_else(|| missing(TOKENS))?;
    let score = |value: &Value<'_>| f64::from_value(value).map(|score| score as f32);
    let scores = metadata.array("tokenizer.ggml.scores", "an array of floating-point numbers", score)?;
    let kinds = metadata.array("tokenizer.ggml.token_type", "an array of types of pieces", kind)?;
    let (n_scores, n_kinds) = (scores.as_ref().map(Vec::len), kinds.as_ref().map(Vec::len));
    for (what, found) in [("scores", n_scores), ("types", n_kinds)] {
        if let Some(found) = found.filter(|&found| found != tokens.len()) {
            let reason = format!("{found} {what} for {} pieces", tokens.len());
            return Err(ErrorKind::Tokenizer { reason }.into());
        }
    }
    let piece = |(i, text)| PiecePart {
        text: Cow::Borrowed(text),
        score: scores.as_ref().map_or(0.0, |scores| scores[i]),
        kind: kinds.as_ref().map_or(PieceKind::Normal, |kinds| kinds[i]),
    };
    Ok(tokens.enumerate().map(piece).collect())
}

fn kind(value: &Value<'_>) -> Option<PieceKind> {
    Some(match value.integer()? {
        // 0 is what a writer leaves undefined.
        0 | 1 => PieceKind::Normal,
        2 => PieceKind::Unknown,
        3 => PieceKind::Control,
        4 => PieceKind::UserDefined,
        5 => PieceKind::Unused,
        6 => PieceKind::Byte,
        _ => return None,
    })
}

fn missing(key: &str) -> ErrorKind {
    ErrorKind::MissingKey { key: key.into() }
}
