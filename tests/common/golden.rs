//! Golden logits: random models, and what Hugging Face's implementation computes with them.

use std::fs;
use std::path::{Path, PathBuf};

use super::{RandomModel, Shape, f32_tolerance};

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
        shape: Shape::new(36, 100).layers(3).heads(3, 3).vocab(333).context(32).tied(),
        seed: 1,
        norm_eps: 1e-5,
        rope_theta: 1e4,
        tokens: &[1, 332, 7, 0, 150, 7],
    },
    Golden {
        name: "untied_8_heads_1_kv_theta_1e6", // an eps so large that a wrong one shows
        shape: Shape::new(64, 172).layers(2).heads(8, 1).vocab(515).context(32),
        seed: 2,
        norm_eps: 1e-2,
        rope_theta: 1e6,
        tokens: &[1, 514, 300, 2, 300, 0],
    },
    Golden {
        name: "untied_16_heads_2_kv", // Llama 2 70B has this ratio
        shape: Shape::new(128, 344).layers(3).heads(16, 2).vocab(333).context(32),
        seed: 3,
        norm_eps: 1e-5,
        rope_theta: 1e4,
        tokens: &[1, 5, 332, 64, 0, 5],
    },
    Golden {
        name: "tied_4_heads_2_kv_12_tokens",
        shape: Shape::new(96, 172).layers(2).heads(4, 2).vocab(512).context(32).tied(),
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
    pub fn logits(&self) -> Vec<f64> {
        let logits = golden_f64(&format!("{}.f64", self.name));
        assert_eq!(logits.len(), self.tokens.len() * self.shape.vocab_size, "{}: length", self.name);
        logits
    }

    /// How far f32 logits may be from these: no sum has more than `hidden_dim` terms.
    pub fn f32_tolerance(&self) -> f64 {
        f32_tolerance(self.shape.n_layers, self.shape.hidden_dim)
    }
}

/// The path of a file in `tests/golden`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub fn golden_bytes(name: &str) -> Vec<u8> {
    let path = golden(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn golden_f64(name: &str) -> Vec<f64> {
    let bytes = golden_bytes(name);
    bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
}

/// Texts and their tokens by another library: a line has the text as JSON, a tab, and the tokens.
pub fn golden_tokens(name: &str) -> Vec<(String, Vec<u32>)> {
    let file = String::from_utf8(golden_bytes(name)).unwrap();
    let cases = file.lines().map(|line| {
        let (text, tokens) = line.split_once('\t').unwrap();
        (unescaped(text), tokens.split_whitespace().map(|id| id.parse().unwrap()).collect())
    });
    cases.collect()
}

/// A string of JSON, read here because `serde_json` is there for some features alone.
fn unescaped(json: &str) -> String {
    let mut text = Vec::new();
    let mut chars = json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap().chars();
    while let Some(c) = chars.next() {
        let c = match (c, if c == '\\' { chars.next() } else { None }) {
            (_, Some('u')) => {
                let unit = chars.by_ref().take(4).collect::<String>();
                text.push(u16::from_str_radix(&unit, 16).unwrap());
                continue;
            }
            (_, Some('n')) => '\n',
            (_, Some('t')) => '\t',
            (_, Some('r')) => '\r',
            (_, Some('b')) => '\u{8}',
            (_, Some('f')) => '\u{c}',
            (_, Some(c)) | (c, None) => c,
        };
        text.extend(c.encode_utf16(&mut [0; 2]).iter());
    }
    String::from_utf16(&text).unwrap()
}
