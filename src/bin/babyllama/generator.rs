//! Generates text and measures how fast.

use std::time::{Duration, Instant};

use babyllama::{Constraint, FinishReason, Prompt, Sampler, Session, TokenId};

use crate::constraint::TextConstraint;
use crate::draft::{CountedDraft, Guesses};
use crate::error::CliError;
use crate::interrupt::Watch;
use crate::output::count;

/// A session and what it takes to generate from it.
pub(crate) struct Generator {
    pub(crate) session: Session,
    sampler: Sampler,
    stops: Vec<String>,
    /// What the next generation follows.
    constraint: Option<Box<dyn Constraint>>,
    /// Whether the text that follows it is complete.
    is_complete: Option<Box<dyn Fn() -> bool>>,
    /// What guesses its tokens.
    draft: Option<CountedDraft>,
    /// Whether another run of the program may continue the text.
    is_saved: bool,
    statistics: Statistics,
}

impl Generator {
    pub(crate) fn new(session: Session, sampler: Sampler, stops: &[String]) -> Self {
        Self {
            session,
            sampler,
            stops: stops.to_vec(),
            constraint: None,
            is_complete: None,
            draft: None,
            is_saved: false,
            statistics: Statistics::default(),
        }
    }

    /// Makes the next generation read ahead what this guesses.
    pub(crate) fn guess(&mut self, draft: Option<CountedDraft>) {
        self.draft = draft;
    }

    /// Continues the text of a saved session, and leaves it so that it can be continued again.
    /// Returns text that was held back, which may have been the beginning of a stop string.
    pub(crate) fn resume(&mut self) -> String {
        self.is_saved = true;
        let text = self.session.tokens().iter().copied().chain(self.session.pending());
        text.for_each(|token| self.sampler.accept(token));
        let generate = self.session.generate(Prompt::Tokens(&[]), &mut self.sampler);
        generate.map_or_else(|_| String::new(), |generate| generate.held().into())
    }

    /// Makes the next generation follow this.
    pub(crate) fn constrain(&mut self, constraint: Option<TextConstraint>) {
        if let Some(TextConstraint { constraint, is_complete }) = constraint {
            (self.constraint, self.is_complete) = (Some(constraint), Some(is_complete));
        }
    }

    /// Whether the text ended before it was what its constraint asks for.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.is_complete.as_ref().is_some_and(|is_complete| !is_complete())
    }

    /// Feeds a prompt. If Ctrl-C stops it, none of it stays in the session.
    pub(crate) fn feed(&mut self, tokens: &[TokenId], watch: &Watch) -> Result<(), CliError> {
        let before = self.session.position();
        let start = Instant::now();
        let mut feed = self.session.feed(tokens);
        while feed.remaining() > 0 {
            if watch.interrupted() {
                self.session.truncate(before);
                return Err(CliError::Interrupted);
            }
            feed.step()?;
        }
        self.statistics.add_prompt(tokens.len(), start.elapsed());
        tokens.iter().for_each(|&token| self.sampler.accept(token));
        Ok(())
    }

    /// Generates from where the session is, and shows each piece of text as it comes. `None`:
    /// Ctrl-C ended it.
    pub(crate) fn generate(
        &mut self,
        max_tokens: usize,
        watch: &Watch,
        mut show: impl FnMut(&str) -> Result<(), CliError>,
    ) -> Result<Option<FinishReason>, CliError> {
        let before = self.session.position();
        let start = Instant::now();
        let no_prompt = Prompt::Tokens(&[]); // it is fed already
        let mut generate = self.session.generate(no_prompt, &mut self.sampler)?.max_tokens(max_tokens);
        for stop in &self.stops {
            generate = generate.stop(stop);
        }
        if let Some(constraint) = self.constraint.take() {
            generate = generate.constrain(constraint);
        }
        if let Some(draft) = self.draft.take() {
            self.statistics.guesses = Some(draft.guesses.clone());
            generate = generate.draft(draft);
        }
        while !watch.interrupted()
            && let Some(piece) = generate.next()
        {
            let piece = piece?;
            self.statistics.compare(piece.token());
            show(piece.as_str())?;
        }
        if generate.finish_reason() == Some(FinishReason::MaxTokens) && !self.is_saved {
            show(generate.held())?; // no other generation continues this text
        }
        let (reason, n_generated) = (generate.finish_reason(), generate.n_generated());
        drop(generate);
        if matches!(reason, Some(FinishReason::StopString(_))) {
            self.is_complete = None; // as much as was asked for
        }
        let fed = self.session.position() - before;
        // What takes time is feeding: the first token comes from the prompt's logits.
        self.statistics.generation.add(fed, start.elapsed());
        self.statistics.n_generated += n_generated;
        Ok(reason)
    }

    pub(crate) fn statistics(&self) -> String {
        self.statistics.line(&self.sampler)
    }
}

/// How many tokens, and how fast.
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    prompt: Speed,
    generation: Speed,
    n_generated: usize,
    guesses: Option<Guesses>,
}

impl Statistics {
    pub(crate) fn add_prompt(&mut self, tokens: usize, time: Duration) {
        self.prompt.add(tokens, time);
    }

    /// Adds tokens that were generated; each but the first took a pass.
    pub(crate) fn add_generation(&mut self, tokens: usize, time: Duration) {
        self.generation.add(tokens.saturating_sub(1), time);
        self.n_generated += tokens;
    }

    /// None yet. The line will tell how good the guesses are, if there are any.
    pub(crate) fn of(guesses: Option<Guesses>) -> Self {
        Self { guesses, ..Self::default() }
    }

    /// Tells which token was generated.
    pub(crate) fn compare(&self, token: Option<TokenId>) {
        if let (Some(guesses), Some(token)) = (&self.guesses, token) {
            guesses.compare(token);
        }
    }

    pub(crate) fn has_any(&self) -> bool {
        self.prompt.tokens > 0
    }

    /// One line: how many tokens, how fast, and the seed that gives the same text again.
    pub(crate) fn line(&self, sampler: &Sampler) -> String {
        let part = |name, tokens, speed: &Speed| {
            let rate = speed.tokens_per_second().map_or(String::new(), |rate| format!(", {rate:.0} tok/s"));
            format!("{name}: {}{rate}", count(tokens, "token"))
        };
        let prompt = part("prompt", self.prompt.tokens, &self.prompt);
        let generation = part("generation", self.n_generated, &self.generation);
        let options = sampler.options();
        // At temperature 0 the seed does nothing.
        let seed =
            if options.temperature == 0.0 { String::new() } else { format!("; seed {}", options.seed) };
        let guesses = self.guesses.as_ref().map_or(String::new(), |guesses| format!("; {}", guesses.line()));
        format!("{prompt}; {generation}{guesses}{seed}")
    }
}

/// Tokens fed, and the time it took.
#[derive(Debug, Default)]
struct Speed {
    tokens: usize,
    time: Duration,
}

impl Speed {
    fn add(&mut self, tokens: usize, time: Duration) {
        self.tokens += tokens;
        self.time += time;
    }

    fn tokens_per_second(&self) -> Option<f64> {
        let rate = self.tokens as f64 / self.time.as_secs_f64();
        (self.tokens > 0 && rate.is_finite()).then_some(rate)
    }
}
