//! Quantisers: f32 weights in, blocks of a format out.
//!
//! A format is a function that encodes one block, and a line in [`QUANTIZERS`]. Its bytes mean what the file of the same
//! name in `quant/` draws.
//!
//! Invariant: a block depends on its own weights alone, so a tensor may be encoded in parts, in any order.
//!
//! Source: PyPI `gguf`'s reference quantisers, whose bytes these are.

mod floats;
mod q8_0;

use crate::error::{ErrorKind, Result};
use crate::quant::Dtype;

/// Encodes one block: as many weights, and as many bytes, as [`Dtype::block`] says.
type Quantizer = fn(&[f32], &mut [u8]);

/// The formats that can be written.
const QUANTIZERS: &[(Dtype, Quantizer)] = &[
    (Dtype::F32, floats::f32),
    (Dtype::F16, floats::f16),
    (Dtype::Bf16, floats::bf16),
    (Dtype::Q8_0, q8_0::quantize),
];

/// The greatest finite f16.
const MAX_F16: f32 = 65_504.0;

/// The formats that [`quantize`] can write.
pub fn dtypes() -> impl Iterator<Item = Dtype> {
    QUANTIZERS.iter().map(|(dtype, _)| *dtype)
}

/// Appends weights in another format: a whole number of its blocks.
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
/// [`ErrorKind::Unwritable`] if the format can't be written or the weights are no whole number of its blocks; and if a weight
/// isn't a number, or is beyond the ±65,504 that a 16-bit scale reaches. F32 and BF16 hold every f32, so they take all.
pub fn quantize(weights: &[f32], dtype: Dtype, out: &mut Vec<u8>) -> Result<()> {
    let refuse = |reason: String| Err(ErrorKind::Unwritable { what: dtype.to_string(), reason }.into());
    let quantizer = QUANTIZERS.iter().find(|(of, _)| *of == dtype);
    let (Some((_, quantizer)), Some((block, bytes))) = (quantizer, dtype.block()) else {
        return refuse("there is no quantiser".into());
    };
    if !weights.len().is_multiple_of(block) {
        return refuse(format!("{} weights are no whole number of blocks of {block}", weights.len()));
    }
    let out_of_range = |weight: &&f32| weight.is_nan() || weight.abs() > MAX_F16;
    if !matches!(dtype, Dtype::F32 | Dtype::Bf16)
        && let Some(weight) = weights.iter().find(out_of_range)
    {
        return refuse(format!("a weight is {weight}"));
    }
    let start = out.len();
    out.resize(start + weights.len() / block * bytes, 0);
    for (weights, out) in weights.chunks_exact(block).zip(out[start..].chunks_exact_mut(bytes)) {
        quantizer(weights, out);
    }
    Ok(())
}
