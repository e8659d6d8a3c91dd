//! Q8_0: the largest of 32 weights becomes 127 steps or -127, the others the nearest step.

/// Encodes one block.
pub(super) fn quantize(weights: &[f32], out: &mut [u8]) {
    let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
    let d = largest / 127.0;
    // By the scale as it was before it was rounded to f16, as the reference does: steps then don't depend on how it is.
    let steps = if d == 0.0 { 0.0 } else { 1.0 / d };
    let (scale, quants) = out.split_at_mut(2);
    scale.copy_from_slice(&half::f16::from_f32(d).to_le_bytes());
    for (quant, weight) in quants.iter_mut().zip(weights) {
        *quant = (weight * steps).round() as i8 as u8;
    }
}
