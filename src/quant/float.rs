//! Weights that aren't quantised, row after row, widened and multiplied as f32: F32, F16 (IEEE 754 half precision) and BF16 (the
//! upper half of an f32).

use std::marker::PhantomData;
use std::ops::Range;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::Format;
use super::activation::Input;
use super::packed::Aligned;
use crate::simd::{AHEAD, Isa, Simd, kernel};

/// How a number is stored.
pub(crate) trait Float: Copy + Send + Sync + 'static {
    type Stored: Copy + Default;
    /// The first `LANES` numbers. Panics if there are fewer.
    fn load<S: Simd>(s: S, from: &[Self::Stored]) -> S::F32;
    /// All of `from`, which has fewer than `LANES` numbers, and then zeros.
    #[inline(always)]
    fn load_partial<S: Simd>(s: S, from: &[Self::Stored]) -> S::F32 {
        let mut padded = [Self::Stored::default(); 16];
        padded[..from.len()].copy_from_slice(from);
        Self::load(s, &padded)
    }
    /// Some rows at addresses from which vectors are loaded at full speed: where they are, or copied. The rows, and those asked for among
    /// them.
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
    #[inline(always)]
    fn load<S: Simd>(s: S, from: &[f32]) -> S::F32 {
        s.load(from)
    }
    #[inline(always)]
    fn load_partial<S: Simd>(s: S, from: &[f32]) -> S::F32 {
        s.load_partial(from)
    }
    /// A file's tensors begin at multiples of 32 bytes, so with AVX-512 each vector of half of them lies in two lines of the cache.
    /// Those made a prompt 8 % slower than a copy does.
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
        let mut acc = [s.fold_x8(s.splat(0.0)); R];
        for r in 0..R {
            acc[r] = s.fold_x8(dot_row::<S, F>(s, self.row(row + r), x.row(token)));
        }
        s.sum_x8_each(acc)
    }

    fn dequantize(self, row: usize, out: &mut [f32]) {
        F::widen(self.row(row), out);
    }
}

/// Parts in which a product is added up, whatever a vector's length: each adds every sixteenth column. So it is the same bits on
/// every instruction set that rounds a product together with its sum. In shorter vectors than these, the parts hide most of an
/// addition's latency; one row's vectors of sixteen wait for each other, but not for the next row's.
pub(crate) const PARTS: usize = 16;

/// The dot product of a row with a token, still spread over the lanes.
///
/// Rows are read one after another, to their ends: walking along 8 of them at once halved the speed from memory (12
/// against 23 GB/s on one thread), for the prefetcher follows one stream better than eight. Only the sums across lanes
/// are shared.
#[inline(always)]
fn dot_row<S: Simd, F: Float>(s: S, w: &[F::Stored], x: &[f32]) -> S::F32 {
    let n = w.len();
    let ahead = AHEAD / size_of::<F::Stored>();
    // Where the vectors at odd places are added.
    let odd = if S::LANES == PARTS { 0 } else { 1 };
    let mut sums = [s.splat(0.0); 2];
    let mut i = 0;
    while i + 2 * S::LANES <= n {
        s.prefetch(w, i + ahead);
        if size_of::<F::Stored>() == 4 {
            s.prefetch(w, i + ahead + S::LANES);
        }
        sums[0] = s.mul_add(F::load(s, &w[i..]), s.load(&x[i..]), sums[0]);
        sums[odd] = s.mul_add(F::load(s, &w[i + S::LANES..]), s.load(&x[i + S::LANES..]), sums[odd]);
        i += 2 * S::LANES;
    }
    let mut last = 0;
    if i + S::LANES <= n {
        sums[0] = s.mul_add(F::load(s, &w[i..]), s.load(&x[i..]), sums[0]);
        i += S::LANES;
        last = odd;
    }
    if i < n {
        sums[last] = s.mul_add(F::load_partial(s, &w[i..]), s.load_partial(&x[i..]), sums[last]);
    }
    if odd == 0 { sums[0] } else { s.add(sums[0], sums[1]) }
}

/// Tokens of a tile of products for vectors of so many lanes: as many as leave registers for the operands.
pub(crate) const fn tile_tokens(lanes: usize) -> usize {
    if lanes == 16 { 6 } else { 3 }
}

/// The activations of a tile's tokens, vector by vector, so that one address is enough to find them, and none lies in two lines of the
/// cache (without which a prompt in F16 took a third longer). Tokens and columns that are missing are zeros.
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
