//! What was said before, as far as the penalties count it.

use crate::error::TokenId;

/// The accepted tokens that count as recent, and how often each occurs.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// A ring, once its tokens fill the window.
    pub(super) tokens: Vec<TokenId>, // (up to penalty_window)
    /// Where the oldest token is, once the ring is full.
    oldest: usize,
    /// Each token that occurs, with its count, in ascending order of tokens.
    pub(super) counts: Vec<(TokenId, usize)>,
}

impl History {
    /// Adds a token and forgets the one that leaves a window of this size, which is above 0.
    pub(super) fn push(&mut self, token: TokenId, window: usize) {
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

    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.oldest = 0;
        self.counts.clear();
    }

    fn find(&self, token: TokenId) -> Result<usize, usize> {
        self.counts.binary_search_by_key(&token, |&(token, _)| token)
    }
}
