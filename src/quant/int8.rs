//! llama2.c's v2: int8 weights with an f32 scale for every `group_size` of them.
//!
//! ```text
//! qs      i8  x rows*n
//! scales  f32 x rows*n / group_size    at any byte address
//!
//! weight (row, column) = qs[i] * scales[i / group_size], with i = row*n + column
//! ```
//!
//! Groups run over the flat tensor, so where a row isn't a multiple of the group size they straddle
//! rows. Activations are therefore quantized in groups of `gcd(n, group_size)`: such a group lies
//! within one group of weights in every row, and where a row is a multiple of the group size, it
//! has that size.

use std::ops::Range;

use super::Format;
use super::activation::{ActivationRows, QuantizedRow};
use super::walk::{BlockProducts, RowTile};
use crate::simd::{Number, PREFETCH_DISTANCE, QuantKernels};
use crate::storage::UnalignedF32;

/// A matrix of int8 with scales: (rows, `n`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Int8Rows<'a> {
    qs: &'a [i8],
    scales: &'a [UnalignedF32],
    n: usize,
    group_size: usize,
    /// `gcd(n, group_size)`
    step: usize,
}

impl<'a> Int8Rows<'a> {
    pub(crate) fn new(qs: &'a [i8], scales: &'a [UnalignedF32], n: usize, group_size: usize) -> Self {
        Self { qs, scales, n, group_size, step: gcd(n, group_size) }
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Rows whose dot products share a vector.
const LANES: usize = 8;

/// Steps whose scales are loaded together.
const STEPS: usize = 4;

impl Int8Rows<'_> {
    /// The scales of some of a row's steps from `g` on, row by row in a vector's lanes.
    #[inline(always)]
    fn scales<S: QuantKernels, const R: usize>(
        &self,
        s: S,
        row: usize,
        g: usize,
        n: usize,
    ) -> [S::F32x8; STEPS] {
        let per_row = self.n / self.step;
        if R == LANES && n == STEPS && self.step == self.group_size {
            return s.transpose_f32_8x4(&self.scales[row * per_row + g..], per_row);
        }
        // A step may be a part of a group: as in stories42M, whose rows are 21.5 groups.
        let steps_per_group = self.group_size / self.step;
        let mut interleaved = [s.splat_x8(0.0); STEPS];
        for i in 0..n {
            let mut lanes = [0.0; LANES];
            for r in 0..R {
                lanes[r] = self.scales[((row + r) * per_row + g + i) / steps_per_group].get();
            }
            interleaved[i] = s.from_array(lanes);
        }
        interleaved
    }

    /// `R` rows with one token, as runq does it, to the bit: a step's dot product of int8, then
    /// `sum += (dot as f32 * w_scale) * x_scale`, step after step. `BLOCKS` is `step / 32`, or 0
    /// for any step.
    ///
    /// A vector's lanes are rows, so that their sums go on side by side: one row's would wait for
    /// each other.
    #[inline(always)]
    fn dot_rows<S: QuantKernels, const BLOCKS: usize, const R: usize>(
        self,
        s: S,
        row: usize,
        x: QuantizedRow<'_>,
    ) -> [f32; R] {
        let step = if BLOCKS > 0 { 32 * BLOCKS } else { self.step };
        let n_steps = self.n / step;
        let mut rows: [&[i8]; R] = [&[]; R];
        for r in 0..R {
            rows[r] = &self.qs[(row + r) * self.n..][..self.n];
        }
        let qs = &x.qs[..self.n];
        let ahead = (R * self.n).max(PREFETCH_DISTANCE);
        // The scale of the same place: scales must be fetched too.
        let scales_ahead = (row * self.n + ahead) / self.group_size;
        // Whether two blocks are one vector: a step of 64, or two of 32. (They don't fit AVX2's
        // registers.)
        let pairs = BLOCKS > 0 && S::LANES == 16;
        let mut sums = s.splat_x8(0.0);
        for first in (0..n_steps).step_by(STEPS) {
            let n = STEPS.min(n_steps - first);
            let scales = self.scales::<S, R>(s, row, first, n);
            s.prefetch_all_nta(self.scales, scales_ahead + R * first, R * STEPS);
            let mut i = 0;
            while i < n {
                let g = first + i;
                let steps = if pairs && BLOCKS == 1 && i + 2 <= n { 2 } else { 1 };
                // What the next rows will read: the processor follows one stream by itself, but not
                // eight.
                s.prefetch_all_nta(rows[0], ahead + R * g * step, R * steps * step);
                if pairs && (BLOCKS == 2 || steps == 2) {
                    let qs = s.load_bytes_x64(&qs[g * step..]);
                    let mut dots = [s.dot_u8_x64(s.zero_x64(), s.zero_x64()); LANES];
                    for r in 0..R {
                        dots[r] = s.dot_i8_x64(s.load_bytes_x64(&rows[r][g * step..]), qs);
                    }
                    let [first, second] = s.sum_blocks_each(dots);
                    if BLOCKS == 2 {
                        sums = add_step(s, sums, s.add_i32x8(first, second), x, g, scales[i]);
                    } else {
                        sums = add_step(s, sums, first, x, g, scales[i]);
                        sums = add_step(s, sums, second, x, g + 1, scales[i + 1]);
                    }
                } else {
                    let mut dots = [s.zero_i32x8(); LANES];
                    for r in 0..R {
                        dots[r] =
                            dot_step::<S, BLOCKS>(s, &rows[r][g * step..][..step], &qs[g * step..][..step]);
                    }
                    sums = add_step(s, sums, s.sum_each(dots), x, g, scales[i]);
                }
                i += steps;
            }
        }
        let mut first = [0.0; R];
        first.copy_from_slice(&s.to_array(sums)[..R]);
        first
    }
}

/// The sums of eight rows, with a step's products added. `dots` are biased.
#[inline(always)]
fn add_step<S: QuantKernels>(
    s: S,
    sums: S::F32x8,
    dots: S::I32x8,
    x: QuantizedRow<'_>,
    g: usize,
    scales: S::F32x8,
) -> S::F32x8 {
    let dots = s.remove_bias(dots, s.load_i32x8(&[x.sums[g]; LANES]));
    let product = s.mul_x8(s.to_f32x8(dots), scales);
    s.add_x8(sums, s.mul_x8(product, s.splat_x8(x.scales[g])))
}

/// The dot product of one step, spread over lanes.
#[inline(always)]
fn dot_step<S: QuantKernels, const BLOCKS: usize>(s: S, w: &[i8], x: &[i8]) -> S::I32x8 {
    let mut acc = s.zero_i32x8();
    for b in 0..BLOCKS {
        acc = s.dot_i8x32(acc, s.load_bytes(&w[32 * b..]), s.load_bytes(&x[32 * b..]));
    }
    if BLOCKS == 0 {
        let (mut ws, mut xs) = (w.chunks_exact(32), x.chunks_exact(32));
        for (w, x) in (&mut ws).zip(&mut xs) {
            acc = s.dot_i8x32(acc, s.load_bytes(w), s.load_bytes(x));
        }
        let (w, x) = (ws.remainder(), xs.remainder());
        if !w.is_empty() {
            acc = s.dot_i8x32(acc, s.load_bytes_partial(w), s.load_bytes_partial(x));
        }
    }
    acc
}

impl Format for Int8Rows<'_> {
    const EIGHT_ROWS: bool = true;

    const STREAMS: usize = 1;

    /// Eight rows share a token instead.
    const SHARING_TOKENS: usize = 1;

    fn activation_group(self) -> Option<usize> {
        Some(self.step)
    }

    #[inline(always)]
    fn dot<S: QuantKernels, const R: usize>(
        self,
        s: S,
        rows: [usize; R],
        x: ActivationRows<'_>,
        token: usize,
    ) -> [f32; R] {
        // Neighbors, as there is one stream.
        let (row, x) = (rows[0], x.quantized_row(token));
        match self.step {
            32 => self.dot_rows::<S, 1, R>(s, row, x),
            64 => self.dot_rows::<S, 2, R>(s, row, x),
            _ => self.dot_rows::<S, 0, R>(s, row, x),
        }
    }

    #[inline(always)]
    fn dot_tokens<S: QuantKernels>(
        self,
        s: S,
        block: RowTile,
        x: ActivationRows<'_>,
        tokens: Range<usize>,
        products: &mut BlockProducts,
    ) {
        for i in 0..block.len() {
            [products[i][0]] = self.dot::<S, 1>(s, block.rows(i), x, tokens.start);
        }
    }

    fn dequantize(self, row: usize, out: &mut [f32]) {
        let start = row * self.n;
        for (i, (out, &q)) in out.iter_mut().zip(&self.qs[start..]).enumerate() {
            *out = f32::from(q) * self.scales[(start + i) / self.group_size].get();
        }
    }
}
