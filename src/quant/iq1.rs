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

use super::block::{Block, GROUP, GROUPS, bytes_at, f16_at, scale_times, times};
use super::encoding::{Encoding, SubScales};
use super::grids;
use super::iq2::odd_numbers;
use super::points::PointSuperblock;
use crate::simd::{Interleave, QuantKernels};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq1S;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq1M;

const ONES: u64 = u64::from_ne_bytes([1; 8]);

/// An eighth more, or less if bit 3 of four bits is set.
const EIGHTHS: [i8; 16] = [1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1];

/// Eight weights, in sizes of `scale`: the point `low | bits << 8`, and an eighth as `bits` say.
fn dequantize_place(scale: f32, low: u8, bits: u16, out: &mut [f32]) {
    let point = grids::IQ1[usize::from(u16::from(low) | (bits & 7) << 8)];
    for (i, out) in out.iter_mut().enumerate() {
        let coordinate = f32::from((point >> (8 * i)) as u8) / 8.0 - 2.0;
        *out = scale * (coordinate + f32::from(EIGHTHS[usize::from(bits & 15)]) / 8.0);
    }
}

/// A superblock: `low` are bits 0 to 7 of the points' numbers, and `bits` are four for each place,
/// as IQ1_M stores them.
#[inline(always)]
fn superblock<S: QuantKernels>(
    s: S,
    low: &[u8],
    bits: S::I8x32,
    scales: [S::F32x8; 2],
) -> PointSuperblock<S> {
    let numbers = s.zip_bytes(s.load_bytes(low), s.and_u8x32(bits, s.splat_u8x32(7)));
    PointSuperblock { numbers: [numbers; 2], signs: s.shuffle(&EIGHTHS, bits), scales }
}

/// The points at four places.
#[inline(always)]
fn look_up<S: QuantKernels>(s: S, numbers: &[[u16; GROUP]; 2], places: [usize; 4]) -> S::I8x32 {
    let mut words = [0; 4];
    for i in 0..4 {
        words[i] = grids::IQ1[usize::from(numbers[0][places[i]] & 2047)];
    }
    s.bytes_of_words(words)
}

impl Block for Iq1S {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 50;
    const ENCODING: Encoding = Encoding::Biased(4);
    const INTERLEAVE: Option<Interleave> = Some(Interleave::Points);
    const POINT_SIGNS: bool = false;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (place, out) in out.chunks_exact_mut(8).enumerate() {
            let high = u16::from_le_bytes(bytes_at(block, 34 + 2 * (place / 4)));
            let bits = high >> (3 * (place % 4)) & 7 | high >> 15 << 3;
            dequantize_place(d * (2.0 * f32::from(high >> 12 & 7) + 1.0), block[2 + place], bits, out);
        }
    }

    #[inline(always)]
    fn unpack_points<S: QuantKernels>(s: S, block: &[u8]) -> PointSuperblock<S> {
        let block = &block[..Self::BYTES];
        let high = s.widen_u16x8(&block[34..]);
        // All ones in each group that is an eighth less.
        let less = s.sub_shifted_i32x8(s.zero_i32x8(), s.shr_u32x8::<15>(high), 0);
        let less = s.and_u8x32(s.as_i8x32(less), s.splat_u8x32(8));
        let seven = s.as_i8x32(s.load_i32x8(&[7; GROUPS]));
        let scale = s.and_u8x32(s.as_i8x32(s.shr_u32x8::<12>(high)), seven);
        let d = scale_times(s, block, 0.125);
        superblock(
            s,
            &block[2..],
            s.or_u8x32(s.spread_bits::<3>(high), less),
            [times(s, odd_numbers(s, s.as_i32x8(scale)), d); 2],
        )
    }

    #[inline(always)]
    fn look_up<S: QuantKernels>(
        s: S,
        _block: &[u8],
        numbers: &[[u16; GROUP]; 2],
        places: [usize; 4],
    ) -> S::I8x32 {
        look_up(s, numbers, places)
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
    const INTERLEAVE: Option<Interleave> = Some(Interleave::Points);
    const POINT_SIGNS: bool = false;

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let (d, scales) =
            (half::f16::from_bits(Self::d(block)).to_f32_const(), Self::scales(block).to_le_bytes());
        for (place, out) in out.chunks_exact_mut(8).enumerate() {
            let bits = u16::from(block[32 + place / 2] >> (place % 2 * 4) & 15);
            dequantize_place(d * f32::from(scales[place / 2]), block[place], bits, out);
        }
    }

    #[inline(always)]
    fn unpack_points<S: QuantKernels>(s: S, block: &[u8]) -> PointSuperblock<S> {
        let block = &block[..Self::BYTES];
        let d = s.mul_x8(s.splat_f16_x8(Self::d(block)), s.splat_x8(0.125));
        let [first, second] = s.widen_i8_even_odd(Self::scales(block));
        superblock(s, block, s.spread_nibbles(&block[32..]), [times(s, first, d), times(s, second, d)])
    }

    #[inline(always)]
    fn look_up<S: QuantKernels>(
        s: S,
        _block: &[u8],
        numbers: &[[u16; GROUP]; 2],
        places: [usize; 4],
    ) -> S::I8x32 {
        look_up(s, numbers, places)
    }
}
