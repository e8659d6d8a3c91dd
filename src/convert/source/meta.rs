//! Meta's directories: LLaMA 1, Llama 2, Code Llama and Llama 3.
//!
//! ```text
//! params.json          hyperparameters, but for those that the weights' shapes tell, and the context's length
//! consolidated.NN.pth  shard NN of every tensor: some have all columns of some rows, others all rows of some columns
//! tokenizer.model      of SentencePiece, or of Llama 3; LLaMA 1's lies one folder above
//! ```
//!
//! Source: `llama/model.py` and `fairscale`'s `ColumnParallelLinear`, `RowParallelLinear` and `ParallelEmbedding`.

use std::fs;
use std::path::{Path, PathBuf};

use super::json::{JsonFile, Object};
use super::llama::{FloatModel, Layout, Llama3Scaling};
use super::stored::{Join, StoredTensors};
use super::tokenizer::SourceTokenizer;
use super::torch;
use super::vocabulary::Vocabulary;
use crate::config::{Config, RopeScaling};
use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelOptions;

/// The most shards: the largest Llama has 16.
const MAX_SHARDS: usize = 100;

/// What every directory has.
pub(super) const PARAMS: &str = "params.json";

/// A shard's name.
fn shard(n: usize) -> String {
    format!("consolidated.{n:02}.pth")
}

pub(super) fn open(folder: &Path, options: &ModelOptions) -> Result<FloatModel> {
    let params = JsonFile::open(&folder.join(PARAMS))?;
    let shards = shards(folder)?;
    let mut stored = StoredTensors::default();
    let mut file_bytes = 0;
    for path in &shards {
        for tensor in torch::tensors(path)? {
            stored.add(tensor);
        }
        file_bytes += fs::metadata(path).map_err(|e| Error::from(e).at(Some(path)))?.len();
    }
    // Tables that can be computed, which early versions saved.
    stored.ignore(|name| name == "rope.freqs" || name.ends_with(".inner_attention.rope.freqs"));

    let found = Found::of(&stored, &params.object(), shards.len()).map_err(|e| e.at(Some(&shards[0])))?;
    let mut config = config(&params.object(), &found)?;
    options.override_config(&mut config).map_err(|e| e.at(Some(params.path())))?;
    let rope_factors = rope_factors(&params.object(), &config).map_err(|e| e.at(Some(params.path())))?;
    let layout = Layout {
        name: &|name| format!("{name}.weight"),
        n_shards: shards.len(),
        half_split: false,
        embeddings: found.embeddings,
        untied: None,
    };
    let tensors = layout.take(&config, stored, &shards[0])?;
    let tokenizer = SourceTokenizer::find(options, &config, || tokenizer(folder, config.vocab_size))?;
    let metadata = params.object().map.iter().map(|(key, value)| (key.clone(), value.to_string())).collect();
    Ok(FloatModel {
        format: "Meta's PyTorch checkpoint",
        config,
        rope_factors,
        tensors,
        tokenizer,
        chat_template: None,
        metadata,
        file_bytes,
        notes: Vec::new(),
    })
}

/// The shards' files, of which none may be missing.
fn shards(folder: &Path) -> Result<Vec<PathBuf>> {
    let at = |e: std::io::Error| Error::from(e).at(Some(folder));
    let mut count = 0;
    for entry in fs::read_dir(folder).map_err(at)? {
        let name = entry.map_err(at)?.file_name();
        let name = name.to_string_lossy();
        count += usize::from(name.starts_with("consolidated.") && name.ends_with(".pth"));
    }
    if count == 0 || count > MAX_SHARDS {
        let reason = format!("a model has 1 to {MAX_SHARDS} files consolidated.NN.pth, there are {count}");
        return Err(Error::from(ErrorKind::Split { reason }).at(Some(folder)));
    }
    let paths: Vec<PathBuf> = (0..count).map(|n| folder.join(shard(n))).collect();
    for path in &paths {
        if !path.is_file() {
            let reason = format!("it is missing, though there are {count} files consolidated.NN.pth");
            return Err(Error::from(ErrorKind::Split { reason }).at(Some(path)));
        }
    }
    Ok(paths)
}

/// What the weights' shapes tell.
#[derive(Debug)]
struct Found {
    vocab_size: usize,
    hidden_dim: usize,
    /// Llama 3 shares the embeddings' rows out, the others their columns.
    embeddings: Join,
}

impl Found {
    fn of(stored: &StoredTensors, params: &Object<'_>, n_shards: usize) -> Result<Self> {
        let matrix = |name: &str| match stored.shape(name) {
            Some(&[rows, columns]) => Ok((rows, columns)),
            Some(found) => {
                let (name, found) = (name.into(), found.to_vec());
                Err(Error::from(ErrorKind::TensorShape { name, expected: vec![], found }))
            }
            None => Err(ErrorKind::MissingTensor { name: name.into() }.into()),
        };
        let (rows, columns) = matrix("tok_embeddings.weight")?;
        let by_rows = n_shards > 1 && columns == params.required::<usize>("dim")?;
        let (hidden, _) = matrix("layers.0.feed_forward.w1.weight")?;
        Ok(Self {
            vocab_size: if by_rows { rows.saturating_mul(n_shards) } else { rows },
            hidden_dim: hidden.saturating_mul(n_shards),
            embeddings: match (n_shards, by_rows) {
                (1, _) => Join::Same,
                (_, true) => Join::Rows,
                (_, false) => Join::Columns,
            },
        })
    }
}

/// The hyperparameters. A `vocab_size` of -1 stands for the tokenizer's; `multiple_of` and `ffn_dim_multiplier` only say how
/// `hidden_dim` was found.
fn config(params: &Object<'_>, found: &Found) -> Result<Config> {
    let dim: usize = params.required("dim")?;
    let n_heads: usize = params.required("n_heads")?;
    if n_heads == 0 || !dim.is_multiple_of(n_heads) {
        return Err(params.refuse("n_heads", &n_heads, &format!("must divide dim, {dim}")));
    }
    if let Some(vocab_size) = params.get("vocab_size").filter(|value| value.as_i64() != Some(-1))
        && vocab_size.as_u64() != Some(found.vocab_size as u64)
    {
        let reason = format!("the embeddings have {} rows", found.vocab_size);
        return Err(params.refuse("vocab_size", &vocab_size, &reason));
    }
    if let Some(experts) = params.get("moe") {
        return Err(params.refuse("moe", &experts, "mixtures of experts are not supported"));
    }
    let norm_eps = params.required::<f64>("norm_eps")?;
    let rope_theta = params.optional("rope_theta")?.unwrap_or(1e4);
    let scaled = params.optional("use_scaled_rope")?.unwrap_or(false);
    Ok(Config {
        dim,
        hidden_dim: found.hidden_dim,
        n_layers: params.required("n_layers")?,
        n_heads,
        n_kv_heads: params.optional("n_kv_heads")?.unwrap_or(n_heads),
        head_dim: dim / n_heads,
        rope_dim: dim / n_heads,
        vocab_size: found.vocab_size,
        max_seq_len: params.optional("max_seq_len")?.unwrap_or(context(norm_eps, rope_theta, scaled)),
        norm_eps: norm_eps as f32,
        rope_theta,
        rope_scaling: RopeScaling::None,
    })
}

/// The context that a model was trained for. No file says it, so it is told by what changed from one to the next.
fn context(norm_eps: f64, rope_theta: f64, scaled: bool) -> usize {
    match (scaled, rope_theta) {
        (true, _) => 131_072,                   // Llama 3.1 and later
        (false, 1e6) => 16_384,                 // Code Llama
        (false, 5e5) => 8192,                   // Llama 3
        (false, _) if norm_eps == 1e-6 => 2048, // LLaMA 1
        _ => 4096,                              // Llama 2
    }
}

/// Llama 3.1's, with the constants that Meta's code has for what the file doesn't say.
fn rope_factors(params: &Object<'_>, config: &Config) -> Result<Option<Vec<f32>>> {
    if params.optional("use_scaled_rope")? != Some(true) {
        return Ok(None);
    }
    let scaling = Llama3Scaling {
        factor: params.optional("rope_scaling_factor")?.unwrap_or(8.0),
        low_freq_factor: params.optional("low_freq_factor")?.unwrap_or(1.0),
        high_freq_factor: params.optional("high_freq_factor")?.unwrap_or(4.0),
        original_context_length: 8192.0,
    };
    scaling.factors(config.rope_dim, config.rope_theta).map(Some)
}

fn tokenizer(folder: &Path, vocab_size: usize) -> Result<Option<SourceTokenizer>> {
    let above = folder.join("..").join("tokenizer.model");
    let paths = [folder.join("tokenizer.model"), above];
    let Some(path) = paths.iter().find(|path| path.is_file()) else { return Ok(None) };
    let vocabulary = Vocabulary::open(path, vocab_size)?;
    let unknown = || {
        let reason = "it is of neither SentencePiece nor Llama 3".into();
        Error::from(ErrorKind::Tokenizer { reason }).at(Some(path))
    };
    Ok(Some(SourceTokenizer::Vocabulary(Box::new(vocabulary.ok_or_else(unknown)?))))
}
