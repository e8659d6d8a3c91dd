//! Values that Jinja's engine has otherwise than Python: maps, whose methods come before their
//! fields, and what is written of maps and lists.

use std::fmt::{self, Formatter, Write};
use std::sync::Arc;

use minijinja::value::{DynObject, Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, State, Value};

use super::disguise::PRIVATE;
use super::numbers::exponent;

/// The methods of Python's maps that a template may name.
const METHODS: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];
/// Those that would change a map, which is undefined.
const CHANGING: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];

/// A map of the conversation or its variables. In Python `map.items` is the method, whatever
/// fields it has, and `map['items']` the field: schemas of tools have such fields.
#[derive(Debug)]
pub(super) struct Fields(Value);

impl Fields {
    /// A map of these fields, in their order.
    pub(super) fn of(pairs: Vec<(Value, Value)>) -> Value {
        Value::from_object(Self(Value::from_pairs(pairs)))
    }

    /// What Python's `getattr` finds, which are no fields.
    pub(super) fn attribute(self: &Arc<Self>, name: &str) -> Option<Value> {
        if CHANGING.contains(&name) {
            return Some(Value::UNDEFINED);
        }
        let name = METHODS.into_iter().find(|method| *method == name)?;
        Some(Value::from_object(Method { name, of: self.0.clone() }))
    }
}

impl Object for Fields {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.as_object()?.get_value(key)
    }

    fn get_value_by_str(self: &Arc<Self>, name: &str) -> Option<Value> {
        self.attribute(name).or_else(|| self.get_value(&Value::from(name)))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match self.0.try_iter() {
            Ok(keys) => Enumerator::Values(keys.collect()),
            Err(_) => Enumerator::Empty,
        }
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        self.0.len()
    }

    fn render(self: &Arc<Self>, f: &mut Formatter<'_>) -> fmt::Result {
        write_repr(f, &self.0)
    }
}

/// A list of the conversation or its variables.
#[derive(Debug)]
pub(super) struct Items(Value);

impl Items {
    /// A list of these values.
    pub(super) fn of(values: Vec<Value>) -> Value {
        Value::from_object(Self(Value::from(values)))
    }
}

impl Object for Items {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.as_object()?.get_value(key)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len().unwrap_or(0))
    }

    fn render(self: &Arc<Self>, f: &mut Formatter<'_>) -> fmt::Result {
        write_repr(f, &self.0)
    }
}

/// A value as Python writes it.
pub(super) struct Printed<'a>(pub(super) &'a Value);

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0.kind() {
            ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::Number => {
                write_repr(f, self.0)
            }
            _ => write!(f, "{}", self.0),
        }
    }
}

/// What Python's `repr` gives.
fn write_repr(f: &mut Formatter<'_>, value: &Value) -> fmt::Result {
    match value.kind() {
        ValueKind::Undefined => f.write_str("Undefined"),
        ValueKind::String => write_string(f, value.as_str().unwrap_or_default()),
        ValueKind::Number if !value.is_integer() => {
            let number = f64::try_from(value.clone()).unwrap_or(f64::NAN);
            f.write_str(&exponent(number).unwrap_or_else(|| format!("{number:?}").replace("NaN", "nan")))
        }
        ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => {
            let (open, close) = if is_tuple(value) { ('(', ')') } else { ('[', ']') };
            f.write_char(open)?;
            let items = value.as_object().and_then(DynObject::try_iter);
            for (i, item) in items.into_iter().flatten().enumerate() {
                f.write_str(if i > 0 { ", " } else { "" })?;
                write_repr(f, &item)?;
            }
            f.write_str(if is_tuple(value) && value.len() == Some(1) { "," } else { "" })?;
            f.write_char(close)
        }
        ValueKind::Map if !is_namespace(value) && !is_a(value, "Loop") => {
            f.write_char('{')?;
            let pairs = value.as_object().and_then(DynObject::try_iter_pairs);
            for (i, (key, value)) in pairs.into_iter().flatten().enumerate() {
                f.write_str(if i > 0 { ", " } else { "" })?;
                write_repr(f, &key)?;
                f.write_str(": ")?;
                write_repr(f, &value)?;
            }
            f.write_char('}')
        }
        _ => write!(f, "{value:?}"),
    }
}

/// Whether a value is what `namespace` gives, which may be in itself.
pub(super) fn is_namespace(value: &Value) -> bool {
    is_a(value, "Namespace")
}

/// Whether a value is an object of the engine's.
fn is_a(value: &Value, name: &str) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with(name))
}

/// Whether a list is a tuple; the engine has those of `groupby` apart.
fn is_tuple(value: &Value) -> bool {
    value.is_tuple() || is_a(value, "GroupTuple")
}

/// A text in quotes. The engine leaves more characters as they are than Python, such as spaces that
/// don't break.
fn write_string(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    f.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\\' => f.write_str("\\\\")?,
            _ if c == quote => write!(f, "\\{c}")?,
            _ if is_printable(c) => f.write_char(c)?,
            '\0'..='\u{ff}' => write!(f, "\\x{:02x}", u32::from(c))?,
            '\u{100}'..='\u{ffff}' => write!(f, "\\u{:04x}", u32::from(c))?,
            _ => write!(f, "\\U{:08x}", u32::from(c))?,
        }
    }
    f.write_char(quote)
}

/// Python's `str.isprintable`, by what Rust shows of a text; a character in disguise isn't one for
/// private use.
fn is_printable(c: char) -> bool {
    // After another character, so that what combines with one is left as it is.
    let shown = || ['x', c].iter().collect::<String>().escape_debug().nth(1) == Some(c);
    c >= PRIVATE || matches!(c, ' '..='~') || shown()
}

/// A method that isn't called.
#[derive(Debug)]
struct Method {
    name: &'static str,
    of: Value,
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        super::python::method(state, &self.of, self.name, args)
    }

    fn render(self: &Arc<Self>, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "<built-in method {} of dict object>", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_in_values_are_pythons() {
        // Of Python's repr.
        for (text, expected) in [
            ("a'b", "\"a'b\""),
            ("a'b\"", "'a\\'b\"'"),
            ("\u{a0}\u{200d}\u{2028}", "'\\xa0\\u200d\\u2028'"),
            ("\u{301}e\u{301}\u{1f999}", "'\u{301}e\u{301}\u{1f999}'"),
            ("\n\\\0\u{e000}\u{e0001}", "'\\n\\\\\\x00\\ue000\\U000e0001'"),
        ] {
            let list = Items::of(vec![Value::from(text), Value::from(())]);
            let map = Fields::of(vec![(Value::from("k"), list)]);
            assert_eq!(map.to_string(), format!("{{'k': [{expected}, None]}}"));
        }
    }
}
