//! Llama 3's `tokenizer.model`: a line for each piece, its bytes in base 64 and its rank.
//!
//! A pair of pieces is merged if its bytes are a piece, that of the lowest rank first. So every way
//! to cut a piece into two pieces is a merge. The control tokens aren't in the file: there are
//! always the same 256 after the pieces.
//!
//! Source: `models/llama3/tokenizer.py` in Meta's llama-models repository; RFC 4648.

use std::collections::HashMap;

use base64::Engine;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};

use super::vocabulary::{OwnedSpec, refuse};
use crate::error::{Result, TokenId};
use crate::tokenizer::{PieceKind, PieceSpec, TokenizerModel, encode_alphabet};

/// The control tokens that have a name; the others are reserved.
const CONTROLS: [&str; 11] = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
];
const N_CONTROLS: usize = 256;
/// The longest piece that is cut in all ways: Llama 3's longest has 128 bytes.
const MAX_PIECE: usize = 256;
/// Merges for each piece: Llama 3 has 2.2. A file could have as many as a piece has bytes, which
/// would fill the memory.
const MAX_MERGES_EACH: usize = 16;

/// Whether a file begins with a line as it should.
pub(super) fn looks_like(bytes: &[u8]) -> bool {
    bytes.split(|&byte| byte == b'\n').next().is_some_and(|line| parse(line).is_some())
}

pub(super) fn read(bytes: &[u8]) -> Result<OwnedSpec> {
    let mut texts: Vec<Vec<u8>> = Vec::new();
    for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let n = texts.len();
        let entry = parse(line).filter(|(text, rank)| *rank == n && (1..=MAX_PIECE).contains(&text.len()));
        let (text, _) = entry.ok_or_else(|| refuse(format!("line {} is not piece {n}", n + 1)))?;
        texts.push(text);
    }
    let ranks: HashMap<&[u8], usize> = texts.iter().enumerate().map(|(i, text)| (&**text, i)).collect();
    let mut merges = Vec::new();
    for text in &texts {
        let mut cuts: Vec<(usize, usize, usize)> = (1..text.len())
            .filter_map(|at| Some((*ranks.get(&text[..at])?, *ranks.get(&text[at..])?, at)))
            .collect();
        cuts.sort_unstable();
        let merge =
            |(_, _, at)| [encode_alphabet(&text[..at]), encode_alphabet(&text[at..])].join(&b' ').into();
        merges.extend(cuts.into_iter().map(merge));
        if merges.len() > MAX_MERGES_EACH * texts.len() {
            return Err(refuse(format!("it has more than {MAX_MERGES_EACH} merges for each piece")));
        }
    }
    let piece = |text: Vec<u8>, kind| PieceSpec { text: text.into(), score: 0.0, kind };
    let mut pieces: Vec<_> =
        texts.iter().map(|text| piece(encode_alphabet(text), PieceKind::Normal)).collect();
    let n = pieces.len();
    let reserved = (2..).map(|i| format!("<|reserved_special_token_{i}|>"));
    let controls = CONTROLS.iter().map(|&name| name.to_owned()).chain(reserved).take(N_CONTROLS);
    pieces.extend(controls.map(|name| piece(name.into_bytes(), PieceKind::Control)));
    let mut spec = OwnedSpec {
        pieces,
        model: TokenizerModel::BytePairs { pre: "llama-bpe", merges },
        ..OwnedSpec::default()
    };
    (spec.bos, spec.eos) = (Some(n as TokenId), Some(n as TokenId + 1));
    spec.add_bos = Some(true);
    Ok(spec)
}

/// A piece and its rank.
fn parse(line: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = str::from_utf8(line).ok()?.trim_end_matches('\r');
    let (text, rank) = line.split_once(' ')?;
    Some((decode_base64(text.as_bytes())?, rank.parse().ok()?))
}

/// The bytes that text in base 64 stands for. The bits that fill its last digit don't count, as in
/// Python.
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
    let bytes = GeneralPurpose::new(&alphabet::STANDARD, config).decode(text).ok();
    bytes.filter(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_what_rfc_4648_says() {
        let texts =
            [("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYg==", "foob"), ("Zm9vYmFy", "foobar")];
        for (encoded, text) in texts {
            assert_eq!(decode_base64(encoded.as_bytes()).unwrap(), text.as_bytes());
        }
        for bad in ["", "Zg", "Zg=", "Z===", "Zm9v!A=="] {
            assert_eq!(decode_base64(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn every_cut_into_pieces_is_a_merge() {
        let file = b"YQ== 0\nYg== 1\nYWI= 2\nYWJh 3\n"; // a, b, ab, aba
        assert!(looks_like(file));
        let spec = read(file).unwrap();
        let TokenizerModel::BytePairs { merges, .. } = &spec.model else { panic!() };
        assert_eq!(merges, &[&b"a b"[..], b"ab a"]);
        assert_eq!((spec.pieces.len(), spec.bos, spec.eos), (4 + 256, Some(4), Some(5)));
        assert!(read(b"YQ== 0\nYg== 2\n").is_err());
    }
}
