//! The vocabulary: every piece's bytes, score and kind, and a way back from bytes to the id.
//!
//! Invariant: `ends` has one entry for each piece, ascends and ends at `text.len()`, so every id
//! below [`Vocab::len`] names a valid slice; and `index` is a power of two at least twice the
//! number of pieces in it, so a probe always meets an empty slot. Memory is proportional to the
//! input: nothing here grows with a number that a file merely states.
//!
//! Source: SentencePiece's `sentencepiece_model.proto` for the kinds of piece.

use std::ops::Range;

use super::PieceKind;
use super::hash::Keys;
use crate::error::{ErrorKind, Result, TokenId};

/// The most pieces that a vocabulary may have. The largest in use have about 2^18.
const MAX_PIECES: usize = 1 << 24;

/// An index slot that holds no id. No id reaches it: [`MAX_PIECES`] is far smaller.
const EMPTY: TokenId = TokenId::MAX;

/// Every byte, so that a byte piece can lend a slice of its one byte.
static BYTES: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut i = 0;
    while i < 256 {
        bytes[i] = i as u8;
        i += 1;
    }
    bytes
};

/// What an unknown piece looks like in text: SentencePiece's default `unk_surface`.
const UNKNOWN_TEXT: &[u8] = " \u{2047} ".as_bytes();

/// Pieces on their way into a [`Vocab`].
#[derive(Debug, Default)]
pub(super) struct VocabBuilder {
    text: Vec<u8>,
    ends: Vec<u32>,
    scores: Vec<f32>,
    kinds: Vec<PieceKind>,
    /// Whether text may be merged to it.
    is_found: Vec<bool>,
}

impl VocabBuilder {
    /// Adds the next piece, to which text is merged if it is text or unused.
    pub(super) fn push(&mut self, piece: &[u8], score: f32, kind: PieceKind) -> Result<()> {
        self.push_found(piece, score, kind, matches!(kind, PieceKind::Normal | PieceKind::Unused))
    }

    /// Adds the next piece, and says whether text is merged to it.
    pub(super) fn push_found(
        &mut self,
        piece: &[u8],
        score: f32,
        kind: PieceKind,
        is_found: bool,
    ) -> Result<()> {
        let id = self.ends.len();
        let refuse = |reason: String| Err(ErrorKind::Tokenizer { reason }.into());
        if id == MAX_PIECES {
            return refuse(format!("more than {MAX_PIECES} pieces"));
        }
        if score.is_nan() {
            return refuse(format!("the score of piece {id} is not a number"));
        }
        let Some(end) = self.text.len().checked_add(piece.len()).and_then(|end| u32::try_from(end).ok())
        else {
            return refuse("the pieces have more than 4 GiB of text".into());
        };
        self.text.extend_from_slice(piece);
        self.ends.push(end);
        self.scores.push(score);
        self.kinds.push(kind);
        self.is_found.push(is_found && !piece.is_empty());
        Ok(())
    }

    /// Makes 256 pieces from `first` on byte pieces, if they read `<0x00>` to `<0xFF>`; else leaves
    /// all as they are.
    pub(super) fn mark_bytes(&mut self, first: usize) {
        let reads_as_bytes = (0..=u8::MAX).all(|byte| {
            let id = first + usize::from(byte);
            id < self.ends.len() && parse_byte(slice(&self.text, &self.ends, id)) == Some(byte)
        });
        if reads_as_bytes {
            self.kinds[first..first + 256].fill(PieceKind::Byte);
            self.is_found[first..first + 256].fill(false);
        }
    }

    /// The finished vocabulary, which has at least one piece.
    pub(super) fn build(self) -> Result<Vocab> {
        if self.ends.is_empty() {
            return Err(ErrorKind::Tokenizer { reason: "no pieces".into() }.into());
        }
        let Self { text, ends, scores, kinds, is_found } = self;
        let mut vocab = Vocab {
            text,
            ends,
            scores,
            kinds,
            byte_ids: Box::new([EMPTY; 256]),
            unknown: None,
            has_unused: false,
            longest: 0,
            index: Vec::new(),
            is_found,
            keys: Keys::random(),
        };
        let first = |kind| vocab.kinds.iter().position(|&k| k == kind).map(|id| id as TokenId);
        (vocab.unknown, vocab.has_unused) = (first(PieceKind::Unknown), first(PieceKind::Unused).is_some());
        vocab.collect_bytes();
        vocab.build_index();
        Ok(vocab)
    }
}

/// The pieces of a tokenizer. An id is a piece's position.
pub(super) struct Vocab {
    /// All pieces, one after the other.
    text: Vec<u8>,
    /// Where each piece ends in `text`; it starts where the one before ends.
    ends: Vec<u32>, // (n_pieces)
    scores: Vec<f32>,      // (n_pieces)
    kinds: Vec<PieceKind>, // (n_pieces)
    /// The id of each byte's piece, or [`EMPTY`].
    byte_ids: Box<[TokenId; 256]>,
    unknown: Option<TokenId>,
    /// Whether a piece is unused.
    has_unused: bool,
    /// Bytes in the longest piece of the index.
    longest: usize,
    /// Open addressing with linear probing: parts of the hashes and ids of pieces that text may be
    /// merged to, or [`EMPTY`]. By the hash most probes tell without the text, which is somewhere
    /// else in memory.
    index: Vec<(u32, TokenId)>,
    /// Whether a piece is in the index.
    is_found: Vec<bool>, // (n_pieces)
    keys: Keys,
}

impl Vocab {
    /// The number of pieces.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// A piece as the file writes it.
    pub(super) fn piece(&self, id: TokenId) -> Option<&[u8]> {
        ((id as usize) < self.len()).then(|| slice(&self.text, &self.ends, id as usize))
    }

    /// A piece's kind.
    pub(super) fn kind(&self, id: TokenId) -> Option<PieceKind> {
        self.kinds.get(id as usize).copied()
    }

    /// A piece's score: of two merges the one whose result has the higher score goes first.
    pub(super) fn score(&self, id: TokenId) -> Option<f32> {
        self.scores.get(id as usize).copied()
    }

    /// The bytes that a token stands for in text.
    pub(super) fn bytes(&self, id: TokenId) -> &[u8] {
        let Some((kind, piece)) = self.kind(id).zip(self.piece(id)) else { return &[] };
        match kind {
            PieceKind::Normal | PieceKind::UserDefined => piece,
            PieceKind::Unknown => UNKNOWN_TEXT,
            PieceKind::Control | PieceKind::Unused => &[],
            PieceKind::Byte => match parse_byte(piece) {
                Some(byte) => &BYTES[usize::from(byte)..][..1],
                None => piece,
            },
        }
    }

    /// Appends the pieces of a text's bytes, if each of them has one.
    pub(super) fn spell(&self, text: &str, tokens: &mut Vec<TokenId>) -> Option<()> {
        let ids = || text.bytes().map(|byte| self.byte_ids[usize::from(byte)]);
        if ids().any(|id| id == EMPTY) {
            return None;
        }
        tokens.extend(ids());
        Some(())
    }

    /// The first unknown piece, which stands for text that no other piece can.
    pub(super) fn unknown(&self) -> Option<TokenId> {
        self.unknown
    }

    /// Makes a piece stand for text that no other piece can.
    pub(super) fn set_unknown(&mut self, id: TokenId) {
        self.unknown = Some(id);
    }

    /// Whether a piece is unused.
    pub(super) fn has_unused(&self) -> bool {
        self.has_unused
    }

    /// The first piece that reads `piece` and that text may be merged to: normal ones, unused ones,
    /// and user-defined ones of SentencePiece.
    pub(super) fn find(&self, piece: &[u8]) -> Option<TokenId> {
        if piece.is_empty() || piece.len() > self.longest {
            return None;
        }
        let (_, id) = self.index[self.slot(piece, self.keys.bytes(piece))];
        (id != EMPTY).then_some(id)
    }

    /// What [`find`](Self::find) finds for each of some parts of a text. Faster than one after
    /// another: no look into memory has to wait for the one before.
    pub(super) fn find_each(&self, text: &[u8], parts: &[Range<usize>], found: &mut Vec<Option<TokenId>>) {
        let mask = self.index.len() - 1;
        let look = |part: &Range<usize>| {
            let hash = self.keys.bytes(&text[part.clone()]);
            (hash, self.index[hash as usize & mask])
        };
        let looks: Vec<_> = parts.iter().map(look).collect();
        found.clear();
        found.extend(parts.iter().zip(looks).map(|(part, (hash, (tag, id)))| {
            let piece = &text[part.clone()];
            let is_it = id != EMPTY && tag == tag_of(hash) && self.piece(id) == Some(piece);
            if is_it { Some(id) } else { self.find(piece) }
        }));
    }

    /// As [`find`](Self::find), and faster if it is the piece `likely` or the one after it.
    pub(super) fn find_near(&self, piece: &[u8], likely: TokenId) -> Option<TokenId> {
        let is_it =
            |&id: &TokenId| self.is_found.get(id as usize) == Some(&true) && self.piece(id) == Some(piece);
        [likely, likely.saturating_add(1)].into_iter().find(is_it).or_else(|| self.find(piece))
    }

    /// The slot that holds `piece`, or the empty one where it belongs. The index must not be empty.
    fn slot(&self, piece: &[u8], hash: u64) -> usize {
        let mask = self.index.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            let (tag, id) = self.index[slot];
            if id == EMPTY || (tag == tag_of(hash) && self.piece(id) == Some(piece)) {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }

    fn build_index(&mut self) {
        let count = self.is_found.iter().filter(|&&is_found| is_found).count();
        self.index = vec![(0, EMPTY); (2 * count).next_power_of_two()];
        // Of equal pieces the first is found, and one that is text before one that isn't: not an
        // unused one, nor the one that stands for what is unknown.
        for without_text in [false, true] {
            for id in self.ids() {
                let has_no_text = matches!(self.kinds[id as usize], PieceKind::Unused | PieceKind::Unknown);
                if !self.is_found[id as usize] || has_no_text != without_text {
                    continue;
                }
                let piece = slice(&self.text, &self.ends, id as usize);
                let hash = self.keys.bytes(piece);
                let slot = self.slot(piece, hash);
                self.longest = self.longest.max(piece.len());
                self.is_found[id as usize] = self.index[slot].1 == EMPTY;
                if self.is_found[id as usize] {
                    self.index[slot] = (tag_of(hash), id);
                }
            }
        }
    }

    fn collect_bytes(&mut self) {
        for id in self.ids().rev() {
            if let (Some(PieceKind::Byte), &[byte]) = (self.kind(id), self.bytes(id)) {
                self.byte_ids[usize::from(byte)] = id;
            }
        }
    }

    /// All pieces of a kind and their ids.
    pub(super) fn of_kind(&self, kind: PieceKind) -> impl Iterator<Item = (TokenId, &[u8])> {
        let ids = self.ids().filter(move |&id| self.kinds[id as usize] == kind);
        ids.map(|id| (id, slice(&self.text, &self.ends, id as usize)))
    }

    fn ids(&self) -> Range<TokenId> {
        0..self.len() as TokenId
    }
}

/// The part of a hash that the index keeps: not the one that says where it looks first.
fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// Piece `id` of those that end at `ends`.
fn slice<'a>(text: &'a [u8], ends: &[u32], id: usize) -> &'a [u8] {
    let start = if id == 0 { 0 } else { ends[id - 1] };
    &text[start as usize..ends[id] as usize]
}

/// The byte that a byte piece names: `<0x0A>` is 10.
pub(super) fn parse_byte(piece: &[u8]) -> Option<u8> {
    let [b'<', b'0', b'x', high, low, b'>'] = piece else { return None };
    let digit = |c: u8| char::from(c).to_digit(16).filter(|_| !c.is_ascii_lowercase());
    u8::try_from(16 * digit(*high)? + digit(*low)?).ok()
}
