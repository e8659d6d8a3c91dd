//! Golden logits: random models, and what Hugging Face's implementation computes with them.

use std::fs;

use super::{RandomModel, Shape};

/// A random model, and the logits that Hugging Face's `LlamaForCausalLM` computes for some tokens.
#[derive(Clone, Copy, Debug)]
pub struct Golden {
    pub name: &'static str,
    pub shape: Shape,
    pub seed: u64,
    pub norm_eps: f64,
    pub rope_theta: f64,
    pub tokens: &'static [u32],
}

/// `CASES` in `tests/golden/hugging_face.py` must be equal to this table.
pub const GOLDEN: [Golden; 4] = [
    Golden {
        name: "tied_3_heads", // nothing is a multiple of 8
        shape: Shape {
            dim: 36,
            hidden_dim: 100,
            n_layers: 3,
            n_heads: 3,
            n_kv_heads: 3,
            vocab_size: 333,
            max_seq_len: 32,
            tied: true,
        },
        seed: 1,
        norm_eps: 1e-5,
        rope_theta: 1e4,
        tokens: &[1, 332, 7, 0, 150, 7],
    },
    Golden {
        name: "untied_8_heads_1_kv_theta_1e6", // an eps so large that a wrong one shows
        shape: Shape {
            dim: 64,
            hidden_dim: 172,
            n_layers: 2,
            n_heads: 8,
            n_kv_heads: 1,
            vocab_size: 515,
            max_seq_len: 32,
            tied: false,
        },
        seed: 2,
        norm_eps: 1e-2,
        rope_theta: 1e6,
        tokens: &[1, 514, 300, 2, 300, 0],
    },
    Golden {
        name: "untied_16_heads_2_kv", // Llama 2 70B has this ratio
        shape: Shape {
            dim: 128,
            hidden_dim: 344,
            n_layers: 3,
            n_heads: 16,
            n_kv_heads: 2,
            vocab_size: 333,
            max_seq_len: 32,
            tied: false,
        },
        seed: 3,
        norm_eps: 1e-5,
        rope_theta: 1e4,
        tokens: &[1, 5, 332, 64, 0, 5],
    },
    Golden {
        name: "tied_4_heads_2_kv_12_tokens",
        shape: Shape {
            dim: 96,
            hidden_dim: 172,
            n_layers: 2,
            n_heads: 4,
            n_kv_heads: 2,
            vocab_size: 512,
            max_seq_len: 32,
            tied: true,
        },
        seed: 4,
        norm_eps: 1e-5,
        rope_theta: 1e4,
        tokens: &[1, 400, 17, 17, 511, 256, 0, 3, 99, 400, 2, 128],
    },
];

impl Golden {
    pub fn model(&self) -> RandomModel {
        RandomModel::new(self.shape, self.seed)
    }

    /// The file's logits: `(n_tokens, vocab_size)`.
    pub fn logits(&self) -> Vec<Vec<f64>> {
        let path = format!("{}/tests/golden/{}.f64", env!("CARGO_MANIFEST_DIR"), self.name);
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(bytes.len(), self.tokens.len() * self.shape.vocab_size * 8, "{path}: length");
        let row =
            |row: &[u8]| row.chunks_exact(8).map(|x| f64::from_le_bytes(x.try_into().unwrap())).collect();
        bytes.chunks_exact(self.shape.vocab_size * 8).map(row).collect()
    }
}
