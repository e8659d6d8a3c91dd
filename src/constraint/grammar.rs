//! Grammars: text that follows a JSON schema, a regular expression or rules in Lark.
//!
//! The parser is the crate `llguidance`; here are its errors in this crate's terms, and what it
//! can't know of a tokenizer, which is in [`vocabulary`](super::vocabulary) too.

use std::fmt::{self, Display};
use std::sync::Arc;
use std::thread;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};

use super::Constraint;
use super::checked::{COMPILER_STACK, check_lark, check_schema};
use super::vocabulary::Vocabulary;
use crate::error::{Error, ErrorKind, Result, TokenId};
use crate::model::Model;
use crate::sampler::TokenMask;
use crate::tokenizer::Tokenizer;

const SCHEMA: &str = "JSON schema";
const REGEX: &str = "regular expression";
const LARK: &str = "grammar";

/// What the matcher's error begins with where no token can come.
const NO_EXTENSION: &str = "NoExtensionBias";

/// What a text has to follow, for any model.
///
/// [`Grammar::constraint`] compiles it for a model, in milliseconds; a clone of the constraint then
/// is one for another text. What a model's tokenizer takes is made once, by the model's first
/// grammar, and kept.
///
/// ```
/// use babyllama::{Grammar, Model, Sampler};
///
/// # fn main() -> babyllama::Result<()> {
/// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
/// let schema = r#"{
///     "type": "object",
///     "properties": {
///         "name": { "enum": ["Tom", "Lily"] },
///         "age": { "type": "integer", "minimum": 1, "maximum": 99 }
///     },
///     "required": ["name", "age"],
///     "additionalProperties": false,
///     "x-guidance": { "whitespace_flexible": false }
/// }"#;
/// let constraint = Grammar::json_schema(schema)?.constraint(&model)?;
/// let mut session = model.session();
/// let mut sampler = Sampler::default();
/// let mut json = String::new();
/// for piece in session.generate("Once upon a time", &mut sampler)?.constrain(constraint) {
///     json += piece?.as_str();
/// }
/// assert!(json.starts_with(r#"{"name":""#) && json.ends_with('}'));
/// # Ok(())
/// # }
/// ```
///
/// The crate that parses, `llguidance`, adds to the process's panic hook with the first grammar:
/// panics of its own become errors, and all others go on to the hook that was there.
#[derive(Clone, Debug)]
pub struct Grammar {
    language: &'static str,
    source: TopLevelGrammar,
}

impl Grammar {
    /// JSON text that a schema allows.
    ///
    /// What a schema says and this can't follow is refused by [`constraint`](Self::constraint).
    /// Properties come in the schema's order. Between tokens any white space may come, and small
    /// models like to go on with it; `"x-guidance": { "whitespace_flexible": false }` at the top of
    /// the schema allows none.
    ///
    /// Numbers are read as f64, so bounds and other integers may be up to 2^53 - 1, and what is
    /// next to an excluded bound is what is next to it among f64 (next to 0, 1e-15).
    ///
    /// # Errors
    /// [`ErrorKind::Grammar`] if it isn't JSON, if it has numbers that are too great, or if its
    /// references may lead too deep.
    pub fn json_schema(schema: &str) -> Result<Self> {
        let mut schema = serde_json::from_str(schema).map_err(|error| {
            let position = Some((error.line(), error.column()));
            let reason = error.to_string();
            // It says the position too.
            let reason = reason.rsplit_once(" at line ").map_or(&*reason, |(reason, _)| reason);
            Error::from(ErrorKind::Grammar { language: SCHEMA, position, reason: reason.into() })
        })?;
        check_schema(&mut schema)
            .map_err(|reason| Error::from(ErrorKind::Grammar { language: SCHEMA, position: None, reason }))?;
        Ok(Self { language: SCHEMA, source: TopLevelGrammar::from_json_schema(schema) })
    }

    /// Text that a regular expression matches as a whole, in the syntax of the crate `regex`;
    /// without anchors, look-around and lazy operators.
    ///
    /// # Errors
    /// [`ErrorKind::Grammar`] if its syntax is wrong.
    pub fn regex(pattern: &str) -> Result<Self> {
        if let Err(error) = regex_syntax::parse(pattern) {
            let (span, reason) = match &error {
                regex_syntax::Error::Parse(error) => (Some(error.span()), error.kind().to_string()),
                regex_syntax::Error::Translate(error) => (Some(error.span()), error.kind().to_string()),
                _ => (None, error.to_string()),
            };
            let position = span.map(|span| (span.start.line, span.start.column));
            return Err(ErrorKind::Grammar { language: REGEX, position, reason }.into());
        }
        Ok(Self { language: REGEX, source: TopLevelGrammar::from_regex(pattern) })
    }

    /// Text that rules in the syntax of Lark, as `llguidance` takes it, derive from `start`.
    ///
    /// ```
    /// # use babyllama::{Grammar, Model};
    /// # fn main() -> babyllama::Result<()> {
    /// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
    /// let grammar = Grammar::lark(r#"
    ///     start: sum "=" NUMBER
    ///     sum: NUMBER | sum "+" NUMBER
    ///     NUMBER: /[0-9]{1,3}/
    /// "#)?;
    /// # let constraint = grammar.constraint(&model)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Grammar`] if brackets or rules are nested too deeply, or for a schema in it, as
    /// [`json_schema`](Self::json_schema). What else is wrong is found by
    /// [`constraint`](Self::constraint), because a grammar may name a tokenizer's control tokens.
    pub fn lark(grammar: &str) -> Result<Self> {
        let checked = check_lark(grammar).map_err(|(position, reason)| {
            Error::from(ErrorKind::Grammar { language: LARK, position: Some(position), reason })
        })?;
        Ok(Self { language: LARK, source: TopLevelGrammar::from_lark(checked) })
    }

    /// Compiles it for a model's tokenizer.
    ///
    /// # Errors
    /// [`ErrorKind::Grammar`] for what is wrong with it, or can't be followed;
    /// [`ErrorKind::NoTokenizer`]; [`ErrorKind::Tokenizer`] if no token ends a text, or if the
    /// pieces take more than 4 MB.
    pub fn constraint(&self, model: &Model) -> Result<GrammarConstraint> {
        let vocabulary = model.grammar_vocabulary()?;
        let matcher = self.matcher(&vocabulary.factory)?;
        Ok(GrammarConstraint { grammar: Arc::new(self.clone()), vocabulary, matcher, first: None, length: 0 })
    }

    /// Compiles it, on a thread whose stack is deep enough.
    fn matcher(&self, factory: &ParserFactory) -> Result<Matcher> {
        let compile = || factory.create_parser(self.source.clone()).map_err(|error| self.refused(&error));
        let parser = thread::scope(|scope| {
            let compiler = thread::Builder::new().stack_size(COMPILER_STACK).spawn_scoped(scope, compile);
            let bytes = COMPILER_STACK as u64;
            let compiler =
                compiler.map_err(|_| ErrorKind::OutOfMemory { what: "the grammar's compiler", bytes })?;
            compiler.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        Ok(Matcher::new(Ok(parser?)))
    }

    /// What the compiler says, with the position taken out of its text.
    fn refused(&self, error: impl Display) -> Error {
        let text = error.to_string();
        let mut lines = text.lines().map(str::trim).take_while(|line| !line.starts_with('<'));
        let first = lines.next().unwrap_or_default();
        let (position, reason) = match position(first) {
            // The lines after it show the place.
            Some((position, rest)) => (Some(position).filter(|_| self.language == LARK), rest.into()),
            None => (None, lines.fold(first.to_string(), |all, line| all + ", " + line)),
        };
        ErrorKind::Grammar { language: self.language, position, reason }.into()
    }
}

/// The position at the front of a message, `at 3(5): ` or `3(5): `, and what comes after it.
fn position(message: &str) -> Option<((usize, usize), &str)> {
    let (place, rest) = message.strip_prefix("at ").unwrap_or(message).split_once("): ")?;
    let (line, column) = place.split_once('(')?;
    Some(((line.parse().ok()?, column.parse().ok()?), rest))
}

/// A [`Grammar`] for a model's tokenizer, at some place in a text.
///
/// A clone is at the same place and goes on by itself: clone a fresh one for each text. The text
/// may end where the grammar is complete, and must where nothing more can come. Text that has only
/// one way to go on is spelled as the tokenizer would spell it.
#[derive(Clone)]
pub struct GrammarConstraint {
    grammar: Arc<Grammar>,
    vocabulary: Arc<Vocabulary>,
    matcher: Matcher,
    /// For the first token, where that one loses the space at its front.
    first: Option<Matcher>,
    /// The number of tokens accepted.
    length: usize,
}

impl GrammarConstraint {
    /// What whoever wrote the grammar should know; of most there is nothing.
    pub fn notes(&mut self) -> Vec<String> {
        self.matcher.grammar_warnings()
    }

    /// Whether the text so far is complete, so that it may end.
    pub fn may_end(&mut self) -> bool {
        let matcher = self.first.as_mut().unwrap_or(&mut self.matcher);
        matcher.is_accepting().unwrap_or(false)
    }
}

impl fmt::Debug for GrammarConstraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarConstraint")
            .field("grammar", &self.grammar)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl Constraint for GrammarConstraint {
    fn fits(&self, tokenizer: &Tokenizer) -> Result<()> {
        let own = &self.vocabulary.tokenizer;
        let Some(id) = own.first_difference(tokenizer) else { return Ok(()) };
        Err(ErrorKind::InvalidOption {
            name: "constraint",
            value: format!("a grammar compiled for {} pieces", own.vocab_size()),
            reason: format!(
                "the model's tokenizer is another, of {}: piece {id} differs; compile it for this model",
                tokenizer.vocab_size(),
            ),
        }
        .into())
    }

    fn begin(&mut self, previous: Option<TokenId>) -> Result<()> {
        if self.length == 0 {
            self.first = match self.vocabulary.is_stripped_after(previous) {
                true => Some(self.grammar.matcher(self.vocabulary.at_start()?)?),
                false => None,
            };
        }
        Ok(())
    }

    fn allow(&mut self, next: &mut TokenMask) -> Result<()> {
        let matcher = self.first.as_mut().unwrap_or(&mut self.matcher);
        match matcher.compute_mask_or_eos() {
            Ok(mask) => {
                let bits = next.words_mut().iter_mut().zip(mask.as_slice());
                bits.for_each(|(word, bits)| *word |= bits);
                Ok(())
            }
            // Nothing can come, and the text can't end: the mask stays empty. (The matcher keeps no
            // more of it than the text.)
            Err(error) if first_line(&error) == NO_EXTENSION => Ok(()),
            Err(error) => Err(stuck(&error)),
        }
    }

    fn accept(&mut self, token: TokenId) -> Result<()> {
        match self.first.take() {
            // What is left of it, in tokens of their own.
            Some(_) => {
                let word = self.vocabulary.at_start()?.tok_env().tok_trie().token(token);
                let tokens = self.vocabulary.trie().greedy_tokenize(word);
                self.matcher.consume_tokens(&tokens)
            }
            None => self.matcher.consume_token(token),
        }
        .map_err(|error| stuck(&error))?;
        self.length += 1;
        Ok(())
    }

    fn forced(&mut self, out: &mut Vec<TokenId>) {
        if self.first.is_none() && !self.matcher.is_stopped() {
            out.extend(self.matcher.compute_ff_tokens());
        }
    }
}

fn first_line(error: impl Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}

fn stuck(error: impl Display) -> Error {
    ErrorKind::Constraint { reason: first_line(error) }.into()
}
