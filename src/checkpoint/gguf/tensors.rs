//! The tensors of a GGUF file: where their bytes lie, checked, and how they are stored.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::cursor::Cursor;
use super::purpose::unknown_type;
use super::{FORMAT, MAX_NAME_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::quant::Dtype;
use crate::storage::Storage;
use crate::tensor::Tensor;

/// The most dimensions that a tensor has.
const MAX_DIMS: usize = 4;

/// How a tensor's weights are stored: rows of blocks.
#[derive(Clone, Copy, Debug)]
pub(super) enum TensorType {
    /// A format that can be computed with.
    Known(Dtype),
    /// Another one: such a tensor may be there, but not be used.
    Other(&'static OtherType),
}

/// A format that can't be computed with: its number in the file, its name, and the weights and
/// bytes of a block.
type OtherType = (u32, &'static str, u64, u64);

/// All formats that files may have, except those of [`Dtype`]. 4, 5, 31 to 33 and 36 to 38 were
/// taken back.
const OTHERS: &[OtherType] = &[
    (9, "Q8_1", 32, 36),
    (15, "Q8_K", 256, 292),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
    (42, "Q2_0", 64, 18),
];

impl TensorType {
    /// The one that has a number in files.
    pub(super) fn of(id: u32) -> Option<Self> {
        let other = || OTHERS.iter().find(|other| other.0 == id).map(Self::Other);
        Dtype::from_ggml_type(id).map(Self::Known).or_else(other)
    }

    /// ggml's name of it.
    pub(super) fn name(self) -> String {
        match self {
            Self::Known(dtype) => dtype.to_string().to_ascii_uppercase(),
            Self::Other((_, name, ..)) => (*name).into(),
        }
    }

    /// Weights and bytes of a block.
    pub(super) fn block(self) -> (u64, u64) {
        match self {
            Self::Known(dtype) => dtype.block().map_or((1, 1), |(n, bytes)| (n as u64, bytes as u64)),
            Self::Other(&(_, _, weights, bytes)) => (weights, bytes),
        }
    }
}

/// A tensor as the file announces it.
#[derive(Debug)]
pub(super) struct TensorInfo {
    name: String,
    /// Innermost first, as the file has them; 1 where there is none.
    dims: [u64; MAX_DIMS],
    kind: TensorType,
    /// Where its bytes start, counted from the start of all tensors.
    offset: u64,
    len: u64,
}

impl TensorInfo {
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        let name = cursor.name("a tensor's name", MAX_NAME_BYTES)?;
        let n_dims = cursor.bytes.u32("a tensor's number of dimensions")? as usize;
        if n_dims > MAX_DIMS {
            return Err(Error::tensor_layout(
                &name,
                format!("it has {n_dims} dimensions, at most {MAX_DIMS} are possible"),
            ));
        }
        let mut dims = [1; MAX_DIMS];
        for dim in &mut dims[..n_dims] {
            *dim = cursor.count("a tensor's dimension")?;
        }
        let id = cursor.bytes.u32("a tensor's type")?;
        let offset = cursor.bytes.u64("a tensor's offset")?;
        let Some(kind) = TensorType::of(id) else {
            return Err(Error::tensor_type(name, unknown_type(id)));
        };
        let (weights, bytes) = kind.block();
        if dims.contains(&0) {
            let reason = format!("it has a dimension of 0: {:?}", &dims[..n_dims]);
            return Err(Error::tensor_layout(name, reason));
        }
        if dims[0] % weights != 0 {
            let (columns, kind) = (dims[0], kind.name());
            let reason =
                format!("its rows of {columns} weights are not a multiple of {kind}'s block of {weights}");
            return Err(Error::tensor_layout(name, reason));
        }
        let blocks = dims[1..].iter().try_fold(dims[0] / weights, |n, dim| n.checked_mul(*dim));
        let Some(len) = blocks.and_then(|blocks| blocks.checked_mul(bytes)) else {
            return Err(Error::tensor_layout(name, format!("its size overflows: dimensions {dims:?}")));
        };
        Ok(Self { name, dims, kind, offset, len })
    }

    /// (rows, columns): outermost first, without leading dimensions of 1.
    fn shape(&self) -> Vec<usize> {
        let n_dims = self.dims.iter().rposition(|&dim| dim != 1).map_or(1, |last| last + 1);
        let dims = self.dims[..n_dims].iter().rev();
        dims.map(|&dim| usize::try_from(dim).unwrap_or(usize::MAX)).collect()
    }
}

/// The tensors of a model, of all its files, by their names. Those that are taken are gone.
#[derive(Debug, Default)]
pub(super) struct Tensors {
    files: Vec<Arc<Storage>>,
    by_name: HashMap<String, Located>,
    /// Those of which rows were taken, as tensors of their own.
    shared: HashSet<String>,
}

#[derive(Debug)]
struct Located {
    info: TensorInfo,
    /// The file that it is in, of `files`.
    file: usize,
    bytes: Range<usize>,
}

impl Tensors {
    /// Adds a file's tensors, whose bytes are counted from `start`. They must lie inside the file,
    /// at multiples of the alignment, and apart.
    pub(super) fn add(
        &mut self,
        storage: &Arc<Storage>,
        infos: Vec<TensorInfo>,
        start: u64,
        alignment: u64,
    ) -> Result<()> {
        let mut located = Vec::with_capacity(infos.len());
        for info in infos {
            let bytes = place(&info, storage.len(), start, alignment)?;
            located.push(Located { info, file: self.files.len(), bytes });
        }
        located.sort_by_key(|tensor| tensor.bytes.start);
        for neighbors in located.windows(2) {
            let [first, second] = neighbors else { continue };
            if second.bytes.start < first.bytes.end {
                let reason = format!("it overlaps tensor {}", first.info.name);
                return Err(Error::tensor_layout(&second.info.name, reason));
            }
        }
        for tensor in located {
            let name = tensor.info.name.clone();
            if self.by_name.insert(name.clone(), tensor).is_some() {
                return Err(Error::malformed(FORMAT, format!("tensor {name} appears twice")));
            }
        }
        self.files.push(Arc::clone(storage));
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The names of those that weren't taken.
    #[cfg(feature = "convert")]
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The shape of a tensor: (rows, columns).
    pub(super) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.by_name.get(name).map(|tensor| tensor.info.shape())
    }

    /// A vector that may be absent, as f32.
    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        Ok(self.take(name, &[len])?.map(|tensor| tensor.to_f32()))
    }

    /// Checks that all were taken. A tensor that wasn't is a part of the network that this crate
    /// doesn't know, such as a bias.
    pub(super) fn finish(mut self) -> Result<()> {
        self.by_name.retain(|name, _| !self.shared.contains(name));
        match self.by_name.into_values().min_by(|a, b| a.info.name.cmp(&b.info.name)) {
            None => Ok(()),
            Some(Located { info, file, .. }) => {
                let error = Error::from(ErrorKind::UnsupportedTensor { name: info.name });
                Err(error.at(self.files[file].path()))
            }
        }
    }

    /// Some rows of a tensor of an expected shape, or some numbers of a vector, if it is there:
    /// they are a tensor by themselves.
    pub(super) fn take_rows(
        &mut self,
        name: &str,
        shape: &[usize],
        rows: Range<usize>,
    ) -> Result<Option<Tensor>> {
        let Some(Located { info, file, bytes }) = self.by_name.get(name) else { return Ok(None) };
        let storage = &self.files[*file];
        let row_bytes = bytes.len() / shape[0];
        let part = bytes.start + rows.start * row_bytes..bytes.start + rows.end * row_bytes;
        let mut part_shape = shape.to_vec();
        part_shape[0] = rows.len();
        let taken = check_shape(info, shape).and_then(|()| tensor(storage, info, part, &part_shape));
        let taken = taken.map_err(|e| e.at(storage.path()))?;
        self.shared.insert(name.into());
        Ok(Some(taken))
    }

    /// A tensor of an expected shape, if it is there.
    pub(super) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Option<Tensor>> {
        let Some(Located { info, file, bytes }) = self.by_name.remove(name) else { return Ok(None) };
        let storage = &self.files[file];
        let taken = check_shape(&info, shape).and_then(|()| tensor(storage, &info, bytes, shape));
        taken.map(Some).map_err(|e| e.at(storage.path()))
    }
}

/// The bytes of a tensor in its file.
fn place(info: &TensorInfo, file_len: u64, start: u64, alignment: u64) -> Result<Range<usize>> {
    let TensorInfo { name, offset, len, .. } = info;
    if !offset.is_multiple_of(alignment) {
        return Err(Error::tensor_layout(
            name,
            format!("its offset {offset} is not a multiple of the alignment, {alignment}"),
        ));
    }
    let first = start.checked_add(*offset);
    let end = first.and_then(|first| first.checked_add(*len));
    match (first.map(usize::try_from), end.map(usize::try_from)) {
        (Some(Ok(first)), Some(Ok(end))) if end as u64 <= file_len => Ok(first..end),
        _ => {
            let reason = format!(
                "its {len} bytes at offset {offset} don't end within the file of {file_len}: was it downloaded whole?"
            );
            Err(Error::tensor_layout(name, reason))
        }
    }
}

/// Checks that a tensor has an expected shape.
fn check_shape(info: &TensorInfo, shape: &[usize]) -> Result<()> {
    let found = info.shape();
    // A vector of one element has no other shape than a matrix of one.
    let significant =
        shape.iter().position(|&dim| dim != 1).map_or(&shape[shape.len() - 1..], |at| &shape[at..]);
    if found == significant { Ok(()) } else { Err(Error::tensor_shape(&info.name, shape, &found)) }
}

/// A tensor of a shape, whose weights are these bytes.
fn tensor(storage: &Arc<Storage>, info: &TensorInfo, bytes: Range<usize>, shape: &[usize]) -> Result<Tensor> {
    let (rows, columns) = match *shape {
        [rows, columns] => (rows, columns),
        _ => (1, shape.iter().product()),
    };
    let TensorType::Known(dtype) = info.kind else {
        return Err(Error::tensor_type(&info.name, info.kind.name()));
    };
    Tensor::new(storage, bytes, rows, columns, dtype)
        .ok_or_else(|| Error::tensor_layout(&info.name, "its bytes are not aligned for its type"))
}
