//! F16 (IEEE 754 half precision) and BF16 (the upper half of an f32): 2 bytes a weight, widened and multiplied as f32.

use std::marker::PhantomData;
use std::ops::Range;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::Format;
use super::activation::Input;
use super::packed::Aligned;
use super::packed_float::{Floats, pack_rows};
use crate::simd::Simd;

/// Which of the two.
pub(crate) trait Float16: Copy + Send + Sync + 'static {
    fn to_f32(bits: &[u16], out: &mut [f32]);
    fn load<S: Simd>(s: S, from: &[u16]) -> S::F32;
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct F16;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bf16;

impl Float16 for F16 {
    fn to_f32(bits: &[u16], out: &mut [f32]) {
        bits.reinterpret_cast::<half::f16>().convert_to_f32_slice(out);
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u16]) -> S::F32 {
        s.load_f16(from)
    }
}

impl Float16 for Bf16 {
    fn to_f32(bits: &[u16], out: &mut [f32]) {
        for (out, &bits) in out.iter_mut().zip(bits) {
            *out = f32::from_bits(u32::from(bits) << 16);
        }
    }
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u16]) -> S::F32 {
        s.load_bf16(from)
    }
}

/// A matrix of 16-bit floats: (rows, `n`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Float16Rows<'a, F> {
    weights: &'a [u16],
    n: usize,
    _format: PhantomData<F>,
}

impl<'a, F: Float16> Float16Rows<'a, F> {
    pub(crate) fn new(weights: &'a [u16], n: usize) -> Self {
        Self { weights, n, _format: PhantomData }
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [u16] {
        &self.weights[row * self.n..][..self.n]
    }

    /// See [`super::Rows::pack_floats`].
    #[inline(always)]
    pub(crate) fn pack<S: Simd>(&self, s: S, rows: Range<usize>, to: &mut Aligned<f32>) {
        pack_rows(s, self.n, rows.map(|row| Halves::<F>(self.row(row), PhantomData)), to);
    }
}

/// A row of 16-bit floats that are loaded as f32.
#[derive(Clone, Copy)]
struct Halves<'a, F>(&'a [u16], PhantomData<F>);

impl<F: Float16> Floats for Halves<'_, F> {
    #[inline(always)]
    fn load<S: Simd>(self, s: S, at: usize) -> S::F32 {
        F::load(s, &self.0[at..])
    }
    #[inline(always)]
    fn load_rest<S: Simd>(self, s: S, at: usize) -> S::F32 {
        let mut padded = [0; 16];
        padded[..self.0.len() - at].copy_from_slice(&self.0[at..]);
        F::load(s, &padded)
    }
}

impl<F: Float16> Format for Float16Rows<'_, F> {
    #[inline(always)]
    fn dot<S: Simd, const R: usize>(self, s: S, row: usize, x: Input<'_>, token: usize) -> [f32; R] {
        let mut acc = [s.fold_x8(s.splat(0.0)); R];
        for r in 0..R {
            acc[r] = s.fold_x8(dot_row::<S, F>(s, self.row(row + r), x.row(token)));
        }
        s.sum_x8_each(acc)
    }

    fn dequantize(self, row: usize, out: &mut [f32]) {
        F::to_f32(self.row(row), out);
    }
}

/// How many numbers ahead a row is fetched.
const AHEAD: usize = 1024;

/// The dot product of a row with a token, still spread over lanes. Two accumulators, taken in turns, hide most of an
/// addition's latency.
#[inline(always)]
fn dot_row<S: Simd, F: Float16>(s: S, w: &[u16], x: &[f32]) -> S::F32 {
    let n = w.len();
    let (mut even, mut odd) = (s.splat(0.0), s.splat(0.0));
    let mut i = 0;
    while i + 2 * S::LANES <= n {
        s.prefetch(w, i + AHEAD);
        even = s.mul_add(F::load(s, &w[i..]), s.load(&x[i..]), even);
        odd = s.mul_add(F::load(s, &w[i + S::LANES..]), s.load(&x[i + S::LANES..]), odd);
        i += 2 * S::LANES;
    }
    while i < n {
        let len = S::LANES.min(n - i);
        let mut padded_w = [0; 16];
        padded_w[..len].copy_from_slice(&w[i..i + len]);
        let mut padded_x = [0.0; 16];
        padded_x[..len].copy_from_slice(&x[i..i + len]);
        let sum = if i / S::LANES % 2 == 0 { &mut even } else { &mut odd };
        *sum = s.mul_add(F::load(s, &padded_w), s.load(&padded_x), *sum);
        i += len;
    }
    s.add(even, odd)
}
