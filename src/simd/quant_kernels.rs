//! The second floor, for superblocks: what unpacks and multiplies quantized weights. All of it has
//! portable definitions in terms of primitives, block after block; an instruction set overrides
//! what it does better, as AVX-512 does nearly all, whose vectors hold two blocks.

use std::ops::Range;

use super::block_kernels::bytes;
use super::panel::{PanelGroup, PanelTokens, dot_quad_by_quad, take_off_bias};
use super::{BlockKernels, Byte, LowBitKernels, Simd};

/// An order of the eight groups of a superblock that suits the products of one token with weights
/// of 4 bits: how weights are unpacked and activations laid down for them. What it looks like
/// depends on the instruction set, see [`QuantKernels::INTERLEAVES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interleave {
    /// For groups that are the low halves of 16 bytes, then the high ones.
    Nibbles16,
    /// For two groups that are the low and the high halves of 32 bytes.
    Nibbles32,
    /// For eight weights at a time that are looked up: see [`POINTS`].
    Points,
}

impl Interleave {
    pub(crate) const ALL: [Self; 3] = [Self::Nibbles16, Self::Nibbles32, Self::Points];
}

/// [`Interleave::Points`], on every instruction set: vector `v`, below 4, has quads `2v` and `2v +
/// 1` of groups 0, 1, 4 and 5; vector `v + 4` has those of groups 2, 3, 6 and 7.
pub(super) const POINTS: [u8; 64] = {
    let (mut order, mut i) = ([0; 64], 0);
    while i < 64 {
        let (vector, word, half) = (i / 8, i / 2 % 4, i % 2);
        let group = word / 2 * 4 + vector / 4 * 2 + word % 2;
        order[i] = (8 * group + vector % 4 * 2 + half) as u8;
        i += 1;
    }
    order
};

/// Two vectors of 256 bits. Two of them will always do; one of 512 bits is better.
pub(crate) trait Pair<S, V>: Copy {
    fn join(s: S, halves: [V; 2]) -> Self;
    fn split(self, s: S) -> [V; 2];
}

impl<S, V: Copy> Pair<S, V> for [V; 2] {
    #[inline(always)]
    fn join(_s: S, halves: [V; 2]) -> Self {
        halves
    }
    #[inline(always)]
    fn split(self, _s: S) -> [V; 2] {
        self
    }
}

/// Operations on pairs of blocks, `x64`, and on superblocks.
pub(crate) trait QuantKernels: Simd + BlockKernels + LowBitKernels {
    /// Two blocks of 32 int8: what is unpacked and multiplied at once.
    type I8x64: Pair<Self, Self::I8x32>;
    /// Two times 8 int32.
    type I32x16: Pair<Self, Self::I32x8>;
    /// For each [`Interleave`], which quad of four neighbors stands at each place of the order: one
    /// of the 64 of a superblock.
    ///
    /// Here, lanes belong to different groups, so that their products need no sum across lanes.
    /// [`Interleave::Nibbles16`]: vector `k` has quad `k` of each group. [`Interleave::Nibbles32`]:
    /// vector `k`, below 4, has quad `k` of groups 0, 2, 4 and 6, then their quad `k + 4`; vector
    /// `k + 4` has the same of the odd groups.
    const INTERLEAVES: [[u8; 64]; 3] = {
        let mut orders = [[0; 64], [0; 64], POINTS];
        let mut i = 0;
        while i < 64 {
            let (vector, lane) = (i / 8, i % 8);
            orders[Interleave::Nibbles16 as usize][i] = (8 * lane + vector) as u8;
            orders[Interleave::Nibbles32 as usize][i] =
                (8 * (lane % 4 * 2 + vector / 4) + vector % 4 + lane / 4 * 4) as u8;
            i += 1;
        }
        orders
    };

    /// Whether panels hold the absolute values of weights with a sign, and the signs apart: see
    /// [`PanelGroup`].
    const SIGNS_APART: bool = false;

    /// The absolute values of int8, where that of -128 is 128, and 255 for each that is below zero.
    #[inline(always)]
    fn split_signs(self, w: Self::I8x32) -> [Self::I8x32; 2] {
        let (mut magnitudes, mut signs) = (bytes(self, w), [0_i8; 32]);
        for i in 0..32 {
            (magnitudes[i], signs[i]) =
                (magnitudes[i].wrapping_abs(), if magnitudes[i] < 0 { -1 } else { 0 });
        }
        [self.load_bytes(&magnitudes), self.load_bytes(&signs)]
    }
    /// In byte `i`, 255 if bit `i` of `bits` is set, or else 0.
    #[inline(always)]
    fn mask_from_bits(self, bits: u32) -> Self::I8x32 {
        let mut mask = [0_u8; 32];
        for i in 0..32 {
            mask[i] = if bits >> i & 1 == 1 { 255 } else { 0 };
        }
        self.load_bytes(&mask)
    }
    /// The half-precision numbers at bytes 0, `STRIDE`, ... 7 `STRIDE`, as f32. Panics if there are
    /// less than 8 `STRIDE` - 2 bytes.
    #[inline(always)]
    fn gather_f16<const STRIDE: usize>(self, from: &[u8]) -> Self::F32x8 {
        let mut lanes = [0.0; 8];
        for i in 0..8 {
            let bits = u16::from_le_bytes([from[i * STRIDE], from[i * STRIDE + 1]]);
            lanes[i] = half::f16::from_bits(bits).to_f32_const();
        }
        self.load_x8(&lanes)
    }
    /// The scales and the minima of Q4_K's and Q5_K's eight groups, from the 16 bytes before their
    /// weights: `d * scale` and `-dmin * min`. Panics if there are fewer.
    #[inline(always)]
    fn scales_and_mins(self, from: &[u8]) -> [Self::F32x8; 2] {
        let [scales, mins] = six_bits(&from[4..16]);
        let scales = self.to_f32x8(self.widen_i8x8(scales));
        let mins = self.to_f32x8(self.widen_i8x8(mins));
        let d = self.splat_f16_x8(u16::from_le_bytes([from[0], from[1]]));
        let dmin = self.splat_f16_x8(u16::from_le_bytes([from[2], from[3]]) ^ 0x8000);
        [self.mul_x8(scales, d), self.mul_x8(mins, dmin)]
    }
    /// In lane `i`, the greatest lane of `a[i]`, as [`Simd::max_abs`] compares.
    #[inline(always)]
    fn hmax_abs_each(self, a: [Self::F32; 8]) -> Self::F32x8 {
        let mut greatest = [0.0; 8];
        for i in 0..8 {
            let mut lanes = [0.0; 16];
            self.store(a[i], &mut lanes);
            greatest[i] = f32::from_bits(lanes.iter().fold(0, |max, lane| lane.to_bits().max(max)));
        }
        self.load_x8(&greatest)
    }

    /// The first 64 bytes. Panics if there are fewer.
    #[inline(always)]
    fn load_bytes_x64(self, from: &[impl Byte]) -> Self::I8x64 {
        Pair::join(self, [self.load_bytes(from), self.load_bytes(&from[32..])])
    }
    /// 64 zeros.
    #[inline(always)]
    fn zero_x64(self) -> Self::I8x64 {
        Pair::join(self, [self.splat_u8x32(0); 2])
    }
    /// The two blocks.
    #[inline(always)]
    fn blocks(self, pair: Self::I8x64) -> [Self::I8x32; 2] {
        pair.split(self)
    }
    /// [`Simd256::load_bytes`](super::Simd256::load_bytes) of each.
    #[inline(always)]
    fn load_2x32(self, [a, b]: [&[u8]; 2]) -> Self::I8x64 {
        Pair::join(self, [self.load_bytes(a), self.load_bytes(b)])
    }
    /// [`BlockKernels::load_nibbles`] of each.
    #[inline(always)]
    fn load_nibbles_x64(self, [a, b]: [&[u8]; 2]) -> Self::I8x64 {
        Pair::join(self, [self.load_nibbles(a), self.load_nibbles(b)])
    }
    /// [`QuantKernels::mask_from_bits`] of each.
    #[inline(always)]
    fn mask_from_bits_x64(self, [a, b]: [u32; 2]) -> Self::I8x64 {
        Pair::join(self, [self.mask_from_bits(a), self.mask_from_bits(b)])
    }
    /// `shr_mask` of one block with each shift.
    #[inline(always)]
    fn shr_mask_split<const FIRST: u32, const SECOND: u32>(self, a: Self::I8x32, mask: u8) -> Self::I8x64 {
        Pair::join(self, [self.shr_mask::<FIRST>(a, mask), self.shr_mask::<SECOND>(a, mask)])
    }
    /// `shl_mask` of one block with each shift and its mask.
    #[inline(always)]
    fn shl_mask_split<const FIRST: u32, const SECOND: u32>(
        self,
        a: Self::I8x32,
        masks: [u8; 2],
    ) -> Self::I8x64 {
        Pair::join(self, [self.shl_mask::<FIRST>(a, masks[0]), self.shl_mask::<SECOND>(a, masks[1])])
    }
    /// `shr_mask` of both.
    #[inline(always)]
    fn shr_mask_x64<const SHIFT: u32>(self, a: Self::I8x64, mask: u8) -> Self::I8x64 {
        let [a, b] = a.split(self);
        Pair::join(self, [self.shr_mask::<SHIFT>(a, mask), self.shr_mask::<SHIFT>(b, mask)])
    }
    /// `a & mask`, byte by byte.
    #[inline(always)]
    fn and_mask_x64(self, a: Self::I8x64, mask: u8) -> Self::I8x64 {
        let ([a, b], mask) = (a.split(self), self.splat_u8x32(mask));
        Pair::join(self, [self.and_u8x32(a, mask), self.and_u8x32(b, mask)])
    }
    /// `a | b`
    #[inline(always)]
    fn or_x64(self, a: Self::I8x64, b: Self::I8x64) -> Self::I8x64 {
        let ([a, b], [c, d]) = (a.split(self), b.split(self));
        Pair::join(self, [self.or_u8x32(a, c), self.or_u8x32(b, d)])
    }
    /// `a * b` modulo 256, byte by byte.
    #[inline(always)]
    fn mul_x64(self, a: Self::I8x64, b: Self::I8x64) -> Self::I8x64 {
        let ([a, b], [c, d]) = (a.split(self), b.split(self));
        Pair::join(self, [self.mul_u8x32(a, c), self.mul_u8x32(b, d)])
    }
    /// `table[a[i]]`, where every `a[i]` is below 16.
    #[inline(always)]
    fn shuffle_x64(self, table: &[i8; 16], a: Self::I8x64) -> Self::I8x64 {
        let [a, b] = a.split(self);
        Pair::join(self, [self.shuffle(table, a), self.shuffle(table, b)])
    }

    /// [`Simd::dot_i8x32`] of each, from 0.
    #[inline(always)]
    fn dot_i8_x64(self, w: Self::I8x64, x: Self::I8x64) -> Self::I32x16 {
        let ([a, b], [c, d], zero) = (w.split(self), x.split(self), self.zero_i32x8());
        Pair::join(self, [self.dot_i8x32(zero, a, c), self.dot_i8x32(zero, b, d)])
    }
    /// [`Simd::dot_u8x32`] of each, from 0.
    #[inline(always)]
    fn dot_u8_x64(self, w: Self::I8x64, x: Self::I8x64) -> Self::I32x16 {
        let ([a, b], [c, d], zero) = (w.split(self), x.split(self), self.zero_i32x8());
        Pair::join(self, [self.dot_u8x32(zero, a, c), self.dot_u8x32(zero, b, d)])
    }
    /// [`BlockKernels::sum_halves_each`] of the eight in four pairs. `SMALL` says that the `w` of
    /// the dot products were within 0..=31.
    #[inline(always)]
    fn sum_halves_x64<const SMALL: bool>(self, a: [Self::I32x16; 4]) -> [Self::I32x8; 2] {
        self.sum_halves_each::<SMALL>(eight(self, a))
    }
    /// [`BlockKernels::sum_scaled_halves_each`] of the eight in four pairs.
    #[inline(always)]
    fn sum_scaled_halves_x64(self, a: [Self::I32x16; 4], scales: Self::I8x32) -> Self::I32x8 {
        self.sum_scaled_halves_each(eight(self, a), scales)
    }
    /// The sum of all lanes of each block of each pair: those of the first blocks, and those of the
    /// second ones.
    #[inline(always)]
    fn sum_blocks_each(self, a: [Self::I32x16; 8]) -> [Self::I32x8; 2] {
        let mut blocks = [[self.zero_i32x8(); 8]; 2];
        for i in 0..8 {
            [blocks[0][i], blocks[1][i]] = a[i].split(self);
        }
        [self.sum_each(blocks[0]), self.sum_each(blocks[1])]
    }
    /// In lane `i`, the dot product of block `i` of the pairs and the `i`th 32 elements of `x`: of
    /// int8, as [`Simd::dot_i8x32`] makes it, bias and all, or else of numbers within 0..=127, or
    /// 0..=31 if they are `small`.
    #[inline(always)]
    fn dot_each(self, w: &[Self::I8x64; 4], x: &[i8], signed: bool, small: bool) -> Self::I32x8 {
        let mut dots = [self.dot_u8_x64(self.zero_x64(), self.zero_x64()); 4];
        for p in 0..4 {
            let x = self.load_bytes_x64(&x[64 * p..]);
            dots[p] = if signed { self.dot_i8_x64(w[p], x) } else { self.dot_u8_x64(w[p], x) };
        }
        let [low, high] = if small && !signed {
            self.sum_halves_x64::<true>(dots)
        } else {
            self.sum_halves_x64::<false>(dots)
        };
        self.add_i32x8(low, high)
    }

    /// The halves of 16 bytes of each of eight groups, which begin at bytes 0, `STRIDE`, ... 7
    /// `STRIDE`, as [`Interleave::Nibbles16`]. Panics if there are fewer.
    #[inline(always)]
    fn interleave_nibbles_16<const STRIDE: usize>(self, from: &[u8]) -> [Self::I8x64; 4] {
        halves(self, self.transpose_16x8(from, STRIDE))
    }
    /// The fewest tokens for which [`QuantKernels::transpose_groups`] of what is unpacked in order
    /// pays, in a format that has this order for one token. `None`: it never does.
    #[inline(always)]
    fn min_transposed_tokens(_order: Option<Interleave>) -> Option<usize> {
        None
    }

    /// Eight groups of 32 int8, as [`Interleave::Nibbles16`].
    #[inline(always)]
    fn transpose_groups(self, groups: [Self::I8x64; 4]) -> [Self::I8x64; 4] {
        let (mut from, mut to) = ([0_i8; 256], [0_i8; 256]);
        for (i, pair) in groups.into_iter().enumerate() {
            let [a, b] = pair.split(self);
            self.store_bytes(a, &mut from[64 * i..]);
            self.store_bytes(b, &mut from[64 * i + 32..]);
        }
        for (i, &quad) in Self::INTERLEAVES[Interleave::Nibbles16 as usize].iter().enumerate() {
            to[4 * i..][..4].copy_from_slice(&from[4 * usize::from(quad)..][..4]);
        }
        let mut transposed = [self.zero_x64(); 4];
        for i in 0..4 {
            transposed[i] = self.load_bytes_x64(&to[64 * i..]);
        }
        transposed
    }
    /// Eight groups that are the halves of four times 32 bytes, as [`Interleave::Nibbles16`].
    /// Panics if there are fewer bytes.
    #[inline(always)]
    fn transpose_nibbles_32(self, from: &[u8]) -> [Self::I8x64; 4] {
        let mut groups = [self.zero_x64(); 4];
        for p in 0..4 {
            groups[p] = self.shr_mask_split::<0, 4>(self.load_bytes(&from[32 * p..]), 15);
        }
        self.transpose_groups(groups)
    }
    /// The halves of four times 32 bytes, as [`Interleave::Nibbles32`]. Panics if there are fewer.
    #[inline(always)]
    fn interleave_nibbles_32(self, from: &[u8]) -> [Self::I8x64; 4] {
        halves(self, self.transpose_32x4(from))
    }
    /// In lane `i`, the dot product of group `i` of both, which are in an order: of int8, as
    /// [`Simd::dot_i8x32`] makes it, bias and all, if they are `SIGNED`, or else of numbers within
    /// 0..=31. Panics if there are less than 256 `x`.
    #[inline(always)]
    fn dot_interleaved<const SIGNED: bool>(
        self,
        order: Interleave,
        w: [Self::I8x64; 4],
        x: &[i8],
    ) -> Self::I32x8 {
        let mut dots = [self.zero_i32x8(); 2];
        for i in 0..2 {
            let ([a, b], [c, d]) = (w[2 * i].split(self), w[2 * i + 1].split(self));
            let (w, x) = ([a, b, c, d], &x[128 * i..]);
            if SIGNED {
                for k in 0..4 {
                    dots[i] = self.dot_i8x32(dots[i], w[k], self.load_bytes(&x[32 * k..]));
                }
            } else {
                dots[i] = self.dot_nibbles(w, x);
            }
        }
        match order {
            Interleave::Nibbles16 => self.add_i32x8(dots[0], dots[1]),
            Interleave::Nibbles32 => self.sum_halves_alternately(dots[0], dots[1]),
            Interleave::Points => unreachable!("`dot_places` multiplies points"),
        }
    }
    /// The products of vectors `2i` and `2i + 1` of the order [`Interleave::Points`] with 64 `x`,
    /// as [`QuantKernels::dot_u8_twice`]. `w` is within 0..=62; its signs, if it has some, are a
    /// bit for each: byte `4g + j` has those of the `j`th eight of group `g`. Panics if there are
    /// fewer `x`.
    #[inline(always)]
    fn dot_places(self, i: usize, w: [Self::I8x32; 2], signs: Option<Self::I8x32>, x: &[i8]) -> Self::I32x8 {
        let mut pair = [self.load_bytes(x), self.load_bytes(&x[32..])];
        if let Some(signs) = signs {
            for j in 0..2 {
                pair[j] = self.negate(pair[j], self.mask_of_bits(self.repeat_place(signs, 2 * i + j)));
            }
        }
        self.dot_u8_twice(w, pair)
    }
    /// In lane `i`, the dot products of the quads `i` of both pairs, added up, where `w` is within
    /// 0..=62.
    #[inline(always)]
    fn dot_u8_twice(self, w: [Self::I8x32; 2], x: [Self::I8x32; 2]) -> Self::I32x8 {
        let first = self.dot_u8x32(self.zero_i32x8(), w[0], x[0]);
        self.dot_u8x32(first, w[1], x[1])
    }
    /// In lane `i`, the dot products of the quads `i` of four times 32 numbers within 0..=31 and
    /// the `x`, added up.
    #[inline(always)]
    fn dot_nibbles(self, w: [Self::I8x32; 4], x: &[i8]) -> Self::I32x8 {
        let mut dots = self.zero_i32x8();
        for k in 0..4 {
            dots = self.dot_u8x32(dots, w[k], self.load_bytes(&x[32 * k..]));
        }
        dots
    }

    /// `sums` with the quads `i` added in lane `i`, as [`QuantKernels::dot_micro_panel`] needs
    /// them: as int32, or as another sum of each pair. At most eight are added.
    #[inline(always)]
    fn add_quads(self, sums: Self::I32, x: Self::Quads) -> Self::I32 {
        self.dot4_u8i8(sums, self.splat_quad(&[1; 4]), x)
    }
    /// `dots[r][v]` with the dot products of some quads of row `r` and of the tokens `v` added:
    /// 4 or 8 of the 8, of which `x` has the sums.
    ///
    /// `BITS` is 8 for weights with a sign; otherwise they have that many bits, and 2 to the power
    /// of `bias`, if there is one, is taken off each. At most 2 to the power of `BITS` - 1 is left,
    /// if `BITS` is 5 or more.
    #[inline(always)]
    fn dot_micro_panel<const BITS: u32, const R: usize, const V: usize>(
        self,
        dots: [[Self::I32; V]; R],
        w: PanelGroup<'_, R>,
        x: PanelTokens<'_, Self, V>,
        bias: Option<u32>,
        quads: Range<usize>,
    ) -> [[Self::I32; V]; R] {
        let dots = take_off_bias::<Self, BITS, R, V>(self, dots, x, bias);
        dot_quad_by_quad::<Self, BITS, R, V>(self, dots, w.qs, x.group, quads)
    }
}

/// The scales and the minima of Q4_K's and Q5_K's eight groups, a byte each, from the twelve bytes
/// that hold them: the low 6 bits of bytes 0..4 and 4..8 are those of groups 0..4; for groups 4..8
/// the low 4 bits are the nibbles of bytes 8..12, and the high 2 bits those of bytes 0..8.
#[inline(always)]
pub(crate) fn six_bits(packed: &[u8]) -> [u64; 2] {
    let mut dwords = [0; 3];
    for (dword, bytes) in dwords.iter_mut().zip(packed.as_chunks().0) {
        *dword = u32::from_le_bytes(*bytes);
    }
    let [a, b, c] = dwords;
    let high_bits = |word: u32| (word >> 6 & 0x0303_0303) << 4;
    let scales = [a & 0x3f3f_3f3f, c & 0x0f0f_0f0f | high_bits(a)];
    let mins = [b & 0x3f3f_3f3f, c >> 4 & 0x0f0f_0f0f | high_bits(b)];
    [scales, mins].map(|[low, high]| u64::from(low) | u64::from(high) << 32)
}

/// The eight vectors of four pairs.
#[inline(always)]
fn eight<S: QuantKernels>(s: S, pairs: [S::I32x16; 4]) -> [S::I32x8; 8] {
    let mut eight = [s.zero_i32x8(); 8];
    for p in 0..4 {
        [eight[2 * p], eight[2 * p + 1]] = pairs[p].split(s);
    }
    eight
}

/// The low halves of some bytes, then their high halves.
#[inline(always)]
fn halves<S: QuantKernels>(s: S, bytes: [S::I8x32; 4]) -> [S::I8x64; 4] {
    let mut nibbles = [s.splat_u8x32(0); 8];
    for k in 0..4 {
        nibbles[k] = s.shr_mask::<0>(bytes[k], 15);
        nibbles[k + 4] = s.shr_mask::<4>(bytes[k], 15);
    }
    let mut pairs = [s.zero_x64(); 4];
    for p in 0..4 {
        pairs[p] = Pair::join(s, [nibbles[2 * p], nibbles[2 * p + 1]]);
    }
    pairs
}
