//! Forks: each is a session that read everything itself, and holds what they share once.

use babyllama::{CacheDtype, Model, Session, SessionOptions};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::common::{RandomModel, Shape, SplitMix64, assert_same_bits, open};
use crate::counting::peak;
use crate::fresh::{Fresh, observe, some_tokens};
use crate::{SHAPE, UNOPTIMIZED, open_small, tokens};

/// Around the border of the cache's first blocks.
const PLACES: [usize; 6] = [0, 1, 63, 64, 65, 129];

/// The cache of so many layers isn't allocated for the whole context at once.
const DEEP: Shape = Shape::new(64, 32).layers(24).heads(8, 8).vocab(31).context(2000);

fn open_deep() -> Model {
    open(RandomModel::new(DEEP, 13).to_v1())
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Fork,
    Drop,
    /// To one of [`PLACES`], often below where it was forked.
    Truncate(usize),
    Feed(usize),
    /// Token by token, so that memory grows while it is shared.
    Decode(usize),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Fork),
        1 => Just(Step::Drop),
        2 => select(PLACES.to_vec()).prop_map(Step::Truncate),
        3 => select(vec![1, 2, 62, 63, 64, 65, 100]).prop_map(Step::Feed),
        2 => select(vec![2, 64, 70]).prop_map(Step::Decode),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if UNOPTIMIZED { 15 } else { 80 }))]

    #[test]
    fn law_05_forks_are_sessions_that_read_everything_themselves(
        at in select(PLACES.to_vec()),
        dtype in select(CacheDtype::ALL),
        steps in vec((any::<usize>(), steps()), 1..16),
        seed in any::<u64>(),
    ) {
        let mut fresh = Fresh::new(&open_small(), dtype);
        let mut rng = SplitMix64::new(seed);
        let text: Vec<u32> = tokens(at, SHAPE.vocab_size);
        let first = fresh.reader(&text);
        let fork = first.fork().unwrap();
        let mut nodes = vec![(first, text.clone()), (fork.fork().unwrap(), text.clone()), (fork, text)];
        for (i, step) in steps {
            let i = i % nodes.len();
            let (session, text) = &mut nodes[i];
            let room = session.capacity() - text.len();
            match step {
                Step::Fork => {
                    let fork = (session.fork().unwrap(), text.clone());
                    prop_assert_eq!(observe(&fork.0), observe(session));
                    prop_assert_eq!(fork.0.capacity(), session.capacity());
                    nodes.push(fork);
                }
                Step::Drop => if nodes.len() > 1 { drop(nodes.remove(i)) },
                Step::Truncate(to) => {
                    session.truncate(to);
                    text.truncate(to);
                }
                Step::Feed(n) | Step::Decode(n) => if room > 0 {
                    let tokens = some_tokens(&mut rng, n.min(room));
                    let at_once = if matches!(step, Step::Feed(_)) { n } else { 1 };
                    for part in tokens.chunks(at_once) {
                        session.forward(part).unwrap();
                    }
                    text.extend(tokens);
                }
            }
            nodes.iter().for_each(|(session, text)| fresh.check_all(session, text, "a session"));
        }
    }
}

#[test]
fn law_05_a_fork_of_nothing_is_a_fresh_session_and_a_fork_outlives_its_session() {
    let model = open_small();
    let mut fork = model.session().fork().unwrap();
    assert_eq!((fork.position(), fork.logits()), (0, None));
    let expected = fork.forward(&[5, 6]).unwrap().to_vec();
    let mut session = model.session();
    session.forward(&[5]).unwrap();
    let mut fork = session.fork().unwrap();
    drop(session);
    drop(model);
    assert_same_bits(fork.forward(&[6]).unwrap(), &expected, "fork");
}

#[test]
fn law_05_a_session_may_grow_while_its_cache_is_shared() {
    let model = open_deep();
    for &dtype in CacheDtype::ALL {
        let session = || model.session_with(SessionOptions::new().cache_dtype(dtype));
        // Up to the last position that there is memory for.
        let mut growing = session();
        growing.forward(&[1]).unwrap();
        let first = growing.memory_used();
        let mut n = 1;
        while growing.memory_used() == first {
            growing.forward(&[1]).unwrap();
            n += 1;
        }
        assert!(n > 130 && n < 1900, "it grew at {n}, not at the end of its context");
        for before in [3, 1, 0] {
            let text = tokens(n + 70, DEEP.vocab_size);
            let (read, rest) = text.split_at(n - 1 - before);
            let mut shared = session();
            shared.forward(read).unwrap();
            let mut fork = shared.fork().unwrap();
            for token in rest {
                fork.forward(&[*token]).unwrap();
            }
            shared.forward(rest).unwrap();
            let mut fresh = session();
            let expected = fresh.forward(&text).unwrap();
            assert_same_bits(fork.logits().unwrap(), expected, "a fork that grew");
            assert_same_bits(shared.logits().unwrap(), expected, "the session that it is of");
        }
    }
}

#[test]
fn law_05_what_was_guessed_before_a_fork_is_read_or_is_not_there() {
    let mut fresh = Fresh::new(&open_small(), CacheDtype::F32);
    for n in [63, 64, 128] {
        let text = tokens(n, SHAPE.vocab_size);
        let longer = [&text[..], &[5, 6]].concat();
        let mut session = fresh.session();
        session.forward_guessing(&text, &[5, 6]).unwrap();
        let fork = session.fork().unwrap();
        session.forward_all(&[5, 6]).unwrap(); // reserves first
        fresh.check_all(&session, &longer, "guessed");
        fresh.check_all(&fork, &text, "the fork");
    }
}

#[test]
fn a_fork_says_that_it_holds_what_it_shares_and_its_own() {
    let model = open_deep();
    for n in [64, 65, 100] {
        let mut session = model.session();
        session.forward(&vec![1; n]).unwrap();
        let (fork, own) = peak(|| {
            let mut fork = session.fork().unwrap();
            fork.forward(&[1]).unwrap();
            fork
        });
        let more = fork.memory_used() - session.memory_used();
        assert!(more > 0 && more <= own && own - more < 20_000, "{more} of {own} bytes at {n}");
    }
}

/// The most bytes that forks of `n` positions hold beyond their session, which each read `own`
/// tokens, some at a time.
fn held_by_forks(model: &Model, dtype: CacheDtype, n: usize, own: usize, at_once: usize) -> usize {
    let context = (n + own).next_multiple_of(64);
    let options = SessionOptions::new().context_length(context).cache_dtype(dtype);
    // The buffers of passes are the model's.
    model.session_with(options).forward(&vec![1; context]).unwrap();
    let mut session = model.session_with(options);
    session.forward(&vec![1; n]).unwrap();
    let text = vec![2; own];
    let read = |mut fork: Session| {
        for part in text.chunks(at_once) {
            fork.forward(part).unwrap();
        }
        fork
    };
    let (forks, held) = peak(|| [(); 8].map(|()| read(session.fork().unwrap())));
    assert!(forks.iter().all(|fork| fork.position() == n + own));
    held
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if UNOPTIMIZED { 4 } else { 8 }))]

    /// Memory comes in blocks of 64 positions: of `n`'s last block a fork has a copy, and what it
    /// reads begins in there. Where it can't know how much it will read, it takes as much again.
    #[test]
    fn law_12_eight_forks_hold_what_they_share_once(
        n in prop_oneof![select(PLACES[1..].to_vec()), 1..400_usize],
        own in prop_oneof![select(vec![1, 63, 64, 65]), 1..130_usize],
        dtype in select(CacheDtype::ALL),
    ) {
        let model = open_deep();
        let head = match dtype {
            CacheDtype::F32 => 4 * DEEP.head_dim(),
            CacheDtype::F16 => 2 * DEEP.head_dim(),
            _ => DEEP.head_dim().div_ceil(32) * 34,
        };
        let position = 2 * DEEP.n_layers * DEEP.n_kv_heads * head;
        // Tokens, logits and hidden states, and the lists of segments and layers.
        let rest = 8 * (4 * 4 * (n + own + 64) + 8 * (DEEP.vocab_size + DEEP.dim) + 10_000);
        let tail = (n % 64 + own).next_multiple_of(64);
        let held = held_by_forks(&model, dtype, n, own, own);
        prop_assert!(held < 8 * tail * position + rest, "{} for 8 * {tail}", held / position);
        let held = held_by_forks(&model, dtype, n, own, 1);
        prop_assert!(held < 8 * 2 * tail * position + rest, "{} for 8 * {tail} doubled", held / position);
    }
}
