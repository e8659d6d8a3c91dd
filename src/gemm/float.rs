//! The product of f32 panels.
//!
//! A tile of the output is some rows of weights by some tokens, a register each, whose lanes hold parts of a sum: as many products as
//! registers can hold are added up from few loads. Decode sums even and odd vectors of columns apart, so they are added up one after
//! the other, and a product comes out as decode's bits. `quant/packed_float.rs` has the operands' layout.
//!
//! Some columns of a tile of tokens meet all rows of a panel while they are in the first-level cache; the rows come from the second
//! level, at a third of what it delivers.
//!
//! Rows that aren't interleaved did worse: those of 8 KB all begin in one set of the first-level cache, which holds eight (46 GFLOP/s on
//! a thread against 95), and with AVX2 the addresses took more time than the products (48).

use std::ops::Range;

use super::Ahead;
use crate::parallel::Band;
use crate::quant::Store;
use crate::quant::f32::sum_tile;
use crate::quant::packed::Panel;
use crate::quant::packed_float::{FloatTile, Layout, STRIP_ROWS};
use crate::simd::Simd;
use crate::tensor::Matrix;

/// The most rows that are packed together. All tokens' activations pass by each panel, from the third-level cache if they are many:
/// with 48 rows instead of 24 (12), that costs 8 % (14 %) less of a prompt's time.
const MAX_PANEL_ROWS: usize = 48;

/// What a panel takes of the second-level cache, at most.
const PANEL_BYTES: usize = 768 << 10;

/// Rows of `n` numbers that are packed together.
pub(crate) fn panel_rows(n: usize) -> usize {
    let rows = PANEL_BYTES / size_of::<f32>() / n;
    (rows / STRIP_ROWS * STRIP_ROWS).clamp(STRIP_ROWS, MAX_PANEL_ROWS)
}

const MAX_STRIPS: usize = MAX_PANEL_ROWS / STRIP_ROWS;

/// Vectors of columns that pass all rows of a panel before the next ones: those of six tokens take 24 KB of the first-level cache.
/// With 32, a prompt in F16 took 8 % longer: sums come and go twice as often.
const BLOCK_VECTORS: usize = 64;

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
    let panel_rows = panel_rows(weights.n_columns);
    panel.floats.resize(panel_rows / STRIP_ROWS * layout.len());
    for first in rows.clone().step_by(panel_rows) {
        let n_rows = panel_rows.min(rows.end - first);
        weights.rows.pack_floats(s, first..first + n_rows, &mut panel.floats);
        let block = Block { panel: &panel.floats, layout, n_rows, column: first - rows.start, store };
        let visits = n_rows.div_ceil(STRIP_ROWS) * x.len();
        let ahead = Ahead::new(weights, first + n_rows..first + n_rows + panel_rows, visits);
        if S::LANES == 16 {
            block.multiply::<S, 6>(s, x, ahead, out);
        } else {
            block.multiply::<S, 3>(s, x, ahead, out);
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
    fn multiply<S: Simd, const T: usize>(
        self,
        s: S,
        x: &[FloatTile],
        mut ahead: Ahead<'_>,
        out: &mut Band<'_>,
    ) {
        let w = self.layout;
        let x_layout = Layout { width: T, ..w };
        let n_strips = self.n_rows.div_ceil(STRIP_ROWS);
        // Of even and of odd vectors. They are written before they are read.
        let mut sums = [[[[s.splat(0.0); T]; STRIP_ROWS]; MAX_STRIPS]; 2];
        for (i, tile) in x.iter().enumerate() {
            let halves = [0..w.even_vectors(), w.even_vectors()..w.vectors()];
            for (odd, vectors) in halves.into_iter().enumerate() {
                let mut first = vectors.start;
                // Also where there is no odd vector.
                loop {
                    let end = vectors.end.min(first + BLOCK_VECTORS);
                    let x = &tile.x[x_layout.at(first)..x_layout.at(end)];
                    for strip in 0..n_strips {
                        let rows = &self.panel[strip * w.len()..][w.at(first)..w.at(end)];
                        let mut acc = [[s.splat(0.0); T]; STRIP_ROWS];
                        if first > vectors.start {
                            acc = sums[odd][strip];
                        }
                        add_products::<S, T>(s, rows, x, &mut acc);
                        if odd == 0 || end < vectors.end {
                            sums[odd][strip] = acc;
                            continue;
                        }
                        for r in 0..STRIP_ROWS {
                            for t in 0..T {
                                acc[r][t] = s.add(sums[0][strip][r][t], acc[r][t]);
                            }
                        }
                        ahead.fetch(s);
                        self.store(&sum_tile(s, acc), strip, i * T..i * T + tile.n_tokens, out);
                    }
                    first = end;
                    if first == vectors.end {
                        break;
                    }
                }
            }
        }
    }

    /// Writes the products of a strip with some tokens.
    #[inline(always)]
    fn store<const T: usize>(
        self,
        products: &[[f32; T]; STRIP_ROWS],
        strip: usize,
        tokens: Range<usize>,
        out: &mut Band<'_>,
    ) {
        let n_rows = STRIP_ROWS.min(self.n_rows - strip * STRIP_ROWS);
        for (t, token) in tokens.enumerate() {
            let out = &mut out.row(token)[self.column + strip * STRIP_ROWS..][..n_rows];
            for r in 0..n_rows {
                match self.store {
                    Store::Set => out[r] = products[r][t],
                    Store::Add => out[r] += products[r][t],
                }
            }
        }
    }
}

/// Adds the products of some vectors of columns, lane by lane.
#[inline(always)]
fn add_products<S: Simd, const T: usize>(s: S, w: &[f32], x: &[f32], sums: &mut [[S::F32; T]; STRIP_ROWS]) {
    let mut acc = *sums;
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
    *sums = acc;
}
