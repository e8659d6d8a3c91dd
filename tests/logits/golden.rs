//! Logits of f32 files against Hugging Face's, on every instruction set and for several numbers of
//! threads.

use babyllama::{Isa, Model, ModelOptions};

use crate::common::{
    GOLDEN, Golden, RandomModel, Shape, all_logits, f32_tolerance, logits, max_abs_diff, max_error,
    one_thread, open_on,
};

fn options(case: &Golden, isa: Isa, threads: usize) -> ModelOptions {
    let options = ModelOptions::new().isa(isa).threads(threads);
    options.norm_eps(case.norm_eps as f32).rope_theta(case.rope_theta)
}

/// The distance of all logits from those expected, in standard deviations of the latter.
fn error(file: Vec<u8>, options: &ModelOptions, tokens: &[u32], expected: &[f64]) -> f64 {
    max_error(&all_logits(&Model::from_bytes_with(file, options).unwrap(), tokens), expected)
}

/// The distance from the reference's logits, relative to the size of those: one logit alone has no
/// deviation, and the size of logits is about sqrt(dim).
fn relative_error(model: &RandomModel, opened: &Model, tokens: &[u32]) -> f64 {
    let expected = logits(model, tokens, 1e-5, 1e4).concat();
    let size = (expected.iter().map(|x| x * x).sum::<f64>() / expected.len() as f64).sqrt();
    max_abs_diff(&all_logits(opened, tokens), &expected) / size
}

#[test]
fn f32_files_give_hugging_faces_logits_on_every_isa() {
    let mut largest = 0.0_f64;
    for case in GOLDEN {
        let expected = case.logits();
        let model = case.model();
        for isa in Isa::available() {
            for threads in [1, 2] {
                for (version, file) in [("v0", model.to_v0()), ("v1", model.to_v1())] {
                    let error = error(file, &options(&case, isa, threads), case.tokens, &expected);
                    let name = format!("{} {version} {} {threads} threads", case.name, isa.name());
                    assert!(error < case.f32_tolerance(), "{name}: {error:e} standard deviations");
                    largest = largest.max(error / case.f32_tolerance());
                }
            }
        }
    }
    println!("largest error: {largest} of its tolerance");
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
    let expected = case.logits();
    let file = case.model().to_v1();
    let (eps, theta) = (case.norm_eps as f32, case.rope_theta);
    for (options, name) in [
        (one_thread().norm_eps(eps), "theta left out"),
        (one_thread().rope_theta(theta), "eps left out"),
        (one_thread(), "both left out"),
    ] {
        assert!(error(file.clone(), &options, case.tokens, &expected) > 1e-3, "{name}");
    }
    let both = one_thread().norm_eps(eps).rope_theta(theta);
    assert!(error(file, &both, case.tokens, &expected) < case.f32_tolerance());
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
const LEAST: Shape = Shape::new(2, 1).layers(1).heads(1, 1).vocab(1).context(1).tied();

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
        let tolerance = f32_tolerance(shape.n_layers, shape.dim.max(shape.hidden_dim));
        for isa in Isa::available() {
            for file in [model.to_v0(), model.to_v1()] {
                let error = relative_error(&model, &open_on(file, isa, 2), &tokens);
                assert!(error < tolerance, "{shape:?} {}: {error:e}", isa.name());
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
        for isa in Isa::available() {
            let error = relative_error(&model, &open_on(model.to_v0(), isa, 1), &tokens);
            assert!(error < f32_tolerance(1, 2 * n), "width {n} {}: {error:e}", isa.name());
            largest = largest.max(error / f32_tolerance(1, 2 * n));
        }
    }
    println!("largest error: {largest} of its tolerance");
}
