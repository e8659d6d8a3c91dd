//! What a session refuses, how long it may become and what it takes.

use babyllama::{CacheDtype, Error, ErrorKind, Model, ModelOptions, Session, SessionOptions};

use crate::common::{assert_same_bits, refuses};
use crate::{SHAPE, open_small, tokens};

/// Fails unless these tokens are refused with this kind of error, and nothing has changed.
macro_rules! assert_refused {
    ($session:expr, $tokens:expr, $kind:pat $(if $guard:expr)?) => {{
        let before = ($session.tokens().to_vec(), $session.logits().map(<[f32]>::to_vec));
        refuses!($session.forward($tokens), $kind $(if $guard)?);
        refuses!($session.forward_all($tokens), $kind $(if $guard)?);
        assert_eq!(($session.tokens().to_vec(), $session.logits().map(<[f32]>::to_vec)), before);
    }};
}

#[test]
fn law_08_an_error_leaves_the_session_as_it_was() {
    use ErrorKind::{ContextFull, TokenOutOfRange};

    let model = open_small();
    let mut session = model.session_with(SessionOptions::new().context_length(10));
    assert_eq!((session.capacity(), session.position()), (10, 0));
    let vocab = SHAPE.vocab_size as u32;
    for fed in [&[][..], &[4, 5, 6], &[7; 7]] {
        if !fed.is_empty() {
            session.forward(fed).unwrap();
        }
        let left = 10 - session.position();
        assert_refused!(session, &[], ErrorKind::EmptyInput);
        for bad in [vocab, u32::MAX] {
            for tokens in [&[bad][..], &[1, bad]].into_iter().filter(|tokens| tokens.len() <= left) {
                assert_refused!(session, tokens, TokenOutOfRange { token, vocab_size: 61 } if *token == bad);
            }
        }
        for more in [1, 2, 1000] {
            let (tokens, n) = (vec![1; left + more], 10 + more);
            assert_refused!(session, &tokens, ContextFull { capacity: 10, requested } if *requested == n);
        }
    }
    // The context is full to the last position, and those errors have left no trace.
    assert_eq!(session.position(), 10);
    let mut fresh = model.session();
    let expected = fresh.forward(&[4, 5, 6, 7, 7, 7, 7, 7, 7, 7]).unwrap();
    assert_same_bits(session.logits().unwrap(), expected, "after errors");
    session.truncate(9);
    assert_same_bits(session.forward(&[7]).unwrap(), expected, "after making room");
}

#[test]
fn messages_name_both_values() {
    let model = open_small();
    let mut session = model.session_with(SessionOptions::new().context_length(3));
    let mut message = |tokens: &[u32]| session.forward(tokens).map(<[f32]>::len).unwrap_err().to_string();
    assert_eq!(message(&[0; 5]), "the context holds 3 tokens, and this would make 5");
    assert_eq!(message(&[61]), "token 61 is not below the vocabulary's size, 61");
    assert_eq!(message(&[]), "no token to feed");
}

#[test]
fn context_length_may_be_less_or_more_than_the_model_was_made_for() {
    let model = open_small();
    assert_eq!(model.session().capacity(), 700);
    let tokens = tokens(900, SHAPE.vocab_size);
    let mut long = model.session_with(SessionOptions::new().context_length(900));
    let all = long.forward_all(&tokens).unwrap().to_vec();
    assert_eq!(long.position(), 900);
    assert!(long.forward(&[1]).is_err());

    let mut short = model.session_with(SessionOptions::new().context_length(1));
    assert_same_bits(short.forward(&tokens[..1]).unwrap(), &all[..SHAPE.vocab_size], "one position");
    let mut none = model.session_with(SessionOptions::new().context_length(0));
    assert_refused!(none, &[1], ErrorKind::ContextFull { capacity: 0, requested: 1 });

    // Only what is used takes memory.
    let mut endless = model.session_with(SessionOptions::new().context_length(usize::MAX));
    assert_same_bits(endless.forward(&tokens).unwrap(), &all[899 * SHAPE.vocab_size..], "endless");
}

#[test]
fn a_session_says_how_much_memory_it_will_take_whatever_its_length() {
    let model = open_small();
    let memory = |n: usize, dtype| {
        SessionOptions::new().context_length(n).cache_dtype(dtype).memory_bytes(model.config())
    };
    // Heads of 4, of which Q8_0 makes 32 int8 and a scale.
    for (dtype, bytes) in [(CacheDtype::F32, 4 * 8), (CacheDtype::F16, 2 * 8), (CacheDtype::Q8_0, 2 * 34)] {
        let (more, less) = (memory(64 * 30, dtype), memory(64 * 20, dtype));
        assert_eq!(
            more - less,
            640 * (2 * 2 * bytes + 2 * 8 * 4),
            "{dtype:?}: keys and values, 2 layers of 8, and scores for two tasks of eight queries"
        );
        assert!(memory(65, dtype) - memory(64, dtype) > 64 * 32, "blocks of 64");
        assert!(memory(usize::MAX, dtype) > 1 << 60, "no overflow");
    }
    let default = SessionOptions::new().memory_bytes(model.config());
    assert_eq!(default, memory(model.config().max_seq_len, CacheDtype::F32), "the model's context");
}

#[test]
fn debug_prints_what_they_are_and_not_the_weights_or_the_cache() {
    let model = open_small();
    let mut session = model.session();
    session.forward(&[1; 100]).unwrap();
    let mut sampler = babyllama::Sampler::new(babyllama::SamplerOptions::default());
    sampler.sample(session.logits().unwrap()).unwrap();
    for text in [format!("{model:?}"), format!("{session:?}"), format!("{sampler:?}")] {
        assert!(text.len() < 1000, "{text}");
    }
    assert!(format!("{session:?}").contains("position: 100"));
}

#[test]
fn types_cross_threads_as_promised() {
    fn send_sync_clone<T: Send + Sync + Clone + 'static>() {}
    fn send<T: Send + 'static>() {}
    fn error<T: std::error::Error + Send + Sync + 'static>() {}
    send_sync_clone::<Model>();
    send_sync_clone::<babyllama::Tokenizer>();
    send_sync_clone::<ModelOptions>();
    send::<Session>();
    send::<babyllama::Sampler>();
    send::<babyllama::Piece>();
    error::<Error>();
}
