//! Hugging Face's directories, in safetensors or PyTorch's files.
//!
//! ```text
//! config.json             hyperparameters
//! model.safetensors, or NAME-NNNNN-of-NNNNN.safetensors and model.safetensors.index.json, which
//!                         says where tensors are
//! pytorch_model.bin, or NAME-NNNNN-of-NNNNN.bin and pytorch_model.bin.index.json
//! tokenizer.model, tokenizer.json, tokenizer_config.json, special_tokens_map.json,
//! added_tokens.json, generation_config.json, chat_template.jinja
//! ```
//!
//! A setting that would change what the model computes and isn't supported is refused, never passed
//! over: [`settings`] has the table of all, [`models`] that of the models.

use std::path::Path;

use serde_json::Value;

use super::expected::Expected;
use super::hf_templates::ChatTemplates;
use super::json::{JsonFile, Object};
use super::llama::{Layout, WeightFiles, drop_tied_output};
use super::models::{HfModel, Window};
use super::stored::{Join, ShardedTensor, StoredTensors};
use super::tokenizer::SourceTokenizer;
use super::{
    SourceModel, SourceWeights, described, hf_tensors, hf_tokenizer, models, needless, rope, settings,
};
use crate::arch::{OUTPUT, TOK_EMBEDDINGS, TensorId};
use crate::config::{Config, RopePairs};
use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelOptions;

/// What every directory has.
pub(super) const CONFIG: &str = "config.json";

/// What the directory of an adapter has.
pub(super) const ADAPTER: &str = "adapter_config.json";

/// Architectures of which llama.cpp takes factors of RoPE that are a tensor of one for each
/// frequency. It opens no other files with it.
const TAKE_ROPE_FACTORS: [&str; 4] = ["llama", "minicpm", "granite", "mistral3"];

/// Opens a directory; of several files of weights or indexes, the one that is named, if one is.
pub(super) fn open(folder: &Path, named: Option<&Path>, options: &ModelOptions) -> Result<SourceModel> {
    let file = JsonFile::open(&folder.join(CONFIG))?;
    let json = file.object();
    let at = |e: Error| e.at(Some(file.path()));
    let model = models::find(&json).map_err(at)?;
    check_quantization(&json).map_err(at)?;
    let mut notes = Vec::new();
    let mut unknown = settings::go_through(&json, settings::CONFIG, model.settings).map_err(at)?;
    let mut config = config(&json, model, &mut notes).map_err(at)?;
    let rope = rope::read(&json, model, &mut config).map_err(at)?;
    unknown.extend(rope.unknown);
    notes.extend(settings::unknown_note(CONFIG, &unknown));
    notes.extend(rope.notes);
    if json.get("auto_map").is_some() {
        let own = "config.json's auto_map says that the model brings code of its own, which isn't run: it is taken for a";
        notes.push(format!("{own} {}", model.model_type));
    }
    window(&json, model, &mut config, &mut notes).map_err(at)?;
    let said = config.clone();
    options.override_config(&mut config).map_err(at)?;
    // Of settings that the caller chose nothing can be expected.
    let is_said = (said.norm_eps, said.rope_theta) == (config.norm_eps, config.rope_theta);
    let expected = is_said.then(|| Expected::of(json.map)).flatten();
    if rope.llama3.is_some() && !TAKE_ROPE_FACTORS.contains(&model.architecture.name) {
        notes.push(format!(
            "llama.cpp doesn't open a {} with factors of RoPE (rope_freqs.weight), as llama3's scaling becomes in GGUF; \
             babyllama does",
            model.architecture.name
        ));
    }
    let rope_factors = rope::factors(rope.long, rope.llama3, &config).map_err(at)?;

    if folder.join(ADAPTER).is_file() {
        if named.is_none() && hf_tensors::find(folder).is_none() {
            return Err(adapter(folder));
        }
        notes.push(format!(
            "the LoRA adapter beside the model, of {ADAPTER}, is not a part of what is written: --lora {} merges it",
            folder.display()
        ));
    }
    let mut weights = weights(folder, named, &config, expected.as_ref())?;
    let file_bytes = weights.bytes()?;
    notes.append(&mut weights.notes);
    let tensors = take(&json, model, &config, weights.stored, folder, &mut notes)?;
    let tokenizer =
        SourceTokenizer::find(options, &config, || hf_tokenizer::open(folder, &json, config.vocab_size))?;
    notes.extend(tokenizer.iter().flat_map(SourceTokenizer::notes).cloned());
    let templates = ChatTemplates::read(folder)?;
    let described = described::read(folder, &templates, &mut notes)?;
    Ok(SourceModel {
        format: "Hugging Face",
        architecture: model.architecture,
        config,
        rope_factors,
        weights: SourceWeights::Published(tensors),
        tokenizer,
        chat_template: templates.default,
        named_templates: templates.named,
        described,
        adapters: Vec::new(),
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
    let shown = folder.display();
    let hint = format!(
        "it is a LoRA adapter{of}, which only changes that model: convert its base with `--lora {shown}` to merge it"
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
    frequencies.extend(expected.into_iter().flat_map(|expected| expected.frequencies.clone()));
    needless::leave_out(&mut weights, &frequencies, config.n_layers)?;
    Ok(weights)
}

/// The model's tensors.
///
/// A classifier that is stored counts, unless the model is said to use its embeddings and it holds
/// the same numbers. So it is in transformers 5 and in llama.cpp's converter.
fn take(
    json: &Object<'_>,
    model: &HfModel,
    config: &Config,
    mut stored: StoredTensors,
    folder: &Path,
    notes: &mut Vec<String>,
) -> Result<Vec<(TensorId, ShardedTensor)>> {
    let is_tied = json.optional("tie_word_embeddings")?.unwrap_or(model.is_tied);
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
    cut_fused(config, &mut stored)?;
    check_biases(json, model, config, &stored, folder)?;
    // Where GGUF has Hugging Face's order, so has what is written.
    let neox = config.rope_pairs == RopePairs::Adjacent;
    let layout = Layout { name: TensorId::hugging_face, n_shards: 1, neox, embeddings: Join::Same };
    let mut tensors = layout.take(config, stored, folder)?;
    if is_tied && drop_tied_output(&mut tensors)? {
        notes.push(format!(
            "config.json says that the classifier is the embeddings, but {output} is stored and holds other weights: \
             it counts, as in transformers"
        ));
    }
    Ok(tensors)
}

/// Cuts tensors that are several in one, as Phi 3 has them.
fn cut_fused(config: &Config, stored: &mut StoredTensors) -> Result<()> {
    let (q, kv, hidden) = (config.q_dim(), config.kv_dim(), config.hidden_dim);
    let attention = [("q_proj", q), ("k_proj", kv), ("v_proj", kv)];
    for l in 0..config.n_layers {
        for (fused, parts) in [
            ("self_attn.qkv_proj", &attention[..]),
            ("mlp.gate_up_proj", &[("gate_proj", hidden), ("up_proj", hidden)]),
        ] {
            let (block, _) = fused.split_once('.').unwrap_or_default();
            let named = |name: &str| format!("model.layers.{l}.{block}.{name}.weight");
            let parts: Vec<_> = parts.iter().map(|&(name, rows)| (named(name), rows)).collect();
            stored.cut(&format!("model.layers.{l}.{fused}.weight"), &parts)?;
        }
    }
    Ok(())
}

/// Checks that the biases are there that such a model has, and no others.
fn check_biases(
    json: &Object<'_>,
    model: &HfModel,
    config: &Config,
    stored: &StoredTensors,
    folder: &Path,
) -> Result<()> {
    for id in TensorId::all(config).filter(|id| id.kind.is_bias()) {
        let name = id.hugging_face();
        let setting = model.biases.iter().find(|(end, _)| name.ends_with(end)).map(|(_, setting)| *setting);
        let is_had = match setting {
            Some(Some(setting)) => json.optional(setting)?.unwrap_or(false),
            always => always.is_some(),
        };
        match (is_had, stored.has(&name), setting.flatten()) {
            (true, false, _) => return Err(Error::missing_tensor(name).at(Some(folder))),
            (false, true, Some(setting)) => {
                let reason = format!("tensor {name} is stored, which only a model has for which it is true");
                return Err(json.refuse(setting, &"false, or not there", &reason));
            }
            // Of such a model it isn't known.
            (false, true, None) => {
                return Err(Error::from(ErrorKind::UnsupportedTensor { name }).at(Some(folder)));
            }
            _ => {}
        }
    }
    Ok(())
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

/// The hyperparameters, without RoPE's and the window.
fn config(json: &Object<'_>, model: &HfModel, notes: &mut Vec<String>) -> Result<Config> {
    let dim: usize = json.required("hidden_size")?;
    let n_heads: usize = json.required("num_attention_heads")?;
    let usual = model.head_dim.filter(|_| !json.map.contains_key("head_dim"));
    let head_dim = match json.optional("head_dim")?.or(usual) {
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
    // transformers takes null for as many as there are heads.
    let usual = model.n_kv_heads.filter(|_| !json.map.contains_key("num_key_value_heads"));
    let n_kv_heads = json.optional("num_key_value_heads")?.or(usual).unwrap_or(n_heads);
    let hidden_dim = json.required("intermediate_size")?;
    let (n_layers, vocab_size) = (json.required("num_hidden_layers")?, json.required("vocab_size")?);
    let max_seq_len = max_seq_len(json, model, notes)?;
    let mut config = Config::new(dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len);
    (config.head_dim, config.rope_dim) = (head_dim, head_dim);
    config.norm_eps = json.optional::<f64>("rms_norm_eps")?.unwrap_or(model.norm_eps) as f32;
    config.rope_theta = model.rope_theta;
    model.architecture.configure(&mut config);
    (model.read)(json, &mut config)?;
    Ok(config)
}

/// The positions that a model was made for: Vicuna says it under a name of its own, where RoPE was
/// scaled for more.
fn max_seq_len(json: &Object<'_>, model: &HfModel, notes: &mut Vec<String>) -> Result<usize> {
    let vicuna: Option<usize> = json.optional("max_sequence_length")?;
    let positions: Option<usize> = json.optional("max_position_embeddings")?;
    if let Some(positions) = positions.or(vicuna) {
        return Ok(positions.max(vicuna.unwrap_or(0)));
    }
    let positions = model.max_seq_len;
    notes.push(format!(
        "config.json doesn't say max_position_embeddings: {positions}, as transformers takes it"
    ));
    Ok(positions)
}

/// Which layers `layer_types` gives a window, if it says.
fn layer_kinds(json: &Object<'_>, n_layers: usize) -> Result<Option<Vec<bool>>> {
    const KINDS: [&str; 2] = ["full_attention", "sliding_attention"];
    let Some(layers) = json.optional::<&Vec<Value>>("layer_types")? else { return Ok(None) };
    let kinds: Vec<&str> = layers.iter().map(|kind| kind.as_str().unwrap_or("no text")).collect();
    if let Some(kind) = kinds.iter().find(|kind| !KINDS.contains(kind)) {
        return Err(json.refuse(
            "layer_types",
            kind,
            "only full_attention and sliding_attention are supported",
        ));
    }
    if kinds.len() != n_layers {
        let (value, reason) = (format!("of {} layers", kinds.len()), format!("the model has {n_layers}"));
        return Err(json.refuse("layer_types", &value, &reason));
    }
    Ok(Some(kinds.iter().map(|kind| *kind == KINDS[1]).collect()))
}

/// Sets the window of attention, and which layers have it.
///
/// transformers windows those layers of a Mistral that `layer_types` names, or else all, whatever
/// `use_sliding_window` says; all of a Ministral 3 and a Phi-3; those of a Qwen if
/// `use_sliding_window` is true; and no layer of a Llama. Where a file's `layer_types` say
/// something else, nobody knows what its weights were made for.
fn window(json: &Object<'_>, model: &HfModel, config: &mut Config, notes: &mut Vec<String>) -> Result<()> {
    let kinds = layer_kinds(json, config.n_layers)?;
    let names_sliding = kinds.as_ref().is_some_and(|kinds| kinds.contains(&true));
    let said: Option<usize> = json.optional("sliding_window")?;
    let is_silent = !json.map.contains_key("sliding_window");
    let usual = |window| if is_silent { Some(window) } else { None };
    let (window, first) = match model.window {
        Window::Of(window) => (said.or(window.and_then(usual)), 0),
        Window::OfAll => (said, 0),
        Window::IfUsed(window, first) if json.optional("use_sliding_window")?.unwrap_or(false) => {
            (said.or(window.and_then(usual)), json.optional("max_window_layers")?.unwrap_or(first))
        }
        Window::IfUsed(..) if names_sliding && said.is_some() => {
            let reason = "use_sliding_window isn't true: that says all attention is full";
            return Err(json.refuse("layer_types", &"sliding_attention", reason));
        }
        Window::IfUsed(..) => (None, 0),
        Window::None => {
            let passed_over = said.filter(|&window| window < config.max_seq_len);
            notes.extend(passed_over.map(|window| {
                format!(
                    "config.json has a sliding_window of {window}, which transformers doesn't apply to a Llama: attention is \
                     full"
                )
            }));
            (None, 0)
        }
    };
    // Of a SmolLM3 those that don't rotate.
    let is_windowed = |l| l >= first && (config.no_rope_interval.is_none() || !config.rotates(l));
    let windowed = kinds.unwrap_or_else(|| (0..config.n_layers).map(is_windowed).collect());
    if matches!(model.window, Window::OfAll) && window.is_some() && windowed.contains(&false) {
        let reason = "transformers gives every layer of this architecture the sliding_window";
        return Err(json.refuse("layer_types", &"full_attention", reason));
    }
    config.sliding_window = window.filter(|_| windowed.contains(&true));
    if config.sliding_window.is_some() && windowed.contains(&false) {
        config.windowed_layers = windowed;
    }
    Ok(())
}
