//! Products of a panel without AVX-VNNI:
//! [`QuantKernels::dot_micro_panel`](super::super::QuantKernels::dot_micro_panel) by the bits that
//! weights have.

#![allow(unsafe_code, reason = "assembly without instructions, for the order of others")]

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::super::features::target_feature_impl;
use super::super::panel::{dot_quad_by_quad, take_off_bias};
use super::super::{PanelGroup, PanelTokens, Simd, Simd256};
use super::widening::{add_products, add_widened};
use super::{Avx2, Widening};

/// Sums of int16, which are widened when they can grow no further.
trait Int16Sums {
    /// `sums + pairs`, where each pair is the sum of two neighbors' products, and the compiler
    /// can't add in another order. It would make trees of a tile's sums, in more registers than
    /// there are: a prompt in Q4_0 took half as long again.
    fn add_products_in_order(self, sums: __m256i, w: __m256i, x: __m256i) -> __m256i;
    /// In lane `i`, `acc[i]` and the two sums `i`.
    fn widen_and_add(self, acc: __m256i, sums: __m256i) -> __m256i;
    /// In lane `i`, `acc[i]` and the products of `magnitudes` and of `x`, or of `~x` where `signs`
    /// is 255, in the order in which they stand.
    fn add_signed_products(self, acc: __m256i, magnitudes: __m256i, signs: __m256i, x: __m256i) -> __m256i;
    /// `a - (b << n)`, of int16.
    fn sub_shifted_i16(self, a: __m256i, b: __m256i, n: u32) -> __m256i;
}

target_feature_impl! {
    "avx2,fma,f16c"
    impl Int16Sums for Widening {
        {}
        fn add_products_in_order(sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
            let mut sums = add_products(sums, w, x);
            // SAFETY: there is no instruction in it. It says that the sums may have changed.
            unsafe { asm!("/* {0} */", inout(ymm_reg) sums, options(pure, nomem, nostack, preserves_flags)) }
            sums
        }
        fn widen_and_add(acc: __m256i, sums: __m256i) -> __m256i {
            add_widened(acc, sums)
        }
        fn add_signed_products(acc: __m256i, magnitudes: __m256i, signs: __m256i, x: __m256i) -> __m256i {
            // A pair is at least 2 * 128 * -128 = -32,768 and at most 2 * 127 * 127: -128, whose
            // absolute value is 128, is multiplied with ~x, which is within -128..=126.
            let pairs = _mm256_maddubs_epi16(magnitudes, _mm256_xor_si256(x, signs));
            let mut sums = add_widened(acc, pairs);
            // SAFETY: as in `add_products_in_order`.
            unsafe { asm!("/* {0} */", inout(ymm_reg) sums, options(pure, nomem, nostack, preserves_flags)) }
            sums
        }
        fn sub_shifted_i16(a: __m256i, b: __m256i, n: u32) -> __m256i {
            _mm256_sub_epi16(a, _mm256_sll_epi16(b, _mm_cvtsi32_si128(n as i32)))
        }
    }
}

/// `n`, which the compiler doesn't know, so that it keeps a loop. (It would unroll it and keep more
/// sums at a time than there are registers.)
#[inline(always)]
fn unknown(mut n: usize) -> usize {
    // SAFETY: there is no instruction in it. It says that the number may have changed.
    unsafe { asm!("/* {0} */", inout(reg) n, options(pure, nomem, nostack, preserves_flags)) }
    n
}

/// `n` quads of each row, from one on: `n` is checked once, and not for each of them.
#[inline(always)]
fn quads_of_rows<const R: usize>(w: &[[u8; 32]], first: usize, n: usize) -> [&[[u8; 4]]; R] {
    let mut rows = [&[][..]; R];
    for r in 0..R {
        rows[r] = &w[r][4 * first..].as_chunks().0[..n];
    }
    rows
}

/// `n` quads of each vector of tokens, from one on.
#[inline(always)]
fn quads_of_tokens<'a, const V: usize>(
    x: PanelTokens<'a, Avx2<Widening>, V>,
    first: usize,
    n: usize,
) -> [&'a [[i8; 32]]; V] {
    let mut tokens = [&[][..]; V];
    for v in 0..V {
        tokens[v] = &x.group[v][32 * first..].as_chunks().0[..n];
    }
    tokens
}

/// [`Products::dot_micro_panel`] by sums of int16, which are widened once, for weights of at most 6
/// bits.
///
/// Of up to 5 bits 8 quads are multiplied, of 6 bits 4, so that a lane adds 16 and 8 products. It
/// may wrap around meanwhile: only the sum must fit. At most 4 bits, it is 15 * 127 * 16 = 30,480;
/// of more, it fits when half of their range is taken off: 16 * 127 * 16 = 32 * 127 * 8 = 32,512.
#[inline(always)]
pub(super) fn panel_by_sums<const BITS: u32, const R: usize, const V: usize>(
    token: Avx2<Widening>,
    mut dots: [[__m256i; V]; R],
    w: PanelGroup<'_, R>,
    x: PanelTokens<'_, Avx2<Widening>, V>,
    bias: Option<u32>,
    quads: Range<usize>,
) -> [[__m256i; V]; R] {
    let half = if BITS > 4 { Some(BITS - 1) } else { None };
    let mut sums = [[token.zero_i32(); V]; R];
    if let Some(n) = bias.or(half) {
        for v in 0..V {
            let less = token.0.sub_shifted_i16(token.zero_i32(), x.sums[v], n);
            for r in 0..R {
                sums[r][v] = less;
            }
        }
    }
    // A loop over eight is kept as it is, and faster when its bounds are known.
    let n = if quads.len() == 8 { 8 } else { unknown(quads.len()) };
    let (w, tokens) = (quads_of_rows::<R>(w.qs, quads.start, n), quads_of_tokens(x, quads.start, n));
    // From zero on, the first products are the sums.
    let mut first = 0;
    if bias.or(half).is_none() {
        sums = add_quad(token, sums, w, tokens, 0);
        first = 1;
    }
    for q in first..n {
        sums = add_quad(token, sums, w, tokens, q);
    }
    for v in 0..V {
        // What was taken off and isn't a bias.
        let mut back = token.zero_i32();
        if let (None, Some(n)) = (bias, half) {
            let sums = token.madd_i16(x.sums[v], token.splat_i32(-1));
            back = token.sub_shifted_i32(back, sums, n);
        }
        for r in 0..R {
            dots[r][v] = token.0.widen_and_add(token.add_i32x8(dots[r][v], back), sums[r][v]);
        }
    }
    dots
}

/// `sums` with the products of a quad of each row and each token added.
#[inline(always)]
fn add_quad<const R: usize, const V: usize>(
    token: Avx2<Widening>,
    mut sums: [[__m256i; V]; R],
    w: [&[[u8; 4]]; R],
    tokens: [&[[i8; 32]]; V],
    q: usize,
) -> [[__m256i; V]; R] {
    let mut x_quads = [token.zero_i32(); V];
    for v in 0..V {
        x_quads[v] = token.load_quads(&tokens[v][q]);
    }
    for r in 0..R {
        let w = token.splat_quad(&w[r][q]);
        for v in 0..V {
            sums[r][v] = token.0.add_products_in_order(sums[r][v], w, x_quads[v]);
        }
    }
    sums
}

/// [`Products::dot_micro_panel`] of weights of 7 bits, of which no two pairs fit an int16.
#[inline(always)]
pub(super) fn panel_by_quads<const R: usize, const V: usize>(
    token: Avx2<Widening>,
    dots: [[__m256i; V]; R],
    w: PanelGroup<'_, R>,
    x: PanelTokens<'_, Avx2<Widening>, V>,
    bias: Option<u32>,
    quads: Range<usize>,
) -> [[__m256i; V]; R] {
    let mut sums = x.sums;
    for v in 0..V {
        sums[v] = token.madd_i16(sums[v], token.splat_i32(0x1_0001));
    }
    let mut dots = take_off_bias::<_, 7, R, V>(token, dots, PanelTokens { sums, ..x }, bias);
    let n = quads.len();
    for i in 0..unknown(n) {
        let q = quads.start + i % n;
        dots = dot_quad_by_quad::<_, 7, R, V>(token, dots, w.qs, x.group, q..q + 1);
    }
    dots
}

/// [`Products::dot_micro_panel`] of weights with a sign, by `w x = |w| ~x + |w|` for those below
/// zero, as `~x` is `-x - 1`. The second term is the same for all tokens; and any port of the
/// processor makes `~x`, while `sign` waits for those that multiply.
#[inline(always)]
pub(super) fn panel_by_signs<const R: usize, const V: usize>(
    token: Avx2<Widening>,
    mut dots: [[__m256i; V]; R],
    w: PanelGroup<'_, R>,
    x: PanelTokens<'_, Avx2<Widening>, V>,
    quads: Range<usize>,
) -> [[__m256i; V]; R] {
    for r in 0..R {
        for v in 0..V {
            dots[r][v] = token.add_i32x8(dots[r][v], token.splat_i32(w.below_zero[r]));
        }
    }
    let n = unknown(quads.len());
    let tokens = quads_of_tokens(x, quads.start, n);
    let (magnitudes, signs) =
        (quads_of_rows::<R>(w.qs, quads.start, n), quads_of_rows::<R>(w.signs, quads.start, n));
    for q in 0..n {
        let mut x_quads = [token.zero_i32(); V];
        for v in 0..V {
            x_quads[v] = token.load_quads(&tokens[v][q]);
        }
        for r in 0..R {
            let (magnitudes, signs) = (token.splat_quad(&magnitudes[r][q]), token.splat_quad(&signs[r][q]));
            for v in 0..V {
                dots[r][v] = token.0.add_signed_products(dots[r][v], magnitudes, signs, x_quads[v]);
            }
        }
    }
    dots
}
