//! `babyllama logits`: the logits at every position, as a file.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use babyllama::convert::OutputFile;
use babyllama::{Session, TokenId};

use crate::commands::LogitsArgs;
use crate::error::CliError;
use crate::interrupt::{Watch, remove_when_killed};
use crate::models;
use crate::output::holds_something;

pub(crate) fn run(args: &LogitsArgs) -> Result<(), CliError> {
    let model = models::open(&args.model, &args.engine.model_options(None).no_tokenizer())?;
    let mut session = model.session_with(args.engine.session_options());
    let tokens = &args.tokens.0;
    models::check_context(&session, tokens.len())?;
    if args.out == Path::new("-") {
        return write_logits(&mut session, tokens, io::stdout().lock(), &Watch::new(), |e| {
            CliError::of_output(&e)
        });
    }
    let failed = |e: io::Error| CliError::of(args.out.display(), e);
    let watch = Watch::new();
    let overwrite = args.force || !holds_something(&args.out);
    let mut target = OutputFile::create_apart(&args.out, overwrite, &[&args.model])?;
    remove_when_killed(&target);
    write_logits(&mut session, tokens, &mut target, &watch, failed)?;
    Ok(target.persist()?)
}

/// Writes (`n_tokens`, `vocab_size`) little-endian f32.
fn write_logits(
    session: &mut Session,
    tokens: &[TokenId],
    to: impl Write,
    watch: &Watch,
    failed: impl Fn(io::Error) -> CliError,
) -> Result<(), CliError> {
    let mut to = BufWriter::new(to);
    let mut feed = session.feed(tokens).all_logits();
    while let Some(logits) = feed.step()? {
        for logit in logits {
            to.write_all(&logit.to_le_bytes()).map_err(&failed)?;
        }
        if watch.interrupted() {
            return Err(CliError::Interrupted);
        }
    }
    to.flush().map_err(failed)
}
