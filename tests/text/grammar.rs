//! Grammars: what a model says under one is checked by others: `serde_json` with a checker of
//! schemas, the crate `regex`, and brute force for the masks.

use std::sync::{Arc, Mutex};

use babyllama::{
    Constraint, ErrorKind, FinishReason, Grammar, GrammarConstraint, Model, PieceKind, Sampler,
    SamplerOptions, TokenId, TokenMask, Tokenizer,
};
use regex::Regex;
use serde_json::Value;

use crate::common::gguf::{Gguf, Value as Field};
use crate::common::{BUNDLED, RandomModel, Shape, greedy, one_thread, open, refuses, tokenizer_bin};
use crate::constrained::Recorded;
use crate::schema::check;
use crate::{PIECES, open_with, script};

/// No white space, so that a small model comes to an end.
const COMPACT: &str = r#""x-guidance": {"whitespace_flexible": false}"#;

const SCHEMAS: [&str; 7] = [
    r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 3, "maximum": 99}},
        "required": ["name", "age"], "additionalProperties": false, COMPACT}"#,
    r#"{"type": "array", "items": {"enum": ["cat", "dog", 7, null, true]}, "minItems": 2, "maxItems": 5, COMPACT}"#,
    r#"{"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[A-Z][a-z]{2,8}$"}, {"type": "boolean"}], COMPACT}"#,
    r##"{"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "properties": {"v": {"type": "boolean"},
        "kids": {"type": "array", "items": {"$ref": "#/$defs/leaf"}, "maxItems": 2}}, "required": ["v", "kids"], "additionalProperties": false},
        "leaf": {"type": "object", "properties": {"v": {"const": "leaf"}}, "required": ["v"], "additionalProperties": false}}, COMPACT}"##,
    r#"{"type": "array", "prefixItems": [{"type": "string", "minLength": 1, "maxLength": 3}, {"type": "null"}],
        "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4, COMPACT}"#,
    r#"{"type": "object", "properties": {"caf\u00e9 \ud83e\udd99": {"enum": ["\u00fc\u2028\"\\", "\n"]}},
        "required": ["caf\u00e9 \ud83e\udd99"], "additionalProperties": false, COMPACT}"#,
    r#"{"type": "object", "properties": {"n": {"type": "integer", "minimum": -3, "maximum": 3}, "s": {"type": ["string", "null"], "maxLength": 4}},
        "required": ["n"], "additionalProperties": false}"#, // with white space
];

const PATTERNS: [&str; 8] = [
    "[a-z]{3,8}(, [a-z]{2,5}){0,3}\\.",
    "(Lily|Tom|a cat) (ran|sat)( and (ran|sat)){0,2}",
    "\\d{4}-(0[1-9]|1[0-2])-[0-3]\\d",
    " {2}once/ \\\\ \"[^\"\\n]{0,10}\"",
    "(\u{e9}|\u{1f999}|\u{4f60}\u{597d}){1,4}",
    "[^a-zA-Z]{1,6}",
    "\\s{0,3}x",
    "Once upon a time there was a llama",
];

fn bundled() -> Model {
    Model::open_with(BUNDLED, &one_thread()).unwrap()
}

fn samplers() -> Vec<Sampler> {
    let base = SamplerOptions::new();
    let options = [
        base.clone().temperature(0.0),
        base.clone().temperature(0.0).repetition_penalty(1.3),
        base.clone().seed(1),
        base.clone().top_p(0.9).top_k(20).seed(2),
        base.temperature(1.8).min_p(0.001).frequency_penalty(0.5).seed(3),
    ];
    options.map(Sampler::new).into()
}

/// What the model says after a prompt; every token was in its mask, the end too.
fn say(model: &Model, constraint: GrammarConstraint, prompt: &str, sampler: &mut Sampler) -> Option<String> {
    let (constraint, record) = Recorded::new(constraint);
    let mut session = model.session();
    let mut generate = session.generate(prompt, sampler).unwrap().constrain(constraint).max_tokens(300);
    let text: String = generate.by_ref().map(|piece| piece.unwrap()).collect();
    let reason = generate.finish_reason().unwrap();
    let record = record.lock().unwrap();
    assert_eq!(record.tokens.len(), generate.n_generated());
    match reason {
        FinishReason::EndOfText(end) => {
            assert!(record.masks.last().unwrap().is_allowed(end));
            Some(text)
        }
        _ => None,
    }
}

#[test]
fn law_10_json_that_a_model_says_is_what_its_schema_allows() {
    let model = bundled();
    let mut n_ended = 0;
    for schema in SCHEMAS.map(|schema| schema.replace("COMPACT", COMPACT)) {
        let constraint = Grammar::json_schema(&schema).unwrap().constraint(&model).unwrap();
        let schema: Value = serde_json::from_str(&schema).unwrap();
        for prompt in ["Once upon a time", ""] {
            for mut sampler in samplers() {
                let Some(json) = say(&model, constraint.clone(), prompt, &mut sampler) else { continue };
                let value: Value = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{json:?}: {e}"));
                check(&schema, &schema, &value).unwrap_or_else(|e| panic!("{json:?}: {e}"));
                n_ended += 1;
            }
        }
    }
    // With white space some go on with it.
    assert!(n_ended >= 60, "{n_ended} of 70 texts ended");
}

#[test]
fn law_10_text_that_a_model_says_is_what_its_regular_expression_matches() {
    let model = bundled();
    for pattern in PATTERNS {
        let constraint = Grammar::regex(pattern).unwrap().constraint(&model).unwrap();
        let whole = Regex::new(&format!("^(?:{pattern})$")).unwrap();
        for prompt in ["Once upon a time", ""] {
            for mut sampler in samplers() {
                let text = say(&model, constraint.clone(), prompt, &mut sampler).expect("an end");
                assert!(whole.is_match(&text), "{pattern}: {text:?}");
            }
        }
    }
}

#[test]
fn text_follows_a_grammar_of_rules() {
    let model = bundled();
    let grammar = Grammar::lark(
        "start: term (\"+\" term){0,4}\nterm: NUMBER | \"(\" term \"*\" NUMBER \")\"\nNUMBER: /[1-9][0-9]{0,2}/",
    );
    let constraint = grammar.unwrap().constraint(&model).unwrap();
    let product = Regex::new(r"\([1-9]\d*\*[1-9]\d{0,2}\)").unwrap();
    let numbers = Regex::new(r"^[1-9]\d{0,2}(\+[1-9]\d{0,2}){0,4}$").unwrap();
    let mut n_ended = 0;
    for mut sampler in samplers() {
        let Some(text) = say(&model, constraint.clone(), "", &mut sampler) else { continue };
        n_ended += 1;
        // Products from the inside out are numbers.
        let mut sum = text.clone();
        while product.is_match(&sum) {
            sum = product.replace_all(&sum, "1").into_owned();
        }
        assert!(numbers.is_match(&sum), "{text}");
    }
    assert!(n_ended >= 2, "{n_ended} texts ended");
}

/// The bundled one; one with awkward pieces: parts of characters, two that read the same, several
/// spaces; and a byte-level one. The models of the last two are padded.
fn models() -> Vec<Model> {
    let mut pieces: Vec<Vec<u8>> = (0..=255).map(|byte: u8| format!("<0x{byte:02X}>").into_bytes()).collect();
    let awkward: [&[u8]; 16] = [
        b" ",
        b"a",
        b"b",
        b"ab",
        b" a",
        b"  a",
        b"ba ",
        b" ab",
        b"\xC3\xA9",
        b"a\xC3\xA9",
        b" \xC3\xA9b",
        b"bb",
        b"  ",
        b"a\xC3",
        b"\xA9b",
        b"a", // once more
    ];
    pieces.extend(awkward.map(<[u8]>::to_vec));
    let pieces: Vec<_> = pieces.iter().map(Vec::as_slice).collect();
    let tokenizer = Tokenizer::from_llama2c(&tokenizer_bin(&pieces)).unwrap();
    // Padded by 5.
    let shape = Shape::new(16, 20).layers(1).heads(2, 1).vocab(pieces.len() + 8).context(64).tied();
    let random = RandomModel::new(shape, 4);
    let spaced = Model::from_bytes_with(random.to_v0(), &one_thread().tokenizer(tokenizer)).unwrap();
    vec![bundled(), spaced, open(&byte_level(&random))]
}

/// A file with a byte-level vocabulary: all bytes, and what a few merges make.
fn byte_level(random: &RandomModel) -> Gguf {
    let is_shown = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..);
    let mut n_hidden = 0;
    let mut tokens: Vec<String> = (0..=255)
        .map(|byte: u8| {
            n_hidden += u32::from(!is_shown(byte));
            if is_shown(byte) { char::from(byte) } else { char::from_u32(255 + n_hidden).unwrap() }
                .to_string()
        })
        .collect();
    let [space, c3, a9] = [b' ', 0xC3, 0xA9].map(|byte| tokens[usize::from(byte)].clone());
    let [space, c3, a9] = [&space, &c3, &a9].map(String::as_str);
    let merges = [("a", "b"), (space, "a"), (c3, a9), ("a", c3), ("b", "b"), (space, space)];
    tokens.extend(merges.map(|(left, right)| format!("{left}{right}")));
    tokens.extend(["<|begin|>", "<|end|>"].map(String::from));
    let n = tokens.len();
    let strings = |texts: Vec<String>| Field::strings(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    let mut file = random.to_gguf(1e-5, 1e4);
    let mut set = |key: &str, value: Field| {
        file.set(&format!("tokenizer.ggml.{key}"), value);
    };
    set("model", Field::str("gpt2"));
    set("pre", Field::str("gpt-2"));
    set("tokens", strings(tokens));
    set("merges", strings(merges.map(|(left, right)| format!("{left} {right}")).into()));
    set("token_type", Field::Array(5, (0..n).map(|i| Field::I32(if i < n - 2 { 1 } else { 3 })).collect()));
    set("bos_token_id", Field::U32(n as u32 - 2));
    set("eos_token_id", Field::U32(n as u32 - 1));
    file
}

/// What a token adds to a text, by the tokenizer's own decoder; none for what adds nothing.
fn added(tokenizer: &Tokenizer, token: TokenId, previous: TokenId) -> Option<Vec<u8>> {
    let is_text = matches!(
        tokenizer.kind(token).unwrap(),
        PieceKind::Normal | PieceKind::UserDefined | PieceKind::Byte
    );
    if !is_text || tokenizer.is_end(token) {
        return None;
    }
    let bytes = tokenizer.bytes(token);
    // What the decoder strips shows at a token that is whole characters.
    let Ok(text) = str::from_utf8(bytes) else { return Some(bytes.to_vec()) };
    let shown = tokenizer.decoder_after(previous).push(tokenizer, token).to_string();
    assert!(shown == text || format!(" {shown}") == text);
    Some(shown.into_bytes())
}

/// Whether bytes begin a text of `[ab ]{0,6}` or of up to six of those and an e with an accent.
fn begins(bytes: &[u8]) -> bool {
    let whole = bytes.strip_suffix(b"\xC3").unwrap_or(bytes);
    let Ok(text) = str::from_utf8(whole) else { return false };
    let n = text.chars().count() + usize::from(whole.len() < bytes.len());
    n <= 6 && text.chars().all(|c| matches!(c, 'a' | 'b' | ' ' | '\u{e9}'))
}

#[test]
fn masks_are_what_brute_force_finds() {
    for model in models() {
        let tokenizer = model.tokenizer().unwrap();
        let bos = tokenizer.bos().unwrap();
        let fresh = Grammar::regex("[ab \u{e9}]{0,6}").unwrap().constraint(&model).unwrap();
        let mut random = 7_u64;
        for round in 0..40 {
            // After BOS the first token loses its space, after another not.
            let mut previous = if round % 2 == 0 { bos } else { 5 };
            let mut constraint = fresh.clone();
            constraint.begin(Some(previous)).unwrap();
            let mut text = Vec::new();
            loop {
                let mut mask = TokenMask::new(tokenizer.vocab_size());
                constraint.allow(&mut mask).unwrap();
                let fits = |token: TokenId| {
                    added(tokenizer, token, previous)
                        .is_some_and(|bytes| !bytes.is_empty() && begins(&[&text[..], &bytes].concat()))
                };
                let may_end = str::from_utf8(&text).is_ok();
                let mut allowed = Vec::new();
                for token in 0..tokenizer.vocab_size() as TokenId {
                    let expected = if tokenizer.is_end(token) { may_end } else { fits(token) };
                    assert_eq!(mask.is_allowed(token), expected, "{text:?} and then {token}");
                    allowed.extend(Some(token).filter(|&token| expected && !tokenizer.is_end(token)));
                }
                if allowed.is_empty() {
                    break;
                }
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let token = allowed[(random >> 33) as usize % allowed.len()];
                text.extend(added(tokenizer, token, previous).unwrap());
                constraint.accept(token).unwrap();
                previous = token;
            }
        }
    }
}

#[test]
fn the_first_token_after_bos_may_have_the_space_that_it_loses() {
    let model = bundled();
    let tokenizer = model.tokenizer().unwrap();
    let constraint = Grammar::regex("Once upon a time, .{5}").unwrap().constraint(&model).unwrap();
    let (constraint, record) = Recorded::new(constraint);
    let mut session = model.session();
    let mut sampler = greedy();
    let generate = session.generate("", &mut sampler).unwrap().constrain(constraint);
    let text: String = generate.map(|piece| piece.unwrap()).collect();
    assert!(text.starts_with("Once upon a time, "), "{text:?}");
    let first = record.lock().unwrap().tokens[0];
    assert_eq!(tokenizer.bytes(first)[0], b' ', "as the tokenizer begins a text");
}

#[test]
fn what_is_forced_is_what_the_masks_allow() {
    let model = bundled();
    let pattern = "Lily said: \"[a-z]{4}\" and then she went home\\.";
    let mut constraint = Grammar::regex(pattern).unwrap().constraint(&model).unwrap();
    constraint.begin(Some(5)).unwrap();
    let mut n_forced = 0;
    let mut text = Vec::new();
    while !constraint.may_end() {
        let mut forced = Vec::new();
        constraint.forced(&mut forced);
        n_forced += forced.len();
        let mut mask = TokenMask::new(model.tokenizer().unwrap().vocab_size());
        if forced.is_empty() {
            constraint.allow(&mut mask).unwrap();
            forced.extend((0..512).find(|&token| mask.is_allowed(token)));
        }
        for token in forced {
            mask.clear();
            constraint.allow(&mut mask).unwrap();
            assert!(mask.is_allowed(token));
            constraint.accept(token).unwrap();
            text.extend(model.tokenizer().unwrap().bytes(token));
        }
    }
    assert!(n_forced > 10, "{n_forced} tokens were forced");
    assert!(Regex::new(&format!("^{pattern}$")).unwrap().is_match(str::from_utf8(&text).unwrap()));
}

#[test]
fn a_shared_constraint_goes_on_in_the_next_generation() {
    let model = bundled();
    let pattern = "[a-z]{3} [a-z]{9} [a-z]{3}";
    let constraint = Grammar::regex(pattern).unwrap().constraint(&model).unwrap();
    let shared = Arc::new(Mutex::new(constraint));
    let mut session = model.session();
    let (mut sampler, mut text) = (Sampler::new(SamplerOptions::new().seed(5)), String::new());
    for i in 0..20 {
        let prompt = if i == 0 { "Once" } else { "" };
        let generate = session.generate(prompt, &mut sampler).unwrap().constrain(Arc::clone(&shared));
        let mut generate = generate.max_tokens(2);
        text.extend(generate.by_ref().map(|piece| piece.unwrap()));
        if let Some(FinishReason::EndOfText(_)) = generate.finish_reason() {
            break;
        }
    }
    assert!(Regex::new(&format!("^{pattern}$")).unwrap().is_match(&text), "{text:?}");
}

#[test]
fn mistakes_are_found_with_their_place() {
    let model = bundled();
    let schema = |text: &str| Grammar::json_schema(text).and_then(|grammar| grammar.constraint(&model));
    let lark = |text: &str| Grammar::lark(text).and_then(|grammar| grammar.constraint(&model));
    let regex = |text: &str| Grammar::regex(text).and_then(|grammar| grammar.constraint(&model));
    let at = |line, column| Some((line, column));

    refuses!(schema("{\n  \"type\" 3}"), ErrorKind::Grammar { position, .. } if *position == at(2, 10), "JSON schema, line 2");
    refuses!(schema("3"), ErrorKind::Grammar { position: None, .. }, "object or boolean");
    refuses!(
        schema(r#"{"type": "object", "minProperties": 2, "not": {}}"#),
        ErrorKind::Grammar { .. },
        "not"
    );
    refuses!(schema(r#"{"type": "string", "minLength": 5, "maxLength": 3}"#), ErrorKind::Grammar { .. });
    refuses!(schema(&"[".repeat(100_000)), ErrorKind::Grammar { .. }, "recursion");

    refuses!(regex("a\n(b"), ErrorKind::Grammar { position, .. } if *position == at(2, 1), "unclosed group");
    refuses!(regex("[z-a]"), ErrorKind::Grammar { position, .. } if *position == at(1, 2));
    refuses!(regex("a(?=b)"), ErrorKind::Grammar { .. }, "look-around");
    refuses!(regex(&"(".repeat(100_000)), ErrorKind::Grammar { .. });

    refuses!(lark("start: x\ny: \"a\""), ErrorKind::Grammar { .. }, "x");
    refuses!(lark("start: \"a\"\n  | ) \"b\""), ErrorKind::Grammar { position: Some((2, _)), .. });
    refuses!(lark("start: \u{1}"), ErrorKind::Grammar { position: Some((1, 8)), .. });
    refuses!(lark("start: /(/"), ErrorKind::Grammar { .. });
    refuses!(lark(""), ErrorKind::Grammar { .. });
    refuses!(
        lark(&format!("start: {}\"a\"", "(".repeat(100_000))),
        ErrorKind::Grammar { position: Some((1, _)), .. }
    );
    // Brackets that are text don't count.
    let strings: String = (0..300).map(|i| format!("| \"({i}\" | /[(]{i}/ // (((\n")).collect();
    assert!(lark(&format!("start: \"a\" {strings}")).is_ok());
    for error in [lark("start: x").unwrap_err(), schema("3").unwrap_err()] {
        assert!(!error.to_string().contains(['\n', '<']), "{error}");
    }

    let none = Model::from_bytes_with(script().to_v1(), &one_thread()).unwrap();
    refuses!(Grammar::regex("a").unwrap().constraint(&none), ErrorKind::NoTokenizer);
}

#[test]
fn what_no_token_spells_is_an_error_and_not_a_text() {
    // It has no letters of its own.
    let model = open_with(&script(), &PIECES);
    let (mut session, mut sampler) = (model.session(), greedy());
    let constraint = Grammar::regex(" once upon, ?x").unwrap().constraint(&model).unwrap();
    let mut generate = session.generate(&[12], &mut sampler).unwrap().constrain(constraint);
    let text: Vec<_> = generate.by_ref().map_while(Result::ok).map(|piece| piece.to_string()).collect();
    assert!(" once upon,".starts_with(&text.concat()), "{text:?}");
    assert!(generate.finish_reason().is_none());
}

#[test]
fn an_empty_regular_expression_ends_at_once() {
    let model = bundled();
    let constraint = Grammar::regex("").unwrap().constraint(&model).unwrap();
    assert_eq!(say(&model, constraint, "Once", &mut greedy()).as_deref(), Some(""));
}

#[test]
fn where_nothing_can_come_no_token_is_left() {
    let model = bundled();
    let nothing = [
        Grammar::regex("[^\\x00-\\x{10FFFF}]"),
        Grammar::lark("start: start"),
        Grammar::json_schema(r##"{"$ref": "#"}"##),
    ];
    for grammar in nothing {
        let (mut session, mut sampler) = (model.session(), greedy());
        let constraint = grammar.unwrap().constraint(&model).unwrap();
        let mut generate = session.generate("Once", &mut sampler).unwrap().constrain(constraint);
        refuses!(generate.next().unwrap(), ErrorKind::NoCandidate);
    }
}

#[test]
fn a_constraint_compiled_for_another_tokenizer_is_refused() {
    let constraint = Grammar::regex("[a-z ]{20}").unwrap().constraint(&bundled()).unwrap();
    let model = open_with(&script(), &PIECES);
    let (mut session, mut sampler) = (model.session(), greedy());
    let mut generate = session.generate(&[12], &mut sampler).unwrap().constrain(constraint);
    refuses!(generate.next().unwrap(), ErrorKind::InvalidOption { name: "constraint", .. }, "piece");
}
