//! Log-probabilities: the one log-softmax of the crate, in f64.

use std::cmp::Ordering;

use crate::error::{ErrorKind, Result, TokenId};

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
    pub(crate) fn new(logits: &'a [f32]) -> Result<Self> {
        if let Some(nan) = logits.iter().position(|logit| logit.is_nan()) {
            return Err(ErrorKind::NanLogit { token: nan as TokenId }.into());
        }
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&logit| below(max, logit).exp()).sum();
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

/// How far a logit is below the greatest, exactly or with one rounding. Two infinities of one sign
/// are equal, and not NaN apart.
fn below(max: f32, logit: f32) -> f64 {
    if logit == max { 0.0 } else { f64::from(logit) - f64::from(max) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INF: f32 = f32::INFINITY;

    fn logprobs(logits: &[f32]) -> Vec<f64> {
        let softmax = LogSoftmax::new(logits).unwrap();
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
        let refused = LogSoftmax::new(&[0.0, f32::NAN]).unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::NanLogit { token: 1 }), "{refused}");
    }

    proptest! {
        #[test]
        fn the_top_is_the_beginning_of_all_tokens_sorted(
            // Few values, so that many are equal.
            logits in proptest::collection::vec((-3_i8..3).prop_map(f32::from), 1..80),
            n in 0..100_usize,
            spared in 0..80_usize,
        ) {
            let n_tokens = logits.len().saturating_sub(spared);
            let softmax = LogSoftmax::new(&logits).unwrap();
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
