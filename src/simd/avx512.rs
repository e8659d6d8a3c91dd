//! AVX-512 (F, BW, DQ, VL) with VNNI: Ice Lake (2019) and Zen 4 (2022) onwards.
//!
//! f32 vectors are 512 bits wide, and so is what is unpacked for one token: two blocks of 32 int8,
//! or as [`QuantKernels::INTERLEAVES`] says. (Zen 4 does such an operation in two halves, so there
//! it costs as much as with 256 bits; later processors do it at once.)

#![allow(unsafe_code, reason = "intrinsics that take pointers; the token proves the instruction set")]

use std::arch::x86_64::*;

mod parts;

use self::parts::{add_neighbors, add_split, each_block, load_rows_of_16, nibbles, split};
use super::features::target_feature_impl;
use super::quant_kernels::{POINTS, Pair};
use super::x86::HasAvx2;
use super::x86::memory::{load_128, load_256, load_512, store_128, store_512};
use super::x86::parts::{max_of_each, round_away_x8};
use super::{Byte, Interleave, Kernel, QuantKernels, Simd};

/// Proof that AVX-512 F, BW, DQ, VL and VNNI are there, and AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx512(());

// SAFETY: only `detect` makes one, after `Widening::detect` has seen all three.
unsafe impl HasAvx2 for Avx512 {}

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let found = super::avx2::Avx2::<super::avx2::Widening>::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        found.then_some(Self(()))
    }

    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        fn with_features<K: Kernel>(token: Avx512, kernel: K) -> K::Output {
            kernel.run(token)
        }
        // SAFETY: the function asks for nothing except the features, all of which `detect` saw
        // before it made `self`.
        unsafe { with_features(self, kernel) }
    }
}

target_feature_impl! {
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
    impl Simd for Avx512 {
        {
            const LANES: usize = 16;
            const REGISTER_TILE: usize = 4;
            const STREAMS: usize = 4;
            type F32 = __m512;
            type I32 = __m512i;
            type Quads = __m512i;
            const QUADS_BIAS: Option<u32> = Some(7);
        }
        fn splat(value: f32) -> __m512 {
            _mm512_set1_ps(value)
        }
        fn load(from: &[f32]) -> __m512 {
            _mm512_castsi512_ps(load_512(from))
        }
        fn load_f16(from: &[u16]) -> __m512 {
            _mm512_cvtph_ps(load_256(from))
        }
        fn load_i8(from: &[i8]) -> __m512 {
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_128(from)))
        }
        fn load_bf16(from: &[u16]) -> __m512 {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(load_256(from))))
        }
        fn load_partial(from: &[f32]) -> __m512 {
            assert!(from.len() < 16);
            // SAFETY: the mask has a bit for each of `from`'s elements, and no others are read.
            unsafe { _mm512_maskz_loadu_ps((1 << from.len()) - 1, from.as_ptr()) }
        }
        fn store(value: __m512, to: &mut [f32]) {
            store_512(_mm512_castps_si512(value), to);
        }
        fn store_partial(value: __m512, to: &mut [f32]) {
            assert!(to.len() < 16);
            // SAFETY: the mask has a bit for each of `to`'s elements, and no others are written.
            unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), (1 << to.len()) - 1, value) }
        }
        fn add(a: __m512, b: __m512) -> __m512 {
            _mm512_add_ps(a, b)
        }
        fn mul(a: __m512, b: __m512) -> __m512 {
            _mm512_mul_ps(a, b)
        }
        fn div(a: __m512, b: __m512) -> __m512 {
            _mm512_div_ps(a, b)
        }
        fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
            _mm512_fmadd_ps(a, b, c)
        }
        fn max(a: __m512, b: __m512) -> __m512 {
            _mm512_max_ps(a, b)
        }
        fn max_abs(a: __m512, b: __m512) -> __m512 {
            // The bits of numbers without a sign have the order of the numbers.
            let size = _mm512_castps_si512(_mm512_abs_ps(b));
            _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), size))
        }
        fn reduce_to_x8(a: __m512) -> __m256 {
            _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a))
        }
        fn max_lane(a: __m512) -> f32 {
            _mm512_reduce_max_ps(a)
        }
        fn store_i8(value: __m512, to: &mut [i8]) {
            let low = round_away_x8(_mm512_castps512_ps256(value));
            let high = round_away_x8(_mm512_extractf32x8_ps::<1>(value));
            let dwords = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
            store_128(_mm512_cvtsepi32_epi8(dwords), to);
        }
        fn load_i32(from: &[i32]) -> __m512i {
            load_512(from)
        }
        fn store_i32(a: __m512i, to: &mut [i32]) {
            store_512(a, to);
        }
        fn splat_i32(value: i32) -> __m512i {
            _mm512_set1_epi32(value)
        }
        fn to_f32(a: __m512i) -> __m512 {
            _mm512_cvtepi32_ps(a)
        }
        fn madd_i16(a: __m512i, b: __m512i) -> __m512i {
            _mm512_madd_epi16(a, b)
        }
        fn sub_shifted_i32(a: __m512i, b: __m512i, n: u32) -> __m512i {
            _mm512_sub_epi32(a, _mm512_sll_epi32(b, _mm_cvtsi32_si128(n as i32)))
        }
        fn load_quads(from: &[i8]) -> __m512i {
            load_512(from)
        }
        fn splat_quad(from: &[u8]) -> __m512i {
            _mm512_set1_epi32(i32::from_le_bytes([from[0], from[1], from[2], from[3]]))
        }
        fn dot4_u8i8(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(acc, w, x)
        }
        fn quads_of_i8x32(w: __m256i) -> __m256i {
            _mm256_xor_si256(w, _mm256_set1_epi8(-128)) // w + 128, as a u8
        }
        fn dot_i8x32(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
            _mm256_dpbusd_epi32(acc, quads_of_i8x32(w), x)
        }
        fn dot_u8x32(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
            _mm256_dpbusd_epi32(acc, w, x)
        }
    }
}

target_feature_impl! {
    "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
    impl QuantKernels for Avx512 {
        {
            type I8x64 = __m512i;
            type I32x16 = __m512i;
            /// [`Interleave::Nibbles16`]: as elsewhere; vector `v` of 64 bytes has quad `2v` of
            /// each group, then their quads `2v + 1`. [`Interleave::Nibbles32`]: bytes as they lie,
            /// and sums across lanes at the end. Of the even groups, the first and the second 8
            /// bytes of each 16, then the same of the odd groups; in 128 bits 8 bytes are of a
            /// group below 4, and the others of the group four after it. (Lane by lane was a third
            /// slower on Zen 5 by AVX2's instructions, and 3 % on Zen 4 by `vpermt2d`.)
            const INTERLEAVES: [[u8; 64]; 3] = {
                let mut orders = [[0; 64], [0; 64], POINTS];
                let mut i = 0;
                while i < 64 {
                    orders[Interleave::Nibbles16 as usize][i] = (i % 8 * 8 + i / 8) as u8;
                    let (vector, quarter, quad) = (i / 16, i / 4 % 4, i % 4);
                    let group = quad / 2 * 4 + quarter / 2 * 2 + vector / 2;
                    let of_group = quarter % 2 * 4 + vector % 2 * 2 + quad % 2;
                    orders[Interleave::Nibbles32 as usize][i] = (8 * group + of_group) as u8;
                    i += 1;
                }
                orders
            };

            #[inline(always)]
            fn min_transposed_tokens(order: Option<Interleave>) -> Option<usize> {
                match order {
                    None | Some(Interleave::Nibbles32) => Some(2),
                    Some(Interleave::Nibbles16 | Interleave::Points) => None,
                }
            }
        }
        fn transpose_groups(groups: [__m512i; 4]) -> [__m512i; 4] {
            // Four quads of four groups each, then two of all.
            let quads = _mm512_setr_epi32(0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27);
            let later_quads = _mm512_add_epi32(quads, _mm512_set1_epi32(4));
            let fours = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
            let later_fours = _mm512_add_epi64(fours, _mm512_set1_epi64(4));
            let [a, b, c, d] = groups;
            let mut transposed = groups;
            for (i, quads) in [quads, later_quads].into_iter().enumerate() {
                let first = _mm512_permutex2var_epi32(a, quads, b);
                let last = _mm512_permutex2var_epi32(c, quads, d);
                transposed[2 * i] = _mm512_permutex2var_epi64(first, fours, last);
                transposed[2 * i + 1] = _mm512_permutex2var_epi64(first, later_fours, last);
            }
            transposed
        }
        fn mask_from_bits(bits: u32) -> __m256i {
            _mm256_movm_epi8(bits)
        }
        fn gather_f16<const STRIDE: usize>(from: &[u8]) -> __m256 {
            const { assert!(STRIDE >= 18 && STRIDE <= 62 && STRIDE.is_multiple_of(2)) };
            let from = &from[..8 * STRIDE - 2];
            let s = (STRIDE / 2) as i16;
            if 3 * STRIDE + 2 <= 64 {
                // Four numbers lie in one vector.
                let order = _mm_setr_epi16(0, s, 2 * s, 3 * s, 32, 32 + s, 32 + 2 * s, 32 + 3 * s);
                let (low, high) = (load_512(from), load_512(&from[4 * STRIDE..]));
                let numbers = _mm512_permutex2var_epi16(low, _mm512_castsi128_si512(order), high);
                return _mm256_cvtph_ps(_mm512_castsi512_si128(numbers));
            }
            let (second, third, fourth) = (&from[2 * STRIDE..], &from[4 * STRIDE..], &from[6 * STRIDE..]);
            let (low, high) = if STRIDE + 2 <= 32 {
                // Two lie in one of half the length.
                let order = _mm256_castsi128_si256(_mm_setr_epi16(0, s, 16, 16 + s, 0, 0, 0, 0));
                let low = _mm256_permutex2var_epi16(load_256(from), order, load_256(second));
                let high = _mm256_permutex2var_epi16(load_256(third), order, load_256(fourth));
                (_mm256_castsi256_si128(low), _mm256_castsi256_si128(high))
            } else {
                const { assert!(STRIDE + 2 <= 32 || 2 * STRIDE >= 66) };
                let order = _mm512_castsi128_si512(_mm_setr_epi16(0, s, 32, 32 + s, 0, 0, 0, 0));
                let low = _mm512_permutex2var_epi16(load_512(from), order, load_512(second));
                let high = _mm512_permutex2var_epi16(load_512(third), order, load_512(fourth));
                (_mm512_castsi512_si128(low), _mm512_castsi512_si128(high))
            };
            _mm256_cvtph_ps(_mm_unpacklo_epi64(low, high))
        }
        fn scales_and_mins(from: &[u8]) -> [__m256; 2] {
            // In general registers, as elsewhere, it was half of the instructions of decode.
            let header = load_128(from);
            // The scales of groups 0 to 3 and 4 to 7, then their minima: the low bits, where those
            // of groups 4 to 7 are nibbles of the last dword, and their high bits.
            let low = _mm_srlv_epi32(_mm_shuffle_epi32::<0b11_10_11_01>(header), _mm_setr_epi32(0, 0, 0, 4));
            let low_bits = _mm_setr_epi32(0x3f3f_3f3f, 0x0f0f_0f0f, 0x3f3f_3f3f, 0x0f0f_0f0f);
            let high = _mm_srli_epi32::<2>(_mm_shuffle_epi32::<0b10_10_01_01>(header));
            let high_bits = _mm_setr_epi32(0, 0x3030_3030, 0, 0x3030_3030);
            let bytes = _mm_or_si128(_mm_and_si128(low, low_bits), _mm_and_si128(high, high_bits));
            let signed = _mm_xor_ps(_mm_cvtph_ps(header), _mm_setr_ps(0.0, -0.0, 0.0, 0.0));
            let which = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
            let unit = _mm512_permutexvar_ps(which, _mm512_castps128_ps512(signed));
            let each = _mm512_mul_ps(unit, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)));
            [_mm512_castps512_ps256(each), _mm512_extractf32x8_ps::<1>(each)]
        }
        fn hmax_abs_each(a: [__m512; 8]) -> __m256 {
            let mut halves = [_mm256_setzero_si256(); 8];
            for i in 0..8 {
                let [low, high] = split(_mm512_castps_si512(a[i]));
                halves[i] = _mm256_max_epu32(low, high);
            }
            _mm256_castsi256_ps(max_of_each(halves))
        }
        fn load_bytes_x64(from: &[impl Byte]) -> __m512i {
            load_512(from)
        }
        fn zero_x64() -> __m512i {
            _mm512_setzero_si512()
        }
        fn blocks(pair: __m512i) -> [__m256i; 2] {
            split(pair)
        }
        fn load_2x32(from: [&[u8]; 2]) -> __m512i {
            join_blocks([load_256(from[0]), load_256(from[1])])
        }
        fn load_nibbles_x64(from: [&[u8]; 2]) -> __m512i {
            let first = _mm512_broadcast_i32x4(load_128(from[0]));
            let both = _mm512_mask_broadcast_i32x4(first, 0xff00, load_128(from[1]));
            let shifted = _mm512_srlv_epi64(both, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
            _mm512_and_si512(shifted, _mm512_set1_epi8(15))
        }
        fn mask_from_bits_x64(bits: [u32; 2]) -> __m512i {
            _mm512_movm_epi8(u64::from(bits[0]) | u64::from(bits[1]) << 32)
        }
        fn shr_mask_split<const FIRST: u32, const SECOND: u32>(a: __m256i, mask: u8) -> __m512i {
            let by = each_block(FIRST.into(), SECOND.into());
            let shifted = _mm512_srlv_epi64(_mm512_broadcast_i64x4(a), by);
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))
        }
        fn shl_mask_split<const FIRST: u32, const SECOND: u32>(a: __m256i, masks: [u8; 2]) -> __m512i {
            let masks = [i64::from_ne_bytes([masks[0]; 8]), i64::from_ne_bytes([masks[1]; 8])];
            let masked = _mm512_and_si512(_mm512_broadcast_i64x4(a), each_block(masks[0], masks[1]));
            _mm512_sllv_epi64(masked, each_block(FIRST.into(), SECOND.into()))
        }
        fn shr_mask_x64<const SHIFT: u32>(a: __m512i, mask: u8) -> __m512i {
            _mm512_and_si512(_mm512_srli_epi16::<SHIFT>(a), _mm512_set1_epi8(mask as i8))
        }
        fn and_mask_x64(a: __m512i, mask: u8) -> __m512i {
            _mm512_and_si512(a, _mm512_set1_epi8(mask as i8))
        }
        fn or_x64(a: __m512i, b: __m512i) -> __m512i {
            _mm512_or_si512(a, b)
        }
        fn mul_x64(a: __m512i, b: __m512i) -> __m512i {
            // The low byte of a product of words is that of their low bytes.
            let even = _mm512_mullo_epi16(a, b);
            let odd = _mm512_mullo_epi16(_mm512_srli_epi16::<8>(a), _mm512_srli_epi16::<8>(b));
            _mm512_mask_blend_epi8(0xaaaa_aaaa_aaaa_aaaa, even, _mm512_slli_epi16::<8>(odd))
        }
        fn shuffle_x64(table: &[i8; 16], a: __m512i) -> __m512i {
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(load_128(table)), a)
        }
        fn dot_i8_x64(w: __m512i, x: __m512i) -> __m512i {
            let unsigned = _mm512_xor_si512(w, _mm512_set1_epi8(-128)); // w + 128, as a u8
            _mm512_dpbusd_epi32(_mm512_setzero_si512(), unsigned, x)
        }
        fn dot_u8_x64(w: __m512i, x: __m512i) -> __m512i {
            _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, x)
        }
        fn sum_halves_x64<const SMALL: bool>(a: [__m512i; 4]) -> [__m256i; 2] {
            // As AVX2's `sum_halves_each`, with twice the halves.
            let (ab, cd) = (add_neighbors::<SMALL>(a[0], a[1]), add_neighbors::<SMALL>(a[2], a[3]));
            let sums = add_neighbors::<SMALL>(ab, cd);
            // The low halves of the first blocks, their high halves, then those of the second
            // blocks.
            let order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
            split(_mm512_permutexvar_epi32(order, sums))
        }
        fn sum_scaled_halves_x64(a: [__m512i; 4], scales: __m256i) -> __m256i {
            // As `sum_halves_x64`. 128 bits have two sums of a half of each pair, and each gets the
            // half's scale: as the high byte of a word, which is then its own.
            let (ab, cd) = (add_neighbors::<true>(a[0], a[1]), add_neighbors::<true>(a[2], a[3]));
            let which =
                _mm512_broadcast_i32x4(_mm_setr_epi32(0x0080_0080, 0x0480_0480, 0x0880_0880, 0x0c80_0c80));
            let (first, second) = (0x0100_0100_0100_0100, 0x0200_0200_0200_0200);
            let third = 0x0300_0300_0300_0300;
            let half = _mm512_setr_epi64(0, 0, first, first, second, second, third, third);
            let scales = _mm512_broadcast_i32x4(_mm256_castsi256_si128(scales));
            let scales = _mm512_shuffle_epi8(scales, _mm512_or_si512(which, half));
            let sums = _mm512_madd_epi16(_mm512_packs_epi32(ab, cd), _mm512_srai_epi16::<8>(scales));
            let order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
            add_split(_mm512_permutexvar_epi32(order, sums))
        }
        fn sum_blocks_each(a: [__m512i; 8]) -> [__m256i; 2] {
            let (ab, cd) = (add_neighbors::<false>(a[0], a[1]), add_neighbors::<false>(a[2], a[3]));
            let (ef, gh) = (add_neighbors::<false>(a[4], a[5]), add_neighbors::<false>(a[6], a[7]));
            // Of each block, two lanes of 128 bits have parts of the sums.
            let (first, last) = (add_neighbors::<false>(ab, cd), add_neighbors::<false>(ef, gh));
            let even = _mm512_shuffle_i32x4::<0b10_00_10_00>(first, last);
            let odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(first, last);
            let sums = _mm512_add_epi32(even, odd);
            split(_mm512_shuffle_i32x4::<0b11_01_10_00>(sums, sums))
        }
        fn interleave_nibbles_16<const STRIDE: usize>(from: &[u8]) -> [__m512i; 4] {
            let from = &from[..7 * STRIDE + 16];
            let rows = [load_rows_of_16::<STRIDE>(from), load_rows_of_16::<STRIDE>(&from[4 * STRIDE..])];
            // A half of a quad of each group, which the low and the high nibbles are.
            let first = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
            let second = _mm512_add_epi32(first, _mm512_set1_epi32(2));
            let [low, high, later_low, later_high] = nibbles([
                _mm512_permutex2var_epi32(rows[0], first, rows[1]),
                _mm512_permutex2var_epi32(rows[0], second, rows[1]),
            ]);
            [low, later_low, high, later_high]
        }
        fn transpose_nibbles_32(from: &[u8]) -> [__m512i; 4] {
            let (a, b) = (load_512(from), load_512(&from[64..]));
            let first = _mm512_setr_epi32(0, 0, 8, 8, 16, 16, 24, 24, 1, 1, 9, 9, 17, 17, 25, 25);
            // Of 32 bytes, the low halves are the even group, the high halves the odd one.
            let shift = _mm512_set1_epi64(4 << 32);
            let mut quads = [a; 4];
            for v in 0..4 {
                let of_groups = _mm512_add_epi32(first, _mm512_set1_epi32(2 * v as i32));
                let both = _mm512_permutex2var_epi32(a, of_groups, b);
                quads[v] = _mm512_and_si512(_mm512_srlv_epi32(both, shift), _mm512_set1_epi8(15));
            }
            quads
        }
        fn interleave_nibbles_32(from: &[u8]) -> [__m512i; 4] {
            let (a, b) = (load_512(from), load_512(&from[64..]));
            let [low, high, odd_low, odd_high] =
                nibbles([_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)]);
            [low, odd_low, high, odd_high]
        }
        fn dot_interleaved<const SIGNED: bool>(order: Interleave, w: [__m512i; 4], x: &[i8]) -> __m256i {
            let mut dots = [_mm512_setzero_si512(); 2];
            for k in 0..4 {
                // w + 128, as a u8
                let w = if SIGNED { _mm512_xor_si512(w[k], _mm512_set1_epi8(-128)) } else { w[k] };
                let i = if order == Interleave::Nibbles32 { k / 2 } else { 0 };
                dots[i] = _mm512_dpbusd_epi32(dots[i], w, load_512(&x[64 * k..]));
            }
            if order != Interleave::Nibbles32 {
                return add_split(dots[0]);
            }
            // Two lanes are 16 products of a number within 0..=15 and an int8. Two sums of each
            // group are left then, and the second ones go to the upper half. (Neighbors once more,
            // of `sums` twice, were fewer instructions, but the compiler puts any register for the
            // second, and each product waited for the one before.)
            let sums = add_neighbors::<true>(dots[0], dots[1]);
            let order = _mm512_setr_epi32(0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15);
            add_split(_mm512_permutexvar_epi32(order, sums))
        }
    }
}

/// What [`Pair`] wants of a token.
trait Join {
    fn join_blocks(self, blocks: [__m256i; 2]) -> __m512i;
}

target_feature_impl! {
    "avx512f"
    impl Join for Avx512 {
        {}
        fn join_blocks(blocks: [__m256i; 2]) -> __m512i {
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(blocks[0]), blocks[1])
        }
    }
}

impl Pair<Avx512, __m256i> for __m512i {
    #[inline(always)]
    fn join(s: Avx512, blocks: [__m256i; 2]) -> Self {
        s.join_blocks(blocks)
    }
    #[inline(always)]
    fn split(self, s: Avx512) -> [__m256i; 2] {
        s.blocks(self)
    }
}
