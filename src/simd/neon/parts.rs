//! Operations that are several intrinsics, or that have none.

use std::arch::aarch64::*;
use std::arch::asm;

/// In lane `i`, the sum of the lanes of `a[i]`.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn sum_registers([a, b, c, d, e, f, g, h]: [int32x4_t; 8]) -> int32x4x2_t {
    // Each addp adds neighbors; after two, four vectors' sums stand side by side.
    let (ab, cd) = (vpaddq_s32(a, b), vpaddq_s32(c, d));
    let (ef, gh) = (vpaddq_s32(e, f), vpaddq_s32(g, h));
    int32x4x2_t(vpaddq_s32(ab, cd), vpaddq_s32(ef, gh))
}

/// In quad `g` of vector `k`, quad `k` of row `g`, where the first four rows make the first halves
/// of vectors.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn transpose_rows(rows: [int8x16_t; 8]) -> [int8x16x2_t; 4] {
    let [a, b, c, d, e, f, g, h] = rows;
    let [a, b, c, d] = transpose_4x4([a, b, c, d]);
    let [e, f, g, h] = transpose_4x4([e, f, g, h]);
    [int8x16x2_t(a, e), int8x16x2_t(b, f), int8x16x2_t(c, g), int8x16x2_t(d, h)]
}

/// In quad `i` of vector `k`, quad `k` of `rows[i]`.
#[target_feature(enable = "neon")]
#[inline]
fn transpose_4x4([a, b, c, d]: [int8x16_t; 4]) -> [int8x16_t; 4] {
    let quads = |v| vreinterpretq_s32_s8(v);
    let pairs = |v| vreinterpretq_s64_s32(v);
    let (ab_even, ab_odd) = (vtrn1q_s32(quads(a), quads(b)), vtrn2q_s32(quads(a), quads(b)));
    let (cd_even, cd_odd) = (vtrn1q_s32(quads(c), quads(d)), vtrn2q_s32(quads(c), quads(d)));
    let low = |ab, cd| vreinterpretq_s8_s64(vtrn1q_s64(pairs(ab), pairs(cd)));
    let high = |ab, cd| vreinterpretq_s8_s64(vtrn2q_s64(pairs(ab), pairs(cd)));
    [low(ab_even, cd_even), low(ab_odd, cd_odd), high(ab_even, cd_even), high(ab_odd, cd_odd)]
}

/// 8 int8 as int32.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn widen_i8(bytes: int8x8_t) -> int32x4x2_t {
    let words = vmovl_s8(bytes);
    int32x4x2_t(vmovl_s16(vget_low_s16(words)), vmovl_high_s16(words))
}

/// In each lane, the dot product of two int16 and two others.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn madd_i16x8(a: int32x4_t, b: int32x4_t) -> int32x4_t {
    let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
    vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b))
}

/// `[0 + 4, 1 + 5, 2 + 6, 3 + 7]`
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn halves(v: float32x4x2_t) -> float32x4_t {
    vaddq_f32(v.0, v.1)
}

/// 8 half-precision numbers as f32.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn widen_f16(numbers: uint16x8_t) -> float32x4x2_t {
    let (low, high);
    // SAFETY: both instructions are NEON's, which this function has, and read and write the
    // registers named and nothing else.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {numbers:v}.4h",
            low = lateout(vreg) low,
            numbers = in(vreg) numbers,
            options(pure, nomem, nostack, preserves_flags),
        );
        asm!(
            "fcvtl2 {high:v}.4s, {numbers:v}.8h",
            high = lateout(vreg) high,
            numbers = in(vreg) numbers,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    float32x4x2_t(low, high)
}
