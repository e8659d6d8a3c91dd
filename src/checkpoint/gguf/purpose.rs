//! What a GGUF file is for, if not for a model that runs: adapters, image encoders and the like;
//! and types of weights that files once had.
//!
//! Source: `general.type` in `docs/gguf.md` of the ggml repository; `enum ggml_type` there for
//! types that were taken back.

use super::keys as key;
use super::metadata::Metadata;
use crate::error::{Error, Result};

/// What `general.type` says, and what such a file is, with what to do.
const PURPOSES: &[(&str, &str)] = &[
    ("adapter", "a LoRA adapter, which only changes another model"),
    ("mmproj", "an image or audio encoder (mmproj), which only helps another model: name that one"),
    ("imatrix", "an importance matrix, which helps to quantize a model and holds none"),
    ("vocab", "a tokenizer alone: name a model's file, and give this with -z"),
];

/// Architectures that are no language models.
const NO_MODELS: &[(&str, &str)] =
    &[("clip", "mmproj"), ("controlvector", "adapter"), ("imatrix", "imatrix")];

/// Types of weights that were taken back: their numbers, their names, and what to take in their
/// place.
const TAKEN_BACK: &[(u32, &str, &str)] = &[
    (4, "Q4_2", "Q4_0"),
    (5, "Q4_3", "Q4_1"),
    (31, "Q4_0_4_4", "Q4_0"),
    (32, "Q4_0_4_8", "Q4_0"),
    (33, "Q4_0_8_8", "Q4_0"),
    (36, "IQ4_NL_4_4", "IQ4_NL"),
    (37, "IQ4_NL_4_8", "IQ4_NL"),
    (38, "IQ4_NL_8_8", "IQ4_NL"),
];

/// Checks that a file isn't one of those that hold no model.
///
/// The first part of a split model may have no tensors.
pub(super) fn check_is_model(metadata: &Metadata<'_>, n_tensors: u64, is_whole: bool) -> Result<()> {
    let text = |key: &str| metadata.text(key).ok().flatten();
    let by_architecture = text(key::ARCHITECTURE)
        .and_then(|found| NO_MODELS.iter().find(|(name, _)| *name == found).map(|(_, purpose)| *purpose));
    let only_vocabulary = is_whole && n_tensors == 0 && metadata.get("tokenizer.ggml.tokens").is_some();
    let only_vocabulary = only_vocabulary.then_some("vocab");
    let Some(purpose) = by_architecture.or(only_vocabulary).or(text(key::TYPE)) else {
        return Ok(());
    };
    let Some((_, what)) = PURPOSES.iter().find(|(name, _)| *name == purpose) else {
        return Ok(()); // a model, or a purpose that isn't known: the keys and tensors decide
    };
    let mut hint = format!("it is {what}");
    if purpose == "adapter" {
        let base = ["general.base_model.0.name", "general.base_model.0.repo_url"].into_iter().find_map(text);
        let base = base.map_or_else(|| "that".into(), |base| format!("its base, {base},"));
        hint += &format!(
            ": merge it into {base} first, with `babyllama convert BASE NAME.gguf --lora` and this file"
        );
    }
    Err(Error::unknown_format(hint))
}

/// What to call a type of weights that no file should have.
pub(super) fn unknown_type(id: u32) -> String {
    let taken_back = TAKEN_BACK.iter().find(|(number, ..)| *number == id);
    taken_back.map_or_else(
        || format!("number {id}"),
        |(_, name, instead)| format!("{name} (which was taken back: download the model in {instead})"),
    )
}

/// The name of a type of weights that was taken back.
pub(super) fn taken_back(id: u32) -> Option<&'static str> {
    TAKEN_BACK.iter().find(|(number, ..)| *number == id).map(|(_, name, _)| *name)
}
