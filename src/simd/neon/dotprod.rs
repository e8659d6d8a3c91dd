//! NEON's dot products (`dotprod`): four int8 are multiplied and added up at once.

#![allow(unsafe_code, reason = "`sdot`, and a kernel's entry: the token proves the instruction set")]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::super::Kernel;
use super::super::features::target_feature_impl;
use super::{Neon, Products, Widening};

/// Proof of `dotprod` and of NEON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dotprod(());

target_feature_impl! {
    "neon,dotprod"
    impl Products for Dotprod {
        {
            fn detect() -> Option<Self> {
                let found = Widening::detect().is_some() && is_aarch64_feature_detected!("dotprod");
                found.then_some(Self(()))
            }
            #[inline]
            fn run<K: Kernel>(token: Neon<Self>, kernel: K) -> K::Output {
                #[target_feature(enable = "neon,dotprod")]
                fn with_features<K: Kernel>(token: Neon<Dotprod>, kernel: K) -> K::Output {
                    kernel.run(token)
                }
                // SAFETY: the function asks for nothing except the features, both of which
                // `detect` saw before it made the `Dotprod` in `token`.
                unsafe { with_features(token, kernel) }
            }
        }
        fn dot(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
            dot_quads(acc, w, x)
        }
        fn dot_quads(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
            let mut acc = acc;
            // SAFETY: `sdot` is of `dotprod`, which this function has, and reads and writes the
            // registers named and nothing else.
            unsafe {
                asm!(
                    "sdot {acc:v}.4s, {w:v}.16b, {x:v}.16b",
                    acc = inout(vreg) acc,
                    w = in(vreg) w,
                    x = in(vreg) x,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            acc
        }
        fn dot_quads_lane<const LANE: i32>(acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
            let mut acc = acc;
            // SAFETY: `sdot` is of `dotprod`, which this function has, and reads and writes the
            // registers named and nothing else.
            unsafe {
                asm!(
                    "sdot {acc:v}.4s, {x:v}.16b, {w:v}.4b[{lane}]",
                    acc = inout(vreg) acc,
                    x = in(vreg) x,
                    w = in(vreg) w,
                    lane = const LANE,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            acc
        }
    }
}
