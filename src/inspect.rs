//! What is in a file, for people: also in one that can't be run.
//!
//! ```
//! use babyllama::inspect::GgufFile;
//!
//! # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf");
//! let file = GgufFile::open(path)?;
//! assert_eq!(file.architecture.as_deref(), Some("llama"));
//! for tensor in &file.tensors {
//!     println!("{} {:?} {}", tensor.name, tensor.shape, tensor.dtype);
//! }
//! # Ok::<(), babyllama::Error>(())
//! ```

pub use crate::checkpoint::gguf::contents::{GgufFile, GgufTensor};
