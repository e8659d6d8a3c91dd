//! Hugging Face's directories: Llama and Mistral, in safetensors or PyTorch's files.
//!
//! ```text
//! config.json             hyperparameters
//! model.safetensors, or NAME-NNNNN-of-NNNNN.safetensors and model.safetensors.index.json, which says where tensors are
//! pytorch_model.bin, or NAME-NNNNN-of-NNNNN.bin and pytorch_model.bin.index.json
//! tokenizer.model, tokenizer.json, tokenizer_config.json, added_tokens.json, generation_config.json, chat_template.jinja
//! ```
//!
//! A setting that would change what the model computes and isn't supported is refused, never passed over.
//!
//! Source: `configuration_llama.py`, `modeling_llama.py` and `modeling_rope_utils.py` in the transformers repository.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::hf_tokenizer;
use super::json::{JsonFile, Object};
use super::llama::{FloatModel, Layout, Llama3Scaling};
use super::stored::{Join, StoredTensor, StoredTensors};
use super::tokenizer::SourceTokenizer;
use super::{safetensors, torch};
use crate::config::{Config, RopeScaling};
use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelOptions;

/// What every directory has.
pub(super) const CONFIG: &str = "config.json";

/// Where weights are: a file, or an index of files. The first that is there counts, as for transformers.
const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// Hugging Face's names of a layer's tensors, and Meta's.
const LAYER: [(&str, &str); 9] = [
    ("attention_norm", "input_layernorm"),
    ("attention.wq", "self_attn.q_proj"),
    ("attention.wk", "self_attn.k_proj"),
    ("attention.wv", "self_attn.v_proj"),
    ("attention.wo", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("feed_forward.w1", "mlp.gate_proj"),
    ("feed_forward.w2", "mlp.down_proj"),
    ("feed_forward.w3", "mlp.up_proj"),
];

/// Hugging Face's name of the tensor that Meta calls, for example, `layers.3.attention.wq`.
fn name(meta: &str) -> String {
    if let Some((layer, tensor)) = meta.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
        let name = LAYER.iter().find(|(meta, _)| *meta == tensor).map_or(tensor, |(_, name)| name);
        return format!("model.layers.{layer}.{name}.weight");
    }
    match meta {
        "tok_embeddings" => "model.embed_tokens.weight",
        "norm" => "model.norm.weight",
        _ => "lm_head.weight",
    }
    .into()
}

/// Whether a directory has weights in one of the formats.
pub(super) fn has_weights(folder: &Path) -> bool {
    WEIGHTS.iter().any(|name| folder.join(name).is_file())
}

pub(super) fn open(folder: &Path, options: &ModelOptions) -> Result<FloatModel> {
    let file = JsonFile::open(&folder.join(CONFIG))?;
    let json = file.object();
    let at = |e: Error| e.at(Some(file.path()));
    check_architecture(&json).map_err(at)?;
    let mut config = config(&json).map_err(at)?;
    let scaling = rope(&json, &mut config).map_err(at)?;
    options.override_config(&mut config).map_err(at)?;
    let rope_factors = scaling.map(|scaling| scaling.factors(config.rope_dim, config.rope_theta));
    let rope_factors = rope_factors.transpose().map_err(at)?;

    let (mut stored, files) = stored_tensors(folder)?;
    // Tables that can be computed, which old versions saved.
    stored.ignore(|name| name.ends_with(".self_attn.rotary_emb.inv_freq"));
    let layout = Layout {
        name: &name,
        n_shards: 1,
        half_split: true,
        embeddings: Join::Same,
        untied: Some(!json.optional("tie_word_embeddings")?.unwrap_or(false)),
    };
    let tensors = layout.take(&config, stored, folder)?;
    let tokenizer =
        SourceTokenizer::find(options, &config, || hf_tokenizer::open(folder, &json, config.vocab_size))?;
    Ok(FloatModel {
        format: "Hugging Face",
        config,
        rope_factors,
        tensors,
        tokenizer,
        chat_template: hf_tokenizer::chat_template(folder)?,
        metadata: json.map.iter().map(|(key, value)| (key.clone(), value.to_string())).collect(),
        file_bytes: file_bytes(&files)?,
        notes: Vec::new(),
    })
}

fn file_bytes(files: &[PathBuf]) -> Result<u64> {
    let len =
        |path: &PathBuf| fs::metadata(path).map(|it| it.len()).map_err(|e| Error::from(e).at(Some(path)));
    files.iter().map(len).sum()
}

fn check_architecture(json: &Object<'_>) -> Result<()> {
    const KNOWN: [&str; 3] = ["LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM"];
    let names = json.optional::<&Vec<Value>>("architectures")?;
    let unknown = match names.map(|names| &**names) {
        Some([name]) => (!KNOWN.iter().any(|known| *name == **known)).then(|| name.to_string()),
        Some(names) => Some(Value::from(names).to_string()),
        None => {
            let kind: &str = json.required("model_type")?;
            (!matches!(kind, "llama" | "mistral")).then(|| kind.into())
        }
    };
    let Some(found) = unknown else { return Ok(()) };
    Err(ErrorKind::UnsupportedArchitecture { found: found.trim_matches('"').into() }.into())
}

/// The hyperparameters, without RoPE's.
fn config(json: &Object<'_>) -> Result<Config> {
    for bias in ["attention_bias", "mlp_bias"] {
        if json.optional(bias)? == Some(true) {
            return Err(json.refuse(bias, &true, "only matrices without a bias are supported"));
        }
    }
    if let Some(found) =
        json.optional::<&str>("hidden_act")?.filter(|&found| !matches!(found, "silu" | "swish"))
    {
        return Err(json.refuse("hidden_act", &found, "only silu is supported"));
    }
    if let Some(found) = json.get("quantization_config") {
        let method = found.get("quant_method").map_or_else(|| "unknown".into(), Value::to_string);
        return Err(json.refuse("quantization_config", &method, "only floating-point weights are supported"));
    }
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
    if let Some(found) = json.optional::<f64>("partial_rotary_factor")?.filter(|&found| found != 1.0) {
        return Err(json.refuse("partial_rotary_factor", &found, "only 1 is supported"));
    }
    // What transformers takes where a file says nothing.
    let is_mistral = json.optional::<&str>("model_type")? == Some("mistral");
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
        max_seq_len: max_seq_len(json)?,
        norm_eps: json.optional::<f64>("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
    })
}

/// The positions that a model was made for: Vicuna says it under a name of its own, where RoPE was scaled for more.
fn max_seq_len(json: &Object<'_>) -> Result<usize> {
    let vicuna: Option<usize> = json.optional("max_sequence_length")?;
    let positions: usize = match vicuna {
        Some(vicuna) => json.optional("max_position_embeddings")?.unwrap_or(vicuna),
        None => json.required("max_position_embeddings")?,
    };
    Ok(positions.max(vicuna.unwrap_or(0)))
}

/// Sets the base of the rotary frequencies and how they are scaled; gives Llama 3's scaling, which is a tensor in GGUF.
///
/// Newer files say all of it in `rope_parameters`, older ones in `rope_theta` and `rope_scaling`, whose `type` was renamed
/// to `rope_type`.
fn rope(json: &Object<'_>, config: &mut Config) -> Result<Option<Llama3Scaling>> {
    let newer = json.object("rope_parameters")?;
    let scaling = if newer.is_some() { newer.clone() } else { json.object("rope_scaling")? };
    let theta = match &newer {
        Some(newer) => newer.optional("rope_theta")?,
        None => None,
    };
    let theta = if theta.is_some() { theta } else { json.optional("rope_theta")? };
    config.rope_theta = theta.unwrap_or(config.rope_theta);
    let Some(scaling) = scaling else { return Ok(None) };
    if let Some(found) = scaling.optional::<f64>("partial_rotary_factor")?.filter(|&found| found != 1.0) {
        return Err(json.refuse("partial_rotary_factor", &found, "only 1 is supported"));
    }
    let kind = scaling.optional::<&str>("rope_type")?;
    let kind = if kind.is_some() { kind } else { scaling.optional("type")? };
    match kind.unwrap_or("default") {
        "default" => Ok(None),
        "linear" => {
            config.rope_scaling = RopeScaling::Linear { factor: scaling.required("factor")? };
            Ok(None)
        }
        "yarn" => {
            config.rope_scaling = yarn(&scaling, config.max_seq_len)?;
            Ok(None)
        }
        "llama3" => Ok(Some(Llama3Scaling {
            factor: scaling.required("factor")?,
            low_freq_factor: scaling.required("low_freq_factor")?,
            high_freq_factor: scaling.required("high_freq_factor")?,
            original_context_length: scaling.required("original_max_position_embeddings")?,
        })),
        kind => {
            Err(scaling.refuse("rope_type", &kind, "only default, linear, yarn and llama3 are supported"))
        }
    }
}

fn yarn(scaling: &Object<'_>, max_seq_len: usize) -> Result<RopeScaling> {
    for key in ["mscale", "mscale_all_dim"] {
        if let Some(found) = scaling.get(key) {
            return Err(scaling.refuse("mscale", &found, "yarn's mscale is not supported"));
        }
    }
    if scaling.optional("truncate")? == Some(false) {
        return Err(scaling.refuse("truncate", &false, "yarn is supported only with whole corrections"));
    }
    let factor: f64 = scaling.required("factor")?;
    Ok(RopeScaling::Yarn {
        factor,
        original_context_length: scaling.optional("original_max_position_embeddings")?.unwrap_or(max_seq_len),
        beta_fast: scaling.optional("beta_fast")?.unwrap_or(32.0),
        beta_slow: scaling.optional("beta_slow")?.unwrap_or(1.0),
        magnitude: scaling.optional("attention_factor")?.unwrap_or(1.0 + 0.1 * factor.max(1.0).ln()),
    })
}

/// The tensors of all files, and the files.
fn stored_tensors(folder: &Path) -> Result<(StoredTensors, Vec<PathBuf>)> {
    let Some(weights) = WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.is_file()) else {
        let hint = format!("it has {CONFIG}, but none of {}", WEIGHTS.join(", "));
        return Err(Error::from(ErrorKind::UnknownFormat { hint }).at(Some(folder)));
    };
    let mut stored = StoredTensors::default();
    if weights.extension().is_some_and(|extension| extension != "json") {
        read(&weights)?.into_iter().for_each(|tensor| stored.add(tensor));
        return Ok((stored, vec![weights]));
    }
    let index = JsonFile::open(&weights)?;
    let at = |e: Error| e.at(Some(index.path()));
    let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let map = index.object().object("weight_map")?;
    let map = map.ok_or_else(|| at(ErrorKind::MissingKey { key: "weight_map".into() }.into()))?;
    for (tensor, file) in map.map {
        let name = file.as_str().filter(|name| is_file_name(name));
        let name = name.ok_or_else(|| map.wrong_type(tensor, "the name of a file beside the index", file))?;
        files.entry(name).or_default().push(tensor);
    }
    let mut paths = Vec::new();
    for (name, tensors) in files {
        let path = folder.join(name);
        let found = read(&path)?;
        for tensor in tensors {
            if !found.iter().any(|found| found.name() == tensor) {
                return Err(Error::from(ErrorKind::MissingTensor { name: tensor.into() }).at(Some(&path)));
            }
        }
        found.into_iter().for_each(|tensor| stored.add(tensor));
        paths.push(path);
    }
    Ok((stored, paths))
}

/// That a name leads nowhere else.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', ':', '\0'])
}

fn read(path: &Path) -> Result<Vec<StoredTensor>> {
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        safetensors::tensors(path)
    } else {
        torch::tensors(path)
    }
}
