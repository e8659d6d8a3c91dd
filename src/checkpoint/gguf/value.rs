//! The values of a GGUF file's keys, as the file has them, and their types.
//!
//! Values stay in the file until they are read, by the type that the caller expects.

use std::fmt;

use byteorder::{ByteOrder, LittleEndian};

/// The types of values, in the order of their numbers in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

/// Each type, its name for people, and the bytes of a value: 0 for strings and arrays, which
/// differ. A type's number in a file is its place here.
const KINDS: [(Kind, &str, u64); 13] = [
    (Kind::U8, "u8", 1),
    (Kind::I8, "i8", 1),
    (Kind::U16, "u16", 2),
    (Kind::I16, "i16", 2),
    (Kind::U32, "u32", 4),
    (Kind::I32, "i32", 4),
    (Kind::F32, "f32", 4),
    (Kind::Bool, "bool", 1),
    (Kind::String, "string", 0),
    (Kind::Array, "array", 0),
    (Kind::U64, "u64", 8),
    (Kind::I64, "i64", 8),
    (Kind::F64, "f64", 8),
];

impl Kind {
    /// The type with a number.
    pub(super) fn of(number: u32) -> Option<Self> {
        KINDS.get(number as usize).map(|row| row.0)
    }

    /// Its number in a file.
    pub(crate) fn number(self) -> u32 {
        self as u32
    }

    /// Bytes of a value, where all have the same; 0 for strings and arrays.
    pub(super) fn size(self) -> u64 {
        KINDS[self.number() as usize].2
    }

    fn name(self) -> &'static str {
        KINDS[self.number() as usize].1
    }
}

/// A value, as the file has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value<'a> {
    kind: Kind,
    /// Of an array: the type and number of its elements.
    elements: (Kind, usize),
    /// Of a string: its text alone. Of an array: its elements.
    bytes: &'a [u8],
    /// Whether the lengths of an array's strings have 64 bits.
    wide: bool,
}

impl<'a> Value<'a> {
    pub(super) fn single(kind: Kind, bytes: &'a [u8]) -> Self {
        Self { kind, elements: (kind, 0), bytes, wide: true }
    }

    pub(super) fn array(element: Kind, count: usize, bytes: &'a [u8], wide: bool) -> Self {
        Self { kind: Kind::Array, elements: (element, count), bytes, wide }
    }

    /// An integer of any width.
    pub(crate) fn integer(&self) -> Option<i128> {
        let b = self.bytes;
        Some(match self.kind {
            Kind::U8 => b[0].into(),
            Kind::I8 => b[0].cast_signed().into(),
            Kind::U16 => LittleEndian::read_u16(b).into(),
            Kind::I16 => LittleEndian::read_i16(b).into(),
            Kind::U32 => LittleEndian::read_u32(b).into(),
            Kind::I32 => LittleEndian::read_i32(b).into(),
            Kind::U64 => LittleEndian::read_u64(b).into(),
            Kind::I64 => LittleEndian::read_i64(b).into(),
            Kind::F32 | Kind::F64 | Kind::Bool | Kind::String | Kind::Array => return None,
        })
    }

    #[cfg(feature = "convert")]
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Of a number or a boolean its bytes, of a string its text.
    #[cfg(feature = "convert")]
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Of an array: the type of its elements, and the bytes of each, as [`Value::bytes`] has them.
    /// `None` if it is no array, or if arrays are in it.
    #[cfg(feature = "convert")]
    pub(crate) fn elements(&self) -> Option<(Kind, Vec<&'a [u8]>)> {
        let elements = match self.strings() {
            Some(strings) => strings.collect(),
            None => self.items()?.map(|item| item.bytes).collect(),
        };
        Some((self.elements.0, elements))
    }

    /// What it is, for people, without its type.
    pub(super) fn bare(&self) -> String {
        let bare = self.integer().map(|n| n.to_string());
        let bare = bare.or_else(|| self.float().map(|x| x.to_string()));
        bare.or_else(|| self.bool().map(|b| b.to_string())).unwrap_or_else(|| self.to_string())
    }

    fn float(&self) -> Option<f64> {
        match self.kind {
            Kind::F32 => Some(LittleEndian::read_f32(self.bytes).into()),
            Kind::F64 => Some(LittleEndian::read_f64(self.bytes)),
            _ => None,
        }
    }

    fn bool(&self) -> Option<bool> {
        (self.kind == Kind::Bool).then(|| self.bytes[0] != 0)
    }

    pub(super) fn text(&self) -> Option<&'a [u8]> {
        (self.kind == Kind::String).then_some(self.bytes)
    }

    /// The strings of an array of them.
    pub(super) fn strings(&self) -> Option<Strings<'a>> {
        let (element, left) = self.elements;
        let strings = Strings { bytes: self.bytes, left, wide: self.wide };
        (self.kind == Kind::Array && element == Kind::String).then_some(strings)
    }

    /// The elements of an array of numbers or booleans.
    pub(super) fn items(&self) -> Option<impl ExactSizeIterator<Item = Value<'a>> + use<'a>> {
        let element = self.elements.0;
        let size = element.size() as usize;
        let items = |value: &Self| value.bytes.chunks_exact(size).map(move |b| Value::single(element, b));
        (self.kind == Kind::Array && size > 0).then(|| items(self))
    }
}

/// What it is, for people: `u32 5`, `array of 32000 string`.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Characters of a string that are shown.
        const SHOWN: usize = 72;
        let name = self.kind.name();
        if let Some(n) = self.integer() {
            write!(f, "{name} {n}")
        } else if let Some(x) = self.float() {
            write!(f, "{name} {x}")
        } else if let Some(b) = self.bool() {
            write!(f, "{name} {b}")
        } else if let Some(text) = self.text() {
            let text = String::from_utf8_lossy(&text[..text.len().min(4 * SHOWN)]);
            let shown: String = text.chars().take(SHOWN).collect();
            let more = if shown.len() < self.bytes.len() { "..." } else { "" };
            write!(f, "{name} {shown:?}{more}")
        } else {
            write!(f, "{name} of {} {}", self.elements.1, self.elements.0.name())
        }
    }
}

/// Walks along an array of strings.
#[derive(Clone, Debug)]
pub(super) struct Strings<'a> {
    bytes: &'a [u8],
    left: usize,
    wide: bool,
}

impl Strings<'_> {
    pub(super) fn len(&self) -> usize {
        self.left
    }
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        // All lengths were seen to fit when the end was looked for. If the file changed since,
        // there are fewer strings.
        let (len, rest) = self.bytes.split_at_checked(if self.wide { 8 } else { 4 })?;
        let len = LittleEndian::read_uint(len, len.len());
        let (string, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
        self.bytes = rest;
        Some(string)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left))
    }
}

/// A type that a key may be read as.
pub(super) trait FromValue: Sized {
    /// Its name, for people.
    const EXPECTED: &'static str;

    fn from_value(value: &Value<'_>) -> Option<Self>;
}

impl FromValue for usize {
    const EXPECTED: &'static str = "an integer that is not negative";

    fn from_value(value: &Value<'_>) -> Option<Self> {
        value.integer().and_then(|n| n.try_into().ok())
    }
}

impl FromValue for u32 {
    const EXPECTED: &'static str = "an integer below 2^32";

    fn from_value(value: &Value<'_>) -> Option<Self> {
        value.integer().and_then(|n| n.try_into().ok())
    }
}

impl FromValue for f64 {
    const EXPECTED: &'static str = "a floating-point number";

    fn from_value(value: &Value<'_>) -> Option<Self> {
        value.float()
    }
}

impl FromValue for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_value(value: &Value<'_>) -> Option<Self> {
        value.bool()
    }
}

impl FromValue for String {
    const EXPECTED: &'static str = "a string of UTF-8";

    fn from_value(value: &Value<'_>) -> Option<Self> {
        let text = value.text().map(std::str::from_utf8)?;
        text.ok().map(str::to_owned)
    }
}
