//! IQ2_XXS, IQ2_XS and IQ2_S: eight weights are a point of a grid, whose coordinates are 8, 25 or
//! 43, and eight signs.
//!
//! ```text
//! IQ2_XXS                          IQ2_XS                           IQ2_S
//! d       f16      at 0            d       f16       at 0           d       f16      at 0
//! groups  8 x 8    at 2            qs      u16 x 32  at 2           points  u8 x 32  at 2
//!   points  u8 x 4                   bits 0-8   the point           signs   u8 x 32  at 34
//!   rest    u32                      bits 9-15  7 signs             high    u8 x 8   at 66
//!     bits 0-27  4 x 7 signs       scales  u8 x 8    at 66          scales  u8 x 8   at 74
//!     bits 28-31 the scale         74 bytes for 256 weights         82 bytes for 256 weights
//! 66 bytes for 256 weights
//!
//! weight = (d * (scale + 1/2) / 4) * coordinate, negative where its sign is 1
//! ```
//! Bit `i` of eight signs is that of weight `i`. Where seven are stored, the eighth makes the
//! number of negative weights even. Bits `2i` and `2i + 1` of byte `g` of IQ2_S's `high` are bits 8
//! and 9 of point `i` of group `g`. In a byte of scales, the low nibble is that of the first
//! sub-block of a group, the high nibble that of the second.

use super::block::{Block, GROUP, GROUPS, bytes_at, f16_at, scale_times, times};
use super::encoding::{Encoding, SubScales};
use super::grids;
use super::points::PointSuperblock;
use crate::simd::{Interleave, QuantKernels};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq2Xxs;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq2Xs;
#[derive(Clone, Copy, Debug)]
pub(crate) struct Iq2S;

const ONES: u64 = u64::from_ne_bytes([1; 8]);

/// The `i`th 7 signs from a byte on, with the eighth.
pub(super) fn eight_signs(block: &[u8], at: usize, i: usize) -> u32 {
    let signs = u32::from_le_bytes(bytes_at(block, at)) >> (7 * i) & 127;
    signs | (signs.count_ones() & 1) << 7
}

/// Eight weights, in sizes of `d`.
pub(super) fn dequantize_place(d: f32, sizes: u64, signs: u32, out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        let size = d * f32::from((sizes >> (8 * i)) as u8);
        *out = if signs >> i & 1 == 1 { -size } else { size };
    }
}

/// The word of a place's point.
fn xxs_point(block: &[u8], place: usize) -> u64 {
    grids::IQ2_XXS[usize::from(block[2 + 8 * (place / 4) + place % 4])]
}

impl Block for Iq2Xxs {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 66;
    const ENCODING: Encoding = Encoding::Signed;
    const INTERLEAVE: Option<Interleave> = Some(Interleave::Points);

    fn dequantize(block: &[u8], out: &mut [f32]) {
        let d = f16_at(block, 0);
        for (place, out) in out.chunks_exact_mut(8).enumerate() {
            let g = place / 4;
            let scale = d * (0.5 + f32::from(block[9 + 8 * g] >> 4)) * 0.25;
            let signs = eight_signs(block, 6 + 8 * g, place % 4);
            dequantize_place(scale, xxs_point(block, place), signs, out);
        }
    }

    #[inline(always)]
    fn unpack_points<S: QuantKernels>(s: S, block: &[u8]) -> PointSuperblock<S> {
        let block = &block[..Self::BYTES];
        let rest = s.odd_dwords(s.load_bytes(&block[2..]), s.load_bytes(&block[34..]));
        signs_and_scales(s, rest, scale_times(s, block, 0.125))
    }

    #[inline(always)]
    fn look_up<S: QuantKernels>(
        s: S,
        block: &[u8],
        _numbers: &[[u16; GROUP]; 2],
        places: [usize; 4],
    ) -> S::I8x32 {
        let mut words = [0; 4];
        for i in 0..4 {
            words[i] = xxs_point(block, places[i]);
        }
        s.bytes_of_words(words)
    }
}

/// `2 * a + 1`
#[inline(always)]
pub(super) fn odd_numbers<S: QuantKernels>(s: S, a: S::I32x8) -> S::I32x8 {
    s.add_i32x8(s.add_i32x8(a, a), s.load_i32x8(&[1; GROUPS]))
}

/// What a superblock of IQ2_XXS or IQ3_XXS has beside its points, from the 32 bits of each group:
/// seven signs of each of four places, and a scale in the last four bits.
#[inline(always)]
pub(super) fn signs_and_scales<S: QuantKernels>(s: S, words: S::I32x8, d: S::F32x8) -> PointSuperblock<S> {
    PointSuperblock {
        numbers: [[0; GROUP]; 2],
        signs: s.with_parity(s.spread_bits::<7>(words)),
        scales: [times(s, odd_numbers(s, s.shr_u32x8::<28>(words)), d); 2],
    }
}

/// The scales of IQ2_XS or IQ2_S.
#[inline(always)]
fn sub_scales<S: QuantKernels>(s: S, block: &[u8], scales: u64) -> [S::F32x8; 2] {
    const LOW: u64 = u64::from_ne_bytes([15; 8]);
    let d = scale_times(s, block, 0.125);
    let (low, high) = ((scales & LOW) * 2 + ONES, (scales >> 4 & LOW) * 2 + ONES);
    [times(s, s.widen_i8x8(low), d), times(s, s.widen_i8x8(high), d)]
}

/// What IQ2_XS and IQ2_S multiply the eight weights of a place with.
fn scale_of(block: &[u8], scales: &[u8], place: usize) -> f32 {
    let scale = scales[place / 4] >> (place / 2 % 2 * 4) & 15;
    f16_at(block, 0) * (0.5 + f32::from(scale)) * 0.25
}

impl Iq2Xs {
    /// The number of a place's point, and its signs.
    #[inline(always)]
    fn at(block: &[u8], place: usize) -> u16 {
        u16::from_le_bytes(bytes_at(block, 2 + 2 * place))
    }
}

impl Block for Iq2Xs {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 74;
    const ENCODING: Encoding = Encoding::Biased(6);
    const SUB_SCALES: SubScales = SubScales::F32;
    const INTERLEAVE: Option<Interleave> = Some(Interleave::Points);

    fn dequantize(block: &[u8], out: &mut [f32]) {
        for (place, out) in out.chunks_exact_mut(8).enumerate() {
            let sizes = grids::IQ2_XS[usize::from(Self::at(block, place) & 511)];
            let signs = u32::from(Self::at(block, place) >> 9);
            let signs = signs | (signs.count_ones() & 1) << 7;
            dequantize_place(scale_of(block, &block[66..], place), sizes, signs, out);
        }
    }

    #[inline(always)]
    fn unpack_points<S: QuantKernels>(s: S, block: &[u8]) -> PointSuperblock<S> {
        let block = &block[..Self::BYTES];
        let high = s.odd_bytes(s.load_bytes(&block[2..]), s.load_bytes(&block[34..]));
        PointSuperblock {
            numbers: [[0; GROUP]; 2],
            signs: s.with_parity(s.shr_mask::<1>(high, 127)),
            scales: sub_scales(s, block, u64::from_le_bytes(bytes_at(block, 66))),
        }
    }

    #[inline(always)]
    fn look_up<S: QuantKernels>(
        s: S,
        block: &[u8],
        _numbers: &[[u16; GROUP]; 2],
        places: [usize; 4],
    ) -> S::I8x32 {
        let mut words = [0; 4];
        for i in 0..4 {
            words[i] = grids::IQ2_XS[usize::from(Self::at(block, places[i]) & 511)];
        }
        s.bytes_of_words(words)
    }
}

impl Block for Iq2S {
    const WEIGHTS: usize = 256;
    const BYTES: usize = 82;
    const ENCODING: Encoding = Encoding::Biased(6);
    const SUB_SCALES: SubScales = SubScales::F32;
    const INTERLEAVE: Option<Interleave> = Some(Interleave::Points);

    fn dequantize(block: &[u8], out: &mut [f32]) {
        for (place, out) in out.chunks_exact_mut(8).enumerate() {
            let high = usize::from(block[66 + place / 4] >> (2 * (place % 4)) & 3);
            let sizes = grids::IQ2_S[usize::from(block[2 + place]) | high << 8];
            let scale = scale_of(block, &block[74..], place);
            dequantize_place(scale, sizes, u32::from(block[34 + place]), out);
        }
    }

    #[inline(always)]
    fn unpack_points<S: QuantKernels>(s: S, block: &[u8]) -> PointSuperblock<S> {
        let block = &block[..Self::BYTES];
        let high = s.spread_bits::<2>(s.widen_i8x8(u64::from_le_bytes(bytes_at(block, 66))));
        let numbers = s.zip_bytes(s.load_bytes(&block[2..]), high);
        PointSuperblock {
            numbers: [numbers; 2],
            signs: s.load_bytes(&block[34..]),
            scales: sub_scales(s, block, u64::from_le_bytes(bytes_at(block, 74))),
        }
    }

    #[inline(always)]
    fn look_up<S: QuantKernels>(
        s: S,
        _block: &[u8],
        numbers: &[[u16; GROUP]; 2],
        places: [usize; 4],
    ) -> S::I8x32 {
        let mut words = [0; 4];
        for i in 0..4 {
            words[i] = grids::IQ2_S[usize::from(numbers[0][places[i]] & 1023)];
        }
        s.bytes_of_words(words)
    }
}
