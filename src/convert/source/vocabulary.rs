//! Tokenizers of the files that models are published with, before they become a [`Tokenizer`].
//!
//! - here: what all of them come down to, and which file is which
//! - `sentencepiece`: `tokenizer.model` of LLaMA 1, Llama 2, Code Llama, Mistral and llama2.c
//! - `tiktoken`: `tokenizer.model` of Llama 3
//! - `tokenizer_json`: `tokenizer.json` of Hugging Face
//!
//! [`Tokenizer`]: crate::Tokenizer

use std::path::Path;

use super::file::DataFile;
use super::tokenizer_json::TokenizerJson;
use super::{sentencepiece, tiktoken};
use crate::error::{Error, ErrorKind, Result, TokenId};
use crate::tokenizer::{FimIds, Merging, PieceKind, PiecePart, TokenizerParts};

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
    pub(super) unk: Option<TokenId>,
    pub(super) add_bos: Option<bool>,
    pub(super) add_eos: Option<bool>,
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
        let (bos, eos, eot, unk, add_bos, add_eos) = (None, None, None, None, None, None);
        Self { pieces, merging, bos, eos, eot, unk, add_bos, add_eos }
    }

    /// Reads a `tokenizer.model` or a `tokenizer.json`, for a model that knows so many tokens. `None` if it is neither.
    pub(super) fn open(path: &Path, vocab_size: usize) -> Result<Option<Self>> {
        let bytes = DataFile::read_all(path, "a tokenizer", MAX_BYTES)?;
        let read = match &*bytes {
            [b'{', ..] => TokenizerJson::open(path).and_then(|json| json.vocabulary(vocab_size)),
            bytes if tiktoken::looks_like(bytes) => tiktoken::read(bytes),
            bytes if sentencepiece::looks_like(bytes) => sentencepiece::read(bytes),
            _ => return Ok(None),
        };
        read.map(Some).map_err(|e| e.at(Some(path)))
    }

    /// What a reader of files says of a tokenizer.
    pub(super) fn parts(&self) -> TokenizerParts<'_> {
        let merging = match &self.merging {
            &OwnMerging::SentencePiece { add_space_prefix } => Merging::SentencePiece { add_space_prefix },
            OwnMerging::BytePairs { pre, merges } => {
                Merging::BytePairs { pre, merges: merges.iter().map(|merge| &**merge).collect() }
            }
        };
        let &Self { bos, eos, eot, unk, add_bos, add_eos, .. } = self;
        TokenizerParts {
            pieces: self.pieces.clone(),
            merging,
            bos,
            eos,
            eot,
            eom: None,
            unk,
            fim: FimIds::default(),
            strips: Vec::new(),
            add_bos,
            add_eos,
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

    /// Puts a token in its place, which may be beyond the last piece: control tokens have no text, others are taken out of a
    /// text before all else.
    pub(super) fn set_added(&mut self, id: TokenId, text: &str, is_control: bool) {
        for id in self.pieces.len()..=id as usize {
            self.pieces.push(unused(id));
        }
        let piece = &mut self.pieces[id as usize];
        if *piece.text != *text.as_bytes() {
            // Nothing is merged to it.
            *piece = PiecePart {
                text: text.to_owned().into_bytes().into(),
                score: ADDED_SCORE,
                kind: PieceKind::Normal,
            };
        }
        // The unknown piece, and bytes, are of more use as what they are.
        if !matches!(piece.kind, PieceKind::Unknown | PieceKind::Byte) {
            piece.kind = if is_control { PieceKind::Control } else { PieceKind::UserDefined };
        }
    }
}

/// The score of a token that was added to a vocabulary, as llama.cpp's converter has it.
const ADDED_SCORE: f32 = -1000.0;

/// What stands where there is no piece.
pub(super) fn unused(id: usize) -> PiecePart<'static> {
    let text = format!("[PAD{id}]").into_bytes().into();
    PiecePart { text, score: ADDED_SCORE, kind: PieceKind::Unused }
}

pub(super) fn refuse(reason: String) -> Error {
    ErrorKind::Tokenizer { reason }.into()
}
