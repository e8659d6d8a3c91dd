//! Tokenizers of the files that models are published with, before they become a [`Tokenizer`].
//!
//! - here: what all of them come down to, and which file is which
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
use crate::error::{Error, ErrorKind, Result, TokenId};
use crate::tokenizer::{FimIds, PieceKind, PiecePart, TextSettings, TokenizerModel, TokenizerSpec};

/// The largest file of pieces that is read: that of a million pieces has 20 MB.
const MAX_BYTES: u64 = 1 << 26;

/// A tokenizer as a file describes it, owned.
#[derive(Clone, Debug)]
pub(super) struct Vocabulary {
    pub(super) pieces: Vec<PiecePart<'static>>,
    pub(super) merging: OwnMerging,
    pub(super) bos: Option<TokenId>,
    pub(super) eos: Option<TokenId>,
    pub(super) eot: Option<TokenId>,
    pub(super) eom: Option<TokenId>,
    /// More tokens that end a text.
    pub(super) other_ends: Vec<TokenId>,
    pub(super) unk: Option<TokenId>,
    pub(super) add_bos: Option<bool>,
    pub(super) add_eos: Option<bool>,
    /// What GGUF has no words for.
    pub(super) text: TextSettings,
    /// What whoever converts it should know.
    pub(super) notes: Vec<String>,
}

/// How text becomes pieces.
#[derive(Clone, Debug)]
pub(super) enum OwnMerging {
    SentencePiece {
        add_space_prefix: bool,
    },
    BytePairs {
        /// GGUF's name of the pre-tokenizer.
        pre: &'static str,
        /// Two texts with a space between, the first merge to be made first.
        merges: Vec<Vec<u8>>,
    },
}

impl Vocabulary {
    /// Pieces, and nothing else known.
    pub(super) fn new(pieces: Vec<PiecePart<'static>>, merging: OwnMerging) -> Self {
        let (bos, eos, eot, eom, other_ends) = (None, None, None, None, Vec::new());
        let (unk, add_bos, add_eos) = (None, None, None);
        let (text, notes) = (TextSettings::default(), Vec::new());
        Self { pieces, merging, bos, eos, eot, eom, other_ends, unk, add_bos, add_eos, text, notes }
    }

    /// Reads a `tokenizer.model` or a `tokenizer.json`, for a model that knows so many tokens.
    /// `None` if it is neither.
    pub(super) fn open(path: &Path, vocab_size: usize) -> Result<Option<Self>> {
        let bytes = DataFile::read_all(path, "a tokenizer", MAX_BYTES)?;
        let read = match &*bytes {
            [b'{', ..] => TokenizerJson::open(path).and_then(|json| json.vocabulary(vocab_size, Vec::new())),
            bytes if tiktoken::looks_like(bytes) => tiktoken::read(bytes),
            bytes if sentencepiece::looks_like(bytes) => sentencepiece::read(bytes),
            _ => return Ok(None),
        };
        read.map(Some).map_err(|e| e.at(Some(path)))
    }

    /// Reads a `tokenizer.model` that a directory has.
    pub(super) fn open_model(path: &Path, vocab_size: usize) -> Result<Self> {
        if let Some(found) = Self::open(path, vocab_size)? {
            return Ok(found);
        }
        let bytes = DataFile::read_all(path, "a tokenizer", MAX_BYTES)?;
        let unknown = || refuse("it is of neither SentencePiece nor Llama 3".into());
        Err(unexpected(&bytes).unwrap_or_else(unknown).at(Some(path)))
    }

    /// What a reader of files says of a tokenizer.
    pub(super) fn parts(&self) -> TokenizerSpec<'_> {
        let merging = match &self.merging {
            &OwnMerging::SentencePiece { add_space_prefix } => {
                TokenizerModel::SentencePiece { add_space_prefix }
            }
            OwnMerging::BytePairs { pre, merges } => {
                TokenizerModel::BytePairs { pre, merges: merges.iter().map(|merge| &**merge).collect() }
            }
        };
        let &Self { bos, eos, eot, eom, unk, add_bos, add_eos, .. } = self;
        TokenizerSpec {
            pieces: self.pieces.clone(),
            merging,
            bos,
            eos,
            eot,
            eom,
            other_ends: self.other_ends.clone(),
            unk,
            fim: FimIds::default(),
            strips: Vec::new(),
            add_bos,
            add_eos,
            text: self.text.clone(),
        }
    }

    pub(super) fn is_sentencepiece(&self) -> bool {
        matches!(self.merging, OwnMerging::SentencePiece { .. })
    }

    /// The token of an exact text.
    pub(super) fn find(&self, text: &str) -> Option<TokenId> {
        let at = self.pieces.iter().position(|piece| *piece.text == *text.as_bytes());
        at.map(|id| id as TokenId)
    }
}

/// The score of a token that was added to a vocabulary, as llama.cpp's converter has it.
pub(super) const ADDED_SCORE: f32 = -1000.0;

/// What stands where there is no piece.
pub(super) fn unused(id: usize) -> PiecePart<'static> {
    let text = format!("[PAD{id}]").into_bytes().into();
    PiecePart { text, score: ADDED_SCORE, kind: PieceKind::Unused }
}

/// What other programs do with a tokenizer that has settings of our own, as a note for people.
pub(super) fn note_on(settings: &TextSettings) -> Option<String> {
    let texts = [
        (settings.prefix_unless_space, "that begin with a space"),
        (settings.prefix_once, "that hold an added token"),
        (settings.collapse_spaces, "with several spaces in a row, or a space at either end"),
        (settings.space_suffix, "of any kind"),
        (settings.split_words, "with several spaces in a row, or pieces that go on over a space"),
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
