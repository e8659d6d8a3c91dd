//! Formats whose weights are points of a grid: four or eight weights that are looked up together.
//!
//! A group of 32 weights has four *places* of eight weights, which are a point or two. Where
//! weights have signs, a point has their sizes, and a byte its eight signs:
//!
//! ```text
//! place     4g + i             group g, weights 8i to 8i + 7
//! vector    v of 8             places i = v % 4 of four groups, one in each word:
//!                              0, 1, 4, 5 in vectors 0 to 3, and 2, 3, 6, 7 in vectors 4 to 7
//! ```
//!
//! In this order (`Interleave::Points`) points are joined to vectors as they are looked up, and
//! products are added up before anything is added across lanes.

use super::activation::ActivationSuperblock;
use super::block::{Block, GROUP, GROUPS, PAIRS, UnpackedSuperblock};
use super::encoding::{Encoding, SubScales};
use crate::simd::{Pair, QuantKernels};

/// A superblock, taken apart.
pub(crate) struct PointSuperblock<S: QuantKernels> {
    /// What points are found by, if it must be put together: two for each place, or one.
    pub(crate) numbers: [[u16; GROUP]; 2],
    /// The signs of each place: bit `i` is that of weight `i`. Without [`Block::POINT_SIGNS`], what
    /// is added to each weight of a place.
    pub(crate) signs: S::I8x32,
    /// The scales of the groups' first and second sub-blocks; the same twice if they have none.
    pub(crate) scales: [S::F32x8; 2],
}

impl<S: QuantKernels> PointSuperblock<S> {
    /// Vector `v`: the integers, or their sizes if they have signs.
    #[inline(always)]
    fn vector<B: Block>(&self, s: S, block: &[u8], v: usize) -> S::I8x32 {
        let first = v / 4 * 8 + v % 4;
        let q = B::look_up(s, block, &self.numbers, [first, first + 4, first + 16, first + 20]);
        if B::POINT_SIGNS { q } else { s.add_u8x32(q, s.repeat_place(self.signs, v)) }
    }

    /// All vectors.
    #[inline(always)]
    pub(super) fn vectors<B: Block>(&self, s: S, block: &[u8]) -> [S::I8x32; GROUPS] {
        let mut q = [s.splat_u8x32(0); GROUPS];
        for v in 0..GROUPS {
            q[v] = self.vector::<B>(s, block, v);
        }
        q
    }

    /// What the products of vectors `2i` and `2i + 1`, two by two, add to a sum. They are the same
    /// numbers, added in the same order, as those of the integers of [`Block::unpack`].
    #[inline(always)]
    pub(super) fn add_dots<B: Block>(
        &self,
        s: S,
        dots: [S::I32x8; 4],
        x: &ActivationSuperblock,
        mut acc: S::F32x8,
    ) -> S::F32x8 {
        let d = s.load_x8(&x.scales);
        let mut dots = [s.sum_neighbors(dots[0], dots[2]), s.sum_neighbors(dots[1], dots[3])];
        let (mut sums, mut n_scales) = ([s.zero_i32x8(); 2], 2);
        if B::SUB_SCALES == SubScales::None {
            dots[0] = s.add_i32x8(dots[0], dots[1]);
            (sums[0], n_scales) = (s.load_i32x8(&x.sums), 1);
        } else {
            sums = s.unpack_i16(s.load_i32x8(&x.sub_block_sums));
        }
        for i in 0..n_scales {
            if let (Encoding::Biased(n), false) = (B::ENCODING, B::POINT_SIGNS) {
                dots[i] = s.sub_shifted_i32x8(dots[i], sums[i], n);
            }
            acc = s.mul_add_x8(s.to_f32x8(dots[i]), s.mul_x8(self.scales[i], d), acc);
        }
        acc
    }

    /// [`PointSuperblock::dot_pair`] of two vectors that are looked up for it. `I` is no argument,
    /// so that the compiler knows the places: with a loop it took points' numbers through memory.
    #[inline(always)]
    fn dot_looked_up<B: Block, const I: usize>(
        &self,
        s: S,
        block: &[u8],
        x: &ActivationSuperblock,
    ) -> S::I32x8 {
        let q = [self.vector::<B>(s, block, 2 * I), self.vector::<B>(s, block, 2 * I + 1)];
        self.dot_pair::<B>(s, I, q, x)
    }

    /// The products of two vectors, from `2i` on.
    #[inline(always)]
    pub(super) fn dot_pair<B: Block>(
        &self,
        s: S,
        i: usize,
        q: [S::I8x32; 2],
        x: &ActivationSuperblock,
    ) -> S::I32x8 {
        let signs = B::POINT_SIGNS.then_some(self.signs);
        s.dot_places(i, q, signs, &x.qs[64 * i..])
    }
}

/// A superblock for prefill's panels: as [`Block::ENCODING`] says.
#[inline(always)]
pub(crate) fn unpack<S: QuantKernels, B: Block>(s: S, block: &[u8]) -> UnpackedSuperblock<S> {
    let points = B::unpack_points(s, block);
    let mut q = points.vectors::<B>(s, block);
    if B::POINT_SIGNS {
        for v in 0..GROUPS {
            q[v] = s.negate(q[v], s.mask_of_bits(s.repeat_place(points.signs, v)));
            // Integers must not be negative where sub-blocks have scales.
            if let Encoding::Biased(n) = B::ENCODING {
                q[v] = s.add_u8x32(q[v], s.splat_u8x32(1 << n));
            }
        }
    }
    let [a, b, e, f] = s.transpose_words([q[0], q[1], q[2], q[3]]);
    let [c, d, g, h] = s.transpose_words([q[4], q[5], q[6], q[7]]);
    let mut pairs = [s.zero_x64(); PAIRS];
    for (pair, halves) in pairs.iter_mut().zip([[a, b], [c, d], [e, f], [g, h]]) {
        *pair = Pair::join(s, halves);
    }
    let scales = points.scales;
    UnpackedSuperblock { scales, ..UnpackedSuperblock::scaled(s, pairs, scales[0]) }
}

/// Adds the products of a superblock to a sum. Points are looked up two vectors at a time: all at
/// once would not fit the registers.
#[inline(always)]
pub(super) fn dot<S: QuantKernels, B: Block>(
    s: S,
    block: &[u8],
    x: &ActivationSuperblock,
    acc: S::F32x8,
) -> S::F32x8 {
    let points = B::unpack_points(s, block);
    let dots = [
        points.dot_looked_up::<B, 0>(s, block, x),
        points.dot_looked_up::<B, 1>(s, block, x),
        points.dot_looked_up::<B, 2>(s, block, x),
        points.dot_looked_up::<B, 3>(s, block, x),
    ];
    points.add_dots::<B>(s, dots, x, acc)
}

/// [`dot`] with several tokens.
#[inline(always)]
pub(super) fn dot_shared<S: QuantKernels, B: Block>(
    s: S,
    block: &[u8],
    x: &[ActivationSuperblock],
    acc: &mut [S::F32x8],
) {
    let points = B::unpack_points(s, block);
    let q = points.vectors::<B>(s, block);
    for (x, acc) in x.iter().zip(acc) {
        let mut dots = [s.zero_i32x8(); 4];
        for i in 0..4 {
            dots[i] = points.dot_pair::<B>(s, i, [q[2 * i], q[2 * i + 1]], x);
        }
        *acc = points.add_dots::<B>(s, dots, x, *acc);
    }
}
