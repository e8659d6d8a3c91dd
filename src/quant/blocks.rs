//! What ggml's block formats have in common.
//!
//! All of them cut a row into groups of 32 weights (or two halves of 16) whose value is `scale * (q - offset) + min`, with
//! `q` a small whole number and either the offset or the minimum zero. A format decodes eight groups at a time into
//! [`Groups`]; the dot product with activations that were quantised in groups of 32, `x = d * p`, is then the same for all:
//!
//! ```text
//! sum over groups of  (scale * d) * (q · p - offset * sum(p))  +  min * (d * sum(p))
//! ```
//!
//! Eight whole-number products share one reduction across lanes, and their scales are applied as one vector. Lane `j` of
//! the sum holds every eighth group from `j` on. The packed product of many tokens (`packed.rs`) rounds the same terms in
//! the same order.

use std::marker::PhantomData;
use std::ops::Range;

use super::Format;
use super::activation::{Input, QuantizedRow};
use super::packed::Panel;
use crate::simd::Simd;

/// Weights that share an activation scale.
pub(crate) const GROUP: usize = 32;
/// Groups that are decoded together.
pub(crate) const GROUPS: usize = 8;
/// They are decoded and multiplied two by two.
pub(crate) const PAIRS: usize = GROUPS / 2;

/// Eight decoded groups of 32 weights.
pub(crate) struct Groups<S: Simd> {
    /// The whole numbers, as [`Block::NUMBERS`] says.
    pub(crate) q: [S::I8x64; PAIRS],
    /// The scale of each group; of the first and the second half of each group if [`Block::HALVES`], else twice the same.
    pub(crate) scales: [S::F32x8; 2],
    /// What is added, likewise.
    pub(crate) mins: [S::F32x8; 2],
}

/// The most that [`BlockRows::STEP`] is.
const MAX_STEP: usize = GROUPS * 34;

/// What the whole numbers of a format are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Numbers {
    /// int8: weight = scale * q.
    Signed,
    /// 0..=127: weight = scale * (q - 2^n).
    Offset(u32),
    /// 0..=127: weight = scale * q + min.
    WithMin,
}

/// The sign of a half-precision number.
pub(crate) const SIGN: u16 = 0x8000;

/// A format of ggml: blocks of 32 or 256 weights.
pub(crate) trait Block: Copy + Send + Sync + 'static {
    /// Weights in a block.
    const WEIGHTS: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// What `q` is.
    const NUMBERS: Numbers;
    /// Whether the halves of a group have scales of their own.
    const HALVES: bool = false;
    /// Whether `q` is within 0..=31.
    const SMALL: bool = true;

    /// The numbers that a block stands for, as ggml defines them, to the bit.
    fn dequantize(block: &[u8], out: &mut [f32]);

    /// Decodes `n` groups (8, or fewer at the end of a row); the others get scales and minima of 0.
    fn decode<S: Simd>(s: S, blocks: &[u8]) -> Groups<S>;
}

/// Rows of blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockRows<'a, B> {
    bytes: &'a [u8],
    n: usize,
    _format: PhantomData<B>,
}

impl<'a, B: Block> BlockRows<'a, B> {
    pub(crate) fn new(bytes: &'a [u8], n: usize) -> Self {
        Self { bytes, n, _format: PhantomData }
    }

    #[inline(always)]
    fn row(&self, row: usize) -> &'a [u8] {
        let len = self.n / B::WEIGHTS * B::BYTES;
        &self.bytes[row * len..][..len]
    }

    /// Bytes of eight groups.
    const STEP: usize = GROUPS * GROUP / B::WEIGHTS * B::BYTES;

    /// Decodes what is left of a row, fewer than eight groups, and zeros.
    #[inline(always)]
    fn decode_rest<S: Simd>(s: S, blocks: &[u8]) -> Groups<S> {
        let mut padded = [0; MAX_STEP];
        padded[..blocks.len()].copy_from_slice(blocks);
        B::decode(s, &padded[..Self::STEP])
    }
}

impl<B: Block> Format for BlockRows<'_, B> {
    const HAS_PANELS: bool = true;

    #[inline(always)]
    fn dot<S: Simd, const R: usize, const T: usize>(
        self,
        s: S,
        row: usize,
        x: Input<'_>,
        token: usize,
    ) -> [[f32; T]; R] {
        let x: [QuantizedRow<'_>; T] = std::array::from_fn(|t| x.quantized_row(token + t));
        let mut acc = [[s.splat_x8(0.0); T]; R];
        for r in 0..R {
            acc[r] = dot_row::<S, B, T>(s, self.row(row + r), &x);
        }
        let mut sums = [[0.0; T]; R];
        for t in 0..T {
            let mut column = [s.splat_x8(0.0); R];
            for r in 0..R {
                column[r] = acc[r][t];
            }
            let column = s.sum_x8_each(column);
            for r in 0..R {
                sums[r][t] = column[r];
            }
        }
        sums
    }

    fn int8_kind(self) -> Option<(Numbers, bool)> {
        Some((B::NUMBERS, B::HALVES))
    }

    #[inline(always)]
    fn unpack<S: Simd>(self, s: S, rows: Range<usize>, panel: &mut Panel) {
        for (i, row) in rows.enumerate() {
            let mut steps = self.row(row).chunks_exact(Self::STEP);
            let mut first = 0;
            for blocks in &mut steps {
                panel.set::<S, B>(s, i, first, &B::decode(s, blocks));
                first += GROUPS;
            }
            if !steps.remainder().is_empty() {
                panel.set::<S, B>(s, i, first, &Self::decode_rest(s, steps.remainder()));
            }
        }
    }

    fn dequantize(self, row: usize, out: &mut [f32]) {
        let blocks = self.row(row).chunks_exact(B::BYTES);
        for (block, out) in blocks.zip(out.chunks_exact_mut(B::WEIGHTS)) {
            B::dequantize(block, out);
        }
    }
}

/// One row with `T` tokens, spread over lanes.
#[inline(always)]
fn dot_row<S: Simd, B: Block, const T: usize>(s: S, row: &[u8], x: &[QuantizedRow<'_>; T]) -> [S::F32x8; T] {
    let mut acc = [s.splat_x8(0.0); T];
    let mut steps = row.chunks_exact(BlockRows::<B>::STEP);
    let mut first = 0;
    for blocks in &mut steps {
        let groups = B::decode(s, blocks);
        for t in 0..T {
            acc[t] = dot_groups::<S, B>(s, &groups, Activations::whole(&x[t], first), acc[t]);
        }
        first += GROUPS;
    }
    if !steps.remainder().is_empty() {
        let groups = BlockRows::<B>::decode_rest(s, steps.remainder());
        for t in 0..T {
            let padded = Padded::of(&x[t], first, x[t].scales.len() - first);
            acc[t] = dot_groups::<S, B>(s, &groups, padded.activations(), acc[t]);
        }
    }
    acc
}

/// Eight groups of a token's activations.
#[derive(Clone, Copy)]
struct Activations<'a> {
    qs: &'a [i8],
    scales: &'a [f32],
    sums: &'a [i32],
    low_sums: &'a [i32],
}

impl<'a> Activations<'a> {
    #[inline(always)]
    fn whole(x: &QuantizedRow<'a>, first: usize) -> Self {
        Self {
            qs: &x.qs[first * GROUP..(first + GROUPS) * GROUP],
            scales: &x.scales[first..first + GROUPS],
            sums: &x.sums[first..first + GROUPS],
            low_sums: &x.low_sums[first..first + GROUPS],
        }
    }
}

/// The last groups of a row, and zeros.
struct Padded {
    qs: [i8; GROUPS * GROUP],
    scales: [f32; GROUPS],
    sums: [i32; GROUPS],
    low_sums: [i32; GROUPS],
}

impl Padded {
    #[inline(always)]
    fn of(x: &QuantizedRow<'_>, first: usize, n: usize) -> Self {
        let mut padded =
            Self { qs: [0; GROUPS * GROUP], scales: [0.0; GROUPS], sums: [0; GROUPS], low_sums: [0; GROUPS] };
        padded.qs[..n * GROUP].copy_from_slice(&x.qs[first * GROUP..][..n * GROUP]);
        padded.scales[..n].copy_from_slice(&x.scales[first..][..n]);
        padded.sums[..n].copy_from_slice(&x.sums[first..][..n]);
        padded.low_sums[..n].copy_from_slice(&x.low_sums[first..][..n]);
        padded
    }

    #[inline(always)]
    fn activations(&self) -> Activations<'_> {
        Activations { qs: &self.qs, scales: &self.scales, sums: &self.sums, low_sums: &self.low_sums }
    }
}

#[inline(always)]
fn dot_groups<S: Simd, B: Block>(s: S, groups: &Groups<S>, x: Activations<'_>, acc: S::F32x8) -> S::F32x8 {
    let mut dots = [s.dot_u8_pair(s.zero_pair(), s.zero_pair()); PAIRS];
    for p in 0..PAIRS {
        let x = s.load_i8x64(&x.qs[p * 2 * GROUP..]);
        dots[p] = if B::NUMBERS == Numbers::Signed {
            s.dot_i8_pair(groups.q[p], x)
        } else {
            s.dot_u8_pair(groups.q[p], x)
        };
    }
    let [low, high] = if B::NUMBERS != Numbers::Signed && B::SMALL {
        s.sum_halves_of_pairs::<true>(dots)
    } else {
        s.sum_halves_of_pairs::<false>(dots)
    };
    let d = s.load_x8(x.scales);
    let sums = s.load_i32x8(x.sums);
    if !B::HALVES {
        return add_groups::<S, B>(s, s.add_i32x8(low, high), sums, groups.scales[0], groups.mins[0], d, acc);
    }
    let low_sums = s.load_i32x8(x.low_sums);
    let acc = add_groups::<S, B>(s, low, low_sums, groups.scales[0], groups.mins[0], d, acc);
    let high_sums = s.sub_i32x8(sums, low_sums);
    add_groups::<S, B>(s, high, high_sums, groups.scales[1], groups.mins[1], d, acc)
}

/// `acc + (scale * d) * dot + min * (d * sum)` of eight groups.
#[inline(always)]
fn add_groups<S: Simd, B: Block>(
    s: S,
    dots: S::I32x8,
    sums: S::I32x8,
    scales: S::F32x8,
    mins: S::F32x8,
    d: S::F32x8,
    acc: S::F32x8,
) -> S::F32x8 {
    let dots = match B::NUMBERS {
        Numbers::Signed => s.dot_unbias(dots, sums),
        Numbers::Offset(n) => s.sub_shifted_i32x8(dots, sums, n),
        Numbers::WithMin => dots,
    };
    let acc = s.mul_add_x8(s.to_f32x8(dots), s.mul_x8(scales, d), acc);
    match B::NUMBERS {
        Numbers::WithMin => s.mul_add_x8(mins, s.mul_x8(d, s.to_f32x8(sums)), acc),
        _ => acc,
    }
}

/// The little-endian u16 at a byte.
#[inline(always)]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The half-precision number at a byte, for specifications: not on a hot path.
pub(crate) fn f16_at(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_bits(u16_at(bytes, at)).to_f32_const()
}

/// The `p`th two blocks of 32 weights, from byte `at` of each on.
#[inline(always)]
pub(crate) fn pair_at<B: Block>(blocks: &[u8], p: usize, at: usize) -> [&[u8]; 2] {
    [&blocks[2 * p * B::BYTES + at..], &blocks[(2 * p + 1) * B::BYTES + at..]]
}
