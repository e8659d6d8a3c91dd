//! What becomes of a conversation that has outgrown its context.

use crate::chat::{Message, Role};
use crate::error::{ErrorKind, Result, TokenId};

/// What a [`Chat`](crate::Chat) does with a conversation that, with a new user turn, no longer fits
/// its context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case", deny_unknown_fields))]
#[non_exhaustive]
pub enum ContextPolicy {
    /// Refuses the user turn, with [`ErrorKind::ContextFull`].
    #[default]
    Refuse,
    /// Drops the oldest exchanges, each a user turn and its assistant turn. The system prompt
    /// stays. What is left is read again where its place has changed, so the model sees exactly the
    /// conversation of the messages that are left, and no trace of the others.
    ///
    /// That is most of the context to be read, so it must not happen at every turn: as few
    /// exchanges are dropped as free a quarter of what the system prompt and the new user turn
    /// leave of the context. However long a conversation gets, each of its tokens is then read no
    /// more than about four times.
    DropOldest {
        /// Positions to be free for the assistant turn, as for
        /// [`max_tokens`](crate::Answer::max_tokens): exchanges are dropped before there are fewer.
        /// Where dropping all of them doesn't free as many, the turn has what there is.
        reserve: usize,
    },
}

/// The part of what exchanges may take that is free after some were dropped. With half of it,
/// tokens are read twice instead of four times, but the model forgets twice as much at once.
const FREED: usize = 4;

impl ContextPolicy {
    /// Drops what has to be dropped for a conversation with a user turn at its end to fit, and
    /// returns it with the tokens of what is left. Nothing has changed after an error.
    pub(super) fn fit(
        self,
        messages: &mut Vec<Message>,
        capacity: usize,
        encode: impl Fn(&[Message]) -> Result<Vec<TokenId>>,
    ) -> Result<(Vec<Message>, Vec<TokenId>)> {
        let tokens = encode(messages)?;
        let full = |requested| ErrorKind::ContextFull { capacity, requested };
        let limit = match self {
            Self::DropOldest { reserve } => capacity.saturating_sub(reserve),
            Self::Refuse if tokens.len() > capacity => return Err(full(tokens.len()).into()),
            Self::Refuse => capacity,
        };
        if tokens.len() <= limit {
            return Ok((Vec::new(), tokens));
        }
        let start = n_system(messages);
        let without = |n: usize| encode(&[&messages[..start], &messages[start + 2 * n..]].concat());
        let mut dropped = (messages.len() - start) / 2;
        let mut tokens = without(dropped)?;
        if tokens.len() > capacity {
            return Err(full(tokens.len()).into());
        }
        let most = limit - limit.saturating_sub(tokens.len()) / FREED;
        // Dropping so few is not enough.
        let mut too_few = 0;
        while too_few + 1 < dropped {
            let n = too_few.midpoint(dropped);
            let left = without(n)?;
            if left.len() <= most {
                (dropped, tokens) = (n, left);
            } else {
                too_few = n;
            }
        }
        Ok((messages.drain(start..start + 2 * dropped).collect(), tokens))
    }
}

/// How many system prompts a conversation begins with: one or none.
pub(super) fn n_system(messages: &[Message]) -> usize {
    usize::from(messages.first().is_some_and(|message| message.role == Role::System))
}
