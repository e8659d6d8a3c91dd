//! Files that are read in parts, and must not change while they are read.
//!
//! They aren't mapped: a conversion reads everything once, which as a mapping would count as the
//! process's memory, and a file that is cut short would end the process. So only what was asked for
//! is in memory, and a change is an error.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::checkpoint::file_kind::{FileKind, SAMPLE_BYTES, Wanted};
use crate::error::{Error, ErrorKind, Result};

/// Says that a file of a published model is something else than was expected, if its first bytes
/// show what.
pub(super) fn unexpected(bytes: &[u8]) -> Option<Error> {
    let start = &bytes[..bytes.len().min(SAMPLE_BYTES)];
    let kind = FileKind::detect(start, bytes.len() as u64)?;
    // What is or should be JSON says less than where it goes wrong.
    let is_telling = !matches!(
        kind,
        FileKind::Json
            | FileKind::ConfigJson
            | FileKind::ParamsJson
            | FileKind::IndexJson
            | FileKind::TokenizerJson
            | FileKind::TokenizerConfigJson
            | FileKind::AdapterConfigJson
            | FileKind::Text
    );
    is_telling.then(|| Error::unknown_format(kind.sentence(Wanted::Published)))
}

/// A file, and what it was when it was opened.
#[derive(Debug)]
pub(super) struct DataFile {
    path: PathBuf,
    /// One reader at a time: the position is the file's.
    file: Mutex<File>,
    len: u64,
    modified: Option<SystemTime>,
}

impl DataFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let at = |e: io::Error| Error::from(e).at(Some(path));
        // Asked of the path: to open a pipe would wait for somebody to write to it.
        if !std::fs::metadata(path).map_err(at)?.is_file() {
            let e = ErrorKind::UnknownFormat { hint: "it is not a regular file".into() };
            return Err(Error::from(e).at(Some(path)));
        }
        let file = File::open(path).map_err(at)?;
        let metadata = file.metadata().map_err(at)?;
        let (len, modified) = (metadata.len(), metadata.modified().ok());
        Ok(Self { path: path.into(), file: Mutex::new(file), len, modified })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`] if the file was shorter when it was opened,
    /// [`ErrorKind::Changed`] if it is no longer what it was, and [`ErrorKind::Io`].
    pub(super) fn read_at(&self, what: &'static str, offset: u64, out: &mut [u8]) -> Result<()> {
        let (needed, available) = (out.len() as u64, self.len.saturating_sub(offset));
        if needed > available {
            return Err(Error::truncated(what, offset, needed, available).at(Some(&self.path)));
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(out));
        // What was read of a file that has changed is worth nothing, and its error would mislead.
        let metadata = file.metadata().map_err(|e| Error::from(e).at(Some(&self.path)))?;
        if (metadata.len(), metadata.modified().ok()) != (self.len, self.modified) {
            return Err(Error::from(ErrorKind::Changed).at(Some(&self.path)));
        }
        read.map_err(|e| Error::from(e).at(Some(&self.path)))
    }

    /// `len` bytes, of which there are no more than `limit`: what comes before the weights is
    /// small.
    pub(super) fn bytes(&self, what: &'static str, offset: u64, len: u64, limit: u64) -> Result<Vec<u8>> {
        if len > limit {
            let reason = format!("{what} has {len} bytes, more than the {limit} that it may have");
            return Err(Error::malformed("model", reason).at(Some(&self.path)));
        }
        let available = self.len.saturating_sub(offset);
        if len > available {
            return Err(Error::truncated(what, offset, len, available).at(Some(&self.path)));
        }
        let mut bytes = vec![0; len as usize];
        self.read_at(what, offset, &mut bytes)?;
        Ok(bytes)
    }

    /// An error of this file. If it isn't the kind of file that its name says, the error says so,
    /// and what to do.
    ///
    /// What another program wrote in its place, a Git LFS pointer or a server's page, would
    /// otherwise give errors of the format, which help nobody.
    pub(super) fn explain(&self, error: Error) -> Error {
        let is_of_content = matches!(
            error.kind(),
            ErrorKind::Malformed { .. } | ErrorKind::Truncated { .. } | ErrorKind::FileSize { .. }
        );
        match self.kind().filter(|&kind| is_of_content && self.is_unexpected(kind)) {
            Some(kind) => {
                let hint = kind.sentence(Wanted::Published);
                Error::unknown_format(hint).at(Some(&self.path))
            }
            None => error.at(Some(&self.path)),
        }
    }

    /// Whether a kind of file is not what the file's name promises: of what it is, the format's own
    /// error says more.
    fn is_unexpected(&self, kind: FileKind) -> bool {
        use FileKind::{LoraSafetensors, OldPyTorch, Pickle, PyTorch, Safetensors, Zip};
        let is_json = self.path.extension().is_some_and(|extension| extension == "json");
        let is_tensors = matches!(kind, Safetensors | LoraSafetensors | PyTorch | OldPyTorch | Pickle | Zip);
        // JSON that is cut short or wrong isn't taken for a text.
        kind.is_no_model() || if is_json { is_tensors || kind == FileKind::Text } else { !is_tensors }
    }

    /// What the file's first bytes are like.
    pub(super) fn kind(&self) -> Option<FileKind> {
        let mut start = vec![0; self.len.min(SAMPLE_BYTES as u64) as usize];
        self.read_at("its beginning", 0, &mut start).ok()?;
        FileKind::detect(&start, self.len)
    }

    /// All of a file that is small.
    pub(super) fn read_all(path: &Path, what: &'static str, limit: u64) -> Result<Vec<u8>> {
        let file = Self::open(path)?;
        file.bytes(what, 0, file.len, limit)
    }
}
