//! SentencePiece's byte-pair encoding: merge neighbors, the best score first, until no merge is
//! left.
//!
//! Invariant: the symbols tile the text. A symbol is named by the byte it starts at, and where it
//! ends the next one starts, so the doubly linked list of symbols is two arrays: lengths, which
//! link forwards, and the starts of the symbols before. A merge only lengthens the left symbol and
//! empties the right one; hence a candidate in the heap is still true exactly if its left symbol is
//! alive and the pair has the length that it had.
//!
//! A merge is looked up by the text of both symbols together, and it does not matter whether either
//! of them is a piece. That takes O(n log n), where scanning all pairs before each merge takes
//! O(n²).
//!
//! Source: Kudo and Richardson 2018 (arXiv 1808.06226) and the behavior of its reference
//! implementation.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::PieceKind;
use super::vocab::Vocab;
use crate::error::TokenId;

/// What SentencePiece writes for a space. Pieces here have the space itself.
pub(super) const SPACE_MARK: char = '\u{2581}';

/// Text is encoded at most this number of bytes at a time, which keeps positions in 32 bits.
const MAX_CHUNK: usize = 1 << 30;

/// Appends the tokens of `text`, with a dummy prefix before it if it is to have one, unless it is
/// empty.
pub(super) fn encode(vocab: &Vocab, text: &str, dummy_prefix: bool, tokens: &mut Vec<TokenId>) {
    if text.is_empty() {
        return;
    }
    let mut normalized = String::with_capacity(text.len() + 1);
    if dummy_prefix {
        normalized.push(' ');
    }
    for (i, run) in text.split(SPACE_MARK).enumerate() {
        if i > 0 {
            normalized.push(' ');
        }
        normalized.push_str(run);
    }

    let mut rest = normalized.as_str();
    while !rest.is_empty() {
        let (chunk, tail) = split_within(rest, MAX_CHUNK);
        let merger = Merger::new(vocab, chunk).merge();
        let mut after_unknown = false;
        for symbol in merger.symbols() {
            merger.emit(symbol, &mut after_unknown, tokens);
        }
        rest = tail;
    }
}

/// Splits text after the last character that ends within `max` bytes.
fn split_within(text: &str, max: usize) -> (&str, &str) {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.split_at(end)
}

/// A possible merge. The greatest is the next to be made: the best score, and of equals the
/// leftmost.
#[derive(Clone, Copy)]
struct Candidate {
    score: f32,
    /// Where the left symbol starts.
    left: u32,
    /// Bytes in both symbols.
    length: u32,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // No score is NaN, and adding 0 makes -0 equal to 0, as in run.c and SentencePiece 0.2.0.
        // SentencePiece 0.2.3 puts -0 below 0: it matters only to a vocabulary with both, unlike
        // Llama 2's or the bundled one.
        let key = |c: &Self| (Reverse(c.left), Reverse(c.length));
        (self.score + 0.0).total_cmp(&(other.score + 0.0)).then_with(|| key(self).cmp(&key(other)))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

/// A text on its way from characters to tokens.
struct Merger<'a> {
    vocab: &'a Vocab,
    text: &'a str,
    /// Bytes in the symbol that starts here; 0 where none does.
    lengths: Vec<u32>, // (text.len())
    /// Where the symbol before the one that starts here starts.
    previous: Vec<u32>, // (text.len())
    /// For each unused piece that a merge may make, the length of the left part that it was last
    /// seen with.
    unused: HashMap<TokenId, u32>,
}

impl<'a> Merger<'a> {
    /// One symbol for each character.
    fn new(vocab: &'a Vocab, text: &'a str) -> Self {
        let mut lengths = vec![0; text.len()];
        let mut previous = vec![0; text.len()];
        let mut before = 0;
        for (start, c) in text.char_indices() {
            lengths[start] = c.len_utf8() as u32;
            previous[start] = before;
            before = start as u32;
        }
        Self { vocab, text, lengths, previous, unused: HashMap::new() }
    }

    /// Merges until no merge is left.
    fn merge(mut self) -> Self {
        let text = self.text;
        let starts = text.char_indices().map(|(start, _)| start as u32);
        let mut candidates: BinaryHeap<_> = starts.filter_map(|left| self.candidate(left)).collect();

        while let Some(Candidate { left, length, .. }) = candidates.pop() {
            let Some(right) = self.next(left) else { continue };
            if self.length(left) + self.length(right) != length {
                continue;
            }
            self.lengths[left as usize] = length;
            self.lengths[right as usize] = 0;
            if let Some(next) = self.next(left) {
                self.previous[next as usize] = left;
            }
            if left > 0 {
                candidates.extend(self.candidate(self.previous[left as usize]));
            }
            candidates.extend(self.candidate(left));
        }
        self
    }

    /// The texts of the symbols.
    fn symbols(&self) -> impl Iterator<Item = &'a str> {
        let mut start = 0;
        std::iter::from_fn(move || {
            let symbol = &self.text[start..start + *self.lengths.get(start)? as usize];
            start += symbol.len();
            Some(symbol)
        })
    }

    /// Appends the tokens of a symbol. `after_unknown` is whether the one before was unknown, and
    /// then whether this is.
    ///
    /// An unused piece is taken apart again, into what it was last seen to be merged from.
    fn emit(&self, symbol: &'a str, after_unknown: &mut bool, tokens: &mut Vec<TokenId>) {
        let mut symbols = vec![symbol];
        while let Some(symbol) = symbols.pop() {
            let found = self.vocab.find(symbol.as_bytes());
            let used = found.filter(|&id| self.vocab.kind(id) != Some(PieceKind::Unused));
            let left = found.filter(|_| used.is_none()).and_then(|id| self.unused.get(&id));
            if let Some(&left) = left {
                let (left, right) = symbol.split_at(left as usize);
                symbols.extend([right, left]);
                continue;
            }
            // To SentencePiece a space is the mark, so a vocabulary that has neither spells the
            // mark.
            let mut mark = [0; 4];
            let spelled = if symbol == " " { SPACE_MARK.encode_utf8(&mut mark) } else { symbol };
            let is_known = match used {
                Some(id) => {
                    tokens.push(id);
                    true
                }
                None => self.vocab.spell(spelled, tokens).is_some(),
            };
            if !is_known && !*after_unknown {
                // A run of symbols without pieces and bytes is one unknown token.
                tokens.extend(self.vocab.unknown());
            }
            *after_unknown = !is_known;
        }
    }

    /// The merge of the symbol that starts at `left` with the next one, if together they are a
    /// piece.
    fn candidate(&mut self, left: u32) -> Option<Candidate> {
        let right = self.next(left)?;
        let end = right + self.length(right);
        let id = self.vocab.find(&self.text.as_bytes()[left as usize..end as usize])?;
        if self.vocab.has_unused() && self.vocab.kind(id) == Some(PieceKind::Unused) {
            self.unused.insert(id, right - left);
        }
        Some(Candidate { score: self.vocab.score(id)?, left, length: end - left })
    }

    /// Where the symbol after the one that starts at `left` starts; `None` for the last one, and
    /// for one that is no more.
    fn next(&self, left: u32) -> Option<u32> {
        let length = self.length(left);
        let next = left + length;
        (length > 0 && (next as usize) < self.text.len()).then_some(next)
    }

    fn length(&self, start: u32) -> u32 {
        self.lengths[start as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_end_between_characters() {
        assert_eq!(split_within("a\u{e9}b", 9), ("a\u{e9}b", ""));
        assert_eq!(split_within("a\u{e9}b", 3), ("a\u{e9}", "b"));
        assert_eq!(split_within("a\u{e9}b", 2), ("a", "\u{e9}b"));
    }
}
