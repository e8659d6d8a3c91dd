//! What looking weights up takes, on NEON.

#![allow(unsafe_code, reason = "functions that ask for NEON: the token proves it")]

use std::arch::aarch64::*;

use super::memory::{load_128, store_128};
use super::{Neon, Products};
use crate::simd::LowBitKernels;
use crate::simd::features::target_feature_impl;

target_feature_impl! {
    "neon"
    impl<P: Products> LowBitKernels for Neon<P> {
        {}
        fn bytes_of_words(words: [u64; 4]) -> int8x16x2_t {
            let half = |a, b| vcombine_s8(vcreate_s8(a), vcreate_s8(b));
            int8x16x2_t(half(words[0], words[1]), half(words[2], words[3]))
        }
        fn as_i32x8(a: int8x16x2_t) -> int32x4x2_t {
            int32x4x2_t(vreinterpretq_s32_s8(a.0), vreinterpretq_s32_s8(a.1))
        }
        fn as_i8x32(a: int32x4x2_t) -> int8x16x2_t {
            int8x16x2_t(vreinterpretq_s8_s32(a.0), vreinterpretq_s8_s32(a.1))
        }
        fn widen_u16x8(from: &[u8]) -> int32x4x2_t {
            let words = vreinterpretq_u16_u8(load_128(from));
            let (low, high) = (vmovl_u16(vget_low_u16(words)), vmovl_high_u16(words));
            int32x4x2_t(vreinterpretq_s32_u32(low), vreinterpretq_s32_u32(high))
        }
        fn shr_u32x8<const N: u32>(a: int32x4x2_t) -> int32x4x2_t {
            let shifted = |a| vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-(N as i32)));
            int32x4x2_t(vreinterpretq_s32_u32(shifted(a.0)), vreinterpretq_s32_u32(shifted(a.1)))
        }
        fn odd_dwords(a: int8x16x2_t, b: int8x16x2_t) -> int32x4x2_t {
            let (a, b) = (as_i32x8(a), as_i32x8(b));
            int32x4x2_t(vuzp2q_s32(a.0, a.1), vuzp2q_s32(b.0, b.1))
        }
        fn odd_bytes(a: int8x16x2_t, b: int8x16x2_t) -> int8x16x2_t {
            int8x16x2_t(vuzp2q_s8(a.0, a.1), vuzp2q_s8(b.0, b.1))
        }
        fn spread_bits<const N: u32>(a: int32x4x2_t) -> int8x16x2_t {
            let mut spread = int32x4x2_t(vdupq_n_s32(0), vdupq_n_s32(0));
            for i in 0..4 {
                let (by, mask) = (vdupq_n_s32((8 - N as i32) * i), vdupq_n_s32(((1 << N) - 1) << (8 * i)));
                spread.0 = vorrq_s32(spread.0, vandq_s32(vshlq_s32(a.0, by), mask));
                spread.1 = vorrq_s32(spread.1, vandq_s32(vshlq_s32(a.1, by), mask));
            }
            as_i8x32(spread)
        }
        fn with_parity(a: int8x16x2_t) -> int8x16x2_t {
            int8x16x2_t(vsliq_n_s8::<7>(a.0, vcntq_s8(a.0)), vsliq_n_s8::<7>(a.1, vcntq_s8(a.1)))
        }
        fn spread_nibbles(from: &[u8]) -> int8x16x2_t {
            let bytes = load_128(from);
            let (low, high) = (vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes));
            let (first, last) = (vzip1q_u8(low, high), vzip2q_u8(low, high));
            int8x16x2_t(vreinterpretq_s8_u8(first), vreinterpretq_s8_u8(last))
        }
        fn zip_bytes(low: int8x16x2_t, high: int8x16x2_t) -> [u16; 32] {
            let mut numbers = [0; 32];
            store_128(vreinterpretq_u8_s8(vzip1q_s8(low.0, high.0)), &mut numbers[..8]);
            store_128(vreinterpretq_u8_s8(vzip2q_s8(low.0, high.0)), &mut numbers[8..16]);
            store_128(vreinterpretq_u8_s8(vzip1q_s8(low.1, high.1)), &mut numbers[16..24]);
            store_128(vreinterpretq_u8_s8(vzip2q_s8(low.1, high.1)), &mut numbers[24..]);
            numbers
        }
        fn repeat_place(a: int8x16x2_t, v: usize) -> int8x16x2_t {
            let places = vcombine_u8(vdup_n_u8(0), vdup_n_u8(4));
            let places = vaddq_u8(places, vdupq_n_u8((v / 4 * 8 + v % 4) as u8));
            int8x16x2_t(vqtbl1q_s8(a.0, places), vqtbl1q_s8(a.1, places))
        }
        fn mask_of_bits(a: int8x16x2_t) -> int8x16x2_t {
            let bit = vreinterpretq_s8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
            let (first, last) = (vtstq_s8(a.0, bit), vtstq_s8(a.1, bit));
            int8x16x2_t(vreinterpretq_s8_u8(first), vreinterpretq_s8_u8(last))
        }
        fn transpose_words(vectors: [int8x16x2_t; 4]) -> [int8x16x2_t; 4] {
            let words = |a| vreinterpretq_s64_s8(a);
            let even = |a, b| vreinterpretq_s8_s64(vtrn1q_s64(words(a), words(b)));
            let odd = |a, b| vreinterpretq_s8_s64(vtrn2q_s64(words(a), words(b)));
            let [a, b, c, d] = vectors;
            [
                int8x16x2_t(even(a.0, b.0), even(c.0, d.0)),
                int8x16x2_t(odd(a.0, b.0), odd(c.0, d.0)),
                int8x16x2_t(even(a.1, b.1), even(c.1, d.1)),
                int8x16x2_t(odd(a.1, b.1), odd(c.1, d.1)),
            ]
        }
        fn add_u8x32(a: int8x16x2_t, b: int8x16x2_t) -> int8x16x2_t {
            int8x16x2_t(vaddq_s8(a.0, b.0), vaddq_s8(a.1, b.1))
        }
        fn negate(a: int8x16x2_t, mask: int8x16x2_t) -> int8x16x2_t {
            let first = vsubq_s8(veorq_s8(a.0, mask.0), mask.0);
            int8x16x2_t(first, vsubq_s8(veorq_s8(a.1, mask.1), mask.1))
        }
        fn trits(a: int8x16x2_t, b: int8x16x2_t) -> int8x16x2_t {
            // A mask is -1, and 86 and 171 are the least bytes of one and of two thirds.
            let trit = |a, b| {
                let a = vreinterpretq_u8_s8(vmulq_s8(a, b));
                let (one, two) = (vcgeq_u8(a, vdupq_n_u8(86)), vcgeq_u8(a, vdupq_n_u8(171)));
                vnegq_s8(vreinterpretq_s8_u8(vaddq_u8(one, two)))
            };
            int8x16x2_t(trit(a.0, b.0), trit(a.1, b.1))
        }
    }
}
