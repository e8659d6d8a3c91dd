//! The contract of sessions, as laws: whatever is done around the forward pass, a session that has
//! read some tokens has the bits of one that read them in a single call. `cargo test law_` runs all
//! of them:
//!
//! | law | what it says | tests |
//! | --- | --- | --- |
//! | 1 | threads, busy pools and rayon tasks change no bit | `threads.rs`, `crowd.rs` |
//! | 2 | nor does the cut into calls | here |
//! | 3 | nor companions in a batch, in any order | here |
//! | 4 | nor guesses, of which nothing can be observed | here |
//! | 5 | forks are sessions that read everything themselves | `forks.rs` |
//! | 6 | truncated and fed again is fresh; `keep_prefix` keeps all that it can | here |
//! | 7 | restored is as saved; what is damaged or another's is refused | `saved.rs` |
//! | 8 | after an error or a cancel a session is a fresh one at its position | `errors.rs` |
//! | 9 | drafts change no token, piece, end or random number | `text/drafts.rs` |
//! | 10 | constrained tokens were allowed | `text/{constrained,grammar}.rs` |
//! | 11 | scores are the log-softmax | `scores.rs`, `text/logprobs.rs` |
//! | 12 | forks hold what they share once | `forks.rs` |
//! | 13 | ten thousand operations on a tree of sessions | `soak.rs` |

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use babyllama::{CacheDtype, ErrorKind, Feed, Isa, Model, Pooling, Session, SessionOptions};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::common::{SplitMix64, assert_same_bits, open_on, step_by_step};
use crate::fresh::{Fresh, bits, observe, some_tokens};
use crate::{SHAPE, UNOPTIMIZED, open_small, small_files, tokens};

const VOCAB: usize = SHAPE.vocab_size;

/// A number of tokens: mostly few, and sometimes more than a block of the cache or a batch.
fn a_few() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 1..6_usize, 2 => 60..70_usize, 1 => 120..280_usize]
}

fn dtypes() -> impl Strategy<Value = CacheDtype> {
    select(CacheDtype::ALL)
}

/// The ways to feed tokens.
#[derive(Clone, Copy, Debug)]
enum Way {
    Forward,
    All,
    Steps,
    StepsOfAll,
    Together,
    Score,
    Embed,
}

const WAYS: [Way; 7] =
    [Way::Forward, Way::All, Way::Steps, Way::StepsOfAll, Way::Together, Way::Score, Way::Embed];

/// The logits of all steps.
fn steps(mut feed: Feed<'_>) -> Vec<f32> {
    let mut rows = Vec::new();
    while let Some(logits) = feed.step().unwrap() {
        rows.extend_from_slice(logits);
    }
    rows
}

/// Feeds tokens; what logits this gave, of which the last row is the last token's.
fn feed(session: &mut Session, tokens: &[u32], guess: &[u32], way: Way) -> Vec<f32> {
    let model = session.model().clone();
    match way {
        Way::Forward => return session.forward_guessing(tokens, guess).unwrap().to_vec(),
        Way::All => return session.forward_all(tokens).unwrap().to_vec(),
        Way::Steps => return steps(session.feed(tokens).guessing(guess)),
        Way::StepsOfAll => return steps(session.feed(tokens).guessing(guess).all_logits()),
        Way::Together => model.forward_together([session.feed(tokens).guessing(guess)]).unwrap(),
        Way::Score => drop(session.score(tokens).unwrap()),
        Way::Embed => drop(session.embed(tokens, Pooling::Mean).unwrap()),
    }
    session.logits().unwrap().to_vec()
}

/// A small model, and what it says of a text that is read token by token.
struct Read {
    model: Model,
    options: SessionOptions,
    rows: Vec<f32>,
}

static TEXT: LazyLock<Vec<u32>> = LazyLock::new(|| tokens(if UNOPTIMIZED { 150 } else { 300 }, VOCAB));

/// Of each kind of weights, instruction set and cache.
static READ: LazyLock<Vec<Read>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for (_, file) in &small_files()[1..] {
        for isa in Isa::available() {
            for &dtype in CacheDtype::ALL {
                let options = SessionOptions::new().cache_dtype(dtype);
                let model = open_on(file.clone(), isa, 1);
                let mut session = model.session_with(options);
                let rows = TEXT.iter().flat_map(|&token| session.forward(&[token]).unwrap().to_vec());
                let rows = rows.collect();
                all.push(Read { model, options, rows });
            }
        }
    }
    all
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if UNOPTIMIZED { 20 } else { 150 }))]

    #[test]
    fn law_02_any_cut_gives_the_same_bits(
        read in select((0..READ.len()).collect::<Vec<_>>()),
        cuts in vec((select(WAYS.to_vec()), a_few()), 1..20),
    ) {
        let Read { model, options, rows } = &READ[read];
        let mut session = model.session_with(*options);
        for (way, n) in cuts {
            let at = session.position();
            let part = &TEXT[at..TEXT.len().min(at + n)];
            if part.is_empty() {
                break;
            }
            let found = feed(&mut session, part, &[], way);
            let end = session.position();
            prop_assert_eq!((end, session.tokens()), (at + part.len(), &TEXT[..end]));
            let n_rows = if matches!(way, Way::All | Way::StepsOfAll) { part.len() } else { 1 };
            let last = found.len() - n_rows * VOCAB;
            assert_same_bits(&found[last..], &rows[(end - n_rows) * VOCAB..end * VOCAB], &format!("{way:?}"));
            assert_same_bits(session.logits().unwrap(), &rows[(end - 1) * VOCAB..end * VOCAB], "the last");
        }
    }

    #[test]
    fn law_03_companions_in_any_order_change_no_bit(
        dtype in dtypes(),
        starts in vec(prop_oneof![Just(0), a_few()], 1..8),
        rounds in vec(vec((any::<u64>(), a_few(), any::<bool>()), 8), 1..4),
        seed in any::<u64>(),
    ) {
        let mut fresh = Fresh::new(&open_small(), dtype);
        let mut rng = SplitMix64::new(seed);
        let mut nodes: Vec<_> = (starts.iter())
            .map(|&n| {
                let text = if n == 0 { Vec::new() } else { some_tokens(&mut rng, n) };
                (fresh.reader(&text), text)
            })
            .collect();
        for round in rounds {
            // Any of them, in any order.
            let mut order: Vec<usize> = (0..nodes.len()).collect();
            order.sort_by_key(|&i| round[i].0);
            order.truncate(1 + round[7].0 as usize % nodes.len());
            let fed: Vec<_> = (round.iter().zip(&nodes))
                .map(|((_, n, _), (_, text))| {
                    let room = 400 - text.len();
                    let n = (*n).min(room);
                    (if n == 0 { vec![] } else { some_tokens(&mut rng, n) }, some_tokens(&mut rng, 9))
                })
                .collect();
            let mut feeds: Vec<_> = (nodes.iter_mut().enumerate())
                .map(|(i, (session, _))| {
                    let feed = session.feed(&fed[i].0).guessing(&fed[i].1);
                    Some(if round[i].2 { feed.all_logits() } else { feed })
                })
                .collect();
            fresh.model.forward_together(order.iter().filter_map(|&i| feeds[i].take())).unwrap();
            drop(feeds);
            for (i, (session, text)) in nodes.iter_mut().enumerate() {
                if order.contains(&i) {
                    text.extend(&fed[i].0);
                }
                fresh.check(session, text, "a companion");
            }
        }
        nodes.iter().for_each(|(session, text)| fresh.check_all(session, text, "at the end"));
    }

    #[test]
    fn law_04_guesses_inserted_anywhere_can_not_be_observed(
        dtype in dtypes(),
        script in vec((0..12_usize, a_few()), 1..12),
        seed in any::<u64>(),
    ) {
        let model = open_small();
        // So short that guesses reach its end.
        let options = SessionOptions::new().context_length(300).cache_dtype(dtype);
        let (mut plain, mut guessing) = (model.session_with(options), model.session_with(options));
        let mut rng = SplitMix64::new(seed);
        let parts: Vec<_> = script.iter().map(|&(_, n)| some_tokens(&mut rng, n)).collect();
        for (i, (what, n)) in script.into_iter().enumerate() {
            let part = &parts[i][..parts[i].len().min(300 - plain.position())];
            match what {
                0 => {
                    let to = n % (plain.position() + 1);
                    plain.truncate(to);
                    guessing.truncate(to);
                }
                1 => {
                    let wanted = [&plain.tokens()[..n.min(plain.position())], part].concat();
                    prop_assert_eq!(plain.keep_prefix(&wanted), guessing.keep_prefix(&wanted));
                }
                2 => guessing = guessing.fork().unwrap(),
                3 => {
                    let errors = [&mut plain, &mut guessing].map(|session| {
                        session.forward_guessing(&[5; 301], &[5; 9]).unwrap_err().to_string()
                    });
                    prop_assert_eq!(&errors[0], &errors[1]);
                }
                _ if part.is_empty() => {}
                _ => {
                    let way = WAYS[what % WAYS.len()];
                    let guess = guess(&mut rng, &parts[i + 1..].concat());
                    let found = feed(&mut guessing, part, &guess, way);
                    assert_same_bits(&found, &feed(&mut plain, part, &[], way), &format!("{way:?}"));
                }
            }
            prop_assert_eq!(observe(&guessing), observe(&plain));
        }
    }

    #[test]
    fn law_06_truncated_and_fed_again_is_fresh_and_keep_prefix_keeps_all_that_it_can(
        dtype in dtypes(),
        steps in vec((any::<bool>(), 0..300_usize, a_few()), 1..6),
        seed in any::<u64>(),
    ) {
        let mut fresh = Fresh::new(&open_small(), dtype);
        let mut rng = SplitMix64::new(seed);
        let (mut session, mut text) = (fresh.session(), Vec::new());
        for (truncates, keep, n) in steps {
            let kept = keep.min(text.len());
            let more = some_tokens(&mut rng, n);
            let mut wanted = [&text[..kept], &more].concat();
            wanted.truncate(if truncates { 400 } else { keep.max(1) });
            let n = if truncates {
                session.truncate(keep);
                prop_assert_eq!(session.logits().is_some(), kept == text.len() && kept > 0);
                kept
            } else {
                let n = session.keep_prefix(&wanted);
                // By its definition.
                let fits = |n: &usize| text.starts_with(&wanted[..*n]);
                prop_assert_eq!(n, (0..wanted.len()).rev().find(fits).unwrap());
                n
            };
            fresh.check_all(&session, &wanted[..n], "truncated");
            if n < wanted.len() {
                session.forward(&wanted[n..]).unwrap();
            }
            fresh.check_all(&session, &wanted, "fed again");
            text = wanted;
        }
        prop_assert_eq!(session.keep_prefix(&[]), 0);
        fresh.check_all(&session, &[], "nothing is kept");
    }
}

/// What comes next with mistakes, or anything: also tokens that don't exist, and more than fit.
fn guess(rng: &mut SplitMix64, next: &[u32]) -> Vec<u32> {
    let n = [1, 4, 20, 400][rng.below(4)];
    let right = rng.below(3) > 0;
    let mistakes = [usize::MAX, 3, 30][rng.below(3)];
    (0..n)
        .map(|i| match next.get(i).filter(|_| right) {
            Some(&token) if rng.below(mistakes) > 0 => token,
            _ => rng.below(VOCAB + 3) as u32,
        })
        .collect()
}

#[test]
fn guesses_that_come_true_cost_no_pass() {
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
    let expected = step_by_step(&model, &[1, 2, 3, 4, 5]);
    assert_same_bits(&all, &expected[3 * VOCAB..], "guessed");
    assert_eq!(session.tokens(), [1, 2, 3, 4, 5]);

    // A guess beyond the context or the vocabulary is cut.
    let mut short = model.session_with(SessionOptions::new().context_length(4));
    let guess = [3, 60, 61, 5, 6, 7];
    short.forward_guessing(&[1, 2], &guess).unwrap();
    short.forward(&[3, 60]).unwrap();
    assert_same_bits(short.logits().unwrap(), model.session().forward(&[1, 2, 3, 60]).unwrap(), "cut");
}

#[test]
fn sessions_of_different_models_are_not_fed_together() {
    let [one, other] = [open_small(), open_small()];
    let (mut a, mut b) = (one.session(), other.session());
    let error = one.forward_together([a.feed(&[1]), b.feed(&[1])]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::DifferentModels), "{error}");
    assert_eq!((a.position(), b.position()), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if UNOPTIMIZED { 10 } else { 60 }))]

    #[test]
    fn law_11_embeddings_are_the_pooled_hidden_states_for_any_cut(
        dtype in dtypes(),
        before in vec(a_few(), 0..3),
        n in a_few(),
        pooling in select(Pooling::ALL),
        seed in any::<u64>(),
    ) {
        let fresh = Fresh::new(&open_small(), dtype);
        let mut rng = SplitMix64::new(seed);
        let (mut session, mut plain) = (fresh.session(), fresh.session());
        for n in before {
            let part = some_tokens(&mut rng, n.min(90));
            session.embed(&part, pooling).unwrap();
            plain.forward(&part).unwrap();
        }
        let tokens = tokens(n.min(200), VOCAB);
        let found = session.embed(&tokens, pooling).unwrap();

        let mut pooled = [0.0; SHAPE.dim];
        for &token in &tokens {
            plain.forward(&[token]).unwrap();
            if pooling == Pooling::Last {
                pooled.fill(0.0);
            }
            pooled.iter_mut().zip(plain.hidden().unwrap()).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let length = pooled.iter().map(|x| x * x).sum::<f64>().sqrt();
        let unit: Vec<f32> = pooled.iter().map(|x| (x / length) as f32).collect();
        assert_same_bits(&found, &unit, pooling.name());
        prop_assert_eq!(bits(&session), bits(&plain));
    }
}
