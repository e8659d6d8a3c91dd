//! Q2_K: a scale and a minimum are fitted to each 16 weights, and then rounded to 16 steps each.

use super::groups::{by_columns, fit_to_steps, groups, round_to_steps, steps, sums};
use super::scale_search::{Candidates, FINE, scales_and_mins};

const CANDIDATES: Candidates = Candidates { first: -0.5, step: 0.1, count: 16 };

/// Encodes one block.
#[inline(always)]
pub(super) fn quantize(weights: &[f32; 256], columns: Option<&[f32; 256]>, out: &mut [u8; 84]) {
    let x = groups::<16, 16>(weights);
    let (packed, rest) = out.split_at_mut(16);
    let (qs, halves) = rest.split_at_mut(64);
    let (d, dmin) = halves.split_at_mut(2);
    let ((scales, scale_steps), (mins, min_steps)) = if let Some(columns) = columns {
        let importances = by_columns(&x, columns, 1.0);
        let ([scales, mins], sums) = (scales_and_mins(&x, &importances, 3.0, FINE), sums(&importances));
        (fit_to_steps(&scales, &sums, 15.0, d), fit_to_steps(&mins, &sums, 15.0, dmin))
    } else {
        let importances = x.map(|x| x.map(f32::abs));
        let [scales, mins] = scales_and_mins(&x, &importances, 3.0, CANDIDATES);
        (round_to_steps(&scales, 15.0, d), round_to_steps(&mins, 15.0, dmin))
    };
    for (packed, (scale, min)) in packed.iter_mut().zip(scale_steps.into_iter().zip(min_steps)) {
        *packed = scale | min << 4;
    }
    put_2_bits(&steps(&x, &scales, &mins, 3.0), qs);
}

/// The low 2 bits of 256 integers: in each half of a block, one byte has those of its four groups
/// of 32.
#[inline(always)]
pub(super) fn put_2_bits(q: &[u8; 256], out: &mut [u8]) {
    for (q, out) in q.chunks_exact(128).zip(out.chunks_exact_mut(32)) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = q[i] & 3 | (q[32 + i] & 3) << 2 | (q[64 + i] & 3) << 4 | q[96 + i] << 6;
        }
    }
}
