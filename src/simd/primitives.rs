//! The first of two floors: what every instruction set must bring. Each operation's comment is its
//! definition; `scalar.rs` is that definition in code.

use super::{Byte, LINE};

/// Vectors of 256 bits: 32 bytes, 8 int32 or 8 f32. Every instruction set has them, be it as two
/// registers. A block of 32 int8 is the unit that every quantized format is made of.
pub(crate) trait Simd256: Copy + Send + Sync + 'static {
    /// 32 int8.
    type I8x32: Copy;
    /// 8 int32.
    type I32x8: Copy;
    /// 8 f32.
    type F32x8: Copy;

    /// The first 32 bytes. Panics if there are fewer.
    fn load_bytes(self, from: &[impl Byte]) -> Self::I8x32;
    /// Writes 32 bytes. Panics if there is space for fewer.
    fn store_bytes(self, value: Self::I8x32, to: &mut [impl Byte]);
    /// `[value; 32]`, as bytes.
    fn splat_u8x32(self, value: u8) -> Self::I8x32;
    /// `(a >> SHIFT) & mask`, byte by byte. `mask` has no bit that a byte's neighbor could shift
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
    /// Writes the lanes. Panics if there is space for fewer.
    fn store_i32x8(self, a: Self::I32x8, to: &mut [i32]);
    /// `[0; 8]`
    fn zero_i32x8(self) -> Self::I32x8;
    /// `a + b`
    fn add_i32x8(self, a: Self::I32x8, b: Self::I32x8) -> Self::I32x8;
    /// `a - (b << n)`
    fn sub_shifted_i32x8(self, a: Self::I32x8, b: Self::I32x8, n: u32) -> Self::I32x8;
    /// In each lane, the dot product of two int16 and two others.
    fn madd_i16_x8(self, a: Self::I32x8, b: Self::I32x8) -> Self::I32x8;
    /// `a as f32`
    fn to_f32x8(self, a: Self::I32x8) -> Self::F32x8;

    /// `[value; 8]`
    fn splat_x8(self, value: f32) -> Self::F32x8;
    /// An IEEE half-precision number as f32, in all lanes.
    fn splat_f16_x8(self, bits: u16) -> Self::F32x8;
    /// The first 8 elements. Panics if there are fewer.
    fn load_x8(self, from: &[f32]) -> Self::F32x8;
    /// Writes the lanes. Panics if there is space for fewer.
    fn store_x8(self, a: Self::F32x8, to: &mut [f32]);
    /// The lanes given.
    #[allow(clippy::wrong_self_convention, reason = "`self` is the token")]
    #[inline(always)]
    fn from_array(self, lanes: [f32; 8]) -> Self::F32x8 {
        self.load_x8(&lanes)
    }
    /// The lanes.
    #[inline(always)]
    fn to_array(self, a: Self::F32x8) -> [f32; 8] {
        let mut lanes = [0.0; 8];
        self.store_x8(a, &mut lanes);
        lanes
    }
    /// `a + b`
    fn add_x8(self, a: Self::F32x8, b: Self::F32x8) -> Self::F32x8;
    /// `a * b`
    fn mul_x8(self, a: Self::F32x8, b: Self::F32x8) -> Self::F32x8;
    /// `a * b + c`, rounded once where the machine can.
    fn mul_add_x8(self, a: Self::F32x8, b: Self::F32x8, c: Self::F32x8) -> Self::F32x8;
    /// The sum of all lanes, in the order ((0+4)+(1+5))+((2+6)+(3+7)).
    fn hsum(self, a: Self::F32x8) -> f32;
    /// [`Simd256::hsum`] of each: four reductions at once cost little more than one.
    #[inline(always)]
    fn hsum_4(self, a: [Self::F32x8; 4]) -> [f32; 4] {
        [self.hsum(a[0]), self.hsum(a[1]), self.hsum(a[2]), self.hsum(a[3])]
    }
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

    /// Has the cache fetch the line at an address.
    #[inline(always)]
    fn prefetch(self, _line: *const u8) {}
    /// As [`Simd256::prefetch`], of what is used once: it needn't be kept when it leaves the
    /// nearest cache (a non-temporal prefetch).
    #[inline(always)]
    fn prefetch_nta(self, _line: *const u8) {}
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
}

/// Vectors of the machine's width, and dot products of int8.
pub(crate) trait Simd: Simd256 {
    /// f32 in an [`Simd::F32`].
    const LANES: usize;
    /// How many vectors a tile of sums is wide: 4 where 32 of them fit in registers, 2 where 16 do.
    /// 1 where nothing is gained by tiles: kernels then leave out their versions for several rows,
    /// which take long to compile.
    const REGISTER_TILE: usize;
    /// From how many places a thread reads weights side by side, at most: see
    /// `quant/walk.rs`. One where nobody has measured that several are faster.
    const STREAMS: usize = 1;
    /// `LANES` f32.
    type F32: Copy;
    /// `LANES` int32.
    type I32: Copy;
    /// `LANES` times four bytes.
    type Quads: Copy;
    /// What [`Simd::dot4_i8i8`] adds beside the product: this power of two for each `x`. `None`:
    /// nothing.
    const QUADS_BIAS: Option<u32>;

    /// `[value; LANES]`
    fn splat(self, value: f32) -> Self::F32;
    /// The first `LANES` elements. Panics if there are fewer.
    fn load(self, from: &[f32]) -> Self::F32;
    /// The first `LANES` IEEE half-precision numbers, as f32. Panics if there are fewer.
    fn load_f16(self, from: &[u16]) -> Self::F32;
    /// The first `LANES` int8, as f32. Panics if there are fewer.
    fn load_i8(self, from: &[i8]) -> Self::F32;
    /// The first `LANES` bfloat16 numbers, as f32. Panics if there are fewer.
    fn load_bf16(self, from: &[u16]) -> Self::F32;
    /// All of `from`, which has fewer than `LANES` elements, and then zeros.
    fn load_partial(self, from: &[f32]) -> Self::F32;
    /// Writes the first `LANES` elements. Panics if there is space for fewer.
    fn store(self, value: Self::F32, to: &mut [f32]);
    /// Writes as many elements as `to` has, which is fewer than `LANES`.
    fn store_partial(self, value: Self::F32, to: &mut [f32]);
    /// Writes each lane as int8, rounded to the nearest, ties away from zero, as C's `round`. Lanes
    /// are within -127..=127 or NaN, which becomes anything.
    fn store_i8(self, value: Self::F32, to: &mut [i8]);
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
    #[inline(always)]
    fn fused_mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        self.mul_add(a, b, c)
    }
    /// `a`, which the compiler has computed before what follows: it would leave a tile's sums for
    /// later, and keep in memory all that they are made of.
    #[inline(always)]
    fn in_order(self, a: Self::F32) -> Self::F32 {
        a
    }
    /// `a > b ? a : b`, so a NaN in `b` wins.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `max(a, |b|)` where `a` has no signs, and what is not finite counts as greater than what is.
    fn max_abs(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The greatest of all lanes.
    fn max_lane(self, a: Self::F32) -> f32;
    /// 8 lanes whose sum is the sum of all lanes of `a`.
    fn reduce_to_x8(self, a: Self::F32) -> Self::F32x8;

    /// The first `LANES` elements. Panics if there are fewer.
    fn load_i32(self, from: &[i32]) -> Self::I32;
    /// Writes the lanes. Panics if there is space for fewer.
    fn store_i32(self, a: Self::I32, to: &mut [i32]);
    /// `[value; LANES]`
    fn splat_i32(self, value: i32) -> Self::I32;
    /// `[0; LANES]`
    #[inline(always)]
    fn zero_i32(self) -> Self::I32 {
        self.splat_i32(0)
    }
    /// `a - (b << n)`
    fn sub_shifted_i32(self, a: Self::I32, b: Self::I32, n: u32) -> Self::I32;
    /// In each lane, the dot product of two int16 and two others.
    fn madd_i16(self, a: Self::I32, b: Self::I32) -> Self::I32;
    /// `a as f32`
    fn to_f32(self, a: Self::I32) -> Self::F32;

    /// The first `4 * LANES` int8. Panics if there are fewer.
    fn load_quads(self, from: &[i8]) -> Self::Quads;
    /// The first 4 bytes, `LANES` times. Panics if there are fewer.
    fn splat_quad(self, from: &[u8]) -> Self::Quads;
    /// In lane `i`, `acc[i]` and the dot product of the quads `i`. `w` is within 0..=127, `x`
    /// within -127..=127.
    fn dot4_u8i8(self, acc: Self::I32, w: Self::Quads, x: Self::Quads) -> Self::I32;
    /// As [`Simd::dot4_u8i8`], for the bytes that [`Simd::quads_of_i8x32`] made of any int8, and
    /// with a bias of `2^n * sum(x)` where [`Simd::QUADS_BIAS`] is `n`.
    #[inline(always)]
    fn dot4_i8i8(self, acc: Self::I32, w: Self::Quads, x: Self::Quads) -> Self::I32 {
        self.dot4_u8i8(acc, w, x)
    }
    /// int8 as [`Simd::dot4_i8i8`] wants them.
    #[inline(always)]
    fn quads_of_i8x32(self, w: Self::I8x32) -> Self::I8x32 {
        w
    }
    /// `acc` with `w · x` added, spread over the lanes, and with a bias that [`Simd::remove_bias`]
    /// takes off. `w` is anything, `x` is within -127..=127.
    ///
    /// (VNNI multiplies unsigned by signed: weights are shifted up by 128 there, which adds `128 *
    /// sum(x)`.)
    fn dot_i8x32(self, acc: Self::I32x8, w: Self::I8x32, x: Self::I8x32) -> Self::I32x8;
    /// `acc` with `w · x` added, spread over the lanes: the first 16 products in lanes 0 to 3, the
    /// others in lanes 4 to 7. `w` is within 0..=127, `x` within -127..=127.
    fn dot_u8x32(self, acc: Self::I32x8, w: Self::I8x32, x: Self::I8x32) -> Self::I32x8;
    /// The dot products alone, from those that [`Simd::dot_i8x32`] made and the sums of the `x`
    /// that they saw.
    #[inline(always)]
    fn remove_bias(self, dots: Self::I32x8, x_sums: Self::I32x8) -> Self::I32x8 {
        match Self::QUADS_BIAS {
            Some(n) => self.sub_shifted_i32x8(dots, x_sums, n),
            None => dots,
        }
    }
}
