//! llama2.c's three formats, as its `export.py` writes them. Little-endian; weights in Meta's
//! layout.
//!
//! ```text
//! v0   7 x i32 dim hidden_dim n_layers n_heads n_kv_heads ±vocab_size max_seq_len    (negative: not tied)
//!      f32: tok_embeddings; then of all layers: attention_norm, wq, wk, wv, wo, ffn_norm, w1, w2, w3; norm;
//!      two tables of max_seq_len * head_dim / 2, which aren't used; output if not tied
//! v1   "24ka" i32 1, the 7 integers, u8 tied, zeros to byte 256
//!      f32: of all layers: attention_norm, ffn_norm; norm; tok_embeddings;
//!      of all layers: wq, wk, wv, wo, w1, w2, w3; output if not tied
//! v2   as v1, with i32 group_size at byte 37; norms in f32, every other tensor as rows*columns int8
//!      and then its f32 scales, one for each group
//! ```
//!
//! The files hold neither `norm_eps` nor `rope_theta`: 1e-5 and 10,000 are what llama2.c takes, and
//! options override them.

use std::ops::Range;
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};

use super::Checkpoint;
use super::file_kind::FileKind;
use crate::compute::Numerics;
use crate::config::{Config, RopeScaling};
use crate::error::{ErrorKind, Result};
use crate::quant::Dtype;
use crate::storage::Storage;
use crate::tensor::Tensor;
use crate::weights::{LayerWeights, Weights};

const MAGIC: u32 = 0x616b_3432;
/// The seven integers.
const HEADER_INTS: usize = 7;
/// Where v1's and v2's weights start.
const VERSIONED_HEADER: usize = 256;
/// A group's dot product must fit an i32: 65,536 * 255 * 127 does.
const MAX_GROUP: usize = 1 << 16;

pub(super) fn has_magic(storage: &Storage) -> bool {
    storage.bytes().get(..4).is_some_and(|magic| LittleEndian::read_u32(magic) == MAGIC)
}

/// v0 has no magic: its header must be possible, whatever the size of the file then is, and like no
/// other kind of file.
pub(super) fn looks_like_v0(storage: &Storage) -> bool {
    let bytes = storage.bytes();
    let is_possible = bytes.get(..4 * HEADER_INTS).is_some_and(|ints| v0_header(ints).is_ok());
    is_possible && FileKind::detect(bytes, storage.len()).is_none()
}

/// Why a file that [`looks_like_v0`] refused is none.
pub(super) fn why_not_v0(storage: &Storage) -> String {
    let ints = bytes_at(storage, "its header", 0, 4 * HEADER_INTS);
    ints.and_then(v0_header).map_or_else(|e| e.to_string(), |_| "its magic is another format's".into())
}

pub(super) fn read_v0(storage: &Arc<Storage>) -> Result<Checkpoint> {
    let ints = bytes_at(storage, "the header", 0, 4 * HEADER_INTS)?;
    let (config, tied) = v0_header(ints)?;
    let start = 4 * HEADER_INTS;
    let rope_tables = config.max_seq_len as u128 * (config.head_dim / 2) as u128 * 2 * 4;
    expect_size(storage, start as u128 + rope_tables + weight_bytes(&config, tied, None))?;

    let mut file = Cursor { storage, at: start, group_size: None };
    let (dim, q_dim, kv_dim, hidden) = (config.dim, config.q_dim(), config.kv_dim(), config.hidden_dim);
    let tok_embeddings = file.matrix(config.vocab_size, dim)?;
    let attention_norm = file.norms(&config)?;
    let wq = file.matrices(&config, q_dim, dim)?;
    let wk = file.matrices(&config, kv_dim, dim)?;
    let wv = file.matrices(&config, kv_dim, dim)?;
    let wo = file.matrices(&config, dim, q_dim)?;
    let ffn_norm = file.norms(&config)?;
    let w1 = file.matrices(&config, hidden, dim)?;
    let w2 = file.matrices(&config, dim, hidden)?;
    let w3 = file.matrices(&config, hidden, dim)?;
    let norm = file.norm(dim)?;
    file.at += rope_tables as usize; // the size was checked, so it fits
    let output = if tied { None } else { Some(file.matrix(config.vocab_size, dim)?) };
    let layers = Layers { attention_norm, wq, wk, wv, wo, ffn_norm, w1, w2, w3 }.transpose();
    let weights = Weights { tok_embeddings, layers, norm, output };
    Ok(Checkpoint::plain(storage, "llama2.c v0", config, weights, Numerics::Accurate))
}

pub(super) fn read_versioned(storage: &Arc<Storage>) -> Result<Checkpoint> {
    // The version comes first: another one's header may mean something else, and have another
    // length.
    let version = LittleEndian::read_u32(bytes_at(storage, "the version", 4, 4)?);
    if !matches!(version, 1 | 2) {
        return Err(ErrorKind::UnsupportedVersion { format: "llama2.c", found: version }.into());
    }
    let header = bytes_at(storage, "the header", 0, VERSIONED_HEADER)?;
    let config = config_of(&read_ints(&header[8..]))?;
    let tied = match header[36] {
        0 => false,
        1 => true,
        other => {
            return Err(invalid("the flag of a tied classifier", i64::from(other), "must be 0 or 1"));
        }
    };
    let (format, group_size) = match version {
        1 => ("llama2.c v1", None),
        _ => ("llama2.c v2", Some(group_size(LittleEndian::read_i32(&header[37..]), &config)?)),
    };
    expect_size(storage, VERSIONED_HEADER as u128 + weight_bytes(&config, tied, group_size))?;

    let mut file = Cursor { storage, at: VERSIONED_HEADER, group_size };
    let (dim, q_dim, kv_dim, hidden) = (config.dim, config.q_dim(), config.kv_dim(), config.hidden_dim);
    let attention_norm = file.norms(&config)?;
    let ffn_norm = file.norms(&config)?;
    let norm = file.norm(dim)?;
    let tok_embeddings = file.matrix(config.vocab_size, dim)?;
    let wq = file.matrices(&config, q_dim, dim)?;
    let wk = file.matrices(&config, kv_dim, dim)?;
    let wv = file.matrices(&config, kv_dim, dim)?;
    let wo = file.matrices(&config, dim, q_dim)?;
    let w1 = file.matrices(&config, hidden, dim)?;
    let w2 = file.matrices(&config, dim, hidden)?;
    let w3 = file.matrices(&config, hidden, dim)?;
    let output = if tied { None } else { Some(file.matrix(config.vocab_size, dim)?) };
    let layers = Layers { attention_norm, wq, wk, wv, wo, ffn_norm, w1, w2, w3 }.transpose();
    let weights = Weights { tok_embeddings, layers, norm, output };
    let numerics = if group_size.is_some() { Numerics::RunqCompatible } else { Numerics::Accurate };
    Ok(Checkpoint::plain(storage, format, config, weights, numerics))
}

fn read_ints(bytes: &[u8]) -> [i32; HEADER_INTS] {
    std::array::from_fn(|i| LittleEndian::read_i32(&bytes[4 * i..]))
}

/// v0's header: the sign of `vocab_size` says whether the classifier is tied.
fn v0_header(bytes: &[u8]) -> Result<(Config, bool)> {
    let mut ints = read_ints(bytes);
    let tied = ints[5] > 0;
    ints[5] =
        ints[5].checked_abs().ok_or_else(|| invalid("vocab_size", i64::from(ints[5]), "is out of range"))?;
    Ok((config_of(&ints)?, tied))
}

fn config_of(
    &[dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len]: &[i32; 7],
) -> Result<Config> {
    let size = |field, value: i32| {
        usize::try_from(value).map_err(|_| invalid(field, i64::from(value), "must not be negative"))
    };
    let (dim, n_heads) = (size("dim", dim)?, size("n_heads", n_heads)?);
    if n_heads == 0 || !dim.is_multiple_of(n_heads) {
        return Err(invalid("n_heads", n_heads as i64, &format!("must divide dim, {dim}")));
    }
    let config = Config {
        dim,
        hidden_dim: size("hidden_dim", hidden_dim)?,
        n_layers: size("n_layers", n_layers)?,
        n_heads,
        n_kv_heads: size("n_kv_heads", n_kv_heads)?,
        head_dim: dim / n_heads,
        rope_dim: dim / n_heads,
        vocab_size: size("vocab_size", vocab_size)?,
        max_seq_len: size("max_seq_len", max_seq_len)?,
        norm_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        sliding_window: None,
    };
    config.validate()?;
    Ok(config)
}

/// The weights that share a scale, which must divide every tensor.
fn group_size(value: i32, config: &Config) -> Result<usize> {
    let group_size = usize::try_from(value).unwrap_or(0);
    if group_size == 0 || group_size > MAX_GROUP {
        return Err(invalid("group_size", i64::from(value), &format!("must be between 1 and {MAX_GROUP}")));
    }
    for [rows, columns] in matrix_shapes(config) {
        if !(rows as u128 * columns as u128).is_multiple_of(group_size as u128) {
            let reason = format!("must divide the {rows} x {columns} weights of each tensor");
            return Err(invalid("group_size", i64::from(value), &reason));
        }
    }
    Ok(group_size)
}

/// The shapes of the embeddings, and of a layer's wq, wk, wv, wo, w1, w2 and w3.
fn matrix_shapes(config: &Config) -> [[usize; 2]; 8] {
    let (dim, q_dim, kv_dim, hidden) = (config.dim, config.q_dim(), config.kv_dim(), config.hidden_dim);
    let layer = [
        [q_dim, dim],
        [kv_dim, dim],
        [kv_dim, dim],
        [dim, q_dim],
        [hidden, dim],
        [dim, hidden],
        [hidden, dim],
    ];
    let [wq, wk, wv, wo, w1, w2, w3] = layer;
    [[config.vocab_size, dim], wq, wk, wv, wo, w1, w2, w3]
}

/// Bytes of all weights. Each factor is below 2^31, so a u128 can't overflow.
fn weight_bytes(config: &Config, tied: bool, group_size: Option<usize>) -> u128 {
    let matrix = |[rows, columns]: [usize; 2]| {
        let n = rows as u128 * columns as u128;
        group_size.map_or(4 * n, |group_size| n + n / group_size as u128 * 4)
    };
    let [embeddings, layer @ ..] = matrix_shapes(config);
    let norms = (2 * config.n_layers as u128 + 1) * config.dim as u128 * 4;
    let layers = config.n_layers as u128 * layer.map(matrix).iter().sum::<u128>();
    norms + layers + matrix(embeddings) * if tied { 1 } else { 2 }
}

fn expect_size(storage: &Storage, expected: u128) -> Result<()> {
    let expected = u64::try_from(expected).unwrap_or(u64::MAX);
    if storage.len() == expected {
        return Ok(());
    }
    Err(ErrorKind::FileSize { expected, found: storage.len() }.into())
}

fn bytes_at<'a>(storage: &'a Storage, what: &'static str, offset: usize, len: usize) -> Result<&'a [u8]> {
    let available = storage.bytes().get(offset..).unwrap_or_default();
    available.get(..len).ok_or_else(|| truncated(what, offset, len, available.len()))
}

fn truncated(what: &'static str, offset: usize, needed: usize, available: usize) -> crate::error::Error {
    let (offset, needed, available) = (offset as u64, needed as u64, available as u64);
    ErrorKind::Truncated { what, offset, needed, available }.into()
}

fn invalid(field: &'static str, value: i64, reason: &str) -> crate::error::Error {
    ErrorKind::Config { field, value: value.to_string(), reason: reason.into() }.into()
}

/// Walks through the weights in file order.
struct Cursor<'a> {
    storage: &'a Arc<Storage>,
    at: usize,
    group_size: Option<usize>,
}

impl Cursor<'_> {
    /// The next `len` bytes.
    fn take(&mut self, what: &'static str, len: Option<usize>) -> Result<Range<usize>> {
        let available = self.storage.bytes().len().saturating_sub(self.at);
        let len = len.unwrap_or(usize::MAX);
        if len > available {
            return Err(truncated(what, self.at, len, available));
        }
        self.at += len;
        Ok(self.at - len..self.at)
    }

    /// A vector of f32, copied out.
    fn norm(&mut self, dim: usize) -> Result<Vec<f32>> {
        let range = self.take("a norm", dim.checked_mul(4))?;
        let tensor = Tensor::new(self.storage, range.clone(), 1, dim, Dtype::F32);
        Ok(tensor.ok_or_else(|| truncated("a norm", range.start, range.len(), 0))?.to_f32())
    }

    fn norms(&mut self, config: &Config) -> Result<Vec<Vec<f32>>> {
        (0..config.n_layers).map(|_| self.norm(config.dim)).collect()
    }

    fn matrix(&mut self, rows: usize, columns: usize) -> Result<Tensor> {
        let n = rows.checked_mul(columns);
        let start = self.at;
        let tensor = match self.group_size {
            None => {
                let weights = self.take("a tensor", n.and_then(|n| n.checked_mul(4)))?;
                Tensor::new(self.storage, weights, rows, columns, Dtype::F32)
            }
            Some(group_size) => {
                let weights = self.take("a tensor's weights", n)?;
                let scales = self.take("a tensor's scales", n.map(|n| n / group_size * 4))?;
                Tensor::int8(self.storage, weights, scales, rows, columns, group_size)
            }
        };
        tensor.ok_or_else(|| truncated("a tensor", start, self.at - start, 0))
    }

    fn matrices(&mut self, config: &Config, rows: usize, columns: usize) -> Result<Vec<Tensor>> {
        (0..config.n_layers).map(|_| self.matrix(rows, columns)).collect()
    }
}

/// The files hold each kind of tensor for all layers; a model wants each layer with its tensors.
struct Layers {
    attention_norm: Vec<Vec<f32>>,
    wq: Vec<Tensor>,
    wk: Vec<Tensor>,
    wv: Vec<Tensor>,
    wo: Vec<Tensor>,
    ffn_norm: Vec<Vec<f32>>,
    w1: Vec<Tensor>,
    w2: Vec<Tensor>,
    w3: Vec<Tensor>,
}

impl Layers {
    fn transpose(self) -> Vec<LayerWeights> {
        let norms = self.attention_norm.into_iter().zip(self.ffn_norm);
        let attention = self.wq.into_iter().zip(self.wk).zip(self.wv).zip(self.wo);
        let feed_forward = self.w1.into_iter().zip(self.w2).zip(self.w3);
        let layers = norms.zip(attention).zip(feed_forward);
        let layer = |(((attention_norm, ffn_norm), (((wq, wk), wv), wo)), ((w1, w2), w3))| LayerWeights {
            attention_norm,
            wq,
            wk,
            wv,
            wo,
            ffn_norm,
            w1,
            w2,
            w3,
        };
        layers.map(layer).collect()
    }
}
