//! Model files' own templates: what they render, and what they can't do.

#[path = "../common/mod.rs"]
mod common;

mod conversation;
mod hostile;
mod rendered;

use babyllama::Tokenizer;
use babyllama::chat::Part;

use common::TempFile;
use common::gguf::{Gguf, Value};

const BOS: &str = "<s>";
const EOS: &str = "</s>";

/// A tokenizer of bytes, with these control tokens and user-defined pieces beside BOS and EOS.
fn tokenizer(controls: &[&str], user_defined: &[&str]) -> Tokenizer {
    let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut pieces = vec![("<unk>", 2), (BOS, 3), (EOS, 3)];
    pieces.extend(bytes.iter().map(|byte| (byte.as_str(), 6)));
    let is_new = |name: &&&str| ![BOS, EOS, "<unk>"].contains(*name);
    pieces.extend(controls.iter().filter(is_new).map(|name| (*name, 3)));
    pieces.extend(user_defined.iter().filter(is_new).map(|name| (*name, 4)));
    let texts: Vec<&str> = pieces.iter().map(|piece| piece.0).collect();
    let n = pieces.len();
    let mut file = Gguf::default();
    file.set("general.architecture", Value::str("llama"))
        .set("tokenizer.ggml.model", Value::str("llama"))
        .set("tokenizer.ggml.tokens", Value::strings(&texts))
        .set("tokenizer.ggml.scores", Value::Array(6, vec![Value::F32(0.0); n]))
        .set("tokenizer.ggml.token_type", Value::Array(5, pieces.iter().map(|p| Value::I32(p.1)).collect()))
        .set("tokenizer.ggml.bos_token_id", Value::U32(1))
        .set("tokenizer.ggml.eos_token_id", Value::U32(2))
        .set("tokenizer.ggml.add_bos_token", Value::Bool(false))
        .set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    Tokenizer::from_gguf(TempFile::new("vocab.gguf", &file.to_bytes())).unwrap()
}

/// A rendering as Jinja gives it.
fn text(parts: &[Part]) -> String {
    let say = |part: &Part| match part {
        Part::Begin | Part::Cut => String::new(),
        Part::Bos => BOS.into(),
        Part::Eos => EOS.into(),
        Part::Control(name) => name.to_string(),
        Part::Text(text) => text.clone(),
        _ => panic!("{part:?}"),
    };
    parts.iter().map(say).collect()
}
