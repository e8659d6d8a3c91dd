//! DRY ("don't repeat yourself"): the longer the repetition that a token would continue, the less
//! likely it becomes.

use std::cmp::Reverse;

use super::options::SamplerOptions;
use crate::error::TokenId;

/// The sequence breakers, and buffers.
#[derive(Clone, Debug, Default)]
pub(super) struct Dry {
    /// Each from its last token to its first, in ascending order: those that end with a token are
    /// neighbors.
    breakers: Vec<Vec<TokenId>>,
    /// How many tokens up to each, the last token first, are those that the text ends with.
    lengths: Vec<usize>, // (up to dry_window)
    /// Tokens that followed what the text ends with, and its length.
    repeats: Vec<(TokenId, usize)>, // (up to dry_window)
}

impl Dry {
    pub(super) fn new(breakers: &[Vec<TokenId>]) -> Self {
        let reversed = breakers.iter().map(|breaker| breaker.iter().rev().copied().collect());
        let mut breakers: Vec<Vec<TokenId>> = reversed.collect();
        breakers.sort_unstable();
        Self { breakers, ..Self::default() }
    }

    /// Subtracts `multiplier * base ^ (length - allowed_length)` from each token that followed
    /// the last `length` tokens somewhere in the text, of several lengths the greatest, unless the
    /// token alone is a breaker.
    pub(super) fn penalize(&mut self, options: &SamplerOptions, text: &[TokenId], logits: &mut [f32]) {
        self.lengths.clear();
        self.repeats.clear();
        // Enough for the window from the beginning, unless it is long.
        let enough = text.len().max(options.dry_window.min(1024));
        self.lengths.reserve(enough);
        self.repeats.reserve(enough);
        let longest = self.tokens_since_breaker(text);
        let shortest = options.dry_allowed_length.max(1);
        if longest < shortest {
            return;
        }
        self.match_end(text);
        for (i, &length) in self.lengths.iter().enumerate().skip(1).filter(|&(_, &length)| length >= shortest)
        {
            self.repeats.push((text[text.len() - i], length.min(longest)));
        }
        self.repeats.sort_unstable_by_key(|&(token, length)| (token, Reverse(length)));
        self.repeats.dedup_by_key(|&mut (token, _)| token);
        for &(token, length) in &self.repeats {
            let is_breaker = self.breakers.binary_search_by(|b| b.as_slice().cmp(&[token])).is_ok();
            if let Some(logit) = logits.get_mut(token as usize).filter(|_| !is_breaker) {
                let exponent = (length - options.dry_allowed_length) as f64;
                let penalty = f64::from(options.dry_multiplier) * f64::from(options.dry_base).powf(exponent);
                // Finite, because the difference of two infinities is NaN.
                *logit -= penalty.min(f64::from(f32::MAX)) as f32;
            }
        }
    }

    /// How many tokens there are after the last breaker that is complete in the text, or in all.
    fn tokens_since_breaker(&self, text: &[TokenId]) -> usize {
        let ends_one = |&i: &usize| {
            let end = text.iter().rev().skip(i);
            let token = text[text.len() - 1 - i];
            let first = self.breakers.partition_point(|breaker| breaker[0] < token);
            let ending = self.breakers[first..].iter().take_while(|breaker| breaker[0] == token);
            let is_here = |breaker: &Vec<TokenId>| {
                breaker.len() <= text.len() - i && breaker.iter().eq(end.clone().take(breaker.len()))
            };
            ending.into_iter().any(is_here)
        };
        (0..text.len()).find(ends_one).unwrap_or(text.len())
    }

    /// Fills `lengths`, which is empty: the Z-algorithm on the text read backward, in linear time.
    fn match_end(&mut self, text: &[TokenId]) {
        let n = text.len();
        let backward = |i: usize| text[n - 1 - i];
        self.lengths.push(0); // of the text's own end, which isn't a repetition
        // Of the matches so far the one that reaches farthest: within it, the text repeats its end,
        // and so do the lengths.
        let (mut start, mut end) = (0, 0);
        for i in 1..n {
            let mut length = if i < end { self.lengths[i - start].min(end - i) } else { 0 };
            while i + length < n && backward(i + length) == backward(length) {
                length += 1;
            }
            if i + length > end {
                (start, end) = (i, i + length);
            }
            self.lengths.push(length);
        }
    }

    /// Where its buffers are.
    #[cfg(test)]
    pub(super) fn places(&self) -> [*const (); 2] {
        [self.lengths.as_ptr().cast(), self.repeats.as_ptr().cast()]
    }
}
