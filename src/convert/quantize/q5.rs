//! Q5_0 and Q5_1: as Q4_0 and Q4_1, with 32 steps.

use super::q4::{put_nibbles, signed_steps, steps_from_min};

/// Encodes one block.
#[inline(always)]
pub(super) fn q5_0(weights: &[f32; 32], columns: Option<&[f32; 32]>, out: &mut [u8; 22]) {
    put_5_bits(&signed_steps(weights, columns, 16.0, &mut out[..2]), &mut out[2..]);
}

/// Encodes one block.
#[inline(always)]
pub(super) fn q5_1(weights: &[f32; 32], columns: Option<&[f32; 32]>, out: &mut [u8; 24]) {
    put_5_bits(&steps_from_min(weights, columns, 31.0, &mut out[..4]), &mut out[4..]);
}

/// The high bits, the first lowest, and then the low ones as in Q4_0.
#[inline(always)]
fn put_5_bits(q: &[u8; 32], out: &mut [u8]) {
    let high = q.iter().enumerate().fold(0, |bits, (i, &q)| bits | u32::from(q >> 4) << i);
    out[..4].copy_from_slice(&high.to_le_bytes());
    put_nibbles(q, &mut out[4..]);
}
