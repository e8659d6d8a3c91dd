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
    fn dot<S: Simd, const R: usize>(self, s: S, row: usize, x: Input<'_>, token: usize) -> [f32; R] {
        let mut acc = [s.fold_x8(s.splat(0.0)); R];
        for r in 0..R {
            acc[r] = s.fold_x8(dot_row(s, self.row(row + r), x.row(token)));
        }
        s.sum_x8_each(acc)
    }

    fn dequantize(self, row: usize, out: &mut [f32]) {
        out.copy_from_slice(self.row(row));
    }
}

/// How many numbers ahead a row is fetched.
const AHEAD: usize = 512;

/// The dot product of two vectors of one length, still spread over lanes.
///
/// Rows are read one after another, to their ends: walking along 8 of them at once halved the speed from memory (12
/// against 23 GB/s on one thread), for the prefetcher follows one stream better than eight. Only the sums across lanes
/// are shared. Two accumulators, taken in turns, hide most of an addition's latency.
#[inline(always)]
fn dot_row<S: Simd>(s: S, w: &[f32], x: &[f32]) -> S::F32 {
    let n = w.len();
    let (mut even, mut odd) = (s.splat(0.0), s.splat(0.0));
    let mut i = 0;
    while i + 2 * S::LANES <= n {
        s.prefetch(w, i + AHEAD);
        s.prefetch(w, i + AHEAD + S::LANES);
        even = s.mul_add(s.load(&w[i..]), s.load(&x[i..]), even);
        odd = s.mul_add(s.load(&w[i + S::LANES..]), s.load(&x[i + S::LANES..]), odd);
        i += 2 * S::LANES;
    }
    if i + S::LANES <= n {
        even = s.mul_add(s.load(&w[i..]), s.load(&x[i..]), even);
        i += S::LANES;
    }
    if i < n {
        let sum = if i / S::LANES % 2 == 0 { &mut even } else { &mut odd };
        *sum = s.mul_add(s.load_partial(&w[i..]), s.load_partial(&x[i..]), *sum);
    }
    s.add(even, odd)
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
