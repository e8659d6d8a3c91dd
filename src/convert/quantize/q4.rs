//! Q4_0: of 16 steps, the weight farthest from zero becomes the first, which is 8 below zero. Q4_1:
//! the least weight becomes the first step, the greatest the last. Where the importance of columns
//! is known, scale and minimum are fitted to it.

use super::groups::{by_columns, groups, put_f16};
use super::scale_search::{Candidates, FINE, scales, scales_and_mins};
use super::{MAX_F16, farthest, floor, inverse, range, to_u8};

const CANDIDATES: Candidates = Candidates { first: -0.9, step: 0.1, count: 19 };

/// Encodes one block.
#[inline(always)]
pub(super) fn q4_0(weights: &[f32; 32], columns: Option<&[f32; 32]>, out: &mut [u8; 18]) {
    put_nibbles(&signed_steps(weights, columns, 8.0, &mut out[..2]), &mut out[2..]);
}

/// Encodes one block.
#[inline(always)]
pub(super) fn q4_1(weights: &[f32; 32], columns: Option<&[f32; 32]>, out: &mut [u8; 20]) {
    put_nibbles(&steps_from_min(weights, columns, 15.0, &mut out[..4]), &mut out[4..]);
}

/// Writes the scale of Q4_0 or Q5_0, 2 bytes; which of the steps `-n..n` the weights become then,
/// plus `n`.
#[inline(always)]
pub(super) fn signed_steps(
    weights: &[f32; 32],
    columns: Option<&[f32; 32]>,
    n: f32,
    header: &mut [u8],
) -> [u8; 32] {
    let d = if let Some(columns) = columns {
        let x = groups::<32, 1>(weights);
        let [d] = scales(&x, &by_columns(&x, columns, 1.0), n, CANDIDATES);
        put_f16(d, header)
    } else {
        // As in the reference, steps are of the scale before it was rounded to f16.
        let d = farthest(weights) / -n;
        put_f16(d, header);
        d
    };
    steps(weights, 0.0, inverse(d), n + 0.5, 2.0 * n - 1.0)
}

/// Writes the scale and the minimum of Q4_1 or Q5_1, 4 bytes; which of the steps `0..=n` the
/// weights become then.
#[inline(always)]
pub(super) fn steps_from_min(
    weights: &[f32; 32],
    columns: Option<&[f32; 32]>,
    n: f32,
    header: &mut [u8],
) -> [u8; 32] {
    let (d_bytes, min_bytes) = header.split_at_mut(2);
    let (least, greatest) = range(weights);
    let (d, min) = if let Some(columns) = columns {
        let importances = by_columns(&groups::<32, 1>(weights), columns, 1.0);
        // The search finds no minimum above zero, so it begins from where all weights are.
        let base = if least > 0.0 { least } else { 0.0 };
        let above = groups::<32, 1>(&weights.map(|weight| weight - base));
        let [[d], [below]] = scales_and_mins(&above, &importances, n, FINE);
        (put_f16(d, d_bytes), put_f16((base - below).clamp(-MAX_F16, MAX_F16), min_bytes))
    } else {
        let d = (greatest - least) / n;
        put_f16(d, d_bytes);
        put_f16(least, min_bytes);
        (d, least)
    };
    steps(weights, min, inverse(d), 0.5, n)
}

/// `(weight - from) * steps + offset` without its fraction, within `0..=max`. As in the reference,
/// sums are rounded one by one.
#[inline(always)]
fn steps(weights: &[f32; 32], from: f32, steps: f32, offset: f32, max: f32) -> [u8; 32] {
    let mut q = [0; 32];
    for (q, weight) in q.iter_mut().zip(weights) {
        *q = to_u8(floor(((weight - from) * steps + offset).clamp(0.0, max)));
    }
    q
}

/// The low nibbles of bytes are the first 16 integers, the high nibbles the others.
#[inline(always)]
pub(super) fn put_nibbles(q: &[u8; 32], out: &mut [u8]) {
    for (i, out) in out.iter_mut().enumerate().take(16) {
        *out = q[i] & 15 | q[i + 16] << 4;
    }
}
