//! The product of f32 panels.
//!
//! A tile of the output is `R` rows of weights by `T` tokens, a register each, whose lanes hold parts of the sums: as many products as
//! registers can hold are added up from fewer loads. Decode sums even and odd vectors of columns apart, so a tile is passed
//! over twice, and comes out as decode's bits.
//!
//! A panel's rows stay in the second-level cache while all tokens pass; a tile of tokens, of which a pass reads half the lines, in the
//! first-level one.

use std::ops::Range;

use crate::parallel::Band;
use crate::quant::Store;
use crate::quant::activation::Input;
use crate::quant::f32::sum_tile;
use crate::quant::packed::Panel;
use crate::simd::Simd;
use crate::tensor::Matrix;

/// Rows that are widened together: 24 rows of 5,632 take 540 KB.
pub(crate) const PANEL_ROWS: usize = 24;

/// From so many tokens on it pays to widen weights for all of them.
pub(crate) const MIN_TOKENS: usize = 3;

/// The products of some rows with every token, into `out`: (`n_tokens`, as many columns as rows).
#[inline(always)]
pub(crate) fn multiply<S: Simd>(
    s: S,
    weights: Matrix<'_>,
    rows: Range<usize>,
    x: Input<'_>,
    panel: &mut Panel,
    out: &mut Band<'_>,
    store: Store,
) {
    for first in rows.clone().step_by(PANEL_ROWS) {
        let n_rows = PANEL_ROWS.min(rows.end - first);
        let floats = weights.rows.floats(s, first..first + n_rows, &mut panel.floats);
        let block = Block { floats, n: weights.n_columns, column: first - rows.start, store };
        // A tile's sums leave room for a column of weights or tokens, and one operand more.
        if S::LANES == 16 {
            block.multiply::<S, 4, 6>(s, x, out);
        } else {
            block.multiply::<S, 3, 4>(s, x, out);
        }
    }
}

/// Some rows, and where their products go.
#[derive(Clone, Copy)]
struct Block<'a> {
    /// (rows, `n`)
    floats: &'a [f32],
    n: usize,
    /// The first column of the output.
    column: usize,
    store: Store,
}

impl Block<'_> {
    /// All rows with all tokens, in tiles of `R` rows by `T` tokens.
    #[inline(always)]
    fn multiply<S: Simd, const R: usize, const T: usize>(self, s: S, x: Input<'_>, out: &mut Band<'_>) {
        let (n_rows, n_tokens) = (self.floats.len() / self.n, x.n_tokens());
        let mut token = 0;
        while token < n_tokens {
            let tokens = T.min(n_tokens - token);
            let mut row = 0;
            while row + R <= n_rows {
                if tokens == T {
                    self.tile::<S, R, T>(s, x, row, token, out);
                } else {
                    for t in token..token + tokens {
                        self.tile::<S, R, 1>(s, x, row, t, out);
                    }
                }
                row += R;
            }
            for row in row..n_rows {
                for t in token..token + tokens {
                    self.tile::<S, 1, 1>(s, x, row, t, out);
                }
            }
            token += tokens;
        }
    }

    /// The products of `R` rows with `T` tokens.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const T: usize>(
        self,
        s: S,
        x: Input<'_>,
        row: usize,
        token: usize,
        out: &mut Band<'_>,
    ) {
        let mut w: [&[f32]; R] = [&[]; R];
        for r in 0..R {
            w[r] = &self.floats[(row + r) * self.n..][..self.n];
        }
        let mut tokens: [&[f32]; T] = [&[]; T];
        for t in 0..T {
            tokens[t] = x.row(token + t);
        }
        let even = pass(s, w, tokens, 0);
        let mut sums = pass(s, w, tokens, S::LANES);
        for r in 0..R {
            for t in 0..T {
                sums[r][t] = s.add(even[r][t], sums[r][t]);
            }
        }
        let products = sum_tile(s, sums);
        for t in 0..T {
            let out = &mut out.row(token + t)[self.column + row..][..R];
            for r in 0..R {
                match self.store {
                    Store::Set => out[r] = products[r][t],
                    Store::Add => out[r] += products[r][t],
                }
            }
        }
    }
}

/// The sums over every other vector of columns, from column `first` on, spread over lanes.
#[inline(always)]
fn pass<S: Simd, const R: usize, const T: usize>(
    s: S,
    w: [&[f32]; R],
    x: [&[f32]; T],
    first: usize,
) -> [[S::F32; T]; R] {
    let n = w[0].len();
    let mut acc = [[s.splat(0.0); T]; R];
    let mut i = first;
    while i + S::LANES <= n {
        let mut xs = [s.splat(0.0); T];
        for t in 0..T {
            xs[t] = s.load(&x[t][i..]);
        }
        for r in 0..R {
            let w = s.load(&w[r][i..]);
            for t in 0..T {
                acc[r][t] = s.mul_add(w, xs[t], acc[r][t]);
            }
        }
        i += 2 * S::LANES;
    }
    if i < n {
        for r in 0..R {
            let w = s.load_partial(&w[r][i..]);
            for t in 0..T {
                acc[r][t] = s.mul_add(w, s.load_partial(&x[t][i..]), acc[r][t]);
            }
        }
    }
    acc
}
