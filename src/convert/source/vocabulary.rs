//! Tokenizers of the files that models are published with, before they become a [`Tokenizer`].
//!
//! - here: which file is which
//! - `sentencepiece`: `tokenizer.model` of LLaMA 1, Llama 2, Code Llama, Mistral and llama2.c
//! - `tiktoken`: `tokenizer.model` of Llama 3
//! - `tokenizer_json`: `tokenizer.json` of Hugging Face
//! - `added_tokens`: what was added to any of them
//!
//! [`Tokenizer`]: crate::Tokenizer

use std::path::Path;

use super::file::{DataFile, unexpected};
use super::tokenizer_json::TokenizerJson;
use super::{sentencepiece, tiktoken};
use crate::error::{Error, ErrorKind, Result};
use crate::tokenizer::{PieceKind, PieceSpec, TextSettings, TokenizerSpec};

/// The largest file of pieces that is read: that of a million pieces has 20 MB.
const MAX_BYTES: u64 = 1 << 26;

/// A tokenizer as a file describes it, with texts of its own.
pub(super) type OwnedSpec = TokenizerSpec<'static>;

/// Reads a `tokenizer.model` or a `tokenizer.json`, for a model that knows this number of tokens.
/// `None` if it is neither.
pub(super) fn open(path: &Path, vocab_size: usize) -> Result<Option<OwnedSpec>> {
    let bytes = DataFile::read_all(path, "a tokenizer", MAX_BYTES)?;
    let read = match &*bytes {
        [b'{', ..] => TokenizerJson::open(path).and_then(|json| json.spec(vocab_size, Vec::new())),
        bytes if tiktoken::looks_like(bytes) => tiktoken::read(bytes),
        bytes if sentencepiece::looks_like(bytes) => sentencepiece::read(bytes),
        _ => return Ok(None),
    };
    read.map(Some).map_err(|e| e.at(Some(path)))
}

/// Reads a `tokenizer.model` that a directory has.
pub(super) fn open_model(path: &Path, vocab_size: usize) -> Result<OwnedSpec> {
    if let Some(found) = open(path, vocab_size)? {
        return Ok(found);
    }
    let bytes = DataFile::read_all(path, "a tokenizer", MAX_BYTES)?;
    let unknown = || refuse("it is of neither SentencePiece nor Llama 3".into());
    Err(unexpected(&bytes).unwrap_or_else(unknown).at(Some(path)))
}

/// The score of a token that was added to a vocabulary, as llama.cpp's converter has it.
pub(super) const ADDED_SCORE: f32 = -1000.0;

/// What stands where there is no piece.
pub(super) fn unused(id: usize) -> PieceSpec<'static> {
    let text = format!("[PAD{id}]").into_bytes().into();
    PieceSpec { text, score: ADDED_SCORE, kind: PieceKind::Unused }
}

/// What other programs do with a tokenizer that has settings of our own, as a note for people.
pub(super) fn note_on(settings: &TextSettings) -> Option<String> {
    let texts = [
        (settings.prefix_unless_space, "that begin with a space"),
        (settings.prefix_once, "that hold an added token"),
        (settings.collapse_spaces, "with several spaces in a row, or a space at either end"),
        (settings.space_suffix, "of any kind"),
        (settings.split_words, "with several spaces in a row, or pieces that go on over a space"),
        (settings.nfc, "with decomposed characters, as e and U+0301 for \u{e9}"),
        (settings.unicode_case, "with combining marks, or with capital letters other than A to Z"),
        (!settings.added.is_empty(), "with an added or user-defined token, or white space beside one"),
    ];
    let texts: Vec<&str> = texts.iter().filter(|(differ, _)| *differ).map(|&(_, texts)| texts).collect();
    (!texts.is_empty()).then(|| {
        let spaces = if settings.collapse_spaces {
            "; a tokenizer.bin of llama2.c can't say it either, and whoever reads one keeps all spaces"
        } else {
            ""
        };
        format!(
            "GGUF has no words for what the tokenizer does to texts {}: in such a file keys of our own (babyllama.tokenizer.*) say it, and \
             programs that don't know them may make other tokens of such texts{spaces}",
            texts.join("; ")
        )
    })
}

pub(super) fn refuse(reason: String) -> Error {
    ErrorKind::Tokenizer { reason }.into()
}
