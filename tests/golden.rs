//! Logits of f32 files against Hugging Face's, on every instruction set and for several numbers of
//! threads.

mod common;

use babyllama::{Isa, Model, ModelOptions};
use common::{GOLDEN, Golden, RandomModel, Shape, logits, max_abs_diff, std_dev};

/// How far f32 logits may be from exact ones, in standard deviations of the logits.
///
/// From the embedding to a logit there are at most `26` sums in a row (8 in each of 3 layers and
/// 2), each of at most `n` = 344 terms and as many roundings, each below u = 2^-24 of the partial
/// sum. Rounding errors are independent and of mean zero to first order, so a sum's relative error
/// grows as sqrt(n) u (Higham and Mary 2019), and the sums' add up to at most 26 sqrt(344) u =
/// 2.9e-5. (All in one direction it would be 26 * 344 u = 5e-4, which never happens.) Measured:
/// 1.8e-6, and 2.3e-6 over all widths up to 67.
const TOLERANCE: f64 = 26.0 * 18.55 / (1 << 24) as f64;

fn options(case: &Golden, isa: Isa, threads: usize) -> ModelOptions {
    let options = ModelOptions::new().isa(isa).threads(threads);
    options.norm_eps(case.norm_eps as f32).rope_theta(case.rope_theta)
}

/// The distance of all logits from those expected, in standard deviations of the latter.
fn error(file: Vec<u8>, options: &ModelOptions, tokens: &[u32], expected: &[f64]) -> f64 {
    let model = Model::from_bytes_with(file, options).unwrap();
    let mut session = model.session();
    max_abs_diff(session.forward_all(tokens).unwrap(), expected) / std_dev(expected)
}

#[test]
fn f32_files_give_hugging_faces_logits_on_every_isa() {
    let mut largest = 0.0_f64;
    for case in GOLDEN {
        let expected = case.logits().concat();
        let model = case.model();
        for isa in Isa::available() {
            for threads in [1, 2] {
                for (version, file) in [("v0", model.to_v0()), ("v1", model.to_v1())] {
                    let error = error(file, &options(&case, isa, threads), case.tokens, &expected);
                    let name = format!("{} {version} {} {threads} threads", case.name, isa.name());
                    assert!(error < TOLERANCE, "{name}: {error:e} standard deviations");
                    largest = largest.max(error);
                }
            }
        }
    }
    println!("largest error: {largest:e} standard deviations");
}

#[test]
fn one_golden_model_is_large_enough_to_be_shared_out_among_threads() {
    // Below 2 MiB of weights for each token a session stays on the calling thread.
    let bytes_per_token = |case: &Golden| {
        let Shape { dim, hidden_dim, n_layers, vocab_size, .. } = case.shape;
        let layer = 2 * dim * dim + 2 * case.shape.kv_dim() * dim + 3 * hidden_dim * dim;
        4 * (n_layers * layer + vocab_size * dim)
    };
    assert!(GOLDEN.iter().any(|case| bytes_per_token(case) > 2 << 20));
}

#[test]
fn an_override_that_is_left_out_shows() {
    let case = GOLDEN[1]; // its eps and theta are not llama2.c's
    let expected = case.logits().concat();
    let file = case.model().to_v1();
    let base = || ModelOptions::new().threads(1);
    let (eps, theta) = (case.norm_eps as f32, case.rope_theta);
    for (options, name) in [
        (base().norm_eps(eps), "theta left out"),
        (base().rope_theta(theta), "eps left out"),
        (base(), "both left out"),
    ] {
        assert!(error(file.clone(), &options, case.tokens, &expected) > 1e-3, "{name}");
    }
    let both = base().norm_eps(eps).rope_theta(theta);
    assert!(error(file, &both, case.tokens, &expected) < TOLERANCE);
}

#[test]
fn overrides_show_in_the_config_and_the_defaults_are_llama2cs() {
    let file = GOLDEN[0].model().to_v1();
    let config = Model::from_bytes(file.clone()).unwrap().config().clone();
    assert_eq!((config.norm_eps, config.rope_theta, config.max_seq_len), (1e-5, 1e4, 32));
    let options = ModelOptions::new().norm_eps(1e-6).rope_theta(1e6).max_seq_len(77);
    let config = Model::from_bytes_with(file, &options).unwrap().config().clone();
    assert_eq!((config.norm_eps, config.rope_theta, config.max_seq_len), (1e-6, 1e6, 77));
}

/// A shape with widths of nothing but one.
const LEAST: Shape = Shape {
    dim: 2,
    hidden_dim: 1,
    n_layers: 1,
    n_heads: 1,
    n_kv_heads: 1,
    vocab_size: 1,
    max_seq_len: 1,
    tied: true,
};

#[test]
fn the_smallest_shapes_give_the_exact_logits() {
    let shapes = [
        LEAST,
        Shape { tied: false, ..LEAST },
        Shape { vocab_size: 2, max_seq_len: 9, ..LEAST },
        Shape { dim: 4, n_heads: 2, vocab_size: 3, max_seq_len: 9, ..LEAST },
        Shape { dim: 14, n_heads: 7, n_kv_heads: 1, hidden_dim: 3, vocab_size: 5, max_seq_len: 9, ..LEAST },
        Shape { dim: 14, n_heads: 7, n_kv_heads: 7, hidden_dim: 3, vocab_size: 5, max_seq_len: 9, ..LEAST },
        Shape { dim: 34, n_heads: 1, hidden_dim: 67, vocab_size: 17, max_seq_len: 9, ..LEAST },
        Shape { dim: 66, n_heads: 3, n_kv_heads: 3, hidden_dim: 65, vocab_size: 31, max_seq_len: 9, ..LEAST },
    ];
    for (seed, shape) in shapes.into_iter().enumerate() {
        let model = RandomModel::new(shape, seed as u64);
        let n = shape.max_seq_len.min(7);
        let tokens: Vec<u32> = (0..n).map(|i| (i * 5 % shape.vocab_size) as u32).collect();
        let expected = logits(&model, &tokens, 1e-5, 1e4).concat();
        for isa in Isa::available() {
            for file in [model.to_v0(), model.to_v1()] {
                let opened = Model::from_bytes_with(file, &ModelOptions::new().isa(isa).threads(2)).unwrap();
                let mut session = opened.session();
                let found = session.forward_all(&tokens).unwrap();
                // One logit alone has no deviation: compare with the logits' size instead, which is
                // about sqrt(dim).
                let size = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len() as f64).sqrt();
                let error = max_abs_diff(found, &expected) / size;
                assert!(error < TOLERANCE, "{shape:?} {}: {error:e}", isa.name());
            }
        }
    }
}

#[test]
fn every_width_up_to_67_gives_the_exact_logits() {
    // Row tails: hidden_dim is w2's row length and vocab_size the classifier's number of rows.
    let mut largest = 0.0_f64;
    for n in 1..=67 {
        let shape =
            Shape { dim: 2 * n, hidden_dim: n, vocab_size: n, max_seq_len: 8, tied: n % 2 == 0, ..LEAST };
        let model = RandomModel::new(shape, n as u64);
        let tokens: Vec<u32> = (0..5).map(|i| (i * 7 % n) as u32).collect();
        let expected = logits(&model, &tokens, 1e-5, 1e4).concat();
        let size = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len() as f64).sqrt();
        for isa in Isa::available() {
            let options = ModelOptions::new().isa(isa).threads(1);
            let mut session = Model::from_bytes_with(model.to_v0(), &options).unwrap().session();
            let error = max_abs_diff(session.forward_all(&tokens).unwrap(), &expected) / size;
            assert!(error < TOLERANCE, "width {n} {}: {error:e}", isa.name());
            largest = largest.max(error);
        }
    }
    println!("largest error: {largest:e} of the logits' size");
}
