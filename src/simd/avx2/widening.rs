//! AVX2 without AVX-VNNI: pairs of products are added to int16, and these added up.

#![allow(unsafe_code, reason = "a kernel's entry: the token proves the instruction set")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::features::target_feature_impl;
use super::super::x86::memory::load_256;
use super::super::{Kernel, PanelGroup, PanelTokens};
use super::panel::{panel_by_quads, panel_by_signs, panel_by_sums};
use super::{Avx2, Products, Vnni};

/// Proof of AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Widening(());

impl Widening {
    /// A processor with AVX-VNNI has AVX2, FMA and F16C too: `Vnni` proves them.
    pub(super) fn of_vnni(_: Vnni) -> Self {
        Self(())
    }
}

target_feature_impl! {
    "avx2,fma,f16c"
    impl Products for Widening {
        {
            const BIAS: Option<u32> = None;
            const SIGNS_APART: bool = true;

            fn detect() -> Option<Self> {
                let found = is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c");
                found.then_some(Self(()))
            }
            #[inline]
            fn run<K: Kernel>(token: Avx2<Self>, kernel: K) -> K::Output {
                #[target_feature(enable = "avx2,fma,f16c")]
                fn with_features<K: Kernel>(token: Avx2<Widening>, kernel: K) -> K::Output {
                    kernel.run(token)
                }
                // SAFETY: the function asks for nothing except the features, all of which
                // `detect` saw before it made the `Widening` in `token`.
                unsafe { with_features(token, kernel) }
            }
            #[inline(always)]
            fn dot_micro_panel<const BITS: u32, const R: usize, const V: usize>(
                token: Avx2<Self>,
                dots: [[__m256i; V]; R],
                w: PanelGroup<'_, R>,
                x: PanelTokens<'_, Avx2<Self>, V>,
                bias: Option<u32>,
                quads: Range<usize>,
            ) -> [[__m256i; V]; R] {
                match BITS {
                    ..=6 => panel_by_sums::<BITS, R, V>(token, dots, w, x, bias, quads),
                    7 => panel_by_quads::<R, V>(token, dots, w, x, bias, quads),
                    _ => panel_by_signs::<R, V>(token, dots, w, x, quads),
                }
            }
        }
        fn signed(w: __m256i) -> __m256i {
            w
        }
        fn dot_i8(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
            // `maddubs` wants unsigned by signed: |w| by x with w's sign. |-128| is 128, which is
            // right as a u8, and a pair is at most 2 * 128 * 127 = 32,512, which fits an i16.
            // (Taking x's absolute value instead would go wrong.)
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
            add_widened(acc, pairs)
        }
        fn dot_u8(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
            // A pair is at most 2 * 127 * 127 = 32,258, which fits an i16.
            add_widened(acc, _mm256_maddubs_epi16(w, x))
        }
        fn dot_u8_twice(w: [__m256i; 2], x: [__m256i; 2], zero: __m256i) -> __m256i {
            // Four products are at most 4 * 62 * 127 = 31,496, which fits an i16.
            add_widened(zero, add_products(_mm256_maddubs_epi16(w[0], x[0]), w[1], x[1]))
        }
        fn add_quads(sums: __m256i, x: __m256i) -> __m256i {
            add_products(sums, _mm256_set1_epi8(1), x)
        }
        fn dot_nibbles(w: [__m256i; 4], x: &[i8]) -> __m256i {
            // Eight products are at most 8 * 31 * 127 = 31,496, which fits an i16.
            let mut sums = _mm256_setzero_si256();
            for k in 0..4 {
                sums = add_products(sums, w[k], load_256(&x[32 * k..]));
            }
            add_widened(_mm256_setzero_si256(), sums)
        }
    }
}

/// `sums + pairs`, where each pair is the sum of two neighbors' products. All of them fit an int16.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn add_products(sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
    _mm256_add_epi16(sums, _mm256_maddubs_epi16(w, x))
}

/// In lane `i`, `acc[i]` and the two sums `i`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn add_widened(acc: __m256i, sums: __m256i) -> __m256i {
    _mm256_add_epi32(acc, _mm256_madd_epi16(sums, _mm256_set1_epi16(1)))
}
