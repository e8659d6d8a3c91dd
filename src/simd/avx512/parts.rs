//! What several operations on 512 bits are made of.

use std::arch::x86_64::*;

use super::super::x86::memory::{load_128, load_512};

/// A number in all lanes of the first block of a pair, and another in those of the second.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn each_block(first: i64, second: i64) -> __m512i {
    _mm512_setr_epi64(first, first, first, first, second, second, second, second)
}

/// The two halves.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) fn split(a: __m512i) -> [__m256i; 2] {
    [_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64::<1>(a)]
}

/// The sum of the two halves.
#[target_feature(enable = "avx2,avx512f")]
#[inline]
pub(super) fn add_split(a: __m512i) -> __m256i {
    let [low, high] = split(a);
    _mm256_add_epi32(low, high)
}

/// Sums of neighbors in 128 bits: two of `a`, then two of `b`. `SMALL` says that all fit int16.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn add_neighbors<const SMALL: bool>(a: __m512i, b: __m512i) -> __m512i {
    if SMALL {
        return _mm512_madd_epi16(_mm512_packs_epi32(a, b), _mm512_set1_epi16(1));
    }
    let (a, b) = (_mm512_castsi512_ps(a), _mm512_castsi512_ps(b));
    let even = _mm512_castps_si512(_mm512_shuffle_ps::<0b10_00_10_00>(a, b));
    let odd = _mm512_castps_si512(_mm512_shuffle_ps::<0b11_01_11_01>(a, b));
    _mm512_add_epi32(even, odd)
}

/// The low and the high halves of some bytes, and then those of others.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn nibbles([a, b]: [__m512i; 2]) -> [__m512i; 4] {
    let (low, high_a, high_b) = (_mm512_set1_epi8(15), _mm512_srli_epi16::<4>(a), _mm512_srli_epi16::<4>(b));
    [
        _mm512_and_si512(a, low),
        _mm512_and_si512(high_a, low),
        _mm512_and_si512(b, low),
        _mm512_and_si512(high_b, low),
    ]
}

/// 16 bytes from each of bytes 0, `STRIDE`, 2 `STRIDE` and 3 `STRIDE` on. Panics if there are
/// fewer.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn load_rows_of_16<const STRIDE: usize>(from: &[u8]) -> __m512i {
    /// The words to take: those from 32 on are of 64 bytes that end with the last row.
    const fn order(stride: usize) -> [i16; 32] {
        assert!(stride.is_multiple_of(2) && 16 <= stride && stride <= 37);
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            let at = i / 8 * stride + i % 8 * 2;
            order[i] = (if at < 64 { at / 2 } else { 32 + (at + 48 - 3 * stride) / 2 }) as i16;
            i += 1;
        }
        order
    }
    let first = load_512(from);
    if STRIDE == 16 {
        return first;
    }
    if STRIDE == 17 {
        // Rows begin in the middle of words.
        let (a, b) = (_mm512_castsi128_si512(load_128(from)), load_128(&from[STRIDE..]));
        let (c, d) = (load_128(&from[2 * STRIDE..]), load_128(&from[3 * STRIDE..]));
        let ab = _mm512_inserti32x4::<1>(a, b);
        return _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(ab, c), d);
    }
    let order = const { order(if STRIDE == 17 { 16 } else { STRIDE }) };
    _mm512_permutex2var_epi16(first, load_512(&order), load_512(&from[3 * STRIDE - 48..]))
}
