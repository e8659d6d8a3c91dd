//! The product of weights that aren't quantised, which are widened on their way into registers.
//!
//! A tile of the output is two rows of weights by some tokens, and has two registers each, whose lanes hold parts of a sum: one
//! adds up the vectors of columns at even places, the other those at odd ones, as decode does, so a product comes out as
//! decode's bits. Some columns of a tile's tokens meet all rows of a panel while they are in the first-level cache; the rows
//! come from the second level, in which a panel stays until all tokens have passed.
//!
//! Weights aren't packed. They were, as f32 and interleaved vector by vector, with four rows in a tile and the even vectors
//! before the odd ones: that took 10 % of the time of a prompt in F16, and keeping one half's sums while the other's were made,
//! 7 %. Widening in the loop costs nothing beside 24 multiplications for four vectors. What rows that aren't interleaved need
//! is that few columns are taken at a time: those of 8 KB all begin in one set of the first-level cache.

use std::ops::Range;

use super::Ahead;
use crate::parallel::Band;
use crate::quant::float::{Float, FloatRows, FloatTile, tile_tokens};
use crate::quant::packed::Aligned;
use crate::quant::{Rows, Store};
use crate::simd::{Isa, Simd, kernel};
use crate::tensor::Matrix;

/// The most rows of a panel. All tokens' activations pass by each panel, from the third-level cache if they are many:
/// with 48 rows instead of 24 (12), that costs 8 % (14 %) less of a prompt's time.
const MAX_PANEL_ROWS: usize = 48;

/// What a panel takes of the second-level cache, at most.
const PANEL_BYTES: usize = 768 << 10;

/// Rows, of so many bytes each, that all tokens pass by before the next ones.
pub(crate) fn panel_rows(row_bytes: usize) -> usize {
    (PANEL_BYTES / row_bytes / STRIP_ROWS * STRIP_ROWS).clamp(STRIP_ROWS, MAX_PANEL_ROWS)
}

/// Rows of a tile.
const STRIP_ROWS: usize = 2;
const MAX_STRIPS: usize = MAX_PANEL_ROWS / STRIP_ROWS;

/// The most tokens of a tile.
const MAX_TILE_TOKENS: usize = tile_tokens(16);

/// Columns that pass all rows of a panel before the next ones: those of six tokens take 24 KB of the first-level cache.
const BLOCK_COLUMNS: usize = 1024;

/// From so many tokens on, a tile beats a product after another.
pub(crate) const MIN_TOKENS: usize = 3;

/// The products of some rows with every token, into `out`: (`n_tokens`, as many columns as rows).
pub(crate) fn multiply(
    isa: Isa,
    weights: Matrix<'_>,
    rows: Range<usize>,
    x: &[FloatTile],
    room: &mut Aligned<f32>,
    out: &mut Band<'_>,
    store: Store,
) {
    match weights.rows {
        Rows::F32(floats) => panels(isa, weights, floats, rows, x, room, out, store),
        Rows::F16(floats) => panels(isa, weights, floats, rows, x, room, out, store),
        Rows::Bf16(floats) => panels(isa, weights, floats, rows, x, room, out, store),
        _ => unreachable!("quantised weights are multiplied as int8"),
    }
}

kernel! {
    #[allow(clippy::too_many_arguments, reason = "those of its one caller, and the weights with their type")]
    fn panels<F: Float>(
        s; weights: Matrix<'_>, floats: FloatRows<'_, F>, rows: Range<usize>, x: &[FloatTile], room: &mut Aligned<f32>,
        out: &mut Band<'_>, store: Store,
    ) {
        let panel_rows = panel_rows(weights.row_bytes());
        for first in rows.clone().step_by(panel_rows) {
            let panel_rows = first..rows.end.min(first + panel_rows);
            let next = panel_rows.end..panel_rows.end + panel_rows.len();
            let (floats, panel_rows) = F::align::<S>(floats, panel_rows, room);
            let panel = Panel {
                weights: floats,
                column: first - rows.start,
                rows: panel_rows,
                n_columns: weights.n_columns,
                store,
            };
            let ahead = Ahead::new(weights, next, panel.n_strips() * x.len());
            if S::LANES == 16 {
                panel.multiply::<S, 6>(s, x, ahead, out);
            } else {
                panel.multiply::<S, 3>(s, x, ahead, out);
            }
        }
    }
}

/// Some rows of weights, and where their products go.
struct Panel<'a, F: Float> {
    weights: FloatRows<'a, F>,
    rows: Range<usize>,
    n_columns: usize,
    /// The first column of the output.
    column: usize,
    store: Store,
}

/// The sums of the vectors at even and at odd places, of a strip of rows with `T` tokens.
type Sums<S, const T: usize> = [[[<S as Simd>::F32; T]; STRIP_ROWS]; 2];

impl<F: Float> Panel<'_, F> {
    fn n_strips(&self) -> usize {
        self.rows.len().div_ceil(STRIP_ROWS)
    }

    /// All rows with all tokens, in tiles of `T` tokens.
    #[inline(always)]
    fn multiply<S: Simd, const T: usize>(
        &self,
        s: S,
        x: &[FloatTile],
        mut ahead: Ahead<'_>,
        out: &mut Band<'_>,
    ) {
        let mut room = [[[[s.splat(0.0); T]; STRIP_ROWS]; 2]; MAX_STRIPS];
        let mut products = [[0.0; MAX_PANEL_ROWS]; MAX_TILE_TOKENS];
        for (i, tile) in x.iter().enumerate() {
            for first in (0..self.n_columns).step_by(BLOCK_COLUMNS) {
                let columns = first..self.n_columns.min(first + BLOCK_COLUMNS);
                let x = &tile.x[first * T..][..columns.len().next_multiple_of(S::LANES) * T];
                for strip in 0..self.n_strips() {
                    // Where a row is missing, the last one stands for it.
                    let mut w = [&[][..]; STRIP_ROWS];
                    for r in 0..STRIP_ROWS {
                        let row = (self.rows.start + strip * STRIP_ROWS + r).min(self.rows.end - 1);
                        w[r] = &self.weights.row(row)[columns.clone()];
                    }
                    let mut sums = [[[s.splat(0.0); T]; STRIP_ROWS]; 2];
                    if first > 0 {
                        sums = room[strip];
                    }
                    sums = add_products::<S, F, T>(s, w, x, sums);
                    if columns.end < self.n_columns {
                        room[strip] = sums;
                        continue;
                    }
                    ahead.fetch(s);
                    let sums = sum_lanes(s, sums);
                    for t in 0..T {
                        for r in 0..STRIP_ROWS {
                            products[t][strip * STRIP_ROWS + r] = sums[t * STRIP_ROWS + r];
                        }
                    }
                }
            }
            for t in 0..tile.n_tokens {
                self.store(&products[t], &mut out.row(i * T + t)[self.column..]);
            }
        }
    }

    /// Writes a token's products.
    #[inline(always)]
    fn store(&self, products: &[f32; MAX_PANEL_ROWS], out: &mut [f32]) {
        let n = self.rows.len();
        let (products, out) = (&products[..n], &mut out[..n]);
        match self.store {
            Store::Set => out.copy_from_slice(products),
            Store::Add => out.iter_mut().zip(products).for_each(|(out, product)| *out += product),
        }
    }
}

/// The sums, with the products of some columns added. (They come and go by value: a reference has them written to memory at every
/// step.)
#[inline(always)]
fn add_products<S: Simd, F: Float, const T: usize>(
    s: S,
    [w0, w1]: [&[F::Stored]; STRIP_ROWS],
    x: &[f32],
    [mut even, mut odd]: Sums<S, T>,
) -> Sums<S, T> {
    let (mut pairs0, mut pairs1) = (w0.chunks_exact(2 * S::LANES), w1.chunks_exact(2 * S::LANES));
    let (x_pairs, x_rest) = x.split_at(w0.len() / (2 * S::LANES) * (2 * S::LANES) * T);
    for ((w0, w1), x) in (&mut pairs0).zip(&mut pairs1).zip(x_pairs.chunks_exact(2 * T * S::LANES)) {
        even = add_vector(s, [F::load(s, w0), F::load(s, w1)], x, even);
        let w = [F::load(s, &w0[S::LANES..]), F::load(s, &w1[S::LANES..])];
        odd = add_vector(s, w, &x[T * S::LANES..], odd);
    }
    // Less than two vectors are left.
    let (w0, w1) = (pairs0.remainder(), pairs1.remainder());
    let mut x_rest = x_rest.chunks_exact(T * S::LANES);
    if let Some(x) = x_rest.next() {
        even = add_vector(s, [load_up_to::<S, F>(s, w0), load_up_to::<S, F>(s, w1)], x, even);
    }
    if let Some(x) = x_rest.next() {
        let (w0, w1) = (&w0[S::LANES..], &w1[S::LANES..]);
        odd = add_vector(s, [load_up_to::<S, F>(s, w0), load_up_to::<S, F>(s, w1)], x, odd);
    }
    [even, odd]
}

/// A vector, or what there is of it, and then zeros.
#[inline(always)]
fn load_up_to<S: Simd, F: Float>(s: S, from: &[F::Stored]) -> S::F32 {
    if from.len() < S::LANES { F::load_partial(s, from) } else { F::load(s, from) }
}

/// The sums, with the products of a vector of columns added.
#[inline(always)]
fn add_vector<S: Simd, const T: usize>(
    s: S,
    w: [S::F32; STRIP_ROWS],
    x: &[f32],
    mut sums: [[S::F32; T]; STRIP_ROWS],
) -> [[S::F32; T]; STRIP_ROWS] {
    let x = &x[..T * S::LANES];
    for t in 0..T {
        let x = s.load(&x[t * S::LANES..]);
        for r in 0..STRIP_ROWS {
            sums[r][t] = s.mul_add(w[r], x, sums[r][t]);
        }
    }
    sums
}

/// The products of a strip, that of row `r` and token `t` at `t * STRIP_ROWS + r`.
#[inline(always)]
fn sum_lanes<S: Simd, const T: usize>(s: S, [even, odd]: Sums<S, T>) -> [f32; MAX_TILE_TOKENS * STRIP_ROWS] {
    let mut lanes = [s.fold_x8(s.splat(0.0)); MAX_TILE_TOKENS * STRIP_ROWS];
    for t in 0..T {
        for r in 0..STRIP_ROWS {
            lanes[t * STRIP_ROWS + r] = s.fold_x8(s.add(even[r][t], odd[r][t]));
        }
    }
    s.sum_x8_each(lanes)
}
