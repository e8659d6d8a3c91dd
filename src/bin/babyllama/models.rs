//! Opens models: from files, or the one embedded in this binary.

use std::path::Path;

use babyllama::{Model, ModelOptions, Session, Tokenizer};

use crate::error::CliError;
use crate::output::note;

/// Means the embedded model where a file is expected. A file of this name is `./bundled`.
pub(crate) const BUNDLED: &str = "bundled";

/// Opens a model's file, or the bundled model. Commands that only use token ids open it without a
/// tokenizer: a bad one beside the model doesn't matter to them.
pub(crate) fn open(model: &Path, options: &ModelOptions) -> Result<Model, CliError> {
    let bundled = model == Path::new(BUNDLED);
    Ok(if bundled { Model::bundled_with(options)? } else { Model::open_with(model, options)? })
}

/// Prints what the user should know about the model.
pub(crate) fn notes(model: &Model) {
    model.notes().iter().for_each(|text| note(&format!("note: {text}")));
}

/// How to get a longer context.
pub(crate) const LONGER: &str = "--context-length makes it longer";

/// Refuses more tokens than the context of a session holds.
pub(crate) fn check_context(session: &Session, n_tokens: usize) -> Result<(), CliError> {
    let capacity = session.capacity();
    if n_tokens <= capacity {
        return Ok(());
    }
    let reason = format!("the context holds {capacity} tokens, and there are {n_tokens}");
    Err(CliError::Error(format!("{reason}; {LONGER}")))
}

/// The model's tokenizer, for commands that need one.
pub(crate) fn tokenizer<'a>(model: &'a Model, path: &Path) -> Result<&'a Tokenizer, CliError> {
    let beside = path.with_extension("tokenizer.bin");
    let beside = beside.file_name().unwrap_or_default().to_string_lossy();
    let missing =
        || format!("no tokenizer beside it ({beside} or tokenizer.bin): name one with -z or --tokenizer");
    model.tokenizer().ok_or_else(|| CliError::of(path.display(), missing()))
}
