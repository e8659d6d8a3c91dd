use proptest::prelude::*;

use super::PieceKind::{Byte, Control, Normal, Unknown, Unused, UserDefined};
use super::*;

fn spec<'a>(model: TokenizerModel<'a>, pieces: &[(&'a str, f32, PieceKind)]) -> TokenizerSpec<'a> {
    let part =
        |&(text, score, kind): &(&'a str, _, _)| PieceSpec { text: text.as_bytes().into(), score, kind };
    TokenizerSpec { pieces: pieces.iter().map(part).collect(), model, ..TokenizerSpec::default() }
}

fn sentencepiece<'a>(pieces: &[(&'a str, f32, PieceKind)]) -> TokenizerSpec<'a> {
    let specials = [("<unk>", 0.0, Unknown), ("<s>", 0.0, Control), ("</s>", 0.0, Control)];
    spec(TokenizerModel::default(), &[&specials, pieces].concat())
}

fn byte_pairs<'a>(merges: &[&'a str], pieces: &[(&'a str, f32, PieceKind)]) -> TokenizerSpec<'a> {
    let merges = merges.iter().map(|merge| merge.as_bytes().into()).collect();
    spec(TokenizerModel::BytePairs { pre: "gpt-2", merges }, pieces)
}

fn tokenizer(spec: &TokenizerSpec<'_>) -> Tokenizer {
    Tokenizer::from_spec(spec).unwrap()
}

fn error(spec: &TokenizerSpec<'_>) -> String {
    let error = Tokenizer::from_spec(spec).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Tokenizer { .. }));
    error.to_string()
}

#[test]
fn sentencepiece_writes_spaces_as_marks() {
    let pieces = [("\u{2581}a", -1.0, Normal), ("\u{2581}", -2.0, Normal), ("a", -3.0, Normal)];
    let tokenizer = tokenizer(&sentencepiece(&pieces));
    assert_eq!(tokenizer.piece(3), Some(&b" a"[..]));
    assert_eq!(tokenizer.encode("a a"), [3, 3]);
    assert_eq!(tokenizer.encode_prompt("  a"), [1, 4, 4, 3]);
    assert_eq!(tokenizer.decode(&[1, 3, 3]), "a a");
}

#[test]
fn a_tokenizer_without_dummy_prefix_strips_none() {
    let mut spec = sentencepiece(&[("\u{2581}a", -1.0, Normal), ("a", -3.0, Normal)]);
    spec.model = TokenizerModel::SentencePiece { add_space_prefix: false };
    let tokenizer = tokenizer(&spec);
    assert_eq!(tokenizer.encode("a a"), [4, 3]);
    assert_eq!(tokenizer.decode(&[1, 3, 4]), " aa");
}

#[test]
fn byte_pieces_come_typed() {
    let names: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut pieces: Vec<_> = names.iter().map(|name| (name.as_str(), 0.0, Byte)).collect();
    pieces.push(("\u{2581}", 0.0, Normal));
    let tokenizer = tokenizer(&sentencepiece(&pieces));
    assert_eq!(tokenizer.encode("\u{e9}\n"), [259, 3 + 0xc3, 3 + 0xa9, 3 + 10]);
    assert_eq!(tokenizer.decode(&[3 + 0xc3, 3 + 0xa9]), "\u{e9}");
}

#[test]
fn user_defined_pieces_are_taken_out_before_all_else() {
    let tail =
        [("\u{2581}", -2.0, Normal), ("a", -3.0, Normal), ("aaa", 0.0, Normal), ("aa", 0.0, UserDefined)];
    let sentencepiece = tokenizer(&sentencepiece(&tail));
    assert_eq!(sentencepiece.encode("aaaa"), [6, 6]);
    assert_eq!(sentencepiece.encode("aaa"), [6, 3, 4], "a text after a piece has its own dummy prefix");

    // Its text is as it stands, not in the alphabet.
    let tail = [
        ("a", 0.0, Normal),
        ("\u{120}", 0.0, Normal),
        ("\u{120}\u{120}", 0.0, Normal),
        ("  ", 0.0, UserDefined),
    ];
    let byte_pairs = tokenizer(&byte_pairs(&["\u{120} \u{120}"], &tail));
    assert_eq!(byte_pairs.encode("a   a"), [0, 3, 1, 0]);
    assert_eq!(byte_pairs.decode(&[3, 2, 0]), "    a");
}

#[test]
fn no_text_becomes_a_control_token() {
    let pieces = [
        ("<", 0.0, Normal),
        ("x", 0.0, Normal),
        (">", 0.0, Normal),
        ("<x", 0.0, Normal),
        ("<x>", 0.0, Control),
    ];
    let merges = ["< x", "<x >"];
    assert_eq!(tokenizer(&byte_pairs(&merges, &pieces)).encode("<x>"), [0, 1, 2]);
    let mut whole_words = byte_pairs(&merges, &[("x", 0.0, Control), ("y", 0.0, Normal)]);
    let TokenizerModel::BytePairs { pre, .. } = &mut whole_words.model else { unreachable!() };
    *pre = "llama-bpe";
    assert_eq!(tokenizer(&whole_words).encode("x"), [0], "nothing else spells it");
    let spaced = [&pieces[..], &[("\u{2581}", 0.0, Normal)]].concat();
    assert_eq!(tokenizer(&sentencepiece(&spaced)).encode("<x>"), [8, 6, 5]);
}

#[test]
fn what_ends_a_text_is_a_control_token_by_its_name() {
    let names = ["<|eot_id|>", "<|im_end|>", "</s>", "<|fim_suffix|>", "<|im_start|>"];
    let pieces = names.map(|name| (name, 0.0, if name == "<|im_start|>" { Control } else { UserDefined }));
    let tokenizer = tokenizer(&byte_pairs(&[], &pieces));
    assert_eq!([0, 1, 2, 3, 4].map(|id| tokenizer.is_end(id)), [true, true, true, false, false]);
    assert!((0..5).all(|id| tokenizer.kind(id) == Some(Control)));
    assert!(tokenizer.encode("<|im_end|><|fim_suffix|>").is_empty());
    assert_eq!(tokenizer.control("<|im_end|>"), Some(1));
    assert_eq!(tokenizer.control("<|im_start|>"), Some(4));
    assert_eq!(tokenizer.control("<|im_"), None);
}

#[test]
fn stated_ends_end_a_text_too() {
    let mut spec =
        byte_pairs(&[], &[("a", 0.0, Normal), ("b", 0.0, Normal), ("c", 0.0, Normal), ("d", 0.0, Normal)]);
    (spec.bos, spec.eos, spec.eot) = (Some(0), Some(3), Some(1));
    let tokenizer = tokenizer(&spec);
    assert_eq!([0, 1, 2, 3].map(|id| tokenizer.is_end(id)), [false, true, false, true]);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(0), Some(3)));
}

#[test]
fn prompts_have_what_the_file_says_or_its_kind_implies() {
    let pieces = [("a", 0.0, Normal), ("<b>", 0.0, Control), ("<e>", 0.0, Control)];
    let prompt = |pre, add_bos, add_eos| {
        let mut spec = byte_pairs(&[], &pieces);
        spec.model = TokenizerModel::BytePairs { pre, merges: Vec::new() };
        (spec.bos, spec.eos, spec.add_bos, spec.add_eos) = (Some(1), Some(2), add_bos, add_eos);
        tokenizer(&spec).encode_prompt("a")
    };
    assert_eq!(prompt("gpt-2", None, None), [0]);
    assert_eq!(prompt("llama-bpe", None, None), [1, 0]);
    assert_eq!(prompt("tekken", None, None), [1, 0]);
    assert_eq!(prompt("llama-bpe", Some(false), Some(true)), [0, 2]);
    assert_eq!(prompt("gpt-2", Some(true), Some(true)), [1, 0, 2]);

    let spaced = tokenizer(&sentencepiece(&[("\u{2581}", 0.0, Normal)]));
    assert_eq!((spaced.bos(), spaced.eos()), (Some(1), Some(2)));
    assert_eq!(spaced.encode_prompt(""), [1]);
}

#[test]
fn unused_pieces_are_taken_apart_again() {
    let pieces = [
        ("\u{2581}", -9.0, Normal),
        ("a", -9.0, Normal),
        ("b", -9.0, Normal),
        ("ab", -1.0, Unused),
        ("abab", -2.0, Unused),
        ("aba", 0.0, Unused),
        ("c", -9.0, Unused),
    ];
    let spaced = tokenizer(&sentencepiece(&pieces));
    assert_eq!(spaced.encode("abab"), [3, 4, 5, 4, 5]);
    assert_eq!(spaced.encode("c"), [3, 9], "nothing else spells it");
    assert_eq!(spaced.find(b"ab"), None);
    // Byte-level ones are text like others, as to llama.cpp.
    assert_eq!(tokenizer(&byte_pairs(&["a b"], &pieces[1..])).encode("ab"), [2]);
}

#[test]
fn bytes_without_a_piece_have_no_token() {
    let tokenizer = tokenizer(&byte_pairs(&["x y"], &[("a", 0.0, Normal), ("x", 0.0, Normal)]));
    assert_eq!(tokenizer.encode("abxy\u{e9}"), [0, 1]);
}

#[test]
fn pieces_need_not_be_utf_8_or_in_the_alphabet() {
    let mut spec = byte_pairs(&[], &[("a", 0.0, Normal), ("\u{4e2d}", 0.0, Normal), ("", 0.0, Normal)]);
    spec.pieces.push(PieceSpec { text: (&b"\xff\xfe"[..]).into(), score: 0.0, kind: Normal });
    spec.pieces.push(PieceSpec { text: (&b"\xff"[..]).into(), score: 0.0, kind: UserDefined });
    let tokenizer = tokenizer(&spec);
    assert_eq!(tokenizer.encode("a\u{4e2d}"), [0]);
    assert_eq!((tokenizer.bytes(1), tokenizer.bytes(3)), ("\u{4e2d}".as_bytes(), &b"\xff\xfe"[..]));
    assert_eq!(tokenizer.decode(&[3]), "\u{fffd}\u{fffd}");
}

#[test]
fn malformed_parts_say_what_is_wrong() {
    let good = byte_pairs(&["a b"], &[("a", 0.0, Normal), ("b", 0.0, Normal), ("ab", 0.0, Normal)]);
    assert_eq!(tokenizer(&good).encode("ab"), [2]);

    let with = |change: fn(&mut TokenizerSpec<'_>)| {
        let mut spec = good.clone();
        change(&mut spec);
        error(&spec)
    };
    assert_eq!(with(|p| p.pieces.clear()), "tokenizer: no pieces");
    assert_eq!(with(|p| p.bos = Some(3)), "tokenizer: the BOS token is 3, but there are only 3 pieces");
    assert_eq!(
        with(|p| p.unk = Some(u32::MAX)),
        format!("tokenizer: the unknown token is {}, but there are only 3 pieces", u32::MAX)
    );
    assert_eq!(with(|p| p.pieces[1].score = f32::NAN), "tokenizer: the score of piece 1 is not a number");
    assert_eq!(with(|p| p.add_bos = Some(true)), "tokenizer: prompts are to begin with BOS, but no token is");
    assert_eq!(with(|p| p.add_eos = Some(true)), "tokenizer: prompts are to end with EOS, but no token is");

    let mut spec = good;
    spec.model = TokenizerModel::BytePairs { pre: "gpt-5", merges: Vec::new() };
    assert_eq!(error(&spec), "tokenizer: the pre-tokenizer \"gpt-5\" is not known");
}

/// llama.cpp finds every text but those of control tokens.
#[test]
fn pieces_of_other_types_are_merged_to() {
    for kind in [Normal, Unused, Unknown] {
        let pieces = [("a", 0.0, Normal), ("b", 0.0, Normal), ("ab", 0.0, kind)];
        assert_eq!(tokenizer(&byte_pairs(&["a b"], &pieces)).encode("ab"), [2]);
        // An unused one is taken apart again.
        let last = if kind == Unused { 4 } else { 5 };
        assert_eq!(tokenizer(&sentencepiece(&pieces)).encode("bab").last(), Some(&last), "{kind:?}");
    }
    for kind in [Control, Byte] {
        let pieces = [("a", 0.0, Normal), ("b", 0.0, Normal), ("ab", 0.0, kind)];
        assert_eq!(tokenizer(&byte_pairs(&["a b"], &pieces)).encode("ab"), [0, 1]);
    }
    // But the unknown token isn't.
    let pieces = [("<unk", 0.0, Normal), (">", 0.0, Normal), ("<", 0.0, Normal), ("u", 0.0, Normal)];
    assert!(!tokenizer(&sentencepiece(&pieces)).encode("<unk>").is_empty());
    let mut spec = byte_pairs(&["a b"], &[("a", 0.0, Normal), ("b", 0.0, Normal), ("ab", 0.0, Unknown)]);
    spec.unk = Some(2);
    assert_eq!(tokenizer(&spec).encode("ab"), [0, 1]);
}

#[test]
fn merges_that_are_not_two_texts_are_passed_over() {
    let pieces = [("a", 0.0, Normal), ("b", 0.0, Normal), ("ab", 0.0, Normal)];
    let tokenizer = tokenizer(&byte_pairs(&["", "ab", " ab", "b", "a b"], &pieces));
    assert_eq!(tokenizer.encode("bab"), [1, 2]);
}

#[test]
fn other_tokens_end_a_text_where_a_file_lists_them() {
    let mut spec = byte_pairs(&[], &[("a", 0.0, Normal), ("b", 0.0, Control)]);
    assert!(!tokenizer(&spec).is_end(1));
    // What is beyond the vocabulary is no token.
    spec.other_ends = vec![1, 2];
    assert!(tokenizer(&spec).is_end(1) && !tokenizer(&spec).is_end(0));
}

#[test]
fn words_are_cut_by_unicodes_case_where_a_file_says_so() {
    for pre in ["tekken", "gpt-4o"] {
        let pieces =
            [("\u{c3}", 0.0, Normal), ("\u{138}", 0.0, Normal), ("A", 0.0, Normal), ("a", 0.0, Normal)];
        let pieces = [&pieces[..], &[("A\u{c3}", 0.0, Normal), ("a\u{c3}", 0.0, Normal)]].concat();
        let mut spec = byte_pairs(&["A \u{c3}", "a \u{c3}"], &pieces);
        let TokenizerModel::BytePairs { pre: name, .. } = &mut spec.model else { panic!() };
        *name = pre;
        spec.add_bos = Some(false);
        // The second character is U+00C9, which is no lower case.
        assert_eq!(tokenizer(&spec).encode("a\u{c9}").first(), Some(&5));
        spec.text.unicode_case = true;
        assert_eq!(tokenizer(&spec).encode("a\u{c9}").first(), Some(&3));
        assert_eq!(tokenizer(&spec).encode("A\u{c9}").first(), Some(&4));
    }
}

#[test]
fn absurd_merges_end() {
    let merges =
        ["a a", "aa a", "a aa", "aa aa", "b ", "  b", "a b c", "\u{4e2d} a", "a \u{e9}", "ab ab", "a b"];
    let tokenizer =
        tokenizer(&byte_pairs(&merges, &[("a", 0.0, Normal), ("b", 0.0, Normal), ("aa", 0.0, Normal)]));
    // Merged to what is no piece, it is bytes again.
    assert_eq!(tokenizer.encode(&"a".repeat(1000)), vec![0; 1000]);
    assert_eq!(tokenizer.encode("baa"), [1, 2]);
}

/// SentencePiece's bytes, at ids 3 to 258, of which one is something else, and a few more pieces.
fn with_byte<'a>(names: &'a [String], byte: usize, text: &'a str, kind: PieceKind) -> TokenizerSpec<'a> {
    let mut pieces: Vec<_> = names.iter().map(|name| (name.as_str(), 0.0, Byte)).collect();
    pieces[byte] = (text, 0.0, kind);
    pieces.extend([("\u{2581}", -1.0, Normal), ("a", -1.0, Normal), ("\u{2581}a", 0.0, Normal)]);
    sentencepiece(&pieces)
}

#[test]
fn bytes_are_found_by_name_or_as_they_are() {
    let names: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    for kind in [Normal, Unknown, Control, UserDefined, Unused, Byte] {
        for name in ["<0x0A>", "\n"] {
            let tokenizer = tokenizer(&with_byte(&names, 10, name, kind));
            let tokens = tokenizer.encode("a\u{e9}\n");
            assert_eq!(tokens, [261, 3 + 0xc3, 3 + 0xa9, 13], "{name:?} {kind:?}");
            assert_eq!(tokenizer.decode(&tokens), "a\u{e9}\n", "{name:?} {kind:?}");
        }
    }
    for name in ["", "x"] {
        let tokenizer = tokenizer(&with_byte(&names, 0xc3, name, Normal));
        assert_eq!(tokenizer.encode("a\n\u{e9}\u{e8}"), [261, 13, 0], "only what needs it is unknown");
    }
}

#[test]
fn a_piece_without_text_hides_none_with_the_same_text() {
    let names: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut spec = with_byte(&names, b'a'.into(), "a", Unused);
    assert_eq!(tokenizer(&spec).encode_continuation("ba"), [3 + 98, 260]);
    spec.pieces[260].kind = Unused;
    assert_eq!(tokenizer(&spec).encode_continuation("ba"), [3 + 98, 3 + 97], "it is its byte");
    let parts = with_byte(&names, b'a'.into(), "a", Unknown);
    let tokens = tokenizer(&parts).encode_continuation("ba");
    assert_eq!((&tokens[..], &*tokenizer(&parts).decode(&tokens)), (&[3 + 98, 260][..], "ba"));
}

#[test]
fn special_tokens_without_types_or_ids_have_the_usual_ones() {
    let names = [("<unk>", 0.0, Normal), ("<s>", 0.0, Normal), ("</s>", 0.0, Normal)];
    let rest = [("\u{2581}", -1.0, Normal), ("a", -1.0, Normal), ("<", 0.0, Normal), ("s>", 0.0, Normal)];
    let untyped = spec(TokenizerModel::default(), &[&names[..], &rest].concat());
    let untyped = tokenizer(&untyped);
    assert_eq!((untyped.bos(), untyped.eos(), untyped.is_end(2)), (Some(1), Some(2), true));
    assert_eq!(untyped.encode_prompt("a<s>?"), [1, 3, 4, 5, 6, 0]);
    assert_eq!(untyped.decode(&[1, 3, 4, 2]), "a");
    assert_eq!(untyped.encode_with_control("<s>a</s>"), [1, 3, 4, 2]);

    let text = spec(TokenizerModel::default(), &rest);
    let text = tokenizer(&text);
    assert_eq!((text.bos(), text.eos()), (Some(1), Some(2)));
    assert_eq!(text.encode_prompt("a<?"), [1, 0, 1, 2], "they may be text");
}

#[test]
fn letters_of_bytes_are_found_whatever_their_type() {
    for kind in [Normal, Unknown, Control, UserDefined, Unused, Byte] {
        let pieces = [("a", 0.0, Normal), ("\u{10a}", 0.0, kind), ("\u{10a}\u{10a}", 0.0, Normal)];
        let tokenizer = tokenizer(&byte_pairs(&["\u{10a} \u{10a}"], &pieces));
        assert_eq!(tokenizer.encode("a\na\n\n"), [0, 1, 0, 2], "{kind:?}");
        assert_eq!(tokenizer.decode(&[0, 1, 0, 2]), "a\na\n\n", "{kind:?}");
    }
}

#[test]
fn user_defined_spaces_are_merged_with_the_dummy_prefix() {
    let pieces = [
        ("\u{2581}", -9.0, Normal),
        ("a", -9.0, Normal),
        ("\u{2581}a", -1.0, Normal),
        ("\u{2581}\u{2581}", 0.0, UserDefined),
        ("\u{2581}\u{2581}\u{2581}", 0.0, UserDefined),
        ("<x>", 0.0, UserDefined),
    ];
    let marks = tokenizer(&sentencepiece(&pieces));
    for (text, tokens) in [
        (" ", &[6][..]),
        ("  ", &[7]),
        (" a", &[6, 4]),
        ("a   a", &[5, 7, 4]),
        ("a<x>a", &[5, 8, 5]),
        ("\u{2581}\u{2581}a", &[6, 5]),
    ] {
        assert_eq!(marks.encode(text), tokens, "{text:?}");
    }
    // With plain spaces they are taken out of the text before it gets a dummy prefix.
    let plain = [&pieces[..3], &[("  ", 0.0, UserDefined)]].concat();
    let plain = tokenizer(&sentencepiece(&plain));
    assert_eq!(plain.encode("a   a"), [5, 6, 3, 5]);
    assert_eq!(plain.encode(" a"), [3, 5]);
}

#[test]
fn a_text_goes_on_without_a_dummy_prefix() {
    let pieces = [
        ("\u{2581}", -9.0, Normal),
        ("a", -9.0, Normal),
        ("\u{2581}a", -1.0, Normal),
        ("<c>", 0.0, Control),
        ("<d>", 0.0, UserDefined),
        ("\u{2581}\u{2581}", 0.0, UserDefined),
    ];
    let tokenizer = tokenizer(&sentencepiece(&pieces));
    assert_eq!(tokenizer.encode_continuation("a a"), [4, 5]);
    assert_eq!(tokenizer.encode_continuation("<d>a"), [7, 5]);
    assert!(tokenizer.encode_continuation("").is_empty());
    let after = [(1, [5]), (2, [5]), (6, [5]), (7, [5]), (0, [4]), (3, [4]), (4, [4]), (8, [4]), (99, [4])];
    for (previous, tokens) in after {
        assert_eq!(tokenizer.encode_after(previous, "a"), tokens, "after {previous}");
    }
}

#[test]
fn control_tokens_are_named_on_purpose_alone() {
    let pieces = [
        ("\u{2581}", -9.0, Normal),
        ("a", -9.0, Normal),
        ("\u{2581}a", -1.0, Normal),
        ("<", -9.0, Normal),
        ("<c>", 0.0, Control),
        ("<c><c>", 0.0, Control),
        ("<d>", 0.0, UserDefined),
        ("\u{2581}<PRE>", 0.0, Control),
    ];
    let mut spec = sentencepiece(&pieces);
    let named = tokenizer(&spec);
    for (text, tokens) in [
        ("<c>a<d>a", &[7, 5, 9, 5][..]),
        ("<c><c><c>", &[8, 7]),
        ("a <c> a", &[5, 3, 7, 3, 5]),
        ("<s><unk></s>", &[1, 0, 2]),
        ("a\u{2581}<PRE>", &[5, 10]),
        ("", &[]),
    ] {
        assert_eq!(named.encode_with_control(text), tokens, "{text:?}");
    }
    assert_eq!(named.encode("<c>a<d>a"), [3, 6, 0, 4, 9, 5]);
    spec.strips = vec![(7, Strip { left: false, right: true }), (9, Strip { left: true, right: false })];
    let strips = tokenizer(&spec);
    assert_eq!(strips.encode_with_control("a <c> \n a <d> a"), [5, 3, 7, 5, 9, 3, 5]);
    assert_eq!(strips.encode("a <d>"), [5, 9]);
}

#[test]
fn what_ends_a_text_follows_names_and_ids() {
    let ends = |ids: fn(&mut TokenizerSpec<'_>), names: &[&'static str]| {
        let pieces: Vec<_> = names.iter().map(|&name| (name, 0.0, UserDefined)).collect();
        let mut spec = byte_pairs(&[], &pieces);
        ids(&mut spec);
        let tokenizer = tokenizer(&spec);
        let ids = 0..names.len() as TokenId;
        let kinds: Vec<_> = ids.clone().map(|id| tokenizer.kind(id).unwrap()).collect();
        (ids.filter(|&id| tokenizer.is_end(id)).collect::<Vec<_>>(), kinds)
    };
    assert_eq!(ends(|_| {}, &["<PAD>", "xx"]), (vec![0], vec![Control, UserDefined]));
    assert_eq!(ends(|p| p.fim.pad = Some(1), &["<PAD>", "xx"]), (vec![1], vec![UserDefined; 2]));
    assert_eq!(ends(|p| p.fim.repository = Some(1), &["<REPO>", "xx"]), (vec![1], vec![UserDefined; 2]));
    assert_eq!(ends(|p| p.fim.separator = Some(1), &["xx", "yy"]), (vec![1], vec![UserDefined; 2]));
    assert_eq!(ends(|p| p.fim.prefix = Some(1), &["<PRE>", "xx"]), (vec![], vec![UserDefined; 2]));
    assert_eq!(ends(|p| p.eom = Some(0), &["xx"]), (vec![0], vec![UserDefined]));
    assert_eq!(ends(|_| {}, &["<|middle|>"]), (vec![], vec![Control]));
    assert_eq!(ends(|_| {}, &["<|end|>", "<|return|>"]), (vec![0, 1], vec![Control; 2]));
    let harmony = ["<|end|>", "<|return|>", "<|call|>", "<|message|>"];
    assert_eq!(ends(|_| {}, &harmony), (vec![1, 2], vec![UserDefined, Control, Control, UserDefined]));
    assert_eq!(ends(|_| {}, &["</s>", "<|tool_response>"]), (vec![1], vec![Normal, Control]));
}

fn kinds() -> impl Strategy<Value = PieceKind> {
    prop::sample::select(vec![Normal, Normal, Normal, Unknown, Control, UserDefined, Byte, Unused])
}

proptest! {
    #[test]
    fn bytes_of_any_kind_spell_any_text(
        byte in 0..=0xff_u8,
        kind in prop::sample::select(vec![Normal, Unknown, Control, Byte, Unused]),
        by_name in any::<bool>(),
        text in "(.|[a \n\u{e9}\u{2581}]){0,20}",
        other in any::<String>(),
    ) {
        let names: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
        let itself = char::from(byte).to_string();
        let name = if by_name || !byte.is_ascii() { &names[usize::from(byte)] } else { &itself };
        let tokenizer = tokenizer(&with_byte(&names, byte.into(), name, kind));
        for text in [text, other] {
            let expected = text.replace('\u{2581}', " ");
            prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), &*expected);
            let mut decoder = tokenizer.decoder_after(3);
            let going_on = tokenizer.encode_continuation(&text);
            let decoded: String = going_on.iter().map(|&id| decoder.push(&tokenizer, id).to_owned()).collect();
            prop_assert_eq!(decoded, expected);
        }
    }

    #[test]
    fn any_parts_are_an_error_or_a_tokenizer(
        pieces in proptest::collection::vec(
            (prop_oneof!["[ab \u{2581}\u{120}\u{e9}]{0,4}".prop_map(String::into_bytes), any::<Vec<u8>>()],
             prop_oneof![any::<f32>(), -2.0..0.0_f32], kinds()),
            0..30,
        ),
        merges in proptest::collection::vec(
            prop_oneof!["[ab\u{120}\u{e9}]{1,3} [ab\u{120}\u{e9}]{1,3}".prop_map(String::into_bytes), any::<Vec<u8>>()],
            0..10,
        ),
        ids in any::<[Option<u8>; 4]>(),
        sentencepiece in any::<bool>(),
        text in "[ab \u{e9}<>]{0,20}|.{0,20}",
    ) {
        let model = if sentencepiece {
            TokenizerModel::default()
        } else {
            TokenizerModel::BytePairs { pre: "llama-bpe", merges: merges.iter().map(Into::into).collect() }
        };
        let pieces = pieces.iter().map(|&(ref text, score, kind)| PieceSpec { text: text.into(), score, kind }).collect();
        let [bos, eos, eot, unk] = ids.map(|id| id.map(|id| TokenId::from(id % 32)));
        let spec = TokenizerSpec { pieces, model, bos, eos, eot, unk, ..TokenizerSpec::default() };
        if let Ok(tokenizer) = Tokenizer::from_spec(&spec) {
            let tokens = tokenizer.encode(&text);
            for &id in &tokens {
                let kind = tokenizer.kind(id).unwrap();
                let is_unknown = kind == Unknown || Some(id) == tokenizer.vocab.unknown();
                // To llama.cpp an unused piece of a byte-level vocabulary is text like any other.
                let is_text = kind == Unused && !sentencepiece;
                prop_assert!(is_unknown || is_text || !matches!(kind, Control | Unused), "{kind:?}");
            }
            let _ = tokenizer.decode(&tokens);
        }
    }
}
