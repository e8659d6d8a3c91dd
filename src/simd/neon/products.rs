//! What differs between the levels of NEON: products of int8.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use super::{Kernel, Neon};

/// NEON alone: int8 are multiplied to int16, and these added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Widening(());

/// Proof of NEON's dot products: four int8 are multiplied and added up at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dotprod(());

/// Products of int8, of which `x` is within -127..=127. A value proves that the processor has them,
/// and NEON.
pub(crate) trait Products: Copy + Send + Sync + 'static {
    fn detect() -> Option<Self>;
    /// Runs a kernel that was compiled for NEON with these products.
    fn run<K: Kernel>(token: Neon<Self>, kernel: K) -> K::Output;
    /// `acc` with `w · x` added, spread over the lanes.
    fn dot(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t;
    /// In lane `i`, `acc[i]` and the dot product of the quads `i`.
    fn dot_quads(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t;
    /// In lane `i`, `acc[i]` and the dot product of quad `LANE` of `w` and quad `i` of `x`.
    fn dot_quads_lane<const LANE: i32>(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t;
}

// SAFETY of every block below: the token proves NEON, which is all that is used.
impl Products for Widening {
    fn detect() -> Option<Self> {
        // Lanes are in the order of memory only on little-endian processors, which nearly all are.
        let found = cfg!(target_endian = "little") && is_aarch64_feature_detected!("neon");
        found.then_some(Self(()))
    }
    #[inline]
    fn run<K: Kernel>(token: Neon<Self>, kernel: K) -> K::Output {
        #[target_feature(enable = "neon")]
        fn with_features<K: Kernel>(token: Neon<Widening>, kernel: K) -> K::Output {
            kernel.run(token)
        }
        // SAFETY: `token` proves that the feature is there.
        unsafe { with_features(token, kernel) }
    }
    #[inline(always)]
    fn dot(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // Two products are at most 2 * 128 * 127 = 32,512, which fits an i16.
        // SAFETY: as above.
        unsafe {
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            vpadalq_s16(acc, vmlal_high_s8(low, w, x))
        }
    }
    #[inline(always)]
    fn dot_quads(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // Each int16 is the sum of two neighbours, which fits as above.
        // SAFETY: as above.
        unsafe {
            let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
            vpadalq_s16(acc, vpaddq_s16(low, vmull_high_s8(w, x)))
        }
    }
    #[inline(always)]
    fn dot_quads_lane<const LANE: i32>(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: as above.
        let w = unsafe { vreinterpretq_s8_s32(vdupq_laneq_s32::<LANE>(vreinterpretq_s32_s8(w))) };
        self.dot_quads(acc, w, x)
    }
}

// SAFETY of every block below: the token proves `dotprod`; `sdot` reads and writes the registers
// named and nothing else.
impl Products for Dotprod {
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
        // SAFETY: `token` proves that the features are there.
        unsafe { with_features(token, kernel) }
    }
    #[inline(always)]
    fn dot(self, acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        self.dot_quads(acc, w, x)
    }
    #[inline(always)]
    fn dot_quads(self, mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: as above.
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
    #[inline(always)]
    fn dot_quads_lane<const LANE: i32>(self, mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: as above.
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
