//! AVX-VNNI: four int8 are multiplied and added up at once.

#![allow(unsafe_code, reason = "a kernel's entry: the token proves the instruction set")]

use std::arch::x86_64::*;

use super::super::Kernel;
use super::super::features::target_feature_impl;
use super::super::x86::memory::load_256;
use super::{Avx2, Products, Widening};

/// Proof of AVX-VNNI, and of AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vnni(());

target_feature_impl! {
    "avx2,fma,f16c,avxvnni"
    impl Products for Vnni {
        {
            const BIAS: Option<u32> = Some(7);

            fn detect() -> Option<Self> {
                let found = Widening::detect().is_some() && is_x86_feature_detected!("avxvnni");
                found.then_some(Self(()))
            }
            #[inline]
            fn run<K: Kernel>(token: Avx2<Self>, kernel: K) -> K::Output {
                #[target_feature(enable = "avx2,fma,f16c,avxvnni")]
                fn with_features<K: Kernel>(token: Avx2<Vnni>, kernel: K) -> K::Output {
                    kernel.run(token)
                }
                if !K::MULTIPLIES_INT8 {
                    return Avx2(Widening::of_vnni(token.0)).run(kernel);
                }
                // SAFETY: the function asks for nothing except the features, all of which
                // `detect` saw before it made the `Vnni` in `token`.
                unsafe { with_features(token, kernel) }
            }
        }
        fn signed(w: __m256i) -> __m256i {
            _mm256_xor_si256(w, _mm256_set1_epi8(-128)) // w + 128, as a u8
        }
        fn dot_i8(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
            _mm256_dpbusd_avx_epi32(acc, w, x)
        }
        fn dot_u8(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
            _mm256_dpbusd_avx_epi32(acc, w, x)
        }
        fn add_quads(sums: __m256i, x: __m256i) -> __m256i {
            _mm256_dpbusd_avx_epi32(sums, _mm256_set1_epi8(1), x)
        }
        fn dot_nibbles(w: [__m256i; 4], x: &[i8]) -> __m256i {
            let mut dots = _mm256_setzero_si256();
            for k in 0..4 {
                dots = _mm256_dpbusd_avx_epi32(dots, w[k], load_256(&x[32 * k..]));
            }
            dots
        }
    }
}
