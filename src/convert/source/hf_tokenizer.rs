//! The tokenizer of a Hugging Face directory, which several files describe together.
//!
//! The pieces are in `tokenizer.model` or in `tokenizer.json`. Tokens were added in `added_tokens.json`, in
//! `added_tokens_decoder` of `tokenizer_config.json`, or in `tokenizer.json`. Which tokens begin and end a text is said in
//! `tokenizer_config.json`, by their text, and in `config.json` and `generation_config.json`, by their numbers.
//!
//! Source: llama.cpp's converter, for which file has the last word.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde_json::Value;

use super::added_tokens::{self, AddedToken, Normalized};
use super::file::DataFile;
use super::json::{JsonFile, Object};
use super::tokenizer::SourceTokenizer;
use super::tokenizer_json::TokenizerJson;
use super::tokenizer_settings as settings;
use super::vocabulary::{OwnMerging, Vocabulary};
use crate::checkpoint::file_kind::{FileKind, Wanted};
use crate::error::{Error, ErrorKind, Result, TokenId};
use crate::tokenizer::{PieceKind, PiecePart};

const MODEL: &str = "tokenizer.model";
const JSON: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
/// The longest template that is read.
const MAX_TEMPLATE: u64 = 1 << 24;

/// The tokenizer of a model with this `config.json`, if the directory has one.
pub(super) fn open(folder: &Path, model: &Object<'_>, vocab_size: usize) -> Result<Option<SourceTokenizer>> {
    let (sentencepiece, json_path) = (folder.join(MODEL), folder.join(JSON));
    let at_json = |e: Error| e.at(Some(&json_path));
    let json = if json_path.is_file() { Some(TokenizerJson::open(&json_path)?) } else { None };
    let config = JsonFile::open_if_there(&folder.join(CONFIG))?;
    let config = config.as_ref().map(JsonFile::object);
    let mut notes = Vec::new();
    if let Some(config) = &config {
        settings::check(CONFIG, "", config.map, settings::CONFIG, &mut notes)
            .map_err(|e| e.at(Some(&folder.join(CONFIG))))?;
    }
    let mut tokens = listed_tokens(folder, vocab_size)?;
    let in_config =
        config.as_ref().map(|config| decoder_tokens(config, vocab_size, &mut notes)).transpose()?;
    let mut vocabulary = match (sentencepiece.is_file(), &json) {
        (true, json) => {
            let mut found = Vocabulary::open_model(&sentencepiece, vocab_size)?;
            if let Some(json) = json {
                tokens.extend(json.added_tokens(vocab_size, &mut notes).map_err(at_json)?);
                notes.extend(difference(&found, json, &tokens, vocab_size));
            }
            tokens.extend(in_config.unwrap_or_default());
            let tokens: BTreeMap<_, _> = tokens.into_iter().map(|token| (token.id, token)).collect();
            let tokens: Vec<_> = tokens.into_values().collect();
            added_tokens::add(&mut found, &tokens, Normalized::Text, &HashSet::new())?;
            found
        }
        (false, Some(json)) => {
            // The file itself says more of its tokens than `added_tokens.json` does.
            let known = json.added_tokens(vocab_size, &mut notes).map_err(at_json)?;
            tokens.retain(|token| !known.iter().any(|known| known.id == token.id));
            tokens.extend(in_config.unwrap_or_default());
            json.vocabulary(vocab_size, tokens).map_err(at_json)?
        }
        (false, None) => return Ok(None),
    };
    if let Some(config) = &config {
        set_special(&mut vocabulary, config)?;
        set_prefix(&mut vocabulary, config, !sentencepiece.is_file())?;
    }
    let generation = JsonFile::open_if_there(&folder.join("generation_config.json"))?;
    let generation = generation.as_ref().map(JsonFile::object);
    set_ids(&mut vocabulary, model, generation.as_ref())?;
    notes.retain(|note| !vocabulary.notes.contains(note));
    vocabulary.notes.append(&mut notes);
    Ok(Some(SourceTokenizer::of(vocabulary)))
}

/// Where `tokenizer.json` has other pieces than `tokenizer.model`, as a note: some have added tokens to one file alone.
fn difference(
    model: &Vocabulary,
    json: &TokenizerJson,
    added: &[AddedToken],
    vocab_size: usize,
) -> Option<String> {
    let pieces = match json.pieces(vocab_size) {
        Ok(pieces) => pieces,
        Err(e) => return Some(format!("{MODEL} is what counts; {JSON} beside it can't be read: {e}")),
    };
    let is_added = |id: usize| added.iter().any(|token| token.id as usize == id);
    let text = |pieces: &[PiecePart<'_>], id: usize| {
        let piece = pieces.get(id).filter(|piece| piece.kind != PieceKind::Unused);
        piece.map(|piece| String::from_utf8_lossy(&piece.text).into_owned())
    };
    let texts = |id| (text(&model.pieces, id), text(&pieces, id));
    let n_pieces = pieces.len().max(model.pieces.len());
    let differ = |&id: &usize| {
        let (a, b) = texts(id);
        a != b && !is_added(id)
    };
    let id = (0..n_pieces).find(differ)?;
    let name = |text: Option<String>| text.map_or_else(|| "missing".into(), |text| format!("{text:?}"));
    let (a, b) = texts(id);
    Some(format!(
        "{MODEL} is what counts, and {JSON} beside it has other pieces: piece {id} is {} and {}; remove {MODEL} if the other \
         is the model's",
        name(a),
        name(b)
    ))
}

/// Tokens that `added_tokens.json` names. Those that the model doesn't know are left out.
fn listed_tokens(folder: &Path, vocab_size: usize) -> Result<Vec<AddedToken>> {
    let mut added = Vec::new();
    if let Some(file) = JsonFile::open_if_there(&folder.join("added_tokens.json"))? {
        for (text, _) in file.object().map {
            let id: TokenId = file.object().required(text)?;
            // It doesn't say which ones are control tokens: their looks do.
            let is_control = text.starts_with('<') && text.ends_with('>');
            if (id as usize) < vocab_size {
                added.push(AddedToken::plain(id, text, is_control));
            }
        }
    }
    Ok(added)
}

/// Tokens that `tokenizer_config.json` describes. Those that the model doesn't know are left out.
fn decoder_tokens(
    config: &Object<'_>,
    vocab_size: usize,
    notes: &mut Vec<String>,
) -> Result<Vec<AddedToken>> {
    let mut added = Vec::new();
    let Some(tokens) = config.object("added_tokens_decoder")? else { return Ok(added) };
    for (id, value) in tokens.map {
        let wrong = || tokens.wrong_type(id, "a token of this number", value);
        let number: TokenId = id.parse().map_err(|_| wrong())?;
        let token = tokens.object(id)?.ok_or_else(wrong)?;
        settings::check(CONFIG, "", token.map, settings::ADDED_TOKEN, notes)?;
        let token = AddedToken::read(number, &token)?;
        if (number as usize) < vocab_size {
            added.push(token);
        }
    }
    Ok(added)
}

/// What `tokenizer_config.json` says of the tokens that a text begins and ends with.
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
    Ok(())
}

/// What `tokenizer_config.json` says of the dummy prefix. Classes that are only what `tokenizer.json` says don't read it.
fn set_prefix(vocabulary: &mut Vocabulary, config: &Object<'_>, is_json: bool) -> Result<()> {
    let class = config.optional::<&str>("tokenizer_class")?;
    let legacy: Option<bool> = config.optional("legacy")?;
    let OwnMerging::SentencePiece { add_space_prefix } = &mut vocabulary.merging else { return Ok(()) };
    if is_json && matches!(class, Some("PreTrainedTokenizerFast" | "TokenizersBackend")) {
        return Ok(());
    }
    match config.optional("add_prefix_space")? {
        Some(true) if !*add_space_prefix => {
            *add_space_prefix = true;
            vocabulary.text.prefix_unless_space = is_json;
            vocabulary.text.prefix_once = legacy != Some(true);
        }
        Some(false) => {
            *add_space_prefix = false;
            (vocabulary.text.prefix_unless_space, vocabulary.text.prefix_once) = (false, false);
        }
        _ => {}
    }
    if !is_json && legacy == Some(false) {
        vocabulary.text.prefix_once = *add_space_prefix;
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
        if FileKind::detect(&bytes, bytes.len() as u64) == Some(FileKind::GitLfsPointer) {
            let hint = FileKind::GitLfsPointer.sentence(Wanted::Published);
            return Err(Error::from(ErrorKind::UnknownFormat { hint }).at(Some(&path)));
        }
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
