//! Prefill's product with weights that aren't quantized, which are widened on their way into
//! registers.
//!
//! A tile of the output is `R` rows of weights by `T` tokens. Its sums stay in registers, a vector
//! of each: three rows by four tokens in 12 of 16 registers, or four by six in 24 of 32. A sum has
//! sixteen lanes, as in decode, so that a product comes out as decode's bits. Where a vector has
//! eight of them, a tile's first halves are added up before its second ones, which is as good as a
//! vector that is half as long and a matrix with half as many columns.
//!
//! Some columns of a tile's tokens are multiplied with all rows of a panel while they are in the
//! first-level cache; the rows come from the second level, in which a panel stays until all tokens
//! have passed. Where a format has two sums, the columns of one pass before those of the other.
//! Between two blocks of columns, sums are kept in memory.
//!
//! Weights aren't packed: widening in the loop costs little beside a tile's multiplications, and
//! packing them as f32 took a tenth of the time. As rows lie where they are, few columns are taken
//! at a time: rows of 8 KB all begin in one set of the first-level cache.

use std::ops::Range;

use super::Prefetcher;
use crate::parallel::ColumnSlice;
use crate::quant::float::{F32Tile, Float, FloatRows, LANES, MAX_ACCUMULATORS, UNROLL, tile_tokens};
use crate::quant::packed::Aligned;
use crate::quant::{Output, Rows};
use crate::simd::{Isa, Simd, kernel};
use crate::tensor::Matrix;

/// The most rows of a panel. All tokens' activations pass by each panel, from the third-level cache
/// if they are many, which costs less the more rows there are.
const MAX_PANEL_ROWS: usize = 48;

/// The least rows of a panel: whole tiles, whatever a vector's length.
const MIN_PANEL_ROWS: usize = 12;

/// What a panel takes of the second-level cache, at most.
const PANEL_BYTES: usize = 768 << 10;

/// Rows, of `row_bytes` bytes each, that all tokens pass by before the next ones.
pub(crate) fn panel_rows(row_bytes: usize) -> usize {
    (PANEL_BYTES / row_bytes / MIN_PANEL_ROWS * MIN_PANEL_ROWS).clamp(MIN_PANEL_ROWS, MAX_PANEL_ROWS)
}

/// The most rows of a tile.
const MAX_TILE_ROWS: usize = 4;

/// The most tokens of a tile.
const MAX_TILE_TOKENS: usize = tile_tokens(LANES);

/// Groups of [`LANES`] columns of one sum that pass all rows of a panel before the next ones: those
/// of six tokens take 24 KB of the first-level cache.
const BLOCK_GROUPS: usize = 64;

/// Groups that are added to one sum before the next ones are added to another, if there is one.
const UNROLL_GROUPS: usize = UNROLL / LANES;

/// The least tokens for which tiles, on vectors of `lanes`, are faster than products that share a
/// row.
pub(crate) const fn min_tokens(lanes: usize) -> usize {
    if lanes == LANES { 9 } else { 7 }
}

/// What a thread keeps in memory while it multiplies.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    /// The rows of a panel, where the matrix has them at addresses that would be slow.
    aligned_rows: Aligned<f32>,
    /// A panel's sums with a tile's tokens: (row tiles, sums, vectors of a sum, `R`, `T`, lanes).
    sums: Aligned<f32>,
}

/// The products of some rows with every token, into `out`: (`n_tokens`, a column for each row).
pub(crate) fn multiply(
    isa: Isa,
    weights: Matrix<'_>,
    rows: Range<usize>,
    x: &[F32Tile],
    workspace: &mut Workspace,
    out: &mut ColumnSlice<'_>,
    output: Output,
) {
    match weights.rows {
        Rows::F32(floats) => panels(isa, weights, floats, rows, x, workspace, out, output),
        Rows::F16(floats) => panels(isa, weights, floats, rows, x, workspace, out, output),
        Rows::Bf16(floats) => panels(isa, weights, floats, rows, x, workspace, out, output),
        _ => unreachable!("quantized weights are multiplied as int8"),
    }
}

kernel! { float
    #[allow(clippy::too_many_arguments, reason = "those of its one caller, and the weights with their type")]
    fn panels<F: Float>(
        s; weights: Matrix<'_>, floats: FloatRows<'_, F>, rows: Range<usize>, x: &[F32Tile],
        workspace: &mut Workspace, out: &mut ColumnSlice<'_>, output: Output,
    ) {
        let Workspace { aligned_rows, sums } = workspace;
        let panel_rows = panel_rows(weights.row_bytes());
        for first in rows.clone().step_by(panel_rows) {
            let panel_rows = first..rows.end.min(first + panel_rows);
            let next = panel_rows.end..panel_rows.end + panel_rows.len();
            let (floats, panel_rows) = F::align::<S>(floats, panel_rows, aligned_rows);
            let panel = Panel { weights: floats, column: first - rows.start, rows: panel_rows, output };
            if const { S::LANES == LANES } {
                panel.multiply::<S, 4, 6, LANES>(s, x, weights, next, sums, out);
            } else {
                panel.multiply::<S, 3, 4, { LANES / 2 }>(s, x, weights, next, sums, out);
            }
        }
    }
}

/// Some rows of weights, and where their products go.
struct Panel<'a, F: Float> {
    weights: FloatRows<'a, F>,
    rows: Range<usize>,
    /// The first column of the output.
    column: usize,
    output: Output,
}

/// A vector of each product of a tile, `R` rows with `T` tokens.
type Sums<S, const R: usize, const T: usize> = [[<S as Simd>::F32; T]; R];

impl<F: Float> Panel<'_, F> {
    /// All rows with all tokens, in tiles of `R` rows and `T` tokens, and vectors of `L` lanes.
    /// `next` are the rows to fetch meanwhile.
    #[inline(always)]
    fn multiply<S: Simd, const R: usize, const T: usize, const L: usize>(
        &self,
        s: S,
        x: &[F32Tile],
        weights: Matrix<'_>,
        next: Range<usize>,
        sums: &mut Aligned<f32>,
        out: &mut ColumnSlice<'_>,
    ) {
        let n_tiles = self.rows.len().div_ceil(R);
        let n_groups = weights.n_columns.div_ceil(LANES);
        let n_blocks = n_groups.div_ceil(F::ACCUMULATORS * BLOCK_GROUPS);
        let visits = n_tiles * x.len() * n_blocks * F::ACCUMULATORS * (LANES / L);
        let mut ahead = Prefetcher::new(weights, next, visits);
        let (vector_len, tile_len) = (R * T * L, F::ACCUMULATORS * R * T * LANES);
        sums.resize(n_tiles * tile_len);
        let mut products = [[0.0; MAX_PANEL_ROWS]; MAX_TILE_TOKENS];
        for (i, tile) in x.iter().enumerate() {
            for first in (0..n_groups).step_by(F::ACCUMULATORS * BLOCK_GROUPS) {
                let groups = first..n_groups.min(first + F::ACCUMULATORS * BLOCK_GROUPS);
                for sum in 0..F::ACCUMULATORS {
                    for (tile_row, kept) in sums.chunks_exact_mut(tile_len).enumerate() {
                        let w = self.tile_rows::<R>(tile_row * R);
                        for vector in 0..LANES / L {
                            ahead.fetch(s);
                            let kept = &mut kept[(sum * (LANES / L) + vector) * vector_len..][..vector_len];
                            let mut sums = [[s.splat(0.0); T]; R];
                            if first > 0 {
                                sums = load_sums(s, kept);
                            }
                            let x = tile.vectors::<T, L>(vector);
                            sums = add_products::<S, F, R, T, L>(s, w, x, groups.clone(), sum, vector, sums);
                            store_sums(s, sums, kept);
                        }
                    }
                }
            }
            for (tile_row, kept) in sums.chunks_exact(tile_len).enumerate() {
                let sums = sum_lanes::<S, F, R, T>(s, kept);
                for t in 0..T {
                    products[t][tile_row * R..][..R].copy_from_slice(&sums[t * R..][..R]);
                }
            }
            for t in 0..tile.n_tokens {
                self.store(&products[t], &mut out.row(i * T + t)[self.column..]);
            }
        }
    }

    /// The rows of a tile, from a row of the panel on. Where one is missing, the last one stands
    /// for it.
    #[inline(always)]
    fn tile_rows<const R: usize>(&self, first: usize) -> [&[F::Stored]; R] {
        let mut rows = [&[][..]; R];
        for r in 0..R {
            rows[r] = self.weights.row((self.rows.start + first + r).min(self.rows.end - 1));
        }
        rows
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

/// The sums, with the products of some groups of columns added: of those that belong to the `sum`th
/// sum, and in each group the `vector`th vector. (Sums come and go by value: a reference has them
/// written to memory at every step.)
#[inline(always)]
fn add_products<S: Simd, F: Float, const R: usize, const T: usize, const L: usize>(
    s: S,
    w: [&[F::Stored]; R],
    x: &[[[f32; L]; T]],
    groups: Range<usize>,
    sum: usize,
    vector: usize,
    mut sums: Sums<S, R, T>,
) -> Sums<S, R, T> {
    let n = w[0].len();
    // All of one length, so that one comparison shows that a group is within them.
    let end = groups.end.min(n / LANES);
    let whole = &x[..end];
    let mut rows = [&[][..]; R];
    for r in 0..R {
        rows[r] = &w[r].as_chunks::<LANES>().0[..end];
    }
    let mut i = groups.start + sum * UNROLL_GROUPS;
    while i < end {
        let mut vectors = [s.splat(0.0); R];
        for r in 0..R {
            vectors[r] = F::load(s, &rows[r][i][vector * L..][..L]);
        }
        sums = add_vectors(s, vectors, &whole[i], sums);
        i += 1;
        if i.is_multiple_of(UNROLL_GROUPS) {
            i += (F::ACCUMULATORS - 1) * UNROLL_GROUPS;
        }
    }
    let first = i * LANES + vector * L;
    if i < groups.end && first < n {
        let mut vectors = [s.splat(0.0); R];
        for r in 0..R {
            let rest = &w[r][first..n];
            vectors[r] = if rest.len() < L { F::load_partial(s, rest) } else { F::load(s, rest) };
        }
        sums = add_vectors(s, vectors, &x[i], sums);
    }
    sums
}

/// The sums, with the products of a vector of each row and one of each token added.
#[inline(always)]
fn add_vectors<S: Simd, const R: usize, const T: usize, const L: usize>(
    s: S,
    w: [S::F32; R],
    x: &[[f32; L]; T],
    mut sums: Sums<S, R, T>,
) -> Sums<S, R, T> {
    for t in 0..T {
        let x = s.load(&x[t]);
        for r in 0..R {
            sums[r][t] = s.mul_add(w[r], x, sums[r][t]);
        }
    }
    sums
}

/// Sums that were kept.
#[inline(always)]
fn load_sums<S: Simd, const R: usize, const T: usize>(s: S, from: &[f32]) -> Sums<S, R, T> {
    let mut sums = [[s.splat(0.0); T]; R];
    for r in 0..R {
        for t in 0..T {
            sums[r][t] = s.load(&from[(r * T + t) * S::LANES..]);
        }
    }
    sums
}

/// Keeps sums.
#[inline(always)]
fn store_sums<S: Simd, const R: usize, const T: usize>(s: S, sums: Sums<S, R, T>, to: &mut [f32]) {
    for r in 0..R {
        for t in 0..T {
            s.store(sums[r][t], &mut to[(r * T + t) * S::LANES..]);
        }
    }
}

/// The products of a tile, that of row `r` and token `t` at `t * R + r`, of all vectors of all its
/// sums. They are added as decode adds them: sums first, then a sum's vectors.
#[inline(always)]
fn sum_lanes<S: Simd, F: Float, const R: usize, const T: usize>(
    s: S,
    kept: &[f32],
) -> [f32; MAX_TILE_TOKENS * MAX_TILE_ROWS] {
    let vectors = LANES / S::LANES;
    let mut eight = [s.reduce_to_x8(s.splat(0.0)); MAX_TILE_TOKENS * MAX_TILE_ROWS];
    for t in 0..T {
        for r in 0..R {
            let kept = |sum, vector| s.load(&kept[(((sum * vectors + vector) * R + r) * T + t) * S::LANES..]);
            let vector = |vector| match F::ACCUMULATORS {
                MAX_ACCUMULATORS => s.add(kept(0, vector), kept(1, vector)),
                _ => kept(0, vector),
            };
            let sum = if vectors == 1 { vector(0) } else { s.add(vector(0), vector(1)) };
            eight[t * R + r] = s.reduce_to_x8(sum);
        }
    }
    s.hsum_each(eight)
}
