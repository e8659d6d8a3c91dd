//! Damaged files of PyTorch and safetensors, read by the parsers alone: few and small, so that Miri
//! can run them. `tests/convert/damaged.rs` damages whole models.

use std::path::{Path, PathBuf};

use super::stored::TensorView;
use super::{safetensors, torch};
use crate::error::Result;
use crate::rng::SplitMix64;

const ROUNDS: usize = if cfg!(miri) { 1 } else { 300 };

/// A file that is removed again.
struct TestFile(PathBuf);

impl TestFile {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("babyllama-damaged-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Reads `whole`, then copies of it that end early or have other bytes in one of `places`.
fn check(name: &str, whole: &[u8], places: &[usize], read: impl Fn(&Path) -> Result<Vec<TensorView>>) {
    let undamaged = read(&TestFile::new(name, whole).0).unwrap();
    assert!(undamaged.len() >= 2);
    let mut rng = SplitMix64::new(5);
    for round in 0..ROUNDS {
        let mut bytes = whole.to_vec();
        if round % 8 == 7 {
            bytes.truncate(rng.below(whole.len()));
            let error = read(&TestFile::new(name, &bytes).0).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
            continue;
        }
        let at = places[rng.below(places.len())];
        rng.damage(&mut bytes[at..], 1);
        // Damaged names, and numbers that fit, can't be noticed here.
        match read(&TestFile::new(name, &bytes).0) {
            Ok(tensors) => assert!(tensors.len() <= undamaged.len(), "byte {at}"),
            Err(error) => assert!(error.to_string().contains(name), "byte {at}: {error}"),
        }
    }
}

#[test]
fn pytorch() {
    let whole = include_bytes!("../../../tests/golden/ckpt.pt");
    // The pickle comes first and the archive's directory last.
    let places: Vec<usize> = (0..3200).chain(whole.len() - 2500..whole.len()).collect();
    check("ckpt.pt", whole, &places, |path| Ok(torch::read(path)?.tensors));
}

#[test]
fn safetensors() {
    let header = r#"{"a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b.weight": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}}"#;
    let len = (header.len() as u64).to_le_bytes();
    let whole = [&len, header.as_bytes(), &[1; 32]].concat();
    let places: Vec<usize> = (0..8 + header.len()).collect();
    check("model.safetensors", &whole, &places, safetensors::tensors);
}
