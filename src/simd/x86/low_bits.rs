//! What looking weights up takes, on AVX2 and AVX-512.

#![allow(unsafe_code, reason = "functions that ask for AVX2: the token proves it")]

use std::arch::x86_64::*;

use super::HasAvx2;
use crate::simd::LowBitKernels;
use crate::simd::features::target_feature_impl;

target_feature_impl! {
    "avx2,fma,f16c"
    impl<T: HasAvx2> LowBitKernels for T {
        {}
        fn bytes_of_words(words: [u64; 4]) -> __m256i {
            let [a, b, c, d] = words;
            _mm256_setr_epi64x(a as i64, b as i64, c as i64, d as i64)
        }
        fn bytes_of_dwords(words: [u32; 8]) -> __m256i {
            let [a, b, c, d] = [words[0] as i32, words[1] as i32, words[2] as i32, words[3] as i32];
            let [e, f, g, h] = [words[4] as i32, words[5] as i32, words[6] as i32, words[7] as i32];
            _mm256_setr_epi32(a, b, c, d, e, f, g, h)
        }
        fn add_u8x32(a: __m256i, b: __m256i) -> __m256i {
            _mm256_add_epi8(a, b)
        }
        fn negate(a: __m256i, mask: __m256i) -> __m256i {
            _mm256_sub_epi8(_mm256_xor_si256(a, mask), mask)
        }
        fn first_trit(a: __m256i) -> __m256i {
            // Averages round up: a third of the bytes above 0 less 1 is what they make 0.75 of.
            let less = _mm256_subs_epu8(a, _mm256_set1_epi8(1));
            let half = _mm256_avg_epu8(less, _mm256_setzero_si256());
            let quarters = _mm256_avg_epu8(less, half);
            _mm256_and_si256(_mm256_srli_epi16::<6>(quarters), _mm256_set1_epi8(3))
        }
    }
}
