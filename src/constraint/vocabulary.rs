//! A tokenizer's pieces as a trie of bytes, which is made once for a model.
//!
//! Invariant: a word is exactly what its token adds to a text. Tokens that must not come up as text
//! (control tokens, and all that end a text) have words that begin with a byte that no text has,
//! and those that add nothing, or something else than they were read from, have none.

use std::fmt;
use std::sync::{Arc, OnceLock};

use llguidance::ParserFactory;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};

use crate::error::{ErrorKind, Result, TokenId};
use crate::tokenizer::{PieceKind, Tokenizer};

/// The trie has room for this many bytes and pieces.
const MAX_NODES: usize = 1 << 22;

/// The trie has room for deeper words, but not much.
const MAX_WORD: usize = 1000;

/// What grammars are compiled against.
pub(crate) struct Vocabulary {
    pub(super) tokenizer: Tokenizer,
    pub(super) factory: ParserFactory,
    /// The same for the first token of a text that loses its space, made when the first text does.
    at_start: OnceLock<ParserFactory>,
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary").field("tokenizer", &self.tokenizer).finish_non_exhaustive()
    }
}

impl Vocabulary {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let env = Env::new(tokenizer, false)?;
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let factory = factory(env, &slices)?;
        Ok(Self { tokenizer: tokenizer.clone(), factory, at_start: OnceLock::new() })
    }

    /// Whether the first token after `previous` loses a space at its front.
    pub(super) fn is_stripped_after(&self, previous: Option<TokenId>) -> bool {
        self.tokenizer.strips_dummy_prefix() && previous.is_some() && previous == self.tokenizer.bos()
    }

    /// Where each piece is without the space at its front.
    pub(super) fn at_start(&self) -> Result<&ParserFactory> {
        if self.at_start.get().is_none() {
            // Used for one token at a time, so without what speeds up the others.
            let made = factory(Env::new(&self.tokenizer, true)?, &[])?;
            // Another thread's is the same.
            drop(self.at_start.set(made));
        }
        self.at_start.get().ok_or_else(|| refuse("the first token's pieces are lost"))
    }

    pub(super) fn trie(&self) -> &TokTrie {
        self.factory.tok_env().tok_trie()
    }
}

fn factory(env: Env, slices: &[String]) -> Result<ParserFactory> {
    let env: TokEnv = Arc::new(env);
    let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), slices)
        .map_err(|error| refuse(&error.to_string()))?;
    factory.quiet();
    factory.limits_mut().verbose_errors = false;
    Ok(factory)
}

fn refuse(reason: &str) -> crate::error::Error {
    ErrorKind::Tokenizer { reason: format!("not for grammars: {reason}") }.into()
}

/// The trie, and how forced text becomes tokens.
struct Env {
    trie: TokTrie,
    tokenizer: Tokenizer,
    /// Whether text that must come is what the tokenizer makes of it.
    forces: bool,
}

impl Env {
    fn new(tokenizer: &Tokenizer, at_start: bool) -> Result<Self> {
        let words: Vec<_> =
            (0..tokenizer.vocab_size()).map(|id| word(tokenizer, id as TokenId, at_start)).collect();
        let ends: Vec<_> = (0..words.len() as TokenId).filter(|&id| tokenizer.is_end(id)).collect();
        let Some(&end) = ends.first() else {
            return Err(refuse("no token ends a text"));
        };
        let n_bytes: usize = words.iter().map(Vec::len).sum();
        if n_bytes + words.len() >= MAX_NODES {
            return Err(refuse(&format!("{} pieces of {n_bytes} bytes are too many", words.len())));
        }
        // Bytes that UTF-8 doesn't have need no piece.
        let spells_all = (0..=0xf4_u8)
            .filter(|byte| !matches!(byte, 0xc0 | 0xc1))
            .all(|byte| words.iter().any(|word| word[..] == [byte]));
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, end), &words).with_eos_tokens(&ends);
        Ok(Self { trie, tokenizer: tokenizer.clone(), forces: spells_all && !at_start })
    }
}

/// What a token adds to a text; `at_start` to the front of one that loses its space.
fn word(tokenizer: &Tokenizer, id: TokenId, at_start: bool) -> Vec<u8> {
    let kind = tokenizer.kind(id);
    if tokenizer.is_end(id) || kind == Some(PieceKind::Control) {
        // After BOS the next token would lose its space.
        if tokenizer.bos() == Some(id) && !tokenizer.is_end(id) {
            return Vec::new();
        }
        let name = tokenizer.piece(id).filter(|name| !name.is_empty()).unwrap_or(b"<end>");
        return [&[TokTrie::SPECIAL_TOKEN_MARKER], &name[..name.len().min(MAX_WORD - 1)]].concat();
    }
    let bytes = match kind {
        Some(PieceKind::Normal | PieceKind::UserDefined) if at_start => {
            let bytes = tokenizer.bytes(id);
            bytes.strip_prefix(b" ").unwrap_or(bytes)
        }
        Some(PieceKind::Normal | PieceKind::UserDefined | PieceKind::Byte) => tokenizer.bytes(id),
        _ => &[],
    };
    let is_usable = bytes.len() <= MAX_WORD && bytes.first() != Some(&TokTrie::SPECIAL_TOKEN_MARKER);
    if is_usable { bytes.to_vec() } else { Vec::new() }
}

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// As the tokenizer does, if these tokens spell the text.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        if let Ok(text) = str::from_utf8(bytes) {
            let tokens = self.tokenizer.encode_continuation(text);
            let words = tokens.iter().flat_map(|&token| self.trie.token(token));
            if words.eq(bytes) {
                return tokens;
            }
        }
        self.trie.greedy_tokenize(bytes)
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.forces
    }
}
