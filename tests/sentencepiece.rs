//! The tokenizer against SentencePiece 0.2.3, which made the ids below.
//!
//! SentencePiece's `remove_extra_whitespaces` was off: a `tokenizer.bin` doesn't say whether it was
//! on in training, and llama2.c treats it as off. The test with the Llama 2 vocabulary needs a file
//! that isn't in the repository:
//!
//! ```text
//! BABYLLAMA_SHARED=/folder/with/real cargo test --test sentencepiece
//! ```

mod common;

use std::path::PathBuf;

use babyllama::{Model, PieceKind, Sampler, SamplerOptions, TokenId, Tokenizer};
use common::TempFile;
use common::gguf::{Gguf, Value};

#[track_caller]
fn agrees(tokenizer: &Tokenizer, cases: &[(&str, &[TokenId])]) {
    for &(text, ids) in cases {
        assert_eq!(tokenizer.encode(text), ids, "encoding {text:?}");
        assert_eq!(tokenizer.decode(ids), text.replace('\u{2581}', " "), "decoding {text:?}");

        let prompt = tokenizer.encode_prompt(text);
        assert_eq!(prompt.split_first(), Some((&1, ids)));
        assert_eq!(tokenizer.decode(&prompt), text.replace('\u{2581}', " "), "decoding {text:?} after BOS");
    }
}

#[test]
fn bundled_vocabulary_encodes_as_sentencepiece_does() {
    let tokenizer = Tokenizer::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf")).unwrap();
    assert_eq!(tokenizer.vocab_size(), 1024);
    agrees(&tokenizer, BABYLLAMA);
}

#[test]
fn llama_2_vocabulary_encodes_as_sentencepiece_does() {
    let Some(shared) = std::env::var_os("BABYLLAMA_SHARED").map(PathBuf::from) else {
        eprintln!("skipped: BABYLLAMA_SHARED is not set");
        return;
    };
    let bytes = std::fs::read(shared.join("real/llama2-tokenizer.bin")).unwrap();
    let tokenizer = Tokenizer::from_llama2c(&bytes).unwrap();
    assert_eq!(tokenizer.vocab_size(), 32_000);
    agrees(&tokenizer, LLAMA_2);
}

// --- GGUF files, whose tokens are llama.cpp's
// -----------------------------------------------------------------

/// The pieces of [`spm`], with their types.
const PIECES: [(&str, u8); 12] = [
    ("<unk>", 2),
    ("<s>", 3),
    ("</s>", 3),
    ("\u{2581}", 1),
    ("a", 1),
    ("b", 1),
    ("\u{2581}a", 1),
    ("ab", 1),
    ("<0x0A>", 6),
    ("<|user|>", 3),
    ("<x>", 4),
    ("<|fim_pad|>", 1),
];

/// A vocabulary, with keys set or changed.
fn spm(keys: &[(&str, Value)]) -> Result<Tokenizer, String> {
    let mut file = Gguf::default();
    let types = PIECES.map(|(_, kind)| Value::I32(kind.into())).to_vec();
    let scores = (0..12).map(|i| Value::F32(-(i as f32))).collect();
    file.set("general.architecture", Value::str("llama"))
        .set("tokenizer.ggml.model", Value::str("llama"))
        .set("tokenizer.ggml.tokens", Value::strings(&PIECES.map(|(text, _)| text)))
        .set("tokenizer.ggml.scores", Value::Array(6, scores))
        .set("tokenizer.ggml.token_type", Value::Array(5, types));
    for (key, value) in keys {
        file.set(key, value.clone());
    }
    let file = TempFile::new("spm.gguf", &file.to_bytes());
    Tokenizer::from_gguf(&file).map_err(|error| error.to_string())
}

#[test]
fn numbers_of_pieces_may_have_any_type_and_be_too_many() {
    let scores = |element, score: fn(i8) -> Value, n: i8| {
        ("tokenizer.ggml.scores", Value::Array(element, (0..n).map(score).collect()))
    };
    let types = |element, kind: fn(u8) -> Value| {
        let kinds = PIECES.iter().map(|&(_, number)| kind(number)).chain([kind(1)]);
        ("tokenizer.ggml.token_type", Value::Array(element, kinds.collect()))
    };
    for key in [
        scores(6, |i| Value::F32(-f32::from(i)), 20),
        scores(12, |i| Value::F64(-f64::from(i)), 12),
        scores(5, |i| Value::I32(-i32::from(i)), 12),
        scores(1, |i| Value::I8(-i), 13),
        scores(0, |i| Value::U8(100 - i.cast_unsigned()), 12),
        scores(10, |i| Value::U64(100 - u64::from(i.cast_unsigned())), 12),
        types(0, Value::U8),
        types(10, |kind| Value::U64(kind.into())),
        types(5, |kind| Value::I32(kind.into())),
    ] {
        let tokenizer = spm(std::slice::from_ref(&key)).unwrap();
        assert_eq!(tokenizer.encode_prompt("ab a\n<x>"), [1, 6, 5, 6, 8, 10], "{key:?}");
        assert_eq!(tokenizer.kind(9), Some(PieceKind::Control), "{key:?}");
    }
    let short = spm(&[scores(6, |i| Value::F32(f32::from(i)), 11)]).unwrap_err();
    assert!(short.contains("11 scores for 12 pieces"), "{short}");
    // A type that doesn't exist is as text where text is encoded.
    let kinds = [2, 3, 3, 1, 7, -1, 0].into_iter().chain([1; 5]).map(Value::I32).collect();
    let odd = spm(&[("tokenizer.ggml.token_type", Value::Array(5, kinds))]).unwrap();
    assert_eq!(odd.encode("bab"), [3, 5, 7]);
}

#[test]
fn special_ids_are_those_of_llama_cpp() {
    let of = |keys: &[(&str, u32)]| {
        let names: Vec<_> = keys.iter().map(|(key, _)| format!("tokenizer.ggml.{key}_token_id")).collect();
        let keys: Vec<_> =
            names.iter().zip(keys).map(|(name, &(_, id))| (name.as_str(), Value::U32(id))).collect();
        let tokenizer = spm(&keys).unwrap();
        let ends: Vec<_> = (0..12).filter(|&id| tokenizer.is_end(id)).collect();
        (tokenizer.bos(), tokenizer.eos(), ends)
    };
    assert_eq!(of(&[]), (Some(1), Some(2), vec![2, 11]), "the usual ones, and by name");
    assert_eq!(of(&[("bos", 12), ("eos", u32::MAX)]), (Some(1), Some(2), vec![2, 11]), "beyond the pieces");
    assert_eq!(of(&[("bos", 4), ("eos", 5)]), (Some(4), Some(5), vec![2, 5, 11]));
    assert_eq!(of(&[("eot", 3), ("eom", 4)]), (Some(1), Some(2), vec![2, 3, 4, 11]));
    assert_eq!(of(&[("fim_pad", 5), ("fim_rep", 6), ("fim_sep", 7)]).2, [2, 5, 6, 7]);
    assert_eq!(of(&[("padding", 5), ("mask", 6), ("fim_pre", 7), ("seperator", 8)]).2, [2, 11]);
    let unknown = spm(&[("tokenizer.ggml.unknown_token_id", Value::U32(9))]).unwrap();
    assert_eq!(unknown.encode("a?"), [6, 9]);
}

#[test]
fn names_of_models_say_which_tokens_strip_spaces() {
    let text = "a <|user|> \n b <x> a<s> a";
    let plain = spm(&[]).unwrap();
    assert_eq!(plain.encode_with_control(text), [6, 3, 9, 3, 3, 8, 3, 5, 3, 10, 3, 6, 1, 3, 6]);
    let phi = spm(&[("general.name", Value::str("A Phi-3 mini"))]).unwrap();
    assert_eq!(phi.encode_with_control(text), [6, 3, 9, 3, 5, 3, 10, 6, 1, 3, 6]);
    assert_eq!(phi.encode("b <x> a"), [3, 5, 3, 10, 6]);
}

// --- Texts that go on

#[test]
fn a_prompt_after_text_goes_on_from_it() {
    let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf")).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let mut sampler = Sampler::new(SamplerOptions::new().temperature(0.0));
    for (before, text, whole) in [
        (tokenizer.encode_prompt("Once upon a ti"), "me", "Once upon a time"),
        (tokenizer.encode_prompt("Once upon a"), " time", "Once upon a time"),
        (tokenizer.encode_prompt(""), "Once", "Once"),
    ] {
        let mut session = model.session();
        session.forward(&before).unwrap();
        let generated = session.generate(text, &mut sampler).unwrap().max_tokens(1);
        assert!(generated.map(Result::unwrap).count() > 0);
        let tokens = session.tokens();
        let read = (0..=tokens.len()).find(|&n| tokenizer.decode(&tokens[..n]) == whole);
        assert!(read.is_some(), "{:?}", tokenizer.decode(tokens));
    }
    // After the end of a text a new one begins.
    let mut session = model.session();
    session.forward(&[1, 429, 2]).unwrap();
    session.generate("Once", &mut sampler).unwrap().max_tokens(1).for_each(|piece| drop(piece.unwrap()));
    assert!(session.tokens()[3..].starts_with(&tokenizer.encode("Once")));
}

const BABYLLAMA: &[(&str, &[TokenId])] = &[
    ("", &[]),
    ("a", &[261]),
    (" ", &[942, 942]),
    (" a", &[942, 261]),
    ("a ", &[261, 942]),
    ("  a  b  ", &[942, 942, 261, 942, 267, 942, 942]),
    (
        "                    ",
        &[
            942, 942, 942, 942, 942, 942, 942, 942, 942, 942, 942, 942, 942, 942, 942, 942, 942, 942, 942,
            942, 942,
        ],
    ),
    ("\t\n\r\n", &[942, 12, 13, 16, 13]),
    (
        "Once upon a time, there was a little girl named Lily.",
        &[429, 444, 261, 398, 964, 402, 285, 261, 393, 458, 448, 390, 958],
    ),
    ("don't stop", &[858, 972, 945, 338, 508]),
    ("<s>", &[942, 63, 951, 65]),
    ("</s>", &[942, 63, 1015, 951, 65]),
    ("<unk>", &[942, 63, 363, 965, 65]),
    ("<0x0A>", &[942, 63, 1006, 978, 1006, 979, 65]),
    ("\u{0}", &[942, 3]),
    ("a\u{0}b\u{7f}", &[261, 3, 963, 130]),
    ("\u{2581}", &[942, 942]),
    ("a\u{2581}b", &[261, 267]),
    ("\u{fffd}", &[942, 242, 194, 192]),
    ("\u{e000}", &[942, 241, 131, 131]),
    ("\u{10ffff}", &[942, 247, 146, 194, 194]),
    ("e\u{301}", &[326, 207, 132]),
    ("caf\u{e9}", &[278, 944, 962, 198, 172]),
    (
        "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
        &[942, 243, 162, 148, 171, 229, 131, 144, 243, 162, 148, 172, 229, 131, 144, 243, 162, 148, 170],
    ),
    ("\u{1f1e9}\u{1f1ea}", &[942, 243, 162, 138, 172, 243, 162, 138, 173]),
    ("\u{4e2d}\u{6587}\u{5b57}\u{7b26}", &[942, 231, 187, 176, 233, 153, 138, 232, 176, 154, 234, 175, 169]),
    ("\u{65e5}\u{672c}\u{8a9e}", &[942, 233, 154, 168, 233, 159, 175, 235, 173, 161]),
    (
        "\u{627}\u{644}\u{639}\u{631}\u{628}\u{64a}\u{629}",
        &[942, 219, 170, 220, 135, 219, 188, 219, 180, 219, 171, 220, 141, 219, 172],
    ),
    ("\u{5e2}\u{5d1}\u{5e8}\u{5d9}\u{5ea}", &[942, 218, 165, 218, 148, 218, 171, 218, 156, 218, 173]),
    (
        "fn main() {\n    x += 1;\n}",
        &[
            272, 948, 283, 467, 1004, 1003, 942, 126, 13, 942, 942, 942, 942, 978, 942, 1020, 1021, 942,
            1002, 1005, 13, 128,
        ],
    ),
    ("1234567890", &[942, 1002, 1007, 1001, 1010, 1008, 1012, 1016, 1014, 1013, 1006]),
    (
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        &[
            261, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944,
            944, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944, 944,
            944, 944,
        ],
    ),
    ("abababababababababababab", &[605, 573, 573, 573, 573, 573, 573, 573, 573, 573, 573, 573]),
    (
        "antidisestablishmentarianism",
        &[261, 356, 295, 290, 550, 573, 953, 656, 956, 379, 291, 949, 303, 290, 956],
    ),
    ("\u{feff}\u{a0}\u{200b}\u{3000}", &[942, 242, 190, 194, 197, 163, 229, 131, 142, 230, 131, 131]),
];

const LLAMA_2: &[(&str, &[TokenId])] = &[
    ("", &[]),
    ("a", &[263]),
    (" ", &[259]),
    (" a", &[29871, 263]),
    ("a ", &[263, 29871]),
    ("  a  b  ", &[259, 263, 29871, 289, 259]),
    ("                    ", &[462, 418]),
    ("\t\n\r\n", &[29871, 12, 13, 30004, 13]),
    (
        "Once upon a time, there was a little girl named Lily.",
        &[9038, 2501, 263, 931, 29892, 727, 471, 263, 2217, 7826, 4257, 365, 2354, 29889],
    ),
    ("don't stop", &[1016, 29915, 29873, 5040]),
    ("<s>", &[529, 29879, 29958]),
    ("</s>", &[1533, 29879, 29958]),
    ("<unk>", &[529, 2960, 29958]),
    ("<0x0A>", &[529, 29900, 29916, 29900, 29909, 29958]),
    ("\u{0}", &[29871, 3]),
    ("a\u{0}b\u{7f}", &[263, 3, 29890, 130]),
    ("\u{2581}", &[259]),
    ("a\u{2581}b", &[263, 289]),
    ("\u{fffd}", &[29871, 30140]),
    ("\u{e000}", &[29871, 241, 131, 131]),
    ("\u{10ffff}", &[29871, 247, 146, 194, 194]),
    ("e\u{301}", &[321, 30103]),
    ("caf\u{e9}", &[274, 28059]),
    (
        "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}",
        &[29871, 243, 162, 148, 171, 30722, 243, 162, 148, 172, 30722, 243, 162, 148, 170],
    ),
    ("\u{1f1e9}\u{1f1ea}", &[29871, 243, 162, 138, 172, 243, 162, 138, 173]),
    ("\u{4e2d}\u{6587}\u{5b57}\u{7b26}", &[29871, 30275, 30333, 30578, 31277]),
    ("\u{65e5}\u{672c}\u{8a9e}", &[29871, 30325, 30346, 30968]),
    ("\u{627}\u{644}\u{639}\u{631}\u{628}\u{64a}\u{629}", &[24508, 30218, 30156, 30177, 30163, 30242]),
    ("\u{5e2}\u{5d1}\u{5e8}\u{5d9}\u{5ea}", &[29871, 30324, 30276, 30236, 30196, 30286]),
    (
        "fn main() {\n    x += 1;\n}",
        &[7876, 1667, 580, 426, 13, 1678, 921, 4619, 29871, 29896, 29936, 13, 29913],
    ),
    ("1234567890", &[29871, 29896, 29906, 29941, 29946, 29945, 29953, 29955, 29947, 29929, 29900]),
    (
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        &[263, 27137, 27137, 27137, 27137, 27137, 27137, 27137, 27137, 27137, 7340, 29874],
    ),
    ("abababababababababababab", &[633, 370, 370, 370, 370, 370, 370, 370, 370, 370, 370, 370]),
    ("antidisestablishmentarianism", &[3677, 333, 275, 342, 370, 1674, 358, 13956, 1608]),
    ("\u{feff}\u{a0}\u{200b}\u{3000}", &[29871, 30143, 30081, 30166, 30358]),
];
