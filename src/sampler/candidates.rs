//! The tokens that may be drawn, and the draw.

use crate::error::{ErrorKind, Result, TokenId};

/// The tokens that may be drawn.
pub(super) struct Candidates<'a> {
    /// Of all tokens, 0 of one that is impossible. They add up to 1, except for rounding.
    probs: &'a mut [f32], // (n_logits)
    /// Those that are left, see [`key`], unless all are.
    keys: &'a mut Vec<u64>, // (up to n_logits)
    left: Left,
}

/// Which tokens are left.
enum Left {
    /// All of them, in the order of their ids.
    All,
    /// Those of the keys, in any order.
    Unsorted,
    /// Those of the keys, the likeliest first. Their probabilities add up to this.
    Sorted(f32),
}

impl<'a> Candidates<'a> {
    /// All tokens; `keys` is a buffer.
    pub(super) fn new(probs: &'a mut [f32], keys: &'a mut Vec<u64>) -> Self {
        Self { probs, keys, left: Left::All }
    }

    /// The probability of the likeliest token.
    pub(super) fn greatest(&self) -> f32 {
        max(self.probs)
    }

    /// Keeps the tokens that are at least as likely as `cutoff`.
    pub(super) fn keep_at_least(&mut self, cutoff: f32) {
        match self.left {
            Left::All => self.collect(cutoff),
            _ => self.keys.retain(|&key| prob(key) >= cutoff),
        }
        self.left = Left::Unsorted;
    }

    /// Keeps the `n` likeliest tokens. `n` is above 0.
    pub(super) fn keep_likeliest(&mut self, n: usize) {
        if let Left::All = self.left {
            self.collect(0.0);
        }
        if n < self.keys.len() {
            self.keys.select_nth_unstable(n);
            self.keys.truncate(n);
        }
        self.left = Left::Unsorted;
    }

    /// Keeps the likeliest tokens up to the one with which they have more than the share `top_p` of
    /// all that are left. Of all tokens that is `run.c`'s top-p, which takes their sum for 1.
    pub(super) fn keep_nucleus(&mut self, top_p: f32) {
        let limit = match self.left {
            Left::All => {
                let n = self.probs.len();
                // A less likely token that isn't the first can't belong to the set: even with all
                // after it, it has less than 1 - top_p, so those before it exceed top_p. Drop it
                // before sorting.
                let cutoff = if n > 1 { (1.0 - top_p) / (n - 1) as f32 } else { 0.0 };
                self.collect(cutoff);
                if self.keys.is_empty() {
                    // With a low top_p and even probabilities the cutoff exceeds them all. Then the
                    // set is the first token alone.
                    let greatest = self.greatest();
                    self.keys.push(key(position(self.probs, greatest), greatest));
                }
                top_p
            }
            _ => top_p * self.sort(),
        };
        self.left = Left::Sorted(self.keep_up_to(limit));
    }

    /// Keeps the tokens of which the information content is closest to the entropy of all that are
    /// left, up to the one with which they have the share `mass`.
    pub(super) fn keep_typical(&mut self, mass: f32) {
        let sum = f64::from(self.sort());
        let share = |key: u64| f64::from(prob(key)) / sum;
        let entropy: f64 = self.keys.iter().map(|&key| -share(key) * share(key).ln()).sum();
        let distance = |key: u64| (-share(key).ln() - entropy).abs();
        // Sorted by probability, those at both sides of the entropy are the closest to it: the set
        // grows from there.
        let middle = self.keys.partition_point(|&key| -share(key).ln() < entropy);
        let (mut first, mut end, mut cumulative) = (middle, middle, 0.0);
        while cumulative < f64::from(mass) && end - first < self.keys.len() {
            let likelier = first.checked_sub(1).map(|i| self.keys[i]);
            let is_closer = |key| self.keys.get(end).is_none_or(|&other| distance(key) <= distance(other));
            cumulative += share(if let Some(key) = likelier.filter(|&key| is_closer(key)) {
                first -= 1;
                key
            } else {
                end += 1;
                self.keys[end - 1]
            });
        }
        self.keys.truncate(end);
        self.keys.drain(..first);
        self.left = Left::Unsorted;
    }

    /// Of the tokens with at least the share `threshold` of all that are left, keeps the least
    /// likely one only; of equals, the highest id.
    pub(super) fn drop_top_choices(&mut self, threshold: f32) {
        let cutoff = threshold * self.sort();
        let top_choices = self.keys.partition_point(|&key| prob(key) >= cutoff);
        self.keys.drain(..top_choices.saturating_sub(1));
        self.left = Left::Unsorted;
    }

    /// Gives those that are left the probabilities of these logits at a temperature.
    pub(super) fn reweigh(&mut self, logits: &[f32], temperature: f32) {
        if let Left::All = self.left {
            self.probs.copy_from_slice(logits);
        } else {
            self.probs.fill(f32::NEG_INFINITY);
            for token in self.keys.iter().map(|&key| token(key) as usize) {
                self.probs[token] = logits[token];
            }
        }
        softmax(self.probs, max(self.probs), temperature);
        self.left = Left::All;
    }

    /// Draws a token with a random number from 0 up to but not including 1.
    pub(super) fn draw(&mut self, coin: f32) -> TokenId {
        match self.left {
            Left::All => draw(self.probs.iter().enumerate().map(|(i, &p)| (i as TokenId, p)), coin),
            _ => {
                let target = coin * self.sort();
                draw(self.keys.iter().map(|&key| (token(key), prob(key))), target)
            }
        }
    }

    /// Fills `keys` with the tokens that are possible and at least as likely as `cutoff`.
    fn collect(&mut self, cutoff: f32) {
        let tokens = self.probs.iter().enumerate().filter(|&(_, &p)| p >= cutoff && p > 0.0);
        self.keys.clear();
        // for all, or it would grow whenever more are possible than ever before
        self.keys.reserve(self.probs.len());
        self.keys.extend(tokens.map(|(i, &p)| key(i as TokenId, p)));
    }

    /// Sorts the keys, and returns the sum of their probabilities, added in that order.
    fn sort(&mut self) -> f32 {
        match self.left {
            Left::All => self.collect(0.0),
            Left::Unsorted => (),
            Left::Sorted(sum) => return sum,
        }
        self.keys.sort_unstable();
        let sum = self.keys.iter().map(|&key| prob(key)).sum();
        self.left = Left::Sorted(sum);
        sum
    }

    /// Keeps the likeliest keys up to the one with which their probabilities exceed `limit`,
    /// sorted, and returns the sum.
    ///
    /// Only those need to be sorted, so the sort goes on in growing steps until the limit is
    /// reached: faster than one sort of all where the model is sure, as models mostly are.
    fn keep_up_to(&mut self, limit: f32) -> f32 {
        let mut cumulative = 0.0;
        let mut sorted = 0;
        let mut step = 256;
        while sorted < self.keys.len() {
            let rest = &mut self.keys[sorted..];
            let step_len = step.min(rest.len());
            if step_len < rest.len() {
                rest.select_nth_unstable(step_len);
            }
            rest[..step_len].sort_unstable();
            for &key in &rest[..step_len] {
                sorted += 1;
                cumulative += prob(key);
                if cumulative > limit {
                    self.keys.truncate(sorted);
                    return cumulative;
                }
            }
            step *= 8;
        }
        cumulative
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
/// temperature)`, normalized.
pub(super) fn softmax(x: &mut [f32], max: f32, temperature: f32) {
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
/// [`ErrorKind::NoCandidate`] if there is none above minus infinity.
pub(super) fn greatest(logits: &[f32]) -> Result<f32> {
    let max = max(logits);
    if max == f32::NEG_INFINITY { Err(ErrorKind::NoCandidate.into()) } else { Ok(max) }
}

/// The greatest, or minus infinity of none. None may be NaN.
pub(super) fn max(x: &[f32]) -> f32 {
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
pub(super) fn position(x: &[f32], value: f32) -> TokenId {
    // A chunk that has it is found with whole vectors; a search that stops anywhere takes one
    // number after another.
    let in_chunk = |chunk: &[f32; 16]| chunk.iter().fold(false, |found, &x| found | (x == value));
    let (chunks, _) = x.as_chunks::<16>();
    let first = 16 * chunks.iter().position(in_chunk).unwrap_or(chunks.len());
    x[first..].iter().position(|&x| x == value).map_or(0, |i| first + i) as TokenId
}
