//! Generation: what it says, when it ends and why, what the session has read then, and how it goes
//! on.

mod common;

use babyllama::{
    ErrorKind, FinishReason, Generate, Model, ModelOptions, Sampler, SamplerOptions, Session, SessionOptions,
    TokenId, Tokenizer,
};
use common::{RandomModel, scripted_model, tokenizer_bin};
use proptest::prelude::*;

// The script: each token is followed by one other, so a text is a walk through the pieces.
const BOS: TokenId = 1;
const EOS: TokenId = 2;
const ONCE: TokenId = 3;
const COMMA: TokenId = 6;
const DOT: TokenId = 8;
const E_FIRST: TokenId = 9;
const CUT: TokenId = 11;
const LOOP: TokenId = 12;
const TO_BOS: TokenId = 14;
const LONG: TokenId = 15;

/// Behind `<unk>`, BOS and EOS, from token 3 on.
const PIECES: [&[u8]; 13] = [
    b" once",                                                  // 3
    b" upon",                                                  // 4
    b" a time",                                                // 5
    b",",                                                      // 6
    b" the end",                                               // 7
    b".",                                                      // 8
    b"\xC3",     // 9: the first byte of an e with an acute accent
    b"\xA9",     // 10: the second
    b"\xF0\x9F", // 11: the beginning of an emoji, and nothing follows
    b" ha",      // 12
    b" ho",      // 13
    b" again",   // 14
    b" and a very very long piece that is more than 38 bytes", // 15
];
const NEXT: [TokenId; 16] = [4, ONCE, 2, 4, 5, COMMA, 7, DOT, EOS, 10, DOT, EOS, 13, LOOP, BOS, CUT];
const STORY: &str = "once upon a time, the end.";

fn script() -> RandomModel {
    scripted_model(&NEXT, 64)
}

fn open(model: &RandomModel, pieces: &[&[u8]]) -> Model {
    let tokenizer = Tokenizer::from_llama2c(&tokenizer_bin(pieces)).unwrap();
    let options = ModelOptions::new().threads(1).tokenizer(tokenizer);
    Model::from_bytes_with(model.to_v1(), &options).unwrap()
}

fn open_script() -> Model {
    open(&script(), &PIECES)
}

fn greedy() -> Sampler {
    Sampler::new(SamplerOptions::new().temperature(0.0))
}

/// Runs to the end: the pieces' texts, the reason, and the number of tokens.
#[track_caller]
fn finish(mut generate: Generate<'_>) -> (Vec<String>, FinishReason, usize) {
    let mut texts = Vec::new();
    for piece in &mut generate {
        texts.push(piece.unwrap().to_string());
    }
    assert!(generate.next().is_none(), "it stays ended");
    (texts, generate.finish_reason().expect("a reason"), generate.n_generated())
}

#[test]
fn generation_says_what_the_model_says_until_eos() {
    let model = open_script();
    let mut session = model.session();
    let mut sampler = greedy();
    let (texts, reason, n) = finish(session.generate(&[BOS], &mut sampler).unwrap());
    // the space behind BOS is stripped
    assert_eq!(texts, ["once", " upon", " a time", ",", " the end", "."]);
    assert_eq!((reason, n), (FinishReason::EndOfText(EOS), 6));
    // All that was said has been read; EOS has not.
    assert_eq!(session.tokens(), [BOS, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn generation_ends_at_bos_too() {
    let model = open_script();
    let mut session = model.session();
    let (texts, reason, n) = finish(session.generate(&[TO_BOS], &mut greedy()).unwrap());
    assert_eq!((texts.len(), reason, n), (0, FinishReason::EndOfText(BOS), 0));
    assert_eq!(session.tokens(), [TO_BOS]);
}

#[test]
fn a_text_prompt_begins_with_bos_only_at_the_start_of_a_session() {
    let model = open_script();
    let mut session = model.session();
    let mut sampler = greedy();
    // The pieces spell no single letters, so a text is unknown tokens, and " upon" follows those.
    for turn in 0..2 {
        let before = session.position();
        let (texts, ..) = finish(session.generate("?", &mut sampler).unwrap());
        assert_eq!(texts.concat(), " upon a time, the end.");
        let read = &session.tokens()[before..];
        let prompt = [&[BOS][turn..], model.tokenizer().unwrap().encode("?").as_slice()].concat();
        assert_eq!(read[..prompt.len()], prompt);
        assert_eq!(read.iter().filter(|token| **token == BOS).count(), 1 - turn);
    }
}

#[test]
fn an_empty_text_at_the_start_is_bos_alone() {
    let model = open_script();
    let mut session = model.session();
    assert_eq!(finish(session.generate("", &mut greedy()).unwrap()).0.concat(), STORY);
}

#[test]
fn an_empty_prompt_goes_on_from_what_was_fed() {
    let model = open_script();
    let mut session = model.session();
    session.forward(&[BOS, ONCE]).unwrap();
    assert_eq!(finish(session.generate("", &mut greedy()).unwrap()).0.concat(), " upon a time, the end.");
    session.truncate(2); // the logits are gone, so there is nothing to go on from
    let error = session.generate(&[], &mut greedy()).map(|_| ()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::EmptyInput), "{error:?}");
    let mut fresh = model.session();
    assert!(fresh.generate(&[], &mut greedy()).is_err());
}

#[test]
fn max_tokens_ends_it_and_the_last_token_is_unfed() {
    let model = open_script();
    for n in 0..=6 {
        let mut session = model.session();
        let mut sampler = greedy();
        let (texts, reason, found) = finish(session.generate(&[BOS], &mut sampler).unwrap().max_tokens(n));
        assert_eq!((texts.len(), reason, found), (n, FinishReason::MaxTokens, n));
        assert_eq!(session.position(), n.max(1), "the prompt and all tokens but the last");
        assert_eq!(session.pending(), [None, Some(3), Some(4), Some(5), Some(6), Some(7), Some(8)][n]);
    }
    let mut session = model.session();
    let mut sampler = greedy();
    let (_, reason, n) = finish(session.generate(&[BOS], &mut sampler).unwrap().max_tokens(7));
    assert_eq!((reason, n), (FinishReason::EndOfText(EOS), 6), "EOS comes first");
}

#[test]
fn the_end_of_the_context_is_a_reason_and_not_an_error() {
    let model = open_script();
    for context in 1..=8 {
        let mut session = model.session_with(SessionOptions::new().context_length(context));
        let mut sampler = greedy();
        let (texts, reason, n) = finish(session.generate(&[LOOP], &mut sampler).unwrap());
        // Each position that is read gives one token more.
        assert_eq!((texts.len(), reason, n), (context, FinishReason::ContextFull, context));
        assert_eq!((session.position(), session.capacity()), (context, context));
        assert!(matches!(session.forward(&[LOOP]).unwrap_err().kind(), ErrorKind::ContextFull { .. }));
    }
}

#[test]
fn a_prompt_that_cannot_be_fed_is_an_error_at_once_and_changes_nothing() {
    let model = open_script();
    let mut session = model.session_with(SessionOptions::new().context_length(4));
    session.forward(&[BOS]).unwrap();
    let logits = session.logits().unwrap().to_vec();
    let mut error = |prompt: &[TokenId]| session.generate(prompt, &mut greedy()).map(|_| ()).unwrap_err();
    assert!(matches!(error(&[ONCE; 4]).kind(), ErrorKind::ContextFull { capacity: 4, requested: 5 }));
    assert!(matches!(error(&[99]).kind(), ErrorKind::TokenOutOfRange { token: 99, vocab_size: 16 }));
    assert_eq!((session.position(), session.logits().unwrap()), (1, &logits[..]));
}

#[test]
fn text_needs_a_tokenizer_and_so_do_tokens() {
    let model = Model::from_bytes(script().to_v1()).unwrap();
    let mut session = model.session();
    for error in [
        session.generate("once", &mut greedy()).map(|_| ()).unwrap_err(),
        session.generate(&[BOS], &mut greedy()).map(|_| ()).unwrap_err(),
    ] {
        assert!(matches!(error.kind(), ErrorKind::NoTokenizer), "{error:?}");
        assert!(error.to_string().contains("tokenizer"), "{error}");
    }
    session.forward(&[BOS]).unwrap(); // it still takes tokens alone
}

// --- Stop strings

/// The text, the reason, and the texts of the pieces, for some stop strings.
fn stopped(stops: &[&str], prompt: &[TokenId]) -> (String, FinishReason, Vec<String>) {
    let model = open_script();
    let mut session = model.session_with(SessionOptions::new().context_length(20));
    let mut sampler = greedy();
    let mut generate = session.generate(prompt, &mut sampler).unwrap();
    for stop in stops {
        generate = generate.stop(*stop);
    }
    let (texts, reason, n) = finish(generate);
    let fed = session.position() - prompt.len();
    assert!(fed == n || fed + 1 == n, "{fed} fed of {n}");
    (texts.concat(), reason, texts)
}

#[test]
fn the_text_ends_before_a_stop_string_however_tokens_cut_it() {
    for stop in ["o", "once", "ce up", " a ", "me", "e,", ", t", "the end.", "."] {
        let (text, reason, _) = stopped(&[stop], &[BOS]);
        let at = STORY.find(stop).unwrap();
        assert_eq!((&*text, reason), (&STORY[..at], FinishReason::StopString(0)), "{stop:?}");
    }
}

#[test]
fn a_stop_string_over_three_tokens_is_found_and_never_shown() {
    let (text, reason, texts) = stopped(&["n a time, the"], &[BOS]);
    assert_eq!((&*text, reason), ("once upo", FinishReason::StopString(0)));
    assert_eq!(texts, ["once", " upo", "", "", ""], "what may begin the stop string is held back");
}

#[test]
fn what_was_held_back_is_shown_when_it_is_no_stop_string_after_all() {
    // " time, the end.!" begins like the story's end and never comes.
    let (text, reason, texts) = stopped(&["time, the end.!"], &[BOS]);
    assert_eq!((&*text, reason), (STORY, FinishReason::EndOfText(EOS)));
    assert_eq!(texts.last().unwrap(), "time, the end.", "flushed at the end");
    let (text, _, texts) = stopped(&["once, "], &[BOS]);
    assert_eq!((&*text, &*texts[0], &*texts[1]), (STORY, "", "once up"), "but for what may begin it again");
    // At the end of the context, too.
    let (text, reason, _) = stopped(&[" ho ha!"], &[LOOP]);
    assert_eq!((&*text, reason), (&*" ho ha".repeat(10), FinishReason::ContextFull));
}

#[test]
fn text_that_is_held_at_max_tokens_comes_with_what_follows() {
    let model = open_script();
    let mut session = model.session();
    let mut sampler = greedy();
    let mut generate = session.generate(&[BOS], &mut sampler).unwrap().max_tokens(2).stop("once upon a");
    let pieces: Vec<_> = generate.by_ref().map(Result::unwrap).collect();
    let shown: Vec<_> = pieces.iter().map(|piece| (piece.token(), piece.as_str())).collect();
    assert_eq!(shown, [(Some(3), ""), (Some(4), "")]);
    assert_eq!(generate.held(), "once upon", "for a text that doesn't go on");
    // It is the stop string: nothing of it is ever shown.
    let mut fork = session.fork().unwrap();
    let (texts, reason, n) = finish(fork.generate("", &mut sampler).unwrap().stop("once upon a"));
    assert_eq!((texts.concat(), reason, n), (String::new(), FinishReason::StopString(0), 1));
    // What that token says after the stop string goes on from there.
    let (texts, ..) = finish(fork.generate("", &mut sampler).unwrap());
    assert_eq!(texts.concat(), " time, the end.");
    // It isn't, with another; and one that is held already ends it at once.
    let mut fork = session.fork().unwrap();
    let (texts, ..) = finish(fork.generate("", &mut sampler).unwrap().stop("once upon us"));
    assert_eq!(texts.concat(), STORY);
    let mut fork = session.fork().unwrap();
    let (texts, reason, n) = finish(fork.generate("", &mut sampler).unwrap().stop(" upon"));
    assert_eq!((&*texts.concat(), reason, n), ("once", FinishReason::StopString(0), 0));
    // A prompt begins another text.
    let generate = session.generate(&[COMMA], &mut sampler).unwrap();
    assert_eq!(generate.held(), "");
    assert_eq!(finish(generate).0.concat(), " the end.");
    assert_eq!(
        session.tokens(),
        [BOS, ONCE, 4, COMMA, 7, DOT],
        "the pending token was fed before the prompt"
    );
}

#[test]
fn the_stop_string_that_comes_first_counts() {
    assert_eq!(stopped(&["end", "time", "zebra"], &[BOS]).1, FinishReason::StopString(1));
    assert_eq!(stopped(&["time,", "time"], &[BOS]).1, FinishReason::StopString(1), "it is complete first");
    assert_eq!(stopped(&["", "end"], &[BOS]).1, FinishReason::StopString(1), "an empty one is ignored");
    assert_eq!(stopped(&["", "zebra"], &[BOS]).0, STORY);
}

#[test]
fn a_stop_string_in_the_prompt_does_not_count() {
    let (text, reason, _) = stopped(&["once"], &[BOS, ONCE]);
    assert_eq!((&*text, reason), (" upon a time, the end.", FinishReason::EndOfText(EOS)));
}

#[test]
fn characters_split_over_tokens_are_whole_and_may_be_stop_strings() {
    assert_eq!(stopped(&[], &[BOS, E_FIRST]).0, "\u{FFFD}.", "the prompt's half character is the prompt's");
    let model = open(&scripted_model(&[0, E_FIRST, 2, 4, 5, 6, 7, 8, 2, 10, 8, 2], 64), &PIECES[..9]);
    for (stop, expected) in [("zebra", "\u{e9}."), ("\u{e9}", ""), (".", "\u{e9}"), ("\u{e9}!", "\u{e9}.")] {
        let mut session = model.session();
        let mut sampler = greedy();
        let (texts, ..) = finish(session.generate(&[BOS], &mut sampler).unwrap().stop(stop));
        assert_eq!(texts.concat(), expected, "{stop}");
    }
}

#[test]
fn a_character_that_is_never_completed_is_replaced_once_at_the_end() {
    let model = open_script();
    let mut session = model.session();
    let mut sampler = greedy();
    let generate = session.generate(&[BOS, LONG], &mut sampler).unwrap();
    let pieces: Vec<_> = generate.map(Result::unwrap).collect();
    let shown: Vec<_> = pieces.iter().map(|piece| (piece.token(), piece.as_str())).collect();
    assert_eq!(shown, [(Some(CUT), ""), (None, "\u{FFFD}")]);
}

#[test]
fn pieces_longer_than_a_short_string_are_whole() {
    let model = open(&scripted_model(&[0, LONG, 2, 4, 5, 6, 7, 8, 2, 10, 8, 2, 13, 12, 1, 2], 64), &PIECES);
    let mut session = model.session();
    let (texts, ..) = finish(session.generate(&[BOS], &mut greedy()).unwrap());
    assert_eq!(texts, ["and a very very long piece that is more than 38 bytes"]);
}

// --- The session afterwards

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
    let model = open_script();
    let mut session = model.session_with(SessionOptions::new().context_length(4));
    finish(session.generate(&[BOS], &mut greedy()).unwrap().max_tokens(2));
    assert_eq!((session.tokens(), session.pending()), (&[BOS, ONCE][..], Some(4)));
    let logits = session.logits().unwrap().to_vec();

    // What is refused changes nothing.
    for (tokens, requested) in [(&[5, 6][..], 5), (&[5, 6, 7], 6)] {
        let errors = [
            session.forward(tokens).map(<[f32]>::len).unwrap_err(),
            session.forward_all(tokens).map(<[f32]>::len).unwrap_err(),
            session.generate(tokens, &mut greedy()).map(|_| ()).unwrap_err(),
        ];
        for error in errors {
            let kind = error.kind();
            let full =
                matches!(kind, ErrorKind::ContextFull { capacity: 4, requested: n } if *n == requested);
            assert!(full, "{error}");
        }
    }
    assert!(matches!(session.forward_all(&[]).unwrap_err().kind(), ErrorKind::EmptyInput));
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
    let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf")).unwrap();
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
    // After what isn't text a text begins: there the dummy space is the tokenizer's and not the
    // text's.
    let mut session = model.session();
    session.forward(&[tokenizer.bos().unwrap()]).unwrap();
    session.generate("me", &mut greedy()).unwrap().max_tokens(0).for_each(|piece| drop(piece.unwrap()));
    assert_eq!(session.tokens(), tokenizer.encode_prompt("me"));
}

// --- Generation in parts

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
    /// It is dropped after so many items.
    Drop(usize),
}

/// A model that says anything, in halves of characters too.
fn rambler() -> Model {
    let shape = common::Shape { tied: true, n_layers: 2, ..script().shape };
    open(&RandomModel::new(shape, 9), &PIECES)
}

/// Generates until `n` tokens in as many parts as it takes; cuts come round again.
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
    assert_eq!(generate.map(|piece| piece.unwrap().token()).collect::<Vec<_>>(), [Some(13)], "not penalised");
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

// --- Errors half-way

#[test]
fn nan_logits_are_a_typed_error_and_end_it() {
    let mut broken = script();
    broken.tok_embeddings[5 * 16 + 5] = f32::NAN; // " a time" can be said, and poisons what follows
    let model = open(&broken, &PIECES);
    let mut session = model.session();
    let mut sampler = greedy();
    let mut generate = session.generate(&[BOS], &mut sampler).unwrap();
    for expected in ["once", " upon", " a time"] {
        assert_eq!(generate.next().unwrap().unwrap().as_str(), expected);
    }
    let error = generate.next().unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NanLogit { .. }), "{error:?}");
    assert!(generate.next().is_none(), "an error ends it");
    assert_eq!(generate.finish_reason(), None);
    drop(generate);
    // The session goes on from before the damage.
    session.truncate(2);
    assert_eq!(session.forward(&[4]).unwrap().iter().filter(|x| x.is_nan()).count(), 0);
}

#[test]
fn nan_in_any_kind_of_weight_is_a_typed_error() {
    type Weight = fn(&mut RandomModel) -> &mut f32;
    let weights: [(&str, Weight); 12] = [
        ("tok_embeddings", |m| &mut m.tok_embeddings[16]), // of BOS
        ("attention_norm", |m| &mut m.layers[0].attention_norm[1]),
        ("wq", |m| &mut m.layers[0].wq[0]),
        ("wk", |m| &mut m.layers[0].wk[0]),
        ("wv", |m| &mut m.layers[0].wv[0]),
        ("wo", |m| &mut m.layers[0].wo[0]),
        ("ffn_norm", |m| &mut m.layers[0].ffn_norm[1]),
        ("w1", |m| &mut m.layers[0].w1[0]),
        ("w2", |m| &mut m.layers[0].w2[0]),
        ("w3", |m| &mut m.layers[0].w3[0]),
        ("norm", |m| &mut m.norm[1]),
        ("output", |m| &mut m.output.as_mut().unwrap()[5]),
    ];
    for (name, weight) in weights {
        let mut broken = script();
        *weight(&mut broken) = f32::NAN;
        let model = open(&broken, &PIECES);
        for sampler in [greedy(), Sampler::new(SamplerOptions::default())] {
            let mut sampler = sampler;
            let mut session = model.session();
            let mut generate = session.generate(&[BOS], &mut sampler).unwrap();
            let error = generate.next().unwrap().map(|piece| piece.to_string()).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::NanLogit { .. }), "{name}: {error:?}");
        }
    }
}

#[test]
fn options_of_the_sampler_that_are_out_of_range_are_an_error_of_the_first_token() {
    let model = open_script();
    let mut session = model.session();
    let mut sampler = Sampler::new(SamplerOptions::new().temperature(-1.0));
    let mut generate = session.generate(&[BOS], &mut sampler).unwrap();
    let error = generate.next().unwrap().map(|piece| piece.to_string()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidOption { name: "temperature", .. }), "{error:?}");
    assert!(generate.next().is_none());
}

// --- Padded vocabularies

#[test]
fn ids_without_a_piece_are_never_generated() {
    // The model would say token 15 after each, which the tokenizer of 14 pieces doesn't have; of
    // the others " ha".
    let mut padded = scripted_model(&[15; 16], 64);
    for value in &mut padded.output.as_mut().unwrap()[12 * 16..13 * 16] {
        *value = 0.5;
    }
    let model = open(&padded, &PIECES[..11]);
    assert_eq!(model.tokenizer().unwrap().vocab_size(), 14);
    assert_eq!(model.config().vocab_size, 16);
    let mut session = model.session();
    assert_eq!(session.forward(&[BOS]).unwrap().len(), 16, "logits are the model's");
    let mut sampler = greedy();
    let pieces: Vec<_> =
        session.generate("", &mut sampler).unwrap().max_tokens(3).map(|piece| piece.unwrap()).collect();
    assert_eq!(pieces.iter().map(babyllama::Piece::token).collect::<Vec<_>>(), [Some(12); 3]);

    for seed in 0..200 {
        let mut sampler = Sampler::new(SamplerOptions::new().temperature(5.0).top_p(1.0).seed(seed));
        let mut session = model.session();
        for piece in session.generate(&[BOS], &mut sampler).unwrap().max_tokens(4) {
            assert!(piece.unwrap().token().is_none_or(|token| token < 14));
        }
    }
    session.forward(&[15]).unwrap(); // a padded id may be fed
}

#[test]
fn a_tokenizer_with_more_pieces_than_the_model_has_logits_is_refused() {
    let tokenizer = Tokenizer::from_llama2c(&tokenizer_bin(&[b"x".as_slice(); 14])).unwrap();
    let error =
        Model::from_bytes_with(script().to_v1(), &ModelOptions::new().tokenizer(tokenizer)).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::VocabMismatch { tokenizer: 17, model: 16 }), "{error:?}");
    assert_eq!(error.to_string(), "the tokenizer has 17 pieces, the model knows only 16 tokens");
}

// --- Sampling in the loop

#[test]
fn penalties_count_the_prompt_and_what_was_said() {
    // " ha" and " ho" would go on for ever; a presence penalty above the margin ends that.
    let model = open_script();
    let mut session = model.session();
    let options = SamplerOptions::new().temperature(0.0).presence_penalty(100.0);
    let mut sampler = Sampler::new(options);
    let generate = session.generate(&[LOOP], &mut sampler).unwrap().max_tokens(3);
    let tokens: Vec<_> = generate.map(|piece| piece.unwrap().token()).collect();
    assert_eq!(tokens[0], Some(13));
    assert_ne!(tokens[1], Some(LOOP), "the prompt's token is penalised");
}

#[test]
fn the_same_seed_says_the_same() {
    let model =
        open(&RandomModel::new(common::Shape { tied: true, n_layers: 2, ..script().shape }, 9), &PIECES);
    let say = |seed| {
        let mut sampler = Sampler::new(SamplerOptions::new().seed(seed));
        let mut session = model.session();
        let generate = session.generate("once", &mut sampler).unwrap().max_tokens(30);
        generate.map(|piece| piece.unwrap().to_string()).collect::<String>()
    };
    assert_eq!(say(3), say(3));
    let different = (0..20).map(say).collect::<std::collections::HashSet<_>>();
    assert!(different.len() > 10, "{different:?}");
}
