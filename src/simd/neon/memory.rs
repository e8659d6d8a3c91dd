//! Loads and stores: the operations that take pointers. Slices go in, so that what they prove is
//! proved here.

use std::arch::aarch64::*;
use std::arch::asm;

use crate::storage::Plain;

/// The first 16 bytes. Panics if there are fewer.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn load_128<T: Plain>(from: &[T]) -> uint8x16_t {
    const { assert!(16 % size_of::<T>() == 0) };
    let from = &from[..16 / size_of::<T>()];
    // SAFETY: `from` is 16 bytes that may be read, and a load of bytes takes any address.
    unsafe { vld1q_u8(from.as_ptr().cast()) }
}

/// Writes 16 bytes. Panics if there is space for fewer.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn store_128<T: Plain>(value: uint8x16_t, to: &mut [T]) {
    const { assert!(16 % size_of::<T>() == 0) };
    let to = &mut to[..16 / size_of::<T>()];
    // SAFETY: `to` is 16 bytes that may be written, any bits are `T`s, and a store of bytes takes
    // any address.
    unsafe { vst1q_u8(to.as_mut_ptr().cast(), value) }
}

/// The first 16 bytes as int8.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn load_i8x16<T: Plain>(from: &[T]) -> int8x16_t {
    vreinterpretq_s8_u8(load_128(from))
}

/// The first 16 bytes as f32.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn load_f32x4<T: Plain>(from: &[T]) -> float32x4_t {
    vreinterpretq_f32_u8(load_128(from))
}

/// The first 8 half-precision numbers or bfloat16.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn load_u16x8(from: &[u16]) -> uint16x8_t {
    vreinterpretq_u16_u8(load_128(from))
}

/// All of `from`, which has fewer than 4 elements, and then zeros.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn load_below_4(from: &[f32]) -> float32x4_t {
    let mut lanes = vdupq_n_f32(0.0);
    if let Some(&first) = from.first() {
        lanes = vsetq_lane_f32::<0>(first, lanes);
    }
    if let Some(&second) = from.get(1) {
        lanes = vsetq_lane_f32::<1>(second, lanes);
    }
    if let Some(&third) = from.get(2) {
        lanes = vsetq_lane_f32::<2>(third, lanes);
    }
    lanes
}

/// Writes as many elements as `to` has, which is fewer than 4.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn store_below_4(value: float32x4_t, to: &mut [f32]) {
    let lanes = [vgetq_lane_f32::<0>(value), vgetq_lane_f32::<1>(value), vgetq_lane_f32::<2>(value)];
    to.copy_from_slice(&lanes[..to.len()]);
}

/// Has the cache fetch a line, into the nearest cache: to be kept, or not if it is used `ONCE`.
#[inline(always)]
pub(super) fn prefetch<const ONCE: bool>(line: *const u8) {
    // SAFETY: a prefetch is a hint, which reads nothing that the program sees and faults at no
    // address.
    unsafe {
        if ONCE {
            asm!("prfm pldl1strm, [{0}]", in(reg) line, options(nostack, preserves_flags, readonly));
        } else {
            asm!("prfm pldl1keep, [{0}]", in(reg) line, options(nostack, preserves_flags, readonly));
        }
    }
}
