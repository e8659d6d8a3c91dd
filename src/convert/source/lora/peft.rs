//! PEFT's adapters: `adapter_config.json`, and `adapter_model.safetensors` or `.bin`.
//!
//! Rows are in Hugging Face's order. What the file holds is merged: `target_modules` is compared
//! with it if it is a list.
//!
//! Source: `tuners/lora/` and `utils/save_and_load.py` of PEFT 0.21.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::pattern::Pattern;
use super::{Adapter, Change, Factor, Numbers, Product};
use crate::arch::TensorId;
use crate::checkpoint::file_kind::FileKind;
use crate::config::{Config, RopePairs};
use crate::convert::source::file::DataFile;
use crate::convert::source::hf_tensors::plain_name;
use crate::convert::source::hugging_face::ADAPTER as CONFIG;
use crate::convert::source::json::{JsonFile, Object};
use crate::convert::source::settings::{self, ADAPTER};
use crate::convert::source::stored::{Join, ShardedTensor, StoredTensors, TensorView};
use crate::convert::source::{SourceModel, safetensors, torch};
use crate::error::{Error, Result};

/// The files of weights; the first that is there counts.
const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// Modules that are several in one, and these: Phi 3's.
const FUSED: [(&str, &[&str]); 2] = [
    ("self_attn.qkv_proj", &["q_proj", "k_proj", "v_proj"]),
    ("mlp.gate_up_proj", &["gate_proj", "up_proj"]),
];

pub(super) fn open(model: &SourceModel, path: &Path) -> Result<Adapter> {
    let folder = super::folder_of(path);
    let file = JsonFile::open(&folder.join(CONFIG))?;
    let json = file.object();
    let unknown = settings::go_through(&json, ADAPTER, &[])?;
    let settings = Settings::read(&json)?;
    let weights = weights(&folder, path)?;
    let is_safetensors = DataFile::open(&weights)?
        .kind()
        .is_none_or(|kind| matches!(kind, FileKind::Safetensors | FileKind::LoraSafetensors));
    let mut adapter = Adapter {
        notes: settings::unknown_note(CONFIG, &unknown).into_iter().collect(),
        ..Adapter::default()
    };
    let tensors = if is_safetensors {
        safetensors::tensors(&weights)?
    } else {
        let contents = torch::read(&weights)?;
        adapter.notes.extend(contents.note(&weights));
        contents.tensors
    };
    let mut tensors = Tensors::new(&model.config, tensors).map_err(|e| e.at(Some(&weights)))?;
    adapter.notes.extend(Settings::check_targets(&json, &tensors.modules)?);
    let had: HashSet<String> = model.tensors().into_iter().map(|tensor| tensor.info.name).collect();
    for id in TensorId::all(&model.config) {
        let change = tensors.take(&model.config, &settings, &json, id).map_err(|e| e.at(Some(&weights)))?;
        let Some(change) = change else { continue };
        if !had.contains(&id.to_string()) && !id.kind.is_output() {
            let reason = "the base has no such tensor: is the adapter for another one?";
            return Err(Error::tensor_layout(id.hugging_face(), reason).at(Some(&weights)));
        }
        adapter.changes.insert(id.to_string(), change);
    }
    tensors.stored.finish()?;
    if adapter.changes.is_empty() {
        return Err(Error::missing_tensor("MODULE.lora_B.weight").at(Some(&weights)));
    }
    Ok(adapter)
}

/// The file of weights: the one that is named, or the directory's.
fn weights(folder: &Path, path: &Path) -> Result<PathBuf> {
    let is_weights = path.is_file() && path.extension().is_none_or(|extension| extension != "json");
    let named = is_weights.then(|| path.to_owned());
    let found = || WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    named.or_else(found).ok_or_else(|| {
        let hint = format!("{} is missing beside {CONFIG}: download the whole directory", WEIGHTS[0]);
        Error::unknown_format(hint).at(Some(folder))
    })
}

/// What `adapter_config.json` says of how much is added.
#[derive(Debug)]
struct Settings {
    rank: usize,
    alpha: f64,
    /// Whether alpha is divided by the root of the rank.
    by_root: bool,
    has_magnitudes: bool,
    ranks: Vec<(Pattern, usize)>,
    alphas: Vec<(Pattern, f64)>,
}

impl Settings {
    fn read(json: &Object<'_>) -> Result<Self> {
        Ok(Self {
            rank: json.optional("r")?.unwrap_or(8),
            alpha: json.optional("lora_alpha")?.unwrap_or(8.0),
            by_root: json.optional("use_rslora")?.unwrap_or(false),
            has_magnitudes: json.optional("use_dora")?.unwrap_or(false),
            ranks: patterns(json, "rank_pattern", "an integer", |value| {
                value.as_u64().and_then(|rank| usize::try_from(rank).ok())
            })?,
            alphas: patterns(json, "alpha_pattern", "a number", Value::as_f64)?,
        })
    }

    /// The rank of a module, and what its product is multiplied with.
    fn of(&self, json: &Object<'_>, module: &str) -> Result<(usize, f64)> {
        let rank = find(json, "rank_pattern", &self.ranks, module)?.unwrap_or(self.rank);
        let alpha = find(json, "alpha_pattern", &self.alphas, module)?.unwrap_or(self.alpha);
        if rank == 0 {
            return Err(json.refuse("r", &rank, "must be 1 or more"));
        }
        Ok((rank, alpha / if self.by_root { (rank as f64).sqrt() } else { rank as f64 }))
    }

    /// Compares the modules of the file with those that the settings name, if they are a list.
    /// Gives a note of those that the file doesn't change.
    fn check_targets(json: &Object<'_>, modules: &HashSet<String>) -> Result<Option<String>> {
        let targets = json.get("target_modules").and_then(Value::as_array);
        let Some(targets) = targets else { return Ok(None) };
        let mut targets: Vec<&str> = targets.iter().filter_map(Value::as_str).collect();
        let is = |module: &str, target: &str| {
            module.strip_suffix(target).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let mut modules: Vec<&String> = modules.iter().collect();
        modules.sort();
        if let Some(module) = modules.iter().find(|module| !targets.iter().any(|target| is(module, target))) {
            let reason = format!("the file changes {module}, which is none of them");
            return Err(json.refuse("target_modules", &targets.join(", "), &reason));
        }
        targets.retain(|target| !modules.iter().any(|module| is(module, target)));
        targets.sort_unstable();
        let note = || {
            format!("{CONFIG} names modules that the adapter's file doesn't change: {}", targets.join(", "))
        };
        Ok((!targets.is_empty()).then(note))
    }
}

/// The patterns of a setting, and their values.
fn patterns<T>(
    json: &Object<'_>,
    key: &'static str,
    expected: &'static str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(Pattern, T)>> {
    let Some(object) = json.object(key)? else { return Ok(Vec::new()) };
    let pattern = |(text, value): (&String, &Value)| {
        let reason = "only names, dots, \\d, * and + are supported in these patterns";
        let pattern = Pattern::parse(text).ok_or_else(|| json.refuse(key, text, reason))?;
        Ok((pattern, read(value).ok_or_else(|| object.wrong_type(text, expected, value))?))
    };
    object.map.iter().map(pattern).collect()
}

/// The value of the pattern that a module's name matches.
fn find<T: Copy + PartialEq>(
    json: &Object<'_>,
    key: &'static str,
    patterns: &[(Pattern, T)],
    module: &str,
) -> Result<Option<T>> {
    let mut found = patterns.iter().filter(|(pattern, _)| pattern.matches(module)).map(|(_, value)| *value);
    let first = found.next();
    // PEFT takes the first of the file, whose order isn't kept here.
    if found.any(|value| Some(value) != first) {
        return Err(json.refuse(key, &module, "several patterns match it, with different values"));
    }
    Ok(first)
}

/// The tensors of an adapter by the names that they would have in the base, with `.lora_A` or the
/// like after that of their module.
struct Tensors {
    stored: StoredTensors,
    /// Those that are changed by a product.
    modules: HashSet<String>,
}

impl Tensors {
    fn new(config: &Config, tensors: Vec<TensorView>) -> Result<Self> {
        let mut these = Self { stored: StoredTensors::default(), modules: HashSet::new() };
        for tensor in tensors {
            let name = canonical(tensor.name());
            if let Some((module, _)) = name.split_once(".lora_") {
                these.modules.insert(module.into());
            }
            these.add(config, name, tensor)?;
        }
        Ok(these)
    }

    /// Adds a tensor, or those that are one in it.
    fn add(&mut self, config: &Config, name: String, tensor: TensorView) -> Result<()> {
        let fused = FUSED.iter().find_map(|(fused, parts)| {
            let (layer, rest) = name.split_once(&format!(".{fused}."))?;
            let (block, _) = fused.split_once('.')?;
            Some(parts.iter().map(|part| format!("{layer}.{block}.{part}.{rest}")).collect::<Vec<_>>())
        });
        let Some(names) = fused else {
            self.stored.add_as(name, tensor);
            return Ok(());
        };
        if name.ends_with(".lora_A") {
            names.into_iter().for_each(|name| self.stored.add_as(name, tensor.clone()));
            return Ok(());
        }
        let (q, kv, hidden) = (config.q_dim(), config.kv_dim(), config.hidden_dim);
        let rows = if names.len() == 3 { vec![q, kv, kv] } else { vec![hidden; 2] };
        let parts: Vec<_> = names.into_iter().zip(rows).collect();
        self.stored.add_as(name.clone(), tensor);
        self.stored.cut(&name, &parts)
    }

    /// The module that a product was made for, which may be several in one.
    fn module(&self, module: &str) -> String {
        let fused = FUSED.iter().find_map(|(fused, parts)| {
            let (block, _) = fused.split_once('.')?;
            let of = |part: &&str| module.strip_suffix(&format!(".{block}.{part}"));
            Some(format!("{}.{fused}", parts.iter().find_map(of)?))
        });
        fused.filter(|fused| self.modules.contains(fused)).unwrap_or_else(|| module.into())
    }

    /// What is to become of a tensor of the base, if anything.
    fn take(
        &mut self,
        config: &Config,
        settings: &Settings,
        json: &Object<'_>,
        id: TensorId,
    ) -> Result<Option<Change>> {
        let (name, shape) = (id.hugging_face(), id.shape(config));
        let module = name.strip_suffix(".weight").or(name.strip_suffix(".bias")).unwrap_or(&name);
        let part = |part: &str| format!("{module}.lora_{part}");
        let neox = (id.kind.is_rotary && config.rope_pairs == RopePairs::Adjacent).then_some(config.head_dim);
        let mut change = Change::default();
        if self.stored.has(&name) {
            change.replaced = Some(self.one(&name, &shape, id, neox)?);
        }
        let has = |parts: &[&str]| parts.iter().any(|name| self.stored.has(&part(name)));
        let (is_embedding, is_bias) = (has(&["embedding_A", "embedding_B"]), has(&["B.bias"]));
        let is_matrix = has(&["A", "B", "magnitude_vector"]);
        let is_changed = if shape.len() == 2 { is_matrix || is_embedding } else { is_bias };
        if is_changed {
            let (rank, scale) = settings.of(json, &self.module(module))?;
            let (left, right, mut magnitude) = match *shape {
                [rows, columns] if is_embedding => {
                    let a = self.one(&part("embedding_A"), &[rank, rows], id, None)?;
                    let b = self.one(&part("embedding_B"), &[columns, rank], id, None)?;
                    (
                        Factor::transposed(Numbers::Published(a)),
                        Factor::transposed(Numbers::Published(b)),
                        None,
                    )
                }
                [rows, columns] => {
                    let a = self.one(&part("A"), &[rank, columns], id, None)?;
                    let b = self.one(&part("B"), &[rows, rank], id, neox)?;
                    (Factor::of(Numbers::Published(b)), Factor::of(Numbers::Published(a)), Some(rows))
                }
                _ => {
                    let bias = self.one(&part("B.bias"), &shape, id, neox)?;
                    (Factor::of(Numbers::One), Factor::of(Numbers::Published(bias)), None)
                }
            };
            let rank = if shape.len() == 2 { rank } else { 1 };
            let magnitude = match magnitude.take().filter(|_| settings.has_magnitudes) {
                Some(rows) => Some(self.one(&part("magnitude_vector"), &[rows], id, neox)?),
                None if settings.has_magnitudes && is_embedding => {
                    return Err(json.refuse("use_dora", &true, "embeddings are not supported with it"));
                }
                None => None,
            };
            change.added = Some(Product { left, right, rank, scale, magnitude });
        }
        Ok((change.replaced.is_some() || change.added.is_some()).then_some(change))
    }

    /// A tensor that must be there, of a shape; its rows in the order that is written.
    fn one(
        &mut self,
        name: &str,
        shape: &[usize],
        id: TensorId,
        neox: Option<usize>,
    ) -> Result<ShardedTensor> {
        let tensor = self.stored.take(name, 1, id.to_string(), shape, Join::Same)?;
        Ok(if let Some(head_dim) = neox { tensor.in_neox_order(head_dim) } else { tensor })
    }
}

/// The name that a tensor would have in the base; of a product, that of its module and the part of
/// the product that it is.
fn canonical(name: &str) -> String {
    let name = plain_name(name);
    let Some((module, part)) = name.split_once(".lora_") else {
        // Those that are trained whole.
        let name = name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".");
        return name.replace(".modules_to_save.", ".");
    };
    let part = part.split('.').filter(|word| !["default", "weight"].contains(word)).collect::<Vec<_>>();
    format!("{module}.lora_{}", part.join("."))
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn names_are_those_of_the_base_and_of_parts() {
        let module = "model.layers.3.self_attn.q_proj";
        for (part, expected) in [
            ("lora_A.weight", "lora_A"),
            ("lora_B.default.weight", "lora_B"),
            ("lora_B.bias", "lora_B.bias"),
            ("lora_magnitude_vector", "lora_magnitude_vector"),
            ("lora_magnitude_vector.default.weight", "lora_magnitude_vector"),
            ("base_layer.bias", "bias"),
            ("modules_to_save.default.weight", "weight"),
            ("weight", "weight"),
        ] {
            let name = canonical(&format!("base_model.model.{module}.{part}"));
            assert_eq!(name, format!("{module}.{expected}"), "{part}");
        }
        assert_eq!(canonical("base_model.model.lm_head.lora_A.weight"), "lm_head.lora_A");
        let embedding = canonical("base_model.model.model.embed_tokens.lora_embedding_A");
        assert_eq!(embedding, "model.embed_tokens.lora_embedding_A");
    }
}
