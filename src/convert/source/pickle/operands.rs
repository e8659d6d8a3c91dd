//! What follows an instruction's code: numbers, texts and bytes.

use super::{FORMAT, Machine, Node};
use crate::error::{Error, Result};

impl<'a> Machine<'a> {
    /// The next bytes of the pickle.
    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        self.rest.take(n as u64, FORMAT).map_err(|_| cut_short())
    }

    /// A little-endian number of up to 8 bytes.
    pub(super) fn number(&mut self, bytes: usize) -> Result<u64> {
        self.rest.number(bytes as u64, FORMAT).map_err(|_| cut_short())
    }

    /// The value that an instruction pushes, if that is all it does.
    pub(super) fn literal(&mut self, code: u8) -> Result<Option<Node<'a>>> {
        Ok(Some(match code {
            b'N' => Node::None,
            0x88 | 0x89 => Node::Bool(code == 0x88),
            b'G' => {
                let bits = self.take(8)?.iter().fold(0, |bits, &byte| bits << 8 | u64::from(byte));
                Node::Float(f64::from_bits(bits))
            }
            b'K' | b'M' | b'J' | 0x8a => self.int(code)?.map_or(Node::Opaque, Node::Int),
            // LONG4, bytes and arrays of bytes.
            0x8b | b'B' | b'C' | 0x8e | 0x96 => {
                self.bytes(code)?;
                Node::Opaque
            }
            b'X' | 0x8c | 0x8d | b'T' | b'U' => Node::Text(self.text(code)?),
            b']' => Node::List,
            // A set.
            0x8f => Node::Opaque,
            _ => return Ok(None),
        }))
    }

    /// `None` of a number that is longer than any that is looked at.
    fn int(&mut self, code: u8) -> Result<Option<i64>> {
        let (bytes, signed) = match code {
            b'K' => (1, false),
            b'M' => (2, false),
            b'J' => (4, true),
            _ => (self.take(1)?[0].into(), true),
        };
        if bytes > 8 {
            self.take(bytes)?;
            return Ok(None);
        }
        let number = self.number(bytes)?.cast_signed();
        // The sign is the uppermost bit.
        let unused = if signed && bytes > 0 { 64 - 8 * bytes as u32 } else { 0 };
        Ok(Some(number << unused >> unused))
    }

    /// Passes over bytes that follow their number.
    fn bytes(&mut self, code: u8) -> Result<()> {
        let len = match code {
            b'C' => self.number(1)?,
            0x8e | 0x96 => self.number(8)?,
            _ => self.number(4)?,
        };
        self.take(usize::try_from(len).unwrap_or(usize::MAX)).map(drop)
    }

    fn text(&mut self, code: u8) -> Result<&'a [u8]> {
        let len = match code {
            0x8c | b'U' => self.number(1)?,
            0x8d => self.number(8)?,
            _ => self.number(4)?,
        };
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// Bytes up to a newline.
    pub(super) fn line(&mut self) -> Result<&'a [u8]> {
        let len = self.rest.rest().iter().position(|&byte| byte == b'\n');
        let line = self.take(len.ok_or_else(cut_short)?)?;
        self.take(1)?;
        Ok(line)
    }
}

fn cut_short() -> Error {
    Error::malformed(FORMAT, "it is cut short")
}
