//! Scoring: how likely the model holds a text to be, token by token.

use crate::error::{Result, TokenId};
use crate::logprobs::LogSoftmax;
use crate::session::Session;
use crate::simd::Isa;

/// How likely a token was to the model, given all before it: see [`Session::score`].
///
/// ```
/// # let model = babyllama::Model::open("models/babyllama.gguf")?;
/// let scores = model.session().score(&[1, 403, 407])?;
/// assert_eq!(scores[0].logprob, 0.0); // the first token is given
/// let perplexity = (-(scores[1].logprob + scores[2].logprob) / 2.0).exp();
/// assert!(perplexity > 1.0);
/// # Ok::<(), babyllama::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Score {
    /// The natural logarithm of its probability: at most 0, minus infinity if it was impossible,
    /// and never NaN.
    pub logprob: f64,
    /// Whether its logit was the greatest, and of equals the one of the lowest id: greedy decoding
    /// would have chosen it.
    pub is_greatest: bool,
}

impl Score {
    /// What a token with nothing before it has: it is given, not predicted.
    const GIVEN: Self = Self { logprob: 0.0, is_greatest: true };

    fn new(isa: Isa, logits: &[f32], token: TokenId) -> Result<Self> {
        let softmax = LogSoftmax::new(isa, logits)?;
        Ok(Self { logprob: softmax.logprob(token), is_greatest: softmax.is_greatest(token) })
    }
}

impl Session {
    /// The log-probability of each token given all before it, and feeds the tokens.
    ///
    /// It is the log-softmax of the logits before any sampler, computed in f64; the logits are
    /// those of [`forward_all`](Self::forward_all), of which no more than 16 MiB are held at once
    /// (one row, if it is larger). Calls with the parts of a text give the bits of one call with
    /// all of it.
    ///
    /// The first token of an empty session, often BOS, is given and not predicted: it scores 0. So
    /// the sum of a text's scores is the log-probability of the text given its first token. A token
    /// that is [pending](Self::pending) is fed first and has no score; without `tokens` nothing is
    /// fed. After [`truncate`](Self::truncate), which leaves no [logits](Self::logits), the last
    /// token is read again, in the same pass as `tokens`.
    ///
    /// Classification: which label is the likeliest continuation of a text? The text is fed once,
    /// and each label to a fork.
    ///
    /// ```
    /// let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let tokenizer = model.tokenizer().unwrap();
    /// let mut text = model.session();
    /// text.forward(&tokenizer.encode_prompt("Lily lost her toy. She cried. She was very"))?;
    ///
    /// let mut best = (f64::NEG_INFINITY, "");
    /// for label in [" happy", " hungry", " sad"] {
    ///     let scores = text.fork()?.score(&tokenizer.encode_continuation(label))?;
    ///     let logprob: f64 = scores.iter().map(|score| score.logprob).sum();
    ///     if logprob > best.0 {
    ///         best = (logprob, label);
    ///     }
    /// }
    /// assert_eq!(best.1, " sad");
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Session::forward`]; nothing was fed then if tokens are unknown or too many. Also
    /// [`ErrorKind::NanLogit`](crate::ErrorKind::NanLogit) if the model's weights are damaged. In
    /// any case the session holds what [`tokens`](Self::tokens) says. That may be some of `tokens`,
    /// or after `truncate` one token less than before.
    pub fn score(&mut self, tokens: &[TokenId]) -> Result<Vec<Score>> {
        let Some(&first) = tokens.first() else { return Ok(Vec::new()) };
        self.check(tokens)?;
        self.reserve_all(tokens.len())?;
        if self.pending().is_some() {
            self.forward(&[])?;
        }
        let (isa, vocab_size) = (self.model().isa(), self.model().config().vocab_size);
        let mut scores = Vec::with_capacity(tokens.len());
        let with_last: Vec<TokenId>;
        let fed = match (self.logits(), self.tokens().last()) {
            (Some(logits), _) => {
                scores.push(Score::new(isa, logits, first)?);
                tokens
            }
            (None, Some(&last)) => {
                with_last = [&[last], tokens].concat();
                self.truncate(self.position() - 1);
                &with_last
            }
            (None, None) => {
                scores.push(Score::GIVEN);
                tokens
            }
        };
        let mut predicted = tokens[scores.len()..].iter();
        let mut feed = self.feed(fed).all_logits();
        while let Some(logits) = feed.step()? {
            // The last row predicts the first token of the next step.
            for (row, &token) in logits.chunks_exact(vocab_size).zip(&mut predicted) {
                scores.push(Score::new(isa, row, token)?);
            }
        }
        Ok(scores)
    }
}
