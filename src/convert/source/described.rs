//! What a directory says of its model beside its weights, as the keys that GGUF has for it: how to
//! sample, the templates for special uses, the license and the models that it was made from.
//!
//! Source: `gguf-py/gguf/metadata.py` in the llama.cpp repository, of which llama.cpp's converter
//! takes these keys; it doesn't take `repetition_penalty`, which is the name that
//! `generation_config.json` has for `penalty_repeat`.

use std::path::Path;

use super::card::Card;
use super::hf_templates::ChatTemplates;
use super::hf_tokenizer::GENERATION;
use super::json::{JsonFile, Object, whole};
use crate::checkpoint::gguf::{keys, sampling};
use crate::convert::gguf::{Array, Value};
use crate::error::{ErrorKind, Result};
use crate::sampler::{RECOMMENDATIONS, SamplingDefaults};

/// Keys and their values.
pub(crate) type Described = Vec<(String, Value)>;

/// What the files of a directory say. Of what a model card says in a way that isn't understood, a
/// note is added.
pub(super) fn read(folder: &Path, templates: &ChatTemplates, notes: &mut Vec<String>) -> Result<Described> {
    let mut described = match JsonFile::open_if_there(&folder.join(GENERATION))? {
        Some(file) => {
            notes.extend(not_carried(&file.object()));
            sampling(&file.object())?
        }
        None => Vec::new(),
    };
    described.extend(Card::open(folder, notes)?.map_or_else(Vec::new, |card| of_card(&card)));
    described.extend(named(templates));
    Ok(described)
}

/// Settings that change what a model writes and that GGUF has no key for, and the values that
/// change nothing.
const NOT_CARRIED: &[(&str, &[&str])] = &[
    ("do_sample", &["true"]),
    ("typical_p", &["1", "1.0"]),
    ("epsilon_cutoff", &["0", "0.0"]),
    ("eta_cutoff", &["0", "0.0"]),
    ("no_repeat_ngram_size", &["0"]),
    ("encoder_no_repeat_ngram_size", &["0"]),
    ("suppress_tokens", &["[]"]),
    ("begin_suppress_tokens", &["[]"]),
    ("bad_words_ids", &["[]"]),
    ("force_words_ids", &["[]"]),
    ("sequence_bias", &["{}", "[]"]),
    ("stop_strings", &["\"\"", "[]"]),
];

/// What is said of them.
fn not_carried(generation: &Object<'_>) -> Option<String> {
    let asks = |&&(name, nothing): &&(&str, &[&str])| {
        generation.get(name).is_some_and(|value| !nothing.contains(&&*value.to_string()))
    };
    let said = |&(name, _): &(&str, &[&str])| format!("{name}: {}", generation.map[name]);
    let found: Vec<String> = NOT_CARRIED.iter().filter(asks).map(said).collect();
    (!found.is_empty()).then(|| {
        let found = found.join(", ");
        format!("{GENERATION} asks for what GGUF has no key for, so that it must be asked for again: {found}")
    })
}

/// How to sample, as `generation_config.json` says it.
fn sampling(generation: &Object<'_>) -> Result<Described> {
    let mut described = Vec::new();
    for recommendation in RECOMMENDATIONS {
        let found = recommendation.json.iter().find_map(|name| Some((*name, generation.get(name)?)));
        let Some((name, value)) = found else { continue };
        let number = if recommendation.is_integer {
            let number = value.as_i64().or_else(|| i64::try_from(whole(value)?).ok());
            let number = number.and_then(|number| i32::try_from(number).ok());
            number
                .map(f64::from)
                .ok_or_else(|| generation.wrong_type(name, "an integer below 2^31", value))?
        } else {
            value.as_f64().ok_or_else(|| generation.wrong_type(name, "a number", value))?
        };
        recommendation.set(&mut SamplingDefaults::default(), number).map_err(|e| match e.kind() {
            ErrorKind::InvalidOption { reason, .. } => generation.refuse(name, value, reason),
            _ => e,
        })?;
        let value =
            if recommendation.is_integer { Value::I32(number as i32) } else { Value::F32(number as f32) };
        described.push((format!("{}{}", sampling::PREFIX, recommendation.gguf), value));
    }
    Ok(described)
}

/// The templates that have names.
fn named(templates: &ChatTemplates) -> Described {
    if templates.named.is_empty() {
        return Vec::new();
    }
    let names = templates.named.iter().map(|(name, _)| name.clone().into_bytes()).collect();
    let mut described = vec![(keys::CHAT_TEMPLATES.into(), Array::String(names).into())];
    described.extend(
        templates
            .named
            .iter()
            .map(|(name, template)| (format!("{}{name}", keys::CHAT_TEMPLATE_OF), template.as_str().into())),
    );
    described
}

/// The license and the models that it was made from.
fn of_card(card: &Card) -> Described {
    let mut described = Vec::new();
    let mut set = |key: String, value: String| described.push((key, Value::String(value)));
    for (name, key) in
        [("license", "license"), ("license_name", "license.name"), ("license_link", "license.link")]
    {
        if let Some(values) = card.get(name) {
            set(format!("general.{key}"), values.join(","));
        }
    }
    let bases = ["base_model", "base_models", "base_model_sources"].into_iter().find_map(|key| card.get(key));
    let bases = bases.unwrap_or_default();
    for (i, base) in bases.iter().enumerate() {
        let ModelId { name, organization, version, url } = ModelId::read(base);
        let parts = [("name", name), ("version", version), ("organization", organization), ("repo_url", url)];
        for (part, text) in parts {
            if let Some(text) = text {
                set(format!("general.base_model.{i}.{part}"), text);
            }
        }
    }
    if !bases.is_empty() {
        described.push(("general.base_model.count".into(), Value::U32(bases.len() as u32)));
    }
    described
}

/// What the name of a model on Hugging Face's hub says.
#[derive(Debug, Default, PartialEq)]
struct ModelId {
    name: Option<String>,
    organization: Option<String>,
    version: Option<String>,
    url: Option<String>,
}

impl ModelId {
    /// From a name such as `mistralai/Mistral-7B-v0.1`, or a URL.
    fn read(text: &str) -> Self {
        const HUB: [&str; 2] = ["https://huggingface.co/", "http://huggingface.co/"];
        if ["https://", "http://", "ssh://"].iter().any(|scheme| text.starts_with(scheme)) {
            let id = HUB.iter().find_map(|hub| text.strip_prefix(hub));
            let is_model =
                |id: &&str| id.split('/').count() == 2 && id.split('/').all(|part| !part.is_empty());
            let read = id.filter(is_model).map_or_else(Self::default, Self::of_hub);
            return Self { url: Some(text.into()), ..read };
        }
        Self::of_hub(text)
    }

    fn of_hub(id: &str) -> Self {
        if id.contains(' ') {
            return Self { name: Some(title(id)), ..Self::default() };
        }
        let (organization, name) = id.split_once('/').map_or((None, id), |(of, name)| (Some(of), name));
        let organization = organization.filter(|organization| !organization.starts_with('.'));
        let url = organization.map(|organization| format!("https://huggingface.co/{organization}/{name}"));
        Self { name: Some(title(name)), organization: organization.map(title), version: version(name), url }
    }
}

/// A name as a title: words of lowercase letters get a capital, unless they are versions.
fn title(name: &str) -> String {
    let word = |word: &str| {
        let is_lower = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
        let is_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
        let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == '.');
        let is_version =
            is_number(word) || word.strip_prefix('v').is_some_and(|rest| is_number(rest) && digits(rest));
        if !is_lower || is_version {
            return word.to_owned();
        }
        let mut after_letter = false;
        let letter = |c: char| {
            let begins = !std::mem::replace(&mut after_letter, c.is_alphabetic());
            if begins { c.to_uppercase().to_string() } else { c.to_string() }
        };
        word.chars().map(letter).collect::<String>()
    };
    name.replace('-', " ").split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// The version in a model's name: its parts that are numbers, except those that belong to the name
/// because only words are before them.
fn version(name: &str) -> Option<String> {
    let parts: Vec<&str> = name.split('-').filter(|part| !part.is_empty()).collect();
    let sized_by_number =
        parts.iter().skip(1).any(|part| is_size(part) && part.contains(|c: char| c.is_ascii_digit()));
    let is_word = |i: usize, part: &str| {
        let is_size = i > 0 && is_size(part) && (!sized_by_number || part.contains(char::is_numeric));
        let is_tuning = i > 0
            && ["chat", "instruct", "vision", "lora"].iter().any(|word| part.eq_ignore_ascii_case(word));
        let is_typed = is_size || is_tuning || is_format(part);
        !is_typed && part.starts_with(char::is_alphabetic)
    };
    let n_name =
        parts.iter().enumerate().take_while(|(i, part)| is_version(part) || is_word(*i, part)).count();
    let trailing = parts.iter().rev().take_while(|part| is_version(part)).count();
    let of_name = if n_name == parts.len() { n_name - trailing } else { n_name };
    let versions: Vec<&str> = parts[of_name..].iter().copied().filter(|part| is_version(part)).collect();
    (!versions.is_empty()).then(|| versions.join("-"))
}

/// Digits with dots between them; whether there is something before and after is not asked.
fn is_number(text: &str) -> bool {
    text.split('.').all(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// `v0.1`, `iter2`, `1.5`
fn is_version(part: &str) -> bool {
    let part = part.to_ascii_lowercase();
    is_number(part.strip_prefix("iter").or(part.strip_prefix('v')).unwrap_or(&part))
}

/// `Q4_K_M`, `bf16`
fn is_format(part: &str) -> bool {
    let part = part.to_ascii_lowercase();
    let float = part.strip_prefix('b').unwrap_or(&part).strip_prefix('f');
    let bits = float.map(|rest| rest.strip_prefix('p').unwrap_or(rest));
    let quantized = part.strip_prefix('i').unwrap_or(&part).strip_prefix('q');
    let mut words = quantized.unwrap_or_default().split('_');
    let is_digit = words.next().is_some_and(|digit| digit.len() == 1 && is_number(digit));
    matches!(bits, Some("16" | "32")) || is_digit && words.all(|word| word.chars().count() == 1)
}

/// `7B`, `8x7B`, `A3B`, `1.5b`, `small`
fn is_size(part: &str) -> bool {
    let part = part.to_ascii_lowercase();
    if ["small", "mini", "medium", "large", "xl", "xxl"].contains(&&*part) {
        return true;
    }
    let each = part.split_once('x').filter(|(n, _)| is_number(n) && !n.contains('.'));
    let rest = each.map_or(part.strip_prefix('a').unwrap_or(&part), |(_, rest)| rest);
    let rest = rest
        .strip_suffix(|c: char| c.is_ascii_digit())
        .filter(|it| it.ends_with(['k', 'm', 'b', 't']))
        .unwrap_or(rest);
    let digits = rest.strip_suffix(['k', 'm', 'b', 't']).map(|digits| digits.replacen('_', ".", 1));
    digits.is_some_and(|digits| is_number(&digits) && digits.matches('.').count() <= 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/golden/model_cards.py` makes them with PyPI's gguf.
    #[test]
    fn names_of_models_are_read_as_llama_cpps_converter_reads_them() {
        let golden = include_str!("../../../tests/golden/model_cards.jsonl");
        for line in golden.lines() {
            let case: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = |key: &str| case[key].as_str().map(str::to_owned);
            let expected = ModelId {
                name: text("name"),
                organization: text("organization"),
                version: text("version"),
                url: text("repo_url"),
            };
            assert_eq!(ModelId::read(case["id"].as_str().unwrap()), expected, "{}", case["id"]);
        }
    }
}
