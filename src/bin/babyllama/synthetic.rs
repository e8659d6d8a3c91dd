//! Models of well-known shapes with synthetic weights, in memory: how fast a model runs depends on
//! its shape and its format, not on what it knows.

#![allow(dead_code, reason = "the benches include this file too, and each uses a part of it")]

use babyllama::convert::gguf::Header;
use babyllama::{Config, Dtype, ErrorKind, Result};

/// The shape of a model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    dim: usize,
    hidden_dim: usize,
    pub(crate) n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    vocab_size: usize,
    max_seq_len: usize,
    /// Whether the classifier is the embeddings.
    tied: bool,
}

pub(crate) const fn shape(
    name: &'static str,
    [dim, hidden_dim, n_layers]: [usize; 3],
    heads: [usize; 2],
    rest: [usize; 2],
    tied: bool,
) -> Shape {
    let [n_heads, n_kv_heads] = heads;
    let [vocab_size, max_seq_len] = rest;
    Shape { name, dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len, tied }
}

pub(crate) const SHAPES: &[Shape] = &[
    shape("stories15m", [288, 768, 6], [6, 6], [32_000, 256], true),
    shape("stories42m", [512, 1376, 8], [8, 8], [32_000, 1024], true),
    shape("stories110m", [768, 2048, 12], [12, 12], [32_000, 1024], true),
    shape("smollm2-135m", [576, 1536, 30], [9, 3], [49_152, 8192], true),
    shape("tinyllama", [2048, 5632, 22], [32, 4], [32_000, 2048], false),
    shape("llama1-7b", [4096, 11_008, 32], [32, 32], [32_000, 2048], false),
    shape("llama1-13b", [5120, 13_824, 40], [40, 40], [32_000, 2048], false),
    shape("llama1-33b", [6656, 17_920, 60], [52, 52], [32_000, 2048], false),
    shape("llama1-65b", [8192, 22_016, 80], [64, 64], [32_000, 2048], false),
    shape("llama2-7b", [4096, 11_008, 32], [32, 32], [32_000, 4096], false),
    shape("llama2-13b", [5120, 13_824, 40], [40, 40], [32_000, 4096], false),
    shape("llama2-70b", [8192, 28_672, 80], [64, 8], [32_000, 4096], false),
    shape("mistral-7b", [4096, 14_336, 32], [32, 8], [32_000, 32_768], false),
    shape("llama3-8b", [4096, 14_336, 32], [32, 8], [128_256, 8192], false),
];

impl Shape {
    fn header(&self, dtype: Dtype, n_layers: usize) -> Result<Header> {
        let &Self { dim, hidden_dim, n_heads, n_kv_heads, vocab_size, max_seq_len, .. } = self;
        let config = Config::new(dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len);
        Header::llama(&config, self.tied, dtype)
    }

    /// How large the model would be with `n_layers` layers.
    pub(crate) fn bytes(&self, dtype: Dtype, n_layers: usize) -> Result<u64> {
        Ok(self.header(dtype, n_layers)?.file_bytes())
    }

    /// A model in a format, with `n_layers` layers.
    pub(crate) fn make(&self, dtype: Dtype, n_layers: usize) -> Result<Vec<u8>> {
        let header = self.header(dtype, n_layers)?;
        let mut file = Vec::new();
        let bytes = header.file_bytes() as usize;
        file.try_reserve_exact(bytes)
            .map_err(|_| ErrorKind::OutOfMemory { what: "a synthetic model", bytes: bytes as u64 })?;
        let mut tensors = header.write(file)?;
        for (name, shape, bytes) in header.tensors() {
            let is_norm = shape.len() == 1;
            let ones = || 1_f32.to_le_bytes().repeat(shape[0]);
            tensors.write(name, &if is_norm { ones() } else { noise(dtype, bytes as usize) })?;
        }
        tensors.finish()
    }
}

/// Bytes that are small, finite weights in their format: wherever a block has a half-precision
/// scale, it is about 2^-11.
fn noise(dtype: Dtype, len: usize) -> Vec<u8> {
    let upper = match dtype {
        Dtype::F32 | Dtype::Bf16 => 0x3c, // about 2^-7
        Dtype::Mxfp4 => 0x74,             // about 2^-11, as a power of two
        _ => 0x10,
    };
    let mut state = len as u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        upper | (state >> 62) as u8
    };
    let period: Vec<u8> = (0..4096).map(|_| byte()).collect();
    period.iter().copied().cycle().take(len).collect()
}
