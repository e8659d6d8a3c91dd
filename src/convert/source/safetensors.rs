//! Safetensors files: the length of a header, the header in JSON, and the weights.
//!
//! ```text
//! u64   the header's length
//! JSON  {"NAME": {"dtype": "BF16", "shape": [ROWS, COLUMNS], "data_offsets": [START, END]}, ...,
//!       "__metadata__": {...}}
//! data  offsets count from here; tensors fill it without gaps
//! ```
//!
//! Source: the README of the safetensors repository.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::file::DataFile;
use super::json::{self, Object};
use super::stored::{FloatType, StoredType, TensorView};
use crate::error::{Error, ErrorKind, Result};

const FORMAT: &str = "safetensors";
/// The longest header that is read, less than the 100 MB that the format allows: the largest
/// Llama's has 200 KB.
const MAX_HEADER: u64 = 1 << 24;

/// A safetensors file begins with a length of less than 2^32 and a brace.
pub(super) fn has_magic(start: &[u8]) -> bool {
    matches!(start, [_, _, _, _, 0, 0, 0, 0, b'{', ..])
}

/// The tensors of a file, in the order of its names.
pub(super) fn tensors(path: &Path) -> Result<Vec<TensorView>> {
    let file = Arc::new(DataFile::open(path)?);
    read(&file).map_err(|e| file.explain(e))
}

fn read(file: &Arc<DataFile>) -> Result<Vec<TensorView>> {
    let mut len = [0; 8];
    file.read_at("the header's length", 0, &mut len)?;
    let len = u64::from_le_bytes(len);
    if len > MAX_HEADER {
        return Err(Error::malformed(
            FORMAT,
            format!("the header has {len} bytes, more than the {MAX_HEADER} that it may have"),
        ));
    }
    let header = json::parse(&file.bytes("the header", 8, len, MAX_HEADER)?)?;
    let start = 8 + len;
    let mut places = Vec::new();
    for (name, value) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let Some(entry) = value.as_object() else {
            return Err(Error::malformed(
                FORMAT,
                format!("what the header says of {name:?} is not an object"),
            ));
        };
        places.push((name.clone(), Entry::read(name, &Object::of(entry))?));
    }
    check_places(&places, file.len() - start)?;
    let tensor = |(name, entry): (String, Entry)| {
        TensorView::contiguous(name, file, start + entry.start, entry.shape, entry.dtype)
    };
    places.into_iter().map(tensor).collect()
}

/// What the header says of a tensor.
#[derive(Debug)]
struct Entry {
    shape: Vec<usize>,
    dtype: StoredType,
    /// From the first tensor's start.
    start: u64,
    end: u64,
}

impl Entry {
    fn read(name: &str, entry: &Object<'_>) -> Result<Self> {
        let dtype: &str = entry.required("dtype")?;
        let whole = |values: &Vec<Value>| -> Option<Vec<u64>> { values.iter().map(Value::as_u64).collect() };
        let numbers = |key| {
            let values: &Vec<Value> = entry.required(key)?;
            whole(values)
                .ok_or_else(|| Error::malformed(FORMAT, format!("{key} of {name:?} are not integers")))
        };
        let [start, end] = *numbers("data_offsets")? else {
            return Err(Error::malformed(FORMAT, format!("data_offsets of {name:?} are not two")));
        };
        let shape = numbers("shape")?;
        let bits = shape
            .iter()
            .try_fold(bits(dtype).unwrap_or(0), |size, &n| size.checked_mul(n))
            .filter(|bits| bits.is_multiple_of(8));
        let len = end.checked_sub(start);
        if len.is_none() || (len != bits.map(|bits| bits / 8) && self::bits(dtype).is_some()) {
            let reason = format!("{name:?} is {shape:?} of {dtype} in bytes {start} to {end}");
            return Err(Error::malformed(FORMAT, reason));
        }
        let dtype = match dtype {
            "F64" => StoredType::Float(FloatType::F64),
            "F32" => StoredType::Float(FloatType::F32),
            "F16" => StoredType::Float(FloatType::F16),
            "BF16" => StoredType::Float(FloatType::Bf16),
            _ => StoredType::Other(dtype.into()),
        };
        // A usize may be smaller; then the tensor can't be read here.
        let shape = shape.into_iter().map(|n| usize::try_from(n).unwrap_or(usize::MAX)).collect();
        Ok(Self { shape, dtype, start, end })
    }
}

/// Bits of a number of some type, if it is known.
fn bits(dtype: &str) -> Option<u64> {
    let digits = dtype.trim_start_matches(|c: char| !c.is_ascii_digit());
    match dtype {
        "BOOL" => Some(8),
        // F8_E4M3 and others say more after the bits.
        _ => digits.split('_').next().and_then(|digits| digits.parse().ok()).filter(|&bits| bits <= 128),
    }
}

/// Checks that tensors fill the rest of the file, which has `len` bytes, and don't overlap.
fn check_places(tensors: &[(String, Entry)], len: u64) -> Result<()> {
    let mut places: Vec<_> = tensors.iter().map(|(name, entry)| (entry.start, entry.end, name)).collect();
    places.sort_unstable();
    let mut at = 0;
    for (start, end, name) in places {
        if start != at {
            return Err(Error::malformed(
                FORMAT,
                format!("{name:?} starts at byte {start} of the data instead of {at}"),
            ));
        }
        at = end;
    }
    if at == len { Ok(()) } else { Err(ErrorKind::FileSize { expected: at, found: len }.into()) }
}
