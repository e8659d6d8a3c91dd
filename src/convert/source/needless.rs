//! Tensors that Hugging Face's files hold and a model doesn't need, and those that say that it is
//! no whole model of floats.

use std::path::Path;

use super::hugging_face::CONFIG;
use super::llama::WeightFiles;
use super::stored::TensorView;
use crate::error::{Error, Result};

const ADAPTER: &str =
    "a LoRA adapter's, or of a model that it isn't merged into: merge it first (merge_and_unload of PEFT)";
const GPTQ: &str =
    "of GPTQ or AWQ: convert the model that it was made from, and choose a format with --dtype";
const BITSANDBYTES: &str =
    "of bitsandbytes: convert the model that it was made from, and choose a format with --dtype";
const QUANTIZED: &str =
    "quantized: convert the model that it was made from, and choose a format with --dtype";
const PACKED: &str = "of compressed-tensors: convert the model that it was made from";

/// What names have in them, or end in, and what has tensors of such names.
const OTHERS: [(&str, &str); 25] = [
    (".lora_*", ADAPTER),
    (".lora_magnitude_vector*", ADAPTER),
    (".base_layer.*", ADAPTER),
    (".qweight", GPTQ),
    (".qzeros", GPTQ),
    (".g_idx", GPTQ),
    (".absmax", BITSANDBYTES),
    (".SCB", BITSANDBYTES),
    (".quant_state.*", BITSANDBYTES),
    (".quant_map", BITSANDBYTES),
    (".nested_quant_map", BITSANDBYTES),
    (".weight_packed", PACKED),
    (".weight_scale", QUANTIZED),
    (".weight_scale_inv", QUANTIZED),
    (".weight_zero_point", QUANTIZED),
    (".input_scale", QUANTIZED),
    (".scales", QUANTIZED),
    (".qscale", QUANTIZED),
    (".q_weight", QUANTIZED),
    (".q_scale", QUANTIZED),
    (".W_q", QUANTIZED),
    (".codes", QUANTIZED),
    (".codebooks", QUANTIZED),
    (".Qidxs", QUANTIZED),
    (".weight_format", QUANTIZED),
];

/// What a tensor of this name is of, if it is of no whole model of floats.
fn other(name: &str) -> Option<&'static str> {
    let is = |&&(pattern, _): &&(&str, &str)| match pattern.strip_suffix('*') {
        Some(part) => name.contains(part),
        None => name.ends_with(pattern),
    };
    OTHERS.iter().find(is).map(|(_, what)| *what)
}

/// Whether numbers of a type are what quantized weights are made of.
fn is_quantized(dtype: &str) -> bool {
    const STARTS: [&str; 8] = ["F8", "F4", "I8", "U8", "I32", "U32", "float8", "float4"];
    const STORAGES: [&str; 6] =
        ["CharStorage", "ByteStorage", "IntStorage", "QInt8Storage", "QUInt8Storage", "QInt32Storage"];
    STARTS.iter().any(|start| dtype.starts_with(start)) || STORAGES.contains(&dtype) || dtype == "int8"
}

/// Tensors that aren't compared with anything, by the ends of their names: masks, positions and
/// what wrappers keep.
const UNREAD: [&str; 5] = ["position_ids", "causal_mask", "attn_mask", "attention_mask", "_extra_state"];
/// The starts of the names of heads for other tasks.
const HEADS: [&str; 3] = ["v_head.", "score.", "model.v_head."];
/// The ends of the names of rotary tables.
const TABLES: [&str; 6] = [".inv_freq", ".original_inv_freq", ".cos_cached", ".sin_cached", ".cos", ".sin"];

fn is_rotary(name: &str) -> bool {
    TABLES.iter().any(|end| name.strip_suffix(end).is_some_and(|start| start.ends_with("rotary_emb")))
}

/// Whether a tensor can't be a weight.
fn is_no_weight(name: &str, tensor: &TensorView) -> bool {
    let is_named = name.ends_with(".weight") || name.ends_with(".bias");
    let is_number = tensor.shape().is_empty() || tensor.shape().contains(&0);
    !is_named && (is_number || tensor.other_type().is_some())
}

/// Checks that the weights are a whole model's, and floating-point numbers.
pub(super) fn check_kind(weights: &WeightFiles, folder: &Path) -> Result<()> {
    for (name, tensor) in weights.stored.iter() {
        let dtype = tensor.other_type().filter(|dtype| name.ends_with(".weight") && is_quantized(dtype));
        let what = other(name).map(str::to_owned);
        let what = what.or_else(|| dtype.map(|dtype| format!("of {dtype}, so it is {QUANTIZED}")));
        if let Some(what) = what {
            let hint = format!("tensor {name} is {what}");
            return Err(Error::unknown_format(hint).at(Some(folder)));
        }
    }
    Ok(())
}

/// Leaves out what transformers leaves out, too, and says so. Rotary tables and masks that are
/// computed anew are needless without a word, unless they hold others than one of the lists of
/// `frequencies` gives.
pub(super) fn leave_out(weights: &mut WeightFiles, frequencies: &[Vec<f64>], n_layers: usize) -> Result<()> {
    weights.stored.extract(|name, tensor| {
        let is_mask = name.ends_with(".self_attn.bias") && tensor.shape().len() == 4;
        is_mask || name.ends_with(".self_attn.masked_bias")
    });
    for tensor in weights.stored.extract(|name, _| is_rotary(name)) {
        let found = tensor.first_numbers(TABLE)?;
        let kind = tensor.name().rsplit('.').next().unwrap_or_default();
        let width = tensor.shape().last().copied().unwrap_or(0);
        let is = |frequencies: &Vec<f64>| {
            found.as_ref().is_some_and(|found| is_table(kind, width, found, frequencies))
        };
        if !frequencies.iter().any(is) {
            weights.notes.push(format!(
                "tensor {} holds other values than the settings give; it isn't read, as transformers doesn't read it",
                tensor.name()
            ));
            break;
        }
    }
    let layer =
        |name: &str| -> Option<usize> { name.strip_prefix("model.layers.")?.split_once('.')?.0.parse().ok() };
    let more = weights.stored.extract(|name, _| layer(name).is_some_and(|layer| layer >= n_layers));
    if let Some(first) = more.first() {
        weights.notes.push(format!(
            "{CONFIG} says that the model has {n_layers} layers, and the files have more: {} and {} other tensors are \
             left out, as transformers leaves them out",
            first.name(),
            more.len() - 1
        ));
    }
    let unread = weights.stored.extract(|name, tensor| {
        UNREAD.iter().any(|end| name.ends_with(end))
            || HEADS.iter().any(|start| name.starts_with(start))
            || is_no_weight(name, tensor)
    });
    if !unread.is_empty() {
        let names: Vec<&str> = unread.iter().take(NAMED).map(TensorView::name).collect();
        let others = unread.len() - names.len();
        let rest = if others > 0 { format!(" and {others} others") } else { String::new() };
        weights.notes.push(format!(
            "tensors that no Llama computes with are left out, as transformers leaves them out: {}{rest}",
            names.join(", ")
        ));
    }
    Ok(())
}

/// Names that a note lists of what is left out.
const NAMED: usize = 8;
/// Numbers of a table that are compared.
const TABLE: usize = 4096;

/// Whether a table begins as the rotary frequencies, their cosines or their sines do, within what
/// half precision keeps.
fn is_table(kind: &str, width: usize, found: &[f32], frequencies: &[f64]) -> bool {
    const TOLERANCE: f64 = 1e-2;
    let n = frequencies.len();
    let is_angles = !kind.ends_with("inv_freq");
    // Angles may be there twice: once for each half of a head.
    if n == 0 || (is_angles && width != n && width != 2 * n) {
        return false;
    }
    let expected = |i: usize| {
        if !is_angles {
            return frequencies[i];
        }
        let angle = (i / width) as f64 * frequencies[i % width % n];
        if kind.starts_with("cos") { angle.cos() } else { angle.sin() }
    };
    // Angles of half-precision frequencies are soon far off.
    let len = if is_angles { found.len().min(4 * width) } else { n };
    found.len() >= len && (0..len).all(|i| (f64::from(found[i]) - expected(i)).abs() <= TOLERANCE)
}
