//! Stop strings: where a text ends, and what is shown of it.

use babyllama::{FinishReason, SessionOptions, TokenId};

use crate::common::{greedy, scripted_model};
use crate::{
    BOS, COMMA, CUT, DOT, E_FIRST, EOS, LONG, LOOP, ONCE, PIECES, STORY, finish, open_script, open_with,
};

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
    assert_eq!((&*text, &*texts[0], &*texts[1]), (STORY, "", "once up"), "except what may begin it again");
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
    let model = open_with(&scripted_model(&[0, E_FIRST, 2, 4, 5, 6, 7, 8, 2, 10, 8, 2], 64), &PIECES[..9]);
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
    let model =
        open_with(&scripted_model(&[0, LONG, 2, 4, 5, 6, 7, 8, 2, 10, 8, 2, 13, 12, 1, 2], 64), &PIECES);
    let mut session = model.session();
    let (texts, ..) = finish(session.generate(&[BOS], &mut greedy()).unwrap());
    assert_eq!(texts, ["and a very very long piece that is more than 38 bytes"]);
}
