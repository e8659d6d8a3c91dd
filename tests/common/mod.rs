//! What the tests hold the crate against: random models, naive forward passes, and files to load.
//!
//! Nothing here but [`check`] imports the crate, so a mistake in `src` can't hide by being made
//! twice. The oracle itself is held by the logits in `tests/golden`, which Hugging Face's
//! implementation computed.
//!
//! - here: models, their files, and comparing
//! - [`rng`]: random numbers
//! - [`forward`]: the forward pass in f64
//! - [`runq`]: the forward pass of int8 files, in the numerics that defines them
//! - [`golden`]: Hugging Face's logits
//! - [`gguf`]: GGUF files, well-formed or not
//! - [`scripted`]: a model that says what it is told to, and tokenizers for it
//! - [`check`]: opening, running and refusing models

#![allow(dead_code, reason = "each test crate compiles this module anew and uses a part of it")]
#![allow(unused_imports, reason = "each test crate compiles this module anew and uses a part of it")]
#![allow(unreachable_pub, reason = "`pub` marks what the tests may use, as it would in a library")]

mod check;
mod forward;
pub mod gguf;
mod golden;
mod rng;
mod runq;
mod scripted;

pub use check::*;
pub use forward::logits;
pub use golden::{GOLDEN, Golden, golden, golden_bytes, golden_f64, golden_tokens};
pub use rng::SplitMix64;
pub use runq::logits as runq_logits;
pub use scripted::{scripted_model, tokenizer_bin};

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{env, fs, io, process};

/// The integers that fix a Llama's tensors. `dim` is a multiple of `n_heads`, `n_heads` of
/// `n_kv_heads`.
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
    /// Of one layer, head, token and position, with a classifier of its own.
    pub const fn new(dim: usize, hidden_dim: usize) -> Self {
        let (n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len) = (1, 1, 1, 1, 1);
        Self { dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len, tied: false }
    }

    pub const fn layers(self, n_layers: usize) -> Self {
        Self { n_layers, ..self }
    }

    /// The heads of queries, and those of keys and values.
    pub const fn heads(self, n_heads: usize, n_kv_heads: usize) -> Self {
        Self { n_heads, n_kv_heads, ..self }
    }

    pub const fn vocab(self, vocab_size: usize) -> Self {
        Self { vocab_size, ..self }
    }

    pub const fn context(self, max_seq_len: usize) -> Self {
        Self { max_seq_len, ..self }
    }

    pub const fn tied(self) -> Self {
        Self { tied: true, ..self }
    }

    pub fn head_dim(&self) -> usize {
        self.dim / self.n_heads
    }

    pub fn kv_dim(&self) -> usize {
        self.head_dim() * self.n_kv_heads
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

/// One of a layer's tensors.
type Part = fn(&Layer) -> &Vec<f32>;

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
    /// The same model for the same shape and seed, always. `tests/golden/hugging_face.py` makes it
    /// too: the order of the tensors, their scales and every rounding must be equal there.
    pub fn new(shape: Shape, seed: u64) -> Self {
        let Shape { dim, hidden_dim, vocab_size, .. } = shape;
        let kv_dim = shape.kv_dim();
        // A matrix with rows of length n keeps the size of a normalized input: uniform weights of
        // variance 1/n. So attention scores have a deviation near 1, and a softmax that is wrong
        // shows.
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

    /// The matrix that makes logits of the last state: `(vocab_size, dim)`.
    pub fn classifier(&self) -> &[f32] {
        self.output.as_deref().unwrap_or(&self.tok_embeddings)
    }

    /// llama2.c's legacy file: no magic, the sign of the vocabulary's size says whether the
    /// classifier is tied.
    pub fn to_v0(&self) -> Vec<u8> {
        let mut file = Vec::new();
        self.put_ints(&mut file, if self.shape.tied { 1 } else { -1 });
        put_f32s(&mut file, &self.tok_embeddings);
        let attention: [Part; 5] = [|l| &l.attention_norm, |l| &l.wq, |l| &l.wk, |l| &l.wv, |l| &l.wo];
        let feed_forward: [Part; 4] = [|l| &l.ffn_norm, |l| &l.w1, |l| &l.w2, |l| &l.w3];
        for part in attention.into_iter().chain(feed_forward) {
            self.put_each(&mut file, part);
        }
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

    /// llama2.c's int8 file: each matrix's quants, then its scales, one for `group_size` weights of
    /// the flat tensor. Groups may straddle rows. `group_size` must divide the length of every
    /// matrix.
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

    /// The f32 model that the file `to_v2(group_size)` stands for: each weight is its quant times
    /// its scale, rounded once to f32.
    pub fn dequantized(&self, group_size: usize) -> Self {
        let dequantized = |tensor: &[f32]| -> Vec<f32> {
            let (quants, scales) = quantize(tensor, group_size);
            quants.iter().enumerate().map(|(i, &q)| f32::from(q) * scales[i / group_size]).collect()
        };
        let mut model = self.clone();
        for matrix in model.matrices_mut() {
            *matrix = dequantized(matrix);
        }
        model
    }

    /// Every matrix, in the order of files v1 and v2.
    fn matrices(&self) -> Vec<&[f32]> {
        let parts: [Part; 7] = [|l| &l.wq, |l| &l.wk, |l| &l.wv, |l| &l.wo, |l| &l.w1, |l| &l.w2, |l| &l.w3];
        let mut matrices: Vec<&[f32]> = vec![&self.tok_embeddings];
        for part in parts {
            matrices.extend(self.layers.iter().map(|layer| &**part(layer)));
        }
        matrices.extend(self.output.as_deref());
        matrices
    }

    /// Every matrix, in any order.
    pub fn matrices_mut(&mut self) -> Vec<&mut Vec<f32>> {
        let mut matrices = vec![&mut self.tok_embeddings];
        for Layer { attention_norm: _, wq, wk, wv, wo, ffn_norm: _, w1, w2, w3 } in &mut self.layers {
            matrices.extend([wq, wk, wv, wo, w1, w2, w3]);
        }
        matrices.extend(&mut self.output);
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

    /// The header of v1 and v2: zeros up to byte 256. In v2 the group's size starts at byte 37,
    /// unaligned.
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
    fn put_each(&self, file: &mut Vec<u8>, part: Part) {
        for layer in &self.layers {
            put_f32s(file, part(layer));
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

/// The standard deviation, about the mean.
pub fn std_dev(x: &[f64]) -> f64 {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64).sqrt()
}

/// The largest distance between two elements at the same place: infinite where one is NaN, so that
/// a comparison with a tolerance fails. f32 and f64 mix.
///
/// # Panics
/// If the lengths differ.
pub fn max_abs_diff<A: Copy + Into<f64>, B: Copy + Into<f64>>(a: &[A], b: &[B]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths");
    let diff = |(&a, &b): (&A, &B)| (a.into() - b.into()).abs();
    a.iter().zip(b).map(diff).fold(0.0, |max, d| if d.is_nan() { f64::INFINITY } else { d.max(max) })
}

/// The largest distance in standard deviations of what is expected.
pub fn max_error(found: &[f32], expected: &[f64]) -> f64 {
    max_abs_diff(found, expected) / std_dev(expected)
}

/// Root of the mean square of the difference, in standard deviations of what is expected.
pub fn rms_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len(), "lengths");
    let squares = found.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).powi(2));
    (squares.sum::<f64>() / expected.len() as f64).sqrt() / std_dev(expected)
}

/// How far f32 logits may be from exact ones, in standard deviations of the logits.
///
/// From the embedding to a logit there are at most `8 n_layers + 2` sums in a row, each of at most
/// `widest` terms with a rounding each, below u = 2^-24 of the partial sum. Rounding errors
/// are independent and of mean zero to first order, so the relative error of a sum grows as
/// sqrt(widest) u (Higham and Mary 2019), and those of the sums add up. (All in one direction it
/// would be sqrt(widest) times that, which never happens.) Measured: at most a third of it.
pub fn f32_tolerance(n_layers: usize, widest: usize) -> f64 {
    (8 * n_layers + 2) as f64 * (widest as f64).sqrt() / f64::from(1 << 24)
}

/// How far int8 activations may take the logits, in standard deviations: root mean square.
///
/// An activation is off by at most half a step, which is its group's largest divided by 127, and
/// evenly distributed in that: by `peak / (127 sqrt(12))` in the root mean square. In a group of
/// `g` normally distributed activations the peak is about sqrt(2 ln(2 g)) of their root mean
/// square, so a product's input, and with weights that know nothing of the error its output, is off
/// by `e = sqrt(2 ln(2 g)) / (127 sqrt(12))` of its own size, 0.7 % for g = 64.
///
/// A logit comes after 4 products a layer in a row and the classifier. Each hands on the error
/// before it and adds its own, which is independent, so squares add up: `sqrt(4 n_layers + 1) e`,
/// doubled because SwiGLU multiplies two inputs and attention three. Measured: at most a third of
/// that.
pub fn int8_tolerance(n_layers: usize, group_size: usize) -> f64 {
    let e = (2.0 * (2.0 * group_size as f64).ln()).sqrt() / (127.0 * 12_f64.sqrt());
    2.0 * ((4 * n_layers + 1) as f64).sqrt() * e
}

/// Fails unless two rows of logits are the same bits, and finite.
#[track_caller]
pub fn assert_same_bits(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths");
    let first = found.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!(first, None, "{what}: the first logit that differs");
    assert!(!found.is_empty() && found.iter().all(|x| x.is_finite()), "{what}: finite");
}

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

    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap()
    }

    /// The path of another file in its folder.
    pub fn beside(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder().join(name)
    }

    pub fn text(&self) -> &str {
        self.path.to_str().unwrap()
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
        let _ = fs::remove_dir_all(self.folder());
    }
}

/// The folder of real model files, which are too large for the repository. Where it is not set,
/// says that `test` is skipped.
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
