//! DRY against its definition: pull request 5677 of text-generation-webui, with breakers of several
//! tokens.

use super::*;

/// What is subtracted from each of `n_logits`, by trying every place and every length.
fn slow_dry(options: &SamplerOptions, text: &[TokenId], n_logits: usize) -> Vec<f64> {
    let text = &text[text.len().saturating_sub(options.dry_window)..];
    let breakers = &options.dry_breakers;
    let mut lengths = vec![0; n_logits];
    for end in 1..text.len() {
        // Text before `end`, beside the text before its own end.
        let mut length = 0;
        while length < end && text[end - 1 - length] == text[text.len() - 1 - length] {
            if breakers.iter().any(|breaker| text[..text.len() - length].ends_with(breaker)) {
                break;
            }
            length += 1;
        }
        if let Some(longest) = lengths.get_mut(text[end] as usize) {
            *longest = length.max(*longest);
        }
    }
    let penalty = |(token, &length): (usize, &usize)| {
        let is_breaker = breakers.contains(&vec![token as TokenId]);
        if is_breaker || length < options.dry_allowed_length.max(1) {
            return 0.0;
        }
        let mut penalty = f64::from(options.dry_multiplier);
        for _ in options.dry_allowed_length..length {
            penalty *= f64::from(options.dry_base);
        }
        penalty
    };
    lengths.iter().enumerate().map(penalty).collect()
}

/// What the sampler makes of logits after a text.
fn adjusted(options: &SamplerOptions, text: &[TokenId], logits: &[f32]) -> Vec<f32> {
    let mut sampler = sampler(options.clone());
    text.iter().for_each(|&token| sampler.accept(token));
    sampler.sample(logits).unwrap();
    sampler.probs.clone()
}

/// Few tokens and copies of parts, so that much repeats.
fn any_text() -> impl Strategy<Value = Vec<TokenId>> {
    let token = || prop_oneof![8 => 0..4_u32, 1 => 4..9_u32];
    let parts =
        proptest::collection::vec((proptest::collection::vec(token(), 0..12), any::<[u8; 2]>()), 1..6);
    parts.prop_map(|parts| {
        let mut text = Vec::new();
        for (part, [start, length]) in parts {
            text.extend(part);
            let start = usize::from(start) % (text.len() + 1);
            let end = (start + usize::from(length) % 20).min(text.len());
            text.extend_from_within(start..end);
        }
        text
    })
}

fn any_dry() -> impl Strategy<Value = SamplerOptions> {
    let breaker = proptest::collection::vec(0..9_u32, 1..4);
    let window = prop_oneof![1..30_usize, Just(usize::MAX)];
    let multiplier = prop_oneof![4 => 0.1..3.0_f32, 1 => Just(f32::MAX)];
    let base = prop_oneof![4 => 1.0..3.0_f32, 1 => Just(1.0), 1 => Just(f32::MAX)];
    (multiplier, base, 0..6_usize, window, proptest::collection::vec(breaker, 0..3)).prop_map(
        |(multiplier, base, allowed_length, window, breakers)| {
            let options = greedy().dry_multiplier(multiplier).dry_base(base).dry_window(window);
            options.dry_allowed_length(allowed_length).dry_breakers(breakers)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 500 } else { 4000 }))]

    #[test]
    fn dry_subtracts_what_its_definition_says(options in any_dry(), text in any_text()) {
        let logits = [1.5, -0.5, 0.0, 7.25, -3.0, 2.0, f32::NEG_INFINITY, 0.5]; // none of token 8
        let found = adjusted(&options, &text, &logits);
        for ((&penalty, logit), found) in slow_dry(&options, &text, 8).iter().zip(logits).zip(found) {
            let expected = f64::from(logit) - penalty.min(f64::from(f32::MAX));
            // The reference rounds each product in f64, and the sampler the penalty and the
            // difference in f32.
            let bound = penalty.min(f64::from(f32::MAX)) * 2_f64.powi(-23) + expected.abs() * 2_f64.powi(-24);
            if penalty == 0.0 {
                prop_assert_eq!(found, logit);
            } else if expected.is_finite() {
                prop_assert!((f64::from(found) - expected).abs() <= bound, "{} {}", found, expected);
            } else {
                prop_assert_eq!(f64::from(found), expected);
            }
        }
    }

    #[test]
    fn only_the_remembered_tokens_count(
        options in any_dry(),
        text in any_text(),
        frequency_penalty in prop_oneof![Just(0.0), 0.1..1.0_f32],
        penalty_window in 1..20_usize,
    ) {
        let options = options.frequency_penalty(frequency_penalty).penalty_window(penalty_window);
        let mut taken_over = sampler(options.clone());
        taken_over.accept(3);
        taken_over.accept_only(&text);
        taken_over.sample(&[1.0; 9]).unwrap();
        prop_assert_eq!(&taken_over.probs, &adjusted(&options, &text, &[1.0; 9]));
    }
}

#[test]
fn dry_penalty_grows_with_the_repetition() {
    let options = greedy().dry_multiplier(0.5).dry_base(2.0);
    let penalties = |text: &[TokenId]| adjusted(&options, text, &[0.0; 8]);
    assert_eq!(penalties(&[1, 2, 3, 4, 2])[3], 0.0, "one token is allowed");
    assert_eq!(penalties(&[1, 2, 3, 4, 1, 2])[3], -0.5);
    assert_eq!(penalties(&[0, 1, 2, 3, 4, 0, 1, 2])[3], -1.0);
    let options = options.dry_breakers(vec![vec![1], vec![6, 5]]);
    let penalties = |text: &[TokenId]| adjusted(&options, text, &[0.0; 8]);
    assert_eq!(penalties(&[0, 1, 2, 4, 3, 7, 0, 1, 2, 4])[3], -0.5, "after the breaker");
    assert_eq!(penalties(&[6, 5, 2, 3, 7, 6, 5, 2])[3], 0.0);
    assert_eq!(penalties(&[5, 5, 2, 3, 7, 5, 5, 2])[3], -1.0, "half a breaker is none");
    assert_eq!(penalties(&[2, 3, 1, 4, 2, 3])[1], 0.0, "a breaker isn't penalized");
}
