//! Quantizers: f32 weights in, blocks of a format out.
//!
//! A format is a function that encodes one block, and a row of [`QUANTIZERS`]. Its bytes mean what
//! the file of the same name in `quant/` draws.
//!
//! - `floats`, `q8_0`, `q4`, `q5`, `ternary`, `mxfp4`: the largest weight decides the scale
//! - `q2_k` to `q6_k`, and `q4` and `q5` where the importance of columns is known: scales are
//!   searched for; `scale_search` is the search, `groups` the layout of a block for it
//!
//! Invariants: a block depends on its own weights alone, so a tensor may be encoded in parts, in
//! any order, on any threads. Each instruction set makes the same bytes: encoders are plain f32
//! arithmetic, which is compiled for all of them and never fused or reordered.
//!
//! Source: PyPI `gguf`'s reference quantizers, whose bytes those of the first kind are; for the
//! others each format's file, and ggml's with the same importances, which they're held to.

mod floats;
mod groups;
mod mxfp4;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q5_k;
mod q6_k;
mod q8_0;
mod scale_search;
mod ternary;

use crate::error::{Error, Result};
use crate::quant::Dtype;
use crate::simd::{Isa, Kernel, Simd, kernel};

/// Encodes blocks, whose weights and bytes [`Dtype::block`] says; with the importance of each
/// column, if it is known and the format heeds it.
type Quantizer = fn(Isa, &[f32], Option<&[f32]>, &mut [u8]);

/// The formats that can be written.
const QUANTIZERS: &[(Dtype, Quantizer)] = &[
    (Dtype::F32, |_, weights, _, out| floats::f32(weights, out)),
    (Dtype::F16, |_, weights, _, out| floats::f16(weights, out)),
    (Dtype::Bf16, |_, weights, _, out| floats::bf16(weights, out)),
    (Dtype::Q8_0, |isa, weights, _, out| encode(isa, weights, out, q8_0::quantize)),
    (Dtype::Q4_0, |isa, weights, importance, out| encode_by(isa, weights, importance, out, q4::q4_0)),
    (Dtype::Q4_1, |isa, weights, importance, out| encode_by(isa, weights, importance, out, q4::q4_1)),
    (Dtype::Q5_0, |isa, weights, importance, out| encode_by(isa, weights, importance, out, q5::q5_0)),
    (Dtype::Q5_1, |isa, weights, importance, out| encode_by(isa, weights, importance, out, q5::q5_1)),
    (Dtype::Q2K, |isa, weights, importance, out| encode_by(isa, weights, importance, out, q2_k::quantize)),
    (Dtype::Q3K, |isa, weights, importance, out| encode_by(isa, weights, importance, out, q3_k::quantize)),
    (Dtype::Q4K, |isa, weights, importance, out| encode_by(isa, weights, importance, out, q4_k::quantize)),
    (Dtype::Q5K, |isa, weights, importance, out| encode_by(isa, weights, importance, out, q5_k::quantize)),
    (Dtype::Q6K, |isa, weights, importance, out| encode_by(isa, weights, importance, out, q6_k::quantize)),
    (Dtype::Tq1_0, |isa, weights, _, out| encode(isa, weights, out, ternary::tq1_0)),
    (Dtype::Tq2_0, |isa, weights, _, out| encode(isa, weights, out, ternary::tq2_0)),
    (Dtype::Mxfp4, |isa, weights, _, out| encode(isa, weights, out, mxfp4::quantize)),
];

/// The greatest finite f16.
const MAX_F16: f32 = 65_504.0;

/// The formats that [`quantize`] can write.
pub fn dtypes() -> impl Iterator<Item = Dtype> {
    QUANTIZERS.iter().map(|(dtype, _)| *dtype)
}

/// Whether a format's blocks depend on the importance of columns.
pub(super) fn heeds_importance(dtype: Dtype) -> bool {
    use Dtype::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K};
    matches!(dtype, Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q2K | Q3K | Q4K | Q5K | Q6K)
}

/// Appends weights in another format: a multiple of its block.
///
/// ```
/// use babyllama::{Dtype, convert::quantize};
///
/// let mut out = Vec::new();
/// quantize(&[-2.54; 32], Dtype::Q8_0, &mut out)?;
/// assert_eq!(out.len(), 34);
/// assert_eq!(out[2..], [-127_i8 as u8; 32]); // the largest is 127 steps
/// # Ok::<(), babyllama::Error>(())
/// ```
///
/// # Errors
/// [`Unwritable`](crate::ErrorKind::Unwritable) if the format can't be written or the weights
/// aren't a multiple of its block; and if a weight isn't a number, or is beyond the ±65,504 that a
/// 16-bit scale reaches. F32 and BF16 hold every f32, so they take all.
pub fn quantize(weights: &[f32], dtype: Dtype, out: &mut Vec<u8>) -> Result<()> {
    let Some((block, bytes)) = dtype.block() else { return Err(no_quantizer(dtype)) };
    if !weights.len().is_multiple_of(block) {
        let reason = format!("{} weights are not a multiple of its block of {block}", weights.len());
        return Err(Error::unwritable(dtype.to_string(), reason));
    }
    let start = out.len();
    out.resize(start + weights.len() / block * bytes, 0);
    quantize_into(Isa::best(), weights, None, dtype, &mut out[start..]).inspect_err(|_| out.truncate(start))
}

/// Encodes blocks, by the arithmetic of an instruction set. They are whole rows if there is an
/// `importance`, that of each column.
///
/// # Errors
/// As [`quantize`].
///
/// # Panics
/// If `out` hasn't the size of these blocks.
pub(super) fn quantize_into(
    isa: Isa,
    weights: &[f32],
    importance: Option<&[f32]>,
    dtype: Dtype,
    out: &mut [u8],
) -> Result<()> {
    let quantizer = QUANTIZERS.iter().find(|(of, _)| *of == dtype);
    let Some((_, quantizer)) = quantizer else { return Err(no_quantizer(dtype)) };
    if !matches!(dtype, Dtype::F32 | Dtype::Bf16)
        && largest_magnitude(isa, weights) > MAX_F16.to_bits()
        && let Some(weight) = weights.iter().find(|weight| weight.abs().to_bits() > MAX_F16.to_bits())
    {
        return Err(Error::unwritable(dtype.to_string(), format!("a weight is {weight}")));
    }
    quantizer(isa, weights, importance, out);
    Ok(())
}

kernel! {
    /// The greatest of the weights' bits without their signs, which are in the order of magnitudes,
    /// with NaN after infinity.
    fn largest_magnitude(_s; weights: &[f32]) -> u32 {
        weights.iter().fold(0, |largest, weight| largest.max(weight.abs().to_bits()))
    }
}

fn no_quantizer(dtype: Dtype) -> Error {
    Error::unwritable(dtype.to_string(), "there is no quantizer")
}

/// Encodes block after block with a function that is inlined into a loop for the instruction set.
fn encode<const WEIGHTS: usize, const BYTES: usize>(
    isa: Isa,
    weights: &[f32],
    out: &mut [u8],
    block: impl Fn(&[f32; WEIGHTS], &mut [u8; BYTES]),
) {
    let ((weights, []), (out, [])) = (weights.as_chunks(), out.as_chunks_mut()) else {
        panic!("weights and bytes are whole blocks")
    };
    assert_eq!(weights.len(), out.len(), "a block of bytes for each block of weights");
    isa.run(Blocks { weights, out, block });
}

struct Blocks<'a, F, const WEIGHTS: usize, const BYTES: usize> {
    weights: &'a [[f32; WEIGHTS]],
    out: &'a mut [[u8; BYTES]],
    block: F,
}

impl<F, const WEIGHTS: usize, const BYTES: usize> Kernel for Blocks<'_, F, WEIGHTS, BYTES>
where
    F: Fn(&[f32; WEIGHTS], &mut [u8; BYTES]),
{
    type Output = ();
    const MULTIPLIES_INT8: bool = false;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (weights, out) in self.weights.iter().zip(self.out) {
            (self.block)(weights, out);
        }
    }
}

/// Encodes block after block as [`encode`], by the importance of columns.
fn encode_by<const WEIGHTS: usize, const BYTES: usize>(
    isa: Isa,
    weights: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
    block: impl Fn(&[f32; WEIGHTS], Option<&[f32; WEIGHTS]>, &mut [u8; BYTES]),
) {
    let ((weights, []), (out, [])) = (weights.as_chunks(), out.as_chunks_mut()) else {
        panic!("weights and bytes are whole blocks")
    };
    assert_eq!(weights.len(), out.len(), "a block of bytes for each block of weights");
    let row = importance.map(|importance| importance.as_chunks().0);
    assert!(row.is_none_or(|row| weights.len().is_multiple_of(row.len())), "whole rows");
    isa.run(WeightedBlocks { weights, row, out, block });
}

struct WeightedBlocks<'a, F, const WEIGHTS: usize, const BYTES: usize> {
    weights: &'a [[f32; WEIGHTS]],
    /// The importance of a row's columns.
    row: Option<&'a [[f32; WEIGHTS]]>,
    out: &'a mut [[u8; BYTES]],
    block: F,
}

impl<F, const WEIGHTS: usize, const BYTES: usize> Kernel for WeightedBlocks<'_, F, WEIGHTS, BYTES>
where
    F: Fn(&[f32; WEIGHTS], Option<&[f32; WEIGHTS]>, &mut [u8; BYTES]),
{
    type Output = ();
    const MULTIPLIES_INT8: bool = false;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        for (i, (weights, out)) in self.weights.iter().zip(self.out).enumerate() {
            (self.block)(weights, self.row.map(|row| &row[i % row.len()]), out);
        }
    }
}

/// The least and the greatest of some weights: half against half, and so on, so that vectors are
/// compared.
#[inline(always)]
fn range(weights: &[f32; 32]) -> (f32, f32) {
    let (mut least, mut greatest) = (*weights, *weights);
    let mut n = 16;
    while n > 0 {
        for i in 0..n {
            least[i] = if least[i] < least[i + n] { least[i] } else { least[i + n] };
            greatest[i] = if greatest[i] > greatest[i + n] { greatest[i] } else { greatest[i + n] };
        }
        n /= 2;
    }
    (least[0], greatest[0])
}

/// The weight that is farthest from zero, with its sign; of two the first.
#[inline(always)]
fn farthest(weights: &[f32; 32]) -> f32 {
    match range(weights) {
        (least, greatest) if greatest > -least => greatest,
        (least, greatest) if -least > greatest => least,
        (_, greatest) => weights.iter().copied().find(|weight| weight.abs() == greatest).unwrap_or(0.0),
    }
}

/// `1 / d`, and 0 where that is infinite.
#[inline(always)]
fn inverse(d: f32) -> f32 {
    let inverse = 1.0 / d;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The low bits of the sum of this and a small number are the nearest integer, of two the even one.
const ROUNDING: f32 = 12_582_912.0; // 1.5 * 2^23

/// The nearest integer, of two the even one, of a number between ±2^22.
#[inline(always)]
fn round(x: f32) -> f32 {
    (x + ROUNDING) - ROUNDING
}

/// The greatest integer that isn't above a number between ±2^22. (Casts to integers and back, which
/// saturate, take longer.)
#[inline(always)]
fn floor(x: f32) -> f32 {
    let nearest = round(x);
    if nearest > x { nearest - 1.0 } else { nearest }
}

/// The low byte of an integer that is not negative.
#[inline(always)]
fn to_u8(x: f32) -> u8 {
    (x + ROUNDING).to_bits() as u8
}

#[cfg(test)]
mod tests;
