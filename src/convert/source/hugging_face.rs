//! Hugging Face's directories: Llama and Mistral, in safetensors or PyTorch's files.
//!
//! ```text
//! config.json             hyperparameters
//! model.safetensors, or NAME-NNNNN-of-NNNNN.safetensors and model.safetensors.index.json, which
//!                         says where tensors are
//! pytorch_model.bin, or NAME-NNNNN-of-NNNNN.bin and pytorch_model.bin.index.json
//! tokenizer.model, tokenizer.json, tokenizer_config.json, added_tokens.json,
//! generation_config.json, chat_template.jinja
//! ```
//!
//! A setting that would change what the model computes and isn't supported is refused, never passed
//! over: [`settings`] has the table of all.
//!
//! Source: `configuration_llama.py`, `modeling_llama.py`, `configuration_mistral.py` and
//! `modeling_mistral.py` in the transformers repository.

use std::path::Path;

use serde_json::Value;

use super::expected::Expected;
use super::json::{JsonFile, Object};
use super::llama::{Layout, WeightFiles, drop_tied_output};
use super::stored::{Join, ShardedTensor, StoredTensors};
use super::tokenizer::SourceTokenizer;
use super::{SourceModel, SourceWeights, hf_tensors, hf_tokenizer, needless, rope, settings};
use crate::arch::{OUTPUT, TOK_EMBEDDINGS, TensorId};
use crate::config::{Config, RopeScaling};
use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelOptions;

/// What every directory has.
pub(super) const CONFIG: &str = "config.json";

/// What the directory of an adapter has.
pub(super) const ADAPTER: &str = "adapter_config.json";
/// Positions that transformers takes where a file doesn't say them, for Llama and for Mistral.
const DEFAULT_POSITIONS: (usize, usize) = (2048, 131_072);
/// The window that transformers takes where a file of Mistral's doesn't say it.
const DEFAULT_WINDOW: usize = 4096;

/// Opens a directory; of several files of weights or indexes, the one that is named, if one is.
pub(super) fn open(folder: &Path, named: Option<&Path>, options: &ModelOptions) -> Result<SourceModel> {
    let file = JsonFile::open(&folder.join(CONFIG))?;
    let json = file.object();
    let at = |e: Error| e.at(Some(file.path()));
    check_architecture(&json).map_err(at)?;
    check_quantization(&json).map_err(at)?;
    let mut notes = Vec::new();
    let mut unknown = settings::go_through(&json, settings::CONFIG).map_err(at)?;
    let mut config = config(&json, &mut notes).map_err(at)?;
    let rope = rope::read(&json, &mut config).map_err(at)?;
    unknown.extend(rope.unknown);
    notes.extend(settings::unknown_note(CONFIG, &unknown));
    notes.extend(rope.notes);
    if json.get("auto_map").is_some() {
        let own = "config.json's auto_map says that the model brings code of its own, which isn't run: it is taken for a Llama";
        notes.push(own.into());
    }
    window(&json, &mut config, &mut notes).map_err(at)?;
    let said = config.clone();
    options.override_config(&mut config).map_err(at)?;
    // Of settings that the caller chose nothing can be expected.
    let is_said = (said.norm_eps, said.rope_theta) == (config.norm_eps, config.rope_theta);
    let expected = is_said.then(|| Expected::of(json.map)).flatten();
    let rope_factors = rope.llama3.map(|scaling| scaling.factors(config.rope_dim, config.rope_theta));
    let rope_factors = rope_factors.transpose().map_err(at)?;

    if folder.join(ADAPTER).is_file() {
        if named.is_none() && hf_tensors::find(folder).is_none() {
            return Err(adapter(folder));
        }
        notes.push(format!(
            "the LoRA adapter beside the model, of {ADAPTER}, is not a part of what is written"
        ));
    }
    let mut weights = weights(folder, named, &config, expected.as_ref())?;
    let file_bytes = weights.bytes()?;
    notes.append(&mut weights.notes);
    let tensors = take(&json, &config, weights.stored, folder, &mut notes)?;
    let tokenizer =
        SourceTokenizer::find(options, &config, || hf_tokenizer::open(folder, &json, config.vocab_size))?;
    notes.extend(tokenizer.iter().flat_map(SourceTokenizer::notes).cloned());
    Ok(SourceModel {
        format: "Hugging Face",
        config,
        rope_factors,
        weights: SourceWeights::Published(tensors),
        tokenizer,
        chat_template: hf_tokenizer::chat_template(folder)?,
        metadata: json.map.iter().map(|(key, value)| (key.clone(), value.to_string())).collect(),
        file_bytes,
        notes,
        keys: None,
        expected,
    })
}

/// Says that a directory has an adapter, and no model.
pub(super) fn adapter(folder: &Path) -> Error {
    let path = folder.join(ADAPTER);
    let base = JsonFile::open(&path).ok().and_then(|file| {
        file.object().optional::<&str>("base_model_name_or_path").ok().flatten().map(str::to_owned)
    });
    let of = base.map_or_else(String::new, |base| format!(" of {base}"));
    let hint = format!(
        "it is a LoRA adapter{of}, which only changes that model: merge it into its base first (merge_and_unload of PEFT), \
         and convert what that saves"
    );
    Error::unknown_format(hint).at(Some(folder))
}

/// The stored tensors that the model may need.
fn weights(
    folder: &Path,
    named: Option<&Path>,
    config: &Config,
    expected: Option<&Expected>,
) -> Result<WeightFiles> {
    let mut weights = hf_tensors::open(folder, named)?;
    let frequency = |i: usize| config.rope_theta.powf(-2.0 * i as f64 / config.rope_dim as f64);
    // Some programs keep those that are scaled.
    let mut frequencies = vec![(0..config.rope_dim / 2).map(frequency).collect()];
    frequencies.extend(expected.map(|expected| expected.frequencies.clone()));
    needless::leave_out(&mut weights, &frequencies, config.n_layers)?;
    Ok(weights)
}

/// The model's tensors.
///
/// A classifier that is stored counts, unless the model is said to use its embeddings and it holds
/// the same numbers. So it is in transformers 5 and in llama.cpp's converter.
fn take(
    json: &Object<'_>,
    config: &Config,
    mut stored: StoredTensors,
    folder: &Path,
    notes: &mut Vec<String>,
) -> Result<Vec<(TensorId, ShardedTensor)>> {
    let is_tied = json.optional("tie_word_embeddings")?.unwrap_or(false);
    let [output, embeddings] = [&OUTPUT, &TOK_EMBEDDINGS].map(|kind| TensorId::of_model(kind).hugging_face());
    let has_output = stored.has(&output);
    if is_tied && has_output && !stored.has(&embeddings) {
        stored.rename(&output, &embeddings);
    } else if !is_tied && !has_output && stored.has(&embeddings) {
        let reason = format!(
            "tensor {output} is missing, which a model with a classifier of its own has. Either the files aren't whole, \
             or the classifier is the embeddings, and config.json must say true"
        );
        let value =
            if json.get("tie_word_embeddings").is_some() { "false" } else { "not there, which means false" };
        return Err(json.refuse("tie_word_embeddings", &value, &reason));
    }
    let layout = Layout { name: TensorId::hugging_face, n_shards: 1, neox: true, embeddings: Join::Same };
    let mut tensors = layout.take(config, stored, folder)?;
    if is_tied && drop_tied_output(&mut tensors)? {
        notes.push(format!(
            "config.json says that the classifier is the embeddings, but {output} is stored and holds other weights: \
             it counts, as in transformers"
        ));
    }
    Ok(tensors)
}

fn check_architecture(json: &Object<'_>) -> Result<()> {
    const KNOWN: [&str; 3] = ["LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM"];
    let names = json.optional::<&Vec<Value>>("architectures")?;
    let is_unknown = |name: &&Value| !KNOWN.iter().any(|known| **name == **known);
    let unknown = match names.filter(|names| !names.is_empty()) {
        Some(names) => names.iter().find(is_unknown).map(Value::to_string),
        None => {
            let kind: &str = json.required("model_type")?;
            (!matches!(kind, "llama" | "mistral")).then(|| kind.into())
        }
    };
    let Some(found) = unknown else { return Ok(()) };
    Err(ErrorKind::UnsupportedArchitecture { found: found.trim_matches('"').into() }.into())
}

/// Checks that the weights aren't numbers of some other kind, and where to find the model that they
/// were made from.
fn check_quantization(json: &Object<'_>) -> Result<()> {
    let keys = ["quantization_config", "compression_config", "quantization"];
    let Some((key, found)) = keys.iter().find_map(|key| Some((*key, json.get(key)?))) else {
        return Ok(());
    };
    let method = found.get("quant_method").and_then(Value::as_str);
    let has = |key: &str| found.get(key).is_some();
    if method.is_none() && has("group_size") && has("bits") {
        let reason = "the weights are quantized by MLX, for Apple's computers, and only floating-point ones can be \
                      converted. Convert the model that this one was made from, and choose a format with --dtype, such as \
                      q4_k_m";
        return Err(json.refuse(key, &"MLX's", reason));
    }
    let method = method.unwrap_or("there");
    let is_bitsandbytes = method == "bitsandbytes" || found.get("load_in_4bit").is_some();
    let name = match method {
        "gptq" => "GPTQ",
        "awq" => "AWQ",
        _ if is_bitsandbytes => "bitsandbytes",
        "there" => "a method that isn't named",
        other => other,
    };
    let reason = format!(
        "the weights are quantized by {name}, and only floating-point ones can be converted. Convert the model that this \
         one was made from, and choose a format with --dtype, such as q4_k_m"
    );
    Err(json.refuse(key, &method, &reason))
}

/// Whether transformers takes the model for a Mistral.
fn is_mistral(json: &Object<'_>) -> Result<bool> {
    if let Some(kind) = json.optional::<&str>("model_type")? {
        return Ok(kind == "mistral");
    }
    let names = json.optional::<&Vec<Value>>("architectures")?;
    Ok(names.is_some_and(|names| names.iter().any(|name| *name == *"MistralForCausalLM")))
}

/// The hyperparameters, without RoPE's and the window.
fn config(json: &Object<'_>, notes: &mut Vec<String>) -> Result<Config> {
    let dim: usize = json.required("hidden_size")?;
    let n_heads: usize = json.required("num_attention_heads")?;
    let head_dim = match json.optional("head_dim")? {
        Some(head_dim) => head_dim,
        None if n_heads != 0 && dim.is_multiple_of(n_heads) => dim / n_heads,
        None => {
            return Err(json.refuse(
                "num_attention_heads",
                &n_heads,
                &format!("must divide hidden_size, {dim}"),
            ));
        }
    };
    // What transformers takes where a file says nothing.
    let is_mistral = is_mistral(json)?;
    let n_kv_heads = if is_mistral { 8 } else { n_heads };
    Ok(Config {
        dim,
        hidden_dim: json.required("intermediate_size")?,
        n_layers: json.required("num_hidden_layers")?,
        n_heads,
        n_kv_heads: json.optional("num_key_value_heads")?.unwrap_or(n_kv_heads),
        head_dim,
        rope_dim: head_dim,
        vocab_size: json.required("vocab_size")?,
        max_seq_len: max_seq_len(json, is_mistral, notes)?,
        norm_eps: json.optional::<f64>("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        sliding_window: None,
    })
}

/// The positions that a model was made for: Vicuna says it under a name of its own, where RoPE was
/// scaled for more.
fn max_seq_len(json: &Object<'_>, is_mistral: bool, notes: &mut Vec<String>) -> Result<usize> {
    let vicuna: Option<usize> = json.optional("max_sequence_length")?;
    let positions: Option<usize> = json.optional("max_position_embeddings")?;
    if let Some(positions) = positions.or(vicuna) {
        return Ok(positions.max(vicuna.unwrap_or(0)));
    }
    let positions = if is_mistral { DEFAULT_POSITIONS.1 } else { DEFAULT_POSITIONS.0 };
    notes.push(format!(
        "config.json doesn't say max_position_embeddings: {positions}, as transformers takes it"
    ));
    Ok(positions)
}

/// Sets the window of attention, and keeps the context inside it.
///
/// transformers windows those layers of a Mistral that `layer_types` names, or else all, whatever
/// `use_sliding_window` says; and no layer of a Llama.
fn window(json: &Object<'_>, config: &mut Config, notes: &mut Vec<String>) -> Result<()> {
    const KINDS: [&str; 2] = ["full_attention", "sliding_attention"];
    let layers = json.optional::<&Vec<Value>>("layer_types")?;
    let kinds: Vec<&str> =
        layers.into_iter().flatten().map(|kind| kind.as_str().unwrap_or("no text")).collect();
    if let Some(kind) = kinds.iter().find(|kind| !KINDS.contains(kind)) {
        return Err(json.refuse(
            "layer_types",
            kind,
            "only full_attention and sliding_attention are supported",
        ));
    }
    if layers.is_some() && kinds.len() != config.n_layers {
        let (value, reason) =
            (format!("of {} layers", kinds.len()), format!("the model has {}", config.n_layers));
        return Err(json.refuse("layer_types", &value, &reason));
    }
    let said: Option<usize> = json.optional("sliding_window")?;
    let is_mistral = is_mistral(json)?;
    let is_silent = is_mistral && !json.map.contains_key("sliding_window");
    let Some(window) = said.or(is_silent.then_some(DEFAULT_WINDOW)) else { return Ok(()) };
    if !is_mistral {
        if window < config.max_seq_len {
            notes.push(format!(
                "config.json has a sliding_window of {window}, which transformers doesn't apply to a Llama: attention is full"
            ));
        }
        return Ok(());
    }
    if layers.is_none() || kinds.contains(&"sliding_attention") {
        notes.extend(config.keep_inside_window(window));
    }
    Ok(())
}
