//! Long RoPE factors: a session's capacity chooses them for its whole text, so that no cut, fork or
//! companion changes a bit.

use babyllama::{CacheDtype, ErrorKind, Model, RopeScaling, Session, SessionOptions};

use crate::common::gguf::Value;
use crate::common::{RandomModel, assert_says, open, refuses};
use crate::fresh::{bits, saved};
use crate::{SHAPE, tokens};

const ORIGINAL: usize = 40;
const SHORT: [f32; 2] = [1.0, 1.5];
const LONG: [f32; 2] = [2.0, 30.0];

fn model() -> Model {
    let mut file = RandomModel::new(SHAPE, 11).to_gguf(1e-5, 1e4);
    file.set("llama.rope.scaling.type", Value::str("longrope"))
        .set("llama.rope.scaling.original_context_length", Value::U32(ORIGINAL as u32));
    file.tensor("rope_factors_short.weight", &[2], &SHORT);
    file.tensor("rope_factors_long.weight", &[2], &LONG);
    open(file.to_bytes())
}

/// The same weights with one set of factors for every context.
fn with_factors(factors: [f32; 2]) -> Model {
    let mut file = RandomModel::new(SHAPE, 11).to_gguf(1e-5, 1e4);
    file.tensor("rope_freqs.weight", &[2], &factors);
    open(file.to_bytes())
}

fn session(model: &Model, capacity: usize) -> Session {
    model.session_with(SessionOptions::new().context_length(capacity))
}

/// What a session gives of a text that it reads in parts of `step`.
fn read(mut session: Session, text: &[u32], step: usize) -> Vec<u32> {
    text.chunks(step).for_each(|part| drop(session.forward(part).unwrap().to_vec()));
    bits(&session)
}

#[test]
fn the_capacity_chooses_for_the_whole_text() {
    let (model, short, long) = (model(), with_factors(SHORT), with_factors(LONG));
    let scaling = model.config().rope_scaling;
    assert!(matches!(scaling, RopeScaling::Long { original_context_length: ORIGINAL, magnitude: 1.0, .. }));
    for n in [1, 7, ORIGINAL] {
        let text = tokens(n, SHAPE.vocab_size);
        for step in [1, 3, n] {
            for capacity in [n, ORIGINAL] {
                assert_eq!(read(session(&model, capacity), &text, step), read(short.session(), &text, step));
            }
            for capacity in [ORIGINAL + 1, 700, 1000] {
                assert_eq!(read(session(&model, capacity), &text, step), read(long.session(), &text, step));
            }
        }
        let by_default = read(model.session(), &text, n);
        assert_eq!(by_default, read(long.session(), &text, 1), "the model was made for 700 positions");
        assert!(n == 1 || by_default != read(short.session(), &text, n));
    }
    // Across the original length, too.
    let text = tokens(2 * ORIGINAL, SHAPE.vocab_size);
    let expected = read(long.session(), &text, text.len());
    for step in [1, ORIGINAL - 1, ORIGINAL, text.len()] {
        assert_eq!(read(model.session(), &text, step), expected, "{step} at a time");
    }
}

#[test]
fn sessions_of_both_kinds_are_fed_together() {
    let model = model();
    let (first, second) = (tokens(9, SHAPE.vocab_size), tokens(20, SHAPE.vocab_size));
    for capacities in [[ORIGINAL, 700], [700, ORIGINAL], [ORIGINAL, ORIGINAL], [700, 700]] {
        let [mut one, mut other] = capacities.map(|capacity| session(&model, capacity));
        model.forward_together([one.feed(&first), other.feed(&second)]).unwrap();
        model.forward_together([other.feed(&[5]), one.feed(&[7, 8]).guessing(&[3])]).unwrap();
        let alone = |capacity, parts: [&[u32]; 2]| read(session(&model, capacity), &parts.concat(), 4);
        assert_eq!(bits(&one), alone(capacities[0], [&first, &[7, 8]]));
        assert_eq!(bits(&other), alone(capacities[1], [&second, &[5]]));
    }
}

#[test]
fn forks_and_what_is_taken_back_keep_the_choice() {
    let model = model();
    let text = tokens(ORIGINAL, SHAPE.vocab_size);
    for capacity in [ORIGINAL, 700] {
        let fresh = |text: &[u32]| read(session(&model, capacity), text, text.len());
        let mut one = session(&model, capacity);
        one.forward(&text[..30]).unwrap();
        let mut fork = one.fork().unwrap();
        assert_eq!(fork.capacity(), capacity);
        fork.forward(&text[30..]).unwrap();
        assert_eq!(bits(&fork), fresh(&text));
        one.truncate(3);
        one.forward(&text[3..20]).unwrap();
        assert_eq!(bits(&one), fresh(&text[..20]));
        let other = [&text[..8], &[9]].concat();
        let kept = one.keep_prefix(&other);
        assert!(kept >= 8);
        one.forward(&other[kept..]).unwrap();
        assert_eq!(bits(&one), fresh(&other));
    }
}

#[test]
fn a_saved_session_is_restored_only_with_its_own_factors() {
    let model = model();
    let text = tokens(12, SHAPE.vocab_size);
    let options = |capacity| SessionOptions::new().context_length(capacity).cache_dtype(CacheDtype::F16);
    for (made, same, other, says) in [
        (ORIGINAL, [12, 30], [ORIGINAL + 1, 700], ["short RoPE factors", "takes the long ones"]),
        (ORIGINAL + 1, [100, 700], [12, ORIGINAL], ["long RoPE factors", "takes the short ones"]),
    ] {
        let mut session = model.session_with(options(made));
        session.forward(&text).unwrap();
        let bytes = saved(&session);
        for capacity in same {
            let mut restored = model.restore(&bytes[..], options(capacity)).unwrap();
            assert_eq!(bits(&restored), bits(&session));
            if capacity > text.len() {
                let mut go_on = session.fork().unwrap();
                assert_eq!(restored.forward(&[4]).unwrap(), go_on.forward(&[4]).unwrap());
            }
        }
        for capacity in other {
            let error = model.restore(&bytes[..], options(capacity)).unwrap_err();
            let both = [says[0], says[1], &format!("{capacity} positions"), "no more than 40"];
            assert_says(&error.to_string(), &both);
            refuses!(model.restore(&bytes[..], options(capacity)), ErrorKind::SavedSession { .. });
        }
    }
    // Any other model has no such choice.
    let plain = with_factors(LONG);
    let mut session = plain.session_with(options(12));
    session.forward(&text).unwrap();
    plain.restore(&saved(&session)[..], options(700)).unwrap();
}
