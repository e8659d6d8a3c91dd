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
use super::activation::Input;
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

impl Int8Rows<'_> {
    /// The scale of a row's `g`-th step.
    #[inline(always)]
    fn scale(&self, row: usize, g: usize) -> f32 {
        let index = row * (self.n / self.step) + g;
        // A division is slow, and hardly any file needs it.
        let group = if self.step == self.group_size { index } else { index / (self.group_size / self.step) };
        self.scales[group].get()
    }
}

impl Format for Int8Rows<'_> {
    /// As runq does it, to the bit: whole dot products of int8, then `sum += (dot as f32 * w_scale) * x_scale`, group
    /// after group. Up to 8 products keep their sums in the lanes of one vector.
    #[inline(always)]
    fn dot<S: Simd, const R: usize, const T: usize>(
        self,
        s: S,
        row: usize,
        x: Input<'_>,
        token: usize,
    ) -> [[f32; T]; R] {
        const { assert!(R * T <= 8, "a product for each lane") };
        let Self { n, step, .. } = self;
        let w: [&[i8]; R] = std::array::from_fn(|r| &self.qs[(row + r) * n..][..n]);
        let x: [_; T] = std::array::from_fn(|t| x.quantized_row(token + t));
        let mut sums = s.set_x8([0.0; 8]);
        for g in 0..n / step {
            let mut acc = [s.dot_start(0); 8]; // of row r with token t: r * T + t
            let mut w_scales = [0.0; 8];
            let mut x_scales = [0.0; 8];
            for t in 0..T {
                let (start, x_scale) = (s.dot_start(x[t].sums[g]), x[t].scales[g]);
                for r in 0..R {
                    acc[r * T + t] = start;
                    x_scales[r * T + t] = x_scale;
                }
            }
            let (mut i, end) = (g * step, (g + 1) * step);
            while i + 32 <= end {
                for r in 0..R {
                    let ws = s.load_i8x32(&w[r][i..]);
                    for t in 0..T {
                        let xs = s.load_i8x32(&x[t].qs[i..]);
                        acc[r * T + t] = s.dot_i8x32(acc[r * T + t], ws, xs);
                    }
                }
                i += 32;
            }
            if i < end {
                for r in 0..R {
                    let ws = s.load_i8x32_partial(&w[r][i..end]);
                    for t in 0..T {
                        let xs = s.load_i8x32_partial(&x[t].qs[i..end]);
                        acc[r * T + t] = s.dot_i8x32(acc[r * T + t], ws, xs);
                    }
                }
            }
            for r in 0..R {
                let scale = self.scale(row + r, g);
                for t in 0..T {
                    w_scales[r * T + t] = scale;
                }
            }
            let dots = s.to_f32x8(s.sum_i32x8_each(acc));
            let products = s.mul_x8(s.mul_x8(dots, s.set_x8(w_scales)), s.set_x8(x_scales));
            sums = s.add_x8(sums, products);
        }
        let lanes = s.lanes_x8(sums);
        std::array::from_fn(|r| std::array::from_fn(|t| lanes[r * T + t]))
    }

    fn dequantize(self, row: usize, out: &mut [f32]) {
        let start = row * self.n;
        for (i, (out, &q)) in out.iter_mut().zip(&self.qs[start..]).enumerate() {
            *out = f32::from(q) * self.scales[(start + i) / self.group_size].get();
        }
    }
}
