//! What a tokenizer does to a text that GGUF has no words for, and the keys of our own that say it.
//!
//! llama.cpp puts a dummy prefix before a text and after each user-defined piece, and takes the
//! longest of these pieces out of the whole text first. Other tokenizers, when they are converted,
//! bring settings that change the tokens. They are written only where they are needed, and programs
//! that don't know them read the file as they always did:
//!
//! ```text
//! babyllama.tokenizer.
//!   prefix_unless_space  bool   no dummy prefix before a space or U+2581
//!   prefix_once          bool   no dummy prefix after a piece that was taken out
//!   collapse_spaces      bool   runs of spaces are one space, and those at both ends none
//!   space_suffix         bool   the dummy prefix is a suffix
//!   split_words          bool   no piece goes on over a space that it doesn't begin with
//!   nfc                  bool   characters are composed first, in byte-level vocabularies
//!   unicode_case         bool   words are cut by the case of all letters, with their marks
//!   end_token_ids        [u32]  tokens that end a text, besides EOS, EOT and EOM
//!   added_tokens         [u32]  pieces that are taken out of a text
//!   added_token_flags    [u32]  how each of them is found: bits that `added` lists
//! ```
//!
//! Source: the behavior of SentencePiece's normalizer and of Hugging Face's tokenizers.

use super::added::AddedTokens;
use super::spec::TokenizerSpec;
use super::user_defined::Fragment;
use super::{Algorithm, PieceKind, Tokenizer, nfc, sentencepiece};
use crate::error::TokenId;

/// Settings that GGUF has no words for. By default a text is treated as llama.cpp treats it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TextSettings {
    /// No dummy prefix is put before a space.
    pub(crate) prefix_unless_space: bool,
    /// A dummy prefix is only put before the whole text, and not after a piece that was taken out
    /// of it.
    pub(crate) prefix_once: bool,
    /// Runs of spaces become one, and none stays at either end.
    pub(crate) collapse_spaces: bool,
    /// What is called a prefix is put after the text.
    pub(crate) space_suffix: bool,
    /// A text is cut before each space, and nothing is merged over a cut.
    pub(crate) split_words: bool,
    /// A byte-level tokenizer composes characters first.
    pub(crate) nfc: bool,
    /// Where byte-level tokenizers cut words by case, all letters have one, and marks are letters;
    /// in llama.cpp only A to Z have, and marks are symbols.
    pub(crate) unicode_case: bool,
    /// Pieces that are taken out of a text, and how each is found: see [`AddedTokens`].
    pub(crate) added: Vec<(TokenId, u32)>,
}

/// Where a setting is.
type Flag = fn(&mut TextSettings) -> &mut bool;

/// The keys of those settings that are true or false.
pub(crate) const FLAGS: [(&str, Flag); 7] = [
    ("babyllama.tokenizer.prefix_unless_space", |it| &mut it.prefix_unless_space),
    ("babyllama.tokenizer.prefix_once", |it| &mut it.prefix_once),
    ("babyllama.tokenizer.collapse_spaces", |it| &mut it.collapse_spaces),
    ("babyllama.tokenizer.space_suffix", |it| &mut it.space_suffix),
    ("babyllama.tokenizer.split_words", |it| &mut it.split_words),
    ("babyllama.tokenizer.nfc", |it| &mut it.nfc),
    ("babyllama.tokenizer.unicode_case", |it| &mut it.unicode_case),
];
/// Tokens that end a text, besides those that GGUF has keys for.
pub(crate) const END_TOKENS: &str = "babyllama.tokenizer.end_token_ids";
pub(crate) const ADDED_TOKENS: &str = "babyllama.tokenizer.added_tokens";
pub(crate) const ADDED_TOKEN_FLAGS: &str = "babyllama.tokenizer.added_token_flags";

/// Settings that aren't the default, ready to be used.
pub(super) struct TextRules {
    pub(super) settings: TextSettings,
    pub(super) added: AddedTokens,
}

impl TextRules {
    /// What a file says, unless it says nothing.
    pub(super) fn of(spec: &TokenizerSpec<'_>, kinds: &[PieceKind]) -> Option<Self> {
        let settings = spec.text.clone();
        (settings != TextSettings::default()).then(|| {
            let kind = |id| kinds.get(id as usize).copied();
            let added = AddedTokens::new(&settings.added, &spec.pieces, kind);
            Self { settings, added }
        })
    }

    /// The text that pieces are merged in: U+2581 and spaces are both spaces there.
    fn normalize(&self, text: &str, prefix: bool) -> String {
        let TextSettings { prefix_unless_space, collapse_spaces, space_suffix, .. } = self.settings;
        let text = if collapse_spaces { text.trim_start_matches(' ') } else { text };
        let mut normalized = String::with_capacity(text.len() + 1);
        if text.is_empty() {
            return normalized;
        }
        let prefix = prefix && !(prefix_unless_space && text.starts_with([' ', sentencepiece::SPACE_MARK]));
        if prefix && !space_suffix {
            normalized.push(' ');
        }
        let mut after_space = false;
        for c in text.chars() {
            // U+2581 in a text isn't a space to SentencePiece until it is at the end.
            if !(collapse_spaces && after_space && c == ' ') {
                normalized.push(if c == sentencepiece::SPACE_MARK { ' ' } else { c });
            }
            after_space = c == ' ';
        }
        if collapse_spaces {
            normalized.truncate(normalized.trim_end_matches(' ').len());
        }
        if prefix && space_suffix {
            normalized.push(' ');
        }
        normalized
    }

    /// The spec of a text that pieces are merged in.
    fn words<'a>(&self, text: &'a str) -> impl Iterator<Item = &'a str> {
        let split = self.settings.split_words;
        let mut rest = text;
        std::iter::from_fn(move || {
            let first = rest.chars().next()?.len_utf8();
            let cut = rest[first..].find(' ').filter(|_| split).map_or(rest.len(), |at| first + at);
            let word;
            (word, rest) = rest.split_at(cut);
            Some(word)
        })
    }
}

impl Tokenizer {
    /// Appends the tokens of a text, which itself begins with a dummy prefix or not.
    pub(super) fn encode_by_rules(
        &self,
        rules: &TextRules,
        text: &str,
        dummy_prefix: bool,
        tokens: &mut Vec<TokenId>,
    ) {
        let mut prefix = dummy_prefix;
        for fragment in rules.added.split(text) {
            match fragment {
                Fragment::Token(id) => tokens.push(id),
                Fragment::Text(text) => self.encode_part(rules, text, prefix, tokens),
            }
            prefix = self.puts_dummy_prefix() && !rules.settings.prefix_once;
        }
    }

    /// Appends the tokens of what lies between tokens that were taken out of a text as it is.
    fn encode_part(&self, rules: &TextRules, text: &str, prefix: bool, tokens: &mut Vec<TokenId>) {
        let Algorithm::SentencePiece { .. } = self.algorithm else {
            let text = if rules.settings.nfc { nfc::composed(text) } else { text.into() };
            return self.encode_fragment(&text, false, tokens);
        };
        let normalized = rules.normalize(text, prefix);
        for fragment in rules.added.split_normalized(&normalized) {
            match fragment {
                Fragment::Token(id) => tokens.push(id),
                Fragment::Text(text) => {
                    rules
                        .words(text)
                        .for_each(|word| sentencepiece::encode(&self.vocab, word, false, tokens));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(set: impl Fn(&mut TextSettings)) -> TextRules {
        let mut settings = TextSettings::default();
        set(&mut settings);
        TextRules { settings, added: AddedTokens::default() }
    }

    #[test]
    fn spaces_are_where_the_settings_want_them() {
        let plain = rules(|_| {});
        assert_eq!(plain.normalize(" a\u{2581} b ", true), "  a  b ");
        assert_eq!(plain.normalize("", true), "");
        let unless = rules(|it| it.prefix_unless_space = true);
        for (text, expected) in [("a", " a"), (" a", " a"), ("\u{2581}a", " a"), ("\ta", " \ta")] {
            assert_eq!(unless.normalize(text, true), expected);
            assert_eq!(unless.normalize(text, false), text.replace('\u{2581}', " "));
        }
        let collapsed = rules(|it| it.collapse_spaces = true);
        let texts = [
            ("  a  b   c ", " a b c"),
            ("   ", ""),
            // What isn't a space isn't collapsed, and yet no space stays at the end.
            ("\u{2581}\u{2581}a\u{2581} \u{2581}", "   a"),
            ("\u{2581}", ""),
            ("\t\t", " \t\t"),
        ];
        for (text, expected) in texts {
            assert_eq!(collapsed.normalize(text, true), expected, "{text:?}");
        }
        let suffix = rules(|it| it.space_suffix = true);
        assert_eq!(suffix.normalize("a b", true), "a b ");
        assert_eq!(suffix.normalize("a b", false), "a b");
    }

    #[test]
    fn words_are_cut_before_each_space() {
        let split = rules(|it| it.split_words = true);
        assert_eq!(split.words(" a  bc").collect::<Vec<_>>(), [" a", " ", " bc"]);
        assert_eq!(split.words("\u{e9} ").collect::<Vec<_>>(), ["\u{e9}", " "]);
        assert_eq!(split.words("").count(), 0);
        assert_eq!(rules(|_| {}).words(" a  bc").collect::<Vec<_>>(), [" a  bc"]);
    }
}
