//! The forward pass of a Llama (arXiv 2302.13971, 2307.09288): tokens in, logits out. It computes
//! what `tests/common/forward.rs` does in plain loops.
//!
//! Prefill and decode are the same function: a prompt is many tokens at once, a step of generation
//! is one. All tokens pass through a layer together, so that a weight is read once for all of them.
//! An operation takes a [`Compute`] (instruction set, numerics, threads), then what it writes.
//!
//! | name | what | size of stories15M, of Llama 2 7B |
//! | --- | --- | --- |
//! | `n_tokens` | tokens in this pass | 1 in decode, more in prefill |
//! | `dim` | width of the residual stream | 288, 4096 |
//! | `hidden_dim` | width inside the feed-forward network | 768, 11008 |
//! | `q_dim` | all queries of a token: `n_heads * head_dim` | 288, 4096 |
//! | `kv_dim` | all keys, or values: `n_kv_heads * head_dim` | 288, 4096 |

mod memory;

use std::sync::atomic::{AtomicBool, Ordering};

use crate::attention::{AttentionBuffer, Heads, Tokens, rope_store_attend};
use crate::compute::{Compute, Numerics};
use crate::config::Config;
use crate::error::TokenId;
use crate::kv_cache::KvCache;
use crate::matmul::{MatmulBuffer, matmul, matmul_add, matmul_swiglu};
use crate::ops::{RopeByContext, RopeFrequencies, add_bias, add_scaled, rmsnorm, rmsnorm_in_place};
use crate::tensor::Tensor;
use crate::weights::{LayerWeights, Weights};

/// The buffers of a forward pass. They grow to the longest batch that was fed and are then reused.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    x: Vec<f32>,             // (n_tokens, dim): the residual stream
    xb: Vec<f32>,            // (n_tokens, dim): normed, the input of what follows
    q: Vec<f32>,             // (n_tokens, q_dim)
    k: Vec<f32>,             // (n_tokens, kv_dim)
    v: Vec<f32>,             // (n_tokens, kv_dim)
    attention_out: Vec<f32>, // (n_tokens, q_dim): what each head computes, before Wo
    gate: Vec<f32>,          // (n_tokens, hidden_dim)
    up: Vec<f32>,            // (n_tokens, hidden_dim)
    angles: Vec<f32>,        // (n_tokens, rope_dim / 2, 2): cosines and sines
    attention_buffer: AttentionBuffer,
    matmul_buffer: MatmulBuffer,
}

impl Scratch {
    fn resize(&mut self, n_tokens: usize, config: &Config) {
        let widths = [
            (&mut self.x, config.dim),
            (&mut self.xb, config.dim),
            (&mut self.q, config.q_dim()),
            (&mut self.k, config.kv_dim()),
            (&mut self.v, config.kv_dim()),
            (&mut self.attention_out, config.q_dim()),
            (&mut self.gate, config.hidden_dim),
            (&mut self.up, config.hidden_dim),
            (&mut self.angles, config.rope_dim),
        ];
        for (buffer, width) in widths {
            buffer.resize(n_tokens * width, 0.0);
        }
    }
}

/// A Llama: its hyperparameters, its weights and its rotary frequencies.
#[derive(Debug)]
pub(crate) struct Llama {
    pub(crate) config: Config,
    pub(crate) weights: Weights,
    pub(crate) rope_frequencies: RopeByContext,
    pub(crate) numerics: Numerics,
}

/// One text's part of a pass: some tokens that follow those in its cache.
pub(crate) struct Run<'a> {
    pub(crate) cache: &'a mut KvCache,
    pub(crate) rope_frequencies: &'a RopeFrequencies,
    /// Of its first token.
    pub(crate) position: usize,
    pub(crate) n_tokens: usize,
    pub(crate) n_wanted: usize, // the last tokens, whose results are wanted
    /// Ends the pass when it becomes true.
    pub(crate) cancel: Option<&'a AtomicBool>,
}

/// What a pass computes of the tokens that are wanted, run after run.
pub(crate) struct Outputs<'a> {
    pub(crate) hidden: &'a mut [f32], // (n_wanted, dim): final hidden states, normed
    pub(crate) logits: &'a mut [f32], // (n_logits, vocab_size): the last n_logits of `hidden`
}

/// Feeds the tokens of all runs, run after run. They pass through a layer together; only attention
/// is each run's own. False if the pass was cancelled: then nothing was written that can be seen.
pub(crate) fn forward(
    llama: &Llama,
    compute: &Compute<'_>,
    scratch: &mut Scratch,
    runs: &mut [Run<'_>],
    tokens: &[TokenId],
    outputs: Outputs<'_>,
) -> bool {
    let Llama { config, weights, .. } = llama;
    scratch.resize(tokens.len(), config);

    // Each token starts as its embedding, and each position has its angles.
    let embeddings = weights.tok_embeddings.matrix();
    for (x, &token) in scratch.x.chunks_exact_mut(config.dim).zip(tokens) {
        embeddings.rows.dequantize(token as usize, x);
        x.iter_mut().for_each(|x| *x *= config.embedding_scale);
    }
    let mut tables = scratch.angles.chunks_exact_mut(config.rope_dim);
    for run in &*runs {
        for (position, table) in (run.position..run.position + run.n_tokens).zip(&mut tables) {
            run.rope_frequencies.angles(position, table);
        }
    }

    // Each layer adds to the residual stream twice.
    for (l, layer) in weights.layers.iter().enumerate() {
        if runs.iter().filter_map(|run| run.cancel).any(|cancel| cancel.load(Ordering::Relaxed)) {
            return false;
        }
        attention_block(config, l, layer, compute, scratch, runs);
        feed_forward_block(config, layer, compute, scratch);
    }

    // The hidden states: a last norm. The logits: their product with the classifier.
    let Outputs { hidden, logits } = outputs;
    let (mut read, mut written) = (0, 0);
    for run in runs {
        read += run.n_tokens;
        let (x, n) = (&scratch.x[..read * config.dim], run.n_wanted * config.dim);
        let out = &mut hidden[written..][..n];
        rmsnorm(compute, out, &x[x.len() - n..], Some(&weights.norm), config.norm_eps);
        written += n;
    }
    let n_logits = logits.len() / config.vocab_size;
    if n_logits > 0 {
        let last = &hidden[written - n_logits * config.dim..written];
        matmul(compute, [&mut *logits], [weights.classifier()], last, &mut scratch.matmul_buffer);
        if config.logit_divisor != 1.0 {
            logits.iter_mut().for_each(|logit| *logit /= config.logit_divisor);
        }
    }
    true
}

/// The parameters of attention in layer `l`.
fn heads(config: &Config, l: usize) -> Heads {
    let &Config { n_heads, n_kv_heads, head_dim, rope_pairs: pairs, query_growth, .. } = config;
    let divisor = config.attention_scale.map_or((head_dim as f32).sqrt(), f32::recip);
    Heads { n_heads, n_kv_heads, head_dim, pairs, query_growth, divisor, window: config.window(l) }
}

/// `x += Wo attention(rope(Wq norm(x)), rope(Wk norm(x)), Wv norm(x))`
///
/// Some models add biases, norm queries and keys, or don't rotate them in each layer.
fn attention_block(
    config: &Config,
    l: usize,
    layer: &LayerWeights,
    compute: &Compute<'_>,
    scratch: &mut Scratch,
    runs: &mut [Run<'_>],
) {
    let Scratch { x, xb, q, k, v, attention_out, angles, attention_buffer, matmul_buffer, .. } = scratch;
    rmsnorm(compute, xb, x, layer.attention_norm.as_deref(), config.norm_eps);
    matmul(compute, [&mut *q, &mut *k, &mut *v], [&layer.wq, &layer.wk, &layer.wv], xb, matmul_buffer);
    for (out, bias) in [(&mut *q, &layer.wq_bias), (&mut *k, &layer.wk_bias), (&mut *v, &layer.wv_bias)] {
        add_bias(compute, out, bias.as_deref());
    }
    for (out, norm) in [(&mut *q, &layer.q_norm), (&mut *k, &layer.k_norm)] {
        rmsnorm_in_place(compute, out, norm.as_deref(), config.norm_eps);
    }

    // One function for three steps: a thread that stores a head's keys is the one that reads them.
    let mut first = 0;
    let rope_dim = if config.rotates(l) { config.rope_dim } else { 0 };
    for run in runs {
        let rows = |width| first * width..(first + run.n_tokens) * width;
        let tokens = Tokens {
            q: &mut q[rows(config.q_dim())],
            k: &mut k[rows(config.kv_dim())],
            v: &v[rows(config.kv_dim())],
            angles: &angles[rows(rope_dim)],
            position: run.position,
        };
        let (out, cache) = (&mut attention_out[rows(config.q_dim())], run.cache.layer(l, run.position));
        rope_store_attend(compute, out, tokens, cache, heads(config, l), attention_buffer);
        first += run.n_tokens;
    }
    let (bias, norm) = (layer.wo_bias.as_deref(), layer.attention_post_norm.as_deref());
    add_product(config, compute, [x, xb], (&layer.wo, bias, norm), attention_out, matmul_buffer);
}

/// `x += W2 (silu(W1 norm(x)) * W3 norm(x))`
fn feed_forward_block(config: &Config, layer: &LayerWeights, compute: &Compute<'_>, scratch: &mut Scratch) {
    let Scratch { x, xb, gate, up, matmul_buffer, .. } = scratch;
    rmsnorm(compute, xb, x, layer.ffn_norm.as_deref(), config.norm_eps);
    let biases = [layer.w1_bias.as_deref(), layer.w3_bias.as_deref()];
    matmul_swiglu(compute, gate, up, [&layer.w1, &layer.w3], biases, xb, matmul_buffer);
    let (bias, norm) = (layer.w2_bias.as_deref(), layer.ffn_post_norm.as_deref());
    add_product(config, compute, [x, xb], (&layer.w2, bias, norm), gate, matmul_buffer);
}

/// `x += scale norm(W h + bias)`, with the scale, the norm and the bias that the model has, if any.
/// `xb` is overwritten.
fn add_product(
    config: &Config,
    compute: &Compute<'_>,
    [x, xb]: [&mut [f32]; 2],
    (weights, bias, norm): (&Tensor, Option<&[f32]>, Option<&[f32]>),
    h: &[f32],
    buffer: &mut MatmulBuffer,
) {
    if bias.is_none() && norm.is_none() && config.residual_scale == 1.0 {
        return matmul_add(compute, x, weights, h, buffer);
    }
    matmul(compute, [&mut *xb], [weights], h, buffer);
    add_bias(compute, xb, bias);
    rmsnorm_in_place(compute, xb, norm, config.norm_eps);
    add_scaled(x, xb, config.residual_scale);
}
