//! F32 as it is, and F16 and BF16 rounded to the nearest, of two equally near to the even one.

/// Encodes one weight.
#[inline(always)]
pub(super) fn f32(&[weight]: &[f32; 1], out: &mut [u8; 4]) {
    *out = weight.to_le_bytes();
}

/// Encodes one weight.
#[inline(always)]
pub(super) fn f16(&[weight]: &[f32; 1], out: &mut [u8; 2]) {
    *out = half::f16::from_f32(weight).to_le_bytes();
}

/// Encodes one weight.
#[inline(always)]
pub(super) fn bf16(&[weight]: &[f32; 1], out: &mut [u8; 2]) {
    *out = half::bf16::from_f32(weight).to_le_bytes();
}
