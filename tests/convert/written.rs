//! The writer of GGUF and the quantizers against PyPI `gguf`, and output files.

use std::fs;
use std::io::Write;

use babyllama::convert::gguf::{Array, Header, Value};
use babyllama::convert::{OutputFile, dtypes, quantize};
use babyllama::{Config, Dtype, ErrorKind, Model, RopeScaling, SessionOptions};

use crate::common::{SplitMix64, TempFile, golden_bytes, refuses};
use crate::unwritable;

/// Bytes of a block in `quantized.bin`: as f32, and then in each format.
const QUANTIZED: usize = 128 + 64 + 64 + 34 + 18 + 20 + 22 + 24;

#[test]
fn a_header_with_long_rope_has_both_sets_of_factors() {
    let mut config = Config::new(64, 96, 2, 4, 2, 32, 16);
    config.rope_scaling = RopeScaling::Long { original_context_length: 8, magnitude: 1.25 };
    let header = Header::llama(&config, true, Dtype::F32).unwrap();
    let made = |[short, long]: [f32; 2]| {
        let mut to = header.write(Vec::new()).unwrap();
        let mut rng = SplitMix64::new(3);
        for (name, shape, bytes) in header.tensors() {
            let n = bytes as usize / 4;
            let data = match name {
                "rope_factors_short.weight" => vec![short; 8],
                "rope_factors_long.weight" => vec![long; 8],
                _ => rng.tensor(n, if shape.len() == 1 { 1.0 } else { 0.0 }, 0.25),
            };
            assert_eq!(data.len(), n, "{name}");
            let data: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
            to.write(name, &data).unwrap();
        }
        Model::from_bytes(to.finish().unwrap())
    };
    let last: Vec<&str> = header.tensors().map(|(name, ..)| name).collect();
    assert_eq!(last[last.len() - 2..], ["rope_factors_short.weight", "rope_factors_long.weight"]);
    let model = made([1.0, 4.0]).unwrap();
    assert_eq!(model.config(), &config);
    let logits = |model: &Model, capacity: usize| {
        let mut session = model.session_with(SessionOptions::new().context_length(capacity));
        session.forward(&[1, 2, 3, 4, 5]).unwrap().to_vec()
    };
    let others = [made([4.0, 4.0]).unwrap(), made([1.0, 1.0]).unwrap()];
    assert_eq!(logits(&model, 8), logits(&others[1], 16));
    assert_eq!(logits(&model, 9), logits(&others[0], 8));
    assert_ne!(logits(&model, 8), logits(&model, 9));
    refuses!(made([0.0, 1.0]), ErrorKind::Config { field: "rope_factors_short", .. }, "positive");
}

#[test]
fn blocks_are_what_pypi_gguf_makes_of_them() {
    let formats = [
        (Dtype::F16, 64),
        (Dtype::Bf16, 64),
        (Dtype::Q8_0, 34),
        (Dtype::Q4_0, 18),
        (Dtype::Q4_1, 20),
        (Dtype::Q5_0, 22),
        (Dtype::Q5_1, 24),
    ];
    let golden = golden_bytes("quantized.bin");
    let (blocks, mut rest) = golden.split_at(64 * QUANTIZED);
    let mut all = Vec::new();
    for (i, block) in blocks.chunks_exact(QUANTIZED).enumerate() {
        let (weights, mut rest) = block.split_at(128);
        let weights: Vec<f32> =
            weights.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        for (dtype, bytes) in formats {
            let mut out = Vec::new();
            quantize(&weights, dtype, &mut out).unwrap();
            assert_eq!(out, rest[..bytes], "block {i} as {dtype}: {weights:?}");
            rest = &rest[bytes..];
        }
        all.extend(weights);
    }
    for (dtype, bytes) in [(Dtype::Mxfp4, 64 * 17), (Dtype::Tq1_0, 8 * 54), (Dtype::Tq2_0, 8 * 66)] {
        let mut out = Vec::new();
        quantize(&all, dtype, &mut out).unwrap();
        assert_eq!(out, rest[..bytes], "{dtype}");
        rest = &rest[bytes..];
    }
    assert!(rest.is_empty());
}

#[test]
fn quantize_appends_and_leaves_f32_as_it_is() {
    let weights = [1.5, f32::NAN, f32::INFINITY];
    let mut out = vec![7];
    quantize(&weights, Dtype::F32, &mut out).unwrap();
    let expected: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    assert_eq!((out[0], &out[1..]), (7, &*expected));
}

#[test]
fn weights_that_a_format_cannot_hold_are_refused() {
    let mut out = Vec::new();
    let reason = unwritable(quantize(&[0.0; 33], Dtype::Q8_0, &mut out));
    assert_eq!(reason, "Q8_0 can't be written: 33 weights are not a multiple of its block of 32");
    for bad in [f32::NAN, f32::INFINITY, -65_505.0] {
        let mut weights = [1.0; 32];
        weights[9] = bad;
        for dtype in [Dtype::F16, Dtype::Q8_0] {
            let reason = unwritable(quantize(&weights, dtype, &mut out));
            assert_eq!(reason, format!("{dtype} can't be written: a weight is {bad}"));
        }
        quantize(&weights, Dtype::Bf16, &mut Vec::new()).unwrap();
    }
    unwritable(quantize(&[0.0; 32], Dtype::Int8 { group_size: 32 }, &mut out));
    assert!(dtypes().all(|dtype| dtype.block().is_some()));
    assert!(out.is_empty(), "something was written");
}

#[test]
fn a_file_of_every_type_is_what_pypi_gguf_writes() {
    let floats = |n: u16| -> Vec<f32> { (0..n).map(f32::from).collect() };
    let strings = |texts: &[&str]| Array::String(texts.iter().map(|text| text.as_bytes().to_vec()).collect());
    let mut header = Header::new();
    let values: [(&str, Value); 18] = [
        ("general.architecture", "example".into()),
        ("a.u8", 200_u8.into()),
        ("a.i8", (-100_i8).into()),
        ("a.u16", 60_000_u16.into()),
        ("a.i16", (-30_000_i16).into()),
        ("a.u32", 4_000_000_000_u32.into()),
        ("a.i32", (-2_000_000_000_i32).into()),
        ("a.u64", u64::MAX.into()),
        ("a.i64", i64::MIN.into()),
        ("a.f32", 0.1_f32.into()),
        ("a.f64", 0.1_f64.into()),
        ("a.bool", true.into()),
        ("a.string", "llama \u{e9}\u{1f999}".into()),
        ("b.strings", strings(&["a", "", "\u{2581}b"]).into()),
        ("b.i32", Array::I32(vec![1, -2, 3]).into()),
        ("b.f32", Array::F32(vec![0.5, -0.25]).into()),
        ("b.bool", Array::Bool(vec![true, false]).into()),
        ("b.arrays", Array::Array(vec![Array::I32(vec![1, 2]), Array::I32(vec![3])]).into()),
    ];
    for (key, value) in values {
        header.set(key, value).unwrap();
    }
    let blocks: Vec<f32> = golden_bytes("quantized.bin")
        .chunks_exact(QUANTIZED)
        .take(2)
        .flat_map(|block| block[..128].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())))
        .collect();
    let tensors: [(&str, &[usize], Dtype, Vec<f32>); 4] = [
        ("one", &[1], Dtype::F32, floats(1)),
        ("three.f16", &[3], Dtype::F16, floats(3)),
        ("cube", &[2, 3, 4], Dtype::F32, floats(24)),
        ("q8", &[1, 64], Dtype::Q8_0, blocks),
    ];
    for (name, shape, dtype, _) in &tensors {
        header.tensor(name, shape, *dtype).unwrap();
    }
    let expected = golden_bytes("every_type.gguf");
    assert_eq!(header.file_bytes(), expected.len() as u64);
    let mut writer = header.write(Vec::new()).unwrap();
    for (name, _, dtype, weights) in &tensors {
        let mut bytes = Vec::new();
        quantize(weights, *dtype, &mut bytes).unwrap();
        for part in bytes.chunks(7) {
            writer.write(name, part).unwrap();
        }
    }
    assert_eq!(writer.finish().unwrap(), expected);
}

#[test]
fn what_gguf_forbids_is_refused() {
    let mut header = Header::new();
    header.set("a", 1_u8).unwrap();
    assert_eq!(unwritable(header.set("a", 2_u8)), "key \"a\" can't be written: it is there already");
    unwritable(header.set("", 1_u8));
    unwritable(header.set(&"k".repeat(65_536), 1_u8));
    unwritable(header.set("general.alignment", 64_u32));
    header.set(&"k".repeat(65_535), 1_u8).unwrap();

    header.tensor("a", &[2, 32], Dtype::Q8_0).unwrap();
    unwritable(header.tensor("a", &[2, 32], Dtype::Q8_0));
    unwritable(header.tensor("", &[1], Dtype::F32));
    unwritable(header.tensor(&"n".repeat(64), &[1], Dtype::F32));
    let reason = unwritable(header.tensor("b", &[32, 48], Dtype::Q8_0));
    assert_eq!(reason, "tensor \"b\" can't be written: a tensor of shape [32, 48] can't be stored as Q8_0");
    let shapes: [&[usize]; 6] =
        [&[], &[0], &[0, 32], &[1, 1, 1, 1, 32], &[usize::MAX, 32], &[1 << 31, 1 << 31]];
    for shape in shapes {
        unwritable(header.tensor("b", shape, Dtype::F32));
    }
    unwritable(header.tensor("b", &[1, 32], Dtype::Int8 { group_size: 32 }));
    header.tensor(&"n".repeat(63), &[1, 1, 1, 32], Dtype::F32).unwrap();
}

#[test]
fn tensors_are_written_whole_and_in_order() {
    let mut header = Header::new();
    header.tensor("a", &[3], Dtype::F32).unwrap();
    header.tensor("b", &[1], Dtype::F32).unwrap();
    let mut writer = header.write(Vec::new()).unwrap();
    assert_eq!(unwritable(writer.write("b", &[0; 4])), "tensor \"b\" can't be written: tensor \"a\" is due");
    writer.write("a", &[1; 8]).unwrap();
    unwritable(writer.write("a", &[1; 5]));
    writer.write("a", &[1; 4]).unwrap();
    unwritable(writer.write("a", &[1]));
    let unfinished = "tensor \"b\" can't be written: only 0 of its 4 bytes were given";
    assert_eq!(unwritable(writer.finish()), unfinished);
}

#[test]
fn an_output_file_takes_its_place_only_when_it_is_whole() {
    let target = TempFile::new("target", b"old");
    let folder = target.folder();
    let names = || fs::read_dir(folder).unwrap().count();

    let error = refuses!(OutputFile::create(&target, false), ErrorKind::Exists);
    assert_eq!(error.to_string(), format!("{}: the file is there already", target.path().display()));

    let mut file = OutputFile::create(&target, true).unwrap();
    file.write_all(b"half").unwrap();
    assert_eq!((fs::read(&target).unwrap(), names()), (b"old".to_vec(), 2));
    drop(file);
    assert_eq!((fs::read(&target).unwrap(), names()), (b"old".to_vec(), 1), "nothing is left behind");

    let mut file = OutputFile::create(&target, true).unwrap();
    file.write_all(b"whole").unwrap();
    file.persist().unwrap();
    assert_eq!((fs::read(&target).unwrap(), names()), (b"whole".to_vec(), 1));

    let other = folder.join("other");
    let mut file = OutputFile::create(&other, false).unwrap();
    file.write_all(b"ours").unwrap();
    fs::write(&other, b"theirs").unwrap();
    refuses!(file.persist(), ErrorKind::Exists);
    assert_eq!(fs::read(&other).unwrap(), b"theirs");
    refuses!(OutputFile::create(folder, true), ErrorKind::Io(_));
}
