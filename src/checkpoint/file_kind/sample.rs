//! The first bytes of a file, and what they are like.

use super::SAMPLE_BYTES;

/// The beginning of a file.
pub(super) struct Sample {
    pub(super) bytes: Vec<u8>,
    /// Of the whole file.
    pub(super) len: u64,
    /// From the first character on that isn't white space, in lower case. Empty if it isn't text.
    text: String,
}

impl Sample {
    pub(super) fn new(start: &[u8], len: u64) -> Self {
        let bytes = &start[..start.len().min(SAMPLE_BYTES)];
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            // It may be cut inside a character.
            Err(e) if bytes.len() - e.valid_up_to() < 4 => {
                std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or_default()
            }
            Err(_) => "",
        };
        let is_text = !text.contains(|c: char| c.is_control() && !c.is_whitespace());
        let text = if is_text { text.trim_start_matches('\u{feff}').trim_start() } else { "" };
        Self { bytes: bytes.to_vec(), len, text: text.to_ascii_lowercase() }
    }

    pub(super) fn starts(&self, magics: &[&[u8]]) -> bool {
        magics.iter().any(|magic| self.bytes.starts_with(magic))
    }

    pub(super) fn at(&self, offset: usize, magic: &[u8]) -> bool {
        self.bytes.get(offset..).is_some_and(|bytes| bytes.starts_with(magic))
    }

    pub(super) fn has(&self, part: &[u8]) -> bool {
        self.bytes.windows(part.len()).any(|window| window == part)
    }

    fn u32(&self, offset: usize) -> Option<u32> {
        let bytes = self.bytes.get(offset..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    }

    pub(super) fn text_starts(&self, starts: &[&str]) -> bool {
        starts.iter().any(|start| self.text.starts_with(start))
    }

    pub(super) fn is_text(&self) -> bool {
        !self.text.is_empty()
    }

    pub(super) fn is_html(&self) -> bool {
        let starts = ["<!doctype html", "<html", "<head", "<body", "<title", "<script", "<!--"];
        self.text_starts(&starts)
    }

    pub(super) fn is_json(&self) -> bool {
        let rest = self.text.strip_prefix(['{', '[']).map(str::trim_start);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['"', '{', '[', '}', ']']))
    }

    /// Whether it is JSON in which one of these is a key, or stands where one might.
    pub(super) fn has_key(&self, keys: &[&str]) -> bool {
        let is_key = |key: &&str| {
            let quoted = format!("\"{}\"", key.to_ascii_lowercase());
            let mut rests = self.text.match_indices(&quoted).map(|(at, _)| &self.text[at + quoted.len()..]);
            rests.any(|rest| rest.trim_start().starts_with(':'))
        };
        self.is_json() && keys.iter().any(is_key)
    }

    pub(super) fn is_tokenizer_json(&self) -> bool {
        let others = ["truncation", "added_tokens", "normalizer", "pre_tokenizer", "model"];
        self.has_key(&["version"]) && self.has_key(&others)
    }

    pub(super) fn is_zip(&self) -> bool {
        self.starts(&[b"PK\x03\x04", b"PK\x05\x06"])
    }

    /// The name of a zip archive's first entry.
    pub(super) fn first_entry(&self) -> &[u8] {
        let len = self.bytes.get(26..28).map_or(0, |len| usize::from(u16::from_le_bytes([len[0], len[1]])));
        self.bytes.get(30..30 + len).unwrap_or_default()
    }

    pub(super) fn is_pytorch(&self) -> bool {
        let entries: [&[u8]; 5] =
            [b"data.pkl", b"/version", b"byteorder", b".format_version", b"constants.pkl"];
        self.is_zip() && entries.iter().any(|entry| self.first_entry().ends_with(entry))
    }

    pub(super) fn is_pickle(&self) -> bool {
        // PROTO, and then a dictionary, an object, a tuple, a frame or a name.
        matches!(*self.bytes, [0x80, 2..=5, b'}' | b']' | b'(' | b'c' | b'X' | 0x8a | 0x8c | 0x95, _, ..])
    }

    pub(super) fn is_safetensors(&self) -> bool {
        matches!(*self.bytes, [_, _, _, _, 0, 0, 0, 0, b'{', ..])
    }

    pub(super) fn is_sentencepiece(&self) -> bool {
        // A message of a few bytes, which begins with a text and then has a float.
        let [0x0a, len @ 4..0x80, 0x0a, text_len, ..] = *self.bytes else { return false };
        text_len < len - 1 && self.bytes.get(4 + usize::from(text_len)).is_some_and(|&tag| tag == 0x15)
    }

    pub(super) fn is_tiktoken(&self) -> bool {
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
        let is_piece = |(rank, line): (usize, &[u8])| {
            let parts: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
            matches!(*parts, [piece, number] if !piece.is_empty()
                && piece.iter().all(|&byte| is_base64(byte))
                && number.trim_ascii_end() == rank.to_string().as_bytes())
        };
        let lines: Vec<&[u8]> = self.bytes.split(|&byte| byte == b'\n').collect();
        lines.len() > 2 && lines.iter().take(2).copied().enumerate().all(is_piece)
    }

    /// Whether it begins with the unknown piece, BOS and EOS: of each a score, a length and the
    /// characters.
    pub(super) fn is_tokenizer_bin(&self) -> bool {
        let longest = self.u32(0).unwrap_or(0);
        let mut at = 4;
        for _ in 0..3 {
            let (Some(score), Some(len)) = (self.u32(at), self.u32(at + 4)) else { return false };
            let end = at.saturating_add(8).saturating_add(len as usize);
            let text = self.bytes.get(at + 8..end).unwrap_or_default();
            let is_piece = (1..=longest).contains(&len) && f32::from_bits(score).is_finite();
            if !is_piece || text.is_empty() || text.iter().any(|&byte| byte < b'\t') {
                return false;
            }
            at = end;
        }
        longest <= 1024
    }

    /// The old kind: the number of tensors, and a name after its length. The new one is GGUF.
    pub(super) fn is_importance_matrix(&self) -> bool {
        let has_name = self.at(8, b"blk.") || self.at(8, b"output.");
        has_name && self.u32(4).is_some_and(|len| len < 64)
    }

    pub(super) fn is_executable(&self) -> bool {
        let mach_o: [&[u8]; 3] = [b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe"];
        self.starts(&[b"\x7fELF"]) || self.starts(&mach_o) || (self.starts(&[b"MZ"]) && !self.is_text())
    }
}
