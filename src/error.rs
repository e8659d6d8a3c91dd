//! The one error type: what went wrong, and in which file.
//!
//! Every failure that input can cause is an [`ErrorKind`] with the values that disagree, so that a
//! program can match on it and a person can read it. Panics are left for programmers' errors, and
//! each is documented where it can happen.

mod file;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The index of a piece in the vocabulary.
pub type TokenId = u32;

/// A `Result` whose error is babyllama's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and the file it went wrong in, when there is one.
#[derive(Debug)]
pub struct Error {
    path: Option<PathBuf>,
    kind: ErrorKind,
}

/// The kinds of failure. New ones may be added in a minor version.
#[derive(Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused to open, read or map a file.
    Io(io::Error),
    /// It isn't a file of the expected kind. `hint` says what it is instead.
    UnknownFormat {
        /// What it is, and what to do, for a person.
        hint: String,
    },
    /// The format is known but this version of it is not.
    UnsupportedVersion {
        /// The format's name.
        format: &'static str,
        /// The version that the file states.
        found: u32,
    },
    /// The file's numbers have their most significant byte first.
    BigEndian {
        /// The format's name.
        format: &'static str,
    },
    /// The file breaks a rule of its format.
    Malformed {
        /// The format's name.
        format: &'static str,
        /// Which rule, and where.
        reason: String,
    },
    /// The model in the file is of another architecture than those that run.
    UnsupportedArchitecture {
        /// What the file says it is.
        found: String,
        /// Those that run, by the names that such files give them.
        supported: Vec<&'static str>,
    },
    /// The file lacks a key that the model needs.
    MissingKey {
        /// The key.
        key: String,
    },
    /// The value of a key has a type that it can't have.
    KeyType {
        /// The key.
        key: String,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// The file is one part of a model, and the model can't be opened by it.
    Split {
        /// Why, and what to do.
        reason: String,
    },
    /// The header describes a file of another size.
    FileSize {
        /// Bytes that the header asks for.
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// The file ends inside something.
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where it starts, in bytes.
        offset: u64,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that are left.
        available: u64,
    },
    /// A hyperparameter that no model can have.
    Config {
        /// The hyperparameter's name.
        field: &'static str,
        /// The value in the file or in the options.
        value: String,
        /// The rule that it breaks.
        reason: String,
    },
    /// A tensor has another shape than the hyperparameters ask for.
    TensorShape {
        /// The tensor's name.
        name: String,
        /// (rows, columns) that the hyperparameters ask for.
        expected: Vec<usize>,
        /// (rows, columns) in the file.
        found: Vec<usize>,
    },
    /// The file lacks a tensor that the model needs.
    MissingTensor {
        /// The tensor's name in the file.
        name: String,
    },
    /// The file has a tensor that this version can't use, and the model would be wrong without it.
    UnsupportedTensor {
        /// The tensor's name in the file.
        name: String,
    },
    /// A tensor's weights are stored in a way that this version can't read.
    UnsupportedTensorType {
        /// The tensor's name in the file.
        name: String,
        /// How they are stored.
        dtype: String,
    },
    /// A tensor can't lie where the file says, or be as large as it says.
    TensorLayout {
        /// The tensor's name in the file.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Something that a file to be written can't hold.
    Unwritable {
        /// What it is.
        what: String,
        /// Why the file can't hold it.
        reason: String,
    },
    /// A file to be written is there already.
    Exists,
    /// A file to be written is one that the model is read from.
    IsSource,
    /// A file was changed while it was read.
    Changed,
    /// A converted model isn't what it was made from.
    Mismatch {
        /// What of it: a tensor, a piece, a hyperparameter.
        what: String,
        /// Both values.
        reason: String,
    },
    /// There is too little space for a file to be written.
    DiskFull {
        /// Bytes that the file will have.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// The tokenizer's file is malformed.
    Tokenizer {
        /// What is wrong with it.
        reason: String,
    },
    /// The tokenizer has more pieces than the model has logits, so it belongs to another model.
    VocabMismatch {
        /// Pieces in the tokenizer.
        tokenizer: usize,
        /// The model's `vocab_size`.
        model: usize,
    },
    /// Text was given, but the model came without a tokenizer.
    NoTokenizer,
    /// A token id at or above `vocab_size`.
    TokenOutOfRange {
        /// The token.
        token: TokenId,
        /// The number of tokens that the model knows.
        vocab_size: usize,
    },
    /// More tokens than the context can hold. Nothing was fed.
    ContextFull {
        /// Positions that the session can hold.
        capacity: usize,
        /// Positions that the request would have used.
        requested: usize,
    },
    /// No token at all: a forward pass needs at least one.
    EmptyInput,
    /// A logit is not a number, so no token can be chosen: the weights are damaged.
    NanLogit {
        /// The first token with such a logit.
        token: TokenId,
    },
    /// The sampler, or a constraint, forbids every token.
    NoCandidate,
    /// A mask that is for another number of tokens than there are logits.
    MaskLength {
        /// The number of tokens that the mask is for.
        mask: usize,
        /// The number of logits.
        logits: usize,
    },
    /// A schema, a regular expression or a grammar that can't be followed.
    Grammar {
        /// What it is.
        language: &'static str,
        /// The line and the column of the mistake, from 1, if they are known.
        position: Option<(usize, usize)>,
        /// What is wrong.
        reason: String,
    },
    /// A constraint can't go on.
    Constraint {
        /// Why.
        reason: String,
    },
    /// A model file's chat template can't be run.
    ChatTemplate {
        /// Where, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A chat template refuses a conversation, such as one that begins with the assistant.
    ConversationRefused {
        /// What the template says about it.
        reason: String,
    },
    /// An option that cannot be honored.
    InvalidOption {
        /// The option's name.
        name: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        reason: String,
    },
    /// The memory for something could not be had.
    OutOfMemory {
        /// What it was for.
        what: &'static str,
        /// Its size in bytes.
        bytes: u64,
    },
    /// The flag of [`Session::cancel_on`](crate::Session::cancel_on) ended a pass.
    Cancelled,
    /// Sessions of different models were to be fed together, or a generation was given one of
    /// another model.
    DifferentModels,
    /// A saved session can't be restored.
    SavedSession {
        /// Why.
        reason: String,
    },
    /// The threads could not be started.
    ThreadPool(String),
}

impl Error {
    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// The file it went wrong in, when it was a file.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The same error with the path of a file. A path that it already has stays: the innermost one
    /// is the exact one.
    #[must_use]
    pub(crate) fn at(mut self, path: Option<&Path>) -> Self {
        if self.path.is_none() {
            self.path = path.map(Path::to_path_buf);
        }
        self
    }
}

/// Constructors of kinds that several places report, for values of any type that can be shown.
impl Error {
    pub(crate) fn malformed(format: &'static str, reason: impl Into<String>) -> Self {
        ErrorKind::Malformed { format, reason: reason.into() }.into()
    }

    pub(crate) fn unknown_format(hint: impl Into<String>) -> Self {
        ErrorKind::UnknownFormat { hint: hint.into() }.into()
    }

    #[allow(clippy::needless_pass_by_value, reason = "numbers and texts read better by value")]
    pub(crate) fn config(field: &'static str, value: impl ToString, reason: impl Into<String>) -> Self {
        ErrorKind::Config { field, value: value.to_string(), reason: reason.into() }.into()
    }

    pub(crate) fn truncated(what: &'static str, offset: u64, needed: u64, available: u64) -> Self {
        ErrorKind::Truncated { what, offset, needed, available }.into()
    }

    pub(crate) fn split(reason: impl Into<String>) -> Self {
        ErrorKind::Split { reason: reason.into() }.into()
    }

    pub(crate) fn missing_key(key: impl Into<String>) -> Self {
        ErrorKind::MissingKey { key: key.into() }.into()
    }

    pub(crate) fn missing_tensor(name: impl Into<String>) -> Self {
        ErrorKind::MissingTensor { name: name.into() }.into()
    }

    pub(crate) fn tensor_shape(name: impl Into<String>, expected: &[usize], found: &[usize]) -> Self {
        let (expected, found) = (expected.to_vec(), found.to_vec());
        ErrorKind::TensorShape { name: name.into(), expected, found }.into()
    }

    pub(crate) fn tensor_type(name: impl Into<String>, dtype: impl Into<String>) -> Self {
        ErrorKind::UnsupportedTensorType { name: name.into(), dtype: dtype.into() }.into()
    }

    pub(crate) fn tensor_layout(name: impl Into<String>, reason: impl Into<String>) -> Self {
        ErrorKind::TensorLayout { name: name.into(), reason: reason.into() }.into()
    }

    #[cfg(feature = "convert")]
    pub(crate) fn unwritable(what: impl Into<String>, reason: impl Into<String>) -> Self {
        ErrorKind::Unwritable { what: what.into(), reason: reason.into() }.into()
    }

    #[cfg(feature = "convert")]
    pub(crate) fn mismatch(what: impl Into<String>, reason: impl Into<String>) -> Self {
        ErrorKind::Mismatch { what: what.into(), reason: reason.into() }.into()
    }
}

/// The value of an option that has this name, in upper or lower case, among those that there are.
pub(crate) fn by_name<T: Copy>(
    option: &'static str,
    value: &str,
    known: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<T> {
    known.iter().copied().find(|&known| name(known).eq_ignore_ascii_case(value)).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|&known| name(known).to_ascii_lowercase()).collect();
        let reason = format!("must be one of {}", names.join(", "));
        ErrorKind::InvalidOption { name: option, value: value.into(), reason }.into()
    })
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self { path: None, kind }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        ErrorKind::Io(error).into()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            ErrorKind::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, "{}: ", path.display())?;
        }
        self.kind.fmt(f)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::UnknownFormat { .. }
            | Self::UnsupportedVersion { .. }
            | Self::BigEndian { .. }
            | Self::Malformed { .. }
            | Self::UnsupportedArchitecture { .. }
            | Self::MissingKey { .. }
            | Self::KeyType { .. }
            | Self::Split { .. }
            | Self::FileSize { .. }
            | Self::Truncated { .. } => self.fmt_file(f),
            Self::TensorShape { .. }
            | Self::MissingTensor { .. }
            | Self::UnsupportedTensor { .. }
            | Self::UnsupportedTensorType { .. }
            | Self::TensorLayout { .. } => self.fmt_tensor(f),
            Self::Config { field, value, reason } => write!(f, "{field} is {value}: {reason}"),
            Self::Unwritable { what, reason } => write!(f, "{what} can't be written: {reason}"),
            Self::Exists => f.write_str("the file is there already"),
            Self::IsSource => f.write_str("the model is read from this file: write to another"),
            Self::Changed => f.write_str("the file was changed while it was read"),
            Self::Mismatch { what, reason } => {
                write!(f, "{what} differs from the source's: {reason}")
            }
            Self::DiskFull { needed, available } => {
                write!(f, "the file will have {needed} bytes, and the disk has only {available} left")
            }
            Self::Tokenizer { reason } => write!(f, "tokenizer: {reason}"),
            Self::VocabMismatch { tokenizer, model } => {
                write!(f, "the tokenizer has {tokenizer} pieces, the model knows only {model} tokens")
            }
            Self::NoTokenizer => {
                write!(
                    f,
                    "text needs a tokenizer: this file holds none, and none was found beside the model or given"
                )
            }
            Self::TokenOutOfRange { token, vocab_size } => {
                write!(f, "token {token} is not below the vocabulary's size, {vocab_size}")
            }
            Self::ContextFull { capacity, requested } => {
                write!(f, "the context holds {capacity} tokens, and this would make {requested}")
            }
            Self::EmptyInput => write!(f, "no token to feed"),
            Self::NanLogit { token } => write!(f, "the logit of token {token} is not a number"),
            Self::NoCandidate => {
                write!(f, "every token is forbidden by the sampler's options or a constraint")
            }
            Self::MaskLength { mask, logits } => {
                write!(f, "a mask for {mask} tokens doesn't fit {logits} logits")
            }
            Self::Grammar { language, position: Some((line, column)), reason } => {
                write!(f, "{language}, line {line}, column {column}: {reason}")
            }
            Self::Grammar { language, position: None, reason } => write!(f, "{language}: {reason}"),
            Self::Constraint { reason } => write!(f, "the constraint can't go on: {reason}"),
            Self::ChatTemplate { line, reason } => write!(f, "the chat template, line {line}: {reason}"),
            Self::ConversationRefused { reason } => {
                write!(f, "the chat template refuses the conversation: {reason}")
            }
            Self::InvalidOption { name, value, reason } => {
                write!(f, "option {name} = {value}: {reason}")
            }
            Self::OutOfMemory { what, bytes } => write!(f, "{what} needs {bytes} bytes of memory"),
            Self::Cancelled => f.write_str("the pass was cancelled"),
            Self::SavedSession { reason } => write!(f, "the saved session can't be restored: {reason}"),
            Self::DifferentModels => f.write_str("this takes sessions of one model only"),
            Self::ThreadPool(reason) => write!(f, "the thread pool could not be started: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_file_and_both_values() {
        let kind = ErrorKind::TensorShape {
            name: "layers.3.attention.wk".into(),
            expected: vec![4096, 4096],
            found: vec![4096, 1024],
        };
        let error = Error::from(kind).at(Some(Path::new("models/x.bin"))).at(Some(Path::new("other")));
        assert_eq!(
            error.to_string(),
            "models/x.bin: tensor layers.3.attention.wk: expected shape (4096, 4096), found (4096, 1024)"
        );
    }
}
