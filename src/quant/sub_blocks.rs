//! Superblocks whose sub-blocks have scales of their own, and their products with a token's
//! activations. `block_rows.rs` has the products of all other formats.

use super::activation::ActivationSuperblock;
use super::block::{Block, GROUP, PAIRS, UnpackedSuperblock};
use super::block_rows::Terms;
use super::encoding::Encoding;
use crate::simd::QuantKernels;

/// A superblock whose sub-blocks have integers as scales (`SubScales::Int`), unpacked.
#[derive(Clone, Copy)]
pub(crate) struct IntSubBlocks<S: QuantKernels> {
    /// The integers, as [`Block::ENCODING`] says, within 0..=7.
    pub(crate) q: [S::I8x64; PAIRS],
    /// The scales of the sub-blocks, int8, in the first 16 places.
    pub(crate) scales: S::I8x32,
    /// What the sums of the sub-blocks' activations are multiplied with, two int16 for each group:
    /// the minima, or the scales.
    pub(crate) sum_factors: S::I32x8,
    /// What scales are multiples of.
    pub(crate) d: S::F32x8,
    /// What minima are multiples of, with its sign.
    pub(crate) dmin: S::F32x8,
}

/// `q` with each sub-block multiplied with its scale, as int8: modulo 256.
#[inline(always)]
pub(crate) fn scale_sub_blocks<S: QuantKernels>(
    s: S,
    q: [S::I8x64; PAIRS],
    scales: &[i8; 16],
) -> [S::I8x64; PAIRS] {
    let mut scaled = q;
    for p in 0..PAIRS {
        let mut of_each = [0; 2 * GROUP];
        for i in 0..2 * GROUP {
            of_each[i] = (4 * p + i / (GROUP / 2)) as i8;
        }
        let of_each = s.shuffle_x64(scales, s.load_bytes_x64(&of_each));
        scaled[p] = s.mul_x64(q[p], of_each);
    }
    scaled
}

/// The products of a superblock's unsigned integers, not yet summed up.
#[inline(always)]
fn dots_of_pairs<S: QuantKernels>(
    s: S,
    q: &[S::I8x64; PAIRS],
    x: &ActivationSuperblock,
) -> [S::I32x16; PAIRS] {
    let mut dots = [s.dot_u8_x64(s.zero_x64(), s.zero_x64()); PAIRS];
    for p in 0..PAIRS {
        dots[p] = s.dot_u8_x64(q[p], s.load_bytes_x64(&x.qs[p * 2 * GROUP..]));
    }
    dots
}

/// Adds the products of a superblock whose sub-blocks have scales of their own to a sum.
#[inline(always)]
pub(super) fn dot_f32_sub_blocks<S: QuantKernels, B: Block>(
    s: S,
    groups: &UnpackedSuperblock<S>,
    x: &ActivationSuperblock,
    acc: S::F32x8,
) -> S::F32x8 {
    let [low, high] = s.sum_halves_x64::<false>(dots_of_pairs(s, &groups.q, x));
    let d = s.load_x8(&x.scales);
    let [low_sums, high_sums] = s.unpack_i16(s.load_i32x8(&x.sub_block_sums));
    let scaled = |sums| s.mul_x8(d, s.to_f32x8(sums));
    let ([low_scales, high_scales], mins) = (groups.scales, groups.mins);
    let acc = Terms::<S, B>::new(s, low, [low_scales, mins], d, low_sums, scaled(low_sums)).add(s, acc);
    Terms::<S, B>::new(s, high, [high_scales, mins], d, high_sums, scaled(high_sums)).add(s, acc)
}

/// Adds the products of a superblock whose sub-blocks have integers as scales to a sum. (With f32
/// scales, a sum would wait for four products one after another.)
#[inline(always)]
pub(super) fn dot_int_sub_blocks<S: QuantKernels, B: Block>(
    s: S,
    blocks: &IntSubBlocks<S>,
    x: &ActivationSuperblock,
    acc: S::F32x8,
) -> S::F32x8 {
    let dots = s.sum_scaled_halves_x64(dots_of_pairs(s, &blocks.q, x), blocks.scales);
    let sums = s.madd_i16_x8(blocks.sum_factors, s.load_i32x8(&x.sub_block_sums));
    let d = s.load_x8(&x.scales);
    let scales = s.mul_x8(blocks.d, d);
    match B::ENCODING {
        Encoding::Biased(n) => s.mul_add_x8(s.to_f32x8(s.sub_shifted_i32x8(dots, sums, n)), scales, acc),
        _ => {
            let acc = s.mul_add_x8(s.to_f32x8(dots), scales, acc);
            s.mul_add_x8(s.to_f32x8(sums), s.mul_x8(blocks.dmin, d), acc)
        }
    }
}
