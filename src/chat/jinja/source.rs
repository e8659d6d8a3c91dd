//! A template's text as it is run: bounded, and with what Hugging Face adds to Jinja.
//!
//! Invariant: what is run can't overflow the stack, whoever wrote it. The parser and whatever walks
//! or frees a value call themselves for each level, so expressions are short, their brackets and
//! `elif` few, and each value that gets a name goes through the filter [`BOUNDED`], which refuses
//! deep ones. Depth can't grow over the rounds of a loop then.

use std::borrow::Cow;

use crate::chat::tags::{code, inside, name, next_tag};
use crate::error::{Error, ErrorKind, Result};

/// The filter that refuses deep values. No template can have a filter of this name itself.
pub(super) const BOUNDED: &str = "babyllama_bounded";

/// The function that adds texts of which some are safe.
pub(super) const SUM: &str = "babyllama_sum";

/// A variable that is undefined.
const NOTHING: &str = "babyllama_nothing";

/// Bytes of a template. Published ones have up to 17,000.
const MAX_LENGTH: usize = 1 << 18;
/// Bytes of a tag without its strings and its spaces. Published templates have up to 260.
const MAX_CODE: usize = 1500;
/// Brackets that are open at a time.
const MAX_BRACKETS: isize = 24;
/// How many `elif` a template has. Published ones have up to 20.
const MAX_ELIF: usize = 100;

/// The blocks that are run. Others would need files, or give names to values by other ways.
const BLOCKS: [&str; 20] = [
    "if",
    "elif",
    "else",
    "endif",
    "for",
    "endfor",
    "set",
    "endset",
    "macro",
    "endmacro",
    "call",
    "endcall",
    "filter",
    "endfilter",
    "break",
    "continue",
    "generation",
    "endgeneration",
    "raw",
    "do",
];

/// The template as it is run.
pub(super) fn prepare(source: &str) -> Result<String> {
    if source.len() > MAX_LENGTH {
        return Err(refused(1, format!("it has {} bytes, and at most {MAX_LENGTH} are run", source.len())));
    }
    let mut prepared = String::with_capacity(source.len() * 5 / 4);
    let (mut rest, mut n_elif, mut n_macros) = (source, 0, 0);
    while let Some((text, tag, after)) = next_tag(rest) {
        prepared.push_str(text);
        let line = || 1 + source[..source.len() - after.len() - tag.len()].matches('\n').count();
        let is_comment = tag.starts_with("{#");
        n_elif += usize::from(name(tag) == "elif");
        if n_elif > MAX_ELIF {
            return Err(refused(line(), format!("it has more than {MAX_ELIF} elif")));
        }
        match name(tag) {
            "macro" => n_macros += 1,
            "endmacro" => n_macros -= 1,
            _ => {}
        }
        if name(tag) == "raw" {
            push_raw(tag, &mut prepared);
        } else if is_comment {
            prepared.push_str(tag);
        } else {
            let pushed = check(tag, n_macros > 0).and_then(|()| push(tag, &mut prepared));
            pushed.map_err(|reason| refused(line(), reason))?;
        }
        rest = after;
    }
    prepared.push_str(rest);
    Ok(prepared)
}

fn refused(line: usize, reason: String) -> Error {
    ErrorKind::ChatTemplate { line, reason }.into()
}

/// Appends what is raw. Jinja keeps a newline after `{% raw %}`, the engine takes it away.
fn push_raw(tag: &str, prepared: &mut String) {
    let end = tag.find("%}").map_or(tag.len(), |at| at + 2);
    let (open, rest) = tag.split_at(end);
    let is_taken = rest.starts_with('\n') && !open.ends_with("-%}") && !open.ends_with("+%}");
    prepared.extend([open, if is_taken { "\n" } else { "" }, rest]);
}

/// Whether a tag is of usual size, and what it names is known.
fn check(tag: &str, is_in_macro: bool) -> Result<(), String> {
    let (mut n, mut deepest) = (0, 0);
    for (_, byte, depth) in code(tag.get(2..).unwrap_or_default()) {
        n += usize::from(!byte.is_ascii_whitespace());
        deepest = deepest.max(depth);
    }
    if n > MAX_CODE {
        let most = format!("at most {MAX_CODE} are run");
        return Err(format!("an expression has {n} characters beside its strings, and {most}"));
    }
    if deepest > MAX_BRACKETS {
        return Err(format!("more than {MAX_BRACKETS} brackets are open"));
    }
    match ["varargs", "kwargs"].into_iter().find(|name| is_in_macro && names(tag, name)) {
        Some(name) => Err(format!("a macro's {name} aren't known")),
        None => Ok(()),
    }
}

/// Whether an expression names a variable.
fn names(code_with_strings: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let blank = |text: &str| {
        let mut bytes = vec![b' '; text.len()];
        code(text).for_each(|(at, byte, _)| bytes[at] = byte);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    blank(code_with_strings).split(|c| !is_word(c)).any(|word| word == name)
}

/// Appends a tag as it is run.
fn push(tag: &str, prepared: &mut String) -> Result<(), String> {
    let (name, inside) = (name(tag), inside(tag));
    let at = inside.as_ptr() as usize - tag.as_ptr() as usize;
    let (open, close) = (&tag[..at], &tag[at + inside.len()..]);
    let inside = &*plain_strings(inside)?;
    if !tag.starts_with("{%") {
        match terms(inside) {
            Some(terms) => prepared.push_str(&format!("{open} {SUM}({}) {close}", terms.join(", "))),
            None => prepared.extend([open, inside, close]),
        }
        return Ok(());
    }
    let start = inside.len() - inside.trim_start().len() + name.len();
    let rest = inside.get(start..).unwrap_or_default();
    match name {
        // Marks what the model said, for whoever trains one.
        "generation" => prepared.push_str(&format!("{open} if true {close}")),
        "endgeneration" => prepared.push_str(&format!("{open} endif {close}")),
        "set" => match assignment(rest) {
            Some((target, value)) => {
                prepared.push_str(&format!("{open} set {target}= ({value})|{BOUNDED} {close}"));
            }
            // What is set inside isn't known outside.
            None => prepared.extend([open, inside, close, "{% with ", close]),
        },
        "filter" => prepared.extend([open, inside, close, "{% with ", close]),
        "endset" | "endfilter" => prepared.extend([open, " endwith %}{% ", name, " ", close]),
        "macro" => push_macro([open, rest, close], prepared),
        "for" if rest.trim_end().ends_with("recursive") => {
            return Err("recursive loops aren't run".into());
        }
        "call" if rest.trim_start().starts_with('(') => {
            return Err("call blocks with parameters aren't run".into());
        }
        _ if BLOCKS.contains(&name) => prepared.extend([open, inside, close]),
        _ => return Err(format!("{{% {name} %}} isn't run")),
    }
    Ok(())
}

/// Appends the beginning of a macro. A default may name parameters before its own, which the
/// engine doesn't know yet where it takes it.
fn push_macro([open, rest, close]: [&str; 3], prepared: &mut String) {
    let parameters = parameters(rest);
    let is_late = |i: usize, default: &str| parameters[..i].iter().any(|(name, _)| names(default, name));
    let mut signature = rest.to_owned();
    let mut values = String::new();
    for (i, &(name, default)) in parameters.iter().enumerate().rev() {
        let mut value = name.to_owned();
        if let Some(default) = default.filter(|default| is_late(i, default)) {
            let at = default.as_ptr() as usize - rest.as_ptr() as usize;
            signature.replace_range(at..at + default.len(), NOTHING);
            value = format!("(({default}) if {name} is undefined else {name})");
        }
        values.insert_str(0, &format!("{{% set {name} = {value}|{BOUNDED} {close}"));
    }
    prepared.extend([open, " macro", &*signature, close, &*values]);
}

/// The inside of a tag with its strings as the engine reads them: the escapes are Python's.
fn plain_strings(inside: &str) -> Result<Cow<'_, str>, String> {
    if !inside.contains('\\') {
        return Ok(inside.into());
    }
    let mut plain = String::with_capacity(inside.len());
    let (mut quote, mut rest) = (None, inside);
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), _) if c == open => quote = None,
            (Some(_), '\\') => {
                let (found, length) = escaped(rest).ok_or("a string has an escape that isn't known")?;
                rest = &rest[length..];
                match found {
                    Some('\\') => plain.push_str("\\\\"),
                    Some(c) if quote == Some(c) => plain.extend(['\\', c]),
                    Some(c) => plain.push(c),
                    None => {}
                }
                continue;
            }
            _ => {}
        }
        plain.push(c);
    }
    Ok(plain.into())
}

/// What an escape stands for after its backslash, which is nothing for the end of a line and the
/// backslash for what is no escape, and its length.
fn escaped(rest: &str) -> Option<(Option<char>, usize)> {
    let number = |at: usize, digits: usize, radix: u32| {
        let code = u32::from_str_radix(rest.get(at..at + digits)?, radix).ok()?;
        Some((Some(char::from_u32(code)?), at + digits))
    };
    let octal = rest.bytes().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    let c = match rest.chars().next()? {
        '\n' => return Some((None, 1)),
        c @ ('\\' | '\'' | '"') => c,
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        '0'..='7' => return number(0, octal, 8),
        'x' => return number(1, 2, 16),
        'u' => return number(1, 4, 16),
        'U' => return number(1, 8, 16),
        'N' => return None,
        _ => return Some((Some('\\'), 0)),
    };
    Some((Some(c), 1))
}

/// The terms of a sum of which some are safe, and nothing else.
fn terms(inside: &str) -> Option<Vec<&str>> {
    let makes_safe = |filter: &str| {
        let name = filter.trim_start().split(|c: char| !c.is_alphanumeric() && c != '_').next();
        name.is_some_and(|name| ["e", "escape", "forceescape", "safe"].contains(&name))
    };
    if !inside.split('|').skip(1).any(makes_safe) {
        return None;
    }
    let is_other =
        |byte: u8| matches!(byte, b'<' | b'>' | b'=' | b'!' | b'~' | b'-' | b'*' | b'/' | b'%' | b',');
    let top = || code(inside).filter(|&(_, _, depth)| depth == 0);
    let words: String = top().map(|(_, byte, _)| byte as char).collect();
    let keywords = ["if", "else", "and", "or", "in", "is", "not"];
    if top().any(|(_, byte, _)| is_other(byte))
        || words.split_whitespace().any(|word| keywords.contains(&word))
    {
        return None;
    }
    let mut start = 0;
    let mut found = Vec::new();
    for end in top().filter(|&(_, byte, _)| byte == b'+').map(|(at, ..)| at).chain([inside.len()]) {
        found.push(inside[start..end].trim());
        start = (end + 1).min(inside.len());
    }
    (found.len() > 1 && found.iter().all(|term| !term.is_empty())).then_some(found)
}

/// What is set, and to what, if that stands in the tag.
fn assignment(rest: &str) -> Option<(&str, &str)> {
    let (at, ..) = code(rest).find(|&(_, byte, depth)| byte == b'=' && depth == 0)?;
    let (target, value) = (&rest[..at], &rest[at + 1..]);
    (!value.trim().is_empty()).then_some((target, value))
}

/// A macro's parameters and their defaults.
fn parameters(rest: &str) -> Vec<(&str, Option<&str>)> {
    let Some(open) = rest.find('(') else { return Vec::new() };
    let list = &rest[open + 1..];
    let end = code(list).find(|&(_, byte, depth)| byte == b')' && depth == 0);
    let list = &list[..end.map_or(list.len(), |(at, ..)| at)];
    let commas = code(list).filter(|&(_, byte, depth)| byte == b',' && depth == 0).map(|(at, ..)| at);
    let mut start = 0;
    let mut found = Vec::new();
    for end in commas.chain([list.len()]) {
        let (name, default) = match list[start..end].split_once('=') {
            Some((name, default)) => (name.trim(), Some(default.trim())),
            None => (list[start..end].trim(), None),
        };
        found.extend((!name.is_empty()).then_some((name, default)));
        start = (end + 1).min(list.len());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_bounded_values_and_spaces_stay() {
        for (source, expected) in [
            ("a{{ b }}c", "a{{ b }}c"),
            ("{%- set x = a if b == c -%}", "{%- set  x = ( a if b == c )|babyllama_bounded -%}"),
            ("{% set a.b, c='=', 2 %}", "{% set  a.b, c= ('=', 2 )|babyllama_bounded %}"),
            ("{{- a|safe + f(b + 1) }}", "{{- babyllama_sum(a|safe, f(b + 1)) }}"),
            ("{{ a|safe + b if c }}{{ a + b }}", "{{ a|safe + b if c }}{{ a + b }}"),
            ("{%- set x -%} y {%- endset %}", "{%- set x -%}{% with -%} y {%- endwith %}{% endset %}"),
            ("{%- macro m() -%}x{% endmacro %}", "{%- macro m() -%}x{% endmacro %}"),
            (
                "{% macro m(a, b='a', c=a + 1) %}",
                "{% macro m(a, b='a', c=babyllama_nothing) %}{% set a = a|babyllama_bounded %}\
                 {% set b = b|babyllama_bounded %}\
                 {% set c = ((a + 1) if c is undefined else c)|babyllama_bounded %}",
            ),
            (r#"{{ '\/\a\'\x41' + "\"'\102\\" }}"#, "{{ '\\\\/\x07\\'A' + \"\\\"'B\\\\\" }}"),
            ("{% raw %}\n{{", "{% raw %}\n\n{{"),
            ("{%- raw -%}\n{{", "{%- raw -%}\n{{"),
            ("{{ n_safe + 1 }}", "{{ n_safe + 1 }}"),
            ("{{ a | e + b }}", "{{ babyllama_sum(a | e, b) }}"),
            (
                "{% macro m(a, b=[',)', 2]) -%}",
                "{% macro m(a, b=[',)', 2]) -%}{% set a = a|babyllama_bounded -%}{% set b = b|babyllama_bounded -%}",
            ),
            ("{%- generation -%}x{% endgeneration %}", "{%- if true -%}x{% endif %}"),
            (
                "{# set x = 1 #}{% raw %}{% set x = 1 %}{% endraw %}",
                "{# set x = 1 #}{% raw %}{% set x = 1 %}{% endraw %}",
            ),
        ] {
            assert_eq!(prepare(source).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn what_could_overflow_the_stack_is_refused() {
        for (source, expected) in [
            (
                format!("\n{{{{ {}1 }}}}", "-".repeat(2000)),
                "the chat template, line 2: an expression has 2003 char",
            ),
            (
                format!("{{{{ {}1", "(".repeat(30)),
                "the chat template, line 1: more than 24 brackets are open",
            ),
            (
                format!("{{% if a %}}{}", "{% elif b %}".repeat(101)),
                "the chat template, line 1: it has more than",
            ),
            (" ".repeat(1 << 19), "the chat template, line 1: it has 524288 bytes"),
            ("{% for x in y recursive %}".into(), "the chat template, line 1: recursive loops aren't run"),
            ("{% call(x) f() %}".into(), "the chat template, line 1: call blocks with parameters aren't run"),
            (r"{{ '\N{DIGIT ONE}' }}".into(), "the chat template, line 1: a string has an escape"),
            (r"{{ '\x4' }}".into(), "the chat template, line 1: a string has an escape"),
            (
                "{% macro m() %}{{ varargs }}".into(),
                "the chat template, line 1: a macro's varargs aren't known",
            ),
            ("{% include 'x' %}".into(), "the chat template, line 1: {% include %} isn't run"),
        ] {
            let error = prepare(&source).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
