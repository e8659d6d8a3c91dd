//! Files are untrusted: what is read from them, and that no file, however it is damaged, does worse
//! than give an error.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/counting.rs"]
mod counting;

mod gguf_damaged;
mod gguf_long_rope;
mod gguf_models;
mod gguf_refused;
mod gguf_shapes;
mod gguf_tokenizers;
mod llama2c_damaged;
mod llama2c_refused;

use common::gguf::{Gguf, Value};
use common::{RandomModel, Shape};
use counting::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SHAPE: Shape = Shape::new(8, 12).layers(2).heads(2, 1).vocab(20).context(16);

fn small() -> Gguf {
    RandomModel::new(SHAPE, 51).to_gguf(1e-5, 1e4)
}

fn with(change: impl FnOnce(&mut Gguf)) -> Gguf {
    let mut file = small();
    change(&mut file);
    file
}

fn with_key(key: &str, value: Value) -> Gguf {
    with(|file| {
        file.set(key, value);
    })
}

/// A small file with everything in it that is read.
fn rich() -> Gguf {
    let mut file = small();
    file.set("general.alignment", Value::U32(32))
        .set("llama.rope.dimension_count", Value::U32(4))
        .set("llama.rope.scaling.type", Value::str("yarn"))
        .set("llama.rope.scaling.factor", Value::F32(2.0))
        .set("tokenizer.ggml.model", Value::str("llama"))
        .set("tokenizer.ggml.tokens", Value::strings(&["<unk>", "<s>", "</s>", "a", "\u{2581}", "ab", "b"]))
        .set("tokenizer.ggml.scores", Value::Array(6, (0..7).map(|i| Value::F32(-(i as f32))).collect()))
        .set("tokenizer.ggml.token_type", Value::Array(5, [2, 3, 3, 1, 1, 1, 1].map(Value::I32).to_vec()))
        .set("tokenizer.ggml.bos_token_id", Value::U32(1))
        .set("tokenizer.ggml.eos_token_id", Value::U32(2))
        .set("tokenizer.ggml.add_bos_token", Value::Bool(true))
        .set("tokenizer.chat_template", Value::str("{{ x }}"))
        .set("nested", Value::Array(9, vec![Value::Array(3, vec![Value::I16(5); 3]); 2]));
    file.tensor("rope_freqs.weight", &[2], &[1.0, 2.0]);
    file
}

/// What a small file may take beyond its own size while it is opened.
const OPEN: usize = 64 << 10;

/// A model in each format of llama2.c.
fn llama2c_files() -> [(&'static str, Vec<u8>); 3] {
    let model = RandomModel::new(SHAPE, 31);
    [("v0", model.to_v0()), ("v1", model.to_v1()), ("v2", model.to_v2(4))]
}

fn llama2c_file(version: &str) -> Vec<u8> {
    llama2c_files().into_iter().find(|(name, _)| *name == version).unwrap().1
}
