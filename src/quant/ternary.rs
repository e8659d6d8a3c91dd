//! TQ1_0 and TQ2_0: weights are -1, 0 or 1, in sizes of one scale for every 256.
//!
//! ```text
//! TQ1_0                            TQ2_0
//! qs    u8 x 48  at 0              qs  u8 x 64  at 0    as in Q2_K
//! last  u8 x 4   at 48             d   f16      at 64
//! d     f16      at 52             66 bytes for 256 weights
//! 54 bytes for 256 weights
//!
//! Digit j to the base 3 of byte / 256, the first one after the point being digit 0, is q of
//!   weight 32j + i        for byte qs[i], i below 32
//!   weight 160 + 16j + i  for byte qs[32 + i]
//!   weight 240 + 4j + i   for byte last[i], which has four digits
//!
//! weight = d * (q - 1)
//! ```
//! TQ2_0's q may be 3, which no quantizer makes.

use super::block::{Block, PAIRS, UnpackedSuperblock, f16_at, u16_at};
use super::encoding::Encoding;
use super::q2_k::load_2_bits;
use crate::simd::{Pair, QuantKernels};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Tq1_0;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tq2_0;

/// Powers of three for two of the last three groups of a block: 1 and 3 for the first half and the
/// second one, 81 and those of the last four bytes. The third has 9 and 27.
const POWERS: [[i8; 32]; 2] = {
    let mut powers = [[0; 32]; 2];
    let mut i = 0;
    while i < 16 {
        [powers[0][i], powers[1][i]] = [1, 81];
        [powers[0][16 + i], powers[1][16 + i]] = [3, [1, 3, 9, 27][i / 4]];
        i += 1;
    }
    powers
};

/// `3 * a` modulo 256, byte by byte.
#[inline(always)]
fn triple<S: QuantKernels>(s: S, a: S::I8x32) -> S::I8x32 {
    s.add_u8x32(s.add_u8x32(a, a), a)
}

impl Block for Tq1_0 {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 54;
    const ENCODING: Encoding = Encoding::Biased(0);

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 52);
        for (i, out) in out.iter_mut().enumerate() {
            let (byte, digit) = match i {
                0..160 => (block[i % 32], i / 32),
                160..240 => (block[32 + i % 16], (i - 160) / 16),
                _ => (block[48 + i % 4], (i - 240) / 4),
            };
            let from_digit = byte.wrapping_mul(3_u8.pow(digit as u32));
            *out = d * (f32::from(((u16::from(from_digit) * 3) >> 8) as u8) - 1.0);
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let block = &block[..Self::BYTES];
        let mut groups = [s.load_bytes(block); 8];
        for j in 1..5 {
            groups[j] = triple(s, groups[j - 1]);
        }
        let (mut qs, mut last) = ([0; 16], [0; 4]);
        qs.copy_from_slice(&block[32..48]);
        last.copy_from_slice(&block[48..52]);
        let qs = u128::from_le_bytes(qs);
        let last = u128::from(u32::from_le_bytes(last)) * 0x0000_0001_0000_0001_0000_0001_0000_0001;
        groups[5] = s.mul_u8x32(s.splat_u128(qs), s.load_bytes(&POWERS[0]));
        groups[6] = triple(s, triple(s, groups[5]));
        groups[7] = s.bytes_of_words([qs as u64, (qs >> 64) as u64, last as u64, last as u64]);
        groups[7] = s.mul_u8x32(groups[7], s.load_bytes(&POWERS[1]));
        let mut q = [s.zero_x64(); PAIRS];
        for p in 0..PAIRS {
            q[p] = Pair::join(s, [s.first_trit(groups[2 * p]), s.first_trit(groups[2 * p + 1])]);
        }
        UnpackedSuperblock::scaled(s, q, s.splat_f16_x8(u16_at(block, 52)))
    }
}

impl Block for Tq2_0 {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 66;
    const ENCODING: Encoding = Encoding::Biased(0);

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 64);
        for (i, out) in out.iter_mut().enumerate() {
            let q = block[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
            *out = d * (f32::from(q) - 1.0);
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let block = &block[..Self::BYTES];
        UnpackedSuperblock::scaled(s, load_2_bits(s, block), s.splat_f16_x8(u16_at(block, 64)))
    }
}
