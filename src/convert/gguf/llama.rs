//! A model as GGUF: its keys, and which type each of its tensors gets.

use super::{Array, Header, Value, fused, tokenizer};
use crate::arch::{
    ATTENTION_SCALE, Architecture, EMBEDDING_SCALE, LLAMA, LOGIT_SCALE, QUERY_GROWTH, RESIDUAL_SCALE,
    TensorId,
};
use crate::checkpoint::gguf::{ROPE_FACTORS, keys};
use crate::config::{Config, RopeScaling};
use crate::convert::quantize::heeds_importance;
use crate::convert::recipe::{Traits, with_whole_blocks};
use crate::convert::source::{SourceModel, SourceTensor};
use crate::convert::{GgufOptions, ImportanceMatrix, Recipe};
use crate::error::{Error, ErrorKind, Result};
use crate::quant::Dtype;
use crate::weights::TensorInfo;

/// The version of ggml's block formats.
const QUANTIZATION_VERSION: u32 = 2;

/// Everything before the tensors' bytes. Tensors are announced in the order of the source, and
/// then what rotary frequencies are divided by.
pub(crate) fn header(source: &SourceModel, options: &GgufOptions) -> Result<Header> {
    let tensors = fused::tensors(source);
    let choice = Choice::of(source, options);
    if let Some(matrix) = &options.importance {
        let mut infos = tensors.iter().map(|(name, tensor)| (name, &tensor.info));
        if !infos.any(|(name, info)| matrix.has(name) && heeds_importance(choice.dtype(info))) {
            return Err(ErrorKind::InvalidOption {
                name: "importance",
                value: format!("a matrix of {} tensors", matrix.len()),
                reason: "none of them is written in a format of 2 to 6 bits, which alone heed it".into(),
            }
            .into());
        }
    }
    let mut header = Header::new();
    header.set(keys::ARCHITECTURE, source.architecture.name)?;
    for (key, value) in &options.metadata {
        header.set(key, value.clone())?;
    }
    let importance = options.importance.as_ref().map(ImportanceMatrix::keys);
    for (key, value) in importance.iter().flatten() {
        if !header.has(key) {
            header.set(key, value.clone())?;
        }
    }
    if let Some(file_type) = choice.file_type(&tensors) {
        header.set(keys::FILE_TYPE, file_type)?;
    }
    header.set(keys::QUANTIZATION_VERSION, QUANTIZATION_VERSION)?;
    for (key, value) in &source.described {
        if !header.has(key) {
            header.set(key, value.clone())?;
        }
    }
    match &source.keys {
        Some(of_source) => {
            // Another importance matrix is no longer what it was quantized with.
            let is_replaced = |key: &str| importance.is_some() && key.starts_with(keys::IMPORTANCE);
            for (key, value) in &of_source.metadata {
                if !header.has(key) && !is_replaced(key) {
                    header.set(key, value.clone())?;
                }
            }
        }
        None => hyperparameters(&mut header, source.architecture, &source.config)?,
    }
    if !header.has(keys::TOKENIZER) {
        tokenizer::put(&mut header, source.tokenizer()?.as_ref(), source.config.vocab_size)?;
    }
    if let Some(template) = &source.chat_template
        && !header.has(keys::CHAT_TEMPLATE)
    {
        header.set(keys::CHAT_TEMPLATE, template.as_str())?;
    }
    for (name, tensor) in &tensors {
        header.tensor(name, &tensor.info.shape, choice.dtype(&tensor.info))?;
    }
    for (name, factors) in source.rope_factors.tensors() {
        header.tensor(name, &[factors.len()], Dtype::F32)?;
    }
    Ok(header)
}

impl Header {
    /// A Llama whose matrices are all stored in one format: its keys and its tensors, without a
    /// tokenizer. If it is `tied`, the classifier is the embeddings. With [`RopeScaling::Long`] the
    /// last two tensors are what rotary frequencies are divided by in short and in long contexts.
    ///
    /// ```
    /// use babyllama::convert::gguf::Header;
    /// use babyllama::{Config, Dtype, Model};
    ///
    /// let config = Config::new(64, 128, 2, 4, 2, 32, 16);
    /// let header = Header::llama(&config, true, Dtype::F32)?;
    /// let mut to = header.write(Vec::new())?;
    /// for (name, _shape, bytes) in header.tensors() {
    ///     to.write(name, &vec![0; bytes as usize])?;
    /// }
    /// let model = Model::from_bytes(to.finish()?)?;
    /// assert_eq!(model.config(), &config);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Unwritable`] if GGUF doesn't have the format, or rows aren't whole blocks of
    /// it; and if no Llama has these hyperparameters.
    ///
    /// [`ErrorKind::Unwritable`]: crate::ErrorKind::Unwritable
    pub fn llama(config: &Config, tied: bool, dtype: Dtype) -> Result<Self> {
        if !config.is_llama() {
            return Err(Error::unwritable(
                "the model as architecture llama",
                "Llama has no such hyperparameters",
            ));
        }
        let mut header = Self::new();
        header.set(keys::ARCHITECTURE, LLAMA.name)?;
        hyperparameters(&mut header, &LLAMA, config)?;
        for id in TensorId::all(config) {
            if id.kind.is_optional() && (tied || !id.kind.is_output()) {
                continue;
            }
            let shape = id.shape(config);
            header.tensor(&id.gguf(), &shape, if shape.len() == 2 { dtype } else { Dtype::F32 })?;
        }
        if let RopeScaling::Long { .. } = config.rope_scaling {
            for name in ROPE_FACTORS {
                header.tensor(name, &[config.rope_dim / 2], Dtype::F32)?;
            }
        }
        Ok(header)
    }
}

/// Which type each tensor gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    /// `None`: as in the source.
    recipe: Option<Recipe>,
    traits: Traits,
    /// What the source says its recipe is.
    source_type: Option<u32>,
}

impl Choice {
    pub(crate) fn of(source: &SourceModel, options: &GgufOptions) -> Self {
        let has_importance = options.importance.is_some();
        let traits = Traits::of(&source.config, source.is_tied(), has_importance);
        Self {
            recipe: options.recipe,
            traits,
            source_type: source.keys.as_ref().and_then(|keys| keys.file_type),
        }
    }

    /// How a tensor is stored. Vectors stay F32: they are small, and engines want them so.
    pub(crate) fn dtype(&self, tensor: &TensorInfo) -> Dtype {
        let &[_, columns] = &*tensor.shape else { return Dtype::F32 };
        match (self.recipe, tensor.dtype) {
            (Some(recipe), _) => recipe.dtype(&tensor.name, columns, &self.traits),
            (None, Dtype::Int8 { .. }) => with_whole_blocks(Dtype::Q8_0, columns),
            (None, dtype) => dtype,
        }
    }

    /// llama.cpp's number for the types of all tensors, which it shows to people.
    fn file_type(&self, tensors: &[(String, SourceTensor<'_>)]) -> Option<u32> {
        if let Some(number) = self.recipe.and_then(Recipe::file_type).or(self.source_type) {
            return Some(number);
        }
        // The type of most weights.
        let mut weights = Vec::<(Dtype, usize)>::new();
        for tensor in tensors.iter().map(|(_, tensor)| &tensor.info).filter(|tensor| tensor.shape.len() == 2)
        {
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

fn hyperparameters(header: &mut Header, architecture: &Architecture, config: &Config) -> Result<()> {
    // A valid Config's are below 2^31.
    let count = |value: usize| Value::U32(u32::try_from(value).unwrap_or(u32::MAX));
    let mut set = |key, value: Value| header.set(&architecture.key(key), value);
    set(keys::VOCAB_SIZE, count(config.vocab_size))?;
    set(keys::MAX_SEQ_LEN, count(config.max_seq_len))?;
    set(keys::DIM, count(config.dim))?;
    set(keys::N_LAYERS, count(config.n_layers))?;
    set(keys::HIDDEN_DIM, count(config.hidden_dim))?;
    set(keys::N_HEADS, count(config.n_heads))?;
    set(keys::N_KV_HEADS, count(config.n_kv_heads))?;
    set(keys::NORM_EPS, config.norm_eps.into())?;
    if config.head_dim * config.n_heads != config.dim {
        set(keys::HEAD_DIM, count(config.head_dim))?;
        set(keys::VALUE_DIM, count(config.head_dim))?;
    }
    let scales = [
        (EMBEDDING_SCALE, Some(config.embedding_scale)),
        (RESIDUAL_SCALE, Some(config.residual_scale)),
        (ATTENTION_SCALE, config.attention_scale),
        (LOGIT_SCALE, Some(config.logit_divisor)),
        (QUERY_GROWTH, config.query_growth.map(|growth| growth.beta as f32)),
    ];
    for (key, scale) in scales.iter().filter(|(key, _)| architecture.keys.contains(key)) {
        if let Some(scale) = *scale {
            set(key, scale.into())?;
        }
    }
    if let Some(window) = config.sliding_window {
        set(keys::SLIDING_WINDOW, count(window))?;
        if !config.windowed_layers.is_empty() {
            set(keys::SLIDING_WINDOW_PATTERN, Array::Bool(config.windowed_layers.clone()).into())?;
        }
    }
    if let (Some(growth), RopeScaling::None | RopeScaling::Linear { .. }) =
        (config.query_growth, config.rope_scaling)
    {
        set(keys::ROPE_ORIGINAL_CONTEXT, count(growth.length))?;
    }
    set(keys::ROPE_DIM, count(config.rope_dim))?;
    set(keys::ROPE_THETA, (config.rope_theta as f32).into())?;
    match config.rope_scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::Linear { factor } => {
            set(keys::ROPE_SCALING_TYPE, "linear".into())?;
            set(keys::ROPE_SCALING_FACTOR, (factor as f32).into())
        }
        RopeScaling::Long { original_context_length, magnitude } => {
            set(keys::ROPE_SCALING_TYPE, "longrope".into())?;
            set(keys::ROPE_ORIGINAL_CONTEXT, count(original_context_length))?;
            set(keys::ROPE_ATTN_FACTOR, (magnitude as f32).into())
        }
        RopeScaling::Yarn { factor, original_context_length, beta_fast, beta_slow, magnitude } => {
            set(keys::ROPE_SCALING_TYPE, "yarn".into())?;
            set(keys::ROPE_SCALING_FACTOR, (factor as f32).into())?;
            set(keys::ROPE_ORIGINAL_CONTEXT, count(original_context_length))?;
            set(keys::YARN_BETA_FAST, (beta_fast as f32).into())?;
            set(keys::YARN_BETA_SLOW, (beta_slow as f32).into())?;
            // Engines multiply what they compute from the factor with this.
            let usual = 1.0 + 0.1 * factor.max(1.0).ln();
            set(keys::ROPE_ATTN_FACTOR, ((magnitude / usual) as f32).into())
        }
    }
}
