//! A tensor's weights in another format, some megabytes at a time.
//!
//! Rows are read and encoded in parts, several parts at once on several threads, and then written
//! in order.
//!
//! Invariant: what is written depends on the weights and the format alone, as blocks don't depend
//! on each other.

use std::ops::Range;

use super::quantize::quantize_into;
use super::source::SourceTensor;
use crate::error::{Error, ErrorKind, Result};
use crate::parallel::Threads;
use crate::quant::Dtype;
use crate::simd::Isa;

/// Weights of a part, except of rows that are longer: as f32 they fit a core's own cache.
const PART: usize = 1 << 16;

/// Parts for each thread: enough to even out a thread that was interrupted.
const PARTS_PER_THREAD: usize = 8;

/// Bytes that are copied at once.
const COPIED: usize = 1 << 20;

/// Converts tensors one after another.
#[derive(Debug)]
pub(super) struct Converter<'a> {
    threads: &'a Threads,
    isa: Isa,
    parts: Vec<Part>,
}

/// Some rows of a tensor, on their way. The buffers are used again.
#[derive(Debug, Default)]
struct Part {
    rows: Range<usize>,
    weights: Vec<f32>,
    bytes: Vec<u8>,
    error: Option<Error>,
}

impl<'a> Converter<'a> {
    pub(super) fn new(threads: &'a Threads) -> Self {
        let mut parts = Vec::new();
        parts.resize_with(threads.count() * PARTS_PER_THREAD, Part::default);
        Self { threads, isa: Isa::best(), parts }
    }

    /// Passes a tensor's bytes in a format to `give`. A tensor that is stored in it already is
    /// copied. `importance` is that of its columns.
    pub(super) fn convert(
        &mut self,
        tensor: &SourceTensor<'_>,
        name: &str,
        dtype: Dtype,
        importance: Option<&[f32]>,
        mut give: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        if let Some(parts) = &tensor.bytes
            && tensor.info.dtype == dtype
        {
            let mut copy = Vec::new();
            for bytes in parts.iter().flat_map(|part| part.chunks(COPIED)) {
                // No reference to a mapped file, which could change, leaves this crate.
                copy.clear();
                copy.extend_from_slice(bytes);
                give(&copy)?;
            }
            return Ok(());
        }
        let (rows, columns) = tensor.rows_and_columns();
        let step = (PART / columns).clamp(1, rows);
        let mut starts = (0..rows).step_by(step).peekable();
        while starts.peek().is_some() {
            let mut n_parts = 0;
            for (part, start) in self.parts.iter_mut().zip(starts.by_ref()) {
                part.rows = start..rows.min(start + step);
                n_parts += 1;
            }
            let (isa, parts) = (self.isa, &mut self.parts[..n_parts]);
            self.threads.enter(false, |team| {
                team.for_each_mut(parts, n_parts * step * columns * size_of::<f32>(), |_, part| {
                    part.error = part.encode(isa, tensor, columns, dtype, importance).err();
                });
            });
            for part in parts {
                match part.error.take() {
                    None => give(&part.bytes)?,
                    Some(e) => return Err(in_tensor(name, e)),
                }
            }
        }
        Ok(())
    }
}

impl Part {
    /// Reads the part's rows and encodes them.
    fn encode(
        &mut self,
        isa: Isa,
        tensor: &SourceTensor<'_>,
        columns: usize,
        dtype: Dtype,
        importance: Option<&[f32]>,
    ) -> Result<()> {
        let n_weights = self.rows.len() * columns;
        self.weights.resize(n_weights, 0.0);
        (tensor.read)(self.rows.clone(), &mut self.weights)?;
        let (block, bytes) = dtype.block().unwrap_or((1, 0));
        self.bytes.resize(n_weights / block * bytes, 0);
        quantize_into(isa, &self.weights, importance, dtype, &mut self.bytes)
    }
}

/// An error with the tensor's name in it.
fn in_tensor(name: &str, e: Error) -> Error {
    match e.kind() {
        ErrorKind::Unwritable { what, reason } => {
            Error::unwritable(format!("tensor {name:?} as {what}"), reason.as_str())
        }
        _ => e,
    }
}
