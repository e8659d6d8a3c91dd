//! Methods and filters of strings, as Python has them: which characters are white space, where a
//! line ends, what a word is.

use minijinja::value::{Kwargs, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Characters that a text is padded to at most: formats have widths of up to three digits.
const MAX_WIDTH: usize = 999;

/// A method of a string; nothing of those that the engine has as Python has them.
pub(super) fn method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(text, chars, name != "rstrip", name != "lstrip"))
        }
        "split" | "rsplit" => {
            let (separator, limit, kwargs): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = separator.or(kwargs.get("sep")?);
            let limit = limit.or(kwargs.get("maxsplit")?).and_then(|limit| usize::try_from(limit).ok());
            kwargs.assert_all_used()?;
            list(split(text, separator, limit.unwrap_or(usize::MAX), name == "rsplit")?)
        }
        "splitlines" => {
            let (keepends, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keepends = keepends.or(kwargs.get("keepends")?).unwrap_or(false);
            kwargs.assert_all_used()?;
            list(lines(text, keepends))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let is_last = name == "rpartition";
            let found = if is_last { text.rsplit_once(separator) } else { text.split_once(separator) };
            let parts = match found {
                Some((before, after)) => [before, separator, after],
                None if is_last => ["", "", text],
                None => [text, "", ""],
            };
            Value::from(minijinja::value::Tuple::from(parts.map(Value::from)))
        }
        "removeprefix" | "removesuffix" => {
            let (affix,): (&str,) = from_args(args)?;
            let rest =
                if name == "removeprefix" { text.strip_prefix(affix) } else { text.strip_suffix(affix) };
            Value::from(rest.unwrap_or(text))
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
        }
        "capitalize" => {
            let () = from_args(args)?;
            Value::from(capitalized(text))
        }
        "center" | "ljust" | "rjust" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            Value::from(padded(text, name, width, fill.unwrap_or(' '))?)
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
            let sign = &text[..text.len() - digits.len()];
            Value::from(sign.to_owned() + &padded(digits, "rjust", width.saturating_sub(sign.len()), '0')?)
        }
        "isspace" => {
            let () = from_args(args)?;
            Value::from(!text.is_empty() && text.chars().all(is_space))
        }
        _ => return Ok(None),
    }))
}

fn list(parts: Vec<&str>) -> Value {
    parts.into_iter().map(Value::from).collect()
}

/// Whether Python's `str.isspace` holds: Unicode's white space, and ASCII's four separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn strip<'a>(text: &'a str, chars: Option<&str>, at_start: bool, at_end: bool) -> &'a str {
    let is_cut = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if at_start { text.trim_start_matches(is_cut) } else { text };
    if at_end { text.trim_end_matches(is_cut) } else { text }
}

/// At most `limit + 1` parts, split from the start or from the end.
fn split<'a>(
    text: &'a str,
    separator: Option<&str>,
    limit: usize,
    from_end: bool,
) -> Result<Vec<&'a str>, Error> {
    let most = limit.saturating_add(1);
    let Some(separator) = separator else { return Ok(words(text, limit, from_end)) };
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "split: the separator is empty"));
    }
    if !from_end {
        return Ok(text.splitn(most, separator).collect());
    }
    let mut parts: Vec<&str> = text.rsplitn(most, separator).collect();
    parts.reverse();
    Ok(parts)
}

/// The words of a text, and beyond the limit what is left of it.
fn words(text: &str, limit: usize, from_end: bool) -> Vec<&str> {
    let mut rest = strip(text, None, !from_end, from_end);
    let mut words = Vec::new();
    while !rest.is_empty() {
        let space = if from_end { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = space.filter(|_| words.len() < limit) else {
            words.push(rest);
            break;
        };
        if from_end {
            let word = strip(&rest[at..], None, true, false);
            words.push(word);
            rest = strip(&rest[..at], None, false, true);
        } else {
            words.push(&rest[..at]);
            rest = strip(&rest[at..], None, true, false);
        }
    }
    if from_end {
        words.reverse();
    }
    words
}

/// The lines of a text, which end at more than newlines.
fn lines(text: &str, keepends: bool) -> Vec<&str> {
    let is_end = |c: char| matches!(c, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let (mut lines, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let length = rest.find(is_end).unwrap_or(rest.len());
        let end = match &rest[length..] {
            end if end.starts_with("\r\n") => 2,
            end => end.chars().next().map_or(0, char::len_utf8),
        };
        lines.push(&rest[..if keepends { length + end } else { length }]);
        rest = &rest[length + end..];
    }
    lines
}

/// A character as the first of a title. Digraphs have letters of their own for that.
fn title_case(c: char) -> String {
    match c {
        '\u{1c4}'..='\u{1c6}' => return '\u{1c5}'.into(),
        '\u{1c7}'..='\u{1c9}' => return '\u{1c8}'.into(),
        '\u{1ca}'..='\u{1cc}' => return '\u{1cb}'.into(),
        '\u{1f1}'..='\u{1f3}' => return '\u{1f2}'.into(),
        // Georgian has no titles.
        '\u{10d0}'..='\u{10fa}' | '\u{10fd}'..='\u{10ff}' => return c.into(),
        _ => {}
    }
    let mut upper = c.to_uppercase();
    let first = upper.next().into_iter();
    // `SS` of a sharp s.
    first.chain(upper.flat_map(char::to_lowercase)).collect()
}

/// `str.capitalize`.
pub(super) fn capitalized(text: &str) -> String {
    let Some(first) = text.chars().next() else { return String::new() };
    // In lower case as a whole, since a last sigma is another than the first.
    let lower = text.to_lowercase();
    let first_lower: usize = first.to_lowercase().map(char::len_utf8).sum();
    title_case(first) + &lower[first_lower..]
}

/// `str.title`: words are letters that have cases.
fn title(text: &str) -> String {
    let has_case = |c: char| c.is_lowercase() || c.is_uppercase() || !c.to_lowercase().eq([c]);
    let mut title = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(has_case) {
        title.push_str(&rest[..start]);
        let word = &rest[start..];
        let end = word.find(|c| !has_case(c)).unwrap_or(word.len());
        title.push_str(&capitalized(&word[..end]));
        rest = &word[end..];
    }
    title + rest
}

/// Jinja's filter `title`: words end at spaces, hyphens and opening brackets.
pub(super) fn title_of_words(text: &str) -> String {
    let is_between = |c: char| is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    let words = text.split_inclusive(is_between).map(|word| {
        let first = word.chars().next().map_or(0, char::len_utf8);
        word[..first].to_uppercase() + &word[first..].to_lowercase()
    });
    words.collect()
}

/// Jinja's filter `trim`.
pub(super) fn trim(text: &str, chars: Option<&str>) -> Value {
    Value::from(strip(text, chars, true, true))
}

fn padded(text: &str, how: &str, width: usize, fill: char) -> Result<String, Error> {
    if width > MAX_WIDTH {
        let reason = format!("{how}: a width has more than three digits");
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    let n = width.saturating_sub(text.chars().count());
    let before = match how {
        "ljust" => 0,
        "rjust" => n,
        _ => n / 2 + (n & width & 1),
    };
    let fill = |n: usize| std::iter::repeat_n(fill, n).collect::<String>();
    Ok(fill(before) + text + &fill(n - before))
}

/// Jinja's filter `indent`.
pub(super) fn indent(
    state: &State<'_, '_>,
    text: &str,
    args: &[Value],
    kwargs: &Kwargs,
) -> Result<String, Error> {
    let (width, first, blank): (Option<Value>, Option<bool>, Option<bool>) = from_args(args)?;
    let width = width.or(kwargs.get("width")?).unwrap_or(Value::from(4));
    let first = first.or(kwargs.get("first")?).unwrap_or(false);
    let blank = blank.or(kwargs.get("blank")?).unwrap_or(false);
    kwargs.assert_all_used()?;
    let indention = match width.as_str() {
        Some(text) => text.to_owned(),
        None => padded("", "indent", usize::try_from(width.as_i64().unwrap_or(0)).unwrap_or(0), ' ')?,
    };
    let text = text.to_owned() + "\n";
    let lines = lines(&text, false);
    state.consume_fuel((lines.len() * indention.len() / 64) as u64)?;
    let mut indented = String::with_capacity(text.len() + lines.len() * indention.len());
    for (i, line) in lines.into_iter().enumerate() {
        if i > 0 {
            indented.push('\n');
        }
        let is_indented = if i == 0 { first } else { blank || !line.is_empty() };
        indented.push_str(if is_indented { &indention } else { "" });
        indented.push_str(line);
    }
    Ok(indented)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a method gives, as Python writes it.
    fn called(text: &str, name: &str, args: &[Value]) -> String {
        format!("{:?}", method(text, name, args).unwrap().unwrap())
    }

    #[test]
    fn methods_are_pythons() {
        let (none, two) = (&[][..], Value::from(2));
        let text = |text: &str| Value::from(text);
        // Of Python 3.12.
        for (string, name, args, expected) in [
            ("\x1c a\u{2028}", "strip", none, "'a'"),
            (" a ", "rstrip", none, "' a'"),
            ("xyx", "lstrip", &[text("xz")], "'yx'"),
            ("  a \x1f b  c ", "split", none, "['a', 'b', 'c']"),
            (" a b  c ", "split", &[Value::from(()), Value::from(1)], "['a', 'b  c ']"),
            (" a b  c ", "rsplit", &[Value::from(()), Value::from(1)], "[' a b', 'c']"),
            ("a,b,,c", "split", &[text(","), two.clone()], "['a', 'b', ',c']"),
            ("a,b,,c", "rsplit", &[text(","), two.clone()], "['a,b', '', 'c']"),
            ("", "split", none, "[]"),
            ("a\nb\r\nc\rd\u{85}e\x0bf\n\n", "splitlines", none, "['a', 'b', 'c', 'd', 'e', 'f', '']"),
            ("a\r\nb", "splitlines", &[Value::from(true)], "['a\\r\\n', 'b']"),
            ("a-b-c", "partition", &[text("-")], "('a', '-', 'b-c')"),
            ("a-b-c", "rpartition", &[text("-")], "('a-b', '-', 'c')"),
            ("abc", "rpartition", &[text("-")], "('', '', 'abc')"),
            ("abc", "removeprefix", &[text("ab")], "'c'"),
            ("abc", "removesuffix", &[text("ab")], "'abc'"),
            ("it's ǆ ß aΣ", "title", none, "\"It'S ǅ Ss Aς\""),
            ("ßA bC", "capitalize", none, "'Ssa bc'"),
            ("ab", "center", &[Value::from(5)], "'  ab '"),
            ("abc", "center", &[Value::from(6), text("*")], "'*abc**'"),
            ("-7", "zfill", &[Value::from(5)], "'-0007'"),
            ("\x1c", "isspace", none, "True"),
        ] {
            assert_eq!(called(string, name, args), expected, "{string:?}.{name}");
        }
        assert_eq!(title_of_words("it's (a) b-c"), "It's (A) B-C");
    }

    #[test]
    fn what_python_refuses_is_refused() {
        assert!(method("a", "split", &[Value::from("")]).is_err());
        assert!(method("a", "center", &[Value::from(1000)]).is_err());
        assert!(method("a", "upper", &[]).unwrap().is_none());
    }
}
