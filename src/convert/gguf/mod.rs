//! Writes GGUF, version 3: any metadata and tensors, in one pass.
//!
//! A [`Header`] collects keys and what tensors there will be. Writing it makes a [`TensorWriter`],
//! which takes the tensors' bytes in order, in parts of any size: a file of any length passes
//! through a small buffer.
//!
//! Invariant: what is written is a file that this crate's reader takes. What the format forbids
//! is refused when it is added, and a [`TensorWriter`] finishes only after every byte that the
//! header announced.
//!
//! - here: the file
//! - `value`: metadata
//! - `llama`: which keys and tensors a Llama has, `fused` which of these are several in one, and
//!   `tokenizer` what its tokenizer is
//!
//! Source: `docs/gguf.md` in the ggml repository; `checkpoint/gguf` draws the layout.

pub(super) mod fused;
pub(super) mod llama;
mod tokenizer;
mod value;

use std::collections::HashSet;
use std::io::Write;

pub use value::{Array, Value};

use crate::checkpoint::gguf::{ALIGNMENT, MAGIC, MAX_ENTRIES, MAX_KEY_BYTES, keys};
use crate::error::{Error, Result};
use crate::quant::Dtype;

const VERSION: u32 = 3;
/// llama.cpp keeps names in 64 bytes, the last of which is a zero.
const MAX_NAME_BYTES: usize = 63;
/// The most dimensions that a tensor has.
const MAX_DIMS: usize = 4;

/// Everything before the tensors' bytes.
///
/// ```
/// use babyllama::Dtype;
/// use babyllama::convert::gguf::Header;
///
/// let mut header = Header::new();
/// header.set("general.architecture", "example")?;
/// header.tensor("ones", &[2, 3], Dtype::F32)?;
/// let mut tensors = header.write(Vec::new())?;
/// tensors.write("ones", &1_f32.to_le_bytes().repeat(6))?;
/// let file = tensors.finish()?;
/// assert_eq!(file.len() as u64, header.file_bytes());
/// # Ok::<(), babyllama::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Header {
    metadata: Vec<(String, Value)>,
    tensors: Vec<Info>,
    /// Of metadata and of tensors.
    names: [HashSet<String>; 2],
}

/// A tensor that is to be written.
#[derive(Clone, Debug)]
struct Info {
    name: String,
    shape: Vec<usize>,
    /// Its number in the file.
    kind: u32,
    /// From the first tensor's start.
    offset: u64,
    bytes: u64,
}

impl Header {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key and its value. They are written in the order in which they are added.
    ///
    /// # Errors
    /// [`ErrorKind::Unwritable`] if the key is there already, is empty, or has more than 65,535
    /// bytes; if there are more than 16,384 keys; and for `general.alignment`, which is 32.
    ///
    /// [`ErrorKind::Unwritable`]: crate::ErrorKind::Unwritable
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> Result<()> {
        let refuse = |reason: String| Err(Error::unwritable(format!("key {key:?}"), reason));
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return refuse(format!("a key has 1 to {MAX_KEY_BYTES} bytes, this has {}", key.len()));
        }
        if key == keys::ALIGNMENT {
            return refuse(format!("tensors are always aligned to {ALIGNMENT} bytes"));
        }
        if self.metadata.len() as u64 == MAX_ENTRIES {
            return refuse(format!("there are {MAX_ENTRIES} keys already"));
        }
        if !self.names[0].insert(key.into()) {
            return refuse("it is there already".into());
        }
        self.metadata.push((key.into(), value.into()));
        Ok(())
    }

    /// Whether a key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.names[0].contains(key)
    }

    /// Announces a tensor of a shape, (rows, columns) or up to four dimensions, outermost first.
    /// Its bytes must be written in the order in which tensors are announced.
    ///
    /// # Errors
    /// [`ErrorKind::Unwritable`] if the name is there already, is empty, or has more than 63 bytes;
    /// if a row isn't a multiple of its blocks; if the shape has no dimension, more than four, or
    /// one of 0; if sizes overflow; if GGUF doesn't have the type; and if there are more than
    /// 16,384 tensors.
    ///
    /// [`ErrorKind::Unwritable`]: crate::ErrorKind::Unwritable
    pub fn tensor(&mut self, name: &str, shape: &[usize], dtype: Dtype) -> Result<()> {
        let refuse = |reason: String| Err(Error::unwritable(format!("tensor {name:?}"), reason));
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return refuse(format!("a name has 1 to {MAX_NAME_BYTES} bytes, this has {}", name.len()));
        }
        let (Some(kind), Some((weights, bytes))) = (dtype.ggml_type(), dtype.block()) else {
            return refuse(format!("GGUF has no type {dtype}"));
        };
        let columns = shape.last().copied().unwrap_or(0);
        if shape.len() > MAX_DIMS || shape.contains(&0) || !columns.is_multiple_of(weights) || columns == 0 {
            return refuse(format!("a tensor of shape {shape:?} can't be stored as {dtype}"));
        }
        let rows = &shape[..shape.len() - 1];
        let blocks = rows.iter().try_fold((columns / weights) as u64, |n, &dim| n.checked_mul(dim as u64));
        let offset = self.tensor_bytes();
        let bytes = blocks.and_then(|blocks| blocks.checked_mul(bytes as u64));
        // Half of the range is left for the header and for padding.
        let fits = |bytes: &u64| offset.checked_add(*bytes).is_some_and(|end| end < 1 << 63);
        let Some(bytes) = bytes.filter(fits) else {
            return refuse(format!("the size of a tensor of shape {shape:?} overflows"));
        };
        if self.tensors.len() as u64 == MAX_ENTRIES {
            return refuse(format!("there are {MAX_ENTRIES} tensors already"));
        }
        if !self.names[1].insert(name.into()) {
            return refuse("it is there already".into());
        }
        self.tensors.push(Info { name: name.into(), shape: shape.into(), kind, offset, bytes });
        Ok(())
    }

    /// The tensors in their order: name, shape, and the bytes to write of each.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, &[usize], u64)> {
        self.tensors.iter().map(|info| (&*info.name, &*info.shape, info.bytes))
    }

    /// The size of the whole file.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.to_bytes().len() as u64 + self.tensor_bytes()
    }

    /// Writes the header, and lets the tensors follow.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    ///
    /// [`ErrorKind::Io`]: crate::ErrorKind::Io
    pub fn write<W: Write>(&self, mut to: W) -> Result<TensorWriter<'_, W>> {
        to.write_all(&self.to_bytes())?;
        Ok(TensorWriter { to, left: &self.tensors, written: 0 })
    }

    /// Bytes of all tensors, each padded.
    fn tensor_bytes(&self) -> u64 {
        self.tensors.last().map_or(0, |last| (last.offset + last.bytes).next_multiple_of(ALIGNMENT))
    }

    /// The header, padded to where tensors start.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            value::put_string(&mut out, key.as_bytes());
            out.extend(value.kind().number().to_le_bytes());
            value.put(&mut out);
        }
        for Info { name, shape, kind, offset, .. } in &self.tensors {
            value::put_string(&mut out, name.as_bytes());
            out.extend((shape.len() as u32).to_le_bytes());
            // Innermost first.
            out.extend(shape.iter().rev().flat_map(|&dim| (dim as u64).to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
        out
    }
}

/// Takes the tensors' bytes, in the order in which the header announced them.
#[derive(Debug)]
pub struct TensorWriter<'a, W> {
    to: W,
    /// Tensors that aren't whole yet.
    left: &'a [Info],
    /// Bytes of the first of them that are written.
    written: u64,
}

impl<W: Write> TensorWriter<'_, W> {
    /// Writes the next bytes of a tensor, some or all of those that are left.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], and [`ErrorKind::Unwritable`] if another tensor is due, or these are more
    /// bytes than it has.
    ///
    /// [`ErrorKind::Io`]: crate::ErrorKind::Io
    /// [`ErrorKind::Unwritable`]: crate::ErrorKind::Unwritable
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let refuse = |reason: String| Err(Error::unwritable(format!("tensor {name:?}"), reason));
        let Some((due, after)) = self.left.split_first() else {
            return refuse("all tensors are written".into());
        };
        if due.name != name {
            return refuse(format!("tensor {:?} is due", due.name));
        }
        let written = self.written + bytes.len() as u64;
        if written > due.bytes {
            return refuse(format!("it has {} bytes, and these would make {written}", due.bytes));
        }
        self.to.write_all(bytes)?;
        self.written = written;
        if written == due.bytes {
            let padding = written.next_multiple_of(ALIGNMENT) - written;
            self.to.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
            (self.left, self.written) = (after, 0);
        }
        Ok(())
    }

    /// Flushes what was written, and gives it back.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], and [`ErrorKind::Unwritable`] if a tensor isn't whole.
    ///
    /// [`ErrorKind::Io`]: crate::ErrorKind::Io
    /// [`ErrorKind::Unwritable`]: crate::ErrorKind::Unwritable
    pub fn finish(mut self) -> Result<W> {
        if let Some(Info { name, bytes, .. }) = self.left.first() {
            let reason = format!("only {} of its {bytes} bytes were given", self.written);
            return Err(Error::unwritable(format!("tensor {name:?}"), reason));
        }
        self.to.flush()?;
        Ok(self.to)
    }
}

#[cfg(test)]
mod tests;
