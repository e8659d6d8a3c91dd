//! What each piece is for and which tokens end a text, where a file's types and ids leave it open
//! or are wrong.
//!
//! Invariant: there is a kind for each piece, and every id handed out is a piece's.
//!
//! Source: llama.cpp's behavior. It goes by names: a byte's piece is `<0x0A>`, or else the byte
//! itself, and tokens of some names are control tokens or end a text, whatever type a file gives
//! them. In one thing it isn't followed: a control token is never found in a text, unless it is a
//! character that nothing else spells.

use std::collections::HashSet;

use super::PieceKind;
use super::bpe::decode_alphabet;
use super::spec::{FimIds, TokenizerSpec};
use super::vocab::parse_byte;
use crate::error::TokenId;

/// The outcome.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) kinds: Vec<PieceKind>, // (n_pieces)
    /// What they are where a text has their names: by these kinds they are taken out of it.
    pub(super) named_kinds: Vec<PieceKind>, // (n_pieces)
    pub(super) bos: Option<TokenId>,
    pub(super) eos: Option<TokenId>,
    pub(super) unk: Option<TokenId>,
    /// The tokens that end a generation, in ascending order.
    pub(super) end_of_generation: Vec<TokenId>,
}

/// What a name makes of a token.
#[derive(Clone, Copy, Debug)]
enum Role {
    /// Ends a generation.
    End,
    /// Ends a generation, unless the file says by an id which token has this part.
    EndUnless(fn(&FimIds) -> Option<TokenId>),
    /// A control token, unless the file says by an id which token has this part.
    ControlUnless(fn(&FimIds) -> Option<TokenId>),
    /// Text that is always one token, whatever else it is: models write it in their answers.
    Text,
}

/// Names that end a generation, whatever else a file says.
const END_OF_GENERATION: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "</s>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "[e~[",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
];

/// The roles of names.
const ROLES: [(Role, &[&str]); 8] = [
    (Role::End, END_OF_GENERATION),
    // What stands between files, or fills up: a model of code that gives it has ended its file.
    (Role::EndUnless(|ids| ids.pad), &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    (
        Role::EndUnless(|ids| ids.repository),
        &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
    ),
    (Role::EndUnless(|ids| ids.separator), &["<|file_sep|>"]),
    (
        Role::ControlUnless(|ids| ids.prefix),
        &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<\u{ff5c}fim\u{2581}begin\u{ff5c}>",
            "<PRE>",
            "\u{2581}<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
    ),
    (
        Role::ControlUnless(|ids| ids.suffix),
        &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<\u{ff5c}fim\u{2581}hole\u{ff5c}>",
            "<SUF>",
            "\u{2581}<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
    ),
    (
        Role::ControlUnless(|ids| ids.middle),
        &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<\u{ff5c}fim\u{2581}end\u{ff5c}>",
            "<MID>",
            "\u{2581}<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
    ),
    (Role::Text, &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"]),
];

/// Names of which all must end a text for a token not to: what it is then. Each token by itself
/// would.
const EXCEPTIONS: [(&[&str], &str, PieceKind); 6] = [
    (&["<|return|>", "<|call|>"], "<|end|>", PieceKind::UserDefined),
    (&["<|return|>", "<|calls|>"], "<|end|>", PieceKind::UserDefined),
    (&["<|call|>", "<|flush|>"], "<|end|>", PieceKind::UserDefined),
    (&["<|calls|>", "<|flush|>"], "<|end|>", PieceKind::UserDefined),
    (&["<|tool_response>"], "</s>", PieceKind::Normal),
    (&["<|plamo:eos|>"], "</s>", PieceKind::Normal),
];

/// Decides it for the pieces of a file, whose ids are all below their number.
pub(super) fn settle(spec: &TokenizerSpec<'_>) -> Settled {
    let kinds = spec.pieces.iter().map(|piece| piece.kind).collect();
    let (bos, eos, unk) = (spec.bos, spec.eos, spec.unk);
    let mut settled =
        Settled { kinds, named_kinds: Vec::new(), bos, eos, unk, end_of_generation: Vec::new() };
    let is_sentencepiece = spec.model.is_sentencepiece();
    if is_sentencepiece {
        settled.default_ids(spec);
    }
    settled.name_roles(spec);
    settled.end_by_ids(spec);
    settled.except(spec);
    settled.named_kinds.clone_from(&settled.kinds);
    if is_sentencepiece {
        settled.spell_characters(spec);
    } else {
        settled.spell_letters(spec);
    }
    settled
}

impl Settled {
    /// SentencePiece's usual ids, and kinds for what has the name of no text.
    fn default_ids(&mut self, spec: &TokenizerSpec<'_>) {
        let there = |id: TokenId| ((id as usize) < spec.pieces.len()).then_some(id);
        let typed = self.kinds.iter().position(|&kind| kind == PieceKind::Unknown);
        self.bos = self.bos.or(there(1));
        self.eos = self.eos.or(there(2));
        let reads_special = |id: TokenId| {
            let text = &spec.pieces[id as usize].text;
            text.len() > 2 && text.starts_with(b"<") && text.ends_with(b">")
        };
        let is_control = |id: TokenId| self.kinds[id as usize] == PieceKind::Control;
        self.unk = self.unk.or(typed.map(|id| id as TokenId));
        self.unk = self.unk.or(there(0).filter(|&id| is_control(id) || reads_special(id)));
        let kinds = [(self.bos, PieceKind::Control), (self.eos, PieceKind::Control)];
        for (id, kind) in kinds.into_iter().chain([(self.unk, PieceKind::Unknown)]) {
            let Some(id) = id else { continue };
            if self.kinds[id as usize] == PieceKind::Normal && reads_special(id) {
                self.kinds[id as usize] = kind;
            }
        }
    }

    fn name_roles(&mut self, spec: &TokenizerSpec<'_>) {
        for (id, piece) in (0..).zip(&spec.pieces) {
            let Some(role) = role(&piece.text) else { continue };
            let (kind, is_end) = match role {
                Role::End => (PieceKind::Control, true),
                Role::EndUnless(stated) if stated(&spec.fim).is_none() => (PieceKind::Control, true),
                Role::ControlUnless(stated) if stated(&spec.fim).is_none() => (PieceKind::Control, false),
                Role::EndUnless(_) | Role::ControlUnless(_) => continue,
                Role::Text => (PieceKind::UserDefined, false),
            };
            self.kinds[id as usize] = kind;
            self.end_of_generation.extend(is_end.then_some(id));
        }
    }

    fn end_by_ids(&mut self, spec: &TokenizerSpec<'_>) {
        let FimIds { pad, repository, separator, .. } = spec.fim;
        self.end_of_generation
            .extend([self.eos, spec.eot, spec.eom, pad, repository, separator].iter().flatten());
        let there = |&&id: &&TokenId| (id as usize) < spec.pieces.len();
        self.end_of_generation.extend(spec.other_ends.iter().filter(there));
        self.end_of_generation.sort_unstable();
        self.end_of_generation.dedup();
    }

    fn except(&mut self, spec: &TokenizerSpec<'_>) {
        let named = |ends: &[TokenId], name: &str| {
            ends.iter().copied().find(|&id| *spec.pieces[id as usize].text == *name.as_bytes())
        };
        for (names, excepted, kind) in EXCEPTIONS {
            let all = names.iter().all(|name| named(&self.end_of_generation, name).is_some());
            let Some(id) = named(&self.end_of_generation, excepted).filter(|_| all) else { continue };
            self.kinds[id as usize] = kind;
            self.end_of_generation.retain(|&end| end != id);
        }
    }

    /// SentencePiece: the pieces of bytes by their names, or else those that are the byte. Then
    /// what other character is only the text of a piece that no text would find.
    fn spell_characters(&mut self, spec: &TokenizerSpec<'_>) {
        let mut has_byte = [false; 256];
        for (kind, piece) in self.kinds.iter_mut().zip(&spec.pieces) {
            if let Some(byte) = parse_byte(&piece.text).filter(|&byte| !has_byte[usize::from(byte)]) {
                has_byte[usize::from(byte)] = true;
                *kind = PieceKind::Byte;
            }
        }
        let is_found = |kind| matches!(kind, PieceKind::Normal | PieceKind::UserDefined);
        let found = self.kinds.iter().zip(&spec.pieces).filter(|&(&kind, _)| is_found(kind));
        let found: HashSet<&[u8]> =
            found.map(|(_, piece)| &*piece.text).filter(|text| text.len() <= 4).collect();
        for (kind, piece) in self.kinds.iter_mut().zip(&spec.pieces) {
            // Of the others there is none in UTF-8.
            if let &[byte @ (..0xc0 | 0xc2..0xf5)] = &*piece.text
                && !has_byte[usize::from(byte)]
                && (!byte.is_ascii() || !found.contains(&*piece.text))
            {
                has_byte[usize::from(byte)] = true;
                *kind = PieceKind::Byte;
            }
        }
        for (kind, piece) in self.kinds.iter_mut().zip(&spec.pieces) {
            let spelled = piece.text.iter().all(|&byte| has_byte[usize::from(byte)]);
            let is_hidden = matches!(kind, PieceKind::Control | PieceKind::Unused);
            if is_hidden && !spelled && is_one_character(&piece.text) && !found.contains(&*piece.text) {
                *kind = PieceKind::Normal;
            }
        }
    }

    /// Byte-level: a letter that no other piece is stands for its byte.
    fn spell_letters(&mut self, spec: &TokenizerSpec<'_>) {
        let letter = |text: &[u8]| {
            let mut bytes = Vec::new();
            (text.len() <= 2).then(|| decode_alphabet(text, &mut bytes)).flatten();
            if let [byte] = *bytes { Some(usize::from(byte)) } else { None }
        };
        let mut has_byte = [false; 256];
        let is_normal = |&(&kind, _): &(&PieceKind, _)| kind == PieceKind::Normal;
        for (_, piece) in self.kinds.iter().zip(&spec.pieces).filter(is_normal) {
            letter(&piece.text).into_iter().for_each(|byte| has_byte[byte] = true);
        }
        for (kind, piece) in self.kinds.iter_mut().zip(&spec.pieces) {
            if let Some(byte) = letter(&piece.text).filter(|&byte| !has_byte[byte]) {
                has_byte[byte] = true;
                *kind = PieceKind::Normal;
            }
        }
    }
}

/// The role of a name, if it has one. All begin in one of few ways.
fn role(text: &[u8]) -> Option<Role> {
    if !matches!(text, [b'<' | b'[' | b'_' | 0xe2, ..]) {
        return None;
    }
    let has = |(_, names): &&(Role, &[&str])| names.iter().any(|name| name.as_bytes() == text);
    ROLES.iter().find(has).map(|&(role, _)| role)
}

/// Whether a token of this name ends a text, whatever a file says.
#[cfg(feature = "convert")]
pub(crate) fn names_end(text: &[u8]) -> bool {
    matches!(role(text), Some(Role::End))
}

/// Whether a token of this name is a control token, unless a file gives its part to another.
#[cfg(feature = "convert")]
pub(crate) fn names_control(text: &[u8]) -> bool {
    !matches!(role(text), None | Some(Role::Text))
}

fn is_one_character(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| text.chars().count() == 1)
}
