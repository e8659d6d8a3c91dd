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

use super::block::{Block, GROUPS, UnpackedSuperblock, f16_at, times, u16_at, u32_at};
use super::encoding::Encoding;
use super::grids;
use super::iq2::{Points, dequantize_group, four_times_8_signs, unpack_points};
use crate::simd::QuantKernels;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq3Xxs;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq3S;

impl Points for Iq3Xxs {
    #[inline(always)]
    fn group(block: &[u8], g: usize) -> ([u64; 4], u32) {
        let mut sizes = [0; 4];
        for i in 0..4 {
            let [first, second] = [0, 1].map(|j| grids::IQ3_XXS[usize::from(block[2 + 8 * g + 2 * i + j])]);
            sizes[i] = u64::from(first) | u64::from(second) << 32;
        }
        (sizes, four_times_8_signs(u32_at(block, 66 + 4 * g)))
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
            let (sizes, signs) = Self::group(block, g);
            dequantize_group(scale, sizes, signs, out);
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let block = &block[..Self::BYTES];
        let mut scales = [0; GROUPS];
        for g in 0..GROUPS {
            scales[g] = i32::from(block[69 + 4 * g] >> 4) * 2 + 1;
        }
        let d = s.mul_x8(s.splat_f16_x8(u16_at(block, 0)), s.splat_x8(0.25));
        let scales = times(s, s.load_i32x8(&scales), d);
        UnpackedSuperblock::scaled(s, unpack_points::<S, Self>(s, block), scales)
    }
}

impl Points for Iq3S {
    #[inline(always)]
    fn group(block: &[u8], g: usize) -> ([u64; 4], u32) {
        let high = usize::from(block[66 + g]);
        let mut sizes = [0; 4];
        for i in 0..4 {
            let mut pair = [0; 2];
            for j in 0..2 {
                let k = 2 * i + j;
                let point = usize::from(block[2 + 8 * g + k]) | high << (8 - k) & 256;
                pair[j] = u64::from(grids::IQ3_S[point]);
            }
            sizes[i] = pair[0] | pair[1] << 32;
        }
        (sizes, u32_at(block, 74 + 4 * g))
    }
}

/// IQ3_S's eight scales, a byte each.
#[inline(always)]
fn scales(block: &[u8]) -> u64 {
    let scales = u64::from(u32_at(block, 106));
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
            let (sizes, signs) = Self::group(block, g);
            dequantize_group(d * f32::from(scales[g]), sizes, signs, out);
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let block = &block[..Self::BYTES];
        let scales = times(s, s.widen_i8x8(scales(block)), s.splat_f16_x8(u16_at(block, 0)));
        UnpackedSuperblock::scaled(s, unpack_points::<S, Self>(s, block), scales)
    }
}
