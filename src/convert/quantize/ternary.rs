//! TQ1_0 and TQ2_0: the weight farthest from zero is the scale, and the others become the nearest
//! of it, zero and its negative.

use super::inverse;
use super::q2_k::put_2_bits;

/// Encodes one block.
#[inline(always)]
pub(super) fn tq1_0(weights: &[f32; 256], out: &mut [u8; 54]) {
    let (q, (qs, d)) = (trits(weights), out.split_at_mut(52));
    let (first, last) = q.split_at(240);
    let (first, second) = first.split_at(160);
    put_digits::<32, 5>(first, &mut qs[..32]);
    put_digits::<16, 5>(second, &mut qs[32..48]);
    put_digits::<4, 4>(last, &mut qs[48..]);
    put_scale(weights, d);
}

/// Encodes one block.
#[inline(always)]
pub(super) fn tq2_0(weights: &[f32; 256], out: &mut [u8; 66]) {
    let (qs, d) = out.split_at_mut(64);
    put_2_bits(&trits(weights), qs);
    put_scale(weights, d);
}

/// The weight that is farthest from zero, without its sign.
#[inline(always)]
fn largest(weights: &[f32; 256]) -> f32 {
    weights
        .iter()
        .fold(0.0, |largest: f32, weight| if weight.abs() > largest { weight.abs() } else { largest })
}

/// 0, 1 or 2 for each weight. As in the reference, the scale is the one before it was rounded to
/// f16.
#[inline(always)]
fn trits(weights: &[f32; 256]) -> [u8; 256] {
    let (inverse, mut q) = (inverse(largest(weights)), [1; 256]);
    for (q, weight) in q.iter_mut().zip(weights) {
        let steps = weight * inverse;
        *q += u8::from(steps >= 0.5);
        *q -= u8::from(steps <= -0.5);
    }
    q
}

#[inline(always)]
fn put_scale(weights: &[f32; 256], out: &mut [u8]) {
    out.copy_from_slice(&half::f16::from_f32(largest(weights)).to_le_bytes());
}

/// Packs integers (`DIGITS`, `BYTES`) as digits to the base 3 of fractions of 256, rounded up, so
/// that multiplying by 3 brings them back. Four digits leave the last one of five 0.
#[inline(always)]
fn put_digits<const BYTES: usize, const DIGITS: usize>(q: &[u8], out: &mut [u8]) {
    for i in 0..BYTES {
        let mut number = 0;
        for j in 0..5 {
            number = 3 * number + if j < DIGITS { u16::from(q[j * BYTES + i]) } else { 0 };
        }
        out[i] = (number * 256).div_ceil(243) as u8;
    }
}
