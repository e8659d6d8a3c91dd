//! Whether a converted model is what it was made from: every number of it, every piece, and the
//! hyperparameters.
//!
//! A tensor must hold exactly the source's weights, or exactly what its format makes of them: what
//! is compared is read back from the file, so this shows that it was written whole and in its
//! place, not how good a format is.
//!
//! The hyperparameters are compared twice: with those that the conversion took, and, of a
//! directory, with what its config.json or params.json gives by the steps of the publisher's own
//! program, which share no code with the conversion: the rotary frequencies of every pair,
//! RMSNorm's epsilon, the window and all counts. A setting that the conversion passed over is found
//! there if it is of these; of any other, the source's table of settings and its notes are what
//! tells. No text is run through either model.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::llama2c::{for_chunks, quantize_group, within_window};
use super::quantize;
use super::source::{Expected, Source, SourceTensor};
use crate::checkpoint::{self, Checkpoint};
use crate::config::{Config, RopeScaling};
use crate::error::{Error, Result, TokenId};
use crate::model::ModelOptions;
use crate::ops::{RopeByContext, RopeFactors, RopeFrequencies};
use crate::quant::Dtype;
use crate::storage::Storage;
use crate::tensor::Tensor;
use crate::tokenizer::{PieceKind, TextSettings, Tokenizer};
use crate::weights::Weight;

/// Compares a converted model with its source. `progress` is told how many weights have been
/// compared.
///
/// # Errors
/// [`ErrorKind::Mismatch`] names the first thing that differs, and both values; and the
/// errors of reading either.
///
/// [`ErrorKind::Mismatch`]: crate::ErrorKind::Mismatch
pub fn check(source: &Source, converted: impl AsRef<Path>, mut progress: impl FnMut(u64)) -> Result<()> {
    let storage = Arc::new(Storage::open(converted.as_ref())?);
    let checkpoint = checkpoint::read(&storage)?;
    let is_gguf = checkpoint::gguf::has_magic(&storage);
    let mut compare = || -> Result<()> {
        compare_configs(source.config(), &checkpoint.config, is_gguf)?;
        if source.model().rope_factors != checkpoint.rope_factors {
            return Err(Error::mismatch("the rotary frequencies' factors", "they are others"));
        }
        if is_gguf && let Some(expected) = &source.model().expected {
            compare_expected(expected, &checkpoint.config, &checkpoint.rope_factors)?;
        }
        compare_tensors(source, &checkpoint, &mut progress)?;
        compare_tokenizers(source, &storage, is_gguf)
    };
    compare().map_err(|e| e.at(storage.path()))
}

/// llama2.c's files hold no `norm_eps`, no `rope_theta` and no window, whose context they keep;
/// GGUF holds fractions as f32.
fn compare_configs(source: &Config, converted: &Config, is_gguf: bool) -> Result<()> {
    let mut expected = source.clone();
    let mut found = converted.clone();
    for config in [&mut expected, &mut found] {
        config.rope_theta = f64::from(config.rope_theta as f32);
        if !is_gguf {
            (config.norm_eps, config.rope_theta) = (0.0, 0.0);
            *config = within_window(config);
        }
    }
    if are_close(expected.rope_scaling, found.rope_scaling) {
        expected.rope_scaling = found.rope_scaling;
    }
    if expected == found {
        return Ok(());
    }
    Err(Error::mismatch("the model's hyperparameters", format!("{source:?} became {converted:?}")))
}

/// Compares what a file computes with, or is going to, with what the source says by another way.
pub(super) fn compare_expected(
    expected: &Expected,
    config: &Config,
    rope_factors: &RopeFactors,
) -> Result<()> {
    let differs = |what: &str, expected: &dyn fmt::Debug, found: &dyn fmt::Debug| {
        Err(Error::mismatch(what, format!("the settings give {expected:?}, the file has {found:?}")))
    };
    let rope = RopeByContext::accurate(config, rope_factors);
    let short_context = rope.longest_short_context().map(|positions| positions as u64);
    if expected.short_context != short_context {
        return differs("the context of the short RoPE factors", &expected.short_context, &short_context);
    }
    for (expected_frequencies, rope) in expected.frequencies.iter().zip(rope.all()) {
        let RopeFrequencies::Accurate { frequencies, magnitude } = rope else { continue };
        if !all_close(expected_frequencies, frequencies) {
            return differs("the rotary frequencies", expected_frequencies, frequencies);
        }
        if !all_close(&[expected.magnitude], &[*magnitude]) {
            return differs("the magnitude of rotated queries and keys", &expected.magnitude, magnitude);
        }
    }
    let attention = config.attention_scale.unwrap_or((config.head_dim as f32).sqrt().recip());
    let scales = [config.embedding_scale, config.residual_scale, attention, config.logit_divisor];
    if !all_close(&expected.scales, &scales.map(f64::from)) {
        return differs("the scales of embeddings, blocks, attention and logits", &expected.scales, &scales);
    }
    if !all_close(&[expected.norm_eps], &[config.norm_eps.into()]) {
        return differs("RMSNorm's epsilon", &expected.norm_eps, &config.norm_eps);
    }
    let Config { n_layers, n_heads, n_kv_heads, hidden_dim, .. } = *config;
    let counts = [n_layers, n_heads, n_kv_heads, hidden_dim].map(|count| count as u64);
    if expected.counts != counts {
        return differs("the number of layers or heads", &expected.counts, &counts);
    }
    let window = config.sliding_window.map(|window| window as u64);
    if expected.window != window {
        return differs("the sliding window", &expected.window, &window);
    }
    Ok(())
}

/// Whether numbers are the same except for their rounding to f32, in which files hold fractions,
/// and that of what is computed from them.
fn all_close(a: &[f64], b: &[f64]) -> bool {
    let close = |(a, b): (&f64, &f64)| (a - b).abs() <= 4.0 * f64::from(f32::EPSILON) * a.abs();
    a.len() == b.len() && a.iter().zip(b).all(close)
}

/// Whether two scalings are the same except for the rounding of their numbers.
fn are_close(a: RopeScaling, b: RopeScaling) -> bool {
    let fractions = |scaling| match scaling {
        RopeScaling::None => (None, vec![]),
        RopeScaling::Linear { factor } => (None, vec![factor]),
        RopeScaling::Yarn { factor, original_context_length, beta_fast, beta_slow, magnitude } => {
            (Some(original_context_length), vec![factor, beta_fast, beta_slow, magnitude])
        }
        RopeScaling::Long { original_context_length, magnitude } => {
            (Some(original_context_length), vec![magnitude])
        }
    };
    let ((original_a, a), (original_b, b)) = (fractions(a), fractions(b));
    original_a == original_b && all_close(&a, &b)
}

fn compare_tensors(source: &Source, checkpoint: &Checkpoint, progress: &mut impl FnMut(u64)) -> Result<()> {
    let converted: BTreeMap<String, Weight<'_>> =
        checkpoint.weights.tensors().map(|(id, weight)| (id.to_string(), weight)).collect();
    let tensors = source.model().tensors();
    let expected: HashSet<&str> = tensors.iter().map(|tensor| &*tensor.info.name).collect();
    if let Some(extra) = converted.keys().find(|name| !expected.contains(&***name)) {
        return Err(Error::mismatch(format!("tensor {extra}"), "the source has none"));
    }
    let mut compared = 0;
    for tensor in &tensors {
        let name = &*tensor.info.name;
        // A classifier with the embeddings' weights may be left out: then they must be its weights.
        let shared = || converted.get("tok_embeddings").filter(|_| name == "output");
        let Some(weight) = converted.get(name).or_else(shared) else {
            return Err(Error::missing_tensor(name));
        };
        let found = weight.info(name.into()).shape;
        if found != tensor.info.shape {
            return Err(Error::tensor_shape(name, &tensor.info.shape, &found));
        }
        compare_weights(tensor, *weight)?;
        compared += tensor.info.shape.iter().map(|&n| n as u64).product::<u64>();
        progress(compared);
    }
    Ok(())
}

fn compare_weights(tensor: &SourceTensor<'_>, converted: Weight<'_>) -> Result<()> {
    let (_, columns) = tensor.rows_and_columns();
    let dtype = converted.info(String::new()).dtype;
    // Groups of llama2.c run on from row to row: chunks are whole groups.
    let multiple = if let Dtype::Int8 { group_size } = dtype { group_size } else { 1 };
    let mut found = Vec::new();
    for_chunks(tensor, multiple, &mut |rows, expected| {
        let first = rows.start;
        found.resize(expected.len(), 0.0);
        match converted {
            Weight::Vector(vector) => found.copy_from_slice(vector),
            Weight::Matrix(tensor) => {
                let matrix = tensor.matrix();
                for (row, out) in rows.zip(found.chunks_exact_mut(columns)) {
                    matrix.rows.dequantize(row, out);
                }
            }
        }
        if first_difference(expected, &found).is_none() {
            return Ok(true);
        }
        let rounded = rounded(expected, dtype)?;
        if let Some(i) = first_difference(&rounded, &found) {
            let (row, column) = (first + i / columns, i % columns);
            let reason = format!(
                "({row}, {column}) is {}, which {dtype} makes {}; it is {}",
                expected[i], rounded[i], found[i]
            );
            return Err(Error::mismatch(format!("tensor {}", tensor.info.name), reason));
        }
        Ok(true)
    })
}

/// Compares bits: no number is equal to one that isn't a number.
fn first_difference(a: &[f32], b: &[f32]) -> Option<usize> {
    a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits())
}

/// What a format makes of weights.
fn rounded(weights: &[f32], dtype: Dtype) -> Result<Vec<f32>> {
    if let Dtype::Int8 { group_size } = dtype {
        let group = |group: &[f32]| -> Vec<f32> {
            let mut quants = Vec::new();
            let scale = quantize_group(group, &mut quants);
            quants.iter().map(|quant| f32::from(quant.cast_signed()) * scale).collect()
        };
        return Ok(weights.chunks(group_size).flat_map(group).collect());
    }
    let mut bytes = Vec::new();
    quantize(weights, dtype, &mut bytes)?;
    let (len, storage) = (bytes.len(), Arc::new(Storage::from_vec(bytes)));
    let tensor = Tensor::new(&storage, 0..len, 1, weights.len(), dtype);
    Ok(tensor.map(|tensor| tensor.to_f32()).unwrap_or_default())
}

fn compare_tokenizers(source: &Source, storage: &Storage, is_gguf: bool) -> Result<()> {
    let found = ModelOptions::new().find_tokenizer(storage)?;
    let expected = expected_tokenizer(source, is_gguf)?;
    let (Some(expected), Some(found)) = (&expected, &found) else {
        // llama2.c has no file for every tokenizer.
        return match (is_gguf, expected.is_some() == found.is_some()) {
            (true, false) => Err(Error::mismatch("the tokenizer", "only one has any")),
            _ => Ok(()),
        };
    };
    let of_model = |tokenizer: &Tokenizer| (tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos());
    if of_model(expected) != of_model(found) {
        let reason = format!("{:?} became {:?}", of_model(expected), of_model(found));
        return Err(Error::mismatch("the tokenizer's BOS, EOS and whether it begins a text", reason));
    }
    // A byte-level one's mean nothing; it may be the only kind whose parts can't be written.
    let has_scores =
        source.model().tokenizer().is_ok_and(|spec| spec.is_some_and(|it| it.model.is_sentencepiece()));
    let piece = |tokenizer: &Tokenizer, id: TokenId| {
        // llama2.c knows kinds by their ids alone, and writes the names of controls otherwise.
        let kind = tokenizer.kind(id).filter(|_| is_gguf);
        let text = if is_gguf { tokenizer.piece(id) } else { Some(tokenizer.bytes(id)) };
        (
            text.map(String::from_utf8_lossy).map(Cow::into_owned),
            kind,
            tokenizer.score(id).filter(|_| has_scores),
        )
    };
    for id in 0..found.vocab_size() as TokenId {
        let differs = if id as usize >= expected.vocab_size() {
            is_gguf && found.kind(id) != Some(PieceKind::Unused)
        } else {
            let is_known = is_gguf || expected.kind(id) != Some(PieceKind::Control);
            is_known && piece(expected, id) != piece(found, id)
        };
        if differs {
            let reason = format!("{:?} became {:?}", piece(expected, id), piece(found, id));
            return Err(Error::mismatch(format!("piece {id}"), reason));
        }
    }
    compare_samples(expected, found, is_gguf)
}

/// Compares the tokens of awkward texts.
fn compare_samples(expected: &Tokenizer, found: &Tokenizer, is_gguf: bool) -> Result<()> {
    let mut texts: Vec<String> = SAMPLES.iter().map(|&text| text.into()).collect();
    let user_defined = (0..expected.vocab_size() as TokenId)
        .filter(|&id| expected.kind(id) == Some(PieceKind::UserDefined))
        .take(MAX_USER_DEFINED);
    for id in user_defined {
        let piece = String::from_utf8_lossy(expected.piece(id).unwrap_or_default()).into_owned();
        if is_gguf {
            // With what may count beside it.
            texts.extend([format!("x{piece}y"), format!("x {piece} y"), format!("{piece}{piece} {piece}")]);
        } else {
            // llama2.c doesn't know such pieces.
            texts.retain(|text| !text.contains(&piece));
        }
    }
    // Nor does it know whether a text ends with EOS.
    let encode = |it: &Tokenizer, text: &str| if is_gguf { it.encode_prompt(text) } else { it.encode(text) };
    match texts.iter().find(|text| encode(expected, text) != encode(found, text)) {
        Some(text) => Err(Error::mismatch("the tokenizer", format!("it makes other tokens of {text:?}"))),
        None => Ok(()),
    }
}

/// The source's tokenizer, as it should be in the converted file: llama2.c's says nothing of spaces
/// that collapse.
fn expected_tokenizer(source: &Source, is_gguf: bool) -> Result<Option<Tokenizer>> {
    match source.model().tokenizer() {
        Ok(Some(mut spec)) if !is_gguf => {
            spec.text = TextSettings::default();
            Tokenizer::from_spec(&spec).map(Some)
        }
        _ => source.tokenizer(),
    }
}

/// Pieces whose surroundings are compared.
const MAX_USER_DEFINED: usize = 1000;

/// Texts whose tokens are compared, since merges and settings can't be once they are loaded.
const SAMPLES: [&str; 24] = [
    "Once upon a time, 1234 llamas didn't  cross the R\u{ed}o\tMantaro.\n\n\u{6c34}\u{1f999} fn main() {}",
    "",
    " ",
    "  ",
    "a",
    " a",
    "a ",
    "  a  b  ",
    "the  quick   brown    fox",
    "\u{2581}",
    "\u{2581}a\u{2581} \u{2581}b",
    "\n",
    "\n\na\r\n",
    "\ta\t\tb",
    "They'LL PLAY, weren't I'd",
    "12 345 6789",
    "    if x:\n        return    1",
    "caf\u{e9} cafe\u{301} \u{fb01} \u{2460} \u{ff21}",
    "\u{a0}a\u{200b}b\u{3000}c",
    "\u{d55c}\u{ad6d}\u{c5b4} \u{e01}\u{e33} \u{1f468}\u{200d}\u{1f469}",
    "<s>a</s> <unk> <0x41> [INST] <|im_start|>user",
    "\u{0}a\u{7f}",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "...!?;:\"'()[]{}",
];

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::convert::{GgufOptions, to_gguf};
    use crate::error::ErrorKind;

    /// What is wrong with the file of a published model, if its config.json says something else
    /// besides.
    fn judged(changes: &Value) -> Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/published/llama3");
        let source = Source::open(&folder, &ModelOptions::new())?;
        let mut bytes = Vec::new();
        to_gguf(&source, &GgufOptions::new(), &mut bytes)?;
        let checkpoint = checkpoint::read(&Arc::new(Storage::from_vec(bytes)))?;
        let text = std::fs::read(folder.join("config.json"))?;
        let mut json: Map<String, Value> = serde_json::from_slice(&text).unwrap();
        json.extend(changes.as_object().unwrap().clone());
        compare_expected(&Expected::of(&json).unwrap(), &checkpoint.config, &checkpoint.rope_factors)
    }

    #[test]
    fn settings_that_a_conversion_passed_over_are_found() {
        judged(&json!({})).unwrap();
        let llama3 = json!({"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0});
        let rope = |key: &str, value: Value| {
            let mut scaling = llama3.clone();
            scaling["original_max_position_embeddings"] = json!(16);
            scaling[key] = value;
            json!({"rope_scaling": scaling})
        };
        let frequencies = "the rotary frequencies";
        let cases = [
            (rope("rope_theta", json!(5e4)), frequencies),
            (rope("factor", json!(9)), frequencies),
            (rope("rope_type", json!("default")), frequencies),
            (rope("rope_type", json!("linear")), frequencies),
            (json!({"rope_scaling": llama3, "original_max_position_embeddings": 64}), frequencies),
            (json!({"head_dim": 8}), frequencies),
            (json!({"rms_norm_eps": 1e-6}), "epsilon"),
            (json!({"model_type": "mistral", "sliding_window": 32}), "the sliding window"),
            (json!({"num_key_value_heads": 4}), "layers or heads"),
            (json!({"num_hidden_layers": 3}), "layers or heads"),
        ];
        judged(&rope("factor", json!(8))).unwrap();
        for (changes, what) in cases {
            let error = judged(&changes).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Mismatch { .. }), "{error}");
            assert!(error.to_string().contains(what), "{changes}: {error}");
        }
    }
}
