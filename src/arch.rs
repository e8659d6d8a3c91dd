//! The tensors of a Llama, in one table: what each is called in every kind of file, its shape, and
//! how it is split among shards. What reads, writes, counts or names tensors goes through it, so a
//! new tensor is a row here and a line in `forward.rs`.
//!
//! Inside this crate names are Meta's: `layers.3.attention.wq`.

mod architectures;

use std::fmt;

pub(crate) use architectures::*;

use crate::config::{Config, QkNorm};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// A row of the table: a tensor that every layer has, or one of the model's own.
#[derive(Debug)]
#[cfg_attr(not(feature = "convert"), allow(dead_code, reason = "some columns are for conversion alone"))]
pub(crate) struct TensorKind {
    /// Meta's name, after the layer's.
    meta: &'static str,
    /// GGUF's name, after the layer's and without `.weight`.
    gguf: &'static str,
    /// Hugging Face's name, after the layer's and without `.weight`.
    hugging_face: &'static str,
    /// (out, in) of a matrix, (width) of a vector; empty of a tensor that such a model doesn't
    /// have.
    shape: fn(&Config) -> Vec<usize>,
    pub(crate) shards: Shards,
    /// Whether its rows are queries or keys, which RoPE rotates: files differ in their order.
    pub(crate) is_rotary: bool,
}

impl TensorKind {
    /// Whether it is the classifier.
    pub(crate) fn is_output(&self) -> bool {
        std::ptr::eq(self, &raw const OUTPUT)
    }

    /// Whether it is added to what a matrix makes.
    pub(crate) fn is_bias(&self) -> bool {
        self.meta.ends_with(".bias")
    }

    /// Whether a model may lack it, whatever its hyperparameters.
    pub(crate) fn is_optional(&self) -> bool {
        self.is_output() || self.is_bias()
    }
}

/// How Meta's files split a tensor among the machines that a model was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shards {
    /// Each shard has all of it.
    Same,
    /// A shard has all columns of some rows.
    Rows,
    /// A shard has all rows of some columns.
    Columns,
    /// By rows in Llama 3, by columns before.
    Embeddings,
}

/// One of a model's tensors. It is displayed as Meta's name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TensorId {
    /// `None` of those that aren't in a layer.
    pub(crate) layer: Option<usize>,
    pub(crate) kind: &'static TensorKind,
}

impl fmt::Display for TensorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(layer) = self.layer {
            write!(f, "layers.{layer}.")?;
        }
        f.write_str(self.kind.meta)
    }
}

impl TensorId {
    pub(crate) fn of_model(kind: &'static TensorKind) -> Self {
        Self { layer: None, kind }
    }

    pub(crate) fn of_layer(layer: usize, kind: &'static TensorKind) -> Self {
        Self { layer: Some(layer), kind }
    }

    /// Its name in GGUF files: `blk.3.attn_q.weight`.
    pub(crate) fn gguf(self) -> String {
        let layer = self.layer.map(|layer| format!("blk.{layer}."));
        suffixed(layer.unwrap_or_default() + self.kind.gguf)
    }

    /// Its name in Meta's files: `layers.3.attention.wq.weight`.
    #[cfg(feature = "convert")]
    pub(crate) fn meta(self) -> String {
        suffixed(self.to_string())
    }

    /// Its name in Hugging Face's files: `model.layers.3.self_attn.q_proj.weight`.
    #[cfg(feature = "convert")]
    pub(crate) fn hugging_face(self) -> String {
        let layer = self.layer.map(|layer| format!("model.layers.{layer}."));
        suffixed(layer.unwrap_or_default() + self.kind.hugging_face)
    }

    /// (out, in) of a matrix, (width) of a vector; empty of a tensor that such a model doesn't
    /// have.
    pub(crate) fn shape(self, config: &Config) -> Vec<usize> {
        (self.kind.shape)(config)
    }

    /// All tensors that a model may have, in the order of the forward pass.
    #[cfg(feature = "convert")]
    pub(crate) fn all(config: &Config) -> impl Iterator<Item = Self> {
        let layers = (0..config.n_layers).flat_map(|l| LAYER.iter().map(move |kind| Self::of_layer(l, kind)));
        let [before, after @ ..] = [&TOK_EMBEDDINGS, &NORM, &OUTPUT].map(Self::of_model);
        let all = std::iter::once(before).chain(layers).chain(after);
        all.filter(|id| !id.shape(config).is_empty())
    }
}

/// A name with the ending that files give it. That of a bias has its own.
fn suffixed(name: String) -> String {
    if name.ends_with(".bias") { name } else { name + ".weight" }
}

const fn model_tensor(
    [meta, gguf, hugging_face]: [&'static str; 3],
    shape: fn(&Config) -> Vec<usize>,
    shards: Shards,
) -> TensorKind {
    TensorKind { meta, gguf, hugging_face, shape, shards, is_rotary: false }
}

pub(crate) static TOK_EMBEDDINGS: TensorKind = model_tensor(
    ["tok_embeddings", "token_embd", "model.embed_tokens"],
    |c| vec![c.vocab_size, c.dim],
    Shards::Embeddings,
);
pub(crate) static NORM: TensorKind =
    model_tensor(["norm", "output_norm", "model.norm"], |c| vec![c.dim], Shards::Same);
/// The classifier. A model may use its embeddings instead.
pub(crate) static OUTPUT: TensorKind =
    model_tensor(["output", "output", "lm_head"], |c| vec![c.vocab_size, c.dim], Shards::Rows);

/// Makes [`LayerWeights`] and the table [`LAYER`] from the same rows:
///
/// ```text
/// /// What it is.
/// field: type = "Meta's name", "GGUF's", "Hugging Face's", shape, how it is split[, rotary];
/// ```
///
/// A type of `Vec<f32>` is a vector, which is copied out of the file; `Tensor` a matrix; an
/// `Option` of either is a tensor that not every model has: of some its shape is empty, and any
/// may lack a bias.
macro_rules! layer_tensors {
    ($($(#[$doc:meta])* $field:ident: $type:ty
        = $meta:literal, $gguf:literal, $hf:literal, $shape:expr, $shards:ident $(, $rotary:ident)?;)*) => {
        /// The weights of one transformer block. Matrices are (out, in), as in `y = W x`.
        #[derive(Clone, Debug)]
        pub(crate) struct LayerWeights {
            $($(#[$doc])* pub(crate) $field: $type,)*
        }

        /// The tensors that a layer may have.
        pub(crate) static LAYER: &[TensorKind] = &[$(TensorKind {
            meta: $meta,
            gguf: $gguf,
            hugging_face: $hf,
            shape: $shape,
            shards: Shards::$shards,
            is_rotary: [$(stringify!($rotary),)? ""].len() > 1, // the row ends in `rotary`
        },)*];

        impl LayerWeights {
            pub(crate) fn load(layer: usize, config: &Config, from: &mut impl TensorReader) -> Result<Self> {
                let mut kinds = LAYER.iter();
                let mut next = || TensorId::of_layer(layer, kinds.next().expect("each field is a row"));
                Ok(Self { $($field: Field::load(next(), config, from)?,)* })
            }

            /// Each tensor that is there, in the order of the table.
            pub(crate) fn tensors(&self, layer: usize) -> impl Iterator<Item = (TensorId, Weight<'_>)> {
                let weights = [$(self.$field.weight(),)*];
                let named = move |(kind, weight)| Some((TensorId::of_layer(layer, kind), weight?));
                LAYER.iter().zip(weights).filter_map(named)
            }

            pub(crate) fn matrices_mut(&mut self) -> impl Iterator<Item = &mut Tensor> {
                [$(self.$field.matrix_mut(),)*].into_iter().flatten()
            }
        }
    };
}

/// The shape of what queries or keys, all of which are `width` wide, are normed with.
fn qk_norm(config: &Config, width: usize) -> Vec<usize> {
    match config.qk_norm {
        QkNorm::None => vec![],
        QkNorm::Heads => vec![config.head_dim],
        QkNorm::Whole => vec![width],
    }
}

/// The shape of what a block's input is normed with.
fn norm_before(config: &Config) -> Vec<usize> {
    if config.norms_after { vec![] } else { vec![config.dim] }
}

/// The shape of what a block's output is normed with.
fn norm_after(config: &Config) -> Vec<usize> {
    if config.norms_after { vec![config.dim] } else { vec![] }
}

layer_tensors! {
    /// Scales the input of attention: (`dim`).
    attention_norm: Option<Vec<f32>>
        = "attention_norm", "attn_norm", "input_layernorm", norm_before, Same;
    /// Queries: (`n_heads * head_dim`, `dim`).
    wq: Tensor
        = "attention.wq", "attn_q", "self_attn.q_proj", |c| vec![c.q_dim(), c.dim], Rows, rotary;
    /// Added to the queries: (`n_heads * head_dim`).
    wq_bias: Option<Vec<f32>>
        = "attention.wq.bias", "attn_q.bias", "self_attn.q_proj.bias", |c| vec![c.q_dim()], Rows, rotary;
    /// Keys: (`kv_dim`, `dim`).
    wk: Tensor
        = "attention.wk", "attn_k", "self_attn.k_proj", |c| vec![c.kv_dim(), c.dim], Rows, rotary;
    /// Added to the keys: (`kv_dim`).
    wk_bias: Option<Vec<f32>>
        = "attention.wk.bias", "attn_k.bias", "self_attn.k_proj.bias", |c| vec![c.kv_dim()], Rows, rotary;
    /// Values: (`kv_dim`, `dim`).
    wv: Tensor
        = "attention.wv", "attn_v", "self_attn.v_proj", |c| vec![c.kv_dim(), c.dim], Rows;
    /// Added to the values: (`kv_dim`).
    wv_bias: Option<Vec<f32>>
        = "attention.wv.bias", "attn_v.bias", "self_attn.v_proj.bias", |c| vec![c.kv_dim()], Rows;
    /// Scales the queries of each head, (`head_dim`), or all: (`n_heads * head_dim`).
    q_norm: Option<Vec<f32>>
        = "attention.q_norm", "attn_q_norm", "self_attn.q_norm", |c| qk_norm(c, c.q_dim()), Same;
    /// Scales the keys of each head, (`head_dim`), or all: (`kv_dim`).
    k_norm: Option<Vec<f32>>
        = "attention.k_norm", "attn_k_norm", "self_attn.k_norm", |c| qk_norm(c, c.kv_dim()), Same;
    /// The output of attention: (`dim`, `n_heads * head_dim`).
    wo: Tensor
        = "attention.wo", "attn_output", "self_attn.o_proj", |c| vec![c.dim, c.q_dim()], Columns;
    /// Added to the output of attention: (`dim`).
    wo_bias: Option<Vec<f32>>
        = "attention.wo.bias", "attn_output.bias", "self_attn.o_proj.bias", |c| vec![c.dim], Same;
    /// Scales the output of attention: (`dim`).
    attention_post_norm: Option<Vec<f32>>
        = "attention_post_norm", "post_attention_norm", "post_attention_layernorm", norm_after, Same;
    /// Scales the input of the feed-forward network: (`dim`).
    ffn_norm: Option<Vec<f32>>
        = "ffn_norm", "ffn_norm", "post_attention_layernorm", norm_before, Same;
    /// The gate: (`hidden_dim`, `dim`).
    w1: Tensor
        = "feed_forward.w1", "ffn_gate", "mlp.gate_proj", |c| vec![c.hidden_dim, c.dim], Rows;
    /// Added to the gate: (`hidden_dim`).
    w1_bias: Option<Vec<f32>>
        = "feed_forward.w1.bias", "ffn_gate.bias", "mlp.gate_proj.bias", |c| vec![c.hidden_dim], Rows;
    /// Down: (`dim`, `hidden_dim`).
    w2: Tensor
        = "feed_forward.w2", "ffn_down", "mlp.down_proj", |c| vec![c.dim, c.hidden_dim], Columns;
    /// Added to the output of the feed-forward network: (`dim`).
    w2_bias: Option<Vec<f32>>
        = "feed_forward.w2.bias", "ffn_down.bias", "mlp.down_proj.bias", |c| vec![c.dim], Same;
    /// Up: (`hidden_dim`, `dim`).
    w3: Tensor
        = "feed_forward.w3", "ffn_up", "mlp.up_proj", |c| vec![c.hidden_dim, c.dim], Rows;
    /// Added to what the gate multiplies: (`hidden_dim`).
    w3_bias: Option<Vec<f32>>
        = "feed_forward.w3.bias", "ffn_up.bias", "mlp.up_proj.bias", |c| vec![c.hidden_dim], Rows;
    /// Scales the output of the feed-forward network: (`dim`).
    ffn_post_norm: Option<Vec<f32>>
        = "ffn_post_norm", "post_ffw_norm", "post_feedforward_layernorm", norm_after, Same;
}

/// The files that weights are loaded from.
pub(crate) trait TensorReader {
    /// Takes a tensor of the shape that it must have, if it is there. Each is asked for once.
    fn take(&mut self, id: TensorId) -> Result<Option<Tensor>>;

    /// What the files call it, for errors.
    fn name(&self, id: TensorId) -> String;
}

/// A loaded tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weight<'a> {
    Matrix(&'a Tensor),
    /// Small, and read often.
    Vector(&'a [f32]),
}

/// What a field of the weights may be.
pub(crate) trait Field: Sized {
    /// The field of what the files have. `None` if every model has it and this one doesn't.
    fn of(tensor: Option<Tensor>) -> Option<Self>;

    fn weight(&self) -> Option<Weight<'_>>;

    fn matrix_mut(&mut self) -> Option<&mut Tensor> {
        None
    }

    fn load(id: TensorId, config: &Config, from: &mut impl TensorReader) -> Result<Self> {
        let is_had = !id.shape(config).is_empty();
        let tensor = if is_had { from.take(id)? } else { None };
        let may_be = tensor.is_some() || !is_had || id.kind.is_optional();
        may_be.then(|| Self::of(tensor)).flatten().ok_or_else(|| Error::missing_tensor(from.name(id)))
    }
}

impl Field for Tensor {
    fn of(tensor: Option<Tensor>) -> Option<Self> {
        tensor
    }

    fn weight(&self) -> Option<Weight<'_>> {
        Some(Weight::Matrix(self))
    }

    fn matrix_mut(&mut self) -> Option<&mut Tensor> {
        Some(self)
    }
}

impl Field for Vec<f32> {
    fn of(tensor: Option<Tensor>) -> Option<Self> {
        tensor.map(|tensor| tensor.to_f32())
    }

    fn weight(&self) -> Option<Weight<'_>> {
        Some(Weight::Vector(self))
    }
}

impl<F: Field> Field for Option<F> {
    fn of(tensor: Option<Tensor>) -> Option<Self> {
        Some(F::of(tensor))
    }

    fn weight(&self) -> Option<Weight<'_>> {
        self.as_ref().and_then(F::weight)
    }

    fn matrix_mut(&mut self) -> Option<&mut Tensor> {
        self.as_mut().and_then(F::matrix_mut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_each_kind_of_file() {
        let w2 = LAYER.iter().find(|kind| kind.meta == "feed_forward.w2").unwrap();
        let id = TensorId::of_layer(31, w2);
        assert_eq!(id.to_string(), "layers.31.feed_forward.w2");
        assert_eq!(id.gguf(), "blk.31.ffn_down.weight");
        assert_eq!(TensorId::of_model(&NORM).gguf(), "output_norm.weight");
        #[cfg(feature = "convert")]
        {
            assert_eq!(id.meta(), "layers.31.feed_forward.w2.weight");
            assert_eq!(id.hugging_face(), "model.layers.31.mlp.down_proj.weight");
            assert_eq!(TensorId::of_model(&OUTPUT).hugging_face(), "lm_head.weight");
        }
    }
}
