//! Operations that are several intrinsics, or that have none.

use std::arch::aarch64::*;
use std::arch::asm;

/// In lane `i`, the sum of the lanes of `a[i]`.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
pub(super) unsafe fn sum_i32x4_each([a, b, c, d, e, f, g, h]: [int32x4_t; 8]) -> int32x4x2_t {
    // Each addp adds neighbours; after two, four vectors' sums stand side by side.
    // SAFETY: the caller's promise.
    unsafe {
        let four = |a, b, c, d| vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
        int32x4x2_t(four(a, b, c, d), four(e, f, g, h))
    }
}

/// In quad `i` of the halves of vector `k`, quad `k` of `first[i]` and `second[i]`.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
pub(super) unsafe fn transpose_4x4_twice(first: [int8x16_t; 4], second: [int8x16_t; 4]) -> [int8x16x2_t; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let [a, b, c, d] = transpose_4x4(first);
        let [e, f, g, h] = transpose_4x4(second);
        [int8x16x2_t(a, e), int8x16x2_t(b, f), int8x16x2_t(c, g), int8x16x2_t(d, h)]
    }
}

/// In quad `i` of vector `k`, quad `k` of `rows[i]`.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
unsafe fn transpose_4x4([a, b, c, d]: [int8x16_t; 4]) -> [int8x16_t; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let quads = |v| vreinterpretq_s32_s8(v);
        let pairs = |v| vreinterpretq_s64_s32(v);
        let (ab_even, ab_odd) = (vtrn1q_s32(quads(a), quads(b)), vtrn2q_s32(quads(a), quads(b)));
        let (cd_even, cd_odd) = (vtrn1q_s32(quads(c), quads(d)), vtrn2q_s32(quads(c), quads(d)));
        let low = |ab, cd| vreinterpretq_s8_s64(vtrn1q_s64(pairs(ab), pairs(cd)));
        let high = |ab, cd| vreinterpretq_s8_s64(vtrn2q_s64(pairs(ab), pairs(cd)));
        [low(ab_even, cd_even), low(ab_odd, cd_odd), high(ab_even, cd_even), high(ab_odd, cd_odd)]
    }
}

/// 8 int8 as int32.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
pub(super) unsafe fn widen_i8(bytes: int8x8_t) -> int32x4x2_t {
    // SAFETY: the caller's promise.
    unsafe {
        let words = vmovl_s8(bytes);
        int32x4x2_t(vmovl_s16(vget_low_s16(words)), vmovl_high_s16(words))
    }
}

/// In each lane, the dot product of two int16 and two others.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
pub(super) unsafe fn madd_i16(a: int32x4_t, b: int32x4_t) -> int32x4_t {
    // SAFETY: the caller's promise.
    unsafe {
        let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
        vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b))
    }
}

/// 8 half-precision numbers as f32.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
pub(super) unsafe fn widen_f16(halves: uint16x8_t) -> float32x4x2_t {
    let (low, high);
    // SAFETY: the caller's promise; both instructions read and write the registers named and
    // nothing else.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {halves:v}.4h",
            low = lateout(vreg) low,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
        asm!(
            "fcvtl2 {high:v}.4s, {halves:v}.8h",
            high = lateout(vreg) high,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    float32x4x2_t(low, high)
}

/// Fewer than 4 elements, and then zeros.
///
/// # Safety
/// The processor has NEON. There are fewer than 4 elements.
#[inline(always)]
pub(super) unsafe fn load_below_4(from: &[f32]) -> float32x4_t {
    let p = from.as_ptr();
    // SAFETY: the caller's promise; each arm reads as many elements as there are.
    unsafe {
        let two = |p| vcombine_f32(vld1_f32(p), vdup_n_f32(0.0));
        match from.len() {
            0 => vdupq_n_f32(0.0),
            1 => vld1q_lane_f32::<0>(p, vdupq_n_f32(0.0)),
            2 => two(p),
            _ => vld1q_lane_f32::<2>(p.add(2), two(p)),
        }
    }
}

/// Writes as many elements as there is room for, which is fewer than 4.
///
/// # Safety
/// The processor has NEON. There is room for fewer than 4.
#[inline(always)]
pub(super) unsafe fn store_below_4(value: float32x4_t, to: &mut [f32]) {
    let p = to.as_mut_ptr();
    // SAFETY: the caller's promise; each arm writes as many elements as there is room for.
    unsafe {
        match to.len() {
            0 => {}
            1 => vst1q_lane_f32::<0>(p, value),
            2 => vst1_f32(p, vget_low_f32(value)),
            _ => {
                vst1_f32(p, vget_low_f32(value));
                vst1q_lane_f32::<2>(p.add(2), value);
            }
        }
    }
}
