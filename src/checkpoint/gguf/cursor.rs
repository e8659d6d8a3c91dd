//! Takes a GGUF file apart from its front: numbers, strings and values, each checked against the
//! bytes that are left.

use byteorder::{ByteOrder, LittleEndian};

use super::metadata::{Kind, Value};
use super::{MAX_KEY_BYTES, malformed};
use crate::error::{ErrorKind, Result};

/// Arrays may lie in arrays, but nobody writes them deeper than this.
const MAX_DEPTH: usize = 4;

/// A place in the file.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Counts and lengths are 64 bits wide from version 2 on, and 32 in version 1.
    pub(super) wide: bool,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, wide: true }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: u64, what: &'static str) -> Result<&'a [u8]> {
        self.expect(1, len, what)?;
        // `expect` saw that as many are left, so the length fits.
        let taken = &self.bytes[self.at..][..len as usize];
        self.at += taken.len();
        Ok(taken)
    }

    /// Makes sure that `count` things of at least `size` bytes can be left.
    pub(super) fn expect(&self, count: u64, size: u64, what: &'static str) -> Result<()> {
        let available = (self.bytes.len() - self.at) as u64;
        let needed = count.saturating_mul(size);
        if needed <= available {
            return Ok(());
        }
        Err(ErrorKind::Truncated { what, offset: self.at as u64, needed, available }.into())
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32> {
        Ok(LittleEndian::read_u32(self.take(4, what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64> {
        Ok(LittleEndian::read_u64(self.take(8, what)?))
    }

    /// A count, or a length.
    pub(super) fn count(&mut self, what: &'static str) -> Result<u64> {
        if self.wide { self.u64(what) } else { self.u32(what).map(u64::from) }
    }

    /// Bytes that a count takes.
    pub(super) fn count_bytes(&self) -> u64 {
        if self.wide { 8 } else { 4 }
    }

    /// A string, which need not be UTF-8.
    pub(super) fn string(&mut self, what: &'static str) -> Result<&'a [u8]> {
        let len = self.count(what)?;
        self.take(len, what)
    }

    /// The name of something: UTF-8, and not empty.
    pub(super) fn name(&mut self, what: &'static str, longest: usize) -> Result<String> {
        let offset = self.at;
        let bytes = self.string(what)?;
        if bytes.is_empty() || bytes.len() > longest {
            return Err(malformed(format!("{what} at byte {offset} has {} bytes", bytes.len())));
        }
        match std::str::from_utf8(bytes) {
            Ok(name) => Ok(name.to_owned()),
            Err(_) => Err(malformed(format!("{what} at byte {offset} is not UTF-8"))),
        }
    }

    /// A key and its value.
    pub(super) fn pair(&mut self) -> Result<(String, Value<'a>)> {
        let key = self.name("a key", MAX_KEY_BYTES)?;
        let kind = self.u32("the type of a value")?;
        let Some(kind) = Kind::of(kind) else {
            return Err(malformed(format!("key {key}: there is no value type {kind}")));
        };
        let value = match kind {
            Kind::Array => self.array(&key, 1)?,
            Kind::String => Value::single(kind, self.string("a string")?),
            _ => Value::single(kind, self.take(kind.size(), "a value")?),
        };
        Ok((key, value))
    }

    /// An array. Only its end is looked for, so a long one of numbers costs nothing and one of
    /// strings a look at each length.
    fn array(&mut self, key: &str, depth: usize) -> Result<Value<'a>> {
        let element = self.u32("the type of an array's elements")?;
        let Some(element) = Kind::of(element) else {
            return Err(malformed(format!("key {key}: there is no value type {element}")));
        };
        let count = self.count("an array's length")?;
        let start = self.at;
        match element {
            Kind::String => {
                self.expect(count, self.count_bytes(), "an array of strings")?;
                for _ in 0..count {
                    self.string("a string in an array")?;
                }
            }
            Kind::Array => {
                if depth == MAX_DEPTH {
                    return Err(malformed(format!("key {key}: arrays are nested deeper than {MAX_DEPTH}")));
                }
                self.expect(count, 4 + self.count_bytes(), "an array of arrays")?;
                for _ in 0..count {
                    self.array(key, depth + 1)?;
                }
            }
            _ => {
                self.expect(count, element.size(), "an array")?;
                self.take(count * element.size(), "an array")?;
            }
        }
        let bytes = &self.bytes[start..self.at];
        Ok(Value::array(element, count as usize, bytes, self.wide))
    }
}
