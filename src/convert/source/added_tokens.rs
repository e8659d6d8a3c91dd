//! Tokens that were added to a vocabulary: what files say of each, and what becomes of it.
//!
//! Control tokens have no text. Others are taken out of a text before anything is merged, each in
//! its own way, which GGUF has no words for: it knows user-defined pieces, of which llama.cpp takes
//! the longest out of the whole text first. Where that makes other tokens of some text, all of them
//! are listed in a key of our own.
//!
//! Source: `added_vocabulary.rs` in the tokenizers repository.

use std::collections::{BTreeMap, HashSet};

use super::json::Object;
use super::vocabulary::{ADDED_SCORE, OwnedSpec, refuse, unused};
use crate::error::{Result, TokenId};
use crate::tokenizer::{
    NEVER, NORMALIZED, PREFIXED, PieceKind, PieceSpec, SECOND_ROUND, SINGLE_WORD, STRIP_LEFT, STRIP_RIGHT,
    names_control,
};

/// A token that isn't a part of the vocabulary proper.
#[derive(Clone, Debug, Default)]
pub(super) struct AddedToken {
    pub(super) id: TokenId,
    pub(super) text: String,
    pub(super) is_control: bool,
    /// [`STRIP_LEFT`], [`STRIP_RIGHT`] and [`SINGLE_WORD`].
    flags: u32,
    /// It is looked for in the text that the normalizer makes.
    normalized: bool,
}

impl AddedToken {
    /// One that is found wherever its text is.
    pub(super) fn plain(id: TokenId, text: &str, is_control: bool) -> Self {
        Self { id, text: text.into(), is_control, ..Self::default() }
    }

    /// What an entry of `added_tokens` or `added_tokens_decoder` says.
    pub(super) fn read(id: TokenId, entry: &Object<'_>) -> Result<Self> {
        let flag = |key| entry.optional::<bool>(key).map(|flag| flag.unwrap_or(false));
        let mut flags = 0;
        for (key, bit) in [("lstrip", STRIP_LEFT), ("rstrip", STRIP_RIGHT), ("single_word", SINGLE_WORD)] {
            flags |= if flag(key)? { bit } else { 0 };
        }
        let text = entry.required::<&str>("content")?.into();
        // What isn't said is what transformers takes.
        let is_control = flag("special")?;
        let normalized = entry.optional("normalized")?.unwrap_or(!is_control);
        Ok(Self { id, text, is_control, flags, normalized })
    }
}

/// How tokens are found that are looked for in the text that the normalizer makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Normalized {
    /// There is no normalizer, so it is the text.
    Text,
    /// It is the text, but that U+2581 may be written for its spaces.
    Marked,
    /// It is the text that pieces are merged in; with a dummy prefix, which the token has too.
    Merged { prefixed: bool },
    /// Not at all: such tokens are refused.
    Unknown,
}

/// Puts tokens in their places, which may be after the last piece. Each is there once. The text of
/// those in `merged` may also come out of merges.
pub(super) fn add(
    spec: &mut OwnedSpec,
    tokens: &[AddedToken],
    normalized: Normalized,
    merged: &HashSet<Vec<u8>>,
) -> Result<()> {
    let mut found: BTreeMap<TokenId, u32> = BTreeMap::new();
    // SentencePiece's own are found in the text that pieces are merged in, and don't end what goes
    // on after them.
    for (id, piece) in (0..).zip(&spec.pieces) {
        if spec.model.is_sentencepiece() && piece.kind == PieceKind::UserDefined {
            // A space in them never is in that text, where it is U+2581.
            found.insert(id, if piece.text.contains(&b' ') { NEVER } else { NORMALIZED });
        }
    }
    note_stripping(spec, tokens);
    note_names(spec, tokens);
    for token in tokens {
        let mut flags = token.flags;
        if token.normalized && !token.is_control {
            let has_space = token.text.contains([' ', '\u{2581}']);
            flags |= match normalized {
                Normalized::Text => SECOND_ROUND,
                Normalized::Marked if !has_space => SECOND_ROUND,
                Normalized::Merged { prefixed } => NORMALIZED | if prefixed { PREFIXED } else { 0 },
                _ => {
                    return Err(refuse(format!(
                        "the added token {:?} is looked for in the normalized text, which is not supported with this \
                         normalizer; set its \"normalized\" to false if the model wasn't trained with it",
                        token.text
                    )));
                }
            };
        }
        let may_be_merged = merged.contains(token.text.as_bytes())
            && (flags & (SINGLE_WORD | PREFIXED) != 0 || token.text.contains('\u{2581}'));
        let kind = match (token.is_control, may_be_merged) {
            (true, _) => PieceKind::Control,
            (false, true) => PieceKind::Normal,
            (false, false) => PieceKind::UserDefined,
        };
        match set(spec, token, kind) {
            PieceKind::Normal | PieceKind::UserDefined => found.insert(token.id, flags),
            _ => found.remove(&token.id),
        };
    }
    let is_listed = !are_found_alike(spec, &found);
    spec.text.added = if is_listed { found.into_iter().collect() } else { Vec::new() };
    Ok(())
}

/// What a text loses beside a control token is lost in chats alone, since no other text has any.
fn note_stripping(spec: &mut OwnedSpec, tokens: &[AddedToken]) {
    for (side, flag) in [("before", STRIP_LEFT), ("after", STRIP_RIGHT)] {
        let strips = |token: &&AddedToken| token.is_control && token.flags & flag != 0;
        let names: Vec<String> = tokens.iter().filter(strips).map(|it| format!("{:?}", it.text)).collect();
        if !names.is_empty() {
            let more = if names.len() > MAX_NAMED { ", ..." } else { "" };
            spec.notes.push(format!(
                "in the source, white space {side} the control token {}{more} of a chat's template is dropped; here it is text",
                names[..names.len().min(MAX_NAMED)].join(", ")
            ));
        }
    }
}

/// Programs go by the names of control tokens, whatever a file says of them.
fn note_names(spec: &mut OwnedSpec, tokens: &[AddedToken]) {
    let is_taken = |token: &&AddedToken| !token.is_control && names_control(token.text.as_bytes());
    let names: Vec<String> = tokens.iter().filter(is_taken).map(|it| format!("{:?}", it.text)).collect();
    if !names.is_empty() {
        let more = if names.len() > MAX_NAMED { ", ..." } else { "" };
        spec.notes.push(format!(
            "in the source, texts that have {}{more} become that token; here and in llama.cpp it is known as a control token by \
             its name, which no text becomes",
            names[..names.len().min(MAX_NAMED)].join(", ")
        ));
    }
}

/// So many tokens are named in a note.
const MAX_NAMED: usize = 5;

/// Puts a token in its place. Gives what the piece is now.
fn set(spec: &mut OwnedSpec, token: &AddedToken, kind: PieceKind) -> PieceKind {
    for id in spec.pieces.len()..=token.id as usize {
        spec.pieces.push(unused(id));
    }
    let piece = &mut spec.pieces[token.id as usize];
    let text = token.text.as_bytes();
    if *piece.text != *text {
        // Nothing is merged to it.
        *piece = PieceSpec { text: text.to_vec().into(), score: ADDED_SCORE, kind: PieceKind::Normal };
    }
    // The unknown piece, and bytes, are of more use as what they are.
    if !matches!(piece.kind, PieceKind::Unknown | PieceKind::Byte) {
        piece.kind = kind;
    }
    piece.kind
}

/// The longest token that is compared with all others.
const MAX_COMPARED: usize = 256;

/// Whether whoever takes the longest tokens out of the whole text first finds the same ones.
///
/// If no token's end is another one's beginning, no two overlap in a text but where one is in the
/// other; and then the longer one is found by both, unless it is looked for later.
fn are_found_alike(spec: &OwnedSpec, found: &BTreeMap<TokenId, u32>) -> bool {
    let text = |id: &TokenId| &*spec.pieces[*id as usize].text;
    let is_plain = |(id, flags): (&TokenId, &u32)| {
        flags & !SECOND_ROUND == 0
            && spec.pieces[*id as usize].kind == PieceKind::UserDefined
            && text(id).len() <= MAX_COMPARED
    };
    if !found.iter().all(is_plain) {
        return false;
    }
    let starts: HashSet<&[u8]> =
        found.keys().flat_map(|id| (1..text(id).len()).map(move |len| &text(id)[..len])).collect();
    let overlaps = |id| (1..text(id).len()).any(|at| starts.contains(&text(id)[at..]));
    let first: HashSet<&[u8]> =
        found.iter().filter(|(_, flags)| **flags == 0).map(|(id, _)| text(id)).collect();
    let holds_one = |id| {
        let text = text(id);
        (0..text.len()).any(|from| (from + 1..=text.len()).any(|to| first.contains(&text[from..to])))
    };
    let later_holds_one = || found.iter().any(|(id, flags)| *flags != 0 && holds_one(id));
    !found.keys().any(overlaps) && (first.is_empty() || !later_holds_one())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alike(tokens: &[(&str, u32)]) -> bool {
        let mut spec = OwnedSpec::default();
        let tokens = (0..).zip(tokens);
        let tokens = tokens.map(|(id, &(text, flags))| AddedToken {
            flags: flags & !SECOND_ROUND,
            normalized: flags & SECOND_ROUND != 0,
            ..AddedToken::plain(id, text, false)
        });
        add(&mut spec, &tokens.collect::<Vec<_>>(), Normalized::Text, &HashSet::new()).unwrap();
        spec.text.added.is_empty()
    }

    #[test]
    fn tokens_are_listed_where_the_order_of_looking_matters() {
        assert!(alike(&[("<a>", 0), ("<b>", 0), ("<a><b>", 0)]));
        assert!(alike(&[("<a>", SECOND_ROUND), ("<b>", 0)]));
        assert!(!alike(&[("ab", 0), ("bc", 0)]));
        assert!(!alike(&[("aba", 0)]));
        assert!(alike(&[("xaby", SECOND_ROUND), ("ab", SECOND_ROUND)]));
        assert!(!alike(&[("xaby", SECOND_ROUND), ("ab", 0)]));
        for flag in [STRIP_LEFT, STRIP_RIGHT, SINGLE_WORD] {
            assert!(!alike(&[("<a>", flag)]));
        }
    }
}
