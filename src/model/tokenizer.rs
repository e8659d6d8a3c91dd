//! The tokenizer that a file brings, or one beside a model.

use std::path::Path;

use super::options::{ModelOptions, TokenizerSource};
use crate::checkpoint;
use crate::checkpoint::file_kind::{FileKind, Wanted};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Storage;
use crate::tokenizer::Tokenizer;

impl ModelOptions {
    /// The tokenizer that was asked for, or that there be none. `None` if neither was.
    pub(crate) fn chosen_tokenizer(&self) -> Option<Result<Option<Tokenizer>>> {
        match &self.tokenizer {
            TokenizerSource::Model => None,
            TokenizerSource::File(path) => Some(Tokenizer::open(path).map(Some)),
            TokenizerSource::Given(tokenizer) => Some(Ok(Some(tokenizer.clone()))),
            TokenizerSource::None => Some(Ok(None)),
        }
    }

    /// The file of the tokenizer that was asked for.
    pub(crate) fn tokenizer_file(&self) -> Option<&Path> {
        if let TokenizerSource::File(path) = &self.tokenizer { Some(path) } else { None }
    }

    /// Whether the tokenizer isn't to be the file's own.
    #[cfg(feature = "convert")]
    pub(crate) fn names_tokenizer(&self) -> bool {
        !matches!(self.tokenizer, TokenizerSource::Model)
    }

    /// The tokenizer that was asked for, or else the file's own, or else the one beside it.
    pub(crate) fn find_tokenizer(&self, storage: &Storage) -> Result<Option<Tokenizer>> {
        if let Some(chosen) = self.chosen_tokenizer() {
            return chosen;
        }
        if let Some(own) = checkpoint::read_tokenizer(storage)? {
            return Ok(Some(own));
        }
        let Some(model) = storage.path() else { return Ok(None) };
        let beside = [model.with_extension("tokenizer.bin"), model.with_file_name("tokenizer.bin")];
        beside.iter().find(|path| path.is_file()).map(Tokenizer::open).transpose()
    }
}

impl Tokenizer {
    /// Reads a tokenizer from a file: GGUF, which need not hold a model, or llama2.c's
    /// `tokenizer.bin`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], what [`Tokenizer::from_gguf`] or [`Tokenizer::from_llama2c`] finds wrong,
    /// and [`ErrorKind::UnknownFormat`] for another kind of file; each names the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // Only a file can be GGUF: a pipe can't be looked into first.
        let is_gguf = path.is_file() && checkpoint::gguf::has_magic(&Storage::open(path)?);
        if is_gguf {
            return Self::from_gguf(path);
        }
        if path.is_dir() {
            let hint = "it is a directory: name the tokenizer's file in it".into();
            return Err(Error::from(ErrorKind::UnknownFormat { hint }).at(Some(path)));
        }
        let bytes = std::fs::read(path).map_err(|e| Error::from(e).at(Some(path)))?;
        Self::from_llama2c(&bytes).map_err(|e| {
            let kind = FileKind::detect(&bytes, bytes.len() as u64);
            let other = kind.filter(|kind| *kind != FileKind::TokenizerBin);
            // A model that happens to be like text is one all the same.
            if path.is_file() && Storage::open(path).is_ok_and(|storage| checkpoint::is_llama2c(&storage)) {
                let hint = "it is a model of llama2.c's: the tokenizer is another file".into();
                return Error::from(ErrorKind::UnknownFormat { hint }).at(Some(path));
            }
            let error = other
                .map_or(e, |kind| ErrorKind::UnknownFormat { hint: kind.sentence(Wanted::Tokenizer) }.into());
            error.at(Some(path))
        })
    }

    /// Reads the tokenizer of a GGUF file. The file need not hold a model.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; [`ErrorKind::NoTokenizer`] if the file brings none, or isn't GGUF; and
    /// whatever is wrong with it.
    pub fn from_gguf(path: impl AsRef<Path>) -> Result<Self> {
        let storage = Storage::open(path.as_ref())?;
        let tokenizer = checkpoint::read_tokenizer(&storage)?;
        tokenizer.ok_or_else(|| Error::from(ErrorKind::NoTokenizer).at(storage.path()))
    }
}
