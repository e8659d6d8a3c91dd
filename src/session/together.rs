//! Several sessions in one pass: the weights are read once for all of them.

use super::Feed;
use super::pass::{Lane, Wanted, run_lanes};
use crate::error::{ErrorKind, Result};
use crate::model::Model;

impl Model {
    /// Feeds several sessions of this model. A pass reads the weights once for all of them, so
    /// eight sessions that each get a token take little longer than one.
    ///
    /// Each session gets the bits that it would have had alone. A feed's tokens are fed whole: give
    /// long prompts in parts, so that others don't wait. A session's
    /// [pending](crate::Session::pending) token goes first, and is fed even if there are no other
    /// tokens; a feed with neither changes nothing. The results are then the sessions':
    /// [`Session::logits`](crate::Session::logits) of each, or, of a feed with
    /// [all logits](Feed::all_logits), [`Session::all_logits`](crate::Session::all_logits).
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let (mut one, mut other) = (model.session(), model.session());
    /// model.forward_together([one.feed(&[1, 403, 407]), other.feed(&[1, 261])])?;
    /// assert_eq!(one.logits(), Some(model.session().forward(&[1, 403, 407])?));
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// Before anything is fed, [`ErrorKind::DifferentModels`] and those of
    /// [`Session::forward`](crate::Session::forward) for any of them. [`ErrorKind::Cancelled`] if
    /// one of them is: what passes had completed stays fed, in all.
    pub fn forward_together<'a>(&self, feeds: impl IntoIterator<Item = Feed<'a>>) -> Result<()> {
        let feeds: Vec<Feed<'a>> = feeds.into_iter().collect();
        for feed in &feeds {
            if !self.is_same(feed.session.model()) {
                return Err(ErrorKind::DifferentModels.into());
            }
            if !feed.is_empty() {
                feed.session.check(feed.tokens)?;
            }
        }
        let lane = |feed: Feed<'a>| {
            let pending = feed.session.tail.pending.filter(|_| !feed.is_empty());
            let wanted = if feed.all_logits { Wanted::All } else { Wanted::Last };
            Lane::new(feed.session, pending, feed.tokens, feed.guess, wanted)
        };
        run_lanes(self, &mut feeds.into_iter().map(lane).collect::<Vec<_>>())
    }
}
