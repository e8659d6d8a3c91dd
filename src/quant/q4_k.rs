//! Q4_K: 4 bits a weight in blocks of 256, with a scale and a minimum of 6 bits for every 32.
//!
//! ```text
//! d       f16       at 0
//! dmin    f16       at 2
//! scales  u8 x 12   at 4    8 scales and 8 minima of 6 bits, see `six_bits`
//! qs      u8 x 128  at 16   low nibbles of qs[32j..][..32]: q of group 2j; high: of group 2j + 1
//!
//! weight = (d * scale) * q - dmin * min                                  144 bytes for 256 weights
//! ```

use super::block::{Block, Interleaved, PAIRS, UnpackedSuperblock, f16_at};
use super::encoding::Encoding;
use crate::simd::{Interleave, QuantKernels, six_bits};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Q4K;

impl Block for Q4K {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 144;
    const ENCODING: Encoding = Encoding::Affine(4);
    const INTERLEAVE: Option<Interleave> = Some(Interleave::Nibbles32);
    const MIN_PANEL_TOKENS: usize = 13;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
        let [scales, mins] = six_bits(&block[4..16]).map(u64::to_le_bytes);
        for (g, out) in out.chunks_exact_mut(32).enumerate() {
            let (scale, min) = (d * f32::from(scales[g]), dmin * f32::from(mins[g]));
            for (out, byte) in out.iter_mut().zip(&block[16 + g / 2 * 32..]) {
                *out = scale * f32::from(byte >> (g % 2 * 4) & 15) - min;
            }
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let mut q = [s.zero_x64(); PAIRS];
        for j in 0..PAIRS {
            q[j] = s.shr_mask_split::<0, 4>(s.load_bytes(&block[16 + 32 * j..]), 15);
        }
        let [scales, mins] = s.scales_and_mins(block);
        UnpackedSuperblock::with_mins(s, q, scales, mins)
    }

    #[inline(always)]
    fn unpack_transposed<S: QuantKernels>(s: S, block: &[u8]) -> Interleaved<S> {
        let q = s.transpose_nibbles_32(&block[16..]);
        let [scales, mins] = s.scales_and_mins(block);
        Interleaved { q, scales, mins }
    }

    #[inline(always)]
    fn unpack_interleaved<S: QuantKernels>(s: S, block: &[u8]) -> Interleaved<S> {
        let q = s.interleave_nibbles_32(&block[16..]);
        let [scales, mins] = s.scales_and_mins(block);
        Interleaved { q, scales, mins }
    }
}
