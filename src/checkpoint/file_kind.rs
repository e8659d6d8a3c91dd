//! What an unexpected file is, by its first bytes, and what to do about it.
//!
//! A new kind is a row of the table [`kinds!`]. Nothing here decides how a file is read: a reader
//! that doesn't know a file's beginning asks here what to say. So a kind may be told by what it
//! resembles, as long as no good file resembles it.

mod sample;

use std::path::Path;

use sample::Sample;

/// Bytes of a file's beginning that are enough to tell its kind, or all of them if it has fewer.
pub(crate) const SAMPLE_BYTES: usize = 4096;

/// What a file was opened as: the place of what is said then in an [`Advice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A model that runs.
    Model,
    /// A tokenizer that is used with a model that runs: GGUF or `tokenizer.bin`.
    Tokenizer,
    /// One of the files of a published model: weights, a tokenizer, settings.
    #[cfg_attr(not(feature = "convert"), allow(dead_code, reason = "only these are published models' files"))]
    Published,
}

/// What to do, if there is something, where a model, a tokenizer or a published model's file was
/// wanted.
type Advice = [&'static str; 3];

/// How a kind is detected, and what the error says of it.
struct Row {
    kind: FileKind,
    is: fn(&Sample) -> bool,
    /// What it is: ends a sentence that begins with "it is".
    what: &'static str,
    advice: Advice,
}

/// The table of kinds, of which the first that fits is it. A row is a [`Row`]'s four fields.
macro_rules! kinds {
    ($($kind:ident, $is:expr, $what:literal, $advice:expr;)+) => {
        /// A kind of file.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum FileKind {
            $($kind,)+
        }

        const KINDS: &[Row] =
            &[$(Row { kind: FileKind::$kind, is: $is, what: $what, advice: $advice },)+];
    };
}

const AGAIN: Advice = [
    "download the model's file again, and look at what the server says",
    "download the tokenizer's file again, and look at what the server says",
    "download the model's file again, and look at what the server says",
];
/// For settings of published models.
const SETTINGS: Advice = [
    "`babyllama convert DIR DIR.gguf` makes a file that runs of the directory that it belongs to",
    "it holds settings and no pieces: the tokenizer is in tokenizer.json or tokenizer.model beside it, \
     which `babyllama convert` takes",
    "",
];
const UNPACK: Advice = ["unpack it first"; 3];
/// For what has nothing to do with models.
const NAME_IT: Advice =
    ["name a model's file, GGUF or llama2.c's", "name a tokenizer's file, GGUF or a tokenizer.bin", ""];
/// For what `convert` makes a runnable file of.
const CONVERT: Advice = [
    "`babyllama convert DIR DIR.gguf` makes a file that runs of the directory that it belongs to",
    "the tokenizer is another file",
    "",
];
/// For tokenizers that only `convert` reads.
const CONVERT_TOKENIZER: Advice = [
    "the model's weights are in another file",
    "only `babyllama convert` takes it; the GGUF file that it writes then holds the tokenizer",
    "",
];
const MERGE_ADAPTER: Advice = ["it only changes another model: merge it into that first, with `babyllama convert BASE NAME.gguf --lora` and its directory";
    3];
const OLD_GGML: Advice = ["it has been out of use since 2023, so download the model as GGUF"; 3];

kinds! {
    Empty, |s| s.len == 0, "empty", AGAIN;
    GitLfsPointer, |s| s.starts(&[b"version https://git-lfs", b"version https://hawser"]),
        "a Git LFS pointer, which only stands for the file",
        ["run `git lfs pull` where it was cloned, or download the file itself"; 3];
    Html, Sample::is_html, "an HTML page, not the file that was to be downloaded", AGAIN;
    Xml, |s| s.text_starts(&["<?xml", "<error"]), "XML, perhaps a server's error message", AGAIN;
    TokenizerJson, Sample::is_tokenizer_json, "a tokenizer.json", CONVERT_TOKENIZER;
    TokenizerConfigJson, |s| s.has_key(&["tokenizer_class", "added_tokens_decoder", "chat_template"]),
        "a tokenizer_config.json", SETTINGS;
    AdapterConfigJson, |s| s.has_key(&["peft_type"]), "the settings of a LoRA adapter", MERGE_ADAPTER;
    IndexJson, |s| s.has_key(&["weight_map", "total_size"]), "an index of a model's files", CONVERT;
    ConfigJson, |s| s.has_key(&["architectures", "model_type", "hidden_size", "_name_or_path"]),
        "a config.json, a model's hyperparameters", SETTINGS;
    ParamsJson, |s| s.has_key(&["dim"]) && s.has_key(&["n_layers", "n_heads"]),
        "a params.json, a model's hyperparameters", SETTINGS;
    ErrorAnswer, |s| s.len < 4096 && s.has_key(&["error", "errors", "message", "detail"]),
        "JSON, a server's error message", AGAIN;
    Json, Sample::is_json, "JSON", NAME_IT;
    Gzip, |s| s.starts(&[b"\x1f\x8b\x08"]), "compressed with gzip", UNPACK;
    Zstd, |s| s.starts(&[b"\x28\xb5\x2f\xfd"]), "compressed with zstd", UNPACK;
    Xz, |s| s.starts(&[b"\xfd7zXZ\0"]), "compressed with xz", UNPACK;
    Bzip2, |s| s.starts(&[b"BZh"]) && s.at(4, b"1AY&SY"), "compressed with bzip2", UNPACK;
    Lz4, |s| s.starts(&[b"\x04\x22\x4d\x18"]), "compressed with lz4", UNPACK;
    SevenZip, |s| s.starts(&[b"7z\xbc\xaf\x27\x1c"]), "a 7z archive", UNPACK;
    Rar, |s| s.starts(&[b"Rar!\x1a\x07"]), "a RAR archive", UNPACK;
    Tar, |s| s.at(257, b"ustar"), "a tar archive", UNPACK;
    PyTorch, Sample::is_pytorch, "a zip archive of PyTorch's, which has to be converted", CONVERT;
    NumpyArchive, |s| s.is_zip() && s.first_entry().ends_with(b".npy"), "a zip archive of NumPy's",
        ["it is in no format in which models are published"; 3];
    Zip, Sample::is_zip, "a zip archive", UNPACK;
    OldPyTorch, |s| s.starts(&[b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46"]), "a file of PyTorch before 1.6",
        ["load it with torch.load, and save it again with torch.save"; 3];
    Pickle, Sample::is_pickle, "a Python pickle", ["save the weights as safetensors"; 3];
    Numpy, |s| s.starts(&[b"\x93NUMPY"]), "an array of NumPy's",
        ["it is in no format in which models are published"; 3];
    Hdf5, |s| s.starts(&[b"\x89HDF\r\n\x1a\n"]), "an HDF5 file, perhaps Keras's or TensorFlow's",
        ["take the model's safetensors"; 3];
    Gguf, |s| s.starts(&[b"GGUF"]), "GGUF",
        ["", "", "it is a whole model: name it, and not its directory"];
    SwappedGguf, |s| s.starts(&[b"FUGG"]), "a GGUF file with its bytes in the wrong order",
        ["download it for little-endian machines"; 3];
    Ggml, |s| s.starts(&[b"lmgg", b"fmgg", b"tjgg", b"ccgg"]), "GGML, GGUF's forerunner", OLD_GGML;
    GgmlAdapter, |s| s.starts(&[b"algg"]), "a LoRA adapter in GGML, GGUF's forerunner", MERGE_ADAPTER;
    GgmlSession, |s| s.starts(&[b"nsgg", b"qsgg"]), "a saved session of llama.cpp's",
        ["it holds no model: name the model's file"; 3];
    LoraSafetensors, |s| s.is_safetensors() && s.has(b"lora_A."), "a LoRA adapter in safetensors",
        MERGE_ADAPTER;
    Safetensors, Sample::is_safetensors, "a safetensors file, which has to be converted", [
        "`babyllama convert DIR DIR.gguf` makes a file that runs of the directory that it belongs \
                to, with its config.json and its tokenizer",
        "it holds weights: the tokenizer is another file",
        "",
    ];
    SentencePiece, Sample::is_sentencepiece, "a tokenizer.model, SentencePiece's tokenizer",
        CONVERT_TOKENIZER;
    Tiktoken, Sample::is_tiktoken, "a tokenizer.model, Llama 3's tokenizer", CONVERT_TOKENIZER;
    TokenizerBin, Sample::is_tokenizer_bin, "a tokenizer.bin, llama2.c's tokenizer",
        ["name the model's file, and give this with -z", "", ""];
    ImportanceMatrix, Sample::is_importance_matrix, "an importance matrix of llama.cpp's",
        ["it helps to quantize a model, and holds none"; 3];
    Executable, Sample::is_executable, "a program", NAME_IT;
    Pdf, |s| s.starts(&[b"%PDF-"]), "a PDF document", NAME_IT;
    Image, |s| s.starts(&[b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8"]) || s.at(8, b"WEBP"), "a picture",
        NAME_IT;
    Sqlite, |s| s.starts(&[b"SQLite format 3\0"]), "a database of SQLite's", NAME_IT;
    Arrow, |s| s.starts(&[b"PAR1", b"ARROW1"]), "a table of data: Parquet or Arrow", NAME_IT;
    Utf16, |s| s.starts(&[b"\xff\xfe", b"\xfe\xff"]) && s.bytes[2..].contains(&0),
        "text in UTF-16, as PowerShell's > writes it", AGAIN;
    Zeros, |s| s.bytes.iter().all(|&byte| byte == 0),
        "filled with zeros: space was reserved for it, but its download didn't begin", AGAIN;
    Text, Sample::is_text, "text", NAME_IT;
}

/// How names end of downloads that aren't done, as browsers and other programs call them.
const UNFINISHED: [&str; 9] =
    ["part", "partial", "crdownload", "download", "opdownload", "incomplete", "aria2", "!qb", "tmp"];

impl FileKind {
    /// The kind of a file that begins with `start` and has `len` bytes, if it is a known one.
    /// [`SAMPLE_BYTES`] are enough.
    pub(crate) fn detect(start: &[u8], len: u64) -> Option<Self> {
        let sample = Sample::new(start, len);
        KINDS.iter().find(|row| (row.is)(&sample)).map(|row| row.kind)
    }

    /// What it is: ends a sentence that begins with "it is".
    pub(crate) fn what(self) -> &'static str {
        self.row().what
    }

    /// What to do about it, if there is something.
    pub(crate) fn advice(self, wanted: Wanted) -> Option<&'static str> {
        let advice = self.row().advice[wanted as usize];
        (!advice.is_empty()).then_some(advice)
    }

    /// Whether it can't be a part of a model or a tokenizer: then that is the error, whatever was
    /// wanted.
    #[cfg_attr(not(feature = "convert"), allow(dead_code, reason = "asked of the files of published models"))]
    pub(crate) fn is_no_model(self) -> bool {
        use FileKind::*;
        matches!(self, Empty | Zeros | GitLfsPointer | Html | Xml | ErrorAnswer | Utf16)
            || matches!(self, Gzip | Zstd | Xz | Bzip2 | Lz4 | SevenZip | Rar | Tar)
    }

    /// A sentence: what it is, and what to do.
    pub(crate) fn sentence(self, wanted: Wanted) -> String {
        let what = self.what();
        self.advice(wanted).map_or(format!("it is {what}"), |advice| format!("it is {what}: {advice}"))
    }

    fn row(self) -> &'static Row {
        &KINDS[self as usize]
    }
}

/// Whether a file's name says that its download isn't done.
pub(crate) fn is_unfinished(path: &Path) -> bool {
    let extension = path.extension().map(|it| it.to_string_lossy().to_ascii_lowercase());
    extension.is_some_and(|extension| UNFINISHED.contains(&&*extension))
}

#[cfg(test)]
mod tests;
