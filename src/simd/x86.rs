//! Vectors of 256 bits, which AVX2 and AVX-512 have in common.

#![allow(unsafe_code, reason = "intrinsics that take pointers; tokens prove the instruction set")]

use std::arch::x86_64::*;

mod low_bits;
pub(super) mod memory;
pub(super) mod parts;

use self::memory::{load_128, load_256, load_rows, store_256};
use self::parts::{add_neighbors, first_lanes, halves, nibbles, transpose_dwords};
use super::features::target_feature_impl;
use super::{BlockKernels, Byte, Number, Simd256};

/// A token that proves AVX2, FMA and F16C.
///
/// # Safety
/// A value proves that the processor has AVX2, FMA and F16C.
pub(super) unsafe trait HasAvx2: Copy + Send + Sync + 'static {}

target_feature_impl! {
    "avx2,fma,f16c"
    impl<T: HasAvx2> Simd256 for T {
        {
            type I8x32 = __m256i;
            type I32x8 = __m256i;
            type F32x8 = __m256;
        }
        fn load_bytes(from: &[impl Byte]) -> __m256i {
            load_256(from)
        }
        fn splat_u8x32(value: u8) -> __m256i {
            _mm256_set1_epi8(value as i8)
        }
        fn store_bytes(value: __m256i, to: &mut [impl Byte]) {
            store_256(value, to);
        }
        fn shr_mask<const SHIFT: u32>(a: __m256i, mask: u8) -> __m256i {
            let shifted = _mm256_srl_epi16(a, _mm_cvtsi32_si128(SHIFT as i32));
            _mm256_and_si256(shifted, _mm256_set1_epi8(mask as i8))
        }
        fn shl_mask<const SHIFT: u32>(a: __m256i, mask: u8) -> __m256i {
            let masked = _mm256_and_si256(a, _mm256_set1_epi8(mask as i8));
            _mm256_sll_epi16(masked, _mm_cvtsi32_si128(SHIFT as i32))
        }
        fn and_u8x32(a: __m256i, b: __m256i) -> __m256i {
            _mm256_and_si256(a, b)
        }
        fn or_u8x32(a: __m256i, b: __m256i) -> __m256i {
            _mm256_or_si256(a, b)
        }
        fn shuffle(table: &[i8; 16], a: __m256i) -> __m256i {
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_128(table)), a)
        }
        fn load_i32x8(from: &[i32]) -> __m256i {
            load_256(from)
        }
        fn store_i32x8(a: __m256i, to: &mut [i32]) {
            store_256(a, to);
        }
        fn zero_i32x8() -> __m256i {
            _mm256_setzero_si256()
        }
        fn add_i32x8(a: __m256i, b: __m256i) -> __m256i {
            _mm256_add_epi32(a, b)
        }
        fn sub_shifted_i32x8(a: __m256i, b: __m256i, n: u32) -> __m256i {
            _mm256_sub_epi32(a, _mm256_sll_epi32(b, _mm_cvtsi32_si128(n as i32)))
        }
        fn madd_i16_x8(a: __m256i, b: __m256i) -> __m256i {
            _mm256_madd_epi16(a, b)
        }
        fn splat_x8(value: f32) -> __m256 {
            _mm256_set1_ps(value)
        }
        fn splat_f16_x8(bits: u16) -> __m256 {
            _mm256_cvtph_ps(_mm_set1_epi16(bits as i16))
        }
        fn load_x8(from: &[f32]) -> __m256 {
            _mm256_castsi256_ps(load_256(from))
        }
        fn store_x8(a: __m256, to: &mut [f32]) {
            store_256(_mm256_castps_si256(a), to);
        }
        fn from_array(lanes: [f32; 8]) -> __m256 {
            let [a, b, c, d, e, f, g, h] = lanes;
            _mm256_setr_ps(a, b, c, d, e, f, g, h)
        }
        fn to_f32x8(a: __m256i) -> __m256 {
            _mm256_cvtepi32_ps(a)
        }
        fn add_x8(a: __m256, b: __m256) -> __m256 {
            _mm256_add_ps(a, b)
        }
        fn mul_x8(a: __m256, b: __m256) -> __m256 {
            _mm256_mul_ps(a, b)
        }
        fn mul_add_x8(a: __m256, b: __m256, c: __m256) -> __m256 {
            _mm256_fmadd_ps(a, b, c)
        }
        fn hsum(a: __m256) -> f32 {
            let four = halves(a);
            let pairs = _mm_hadd_ps(four, four);
            _mm_cvtss_f32(_mm_hadd_ps(pairs, pairs))
        }
        fn hsum_4(a: [__m256; 4]) -> [f32; 4] {
            let ab = _mm_hadd_ps(halves(a[0]), halves(a[1]));
            let sums = _mm_hadd_ps(ab, _mm_hadd_ps(halves(a[2]), halves(a[3])));
            let (second, third) = (_mm_movehdup_ps(sums), _mm_movehl_ps(sums, sums));
            let fourth = _mm_shuffle_ps::<0b11>(sums, sums);
            [_mm_cvtss_f32(sums), _mm_cvtss_f32(second), _mm_cvtss_f32(third), _mm_cvtss_f32(fourth)]
        }
        fn prefetch(line: *const u8) {
            memory::prefetch::<_MM_HINT_T0>(line);
        }
        fn prefetch_nta(line: *const u8) {
            memory::prefetch::<_MM_HINT_NTA>(line);
        }
    }
}

target_feature_impl! {
    "avx2,fma,f16c"
    impl<T: HasAvx2> BlockKernels for T {
        {
            #[inline(always)]
            fn transpose_16x8(self, from: &[impl Byte], stride: usize) -> [__m256i; 4] {
                self.transpose_rows(load_rows(from, stride))
            }
            #[inline(always)]
            fn transpose_f32_8x4(self, from: &[impl Number], stride: usize) -> [__m256; 4] {
                self.cast_to_f32(self.transpose_rows(load_rows(from, stride)))
            }
            #[inline(always)]
            fn sum_halves_each<const SMALL: bool>(self, a: [__m256i; 8]) -> [__m256i; 2] {
                // After two times, a half holds four vectors' sums of that half.
                let first = self.add_neighbors_twice::<SMALL>([a[0], a[1], a[2], a[3]]);
                self.join_halves(first, self.add_neighbors_twice::<SMALL>([a[4], a[5], a[6], a[7]]))
            }
            #[inline(always)]
            fn sum_scaled_halves_each(self, a: [__m256i; 8], scales: __m256i) -> __m256i {
                let first = self.sum_scaled_neighbors::<0>([a[0], a[1], a[2], a[3]], scales);
                let second = self.sum_scaled_neighbors::<1>([a[4], a[5], a[6], a[7]], scales);
                let [low, high] = self.join_halves(first, second);
                self.add_i32x8(low, high)
            }
        }
        fn load_nibbles(from: &[u8]) -> __m256i {
            nibbles(load_128(from))
        }
        fn splat_u128(a: u128) -> __m256i {
            _mm256_broadcastsi128_si256(_mm_set_epi64x((a >> 64) as i64, a as i64))
        }
        fn mul_u8x32(a: __m256i, b: __m256i) -> __m256i {
            // The low byte of a product of words is that of their low bytes.
            let even = _mm256_mullo_epi16(a, b);
            let odd = _mm256_mullo_epi16(_mm256_srli_epi16::<8>(a), _mm256_srli_epi16::<8>(b));
            let low = _mm256_and_si256(even, _mm256_set1_epi16(0xff));
            _mm256_or_si256(low, _mm256_slli_epi16::<8>(odd))
        }
        fn transpose_32x4(from: &[u8]) -> [__m256i; 4] {
            let from = &from[..128];
            let (a, b) = (load_256(from), load_256(&from[32..]));
            transpose_dwords([a, b, load_256(&from[64..]), load_256(&from[96..])])
        }
        fn widen_i8_to_i16(a: __m256i) -> [__m256i; 2] {
            let (first, second) = (_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            [_mm256_cvtepi8_epi16(first), _mm256_cvtepi8_epi16(second)]
        }
        fn widen_i8x8(a: u64) -> __m256i {
            _mm256_cvtepi8_epi32(_mm_cvtsi64_si128(a as i64))
        }
        fn widen_i8_even_odd(a: u128) -> [__m256i; 2] {
            let words = _mm256_cvtepi16_epi32(_mm_set_epi64x((a >> 64) as i64, a as i64));
            [_mm256_srai_epi32::<24>(_mm256_slli_epi32::<24>(words)), _mm256_srai_epi32::<8>(words)]
        }
        fn pack_i16(low: __m256i, high: __m256i) -> __m256i {
            _mm256_blend_epi16::<0b1010_1010>(low, _mm256_slli_epi32::<16>(high))
        }
        fn unpack_i16(a: __m256i) -> [__m256i; 2] {
            [_mm256_srai_epi32::<16>(_mm256_slli_epi32::<16>(a)), _mm256_srai_epi32::<16>(a)]
        }
        fn sum_neighbors(a: __m256i, b: __m256i) -> __m256i {
            add_neighbors::<false>(a, b)
        }
        fn sum_halves_alternately(even: __m256i, odd: __m256i) -> __m256i {
            let first = _mm256_permute2x128_si256::<0x20>(even, odd);
            let sums = _mm256_add_epi32(first, _mm256_permute2x128_si256::<0x31>(even, odd));
            _mm256_permutevar8x32_epi32(sums, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
        }
        fn extract_lanes(a: __m256, first: usize, n: usize) -> __m256 {
            let order = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let order = _mm256_add_epi32(order, _mm256_set1_epi32(first as i32));
            _mm256_and_ps(_mm256_permutevar8x32_ps(a, order), _mm256_castsi256_ps(first_lanes(n)))
        }
    }
}

/// Parts of longer operations. (The compiler left some of those as calls when they were one
/// function.)
pub(super) trait Parts: HasAvx2 {
    /// Eight half-precision numbers as f32.
    fn widen_f16(self, numbers: [u64; 2]) -> __m256;
    /// In dword `g` of vector `k`, dword `k` of row `g`.
    fn transpose_rows(self, rows: [__m128i; 8]) -> [__m256i; 4];
    /// The same bits as f32.
    fn cast_to_f32(self, a: [__m256i; 4]) -> [__m256; 4];
    /// In each half, the four sums of the lanes of that half of each vector. `SMALL` says that all
    /// sums fit int16.
    fn add_neighbors_twice<const SMALL: bool>(self, a: [__m256i; 4]) -> __m256i;
    /// The low halves, and the high halves.
    fn join_halves(self, a: __m256i, b: __m256i) -> [__m256i; 2];
    /// In each half, the sums of that half of each vector times the scales at
    /// [`BlockKernels::sum_scaled_halves_each`], of which these are the first (0) or the last (1)
    /// four.
    fn sum_scaled_neighbors<const LAST: u8>(self, a: [__m256i; 4], scales: __m256i) -> __m256i;
}

target_feature_impl! {
    "avx2,fma,f16c"
    impl<T: HasAvx2> Parts for T {
        {}
        fn widen_f16(numbers: [u64; 2]) -> __m256 {
            _mm256_cvtph_ps(_mm_set_epi64x(numbers[1] as i64, numbers[0] as i64))
        }
        fn transpose_rows(rows: [__m128i; 8]) -> [__m256i; 4] {
            let [a, b, c, d, e, f, g, h] = rows;
            let (ae, bf) = (_mm256_set_m128i(e, a), _mm256_set_m128i(f, b));
            transpose_dwords([ae, bf, _mm256_set_m128i(g, c), _mm256_set_m128i(h, d)])
        }
        fn cast_to_f32(a: [__m256i; 4]) -> [__m256; 4] {
            let (first, second) = (_mm256_castsi256_ps(a[0]), _mm256_castsi256_ps(a[1]));
            [first, second, _mm256_castsi256_ps(a[2]), _mm256_castsi256_ps(a[3])]
        }
        fn add_neighbors_twice<const SMALL: bool>(a: [__m256i; 4]) -> __m256i {
            let (ab, cd) = (add_neighbors::<SMALL>(a[0], a[1]), add_neighbors::<SMALL>(a[2], a[3]));
            add_neighbors::<SMALL>(ab, cd)
        }
        fn join_halves(a: __m256i, b: __m256i) -> [__m256i; 2] {
            [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)]
        }
        fn sum_scaled_neighbors<const LAST: u8>(a: [__m256i; 4], scales: __m256i) -> __m256i {
            let (ab, cd) = (add_neighbors::<true>(a[0], a[1]), add_neighbors::<true>(a[2], a[3]));
            let scales = _mm256_permute2x128_si256::<0>(scales, scales);
            // Each vector has two sums of each half, and each gets the half's scale: as the high
            // byte of a word, which is then its own.
            let which = _mm256_setr_epi64x(
                0x0280_0280_0080_0080,
                0x0680_0680_0480_0480,
                0x0380_0380_0180_0180,
                0x0780_0780_0580_0580,
            );
            let which = _mm256_or_si256(which, _mm256_set1_epi16(i16::from(LAST) << 11));
            let scales = _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(scales, which));
            _mm256_madd_epi16(_mm256_packs_epi32(ab, cd), scales)
        }
    }
}
