//! Meta's directories: LLaMA 1, Llama 2, Code Llama and Llama 3; Mistral's, which have the same
//! files; and what llama2.c saves while it trains.
//!
//! ```text
//! params.json          hyperparameters, except those that follow from the weights' shapes, and the
//!                      context length
//! consolidated.safetensors, or
//! consolidated.NN.pth  shard NN of every tensor: all columns of some rows, or all rows of some
//!                      columns
//! tokenizer.model      of SentencePiece, or of Llama 3; LLaMA 1's lies one folder above
//! ```
//!
//! Source: `llama/model.py`, `mistral_inference/args.py`, llama2.c's `model.py` and `train.py`, and
//! `fairscale`'s `ColumnParallelLinear`, `RowParallelLinear` and `ParallelEmbedding`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::expected::Expected;
use super::hugging_face::ADAPTER;
use super::json::{JsonFile, Object, whole};
use super::llama::{Layout, Llama3Scaling, WeightFiles, drop_tied_output};
use super::stored::{Join, StoredTensors, TensorView};
use super::tokenizer::SourceTokenizer;
use super::{SourceModel, SourceWeights, safetensors, settings, torch, vocabulary};
use crate::arch::{LLAMA, TensorId};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::model::ModelOptions;
use crate::ops::RopeFactors;

/// The most shards: the largest Llama has 16.
const MAX_SHARDS: usize = 100;

/// What every directory has.
pub(super) const PARAMS: &str = "params.json";

/// Mistral's newer directories have one file.
const SAFETENSORS: &str = "consolidated.safetensors";

/// A shard's name.
fn shard(n: usize) -> String {
    format!("consolidated.{n:02}.pth")
}

pub(super) fn open(folder: &Path, options: &ModelOptions) -> Result<SourceModel> {
    let params = JsonFile::open(&folder.join(PARAMS))?;
    let mut weights = read(files(folder)?)?;
    if folder.join(ADAPTER).is_file() {
        weights.notes.push(format!(
            "the LoRA adapter beside the model, of {ADAPTER}, is not a part of what is written"
        ));
    }
    model("Meta's PyTorch checkpoint", folder, &params.object(), params.path(), weights, options)
}

/// Opens what llama2.c's `train.py` saves while it trains: a file of weights that holds its
/// hyperparameters.
///
/// `None` if the file is another of PyTorch's.
pub(super) fn open_training(path: &Path, options: &ModelOptions) -> Result<Option<SourceModel>> {
    let contents = torch::read(path)?;
    let note = contents.note(path);
    let Some(mut params) = contents.arguments else { return Ok(None) };
    // Only model.py says it.
    params.entry("norm_eps").or_insert_with(|| 1e-5.into());
    let mut weights = WeightFiles { files: vec![path.into()], ..WeightFiles::default() };
    weights.notes.extend(note);
    contents.tensors.into_iter().for_each(|tensor| add(&mut weights, tensor));
    if !weights.stored.has("output.weight") {
        // In llama2.c the classifier always is the embeddings.
        params.insert("tied_embeddings".into(), true.into());
    }
    let object = Object::of(&params);
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let model = model("llama2.c's PyTorch checkpoint", folder, &object, path, weights, options);
    model.map(Some).map_err(|e| e.at(Some(path)))
}

fn read(files: Vec<PathBuf>) -> Result<WeightFiles> {
    let mut weights = WeightFiles::default();
    for path in &files {
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            safetensors::tensors(path)?.into_iter().for_each(|tensor| add(&mut weights, tensor));
            continue;
        }
        let contents = torch::read(path)?;
        weights.notes.extend(contents.note(path));
        contents.tensors.into_iter().for_each(|tensor| add(&mut weights, tensor));
    }
    Ok(WeightFiles { files, ..weights })
}

fn add(weights: &mut WeightFiles, tensor: TensorView) {
    let mut name = tensor.name().replace("_orig_mod.", "");
    while let Some(rest) = name.strip_prefix("module.") {
        name = rest.into();
    }
    weights.stored.add_as(name, tensor);
}

/// A model of weights and of the hyperparameters that the file `said` holds.
fn model(
    format: &'static str,
    folder: &Path,
    params: &Object<'_>,
    said: &Path,
    mut weights: WeightFiles,
    options: &ModelOptions,
) -> Result<SourceModel> {
    let file_bytes = weights.bytes()?;
    weights.note_doubles();
    let WeightFiles { files, stored, notes } = &mut weights;
    let at = |e: Error| e.at(Some(said));
    let unknown = settings::go_through(params, settings::PARAMS, &[]).map_err(at)?;
    notes.extend(settings::unknown_note(&said.file_name().unwrap_or_default().to_string_lossy(), &unknown));
    // Tables that can be computed, which early versions saved.
    stored.extract(|name, _| {
        ["freqs_cos", "freqs_sin", "freqs_cis", "rope.freqs"].contains(&name)
            || name.ends_with(".inner_attention.rope.freqs")
            || name.ends_with(".attention.mask")
    });
    let found = Found::of(stored, params, files.len()).map_err(|e| e.at(Some(&files[0])))?;
    let mut config = config(params, &found).map_err(at)?;
    if let Some((window, layers)) = sliding_window(params, config.n_layers).map_err(at)? {
        (config.sliding_window, config.windowed_layers) = (Some(window), layers);
    }
    let said = config.clone();
    options.override_config(&mut config).map_err(at)?;
    // Of settings that the caller chose nothing can be expected.
    let is_said = (said.norm_eps, said.rope_theta) == (config.norm_eps, config.rope_theta);
    let expected = is_said.then(|| Expected::of_params(params.map, found.hidden_dim as u64)).flatten();
    let short = rope_factors(params, &config, notes).map_err(at)?;
    let layout =
        Layout { name: TensorId::meta, n_shards: files.len(), neox: false, embeddings: found.embeddings };
    check_classifier(params, stored).map_err(at)?;
    let mut tensors = layout.take(&config, std::mem::take(stored), &files[0])?;
    if is_tied(params).map_err(at)? && drop_tied_output(&mut tensors)? {
        notes.push(TIED_BUT_STORED.into());
    }
    let tokenizer = SourceTokenizer::find(options, &config, || tokenizer(folder, config.vocab_size))?;
    weights.notes.extend(tokenizer.iter().flat_map(SourceTokenizer::notes).cloned());
    let metadata = params.map.iter().map(|(key, value)| (key.clone(), value.to_string())).collect();
    Ok(SourceModel {
        format,
        architecture: &LLAMA,
        config,
        rope_factors: RopeFactors { short, long: None },
        weights: SourceWeights::Published(tensors),
        tokenizer,
        chat_template: None,
        named_templates: Vec::new(),
        adapters: Vec::new(),
        described: Vec::new(),
        metadata,
        file_bytes,
        notes: weights.notes,
        keys: None,
        expected,
    })
}

/// Whether a file is named as those of weights are.
pub(super) fn is_shard(name: &str) -> bool {
    name == SAFETENSORS || (name.starts_with("consolidated.") && name.ends_with(".pth"))
}

/// Whether all files of weights are there, as far as their first bytes show.
pub(super) fn is_whole(folder: &Path) -> bool {
    files(folder).is_ok_and(|files| files.iter().all(|file| super::begins_as_part(file)))
}

/// The files of weights, of which none may be missing.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let at = |e: std::io::Error| Error::from(e).at(Some(folder));
    let mut count = 0;
    for entry in fs::read_dir(folder).map_err(at)? {
        let name = entry.map_err(at)?.file_name();
        let name = name.to_string_lossy();
        count += usize::from(name.starts_with("consolidated.") && name.ends_with(".pth"));
    }
    let whole = folder.join(SAFETENSORS);
    if count == 0 && whole.is_file() {
        return Ok(vec![whole]);
    }
    if count == 0 || count > MAX_SHARDS {
        let reason = format!("a model has 1 to {MAX_SHARDS} files consolidated.NN.pth, there are {count}");
        return Err(Error::split(reason).at(Some(folder)));
    }
    let paths: Vec<PathBuf> = (0..count).map(|n| folder.join(shard(n))).collect();
    for path in &paths {
        if !path.is_file() {
            let reason = format!("it is missing, though there are {count} files consolidated.NN.pth");
            return Err(Error::split(reason).at(Some(path)));
        }
    }
    Ok(paths)
}

/// What follows from the weights' shapes.
#[derive(Debug)]
struct Found {
    vocab_size: usize,
    hidden_dim: usize,
    /// Llama 3 shares the embeddings' rows out, the others their columns.
    embeddings: Join,
}

impl Found {
    fn of(stored: &StoredTensors, params: &Object<'_>, n_shards: usize) -> Result<Self> {
        let matrix = |name: &str| match stored.shape(name) {
            Some(&[rows, columns]) => Ok((rows, columns)),
            Some(found) => Err(Error::tensor_shape(name, &[], found)),
            None => Err(Error::missing_tensor(name)),
        };
        let (rows, columns) = matrix("tok_embeddings.weight")?;
        let by_rows = n_shards > 1 && columns == params.required::<usize>("dim")?;
        let (hidden, _) = matrix("layers.0.feed_forward.w1.weight")?;
        Ok(Self {
            vocab_size: if by_rows { rows.saturating_mul(n_shards) } else { rows },
            hidden_dim: hidden.saturating_mul(n_shards),
            embeddings: match (n_shards, by_rows) {
                (1, _) => Join::Same,
                (_, true) => Join::Rows,
                (_, false) => Join::Columns,
            },
        })
    }
}

const TIED_BUT_STORED: &str =
    "params.json says tied_embeddings, but output.weight is stored and holds other weights: it counts";

fn is_tied(params: &Object<'_>) -> Result<bool> {
    Ok(params.optional("tied_embeddings")?.unwrap_or(false))
}

/// Checks that a classifier is stored, or that the embeddings are said to be it: no file of Meta's
/// lacks one.
fn check_classifier(params: &Object<'_>, stored: &StoredTensors) -> Result<()> {
    if is_tied(params)? || stored.has("output.weight") {
        return Ok(());
    }
    let value =
        if params.get("tied_embeddings").is_some() { "false" } else { "not there, which means false" };
    let reason = "tensor output.weight is missing, which a model with a classifier of its own has. Either the files \
                  aren't whole, or the classifier is the embeddings, and params.json must say true";
    Err(params.refuse("tied_embeddings", &value, reason))
}

/// Whether the file is Mistral's, which says widths that Meta's programs compute.
fn is_mistral(params: &Object<'_>) -> bool {
    ["head_dim", "sliding_window", "_sliding_window", "model_type"]
        .iter()
        .any(|key| params.get(key).is_some())
}

/// The hyperparameters, without the window. A `vocab_size` of -1 stands for the tokenizer's;
/// `multiple_of` and `ffn_dim_multiplier` only say how `hidden_dim` was found.
fn config(params: &Object<'_>, found: &Found) -> Result<Config> {
    let dim: usize = params.required("dim")?;
    let n_heads: usize = params.required("n_heads")?;
    let head_dim = match params.optional("head_dim")? {
        Some(head_dim) => head_dim,
        None if n_heads != 0 && dim.is_multiple_of(n_heads) => dim / n_heads,
        None => return Err(params.refuse("n_heads", &n_heads, &format!("must divide dim, {dim}"))),
    };
    if let Some(vocab_size) = params.get("vocab_size").filter(|value| value.as_f64() != Some(-1.0))
        && whole(vocab_size) != Some(found.vocab_size as u64)
    {
        let reason = format!("the embeddings have {} rows", found.vocab_size);
        return Err(params.refuse("vocab_size", &vocab_size, &reason));
    }
    if let Some(hidden_dim) = params.optional::<usize>("hidden_dim")?.filter(|&it| it != found.hidden_dim) {
        let reason = format!("feed_forward.w1 has {} rows", found.hidden_dim);
        return Err(params.refuse("hidden_dim", &hidden_dim, &reason));
    }
    let norm_eps = params.required::<f64>("norm_eps")?;
    let is_mistral = is_mistral(params);
    // Mistral's program took the old base for the model with a window, and takes the new one for
    // all later ones.
    let usual = if is_mistral && sliding_window(params, 0)?.is_none() { 1e6 } else { 1e4 };
    let rope_theta = params.optional("rope_theta")?.unwrap_or(usual);
    let scaled = params.optional("use_scaled_rope")?.unwrap_or(false);
    let made_for = if is_mistral { 32_768 } else { context(norm_eps, rope_theta, scaled) };
    let said = params.optional("max_seq_len")?;
    let said = if said.is_some() { said } else { params.optional("max_position_embeddings")? };
    let n_kv_heads = params.optional("n_kv_heads")?.unwrap_or(n_heads);
    let (n_layers, positions) = (params.required("n_layers")?, said.unwrap_or(made_for));
    let plain =
        Config::new(dim, found.hidden_dim, n_layers, n_heads, n_kv_heads, found.vocab_size, positions);
    Ok(Config { head_dim, rope_dim: head_dim, norm_eps: norm_eps as f32, rope_theta, ..plain })
}

/// The window of attention, and of several, which layers alternate between, which of `n_layers`
/// have it: null is none.
fn sliding_window(params: &Object<'_>, n_layers: usize) -> Result<Option<(usize, Vec<bool>)>> {
    // Mistral's newer files have the second name, so that programs without windows pass it over.
    let key = match (params.get("sliding_window"), params.get("_sliding_window")) {
        (Some(said), Some(other)) if said != other => {
            let reason = format!("_sliding_window is {other}: only one of them can count");
            return Err(params.refuse("sliding_window", said, &reason));
        }
        (None, Some(_)) => "_sliding_window",
        _ => "sliding_window",
    };
    let Some(windows) = params.get(key).and_then(Value::as_array) else {
        return Ok(params.optional(key)?.map(|window| (window, Vec::new())));
    };
    let width = |width: &Value| whole(width).and_then(|width| width.try_into().ok());
    let widths: Option<Vec<usize>> = windows.iter().filter(|width| !width.is_null()).map(width).collect();
    let widths = widths.ok_or_else(|| params.wrong_type(key, "integers", &params.map[key]))?;
    let Some(&window) = widths.iter().min() else { return Ok(None) };
    if widths.iter().any(|&width| width != window) {
        let reason = "layers with windows of different widths are not supported";
        return Err(params.refuse(key, &params.map[key], reason));
    }
    let layers = windows.iter().map(|width| !width.is_null()).cycle().take(n_layers);
    Ok(Some((window, if widths.len() < windows.len() { layers.collect() } else { Vec::new() })))
}

/// The context that a model was trained for. No file has it, so it is inferred from what changed
/// between releases.
fn context(norm_eps: f64, rope_theta: f64, scaled: bool) -> usize {
    match (scaled, rope_theta) {
        (true, _) => 131_072,                   // Llama 3.1 and later
        (false, 1e6) => 16_384,                 // Code Llama
        (false, 5e5) => 8192,                   // Llama 3
        (false, _) if norm_eps == 1e-6 => 2048, // LLaMA 1
        _ => 4096,                              // Llama 2
    }
}

/// Llama 3.1's, with the constants that Meta's code has for what the file doesn't say.
///
/// Meta's files of Llama 3.2 don't say their factor either; the models of 1B and 3B were trained
/// with 32, as their config.json says.
fn rope_factors(params: &Object<'_>, config: &Config, notes: &mut Vec<String>) -> Result<Option<Vec<f32>>> {
    if params.optional("use_scaled_rope")? != Some(true) {
        return Ok(None);
    }
    let factor = match params.optional("rope_scaling_factor")? {
        Some(factor) => factor,
        None => {
            let (factor, of) = scaling_factor(config);
            notes.push(format!(
                "{PARAMS} has use_scaled_rope and doesn't say rope_scaling_factor: {factor}, {of}'s"
            ));
            factor
        }
    };
    let high = params.optional("high_freq_factor")?;
    let high = if high.is_some() { high } else { params.optional("rope_high_freq_factor")? };
    let scaling = Llama3Scaling {
        factor,
        low_freq_factor: params.optional("low_freq_factor")?.unwrap_or(1.0),
        high_freq_factor: high.unwrap_or(4.0),
        original_context_length: 8192.0,
    };
    scaling.factors(config.rope_dim, config.rope_theta).map(Some)
}

/// The factor that a model of such a shape was trained with, and which model that is.
fn scaling_factor(config: &Config) -> (f64, &'static str) {
    let Config { dim, n_layers, n_heads, n_kv_heads, .. } = *config;
    match (dim, n_layers, n_heads, n_kv_heads) {
        (2048, 16, 32, 8) | (3072, 28, 24, 8) => (32.0, "Llama 3.2"),
        _ => (8.0, "Llama 3.1"),
    }
}

fn tokenizer(folder: &Path, vocab_size: usize) -> Result<Option<SourceTokenizer>> {
    let above = folder.join("..").join("tokenizer.model");
    let paths = [folder.join("tokenizer.model"), above];
    let Some(path) = paths.iter().find(|path| path.is_file()) else { return Ok(None) };
    Ok(Some(SourceTokenizer::of(vocabulary::open_model(path, vocab_size)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_3s_factor_is_told_by_the_shape() {
        // Llama 3.1 8B and 70B, 3.2 1B and 3B; what their config.json says.
        let shapes = [
            (4096, 32, 32, 8, 8.0),
            (8192, 80, 64, 8, 8.0),
            (2048, 16, 32, 8, 32.0),
            (3072, 28, 24, 8, 32.0),
        ];
        for (dim, n_layers, n_heads, n_kv_heads, factor) in shapes {
            let config = Config::new(dim, 1, n_layers, n_heads, n_kv_heads, 1, 1);
            assert_eq!(scaling_factor(&config).0, factor, "{dim}");
        }
    }
}
