//! The tokenizers that GGUF files bring.

use babyllama::{ErrorKind, Model, PieceKind, Tokenizer};

use crate::common::gguf::Value;
use crate::common::{TempFile, one_thread, open, refuses, tokenizer_bin, try_open};
use crate::{rich, small};

#[test]
fn a_file_brings_its_tokenizer() {
    let model = open(&rich());
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!(tokenizer.vocab_size(), 7);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
    assert_eq!(tokenizer.kind(1), Some(PieceKind::Control));
    assert_eq!(tokenizer.score(5), Some(-5.0));
    assert_eq!(tokenizer.encode_prompt("ab"), [1, 4, 5]);
    assert!(open(&small()).tokenizer().is_none());

    let another = Tokenizer::from_llama2c(&tokenizer_bin(&[b" ", b"x"])).unwrap();
    let options = one_thread().tokenizer(another.clone());
    let model = Model::from_bytes_with(&rich(), &options).unwrap();
    assert_eq!(model.tokenizer().unwrap().vocab_size(), another.vocab_size());
}

#[test]
fn a_tokenizer_may_be_read_without_a_model() {
    let mut file = rich();
    file.tensors.clear();
    let path = TempFile::new("vocab.gguf", &file.to_bytes());
    assert_eq!(Tokenizer::from_gguf(&path).unwrap().encode("ab"), [4, 5]);
    refuses!(Model::open(&path), ErrorKind::UnknownFormat { .. }, "it is a tokenizer alone");
    for bytes in [small().to_bytes(), b"something else".to_vec()] {
        let path = TempFile::new("no.gguf", &bytes);
        let error = refuses!(Tokenizer::from_gguf(&path), ErrorKind::NoTokenizer);
        assert_eq!(error.path(), Some(path.path()));
    }
}

#[test]
fn a_bad_tokenizer_is_an_error_unless_another_is_given() {
    let tokens = |key: &str, value: Value| {
        let mut file = rich();
        file.set(&format!("tokenizer.ggml.{key}"), value);
        file
    };
    let floats = |n: usize| Value::Array(6, vec![Value::F32(0.0); n]);
    for file in [
        tokens("model", Value::str("bert")),
        tokens("model", Value::U8(1)),
        tokens("model", Value::str("gpt2")), // it has no merges
        tokens("scores", floats(6)),
        tokens("scores", Value::Array(6, vec![Value::F32(f32::NAN); 7])),
        tokens("scores", Value::strings(&["0"; 7])),
        tokens("token_type", Value::Array(5, vec![Value::I32(1); 6])),
        tokens("token_type", floats(7)),
        tokens("bos_token_id", Value::I32(-1)),
        tokens("add_bos_token", Value::U8(1)),
    ] {
        let error = refuses!(
            try_open(&file),
            ErrorKind::Tokenizer { .. } | ErrorKind::KeyType { .. } | ErrorKind::MissingKey { .. }
        );
        assert!(Model::from_bytes_with(&file, &one_thread().no_tokenizer()).is_ok(), "{error}");
    }
    let pieces = Value::Array(8, vec![Value::str("a"); 21]);
    let mut file = tokens("tokens", pieces);
    file.remove("tokenizer.ggml.scores").remove("tokenizer.ggml.token_type");
    refuses!(try_open(&file), ErrorKind::VocabMismatch { tokenizer: 21, model: 20 }, "21 pieces");
    file.set("tokenizer.ggml.tokens", Value::Array(8, vec![Value::Str(vec![0xFF, 0xFE]); 20]));
    assert!(try_open(&file).is_ok(), "a piece need not be UTF-8");
    file.set("tokenizer.ggml.bos_token_id", Value::U32(20)).remove("tokenizer.ggml.add_bos_token");
    assert_ne!(open(&file).tokenizer().unwrap().bos(), Some(20), "an id beyond the vocabulary");
    for name in ["none", "no_vocab"] {
        assert!(open(&tokens("model", Value::str(name))).tokenizer().is_none());
    }
}
