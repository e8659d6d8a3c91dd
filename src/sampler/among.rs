//! Sampling among some of the tokens.

use std::mem;

use super::{Sampler, TokenMask};
use crate::error::{ErrorKind, Result, TokenId};

impl Sampler {
    /// As [`sample`](Self::sample), but chooses only what `allowed` allows: as if the logits of all
    /// else were minus infinity, before any other step.
    ///
    /// It takes the same random number as without a mask, also if only one token is allowed. Once
    /// the buffers have grown, nothing is allocated.
    ///
    /// ```
    /// use babyllama::{Sampler, SamplerOptions, TokenMask};
    ///
    /// let mut sampler = Sampler::new(SamplerOptions::new().temperature(0.0));
    /// let mut allowed = TokenMask::new(3);
    /// allowed.allow(0);
    /// allowed.allow(2);
    /// assert_eq!(sampler.sample_among(&[0.1, 2.5, -1.0], &allowed)?, 0);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`sample`](Self::sample), except that the logit of a token that isn't allowed may be
    /// anything; [`ErrorKind::NoCandidate`] if none is allowed; [`ErrorKind::MaskLength`] if the
    /// mask isn't for as many tokens as there are logits.
    pub fn sample_among(&mut self, logits: &[f32], allowed: &TokenMask) -> Result<TokenId> {
        if allowed.vocab_size() != logits.len() {
            let (mask, logits) = (allowed.vocab_size(), logits.len());
            return Err(ErrorKind::MaskLength { mask, logits }.into());
        }
        let mut masked = mem::take(&mut self.masked);
        masked.clear();
        masked.extend_from_slice(logits);
        allowed.ban_others(&mut masked);
        let token = self.sample(&masked);
        self.masked = masked;
        token
    }
}
