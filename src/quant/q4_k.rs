//! Q4_K: 4 bits a weight in blocks of 256, with a scale and a minimum of 6 bits for every 32.
//!
//! ```text
//! d       f16       at 0
//! dmin    f16       at 2
//! scales  u8 x 12   at 4    8 scales and 8 minima of 6 bits, see `scales_and_mins`
//! qs      u8 x 128  at 16   low nibbles of qs[32j..][..32]: q of group 2j; high: of group 2j + 1
//!
//! weight = (d * scale) * q - dmin * min                                  144 bytes for 256 weights
//! ```

use super::block::{Block, Interleaved, PAIRS, SIGN, UnpackedSuperblock, f16_at, times, u16_at, u32_at};
use super::encoding::Encoding;
use crate::simd::{Interleave, QuantKernels};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Q4K;

/// The scales and minima of Q4_K's and Q5_K's eight groups, a byte each, from the twelve bytes that
/// hold them: the low 6 bits of bytes 0..4 and 4..8 are those of groups 0..4; for groups 4..8 the
/// low 4 bits are the nibbles of bytes 8..12, and the high 2 bits those of bytes 0..8.
#[inline(always)]
pub(crate) fn scales_and_mins(packed: &[u8]) -> [u64; 2] {
    let (a, b, c) = (u32_at(packed, 0), u32_at(packed, 4), u32_at(packed, 8));
    let high_bits = |word: u32| (word >> 6 & 0x0303_0303) << 4;
    let scales = [a & 0x3f3f_3f3f, c & 0x0f0f_0f0f | high_bits(a)];
    let mins = [b & 0x3f3f_3f3f, c >> 4 & 0x0f0f_0f0f | high_bits(b)];
    [scales, mins].map(|[low, high]| u64::from(low) | u64::from(high) << 32)
}

/// The scales and minima of a block as f32: `d * scale` and `-dmin * min` of each group.
#[inline(always)]
pub(crate) fn unpack_scales<S: QuantKernels>(s: S, block: &[u8]) -> [S::F32x8; 2] {
    let [scales, mins] = scales_and_mins(&block[4..16]);
    let (d, dmin) = (s.splat_f16_x8(u16_at(block, 0)), s.splat_f16_x8(u16_at(block, 2) ^ SIGN));
    [times(s, s.widen_i8x8(scales), d), times(s, s.widen_i8x8(mins), dmin)]
}

impl Block for Q4K {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 144;
    const ENCODING: Encoding = Encoding::Affine(4);
    const INTERLEAVE: Option<Interleave> = Some(Interleave::Nibbles32);
    const MIN_PANEL_TOKENS: usize = 13;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
        let [scales, mins] = scales_and_mins(&block[4..16]).map(u64::to_le_bytes);
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
        let [scales, mins] = unpack_scales(s, block);
        UnpackedSuperblock::with_mins(s, q, scales, mins)
    }

    #[inline(always)]
    fn unpack_transposed<S: QuantKernels>(s: S, block: &[u8]) -> Interleaved<S> {
        let q = s.transpose_nibbles_32(&block[16..]);
        let [scales, mins] = unpack_scales(s, block);
        Interleaved { q, scales, mins }
    }

    #[inline(always)]
    fn unpack_interleaved<S: QuantKernels>(s: S, block: &[u8]) -> Interleaved<S> {
        let q = s.interleave_nibbles_32(&block[16..]);
        let [scales, mins] = unpack_scales(s, block);
        Interleaved { q, scales, mins }
    }
}
