//! The tokenizer against SentencePiece 0.2.3, which made the tokens in
//! `tests/golden/bundled.tokens` and `llama2_32000.tokens`.
//!
//! SentencePiece's `remove_extra_whitespaces` was off: a `tokenizer.bin` doesn't say whether it was
//! on in training, and llama2.c treats it as off.

use babyllama::{Model, PieceKind, Tokenizer};

use crate::common::gguf::{Gguf, Value};
use crate::common::{BUNDLED, TempFile, golden_tokens, greedy, shared};

#[track_caller]
fn assert_agrees(tokenizer: &Tokenizer, golden: &str) {
    for (text, ids) in golden_tokens(golden) {
        assert_eq!(tokenizer.encode(&text), ids, "encoding {text:?}");
        assert_eq!(tokenizer.decode(&ids), text.replace('\u{2581}', " "), "decoding {text:?}");

        let prompt = tokenizer.encode_prompt(&text);
        assert_eq!(prompt.split_first(), Some((&1, &*ids)));
        assert_eq!(tokenizer.decode(&prompt), text.replace('\u{2581}', " "), "decoding {text:?} after BOS");
    }
}

#[test]
fn bundled_vocabulary_encodes_as_sentencepiece_does() {
    let tokenizer = Tokenizer::open(BUNDLED).unwrap();
    assert_eq!(tokenizer.vocab_size(), 1024);
    assert_agrees(&tokenizer, "bundled.tokens");
}

#[test]
fn llama_2_vocabulary_encodes_as_sentencepiece_does() {
    let Some(shared) = shared("llama_2_vocabulary_encodes_as_sentencepiece_does") else { return };
    let bytes = std::fs::read(shared.join("real/llama2-tokenizer.bin")).unwrap();
    let tokenizer = Tokenizer::from_llama2c(&bytes).unwrap();
    assert_eq!(tokenizer.vocab_size(), 32_000);
    assert_agrees(&tokenizer, "llama2_32000.tokens");
}

// GGUF files, whose tokens are llama.cpp's.

/// The pieces of [`spm`], with their types.
const PIECES: [(&str, u8); 12] = [
    ("<unk>", 2),
    ("<s>", 3),
    ("</s>", 3),
    ("\u{2581}", 1),
    ("a", 1),
    ("b", 1),
    ("\u{2581}a", 1),
    ("ab", 1),
    ("<0x0A>", 6),
    ("<|user|>", 3),
    ("<x>", 4),
    ("<|fim_pad|>", 1),
];

/// A vocabulary, with keys set or changed.
fn spm(keys: &[(&str, Value)]) -> Result<Tokenizer, String> {
    let mut file = Gguf::default();
    let types = PIECES.map(|(_, kind)| Value::I32(kind.into())).to_vec();
    let scores = (0..12).map(|i| Value::F32(-(i as f32))).collect();
    file.set("general.architecture", Value::str("llama"))
        .set("tokenizer.ggml.model", Value::str("llama"))
        .set("tokenizer.ggml.tokens", Value::strings(&PIECES.map(|(text, _)| text)))
        .set("tokenizer.ggml.scores", Value::Array(6, scores))
        .set("tokenizer.ggml.token_type", Value::Array(5, types));
    for (key, value) in keys {
        file.set(key, value.clone());
    }
    let file = TempFile::new("spm.gguf", &file.to_bytes());
    Tokenizer::from_gguf(&file).map_err(|error| error.to_string())
}

#[test]
fn numbers_of_pieces_may_have_any_type_and_be_too_many() {
    let scores = |element, score: fn(i8) -> Value, n: i8| {
        ("tokenizer.ggml.scores", Value::Array(element, (0..n).map(score).collect()))
    };
    let types = |element, kind: fn(u8) -> Value| {
        let kinds = PIECES.iter().map(|&(_, number)| kind(number)).chain([kind(1)]);
        ("tokenizer.ggml.token_type", Value::Array(element, kinds.collect()))
    };
    for key in [
        scores(6, |i| Value::F32(-f32::from(i)), 20),
        scores(12, |i| Value::F64(-f64::from(i)), 12),
        scores(5, |i| Value::I32(-i32::from(i)), 12),
        scores(1, |i| Value::I8(-i), 13),
        scores(0, |i| Value::U8(100 - i.cast_unsigned()), 12),
        scores(10, |i| Value::U64(100 - u64::from(i.cast_unsigned())), 12),
        types(0, Value::U8),
        types(10, |kind| Value::U64(kind.into())),
        types(5, |kind| Value::I32(kind.into())),
    ] {
        let tokenizer = spm(std::slice::from_ref(&key)).unwrap();
        assert_eq!(tokenizer.encode_prompt("ab a\n<x>"), [1, 6, 5, 6, 8, 10], "{key:?}");
        assert_eq!(tokenizer.kind(9), Some(PieceKind::Control), "{key:?}");
    }
    let short = spm(&[scores(6, |i| Value::F32(f32::from(i)), 11)]).unwrap_err();
    assert!(short.contains("11 scores for 12 pieces"), "{short}");
    // A type that doesn't exist is as text where text is encoded.
    let kinds = [2, 3, 3, 1, 7, -1, 0].into_iter().chain([1; 5]).map(Value::I32).collect();
    let odd = spm(&[("tokenizer.ggml.token_type", Value::Array(5, kinds))]).unwrap();
    assert_eq!(odd.encode("bab"), [3, 5, 7]);
}

#[test]
fn special_ids_are_those_of_llama_cpp() {
    let of = |keys: &[(&str, u32)]| {
        let names: Vec<_> = keys.iter().map(|(key, _)| format!("tokenizer.ggml.{key}_token_id")).collect();
        let keys: Vec<_> =
            names.iter().zip(keys).map(|(name, &(_, id))| (name.as_str(), Value::U32(id))).collect();
        let tokenizer = spm(&keys).unwrap();
        let ends: Vec<_> = (0..12).filter(|&id| tokenizer.is_end(id)).collect();
        (tokenizer.bos(), tokenizer.eos(), ends)
    };
    assert_eq!(of(&[]), (Some(1), Some(2), vec![2, 11]), "the usual ones, and by name");
    assert_eq!(of(&[("bos", 12), ("eos", u32::MAX)]), (Some(1), Some(2), vec![2, 11]), "beyond the pieces");
    assert_eq!(of(&[("bos", 4), ("eos", 5)]), (Some(4), Some(5), vec![2, 5, 11]));
    assert_eq!(of(&[("eot", 3), ("eom", 4)]), (Some(1), Some(2), vec![2, 3, 4, 11]));
    assert_eq!(of(&[("fim_pad", 5), ("fim_rep", 6), ("fim_sep", 7)]).2, [2, 5, 6, 7]);
    assert_eq!(of(&[("padding", 5), ("mask", 6), ("fim_pre", 7), ("seperator", 8)]).2, [2, 11]);
    let unknown = spm(&[("tokenizer.ggml.unknown_token_id", Value::U32(9))]).unwrap();
    assert_eq!(unknown.encode("a?"), [6, 9]);
}

#[test]
fn names_of_models_say_which_tokens_strip_spaces() {
    let text = "a <|user|> \n b <x> a<s> a";
    let plain = spm(&[]).unwrap();
    assert_eq!(plain.encode_with_control(text), [6, 3, 9, 3, 3, 8, 3, 5, 3, 10, 3, 6, 1, 3, 6]);
    let phi = spm(&[("general.name", Value::str("A Phi-3 mini"))]).unwrap();
    assert_eq!(phi.encode_with_control(text), [6, 3, 9, 3, 5, 3, 10, 6, 1, 3, 6]);
    assert_eq!(phi.encode("b <x> a"), [3, 5, 3, 10, 6]);
}

#[test]
fn a_prompt_after_text_goes_on_from_it() {
    let model = Model::open(BUNDLED).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let mut sampler = greedy();
    for (before, text, whole) in [
        (tokenizer.encode_prompt("Once upon a ti"), "me", "Once upon a time"),
        (tokenizer.encode_prompt("Once upon a"), " time", "Once upon a time"),
        (tokenizer.encode_prompt(""), "Once", "Once"),
    ] {
        let mut session = model.session();
        session.forward(&before).unwrap();
        let generated = session.generate(text, &mut sampler).unwrap().max_tokens(1);
        assert!(generated.map(Result::unwrap).count() > 0);
        let tokens = session.tokens();
        let read = (0..=tokens.len()).find(|&n| tokenizer.decode(&tokens[..n]) == whole);
        assert!(read.is_some(), "{:?}", tokenizer.decode(tokens));
    }
    // After the end of a text a new one begins.
    let mut session = model.session();
    session.forward(&[1, 429, 2]).unwrap();
    session.generate("Once", &mut sampler).unwrap().max_tokens(1).for_each(|piece| drop(piece.unwrap()));
    assert!(session.tokens()[3..].starts_with(&tokenizer.encode("Once")));
}
