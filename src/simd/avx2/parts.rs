//! What several of AVX2's operations are made of, and AVX-512's.

#![allow(unsafe_code, reason = "intrinsics: the callers have the token")]

use std::arch::x86_64::*;

// These are not `#[target_feature]` functions, which can't be `#[inline(always)]` and were
// sometimes left as calls, with vectors passed through memory: 1,000 instead of 1,650 tokens/s of
// stories15M in int8.

/// In dword `i` of vector `k`, dword `k` of vector `i`, within each half.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(in crate::simd) unsafe fn transpose_dwords([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab_low, cd_low),
            _mm256_unpackhi_epi64(ab_low, cd_low),
            _mm256_unpacklo_epi64(ab_high, cd_high),
            _mm256_unpackhi_epi64(ab_high, cd_high),
        ]
    }
}

/// In lane `i`, the greatest lane of `a[i]`, as unsigned numbers.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(in crate::simd) unsafe fn max_of_each([a, b, c, d, e, f, g, h]: [__m256i; 8]) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let [a, b, c, d] = transpose_dwords([a, b, c, d]);
        let [e, f, g, h] = transpose_dwords([e, f, g, h]);
        let first = _mm256_max_epu32(_mm256_max_epu32(a, b), _mm256_max_epu32(c, d));
        let last = _mm256_max_epu32(_mm256_max_epu32(e, f), _mm256_max_epu32(g, h));
        let low_halves = _mm256_permute2x128_si256::<0x20>(first, last);
        _mm256_max_epu32(low_halves, _mm256_permute2x128_si256::<0x31>(first, last))
    }
}

/// A mask of the first `n` lanes.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(in crate::simd) unsafe fn first_lanes(n: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

/// Rounds to the nearest, ties away from zero.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(in crate::simd) unsafe fn round_away_x8(value: __m256) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        // The greatest f32 below a half: adding a half itself would carry 0.49999997 up to 1.
        let sign = _mm256_and_ps(value, _mm256_set1_ps(-0.0));
        let half = _mm256_or_ps(sign, _mm256_set1_ps(0.5f32.next_down()));
        _mm256_cvttps_epi32(_mm256_add_ps(value, half))
    }
}

/// `[0 + 4, 1 + 5, 2 + 6, 3 + 7]`
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(in crate::simd) unsafe fn halves(v: __m256) -> __m128 {
    // SAFETY: the caller's promise.
    unsafe { _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v)) }
}

/// Each vector's lanes added in the order ((0+4)+(1+5))+((2+6)+(3+7)), four vectors at a time where
/// there are four.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(in crate::simd) unsafe fn hsum_each<const N: usize>(a: [__m256; N]) -> [f32; N] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [0.0; N];
        let mut i = 0;
        while i + 4 <= N {
            let ab = _mm_hadd_ps(halves(a[i]), halves(a[i + 1]));
            let cd = _mm_hadd_ps(halves(a[i + 2]), halves(a[i + 3]));
            let four = _mm_hadd_ps(ab, cd);
            sums[i] = _mm_cvtss_f32(four);
            sums[i + 1] = _mm_cvtss_f32(_mm_movehdup_ps(four));
            sums[i + 2] = _mm_cvtss_f32(_mm_movehl_ps(four, four));
            sums[i + 3] = _mm_cvtss_f32(_mm_shuffle_ps::<0b11>(four, four));
            i += 4;
        }
        while i < N {
            let h = halves(a[i]);
            let pairs = _mm_hadd_ps(h, h);
            sums[i] = _mm_cvtss_f32(_mm_hadd_ps(pairs, pairs));
            i += 1;
        }
        sums
    }
}

/// In lane `i`, the sum of lanes 0 to 3 of `a[i]`, and that of lanes 4 to 7.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(in crate::simd) unsafe fn sum_halves_each<const SMALL: bool>(a: [__m256i; 8]) -> [__m256i; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        // After two times, a half holds four vectors' sums of that half.
        let (ab, cd) = (add_neighbours::<SMALL>(a[0], a[1]), add_neighbours::<SMALL>(a[2], a[3]));
        let (ef, gh) = (add_neighbours::<SMALL>(a[4], a[5]), add_neighbours::<SMALL>(a[6], a[7]));
        let (abcd, efgh) = (add_neighbours::<SMALL>(ab, cd), add_neighbours::<SMALL>(ef, gh));
        [_mm256_permute2x128_si256::<0x20>(abcd, efgh), _mm256_permute2x128_si256::<0x31>(abcd, efgh)]
    }
}

/// In lane `i`, the sum of lanes 0 to 3 of `a[i]` times the int8 `2i`, and that of lanes 4 to 7
/// times the int8 `2i + 1` of the first
/// 16. All sums fit int16.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(in crate::simd) unsafe fn sum_scaled_halves_each(a: [__m256i; 8], scales: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let (ab, cd) = (add_neighbours::<true>(a[0], a[1]), add_neighbours::<true>(a[2], a[3]));
        let (ef, gh) = (add_neighbours::<true>(a[4], a[5]), add_neighbours::<true>(a[6], a[7]));
        let scales = _mm256_permute2x128_si256::<0>(scales, scales);
        // Each vector has two sums of each half, and each gets the half's scale: as the high byte
        // of a word, which is then its own.
        let (first, step) = (
            _mm256_setr_epi64x(
                0x0280_0280_0080_0080,
                0x0680_0680_0480_0480,
                0x0380_0380_0180_0180,
                0x0780_0780_0580_0580,
            ),
            _mm256_set1_epi16(0x0800),
        );
        let abcd_scales = _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(scales, first));
        let efgh_scales = _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(scales, _mm256_or_si256(first, step)));
        let abcd = _mm256_madd_epi16(_mm256_packs_epi32(ab, cd), abcd_scales);
        let efgh = _mm256_madd_epi16(_mm256_packs_epi32(ef, gh), efgh_scales);
        let low = _mm256_permute2x128_si256::<0x20>(abcd, efgh);
        _mm256_add_epi32(low, _mm256_permute2x128_si256::<0x31>(abcd, efgh))
    }
}

/// Sums of neighbours in 128 bits: two of `a`, then two of `b`. `SMALL` says that all fit int16;
/// then they are added by a multiplication with 1, in two operations. (A hadd takes four, which
/// made Q4_0 a third slower.)
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(in crate::simd) unsafe fn add_neighbours<const SMALL: bool>(a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        if SMALL {
            return _mm256_madd_epi16(_mm256_packs_epi32(a, b), _mm256_set1_epi16(1));
        }
        let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
        let even = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
        let odd = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
        _mm256_add_epi32(even, odd)
    }
}

/// 16 bytes from one place, then 16 from another.
///
/// # Safety
/// The processor has AVX2; both can be read.
#[inline(always)]
pub(in crate::simd) unsafe fn load_two(first: *const u8, second: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let first = _mm256_castsi128_si256(_mm_loadu_si128(first.cast()));
        _mm256_inserti128_si256::<1>(first, _mm_loadu_si128(second.cast()))
    }
}

/// The low halves of 16 bytes, then their high halves.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
pub(in crate::simd) unsafe fn nibbles(bytes: __m128i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let shifted = _mm256_srlv_epi64(_mm256_broadcastsi128_si256(bytes), _mm256_setr_epi64x(0, 0, 4, 4));
        _mm256_and_si256(shifted, _mm256_set1_epi8(15))
    }
}
