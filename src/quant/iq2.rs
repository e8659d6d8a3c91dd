//! IQ2_XXS, IQ2_XS and IQ2_S: eight weights are a point of a grid, whose coordinates are 8, 25 or
//! 43, and eight signs.
//!
//! ```text
//! IQ2_XXS                          IQ2_XS                           IQ2_S
//! d       f16      at 0            d       f16       at 0           d       f16      at 0
//! groups  8 x 8    at 2            qs      u16 x 32  at 2           points  u8 x 32  at 2
//!   points  u8 x 4                   bits 0-8   the point           signs   u8 x 32  at 34
//!   rest    u32                      bits 9-15  7 signs             high    u8 x 8   at 66
//!     bits 0-27  4 x 7 signs       scales  u8 x 8    at 66          scales  u8 x 8   at 74
//!     bits 28-31 the scale         74 bytes for 256 weights         82 bytes for 256 weights
//! 66 bytes for 256 weights
//!
//! weight = (d * (scale + 1/2) / 4) * coordinate, negative where its sign is 1
//! ```
//! Bit `i` of eight signs is that of weight `i`. Where seven are stored, the eighth makes the
//! number of negative weights even. Bits `2i` and `2i + 1` of byte `g` of IQ2_S's `high` are bits 8
//! and 9 of point `i` of group `g`. In a byte of scales, the low nibble is that of the first
//! sub-block of a group, the high nibble that of the second.

use super::block::{Block, GROUPS, PAIRS, UnpackedSuperblock, f16_at, times};
use super::encoding::{Encoding, SubScales};
use super::grids;
use crate::simd::{Pair, QuantKernels};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq2Xxs;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq2Xs;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq2S;

const ONES: u64 = u64::from_ne_bytes([1; 8]);

/// Some bytes from one on. (As `u32_at` takes them, one by one, they stayed apart.)
#[inline(always)]
pub(super) fn bytes_at<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    *block[at..].first_chunk().unwrap_or(&[0; N])
}

/// 7 signs with the eighth.
const fn with_eighth(signs: u32) -> u32 {
    signs | (signs.count_ones() & 1) << 7
}

/// Masks of the negative ones of eight weights, by 7 signs: a byte of 255 for each. (Moving the
/// bits of four times 7 signs apart and adding them up was slower.)
static NEGATIVE: [u64; 128] = {
    let mut masks = [0; 128];
    let mut signs = 0;
    while signs < 128 {
        let mut i = 0;
        while i < 8 {
            masks[signs] |= (with_eighth(signs as u32) as u64 >> i & 1) * (255 << (8 * i));
            i += 1;
        }
        signs += 1;
    }
    masks
};

/// A format whose groups are points of a grid and signs.
pub(crate) trait Points {
    /// The coordinates of a group, a byte each.
    fn sizes(block: &[u8], g: usize) -> [u64; 4];

    /// The signs of a group, a bit each.
    fn signs(block: &[u8], g: usize) -> u32;

    /// The weights of a group.
    fn group<S: QuantKernels>(s: S, block: &[u8], g: usize) -> S::I8x32;
}

/// Weights of a group, in sizes of `d`.
pub(crate) fn dequantize_group<B: Points>(d: f32, block: &[u8], g: usize, out: &mut [f32]) {
    let (sizes, signs) = (B::sizes(block, g), B::signs(block, g));
    for (i, out) in out.iter_mut().enumerate() {
        let size = d * f32::from((sizes[i / 8] >> (8 * (i % 8))) as u8);
        *out = if signs >> i & 1 == 1 { -size } else { size };
    }
}

/// The weights of a superblock.
#[inline(always)]
pub(crate) fn unpack_points<S: QuantKernels, B: Points>(s: S, block: &[u8]) -> [S::I8x64; PAIRS] {
    let mut q = [s.zero_x64(); PAIRS];
    for p in 0..PAIRS {
        q[p] = Pair::join(s, [B::group(s, block, 2 * p), B::group(s, block, 2 * p + 1)]);
    }
    q
}

/// Four times 7 signs, and the weights of these signs.
#[inline(always)]
pub(crate) fn negate_by_7_bits<S: QuantKernels>(s: S, sizes: S::I8x32, signs: [u32; 4]) -> S::I8x32 {
    let mut masks = [0; 4];
    for i in 0..4 {
        masks[i] = NEGATIVE[signs[i] as usize & 127];
    }
    s.negate(sizes, s.bytes_of_words(masks))
}

/// The signs whose bits are the lowest 28.
#[inline(always)]
pub(crate) fn four_times_7(bits: u32) -> [u32; 4] {
    [bits & 127, bits >> 7 & 127, bits >> 14 & 127, bits >> 21 & 127]
}

/// Four times 7 signs, each with the eighth.
pub(crate) fn four_times_8([a, b, c, d]: [u32; 4]) -> u32 {
    with_eighth(a) | with_eighth(b) << 8 | with_eighth(c) << 16 | with_eighth(d) << 24
}

impl Points for Iq2Xxs {
    #[inline(always)]
    fn sizes(block: &[u8], g: usize) -> [u64; 4] {
        let mut sizes = [0; 4];
        for i in 0..4 {
            sizes[i] = grids::IQ2_XXS[usize::from(block[2 + 8 * g + i])];
        }
        sizes
    }

    fn signs(block: &[u8], g: usize) -> u32 {
        four_times_8(four_times_7(u32::from_le_bytes(bytes_at(block, 6 + 8 * g))))
    }

    #[inline(always)]
    fn group<S: QuantKernels>(s: S, block: &[u8], g: usize) -> S::I8x32 {
        negate_by_7_bits(
            s,
            s.bytes_of_words(Self::sizes(block, g)),
            four_times_7(u32::from_le_bytes(bytes_at(block, 6 + 8 * g))),
        )
    }
}

impl Block for Iq2Xxs {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 66;
    const ENCODING: Encoding = Encoding::Signed;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (g, out) in out.chunks_exact_mut(32).enumerate() {
            let scale = d * (0.5 + f32::from(block[9 + 8 * g] >> 4)) * 0.25;
            dequantize_group::<Self>(scale, block, g, out);
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let block = &block[..Self::BYTES];
        let mut scales = 0;
        for g in 0..GROUPS {
            scales |= u64::from(block[9 + 8 * g] >> 4) << (8 * g);
        }
        let d = s.mul_x8(s.splat_f16_x8(u16::from_le_bytes(bytes_at(block, 0))), s.splat_x8(0.125));
        UnpackedSuperblock::scaled(
            s,
            unpack_points::<S, Self>(s, block),
            times(s, s.widen_i8x8(scales * 2 + ONES), d),
        )
    }
}

/// IQ2_XS or IQ2_S with its scales. 64 is added to the integers, which must not be negative where
/// sub-blocks have scales.
#[inline(always)]
fn unpack<S: QuantKernels, B: Points>(s: S, block: &[u8], scales: u64) -> UnpackedSuperblock<S> {
    const LOW: u64 = u64::from_ne_bytes([15; 8]);
    let (mut q, bias) = (unpack_points::<S, B>(s, block), s.splat_u8x32(64));
    for p in 0..PAIRS {
        let [first, second] = s.blocks(q[p]);
        q[p] = Pair::join(s, [s.add_u8x32(first, bias), s.add_u8x32(second, bias)]);
    }
    let d = s.mul_x8(s.splat_f16_x8(u16::from_le_bytes(bytes_at(block, 0))), s.splat_x8(0.125));
    let (low, high) = ((scales & LOW) * 2 + ONES, (scales >> 4 & LOW) * 2 + ONES);
    let scales = [times(s, s.widen_i8x8(low), d), times(s, s.widen_i8x8(high), d)];
    UnpackedSuperblock { scales, ..UnpackedSuperblock::scaled(s, q, scales[0]) }
}

/// The weights of IQ2_XS or IQ2_S.
fn dequantize<B: Points>(block: &[u8], scales: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    for (g, out) in out.chunks_exact_mut(32).enumerate() {
        dequantize_group::<B>(1.0, block, g, out);
        let (first, second) = out.split_at_mut(16);
        for (half, scale) in [(first, scales[g] & 15), (second, scales[g] >> 4)] {
            let scale = d * (0.5 + f32::from(scale)) * 0.25;
            half.iter_mut().for_each(|weight| *weight *= scale);
        }
    }
}

impl Iq2Xs {
    #[inline(always)]
    fn four_times_7(block: &[u8], g: usize) -> [u32; 4] {
        let mut signs = [0; 4];
        for i in 0..4 {
            signs[i] = u32::from(u16::from_le_bytes(bytes_at(block, 2 + 8 * g + 2 * i)) >> 9);
        }
        signs
    }
}

impl Points for Iq2Xs {
    #[inline(always)]
    fn sizes(block: &[u8], g: usize) -> [u64; 4] {
        let mut sizes = [0; 4];
        for i in 0..4 {
            sizes[i] =
                grids::IQ2_XS[usize::from(u16::from_le_bytes(bytes_at(block, 2 + 8 * g + 2 * i)) & 511)];
        }
        sizes
    }

    fn signs(block: &[u8], g: usize) -> u32 {
        four_times_8(Self::four_times_7(block, g))
    }

    #[inline(always)]
    fn group<S: QuantKernels>(s: S, block: &[u8], g: usize) -> S::I8x32 {
        negate_by_7_bits(s, s.bytes_of_words(Self::sizes(block, g)), Self::four_times_7(block, g))
    }
}

impl Block for Iq2Xs {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 74;
    const ENCODING: Encoding = Encoding::Biased(6);
    const SUB_SCALES: SubScales = SubScales::F32;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        dequantize::<Self>(block, &block[66..], out);
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let block = &block[..Self::BYTES];
        unpack::<S, Self>(s, block, u64::from_le_bytes(bytes_at(block, 66)))
    }
}

impl Points for Iq2S {
    #[inline(always)]
    fn sizes(block: &[u8], g: usize) -> [u64; 4] {
        let high = usize::from(block[66 + g]);
        let mut sizes = [0; 4];
        for i in 0..4 {
            let high = high << (8 - 2 * i) & 0x300;
            sizes[i] = grids::IQ2_S[usize::from(block[2 + 4 * g + i]) | high];
        }
        sizes
    }

    #[inline(always)]
    fn signs(block: &[u8], g: usize) -> u32 {
        u32::from_le_bytes(bytes_at(block, 34 + 4 * g))
    }

    #[inline(always)]
    fn group<S: QuantKernels>(s: S, block: &[u8], g: usize) -> S::I8x32 {
        s.negate(s.bytes_of_words(Self::sizes(block, g)), s.mask_from_bits(Self::signs(block, g)))
    }
}

impl Block for Iq2S {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 82;
    const ENCODING: Encoding = Encoding::Biased(6);
    const SUB_SCALES: SubScales = SubScales::F32;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        dequantize::<Self>(block, &block[74..], out);
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let block = &block[..Self::BYTES];
        unpack::<S, Self>(s, block, u64::from_le_bytes(bytes_at(block, 74)))
    }
}
