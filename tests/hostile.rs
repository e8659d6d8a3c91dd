//! Files are untrusted: whatever is in them, an error that says what is wrong or a working model,
//! no panic, and no more memory than the file's own size justifies.

mod common;
#[path = "common/counting.rs"]
mod counting;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use babyllama::{
    Config, Error, ErrorKind, Model, ModelOptions, Sampler, SamplerOptions, SessionOptions, Tokenizer,
};
use common::{RandomModel, Shape, SplitMix64, TempFile, tokenizer_bin};
use counting::{Counting, peak};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SHAPE: Shape = Shape {
    dim: 8,
    hidden_dim: 12,
    n_layers: 2,
    n_heads: 2,
    n_kv_heads: 1,
    vocab_size: 20,
    max_seq_len: 16,
    tied: false,
};

/// The headers' integers, in order.
const DIM: usize = 0;
const HIDDEN_DIM: usize = 1;
const N_LAYERS: usize = 2;
const N_HEADS: usize = 3;
const N_KV_HEADS: usize = 4;
const VOCAB_SIZE: usize = 5;
const MAX_SEQ_LEN: usize = 6;
const FIELDS: [&str; 7] =
    ["dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len"];

fn files() -> [(&'static str, Vec<u8>); 3] {
    let model = RandomModel::new(SHAPE, 31);
    [("v0", model.to_v0()), ("v1", model.to_v1()), ("v2", model.to_v2(4))]
}

fn file(version: &str) -> Vec<u8> {
    files().into_iter().find(|(name, _)| *name == version).unwrap().1
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_llama2c(&tokenizer_bin(&[b" ", b"a", b"b", b" a", b"ab", b"\xC3", b"\xA9", b"."]))
        .unwrap()
}

fn options() -> ModelOptions {
    ModelOptions::new().threads(1).tokenizer(tokenizer())
}

/// What a file whose size doesn't justify it may take while it is opened.
const OPEN: usize = 64 << 10;
/// A cache starts with 4 MiB if the weights are less, the ids of that many positions beside it.
const SESSION: usize = 5 << 20;

/// Opens, and if that goes well, uses the model. Checks the memory that each takes.
fn open_and_use(bytes: Vec<u8>, options: &ModelOptions) -> Result<(), Error> {
    let len = bytes.len();
    let (model, opening) = peak(|| Model::from_bytes_with(bytes, options));
    assert!(opening <= len + OPEN, "opening {len} bytes took {opening}");
    let model = model?;

    let vocab_size = model.config().vocab_size as u32;
    let (session, using) = peak(|| {
        let mut session = model.session();
        match session.forward(&[1 % vocab_size, 0, vocab_size - 1]).map(<[f32]>::len) {
            Ok(n) => assert_eq!(n, model.config().vocab_size),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::ContextFull { .. }), "{error}");
                session.forward(&[0]).unwrap();
            }
        }
        session
    });
    let options = SessionOptions::new().context_length(64);
    let justified = 2 * options.memory_bytes(model.config()) as usize + SESSION;
    assert!(using <= justified, "a session took {using}, of {justified}");
    drop(session);

    let mut session = model.session_with(SessionOptions::new().context_length(8));
    let mut sampler = Sampler::new(SamplerOptions::default());
    match session.generate("ab a", &mut sampler) {
        // NaN weights are an error, of the first token.
        Ok(pieces) => pieces.take(4).for_each(|piece| drop(piece.map(|piece| piece.as_str().len()))),
        // A vocabulary that lacks the prompt's tokens.
        Err(error) => assert!(matches!(error.kind(), ErrorKind::TokenOutOfRange { .. }), "{error}"),
    }
    assert_eq!(session.position(), session.tokens().len());
    Ok(())
}

/// As [`open_and_use`]; a panic is told with the case that it came from.
#[track_caller]
fn never_panics(bytes: Vec<u8>, options: &ModelOptions, case: &str) -> Result<(), Error> {
    let outcome = catch_unwind(AssertUnwindSafe(|| open_and_use(bytes, options)));
    outcome.unwrap_or_else(|_| panic!("{case}: panicked"))
}

// --- Truncation

#[test]
fn a_model_that_is_cut_anywhere_is_refused() {
    let options = options();
    for (version, file) in files() {
        never_panics(file.clone(), &options, version).expect("the whole file works");
        for len in 0..file.len() {
            let error = never_panics(file[..len].to_vec(), &options, &format!("{version} cut at {len}"))
                .expect_err("a part is no model");
            let known = match error.kind() {
                ErrorKind::FileSize { expected, found } => {
                    (*expected, *found) == (file.len() as u64, len as u64)
                }
                ErrorKind::Truncated { needed, available, .. } => needed > available,
                ErrorKind::UnknownFormat { .. } => len < 28,
                _ => false,
            };
            assert!(known, "{version} cut at {len}: {error:?}");
        }
    }
}

#[test]
fn a_model_file_that_is_cut_is_refused_by_name() {
    for (version, file) in files() {
        for len in [0, 3, 4, 27, 28, 100, 255, 256, 300, file.len() - 1] {
            let cut = TempFile::new("cut.bin", &file[..len]);
            let error = Model::open(&cut).unwrap_err();
            assert_eq!(error.path(), Some(cut.path()), "{version} cut at {len}");
            assert!(error.to_string().starts_with(cut.path().to_str().unwrap()), "{error}");
        }
    }
}

#[test]
fn a_tokenizer_that_is_cut_anywhere_is_refused_or_shorter() {
    let bytes = tokenizer_bin(&[b" ", b"a", b"b", b" a", b"ab", b"\xC3", b"", b"and a long piece"]);
    let mut works = 0;
    for len in 0..=bytes.len() {
        let (result, memory) = peak(|| Tokenizer::from_llama2c(&bytes[..len]));
        assert!(memory < len + OPEN, "{memory} bytes for {len}");
        match result {
            Ok(tokenizer) => {
                works += 1;
                assert!(tokenizer.vocab_size() <= works);
                let _ = tokenizer.decode(&tokenizer.encode_prompt("ab \u{1f999} a"));
            }
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::Truncated { .. } | ErrorKind::Tokenizer { .. }),
                "{error:?}"
            ),
        }
    }
    assert_eq!(works, 11, "as often as a piece ends");
}

// --- Random damage

/// How many files the tests of random damage try: the tests without optimisation are there for
/// overflow checks.
const ROUNDS: usize = if cfg!(debug_assertions) { 6_000 } else { 100_000 };

#[test]
fn random_bytes_in_headers_are_an_error_or_a_working_model() {
    let options = options();
    let mut rng = SplitMix64::new(32);
    let mut opened = 0;
    for round in 0..ROUNDS {
        let (version, mut bytes) = files_once()[round % 3].clone();
        let header = if version == "v0" { 28 } else { 256 };
        for _ in 0..=rng.next_u64() % 3 {
            // Most damage hits the few bytes that say something, the rest the zeros behind them and
            // the weights.
            let within = match rng.next_u64() % 8 {
                0 => bytes.len(),
                1 => header,
                _ => header.min(41),
            };
            let at = rng.next_u64() as usize % within;
            bytes[at] = match rng.next_u64() % 3 {
                0 => bytes[at] ^ 1 << (rng.next_u64() % 8),
                1 => rng.next_u64() as u8,
                _ => [0, 1, 0x7F, 0x80, 0xFF][rng.next_u64() as usize % 5],
            };
        }
        opened += usize::from(never_panics(bytes, &options, &format!("round {round} of {version}")).is_ok());
    }
    println!("{opened} of {ROUNDS} work");
    assert!((ROUNDS / 100..ROUNDS / 2).contains(&opened), "{opened} of {ROUNDS}: damage of the wrong size");
}

/// The files, made once.
fn files_once() -> &'static [(&'static str, Vec<u8>); 3] {
    static FILES: std::sync::OnceLock<[(&str, Vec<u8>); 3]> = std::sync::OnceLock::new();
    FILES.get_or_init(files)
}

#[test]
fn random_headers_with_files_of_their_size_are_an_error_or_a_working_model() {
    // A header that was damaged seldom fits its file. Here the file is made to fit, so that odd
    // shapes get through.
    let options = ModelOptions::new().threads(1).tokenizer(
        // one piece: fits every vocabulary
        Tokenizer::from_llama2c(&tokenizer_bin(&[])[..4 + 13]).unwrap(),
    );
    let mut rng = SplitMix64::new(33);
    let mut opened = 0;
    let rounds = ROUNDS / 10;
    for round in 0..rounds {
        let (version, mut bytes) = files_once()[round % 3].clone();
        let start = if version == "v0" { 0 } else { 8 };
        for field in 0..7 {
            let value = match rng.next_u64() % 16 {
                0 => rng.next_u64() as i32,
                1..=5 => [1, 2, 4, 8, 16][rng.next_u64() as usize % 5],
                _ => (rng.next_u64() % 12) as i32,
            };
            if !rng.next_u64().is_multiple_of(3) {
                bytes[start + 4 * field..][..4].copy_from_slice(&value.to_le_bytes());
            }
        }
        if version == "v2" {
            bytes[37..41].copy_from_slice(&((rng.next_u64() % 9) as i32).to_le_bytes());
        }
        let case = format!("round {round} of {version}");
        if let Err(error) = never_panics(bytes.clone(), &options, &case)
            && let ErrorKind::FileSize { expected, .. } = error.kind()
            && *expected < 40_000
        {
            bytes.resize(*expected as usize, 0x3C);
            never_panics(bytes, &options, &case).expect("it has the size that the header asks for");
            opened += 1;
        }
    }
    println!("{opened} of {rounds} work");
    assert!(opened > rounds / 50, "{opened} of {rounds}");
}

/// The bundled vocabulary as a `tokenizer.bin`.
fn bundled_tokenizer_bin() -> Vec<u8> {
    let tokenizer = Tokenizer::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf")).unwrap();
    let mut bytes = 10_i32.to_le_bytes().to_vec();
    for id in 0..tokenizer.vocab_size() as u32 {
        let piece = tokenizer.piece(id).unwrap();
        bytes.extend(tokenizer.score(id).unwrap().to_le_bytes());
        bytes.extend((piece.len() as i32).to_le_bytes());
        bytes.extend(piece);
    }
    bytes
}

#[test]
fn random_damage_to_a_tokenizer_is_an_error_or_a_working_tokenizer() {
    let bytes = bundled_tokenizer_bin();
    let mut rng = SplitMix64::new(34);
    let mut opened = 0;
    for round in 0..ROUNDS / 20 {
        let mut bytes = bytes.clone();
        for _ in 0..=rng.next_u64() % 4 {
            let at = rng.next_u64() as usize % bytes.len();
            bytes[at] = rng.next_u64() as u8;
        }
        let (result, memory) = peak(|| Tokenizer::from_llama2c(&bytes));
        // Text, ends, scores, kinds, index: a piece of 8 bytes in the file is 13 in memory, 8 of
        // index twice over.
        assert!(memory < 4 * bytes.len() + OPEN, "round {round}: {memory} bytes");
        if let Ok(tokenizer) = result {
            let ids = tokenizer.encode("Once upon a time \u{1f999}");
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()), "round {round}");
            let _ = tokenizer.decode(&ids);
            opened += 1;
        }
    }
    assert!(opened > ROUNDS / 100, "{opened}");
}

// --- What each error says

/// A file with some of the header's integers replaced.
fn with_ints(version: &str, ints: &[(usize, i32)]) -> Vec<u8> {
    let mut bytes = file(version);
    let start = if version == "v0" { 0 } else { 8 };
    for (field, value) in ints {
        bytes[start + 4 * field..][..4].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// That a file is refused, by name, with all that `says`; the error's kind.
#[track_caller]
fn refused(bytes: &[u8], says: &[&str]) -> ErrorKind {
    let file = TempFile::new("bad model.bin", bytes);
    let (result, memory) = peak(|| Model::open_with(&file, &ModelOptions::new().threads(1)));
    let error = result.unwrap_err();
    let message = error.to_string();
    assert!(memory <= OPEN, "{message}: took {memory} bytes");
    assert_eq!(error.path(), Some(file.path()), "{message}");
    assert!(message.starts_with(&format!("{}: ", file.path().display())), "{message}");
    for said in says {
        assert!(message.contains(said), "{message}: should say {said}");
    }
    assert!(!message.contains('\n') && message.len() < 400, "{message}");
    let bytes_error = Model::from_bytes_with(bytes.to_vec(), &ModelOptions::new().threads(1)).unwrap_err();
    assert_eq!(bytes_error.path(), None);
    assert!(message.ends_with(&bytes_error.to_string()), "{bytes_error}");
    let ErrorKind::Config { .. } = bytes_error.kind() else { return into_kind(&bytes_error) };
    into_kind(&bytes_error)
}

/// A copy of the kinds that these tests look into.
fn into_kind(error: &Error) -> ErrorKind {
    match error.kind() {
        ErrorKind::Config { field, value, reason } => {
            ErrorKind::Config { field, value: value.clone(), reason: reason.clone() }
        }
        ErrorKind::FileSize { expected, found } => ErrorKind::FileSize { expected: *expected, found: *found },
        ErrorKind::UnsupportedVersion { format, found } => {
            ErrorKind::UnsupportedVersion { format, found: *found }
        }
        ErrorKind::UnknownFormat { hint } => ErrorKind::UnknownFormat { hint: hint.clone() },
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused_config(bytes: &[u8], field: &str, value: &str) {
    let kind = refused(bytes, &[field, value]);
    let right = matches!(&kind, ErrorKind::Config { field: f, value: v, .. } if *f == field && v == value);
    assert!(right, "{kind:?}: should be {field} = {value}");
}

#[test]
fn integers_that_are_zero_or_negative_are_named() {
    for version in ["v1", "v2"] {
        for (field, name) in FIELDS.iter().enumerate() {
            for value in [0, -1, i32::MIN] {
                refused_config(&with_ints(version, &[(field, value)]), name, &value.to_string());
            }
        }
    }
}

#[test]
fn heads_that_do_not_divide_are_named() {
    for version in ["v1", "v2"] {
        refused_config(&with_ints(version, &[(N_HEADS, 3)]), "n_heads", "3");
        refused_config(&with_ints(version, &[(N_HEADS, 16)]), "n_heads", "16");
        refused_config(&with_ints(version, &[(N_HEADS, i32::MAX)]), "n_heads", "2147483647");
        refused_config(&with_ints(version, &[(N_HEADS, 4), (N_KV_HEADS, 3)]), "n_kv_heads", "3");
        refused_config(&with_ints(version, &[(N_KV_HEADS, 4)]), "n_kv_heads", "4");
        refused_config(&with_ints(version, &[(DIM, 6)]), "head_dim", "3");
        refused_config(&with_ints(version, &[(N_HEADS, 8)]), "head_dim", "1");
    }
}

#[test]
fn integers_that_ask_for_another_size_are_told_with_both_sizes() {
    for (version, file) in files() {
        let found = file.len().to_string();
        for (field, value) in [
            (HIDDEN_DIM, 16),
            (HIDDEN_DIM, 2_000_000_000),
            (N_LAYERS, 4),
            (VOCAB_SIZE, 24),
            (VOCAB_SIZE, i32::MAX),
            (DIM, 16),
            (DIM, 1 << 30),
        ] {
            let kind = refused(&with_ints(version, &[(field, value)]), &[&found]);
            let ErrorKind::FileSize { expected, found } = kind else { panic!("{version} {field}: {kind:?}") };
            assert_eq!(found, file.len() as u64);
            assert_ne!(expected, found);
        }
    }
    // v0's tables grow with the context; the other versions have none.
    let kind = refused(&with_ints("v0", &[(MAX_SEQ_LEN, i32::MAX)]), &[]);
    let tables = |positions: u64| positions * 4 * 4;
    let rest = file("v0").len() as u64 - tables(16);
    assert!(
        matches!(kind, ErrorKind::FileSize { expected, .. } if expected == rest + tables(i32::MAX as u64))
    );
    for version in ["v1", "v2"] {
        let endless = with_ints(version, &[(MAX_SEQ_LEN, i32::MAX)]);
        open_and_use(endless, &options())
            .expect("two thousand million positions cost nothing until they are used");
    }
}

#[test]
fn sizes_beyond_64_bits_are_refused() {
    let huge = [
        (DIM, 1 << 30),
        (HIDDEN_DIM, 1 << 30),
        (N_LAYERS, 1000),
        (N_HEADS, 1 << 28),
        (N_KV_HEADS, 1 << 28),
        (VOCAB_SIZE, 1 << 30),
        (MAX_SEQ_LEN, i32::MAX),
    ];
    for version in ["v0", "v1", "v2"] {
        let kind = refused(&with_ints(version, &huge), &[]);
        assert!(matches!(kind, ErrorKind::FileSize { expected: u64::MAX, .. }), "{version}: {kind:?}");
    }
    for version in ["v0", "v1", "v2"] {
        for value in [i32::MAX, i32::MIN, -1, 0, 1 << 30] {
            let all: Vec<_> = (0..7).map(|field| (field, value)).collect();
            refused(&with_ints(version, &all), &[]);
        }
    }
}

#[test]
fn layers_cannot_take_more_memory_than_their_files() {
    // The least layer is a hundred bytes in a file and a thousand in memory.
    let least = Shape {
        dim: 2,
        hidden_dim: 1,
        n_layers: 1000,
        n_heads: 1,
        n_kv_heads: 1,
        vocab_size: 1,
        max_seq_len: 1,
        tied: true,
    };
    let options = ModelOptions::new().threads(1);
    let model = RandomModel::new(least, 1).to_v2(2);
    let len = model.len();
    let (result, memory) = peak(|| Model::from_bytes_with(model, &options));
    result.unwrap();
    println!("opening {len} bytes with 1,000 layers takes {memory}");
    assert!(memory <= len + (2 << 20), "{memory} bytes for {len}");
    let many = RandomModel::new(Shape { n_layers: 100_000, ..least }, 1).to_v2(2);
    refused_config(&many, "n_layers", "100000");
}

#[test]
fn group_sizes_out_of_range_or_that_do_not_divide_are_named() {
    for value in [0, -1, i32::MIN, 3, 5, 7, 64, 65_536, 65_537, i32::MAX] {
        let mut bytes = file("v2");
        bytes[37..41].copy_from_slice(&value.to_le_bytes());
        refused_config(&bytes, "group_size", &value.to_string());
    }
    // One that divides asks for another size.
    let mut bytes = file("v2");
    bytes[37..41].copy_from_slice(&2_i32.to_le_bytes());
    assert!(matches!(refused(&bytes, &[]), ErrorKind::FileSize { .. }));
}

#[test]
fn unknown_versions_are_named_whatever_follows_them() {
    for version in [0_i32, 3, 4, -1, i32::MIN] {
        let mut bytes = file("v1");
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        let mut other = bytes[..8].to_vec();
        other.resize(300, 0);
        for bytes in [&bytes[..], &other, &bytes[..8]] {
            let kind = refused(bytes, &["llama2.c", &version.cast_unsigned().to_string()]);
            let right = matches!(kind, ErrorKind::UnsupportedVersion { found, .. } if found == version.cast_unsigned());
            assert!(right, "version {version}: {kind:?}");
        }
    }
}

#[test]
fn a_flag_that_is_neither_0_nor_1_is_named() {
    for flag in [2, 128, 255] {
        for version in ["v1", "v2"] {
            let mut bytes = file(version);
            bytes[36] = flag;
            let kind = refused(&bytes, &[&flag.to_string(), "tied"]);
            assert!(matches!(kind, ErrorKind::Config { .. }), "{kind:?}");
        }
    }
    // The other flag asks for another size.
    let mut bytes = file("v1");
    bytes[36] ^= 1;
    assert!(matches!(refused(&bytes, &[]), ErrorKind::FileSize { .. }));
}

#[test]
fn bytes_behind_the_weights_are_refused() {
    for (version, file) in files() {
        for more in [1, 4, 1000] {
            let longer = [&file[..], &vec![0; more]].concat();
            let says = [file.len().to_string(), longer.len().to_string()];
            let kind = refused(&longer, &[&says[0], &says[1]]);
            assert!(matches!(kind, ErrorKind::FileSize { .. }), "{version}: {kind:?}");
        }
    }
}

#[test]
fn other_formats_are_recognised() {
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
        let kind = refused(&bytes, &[says]);
        assert!(matches!(kind, ErrorKind::UnknownFormat { .. }), "{says}: {kind:?}");
    }
}

#[test]
fn what_is_no_file_is_an_error_with_its_name() {
    let folder = TempFile::new("x", b"");
    let folder = folder.path().parent().unwrap();
    let error = Model::open(folder).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnknownFormat { .. } | ErrorKind::Io(_)), "{error:?}");
    assert!(error.to_string().starts_with(folder.to_str().unwrap()), "{error}");

    let missing = folder.join("missing.bin");
    let error = Model::open(&missing).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::Io(e) if e.kind() == std::io::ErrorKind::NotFound),
        "{error:?}"
    );
    assert!(error.to_string().starts_with(missing.to_str().unwrap()), "{error}");
    assert!(std::error::Error::source(&error).is_some());

    let error = Tokenizer::open(&missing).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Io(_)), "{error:?}");
    let error = Tokenizer::open(folder).unwrap_err();
    assert!(error.to_string().contains("it is a directory: name the tokenizer's file"), "{error}");
}

// --- Tokenizers beside models

#[test]
fn a_tokenizer_is_found_beside_the_model_and_named_when_it_is_bad() {
    let model = TempFile::new("tale.bin", &file("v1"));
    let folder = model.path().parent().unwrap();
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
    let error = Model::open(&model).unwrap_err();
    assert_eq!(error.path(), Some(&*bad));
    assert!(matches!(error.kind(), ErrorKind::Truncated { .. }), "{error:?}");

    fs::write(&bad, tokenizer_bin(&[b"x".as_slice(); 18])).unwrap();
    let error = Model::open(&model).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::VocabMismatch { tokenizer: 21, model: 20 }), "{error:?}");
    assert!(error.to_string().contains("21") && error.to_string().contains("20"), "{error}");

    let missing = ModelOptions::new().tokenizer_path(folder.join("missing"));
    assert!(Model::open_with(&model, &missing).unwrap_err().to_string().contains("missing"));
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
        let error = Tokenizer::open(&file).unwrap_err();
        assert_eq!(error.path(), Some(file.path()));
        assert!(error.to_string().contains(says), "{error}: should say {says}");
    }
}

// --- Options

#[test]
fn options_that_no_llama_can_have_are_refused() {
    let open = |options: ModelOptions| Model::from_bytes_with(file("v1"), &options.threads(1));
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
        let error = open(options).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Config { field, .. } if *field == name), "{error:?}");
    }
    let config: Config = open(ModelOptions::new().norm_eps(0.0)).unwrap().config().clone();
    assert_eq!(config.norm_eps, 0.0);
}
