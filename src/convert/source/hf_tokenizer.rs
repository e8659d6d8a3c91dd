//! The tokenizer of a Hugging Face directory, which several files describe together.
//!
//! The pieces are in `tokenizer.model` or in `tokenizer.json`. Tokens were added in
//! `added_tokens.json`, in `added_tokens_decoder` of `tokenizer_config.json`, or in
//! `tokenizer.json`. Which tokens begin and end a text is said in `tokenizer_config.json`, or else
//! in `special_tokens_map.json`, by their text, and in `config.json` and `generation_config.json`,
//! by their numbers.
//!
//! Source: llama.cpp's converter, for which file has the last word.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::added_tokens::{self, AddedToken, Normalized};
use super::json::{JsonFile, Object};
use super::special_names;
use super::tokenizer::SourceTokenizer;
use super::tokenizer_json::TokenizerJson;
use super::tokenizer_settings as settings;
use super::vocabulary::{self, OwnedSpec, refuse};
use crate::error::{Error, Result, TokenId};
use crate::tokenizer::{END_TOKENS, PieceKind, PieceSpec, TokenizerModel, names_end};

const MODEL: &str = "tokenizer.model";
const JSON: &str = "tokenizer.json";
const ADDED: &str = "added_tokens.json";
pub(super) const CONFIG: &str = "tokenizer_config.json";
pub(super) const GENERATION: &str = "generation_config.json";

/// The tokenizer of a model with this `config.json`, if the directory has one.
pub(super) fn open(folder: &Path, model: &Object<'_>, vocab_size: usize) -> Result<Option<SourceTokenizer>> {
    let json_path = folder.join(JSON);
    let sentencepiece = model_file(folder, json_path.is_file());
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
    let mut spec = match (sentencepiece.is_file(), &json) {
        (true, json) => {
            let mut found = vocabulary::open_model(&sentencepiece, vocab_size)?;
            refuse_taken(&found.pieces, &tokens).map_err(|e| e.at(Some(&folder.join(ADDED))))?;
            if let Some(json) = json {
                tokens.extend(json.added_tokens(vocab_size, &mut notes).map_err(at_json)?);
                notes.extend(difference(&found, json, &tokens, vocab_size));
            }
            tokens.extend(in_config.unwrap_or_default());
            let tokens: BTreeMap<_, _> = tokens.into_iter().map(|token| (token.id, token)).collect();
            let tokens: Vec<_> = tokens.into_values().collect();
            added_tokens::add(&mut found, &tokens, Normalized::Marked, &HashSet::new())?;
            found
        }
        (false, Some(json)) => {
            // The file itself says more of its tokens than `added_tokens.json` does.
            let known = json.added_tokens(vocab_size, &mut notes).map_err(at_json)?;
            tokens.retain(|token| !known.iter().any(|known| known.id == token.id));
            refuse_taken(&json.pieces(vocab_size).map_err(at_json)?, &tokens)
                .map_err(|e| e.at(Some(&folder.join(ADDED))))?;
            tokens.extend(in_config.unwrap_or_default());
            json.spec(vocab_size, tokens).map_err(at_json)?
        }
        (false, None) => return refuse_others(folder).map(|()| None),
    };
    let mut ends = Vec::new();
    let map = special_names::open(folder)?;
    let map = map.as_ref().map(JsonFile::object);
    special_names::check(&spec, config.as_ref(), map.as_ref(), (folder, vocab_size), &mut notes)?;
    if let Some(config) = config.as_ref().or(map.as_ref()) {
        set_special(&mut spec, config, map.as_ref(), !sentencepiece.is_file(), &mut ends, &mut notes)?;
    }
    if let Some(config) = &config {
        set_prefix(&mut spec, config, !sentencepiece.is_file())
            .map_err(|e| e.at(Some(&folder.join(CONFIG))))?;
    }
    let generation = JsonFile::open_if_there(&folder.join(GENERATION))?;
    let generation = generation.as_ref().map(JsonFile::object);
    if let Some(generation) = &generation {
        settings::check(GENERATION, "", generation.map, settings::GENERATION, &mut notes)
            .map_err(|e| e.at(Some(&folder.join(GENERATION))))?;
    }
    set_ids(&mut spec, model, generation.as_ref(), ends)?;
    if let (true, Some(json)) = (sentencepiece.is_file(), &json) {
        notes.extend(other_treatment(&spec, json, config.as_ref(), vocab_size));
    }
    notes.retain(|note| !spec.notes.contains(note));
    spec.notes.append(&mut notes);
    Ok(Some(SourceTokenizer::of(spec)))
}

/// Where `tokenizer.json` has other pieces than `tokenizer.model`, as a note: some have added
/// tokens to one file alone.
fn difference(
    model: &OwnedSpec,
    json: &TokenizerJson,
    added: &[AddedToken],
    vocab_size: usize,
) -> Option<String> {
    let pieces = match json.pieces(vocab_size) {
        Ok(pieces) => pieces,
        Err(e) => {
            return Some(format!("{MODEL} is what counts; {JSON} beside it can't be read: {e}"));
        }
    };
    let is_added = |id: usize| added.iter().any(|token| token.id as usize == id);
    let text = |pieces: &[PieceSpec<'_>], id: usize| {
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
    if let Some(file) = JsonFile::open_if_there(&folder.join(ADDED))? {
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

/// Refuses an added token whose number is that of a piece which text may become.
fn refuse_taken(pieces: &[PieceSpec<'_>], tokens: &[AddedToken]) -> Result<()> {
    for token in tokens {
        let Some(piece) = pieces.get(token.id as usize) else { continue };
        let is_text = matches!(piece.kind, PieceKind::Normal | PieceKind::Byte);
        if is_text && *piece.text != *token.text.as_bytes() && !is_placeholder(&piece.text) {
            let text = String::from_utf8_lossy(&piece.text);
            let (id, added) = (token.id, &token.text);
            return Err(refuse(format!("token {id} is {added:?}, and in the vocabulary it is {text:?}")));
        }
    }
    Ok(())
}

/// Whether a piece keeps a place for a token to be added: `<unused3>`, `[PAD7]`.
fn is_placeholder(text: &[u8]) -> bool {
    matches!(text, [b'<', .., b'>'] | [b'[', .., b']']) && text.len() > 2
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

/// The file of SentencePiece's that a directory has. Other names count where nothing else is there.
fn model_file(folder: &Path, has_json: bool) -> PathBuf {
    let others = ["tokenizer.model.v3", "tokenizer.model.v2", "tokenizer.model.v1", "spiece.model"];
    let names = [MODEL].into_iter().chain(others.into_iter().filter(|_| !has_json));
    let found = names.map(|name| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| folder.join(MODEL))
}

/// Refuses a directory whose tokenizer is in files that aren't read.
fn refuse_others(folder: &Path) -> Result<()> {
    let make = "make a tokenizer.json of it with transformers (AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)), or \
                name another tokenizer with -z";
    for (name, beside) in [("vocab.json", Some("merges.txt")), ("tekken.json", None)] {
        let path = folder.join(name);
        if path.is_file() && beside.is_none_or(|beside| folder.join(beside).is_file()) {
            let and = beside.map_or_else(String::new, |beside| format!(" (with {beside})"));
            let reason = format!("it is the model's only tokenizer{and}, of a kind that isn't read: {make}");
            return Err(refuse(reason).at(Some(&path)));
        }
    }
    Ok(())
}

/// Where `tokenizer.json` treats texts otherwise than the `tokenizer.model` beside it, as a note.
fn other_treatment(
    model: &OwnedSpec,
    json: &TokenizerJson,
    config: Option<&Object<'_>>,
    vocab_size: usize,
) -> Option<String> {
    // What can't be read is named elsewhere.
    let mut other = json.spec(vocab_size, Vec::new()).ok()?;
    if let Some(config) = config {
        set_prefix(&mut other, config, true).ok()?;
    }
    let spaces = |it: &OwnedSpec| match it.model {
        TokenizerModel::SentencePiece { add_space_prefix } => {
            let text = &it.text;
            let has_added =
                !text.added.is_empty() || it.pieces.iter().any(|piece| piece.kind == PieceKind::UserDefined);
            let once = text.prefix_once && has_added;
            Some((add_space_prefix, text.prefix_unless_space, once, text.collapse_spaces, text.split_words))
        }
        TokenizerModel::BytePairs { .. } => None,
    };
    let says = |key| config.is_some_and(|config| config.get(key).is_some());
    let differs = |key, default: bool, a: Option<bool>, b: Option<bool>| {
        !says(key) && a.unwrap_or(default) != b.unwrap_or(default)
    };
    let mut what = Vec::new();
    if spaces(model) != spaces(&other) {
        what.push("spaces at the beginning of a text or beside added tokens");
    }
    if differs("add_bos_token", true, model.add_bos, other.add_bos) {
        what.push("BOS");
    }
    if differs("add_eos_token", false, model.add_eos, other.add_eos) {
        what.push("EOS");
    }
    (!what.is_empty()).then(|| {
        format!(
            "{MODEL} is what counts, and {JSON} beside it treats {} otherwise; remove {MODEL} if the other is the model's",
            what.join(" and ")
        )
    })
}

/// Classes that are only what `tokenizer.json` says, except for names.
fn is_json_alone(config: &Object<'_>) -> Result<bool> {
    let class = config.optional::<&str>("tokenizer_class")?;
    Ok(matches!(class, Some("PreTrainedTokenizerFast" | "TokenizersBackend")))
}

/// What `tokenizer_config.json`, or else `special_tokens_map.json`, says of the tokens that a text
/// begins and ends with. `ends` gets a token that ends a text and isn't put after one.
fn set_special(
    spec: &mut OwnedSpec,
    config: &Object<'_>,
    map: Option<&Object<'_>>,
    is_json: bool,
    ends: &mut Vec<TokenId>,
    notes: &mut Vec<String>,
) -> Result<()> {
    let text = |key: &str| {
        let value = config.get(key).or_else(|| map?.get(key))?;
        special_names::text(value)
    };
    let id = |key: &str| text(key).and_then(|text| spec.find(text));
    let (bos, eos, unk) = (id("bos_token"), id("eos_token"), id("unk_token"));
    spec.unk = unk.or(spec.unk);
    ends.extend(eos);
    let is_alone = is_json && is_json_alone(config)?;
    let mut set = |key: &str, named: Option<TokenId>, id: &mut Option<TokenId>, adds: &mut Option<bool>| {
        let stated = config.optional::<bool>(key)?;
        if is_json && stated.is_some_and(|stated| Some(stated) != *adds) {
            let what = if is_alone {
                "doesn't count, nor does it in transformers"
            } else {
                "counts; remove it if the other is right"
            };
            notes.push(format!(
                "{CONFIG} says {key} {}, and the post_processor of {JSON} says otherwise: {key} {what}",
                stated == Some(true)
            ));
        }
        let stated = stated.filter(|_| !is_alone);
        // What a post-processor adds stays what is added.
        let keeps = is_json && *adds == Some(true) && stated != Some(true);
        *id = if keeps { *id } else { named.or(*id) };
        *adds = stated.or(*adds);
        Ok::<(), Error>(())
    };
    set("add_bos_token", bos, &mut spec.bos, &mut spec.add_bos)?;
    set("add_eos_token", eos, &mut spec.eos, &mut spec.add_eos)
}

/// What `tokenizer_config.json` says of the dummy prefix. Classes that are only what
/// `tokenizer.json` says don't read it.
fn set_prefix(spec: &mut OwnedSpec, config: &Object<'_>, is_json: bool) -> Result<()> {
    let legacy: Option<bool> = config.optional("legacy")?;
    let TokenizerModel::SentencePiece { add_space_prefix } = &mut spec.model else {
        if config.optional("add_prefix_space")? == Some(true) && !is_json_alone(config)? {
            return Err(refuse(
                "add_prefix_space is true: byte-level vocabularies with a space before each text aren't \
                 supported"
                    .into(),
            ));
        }
        return Ok(());
    };
    if is_json && is_json_alone(config)? {
        return Ok(());
    }
    match config.optional("add_prefix_space")? {
        Some(true) if !*add_space_prefix => {
            *add_space_prefix = true;
            spec.text.prefix_unless_space = is_json;
            spec.text.prefix_once = legacy != Some(true);
        }
        Some(false) => {
            *add_space_prefix = false;
            (spec.text.prefix_unless_space, spec.text.prefix_once) = (false, false);
        }
        _ => {}
    }
    if !is_json && legacy == Some(false) {
        spec.text.prefix_once = *add_space_prefix;
    }
    Ok(())
}

/// What `config.json` and `generation_config.json` say: a model may end a text with several tokens,
/// `ends` among them, of which GGUF can name three. Others are known by their names, or listed in a
/// key of our own.
fn set_ids(
    spec: &mut OwnedSpec,
    model: &Object<'_>,
    generation: Option<&Object<'_>>,
    mut ends: Vec<TokenId>,
) -> Result<()> {
    let n_pieces = spec.pieces.len();
    for file in [generation, Some(model)].into_iter().flatten() {
        ends.extend(ids(file, "eos_token_id")?);
    }
    ends.retain(|&id| (id as usize) < n_pieces);
    let bos = ids(model, "bos_token_id")?.into_iter().find(|&id| (id as usize) < n_pieces);
    spec.bos = spec.bos.or(bos);
    spec.eos = spec.eos.or(ends.first().copied());
    let mut others = Vec::new();
    for id in ends {
        if Some(id) != spec.eos && !others.contains(&id) {
            others.push(id);
        }
    }
    let mut others = others.into_iter();
    spec.eot = others.next();
    let is_unknown = |&id: &TokenId| !names_end(&spec.pieces[id as usize].text);
    let mut others = others.filter(is_unknown);
    let eom = others.next();
    let more: Vec<TokenId> = others.collect();
    if !more.is_empty() {
        spec.notes.push(format!(
            "the model ends a text with more tokens than GGUF can name: the key {END_TOKENS} lists {more:?}, and programs that \
             don't know it go on after them"
        ));
    }
    (spec.eom, spec.other_ends) = (eom, more);
    // A prompt can't begin or end with what there isn't.
    if spec.bos.is_none() && !spec.model.is_sentencepiece() {
        spec.add_bos = Some(false);
    }
    if spec.eos.is_none() {
        spec.add_eos = Some(false);
    }
    Ok(())
}

/// One number, or several. Older files have -1 for none.
fn ids(file: &Object<'_>, key: &str) -> Result<Vec<TokenId>> {
    let Some(value) = file.get(key) else { return Ok(Vec::new()) };
    let values = value.as_array().map_or(std::slice::from_ref(value), |values| values);
    let id = |value: &Value| match value.as_i64() {
        Some(id) => Ok(TokenId::try_from(id).ok()),
        None => Err(file.wrong_type(key, "integers", value)),
    };
    values.iter().filter_map(|value| id(value).transpose()).collect()
}
