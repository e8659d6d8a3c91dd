//! Q6_K: a scale is fitted to each 16 weights, and then rounded to 256 steps.

use super::groups::{farthest_of_all, groups, put_f16, steps};
use super::scale_search::{Candidates, scales};
use super::{inverse, round};

const CANDIDATES: Candidates = Candidates { first: -0.9, step: 0.1, count: 19 };

/// Encodes one block.
#[inline(always)]
pub(super) fn quantize(weights: &[f32; 256], columns: Option<&[f32; 256]>, out: &mut [u8; 210]) {
    let x = groups::<16, 16>(weights);
    let importances =
        columns.map_or_else(|| x.map(|x| x.map(|x| x * x)), |columns| groups::<16, 16>(columns));
    let scales = scales(&x, &importances, 32.0, CANDIDATES);
    // The scale that is farthest from zero becomes -128 steps.
    let d = farthest_of_all(&scales) / -128.0;
    let inverse = inverse(d);
    let d = put_f16(d, &mut out[208..]);
    let scale_steps = scales.map(|scale| round(scale * inverse).clamp(-128.0, 127.0));
    let scales = scale_steps.map(|step| d * step);
    // A weight is its scale times `q - 32`.
    let q = steps(&x, &scales, &scales.map(|scale| 32.0 * scale), 63.0);
    let (low, rest) = out.split_at_mut(128);
    put_6_bits(&q, low, &mut rest[..64]);
    for (out, step) in rest[64..80].iter_mut().zip(scale_steps) {
        *out = step as i8 as u8;
    }
}

/// The low 4 and the high 2 bits of 256 integers, as `quant/q6_k.rs` draws them.
#[inline(always)]
fn put_6_bits(q: &[u8; 256], low: &mut [u8], high: &mut [u8]) {
    for ((q, low), high) in q.chunks_exact(128).zip(low.chunks_exact_mut(64)).zip(high.chunks_exact_mut(32)) {
        for i in 0..64 {
            low[i] = q[i] & 15 | q[64 + i] << 4;
        }
        for i in 0..32 {
            high[i] = q[i] >> 4 | q[32 + i] >> 4 << 2 | q[64 + i] >> 4 << 4 | q[96 + i] >> 4 << 6;
        }
    }
}
