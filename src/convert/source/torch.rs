//! PyTorch's checkpoints: zip archives of a pickle, which describes the tensors, and of their
//! bytes.
//!
//! ```text
//! NAME/data.pkl   a dictionary of tensors, each a view of a storage
//! NAME/data/KEY   the bytes of a storage
//! NAME/byteorder  "little" or "big"; older files have none and are little-endian
//! ```
//!
//! Source: `torch/serialization.py` and `torch/_utils.py` in the PyTorch repository.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::file::DataFile;
use super::pickle::{self, Pickled, PickledTensor};
use super::stored::{FloatType, StoredType, TensorView, span};
use super::zip;
use crate::error::{Error, ErrorKind, Result};

const FORMAT: &str = "PyTorch";
/// The longest pickle that is read: the largest Llama's has 200 KB.
const MAX_PICKLE: u64 = 1 << 24;

/// Whether a file begins as a zip archive does.
pub(super) fn has_magic(start: &[u8]) -> bool {
    start.starts_with(b"PK\x03\x04")
}

/// What a file holds.
#[derive(Debug)]
pub(super) struct Contents {
    /// In the file's order.
    pub(super) tensors: Vec<TensorView>,
    /// llama2.c's hyperparameters.
    pub(super) arguments: Option<Map<String, Value>>,
    /// Names of what isn't looked at.
    passed_over: Vec<String>,
}

impl Contents {
    /// A note about a file's entries that aren't weights and are ignored.
    pub(super) fn note(&self, path: &Path) -> Option<String> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let beside = || {
            format!("{name} has more than weights, which was passed over: {}", self.passed_over.join(", "))
        };
        (!self.passed_over.is_empty()).then(beside)
    }
}

/// What a file holds.
pub(super) fn read(path: &Path) -> Result<Contents> {
    let file = Arc::new(DataFile::open(path)?);
    contents(&file).map_err(|e| file.explain(e))
}

fn contents(file: &Arc<DataFile>) -> Result<Contents> {
    let mut start = [0; 4];
    file.read_at("the file's magic number", 0, &mut start)?;
    if start.starts_with(b"\x80\x02\x8a\x0a") {
        let reason = "it was saved by PyTorch before 1.6: load it there, and save it again";
        return Err(Error::malformed(FORMAT, reason));
    }
    let entries = zip::entries(file)?;
    let mut pickles = entries.keys().filter(|name| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let (Some(name), None) = (pickles.next(), pickles.next()) else {
        return Err(Error::malformed(FORMAT, "it doesn't have one data.pkl"));
    };
    let archive = Archive { file, folder: name.trim_end_matches("data.pkl"), entries: &entries };
    if archive.bytes("byteorder").transpose()?.is_some_and(|order| order != b"little") {
        return Err(ErrorKind::BigEndian { format: FORMAT }.into());
    }
    let pickle = archive.bytes("data.pkl").transpose()?.unwrap_or_default();
    let Pickled { tensors, arguments, passed_over } = pickle::read(&pickle)?;
    let tensors: Result<_> = tensors.into_iter().map(|(name, tensor)| archive.tensor(name, tensor)).collect();
    Ok(Contents { tensors: tensors?, arguments, passed_over })
}

/// The entries of an archive.
#[derive(Debug)]
struct Archive<'a> {
    file: &'a Arc<DataFile>,
    /// What all names begin with.
    folder: &'a str,
    entries: &'a HashMap<String, Range<u64>>,
}

impl Archive<'_> {
    fn range(&self, name: &str) -> Option<Range<u64>> {
        self.entries.get(&format!("{}{name}", self.folder)).cloned()
    }

    /// A small entry's bytes.
    fn bytes(&self, name: &str) -> Option<Result<Vec<u8>>> {
        let range = self.range(name)?;
        Some(self.file.bytes("the pickle", range.start, range.end - range.start, MAX_PICKLE))
    }

    fn tensor(&self, name: String, tensor: PickledTensor) -> Result<TensorView> {
        let layout = |reason: String| Error::tensor_layout(&name, reason);
        let PickledTensor { key, storage, numel, offset, shape, strides } = tensor;
        // It is only looked up, but PyTorch writes no other keys.
        if key.is_empty() || !key.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') {
            return Err(layout(format!("its storage has the impossible key {key:?}")));
        }
        let range = self.range(&format!("data/{key}"));
        let range = range.ok_or_else(|| layout(format!("its storage data/{key} is missing")))?;
        let (dtype, size) = match &*storage {
            "DoubleStorage" => (StoredType::Float(FloatType::F64), 8),
            "FloatStorage" => (StoredType::Float(FloatType::F32), 4),
            "HalfStorage" => (StoredType::Float(FloatType::F16), 2),
            "BFloat16Storage" => (StoredType::Float(FloatType::Bf16), 2),
            // What isn't a model's weights isn't looked at.
            _ => (StoredType::Other(storage), 0),
        };
        let len = range.end - range.start;
        if size > 0 && numel.checked_mul(size) != Some(len) {
            return Err(layout(format!("its storage has {len} bytes for {numel} numbers of {size}")));
        }
        let end = span(&shape, &strides).and_then(|span| span.checked_add(offset));
        if size > 0 && end.is_none_or(|end| end > numel) {
            let reason = format!(
                "shape {shape:?}, strides {strides:?} and offset {offset} reach beyond a storage of {numel}"
            );
            return Err(layout(reason));
        }
        if size == 0 {
            // A storage of unknown numbers: where they lie doesn't matter, since they aren't read.
            return TensorView::strided(name, self.file, range.start, shape, strides, dtype);
        }
        // It is inside the storage, which is inside the file.
        let start = range.start + offset * size;
        TensorView::strided(name, self.file, start, shape, strides, dtype)
    }
}
