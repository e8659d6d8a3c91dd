//! From logits to the next token.
//!
//! The steps, in order, each left out when its option is off:
//!
//! 1. `logit_bias`, then `repetition_penalty`, then `frequency_penalty` and `presence_penalty`
//!    change the logits;
//! 2. `temperature` 0 takes the greatest; any other divides the logits, and softmax makes
//!    probabilities of them;
//! 3. `top_k` and `min_p` drop tokens;
//! 4. `top_p` keeps the smallest set of the likeliest tokens whose share of what is left exceeds
//!    it;
//! 5. one coin draws a token from what is left.
//!
//! Top-k comes before top-p as in Hugging Face's transformers; min-p comes before top-p too, where
//! transformers has it last. Invariant: with llama2.c's options alone the arithmetic is `run.c`'s,
//! operation by operation in f32, so the same logits and seed give the same tokens. Where `run.c`
//! would read outside its arrays or give up on rounding errors, the likeliest or the last possible
//! token is taken; a token of probability 0 never is.
//!
//! Source: llama2.c's `run.c`; top-p: arXiv 1904.09751; top-k: 1805.04833; min-p: 2407.01082;
//! repetition penalty: 1909.05858; frequency and presence penalty: the API reference of `OpenAI`;
//! the random numbers: Vigna, arXiv 1402.6246.

#[cfg(test)]
mod tests;

use std::fmt;

use crate::error::{ErrorKind, Result, TokenId};

/// How a [`Sampler`] chooses. The defaults are llama2.c's.
///
/// ```
/// use babyllama::SamplerOptions;
///
/// let options = SamplerOptions { temperature: 0.8, ..Default::default() };
/// assert_eq!(options.top_p, 0.9);
/// options.validate()?;
/// # Ok::<(), babyllama::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits: below 1 the likely tokens get likelier, above 1 the choice gets more
    /// even, and 0 always takes the likeliest token and no random number. Default 1.
    pub temperature: f32,
    /// Keeps the likeliest tokens up to the one with which their probabilities together exceed
    /// this; off at 0 or below and at 1 or above. Default 0.9.
    pub top_p: f32,
    /// Keeps so many of the likeliest tokens; 0 is off. Default 0.
    pub top_k: usize,
    /// Drops tokens that are less likely than this times the likeliest; from 0, which is off, to 1.
    /// Default 0.
    pub min_p: f32,
    /// Divides the positive logits of recent tokens and multiplies the negative ones; above 0. 1 is
    /// off. Default 1.
    pub repetition_penalty: f32,
    /// Subtracted from a token's logit once for each time that it occurs among the recent tokens. 0
    /// is off. Default 0.
    pub frequency_penalty: f32,
    /// Subtracted from a token's logit once if it occurs among the recent tokens. 0 is off. Default
    /// 0.
    pub presence_penalty: f32,
    /// How many of the last accepted tokens are recent. 0 switches the three penalties off. Default
    /// 64.
    pub penalty_window: usize,
    /// Added to the tokens' logits; minus infinity bans a token. Ids without a logit are ignored.
    /// Default empty.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Where the random numbers start: the same seed gives the same choices. Default 42, so vary it
    /// for variety.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 0.9,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            penalty_window: 64,
            logit_bias: Vec::new(),
            seed: 42,
        }
    }
}

impl SamplerOptions {
    /// Checks every option.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidOption`] names the first option that cannot be honoured.
    pub fn validate(&self) -> Result<()> {
        let finite = "must be a finite number";
        let not_negative = "must be a finite number, 0 or more";
        require(
            "temperature",
            self.temperature,
            self.temperature.is_finite() && self.temperature >= 0.0,
            not_negative,
        )?;
        require("top_p", self.top_p, !self.top_p.is_nan(), "must be a number")?;
        require("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "must be from 0 to 1")?;
        let penalty = self.repetition_penalty;
        require(
            "repetition_penalty",
            penalty,
            penalty.is_finite() && penalty > 0.0,
            "must be a finite number above 0",
        )?;
        require("frequency_penalty", self.frequency_penalty, self.frequency_penalty.is_finite(), finite)?;
        require("presence_penalty", self.presence_penalty, self.presence_penalty.is_finite(), finite)?;
        self.logit_bias.iter().try_for_each(|&(_, bias)| {
            require("logit_bias", bias, bias < f32::INFINITY, "must be a finite number or minus infinity")
        })
    }

    /// Whether what was said before has a say.
    fn has_penalties(&self) -> bool {
        let penalties = (self.repetition_penalty, self.frequency_penalty, self.presence_penalty);
        self.penalty_window > 0 && penalties != (1.0, 0.0, 0.0)
    }

    /// Whether logits are changed before a token is chosen.
    fn adjusts(&self) -> bool {
        self.has_penalties() || !self.logit_bias.is_empty()
    }

    fn has_top_p(&self) -> bool {
        self.top_p > 0.0 && self.top_p < 1.0
    }
}

fn require(name: &'static str, value: f32, holds: bool, reason: &str) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(ErrorKind::InvalidOption { name, value: value.to_string(), reason: reason.into() }.into())
}

/// Chooses tokens.
///
/// ```
/// use babyllama::{Sampler, SamplerOptions};
///
/// let mut sampler = Sampler::new(SamplerOptions { temperature: 0.0, ..Default::default() });
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
    /// The tokens that may be drawn, see [`key`].
    keys: Vec<u64>, // (up to n_logits)
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

impl Sampler {
    /// A sampler at the beginning of its random numbers. Options that are out of range fail in
    /// [`sample`](Self::sample).
    #[must_use]
    pub fn new(options: SamplerOptions) -> Self {
        let (rng, history) = (Rng::new(options.seed), History::default());
        Self { options, rng, history, probs: Vec::new(), keys: Vec::new() }
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
    /// certain, and several of them are equally likely. Takes one random number, none if the
    /// temperature is 0 or the call fails. Once the buffers have grown to the number of logits,
    /// nothing is allocated.
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
        let greedy = self.options.temperature == 0.0;
        if greedy && !self.options.adjusts() {
            return Ok(position(logits, greatest(logits)?));
        }
        self.probs.clear();
        self.probs.extend_from_slice(logits);
        self.adjust();
        let max = greatest(&self.probs)?;
        if greedy {
            return Ok(position(&self.probs, max));
        }

        softmax(&mut self.probs, max, self.options.temperature);
        let coin = self.rng.next_f32();
        Ok(if self.options.top_k > 0 || self.options.min_p > 0.0 {
            self.draw_filtered(coin)
        } else if self.options.has_top_p() {
            self.draw_top_p(coin)
        } else {
            draw(self.probs.iter().copied().enumerate().map(|(i, p)| (i as TokenId, p)), coin)
        })
    }

    /// Tells that a token joined the text, whether it was sampled or belongs to the prompt: the
    /// penalties count it.
    ///
    /// [`sample`](Self::sample) does not do this by itself.
    pub fn accept(&mut self, token: TokenId) {
        if self.options.has_penalties() {
            self.history.push(token, self.options.penalty_window);
        }
    }

    /// Forgets the accepted tokens and accepts these: they are the text so far.
    pub(crate) fn accept_only(&mut self, tokens: &[TokenId]) {
        self.history.clear();
        let recent = tokens.len().saturating_sub(self.options.penalty_window);
        tokens[recent..].iter().for_each(|&token| self.accept(token));
    }

    /// Forgets the accepted tokens and starts the random numbers again.
    pub fn reset(&mut self) {
        self.history.clear();
        self.rng = Rng::new(self.options.seed);
    }

    /// Applies the biases and penalties. A logit of minus infinity stays that, and none becomes
    /// NaN.
    fn adjust(&mut self) {
        for &(token, bias) in &self.options.logit_bias {
            if let Some(logit) = self.probs.get_mut(token as usize) {
                // Added to plus infinity, a ban would give NaN.
                *logit = if bias == f32::NEG_INFINITY { bias } else { *logit + bias };
            }
        }
        if !self.options.has_penalties() {
            return;
        }
        let SamplerOptions { repetition_penalty, frequency_penalty, presence_penalty, .. } = self.options;
        for &(token, count) in &self.history.counts {
            if let Some(logit) = self.probs.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / repetition_penalty } else { *logit * repetition_penalty };
                let penalty = count as f32 * frequency_penalty + presence_penalty;
                // Finite, because the difference of two infinities is NaN.
                *logit -= penalty.clamp(f32::MIN, f32::MAX);
            }
        }
    }

    /// `run.c`'s top-p.
    fn draw_top_p(&mut self, coin: f32) -> TokenId {
        let n = self.probs.len();
        // A less likely token that isn't the first cannot belong to the set: even with all after
        // it, it has less than 1 - top_p, so those before it exceed top_p. Skip it before sorting.
        let cutoff = if n > 1 { (1.0 - self.options.top_p) / (n - 1) as f32 } else { 0.0 };
        self.collect(cutoff);
        if self.keys.is_empty() {
            // With a low top_p and even probabilities the cutoff exceeds them all. Then the set is
            // the first token alone.
            return position(&self.probs, max(&self.probs));
        }
        draw_nucleus(&mut self.keys, self.options.top_p, coin)
    }

    /// Top-k and min-p, then top-p on what they leave.
    fn draw_filtered(&mut self, coin: f32) -> TokenId {
        let SamplerOptions { top_k, min_p, top_p, .. } = self.options;
        self.collect(min_p * max(&self.probs));
        if 0 < top_k && top_k < self.keys.len() {
            self.keys.select_nth_unstable(top_k);
            self.keys.truncate(top_k);
        }
        self.keys.sort_unstable();
        let limit = if self.options.has_top_p() {
            top_p * self.keys.iter().map(|&key| prob(key)).sum::<f32>()
        } else {
            f32::INFINITY
        };
        draw_nucleus(&mut self.keys, limit, coin)
    }

    /// Fills `keys` with the tokens that are possible and at least as likely as `cutoff`.
    fn collect(&mut self, cutoff: f32) {
        let tokens = self.probs.iter().enumerate().filter(|&(_, &p)| p >= cutoff && p > 0.0);
        self.keys.clear();
        // for all, or it would grow whenever more are possible than ever before
        self.keys.reserve(self.probs.len());
        self.keys.extend(tokens.map(|(i, &p)| key(i as TokenId, p)));
    }
}

/// A token and its probability in one integer, of which the smaller is the likelier or, of equals,
/// the lower id.
///
/// The bits of floats that aren't negative ascend as the floats do.
fn key(token: TokenId, prob: f32) -> u64 {
    u64::from(!prob.to_bits()) << 32 | u64::from(token)
}

/// The token in a [`key`].
fn token(key: u64) -> TokenId {
    key as TokenId
}

/// The probability in a [`key`].
fn prob(key: u64) -> f32 {
    f32::from_bits(!(key >> 32) as u32)
}

/// Draws from the likeliest keys: as many as it takes for their probabilities to exceed `limit`, or
/// all.
///
/// Only those need to be sorted, so the sort goes on in growing steps until the limit is reached.
/// `keys` must not be empty.
//
// `sample` on 32,000 logits of standard deviation 3 takes 0.17 ms, and 0.20 ms if all candidates
// are sorted at once. At standard deviation 1, where the set has most of the vocabulary, it is 0.54
// ms against 0.45 ms; models are surer than that. Softmax is 0.12 ms of each. First steps of 64 and
// 1024 and a growth of 64 times are all slower at 3.
fn draw_nucleus(keys: &mut [u64], limit: f32, coin: f32) -> TokenId {
    let mut cumulative = 0.0;
    let mut sorted = 0;
    let mut step = 256;
    while sorted < keys.len() {
        let rest = &mut keys[sorted..];
        let step_len = step.min(rest.len());
        if step_len < rest.len() {
            rest.select_nth_unstable(step_len);
        }
        rest[..step_len].sort_unstable();
        for &key in &rest[..step_len] {
            sorted += 1;
            cumulative += prob(key);
            if cumulative > limit {
                return draw(keys[..sorted].iter().map(|&key| (token(key), prob(key))), coin * cumulative);
            }
        }
        step *= 8;
    }
    draw(keys.iter().map(|&key| (token(key), prob(key))), coin * cumulative)
}

/// The first token with which the sum of the probabilities exceeds `target`; if rounding keeps it
/// below, the last one that is possible.
fn draw(tokens: impl Iterator<Item = (TokenId, f32)>, target: f32) -> TokenId {
    let mut cumulative = 0.0;
    let mut last = 0;
    for (token, prob) in tokens {
        cumulative += prob;
        if target < cumulative {
            return token;
        }
        if prob > 0.0 {
            last = token;
        }
    }
    last
}

/// Makes probabilities of logits, whose greatest is `max` and not minus infinity: `exp(x /
/// temperature)`, normalised.
fn softmax(x: &mut [f32], max: f32, temperature: f32) {
    let scaled_max = max / temperature;
    if scaled_max.is_finite() {
        for x in &mut *x {
            *x = *x / temperature - scaled_max;
        }
    } else if max == f32::INFINITY {
        for x in &mut *x {
            *x = if *x == max { 0.0 } else { f32::NEG_INFINITY };
        }
    } else {
        // The temperature is so close to 0 that the quotients overflow. The quotients of the
        // differences may, too.
        for x in &mut *x {
            *x = (*x - max) / temperature;
        }
    }

    let mut sum = 0.0;
    for x in &mut *x {
        // Below this the exponential is 0 in f32: half of the least subnormal is exp(-103.97).
        *x = if *x < -104.0 { 0.0 } else { x.exp() };
        sum += *x;
    }
    for x in &mut *x {
        *x /= sum;
    }
}

/// The greatest logit, none of which may be NaN.
///
/// # Errors
///
/// [`ErrorKind::NoCandidate`] if there is none above minus infinity.
fn greatest(logits: &[f32]) -> Result<f32> {
    let max = max(logits);
    if max == f32::NEG_INFINITY { Err(ErrorKind::NoCandidate.into()) } else { Ok(max) }
}

/// The greatest, or minus infinity of none. None may be NaN.
fn max(x: &[f32]) -> f32 {
    // Sixteen maxima side by side: the compiler may not reorder a single one, and this takes whole
    // vectors.
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = x.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = greater(*lane, x);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, greater)
}

/// The lowest index of `value`, or 0 if it is not there.
fn position(x: &[f32], value: f32) -> TokenId {
    // A chunk that has it is found with whole vectors; a search that stops anywhere takes one
    // number after another.
    let in_chunk = |chunk: &[f32; 16]| chunk.iter().fold(false, |found, &x| found | (x == value));
    let (chunks, _) = x.as_chunks::<16>();
    let first = 16 * chunks.iter().position(in_chunk).unwrap_or(chunks.len());
    x[first..].iter().position(|&x| x == value).map_or(0, |i| first + i) as TokenId
}

/// The accepted tokens that count as recent, and how often each occurs.
#[derive(Clone, Debug, Default)]
struct History {
    /// A ring once it has as many tokens as the window.
    tokens: Vec<TokenId>, // (up to penalty_window)
    /// Where the oldest token is, once the ring is full.
    oldest: usize,
    /// Each token that occurs, with its count, in ascending order of tokens.
    counts: Vec<(TokenId, usize)>,
}

impl History {
    /// Adds a token and forgets the one that leaves a window of this size, which is above 0.
    fn push(&mut self, token: TokenId, window: usize) {
        if self.tokens.len() < window {
            if self.tokens.is_empty() {
                let expected = window.min(1024);
                self.tokens.reserve(expected);
                self.counts.reserve(expected);
            }
            self.tokens.push(token);
        } else {
            let gone = std::mem::replace(&mut self.tokens[self.oldest], token);
            self.oldest = (self.oldest + 1) % window;
            if let Ok(i) = self.find(gone) {
                self.counts[i].1 -= 1;
                if self.counts[i].1 == 0 {
                    self.counts.remove(i);
                }
            }
        }
        match self.find(token) {
            Ok(i) => self.counts[i].1 += 1,
            Err(i) => self.counts.insert(i, (token, 1)),
        }
    }

    fn clear(&mut self) {
        self.tokens.clear();
        self.oldest = 0;
        self.counts.clear();
    }

    fn find(&self, token: TokenId) -> Result<usize, usize> {
        self.counts.binary_search_by_key(&token, |&(token, _)| token)
    }
}

/// The random numbers of `run.c`: xorshift64*, of which the upper half is used.
///
/// ```
/// let mut rng = babyllama::Rng::new(7);
/// let coin = rng.next_f32();
/// assert!((0.0..1.0).contains(&coin));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// Starts at `seed`. 0, from which all numbers would be 0, counts as 0x9E3779B97F4A7C15.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: if seed == 0 { 0x9E37_79B9_7F4A_7C15 } else { seed } }
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }

    /// The next number from 0 up to but not including 1, a multiple of 2^-24.
    pub fn next_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 / 16_777_216.0
    }
}
