//! A Llama as GGUF: its keys, the names of its tensors, and which type each of them gets.

use super::{Array, Header};
use crate::checkpoint::gguf::names;
use crate::config::{Config, RopeScaling};
use crate::convert::recipe::{Traits, with_whole_blocks};
use crate::convert::source::SourceModel;
use crate::convert::{GgufOptions, Recipe};
use crate::error::{ErrorKind, Result};
use crate::quant::Dtype;
use crate::tokenizer::{
    ADDED_TOKEN_FLAGS, ADDED_TOKENS, END_TOKENS, FLAGS, PieceKind, PiecePart, TextSettings, TokenizerModel,
    TokenizerSpec,
};
use crate::weights::TensorInfo;

/// The version of ggml's block formats.
const QUANTIZATION_VERSION: u32 = 2;

pub(crate) const FILE_TYPE: &str = "general.file_type";
pub(crate) const NORM_EPS: &str = "llama.attention.layer_norm_rms_epsilon";
pub(crate) const ROPE_THETA: &str = "llama.rope.freq_base";
pub(crate) const CONTEXT_LENGTH: &str = "llama.context_length";
/// The key that is there if any of a tokenizer's is.
const TOKENIZER: &str = "tokenizer.ggml.model";
const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// Everything in front of the tensors' bytes. Tensors are announced in the order of the source, and
/// then what rotary frequencies are divided by.
pub(crate) fn header(source: &dyn SourceModel, options: &GgufOptions) -> Result<Header> {
    let tensors: Vec<TensorInfo> = source.tensors().into_iter().map(|tensor| tensor.info).collect();
    let choice = Choice::of(source, options);
    let mut header = Header::new();
    header.set("general.architecture", "llama")?;
    for (key, value) in &options.metadata {
        header.set(key, value.clone())?;
    }
    if let Some(file_type) = choice.file_type(&tensors) {
        header.set(FILE_TYPE, file_type)?;
    }
    header.set("general.quantization_version", QUANTIZATION_VERSION)?;
    match source.metadata() {
        Some(metadata) => {
            for (key, value) in metadata {
                if !header.has(&key) {
                    header.set(&key, value)?;
                }
            }
        }
        None => hyperparameters(&mut header, source.config())?,
    }
    if !header.has(TOKENIZER) {
        tokenizer(&mut header, source.tokenizer()?.as_ref(), source.config().vocab_size)?;
    }
    if let Some(template) = source.chat_template()
        && !header.has(CHAT_TEMPLATE)
    {
        header.set(CHAT_TEMPLATE, template)?;
    }
    for tensor in &tensors {
        header.tensor(&name(tensor)?, &tensor.shape, choice.dtype(tensor))?;
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

/// Which type each tensor gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    /// `None`: as in the source.
    mix: Option<Recipe>,
    traits: Traits,
    /// What the source says its mix is.
    source_type: Option<u32>,
}

impl Choice {
    pub(crate) fn of(source: &dyn SourceModel, options: &GgufOptions) -> Self {
        let tied = !source.tensors().iter().any(|tensor| tensor.info.name == "output");
        let traits = Traits::of(source.config(), tied);
        Self { mix: options.mix, traits, source_type: source.file_type() }
    }

    /// How a tensor is stored. Vectors stay F32: they are small, and engines want them so.
    pub(crate) fn dtype(&self, tensor: &TensorInfo) -> Dtype {
        let &[_, columns] = &*tensor.shape else { return Dtype::F32 };
        match (self.mix, tensor.dtype) {
            (Some(mix), _) => mix.dtype(&tensor.name, columns, &self.traits),
            (None, Dtype::Int8 { .. }) => with_whole_blocks(Dtype::Q8_0, columns),
            (None, dtype) => dtype,
        }
    }

    /// llama.cpp's number for the types of all tensors, which it shows to people.
    fn file_type(&self, tensors: &[TensorInfo]) -> Option<u32> {
        if let Some(number) = self.mix.and_then(Recipe::file_type).or(self.source_type) {
            return Some(number);
        }
        // The type of most weights.
        let mut weights = Vec::<(Dtype, usize)>::new();
        for tensor in tensors.iter().filter(|tensor| tensor.shape.len() == 2) {
            let (dtype, count) = (self.dtype(tensor), tensor.shape.iter().product());
            match weights.iter_mut().find(|(of, _)| *of == dtype) {
                Some((_, sum)) => *sum += count,
                None => weights.push((dtype, count)),
            }
        }
        let (dtype, _) = weights.into_iter().max_by_key(|(_, count)| *count)?;
        dtype.file_type()
    }
}

fn hyperparameters(header: &mut Header, config: &Config) -> Result<()> {
    // a valid Config's are below 2^31
    let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    header.set("llama.vocab_size", count(config.vocab_size))?;
    header.set(CONTEXT_LENGTH, count(config.max_seq_len))?;
    header.set("llama.embedding_length", count(config.dim))?;
    header.set("llama.block_count", count(config.n_layers))?;
    header.set("llama.feed_forward_length", count(config.hidden_dim))?;
    header.set("llama.attention.head_count", count(config.n_heads))?;
    header.set("llama.attention.head_count_kv", count(config.n_kv_heads))?;
    header.set(NORM_EPS, config.norm_eps)?;
    if config.head_dim * config.n_heads != config.dim {
        header.set("llama.attention.key_length", count(config.head_dim))?;
        header.set("llama.attention.value_length", count(config.head_dim))?;
    }
    if let Some(window) = config.sliding_window {
        header.set("llama.attention.sliding_window", count(window))?;
    }
    header.set("llama.rope.dimension_count", count(config.rope_dim))?;
    header.set(ROPE_THETA, config.rope_theta as f32)?;
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

/// The tokenizer. If the model has more logits than there are pieces, unused ones stand for the
/// rest: llama.cpp wants as many.
fn tokenizer(header: &mut Header, parts: Option<&TokenizerSpec<'_>>, vocab_size: usize) -> Result<()> {
    let Some(parts) = parts else { return header.set(TOKENIZER, "none") };
    let (n_pieces, is_sentencepiece) =
        (parts.pieces.len(), matches!(parts.merging, TokenizerModel::SentencePiece { .. }));
    if n_pieces > vocab_size {
        return Err(ErrorKind::VocabMismatch { tokenizer: n_pieces, model: vocab_size }.into());
    }
    let pre = match parts.merging {
        TokenizerModel::SentencePiece { .. } => "default",
        TokenizerModel::BytePairs { pre, .. } => pre,
    };
    header.set(TOKENIZER, if is_sentencepiece { "llama" } else { "gpt2" })?;
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
    if let TokenizerModel::BytePairs { merges, .. } = &parts.merging {
        let merges = merges.iter().map(|merge| merge.to_vec()).collect();
        header.set("tokenizer.ggml.merges", Array::String(merges))?;
    }
    let (eot, eom) = (parts.eot, parts.eom);
    let ids = [("bos", parts.bos), ("eos", parts.eos), ("eot", eot), ("eom", eom), ("unknown", parts.unk)];
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
    if let TokenizerModel::SentencePiece { add_space_prefix } = parts.merging {
        header.set("tokenizer.ggml.add_space_prefix", add_space_prefix)?;
    }
    if !parts.other_ends.is_empty() {
        header.set(END_TOKENS, Array::U32(parts.other_ends.clone()))?;
    }
    text_settings(header, &parts.text)
}

/// Keys of our own, for what GGUF has none: only what isn't the default.
fn text_settings(header: &mut Header, settings: &TextSettings) -> Result<()> {
    let mut settings = settings.clone();
    for (key, flag) in FLAGS {
        if *flag(&mut settings) {
            header.set(key, true)?;
        }
    }
    if !settings.added.is_empty() {
        let (ids, flags) = settings.added.into_iter().unzip();
        header.set(ADDED_TOKENS, Array::U32(ids))?;
        header.set(ADDED_TOKEN_FLAGS, Array::U32(flags))?;
    }
    Ok(())
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
