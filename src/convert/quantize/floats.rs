//! F32 as it is, and F16 and BF16 rounded to the nearest, of two equally near to the even one.

/// Encodes one weight.
pub(super) fn f32(weights: &[f32], out: &mut [u8]) {
    out.copy_from_slice(&weights[0].to_le_bytes());
}

/// Encodes one weight.
pub(super) fn f16(weights: &[f32], out: &mut [u8]) {
    out.copy_from_slice(&half::f16::from_f32(weights[0]).to_le_bytes());
}

/// Encodes one weight.
pub(super) fn bf16(weights: &[f32], out: &mut [u8]) {
    out.copy_from_slice(&half::bf16::from_f32(weights[0]).to_le_bytes());
}
