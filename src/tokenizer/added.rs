//! Tokens that were added to a vocabulary, as Hugging Face's tokenizers take them out of a text.
//!
//! There are three rounds: first in the text as it is; then in what is left of it; and last in the
//! text that pieces are merged in, which has one more space in front. In each the token that begins
//! first is taken, and the longest of those that begin there. SentencePiece's user-defined symbols
//! are found like tokens of the last round.
//!
//! Invariant: each token's text is UTF-8 and not empty, so that what is left of a text is text; and
//! no round takes more than linear time, except for the number of lengths that tokens have.
//!
//! Source: the behavior of `added_vocabulary.rs` in the tokenizers repository, and of
//! SentencePiece's prefix matcher.

use std::collections::HashMap;
use std::ops::Range;

use super::PieceKind;
use super::spec::{PieceSpec, with_plain_spaces};
use super::user_defined::Fragment;
use crate::error::TokenId;

/// How a token is found: white space in front is taken with it.
pub(crate) const STRIP_LEFT: u32 = 1;
/// White space after it is taken with it.
pub(crate) const STRIP_RIGHT: u32 = 2;
/// It is only found where no letter, digit or underscore touches it.
pub(crate) const SINGLE_WORD: u32 = 4;
/// It is found in the second round.
pub(crate) const SECOND_ROUND: u32 = 8;
/// It is found in the third round.
pub(crate) const NORMALIZED: u32 = 16;
/// It has a space in front, as the dummy prefix is put before it too.
pub(crate) const PREFIXED: u32 = 32;

/// It is never found.
pub(crate) const NEVER: u32 = 64;

/// The tokens of the three rounds.
#[derive(Debug, Default)]
pub(super) struct AddedTokens([Round; 3]);

impl AddedTokens {
    /// The tokens with these flags, and all user-defined pieces: those that have none are found in
    /// the first round.
    pub(super) fn new(
        flags: &[(TokenId, u32)],
        pieces: &[PieceSpec<'_>],
        kind: impl Fn(TokenId) -> Option<PieceKind>,
    ) -> Self {
        let flags: HashMap<TokenId, u32> = flags.iter().copied().collect();
        let mut these = Self::default();
        for (id, piece) in (0..).zip(pieces) {
            let known = flags.get(&id).copied();
            // The name of a control token is text like any other.
            if kind(id) == Some(PieceKind::UserDefined)
                || known.is_some() && kind(id) == Some(PieceKind::Normal)
            {
                these.add(id, &piece.text, known.unwrap_or(0));
            }
        }
        these.0.iter_mut().for_each(Round::sort);
        these
    }

    fn add(&mut self, id: TokenId, text: &[u8], flags: u32) {
        if flags & NEVER != 0 {
            return;
        }
        let round = if flags & NORMALIZED != 0 { 2 } else { usize::from(flags & SECOND_ROUND != 0) };
        let mut text = if round == 2 { with_plain_spaces(text) } else { text.to_vec() };
        if flags & PREFIXED != 0 {
            text.insert(0, b' ');
        }
        self.0[round].add(id, text, flags);
    }

    /// Cuts a text into tokens of the first two rounds and what lies between. No fragment of text
    /// is empty.
    pub(super) fn split<'a>(&self, text: &'a str) -> Vec<Fragment<'a>> {
        let mut fragments = Vec::new();
        for fragment in self.0[0].split(text, false) {
            match fragment {
                Fragment::Token(_) => fragments.push(fragment),
                Fragment::Text(text) => fragments.extend(self.0[1].split(text, false)),
            }
        }
        fragments
    }

    /// Cuts a text in which U+2581 is a space into tokens of the third round and what lies between.
    pub(super) fn split_normalized<'a>(&self, text: &'a str) -> Vec<Fragment<'a>> {
        self.0[2].split(text, true)
    }
}

/// Tokens that are looked for together.
#[derive(Debug)]
struct Round {
    /// Of equal texts the first has the id.
    tokens: HashMap<Box<[u8]>, (TokenId, u32)>,
    /// The lengths that they have, the greatest first.
    lengths: Vec<usize>,
    /// Whether one begins with a byte.
    firsts: [bool; 256],
}

impl Default for Round {
    fn default() -> Self {
        Self { tokens: HashMap::new(), lengths: Vec::new(), firsts: [false; 256] }
    }
}

impl Round {
    fn add(&mut self, id: TokenId, text: Vec<u8>, flags: u32) {
        // What is no UTF-8 is never found in text.
        let Some((&first, _)) = text.first().zip(std::str::from_utf8(&text).ok()) else { return };
        self.firsts[usize::from(first)] = true;
        self.lengths.push(text.len());
        self.tokens.entry(text.into()).or_insert((id, flags));
    }

    fn sort(&mut self) {
        self.lengths.sort_unstable_by(|a, b| b.cmp(a));
        self.lengths.dedup();
    }

    /// The first token in a text from a place on, and the longest of those that begin there.
    fn find(&self, text: &str, from: usize) -> Option<(Range<usize>, TokenId, u32)> {
        let bytes = text.as_bytes();
        let mut starts = (from..bytes.len()).filter(|&start| self.firsts[usize::from(bytes[start])]);
        starts.find_map(|start| {
            self.lengths.iter().find_map(|length| {
                let range = start..start + length;
                let &(id, flags) = self.tokens.get(bytes.get(range.clone())?)?;
                Some((range, id, flags))
            })
        })
    }

    /// Cuts a text into tokens and what lies between.
    fn split<'a>(&self, text: &'a str, normalized: bool) -> Vec<Fragment<'a>> {
        // A space of the last round is U+2581 to whoever asks what is white.
        let is_white = |c: char| c.is_whitespace() && !(normalized && c == ' ');
        let is_word = |c: Option<char>| c.is_some_and(is_word);
        let mut fragments = Vec::new();
        // What is in fragments, and where the next token may begin.
        let (mut done, mut from) = (0, 0);
        while let Some((Range { mut start, mut end }, id, flags)) = self.find(text, from) {
            from = end;
            let (before, after) = (&text[..start], &text[end..]);
            if flags & SINGLE_WORD != 0
                && (is_word(before.chars().next_back()) || is_word(after.chars().next()))
            {
                continue;
            }
            if flags & STRIP_LEFT != 0 {
                start = before.trim_end_matches(is_white).len();
            }
            if flags & STRIP_RIGHT != 0 {
                end = text.len() - after.trim_start_matches(is_white).len();
            }
            if done < start {
                fragments.push(Fragment::Text(&text[done..start]));
            }
            fragments.push(Fragment::Token(id));
            done = end.max(done);
        }
        if done < text.len() {
            fragments.push(Fragment::Text(&text[done..]));
        }
        fragments
    }
}

/// Whether a character is `\w`: a letter, a mark, a decimal digit, what joins words, or a joiner.
fn is_word(c: char) -> bool {
    c.is_alphabetic() || OTHER_WORD.partition_point(|&start| start <= u32::from(c)) % 2 == 1
}

/// Where characters begin, and where they end, that are `\w` but not alphabetic to the standard
/// library.
///
/// Source: The Unicode Character Database, by way of what tokenizers 0.23.3 takes for `\w`:
/// `[[\p{M}\p{Nd}\p{Pc}\p{Join_Control}]--\p{Alphabetic}]`.
#[rustfmt::skip]
static OTHER_WORD: [u32; 504] = [
    48, 58, 95, 96, 768, 837, 838, 867, 1155, 1162, 1425, 1456, 1624, 1625, 1632, 1642, 1759, 1761,
    1770, 1773, 1776, 1786, 1856, 1867, 1984, 1994, 2027, 2036, 2045, 2046, 2072, 2074, 2093, 2094,
    2137, 2140, 2200, 2208, 2250, 2260, 2272, 2274, 2282, 2288, 2364, 2365, 2381, 2382, 2385, 2389,
    2406, 2416, 2492, 2493, 2509, 2510, 2534, 2544, 2558, 2559, 2620, 2621, 2637, 2638, 2662, 2672,
    2748, 2749, 2765, 2766, 2790, 2800, 2813, 2816, 2876, 2877, 2893, 2894, 2901, 2902, 2918, 2928,
    3021, 3022, 3046, 3056, 3132, 3133, 3149, 3150, 3174, 3184, 3260, 3261, 3277, 3278, 3302, 3312,
    3387, 3389, 3405, 3406, 3430, 3440, 3530, 3531, 3558, 3568, 3655, 3661, 3662, 3663, 3664, 3674,
    3770, 3771, 3784, 3789, 3790, 3791, 3792, 3802, 3864, 3866, 3872, 3882, 3893, 3894, 3895, 3896,
    3897, 3898, 3902, 3904, 3972, 3973, 3974, 3976, 4038, 4039, 4151, 4152, 4153, 4155, 4160, 4170,
    4240, 4250, 4957, 4960, 5908, 5910, 5940, 5941, 6068, 6070, 6089, 6100, 6109, 6110, 6112, 6122,
    6155, 6158, 6159, 6170, 6457, 6460, 6470, 6480, 6608, 6618, 6752, 6753, 6773, 6781, 6783, 6794,
    6800, 6810, 6832, 6847, 6849, 6860, 6964, 6965, 6980, 6981, 6992, 7002, 7019, 7028, 7082, 7084,
    7088, 7098, 7142, 7143, 7154, 7156, 7223, 7224, 7232, 7242, 7248, 7258, 7376, 7379, 7380, 7401,
    7405, 7406, 7412, 7413, 7415, 7418, 7616, 7635, 7669, 7680, 8204, 8206, 8255, 8257, 8276, 8277,
    8400, 8433, 11503, 11506, 11647, 11648, 12330, 12336, 12441, 12443, 42528, 42538, 42607, 42611,
    42620, 42622, 42736, 42738, 43014, 43015, 43052, 43053, 43204, 43205, 43216, 43226, 43232,
    43250, 43264, 43274, 43307, 43310, 43347, 43348, 43443, 43444, 43456, 43457, 43472, 43482,
    43504, 43514, 43600, 43610, 43711, 43712, 43713, 43714, 43766, 43767, 44012, 44014, 44016,
    44026, 65024, 65040, 65056, 65072, 65075, 65077, 65101, 65104, 65296, 65306, 65343, 65344,
    66045, 66046, 66272, 66273, 66720, 66730, 68152, 68155, 68159, 68160, 68325, 68327, 68912,
    68922, 68928, 68938, 68970, 68974, 69373, 69376, 69446, 69457, 69506, 69510, 69702, 69703,
    69734, 69745, 69759, 69760, 69817, 69819, 69872, 69882, 69939, 69941, 69942, 69952, 70003,
    70004, 70080, 70081, 70089, 70093, 70096, 70106, 70197, 70199, 70377, 70379, 70384, 70394,
    70459, 70461, 70477, 70478, 70502, 70509, 70512, 70517, 70606, 70609, 70610, 70611, 70625,
    70627, 70722, 70723, 70726, 70727, 70736, 70746, 70750, 70751, 70850, 70852, 70864, 70874,
    71103, 71105, 71231, 71232, 71248, 71258, 71350, 71352, 71360, 71370, 71376, 71396, 71467,
    71468, 71472, 71482, 71737, 71739, 71904, 71914, 71997, 71999, 72003, 72004, 72016, 72026,
    72160, 72161, 72243, 72245, 72263, 72264, 72344, 72346, 72688, 72698, 72767, 72768, 72784,
    72794, 73026, 73027, 73028, 73030, 73040, 73050, 73111, 73112, 73120, 73130, 73537, 73539,
    73552, 73563, 78912, 78913, 78919, 78934, 90415, 90426, 92768, 92778, 92864, 92874, 92912,
    92917, 92976, 92983, 93008, 93018, 93552, 93562, 94180, 94181, 113821, 113822, 118000, 118010,
    118528, 118574, 118576, 118599, 119141, 119146, 119149, 119155, 119163, 119171, 119173, 119180,
    119210, 119214, 119362, 119365, 120782, 120832, 121344, 121399, 121403, 121453, 121461, 121462,
    121476, 121477, 121499, 121504, 121505, 121520, 123184, 123191, 123200, 123210, 123566, 123567,
    123628, 123642, 124140, 124154, 124398, 124400, 124401, 124411, 125136, 125143, 125252, 125255,
    125256, 125259, 125264, 125274, 130032, 130042, 917760, 918000,
];

#[cfg(test)]
mod tests {
    use super::Fragment::{Text, Token};
    use super::*;

    /// Tokens of these texts and flags.
    fn tokens(texts: &[(&str, u32)]) -> AddedTokens {
        let piece = |&(text, _): &(&str, u32)| PieceSpec {
            text: text.as_bytes().to_vec().into(),
            score: 0.0,
            kind: PieceKind::UserDefined,
        };
        let pieces: Vec<_> = texts.iter().map(piece).collect();
        let flags: Vec<_> = (0..).zip(texts).map(|(id, &(_, flags))| (id, flags)).collect();
        AddedTokens::new(&flags, &pieces, |_| Some(PieceKind::UserDefined))
    }

    #[test]
    fn the_first_token_is_taken_and_the_longest_of_those() {
        let added = tokens(&[("ab", 0), ("bcd", 0), ("abc", 0)]);
        assert_eq!(added.split("abbcd"), [Token(0), Token(1)]);
        assert_eq!(added.split("abcd"), [Token(2), Text("d")]);
        assert_eq!(added.split(""), []);
        // The longest first would have found the other one.
        assert_eq!(tokens(&[("ab", 0), ("bcd", 0)]).split("abcd"), [Token(0), Text("cd")]);
    }

    #[test]
    fn the_second_round_sees_what_the_first_leaves() {
        let added = tokens(&[("aab", SECOND_ROUND), ("b", 0)]);
        assert_eq!(added.split("aabaa"), [Text("aa"), Token(1), Text("aa")]);
    }

    #[test]
    fn the_third_round_has_spaces_for_marks() {
        let added = tokens(&[("<a>", NORMALIZED | PREFIXED), ("\u{2581}b", NORMALIZED | STRIP_LEFT)]);
        assert_eq!(added.split("x <a> b"), [Text("x <a> b")]);
        assert_eq!(added.split_normalized("x <a>\t b"), [Text("x"), Token(0), Token(1)]);
        assert_eq!(added.split_normalized("x<a>"), [Text("x<a>")]);
    }

    #[test]
    fn a_token_may_be_one_that_is_never_found() {
        assert_eq!(tokens(&[("<a>", NEVER), ("<b>", 0)]).split("<a><b>"), [Text("<a>"), Token(1)]);
    }

    #[test]
    fn white_space_is_taken_with_a_token_that_wants_it() {
        let text = "x \t<a>\n y";
        for (flags, expected) in [
            (0, &[Text("x \t"), Token(0), Text("\n y")][..]),
            (STRIP_LEFT, &[Text("x"), Token(0), Text("\n y")]),
            (STRIP_RIGHT, &[Text("x \t"), Token(0), Text("y")]),
            (STRIP_LEFT | STRIP_RIGHT, &[Text("x"), Token(0), Text("y")]),
        ] {
            assert_eq!(tokens(&[("<a>", flags)]).split(text), expected);
        }
        // It isn't taken twice.
        let both = tokens(&[("<a>", STRIP_LEFT | STRIP_RIGHT)]);
        assert_eq!(both.split("<a>  <a>"), [Token(0), Token(0)]);
    }

    #[test]
    fn single_words_touch_no_others() {
        let added = tokens(&[("ab", SINGLE_WORD)]);
        for text in ["xab", "ab\u{e9}", "ab_", "1ab", "ab\u{301}", "ab\u{94d}", "\u{661}ab", "ab\u{200d}"] {
            assert_eq!(added.split(text), [Text(text)]);
        }
        assert_eq!(added.split("ab-ab \u{b2}ab"), [Token(0), Text("-"), Token(0), Text(" \u{b2}"), Token(0)]);
    }
}
