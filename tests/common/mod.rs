//! What the tests hold the crate against: random models, a naive forward pass in f64, and files to load.
//!
//! Nothing here imports the crate, so a mistake in `src` can't hide by being made twice. The oracle itself is
//! held by the logits in `tests/golden`, which Hugging Face's implementation computed.

#![allow(dead_code, reason = "each test crate compiles this module anew and uses a part of it")]
#![allow(unreachable_pub, reason = "`pub` marks what the tests may use, as it would in a library")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, fs, io, process};

// --- Random models ------------------------------------------------------------------------------------------

/// The integers that fix a Llama's tensors. `dim` is a multiple of `n_heads`, `n_heads` of `n_kv_heads`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub dim: usize,
    pub hidden_dim: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub vocab_size: usize,
    pub max_seq_len: usize,
    /// The classifier is the embedding table.
    pub tied: bool,
}

impl Shape {
    pub fn head_dim(&self) -> usize {
        self.dim / self.n_heads
    }

    pub fn kv_dim(&self) -> usize {
        self.head_dim() * self.n_kv_heads
    }
}

/// `SplitMix64`: a counter that is mixed, so Python can compute any stretch of the stream at once.
pub struct SplitMix64(u64);

impl SplitMix64 {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `[-1, 1)`, on a grid of 2^-23: every step is exact in f32, in any language.
    pub fn next_f32(&mut self) -> f32 {
        let k = (self.next_u64() >> 40) as i32; // the top 24 bits
        (k - (1 << 23)) as f32 / (1 << 23) as f32
    }

    fn tensor(&mut self, len: usize, centre: f32, scale: f32) -> Vec<f32> {
        (0..len).map(|_| centre + self.next_f32() * scale).collect()
    }
}

/// The tensors of one layer, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    pub attention_norm: Vec<f32>, // (dim)
    pub wq: Vec<f32>,             // (dim, dim)
    pub wk: Vec<f32>,             // (kv_dim, dim)
    pub wv: Vec<f32>,             // (kv_dim, dim)
    pub wo: Vec<f32>,             // (dim, dim)
    pub ffn_norm: Vec<f32>,       // (dim)
    pub w1: Vec<f32>,             // (hidden_dim, dim)
    pub w2: Vec<f32>,             // (dim, hidden_dim)
    pub w3: Vec<f32>,             // (hidden_dim, dim)
}

/// A model with random weights, in Meta's layout: RoPE rotates adjacent pairs of rows of wq and wk.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomModel {
    pub shape: Shape,
    pub tok_embeddings: Vec<f32>, // (vocab_size, dim)
    pub layers: Vec<Layer>,       // (n_layers)
    pub norm: Vec<f32>,           // (dim)
    pub output: Option<Vec<f32>>, // (vocab_size, dim), None if tied
}

impl RandomModel {
    /// The same model for the same shape and seed, always. `tests/golden/hugging_face.py` makes it too: the
    /// order of the tensors, their scales and every rounding must be equal there.
    pub fn new(shape: Shape, seed: u64) -> Self {
        let Shape { dim, hidden_dim, vocab_size, .. } = shape;
        let kv_dim = shape.kv_dim();
        // A matrix with rows of length n keeps the size of a normalised input: uniform weights of variance 1/n.
        // So attention scores have a deviation near 1, and a softmax that is wrong shows.
        let matrix_scale = |n: usize| (3.0 / n as f64).sqrt() as f32;
        let (by_dim, by_hidden) = (matrix_scale(dim), matrix_scale(hidden_dim));

        let mut rng = SplitMix64::new(seed);
        let tok_embeddings = rng.tensor(vocab_size * dim, 0.0, 1.0);
        let layers = (0..shape.n_layers)
            .map(|_| Layer {
                attention_norm: rng.tensor(dim, 1.0, 0.25),
                wq: rng.tensor(dim * dim, 0.0, by_dim),
                wk: rng.tensor(kv_dim * dim, 0.0, by_dim),
                wv: rng.tensor(kv_dim * dim, 0.0, by_dim),
                wo: rng.tensor(dim * dim, 0.0, by_dim),
                ffn_norm: rng.tensor(dim, 1.0, 0.25),
                w1: rng.tensor(hidden_dim * dim, 0.0, by_dim),
                w2: rng.tensor(dim * hidden_dim, 0.0, by_hidden),
                w3: rng.tensor(hidden_dim * dim, 0.0, by_dim),
            })
            .collect();
        let norm = rng.tensor(dim, 1.0, 0.25);
        let output = (!shape.tied).then(|| rng.tensor(vocab_size * dim, 0.0, by_dim));
        Self { shape, tok_embeddings, layers, norm, output }
    }

    /// The matrix that turns the last state into logits: `(vocab_size, dim)`.
    pub fn classifier(&self) -> &[f32] {
        self.output.as_deref().unwrap_or(&self.tok_embeddings)
    }

    /// llama2.c's legacy file: no magic, the sign of the vocabulary's size says whether the classifier is tied.
    pub fn to_v0(&self) -> Vec<u8> {
        let mut file = Vec::new();
        let sign = if self.shape.tied { 1 } else { -1 };
        self.put_ints(&mut file, sign);
        put_f32s(&mut file, &self.tok_embeddings);
        self.put_each(&mut file, |layer| &layer.attention_norm);
        self.put_each(&mut file, |layer| &layer.wq);
        self.put_each(&mut file, |layer| &layer.wk);
        self.put_each(&mut file, |layer| &layer.wv);
        self.put_each(&mut file, |layer| &layer.wo);
        self.put_each(&mut file, |layer| &layer.ffn_norm);
        self.put_each(&mut file, |layer| &layer.w1);
        self.put_each(&mut file, |layer| &layer.w2);
        self.put_each(&mut file, |layer| &layer.w3);
        put_f32s(&mut file, &self.norm);
        // Two tables of cosines and sines that a reader must skip: NaN shows if it doesn't.
        let tables = 2 * self.shape.max_seq_len * (self.shape.head_dim() / 2);
        put_f32s(&mut file, &vec![f32::NAN; tables]);
        if let Some(output) = &self.output {
            put_f32s(&mut file, output);
        }
        file
    }

    /// llama2.c's f32 file with a header of 256 bytes.
    pub fn to_v1(&self) -> Vec<u8> {
        let mut file = self.header(1, None);
        self.put_norms(&mut file);
        for tensor in self.matrices() {
            put_f32s(&mut file, tensor);
        }
        file
    }

    /// llama2.c's int8 file: each matrix's quants, then its scales, one for `group_size` weights of the flat
    /// tensor. Groups may straddle rows. `group_size` must divide the length of every matrix.
    pub fn to_v2(&self, group_size: usize) -> Vec<u8> {
        let mut file = self.header(2, Some(group_size));
        self.put_norms(&mut file);
        for tensor in self.matrices() {
            let (quants, scales) = quantize(tensor, group_size);
            file.extend(quants.iter().map(|q| q.cast_unsigned()));
            put_f32s(&mut file, &scales);
        }
        file
    }

    /// The f32 model that the file `to_v2(group_size)` stands for: each weight is its quant times its scale,
    /// rounded once to f32.
    pub fn dequantized(&self, group_size: usize) -> Self {
        let dequantized = |tensor: &[f32]| -> Vec<f32> {
            let (quants, scales) = quantize(tensor, group_size);
            quants.iter().enumerate().map(|(i, &q)| f32::from(q) * scales[i / group_size]).collect()
        };
        Self {
            shape: self.shape,
            tok_embeddings: dequantized(&self.tok_embeddings),
            layers: self
                .layers
                .iter()
                .map(|layer| Layer {
                    attention_norm: layer.attention_norm.clone(),
                    wq: dequantized(&layer.wq),
                    wk: dequantized(&layer.wk),
                    wv: dequantized(&layer.wv),
                    wo: dequantized(&layer.wo),
                    ffn_norm: layer.ffn_norm.clone(),
                    w1: dequantized(&layer.w1),
                    w2: dequantized(&layer.w2),
                    w3: dequantized(&layer.w3),
                })
                .collect(),
            norm: self.norm.clone(),
            output: self.output.as_deref().map(dequantized),
        }
    }

    /// Every matrix, in the order of files v1 and v2.
    fn matrices(&self) -> Vec<&[f32]> {
        let mut matrices: Vec<&[f32]> = vec![&self.tok_embeddings];
        matrices.extend(self.layers.iter().map(|layer| &*layer.wq));
        matrices.extend(self.layers.iter().map(|layer| &*layer.wk));
        matrices.extend(self.layers.iter().map(|layer| &*layer.wv));
        matrices.extend(self.layers.iter().map(|layer| &*layer.wo));
        matrices.extend(self.layers.iter().map(|layer| &*layer.w1));
        matrices.extend(self.layers.iter().map(|layer| &*layer.w2));
        matrices.extend(self.layers.iter().map(|layer| &*layer.w3));
        matrices.extend(self.output.as_deref());
        matrices
    }

    /// The seven integers that all versions share.
    fn put_ints(&self, file: &mut Vec<u8>, vocab_sign: i32) {
        let Shape { dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len, .. } =
            self.shape;
        for n in [dim, hidden_dim, n_layers, n_heads, n_kv_heads] {
            put_i32(file, n);
        }
        file.extend((i32::try_from(vocab_size).unwrap() * vocab_sign).to_le_bytes());
        put_i32(file, max_seq_len);
    }

    /// The header of v1 and v2: zeros up to byte 256. In v2 the group's size starts at byte 37, unaligned.
    fn header(&self, version: usize, group_size: Option<usize>) -> Vec<u8> {
        let mut file = 0x616b_3432_u32.to_le_bytes().to_vec();
        put_i32(&mut file, version);
        self.put_ints(&mut file, 1);
        file.push(u8::from(self.shape.tied));
        if let Some(group_size) = group_size {
            put_i32(&mut file, group_size);
        }
        file.resize(256, 0);
        file
    }

    /// The norms as v1 and v2 have them: in front of everything else.
    fn put_norms(&self, file: &mut Vec<u8>) {
        self.put_each(file, |layer| &layer.attention_norm);
        self.put_each(file, |layer| &layer.ffn_norm);
        put_f32s(file, &self.norm);
    }

    /// One tensor of every layer.
    fn put_each(&self, file: &mut Vec<u8>, tensor: impl Fn(&Layer) -> &[f32]) {
        for layer in &self.layers {
            put_f32s(file, tensor(layer));
        }
    }
}

fn put_i32(file: &mut Vec<u8>, n: usize) {
    file.extend(i32::try_from(n).unwrap().to_le_bytes());
}

fn put_f32s(file: &mut Vec<u8>, floats: &[f32]) {
    file.extend(floats.iter().flat_map(|x| x.to_le_bytes()));
}

/// Symmetric int8: the largest weight of each group becomes 127 or -127; halves round to even.
/// A group of zeros has scale 0 and quants 0.
pub fn quantize(tensor: &[f32], group_size: usize) -> (Vec<i8>, Vec<f32>) {
    assert!(tensor.len().is_multiple_of(group_size), "{} weights in groups of {group_size}", tensor.len());
    let mut quants = Vec::with_capacity(tensor.len());
    let mut scales = Vec::with_capacity(tensor.len() / group_size);
    for group in tensor.chunks_exact(group_size) {
        let scale = group.iter().fold(0.0_f32, |max, w| max.max(w.abs())) / 127.0;
        scales.push(scale);
        for w in group {
            quants.push(if scale == 0.0 { 0 } else { (w / scale).round_ties_even() as i8 });
        }
    }
    (quants, scales)
}

// --- The forward pass, as a specification -------------------------------------------------------------------

/// The logits at every position, `(n_tokens, vocab_size)`: Llama 2 by its definition, in f64, without a cache.
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

/// What attention adds to `x`, the states of all tokens: `(n_tokens, dim)` in and out.
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
            // Neighbouring query heads share a key and value head.
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

/// Rotates pair i of each head, elements 2i and 2i + 1, by the angle `position * theta^(-2i / head_dim)`.
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

// --- Golden logits ------------------------------------------------------------------------------------------

/// A random model, and the logits that Hugging Face's `LlamaForCausalLM` computes for some tokens.
#[derive(Clone, Copy, Debug)]
pub struct Golden {
    pub name: &'static str,
    pub shape: Shape,
    pub seed: u64,
    pub norm_eps: f64,
    pub rope_theta: f64,
    pub tokens: &'static [u32],
}

/// `CASES` in `tests/golden/hugging_face.py` must be equal to this table.
pub const GOLDEN: [Golden; 4] = [
    Golden {
        name: "tied_3_heads", // nothing is a multiple of 8
        shape: Shape {
            dim: 36,
            hidden_dim: 100,
            n_layers: 3,
            n_heads: 3,
            n_kv_heads: 3,
            vocab_size: 333,
            max_seq_len: 32,
            tied: true,
        },
        seed: 1,
        norm_eps: 1e-5,
        rope_theta: 1e4,
        tokens: &[1, 332, 7, 0, 150, 7],
    },
    Golden {
        name: "untied_8_heads_1_kv_theta_1e6", // an eps so large that a wrong one shows
        shape: Shape {
            dim: 64,
            hidden_dim: 172,
            n_layers: 2,
            n_heads: 8,
            n_kv_heads: 1,
            vocab_size: 515,
            max_seq_len: 32,
            tied: false,
        },
        seed: 2,
        norm_eps: 1e-2,
        rope_theta: 1e6,
        tokens: &[1, 514, 300, 2, 300, 0],
    },
    Golden {
        name: "untied_16_heads_2_kv", // Llama 2 70B has this ratio
        shape: Shape {
            dim: 128,
            hidden_dim: 344,
            n_layers: 3,
            n_heads: 16,
            n_kv_heads: 2,
            vocab_size: 333,
            max_seq_len: 32,
            tied: false,
        },
        seed: 3,
        norm_eps: 1e-5,
        rope_theta: 1e4,
        tokens: &[1, 5, 332, 64, 0, 5],
    },
    Golden {
        name: "tied_4_heads_2_kv_12_tokens",
        shape: Shape {
            dim: 96,
            hidden_dim: 172,
            n_layers: 2,
            n_heads: 4,
            n_kv_heads: 2,
            vocab_size: 512,
            max_seq_len: 32,
            tied: true,
        },
        seed: 4,
        norm_eps: 1e-5,
        rope_theta: 1e4,
        tokens: &[1, 400, 17, 17, 511, 256, 0, 3, 99, 400, 2, 128],
    },
];

impl Golden {
    pub fn model(&self) -> RandomModel {
        RandomModel::new(self.shape, self.seed)
    }

    /// The file's logits: `(n_tokens, vocab_size)`.
    pub fn logits(&self) -> Vec<Vec<f64>> {
        let path = format!("{}/tests/golden/{}.f64", env!("CARGO_MANIFEST_DIR"), self.name);
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(bytes.len(), self.tokens.len() * self.shape.vocab_size * 8, "{path}: length");
        let row =
            |row: &[u8]| row.chunks_exact(8).map(|x| f64::from_le_bytes(x.try_into().unwrap())).collect();
        bytes.chunks_exact(self.shape.vocab_size * 8).map(row).collect()
    }
}

// --- Comparing ----------------------------------------------------------------------------------------------

/// The standard deviation, about the mean.
pub fn std_dev(x: &[f64]) -> f64 {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt()
}

/// The largest distance between two elements at the same place: infinite where one is NaN, so that a comparison
/// with a tolerance fails. f32 and f64 mix.
///
/// # Panics
/// If the lengths differ.
pub fn max_abs_diff<A: Copy + Into<f64>, B: Copy + Into<f64>>(a: &[A], b: &[B]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths");
    let diff = |(&a, &b): (&A, &B)| (a.into() - b.into()).abs();
    a.iter().zip(b).map(diff).fold(0.0, |max, d| if d.is_nan() { f64::INFINITY } else { d.max(max) })
}

// --- Files --------------------------------------------------------------------------------------------------

/// A file in a temporary folder of its own; both go when it is dropped.
#[derive(Debug)]
pub struct TempFile {
    path: PathBuf,
}

impl TempFile {
    /// Writes `bytes` to a new file that ends in `name`.
    pub fn new(name: &str, bytes: &[u8]) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let dir = env::temp_dir().join(format!("babyllama-test-{}-{n}", process::id()));
            match fs::create_dir(&dir) {
                Ok(()) => {
                    let file = Self { path: dir.join(name) };
                    fs::write(&file.path, bytes).unwrap();
                    return file;
                }
                // An earlier process of this number was killed before it could clean up.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{}: {error}", dir.display()),
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsRef<Path> for TempFile {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // On failure the folder stays: a panic here would hide the test's own.
        let _ = fs::remove_dir_all(self.path.parent().unwrap());
    }
}

/// The folder of real model files, which are too large for the repository. Where it is not set, says that
/// `test` is skipped.
///
/// # Panics
/// If it is set to something that isn't a folder: a test that should run must not be skipped.
pub fn shared(test: &str) -> Option<PathBuf> {
    let Some(folder) = env::var_os("BABYLLAMA_SHARED") else {
        eprintln!("skipped: {test} needs real model files: set BABYLLAMA_SHARED to their folder");
        return None;
    };
    let folder = PathBuf::from(folder);
    assert!(folder.is_dir(), "BABYLLAMA_SHARED: {} is not a folder", folder.display());
    Some(folder)
}
