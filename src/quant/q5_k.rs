//! Q5_K: 5 bits a weight in blocks of 256, with a scale and a minimum of 6 bits for every 32.
//!
//! ```text
//! d       f16       at 0
//! dmin    f16       at 2
//! scales  u8 x 12   at 4    as in Q4_K
//! qh      u8 x 32   at 16   bit g of qh[i] is the high bit of weight i of group g
//! qs      u8 x 128  at 48   the low 4 bits, as in Q4_K
//!
//! weight = (d * scale) * q - dmin * min                                  176 bytes for 256 weights
//! ```

use super::block::{Block, PAIRS, UnpackedSuperblock, f16_at};
use super::encoding::Encoding;
use crate::simd::{QuantKernels, six_bits};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Q5K;

impl Block for Q5K {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 176;
    const ENCODING: Encoding = Encoding::Affine(5);
    const MIN_PANEL_TOKENS: usize = 13;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
        let [scales, mins] = six_bits(&block[4..16]).map(u64::to_le_bytes);
        for (g, out) in out.chunks_exact_mut(32).enumerate() {
            let (scale, min) = (d * f32::from(scales[g]), dmin * f32::from(mins[g]));
            for (i, out) in out.iter_mut().enumerate() {
                let low = block[48 + g / 2 * 32 + i] >> (g % 2 * 4) & 15;
                let high = block[16 + i] >> g & 1;
                *out = scale * f32::from(low | high << 4) - min;
            }
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let high = s.load_bytes(&block[16..]);
        // Each pair's high bits, moved to bit 4.
        let high = [
            s.shl_mask_split::<4, 3>(high, [1, 2]),
            s.shl_mask_split::<2, 1>(high, [4, 8]),
            s.shr_mask_split::<0, 1>(high, 16),
            s.shr_mask_split::<2, 3>(high, 16),
        ];
        let mut q = [s.zero_x64(); PAIRS];
        for j in 0..PAIRS {
            q[j] = s.or_x64(s.shr_mask_split::<0, 4>(s.load_bytes(&block[48 + 32 * j..]), 15), high[j]);
        }
        let [scales, mins] = s.scales_and_mins(block);
        UnpackedSuperblock::with_mins(s, q, scales, mins)
    }
}
