//! Unicode's Normalization Form C: characters that can be written in several ways are written in
//! one, composed where they can be. Qwen's tokenizers do this to a text before all else.
//!
//! Source: Unicode Standard Annex #15, and section 3.12 of the standard for Hangul. The version of
//! Unicode is 9.0, as in Hugging Face's tokenizers, whose tokens these should be: later marks stay
//! where they are.

mod tables;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use tables::{CLASSES, EXCLUDED, PAIRS, SINGLES};

/// Up to here every text is composed already.
const FIRST_MARK: char = '\u{300}';

/// Hangul's syllables are made of a first consonant, a vowel, and perhaps a last consonant.
const SYLLABLE: u32 = 0xac00;
const FIRST: u32 = 0x1100;
const VOWEL: u32 = 0x1161;
/// The one before the first of the last consonants.
const LAST: u32 = 0x11a7;
const N_FIRST: u32 = 19;
const N_VOWELS: u32 = 21;
const N_LAST: u32 = 28;

/// What two characters become.
static COMPOSED: LazyLock<HashMap<(u32, u32), u32>> = LazyLock::new(|| {
    let pairs = PAIRS.iter().filter(|pair| EXCLUDED.binary_search(&pair.0).is_err());
    pairs.map(|&(whole, first, second)| ((first, second), whole)).collect()
});

/// A text in Normalization Form C.
pub(super) fn composed(text: &str) -> Cow<'_, str> {
    if text.chars().all(|c| c < FIRST_MARK) {
        return text.into();
    }
    let mut characters = Vec::with_capacity(text.len());
    text.chars().for_each(|c| push_decomposed(u32::from(c), &mut characters));
    // Marks of other classes may change places, those of one class may not.
    for marks in characters.split_mut(|&(_, class)| class == 0) {
        marks.sort_by_key(|&(_, class)| class);
    }
    compose(&mut characters);
    characters.iter().filter_map(|&(c, _)| char::from_u32(c)).collect::<String>().into()
}

/// Appends what a character is made of, each with its combining class.
fn push_decomposed(c: u32, characters: &mut Vec<(u32, u8)>) {
    if let Some(index) = c.checked_sub(SYLLABLE).filter(|&index| index < N_FIRST * N_VOWELS * N_LAST) {
        characters.push((FIRST + index / N_LAST / N_VOWELS, 0));
        characters.push((VOWEL + index / N_LAST % N_VOWELS, 0));
        characters.extend((index % N_LAST > 0).then_some((LAST + index % N_LAST, 0)));
    } else if let Ok(at) = PAIRS.binary_search_by_key(&c, |pair| pair.0) {
        push_decomposed(PAIRS[at].1, characters);
        push_decomposed(PAIRS[at].2, characters);
    } else if let Ok(at) = SINGLES.binary_search_by_key(&c, |single| single.0) {
        push_decomposed(SINGLES[at].1, characters);
    } else {
        characters.push((c, class(c)));
    }
}

fn class(c: u32) -> u8 {
    let after = CLASSES.partition_point(|&range| range >> 8 <= c);
    after.checked_sub(1).map_or(0, |at| CLASSES[at].to_le_bytes()[0])
}

/// Joins what can be joined to the last character that is no mark, unless a mark of the same class,
/// or of a higher one, is between.
fn compose(characters: &mut Vec<(u32, u8)>) {
    // Where that character is, and how many characters there are so far.
    let (mut starter, mut n) = (None, 0);
    for i in 0..characters.len() {
        let (c, class) = characters[i];
        let is_blocked = |at: usize| at + 1 < n && (class == 0 || characters[n - 1].1 >= class);
        let whole =
            starter.filter(|&at| !is_blocked(at)).and_then(|at| Some((at, pair(characters[at].0, c)?)));
        if let Some((at, whole)) = whole {
            characters[at].0 = whole;
            continue;
        }
        characters[n] = (c, class);
        if class == 0 {
            starter = Some(n);
        }
        n += 1;
    }
    characters.truncate(n);
}

/// What two characters become, if they become one.
fn pair(first: u32, second: u32) -> Option<u32> {
    let index = |c: u32, from: u32, n: u32| c.checked_sub(from).filter(|&index| index < n);
    if let (Some(first), Some(vowel)) = (index(first, FIRST, N_FIRST), index(second, VOWEL, N_VOWELS)) {
        return Some(SYLLABLE + (first * N_VOWELS + vowel) * N_LAST);
    }
    let syllable = index(first, SYLLABLE, N_FIRST * N_VOWELS * N_LAST).filter(|index| index % N_LAST == 0);
    if let (Some(_), Some(last)) = (syllable, index(second, LAST + 1, N_LAST - 1)) {
        return Some(first + last + 1);
    }
    COMPOSED.get(&(first, second)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_composed_as_by_tokenizers() {
        // Of PyPI tokenizers' normalizers.NFC().
        for (text, expected) in [
            ("caf\u{e9} x", "caf\u{e9} x"),
            ("e\u{301}", "\u{e9}"),
            ("\u{301}e", "\u{301}e"),
            ("e\u{301}\u{301}", "\u{e9}\u{301}"),
            ("s\u{307}\u{323}", "\u{1e69}"),
            ("a\u{315}\u{300}\u{5ae}", "\u{e0}\u{5ae}\u{315}"),
            ("\u{1100}\u{1161}\u{11a8}", "\u{ac01}"),
            ("\u{ac00}\u{11a7}", "\u{ac00}\u{11a7}"),
            ("\u{ac01}\u{11a8}", "\u{ac01}\u{11a8}"),
            ("\u{212b}\u{2126}\u{f900}", "\u{c5}\u{3a9}\u{8c48}"),
            ("\u{958}\u{fb1d}\u{2adc}", "\u{915}\u{93c}\u{5d9}\u{5b4}\u{2add}\u{338}"),
            ("\u{9c7}\u{9be}\u{9c7}\u{334}\u{9be}", "\u{9cb}\u{9c7}\u{334}\u{9be}"),
            ("\u{1f00}\u{345}", "\u{1f80}"),
            ("\u{d3b}\u{334}", "\u{d3b}\u{334}"), // of Unicode 10
            ("\u{1d15e}", "\u{1d157}\u{1d165}"),
        ] {
            assert_eq!(composed(text), expected, "{text:?}");
            assert_eq!(composed(expected), expected, "{text:?}");
        }
    }
}
