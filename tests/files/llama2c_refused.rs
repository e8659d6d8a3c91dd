//! What each error says of a llama2.c file, of a file that is something else, and of options.

use std::fs;

use babyllama::{Error, ErrorKind, Model, ModelOptions, Tokenizer};

use crate::common::{RandomModel, Shape, TempFile, assert_says, one_thread, refuses, tokenizer_bin};
use crate::counting::peak;
use crate::llama2c_damaged::{open_and_use, options};
use crate::{OPEN, llama2c_file, llama2c_files};

/// The headers' integers, in order.
const FIELDS: [&str; 7] =
    ["dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len"];

/// A file with some of the header's integers replaced.
fn with_ints(version: &str, ints: &[(&str, i32)]) -> Vec<u8> {
    let mut bytes = llama2c_file(version);
    let start = if version == "v0" { 0 } else { 8 };
    for (name, value) in ints {
        let field = FIELDS.iter().position(|field| field == name).unwrap();
        bytes[start + 4 * field..][..4].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// That a file is refused, by name, with all that `says`; the error.
#[track_caller]
fn refused(bytes: &[u8], says: &[&str]) -> Error {
    let file = TempFile::new("bad model.bin", bytes);
    let (result, memory) = peak(|| Model::open_with(&file, &one_thread()));
    let error = result.unwrap_err();
    let message = error.to_string();
    assert!(memory <= OPEN, "{message}: took {memory} bytes");
    assert_eq!(error.path(), Some(file.path()), "{message}");
    assert!(message.starts_with(&format!("{}: ", file.text())), "{message}");
    assert_says(&message, says);
    assert!(!message.contains('\n') && message.len() < 400, "{message}");
    let error = Model::from_bytes_with(bytes.to_vec(), &one_thread()).unwrap_err();
    assert_eq!(error.path(), None);
    assert!(message.ends_with(&error.to_string()), "{error}");
    error
}

#[track_caller]
fn refused_size(bytes: &[u8], says: &[&str]) -> u64 {
    let error = refused(bytes, says);
    let ErrorKind::FileSize { expected, found } = *error.kind() else { panic!("{error:?}") };
    assert!(found == bytes.len() as u64 && expected != found, "{error:?}");
    expected
}

#[track_caller]
fn refused_config(bytes: &[u8], field: &str, value: &str) {
    let error = refused(bytes, &[field, value]);
    let right =
        matches!(error.kind(), ErrorKind::Config { field: f, value: v, .. } if *f == field && v == value);
    assert!(right, "{error:?}: should be {field} = {value}");
}

#[test]
fn integers_that_are_zero_or_negative_are_named() {
    for version in ["v1", "v2"] {
        for name in FIELDS {
            for value in [0, -1, i32::MIN] {
                refused_config(&with_ints(version, &[(name, value)]), name, &value.to_string());
            }
        }
    }
}

#[test]
fn heads_that_do_not_divide_are_named() {
    for version in ["v1", "v2"] {
        refused_config(&with_ints(version, &[("n_heads", 3)]), "n_heads", "3");
        refused_config(&with_ints(version, &[("n_heads", 16)]), "n_heads", "16");
        refused_config(&with_ints(version, &[("n_heads", i32::MAX)]), "n_heads", "2147483647");
        refused_config(&with_ints(version, &[("n_heads", 4), ("n_kv_heads", 3)]), "n_kv_heads", "3");
        refused_config(&with_ints(version, &[("n_kv_heads", 4)]), "n_kv_heads", "4");
        refused_config(&with_ints(version, &[("dim", 6)]), "head_dim", "3");
        refused_config(&with_ints(version, &[("n_heads", 8)]), "head_dim", "1");
    }
}

#[test]
fn integers_that_ask_for_another_size_are_told_with_both_sizes() {
    for (version, file) in llama2c_files() {
        let found = file.len().to_string();
        for (field, value) in [
            ("hidden_dim", 16),
            ("hidden_dim", 2_000_000_000),
            ("n_layers", 4),
            ("vocab_size", 24),
            ("vocab_size", i32::MAX),
            ("dim", 16),
            ("dim", 1 << 30),
        ] {
            refused_size(&with_ints(version, &[(field, value)]), &[&found]);
        }
    }
    // v0's tables grow with the context; the other versions have none.
    let expected = refused_size(&with_ints("v0", &[("max_seq_len", i32::MAX)]), &[]);
    let tables = |positions: u64| positions * 4 * 4;
    let rest = llama2c_file("v0").len() as u64 - tables(16);
    assert_eq!(expected, rest + tables(i32::MAX as u64));
    for version in ["v1", "v2"] {
        let endless = with_ints(version, &[("max_seq_len", i32::MAX)]);
        open_and_use(endless, &options())
            .expect("two thousand million positions cost nothing until they are used");
    }
}

#[test]
fn sizes_beyond_64_bits_are_refused() {
    let huge = [
        ("dim", 1 << 30),
        ("hidden_dim", 1 << 30),
        ("n_layers", 1000),
        ("n_heads", 1 << 28),
        ("n_kv_heads", 1 << 28),
        ("vocab_size", 1 << 30),
        ("max_seq_len", i32::MAX),
    ];
    for version in ["v0", "v1", "v2"] {
        assert_eq!(refused_size(&with_ints(version, &huge), &[]), u64::MAX, "{version}");
        for value in [i32::MAX, i32::MIN, -1, 0, 1 << 30] {
            refused(&with_ints(version, &FIELDS.map(|field| (field, value))), &[]);
        }
    }
}

#[test]
fn layers_cannot_take_more_memory_than_their_files() {
    // The least layer is a hundred bytes in a file and a thousand in memory.
    let least = Shape::new(2, 1).layers(1000).heads(1, 1).vocab(1).context(1).tied();
    let model = RandomModel::new(least, 1).to_v2(2);
    let len = model.len();
    let (result, memory) = peak(|| Model::from_bytes_with(model, &one_thread()));
    result.unwrap();
    println!("opening {len} bytes with 1,000 layers takes {memory}");
    assert!(memory <= len + (2 << 20), "{memory} bytes for {len}");
    let many = RandomModel::new(Shape { n_layers: 100_000, ..least }, 1).to_v2(2);
    refused_config(&many, "n_layers", "100000");
}

#[test]
fn group_sizes_out_of_range_or_that_do_not_divide_are_named() {
    for value in [0, -1, i32::MIN, 3, 5, 7, 64, 65_536, 65_537, i32::MAX] {
        let mut bytes = llama2c_file("v2");
        bytes[37..41].copy_from_slice(&value.to_le_bytes());
        refused_config(&bytes, "group_size", &value.to_string());
    }
    // One that divides asks for another size.
    let mut bytes = llama2c_file("v2");
    bytes[37..41].copy_from_slice(&2_i32.to_le_bytes());
    refused_size(&bytes, &[]);
}

#[test]
fn unknown_versions_are_named_whatever_follows_them() {
    for version in [0_i32, 3, 4, -1, i32::MIN] {
        let mut bytes = llama2c_file("v1");
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        let mut other = bytes[..8].to_vec();
        other.resize(300, 0);
        for bytes in [&bytes[..], &other, &bytes[..8]] {
            let version = version.cast_unsigned();
            let error = refused(bytes, &["llama2.c", &version.to_string()]);
            let ErrorKind::UnsupportedVersion { found, .. } = error.kind() else { panic!("{error:?}") };
            assert_eq!(*found, version);
        }
    }
}

#[test]
fn a_flag_that_is_neither_0_nor_1_is_named() {
    for flag in [2, 128, 255] {
        for version in ["v1", "v2"] {
            let mut bytes = llama2c_file(version);
            bytes[36] = flag;
            let error = refused(&bytes, &[&flag.to_string(), "tied"]);
            assert!(matches!(error.kind(), ErrorKind::Config { .. }), "{error:?}");
        }
    }
    // The other flag asks for another size.
    let mut bytes = llama2c_file("v1");
    bytes[36] ^= 1;
    refused_size(&bytes, &[]);
}

#[test]
fn bytes_after_the_weights_are_refused() {
    for (_, file) in llama2c_files() {
        for more in [1, 4, 1000] {
            let longer = [&file[..], &vec![0; more]].concat();
            let says = [file.len().to_string(), longer.len().to_string()];
            refused_size(&longer, &[&says[0], &says[1]]);
        }
    }
}

#[test]
fn other_formats_are_recognized() {
    let padded = |magic: &[u8]| [magic, &[0; 300]].concat();
    for (bytes, says) in [
        (Vec::new(), "empty"),
        (padded(b"FUGG\0\0\0\x03"), "GGUF file with its bytes in the wrong order"),
        (padded(b"PK\x03\x04"), "zip"),
        (padded(b"\x40\x01\0\0\0\0\0\0{\"__metadata__\":{}}"), "safetensors"),
        (padded(b"\x89PNG\r\n\x1a\n"), "picture"),
        (b"Once upon a time, there was a little girl named Lily.".to_vec(), "it is text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 75\n".to_vec(), "git lfs pull"),
        (padded(b"algg\x01\0\0\0\x08\0\0\0\x10\0\0\0"), "LoRA adapter"),
        (vec![0; 1000], "filled with zeros"),
        (vec![0xFF; 1000], "no known magic"),
        (b"24\x01".to_vec(), "no known magic"),
    ] {
        let error = refused(&bytes, &[says]);
        assert!(matches!(error.kind(), ErrorKind::UnknownFormat { .. }), "{says}: {error:?}");
    }
}

#[test]
fn what_is_no_file_is_an_error_with_its_name() {
    let folder = TempFile::new("x", b"");
    let folder = folder.folder();
    let error = refuses!(Model::open(folder), ErrorKind::UnknownFormat { .. } | ErrorKind::Io(_));
    assert!(error.to_string().starts_with(folder.to_str().unwrap()), "{error}");

    let missing = folder.join("missing.bin");
    let error = refuses!(Model::open(&missing), ErrorKind::Io(e) if e.kind() == std::io::ErrorKind::NotFound);
    assert!(error.to_string().starts_with(missing.to_str().unwrap()), "{error}");
    assert!(std::error::Error::source(&error).is_some());

    refuses!(Tokenizer::open(&missing), ErrorKind::Io(_));
    refuses!(Tokenizer::open(folder), _, "it is a directory: name the tokenizer's file");
}

#[test]
fn a_tokenizer_is_found_beside_the_model_and_named_when_it_is_bad() {
    let model = TempFile::new("tale.bin", &llama2c_file("v1"));
    let folder = model.folder();
    assert!(Model::open(&model).unwrap().tokenizer().is_none());

    let good = tokenizer_bin(&[b"a"]);
    fs::write(folder.join("tokenizer.bin"), &good).unwrap();
    assert_eq!(Model::open(&model).unwrap().tokenizer().unwrap().vocab_size(), 4);
    fs::write(folder.join("tale.tokenizer.bin"), tokenizer_bin(&[b"a", b"b"])).unwrap();
    assert_eq!(Model::open(&model).unwrap().tokenizer().unwrap().vocab_size(), 5, "its own comes first");
    let none = ModelOptions::new().no_tokenizer();
    assert!(Model::open_with(&model, &none).unwrap().tokenizer().is_none());
    let other = ModelOptions::new().tokenizer_path(folder.join("tokenizer.bin"));
    assert_eq!(Model::open_with(&model, &other).unwrap().tokenizer().unwrap().vocab_size(), 4);

    let bad = folder.join("tale.tokenizer.bin");
    fs::write(&bad, &good[..good.len() - 1]).unwrap();
    let error = refuses!(Model::open(&model), ErrorKind::Truncated { .. });
    assert_eq!(error.path(), Some(&*bad));

    fs::write(&bad, tokenizer_bin(&[b"x".as_slice(); 18])).unwrap();
    refuses!(Model::open(&model), ErrorKind::VocabMismatch { tokenizer: 21, model: 20 }, "21", "20");

    let missing = ModelOptions::new().tokenizer_path(folder.join("missing"));
    refuses!(Model::open_with(&model, &missing), _, "missing");
}

#[test]
fn tokenizers_say_what_is_wrong_with_them() {
    let entry = |score: f32, length: i32, text: &[u8]| {
        [&score.to_le_bytes()[..], &length.to_le_bytes(), text].concat()
    };
    for (bytes, says) in [
        (vec![], "it is empty"),
        (vec![1, 0, 0], "3 are left"),
        (vec![1, 0, 0, 0], "no pieces"),
        ([&[1, 0, 0, 0][..], &entry(0.0, -1, b"")].concat(), "piece 0 is -1"),
        ([&[1, 0, 0, 0][..], &entry(0.0, i32::MIN, b"")].concat(), "-2147483648"),
        ([&[1, 0, 0, 0][..], &entry(0.0, i32::MAX, b"abc")].concat(), "needs 2147483647 bytes, 3 are left"),
        ([&[1, 0, 0, 0][..], &entry(f32::NAN, 1, b"a")].concat(), "not a number"),
    ] {
        let file = TempFile::new("tokenizer.bin", &bytes);
        let error = refuses!(Tokenizer::open(&file), _, says);
        assert_eq!(error.path(), Some(file.path()));
    }
}

#[test]
fn options_that_no_llama_can_have_are_refused() {
    let open = |options: ModelOptions| Model::from_bytes_with(llama2c_file("v1"), &options.threads(1));
    for (options, name) in [
        (ModelOptions::new().norm_eps(f32::NAN), "norm_eps"),
        (ModelOptions::new().norm_eps(-1e-5), "norm_eps"),
        (ModelOptions::new().norm_eps(f32::INFINITY), "norm_eps"),
        (ModelOptions::new().rope_theta(0.0), "rope_theta"),
        (ModelOptions::new().rope_theta(-1e4), "rope_theta"),
        (ModelOptions::new().rope_theta(f64::NAN), "rope_theta"),
        (ModelOptions::new().rope_theta(f64::INFINITY), "rope_theta"),
        (ModelOptions::new().max_seq_len(0), "max_seq_len"),
        (ModelOptions::new().max_seq_len(usize::MAX), "max_seq_len"),
    ] {
        refuses!(open(options), ErrorKind::Config { field, .. } if *field == name);
    }
    assert_eq!(open(ModelOptions::new().norm_eps(0.0)).unwrap().config().norm_eps, 0.0);
}
