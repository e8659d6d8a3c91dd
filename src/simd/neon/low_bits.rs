//! What looking weights up takes, on NEON.

#![allow(unsafe_code, reason = "functions that ask for NEON: the token proves it")]

use std::arch::aarch64::*;

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
        fn add_u8x32(a: int8x16x2_t, b: int8x16x2_t) -> int8x16x2_t {
            int8x16x2_t(vaddq_s8(a.0, b.0), vaddq_s8(a.1, b.1))
        }
        fn negate(a: int8x16x2_t, mask: int8x16x2_t) -> int8x16x2_t {
            let first = vsubq_s8(veorq_s8(a.0, mask.0), mask.0);
            int8x16x2_t(first, vsubq_s8(veorq_s8(a.1, mask.1), mask.1))
        }
        fn first_trit(a: int8x16x2_t) -> int8x16x2_t {
            // A mask is -1, and 86 and 171 are the least bytes of one and of two thirds.
            let trit = |a| {
                let a = vreinterpretq_u8_s8(a);
                let (one, two) = (vcgeq_u8(a, vdupq_n_u8(86)), vcgeq_u8(a, vdupq_n_u8(171)));
                vnegq_s8(vreinterpretq_s8_u8(vaddq_u8(one, two)))
            };
            int8x16x2_t(trit(a.0), trit(a.1))
        }
    }
}
