//! What templates take from Python, as `transformers` gives it to them.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::SystemTime;

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::disguise::PRIVATE;
use super::numbers::{self, Exponent, exponent, float};
use super::object::{Fields, Printed, is_namespace};
use super::source::{BOUNDED, SUM};
use super::strings;
use super::time::strftime;

/// A variable that tells whether the texts are in disguise.
pub(super) const DISGUISED: &str = "babyllama_disguised";
/// Levels of a value that has a name.
const MAX_DEPTH: usize = 64;

/// What a template raised.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// Adds filters, functions and methods. Time stands still while a conversation goes on.
pub(super) fn add_to(env: &mut Environment<'_>, now: SystemTime) {
    env.add_filter("tojson", to_json);
    env.add_filter(BOUNDED, bounded);
    add_filters(env);
    env.add_function(SUM, sum);
    env.add_test("number", |value: &Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool) || Exponent::number(value).is_some()
    });
    env.add_test("float", |value: &Value| float(value).is_some());
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    // What has a length and is indexed; Jinja's undefined value too.
    env.add_test("sequence", |value: &Value| match value.kind() {
        ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined => true,
        ValueKind::Iterable => value.len().is_some(),
        _ => false,
    });
    env.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        let raised = Raised(message.to_string());
        Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(raised))
    });
    env.add_function("strftime_now", move |format: &str| strftime(format, now));
    env.set_unknown_method_callback(method);
    env.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::Number => {
            Ok(write!(out, "{}", Printed(value))?)
        }
        _ => minijinja::escape_formatter(out, state, value),
    });
}

/// Filters that the engine has otherwise, or not at all.
fn add_filters(env: &mut Environment<'_>) {
    for name in ["e", "escape"] {
        env.add_filter(name, |value: &Value| match value.is_safe() {
            true => value.clone(),
            false => Value::from_safe_string(escape(&value.to_string())),
        });
    }
    // Doesn't break lines where Python's does.
    env.remove_filter("pprint");
    env.add_filter("forceescape", |value: &Value| Value::from_safe_string(escape(&value.to_string())));
    env.add_filter("trim", |text: Cow<'_, str>, chars: Option<&str>| strings::trim(&text, chars));
    env.add_filter("title", |text: Cow<'_, str>| strings::title_of_words(&text));
    env.add_filter("capitalize", |text: Cow<'_, str>| strings::capitalized(&text));
    let indent = |state: &State<'_, '_>, text: Cow<'_, str>, args: Rest<Value>, kwargs: Kwargs| {
        strings::indent(state, &text, &args, &kwargs)
    };
    env.add_filter("indent", indent);
    env.add_filter("attr", attribute);
    env.add_filter("int", numbers::int);
    env.add_filter("float", numbers::to_float);
    env.add_filter("round", numbers::round);
    env.add_filter("string", |value: &Value| match value.kind() {
        ValueKind::String => value.clone(),
        _ => Value::from(Printed(value).to_string()),
    });
}

/// What `getattr` finds: a map's methods, and not its fields.
fn attribute(value: &Value, name: &str) -> Result<Value, Error> {
    match value.downcast_object::<Fields>() {
        Some(fields) => Ok(fields.attribute(name).unwrap_or_default()),
        None if value.kind() == ValueKind::Map && !is_namespace(value) => Ok(Value::UNDEFINED),
        None => value.get_attr(name),
    }
}

/// A text for HTML, with the entities that Python's markupsafe has.
fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('\'', "&#39;").replace('"', "&#34;")
}

/// A sum of texts of which some are safe, as markupsafe has it: what isn't safe is escaped once it
/// meets what is.
fn sum(terms: Rest<Value>) -> Value {
    let mut terms = terms.0.into_iter();
    let mut sum = terms.next().unwrap_or_default();
    for term in terms {
        let is_safe = sum.is_safe() || term.is_safe();
        let escaped = |value: &Value| match value.is_safe() || !is_safe {
            true => value.to_string(),
            false => escape(&value.to_string()),
        };
        let text = escaped(&sum) + &escaped(&term);
        sum = if is_safe { Value::from_safe_string(text) } else { Value::from(text) };
    }
    sum
}

/// A method of Python's strings, maps and lists.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let text = value.as_str().unwrap_or_default();
    // Results are paid for, but not the text that is searched.
    state.consume_fuel((text.len() / 64) as u64)?;
    if name == "format" && pads_by_much(text) {
        return Err(Error::new(ErrorKind::InvalidOperation, "format: a width has more than three digits"));
    }
    if let Some(result) = value.as_str().map(|text| strings::method(text, name, args)).transpose()?.flatten()
    {
        return Ok(result);
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

/// Whether a format has a width of more than three digits, or one that is an argument.
fn pads_by_much(format: &str) -> bool {
    let specs = format.split('{').skip(1).map(|spec| spec.split('}').next().unwrap_or_default());
    let mut specs = specs.filter_map(|spec| spec.split_once(':'));
    let is_long = |spec: &str| spec.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 3);
    specs.any(|(_, spec)| is_long(spec)) || format.contains(":{") || format.contains(">{")
}

/// The value, unless it is too deep to be walked.
fn bounded(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    let mut n = 0;
    walk(state, &value, 0, &mut n)?;
    Ok(value)
}

fn walk(state: &State<'_, '_>, value: &Value, depth: usize, n: &mut u64) -> Result<(), Error> {
    let is_map = match value.kind() {
        ValueKind::Map => true,
        // A sum of lists is made of its terms, however often the same: its length must be bounded.
        ValueKind::Seq | ValueKind::Iterable => false,
        _ => return Ok(()),
    };
    if depth > MAX_DEPTH || depth > 0 && is_namespace(value) {
        return Err(Error::new(ErrorKind::InvalidOperation, "a value has too many levels"));
    }
    for item in value.try_iter()? {
        *n += 1;
        if n.is_multiple_of(4) {
            state.consume_fuel(1)?;
        }
        let item = if is_map { value.get_item(&item)? } else { item };
        walk(state, &item, depth + 1, n)?;
    }
    Ok(())
}

/// `json.dumps`, with `ensure_ascii=False` if nothing is said.
#[allow(clippy::needless_pass_by_value, reason = "minijinja gives a filter its arguments so")]
fn to_json(state: &State<'_, '_>, value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let option = |i: usize, name: &str| -> Result<Value, Error> {
        let named: Option<Value> = kwargs.get(name)?;
        Ok(named.or_else(|| args.get(i).cloned()).unwrap_or_default())
    };
    let indent = match option(1, "indent")? {
        indent if indent.is_none() || indent.is_undefined() => None,
        indent => Some(match (indent.as_str(), indent.as_i64()) {
            (Some(text), _) => text.chars().take(99).collect(),
            (None, n) => " ".repeat(n.unwrap_or(0).clamp(0, 99) as usize),
        }),
    };
    let separator = |i: usize, default: &str| -> Result<String, Error> {
        let given = option(2, "separators")?;
        let given =
            if given.kind() == ValueKind::Seq { given.get_item_by_index(i)? } else { Value::UNDEFINED };
        Ok(given.as_str().unwrap_or(default).chars().take(99).collect())
    };
    let is_disguised = state.lookup(DISGUISED).is_some_and(|it| it.is_true());
    let mut json = Json {
        state,
        is_disguised,
        text: String::new(),
        paid: 0,
        ensure_ascii: option(0, "ensure_ascii")?.is_true(),
        sort_keys: option(3, "sort_keys")?.is_true(),
        item: separator(0, if indent.is_some() { "," } else { ", " })?,
        key: separator(1, ": ")?,
        indent,
    };
    kwargs.assert_all_used()?;
    json.value(value, 0)?;
    Ok(Value::from(json.text))
}

/// JSON as Python writes it.
struct Json<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    text: String,
    /// How much of the text is paid for.
    paid: usize,
    /// Whether characters for private use stand for others.
    is_disguised: bool,
    ensure_ascii: bool,
    sort_keys: bool,
    item: String,
    key: String,
    indent: Option<String>,
}

impl Json<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > 4 * MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: a value has too many levels"));
        }
        if self.text.len() - self.paid > 1 << 12 {
            self.state.consume_fuel(((self.text.len() - self.paid) / 16) as u64)?;
            self.paid = self.text.len();
        }
        match value.kind() {
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.list(value, depth)?,
            ValueKind::Map => self.map(value, depth)?,
            ValueKind::Plain if Exponent::number(value).is_some() => self.number(value),
            kind => {
                let reason = format!("tojson: {kind} is no JSON");
                return Err(Error::new(ErrorKind::BadSerialization, reason));
            }
        }
        Ok(())
    }

    fn number(&mut self, value: &Value) {
        let text = float(value).and_then(exponent).unwrap_or_else(|| value.to_string());
        self.text.push_str(match &*text {
            "nan" => "NaN",
            "inf" => "Infinity",
            "-inf" => "-Infinity",
            text => text,
        });
    }

    fn list(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.text.push('[');
        let mut is_empty = true;
        for item in value.try_iter()? {
            self.begin(&mut is_empty, depth);
            self.value(&item, depth + 1)?;
        }
        self.end(is_empty, depth, ']');
        Ok(())
    }

    fn map(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.text.push('{');
        let mut keys: Vec<Value> = value.try_iter()?.collect();
        if self.sort_keys {
            keys.sort();
        }
        let mut is_empty = true;
        for key in keys {
            self.begin(&mut is_empty, depth);
            match key.as_str() {
                Some(name) => self.string(name),
                None => {
                    self.text.push('"');
                    self.value(&key, 4 * MAX_DEPTH)?;
                    self.text.push('"');
                }
            }
            let separator = std::mem::take(&mut self.key);
            self.text.push_str(&separator);
            self.key = separator;
            self.value(&value.get_item(&key)?, depth + 1)?;
        }
        self.end(is_empty, depth, '}');
        Ok(())
    }

    /// What comes before an item.
    fn begin(&mut self, is_first: &mut bool, depth: usize) {
        if !std::mem::replace(is_first, false) {
            self.text.push_str(&self.item);
        }
        self.line(depth + 1);
    }

    fn end(&mut self, is_empty: bool, depth: usize, bracket: char) {
        if !is_empty {
            self.line(depth);
        }
        self.text.push(bracket);
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.text.push('\n');
            (0..depth).for_each(|_| self.text.push_str(indent));
        }
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for c in text.chars() {
            match c {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                PRIVATE.. if self.is_disguised => self.text.push(c),
                _ if c < ' ' || self.ensure_ascii && !(' '..='~').contains(&c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        _ = write!(self.text, "\\u{unit:04x}");
                    }
                }
                _ => self.text.push(c),
            }
        }
        self.text.push('"');
    }
}
