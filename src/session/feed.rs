//! Feeding many tokens in steps, so that the caller sees progress and can stop in between.

use crate::error::{Result, TokenId};
use crate::session::Session;

/// The most tokens of a step: few enough to stop soon, and enough to be fast.
const MAX_STEP: usize = 128;

/// Logits that a step holds at most, unless a single row has more.
const MAX_LOGITS_BYTES: usize = 16 << 20;

impl Session {
    /// Feeds tokens as [`Session::forward`] does, with the same bits, but in steps of at most 128:
    /// between two of them the caller may show progress, or stop.
    ///
    /// ```
    /// # let stop = || false;
    /// let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let mut session = model.session();
    /// let prompt = model.tokenizer().unwrap().encode_prompt(&"Once upon a time. ".repeat(20));
    /// let mut feed = session.feed(&prompt);
    /// while feed.step()?.is_some() {
    ///     println!("{} of {} tokens", prompt.len() - feed.remaining(), prompt.len());
    ///     if stop() {
    ///         break; // the session has the tokens fed so far, and may go on from them
    ///     }
    /// }
    /// # assert_eq!(session.tokens(), prompt);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    pub fn feed<'a>(&'a mut self, tokens: &'a [TokenId]) -> Feed<'a> {
        Feed { session: self, tokens, guess: &[], all_logits: false, keeps_pending: false, is_checked: false }
    }
}

/// Tokens on their way into a session: see [`Session::feed`].
///
/// Nothing happens before the first [`step`](Self::step). Dropping it stops there: the tokens fed
/// so far are the session's.
#[derive(Debug)]
#[must_use = "tokens are fed by its steps"]
pub struct Feed<'a> {
    pub(super) session: &'a mut Session,
    /// Those that aren't fed yet.
    pub(super) tokens: &'a [TokenId],
    pub(super) guess: &'a [TokenId],
    pub(super) all_logits: bool,
    /// Without tokens, the pending one isn't fed either.
    pub(super) keeps_pending: bool,
    is_checked: bool,
}

impl<'a> Feed<'a> {
    /// Reads what may be fed next, with the last of the tokens: see
    /// [`Session::forward_guessing`].
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let mut session = model.session();
    /// session.feed(&[1, 403]).guessing(&[407]).step()?;
    /// assert_eq!(session.tokens(), [1, 403]); // of the guess nothing is seen
    /// assert_eq!(session.forward(&[407])?, model.session().forward(&[1, 403, 407])?);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    pub fn guessing(mut self, guess: &'a [TokenId]) -> Self {
        self.guess = guess;
        self
    }

    /// Has each step return the logits of all its tokens, as [`Session::forward_all`] does. Steps
    /// are then so short that these take no more than 16 MiB. In
    /// [`Model::forward_together`](crate::Model::forward_together), which takes all tokens in one
    /// call, the session has them: [`Session::all_logits`].
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let (mut session, mut other) = (model.session(), model.session());
    /// let mut feed = session.feed(&[1, 403]).all_logits();
    /// assert_eq!(feed.step()?, Some(other.forward_all(&[1, 403])?));
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    pub fn all_logits(mut self) -> Self {
        self.all_logits = true;
        self
    }

    /// Without tokens, it doesn't feed the pending one either.
    pub(crate) fn keeping_pending(mut self) -> Self {
        self.keeps_pending = true;
        self
    }

    /// Whether there is nothing to be fed, the pending token included.
    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty() && (self.keeps_pending || self.session.pending().is_none())
    }

    /// Feeds all in one call, or the pending token if there are no others.
    pub(crate) fn whole(self) -> Result<()> {
        if !self.is_empty() {
            self.session.forward_guessing(self.tokens, self.guess)?;
        }
        Ok(())
    }

    /// How many tokens aren't fed yet.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let (mut session, tokens) = (model.session(), [1; 200]);
    /// let mut feed = session.feed(&tokens);
    /// feed.step()?;
    /// assert_eq!(feed.remaining(), 72);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.tokens.len()
    }

    /// Feeds the next tokens and returns the logits of the last of them, (`vocab_size`), or of all,
    /// (n, `vocab_size`). `None`: there are no more tokens.
    ///
    /// A token that is [pending](Session::pending) goes first, if there are tokens at all.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let mut session = model.session();
    /// let mut feed = session.feed(&[1, 403]);
    /// assert_eq!(feed.step()?, Some(model.session().forward(&[1, 403])?));
    /// assert_eq!(feed.step()?, None);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Session::forward`]; the first step checks all tokens and allocates the memory that the
    /// cache needs for them. What of a step was fed before it was cancelled stays fed, and the next
    /// step goes on from there; its logits are lost, if those of all tokens were asked for.
    pub fn step(&mut self) -> Result<Option<&[f32]>> {
        if self.tokens.is_empty() {
            return Ok(None);
        }
        if !self.is_checked {
            self.session.check(self.tokens)?;
            self.session.reserve_all(self.tokens.len())?;
            self.is_checked = true;
        }
        let (now, later) = self.tokens.split_at(self.tokens.len().min(self.max_step()));
        let guess = if later.is_empty() { self.guess } else { &[] };
        let all = self.session.position() + usize::from(self.session.pending().is_some()) + now.len();
        let fed = if self.all_logits {
            self.session.feed_all(now, guess).map(|_| ())
        } else {
            self.session.forward_guessing(now, guess).map(|_| ())
        };
        if let Err(error) = fed {
            let n_left = (all - self.session.position()).min(now.len());
            self.tokens = &self.tokens[now.len() - n_left..];
            return Err(error);
        }
        self.tokens = later;
        Ok(if self.all_logits { self.session.all_logits() } else { self.session.logits() })
    }

    fn max_step(&self) -> usize {
        let row_bytes = size_of::<f32>() * self.session.model().config().vocab_size;
        if self.all_logits { (MAX_LOGITS_BYTES / row_bytes).clamp(1, MAX_STEP) } else { MAX_STEP }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::model::Model;
    use crate::session::SessionOptions;

    fn open() -> Model {
        Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf")).unwrap()
    }

    fn tokens(model: &Model, n: usize) -> Vec<TokenId> {
        (0..n).map(|i| (i * i % model.config().vocab_size) as TokenId).collect()
    }

    fn bits(logits: &[f32]) -> Vec<u32> {
        logits.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn steps_give_the_logits_of_a_single_pass() {
        let model = open();
        let numbers: &[usize] = &[MAX_STEP + 1, 1, MAX_STEP, 2 * MAX_STEP + 3];
        for &n in if cfg!(debug_assertions) { &numbers[..1] } else { numbers } {
            let tokens = tokens(&model, n);
            let (mut whole, mut session) = (model.session(), model.session());
            let mut feed = session.feed(&tokens);
            let (mut last, mut steps) = (Vec::new(), 0);
            while let Some(logits) = feed.step().unwrap() {
                last = bits(logits);
                steps += 1;
                assert_eq!(feed.remaining(), n - n.min(steps * MAX_STEP));
            }
            assert_eq!(steps, n.div_ceil(MAX_STEP));
            assert_eq!(last, bits(whole.forward(&tokens).unwrap()));
            assert_eq!(session.tokens(), whole.tokens());

            whole.truncate(0);
            session.truncate(0);
            let (mut feed, mut rows) = (session.feed(&tokens).all_logits(), Vec::new());
            while let Some(logits) = feed.step().unwrap() {
                rows.extend(bits(logits));
            }
            assert_eq!(rows, bits(whole.forward_all(&tokens).unwrap()));
        }
    }

    #[test]
    fn stopping_leaves_what_was_fed_and_feeding_nothing_changes_nothing() {
        let model = open();
        let tokens = tokens(&model, 2 * MAX_STEP);
        let (mut session, mut fresh) = (model.session(), model.session());
        session.feed(&tokens).step().unwrap();
        assert_eq!(session.tokens(), &tokens[..MAX_STEP]);
        assert_eq!(bits(session.logits().unwrap()), bits(fresh.forward(&tokens[..MAX_STEP]).unwrap()));
        assert!(session.feed(&[]).step().unwrap().is_none());
        assert_eq!(bits(session.logits().unwrap()), bits(fresh.logits().unwrap()));
    }

    #[test]
    fn tokens_that_cannot_all_be_fed_are_refused_before_the_first_step() {
        let model = open();
        let mut session = model.session_with(SessionOptions::new().context_length(2 * MAX_STEP));
        session.forward(&[1]).unwrap();
        let before = bits(session.logits().unwrap());
        let refused = session.feed(&tokens(&model, 2 * MAX_STEP)).step().unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::ContextFull { requested: 257, .. }), "{refused}");
        let mut unknown = tokens(&model, MAX_STEP + 1);
        unknown[MAX_STEP] = TokenId::MAX;
        let refused = session.feed(&unknown).all_logits().step().unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::TokenOutOfRange { .. }), "{refused}");
        assert_eq!((session.tokens(), bits(session.logits().unwrap())), (&[1][..], before));
    }
}
