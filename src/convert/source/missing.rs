//! What to do about a model that isn't there, or that lacks a file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{hf_tensors, hugging_face, meta};
use crate::error::{Error, Result};

/// Names that are looked at in a directory.
const MOST: usize = 10_000;

/// The names of a directory's entries; none of one that can't be read.
fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().take(MOST);
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn unknown(hint: String, path: &Path) -> Error {
    Error::unknown_format(hint).at(Some(path))
}

/// Says that a path is the address or the name of a model that is elsewhere.
pub(super) fn elsewhere(path: &Path) -> Option<Error> {
    let text = path.to_str()?;
    if path.exists() {
        return None;
    }
    let is_address = ["http:/", "https:/", "hf:/"].iter().any(|start| text.starts_with(start));
    let is_name = !text.starts_with(['.', '/'])
        && text.split('/').count() == 2
        && path.extension().is_none_or(|end| {
            !["gguf", "bin", "pt", "pth", "json", "safetensors"].iter().any(|it| end == *it)
        })
        && path.parent().is_some_and(|parent| !parent.exists());
    let what = match (is_address, is_name) {
        (true, _) => "it is an address",
        (_, true) => "there is no such file or directory. If it is a model's name on Hugging Face's hub",
        _ => return None,
    };
    let hint = format!(
        "{what}: babyllama doesn't download. Download the model first, for example with `hf download NAME --local-dir DIR`, \
         and convert DIR"
    );
    Some(unknown(hint, path))
}

/// Says that a directory has neither config.json nor params.json, and what it has.
pub(super) fn description(folder: &Path) -> Error {
    let names = names(folder);
    let ends = |name: &&String, ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let snapshots = if folder.ends_with("snapshots") { folder.to_owned() } else { folder.join("snapshots") };
    if snapshots.is_dir() {
        let models = self::names(&snapshots);
        let model =
            models.first().map_or_else(|| "HASH".into(), |name| snapshots.join(name).display().to_string());
        return unknown(format!("it is a folder of Hugging Face's cache: convert {model}"), folder);
    }
    if let Some(name) = names.iter().find(|name| ends(name, &[".gguf"])) {
        let hint = format!(
            "a directory with neither config.json nor params.json, but GGUF files: name one, such as {name}"
        );
        return unknown(hint, folder);
    }
    let missing = if names.iter().any(|name| meta::is_shard(name)) {
        meta::PARAMS
    } else if names.iter().any(|name| ends(&name, &[".safetensors", ".bin"])) {
        hugging_face::CONFIG
    } else {
        let hint = format!("a directory with neither {} nor {}", hugging_face::CONFIG, meta::PARAMS);
        return unknown(hint, folder);
    };
    let hint = format!("it has weights, but not {missing}, which says what they are: download that too");
    unknown(hint, folder)
}

/// Says that a directory has config.json and no weights that transformers would find.
pub(super) fn weights(folder: &Path) -> Error {
    let names = names(folder);
    let Some(shard) = names.iter().find(|name| shard_of(name).is_some()) else {
        let hint = format!("it has {}, but none of {}", hugging_face::CONFIG, hf_tensors::WEIGHTS.join(", "));
        return unknown(hint, folder);
    };
    let index = if shard.ends_with(".bin") { hf_tensors::WEIGHTS[3] } else { hf_tensors::WEIGHTS[1] };
    let hint = format!(
        "it has files of weights such as {shard}, but not {index}, which belongs to them: download that too"
    );
    unknown(hint, folder)
}

/// What is before the number of a file of several: `model` of `model-00001-of-00002.safetensors`.
fn shard_of(name: &str) -> Option<&str> {
    let stem = name.strip_suffix(".safetensors").or_else(|| name.strip_suffix(".bin"))?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (start, number) = rest.rsplit_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(count) && is_number(number)).then_some(start)
}

/// Checks that all files are there that an index names.
pub(super) fn check_files(index: &Path, files: &[PathBuf]) -> Result<()> {
    // What is there and can't be opened says so itself.
    let is_missing = |path: &&PathBuf| fs::symlink_metadata(path).is_err();
    let Some(first) = files.iter().find(is_missing) else { return Ok(()) };
    let (n, of) = (files.iter().filter(is_missing).count(), files.len());
    let name = index.file_name().unwrap_or_default().to_string_lossy();
    let reason = format!(
        "it is missing, though {name} names it: {n} of the model's {of} files are to be downloaded yet"
    );
    Err(Error::split(reason).at(Some(first)))
}
