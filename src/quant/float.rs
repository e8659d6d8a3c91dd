//! Weights that aren't quantized, row after row, widened and multiplied as f32: F32, F16 (IEEE 754
//! half precision) and BF16 (the upper half of an f32).

use std::marker::PhantomData;
use std::ops::Range;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::activation::ActivationRows;
use super::packed::Aligned;
use super::walk::{BlockProducts, RowTile, prefetch_distance, rows_at_once, streams};
use super::{Format, SHARING_TOKENS, StoredRows};
use crate::simd::{QuantKernels, Simd};
use crate::storage::Plain;

/// How a float is stored.
pub(crate) trait Float: Copy + Send + Sync + 'static {
    type Stored: Plain + Default;
    /// Accumulators that take [`UNROLL`] columns each, one after another: one, or
    /// [`MAX_ACCUMULATORS`].
    const ACCUMULATORS: usize;
    /// The first `LANES` numbers. Panics if there are fewer.
    fn load<S: Simd>(s: S, from: &[Self::Stored]) -> S::F32;
    /// All of `from`, which has fewer than `LANES` numbers, and then zeros.
    #[inline(always)]
    fn load_partial<S: Simd>(s: S, from: &[Self::Stored]) -> S::F32 {
        let mut padded = [Self::Stored::default(); 16];
        padded[..from.len()].copy_from_slice(from);
        Self::load(s, &padded)
    }
    /// Some rows at addresses from which vectors are loaded at full speed: `matrix` itself, or a
    /// copy of the rows; and which of its rows they are.
    #[inline(always)]
    fn align<'a, S: Simd>(
        matrix: FloatRows<'a, Self>,
        rows: Range<usize>,
        _copy: &'a mut Aligned<f32>,
    ) -> (FloatRows<'a, Self>, Range<usize>) {
        (matrix, rows)
    }
    fn widen(from: &[Self::Stored], to: &mut [f32]);
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct F32;
#[derive(Clone, Copy, Debug)]
pub(crate) struct F16;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bf16;

impl Float for F32 {
    type Stored = f32;
    /// A vector is a cache line, and the memory no faster than one accumulator. (With two, a prompt
    /// took longer.)
    const ACCUMULATORS: usize = 1;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[f32]) -> S::F32 {
        s.load(from)
    }
    #[inline(always)]
    fn load_partial<S: Simd>(s: S, from: &[f32]) -> S::F32 {
        s.load_partial(from)
    }
    /// A file's tensors begin at multiples of 32 bytes, so with AVX-512 each vector of half of them
    /// lies in two lines of the cache, which costs a prompt more than the copy.
    #[inline(always)]
    fn align<'a, S: Simd>(
        matrix: FloatRows<'a, Self>,
        rows: Range<usize>,
        copy: &'a mut Aligned<f32>,
    ) -> (FloatRows<'a, Self>, Range<usize>) {
        let weights = &matrix.weights[rows.start * matrix.n..rows.end * matrix.n];
        if weights.as_ptr().addr().is_multiple_of(S::LANES * size_of::<f32>())
            || !matrix.n.is_multiple_of(S::LANES)
        {
            return (matrix, rows);
        }
        copy.resize(weights.len());
        copy.copy_from_slice(weights);
        (FloatRows::new(copy, matrix.n), 0..rows.len())
    }
    fn widen(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Float for F16 {
    type Stored = u16;
    const ACCUMULATORS: usize = 2;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u16]) -> S::F32 {
        s.load_f16(from)
    }
    fn widen(from: &[u16], to: &mut [f32]) {
        from.reinterpret_cast::<half::f16>().convert_to_f32_slice(to);
    }
}

impl Float for Bf16 {
    type Stored = u16;
    const ACCUMULATORS: usize = 2;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[u16]) -> S::F32 {
        s.load_bf16(from)
    }
    fn widen(from: &[u16], to: &mut [f32]) {
        for (to, &bits) in to.iter_mut().zip(from) {
            *to = f32::from_bits(u32::from(bits) << 16);
        }
    }
}

/// A matrix of floats: (rows, `n`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct FloatRows<'a, F: Float> {
    weights: &'a [F::Stored],
    n: usize,
    _format: PhantomData<F>,
}

impl<'a, F: Float> StoredRows<'a> for FloatRows<'a, F> {
    type Element = F::Stored;
    const BLOCK: (usize, usize) = (1, size_of::<F::Stored>());

    fn new(weights: &'a [F::Stored], n: usize) -> Self {
        Self { weights, n, _format: PhantomData }
    }
}

impl<'a, F: Float> FloatRows<'a, F> {
    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &'a [F::Stored] {
        &self.weights[row * self.n..][..self.n]
    }

    /// The products of some rows with some tokens, of which `R` and `T` at a time share loads.
    #[inline(always)]
    fn dot_tiles<S: QuantKernels, const R: usize, const T: usize>(
        self,
        s: S,
        block: RowTile,
        x: ActivationRows<'_>,
        tokens: Range<usize>,
        products: &mut BlockProducts,
    ) {
        let ahead = block.prefetch_distance();
        for i in (0..block.len()).step_by(R) {
            let numbers = block.rows::<R>(i);
            let mut rows = [&[][..]; R];
            for r in 0..R {
                rows[r] = self.row(numbers[r]);
            }
            let mut sums = [[s.reduce_to_x8(s.splat(0.0)); SHARING_TOKENS]; R];
            let mut token = 0;
            while token < tokens.len() {
                let first = tokens.start + token;
                token += match tokens.len() - token {
                    n if n >= T => dot_tile::<S, F, R, T>(s, rows, x.rows(first), ahead, &mut sums, token),
                    2.. => dot_tile::<S, F, R, 2>(s, rows, x.rows(first), ahead, &mut sums, token),
                    _ => dot_tile::<S, F, R, 1>(s, rows, x.rows(first), ahead, &mut sums, token),
                };
            }
            for r in 0..R {
                products[i + r] = s.hsum_each(sums[r]);
            }
        }
    }
}

impl<F: Float> Format for FloatRows<'_, F> {
    const STREAMS: usize = 4;

    #[inline(always)]
    fn dot<S: Simd, const R: usize>(
        self,
        s: S,
        rows: [usize; R],
        x: ActivationRows<'_>,
        token: usize,
    ) -> [f32; R] {
        let mut acc = [s.reduce_to_x8(s.splat(0.0)); R];
        let ahead = prefetch_distance(streams::<S, Self>());
        if const { streams::<S, Self>() == 4 && R == 4 } {
            let rows = [0, 1, 2, 3].map(|r| self.row(rows[r]));
            for (acc, [sum]) in acc.iter_mut().zip(dot_rows::<S, F, 4, 1>(s, rows, [x.row(token)], ahead)) {
                *acc = s.reduce_to_x8(sum);
            }
        } else {
            for r in 0..R {
                let [[sum]] = dot_rows::<S, F, 1, 1>(s, [self.row(rows[r])], [x.row(token)], ahead);
                acc[r] = s.reduce_to_x8(sum);
            }
        }
        s.hsum_each(acc)
    }

    #[inline(always)]
    fn dot_tokens<S: QuantKernels>(
        self,
        s: S,
        block: RowTile,
        x: ActivationRows<'_>,
        tokens: Range<usize>,
        products: &mut BlockProducts,
    ) {
        // As many as fit the registers.
        if const { rows_at_once::<S>() == 2 } {
            self.dot_tiles::<S, 2, 4>(s, block, x, tokens, products);
        } else {
            self.dot_tiles::<S, 1, 2>(s, block, x, tokens, products);
        }
    }

    fn dequantize(self, row: usize, out: &mut [f32]) {
        F::widen(self.row(row), out);
    }
}

/// Lanes in which a product is added up, whatever a vector's length: each adds every sixteenth
/// column. So it is the same bits on every instruction set that rounds a product together with its
/// sum.
pub(crate) const LANES: usize = 16;

/// Columns, a cache line of F16, that are added to one accumulator before the next ones are added
/// to another, if a format has more than one ([`Float::ACCUMULATORS`]). With AVX-512, all additions
/// to an accumulator wait for each other, four cycles each: one isn't enough to keep up with memory
/// in F16.
pub(crate) const UNROLL: usize = 32;

/// The most accumulators of a product.
pub(crate) const MAX_ACCUMULATORS: usize = 2;

/// The most vectors that [`LANES`] take.
const MAX_VECTORS: usize = 2;

/// The dot products of some rows with `T` tokens, as the sums from `at` on. How many tokens that
/// were.
#[inline(always)]
fn dot_tile<S: QuantKernels, F: Float, const R: usize, const T: usize>(
    s: S,
    rows: [&[F::Stored]; R],
    x: [&[f32]; T],
    ahead: usize,
    sums: &mut [[S::F32x8; SHARING_TOKENS]; R],
    at: usize,
) -> usize {
    let of_tile = dot_rows::<S, F, R, T>(s, rows, x, ahead);
    for r in 0..R {
        for t in 0..T {
            sums[r][at + t] = s.reduce_to_x8(of_tile[r][t]);
        }
    }
    T
}

/// The dot products of `W` rows, which are read side by side, with `T` tokens, still spread over
/// the lanes. They are fetched `ahead` bytes before they are needed.
#[inline(always)]
fn dot_rows<S: Simd, F: Float, const W: usize, const T: usize>(
    s: S,
    rows: [&[F::Stored]; W],
    x: [&[f32]; T],
    ahead: usize,
) -> [[S::F32; T]; W] {
    let n = x[0].len();
    let (rows, x) = (rows.map(|row| &row[..n]), x.map(|x| &x[..n]));
    let ahead = ahead / size_of::<F::Stored>();
    let mut sums = [[[[s.splat(0.0); MAX_VECTORS]; MAX_ACCUMULATORS]; T]; W];
    let mut i = 0;
    while i + F::ACCUMULATORS * UNROLL <= n {
        for a in 0..F::ACCUMULATORS {
            let first = i + a * UNROLL;
            for r in 0..W {
                s.prefetch_all_nta(rows[r], first + ahead, UNROLL);
                let w = &rows[r][first..][..UNROLL];
                for v in 0..UNROLL / S::LANES {
                    let w = F::load(s, &w[v * S::LANES..]);
                    for t in 0..T {
                        let x = &x[t][first..][..UNROLL][v * S::LANES..];
                        let sum = &mut sums[r][t][a][v % (LANES / S::LANES)];
                        *sum = s.mul_add(w, s.load(x), *sum);
                    }
                }
            }
        }
        i += F::ACCUMULATORS * UNROLL;
    }
    let mut products = [[s.splat(0.0); T]; W];
    for r in 0..W {
        for t in 0..T {
            products[r][t] = add_rest::<S, F>(s, &rows[r][i..], &x[t][i..], sums[r][t]);
        }
    }
    products
}

/// A row's sums with the last columns, fewer than a round of all accumulators, added into one.
#[inline(always)]
fn add_rest<S: Simd, F: Float>(
    s: S,
    w: &[F::Stored],
    x: &[f32],
    mut sums: [[S::F32; MAX_VECTORS]; MAX_ACCUMULATORS],
) -> S::F32 {
    for a in 0..F::ACCUMULATORS {
        for v in 0..UNROLL / S::LANES {
            let at = a * UNROLL + v * S::LANES;
            let sum = &mut sums[a][v % (LANES / S::LANES)];
            if at + S::LANES <= w.len() {
                *sum = s.mul_add(F::load(s, &w[at..]), s.load(&x[at..]), *sum);
            } else if at < w.len() {
                *sum = s.mul_add(F::load_partial(s, &w[at..]), s.load_partial(&x[at..]), *sum);
            }
        }
    }
    let mut sum = sums[0];
    if F::ACCUMULATORS == MAX_ACCUMULATORS {
        for v in 0..MAX_VECTORS {
            sum[v] = s.add(sum[v], sums[1][v]);
        }
    }
    sum_vectors(s, sum)
}

/// The vectors of a sum, added: one if a vector has all [`LANES`], or two.
#[inline(always)]
fn sum_vectors<S: Simd>(s: S, sum: [S::F32; MAX_VECTORS]) -> S::F32 {
    if S::LANES == LANES { sum[0] } else { s.add(sum[0], sum[1]) }
}

/// Tokens of a tile of products for vectors of `lanes`: their accumulators leave registers for the
/// operands.
pub(crate) const fn tile_tokens(lanes: usize) -> usize {
    if lanes == LANES { 6 } else { 4 }
}

/// The activations of a tile's tokens, in groups of [`LANES`] columns, so that one address is
/// enough to find all tokens' vectors, and none lies in two lines of the cache (which would cost a
/// prompt in F16 a third more time). Where a vector is half a group, all first halves come before
/// the second ones. Tokens and columns that are missing are zeros.
#[derive(Debug, Default)]
pub(crate) struct F32Tile {
    x: Aligned<f32>, // (vectors of a group, groups, tile tokens, lanes of a vector)
    n_groups: usize,
    pub(crate) n_tokens: usize,
}

impl F32Tile {
    /// Packs at most [`tile_tokens`] tokens, for vectors of `lanes`: `x` is (tokens, `n`).
    pub(crate) fn pack(&mut self, lanes: usize, x: &[f32], n: usize) {
        if lanes == LANES {
            self.pack_vectors::<LANES>(x, n);
        } else {
            self.pack_vectors::<{ LANES / 2 }>(x, n);
        }
    }

    /// (Vectors of a constant length: others would be copied by a call each.)
    fn pack_vectors<const L: usize>(&mut self, x: &[f32], n: usize) {
        let (n_groups, width, of_group) = (n.div_ceil(LANES), tile_tokens(L), LANES / L);
        (self.n_groups, self.n_tokens) = (n_groups, x.len() / n);
        self.x.resize(n_groups * LANES * width);
        if self.n_tokens < width || !n.is_multiple_of(LANES) {
            self.x.fill(0.0);
        }
        let (vectors, _) = self.x.as_chunks_mut::<L>();
        for (token, x) in x.chunks_exact(n).enumerate() {
            let place = |i| (i % of_group * n_groups + i / of_group) * width + token;
            let (whole, rest) = x.as_chunks::<L>();
            for (i, x) in whole.iter().enumerate() {
                vectors[place(i)] = *x;
            }
            if !rest.is_empty() {
                vectors[place(whole.len())][..rest.len()].copy_from_slice(rest);
            }
        }
    }

    /// The `vector`th vectors of all groups, `T` tokens of `L` lanes each, which is as they were
    /// packed.
    #[inline(always)]
    pub(crate) fn vectors<const T: usize, const L: usize>(&self, vector: usize) -> &[[[f32; L]; T]] {
        let (vectors, _) = self.x.as_chunks().0.as_chunks();
        &vectors[vector * self.n_groups..][..self.n_groups]
    }
}
