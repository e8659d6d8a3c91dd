//! Files that are moved to their target only when they are whole.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::checkpoint::file_kind::{FileKind, SAMPLE_BYTES};
use crate::error::{Error, ErrorKind, Result};

/// A file in the making, beside its target and under another name. Unless it is
/// [persisted](Self::persist) it is removed, and the target is as it was before. A process that is
/// killed leaves it there, but never half a file under the target's name; the next one that makes
/// this target removes it, since the lock on it has gone with the process.
///
/// A target that is a device or a pipe is written in place.
///
/// ```no_run
/// use std::io::Write;
///
/// let mut file = babyllama::convert::OutputFile::create("model.gguf", false)?;
/// file.write_all(b"all of it")?;
/// file.persist()?;
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
        if real.is_dir() || real.file_name().is_none() {
            return Err(at(io::ErrorKind::IsADirectory.into()));
        }
        refuse_existing(&real, overwrite)?;
        remove_stale(&real);
        let (file, beside) = create_beside(&real).map_err(at)?;
        // Nobody may read what takes its place who couldn't read it.
        #[cfg(unix)]
        if let Ok(metadata) = fs::metadata(&real) {
            file.set_permissions(metadata.permissions()).map_err(at)?;
        }
        Ok(Self { file, overwrite, target: real, beside: Some(beside) })
    }

    /// Creates a file that will be `target`, which isn't one that a model is read from: one of
    /// these sources, under any name or link, or of the files that belong to them. A
    /// source is what [`Source::open`](super::Source::open) takes, or the file of a tokenizer.
    ///
    /// Of a published model each file in its directory counts that isn't GGUF or llama2.c's; of a
    /// split one each part; and the tokenizers that lie beside a file.
    ///
    /// # Errors
    /// [`ErrorKind::IsSource`]; and as [`OutputFile::create`].
    pub fn create_apart(target: impl AsRef<Path>, overwrite: bool, sources: &[&Path]) -> Result<Self> {
        let target = target.as_ref();
        if let Some(id) = FileId::of(target)
            && sources.iter().any(|source| belongs_to(&id, source))
        {
            return Err(Error::from(ErrorKind::IsSource).at(Some(target)));
        }
        Self::create(target, overwrite)
    }

    /// Where the file is until it is persisted; `None` if it is written in place. For programs that
    /// end in a way that drops nothing.
    pub fn unfinished_path(&self) -> Option<&Path> {
        self.beside.as_deref()
    }

    /// Checks that the disk has space for `needed` bytes, of which none are written yet. Where the
    /// system doesn't say, it is taken to have.
    ///
    /// # Errors
    /// [`ErrorKind::DiskFull`].
    pub fn require_space(&self, needed: u64) -> Result<()> {
        let Some(beside) = &self.beside else { return Ok(()) };
        match available_space(beside.parent().unwrap_or(beside)) {
            Ok(available) if available < needed => {
                Err(Error::from(ErrorKind::DiskFull { needed, available }).at(Some(&self.target)))
            }
            _ => Ok(()),
        }
    }

    /// Moves the file to its target, when all of it is on the disk.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; and [`ErrorKind::Exists`] if the target was created meanwhile, and isn't
    /// to be overwritten.
    pub fn persist(mut self) -> Result<()> {
        let Some(beside) = &self.beside else { return Ok(()) };
        refuse_existing(&self.target, self.overwrite)?;
        let persisted = self.file.sync_all().and_then(|()| fs::rename(beside, &self.target));
        persisted.map_err(|e| Error::from(e).at(Some(&self.target)))?;
        self.beside = None;
        Ok(())
    }
}

/// Bytes that are free where a folder is.
#[cfg(any(unix, windows))]
fn available_space(folder: &Path) -> io::Result<u64> {
    fs4::available_space(folder)
}

/// WASI doesn't say.
#[cfg(not(any(unix, windows)))]
fn available_space(_folder: &Path) -> io::Result<u64> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A number that no other process has, where there are processes: WASI panics when asked.
fn process_number() -> u64 {
    if cfg!(target_family = "wasm") { 0 } else { std::process::id().into() }
}

/// Identifies a file, under any name.
#[derive(Debug, PartialEq, Eq)]
struct FileId(#[cfg(unix)] [u64; 2], #[cfg(not(unix))] PathBuf);

impl FileId {
    /// `None` if it doesn't exist or isn't a file: a device may be both read and written.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            Some(Self([metadata.dev(), metadata.ino()]))
        }
        #[cfg(not(unix))]
        {
            let _ = metadata;
            fs::canonicalize(path).ok().map(Self)
        }
    }
}

/// Whether a file is a source, or one of those that are read with it.
fn belongs_to(id: &FileId, source: &Path) -> bool {
    if FileId::of(source).as_ref() == Some(id) {
        return true;
    }
    let folder = if source.is_dir() { source } else { source.parent().unwrap_or(source) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let of_published = source.is_dir() || is_published(source);
    let mut beside: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    // LLaMA 1's tokenizer lies one folder above its weights.
    beside.push(folder.join("..").join("tokenizer.model"));
    let is_read = |path: &Path| {
        let is_tokenizer = [source.with_extension("tokenizer.bin"), source.with_file_name("tokenizer.bin")]
            .iter()
            .any(|tokenizer| tokenizer.file_name() == path.file_name());
        is_tokenizer || is_part_of(path, source) || (of_published && is_published(path))
    };
    beside.iter().any(|path| FileId::of(path).as_ref() == Some(id) && is_read(path))
}

/// Whether two files are parts of one GGUF model: `NAME-00001-of-00003.gguf`.
fn is_part_of(path: &Path, source: &Path) -> bool {
    // What is before the number, and what after it.
    fn apart(path: &Path) -> Option<(&[u8], &[u8])> {
        let name = path.file_name()?.as_encoded_bytes().strip_suffix(b".gguf")?;
        let at = name.len().checked_sub("-00001-of-00003".len())?;
        let (prefix, number) = name.split_at(at);
        let is_number = number.starts_with(b"-") && number[6..].starts_with(b"-of-");
        is_number.then(|| (prefix, &number[6..]))
    }
    apart(path).is_some_and(|parts| apart(source) == Some(parts))
}

/// Whether a file may be one of a published model: it is of a known kind, and none that runs.
fn is_published(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(SAMPLE_BYTES as u64).read_to_end(&mut start));
    let kind = FileKind::detect(&start, fs::metadata(path).map_or(0, |metadata| metadata.len()));
    read.is_ok() && !matches!(kind, None | Some(FileKind::Empty | FileKind::Gguf | FileKind::TokenizerBin))
}

/// What the names of files on their way to `target` begin with. A process's number follows, and
/// [`ENDING`].
fn beginning(target: &Path) -> OsString {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".");
    name
}

const ENDING: &str = ".tmp";

/// Creates a file beside `target`, locked for as long as it is open.
fn create_beside(target: &Path) -> io::Result<(File, PathBuf)> {
    let mut number = process_number();
    loop {
        let mut name = beginning(target);
        name.push(format!("{number}{ENDING}"));
        let path = target.with_file_name(name);
        match File::create_new(&path) {
            // A process of this number in another container.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1 << 32,
            Err(e) => return Err(e),
            Ok(file) => {
                // Not every file system has locks; without one the file stays if the process is
                // killed.
                let _ = file.lock();
                // Before it was locked, another process may have taken it for a dead one's.
                if fs::symlink_metadata(&path).is_ok() {
                    return Ok((file, path));
                }
            }
        }
    }
}

/// Removes the files of processes that were killed while they made this target. It is no error if
/// that fails.
fn remove_stale(target: &Path) {
    let beginning = beginning(target);
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.as_encoded_bytes().strip_prefix(beginning.as_encoded_bytes());
        let number = number.and_then(|rest| rest.strip_suffix(ENDING.as_bytes()));
        if number.is_none_or(|number| number.is_empty() || !number.iter().all(u8::is_ascii_digit)) {
            continue;
        }
        // Who makes it holds its lock. To open a pipe would wait for somebody to read from it.
        if entry.file_type().is_ok_and(|kind| kind.is_file())
            && let Ok(file) = File::options().write(true).open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
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
