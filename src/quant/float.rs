//! Weights that aren't quantised, row after row, widened and multiplied as f32: F32, F16 (IEEE 754
//! half precision) and BF16 (the upper half of an f32).

use std::marker::PhantomData;
use std::ops::Range;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::Format;
use super::activation::Input;
use super::packed::Aligned;
use crate::simd::{Isa, PREFETCH_DISTANCE, Simd, kernel};

/// How a number is stored.
pub(crate) trait Float: Copy + Send + Sync + 'static {
    type Stored: Copy + Default;
    /// Sums to which spans of [`SPAN`] columns are added in turn: one, or [`MAX_SUMS`].
    const SUMS: usize;
    /// The first `LANES` numbers. Panics if there are fewer.
    fn load<S: Simd>(s: S, from: &[Self::Stored]) -> S::F32;
    /// All of `from`, which has fewer than `LANES` numbers, and then zeros.
    #[inline(always)]
    fn load_partial<S: Simd>(s: S, from: &[Self::Stored]) -> S::F32 {
        let mut padded = [Self::Stored::default(); 16];
        padded[..from.len()].copy_from_slice(from);
        Self::load(s, &padded)
    }
    /// Some rows at addresses from which vectors are loaded at full speed: where they are, or
    /// copied. The rows, and those asked for among them.
    #[inline(always)]
    fn align<'a, S: Simd>(
        matrix: FloatRows<'a, Self>,
        rows: Range<usize>,
        _room: &'a mut Aligned<f32>,
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
    /// A vector is a cache line, and the memory no faster than one sum. (With two, a prompt took 7
    /// % longer in 110M parameters.)
    const SUMS: usize = 1;
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[f32]) -> S::F32 {
        s.load(from)
    }
    #[inline(always)]
    fn load_partial<S: Simd>(s: S, from: &[f32]) -> S::F32 {
        s.load_partial(from)
    }
    /// A file's tensors begin at multiples of 32 bytes, so with AVX-512 each vector of half of them
    /// lies in two lines of the cache. Those made a prompt 8 % slower than a copy does.
    #[inline(always)]
    fn align<'a, S: Simd>(
        matrix: FloatRows<'a, Self>,
        rows: Range<usize>,
        room: &'a mut Aligned<f32>,
    ) -> (FloatRows<'a, Self>, Range<usize>) {
        let weights = &matrix.weights[rows.start * matrix.n..rows.end * matrix.n];
        if weights.as_ptr().addr().is_multiple_of(S::LANES * size_of::<f32>())
            || !matrix.n.is_multiple_of(S::LANES)
        {
            return (matrix, rows);
        }
        room.resize(weights.len());
        room.copy_from_slice(weights);
        (FloatRows::new(room, matrix.n), 0..rows.len())
    }
    fn widen(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Float for F16 {
    type Stored = u16;
    const SUMS: usize = 2;
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
    const SUMS: usize = 2;
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

/// A matrix of them: (rows, `n`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct FloatRows<'a, F: Float> {
    weights: &'a [F::Stored],
    n: usize,
    _format: PhantomData<F>,
}

impl<'a, F: Float> FloatRows<'a, F> {
    pub(crate) fn new(weights: &'a [F::Stored], n: usize) -> Self {
        Self { weights, n, _format: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &'a [F::Stored] {
        &self.weights[row * self.n..][..self.n]
    }
}

impl<F: Float> Format for FloatRows<'_, F> {
    #[inline(always)]
    fn dot<S: Simd, const R: usize>(self, s: S, row: usize, x: Input<'_>, token: usize) -> [f32; R] {
        let mut acc = [s.reduce_to_x8(s.splat(0.0)); R];
        for r in 0..R {
            acc[r] = s.reduce_to_x8(dot_row::<S, F>(s, self.row(row + r), x.row(token)));
        }
        s.hsum_each(acc)
    }

    fn dequantize(self, row: usize, out: &mut [f32]) {
        F::widen(self.row(row), out);
    }
}

/// Lanes in which a product is added up, whatever a vector's length: each adds every sixteenth
/// column. So it is the same bits on every instruction set that rounds a product together with its
/// sum.
pub(crate) const LANES: usize = 16;

/// ColumnPartition, a cache line of F16, that are added to one sum before the next span's are added
/// to another, if a format has more than one ([`Float::SUMS`]). With AVX-512, all additions to a
/// sum wait for each other, four cycles each: as one sum, F16 was decoded at 91 % of what the
/// memory gave, which was 73 GB/s, and as two at 98 %.
pub(crate) const SPAN: usize = 32;

/// The most sums of a product.
pub(crate) const MAX_SUMS: usize = 2;

/// The most vectors that [`LANES`] take.
const MAX_VECTORS: usize = 2;

/// The dot product of a row with a token, still spread over the lanes.
///
/// Rows are read one after another, to their ends: walking along 8 of them at once halved the speed
/// from memory (12 against 23 GB/s on one thread), for the prefetcher follows one stream better
/// than eight. (Two at once, as two sums, were read at 62 GB/s where one is at 66.) Only the sums
/// across lanes are shared.
#[inline(always)]
fn dot_row<S: Simd, F: Float>(s: S, w: &[F::Stored], x: &[f32]) -> S::F32 {
    let n = w.len();
    let ahead = PREFETCH_DISTANCE / size_of::<F::Stored>();
    let mut sums = [[s.splat(0.0); MAX_VECTORS]; MAX_SUMS];
    let mut i = 0;
    while i + F::SUMS * SPAN <= n {
        for span in 0..F::SUMS {
            let first = i + span * SPAN;
            s.prefetch_all_nta(w, first + ahead, SPAN);
            let (w, x) = (&w[first..][..SPAN], &x[first..][..SPAN]);
            for v in 0..SPAN / S::LANES {
                let at = v * S::LANES;
                let sum = &mut sums[span][v % (LANES / S::LANES)];
                *sum = s.mul_add(F::load(s, &w[at..]), s.load(&x[at..]), *sum);
            }
        }
        i += F::SUMS * SPAN;
    }
    for span in 0..F::SUMS {
        for v in 0..SPAN / S::LANES {
            let at = i + span * SPAN + v * S::LANES;
            let sum = &mut sums[span][v % (LANES / S::LANES)];
            if at + S::LANES <= n {
                *sum = s.mul_add(F::load(s, &w[at..]), s.load(&x[at..]), *sum);
            } else if at < n {
                *sum = s.mul_add(F::load_partial(s, &w[at..]), s.load_partial(&x[at..]), *sum);
            }
        }
    }
    if F::SUMS == 1 { sum_vectors(s, sums[0]) } else { sum_vectors(s, add_sums(s, sums[0], sums[1])) }
}

/// Two sums, added.
#[inline(always)]
pub(crate) fn add_sums<S: Simd, const P: usize>(s: S, mut a: [S::F32; P], b: [S::F32; P]) -> [S::F32; P] {
    for p in 0..P {
        a[p] = s.add(a[p], b[p]);
    }
    a
}

/// The vectors of a sum, added: one if a vector has all [`LANES`], or two.
#[inline(always)]
pub(crate) fn sum_vectors<S: Simd, const P: usize>(s: S, sum: [S::F32; P]) -> S::F32 {
    if S::LANES == LANES { sum[0] } else { s.add(sum[0], sum[P - 1]) }
}

/// Tokens of a tile of products for vectors of so many lanes: as many as leave registers for the
/// operands.
pub(crate) const fn tile_tokens(lanes: usize) -> usize {
    if lanes == 16 { 6 } else { 3 }
}

/// The activations of a tile's tokens, vector by vector, so that one address is enough to find
/// them, and none lies in two lines of the cache (without which a prompt in F16 took a third
/// longer). Tokens and columns that are missing are zeros.
#[derive(Debug, Default)]
pub(crate) struct FloatTile {
    pub(crate) x: Aligned<f32>, // (vectors, tile tokens, LANES)
    pub(crate) n_tokens: usize,
}

impl FloatTile {
    /// Packs at most [`tile_tokens`] tokens: `x` is (tokens, `n`).
    pub(crate) fn pack(&mut self, isa: Isa, x: &[f32], n: usize) {
        let (lanes, width) = (isa.lanes(), tile_tokens(isa.lanes()));
        self.n_tokens = x.len() / n;
        self.x.resize(n.next_multiple_of(lanes) * width);
        if self.n_tokens < width {
            self.x.fill(0.0);
        }
        pack_tokens(isa, width, x, n, &mut self.x);
    }
}

kernel! {
    fn pack_tokens(s; width: usize, x: &[f32], n: usize, tile: &mut [f32]) {
        for (t, x) in x.chunks_exact(n).enumerate() {
            let mut vectors = tile.chunks_exact_mut(width * S::LANES);
            let mut parts = x.chunks_exact(S::LANES);
            for (part, vector) in (&mut parts).zip(&mut vectors) {
                s.store(s.load(part), &mut vector[t * S::LANES..]);
            }
            if let Some(vector) = vectors.next() {
                s.store(s.load_partial(parts.remainder()), &mut vector[t * S::LANES..]);
            }
        }
    }
}
