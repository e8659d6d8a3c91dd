//! Importance matrices: how much each column of a matrix counts, which helps to quantize it.
//!
//! ```text
//! NAME.in_sum2   f32 (matrices, columns)   sums of the squares of what came in, and over how many
//! NAME.counts    f32 (matrices, 1)         tokens; NAME is the tensor's, with `.weight`
//! ```
//! Keys say which texts it was measured on, and how many parts of them.

use std::sync::Arc;

use super::tensors::Tensors;
use super::{FORMAT, Header, has_magic};
use crate::error::{Error, Result};
use crate::storage::Storage;

/// What the name of a tensor's sums ends with, and that of their counts.
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// The files of the texts, and the number of parts.
const TEXTS: &str = "imatrix.datasets";
const CHUNKS: &str = "imatrix.chunk_count";

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Importance {
    /// Tensors' names, each with the mean squares of its columns.
    pub(crate) mean_squares: Vec<(String, Vec<f32>)>,
    /// What it was measured on, if the file says so: the first text's file.
    pub(crate) text: Option<String>,
    /// In how many parts; 0 if the file doesn't say so.
    pub(crate) n_chunks: u32,
}

/// What is in an importance matrix; `None` if the file isn't GGUF.
///
/// # Errors
/// Those of reading GGUF; [`ErrorKind::MissingTensor`](crate::ErrorKind::MissingTensor) for sums
/// without counts.
pub(crate) fn importance(storage: &Arc<Storage>) -> Result<Option<Importance>> {
    if !has_magic(storage) {
        return Ok(None);
    }
    let (header, mut cursor) = Header::read(storage)?;
    let mut tensors = Tensors::default();
    header.read_tensors(&mut cursor, storage, &mut tensors)?;
    let mut found = Vec::new();
    for name in
        tensors.names().filter_map(|name| name.strip_suffix(SUMS)).map(str::to_owned).collect::<Vec<_>>()
    {
        let sums_name = format!("{name}{SUMS}");
        let len = tensors.shape(&sums_name).map_or(0, |shape| shape.iter().product());
        let sums = tensors.vector(&sums_name, len)?.unwrap_or_default();
        // One for each expert, of mixtures of experts.
        let counts_name = format!("{name}{COUNTS}");
        let counts = tensors.vector(&counts_name, 1)?.ok_or_else(|| Error::missing_tensor(&counts_name))?;
        // A column that nothing came in for is as important as any.
        let mean = |sum: f32| if counts[0] > 0.0 { sum / counts[0] } else { 1.0 };
        found.push((name, sums.into_iter().map(mean).collect()));
    }
    if found.is_empty() {
        return Err(Error::malformed(
            FORMAT,
            format!("no tensor's name ends in {SUMS}: it is no importance matrix"),
        ));
    }
    let text = header.metadata.strings(TEXTS)?.and_then(|mut texts| texts.next());
    let text = text.map(|text| String::from_utf8_lossy(text).into_owned());
    let n_chunks = header.metadata.optional(CHUNKS)?.unwrap_or(0);
    Ok(Some(Importance { mean_squares: found, text, n_chunks }))
}
