//! The product of f32 panels.
//!
//! A tile of the output is some rows of weights by some tokens, a register each, whose lanes hold parts of a sum: as many products as
//! registers can hold are added up from few loads. Decode sums even and odd vectors of columns apart, so a tile is passed over twice,
//! and comes out as decode's bits. `quant/packed_float.rs` has the operands' layout.
//!
//! Rows that aren't interleaved did worse: those of 8 KB all begin in one set of the first-level cache, which holds eight (46 GFLOP/s on
//! a thread against 95), and with AVX2 the addresses took more time than the products (48).

use std::ops::Range;

use crate::parallel::Band;
use crate::quant::Store;
use crate::quant::f32::sum_tile;
use crate::quant::packed::Panel;
use crate::quant::packed_float::{FloatTile, Layout, STRIP_ROWS};
use crate::simd::Simd;
use crate::tensor::Matrix;

/// Rows that are packed together: 24 rows of 5,632 take 540 KB.
pub(crate) const PANEL_ROWS: usize = 24;

/// From so many tokens on it pays to pack.
pub(crate) const MIN_TOKENS: usize = 3;

/// The products of some rows with every token, into `out`: (`n_tokens`, as many columns as rows).
#[inline(always)]
pub(crate) fn multiply<S: Simd>(
    s: S,
    weights: Matrix<'_>,
    rows: Range<usize>,
    x: &[FloatTile],
    panel: &mut Panel,
    out: &mut Band<'_>,
    store: Store,
) {
    let layout = Layout { n: weights.n_columns, lanes: S::LANES, width: STRIP_ROWS };
    panel.floats.resize(PANEL_ROWS / STRIP_ROWS * layout.len());
    for first in rows.clone().step_by(PANEL_ROWS) {
        let n_rows = PANEL_ROWS.min(rows.end - first);
        weights.rows.pack_floats(s, first..first + n_rows, &mut panel.floats);
        let block = Block { panel: &panel.floats, layout, n_rows, column: first - rows.start, store };
        if S::LANES == 16 {
            block.multiply::<S, 6>(s, x, out);
        } else {
            block.multiply::<S, 3>(s, x, out);
        }
    }
}

/// A panel, and where its products go.
#[derive(Clone, Copy)]
struct Block<'a> {
    panel: &'a [f32],
    layout: Layout,
    n_rows: usize,
    /// The first column of the output.
    column: usize,
    store: Store,
}

impl Block<'_> {
    /// All rows with all tokens, in tiles of `T` tokens.
    #[inline(always)]
    fn multiply<S: Simd, const T: usize>(self, s: S, x: &[FloatTile], out: &mut Band<'_>) {
        for (i, tile) in x.iter().enumerate() {
            for strip in 0..self.n_rows.div_ceil(STRIP_ROWS) {
                self.tile::<S, T>(s, tile, strip, i * T, out);
            }
        }
    }

    /// The products of a strip with a tile, whose first token is `token`.
    #[inline(always)]
    fn tile<S: Simd, const T: usize>(
        self,
        s: S,
        x: &FloatTile,
        strip: usize,
        token: usize,
        out: &mut Band<'_>,
    ) {
        let w = &self.panel[strip * self.layout.len()..][..self.layout.len()];
        let middle = Layout { width: T, ..self.layout }.middle();
        let even = pass::<S, T>(s, &w[..self.layout.middle()], &x.x[..middle]);
        let mut sums = pass::<S, T>(s, &w[self.layout.middle()..], &x.x[middle..]);
        for r in 0..STRIP_ROWS {
            for t in 0..T {
                sums[r][t] = s.add(even[r][t], sums[r][t]);
            }
        }
        let products = sum_tile(s, sums);
        let n_rows = STRIP_ROWS.min(self.n_rows - strip * STRIP_ROWS);
        for t in 0..x.n_tokens {
            let out = &mut out.row(token + t)[self.column + strip * STRIP_ROWS..][..n_rows];
            for r in 0..n_rows {
                match self.store {
                    Store::Set => out[r] = products[r][t],
                    Store::Add => out[r] += products[r][t],
                }
            }
        }
    }
}

/// The sums over some vectors of columns, spread over lanes.
#[inline(always)]
fn pass<S: Simd, const T: usize>(s: S, w: &[f32], x: &[f32]) -> [[S::F32; T]; STRIP_ROWS] {
    let mut acc = [[s.splat(0.0); T]; STRIP_ROWS];
    for (w, x) in w.chunks_exact(STRIP_ROWS * S::LANES).zip(x.chunks_exact(T * S::LANES)) {
        let mut xs = [s.splat(0.0); T];
        for t in 0..T {
            xs[t] = s.load(&x[t * S::LANES..]);
        }
        for r in 0..STRIP_ROWS {
            let w = s.load(&w[r * S::LANES..]);
            for t in 0..T {
                acc[r][t] = s.mul_add(w, xs[t], acc[r][t]);
            }
        }
    }
    acc
}
