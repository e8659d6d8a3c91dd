//! What looking weights up takes, on AVX2 and AVX-512.

#![allow(unsafe_code, reason = "functions that ask for AVX2: the token proves it")]

use std::arch::x86_64::*;

use super::HasAvx2;
use super::memory::{load_128, store_256};
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
        fn as_i32x8(a: __m256i) -> __m256i {
            a
        }
        fn as_i8x32(a: __m256i) -> __m256i {
            a
        }
        fn widen_u16x8(from: &[u8]) -> __m256i {
            _mm256_cvtepu16_epi32(load_128(from))
        }
        fn shr_u32x8<const N: u32>(a: __m256i) -> __m256i {
            _mm256_srl_epi32(a, _mm_cvtsi32_si128(N as i32))
        }
        fn odd_dwords(a: __m256i, b: __m256i) -> __m256i {
            let (a, b) = (_mm256_castsi256_ps(a), _mm256_castsi256_ps(b));
            let odd = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
            _mm256_permute4x64_epi64::<0b11_01_10_00>(odd)
        }
        fn odd_bytes(a: __m256i, b: __m256i) -> __m256i {
            let odd = _mm256_packus_epi16(_mm256_srli_epi16::<8>(a), _mm256_srli_epi16::<8>(b));
            _mm256_permute4x64_epi64::<0b11_01_10_00>(odd)
        }
        fn spread_bits<const N: u32>(a: __m256i) -> __m256i {
            let mask = (1 << N) - 1;
            let by = 8 - N as i32;
            let first = _mm256_and_si256(a, _mm256_set1_epi32(mask));
            let second = _mm256_sll_epi32(a, _mm_cvtsi32_si128(by));
            let second = _mm256_and_si256(second, _mm256_set1_epi32(mask << 8));
            let third = _mm256_sll_epi32(a, _mm_cvtsi32_si128(2 * by));
            let third = _mm256_and_si256(third, _mm256_set1_epi32(mask << 16));
            let fourth = _mm256_sll_epi32(a, _mm_cvtsi32_si128(3 * by));
            let fourth = _mm256_and_si256(fourth, _mm256_set1_epi32(mask << 24));
            _mm256_or_si256(_mm256_or_si256(first, second), _mm256_or_si256(third, fourth))
        }
        fn with_parity(a: __m256i) -> __m256i {
            // 128 for each half byte with an odd number of bits.
            let odd = _mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0);
            let odd = _mm256_broadcastsi128_si256(odd);
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(a), _mm256_set1_epi8(15));
            let parity = _mm256_xor_si256(_mm256_shuffle_epi8(odd, a), _mm256_shuffle_epi8(odd, high));
            _mm256_or_si256(a, parity)
        }
        fn spread_nibbles(from: &[u8]) -> __m256i {
            let words = _mm256_cvtepu8_epi16(load_128(from));
            let both = _mm256_or_si256(words, _mm256_slli_epi16::<4>(words));
            _mm256_and_si256(both, _mm256_set1_epi8(15))
        }
        fn zip_bytes(low: __m256i, high: __m256i) -> [u16; 32] {
            // Neighboring words in one half for what zips the low and the high ones of each half.
            let low = _mm256_permute4x64_epi64::<0b11_01_10_00>(low);
            let high = _mm256_permute4x64_epi64::<0b11_01_10_00>(high);
            let mut numbers = [0; 32];
            store_256(_mm256_unpacklo_epi8(low, high), &mut numbers[..16]);
            store_256(_mm256_unpackhi_epi8(low, high), &mut numbers[16..]);
            numbers
        }
        fn repeat_place(a: __m256i, v: usize) -> __m256i {
            let places = _mm256_setr_epi64x(0, 0x0404_0404_0404_0404, 0, 0x0404_0404_0404_0404);
            let first = _mm256_set1_epi8((v / 4 * 8 + v % 4) as i8);
            _mm256_shuffle_epi8(a, _mm256_add_epi8(places, first))
        }
        fn mask_of_bits(a: __m256i) -> __m256i {
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            _mm256_cmpeq_epi8(_mm256_and_si256(a, bit), bit)
        }
        fn transpose_words(vectors: [__m256i; 4]) -> [__m256i; 4] {
            let [a, b, c, d] = vectors;
            let (ab_even, ab_odd) = (_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
            let (cd_even, cd_odd) = (_mm256_unpacklo_epi64(c, d), _mm256_unpackhi_epi64(c, d));
            [
                _mm256_permute2x128_si256::<0x20>(ab_even, cd_even),
                _mm256_permute2x128_si256::<0x20>(ab_odd, cd_odd),
                _mm256_permute2x128_si256::<0x31>(ab_even, cd_even),
                _mm256_permute2x128_si256::<0x31>(ab_odd, cd_odd),
            ]
        }
        fn add_u8x32(a: __m256i, b: __m256i) -> __m256i {
            _mm256_add_epi8(a, b)
        }
        fn negate(a: __m256i, mask: __m256i) -> __m256i {
            _mm256_sub_epi8(_mm256_xor_si256(a, mask), mask)
        }
        fn trits(a: __m256i, b: __m256i) -> __m256i {
            // As the high byte of a word, a product is modulo 256; three times that byte has the
            // digit in the high byte again. (Words times 3, of which the high half is the digit,
            // became additions of dwords.)
            let (high_bytes, three) = (_mm256_set1_epi16(-256), _mm256_set1_epi16(0x300));
            let digit = |a, b| _mm256_maddubs_epi16(_mm256_mullo_epi16(a, b), three);
            let even = digit(_mm256_slli_epi16::<8>(a), b);
            let odd = digit(_mm256_and_si256(a, high_bytes), _mm256_srli_epi16::<8>(b));
            _mm256_or_si256(_mm256_srli_epi16::<8>(even), _mm256_and_si256(odd, high_bytes))
        }
    }
}
