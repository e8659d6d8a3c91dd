//! A file that was quantized with an importance matrix says so, in the keys of llama.cpp's
//! `llama-quantize`.

use babyllama::convert::{GgufOptions, ImportanceMatrix, Recipe, Source};
use babyllama::{ErrorKind, Model, ModelOptions};

use crate::common::gguf::{Gguf, Value as Key};
use crate::common::{RandomModel, TempFile, refuses};
use crate::{SHAPE, gguf};

fn matrix(change: impl FnOnce(&mut Gguf)) -> TempFile {
    let mut file = Gguf::default();
    file.set("general.type", Key::str("imatrix"));
    file.set("imatrix.datasets", Key::strings(&["wiki/train.txt", "other.txt"]));
    file.set("imatrix.chunk_count", Key::U32(45)).set("imatrix.chunk_size", Key::U32(512));
    for name in ["blk.0.attn_q.weight", "blk.1.ffn_up.weight"] {
        file.tensor(&format!("{name}.in_sum2"), &[64, 1], &[2.0; 64]);
        file.tensor(&format!("{name}.counts"), &[1, 1], &[4.0]);
    }
    change(&mut file);
    TempFile::new("imatrix.gguf", &file.to_bytes())
}

/// The keys that say what a file was quantized with.
fn said(file: &[u8]) -> Vec<String> {
    let model = Model::from_bytes(file.to_vec()).unwrap();
    assert_eq!(model.notes(), <[String; 0]>::default());
    let keys = model
        .metadata()
        .iter()
        .filter_map(|(key, value)| Some(format!("{} {value}", key.strip_prefix("quantize.imatrix.")?)));
    keys.collect()
}

#[test]
fn the_importance_matrix_is_named_and_kept_until_another_takes_its_place() {
    let file = RandomModel::new(SHAPE, 3).to_gguf(1e-5, 1e4).to_bytes();
    let source = |file: &[u8]| Source::from_bytes(file.to_vec(), &ModelOptions::new()).unwrap();
    let options = GgufOptions::new().recipe(Recipe::Q4_0);
    let path = matrix(|_| ());
    let with_matrix = options.clone().importance(ImportanceMatrix::open(&path).unwrap());
    let written = gguf(&source(&file), &with_matrix);
    let mut name = path.text().to_owned();
    name.truncate(127);
    let expected = [
        "chunks_count u32 45".to_owned(),
        "dataset string \"wiki/train.txt\"".into(),
        "entries_count u32 2".into(),
        format!("file string {name:?}"),
    ];
    assert_eq!(said(&written), expected);
    assert_eq!(said(&gguf(&source(&written), &GgufOptions::new())), expected);
    assert_eq!(said(&gguf(&source(&written), &options)), expected);
    // What the user says counts first, and nothing of an earlier matrix stays.
    let bare = matrix(|file| {
        file.remove("imatrix.datasets").remove("imatrix.chunk_count");
        file.tensors.truncate(2);
    });
    let other = options.importance(ImportanceMatrix::open(&bare).unwrap());
    let other = other.metadata("quantize.imatrix.file", "mine");
    assert_eq!(said(&gguf(&source(&written), &other)), ["entries_count u32 1", "file string \"mine\""]);
    assert_eq!(said(&gguf(&source(&file), &GgufOptions::new())), <[String; 0]>::default());
}

#[test]
fn what_is_said_of_a_matrix_must_have_its_type() {
    for (key, value) in [("datasets", Key::str("a")), ("chunk_count", Key::str("45"))] {
        let file = matrix(|file| {
            file.set(&format!("imatrix.{key}"), value);
        });
        refuses!(ImportanceMatrix::open(&file), ErrorKind::KeyType { .. }, &format!("imatrix.{key}"));
    }
}

/// A matrix that changes nothing is no importance: of another model, or for formats that have no
/// choice.
#[test]
fn a_matrix_that_would_change_nothing_is_refused() {
    let file = RandomModel::new(SHAPE, 3).to_gguf(1e-5, 1e4).to_bytes();
    let source = Source::from_bytes(file, &ModelOptions::new()).unwrap();
    let of_others =
        matrix(|file| file.tensors.iter_mut().for_each(|t| t.name.splice(..0, *b"v.").for_each(drop)));
    for (path, recipe) in [(matrix(|_| ()), Recipe::Q8_0), (of_others, Recipe::Q4_0)] {
        let options = GgufOptions::new().recipe(recipe);
        let options = options.importance(ImportanceMatrix::open(&path).unwrap());
        let written = babyllama::convert::to_gguf(&source, &options, Vec::new());
        refuses!(written, ErrorKind::InvalidOption { name: "importance", .. }, "a matrix of 2 tensors");
    }
}
