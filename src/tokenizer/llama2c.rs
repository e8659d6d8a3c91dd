//! llama2.c's `tokenizer.bin`: the longest piece's length, then of each piece its score, its length
//! and its bytes.
//!
//! Source: llama2.c's `tokenizer.py`, which writes it.

use std::sync::Arc;

use super::user_defined::{Strip, UserDefined};
use super::vocab::VocabBuilder;
use super::{Algorithm, PieceKind, Tokenizer};
use crate::bytes::ByteReader;
use crate::error::{ErrorKind, Result};

impl Tokenizer {
    /// Reads a `tokenizer.bin` of llama2.c.
    ///
    /// Ids 0, 1 and 2 are the unknown piece, BOS and EOS, whatever they read. Ids 3 to 258 are
    /// bytes if they read `<0x00>` to `<0xFF>`; otherwise they are text like all others, and what
    /// no piece spells becomes the unknown one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Truncated`] if the file ends inside an entry. [`ErrorKind::Tokenizer`] if a
    /// length is negative, a score is not a number, or there are no pieces, more than 2^24 or more
    /// than 4 GiB of them.
    pub fn from_llama2c(bytes: &[u8]) -> Result<Self> {
        let mut reader = ByteReader::new(bytes);
        // The longest piece's length, for C's buffers. It is not needed here, so it need not be
        // right.
        reader.take(4, "the tokenizer's header")?;

        let mut vocab = VocabBuilder::default();
        for id in 0_u64.. {
            if reader.rest().is_empty() {
                break;
            }
            reader.expect(1, 8, "a piece's score and length")?;
            let score = f32::from_bits(reader.u32("a piece's score")?);
            let length = reader.u32("a piece's length")?.cast_signed();
            let Ok(length) = u64::try_from(length) else {
                let reason = format!("the length of piece {id} is {length}");
                return Err(ErrorKind::Tokenizer { reason }.into());
            };
            let kind = match id {
                0 => PieceKind::Unknown,
                1 | 2 => PieceKind::Control,
                _ => PieceKind::Normal,
            };
            vocab.push(reader.take(length, "a piece's text")?, score, kind)?;
        }
        vocab.mark_bytes(3);
        let vocab = vocab.build()?;

        let control = |id| (vocab.kind(id) == Some(PieceKind::Control)).then_some(id);
        let (bos, eos) = (control(1), control(2));
        // Their names may stand between newlines.
        let named = (0..3).filter_map(|id| Some((id, vocab.piece(id)?.trim_ascii(), Strip::default())));
        Ok(Self {
            named: Arc::new(UserDefined::new(named)),
            vocab: Arc::new(vocab),
            algorithm: Algorithm::SentencePiece { dummy_prefix: true },
            user_defined: None,
            rules: None,
            bos,
            eos,
            end_of_generation: bos.into_iter().chain(eos).collect(),
            add_bos: true,
            add_eos: false,
        })
    }
}
