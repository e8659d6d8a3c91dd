//! Saved sessions: restored, they are the same; damaged or of another model, they are refused.

use babyllama::{CacheDtype, ErrorKind, Isa, Model, ModelOptions, SessionOptions};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::common::{Layer, RandomModel, SplitMix64, open, open_on, refuses};
use crate::fresh::{Fresh, observe, saved, some_tokens};
use crate::{SHAPE, UNOPTIMIZED, open_small, small_files};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if UNOPTIMIZED { 10 } else { 100 }))]

    #[test]
    fn law_07_a_restored_session_is_the_one_that_was_saved(
        file in 0..3_usize,
        dtype in select(CacheDtype::ALL),
        parts in vec(0..150_usize, 0..3),
        truncated in prop_oneof![Just(400), 0..300_usize],
        forked in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut fresh = Fresh::new(&open(small_files()[file].1.clone()), dtype);
        let mut rng = SplitMix64::new(seed);
        let mut session = fresh.session();
        for n in parts.into_iter().filter(|&n| n > 0) {
            session.forward_guessing(&some_tokens(&mut rng, n), &some_tokens(&mut rng, 9)).unwrap();
        }
        session.truncate(truncated);
        let fork = session.fork().unwrap();
        if forked {
            session.forward(&[1]).unwrap();
        }
        for session in [session, fork] {
            let text = session.tokens().to_vec();
            let bytes = saved(&session);
            let with_more = [&bytes[..], b"more"].concat();
            let mut from = &with_more[..];
            let restored = fresh.model.restore(&mut from, fresh.options).unwrap();
            prop_assert_eq!(from, b"more", "it reads no further than the session's end");
            prop_assert_eq!(observe(&restored), observe(&session));
            prop_assert_eq!(restored.capacity(), session.capacity());
            fresh.check_all(&restored, &text, "restored");
            // In a context that it fills, too.
            let options = fresh.options.context_length(text.len());
            let full = fresh.model.restore(&bytes[..], options).unwrap();
            prop_assert_eq!(observe(&full), observe(&session));
            if let Some(shorter) = text.len().checked_sub(1) {
                let refused = fresh.model.restore(&bytes[..], options.context_length(shorter));
                refuses!(refused, ErrorKind::ContextFull { capacity, requested }
                    if (*capacity, *requested) == (shorter, text.len()));
            }
        }
    }

    #[test]
    fn law_07_any_damage_is_refused(
        dtype in select(CacheDtype::ALL),
        n in 0..20_usize,
        changes in vec((0..5_u8, any::<u32>(), any::<u32>()), 1..4),
        seed in any::<u64>(),
    ) {
        let fresh = Fresh::new(&open_small(), dtype);
        let text = if n == 0 { vec![] } else { some_tokens(&mut SplitMix64::new(seed), n) };
        let whole = saved(&fresh.reader(&text));
        let mut bytes = whole.clone();
        for (what, at, other) in changes {
            let (at, other) = (at as usize % bytes.len().max(1), other as usize % bytes.len().max(1));
            match what {
                _ if bytes.is_empty() => {}
                0 => bytes[at] = other as u8,
                1 => bytes.swap(at, other),
                2 => drop(bytes.remove(at)),
                3 => bytes.insert(at, other as u8),
                _ => bytes.truncate(at),
            }
        }
        if !bytes.starts_with(&whole) {
            refuses!(fresh.model.restore(&bytes[..], fresh.options), ErrorKind::SavedSession { .. });
        }
        prop_assert_eq!(saved(&fresh.model.restore(&whole[..], fresh.options).unwrap()), whole);
    }
}

#[test]
fn law_07_every_damaged_byte_is_refused() {
    let model = open_small();
    let mut session = model.session();
    session.forward(&[1, 2, 0, 60, 7, 7, 9, 8, 3]).unwrap();
    let saved = saved(&session);
    let restore = |bytes: &[u8]| model.restore(bytes, SessionOptions::new());
    let step = if UNOPTIMIZED { 37 } else { 1 };
    for at in (0..saved.len()).step_by(step) {
        let mut damaged = saved.clone();
        damaged[at] ^= 1 << (at % 8);
        let error = restore(&damaged).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::SavedSession { .. }), "byte {at}: {error}");
        let error = restore(&saved[..at]).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::SavedSession { .. }), "up to {at}: {error}");
    }
    assert_eq!(observe(&restore(&saved).unwrap()), observe(&session));
}

/// One of a model's tensors.
type Tensor = fn(&mut RandomModel) -> &mut Vec<f32>;

/// Models that differ from [`open_small`]'s in one thing.
fn others() -> Vec<(String, Model)> {
    let model = RandomModel::new(SHAPE, 11);
    let mut others = vec![("another seed".to_owned(), open(RandomModel::new(SHAPE, 12).to_v1()))];
    others.push(("int8".into(), open(model.to_v2(8))));
    let tensors: [(&str, Tensor); 11] = [
        ("tok_embeddings", |model| &mut model.tok_embeddings),
        ("norm", |model| &mut model.norm),
        ("attention_norm", |model| &mut layer(model).attention_norm),
        ("wq", |model| &mut layer(model).wq),
        ("wk", |model| &mut layer(model).wk),
        ("wv", |model| &mut layer(model).wv),
        ("wo", |model| &mut layer(model).wo),
        ("ffn_norm", |model| &mut layer(model).ffn_norm),
        ("w1", |model| &mut layer(model).w1),
        ("w2", |model| &mut layer(model).w2),
        ("w3", |model| &mut layer(model).w3),
    ];
    for (name, tensor) in tensors {
        for at_end in [false, true] {
            let mut other = model.clone();
            let weights = tensor(&mut other);
            let i = if at_end { weights.len() - 1 } else { 0 };
            weights[i] = f32::from_bits(weights[i].to_bits() ^ 1);
            others.push((format!("{name} {i}"), open(other.to_v1())));
        }
    }
    let options = ModelOptions::new().threads(1);
    let overridden = [
        ("norm_eps", options.clone().norm_eps(1e-6)),
        ("rope_theta", options.clone().rope_theta(10_001.0)),
        ("max_seq_len", options.clone().max_seq_len(701)),
    ];
    for (name, options) in overridden {
        others.push((name.into(), Model::from_bytes_with(model.to_v1(), &options).unwrap()));
    }
    others
}

/// The last layer.
fn layer(model: &mut RandomModel) -> &mut Layer {
    model.layers.last_mut().unwrap()
}

#[test]
fn law_07_sessions_of_other_models_and_options_are_refused_by_name() {
    let model = open_small();
    let mut session = model.session();
    session.forward(&[1, 2, 3]).unwrap();
    let saved = saved(&session);
    let refused = |model: &Model, options: SessionOptions, part: &str| {
        refuses!(model.restore(&saved[..], options), ErrorKind::SavedSession { .. }, part);
    };
    let options = SessionOptions::new();
    for (name, other) in others() {
        let error = other.restore(&saved[..], options).map(|_| name).unwrap_err();
        assert!(error.to_string().contains("another model"), "{error}");
        // It left nothing there: the other's own sessions are saved and restored.
        let mut theirs = other.session();
        theirs.forward(&[1, 2, 3]).unwrap();
        let restored = other.restore(&crate::fresh::saved(&theirs)[..], options).unwrap();
        assert_eq!(observe(&restored), observe(&theirs));
    }
    for isa in Isa::available().into_iter().filter(|isa| *isa != model.isa()) {
        refused(&open_on(RandomModel::new(SHAPE, 11).to_v1(), isa, 1), options, model.isa().name());
    }
    refused(&model, options.cache_dtype(CacheDtype::F16), "cache_dtype");
    for other in [&b""[..], b"bbll", &[b'x'; 99]] {
        refuses!(model.restore(other, options), ErrorKind::SavedSession { .. }, "it isn't a saved session");
    }
}
