//! Damaged files of llama2.c: an error or a working model, no panic, and no more memory than the
//! file justifies.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use babyllama::{Error, ErrorKind, Model, ModelOptions, Sampler, SamplerOptions, SessionOptions, Tokenizer};

use crate::common::{BUNDLED, SplitMix64, TempFile, one_thread, refuses, tokenizer_bin};
use crate::counting::peak;
use crate::{OPEN, llama2c_files};

static FILES: LazyLock<[(&str, Vec<u8>); 3]> = LazyLock::new(llama2c_files);

fn tokenizer() -> Tokenizer {
    Tokenizer::from_llama2c(&tokenizer_bin(&[b" ", b"a", b"b", b" a", b"ab", b"\xC3", b"\xA9", b"."]))
        .unwrap()
}

pub(crate) fn options() -> ModelOptions {
    one_thread().tokenizer(tokenizer())
}

/// A cache starts with 4 MiB if the weights are less, the ids of that many positions beside it.
const SESSION: usize = 5 << 20;

/// Opens, and if that goes well, uses the model. Checks the memory that each takes.
pub(crate) fn open_and_use(bytes: Vec<u8>, options: &ModelOptions) -> Result<(), Error> {
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

#[test]
fn a_model_that_is_cut_anywhere_is_refused() {
    let options = options();
    for (version, file) in FILES.iter() {
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
    for (version, file) in FILES.iter() {
        for len in [0, 3, 4, 27, 28, 100, 255, 256, 300, file.len() - 1] {
            let cut = TempFile::new("cut.bin", &file[..len]);
            let error = refuses!(Model::open(&cut), _);
            assert_eq!(error.path(), Some(cut.path()), "{version} cut at {len}");
            assert!(error.to_string().starts_with(cut.text()), "{error}");
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

/// How many files the tests of random damage try: the tests without optimization are there for
/// overflow checks.
const ROUNDS: usize = if cfg!(debug_assertions) { 6_000 } else { 100_000 };

#[test]
fn random_bytes_in_headers_are_an_error_or_a_working_model() {
    let options = options();
    let mut rng = SplitMix64::new(32);
    let mut opened = 0;
    for round in 0..ROUNDS {
        let (version, mut bytes) = FILES[round % 3].clone();
        let header = if version == "v0" { 28 } else { 256 };
        for _ in 0..=rng.below(3) {
            // Most damage hits the few bytes that say something, the rest the zeros after them and
            // the weights.
            let within = match rng.below(8) {
                0 => bytes.len(),
                1 => header,
                _ => header.min(41),
            };
            rng.damage(&mut bytes, within);
        }
        opened += usize::from(never_panics(bytes, &options, &format!("round {round} of {version}")).is_ok());
    }
    println!("{opened} of {ROUNDS} work");
    assert!((ROUNDS / 100..ROUNDS / 2).contains(&opened), "{opened} of {ROUNDS}: damage of the wrong size");
}

#[test]
fn random_headers_with_files_of_their_size_are_an_error_or_a_working_model() {
    // A header that was damaged seldom fits its file. Here the file is made to fit, so that odd
    // shapes get through.
    let options = one_thread().tokenizer(
        // one piece: fits every vocabulary
        Tokenizer::from_llama2c(&tokenizer_bin(&[])[..4 + 13]).unwrap(),
    );
    let mut rng = SplitMix64::new(33);
    let mut opened = 0;
    let rounds = ROUNDS / 10;
    for round in 0..rounds {
        let (version, mut bytes) = FILES[round % 3].clone();
        let start = if version == "v0" { 0 } else { 8 };
        for field in 0..7 {
            let value = match rng.below(16) {
                0 => rng.next_u64() as i32,
                1..=5 => [1, 2, 4, 8, 16][rng.below(5)],
                _ => rng.below(12) as i32,
            };
            if rng.below(3) > 0 {
                bytes[start + 4 * field..][..4].copy_from_slice(&value.to_le_bytes());
            }
        }
        if version == "v2" {
            bytes[37..41].copy_from_slice(&(rng.below(9) as i32).to_le_bytes());
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
    let tokenizer = Tokenizer::open(BUNDLED).unwrap();
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
        for _ in 0..=rng.below(4) {
            let at = rng.below(bytes.len());
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
