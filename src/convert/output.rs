//! Files that take their place only when they are whole.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// A file in the making, beside its target and under another name. If it isn't [kept](Self::keep) it is removed, and the
/// target is as it was before; a process that is killed leaves it behind, but never half a file under the target's name.
///
/// A target that is a device or a pipe is written in place.
///
/// ```no_run
/// use std::io::Write;
///
/// let mut file = babyllama::convert::OutputFile::create("model.gguf", false)?;
/// file.write_all(b"all of it")?;
/// file.keep()?;
/// # Ok::<(), babyllama::Error>(())
/// ```
#[derive(Debug)]
pub struct OutputFile {
    file: File,
    overwrite: bool,
    /// Where it goes.
    target: PathBuf,
    /// Where it is until then; `None` if it is written in place.
    beside: Option<PathBuf>,
}

impl OutputFile {
    /// Creates a file that will be `target`.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] if the target is there and `overwrite` isn't set; [`ErrorKind::Io`].
    pub fn create(target: impl AsRef<Path>, overwrite: bool) -> Result<Self> {
        let target = target.as_ref();
        let at = |e: io::Error| Error::from(e).at(Some(target));
        // A link stays a link. What isn't there yet has only the name that it was given.
        let real = fs::canonicalize(target).unwrap_or_else(|_| target.to_path_buf());
        if fs::metadata(&real).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
            // Another file must not take the place of a device.
            let file = File::options().write(true).open(&real).map_err(at)?;
            return Ok(Self { file, overwrite, target: real, beside: None });
        }
        let Some(name) = real.file_name().filter(|_| !real.is_dir()) else {
            return Err(at(io::ErrorKind::IsADirectory.into()));
        };
        refuse_existing(&real, overwrite)?;
        let mut beside = OsString::from(".");
        beside.push(name);
        beside.push(format!(".{}.tmp", std::process::id()));
        let beside = real.with_file_name(beside);
        let file = File::create_new(&beside).map_err(at)?;
        Ok(Self { file, overwrite, target: real, beside: Some(beside) })
    }

    /// Gives the file its place, when all of it is on the disk.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; and [`ErrorKind::Exists`] if the target has come to be since, and isn't to be overwritten.
    pub fn keep(mut self) -> Result<()> {
        let Some(beside) = &self.beside else { return Ok(()) };
        refuse_existing(&self.target, self.overwrite)?;
        let kept = self.file.sync_all().and_then(|()| fs::rename(beside, &self.target));
        kept.map_err(|e| Error::from(e).at(Some(&self.target)))?;
        self.beside = None;
        Ok(())
    }
}

fn refuse_existing(target: &Path, overwrite: bool) -> Result<()> {
    if overwrite || fs::symlink_metadata(target).is_err() {
        return Ok(());
    }
    Err(Error::from(ErrorKind::Exists).at(Some(target)))
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some(beside) = &self.beside {
            // The error that brought us here is the one to report.
            let _ = fs::remove_file(beside);
        }
    }
}
