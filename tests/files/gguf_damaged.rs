//! Damaged GGUF files: an error or a working model, no panic, and no more memory than the file
//! justifies.

use std::panic::{AssertUnwindSafe, catch_unwind};

use babyllama::{Error, ErrorKind};

use crate::common::gguf::Value;
use crate::common::{SplitMix64, refuses, try_open};
use crate::counting::peak;
use crate::{OPEN, rich, small, with_key};

/// Opens, uses if it can be opened, and checks that it took no more memory than the file justifies.
#[track_caller]
fn try_bytes(bytes: Vec<u8>, case: &str) -> Result<(), Error> {
    let len = bytes.len();
    let (result, taken) = peak(|| {
        catch_unwind(AssertUnwindSafe(|| try_open(bytes))).unwrap_or_else(|_| panic!("{case}: panicked"))
    });
    assert!(taken <= 12 * len + OPEN, "{case}: opening {len} bytes took {taken}");
    let model = result?;
    let last = model.config().vocab_size as u32 - 1;
    catch_unwind(AssertUnwindSafe(|| {
        let mut session = model.session();
        if session.capacity() > 1 {
            session.forward(&[0, last]).unwrap();
        }
    }))
    .unwrap_or_else(|_| panic!("{case}: panicked when used"));
    Ok(())
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    for version in [1, 2, 3] {
        let mut file = rich();
        file.version = version;
        let bytes = file.to_bytes();
        try_bytes(bytes.clone(), "whole").unwrap();
        let header = file.header().0.len();
        let cuts = (0..header + 40).chain((header + 40..bytes.len()).step_by(61));
        for len in cuts.chain([bytes.len() - 1]) {
            let error = try_bytes(bytes[..len].to_vec(), &format!("cut at {len}")).unwrap_err();
            let known = match error.kind() {
                ErrorKind::UnknownFormat { .. } => len < 4,
                ErrorKind::Truncated { needed, available, .. } => needed > available && len < header,
                ErrorKind::TensorLayout { .. } => len >= header,
                _ => false,
            };
            assert!(known, "cut at {len} of {header} and {}: {error:?}", bytes.len());
        }
    }
}

#[test]
fn random_damage_is_an_error_or_a_working_model() {
    let file = rich();
    let whole = file.to_bytes();
    let header = file.header().0.len();
    let rounds = if cfg!(debug_assertions) { 4_000 } else { 60_000 };
    let mut rng = SplitMix64::new(52);
    let mut opened = 0;
    for round in 0..rounds {
        let mut bytes = whole.clone();
        for _ in 0..=rng.below(3) {
            rng.damage(&mut bytes, header);
        }
        opened += usize::from(try_bytes(bytes, &format!("round {round}")).is_ok());
    }
    // Damage to keys that aren't read, and to numbers that may be anything.
    assert!(opened > rounds / 100 && opened < rounds, "{opened} of {rounds} were opened");
}

#[test]
fn huge_counts_are_refused_before_anything_is_allocated() {
    for count in [1 << 16, 1 << 31, 1 << 32, 1 << 62, u64::MAX] {
        for at in [8, 16] {
            let mut bytes = rich().to_bytes();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            try_bytes(bytes, &format!("{count} at {at}")).unwrap_err();
        }
        let length = count.to_le_bytes();
        for element in 0..=12_u32 {
            let array = [&element.to_le_bytes()[..], &length].concat();
            let file = with_key("x", Value::Raw(9, array));
            try_bytes(file.to_bytes(), &format!("array of {count}")).unwrap_err();
        }
        try_bytes(with_key("x", Value::Raw(8, length.to_vec())).to_bytes(), "a string").unwrap_err();
    }
}

#[test]
fn many_keys_take_memory_in_proportion() {
    let mut file = small();
    for i in 0..16_000 {
        file.keys.push((format!("{i:x}").into_bytes(), Value::U8(1)));
    }
    try_bytes(file.to_bytes(), "16,000 keys").unwrap();
    for i in 16_000..17_000 {
        file.keys.push((format!("{i:x}").into_bytes(), Value::U8(1)));
    }
    refuses!(try_bytes(file.to_bytes(), "17,000 keys"), ErrorKind::Malformed { .. });
}
