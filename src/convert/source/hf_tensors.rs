//! The tensors of Hugging Face's directories: which files they are in, and which of them a model
//! needs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::file::DataFile;
use super::json::JsonFile;
use super::llama::WeightFiles;
use super::stored::TensorView;
use super::{missing, needless, safetensors, torch};
use crate::checkpoint::file_kind::FileKind;
use crate::error::{Error, Result};

/// Where weights are: a file, or an index of files. The first that is there counts, as for
/// transformers.
pub(super) const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// What wrappers put before the names of what they wrap: torch.compile, FSDP, activation
/// checkpoints.
const WRAPPERS: [&str; 3] = ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."];

/// What trainers put before all names.
const PREFIXES: [&str; 2] = ["module.", "base_model.model."];

/// The file of weights or their index, if a directory has one.
pub(super) fn find(folder: &Path) -> Option<PathBuf> {
    WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// The files that an index names; `None` of one that can't be read.
fn indexed(index: &Path) -> Option<BTreeSet<String>> {
    let index = JsonFile::open(index).ok()?;
    let map = index.object().object("weight_map").ok()??;
    map.map.values().map(|file| file.as_str().filter(|name| is_file_name(name)).map(str::to_owned)).collect()
}

/// The weights that a file is a part of: an index that names it, or itself.
fn whole_of(folder: &Path, named: &Path) -> PathBuf {
    let name = named.file_name().unwrap_or_default().to_string_lossy();
    let is_whole = WEIGHTS.contains(&&*name);
    let names = |index: &PathBuf| indexed(index).is_some_and(|files| files.contains(&*name));
    let mut indexes = [WEIGHTS[1], WEIGHTS[3]].into_iter().map(|index| folder.join(index));
    indexes.find(|index| !is_whole && names(index)).unwrap_or_else(|| named.into())
}

/// Whether all of a model's files are there, as far as their first bytes show.
pub(super) fn is_whole(weights: &Path) -> bool {
    if weights.extension().is_none_or(|extension| extension != "json") {
        return super::begins_as_part(weights);
    }
    let is_part = |file: &String| super::begins_as_part(&weights.with_file_name(file));
    indexed(weights).is_some_and(|files| files.iter().all(is_part))
}

/// The name by which transformers knows a tensor, without what wrappers and trainers put before it.
pub(super) fn plain_name(name: &str) -> String {
    let mut name = name.to_owned();
    for wrapper in WRAPPERS {
        name = name.replace(wrapper, "");
    }
    let mut rest = &*name;
    while let Some(shorter) = PREFIXES.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
        rest = shorter;
    }
    while let Some(inner) = rest.strip_prefix("model.")
        && (inner.starts_with("model.") || inner.starts_with("lm_head."))
    {
        rest = inner;
    }
    // The model without its classifier, saved alone.
    let is_inner = ["layers.", "embed_tokens.", "norm."].iter().any(|start| rest.starts_with(start));
    if is_inner { format!("model.{rest}") } else { rest.into() }
}

/// The tensors of all files, under the names by which transformers knows them, and the files.
pub(super) fn open(folder: &Path, named: Option<&Path>) -> Result<WeightFiles> {
    let found = named.map_or_else(|| find(folder), |named| Some(whole_of(folder, named)));
    let Some(path) = found else { return Err(missing::weights(folder)) };
    let mut weights = WeightFiles::default();
    if path.extension().is_some_and(|extension| extension == "json") {
        read_index(&mut weights, folder, &path)?;
    } else {
        read(&mut weights, &path)?.into_iter().for_each(|tensor| add(&mut weights, tensor));
        weights.files.push(path);
    }
    needless::check_kind(&weights, folder)?;
    weights.note_doubles();
    Ok(weights)
}

fn add(weights: &mut WeightFiles, tensor: TensorView) {
    weights.stored.add_as(plain_name(tensor.name()), tensor);
}

/// The index decides which file a tensor is taken from, if several have one of its name. What
/// it names and no file has is missing only if the model needs it.
fn read_index(weights: &mut WeightFiles, folder: &Path, index: &Path) -> Result<()> {
    let file = JsonFile::open(index)?;
    let at = |e: Error| e.at(Some(index));
    let map = file.object().object("weight_map")?;
    let map = map.ok_or_else(|| at(Error::missing_key("weight_map")))?;
    let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, file) in map.map {
        let name = file.as_str().filter(|name| is_file_name(name));
        let name = name.ok_or_else(|| map.wrong_type(tensor, "the name of a file beside the index", file))?;
        files.entry(name).or_default().push(tensor);
    }
    let paths: Vec<PathBuf> = files.keys().map(|file| folder.join(file)).collect();
    missing::check_files(index, &paths)?;
    let mut absent: Vec<&str> = Vec::new();
    for (file, listed) in files {
        let path = folder.join(file);
        let found = read(weights, &path)?;
        absent
            .extend(listed.iter().filter(|name| !found.iter().any(|found| found.name() == **name)).copied());
        for tensor in found {
            let place = map.map.get(tensor.name()).and_then(|place| place.as_str());
            if place.is_none_or(|place| place == file) {
                add(weights, tensor);
            }
        }
        weights.files.push(path);
    }
    if let Some(first) = absent.first() {
        let n = absent.len();
        weights.notes.push(format!("the index names {n} tensors that no file has, such as {first}"));
    }
    Ok(())
}

/// A file's tensors. What it begins with decides which reader reads it, and its name only if
/// that says nothing.
fn read(weights: &mut WeightFiles, path: &Path) -> Result<Vec<TensorView>> {
    let kind = DataFile::open(path)?.kind();
    let is_safetensors = match kind {
        Some(FileKind::Safetensors | FileKind::LoraSafetensors) => true,
        Some(FileKind::PyTorch | FileKind::OldPyTorch) => false,
        _ => path.extension().is_some_and(|extension| extension == "safetensors"),
    };
    if is_safetensors {
        return safetensors::tensors(path);
    }
    let contents = torch::read(path)?;
    weights.notes.extend(contents.note(path));
    Ok(contents.tensors)
}

/// Whether a name leads nowhere else.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::plain_name;

    #[test]
    fn names_lose_what_wrappers_put_before_them() {
        let q = "model.layers.3.self_attn.q_proj.weight";
        for name in [
            q,
            "layers.3.self_attn.q_proj.weight",
            "_orig_mod.model.layers.3.self_attn.q_proj.weight",
            "module.model.layers.3.self_attn.q_proj.weight",
            "module._orig_mod.model.layers.3.self_attn.q_proj.weight",
            "base_model.model.model.layers.3.self_attn.q_proj.weight",
            "model._orig_mod.layers.3.self_attn.q_proj.weight",
            "model.model.layers.3.self_attn.q_proj.weight",
        ] {
            assert_eq!(plain_name(name), q, "{name}");
        }
        assert_eq!(plain_name("model.lm_head.weight"), "lm_head.weight");
        assert_eq!(plain_name("norm.weight"), "model.norm.weight");
        assert_eq!(plain_name("normal.weight"), "normal.weight");
    }
}
