//! `babyllama convert`: a model in another format.

use std::io::{self, BufWriter, Write};

use babyllama::ModelOptions;
use babyllama::convert::{GgufOptions, OutputFile, Source, to_gguf};

use crate::args::{ConvertArgs, KeyAndText};
use crate::failure::Failure;
use crate::interrupt::Watch;

pub(crate) fn run(args: &ConvertArgs) -> Result<(), Failure> {
    let source = Source::open(&args.source, &model_options(args))?;
    let mut options = GgufOptions::new();
    if let Some(mix) = args.dtype.0 {
        options = options.mix(mix);
    }
    if let Some(threads) = args.threads {
        options = options.threads(threads.into());
    }
    for KeyAndText(key, text) in &args.set {
        options = options.metadata(key, text.as_str());
    }
    let mut file = OutputFile::create(&args.target, args.force)?;
    let mut watched = Watched { to: &mut file, watch: Watch::new() };
    let result = to_gguf(&source, &options, BufWriter::new(&mut watched));
    if watched.watch.interrupted() {
        return Err(Failure::Interrupted);
    }
    result.map_err(|e| Failure::of(args.target.display(), e))?;
    Ok(file.keep()?)
}

fn model_options(args: &ConvertArgs) -> ModelOptions {
    let mut options = ModelOptions::new();
    if let Some(path) = &args.tokenizer.path {
        options = options.tokenizer_path(path);
    }
    if let Some(norm_eps) = args.norm_eps {
        options = options.norm_eps(norm_eps);
    }
    if let Some(rope_theta) = args.rope_theta {
        options = options.rope_theta(rope_theta);
    }
    options
}

/// Fails at the first write after Ctrl-C, so that the unfinished file is removed.
#[derive(Debug)]
struct Watched<W> {
    to: W,
    watch: Watch,
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.watch.interrupted() {
            // Not `Interrupted`: that means "try again".
            return Err(io::ErrorKind::Other.into());
        }
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
