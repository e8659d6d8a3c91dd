//! Which tokens a text can hide in.

use super::Tokenizer;
use crate::error::TokenId;

impl Tokenizer {
    /// The sequences of tokens in which a text can occur, for
    /// [`SamplerOptions::dry_breakers`](crate::SamplerOptions#structfield.dry_breakers).
    ///
    /// They are its own tokens, every token that contains it, and every token that ends with a part
    /// of it followed by the tokens of the rest. So the breaker `:` is also `):` and `::`, if there
    /// are such tokens. An empty text has none. llama.cpp's program has four by default:
    ///
    /// ```
    /// # let mut file = 0_i32.to_le_bytes().to_vec();
    /// # for piece in ["<unk>", "<s>", "</s>", " ", "\n", ":", "\"", "*", "):", " *"] {
    /// #     file.extend(0_f32.to_le_bytes());
    /// #     file.extend((piece.len() as i32).to_le_bytes());
    /// #     file.extend(piece.as_bytes());
    /// # }
    /// # let tokenizer = babyllama::Tokenizer::from_llama2c(&file)?;
    /// let texts = ["\n", ":", "\"", "*"];
    /// let breakers = texts.iter().flat_map(|text| tokenizer.breakers(text)).collect();
    /// let options = babyllama::SamplerOptions::new().dry_multiplier(0.8).dry_breakers(breakers);
    /// # assert_eq!(options.dry_breakers, [[4], [5], [8], [6], [7], [9]]);
    /// # Ok::<(), babyllama::Error>(())
    /// ```
    #[must_use]
    pub fn breakers(&self, text: &str) -> Vec<Vec<TokenId>> {
        let mut found = Vec::new();
        if text.is_empty() {
            return found;
        }
        // Only at its characters' borders can the rest be encoded.
        let rests: Vec<(&[u8], Vec<TokenId>)> = text
            .char_indices()
            .skip(1)
            .map(|(i, _)| (&text.as_bytes()[..i], self.encode_continuation(&text[i..])))
            .collect();
        let whole = self.encode_continuation(text); // of bytes, perhaps, within which no rest begins
        if whole.len() > 1 {
            found.push(whole);
        }
        for id in 0..self.vocab_size() as TokenId {
            let bytes = self.bytes(id);
            if bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
                found.push(vec![id]);
                continue;
            }
            for (_, rest) in rests.iter().filter(|(part, rest)| bytes.ends_with(part) && !rest.is_empty()) {
                let sequence = [&[id][..], rest].concat();
                if found.first() != Some(&sequence) {
                    found.push(sequence);
                }
            }
        }
        found
    }
}
