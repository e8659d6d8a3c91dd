//! Q2_K: 2 bits a weight in blocks of 256, with a scale and a minimum of 4 bits for every 16.
//!
//! ```text
//! scales  u8 x 16   at 0    of weights 16i..: low nibble the scale, high nibble the minimum
//! qs      u8 x 64   at 16   bits 2j, 2j + 1 of qs[32h + i]: weight i of group j of half block h
//! d       f16       at 80
//! dmin    f16       at 82
//!
//! weight = (d * scale) * q - dmin * min                                  84 bytes for 256 weights
//! ```

use super::block::{Block, PAIRS, SIGN, UnpackedSuperblock, f16_at, u16_at};
use super::encoding::{Encoding, SubScales};
use super::sub_blocks::{IntSubBlocks, scale_sub_blocks};
use crate::simd::QuantKernels;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Q2K;

impl Block for Q2K {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 84;
    const ENCODING: Encoding = Encoding::Affine(2);
    const SUB_SCALES: SubScales = SubScales::Int;
    /// An integer times its scale is at most 3 * 15.
    const PANEL_ENCODING: (Encoding, bool) = (Encoding::Affine(6), true);

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
        for (i, out) in out.iter_mut().enumerate() {
            let packed = block[i / 16];
            let (scale, min) = (d * f32::from(packed & 15), dmin * f32::from(packed >> 4));
            let q = block[16 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
            *out = scale * f32::from(q) - min;
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let IntSubBlocks { q, sum_factors, d, dmin, .. } = Self::unpack_sub_blocks(s, block);
        let mut scales = [0; 16];
        for (scale, packed) in scales.iter_mut().zip(block) {
            *scale = (packed & 15) as i8;
        }
        UnpackedSuperblock {
            sub_block_mins: sum_factors,
            ..UnpackedSuperblock::with_mins(s, scale_sub_blocks(s, q, &scales), d, dmin)
        }
    }

    #[inline(always)]
    fn unpack_sub_blocks<S: QuantKernels>(s: S, block: &[u8]) -> IntSubBlocks<S> {
        let scales_and_mins = s.load_nibbles(block);
        let [_, mins] = s.widen_i8_to_i16(scales_and_mins);
        IntSubBlocks {
            q: load_2_bits(s, &block[16..]),
            scales: scales_and_mins,
            sum_factors: mins,
            d: s.splat_f16_x8(u16_at(block, 80)),
            dmin: s.splat_f16_x8(u16_at(block, 82) ^ SIGN),
        }
    }
}

/// The eight groups of Q2_K and Q3_K whose 2 (low) bits lie in 64 bytes.
#[inline(always)]
pub(crate) fn load_2_bits<S: QuantKernels>(s: S, bytes: &[u8]) -> [S::I8x64; PAIRS] {
    let (a, b) = (s.load_bytes(bytes), s.load_bytes(&bytes[32..]));
    [
        s.shr_mask_split::<0, 2>(a, 3),
        s.shr_mask_split::<4, 6>(a, 3),
        s.shr_mask_split::<0, 2>(b, 3),
        s.shr_mask_split::<4, 6>(b, 3),
    ]
}
