//! What several operations on 256 bits are made of.

use std::arch::x86_64::*;

/// In dword `i` of vector `k`, dword `k` of vector `i`, within each half.
#[target_feature(enable = "avx2")]
#[inline]
pub(in crate::simd) fn transpose_dwords([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab_low, cd_low),
        _mm256_unpackhi_epi64(ab_low, cd_low),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// In lane `i`, the greatest lane of `a[i]`, as unsigned numbers.
#[target_feature(enable = "avx2")]
#[inline]
pub(in crate::simd) fn max_of_each([a, b, c, d, e, f, g, h]: [__m256i; 8]) -> __m256i {
    let [a, b, c, d] = transpose_dwords([a, b, c, d]);
    let [e, f, g, h] = transpose_dwords([e, f, g, h]);
    let first = _mm256_max_epu32(_mm256_max_epu32(a, b), _mm256_max_epu32(c, d));
    let last = _mm256_max_epu32(_mm256_max_epu32(e, f), _mm256_max_epu32(g, h));
    let low_halves = _mm256_permute2x128_si256::<0x20>(first, last);
    _mm256_max_epu32(low_halves, _mm256_permute2x128_si256::<0x31>(first, last))
}

/// A mask of the first `n` lanes.
#[target_feature(enable = "avx2")]
#[inline]
pub(in crate::simd) fn first_lanes(n: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// Rounds to the nearest, ties away from zero.
#[target_feature(enable = "avx2")]
#[inline]
pub(in crate::simd) fn round_away_x8(value: __m256) -> __m256i {
    // The greatest f32 below a half: adding a half itself would carry 0.49999997 up to 1.
    let sign = _mm256_and_ps(value, _mm256_set1_ps(-0.0));
    let half = _mm256_or_ps(sign, _mm256_set1_ps(0.5f32.next_down()));
    _mm256_cvttps_epi32(_mm256_add_ps(value, half))
}

/// `[0 + 4, 1 + 5, 2 + 6, 3 + 7]`
#[target_feature(enable = "avx2")]
#[inline]
pub(in crate::simd) fn halves(v: __m256) -> __m128 {
    _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v))
}

/// Sums of neighbors in 128 bits: two of `a`, then two of `b`. `SMALL` says that all fit int16;
/// then they are added by a multiplication with 1, in two operations where a `hadd` takes four.
#[target_feature(enable = "avx2")]
#[inline]
pub(in crate::simd) fn add_neighbors<const SMALL: bool>(a: __m256i, b: __m256i) -> __m256i {
    if SMALL {
        return _mm256_madd_epi16(_mm256_packs_epi32(a, b), _mm256_set1_epi16(1));
    }
    let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
    let even = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
    let odd = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
    _mm256_add_epi32(even, odd)
}

/// The low halves of 16 bytes, then their high halves.
#[target_feature(enable = "avx2")]
#[inline]
pub(in crate::simd) fn nibbles(bytes: __m128i) -> __m256i {
    let shifted = _mm256_srlv_epi64(_mm256_broadcastsi128_si256(bytes), _mm256_setr_epi64x(0, 0, 4, 4));
    _mm256_and_si256(shifted, _mm256_set1_epi8(15))
}
