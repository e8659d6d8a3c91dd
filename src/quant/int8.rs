//! llama2.c's v2: int8 weights with an f32 scale for every `group_size` of them.
//!
//! ```text
//! qs      i8  x rows*n                 weight (row, column) = qs[row*n + column] * scales[(row*n + column) / group_size]
//! scales  f32 x rows*n / group_size    at any byte address
//! ```
//!
//! Groups run over the flat tensor, so where a row isn't a whole number of groups they straddle rows. Activations are
//! therefore quantised in groups of `gcd(n, group_size)`: such a group lies within one group of weights in every row,
//! and where a row is a whole number of groups it is simply `group_size`.

use super::Format;
use super::activation::{Input, QuantizedRow};
use crate::simd::Simd;
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

    pub(crate) fn activation_group(self) -> usize {
        self.step
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Steps whose dot products share a vector.
const LANES: usize = 8;

impl Int8Rows<'_> {
    /// The scales of some of a row's steps, from `g` on.
    #[inline(always)]
    fn scales<const N: usize>(&self, row: usize, g: usize) -> [f32; N] {
        let first = row * (self.n / self.step) + g;
        let mut found = [0.0; N];
        if self.step == self.group_size {
            let scales = &self.scales[first..first + N];
            for i in 0..N {
                found[i] = scales[i].get();
            }
            return found;
        }
        // Several steps share a scale: nearly always 2, as in stories42M, whose rows are 21.5 groups.
        let steps_per_group = self.group_size / self.step;
        if steps_per_group == 2 {
            let scales = &self.scales[first / 2..(first + N).div_ceil(2)];
            let odd = first % 2;
            for i in 0..N {
                found[i] = scales[(i + odd) / 2].get();
            }
            return found;
        }
        for i in 0..N {
            found[i] = self.scales[(first + i) / steps_per_group].get();
        }
        found
    }

    /// One row with one token, as runq does it, to the bit: whole dot products of int8, then
    /// `sum += (dot as f32 * w_scale) * x_scale`, step after step. `BLOCKS` is `step / 32`, or 0 for any step.
    #[inline(always)]
    fn dot_one<S: Simd, const BLOCKS: usize>(self, s: S, row: usize, x: QuantizedRow<'_>) -> f32 {
        let n_steps = self.n / self.step;
        let mut sum = 0.0;
        let mut g = 0;
        while g + LANES <= n_steps {
            let products = self.products::<S, BLOCKS, LANES>(s, row, g, x);
            for product in products {
                sum += product;
            }
            g += LANES;
        }
        if g + 4 <= n_steps {
            for product in self.products::<S, BLOCKS, 4>(s, row, g, x) {
                sum += product;
            }
            g += 4;
        }
        while g < n_steps {
            sum += self.products::<S, BLOCKS, 1>(s, row, g, x)[0];
            g += 1;
        }
        sum
    }

    /// The scaled dot products of `N` steps, from `g` on.
    #[inline(always)]
    fn products<S: Simd, const BLOCKS: usize, const N: usize>(
        self,
        s: S,
        row: usize,
        g: usize,
        x: QuantizedRow<'_>,
    ) -> [f32; N] {
        let step = if BLOCKS > 0 { 32 * BLOCKS } else { self.step };
        let w = &self.qs[row * self.n + g * step..][..N * step];
        let qs = &x.qs[g * step..][..N * step];
        let mut dots = [s.zero_i32x8(); LANES];
        for i in 0..N {
            dots[i] = dot_step::<S, BLOCKS>(s, &w[i * step..(i + 1) * step], &qs[i * step..(i + 1) * step]);
        }
        let mut x_sums = [0; LANES];
        x_sums[..N].copy_from_slice(&x.sums[g..g + N]);
        let mut w_scales = [0.0; LANES];
        w_scales[..N].copy_from_slice(&self.scales::<N>(row, g));
        let mut x_scales = [0.0; LANES];
        x_scales[..N].copy_from_slice(&x.scales[g..g + N]);
        let dots = s.to_f32x8(s.dot_unbias(s.sum_i32x8_each(dots), s.load_i32x8(&x_sums)));
        let products = s.lanes_x8(s.mul_x8(s.mul_x8(dots, s.set_x8(w_scales)), s.set_x8(x_scales)));
        let mut first = [0.0; N];
        first.copy_from_slice(&products[..N]);
        first
    }
}

/// The dot product of one step, spread over lanes.
#[inline(always)]
fn dot_step<S: Simd, const BLOCKS: usize>(s: S, w: &[i8], x: &[i8]) -> S::I32x8 {
    let mut acc = s.zero_i32x8();
    for b in 0..BLOCKS {
        acc = s.dot_i8x32(acc, s.load_i8x32(&w[32 * b..]), s.load_i8x32(&x[32 * b..]));
    }
    if BLOCKS == 0 {
        let (mut ws, mut xs) = (w.chunks_exact(32), x.chunks_exact(32));
        for (w, x) in (&mut ws).zip(&mut xs) {
            acc = s.dot_i8x32(acc, s.load_i8x32(w), s.load_i8x32(x));
        }
        let (w, x) = (ws.remainder(), xs.remainder());
        if !w.is_empty() {
            acc = s.dot_i8x32(acc, s.load_i8x32_partial(w), s.load_i8x32_partial(x));
        }
    }
    acc
}

impl Format for Int8Rows<'_> {
    const HAS_PANELS: bool = false;

    #[inline(always)]
    fn dot<S: Simd, const R: usize, const T: usize>(
        self,
        s: S,
        row: usize,
        x: Input<'_>,
        token: usize,
    ) -> [[f32; T]; R] {
        let mut products = [[0.0; T]; R];
        for t in 0..T {
            let x = x.quantized_row(token + t);
            for r in 0..R {
                products[r][t] = match self.step {
                    32 => self.dot_one::<S, 1>(s, row + r, x),
                    64 => self.dot_one::<S, 2>(s, row + r, x),
                    _ => self.dot_one::<S, 0>(s, row + r, x),
                };
            }
        }
        products
    }

    fn dequantize(self, row: usize, out: &mut [f32]) {
        let start = row * self.n;
        for (i, (out, &q)) in out.iter_mut().zip(&self.qs[start..]).enumerate() {
            *out = f32::from(q) * self.scales[(start + i) / self.group_size].get();
        }
    }
}
