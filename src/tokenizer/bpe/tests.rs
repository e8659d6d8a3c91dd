use proptest::prelude::*;

use super::super::{PieceKind, PieceSpec, Tokenizer, TokenizerModel, TokenizerSpec};
use super::*;

/// A byte in GPT-2's alphabet, by its definition: bytes that are visible in Latin 1 stay, the
/// others are counted.
fn letter(byte: u8) -> char {
    let stays = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..byte).filter(|&b| !stays(b)).count() as u32;
    if stays(byte) { char::from(byte) } else { char::from_u32(0x100 + others).unwrap() }
}

fn alphabet(bytes: &[u8]) -> String {
    bytes.iter().copied().map(letter).collect()
}

/// A byte-level tokenizer whose pieces are the bytes, as ids 0 to 255, and these.
fn tokenizer(pre: &str, pieces: &[&[u8]], merges: &[(&[u8], &[u8])]) -> Tokenizer {
    let mut texts: Vec<String> = (0..=255).map(|byte| alphabet(&[byte])).collect();
    texts.extend(pieces.iter().map(|piece| alphabet(piece)));
    let merges: Vec<String> =
        merges.iter().map(|(left, right)| format!("{} {}", alphabet(left), alphabet(right))).collect();
    Tokenizer::from_spec(&TokenizerSpec {
        pieces: texts
            .iter()
            .map(|text| PieceSpec { text: text.as_bytes().into(), score: 0.0, kind: PieceKind::Normal })
            .collect(),
        model: TokenizerModel::BytePairs {
            pre,
            merges: merges.iter().map(|merge| merge.as_bytes().into()).collect(),
        },
        ..TokenizerSpec::default()
    })
    .unwrap()
}

/// The tokens of a text without spaces by the definition: make the first merge in the list that
/// fits, leftmost first, and begin again; what is no piece falls apart into bytes.
fn encode_naively(pieces: &[&[u8]], merges: &[(&[u8], &[u8])], text: &str) -> Vec<TokenId> {
    let mut symbols: Vec<Vec<u8>> = text.bytes().map(|byte| vec![byte]).collect();
    'again: loop {
        for (left, right) in merges {
            let fits = |pair: &[Vec<u8>]| pair[0] == *left && pair[1] == *right;
            if let Some(i) = symbols.windows(2).position(fits) {
                symbols.splice(i..i + 2, [[*left, *right].concat()]);
                continue 'again;
            }
        }
        break;
    }
    let mut tokens = Vec::new();
    for symbol in symbols {
        match pieces.iter().position(|piece| *piece == symbol) {
            Some(i) => tokens.push(256 + i as TokenId),
            None => tokens.extend(symbol.iter().map(|&byte| TokenId::from(byte))),
        }
    }
    tokens
}

/// Few bytes, two of which are a character together.
fn dense_bytes(lengths: Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop::sample::select(vec![b'a', b'b', b'c', 0xc3, 0xa9]), lengths)
}

fn dense_merges() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    proptest::collection::vec((dense_bytes(1..3), dense_bytes(1..3)), 0..40)
}

proptest! {
    #[test]
    fn heap_makes_the_merges_that_scanning_the_list_makes(
        merges in dense_merges(),
        more in proptest::collection::vec(dense_bytes(2..5), 0..5),
        keep in any::<u64>(),
        text in "[abc\u{e9}]{0,40}",
    ) {
        // Some of the merges' results are pieces, and some pieces are no merge's result.
        let mut pieces: Vec<Vec<u8>> = merges.iter().map(|(left, right)| [&left[..], right].concat()).collect();
        let mut i = 0;
        pieces.retain(|_| { i += 1; keep >> (i % 64) & 3 != 0 });
        pieces.extend(more);
        pieces.sort();
        pieces.dedup();
        let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let merges: Vec<(&[u8], &[u8])> = merges.iter().map(|(left, right)| (&left[..], &right[..])).collect();
        let tokenizer = tokenizer("qwen2", &pieces, &merges);
        prop_assert_eq!(tokenizer.encode(&text), encode_naively(&pieces, &merges, &text));
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), text);
    }

    #[test]
    fn any_text_survives_the_round_trip(text in any::<String>(), spaced in "( |\\PC|\n|a){0,20}") {
        let tokenizer = tokenizer("gpt-2", &[b" a", b"\n\n"], &[(b" ", b"a"), (b"\n", b"\n")]);
        for text in [text, spaced] {
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), text);
        }
    }
}

#[test]
fn the_alphabet_names_every_byte() {
    for byte in 0..=255 {
        let mut bytes = Vec::new();
        assert_eq!(decode_alphabet(letter(byte).to_string().as_bytes(), &mut bytes), Some(()));
        assert_eq!(bytes, [byte]);
    }
    assert_eq!((letter(b' '), letter(b'\n'), letter(0xad)), ('\u{120}', '\u{10a}', '\u{143}'));
    for other in [" ", "\n", "\u{a0}", "\u{ad}", "\u{144}", "\u{4e2d}"] {
        assert_eq!(decode_alphabet(other.as_bytes(), &mut Vec::new()), None, "{other:?}");
    }
    assert_eq!(decode_alphabet(b"\xff", &mut Vec::new()), None);
}

#[test]
fn merges_go_by_rank_and_then_from_the_left() {
    let tokenizer = tokenizer("gpt-2", &[b"ab", b"bc", b"aa"], &[(b"b", b"c"), (b"a", b"b"), (b"a", b"a")]);
    assert_eq!(tokenizer.encode("abc"), [97, 257]);
    assert_eq!(tokenizer.encode("aaa"), [258, 97]);
    assert_eq!(tokenizer.encode("aab"), [97, 256]);
}

#[test]
fn no_merge_crosses_words() {
    let tokenizer = tokenizer("gpt-2", &[b"a ", b" b"], &[(b"a", b" "), (b" ", b"b")]);
    assert_eq!(tokenizer.encode("a b"), [97, 257]);
}

#[test]
fn a_word_that_is_a_piece_needs_no_merges_with_llama_3() {
    let pieces: [&[u8]; 1] = [b" llama"];
    assert_eq!(tokenizer("llama-bpe", &pieces, &[]).encode("a llama"), [97, 256]);
    assert_eq!(tokenizer("dbrx", &pieces, &[]).encode("a llama").len(), 7);
}

#[test]
fn the_first_of_equal_merges_counts() {
    let tokenizer = tokenizer("gpt-2", &[b"ab", b"bc"], &[(b"a", b"b"), (b"b", b"c"), (b"a", b"b")]);
    assert_eq!(tokenizer.encode("abc"), [256, 99]);
}

#[test]
fn symbols_that_are_no_piece_still_merge() {
    let tokenizer = tokenizer("gpt-2", &[b"abc"], &[(b"a", b"b"), (b"ab", b"c"), (b"x", b"y")]);
    assert_eq!(tokenizer.encode("abc"), [256]);
    assert_eq!(tokenizer.encode("abxy"), [97, 98, 120, 121]);
}

#[test]
fn a_long_word_is_no_matter() {
    // Scanning all pairs before each merge would take hours.
    let text = "ab".repeat(100_000);
    let merges: [(&[u8], &[u8]); 3] = [(b"a", b"b"), (b"ab", b"ab"), (b"abab", b"abab")];
    let tokenizer = tokenizer("gpt-2", &[b"ab", b"abab", b"abababab"], &merges);
    assert_eq!(tokenizer.encode(&text), vec![258; 25_000]);
}
