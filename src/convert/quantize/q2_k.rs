//! Q2_K: a scale and a minimum are fitted to each 16 weights, and then rounded to 16 steps each.

use super::groups::{groups, put_f16, steps};
use super::scale_search::{Candidates, scales_and_mins};
use super::{inverse, round, to_u8};

const CANDIDATES: Candidates = Candidates { first: -0.5, step: 0.1, count: 16 };

/// Encodes one block.
#[inline(always)]
pub(super) fn quantize(weights: &[f32; 256], out: &mut [u8; 84]) {
    let x = groups::<16, 16>(weights);
    let importances = x.map(|x| x.map(f32::abs));
    let [scales, mins] = scales_and_mins(&x, &importances, 3.0, CANDIDATES);
    let (packed, rest) = out.split_at_mut(16);
    let (qs, halves) = rest.split_at_mut(64);
    let (d, dmin) = halves.split_at_mut(2);
    let (scales, scale_steps) = round_to_steps(&scales, d);
    let (mins, min_steps) = round_to_steps(&mins, dmin);
    for (packed, (scale, min)) in packed.iter_mut().zip(scale_steps.into_iter().zip(min_steps)) {
        *packed = scale | min << 4;
    }
    put_2_bits(&steps(&x, &scales, &mins, 3.0), qs);
}

/// Encoding as multiples, 0 to 15, of a number that is written as f16.
#[inline(always)]
fn round_to_steps(each: &[f32; 16], d: &mut [u8]) -> ([f32; 16], [u8; 16]) {
    let greatest = each.iter().fold(0.0, |greatest, &x| if x > greatest { x } else { greatest });
    let inverse = inverse(greatest / 15.0);
    let d = put_f16(greatest / 15.0, d);
    let steps = each.map(|x| round(x * inverse).clamp(0.0, 15.0));
    (steps.map(|step| d * step), steps.map(to_u8))
}

/// The low 2 bits of numbers, of the four groups of 32 in each half block in one byte.
#[inline(always)]
pub(super) fn put_2_bits(q: &[u8; 256], out: &mut [u8]) {
    for (q, out) in q.chunks_exact(128).zip(out.chunks_exact_mut(32)) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = q[i] & 3 | (q[32 + i] & 3) << 2 | (q[64 + i] & 3) << 4 | q[96 + i] << 6;
        }
    }
}
