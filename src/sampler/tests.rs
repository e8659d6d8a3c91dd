use proptest::prelude::*;

use super::{Rng, *};

mod dry;
mod golden;
mod reference;

fn sampler(options: SamplerOptions) -> Sampler {
    Sampler::new(options)
}

fn greedy() -> SamplerOptions {
    SamplerOptions::new().temperature(0.0)
}

/// Plain sampling from the softmax.
fn plain() -> SamplerOptions {
    SamplerOptions::new().top_p(1.0)
}

/// How often each token is drawn.
fn counts(options: SamplerOptions, logits: &[f32], draws: usize) -> Vec<usize> {
    let mut sampler = sampler(options);
    let mut counts = vec![0; logits.len()];
    for _ in 0..draws {
        counts[sampler.sample(logits).unwrap() as usize] += 1;
    }
    counts
}

/// The tokens that options leave of logits, and their probabilities, in the order of ids.
fn kept(options: &SamplerOptions, logits: &[f32]) -> Vec<(TokenId, f64)> {
    // A top-k of all changes nothing, and has all of them listed.
    let top_k = if options.top_k == 0 { usize::MAX } else { options.top_k };
    let mut sampler = sampler(options.clone().top_k(top_k));
    sampler.sample(logits).unwrap();
    let keys = sampler.keys.iter();
    let mut left: Vec<_> =
        keys.map(|&key| (key as TokenId, f64::from(sampler.probs[key as u32 as usize]))).collect();
    left.sort_by_key(|&(token, _)| token);
    let sum: f64 = left.iter().map(|&(_, p)| p).sum();
    left.into_iter().map(|(token, p)| (token, p / sum)).collect()
}

/// The counts must be within five standard deviations of the binomial distribution.
#[track_caller]
fn assert_distribution(counts: &[usize], probs: &[f64]) {
    let draws = counts.iter().sum::<usize>() as f64;
    for (token, (&count, &p)) in counts.iter().zip(probs).enumerate() {
        let bound = 5.0 * (draws * p * (1.0 - p)).sqrt();
        let expected = draws * p;
        assert!(
            (count as f64 - expected).abs() <= bound,
            "token {token}: {count}, expected {expected} +- {bound}"
        );
    }
}

/// Logits whose softmax is these probabilities.
fn logits_of(probs: &[f64]) -> Vec<f32> {
    probs.iter().map(|p| p.ln() as f32).collect()
}

#[test]
fn random_numbers_are_those_of_run_c() {
    // Computed by a C program from the formula.
    let expected: [(u64, [u32; 6]); 6] = [
        (1, [1206177355, 2882512552, 3117485455, 1303648416, 241277360, 3362212811]),
        (7, [3522932607, 3986975863, 383753578, 462256277, 1608619149, 1749228782]),
        (42, [1456360119, 3359763283, 3393612768, 4054632243, 3283045847, 3589475362]),
        (133742, [3033531262, 2674377904, 2312864567, 2287415643, 1408443089, 3731947629]),
        (u64::MAX, [4180462053, 2415166680, 879531507, 3310800028, 1814914367, 3718712142]),
        (0, [226735074, 1422150777, 2823156546, 2104363911, 2430129893, 2649149199]),
    ];
    for (seed, numbers) in expected {
        let (mut integers, mut floats) = (Rng::new(seed), Rng::new(seed));
        for number in numbers {
            assert_eq!(integers.next_u32(), number, "seed {seed}");
            assert_eq!(floats.next_f32(), (number >> 8) as f32 / 16_777_216.0);
        }
    }
}

#[test]
fn temperature_zero_takes_the_lowest_of_the_greatest_and_no_coin() {
    let mut sampler = sampler(greedy());
    let before = sampler.rng.clone();
    assert_eq!(sampler.sample(&[1.0, 3.0, 3.0, -5.0]).unwrap(), 1);
    assert_eq!(sampler.sample(&[0.0, -0.0]).unwrap(), 0);
    assert_eq!(sampler.sample(&[f32::NEG_INFINITY, f32::MIN]).unwrap(), 1);
    assert_eq!(sampler.rng, before);
}

#[test]
fn one_coin_is_drawn_for_each_token() {
    for options in [plain(), SamplerOptions::default(), SamplerOptions::new().top_k(2)] {
        let mut sampler = sampler(options);
        let mut rng = sampler.rng.clone();
        for logits in [&[0.0][..], &[1.0, 2.0, 3.0], &[f32::INFINITY, 0.0]] {
            sampler.sample(logits).unwrap();
            rng.next_f32();
            assert_eq!(sampler.rng, rng);
        }
        sampler.sample(&[f32::NAN]).unwrap_err();
        assert_eq!(sampler.rng, rng, "an error takes no coin");
    }
}

#[test]
fn tokens_are_drawn_by_their_probability() {
    let probs = [0.5, 0.25, 0.125, 0.0625, 0.0625];
    assert_distribution(&counts(plain(), &logits_of(&probs), 40_000), &probs);
}

#[test]
fn temperature_is_an_exponent_of_the_probabilities() {
    let options = plain().temperature(0.5);
    assert_distribution(
        &counts(options, &logits_of(&[0.6, 0.3, 0.1]), 40_000),
        &[36.0 / 46.0, 9.0 / 46.0, 1.0 / 46.0],
    );
}

#[test]
fn top_p_keeps_the_token_that_crosses_it() {
    let logits = logits_of(&[0.1, 0.2, 0.4, 0.3]);
    let options = |top_p| SamplerOptions::new().top_p(top_p);
    assert_distribution(&counts(options(0.6), &logits, 20_000), &[0.0, 0.0, 4.0 / 7.0, 3.0 / 7.0]);
    assert_distribution(&counts(options(0.8), &logits, 20_000), &[0.0, 2.0 / 9.0, 4.0 / 9.0, 3.0 / 9.0]);
    assert_distribution(&counts(options(1e-9), &logits, 1_000), &[0.0, 0.0, 1.0, 0.0]);
    for off in [0.0, -1.0, 1.0, 7.0, f32::INFINITY] {
        assert_eq!(counts(options(off), &logits, 1_000), counts(plain(), &logits, 1_000));
    }
}

#[test]
fn top_p_takes_one_token_when_its_cutoff_drops_all() {
    assert_eq!(counts(SamplerOptions::new().top_p(1e-9), &[1.0; 1000], 10)[0], 10);
    assert_eq!(counts(SamplerOptions::default(), &[-7.0], 10), [10]);
}

#[test]
fn top_k_keeps_the_likeliest() {
    let logits = logits_of(&[0.1, 0.2, 0.4, 0.3]);
    let options = plain().top_k(2);
    assert_distribution(&counts(options, &logits, 20_000), &[0.0, 0.0, 4.0 / 7.0, 3.0 / 7.0]);
    let ties = counts(plain().top_k(2), &[1.0, 2.0, 1.0, 1.0], 1_000);
    assert!(ties[0] > 0 && ties[2..] == [0, 0], "of equals, the lower id");
    let all = plain().top_k(usize::MAX);
    assert_distribution(&counts(all, &logits, 20_000), &[0.1, 0.2, 0.4, 0.3]);
}

#[test]
fn min_p_is_relative_to_the_likeliest() {
    let logits = logits_of(&[0.1, 0.2, 0.4, 0.3]);
    let options = plain().min_p(0.45);
    assert_distribution(&counts(options, &logits, 20_000), &[0.0, 2.0 / 9.0, 4.0 / 9.0, 3.0 / 9.0]);
}

#[test]
fn top_p_acts_on_what_the_other_filters_leave() {
    // 0.4 is 4/7 of what top-k leaves, so it alone exceeds 0.5; of everything it would not.
    let options = SamplerOptions::new().top_k(2).top_p(0.5);
    assert_eq!(counts(options, &logits_of(&[0.1, 0.2, 0.4, 0.3]), 100), [0, 0, 100, 0]);
}

#[test]
fn repetition_penalty_divides_positive_and_multiplies_negative_logits() {
    let mut sampler = sampler(greedy().repetition_penalty(2.0));
    let logits = [3.0, 1.6, -1.0, -1.5];
    assert_eq!(sampler.sample(&logits).unwrap(), 0);
    sampler.accept(0);
    sampler.accept(0);
    assert_eq!(sampler.sample(&logits).unwrap(), 1, "3 / 2 < 1.6, once for each distinct token");
    sampler.accept(1);
    assert_eq!(sampler.sample(&logits).unwrap(), 0);
    assert_eq!(sampler.probs, [1.5, 0.8, -1.0, -1.5]);
    sampler.accept(2);
    sampler.sample(&logits).unwrap();
    assert_eq!(sampler.probs, [1.5, 0.8, -2.0, -1.5]);
}

#[test]
fn frequency_penalty_counts_and_presence_penalty_does_not() {
    let mut sampler = sampler(greedy().frequency_penalty(0.5).presence_penalty(0.25));
    for token in [1, 1, 2, 9] {
        sampler.accept(token);
    }
    sampler.sample(&[1.0, 1.0, 1.0]).unwrap();
    assert_eq!(sampler.probs, [1.0, 1.0 - 1.25, 1.0 - 0.75]);
}

#[test]
fn penalties_forget_what_leaves_the_window() {
    let mut sampler = sampler(greedy().frequency_penalty(1.0).penalty_window(3));
    for token in [0, 0, 1, 2, 1, 1] {
        sampler.accept(token);
    }
    assert_eq!(sampler.history.counts, [(1, 2), (2, 1)]);
    sampler.reset();
    assert_eq!(sampler.history.counts, []);
    sampler.accept(7);
    assert_eq!(sampler.history.counts, [(7, 1)]);
}

#[test]
fn a_window_of_nothing_has_no_penalty() {
    let mut sampler = sampler(greedy().presence_penalty(9.0).penalty_window(0));
    sampler.accept(0);
    assert_eq!(sampler.sample(&[1.0, 0.0]).unwrap(), 0);
}

#[test]
fn biases_add_up_and_minus_infinity_bans() {
    let logits = [f32::INFINITY, 1.0, 2.0];
    let bias = |logit_bias| greedy().logit_bias(logit_bias);
    let banned = (0, f32::NEG_INFINITY);
    assert_eq!(sampler(bias(vec![banned, (0, 99.0), (77, 1.0)])).sample(&logits).unwrap(), 2);
    assert_eq!(sampler(bias(vec![banned, (1, 0.75), (1, 0.75)])).sample(&logits).unwrap(), 1);
    let all = vec![banned, (1, f32::NEG_INFINITY), (2, f32::NEG_INFINITY)];
    assert!(matches!(sampler(bias(all)).sample(&logits).unwrap_err().kind(), ErrorKind::NoCandidate));
}

#[test]
fn logits_without_a_candidate_are_an_error() {
    for options in [greedy(), plain(), SamplerOptions::default()] {
        for logits in [&[][..], &[f32::NEG_INFINITY; 3]] {
            let error = sampler(options.clone()).sample(logits).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::NoCandidate));
        }
    }
}

#[test]
fn the_first_logit_that_is_not_a_number_is_named() {
    for options in [greedy(), plain()] {
        let error = sampler(options).sample(&[0.0, f32::INFINITY, f32::NAN, f32::NAN]).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::NanLogit { token: 2 }));
    }
}

#[test]
fn infinite_logits_share_all_the_probability() {
    let logits = [f32::INFINITY, 1e30, f32::INFINITY, f32::NEG_INFINITY];
    assert_distribution(&counts(plain(), &logits, 10_000), &[0.5, 0.0, 0.5, 0.0]);
}

#[test]
fn tiny_temperatures_are_nearly_greedy() {
    for temperature in [1e-10, f32::MIN_POSITIVE, f32::from_bits(1)] {
        for logits in [[1e30, 2e30, -1e30], [-2.0, -1.0, -3.0], [-2e38, 0.0, f32::NEG_INFINITY]] {
            assert_eq!(sampler(plain().temperature(temperature)).sample(&logits).unwrap(), 1);
        }
    }
}

#[test]
fn options_out_of_range_are_named() {
    let default = SamplerOptions::default;
    let cases = [
        (default().temperature(-1.0), "option temperature = -1: "),
        (default().temperature(f32::NAN), "option temperature = NaN: "),
        (default().temperature(f32::INFINITY), "option temperature = inf: "),
        (default().top_p(f32::NAN), "option top_p = NaN: "),
        (default().min_p(1.5), "option min_p = 1.5: "),
        (default().min_p(f32::NAN), "option min_p = NaN: "),
        (default().typical_p(0.0), "option typical_p = 0: "),
        (default().typical_p(1.5), "option typical_p = 1.5: "),
        (default().top_n_sigma(-1.0), "option top_n_sigma = -1: "),
        (default().xtc_probability(f32::NAN), "option xtc_probability = NaN: "),
        (default().xtc_threshold(2.0), "option xtc_threshold = 2: "),
        (default().dry_multiplier(-1.0), "option dry_multiplier = -1: "),
        (default().dry_base(0.5), "option dry_base = 0.5: "),
        (default().dry_breakers(vec![vec![1], vec![]]), "option dry_breakers = []: "),
        (default().repetition_penalty(0.0), "option repetition_penalty = 0: "),
        (default().frequency_penalty(f32::NAN), "option frequency_penalty = NaN: "),
        (default().presence_penalty(f32::INFINITY), "option presence_penalty = inf: "),
        (default().logit_bias(vec![(1, f32::INFINITY)]), "option logit_bias = inf: "),
        (default().logit_bias(vec![(1, f32::NAN)]), "option logit_bias = NaN: "),
    ];
    for (options, message) in cases {
        let error = sampler(options).sample(&[0.0]).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn reset_repeats_the_choices() {
    let mut sampler = sampler(SamplerOptions::new().frequency_penalty(0.3));
    let logits: Vec<f32> = (0..100).map(|i| (i % 10) as f32 / 3.0).collect();
    let mut run = || {
        let choose = |_| {
            let token = sampler.sample(&logits).unwrap();
            sampler.accept(token);
            token
        };
        let tokens: Vec<_> = (0..50).map(choose).collect();
        sampler.reset();
        tokens
    };
    assert_eq!(run(), run());
}

#[test]
fn buffers_are_reused() {
    let options = SamplerOptions::new().frequency_penalty(0.1).top_k(400);
    let options = options.temperature(0.8).temperature_last(true).dry_multiplier(0.8).dry_window(100);
    let mut sampler = sampler(options.dry_breakers(vec![vec![3]]).typical_p(0.9).xtc_probability(0.5));
    let logits: Vec<f32> = (0..1000).map(|i| (i % 7) as f32).collect();
    let mut places = Vec::new();
    for _ in 0..200 {
        let token = sampler.sample(&logits).unwrap();
        sampler.accept(token);
        let Sampler { probs, adjusted, keys, history, .. } = &sampler;
        places.push((probs.as_ptr(), adjusted.as_ptr(), keys.as_ptr(), history.places()));
    }
    places.dedup();
    assert_eq!(places.len(), 1);
}

/// Top-p as `run.c` has it: sort all candidates, then look for the one that crosses.
fn top_p_by_sorting(logits: &[f32], top_p: f32, coin: f32) -> TokenId {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exps: Vec<f32> = logits.iter().map(|x| (x - max).exp()).collect();
    let sum = exps.iter().fold(0.0, |sum, x| sum + x);
    let cutoff = (1.0 - top_p) / (logits.len() - 1) as f32;
    let mut tokens: Vec<(usize, f32)> =
        exps.iter().map(|x| x / sum).enumerate().filter(|t| t.1 >= cutoff).collect();
    tokens.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut cumulative = 0.0;
    let crossing = tokens.iter().position(|token| {
        cumulative += token.1;
        cumulative > top_p
    });
    tokens.truncate(crossing.map_or(tokens.len(), |i| i + 1));
    let mut cdf = 0.0;
    let drawn = tokens.iter().find(|token| {
        cdf += token.1;
        coin * cumulative < cdf
    });
    // run.c reads outside its array if there are no candidates; the likeliest is meant.
    drawn.or(tokens.last()).map_or_else(|| position(logits, max), |token| token.0 as TokenId)
}

#[test]
fn partial_sorting_draws_what_full_sorting_draws() {
    let mut rng = Rng::new(3);
    for n in [2, 3, 255, 256, 257, 3000, 32_000] {
        for scale in [0.0, 0.5, 4.0, 12.0] {
            // Rounded, so that many are equal.
            let logits: Vec<f32> = (0..n).map(|_| (rng.next_f32() * scale * 64.0).round() / 64.0).collect();
            for top_p in [0.3, 0.9, 0.999] {
                let mut sampler = sampler(SamplerOptions::new().top_p(top_p).seed(n));
                let mut coins = sampler.rng.clone();
                for _ in 0..5 {
                    let expected = top_p_by_sorting(&logits, top_p, coins.next_f32());
                    assert_eq!(
                        sampler.sample(&logits).unwrap(),
                        expected,
                        "n {n}, scale {scale}, top_p {top_p}"
                    );
                }
            }
        }
    }
}

fn any_logit() -> impl Strategy<Value = f32> {
    let special =
        vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45];
    prop_oneof![
        prop::num::f32::ANY.prop_filter("not a number", |x| !x.is_nan()),
        -30.0..30.0_f32,
        prop::sample::select(special)
    ]
}

fn any_options() -> impl Strategy<Value = SamplerOptions> {
    let off_or = |range: std::ops::Range<f32>, off: f32| prop_oneof![Just(off), range];
    let temperature = prop_oneof![Just(0.0), Just(1.0), 0.0..3.0_f32, Just(1e-45), Just(f32::MAX)];
    let filters = (off_or(0.0..1.0, 1.0), 0..6_usize, off_or(0.0..1.0, 0.0));
    let penalty = || prop_oneof![Just(0.0), -2.0..2.0_f32, Just(f32::MAX), Just(f32::MIN)];
    let repetition = prop_oneof![Just(1.0), 0.1..2.0_f32, Just(1e-45), Just(f32::MAX)];
    let bias = prop_oneof![-9.0..9.0_f32, Just(f32::NEG_INFINITY), Just(f32::MAX), Just(f32::MIN)];
    let typical_p = prop_oneof![Just(1.0), 0.01..1.0_f32, Just(1e-45)];
    let sigma = prop_oneof![Just(0.0), 0.0..4.0_f32, Just(1e-45), Just(f32::MAX)];
    let xtc = (off_or(0.0..1.0, 1.0), off_or(0.0..1.0, 0.0));
    let breakers = proptest::collection::vec(proptest::collection::vec(0..20_u32, 1..3), 0..3);
    let base = prop_oneof![1.0..3.0_f32, Just(f32::MAX)];
    let dry = (sigma.clone(), base, 0..3_usize, prop_oneof![0..5_usize, Just(usize::MAX)], breakers);
    let filters = (filters, typical_p, sigma, xtc, any::<bool>());
    let rest = (0..5_usize, proptest::collection::vec((0..20_u32, bias), 0..4), any::<u64>());
    (temperature, filters, (repetition, penalty(), penalty()), dry, rest).prop_map(
        |(temperature, filters, penalties, dry, (penalty_window, logit_bias, seed))| {
            let ((top_p, top_k, min_p), typical_p, top_n_sigma, xtc, temperature_last) = filters;
            let (xtc_probability, xtc_threshold) = xtc;
            let (dry_multiplier, dry_base, dry_allowed_length, dry_window, dry_breakers) = dry;
            let (repetition_penalty, frequency_penalty, presence_penalty) = penalties;
            SamplerOptions {
                temperature,
                temperature_last,
                top_p,
                top_k,
                min_p,
                typical_p,
                top_n_sigma,
                xtc_probability,
                xtc_threshold,
                dry_multiplier,
                dry_base,
                dry_allowed_length,
                dry_window,
                dry_breakers,
                repetition_penalty,
                frequency_penalty,
                presence_penalty,
                penalty_window,
                logit_bias,
                seed,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 250 } else { 2000 }))]

    #[test]
    fn any_logits_give_a_possible_token_or_no_candidate(
        options in any_options(),
        logits in proptest::collection::vec(any_logit(), 0..20),
    ) {
        let banned: Vec<_> = options.logit_bias.iter().filter(|b| b.1 == f32::NEG_INFINITY).map(|b| b.0).collect();
        let mut sampler = sampler(options);
        for _ in 0..4 {
            match sampler.sample(&logits) {
                Ok(token) => {
                    prop_assert!((token as usize) < logits.len());
                    prop_assert!(logits[token as usize] > f32::NEG_INFINITY && !banned.contains(&token));
                    sampler.accept(token);
                }
                Err(error) => prop_assert!(matches!(error.kind(), ErrorKind::NoCandidate)),
            }
            prop_assert!(sampler.probs.iter().all(|p| !p.is_nan()));
        }
    }

    #[test]
    fn a_nan_is_always_found(
        mut logits in proptest::collection::vec(any_logit(), 1..70),
        options in any_options(),
        index in any::<prop::sample::Index>(),
    ) {
        let i = index.index(logits.len());
        logits[i] = f32::NAN;
        let error = sampler(options).sample(&logits).unwrap_err();
        let named = matches!(error.kind(), ErrorKind::NanLogit { token } if *token as usize == i);
        prop_assert!(named);
    }

    #[test]
    fn top_k_of_one_is_greedy(logits in proptest::collection::vec(-9_i8..9, 1..70), seed in any::<u64>()) {
        let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
        let one = SamplerOptions::new().top_k(1).seed(seed);
        prop_assert_eq!(sampler(one).sample(&logits).unwrap(), sampler(greedy()).sample(&logits).unwrap());
    }
}
