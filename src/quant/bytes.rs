//! Numbers in a block's bytes, little-endian, and what is made of them.

use super::block::Block;
use crate::simd::QuantKernels;

/// `integers * d`. (Closures for such things are sometimes left as calls, compiled without the
/// instruction set.)
#[inline(always)]
pub(crate) fn times<S: QuantKernels>(s: S, integers: S::I32x8, d: S::F32x8) -> S::F32x8 {
    s.mul_x8(s.to_f32x8(integers), d)
}

/// The scale that a block begins with, an f16, times `factor`, in all lanes.
#[inline(always)]
pub(crate) fn scale_times<S: QuantKernels>(s: S, block: &[u8], factor: f32) -> S::F32x8 {
    s.mul_x8(s.splat_f16_x8(u16::from_le_bytes(bytes_at(block, 0))), s.splat_x8(factor))
}

/// The sign of a half-precision number.
pub(crate) const SIGN: u16 = 0x8000;

/// The little-endian u16 at a byte.
#[inline(always)]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The little-endian u32 at a byte. (A closure for this was sometimes left as a call.)
#[inline(always)]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The little-endian u64 at a byte.
#[inline(always)]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The half-precision number at a byte, for specifications: not on a hot path.
pub(crate) fn f16_at(bytes: &[u8], at: usize) -> f32 {
    half::f16::from_bits(u16_at(bytes, at)).to_f32_const()
}

/// Some bytes from one on. (As `u32_at` takes them, one by one, they stayed apart.)
#[inline(always)]
pub(crate) fn bytes_at<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    *block[at..].first_chunk().unwrap_or(&[0; N])
}

/// The `p`th two blocks of 32 weights, from byte `at` of each on.
#[inline(always)]
pub(crate) fn pair_at<B: Block>(blocks: &[u8], p: usize, at: usize) -> [&[u8]; 2] {
    [&blocks[2 * p * B::BYTES + at..], &blocks[(2 * p + 1) * B::BYTES + at..]]
}
