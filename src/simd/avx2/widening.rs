//! AVX2 without AVX-VNNI: pairs of products are added to int16, and these added up.

#![allow(unsafe_code, reason = "a kernel's entry: the token proves the instruction set")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::super::features::target_feature_impl;
use super::super::quant_kernels::dot_quad_by_quad;
use super::super::x86::memory::load_256;
use super::super::{Kernel, Simd};
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
                w: &[u8],
                x: [&[i8]; V],
                quads: Range<usize>,
            ) -> [[__m256i; V]; R] {
                // A sum of products of n quads fits an i16, and is widened together: two products
                // of numbers of 4 bits are at most 2 * 15 * 127, of 5 bits 2 * 31 * 127, of 6 bits
                // 2 * 63 * 127, and eight, four and two times that are 30,480, 31,496 and 32,004.
                match BITS {
                    0..=4 => {
                        let n = quads.len();
                        panel_by_sums::<R, V>(token, dots, w, x, quads, n)
                    }
                    5 => panel_by_sums::<R, V>(token, dots, w, x, quads, 4),
                    6 => panel_row_by_row::<R, V>(token, dots, w, x, quads),
                    _ => dot_quad_by_quad::<_, BITS, R, V>(token, dots, w, x, quads),
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

/// Sums of int16, which are widened when they can grow no further.
trait Int16Sums {
    /// `sums + pairs`, where each pair is the sum of two neighbors' products. All of them fit.
    fn add_products(self, sums: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// As [`Int16Sums::add_products`], and the compiler can't add in another order. It would make
    /// trees of a tile's sums, in more registers than there are: a prompt in Q4_0 took half as long
    /// again.
    fn add_products_in_order(self, sums: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// In lane `i`, `acc[i]` and the two sums `i`.
    fn add_widened(self, acc: __m256i, sums: __m256i) -> __m256i;
}

target_feature_impl! {
    "avx2,fma,f16c"
    impl Int16Sums for Widening {
        {}
        fn add_products(sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
            _mm256_add_epi16(sums, _mm256_maddubs_epi16(w, x))
        }
        fn add_products_in_order(sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
            let mut sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(w, x));
            // SAFETY: there is no instruction in it. It says that the sums may have changed.
            unsafe { asm!("/* {0} */", inout(ymm_reg) sums, options(pure, nomem, nostack, preserves_flags)) }
            sums
        }
        fn add_widened(acc: __m256i, sums: __m256i) -> __m256i {
            _mm256_add_epi32(acc, _mm256_madd_epi16(sums, _mm256_set1_epi16(1)))
        }
    }
}

/// [`Products::dot_micro_panel`] by sums of `n` quads.
#[inline(always)]
fn panel_by_sums<const R: usize, const V: usize>(
    token: Avx2<Widening>,
    mut dots: [[__m256i; V]; R],
    w: &[u8],
    x: [&[i8]; V],
    quads: Range<usize>,
    n: usize,
) -> [[__m256i; V]; R] {
    for first in quads.step_by(n) {
        let mut sums = [[token.zero_i32(); V]; R];
        for q in first..first + n {
            let mut x_quads = [token.zero_i32(); V];
            for v in 0..V {
                x_quads[v] = token.load_quads(&x[v][q * 32..]);
            }
            for r in 0..R {
                let w = token.splat_quad(&w[r * 32 + q * 4..]);
                for v in 0..V {
                    sums[r][v] = token.0.add_products_in_order(sums[r][v], w, x_quads[v]);
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                dots[r][v] = token.0.add_widened(dots[r][v], sums[r][v]);
            }
        }
    }
    dots
}

/// [`Products::dot_micro_panel`] of numbers of 6 bits. Their sums of int16 are widened too often to
/// be kept for all rows.
#[inline(always)]
fn panel_row_by_row<const R: usize, const V: usize>(
    token: Avx2<Widening>,
    mut dots: [[__m256i; V]; R],
    w: &[u8],
    x: [&[i8]; V],
    quads: Range<usize>,
) -> [[__m256i; V]; R] {
    for first in quads.step_by(2) {
        for r in 0..R {
            let at = r * 32 + first * 4;
            let w = [token.splat_quad(&w[at..]), token.splat_quad(&w[at + 4..])];
            for v in 0..V {
                let x = [token.load_quads(&x[v][first * 32..]), token.load_quads(&x[v][first * 32 + 32..])];
                let sums = token.0.add_products(token.zero_i32(), w[0], x[0]);
                dots[r][v] = token.0.add_widened(dots[r][v], token.0.add_products(sums, w[1], x[1]));
            }
        }
    }
    dots
}
