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

use super::block::{Block, GROUPS, PAIRS, UnpackedSuperblock, f16_at, times, u16_at, u32_at, u64_at};
use super::encoding::{Encoding, SubScales};
use super::grids;
use crate::simd::{Pair, QuantKernels};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq2Xxs;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq2Xs;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq2S;

/// Four times 7 signs in 28 bits, each with the eighth.
#[inline(always)]
pub(crate) fn four_times_8_signs(bits: u32) -> u32 {
    with_eighth(bits & 0x7f | bits << 1 & 0x7f00 | bits << 2 & 0x7f_0000 | bits << 3 & 0x7f00_0000)
}

/// Four times 7 signs, in a byte each, with the eighth.
#[inline(always)]
fn with_eighth(signs: u32) -> u32 {
    // Bit 7 becomes the sum of those below it.
    let pairs = signs ^ signs << 1;
    let fours = pairs ^ pairs << 2;
    signs | (fours ^ fours << 4) & 0x8080_8080
}

/// Weights of four points, in sizes of `d`: `sizes` are the coordinates, a byte each.
pub(crate) fn dequantize_group(d: f32, sizes: [u64; 4], signs: u32, out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        let size = d * f32::from((sizes[i / 8] >> (8 * (i % 8))) as u8);
        *out = if signs >> i & 1 == 1 { -size } else { size };
    }
}

/// Four points with their signs.
#[inline(always)]
pub(crate) fn with_signs<S: QuantKernels>(s: S, sizes: [u64; 4], signs: u32) -> S::I8x32 {
    s.negate(s.from_words(sizes), s.mask_from_bits(signs))
}

/// A format whose groups are points of a grid.
pub(crate) trait Points {
    /// The coordinates of a group, a byte each, and its signs, a bit each.
    fn group(block: &[u8], g: usize) -> ([u64; 4], u32);
}

/// The weights of a superblock, with their signs.
#[inline(always)]
pub(crate) fn unpack_points<S: QuantKernels, B: Points>(s: S, block: &[u8]) -> [S::I8x64; PAIRS] {
    let mut q = [s.zero_x64(); PAIRS];
    for p in 0..PAIRS {
        let [(first, signs), (second, second_signs)] = [B::group(block, 2 * p), B::group(block, 2 * p + 1)];
        q[p] = Pair::join(s, [with_signs(s, first, signs), with_signs(s, second, second_signs)]);
    }
    q
}

impl Points for Iq2Xxs {
    #[inline(always)]
    fn group(block: &[u8], g: usize) -> ([u64; 4], u32) {
        let at = 2 + 8 * g;
        let mut sizes = [0; 4];
        for i in 0..4 {
            sizes[i] = grids::IQ2_XXS[usize::from(block[at + i])];
        }
        (sizes, four_times_8_signs(u32_at(block, at + 4)))
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
            let (sizes, signs) = Self::group(block, g);
            dequantize_group(scale, sizes, signs, out);
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let block = &block[..Self::BYTES];
        let mut scales = [0; GROUPS];
        for g in 0..GROUPS {
            scales[g] = i32::from(block[9 + 8 * g] >> 4) * 2 + 1;
        }
        let d = s.mul_x8(s.splat_f16_x8(u16_at(block, 0)), s.splat_x8(0.125));
        UnpackedSuperblock::scaled(s, unpack_points::<S, Self>(s, block), times(s, s.load_i32x8(&scales), d))
    }
}

/// IQ2_XS or IQ2_S with its scales. 64 is added to the integers, which must not be negative where
/// sub-blocks have scales.
#[inline(always)]
fn unpack<S: QuantKernels, B: Points>(s: S, block: &[u8], scales: u64) -> UnpackedSuperblock<S> {
    const LOW: u64 = u64::from_ne_bytes([15; 8]);
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let (mut q, bias) = (unpack_points::<S, B>(s, block), s.splat_u8x32(64));
    for p in 0..PAIRS {
        let [first, second] = s.blocks(q[p]);
        q[p] = Pair::join(s, [s.add_u8x32(first, bias), s.add_u8x32(second, bias)]);
    }
    let d = s.mul_x8(s.splat_f16_x8(u16_at(block, 0)), s.splat_x8(0.125));
    let (low, high) = ((scales & LOW) * 2 + ONES, (scales >> 4 & LOW) * 2 + ONES);
    let scales = [times(s, s.widen_i8x8(low), d), times(s, s.widen_i8x8(high), d)];
    UnpackedSuperblock { scales, ..UnpackedSuperblock::scaled(s, q, scales[0]) }
}

/// The weights of IQ2_XS or IQ2_S.
fn dequantize<B: Points>(block: &[u8], scales: &[u8], out: &mut [f32]) {
    let d = f16_at(block, 0);
    for (g, out) in out.chunks_exact_mut(32).enumerate() {
        let (sizes, signs) = B::group(block, g);
        dequantize_group(1.0, sizes, signs, out);
        let (first, second) = out.split_at_mut(16);
        for (half, scale) in [(first, scales[g] & 15), (second, scales[g] >> 4)] {
            let scale = d * (0.5 + f32::from(scale)) * 0.25;
            half.iter_mut().for_each(|weight| *weight *= scale);
        }
    }
}

impl Points for Iq2Xs {
    #[inline(always)]
    fn group(block: &[u8], g: usize) -> ([u64; 4], u32) {
        let four = u64_at(block, 2 + 8 * g);
        let mut sizes = [0; 4];
        for i in 0..4 {
            sizes[i] = grids::IQ2_XS[(four >> (16 * i)) as usize & 511];
        }
        // The low byte of each of four words, side by side.
        let signs = four >> 9 & 0x007f_007f_007f_007f;
        let signs = signs | signs >> 8;
        (sizes, with_eighth((signs & 0xffff | signs >> 16 & 0xffff_0000) as u32))
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
        unpack::<S, Self>(s, block, u64_at(block, 66))
    }
}

impl Points for Iq2S {
    #[inline(always)]
    fn group(block: &[u8], g: usize) -> ([u64; 4], u32) {
        let high = usize::from(block[66 + g]);
        let mut sizes = [0; 4];
        for i in 0..4 {
            let high = high << (8 - 2 * i) & 0x300;
            sizes[i] = grids::IQ2_S[usize::from(block[2 + 4 * g + i]) | high];
        }
        (sizes, u32_at(block, 34 + 4 * g))
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
        unpack::<S, Self>(s, block, u64_at(block, 74))
    }
}
