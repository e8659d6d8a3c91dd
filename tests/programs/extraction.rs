//! JSON extraction: what a text says, in the fields of a schema.
//!
//! The model can write nothing that the schema doesn't allow. What it writes there is its own
//! doing, and so examples of texts with their JSON come first; they are read once.

#[cfg(test)]
mod tests;

use std::fmt;

use babyllama::{Error, ErrorKind, FinishReason, Grammar, GrammarConstraint, Model, Sampler, Session};
use serde::de::DeserializeOwned;

/// More than any JSON takes that is of use.
const MAX_TOKENS: usize = 200;

/// Why there is no JSON.
#[derive(Debug)]
pub enum Failure {
    /// The model, the schema or the text is to blame.
    Library(Error),
    /// It isn't complete: a string or a list goes on and on, or the context is full.
    Unfinished(String),
    /// The type wants something else than the schema says.
    Type(serde_json::Error),
}

/// Extracts JSON of one schema.
#[derive(Debug)]
pub struct Extractor {
    /// It has read the examples.
    examples: Session,
    constraint: GrammarConstraint,
    sampler: Sampler,
}

impl Extractor {
    /// Texts to come have the form of the examples, up to where the JSON begins.
    pub fn new(model: &Model, examples: &str, schema: &str, sampler: Sampler) -> Result<Self, Error> {
        let constraint = Grammar::json_schema(schema)?.constraint(model)?;
        let mut session = model.session();
        let tokenizer = model.tokenizer().ok_or(Error::from(ErrorKind::NoTokenizer))?;
        session.forward(&tokenizer.encode_prompt(examples))?;
        Ok(Self { examples: session, constraint, sampler })
    }

    /// What a text says.
    pub fn extract<T: DeserializeOwned>(&self, text: &str) -> Result<T, Failure> {
        let (mut session, mut sampler) = (self.examples.fork()?, self.sampler.clone());
        let generate = session.generate(text, &mut sampler)?.max_tokens(MAX_TOKENS);
        let mut generate = generate.constrain(self.constraint.clone());
        let json: String = generate.by_ref().collect::<Result<_, _>>()?;
        match generate.finish_reason() {
            Some(FinishReason::EndOfText(_)) => serde_json::from_str(&json).map_err(Failure::Type),
            _ => Err(Failure::Unfinished(json)),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Library(error)
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Library(error) => error.fmt(f),
            Self::Unfinished(json) => write!(f, "the JSON doesn't end: {json}"),
            Self::Type(error) => write!(f, "the JSON isn't of the type: {error}"),
        }
    }
}
