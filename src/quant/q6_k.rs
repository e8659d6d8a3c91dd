//! Q6_K: 6 bits a weight in blocks of 256, with an int8 scale for every 16.
//!
//! ```text
//! ql      u8 x 128  at 0      the low 4 bits of each q
//! qh      u8 x 64   at 128    the high 2 bits
//! scales  i8 x 16   at 192    of weights 16i..
//! d       f16       at 208
//!
//! Each half of a block, 128 weights, has 64 bytes of ql and 32 of qh:
//! group                 0           1                2            3
//! low 4 bits of q[i]    ql[i] low   ql[32 + i] low   ql[i] high   ql[32 + i] high nibble
//! high 2 bits, of qh[i] 0, 1        2, 3             4, 5         6, 7
//!
//! weight = (d * scale) * (q - 32)                                  210 bytes for 256 weights
//! ```

use super::block::{Block, PAIRS, UnpackedSuperblock, f16_at, times, u16_at};
use super::encoding::{Encoding, SubScales};
use crate::simd::QuantKernels;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Q6K;

impl Block for Q6K {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 210;
    const ENCODING: Encoding = Encoding::Biased(5);
    const SUB_SCALES: SubScales = SubScales::F32;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 208);
        for (i, out) in out.iter_mut().enumerate() {
            let (half, group, i_in_group) = (i / 128, i / 32 % 4, i % 32);
            let low = block[half * 64 + group % 2 * 32 + i_in_group] >> (group / 2 * 4) & 15;
            let high = block[128 + half * 32 + i_in_group] >> (group * 2) & 3;
            let scale = d * f32::from(block[192 + i / 16] as i8);
            *out = scale * (f32::from(low | high << 4) - 32.0);
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let mut q = [s.zero_x64(); PAIRS];
        for half in 0..2 {
            let low = s.load_bytes_x64(&block[64 * half..]);
            let high = s.load_bytes(&block[128 + 32 * half..]);
            q[2 * half] = s.or_x64(s.shr_mask_x64::<0>(low, 15), s.shl_mask_split::<4, 2>(high, [3, 12]));
            q[2 * half + 1] = s.or_x64(s.shr_mask_x64::<4>(low, 15), s.shr_mask_split::<0, 2>(high, 48));
        }
        let d = s.splat_f16_x8(u16_at(block, 208));
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&block[192..208]);
        let [low, high] = s.widen_i8_even_odd(u128::from_le_bytes(bytes));
        let scales = [times(s, low, d), times(s, high, d)];
        UnpackedSuperblock { scales, ..UnpackedSuperblock::scaled(s, q, scales[0]) }
    }
}
