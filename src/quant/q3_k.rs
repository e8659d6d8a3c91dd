//! Q3_K: 3 bits a weight in blocks of 256, with a scale of 6 bits for every 16.
//!
//! ```text
//! hmask   u8 x 32   at 0     bit g of hmask[i] is the high bit of weight i of group g
//! qs      u8 x 64   at 32    the low 2 bits, as in Q2_K
//! scales  u8 x 12   at 96    16 scales of 6 bits, see `scales`
//! d       f16       at 108
//!
//! weight = (d * (scale - 32)) * (q - 4)                                  110 bytes for 256 weights
//! ```

use super::block::{Block, PAIRS, SIGN, UnpackedSuperblock, f16_at, u16_at, u32_at, u64_at};
use super::encoding::{Encoding, SubScales};
use super::q2_k::load_2_bits;
use super::sub_blocks::{IntSubBlocks, scale_sub_blocks};
use crate::simd::QuantKernels;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Q3K;

/// The 16 scales, less 32, an int8 each, from the twelve bytes that hold them: the low 4 bits are
/// the low nibbles of bytes 0..8 and then their high nibbles; the high 2 bits are bits 0-1, 2-3,
/// 4-5 and 6-7 of bytes 8..12.
#[inline(always)]
fn scales(packed: &[u8]) -> u128 {
    const LOW: u64 = u64::from_ne_bytes([15; 8]);
    const HIGH: u64 = u64::from_ne_bytes([3; 8]);
    const SIGN: u64 = u64::from_ne_bytes([128; 8]);
    let (low, high) = (u64_at(packed, 0), u64::from(u32_at(packed, 8)));
    // Bits 0-1 and 2-3 of the four bytes side by side: what is shifted beyond them isn't among the
    // bits that are kept.
    let first = low & LOW | ((high | high << 30) & HIGH) << 4;
    let second = low >> 4 & LOW | ((high >> 4 | high << 26) & HIGH) << 4;
    let less_32 = |scales: u64| ((scales | SIGN) - (SIGN >> 2)) ^ SIGN;
    u128::from(less_32(first)) | u128::from(less_32(second)) << 64
}

impl Block for Q3K {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 110;
    const ENCODING: Encoding = Encoding::Biased(2);
    const SUB_SCALES: SubScales = SubScales::Int;
    /// `(4 - q) * (scale - 32)` is within -124..=124 or -128: with the other sign, 128 would be too
    /// large for an int8.
    const PANEL_ENCODING: (Encoding, bool) = (Encoding::Signed, false);

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 108);
        let scales = scales(&block[96..108]).to_le_bytes();
        for (i, out) in out.iter_mut().enumerate() {
            let scale = d * f32::from(scales[i / 16] as i8);
            let low = block[32 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
            let high = block[i % 32] >> (i / 32) & 1;
            *out = scale * (f32::from(low | high << 2) - 4.0);
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let mut q = load_3_bits(s, block);
        for p in 0..PAIRS {
            q[p] = s.shuffle_x64(&[4, 3, 2, 1, 0, -1, -2, -3, 0, 0, 0, 0, 0, 0, 0, 0], q[p]);
        }
        let scales = scales(&block[96..108]).to_le_bytes().map(|scale| scale as i8);
        UnpackedSuperblock::scaled(
            s,
            scale_sub_blocks(s, q, &scales),
            s.splat_f16_x8(u16_at(block, 108) ^ SIGN),
        )
    }

    #[inline(always)]
    fn unpack_sub_blocks<S: QuantKernels>(s: S, block: &[u8]) -> IntSubBlocks<S> {
        let scales = s.splat_u128(scales(&block[96..108]));
        let [factors, _] = s.widen_i8_to_i16(scales);
        IntSubBlocks {
            q: load_3_bits(s, block),
            scales,
            sum_factors: factors,
            d: s.splat_f16_x8(u16_at(block, 108)),
            dmin: s.splat_x8(0.0),
        }
    }
}

/// The eight groups of a block.
#[inline(always)]
fn load_3_bits<S: QuantKernels>(s: S, block: &[u8]) -> [S::I8x64; PAIRS] {
    let high = s.load_bytes(block);
    // Each group's high bits, moved to bit 2.
    let high = [
        s.shl_mask_split::<2, 1>(high, [1, 2]),
        s.shr_mask_split::<0, 1>(high, 4),
        s.shr_mask_split::<2, 3>(high, 4),
        s.shr_mask_split::<4, 5>(high, 4),
    ];
    let mut q = load_2_bits(s, &block[32..]);
    for p in 0..PAIRS {
        q[p] = s.or_x64(q[p], high[p]);
    }
    q
}
