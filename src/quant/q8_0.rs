//! Q8_0: int8 with a scale for every 32 weights.
//!
//! ```text
//! d   f16       at 0     weight i = d * qs[i]
//! qs  i8 x 32   at 2     34 bytes for 32 weights
//! ```

use super::block::{Block, PAIRS, UnpackedSuperblock, f16_at, pair_at};
use super::encoding::Encoding;
use crate::simd::QuantKernels;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Q8_0;

impl Block for Q8_0 {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 34;
    const ENCODING: Encoding = Encoding::Signed;
    const MIN_PANEL_TOKENS: usize = 13;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (out, &q) in out.iter_mut().zip(&block[2..]) {
            *out = f32::from(q as i8) * d;
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, blocks: &[u8]) -> UnpackedSuperblock<S> {
        let mut q = [s.zero_x64(); PAIRS];
        for p in 0..PAIRS {
            q[p] = s.load_2x32(pair_at::<Self>(blocks, p, 2));
        }
        let scales = s.gather_f16::<{ Self::BYTES }>(blocks);
        UnpackedSuperblock::scaled(s, q, scales)
    }
}
