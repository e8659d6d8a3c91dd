//! What was said before, as far as the penalties count it.

use super::dry::Dry;
use super::options::SamplerOptions;
use crate::error::TokenId;

/// The accepted tokens that count as recent, and how often each occurs.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// The last ones. When they are twice as many as are remembered, the older half is dropped: so
    /// they are seldom moved.
    tokens: Vec<TokenId>, // (up to 2 * remembered)
    /// Each token that occurs in the penalty window, with its count, in ascending order of tokens.
    pub(super) counts: Vec<(TokenId, usize)>,
    dry: Dry,
}

impl History {
    pub(super) fn new(options: &SamplerOptions) -> Self {
        Self { dry: Dry::new(&options.dry_breakers), ..Self::default() }
    }

    /// Adds a token. The options remember some.
    pub(super) fn push(&mut self, token: TokenId, options: &SamplerOptions) {
        let remembered = options.remembered();
        if self.tokens.is_empty() {
            self.tokens.reserve(remembered.min(1024) * 2);
            self.counts.reserve(options.penalty_window.min(1024));
        }
        if self.tokens.len() >= remembered.saturating_mul(2) {
            self.tokens.drain(..remembered);
        }
        self.tokens.push(token);
        if options.has_penalties() {
            let older = self.tokens.len().checked_sub(options.penalty_window.saturating_add(1));
            self.count(token, older.map(|i| self.tokens[i]));
        }
    }

    /// The last tokens, at most this number of them, which is at most what is remembered; and what
    /// DRY needs besides.
    pub(super) fn last(&mut self, n: usize) -> (&[TokenId], &mut Dry) {
        (&self.tokens[self.tokens.len().saturating_sub(n)..], &mut self.dry)
    }

    /// Forgets the tokens.
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.counts.clear();
    }

    /// Counts a token, and no longer the one that leaves the window.
    fn count(&mut self, token: TokenId, gone: Option<TokenId>) {
        if let Some(Ok(i)) = gone.map(|gone| self.find(gone)) {
            self.counts[i].1 -= 1;
            if self.counts[i].1 == 0 {
                self.counts.remove(i);
            }
        }
        match self.find(token) {
            Ok(i) => self.counts[i].1 += 1,
            Err(i) => self.counts.insert(i, (token, 1)),
        }
    }

    /// Where its buffers are.
    #[cfg(test)]
    pub(super) fn places(&self) -> [*const (); 4] {
        let [lengths, repeats] = self.dry.places();
        [self.tokens.as_ptr().cast(), self.counts.as_ptr().cast(), lengths, repeats]
    }

    fn find(&self, token: TokenId) -> Result<usize, usize> {
        self.counts.binary_search_by_key(&token, |&(token, _)| token)
    }
}
