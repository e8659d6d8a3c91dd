//! Prefill gives the bits of decode, and tokens that are taken back or forked leave no trace.

use babyllama::{ErrorKind, FinishReason, Generation, Isa, Model, Sampler, SamplerOptions, SessionOptions};

use crate::common::{BUNDLED, SplitMix64, assert_same_bits, open, open_on, refuses, step_by_step};
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
fn sessions_fed_together_keep_the_logits_of_all_tokens_that_were_wanted() {
    let model = open_small();
    let text = tokens(40, SHAPE.vocab_size);
    let one_by_one = step_by_step(&model, &text);
    let rows = |from: usize, to: usize| &one_by_one[from * SHAPE.vocab_size..to * SHAPE.vocab_size];
    let mut rng = SplitMix64::new(3);
    for _ in 0..200 {
        let (start, n) = (rng.below(20), 1 + rng.below(10));
        let (mut one, mut other) = (model.session(), model.session());
        // Some of the tokens, or all and more, were read ahead.
        if start > 0 {
            let guess = &text[start..start + rng.below(15)];
            one.forward_guessing(&text[..start], guess).unwrap();
        }
        let feeds = [one.feed(&text[start..start + n]).all_logits(), other.feed(&text[..n])];
        model.forward_together(feeds).unwrap();
        let what = format!("{n} tokens from {start}");
        assert_same_bits(one.all_logits().unwrap(), rows(start, start + n), &what);
        assert_same_bits(other.all_logits().unwrap(), rows(n - 1, n), "the last alone");
        model.forward_together([one.feed(&[]), other.feed(&text[n..=n]).guessing(&text[n + 1..])]).unwrap();
        assert_same_bits(one.all_logits().unwrap(), rows(start, start + n), "nothing was fed");
        assert_same_bits(other.all_logits().unwrap(), rows(n, n + 1), "without the guess");
        one.truncate(start);
        assert_eq!(one.all_logits(), None);
    }
}

#[test]
fn a_pending_token_has_no_row_among_those_that_are_wanted() {
    let model = Model::open(BUNDLED).unwrap();
    let mut session = model.session();
    let mut generation = Generation::new(&session, "Once upon a time").unwrap();
    let mut sampler = Sampler::new(SamplerOptions::new().temperature(0.0));
    model.forward_together([generation.feed(&mut session, 9)]).unwrap();
    let piece = generation.next(&mut session, &mut sampler).unwrap().unwrap();
    assert!(piece.token().is_some() && session.pending() == piece.token());
    let (mut alone, n_before) = (session.fork().unwrap(), session.position());
    model.forward_together([session.feed(&[7, 8]).all_logits()]).unwrap();
    let expected = alone.forward_all(&[7, 8]).unwrap();
    assert_eq!(expected.len(), 2 * model.config().vocab_size);
    assert_same_bits(session.all_logits().unwrap(), expected, "together");
    assert_eq!(session.position(), n_before + 3);
}

#[test]
fn a_generation_whose_context_is_full_ends_without_the_others_of_its_batch() {
    let model = Model::open(BUNDLED).unwrap();
    for (at_most, reason) in [(usize::MAX, FinishReason::ContextFull), (4, FinishReason::MaxTokens)] {
        let mut full = model.session_with(SessionOptions::new().context_length(6));
        let mut other = model.session();
        let mut samplers = [0, 1].map(|_| Sampler::new(SamplerOptions::new().temperature(0.0)));
        let mut first = Generation::new(&full, "Once upon").unwrap().max_tokens(at_most); // 3 tokens
        let mut second = Generation::new(&other, "Once upon").unwrap().max_tokens(20);
        while first.finish_reason().is_none() || second.finish_reason().is_none() {
            let feeds = [first.feed(&mut full, 128), second.feed(&mut other, 128)];
            model.forward_together(feeds).unwrap();
            first.next(&mut full, &mut samplers[0]).unwrap();
            second.next(&mut other, &mut samplers[1]).unwrap();
        }
        assert_eq!(
            (first.finish_reason(), second.finish_reason()),
            (Some(reason), Some(FinishReason::MaxTokens))
        );
        assert_eq!((full.position(), second.n_generated()), (6, 20));
        // Whoever asks for the pending token is told that there is no room.
        refuses!(
            model.forward_together([full.feed(&[])]),
            ErrorKind::ContextFull { capacity: 6, requested: 7 }
        );
    }
}

#[test]
fn a_generation_takes_no_session_of_another_model() {
    let (model, other) = (Model::open(BUNDLED).unwrap(), open_small());
    let mut generation = Generation::new(&model.session(), "Once").unwrap();
    let (mut session, mut sampler) = (other.session(), Sampler::default());
    session.forward(&[1, 2, 3, 4]).unwrap();
    refuses!(generation.next(&mut session, &mut sampler), ErrorKind::DifferentModels);
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
