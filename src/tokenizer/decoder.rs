//! From tokens back to text, one token at a time.
//!
//! Invariant: between calls `bytes` holds at most three bytes, the beginning of a character that
//! may yet be completed; all bytes before them have been handed out as text, each maximal
//! ill-formed part as one U+FFFD. So the pieces of text together are what
//! [`String::from_utf8_lossy`] makes of all the bytes, however the tokens cut them.
//!
//! Source: The Unicode Standard, section 3.9, "U+FFFD Substitution of Maximal Subparts".

use super::{PieceKind, Tokenizer};
use crate::error::TokenId;

/// Turns a stream of tokens into text, holding back bytes until they are whole characters.
///
/// SentencePiece puts a dummy prefix before every text, so its decoder strips one leading space
/// from the first token of a text and from a token right after BOS; byte-level tokenizers have
/// none. It owns its buffers, which grow only for pieces of more than 60 bytes.
///
/// ```
/// # let mut file = 0_i32.to_le_bytes().to_vec();
/// # for piece in ["<unk>", "<s>", "</s>", " ", "a", "b", " a"] {
/// #     file.extend(0_f32.to_le_bytes());
/// #     file.extend((piece.len() as i32).to_le_bytes());
/// #     file.extend(piece.as_bytes());
/// # }
/// # let tokenizer = babyllama::Tokenizer::from_llama2c(&file)?;
/// let mut decoder = tokenizer.decoder();
/// assert_eq!(decoder.push(&tokenizer, 6), "a");
/// assert_eq!(decoder.push(&tokenizer, 6), " a");
/// assert_eq!(decoder.finish(), "");
/// # Ok::<(), babyllama::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Decoder {
    /// The next token is the first of a text.
    at_start: bool,
    /// Bytes that are not text yet.
    bytes: Vec<u8>,
    /// What the last call returned.
    text: String,
}

impl Decoder {
    pub(super) fn new(at_start: bool) -> Self {
        // Enough for nearly every piece and what was held back before it, so that none in the
        // middle of a text allocates.
        Self { at_start, bytes: Vec::with_capacity(64), text: String::with_capacity(64) }
    }

    /// Whether the next token is the first of a text, and the bytes that are not text yet.
    pub(crate) fn state(&self) -> (bool, &[u8]) {
        (self.at_start, &self.bytes)
    }

    /// The decoder that was in this [`state`](Self::state).
    pub(crate) fn from_state(at_start: bool, bytes: &[u8]) -> Self {
        let mut decoder = Self::new(at_start);
        decoder.bytes.extend_from_slice(bytes);
        decoder
    }

    /// Adds a token and returns the text that it completes, often its piece, and empty inside a
    /// character.
    ///
    /// `tokenizer` should be the one that made the decoder. Control tokens have no text. An id
    /// beyond the vocabulary (a padded model has more logits than there are pieces) changes
    /// nothing.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: TokenId) -> &str {
        self.text.clear();
        let Some(kind) = tokenizer.kind(id) else { return &self.text };
        let bytes = tokenizer.bytes(id);
        let is_text = matches!(kind, PieceKind::Normal | PieceKind::UserDefined);
        let dummy = self.at_start && is_text && tokenizer.strips_dummy_prefix();
        let bytes = if dummy { bytes.strip_prefix(b" ").unwrap_or(bytes) } else { bytes };
        self.at_start = tokenizer.bos() == Some(id);
        self.push_bytes(bytes);
        &self.text
    }

    /// Ends the text: returns U+FFFD if a character is incomplete, else nothing.
    ///
    /// The decoder is then ready for another text, at its start.
    pub fn finish(&mut self) -> &str {
        self.text.clear();
        if !self.bytes.is_empty() {
            self.text.push(char::REPLACEMENT_CHARACTER);
        }
        self.bytes.clear();
        self.at_start = true;
        &self.text
    }

    /// Moves what is text from the bytes to `text`.
    fn push_bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let mut done = 0;
        for chunk in self.bytes.utf8_chunks() {
            self.text.push_str(chunk.valid());
            done += chunk.valid().len();
            if is_incomplete(chunk.invalid()) && done + chunk.invalid().len() == self.bytes.len() {
                break;
            }
            if !chunk.invalid().is_empty() {
                self.text.push(char::REPLACEMENT_CHARACTER);
                done += chunk.invalid().len();
            }
        }
        self.bytes.drain(..done);
    }
}

/// Whether ill-formed bytes are the beginning of a character, so that more bytes could make them
/// well-formed.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that are often nearly UTF-8.
    fn ill_formed_bytes() -> impl Strategy<Value = Vec<u8>> {
        let awkward = prop::sample::select(vec![
            0x61, 0x80, 0xbf, 0xc2, 0xe0, 0xed, 0xef, 0xf0, 0x9f, 0x90, 0xa0, 0xf4, 0xff,
        ]);
        let character = any::<char>().prop_map(|c| c.to_string().into_bytes());
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..6),
            proptest::collection::vec(awkward, 0..6),
            (character, 0..5_usize).prop_map(|(bytes, n)| bytes[..n.min(bytes.len())].to_vec()),
        ]
    }

    proptest! {
        #[test]
        fn decoder_replaces_what_from_utf8_lossy_replaces(
            parts in proptest::collection::vec(ill_formed_bytes(), 0..12),
        ) {
            let mut decoder = Decoder::new(true);
            let mut text = String::new();
            for part in &parts {
                decoder.text.clear();
                decoder.push_bytes(part);
                text.push_str(&decoder.text);
                prop_assert!(decoder.bytes.len() < 4);
            }
            text.push_str(decoder.finish());
            let bytes = parts.concat();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn decoder_keeps_its_buffers() {
        let tokenizer =
            Tokenizer::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf")).unwrap();
        let ids = tokenizer.encode("Once upon a time \u{1f999} there was");
        let mut decoder = tokenizer.decoder();
        let mut run = || {
            for &id in &ids {
                decoder.push(&tokenizer, id);
            }
            (decoder.bytes.as_ptr(), decoder.text.as_ptr())
        };
        assert_eq!(run(), run());
    }
}
