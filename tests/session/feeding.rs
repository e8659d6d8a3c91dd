//! Prefill gives the bits of decode, and tokens that are taken back or forked leave no trace.

use babyllama::Isa;

use crate::common::{assert_same_bits, open, open_on, step_by_step};
use crate::{SHAPE, UNOPTIMIZED, open_small, small_files, tokens};

#[test]
fn prefill_gives_the_bits_of_as_many_decodes() {
    // 255 to 257 are around the batch that passes through the layers at once, and 600 are three of
    // them. 1 to 9 have all remainders of the tiles of tokens.
    let lengths = [1, 2, 3, 4, 5, 6, 7, 8, 9, 63, 64, 65, 255, 256, 257, 300, 600];
    let longest = if UNOPTIMIZED { 300 } else { 600 };
    for (name, file) in small_files().into_iter().skip(usize::from(UNOPTIMIZED)) {
        for isa in Isa::available() {
            let model = open_on(file.clone(), isa, 1);
            let tokens = tokens(longest, SHAPE.vocab_size);
            let one_by_one = step_by_step(&model, &tokens);
            for n in lengths
                .into_iter()
                .filter(|n| *n <= longest && !(UNOPTIMIZED && [1, 6, 8, 9, 63, 255, 256].contains(n)))
            {
                let mut session = model.session();
                let expected = &one_by_one[(n - 1) * SHAPE.vocab_size..][..SHAPE.vocab_size];
                let what = format!("{name} {} {n} tokens", isa.name());
                assert_same_bits(session.forward(&tokens[..n]).unwrap(), expected, &what);
                assert_eq!((session.position(), session.tokens()), (n, &tokens[..n]), "{what}");
            }
        }
    }
}

#[test]
fn every_row_of_forward_all_is_a_decodes() {
    for (name, file) in small_files() {
        let model = open(file);
        let tokens = tokens(300, SHAPE.vocab_size);
        let one_by_one = step_by_step(&model, &tokens);
        let mut session = model.session();
        assert_same_bits(session.forward_all(&tokens).unwrap(), &one_by_one, name);
        assert_same_bits(session.logits().unwrap(), &one_by_one[299 * SHAPE.vocab_size..], name);
        assert_eq!(session.position(), 300);
    }
}

#[test]
fn a_text_may_be_fed_in_any_parts() {
    let model = open_small();
    let tokens = tokens(600, SHAPE.vocab_size);
    let expected = step_by_step(&model, &tokens);
    for parts in [&[1, 599][..], &[599, 1], &[256, 256, 88], &[10, 300, 1, 1, 288], &[63, 2, 62, 2, 471]] {
        let mut session = model.session();
        let mut all = Vec::new();
        let mut at = 0;
        for (i, &n) in parts.iter().enumerate() {
            let part = &tokens[at..at + n];
            at += n;
            if i % 2 == 0 {
                all.extend_from_slice(session.forward_all(part).unwrap());
            } else {
                let last = session.forward(part).unwrap();
                assert_eq!(last.len(), SHAPE.vocab_size);
                all.extend_from_slice(&expected[all.len()..(at - 1) * SHAPE.vocab_size]);
                all.extend_from_slice(last);
            }
        }
        assert_eq!(at, 600);
        assert_same_bits(&all, &expected, &format!("{parts:?}"));
    }
}

#[test]
fn logits_depend_on_every_token_before_them() {
    // The tests above would pass if attention saw nothing but its own position.
    let model = open_small();
    let mut other = tokens(100, SHAPE.vocab_size);
    let before = step_by_step(&model, &other);
    for changed in [0, 40, 63, 64] {
        other[changed] ^= 1;
        let after = model.session().forward(&other).unwrap().to_vec();
        assert_ne!(after, before[99 * SHAPE.vocab_size..], "token {changed} must matter");
        other[changed] ^= 1;
    }
}

#[test]
fn truncating_and_feeding_again_is_as_if_fresh() {
    for (name, file) in small_files() {
        let model = open(file);
        let tokens = tokens(130, SHAPE.vocab_size);
        let other: Vec<u32> = tokens.iter().map(|t| (t + 1) % SHAPE.vocab_size as u32).collect();
        for keep in [0, 1, 63, 64, 65, 129] {
            let mut session = model.session();
            session.forward(&tokens).unwrap();
            session.truncate(keep);
            assert_eq!((session.position(), session.tokens()), (keep, &tokens[..keep]));
            assert_eq!(session.logits(), None, "what followed a token that is gone says nothing");
            let again = session.forward(&other[keep..]).unwrap().to_vec();

            let mut fresh = model.session();
            let mixed = [&tokens[..keep], &other[keep..]].concat();
            assert_same_bits(&again, fresh.forward(&mixed).unwrap(), &format!("{name} truncated to {keep}"));
            assert_eq!(session.tokens(), mixed);
        }
    }
}

#[test]
fn truncating_to_what_is_there_or_more_changes_nothing() {
    let mut session = open_small().session();
    session.truncate(0);
    session.truncate(9);
    assert_eq!((session.position(), session.logits()), (0, None));
    let logits = session.forward(&[1, 2, 3]).unwrap().to_vec();
    for position in [3, 4, usize::MAX] {
        session.truncate(position);
        assert_eq!((session.position(), session.logits()), (3, Some(&logits[..])));
    }
}

#[test]
fn a_fork_goes_on_as_its_session_would_and_each_its_own_way() {
    for (name, file) in small_files() {
        let model = open(file);
        let tokens = tokens(200, SHAPE.vocab_size);
        for at in [1, 64, 100] {
            let mut session = model.session();
            session.forward(&tokens[..at]).unwrap();
            let mut fork = session.fork().unwrap();
            assert_eq!((fork.position(), fork.tokens()), (at, session.tokens()));
            assert_eq!(fork.logits(), session.logits());
            assert_eq!(fork.capacity(), session.capacity());

            // Feed them by turns with different tokens; then each must be what a fresh session
            // makes of its text.
            let (mut ours, mut theirs) = (tokens[..at].to_vec(), tokens[..at].to_vec());
            for &token in &tokens[at..] {
                session.forward(&[token]).unwrap();
                ours.push(token);
                let other = (token + 7) % SHAPE.vocab_size as u32;
                fork.forward(&[other]).unwrap();
                theirs.push(other);
            }
            for (session, text) in [(&session, ours), (&fork, theirs)] {
                let mut fresh = model.session();
                let expected = fresh.forward(&text).unwrap();
                assert_same_bits(session.logits().unwrap(), expected, &format!("{name} forked at {at}"));
            }
            assert_ne!(session.logits(), fork.logits());
        }
    }
}

#[test]
fn a_fork_of_nothing_is_a_fresh_session_and_a_fork_outlives_its_session() {
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
