//! SentencePiece's model files: a message of Protocol Buffers, of which the pieces and a few
//! settings are read.
//!
//! ```text
//! message   fields, each a number and a type, and then: a varint; or 4 or 8 bytes; or a length n
//!           and n bytes
//! model     1 pieces: 1 text, 2 score, 3 kind   2 TrainerSpec, 3 NormalizerSpec: see their tables
//!           4 self-test data                    5 NormalizerSpec of decoded text
//! ```
//!
//! Source: `sentencepiece_model.proto` in the SentencePiece repository; the encoding page of
//! Protocol Buffers.

use std::collections::HashSet;

use super::added_tokens::{self, Normalized};
use super::vocabulary::{OwnedSpec, refuse};
use crate::bytes::ByteReader;
use crate::error::{Error, Result, TokenId};
use crate::settings::Setting;
use crate::settings::Treatment::{Harmless, Honored, RefusedUnless};
use crate::tokenizer::{PieceKind, PieceSpec, TextSettings, TokenizerModel};

/// Whether a file begins with a piece, as all of them do.
pub(super) fn looks_like(bytes: &[u8]) -> bool {
    matches!(bytes, [0x0a, len, 0x0a, text_len, ..] if text_len < len)
}

pub(super) fn read(bytes: &[u8]) -> Result<OwnedSpec> {
    let (mut pieces, mut settings, mut notes) = (Vec::new(), Settings::default(), Vec::new());
    for field in Message(ByteReader::new(bytes)) {
        let (number, value) = field?;
        match (number, value) {
            (1, Value::Bytes(bytes)) => pieces.push(piece(bytes)?),
            (2, Value::Bytes(bytes)) => settings.read("trainer_spec", TRAINER, bytes, &mut notes)?,
            (3, Value::Bytes(bytes)) => settings.read("normalizer_spec", NORMALIZER, bytes, &mut notes)?,
            (5, Value::Bytes(bytes)) => {
                settings.read("denormalizer_spec", DENORMALIZER, bytes, &mut notes)?;
            }
            // Texts and their tokens, to try a tokenizer with.
            (4, _) => {}
            (number, _) => note_unknown("", number, &mut notes),
        }
    }
    if settings.algorithm != BPE {
        let kind = match settings.algorithm {
            1 => "Unigram".into(),
            3 => "Word".into(),
            4 => "Char".into(),
            other => format!("{other}"),
        };
        return Err(refuse(format!(
            "trainer_spec.model_type is {kind}: only SentencePiece's BPE is supported"
        )));
    }
    let model = TokenizerModel::SentencePiece { add_space_prefix: settings.adds_space };
    let mut spec = OwnedSpec { pieces, model, ..OwnedSpec::default() };
    spec.text = TextSettings {
        collapse_spaces: settings.collapses_spaces,
        space_suffix: settings.space_is_suffix,
        ..TextSettings::default()
    };
    spec.notes = notes;
    let has_space =
        |piece: &PieceSpec<'_>| piece.kind == PieceKind::UserDefined && piece.text.contains(&b' ');
    if settings.collapses_spaces && spec.pieces.iter().any(has_space) {
        let reason = "normalizer_spec.remove_extra_whitespaces with user-defined symbols that have spaces, which stay where \
                      others go, is not supported";
        return Err(refuse(reason.into()));
    }
    added_tokens::add(&mut spec, &[], Normalized::Text, &HashSet::new())?;
    let id = |id: i32| TokenId::try_from(id).ok().filter(|&id| (id as usize) < spec.pieces.len());
    let (bos, eos, unk) = (id(settings.bos), id(settings.eos), id(settings.unk));
    (spec.bos, spec.eos, spec.unk) = (bos, eos, unk);
    // Else it would be piece 1.
    spec.add_bos = bos.is_none().then_some(false);
    Ok(spec)
}

fn piece(bytes: &[u8]) -> Result<PieceSpec<'static>> {
    let (mut text, mut score, mut kind) = (&[][..], 0.0, PieceKind::Normal);
    for field in Message(ByteReader::new(bytes)) {
        match field? {
            (1, Value::Bytes(bytes)) => text = bytes,
            (2, Value::Four(bytes)) => score = f32::from_le_bytes(bytes),
            (3, Value::Varint(number)) => {
                let known = PieceKind::from_number(number);
                kind = known.ok_or_else(|| refuse(format!("a piece of the unknown kind {number}")))?;
            }
            _ => {}
        }
    }
    Ok(PieceSpec { text: text.to_vec().into(), score, kind })
}

/// The kind of model that Llamas have.
const BPE: u64 = 2;

/// What the specs say that counts.
#[derive(Debug)]
struct Settings {
    algorithm: u64,
    unk: i32,
    bos: i32,
    eos: i32,
    adds_space: bool,
    collapses_spaces: bool,
    space_is_suffix: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let (adds_space, collapses_spaces, space_is_suffix) = (true, true, false);
        Self { algorithm: 1, unk: 0, bos: 1, eos: 2, adds_space, collapses_spaces, space_is_suffix }
    }
}

/// A setting's number, and what is done with it.
type Field = (u64, Setting<fn(&Value<'_>) -> bool>);

const fn honored(number: u64, key: &'static str) -> Field {
    (number, Setting { key, treatment: Honored })
}

const fn harmless(number: u64, key: &'static str, reason: &'static str) -> Field {
    (number, Setting { key, treatment: Harmless(reason) })
}

const fn refused(
    number: u64,
    key: &'static str,
    unless: fn(&Value<'_>) -> bool,
    reason: &'static str,
) -> Field {
    (number, Setting { key, treatment: RefusedUnless(unless, reason) })
}

const TRAINING: &str = "it is about how the pieces were found";
const NAMES: &str = "the pieces' kinds and the ids say it";
const TABLE: &str = "it changes characters of a text before it encodes it (nmt_nfkc, nfkc or a table of its own), which is not supported";

/// `TrainerSpec`.
const TRAINER: &[Field] = &[
    harmless(1, "input", TRAINING),
    harmless(2, "model_prefix", TRAINING),
    honored(3, "model_type"),
    harmless(4, "vocab_size", "the pieces are counted"),
    harmless(5, "accept_language", TRAINING),
    harmless(6, "self_test_sample_size", TRAINING),
    harmless(7, "input_format", TRAINING),
    harmless(10, "character_coverage", TRAINING),
    harmless(11, "input_sentence_size", TRAINING),
    harmless(12, "mining_sentence_size", TRAINING),
    harmless(13, "training_sentence_size", TRAINING),
    harmless(14, "seed_sentencepiece_size", TRAINING),
    harmless(15, "shrinking_factor", TRAINING),
    harmless(16, "num_threads", TRAINING),
    harmless(17, "num_sub_iterations", TRAINING),
    harmless(18, "max_sentence_length", TRAINING),
    harmless(19, "shuffle_input_sentence", TRAINING),
    harmless(20, "max_sentencepiece_length", TRAINING),
    harmless(21, "split_by_unicode_script", TRAINING),
    harmless(22, "split_by_whitespace", TRAINING),
    harmless(23, "split_by_number", TRAINING),
    honored(24, "treat_whitespace_as_suffix"),
    harmless(25, "split_digits", TRAINING),
    harmless(26, "allow_whitespace_only_pieces", TRAINING),
    harmless(30, "control_symbols", NAMES),
    harmless(31, "user_defined_symbols", NAMES),
    harmless(32, "vocabulary_output_piece_score", TRAINING),
    harmless(33, "hard_vocab_limit", TRAINING),
    harmless(34, "use_all_vocab", TRAINING),
    harmless(35, "byte_fallback", "it is whether there are pieces for bytes"),
    harmless(36, "required_chars", TRAINING),
    honored(40, "unk_id"),
    honored(41, "bos_id"),
    honored(42, "eos_id"),
    harmless(43, "pad_id", NAMES),
    harmless(44, "unk_surface", "it is only how the unknown piece is shown"),
    harmless(45, "unk_piece", NAMES),
    harmless(46, "bos_piece", NAMES),
    harmless(47, "eos_piece", NAMES),
    harmless(48, "pad_piece", NAMES),
    harmless(49, "train_extremely_large_corpus", TRAINING),
    harmless(50, "enable_differential_privacy", TRAINING),
    harmless(51, "differential_privacy_noise_level", TRAINING),
    harmless(52, "differential_privacy_clipping_threshold", TRAINING),
    harmless(53, "pretokenization_delimiter", TRAINING),
    harmless(54, "seed_sentencepieces_file", TRAINING),
    harmless(55, "auto_character_coverage", TRAINING),
];

/// `NormalizerSpec`, of what is done to a text first.
const NORMALIZER: &[Field] = &[
    harmless(1, "name", "the table is what counts"),
    refused(2, "precompiled_charsmap", is_empty, TABLE),
    honored(3, "add_dummy_prefix"),
    honored(4, "remove_extra_whitespaces"),
    refused(5, "escape_whitespaces", is_true, "pieces with plain spaces are not supported"),
    harmless(6, "normalization_rule_tsv", "the table that was made of it is what counts"),
];

/// `NormalizerSpec`, of what is done to a text that pieces spell.
const DENORMALIZER: &[Field] = &[
    harmless(1, "name", "the table is what counts"),
    refused(2, "precompiled_charsmap", is_empty, "it changes characters of the text that the pieces spell"),
    harmless(3, "add_dummy_prefix", "SentencePiece doesn't read it here"),
    harmless(4, "remove_extra_whitespaces", "SentencePiece doesn't read it here"),
    harmless(5, "escape_whitespaces", "SentencePiece doesn't read it here"),
    harmless(6, "normalization_rule_tsv", "the table that was made of it is what counts"),
];

fn is_empty(value: &Value<'_>) -> bool {
    matches!(value, Value::Bytes([]))
}

fn is_true(value: &Value<'_>) -> bool {
    matches!(value, Value::Varint(1..))
}

fn note_unknown(spec: &str, number: u64, notes: &mut Vec<String>) {
    let note = format!("tokenizer.model has a field {spec}{number}, which is not known and was passed over");
    if !notes.contains(&note) {
        notes.push(note);
    }
}

impl Settings {
    fn read(&mut self, spec: &str, table: &[Field], bytes: &[u8], notes: &mut Vec<String>) -> Result<()> {
        for field in Message(ByteReader::new(bytes)) {
            let (number, value) = field?;
            match table.iter().find(|(known, _)| *known == number).map(|(_, setting)| setting) {
                // Extensions, which whoever made the file has a use for.
                None if number >= EXTENSIONS => {}
                None => note_unknown(&format!("{spec}."), number, notes),
                Some(Setting { treatment: Harmless(_), .. }) => {}
                Some(Setting { key, treatment: RefusedUnless(is_harmless, reason) }) => {
                    if !is_harmless(&value) {
                        return Err(refuse(format!("{spec}.{key}: {reason}")));
                    }
                }
                Some(Setting { key, treatment: Honored }) => self.set(key, &value),
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &Value<'_>) {
        let &Value::Varint(number) = value else { return };
        // A negative number, which means "none", takes 64 bits.
        match key {
            "model_type" => self.algorithm = number,
            "unk_id" => self.unk = number as i32,
            "bos_id" => self.bos = number as i32,
            "eos_id" => self.eos = number as i32,
            "add_dummy_prefix" => self.adds_space = number != 0,
            "remove_extra_whitespaces" => self.collapses_spaces = number != 0,
            "treat_whitespace_as_suffix" => self.space_is_suffix = number != 0,
            _ => unreachable!("the table has no such setting: {key}"),
        }
    }
}

/// The first number that is left to others in every message.
const EXTENSIONS: u64 = 200;

enum Value<'a> {
    Varint(u64),
    Four([u8; 4]),
    Eight,
    Bytes(&'a [u8]),
}

/// Fields that haven't been read yet.
struct Message<'a>(ByteReader<'a>);

impl<'a> Message<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        self.0.take(n, "a field").map_err(|_| cut_short())
    }

    fn varint(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(refuse("a number in it has more than 64 bits".into()))
    }

    fn field(&mut self) -> Result<(u64, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Eight)?,
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => Value::Four(self.take(4)?.try_into().map_err(|_| cut_short())?),
            kind => return Err(refuse(format!("a field in it has the unknown type {kind}"))),
        };
        Ok((key >> 3, value))
    }
}

impl<'a> Iterator for Message<'a> {
    type Item = Result<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.rest().is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = ByteReader::default();
        }
        Some(field)
    }
}

fn cut_short() -> Error {
    refuse("it is cut short".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field whose value is a number below 128.
    fn number(field: u64, value: u8) -> Vec<u8> {
        let key = field << 3;
        let key = if key < 128 { vec![key as u8] } else { vec![key as u8 | 0x80, (key >> 7) as u8] };
        [key, vec![value]].concat()
    }

    fn bytes(field: u8, value: &[u8]) -> Vec<u8> {
        [&[field << 3 | 2, value.len() as u8], value].concat()
    }

    fn model(trainer: &[u8], normalizer: &[u8]) -> Result<OwnedSpec> {
        let trainer = [&number(3, 2), trainer].concat();
        read(&[bytes(1, &bytes(1, b"a")), bytes(2, &trainer), bytes(3, normalizer)].concat())
    }

    #[test]
    fn every_setting_of_the_tables_is_treated_as_they_say() {
        for (spec, table) in [(2, TRAINER), (3, NORMALIZER), (5, DENORMALIZER)] {
            for (field, setting) in table {
                assert_eq!(table.iter().filter(|(number, _)| number == field).count(), 1);
                for value in [0, 1] {
                    let file = [
                        bytes(1, &bytes(1, b"a")),
                        bytes(2, &number(3, 2)),
                        bytes(spec, &number(*field, value)),
                    ];
                    let read = read(&file.concat());
                    match setting.treatment {
                        Honored if setting.key == "model_type" => assert!(read.is_err()),
                        Honored | Harmless(_) => assert!(read.unwrap().notes.is_empty()),
                        RefusedUnless(is_harmless, _) if is_harmless(&Value::Varint(value.into())) => {
                            drop(read.unwrap());
                        }
                        RefusedUnless(_, reason) => {
                            let error = read.unwrap_err().to_string();
                            assert!(error.contains(setting.key) && error.contains(reason), "{error}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_honored_counts() {
        let of = |trainer: &[u8], normalizer: &[u8]| {
            let it = model(trainer, normalizer).unwrap();
            let TokenizerModel::SentencePiece { add_space_prefix } = it.model else { panic!() };
            (add_space_prefix, it.text.collapse_spaces, it.text.space_suffix)
        };
        assert_eq!(of(&[], &[]), (true, true, false));
        assert_eq!(of(&[], &number(3, 0)), (false, true, false));
        assert_eq!(of(&[], &number(4, 0)), (true, false, false));
        assert_eq!(of(&number(24, 1), &number(4, 0)), (true, false, true));
        for (field, is_it) in [(40, 0), (41, 1), (42, 2)] {
            let it = model(&number(field, 0), &[]).unwrap();
            let mut ids = [it.unk, it.bos, it.eos];
            assert_eq!(ids[is_it].take(), Some(0));
        }
        let error = model(&[], &bytes(2, b"table")).unwrap_err().to_string();
        assert!(error.contains("precompiled_charsmap"), "{error}");
    }

    #[test]
    fn what_is_not_known_is_named() {
        let it = model(&number(60, 1), &number(9, 1)).unwrap();
        assert_eq!(it.notes.len(), 2);
        assert!(it.notes[0].contains("trainer_spec.60") && it.notes[1].contains("normalizer_spec.9"));
    }
}
