//! NEON: every 64-bit ARM processor; and its dot products of int8 (`dotprod`), which nearly all
//! since 2018 have: Apple M1, Neoverse N1, Cortex-A76 and A55 onwards.
//!
//! A vector here is a pair of 128-bit registers. Thirty-two registers then hold as many vectors as
//! AVX2's sixteen, so tiles that fit there fit here, and every sum has twice as many additions
//! under way.
//!
//! What it costs, counted in the code that rustc 1.95 makes, for want of a processor to time it on.
//! Decode's row dots, with sums across lanes and not yet interleaved, take so many instructions for
//! 32 weights, loads and all:
//!
//! | | Q8_0 | Q4_0 | Q4_K | Q5_K | Q6_K | Q5_0 |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | with `dotprod` | 12.0 | 14.5 | 16.1 | 21.4 | 22.5 | 24.5 |
//! | without | 15.0 | 17.5 | 19.1 | 25.0 | 28.5 | 28.8 |
//!
//! Prefill's tile, 4 rows by 16 tokens, takes 348 for a group of 32: 128 `sdot`, 48 that scale
//! their results, and the rest mostly loads and stores. So where a processor does as many `sdot` as
//! f32 operations in a cycle, 73 % of its peak is the most; without `dotprod` the tile takes 872.
//! None of these loops calls anything. That of the products spills nothing; a tile's sums, for
//! which there are no registers left, are read and written once a group.
//!
//! `i8mm` has `smmla`, two `sdot` in one, but its results are two rows by two tokens. Operands
//! stored as they are now would be shuffled into pairs, and results out of them, with as many
//! instructions as it saves; it pays only where panels and tiles are stored in pairs, and sums stay
//! so until the output.
//!
//! `sdot`, and `fcvtl` from half precision, are written as `asm!`: Rust 1.89 has no stable
//! intrinsic for them.

#![allow(unsafe_code, reason = "intrinsics: the token proves that the processor has them")]

mod parts;
mod products;

use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

use self::parts::{
    load_below_4, madd_i16, store_below_4, sum_i32x4_each, transpose_4x4_twice, widen_f16, widen_i8,
};
use self::products::Products;
pub(super) use self::products::{Dotprod, Widening};
use super::{Byte, Interleave, Kernel, Number, Simd};

/// Proof that NEON is there, and how int8 are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Neon<P>(P);

impl<P: Products> Neon<P> {
    pub(crate) fn detect() -> Option<Self> {
        P::detect().map(Self)
    }

    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        P::run(self, kernel)
    }
}

// SAFETY of every block below: `self` proves NEON; each pointer comes from a slice whose length was
// checked on the line before, and loads and stores want no alignment beyond their element's.
impl<P: Products> Simd for Neon<P> {
    const LANES: usize = 8;
    const REGISTER_TILE: usize = 2;
    type F32 = float32x4x2_t;
    type I8x32 = int8x16x2_t;
    type I32x8 = int32x4x2_t;
    type F32x8 = float32x4x2_t;
    type I32 = int32x4x2_t;
    type Quads = int8x16x2_t;
    const QUADS_BIAS: Option<u32> = None;
    super::pairs_of_blocks!();

    #[inline(always)]
    fn splat(self, value: f32) -> float32x4x2_t {
        // SAFETY: as above.
        let half = unsafe { vdupq_n_f32(value) };
        float32x4x2_t(half, half)
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> float32x4x2_t {
        let from = &from[..8];
        // SAFETY: as above.
        unsafe { float32x4x2_t(vld1q_f32(from.as_ptr()), vld1q_f32(from.as_ptr().add(4))) }
    }
    #[inline(always)]
    fn load_f16(self, from: &[u16]) -> float32x4x2_t {
        let from = &from[..8];
        // SAFETY: as above.
        unsafe { widen_f16(vld1q_u16(from.as_ptr())) }
    }
    #[inline(always)]
    fn load_bf16(self, from: &[u16]) -> float32x4x2_t {
        let from = &from[..8];
        // SAFETY: as above.
        unsafe {
            let (words, zero) = (vld1q_u16(from.as_ptr()), vdupq_n_u16(0));
            let upper_half = |pairs| vreinterpretq_f32_u16(pairs);
            float32x4x2_t(upper_half(vzip1q_u16(zero, words)), upper_half(vzip2q_u16(zero, words)))
        }
    }
    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> float32x4x2_t {
        assert!(from.len() < 8);
        // SAFETY: as above; the pieces have the lengths that are asked for.
        unsafe {
            match from.split_at_checked(4) {
                Some((low, rest)) => float32x4x2_t(vld1q_f32(low.as_ptr()), load_below_4(rest)),
                None => float32x4x2_t(load_below_4(from), vdupq_n_f32(0.0)),
            }
        }
    }
    #[inline(always)]
    fn store(self, value: float32x4x2_t, to: &mut [f32]) {
        let to = &mut to[..8];
        // SAFETY: as above.
        unsafe {
            vst1q_f32(to.as_mut_ptr(), value.0);
            vst1q_f32(to.as_mut_ptr().add(4), value.1);
        }
    }
    #[inline(always)]
    fn store_partial(self, value: float32x4x2_t, to: &mut [f32]) {
        assert!(to.len() < 8);
        // SAFETY: as above; the pieces have the lengths that are asked for.
        unsafe {
            match to.split_at_mut_checked(4) {
                Some((low, rest)) => {
                    vst1q_f32(low.as_mut_ptr(), value.0);
                    store_below_4(value.1, rest);
                }
                None => store_below_4(value.0, to),
            }
        }
    }
    #[inline(always)]
    fn add(self, a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        // SAFETY: as above.
        unsafe { float32x4x2_t(vaddq_f32(a.0, b.0), vaddq_f32(a.1, b.1)) }
    }
    #[inline(always)]
    fn mul(self, a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        // SAFETY: as above.
        unsafe { float32x4x2_t(vmulq_f32(a.0, b.0), vmulq_f32(a.1, b.1)) }
    }
    #[inline(always)]
    fn div(self, a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        // SAFETY: as above.
        unsafe { float32x4x2_t(vdivq_f32(a.0, b.0), vdivq_f32(a.1, b.1)) }
    }
    #[inline(always)]
    fn mul_add(self, a: float32x4x2_t, b: float32x4x2_t, c: float32x4x2_t) -> float32x4x2_t {
        // SAFETY: as above.
        unsafe { float32x4x2_t(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)) }
    }
    #[inline(always)]
    fn fused_mul_add(self, a: float32x4x2_t, b: float32x4x2_t, c: float32x4x2_t) -> float32x4x2_t {
        self.mul_add(a, b, c)
    }
    #[inline(always)]
    fn max(self, a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        // Not `fmax`, in which a NaN on either side wins.
        // SAFETY: as above.
        unsafe {
            let max = |a, b| vbslq_f32(vcgtq_f32(a, b), a, b);
            float32x4x2_t(max(a.0, b.0), max(a.1, b.1))
        }
    }
    #[inline(always)]
    fn max_abs(self, a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        // SAFETY: as above. The bits of numbers without a sign have the order of the numbers.
        unsafe {
            let low = vmaxq_u32(vreinterpretq_u32_f32(a.0), vreinterpretq_u32_f32(vabsq_f32(b.0)));
            let high = vmaxq_u32(vreinterpretq_u32_f32(a.1), vreinterpretq_u32_f32(vabsq_f32(b.1)));
            float32x4x2_t(vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high))
        }
    }
    #[inline(always)]
    fn hmax_abs_each(self, a: [float32x4x2_t; 8]) -> float32x4x2_t {
        // SAFETY: as above.
        unsafe {
            let mut of_four = [vdupq_n_u32(0); 8];
            for i in 0..8 {
                of_four[i] = vmaxq_u32(vreinterpretq_u32_f32(a[i].0), vreinterpretq_u32_f32(a[i].1));
            }
            let [a, b, c, d, e, f, g, h] = of_four;
            let low = vpmaxq_u32(vpmaxq_u32(a, b), vpmaxq_u32(c, d));
            let high = vpmaxq_u32(vpmaxq_u32(e, f), vpmaxq_u32(g, h));
            float32x4x2_t(vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high))
        }
    }
    #[inline(always)]
    fn reduce_to_x8(self, a: float32x4x2_t) -> float32x4x2_t {
        a
    }
    #[inline(always)]
    fn max_lane(self, a: float32x4x2_t) -> f32 {
        // SAFETY: as above.
        unsafe { vmaxvq_f32(vmaxq_f32(a.0, a.1)) }
    }
    #[inline(always)]
    fn store_i8(self, value: float32x4x2_t, to: &mut [i8]) {
        let to = &mut to[..8];
        // SAFETY: as above; 8 bytes are written.
        unsafe {
            // ties away from zero
            let [low, high] = [vcvtaq_s32_f32(value.0), vcvtaq_s32_f32(value.1)];
            vst1_s8(to.as_mut_ptr(), vmovn_s16(vcombine_s16(vmovn_s32(low), vmovn_s32(high))));
        }
    }

    #[inline(always)]
    fn load_i8x32(self, from: &[i8]) -> int8x16x2_t {
        let from = &from[..32];
        // SAFETY: as above.
        unsafe { int8x16x2_t(vld1q_s8(from.as_ptr()), vld1q_s8(from.as_ptr().add(16))) }
    }
    #[inline(always)]
    fn splat_u8x32(self, value: u8) -> int8x16x2_t {
        // SAFETY: as above.
        let half = unsafe { vdupq_n_s8(value as i8) };
        int8x16x2_t(half, half)
    }
    #[inline(always)]
    fn load_u8x32(self, from: &[u8]) -> int8x16x2_t {
        let from = &from[..32];
        // SAFETY: as above.
        unsafe { int8x16x2_t(vld1q_s8(from.as_ptr().cast()), vld1q_s8(from.as_ptr().add(16).cast())) }
    }
    #[inline(always)]
    fn load_nibbles(self, from: &[u8]) -> int8x16x2_t {
        let from = &from[..16];
        // SAFETY: as above.
        unsafe {
            let bytes = vld1q_u8(from.as_ptr());
            let (low, high) = (vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes));
            int8x16x2_t(vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high))
        }
    }
    #[inline(always)]
    fn mask_from_bits(self, bits: u32) -> int8x16x2_t {
        // Each byte gets the byte of `bits` that holds its bit, and tests that bit.
        // SAFETY: as above.
        unsafe {
            let bytes = vreinterpretq_u8_u32(vdupq_n_u32(bits));
            let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
            let test = |low, high| {
                let which = vcombine_u8(vdup_n_u8(low), vdup_n_u8(high));
                vreinterpretq_s8_u8(vtstq_u8(vqtbl1q_u8(bytes, which), bit))
            };
            int8x16x2_t(test(0, 1), test(2, 3))
        }
    }
    #[inline(always)]
    fn shr_mask<const SHIFT: u32>(self, a: int8x16x2_t, mask: u8) -> int8x16x2_t {
        // By a register: the immediate form takes no 0. The compiler makes it immediate where it
        // isn't. SAFETY: as above.
        let shifted = unsafe {
            let shift = |a| vreinterpretq_s8_u8(vshlq_u8(vreinterpretq_u8_s8(a), vdupq_n_s8(-(SHIFT as i8))));
            int8x16x2_t(shift(a.0), shift(a.1))
        };
        self.and_u8x32(shifted, self.splat_u8x32(mask))
    }
    #[inline(always)]
    fn shl_mask<const SHIFT: u32>(self, a: int8x16x2_t, mask: u8) -> int8x16x2_t {
        let a = self.and_u8x32(a, self.splat_u8x32(mask));
        // SAFETY: as above.
        unsafe {
            let shift = vdupq_n_s8(SHIFT as i8);
            int8x16x2_t(vshlq_s8(a.0, shift), vshlq_s8(a.1, shift))
        }
    }
    #[inline(always)]
    fn and_u8x32(self, a: int8x16x2_t, b: int8x16x2_t) -> int8x16x2_t {
        // SAFETY: as above.
        unsafe { int8x16x2_t(vandq_s8(a.0, b.0), vandq_s8(a.1, b.1)) }
    }
    #[inline(always)]
    fn or_u8x32(self, a: int8x16x2_t, b: int8x16x2_t) -> int8x16x2_t {
        // SAFETY: as above.
        unsafe { int8x16x2_t(vorrq_s8(a.0, b.0), vorrq_s8(a.1, b.1)) }
    }
    #[inline(always)]
    fn shuffle(self, table: &[i8; 16], a: int8x16x2_t) -> int8x16x2_t {
        // SAFETY: as above.
        unsafe {
            let table = vld1q_s8(table.as_ptr());
            let chosen = |a| vqtbl1q_s8(table, vreinterpretq_u8_s8(a));
            int8x16x2_t(chosen(a.0), chosen(a.1))
        }
    }
    #[inline(always)]
    fn load_i32x8(self, from: &[i32]) -> int32x4x2_t {
        let from = &from[..8];
        // SAFETY: as above.
        unsafe { int32x4x2_t(vld1q_s32(from.as_ptr()), vld1q_s32(from.as_ptr().add(4))) }
    }
    #[inline(always)]
    fn store_i32x8(self, a: int32x4x2_t, to: &mut [i32]) {
        let to = &mut to[..8];
        // SAFETY: as above.
        unsafe {
            vst1q_s32(to.as_mut_ptr(), a.0);
            vst1q_s32(to.as_mut_ptr().add(4), a.1);
        }
    }
    #[inline(always)]
    fn zero_i32x8(self) -> int32x4x2_t {
        // SAFETY: as above.
        let half = unsafe { vdupq_n_s32(0) };
        int32x4x2_t(half, half)
    }
    #[inline(always)]
    fn dot_i8x32(self, acc: int32x4x2_t, w: int8x16x2_t, x: int8x16x2_t) -> int32x4x2_t {
        self.dot4_u8i8(acc, w, x)
    }
    #[inline(always)]
    fn dot_u8x32(self, acc: int32x4x2_t, w: int8x16x2_t, x: int8x16x2_t) -> int32x4x2_t {
        self.dot_i8x32(acc, w, x)
    }
    #[inline(always)]
    fn remove_bias(self, dots: int32x4x2_t, _x_sums: int32x4x2_t) -> int32x4x2_t {
        dots
    }
    #[inline(always)]
    fn sum_halves_each<const SMALL: bool>(self, a: [int32x4x2_t; 8]) -> [int32x4x2_t; 2] {
        let (mut low, mut high) = ([a[0].0; 8], [a[0].1; 8]);
        for i in 0..8 {
            (low[i], high[i]) = (a[i].0, a[i].1);
        }
        // SAFETY: as above.
        unsafe { [sum_i32x4_each(low), sum_i32x4_each(high)] }
    }
    #[inline(always)]
    fn sum_i32x8_each(self, a: [int32x4x2_t; 8]) -> int32x4x2_t {
        let mut halves = [self.zero_i32x8().0; 8];
        for i in 0..8 {
            // SAFETY: as above.
            halves[i] = unsafe { vaddq_s32(a[i].0, a[i].1) };
        }
        // SAFETY: as above.
        unsafe { sum_i32x4_each(halves) }
    }
    #[inline(always)]
    fn dot_each(self, w: &[Self::I8x64; 4], x: &[i8], _signed: bool, _small: bool) -> int32x4x2_t {
        // One register for each product, so that there are half as many sums across lanes.
        let mut dots = [self.zero_i32x8().0; 8];
        for i in 0..8 {
            let (w, x) = (w[i / 2][i % 2], self.load_i8x32(&x[32 * i..]));
            dots[i] = self.0.dot(self.0.dot(dots[i], w.0, x.0), w.1, x.1);
        }
        // SAFETY: as above.
        unsafe { sum_i32x4_each(dots) }
    }
    #[inline(always)]
    fn sum_scaled_halves_each(self, a: [int32x4x2_t; 8], scales: int8x16x2_t) -> int32x4x2_t {
        let [low, high] = self.sum_halves_each::<true>(a);
        // SAFETY: as above.
        unsafe {
            let (first, second) = (vget_low_s8(scales.0), vget_high_s8(scales.0));
            let (of_low, of_high) = (widen_i8(vuzp1_s8(first, second)), widen_i8(vuzp2_s8(first, second)));
            int32x4x2_t(
                vmlaq_s32(vmulq_s32(low.0, of_low.0), high.0, of_high.0),
                vmlaq_s32(vmulq_s32(low.1, of_low.1), high.1, of_high.1),
            )
        }
    }
    #[inline(always)]
    fn splat_u128(self, a: u128) -> int8x16x2_t {
        // SAFETY: as above.
        let half = unsafe { vcombine_s8(vcreate_s8(a as u64), vcreate_s8((a >> 64) as u64)) };
        int8x16x2_t(half, half)
    }
    #[inline(always)]
    fn mul_u8x32(self, a: int8x16x2_t, b: int8x16x2_t) -> int8x16x2_t {
        // SAFETY: as above.
        unsafe { int8x16x2_t(vmulq_s8(a.0, b.0), vmulq_s8(a.1, b.1)) }
    }
    #[inline(always)]
    fn widen_i8_to_i16(self, a: int8x16x2_t) -> [int32x4x2_t; 2] {
        // SAFETY: as above.
        unsafe {
            let pairs = |a| {
                let (low, high) = (vmovl_s8(vget_low_s8(a)), vmovl_high_s8(a));
                int32x4x2_t(vreinterpretq_s32_s16(low), vreinterpretq_s32_s16(high))
            };
            [pairs(a.0), pairs(a.1)]
        }
    }
    #[inline(always)]
    fn pack_i16(self, low: int32x4x2_t, high: int32x4x2_t) -> int32x4x2_t {
        // SAFETY: as above.
        unsafe { int32x4x2_t(vsliq_n_s32::<16>(low.0, high.0), vsliq_n_s32::<16>(low.1, high.1)) }
    }
    #[inline(always)]
    fn unpack_i16(self, a: int32x4x2_t) -> [int32x4x2_t; 2] {
        // SAFETY: as above.
        unsafe {
            let low = |a| vshrq_n_s32::<16>(vshlq_n_s32::<16>(a));
            let high = |a| vshrq_n_s32::<16>(a);
            [int32x4x2_t(low(a.0), low(a.1)), int32x4x2_t(high(a.0), high(a.1))]
        }
    }
    #[inline(always)]
    fn madd_i16_x8(self, a: int32x4x2_t, b: int32x4x2_t) -> int32x4x2_t {
        // SAFETY: as above.
        unsafe { int32x4x2_t(madd_i16(a.0, b.0), madd_i16(a.1, b.1)) }
    }
    #[inline(always)]
    fn sub_shifted_i32x8(self, a: int32x4x2_t, b: int32x4x2_t, n: u32) -> int32x4x2_t {
        // SAFETY: as above.
        unsafe {
            let n = vdupq_n_s32(n as i32);
            int32x4x2_t(vsubq_s32(a.0, vshlq_s32(b.0, n)), vsubq_s32(a.1, vshlq_s32(b.1, n)))
        }
    }
    #[inline(always)]
    fn add_i32x8(self, a: int32x4x2_t, b: int32x4x2_t) -> int32x4x2_t {
        // SAFETY: as above.
        unsafe { int32x4x2_t(vaddq_s32(a.0, b.0), vaddq_s32(a.1, b.1)) }
    }
    #[inline(always)]
    fn widen_i8x8(self, a: u64) -> int32x4x2_t {
        // SAFETY: as above.
        unsafe { widen_i8(vcreate_s8(a)) }
    }
    #[inline(always)]
    fn widen_i8_even_odd(self, a: u128) -> [int32x4x2_t; 2] {
        // SAFETY: as above.
        unsafe {
            let (low, high) = (vcreate_s8(a as u64), vcreate_s8((a >> 64) as u64));
            [widen_i8(vuzp1_s8(low, high)), widen_i8(vuzp2_s8(low, high))]
        }
    }
    #[inline(always)]
    fn splat_f16_x8(self, bits: u16) -> float32x4x2_t {
        // SAFETY: as above.
        let half = unsafe { widen_f16(vdupq_n_u16(bits)).0 };
        float32x4x2_t(half, half)
    }
    #[inline(always)]
    fn gather_f16<const STRIDE: usize>(self, from: &[u8]) -> float32x4x2_t {
        let from = &from[..8 * STRIDE - 2];
        let mut numbers = [0; 8];
        for i in 0..8 {
            numbers[i] = u16::from_le_bytes([from[i * STRIDE], from[i * STRIDE + 1]]);
        }
        self.load_f16(&numbers)
    }
    #[inline(always)]
    fn splat_x8(self, value: f32) -> float32x4x2_t {
        self.splat(value)
    }
    #[inline(always)]
    fn load_x8(self, from: &[f32]) -> float32x4x2_t {
        self.load(from)
    }
    #[inline(always)]
    fn mul_add_x8(self, a: float32x4x2_t, b: float32x4x2_t, c: float32x4x2_t) -> float32x4x2_t {
        self.mul_add(a, b, c)
    }
    #[inline(always)]
    fn to_f32x8(self, a: int32x4x2_t) -> float32x4x2_t {
        // SAFETY: as above.
        unsafe { float32x4x2_t(vcvtq_f32_s32(a.0), vcvtq_f32_s32(a.1)) }
    }
    #[inline(always)]
    fn from_array(self, lanes: [f32; 8]) -> float32x4x2_t {
        self.load(&lanes)
    }
    #[inline(always)]
    fn add_x8(self, a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        self.add(a, b)
    }
    #[inline(always)]
    fn transpose_f32_8x4<N: Number>(self, from: &[N], stride: usize) -> [float32x4x2_t; 4] {
        const { assert!(size_of::<N>() == size_of::<f32>()) };
        let from = &from[..7 * stride + 4];
        let mut rows = [self.zero_i32x8().0; 8];
        for i in 0..8 {
            let row = &from[i * stride..][..4];
            // SAFETY: as above; they are plain numbers of 4 bytes.
            rows[i] = unsafe { vreinterpretq_s32_u8(vld1q_u8(row.as_ptr().cast())) };
        }
        let [a, b, c, d, e, f, g, h] = rows;
        // SAFETY: as above.
        unsafe {
            let bytes = |rows: [int32x4_t; 4]| {
                let [a, b, c, d] = rows;
                [
                    vreinterpretq_s8_s32(a),
                    vreinterpretq_s8_s32(b),
                    vreinterpretq_s8_s32(c),
                    vreinterpretq_s8_s32(d),
                ]
            };
            let [a, b, c, d] = transpose_4x4_twice(bytes([a, b, c, d]), bytes([e, f, g, h]));
            let floats = |a: int8x16x2_t| float32x4x2_t(vreinterpretq_f32_s8(a.0), vreinterpretq_f32_s8(a.1));
            [floats(a), floats(b), floats(c), floats(d)]
        }
    }
    #[inline(always)]
    fn store_x8(self, a: float32x4x2_t, to: &mut [f32]) {
        self.store(a, to);
    }
    #[inline(always)]
    fn to_array(self, a: float32x4x2_t) -> [f32; 8] {
        let mut lanes = [0.0; 8];
        self.store(a, &mut lanes);
        lanes
    }
    #[inline(always)]
    fn mul_x8(self, a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
        self.mul(a, b)
    }
    #[inline(always)]
    fn hsum_each<const N: usize>(self, a: [float32x4x2_t; N]) -> [f32; N] {
        // SAFETY: as above; four sums are written where four are left.
        unsafe {
            let mut sums = [0.0; N];
            let halves = |v: float32x4x2_t| vaddq_f32(v.0, v.1);
            let mut i = 0;
            while i + 4 <= N {
                let ab = vpaddq_f32(halves(a[i]), halves(a[i + 1]));
                let cd = vpaddq_f32(halves(a[i + 2]), halves(a[i + 3]));
                vst1q_f32(sums[i..i + 4].as_mut_ptr(), vpaddq_f32(ab, cd));
                i += 4;
            }
            while i < N {
                let h = halves(a[i]);
                sums[i] = vpadds_f32(vpadd_f32(vget_low_f32(h), vget_high_f32(h)));
                i += 1;
            }
            sums
        }
    }

    #[inline(always)]
    fn transpose_16x8<B: Byte>(self, from: &[B], stride: usize) -> [int8x16x2_t; 4] {
        const { assert!(size_of::<B>() == 1) };
        let from = &from[..7 * stride + 16];
        let row = |i: usize| {
            let row = &from[i * stride..][..16];
            // SAFETY: as above; they are plain bytes.
            unsafe { vld1q_s8(row.as_ptr().cast()) }
        };
        // SAFETY: as above.
        unsafe { transpose_4x4_twice([row(0), row(1), row(2), row(3)], [row(4), row(5), row(6), row(7)]) }
    }
    #[inline(always)]
    fn transpose_32x4(self, from: &[u8]) -> [int8x16x2_t; 4] {
        let row = |i: usize| self.load_u8x32(&from[32 * i..]);
        let (a, b, c, d) = (row(0), row(1), row(2), row(3));
        // SAFETY: as above.
        unsafe { transpose_4x4_twice([a.0, b.0, c.0, d.0], [a.1, b.1, c.1, d.1]) }
    }
    #[inline(always)]
    fn sum_halves_alternately(self, even: int32x4x2_t, odd: int32x4x2_t) -> int32x4x2_t {
        // SAFETY: as above.
        unsafe {
            let (even, odd) = (vaddq_s32(even.0, even.1), vaddq_s32(odd.0, odd.1));
            int32x4x2_t(vzip1q_s32(even, odd), vzip2q_s32(even, odd))
        }
    }
    #[inline(always)]
    fn extract_lanes(self, a: float32x4x2_t, first: usize, n: usize) -> float32x4x2_t {
        let mut lanes = [0.0; 16];
        self.store_x8(a, &mut lanes);
        lanes[first + n..].fill(0.0);
        self.load_x8(&lanes[first..])
    }
    #[inline(always)]
    fn prefetch<T>(self, near: &[T], at: usize) {
        // SAFETY: any address may be prefetched.
        unsafe {
            asm!(
                "prfm pldl1keep, [{line}]",
                line = in(reg) near.as_ptr().wrapping_add(at),
                options(nostack, preserves_flags, readonly),
            );
        }
    }

    #[inline(always)]
    fn prefetch_nta<T>(self, near: &[T], at: usize) {
        // SAFETY: any address may be prefetched.
        unsafe {
            asm!(
                "prfm pldl1strm, [{line}]",
                line = in(reg) near.as_ptr().wrapping_add(at),
                options(nostack, preserves_flags, readonly),
            );
        }
    }

    #[inline(always)]
    fn store_bytes<B: Byte>(self, value: int8x16x2_t, to: &mut [B]) {
        const { assert!(size_of::<B>() == 1) };
        let to = &mut to[..32];
        // SAFETY: as above; any bits are a byte's.
        unsafe {
            vst1q_s8(to.as_mut_ptr().cast(), value.0);
            vst1q_s8(to.as_mut_ptr().add(16).cast(), value.1);
        }
    }
    #[inline(always)]
    fn load_quads(self, from: &[i8]) -> int8x16x2_t {
        self.load_i8x32(from)
    }
    #[inline(always)]
    fn splat_quad(self, from: &[u8]) -> int8x16x2_t {
        let quad = i32::from_le_bytes([from[0], from[1], from[2], from[3]]);
        // SAFETY: as above.
        let half = unsafe { vreinterpretq_s8_s32(vdupq_n_s32(quad)) };
        int8x16x2_t(half, half)
    }
    #[inline(always)]
    fn dot4_u8i8(self, acc: int32x4x2_t, w: int8x16x2_t, x: int8x16x2_t) -> int32x4x2_t {
        int32x4x2_t(self.0.dot_quads(acc.0, w.0, x.0), self.0.dot_quads(acc.1, w.1, x.1))
    }
    #[inline(always)]
    fn dot4_i8i8(self, acc: int32x4x2_t, w: int8x16x2_t, x: int8x16x2_t) -> int32x4x2_t {
        self.dot4_u8i8(acc, w, x)
    }
    #[inline(always)]
    fn quads_of_i8x32(self, w: int8x16x2_t) -> int8x16x2_t {
        w
    }
    #[inline(always)]
    fn dot_micro_panel<const BITS: u32, const R: usize, const V: usize>(
        self,
        mut dots: [[int32x4x2_t; V]; R],
        w: &[u8],
        x: [&[i8]; V],
        quads: Range<usize>,
    ) -> [[int32x4x2_t; V]; R] {
        // Four quads of a row are one register, and a product takes one of them for all its lanes.
        for four in quads.start / 4..quads.end / 4 {
            let mut rows = [self.splat_u8x32(0).0; R];
            for r in 0..R {
                let row = &w[32 * r + 16 * four..][..16];
                // SAFETY: as above.
                rows[r] = unsafe { vld1q_s8(row.as_ptr().cast()) };
            }
            let mut tokens = [&x[0][..0]; V];
            for v in 0..V {
                tokens[v] = &x[v][128 * four..][..128];
            }
            dots = self.dot_strip_lane::<0, R, V>(dots, rows, tokens);
            dots = self.dot_strip_lane::<1, R, V>(dots, rows, tokens);
            dots = self.dot_strip_lane::<2, R, V>(dots, rows, tokens);
            dots = self.dot_strip_lane::<3, R, V>(dots, rows, tokens);
        }
        dots
    }
    #[inline(always)]
    fn load_i32(self, from: &[i32]) -> int32x4x2_t {
        self.load_i32x8(from)
    }
    #[inline(always)]
    fn sub_shifted_i32(self, a: int32x4x2_t, b: int32x4x2_t, n: u32) -> int32x4x2_t {
        self.sub_shifted_i32x8(a, b, n)
    }
    #[inline(always)]
    fn splat_i32(self, value: i32) -> int32x4x2_t {
        // SAFETY: as above.
        let half = unsafe { vdupq_n_s32(value) };
        int32x4x2_t(half, half)
    }
    #[inline(always)]
    fn madd_i16(self, a: int32x4x2_t, b: int32x4x2_t) -> int32x4x2_t {
        self.madd_i16_x8(a, b)
    }
    #[inline(always)]
    fn zero_i32(self) -> int32x4x2_t {
        self.zero_i32x8()
    }
    #[inline(always)]
    fn to_f32(self, a: int32x4x2_t) -> float32x4x2_t {
        self.to_f32x8(a)
    }
}

impl<P: Products> Neon<P> {
    /// `dots[r][v]` with the products of quad `LANE` of `w[r]` and of each token's quad `LANE`
    /// added. `x[v]` is (4, 8 tokens, 4).
    #[inline(always)]
    fn dot_strip_lane<const LANE: i32, const R: usize, const V: usize>(
        self,
        mut dots: [[int32x4x2_t; V]; R],
        w: [int8x16_t; R],
        x: [&[i8]; V],
    ) -> [[int32x4x2_t; V]; R] {
        for v in 0..V {
            let x = self.load_quads(&x[v][32 * LANE as usize..]);
            for r in 0..R {
                let int32x4x2_t(low, high) = dots[r][v];
                dots[r][v] = int32x4x2_t(
                    self.0.dot_quads_lane::<LANE>(low, w[r], x.0),
                    self.0.dot_quads_lane::<LANE>(high, w[r], x.1),
                );
            }
        }
        dots
    }
}
