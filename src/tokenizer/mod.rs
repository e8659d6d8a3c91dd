//! Text to tokens and back, with the vocabularies that Llama models come with.
//!
//! Invariant: whatever file the tokenizer came from, no text and no token makes it panic; and text
//! from a user never becomes a control token, because only pieces that stand for text can be found
//! by their text. A character that a control piece alone spells is text: its piece then counts as
//! normal, or as a byte.
//!
//! - here: [`Tokenizer`]
//! - [`llama2c`]: the file format of llama2.c
//! - [`spec`]: what any other file says of its tokenizer
//! - [`kinds`]: what pieces are for where a file leaves it open
//! - [`vocab`]: the pieces
//! - [`hash`]: the hashes of their index
//! - [`normalizer`] and [`added`]: how a text is prepared, and which tokens are taken out of it,
//!   where GGUF has no keys for it
//! - [`nfc`]: composed characters, for tokenizers that want them so
//! - [`user_defined`]: pieces that are taken out of a text before all else
//! - [`control`]: the tokens that steer a model, by their names
//! - [`sentencepiece`], or [`pre`], [`unicode`] and [`bpe`]: text to tokens
//! - [`decoder`]: tokens to text
//!
//! Source: llama2.c's `tokenizer.py`, which writes `tokenizer.bin`, and SentencePiece and
//! llama.cpp, whose tokens these are.

mod added;
mod bpe;
mod breakers;
mod case;
mod control;
mod decoder;
mod hash;
mod kinds;
mod llama2c;
mod nfc;
mod normalizer;
mod pre;
mod sentencepiece;
mod spec;
#[cfg(test)]
mod tests;
mod unicode;
mod user_defined;
mod vocab;

use std::fmt;
use std::sync::Arc;

#[cfg(feature = "convert")]
pub(crate) use added::{NEVER, NORMALIZED, PREFIXED, SECOND_ROUND, SINGLE_WORD, STRIP_LEFT, STRIP_RIGHT};
use bpe::BytePairs;
#[cfg(feature = "convert")]
pub(crate) use bpe::encode_alphabet;
pub use decoder::Decoder;
#[cfg(feature = "convert")]
pub(crate) use kinds::{names_control, names_end};
use normalizer::TextRules;
pub(crate) use normalizer::{ADDED_TOKEN_FLAGS, ADDED_TOKENS, END_TOKENS, FLAGS, TextSettings};
#[cfg(feature = "convert")]
pub(crate) use spec::with_plain_spaces;
pub(crate) use spec::{FimIds, PieceSpec, TokenizerModel, TokenizerSpec};
pub(crate) use user_defined::{Fragment, Strip, UserDefined, is_stripped};
use vocab::Vocab;

use crate::error::TokenId;

/// What a piece of the vocabulary is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PieceKind {
    /// Text.
    Normal,
    /// Stands for text that no piece can spell.
    Unknown,
    /// A signal to the model, such as BOS: it has no text, and no text becomes it.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// One byte, for text that no other piece can spell.
    Byte,
    /// Never produced; but in a byte-level vocabulary text like any other, as to llama.cpp.
    Unused,
}

impl PieceKind {
    /// SentencePiece's number of each, which is GGUF's too.
    const NUMBERS: [(u8, Self); 6] = [
        (1, Self::Normal),
        (2, Self::Unknown),
        (3, Self::Control),
        (4, Self::UserDefined),
        (5, Self::Unused),
        (6, Self::Byte),
    ];

    /// The kind of this number.
    pub(crate) fn from_number(number: u64) -> Option<Self> {
        let row = Self::NUMBERS.iter().find(|row| u64::from(row.0) == number);
        row.map(|&(_, kind)| kind)
    }

    /// Its number.
    #[cfg(feature = "convert")]
    pub(crate) fn number(self) -> u8 {
        let row = Self::NUMBERS.iter().find(|row| row.1 == self);
        row.map_or(0, |&(number, _)| number)
    }
}

/// How text becomes tokens.
#[derive(Clone)]
enum Algorithm {
    SentencePiece {
        /// A text begins with a space that is not its own.
        dummy_prefix: bool,
    },
    BytePairs(Arc<BytePairs>),
}

/// Turns text into the tokens that a model was trained on, and tokens into text. Cheap to clone:
/// clones share everything.
///
/// ```
/// use babyllama::Tokenizer;
///
/// let pieces =
///     [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), (" ", -3.0), ("o", -4.0), (" o", -1.0)];
/// // In llama2.c's format: the longest piece's length, then each piece's score, length and bytes.
/// let mut file = 5_i32.to_le_bytes().to_vec();
/// for (piece, score) in pieces {
///     file.extend(f32::to_le_bytes(score));
///     file.extend((piece.len() as i32).to_le_bytes());
///     file.extend(piece.as_bytes());
/// }
/// let tokenizer = Tokenizer::from_llama2c(&file)?;
///
/// assert_eq!(tokenizer.encode("oo o"), [5, 4, 5]);
/// assert_eq!(tokenizer.encode_prompt("oo o"), [1, 5, 4, 5]);
/// assert_eq!(tokenizer.decode(&[1, 5, 4, 5]), "oo o");
/// # Ok::<(), babyllama::Error>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    vocab: Arc<Vocab>,
    algorithm: Algorithm,
    /// None, if no piece is user-defined, or if there are rules, which then take them out.
    user_defined: Option<Arc<UserDefined>>,
    /// None, if a text is treated as llama.cpp treats it.
    rules: Option<Arc<TextRules>>,
    /// What is taken out of a text that may name control tokens.
    named: Arc<UserDefined>,
    bos: Option<TokenId>,
    eos: Option<TokenId>,
    /// The tokens that end a generation, in ascending order.
    end_of_generation: Vec<TokenId>,
    /// Whether a prompt begins with BOS.
    add_bos: bool,
    /// Whether a prompt ends with EOS.
    add_eos: bool,
}

impl Tokenizer {
    /// The tokens of `text`, without BOS.
    ///
    /// The names of control tokens are text like any other; user-defined pieces are taken out of it
    /// before all else.
    ///
    /// A SentencePiece tokenizer puts a space before a text that isn't empty, unless its file says
    /// not to, and after each user-defined piece; U+2581 counts as a space, and runs of spaces stay
    /// as they are. A byte-level one changes nothing: its tokens spell the text's bytes, except
    /// those that have no piece in its vocabulary, which are lost.
    ///
    /// Takes O(n log n) time. A text, or a word of a byte-level tokenizer, beyond 1 GiB is encoded
    /// in parts of that size, and no piece spans two parts.
    #[must_use]
    pub fn encode(&self, text: &str) -> Vec<TokenId> {
        let mut tokens = Vec::new();
        self.encode_into(text, &mut tokens);
        tokens
    }

    /// The tokens of `text` as a prompt is fed to the model: BOS first and EOS last, if the
    /// tokenizer adds them.
    ///
    /// Few add EOS: those of models that were trained for something else than to continue a text.
    #[must_use]
    pub fn encode_prompt(&self, text: &str) -> Vec<TokenId> {
        let mut tokens: Vec<_> = self.bos.filter(|_| self.add_bos).into_iter().collect();
        self.encode_into(text, &mut tokens);
        tokens.extend(self.eos.filter(|_| self.add_eos));
        tokens
    }

    /// Appends the tokens of `text`, without BOS, as [`encode`](Self::encode) gives them.
    pub fn encode_into(&self, text: &str, tokens: &mut Vec<TokenId>) {
        self.encode_fragments(self.user_defined.as_deref(), text, self.puts_dummy_prefix(), tokens);
    }

    /// The tokens of a text that goes on from text: as [`encode`](Self::encode), but nothing is put
    /// before it.
    ///
    /// A SentencePiece tokenizer begins each text with a space, but the second half of a word has
    /// none. This is the plain encoding, in which the tokens spell the text itself.
    ///
    /// ```
    /// # let mut file = 0_i32.to_le_bytes().to_vec();
    /// # for piece in ["<unk>", "<s>", "</s>", " ", "t", "i", "m", "e", " ti", "me"] {
    /// #     file.extend(0_f32.to_le_bytes());
    /// #     file.extend((piece.len() as i32).to_le_bytes());
    /// #     file.extend(piece.as_bytes());
    /// # }
    /// # let tokenizer = babyllama::Tokenizer::from_llama2c(&file)?;
    /// let mut tokens = tokenizer.encode("ti");
    /// tokens.extend(tokenizer.encode_continuation("me"));
    /// assert_eq!(tokenizer.decode(&tokens), "time");
    ///
    /// tokens.extend(tokenizer.encode("me"));
    /// assert_eq!(tokenizer.decode(&tokens), "time me");
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn encode_continuation(&self, text: &str) -> Vec<TokenId> {
        let mut tokens = Vec::new();
        self.encode_continued(text, &mut tokens);
        tokens
    }

    /// The tokens of a text in which the names of control tokens mean these tokens, without BOS.
    ///
    /// For text that you trust, such as a prompt written by hand for a chat model: whoever writes
    /// it can end a turn and speak for the system. [`encode`](Self::encode) takes the same names as
    /// text. The longest names are found first, and a SentencePiece tokenizer puts a space before
    /// the text after each token that was named, as llama.cpp does.
    ///
    /// ```
    /// # let mut file = 0_i32.to_le_bytes().to_vec();
    /// # for piece in ["<unk>", "<s>", "</s>", " ", "<", "/", "s", ">", "o", " o"] {
    /// #     file.extend(0_f32.to_le_bytes());
    /// #     file.extend((piece.len() as i32).to_le_bytes());
    /// #     file.extend(piece.as_bytes());
    /// # }
    /// # let tokenizer = babyllama::Tokenizer::from_llama2c(&file)?;
    /// assert_eq!(tokenizer.encode_with_control("<s>o</s>"), [1, 9, 2]);
    /// assert_eq!(tokenizer.encode("<s>o"), [3, 4, 6, 7, 8]);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn encode_with_control(&self, text: &str) -> Vec<TokenId> {
        let mut tokens = Vec::new();
        self.encode_fragments(Some(&self.named), text, self.puts_dummy_prefix(), &mut tokens);
        tokens
    }

    /// As [`encode_into`](Self::encode_into), for a text that goes on from text: nothing is put
    /// before it.
    pub(crate) fn encode_continued(&self, text: &str, tokens: &mut Vec<TokenId>) {
        self.encode_fragments(self.user_defined.as_deref(), text, false, tokens);
    }

    /// As [`encode_into`](Self::encode_into), for a text after a control token: where only the
    /// start of a text has a dummy prefix, nothing is put before it.
    pub(crate) fn encode_after_control(&self, text: &str, tokens: &mut Vec<TokenId>) {
        let is_once = self.rules.as_ref().is_some_and(|rules| rules.settings.prefix_once);
        let dummy_prefix = self.puts_dummy_prefix() && !is_once;
        self.encode_fragments(self.user_defined.as_deref(), text, dummy_prefix, tokens);
    }

    /// The tokens of a text that comes after a token: as one that goes on from its text, if it has
    /// any. After a token that is taken out of texts, or that is no text, a new one begins.
    pub(crate) fn encode_after(&self, previous: TokenId, text: &str) -> Vec<TokenId> {
        let begins = match self.kind(previous) {
            Some(PieceKind::Control) => true,
            // Spaces are merged, and not taken out.
            Some(PieceKind::UserDefined) => !self.bytes(previous).contains(&b' '),
            _ => false,
        };
        if begins { self.encode(text) } else { self.encode_continuation(text) }
    }

    /// Appends the tokens of a text, which itself begins with a dummy prefix or not. Pieces are
    /// taken out of it first.
    fn encode_fragments(
        &self,
        taken_out: Option<&UserDefined>,
        text: &str,
        dummy_prefix: bool,
        tokens: &mut Vec<TokenId>,
    ) {
        let Some(taken_out) = taken_out else {
            return self.encode_between(text, dummy_prefix, tokens);
        };
        let mut dummy_prefix = dummy_prefix;
        for fragment in taken_out.split(text) {
            match fragment {
                Fragment::Text(text) => self.encode_between(text, dummy_prefix, tokens),
                Fragment::Token(id) => tokens.push(id),
            }
            let is_once = self.rules.as_ref().is_some_and(|rules| rules.settings.prefix_once);
            dummy_prefix = self.puts_dummy_prefix() && !is_once;
        }
    }

    /// Appends the tokens of a text between those that were taken out. If there are rules, they say
    /// what else is.
    fn encode_between(&self, text: &str, dummy_prefix: bool, tokens: &mut Vec<TokenId>) {
        match &self.rules {
            Some(rules) => self.encode_by_rules(rules, text, dummy_prefix, tokens),
            None => self.encode_fragment(text, dummy_prefix, tokens),
        }
    }

    /// Appends the tokens of a text that has no user-defined pieces.
    fn encode_fragment(&self, text: &str, dummy_prefix: bool, tokens: &mut Vec<TokenId>) {
        match &self.algorithm {
            Algorithm::SentencePiece { .. } => sentencepiece::encode(&self.vocab, text, dummy_prefix, tokens),
            Algorithm::BytePairs(pairs) => pairs.encode(&self.vocab, text, tokens),
        }
    }

    /// The text of `ids`, without a dummy prefix at its start.
    ///
    /// Control tokens and ids beyond the vocabulary have no text; bytes that are no UTF-8 become
    /// U+FFFD.
    #[must_use]
    pub fn decode(&self, ids: &[TokenId]) -> String {
        let mut decoder = self.decoder();
        let mut text = String::new();
        for &id in ids {
            text.push_str(decoder.push(self, id));
        }
        text.push_str(decoder.finish());
        text
    }

    /// A decoder at the start of a text: it strips the dummy prefix, if the tokenizer adds one.
    #[must_use]
    pub fn decoder(&self) -> Decoder {
        Decoder::new(true)
    }

    /// A decoder for what follows `previous`, the last token of a prompt: it strips the dummy
    /// prefix only after BOS.
    #[must_use]
    pub fn decoder_after(&self, previous: TokenId) -> Decoder {
        Decoder::new(self.bos == Some(previous))
    }

    /// The number of pieces. A padded model has more logits than that.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The token that begins a text, if there is one.
    #[must_use]
    pub fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    /// The token that ends a text, if there is one.
    #[must_use]
    pub fn eos(&self) -> Option<TokenId> {
        self.eos
    }

    /// Whether [`encode_prompt`](Self::encode_prompt) puts BOS first.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.bos.is_some()
    }

    /// Whether a model that gives this token has ended its text.
    ///
    /// With a file of llama2.c these are EOS and BOS, since its models end with either. With others
    /// they are EOS, the end of a turn, and what goes by a name such as `<|eot_id|>`.
    #[must_use]
    pub fn is_end(&self, id: TokenId) -> bool {
        self.end_of_generation.binary_search(&id).is_ok()
    }

    /// Whether texts begin with a space that is not their own.
    pub(crate) fn strips_dummy_prefix(&self) -> bool {
        let is_suffix = self.rules.as_ref().is_some_and(|rules| rules.settings.space_suffix);
        self.puts_dummy_prefix() && !is_suffix
    }

    /// Whether texts get a space that is not their own, in front or at their end.
    fn puts_dummy_prefix(&self) -> bool {
        matches!(self.algorithm, Algorithm::SentencePiece { dummy_prefix: true })
    }

    /// A piece as the vocabulary writes it (`<0x0A>` for the byte 10), or `None` beyond the
    /// vocabulary.
    ///
    /// Except that spaces are plain ones, and that the pieces of a byte-level tokenizer are the
    /// bytes themselves.
    #[must_use]
    pub fn piece(&self, id: TokenId) -> Option<&[u8]> {
        self.vocab.piece(id)
    }

    /// What a piece is for, or `None` beyond the vocabulary.
    #[must_use]
    pub fn kind(&self, id: TokenId) -> Option<PieceKind> {
        self.vocab.kind(id)
    }

    /// The first piece that another tokenizer doesn't have at the same place, if there is one.
    pub(crate) fn first_difference(&self, other: &Self) -> Option<TokenId> {
        let n = if Arc::ptr_eq(&self.vocab, &other.vocab) {
            0
        } else {
            self.vocab_size().max(other.vocab_size())
        };
        (0..n as TokenId).find(|&id| self.piece(id) != other.piece(id))
    }

    /// A piece's score, or `None` beyond the vocabulary. Of two merges, the one with the higher
    /// score goes first.
    #[must_use]
    pub fn score(&self, id: TokenId) -> Option<f32> {
        self.vocab.score(id)
    }

    /// The bytes that a token stands for in text: none for control tokens and beyond the
    /// vocabulary.
    ///
    /// The unknown piece stands for `" \u{2047} "`, as in SentencePiece. A single token's bytes
    /// need not be UTF-8.
    #[must_use]
    pub fn bytes(&self, id: TokenId) -> &[u8] {
        self.vocab.bytes(id)
    }

    /// The first normal token whose text is `piece`, with plain spaces.
    ///
    /// Control and byte pieces are never found by their names, nor are user-defined ones: see
    /// [`control`](Self::control).
    #[must_use]
    pub fn find(&self, piece: &[u8]) -> Option<TokenId> {
        self.vocab.find(piece).filter(|&id| self.kind(id) == Some(PieceKind::Normal))
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            vocab,
            algorithm,
            user_defined: _,
            named: _,
            rules: _,
            bos,
            eos,
            end_of_generation,
            add_bos,
            add_eos,
        } = self;
        f.debug_struct("Tokenizer")
            .field("vocab_size", &vocab.len())
            .field("algorithm", algorithm)
            .field("bos", bos)
            .field("eos", eos)
            .field("end_of_generation", end_of_generation)
            .field("add_bos", add_bos)
            .field("add_eos", add_eos)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SentencePiece { dummy_prefix } => {
                f.debug_struct("SentencePiece").field("dummy_prefix", dummy_prefix).finish()
            }
            Self::BytePairs(_) => f.write_str("BytePairs"),
        }
    }
}
