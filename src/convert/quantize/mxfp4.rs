//! MXFP4: the power of two that the weight farthest from zero reaches decides the scale, and each
//! weight becomes the nearest of fifteen values.

use super::farthest;
use super::q4::put_nibbles;
use crate::quant::mxfp4::{SCALES, VALUES};

/// Encodes one block.
#[inline(always)]
pub(super) fn quantize(weights: &[f32; 32], out: &mut [u8; 17]) {
    out[0] = exponent(farthest(weights).abs());
    let (scale, mut q) = (SCALES[usize::from(out[0])], [0; 32]);
    for (q, weight) in q.iter_mut().zip(weights) {
        // Of two that are equally near, the first: of the zeros, the one without a sign.
        let (mut nearest, mut least) = (0, f32::INFINITY);
        for (i, &value) in (0..).zip(&VALUES) {
            let error = (scale * f32::from(value) - weight).abs();
            nearest = if error < least { i } else { nearest };
            least = if error < least { error } else { least };
        }
        *q = nearest;
    }
    put_nibbles(&q, &mut out[1..]);
}

/// The scale's, by which the largest weight becomes 8 or more.
#[inline(always)]
fn exponent(largest: f32) -> u8 {
    if largest == 0.0 {
        return 0;
    }
    // As in the reference, the logarithm is rounded to f32, which may be the next integer.
    let power = f64::from(largest).log2() as f32;
    (power.floor() - 2.0 + 127.0) as u8
}
