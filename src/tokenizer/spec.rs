//! What a file says of its tokenizer, in whatever format: readers of files fill it in, and writers
//! write it.
//!
//! Invariant: [`Tokenizer::from_spec`] trusts nothing in it. Ids are checked against the pieces,
//! what the texts mean is settled here once, and the memory it takes is proportional to it.
//!
//! Source: llama.cpp's behavior for what a file leaves open: what is added to a prompt, and what
//! [`kinds`] settles.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::bpe::{BytePairs, decode_alphabet};
use super::kinds::{self, Settled};
use super::normalizer::{TextRules, TextSettings};
use super::pre::PreTokenizer;
use super::user_defined::{Strip, UserDefined};
use super::vocab::VocabBuilder;
use super::{Algorithm, PieceKind, Tokenizer};
use crate::error::{ErrorKind, Result, TokenId};

/// A tokenizer as a file describes it.
///
/// Texts are bytes of the file, as its format writes them: U+2581 for a space in SentencePiece's
/// pieces, GPT-2's alphabet in those of a byte-level tokenizer.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenizerSpec<'a> {
    /// The pieces in the order of their ids.
    pub(crate) pieces: Vec<PieceSpec<'a>>,
    /// How text becomes pieces.
    pub(crate) model: TokenizerModel<'a>,
    /// The token that begins a text. SentencePiece's is 1 by default.
    pub(crate) bos: Option<TokenId>,
    /// The token that ends a text. SentencePiece's is 2 by default.
    pub(crate) eos: Option<TokenId>,
    /// The token that ends a turn of a chat.
    pub(crate) eot: Option<TokenId>,
    /// The token that ends a message, after which the model goes on.
    pub(crate) eom: Option<TokenId>,
    /// More tokens that end a text.
    pub(crate) other_ends: Vec<TokenId>,
    /// The token for what no piece spells.
    pub(crate) unk: Option<TokenId>,
    /// The tokens of models of code.
    pub(crate) fim: FimIds,
    /// Which pieces take the spaces around them out of a text.
    pub(crate) strips: Vec<(TokenId, Strip)>,
    /// Whether a prompt begins with BOS. By default SentencePiece's do, and of others those that
    /// Llama 3 names.
    pub(crate) add_bos: Option<bool>,
    /// Whether a prompt ends with EOS. By default none does.
    pub(crate) add_eos: Option<bool>,
    /// What GGUF has no words for.
    pub(crate) text: TextSettings,
    /// What whoever converts it should know: sentences for people.
    #[cfg_attr(not(feature = "convert"), allow(dead_code, reason = "they are for conversion"))]
    pub(crate) notes: Vec<String>,
}

/// Tokens that a model of code was trained with: a gap and what is around it, and what stands
/// between files.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FimIds {
    pub(crate) prefix: Option<TokenId>,
    pub(crate) suffix: Option<TokenId>,
    pub(crate) middle: Option<TokenId>,
    pub(crate) pad: Option<TokenId>,
    pub(crate) repository: Option<TokenId>,
    pub(crate) separator: Option<TokenId>,
}

/// A piece as a file describes it.
#[derive(Clone, Debug)]
pub(crate) struct PieceSpec<'a> {
    /// Its text, which need not be UTF-8.
    pub(crate) text: Cow<'a, [u8]>,
    /// Its score, which matters to SentencePiece alone.
    pub(crate) score: f32,
    /// What it is for.
    pub(crate) kind: PieceKind,
}

/// How text becomes pieces.
#[derive(Clone, Debug)]
pub(crate) enum TokenizerModel<'a> {
    /// By the pieces' scores.
    SentencePiece {
        /// Whether a text begins with a space that is not its own.
        add_space_prefix: bool,
    },
    /// By merges of bytes.
    BytePairs {
        /// The name of the pre-tokenizer: GGUF's `tokenizer.ggml.pre`, or `default` where a file
        /// has none.
        pre: &'a str,
        /// Two texts with a space between, the first merge to be made first.
        merges: Vec<Cow<'a, [u8]>>,
    },
}

impl Default for TokenizerModel<'_> {
    fn default() -> Self {
        Self::SentencePiece { add_space_prefix: true }
    }
}

impl TokenizerModel<'_> {
    /// Whether it is SentencePiece's: the pieces' scores mean nothing to the other.
    pub(crate) fn is_sentencepiece(&self) -> bool {
        matches!(self, Self::SentencePiece { .. })
    }
}

impl Tokenizer {
    /// Makes a tokenizer of what a file says.
    ///
    /// # Errors
    /// [`ErrorKind::Tokenizer`] if there are no pieces or too many, a score is not a number, an id
    /// is not below the number of pieces, the pre-tokenizer is not known, or a prompt is to begin
    /// with a BOS or to end with an EOS that there is not.
    pub(crate) fn from_spec(spec: &TokenizerSpec<'_>) -> Result<Self> {
        let refuse = |reason: String| Err(ErrorKind::Tokenizer { reason }.into());
        spec.check_ids()?;
        let is_sentencepiece = spec.model.is_sentencepiece();
        let settled = kinds::settle(spec);
        // They say exactly where user-defined pieces are found.
        let has_rules = spec.text != TextSettings::default();
        let mut vocab = VocabBuilder::default();
        let mut buffer = Vec::new();
        for ((id, piece), &kind) in (0..).zip(&spec.pieces).zip(&settled.kinds) {
            let text = text(&piece.text, kind, is_sentencepiece, &mut buffer);
            let is_found = text.is_some()
                && is_merged_to(piece, kind, is_sentencepiece, settled.unk == Some(id))
                && !(has_rules && kind == PieceKind::UserDefined);
            vocab.push_found(text.unwrap_or(&piece.text), piece.score, kind, is_found)?;
        }
        let mut vocab = vocab.build()?;
        if let Some(unk) = settled.unk {
            vocab.set_unknown(unk);
        }
        let [user_defined, named] = spec.taken_out(&settled);
        let Settled { bos, eos, end_of_generation, named_kinds, .. } = settled;

        let (algorithm, adds_bos) = match &spec.model {
            &TokenizerModel::SentencePiece { add_space_prefix } => {
                (Algorithm::SentencePiece { dummy_prefix: add_space_prefix }, true)
            }
            TokenizerModel::BytePairs { pre, merges } => {
                let Some(pre) = PreTokenizer::named(pre) else {
                    return refuse(format!("the pre-tokenizer {pre:?} is not known"));
                };
                let pre = if spec.text.unicode_case { pre.with_unicode_case() } else { pre };
                (Algorithm::BytePairs(Arc::new(BytePairs::new(&vocab, pre, merges)?)), pre.adds_bos)
            }
        };
        if spec.add_bos == Some(true) && bos.is_none() {
            return refuse("prompts are to begin with BOS, but no token is".into());
        }
        if spec.add_eos == Some(true) && eos.is_none() {
            return refuse("prompts are to end with EOS, but no token is".into());
        }

        Ok(Self {
            user_defined: (!user_defined.is_empty()).then(|| Arc::new(user_defined)),
            rules: TextRules::of(spec, &named_kinds).map(Arc::new),
            named: Arc::new(named),
            vocab: Arc::new(vocab),
            algorithm,
            bos,
            eos,
            end_of_generation,
            add_bos: spec.add_bos.unwrap_or(adds_bos),
            add_eos: spec.add_eos.unwrap_or(false),
        })
    }
}

impl TokenizerSpec<'_> {
    fn check_ids(&self) -> Result<()> {
        let n_pieces = self.pieces.len();
        let FimIds { prefix, suffix, middle, pad, repository, separator } = self.fim;
        let named = [
            ("BOS", self.bos),
            ("EOS", self.eos),
            ("EOT", self.eot),
            ("EOM", self.eom),
            ("unknown", self.unk),
            ("prefix", prefix),
            ("suffix", suffix),
            ("middle", middle),
            ("padding", pad),
            ("repository", repository),
            ("separating", separator),
        ];
        for (name, id) in named {
            if let Some(id) = id.filter(|&id| id as usize >= n_pieces) {
                let reason = format!("the {name} token is {id}, but there are only {n_pieces} pieces");
                return Err(ErrorKind::Tokenizer { reason }.into());
            }
        }
        Ok(())
    }

    /// What is taken out of a text before all else: user-defined pieces; and with them control
    /// tokens, where it names them.
    fn taken_out(&self, settled: &Settled) -> [UserDefined; 2] {
        use PieceKind::{Control, Unknown, UserDefined as Defined};
        let strips: HashMap<_, _> = self.strips.iter().copied().collect();
        let kinds = if self.text == TextSettings::default() {
            [&[Defined][..], &[Defined, Control, Unknown]]
        } else {
            [&[][..], &[Control, Unknown]]
        };
        kinds.map(|kinds| {
            let pieces = (0..).zip(&self.pieces).zip(&settled.named_kinds);
            let pieces = pieces.filter(|(_, kind)| kinds.contains(kind));
            UserDefined::new(
                pieces
                    .map(|((id, piece), _)| (id, &*piece.text, strips.get(&id).copied().unwrap_or_default())),
            )
        })
    }
}

/// Whether text is merged to a piece.
///
/// SentencePiece's user-defined pieces are merged to as well, which counts where they are made of
/// what text has only after it is prepared: marks of spaces. For the same reason what has a plain
/// space can't be merged to.
///
/// What a file calls unknown and isn't the unknown token is text to llama.cpp.
fn is_merged_to(piece: &PieceSpec<'_>, kind: PieceKind, is_sentencepiece: bool, is_unk: bool) -> bool {
    match kind {
        PieceKind::Normal | PieceKind::Unused => !is_sentencepiece || !piece.text.contains(&b' '),
        PieceKind::UserDefined => is_sentencepiece && !piece.text.contains(&b' '),
        PieceKind::Unknown => !is_unk && (!is_sentencepiece || !piece.text.contains(&b' ')),
        PieceKind::Control | PieceKind::Byte => false,
    }
}

#[cfg(feature = "convert")]
impl TokenizerSpec<'_> {
    /// The token of an exact text.
    pub(crate) fn find(&self, text: &str) -> Option<TokenId> {
        let at = self.pieces.iter().position(|piece| *piece.text == *text.as_bytes());
        at.map(|id| id as TokenId)
    }
}

#[cfg(feature = "convert")]
impl Tokenizer {
    /// What a file must say to bring this tokenizer. `None` for a byte-level one, whose merges are
    /// no longer texts.
    ///
    /// llama2.c writes the names of control pieces between newlines. They are of no text, so they
    /// lose them.
    pub(crate) fn to_spec(&self) -> Option<TokenizerSpec<'_>> {
        let Algorithm::SentencePiece { dummy_prefix } = self.algorithm else { return None };
        let pieces = (0..self.vocab_size() as TokenId).map(|id| {
            let (text, kind) = (self.piece(id)?, self.kind(id)?);
            let text = match kind {
                PieceKind::Control => text.trim_ascii().into(),
                PieceKind::Byte | PieceKind::Unknown => text.into(),
                PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused => with_marks(text),
            };
            Some(PieceSpec { text, score: self.score(id)?, kind })
        });
        // A file names two tokens that end a text: a model of llama2.c ends it with either.
        let other_end = self.end_of_generation.iter().copied().find(|&id| Some(id) != self.eos);
        Some(TokenizerSpec {
            pieces: pieces.collect::<Option<_>>()?,
            model: TokenizerModel::SentencePiece { add_space_prefix: dummy_prefix },
            bos: self.bos,
            eos: self.eos,
            eot: other_end,
            unk: self.vocab.unknown(),
            add_bos: Some(self.add_bos),
            add_eos: Some(self.add_eos),
            text: self.rules.as_ref().map_or_else(TextSettings::default, |rules| rules.settings.clone()),
            ..TokenizerSpec::default()
        })
    }
}

/// Writes U+2581 for each space.
#[cfg(feature = "convert")]
fn with_marks(text: &[u8]) -> Cow<'_, [u8]> {
    if text.contains(&b' ') {
        text.split(|&byte| byte == b' ').collect::<Vec<_>>().join(MARK).into()
    } else {
        text.into()
    }
}

/// The text of a piece with plain spaces or as bytes, or `None` if it is in an alphabet that text
/// is never in. It may lie in the buffer.
fn text<'a>(
    piece: &'a [u8],
    kind: PieceKind,
    is_sentencepiece: bool,
    buffer: &'a mut Vec<u8>,
) -> Option<&'a [u8]> {
    use PieceKind::{Normal, Unknown, Unused, UserDefined};
    buffer.clear();
    match kind {
        Normal | Unused | UserDefined | Unknown if is_sentencepiece => {
            put_plain_spaces(piece, buffer);
            Some(buffer)
        }
        Normal | Unused | Unknown => decode_alphabet(piece, buffer).map(|()| &**buffer),
        _ => Some(piece),
    }
}

/// A piece with a space for each U+2581.
pub(crate) fn with_plain_spaces(piece: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    put_plain_spaces(piece, &mut text);
    text
}

/// What SentencePiece writes for a space.
const MARK: &[u8] = "\u{2581}".as_bytes();

/// Appends a piece with a space for each U+2581.
fn put_plain_spaces(piece: &[u8], text: &mut Vec<u8>) {
    let mut rest = piece;
    while let [first, others @ ..] = rest {
        let after_mark = rest.strip_prefix(MARK);
        text.push(if after_mark.is_some() { b' ' } else { *first });
        rest = after_mark.unwrap_or(others);
    }
}

#[cfg(test)]
mod tests;
