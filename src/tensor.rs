//! A tensor: where in the storage its weights lie, and how.

use std::ops::Range;
use std::sync::Arc;

use crate::quant::{Dtype, Rows};
use crate::storage::{Storage, UnalignedF32};

/// A matrix of weights (rows, columns), or a vector (1, columns), inside a checkpoint.
///
/// Its constructors check that the storage holds it, so a view can't fail later.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    storage: Arc<Storage>,
    dtype: Dtype,
    rows: usize,
    columns: usize,
    weights: Range<usize>,
    /// Only of [`Dtype::Int8`].
    scales: Range<usize>,
}

impl Tensor {
    /// Weights that are stored row after row, at a byte range. `None` if the storage doesn't hold
    /// them there, or if rows aren't a multiple of the format's block.
    pub(crate) fn new(
        storage: &Arc<Storage>,
        weights: Range<usize>,
        rows: usize,
        columns: usize,
        dtype: Dtype,
    ) -> Option<Self> {
        let (block, bytes) = dtype.block()?;
        let len = rows.checked_mul(columns / block).and_then(|blocks| blocks.checked_mul(bytes));
        let fits = dtype.can_view(storage, weights.clone())
            && columns.is_multiple_of(block)
            && len == Some(weights.len());
        let storage = Arc::clone(storage);
        fits.then_some(Self { storage, dtype, rows, columns, weights, scales: 0..0 })
    }

    /// int8 weights and the scales of their groups. `None` if the storage doesn't hold them there,
    /// or if the groups don't divide the tensor.
    pub(crate) fn int8(
        storage: &Arc<Storage>,
        weights: Range<usize>,
        scales: Range<usize>,
        rows: usize,
        columns: usize,
        group_size: usize,
    ) -> Option<Self> {
        let dtype = Dtype::Int8 { group_size };
        let fits = dtype.can_view(storage, weights.clone())
            && rows.checked_mul(columns) == Some(weights.len())
            && storage.can_view::<UnalignedF32>(scales.clone())
            && group_size > 0
            && weights.len().is_multiple_of(group_size)
            && scales.len() / size_of::<UnalignedF32>() == weights.len() / group_size;
        let storage = Arc::clone(storage);
        fits.then_some(Self { storage, dtype, rows, columns, weights, scales })
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes that its weights take, scales included.
    pub(crate) fn len_bytes(&self) -> usize {
        self.weights.len() + self.scales.len()
    }

    /// The bytes of its weights, and of their scales where they lie apart.
    pub(crate) fn parts(&self) -> [&[u8]; 2] {
        [&self.weights, &self.scales].map(|range| &self.storage.bytes()[range.clone()])
    }

    /// Reads its weights and scales from copies of them, elsewhere.
    pub(crate) fn move_to(&mut self, storage: &Arc<Storage>, [weights, scales]: [Range<usize>; 2]) {
        assert!(
            weights.len() == self.weights.len() && scales.len() == self.scales.len(),
            "copies are as long"
        );
        (self.storage, self.weights, self.scales) = (Arc::clone(storage), weights, scales);
    }

    /// The weights as they are stored, row after row; `None` of [`Dtype::Int8`], whose scales lie
    /// apart.
    #[cfg(feature = "convert")]
    pub(crate) fn row_bytes(&self) -> Option<&[u8]> {
        self.dtype.block().map(|_| &self.storage.bytes()[self.weights.clone()])
    }

    /// The weights, ready to be multiplied.
    pub(crate) fn matrix(&self) -> Matrix<'_> {
        let (weights, scales) = (self.weights.clone(), self.scales.clone());
        let rows = Rows::new(self.dtype, &self.storage, weights, scales, self.columns);
        let bytes = &self.storage.bytes()[self.weights.clone()];
        Matrix { rows, n_rows: self.rows, n_columns: self.columns, bytes, len_bytes: self.len_bytes() }
    }

    /// The weights as f32, decoded.
    pub(crate) fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.columns];
        let matrix = self.matrix();
        for (row, out) in out.chunks_exact_mut(self.columns).enumerate() {
            matrix.rows.dequantize(row, out);
        }
        out
    }
}

/// A view of a tensor's weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub(crate) rows: Rows<'a>,
    pub(crate) n_rows: usize,
    pub(crate) n_columns: usize,
    /// Row after row, without scales that lie apart.
    pub(crate) bytes: &'a [u8],
    /// Bytes that its weights take: what it costs to read them all.
    pub(crate) len_bytes: usize,
}

impl Matrix<'_> {
    /// Bytes of a row, without scales that lie apart.
    #[inline(always)]
    pub(crate) fn row_bytes(&self) -> usize {
        self.bytes.len() / self.n_rows
    }
}

#[cfg(test)]
mod tests;
