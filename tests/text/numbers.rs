//! Bounds of numbers in a JSON schema, by exact decimal arithmetic; and schemas and grammars whose
//! compilation recurses.

use babyllama::{Constraint, ErrorKind, Grammar, GrammarConstraint, Model, TokenMask};
use proptest::prelude::*;

use crate::common::{BUNDLED, one_thread, refuses};

/// A decimal number in units of 1e-20, and a text of it. None with an exponent.
fn exact(text: &str) -> Option<i128> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let padded = format!("{whole}{fraction:0<20}");
    padded.parse::<i128>().ok().map(|n| sign * n)
}

/// Whether a constraint takes a text as a whole.
fn takes(model: &Model, mut constraint: GrammarConstraint, text: &str) -> bool {
    let tokenizer = model.tokenizer().unwrap();
    constraint.begin(tokenizer.find(b"a")).unwrap();
    let mut mask = TokenMask::new(tokenizer.vocab_size());
    for token in tokenizer.encode_continuation(text) {
        mask.clear();
        constraint.allow(&mut mask).unwrap();
        if !mask.is_allowed(token) {
            return false;
        }
        constraint.accept(token).unwrap();
    }
    constraint.may_end()
}

/// Texts of numbers near a bound.
fn near(bound: &str) -> Vec<String> {
    let mut texts: Vec<String> = ["0", "-0", "0.0", "1", "-1", bound].map(String::from).into();
    let point = if bound.contains('.') { "" } else { "." };
    texts.extend(["0", "01", "5", "9", "000000001"].map(|more| format!("{bound}{point}{more}")));
    let n_decimals = bound.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    let unit = 10_i128.pow(20 - n_decimals as u32);
    for step in [-2, -1, 1, 2] {
        let n = exact(bound).unwrap() + step * unit;
        let (sign, n) = (if n < 0 { "-" } else { "" }, n.unsigned_abs());
        let (whole, fraction) = (n / 10_u128.pow(20), format!("{:020}", n % 10_u128.pow(20)));
        let fraction = &fraction[..n_decimals];
        let text =
            if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") };
        let point = if fraction.is_empty() { "." } else { "" };
        texts.extend(["9", "99999", "1"].map(|more| format!("{text}{point}{more}")));
        texts.push(text);
    }
    texts
}

/// A decimal number of at most 15 digits.
fn decimal() -> impl Strategy<Value = String> {
    (any::<bool>(), 0_u32..=15, 0_u32..=10, 0_i64..1_000_000_000_000_000).prop_map(
        |(is_negative, n_digits, n_decimals, n)| {
            let n = n % 10_i64.pow(n_digits);
            let n_decimals = n_decimals.min(n_digits);
            let (whole, fraction) = (n / 10_i64.pow(n_decimals), n % 10_i64.pow(n_decimals));
            let sign = if is_negative && n != 0 { "-" } else { "" };
            if n_decimals == 0 {
                format!("{sign}{whole}")
            } else {
                format!("{sign}{whole}.{fraction:0width$}", width = n_decimals as usize)
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn what_is_taken_is_within_the_bounds(
        low in prop::option::of(decimal()),
        high in prop::option::of(decimal()),
        same_whole in any::<bool>(),
        exclusive in any::<[bool; 2]>(),
        integer in any::<bool>(),
    ) {
        let mut bounds = [low, high];
        if same_whole && let [Some(low), Some(high)] = &mut bounds {
            let whole = low.split('.').next().unwrap().to_string();
            *high = format!("{whole}.5");
        }
        if let [Some(low), Some(high)] = &bounds && exact(low) > exact(high) {
            bounds.swap(0, 1);
        }
        let names = [["minimum", "exclusiveMinimum"], ["maximum", "exclusiveMaximum"]];
        let mut schema = format!("{{\"type\": \"{}\"", if integer { "integer" } else { "number" });
        for i in 0..2 {
            if let Some(bound) = &bounds[i] {
                schema += &format!(", \"{}\": {bound}", names[i][usize::from(exclusive[i])]);
            }
        }
        schema += "}";
        let model = Model::open_with(BUNDLED, &one_thread()).unwrap();
        let Ok(constraint) = Grammar::json_schema(&schema).unwrap().constraint(&model) else { return Ok(()) };
        for text in bounds.iter().flatten().flat_map(|bound| near(bound)) {
            let n = exact(&text).unwrap();
            let within = |i: usize, sign: i128| bounds[i].as_deref().is_none_or(|bound| {
                let distance = (n - exact(bound).unwrap()) * sign;
                distance > 0 || distance == 0 && !exclusive[i]
            });
            let is_valid = within(0, 1) && within(1, -1) && (!integer || n % 10_i128.pow(20) == 0);
            if takes(&model, constraint.clone(), &text) {
                prop_assert!(is_valid, "{}: {}", schema, text);
            } else if is_valid && !text.contains('.') && text != "-0" {
                prop_assert!(false, "{}: {} isn't taken", schema, text);
            }
        }
    }
}

#[test]
fn numbers_that_are_not_exact_are_refused_by_name() {
    for (schema, name) in [
        (r#"{"type": "integer", "minimum": 1e20, "maximum": 1e21}"#, "minimum is 1e+20"),
        (r#"{"type": "integer", "minimum": -1e21, "maximum": -1e20}"#, "minimum is -1e+21"),
        (r#"{"type": "integer", "maximum": 9223372036854775807}"#, "maximum is 9223372036854775807"),
        (r#"{"items": {"exclusiveMinimum": 9007199254740993}}"#, "exclusiveMinimum"),
        (r#"{"properties": {"a": {"anyOf": [{"maximum": 1e300}]}}}"#, "maximum"),
        (r#"{"enum": [1, {"a": 9007199254740993}]}"#, "enum has 9007199254740993"),
        (r#"{"const": -9007199254740993}"#, "const"),
        (r#"{"type": "number", "multipleOf": 1e-12}"#, "multipleOf"),
    ] {
        refuses!(Grammar::json_schema(schema), ErrorKind::Grammar { .. }, name);
        let lark = format!("start: \"a\"\n  | %json {schema} \"b\"");
        refuses!(Grammar::lark(&lark), ErrorKind::Grammar { position: Some((2, _)), .. }, name);
    }
    // What has the name of a keyword, but is none, and numbers that come up as they are.
    for schema in [
        r#"{"properties": {"minimum": {"const": 1e300}, "maximum": {"enum": [0.1, -3]}}}"#,
        r#"{"type": "integer", "minimum": -9007199254740991, "default": 1e20}"#,
    ] {
        assert!(Grammar::json_schema(schema).is_ok(), "{schema}");
    }
}

#[test]
fn a_long_way_through_references_or_rules_takes_no_stack() {
    let model = Model::open_with(BUNDLED, &one_thread()).unwrap();
    let schema = |n: usize, link: &str| {
        let link = |i: usize| format!("\"a{i}\": {}", link.replace("NEXT", &format!("#/$defs/a{}", i + 1)));
        let links: Vec<String> = (0..n).map(link).collect();
        let all = links.join(",\n");
        format!(r##"{{"$ref": "#/$defs/a0", "$defs": {{{all}, "a{n}": {{"type": "null"}}}}}}"##)
    };
    let lark = |n: usize, name: &str, body: &str| {
        let rules: String = (0..n).map(|i| format!("{name}{i}: {name}{} {body}\n", i + 1)).collect();
        format!("start: {name}0\n{rules}{name}{n}: \"x\"")
    };
    let links = [
        (2_900, r#"{"$ref": "NEXT"}"#),
        (2_900, r#"{"type": "array", "items": {"$ref": "NEXT"}}"#),
        (1_200, r#"{"properties": {"p": {"$ref": "NEXT"}}}"#),
        (2_000, r#"{"anyOf": [{"$ref": "NEXT"}, {"type": "null"}]}"#),
        (1_200, r#"{"allOf": [{"$ref": "NEXT"}, {"type": "null"}]}"#),
    ];
    for (n, link) in links {
        let compiled = Grammar::json_schema(&schema(n, link)).unwrap().constraint(&model);
        // It may be too much for the compiler, which says so.
        if let Err(error) = compiled {
            assert!(matches!(error.kind(), ErrorKind::Grammar { .. }), "{link}: {error}");
        }
        refuses!(Grammar::json_schema(&schema(20_000, link)), ErrorKind::Grammar { .. }, "levels deep");
    }
    for (n, name, body) in [(9_000, "a", ""), (4_000, "A", "\"y\"")] {
        let mut constraint = Grammar::lark(&lark(n, name, body)).unwrap().constraint(&model).unwrap();
        constraint.begin(model.tokenizer().unwrap().find(b"a")).unwrap();
        let mut mask = TokenMask::new(model.tokenizer().unwrap().vocab_size());
        constraint.allow(&mut mask).unwrap();
        assert!(mask.is_allowed(model.tokenizer().unwrap().find(b"x").unwrap()));
        refuses!(Grammar::lark(&lark(20_000, name, body)), ErrorKind::Grammar { .. }, "10000 rules");
    }
}
