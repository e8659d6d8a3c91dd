//! What may come next: [`Constraint`], which fills a [`TokenMask`] for each token.

#[cfg(feature = "grammar")]
mod checked;
#[cfg(feature = "grammar")]
mod grammar;
#[cfg(test)]
mod tests;
#[cfg(feature = "grammar")]
pub(crate) mod vocabulary;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

#[cfg(feature = "grammar")]
pub use grammar::{Grammar, GrammarConstraint};

use crate::error::{Result, TokenId};
use crate::sampler::{Sampler, TokenMask};
use crate::tokenizer::Tokenizer;

/// Says what may come next, token after token: for [`Generate::constrain`], or for a loop of your
/// own with [`Sampler::sample_among`].
///
/// # Continuing
/// A generation that is dropped, or that ended, leaves its last token pending in the session, and
/// that token was accepted. The constraint is dropped with it, and nothing of it stays in the
/// session: a text that goes on without one goes on freely, and with a fresh one the fresh one
/// begins there. For one that goes on in the next generation, give each an `Arc<Mutex<C>>`: with
/// it, the items of all generations are those of a single one.
///
/// ```
/// # use babyllama::{Constraint, Model, Result, Sampler, TokenId, TokenMask};
/// /// No token twice.
/// struct Once(Vec<TokenId>);
///
/// impl Constraint for Once {
///     fn allow(&mut self, next: &mut TokenMask) -> Result<()> {
///         let all = 0..next.vocab_size() as TokenId;
///         all.filter(|token| !self.0.contains(token)).for_each(|token| next.allow(token));
///         Ok(())
///     }
///
///     fn accept(&mut self, token: TokenId) -> Result<()> {
///         self.0.push(token);
///         Ok(())
///     }
/// }
///
/// # let model = Model::open("models/babyllama.gguf")?;
/// let mut session = model.session();
/// let mut sampler = Sampler::default();
/// let generate = session.generate("Once", &mut sampler)?.constrain(Once(vec![])).max_tokens(9);
/// let mut tokens = vec![];
/// for piece in generate {
///     tokens.extend(piece?.token());
/// }
/// tokens.sort();
/// tokens.dedup();
/// assert_eq!(tokens.len(), 9);
/// # Ok::<(), babyllama::Error>(())
/// ```
///
/// [`Generate::constrain`]: crate::Generate::constrain
pub trait Constraint: Send {
    /// Called before the first token, with the tokenizer of the model whose text it is. What was
    /// made for one tokenizer refuses others here.
    ///
    /// ```
    /// # #[cfg(feature = "grammar")]
    /// # fn main() -> babyllama::Result<()> {
    /// # use babyllama::{Constraint, Grammar, Model};
    /// # let model = Model::open("models/babyllama.gguf")?;
    /// let constraint = Grammar::regex("[0-9]+")?.constraint(&model)?;
    /// constraint.fits(model.tokenizer().unwrap())?;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "grammar"))]
    /// # fn main() {}
    /// ```
    ///
    /// # Errors
    /// They end the generation, before the first token.
    fn fits(&self, _tokenizer: &Tokenizer) -> Result<()> {
        Ok(())
    }

    /// Called once before all that follows, with the token that the text comes after. What
    /// continues another generation may be told again, and ignores that.
    ///
    /// A SentencePiece tokenizer takes a space from the front of the first token after BOS, so what
    /// is about text needs to know.
    ///
    /// ```
    /// # use babyllama::{Constraint, Model, Result, Sampler, TokenId, TokenMask};
    /// /// Says the same again and again.
    /// struct Echo(Option<TokenId>);
    ///
    /// impl Constraint for Echo {
    ///     fn begin(&mut self, previous: Option<TokenId>) -> Result<()> {
    ///         self.0 = previous;
    ///         Ok(())
    ///     }
    ///
    ///     fn allow(&mut self, next: &mut TokenMask) -> Result<()> {
    ///         self.0.into_iter().for_each(|token| next.allow(token));
    ///         Ok(())
    ///     }
    ///
    ///     fn accept(&mut self, _token: TokenId) -> Result<()> {
    ///         Ok(())
    ///     }
    ///
    ///     fn forced(&mut self, out: &mut Vec<TokenId>) {
    ///         out.extend(self.0); // one; more would be read ahead just as well
    ///     }
    /// }
    ///
    /// # let model = Model::open("models/babyllama.gguf")?;
    /// let (mut session, mut sampler) = (model.session(), Sampler::default());
    /// let generate = session.generate(&[1, 403], &mut sampler)?.constrain(Echo(None));
    /// assert!(generate.take(3).all(|piece| piece.unwrap().token() == Some(403)));
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// They end the generation, before the first token.
    fn begin(&mut self, _previous: Option<TokenId>) -> Result<()> {
        Ok(())
    }

    /// Sets the bits of what may come next, tokens that end the text included. All are clear
    /// before. The same is asked again if no token was accepted since.
    ///
    /// # Errors
    /// They end the generation. [`ErrorKind::Constraint`](crate::ErrorKind::Constraint) is for
    /// those that have no kind of their own.
    fn allow(&mut self, next: &mut TokenMask) -> Result<()>;

    /// A token joined the text. Tokens that end a text don't.
    ///
    /// # Errors
    /// They end the generation; the token then doesn't belong to the text.
    fn accept(&mut self, token: TokenId) -> Result<()>;

    /// Appends what must come next, if that is known, and otherwise nothing. It is a guess to be
    /// fed early: each of these tokens is still sampled, among those that are allowed. See
    /// [`begin`](Self::begin) for an example.
    fn forced(&mut self, _out: &mut Vec<TokenId>) {}
}

impl<C: Constraint + ?Sized> Constraint for Box<C> {
    fn fits(&self, tokenizer: &Tokenizer) -> Result<()> {
        (**self).fits(tokenizer)
    }

    fn begin(&mut self, previous: Option<TokenId>) -> Result<()> {
        (**self).begin(previous)
    }

    fn allow(&mut self, next: &mut TokenMask) -> Result<()> {
        (**self).allow(next)
    }

    fn accept(&mut self, token: TokenId) -> Result<()> {
        (**self).accept(token)
    }

    fn forced(&mut self, out: &mut Vec<TokenId>) {
        (**self).forced(out);
    }
}

/// One that several generations share, one after another.
impl<C: Constraint + ?Sized> Constraint for Arc<Mutex<C>> {
    fn fits(&self, tokenizer: &Tokenizer) -> Result<()> {
        self.lock().unwrap_or_else(PoisonError::into_inner).fits(tokenizer)
    }

    fn begin(&mut self, previous: Option<TokenId>) -> Result<()> {
        self.lock().unwrap_or_else(PoisonError::into_inner).begin(previous)
    }

    fn allow(&mut self, next: &mut TokenMask) -> Result<()> {
        self.lock().unwrap_or_else(PoisonError::into_inner).allow(next)
    }

    fn accept(&mut self, token: TokenId) -> Result<()> {
        self.lock().unwrap_or_else(PoisonError::into_inner).accept(token)
    }

    fn forced(&mut self, out: &mut Vec<TokenId>) {
        self.lock().unwrap_or_else(PoisonError::into_inner).forced(out);
    }
}

/// A generation's constraint, and the mask that it fills.
pub(crate) struct Constrained {
    /// Never locked: it lets a generation be `Sync`, which a constraint need not be.
    constraint: Mutex<Box<dyn Constraint>>,
    mask: TokenMask,
}

impl Constrained {
    pub(crate) fn new(constraint: Box<dyn Constraint>, n_tokens: usize) -> Self {
        Self { constraint: Mutex::new(constraint), mask: TokenMask::new(n_tokens) }
    }

    fn constraint(&mut self) -> &mut dyn Constraint {
        &mut **self.constraint.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells it whose text it is, and what that comes after.
    pub(crate) fn begin(&mut self, tokenizer: &Tokenizer, previous: Option<TokenId>) -> Result<()> {
        let constraint = self.constraint();
        constraint.fits(tokenizer)?;
        constraint.begin(previous)
    }

    /// Chooses among what may come next.
    pub(crate) fn sample(&mut self, sampler: &mut Sampler, logits: &[f32]) -> Result<TokenId> {
        self.mask.clear();
        let constraint = self.constraint.get_mut().unwrap_or_else(PoisonError::into_inner);
        constraint.allow(&mut self.mask)?;
        sampler.sample_among(logits, &self.mask)
    }

    pub(crate) fn accept(&mut self, token: TokenId) -> Result<()> {
        self.constraint().accept(token)
    }

    /// What must come next, if that is known.
    pub(crate) fn forced(&mut self, out: &mut Vec<TokenId>) {
        self.constraint().forced(out);
    }
}

impl fmt::Debug for Constrained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constrained").finish_non_exhaustive()
    }
}
