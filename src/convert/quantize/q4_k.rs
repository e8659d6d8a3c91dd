//! Q4_K: a scale and a minimum are fitted to each 32 weights, and then rounded to 64 steps each.

use super::groups::{Groups, by_columns, fit_to_steps, groups, round_to_steps, steps, sums};
use super::scale_search::{Candidates, FINE, scales_and_mins};

const CANDIDATES: Candidates = Candidates { first: -1.0, step: 0.1, count: 21 };

/// Encodes one block.
#[inline(always)]
pub(super) fn quantize(weights: &[f32; 256], columns: Option<&[f32; 256]>, out: &mut [u8; 144]) {
    let (header, qs) = out.split_at_mut(16);
    put_nibbles(&fitted_steps(weights, columns, 15.0, CANDIDATES, header), qs);
}

/// Fits the scales and minima of Q4_K or Q5_K and writes them, 16 bytes; which of the steps `0..=n`
/// the weights become then.
#[inline(always)]
pub(super) fn fitted_steps(
    weights: &[f32; 256],
    columns: Option<&[f32; 256]>,
    n: f32,
    candidates: Candidates,
    header: &mut [u8],
) -> [u8; 256] {
    let x = groups::<32, 8>(weights);
    let (d, rest) = header.split_at_mut(2);
    let (dmin, packed) = rest.split_at_mut(2);
    let ((scales, scale_steps), (mins, min_steps)) = if let Some(columns) = columns {
        let importances = by_columns(&x, columns, 2.0);
        let ([scales, mins], sums) = (scales_and_mins(&x, &importances, n, FINE), sums(&importances));
        (fit_to_steps(&scales, &sums, 63.0, d), fit_to_steps(&mins, &sums, 63.0, dmin))
    } else {
        let [scales, mins] = scales_and_mins(&x, &importances(&x), n, candidates);
        (round_to_steps(&scales, 63.0, d), round_to_steps(&mins, 63.0, dmin))
    };
    for g in 0..4 {
        packed[g] = scale_steps[g] | scale_steps[4 + g] >> 4 << 6;
        packed[4 + g] = min_steps[g] | min_steps[4 + g] >> 4 << 6;
        packed[8 + g] = scale_steps[4 + g] & 15 | min_steps[4 + g] << 4;
    }
    steps(&x, &scales, &mins, n)
}

/// How much a weight counts: by how far it is from zero, and besides by its group's root mean
/// square.
#[inline(always)]
fn importances(x: &Groups<32, 8>) -> Groups<32, 8> {
    let mut squares = [0.0; 8];
    for x in x {
        for g in 0..8 {
            squares[g] += x[g] * x[g];
        }
    }
    let base = squares.map(|sum| (sum / 32.0).sqrt());
    let mut importances = *x;
    for x in &mut importances {
        for g in 0..8 {
            x[g] = base[g] + x[g].abs();
        }
    }
    importances
}

/// The low 4 bits of 256 integers: each two groups of 32 are the low and the high nibbles of 32
/// bytes.
#[inline(always)]
pub(super) fn put_nibbles(q: &[u8; 256], out: &mut [u8]) {
    for (q, out) in q.chunks_exact(64).zip(out.chunks_exact_mut(32)) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = q[i] & 15 | q[32 + i] << 4;
        }
    }
}
