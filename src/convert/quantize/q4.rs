//! Q4_0: of 16 steps, the weight farthest from zero becomes the first, which is 8 below zero. Q4_1:
//! the least weight becomes the first step, the greatest the last.

use super::{farthest, floor, inverse, range, to_u8};

/// Encodes one block.
#[inline(always)]
pub(super) fn q4_0(weights: &[f32; 32], out: &mut [u8; 18]) {
    let d = farthest(weights) / -8.0;
    out[..2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
    put_nibbles(&steps(weights, 0.0, inverse(d), 8.5, 15.0), &mut out[2..]);
}

/// Encodes one block.
#[inline(always)]
pub(super) fn q4_1(weights: &[f32; 32], out: &mut [u8; 20]) {
    let (least, greatest) = range(weights);
    let d = (greatest - least) / 15.0;
    out[..2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
    out[2..4].copy_from_slice(&half::f16::from_f32(least).to_le_bytes());
    put_nibbles(&steps(weights, least, inverse(d), 0.5, 15.0), &mut out[4..]);
}

/// `(weight - from) * steps + offset` without its fraction, at most `max`. As in the reference, the
/// scale is the one before it was rounded to f16, and sums are rounded one by one.
#[inline(always)]
pub(super) fn steps(weights: &[f32; 32], from: f32, steps: f32, offset: f32, max: f32) -> [u8; 32] {
    let mut q = [0; 32];
    for (q, weight) in q.iter_mut().zip(weights) {
        let x = (weight - from) * steps + offset;
        *q = to_u8(floor(if x < max { x } else { max }));
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
