//! llama.cpp's adapters: GGUF files whose tensors are those of a model's names with `.lora_a`,
//! (rank, in), and `.lora_b`, (out, rank). Those of the embeddings are both transposed.
//!
//! Rows of queries and keys are in the order that the base's GGUF file has.
//!
//! Source: `convert_lora_to_gguf.py` and `src/llama-adapter.cpp` in the llama.cpp repository.

use std::path::Path;
use std::sync::Arc;

use super::{Adapter, Change, Factor, Numbers, Product};
use crate::arch::{TOK_EMBEDDINGS, TensorId};
use crate::checkpoint::gguf::adapter;
use crate::convert::source::SourceModel;
use crate::convert::source::file::DataFile;
use crate::error::{Error, Result};
use crate::storage::Storage;

pub(super) fn is_gguf(path: &Path) -> bool {
    let mut start = [0; 4];
    let mut read = || DataFile::open(path)?.read_at("its magic number", 0, &mut start);
    path.is_file() && read().is_ok() && start == *crate::checkpoint::gguf::MAGIC
}

pub(super) fn open(model: &SourceModel, path: &Path) -> Result<Adapter> {
    let storage = Arc::new(Storage::open(path)?);
    read(model, &storage).map_err(|e| e.at(storage.path()))
}

fn read(model: &SourceModel, storage: &Arc<Storage>) -> Result<Adapter> {
    let mut file = adapter::AdapterFile::read(storage)?;
    if file.architecture != model.architecture.name {
        let reason = format!("the adapter is for another base: this one is a {}", model.architecture.name);
        return Err(Error::config("general.architecture", &file.architecture, reason));
    }
    let mut adapter = Adapter { notes: std::mem::take(&mut file.notes), ..Adapter::default() };
    for id in TensorId::all(&model.config) {
        let shape = id.shape(&model.config);
        let &[rows, columns] = &*shape else { continue }; // a vector's is then refused
        let (name, n_rows, start) =
            whole(model, id, &file).unwrap_or((model.architecture.tensor(id), rows, 0));
        let [a, b] = ["lora_a", "lora_b"].map(|part| format!("{name}.{part}"));
        let Some(found) = file.shape(&b) else { continue };
        let rank = found.last().copied().unwrap_or(0);
        let is_embedding = std::ptr::eq(id.kind, &raw const TOK_EMBEDDINGS);
        let (left, right) = if is_embedding {
            // (vocab, rank) and (dim, rank)
            (file.take(&a, &[rows, rank])?, file.take(&b, &[columns, rank])?)
        } else if n_rows > rows {
            let left = file.take_rows(&b, &[n_rows, rank], start..start + rows)?;
            (left, file.take_rows(&a, &[rank, columns], 0..rank)?)
        } else {
            (file.take(&b, &[rows, rank])?, file.take(&a, &[rank, columns])?)
        };
        let scale = if file.alpha == 0.0 { 1.0 } else { f64::from(file.alpha) / rank as f64 };
        let (left, right) = (Factor::of(Numbers::Gguf(left)), Numbers::Gguf(right));
        let right = if is_embedding { Factor::transposed(right) } else { Factor::of(right) };
        let added = Some(Product { left, right, rank, scale, magnitude: None });
        adapter.changes.insert(id.to_string(), Change { replaced: None, added });
    }
    file.finish()?;
    if adapter.changes.is_empty() {
        return Err(Error::missing_tensor("NAME.lora_b"));
    }
    Ok(adapter)
}

/// Of a tensor that is a part of another which the adapter changes, the other's name, its number of
/// rows, and which of them is the part's first.
fn whole(model: &SourceModel, id: TensorId, file: &adapter::AdapterFile) -> Option<(String, usize, usize)> {
    let (name, parts) = model.architecture.fused(id)?;
    let own = model.architecture.tensor(id);
    let of_layer = || TensorId::all(&model.config).filter(|other| other.layer == id.layer);
    let n_rows = |part: &String| {
        let part = of_layer().find(|other| model.architecture.tensor(*other) == *part)?;
        part.shape(&model.config).first().copied()
    };
    let start = parts.iter().take_while(|part| **part != own).map(n_rows).sum::<Option<usize>>()?;
    let all = parts.iter().map(n_rows).sum::<Option<usize>>()?;
    let is_whole = file.shape(&format!("{name}.lora_b"))?.first() == Some(&all);
    is_whole.then_some((name, all, start))
}
