//! Q4_0 and Q4_1: 4 bits a weight, with a scale, and in Q4_1 a minimum, for every 32.
//!
//! ```text
//! Q4_0                             Q4_1
//! d   f16      at 0                d   f16      at 0
//! qs  u8 x 16  at 2                m   f16      at 2
//! 18 bytes for 32 weights          qs  u8 x 16  at 4       20 bytes for 32 weights
//!
//! q[i] = qs[i] & 15, q[i + 16] = qs[i] >> 4, for i below 16
//! weight i = d * (q[i] - 8)        weight i = d * q[i] + m
//! ```

use super::block::{Block, Interleaved, PAIRS, UnpackedSuperblock, f16_at, pair_at};
use super::encoding::Encoding;
use crate::simd::{Interleave, QuantKernels};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Q4_0;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Q4_1;

impl Block for Q4_0 {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 18;
    const ENCODING: Encoding = Encoding::Biased(3);
    const INTERLEAVE: Option<Interleave> = Some(Interleave::Nibbles16);
    const MIN_PANEL_TOKENS: usize = 13;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (i, &byte) in block[2..18].iter().enumerate() {
            out[i] = (f32::from(byte & 15) - 8.0) * d;
            out[i + 16] = (f32::from(byte >> 4) - 8.0) * d;
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, blocks: &[u8]) -> UnpackedSuperblock<S> {
        let mut q = [s.zero_x64(); PAIRS];
        for p in 0..PAIRS {
            q[p] = s.load_nibbles_x64(pair_at::<Self>(blocks, p, 2));
        }
        let scales = s.gather_f16::<{ Self::BYTES }>(blocks);
        UnpackedSuperblock::scaled(s, q, scales)
    }

    #[inline(always)]
    fn unpack_interleaved<S: QuantKernels>(s: S, blocks: &[u8]) -> Interleaved<S> {
        let q = s.interleave_nibbles_16::<{ Self::BYTES }>(&blocks[2..]);
        Interleaved { q, scales: s.gather_f16::<{ Self::BYTES }>(blocks), mins: s.splat_x8(0.0) }
    }
}

impl Block for Q4_1 {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 20;
    const ENCODING: Encoding = Encoding::Affine(4);
    const INTERLEAVE: Option<Interleave> = Some(Interleave::Nibbles16);
    const MIN_PANEL_TOKENS: usize = 13;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        for (i, &byte) in block[4..20].iter().enumerate() {
            out[i] = f32::from(byte & 15) * d + m;
            out[i + 16] = f32::from(byte >> 4) * d + m;
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, blocks: &[u8]) -> UnpackedSuperblock<S> {
        let mut q = [s.zero_x64(); PAIRS];
        for p in 0..PAIRS {
            q[p] = s.load_nibbles_x64(pair_at::<Self>(blocks, p, 4));
        }
        let scales = s.gather_f16::<{ Self::BYTES }>(blocks);
        let mins = s.gather_f16::<{ Self::BYTES }>(&blocks[2..]);
        UnpackedSuperblock::with_mins(s, q, scales, mins)
    }

    #[inline(always)]
    fn unpack_interleaved<S: QuantKernels>(s: S, blocks: &[u8]) -> Interleaved<S> {
        let q = s.interleave_nibbles_16::<{ Self::BYTES }>(&blocks[4..]);
        let scales = s.gather_f16::<{ Self::BYTES }>(blocks);
        Interleaved { q, scales, mins: s.gather_f16::<{ Self::BYTES }>(&blocks[2..]) }
    }
}
