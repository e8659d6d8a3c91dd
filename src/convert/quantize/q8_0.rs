//! Q8_0: the largest of 32 weights becomes 127 steps or -127, the others the nearest step.

use super::{farthest, floor, inverse, to_u8};

/// Encodes one block.
#[inline(always)]
pub(super) fn quantize(weights: &[f32; 32], out: &mut [u8; 34]) {
    let d = farthest(weights).abs() / 127.0;
    // As in the reference, the scale is the one before it was rounded to f16.
    let steps = inverse(d);
    let (scale, quants) = out.split_at_mut(2);
    scale.copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
    for (quant, weight) in quants.iter_mut().zip(weights) {
        *quant = nearest(weight * steps);
    }
}

/// The nearest integer, of two the one farther from zero, of a number between ±127, as int8.
#[inline(always)]
fn nearest(x: f32) -> u8 {
    let below = floor(x.abs());
    let nearest = if x.abs() - below < 0.5 { below } else { below + 1.0 };
    let signed = if x < 0.0 { -nearest } else { nearest };
    // The low byte of a number that isn't negative is the same.
    to_u8(signed + 256.0)
}
