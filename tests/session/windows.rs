//! Where all layers have a window, a session holds what is in sight, and computes the same bits.
//!
//! A model whose last layer adds nothing and sees all is the same model, except that its sessions
//! let nothing go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use babyllama::{CacheDtype, ErrorKind, Model, Session, SessionOptions};

use crate::common::gguf::Value;
use crate::common::{RandomModel, Shape, SplitMix64};
use crate::{SHAPE, UNOPTIMIZED, tokens};

/// Not a multiple of the 64 positions whose keys lie together.
const WINDOW: usize = 75;
const CONTEXT: usize = 3200;

/// The model, and the one that keeps all.
fn models() -> [Model; 2] {
    let mut model = RandomModel::new(Shape { n_layers: 3, max_seq_len: CONTEXT, ..SHAPE }, 11);
    model.layers[2].wo.fill(0.0);
    model.layers[2].w2.fill(0.0);
    [true, false].map(|is_windowed| {
        let mut file = model.to_gguf(1e-5, 1e4);
        file.set("llama.attention.sliding_window", Value::U32(WINDOW as u32));
        let layers = [true, true, is_windowed].map(Value::Bool).into();
        file.set("llama.attention.sliding_window_pattern", Value::Array(7, layers));
        Model::from_bytes(file.to_bytes()).unwrap()
    })
}

fn bits(session: &Session) -> Vec<u32> {
    let [logits, hidden] = [session.logits().unwrap(), session.hidden().unwrap()];
    logits.iter().chain(hidden).map(|x| x.to_bits()).collect()
}

fn saved(session: &Session) -> Vec<u8> {
    let mut saved = Vec::new();
    session.save(&mut saved).unwrap();
    saved
}

/// A session that has read a text in a single call.
fn fresh(model: &Model, options: SessionOptions, text: &[u32]) -> Session {
    let mut session = model.session_with(options);
    session.forward(text).unwrap();
    session
}

/// Has a session read the tokens to their end, in one of many ways; its forks live on.
fn read(
    model: &Model,
    options: SessionOptions,
    text: &[u32],
    rng: &mut SplitMix64,
) -> (Session, Vec<Session>) {
    let (mut session, mut forks) = (model.session_with(options), Vec::new());
    while session.position() < text.len() {
        let position = session.position();
        let rest = &text[position..];
        let most = [1, 9, 80, 400, 1500][rng.below(5)];
        let n = 1 + rng.below(rest.len().min(most));
        match rng.below(9) {
            0 => {
                let guess = &rest[n..rest.len().min(n + 5)];
                session.forward_guessing(&rest[..n], guess).unwrap();
            }
            1 => drop(session.forward_guessing(&rest[..n], &[7, 7, 1]).unwrap()),
            2 => {
                let fork = session.fork().unwrap();
                forks.push(std::mem::replace(&mut session, fork));
            }
            3 => session.truncate(position - rng.below(position.min(500) + 1)),
            4 if rng.below(4) == 0 => session.truncate(rng.below(position + 1)),
            5 => session = model.restore(&saved(&session)[..], options).unwrap(),
            6 => {
                let mut other = model.session_with(options);
                let other_tokens = tokens(1 + rng.below(100), 61);
                let feeds = [other.feed(&other_tokens), session.feed(&rest[..n])];
                model.forward_together(feeds).unwrap();
            }
            7 => {
                let mut text = text[..position + n].to_vec();
                text[(position + n).saturating_sub(rng.below(200) + 1)] ^= 1;
                let kept = session.keep_prefix(&text);
                assert_eq!(session.tokens(), &text[..kept]);
            }
            _ => drop(session.forward(&rest[..n]).unwrap()),
        }
    }
    (session, forks)
}

#[test]
fn the_laws_hold_where_a_session_holds_the_window_alone() {
    let [model, whole] = models();
    let mut rng = SplitMix64::new(8);
    for &dtype in CacheDtype::ALL {
        let options = SessionOptions::new().cache_dtype(dtype);
        for _ in 0..if UNOPTIMIZED { 2 } else { 8 } {
            let text = tokens(1 + rng.below(CONTEXT), 61);
            let expected = fresh(&whole, options, &text);
            let (session, forks) = read(&model, options, &text, &mut rng);
            assert_eq!(bits(&session), bits(&expected), "{} tokens", text.len());
            let at_once = fresh(&model, options, &text);
            assert_eq!(bits(&at_once), bits(&expected));
            assert!(saved(&session) == saved(&at_once), "{} tokens: files differ", text.len());
            for mut fork in forks.into_iter().take(3) {
                let end = text.len().min(fork.position() + 70);
                if fork.position() < end {
                    fork.forward(&text[fork.position()..end]).unwrap();
                    assert_eq!(bits(&fork), bits(&fresh(&whole, options, &text[..end])));
                }
            }
        }
    }
}

#[test]
fn memory_does_not_grow_with_the_text() {
    let [model, whole] = models();
    let text = tokens(CONTEXT, 61);
    let options = SessionOptions::new();
    let (mut session, mut all) = (model.session(), whole.session());
    let mut most = 0;
    for part in text.chunks(90) {
        session.forward(part).unwrap();
        most = most.max(session.memory_used());
    }
    all.forward(&text).unwrap();
    assert_eq!(bits(&session), bits(&all));
    // Keys and values of the window and four segments; and tokens and results.
    let position_bytes = 3 * 2 * 2 * 4 * 4; // layers, keys and values, heads, f32 of 4 dimensions
    let others = all.memory_used() - CONTEXT.next_multiple_of(64) * position_bytes;
    assert!(most - others <= (WINDOW + 4 * 512) * position_bytes, "{most}, {others}");
    assert!(options.memory_bytes(model.config()) < options.memory_bytes(whole.config()));
    assert!(saved(&session).len() < saved(&all).len() / 3);
    // In a context that is hardly longer than the window all is kept.
    let short = options.context_length(1000);
    assert_eq!(short.memory_bytes(model.config()), short.memory_bytes(whole.config()));
}

#[test]
fn what_is_out_of_sight_is_read_again() {
    let [model, whole] = models();
    let text = tokens(1700, 61);
    let options = SessionOptions::new();
    let next = |session: &mut Session| {
        session.forward(&text[300..310]).unwrap();
        bits(session)
    };
    let expected = bits(&fresh(&whole, options, &text[..310]));
    let gone = || {
        let mut session = fresh(&model, options, &text);
        session.truncate(300);
        assert_eq!((session.position(), session.logits()), (300, None));
        session
    };
    assert_eq!(next(&mut gone()), expected);
    // Forks, files and companions of it.
    assert_eq!(next(&mut gone().fork().unwrap()), expected);
    let file = saved(&gone());
    assert!(file.len() < 3000, "{}", file.len());
    let mut restored = model.restore(&file[..], options).unwrap();
    assert_eq!((restored.tokens(), restored.logits()), (&text[..300], None));
    assert_eq!(next(&mut restored), expected);
    let (mut one, mut other) = (gone(), gone());
    model.forward_together([one.feed(&text[300..310]), other.feed(&text[300..310]).all_logits()]).unwrap();
    assert!(bits(&one) == expected && bits(&other) == expected);
    // To nothing, and to what is kept.
    let mut session = fresh(&model, options, &text);
    assert_eq!(session.keep_prefix(&[60, 60]), 0);
    session.forward(&text[..310]).unwrap();
    assert_eq!(bits(&session), expected);
    // To before what a file had, whose first position isn't the first of a block.
    let mut session = model.restore(&saved(&fresh(&model, options, &text[..92]))[..], options).unwrap();
    session.truncate(2);
    session.forward(&text[2..70]).unwrap();
    assert_eq!(bits(&session), bits(&fresh(&whole, options, &text[..70])));
    // A pass that is cancelled meanwhile takes nothing from the text.
    let mut session = gone();
    let flag = Arc::new(AtomicBool::new(true));
    session.cancel_on(Arc::clone(&flag));
    let error = session.forward(&text[300..310]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Cancelled));
    assert_eq!((session.tokens(), session.logits()), (&text[..300], None));
    flag.store(false, Ordering::Relaxed);
    assert_eq!(next(&mut session), expected);
}

#[test]
fn a_saved_window_goes_on_in_contexts_of_any_length() {
    let [model, whole] = models();
    let text = tokens(2100, 61);
    let long = SessionOptions::new();
    let short = long.context_length(2100);
    let expected = bits(&fresh(&whole, long, &text));
    let file = saved(&fresh(&model, long, &text[..1900]));
    let mut in_short = model.restore(&file[..], short).unwrap();
    in_short.forward(&text[1900..2000]).unwrap();
    let mut again = model.restore(&saved(&in_short)[..], long).unwrap();
    again.forward(&text[2000..]).unwrap();
    in_short.forward(&text[2000..]).unwrap();
    assert!(bits(&again) == expected && bits(&in_short) == expected);
    // A file of a session that kept all.
    let all = saved(&fresh(&model, short, &text[..1900]));
    assert!(all.len() > 2 * file.len());
    let mut session = model.restore(&all[..], long).unwrap();
    session.forward(&text[1900..]).unwrap();
    assert_eq!(bits(&session), expected);
    // Damaged, it is refused.
    for at in (0..file.len()).step_by(977) {
        let mut bad = file.clone();
        bad[at] ^= 4;
        assert!(model.restore(&bad[..], long).is_err(), "byte {at}");
    }
}

#[test]
fn a_step_that_is_cancelled_between_two_passes_goes_on_where_it_was() {
    let [model, _] = models();
    let text = tokens(1100, SHAPE.vocab_size);
    let mut partly = 0;
    // The cache of a window has room for a while, so some steps take two passes.
    for round in 0..3000 {
        let before = 384 + 8 * (round % 16);
        let mut session = model.session();
        let stop = Arc::new(AtomicBool::new(false));
        session.forward(&text[..before]).unwrap();
        session.cancel_on(Arc::clone(&stop));
        let mut feed = session.feed(&text[before..before + 128]);
        let failed = std::thread::scope(|scope| {
            let stop = &stop;
            scope.spawn(move || {
                (0..round * 97 % 20_000).for_each(|_| std::hint::spin_loop());
                stop.store(true, Ordering::Relaxed);
            });
            feed.step().is_err()
        });
        stop.store(false, Ordering::Relaxed);
        let left = feed.remaining();
        partly += usize::from(failed && left < 128);
        while feed.step().unwrap().is_some() {}
        assert_eq!(session.tokens(), &text[..before + 128], "{left} were left");
        if partly == 3 {
            return;
        }
    }
    panic!("{partly} steps were cancelled between two passes");
}
