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

use super::blocks::{Block, GROUPS, Groups, f16_at, f16_of_each};
use crate::simd::Simd;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Q4_0;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Q4_1;

impl Block for Q4_0 {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 18;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (i, &byte) in block[2..18].iter().enumerate() {
            out[i] = (f32::from(byte & 15) - 8.0) * d;
            out[i + 16] = (f32::from(byte >> 4) - 8.0) * d;
        }
    }

    #[inline(always)]
    fn decode<S: Simd>(s: S, blocks: &[u8], n: usize) -> Groups<S> {
        let mut q = [s.splat_u8x32(0); GROUPS];
        for g in 0..n {
            q[g] = s.load_nibbles(&blocks[g * Self::BYTES + 2..]);
        }
        let scales = f16_of_each::<S, Self>(s, blocks, 0, n);
        let mins = s.mul_x8(scales, s.splat_x8(8.0));
        Groups { q, scales: [scales; 2], mins: [mins; 2] }
    }
}

impl Block for Q4_1 {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 20;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, m) = (f16_at(block, 0), f16_at(block, 2));
        for (i, &byte) in block[4..20].iter().enumerate() {
            out[i] = f32::from(byte & 15) * d + m;
            out[i + 16] = f32::from(byte >> 4) * d + m;
        }
    }

    #[inline(always)]
    fn decode<S: Simd>(s: S, blocks: &[u8], n: usize) -> Groups<S> {
        let mut q = [s.splat_u8x32(0); GROUPS];
        for g in 0..n {
            q[g] = s.load_nibbles(&blocks[g * Self::BYTES + 4..]);
        }
        let scales = f16_of_each::<S, Self>(s, blocks, 0, n);
        let mins = s.mul_x8(f16_of_each::<S, Self>(s, blocks, 2, n), s.splat_x8(-1.0));
        Groups { q, scales: [scales; 2], mins: [mins; 2] }
    }
}
