//! `babyllama perplexity`: how well a model knows a text.

use std::ops::ControlFlow;

use babyllama::PerplexityOptions;

use crate::commands::PerplexityArgs;
use crate::error::CliError;
use crate::models;
use crate::output::{count, note, print, progress_bar, read_text};

pub(crate) fn run(args: &PerplexityArgs) -> Result<(), CliError> {
    if args.engine.context_length.is_some() {
        let reason = "--context-length does nothing here: --ctx says how many tokens a window has";
        return Err(CliError::Usage(reason.into()));
    }
    let options = args.engine.model_options(args.tokenizer.path.as_deref());
    let model = models::open(&args.model, &options)?;
    let tokenizer = models::tokenizer(&model, &args.model)?;
    let tokens = tokenizer.encode_prompt(&read_text(&args.file)?);
    let (n_tokens, needed) = (tokens.len(), args.ctx);
    if n_tokens < needed as usize {
        let reason = format!(
            "it has {n_tokens} tokens, and --ctx needs {needed}: take a longer text, or a smaller --ctx"
        );
        return Err(CliError::of(args.file.display(), reason));
    }

    let max_windows = if args.chunks == 0 { usize::MAX } else { args.chunks };
    let options = PerplexityOptions::new()
        .context_length(args.ctx as usize)
        .max_windows(max_windows)
        .cache_dtype(args.engine.session_options().cache_dtype);
    let bar = progress_bar("{wide_bar} {pos}/{len} tokens, {eta} left, {msg}", 0);
    let mut windows = 0;
    let mut printed = Ok(());
    let measured = model.perplexity(&tokens, options, |measured| {
        bar.set_length(measured.n_tokens as u64);
        bar.set_position(measured.tokens_read as u64);
        if measured.windows_read > windows {
            windows = measured.windows_read;
            let value = format!("{:.4}", measured.value());
            bar.set_message(format!("perplexity {value}"));
            let line = format!("[{windows}/{}] {value}\n", measured.n_windows);
            printed = bar.suspend(|| print(line.as_bytes()));
        }
        if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    bar.finish_and_clear();
    printed?;
    let (predictions, error) = (measured.n_predictions, measured.standard_error());
    // One prediction has no spread.
    let error = if error.is_finite() { format!(", +/- {error:.5}") } else { String::new() };
    note(&format!("perplexity of {}{error}", count(predictions, "token")));
    print(format!("{:.4}\n", measured.value()).as_bytes())
}
