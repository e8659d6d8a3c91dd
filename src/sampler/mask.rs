//! Sets of tokens.

use crate::error::TokenId;

/// A set of tokens, one bit each: those that may come next.
///
/// ```
/// let mut mask = babyllama::TokenMask::new(100);
/// mask.allow(7);
/// assert!(mask.is_allowed(7) && !mask.is_allowed(8));
/// assert_eq!(mask.words(), [1 << 7, 0, 0, 0]);
/// ```
#[derive(Clone, Debug)]
pub struct TokenMask {
    /// The bits beyond the last token mean nothing.
    words: Vec<u32>, // (n_tokens rounded up to 32, / 32)
    n_tokens: usize,
}

impl TokenMask {
    /// For this many tokens, none of which is allowed.
    ///
    /// ```
    /// assert!((0..9).all(|token| !babyllama::TokenMask::new(9).is_allowed(token)));
    /// ```
    #[must_use]
    pub fn new(vocab_size: usize) -> Self {
        Self { words: vec![0; vocab_size.div_ceil(32)], n_tokens: vocab_size }
    }

    /// The number of tokens that it is for.
    ///
    /// ```
    /// assert_eq!(babyllama::TokenMask::new(9).vocab_size(), 9);
    /// ```
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.n_tokens
    }

    /// Allows a token. One beyond the vocabulary changes nothing.
    ///
    /// ```
    /// let mut mask = babyllama::TokenMask::new(9);
    /// mask.allow(3);
    /// mask.allow(9);
    /// assert!(mask.is_allowed(3) && !mask.is_allowed(9));
    /// ```
    pub fn allow(&mut self, token: TokenId) {
        if let Some(word) = self.words.get_mut(token as usize / 32) {
            *word |= 1 << (token % 32);
        }
    }

    /// Allows every token.
    ///
    /// ```
    /// let mut mask = babyllama::TokenMask::new(9);
    /// mask.allow_all();
    /// assert!((0..9).all(|token| mask.is_allowed(token)));
    /// ```
    pub fn allow_all(&mut self) {
        self.words.fill(u32::MAX);
    }

    /// Allows none.
    ///
    /// ```
    /// let mut mask = babyllama::TokenMask::new(9);
    /// mask.allow(3);
    /// mask.clear();
    /// assert!(!mask.is_allowed(3));
    /// ```
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Whether a token is allowed; none beyond the vocabulary is.
    ///
    /// ```
    /// let mut mask = babyllama::TokenMask::new(9);
    /// mask.allow_all();
    /// assert!(mask.is_allowed(8) && !mask.is_allowed(9));
    /// ```
    #[must_use]
    pub fn is_allowed(&self, token: TokenId) -> bool {
        (token as usize) < self.n_tokens && self.words[token as usize / 32] >> (token % 32) & 1 == 1
    }

    /// The bits, token 0 in the lowest one of the first word. Those beyond the vocabulary mean
    /// nothing.
    ///
    /// ```
    /// let mut mask = babyllama::TokenMask::new(40);
    /// mask.allow(33);
    /// assert_eq!(mask.words(), [0, 2]);
    /// ```
    #[must_use]
    pub fn words(&self) -> &[u32] {
        &self.words
    }

    /// The bits, to be set.
    ///
    /// ```
    /// let mut mask = babyllama::TokenMask::new(40);
    /// mask.words_mut()[1] = 2;
    /// assert!(mask.is_allowed(33));
    /// ```
    pub fn words_mut(&mut self) -> &mut [u32] {
        &mut self.words
    }

    /// Makes minus infinity of the logits of all tokens that aren't allowed. There is a logit for
    /// each token.
    pub(crate) fn ban_others(&self, logits: &mut [f32]) {
        for (logits, &word) in logits.chunks_mut(32).zip(&self.words) {
            for (i, logit) in logits.iter_mut().enumerate() {
                *logit = if word >> i & 1 == 1 { *logit } else { f32::NEG_INFINITY };
            }
        }
    }
}
