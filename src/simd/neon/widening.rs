//! NEON without `dotprod`: int8 are multiplied to int16, and these added up.

#![allow(unsafe_code, reason = "a kernel's entry: the token proves the instruction set")]

use std::arch::aarch64::*;
use std::arch::is_aarch64_feature_detected;

use super::super::Kernel;
use super::super::features::target_feature_impl;
use super::{Neon, Products};

/// Proof of NEON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Widening(());

target_feature_impl! {
    "neon"
    impl Products for Widening {
        {
            fn detect() -> Option<Self> {
                // Lanes are in the order of memory only on little-endian processors, which nearly
                // all are.
                let found = cfg!(target_endian = "little") && is_aarch64_feature_detected!("neon");
                found.then_some(Self(()))
            }
            #[inline]
            fn run<K: Kernel>(token: Neon<Self>, kernel: K) -> K::Output {
                #[target_feature(enable = "neon")]
                fn with_features<K: Kernel>(token: Neon<Widening>, kernel: K) -> K::Output {
                    kernel.run(token)
                }
                // SAFETY: the function asks for nothing except the feature, which `detect` saw
                // before it made the `Widening` in `token`.
                unsafe { with_features(token, kernel) }
            }
        }
        fn dot(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
            // Two products are at most 2 * 128 * 127 = 32,512, which fits an i16.
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            vpadalq_s16(acc, vmlal_high_s8(low, w, x))
        }
        fn dot_quads(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
            // Each int16 is the sum of two neighbors, at most 2 * 128 * 127 = 32,512, which fits.
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(w, x)))
        }
        fn dot_quads_lane<const LANE: i32>(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
            let w = vreinterpretq_s8_s32(vdupq_laneq_s32::<LANE>(vreinterpretq_s32_s8(w)));
            dot_quads(acc, w, x)
        }
    }
}
