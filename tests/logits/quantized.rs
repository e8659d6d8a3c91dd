//! int8 files: the bits of runq's numerics on every instruction set and for any number of threads,
//! and the numbers of the f32 model that they stand for.

use babyllama::{Dtype, Isa, Model, ModelOptions};

use crate::common::{
    GOLDEN, Golden, RandomModel, Shape, assert_same_bits, int8_tolerance, logits, rms_error, runq_logits,
};

/// Group sizes that divide all of a model's matrices, of those that matter: 1 is a scale for each
/// weight; 3, 4 and 36 are shorter than a vector; 64 straddles rows of 36, 100, 172 and 344; 4096
/// holds many rows.
fn group_sizes(model: &RandomModel) -> Vec<usize> {
    let Shape { dim, hidden_dim, vocab_size, .. } = model.shape;
    let lengths = [vocab_size * dim, dim * dim, model.shape.kv_dim() * dim, hidden_dim * dim];
    let divides = |size: &usize| lengths.iter().all(|length| length.is_multiple_of(*size));
    let sizes = [1, 2, 3, 4, 12, 32, 36, 64, 128, 256, 512, 1024, 4096];
    // Without optimization a product of tiny groups takes ten times as long as all others together.
    let least = if cfg!(debug_assertions) && dim > 36 { 4 } else { 1 };
    sizes.into_iter().filter(|size| *size >= least).filter(divides).collect()
}

fn all_logits(file: &[u8], options: &ModelOptions, tokens: &[u32]) -> Vec<f32> {
    crate::common::all_logits(&Model::from_bytes_with(file.to_vec(), options).unwrap(), tokens)
}

/// That the file's logits are `expected` to the bit, on every Isa. Files of less than 2 MiB stay on
/// one thread whatever they are told.
#[track_caller]
fn assert_bits(name: &str, file: &[u8], options: &ModelOptions, tokens: &[u32], expected: &[f32]) {
    for isa in Isa::available() {
        let counts: &[usize] = if file.len() > 2 << 20 { &[1, 2, 3, 8] } else { &[2] };
        for threads in counts {
            let found = all_logits(file, &options.clone().isa(isa).threads(*threads), tokens);
            assert_same_bits(&found, expected, &format!("{name} {} {threads} threads", isa.name()));
        }
    }
}

fn overrides(case: &Golden) -> ModelOptions {
    ModelOptions::new().norm_eps(case.norm_eps as f32).rope_theta(case.rope_theta)
}

#[test]
fn int8_files_give_the_bits_of_runqs_arithmetic_for_any_group_size() {
    let mut straddling = 0;
    for case in GOLDEN {
        let model = case.model();
        let sizes = group_sizes(&model);
        assert!(sizes.len() >= 3, "{}: {sizes:?}", case.name);
        for group_size in sizes {
            let (eps, theta) = (case.norm_eps as f32, case.rope_theta as f32);
            let expected = runq_logits(&model, group_size, case.tokens, eps, theta).concat();
            let name = format!("{} groups of {group_size}", case.name);
            assert_bits(&name, &model.to_v2(group_size), &overrides(&case), case.tokens, &expected);
            straddling += usize::from(!case.shape.hidden_dim.is_multiple_of(group_size));
        }
    }
    assert!(straddling > 8, "{straddling} models have groups that straddle rows");
}

/// int8 weights of more than 2 MiB, so that threads share them.
const LARGE: Shape = Shape::new(256, 688).layers(3).heads(8, 4).vocab(515).context(32);

#[test]
fn int8_files_large_enough_for_threads_give_the_bits_of_runqs_arithmetic() {
    let model = RandomModel::new(LARGE, 5);
    let tokens = [1, 514, 7];
    for group_size in [32, 128, 256] {
        let file = model.to_v2(group_size);
        let embeddings = LARGE.vocab_size * LARGE.dim * 2; // of which a token reads a row
        assert!(file.len() - embeddings > 2 << 20);
        let expected = runq_logits(&model, group_size, &tokens, 1e-5, 1e4).concat();
        let name = format!("large, groups of {group_size}");
        assert_bits(&name, &file, &ModelOptions::new(), &tokens, &expected);
    }
}

/// The least shape whose matrices take groups of `64 * 64` weights and of 65,536, which is the
/// most.
#[test]
fn a_whole_matrix_may_be_one_group() {
    let shape = Shape::new(256, 256).layers(1).heads(4, 4).vocab(256).context(8).tied();
    let model = RandomModel::new(shape, 6);
    for group_size in [4096, 65_536] {
        let expected = runq_logits(&model, group_size, &[3, 255, 0], 1e-5, 1e4).concat();
        assert_bits("one group", &model.to_v2(group_size), &ModelOptions::new(), &[3, 255, 0], &expected);
    }
}

#[test]
fn int8_logits_are_near_those_of_the_dequantized_model() {
    let mut largest = 0.0_f64;
    for case in GOLDEN {
        let model = case.model();
        for group_size in group_sizes(&model) {
            let dequantized = model.dequantized(group_size);
            let expected = logits(&dequantized, case.tokens, case.norm_eps, case.rope_theta).concat();
            let file = model.to_v2(group_size);
            let found = all_logits(&file, &overrides(&case).threads(1), case.tokens);
            let error = rms_error(&found, &expected);
            let tolerance = int8_tolerance(case.shape.n_layers, group_size.max(4));
            println!("{} groups of {group_size}: {error:.4}, tolerance {tolerance:.4}", case.name);
            assert!(error < tolerance, "{} groups of {group_size}: {error} > {tolerance}", case.name);
            largest = largest.max(error / tolerance);
        }
    }
    println!("largest error: {largest} of its tolerance");
}

#[test]
fn int8_error_comes_from_the_activations_alone() {
    // The same weights with exact activations: what is left is the rounding of f32, far below that
    // of int8.
    let case = GOLDEN[3];
    let dequantized = case.model().dequantized(64);
    let expected = logits(&dequantized, case.tokens, case.norm_eps, case.rope_theta).concat();
    let found = all_logits(&dequantized.to_v1(), &overrides(&case).threads(1), case.tokens);
    let error = rms_error(&found, &expected);
    // The root mean square of 6,144 errors is below half of the largest.
    assert!(error < case.f32_tolerance() / 2.0, "{error:e}");
    let int8 = rms_error(&all_logits(&case.model().to_v2(64), &overrides(&case), case.tokens), &expected);
    assert!(int8 > 100.0 * error, "int8 activations must show: {int8:e}");
}

#[test]
fn groups_of_zeros_are_zeros_and_never_nan() {
    let case = GOLDEN[0];
    let mut model = case.model();
    model.layers[0].w1.fill(0.0); // every activation after it is 0 too
    model.layers[1].wo[..360].fill(0.0);
    model.layers[2].wv.fill(0.0);
    // token 0 has no embedding: its first activations are groups of zeros
    model.tok_embeddings[..36].fill(0.0);
    let tokens = [0, 1, 0, 332];
    for group_size in [1, 4, 12, 36] {
        let expected = runq_logits(&model, group_size, &tokens, 1e-5, 1e4).concat();
        assert!(expected.iter().all(|x| x.is_finite()));
        assert_bits("zeros", &model.to_v2(group_size), &ModelOptions::new(), &tokens, &expected);
    }
}

#[test]
fn weights_of_minus_128_are_multiplied_as_they_are() {
    // export.py never writes -128, but a byte can be that. Two files that mean the same model: in
    // one a row of the classifier is -128 with scale s, in the other -64 with scale 2 s. Both
    // products are exact, so they agree.
    let shape = Shape::new(64, 96).layers(1).heads(2, 2).vocab(40).context(8);
    let model = RandomModel::new(shape, 7);
    let group = 32;
    let mut file = model.to_v2(group);
    let n = shape.vocab_size * shape.dim;
    let scales = file.len() - n / group * 4;
    let quants = scales - n;
    let mut patch = |weight: i8, factor: f32| {
        file[quants..scales].fill(weight.cast_unsigned());
        for scale in file[scales..].chunks_exact_mut(4) {
            scale.copy_from_slice(&(0.25 * factor).to_le_bytes());
        }
        file.clone()
    };
    let (least, half, positive) = (patch(-128, 1.0), patch(-64, 2.0), patch(64, 2.0));
    for isa in Isa::available() {
        let logits = |file: &[u8]| all_logits(file, &ModelOptions::new().isa(isa).threads(1), &[1, 39, 7]);
        let negated: Vec<f32> = logits(&positive).iter().map(|x| -x).collect();
        assert_same_bits(&logits(&least), &logits(&half), isa.name());
        assert_same_bits(&logits(&least), &negated, isa.name());
        assert!(negated.iter().any(|x| x.abs() > 1.0));
    }
}

#[test]
fn every_weight_byte_gives_the_same_bits_on_every_isa() {
    let case = GOLDEN[1];
    let mut file = case.model().to_v2(4);
    // The quants of all 256 values, -128 among them, in the embeddings and from there on in the
    // other matrices.
    let start = 256 + 4 * case.shape.dim * (2 * case.shape.n_layers + 1);
    for (i, byte) in file[start..start + case.shape.vocab_size * case.shape.dim].iter_mut().enumerate() {
        *byte = (i % 256) as u8;
    }
    let scalar = all_logits(&file, &overrides(&case).isa(Isa::available()[0]), case.tokens);
    assert!(scalar.iter().all(|x| x.is_finite()));
    assert_bits("all bytes", &file, &overrides(&case), case.tokens, &scalar);
}

#[test]
fn tensors_say_how_they_are_stored() {
    let model = Model::from_bytes(GOLDEN[1].model().to_v2(64)).unwrap();
    assert_eq!(model.format(), "llama2.c v2");
    let tensors = model.tensors();
    assert_eq!(tensors.len(), 1 + 2 * 9 + 2);
    for tensor in tensors {
        let n: usize = tensor.shape.iter().product();
        let (dtype, bytes) = match tensor.shape.len() {
            1 => (Dtype::F32, 4 * n),
            _ => (Dtype::Int8 { group_size: 64 }, n + n / 64 * 4),
        };
        assert_eq!((tensor.dtype, tensor.bytes), (dtype, bytes), "{}", tensor.name);
    }
}

/// Whether every logit is NaN or none, on every Isa: what is damaged must show, and show alike.
fn poisoned(file: &[u8], tokens: &[u32]) -> Vec<(usize, usize)> {
    let logits = |isa| all_logits(file, &ModelOptions::new().isa(isa).threads(1), tokens);
    let count = |logits: Vec<f32>| (logits.iter().filter(|x| x.is_nan()).count(), logits.len());
    Isa::available().into_iter().map(logits).map(count).collect()
}

#[test]
fn nan_in_a_norm_reaches_the_logits_of_int8_files() {
    let case = GOLDEN[3];
    type Norm = fn(&mut RandomModel) -> &mut Vec<f32>;
    let norms: [(&str, Norm); 3] = [
        ("attention_norm", |m| &mut m.layers[0].attention_norm),
        ("ffn_norm", |m| &mut m.layers[1].ffn_norm),
        ("norm", |m| &mut m.norm),
    ];
    for (name, norm) in norms {
        for i in [0, 1, 31, 95] {
            for value in [f32::NAN, f32::INFINITY] {
                let mut model = case.model();
                norm(&mut model)[i] = value;
                for (nan, n) in poisoned(&model.to_v2(32), &case.tokens[..2]) {
                    assert_eq!(nan, n, "{name}[{i}] = {value}: NaN logits");
                }
            }
        }
    }
}

#[test]
fn nan_in_a_scale_reaches_the_logits_of_int8_files() {
    let case = GOLDEN[3];
    let file = case.model().to_v2(32);
    // The scales of the last layer's w3 end the file.
    let mut broken = file.clone();
    let end = broken.len();
    broken[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    for (nan, n) in poisoned(&broken, &case.tokens[..2]) {
        assert_eq!(nan, n, "NaN logits");
    }
    assert!(poisoned(&file, &case.tokens[..2]).iter().all(|(nan, _)| *nan == 0));
}
