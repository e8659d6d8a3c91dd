//! `babyllama logits`: the logits at every position, as a file.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use babyllama::{Session, TokenId};

use crate::args::LogitsArgs;
use crate::failure::Failure;
use crate::interrupt::Watch;
use crate::models::{self, TokenizerChoice};

/// Tokens whose logits are held in memory at once.
const CHUNK: usize = 128;

pub(crate) fn run(args: &LogitsArgs) -> Result<(), Failure> {
    let model = models::open(&args.model, TokenizerChoice::None, args.engine.model_options())?;
    let mut session = model.session_with(args.engine.session_options());
    let (tokens, capacity) = (&args.tokens.0, session.capacity());
    if tokens.len() > capacity {
        let reason = format!("the context holds {capacity} tokens, and there are {}", tokens.len());
        return Err(Failure::Error(format!("{reason}; --context-length makes it longer")));
    }
    if args.out == Path::new("-") {
        return write_logits(&mut session, tokens, io::stdout().lock(), |e| Failure::of_output(&e));
    }
    let failed = |e: io::Error| Failure::of(args.out.display(), e);
    let mut target = Target::create(&args.out).map_err(failed)?;
    write_logits(&mut session, tokens, &mut target.file, failed)?;
    target.keep().map_err(failed)
}

/// Writes (`n_tokens`, `vocab_size`) little-endian f32.
fn write_logits(
    session: &mut Session,
    tokens: &[TokenId],
    to: impl Write,
    failed: impl Fn(io::Error) -> Failure,
) -> Result<(), Failure> {
    let mut to = BufWriter::new(to);
    let watch = Watch::new();
    for chunk in tokens.chunks(CHUNK) {
        for logit in session.forward_all(chunk)? {
            to.write_all(&logit.to_le_bytes()).map_err(&failed)?;
        }
        if watch.interrupted() {
            return Err(Failure::Interrupted);
        }
    }
    to.flush().map_err(failed)
}

/// A file that takes its place only when it is whole.
#[derive(Debug)]
struct Target {
    file: File,
    /// Where it is until then and where it goes; `None` if it is written in place.
    paths: Option<(PathBuf, PathBuf)>,
}

impl Target {
    fn create(path: &Path) -> io::Result<Self> {
        // A link stays a link. What isn't there yet has only the name that it was given.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
            // A device or a pipe: another file must not take its place.
            return Ok(Self { file: File::options().write(true).open(&path)?, paths: None });
        }
        let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        let mut beside = OsString::from(".");
        beside.push(name);
        beside.push(format!(".{}.tmp", std::process::id()));
        let beside = path.with_file_name(beside);
        Ok(Self { file: File::create_new(&beside)?, paths: Some((beside, path)) })
    }

    fn keep(mut self) -> io::Result<()> {
        let Some((beside, path)) = &self.paths else { return Ok(()) };
        fs::rename(beside, path)?;
        self.paths = None;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some((beside, _)) = &self.paths {
            // The error that brought us here is the one to report.
            let _ = fs::remove_file(beside);
        }
    }
}
