//! Plain f32 weights, row after row.

use super::Format;
use super::activation::Input;
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

/// The dot products of `R` vectors with `T` others, all of one length.
#[inline(always)]
fn dot_slices<S: Simd, const R: usize, const T: usize>(
    s: S,
    w: [&[f32]; R],
    x: [&[f32]; T],
) -> [[f32; T]; R] {
    let n = x[0].len();
    let mut acc = [[s.splat(0.0); T]; R];
    let whole = n - n % S::LANES;
    let mut i = 0;
    while i < whole {
        let mut xs = [s.splat(0.0); T];
        for t in 0..T {
            xs[t] = s.load(&x[t][i..]);
        }
        for r in 0..R {
            let ws = s.load(&w[r][i..]);
            for t in 0..T {
                acc[r][t] = s.mul_add(ws, xs[t], acc[r][t]);
            }
        }
        i += S::LANES;
    }
    if whole < n {
        for r in 0..R {
            let ws = s.load_partial(&w[r][whole..]);
            for t in 0..T {
                acc[r][t] = s.mul_add(ws, s.load_partial(&x[t][whole..]), acc[r][t]);
            }
        }
    }
    sum_tile(s, acc)
}

/// The sums of a tile of vectors.
#[inline(always)]
fn sum_tile<S: Simd, const R: usize, const T: usize>(s: S, acc: [[S::F32; T]; R]) -> [[f32; T]; R] {
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
