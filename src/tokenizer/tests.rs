use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;

/// Pieces and their scores, as a `tokenizer.bin`.
fn file(pieces: &[(&[u8], f32)]) -> Vec<u8> {
    let mut file = 0_i32.to_le_bytes().to_vec();
    for (piece, score) in pieces {
        file.extend(score.to_le_bytes());
        file.extend((piece.len() as i32).to_le_bytes());
        file.extend(*piece);
    }
    file
}

/// A tokenizer whose text pieces are these; with bytes before them they start at id 259, else at 3.
fn tokenizer(bytes: bool, text: &[(&str, f32)]) -> Tokenizer {
    let byte_names: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut pieces: Vec<(&[u8], f32)> = vec![(b"<unk>", 0.0), (b"\n<s>\n", 0.0), (b"\n</s>\n", 0.0)];
    if bytes {
        pieces.extend(byte_names.iter().map(|name| (name.as_bytes(), 0.0)));
    }
    pieces.extend(text.iter().map(|&(piece, score)| (piece.as_bytes(), score)));
    Tokenizer::from_llama2c(&file(&pieces)).unwrap()
}

fn bundled() -> Tokenizer {
    Tokenizer::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf")).unwrap()
}

/// The bundled vocabulary as a `tokenizer.bin`.
fn bundled_file() -> Vec<u8> {
    let tokenizer = bundled();
    let ids = 0..tokenizer.vocab_size() as TokenId;
    let pieces: Vec<_> = ids.map(|id| (tokenizer.piece(id).unwrap(), tokenizer.score(id).unwrap())).collect();
    file(&pieces)
}

/// The tokens of `text` by the definition: scan all neighbors, make the best merge, begin again.
fn encode_naively(tokenizer: &Tokenizer, text: &str) -> Vec<TokenId> {
    if text.is_empty() {
        return Vec::new();
    }
    let mut symbols: Vec<String> = vec![" ".into()];
    symbols.extend(text.chars().map(|c| if c == '\u{2581}' { " ".into() } else { c.to_string() }));
    loop {
        let mut best: Option<(f32, usize, String)> = None;
        for (i, pair) in symbols.windows(2).enumerate() {
            let Some(id) = tokenizer.find(pair.concat().as_bytes()) else { continue };
            let score = tokenizer.score(id).unwrap();
            if best.as_ref().is_none_or(|&(best, ..)| score > best) {
                best = Some((score, i, pair.concat()));
            }
        }
        let Some((_, i, merged)) = best else { break };
        symbols.splice(i..i + 2, [merged]);
    }

    let mut tokens = Vec::new();
    let mut after_unknown = false;
    for symbol in symbols {
        let found = tokenizer.find(symbol.as_bytes());
        match found {
            Some(id) => tokens.push(id),
            None if tokenizer.kind(3) == Some(PieceKind::Byte) => {
                tokens.extend(symbol.replace(' ', "\u{2581}").bytes().map(|byte| TokenId::from(byte) + 3));
            }
            None if !after_unknown => tokens.push(0),
            None => {}
        }
        after_unknown = found.is_none();
    }
    tokens
}

/// Text over few characters, so that vocabularies over the same ones have something to merge.
fn dense_text() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        prop::sample::select(vec!["a", "b", " ", "\u{e9}", "\u{2581}", "\u{1f999}"]),
        0..40,
    )
    .prop_map(|parts| parts.concat())
}

fn dense_vocabulary() -> impl Strategy<Value = Tokenizer> {
    let scores = prop::sample::select(vec![0.0, -0.0, -1.0, -2.0, f32::NEG_INFINITY, f32::INFINITY]);
    let pieces = proptest::collection::vec(("[ab \u{e9}\u{1f999}]{1,5}", scores), 0..60);
    (any::<bool>(), pieces).prop_map(|(bytes, pieces)| {
        let pieces: Vec<_> = pieces.iter().map(|(piece, score)| (piece.as_str(), *score)).collect();
        tokenizer(bytes, &pieces)
    })
}

proptest! {
    #[test]
    fn heap_merges_what_scanning_all_pairs_merges(tokenizer in dense_vocabulary(), text in dense_text()) {
        prop_assert_eq!(tokenizer.encode(&text), encode_naively(&tokenizer, &text));
    }

    #[test]
    fn bundled_vocabulary_encodes_as_the_naive_merge_does(text in "([a-e hostr]{0,30}|\\PC{0,10}|.{0,10}){0,3}") {
        let tokenizer = bundled();
        prop_assert_eq!(tokenizer.encode(&text), encode_naively(&tokenizer, &text));
    }

    #[test]
    fn any_text_survives_the_round_trip(text in any::<String>()) {
        let tokenizer = bundled();
        let expected = text.replace('\u{2581}', " ");
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), &*expected);
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode_prompt(&text)), expected);
    }

    #[test]
    fn no_text_becomes_a_control_token(text in "(<s>|</s>|<unk>|\n<s>\n|\n</s>\n|<0x0A>|[a-z ]){0,9}") {
        prop_assert!(bundled().encode(&text).iter().all(|&id| id > 2));
    }

    #[test]
    fn any_ids_decode(ids in proptest::collection::vec(prop_oneof![0..1100_u32, any::<u32>()], 0..40)) {
        let tokenizer = bundled();
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.bytes(id)).copied().collect();
        let text = tokenizer.decode(&ids);
        prop_assert!(text.len() <= 3 * bytes.len());
    }

    #[test]
    fn damaged_files_are_an_error_or_a_tokenizer(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        text in any::<String>(),
    ) {
        let mut file = bundled_file();
        for (index, byte) in flips {
            let i = index.index(file.len());
            file[i] ^= byte;
        }
        if let Ok(tokenizer) = Tokenizer::from_llama2c(&file) {
            let tokens = tokenizer.encode(&text);
            prop_assert!(tokens.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
            let _ = tokenizer.decode(&tokens);
        }
    }
}

#[test]
fn best_score_merges_first_and_ties_go_left() {
    let pieces = [(" ", -9.0), ("a", -9.0), ("b", -9.0), ("ab", -2.0), ("ba", -1.0), ("aa", -2.0)];
    let tokenizer = tokenizer(false, &pieces);
    assert_eq!(tokenizer.encode("aba"), [3, 4, 7]);
    assert_eq!(tokenizer.encode("aaa"), [3, 8, 4]);
}

#[test]
fn symbols_that_are_no_piece_still_merge() {
    let tokenizer = tokenizer(true, &[(" ", -9.0), ("xy", -1.0), ("xyxy", -2.0)]);
    assert_eq!(tokenizer.encode("xyxy"), [259, 261]);
    assert_eq!(tokenizer.encode("yx"), [259, 3 + 0x79, 3 + 0x78]);
}

#[test]
fn every_text_gets_one_dummy_prefix_unless_it_is_empty() {
    let tokenizer = tokenizer(false, &[(" ", -9.0), ("a", -9.0)]);
    assert!(tokenizer.encode("").is_empty());
    assert_eq!(tokenizer.encode("a"), [3, 4]);
    assert_eq!(tokenizer.encode(" a"), [3, 3, 4]);
    assert_eq!(tokenizer.encode("\u{2581}a"), [3, 3, 4]);
    assert_eq!(tokenizer.encode_prompt(""), [1]);
}

#[test]
fn long_texts_are_no_matter() {
    // Scanning all pairs before each merge would take hours.
    let tokenizer = bundled();
    for part in ["a", " ", "ab", "\u{4e2d}", "Once upon a time there was a llama. "] {
        let text = part.repeat(200_000 / part.len());
        assert!(tokenizer.decode(&tokenizer.encode(&text)) == text, "{part:?}");
    }
}

#[test]
fn without_bytes_a_run_of_unknown_text_is_one_unknown_token() {
    let tokenizer = tokenizer(false, &[(" ", -9.0), ("a", -9.0)]);
    assert_eq!(tokenizer.encode("axyza!"), [3, 4, 0, 4, 0]);
    assert_eq!(tokenizer.decode(&[3, 4, 0, 4]), "a \u{2047} a");
}

#[test]
fn byte_pieces_need_all_256_names() {
    let complete = tokenizer(true, &[]);
    assert_eq!(complete.kind(3), Some(PieceKind::Byte));
    assert_eq!(complete.kind(258), Some(PieceKind::Byte));
    assert_eq!((complete.piece(13), complete.bytes(13)), (Some(&b"<0x0A>"[..]), &b"\n"[..]));
    assert_eq!(complete.find(b"<0x0A>"), None);

    let partial = tokenizer(false, &[("<0x00>", 0.0), ("<0x01>", 0.0)]);
    assert_eq!(partial.kind(3), Some(PieceKind::Normal));
    assert_eq!(partial.find(b"<0x01>"), Some(4));
}

#[test]
fn special_tokens_have_no_text_and_are_not_found_by_it() {
    let tokenizer = bundled();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
    assert!(tokenizer.is_end(1) && tokenizer.is_end(2) && !tokenizer.is_end(0) && !tokenizer.is_end(259));
    assert_eq!((tokenizer.bytes(0), tokenizer.bytes(1)), (" \u{2047} ".as_bytes(), &b""[..]));
    for id in 0..259 {
        assert_eq!(tokenizer.find(tokenizer.piece(id).unwrap()), None);
    }
    for id in 259..1024 {
        assert_eq!(tokenizer.find(tokenizer.piece(id).unwrap()), Some(id));
    }
}

#[test]
fn the_first_of_equal_pieces_is_found() {
    assert_eq!(tokenizer(false, &[("a", -1.0), ("b", -1.0), ("a", 0.0)]).find(b"a"), Some(3));
}

#[test]
fn ids_beyond_the_vocabulary_have_nothing() {
    let tokenizer = bundled();
    for id in [1024, TokenId::MAX] {
        assert_eq!((tokenizer.piece(id), tokenizer.kind(id), tokenizer.score(id)), (None, None, None));
        assert_eq!(tokenizer.bytes(id), b"");
        assert_eq!(tokenizer.decoder().push(&tokenizer, id), "");
    }
}

#[test]
fn dummy_prefix_is_stripped_at_the_start_and_after_bos_alone() {
    let tokenizer = tokenizer(true, &[(" a", -1.0), (" ", -2.0)]);
    assert_eq!(tokenizer.decode(&[259, 259]), "a a");
    assert_eq!(tokenizer.decode(&[1, 259, 2, 259, 1, 259]), "a aa");
    assert_eq!(tokenizer.decode(&[260, 260, 259]), "  a");
    assert_eq!(tokenizer.decode(&[3 + 0x20, 259]), "  a", "a byte is never the dummy prefix");
    assert_eq!(tokenizer.decode(&[0]), " \u{2047} ");
    assert_eq!(tokenizer.decode(&[9999, 259]), "a", "a token beyond the vocabulary changes nothing");
    assert_eq!(tokenizer.decoder_after(259).push(&tokenizer, 259), " a");
    assert_eq!(tokenizer.decoder_after(1).push(&tokenizer, 259), "a");
}

#[test]
fn a_character_over_four_tokens_appears_with_the_last() {
    let tokenizer = bundled();
    let mut decoder = tokenizer.decoder();
    let texts: Vec<String> =
        "\u{1f999}".bytes().map(|b| decoder.push(&tokenizer, TokenId::from(b) + 3).to_owned()).collect();
    assert_eq!(texts, ["", "", "", "\u{1f999}"]);
    assert_eq!(decoder.finish(), "");
}

#[test]
fn an_incomplete_tail_is_one_replacement_character() {
    let tokenizer = bundled();
    assert_eq!(tokenizer.decode(&[3 + 0xf0, 3 + 0x9f, 3 + 0xa6]), "\u{fffd}");
    let mut decoder = tokenizer.decoder();
    assert_eq!(decoder.push(&tokenizer, 3 + 0xf0), "");
    assert_eq!(decoder.push(&tokenizer, 3 + 0x61), "\u{fffd}a");
    assert_eq!(decoder.push(&tokenizer, 3 + 0xff), "\u{fffd}");
}

#[test]
fn every_truncation_is_an_error_or_a_shorter_tokenizer() {
    let file = bundled_file();
    let mut tokenizers = 0;
    for end in 0..file.len() {
        match Tokenizer::from_llama2c(&file[..end]) {
            Ok(tokenizer) => tokenizers += usize::from(!tokenizer.encode("Hi!").is_empty()),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Truncated { .. } | ErrorKind::Tokenizer { .. }));
            }
        }
    }
    assert_eq!(tokenizers, 1023, "one after each piece but the last");
}

#[test]
fn malformed_files_say_what_is_wrong() {
    let error = |file: &[u8]| Tokenizer::from_llama2c(file).unwrap_err().to_string();
    let one = file(&[(b"<unk>", 0.0)]);
    assert_eq!(
        error(&[0; 3]),
        "the tokenizer's header at byte 0 needs 4 bytes, 3 are left: was it downloaded whole?"
    );
    assert_eq!(error(&[0; 4]), "tokenizer: no pieces");
    assert_eq!(
        error(&[&one[..], &[0]].concat()),
        "a piece's score and length at byte 17 needs 8 bytes, 1 are left: was it downloaded whole?"
    );
    assert_eq!(
        error(&one[..16]),
        "a piece's text at byte 12 needs 5 bytes, 4 are left: was it downloaded whole?"
    );
    assert_eq!(error(&file(&[(b"a", f32::NAN)])), "tokenizer: the score of piece 0 is not a number");

    let negative = [&[0; 8][..], &(-1_i32).to_le_bytes()].concat();
    assert_eq!(error(&negative), "tokenizer: the length of piece 0 is -1");
    let huge = [&[0; 8][..], &i32::MAX.to_le_bytes()].concat();
    assert_eq!(
        error(&huge),
        "a piece's text at byte 12 needs 2147483647 bytes, 0 are left: was it downloaded whole?"
    );
}

#[test]
fn more_pieces_than_2_to_the_24_are_an_error() {
    let file = vec![0; 4 + 8 * ((1 << 24) + 1)];
    assert!(matches!(Tokenizer::from_llama2c(&file).unwrap_err().kind(), ErrorKind::Tokenizer { .. }));
    assert_eq!(Tokenizer::from_llama2c(&file[8..]).unwrap().vocab_size(), 1 << 24);
}

#[test]
fn tiny_vocabularies_have_no_bos_or_eos() {
    let tokenizer = Tokenizer::from_llama2c(&file(&[(b"<unk>", 0.0)])).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, None));
    assert_eq!(tokenizer.encode_prompt("anything"), [0]);
    assert!(!tokenizer.is_end(1));
}

#[test]
fn breakers_are_found_inside_tokens_and_across_them() {
    let pieces = ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", " ", "a", "b", "ab", "xab", "xa", "bab", "abx"];
    let mut file = 0_i32.to_le_bytes().to_vec();
    for piece in pieces {
        file.extend(0_f32.to_le_bytes());
        file.extend((piece.len() as i32).to_le_bytes());
        file.extend(piece.as_bytes());
    }
    let tokenizer = Tokenizer::from_llama2c(&file).unwrap();
    let expected: [&[TokenId]; 6] = [&[6, 7], &[8], &[9], &[10, 7], &[11], &[12]];
    assert_eq!(tokenizer.breakers("ab"), expected);
    assert_eq!(tokenizer.breakers(""), [[0; 0]; 0]);
    assert_eq!(tokenizer.breakers("a"), [[6], [8], [9], [10], [11], [12]]);
}
