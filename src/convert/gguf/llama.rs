//! A Llama as GGUF: its keys, the names of its tensors, and which type each of them gets.

use super::{Array, Header};
use crate::checkpoint::gguf::names;
use crate::config::{Config, RopeScaling};
use crate::convert::GgufOptions;
use crate::convert::source::SourceModel;
use crate::error::{ErrorKind, Result};
use crate::quant::Dtype;
use crate::tokenizer::{Merging, PieceKind, PiecePart, TokenizerParts};
use crate::weights::TensorInfo;

/// The version of ggml's block formats.
const QUANTIZATION_VERSION: u32 = 2;

/// Everything in front of the tensors' bytes. Tensors are announced in the order of the source, and then what rotary
/// frequencies are divided by.
pub(crate) fn header(source: &dyn SourceModel, options: &GgufOptions) -> Result<Header> {
    let mut header = Header::new();
    header.set("general.architecture", "llama")?;
    for (key, value) in &options.metadata {
        header.set(key, value.clone())?;
    }
    let tensors: Vec<TensorInfo> = source.tensors().into_iter().map(|tensor| tensor.info).collect();
    header.set("general.file_type", file_type(&tensors, options))?;
    header.set("general.quantization_version", QUANTIZATION_VERSION)?;
    hyperparameters(&mut header, source.config())?;
    tokenizer(&mut header, source.tokenizer()?.as_ref(), source.config().vocab_size)?;
    if let Some(template) = source.chat_template() {
        header.set("tokenizer.chat_template", template)?;
    }
    for tensor in &tensors {
        header.tensor(&name(tensor)?, &tensor.shape, dtype(tensor, options))?;
    }
    if let Some(factors) = source.rope_factors() {
        header.tensor(names::ROPE_FREQS, &[factors.len()], Dtype::F32)?;
    }
    Ok(header)
}

/// A tensor's name in the file.
pub(crate) fn name(tensor: &TensorInfo) -> Result<String> {
    names::of(&tensor.name).ok_or_else(|| ErrorKind::UnsupportedTensor { name: tensor.name.clone() }.into())
}

/// How a tensor is stored. Vectors stay F32: they are small, and engines want them so. A matrix whose rows are no whole number
/// of blocks becomes F16.
pub(crate) fn dtype(tensor: &TensorInfo, options: &GgufOptions) -> Dtype {
    let &[_, columns] = &*tensor.shape else { return Dtype::F32 };
    let wanted = options.dtype.unwrap_or(match tensor.dtype {
        Dtype::Int8 { .. } => Dtype::Q8_0,
        dtype => dtype,
    });
    let fits = wanted.block().is_none_or(|(weights, _)| columns.is_multiple_of(weights));
    if fits { wanted } else { Dtype::F16 }
}

/// llama.cpp's number for the type of most tensors, which it shows to people.
fn file_type(tensors: &[TensorInfo], options: &GgufOptions) -> u32 {
    let bytes_in = |wanted: Dtype| -> usize {
        let matrices = tensors.iter().filter(|tensor| tensor.shape.len() == 2);
        let those = matrices.filter(|tensor| dtype(tensor, options) == wanted);
        those.map(|tensor| tensor.shape.iter().product::<usize>()).sum()
    };
    let types = [(0, Dtype::F32), (1, Dtype::F16), (7, Dtype::Q8_0), (32, Dtype::Bf16)];
    types.iter().max_by_key(|(_, dtype)| bytes_in(*dtype)).map_or(0, |(number, _)| *number)
}

fn hyperparameters(header: &mut Header, config: &Config) -> Result<()> {
    let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX); // a valid Config's are below 2^31
    header.set("llama.vocab_size", count(config.vocab_size))?;
    header.set("llama.context_length", count(config.max_seq_len))?;
    header.set("llama.embedding_length", count(config.dim))?;
    header.set("llama.block_count", count(config.n_layers))?;
    header.set("llama.feed_forward_length", count(config.hidden_dim))?;
    header.set("llama.attention.head_count", count(config.n_heads))?;
    header.set("llama.attention.head_count_kv", count(config.n_kv_heads))?;
    header.set("llama.attention.layer_norm_rms_epsilon", config.norm_eps)?;
    if config.head_dim * config.n_heads != config.dim {
        header.set("llama.attention.key_length", count(config.head_dim))?;
        header.set("llama.attention.value_length", count(config.head_dim))?;
    }
    header.set("llama.rope.dimension_count", count(config.rope_dim))?;
    header.set("llama.rope.freq_base", config.rope_theta as f32)?;
    match config.rope_scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::Linear { factor } => {
            header.set("llama.rope.scaling.type", "linear")?;
            header.set("llama.rope.scaling.factor", factor as f32)
        }
        RopeScaling::Yarn { factor, original_context_length, beta_fast, beta_slow, magnitude } => {
            header.set("llama.rope.scaling.type", "yarn")?;
            header.set("llama.rope.scaling.factor", factor as f32)?;
            header.set("llama.rope.scaling.original_context_length", count(original_context_length))?;
            header.set("llama.rope.scaling.yarn_beta_fast", beta_fast as f32)?;
            header.set("llama.rope.scaling.yarn_beta_slow", beta_slow as f32)?;
            // Engines multiply what they compute from the factor with this.
            let usual = 1.0 + 0.1 * factor.max(1.0).ln();
            header.set("llama.rope.scaling.attn_factor", (magnitude / usual) as f32)
        }
    }
}

/// The tokenizer. If the model has more logits than there are pieces, unused ones stand for the rest: llama.cpp wants as many.
fn tokenizer(header: &mut Header, parts: Option<&TokenizerParts<'_>>, vocab_size: usize) -> Result<()> {
    let Some(parts) = parts else { return header.set("tokenizer.ggml.model", "none") };
    let (n_pieces, is_sentencepiece) =
        (parts.pieces.len(), matches!(parts.merging, Merging::SentencePiece { .. }));
    if n_pieces > vocab_size {
        return Err(ErrorKind::VocabMismatch { tokenizer: n_pieces, model: vocab_size }.into());
    }
    let pre = match parts.merging {
        Merging::SentencePiece { .. } => "default",
        Merging::BytePairs { pre, .. } => pre,
    };
    header.set("tokenizer.ggml.model", if is_sentencepiece { "llama" } else { "gpt2" })?;
    header.set("tokenizer.ggml.pre", pre)?;
    let padding = (n_pieces..vocab_size).map(|id| PiecePart {
        text: format!("[PAD{id}]").into_bytes().into(),
        score: 0.0,
        kind: PieceKind::Unused,
    });
    let (mut texts, mut scores, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
    for PiecePart { text, score, kind } in parts.pieces.iter().cloned().chain(padding) {
        texts.push(text.into_owned());
        scores.push(score);
        kinds.push(piece_type(kind));
    }
    header.set("tokenizer.ggml.tokens", Array::String(texts))?;
    if is_sentencepiece {
        header.set("tokenizer.ggml.scores", Array::F32(scores))?;
    }
    header.set("tokenizer.ggml.token_type", Array::I32(kinds))?;
    if let Merging::BytePairs { merges, .. } = &parts.merging {
        let merges = merges.iter().map(|merge| merge.to_vec()).collect();
        header.set("tokenizer.ggml.merges", Array::String(merges))?;
    }
    let ids = [("bos", parts.bos), ("eos", parts.eos), ("eot", parts.eot), ("unknown", parts.unk)];
    for (name, id) in ids {
        if let Some(id) = id {
            header.set(&format!("tokenizer.ggml.{name}_token_id"), id)?;
        }
    }
    for (name, flag) in [("add_bos_token", parts.add_bos), ("add_eos_token", parts.add_eos)] {
        if let Some(flag) = flag {
            header.set(&format!("tokenizer.ggml.{name}"), flag)?;
        }
    }
    match parts.merging {
        Merging::SentencePiece { add_space_prefix } => {
            header.set("tokenizer.ggml.add_space_prefix", add_space_prefix)
        }
        Merging::BytePairs { .. } => Ok(()),
    }
}

/// GGUF's number for what a piece is for.
fn piece_type(kind: PieceKind) -> i32 {
    match kind {
        PieceKind::Normal => 1,
        PieceKind::Unknown => 2,
        PieceKind::Control => 3,
        PieceKind::UserDefined => 4,
        PieceKind::Unused => 5,
        PieceKind::Byte => 6,
    }
}
