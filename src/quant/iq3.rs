//! IQ3_XXS and IQ3_S: four weights are a point of a grid, whose coordinates are 4 to 62 or 1 to 15,
//! and four signs.
//!
//! ```text
//! IQ3_XXS                          IQ3_S
//! d       f16      at 0            d       f16      at 0
//! points  u8 x 64  at 2            points  u8 x 64  at 2
//! rest    u32 x 8  at 66           high    u8 x 8   at 66   bit i of high[g]: bit 8 of point i
//!   bits 0-27: 4 x 7 signs                                  of group g
//!   bits 28-31: the scale          signs   u8 x 32  at 74
//! 98 bytes for 256 weights         scales  u8 x 4   at 106  nibble g: the scale of group g
//!                                  110 bytes for 256 weights
//!
//! IQ3_XXS: weight = (d * (scale + 1/2) / 2) * coordinate, negative where its sign is 1
//! IQ3_S: weight = (d * (1 + 2 * scale)) * coordinate
//! ```
//! Signs are IQ2's.

use super::block::{Block, GROUPS, UnpackedSuperblock, f16_at, times};
use super::encoding::Encoding;
use super::grids;
use super::iq2::{
    Points, bytes_at, dequantize_group, four_times_7, four_times_8, negate_by_7_bits, unpack_points,
};
use crate::simd::QuantKernels;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq3Xxs;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq3S;

/// Two points in each word.
#[inline(always)]
fn words(points: [u32; 8]) -> [u64; 4] {
    let mut words = [0; 4];
    for i in 0..4 {
        words[i] = u64::from(points[2 * i]) | u64::from(points[2 * i + 1]) << 32;
    }
    words
}

impl Iq3Xxs {
    #[inline(always)]
    fn points(block: &[u8], g: usize) -> [u32; 8] {
        let mut points = [0; 8];
        for i in 0..8 {
            points[i] = grids::IQ3_XXS[usize::from(block[2 + 8 * g + i])];
        }
        points
    }
}

impl Points for Iq3Xxs {
    fn sizes(block: &[u8], g: usize) -> [u64; 4] {
        words(Self::points(block, g))
    }

    fn signs(block: &[u8], g: usize) -> u32 {
        four_times_8(four_times_7(u32::from_le_bytes(bytes_at(block, 66 + 4 * g))))
    }

    #[inline(always)]
    fn group<S: QuantKernels>(s: S, block: &[u8], g: usize) -> S::I8x32 {
        negate_by_7_bits(
            s,
            s.bytes_of_dwords(Self::points(block, g)),
            four_times_7(u32::from_le_bytes(bytes_at(block, 66 + 4 * g))),
        )
    }
}

impl Block for Iq3Xxs {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 98;
    const ENCODING: Encoding = Encoding::Signed;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (g, out) in out.chunks_exact_mut(32).enumerate() {
            let scale = d * (0.5 + f32::from(block[69 + 4 * g] >> 4)) * 0.5;
            dequantize_group::<Self>(scale, block, g, out);
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let block = &block[..Self::BYTES];
        let mut scales = 0x0101_0101_0101_0101;
        for g in 0..GROUPS {
            scales += u64::from(u32::from_le_bytes(bytes_at(block, 66 + 4 * g)) >> 28) << (8 * g + 1);
        }
        let d = s.mul_x8(s.splat_f16_x8(u16::from_le_bytes(bytes_at(block, 0))), s.splat_x8(0.25));
        let scales = times(s, s.widen_i8x8(scales), d);
        UnpackedSuperblock::scaled(s, unpack_points::<S, Self>(s, block), scales)
    }
}

/// Bit 8 of each of eight points, by the byte of their bits. (Shifts of that byte were slower.)
static HIGH: [[u16; 8]; 256] = {
    let mut high = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut i = 0;
        while i < 8 {
            high[byte][i] = ((byte >> i & 1) << 8) as u16;
            i += 1;
        }
        byte += 1;
    }
    high
};

impl Iq3S {
    #[inline(always)]
    fn points(block: &[u8], g: usize) -> [u32; 8] {
        let (low, high) = (&block[2 + 8 * g..][..8], HIGH[usize::from(block[66 + g])]);
        let (mut numbers, mut points) = ([0; 8], [0; 8]);
        for i in 0..8 {
            numbers[i] = u16::from(low[i]) | high[i];
        }
        for i in 0..8 {
            points[i] = grids::IQ3_S[usize::from(numbers[i] & 511)];
        }
        points
    }
}

impl Points for Iq3S {
    fn sizes(block: &[u8], g: usize) -> [u64; 4] {
        words(Self::points(block, g))
    }

    #[inline(always)]
    fn signs(block: &[u8], g: usize) -> u32 {
        u32::from_le_bytes(bytes_at(block, 74 + 4 * g))
    }

    #[inline(always)]
    fn group<S: QuantKernels>(s: S, block: &[u8], g: usize) -> S::I8x32 {
        s.negate(s.bytes_of_dwords(Self::points(block, g)), s.mask_from_bits(Self::signs(block, g)))
    }
}

/// IQ3_S's eight scales, a byte each.
#[inline(always)]
fn scales(block: &[u8]) -> u64 {
    let scales = u64::from(u32::from_le_bytes(bytes_at(block, 106)));
    let scales = (scales | scales << 16) & 0x0000_ffff_0000_ffff;
    let scales = (scales | scales << 8) & 0x00ff_00ff_00ff_00ff;
    let scales = (scales | scales << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    scales * 2 + 0x0101_0101_0101_0101
}

impl Block for Iq3S {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 110;
    const ENCODING: Encoding = Encoding::Signed;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, scales) = (f16_at(block, 0), scales(block).to_le_bytes());
        for (g, out) in out.chunks_exact_mut(32).enumerate() {
            dequantize_group::<Self>(d * f32::from(scales[g]), block, g, out);
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let block = &block[..Self::BYTES];
        let scales =
            times(s, s.widen_i8x8(scales(block)), s.splat_f16_x8(u16::from_le_bytes(bytes_at(block, 0))));
        UnpackedSuperblock::scaled(s, unpack_points::<S, Self>(s, block), scales)
    }
}
