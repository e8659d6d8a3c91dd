//! The oracle that holds the other tests is itself held: by Hugging Face's logits, and by the
//! layout of files.

use babyllama::ErrorKind;

use crate::common::{
    GOLDEN, RandomModel, Shape, SplitMix64, TempFile, assert_same_bits, golden_tokens, logits, max_abs_diff,
    quantize, refuses, std_dev, try_open,
};

#[test]
fn naive_forward_matches_hugging_face() {
    for case in GOLDEN {
        let expected = case.logits(); // (n_tokens * vocab_size)
        let found = logits(&case.model(), case.tokens, case.norm_eps, case.rope_theta).concat();
        // Both are f64 and differ in the order of their sums: at most 26 in a row (8 a layer and
        // 2), each of at most 344 terms. 26 * 344 * 2^-53 < 1e-12.
        let error = max_abs_diff(&found, &expected) / std_dev(&expected);
        assert!(error < 1e-12, "{}: {error:e} standard deviations", case.name);
    }
}

#[test]
fn golden_logits_tell_wrong_models_apart() {
    // Were the cases too tame, a wrong forward pass could agree with them within an f32's
    // tolerance.
    for case in GOLDEN {
        let expected = case.logits();
        let distance = |model: &RandomModel, norm_eps: f64, rope_theta: f64| {
            max_abs_diff(&logits(model, case.tokens, norm_eps, rope_theta).concat(), &expected)
                / std_dev(&expected)
        };
        let model = case.model();
        assert!(distance(&model, case.norm_eps, case.rope_theta / 100.0) > 1e-2, "{}: theta", case.name);
        assert!(distance(&model, case.norm_eps + 1e-3, case.rope_theta) > 1e-3, "{}: eps", case.name);
        let mut swapped = model.clone();
        for layer in &mut swapped.layers {
            std::mem::swap(&mut layer.w1, &mut layer.w3);
        }
        assert!(distance(&swapped, case.norm_eps, case.rope_theta) > 1e-1, "{}: w1 and w3", case.name);
    }
}

#[test]
fn files_have_the_lengths_of_their_equations() {
    for case in GOLDEN {
        let Shape { dim, hidden_dim, n_layers, vocab_size, max_seq_len, tied, .. } = case.shape;
        let kv_dim = case.shape.kv_dim();
        let norms = dim * (2 * n_layers + 1);
        let layer = 2 * dim * dim + 2 * kv_dim * dim + 3 * dim * hidden_dim;
        let matrices = n_layers * layer + vocab_size * dim * if tied { 1 } else { 2 };
        let model = case.model();
        assert_eq!(model.to_v0().len(), 28 + 4 * (norms + matrices + max_seq_len * case.shape.head_dim()));
        assert_eq!(model.to_v1().len(), 256 + 4 * (norms + matrices));
        assert_eq!(model.to_v2(4).len(), 256 + 4 * norms + matrices + matrices / 4 * 4);
    }
}

#[test]
fn quantized_weights_are_within_half_a_step() {
    let model = GOLDEN[1].model(); // hidden_dim 172: groups of 64 straddle the rows of w2
    let dequantized = model.dequantized(64);
    let (w, dq) = (&model.layers[0].w2, &dequantized.layers[0].w2);
    let (_, scales) = quantize(w, 64);
    for (i, (w, dq)) in w.iter().zip(dq).enumerate() {
        assert!((w - dq).abs() <= scales[i / 64] * 0.500_01, "weight {i}");
    }
    assert_eq!(dequantized.to_v2(64).len(), model.to_v2(64).len());
}

#[test]
fn group_of_zeros_has_scale_zero() {
    let (quants, scales) = quantize(&[0.0, -0.0, 0.0, 0.0, 2.0, -4.0, 0.0, 1.0], 4);
    assert_eq!(quants, [0, 0, 0, 0, 64, -127, 0, 32]); // 63.5 rounds to even
    assert_eq!(scales, [0.0, 4.0 / 127.0]);
}

#[test]
fn temporary_file_goes_with_its_folder() {
    let file = TempFile::new("x.bin", b"abc");
    assert_eq!(std::fs::read(&file).unwrap(), b"abc");
    let folder = file.folder().to_path_buf();
    drop(file);
    assert!(!folder.exists());
}

#[test]
fn nan_is_never_within_a_tolerance() {
    assert_eq!(max_abs_diff(&[1.0_f32, f32::NAN, 1.0], &[1.0_f64, 1.0, 3.0]), f64::INFINITY);
    assert_eq!(max_abs_diff(&[1.0_f32, 2.5], &[1.0_f64, 2.0]), 0.5);
}

#[test]
fn golden_texts_are_read_as_json() {
    let cases = golden_tokens("smollm2.tokens");
    let tokens = |text: &str| cases.iter().find(|(found, _)| found == text).map(|(_, tokens)| &tokens[..]);
    assert_eq!((cases.len(), tokens("")), (300, Some(&[][..])));
    assert_eq!(tokens("\t\n\r\n\n\n"), Some(&[197, 198, 201, 16_506][..]));
    assert_eq!(tokens("\u{7f}\u{fffd}\u{fffd}\u{fffd}E"), Some(&[217, 24_211, 24_211, 24_211, 53][..]));
    let beyond_16_bits = tokens("\u{1d4c5}\u{1d674}\u{1d51c}\n");
    assert_eq!(beyond_16_bits.map(<[u32]>::len), Some(10));
}

/// Whether a check fails, which is to say: panics.
fn fails(check: impl FnOnce() + std::panic::UnwindSafe) -> bool {
    std::panic::catch_unwind(check).is_err()
}

#[test]
fn the_checks_of_other_tests_can_fail() {
    let open = |bytes: &'static [u8]| try_open(bytes);
    assert!(!fails(|| drop(refuses!(open(b"text"), ErrorKind::UnknownFormat { .. }, "text"))));
    assert!(fails(|| drop(refuses!(open(b"text"), ErrorKind::UnknownFormat { .. }, "text", "picture"))));
    assert!(fails(|| drop(refuses!(open(b"text"), ErrorKind::MissingTensor { .. }, "text"))));
    let model = GOLDEN[0].model().to_v1();
    assert!(fails(move || drop(refuses!(try_open(model), _))));

    let same = |a: [f32; 2], b: [f32; 2]| fails(move || assert_same_bits(&a, &b, "rows"));
    assert!(!same([1.0, 0.0], [1.0, 0.0]));
    assert!(same([1.0, 0.0], [1.0, -0.0]) && same([1.0, 0.0], [1.0 + f32::EPSILON, 0.0]));
    assert!(same([f32::NAN, 0.0], [f32::NAN, 0.0]) && fails(|| assert_same_bits(&[], &[], "rows")));
}

#[test]
fn random_numbers_are_those_of_their_definition() {
    // The first numbers of SplitMix64 for the seed 1234567, as its authors' C program prints them.
    let mut rng = SplitMix64::new(1_234_567);
    let expected = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
    assert_eq!([(); 3].map(|()| rng.next_u64()), expected);
    assert!((0..1000).all(|_| (-1.0..1.0).contains(&rng.next_f32()) && rng.below(3) < 3));
    let mut bytes = vec![7; 100];
    (0..50).for_each(|_| rng.damage(&mut bytes, 40));
    assert!(bytes[..40].iter().any(|byte| *byte != 7) && bytes[40..].iter().all(|byte| *byte == 7));
}
