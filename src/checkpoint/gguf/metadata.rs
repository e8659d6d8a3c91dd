//! The keys and values at the front of a GGUF file.

use std::collections::BTreeMap;

use super::FORMAT;
#[cfg(test)]
pub(super) use super::value::Kind;
use super::value::Strings;
pub(super) use super::value::{FromValue, Value};
use crate::error::{Error, ErrorKind, Result};

/// All keys and values of a file.
#[derive(Debug, Default)]
pub(super) struct Metadata<'a>(BTreeMap<String, Value<'a>>);

impl<'a> Metadata<'a> {
    pub(super) fn insert(&mut self, key: String, value: Value<'a>) -> Result<()> {
        match self.0.entry(key) {
            std::collections::btree_map::Entry::Occupied(entry) => {
                Err(Error::malformed(FORMAT, format!("key {} appears twice", entry.key())))
            }
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(value);
                Ok(())
            }
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.0.get(key)
    }

    /// Every key and its value, in the order of the keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.0.iter().map(|(key, value)| (&**key, value))
    }

    /// The value of a key that may be absent.
    pub(super) fn optional<T: FromValue>(&self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        T::from_value(value).map(Some).ok_or_else(|| wrong_type(key, T::EXPECTED, value))
    }

    /// The value of a key that must be there.
    pub(super) fn required<T: FromValue>(&self, key: &str) -> Result<T> {
        self.optional(key)?.ok_or_else(|| Error::missing_key(key))
    }

    /// The text of a key that may be absent.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = value.text().and_then(|text| std::str::from_utf8(text).ok());
        text.map(Some).ok_or_else(|| wrong_type(key, String::EXPECTED, value))
    }

    /// The text of a key that may be absent, with U+FFFD for what isn't UTF-8.
    pub(super) fn lossy_text(&self, key: &str) -> Result<Option<String>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = value.text().map(|text| String::from_utf8_lossy(text).into_owned());
        text.map(Some).ok_or_else(|| wrong_type(key, String::EXPECTED, value))
    }

    /// The strings of a key that may be absent.
    pub(super) fn strings(&self, key: &str) -> Result<Option<Strings<'a>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.strings().map(Some).ok_or_else(|| wrong_type(key, "an array of strings", value))
    }

    /// The elements of a key's array, which may be absent. All must be as `read` wants them.
    pub(super) fn array<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&Value<'a>) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let items = value.items().and_then(|items| items.map(|item| read(&item)).collect());
        items.map(Some).ok_or_else(|| wrong_type(key, expected, value))
    }

    #[cfg(feature = "convert")]
    pub(super) fn into_pairs(self) -> Vec<(String, Value<'a>)> {
        self.0.into_iter().collect()
    }

    /// Every key and what its value is, for people.
    pub(super) fn describe(&self) -> Vec<(String, String)> {
        self.0.iter().map(|(key, value)| (key.clone(), value.to_string())).collect()
    }
}

pub(super) fn wrong_type(key: &str, expected: &'static str, value: &Value<'_>) -> Error {
    ErrorKind::KeyType { key: key.into(), expected, found: value.to_string() }.into()
}
