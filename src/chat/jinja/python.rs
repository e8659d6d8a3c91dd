//! What templates take from Python, as `transformers` gives it to them.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::disguise::PRIVATE;
use super::source::{BOUNDED, SUM};

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
    env.add_filter("e", |value: &Value| escape(&value.to_string()));
    env.add_filter("escape", |value: &Value| escape(&value.to_string()));
    env.add_function(SUM, sum);
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        let raised = Raised(message.to_string());
        Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(raised))
    });
    env.add_function("strftime_now", move |format: &str| strftime(format, now));
    env.set_unknown_method_callback(method);
    env.set_formatter(|out, state, value| match float(value) {
        Some(text) => out.write_str(&text).map_err(Error::from),
        None => minijinja::escape_formatter(out, state, value),
    });
}

/// What Python writes of a number that is no integer and has an exponent: `1e-05`, where others
/// write `1e-5` or `0.00001`. Nothing of others.
fn float(value: &Value) -> Option<String> {
    if value.kind() != ValueKind::Number || value.is_integer() {
        return None;
    }
    let text = format!("{:?}", f64::try_from(value.clone()).ok()?);
    let (digits, exponent) = text.split_once('e')?;
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    Some(format!("{digits}e{sign}{exponent:0>2}"))
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
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let text = value.as_str().unwrap_or_default();
    // Results are paid for, but not the text that is searched.
    state.consume_fuel((text.len() / 64) as u64)?;
    if name == "format" && pads_by_much(text) {
        return Err(Error::new(ErrorKind::InvalidOperation, "format: a width has more than three digits"));
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
    // A namespace in a namespace may be in itself.
    let is_namespace = value.as_object().is_some_and(|object| object.type_name().ends_with("Namespace"));
    if depth > MAX_DEPTH || depth > 0 && is_namespace {
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
            kind => {
                let reason = format!("tojson: {kind} is no JSON");
                return Err(Error::new(ErrorKind::BadSerialization, reason));
            }
        }
        Ok(())
    }

    fn number(&mut self, value: &Value) {
        let text = float(value).unwrap_or_else(|| value.to_string());
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

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A point in time, in UTC, as C writes it in English.
fn strftime(format: &str, now: SystemTime) -> String {
    let time = Time::of(now);
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let letter = chars.next();
        let is_plain = letter == Some('-');
        match if is_plain { chars.next() } else { letter } {
            Some(letter) => text.push_str(&time.field(letter, is_plain)),
            None => text.push('%'),
        }
    }
    text
}

/// A point in time, in UTC.
struct Time {
    /// Since 1970.
    seconds: u64,
    year: u64,
    /// From 0.
    month: usize,
    day: u64,
    day_of_year: u64,
    weekday: &'static str,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Time {
    fn of(now: SystemTime) -> Self {
        let seconds = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let days = seconds / 86_400;
        let (year, month, day, day_of_year) = date(days);
        let weekday = DAYS[((days + 4) % 7) as usize];
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        Self { seconds, year, month, day, day_of_year, weekday, hour, minute, second }
    }

    /// What a letter stands for, plain or with zeros in front.
    fn field(&self, letter: char, is_plain: bool) -> String {
        let &Self { seconds, year, month, day, day_of_year, weekday, hour, minute, second } = self;
        let width = |width: usize| if is_plain { 0 } else { width };
        let number = |n: u64, digits: usize| format!("{n:0digits$}", digits = width(digits));
        match letter {
            'Y' => number(year, 4),
            'y' => number(year % 100, 2),
            'm' => number(month as u64 + 1, 2),
            'd' => number(day, 2),
            'e' => format!("{day:2}"),
            'j' => number(day_of_year, 3),
            'H' => number(hour, 2),
            'I' => number((hour + 11) % 12 + 1, 2),
            'M' => number(minute, 2),
            'S' => number(second, 2),
            'B' => MONTHS[month].into(),
            'b' | 'h' => MONTHS[month][..3].into(),
            'A' => weekday.into(),
            'a' => weekday[..3].into(),
            'p' => if hour < 12 { "AM" } else { "PM" }.into(),
            'F' => format!("{year:04}-{:02}-{day:02}", month + 1),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            'R' => format!("{hour:02}:{minute:02}"),
            'D' => format!("{:02}/{day:02}/{:02}", month + 1, year % 100),
            's' => seconds.to_string(),
            'z' | 'Z' => String::new(), // as Python has it for a time without a zone
            '%' => "%".into(),
            other => format!("%{other}"),
        }
    }
}

/// Year, month from 0, day, and day of the year, of a number of days since 1970.
fn date(days: u64) -> (u64, usize, u64, u64) {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    // 400 years always have as many days.
    let (mut year, mut left) = (1970 + days / 146_097 * 400, days % 146_097);
    while left >= 365 + u64::from(is_leap(year)) {
        left -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let of_year = left + 1;
    let february = 28 + u64::from(is_leap(year));
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while left >= lengths[month] {
        left -= lengths[month];
        month += 1;
    }
    (year, month, left + 1, of_year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_pythons() {
        // Of Python's repr.
        for (number, expected) in [
            (1e-5, Some("1e-05")),
            (-2.5e-7, Some("-2.5e-07")),
            (1e20, Some("1e+20")),
            (1.5e300, Some("1.5e+300")),
            (1e16, Some("1e+16")),
            (9e15, None),
            (0.0001, None),
            (0.5, None),
        ] {
            assert_eq!(float(&Value::from(number)).as_deref(), expected, "{number}");
        }
        assert_eq!(float(&Value::from(10_i64.pow(18))), None);
    }

    #[test]
    fn times_are_cs() {
        // Of Python's datetime.fromtimestamp(..., UTC).strftime.
        for (seconds, expected) in [
            (0, "01 Jan 1970 Thursday 00:00:00 AM 12 001 1"),
            (951_782_399, "28 Feb 2000 Monday 23:59:59 PM 11 059 28"),
            (951_782_400, "29 Feb 2000 Tuesday 00:00:00 AM 12 060 29"),
            (1_735_689_599, "31 Dec 2024 Tuesday 23:59:59 PM 11 366 31"),
            (1_796_000_000, "30 Nov 2026 Monday 00:53:20 AM 12 334 30"),
            (4_107_542_400, "01 Mar 2100 Monday 00:00:00 AM 12 060 1"),
        ] {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(strftime("%d %b %Y %A %H:%M:%S %p %I %j %-d", now), expected);
        }
        assert_eq!(strftime("%%%q%", UNIX_EPOCH), "%%q%");
    }
}
