//! TQ1_0 and TQ2_0: weights are -1, 0 or 1, in sizes of one scale for every 256.
//!
//! ```text
//! TQ1_0                            TQ2_0
//! qs    u8 x 48  at 0              qs  u8 x 64  at 0    as in Q2_K
//! last  u8 x 4   at 48             d   f16      at 64
//! d     f16      at 52             66 bytes for 256 weights
//! 54 bytes for 256 weights
//!
//! Digit j to the base 3 of byte / 256, the first one after the point being digit 0, is q of
//!   weight 32j + i        for byte qs[i], i below 32
//!   weight 160 + 16j + i  for byte qs[32 + i]
//!   weight 240 + 4j + i   for byte last[i], which has four digits
//!
//! weight = d * (q - 1)
//! ```
//! TQ2_0's q may be 3, which no quantizer makes.

use super::block::{Block, Interleaved, PAIRS, UnpackedSuperblock, f16_at, u16_at, u32_at, u64_at};
use super::encoding::Encoding;
use super::q2_k::load_2_bits;
use crate::simd::{Interleave, Pair, QuantKernels};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Tq1_0;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tq2_0;

/// Which byte of a block of TQ1_0 weight `i` is a digit of, and which digit.
const fn place(i: usize) -> (usize, u32) {
    let (byte, digit) = match i {
        0..160 => (i % 32, i / 32),
        160..240 => (32 + i % 16, (i - 160) / 16),
        _ => (48 + i % 4, (i - 240) / 4),
    };
    (byte, digit as u32)
}

/// The powers of three that bring the digits of eight quads of weights to the front: of each group,
/// or of groups in their order.
const fn powers(of_each_group: bool) -> [[u8; 32]; 8] {
    let (mut powers, mut i) = ([[0; 32]; 8], 0);
    while i < 256 {
        let (vector, byte) = if of_each_group { (i % 32 / 4, i / 32 * 4 + i % 4) } else { (i / 32, i % 32) };
        powers[vector][byte] = 3_u8.pow(place(i).1);
        i += 1;
    }
    powers
}

const GROUP_POWERS: [[u8; 32]; 8] = powers(false);
const QUAD_POWERS: [[u8; 32]; 8] = powers(true);

/// 255 in the bytes of some lanes of eight.
const fn lanes(from: usize, to: usize) -> [u8; 32] {
    let (mut mask, mut i) = ([0; 32], 4 * from);
    while i < 4 * to {
        mask[i] = 255;
        i += 1;
    }
    mask
}

impl Block for Tq1_0 {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 54;
    const ENCODING: Encoding = Encoding::Biased(0);
    const INTERLEAVE: Option<Interleave> = Some(Interleave::Nibbles16);

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 52);
        for (i, out) in out.iter_mut().enumerate() {
            let (byte, digit) = place(i);
            let from_digit = block[byte].wrapping_mul(3_u8.pow(digit));
            *out = d * (f32::from(((u16::from(from_digit) * 3) >> 8) as u8) - 1.0);
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let block = &block[..Self::BYTES];
        let mut bytes = [s.load_bytes(block); 8];
        let qs = u64_at(block, 32);
        let more = u64_at(block, 40);
        let last = u64::from(u32_at(block, 48)) * 0x1_0000_0001;
        bytes[5] = s.bytes_of_words([qs, more, qs, more]);
        bytes[6] = bytes[5];
        bytes[7] = s.bytes_of_words([qs, more, last, last]);
        let mut q = [s.zero_x64(); PAIRS];
        for p in 0..PAIRS {
            let first = s.trits(bytes[2 * p], s.load_bytes(&GROUP_POWERS[2 * p]));
            let second = s.trits(bytes[2 * p + 1], s.load_bytes(&GROUP_POWERS[2 * p + 1]));
            q[p] = Pair::join(s, [first, second]);
        }
        UnpackedSuperblock::scaled(s, q, s.splat_f16_x8(u16_at(block, 52)))
    }

    #[inline(always)]
    fn unpack_interleaved<S: QuantKernels>(s: S, block: &[u8]) -> Interleaved<S> {
        let block = &block[..Self::BYTES];
        let q = [
            Pair::join(s, [quad::<S, 0>(s, block), quad::<S, 1>(s, block)]),
            Pair::join(s, [quad::<S, 2>(s, block), quad::<S, 3>(s, block)]),
            Pair::join(s, [quad::<S, 4>(s, block), quad::<S, 5>(s, block)]),
            Pair::join(s, [quad::<S, 6>(s, block), quad::<S, 7>(s, block)]),
        ];
        Interleaved { q, scales: s.splat_f16_x8(u16_at(block, 52)), mins: s.splat_x8(0.0) }
    }
}

/// Quad `K` of each group of a block of TQ1_0. (`K` is no argument, for loops over it weren't
/// unrolled.)
#[inline(always)]
fn quad<S: QuantKernels, const K: usize>(s: S, block: &[u8]) -> S::I8x32 {
    // Groups 0 to 4 are digits of the same bytes, 5 and 6 of others, and 7 of those and the last.
    let dwords = [4 * K, 32 + K % 4 * 4, if K < 4 { 32 + 4 * K } else { 48 }];
    let masks = const { [lanes(0, 5), lanes(5, 7), lanes(7, 8)] };
    let mut bytes = s.splat_u8x32(0);
    for i in 0..3 {
        let dword = s.bytes_of_dwords([u32_at(block, dwords[i]); 8]);
        bytes = s.or_u8x32(bytes, s.and_u8x32(dword, s.load_bytes(&masks[i])));
    }
    s.trits(bytes, s.load_bytes(&QUAD_POWERS[K]))
}

impl Block for Tq2_0 {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 66;
    const ENCODING: Encoding = Encoding::Biased(0);

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 64);
        for (i, out) in out.iter_mut().enumerate() {
            let q = block[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3;
            *out = d * (f32::from(q) - 1.0);
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let block = &block[..Self::BYTES];
        UnpackedSuperblock::scaled(s, load_2_bits(s, block), s.splat_f16_x8(u16_at(block, 64)))
    }
}
