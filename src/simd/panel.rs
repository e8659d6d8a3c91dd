//! What a product of a panel is made of, on every instruction set: see
//! [`QuantKernels::dot_micro_panel`](super::QuantKernels::dot_micro_panel).

use std::ops::Range;

use super::Simd;

/// A group of a micro-panel of `R` rows of weights.
#[allow(dead_code, reason = "signs are read with AVX2 alone")]
#[derive(Clone, Copy)]
pub(crate) struct PanelGroup<'a, const R: usize> {
    /// The integers: as [`Simd::quads_of_i8x32`] made them of those with a sign, or the absolute
    /// values of these with [`SIGNS_APART`](super::QuantKernels::SIGNS_APART).
    pub(crate) qs: &'a [[u8; 32]; R],
    /// With `SIGNS_APART`, 255 for each integer below zero (`R`, 32).
    pub(crate) signs: &'a [[u8; 32]],
    /// With `SIGNS_APART`, of each row the sum of the absolute values of those below zero.
    pub(crate) below_zero: [i32; R],
}

/// Tokens' activations of a group, or of one of its sub-blocks, in `V` vectors of tokens.
#[derive(Clone, Copy)]
pub(crate) struct PanelTokens<'a, S: Simd, const V: usize> {
    /// Those of the group: (8, `LANES`, 4) in each.
    pub(crate) group: [&'a [i8]; V],
    /// The sums of each token's quads, of those that are multiplied, as
    /// [`add_quads`](super::QuantKernels::add_quads) makes them.
    pub(crate) sums: [S::I32; V],
}

/// `dots` less what a bias adds to them: that of `BITS` 8 is the instruction set's own.
#[inline(always)]
pub(super) fn take_off_bias<S: Simd, const BITS: u32, const R: usize, const V: usize>(
    s: S,
    mut dots: [[S::I32; V]; R],
    x: PanelTokens<'_, S, V>,
    bias: Option<u32>,
) -> [[S::I32; V]; R] {
    let bias = if BITS == 8 { S::QUADS_BIAS } else { bias };
    if let Some(n) = bias {
        for v in 0..V {
            for r in 0..R {
                dots[r][v] = s.sub_shifted_i32(dots[r][v], x.sums[v], n);
            }
        }
    }
    dots
}

/// `dots` with the products of one quad after another added.
#[inline(always)]
pub(super) fn dot_quad_by_quad<S: Simd, const BITS: u32, const R: usize, const V: usize>(
    s: S,
    mut dots: [[S::I32; V]; R],
    w: &[[u8; 32]; R],
    x: [&[i8]; V],
    quads: Range<usize>,
) -> [[S::I32; V]; R] {
    for q in quads {
        let mut x_quads = [s.splat_quad(&[0; 4]); V];
        for v in 0..V {
            x_quads[v] = s.load_quads(&x[v][q * 4 * S::LANES..]);
        }
        for r in 0..R {
            let w = s.splat_quad(&w[r][q * 4..]);
            for v in 0..V {
                dots[r][v] = if BITS == 8 {
                    s.dot4_i8i8(dots[r][v], w, x_quads[v])
                } else {
                    s.dot4_u8i8(dots[r][v], w, x_quads[v])
                };
            }
        }
    }
    dots
}
