//! The tokens that steer a model, by their names: for chat templates.

use super::{PieceKind, Strip, Tokenizer};
use crate::error::TokenId;

impl Tokenizer {
    /// The first control or user-defined token that has exactly this name, such as `<|im_start|>`.
    ///
    /// For chat templates alone: [`encode`](Self::encode) never gives a control token.
    #[must_use]
    pub fn control(&self, name: &str) -> Option<TokenId> {
        let kinds = [PieceKind::Control, PieceKind::UserDefined];
        if let Some(id) = self.named.get(name).map(|(id, _)| id)
            && self.kind(id).is_some_and(|kind| kinds.contains(&kind))
        {
            return Some(id);
        }
        let named = kinds
            .into_iter()
            .flat_map(|kind| self.vocab.of_kind(kind).find(|(_, text)| *text == name.as_bytes()));
        named.map(|(id, _)| id).min()
    }

    /// The token that stands for text that no piece can spell, if there is one.
    #[cfg(feature = "jinja")]
    pub(crate) fn unk(&self) -> Option<TokenId> {
        self.vocab.of_kind(PieceKind::Unknown).next().map(|(id, _)| id)
    }

    /// The pieces that may steer a model and their names: control tokens and user-defined pieces.
    #[cfg(feature = "jinja")]
    pub(crate) fn controls(&self) -> impl Iterator<Item = (TokenId, &str)> {
        let kinds = [PieceKind::Control, PieceKind::UserDefined];
        let pieces = kinds.into_iter().flat_map(|kind| self.vocab.of_kind(kind));
        // A file of llama2.c writes the names of its control tokens between newlines.
        pieces.filter_map(|(id, text)| Some((id, std::str::from_utf8(text.trim_ascii()).ok()?)))
    }

    /// Which spaces a control token takes out of the text around it.
    pub(crate) fn strip_of(&self, id: TokenId) -> Strip {
        let name = self.piece(id).and_then(|name| std::str::from_utf8(name).ok());
        name.and_then(|name| self.named.get(name)).map(|(_, strip)| strip).unwrap_or_default()
    }
}
