//! SentencePiece's model files: a message of Protocol Buffers, of which the pieces and a few settings are read.
//!
//! ```text
//! message   fields, each a number and a type, and then: a varint; or 4 or 8 bytes; or a length and as many bytes
//! model     1 pieces: 1 text, 2 score, 3 kind      2 trainer: 3 algorithm, 40 unk, 41 BOS, 42 EOS
//!           3 normalizer: 2 table, 3 a space in front, 5 U+2581 for spaces
//! ```
//!
//! Source: `sentencepiece_model.proto` in the SentencePiece repository; the encoding page of Protocol Buffers.

use super::vocabulary::{OwnMerging, Vocabulary, refuse};
use crate::error::{Error, Result, TokenId};
use crate::tokenizer::{PieceKind, PiecePart};

/// Whether a file begins with a piece, as all of them do.
pub(super) fn looks_like(bytes: &[u8]) -> bool {
    matches!(bytes, [0x0a, len, 0x0a, text_len, ..] if text_len < len)
}

pub(super) fn read(bytes: &[u8]) -> Result<Vocabulary> {
    let (mut pieces, mut trainer, mut normalizer) = (Vec::new(), Trainer::default(), Normalizer::default());
    for field in Message(bytes) {
        match field? {
            (1, Value::Bytes(bytes)) => pieces.push(piece(bytes)?),
            (2, Value::Bytes(bytes)) => trainer.read(bytes)?,
            (3, Value::Bytes(bytes)) => normalizer.read(bytes)?,
            _ => {}
        }
    }
    if trainer.algorithm != Trainer::BPE {
        let reason = "a SentencePiece model of another kind than BPE, which no Llama has".into();
        return Err(refuse(reason));
    }
    let add_space_prefix = normalizer.check()?;
    let mut vocabulary = Vocabulary::new(pieces, OwnMerging::SentencePiece { add_space_prefix });
    let id = |id: i32| TokenId::try_from(id).ok().filter(|&id| (id as usize) < vocabulary.pieces.len());
    let (bos, eos, unk) = (id(trainer.bos), id(trainer.eos), id(trainer.unk));
    (vocabulary.bos, vocabulary.eos, vocabulary.unk) = (bos, eos, unk);
    Ok(vocabulary)
}

fn piece(bytes: &[u8]) -> Result<PiecePart<'static>> {
    let (mut text, mut score, mut kind) = (&[][..], 0.0, PieceKind::Normal);
    for field in Message(bytes) {
        match field? {
            (1, Value::Bytes(bytes)) => text = bytes,
            (2, Value::Four(bytes)) => score = f32::from_le_bytes(bytes),
            (3, Value::Varint(number)) => {
                kind = match number {
                    1 => PieceKind::Normal,
                    2 => PieceKind::Unknown,
                    3 => PieceKind::Control,
                    4 => PieceKind::UserDefined,
                    5 => PieceKind::Unused,
                    6 => PieceKind::Byte,
                    _ => return Err(refuse(format!("a piece of the unknown kind {number}"))),
                }
            }
            _ => {}
        }
    }
    Ok(PiecePart { text: text.to_vec().into(), score, kind })
}

/// How the pieces were found.
#[derive(Debug)]
struct Trainer {
    algorithm: u64,
    unk: i32,
    bos: i32,
    eos: i32,
}

impl Default for Trainer {
    fn default() -> Self {
        Self { algorithm: 1, unk: 0, bos: 1, eos: 2 }
    }
}

impl Trainer {
    const BPE: u64 = 2;

    fn read(&mut self, bytes: &[u8]) -> Result<()> {
        for field in Message(bytes) {
            // A negative number, which means "none", takes 64 bits.
            match field? {
                (3, Value::Varint(number)) => self.algorithm = number,
                (40, Value::Varint(id)) => self.unk = id as i32,
                (41, Value::Varint(id)) => self.bos = id as i32,
                (42, Value::Varint(id)) => self.eos = id as i32,
                _ => {}
            }
        }
        Ok(())
    }
}

/// What is done to a text first.
#[derive(Debug)]
struct Normalizer {
    has_table: bool,
    adds_space: bool,
    escapes_spaces: bool,
}

impl Default for Normalizer {
    fn default() -> Self {
        Self { has_table: false, adds_space: true, escapes_spaces: true }
    }
}

impl Normalizer {
    fn read(&mut self, bytes: &[u8]) -> Result<()> {
        for field in Message(bytes) {
            match field? {
                (2, Value::Bytes(table)) => self.has_table = !table.is_empty(),
                (3, Value::Varint(flag)) => self.adds_space = flag != 0,
                (5, Value::Varint(flag)) => self.escapes_spaces = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }

    /// That it does nothing but put a space in front; whether it does.
    ///
    /// Those of llama2.c's own models would also make one space of several. Neither its programs nor llama.cpp do that, so it
    /// is not done here.
    fn check(&self) -> Result<bool> {
        if self.has_table || !self.escapes_spaces {
            let reason = "it changes a text before it encodes it, which is not supported".into();
            return Err(refuse(reason));
        }
        Ok(self.adds_space)
    }
}

enum Value<'a> {
    Varint(u64),
    Four([u8; 4]),
    Eight,
    Bytes(&'a [u8]),
}

/// Fields that haven't been read yet.
struct Message<'a>(&'a [u8]);

impl<'a> Message<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or_else(cut_short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(refuse("a number in it has more than 64 bits".into()))
    }

    fn field(&mut self) -> Result<(u64, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Eight)?,
            2 => {
                let len = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                Value::Bytes(self.take(len)?)
            }
            5 => Value::Four(self.take(4)?.try_into().map_err(|_| cut_short())?),
            kind => return Err(refuse(format!("a field in it has the unknown type {kind}"))),
        };
        Ok((key >> 3, value))
    }
}

impl<'a> Iterator for Message<'a> {
    type Item = Result<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn cut_short() -> Error {
    refuse("it is cut short".into())
}
