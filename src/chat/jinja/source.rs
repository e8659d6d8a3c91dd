//! A template's text as it is run: bounded, and with what Hugging Face adds to Jinja.
//!
//! Invariant: what is run can't overflow the stack, whoever wrote it. The parser and whatever walks
//! or frees a value call themselves for each level, so expressions are short, their brackets and
//! `elif` few, and each value that gets a name goes through the filter [`BOUNDED`], which refuses
//! deep ones. Depth can't grow over the rounds of a loop then.

use crate::chat::tags::{code, inside, name, next_tag};
use crate::error::{Error, ErrorKind, Result};

/// The filter that refuses deep values. No template can have a filter of this name itself.
pub(super) const BOUNDED: &str = "babyllama_bounded";

/// The function that adds texts of which some are safe.
pub(super) const SUM: &str = "babyllama_sum";

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
    let (mut rest, mut n_elif) = (source, 0);
    while let Some((text, tag, after)) = next_tag(rest) {
        prepared.push_str(text);
        let line = || 1 + source[..source.len() - after.len() - tag.len()].matches('\n').count();
        let is_comment = tag.starts_with("{#");
        n_elif += usize::from(name(tag) == "elif");
        if n_elif > MAX_ELIF {
            return Err(refused(line(), format!("it has more than {MAX_ELIF} elif")));
        }
        if is_comment || name(tag) == "raw" {
            prepared.push_str(tag);
        } else {
            let pushed = check(tag).and_then(|()| push(tag, &mut prepared));
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

/// Whether a tag is of usual size.
fn check(tag: &str) -> Result<(), String> {
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
    Ok(())
}

/// Appends a tag as it is run.
fn push(tag: &str, prepared: &mut String) -> Result<(), String> {
    let (name, inside) = (name(tag), inside(tag));
    let at = inside.as_ptr() as usize - tag.as_ptr() as usize;
    let (open, close) = (&tag[..at], &tag[at + inside.len()..]);
    if !tag.starts_with("{%") {
        match terms(inside) {
            Some(terms) => prepared.push_str(&format!("{open} {SUM}({}) {close}", terms.join(", "))),
            None => prepared.push_str(tag),
        }
        return Ok(());
    }
    let start = inside.len() - inside.trim_start().len() + name.len();
    let rest = inside.get(start..).unwrap_or_default();
    match name {
        // Marks what the model said, for whoever trains one.
        "generation" => prepared.push_str(&format!("{open} if true {close}")),
        "endgeneration" => prepared.push_str(&format!("{open} endif {close}")),
        "set" => match rest.get(..).and_then(assignment) {
            Some((target, value)) => {
                prepared.push_str(&format!("{open} set {target}= ({value})|{BOUNDED} {close}"));
            }
            None => prepared.push_str(tag),
        },
        "macro" => {
            prepared.push_str(tag);
            for parameter in parameters(rest) {
                prepared.push_str(&format!("{{% set {parameter} = {parameter}|{BOUNDED} {close}"));
            }
        }
        "for" if rest.trim_end().ends_with("recursive") => {
            return Err("recursive loops aren't run".into());
        }
        "call" if rest.trim_start().starts_with('(') => {
            return Err("call blocks with parameters aren't run".into());
        }
        _ if BLOCKS.contains(&name) => prepared.push_str(tag),
        _ => return Err(format!("{{% {name} %}} isn't run")),
    }
    Ok(())
}

/// The terms of a sum of which some are safe, and nothing else.
fn terms(inside: &str) -> Option<Vec<&str>> {
    if !inside.contains("safe") {
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

/// The names of a macro's parameters.
fn parameters(rest: &str) -> Vec<&str> {
    let Some(open) = rest.find('(') else { return Vec::new() };
    let list = &rest[open + 1..];
    let end = code(list).find(|&(_, byte, depth)| byte == b')' && depth == 0);
    let list = &list[..end.map_or(list.len(), |(at, ..)| at)];
    let commas = code(list).filter(|&(_, byte, depth)| byte == b',' && depth == 0).map(|(at, ..)| at);
    let mut start = 0;
    let mut found = Vec::new();
    for end in commas.chain([list.len()]) {
        let name = list[start..end].split('=').next().unwrap_or_default().trim();
        found.extend((!name.is_empty()).then_some(name));
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
            ("{% set x %}y{% endset %}", "{% set x %}y{% endset %}"),
            ("{%- macro m() -%}x{% endmacro %}", "{%- macro m() -%}x{% endmacro %}"),
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
            ("{% include 'x' %}".into(), "the chat template, line 1: {% include %} isn't run"),
        ] {
            let error = prepare(&source).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
