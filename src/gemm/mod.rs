//! The matrix products of prefill, which read each weight once for a whole batch of tokens. They
//! know no format.
//!
//! - `int8`: quantized weights, unpacked into int8 panels
//! - `contents`: what a panel may hold
//! - `lanes`: what these products read, cut to the groups of one of decode's lanes
//! - `float`: the others, widened to f32 on their way
//!
//! Source of the shape: Goto and van de Geijn, "Anatomy of high-performance matrix multiplication"
//! (2008).

mod contents;
pub(crate) mod float;
pub(crate) mod int8;
mod lanes;

use std::ops::Range;

use crate::simd::{LINE, Simd};
use crate::tensor::Matrix;

/// Has the cache fetch the next rows of weights bit by bit, while a panel is multiplied.
///
/// Without it, a panel would be unpacked at the speed of its weights' arrival, which a core doesn't
/// hide by itself.
struct Prefetcher<'a> {
    bytes: &'a [u8],
    lines: Range<usize>,
    /// Lines that are fetched at once.
    burst: usize,
}

impl<'a> Prefetcher<'a> {
    /// Fetches some rows, or those of them that there are, in `visits` bursts.
    #[inline(always)]
    fn new(weights: Matrix<'a>, rows: Range<usize>, visits: usize) -> Self {
        let row = weights.row_bytes();
        let end = rows.end.min(weights.n_rows);
        let lines = (rows.start.min(end) * row / LINE)..(end * row).div_ceil(LINE);
        Self { bytes: weights.bytes, burst: lines.len().div_ceil(visits.max(1)), lines }
    }

    /// The next burst.
    #[inline(always)]
    fn fetch<S: Simd>(&mut self, s: S) {
        let end = self.lines.end.min(self.lines.start + self.burst);
        s.prefetch_all(self.bytes, self.lines.start * LINE, (end - self.lines.start) * LINE);
        self.lines.start = end;
    }
}
