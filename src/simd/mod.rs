//! Vectors: what the kernels need from a processor, each operation written once for each
//! instruction set.
//!
//! A kernel is generic over [`Simd`] and marked `#[inline(always)]`; [`Isa::run`] calls it below a
//! `#[target_feature]` function, so one source compiles to one version for each instruction set. A
//! helper that is not inlined would silently compile without the features, so everything on a
//! kernel's hot path is `#[inline(always)]`.
//!
//! [`Isa`] is a proof: only [`Isa::available`] and [`Isa::best`] make one, after asking the
//! processor, so whoever holds `Avx512` knows that it is there. The design follows `pulp`'s and
//! `fearless_simd`'s tokens.

mod features;
mod isa;
mod peak;
pub(crate) mod scalar;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

pub use self::isa::Isa;
pub(crate) use self::isa::{Kernel, kernel};
use crate::storage::Plain;

/// Bytes of a cache's line, on nearly every processor.
pub(crate) const LINE: usize = 64;

/// How many bytes ahead weights are fetched, at least: what memory delivers to a thread in the time
/// that a line takes. Two threads at 65 GB/s read 30 bytes in a nanosecond each, and a line may
/// take more than 200 of them.
///
/// With 2 KB, F16 decoded at 81 % of the speed, `Q8_0` at 85, `Q4_K` mixed at 91, `SmolLM2` in
/// `Q4_1` at 87; with 16 KB, that mix at 79, `Q4_0` at 107, and others as with 8. (With 6, most
/// decoded 1 to 2 % faster while memory gave 50 GB/s, and 0.2 to 0.7 % slower while it gave 75. A
/// line of each page besides, 64 KB ahead, so that addresses are known in time: 1.00 from a mapped
/// file.)
pub(crate) const PREFETCH_DISTANCE: usize = 8 << 10;

/// An f32, perhaps at an address that isn't a multiple of four: its bytes are the f32's.
pub(crate) trait Number: Plain {
    /// Its value.
    fn get(self) -> f32;
}

impl Number for f32 {
    #[inline(always)]
    fn get(self) -> f32 {
        self
    }
}

/// A byte, with a sign or without.
pub(crate) trait Byte: Plain {
    /// The same bits with a sign.
    fn signed(self) -> i8;
    /// The same bits.
    fn of(bits: i8) -> Self;
}

impl Byte for i8 {
    #[inline(always)]
    fn signed(self) -> i8 {
        self
    }
    #[inline(always)]
    fn of(bits: i8) -> Self {
        bits
    }
}

impl Byte for u8 {
    #[inline(always)]
    fn signed(self) -> i8 {
        self as i8
    }
    #[inline(always)]
    fn of(bits: i8) -> Self {
        bits as Self
    }
}

/// An order of eight groups of 32 numbers that suits the products of one token with weights of 4
/// bits: how weights are decoded and activations laid down for them. Which it is depends on the
/// machine, see [`Simd::INTERLEAVES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interleave {
    /// For groups that are the low halves of 16 bytes, then the high ones.
    Nibbles16,
    /// For two groups that are the low and the high halves of 32 bytes.
    Nibbles32,
}

impl Interleave {
    pub(crate) const ALL: [Self; 2] = [Self::Nibbles16, Self::Nibbles32];
}

/// Vectors of 256 bits, 32 bytes, 8 int32 or 8 f32, which every instruction set has, be it as two
/// registers. A block of 32 int8 is the unit that every quantized format is made of.
///
/// Each operation's comment is its definition; `scalar.rs` is that definition in code.
pub(crate) trait Simd256: Copy + Send + Sync + 'static {
    /// 32 int8.
    type I8x32: Copy;
    /// 8 int32.
    type I32x8: Copy;
    /// 8 f32.
    type F32x8: Copy;
    /// The first 32 elements. Panics if there are fewer.
    fn load_i8x32(self, from: &[i8]) -> Self::I8x32;
    /// `[value; 32]`, as bytes.
    fn splat_u8x32(self, value: u8) -> Self::I8x32;
    /// The first 32 bytes. Panics if there are fewer.
    fn load_u8x32(self, from: &[u8]) -> Self::I8x32;
    /// The low halves of the first 16 bytes, then their high halves. Panics if there are fewer.
    fn load_nibbles(self, from: &[u8]) -> Self::I8x32;
    /// `(a >> SHIFT) & mask`, byte by byte. `mask` has no bit that a byte's neighbour could shift
    /// in.
    fn shr_mask<const SHIFT: u32>(self, a: Self::I8x32, mask: u8) -> Self::I8x32;
    /// `(a & mask) << SHIFT`, byte by byte. No bit of `mask` is shifted out.
    fn shl_mask<const SHIFT: u32>(self, a: Self::I8x32, mask: u8) -> Self::I8x32;
    /// `a & b`
    fn and_u8x32(self, a: Self::I8x32, b: Self::I8x32) -> Self::I8x32;
    /// `a | b`
    fn or_u8x32(self, a: Self::I8x32, b: Self::I8x32) -> Self::I8x32;
    /// `table[a[i]]`, where every `a[i]` is below 16.
    fn shuffle(self, table: &[i8; 16], a: Self::I8x32) -> Self::I8x32;
    /// The first 8 elements. Panics if there are fewer.
    fn load_i32x8(self, from: &[i32]) -> Self::I32x8;
    /// Writes the lanes. Panics if there is room for fewer.
    fn store_i32x8(self, a: Self::I32x8, to: &mut [i32]);
    /// `[0; 8]`
    fn zero_i32x8(self) -> Self::I32x8;
    /// In lane `i`, the sum of lanes 0 to 3 of `a[i]`, and that of lanes 4 to 7: sixteen reductions
    /// at once cost little more than two. `SMALL` says that each lane is the sum of four products
    /// of a number within 0..=31 and an int8.
    fn sum_halves_each<const SMALL: bool>(self, a: [Self::I32x8; 8]) -> [Self::I32x8; 2];
    /// In lane `i`, the sum of lanes 0 to 3 of `a[i]` times the int8 `2i` of `scales`, and that of
    /// lanes 4 to 7 times the int8 `2i + 1`. Each lane of `a` is the sum of four products of a
    /// number within 0..=31 and an int8.
    fn sum_scaled_halves_each(self, a: [Self::I32x8; 8], scales: Self::I8x32) -> Self::I32x8;
    /// The little-endian word's 16 int8, twice.
    fn splat_u128(self, a: u128) -> Self::I8x32;
    /// `a * b` modulo 256, byte by byte.
    fn mul_u8x32(self, a: Self::I8x32, b: Self::I8x32) -> Self::I8x32;
    /// The first 16 int8 as int16, two in a lane, the first in its low half; then the others.
    fn widen_i8_to_i16(self, a: Self::I8x32) -> [Self::I32x8; 2];
    /// Two numbers that fit int16 in each lane, the first in its low half.
    fn pack_i16(self, low: Self::I32x8, high: Self::I32x8) -> Self::I32x8;
    /// The low and the high int16 of each lane.
    fn unpack_i16(self, a: Self::I32x8) -> [Self::I32x8; 2];
    /// In each lane, the dot product of two int16 and two others.
    fn madd_i16_x8(self, a: Self::I32x8, b: Self::I32x8) -> Self::I32x8;
    /// `a - (b << n)`
    fn sub_shifted_i32x8(self, a: Self::I32x8, b: Self::I32x8, n: u32) -> Self::I32x8;
    /// `a + b`
    fn add_i32x8(self, a: Self::I32x8, b: Self::I32x8) -> Self::I32x8;
    /// The eight int8 of a little-endian word, as int32.
    fn widen_i8x8(self, a: u64) -> Self::I32x8;
    /// The int8 of a little-endian word, as int32: those at even places, and those at odd ones.
    fn widen_i8_even_odd(self, a: u128) -> [Self::I32x8; 2];
    /// An IEEE half-precision number as f32, in all lanes.
    fn splat_f16_x8(self, bits: u16) -> Self::F32x8;
    /// `[value; 8]`
    fn splat_x8(self, value: f32) -> Self::F32x8;
    /// The first 8 elements. Panics if there are fewer.
    fn load_x8(self, from: &[f32]) -> Self::F32x8;
    /// `a * b + c`, rounded once where the machine can.
    fn mul_add_x8(self, a: Self::F32x8, b: Self::F32x8, c: Self::F32x8) -> Self::F32x8;
    /// `a as f32`
    fn to_f32x8(self, a: Self::I32x8) -> Self::F32x8;
    /// The lanes given.
    fn from_array(self, lanes: [f32; 8]) -> Self::F32x8;
    /// `a + b`
    fn add_x8(self, a: Self::F32x8, b: Self::F32x8) -> Self::F32x8;
    /// In lane `i` of vector `k`, element `i * stride + k`. Panics if there are fewer.
    fn transpose_f32_8x4(self, from: &[impl Number], stride: usize) -> [Self::F32x8; 4];
    /// Writes the lanes. Panics if there is room for fewer.
    fn store_x8(self, a: Self::F32x8, to: &mut [f32]);
    /// The lanes.
    #[inline(always)]
    fn to_array(self, a: Self::F32x8) -> [f32; 8] {
        let mut lanes = [0.0; 8];
        self.store_x8(a, &mut lanes);
        lanes
    }
    /// `a * b`
    fn mul_x8(self, a: Self::F32x8, b: Self::F32x8) -> Self::F32x8;
    /// The sum of all lanes, in the order ((0+4)+(1+5))+((2+6)+(3+7)).
    fn hsum(self, a: Self::F32x8) -> f32;
    /// [`Simd256::hsum`] of each: four reductions at once cost little more than one.
    fn hsum_4(self, a: [Self::F32x8; 4]) -> [f32; 4];
    /// [`Simd256::hsum`] of each.
    #[inline(always)]
    fn hsum_each<const N: usize>(self, a: [Self::F32x8; N]) -> [f32; N] {
        let mut sums = [0.0; N];
        let mut i = 0;
        while i + 4 <= N {
            let four = self.hsum_4([a[i], a[i + 1], a[i + 2], a[i + 3]]);
            (sums[i], sums[i + 1], sums[i + 2], sums[i + 3]) = (four[0], four[1], four[2], four[3]);
            i += 4;
        }
        while i < N {
            sums[i] = self.hsum(a[i]);
            i += 1;
        }
        sums
    }
    /// In dword `g` of vector `k`, bytes `4k` to `4k + 3` of the 16 that begin at byte `g *
    /// stride`. Panics if there are fewer.
    fn transpose_16x8(self, from: &[impl Byte], stride: usize) -> [Self::I8x32; 4];
    /// In dword `j` of the first half of vector `k`, bytes `4k` to `4k + 3` of the 32 that begin at
    /// byte `32 j`; in its second half, bytes `4k + 16` to `4k + 19`. Panics if there are fewer.
    fn transpose_32x4(self, from: &[u8]) -> [Self::I8x32; 4];
    /// In lane `2i`, the sum of lanes `i` and `i + 4` of `even`, in lane `2i + 1` those of `odd`.
    fn sum_halves_alternately(self, even: Self::I32x8, odd: Self::I32x8) -> Self::I32x8;
    /// The `n` lanes from `first` on, then zeros. `first + n` is at most 8.
    fn extract_lanes(self, a: Self::F32x8, first: usize, n: usize) -> Self::F32x8;
    /// Has the cache fetch the line at an address.
    fn prefetch(self, line: *const u8);
    /// As [`Simd256::prefetch`], of what is used once: it needn't be kept when it leaves the nearest
    /// cache (a non-temporal prefetch).
    fn prefetch_nta(self, line: *const u8);
    /// Has the cache fetch the lines of `n` elements from `first` on, which may lie after the last
    /// one. (Not a range: the compiler doesn't see that one is of constant length.)
    #[inline(always)]
    fn prefetch_all<T>(self, near: &[T], first: usize, n: usize) {
        for at in (0..n).step_by(LINE / size_of::<T>()) {
            self.prefetch(near.as_ptr().wrapping_add(first + at).cast());
        }
    }
    /// [`Simd256::prefetch_all`] by [`Simd256::prefetch_nta`].
    #[inline(always)]
    fn prefetch_all_nta<T>(self, near: &[T], first: usize, n: usize) {
        for at in (0..n).step_by(LINE / size_of::<T>()) {
            self.prefetch_nta(near.as_ptr().wrapping_add(first + at).cast());
        }
    }
    /// Writes 32 bytes. Panics if there is room for fewer.
    fn store_bytes(self, value: Self::I8x32, to: &mut [impl Byte]);
}

/// Vectors of the machine's width, and blocks of 32 int8 together.
pub(crate) trait Simd: Simd256 {
    /// f32 in an [`Simd::F32`].
    const LANES: usize;
    /// How many vectors a tile of sums is wide: 4 where 32 of them fit in registers, 2 where 16 do.
    /// 1 where nothing is gained by tiles: kernels then leave out their versions for several rows,
    /// which take long to compile.
    const REGISTER_TILE: usize;
    /// `LANES` f32.
    type F32: Copy;
    /// Two blocks of 32 int8: what is decoded and multiplied at once.
    type I8x64: Copy;
    /// Eight groups of 32 int8, in the order of a [`Interleave`].
    type Interleaved: Copy;
    /// Two times 8 int32.
    type I32x16: Copy;
    /// `LANES` int32.
    type I32: Copy;
    /// `LANES` times four bytes.
    type Quads: Copy;
    /// What [`Simd::dot4_i8i8`] adds beside the product: this power of two for each `x`. `None`:
    /// nothing.
    const QUADS_BIAS: Option<u32>;
    /// Of each [`Interleave`], what stands at each place of the order: one of the 64 quads of
    /// neighbours of eight groups.
    const INTERLEAVES: [[u8; 64]; 2];
    /// `[value; LANES]`
    fn splat(self, value: f32) -> Self::F32;
    /// The first `LANES` elements. Panics if there are fewer.
    fn load(self, from: &[f32]) -> Self::F32;
    /// The first `LANES` IEEE half-precision numbers, as f32. Panics if there are fewer.
    fn load_f16(self, from: &[u16]) -> Self::F32;
    /// The first `LANES` bfloat16 numbers, as f32. Panics if there are fewer.
    fn load_bf16(self, from: &[u16]) -> Self::F32;
    /// All of `from`, which has fewer than `LANES` elements, and then zeros.
    fn load_partial(self, from: &[f32]) -> Self::F32;
    /// Writes the first `LANES` elements. Panics if there is room for fewer.
    fn store(self, value: Self::F32, to: &mut [f32]);
    /// Writes as many elements as `to` has, which is fewer than `LANES`.
    fn store_partial(self, value: Self::F32, to: &mut [f32]);
    /// `a + b`
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b`
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a / b`
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once where the machine can.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once on every machine, at the cost of calls where it has no instruction
    /// for that.
    fn fused_mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `a > b ? a : b`, so a NaN in `b` wins.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `max(a, |b|)` where `a` has no signs, and what is not finite counts as greater than what is.
    fn max_abs(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// In lane `i`, the greatest lane of `a[i]`, likewise.
    fn hmax_abs_each(self, a: [Self::F32; 8]) -> Self::F32x8;
    /// 8 lanes whose sum is the sum of all lanes of `a`.
    fn reduce_to_x8(self, a: Self::F32) -> Self::F32x8;
    /// The greatest of all lanes.
    fn max_lane(self, a: Self::F32) -> f32;
    /// Writes each lane as int8, rounded to the nearest, ties away from zero, as C's `round`. Lanes
    /// are within -127..=127 or NaN, which becomes anything.
    fn store_i8(self, value: Self::F32, to: &mut [i8]);
    /// All of `from`, which has fewer than 32 elements, and then zeros.
    #[inline(always)]
    fn load_i8x32_partial(self, from: &[i8]) -> Self::I8x32 {
        let mut block = [0; 32];
        block[..from.len()].copy_from_slice(from);
        self.load_i8x32(&block)
    }
    /// In byte `i`, 255 if bit `i` of `bits` is set, or else 0.
    fn mask_from_bits(self, bits: u32) -> Self::I8x32;
    /// `acc` with `w · x` added, spread over the lanes, and with a bias that [`Simd::remove_bias`]
    /// takes off. `w` is anything, `x` is within -127..=127.
    ///
    /// (VNNI multiplies unsigned by signed: weights are shifted up by 128 there, which adds `128 *
    /// sum(x)`.)
    fn dot_i8x32(self, acc: Self::I32x8, w: Self::I8x32, x: Self::I8x32) -> Self::I32x8;
    /// `acc` with `w · x` added, spread over the lanes: the first 16 products in lanes 0 to 3, the
    /// others in lanes 4 to 7. `w` is within 0..=127, `x` within -127..=127.
    fn dot_u8x32(self, acc: Self::I32x8, w: Self::I8x32, x: Self::I8x32) -> Self::I32x8;
    /// In lane `i`, the dot products of the quads `i` of four times 32 numbers within 0..=15 and
    /// the `x`, added up.
    #[inline(always)]
    fn dot_nibbles(self, w: [Self::I8x32; 4], x: &[i8]) -> Self::I32x8 {
        dot_nibbles_one_by_one(self, w, x)
    }
    /// Whole dot products, from those that [`Simd::dot_i8x32`] made and the sums of the `x` that
    /// they saw.
    fn remove_bias(self, dots: Self::I32x8, x_sums: Self::I32x8) -> Self::I32x8;
    /// In lane `i`, the sum of the lanes of `a[i]`.
    #[inline(always)]
    fn sum_i32x8_each(self, a: [Self::I32x8; 8]) -> Self::I32x8 {
        let [low, high] = self.sum_halves_each::<false>(a);
        self.add_i32x8(low, high)
    }
    /// The half-precision numbers at bytes 0, `STRIDE`, ... 7 `STRIDE`, as f32. Panics if there are
    /// less than 8 `STRIDE` - 2 bytes.
    fn gather_f16<const STRIDE: usize>(self, from: &[u8]) -> Self::F32x8;
    /// The first 64 elements. Panics if there are fewer.
    fn load_i8x64(self, from: &[i8]) -> Self::I8x64;
    /// The first 64 bytes. Panics if there are fewer.
    fn load_u8x64(self, from: &[u8]) -> Self::I8x64;
    /// 64 zeros.
    fn zero_x64(self) -> Self::I8x64;
    /// The two blocks.
    fn blocks(self, pair: Self::I8x64) -> [Self::I8x32; 2];
    /// As [`Simd256::load_u8x32`] of each.
    fn load_u8_2x32(self, from: [&[u8]; 2]) -> Self::I8x64;
    /// As [`Simd256::load_nibbles`] of each.
    fn load_nibbles_x64(self, from: [&[u8]; 2]) -> Self::I8x64;
    /// As [`Simd::mask_from_bits`] of each.
    fn mask_from_bits_x64(self, bits: [u32; 2]) -> Self::I8x64;
    /// As [`Simd256::shr_mask`] of one block with each shift.
    fn shr_mask_split<const FIRST: u32, const SECOND: u32>(self, a: Self::I8x32, mask: u8) -> Self::I8x64;
    /// As [`Simd256::shl_mask`] of one block with each shift and its mask.
    fn shl_mask_split<const FIRST: u32, const SECOND: u32>(
        self,
        a: Self::I8x32,
        masks: [u8; 2],
    ) -> Self::I8x64;
    /// As [`Simd256::shr_mask`] of both.
    fn shr_mask_x64<const SHIFT: u32>(self, a: Self::I8x64, mask: u8) -> Self::I8x64;
    /// `a & mask`, byte by byte.
    fn and_mask_x64(self, a: Self::I8x64, mask: u8) -> Self::I8x64;
    /// `a | b`
    fn or_x64(self, a: Self::I8x64, b: Self::I8x64) -> Self::I8x64;
    /// As [`Simd256::shuffle`] of both.
    fn shuffle_x64(self, table: &[i8; 16], a: Self::I8x64) -> Self::I8x64;
    /// As [`Simd::dot_i8x32`] of each, from 0.
    fn dot_i8_x64(self, w: Self::I8x64, x: Self::I8x64) -> Self::I32x16;
    /// As [`Simd::dot_u8x32`] of each, from 0.
    fn dot_u8_x64(self, w: Self::I8x64, x: Self::I8x64) -> Self::I32x16;
    /// As [`Simd256::sum_halves_each`] of the eight in four pairs. `SMALL` says that the `w` of the
    /// dot products were within 0..=31.
    fn sum_halves_x64<const SMALL: bool>(self, a: [Self::I32x16; 4]) -> [Self::I32x8; 2];
    /// As [`Simd256::sum_scaled_halves_each`] of the eight in four pairs.
    fn sum_scaled_halves_x64(self, a: [Self::I32x16; 4], scales: Self::I8x32) -> Self::I32x8;
    /// As [`Simd256::mul_u8x32`] of both.
    fn mul_x64(self, a: Self::I8x64, b: Self::I8x64) -> Self::I8x64;
    /// The sum of all lanes of each block of each pair: those of the first blocks, and those of the
    /// second ones.
    fn sum_blocks_each(self, a: [Self::I32x16; 8]) -> [Self::I32x8; 2];
    /// In lane `i`, the dot product of block `i` of the pairs and the `i`th 32 elements of `x`: of
    /// int8, as [`Simd::dot_i8x32`] makes it, bias and all, or else of numbers within 0..=127, or
    /// 0..=31 if they are `small`.
    #[inline(always)]
    fn dot_each(self, w: &[Self::I8x64; 4], x: &[i8], signed: bool, small: bool) -> Self::I32x8 {
        let mut dots = [self.dot_u8_x64(self.zero_x64(), self.zero_x64()); 4];
        for p in 0..4 {
            let x = self.load_i8x64(&x[64 * p..]);
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
    fn interleave_nibbles_16<const STRIDE: usize>(self, from: &[u8]) -> Self::Interleaved;
    /// The halves of four times 32 bytes, as [`Interleave::Nibbles32`]. Panics if there are fewer.
    fn interleave_nibbles_32(self, from: &[u8]) -> Self::Interleaved;
    /// `table[a[i]]`, where every `a[i]` is below 16.
    fn shuffle_interleaved(self, table: &[i8; 16], a: Self::Interleaved) -> Self::Interleaved;
    /// In lane `i`, the dot product of group `i` of both: of int8, as [`Simd::dot_i8x32`] makes it,
    /// bias and all, if they are `SIGNED`, or else of numbers within 0..=15. Panics if there are
    /// less than 256 `x`.
    fn dot_interleaved<const SIGNED: bool>(
        self,
        turn: Interleave,
        w: Self::Interleaved,
        x: &[i8],
    ) -> Self::I32x8;
    /// The first `4 * LANES` int8. Panics if there are fewer.
    fn load_quads(self, from: &[i8]) -> Self::Quads;
    /// The first 4 bytes, `LANES` times. Panics if there are fewer.
    fn splat_quad(self, from: &[u8]) -> Self::Quads;
    /// In lane `i`, `acc[i]` and the dot product of the quads `i`. `w` is within 0..=127, `x`
    /// within -127..=127.
    fn dot4_u8i8(self, acc: Self::I32, w: Self::Quads, x: Self::Quads) -> Self::I32;
    /// As [`Simd::dot4_u8i8`], for the bytes that [`Simd::quads_of_i8x32`] made of any int8, and
    /// with a bias of `2^n * sum(x)` where [`Simd::QUADS_BIAS`] is `n`.
    fn dot4_i8i8(self, acc: Self::I32, w: Self::Quads, x: Self::Quads) -> Self::I32;
    /// int8 as [`Simd::dot4_i8i8`] wants them.
    fn quads_of_i8x32(self, w: Self::I8x32) -> Self::I8x32;
    /// `dots[r][v]` with the dot products of some quads of row `r` and of the tokens `v` added, as
    /// [`Simd::dot4_i8i8`] does it if `BITS` is 8, or else, for weights of so many bits,
    /// [`Simd::dot4_u8i8`]. `w` is (`R`, 32), `x[v]` (8, `LANES`, 4), `quads` 4 or 8 of the 8.
    #[inline(always)]
    fn dot_micro_panel<const BITS: u32, const R: usize, const V: usize>(
        self,
        dots: [[Self::I32; V]; R],
        w: &[u8],
        x: [&[i8]; V],
        quads: Range<usize>,
    ) -> [[Self::I32; V]; R] {
        self.dot_micro_panel_by_quads::<BITS, R, V>(dots, w, x, quads)
    }
    /// [`Simd::dot_micro_panel`] of one quad after another: for what has no faster way.
    #[inline(always)]
    fn dot_micro_panel_by_quads<const BITS: u32, const R: usize, const V: usize>(
        self,
        mut dots: [[Self::I32; V]; R],
        w: &[u8],
        x: [&[i8]; V],
        quads: Range<usize>,
    ) -> [[Self::I32; V]; R] {
        for q in quads {
            let mut x_quads = [self.splat_quad(&[0; 4]); V];
            for v in 0..V {
                x_quads[v] = self.load_quads(&x[v][q * 4 * Self::LANES..]);
            }
            for r in 0..R {
                let w = self.splat_quad(&w[r * 32 + q * 4..]);
                for v in 0..V {
                    dots[r][v] = if BITS == 8 {
                        self.dot4_i8i8(dots[r][v], w, x_quads[v])
                    } else {
                        self.dot4_u8i8(dots[r][v], w, x_quads[v])
                    };
                }
            }
        }
        dots
    }
    /// The first `LANES` elements. Panics if there are fewer.
    fn load_i32(self, from: &[i32]) -> Self::I32;
    /// `a - (b << n)`
    fn sub_shifted_i32(self, a: Self::I32, b: Self::I32, n: u32) -> Self::I32;
    /// `[value; LANES]`
    fn splat_i32(self, value: i32) -> Self::I32;
    /// In each lane, the dot product of two int16 and two others.
    fn madd_i16(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// `[0; LANES]`
    fn zero_i32(self) -> Self::I32;
    /// `a as f32`
    fn to_f32(self, a: Self::I32) -> Self::F32;
}

/// [`Simd::dot_nibbles`] of one vector after another: for what has no faster way.
#[inline(always)]
fn dot_nibbles_one_by_one<S: Simd>(s: S, w: [S::I8x32; 4], x: &[i8]) -> S::I32x8 {
    let mut dots = s.zero_i32x8();
    for k in 0..4 {
        dots = s.dot_u8x32(dots, w[k], s.load_i8x32(&x[32 * k..]));
    }
    dots
}

/// The low halves of some bytes, then their high halves.
#[inline(always)]
fn nibbles<S: Simd>(s: S, bytes: [S::I8x32; 4]) -> [S::I8x32; 8] {
    let mut nibbles = [s.splat_u8x32(0); 8];
    for k in 0..4 {
        nibbles[k] = s.shr_mask::<0>(bytes[k], 15);
        nibbles[k + 4] = s.shr_mask::<4>(bytes[k], 15);
    }
    nibbles
}

/// The operations on pairs and more, in an `impl Simd` whose machine has no vector that wide: each
/// block by itself.
macro_rules! pairs_of_blocks {
    () => {
        type I8x64 = [Self::I8x32; 2];
        type I32x16 = [Self::I32x8; 2];
        /// Vectors whose lanes belong to different groups, so that their products need no sum
        /// across lanes. [`Interleave::Nibbles16`]: vector `k` has quad `k` of each group.
        /// [`Interleave::Nibbles32`]: vector `k`, below 4, has quad `k` of groups 0, 2, 4 and 6,
        /// then their quad `k + 4`; vector `k + 4` likewise of the odd groups.
        type Interleaved = [Self::I8x32; 8];

        const INTERLEAVES: [[u8; 64]; 2] = {
            let mut turns = [[0; 64]; 2];
            let mut i = 0;
            while i < 64 {
                let (vector, lane) = (i / 8, i % 8);
                turns[Interleave::Nibbles16 as usize][i] = (8 * lane + vector) as u8;
                turns[Interleave::Nibbles32 as usize][i] =
                    (8 * (lane % 4 * 2 + vector / 4) + vector % 4 + lane / 4 * 4) as u8;
                i += 1;
            }
            turns
        };

        #[inline(always)]
        fn interleave_nibbles_16<const STRIDE: usize>(self, from: &[u8]) -> Self::Interleaved {
            crate::simd::nibbles(self, self.transpose_16x8(from, STRIDE))
        }
        #[inline(always)]
        fn interleave_nibbles_32(self, from: &[u8]) -> Self::Interleaved {
            crate::simd::nibbles(self, self.transpose_32x4(from))
        }
        #[inline(always)]
        fn shuffle_interleaved(self, table: &[i8; 16], mut a: Self::Interleaved) -> Self::Interleaved {
            for k in 0..8 {
                a[k] = self.shuffle(table, a[k]);
            }
            a
        }
        #[inline(always)]
        fn dot_interleaved<const SIGNED: bool>(
            self,
            turn: Interleave,
            w: Self::Interleaved,
            x: &[i8],
        ) -> Self::I32x8 {
            let [a, b, c, d, e, f, g, h] = w;
            let mut dots = [self.zero_i32x8(); 2];
            if SIGNED {
                for k in 0..8 {
                    dots[k / 4] = self.dot_i8x32(dots[k / 4], w[k], self.load_i8x32(&x[k * 32..]));
                }
            } else {
                dots = [self.dot_nibbles([a, b, c, d], x), self.dot_nibbles([e, f, g, h], &x[128..])];
            }
            match turn {
                Interleave::Nibbles16 => self.add_i32x8(dots[0], dots[1]),
                Interleave::Nibbles32 => self.sum_halves_alternately(dots[0], dots[1]),
            }
        }
        #[inline(always)]
        fn load_i8x64(self, from: &[i8]) -> Self::I8x64 {
            [self.load_i8x32(from), self.load_i8x32(&from[32..])]
        }
        #[inline(always)]
        fn load_u8x64(self, from: &[u8]) -> Self::I8x64 {
            [self.load_u8x32(from), self.load_u8x32(&from[32..])]
        }
        #[inline(always)]
        fn zero_x64(self) -> Self::I8x64 {
            [self.splat_u8x32(0); 2]
        }
        #[inline(always)]
        fn blocks(self, pair: Self::I8x64) -> [Self::I8x32; 2] {
            pair
        }
        #[inline(always)]
        fn load_u8_2x32(self, [a, b]: [&[u8]; 2]) -> Self::I8x64 {
            [self.load_u8x32(a), self.load_u8x32(b)]
        }
        #[inline(always)]
        fn load_nibbles_x64(self, [a, b]: [&[u8]; 2]) -> Self::I8x64 {
            [self.load_nibbles(a), self.load_nibbles(b)]
        }
        #[inline(always)]
        fn mask_from_bits_x64(self, [a, b]: [u32; 2]) -> Self::I8x64 {
            [self.mask_from_bits(a), self.mask_from_bits(b)]
        }
        #[inline(always)]
        fn shr_mask_split<const FIRST: u32, const SECOND: u32>(
            self,
            a: Self::I8x32,
            mask: u8,
        ) -> Self::I8x64 {
            [self.shr_mask::<FIRST>(a, mask), self.shr_mask::<SECOND>(a, mask)]
        }
        #[inline(always)]
        fn shl_mask_split<const FIRST: u32, const SECOND: u32>(
            self,
            a: Self::I8x32,
            masks: [u8; 2],
        ) -> Self::I8x64 {
            [self.shl_mask::<FIRST>(a, masks[0]), self.shl_mask::<SECOND>(a, masks[1])]
        }
        #[inline(always)]
        fn shr_mask_x64<const SHIFT: u32>(self, [a, b]: Self::I8x64, mask: u8) -> Self::I8x64 {
            [self.shr_mask::<SHIFT>(a, mask), self.shr_mask::<SHIFT>(b, mask)]
        }
        #[inline(always)]
        fn and_mask_x64(self, [a, b]: Self::I8x64, mask: u8) -> Self::I8x64 {
            let mask = self.splat_u8x32(mask);
            [self.and_u8x32(a, mask), self.and_u8x32(b, mask)]
        }
        #[inline(always)]
        fn or_x64(self, [a, b]: Self::I8x64, [c, d]: Self::I8x64) -> Self::I8x64 {
            [self.or_u8x32(a, c), self.or_u8x32(b, d)]
        }
        #[inline(always)]
        fn shuffle_x64(self, table: &[i8; 16], [a, b]: Self::I8x64) -> Self::I8x64 {
            [self.shuffle(table, a), self.shuffle(table, b)]
        }
        #[inline(always)]
        fn dot_i8_x64(self, [a, b]: Self::I8x64, [c, d]: Self::I8x64) -> Self::I32x16 {
            [self.dot_i8x32(self.zero_i32x8(), a, c), self.dot_i8x32(self.zero_i32x8(), b, d)]
        }
        #[inline(always)]
        fn dot_u8_x64(self, [a, b]: Self::I8x64, [c, d]: Self::I8x64) -> Self::I32x16 {
            [self.dot_u8x32(self.zero_i32x8(), a, c), self.dot_u8x32(self.zero_i32x8(), b, d)]
        }
        #[inline(always)]
        fn sum_blocks_each(self, a: [Self::I32x16; 8]) -> [Self::I32x8; 2] {
            let mut blocks = [[self.zero_i32x8(); 8]; 2];
            for i in 0..8 {
                (blocks[0][i], blocks[1][i]) = (a[i][0], a[i][1]);
            }
            [self.sum_i32x8_each(blocks[0]), self.sum_i32x8_each(blocks[1])]
        }
        #[inline(always)]
        fn sum_halves_x64<const SMALL: bool>(self, a: [Self::I32x16; 4]) -> [Self::I32x8; 2] {
            let [[a, b], [c, d], [e, f], [g, h]] = a;
            self.sum_halves_each::<SMALL>([a, b, c, d, e, f, g, h])
        }
        #[inline(always)]
        fn sum_scaled_halves_x64(self, a: [Self::I32x16; 4], scales: Self::I8x32) -> Self::I32x8 {
            let [[a, b], [c, d], [e, f], [g, h]] = a;
            self.sum_scaled_halves_each([a, b, c, d, e, f, g, h], scales)
        }
        #[inline(always)]
        fn mul_x64(self, [a, b]: Self::I8x64, [c, d]: Self::I8x64) -> Self::I8x64 {
            [self.mul_u8x32(a, c), self.mul_u8x32(b, d)]
        }
    };
}
pub(crate) use pairs_of_blocks;
