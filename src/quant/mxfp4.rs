//! MXFP4: 4 bits a weight that are a small float, with a power of two for every 32.
//!
//! ```text
//! e   u8       at 0      the exponent of the scale
//! qs  u8 x 16  at 1      17 bytes for 32 weights
//!
//! q[i] = qs[i] & 15, q[i + 16] = qs[i] >> 4, for i below 16
//! weight i = 2^(e - 128) * VALUES[q[i]]
//! ```
//! Source: "OCP Microscaling Formats (MX) Specification", version 1.0. `VALUES` are twice the
//! floats E2M1, and the scale half of E8M0's. As in ggml, an `e` of 255 is no NaN.

use super::block::{Block, GROUPS, Interleaved, PAIRS, UnpackedSuperblock, pair_at};
use super::encoding::Encoding;
use crate::simd::{Interleave, QuantKernels};

/// ggml's `kvalues_mxfp4`.
pub(crate) const VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The scales by their exponents.
pub(crate) static SCALES: [f32; 256] = {
    let mut scales = [0.0; 256];
    let mut e = 0;
    while e < 256 {
        // The first two are subnormal.
        scales[e] = f32::from_bits(if e < 2 { 1 << (21 + e) } else { (e as u32 - 1) << 23 });
        e += 1;
    }
    scales
};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Mxfp4;

/// The scales of eight blocks.
#[inline(always)]
fn scales<S: QuantKernels>(s: S, blocks: &[u8]) -> S::F32x8 {
    let mut scales = [0.0; GROUPS];
    for g in 0..GROUPS {
        scales[g] = SCALES[usize::from(blocks[g * Mxfp4::BYTES])];
    }
    s.from_array(scales)
}

impl Block for Mxfp4 {
    const WEIGHTS: usize = 32;
    const BYTES: usize = 17;
    const ENCODING: Encoding = Encoding::Signed;
    const INTERLEAVE: Option<Interleave> = Some(Interleave::Nibbles16);

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = SCALES[usize::from(block[0])];
        for (i, &byte) in block[1..17].iter().enumerate() {
            out[i] = d * f32::from(VALUES[usize::from(byte & 15)]);
            out[i + 16] = d * f32::from(VALUES[usize::from(byte >> 4)]);
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, blocks: &[u8]) -> UnpackedSuperblock<S> {
        let mut q = [s.zero_x64(); PAIRS];
        for p in 0..PAIRS {
            q[p] = s.shuffle_x64(&VALUES, s.load_nibbles_x64(pair_at::<Self>(blocks, p, 1)));
        }
        UnpackedSuperblock::scaled(s, q, scales(s, blocks))
    }

    #[inline(always)]
    fn unpack_interleaved<S: QuantKernels>(s: S, blocks: &[u8]) -> Interleaved<S> {
        let mut q = s.interleave_nibbles_16::<{ Self::BYTES }>(&blocks[1..]);
        for p in 0..PAIRS {
            q[p] = s.shuffle_x64(&VALUES, q[p]);
        }
        Interleaved { q, scales: scales(s, blocks), mins: s.splat_x8(0.0) }
    }
}
