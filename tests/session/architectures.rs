//! The laws of sessions, for a model with what no Llama has: biases, normed queries and keys, and a
//! window of attention.

use babyllama::{CacheDtype, Model, ModelOptions, Session, SessionOptions};

use crate::common::gguf::Value;
use crate::common::{RandomModel, SplitMix64};
use crate::{LARGE, SHAPE, UNOPTIMIZED, tokens};

/// Not a multiple of the 64 positions whose keys lie together.
const WINDOW: usize = 75;

/// A Qwen 3 with biases and a window in its first and last layer.
fn file(large: bool) -> Vec<u8> {
    let shape = if large { LARGE } else { SHAPE };
    let mut file = RandomModel::new(shape, 11).to_gguf(1e-5, 1e4);
    for (key, _) in &mut file.keys {
        if let Some(rest) = key.strip_prefix(b"llama.") {
            *key = [b"qwen3.", rest].concat();
        }
    }
    file.set("general.architecture", Value::str("qwen3"));
    file.set("qwen3.attention.sliding_window", Value::U32(WINDOW as u32));
    let layers = (0..shape.n_layers).map(|l| Value::Bool(l != 1)).collect();
    file.set("qwen3.attention.sliding_window_pattern", Value::Array(7, layers));
    let mut rng = SplitMix64::new(3);
    let (dim, kv_dim, head_dim) = (shape.dim, shape.kv_dim(), shape.head_dim());
    for l in 0..shape.n_layers {
        for (name, width) in [("q", dim), ("k", kv_dim), ("v", kv_dim), ("output", dim)] {
            file.tensor(&format!("blk.{l}.attn_{name}.bias"), &[width as u64], &rng.tensor(width, 0.0, 0.5));
        }
        for name in ["q", "k"] {
            let norm = rng.tensor(head_dim, 1.0, 0.25);
            file.tensor(&format!("blk.{l}.attn_{name}_norm.weight"), &[head_dim as u64], &norm);
        }
    }
    file.to_bytes()
}

fn bits(session: &Session) -> Vec<u32> {
    let [logits, hidden] = [session.logits().unwrap(), session.hidden().unwrap()];
    logits.iter().chain(hidden).map(|x| x.to_bits()).collect()
}

/// Has a session read the tokens to their end, in one of many ways.
fn read(model: &Model, options: SessionOptions, text: &[u32], rng: &mut SplitMix64) -> Session {
    let mut session = model.session_with(options);
    while session.position() < text.len() {
        let rest = &text[session.position()..];
        let most = [1, 9, 80, 400][rng.below(4)];
        let n = 1 + rng.below(rest.len().min(most));
        match rng.below(7) {
            0 => {
                let guess = &rest[n..rest.len().min(n + 5)];
                session.forward_guessing(&rest[..n], guess).unwrap();
            }
            1 => {
                session.forward_guessing(&rest[..n], &[7, 7, 1]).unwrap();
            }
            2 => session = session.fork().unwrap(),
            3 => session.truncate(session.position() - rng.below(session.position().min(90) + 1)),
            4 => {
                let mut saved = Vec::new();
                session.save(&mut saved).unwrap();
                session = model.restore(&saved[..], options).unwrap();
            }
            5 => {
                let mut other = model.session_with(options);
                let other_tokens = tokens(1 + rng.below(100), 61);
                let feeds = [other.feed(&other_tokens), session.feed(&rest[..n])];
                model.forward_together(feeds).unwrap();
            }
            _ => {
                session.forward(&rest[..n]).unwrap();
            }
        }
    }
    session
}

#[test]
fn the_laws_hold_with_biases_norms_and_a_window() {
    let model = Model::from_bytes(file(false)).unwrap();
    assert_eq!(model.config().sliding_window, Some(WINDOW));
    let mut rng = SplitMix64::new(8);
    for &dtype in CacheDtype::ALL {
        let options = SessionOptions::new().context_length(700).cache_dtype(dtype);
        for _ in 0..if UNOPTIMIZED { 6 } else { 60 } {
            let text = tokens(1 + rng.below(500), 61);
            let mut fresh = model.session_with(options);
            fresh.forward(&text).unwrap();
            let session = read(&model, options, &text, &mut rng);
            assert_eq!(bits(&session), bits(&fresh), "{} tokens", text.len());
        }
    }
}

#[test]
fn threads_change_no_bit_of_it() {
    let file = file(true);
    let text = tokens(if UNOPTIMIZED { 90 } else { 300 }, 501);
    let run = |threads: usize| {
        let model = Model::from_bytes_with(file.clone(), &ModelOptions::new().threads(threads)).unwrap();
        let mut session = model.session();
        session.forward(&text[..text.len() - 3]).unwrap();
        for &token in &text[text.len() - 3..] {
            session.forward(&[token]).unwrap();
        }
        bits(&session)
    };
    let alone = run(1);
    assert!(run(2) == alone && run(3) == alone);
}
