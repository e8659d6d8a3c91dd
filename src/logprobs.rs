//! Log-probabilities: the one log-softmax of the crate, in f64.

use std::cmp::Ordering;

use crate::error::{ErrorKind, Result, TokenId};
use crate::simd::{Isa, kernel};

/// A token and the natural logarithm of its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct TokenLogprob {
    /// The token.
    pub token: TokenId,
    /// At most 0; minus infinity if the token is impossible, and never NaN.
    pub logprob: f64,
}

/// The log-softmax of a row of logits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogSoftmax<'a> {
    logits: &'a [f32], // (vocab_size)
    max: f32,
    /// The logarithm of the sum of all `e^(logit - max)`.
    log_sum: f64,
}

impl<'a> LogSoftmax<'a> {
    /// Of logits of which none may be NaN. Those that are plus infinity share all probability.
    pub(crate) fn new(isa: Isa, logits: &'a [f32]) -> Result<Self> {
        let (max, sum) = max_and_sum(isa, logits);
        if sum.is_nan() {
            let token = logits.iter().position(|logit| logit.is_nan()).unwrap_or_default() as TokenId;
            return Err(ErrorKind::NanLogit { token }.into());
        }
        Ok(Self { logits, max, log_sum: sum.ln() })
    }

    /// The log-probability of a token of the model's.
    pub(crate) fn logprob(&self, token: TokenId) -> f64 {
        below(self.max, self.logits[token as usize]) - self.log_sum
    }

    /// Whether a token has the greatest logit, and of equals the lowest id.
    pub(crate) fn is_greatest(&self, token: TokenId) -> bool {
        let (before, rest) = self.logits.split_at(token as usize);
        rest.first() == Some(&self.max) && !before.contains(&self.max)
    }

    /// The `n` likeliest of the first `n_tokens`, the greatest first, and of equals the lowest id.
    pub(crate) fn top(&self, n: usize, n_tokens: usize) -> Box<[TokenLogprob]> {
        let n = n.min(n_tokens);
        let mut best: Vec<TokenId> = Vec::new();
        if n > 0 {
            let likelier = |a: &TokenId, b: &TokenId| {
                let (x, y) = (self.logits[*a as usize], self.logits[*b as usize]);
                y.partial_cmp(&x).unwrap_or(Ordering::Equal).then(a.cmp(b))
            };
            // Up to 2n that may be among them: so the least of n is looked for once in n times.
            let mut least = None;
            for (token, &logit) in (0..).zip(&self.logits[..n_tokens]) {
                if least.is_none_or(|least| logit > least) {
                    best.push(token);
                }
                if best.len() == 2 * n {
                    let (_, &mut last, _) = best.select_nth_unstable_by(n - 1, likelier);
                    least = Some(self.logits[last as usize]);
                    best.truncate(n);
                }
            }
            best.sort_unstable_by(likelier);
            best.truncate(n);
        }
        best.into_iter().map(|token| TokenLogprob { token, logprob: self.logprob(token) }).collect()
    }
}

kernel! { float
    /// The greatest logit, and the sum of all `e^(logit - max)`, in sixteen parts, so that it is
    /// the same bits on every instruction set. The sum is NaN if a logit is.
    fn max_and_sum(_s; logits: &[f32]) -> (f32, f64) {
        let (chunks, rest) = logits.as_chunks::<16>();
        let greater = |a: f32, b: f32| if b > a { b } else { a };
        let mut lanes = [f32::NEG_INFINITY; 16];
        for chunk in chunks {
            for (lane, &logit) in lanes.iter_mut().zip(chunk) {
                *lane = greater(*lane, logit);
            }
        }
        let max = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, greater);
        let mut sums = [0.0; 16];
        for chunk in chunks {
            for (sum, &logit) in sums.iter_mut().zip(chunk) {
                *sum += exp(below(max, logit));
            }
        }
        for (sum, &logit) in sums.iter_mut().zip(rest) {
            *sum += exp(below(max, logit));
        }
        (max, sums.iter().sum())
    }
}

/// How far a logit is below the greatest, exactly or with one rounding. Two infinities of one sign
/// are equal, and not NaN apart.
#[inline(always)]
fn below(max: f32, logit: f32) -> f64 {
    let difference = f64::from(logit) - f64::from(max);
    if logit == max { 0.0 } else { difference }
}

/// `e^x` of an `x` that is at most 0, to a unit in the last place; below -708 it is `e^-708`, which
/// adds nothing to a sum that has a 1.
///
/// The method is that of `ops/exp.rs`, with ln 2 in two parts and a Taylor polynomial of
/// degree 13, whose remainder is below `0.35^14 / 14! = 5e-18`. It has no branches and no calls, so
/// that a loop over it becomes vector code, and its bits are no C library's.
#[inline(always)]
fn exp(x: f64) -> f64 {
    /// Adding it to a small f64 rounds that to an integer, which then stands in the sum's low bits.
    const ROUNDER: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8; // 33 bits, so its products with n are exact
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    // Written with `<` so that a NaN stays one.
    let x = if x < -708.0 { -708.0 } else { x };
    let shifted = x * std::f64::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut e = 1.0 / 6_227_020_800.0;
    for coefficient in [
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        e = e * r + coefficient;
    }
    // 2^n, from its exponent bits.
    e * f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INF: f32 = f32::INFINITY;

    fn logprobs(logits: &[f32]) -> Vec<f64> {
        let softmax = LogSoftmax::new(Isa::best(), logits).unwrap();
        (0..logits.len()).map(|token| softmax.logprob(token as TokenId)).collect()
    }

    #[test]
    fn a_logprob_is_the_log_of_softmax() {
        let logits = [1.0_f32, 3.0, -2.0, 1000.0 - 998.0];
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        for (found, &logit) in logprobs(&logits).into_iter().zip(&logits) {
            assert!((found - (f64::from(logit).exp() / sum).ln()).abs() < 1e-14);
        }
        let shifted = logits.map(|x| x + 1e6);
        assert_eq!(logprobs(&shifted), logprobs(&logits), "the differences are exact");
    }

    #[test]
    fn huge_and_infinite_logits_have_logprobs() {
        assert_eq!(logprobs(&[1e30, -1e30]), [0.0, -2.0 * f64::from(1e30_f32)]);
        assert_eq!(
            logprobs(&[INF, 1.0, INF, -INF]),
            [-2_f64.ln(), -f64::INFINITY, -2_f64.ln(), -f64::INFINITY]
        );
        assert_eq!(logprobs(&[-INF; 2]), [-2_f64.ln(); 2]);
        assert_eq!(logprobs(&[0.5, -INF]), [0.0, -f64::INFINITY]);
        let refused = LogSoftmax::new(Isa::best(), &[0.0, f32::NAN]).unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::NanLogit { token: 1 }), "{refused}");
        for (n, at) in [(1, 0), (40, 7), (40, 39)] {
            let mut logits = vec![INF; n];
            logits[at] = f32::NAN;
            assert!(LogSoftmax::new(Isa::best(), &logits).is_err(), "a NaN at {at} of {n}");
        }
    }

    #[test]
    fn exp_is_off_by_at_most_a_unit_in_the_last_place() {
        let worst = (0..400_000).map(|i| {
            let x = -f64::from(i) * 1.77e-3;
            (exp(x) - x.exp()).abs() / (x.exp() * f64::EPSILON)
        });
        assert!(worst.fold(0.0, f64::max) <= 1.0);
        assert_eq!((exp(0.0), exp(-0.0)), (1.0, 1.0));
        assert!(exp(f64::NAN).is_nan() && exp(-f64::INFINITY) < 1e-307);
    }

    proptest! {
        #[test]
        fn the_sum_is_the_same_bits_on_every_instruction_set(
            logits in proptest::collection::vec(-90.0..90_f32, 1..100),
        ) {
            let (max, sum) = max_and_sum(Isa::best(), &logits);
            prop_assert_eq!(max, logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let expected: f64 = logits.iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).sum();
            prop_assert!((sum - expected).abs() < 1e-14 * expected);
            for isa in Isa::available() {
                prop_assert_eq!(max_and_sum(isa, &logits), (max, sum));
            }
        }

        #[test]
        fn the_top_is_the_beginning_of_all_tokens_sorted(
            // Few values, so that many are equal.
            logits in proptest::collection::vec((-3_i8..3).prop_map(f32::from), 1..80),
            n in 0..100_usize,
            spared in 0..80_usize,
        ) {
            let n_tokens = logits.len().saturating_sub(spared);
            let softmax = LogSoftmax::new(Isa::best(), &logits).unwrap();
            let mut expected: Vec<_> = (0..n_tokens as TokenId).collect();
            expected.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize])); // stable
            expected.truncate(n);
            let top = softmax.top(n, n_tokens);
            prop_assert_eq!(top.iter().map(|top| top.token).collect::<Vec<_>>(), expected);
            prop_assert!(top.iter().all(|top| top.logprob == softmax.logprob(top.token)));
            let greatest = softmax.top(1, logits.len())[0].token;
            for token in 0..logits.len() as TokenId {
                prop_assert_eq!(softmax.is_greatest(token), token == greatest);
            }
        }
    }
}
