//! Q5_0 and Q5_1: 5 bits a weight, with a scale, and in Q5_1 a minimum, for every 32.
//!
//! ```text
//! Q5_0                             Q5_1
//! d   f16      at 0                d   f16      at 0
//! qh  u32      at 2                m   f16      at 2
//! qs  u8 x 16  at 6                qh  u32      at 4
//! 22 bytes for 32 weights          qs  u8 x 16  at 8       24 bytes for 32 weights
//!
//! q[i] = nibble i (as in Q4_0) + 16 * (bit i of qh)
//! weight i = d * (q[i] - 16)       weight i = d * q[i] + m
//! ```

use super::blocks::{Block, GROUPS, Groups, f16_at, f16_of_each};
use crate::simd::Simd;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Q5_0;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Q5_1;

#[inline(always)]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The 32 numbers of 5 bits whose high bits lie at byte 0 and whose nibbles follow.
#[inline(always)]
fn load_5_bits<S: Simd>(s: S, bytes: &[u8]) -> S::I8x32 {
    let high = s.and_u8x32(s.spread_bits(u32_at(bytes, 0)), s.splat_u8x32(16));
    s.or_u8x32(s.load_nibbles(&bytes[4..]), high)
}

/// As [`load_5_bits`], one by one.
fn each_5_bits(bytes: &[u8]) -> [f32; 32] {
    let high = u32_at(bytes, 0);
    std::array::from_fn(|i| {
        let nibble = if i < 16 { bytes[4 + i] & 15 } else { bytes[4 + i - 16] >> 4 };
        f32::from(nibble | ((high >> i & 1) << 4) as u8)
    })
}

impl Block for Q5_0 {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 22;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (out, q) in out.iter_mut().zip(each_5_bits(&block[2..])) {
            *out = (q - 16.0) * d;
        }
    }

    #[inline(always)]
    fn decode<S: Simd>(s: S, blocks: &[u8], n: usize) -> Groups<S> {
        let mut q = [s.splat_u8x32(0); GROUPS];
        for g in 0..n {
            q[g] = load_5_bits(s, &blocks[g * Self::BYTES + 2..]);
        }
        let scales = f16_of_each::<S, Self>(s, blocks, 0, n);
        let mins = s.mul_x8(scales, s.splat_x8(16.0));
        Groups { q, scales: [scales; 2], mins: [mins; 2] }
    }
}

impl Block for Q5_1 {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 24;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        for (out, q) in out.iter_mut().zip(each_5_bits(&block[4..])) {
            *out = q * d + m;
        }
    }

    #[inline(always)]
    fn decode<S: Simd>(s: S, blocks: &[u8], n: usize) -> Groups<S> {
        let mut q = [s.splat_u8x32(0); GROUPS];
        for g in 0..n {
            q[g] = load_5_bits(s, &blocks[g * Self::BYTES + 4..]);
        }
        let scales = f16_of_each::<S, Self>(s, blocks, 0, n);
        let mins = s.mul_x8(f16_of_each::<S, Self>(s, blocks, 2, n), s.splat_x8(-1.0));
        Groups { q, scales: [scales; 2], mins: [mins; 2] }
    }
}
