//! What users write in disguise, so that a rendering shows which of its characters are theirs.
//!
//! Each character that the name of a control token may have is replaced by one that no text of the
//! conversation has. The template is run with the texts as they are and with the texts in disguise;
//! where taking the disguise off gives the same rendering, it shows for each character whether
//! the template wrote it or a user did. A name that is the template's to its last character is
//! a control token, and any other is text.
//!
//! White space and quotation marks stay what they are, since templates trim and quote. What a
//! template compares with has to stay too: its own strings are left as they are, except names of
//! control tokens; and if that isn't enough, then some of these, which are text from then on,
//! whoever wrote them.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use crate::error::TokenId;
use crate::tokenizer::{Fragment, UserDefined};

/// Whose text it is: the model's, which may have said what steers a model as text, or anyone's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Author {
    Assistant,
    Other,
}

/// The first character of the two planes for private use.
pub(super) const PRIVATE: char = '\u{f0000}';

/// The names that may steer a model with this template.
pub(super) struct Names {
    pub(super) found: UserDefined,
    /// Those that aren't control tokens: pieces that are found in any text.
    pub(super) user_defined: HashSet<TokenId>,
    /// The characters that they have, without those that templates cut or quote text at.
    alphabet: Vec<char>,
}

impl Names {
    /// Names with their tokens, and whether each is found in any text.
    pub(super) fn new(names: &[(TokenId, &str, bool)]) -> Self {
        let found = names.iter().map(|&(id, name, _)| (id, name.as_bytes(), Default::default()));
        let user_defined = names.iter().filter(|name| name.2).map(|name| name.0).collect();
        let mut alphabet: Vec<char> = names.iter().flat_map(|name| name.1.chars()).collect();
        alphabet.sort_unstable();
        alphabet.dedup();
        alphabet.retain(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, '\'' | '"' | '\\'));
        Self { found: UserDefined::new(found), user_defined, alphabet }
    }

    /// The names in a text.
    pub(super) fn of(&self, text: &str) -> Vec<TokenId> {
        let tokens = self.found.split(text).into_iter().filter_map(|fragment| match fragment {
            Fragment::Token(id) => Some(id),
            Fragment::Text(_) => None,
        });
        tokens.collect()
    }
}

/// Characters that stay as they are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Characters {
    #[default]
    None,
    /// Those that HTML escapes.
    Html,
    /// Those that have cases, make numbers or are sorted by.
    Letters,
}

impl Characters {
    fn contains(self, c: char) -> bool {
        match self {
            Self::None => false,
            Self::Html => matches!(c, '&' | '<' | '>'),
            Self::Letters => c.is_alphanumeric(),
        }
    }
}

/// What stays as it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept<'a> {
    /// In everyone's texts.
    pub(super) all: Vec<&'a str>,
    /// In the assistant's.
    pub(super) assistant: Vec<&'a str>,
    /// Characters of everyone's, where a template changes these.
    pub(super) characters: Characters,
}

/// A disguise, or none.
pub(super) struct Disguise<'a> {
    names: &'a Names,
    /// A character of either author for each.
    masks: HashMap<char, [char; 2]>,
    faces: HashMap<char, (char, Author)>,
    kept: [Strings<'a>; 2],
    /// Names that users wrote and that stay as they are.
    plain: RefCell<HashSet<TokenId>>,
    /// The characters of the private planes in the texts, and all characters.
    seen: RefCell<HashSet<char>>,
}

impl<'a> Disguise<'a> {
    /// None: notes what texts have.
    pub(super) fn none(names: &'a Names) -> Self {
        let kept = [Strings::default(), Strings::default()];
        let (masks, faces) = (HashMap::new(), HashMap::new());
        Self { names, masks, faces, kept, plain: RefCell::default(), seen: RefCell::default() }
    }

    /// One for texts in which `seen` was noted; none if they have too many characters of the
    /// private planes.
    pub(super) fn new(names: &'a Names, seen: &HashSet<char>, kept: &Kept<'a>) -> Option<Self> {
        let mut free = (PRIVATE..='\u{10fffd}').filter(|c| u32::from(*c) & 0xfffe != 0xfffe);
        let mut free = free.by_ref().filter(|c| !seen.contains(c));
        let mut this = Self::none(names);
        for &c in names.alphabet.iter().filter(|c| !kept.characters.contains(**c)) {
            let masks = [free.next()?, free.next()?];
            this.masks.insert(c, masks);
            this.faces.insert(masks[0], (c, Author::Assistant));
            this.faces.insert(masks[1], (c, Author::Other));
        }
        let assistant = kept.all.iter().chain(&kept.assistant);
        this.kept = [Strings::new(assistant.copied()), Strings::new(kept.all.iter().copied())];
        Some(this)
    }

    /// A text in disguise.
    pub(super) fn of(&self, text: &str, author: Author) -> String {
        let mut disguised = String::with_capacity(text.len());
        let mut rest = text;
        let kept = &self.kept[author as usize];
        while let Some(c) = rest.chars().next() {
            let length = kept.at(rest).filter(|_| !self.masks.is_empty());
            let masked = self.masks.get(&c).filter(|_| length.is_none());
            let length = length.unwrap_or(c.len_utf8());
            match masked {
                Some(masks) => disguised.push(masks[author as usize]),
                None => disguised.push_str(&rest[..length]),
            }
            rest = &rest[length..];
        }
        let is_left = |id: &TokenId| author == Author::Other || !self.names.user_defined.contains(id);
        self.plain.borrow_mut().extend(self.names.of(&disguised).iter().filter(|id| is_left(id)));
        if self.masks.is_empty() {
            self.seen.borrow_mut().extend(text.chars().filter(|c| !c.is_alphanumeric()));
        }
        disguised
    }

    /// Whether it changes texts.
    pub(super) fn is_on(&self) -> bool {
        !self.masks.is_empty()
    }

    /// The character that a character stands for, and whose it is if a user wrote it in disguise.
    pub(super) fn face(&self, c: char) -> (char, Option<Author>) {
        match self.faces.get(&c).filter(|_| c >= PRIVATE) {
            Some(&(face, author)) => (face, Some(author)),
            None => (c, None),
        }
    }

    /// A rendering without the disguise.
    pub(super) fn off(&self, text: &str) -> String {
        text.chars().map(|c| self.face(c).0).collect()
    }

    /// The names that users wrote and that stayed as they are.
    pub(super) fn plain(&self) -> HashSet<TokenId> {
        self.plain.borrow().clone()
    }

    /// The characters of the texts that are no letters or digits.
    pub(super) fn seen(&self) -> HashSet<char> {
        self.seen.borrow().clone()
    }
}

/// Strings to be found in a text: the longest at each place.
struct Strings<'a> {
    sorted: Vec<&'a str>,
    /// Where those that begin with a byte are.
    starts: [(usize, usize); 256],
}

impl Default for Strings<'_> {
    fn default() -> Self {
        Self { sorted: Vec::new(), starts: [(0, 0); 256] }
    }
}

impl<'a> Strings<'a> {
    fn new(strings: impl Iterator<Item = &'a str>) -> Self {
        let mut sorted: Vec<&str> = strings.filter(|string| !string.is_empty()).collect();
        let first = |string: &str| string.as_bytes()[0];
        sorted.sort_unstable_by_key(|string| (first(string), usize::MAX - string.len()));
        sorted.dedup();
        let mut starts = [(0, 0); 256];
        for (i, string) in sorted.iter().enumerate() {
            let range = &mut starts[usize::from(first(string))];
            *range = if range.1 == 0 { (i, i + 1) } else { (range.0, i + 1) };
        }
        Self { sorted, starts }
    }

    /// The length of the string at the start of a text, if one is there.
    fn at(&self, text: &str) -> Option<usize> {
        let (from, to) = self.starts[usize::from(*text.as_bytes().first()?)];
        let found = self.sorted[from..to].iter().find(|string| text.starts_with(**string));
        found.map(|string| string.len())
    }
}
