//! A matrix whose columns several threads fill: each thread takes some columns of every row, which
//! slices can't express.

#![allow(unsafe_code, reason = "threads write disjoint columns of one buffer")]

use std::marker::PhantomData;
use std::ops::Range;

/// A matrix (`n_rows`, `width`), stored row by row, whose columns are cut into work items of
/// `item_width` columns each. The last item may be narrower.
pub(crate) struct ColumnPartition<'a, T = f32> {
    start: *mut T,
    n_rows: usize,
    width: usize,
    item_width: usize,
    _borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`, which is `Send` if `T` is.
unsafe impl<T: Send> Send for ColumnPartition<'_, T> {}
// SAFETY: from a shared partition safe code gets numbers only. Elements are reached through
// `ColumnPartition::slice`, whose caller promises that no two threads get the same; so an element
// is sent to the thread that gets it, which `T: Send` allows.
unsafe impl<T: Send> Sync for ColumnPartition<'_, T> {}

impl<'a, T> ColumnPartition<'a, T> {
    /// # Panics
    /// If `matrix` isn't made of rows of `width`.
    pub(crate) fn new(matrix: &'a mut [T], width: usize, item_width: usize) -> Self {
        assert!(width > 0 && item_width > 0 && matrix.len().is_multiple_of(width), "whole rows");
        let (start, n_rows) = (matrix.as_mut_ptr(), matrix.len() / width);
        Self { start, n_rows, width, item_width, _borrowed: PhantomData }
    }

    /// A matrix of one row, cut into `n` items of the same width.
    ///
    /// # Panics
    /// If its length isn't a multiple of `n`.
    pub(crate) fn parts(row: &'a mut [T], n: usize) -> Self {
        assert!(row.len().is_multiple_of(n), "equal parts");
        let width = row.len();
        Self::new(row, width, width / n)
    }

    pub(super) fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub(super) fn n_items(&self) -> usize {
        self.width.div_ceil(self.item_width)
    }

    /// The columns of some items, exclusively.
    ///
    /// # Safety
    /// While the result lives, no other slice of this partition has one of these items.
    ///
    /// # Panics
    /// If there are no such items.
    pub(super) unsafe fn slice(&self, items: Range<usize>) -> ColumnSlice<'_, T> {
        assert!(items.start < items.end && items.end <= self.n_items());
        let columns = items.start * self.item_width..(items.end * self.item_width).min(self.width);
        ColumnSlice {
            // Not `add`: a matrix without rows has no such element.
            start: self.start.wrapping_add(columns.start),
            n_rows: self.n_rows,
            stride: self.width,
            width: columns.len(),
            _borrowed: PhantomData,
        }
    }
}

/// Some columns of a matrix, exclusively.
///
/// Invariant: for each `row < n_rows`, the `width` elements from `start + row * stride` on are
/// elements of the matrix that [`ColumnPartition::new`] borrowed, and nothing else reaches them for
/// `'a`. `slice` establishes it: its columns end at or before the matrix's width, which is the
/// stride, and its caller promises that no other slice has them.
pub(crate) struct ColumnSlice<'a, T = f32> {
    start: *mut T,
    n_rows: usize,
    stride: usize,
    width: usize,
    _borrowed: PhantomData<&'a mut T>,
}

impl<T> ColumnSlice<'_, T> {
    /// The number of rows, which is that of the matrix.
    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// The slice's columns of one row, to write.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.n_rows);
        // SAFETY: `row < n_rows`, so by the type's invariant these are `width` initialized elements
        // of one allocation, which only this slice reaches; and what this slice gave out earlier
        // ended with the exclusive borrow of `self` that begins here and lasts as long as the
        // result.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.width) }
    }

    /// The slice's columns of one row, to read.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub(crate) fn get(&self, row: usize) -> &[T] {
        assert!(row < self.n_rows);
        // SAFETY: `row < n_rows`, so by the type's invariant these are `width` initialized elements
        // of one allocation, which only this slice reaches; and it gives out nothing to write while
        // the borrow of `self` lasts, which is as long as the result.
        unsafe { std::slice::from_raw_parts(self.start.add(row * self.stride), self.width) }
    }
}
