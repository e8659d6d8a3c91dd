//! Perplexity: how well a model predicts a text. The lower, the better.
//!
//! The text is cut into windows. Predictions count in the second half of each window, where the
//! model has seen at least half a window before each token; the first half only is context. The
//! first token of each window is replaced by BOS, if the tokenizer puts one before prompts.
//!
//! Source: llama.cpp's `llama-perplexity` counts like this, so the numbers can be compared.

use std::ops::ControlFlow;

use crate::error::{ErrorKind, Result, TokenId};
use crate::kv_cache::CacheDtype;
use crate::logprobs::LogSoftmax;
use crate::model::Model;
use crate::session::SessionOptions;
use crate::tokenizer::Tokenizer;

/// How perplexity is measured. Everything has a default; the methods set it, and say what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct PerplexityOptions {
    /// See [`PerplexityOptions::context_length`](#method.context_length).
    pub context_length: usize,
    /// See [`PerplexityOptions::max_windows`](#method.max_windows).
    pub max_windows: usize,
    /// See [`PerplexityOptions::cache_dtype`](#method.cache_dtype).
    pub cache_dtype: CacheDtype,
}

impl Default for PerplexityOptions {
    fn default() -> Self {
        Self { context_length: 512, max_windows: usize::MAX, cache_dtype: CacheDtype::F32 }
    }
}

impl PerplexityOptions {
    /// Windows of 512 tokens, as many as the text has.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of tokens of a window. Perplexities of different lengths can't be compared.
    #[must_use]
    pub fn context_length(mut self, tokens: usize) -> Self {
        self.context_length = tokens;
        self
    }

    /// The most windows that are read.
    #[must_use]
    pub fn max_windows(mut self, windows: usize) -> Self {
        self.max_windows = windows;
        self
    }

    /// How keys and values are kept.
    #[must_use]
    pub fn cache_dtype(mut self, dtype: CacheDtype) -> Self {
        self.cache_dtype = dtype;
        self
    }
}

/// What was measured so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Perplexity {
    /// The number of windows to read.
    pub n_windows: usize,
    /// The number of windows read to their end.
    pub windows_read: usize,
    /// The number of tokens to read, in all windows.
    pub n_tokens: usize,
    /// The number of tokens read.
    pub tokens_read: usize,
    /// The number of tokens predicted.
    pub n_predictions: usize,
    /// The sum of the predictions' negative log likelihoods, and of their squares.
    sum: f64,
    sum_of_squares: f64,
}

impl Perplexity {
    /// The perplexity: e to the mean negative log likelihood. NaN before there is a prediction.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.mean().exp()
    }

    /// The standard error of [`value`](Self::value). NaN before there are two predictions.
    #[must_use]
    pub fn standard_error(&self) -> f64 {
        let n = self.n_predictions as f64;
        // Rounding may make it slightly negative where all predictions are equally good.
        let variance = (self.sum_of_squares / n - self.mean() * self.mean()).max(0.0);
        if self.n_predictions < 2 { f64::NAN } else { (variance / (n - 1.0)).sqrt() * self.value() }
    }

    /// The mean negative log likelihood of a token, in nats.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.sum / self.n_predictions as f64
    }

    fn add(&mut self, nll: f64) {
        self.n_predictions += 1;
        self.sum += nll;
        self.sum_of_squares += nll * nll;
    }
}

impl Model {
    /// Measures the perplexity of a text: `tokens` are
    /// [`encode_prompt`](crate::Tokenizer::encode_prompt)'s.
    ///
    /// `progress` is called every 128 tokens or more often, and can stop the measurement: what was
    /// measured until then is returned. What is left of the text after the last window isn't read.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use babyllama::{Model, PerplexityOptions};
    ///
    /// # fn main() -> Result<(), babyllama::Error> {
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf");
    /// let model = Model::open(path)?;
    /// let text = "Once upon a time, there was a little girl named Lily.";
    /// let tokens = model.tokenizer().unwrap().encode_prompt(text);
    /// let options = PerplexityOptions::new().context_length(12);
    /// let measured = model.perplexity(&tokens, options, |_| ControlFlow::Continue(()))?;
    /// assert!(measured.value() < 3.0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`] if a window has fewer than 4 tokens, or the text fewer than a
    /// window; [`ErrorKind::TokenOutOfRange`]; [`ErrorKind::NanLogit`] if the model's weights are
    /// damaged; [`ErrorKind::OutOfMemory`].
    pub fn perplexity(
        &self,
        tokens: &[TokenId],
        options: PerplexityOptions,
        mut progress: impl FnMut(&Perplexity) -> ControlFlow<()>,
    ) -> Result<Perplexity> {
        let PerplexityOptions { context_length, max_windows, cache_dtype } = options;
        let refuse = |reason: String| {
            let value = context_length.to_string();
            Err(ErrorKind::InvalidOption { name: "context_length", value, reason }.into())
        };
        if context_length < 4 {
            return refuse("perplexity needs windows of 4 tokens or more".into());
        }
        let n_windows = (tokens.len() / context_length).min(max_windows);
        if n_windows == 0 && max_windows > 0 {
            return refuse(format!("the text has only {} tokens", tokens.len()));
        }
        let session = SessionOptions::new().context_length(context_length).cache_dtype(cache_dtype);
        let mut session = self.session_with(session);
        let vocab_size = self.config().vocab_size;
        let bos = self.tokenizer().filter(|tokenizer| tokenizer.adds_bos()).and_then(Tokenizer::bos);
        let first = context_length / 2; // the first position whose prediction counts

        let mut measured =
            Perplexity { n_windows, n_tokens: n_windows * context_length, ..Perplexity::default() };
        let mut window = Vec::with_capacity(context_length);
        for text in tokens.chunks_exact(context_length).take(n_windows) {
            window.clear();
            window.extend_from_slice(text);
            window[0] = bos.unwrap_or(window[0]);
            session.truncate(0);
            let fed_before = measured.windows_read * context_length;
            let (context, predicting) = window.split_at(first);
            let mut feed = session.feed(context);
            while feed.step()?.is_some() {
                measured.tokens_read = fed_before + first - feed.remaining();
                if progress(&measured).is_break() {
                    return Ok(measured);
                }
            }
            // The last token's logits predict the next window's first token, which doesn't count.
            let mut predicted = text[first + 1..].iter();
            let mut feed = session.feed(predicting).all_logits();
            while let Some(logits) = feed.step()? {
                for (row, &next) in logits.chunks_exact(vocab_size).zip(&mut predicted) {
                    measured.add(-LogSoftmax::new(self.isa(), row)?.logprob(next));
                }
                measured.tokens_read = fed_before + context_length - feed.remaining();
                measured.windows_read += usize::from(feed.remaining() == 0);
                if progress(&measured).is_break() {
                    return Ok(measured);
                }
            }
        }
        Ok(measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_error_is_that_of_a_mean() {
        let mut measured = Perplexity::default();
        let sample = [1.0_f64, 2.0, 4.0, 0.5];
        sample.iter().for_each(|&nll| measured.add(nll));
        let mean = sample.iter().sum::<f64>() / 4.0;
        let variance = sample.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 3.0;
        assert_eq!(measured.value(), mean.exp());
        let expected = (variance / 4.0).sqrt() * mean.exp();
        assert!((measured.standard_error() - expected).abs() < 1e-12);
        assert!(Perplexity::default().standard_error().is_nan());
    }
}
