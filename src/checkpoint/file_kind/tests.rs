use super::*;
use crate::rng::SplitMix64;

/// The beginning of a file of each kind, as the programs that make them write it.
const EXAMPLES: &[(FileKind, &[u8])] = {
    use FileKind::*;
    &[
        (Empty, b""),
        (Zeros, &[0; 64]),
        (GitLfsPointer, b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n"),
        (Html, b"\r\n<!DOCTYPE html>\n<html lang=\"en\"><head><title>Hugging Face</title>"),
        (Html, b"\xef\xbb\xbf<html>\n<head><title>401 Authorization Required</title></head>"),
        (Xml, b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>AccessDenied</Code></Error>"),
        (ErrorAnswer, b"{\"error\":\"Repository not found\"}         "),
        (ErrorAnswer, b"{\"detail\": \"Not authenticated\"}"),
        (TokenizerJson, b"{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\"}}"),
        (TokenizerJson, b"{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n"),
        (TokenizerConfigJson, b"{\n  \"add_bos_token\": true,\n  \"added_tokens_decoder\": {\n    \"0\": {"),
        (
            AdapterConfigJson,
            b"{\"base_model_name_or_path\": \"meta-llama/Llama-2-7b-hf\", \"peft_type\": \"LORA\"}",
        ),
        (IndexJson, b"{\n  \"metadata\": {\n    \"total_size\": 13476835328\n  },\n  \"weight_map\": {\n"),
        (ConfigJson, b"{\n  \"architectures\": [\n    \"LlamaForCausalLM\"\n  ],\n"),
        (ParamsJson, b"{\"dim\": 4096, \"multiple_of\": 256, \"n_heads\": 32, \"n_layers\": 32}"),
        (Json, b"[]"),
        (Json, b"{\"hello\": 1}"),
        (Gzip, b"\x1f\x8b\x08\0\0\0\0\0\0\x03"),
        (Zstd, b"\x28\xb5\x2f\xfd\x04\x58"),
        (Xz, b"\xfd7zXZ\0\0\x04"),
        (Bzip2, b"BZh91AY&SY\x35"),
        (Lz4, b"\x04\x22\x4d\x18\x64\x40"),
        (SevenZip, b"7z\xbc\xaf\x27\x1c\0\x04"),
        (Rar, b"Rar!\x1a\x07\x01\0"),
        (Tar, &tar()),
        (
            PyTorch,
            b"PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\0\0archive/data.pkl\x80\x02",
        ),
        (NumpyArchive, b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07\0\0\0arr.npy\x93NUMPY"),
        (Zip, b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x0a\0\0\0model.gguf"),
        (Zip, b"PK\x05\x06\0\0\0\0\0\0\0\0"),
        (OldPyTorch, b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03."),
        (Pickle, b"\x80\x02ccollections\nOrderedDict\n"),
        (Pickle, b"\x80\x04\x95\x20\0\0\0\0\0\0\0}\x94"),
        (Numpy, b"\x93NUMPY\x01\0v\0{'descr': '<f4', 'fortran_order': False"),
        (Hdf5, b"\x89HDF\r\n\x1a\n\0\0\0\0"),
        (Gguf, b"GGUF\x03\0\0\0"),
        (SwappedGguf, b"FUGG\0\0\0\x03"),
        (Ggml, b"lmgg\0\x7d\0\0\0\x10\0\0"),
        (Ggml, b"fmgg\x01\0\0\0\0\x7d\0\0"),
        (Ggml, b"tjgg\x03\0\0\0\0\x7d\0\0"),
        (GgmlAdapter, b"algg\x01\0\0\0\x08\0\0\0"),
        (GgmlSession, b"nsgg\x09\0\0\0"),
        (
            LoraSafetensors,
            b"\x40\x01\0\0\0\0\0\0{\"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight\":",
        ),
        (Safetensors, b"\x40\x01\0\0\0\0\0\0{\"__metadata__\":{\"format\":\"pt\"}"),
        (SentencePiece, b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02\x0a\x0c\x0a\x03<s>\x15\0\0\0\0\x18\x03"),
        (Tiktoken, b"IQ== 0\nIg== 1\nIw== 2\n"),
        (
            TokenizerBin,
            b"\x1b\0\0\0\0\0\0\0\x05\0\0\0<unk>\0\0\0\0\x05\0\0\0\n<s>\n\0\0\0\0\x06\0\0\0\n</s>\n",
        ),
        (ImportanceMatrix, b"\xe0\0\0\0\x12\0\0\0blk.0.attn_k.weight"),
        (Executable, b"\x7fELF\x02\x01\x01\0"),
        (Executable, b"MZ\x90\0\x03\0\0\0"),
        (Pdf, b"%PDF-1.7\n%\xe2\xe3"),
        (Image, b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"),
        (Image, b"\xff\xd8\xff\xe0\0\x10JFIF"),
        (Sqlite, b"SQLite format 3\0\x10\0"),
        (Arrow, b"PAR1\x15\x04\x15"),
        (Utf16, b"\xff\xfe<\0h\0t\0m\0l\0"),
        (Text, b"Once upon a time, there was a little girl named Lily."),
        (Text, "Un g\u{e2}teau \u{e0} la cr\u{e8}me, coup\u{e9} au milieu d'un \u{e9}".as_bytes()),
    ]
};

const fn tar() -> [u8; 512] {
    let mut bytes = [0; 512];
    (bytes[0], bytes[1]) = (b'.', b'/');
    let magic = b"ustar";
    let mut i = 0;
    while i < magic.len() {
        bytes[257 + i] = magic[i];
        i += 1;
    }
    bytes
}

#[test]
fn each_kind_is_told_by_its_first_bytes() {
    for (kind, start) in EXAMPLES {
        let padded = [start, &[b' '; 40][..]].concat();
        assert_eq!(FileKind::detect(start, start.len() as u64), Some(*kind), "{start:?}");
        if *kind != FileKind::Empty && *kind != FileKind::Zeros {
            assert_eq!(FileKind::detect(&padded, padded.len() as u64), Some(*kind), "padded {start:?}");
        }
    }
    for row in KINDS {
        assert!(EXAMPLES.iter().any(|(kind, _)| *kind == row.kind), "{:?} has an example", row.kind);
        assert_eq!(KINDS.iter().filter(|other| other.kind == row.kind).count(), 1, "{:?}", row.kind);
    }
}

#[test]
fn what_is_like_no_kind_has_none() {
    let noise: Vec<u8> = SplitMix64::new(1).bytes(5000).into_iter().map(|byte| byte | 1).collect();
    for bytes in [&noise[..], &[0xFF; 100], b"\0\0\0\x01"] {
        assert_eq!(FileKind::detect(bytes, bytes.len() as u64), None, "{:?}", &bytes[..4]);
    }
}

/// Their headers are numbers, and the kinds are asked before it is decided that a file is
/// llama2.c's v0.
#[test]
fn no_header_of_llama2c_is_like_another_kind() {
    let header = |ints: [i32; 7]| ints.iter().flat_map(|int| int.to_le_bytes()).collect::<Vec<u8>>();
    for ints in [
        [64, 172, 5, 8, 4, 512, 512],
        [288, 768, 6, 6, 6, 32_000, 256],
        [4096, 11_008, 32, 32, 32, -32_000, 2048],
        [8192, 28_672, 80, 64, 8, -128_256, 131_072],
        [16, 1, 1, 1, 1, 1, 1],
    ] {
        let file = [header(ints), vec![0; 8192]].concat();
        assert_eq!(FileKind::detect(&file, file.len() as u64), None, "{ints:?}");
        let file = [header(ints), vec![0x3F; 8192]].concat();
        assert_eq!(FileKind::detect(&file, file.len() as u64), None, "{ints:?}");
    }
}

#[test]
fn a_sentence_says_what_it_is_and_what_to_do() {
    for (kind, wanted, expected) in [
        (
            FileKind::GitLfsPointer,
            Wanted::Model,
            "it is a Git LFS pointer, which only stands for the file: run `git lfs pull` where it was cloned, \
             or download the file itself",
        ),
        (
            FileKind::TokenizerJson,
            Wanted::Tokenizer,
            "it is a tokenizer.json: only `babyllama convert` takes it; the GGUF file that it writes then holds \
             the tokenizer",
        ),
        (FileKind::Safetensors, Wanted::Published, "it is a safetensors file, which has to be converted"),
        (FileKind::Pdf, Wanted::Model, "it is a PDF document: name a model's file, GGUF or llama2.c's"),
    ] {
        assert_eq!(kind.sentence(wanted), expected);
    }
}

#[test]
fn unfinished_downloads_are_told_by_their_names() {
    for name in ["m.gguf.part", "m.gguf.crdownload", "a/b.incomplete", "m.gguf.PART", "m.gguf.aria2"] {
        assert!(is_unfinished(Path::new(name)), "{name}");
    }
    for name in ["m.gguf", "part", "m.part.gguf", "m", ""] {
        assert!(!is_unfinished(Path::new(name)), "{name}");
    }
}
