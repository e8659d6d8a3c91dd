//! Published models that somebody meddled with: each is an error that names the file, nothing is
//! executed, and nothing panics.

use std::fs;

use babyllama::ErrorKind;
use babyllama::convert::{GgufOptions, to_gguf};

use crate::Directory;
use crate::common::{assert_says, refuses};

#[test]
fn files_that_are_cut_short_are_refused() {
    for (model, file) in [
        ("llama3", "model-00001-of-00003.safetensors"),
        ("llama2", "pytorch_model-00001-of-00002.bin"),
        ("meta_1", "consolidated.00.pth"),
    ] {
        let copy = Directory::of(model);
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
        let copy = Directory::of(model);
        let bytes = fs::read(copy.path(file)).unwrap();
        // What is before the weights, and after them.
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
    let copy = Directory::of("llama2");
    let source = copy.open().unwrap();
    let path = copy.path("pytorch_model-00001-of-00002.bin");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let written = to_gguf(&source, &GgufOptions::new(), Vec::new());
    let error = refuses!(written, ErrorKind::Changed);
    assert_eq!(error.path(), Some(&*path));
}

#[test]
fn safetensors_headers_that_lie_are_refused() {
    let entry = |shape: &str, offsets: &str| {
        format!("\"a\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":{offsets}}}")
    };
    let second = "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}";
    let headers = [
        ("{".into(), "malformed JSON"),
        ("{\"a\":7}".into(), "is not an object"),
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
        let copy = Directory::of("llama3");
        fs::remove_file(copy.path("model.safetensors.index.json")).unwrap();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend([0; 16]);
        fs::write(copy.path("model.safetensors"), &file).unwrap();
        assert_says(&copy.refusal(), &[expected]);
        // A header that is longer than the file.
        file[..8].copy_from_slice(&(1_u64 << 20).to_le_bytes());
        fs::write(copy.path("model.safetensors"), &file).unwrap();
        assert_says(&copy.refusal(), &["the header at byte 8 needs"]);
        file[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        fs::write(copy.path("model.safetensors"), &file).unwrap();
        assert_says(&copy.refusal(), &["more than the 16777216 that it may have"]);
    }
}

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
    let copy = Directory::of("llama2");
    fs::remove_file(copy.path("pytorch_model.bin.index.json")).unwrap();
    fs::write(copy.path("pytorch_model.bin"), file).unwrap();
    copy.refusal()
}

/// Changes a byte of the last entry in an archive's directory.
fn patched(mut archive: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    let entry = archive.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap();
    archive[entry + at] = byte;
    archive
}

#[test]
fn archives_that_grow_or_overlap_are_refused() {
    let pickle = || stored("x/data.pkl", b"\x80\x02}.");
    let bytes = |method, unpacked| Entry("x/data/0", &[0; 30], method, unpacked);
    for (file, expected) in [
        (zip(&[pickle()]), "embed_tokens.weight is missing"), // well-formed, but no Llama
        (zip(&[pickle(), bytes(8, 1 << 31)]), "\"x/data/0\" is compressed"),
        (zip(&[bytes(0, 1 << 31)]), "30 bytes that are to become 2147483648"),
        (zip(&[pickle(), pickle()]), "\"x/data.pkl\" is there twice"),
        (zip(&[stored("x/a", b"")]), "doesn't have one data.pkl"),
        (zip(&[pickle(), stored("y/data.pkl", b"\x80\x02}.")]), "doesn't have one data.pkl"),
        (zip(&[pickle(), stored("x/byteorder", b"big")]), "big-endian PyTorch files"),
        (patched(zip(&[pickle()]), 8, 1), "is encrypted"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(), "by PyTorch before 1.6"),
    ] {
        assert_says(&refusal_of_bin(&file), &[expected]);
    }
    // The second entry's place in the directory becomes the first's, which is 0.
    let two = zip(&[stored("x/data/1", b"12345678"), pickle()]);
    let refusal = refusal_of_bin(&patched(two, 42, 0));
    assert!(refusal.contains("overlap") || refusal.contains("not where the directory says"), "{refusal}");
}

/// What becomes of a directory whose weights' pickle is this, beside a storage of four f32.
#[track_caller]
fn refusal_of_pickle(pickle: &[u8]) -> String {
    refusal_of_bin(&zip(&[stored("x/data.pkl", pickle), stored("x/data/0", &[0; 16])]))
}

fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// A pickle of a dictionary with one tensor, "a", of four f32.
fn tensor_pickle(key: &str, numel: u8, offset: &[u8], shape: &[u8], strides: &[u8]) -> Vec<u8> {
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
        assert_says(&refusal_of_pickle(&pickle), &[expected]);
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
        assert_says(&refusal_of_pickle(&with(metadata)), &[expected]);
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
        assert_says(&other(name), &[&format!("tensor a: it is {how}")]);
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
        let said = "an object that only its own program can load, and nothing was executed";
        assert_says(&refusal_of_pickle(pickle), &[said]);
    }
    // Other ways to make an object: INST, OBJ, NEWOBJ, NEWOBJ_EX, EXT1, persistent by text, and
    // nothing at all.
    for pickle in [&b"(ios\nsystem\n."[..], b"(o.", b"\x82\x01.", b"Px\n.", b"\xff."] {
        assert_says(&refusal_of_pickle(pickle), &["which no checkpoint needs"]);
    }
}

#[test]
fn objects_beside_weights_are_passed_over() {
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
        assert_says(&refusal_of_pickle(&pickle("a")), &["embed_tokens.weight is missing"]);
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
        assert_says(&refusal_of_pickle(&pickle), &[expected]);
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
