//! After any error, and after a cancel at any moment, a session is a fresh one at its position.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use babyllama::{CacheDtype, ErrorKind, Isa, Model, Pooling, Session, SessionOptions};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::common::{RandomModel, SplitMix64, assert_same_bits, open_on};
use crate::fresh::{Fresh, bits, observe, some_tokens};
use crate::{LARGE, SHAPE, UNOPTIMIZED, open_small, tokens};

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Nothing,
    UnknownToken,
    TooMany,
    NoToken,
    /// The flag is true before the pass.
    Cancelled,
    /// A companion has it.
    Companions,
    OtherModel,
}

const FAULTS: [Fault; 7] = [
    Fault::Nothing,
    Fault::UnknownToken,
    Fault::TooMany,
    Fault::NoToken,
    Fault::Cancelled,
    Fault::Companions,
    Fault::OtherModel,
];

/// Feeds a session in one of all ways.
fn feed(session: &mut Session, tokens: &[u32], way: usize) -> babyllama::Result<()> {
    let model = session.model().clone();
    match way {
        0 => drop(session.forward_guessing(tokens, &[1, 2])?),
        1 => drop(session.forward_all(tokens)?),
        2 => drop(session.score(tokens)?),
        3 => drop(session.embed(tokens, Pooling::Mean)?),
        4 => {
            let mut feed = session.feed(tokens);
            while feed.step()?.is_some() {}
        }
        _ => model.forward_together([session.feed(tokens)])?,
    }
    Ok(())
}

/// The last of `tokens` would be fed to `session`, and it fails.
fn fail(session: &mut Session, companion: &mut Session, tokens: &[u32], fault: Fault, way: usize) {
    let unknown = [tokens, &[SHAPE.vocab_size as u32]].concat();
    let model = session.model().clone();
    let error = match fault {
        Fault::Nothing => return,
        Fault::UnknownToken => feed(session, &unknown, way),
        Fault::TooMany => feed(session, &[1; 401], way),
        Fault::NoToken => session.forward(&[]).map(|_| ()),
        Fault::Cancelled => {
            let stop = Arc::new(AtomicBool::new(true));
            session.cancel_on(Arc::clone(&stop));
            let outcome = feed(session, tokens, way);
            stop.store(false, Ordering::Relaxed);
            if outcome.is_ok() {
                return; // what was guessed takes no pass
            }
            outcome
        }
        Fault::Companions => model.forward_together([session.feed(tokens), companion.feed(&unknown)]),
        Fault::OtherModel => {
            let mut other = open_small().session();
            model.forward_together([session.feed(tokens), other.feed(tokens)])
        }
    };
    let error = error.unwrap_err();
    let is_right = match error.kind() {
        ErrorKind::TokenOutOfRange { .. } => matches!(fault, Fault::UnknownToken | Fault::Companions),
        ErrorKind::ContextFull { .. } => matches!(fault, Fault::TooMany),
        ErrorKind::EmptyInput => matches!(fault, Fault::NoToken),
        ErrorKind::Cancelled => matches!(fault, Fault::Cancelled),
        ErrorKind::DifferentModels => matches!(fault, Fault::OtherModel),
        _ => false,
    };
    assert!(is_right, "{fault:?}: {error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if UNOPTIMIZED { 20 } else { 150 }))]

    #[test]
    fn law_08_after_any_error_a_session_is_a_fresh_one_at_its_position(
        dtype in select(CacheDtype::ALL),
        steps in vec((select(FAULTS.to_vec()), 0..6_usize, prop_oneof![4 => 1..5_usize, 1 => 60..130_usize]), 1..10),
        seed in any::<u64>(),
    ) {
        let mut fresh = Fresh::new(&open_small(), dtype);
        let mut rng = SplitMix64::new(seed);
        let mut companion = fresh.reader(&[3, 4]);
        let (mut session, mut text) = (fresh.session(), Vec::new());
        for (fault, way, n) in steps {
            let tokens = some_tokens(&mut rng, n.min(399 - text.len()));
            let before = observe(&session);
            fail(&mut session, &mut companion, &tokens, fault, way);
            if matches!(fault, Fault::Cancelled) {
                // Tokens that were guessed may have been fed; scoring may have taken one back.
                let fed = session.tokens().to_vec();
                let whole = [&text[..], &tokens].concat();
                prop_assert!(whole.starts_with(&fed) && fed.len() + 1 >= text.len());
                text = fed;
            } else {
                prop_assert_eq!(observe(&session), before);
            }
            fresh.check_all(&session, &text, "after an error");
            fresh.check_all(&companion, &[3, 4], "a companion");
            let tokens = &tokens[..tokens.len().min(399 - text.len())];
            if !tokens.is_empty() {
                feed(&mut session, tokens, way).unwrap();
                text.extend(tokens);
            }
            fresh.check_all(&session, &text, "going on");
            if text.len() > 390 {
                break;
            }
        }
    }
}

/// Reads a text whose reading another thread cancels again and again, at any moment of a pass.
fn read_with_interruptions(
    model: &Model,
    dtype: CacheDtype,
    text: &[u32],
    way: usize,
    pause: Duration,
) -> usize {
    let options = SessionOptions::new().cache_dtype(dtype);
    let (mut session, mut fresh) = (model.session_with(options), model.session_with(options));
    // The cache's last block is another session's too.
    session.forward(&text[..70]).unwrap();
    let other = session.fork().unwrap();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), AtomicBool::new(false));
    session.cancel_on(Arc::clone(&stop));
    let mut n_cancelled = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut pause = pause;
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(pause);
                stop.store(true, Ordering::Relaxed);
                pause *= 2; // so that it comes to an end
            }
        });
        while session.position() < text.len() {
            let at = session.position();
            match feed(&mut session, &text[at..], way) {
                Ok(()) => assert_eq!(session.position(), text.len()),
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::Cancelled), "{error}");
                    n_cancelled += 1;
                    let end = session.position();
                    assert!(end < text.len() && end + 1 >= at && session.tokens() == &text[..end]);
                    stop.store(false, Ordering::Relaxed);
                }
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_same_bits(session.logits().unwrap(), fresh.forward(text).unwrap(), "cancelled and fed again");
    stop.store(false, Ordering::Relaxed);
    for mut fork in [session.fork().unwrap(), other] {
        let (mut fresh, rest) = (model.session_with(options), [5, 6]);
        fresh.forward(fork.tokens()).unwrap();
        fork.forward(&rest).unwrap();
        fresh.forward(&rest).unwrap();
        assert_eq!(bits(&fork), bits(&fresh));
    }
    n_cancelled
}

#[test]
fn law_08_a_pass_may_be_cancelled_at_any_moment() {
    let text = tokens(150, LARGE.vocab_size);
    let mut n_cancelled = 0;
    let models = [1, 2].map(|threads| open_on(RandomModel::new(LARGE, 12).to_v1(), Isa::best(), threads));
    for way in 0..6 {
        let pause = Duration::from_micros(if UNOPTIMIZED { 20_000 } else { 100 + 200 * way as u64 });
        let dtype = CacheDtype::ALL[way / 2];
        n_cancelled += read_with_interruptions(&models[way % 2], dtype, &text, way, pause);
    }
    assert!(n_cancelled > 0, "some pass was cancelled");
}
