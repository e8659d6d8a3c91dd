//! Q3_K: a scale is fitted to each 16 weights, and then rounded to 64 steps.

use super::groups::{by_columns, farthest_of_all, groups, put_f16, steps, sums};
use super::q2_k::put_2_bits;
use super::scale_search::{Candidates, scales};
use super::{inverse, round, to_u8};

const CANDIDATES: Candidates = Candidates { first: -0.9, step: 0.1, count: 19 };

/// Encodes one block.
#[inline(always)]
pub(super) fn quantize(weights: &[f32; 256], columns: Option<&[f32; 256]>, out: &mut [u8; 110]) {
    let x = groups::<16, 16>(weights);
    let importances =
        columns.map_or_else(|| x.map(|x| x.map(f32::abs)), |columns| by_columns(&x, columns, 2.0));
    let of_groups = scales(&x, &importances, 4.0, CANDIDATES);
    let d = if columns.is_some() {
        // The scales are themselves a group of 16.
        let [d] = scales(&of_groups.map(|s| [s]), &sums(&importances).map(|w| [w]), 32.0, CANDIDATES);
        d
    } else {
        // The scale that is farthest from zero becomes -32 steps.
        farthest_of_all(&of_groups) / -32.0
    };
    let inverse = inverse(d);
    let d = put_f16(d, &mut out[108..]);
    let scale_steps = of_groups.map(|scale| round(scale * inverse).clamp(-32.0, 31.0));
    let scales = scale_steps.map(|step| d * step);
    // A weight is its scale times `q - 4`.
    let q = steps(&x, &scales, &scales.map(|scale| 4.0 * scale), 7.0);
    let (high, low) = out.split_at_mut(32);
    put_high_bits(&q.map(|q| q >> 2), high);
    put_2_bits(&q, &mut low[..64]);
    put_scales(&scale_steps.map(|step| to_u8(step + 32.0)), &mut low[64..76]);
}

/// Bit `g` of byte `i` is that of weight `i` of group `g` of 32.
#[inline(always)]
pub(super) fn put_high_bits(bits: &[u8; 256], out: &mut [u8]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = (0..8).fold(0, |byte, g| byte | bits[32 * g + i] << g);
    }
}

/// 16 integers of 6 bits, as `quant/q3_k.rs` draws them.
#[inline(always)]
fn put_scales(scales: &[u8; 16], out: &mut [u8]) {
    for i in 0..8 {
        out[i] = scales[i] & 15 | scales[8 + i] << 4;
    }
    for i in 0..4 {
        out[8 + i] =
            scales[i] >> 4 | scales[4 + i] >> 4 << 2 | scales[8 + i] >> 4 << 4 | scales[12 + i] >> 4 << 6;
    }
}
