//! Loads and stores: the only operations that take pointers. Slices go in, so that what they prove
//! is proved here.

use std::arch::x86_64::*;

use crate::storage::Plain;

/// The first 8 bytes, and zeros. Panics if there are fewer.
#[target_feature(enable = "sse2")]
#[inline]
pub(in crate::simd) fn load_64<T: Plain>(from: &[T]) -> __m128i {
    const { assert!(8 % size_of::<T>() == 0) };
    let from = &from[..8 / size_of::<T>()];
    // SAFETY: `from` is 8 bytes that may be read, and `loadl` takes any address.
    unsafe { _mm_loadl_epi64(from.as_ptr().cast()) }
}

/// The first 16 bytes. Panics if there are fewer.
#[target_feature(enable = "sse2")]
#[inline]
pub(in crate::simd) fn load_128<T: Plain>(from: &[T]) -> __m128i {
    const { assert!(16 % size_of::<T>() == 0) };
    let from = &from[..16 / size_of::<T>()];
    // SAFETY: `from` is 16 bytes that may be read, and `loadu` takes any address.
    unsafe { _mm_loadu_si128(from.as_ptr().cast()) }
}

/// The first 32 bytes. Panics if there are fewer.
#[target_feature(enable = "avx")]
#[inline]
pub(in crate::simd) fn load_256<T: Plain>(from: &[T]) -> __m256i {
    const { assert!(32 % size_of::<T>() == 0) };
    let from = &from[..32 / size_of::<T>()];
    // SAFETY: `from` is 32 bytes that may be read, and `loadu` takes any address.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

/// The first 64 bytes. Panics if there are fewer.
#[target_feature(enable = "avx512f")]
#[inline]
pub(in crate::simd) fn load_512<T: Plain>(from: &[T]) -> __m512i {
    const { assert!(64 % size_of::<T>() == 0) };
    let from = &from[..64 / size_of::<T>()];
    // SAFETY: `from` is 64 bytes that may be read, and `loadu` takes any address.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

/// Writes 16 bytes. Panics if there is space for fewer.
#[target_feature(enable = "sse2")]
#[inline]
pub(in crate::simd) fn store_128<T: Plain>(value: __m128i, to: &mut [T]) {
    const { assert!(16 % size_of::<T>() == 0) };
    let to = &mut to[..16 / size_of::<T>()];
    // SAFETY: `to` is 16 bytes that may be written, any bits are `T`s, and `storeu` takes any
    // address.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), value) }
}

/// Writes 32 bytes. Panics if there is space for fewer.
#[target_feature(enable = "avx")]
#[inline]
pub(in crate::simd) fn store_256<T: Plain>(value: __m256i, to: &mut [T]) {
    const { assert!(32 % size_of::<T>() == 0) };
    let to = &mut to[..32 / size_of::<T>()];
    // SAFETY: `to` is 32 bytes that may be written, any bits are `T`s, and `storeu` takes any
    // address.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), value) }
}

/// Writes 64 bytes. Panics if there is space for fewer.
#[target_feature(enable = "avx512f")]
#[inline]
pub(in crate::simd) fn store_512<T: Plain>(value: __m512i, to: &mut [T]) {
    const { assert!(64 % size_of::<T>() == 0) };
    let to = &mut to[..64 / size_of::<T>()];
    // SAFETY: `to` is 64 bytes that may be written, any bits are `T`s, and `storeu` takes any
    // address.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), value) }
}

/// The first 16 bytes of each of eight rows, which begin `stride` elements apart. Panics if there
/// are fewer. (Not a function with features: that was left as a call.)
#[inline(always)]
pub(in crate::simd) fn load_rows<T: Plain>(from: &[T], stride: usize) -> [__m128i; 8] {
    const { assert!(16 % size_of::<T>() == 0) };
    assert!(stride <= usize::MAX / 8 - 16);
    let from = &from[..7 * stride + 16 / size_of::<T>()];
    // SAFETY: the intrinsics are of SSE2, which every x86-64 processor has. `i` is at most 7, so a
    // row's 16 bytes begin `7 * stride` elements after the slice's start or earlier, and end where
    // it ends or before; by the assertion, neither number wraps. `loadu` takes any address.
    unsafe {
        let mut rows = [_mm_setzero_si128(); 8];
        for i in 0..8 {
            rows[i] = _mm_loadu_si128(from.as_ptr().add(i * stride).cast());
        }
        rows
    }
}

/// Has the cache fetch a line.
#[target_feature(enable = "sse")]
#[inline]
#[allow(unused_unsafe, reason = "newer compilers know that it is safe")]
pub(in crate::simd) fn prefetch<const HINT: i32>(line: *const u8) {
    // SAFETY: a prefetch is a hint, which reads nothing that the program sees and faults at no
    // address.
    unsafe { _mm_prefetch::<HINT>(line.cast()) }
}
