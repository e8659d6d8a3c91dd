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

use super::block::{Block, PAIRS, UnpackedSuperblock, f16_at, times};
use super::encoding::{Encoding, SubScales};
use super::grids;
use super::iq2::bytes_at;
use crate::simd::{Pair, QuantKernels};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq1S;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq1M;

const ONES: u64 = u64::from_ne_bytes([1; 8]);

/// An eighth more or less for each of four points, by the bits that say less.
static EIGHTHS: [[i8; 32]; 16] = {
    let mut eighths = [[1; 32]; 16];
    let mut less = 0;
    while less < 16 {
        let mut i = 0;
        while i < 32 {
            if less >> (i / 8) & 1 == 1 {
                eighths[less][i] = -1;
            }
            i += 1;
        }
        less += 1;
    }
    eighths
};

/// A format of IQ1.
trait Points {
    /// The points of a group, a byte for each coordinate, and which of them are an eighth less.
    fn group(block: &[u8], g: usize) -> ([u64; 4], usize);
}

#[inline(always)]
fn unpack_points<S: QuantKernels, B: Points>(s: S, block: &[u8]) -> [S::I8x64; PAIRS] {
    let mut q = [s.zero_x64(); PAIRS];
    for p in 0..PAIRS {
        let mut pair = [s.splat_u8x32(0); 2];
        for i in 0..2 {
            let (points, less) = B::group(block, 2 * p + i);
            pair[i] = s.add_u8x32(s.bytes_of_words(points), s.load_bytes(&EIGHTHS[less & 15]));
        }
        q[p] = Pair::join(s, pair);
    }
    q
}

/// Weights of a group, whose halves may have different scales.
fn dequantize_group<B: Points>(scales: [f32; 2], block: &[u8], g: usize, out: &mut [f32]) {
    let (points, less) = B::group(block, g);
    for (i, out) in out.iter_mut().enumerate() {
        let coordinate = f32::from((points[i / 8] >> (8 * (i % 8))) as u8) / 8.0 - 2.0;
        *out = scales[i / 16] * (coordinate + f32::from(EIGHTHS[less][i]) / 8.0);
    }
}

impl Points for Iq1S {
    #[inline(always)]
    fn group(block: &[u8], g: usize) -> ([u64; 4], usize) {
        let high = usize::from(u16::from_le_bytes(bytes_at(block, 34 + 2 * g)));
        let mut points = [0; 4];
        for i in 0..4 {
            points[i] = grids::IQ1[usize::from(block[2 + 4 * g + i]) | high << 8 >> (3 * i) & 0x700];
        }
        (points, if high >> 15 == 1 { 15 } else { 0 })
    }
}

impl Block for Iq1S {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 50;
    const ENCODING: Encoding = Encoding::Biased(4);

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (g, out) in out.chunks_exact_mut(32).enumerate() {
            let scale =
                d * (2.0 * f32::from(u16::from_le_bytes(bytes_at(block, 34 + 2 * g)) >> 12 & 7) + 1.0);
            dequantize_group::<Self>([scale; 2], block, g, out);
        }
    }

    #[inline(always)]
    fn unpack<S: QuantKernels>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
        let block = &block[..Self::BYTES];
        // A byte of each word, and then those.
        let words = [u64::from_le_bytes(bytes_at(block, 34)), u64::from_le_bytes(bytes_at(block, 42))]
            .map(|four| four >> 12 & 0x0007_0007_0007_0007);
        let scales = u128::from(words[0] * 2 + ONES) | u128::from(words[1] * 2 + ONES) << 64;
        let [scales, _] = s.widen_i8_even_odd(scales);
        let d = s.mul_x8(s.splat_f16_x8(u16::from_le_bytes(bytes_at(block, 0))), s.splat_x8(0.125));
        let scales = times(s, scales, d);
        UnpackedSuperblock::scaled(s, unpack_points::<S, Self>(s, block), scales)
    }
}

impl Points for Iq1M {
    #[inline(always)]
    fn group(block: &[u8], g: usize) -> ([u64; 4], usize) {
        let high = usize::from(u16::from_le_bytes(bytes_at(block, 32 + 2 * g)));
        let mut points = [0; 4];
        for i in 0..4 {
            points[i] = grids::IQ1[usize::from(block[4 * g + i]) | high << 8 >> (4 * i) & 0x700];
        }
        // Bits 3, 7, 11 and 15, side by side.
        (points, ((high >> 3 & 0x1111) * 0x1248) >> 12 & 15)
    }
}

impl Iq1M {
    /// The bits of `d`.
    #[inline(always)]
    fn d(block: &[u8]) -> u16 {
        let nibbles = u64::from_le_bytes(bytes_at(block, 48)) >> 12 & 0x000f_000f_000f_000f;
        (nibbles | nibbles >> 12 | nibbles >> 24 | nibbles >> 36) as u16
    }

    /// `2 * scale + 1` of the sixteen sub-blocks, a byte each.
    #[inline(always)]
    fn scales(block: &[u8]) -> u128 {
        let mut halves = [0; 2];
        for i in 0..2 {
            // Two words of four scales each, and 32 bits for each word.
            let words = u64::from(u32::from_le_bytes(bytes_at(block, 48 + 4 * i)));
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
        for (g, out) in out.chunks_exact_mut(32).enumerate() {
            let scales = [scales[2 * g], scales[2 * g + 1]].map(|scale| d * f32::from(scale));
            dequantize_group::<Self>(scales, block, g, out);
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
