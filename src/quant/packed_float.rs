//! Prefill's operands where weights aren't quantised: both f32, the rows that a tile of products takes interleaved vector by vector.
//!
//! ```text
//! activations  (token tiles, vectors, tile tokens, LANES)   f32
//! weights      (strips, vectors, strip rows, LANES)         f32
//! ```
//!
//! Decode sums even and odd vectors of a row apart, so its even ones come first. Rows that are missing in a tile are zeros.

use super::packed::Aligned;
use crate::simd::{Isa, Simd, kernel};

/// Tokens of a tile for vectors of so many lanes: as many as leave registers for the operands.
pub(crate) fn tile_tokens(lanes: usize) -> usize {
    if lanes == 16 { 6 } else { 3 }
}

/// Rows of weights of a tile.
pub(crate) const STRIP_ROWS: usize = 4;

/// How rows of `n` numbers are packed, `width` at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) n: usize,
    pub(crate) lanes: usize,
    pub(crate) width: usize,
}

impl Layout {
    /// Vectors of a row.
    #[inline(always)]
    pub(crate) fn vectors(self) -> usize {
        self.n.div_ceil(self.lanes)
    }

    /// Those at even places.
    #[inline(always)]
    pub(crate) fn even_vectors(self) -> usize {
        self.vectors().div_ceil(2)
    }

    /// Numbers of a tile's rows.
    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        self.at(self.vectors())
    }

    /// Where a vector of a tile's rows begins, of all in the order in which they are packed.
    #[inline(always)]
    pub(crate) fn at(self, vector: usize) -> usize {
        vector * self.lanes * self.width
    }

    /// Packs a row as a tile's `i`th.
    #[inline(always)]
    pub(crate) fn pack<S: Simd, F: Floats>(self, s: S, from: F, i: usize, tile: &mut [f32]) {
        let at = |vector: usize| self.at(vector % 2 * self.even_vectors() + vector / 2) + i * S::LANES;
        let whole = self.n / S::LANES;
        for vector in 0..whole {
            s.store(from.load(s, vector * S::LANES), &mut tile[at(vector)..]);
        }
        if whole < self.vectors() {
            s.store(from.load_rest(s, whole * S::LANES), &mut tile[at(whole)..]);
        }
    }
}

/// A row of numbers that are loaded as f32.
pub(crate) trait Floats: Copy {
    /// The vector from `at` on.
    fn load<S: Simd>(self, s: S, at: usize) -> S::F32;
    /// What is left from `at` on, less than a vector, and zeros.
    fn load_rest<S: Simd>(self, s: S, at: usize) -> S::F32;
}

impl Floats for &[f32] {
    #[inline(always)]
    fn load<S: Simd>(self, s: S, at: usize) -> S::F32 {
        s.load(&self[at..])
    }
    #[inline(always)]
    fn load_rest<S: Simd>(self, s: S, at: usize) -> S::F32 {
        s.load_partial(&self[at..])
    }
}

/// The activations of a tile's tokens.
#[derive(Debug, Default)]
pub(crate) struct FloatTile {
    pub(crate) x: Aligned<f32>,
    pub(crate) n_tokens: usize,
}

impl FloatTile {
    /// Packs at most [`tile_tokens`] tokens: `x` is (tokens, `n`).
    pub(crate) fn pack(&mut self, isa: Isa, x: &[f32], n: usize) {
        let layout = Layout { n, lanes: isa.lanes(), width: tile_tokens(isa.lanes()) };
        self.n_tokens = x.len() / n;
        self.x.resize(layout.len());
        if self.n_tokens < layout.width {
            self.x.fill(0.0);
        }
        pack_tokens(isa, layout, x, &mut self.x);
    }
}

kernel! {
    fn pack_tokens(s; layout: Layout, x: &[f32], tile: &mut [f32]) {
        for (i, x) in x.chunks_exact(layout.n).enumerate() {
            layout.pack(s, x, i, tile);
        }
    }
}

/// Packs rows of weights, strip after strip.
#[inline(always)]
pub(crate) fn pack_rows<S: Simd, F: Floats>(
    s: S,
    n: usize,
    rows: impl ExactSizeIterator<Item = F>,
    panel: &mut [f32],
) {
    let layout = Layout { n, lanes: S::LANES, width: STRIP_ROWS };
    if !rows.len().is_multiple_of(STRIP_ROWS) {
        panel[rows.len() / STRIP_ROWS * layout.len()..][..layout.len()].fill(0.0);
    }
    for (i, row) in rows.enumerate() {
        layout.pack(s, row, i % STRIP_ROWS, &mut panel[i / STRIP_ROWS * layout.len()..][..layout.len()]);
    }
}
