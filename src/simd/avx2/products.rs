//! What differs between the levels of AVX2: products of int8.

#![allow(unsafe_code, reason = "intrinsics: the token proves that the processor has them")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Avx2, Kernel, Simd};
use crate::simd::dot_nibbles_one_by_one;

/// AVX2 alone: pairs of products are added to int16, and these added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Widening(());

/// Proof of AVX-VNNI: four int8 are multiplied and added up at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vnni(());

/// Products of int8, of which `x` is within -127..=127. A value proves that the processor has them,
/// and AVX2 and its company.
pub(crate) trait Products: Copy + Send + Sync + 'static {
    /// What [`Products::dot_i8`] adds beside the product: this power of two for each `x`. `None`:
    /// nothing.
    const BIAS: Option<u32>;
    fn detect() -> Option<Self>;
    /// Runs a kernel that was compiled for AVX2 with these products.
    fn run<K: Kernel>(token: Avx2<Self>, kernel: K) -> K::Output;
    /// int8 as [`Products::dot_i8`] wants them.
    fn signed(self, w: __m256i) -> __m256i;
    /// In lane `i`, `acc[i]` and the dot product of the quads `i`, with the bias.
    fn dot_i8(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// In lane `i`, `acc[i]` and the dot product of the quads `i`, where `w` is within 0..=127.
    fn dot_u8(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// As [`Simd::dot_nibbles`].
    #[inline(always)]
    fn dot_nibbles(token: Avx2<Self>, w: [__m256i; 4], x: &[i8]) -> __m256i {
        dot_nibbles_one_by_one(token, w, x)
    }
    /// As [`Simd::dot_micro_panel`].
    #[inline(always)]
    fn dot_micro_panel<const BITS: u32, const R: usize, const V: usize>(
        token: Avx2<Self>,
        dots: [[__m256i; V]; R],
        w: &[u8],
        x: [&[i8]; V],
        quads: Range<usize>,
    ) -> [[__m256i; V]; R] {
        token.dot_micro_panel_by_quads::<BITS, R, V>(dots, w, x, quads)
    }
}

// SAFETY of every block below: the token proves AVX2, which is all that is used.
impl Products for Widening {
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
        // SAFETY: `token` proves that the features are there.
        unsafe { with_features(token, kernel) }
    }
    #[inline(always)]
    fn signed(self, w: __m256i) -> __m256i {
        w
    }
    #[inline(always)]
    fn dot_i8(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // `maddubs` wants unsigned by signed: |w| by x with w's sign. |-128| is 128, which is right
        // as a u8, and a pair is at most 2 * 128 * 127 = 32,512, which fits an i16. (Taking x's
        // absolute value instead would go wrong.) SAFETY: as above.
        unsafe {
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
    #[inline(always)]
    fn dot_u8(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // A pair is at most 2 * 127 * 127 = 32,258, which fits an i16.
        // SAFETY: as above.
        unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1))) }
    }
    #[inline(always)]
    fn dot_nibbles(token: Avx2<Self>, w: [__m256i; 4], x: &[i8]) -> __m256i {
        let mut pairs = token.zero_i32x8();
        for k in 0..4 {
            let x = token.load_i8x32(&x[32 * k..]);
            // Eight products are at most 8 * 15 * 127 = 15,240, which fits an i16.
            // SAFETY: as above.
            pairs = unsafe { _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w[k], x)) };
        }
        // SAFETY: as above.
        unsafe { _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)) }
    }
    #[inline(always)]
    fn dot_micro_panel<const BITS: u32, const R: usize, const V: usize>(
        token: Avx2<Self>,
        mut dots: [[__m256i; V]; R],
        w: &[u8],
        x: [&[i8]; V],
        quads: Range<usize>,
    ) -> [[__m256i; V]; R] {
        // A sum of products of so many quads fits an i16, and is widened together: two products of
        // numbers of 4 bits are at most 2 * 15 * 127, of 5 bits 2 * 31 * 127, of 6 bits 2 * 63 *
        // 127, and eight, four and two times that are 30,480, 31,496 and 32,004. (Strips of three
        // rows of weights: Q4_0 5 % faster, Q6_K 17 % slower.)
        let step = match BITS {
            0..=4 => quads.len(),
            5 => 4,
            6 => return row_by_row::<R, V>(token, dots, w, x, quads),
            _ => return token.dot_micro_panel_by_quads::<BITS, R, V>(dots, w, x, quads),
        };
        for first in quads.step_by(step) {
            let mut pairs = [[token.zero_i32(); V]; R];
            for q in first..first + step {
                let mut x_quads = [token.zero_i32(); V];
                for v in 0..V {
                    x_quads[v] = token.load_quads(&x[v][q * 32..]);
                }
                for r in 0..R {
                    let w = token.splat_quad(&w[r * 32 + q * 4..]);
                    for v in 0..V {
                        // SAFETY: as above.
                        unsafe {
                            pairs[r][v] = _mm256_add_epi16(pairs[r][v], _mm256_maddubs_epi16(w, x_quads[v]));
                        }
                    }
                }
            }
            for r in 0..R {
                for v in 0..V {
                    // SAFETY: as above.
                    unsafe {
                        let sum = _mm256_madd_epi16(pairs[r][v], _mm256_set1_epi16(1));
                        dots[r][v] = _mm256_add_epi32(dots[r][v], sum);
                    }
                }
            }
        }
        dots
    }
}

/// [`Products::dot_micro_panel`] of numbers of 6 bits. Their sums of int16 are widened too often to
/// be kept for all rows: that took a prompt in Q6_K 30 % longer. (Q4_0, whose sums last longer,
/// lost 9 % in this way.)
#[inline(always)]
fn row_by_row<const R: usize, const V: usize>(
    token: Avx2<Widening>,
    mut dots: [[__m256i; V]; R],
    w: &[u8],
    x: [&[i8]; V],
    quads: Range<usize>,
) -> [[__m256i; V]; R] {
    for first in quads.step_by(2) {
        for r in 0..R {
            let w =
                [token.splat_quad(&w[r * 32 + first * 4..]), token.splat_quad(&w[r * 32 + first * 4 + 4..])];
            for v in 0..V {
                let x = [token.load_quads(&x[v][first * 32..]), token.load_quads(&x[v][first * 32 + 32..])];
                // SAFETY: the token proves AVX2.
                unsafe {
                    let pairs =
                        _mm256_add_epi16(_mm256_maddubs_epi16(w[0], x[0]), _mm256_maddubs_epi16(w[1], x[1]));
                    let sum = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                    dots[r][v] = _mm256_add_epi32(dots[r][v], sum);
                }
            }
        }
    }
    dots
}

// SAFETY of every block below: the token proves AVX-VNNI and AVX2.
impl Products for Vnni {
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
        // SAFETY: `token` proves that the features are there.
        unsafe { with_features(token, kernel) }
    }
    #[inline(always)]
    fn signed(self, w: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_xor_si256(w, _mm256_set1_epi8(-128)) } // w + 128, as a u8
    }
    #[inline(always)]
    fn dot_i8(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        self.dot_u8(acc, w, x)
    }
    #[inline(always)]
    fn dot_u8(self, acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_dpbusd_avx_epi32(acc, w, x) }
    }
}
