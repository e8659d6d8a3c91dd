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

use super::block::{Block, PAIRS, UnpackedSuperblock, f16_at, pair_at, u32_at};
use super::encoding::Encoding;
use crate::simd::QuantKernels;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Q5_0;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Q5_1;

/// The 32 integers of 5 bits whose high bits lie at byte 0 and whose nibbles follow.
#[inline(always)]
fn load_5_bits<S: QuantKernels>(s: S, blocks: [&[u8]; 2]) -> S::I8x64 {
    let high = s.and_mask_x64(s.mask_from_bits_x64([u32_at(blocks[0], 0), u32_at(blocks[1], 0)]), 16);
    s.or_x64(s.load_nibbles_x64([&blocks[0][4..], &blocks[1][4..]]), high)
}

/// The integers of [`load_5_bits`], one by one.
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
    const ENCODING: Encoding = Encoding::Biased(4);
    const MIN_PANEL_TOKENS: usize = 13;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (out, q) in out.iter_mut().zip(each_5_bits(&block[2..])) {
            *out = (q - 16.0) * d;
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, blocks: &[u8]) -> UnpackedSuperblock<S> {
        let mut q = [s.zero_x64(); PAIRS];
        for p in 0..PAIRS {
            q[p] = load_5_bits(s, pair_at::<Self>(blocks, p, 2));
        }
        let scales = s.gather_f16::<{ Self::BYTES }>(blocks);
        UnpackedSuperblock::scaled(s, q, scales)
    }
}

impl Block for Q5_1 {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 24;
    const ENCODING: Encoding = Encoding::Affine(5);
    const MIN_PANEL_TOKENS: usize = 13;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        for (out, q) in out.iter_mut().zip(each_5_bits(&block[4..])) {
            *out = q * d + m;
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, blocks: &[u8]) -> UnpackedSuperblock<S> {
        let mut q = [s.zero_x64(); PAIRS];
        for p in 0..PAIRS {
            q[p] = load_5_bits(s, pair_at::<Self>(blocks, p, 4));
        }
        let scales = s.gather_f16::<{ Self::BYTES }>(blocks);
        let mins = s.gather_f16::<{ Self::BYTES }>(&blocks[2..]);
        UnpackedSuperblock::with_mins(s, q, scales, mins)
    }
}
