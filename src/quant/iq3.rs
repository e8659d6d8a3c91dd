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

use super::block::{Block, GROUP, bytes_at, f16_at, scale_times, times};
use super::encoding::Encoding;
use super::grids;
use super::iq2::{dequantize_place, eight_signs, signs_and_scales};
use super::points::PointSuperblock;
use crate::simd::{Interleave, QuantKernels};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq3Xxs;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq3S;

/// Two points as a word.
fn word([first, second]: [u32; 2]) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

impl Iq3Xxs {
    #[inline(always)]
    fn point(block: &[u8], i: usize) -> u32 {
        grids::IQ3_XXS[usize::from(block[2 + i])]
    }
}

impl Block for Iq3Xxs {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 98;
    const ENCODING: Encoding = Encoding::Signed;
    const INTERLEAVE: Option<Interleave> = Some(Interleave::Points);

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (place, out) in out.chunks_exact_mut(8).enumerate() {
            let g = place / 4;
            let scale = d * (0.5 + f32::from(block[69 + 4 * g] >> 4)) * 0.5;
            let sizes = word([Self::point(block, 2 * place), Self::point(block, 2 * place + 1)]);
            dequantize_place(scale, sizes, eight_signs(block, 66 + 4 * g, place % 4), out);
        }
    }

    #[inline(always)]
    fn unpack_points<S: QuantKernels>(s: S, block: &[u8]) -> PointSuperblock<S> {
        let block = &block[..Self::BYTES];
        let rest = s.as_i32x8(s.load_bytes(&block[66..]));
        signs_and_scales(s, rest, scale_times(s, block, 0.25))
    }

    #[inline(always)]
    fn look_up<S: QuantKernels>(
        s: S,
        block: &[u8],
        _numbers: &[[u16; GROUP]; 2],
        places: [usize; 4],
    ) -> S::I8x32 {
        let mut points = [0; 8];
        for i in 0..8 {
            points[i] = Self::point(block, 2 * places[i / 2] + i % 2);
        }
        s.bytes_of_dwords(points)
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
    const INTERLEAVE: Option<Interleave> = Some(Interleave::Points);

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, scales) = (f16_at(block, 0), scales(block).to_le_bytes());
        for (place, out) in out.chunks_exact_mut(8).enumerate() {
            let point = |i: usize| {
                let high = usize::from(block[66 + i / 8] >> (i % 8) & 1);
                grids::IQ3_S[usize::from(block[2 + i]) | high << 8]
            };
            let sizes = word([point(2 * place), point(2 * place + 1)]);
            dequantize_place(d * f32::from(scales[place / 4]), sizes, u32::from(block[74 + place]), out);
        }
    }

    #[inline(always)]
    fn unpack_points<S: QuantKernels>(s: S, block: &[u8]) -> PointSuperblock<S> {
        let (block, one) = (&block[..Self::BYTES], s.splat_u8x32(1));
        let mut numbers = [[0; 32]; 2];
        for i in 0..2 {
            let high = s.mask_from_bits(u32::from_le_bytes(bytes_at(block, 66 + 4 * i)));
            numbers[i] = s.zip_bytes(s.load_bytes(&block[2 + 32 * i..]), s.and_u8x32(high, one));
        }
        let d = s.splat_f16_x8(u16::from_le_bytes(bytes_at(block, 0)));
        PointSuperblock {
            numbers,
            signs: s.load_bytes(&block[74..]),
            scales: [times(s, s.widen_i8x8(scales(block)), d); 2],
        }
    }

    #[inline(always)]
    fn look_up<S: QuantKernels>(
        s: S,
        _block: &[u8],
        numbers: &[[u16; GROUP]; 2],
        places: [usize; 4],
    ) -> S::I8x32 {
        let mut points = [0; 8];
        for i in 0..8 {
            let at = 2 * places[i / 2] + i % 2;
            points[i] = grids::IQ3_S[usize::from(numbers[at / 32][at % 32] & 511)];
        }
        s.bytes_of_dwords(points)
    }
}
