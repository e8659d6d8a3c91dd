//! Pieces that are tokens wherever their text occurs, before anything is merged: the user-defined
//! ones, and control tokens where a text may name them.
//!
//! Invariant: each text is UTF-8 and not empty, so that what is left of a text when they are taken
//! out is text.
//!
//! Source: llama.cpp's behavior: the longest pieces are taken out of the whole text first, each
//! from left to right.

use std::collections::HashMap;

use crate::error::TokenId;

/// Which spaces around a piece are taken out of the text with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Strip {
    pub(crate) left: bool,
    pub(crate) right: bool,
}

/// The user-defined pieces of a vocabulary.
#[derive(Default)]
pub(crate) struct UserDefined {
    /// Of equal texts the first has the id.
    ids: HashMap<Box<str>, (TokenId, Strip)>,
    /// The lengths that they have, the greatest first.
    lengths: Vec<usize>,
    /// Whether one begins with a byte.
    firsts: Firsts,
}

struct Firsts([bool; 256]);

impl Default for Firsts {
    fn default() -> Self {
        Self([false; 256])
    }
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment<'a> {
    Text(&'a str),
    Token(TokenId),
}

impl UserDefined {
    /// Pieces and their ids. One that is no UTF-8 is never found in text, and left out.
    pub(crate) fn new<'a, I: Iterator<Item = (TokenId, &'a [u8], Strip)>>(pieces: I) -> Self {
        let mut these = Self::default();
        for (id, piece, strip) in pieces {
            let Some((&first, text)) = piece.first().zip(std::str::from_utf8(piece).ok()) else {
                continue;
            };
            these.ids.entry(text.into()).or_insert((id, strip));
            these.firsts.0[usize::from(first)] = true;
            these.lengths.push(text.len());
        }
        these.lengths.sort_unstable_by(|a, b| b.cmp(a));
        these.lengths.dedup();
        these
    }

    /// The piece of this text, and what it strips.
    pub(super) fn get(&self, text: &str) -> Option<(TokenId, Strip)> {
        self.ids.get(text).copied()
    }

    /// Whether there is no piece that text can have.
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Cuts a text into user-defined pieces and what lies between. No fragment is empty.
    pub(crate) fn split<'a>(&self, text: &'a str) -> Vec<Fragment<'a>> {
        let mut fragments = vec![Fragment::Text(text)];
        fragments.retain(|_| !text.is_empty());
        if !text.bytes().any(|byte| self.firsts.0[usize::from(byte)]) {
            return fragments;
        }
        for &length in &self.lengths {
            let before = std::mem::take(&mut fragments);
            for fragment in before {
                match fragment {
                    Fragment::Text(text) => self.take_out(length, text, &mut fragments),
                    Fragment::Token(_) => fragments.push(fragment),
                }
            }
        }
        fragments
    }

    /// Takes pieces of a length out of a text, and the spaces that they strip.
    fn take_out<'a>(&self, length: usize, text: &'a str, fragments: &mut Vec<Fragment<'a>>) {
        let mut done = 0;
        let mut start = 0;
        while start + length <= text.len() {
            let may_begin = self.firsts.0[usize::from(text.as_bytes()[start])];
            let found = text.get(start..start + length).filter(|_| may_begin).and_then(|t| self.ids.get(t));
            let Some(&(id, strip)) = found else {
                start += 1;
                continue;
            };
            let (before, after) = (&text[done..start], &text[start + length..]);
            let before = if strip.left { before.trim_end_matches(is_stripped) } else { before };
            if !before.is_empty() {
                fragments.push(Fragment::Text(before));
            }
            fragments.push(Fragment::Token(id));
            let after = if strip.right { after.trim_start_matches(is_stripped) } else { after };
            start = text.len() - after.len();
            done = start;
        }
        if done < text.len() {
            fragments.push(Fragment::Text(&text[done..]));
        }
    }
}

/// What C calls a space.
pub(crate) fn is_stripped(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Fragment::{Text, Token};
    use super::*;

    fn pieces(texts: &[&str]) -> UserDefined {
        UserDefined::new((0..).zip(texts).map(|(id, text)| (id, text.as_bytes(), Strip::default())))
    }

    #[test]
    fn the_longest_piece_is_taken_out_of_the_whole_text_first() {
        let pieces = pieces(&["ab", "bcd", "\u{e9}", "ab"]);
        assert_eq!(pieces.split("abcd"), [Text("a"), Token(1)]);
        assert_eq!(pieces.split("xab\u{e9}abc"), [Text("x"), Token(0), Token(2), Token(0), Text("c")]);
        assert_eq!(pieces.split("nothing"), [Text("nothing")]);
        assert_eq!(pieces.split(""), []);
    }

    #[test]
    fn runs_are_cut_from_the_left() {
        assert_eq!(pieces(&["  "]).split("     "), [Token(0), Token(0), Text(" ")]);
    }

    #[test]
    fn spaces_around_a_piece_go_with_it() {
        let strip = |left, right| Strip { left, right };
        let pieces = [(0, &b"<l>"[..], strip(true, false)), (1, b"<r>", strip(false, true))];
        let pieces = UserDefined::new(pieces.into_iter());
        assert_eq!(pieces.split("a <l> b"), [Text("a"), Token(0), Text(" b")]);
        assert_eq!(pieces.split("a <r> \n b"), [Text("a "), Token(1), Text("b")]);
        assert_eq!(
            pieces.split("\u{a0}<l>\t<r>\x0b\u{a0}"),
            [Text("\u{a0}"), Token(0), Text("\t"), Token(1), Text("\u{a0}")]
        );
        assert_eq!(pieces.split(" <l> <r> "), [Token(0), Text(" "), Token(1)]);
    }

    #[test]
    fn pieces_that_are_no_text_are_never_found() {
        let pieces =
            UserDefined::new([&b"\xa9"[..], b""].into_iter().map(|text| (0, text, Strip::default())));
        assert_eq!(pieces.split("\u{e9}"), [Text("\u{e9}")]);
    }

    proptest! {
        #[test]
        fn fragments_are_the_text(
            texts in proptest::collection::vec("[ab\u{e9}]{1,4}", 0..6),
            text in "[abc\u{e9}]{0,30}",
        ) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let pieces = pieces(&texts);
            let mut joined = String::new();
            for fragment in pieces.split(&text) {
                joined += match fragment {
                    Text(rest) => {
                        prop_assert!(!texts.iter().any(|&piece| rest.contains(piece)));
                        rest
                    }
                    Token(id) => texts[id as usize],
                };
            }
            prop_assert_eq!(joined, text);
        }
    }
}
