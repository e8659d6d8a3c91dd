//! Prefill's product with weights that aren't quantized, which are widened on their way into
//! registers.
//!
//! A tile of the output is `R` rows of weights by `T` tokens. Its sums stay in registers, sixteen
//! lanes of each as in decode, so a product comes out as decode's bits. In vectors of sixteen, four
//! rows by six tokens take 24 registers: ten loads for 24 multiplications. Some columns of a tile's
//! tokens are multiplied with all rows of a panel while they are in the first-level cache; the rows
//! come from the second level, in which a panel stays until all tokens have passed. Where a format
//! has two sums, the columns of one pass before those of the other.
//!
//! Weights aren't packed: widening in the loop costs nothing beside 24 multiplications for four
//! vectors, and packing them as f32 took a tenth of the time. As rows lie where they are, few
//! columns are taken at a time: rows of 8 KB all begin in one set of the first-level cache.

use std::ops::Range;

use super::Prefetcher;
use crate::parallel::ColumnSlice;
use crate::quant::float::{
    F32Tile, Float, FloatRows, LANES, MAX_ACCUMULATORS, UNROLL, add_sums, sum_vectors, tile_tokens,
};
use crate::quant::packed::Aligned;
use crate::quant::{Output, Rows};
use crate::simd::{Isa, Simd, kernel};
use crate::tensor::Matrix;

/// The most rows of a panel. All tokens' activations pass by each panel, from the third-level cache
/// if they are many, which costs less the more rows there are.
const MAX_PANEL_ROWS: usize = 48;

/// What a panel takes of the second-level cache, at most.
const PANEL_BYTES: usize = 768 << 10;

/// Rows, of `row_bytes` bytes each, that all tokens pass by before the next ones.
pub(crate) fn panel_rows(row_bytes: usize) -> usize {
    (PANEL_BYTES / row_bytes / MAX_TILE_ROWS * MAX_TILE_ROWS).clamp(MAX_TILE_ROWS, MAX_PANEL_ROWS)
}

/// The most rows of a tile.
const MAX_TILE_ROWS: usize = 4;

/// The most tokens of a tile.
const MAX_TILE_TOKENS: usize = tile_tokens(16);

/// Columns of one sum that pass all rows of a panel before the next ones: those of six tokens take
/// 24 KB of the first-level cache.
const BLOCK_COLUMNS: usize = 1024;

/// The least tokens for which tiles are faster than one product after another.
pub(crate) const MIN_TOKENS: usize = 3;

/// The products of some rows with every token, into `out`: (`n_tokens`, a column for each row).
pub(crate) fn multiply(
    isa: Isa,
    weights: Matrix<'_>,
    rows: Range<usize>,
    x: &[F32Tile],
    copy: &mut Aligned<f32>,
    out: &mut ColumnSlice<'_>,
    output: Output,
) {
    match weights.rows {
        Rows::F32(floats) => panels(isa, weights, floats, rows, x, copy, out, output),
        Rows::F16(floats) => panels(isa, weights, floats, rows, x, copy, out, output),
        Rows::Bf16(floats) => panels(isa, weights, floats, rows, x, copy, out, output),
        _ => unreachable!("quantized weights are multiplied as int8"),
    }
}

kernel! { float
    #[allow(clippy::too_many_arguments, reason = "those of its one caller, and the weights with their type")]
    fn panels<F: Float>(
        s; weights: Matrix<'_>, floats: FloatRows<'_, F>, rows: Range<usize>, x: &[F32Tile], copy: &mut Aligned<f32>,
        out: &mut ColumnSlice<'_>, output: Output,
    ) {
        let panel_rows = panel_rows(weights.row_bytes());
        for first in rows.clone().step_by(panel_rows) {
            let panel_rows = first..rows.end.min(first + panel_rows);
            let next = panel_rows.end..panel_rows.end + panel_rows.len();
            let (floats, panel_rows) = F::align::<S>(floats, panel_rows, copy);
            let panel = Panel {
                weights: floats,
                column: first - rows.start,
                rows: panel_rows,
                n_columns: weights.n_columns,
                output,
            };
            if S::LANES == LANES {
                panel.multiply::<S, 1, 4, 6, { MAX_PANEL_ROWS / 4 }>(s, x, weights, next, out);
            } else {
                panel.multiply::<S, 2, 2, 3, { MAX_PANEL_ROWS / 2 }>(s, x, weights, next, out);
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
    output: Output,
}

/// One sum of each product of a tile, `R` rows with `T` tokens, in `P` vectors each.
type Sums<S, const P: usize, const R: usize, const T: usize> = [[[<S as Simd>::F32; P]; T]; R];

impl<F: Float> Panel<'_, F> {
    /// All rows with all tokens, in tiles of `R` rows and `T` tokens. `next` are the rows to fetch
    /// meanwhile.
    #[inline(always)]
    fn multiply<S: Simd, const P: usize, const R: usize, const T: usize, const TILES: usize>(
        &self,
        s: S,
        x: &[F32Tile],
        weights: Matrix<'_>,
        next: Range<usize>,
        out: &mut ColumnSlice<'_>,
    ) {
        let n_tiles = self.rows.len().div_ceil(R);
        let mut ahead = Prefetcher::new(weights, next, n_tiles * x.len());
        let mut workspace = [[[[[s.splat(0.0); P]; T]; R]; TILES]; MAX_ACCUMULATORS];
        let mut products = [[0.0; MAX_PANEL_ROWS]; MAX_TILE_TOKENS];
        for (i, tile) in x.iter().enumerate() {
            let block_columns = F::ACCUMULATORS * BLOCK_COLUMNS;
            for first in (0..self.n_columns).step_by(block_columns) {
                let columns = first..self.n_columns.min(first + block_columns);
                let x = &tile.x[first * T..][..columns.len().next_multiple_of(S::LANES) * T];
                for sum in 0..F::ACCUMULATORS {
                    for tile_row in 0..n_tiles {
                        // Where a row is missing, the last one stands for it.
                        let mut w = [&[][..]; R];
                        for r in 0..R {
                            let row = (self.rows.start + tile_row * R + r).min(self.rows.end - 1);
                            w[r] = &self.weights.row(row)[columns.clone()];
                        }
                        let mut sums = [[[s.splat(0.0); P]; T]; R];
                        if first > 0 {
                            sums = workspace[sum][tile_row];
                        }
                        sums = add_products::<S, F, P, R, T>(s, w, x, sum, sums);
                        if columns.end < self.n_columns || sum + 1 < F::ACCUMULATORS {
                            workspace[sum][tile_row] = sums;
                            continue;
                        }
                        ahead.fetch(s);
                        if F::ACCUMULATORS == MAX_ACCUMULATORS {
                            for r in 0..R {
                                for t in 0..T {
                                    sums[r][t] = add_sums(s, workspace[0][tile_row][r][t], sums[r][t]);
                                }
                            }
                        }
                        let sums = sum_lanes(s, sums);
                        for t in 0..T {
                            products[t][tile_row * R..][..R].copy_from_slice(&sums[t * R..][..R]);
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
        match self.output {
            Output::Overwrite => out.copy_from_slice(products),
            Output::Accumulate => out.iter_mut().zip(products).for_each(|(out, product)| *out += product),
        }
    }
}

/// The sums, with the products of those of some columns added that belong to the `sum`th sum. (They
/// come and go by value: a reference has them written to memory at every step.)
#[inline(always)]
fn add_products<S: Simd, F: Float, const P: usize, const R: usize, const T: usize>(
    s: S,
    w: [&[F::Stored]; R],
    x: &[f32],
    sum: usize,
    mut sums: Sums<S, P, R, T>,
) -> Sums<S, P, R, T> {
    let n = w[0].len();
    let mut rows = [&[][..]; R];
    for r in 0..R {
        rows[r] = &w[r][..n];
    }
    let mut i = sum * UNROLL;
    // Two vectors at once: with more, the compiler mixes their loads and then keeps sums in memory.
    // So it does for an index that isn't a constant, which is why both are written out.
    while i + 2 * S::LANES <= n {
        let x = &x[i * T..][..2 * S::LANES * T];
        sums = add_vector::<S, P, R, T, 0>(s, load_each::<S, F, R>(s, rows, i), x, sums);
        let (second, x) = (load_each::<S, F, R>(s, rows, i + S::LANES), &x[S::LANES * T..]);
        sums = add_second_vector(s, second, x, sums);
        i += 2 * S::LANES;
        if i.is_multiple_of(UNROLL) {
            i += (F::ACCUMULATORS - 1) * UNROLL;
        }
    }
    // Less than two vectors are left, and the last one may be incomplete.
    if i < n {
        let rest = &x[i * T..];
        sums = add_vector::<S, P, R, T, 0>(s, load_up_to_each::<S, F, R>(s, rows, i), rest, sums);
        i += S::LANES;
        if i < n {
            let rest = &x[i * T..];
            sums = add_second_vector(s, load_up_to_each::<S, F, R>(s, rows, i), rest, sums);
        }
    }
    sums
}

/// A vector of each row.
#[inline(always)]
fn load_each<S: Simd, F: Float, const R: usize>(s: S, rows: [&[F::Stored]; R], at: usize) -> [S::F32; R] {
    let mut vectors = [s.splat(0.0); R];
    for r in 0..R {
        vectors[r] = F::load(s, &rows[r][at..]);
    }
    vectors
}

/// A vector of each row, or what there is of it, and then zeros.
#[inline(always)]
fn load_up_to_each<S: Simd, F: Float, const R: usize>(
    s: S,
    rows: [&[F::Stored]; R],
    at: usize,
) -> [S::F32; R] {
    let mut vectors = [s.splat(0.0); R];
    for r in 0..R {
        let rest = &rows[r][at..];
        vectors[r] = if rest.len() < S::LANES { F::load_partial(s, rest) } else { F::load(s, rest) };
    }
    vectors
}

/// The sums, with the products of a vector of columns added to the `V`th of their vectors.
#[inline(always)]
fn add_vector<S: Simd, const P: usize, const R: usize, const T: usize, const V: usize>(
    s: S,
    w: [S::F32; R],
    x: &[f32],
    mut sums: Sums<S, P, R, T>,
) -> Sums<S, P, R, T> {
    let x = &x[..T * S::LANES];
    for t in 0..T {
        let x = s.load(&x[t * S::LANES..]);
        for r in 0..R {
            sums[r][t][V] = s.mul_add(w[r], x, sums[r][t][V]);
        }
    }
    sums
}

/// [`add_vector`] for the second of two vectors of columns: to the same vectors if they have all
/// [`LANES`], otherwise to the others.
#[inline(always)]
fn add_second_vector<S: Simd, const P: usize, const R: usize, const T: usize>(
    s: S,
    w: [S::F32; R],
    x: &[f32],
    sums: Sums<S, P, R, T>,
) -> Sums<S, P, R, T> {
    if P == 2 {
        add_vector::<S, P, R, T, 1>(s, w, x, sums)
    } else {
        add_vector::<S, P, R, T, 0>(s, w, x, sums)
    }
}

/// The products of a tile, that of row `r` and token `t` at `t * R + r`.
#[inline(always)]
fn sum_lanes<S: Simd, const P: usize, const R: usize, const T: usize>(
    s: S,
    sums: Sums<S, P, R, T>,
) -> [f32; MAX_TILE_TOKENS * MAX_TILE_ROWS] {
    let mut eight = [s.reduce_to_x8(s.splat(0.0)); MAX_TILE_TOKENS * MAX_TILE_ROWS];
    for t in 0..T {
        for r in 0..R {
            eight[t * R + r] = s.reduce_to_x8(sum_vectors(s, sums[r][t]));
        }
    }
    s.hsum_each(eight)
}
