//! What a session must be: computed by one that read the same tokens in a single call.

use std::collections::HashMap;

use babyllama::{CacheDtype, Model, Session, SessionOptions};

use crate::common::SplitMix64;

/// What a session that read exactly these tokens would have: computed once for each text.
pub(crate) struct Fresh {
    pub(crate) model: Model,
    pub(crate) options: SessionOptions,
    known: HashMap<Vec<u32>, Vec<u32>>,
}

impl Fresh {
    pub(crate) fn new(model: &Model, dtype: CacheDtype) -> Self {
        Self::with_context(model, dtype, 400)
    }

    pub(crate) fn with_context(model: &Model, dtype: CacheDtype, positions: usize) -> Self {
        let options = SessionOptions::new().context_length(positions).cache_dtype(dtype);
        Self { model: model.clone(), options, known: HashMap::new() }
    }

    pub(crate) fn session(&self) -> Session {
        self.model.session_with(self.options)
    }

    /// A session that read a text.
    pub(crate) fn reader(&self, text: &[u32]) -> Session {
        let mut session = self.session();
        if !text.is_empty() {
            session.forward(text).unwrap();
        }
        session
    }

    /// The bits of logits and hidden state.
    pub(crate) fn bits(&mut self, tokens: &[u32]) -> &[u32] {
        let (model, options) = (&self.model, self.options);
        self.known.entry(tokens.to_vec()).or_insert_with(|| {
            let mut session = model.session_with(options);
            session.forward(tokens).unwrap();
            bits(&session)
        })
    }

    /// Asserts that a session has read this text, and has its results or none.
    #[track_caller]
    pub(crate) fn check(&mut self, session: &Session, text: &[u32], what: &str) {
        assert_eq!((session.tokens(), session.position()), (text, text.len()), "{what}");
        if session.logits().is_some() {
            assert_eq!(bits(session), self.bits(text), "{what} of {text:?}");
        }
    }

    /// As [`check`](Self::check), and of what it will compute: a fork reads on.
    #[track_caller]
    pub(crate) fn check_all(&mut self, session: &Session, text: &[u32], what: &str) {
        self.check(session, text, what);
        if text.len() < session.capacity() {
            let mut fork = session.fork().unwrap();
            fork.forward(&[1]).unwrap();
            self.check(&fork, &[text, &[1]].concat(), what);
        }
    }
}

/// The bits of a session's logits and hidden state.
pub(crate) fn bits(session: &Session) -> Vec<u32> {
    let [logits, hidden] = [session.logits().unwrap(), session.hidden().unwrap()];
    logits.iter().chain(hidden).map(|x| x.to_bits()).collect()
}

/// All that can be observed of a session: tokens, pending token, results and what it saves.
#[derive(Debug, PartialEq)]
pub(crate) struct Observed {
    tokens: Vec<u32>,
    pending: Option<u32>,
    results: Option<Vec<u32>>,
    saved: Vec<u8>,
}

pub(crate) fn observe(session: &Session) -> Observed {
    Observed {
        tokens: session.tokens().to_vec(),
        pending: session.pending(),
        results: session.logits().map(|_| bits(session)),
        saved: saved(session),
    }
}

pub(crate) fn saved(session: &Session) -> Vec<u8> {
    let mut saved = Vec::new();
    session.save(&mut saved).unwrap();
    saved
}

/// Few texts, so that many are met again: three tokens, in runs.
pub(crate) fn some_tokens(rng: &mut SplitMix64, max: usize) -> Vec<u32> {
    let n = 1 + rng.below(max);
    let start = rng.below(3) as u32;
    (0..n as u32).map(|i| (start + i / 40) % 3).collect()
}
