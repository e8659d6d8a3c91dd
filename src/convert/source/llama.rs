//! A Llama in files of floating-point weights: which tensors it must have, and that it has no
//! others.

use std::path::Path;

use super::stored::{Join, ShardedTensor, StoredTensors};
use super::tokenizer::SourceTokenizer;
use super::{Expected, SourceModel, SourceTensor};
use crate::config::Config;
use crate::error::{ErrorKind, Result};
use crate::tokenizer::{Tokenizer, TokenizerSpec};

/// A model of Hugging Face's or Meta's files.
#[derive(Debug)]
pub(super) struct FloatModel {
    pub(super) format: &'static str,
    pub(super) config: Config,
    pub(super) rope_factors: Option<Vec<f32>>,
    pub(super) tensors: Vec<ShardedTensor>,
    pub(super) tokenizer: Option<SourceTokenizer>,
    pub(super) chat_template: Option<String>,
    pub(super) metadata: Vec<(String, String)>,
    pub(super) file_bytes: u64,
    pub(super) notes: Vec<String>,
    pub(super) expected: Option<Expected>,
}

impl SourceModel for FloatModel {
    fn format(&self) -> &'static str {
        self.format
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn rope_factors(&self) -> Option<&[f32]> {
        self.rope_factors.as_deref()
    }

    fn tokenizer(&self) -> Result<Option<TokenizerSpec<'_>>> {
        self.tokenizer.as_ref().map(SourceTokenizer::parts).transpose()
    }

    fn usable_tokenizer(&self) -> Result<Option<Tokenizer>> {
        self.tokenizer.as_ref().map(SourceTokenizer::usable).transpose()
    }

    fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    fn described(&self) -> &[(String, String)] {
        &self.metadata
    }

    fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn expected(&self) -> Option<&Expected> {
        self.expected.as_ref()
    }

    fn tensors(&self) -> Vec<SourceTensor<'_>> {
        let tensor = |joined| {
            let info = ShardedTensor::info(joined).clone();
            SourceTensor { info, bytes: None, read: Box::new(|rows, out| joined.read(rows, out)) }
        };
        self.tensors.iter().map(tensor).collect()
    }
}

/// What a tensor is to attention, which decides the order of its rows and how shards are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A norm.
    Norm,
    /// The token embeddings.
    Embeddings,
    /// A matrix whose rows are queries or keys, which RoPE turns.
    Rotary,
    /// A matrix whose rows are shared out among machines.
    ByRows,
    /// A matrix whose columns are shared out among machines.
    ByColumns,
}

/// The tensors of a layer, under Meta's names.
const LAYER: [(&str, Role); 9] = [
    ("attention_norm", Role::Norm),
    ("attention.wq", Role::Rotary),
    ("attention.wk", Role::Rotary),
    ("attention.wv", Role::ByRows),
    ("attention.wo", Role::ByColumns),
    ("ffn_norm", Role::Norm),
    ("feed_forward.w1", Role::ByRows),
    ("feed_forward.w2", Role::ByColumns),
    ("feed_forward.w3", Role::ByRows),
];

/// How some kind of files holds a Llama's tensors.
pub(super) struct Layout<'a> {
    /// Its name of the tensor that Meta calls, for example, `layers.3.attention.wq`.
    pub(super) name: &'a dyn Fn(&str) -> String,
    pub(super) n_shards: usize,
    /// Whether the rows that RoPE turns together are half a head apart.
    pub(super) half_split: bool,
    /// How shards of the embeddings are joined.
    pub(super) embeddings: Join,
}

impl Layout<'_> {
    /// Takes the tensors that a Llama must have, in the order of the forward pass, and the
    /// classifier, if one is stored; there must be no others.
    ///
    /// # Errors
    /// [`ErrorKind::MissingTensor`], said of `files`; [`ErrorKind::TensorShape`],
    /// [`ErrorKind::UnsupportedTensorType`], [`ErrorKind::TensorLayout`] or
    /// [`ErrorKind::UnsupportedTensor`], said of the file that the tensor is in.
    ///
    /// [`ErrorKind::MissingTensor`]: crate::ErrorKind::MissingTensor
    pub(super) fn take(
        &self,
        config: &Config,
        mut stored: StoredTensors,
        files: &Path,
    ) -> Result<Vec<ShardedTensor>> {
        let output = (self.name)("output");
        let has_output = stored.has(&output);
        let mut taken = Vec::new();
        let mut take = |name: &str, role: Role, shape: &[usize]| -> Result<()> {
            let join = match role {
                Role::Norm => Join::Same,
                Role::Embeddings => self.embeddings,
                Role::Rotary | Role::ByRows => Join::Rows,
                Role::ByColumns => Join::ColumnPartition,
            };
            let tensor = stored.take(&(self.name)(name), self.n_shards, name, shape, join);
            let tensor = tensor.map_err(|e| e.at(Some(files)))?;
            let half_split = self.half_split && role == Role::Rotary;
            taken.push(if half_split { tensor.half_split(config.head_dim) } else { tensor });
            Ok(())
        };
        take("tok_embeddings", Role::Embeddings, &[config.vocab_size, config.dim])?;
        for l in 0..config.n_layers {
            for (name, role) in LAYER {
                take(&format!("layers.{l}.{name}"), role, &shape(name, config))?;
            }
        }
        take("norm", Role::Norm, &[config.dim])?;
        if has_output {
            take("output", Role::ByRows, &[config.vocab_size, config.dim])?;
        }
        stored.finish()?;
        Ok(taken)
    }
}

/// The shape of a tensor of a layer.
fn shape(name: &str, config: &Config) -> Vec<usize> {
    let (dim, hidden) = (config.dim, config.hidden_dim);
    match name {
        "attention.wq" => vec![config.q_dim(), dim],
        "attention.wk" | "attention.wv" => vec![config.kv_dim(), dim],
        "attention.wo" => vec![dim, config.q_dim()],
        "feed_forward.w1" | "feed_forward.w3" => vec![hidden, dim],
        "feed_forward.w2" => vec![dim, hidden],
        _ => vec![dim],
    }
}

/// Llama 3's way to make the context longer: what frequencies are divided by, fast ones by 1 and
/// slow ones by a factor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Llama3Scaling {
    pub(super) factor: f64,
    /// Slower ones, which turn less often over the original context, are divided by the whole
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
            let (value, reason) = (format!("{self:?}"), "must be positive, and low below high".into());
            return Err(ErrorKind::Config { field: "rope_scaling", value, reason }.into());
        }
        let of_pair = |i: usize| {
            let frequency = rope_theta.powf(-(2.0 * i as f64) / rope_dim as f64);
            let turns = original_context_length * frequency / std::f64::consts::TAU;
            // The part of the frequency that stays as it is.
            let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 / ((1.0 - kept) / factor + kept)) as f32
        };
        Ok((0..rope_dim / 2).map(of_pair).collect())
    }
}
