//! `run --json-schema`, `--regex` and `--grammar`.

use crate::common::TempFile;
use crate::{babyllama, fails, succeeds};

#[cfg(feature = "grammar")]
#[test]
fn run_follows_a_schema_a_regular_expression_or_a_grammar() {
    let schema = r#"{"type": "array", "items": {"enum": ["cat", "dog"]}, "minItems": 1, "maxItems": 3,
        "x-guidance": {"whitespace_flexible": false}}"#;
    let schema = TempFile::new("schema.json", schema.as_bytes());
    let (json, _) = succeeds(&["run", "-s", "3", "--json-schema", schema.text()]);
    let pets: Vec<String> = serde_json::from_str(&json).unwrap();
    assert!((1..=3).contains(&pets.len()) && pets.iter().all(|pet| pet == "cat" || pet == "dog"), "{json}");

    let (text, _) = succeeds(&["run", "-i", "Tom is", "-t", "0", "--regex", " (happy|sad) and [0-9]{3}"]);
    let number = text.strip_prefix("Tom is ").and_then(|text| text.trim_end().rsplit_once(" and "));
    assert!(number.is_some_and(|(mood, n)| ["happy", "sad"].contains(&mood) && n.len() == 3), "{text}");

    let grammar = TempFile::new("sum.lark", b"start: \"1\" (\"+1\"){2,4}");
    let (text, _) = succeeds(&["run", "-s", "1", "--grammar", grammar.text()]);
    assert!(["1+1+1\n", "1+1+1+1\n", "1+1+1+1+1\n"].contains(&&*text), "{text}");
}

#[cfg(feature = "grammar")]
#[test]
fn a_text_that_is_cut_short_is_an_error_but_not_one_that_a_stop_string_ends() {
    let run = |args: &[&str]| babyllama(&[&["run", "-q", "-t", "0", "-i", "Tom", "--regex"], args].concat());
    let cut = run(&[" is [a-z]{90}", "-n", "9"]);
    fails(&cut, 1, &["before it was all that its constraint asks for", "-n"]);
    assert!(String::from_utf8_lossy(&cut.stdout).starts_with("Tom is "));
    fails(
        &run(&[" is [a-z]{90}", "-n", "0", "--context-length", "9"]),
        1,
        &["constraint", "--context-length"],
    );
    for args in [&[" is [a-z]{90}", "--stop", "is"][..], &["( is| a){2,}", "-n", "9"]] {
        assert!(run(args).status.success(), "{args:?}");
    }
}

#[cfg(feature = "grammar")]
#[test]
fn a_mistake_in_a_grammar_is_told_with_the_file_and_the_place() {
    let schema = TempFile::new("bad.json", b"{\n  \"type\" 3}");
    fails(
        &babyllama(&["run", "--json-schema", schema.text()]),
        1,
        &["bad.json: JSON schema, line 2, column"],
    );
    let grammar = TempFile::new("bad.lark", b"start: \"a\"\n  | )");
    fails(&babyllama(&["run", "--grammar", grammar.text()]), 1, &["bad.lark: grammar, line 2"]);
    fails(&babyllama(&["run", "--regex", "(a"]), 1, &["--regex: regular expression, line 1, column 1"]);
    fails(&babyllama(&["run", "--grammar", "no such file"]), 1, &["no such file: "]);
    fails(&babyllama(&["run", "--regex", "a", "--grammar", grammar.text()]), 2, &["cannot be used with"]);
}

#[cfg(not(feature = "grammar"))]
#[test]
fn a_program_without_grammars_says_how_to_build_one() {
    let schema = TempFile::new("schema.json", b"true");
    fails(
        &babyllama(&["run", "--json-schema", schema.text()]),
        2,
        &["--json-schema", "--features cli,grammar"],
    );
    fails(&babyllama(&["run", "--regex", "a"]), 2, &["--regex", "--features cli,grammar"]);
    let (text, _) = succeeds(&["run", "-n", "3", "-t", "0"]);
    assert!(!text.is_empty());
}
