//! IQ4_NL and IQ4_XS: 4 bits a weight that choose one of sixteen values, closer together near zero.
//!
//! ```text
//! IQ4_NL                           IQ4_XS
//! d   f16      at 0                d         f16       at 0
//! qs  u8 x 16  at 2                scales_h  u16       at 2    bits 2g, 2g + 1: high 2 of scale g
//! 18 bytes for 32 weights          scales_l  u8 x 4    at 4    nibble g: its low 4 bits
//!                                  qs        u8 x 128  at 8    136 bytes for 256 weights
//!
//! weight = d * VALUES[q]           weight = (d * (scale - 32)) * VALUES[q]
//! ```
//! In both, 16 bytes hold a group's q as in Q4_0.

use super::block::{Block, Interleaved, PAIRS, UnpackedSuperblock, f16_at, pair_at, u16_at};
use super::encoding::Encoding;
use crate::simd::{Interleave, QuantKernels};

/// ggml's `kvalues_iq4nl`.
const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq4Nl;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq4Xs;

/// The values that 16 bytes choose.
fn values(qs: &[u8]) -> [f32; 32] {
    std::array::from_fn(|i| {
        let q = if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 };
        f32::from(VALUES[usize::from(q)])
    })
}

impl Block for Iq4Nl {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 18;
    const ENCODING: Encoding = Encoding::Signed;
    const INTERLEAVE: Option<Interleave> = Some(Interleave::Nibbles16);

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (out, value) in out.iter_mut().zip(values(&block[2..])) {
            *out = d * value;
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, blocks: &[u8]) -> UnpackedSuperblock<S> {
        let mut q = [s.zero_x64(); PAIRS];
        for p in 0..PAIRS {
            q[p] = s.shuffle_x64(&VALUES, s.load_nibbles_x64(pair_at::<Self>(blocks, p, 2)));
        }
        let scales = s.gather_f16::<{ Self::BYTES }>(blocks);
        UnpackedSuperblock::scaled(s, q, scales)
    }

    #[inline(always)]
    fn unpack_interleaved<S: QuantKernels>(s: S, blocks: &[u8]) -> Interleaved<S> {
        let mut q = s.interleave_nibbles_16::<{ Self::BYTES }>(&blocks[2..]);
        for p in 0..PAIRS {
            q[p] = s.shuffle_x64(&VALUES, q[p]);
        }
        Interleaved { q, scales: s.gather_f16::<{ Self::BYTES }>(blocks), mins: s.splat_x8(0.0) }
    }
}

/// IQ4_XS's eight scales, a byte each, before 32 is subtracted.
///
/// The fields of all eight are moved at once, halves of halves apart, until each has a byte: one by
/// one they take as many instructions as the group's products.
#[inline(always)]
fn scales(block: &[u8]) -> u64 {
    let low = u64::from(u32::from_le_bytes([block[4], block[5], block[6], block[7]]));
    let low = (low | low << 16) & 0x0000_ffff_0000_ffff;
    let low = (low | low << 8) & 0x00ff_00ff_00ff_00ff;
    let low = (low | low << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let high = u64::from(u16_at(block, 2));
    let high = (high | high << 24) & 0x0000_00ff_0000_00ff;
    let high = (high | high << 12) & 0x000f_000f_000f_000f;
    let high = (high | high << 6) & 0x0303_0303_0303_0303;
    low | high << 4
}

/// The scales of a block as f32: `d * (scale - 32)` of each group.
#[inline(always)]
fn unpack_scales<S: QuantKernels>(s: S, block: &[u8]) -> S::F32x8 {
    let d = s.splat_f16_x8(u16_at(block, 0));
    let offset = s.mul_x8(d, s.splat_x8(-32.0));
    s.mul_add_x8(s.to_f32x8(s.widen_i8x8(scales(block))), d, offset)
}

impl Block for Iq4Xs {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 136;
    const ENCODING: Encoding = Encoding::Signed;
    const INTERLEAVE: Option<Interleave> = Some(Interleave::Nibbles16);

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        let scales = scales(block).to_le_bytes();
        for (g, out) in out.chunks_exact_mut(32).enumerate() {
            let scale = d * (f32::from(scales[g]) - 32.0);
            for (out, value) in out.iter_mut().zip(values(&block[8 + 16 * g..])) {
                *out = scale * value;
            }
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let mut q = [s.zero_x64(); PAIRS];
        for p in 0..PAIRS {
            let nibbles = s.load_nibbles_x64([&block[8 + 32 * p..], &block[24 + 32 * p..]]);
            q[p] = s.shuffle_x64(&VALUES, nibbles);
        }
        UnpackedSuperblock::scaled(s, q, unpack_scales(s, block))
    }

    #[inline(always)]
    fn unpack_interleaved<S: QuantKernels>(s: S, block: &[u8]) -> Interleaved<S> {
        let mut q = s.interleave_nibbles_16::<16>(&block[8..]);
        for p in 0..PAIRS {
            q[p] = s.shuffle_x64(&VALUES, q[p]);
        }
        Interleaved { q, scales: unpack_scales(s, block), mins: s.splat_x8(0.0) }
    }
}
