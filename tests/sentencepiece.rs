//! The tokenizer against SentencePiece 0.2.3, which made the ids below.
//!
//! SentencePiece's `remove_extra_whitespaces` was off: a `tokenizer.bin` doesn't say whether it was on in training, and
//! llama2.c treats it as off. The test with the Llama 2 vocabulary needs a file that isn't in the repository:
//!
//! ```text
//! BABYLLAMA_SHARED=/folder/with/real cargo test --test sentencepiece
//! ```

use std::path::PathBuf;

use babyllama::{TokenId, Tokenizer};

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
