//! The templates for chats that a directory of Hugging Face's has.
//!
//! ```text
//! chat_template.jinja
//! additional_chat_templates/NAME.jinja    for special uses, such as tools
//! tokenizer_config.json, or else chat_template.json: one text, or several with names
//! ```
//!
//! Only if no template has a file of its own, the JSON files' count.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::file::DataFile;
use super::hf_tokenizer::CONFIG;
use super::json::{JsonFile, Object};
use crate::chat::DEFAULT_TEMPLATE as DEFAULT;
use crate::checkpoint::file_kind::{FileKind, Wanted};
use crate::error::{Error, ErrorKind, Result};

/// The largest template that is read.
const MAX_BYTES: u64 = 1 << 24;

/// How chats are written, in Jinja.
#[derive(Debug, Default)]
pub(super) struct ChatTemplates {
    pub(super) default: Option<String>,
    /// For special uses, by names of letters, digits and underscores, as GGUF's keys have them.
    pub(super) named: Vec<(String, String)>,
}

impl ChatTemplates {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let mut templates = Self::default();
        let path = folder.join("chat_template.jinja");
        if path.is_file() {
            templates.add(DEFAULT, text(&path)?);
        }
        for path in additional(folder)? {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            templates.add(&name, text(&path)?);
        }
        if templates.default.is_some() || !templates.named.is_empty() {
            return Ok(templates);
        }
        for name in [CONFIG, "chat_template.json"] {
            let Some(file) = JsonFile::open_if_there(&folder.join(name))? else { continue };
            if templates.read_setting(&file.object())? {
                break;
            }
        }
        Ok(templates)
    }

    /// Reads a file's setting, if it is there.
    fn read_setting(&mut self, file: &Object<'_>) -> Result<bool> {
        const KEY: &str = "chat_template";
        let Some(value) = file.get(KEY) else { return Ok(false) };
        if let Some(text) = value.as_str() {
            self.add(DEFAULT, text.into());
            return Ok(true);
        }
        let wrong = || file.wrong_type(KEY, "a text, or several with a name and a template each", value);
        for template in value.as_array().ok_or_else(wrong)? {
            let part = |key: &str| template.get(key).and_then(Value::as_str);
            let (name, text) = part("name").zip(part("template")).ok_or_else(wrong)?;
            self.add(name, text.into());
        }
        Ok(true)
    }

    /// Adds a template. Of several of one name the last counts.
    fn add(&mut self, name: &str, text: String) {
        if name == DEFAULT {
            self.default = Some(text);
            return;
        }
        let letter = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let name: String = name.chars().map(letter).collect();
        self.named.retain(|(other, _)| *other != name);
        if !name.is_empty() {
            self.named.push((name, text));
        }
    }
}

/// The files of templates that have names, in the order of their names.
fn additional(folder: &Path) -> Result<Vec<PathBuf>> {
    let folder = folder.join("additional_chat_templates");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let at = |e: std::io::Error| Error::from(e).at(Some(&folder));
    let paths = fs::read_dir(&folder).map_err(at)?.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<Result<Vec<_>, _>>().map_err(at)?;
    paths.retain(|path| path.is_file() && path.extension().is_some_and(|extension| extension == "jinja"));
    paths.sort();
    Ok(paths)
}

/// A template that has a file of its own.
fn text(path: &Path) -> Result<String> {
    let bytes = DataFile::read_all(path, "a chat template", MAX_BYTES)?;
    if FileKind::detect(&bytes, bytes.len() as u64) == Some(FileKind::GitLfsPointer) {
        let hint = FileKind::GitLfsPointer.sentence(Wanted::Published);
        return Err(Error::unknown_format(hint).at(Some(path)));
    }
    String::from_utf8(bytes).map_err(|e| {
        let reason = format!("it is not UTF-8 from byte {} on", e.utf8_error().valid_up_to());
        Error::from(ErrorKind::Malformed { format: "template", reason }).at(Some(path))
    })
}
