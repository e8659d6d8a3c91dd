//! Byte-level byte-pair encoding: merge neighbors, the merge of lowest rank first, until no merge
//! is left.
//!
//! A text is cut into words, and a word begins as one symbol for each of its bytes. A symbol is a
//! number: a piece's id, or a number beyond the vocabulary for text that only merges name. Two
//! symbols are merged by looking their numbers up.
//!
//! Invariant: in a word the symbols tile the bytes. A symbol is named by the byte it starts at, and
//! every merge removes one, so there are fewer merges than bytes whatever the table says. A
//! candidate in the heap is still true exactly if its left symbol is alive and the pair ends where
//! it did: symbols only grow, so both are then what they were.
//!
//! Source: Sennrich, Haddow and Birch 2016 (arXiv 1508.07909); GPT-2's `encoder.py` for the
//! alphabet.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use super::hash::Keys;
use super::pre::PreTokenizer;
use super::vocab::Vocab;
use crate::error::{ErrorKind, Result, TokenId};

/// A word is encoded at most this number of bytes at a time, which keeps positions in 32 bits.
const MAX_CHUNK: usize = 1 << 30;

/// Merges that a tokenizer may have. The largest in use have about 2^19.
const MAX_MERGES: usize = 1 << 26;

/// A piece's id, or a number that no piece has.
type Symbol = u32;

/// What turns text into tokens, besides the pieces.
pub(super) struct BytePairs {
    pre: PreTokenizer,
    merges: Merges,
    /// The symbol of each byte.
    bytes: Box<[Symbol; 256]>,
    /// Symbols that are no piece, only a step between merges: their numbers are those from the
    /// vocabulary's size up. They become the tokens of their bytes.
    intermediate: Vec<Box<[u8]>>,
}

impl BytePairs {
    /// Reads merges, each two texts in GPT-2's alphabet with a space between, the first one to be
    /// made first.
    pub(super) fn new(vocab: &Vocab, pre: PreTokenizer, merges: &[Cow<'_, [u8]>]) -> Result<Self> {
        if merges.len() > MAX_MERGES {
            let reason = format!("more than {MAX_MERGES} merges");
            return Err(ErrorKind::Tokenizer { reason }.into());
        }
        let mut symbols = Symbols { vocab, intermediate: Vec::new(), by_text: HashMap::new() };
        let bytes = Box::new(std::array::from_fn(|byte| {
            let byte = [byte as u8];
            symbols.of(&byte, vocab.find(&byte))
        }));
        let mut table = Merges::new(merges.len());
        let mut batch = Batch::default();
        let mut result = 0;
        for (n, merges) in merges.chunks(BATCH).enumerate() {
            batch.read(merges, (n * BATCH) as u32);
            vocab.find_each(&batch.text, &batch.parts, &mut batch.found);
            batch.merges.clear();
            let pairs = batch.parts.chunks_exact(2).zip(batch.found.chunks_exact(2));
            for ((parts, found), &rank) in pairs.zip(&batch.ranks) {
                let text = |range: Range<usize>| &batch.text[range];
                let [left, right] = [0, 1].map(|side| symbols.of(text(parts[side].clone()), found[side]));
                // In most files pieces have the order of the merges that make them.
                let whole = text(parts[0].start..parts[1].end);
                result = symbols.of(whole, vocab.find_near(whole, result));
                batch.merges.push(Merge { pair: (left, right), rank, result });
            }
            batch.merges.iter().for_each(|&merge| table.insert(merge));
        }
        Ok(Self { pre, merges: table, bytes, intermediate: symbols.intermediate })
    }

    /// Appends the tokens of `text`.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, tokens: &mut Vec<TokenId>) {
        let mut word = Word::default();
        self.pre.split(text, &mut |part| {
            let whole = if self.pre.whole_words { vocab.find(part.as_bytes()) } else { None };
            if let Some(id) = whole {
                tokens.push(id);
                return;
            }
            for chunk in part.as_bytes().chunks(MAX_CHUNK) {
                word.merge(self, chunk);
                self.emit(vocab, &word.symbols, tokens);
            }
        });
    }

    /// Appends the tokens of symbols. A byte that has no piece has no token.
    fn emit(&self, vocab: &Vocab, symbols: &[Symbol], tokens: &mut Vec<TokenId>) {
        let is_piece = |symbol: Symbol| (symbol as usize) < vocab.len();
        for &symbol in symbols.iter().filter(|&&symbol| symbol != DEAD) {
            if is_piece(symbol) {
                tokens.push(symbol);
            } else {
                let bytes = &self.intermediate[symbol as usize - vocab.len()];
                let symbols = bytes.iter().map(|&byte| self.bytes[usize::from(byte)]);
                tokens.extend(symbols.filter(|&symbol| is_piece(symbol)));
            }
        }
    }
}

/// Merges that are looked up together.
///
/// Each step goes over all of them before the next one does, so that the processor waits for many
/// places in memory at once: a table of 280,000 merges is then read in less than half the time.
const BATCH: usize = 128;

#[derive(Default)]
struct Batch {
    /// The texts of all merges.
    text: Vec<u8>,
    /// Where the left part of each merge, and its right part, lie in it.
    parts: Vec<Range<usize>>, // (2 * merges)
    /// The piece that each part is.
    found: Vec<Option<TokenId>>, // (2 * merges)
    ranks: Vec<u32>, // (merges)
    merges: Vec<Merge>,
}

impl Batch {
    /// Reads merges, the first of which has a rank. What is not in the alphabet is never made, and
    /// left out, as is what isn't two texts.
    fn read(&mut self, merges: &[Cow<'_, [u8]>], first: u32) {
        self.text.clear();
        self.parts.clear();
        self.ranks.clear();
        for (rank, merge) in (first..).zip(merges) {
            // The first text may begin with a space, as other readers take it, though this alphabet
            // has none.
            let Some(space) = merge.iter().skip(1).position(|&byte| byte == b' ') else {
                continue; // It joins nothing.
            };
            let start = self.text.len();
            let left = decode_alphabet(&merge[..space + 1], &mut self.text);
            let middle = self.text.len();
            let right = decode_alphabet(&merge[space + 2..], &mut self.text);
            let end = self.text.len();
            if left.and(right).is_none() || middle == end {
                self.text.truncate(start);
                continue;
            }
            self.parts.extend([start..middle, middle..end]);
            self.ranks.push(rank);
        }
    }
}

/// Encoding texts.
struct Symbols<'a> {
    vocab: &'a Vocab,
    intermediate: Vec<Box<[u8]>>,
    by_text: HashMap<Box<[u8]>, Symbol>,
}

impl Symbols<'_> {
    /// The number of a text: its piece if text may become that, else one of its own.
    fn of(&mut self, text: &[u8], piece: Option<TokenId>) -> Symbol {
        if let Some(id) = piece {
            return id;
        }
        if let Some(&symbol) = self.by_text.get(text) {
            return symbol;
        }
        let symbol = (self.vocab.len() + self.intermediate.len()) as Symbol;
        self.intermediate.push(text.into());
        self.by_text.insert(text.into(), symbol);
        symbol
    }
}

/// Two symbols that may become one.
#[derive(Clone, Copy)]
struct Merge {
    pair: (Symbol, Symbol),
    /// Merges of lower rank go first.
    rank: u32,
    result: Symbol,
}

/// A merge for each pair that has one.
///
/// Open addressing with linear probing. Invariant: at least a third of the slots, whose number is a
/// power of two, is empty, so a probe always meets one.
struct Merges {
    /// An empty slot has the pair (`DEAD`, `DEAD`).
    slots: Vec<Merge>,
    keys: Keys,
}

impl Merges {
    /// A table for `count` merges.
    fn new(count: usize) -> Self {
        let empty = Merge { pair: (DEAD, DEAD), rank: 0, result: DEAD };
        Self { slots: vec![empty; (count + count / 2 + 1).next_power_of_two()], keys: Keys::random() }
    }

    /// Adds a merge, unless its pair has one.
    fn insert(&mut self, merge: Merge) {
        let slot = self.slot(merge.pair);
        if self.slots[slot].pair != merge.pair {
            self.slots[slot] = merge;
        }
    }

    fn get(&self, pair: (Symbol, Symbol)) -> Option<&Merge> {
        Some(&self.slots[self.slot(pair)]).filter(|merge| merge.pair == pair)
    }

    /// The slot of a pair, or the empty one where it belongs.
    fn slot(&self, (left, right): (Symbol, Symbol)) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = self.keys.number(u64::from(left) << 32 | u64::from(right)) as usize;
        loop {
            slot &= mask;
            let found = self.slots[slot].pair;
            if found == (left, right) || found == (DEAD, DEAD) {
                return slot;
            }
            slot += 1;
        }
    }
}

/// Where no symbol starts. No symbol has this number: [`MAX_MERGES`] and the vocabulary are far
/// smaller.
const DEAD: Symbol = Symbol::MAX;

/// Rank, where the left symbol starts, where the right one ends, and what both become. The greatest
/// is the next to make: the lowest rank, and of equals the leftmost.
type Candidate = Reverse<(u32, u32, u32, Symbol)>;

/// A word on its way from bytes to tokens. Its buffers serve one word after another.
#[derive(Default)]
struct Word {
    /// The symbol that starts here, or [`DEAD`].
    symbols: Vec<Symbol>, // (bytes)
    /// Where the symbol that starts here ends.
    ends: Vec<u32>, // (bytes)
    /// Where the symbol before the one that starts here starts.
    previous: Vec<u32>, // (bytes)
    candidates: BinaryHeap<Candidate>,
}

impl Word {
    /// Sets `symbols` to those of `bytes` when no merge is left.
    fn merge(&mut self, pairs: &BytePairs, bytes: &[u8]) {
        let length = bytes.len() as u32;
        self.symbols.clear();
        self.symbols.extend(bytes.iter().map(|&byte| pairs.bytes[usize::from(byte)]));
        self.ends.clear();
        self.ends.extend(1..=length);
        self.previous.clear();
        self.previous.extend((0..length).map(|start| start.saturating_sub(1)));

        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.extend((0..length).filter_map(|left| self.candidate(&pairs.merges, left)));
        while let Some(Reverse((_, left, end, result))) = candidates.pop() {
            let right = self.ends[left as usize];
            if self.symbols[left as usize] == DEAD || right >= length || self.ends[right as usize] != end {
                continue;
            }
            self.symbols[left as usize] = result;
            self.symbols[right as usize] = DEAD;
            self.ends[left as usize] = end;
            if end < length {
                self.previous[end as usize] = left;
            }
            if left > 0 {
                candidates.extend(self.candidate(&pairs.merges, self.previous[left as usize]));
            }
            candidates.extend(self.candidate(&pairs.merges, left));
        }
        self.candidates = candidates;
    }

    /// The merge of the symbol that starts at `left` with the next one, if there is one.
    fn candidate(&self, merges: &Merges, left: u32) -> Option<Candidate> {
        let right = self.ends[left as usize];
        let pair = (self.symbols[left as usize], *self.symbols.get(right as usize)?);
        let merge = merges.get(pair)?;
        Some(Reverse((merge.rank, left, self.ends[right as usize], merge.result)))
    }
}

/// What each character of GPT-2's alphabet stands for, or [`NO_LETTER`].
///
/// The alphabet writes each byte as a visible character: most of Latin 1 as itself, the others as
/// U+0100 and up.
static LETTERS: [u16; 0x144] = {
    let mut letters = [NO_LETTER; 0x144];
    let mut others = 0;
    let mut byte = 0;
    while byte < 256 {
        let is_visible = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        letters[if is_visible { byte } else { 0x100 + others }] = byte as u16;
        others += !is_visible as usize;
        byte += 1;
    }
    letters
};

const NO_LETTER: u16 = u16::MAX;

/// Appends the bytes that a text in GPT-2's alphabet stands for, or `None` if it has other
/// characters.
pub(super) fn decode_alphabet(text: &[u8], bytes: &mut Vec<u8>) -> Option<()> {
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let c;
        (c, rest) = match (first, after) {
            (0..0x80, _) => (usize::from(*first), after),
            // A character of two bytes has 5 bits in the first and 6 in the second.
            (0xc2..0xe0, [second @ 0x80..0xc0, after @ ..]) => {
                (usize::from(first & 0x1f) << 6 | usize::from(second & 0x3f), after)
            }
            _ => return None,
        };
        let byte = *LETTERS.get(c)?;
        bytes.push(u8::try_from(byte).ok()?);
    }
    Some(())
}

/// Bytes as a text in GPT-2's alphabet.
#[cfg(feature = "convert")]
pub(crate) fn encode_alphabet(bytes: &[u8]) -> Vec<u8> {
    let letter = |byte: &u8| {
        let at = LETTERS.iter().position(|&stands_for| stands_for == u16::from(*byte));
        at.and_then(|at| char::from_u32(at as u32)).expect("every byte has a letter")
    };
    bytes.iter().map(letter).collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests;
