//! The weights of a Llama, as typed fields: after loading there are no names to look up.

use std::sync::Arc;

use crate::error::Result;
use crate::quant::Dtype;
use crate::storage::Storage;
use crate::tensor::Tensor;

/// All weights. Matrices are (out, in), as in `y = W x`.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    pub(crate) tok_embeddings: Tensor, // (vocab_size, dim)
    pub(crate) layers: Vec<LayerWeights>,
    pub(crate) norm: Vec<f32>, // (dim)
    /// `None` if it is tied to the token embeddings.
    pub(crate) output: Option<Tensor>, // (vocab_size, dim)
}

/// The weights of one transformer block. Norms are small and read often, so they are copied out of
/// the file as f32.
#[derive(Clone, Debug)]
pub(crate) struct LayerWeights {
    pub(crate) attention_norm: Vec<f32>, // (dim)
    pub(crate) wq: Tensor,               // (n_heads * head_dim, dim)
    pub(crate) wk: Tensor,               // (kv_dim, dim)
    pub(crate) wv: Tensor,               // (kv_dim, dim)
    pub(crate) wo: Tensor,               // (dim, n_heads * head_dim)
    pub(crate) ffn_norm: Vec<f32>,       // (dim)
    pub(crate) w1: Tensor,               // (hidden_dim, dim): the gate
    pub(crate) w2: Tensor,               // (dim, hidden_dim): down
    pub(crate) w3: Tensor,               // (hidden_dim, dim): up
}

impl Weights {
    /// What the logits are computed with: the classifier, or the embeddings it is tied to.
    pub(crate) fn classifier(&self) -> &Tensor {
        self.output.as_ref().unwrap_or(&self.tok_embeddings)
    }

    /// Bytes of weights that one token's forward pass reads.
    pub(crate) fn bytes_per_token(&self) -> usize {
        let layers: usize = self.layers.iter().map(LayerWeights::len_bytes).sum();
        layers + self.classifier().len_bytes()
    }
}

impl Weights {
    /// Copies all matrices into huge pages, one behind the other in the order of the forward pass.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(crate) fn move_to_huge_pages(&mut self) -> Result<()> {
        let mut tensors = self.matrices_mut();
        let parts: Vec<&[u8]> = tensors.iter().flat_map(|tensor| tensor.parts()).collect();
        let (storage, ranges) = Storage::in_huge_pages(&parts)?;
        let storage = Arc::new(storage);
        for (tensor, ranges) in tensors.iter_mut().zip(ranges.chunks_exact(2)) {
            tensor.move_to(&storage, [ranges[0].clone(), ranges[1].clone()]);
        }
        Ok(())
    }

    fn matrices_mut(&mut self) -> Vec<&mut Tensor> {
        let mut matrices = vec![&mut self.tok_embeddings];
        for layer in &mut self.layers {
            let LayerWeights { attention_norm: _, wq, wk, wv, wo, ffn_norm: _, w1, w2, w3 } = layer;
            matrices.extend([wq, wk, wv, wo, w1, w3, w2]);
        }
        matrices.extend(&mut self.output);
        matrices
    }

    /// All tensors under Meta's names, in the order of the forward pass.
    pub(crate) fn named(&self) -> Vec<(String, Weight<'_>)> {
        use Weight::{Matrix, Norm};
        let mut named = vec![("tok_embeddings".into(), Matrix(&self.tok_embeddings))];
        for (l, layer) in self.layers.iter().enumerate() {
            let LayerWeights { attention_norm, wq, wk, wv, wo, ffn_norm, w1, w2, w3 } = layer;
            named.push((format!("layers.{l}.attention_norm"), Norm(attention_norm)));
            for (name, tensor) in [("wq", wq), ("wk", wk), ("wv", wv), ("wo", wo)] {
                named.push((format!("layers.{l}.attention.{name}"), Matrix(tensor)));
            }
            named.push((format!("layers.{l}.ffn_norm"), Norm(ffn_norm)));
            for (name, tensor) in [("w1", w1), ("w2", w2), ("w3", w3)] {
                named.push((format!("layers.{l}.feed_forward.{name}"), Matrix(tensor)));
            }
        }
        named.push(("norm".into(), Norm(&self.norm)));
        named.extend(self.output.iter().map(|output| ("output".into(), Matrix(output))));
        named
    }

    /// What tensors there are, in the order of the forward pass.
    pub(crate) fn infos(&self) -> Vec<TensorInfo> {
        self.named().into_iter().map(|(name, weight)| weight.info(name)).collect()
    }
}

/// One of a model's tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weight<'a> {
    Matrix(&'a Tensor),
    Norm(&'a [f32]),
}

impl Weight<'_> {
    pub(crate) fn info(self, name: String) -> TensorInfo {
        match self {
            Self::Matrix(tensor) => {
                let shape = vec![tensor.rows(), tensor.columns()];
                TensorInfo { name, shape, dtype: tensor.dtype(), bytes: tensor.len_bytes() }
            }
            Self::Norm(norm) => {
                TensorInfo { name, shape: vec![norm.len()], dtype: Dtype::F32, bytes: size_of_val(norm) }
            }
        }
    }
}

/// What is known of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Its name, in Meta's terms: `layers.0.attention.wq`.
    pub name: String,
    /// (out, in) of a matrix, (width) of a vector.
    pub shape: Vec<usize>,
    /// How its weights are stored.
    pub dtype: Dtype,
    /// The bytes that they take in the file.
    pub bytes: usize,
}

impl LayerWeights {
    fn len_bytes(&self) -> usize {
        let Self { attention_norm: _, wq, wk, wv, wo, ffn_norm: _, w1, w2, w3 } = self;
        [wq, wk, wv, wo, w1, w2, w3].map(Tensor::len_bytes).iter().sum()
    }
}
