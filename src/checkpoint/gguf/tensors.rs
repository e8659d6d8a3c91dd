//! The tensors of a GGUF file: where their bytes lie, checked, and how they are stored.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::cursor::Cursor;
use super::purpose::unknown_type;
use super::{MAX_NAME_BYTES, malformed};
use crate::error::{Error, ErrorKind, Result};
use crate::quant::Dtype;
use crate::storage::Storage;
use crate::tensor::Tensor;

/// The most dimensions that a tensor has.
const MAX_DIMS: usize = 4;

/// How a tensor's weights are stored: rows of blocks.
#[derive(Debug)]
struct TensorType {
    /// Its number in the file.
    id: u32,
    name: &'static str,
    /// Weights in a block.
    weights: u64,
    /// Bytes of a block.
    bytes: u64,
    /// `None` if it can't be computed with: such a tensor may be there, but not be used.
    dtype: Option<Dtype>,
}

const fn of(id: u32, name: &'static str, weights: u64, bytes: u64, dtype: Option<Dtype>) -> TensorType {
    TensorType { id, name, weights, bytes, dtype }
}

/// All types that files may have. 4, 5, 31 to 33 and 36 to 38 were taken back.
const TYPES: &[TensorType] = &[
    of(0, "F32", 1, 4, Some(Dtype::F32)),
    of(1, "F16", 1, 2, Some(Dtype::F16)),
    of(2, "Q4_0", 32, 18, Some(Dtype::Q4_0)),
    of(3, "Q4_1", 32, 20, Some(Dtype::Q4_1)),
    of(6, "Q5_0", 32, 22, Some(Dtype::Q5_0)),
    of(7, "Q5_1", 32, 24, Some(Dtype::Q5_1)),
    of(8, "Q8_0", 32, 34, Some(Dtype::Q8_0)),
    of(9, "Q8_1", 32, 36, None),
    of(10, "Q2_K", 256, 84, Some(Dtype::Q2K)),
    of(11, "Q3_K", 256, 110, Some(Dtype::Q3K)),
    of(12, "Q4_K", 256, 144, Some(Dtype::Q4K)),
    of(13, "Q5_K", 256, 176, Some(Dtype::Q5K)),
    of(14, "Q6_K", 256, 210, Some(Dtype::Q6K)),
    of(15, "Q8_K", 256, 292, None),
    of(16, "IQ2_XXS", 256, 66, None),
    of(17, "IQ2_XS", 256, 74, None),
    of(18, "IQ3_XXS", 256, 98, None),
    of(19, "IQ1_S", 256, 50, None),
    of(20, "IQ4_NL", 32, 18, Some(Dtype::Iq4Nl)),
    of(21, "IQ3_S", 256, 110, None),
    of(22, "IQ2_S", 256, 82, None),
    of(23, "IQ4_XS", 256, 136, Some(Dtype::Iq4Xs)),
    of(24, "I8", 1, 1, None),
    of(25, "I16", 1, 2, None),
    of(26, "I32", 1, 4, None),
    of(27, "I64", 1, 8, None),
    of(28, "F64", 1, 8, None),
    of(29, "IQ1_M", 256, 56, None),
    of(30, "BF16", 1, 2, Some(Dtype::Bf16)),
    of(34, "TQ1_0", 256, 54, None),
    of(35, "TQ2_0", 256, 66, None),
    of(39, "MXFP4", 32, 17, None),
    of(40, "NVFP4", 64, 36, None),
    of(41, "Q1_0", 128, 18, None),
    of(42, "Q2_0", 64, 18, None),
];

/// The number of a type in a file, or `None` if files can't have it.
#[cfg(feature = "convert")]
pub(crate) fn type_number(dtype: Dtype) -> Option<u32> {
    TYPES.iter().find(|kind| kind.dtype == Some(dtype)).map(|kind| kind.id)
}

/// The name of a type, and how many weights a block of so many bytes has.
pub(super) fn type_of(id: u32) -> Option<(&'static str, u64, u64)> {
    TYPES.iter().find(|kind| kind.id == id).map(|kind| (kind.name, kind.weights, kind.bytes))
}

/// A tensor as the file announces it.
#[derive(Debug)]
pub(super) struct TensorInfo {
    name: String,
    /// Innermost first, as the file has them; 1 where there is none.
    dims: [u64; MAX_DIMS],
    kind: &'static TensorType,
    /// Where its bytes start behind the start of all tensors.
    offset: u64,
    len: u64,
}

impl TensorInfo {
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        let name = cursor.name("a tensor's name", MAX_NAME_BYTES)?;
        let n_dims = cursor.u32("a tensor's number of dimensions")? as usize;
        if n_dims > MAX_DIMS {
            return Err(layout(
                &name,
                format!("it has {n_dims} dimensions, at most {MAX_DIMS} are possible"),
            ));
        }
        let mut dims = [1; MAX_DIMS];
        for dim in &mut dims[..n_dims] {
            *dim = cursor.count("a tensor's dimension")?;
        }
        let id = cursor.u32("a tensor's type")?;
        let offset = cursor.u64("a tensor's offset")?;
        let Some(kind) = TYPES.iter().find(|kind| kind.id == id) else {
            return Err(ErrorKind::UnsupportedTensorType { name, dtype: unknown_type(id) }.into());
        };
        if dims.contains(&0) || dims[0] % kind.weights != 0 {
            let reason =
                format!("its rows of {} weights are no whole number of {} blocks", dims[0], kind.name);
            return Err(layout(&name, reason));
        }
        let blocks = dims[1..].iter().try_fold(dims[0] / kind.weights, |n, dim| n.checked_mul(*dim));
        let Some(len) = blocks.and_then(|blocks| blocks.checked_mul(kind.bytes)) else {
            return Err(layout(&name, format!("its size overflows: dimensions {dims:?}")));
        };
        Ok(Self { name, dims, kind, offset, len })
    }

    /// (rows, columns): outermost first, without dimensions of 1 in front.
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
        for neighbours in located.windows(2) {
            let [first, second] = neighbours else { continue };
            if second.bytes.start < first.bytes.end {
                let reason = format!("it overlaps tensor {}", first.info.name);
                return Err(layout(&second.info.name, reason));
            }
        }
        for tensor in located {
            let name = tensor.info.name.clone();
            if self.by_name.insert(name.clone(), tensor).is_some() {
                return Err(malformed(format!("tensor {name} appears twice")));
            }
        }
        self.files.push(Arc::clone(storage));
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The shape of a tensor: (rows, columns).
    pub(super) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.by_name.get(name).map(|tensor| tensor.info.shape())
    }

    /// A matrix that must be there.
    pub(super) fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Tensor> {
        self.take(name, &[rows, columns]).ok_or_else(|| missing(name))?
    }

    /// A matrix that may be absent.
    pub(super) fn optional_matrix(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
    ) -> Result<Option<Tensor>> {
        self.take(name, &[rows, columns]).transpose()
    }

    /// A vector that must be there, as f32.
    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.optional_vector(name, len)?.ok_or_else(|| missing(name))
    }

    /// A vector that may be absent, as f32.
    pub(super) fn optional_vector(&mut self, name: &str, len: usize) -> Result<Option<Vec<f32>>> {
        Ok(self.take(name, &[len]).transpose()?.map(|tensor| tensor.to_f32()))
    }

    /// That all were taken. A tensor that nobody asked for is a part of the network that this crate
    /// doesn't know, such as a bias.
    pub(super) fn finish(self) -> Result<()> {
        match self.by_name.into_values().min_by(|a, b| a.info.name.cmp(&b.info.name)) {
            None => Ok(()),
            Some(Located { info, file, .. }) => {
                let error = Error::from(ErrorKind::UnsupportedTensor { name: info.name });
                Err(error.at(self.files[file].path()))
            }
        }
    }

    fn take(&mut self, name: &str, shape: &[usize]) -> Option<Result<Tensor>> {
        let Located { info, file, bytes } = self.by_name.remove(name)?;
        let storage = &self.files[file];
        Some(tensor(storage, info, bytes, shape).map_err(|e| e.at(storage.path())))
    }
}

/// The bytes of a tensor in its file.
fn place(info: &TensorInfo, file_len: u64, start: u64, alignment: u64) -> Result<Range<usize>> {
    let TensorInfo { name, offset, len, .. } = info;
    if !offset.is_multiple_of(alignment) {
        return Err(layout(
            name,
            format!("its offset {offset} is no multiple of the alignment, {alignment}"),
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
            Err(layout(name, reason))
        }
    }
}

/// A tensor of an expected shape.
fn tensor(storage: &Arc<Storage>, info: TensorInfo, bytes: Range<usize>, shape: &[usize]) -> Result<Tensor> {
    let found = info.shape();
    // A vector of one element has no other shape than a matrix of one.
    let significant =
        shape.iter().position(|&dim| dim != 1).map_or(&shape[shape.len() - 1..], |at| &shape[at..]);
    if found != significant {
        return Err(ErrorKind::TensorShape { name: info.name, expected: shape.to_vec(), found }.into());
    }
    let (rows, columns) = match *shape {
        [rows, columns] => (rows, columns),
        _ => (1, shape.iter().product()),
    };
    let Some(dtype) = info.kind.dtype else {
        return Err(ErrorKind::UnsupportedTensorType { name: info.name, dtype: info.kind.name.into() }.into());
    };
    Tensor::new(storage, bytes, rows, columns, dtype)
        .ok_or_else(|| layout(&info.name, "its bytes are not aligned for its type".into()))
}

fn layout(name: &str, reason: String) -> Error {
    ErrorKind::TensorLayout { name: name.into(), reason }.into()
}

fn missing(name: &str) -> Error {
    ErrorKind::MissingTensor { name: name.into() }.into()
}
