//! Importance matrices: which columns of a matrix matter most, as llama.cpp's `llama-imatrix`
//! measures it on a text.
//!
//! They come as GGUF, or in an older format:
//!
//! ```text
//! u32 n, n of:
//!   u32 length, the name of a tensor, u32 calls, u32 columns, f32 x columns: sums over the calls
//! and in some files: i32 parts of the text, u32 length, the name of the text's file
//! ```

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::bytes::ByteReader;
use crate::checkpoint::gguf::importance::{Importance, importance};
use crate::checkpoint::gguf::keys;
use crate::convert::gguf::Value;
use crate::error::{Error, Result};
use crate::storage::Storage;

const FORMAT: &str = "importance matrix";
/// llama.cpp keeps texts of keys that it sets in 128 bytes, the last of which is a zero.
const MAX_TEXT: usize = 127;

/// How much each column of each matrix counts: the mean square of the activations that it is
/// multiplied with.
///
/// Quantizers of formats with 2 to 6 bits (K-quants, Q4_0, Q4_1, Q5_0, Q5_1) then let the weights
/// of other columns be further from what they were. Other formats leave no choice.
#[derive(Clone, Debug)]
pub struct ImportanceMatrix {
    by_name: HashMap<String, Vec<f32>>,
    /// What it was read from, measured on, and in how many parts (0 if that isn't known).
    file: Option<String>,
    text: Option<String>,
    n_chunks: u32,
}

impl ImportanceMatrix {
    /// Reads a file of llama.cpp's: GGUF, or the older format (`imatrix.dat`).
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io);
    /// [`ErrorKind::Malformed`](crate::ErrorKind::Malformed) and others for what isn't such a file,
    /// or holds what is no importance.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let storage = Arc::new(Storage::open(path.as_ref())?);
        Self::read(&storage).map_err(|e| e.at(storage.path()))
    }

    fn read(storage: &Arc<Storage>) -> Result<Self> {
        let Importance { mean_squares, text, n_chunks } = match importance(storage)? {
            Some(found) => found,
            None => read_old(storage.bytes())?,
        };
        let mut by_name = HashMap::new();
        for (name, columns) in mean_squares {
            if let Some(bad) = columns.iter().find(|x| !(x.is_finite() && **x >= 0.0)) {
                return Err(Error::malformed(FORMAT, format!("tensor {name}: an importance is {bad}")));
            }
            if by_name.contains_key(&name) {
                return Err(Error::malformed(FORMAT, format!("tensor {name} appears twice")));
            }
            by_name.insert(name, columns);
        }
        let file = storage.path().map(|path| path.display().to_string());
        Ok(Self { by_name, file, text, n_chunks })
    }

    /// The keys that a file says it was quantized with it by, as llama.cpp's `llama-quantize` sets
    /// them.
    pub(super) fn keys(&self) -> Vec<(&'static str, Value)> {
        let end = |text: &str| (0..=MAX_TEXT.min(text.len())).rfind(|&end| text.is_char_boundary(end));
        let start = |text: &str| text[..end(text).unwrap_or(0)].to_owned();
        let texts = [(keys::IMPORTANCE_FILE, &self.file), (keys::IMPORTANCE_TEXT, &self.text)];
        let texts = texts.into_iter().filter_map(|(key, text)| Some((key, start(text.as_ref()?).into())));
        let n_tensors = u32::try_from(self.len()).unwrap_or(u32::MAX);
        let chunks = (self.n_chunks > 0).then_some((keys::IMPORTANCE_CHUNKS, self.n_chunks.into()));
        texts.chain([(keys::IMPORTANCE_TENSORS, n_tensors.into())]).chain(chunks).collect()
    }

    /// How many tensors it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The importances of a tensor's columns, by its name in GGUF; `None` if it isn't there, as
    /// embeddings never are.
    pub(super) fn columns(&self, name: &str, columns: usize) -> Result<Option<&[f32]>> {
        match self.by_name.get(name) {
            Some(found) if found.len() != columns => Err(Error::malformed(
                FORMAT,
                format!(
                    "tensor {name} has {} columns, in the model {columns}: is it of another model?",
                    found.len()
                ),
            )),
            found => Ok(found.map(Vec::as_slice)),
        }
    }
}

fn read_old(bytes: &[u8]) -> Result<Importance> {
    let mut reader = ByteReader::new(bytes);
    let n_entries = reader.u32("the number of tensors")?;
    // Each has at least these three numbers.
    reader.expect(n_entries.into(), 12, "the tensors")?;
    let mut mean_squares = Vec::new();
    for _ in 0..n_entries {
        let len = reader.u32("the length of a name")?;
        let name = reader.take(len.into(), "a tensor's name")?;
        let Ok(name) = std::str::from_utf8(name) else {
            return Err(Error::malformed(FORMAT, "a tensor's name isn't text: is it another kind of file?"));
        };
        let (calls, columns) = (reader.u32("a number of calls")?, reader.u32("a number of columns")?);
        let sums = reader.take(u64::from(columns) * 4, "a tensor's importances")?;
        let calls = if calls == 0 { 1.0 } else { calls as f32 };
        let mean = |sum: &[u8; 4]| f32::from_le_bytes(*sum) / calls;
        mean_squares.push((name.to_owned(), sums.as_chunks().0.iter().map(mean).collect()));
    }
    let (mut text, mut n_chunks) = (None, 0);
    if !reader.rest().is_empty() {
        let parts = reader.u32("the number of the text's parts")?.cast_signed();
        n_chunks = u32::try_from(parts).unwrap_or(0);
    }
    if !reader.rest().is_empty() {
        let len = reader.u32("the length of the text's name")?;
        let name = reader.take(len.into(), "the name of the text")?;
        text = Some(String::from_utf8_lossy(name).into_owned());
    }
    Ok(Importance { mean_squares, text, n_chunks })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old(entries: &[(&str, u32, &[f32])]) -> Vec<u8> {
        let mut file = (entries.len() as u32).to_le_bytes().to_vec();
        for (name, calls, sums) in entries {
            file.extend((name.len() as u32).to_le_bytes());
            file.extend(name.as_bytes());
            file.extend(calls.to_le_bytes());
            file.extend((sums.len() as u32).to_le_bytes());
            file.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
        }
        file
    }

    fn read(file: Vec<u8>) -> Result<ImportanceMatrix> {
        ImportanceMatrix::read(&Arc::new(Storage::from_vec(file)))
    }

    #[test]
    fn an_old_file_has_sums_over_calls() {
        let matrix = read(old(&[("a", 2, &[1.0, 3.0]), ("b", 0, &[5.0])])).unwrap();
        assert_eq!(matrix.columns("a", 2).unwrap(), Some(&[0.5, 1.5][..]));
        assert_eq!(matrix.columns("b", 1).unwrap(), Some(&[5.0][..]));
        assert_eq!(matrix.columns("c", 1).unwrap(), None);
        let error = matrix.columns("a", 3).unwrap_err().to_string();
        assert!(error.contains("tensor a has 2 columns, in the model 3"), "{error}");
    }

    #[test]
    fn an_old_file_may_say_what_it_was_measured_on() {
        let entries = old(&[("a", 2, &[1.0, 3.0])]);
        let says = |end: &[u8]| {
            let matrix = read([&entries[..], end].concat()).unwrap();
            matrix
                .keys()
                .into_iter()
                .map(|(key, value)| format!("{} {value:?}", &key[17..]))
                .collect::<Vec<_>>()
        };
        let n = "entries_count U32(1)";
        assert_eq!(says(&[]), [n]);
        assert_eq!(says(&7_u32.to_le_bytes()), [n, "chunks_count U32(7)"]);
        assert_eq!(says(&u32::MAX.to_le_bytes()), [n]);
        let name = [&7_u32.to_le_bytes()[..], &5_u32.to_le_bytes(), b"a.txt"].concat();
        assert_eq!(says(&name), ["dataset String(\"a.txt\")", n, "chunks_count U32(7)"]);
        // As long as llama.cpp keeps it, in whole characters.
        let long = "ä".repeat(99);
        let name = [&7_u32.to_le_bytes()[..], &198_u32.to_le_bytes(), long.as_bytes()].concat();
        assert_eq!(says(&name)[0], format!("dataset String(\"{}\")", "ä".repeat(63)));
        for len in entries.len() + 1..entries.len() + name.len() {
            let cut = read([&entries[..], &name[..len - entries.len()]].concat());
            assert_eq!(cut.is_ok(), len == entries.len() + 4, "{len}");
        }
    }

    #[test]
    fn damaged_files_are_refused_wherever_they_end() {
        let whole = old(&[("a", 2, &[1.0, 3.0]), ("b", 1, &[5.0])]);
        for len in 0..whole.len() {
            assert!(read(whole[..len].to_vec()).is_err(), "{len}");
        }
        for bad in [f32::NAN, f32::INFINITY, -1.0] {
            let error = read(old(&[("a", 1, &[1.0, bad])])).unwrap_err().to_string();
            assert!(error.contains(&format!("tensor a: an importance is {bad}")), "{error}");
        }
        assert!(read(old(&[("a", 1, &[1.0]), ("a", 1, &[1.0])])).unwrap_err().to_string().contains("twice"));
        assert!(read(vec![255; 400]).is_err());
    }
}
