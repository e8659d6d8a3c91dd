//! What the files of Hugging Face's and of Meta's models have in common: floating-point weights, of
//! which a Llama must have all that the table in `arch.rs` names, and no others.

use std::fs;
use std::path::{Path, PathBuf};

use super::stored::{Join, ShardedTensor, StoredTensors};
use crate::arch::{Shards, TensorId};
use crate::config::Config;
use crate::error::{Error, Result};

/// What the files of weights hold.
#[derive(Debug, Default)]
pub(super) struct WeightFiles {
    pub(super) stored: StoredTensors,
    pub(super) files: Vec<PathBuf>,
    pub(super) notes: Vec<String>,
}

impl WeightFiles {
    /// Bytes of all files.
    pub(super) fn bytes(&self) -> Result<u64> {
        let len = |path: &PathBuf| match fs::metadata(path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(e) => Err(Error::from(e).at(Some(path))),
        };
        self.files.iter().map(len).sum()
    }

    /// Notes that doubles lose bits, if there are any.
    pub(super) fn note_doubles(&mut self) {
        if self.stored.iter().any(|(_, tensor)| tensor.is_f64()) {
            self.notes.push("weights that are stored as float64 are rounded to float32".into());
        }
    }
}

/// How some kind of files holds a Llama's tensors.
pub(super) struct Layout {
    pub(super) name: fn(TensorId) -> String,
    pub(super) n_shards: usize,
    /// Whether the rows that RoPE rotates together are half a head apart (NEOX order).
    pub(super) neox: bool,
    /// How shards of the embeddings are joined.
    pub(super) embeddings: Join,
}

impl Layout {
    /// Takes the tensors that a Llama has, in the order of the forward pass; there must be no
    /// others.
    ///
    /// # Errors
    /// [`ErrorKind::MissingTensor`], with the path `files`; [`ErrorKind::TensorShape`],
    /// [`ErrorKind::UnsupportedTensorType`], [`ErrorKind::TensorLayout`] or
    /// [`ErrorKind::UnsupportedTensor`], with the path of the file that the tensor is in.
    ///
    /// [`ErrorKind::MissingTensor`]: crate::ErrorKind::MissingTensor
    /// [`ErrorKind::TensorShape`]: crate::ErrorKind::TensorShape
    /// [`ErrorKind::UnsupportedTensorType`]: crate::ErrorKind::UnsupportedTensorType
    /// [`ErrorKind::TensorLayout`]: crate::ErrorKind::TensorLayout
    /// [`ErrorKind::UnsupportedTensor`]: crate::ErrorKind::UnsupportedTensor
    pub(super) fn take(
        &self,
        config: &Config,
        mut stored: StoredTensors,
        files: &Path,
    ) -> Result<Vec<(TensorId, ShardedTensor)>> {
        let mut taken = Vec::new();
        for id in TensorId::all(config) {
            let name = (self.name)(id);
            if id.kind.is_optional() && !stored.has(&name) {
                continue;
            }
            let join = match id.kind.shards {
                Shards::Same => Join::Same,
                Shards::Rows => Join::Rows,
                Shards::Columns => Join::Columns,
                Shards::Embeddings => self.embeddings,
            };
            let tensor = stored.take(&name, self.n_shards, id.to_string(), &id.shape(config), join);
            let tensor = tensor.map_err(|e| e.at(Some(files)))?;
            let is_neox = self.neox && id.kind.is_rotary;
            taken.push((id, if is_neox { tensor.in_neox_order(config.head_dim) } else { tensor }));
        }
        stored.finish()?;
        Ok(taken)
    }
}

/// Leaves out a classifier that holds the same numbers as the embeddings. Whether one is left.
pub(super) fn drop_tied_output(tensors: &mut Vec<(TensorId, ShardedTensor)>) -> Result<bool> {
    let [(_, embeddings), .., (id, classifier)] = &**tensors else { return Ok(false) };
    if !id.kind.is_output() {
        return Ok(false);
    }
    let is_copy = classifier.is_equal(embeddings)?;
    if is_copy {
        tensors.pop();
    }
    Ok(!is_copy)
}

/// Llama 3's way to make the context longer: what frequencies are divided by, fast ones by 1 and
/// slow ones by a factor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Llama3Scaling {
    pub(super) factor: f64,
    /// Slower ones, which rotate less often over the original context, are divided by the whole
    /// factor.
    pub(super) low_freq_factor: f64,
    /// Faster ones stay as they are.
    pub(super) high_freq_factor: f64,
    pub(super) original_context_length: f64,
}

impl Llama3Scaling {
    /// What each pair's frequency is divided by: (`rope_dim / 2`).
    pub(super) fn factors(self, rope_dim: usize, rope_theta: f64) -> Result<Vec<f32>> {
        let Self { factor, low_freq_factor: low, high_freq_factor: high, original_context_length } = self;
        if !(factor > 0.0 && low > 0.0 && high > low && original_context_length > 0.0) {
            let value = format!("{self:?}");
            return Err(Error::config("rope_scaling", value, "must be positive, and low below high"));
        }
        let of_pair = |i: usize| {
            let frequency = rope_theta.powf(-(2.0 * i as f64) / rope_dim as f64);
            let rotations = original_context_length * frequency / std::f64::consts::TAU;
            // The part of the frequency that stays as it is.
            let kept = ((rotations - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 / ((1.0 - kept) / factor + kept)) as f32
        };
        Ok((0..rope_dim / 2).map(of_pair).collect())
    }
}
