//! The tokenizer of a Hugging Face directory, which several files describe together.
//!
//! The pieces are in `tokenizer.model` or in `tokenizer.json`. Tokens were added in `added_tokens.json`, in
//! `added_tokens_decoder` of `tokenizer_config.json`, or in `tokenizer.json`. Which tokens begin and end a text is said in
//! `tokenizer_config.json`, by their text, and in `config.json` and `generation_config.json`, by their numbers.
//!
//! Source: llama.cpp's converter, for which file has the last word.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::file::DataFile;
use super::json::{JsonFile, Object};
use super::tokenizer::SourceTokenizer;
use super::tokenizer_json::{AddedToken, TokenizerJson};
use super::vocabulary::{OwnMerging, Vocabulary, refuse};
use crate::error::{Error, ErrorKind, Result, TokenId};

const MODEL: &str = "tokenizer.model";
const JSON: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
/// The longest template that is read.
const MAX_TEMPLATE: u64 = 1 << 24;

/// The tokenizer of a model with this `config.json`, if the directory has one.
pub(super) fn open(folder: &Path, model: &Object<'_>, vocab_size: usize) -> Result<Option<SourceTokenizer>> {
    let (sentencepiece, json) = (folder.join(MODEL), folder.join(JSON));
    let mut vocabulary = if sentencepiece.is_file() {
        let found = Vocabulary::open(&sentencepiece, vocab_size)?;
        let unknown = || refuse("it is of neither SentencePiece nor Llama 3".into()).at(Some(&sentencepiece));
        found.ok_or_else(unknown)?
    } else if json.is_file() {
        TokenizerJson::open(&json)
            .and_then(|json| json.vocabulary(vocab_size))
            .map_err(|e| e.at(Some(&json)))?
    } else {
        return Ok(None);
    };
    for AddedToken { id, text, is_control } in added_tokens(folder, vocab_size)? {
        vocabulary.set_added(id, &text, is_control);
    }
    if let Some(config) = JsonFile::open_if_there(&folder.join(CONFIG))? {
        let config = config.object();
        set_special(&mut vocabulary, &config)?;
    }
    let generation = JsonFile::open_if_there(&folder.join("generation_config.json"))?;
    let generation = generation.as_ref().map(JsonFile::object);
    set_ids(&mut vocabulary, model, generation.as_ref())?;
    Ok(Some(SourceTokenizer::Vocabulary(Box::new(vocabulary))))
}

/// Tokens that were added to a vocabulary, each once; the last file that says something of it counts. Those that the model
/// doesn't know are left out.
fn added_tokens(folder: &Path, vocab_size: usize) -> Result<Vec<AddedToken>> {
    let mut added = BTreeMap::new();
    let mut add = |token: AddedToken| {
        if (token.id as usize) < vocab_size {
            added.insert(token.id, token);
        }
    };
    if let Some(file) = JsonFile::open_if_there(&folder.join("added_tokens.json"))? {
        for (text, _) in file.object().map {
            let id = file.object().required(text)?;
            // It doesn't say which ones are control tokens: their looks do.
            let is_control = text.starts_with('<') && text.ends_with('>');
            add(AddedToken { id, text: text.clone(), is_control });
        }
    }
    let json = folder.join(JSON);
    if json.is_file() {
        TokenizerJson::open(&json)?
            .added_tokens(vocab_size)
            .map_err(|e| e.at(Some(&json)))?
            .into_iter()
            .for_each(&mut add);
    }
    if let Some(file) = JsonFile::open_if_there(&folder.join(CONFIG))?
        && let Some(tokens) = file.object().object("added_tokens_decoder")?
    {
        for (id, value) in tokens.map {
            let wrong = || tokens.wrong_type(id, "a token of this number", value);
            let number: TokenId = id.parse().map_err(|_| wrong())?;
            let token = tokens.object(id)?.ok_or_else(wrong)?;
            let (text, is_control) = (token.required::<&str>("content")?, token.optional("special")?);
            add(AddedToken { id: number, text: text.into(), is_control: is_control.unwrap_or(false) });
        }
    }
    Ok(added.into_values().collect())
}

/// What `tokenizer_config.json` says.
fn set_special(vocabulary: &mut Vocabulary, config: &Object<'_>) -> Result<()> {
    // A token is a text, or an object that has it.
    let text = |key: &str| {
        let value = config.get(key)?;
        value.as_str().or_else(|| value.get("content")?.as_str())
    };
    let id = |key: &str| text(key).and_then(|text| vocabulary.find(text));
    let (bos, eos, unk) = (id("bos_token"), id("eos_token"), id("unk_token"));
    vocabulary.bos = bos.or(vocabulary.bos);
    vocabulary.eos = eos.or(vocabulary.eos);
    vocabulary.unk = unk.or(vocabulary.unk);
    vocabulary.add_bos = config.optional("add_bos_token")?.or(vocabulary.add_bos);
    vocabulary.add_eos = config.optional("add_eos_token")?.or(vocabulary.add_eos);
    if let OwnMerging::SentencePiece { add_space_prefix } = &mut vocabulary.merging {
        *add_space_prefix = config.optional("add_prefix_space")?.unwrap_or(*add_space_prefix);
    }
    Ok(())
}

/// What `config.json` and `generation_config.json` say: a model may end a text with several tokens, of which a file can name
/// two. Others that end a text are known by their names.
fn set_ids(vocabulary: &mut Vocabulary, model: &Object<'_>, generation: Option<&Object<'_>>) -> Result<()> {
    let n_pieces = vocabulary.pieces.len();
    let mut ends = Vec::new();
    for file in [generation, Some(model)].into_iter().flatten() {
        ends.extend(ids(file, "eos_token_id")?);
    }
    ends.retain(|&id| (id as usize) < n_pieces);
    let bos = ids(model, "bos_token_id")?.into_iter().find(|&id| (id as usize) < n_pieces);
    vocabulary.bos = vocabulary.bos.or(bos);
    vocabulary.eos = vocabulary.eos.or(ends.first().copied());
    vocabulary.eot = ends.into_iter().find(|&id| Some(id) != vocabulary.eos);
    // A prompt can't begin or end with what there isn't.
    if vocabulary.bos.is_none() && !vocabulary.is_sentencepiece() {
        vocabulary.add_bos = Some(false);
    }
    if vocabulary.eos.is_none() {
        vocabulary.add_eos = Some(false);
    }
    Ok(())
}

/// One number, or several. Older files have -1 for none.
fn ids(file: &Object<'_>, key: &str) -> Result<Vec<TokenId>> {
    let Some(value) = file.get(key) else { return Ok(Vec::new()) };
    let values = value.as_array().map_or(std::slice::from_ref(value), |values| values);
    let id = |value: &Value| match value.as_i64() {
        Some(id) => Ok(TokenId::try_from(id).ok()),
        None => Err(file.wrong_type(key, "whole numbers", value)),
    };
    values.iter().filter_map(|value| id(value).transpose()).collect()
}

/// How a chat is written, in Jinja: in a file of its own, or in `tokenizer_config.json`, where there may be several, by name.
pub(super) fn chat_template(folder: &Path) -> Result<Option<String>> {
    let path = folder.join("chat_template.jinja");
    if path.is_file() {
        let bytes = DataFile::read_all(&path, "a chat template", MAX_TEMPLATE)?;
        let text = String::from_utf8(bytes);
        let wrong = |e: std::string::FromUtf8Error| {
            let reason = format!("it is not UTF-8 from byte {} on", e.utf8_error().valid_up_to());
            Error::from(ErrorKind::Malformed { format: "template", reason }).at(Some(&path))
        };
        return text.map(Some).map_err(wrong);
    }
    for name in [CONFIG, "chat_template.json"] {
        let Some(file) = JsonFile::open_if_there(&folder.join(name))? else { continue };
        let file = file.object();
        let Some(value) = file.get("chat_template") else { continue };
        let named = |name: &str| {
            let templates = value.as_array()?.iter();
            templates
                .filter(|it| it.get("name").and_then(Value::as_str) == Some(name))
                .find_map(|it| it.get("template")?.as_str())
        };
        let template = value.as_str().or_else(|| named("default"));
        return Ok(template.map(str::to_owned));
    }
    Ok(None)
}
