//! Tensors of floating-point weights as they lie in files, and a Llama's tensors made of them.
//!
//! A model may be in many files, and a tensor in one piece or, of Meta's models, in one for each of
//! the machines that the model was made for: shards, to be joined by rows or by columns. Hugging
//! Face's have the rows of wq and wk in another order, too. A [`ShardedTensor`] hides all that:
//! it gives rows as Meta's whole tensor has them.
//!
//! Invariant: a [`TensorView`] lies inside its file, so reading it fails only if the file fails.

mod views;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use half::slice::HalfFloatSliceExt;

use super::SourceTensor;
use super::file::DataFile;
use crate::arch::TensorId;
use crate::error::{Error, ErrorKind, Result};
use crate::quant::Dtype;
use crate::weights::TensorInfo;

/// Floating-point numbers that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FloatType {
    /// They are rounded to f32 when they are read.
    F64,
    F32,
    F16,
    Bf16,
}

impl FloatType {
    fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The format that readers get.
    fn dtype(self) -> Dtype {
        match self {
            Self::F64 | Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::Bf16 => Dtype::Bf16,
        }
    }
}

/// How weights are stored: as floating-point numbers that can be read, or as something else, by its
/// name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StoredType {
    Float(FloatType),
    Other(String),
}

impl StoredType {
    fn bytes(&self) -> Option<usize> {
        match self {
            Self::Float(float_type) => Some(float_type.bytes()),
            Self::Other(_) => None,
        }
    }
}

/// A tensor in a file.
#[derive(Clone, Debug)]
pub(super) struct TensorView {
    name: String,
    file: Arc<DataFile>,
    /// Its first weight's place, in bytes.
    start: u64,
    /// Outermost first.
    shape: Vec<usize>,
    /// How many weights further the next one of each dimension is.
    strides: Vec<usize>,
    dtype: StoredType,
}

impl TensorView {
    /// A tensor whose weights lie one after another.
    pub(super) fn contiguous(
        name: String,
        file: &Arc<DataFile>,
        start: u64,
        shape: Vec<usize>,
        dtype: StoredType,
    ) -> Result<Self> {
        let mut strides = vec![1_usize; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i].saturating_mul(shape[i]);
        }
        Self::strided(name, file, start, shape, strides, dtype)
    }

    /// A tensor whose weights are apart.
    ///
    /// # Errors
    /// [`ErrorKind::TensorLayout`] if it doesn't lie inside the file.
    pub(super) fn strided(
        name: String,
        file: &Arc<DataFile>,
        start: u64,
        shape: Vec<usize>,
        strides: Vec<usize>,
        dtype: StoredType,
    ) -> Result<Self> {
        let tensor = Self { name, file: Arc::clone(file), start, shape, strides, dtype };
        let end = tensor.dtype.bytes().and_then(|bytes| {
            let span = span(&tensor.shape, &tensor.strides)?;
            span.checked_mul(bytes as u64)?.checked_add(start)
        });
        let fits = match &tensor.dtype {
            StoredType::Float(_) => end.is_some_and(|end| end <= file.len()),
            // It isn't read.
            StoredType::Other(_) => true,
        };
        if fits { Ok(tensor) } else { Err(tensor.layout("it lies beyond the end of the file")) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn layout(&self, reason: &str) -> Error {
        Error::tensor_layout(&self.name, reason).at(Some(self.file.path()))
    }

    fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    fn row_stride(&self) -> usize {
        if let [stride, _] = *self.strides { stride } else { 0 }
    }

    /// Checks that it is a vector or a matrix of numbers, of a layout in which rows can be read;
    /// and how they are stored.
    fn check(&self) -> Result<FloatType> {
        if self.shape.contains(&0) {
            let reason = format!(
                "it is empty, of shape {:?}: DeepSpeed's ZeRO-3 leaves weights so that it has shared out among machines; \
                 put them together with its zero_to_fp32.py first",
                self.shape
            );
            return Err(self.layout(&reason));
        }
        let StoredType::Float(float_type) = self.dtype else {
            let StoredType::Other(dtype) = &self.dtype else { unreachable!("there are no more") };
            return Err(Error::tensor_type(&self.name, dtype).at(Some(self.file.path())));
        };
        if !matches!(self.shape.len(), 1 | 2) {
            return Err(self.shape_error(&[]));
        }
        self.check_repeats()?;
        Ok(float_type)
    }

    /// What its numbers are called, if they are none that can be weights.
    pub(super) fn other_type(&self) -> Option<&str> {
        if let StoredType::Other(dtype) = &self.dtype { Some(dtype) } else { None }
    }

    /// Whether it holds doubles.
    pub(super) fn is_f64(&self) -> bool {
        self.dtype == StoredType::Float(FloatType::F64)
    }

    /// Outermost first.
    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Whether it is the same view of the same bytes.
    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
            && (self.start, &self.shape, &self.strides) == (other.start, &other.shape, &other.strides)
            && self.dtype == other.dtype
    }

    /// Its first `most` numbers or fewer, in the order of its elements; or `None` if they can't be
    /// read one after another.
    pub(super) fn first_numbers(&self, most: usize) -> Result<Option<Vec<f32>>> {
        let StoredType::Float(float_type) = self.dtype else { return Ok(None) };
        let mut len = 1_usize;
        for (&n, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if n != 1 && stride != len {
                return Ok(None);
            }
            len = len.saturating_mul(n);
        }
        let mut numbers = vec![0.0; len.min(most)];
        let mut bytes = vec![0; numbers.len() * float_type.bytes()];
        self.file.read_at("a tensor", self.start, &mut bytes)?;
        decode(float_type, &bytes, &mut numbers);
        Ok(Some(numbers))
    }

    fn shape_error(&self, expected: &[usize]) -> Error {
        Error::tensor_shape(&self.name, expected, &self.shape).at(Some(self.file.path()))
    }

    /// Decodes some rows: (rows, columns). A vector is one row.
    fn read(&self, float_type: FloatType, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let columns = self.columns();
        let size = float_type.bytes();
        let stride = self.row_stride();
        if !self.has_rows() {
            return self.read_view(float_type, rows, out);
        }
        // Rows that follow each other are read at once.
        let at_once = if stride == columns || rows.len() == 1 { rows.len() } else { 1 };
        let mut bytes = vec![0; at_once * columns * size];
        for (row, out) in rows.step_by(at_once.max(1)).zip(out.chunks_mut(at_once.max(1) * columns)) {
            let start = self.start + (row * stride * size) as u64;
            self.file.read_at("a tensor", start, &mut bytes)?;
            decode(float_type, &bytes, out);
        }
        Ok(())
    }
}

/// Weights from the first to the last, both included: all that is read.
pub(super) fn span(shape: &[usize], strides: &[usize]) -> Option<u64> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape
        .iter()
        .zip(strides)
        .try_fold(1_u64, |end, (&n, &stride)| end.checked_add((n as u64 - 1).checked_mul(stride as u64)?))
}

/// Decodes little-endian numbers.
fn decode(float_type: FloatType, bytes: &[u8], out: &mut [f32]) {
    /// Half-precision numbers that are decoded at once.
    const CHUNK: usize = 256;
    match float_type {
        FloatType::F64 => {
            let doubles = bytes.as_chunks::<8>().0;
            return doubles.iter().zip(out).for_each(|(bytes, out)| *out = f64::from_le_bytes(*bytes) as f32);
        }
        FloatType::F32 => {
            let floats = bytes.as_chunks::<4>().0;
            return floats.iter().zip(out).for_each(|(bytes, out)| *out = f32::from_le_bytes(*bytes));
        }
        FloatType::F16 | FloatType::Bf16 => {}
    }
    for (bytes, out) in bytes.as_chunks::<2>().0.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
        if float_type == FloatType::F16 {
            let mut halves = [half::f16::ZERO; CHUNK];
            halves.iter_mut().zip(bytes).for_each(|(half, bytes)| *half = half::f16::from_le_bytes(*bytes));
            halves[..bytes.len()].convert_to_f32_slice(out);
        } else {
            let upper = |bytes: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            bytes.iter().zip(out).for_each(|(bytes, out)| *out = upper(bytes));
        }
    }
}

/// How shards make a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Join {
    /// All are the same: the first is taken.
    Same,
    /// Below each other.
    Rows,
    /// Beside each other.
    Columns,
}

/// A tensor of a Llama, of one view or of several shards.
#[derive(Debug)]
pub(super) struct ShardedTensor {
    info: TensorInfo,
    float_type: FloatType,
    parts: Vec<TensorView>,
    join: Join,
    /// The width of a head, if its rows are in NEOX order (rotate-half), as Hugging Face has them:
    /// those that RoPE rotates together are half a head apart. They are given as adjacent ones.
    neox_head_dim: Option<usize>,
}

impl ShardedTensor {
    /// Joins shards to a tensor of a name, in Meta's terms, and a shape.
    ///
    /// # Errors
    /// [`ErrorKind::TensorShape`], [`ErrorKind::TensorLayout`] or
    /// [`ErrorKind::UnsupportedTensorType`].
    fn new(name: String, shape: &[usize], mut parts: Vec<TensorView>, join: Join) -> Result<Self> {
        if join == Join::Same {
            parts.truncate(1);
        }
        let join = if parts.len() == 1 { Join::Same } else { join };
        let first = &parts[0];
        let float_type = first.check()?;
        for part in &parts[1..] {
            if part.check()? != float_type {
                return Err(part.layout("its shards are stored in different ways"));
            }
            if part.shape != first.shape {
                return Err(part.shape_error(&first.shape));
            }
        }
        let mut joined = first.shape.clone();
        let n = parts.len();
        match (join, &mut *joined) {
            (Join::Same, _) => {}
            (Join::Rows, [rows, _]) => *rows = rows.saturating_mul(n),
            (Join::Columns, [_, columns]) => *columns = columns.saturating_mul(n),
            _ => return Err(first.shape_error(shape)),
        }
        if joined != shape {
            return Err(Error::tensor_shape(&first.name, shape, &joined).at(Some(first.file.path())));
        }
        // It lies in the files, so it can't overflow.
        let bytes = shape.iter().product::<usize>() * float_type.bytes();
        let info = TensorInfo { name, shape: shape.into(), dtype: float_type.dtype(), bytes };
        Ok(Self { info, float_type, parts, join, neox_head_dim: None })
    }

    /// The same numbers, of rows that are in NEOX order.
    pub(super) fn in_neox_order(mut self, head_dim: usize) -> Self {
        self.neox_head_dim = Some(head_dim);
        self
    }

    pub(super) fn as_source(&self, id: TensorId) -> SourceTensor<'_> {
        let read = Box::new(|rows, out: &mut [f32]| self.read(rows, out));
        SourceTensor { id, info: self.info.clone(), bytes: None, read }
    }

    /// The name that its first part has in the files.
    pub(super) fn stored_name(&self) -> &str {
        &self.parts[0].name
    }

    /// All numbers, of a tensor that is small.
    pub(super) fn read_all(&self) -> Result<Vec<f32>> {
        let rows = if let [rows, _] = *self.info.shape { rows } else { 1 };
        let mut numbers = vec![0.0; self.info.shape.iter().product()];
        self.read(0..rows, &mut numbers).map(|()| numbers)
    }

    /// Whether two matrices of one shape hold the same numbers.
    pub(super) fn is_equal(&self, other: &Self) -> Result<bool> {
        /// Weights that are compared at once, except of rows that are longer.
        const CHUNK: usize = 1 << 18;
        let ([a], [b]) = (&*self.parts, &*other.parts) else { return Ok(false) };
        if a.is_same(b) {
            return Ok(true);
        }
        let (rows, columns) = (a.shape[0], a.columns());
        let step = (CHUNK / columns).clamp(1, rows);
        let (mut one, mut two) = (vec![0.0; step * columns], vec![0.0; step * columns]);
        for first in (0..rows).step_by(step) {
            let chunk = first..rows.min(first + step);
            let n = chunk.len() * columns;
            self.read(chunk.clone(), &mut one[..n])?;
            other.read(chunk, &mut two[..n])?;
            if one[..n] != two[..n] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Decodes some rows: (rows, columns). A vector is one row.
    pub(super) fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let Some(head_dim) = self.neox_head_dim else { return self.read_in_order(rows, out) };
        if !self.parts[0].has_rows() && self.info.shape.len() == 2 {
            return self.read_heads(head_dim, rows, out);
        }
        let columns = self.parts[0].columns();
        // Where it is in the file.
        let place = |i: usize| i - i % head_dim + i % head_dim / 2 + i % 2 * (head_dim / 2);
        if self.info.shape.len() == 1 {
            let mut stored = vec![0.0; columns];
            self.read_in_order(rows, &mut stored)?;
            out.iter_mut().enumerate().for_each(|(i, out)| *out = stored[place(i)]);
            return Ok(());
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(columns)) {
            self.read_in_order(place(row)..place(row) + 1, out)?;
        }
        Ok(())
    }

    fn read_in_order(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let columns = self.parts[0].columns();
        match self.join {
            Join::Columns => self.read_beside(rows, out),
            Join::Same => self.parts[0].read(self.float_type, rows, out),
            Join::Rows => {
                let (height, mut row, mut out) = (self.parts[0].shape[0], rows.start, out);
                while row < rows.end {
                    let (part, within) = (row / height, row % height);
                    let n = (height - within).min(rows.end - row);
                    let (these, rest) = out.split_at_mut(n * columns);
                    self.parts[part].read(self.float_type, within..within + n, these)?;
                    (row, out) = (row + n, rest);
                }
                Ok(())
            }
        }
    }

    fn read_beside(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let width = self.parts[0].columns();
        let mut block = vec![0.0; rows.len() * width];
        for (p, part) in self.parts.iter().enumerate() {
            part.read(self.float_type, rows.clone(), &mut block)?;
            let out = out.chunks_exact_mut(width * self.parts.len());
            for (out, block) in out.zip(block.chunks_exact(width)) {
                out[p * width..][..width].copy_from_slice(block);
            }
        }
        Ok(())
    }
}

/// The tensors of a model's files, by the names that they have there. Each is taken once, so those
/// that no Llama has are left.
#[derive(Debug, Default)]
pub(super) struct StoredTensors {
    by_name: BTreeMap<String, Vec<TensorView>>,
}

impl StoredTensors {
    /// Adds a shard of a tensor, or a tensor, under the name by which it is looked for.
    pub(super) fn add_as(&mut self, name: String, tensor: TensorView) {
        self.by_name.entry(name).or_default().push(tensor);
    }

    /// All tensors, and the names by which they are looked for.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &TensorView)> {
        self.by_name.iter().flat_map(|(name, parts)| parts.iter().map(|part| (&**name, part)))
    }

    /// The first shard's shape.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.by_name.get(name).map(|parts| &*parts[0].shape)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Gives a tensor another name.
    pub(super) fn rename(&mut self, from: &str, to: &str) {
        if let Some(parts) = self.by_name.remove(from) {
            self.by_name.insert(to.into(), parts);
        }
    }

    /// Takes out what no model needs.
    pub(super) fn extract(&mut self, is_needless: impl Fn(&str, &TensorView) -> bool) -> Vec<TensorView> {
        let is_named = |(name, parts): &(&String, &Vec<TensorView>)| is_needless(name, &parts[0]);
        let names: Vec<String> = self.by_name.iter().filter(is_named).map(|(name, _)| name.clone()).collect();
        names.iter().flat_map(|name| self.by_name.remove(name).unwrap_or_default()).collect()
    }

    /// Takes a tensor that must be there, in `n_shards` shards.
    pub(super) fn take(
        &mut self,
        from: &str,
        n_shards: usize,
        name: String,
        shape: &[usize],
        join: Join,
    ) -> Result<ShardedTensor> {
        let parts = self.by_name.remove(from).ok_or_else(|| Error::missing_tensor(from))?;
        if parts.len() != n_shards {
            let reason = format!("it is there {} times, {n_shards} are expected", parts.len());
            return Err(parts[0].layout(&reason));
        }
        ShardedTensor::new(name, shape, parts, join)
    }

    /// Checks that nothing is left.
    pub(super) fn finish(self) -> Result<()> {
        let Some((_, parts)) = self.by_name.into_iter().next() else { return Ok(()) };
        let name = parts[0].name.clone();
        Err(Error::from(ErrorKind::UnsupportedTensor { name }).at(Some(parts[0].file.path())))
    }
}
