//! The tags of a Jinja text: `{{ ... }}`, `{% ... %}` and `{# ... #}`.
//!
//! Invariant: they end where Jinja ends them. A tag's end doesn't count in a string or a bracket,
//! and what is raw has no tags.

/// The text before the next tag, the tag, and what comes after it. What is raw is one tag, from
/// `{% raw %}` to `{% endraw %}`.
pub(super) fn next_tag(jinja: &str) -> Option<(&str, &str, &str)> {
    let start = ["{{", "{%", "{#"].iter().filter_map(|tag| jinja.find(tag)).min()?;
    let (text, tag) = jinja.split_at(start);
    let mut end = end_of_tag(tag);
    if name(&tag[..end]) == "raw" {
        let mut rest = &tag[end..];
        end = tag.len();
        while let Some(at) = rest.find("{%") {
            rest = &rest[at..];
            let length = end_of_tag(rest);
            if name(&rest[..length]) == "endraw" {
                end = tag.len() - rest.len() + length;
                break;
            }
            rest = &rest[2..];
        }
    }
    Some((text, &tag[..end], &tag[end..]))
}

/// The length of the tag at the start of a text, which is all of it if the tag has no end.
fn end_of_tag(tag: &str) -> usize {
    if let Some(comment) = tag.strip_prefix("{#") {
        return comment.find("#}").map_or(tag.len(), |at| at + 4);
    }
    let end = if tag.starts_with("{{") { b'}' } else { b'%' };
    let bytes = tag.as_bytes();
    let mut code = code(&tag[2..]).map(|(at, byte, depth)| (at + 2, byte, depth));
    let found = code.find(|&(at, byte, depth)| depth == 0 && byte == end && bytes.get(at + 1) == Some(&b'}'));
    found.map_or(tag.len(), |(at, ..)| at + 2)
}

/// The bytes of an expression that are in none of its strings: where each is, and how many brackets
/// are open before it.
pub(super) fn code(text: &str) -> impl Iterator<Item = (usize, u8, isize)> {
    let (mut quote, mut is_escaped, mut depth) = (None, false, 0);
    text.bytes().enumerate().filter_map(move |(at, byte)| {
        if let Some(open) = quote {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                _ if byte == open => quote = None,
                _ => {}
            }
            return None;
        }
        let before = depth;
        match byte {
            b'\'' | b'"' => {
                quote = Some(byte);
                return None;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            _ => {}
        }
        Some((at, byte, before))
    })
}

/// What a tag has between its delimiters.
#[cfg(any(feature = "jinja", test))]
pub(super) fn inside(tag: &str) -> &str {
    let marks = ['-', '+'];
    let text = tag.get(2..).unwrap_or_default();
    let text = text.strip_suffix("%}").or(text.strip_suffix("}}")).or(text.strip_suffix("#}"));
    let text = text.unwrap_or(tag.get(2..).unwrap_or_default());
    let text = text.strip_prefix(marks).unwrap_or(text);
    text.strip_suffix(marks).unwrap_or(text)
}

/// The name of a block, such as `if`; nothing if the tag is none.
pub(super) fn name(tag: &str) -> &str {
    if !tag.starts_with("{%") {
        return "";
    }
    let text = tag[2..].trim_start_matches(['-', '+']).trim_start();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tags of a text, and what comes after the last one.
    fn tags(mut jinja: &str) -> Vec<&str> {
        let mut found = Vec::new();
        while let Some((_, tag, after)) = next_tag(jinja) {
            found.push(tag);
            jinja = after;
        }
        found.push(jinja);
        found
    }

    #[test]
    fn tags_end_where_jinja_ends_them() {
        for (jinja, expected) in [
            ("a{{ b }}c{%- d -%}e", vec!["{{ b }}", "{%- d -%}", "e"]),
            ("{{ '}}' ~ \"%}\\\"\" }}{# ' #}x", vec!["{{ '}}' ~ \"%}\\\"\" }}", "{# ' #}", "x"]),
            (
                "{{ {'a': {'b': 1}} }}{% set x = {'a': 5 % 3} %}",
                vec!["{{ {'a': {'b': 1}} }}", "{% set x = {'a': 5 % 3} %}", ""],
            ),
            (
                "{% raw %}{{ ' {% x %}{%- endraw -%}{{ y }}",
                vec!["{% raw %}{{ ' {% x %}{%- endraw -%}", "{{ y }}", ""],
            ),
            ("{% raw %} {{", vec!["{% raw %} {{", ""]),
            ("{{ 'a", vec!["{{ 'a", ""]),
            ("{{", vec!["{{", ""]),
            ("{# \u{e9}", vec!["{# \u{e9}", ""]),
            ("{{ ) }}x", vec!["{{ ) }}x", ""]),
        ] {
            assert_eq!(tags(jinja), expected, "{jinja}");
        }
        assert_eq!(["{%- if x %}", "{{ if }}", "{% \u{e9}", "{%"].map(name), ["if", "", "\u{e9}", ""]);
        assert_eq!(["{%- if x %}", "{{ x -}}", "{{", "{%+"].map(inside), [" if x ", " x ", "", ""]);
    }
}
