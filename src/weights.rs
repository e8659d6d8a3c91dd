//! The weights of a Llama, as typed fields: after loading there are no names to look up. `arch.rs`
//! has the table of a layer's, and [`LayerWeights`].

use std::sync::Arc;

use crate::arch::{Field, NORM, OUTPUT, TOK_EMBEDDINGS, TensorId, TensorReader};
pub(crate) use crate::arch::{LayerWeights, Weight};
use crate::config::Config;
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

impl Weights {
    /// Takes all tensors of a Llama.
    ///
    /// # Errors
    /// [`ErrorKind::MissingTensor`](crate::ErrorKind::MissingTensor), and those of the reader.
    pub(crate) fn load(config: &Config, from: &mut impl TensorReader) -> Result<Self> {
        let tok_embeddings = Field::load(TensorId::of_model(&TOK_EMBEDDINGS), config, from)?;
        let layers: Result<_> = (0..config.n_layers).map(|l| LayerWeights::load(l, config, from)).collect();
        Ok(Self {
            tok_embeddings,
            layers: layers?,
            norm: Field::load(TensorId::of_model(&NORM), config, from)?,
            output: Field::load(TensorId::of_model(&OUTPUT), config, from)?,
        })
    }

    /// What the logits are computed with: the classifier, or the embeddings it is tied to.
    pub(crate) fn classifier(&self) -> &Tensor {
        self.output.as_ref().unwrap_or(&self.tok_embeddings)
    }

    /// All tensors, in the order of the forward pass.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (TensorId, Weight<'_>)> {
        let layers = self.layers.iter().enumerate().flat_map(|(l, layer)| layer.tensors(l));
        let of_model = |(kind, weight)| Some((TensorId::of_model(kind), weight?));
        let first = of_model((&TOK_EMBEDDINGS, self.tok_embeddings.weight()));
        let last = [(&NORM, self.norm.weight()), (&OUTPUT, self.output.weight())];
        first.into_iter().chain(layers).chain(last.into_iter().filter_map(of_model))
    }

    /// What tensors there are, in the order of the forward pass.
    pub(crate) fn infos(&self) -> Vec<TensorInfo> {
        self.tensors().map(|(id, weight)| weight.info(id.to_string())).collect()
    }

    /// Bytes of matrices that one token's forward pass reads.
    pub(crate) fn bytes_per_token(&self) -> usize {
        let layers = self.layers.iter().flat_map(|layer| layer.tensors(0));
        let bytes = |(_, weight)| if let Weight::Matrix(tensor) = weight { tensor.len_bytes() } else { 0 };
        layers.map(bytes).sum::<usize>() + self.classifier().len_bytes()
    }

    /// Copies all matrices into huge pages, one after another.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(crate) fn move_to_huge_pages(&mut self) -> Result<()> {
        let layers = self.layers.iter_mut().flat_map(LayerWeights::matrices_mut);
        let mut tensors = vec![&mut self.tok_embeddings];
        tensors.extend(layers.chain(&mut self.output));
        let parts: Vec<&[u8]> = tensors.iter().flat_map(|tensor| tensor.parts()).collect();
        let (storage, ranges) = Storage::in_huge_pages(&parts)?;
        let storage = Arc::new(storage);
        for (tensor, ranges) in tensors.iter_mut().zip(ranges.chunks_exact(2)) {
            tensor.move_to(&storage, [ranges[0].clone(), ranges[1].clone()]);
        }
        Ok(())
    }
}

impl Weight<'_> {
    pub(crate) fn info(self, name: String) -> TensorInfo {
        match self {
            Self::Matrix(tensor) => {
                let shape = vec![tensor.rows(), tensor.columns()];
                TensorInfo { name, shape, dtype: tensor.dtype(), bytes: tensor.len_bytes() }
            }
            Self::Vector(vector) => {
                let (shape, bytes) = (vec![vector.len()], size_of_val(vector));
                TensorInfo { name, shape, dtype: Dtype::F32, bytes }
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
