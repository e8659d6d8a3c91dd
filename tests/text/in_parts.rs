//! Generation that stops and goes on: what the session has read then, and the same text in parts as
//! in one.

use babyllama::{ErrorKind, FinishReason, Model, Sampler, SamplerOptions, Session, SessionOptions, TokenId};
use proptest::prelude::*;

use crate::common::{BUNDLED, greedy, refuses};
use crate::{BOS, EOS, LOOP, ONCE, STORY, finish, open_script, rambler};

#[test]
fn dropping_it_half_way_leaves_the_session_usable() {
    let model = open_script();
    for taken in 0..6 {
        let mut session = model.session();
        let mut sampler = greedy();
        let said: String = session
            .generate(&[BOS], &mut sampler)
            .unwrap()
            .take(taken)
            .map(|p| p.unwrap().to_string())
            .collect();
        assert!(STORY.starts_with(&said));
        // The prompt and all tokens but the last.
        assert_eq!(session.tokens(), &[BOS, 3, 4, 5, 6, 7, 8][..taken]);
        // The one that wasn't fed goes first if the text is to go on. Without an item, nothing has
        // happened.
        let prompt: &[TokenId] = if taken == 0 { &[BOS] } else { &[] };
        let (texts, reason, _) = finish(session.generate(prompt, &mut sampler).unwrap());
        assert_eq!(format!("{said}{}", texts.concat()), STORY);
        assert_eq!(reason, FinishReason::EndOfText(EOS));
    }
}

#[test]
fn the_position_is_that_of_the_tokens_fed_at_every_moment() {
    let model = open_script();
    let mut session: Session = model.session();
    let mut sampler = greedy();
    for n in 0..5 {
        session.truncate(0);
        let mut generate = session.generate(&[BOS, ONCE], &mut sampler).unwrap();
        for _ in 0..n {
            generate.next().unwrap().unwrap();
        }
        assert_eq!(generate.n_generated(), n);
        assert_eq!(generate.finish_reason(), None);
        drop(generate);
        assert_eq!(session.position(), if n == 0 { 0 } else { 1 + n });
        assert_eq!(session.position(), session.tokens().len());
    }
}

#[test]
fn what_feeds_a_session_feeds_what_is_pending_first() {
    use ErrorKind::ContextFull;

    let model = open_script();
    let mut session = model.session_with(SessionOptions::new().context_length(4));
    finish(session.generate(&[BOS], &mut greedy()).unwrap().max_tokens(2));
    assert_eq!((session.tokens(), session.pending()), (&[BOS, ONCE][..], Some(4)));
    let logits = session.logits().unwrap().to_vec();

    // What is refused changes nothing.
    let mut sampler = greedy();
    for (tokens, requested) in [(&[5, 6][..], 5), (&[5, 6, 7], 6)] {
        refuses!(session.forward(tokens), ContextFull { capacity: 4, requested: n } if *n == requested);
        refuses!(session.forward_all(tokens), ContextFull { capacity: 4, requested: n } if *n == requested);
        let generated = session.generate(tokens, &mut sampler);
        refuses!(generated, ContextFull { capacity: 4, requested: n } if *n == requested);
    }
    refuses!(session.forward_all(&[]), ErrorKind::EmptyInput);
    assert_eq!((session.position(), session.pending(), session.logits()), (2, Some(4), Some(&logits[..])));

    let fresh = |tokens: &[TokenId]| model.session().forward(tokens).unwrap().to_vec();
    for tokens in [&[][..], &[9]] {
        let all = [&[BOS, ONCE, 4], tokens].concat();
        let mut fork = session.fork().unwrap();
        assert_eq!(fork.pending(), Some(4));
        assert_eq!(fork.forward(tokens).unwrap(), fresh(&all));
        assert_eq!((fork.tokens(), fork.pending()), (&all[..], None));
    }
    let mut fork = session.fork().unwrap();
    assert_eq!(fork.forward_all(&[9]).unwrap(), fresh(&[BOS, ONCE, 4, 9]), "the row of what was given alone");
    assert_eq!(fork.tokens(), [BOS, ONCE, 4, 9]);

    // Only what takes tokens back takes it back, and then its place is chosen again.
    session.truncate(3);
    assert_eq!(session.pending(), Some(4));
    session.truncate(2);
    assert_eq!((session.position(), session.pending()), (2, None));
    let (texts, ..) = finish(session.generate("", &mut greedy()).unwrap().max_tokens(1));
    assert_eq!(texts, [" upon"]);
    assert_eq!(session.keep_prefix(&[BOS, ONCE]), 1, "the last token is to be fed, for its logits");
    assert_eq!((session.tokens(), session.pending()), (&[BOS][..], None));
    session.forward(&[ONCE, 4]).unwrap();
    assert_eq!(session.keep_prefix(&[BOS, ONCE, 5, 4]), 2);
    assert_eq!(session.keep_prefix(&[]), 0);
}

#[test]
fn text_that_goes_on_is_encoded_as_such() {
    let model = Model::open(BUNDLED).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let read = |texts: &[&str]| {
        let mut session = model.session();
        for text in texts {
            session
                .generate(*text, &mut greedy())
                .unwrap()
                .max_tokens(0)
                .for_each(|piece| drop(piece.unwrap()));
        }
        tokenizer.decode(session.tokens())
    };
    assert_eq!(read(&["Once upon a ti", "me", ", \u{e9}", " x"]), "Once upon a time, \u{e9} x");
    // After what isn't text a text begins: there the dummy prefix is the tokenizer's and not the
    // text's.
    let mut session = model.session();
    session.forward(&[tokenizer.bos().unwrap()]).unwrap();
    session.generate("me", &mut greedy()).unwrap().max_tokens(0).for_each(|piece| drop(piece.unwrap()));
    assert_eq!(session.tokens(), tokenizer.encode_prompt("me"));
}

/// All that a generation gives and leaves behind.
#[derive(Debug, PartialEq)]
struct Outcome {
    items: Vec<(Option<TokenId>, String)>,
    held: String,
    reason: Option<FinishReason>,
    sampler: String,
    tokens: Vec<TokenId>,
    pending: Option<TokenId>,
    logits: Vec<u32>,
}

/// How one part of a generation ends.
#[derive(Clone, Copy, Debug)]
enum Cut {
    MaxTokens(usize),
    /// It is dropped after n items.
    Drop(usize),
}

/// Generates `n` tokens in parts that end by these cuts, over and over.
fn in_parts(model: &Model, options: &SamplerOptions, stops: &[String], n: usize, cuts: &[Cut]) -> Outcome {
    let mut session = model.session_with(SessionOptions::new().context_length(24));
    let mut sampler = Sampler::new(options.clone());
    let (mut items, mut n_generated) = (Vec::new(), 0);
    let mut prompt: &[TokenId] = &[BOS, ONCE];
    let mut cuts = cuts.iter().cycle();
    let (held, reason) = loop {
        let left = n - n_generated;
        let cut = *cuts.next().unwrap();
        let mut generate = session.generate(prompt, &mut sampler).unwrap();
        for stop in stops {
            generate = generate.stop(stop);
        }
        generate = generate.max_tokens(match cut {
            Cut::MaxTokens(part) => part.min(left),
            Cut::Drop(_) => left,
        });
        let mut n_items = 0;
        let limit = if let Cut::Drop(limit) = cut { limit } else { usize::MAX };
        while n_items < limit
            && let Some(piece) = generate.next()
        {
            let piece = piece.unwrap();
            items.push((piece.token(), piece.as_str().to_string()));
            n_items += 1;
        }
        n_generated += generate.n_generated();
        let reason = generate.finish_reason();
        if limit > 0 {
            prompt = &[];
        }
        let is_over = reason.is_some_and(|reason| reason != FinishReason::MaxTokens);
        if is_over || (reason.is_some() && n_generated == n) {
            break (generate.held().to_string(), reason);
        }
    };
    Outcome {
        items,
        held,
        reason,
        sampler: format!("{sampler:?}"),
        tokens: session.tokens().to_vec(),
        pending: session.pending(),
        logits: session.logits().unwrap().iter().map(|x| x.to_bits()).collect(),
    }
}

proptest! {
    #[test]
    fn a_generation_in_parts_is_that_in_one(
        seed in any::<u64>(),
        (greedy, penalties, with_stops, ends) in any::<(bool, bool, bool, bool)>(),
        n in 0_usize..30,
        cuts in prop::collection::vec(
            prop_oneof![(0_usize..5).prop_map(Cut::MaxTokens), (0_usize..5).prop_map(Cut::Drop)],
            1..8,
        ),
        stop_at in (any::<prop::sample::Index>(), 1_usize..9),
    ) {
        let progresses = |cut: &Cut| !matches!(cut, Cut::MaxTokens(0) | Cut::Drop(0));
        prop_assume!(cuts.iter().any(progresses));
        let model = rambler();
        let mut options = SamplerOptions::new().seed(seed);
        options.temperature = if greedy { 0.0 } else { 1.5 };
        if !ends {
            options.logit_bias = vec![(BOS, f32::NEG_INFINITY), (EOS, f32::NEG_INFINITY)];
        }
        if penalties {
            options = options.repetition_penalty(1.3).frequency_penalty(0.2).penalty_window(7);
            options = options.dry_multiplier(0.8).dry_window(12).xtc_probability(0.3).xtc_threshold(0.01);
        }
        let whole = |stops: &[String]| in_parts(&model, &options, stops, n, &[Cut::MaxTokens(usize::MAX)]);
        let free = whole(&[]);
        // A stop string that comes up, and one that nearly does.
        let text: Vec<char> = free.items.iter().flat_map(|(_, text)| text.chars()).collect();
        let mut stops = Vec::new();
        if with_stops && !text.is_empty() {
            let at = stop_at.0.index(text.len());
            let stop: String = text[at..].iter().take(stop_at.1).collect();
            stops = vec![format!("{stop}\u{1}"), stop];
        }
        let expected = whole(&stops);
        prop_assert_eq!(in_parts(&model, &options, &stops, n, &cuts), expected);
    }
}

#[test]
fn a_generation_in_parts_may_go_on_in_a_fork_and_elsewhere() {
    let model = rambler();
    let logit_bias = vec![(BOS, f32::NEG_INFINITY), (EOS, f32::NEG_INFINITY)];
    let options = SamplerOptions::new().repetition_penalty(1.2).seed(5).logit_bias(logit_bias);
    let whole = in_parts(&model, &options, &[], 20, &[Cut::MaxTokens(usize::MAX)]);
    let mut sampler = Sampler::new(options);
    let mut session = model.session();
    let mut items = Vec::new();
    for i in 0..20 {
        let prompt: &[TokenId] = if i == 0 { &[BOS, ONCE] } else { &[] };
        let pieces = session.generate(prompt, &mut sampler).unwrap().max_tokens(1);
        items.extend(
            pieces.map(|piece| piece.unwrap()).map(|piece| (piece.token(), piece.as_str().to_string())),
        );
        session = session.fork().unwrap();
        sampler = std::thread::spawn(move || sampler).join().unwrap();
    }
    assert_eq!(items, whole.items);
    assert_eq!(session.tokens(), whole.tokens);
}

#[test]
fn max_tokens_of_zero_reads_the_prompt_and_counts_it() {
    let model = open_script();
    let options = SamplerOptions::new().temperature(0.0).presence_penalty(100.0);
    let say = |parts: &[usize]| {
        let mut session = model.session();
        let mut sampler = Sampler::new(options.clone());
        let mut tokens = Vec::new();
        for (i, &n) in parts.iter().enumerate() {
            let prompt: &[TokenId] = if i == 0 { &[LOOP, ONCE] } else { &[] };
            let mut generate = session.generate(prompt, &mut sampler).unwrap().max_tokens(n);
            tokens.extend(generate.by_ref().map(|piece| piece.unwrap().token()));
            assert_eq!(generate.finish_reason(), Some(FinishReason::MaxTokens));
            drop(generate);
            assert!(session.position() >= 2, "the prompt is read");
        }
        tokens
    };
    assert_eq!(say(&[0, 3]), say(&[3]));
    assert_eq!(say(&[0, 0, 1, 0, 2]), say(&[3]));
    // One that is dropped before its first item has done nothing.
    let (mut session, mut sampler) = (model.session(), Sampler::new(options.clone()));
    drop(session.generate(&[13], &mut sampler).unwrap().max_tokens(3));
    assert_eq!((session.position(), session.pending()), (0, None));
    let generate = session.generate(&[LOOP], &mut sampler).unwrap().max_tokens(1);
    assert_eq!(generate.map(|piece| piece.unwrap().token()).collect::<Vec<_>>(), [Some(13)], "not penalized");
}

#[test]
fn a_full_context_ends_a_generation_that_goes_on_again_and_again() {
    let model = open_script();
    let mut session = model.session_with(SessionOptions::new().context_length(3));
    let mut sampler = greedy();
    assert_eq!(finish(session.generate(&[LOOP], &mut sampler).unwrap()).2, 3);
    for _ in 0..2 {
        let (texts, reason, n) = finish(session.generate("", &mut sampler).unwrap());
        assert_eq!((texts.len(), reason, n), (0, FinishReason::ContextFull, 0));
        assert_eq!((session.position(), session.pending()), (3, Some(13)));
    }
}
