//! What a Jinja text says literally, without running it.

use super::tags::next_tag;

/// Where a text has more than one value, or none that can be known.
type Value = Option<String>;

/// A literal of a Jinja text, or what stands between its tags.
#[derive(Debug)]
pub(super) struct Literal {
    /// Without its escapes; `None` if it has one that isn't known.
    text: Value,
    /// The variable that is appended to it, if one is.
    then: Option<String>,
    /// The variable that this is the whole value of, if there is one.
    of: Option<String>,
}

/// The literals that a conversation without tools may write, in their order.
pub(super) fn literals(jinja: &str) -> Vec<Literal> {
    let mut found = Vec::new();
    // For each block that is open whether it is about tools and the like.
    let mut blocks: Vec<bool> = Vec::new();
    let mut rest = jinja;
    while let Some((text, tag, after)) = next_tag(rest) {
        let is_written = !blocks.contains(&true);
        if is_written {
            found.extend(raw(text));
        }
        let words = tag.get(2..).unwrap_or_default().trim_start_matches(['-', '+']).trim_start();
        if tag.starts_with("{%") {
            follow(&mut blocks, words);
        }
        let is_comment = tag.starts_with("{#") || words.contains("raise_exception");
        if is_written && !is_comment && !blocks.contains(&true) {
            found.extend(of_tag(words));
        }
        rest = after;
    }
    if !blocks.contains(&true) {
        found.extend(raw(rest));
    }
    found
}

/// Keeps the blocks that are open.
fn follow(blocks: &mut Vec<bool>, words: &str) {
    let is_special = || {
        let has = ["tool", "document", "function"].iter().any(|word| words.contains(word));
        has && !words.contains(" not ")
    };
    match words.split(|c: char| !c.is_ascii_alphabetic()).next() {
        Some("if" | "for" | "macro") => blocks.push(is_special()),
        Some("elif" | "else") => {
            blocks.pop();
            blocks.push(is_special());
        }
        Some("endif" | "endfor" | "endmacro") => drop(blocks.pop()),
        _ => {}
    }
}

/// Every string in the tags of a Jinja text.
#[cfg(feature = "jinja")]
pub(super) fn strings(jinja: &str) -> Vec<String> {
    let (mut found, mut rest) = (Vec::new(), jinja);
    while let Some((_, tag, after)) = next_tag(rest) {
        if !tag.starts_with("{#") {
            found.extend(of_tag(tag).into_iter().filter_map(|literal| literal.text));
        }
        rest = after;
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn raw(text: &str) -> Option<Literal> {
    (!text.trim().is_empty()).then(|| Literal { text: Some(text.into()), then: None, of: None })
}

/// The literals within a tag.
fn of_tag(words: &str) -> Vec<Literal> {
    let mut found = Vec::new();
    let mut rest = words;
    let mut before = "";
    while let Some(start) = rest.find(['\'', '"']) {
        let code = &rest[..start];
        let (text, after) = unescape(&rest[start + 1..], rest.as_bytes()[start] as char);
        let name = |code: &str| {
            let name = code.trim().split(|c: char| !(c.is_alphanumeric() || c == '_')).next();
            name.filter(|name| !name.is_empty()).map(str::to_owned)
        };
        let then = after.trim_start().strip_prefix(['+', '~']).and_then(name);
        // `set x = 'text'`, and nothing more.
        let is_whole = after.trim_end_matches(['%', '}', '-', '+']).trim().is_empty();
        let of = code.strip_prefix("set ").filter(|_| before.is_empty() && is_whole);
        let of = of.and_then(|code| code.trim().strip_suffix('=')).and_then(name);
        found.push(Literal { text, then, of });
        (before, rest) = (code, after);
    }
    found
}

/// A literal's text, and what comes after it.
fn unescape(literal: &str, quote: char) -> (Value, &str) {
    let mut text = Some(String::new());
    let mut chars = literal.char_indices();
    while let Some((at, c)) = chars.next() {
        let c = match c {
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => Some('\n'),
                Some('t') => Some('\t'),
                Some(c @ ('\\' | '\'' | '"')) => Some(c),
                _ => None,
            },
            c if c == quote => return (text, &literal[at + 1..]),
            c => Some(c),
        };
        match (c, &mut text) {
            (Some(c), Some(text)) => text.push(c),
            _ => text = None,
        }
    }
    (text, "")
}

/// The system prompt of `ChatML` that stands in a Jinja text: a literal, or a variable that has
/// one.
pub(super) fn chatml_system(jinja: &str) -> Value {
    const BEGIN: &str = "<|im_start|>system\n";
    let literals = literals(jinja);
    let values = |name: &str| {
        let of_name = literals.iter().filter(|literal| literal.of.as_deref() == Some(name));
        let mut values: Vec<_> = of_name.map(|literal| literal.text.clone()).collect();
        values.retain(|value| value.as_deref() != Some(""));
        values.dedup();
        values
    };
    let content = |literal: &Literal| {
        let (_, content) = literal.text.as_deref()?.split_once(BEGIN)?;
        let content = match (content.split_once("<|im_end|>"), &literal.then) {
            (Some((content, _)), _) => Some(content.to_owned()),
            (None, Some(name)) if content.is_empty() => match &*values(name) {
                [value] => value.clone(),
                _ => None,
            },
            _ => None,
        };
        content.filter(|content| !content.is_empty() && !content.contains(['{', '}']))
    };
    literals.iter().find_map(content)
}

/// The first words of a Jinja text that a conversation without tools may have, and that none of
/// these texts has.
pub(super) fn prose(jinja: &str, written: &[&str]) -> Value {
    let is_prose = |text: &&str| text.chars().count() >= 20 && text.split_whitespace().count() > 2;
    let of_literal = |literal: Literal| {
        let mut text = literal.text?;
        for known in written.iter().filter(|known| !known.trim().is_empty()) {
            text = text.replace(known, "\0");
        }
        text.split('\0').map(str::trim).find(is_prose).map(str::to_owned)
    };
    literals(jinja).into_iter().find_map(of_literal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_are_cut_or_nested_do_no_harm() {
        for jinja in ["{{", "{% '", "{# \u{e9}", "{{ '\\", "{{ '}}' }}\u{e9}", "{% if x %}{{\u{e9}", "'a"] {
            literals(jinja);
        }
        assert_eq!(literals("{{ '}}' }}{# ' #}{{ \"x\" }}").len(), 2);
    }

    #[test]
    fn prose_is_what_a_conversation_without_tools_may_have() {
        let words = "You are a very kind assistant.";
        for (jinja, expected) in [
            (format!("{{{{ '{words}' }}}}"), Some(words)),
            (format!("{{% if not messages %}}{words}{{% endif %}}"), Some(words)),
            (format!("{{% set s = '{words}' %}}"), Some(words)),
            (format!("{{{{ raise_exception('{words}') }}}}"), None),
            (format!("{{# {words} #}}"), None),
            (format!("{{% if tools %}}{{{{ '{words}' }}}}{{% else %}}x{{% endif %}}"), None),
            (format!("{{% if tools %}}x{{% else %}}{{{{ '{words}' }}}}{{% endif %}}"), Some(words)),
            ("{{ 'You know' + '<|start_header_id|>assistant<|end_header_id|>' }}".into(), None),
        ] {
            assert_eq!(prose(&jinja, &[]).as_deref(), expected, "{jinja}");
            assert_eq!(prose(&jinja, &[words]), None);
        }
    }
}
