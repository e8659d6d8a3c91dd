//! GGUF files for tests, well-formed or not: a writer that shares nothing with the reader.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::{Layer, RandomModel, Shape};

/// A value, or anything else that is to stand where one is expected.
#[derive(Clone, Debug)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Str(Vec<u8>),
    /// The elements' type, and the elements.
    Array(u32, Vec<Value>),
    U64(u64),
    I64(i64),
    F64(f64),
    /// A type, and whatever bytes.
    Raw(u32, Vec<u8>),
}

impl Value {
    pub fn str(text: &str) -> Self {
        Self::Str(text.as_bytes().to_vec())
    }

    pub fn strings(texts: &[&str]) -> Self {
        Self::Array(8, texts.iter().map(|text| Self::str(text)).collect())
    }

    pub fn type_number(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Str(_) => 8,
            Self::Array(..) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
            Self::Raw(number, _) => *number,
        }
    }

    fn put(&self, out: &mut Vec<u8>, version: u32) {
        match self {
            Self::U8(x) => out.push(*x),
            Self::I8(x) => out.extend(x.to_le_bytes()),
            Self::U16(x) => out.extend(x.to_le_bytes()),
            Self::I16(x) => out.extend(x.to_le_bytes()),
            Self::U32(x) => out.extend(x.to_le_bytes()),
            Self::I32(x) => out.extend(x.to_le_bytes()),
            Self::F32(x) => out.extend(x.to_le_bytes()),
            Self::Bool(x) => out.push(u8::from(*x)),
            Self::Str(x) => put_string(out, x, version),
            Self::Array(element, items) => {
                out.extend(element.to_le_bytes());
                put_count(out, items.len() as u64, version);
                for item in items {
                    item.put(out, version);
                }
            }
            Self::U64(x) => out.extend(x.to_le_bytes()),
            Self::I64(x) => out.extend(x.to_le_bytes()),
            Self::F64(x) => out.extend(x.to_le_bytes()),
            Self::Raw(_, bytes) => out.extend(bytes),
        }
    }
}

/// A tensor: what the file says of it, and its bytes.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub name: Vec<u8>,
    /// Innermost first.
    pub dims: Vec<u64>,
    pub kind: u32,
    /// What stands in the file instead of the right offset.
    pub offset: Option<u64>,
    /// Bytes that are left out of the file: it has a hole there.
    pub hole: u64,
    pub data: Vec<u8>,
}

/// A file in the making.
#[derive(Clone, Debug)]
pub struct Gguf {
    pub version: u32,
    pub keys: Vec<(Vec<u8>, Value)>,
    pub tensors: Vec<Tensor>,
    /// What offsets are padded to. The key that says so is set apart.
    pub alignment: u64,
}

impl Default for Gguf {
    fn default() -> Self {
        Self { version: 3, keys: Vec::new(), tensors: Vec::new(), alignment: 32 }
    }
}

pub const F32: u32 = 0;

impl Gguf {
    /// Sets a key, which stays where it is if it is already there.
    pub fn set(&mut self, key: &str, value: Value) -> &mut Self {
        match self.keys.iter_mut().find(|(name, _)| name == key.as_bytes()) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.into(), value)),
        }
        self
    }

    pub fn remove(&mut self, key: &str) -> &mut Self {
        self.keys.retain(|(name, _)| name != key.as_bytes());
        self
    }

    pub fn tensor(&mut self, name: &str, dims: &[u64], data: &[f32]) -> &mut Self {
        let data = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        let (name, dims) = (name.into(), dims.to_vec());
        self.tensors.push(Tensor { name, dims, kind: F32, offset: None, hole: 0, data });
        self
    }

    /// A tensor of zeros that takes no space on the disk.
    pub fn hole(&mut self, name: &str, dims: &[u64], kind: u32, bytes: u64) -> &mut Self {
        let (name, dims) = (name.into(), dims.to_vec());
        self.tensors.push(Tensor { name, dims, kind, offset: None, hole: bytes, data: Vec::new() });
        self
    }

    pub fn find(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name.as_bytes()).unwrap()
    }

    /// Everything before the tensors' bytes and their padding; and where each tensor lies after it.
    pub fn header(&self) -> (Vec<u8>, Vec<u64>) {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        put_count(&mut out, self.tensors.len() as u64, self.version);
        put_count(&mut out, self.keys.len() as u64, self.version);
        for (key, value) in &self.keys {
            put_string(&mut out, key, self.version);
            out.extend(value.type_number().to_le_bytes());
            value.put(&mut out, self.version);
        }
        let mut at = 0;
        let mut offsets = Vec::new();
        for tensor in &self.tensors {
            put_string(&mut out, &tensor.name, self.version);
            out.extend(u32::try_from(tensor.dims.len()).unwrap().to_le_bytes());
            for &dim in &tensor.dims {
                put_count(&mut out, dim, self.version);
            }
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(at).to_le_bytes());
            offsets.push(at);
            at = (at + tensor.data.len() as u64 + tensor.hole).next_multiple_of(self.alignment);
        }
        (out, offsets)
    }

    /// The model in `count` parts.
    pub fn split(&self, count: u16) -> Vec<Self> {
        let n = self.tensors.len();
        let part = |(i, tensors): (usize, &[Tensor])| {
            let mut part = Self { tensors: tensors.to_vec(), ..Self::default() };
            if i == 0 {
                part.keys.clone_from(&self.keys);
            }
            part.set("split.no", Value::U16(i as u16)).set("split.count", Value::U16(count));
            part.set("split.tensors.count", Value::I32(n as i32));
            part
        };
        self.tensors.chunks(n.div_ceil(count.into())).enumerate().map(part).collect()
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let (mut out, _) = self.header();
        let alignment = self.alignment as usize;
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(alignment), 0);
            out.extend(&tensor.data);
        }
        out
    }

    /// Writes the file, with holes where tensors have them. Gives the lengths of file and header.
    pub fn write_sparse(&self, path: &Path) -> (u64, usize) {
        let (mut header, offsets) = self.header();
        header.resize(header.len().next_multiple_of(self.alignment as usize), 0);
        let last = self.tensors.last().unwrap();
        let len = header.len() as u64 + offsets.last().unwrap() + last.hole + last.data.len() as u64;
        let mut file = File::create(path).unwrap();
        file.write_all(&header).unwrap();
        file.set_len(len).unwrap();
        (len, header.len())
    }
}

fn put_count(out: &mut Vec<u8>, count: u64, version: u32) {
    if version == 1 {
        out.extend(u32::try_from(count).unwrap().to_le_bytes());
    } else {
        out.extend(count.to_le_bytes());
    }
}

fn put_string(out: &mut Vec<u8>, text: &[u8], version: u32) {
    put_count(out, text.len() as u64, version);
    out.extend(text);
}

impl Shape {
    /// The tensors of architecture `llama`, in a file's order, with their dimensions.
    fn gguf_tensors(self) -> Vec<(String, Vec<u64>)> {
        let sizes = [self.dim, self.kv_dim(), self.hidden_dim, self.vocab_size];
        let [dim, kv_dim, hidden, vocab] = sizes.map(|n| n as u64);
        let layer: [(&str, &[u64]); 9] = [
            ("attn_norm", &[dim]),
            ("attn_q", &[dim, dim]),
            ("attn_k", &[dim, kv_dim]),
            ("attn_v", &[dim, kv_dim]),
            ("attn_output", &[dim, dim]),
            ("ffn_norm", &[dim]),
            ("ffn_gate", &[dim, hidden]),
            ("ffn_down", &[hidden, dim]),
            ("ffn_up", &[dim, hidden]),
        ];
        let mut tensors = vec![("token_embd.weight".into(), vec![dim, vocab])];
        for l in 0..self.n_layers {
            tensors.extend(layer.map(|(name, dims)| (format!("blk.{l}.{name}.weight"), dims.to_vec())));
        }
        tensors.push(("output_norm.weight".into(), vec![dim]));
        tensors.extend((!self.tied).then(|| ("output.weight".into(), vec![dim, vocab])));
        tensors
    }

    /// A file with the keys that every Llama has, and no tensors.
    fn gguf_keys(self, norm_eps: f32, rope_theta: f32) -> Gguf {
        let mut file = Gguf::default();
        file.set("general.architecture", Value::str("llama"));
        for (key, n) in [
            ("llama.context_length", self.max_seq_len),
            ("llama.embedding_length", self.dim),
            ("llama.block_count", self.n_layers),
            ("llama.feed_forward_length", self.hidden_dim),
            ("llama.attention.head_count", self.n_heads),
            ("llama.attention.head_count_kv", self.n_kv_heads),
        ] {
            file.set(key, Value::U32(n as u32));
        }
        file.set("llama.attention.layer_norm_rms_epsilon", Value::F32(norm_eps))
            .set("llama.rope.freq_base", Value::F32(rope_theta));
        file
    }

    /// A GGUF file with holes for weights. Its matrices have blocks of `weights` and `bytes`.
    pub fn to_sparse_gguf(self, (kind, weights, bytes): (u32, u64, u64)) -> Gguf {
        let mut file = self.gguf_keys(1e-5, 1e4);
        for (name, dims) in self.gguf_tensors() {
            let n: u64 = dims.iter().product();
            match dims.len() {
                1 => file.hole(&name, &dims, F32, 4 * n),
                _ => file.hole(&name, &dims, kind, n / weights * bytes),
            };
        }
        file
    }
}

impl RandomModel {
    /// The model as a GGUF file of f32. Its rows of wq and wk are in the order that architecture
    /// `llama` has.
    pub fn to_gguf(&self, norm_eps: f32, rope_theta: f32) -> Gguf {
        let mut data = vec![&self.tok_embeddings];
        for Layer { attention_norm, wq, wk, wv, wo, ffn_norm, w1, w2, w3 } in &self.layers {
            data.extend([attention_norm, wq, wk, wv, wo, ffn_norm, w1, w2, w3]);
        }
        data.push(&self.norm);
        data.extend(&self.output);
        let mut file = self.shape.gguf_keys(norm_eps, rope_theta);
        for ((name, dims), data) in self.shape.gguf_tensors().into_iter().zip(data) {
            file.tensor(&name, &dims, data);
        }
        file
    }
}
