//! What differs between the levels of NEON: products of int8.

use std::arch::aarch64::*;

use super::super::Kernel;
use super::Neon;

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
