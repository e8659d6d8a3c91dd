//! Beside llama.cpp: `tests/golden/samplers.py` writes what its samplers leave.

use std::path::Path;

use super::{SamplerOptions, kept, sampler};
use crate::Model;

const GOLDEN: &str = include_str!("../../../tests/golden/samplers.txt");

/// Cases of a kind, as their fields.
fn cases<const N: usize>(kind: &str) -> impl Iterator<Item = [&'static str; N]> {
    let fields = GOLDEN.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    fields.filter(move |fields| fields[0] == kind).map(|fields| fields[1..].try_into().unwrap())
}

/// Numbers at tokens: `token:number token:number`.
fn at_tokens(text: &str) -> Vec<(u32, f64)> {
    let split = |pair: &str| {
        let (token, number) = pair.split_once(':').unwrap();
        (token.parse().unwrap(), number.parse().unwrap())
    };
    text.split_whitespace().map(split).collect()
}

/// All filters off, the temperature last, and then what `name=value name=value` says.
fn options(text: &str) -> SamplerOptions {
    let mut options = SamplerOptions::new().top_p(1.0).temperature_last(true);
    for (name, value) in text.split_whitespace().map(|option| option.split_once('=').unwrap()) {
        let number: f32 = value.parse().unwrap();
        options = match name {
            "temperature" => options.temperature(number),
            "top_p" => options.top_p(number),
            "top_k" => options.top_k(number as usize),
            "min_p" => options.min_p(number),
            "typical_p" => options.typical_p(number),
            "top_n_sigma" => options.top_n_sigma(number),
            "xtc_threshold" => options.xtc_threshold(number).xtc_probability(1.0),
            "dry_multiplier" => options.dry_multiplier(number),
            "dry_base" => options.dry_base(number),
            "dry_allowed_length" => options.dry_allowed_length(number as usize),
            "dry_window" => options.dry_window(number as usize),
            _ => panic!("{name}"),
        };
    }
    options
}

#[test]
fn filters_leave_what_llama_cpp_leaves() {
    let mut n_cases = 0;
    for [text, logits, expected] in cases("filters") {
        let logits: Vec<f32> = logits.split_whitespace().map(|x| x.parse().unwrap()).collect();
        let found = kept(&options(text), &logits);
        let expected = at_tokens(expected);
        let tokens = |kept: &[(u32, f64)]| kept.iter().map(|&(token, _)| token).collect::<Vec<_>>();
        assert_eq!(tokens(&found), tokens(&expected), "{text}");
        for ((token, p), (_, q)) in found.into_iter().zip(expected) {
            // Exponents of at most 40, rounded four times, and seven digits.
            assert!((p / q - 1.0).abs() < 160.0 * 2_f64.powi(-24), "{text}: token {token}: {p}, {q}");
        }
        n_cases += 1;
    }
    assert_eq!(n_cases, 38);
}

#[test]
fn dry_penalizes_what_llama_cpp_penalizes() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/babyllama.gguf");
    let model = Model::open(model).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let mut n_penalties = 0;
    for [text, breakers, tokens, expected] in cases("dry") {
        let breakers = breakers.split_whitespace().map(|breaker| breaker.replace("\\n", "\n"));
        let breakers = breakers.flat_map(|breaker| tokenizer.breakers(&breaker)).collect();
        let mut sampler = sampler(options(text).temperature(0.0).dry_breakers(breakers));
        tokens.split_whitespace().for_each(|token| sampler.accept(token.parse().unwrap()));
        sampler.sample(&[0.0; 1024]).unwrap();
        let penalized = sampler.probs.iter().enumerate().filter(|&(_, &logit)| logit != 0.0);
        let found: Vec<_> = penalized.map(|(token, &logit)| (token as u32, -f64::from(logit))).collect();
        let expected = at_tokens(expected);
        assert_eq!(found.len(), expected.len(), "{text}: {found:?}, {expected:?}");
        for ((token, penalty), (other, theirs)) in found.into_iter().zip(expected) {
            assert!(
                token == other && (penalty / theirs - 1.0).abs() < 1e-6,
                "{text}: {token}: {penalty}, {theirs}"
            );
            n_penalties += 1;
        }
    }
    assert!(n_penalties > 40, "{n_penalties}");
}
