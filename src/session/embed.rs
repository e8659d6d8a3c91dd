//! Hidden states: what the model makes of a text before it becomes logits.

use std::fmt;
use std::str::FromStr;

use super::Session;
use super::pass::Wanted;
use crate::error::{Error, ErrorKind, Result, TokenId, by_name};
use crate::model::Model;

/// Tokens whose hidden states are pooled at once.
const MAX_STEP: usize = 128;

/// How the hidden states of several tokens become one vector.
///
/// ```
/// # let model = babyllama::Model::open("models/babyllama.gguf")?;
/// use babyllama::Pooling;
///
/// let vector = model.session().embed(&[1, 403, 407], Pooling::Last)?;
/// assert_ne!(vector, model.session().embed(&[1, 403, 407], Pooling::Mean)?);
/// assert_eq!("mean".parse::<Pooling>()?, Pooling::Mean);
/// # Ok::<(), babyllama::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pooling {
    /// The last token's, which has seen all others.
    #[default]
    Last,
    /// The mean of all.
    Mean,
}

impl Pooling {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Last, Self::Mean];

    /// Its name: `last` or `mean`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Mean => "mean",
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Pooling {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        by_name("pooling", name, Self::ALL, Self::name)
    }
}

impl Session {
    /// The last token's hidden state after the last layer and the last norm: (`dim`). `None` when
    /// there are no [logits](Self::logits) either, which are its product with the classifier.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let mut session = model.session();
    /// session.forward(&[1, 403])?;
    /// assert_eq!(session.hidden().unwrap().len(), model.config().dim);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn hidden(&self) -> Option<&[f32]> {
        self.results.last_hidden(self.model.config())
    }

    /// Feeds tokens and pools their hidden states into one vector of length 1: (`dim`).
    ///
    /// A token that is [pending](Self::pending) is fed first, and isn't pooled. The dot product of
    /// two such vectors is the cosine of the angle between them.
    ///
    /// ```
    /// # use babyllama::Pooling;
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let vector = model.session().embed(&[1, 403, 407], Pooling::Mean)?;
    /// let length: f32 = vector.iter().map(|x| x * x).sum();
    /// assert!((length - 1.0).abs() < 1e-6);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Session::forward`]; [`ErrorKind::EmptyInput`] without tokens.
    pub fn embed(&mut self, tokens: &[TokenId], pooling: Pooling) -> Result<Vec<f32>> {
        self.feed_pending_before(tokens)?;
        let dim = self.model.config().dim;
        let mut pooled = vec![0.0_f64; dim];
        match pooling {
            Pooling::Last => {
                self.run_passes(tokens, &[], Wanted::Last)?;
                let hidden = self.hidden().unwrap_or_default();
                pooled.iter_mut().zip(hidden).for_each(|(pooled, &x)| *pooled = f64::from(x));
            }
            Pooling::Mean => {
                for tokens in tokens.chunks(MAX_STEP) {
                    let rows = self.run_passes(tokens, &[], Wanted::AllHidden)?;
                    for hidden in self.results.hidden(rows, self.model.config()).chunks_exact(dim) {
                        pooled.iter_mut().zip(hidden).for_each(|(sum, &x)| *sum += f64::from(x));
                    }
                }
            }
        }
        // The mean has the direction of the sum.
        let length = pooled.iter().map(|x| x * x).sum::<f64>().sqrt();
        let unit = |x: f64| if length > 0.0 { (x / length) as f32 } else { 0.0 };
        Ok(pooled.into_iter().map(unit).collect())
    }
}

impl Model {
    /// The vector of a text: its tokens, as a prompt, pooled as the file says (GGUF's
    /// `pooling_type`), or else the last token's hidden state. Its length is 1.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// let [cat, dog] = [model.embed("a cat")?, model.embed("a dog")?];
    /// let rain = model.embed("It rains.")?;
    /// let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    /// assert!(cosine(&cat, &dog) > cosine(&cat, &rain));
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::NoTokenizer`], and as [`Session::embed`].
    pub fn embed(&self, text: &str) -> Result<Vec<f32>> {
        let tokenizer = self.tokenizer().ok_or(ErrorKind::NoTokenizer)?;
        self.session().embed(&tokenizer.encode_prompt(text), self.pooling()?)
    }

    /// How the file says that texts are pooled (GGUF's `pooling_type`, in llama.cpp's numbers);
    /// [`Pooling::Last`] if it doesn't.
    ///
    /// ```
    /// # let model = babyllama::Model::open("models/babyllama.gguf")?;
    /// assert_eq!(model.pooling()?, babyllama::Pooling::Last);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOption`] if it names what can't be computed.
    pub fn pooling(&self) -> Result<Pooling> {
        let value = self.metadata().iter().find(|(key, _)| key.ends_with(".pooling_type"));
        match value.map(|(_, value)| value.as_str()) {
            None | Some("0" | "3") => Ok(Pooling::Last),
            Some("1") => Ok(Pooling::Mean),
            Some(other) => {
                let reason = "only 0 (none), 1 (mean) and 3 (last) can be computed; call Session::embed";
                let (value, reason) = (other.to_owned(), reason.to_owned());
                Err(ErrorKind::InvalidOption { name: "pooling_type", value, reason }.into())
            }
        }
    }
}
