use proptest::prelude::*;

use crate::error::{ErrorKind, TokenId};
use crate::sampler::{Sampler, SamplerOptions, TokenMask};

fn mask_of(allowed: &[bool]) -> TokenMask {
    let mut mask = TokenMask::new(allowed.len());
    for (token, _) in allowed.iter().enumerate().filter(|(_, is_allowed)| **is_allowed) {
        mask.allow(token as TokenId);
    }
    mask
}

#[test]
fn a_mask_holds_what_was_allowed_and_nothing_beyond_the_vocabulary() {
    for n in [0, 1, 31, 32, 33, 100] {
        let mut mask = TokenMask::new(n);
        assert_eq!((mask.vocab_size(), mask.words().len()), (n, n.div_ceil(32)));
        for token in [0, 30, 31, 32, 63, 99, 127, TokenId::MAX] {
            mask.allow(token);
            assert_eq!(mask.is_allowed(token), (token as usize) < n, "{token} of {n}");
        }
        mask.allow_all();
        assert!((0..200).all(|token| mask.is_allowed(token) == ((token as usize) < n)));
        mask.clear();
        assert!((0..200).all(|token| !mask.is_allowed(token)));
    }
}

#[test]
fn a_mask_of_another_length_or_of_nothing_is_refused_without_a_random_number() {
    let mut sampler = Sampler::new(SamplerOptions::new().temperature(1.0).seed(3));
    let mut fresh = sampler.clone();
    let logits = [0.0; 40];
    for n in [0, 1, 39, 41, 64] {
        let mut mask = TokenMask::new(n);
        mask.allow_all();
        let error = sampler.sample_among(&logits, &mask).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::MaskLength { mask, logits: 40 } if *mask == n), "{error}");
    }
    let error = sampler.sample_among(&logits, &TokenMask::new(40)).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NoCandidate), "{error}");
    assert_eq!(sampler.sample(&logits).unwrap(), fresh.sample(&logits).unwrap());
}

fn options() -> impl Strategy<Value = SamplerOptions> {
    let temperature = prop::sample::select(vec![0.0_f32, 0.3, 1.0, 2.0]);
    let top_p = prop::sample::select(vec![0.0_f32, 0.3, 0.9, 1.0]);
    let min_p = prop::sample::select(vec![0.0_f32, 0.05, 0.5]);
    let penalties = prop::sample::select(vec![(1.0_f32, 0.0_f32), (1.3, 0.2), (0.8, -0.5)]);
    (temperature, top_p, 0..6_usize, min_p, penalties, any::<u64>()).prop_map(
        |(t, top_p, k, min_p, p, seed)| {
            let options = SamplerOptions::new().temperature(t).top_p(top_p).top_k(k).min_p(min_p);
            options.repetition_penalty(p.0).frequency_penalty(p.1).presence_penalty(p.1).seed(seed)
        },
    )
}

proptest! {
    #[test]
    fn a_mask_comes_before_all_else_and_takes_the_same_random_numbers(
        options in options(),
        tokens in proptest::collection::vec((-9.0_f32..9.0, any::<bool>()), 1..80),
    ) {
        let (logits, mut allowed): (Vec<f32>, Vec<bool>) = tokens.into_iter().unzip();
        if !allowed.contains(&true) {
            allowed[0] = true;
        }
        let masked: Vec<f32> =
            logits.iter().zip(&allowed).map(|(&l, &ok)| if ok { l } else { f32::NEG_INFINITY }).collect();
        let mut among = Sampler::new(options);
        let mut plain = among.clone();
        let mut free = among.clone();
        for _ in 0..5 {
            let token = among.sample_among(&logits, &mask_of(&allowed)).unwrap();
            prop_assert!(allowed[token as usize]);
            prop_assert_eq!(token, plain.sample(&masked).unwrap());
            free.sample(&logits).unwrap();
            among.accept(token);
            plain.accept(token);
            free.accept(token);
        }
        // One token alone takes a random number too; after that all three are at the same one.
        let mut one = TokenMask::new(logits.len());
        one.allow(0);
        prop_assert_eq!(among.sample_among(&logits, &one).unwrap(), 0);
        let next = free.sample(&logits).unwrap();
        prop_assert!((next as usize) < logits.len());
        prop_assert_eq!(among.sample(&logits).is_ok(), free.sample(&logits).is_ok());
        prop_assert_eq!(format!("{among:?}"), format!("{free:?}"));
    }
}
