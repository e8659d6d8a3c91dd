//! A model card: the settings at the front of README.md, in YAML.
//!
//! ```text
//! ---
//! license: apache-2.0
//! base_model:
//! - mistralai/Mistral-7B-v0.1
//! ---
//! ```
//!
//! Of YAML only what such settings are written in is read: texts, quoted or not, and lists of them.

use std::path::Path;

use super::file::DataFile;
use crate::error::Result;

const NAME: &str = "README.md";
/// The most that is read of a file.
const MAX_BYTES: u64 = 1 << 16;
/// What stands before and after the settings.
const FENCE: &str = "---";

/// The settings of a model card that are asked for, each a list of texts.
#[derive(Debug, Default)]
pub(super) struct Card(Vec<(&'static str, Vec<String>)>);

/// The settings that are read.
const SETTINGS: [&str; 6] =
    ["license", "license_name", "license_link", "base_model", "base_models", "base_model_sources"];

impl Card {
    /// Reads a directory's; `None` if it has none. Of a setting that isn't understood a note is
    /// added.
    pub(super) fn open(folder: &Path, notes: &mut Vec<String>) -> Result<Option<Self>> {
        let path = folder.join(NAME);
        if !path.is_file() {
            return Ok(None);
        }
        let file = DataFile::open(&path)?;
        let bytes = file.bytes("a model card", 0, file.len().min(MAX_BYTES), MAX_BYTES)?;
        Ok(Self::parse(&String::from_utf8_lossy(&bytes), notes))
    }

    fn parse(text: &str, notes: &mut Vec<String>) -> Option<Self> {
        let mut lines = text.trim_start_matches('\u{feff}').lines().map(str::trim_end);
        if lines.next() != Some(FENCE) {
            return None;
        }
        let settings: Vec<&str> = lines.take_while(|line| *line != FENCE).collect();
        let mut card = Self::default();
        for (i, line) in settings.iter().enumerate() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let Some(&key) = SETTINGS.iter().find(|known| **known == unquoted(key)) else { continue };
            let more = settings[i + 1..].iter().map(|line| line.trim_start());
            let more = more.filter(|line| !line.is_empty() && !line.starts_with('#'));
            match texts(value.trim(), more) {
                Some(texts) if texts.is_empty() => {}
                Some(texts) => card.0.push((key, texts)),
                None => notes.push(format!(
                    "{NAME} has a {key} that isn't understood, so it isn't carried over: set it with --set"
                )),
            }
        }
        Some(card)
    }

    /// The texts of a setting.
    pub(super) fn get(&self, name: &str) -> Option<&[String]> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, texts)| &**texts)
    }
}

/// What a setting says: one text, or a list, which may be in the lines after it. `None` if it is
/// anything else.
fn texts<'a>(value: &'a str, more: impl Iterator<Item = &'a str>) -> Option<Vec<String>> {
    if value.is_empty() || value.starts_with('#') {
        let items = more.map_while(|line| line.strip_prefix('-'));
        return items.map(|item| scalar(item.trim())).collect();
    }
    if let Some(list) = value.strip_prefix('[') {
        let items = list.strip_suffix(']')?.split(',').map(str::trim).filter(|item| !item.is_empty());
        return items.map(scalar).collect();
    }
    scalar(value).map(|text| vec![text])
}

/// A text of one line.
fn scalar(text: &str) -> Option<String> {
    if text.starts_with(['\'', '"']) {
        let quote = &text[..1];
        let (inner, rest) = text[1..].split_once(quote)?;
        let is_plain = !inner.contains('\\') && (rest.trim().is_empty() || rest.trim().starts_with('#'));
        return is_plain.then(|| inner.to_owned());
    }
    let text = text.split_once(" #").map_or(text, |(text, _)| text).trim_end();
    let is_other = text.starts_with(['|', '>', '&', '*', '!', '{', '[', '%', '@', '`']);
    let is_map = text.contains(": ") || text.ends_with(':');
    (!is_other && !is_map && !text.is_empty()).then(|| text.to_owned())
}

/// A key, which may be quoted.
fn unquoted(key: &str) -> &str {
    key.trim_matches(['\'', '"'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_what_is_not_understood_is_noted() {
        let text = "---\r\nlanguage:\n- en\nlicense: apache-2.0 # free\n\"license_link\": 'https://a/b#c'\n\
            base_model:\n  - a/B-7b\n  # one more\n  - \"c/D\"\ntags: [x]\nlicense_name: |\n  long\n---\nlicense: no\n";
        let mut notes = Vec::new();
        let card = Card::parse(text, &mut notes).unwrap();
        let get = |key| card.get(key).map(|texts| texts.join(" "));
        assert_eq!(get("license").as_deref(), Some("apache-2.0"));
        assert_eq!(get("license_link").as_deref(), Some("https://a/b#c"));
        assert_eq!(get("base_model").as_deref(), Some("a/B-7b c/D"));
        assert_eq!((get("license_name"), notes.len()), (None, 1));
        assert!(notes[0].contains("license_name"), "{notes:?}");
    }

    #[test]
    fn lists_may_be_in_a_line_and_other_files_are_no_cards() {
        let read = |text: &str| {
            let mut notes = Vec::new();
            let card = Card::parse(text, &mut notes);
            let bases = card.and_then(|card| card.get("base_model").map(<[String]>::to_vec));
            (bases.unwrap_or_default(), notes.len())
        };
        assert_eq!(read("---\nbase_model: [a/b, 'c']\n---"), (vec!["a/b".into(), "c".into()], 0));
        assert_eq!(read("---\nbase_model:\n---"), (vec![], 0));
        assert_eq!(read("---\nbase_model:\n- name: x\n---"), (vec![], 1));
        assert_eq!(read("---\nbase_model: \"a\\tb\"\n---"), (vec![], 1));
        assert_eq!(read("---\nbase_model: \"\u{e4}"), (vec![], 1));
        assert_eq!(read("# Title\nbase_model: a"), (vec![], 0));
    }
}
