//! What errors in a file say.

use std::fmt;

use super::ErrorKind;

impl ErrorKind {
    /// What is wrong with a file as a whole, or with its keys.
    pub(super) fn fmt_file(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownFormat { hint } => write!(f, "not a file that babyllama can use: {hint}"),
            Self::UnsupportedVersion { format, found } => {
                write!(f, "{format} version {found} is not supported")
            }
            Self::BigEndian { format } => {
                let is_gguf = *format == "GGUF";
                let helps = if is_gguf { ": gguf-py's gguf_convert_endian makes a file that is" } else { "" };
                write!(f, "big-endian {format} files are not supported{helps}")
            }
            Self::Malformed { format, reason } => write!(f, "malformed {format} file: {reason}"),
            Self::UnsupportedArchitecture { found, supported } => {
                let supported = supported.join(", ");
                write!(f, "models of architecture {found:?} are not supported: {supported} are")
            }
            Self::MissingKey { key } => write!(f, "key {key} is missing"),
            Self::KeyType { key, expected, found } => {
                write!(f, "key {key}: expected {expected}, found {found}")
            }
            Self::Split { reason } => f.write_str(reason),
            Self::FileSize { expected, found } => {
                let why = if found < expected { ": it was cut short, or isn't downloaded whole" } else { "" };
                write!(f, "the header asks for {expected} bytes, the file has {found}{why}")
            }
            Self::Truncated { what, offset, needed, available } => {
                write!(
                    f,
                    "{what} at byte {offset} needs {needed} bytes, {available} are left: was it downloaded whole?"
                )
            }
            _ => Ok(()),
        }
    }

    /// What is wrong with a tensor in a file.
    pub(super) fn fmt_tensor(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TensorShape { name, expected, found } => {
                write!(f, "tensor {name}: expected shape {}, found {}", Shape(expected), Shape(found))
            }
            Self::MissingTensor { name } => write!(f, "tensor {name} is missing"),
            Self::UnsupportedTensor { name } => {
                write!(
                    f,
                    "tensor {name} is not supported: it is a part that babyllama doesn't know, so it can't tell whether \
                     the model would be wrong without it"
                )
            }
            Self::UnsupportedTensorType { name, dtype } => {
                write!(f, "tensor {name}: weights of type {dtype} are not supported")
            }
            Self::TensorLayout { name, reason } => write!(f, "tensor {name}: {reason}"),
            _ => Ok(()),
        }
    }
}

/// Prints a shape the way the documentation writes it: `(4096, 1024)`.
struct Shape<'a>(&'a [usize]);

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, n) in self.0.iter().enumerate() {
            write!(f, "{}{n}", if i == 0 { "" } else { ", " })?;
        }
        f.write_str(")")
    }
}
