//! Plain f32 weights, row after row.

use std::ops::Range;

use super::Format;
use super::activation::Input;
use super::packed::Aligned;
use super::packed_float::pack_rows;
use crate::simd::Simd;

/// A matrix of f32: (rows, `n`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct F32Rows<'a> {
    pub(crate) weights: &'a [f32],
    pub(crate) n: usize,
}

impl F32Rows<'_> {
    #[inline(always)]
    fn row(&self, row: usize) -> &[f32] {
        &self.weights[row * self.n..][..self.n]
    }

    /// See [`super::Rows::pack_floats`].
    #[inline(always)]
    pub(crate) fn pack<S: Simd>(&self, s: S, rows: Range<usize>, to: &mut Aligned<f32>) {
        pack_rows(s, self.n, rows.map(|row| self.row(row)), to);
    }
}

impl Format for F32Rows<'_> {
    #[inline(always)]
    fn dot<S: Simd, const R: usize, const T: usize>(
        self,
        s: S,
        row: usize,
        x: Input<'_>,
        token: usize,
    ) -> [[f32; T]; R] {
        dot_slices(s, std::array::from_fn(|r| self.row(row + r)), std::array::from_fn(|t| x.row(token + t)))
    }

    fn dequantize(self, row: usize, out: &mut [f32]) {
        out.copy_from_slice(self.row(row));
    }
}

/// How many numbers ahead a row is fetched.
const AHEAD: usize = 512;

/// The dot products of `R` vectors with `T` others, all of one length.
///
/// Rows are read one after another, to their ends: walking along 8 of them at once halved the speed from memory (12
/// against 23 GB/s on one thread), for the prefetcher follows one stream better than eight. Only the sums across lanes
/// are shared. Two accumulators, taken in turns, hide most of an addition's latency.
#[inline(always)]
fn dot_slices<S: Simd, const R: usize, const T: usize>(
    s: S,
    w: [&[f32]; R],
    x: [&[f32]; T],
) -> [[f32; T]; R] {
    let mut acc = [[s.splat(0.0); T]; R];
    for r in 0..R {
        acc[r] = dot_row(s, w[r], x);
    }
    sum_tile(s, acc)
}

/// The dot products of one vector with `T` others, still spread over lanes.
#[inline(always)]
fn dot_row<S: Simd, const T: usize>(s: S, w: &[f32], x: [&[f32]; T]) -> [S::F32; T] {
    let n = w.len();
    let mut even = [s.splat(0.0); T];
    let mut odd = [s.splat(0.0); T];
    let mut i = 0;
    while i + 2 * S::LANES <= n {
        s.prefetch(w, i + AHEAD);
        s.prefetch(w, i + AHEAD + S::LANES);
        let (w_even, w_odd) = (s.load(&w[i..]), s.load(&w[i + S::LANES..]));
        for t in 0..T {
            even[t] = s.mul_add(w_even, s.load(&x[t][i..]), even[t]);
            odd[t] = s.mul_add(w_odd, s.load(&x[t][i + S::LANES..]), odd[t]);
        }
        i += 2 * S::LANES;
    }
    if i + S::LANES <= n {
        let w = s.load(&w[i..]);
        for t in 0..T {
            even[t] = s.mul_add(w, s.load(&x[t][i..]), even[t]);
        }
        i += S::LANES;
    }
    if i < n {
        let sums = if i / S::LANES % 2 == 0 { &mut even } else { &mut odd };
        let w = s.load_partial(&w[i..]);
        for t in 0..T {
            sums[t] = s.mul_add(w, s.load_partial(&x[t][i..]), sums[t]);
        }
    }
    for t in 0..T {
        even[t] = s.add(even[t], odd[t]);
    }
    even
}

/// The sums of a tile of vectors.
#[inline(always)]
pub(crate) fn sum_tile<S: Simd, const R: usize, const T: usize>(
    s: S,
    acc: [[S::F32; T]; R],
) -> [[f32; T]; R] {
    let mut sums = [[0.0; T]; R];
    for t in 0..T {
        let mut column = [s.fold_x8(s.splat(0.0)); R];
        for r in 0..R {
            column[r] = s.fold_x8(acc[r][t]);
        }
        let column = s.sum_x8_each(column);
        for r in 0..R {
            sums[r][t] = column[r];
        }
    }
    sums
}
