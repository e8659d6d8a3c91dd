//! JSON files, and typed questions to them: what is missing or of another type is an error that
//! names the key and the file.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::file::DataFile;
use crate::error::{Error, ErrorKind, Result};

/// The largest that is read: as values it may take a hundred times as much memory. The index of the
/// largest model has 200 KB.
const MAX_BYTES: u64 = 1 << 24;

/// A JSON file whose outermost value is an object.
#[derive(Debug)]
pub(super) struct JsonFile {
    path: PathBuf,
    map: Map<String, Value>,
}

impl JsonFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Self::open_up_to(path, MAX_BYTES)
    }

    /// Opens a file of no more than `max_bytes`.
    pub(super) fn open_up_to(path: &Path, max_bytes: u64) -> Result<Self> {
        let file = DataFile::open(path)?;
        let bytes = file.bytes("a JSON file", 0, file.len(), max_bytes);
        let map = bytes.and_then(|bytes| parse(&bytes)).map_err(|e| file.explain(e))?;
        if map.contains_key("error") {
            // A server's answer may be JSON, but it has nothing that a model's file has.
            let hint = "it is a server's error message, not the file: download it again";
            return Err(Error::unknown_format(hint).at(Some(path)));
        }
        Ok(Self { path: path.into(), map })
    }

    /// `None` if there is no such file.
    pub(super) fn open_if_there(path: &Path) -> Result<Option<Self>> {
        // Not `exists`: what can't be looked at is an error.
        match std::fs::symlink_metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            _ => Self::open(path).map(Some),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn object(&self) -> Object<'_> {
        Object { path: Some(&self.path), prefix: String::new(), map: &self.map }
    }
}

/// An object of JSON text, in which Python may have written numbers that JSON doesn't have: they
/// become strings, so that they are refused by name where a number is wanted.
pub(super) fn parse(bytes: &[u8]) -> Result<Map<String, Value>> {
    // What Windows' editors put first.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let malformed = |e: serde_json::Error| Error::malformed("JSON", e.to_string());
    serde_json::from_slice(text).or_else(|e| {
        let text = with_python_numbers(text).ok_or_else(|| malformed(e))?;
        serde_json::from_slice(&text).map_err(malformed)
    })
}

/// JSON with `NaN`, `Infinity` and `-Infinity` as strings. `None` if none of them is there.
fn with_python_numbers(json: &[u8]) -> Option<Vec<u8>> {
    const NUMBERS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    let mut out = Vec::with_capacity(json.len() + 16);
    let (mut at, mut is_string, mut found) = (0, false, false);
    while let Some(&byte) = json.get(at) {
        let number = NUMBERS.iter().find(|number| !is_string && json[at..].starts_with(number));
        if let Some(number) = number {
            out.push(b'"');
            out.extend(*number);
            out.push(b'"');
            (at, found) = (at + number.len(), true);
            continue;
        }
        // What is after a backslash ends no string.
        let n = if is_string && byte == b'\\' { 2 } else { 1 };
        is_string ^= byte == b'"';
        out.extend(&json[at..json.len().min(at + n)]);
        at += n;
    }
    found.then_some(out)
}

/// An object, and where it is.
#[derive(Clone, Debug)]
pub(super) struct Object<'a> {
    path: Option<&'a Path>,
    /// The keys that lead to it, each with a dot after it.
    prefix: String,
    pub(super) map: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// An object that is no file's outermost.
    pub(super) fn of(map: &'a Map<String, Value>) -> Self {
        Self { path: None, prefix: String::new(), map }
    }

    /// A value, if it is there and not null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn optional<T: FromJson<'a>>(&self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        T::from_json(value).map(Some).ok_or_else(|| self.wrong_type(key, T::EXPECTED, value))
    }

    pub(super) fn required<T: FromJson<'a>>(&self, key: &str) -> Result<T> {
        let missing = || Error::missing_key(self.name(key)).at(self.path);
        self.optional(key)?.ok_or_else(missing)
    }

    /// An object in this one.
    pub(super) fn object(&self, key: &str) -> Result<Option<Self>> {
        let map = self.optional::<&Map<String, Value>>(key)?;
        Ok(map.map(|map| Self { path: self.path, prefix: format!("{}.", self.name(key)), map }))
    }

    pub(super) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(super) fn wrong_type(&self, key: &str, expected: &'static str, found: &Value) -> Error {
        let mut found = found.to_string();
        if found.chars().count() > 60 {
            found = found.chars().take(60).chain("...".chars()).collect();
        }
        Error::from(ErrorKind::KeyType { key: self.name(key), expected, found }).at(self.path)
    }

    /// Says that a hyperparameter has a value that can't be honored.
    pub(super) fn refuse(&self, field: &'static str, value: &dyn ToString, reason: &str) -> Error {
        Error::config(field, value.to_string(), reason).at(self.path)
    }
}

/// A type that JSON has.
pub(super) trait FromJson<'a>: Sized {
    const EXPECTED: &'static str;

    fn from_json(value: &'a Value) -> Option<Self>;
}

/// An integer, which Python may have written as a float: `16.0`.
pub(super) fn whole(value: &Value) -> Option<u64> {
    /// All integers below are floats, too.
    const MOST: f64 = 9_007_199_254_740_992.0;
    let float = || value.as_f64().filter(|float| float.fract() == 0.0 && (0.0..MOST).contains(float));
    value.as_u64().or_else(|| float().map(|float| float as u64))
}

macro_rules! from_json {
    ($($type:ty, $expected:literal, $from:expr;)*) => {
        $(impl<'a> FromJson<'a> for $type {
            const EXPECTED: &'static str = $expected;

            fn from_json(value: &'a Value) -> Option<Self> {
                $from(value)
            }
        })*
    };
}

from_json! {
    bool, "true or false", Value::as_bool;
    f64, "a number", Value::as_f64;
    u32, "an integer", |value: &Value| whole(value).and_then(|value| value.try_into().ok());
    u64, "an integer", whole;
    usize, "an integer", |value: &Value| whole(value).and_then(|value| value.try_into().ok());
    &'a str, "a string", Value::as_str;
    &'a Map<String, Value>, "an object", Value::as_object;
    &'a Vec<Value>, "an array", Value::as_array;
}
