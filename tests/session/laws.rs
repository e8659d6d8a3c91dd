//! The contract of sessions, as laws: whatever is done around the forward pass, a session that has
//! read some tokens has the bits of one that read them in a single call.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use babyllama::{CacheDtype, ErrorKind, Model, Pooling, Session, SessionOptions};

use crate::common::{RandomModel, SplitMix64, assert_same_bits, open};
use crate::{SHAPE, UNOPTIMIZED, open_small, tokens};

/// What a session that read exactly these tokens would have: computed once for each text.
struct Fresh {
    model: Model,
    options: SessionOptions,
    known: HashMap<Vec<u32>, Vec<u32>>,
}

impl Fresh {
    fn new(model: &Model, dtype: CacheDtype) -> Self {
        let options = SessionOptions::new().context_length(400).cache_dtype(dtype);
        Self { model: model.clone(), options, known: HashMap::new() }
    }

    /// The bits of logits and hidden state.
    fn bits(&mut self, tokens: &[u32]) -> &[u32] {
        self.known.entry(tokens.to_vec()).or_insert_with(|| {
            let mut session = self.model.session_with(self.options);
            session.forward(tokens).unwrap();
            bits(&session)
        })
    }

    /// Asserts that a session is what its tokens say.
    fn check(&mut self, session: &Session, what: &str) {
        if session.logits().is_some() {
            assert_eq!(bits(session), self.bits(session.tokens()), "{what} of {:?}", session.tokens());
        }
    }
}

fn bits(session: &Session) -> Vec<u32> {
    let [logits, hidden] = [session.logits().unwrap(), session.hidden().unwrap()];
    logits.iter().chain(hidden).map(|x| x.to_bits()).collect()
}

/// Few texts, so that many are met again: two tokens, in runs.
fn some_tokens(rng: &mut SplitMix64, max: usize) -> Vec<u32> {
    let n = 1 + rng.below(max);
    let start = rng.below(3) as u32;
    (0..n as u32).map(|i| (start + i / 40) % 3).collect()
}

/// One random operation on a tree of sessions.
fn operate(fresh: &mut Fresh, sessions: &mut Vec<Session>, rng: &mut SplitMix64) {
    let i = rng.below(sessions.len());
    let room = sessions[i].capacity() - sessions[i].position();
    let max = if rng.below(8) == 0 { 130 } else { 4 };
    let tokens = some_tokens(rng, max);
    let fits = tokens.len() <= room;
    match rng.below(12) {
        0 if sessions.len() < 12 => {
            let fork = sessions[i].fork().unwrap();
            sessions.push(fork);
        }
        1 if sessions.len() > 1 => drop(sessions.swap_remove(i)),
        2 => {
            let position = sessions[i].position();
            let to = rng.below(position + 1);
            sessions[i].truncate([to, to / 64 * 64, position][rng.below(3)]);
        }
        3 => {
            let mut wanted = sessions[i].tokens().to_vec();
            wanted.truncate(rng.below(wanted.len() + 1));
            wanted.extend(&tokens);
            if wanted.len() <= sessions[i].capacity() {
                let n = sessions[i].keep_prefix(&wanted);
                assert!(n < wanted.len() && sessions[i].tokens() == &wanted[..n]);
                sessions[i].forward(&wanted[n..]).unwrap();
            }
        }
        4 => {
            let mut saved = Vec::new();
            sessions[i].save(&mut saved).unwrap();
            let restored = fresh.model.restore(&saved[..], fresh.options).unwrap();
            assert_eq!((restored.tokens(), restored.logits()), (sessions[i].tokens(), sessions[i].logits()));
            sessions[i] = restored;
        }
        5 if fits => {
            let all = sessions[i].forward_all(&tokens).unwrap().to_vec();
            let vocab_size = fresh.model.config().vocab_size;
            let row = rng.below(tokens.len());
            let text = &sessions[i].tokens()[..sessions[i].position() - tokens.len() + row + 1].to_vec();
            let found: Vec<u32> = all[row * vocab_size..][..vocab_size].iter().map(|x| x.to_bits()).collect();
            assert_eq!(found, fresh.bits(text)[..vocab_size], "row {row}");
        }
        6 | 7 if fits => {
            let guess = some_tokens(rng, 20);
            sessions[i].forward_guessing(&tokens, &guess).unwrap();
        }
        8 if fits => {
            let mut feed = sessions[i].feed(&tokens);
            while feed.step().unwrap().is_some() && rng.below(3) > 0 {}
        }
        9 => together(fresh, sessions, rng),
        10 if fits => {
            let stop = Arc::new(AtomicBool::new(true));
            let before = sessions[i].tokens().to_vec();
            sessions[i].cancel_on(Arc::clone(&stop));
            match sessions[i].forward(&tokens) {
                Err(error) => assert!(matches!(error.kind(), ErrorKind::Cancelled), "{error}"),
                Ok(_) => assert!(sessions[i].tokens().len() > before.len(), "all of it was guessed"),
            }
            assert!(sessions[i].tokens().starts_with(&before));
            stop.store(false, Ordering::Relaxed);
        }
        _ if fits => drop(sessions[i].forward(&tokens).unwrap()),
        _ => assert!(sessions[i].forward(&tokens).is_err()),
    }
    for session in sessions {
        fresh.check(session, "a session");
    }
}

/// Feeds some of the sessions in one pass, with guesses.
fn together(fresh: &Fresh, sessions: &mut [Session], rng: &mut SplitMix64) {
    let wanted: Vec<_> = (sessions.iter())
        .map(|session| {
            let max = (session.capacity() - session.position()).min(if rng.below(6) == 0 { 300 } else { 3 });
            let tokens = if max > 0 && rng.below(4) > 0 { some_tokens(rng, max) } else { Vec::new() };
            (tokens, some_tokens(rng, 5))
        })
        .collect();
    let feeds = sessions.iter_mut().zip(&wanted).filter(|(_, (tokens, _))| !tokens.is_empty());
    let feeds = feeds.map(|(session, (tokens, guess))| session.feed(tokens).guessing(guess));
    fresh.model.forward_together(feeds).unwrap();
}

#[test]
fn ten_thousand_operations_on_a_tree_of_sessions_change_no_bit() {
    let files = [RandomModel::new(SHAPE, 11).to_v1(), RandomModel::new(SHAPE, 11).to_v2(8)];
    for (file, dtype) in files.into_iter().zip([CacheDtype::F32, CacheDtype::F16]) {
        let mut fresh = Fresh::new(&open(file), dtype);
        let mut rng = SplitMix64::new(5);
        let mut sessions = vec![fresh.model.session_with(fresh.options)];
        for _ in 0..if UNOPTIMIZED { 1_000 } else { 5_000 } {
            operate(&mut fresh, &mut sessions, &mut rng);
        }
    }
}

#[test]
fn forks_share_what_was_read_and_read_on_by_themselves() {
    let model = open_small();
    let mut fresh = Fresh::new(&model, CacheDtype::F32);
    for at in [1, 63, 64, 65, 128] {
        let mut session = model.session_with(fresh.options);
        session.forward(&tokens(at, 61)).unwrap();
        let used = session.memory_used();
        let mut forks: Vec<Session> = (0..8).map(|_| session.fork().unwrap()).collect();
        let mut of_fork = forks[0].fork().unwrap();
        for (i, fork) in forks.iter_mut().enumerate() {
            for token in 0..70 {
                fork.forward(&[(token * (i as u32 + 1)) % 61]).unwrap();
            }
            fresh.check(fork, "a fork");
            // What it doesn't share is a block of 64 and what it read itself, doubled at most.
            let position_bytes = 2 * 2 * model.config().kv_dim() * 4;
            let own = (fork.memory_used() - used.min(fork.memory_used())) / position_bytes;
            assert!(own <= 2 * (64 + 70) + 64, "{own} positions");
        }
        of_fork.truncate(at - 1);
        of_fork.forward(&[7, 8]).unwrap();
        fresh.check(&of_fork, "a fork of a fork");
        session.forward(&[9]).unwrap();
        fresh.check(&session, "the first");
    }
}

#[test]
fn guesses_that_come_true_cost_no_pass_and_others_change_nothing() {
    let model = open_small();
    let stop = Arc::new(AtomicBool::new(false));
    let mut session = model.session();
    session.cancel_on(Arc::clone(&stop));
    session.forward_guessing(&[1, 2], &[3, 4, 5]).unwrap();
    stop.store(true, Ordering::Relaxed);
    // A pass would fail now.
    session.forward(&[3]).unwrap();
    let all = session.forward_all(&[4, 5]).unwrap().to_vec();
    assert!(session.forward(&[6]).is_err());
    stop.store(false, Ordering::Relaxed);
    let mut plain = model.session();
    plain.forward(&[1, 2, 3]).unwrap();
    assert_same_bits(&all, plain.forward_all(&[4, 5]).unwrap(), "guessed");
    assert_eq!(session.tokens(), plain.tokens());

    // A guess beyond the context or the vocabulary is cut.
    let mut short = model.session_with(SessionOptions::new().context_length(4));
    short.forward_guessing(&[1, 2], &[3, 60, 61, 5, 6, 7]).unwrap();
    short.forward(&[3, 60]).unwrap();
    assert_same_bits(short.logits().unwrap(), model.session().forward(&[1, 2, 3, 60]).unwrap(), "cut");
}

#[test]
fn every_damaged_byte_of_a_saved_session_is_refused() {
    let model = open_small();
    let mut session = model.session();
    session.forward(&tokens(9, 61)).unwrap();
    let mut saved = Vec::new();
    session.save(&mut saved).unwrap();
    let restore = |bytes: &[u8]| model.restore(bytes, SessionOptions::new());
    restore(&saved).unwrap();
    let step = if UNOPTIMIZED { 37 } else { 1 };
    for at in (0..saved.len()).step_by(step) {
        let mut damaged = saved.clone();
        damaged[at] ^= 1 << (at % 8);
        let error = restore(&damaged).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::SavedSession { .. }), "byte {at}: {error}");
        let error = restore(&saved[..at]).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::SavedSession { .. }), "up to {at}: {error}");
    }
    // It reads no further than its end.
    let twice = [&saved[..], &saved[..]].concat();
    let mut rest = &twice[..];
    model.restore(&mut rest, SessionOptions::new()).unwrap();
    assert_eq!(rest.len(), saved.len());
}

#[test]
fn saved_sessions_of_other_models_and_options_are_refused_by_name() {
    let model = open_small();
    let mut session = model.session();
    session.forward(&[1, 2, 3]).unwrap();
    let mut saved = Vec::new();
    session.save(&mut saved).unwrap();
    let says = |model: &Model, options: SessionOptions, part: &str| {
        let error = model.restore(&saved[..], options).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    says(&open(RandomModel::new(SHAPE, 12).to_v1()), SessionOptions::new(), "another model");
    says(&open(RandomModel::new(SHAPE, 11).to_v2(8)), SessionOptions::new(), "another model");
    says(&model, SessionOptions::new().cache_dtype(CacheDtype::F16), "cache_dtype");
    says(&model, SessionOptions::new().context_length(2), "2");
    for other in [&b""[..], b"bbll", &[b'x'; 99]] {
        let error = model.restore(other, SessionOptions::new()).unwrap_err().to_string();
        assert!(error.contains("it isn't a saved session"), "{error}");
    }
}

#[test]
fn sessions_of_different_models_are_not_fed_together() {
    let [one, other] = [open_small(), open_small()];
    let (mut a, mut b) = (one.session(), other.session());
    let error = one.forward_together([a.feed(&[1]), b.feed(&[1])]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::DifferentModels), "{error}");
    assert_eq!((a.position(), b.position()), (0, 0));
}

#[test]
fn embeddings_are_the_pooled_hidden_states_for_any_cut() {
    let model = open_small();
    let dim = model.config().dim;
    for n in [1, 5, 129, 200] {
        let tokens = tokens(n, 61);
        let mut sum = vec![0.0; dim];
        let mut session = model.session();
        for &token in &tokens {
            session.forward(&[token]).unwrap();
            sum.iter_mut().zip(session.hidden().unwrap()).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let last: Vec<f64> = session.hidden().unwrap().iter().map(|&x| f64::from(x)).collect();
        for (pooling, pooled) in [(Pooling::Mean, sum), (Pooling::Last, last)] {
            let length = pooled.iter().map(|x| x * x).sum::<f64>().sqrt();
            let unit: Vec<f32> = pooled.iter().map(|x| (x / length) as f32).collect();
            let mut embedded = model.session();
            assert_same_bits(&embedded.embed(&tokens, pooling).unwrap(), &unit, &format!("{pooling} of {n}"));
            assert_same_bits(embedded.logits().unwrap(), session.logits().unwrap(), "the logits after it");
            assert_same_bits(embedded.hidden().unwrap(), session.hidden().unwrap(), "the hidden state");
        }
    }
}
