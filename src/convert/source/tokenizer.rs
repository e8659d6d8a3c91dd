//! The tokenizer of a source: of its own files, or one that the caller chose.

use std::path::Path;

use super::vocabulary::{self, OwnedSpec};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelOptions;
use crate::tokenizer::{PieceKind, PieceSpec, Tokenizer, TokenizerSpec};

/// A tokenizer, ready to be written or not yet.
#[derive(Debug)]
pub(super) enum SourceTokenizer {
    /// From a file that other programs read.
    Spec(Box<OwnedSpec>),
    /// From a file that this library runs.
    Tokenizer(Box<Tokenizer>),
}

impl SourceTokenizer {
    /// The tokenizer that the options name; else what `own` finds.
    pub(super) fn find(
        options: &ModelOptions,
        config: &Config,
        own: impl FnOnce() -> Result<Option<Self>>,
    ) -> Result<Option<Self>> {
        let given = options.tokenizer_file().map(|path| Self::open(path, config.vocab_size)).transpose()?;
        let found = match (given, options.chosen_tokenizer()) {
            (Some(given), _) => Some(given),
            (None, Some(chosen)) => chosen?.map(|tokenizer| Self::Tokenizer(Box::new(tokenizer))),
            (None, None) => own()?,
        };
        let pieces = found.as_ref().map_or(0, Self::len);
        if pieces > config.vocab_size {
            let kind = ErrorKind::VocabMismatch { tokenizer: pieces, model: config.vocab_size };
            return Err(Error::from(kind).at(options.tokenizer_file()));
        }
        Ok(found)
    }

    fn open(path: &Path, vocab_size: usize) -> Result<Self> {
        // A pipe can't be read twice.
        if path.is_file()
            && let Some(spec) = vocabulary::open(path, vocab_size)?
        {
            return Ok(Self::of(spec));
        }
        Tokenizer::open(path).map(|tokenizer| Self::Tokenizer(Box::new(tokenizer)))
    }

    /// What a published file describes.
    pub(super) fn of(mut spec: OwnedSpec) -> Self {
        // Whatever a file says of its kind, no text becomes a token that begins or ends one.
        let named = [spec.bos, spec.eos, spec.eot, spec.eom];
        for id in named.into_iter().flatten().chain(spec.other_ends.iter().copied()) {
            if let Some(piece) = spec.pieces.get_mut(id as usize)
                && piece.kind == PieceKind::UserDefined
            {
                piece.kind = PieceKind::Control;
                spec.text.added.retain(|&(added, _)| added != id);
            }
        }
        let is_taken_out = |piece: &PieceSpec<'_>| piece.kind == PieceKind::UserDefined;
        if spec.text.added.is_empty() && !spec.pieces.iter().any(is_taken_out) {
            spec.text.prefix_once = false; // there is no second time
        }
        let is_byte = |piece: &PieceSpec<'_>| piece.kind == PieceKind::Byte;
        if spec.model.is_sentencepiece() && !spec.pieces.iter().any(is_byte) {
            spec.notes.push(
                "the tokenizer has no pieces for bytes: characters that no piece spells become the unknown token, and \
                 llama.cpp stops at them"
                    .into(),
            );
        }
        let note = vocabulary::note_on(&spec.text);
        spec.notes.extend(note);
        Self::Spec(Box::new(spec))
    }

    fn len(&self) -> usize {
        match self {
            Self::Spec(spec) => spec.pieces.len(),
            Self::Tokenizer(tokenizer) => tokenizer.vocab_size(),
        }
    }

    /// What whoever converts it should know.
    pub(super) fn notes(&self) -> &[String] {
        match self {
            Self::Spec(spec) => &spec.notes,
            Self::Tokenizer(_) => &[],
        }
    }

    /// As this library runs it.
    pub(super) fn usable(&self) -> Result<Tokenizer> {
        match self {
            Self::Spec(spec) => Tokenizer::from_spec(spec),
            Self::Tokenizer(tokenizer) => Ok(Tokenizer::clone(tokenizer)),
        }
    }

    pub(super) fn spec(&self) -> Result<TokenizerSpec<'_>> {
        let unknown = || {
            let (what, reason) = ("the tokenizer".into(), "its merges are no longer known".into());
            Error::from(ErrorKind::Unwritable { what, reason })
        };
        match self {
            Self::Spec(spec) => Ok(TokenizerSpec::clone(spec)),
            Self::Tokenizer(tokenizer) => tokenizer.to_spec().ok_or_else(unknown),
        }
    }
}
