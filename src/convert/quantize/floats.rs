//! F32 as it is, and F16 and BF16 rounded to the nearest, of two equally near to the even one.

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

/// Numbers that are converted at once: `half` then has an instruction for eight.
const CHUNK: usize = 256;

pub(super) fn f32(weights: &[f32], out: &mut [u8]) {
    for (weight, out) in weights.iter().zip(out.chunks_exact_mut(4)) {
        out.copy_from_slice(&weight.to_le_bytes());
    }
}

pub(super) fn f16(weights: &[f32], out: &mut [u8]) {
    put(weights, out, |weights, bits| bits.reinterpret_cast_mut::<f16>().convert_from_f32_slice(weights));
}

pub(super) fn bf16(weights: &[f32], out: &mut [u8]) {
    put(weights, out, |weights, bits| bits.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(weights));
}

fn put(weights: &[f32], out: &mut [u8], convert: impl Fn(&[f32], &mut [u16])) {
    let mut bits = [0; CHUNK];
    for (weights, out) in weights.chunks(CHUNK).zip(out.chunks_mut(2 * CHUNK)) {
        let bits = &mut bits[..weights.len()];
        convert(weights, bits);
        for (bits, out) in bits.iter().zip(out.chunks_exact_mut(2)) {
            out.copy_from_slice(&bits.to_le_bytes());
        }
    }
}
