//! Files that are adapters (`LoRA`): the keys `adapter.*`, and tensors in pairs.

use std::ops::Range;
use std::sync::Arc;

use super::tensors::Tensors;
use super::{Header, keys};
use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::tensor::Tensor;

const KIND: &str = "adapter.type";
const ALPHA: &str = "adapter.lora.alpha";
/// The tokens from which on an adapter counts.
const INVOCATION: &str = "adapter.alora.invocation_tokens";
/// Keys that change nothing of what is merged: for people and programs that ask a model.
const HARMLESS: [&str; 2] = ["adapter.lora.task_name", "adapter.lora.prompt_prefix"];

/// What a file holds.
#[derive(Debug)]
pub(crate) struct AdapterFile {
    pub(crate) architecture: String,
    /// What the product is multiplied with, times the rank; 0 stands for the rank.
    pub(crate) alpha: f32,
    pub(crate) notes: Vec<String>,
    tensors: Tensors,
}

impl AdapterFile {
    pub(crate) fn read(storage: &Arc<Storage>) -> Result<Self> {
        let (header, mut cursor) = Header::read(storage)?;
        let metadata = &header.metadata;
        let (what, kind) = (metadata.text(keys::TYPE)?, metadata.text(KIND)?);
        if what != Some("adapter") {
            let what = what.unwrap_or("not there");
            return Err(Error::unknown_format(format!("it is no adapter: general.type is {what}")));
        }
        if kind != Some("lora") {
            let kind = kind.unwrap_or("not there");
            return Err(Error::config(KIND, kind, "only lora is supported"));
        }
        let alpha = metadata.optional::<f64>(ALPHA)?.unwrap_or(0.0) as f32;
        if !alpha.is_finite() {
            return Err(Error::config(ALPHA, alpha, "must be a finite number"));
        }
        if let Some(tokens) = metadata.get(INVOCATION).filter(|it| it.items().is_none_or(|it| it.len() > 0)) {
            let reason = "an adapter that counts from some tokens on can't be merged";
            return Err(Error::config(INVOCATION, tokens, reason));
        }
        let known = |key: &str| [KIND, ALPHA, INVOCATION].contains(&key) || HARMLESS.contains(&key);
        let unknown = metadata.iter().filter(|(key, _)| key.starts_with("adapter.") && !known(key));
        let notes =
            unknown.map(|(key, _)| format!("the key {key} isn't known, and was passed over")).collect();
        let architecture = metadata.required(keys::ARCHITECTURE)?;
        let mut tensors = Tensors::default();
        header.read_tensors(&mut cursor, storage, &mut tensors)?;
        Ok(Self { architecture, alpha, notes, tensors })
    }

    /// The shape of a tensor: (rows, columns).
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.shape(name)
    }

    /// A tensor that must be there, of a shape.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        self.tensors.take(name, shape)?.ok_or_else(|| Error::missing_tensor(name))
    }

    /// Some rows of a tensor that must be there, of a shape.
    pub(crate) fn take_rows(&mut self, name: &str, shape: &[usize], rows: Range<usize>) -> Result<Tensor> {
        self.tensors.take_rows(name, shape, rows)?.ok_or_else(|| Error::missing_tensor(name))
    }

    /// Checks that all were taken.
    pub(crate) fn finish(self) -> Result<()> {
        self.tensors.finish()
    }
}
