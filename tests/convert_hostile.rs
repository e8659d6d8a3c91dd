//! Published models that somebody meddled with: each is an error that names the file, nothing is
//! executed, and nothing panics.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use babyllama::convert::Source;
use babyllama::{ErrorKind, ModelOptions};
use common::TempFile;

// --- Directories

/// A copy of one of the models that `tests/golden/published.py` makes. It goes when it is dropped.
struct Copy {
    /// In the directory, and it makes the directory.
    marker: TempFile,
}

impl Copy {
    fn of(name: &str) -> Self {
        let marker = TempFile::new("marker", b"");
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/published").join(name);
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, marker.path().with_file_name(path.file_name().unwrap())).unwrap();
        }
        Self { marker }
    }

    fn folder(&self) -> &Path {
        self.marker.path().parent().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Replaces a part of a text file.
    #[track_caller]
    fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{name} has no {from}");
        fs::write(self.path(name), text.replace(from, to)).unwrap();
    }

    fn open(&self) -> babyllama::Result<Source> {
        Source::open(self.folder(), &ModelOptions::new())
    }

    /// Without the tokenizer, of which nothing is wrong.
    fn open_weights(&self) -> babyllama::Result<Source> {
        Source::open(self.folder(), &ModelOptions::new().no_tokenizer())
    }

    /// The error without the directory's name.
    #[track_caller]
    fn refusal(&self) -> String {
        let error = self.open().unwrap_err();
        assert!(error.path().is_some(), "{error}");
        error.to_string().replace(&format!("{}/", self.folder().display()), "")
    }
}

#[test]
fn settings_that_cannot_be_honoured_are_refused() {
    let edits = [
        ("\"LlamaForCausalLM\"", "\"GemmaForCausalLM\"", "architecture \"GemmaForCausalLM\""),
        ("\"attention_bias\": false", "\"attention_bias\": true", "attention_bias is true"),
        ("\"mlp_bias\": false", "\"mlp_bias\": true", "mlp_bias is true"),
        ("\"silu\"", "\"gelu\"", "hidden_act is gelu"),
        ("\"rope_type\": \"llama3\"", "\"rope_type\": \"longrope\"", "rope_type is longrope"),
        ("\"low_freq_factor\": 1.0", "\"low_freq_factor\": 4.0", "rope_scaling is"),
        ("\"hidden_size\": 16", "\"hidden_size\": \"16\"", "key hidden_size: expected an integer"),
        ("\"hidden_size\": 16", "\"hidden_size\": -16", "key hidden_size: expected an integer"),
        ("\"hidden_size\": 16", "\"hidden_size\": 32", "expected shape (352, 32), found (352, 16)"),
        ("\"vocab_size\": 352", "\"vocab_size\": 353", "expected shape (353, 16), found (352, 16)"),
        (
            "\"num_hidden_layers\": 2",
            "\"num_hidden_layers\": 3",
            "model.layers.2.input_layernorm.weight is missing",
        ),
        ("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "must divide n_heads"),
        (
            "\"tie_word_embeddings\": true",
            "\"tie_word_embeddings\": false",
            "tensor lm_head.weight is missing",
        ),
        (
            "\"vocab_size\": 352",
            "\"quantization_config\": {\"quant_method\": \"gptq\"}, \"vocab_size\": 352",
            "gptq",
        ),
        ("{", "[", "malformed JSON file"),
    ];
    for (from, to, expected) in edits {
        let copy = Copy::of("llama3");
        copy.edit("config.json", from, to);
        let refusal = copy.refusal();
        assert!(refusal.contains(expected), "{to}: {refusal}");
    }
    let copy = Copy::of("llama3");
    copy.edit("config.json", "\"hidden_size\": 16,", "");
    assert_eq!(copy.refusal(), "config.json: key hidden_size is missing");
}

#[test]
fn params_json_decides_the_classifier_and_the_window() {
    let first = |copy: &Copy| fs::read_to_string(copy.path("params.json")).unwrap().replace(['\n', ' '], "");
    let with = |extra: &str| {
        let copy = Copy::of("meta_1");
        let params = first(&copy).replacen('{', &format!("{{{extra},"), 1);
        fs::write(copy.path("params.json"), params).unwrap();
        copy
    };
    let source = with("\"_sliding_window\":8").open().unwrap();
    assert_eq!((source.config().sliding_window, source.config().max_seq_len), (Some(8), 8));
    let refusal = with("\"_sliding_window\":8,\"sliding_window\":9").refusal();
    assert!(refusal.contains("sliding_window is 9: _sliding_window is 8"), "{refusal}");

    let source = with("\"tied_embeddings\":true").open().unwrap();
    assert!(source.notes().iter().any(|note| note.contains("it counts")), "{:?}", source.notes());
    assert!(source.tensors().iter().any(|tensor| tensor.name == "output"));

    // Without a classifier: under another name it is none.
    for (copy, expected) in [
        (Copy::of("meta_1"), "tied_embeddings is not there, which means false"),
        (with("\"tied_embeddings\":false"), "tied_embeddings is false"),
        (with("\"tied_embeddings\":true"), "tensor output.weighs is not supported"),
    ] {
        let path = copy.path("consolidated.00.pth");
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(13).position(|window| window == b"output.weight").unwrap();
        bytes[at + 12] = b's';
        fs::write(&path, bytes).unwrap();
        assert!(copy.refusal().contains(expected), "{}", copy.refusal());
    }
}

#[test]
fn of_two_kinds_of_files_the_whole_one_is_taken() {
    let (copy, meta) = (Copy::of("llama3"), Copy::of("meta_1"));
    for name in ["params.json", "consolidated.00.pth"] {
        fs::copy(meta.path(name), copy.path(name)).unwrap();
    }
    let open = |name: &str| Source::open(copy.path(name), &ModelOptions::new()).unwrap();
    let is_meta = |source: &Source| source.format().starts_with("Meta");
    assert!(!is_meta(&copy.open().unwrap()) && !is_meta(&open("config.json")));
    assert!(
        !is_meta(&open("model-00002-of-00003.safetensors"))
            && !is_meta(&open("model.safetensors.index.json"))
    );
    assert!(is_meta(&open("params.json")) && is_meta(&open("consolidated.00.pth")));
    fs::write(copy.path("model-00002-of-00003.safetensors"), "version https://git-lfs.github.com/spec/v1\n")
        .unwrap();
    let source = copy.open().unwrap();
    assert!(is_meta(&source) && source.notes()[0].contains("aren't whole"), "{:?}", source.notes());
}

#[test]
fn files_that_are_missing_or_lead_elsewhere_are_refused() {
    let copy = Copy::of("llama3");
    fs::remove_file(copy.path("model-00002-of-00003.safetensors")).unwrap();
    let refusal = copy.refusal();
    assert!(refusal.starts_with("model-00002-of-00003.safetensors: it is missing"), "{refusal}");
    assert!(refusal.contains("1 of the model's 3 files are to be downloaded"), "{refusal}");

    for name in ["../model.safetensors", "/etc/passwd", "", "..", "a\\\\b", "c:x"] {
        let copy = Copy::of("llama3");
        copy.edit("model.safetensors.index.json", "model-00002-of-00003.safetensors", name);
        let refusal = copy.refusal();
        assert!(refusal.contains("expected the name of a file beside the index"), "{name}: {refusal}");
    }

    let copy = Copy::of("llama3");
    copy.edit("model.safetensors.index.json", "model.norm.weight", "model.other.weight");
    let source = copy.open().unwrap();
    assert!(
        source.notes().iter().any(|note| note.contains("such as model.other.weight")),
        "{:?}",
        source.notes()
    );
    let copy = Copy::of("llama3");
    let file = "model-00003-of-00003.safetensors";
    let bytes = fs::read(copy.path(file)).unwrap();
    let at = bytes.windows(10).position(|window| window == b"model.norm").unwrap();
    fs::write(copy.path(file), [&bytes[..at], b"model.bird", &bytes[at + 10..]].concat()).unwrap();
    assert!(copy.refusal().ends_with("tensor model.norm.weight is missing"), "{}", copy.refusal());

    let copy = Copy::of("meta_2");
    fs::rename(copy.path("consolidated.00.pth"), copy.path("consolidated.02.pth")).unwrap();
    assert!(copy.refusal().starts_with("consolidated.00.pth: it is missing"), "{}", copy.refusal());
    let copy = Copy::of("meta_2");
    fs::remove_file(copy.path("consolidated.01.pth")).unwrap();
    let error = copy.open().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TensorShape { .. }), "{error}");

    let copy = Copy::of("meta_1");
    fs::remove_file(copy.path("params.json")).unwrap();
    assert!(matches!(copy.open().unwrap_err().kind(), ErrorKind::UnknownFormat { .. }));
}

#[test]
fn tokenizers_that_cannot_be_honoured_are_refused() {
    let edits = [
        ("\"type\":\"BPE\"", "\"type\":\"Unigram\"", "tokenizers of the kind \"Unigram\""),
        ("{1,3}", "{1,4}", "the pre_tokenizer is not supported"),
        ("\"normalizer\":null", "\"normalizer\":{\"type\":\"NFKC\"}", "the normalizer is not supported"),
        ("\"merges\":[[", "\"merges\":[[\"a\"],[", "key model.merges: expected pairs of texts"),
        ("\"!\":0,", "\"!\":352,", "the tokenizer has 353 pieces"),
        ("\"!\":0,", "\"!\":1,", "are both token 1"),
    ];
    for (from, to, expected) in edits {
        let copy = Copy::of("llama3");
        // It is written with spaces; without them it reads the same.
        let text = fs::read_to_string(copy.path("tokenizer.json")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        fs::write(copy.path("tokenizer.json"), value.to_string()).unwrap();
        copy.edit("tokenizer.json", from, to);
        let refusal = copy.refusal();
        assert!(refusal.starts_with("tokenizer.json: ") && refusal.contains(expected), "{to}: {refusal}");
    }
    let copy = Copy::of("llama2");
    let bytes = fs::read(copy.path("tokenizer.model")).unwrap();
    for len in 1..bytes.len() {
        fs::write(copy.path("tokenizer.model"), &bytes[..len]).unwrap();
        // A message may end after any field, but the settings come last.
        if let Err(error) = copy.open() {
            assert!(error.path().is_some(), "{error}");
        } else {
            assert!(len > bytes.len() - 100, "{len} of {} bytes", bytes.len());
        }
    }
}

// --- Damaged files

#[test]
fn files_that_are_cut_short_are_refused() {
    for (model, file) in [
        ("llama3", "model-00001-of-00003.safetensors"),
        ("llama2", "pytorch_model-00001-of-00002.bin"),
        ("meta_1", "consolidated.00.pth"),
    ] {
        let copy = Copy::of(model);
        let bytes = fs::read(copy.path(file)).unwrap();
        for len in (0..bytes.len()).step_by(97).chain(bytes.len() - 64..bytes.len()) {
            fs::write(copy.path(file), &bytes[..len]).unwrap();
            let error = copy.open_weights().unwrap_err();
            assert_eq!(error.path(), Some(&*copy.path(file)), "{len} bytes: {error}");
        }
    }
}

#[test]
fn no_damaged_byte_panics() {
    let mut opened = 0;
    for (model, file) in
        [("llama3", "model-00003-of-00003.safetensors"), ("llama2", "pytorch_model-00002-of-00002.bin")]
    {
        let copy = Copy::of(model);
        let bytes = fs::read(copy.path(file)).unwrap();
        // What is in front of the weights, and behind them.
        for at in (0..bytes.len()).filter(|at| *at < 2000 || bytes.len() - at < 2000) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            fs::write(copy.path(file), &damaged).unwrap();
            match copy.open_weights() {
                Ok(_) => opened += 1,
                Err(error) => assert!(error.path().is_some(), "byte {at}: {error}"),
            }
        }
    }
    assert!(opened > 0, "a weight or a checksum was hit");
}

#[test]
fn a_file_that_changes_while_it_is_read_is_noticed() {
    let copy = Copy::of("llama2");
    let source = copy.open().unwrap();
    let path = copy.path("pytorch_model-00001-of-00002.bin");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let error = babyllama::convert::to_gguf(&source, &babyllama::convert::GgufOptions::new(), Vec::new())
        .unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Changed), "{error}");
    assert_eq!(error.path(), Some(&*path));
}

// --- Safetensors

#[test]
fn safetensors_headers_that_lie_are_refused() {
    let entry = |shape: &str, offsets: &str| {
        format!("\"a\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":{offsets}}}")
    };
    let second = "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}";
    let headers = [
        ("{".into(), "malformed JSON"),
        ("{\"a\":7}".into(), "is no object"),
        (format!("{{{}}}", entry("[4]", "[0,12]")), "bytes 0 to 12"),
        (format!("{{{}}}", entry("[4]", "[16,0]")), "bytes 16 to 0"),
        (format!("{{{}}}", entry("[-4]", "[0,16]")), "not integers"),
        (format!("{{{}}}", entry("[4611686018427387904,4]", "[0,0]")), "bytes 0 to 0"),
        (format!("{{{}}}", entry("[5]", "[0,20]")), "asks for 20 bytes, the file has 16"),
        (format!("{{{}}}", entry("[3]", "[4,16]")), "starts at byte 4 of the data instead of 0"),
        (format!("{{{},{second}}}", entry("[4]", "[0,16]")), "starts at byte 12 of the data instead of 16"),
        (format!("{{{}}}", entry("[4]", "[0,16]")), "is missing"), // well-formed, but no Llama
    ];
    for (header, expected) in headers {
        let copy = Copy::of("llama3");
        fs::remove_file(copy.path("model.safetensors.index.json")).unwrap();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend([0; 16]);
        fs::write(copy.path("model.safetensors"), &file).unwrap();
        let refusal = copy.refusal();
        assert!(refusal.contains(expected), "{header}: {refusal}");
        // A header that is longer than the file.
        file[..8].copy_from_slice(&(1_u64 << 20).to_le_bytes());
        fs::write(copy.path("model.safetensors"), &file).unwrap();
        assert!(copy.refusal().contains("the header at byte 8 needs"), "{}", copy.refusal());
        file[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        fs::write(copy.path("model.safetensors"), &file).unwrap();
        assert!(copy.refusal().contains("more than the 16777216 that it may have"), "{}", copy.refusal());
    }
}

// --- Zip archives

/// An archive's entry: its name, its bytes, how they are packed, and how long the directory says
/// they become.
struct Entry<'a>(&'a str, &'a [u8], u16, u32);

fn stored<'a>(name: &'a str, bytes: &'a [u8]) -> Entry<'a> {
    Entry(name, bytes, 0, bytes.len() as u32)
}

fn zip(entries: &[Entry<'_>]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for Entry(name, bytes, method, unpacked) in entries {
        let at = file.len() as u32;
        let mut common = vec![20, 0, 0, 0]; // version, flags
        common.extend(method.to_le_bytes());
        common.extend([0; 8]); // time, checksum
        common.extend((bytes.len() as u32).to_le_bytes());
        common.extend(unpacked.to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]); // extra
        file.extend(b"PK\x03\x04");
        file.extend(&common);
        file.extend(name.as_bytes());
        file.extend(bytes.iter());
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 10]); // comment, disk, attributes
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, len, n) = (file.len() as u32, directory.len() as u32, entries.len() as u16);
    file.extend(directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([n, n].iter().flat_map(|n| n.to_le_bytes()));
    file.extend([len, start].iter().flat_map(|n| n.to_le_bytes()));
    file.extend([0, 0]);
    file
}

/// What becomes of a Hugging Face directory whose weights are this file.
#[track_caller]
fn refusal_of_bin(file: &[u8]) -> String {
    let copy = Copy::of("llama2");
    fs::remove_file(copy.path("pytorch_model.bin.index.json")).unwrap();
    fs::write(copy.path("pytorch_model.bin"), file).unwrap();
    copy.refusal()
}

#[test]
fn archives_that_grow_or_overlap_are_refused() {
    let pickle = b"\x80\x02}.";
    assert!(refusal_of_bin(&zip(&[stored("x/data.pkl", pickle)])).contains("embed_tokens.weight is missing"));

    let bomb = Entry("x/data/0", &[0; 30], 8, 1 << 31);
    assert!(
        refusal_of_bin(&zip(&[stored("x/data.pkl", pickle), bomb])).contains("\"x/data/0\" is compressed")
    );
    let longer = Entry("x/data/0", &[0; 30], 0, 1 << 31);
    assert!(refusal_of_bin(&zip(&[longer])).contains("30 bytes that are to become 2147483648"));
    let twice = [stored("x/data.pkl", pickle), stored("x/data.pkl", pickle)];
    assert!(refusal_of_bin(&zip(&twice)).contains("\"x/data.pkl\" is there twice"));
    assert!(refusal_of_bin(&zip(&[stored("x/a", b"")])).contains("doesn't have one data.pkl"));
    let two = [stored("x/data.pkl", pickle), stored("y/data.pkl", pickle)];
    assert!(refusal_of_bin(&zip(&two)).contains("doesn't have one data.pkl"));
    let big = [stored("x/data.pkl", pickle), stored("x/byteorder", b"big")];
    assert!(refusal_of_bin(&zip(&big)).contains("big-endian PyTorch files"));

    // The second entry's place in the directory becomes the first's.
    let mut overlap = zip(&[stored("x/data/1", b"12345678"), stored("x/data.pkl", pickle)]);
    let at = overlap.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap() + 42;
    overlap[at..at + 4].fill(0);
    let refusal = refusal_of_bin(&overlap);
    assert!(refusal.contains("overlap") || refusal.contains("not where the directory says"), "{refusal}");

    let mut encrypted = zip(&[stored("x/data.pkl", pickle)]);
    let at = encrypted.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap() + 8;
    encrypted[at] = 1;
    assert!(refusal_of_bin(&encrypted).contains("is encrypted"));
    assert!(refusal_of_bin(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").contains("by PyTorch before 1.6"));
}

// --- Pickles

/// What becomes of a directory whose weights' pickle is this, beside a storage of four f32.
#[track_caller]
fn refusal_of_pickle(pickle: &[u8]) -> String {
    refusal_of_bin(&zip(&[stored("x/data.pkl", pickle), stored("x/data/0", &[0; 16])]))
}

/// A pickle of a dictionary with one tensor, "a", of four f32.
fn tensor_pickle(key: &str, numel: u8, offset: &[u8], shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    let parts: [&[u8]; 16] = [
        b"\x80\x02}",
        &text("a"),
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text(key),
        &text("cpu"),
        &[b'K', numel],
        b"tQ",
        offset,
        shape,
        strides,
        b"\x89ccollections\nOrderedDict\n)Rt",
        b"R",
        b"s",
        b".",
    ];
    parts.concat()
}

#[test]
fn tensors_outside_their_storage_are_refused() {
    let (zero, four, one) = (b"K\x00".as_slice(), b"K\x04\x85".as_slice(), b"K\x01\x85".as_slice());
    let fine = tensor_pickle("0", 4, zero, four, one);
    assert!(refusal_of_pickle(&fine).contains("model.embed_tokens.weight is missing"), "it is read");
    let minus_one = b"J\xff\xff\xff\xff";
    let huge = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x85";
    let cases = [
        (tensor_pickle("1", 4, zero, four, one), "storage data/1 is missing"),
        (tensor_pickle("../0", 4, zero, four, one), "impossible key \"../0\""),
        (tensor_pickle("/etc/passwd", 4, zero, four, one), "impossible key \"/etc/passwd\""),
        (tensor_pickle("", 4, zero, four, one), "impossible key \"\""),
        (tensor_pickle(&"0".repeat(100), 4, zero, four, one), "a storage's key is no short text"),
        (tensor_pickle("0", 5, zero, four, one), "16 bytes for 5 numbers"),
        (tensor_pickle("0", 4, b"K\x01", four, one), "reach beyond a storage of 4"),
        (tensor_pickle("0", 4, zero, b"K\x05\x85", one), "reach beyond a storage of 4"),
        (tensor_pickle("0", 4, zero, four, b"K\x02\x85"), "reach beyond a storage of 4"),
        (tensor_pickle("0", 4, zero, huge, huge), "reach beyond a storage of 4"),
        (tensor_pickle("0", 4, minus_one, four, one), "isn't described as PyTorch does"),
        (
            tensor_pickle("0", 4, zero, &[minus_one, b"\x85".as_slice()].concat(), one),
            "aren't numbers from 0 up",
        ),
        (
            tensor_pickle("0", 4, zero, four, &[minus_one, b"\x85".as_slice()].concat()),
            "aren't numbers from 0 up",
        ),
        (tensor_pickle("0", 4, zero, four, b"K\x01K\x01\x86"), "isn't described as PyTorch does"),
        (
            tensor_pickle("0", 4, zero, b"(K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01K\x01t", one),
            "has 9 dimensions",
        ),
    ];
    for (pickle, expected) in cases {
        let refusal = refusal_of_pickle(&pickle);
        assert!(refusal.contains(expected), "{expected}: {refusal}");
    }
}

#[test]
fn views_that_are_not_the_stored_numbers_are_refused() {
    let fine = tensor_pickle("0", 4, b"K\x00", b"K\x04\x85", b"K\x01\x85");
    let end = fine.windows(5).position(|window| window == b")RtRs").unwrap();
    let with = |metadata: &[u8]| [&fine[..end + 2], metadata, b"tRs."].concat();
    let missing = "model.embed_tokens.weight is missing";
    let cases: [(&[u8], &str); 7] = [
        (b"N", missing),
        (b"}", missing),
        (b"}X\x03\x00\x00\x00neg\x89s", missing),
        (b"}X\x03\x00\x00\x00neg\x88s", "tensor a: its bit \"neg\" is set"),
        (b"}X\x04\x00\x00\x00conj\x88s", "tensor a: its bit \"conj\" is set"),
        (b"}X\x04\x00\x00\x00evenK\x01s", "tensor a: its bit \"even\" is set"),
        (b"K\x01", "tensor a: what is said of it beside its shape"),
    ];
    for (metadata, expected) in cases {
        let refusal = refusal_of_pickle(&with(metadata));
        assert!(refusal.contains(expected), "{expected}: {refusal}");
    }
    let other = |name: &str| {
        let name = [b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n", name.as_bytes(), b"\n)Rs."].concat();
        refusal_of_pickle(&name)
    };
    for (name, how) in [
        ("_rebuild_sparse_tensor", "sparse"),
        ("_rebuild_qtensor", "quantized"),
        ("_rebuild_nested_tensor", "nested"),
    ] {
        assert!(other(name).contains(&format!("tensor a: it is {how}")), "{}", other(name));
    }
}

#[test]
fn pickles_that_would_run_something_are_refused() {
    let calls: [&[u8]; 8] = [
        b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
        b"\x80\x02c__builtin__\nexec\n)R.",
        b"\x80\x02ctorch.storage\n_load_from_bytes\n)R.",
        b"\x80\x02ctorch\nload\n)R.",
        b"\x80\x02ctorch._utils\n__class__\n)R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    ];
    for pickle in calls {
        let refusal = refusal_of_pickle(pickle);
        assert!(
            refusal.contains("an object that only its own program can load, and nothing was executed"),
            "{refusal}"
        );
    }
    // Other ways to make an object: INST, OBJ, NEWOBJ, NEWOBJ_EX, EXT1, persistent by text, and
    // nothing at all.
    for pickle in [&b"(ios\nsystem\n."[..], b"(o.", b"\x82\x01.", b"Px\n.", b"\xff."] {
        let refusal = refusal_of_pickle(pickle);
        assert!(refusal.contains("which no checkpoint needs"), "{refusal}");
    }
}

#[test]
fn objects_beside_weights_are_passed_over() {
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    // What is made of names that aren't known, in each of the ways to make, fill and change
    // something.
    let objects: [&[u8]; 11] = [
        b"cos\nsystem\n",
        b"cos\nsystem\nX\x04\x00\x00\x00true\x85R",
        b"ca\nB\n)\x81}b",
        b"ca\nB\n)}\x92",
        b"ca\nB\n)RK\x01a(K\x01K\x02eK\x01K\x02s",
        b"ca\nB\n)R)R",
        b"\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01",
        b"\x8b\x0a\x00\x00\x000123456789",
        b"\x8f(K\x01\x90",
        b"(K\x01\x91",
        b"C\x03abc",
    ];
    for object in objects {
        let pickle = |key: &str| [b"\x80\x04}", &*text(key), object, b"s."].concat();
        let refusal = refusal_of_pickle(&pickle("a"));
        assert!(refusal.contains("embed_tokens.weight is missing"), "{object:?}: {refusal}");
        let refusal = refusal_of_pickle(&pickle("a.weight"));
        let is_named =
            refusal.contains("tensor a.weight: it is \"") && refusal.contains("nothing was executed");
        assert_eq!(is_named, object[0] == b'c', "{object:?}: {refusal}");
    }
}

#[test]
fn pickles_that_abuse_the_machine_are_refused() {
    let nested = |open: &[u8], n: usize| [b"\x80\x02".as_slice(), &open.repeat(n), b"."].concat();
    let cases: [(Vec<u8>, &str); 20] = [
        (Vec::new(), "is cut short"),
        (b"\x80\x02".into(), "is cut short"),
        (b"\x80\x09}.".into(), "unknown protocol 9"),
        (b".".into(), "takes what isn't there"),
        (b"}s.".into(), "sets keys"),
        (b"}(K\x01u.".into(), "sets keys without values"),
        (b"K\x01(}s.".into(), "sets keys"),
        (b"K\x01(\x85.".into(), "takes what isn't there"),
        (b"t.".into(), "a mark that isn't there"),
        (b"h\x05.".into(), "recalls 5, which it never kept"),
        (b"\x8a\xff.".into(), "is cut short"),
        (b"X\xff\xff\xff\xff.".into(), "is cut short"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.".into(), "is cut short"),
        (b"K\x01.".into(), "no dictionary of tensors"),
        (b"}K\x01K\x02s.".into(), "embed_tokens.weight is missing"),
        (b"}X\x01\x00\x00\x00aK\x02s.".into(), "embed_tokens.weight is missing"),
        // Deep nesting, of which a reader by recursion would run out of stack.
        (nested(b")\x85", 1_000_000), "no dictionary of tensors"),
        (nested(b"(", 1_000_000), "takes what isn't there"),
        // A dictionary in itself.
        (b"}q\x00X\x01\x00\x00\x00ah\x00s.".into(), "embed_tokens.weight is missing"),
        (b"}q\x00X\x05\x00\x00\x00modelh\x00s.".into(), "embed_tokens.weight is missing"),
    ];
    for (pickle, expected) in cases {
        let refusal = refusal_of_pickle(&pickle);
        assert!(refusal.contains(expected), "{expected}: {refusal}");
    }
    // A memo of a million entries takes no more than its own length justifies, and is then of no
    // use.
    let mut memo = b"\x80\x02}".to_vec();
    (0..1_000_000_u32).for_each(|n| memo.extend([&b"r"[..], &n.to_le_bytes()].concat()));
    memo.extend(b"X\x01\x00\x00\x00aK\x02s.");
    assert!(refusal_of_pickle(&memo).contains("embed_tokens.weight is missing"));
    let long = [b"\x80\x02", vec![b'}'; 1 << 24].as_slice(), b"."].concat();
    assert!(refusal_of_pickle(&long).contains("more than the 16777216"));
}
