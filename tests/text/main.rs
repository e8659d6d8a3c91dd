//! Text: tokenizers, generation, conversations and whole stories.

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod constrained;
mod context;
mod conversation;
mod drafts;
mod generate;
#[cfg(feature = "grammar")]
mod grammar;
mod in_parts;
mod logprobs;
#[cfg(feature = "grammar")]
mod numbers;
#[cfg(feature = "grammar")]
mod schema;
mod sentencepiece;
mod smollm2;
mod stop_strings;
mod stories;

use babyllama::{FinishReason, Generate, Model, TokenId, Tokenizer};

use common::{RandomModel, one_thread, scripted_model, tokenizer_bin};

// The script: each token is followed by one other, so a text is a walk through the pieces.
const BOS: TokenId = 1;
const EOS: TokenId = 2;
const ONCE: TokenId = 3;
const COMMA: TokenId = 6;
const DOT: TokenId = 8;
const E_FIRST: TokenId = 9;
const CUT: TokenId = 11;
const LOOP: TokenId = 12;
const TO_BOS: TokenId = 14;
const LONG: TokenId = 15;

/// After `<unk>`, BOS and EOS, from token 3 on.
const PIECES: [&[u8]; 13] = [
    b" once",                                                  // 3
    b" upon",                                                  // 4
    b" a time",                                                // 5
    b",",                                                      // 6
    b" the end",                                               // 7
    b".",                                                      // 8
    b"\xC3",     // 9: the first byte of an e with an acute accent
    b"\xA9",     // 10: the second
    b"\xF0\x9F", // 11: the beginning of an emoji, and nothing follows
    b" ha",      // 12
    b" ho",      // 13
    b" again",   // 14
    b" and a very very long piece that is more than 38 bytes", // 15
];
const NEXT: [TokenId; 16] = [4, ONCE, 2, 4, 5, COMMA, 7, DOT, EOS, 10, DOT, EOS, 13, LOOP, BOS, CUT];
const STORY: &str = "once upon a time, the end.";

fn script() -> RandomModel {
    scripted_model(&NEXT, 64)
}

fn open_with(model: &RandomModel, pieces: &[&[u8]]) -> Model {
    let tokenizer = Tokenizer::from_llama2c(&tokenizer_bin(pieces)).unwrap();
    let options = one_thread().tokenizer(tokenizer);
    Model::from_bytes_with(model.to_v1(), &options).unwrap()
}

fn open_script() -> Model {
    open_with(&script(), &PIECES)
}

/// A model that says anything, in halves of characters too.
fn rambler() -> Model {
    open_with(&RandomModel::new(script().shape.layers(2).tied(), 9), &PIECES)
}

/// Runs to the end: the pieces' texts, the reason, and the number of tokens.
#[track_caller]
fn finish(mut generate: Generate<'_>) -> (Vec<String>, FinishReason, usize) {
    let texts = generate.by_ref().map(|piece| piece.unwrap().to_string()).collect();
    assert!(generate.next().is_none(), "it stays ended");
    (texts, generate.finish_reason().expect("a reason"), generate.n_generated())
}
