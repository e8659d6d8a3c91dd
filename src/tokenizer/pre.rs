//! Pre-tokenizers: where byte-pair encoding cuts a text into words, which no merge crosses.
//!
//! A pre-tokenizer is a list of splits. The first cuts the text, the second cuts each part again,
//! and so on. A split is a function from a text that isn't empty to the length of its first word,
//! by hand what others leave to a regular expression. It looks only ahead, and to it the end of a
//! part is the end of the text.
//!
//! Invariant: the words tile the text, none is empty, and finding them takes time linear in the
//! text's length.
//!
//! Source: the expressions that stand beside the functions, from the `tokenizer.json` of GPT-2,
//! Llama 3 and others. Where llama.cpp reads them differently (`\s` is `White_Space`, cases are
//! ASCII's alone) it is followed, since GGUF files name its pre-tokenizers.

use super::case::{Case, case};
use super::unicode::{Class, class, is_cased_to_deepseek};

/// Gives the length of a text's first word in bytes. The text isn't empty, nor is the word.
type Split = fn(&str) -> usize;

/// What GGUF's `tokenizer.ggml.pre` names.
#[derive(Clone, Copy)]
pub(super) struct PreTokenizer {
    splits: &'static [Split],
    /// A word that is a piece is that piece, whatever the merges say.
    pub(super) whole_words: bool,
    /// Prompts begin with BOS, unless the file says otherwise.
    pub(super) adds_bos: bool,
}

impl PreTokenizer {
    /// Finds a pre-tokenizer by its name in GGUF files.
    pub(super) fn named(name: &str) -> Option<Self> {
        let (splits, adds_bos): (&'static [Split], bool) = match name {
            "default" => (&[default_punctuation, gpt2, numbers, three_digits], false),
            "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "mellum" | "exaone4" | "gigachat" | "a.x-4.0"
            | "modern-bert" | "trillion" | "granite-docling" | "jina-es" | "jina-de" | "jina-v1-en"
            | "jina-v2-es" | "jina-v2-de" | "jina-v2-code" | "roberta-bpe" => (&[gpt2], false),
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "midm-2.0"
            | "lfm2" | "jina-v5-nano" => (&[llama3], true),
            "dbrx" | "smaug-bpe" | "chatglm-bpe" | "glm4" | "glm5" => (&[llama3], false),
            "minicpm5" => (&[three_numbers, llama3], false),
            "qwen2" | "deepseek-r1-qwen" | "megrez" | "kormo" | "stablelm2" | "hunyuan" | "solar-open"
            | "grok-2" | "bailingmoe" | "bailingmoe2" | "llada-moe" | "f2llmv2" => (&[qwen2], false),
            "ufakzeka" => (&[ufakzeka], false),
            "laguna" => (&[newlines, qwen2], false),
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b"
            | "mellum2" => (&[one_number, gpt2], false),
            "tekken" => (&[tekken], true),
            "gpt-4o" | "llama4" | "kanana2" | "talkie" | "minimax-m2" => (&[gpt4o], false),
            "seed-coder" => (&[seed_coder], false),
            "falcon" => (&[falcon_punctuation, gpt2, three_digits], false),
            "deepseek-llm" => (&DEEPSEEK_LLM, false),
            "deepseek-coder" => (&DEEPSEEK_CODER, false),
            "viking" => (&[bloom, one_number], false),
            "bloom" | "poro-chat" | "gpt3-finnish" => (&[bloom], false),
            _ => return None,
        };
        let whole_words = adds_bos || matches!(name, "minicpm5" | "glm4" | "glm5");
        Some(Self { splits, whole_words, adds_bos })
    }

    /// The same, with the classes of the expression where llama.cpp's are others, if they are
    /// known.
    pub(super) fn with_unicode_case(self) -> Self {
        let splits: &'static [Split] = match self.splits {
            [split] if std::ptr::fn_addr_eq(*split, tekken as Split) => &[unicode_tekken],
            [split] if std::ptr::fn_addr_eq(*split, gpt4o as Split) => &[unicode_gpt4o],
            others => others,
        };
        Self { splits, ..self }
    }

    /// Hands out the words of `text`, from left to right.
    pub(super) fn split<'a>(self, text: &'a str, word: &mut impl FnMut(&'a str)) {
        split_by(self.splits, text, word);
    }
}

const DEEPSEEK_LLM: [Split; 6] =
    [newline, deepseek_cased, deepseek_punctuation, trailing_spaces, deepseek_east_asian, numbers];

const DEEPSEEK_CODER: [Split; 5] =
    [newline, spaced_letters, spaced_punctuation, deepseek_east_asian, one_number];

fn split_by<'a>(splits: &[Split], mut text: &'a str, word: &mut impl FnMut(&'a str)) {
    let Some((split, others)) = splits.split_first() else { return word(text) };
    while !text.is_empty() {
        let (first, rest) = text.split_at(split(text));
        split_by(others, first, word);
        text = rest;
    }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
fn gpt2(text: &str) -> usize {
    first_of(
        text,
        &[
            lowercase_contraction,
            |text| after_space(text, is_letter),
            |text| after_space(text, is_number),
            |text| after_space(text, is_symbol),
            spaces,
        ],
    )
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
/// ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
fn llama3(text: &str) -> usize {
    first_of(text, &[contraction, word, |text| other_than_words(text, 3, &['\r', '\n'])])
}

/// Llama 3's, with `\p{N}` for `\p{N}{1,3}`.
fn qwen2(text: &str) -> usize {
    first_of(text, &[contraction, word, |text| other_than_words(text, 1, &['\r', '\n'])])
}

/// Qwen 2's, without the contractions.
fn ufakzeka(text: &str) -> usize {
    first_of(text, &[word, |text| other_than_words(text, 1, &['\r', '\n'])])
}

/// Qwen 2's, without the `[\r\n]*`.
fn seed_coder(text: &str) -> usize {
    first_of(text, &[contraction, word, |text| other_than_words(text, 1, &[])])
}

/// `[^\r\n\p{L}\p{N}]?U*L+|[^\r\n\p{L}\p{N}]?U+L*|\p{N}|
/// ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
///
/// U are letters except a to z, L letters except A to Z.
fn tekken(text: &str) -> usize {
    first_of(text, &[cased_word, |text| other_than_words(text, 1, &['\r', '\n', '/'])])
}

/// Tekken's, with `(?i:'s|'t|'re|'ve|'m|'ll|'d)?` after words and `\p{N}{1,3}`.
fn gpt4o(text: &str) -> usize {
    match cased_word(text) {
        0 => other_than_words(text, 3, &['\r', '\n', '/']),
        word => word + contraction(&text[word..]),
    }
}

/// Tekken's own: U are `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]` and L `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`.
fn unicode_tekken(text: &str) -> usize {
    first_of(text, &[unicode_cased_word, |text| other_than_words(text, 1, &['\r', '\n', '/'])])
}

/// GPT-4o's own, likewise.
fn unicode_gpt4o(text: &str) -> usize {
    match unicode_cased_word(text) {
        0 => other_than_words(text, 3, &['\r', '\n', '/']),
        // U+017F is an s to whoever passes case over.
        word if text[word..].starts_with("'\u{17f}") => word + 3,
        word => word + contraction(&text[word..]),
    }
}

/// `\p{N}`
fn one_number(text: &str) -> usize {
    isolate(text, |text| at_most(text, 1, is_number))
}

/// `\p{N}{1,3}`
fn three_numbers(text: &str) -> usize {
    isolate(text, |text| at_most(text, 3, is_number))
}

/// `\p{N}+`
fn numbers(text: &str) -> usize {
    isolate(text, |text| run(text, is_number))
}

/// `[0-9][0-9][0-9]`
fn three_digits(text: &str) -> usize {
    isolate(text, |text| match at_most(text, 3, |c| c.is_ascii_digit()) {
        3 => 3,
        _ => 0,
    })
}

/// `[\p{P}\$\+<=>\^~\|]+`
fn default_punctuation(text: &str) -> usize {
    isolate(text, |text| run(text, is_ascii_symbol_or_punctuation))
}

/// ``[\p{P}\$\+<=>\^~\|`]+``
fn falcon_punctuation(text: &str) -> usize {
    isolate(text, |text| run(text, |c| is_ascii_symbol_or_punctuation(c) || c == '`'))
}

/// `[\r\n]`
fn newline(text: &str) -> usize {
    isolate(text, |text| at_most(text, 1, |c| matches!(c, '\r' | '\n')))
}

/// `[^\n]+|[\n]+`
fn newlines(text: &str) -> usize {
    isolate(text, |text| run(text, |c| c == '\n'))
}

/// `\s?\p{L}+`
fn spaced_letters(text: &str) -> usize {
    isolate(text, |text| after_any_space(text, is_letter))
}

/// `\s?\p{P}+`
fn spaced_punctuation(text: &str) -> usize {
    isolate(text, |text| after_any_space(text, |c| class(c) == Class::Punctuation))
}

/// `\s?[A-Za-z...]+`, a list of letters.
fn deepseek_cased(text: &str) -> usize {
    isolate(text, |text| after_any_space(text, is_cased_to_deepseek))
}

/// `\s?[!-/:-~！-／：-～‘-‟　-。]+`
fn deepseek_punctuation(text: &str) -> usize {
    let listed = |c| {
        matches!(c, '!'..='/' | ':'..='~' | '\u{ff01}'..='\u{ff0f}' | '\u{ff1a}'..='\u{ff5e}')
            || matches!(c, '\u{2018}'..='\u{201f}' | '\u{3001}'..='\u{3002}')
    };
    isolate(text, |text| after_any_space(text, listed))
}

/// `[一-龥ࠀ-一가-퟿]+`, without the spaces in these ranges.
fn deepseek_east_asian(text: &str) -> usize {
    let listed = |c| matches!(c, '\u{800}'..='\u{9fa5}' | '\u{ac00}'..='\u{d7ff}') && !is_space(c);
    isolate(text, |text| run(text, listed))
}

/// `\s+$`
fn trailing_spaces(text: &str) -> usize {
    match text.trim_end_matches(is_space).len() {
        0 => text.len(),
        others => others,
    }
}

/// ` ?[^(\s|.,!?…。，、।۔،)]+`
fn bloom(text: &str) -> usize {
    let listed = |c| {
        matches!(c, '(' | '|' | '.' | ',' | '!' | '?' | ')' | '\u{2026}' | '\u{3002}' | '\u{ff0c}')
            || matches!(c, '\u{3001}' | '\u{964}' | '\u{6d4}' | '\u{60c}')
            || is_space(c)
    };
    isolate(text, |text| after_space(text, |c| !listed(c)))
}

/// A text's first word, if what matches at its start is a word, and so is what lies between two
/// matches.
fn isolate(text: &str, match_at_start: impl Fn(&str) -> usize) -> usize {
    match match_at_start(text) {
        0 => {
            let mut starts = text.char_indices().map(|(start, _)| start).skip(1);
            starts.find(|&start| match_at_start(&text[start..]) > 0).unwrap_or(text.len())
        }
        length => length,
    }
}

/// The first alternative that matches, for each gives 0 if it doesn't.
///
/// One does where this is used: a character is a space, a letter, a number or none of these.
fn first_of(text: &str, alternatives: &[fn(&str) -> usize]) -> usize {
    alternatives.iter().map(|length| length(text)).find(|&length| length > 0).unwrap_or(text.len())
}

/// `'s|'t|'re|'ve|'m|'ll|'d`
fn lowercase_contraction(text: &str) -> usize {
    let length = contraction(text);
    if text.as_bytes()[..length].iter().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        length
    } else {
        0
    }
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
fn contraction(text: &str) -> usize {
    let Some(b'\'') = text.as_bytes().first() else { return 0 };
    let letter = |i| text.as_bytes().get(i).map(u8::to_ascii_lowercase);
    match (letter(1), letter(2)) {
        (Some(b's' | b't' | b'm' | b'd'), _) => 2,
        (Some(b'r' | b'v'), Some(b'e')) | (Some(b'l'), Some(b'l')) => 3,
        // A long s is an s in another case, which expressions know and llama.cpp doesn't.
        _ if text[1..].starts_with('\u{17f}') => 3,
        _ => 0,
    }
}

/// `[^\r\n\p{L}\p{N}]?\p{L}+`
fn word(text: &str) -> usize {
    let lead = word_lead(text);
    match run(&text[lead..], is_letter) {
        0 => 0,
        letters => lead + letters,
    }
}

/// `[^\r\n\p{L}\p{N}]?U*L+|[^\r\n\p{L}\p{N}]?U+L*`
fn cased_word(text: &str) -> usize {
    let lead = word_lead(text);
    let letters = &text[lead..];
    let upper = run(letters, |c| is_letter(c) && !c.is_ascii_lowercase());
    let lower = run(&letters[upper..], |c| is_letter(c) && !c.is_ascii_uppercase());
    if upper + lower == 0 {
        return 0;
    }
    if lower > 0 {
        return lead + upper + lower;
    }
    // Only U are left, and L+ needs one of them: the last that isn't A to Z. If all are, the second
    // alternative matches.
    let last = letters[..upper].rfind(|c: char| !c.is_ascii());
    lead + last.map_or(upper, |start| start + first_length(&letters[start..]))
}

/// [`cased_word`] with the classes of [`unicode_tekken`]. What leads may be a mark, which the word
/// may need itself.
fn unicode_cased_word(text: &str) -> usize {
    let is_upper = |c| matches!(case(c), Some(Case::Upper | Case::Neither));
    let is_lower = |c| matches!(case(c), Some(Case::Lower | Case::Neither));
    let starts = [word_lead(text), 0];
    for start in starts {
        let letters = &text[start..];
        let upper = run(letters, is_upper);
        let lower = run(&letters[upper..], is_lower);
        if lower > 0 {
            return start + upper + lower;
        }
        // L+ needs one of U: the last that is both.
        if let Some(last) = letters[..upper].rfind(is_lower) {
            return start + last + first_length(&letters[last..]);
        }
    }
    let upper_alone = |&start: &usize| run(&text[start..], is_upper) > 0;
    let start = starts.into_iter().find(upper_alone);
    start.map_or(0, |start| start + run(&text[start..], is_upper))
}

/// `[^\r\n\p{L}\p{N}]?`
fn word_lead(text: &str) -> usize {
    at_most(text, 1, |c| !matches!(c, '\r' | '\n') && !is_letter(c) && !is_number(c))
}

/// `\p{N}{1,n}| ?[^\s\p{L}\p{N}]+[tail]*|\s*[\r\n]+|\s+(?!\S)|\s+`
fn other_than_words(text: &str, n: usize, tail: &[char]) -> usize {
    let numbers = at_most(text, n, is_number);
    if numbers > 0 {
        return numbers;
    }
    let symbols = after_space(text, is_symbol);
    if symbols > 0 {
        return symbols + run(&text[symbols..], |c| tail.contains(&c));
    }
    match text[..run(text, is_space)].rfind(['\r', '\n']) {
        Some(newline) => newline + 1,
        None => spaces(text),
    }
}

/// `\s+(?!\S)|\s+`: leaves the last of several spaces to the word that follows.
fn spaces(text: &str) -> usize {
    let length = run(text, is_space);
    let last = text[..length].chars().next_back().map_or(0, char::len_utf8);
    if length < text.len() && length > last { length - last } else { length }
}

/// ` ?[kind]+`
fn after_space(text: &str, kind: impl Fn(char) -> bool) -> usize {
    let lead = usize::from(text.starts_with(' '));
    match run(&text[lead..], kind) {
        0 => 0,
        length => lead + length,
    }
}

/// `\s?[kind]+`
fn after_any_space(text: &str, kind: impl Fn(char) -> bool) -> usize {
    let lead = at_most(text, 1, is_space);
    match run(&text[lead..], kind) {
        0 => 0,
        length => lead + length,
    }
}

/// The length of the characters of a kind that a text begins with.
fn run(text: &str, kind: impl Fn(char) -> bool) -> usize {
    text.find(|c| !kind(c)).unwrap_or(text.len())
}

/// The length of the characters of a kind that a text begins with, at most `max`.
fn at_most(text: &str, count: usize, kind: impl Fn(char) -> bool) -> usize {
    text.chars().take(count).take_while(|&c| kind(c)).map(char::len_utf8).sum()
}

fn first_length(text: &str) -> usize {
    text.chars().next().map_or(0, char::len_utf8)
}

fn is_letter(c: char) -> bool {
    class(c) == Class::Letter
}

fn is_number(c: char) -> bool {
    class(c) == Class::Number
}

fn is_space(c: char) -> bool {
    class(c) == Class::Space
}

fn is_symbol(c: char) -> bool {
    matches!(class(c), Class::Punctuation | Class::Other)
}

fn is_ascii_symbol_or_punctuation(c: char) -> bool {
    class(c) == Class::Punctuation || matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
}

#[cfg(test)]
mod tests;
