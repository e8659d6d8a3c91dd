//! Q3_K: 3 bits a weight in blocks of 256, with a scale of 6 bits for every 16.
//!
//! ```text
//! hmask   u8 x 32   at 0     bit g of hmask[i] is the high bit of weight i of group g
//! qs      u8 x 64   at 32    the low 2 bits, as in Q2_K
//! scales  u8 x 12   at 96    16 scales of 6 bits, see `scales`
//! d       f16       at 108
//!
//! weight = (d * (scale - 32)) * (q - 4)                                     110 bytes for 256 weights
//! ```

use super::blocks::{Block, Groups, Numbers, PAIRS, f16_at, u16_at, u32_at};
use super::q2_k::load_2_bits;
use crate::simd::Simd;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Q3K;

/// The 16 scales, a byte each, from the twelve bytes that hold them: the low 4 bits are the low halves of bytes 0..8 and
/// then their high halves; the high 2 bits are bits 0-1, 2-3, 4-5 and 6-7 of bytes 8..12.
#[inline(always)]
fn scales(packed: &[u8]) -> u128 {
    let (a, b, high) = (u32_at(packed, 0), u32_at(packed, 4), u32_at(packed, 8));
    let low = [a & 0x0f0f_0f0f, b & 0x0f0f_0f0f, a >> 4 & 0x0f0f_0f0f, b >> 4 & 0x0f0f_0f0f];
    let mut all = 0;
    for i in 0..4 {
        let four = low[i] | (high >> (2 * i) & 0x0303_0303) << 4;
        all |= u128::from(four) << (32 * i);
    }
    all
}

impl Block for Q3K {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 110;
    const NUMBERS: Numbers = Numbers::Offset(2);
    const HALVES: bool = true;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 108);
        let scales = scales(&block[96..108]).to_le_bytes();
        for (i, out) in out.iter_mut().enumerate() {
            let scale = d * (f32::from(scales[i / 16]) - 32.0);
            let low = block[32 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
            let high = block[i % 32] >> (i / 32) & 1;
            *out = scale * (f32::from(low | high << 2) - 4.0);
        }
    }

    #[inline(always)]
    fn decode<S: Simd>(s: S, block: &[u8]) -> Groups<S> {
        let high = s.load_u8x32(block);
        // Each group's high bits, moved to bit 2.
        let high = [
            s.bits_up_pair::<2, 1>(high, [1, 2]),
            s.bits_pair::<0, 1>(high, 4),
            s.bits_pair::<2, 3>(high, 4),
            s.bits_pair::<4, 5>(high, 4),
        ];
        let mut q = load_2_bits(s, &block[32..]);
        for p in 0..PAIRS {
            q[p] = s.or_pair(q[p], high[p]);
        }
        let d = s.splat_f16_x8(u16_at(block, 108));
        let offset = s.mul_x8(d, s.splat_x8(-32.0));
        let [low, high] = s.widen_i8_pairs(scales(&block[96..108]));
        let scales = [s.mul_add_x8(s.to_f32x8(low), d, offset), s.mul_add_x8(s.to_f32x8(high), d, offset)];
        Groups { q, scales, mins: [s.splat_x8(0.0); 2] }
    }
}
