//! From logits to the next token.
//!
//! The stages, in order, each left out when its option is off:
//!
//! | here | what it does | in llama.cpp's default order |
//! | --- | --- | --- |
//! | `logit_bias` | adds to logits | 1 |
//! | `repetition_penalty` | divides or multiplies logits | 2, in one stage |
//! | `frequency_penalty`, `presence_penalty` | subtract from logits | 2, in one stage |
//! | `dry_multiplier` | subtracts from logits that continue a repetition | 3 |
//! | `top_n_sigma` | drops logits far below the greatest | 4 |
//! | `temperature` | 0 takes the greatest, any other divides the logits | 10: `temperature_last` |
//! | softmax | makes probabilities of logits | |
//! | `min_p` | drops what is unlikely beside the likeliest | 8, after `top_p` |
//! | `top_k` | keeps a number of the likeliest | 5 |
//! | `typical_p` | keeps what is as surprising as could be expected | 6 |
//! | `top_p` | keeps the likeliest up to a share of what is left | 7 |
//! | `xtc_probability` | drops the likeliest, as a first random number says | 9 |
//! | the draw | a random number chooses from what is left | 11 |
//!
//! So with `temperature_last` the order is llama.cpp's, except that `min_p` comes before the other
//! filters, of which `typical_p` and `top_p` see what it leaves. At temperature 0 nothing after
//! `temperature` matters: the greatest logit is taken, where llama.cpp takes the greatest that its
//! filters leave, which XTC may have changed.
//!
//! `stages` lists them, and says how to add one; `options` lists what can be asked for.
//!
//! Top-k comes before top-p as in Hugging Face's transformers; min-p comes before top-p too, where
//! transformers has it last. Each filter takes the probabilities of what is left for 1. What has a
//! probability that rounds to 0 in f32, at the temperature that the filters see, is dropped by any
//! filter. Invariant: with llama2.c's options alone the arithmetic is `run.c`'s,
//! operation by operation in f32, so the same logits and seed give the same tokens. Where `run.c`
//! would read outside its arrays or give up on rounding errors, the likeliest or the last possible
//! token is taken; a token of probability 0 never is.
//!
//! Source: llama2.c's `run.c`; top-p: arXiv 1904.09751; top-k: 1805.04833; min-p: 2407.01082;
//! repetition penalty: 1909.05858; frequency and presence penalty: the API reference of `OpenAI`;
//! typical sampling: 2202.00666; top-n-sigma: 2411.07641; DRY and XTC: pull requests 5677 and 6335
//! of text-generation-webui, by their author; the order and the breakers: llama.cpp; the random
//! numbers: Vigna, arXiv 1402.6246.

mod among;
mod candidates;
mod defaults;
mod dry;
mod history;
mod mask;
mod options;
mod rng;
mod stages;
#[cfg(test)]
mod tests;

use std::fmt;

use candidates::{Candidates, greatest, position, softmax};
pub(crate) use defaults::RECOMMENDATIONS;
pub use defaults::SamplingDefaults;
use history::History;
pub use mask::TokenMask;
pub use options::SamplerOptions;
pub use rng::Rng;
use stages::{ADJUSTMENTS, FILTERS, chosen};

use crate::error::{ErrorKind, Result, TokenId};

/// Chooses tokens.
///
/// ```
/// use babyllama::{Sampler, SamplerOptions};
///
/// let mut sampler = Sampler::new(SamplerOptions::new().temperature(0.0));
/// assert_eq!(sampler.sample(&[0.1, 2.5, -1.0])?, 1);
/// # Ok::<(), babyllama::Error>(())
/// ```
#[derive(Clone)]
pub struct Sampler {
    options: SamplerOptions,
    rng: Rng,
    history: History,
    /// The logits as they are changed, and then the probabilities.
    probs: Vec<f32>, // (n_logits)
    /// The changed logits, if the temperature comes last.
    adjusted: Vec<f32>, // (n_logits)
    /// The tokens that may be drawn, see [`key`].
    keys: Vec<u64>, // (up to n_logits)
    /// The logits of what a mask allows; minus infinity of the rest.
    masked: Vec<f32>, // (n_logits)
}

/// Its options, not its buffers.
impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sampler")
            .field("options", &self.options)
            .field("rng", &self.rng)
            .finish_non_exhaustive()
    }
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new(SamplerOptions::default())
    }
}

impl Sampler {
    /// A sampler at the beginning of its random numbers. Options that are out of range fail in
    /// [`sample`](Self::sample).
    #[must_use]
    pub fn new(options: SamplerOptions) -> Self {
        let (rng, history) = (Rng::new(options.seed), History::new(&options));
        let (probs, adjusted, keys) = (Vec::new(), Vec::new(), Vec::new());
        Self { options, rng, history, probs, adjusted, keys, masked: Vec::new() }
    }

    /// The options that it was made with.
    #[must_use]
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// Chooses a token: its id is below the number of logits.
    ///
    /// To keep a padded model from choosing ids without a piece, pass only the first
    /// [`vocab_size`](crate::Tokenizer::vocab_size) logits. A token of logit plus infinity is
    /// certain, and several of them are equally likely. Takes one random number, two with XTC, none
    /// if the temperature is 0 or the call fails. Once the buffers have grown to the number of
    /// logits, nothing is allocated.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`] if an option is out of range, [`ErrorKind::NanLogit`] if a
    /// logit is not a number, [`ErrorKind::NoCandidate`] if there are no logits or all are minus
    /// infinity or banned.
    pub fn sample(&mut self, logits: &[f32]) -> Result<TokenId> {
        self.options.validate()?;
        if logits.iter().fold(false, |found, logit| found | logit.is_nan()) {
            let token = logits.iter().position(|logit| logit.is_nan()).unwrap_or_default() as TokenId;
            return Err(ErrorKind::NanLogit { token }.into());
        }
        let Self { options, rng, history, probs, adjusted, keys, .. } = self;
        let mut adjustments = chosen(&ADJUSTMENTS, options).peekable();
        let is_greedy = options.temperature == 0.0;
        if is_greedy && adjustments.peek().is_none() {
            return Ok(position(logits, greatest(logits)?));
        }
        probs.clear();
        probs.extend_from_slice(logits);
        adjustments.for_each(|adjust| adjust(options, history, probs));
        let max = greatest(probs)?;
        if is_greedy {
            return Ok(position(probs, max));
        }

        let is_last = options.temperature_last && options.temperature != 1.0;
        if is_last {
            adjusted.clone_from(probs);
        }
        softmax(probs, max, if is_last { 1.0 } else { options.temperature });
        let mut candidates = Candidates::new(probs, keys);
        chosen(&FILTERS, options).for_each(|filter| filter(options, rng, &mut candidates));
        if is_last {
            candidates.reweigh(adjusted, options.temperature);
        }
        Ok(candidates.draw(rng.next_f32()))
    }

    /// Tells that a token joined the text, whether it was sampled or belongs to the prompt: the
    /// penalties count it.
    ///
    /// [`sample`](Self::sample) does not do this by itself.
    pub fn accept(&mut self, token: TokenId) {
        if self.options.remembered() > 0 {
            self.history.push(token, &self.options);
        }
    }

    /// Forgets the accepted tokens and accepts these: they are the text so far.
    pub(crate) fn accept_only(&mut self, tokens: &[TokenId]) {
        self.history.clear();
        let recent = tokens.len().saturating_sub(self.options.remembered());
        tokens[recent..].iter().for_each(|&token| self.accept(token));
    }

    /// Forgets the accepted tokens and starts the random numbers again.
    pub fn reset(&mut self) {
        self.history.clear();
        self.rng = Rng::new(self.options.seed);
    }
}
