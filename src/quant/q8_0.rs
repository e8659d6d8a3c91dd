//! Q8_0: int8 with a scale for every 32 weights.
//!
//! ```text
//! d   f16       at 0     weight i = d * qs[i]
//! qs  i8 x 32   at 2     34 bytes for 32 weights
//! ```

use super::blocks::{Block, GROUPS, Groups, f16_at, f16_of_each};
use crate::simd::Simd;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Q8_0;

impl Block for Q8_0 {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 34;
    const SIGNED: bool = true;
    const HAS_MIN: bool = false;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (out, &q) in out.iter_mut().zip(&block[2..]) {
            *out = f32::from(q as i8) * d;
        }
    }

    #[inline(always)]
    fn decode<S: Simd>(s: S, blocks: &[u8], n: usize) -> Groups<S> {
        let mut q = [s.splat_u8x32(0); GROUPS];
        for g in 0..n {
            q[g] = s.load_u8x32(&blocks[g * Self::BYTES + 2..]);
        }
        let zero = s.splat_x8(0.0);
        let scales = f16_of_each::<S, Self>(s, blocks, 0, n);
        Groups { q, scales: [scales; 2], mins: [zero; 2] }
    }
}
