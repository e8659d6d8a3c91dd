//! A tokenizer as GGUF: the keys that `checkpoint/gguf/vocabulary.rs` reads.

use super::{Array, Header};
use crate::checkpoint::gguf::keys;
use crate::error::{ErrorKind, Result};
use crate::tokenizer::{
    ADDED_TOKEN_FLAGS, ADDED_TOKENS, END_TOKENS, FLAGS, PieceKind, PieceSpec, TextSettings, TokenizerModel,
    TokenizerSpec,
};

/// The tokenizer. If the model has more logits than there are pieces, unused ones stand for the
/// rest: llama.cpp wants a piece for each logit.
pub(super) fn put(header: &mut Header, spec: Option<&TokenizerSpec<'_>>, vocab_size: usize) -> Result<()> {
    let Some(spec) = spec else { return header.set(keys::TOKENIZER, "none") };
    let (n_pieces, is_sentencepiece) = (spec.pieces.len(), spec.model.is_sentencepiece());
    if n_pieces > vocab_size {
        return Err(ErrorKind::VocabMismatch { tokenizer: n_pieces, model: vocab_size }.into());
    }
    let pre = match spec.model {
        TokenizerModel::SentencePiece { .. } => "default",
        TokenizerModel::BytePairs { pre, .. } => pre,
    };
    header.set(keys::TOKENIZER, if is_sentencepiece { "llama" } else { "gpt2" })?;
    header.set(keys::PRE_TOKENIZER, pre)?;
    let padding = (n_pieces..vocab_size).map(|id| PieceSpec {
        text: format!("[PAD{id}]").into_bytes().into(),
        score: 0.0,
        kind: PieceKind::Unused,
    });
    let (mut texts, mut scores, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
    for PieceSpec { text, score, kind } in spec.pieces.iter().cloned().chain(padding) {
        texts.push(text.into_owned());
        scores.push(score);
        kinds.push(kind.number().into());
    }
    header.set(keys::PIECES, Array::String(texts))?;
    if is_sentencepiece {
        header.set(keys::SCORES, Array::F32(scores))?;
    }
    header.set(keys::PIECE_KINDS, Array::I32(kinds))?;
    if let TokenizerModel::BytePairs { merges, .. } = &spec.model {
        let merges = merges.iter().map(|merge| merge.to_vec()).collect();
        header.set(keys::MERGES, Array::String(merges))?;
    }
    let (eot, eom) = (spec.eot, spec.eom);
    let ids = [("bos", spec.bos), ("eos", spec.eos), ("eot", eot), ("eom", eom), ("unknown", spec.unk)];
    for (name, id) in ids {
        if let Some(id) = id {
            header.set(&keys::token_id(name), id)?;
        }
    }
    for (key, flag) in [(keys::ADD_BOS, spec.add_bos), (keys::ADD_EOS, spec.add_eos)] {
        if let Some(flag) = flag {
            header.set(key, flag)?;
        }
    }
    if let TokenizerModel::SentencePiece { add_space_prefix } = spec.model {
        header.set(keys::ADD_SPACE_PREFIX, add_space_prefix)?;
    }
    if !spec.other_ends.is_empty() {
        header.set(END_TOKENS, Array::U32(spec.other_ends.clone()))?;
    }
    text_settings(header, &spec.text)
}

/// Keys of our own, for what GGUF has none: only what isn't the default.
fn text_settings(header: &mut Header, settings: &TextSettings) -> Result<()> {
    let mut settings = settings.clone();
    for (key, flag) in FLAGS {
        if *flag(&mut settings) {
            header.set(key, true)?;
        }
    }
    if !settings.added.is_empty() {
        let (ids, flags) = settings.added.into_iter().unzip();
        header.set(ADDED_TOKENS, Array::U32(ids))?;
        header.set(ADDED_TOKEN_FLAGS, Array::U32(flags))?;
    }
    Ok(())
}
