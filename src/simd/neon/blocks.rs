//! Vectors of 256 bits, as two registers of NEON.

#![allow(unsafe_code, reason = "functions that ask for NEON: the token proves it")]

use std::arch::aarch64::*;

use super::super::features::target_feature_impl;
use super::super::{BlockKernels, Byte, Number, Simd256};
use super::memory::{self, load_128, load_f32x4, load_i8x16, store_128};
use super::parts::{halves, madd_i16x8, sum_registers, transpose_rows, widen_f16, widen_i8};
use super::{Neon, Products};

target_feature_impl! {
    "neon"
    impl<P: Products> Simd256 for Neon<P> {
        {
            type I8x32 = int8x16x2_t;
            type I32x8 = int32x4x2_t;
            type F32x8 = float32x4x2_t;
        }
        fn load_bytes(from: &[impl Byte]) -> int8x16x2_t {
            int8x16x2_t(load_i8x16(from), load_i8x16(&from[16..]))
        }
        fn splat_u8x32(value: u8) -> int8x16x2_t {
            let half = vdupq_n_s8(value as i8);
            int8x16x2_t(half, half)
        }
        fn store_bytes(value: int8x16x2_t, to: &mut [impl Byte]) {
            let (low, high) = to[..32].split_at_mut(16);
            store_128(vreinterpretq_u8_s8(value.0), low);
            store_128(vreinterpretq_u8_s8(value.1), high);
        }
        fn shr_mask<const SHIFT: u32>(a: int8x16x2_t, mask: u8) -> int8x16x2_t {
            // By a register: the immediate form takes no 0. The compiler makes it immediate where
            // it isn't.
            let (by, mask) = (vdupq_n_s8(-(SHIFT as i8)), vdupq_n_u8(mask));
            let shifted = |a| vandq_u8(vshlq_u8(vreinterpretq_u8_s8(a), by), mask);
            int8x16x2_t(vreinterpretq_s8_u8(shifted(a.0)), vreinterpretq_s8_u8(shifted(a.1)))
        }
        fn shl_mask<const SHIFT: u32>(a: int8x16x2_t, mask: u8) -> int8x16x2_t {
            let (by, mask) = (vdupq_n_s8(SHIFT as i8), vdupq_n_s8(mask as i8));
            int8x16x2_t(vshlq_s8(vandq_s8(a.0, mask), by), vshlq_s8(vandq_s8(a.1, mask), by))
        }
        fn and_u8x32(a: int8x16x2_t, b: int8x16x2_t) -> int8x16x2_t {
            int8x16x2_t(vandq_s8(a.0, b.0), vandq_s8(a.1, b.1))
        }
        fn or_u8x32(a: int8x16x2_t, b: int8x16x2_t) -> int8x16x2_t {
            int8x16x2_t(vorrq_s8(a.0, b.0), vorrq_s8(a.1, b.1))
        }
        fn shuffle(table: &[i8; 16], a: int8x16x2_t) -> int8x16x2_t {
            let table = load_i8x16(table);
            let chosen = |a| vqtbl1q_s8(table, vreinterpretq_u8_s8(a));
            int8x16x2_t(chosen(a.0), chosen(a.1))
        }
        fn load_i32x8(from: &[i32]) -> int32x4x2_t {
            let (low, high) = (load_128(from), load_128(&from[4..]));
            int32x4x2_t(vreinterpretq_s32_u8(low), vreinterpretq_s32_u8(high))
        }
        fn store_i32x8(a: int32x4x2_t, to: &mut [i32]) {
            let (low, high) = to[..8].split_at_mut(4);
            store_128(vreinterpretq_u8_s32(a.0), low);
            store_128(vreinterpretq_u8_s32(a.1), high);
        }
        fn zero_i32x8() -> int32x4x2_t {
            int32x4x2_t(vdupq_n_s32(0), vdupq_n_s32(0))
        }
        fn add_i32x8(a: int32x4x2_t, b: int32x4x2_t) -> int32x4x2_t {
            int32x4x2_t(vaddq_s32(a.0, b.0), vaddq_s32(a.1, b.1))
        }
        fn sub_shifted_i32x8(a: int32x4x2_t, b: int32x4x2_t, n: u32) -> int32x4x2_t {
            let n = vdupq_n_s32(n as i32);
            int32x4x2_t(vsubq_s32(a.0, vshlq_s32(b.0, n)), vsubq_s32(a.1, vshlq_s32(b.1, n)))
        }
        fn madd_i16_x8(a: int32x4x2_t, b: int32x4x2_t) -> int32x4x2_t {
            int32x4x2_t(madd_i16x8(a.0, b.0), madd_i16x8(a.1, b.1))
        }
        fn splat_x8(value: f32) -> float32x4x2_t {
            float32x4x2_t(vdupq_n_f32(value), vdupq_n_f32(value))
        }
        fn splat_f16_x8(bits: u16) -> float32x4x2_t {
            let half = widen_f16(vdupq_n_u16(bits)).0;
            float32x4x2_t(half, half)
        }
        fn load_x8(from: &[f32]) -> float32x4x2_t {
            float32x4x2_t(load_f32x4(from), load_f32x4(&from[4..]))
        }
        fn store_x8(a: float32x4x2_t, to: &mut [f32]) {
            let (low, high) = to[..8].split_at_mut(4);
            store_128(vreinterpretq_u8_f32(a.0), low);
            store_128(vreinterpretq_u8_f32(a.1), high);
        }
        fn to_f32x8(a: int32x4x2_t) -> float32x4x2_t {
            float32x4x2_t(vcvtq_f32_s32(a.0), vcvtq_f32_s32(a.1))
        }
        fn add_x8(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
            float32x4x2_t(vaddq_f32(a.0, b.0), vaddq_f32(a.1, b.1))
        }
        fn mul_x8(a: float32x4x2_t, b: float32x4x2_t) -> float32x4x2_t {
            float32x4x2_t(vmulq_f32(a.0, b.0), vmulq_f32(a.1, b.1))
        }
        fn mul_add_x8(a: float32x4x2_t, b: float32x4x2_t, c: float32x4x2_t) -> float32x4x2_t {
            float32x4x2_t(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1))
        }
        fn hsum(a: float32x4x2_t) -> f32 {
            let four = halves(a);
            vpadds_f32(vpadd_f32(vget_low_f32(four), vget_high_f32(four)))
        }
        fn hsum_4(a: [float32x4x2_t; 4]) -> [f32; 4] {
            let ab = vpaddq_f32(halves(a[0]), halves(a[1]));
            let sums = vpaddq_f32(ab, vpaddq_f32(halves(a[2]), halves(a[3])));
            let mut lanes = [0.0; 4];
            store_128(vreinterpretq_u8_f32(sums), &mut lanes);
            lanes
        }
        fn prefetch(line: *const u8) {
            memory::prefetch::<false>(line);
        }
        fn prefetch_nta(line: *const u8) {
            memory::prefetch::<true>(line);
        }
    }
}

target_feature_impl! {
    "neon"
    impl<P: Products> BlockKernels for Neon<P> {
        {}
        fn load_nibbles(from: &[u8]) -> int8x16x2_t {
            let bytes = load_128(from);
            let (low, high) = (vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes));
            int8x16x2_t(vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high))
        }
        fn splat_u128(a: u128) -> int8x16x2_t {
            let half = vcombine_s8(vcreate_s8(a as u64), vcreate_s8((a >> 64) as u64));
            int8x16x2_t(half, half)
        }
        fn mul_u8x32(a: int8x16x2_t, b: int8x16x2_t) -> int8x16x2_t {
            int8x16x2_t(vmulq_s8(a.0, b.0), vmulq_s8(a.1, b.1))
        }
        fn transpose_16x8(from: &[impl Byte], stride: usize) -> [int8x16x2_t; 4] {
            let mut rows = [vdupq_n_s8(0); 8];
            for i in 0..8 {
                rows[i] = load_i8x16(&from[i * stride..]);
            }
            transpose_rows(rows)
        }
        fn transpose_32x4(from: &[u8]) -> [int8x16x2_t; 4] {
            let mut rows = [vdupq_n_s8(0); 8];
            for i in 0..8 {
                rows[i] = load_i8x16(&from[i % 4 * 32 + i / 4 * 16..]);
            }
            transpose_rows(rows)
        }
        fn widen_i8_to_i16(a: int8x16x2_t) -> [int32x4x2_t; 2] {
            let pairs = |a| {
                let (low, high) = (vmovl_s8(vget_low_s8(a)), vmovl_high_s8(a));
                int32x4x2_t(vreinterpretq_s32_s16(low), vreinterpretq_s32_s16(high))
            };
            [pairs(a.0), pairs(a.1)]
        }
        fn widen_i8x8(a: u64) -> int32x4x2_t {
            widen_i8(vcreate_s8(a))
        }
        fn widen_i8_even_odd(a: u128) -> [int32x4x2_t; 2] {
            let (low, high) = (vcreate_s8(a as u64), vcreate_s8((a >> 64) as u64));
            [widen_i8(vuzp1_s8(low, high)), widen_i8(vuzp2_s8(low, high))]
        }
        fn pack_i16(low: int32x4x2_t, high: int32x4x2_t) -> int32x4x2_t {
            int32x4x2_t(vsliq_n_s32::<16>(low.0, high.0), vsliq_n_s32::<16>(low.1, high.1))
        }
        fn unpack_i16(a: int32x4x2_t) -> [int32x4x2_t; 2] {
            let low = |a| vshrq_n_s32::<16>(vshlq_n_s32::<16>(a));
            let high = |a| vshrq_n_s32::<16>(a);
            [int32x4x2_t(low(a.0), low(a.1)), int32x4x2_t(high(a.0), high(a.1))]
        }
        fn sum_halves_each<const SMALL: bool>(a: [int32x4x2_t; 8]) -> [int32x4x2_t; 2] {
            let (mut low, mut high) = ([vdupq_n_s32(0); 8], [vdupq_n_s32(0); 8]);
            for i in 0..8 {
                (low[i], high[i]) = (a[i].0, a[i].1);
            }
            [sum_registers(low), sum_registers(high)]
        }
        fn sum_scaled_halves_each(a: [int32x4x2_t; 8], scales: int8x16x2_t) -> int32x4x2_t {
            let [low, high] = sum_halves_each::<true>(a);
            let (first, second) = (vget_low_s8(scales.0), vget_high_s8(scales.0));
            let (of_low, of_high) = (widen_i8(vuzp1_s8(first, second)), widen_i8(vuzp2_s8(first, second)));
            int32x4x2_t(
                vmlaq_s32(vmulq_s32(low.0, of_low.0), high.0, of_high.0),
                vmlaq_s32(vmulq_s32(low.1, of_low.1), high.1, of_high.1),
            )
        }
        fn sum_neighbors(a: int32x4x2_t, b: int32x4x2_t) -> int32x4x2_t {
            int32x4x2_t(vpaddq_s32(a.0, b.0), vpaddq_s32(a.1, b.1))
        }
        fn sum_halves_alternately(even: int32x4x2_t, odd: int32x4x2_t) -> int32x4x2_t {
            let (even, odd) = (vaddq_s32(even.0, even.1), vaddq_s32(odd.0, odd.1));
            int32x4x2_t(vzip1q_s32(even, odd), vzip2q_s32(even, odd))
        }
        fn transpose_f32_8x4(from: &[impl Number], stride: usize) -> [float32x4x2_t; 4] {
            let mut rows = [vdupq_n_s8(0); 8];
            for i in 0..8 {
                rows[i] = load_i8x16(&from[i * stride..]);
            }
            let floats = |a: int8x16x2_t| float32x4x2_t(vreinterpretq_f32_s8(a.0), vreinterpretq_f32_s8(a.1));
            let [a, b, c, d] = transpose_rows(rows);
            [floats(a), floats(b), floats(c), floats(d)]
        }
        fn sum_each(a: [int32x4x2_t; 8]) -> int32x4x2_t {
            let mut sums = [vdupq_n_s32(0); 8];
            for i in 0..8 {
                sums[i] = vaddq_s32(a[i].0, a[i].1);
            }
            sum_registers(sums)
        }
    }
}
