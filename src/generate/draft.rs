//! Guesses of what comes next, which a pass reads ahead: the text stays the same, and comes faster.
//!
//! A pass of a few tokens takes hardly longer than one of a single token, since it is weights that
//! have to come from memory. So each pass reads the tokens that a draft proposes too; those that
//! are then sampled cost nothing. Every token is sampled from the model's own logits, with its own
//! random number, as without a draft: nothing has to be rejected or taken back.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::error::{ErrorKind, Result, TokenId};
use crate::model::Model;
use crate::session::Session;

/// The most tokens of a guess.
const MAX_DEPTH: usize = 15;

/// Tokens without a guess after guesses didn't pay, before the next try.
const PAUSE: usize = 32;

/// Proposes what may come. A bad proposal costs time, and never changes the text.
///
/// ```
/// # let model = babyllama::Model::open("models/babyllama.gguf")?;
/// use babyllama::{Draft, TokenId};
///
/// /// What the user is about to say, it is hoped.
/// struct Expected(Vec<TokenId>);
///
/// impl Draft for Expected {
///     fn draft(&mut self, tokens: &[TokenId], max: usize, out: &mut Vec<TokenId>) {
///         out.extend(self.0.iter().skip(tokens.len()).take(max));
///     }
/// }
///
/// let mut sampler = babyllama::Sampler::default();
/// let mut session = model.session();
/// let generate = session.generate("Once", &mut sampler)?.draft(Expected(vec![7; 99]));
/// # let found: String = generate.max_tokens(9).collect::<babyllama::Result<_>>()?;
/// # let (mut session, mut sampler) = (model.session(), babyllama::Sampler::default());
/// # let plain = session.generate("Once", &mut sampler)?.max_tokens(9);
/// # assert_eq!(found, plain.collect::<babyllama::Result<String>>()?);
/// # Ok::<(), babyllama::Error>(())
/// ```
pub trait Draft: Send {
    /// Appends at most `max` tokens that may follow a text.
    ///
    /// ```
    /// use babyllama::{Draft, PromptLookup};
    ///
    /// let mut guess = Vec::new();
    /// PromptLookup::new().draft(&[5, 6, 7, 8, 5, 6], 2, &mut guess);
    /// assert_eq!(guess, [7, 8]);
    /// ```
    fn draft(&mut self, tokens: &[TokenId], max: usize, out: &mut Vec<TokenId>);
}

impl<D: Draft + ?Sized> Draft for Box<D> {
    fn draft(&mut self, tokens: &[TokenId], max: usize, out: &mut Vec<TokenId>) {
        (**self).draft(tokens, max, out);
    }
}

/// One that several generations share, one after another.
impl<D: Draft + ?Sized> Draft for Arc<Mutex<D>> {
    fn draft(&mut self, tokens: &[TokenId], max: usize, out: &mut Vec<TokenId>) {
        self.lock().unwrap_or_else(PoisonError::into_inner).draft(tokens, max, out);
    }
}

/// Proposes what followed the last place where the text's last three tokens stood, or else the last
/// two: for texts that repeat parts of themselves, as when a text is copied with changes.
///
/// ```
/// # use babyllama::{Model, PromptLookup, Sampler, SamplerOptions};
/// # let model = Model::open("models/babyllama.gguf")?;
/// let mut sampler = Sampler::new(SamplerOptions::new().temperature(0.0));
/// let mut session = model.session();
/// let generate = session.generate("Once upon", &mut sampler)?.draft(PromptLookup::new());
/// assert_eq!(generate.max_tokens(2).collect::<babyllama::Result<String>>()?, " a time");
/// # Ok::<(), babyllama::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct PromptLookup {}

impl PromptLookup {
    /// The longest endings that are looked for, and the shortest.
    const LENGTHS: [usize; 2] = [3, 2];

    #[must_use]
    #[allow(missing_docs, reason = "it has no options")]
    pub fn new() -> Self {
        Self {}
    }
}

impl Draft for PromptLookup {
    fn draft(&mut self, tokens: &[TokenId], max: usize, out: &mut Vec<TokenId>) {
        for n in Self::LENGTHS {
            let Some(before) = tokens.len().checked_sub(n).filter(|&before| before > 0) else { continue };
            let ending = &tokens[before..];
            let found = tokens[..tokens.len() - 1].windows(n).rposition(|window| window == ending);
            if let Some(at) = found {
                // What follows may run into the text's end, and then repeats.
                let period = before - at;
                out.extend((0..max).map(|i| tokens[at + n + i % period]));
                return;
            }
        }
    }
}

/// Proposes what a smaller model with the same tokenizer would write, always its likeliest token.
///
/// ```
/// # let model = babyllama::Model::open("models/babyllama.gguf")?;
/// # use babyllama::{DraftModel, Model, Sampler, SamplerOptions};
/// # let (large, small) = (&model, &model);
/// let draft = DraftModel::new(small, large)?;
/// let mut sampler = Sampler::new(SamplerOptions::new().temperature(0.0));
/// let mut session = large.session();
/// let generate = session.generate("Once upon", &mut sampler)?.draft(draft);
/// assert_eq!(generate.max_tokens(2).collect::<babyllama::Result<String>>()?, " a time");
/// # Ok::<(), babyllama::Error>(())
/// ```
#[derive(Debug)]
pub struct DraftModel {
    session: Session,
}

impl DraftModel {
    /// A draft by `small` for texts of `large`.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// # use babyllama::{DraftModel, Model, ModelOptions};
    /// let options = ModelOptions::new().no_tokenizer();
    /// let other = Model::open_with("models/babyllama.gguf", &options)?;
    /// assert!(DraftModel::new(&model, &model).is_ok());
    /// assert!(DraftModel::new(&other, &model).is_err()); // which tokens does it write?
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`] if their tokenizers don't have the same pieces;
    /// [`ErrorKind::NoTokenizer`].
    pub fn new(small: &Model, large: &Model) -> Result<Self> {
        let of = |model| Model::tokenizer(model).ok_or(ErrorKind::NoTokenizer);
        let (of_small, of_large) = (of(small)?, of(large)?);
        if let Some(id) = of_small.first_difference(of_large) {
            let (n_small, n_large) = (of_small.vocab_size(), of_large.vocab_size());
            return Err(ErrorKind::InvalidOption {
                name: "draft",
                value: format!("a model with {n_small} pieces"),
                reason: format!(
                    "its tokenizer must be that of the other model, of {n_large}: piece {id} differs"
                ),
            }
            .into());
        }
        Ok(Self { session: small.session() })
    }
}

impl Draft for DraftModel {
    fn draft(&mut self, tokens: &[TokenId], max: usize, out: &mut Vec<TokenId>) {
        let kept = self.session.keep_prefix(tokens);
        let mut next = &tokens[kept..];
        for _ in 0..max {
            // Where it can't go on, as at the end of its context, there is no guess.
            let Ok(logits) = self.session.forward(next) else { return };
            let greatest = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a)));
            out.extend(greatest.map(|token| token as TokenId));
            next = &out[out.len() - 1..];
        }
    }
}

/// A draft at work: how much it is asked for follows from how often it was right, and from what a
/// guessed token costs.
pub(super) struct Drafting {
    /// Never locked: it lets a generation be `Sync`, which a draft need not be.
    draft: Mutex<Box<dyn Draft>>,
    /// The session's tokens and the pending one.
    text: Vec<TokenId>,
    guess: Vec<TokenId>,
    /// Tokens of the last guess that weren't sampled yet.
    open: usize,
    /// How likely a guessed token is to be sampled: a moving average.
    accepted: f64,
    /// What a guessed token adds to a pass, as a part of a pass of one token: a moving average.
    cost: f64,
    /// Seconds of a pass of one token: a moving average, once there was one.
    pass: Option<f64>,
    begun: Option<(Instant, usize)>,
    /// Tokens to come without a guess.
    pause: usize,
}

impl Drafting {
    pub(super) fn new(draft: Box<dyn Draft>) -> Self {
        Self {
            draft: Mutex::new(draft),
            text: Vec::new(),
            guess: Vec::new(),
            open: 0,
            accepted: 0.7,
            cost: 0.2,
            pass: None,
            begun: None,
            pause: 0,
        }
    }

    /// What to read after the pending token, of which at most `left - 1` can matter.
    pub(super) fn guess(&mut self, session: &Session, left: usize) -> &[TokenId] {
        self.guess.clear();
        self.begun = None;
        let Some(pending) = session.pending() else { return &[] };
        if session.is_guessed(pending) {
            return &[]; // no pass is needed
        }
        self.begun = Some((Instant::now(), 0));
        let depth = self.depth().min(left.saturating_sub(1));
        if self.pause > 0 {
            self.pause -= 1;
        } else if depth == 0 {
            // One day the text may repeat itself again.
            (self.pause, self.accepted) = (PAUSE, self.accepted.max(0.5));
        } else {
            if self.text.len() > session.position() {
                self.text.truncate(session.position());
            }
            self.text.extend_from_slice(&session.tokens()[self.text.len()..]);
            self.text.push(pending);
            let draft = self.draft.get_mut().unwrap_or_else(PoisonError::into_inner);
            draft.draft(&self.text, depth, &mut self.guess);
            self.text.pop();
            self.guess.truncate(depth);
        }
        self.open = self.guess.len();
        self.begun = Some((Instant::now(), self.guess.len()));
        &self.guess
    }

    /// How many guessed tokens bring the most tokens in a pass's time.
    fn depth(&self) -> usize {
        let rate = |depth: usize| {
            let tokens: f64 = (0..=depth).map(|i| self.accepted.powi(i as i32)).sum();
            tokens / (1.0 + self.cost * depth as f64)
        };
        (0..=MAX_DEPTH).max_by(|&a, &b| rate(a).total_cmp(&rate(b)).then(b.cmp(&a))).unwrap_or(0)
    }

    /// What was to be read has been read.
    pub(super) fn has_read(&mut self) {
        let Some((begun, n)) = self.begun.take() else { return };
        let seconds = begun.elapsed().as_secs_f64();
        match self.pass {
            Some(pass) if n > 0 => {
                let cost = ((seconds / pass - 1.0) / n as f64).clamp(0.0, 1.0);
                self.cost += (cost - self.cost) / 8.0;
            }
            Some(pass) => self.pass = Some(pass + (seconds - pass) / 8.0),
            None if n == 0 => self.pass = Some(seconds),
            None => {}
        }
    }

    /// A token was sampled, which had been guessed or not.
    pub(super) fn sampled(&mut self, was_guessed: bool) {
        if self.open == 0 {
            return;
        }
        self.open = if was_guessed { self.open - 1 } else { 0 };
        let accepted = if was_guessed { 1.0 } else { 0.0 };
        self.accepted += (accepted - self.accepted) / 16.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(tokens: &[TokenId], max: usize) -> Vec<TokenId> {
        let mut out = Vec::new();
        PromptLookup::new().draft(tokens, max, &mut out);
        out
    }

    #[test]
    fn a_lookup_proposes_what_followed_the_last_place() {
        assert_eq!(lookup(&[1, 2, 3, 4, 5, 9, 1, 2, 3], 2), [4, 5]);
        assert_eq!(lookup(&[7, 2, 3, 4, 1, 2, 3, 5, 8, 2, 3], 2), [5, 8], "the last place of two");
        assert_eq!(lookup(&[7, 2, 3, 4, 7, 2, 3, 5, 6, 2, 3, 4, 7, 2, 3], 1), [5], "three before two");
        assert_eq!(lookup(&[1, 1, 1, 1], 3), [1, 1, 1], "into its own end");
        assert_eq!(lookup(&[1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
        for tokens in [&[][..], &[1], &[1, 2], &[1, 2, 3], &[1, 2, 3, 4]] {
            assert!(lookup(tokens, 4).is_empty());
        }
    }

    #[test]
    fn depth_follows_acceptance_and_cost() {
        struct Nothing;
        impl Draft for Nothing {
            fn draft(&mut self, _: &[TokenId], _: usize, _: &mut Vec<TokenId>) {}
        }
        let mut drafting = Drafting::new(Box::new(Nothing));
        let mut depth = |accepted, cost| {
            (drafting.accepted, drafting.cost) = (accepted, cost);
            drafting.depth()
        };
        assert_eq!(depth(1.0, 0.1), MAX_DEPTH);
        assert_eq!(depth(0.1, 0.2), 0);
        assert!(depth(0.8, 0.3) < depth(0.8, 0.1));
        assert_eq!(depth(0.9, 1.0), 0, "rows that cost a pass each");
    }
}
