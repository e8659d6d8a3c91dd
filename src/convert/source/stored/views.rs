//! Views whose rows don't lie one number after another: transposed ones, and ones that repeat numbers.

use std::ops::Range;

use super::{Encoding, Joined, StoredTensor, decode};
use crate::error::Result;

impl StoredTensor {
    /// How many weights further the next one of a row is.
    fn column_stride(&self) -> usize {
        self.strides.last().copied().unwrap_or(1)
    }

    /// Whether the weights of a row lie one after another.
    pub(super) fn has_rows(&self) -> bool {
        self.columns() == 1 || self.column_stride() == 1
    }

    /// That a view that repeats numbers isn't far more than what is stored: memory is taken for its rows.
    pub(super) fn check_repeats(&self) -> Result<()> {
        const MOST: usize = 1 << 28;
        const MOST_COLUMNS: usize = 1 << 20;
        let repeats = self.shape.iter().zip(&self.strides).any(|(&n, &stride)| n > 1 && stride == 0);
        let numbers = self.shape.iter().try_fold(1_usize, |numbers, &n| numbers.checked_mul(n));
        if repeats && (self.columns() > MOST_COLUMNS || numbers.is_none_or(|numbers| numbers > MOST)) {
            return Err(self.layout("it repeats few numbers very often: save it contiguous"));
        }
        Ok(())
    }

    /// Decodes numbers that lie one after another, from the number `first` of the view's storage on.
    fn numbers(&self, encoding: Encoding, first: usize, bytes: &mut Vec<u8>, out: &mut [f32]) -> Result<()> {
        let size = encoding.bytes();
        bytes.resize(out.len() * size, 0);
        self.file.read_at("a tensor", self.start + first as u64 * size as u64, bytes)?;
        decode(encoding, bytes, out);
        Ok(())
    }

    /// Decodes some rows, wherever their numbers lie: (rows, columns).
    pub(super) fn read_view(&self, encoding: Encoding, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        /// What lies between numbers is read along if it is no more than this.
        const GAP: usize = 64;
        /// Numbers that are read at once.
        const SPAN: usize = 1 << 16;
        let (columns, down, across) = (self.columns(), self.row_stride(), self.column_stride());
        let mut bytes = Vec::new();
        if down == 1 && across > 0 {
            let mut column = vec![0.0; rows.len()];
            for c in 0..columns {
                self.numbers(encoding, rows.start + c * across, &mut bytes, &mut column)?;
                column.iter().enumerate().for_each(|(row, number)| out[row * columns + c] = *number);
            }
            return Ok(());
        }
        let at_once = if across > GAP { 1 } else { SPAN / across.max(1) };
        let mut span = Vec::new();
        for (row, out) in rows.zip(out.chunks_exact_mut(columns)) {
            for (first, out) in (0..columns).step_by(at_once).zip(out.chunks_mut(at_once)) {
                span.resize((out.len() - 1) * across + 1, 0.0);
                self.numbers(encoding, row * down + first * across, &mut bytes, &mut span)?;
                out.iter_mut().enumerate().for_each(|(i, out)| *out = span[i * across]);
            }
        }
        Ok(())
    }
}

impl Joined {
    /// Decodes some rows of heads that are half-split, each head at once.
    pub(super) fn read_heads(&self, head_dim: usize, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let columns = self.parts[0].columns();
        let (mut block, mut held) = (vec![0.0; head_dim * columns], None);
        for (row, out) in rows.zip(out.chunks_exact_mut(columns)) {
            let (head, i) = (row / head_dim, row % head_dim);
            if held != Some(head) {
                self.read_in_order(head * head_dim..(head + 1) * head_dim, &mut block)?;
                held = Some(head);
            }
            let row = i / 2 + i % 2 * (head_dim / 2);
            out.copy_from_slice(&block[row * columns..][..columns]);
        }
        Ok(())
    }
}
