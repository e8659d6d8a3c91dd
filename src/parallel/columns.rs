//! A matrix whose columns several threads fill: each thread takes some columns of every row, which
//! slices can't express.

#![allow(unsafe_code, reason = "threads write disjoint columns of one buffer")]

use std::marker::PhantomData;
use std::ops::Range;

/// The most strips of a [`ColumnPartition`].
pub(crate) const MAX_STRIPS: usize = 4;

/// A matrix (`n_rows`, `width`), stored row by row, whose columns are cut into work items.
///
/// An item is `item_width` neighboring columns; or, if the matrix is cut into strips of columns
/// first, as many at the same place of each strip. The last items may have fewer.
pub(crate) struct ColumnPartition<'a, T = f32> {
    start: *mut T,
    n_rows: usize,
    width: usize,
    item_width: usize,
    n_strips: usize,
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
        Self { start, n_rows, width, item_width, n_strips: 1, _borrowed: PhantomData }
    }

    /// The same matrix, in strips of as many whole items each, or of one fewer.
    ///
    /// # Panics
    /// If there are no strips, or too many.
    pub(crate) fn in_strips(self, n_strips: usize) -> Self {
        assert!((1..=MAX_STRIPS).contains(&n_strips), "a matrix has a few strips");
        Self { n_strips, ..self }
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
        self.width.div_ceil(self.item_width).div_ceil(self.n_strips)
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
        let n = self.width.div_ceil(self.item_width);
        let mut strips = [const { 0..0 }; MAX_STRIPS];
        for (i, strip) in strips[..self.n_strips].iter_mut().enumerate() {
            // As even as can be; no strip has more than the first, and none less than the last.
            let first = |strip: usize| (strip * n).div_ceil(self.n_strips);
            let column =
                |item: usize| ((first(i) + item).min(first(i + 1)) * self.item_width).min(self.width);
            *strip = column(items.start)..column(items.end);
        }
        ColumnSlice {
            start: self.start,
            n_rows: self.n_rows,
            stride: self.width,
            strips,
            n_strips: self.n_strips,
            _borrowed: PhantomData,
        }
    }
}

/// Some columns of a matrix, exclusively: some neighbors, or some of each strip.
///
/// Invariant: for each `row < n_rows` and each range of columns in `strips`, the elements of `row`
/// in these columns, which are those from `start + row * stride` on, belong to the matrix that
/// [`ColumnPartition::new`] borrowed, and nothing else reaches them for `'a`. `slice` establishes
/// it: all columns end at or before the matrix's width, which is the stride; an item has columns of
/// its own in each strip, and strips have none in common; and its caller promises that no other
/// slice has these items.
pub(crate) struct ColumnSlice<'a, T = f32> {
    start: *mut T,
    n_rows: usize,
    stride: usize,
    strips: [Range<usize>; MAX_STRIPS],
    n_strips: usize,
    _borrowed: PhantomData<&'a mut T>,
}

impl<T> ColumnSlice<'_, T> {
    /// The number of rows, which is that of the matrix.
    pub(crate) fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// The number of strips, which is that of the partition.
    pub(crate) fn n_strips(&self) -> usize {
        self.n_strips
    }

    /// Which columns of the matrix the slice has of a strip: as many as of the first one, or fewer.
    ///
    /// # Panics
    /// If there is no such strip.
    pub(crate) fn columns(&self, strip: usize) -> Range<usize> {
        assert!(strip < self.n_strips);
        self.strips[strip].clone()
    }

    /// [`ColumnSlice::strip`] of the first strip, which is all that the slice has if there are no
    /// others.
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        self.strip(0, row)
    }

    /// The slice's columns of one row in one strip, to write.
    ///
    /// # Panics
    /// If there is no such row or strip.
    #[inline(always)]
    pub(crate) fn strip(&mut self, strip: usize, row: usize) -> &mut [T] {
        assert!(row < self.n_rows);
        let columns = &self.strips[strip];
        // SAFETY: `row < n_rows`, so by the type's invariant these are initialized elements of one
        // allocation (or none of them, at most at its end), which only this slice reaches; and what
        // this slice gave out earlier ended with the exclusive borrow of `self` that begins here
        // and lasts as long as the result.
        unsafe {
            let start = self.start.add(row * self.stride + columns.start);
            std::slice::from_raw_parts_mut(start, columns.len())
        }
    }

    /// The slice's columns of one row in the first strip, to read.
    ///
    /// # Panics
    /// If there is no such row.
    #[inline(always)]
    pub(crate) fn get(&self, row: usize) -> &[T] {
        assert!(row < self.n_rows);
        let columns = &self.strips[0];
        // SAFETY: `row < n_rows`, so by the type's invariant these are initialized elements of one
        // allocation (or none of them, at most at its end), which only this slice reaches; and it
        // gives out nothing to write while the borrow of `self` lasts, which is as long as the
        // result.
        unsafe {
            let start = self.start.add(row * self.stride + columns.start);
            std::slice::from_raw_parts(start, columns.len())
        }
    }
}
