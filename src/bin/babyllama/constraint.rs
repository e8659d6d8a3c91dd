//! What the text of `run` has to follow.

use std::path::PathBuf;

use babyllama::{Constraint, Model};
use clap::Args;

use crate::error::CliError;

/// What the text after the prompt has to follow. One of them can be given.
#[derive(Debug, Args)]
#[command(next_help_heading = "Constraining the text")]
pub(crate) struct ConstraintArgs {
    /// Write only JSON that the schema in this file allows
    #[arg(long, value_name = "FILE", group = "constraint")]
    json_schema: Option<PathBuf>,

    /// Write only text that this regular expression matches as a whole
    #[arg(long, value_name = "PATTERN", group = "constraint", allow_hyphen_values = true)]
    regex: Option<String>,

    /// Write only text that the grammar in this file derives, in the syntax of Lark
    #[arg(long, value_name = "FILE", group = "constraint")]
    grammar: Option<PathBuf>,
}

/// A constraint, and whether the text that followed it so far is complete.
pub(crate) struct TextConstraint {
    pub(crate) constraint: Box<dyn Constraint>,
    pub(crate) is_complete: Box<dyn Fn() -> bool>,
}

impl ConstraintArgs {
    /// The constraint, if one was given, compiled for the model.
    #[cfg(feature = "grammar")]
    pub(crate) fn constraint(&self, model: &Model) -> Result<Option<TextConstraint>, CliError> {
        use std::fmt::Display;
        use std::path::Path;
        use std::sync::{Arc, Mutex};

        use babyllama::{ErrorKind, Grammar, GrammarConstraint};

        use crate::output::{note, read_text};

        type Parse = fn(&str) -> babyllama::Result<Grammar>;
        let compile = |what: &dyn Display, text: &str, parse: Parse| {
            let made: babyllama::Result<GrammarConstraint> =
                parse(text).and_then(|grammar| grammar.constraint(model));
            made.map_err(|error| match error.kind() {
                ErrorKind::Grammar { .. } => CliError::of(what, error),
                _ => error.into(),
            })
        };
        let file = |path: &Path, parse: Parse| compile(&path.display(), &read_text(path)?, parse);
        let made = match (&self.json_schema, &self.regex, &self.grammar) {
            (Some(path), ..) => file(path, Grammar::json_schema)?,
            (_, Some(pattern), _) => compile(&"--regex", pattern, Grammar::regex)?,
            (_, _, Some(path)) => file(path, Grammar::lark)?,
            _ => return Ok(None),
        };
        let mut made = made;
        for warning in made.notes() {
            note(&format!("note: {warning}"));
        }
        let shared = Arc::new(Mutex::new(made));
        let constraint = Box::new(Arc::clone(&shared));
        let is_complete = Box::new(move || shared.lock().is_ok_and(|mut made| made.may_end()));
        Ok(Some(TextConstraint { constraint, is_complete }))
    }

    /// Grammars take a feature.
    #[cfg(not(feature = "grammar"))]
    pub(crate) fn constraint(&self, _: &Model) -> Result<Option<TextConstraint>, CliError> {
        let options = [
            ("json-schema", self.json_schema.is_some()),
            ("regex", self.regex.is_some()),
            ("grammar", self.grammar.is_some()),
        ];
        match options.iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => Err(CliError::Usage(format!(
                "--{name}: this program was built without it: build it with --features cli,grammar"
            ))),
            None => Ok(None),
        }
    }
}
