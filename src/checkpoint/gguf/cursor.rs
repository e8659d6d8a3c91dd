//! Takes a GGUF file apart from its front: numbers, strings and values, each checked against the
//! bytes that are left.

use super::value::{Kind, Value};
use super::{FORMAT, MAX_KEY_BYTES};
use crate::bytes::ByteReader;
use crate::error::{Error, Result};

/// Arrays may lie in arrays, but no writer nests them deeper than this.
const MAX_DEPTH: usize = 4;

/// A place in the file.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    pub(super) bytes: ByteReader<'a>,
    /// Counts and lengths are 64 bits wide from version 2 on, and 32 in version 1.
    pub(super) wide: bool,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes: ByteReader::new(bytes), wide: true }
    }

    /// A count, or a length.
    pub(super) fn count(&mut self, what: &'static str) -> Result<u64> {
        self.bytes.number(self.count_bytes(), what)
    }

    /// Bytes that a count takes.
    pub(super) fn count_bytes(&self) -> u64 {
        if self.wide { 8 } else { 4 }
    }

    /// A string, which need not be UTF-8.
    pub(super) fn string(&mut self, what: &'static str) -> Result<&'a [u8]> {
        let len = self.count(what)?;
        self.bytes.take(len, what)
    }

    /// The name of something: UTF-8, and not empty.
    pub(super) fn name(&mut self, what: &'static str, longest: usize) -> Result<String> {
        let offset = self.bytes.position();
        let bytes = self.string(what)?;
        if bytes.is_empty() || bytes.len() > longest {
            return Err(Error::malformed(
                FORMAT,
                format!("{what} at byte {offset} has {} bytes", bytes.len()),
            ));
        }
        match std::str::from_utf8(bytes) {
            Ok(name) => Ok(name.to_owned()),
            Err(_) => Err(Error::malformed(FORMAT, format!("{what} at byte {offset} is not UTF-8"))),
        }
    }

    /// A key and its value.
    pub(super) fn pair(&mut self) -> Result<(String, Value<'a>)> {
        let key = self.name("a key", MAX_KEY_BYTES)?;
        let kind = self.bytes.u32("the type of a value")?;
        let Some(kind) = Kind::of(kind) else {
            return Err(Error::malformed(FORMAT, format!("key {key}: there is no value type {kind}")));
        };
        let value = match kind {
            Kind::Array => self.array(&key, 1)?,
            Kind::String => Value::single(kind, self.string("a string")?),
            _ => Value::single(kind, self.bytes.take(kind.size(), "a value")?),
        };
        Ok((key, value))
    }

    /// An array. Only its end is looked for, so a long one of numbers costs nothing and one of
    /// strings a look at each length.
    fn array(&mut self, key: &str, depth: usize) -> Result<Value<'a>> {
        let element = self.bytes.u32("the type of an array's elements")?;
        let Some(element) = Kind::of(element) else {
            return Err(Error::malformed(FORMAT, format!("key {key}: there is no value type {element}")));
        };
        let count = self.count("an array's length")?;
        let start = self.bytes.position();
        match element {
            Kind::String => {
                self.bytes.expect(count, self.count_bytes(), "an array of strings")?;
                for _ in 0..count {
                    self.string("a string in an array")?;
                }
            }
            Kind::Array => {
                if depth == MAX_DEPTH {
                    return Err(Error::malformed(
                        FORMAT,
                        format!("key {key}: arrays are nested deeper than {MAX_DEPTH}"),
                    ));
                }
                self.bytes.expect(count, 4 + self.count_bytes(), "an array of arrays")?;
                for _ in 0..count {
                    self.array(key, depth + 1)?;
                }
            }
            _ => {
                self.bytes.expect(count, element.size(), "an array")?;
                self.bytes.take(count * element.size(), "an array")?;
            }
        }
        Ok(Value::array(element, count as usize, self.bytes.since(start), self.wide))
    }
}
