//! Q5_0 and Q5_1: as Q4_0 and Q4_1, with 32 steps.

use super::q4::{put_nibbles, steps};
use super::{farthest, inverse, range};

/// Encodes one block.
#[inline(always)]
pub(super) fn q5_0(weights: &[f32; 32], out: &mut [u8; 22]) {
    let d = farthest(weights) / -16.0;
    out[..2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
    put_5_bits(&steps(weights, 0.0, inverse(d), 16.5, 31.0), &mut out[2..]);
}

/// Encodes one block.
#[inline(always)]
pub(super) fn q5_1(weights: &[f32; 32], out: &mut [u8; 24]) {
    let (least, greatest) = range(weights);
    let d = (greatest - least) / 31.0;
    out[..2].copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
    out[2..4].copy_from_slice(&half::f16::from_f32(least).to_le_bytes());
    put_5_bits(&steps(weights, least, inverse(d), 0.5, 31.0), &mut out[4..]);
}

/// The high bits, the first lowest, and then the low ones as in Q4_0.
#[inline(always)]
fn put_5_bits(q: &[u8; 32], out: &mut [u8]) {
    let high = q.iter().enumerate().fold(0, |bits, (i, &q)| bits | u32::from(q >> 4) << i);
    out[..4].copy_from_slice(&high.to_le_bytes());
    put_nibbles(q, &mut out[4..]);
}
