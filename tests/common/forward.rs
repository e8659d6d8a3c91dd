//! The reference implementation: Llama 2 by its definition, in f64, as loops, without a cache.
//!
//! It shares no code with the library. Tests compare the library's logits with it, and readers
//! start here: `src/forward.rs` is the same network, made fast.

use super::{Layer, RandomModel, Shape};

/// The logits at every position: `(n_tokens, vocab_size)`.
pub fn logits(model: &RandomModel, tokens: &[u32], norm_eps: f64, rope_theta: f64) -> Vec<Vec<f64>> {
    let dim = model.shape.dim;
    let mut x: Vec<Vec<f64>> = Vec::new(); // (n_tokens, dim)
    for &token in tokens {
        let row = &model.tok_embeddings[token as usize * dim..][..dim];
        x.push(row.iter().map(|&w| f64::from(w)).collect());
    }

    for layer in &model.layers {
        let h = attention(model.shape, layer, &x, norm_eps, rope_theta); // (n_tokens, dim)
        for t in 0..tokens.len() {
            for i in 0..dim {
                x[t][i] += h[t][i];
            }
            let f = feed_forward(layer, &x[t], norm_eps); // (dim)
            for i in 0..dim {
                x[t][i] += f[i];
            }
        }
    }

    // (n_tokens, vocab_size)
    x.iter().map(|x| matvec(model.classifier(), &rmsnorm(x, &model.norm, norm_eps))).collect()
}

/// What attention adds to `x`, the residual stream of all tokens: `(n_tokens, dim)` in and out.
fn attention(shape: Shape, layer: &Layer, x: &[Vec<f64>], norm_eps: f64, rope_theta: f64) -> Vec<Vec<f64>> {
    let head_dim = shape.head_dim();
    let mut q: Vec<Vec<f64>> = Vec::new(); // (n_tokens, dim)
    let mut k: Vec<Vec<f64>> = Vec::new(); // (n_tokens, kv_dim)
    let mut v: Vec<Vec<f64>> = Vec::new(); // (n_tokens, kv_dim)
    for (position, x) in x.iter().enumerate() {
        let x = rmsnorm(x, &layer.attention_norm, norm_eps); // (dim)
        q.push(rope(matvec(&layer.wq, &x), position, head_dim, rope_theta));
        k.push(rope(matvec(&layer.wk, &x), position, head_dim, rope_theta));
        v.push(matvec(&layer.wv, &x));
    }

    let mut out = Vec::new(); // (n_tokens, dim)
    for (t, q) in q.iter().enumerate() {
        let mut heads = vec![0.0; shape.dim]; // (n_heads, head_dim)
        for h in 0..shape.n_heads {
            // Neighboring query heads share a key and value head.
            let kv_h = h / (shape.n_heads / shape.n_kv_heads);
            // A token sees itself and those before it.
            let mut scores = vec![0.0; t + 1]; // (t + 1)
            for s in 0..=t {
                for i in 0..head_dim {
                    scores[s] += q[h * head_dim + i] * k[s][kv_h * head_dim + i];
                }
                scores[s] /= (head_dim as f64).sqrt();
            }
            let scores = softmax(&scores); // (t + 1)
            for s in 0..=t {
                for i in 0..head_dim {
                    heads[h * head_dim + i] += scores[s] * v[s][kv_h * head_dim + i];
                }
            }
        }
        out.push(matvec(&layer.wo, &heads));
    }
    out
}

/// What the feed-forward block, a SwiGLU, adds to one token's `x`: `(dim)` in and out.
fn feed_forward(layer: &Layer, x: &[f64], norm_eps: f64) -> Vec<f64> {
    let x = rmsnorm(x, &layer.ffn_norm, norm_eps); // (dim)
    let gate = matvec(&layer.w1, &x); // (hidden_dim)
    let up = matvec(&layer.w3, &x); // (hidden_dim)
    let mut h = vec![0.0; gate.len()]; // (hidden_dim)
    for i in 0..h.len() {
        let silu = gate[i] / (1.0 + (-gate[i]).exp());
        h[i] = silu * up[i];
    }
    matvec(&layer.w2, &h)
}

/// Row-major `w`, `(d, n)`, times `x`, `(n)`, gives `(d)`.
fn matvec(w: &[f32], x: &[f64]) -> Vec<f64> {
    let mut out = Vec::new();
    for row in w.chunks_exact(x.len()) {
        let mut sum = 0.0;
        for i in 0..x.len() {
            sum += f64::from(row[i]) * x[i];
        }
        out.push(sum);
    }
    out
}

/// `x` divided by its root mean square, then scaled: `(n)` in and out.
fn rmsnorm(x: &[f64], weight: &[f32], norm_eps: f64) -> Vec<f64> {
    let mut mean_square = 0.0;
    for x in x {
        mean_square += x * x / weight.len() as f64;
    }
    let rms = (mean_square + norm_eps).sqrt();
    x.iter().zip(weight).map(|(x, &w)| x / rms * f64::from(w)).collect()
}

/// Rotates pair i of each head, elements 2i and 2i + 1, by the angle `position * theta^(-2i /
/// head_dim)`.
fn rope(mut x: Vec<f64>, position: usize, head_dim: usize, theta: f64) -> Vec<f64> {
    for head in x.chunks_exact_mut(head_dim) {
        for i in 0..head_dim / 2 {
            let angle = position as f64 * theta.powf(-2.0 * i as f64 / head_dim as f64);
            let (re, im) = (head[2 * i], head[2 * i + 1]);
            head[2 * i] = re * angle.cos() - im * angle.sin();
            head[2 * i + 1] = re * angle.sin() + im * angle.cos();
        }
    }
    x
}

fn softmax(scores: &[f64]) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|e| e / sum).collect()
}
