//! IQ1_S and IQ1_M: eight weights are a point of a grid, whose coordinates are -1, 0 or 1, and all
//! are an eighth greater or less.
//!
//! ```text
//! IQ1_S                                         IQ1_M
//! d       f16      at 0                         points  u8 x 32  at 0
//! points  u8 x 32  at 2                         high    u16 x 8  at 32
//! high    u16 x 8  at 34                          bits 4i..4i + 3  bits 8-10 of point i
//!   bits 3i..3i + 3  bits 8-10 of point i         bit 4i + 3       1: an eighth less at point i
//!   bits 12-14       the scale                  scales  u16 x 4  at 48
//!   bit 15           1: an eighth less            bits 3i..3i + 3  the scale of a sub-block
//! 50 bytes for 256 weights                        bits 12-15       nibble j of d, in scales[j]
//!                                               56 bytes for 256 weights
//!
//! weight = (d * (2 * scale + 1)) * (coordinate + 1/8), or - 1/8 where an eighth is less
//! ```
//! A group has four points and two sub-blocks, and its own word of `high`. The integers that are
//! multiplied are eighths of the brackets, and 16, so 7 to 25.

use super::block::{Block, GROUPS, PAIRS, UnpackedSuperblock, f16_at, times, u16_at, u32_at, u64_at};
use super::encoding::{Encoding, SubScales};
use super::grids;
use crate::simd::{Pair, QuantKernels};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq1S;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq1M;

const ONES: u64 = u64::from_ne_bytes([1; 8]);

/// What is added to eight integers: one more, or one less, which carries from none to the next.
static EIGHTHS: [u64; 2] = [ONES, ONES.wrapping_neg()];

/// A format of IQ1.
trait Points {
    /// The integers of a group, a byte each.
    fn group(block: &[u8], g: usize) -> [u64; 4];
}

#[inline(always)]
fn unpack_points<S: QuantKernels, B: Points>(s: S, block: &[u8]) -> [S::I8x64; PAIRS] {
    let mut q = [s.zero_x64(); PAIRS];
    for p in 0..PAIRS {
        let [first, second] = [B::group(block, 2 * p), B::group(block, 2 * p + 1)];
        q[p] = Pair::join(s, [s.from_words(first), s.from_words(second)]);
    }
    q
}

/// Weights of a group, or of some of its points.
fn dequantize_points(scale: f32, points: &[u64], out: &mut [f32]) {
    let integers = points.iter().flat_map(|point| point.to_le_bytes());
    for (out, q) in out.iter_mut().zip(integers) {
        *out = scale * ((f32::from(q) - 16.0) / 8.0);
    }
}

impl Points for Iq1S {
    #[inline(always)]
    fn group(block: &[u8], g: usize) -> [u64; 4] {
        let high = usize::from(u16_at(block, 34 + 2 * g));
        let mut points = [0; 4];
        for i in 0..4 {
            let point = usize::from(block[2 + 4 * g + i]) | high << 8 >> (3 * i) & 0x700;
            points[i] = grids::IQ1[point].wrapping_add(EIGHTHS[high >> 15]);
        }
        points
    }
}

impl Block for Iq1S {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 50;
    const ENCODING: Encoding = Encoding::Biased(4);

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (g, out) in out.chunks_exact_mut(32).enumerate() {
            let scale = f32::from(u16_at(block, 34 + 2 * g) >> 12 & 7);
            dequantize_points(d * (2.0 * scale + 1.0), &Self::group(block, g), out);
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let block = &block[..Self::BYTES];
        let mut scales = [0; GROUPS];
        for g in 0..GROUPS {
            scales[g] = i32::from(u16_at(block, 34 + 2 * g) >> 12 & 7) * 2 + 1;
        }
        let d = s.mul_x8(s.splat_f16_x8(u16_at(block, 0)), s.splat_x8(0.125));
        let scales = times(s, s.load_i32x8(&scales), d);
        UnpackedSuperblock::scaled(s, unpack_points::<S, Self>(s, block), scales)
    }
}

impl Points for Iq1M {
    #[inline(always)]
    fn group(block: &[u8], g: usize) -> [u64; 4] {
        let high = usize::from(u16_at(block, 32 + 2 * g));
        let mut points = [0; 4];
        for i in 0..4 {
            let nibble = high >> (4 * i);
            let point = usize::from(block[4 * g + i]) | nibble << 8 & 0x700;
            points[i] = grids::IQ1[point].wrapping_add(EIGHTHS[nibble >> 3 & 1]);
        }
        points
    }
}

impl Iq1M {
    /// The bits of `d`.
    #[inline(always)]
    fn d(block: &[u8]) -> u16 {
        let nibbles = u64_at(block, 48) >> 12 & 0x000f_000f_000f_000f;
        (nibbles | nibbles >> 12 | nibbles >> 24 | nibbles >> 36) as u16
    }

    /// `2 * scale + 1` of the sixteen sub-blocks, a byte each.
    #[inline(always)]
    fn scales(block: &[u8]) -> u128 {
        let mut halves = [0; 2];
        for i in 0..2 {
            // Two words of four scales each, and 32 bits for each word.
            let words = u64::from(u32_at(block, 48 + 4 * i));
            let words = (words | words << 16) & 0x0000_ffff_0000_ffff;
            let (first, second) = (words & 0x7_0000_0007, words << 5 & 0x700_0000_0700);
            let (third, fourth) = (words << 10 & 0x7_0000_0007_0000, words << 15 & 0x700_0000_0700_0000);
            halves[i] = (first | second | third | fourth) * 2 + ONES;
        }
        u128::from(halves[0]) | u128::from(halves[1]) << 64
    }
}

impl Block for Iq1M {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 56;
    const ENCODING: Encoding = Encoding::Biased(4);
    const SUB_SCALES: SubScales = SubScales::F32;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, scales) =
            (half::f16::from_bits(Self::d(block)).to_f32_const(), Self::scales(block).to_le_bytes());
        for (i, out) in out.chunks_exact_mut(16).enumerate() {
            let points = &Self::group(block, i / 2)[i % 2 * 2..];
            dequantize_points(d * f32::from(scales[i]), points, out);
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let block = &block[..Self::BYTES];
        let d = s.mul_x8(s.splat_f16_x8(Self::d(block)), s.splat_x8(0.125));
        let [first, second] = s.widen_i8_even_odd(Self::scales(block));
        let (q, scales) = (unpack_points::<S, Self>(s, block), [times(s, first, d), times(s, second, d)]);
        UnpackedSuperblock { scales, ..UnpackedSuperblock::scaled(s, q, scales[0]) }
    }
}
