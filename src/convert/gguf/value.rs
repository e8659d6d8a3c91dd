//! The values of a GGUF file's metadata, as they are written.

use crate::checkpoint::gguf::{self, Kind};

/// Makes the types of values from those of single ones: name, type, what makes its bytes, and what
/// reads them.
macro_rules! values {
    ($($name:ident($type:ty, $bytes:expr, $read:expr)),*) => {
        /// A value of any type that GGUF has.
        ///
        /// ```
        /// use babyllama::convert::gguf::{Array, Value};
        ///
        /// assert_eq!(Value::from(7_u32), Value::U32(7));
        /// assert_eq!(Value::from("llama"), Value::String("llama".into()));
        /// assert_eq!(Value::from(Array::F32(vec![0.5])), Value::Array(Array::F32(vec![0.5])));
        /// ```
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "the names say it")]
        pub enum Value {
            $($name($type),)*
            String(String),
            Array(Array),
        }

        /// Values that all have the same type.
        #[derive(Clone, Debug, PartialEq)]
        #[allow(missing_docs, reason = "the names say it")]
        pub enum Array {
            $($name(Vec<$type>),)*
            /// Bytes, since a tokenizer's pieces need not be UTF-8.
            String(Vec<Vec<u8>>),
            Array(Vec<Array>),
        }

        impl Value {
            pub(super) fn kind(&self) -> Kind {
                match self {
                    $(Self::$name(_) => Kind::$name,)*
                    Self::String(_) => Kind::String,
                    Self::Array(_) => Kind::Array,
                }
            }

            /// A value as another file has it. What isn't UTF-8 in a string is replaced; arrays of
            /// arrays, which no model has, aren't carried over.
            pub(crate) fn carried(value: &gguf::Value<'_>) -> Option<Self> {
                Some(match value.kind() {
                    $(Kind::$name => Self::$name($read(value.bytes().try_into().ok()?)),)*
                    Kind::String => Self::String(String::from_utf8_lossy(value.bytes()).into_owned()),
                    Kind::Array => {
                        let (kind, elements) = value.elements()?;
                        Self::Array(Array::carried(kind, &elements)?)
                    }
                })
            }

            /// Appends the value, without its type.
            pub(super) fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$name(value) => out.extend($bytes(*value)),)*
                    Self::String(text) => put_string(out, text.as_bytes()),
                    Self::Array(array) => array.put(out),
                }
            }
        }

        impl Array {
            fn kind_and_len(&self) -> (Kind, usize) {
                match self {
                    $(Self::$name(values) => (Kind::$name, values.len()),)*
                    Self::String(texts) => (Kind::String, texts.len()),
                    Self::Array(arrays) => (Kind::Array, arrays.len()),
                }
            }

            /// Elements of one type, from the bytes of each.
            fn carried(kind: Kind, elements: &[&[u8]]) -> Option<Self> {
                let each = elements.iter();
                Some(match kind {
                    $(Kind::$name => Self::$name(
                        each.map(|&bytes| Some($read(bytes.try_into().ok()?))).collect::<Option<_>>()?,
                    ),)*
                    Kind::String => Self::String(each.map(|bytes| bytes.to_vec()).collect()),
                    Kind::Array => return None,
                })
            }

            /// Appends the elements' type, their number, and the elements.
            fn put(&self, out: &mut Vec<u8>) {
                let (kind, len) = self.kind_and_len();
                out.extend(kind.number().to_le_bytes());
                out.extend((len as u64).to_le_bytes());
                match self {
                    $(Self::$name(values) => out.extend(values.iter().flat_map(|&value| $bytes(value))),)*
                    Self::String(texts) => texts.iter().for_each(|text| put_string(out, text)),
                    Self::Array(arrays) => arrays.iter().for_each(|array| array.put(out)),
                }
            }
        }

        $(impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$name(value)
            }
        })*
    };
}

values!(
    U8(u8, u8::to_le_bytes, u8::from_le_bytes),
    I8(i8, i8::to_le_bytes, i8::from_le_bytes),
    U16(u16, u16::to_le_bytes, u16::from_le_bytes),
    I16(i16, i16::to_le_bytes, i16::from_le_bytes),
    U32(u32, u32::to_le_bytes, u32::from_le_bytes),
    I32(i32, i32::to_le_bytes, i32::from_le_bytes),
    U64(u64, u64::to_le_bytes, u64::from_le_bytes),
    I64(i64, i64::to_le_bytes, i64::from_le_bytes),
    F32(f32, f32::to_le_bytes, f32::from_le_bytes),
    F64(f64, f64::to_le_bytes, f64::from_le_bytes),
    Bool(bool, |value| [u8::from(value)], |[byte]: [u8; 1]| byte != 0)
);

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<Array> for Value {
    fn from(array: Array) -> Self {
        Self::Array(array)
    }
}

/// Appends a string: its length and its bytes.
pub(super) fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}
