//! Adapters (`LoRA`): what they change of a model's tensors, merged while these are read.
//!
//! ```text
//! W + scale * B A       B (out, rank), A (rank, in); of embeddings, which are looked up by row,
//!                       the transposed of it
//! m / |row| * row       DoRA: each row of that gets the length m
//! ```
//!
//! - here: what an adapter changes, and the sum; `f64`, rounded once
//! - [`peft`]: PEFT's directories, with [`pattern`] the patterns of their settings
//! - [`gguf`]: llama.cpp's files

mod gguf;
mod pattern;
mod peft;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::stored::ShardedTensor;
use super::{SourceModel, SourceTensor};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::Tensor;

/// An adapter, opened: what it changes, by Meta's names of tensors.
#[derive(Debug, Default)]
pub(super) struct Adapter {
    changes: BTreeMap<String, Change>,
    /// What a user should know, each a sentence.
    notes: Vec<String>,
}

/// What becomes of one tensor.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// What takes its place, before anything is added.
    replaced: Option<ShardedTensor>,
    added: Option<Product>,
}

/// `scale * left right`: (rows, rank) and (rank, columns).
#[derive(Debug)]
struct Product {
    left: Factor,
    right: Factor,
    rank: usize,
    scale: f64,
    /// The lengths that rows get: (rows).
    magnitude: Option<ShardedTensor>,
}

/// A matrix, small enough to be read whole.
#[derive(Debug)]
struct Factor {
    numbers: Numbers,
    /// Whether what is stored is the transposed one.
    is_transposed: bool,
}

#[derive(Debug)]
enum Numbers {
    Published(ShardedTensor),
    Gguf(Tensor),
    /// Of a vector that is added as it is.
    One,
}

impl Factor {
    fn of(numbers: Numbers) -> Self {
        Self { numbers, is_transposed: false }
    }

    fn transposed(numbers: Numbers) -> Self {
        Self { numbers, is_transposed: true }
    }

    /// Its numbers: (rows, columns).
    fn read(&self, rows: usize, columns: usize) -> Result<Vec<f64>> {
        let stored = match &self.numbers {
            Numbers::Published(tensor) => tensor.read_all()?,
            Numbers::Gguf(tensor) => tensor.to_f32(),
            Numbers::One => vec![1.0],
        };
        let place = |i: usize| if self.is_transposed { i % columns * rows + i / columns } else { i };
        Ok((0..rows * columns).map(|i| stored[place(i)].into()).collect())
    }
}

/// A product whose factors are read.
#[derive(Debug)]
struct Loaded {
    left: Vec<f64>,  // (rows, rank)
    right: Vec<f64>, // (rank, columns)
    rank: usize,
    scale: f64,
    magnitude: Option<Vec<f32>>, // (rows)
}

impl Product {
    fn load(&self, rows: usize, columns: usize) -> Result<Loaded> {
        Ok(Loaded {
            left: self.left.read(rows, self.rank)?,
            right: self.right.read(self.rank, columns)?,
            rank: self.rank,
            scale: self.scale,
            magnitude: self.magnitude.as_ref().map(ShardedTensor::read_all).transpose()?,
        })
    }
}

impl Loaded {
    /// Adds a row of the product.
    fn add(&self, row: usize, to: &mut [f64]) {
        let left = &self.left[row * self.rank..][..self.rank];
        for (left, right) in left.iter().zip(self.right.chunks_exact(to.len())) {
            let factor = self.scale * left;
            to.iter_mut().zip(right).for_each(|(to, right)| *to += factor * right);
        }
    }

    /// Changes a row, of which `base` is what it was before any adapter.
    fn merge(&self, row: usize, base: &[f64], changed: &mut [f64]) {
        self.add(row, changed);
        if let Some(magnitude) = &self.magnitude {
            let mut alone = base.to_vec();
            self.add(row, &mut alone);
            let length = alone.iter().map(|x| x * x).sum::<f64>().sqrt();
            let factor = f64::from(magnitude[row]) / length;
            changed.iter_mut().for_each(|x| *x *= factor);
        }
    }
}

impl SourceModel {
    /// Merges an adapter into what is read of this model from now on.
    pub(super) fn merge_lora(&mut self, path: &Path, scale: f32) -> Result<()> {
        if !scale.is_finite() {
            let (name, value) = ("lora scale", scale.to_string());
            let reason = "must be a finite number".into();
            return Err(Error::from(ErrorKind::InvalidOption { name, value, reason }).at(Some(path)));
        }
        // Or a file beside it would be called missing.
        std::fs::metadata(path).map_err(|e| Error::from(e).at(Some(path)))?;
        let mut adapter = if gguf::is_gguf(path) { gguf::open(self, path)? } else { peft::open(self, path)? };
        for (name, change) in &mut adapter.changes {
            if let Some(replaced) = change.replaced.as_ref().filter(|_| scale != 1.0) {
                let reason = format!("it takes the place of {name}, so it can't be scaled by {scale}");
                return Err(Error::tensor_layout(replaced.stored_name(), reason).at(Some(path)));
            }
            change.added.iter_mut().for_each(|product| product.scale *= f64::from(scale));
        }
        self.check_tied(&adapter, path)?;
        self.notes.append(&mut adapter.notes);
        self.adapters.push(adapter);
        Ok(())
    }

    /// A classifier that is the embeddings can't be changed by itself, nor can these be replaced
    /// without it. (What is added to them is added to both, as where PEFT merges it.)
    fn check_tied(&self, adapter: &Adapter, path: &Path) -> Result<()> {
        let output = adapter.changes.get("output");
        let embeddings = adapter.changes.get("tok_embeddings").and_then(|change| change.replaced.as_ref());
        if !self.is_tied() || output.is_none() && embeddings.is_none() {
            return Ok(());
        }
        if let (Some(Change { replaced: Some(output), added: None, .. }), Some(embeddings)) =
            (output, embeddings)
            && output.is_equal(embeddings)?
        {
            return Ok(());
        }
        let reason = "the base's classifier is its embeddings, and this changes one of them alone: untie the base first";
        let name = self.architecture.tensor(crate::arch::TensorId::of_model(&crate::arch::OUTPUT));
        Err(Error::tensor_layout(name, reason).at(Some(path)))
    }
}

/// A tensor as the adapters change it.
pub(super) fn merged<'a>(adapters: &'a [Adapter], tensor: SourceTensor<'a>) -> SourceTensor<'a> {
    let changes = adapters.iter().filter_map(|adapter| adapter.changes.get(&*tensor.info.name));
    let mut changes: Vec<&Change> = changes.collect();
    if changes.is_empty() {
        return tensor;
    }
    // What was replaced afterwards doesn't count.
    let last = changes.iter().rposition(|change| change.replaced.is_some());
    changes.drain(..last.unwrap_or(0));
    let replaced = last.and_then(|_| changes[0].replaced.as_ref());
    let products: Vec<&Product> = changes.iter().filter_map(|change| change.added.as_ref()).collect();
    let (rows, columns) = tensor.rows_and_columns();
    let SourceTensor { id, info, read: read_base, .. } = tensor;
    let loaded = Mutex::new(None::<Arc<Vec<Loaded>>>);
    let load = move || -> Result<Arc<Vec<Loaded>>> {
        let mut loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = &*loaded {
            return Ok(Arc::clone(loaded));
        }
        let all: Result<Vec<Loaded>> = products.iter().map(|product| product.load(rows, columns)).collect();
        Ok(Arc::clone(loaded.insert(Arc::new(all?))))
    };
    let read = Box::new(move |rows: std::ops::Range<usize>, out: &mut [f32]| {
        match replaced {
            Some(replaced) => replaced.read(rows.clone(), out)?,
            None => read_base(rows.clone(), out)?,
        }
        let loaded = load()?;
        let (mut base, mut changed) = (vec![0.0; columns], vec![0.0; columns]);
        for (row, out) in rows.zip(out.chunks_exact_mut(columns)) {
            base.iter_mut().zip(&*out).for_each(|(base, &out)| *base = f64::from(out));
            changed.copy_from_slice(&base);
            loaded.iter().for_each(|product| product.merge(row, &base, &mut changed));
            out.iter_mut().zip(&changed).for_each(|(out, &changed)| *out = changed as f32);
        }
        Ok(())
    });
    SourceTensor { id, info, bytes: None, read }
}

/// What a user names: a directory, a file of weights in it, or a GGUF file.
fn folder_of(path: &Path) -> PathBuf {
    if path.is_dir() { path.into() } else { super::folder_of(path).into() }
}
