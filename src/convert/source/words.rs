//! The pre-tokenizers that a byte-level `tokenizer.json` may have, and GGUF's names for them.
//!
//! A pre-tokenizer is a list of regular expressions, each of which splits what the one before left:
//! a match is a word, and so is what lies between two matches. Stages of other kinds have an
//! expression that does the same.
//!
//! Source: the `tokenizer.json` of the models that the names are of; the documentation of
//! tokenizers; llama.cpp's names.

use serde_json::{Map, Value};

use super::tokenizer_json::kind_of;

/// A pre-tokenizer that GGUF has a name for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KnownWords {
    pub(super) pre: &'static str,
    /// Words are cut by case, which programs that go by the name see in A to Z alone.
    pub(super) unicode_case: bool,
    /// What programs that go by the name do otherwise.
    pub(super) note: Option<&'static str>,
}

/// The expression of a stage `ByteLevel`.
const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const NUMBER: &str = r"\p{N}";
const NUMBERS: &str = r"\p{N}+";
const THREE_NUMBERS: &str = r"\p{N}{1,3}";
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const NEWLINE: &str = "[\r\n]";
const SPACED_LETTERS: &str = r"\s?\p{L}+";
const SPACED_PUNCTUATION: &str = r"\s?\p{P}+";
const EAST_ASIAN: &str = "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";

/// Of `DeepSeek`'s east Asian letters, among which there are spaces.
const SPACES: &str = "the source takes spaces from U+2000 to U+3000, as the ideographic space, for letters where they stand beside \
                      Chinese, Japanese or Korean, and here and in llama.cpp they are spaces: such texts get other tokens";

/// Expressions, whether a word that is a piece is that piece whatever the merges say, and the name.
type Known = (&'static [&'static str], bool, &'static str);

const KNOWN: [Known; 10] = [
    (&[GPT_2], false, "gpt-2"),
    (&[NUMBER, GPT_2], false, "smollm"),
    (&[LLAMA_3], true, "llama-bpe"),
    (&[LLAMA_3], false, "smaug-bpe"),
    (&[THREE_NUMBERS, LLAMA_3], true, "minicpm5"),
    (&[QWEN_2], false, "qwen2"),
    (&[SEED_CODER], false, "seed-coder"),
    (&[TEKKEN], true, "tekken"),
    (&[GPT_4O], false, "gpt-4o"),
    (&[NEWLINE, SPACED_LETTERS, SPACED_PUNCTUATION, EAST_ASIAN, NUMBER], false, "deepseek-coder"),
];

/// The pre-tokenizer of these stages, if it is known.
pub(super) fn known(stages: &[&Map<String, Value>], ignore_merges: bool) -> Option<KnownWords> {
    let (last, first) = stages.split_last()?;
    if kind_of(last) != Some("ByteLevel") || flag(last, "add_prefix_space") == Some(true) {
        return None;
    }
    let mut expressions = first.iter().map(|stage| expression(stage)).collect::<Option<Vec<_>>>()?;
    if flag(last, "use_regex") != Some(false) {
        expressions.push(GPT_2);
    }
    let is_it = |(known, whole, _): &&Known| (*known, *whole) == (&*expressions, ignore_merges);
    let &(_, _, pre) = KNOWN.iter().find(is_it)?;
    Some(KnownWords {
        pre,
        unicode_case: matches!(pre, "tekken" | "gpt-4o"),
        note: (pre == "deepseek-coder").then_some(SPACES),
    })
}

/// What a stage takes for a word.
fn expression(stage: &Map<String, Value>) -> Option<&str> {
    match kind_of(stage)? {
        "Digits" if flag(stage, "individual_digits") == Some(true) => Some(NUMBER),
        "Digits" => Some(NUMBERS),
        "Split" if flag(stage, "invert") != Some(true) => {
            let isolates = stage.get("behavior").and_then(Value::as_str) == Some("Isolated");
            stage.get("pattern")?.get("Regex")?.as_str().filter(|_| isolates)
        }
        _ => None,
    }
}

fn flag(stage: &Map<String, Value>, key: &str) -> Option<bool> {
    stage.get(key).and_then(Value::as_bool)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_are_known_by_how_they_are_cut() {
        let split =
            |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"});
        let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": regex});
        let digits = |each: bool| json!({"type": "Digits", "individual_digits": each});
        let other = |key: &str, value: Value| {
            let mut stage = split(QWEN_2);
            stage[key] = value;
            stage
        };
        let cases = [
            (vec![bytes(true)], false, Some("gpt-2")),
            (vec![bytes(true)], true, None),
            (vec![split(GPT_2), bytes(false)], false, Some("gpt-2")),
            (vec![digits(true), bytes(true)], false, Some("smollm")),
            (vec![split(NUMBER), split(GPT_2), bytes(false)], false, Some("smollm")),
            (vec![digits(false), bytes(true)], false, None),
            (vec![digits(true), bytes(false)], false, None),
            (vec![split(LLAMA_3), bytes(false)], true, Some("llama-bpe")),
            (vec![split(LLAMA_3), bytes(false)], false, Some("smaug-bpe")),
            (vec![split(LLAMA_3), bytes(true)], true, None),
            (vec![split(LLAMA_3), json!({"type": "ByteLevel", "add_prefix_space": true})], true, None),
            (vec![split(LLAMA_3)], true, None),
            (vec![split(&LLAMA_3.replace("{1,3}", "{1,4}")), bytes(false)], true, None),
            (vec![split(THREE_NUMBERS), split(LLAMA_3), bytes(false)], true, Some("minicpm5")),
            (vec![split(QWEN_2), bytes(false)], false, Some("qwen2")),
            (vec![other("behavior", json!("Removed")), bytes(false)], false, None),
            (vec![other("invert", json!(true)), bytes(false)], false, None),
            (vec![other("pattern", json!({"String": QWEN_2})), bytes(false)], false, None),
            (vec![split(SEED_CODER), bytes(false)], false, Some("seed-coder")),
            (vec![split(TEKKEN), bytes(false)], true, Some("tekken")),
            (vec![split(GPT_4O), bytes(false)], false, Some("gpt-4o")),
            (
                vec![
                    split("[\r\n]"),
                    split(r"\s?\p{L}+"),
                    split(r"\s?\p{P}+"),
                    split("[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+"),
                    digits(true),
                    bytes(false),
                ],
                false,
                Some("deepseek-coder"),
            ),
            (vec![], false, None),
        ];
        for (stages, ignore_merges, name) in cases {
            let stages: Vec<_> = stages.iter().map(|stage| stage.as_object().unwrap()).collect();
            let found = known(&stages, ignore_merges);
            assert_eq!(found.map(|found| found.pre), name, "{stages:?}");
            let by_case = matches!(name, Some("tekken" | "gpt-4o"));
            assert!(found.is_none_or(|found| found.unicode_case == by_case));
        }
    }
}
