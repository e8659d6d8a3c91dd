//! The passes that a session's tokens take through the model: how many go together, what is read
//! ahead of them, and what is kept of their results.

use std::ops::Range;

use super::Session;
use crate::compute::Compute;
use crate::config::Config;
use crate::error::{ErrorKind, Result, TokenId};
use crate::forward::{Outputs, Run, Scratch, forward};
use crate::model::Model;

/// Tokens that pass through the layers together, at most. With more the weights would be read less
/// often, but activations would no longer fit the processor's cache.
pub(super) const MAX_BATCH: usize = 512;

/// In a thread pool of the caller's, a thread does at most about this many multiplications of
/// attention without a pause, some milliseconds: so the deeper in the text, the fewer tokens pass
/// together.
const MAX_LENT_ATTENTION: usize = 64 << 20;

/// But no fewer tokens than this, so that weights aren't read much more often.
const MIN_LENT_BATCH: usize = 64;

/// A model whose weights take fewer bytes than this runs on the calling thread alone: its forward
/// pass takes less time than waking another thread.
const MIN_SHARED_MODEL_BYTES: usize = 2 << 20;

/// The cache is allocated for the whole context at once if that takes no more than the weights, or
/// than this.
const MIN_INITIAL_CACHE_BYTES: usize = 4 << 20;

/// Of which tokens a call wants results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The logits and the hidden state of the last.
    Last,
    /// The logits and the hidden states of all.
    All,
    /// The hidden states of all, and the logits of the last.
    AllHidden,
}

/// What passes have computed of the last tokens of a session's text, and of the guess after it.
#[derive(Debug, Default)]
pub(super) struct Results {
    logits: Vec<f32>, // (rows, vocab_size)
    hidden: Vec<f32>, // (rows, dim)
    /// The row of logits that follows the text's last token.
    last: Option<usize>,
    /// The first row of logits that the last call wanted.
    first: usize,
    /// The row of its hidden state, if there is such a row of logits.
    last_hidden: usize,
    /// Tokens that were read ahead: their keys and values follow the text's in the cache, and their
    /// rows the last. Nothing else knows of them.
    guess: Vec<TokenId>,
}

impl Results {
    /// A row of logits: (`vocab_size`).
    pub(super) fn last_logits(&self, config: &Config) -> Option<&[f32]> {
        let width = config.vocab_size;
        self.last.map(|row| &self.logits[row * width..][..width])
    }

    /// Those that the last call wanted: (n, `vocab_size`).
    pub(super) fn wanted_logits(&self, config: &Config) -> Option<&[f32]> {
        self.last.map(|last| self.logits(self.first..last + 1, config))
    }

    /// Which rows follow the text's last token. Of a call that wants more, the caller says so when
    /// it is complete.
    fn set_last(&mut self, logits: usize, hidden: usize) {
        (self.last, self.first, self.last_hidden) = (Some(logits), logits, hidden);
    }

    /// A hidden state: (`dim`).
    pub(super) fn last_hidden(&self, config: &Config) -> Option<&[f32]> {
        let row = self.last_hidden * config.dim;
        self.last.map(|_| &self.hidden[row..][..config.dim])
    }

    /// The logits of some rows.
    pub(super) fn logits(&self, rows: Range<usize>, config: &Config) -> &[f32] {
        &self.logits[rows.start * config.vocab_size..rows.end * config.vocab_size]
    }

    /// The hidden states of some rows.
    pub(super) fn hidden(&self, rows: Range<usize>, config: &Config) -> &[f32] {
        &self.hidden[rows.start * config.dim..rows.end * config.dim]
    }

    /// Forgets all: the text isn't the same any more.
    pub(super) fn clear(&mut self) {
        self.last = None;
        self.guess.clear();
    }

    /// What follows the last token, without the guess.
    pub(super) fn of_last(&self, config: &Config) -> Self {
        Self {
            logits: self.last_logits(config).unwrap_or_default().to_vec(),
            hidden: self.last_hidden(config).unwrap_or_default().to_vec(),
            last: self.last.map(|_| 0),
            first: 0,
            last_hidden: 0,
            guess: Vec::new(),
        }
    }

    /// What follows a text's last token.
    pub(super) fn new(logits: Vec<f32>, hidden: Vec<f32>) -> Self {
        let last = (!logits.is_empty()).then_some(0);
        Self { logits, hidden, last, first: 0, last_hidden: 0, guess: Vec::new() }
    }

    /// Makes room for rows, without touching those that are there.
    fn grow(&mut self, n_hidden: usize, n_logits: usize, config: &Config) -> Result<()> {
        grow(&mut self.hidden, n_hidden, config.dim, "the hidden states")?;
        grow(&mut self.logits, n_logits, config.vocab_size, "the logits")
    }

    pub(super) fn bytes(&self) -> usize {
        (self.logits.capacity() + self.hidden.capacity()) * size_of::<f32>()
    }
}

/// Grows a matrix to `n_rows` of `width`, if it has fewer.
fn grow(matrix: &mut Vec<f32>, n_rows: usize, width: usize, what: &'static str) -> Result<()> {
    let len = n_rows.saturating_mul(width);
    let bytes = (len as u64).saturating_mul(size_of::<f32>() as u64);
    let out_of_memory = |_| ErrorKind::OutOfMemory { what, bytes };
    matrix.try_reserve_exact(len.saturating_sub(matrix.len())).map_err(out_of_memory)?;
    if matrix.len() < len {
        matrix.resize(len, 0.0);
    }
    Ok(())
}

/// Whether the model runs on the calling thread alone.
fn runs_alone(model: &Model) -> bool {
    model.llama().weights.bytes_per_token() < MIN_SHARED_MODEL_BYTES
}

/// Starts the threads, if the model needs them.
pub(super) fn start_threads(model: &Model) -> Result<()> {
    if runs_alone(model) { Ok(()) } else { model.thread_team().start() }
}

/// One pass. False if it was cancelled.
fn pass(
    model: &Model,
    scratch: &mut Scratch,
    runs: &mut [Run<'_>],
    tokens: &[TokenId],
    outputs: Outputs<'_>,
) -> bool {
    let llama = model.llama();
    model.thread_team().enter(runs_alone(model), |team| {
        let compute = Compute { isa: model.isa(), numerics: llama.numerics, team };
        forward(llama, &compute, scratch, runs, tokens, outputs)
    })
}

impl Session {
    /// Feeds tokens, at least one, which were checked; its callers see to the pending one. Those
    /// that were guessed are there already. Reads `guess` ahead, as much of it as can be fed. Which
    /// rows of the results are those of the tokens that are wanted.
    pub(super) fn run_passes(
        &mut self,
        tokens: &[TokenId],
        guess: &[TokenId],
        wanted: Wanted,
    ) -> Result<Range<usize>> {
        let guess = self.possible(guess, tokens.len());
        let (first, mut done) = self.take_guessed(tokens, wanted);
        if done == tokens.len() {
            return Ok(self.wanted_rows(first, wanted));
        }
        start_threads(&self.model)?;
        let mut scratch = self.model.take_scratch();
        let mut row = if wanted == Wanted::Last { 0 } else { first + done };
        let mut outcome = Ok(());
        while outcome.is_ok() && done < tokens.len() {
            // Of what has a window, a step; of other caches all, the first time.
            outcome = self.reserve(tokens.len() - done, guess.len(), &mut scratch);
            if outcome.is_err() {
                break;
            }
            let plan = self.plan(tokens.len() - done, guess.len(), MAX_BATCH, wanted);
            outcome = self.run_pass(
                &tokens[done..][..plan.n_tokens],
                &guess[..plan.n_guess],
                row,
                &plan,
                &mut scratch,
            );
            if outcome.is_ok() {
                done += plan.n_tokens;
                row += if wanted == Wanted::Last { 0 } else { plan.n_tokens };
            }
        }
        self.model.give_back_scratch(scratch);
        outcome?;
        Ok(self.wanted_rows(first, wanted))
    }

    /// Which rows of the results a call wanted that is complete: of all, those from `first` on.
    fn wanted_rows(&mut self, first: usize, wanted: Wanted) -> Range<usize> {
        if wanted == Wanted::All {
            self.results.first = first;
        }
        let end = self.results.last_hidden + 1;
        if wanted == Wanted::Last { end - 1..end } else { first..end }
    }

    /// One pass of this session alone; its rows begin at `row`.
    fn run_pass(
        &mut self,
        tokens: &[TokenId],
        guess: &[TokenId],
        row: usize,
        plan: &Plan,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let config = self.model.config();
        // Of all rows of hidden states, the logits of the last alone may be wanted.
        let logits_row = if plan.n_logits < plan.n_hidden { 0 } else { row };
        self.results.grow(row + plan.n_hidden, logits_row + plan.n_logits, config)?;
        let with_guess;
        let batch = if guess.is_empty() {
            tokens
        } else {
            with_guess = [tokens, guess].concat();
            &with_guess
        };
        // What was guessed before is overwritten now.
        self.results.guess.clear();
        let Results { logits, hidden, .. } = &mut self.results;
        let outputs = Outputs {
            hidden: &mut hidden[row * config.dim..][..plan.n_hidden * config.dim],
            logits: &mut logits[logits_row * config.vocab_size..][..plan.n_logits * config.vocab_size],
        };
        let run = Run {
            cache: &mut self.cache,
            rope_frequencies: self.model.llama().rope_frequencies.of(self.capacity),
            position: self.tokens.len(),
            n_tokens: batch.len(),
            n_wanted: plan.n_hidden,
            cancel: self.cancel.as_deref(),
        };
        if !pass(&self.model, scratch, &mut [run], batch, outputs) {
            return Err(ErrorKind::Cancelled.into());
        }
        let last = row + plan.n_hidden - 1 - guess.len();
        let last_logits = if plan.n_logits < plan.n_hidden { 0 } else { last };
        self.absorb(tokens, guess, [last_logits, last]);
        Ok(())
    }

    /// The tokens are part of the text now, and the guess follows it.
    fn absorb(&mut self, tokens: &[TokenId], guess: &[TokenId], [logits, hidden]: [usize; 2]) {
        self.join_text(tokens);
        self.results.set_last(logits, hidden);
        self.results.guess.clear();
        self.results.guess.extend_from_slice(guess);
    }

    /// Tokens were fed, the pending one first. After others the text isn't the generation's.
    fn join_text(&mut self, tokens: &[TokenId]) {
        self.tokens.extend_from_slice(tokens);
        self.n_cached = self.tokens.len();
        if tokens.len() > usize::from(self.tail.pending.take().is_some()) {
            self.tail.clear();
        }
    }

    /// Makes those of the first tokens that were guessed part of the text; how many they are, and
    /// the row of the first.
    fn take_guessed(&mut self, tokens: &[TokenId], wanted: Wanted) -> (usize, usize) {
        let Results { guess, last, .. } = &self.results;
        let Some(row) = last.filter(|_| wanted != Wanted::AllHidden) else { return (0, 0) };
        let n = guess.iter().zip(tokens).take_while(|(guessed, token)| guessed == token).count();
        if n == 0 {
            return (0, 0);
        }
        self.results.guess.drain(..n);
        self.results.set_last(row + n, self.results.last_hidden + n);
        self.join_text(&tokens[..n]);
        (row + 1, n)
    }

    /// What of a guess can be fed after `n_tokens` more: it has room, and its tokens exist.
    fn possible<'g>(&self, guess: &'g [TokenId], n_tokens: usize) -> &'g [TokenId] {
        let vocab_size = self.model.config().vocab_size;
        let left = self.capacity.saturating_sub(self.tokens.len() + n_tokens);
        let known = guess.iter().take_while(|&&token| (token as usize) < vocab_size).count();
        &guess[..known.min(left)]
    }

    /// What the next pass does, of at most `max` tokens, with so many tokens left and then a guess.
    fn plan(&self, n_left: usize, n_guess: usize, max: usize, wanted: Wanted) -> Plan {
        let max = max.min(self.max_batch()).min(self.cache.contiguous_from(self.position()));
        let n_tokens = n_left.min(max);
        let n_guess = if n_tokens == n_left { n_guess.min(max - n_tokens) } else { 0 };
        let n_hidden = if wanted == Wanted::Last { 1 } else { n_tokens } + n_guess;
        let n_logits = if wanted == Wanted::AllHidden { 1 } else { n_hidden };
        Plan { n_tokens, n_guess, n_hidden, n_logits }
    }

    /// The number of tokens that pass through the layers together next. Any gives the same bits.
    fn max_batch(&self) -> usize {
        if !self.model.thread_team().are_lent() {
            return MAX_BATCH;
        }
        let Config { n_heads, n_kv_heads, head_dim, .. } = *self.model.config();
        // A thread computes with the queries that share a head of keys, and all its keys and
        // values.
        let per_position = 2 * head_dim * n_heads / n_kv_heads;
        let positions = self.position() + MIN_LENT_BATCH;
        (MAX_LENT_ATTENTION / (per_position * positions)).clamp(MIN_LENT_BATCH, MAX_BATCH)
    }

    /// Reads again what the cache lacks: it was truncated to where its window is gone.
    fn read_again(&mut self, scratch: &mut Scratch) -> Result<()> {
        if self.n_cached == self.tokens.len() && self.cache.sees(self.n_cached) {
            return Ok(());
        }
        if !self.cache.sees(self.n_cached) {
            self.cache.clear();
            self.n_cached = 0;
        }
        start_threads(&self.model)?;
        let text = self.tokens.clone();
        self.tokens.truncate(self.n_cached);
        let tail = std::mem::take(&mut self.tail);
        let mut outcome = Ok(());
        while outcome.is_ok() && self.tokens.len() < text.len() {
            let rest = &text[self.tokens.len()..];
            outcome = self.reserve_cache(rest.len(), 0, scratch).and_then(|()| {
                let plan = self.plan(rest.len(), 0, MAX_BATCH, Wanted::Last);
                self.run_pass(&rest[..plan.n_tokens], &[], 0, &plan, scratch)
            });
        }
        self.results.clear(); // as it was
        (self.tokens, self.tail) = (text, tail);
        outcome
    }

    /// Allocates all that feeding `n_tokens` and a guess takes, so that it can't fail halfway.
    fn reserve(&mut self, n_tokens: usize, n_guess: usize, scratch: &mut Scratch) -> Result<()> {
        self.read_again(scratch)?;
        self.reserve_cache(n_tokens, n_guess, scratch)
    }

    fn reserve_cache(&mut self, n_tokens: usize, n_guess: usize, scratch: &mut Scratch) -> Result<()> {
        let config = self.model.config();
        let per_position = self.cache.position_bytes() + Scratch::bytes_per_position(config);
        let bytes_per_token = self.model.llama().weights.bytes_per_token();
        let at_once = bytes_per_token.max(MIN_INITIAL_CACHE_BYTES) / per_position;
        let needed = self.position() + n_tokens + n_guess;
        if self.cache.reserve(self.position(), needed, at_once.min(self.capacity), self.capacity)? {
            self.results.guess.clear();
        }
        scratch.reserve_scores(config, self.cache.capacity())?;
        self.tokens.reserve(self.cache.capacity().saturating_sub(self.tokens.len()));
        self.results.grow(1 + n_guess, 1 + n_guess, config)
    }

    /// Allocates all that feeding the pending token and these takes, so that it can't fail halfway.
    pub(super) fn reserve_all(&mut self, n_tokens: usize) -> Result<()> {
        let n_pending = usize::from(self.tail.pending.is_some());
        let mut scratch = self.model.take_scratch();
        let reserved = self.reserve(n_pending + n_tokens, 0, &mut scratch);
        self.model.give_back_scratch(scratch);
        reserved
    }

    /// Whether this token was guessed: feeding it costs nothing.
    pub(crate) fn is_guessed(&self, token: TokenId) -> bool {
        self.results.guess.first() == Some(&token)
    }
}

/// What a pass does with one session.
struct Plan {
    n_tokens: usize,
    n_guess: usize,
    n_hidden: usize,
    n_logits: usize,
}

/// One session's part in passes of several.
pub(super) struct Lane<'a> {
    pub(super) session: &'a mut Session,
    /// All that is to be fed, the pending token among it.
    pub(super) tokens: Vec<TokenId>,
    pub(super) guess: Vec<TokenId>,
    pub(super) wanted: Wanted,
    /// The first row of results that is wanted if all are.
    first: usize,
    done: usize,
    row: usize,
}

impl<'a> Lane<'a> {
    /// Tokens that were checked, the pending one before `fed`. Those that were guessed are there
    /// already.
    pub(super) fn new(
        session: &'a mut Session,
        pending: Option<TokenId>,
        fed: &[TokenId],
        guess: &[TokenId],
        wanted: Wanted,
    ) -> Self {
        let tokens: Vec<_> = pending.into_iter().chain(fed.iter().copied()).collect();
        let guess = session.possible(guess, tokens.len()).to_vec();
        let (first, done) = session.take_guessed(&tokens, wanted);
        let row = if wanted == Wanted::Last { 0 } else { first + done };
        let first = first + if fed.is_empty() { 0 } else { tokens.len() - fed.len() };
        Self { session, tokens, guess, wanted, first, done, row }
    }
}

/// Feeds all lanes, which are sessions of one model: the weights are read once for all of them.
pub(super) fn run_lanes(model: &Model, lanes: &mut [Lane<'_>]) -> Result<()> {
    start_threads(model)?;
    let mut scratch = model.take_scratch();
    let mut outcome = Ok(());
    while outcome.is_ok() && lanes.iter().any(|lane| lane.done < lane.tokens.len()) {
        let reserve = |lane: &mut Lane<'_>| match lane.tokens.len() - lane.done {
            0 => Ok(()),
            n => lane.session.reserve(n, lane.guess.len(), &mut scratch),
        };
        outcome = lanes.iter_mut().try_for_each(reserve);
        outcome = outcome.and_then(|()| run_lanes_once(model, lanes, &mut scratch));
    }
    model.give_back_scratch(scratch);
    outcome?;
    for lane in lanes.iter_mut().filter(|lane| !lane.tokens.is_empty()) {
        lane.session.wanted_rows(lane.first, lane.wanted);
    }
    Ok(())
}

/// One pass of as many lanes as fit.
fn run_lanes_once(model: &Model, lanes: &mut [Lane<'_>], scratch: &mut Scratch) -> Result<()> {
    let config = model.config();
    let (mut tokens, mut plans, mut left) = (Vec::new(), Vec::with_capacity(lanes.len()), MAX_BATCH);
    for lane in &mut *lanes {
        let rest = &lane.tokens[lane.done..];
        let plan = (!rest.is_empty() && left > 0)
            .then(|| lane.session.plan(rest.len(), lane.guess.len(), left, lane.wanted));
        if let Some(plan) = &plan {
            tokens.extend_from_slice(&rest[..plan.n_tokens]);
            tokens.extend_from_slice(&lane.guess[..plan.n_guess]);
            left -= plan.n_tokens + plan.n_guess;
            lane.session.results.grow(lane.row + plan.n_hidden, lane.row + plan.n_hidden, config)?;
        }
        plans.push(plan);
    }
    let n_rows = plans.iter().flatten().map(|plan| plan.n_hidden).sum::<usize>();
    let mut together = Results::default();
    together.grow(n_rows, n_rows, config)?;
    let mut runs = Vec::with_capacity(lanes.len());
    for (lane, plan) in lanes.iter_mut().zip(&plans) {
        let Some(plan) = plan else { continue };
        lane.session.results.guess.clear();
        runs.push(Run {
            position: lane.session.tokens.len(),
            cache: &mut lane.session.cache,
            rope_frequencies: model.llama().rope_frequencies.of(lane.session.capacity),
            n_tokens: plan.n_tokens + plan.n_guess,
            n_wanted: plan.n_hidden,
            cancel: lane.session.cancel.as_deref(),
        });
    }
    let outputs = Outputs { hidden: &mut together.hidden, logits: &mut together.logits };
    if !pass(model, scratch, &mut runs, &tokens, outputs) {
        return Err(ErrorKind::Cancelled.into());
    }
    let mut first = 0;
    for (lane, plan) in lanes.iter_mut().zip(&plans) {
        let Some(plan) = plan else { continue };
        let rows = first..first + plan.n_hidden;
        let results = &mut lane.session.results;
        results.logits[lane.row * config.vocab_size..][..plan.n_hidden * config.vocab_size]
            .copy_from_slice(together.logits(rows.clone(), config));
        results.hidden[lane.row * config.dim..][..plan.n_hidden * config.dim]
            .copy_from_slice(together.hidden(rows, config));
        first += plan.n_hidden;
        let (fed, guess) = (&lane.tokens[lane.done..][..plan.n_tokens], &lane.guess[..plan.n_guess]);
        lane.session.absorb(fed, guess, [lane.row + plan.n_hidden - 1 - plan.n_guess; 2]);
        lane.done += plan.n_tokens;
        lane.row += if lane.wanted == Wanted::Last { 0 } else { plan.n_tokens };
    }
    Ok(())
}
