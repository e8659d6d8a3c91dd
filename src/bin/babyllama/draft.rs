//! Guesses of what is written next: the same text, faster.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use babyllama::{Draft, DraftModel, Model, ModelOptions, PromptLookup, TokenId};
use clap::Args;

use crate::error::CliError;
use crate::models;

/// What is read ahead. One of them can be given.
#[derive(Debug, Args)]
#[command(next_help_heading = "Guessing ahead (the text stays the same)")]
pub(crate) struct DraftArgs {
    /// Guess that the text repeats parts of itself: faster where it does, as when a text is copied
    /// with changes
    #[arg(long, group = "guess")]
    lookup: bool,

    /// Have a much smaller model with the same tokenizer guess; `bundled` is the model embedded in
    /// this program
    #[arg(long, value_name = "MODEL", group = "guess")]
    pub(crate) draft: Option<PathBuf>,
}

impl DraftArgs {
    /// What guesses, if an option was given, for texts of this model.
    pub(crate) fn draft(
        &self,
        model: &Model,
        options: &ModelOptions,
    ) -> Result<Option<CountedDraft>, CliError> {
        let draft: Box<dyn Draft> = match &self.draft {
            Some(path) => {
                let small = models::open(path, options)?;
                Box::new(DraftModel::new(&small, model).map_err(|e| CliError::of(path.display(), e))?)
            }
            None if self.lookup => Box::new(PromptLookup::new()),
            None => return Ok(None),
        };
        Ok(Some(CountedDraft { draft, guesses: Guesses::default() }))
    }
}

/// A draft whose guesses are counted.
pub(crate) struct CountedDraft {
    draft: Box<dyn Draft>,
    pub(crate) guesses: Guesses,
}

impl Draft for CountedDraft {
    fn draft(&mut self, tokens: &[TokenId], max: usize, out: &mut Vec<TokenId>) {
        self.draft.draft(tokens, max, out);
        let mut counts = self.guesses.counts();
        counts.open = out.iter().copied().take(max).collect();
        counts.n_guessed += counts.open.len();
    }
}

/// How good a draft's guesses are. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guesses(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    /// What is left of the last guess.
    open: VecDeque<TokenId>,
    n_guessed: usize,
    n_right: usize,
}

impl Guesses {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells which token was generated.
    pub(crate) fn compare(&self, token: TokenId) {
        let mut counts = self.counts();
        match counts.open.pop_front() {
            Some(guessed) if guessed == token => counts.n_right += 1,
            _ => counts.open.clear(),
        }
    }

    /// How many tokens were guessed, and how many of them were right.
    pub(crate) fn line(&self) -> String {
        let counts = self.counts();
        format!("guesses: {} of {} right", counts.n_right, counts.n_guessed)
    }
}
