//! What is read from GGUF files: models.

use std::fs;
use std::path::PathBuf;

use babyllama::{ErrorKind, Model, RopeScaling};

use crate::common::gguf::{Gguf, Value};
use crate::common::{
    GOLDEN, Shape, TempFile, all_logits, assert_same_bits, max_error, one_thread, open, refuses, try_open,
};
use crate::{small, with, with_key};

#[test]
fn f32_files_give_the_bits_of_llama2cs_and_hugging_faces_logits() {
    for case in GOLDEN {
        let model = case.model();
        let file = model.to_gguf(case.norm_eps as f32, case.rope_theta as f32);
        let found = all_logits(&open(&file), case.tokens);
        let error = max_error(&found, &case.logits());
        assert!(error < case.f32_tolerance(), "{}: {error:e} standard deviations", case.name);
        let same = one_thread().norm_eps(case.norm_eps as f32).rope_theta(case.rope_theta);
        let v0 = Model::from_bytes_with(model.to_v0(), &same).unwrap();
        assert_same_bits(&found, &all_logits(&v0, case.tokens), case.name);
    }
}

#[test]
fn all_versions_and_alignments_read_the_same() {
    let expected = all_logits(&open(&small()), &[1, 19, 0]);
    for version in [1, 2, 3] {
        for alignment in [None, Some(4), Some(32), Some(4096)] {
            let file = with(|file| {
                file.version = version;
                if let Some(alignment) = alignment {
                    file.set("general.alignment", Value::U32(alignment)).alignment = alignment.into();
                }
            });
            let model = open(&file);
            assert_eq!(model.format(), format!("GGUF v{version}"));
            assert_eq!(
                all_logits(&model, &[1, 19, 0]),
                expected,
                "version {version}, alignment {alignment:?}"
            );
        }
    }
}

#[test]
fn a_file_is_mapped_and_says_what_it_has() {
    let mut file = small();
    file.set(
        "general.name",
        Value::str(
            "A \u{1f999} and a name that is so long that nobody wants to read all of it, or even half",
        ),
    )
    .set("tokenizer.chat_template", Value::str("{{ messages }}"))
    .set("an.array", Value::Array(5, vec![Value::I32(1); 7]));
    let bytes = file.to_bytes();
    let path = TempFile::new("m.gguf", &bytes);
    let model = Model::open_with(&path, &one_thread()).unwrap();
    assert_eq!(model.file_bytes(), bytes.len() as u64);
    assert_eq!(model.chat_template(), Some("{{ messages }}"));
    let metadata = |key: &str| &*model.metadata().iter().find(|(name, _)| name == key).unwrap().1;
    assert_eq!(metadata("llama.embedding_length"), "u32 8");
    assert_eq!(metadata("an.array"), "array of 7 i32");
    assert!(metadata("general.name").starts_with("string \"A \u{1f999} and"));
    assert!(metadata("general.name").ends_with("..."));
    assert_eq!(model.metadata().len(), file.keys.len());
    assert_eq!(model.tensors().len(), file.tensors.len());
    assert_eq!(Model::from_bytes(small().to_bytes()).unwrap().chat_template(), None);
}

#[test]
fn errors_name_the_file() {
    let path = TempFile::new("m.gguf", &with_key("llama.block_count", Value::U32(3)).to_bytes());
    let error = refuses!(Model::open(&path), ErrorKind::MissingTensor { .. });
    assert_eq!(error.path(), Some(path.path()));
    assert!(error.to_string().ends_with("m.gguf: tensor blk.2.attn_norm.weight is missing"), "{error}");
}

#[test]
fn heads_may_be_wider_than_dim_over_heads_and_rotate_in_part() {
    // Zeros beside each head's dimensions change nothing, if the first ones rotate as before and
    // the scores' divisor, the root of the width, is made good for: so Hugging Face's logits hold
    // for wider heads too.
    for case in GOLDEN {
        let model = case.model();
        let Shape { dim, n_heads, n_kv_heads, n_layers, .. } = case.shape;
        let (narrow, wide) = (case.shape.head_dim(), case.shape.head_dim() + 6);
        let widen = |w: &[f32], heads: usize, scale: f64| -> Vec<f32> {
            let mut out = Vec::new();
            for head in w.chunks_exact(narrow * dim).take(heads) {
                out.extend(head.iter().map(|&w| (f64::from(w) * scale) as f32));
                out.resize(out.len() + (wide - narrow) * dim, 0.0);
            }
            out
        };
        let widen_columns = |w: &[f32]| -> Vec<f32> {
            let zeros = vec![0.0; wide - narrow];
            w.chunks_exact(narrow).flat_map(|head| [head, &zeros].concat()).collect()
        };
        let mut file = model.to_gguf(case.norm_eps as f32, case.rope_theta as f32);
        file.set("llama.attention.key_length", Value::U32(wide as u32))
            .set("llama.attention.value_length", Value::U32(wide as u32))
            .set("llama.rope.dimension_count", Value::U32(narrow as u32));
        let scale = (wide as f64 / narrow as f64).sqrt();
        let (q_dim, kv_dim) = ((n_heads * wide) as u64, (n_kv_heads * wide) as u64);
        for (l, layer) in model.layers.iter().enumerate().take(n_layers) {
            let mut replace = |name: &str, dims: [u64; 2], data: Vec<f32>| {
                let tensor = file.find(&format!("blk.{l}.{name}.weight"));
                tensor.dims = dims.to_vec();
                tensor.data = data.iter().flat_map(|x| x.to_le_bytes()).collect();
            };
            replace("attn_q", [dim as u64, q_dim], widen(&layer.wq, n_heads, scale));
            replace("attn_k", [dim as u64, kv_dim], widen(&layer.wk, n_kv_heads, 1.0));
            replace("attn_v", [dim as u64, kv_dim], widen(&layer.wv, n_kv_heads, 1.0));
            replace("attn_output", [q_dim, dim as u64], widen_columns(&layer.wo));
        }
        let opened = open(&file);
        let config = opened.config();
        assert_eq!((config.head_dim, config.rope_dim, config.q_dim()), (wide, narrow, n_heads * wide));
        let error = max_error(&all_logits(&opened, case.tokens), &case.logits());
        assert!(error < case.f32_tolerance(), "{}: {error:e} standard deviations", case.name);
        file.remove("llama.rope.dimension_count");
        let error = max_error(&all_logits(&open(&file), case.tokens), &case.logits());
        assert!(error > 1e-3, "{}: rotating all of a head goes unnoticed", case.name);
    }
}

#[test]
fn frequency_factors_divide_and_linear_scaling_divides_too() {
    let tokens: Vec<u32> = (0..12).collect();
    let expected = all_logits(&open(&small()), &tokens);
    let factors = |factor: f32| {
        with(|file| {
            file.tensor("rope_freqs.weight", &[2], &[factor; 2]);
        })
    };
    assert_eq!(all_logits(&open(&factors(1.0)), &tokens), expected);
    let linear = |key: &str, factor: f32| with_key(key, Value::F32(factor));
    let scaled = all_logits(&open(&linear("llama.rope.scaling.factor", 4.0)), &tokens);
    assert_ne!(scaled, expected);
    assert_eq!(all_logits(&open(&factors(4.0)), &tokens), scaled);
    assert_eq!(all_logits(&open(&linear("llama.rope.scale_linear", 4.0)), &tokens), scaled);
    for factor in [0.0, 1.0] {
        assert_eq!(all_logits(&open(&linear("llama.rope.scaling.factor", factor)), &tokens), expected);
    }
    for factor in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        refuses!(try_open(&factors(factor)), ErrorKind::Config { field: "rope_freqs", .. }, "positive");
    }
}

#[test]
fn rotary_frequencies_in_every_layer_are_no_news() {
    let tokens = [1, 7, 3, 2, 11];
    let expected = all_logits(&open(&with(|_| {})), &tokens);
    let frequencies = |name: &str, second: f32| {
        with(|file| {
            file.tensor(&name.replace('N', "0"), &[2], &[1.0, second]);
            file.tensor(&name.replace('N', "1"), &[2], &[1.0, second]);
        })
    };
    for name in ["blk.N.attn_rot_embd", "blk.N.attn_rot_embd.weight"] {
        // The base is 1e4, and a head has two pairs.
        assert_eq!(all_logits(&open(&frequencies(name, 0.01)), &tokens), expected, "{name}");
        refuses!(
            try_open(&frequencies(name, 0.02)),
            ErrorKind::TensorLayout { .. },
            "other rotary frequencies"
        );
    }
}

#[test]
fn the_sliding_window_is_read() {
    let file = |window: u32| with_key("llama.attention.sliding_window", Value::U32(window));
    for (window, expected) in [(0, None), (8, Some(8)), (4096, Some(4096))] {
        let model = open(&file(window));
        assert_eq!(model.config().sliding_window, expected);
        assert!(model.notes().is_empty());
    }
    let n_layers = open(&file(8)).config().n_layers;
    let flags: Vec<bool> = (0..n_layers).map(|l| l % 2 == 0).collect();
    let array = Value::Array(7, flags.iter().map(|&flag| Value::Bool(flag)).collect());
    for (pattern, expected) in [(array, &flags[..]), (Value::U32(2), &flags), (Value::U32(0), &[])] {
        let mut file = file(8);
        file.set("llama.attention.sliding_window_pattern", pattern);
        assert_eq!(open(&file).config().windowed_layers, expected);
    }
}

#[test]
fn rope_scaling_is_read_by_its_type() {
    let file = |kind: &str| {
        let mut file = with_key("llama.rope.scaling.type", Value::str(kind));
        file.set("llama.rope.scaling.factor", Value::F32(8.0));
        file
    };
    let scaling = |file: &Gguf| open(file).config().rope_scaling;
    assert_eq!(scaling(&small()), RopeScaling::None);
    assert_eq!(scaling(&file("none")), RopeScaling::None);
    assert_eq!(scaling(&file("linear")), RopeScaling::Linear { factor: 8.0 });
    let mut yarn = file("yarn");
    let RopeScaling::Yarn { original_context_length, beta_fast, beta_slow, magnitude, .. } = scaling(&yarn)
    else {
        panic!("not yarn")
    };
    assert_eq!((original_context_length, beta_fast, beta_slow), (16, 32.0, 1.0));
    assert!((magnitude - (1.0 + 0.1 * 8.0_f64.ln())).abs() < 1e-12);
    yarn.set("llama.rope.scaling.original_context_length", Value::U32(4))
        .set("llama.rope.scaling.attn_factor", Value::F32(0.5));
    let RopeScaling::Yarn { original_context_length: 4, magnitude, .. } = scaling(&yarn) else {
        panic!("not yarn with 4 positions")
    };
    assert!((magnitude - 0.5 * (1.0 + 0.1 * 8.0_f64.ln())).abs() < 1e-12);
    refuses!(try_open(&file("other")), ErrorKind::Config { field: "rope.scaling.type", .. }, "other");
}

#[test]
fn numbers_may_have_any_width_and_widths_may_be_given_for_each_layer() {
    let expected = open(&small()).config().clone();
    for value in [Value::U8(8), Value::I16(8), Value::U64(8), Value::I64(8)] {
        assert_eq!(open(&with_key("llama.embedding_length", value)).config(), &expected);
    }
    let each =
        |a, b| with_key("llama.feed_forward_length", Value::Array(4, vec![Value::U32(a), Value::U32(b)]));
    assert_eq!(open(&each(12, 12)).config(), &expected);
    refuses!(
        try_open(&each(12, 16)),
        ErrorKind::KeyType { .. },
        "llama.feed_forward_length: expected an integer, the same"
    );
    let three = Value::Array(4, vec![Value::U32(12); 3]);
    refuses!(
        try_open(&with_key("llama.feed_forward_length", three)),
        ErrorKind::KeyType { .. },
        "array of 3 u32"
    );
    let no_kv = with(|file| {
        file.remove("llama.attention.head_count_kv");
    });
    refuses!(
        try_open(&no_kv),
        ErrorKind::TensorShape { .. },
        "attn_k.weight: expected shape (8, 8), found (4, 8)"
    );
    let no_theta = with(|file| {
        file.remove("llama.rope.freq_base");
    });
    assert_eq!(open(&no_theta).config(), &expected);
}

/// The parts of a model, written to a folder that goes when the first file is dropped.
fn write_parts(count: u16, change: impl Fn(usize, &mut Gguf)) -> (TempFile, Vec<PathBuf>) {
    let folder = TempFile::new("x", b"");
    let write = |(i, mut part)| {
        change(i, &mut part);
        let path = folder.beside(format!("m-{:05}-of-{count:05}.gguf", i + 1));
        fs::write(&path, part.to_bytes()).unwrap();
        path
    };
    let paths = small().split(count).into_iter().enumerate().map(write).collect();
    (folder, paths)
}

#[test]
fn a_split_model_is_opened_by_its_first_part() {
    for count in [1, 2, 3, 5] {
        let (_folder, paths) = write_parts(count, |_, _| {});
        let model = Model::open_with(&paths[0], &one_thread()).unwrap();
        assert_eq!(all_logits(&model, &[3, 4]), all_logits(&open(&small()), &[3, 4]));
        let sizes = paths.iter().map(|path| fs::metadata(path).unwrap().len());
        assert_eq!(model.file_bytes(), sizes.sum::<u64>());
    }
}

#[test]
fn a_part_that_is_missing_wrong_or_not_the_first_is_told() {
    let (_folder, paths) = write_parts(3, |_, _| {});
    let first = paths[0].display();
    refuses!(Model::open(&paths[1]), ErrorKind::Split { .. }, format!("this is part 2 of 3: open {first}"));
    refuses!(try_open(fs::read(&paths[0]).unwrap()), ErrorKind::Split { .. });

    let renamed = paths[0].with_file_name("other.gguf");
    fs::copy(&paths[0], &renamed).unwrap();
    refuses!(Model::open(&renamed), ErrorKind::Split { .. }, "must end in -00001-of-00003.gguf");

    fs::copy(&paths[1], &paths[2]).unwrap();
    let said = "part 3 of 3 was expected, and it says it is part 2 of 3";
    let error = refuses!(Model::open(&paths[0]), ErrorKind::Split { .. }, said);
    assert_eq!(error.path(), Some(&*paths[2]));

    fs::write(&paths[2], b"no GGUF").unwrap();
    assert_eq!(Model::open(&paths[0]).unwrap_err().path(), Some(&*paths[2]));

    fs::remove_file(&paths[2]).unwrap();
    assert_eq!(refuses!(Model::open(&paths[0]), ErrorKind::Io(_)).path(), Some(&*paths[2]));

    let changed = |change: fn(&mut Gguf)| {
        let (folder, paths) = write_parts(2, |i, part| {
            if i == 1 {
                change(part);
            }
        });
        (folder, Model::open(&paths[0]), paths)
    };
    let (_folder, opened, _) = changed(|part| drop(part.tensors.pop()));
    refuses!(opened, ErrorKind::Split { .. }, "should have 21 tensors, they have 20");
    let (_folder, opened, paths) = changed(|part| part.tensors[0].name = b"token_embd.weight".to_vec());
    let error = refuses!(opened, ErrorKind::Malformed { .. }, "token_embd.weight appears twice");
    assert_eq!(error.path(), Some(&*paths[1]));
}

#[cfg(target_os = "linux")]
#[test]
fn a_split_model_may_have_any_name() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let whole = small();
    let folder = TempFile::new("x", b"");
    let path = |i: usize| {
        let name = [&b"m\xff\xfe"[..], format!("-{i:05}-of-00002.gguf").as_bytes()].concat();
        folder.beside(OsStr::from_bytes(&name))
    };
    // The first part may have no tensors, and is then no tokenizer alone.
    for n_first in [5, 0] {
        let (first, second) = whole.tensors.split_at(n_first);
        for (i, tensors) in [first, second].into_iter().enumerate() {
            let mut part = Gguf { tensors: tensors.to_vec(), ..Gguf::default() };
            if i == 0 {
                part.keys.clone_from(&whole.keys);
                part.set("tokenizer.ggml.tokens", Value::strings(&["a", "b"]));
            }
            part.set("split.no", Value::U16(i as u16)).set("split.count", Value::U16(2));
            fs::write(path(i + 1), part.to_bytes()).unwrap();
        }
        Model::open(path(1)).unwrap();
    }
    refuses!(Model::open(path(2)), ErrorKind::Split { .. }, "this is part 2 of 2: open ");
}
