//! The forward pass of int8 files, as llama2.c's `runq.c` defines it: every operation in f32 and in
//! its order there.
//!
//! Quantizing makes a difference in the last bit one of a hundredth of the logits' spread, so
//! a file of int8 weights has no sharper meaning than one program's numerics. Rows that aren't
//! whole groups, whose tails runq.c drops, are summed in parts that lie within a group: `gcd(n,
//! group_size)` weights each.

use super::{Layer, RandomModel, Shape, quantize};

/// A matrix of a v2 file. Its rows are `n` weights long.
struct Quantized {
    quants: Vec<i8>,
    scales: Vec<f32>,
    group_size: usize,
}

impl Quantized {
    fn new(tensor: &[f32], group_size: usize) -> Self {
        let (quants, scales) = quantize(tensor, group_size);
        Self { quants, scales, group_size }
    }

    fn row(&self, row: usize, n: usize) -> Vec<f32> {
        (row * n..(row + 1) * n)
            .map(|i| f32::from(self.quants[i]) * self.scales[i / self.group_size])
            .collect()
    }

    fn matvec(&self, x: &[f32]) -> Vec<f32> {
        let n = x.len();
        let part = gcd(n, self.group_size);
        let mut q = vec![0_i32; n];
        let mut scales = Vec::new(); // (n / part)
        for (x, q) in x.chunks(part).zip(q.chunks_mut(part)) {
            let scale = x.iter().fold(0.0_f32, |max, x| max.max(x.abs())) / 127.0;
            for (x, q) in x.iter().zip(q) {
                *q = if scale == 0.0 { 0 } else { (x / scale).round() as i32 };
            }
            scales.push(scale);
        }
        let row = |row: usize| {
            let mut sum = 0.0_f32;
            for (p, x_scale) in scales.iter().enumerate() {
                let mut dot = 0_i32;
                let quants = &self.quants[row * n + p * part..][..part];
                for (w, q) in quants.iter().zip(&q[p * part..]) {
                    dot += i32::from(*w) * q;
                }
                sum += dot as f32 * self.scales[(row * n + p * part) / self.group_size] * x_scale;
            }
            sum
        };
        (0..self.quants.len() / n).map(row).collect()
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The logits at every position, `(n_tokens, vocab_size)`, of the file `model.to_v2(group_size)`.
pub fn logits(
    model: &RandomModel,
    group_size: usize,
    tokens: &[u32],
    norm_eps: f32,
    rope_theta: f32,
) -> Vec<Vec<f32>> {
    let Shape { dim, n_layers, .. } = model.shape;
    let quantized = |tensor: &[f32]| Quantized::new(tensor, group_size);
    let embeddings = quantized(&model.tok_embeddings);
    let classifier = quantized(model.classifier());
    let layers: Vec<_> = model.layers.iter().map(|layer| (layer, matrices(layer, group_size))).collect();
    // of each layer: keys and values of all positions
    let mut cache = vec![(Vec::new(), Vec::new()); n_layers];

    let mut all = Vec::new();
    for (position, &token) in tokens.iter().enumerate() {
        let mut x = embeddings.row(token as usize, dim);
        for ((layer, [wq, wk, wv, wo, w1, w2, w3]), (keys, values)) in layers.iter().zip(&mut cache) {
            let h = rmsnorm(&x, &layer.attention_norm, norm_eps);
            let q = rope(wq.matvec(&h), position, model.shape.head_dim(), rope_theta);
            keys.push(rope(wk.matvec(&h), position, model.shape.head_dim(), rope_theta));
            values.push(wv.matvec(&h));
            add(&mut x, &wo.matvec(&attention(model.shape, &q, keys, values)));

            let h = rmsnorm(&x, &layer.ffn_norm, norm_eps);
            let mut gate = w1.matvec(&h);
            for (gate, up) in gate.iter_mut().zip(w3.matvec(&h)) {
                *gate *= 1.0 / (1.0 + exp(-*gate));
                *gate *= up;
            }
            add(&mut x, &w2.matvec(&gate));
        }
        all.push(classifier.matvec(&rmsnorm(&x, &model.norm, norm_eps)));
    }
    all
}

fn matrices(layer: &Layer, group_size: usize) -> [Quantized; 7] {
    let Layer { wq, wk, wv, wo, w1, w2, w3, .. } = layer;
    [wq, wk, wv, wo, w1, w2, w3].map(|tensor| Quantized::new(tensor, group_size))
}

fn attention(shape: Shape, q: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>]) -> Vec<f32> {
    let head_dim = shape.head_dim();
    let mut out = vec![0.0_f32; shape.dim];
    for h in 0..shape.n_heads {
        let start = h / (shape.n_heads / shape.n_kv_heads) * head_dim;
        let mut scores = Vec::new();
        for key in keys {
            let mut score = 0.0_f32;
            for i in 0..head_dim {
                score += q[h * head_dim + i] * key[start + i];
            }
            scores.push(score / (head_dim as f32).sqrt());
        }
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0_f32;
        for score in &mut scores {
            *score = exp(*score - max);
            sum += *score;
        }
        for (score, value) in scores.iter().zip(values) {
            let weight = score / sum;
            for i in 0..head_dim {
                let sum = &mut out[h * head_dim + i];
                // gcc fuses it where the processor can
                *sum = weight.mul_add(value[start + i], *sum);
            }
        }
    }
    out
}

fn rope(mut x: Vec<f32>, position: usize, head_dim: usize, theta: f32) -> Vec<f32> {
    for head in x.chunks_exact_mut(head_dim) {
        for i in (0..head_dim).step_by(2) {
            let frequency = 1.0 / theta.powf(i as f32 / head_dim as f32);
            let (sin, cos) = (position as f32 * frequency).sin_cos();
            let (a, b) = (head[i], head[i + 1]);
            head[i] = a * cos - b * sin;
            head[i + 1] = a * sin + b * cos;
        }
    }
    x
}

fn rmsnorm(x: &[f32], weight: &[f32], norm_eps: f32) -> Vec<f32> {
    let mut squares = 0.0_f32;
    for x in x {
        squares += x * x;
    }
    let scale = 1.0 / (squares / x.len() as f32 + norm_eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| w * (scale * x)).collect()
}

fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// `expf`, as a good C library rounds it: as if it were exact.
fn exp(x: f32) -> f32 {
    f64::from(x).exp() as f32
}
