//! All that is in a GGUF file, for people, whether or not it can be run.
//!
//! Only what must be known to find the next thing has to be right: a type of weights may be
//! unknown, and a tensor lie outside the file.

use std::path::Path;

use super::cursor::Cursor;
use super::tensors::TensorType;
use super::{FORMAT, Header, MAX_NAME_BYTES, has_magic, keys, purpose};
use crate::error::{Error, Result};
use crate::storage::Storage;

/// The most dimensions of a tensor, with some to spare for what isn't known yet.
const MAX_DIMS: u32 = 16;

/// The keys and tensors of a GGUF file, of any architecture and with any weights.
///
/// Of a model that is split into several files it is one of them.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GgufFile {
    /// The format's name and version, such as `GGUF v3`.
    pub format: &'static str,
    /// What kind of model it says it holds: `general.architecture`.
    pub architecture: Option<String>,
    /// Each key, and its value for people to read. Long strings are cut short and arrays only
    /// counted.
    pub metadata: Vec<(String, String)>,
    /// Its tensors, in the file's order.
    pub tensors: Vec<GgufTensor>,
    /// The file's size in bytes.
    pub file_bytes: u64,
}

/// A tensor of a GGUF file, as the file announces it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GgufTensor {
    /// Its name.
    pub name: String,
    /// Its shape, outermost first: (rows, columns) of a matrix.
    pub shape: Vec<u64>,
    /// The type of its weights, such as `Q4_K`; `number 99` if there is no such type.
    pub dtype: String,
    /// Its size in bytes, if its type is known and its rows are whole blocks.
    pub bytes: Option<u64>,
}

impl GgufFile {
    /// Reads what a file announces. It need not be a model, nor one that can be run, and its
    /// tensors aren't looked at.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io);
    /// [`ErrorKind::UnknownFormat`](crate::ErrorKind::UnknownFormat) if it isn't GGUF; and
    /// those of malformed keys and tensors.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let storage = Storage::open(path.as_ref())?;
        let contents =
            if has_magic(&storage) { read(&storage) } else { Err(Error::unknown_format("it is not GGUF")) };
        contents.map_err(|e| e.at(storage.path()))
    }
}

fn read(storage: &Storage) -> Result<GgufFile> {
    let (header, mut cursor) = Header::read(storage)?;
    let n_tensors = header.n_tensors;
    let tensors = (0..n_tensors).map(|_| tensor(&mut cursor)).collect::<Result<_>>()?;
    let architecture = header.metadata.text(keys::ARCHITECTURE).ok().flatten();
    Ok(GgufFile {
        format: header.format,
        architecture: architecture.map(str::to_owned),
        metadata: header.metadata.describe(),
        tensors,
        file_bytes: storage.len(),
    })
}

fn tensor(cursor: &mut Cursor<'_>) -> Result<GgufTensor> {
    let name = cursor.name("a tensor's name", MAX_NAME_BYTES)?;
    let n_dims = cursor.bytes.u32("a tensor's number of dimensions")?;
    if n_dims > MAX_DIMS {
        let reason = format!("tensor {name} has {n_dims} dimensions, at most {MAX_DIMS} are possible");
        return Err(Error::malformed(FORMAT, reason));
    }
    let shape: Result<Vec<u64>> = (0..n_dims).map(|_| cursor.count("a tensor's dimension")).collect();
    let mut shape = shape?;
    let id = cursor.bytes.u32("a tensor's type")?;
    cursor.bytes.u64("a tensor's offset")?;
    let known = TensorType::of(id);
    let weights = shape.iter().try_fold(1_u64, |n, dim| n.checked_mul(*dim));
    let bytes = known.zip(weights).and_then(|(kind, n)| {
        let (per_block, block_bytes) = kind.block();
        (n / per_block).checked_mul(block_bytes).filter(|_| n.is_multiple_of(per_block))
    });
    let dtype = known.map(TensorType::name).or_else(|| purpose::taken_back(id).map(str::to_owned));
    shape.reverse(); // the file has the innermost first
    let dtype = dtype.unwrap_or_else(|| format!("number {id}"));
    Ok(GgufTensor { name, shape, dtype, bytes })
}
