//! AVX2 with FMA and F16C: Intel's Core since Haswell (2013), AMD since Zen (2017); and its dot
//! products of int8 (AVX-VNNI), which clients have since Alder Lake (2021) and Zen 5 (2024).

#![allow(unsafe_code, reason = "intrinsics that take pointers; the token proves the instruction set")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

mod panel;
mod products;
mod vnni;
mod widening;

use self::products::Products;
pub(super) use self::vnni::Vnni;
pub(super) use self::widening::Widening;
use super::features::target_feature_impl;
use super::x86::memory::{load_64, load_128, load_256, store_256};
use super::x86::parts::{first_lanes, max_of_each, round_away_x8, transpose_dwords};
use super::x86::{self, HasAvx2, Parts};
use super::{Interleave, Kernel, PanelGroup, PanelTokens, QuantKernels, Simd, Simd256};

/// Proof that AVX2, FMA and F16C are there, and how int8 are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2<P>(P);

// SAFETY: it holds a `Widening` or a `Vnni`, which exist only where `detect` has seen all three.
unsafe impl<P: Products> HasAvx2 for Avx2<P> {}

impl<P: Products> Avx2<P> {
    pub(crate) fn detect() -> Option<Self> {
        P::detect().map(Self)
    }

    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        P::run(self, kernel)
    }
}

target_feature_impl! {
    "avx2,fma,f16c"
    impl<P: Products> Simd for Avx2<P> {
        {
            const LANES: usize = 8;
            const REGISTER_TILE: usize = 2;
            const STREAMS: usize = 4;
            type F32 = __m256;
            type I32 = __m256i;
            type Quads = __m256i;
            const QUADS_BIAS: Option<u32> = P::BIAS;

            #[inline(always)]
            fn dot_i8x32(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
                self.0.dot_i8(acc, self.0.signed(w), x)
            }
            #[inline(always)]
            fn dot_u8x32(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
                self.0.dot_u8(acc, w, x)
            }
            #[inline(always)]
            fn dot4_u8i8(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
                self.0.dot_u8(acc, w, x)
            }
            #[inline(always)]
            fn dot4_i8i8(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
                self.0.dot_i8(acc, w, x)
            }
            #[inline(always)]
            fn quads_of_i8x32(self, w: __m256i) -> __m256i {
                self.0.signed(w)
            }
        }
        fn splat(value: f32) -> __m256 {
            _mm256_set1_ps(value)
        }
        fn load(from: &[f32]) -> __m256 {
            x86::load_x8(from)
        }
        fn load_f16(from: &[u16]) -> __m256 {
            _mm256_cvtph_ps(load_128(from))
        }
        fn load_i8(from: &[i8]) -> __m256 {
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_64(from)))
        }
        fn load_bf16(from: &[u16]) -> __m256 {
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(load_128(from))))
        }
        fn load_partial(from: &[f32]) -> __m256 {
            assert!(from.len() < 8);
            // SAFETY: the mask has the lanes of `from`'s elements alone, and no others are read.
            unsafe { _mm256_maskload_ps(from.as_ptr(), first_lanes(from.len())) }
        }
        fn store(value: __m256, to: &mut [f32]) {
            x86::store_x8(value, to);
        }
        fn store_partial(value: __m256, to: &mut [f32]) {
            assert!(to.len() < 8);
            // SAFETY: the mask has the lanes of `to`'s elements alone, and no others are written.
            unsafe { _mm256_maskstore_ps(to.as_mut_ptr(), first_lanes(to.len()), value) }
        }
        fn add(a: __m256, b: __m256) -> __m256 {
            _mm256_add_ps(a, b)
        }
        fn mul(a: __m256, b: __m256) -> __m256 {
            _mm256_mul_ps(a, b)
        }
        fn div(a: __m256, b: __m256) -> __m256 {
            _mm256_div_ps(a, b)
        }
        fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
            _mm256_fmadd_ps(a, b, c)
        }
        fn in_order(a: __m256) -> __m256 {
            let mut a = a;
            // SAFETY: there is no instruction in it. It says that the lanes may have changed.
            unsafe { asm!("/* {0} */", inout(ymm_reg) a, options(nomem, nostack, preserves_flags)) }
            a
        }
        fn max(a: __m256, b: __m256) -> __m256 {
            _mm256_max_ps(a, b)
        }
        fn max_abs(a: __m256, b: __m256) -> __m256 {
            // The bits of numbers without a sign have the order of the numbers.
            let magnitude = _mm256_castps_si256(_mm256_andnot_ps(_mm256_set1_ps(-0.0), b));
            _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a), magnitude))
        }
        fn reduce_to_x8(a: __m256) -> __m256 {
            a
        }
        fn max_lane(a: __m256) -> f32 {
            let m = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let m = _mm_max_ps(m, _mm_movehl_ps(m, m));
            _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)))
        }
        fn store_i8(value: __m256, to: &mut [i8]) {
            let rounded = round_away_x8(value);
            let (low, high) = (_mm256_castsi256_si128(rounded), _mm256_extracti128_si256::<1>(rounded));
            let words = _mm_packs_epi32(low, high);
            let bytes = _mm_cvtsi128_si64(_mm_packs_epi16(words, words)).to_le_bytes();
            to[..8].copy_from_slice(&bytes.map(|byte| byte as i8));
        }
        fn load_i32(from: &[i32]) -> __m256i {
            load_256(from)
        }
        fn store_i32(a: __m256i, to: &mut [i32]) {
            store_256(a, to);
        }
        fn splat_i32(value: i32) -> __m256i {
            _mm256_set1_epi32(value)
        }
        fn to_f32(a: __m256i) -> __m256 {
            _mm256_cvtepi32_ps(a)
        }
        fn madd_i16(a: __m256i, b: __m256i) -> __m256i {
            _mm256_madd_epi16(a, b)
        }
        fn sub_shifted_i32(a: __m256i, b: __m256i, n: u32) -> __m256i {
            x86::sub_shifted_i32x8(a, b, n)
        }
        fn load_quads(from: &[i8]) -> __m256i {
            load_256(from)
        }
        fn splat_quad(from: &[u8]) -> __m256i {
            _mm256_set1_epi32(i32::from_le_bytes([from[0], from[1], from[2], from[3]]))
        }
    }
}

target_feature_impl! {
    "avx2,fma,f16c"
    impl<P: Products> QuantKernels for Avx2<P> {
        {
            type I8x64 = [__m256i; 2];
            type I32x16 = [__m256i; 2];
            const SIGNS_APART: bool = P::SIGNS_APART;

            #[inline(always)]
            fn min_transposed_tokens(order: Option<Interleave>) -> Option<usize> {
                match order {
                    None => Some(2),
                    Some(Interleave::Nibbles32) => Some(4),
                    Some(Interleave::Nibbles16 | Interleave::Points) => None,
                }
            }

            #[inline(always)]
            fn dot_nibbles(self, w: [__m256i; 4], x: &[i8]) -> __m256i {
                self.0.dot_nibbles(w, x)
            }
            #[inline(always)]
            fn dot_u8_twice(self, w: [__m256i; 2], x: [__m256i; 2]) -> __m256i {
                self.0.dot_u8_twice(w, x, self.zero_i32x8())
            }
            #[inline(always)]
            fn add_quads(self, sums: __m256i, x: __m256i) -> __m256i {
                self.0.add_quads(sums, x)
            }
            #[inline(always)]
            fn dot_micro_panel<const BITS: u32, const R: usize, const V: usize>(
                self,
                dots: [[__m256i; V]; R],
                w: PanelGroup<'_, R>,
                x: PanelTokens<'_, Self, V>,
                bias: Option<u32>,
                quads: Range<usize>,
            ) -> [[__m256i; V]; R] {
                P::dot_micro_panel::<BITS, R, V>(self, dots, w, x, bias, quads)
            }
            #[inline(always)]
            fn gather_f16<const STRIDE: usize>(self, from: &[u8]) -> __m256 {
                let from = &from[..8 * STRIDE - 2];
                // Put together in general registers, which are idle, and not by shuffles; and
                // loaded as one number each: of two bytes, the compiler made a chain of shuffles.
                let mut fours = [0; 2];
                for i in 0..8 {
                    let number = from[i * STRIDE..].first_chunk();
                    let number = number.map_or(0, |&bytes| u16::from_ne_bytes(bytes));
                    fours[i / 4] |= u64::from(number) << (16 * (i % 4));
                }
                self.widen_f16(fours)
            }
        }
        fn split_signs(w: __m256i) -> [__m256i; 2] {
            [_mm256_abs_epi8(w), _mm256_cmpgt_epi8(_mm256_setzero_si256(), w)]
        }
        fn transpose_groups(groups: [[__m256i; 2]; 4]) -> [[__m256i; 2]; 4] {
            let [[a, b], [c, d], [e, f], [g, h]] = groups;
            let (first, last) = (transpose_dwords([a, b, c, d]), transpose_dwords([e, f, g, h]));
            let mut low = [first[0]; 4];
            let mut high = [first[0]; 4];
            for i in 0..4 {
                low[i] = _mm256_permute2x128_si256::<0x20>(first[i], last[i]);
                high[i] = _mm256_permute2x128_si256::<0x31>(first[i], last[i]);
            }
            [[low[0], low[1]], [low[2], low[3]], [high[0], high[1]], [high[2], high[3]]]
        }
        fn hmax_abs_each(a: [__m256; 8]) -> __m256 {
            let mut bits = [_mm256_setzero_si256(); 8];
            for i in 0..8 {
                bits[i] = _mm256_castps_si256(a[i]);
            }
            _mm256_castsi256_ps(max_of_each(bits))
        }
        fn mask_from_bits(bits: u32) -> __m256i {
            // Each byte gets the byte of `bits` that holds its bit, and keeps that bit alone.
            let which =
                _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
            let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), which);
            let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit)
        }
    }
}
