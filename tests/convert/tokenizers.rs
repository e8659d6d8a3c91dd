//! Tokenizers of published models, with settings that GGUF has no words for: a converted one gives
//! the tokens of the library that it is of (`tests/golden/tokenizer_settings.py` asked them), or it
//! is refused by name.

use std::fs;

use babyllama::convert::{GgufOptions, Source, check, to_tokenizer_bin};
use babyllama::{Model, ModelOptions, Tokenizer};
use serde_json::{Map, Value, json};

use crate::common::{TempFile, assert_says, golden_bytes};
use crate::{Directory, gguf};

/// How keys begin that only this library knows.
const OWN_KEYS: &[u8] = b"babyllama.tokenizer.";

/// A value with a JSON merge patch (RFC 7396).
pub(crate) fn patched(value: &Value, patch: &Value) -> Value {
    let Some(changes) = patch.as_object() else { return patch.clone() };
    let mut map = value.as_object().cloned().unwrap_or_default();
    for (key, change) in changes {
        if change.is_null() {
            map.remove(key);
        } else {
            let value = patched(map.get(key).unwrap_or(&Value::Null), change);
            map.insert(key.clone(), value);
        }
    }
    Value::Object(map)
}

/// The lines of the golden file: the tokenizer that is changed and the texts, and then the cases.
fn lines() -> Vec<Value> {
    let text = String::from_utf8(golden_bytes("tokenizer_settings.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn base() -> Value {
    lines()[0]["base"].clone()
}

fn model_file() -> Vec<u8> {
    golden_bytes("published/llama2/tokenizer.model")
}

#[test]
fn converted_tokenizers_give_the_tokens_of_their_libraries() {
    let lines = lines();
    let (first, cases) = lines.split_first().unwrap();
    let texts: Vec<&str> = first["texts"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    for case in cases {
        let directory = Directory::without_tokenizer();
        if let Some(added) = case["added"].as_array() {
            let added = added.iter().map(|byte| byte.as_u64().unwrap() as u8);
            directory.write("tokenizer.model", [model_file(), added.collect()].concat());
        } else {
            directory.write("tokenizer.json", patched(&first["base"], &case["patch"]).to_string());
        }
        let name = &case["name"];
        let source = directory.open().unwrap_or_else(|e| panic!("{name}: {e}"));
        let file = TempFile::new("model.gguf", &gguf(&source, &GgufOptions::new()));
        let bytes = fs::read(&file).unwrap();
        check(&source, &file, |_| ()).unwrap();
        // What is carried on from one GGUF file to the next.
        let again = gguf(&Source::open(&file, &ModelOptions::new()).unwrap(), &GgufOptions::new());
        let of_file = |bytes: &[u8]| Model::from_bytes(bytes.to_vec()).unwrap().tokenizer().unwrap().clone();
        for tokenizer in [source.tokenizer().unwrap().unwrap(), of_file(&bytes), of_file(&again)] {
            for (text, expected) in texts.iter().zip(case["tokens"].as_array().unwrap()) {
                let tokens = tokenizer.encode_prompt(text);
                assert_eq!(json!(tokens), *expected, "{name}: {text:?}");
            }
        }
        let has_own = bytes.windows(OWN_KEYS.len()).any(|bytes| bytes == OWN_KEYS);
        assert_eq!(
            (has_own, !source.notes().is_empty()),
            (case["noted"] == true, case["noted"] == true),
            "{name}"
        );
    }
}

/// A change to `tokenizer.json`, and a part of the error.
#[test]
fn what_would_make_other_tokens_is_refused() {
    let special = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let metaspace = |more: Value| {
        let stage = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first",
            "split": false});
        json!({"normalizer": null, "pre_tokenizer": patched(&stage, &more)})
    };
    let normalizer = |more: Value| {
        let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
        json!({"normalizer": {"type": "Sequence", "normalizers": [more, replace]}})
    };
    let cases = [
        (metaspace(json!({"replacement": "_"})), "pre_tokenizer.replacement is \"_\""),
        (metaspace(json!({"prepend_scheme": "last"})), "pre_tokenizer is not supported"),
        (json!({"model": {"dropout": 0.1}}), "model.dropout is 0.1"),
        (json!({"model": {"end_of_word_suffix": "</w>"}}), "model.end_of_word_suffix is \"</w>\""),
        (json!({"model": {"continuing_subword_prefix": "##"}}), "model.continuing_subword_prefix is \"##\""),
        (json!({"model": {"ignore_merges": true}}), "model.ignore_merges is true"),
        (json!({"model": {"byte_fallback": false}}), "a piece for each byte"),
        (json!({"model": {"vocab": {"<0x41>": null}}}), "a piece for each byte"),
        (json!({"model": {"merges": [["t", "h"]]}}), "aren't those of a SentencePiece model"),
        (json!({"model": {"type": "Unigram"}}), "\"Unigram\""),
        (normalizer(json!({"type": "NFC"})), "NFC"),
        (normalizer(json!({"type": "Lowercase"})), "Lowercase"),
        (normalizer(json!({"type": "Strip", "strip_left": true, "strip_right": true})), "Strip"),
        (normalizer(json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"})), "Precompiled"),
        (normalizer(json!({"type": "Prepend", "prepend": "x"})), "Prepend"),
        (normalizer(json!("NFC")), "normalizer is not supported"),
        (json!({"normalizer": null}), "nothing writes U+2581"),
        (
            json!({"post_processor": {"single": [special("<s>"), special("<s>"), text]}}),
            "post_processor is not supported",
        ),
        (json!({"post_processor": {"special_tokens": {"<s>": {"ids": [352]}}}}), "adds token 352"),
        (json!({"pre_tokenizer": {"type": "Digits", "individual_digits": true}}), "Digits"),
    ];
    for (patch, reason) in cases {
        let directory = Directory::without_tokenizer();
        let refusal = directory.write("tokenizer.json", patched(&base(), &patch).to_string()).refusal();
        assert!(refusal.starts_with("tokenizer.json: ") && refusal.contains(reason), "{patch}: {refusal}");
    }
    let directory = Directory::without_tokenizer();
    directory.write("tokenizer.json", base().to_string());
    directory
        .write("tokenizer_config.json", json!({"sp_model_kwargs": {"enable_sampling": true}}).to_string());
    assert!(directory.refusal().starts_with("tokenizer_config.json: tokenizer: sp_model_kwargs is"));
    // NormalizerSpec's precompiled_charsmap and escape_whitespaces, and TrainerSpec's model_type.
    for (added, reason) in [
        (&[0x1a, 3, 0x12, 1, 7][..], "normalizer_spec.precompiled_charsmap"),
        (&[0x1a, 2, 0x28, 0], "normalizer_spec.escape_whitespaces"),
        (&[0x12, 2, 0x18, 1], "model_type is Unigram"),
    ] {
        let directory = Directory::without_tokenizer();
        let refusal = directory.write("tokenizer.model", [&model_file(), added].concat()).refusal();
        assert!(refusal.starts_with("tokenizer.model: ") && refusal.contains(reason), "{refusal}");
    }
}

pub(crate) fn tokens(directory: &Directory, text: &str) -> Vec<u32> {
    directory.open().unwrap().tokenizer().unwrap().unwrap().encode_prompt(text)
}

/// The reference is transformers' `AutoTokenizer`.
#[test]
fn tokenizer_config_has_the_last_word() {
    let added = |id: &str, flags: Value| {
        let token = json!({"content": "<a>", "special": false, "normalized": false});
        json!({"added_tokens_decoder": {id: patched(&token, &flags)}})
    };
    let directory = Directory::without_tokenizer();
    directory.write("tokenizer.json", base().to_string());
    let of = |config: &Value, text: &str| {
        directory.write("tokenizer_config.json", config.to_string());
        tokens(&directory, text)
    };
    let text = |ids: &[u32]| directory.open().unwrap().tokenizer().unwrap().unwrap().decode(ids);
    let plain = of(&json!({}), "the ball");
    assert_eq!(plain[0], 1);
    assert_eq!(of(&json!({"add_bos_token": false}), "the ball"), plain[1..]);
    assert_eq!(of(&json!({"add_eos_token": true, "eos_token": "</s>"}), "the ball").last(), Some(&2));
    // Classes that are only what tokenizer.json says don't read it.
    assert_eq!(
        of(&json!({"add_prefix_space": false, "tokenizer_class": "PreTrainedTokenizerFast"}), "the ball"),
        plain
    );
    let bare = of(&json!({"add_prefix_space": false, "tokenizer_class": "LlamaTokenizer"}), "the ball");
    assert!(bare != plain && text(&bare[1..]) == "the ball", "{bare:?}");
    let stripped = of(&added("347", json!({"lstrip": true})), "x <a>");
    let unstripped = of(&added("347", json!({})), "x <a>");
    assert_eq!(stripped.len() + 1, unstripped.len());
    assert_eq!((stripped.last(), unstripped.last()), (Some(&347), Some(&347)));
}

#[test]
fn a_sentencepiece_model_may_have_no_prefix_after_added_tokens() {
    let directory = Directory::without_tokenizer();
    directory.write("tokenizer.model", model_file());
    let of = |legacy: bool| {
        let token = json!({"content": "<a>", "special": false});
        let config = json!({"legacy": legacy, "added_tokens_decoder": {"351": token}});
        directory.write("tokenizer_config.json", config.to_string());
        tokens(&directory, "<a>a")
    };
    let (space, a) = (of(true), of(false));
    let tokenizer = directory.open().unwrap().tokenizer().unwrap().unwrap();
    assert_eq!((tokenizer.find(b" a"), tokenizer.find(b"a")), (space.last().copied(), a.last().copied()));
    assert_eq!((&space[..2], &a[..2]), (&[1, 351][..], &[1, 351][..]));
}

#[test]
fn what_the_written_file_leaves_open_is_noted() {
    let notes = |directory: &Directory| directory.open().unwrap().notes().join("\n");
    let directory = Directory::without_tokenizer();
    directory.write("tokenizer.json", base().to_string());
    assert_eq!(notes(&directory), "");
    // Settings that nobody knows.
    let patch = json!({"new": 1, "model": {"new": 1}});
    directory.write("tokenizer.json", patched(&base(), &patch).to_string());
    directory.write("tokenizer_config.json", json!({"new": 1, "padding_side": "left"}).to_string());
    let found = notes(&directory);
    for name in [
        "tokenizer.json has a setting \"new\"",
        "\"model.new\"",
        "tokenizer_config.json has a setting \"new\"",
    ] {
        assert!(found.contains(name), "{found}");
    }
    assert!(!found.contains("padding_side"), "{found}");
    // White space beside control tokens.
    let config = json!({"added_tokens_decoder": {"2": {"content": "</s>", "special": true, "rstrip": true}}});
    directory.write("tokenizer.json", base().to_string()).write("tokenizer_config.json", config.to_string());
    assert!(notes(&directory).contains("white space after the control token \"</s>\""));
    // Two files that differ.
    let directory = Directory::without_tokenizer();
    directory.write("tokenizer.model", model_file()).write("tokenizer.json", base().to_string());
    assert_says(&notes(&directory), &["piece 347 is"]);
}

#[test]
fn files_that_contradict_each_other_are_noted() {
    let notes = |directory: &Directory| directory.open().unwrap().notes().join("\n");
    let has_bos = |directory: &Directory| tokens(directory, "a").first() == Some(&1);
    let directory = Directory::without_tokenizer();
    directory.write("tokenizer.json", base().to_string());
    let mut config = json!({"add_bos_token": false, "tokenizer_class": "LlamaTokenizer"});
    directory.write("tokenizer_config.json", config.to_string());
    assert!(notes(&directory).contains("add_bos_token counts") && !has_bos(&directory));
    // transformers' classes that are only what tokenizer.json says.
    for class in ["PreTrainedTokenizerFast", "TokenizersBackend"] {
        config["tokenizer_class"] = json!(class);
        directory.write("tokenizer_config.json", config.to_string());
        assert!(notes(&directory).contains("add_bos_token doesn't count") && has_bos(&directory));
    }
    // What a post-processor adds stays; what the other file names ends a text all the same.
    let special = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let patch = json!({"post_processor": {"single": [text, special("<s>")]}});
    directory.write("tokenizer.json", patched(&base(), &patch).to_string());
    directory.write("tokenizer_config.json", json!({"eos_token": "</s>"}).to_string());
    assert_eq!(tokens(&directory, "a").last(), Some(&1));
    assert!(directory.open().unwrap().tokenizer().unwrap().unwrap().is_end(2));
    // Two files, of which one treats spaces otherwise.
    let directory = Directory::without_tokenizer();
    let vocab = json!({"normalizer": null, "post_processor": null, "pre_tokenizer": {"type": "Metaspace",
        "replacement": "\u{2581}", "prepend_scheme": "never", "split": false}});
    directory.write("tokenizer.model", model_file()).write("tokenizer.json", base().to_string());
    assert!(!notes(&directory).contains("treats"), "{}", notes(&directory));
    directory.write("tokenizer.json", patched(&base(), &vocab).to_string());
    let said = "treats spaces at the beginning of a text or beside added tokens and BOS";
    assert_says(&notes(&directory), &[said]);
}

#[test]
fn every_token_that_ends_a_text_is_carried_over() {
    let directory = Directory::without_tokenizer();
    let mut tokens = base()["added_tokens"].as_array().unwrap().clone();
    for (id, content) in [(347, "<a>"), (348, "<b>"), (349, "<c>"), (350, "<|eot_id|>")] {
        tokens.push(json!({"id": id, "content": content, "special": true}));
    }
    directory.write("tokenizer.json", patched(&base(), &json!({"added_tokens": tokens})).to_string());
    let ends = |ids: Value| {
        directory.write("generation_config.json", json!({"eos_token_id": ids}).to_string());
        let source = directory.open().unwrap();
        let bytes = gguf(&source, &GgufOptions::new());
        let tokenizer = Model::from_bytes(bytes).unwrap().tokenizer().unwrap().clone();
        let ends: Vec<u32> = (0..352).filter(|&id| tokenizer.is_end(id)).collect();
        (ends, source.notes().join("\n"))
    };
    let (found, notes) = ends(json!([2, 347, 348]));
    assert!([2, 347, 348, 350].iter().all(|id| found.contains(id)), "{found:?}");
    assert!(!notes.contains("more tokens than GGUF"), "{notes}");
    let (found, notes) = ends(json!([2, 347, 350, 348, 349]));
    assert!([2, 347, 348, 349, 350].iter().all(|id| found.contains(id)), "{found:?}");
    assert!(notes.contains("end_token_ids lists [349]"), "{notes}");
}

#[test]
fn a_tokenizer_in_a_file_that_is_not_read_is_refused_by_its_name() {
    let directory = Directory::without_tokenizer();
    assert!(directory.open().unwrap().tokenizer().unwrap().is_none());
    directory.write("vocab.json", "{}");
    assert!(directory.open().unwrap().tokenizer().unwrap().is_none()); // Of its own it is nothing.
    directory.write("merges.txt", "");
    assert!(directory.refusal().starts_with("vocab.json: tokenizer: it is the model's only tokenizer"));
    let directory = Directory::without_tokenizer();
    directory.write("tekken.json", "{}");
    assert!(directory.refusal().starts_with("tekken.json: "));
    for name in ["tokenizer.model.v3", "spiece.model"] {
        let directory = Directory::without_tokenizer();
        directory.write(name, model_file());
        assert_eq!(directory.open().unwrap().tokenizer().unwrap().unwrap().vocab_size(), 351, "{name}");
    }
}

#[test]
fn names_that_make_control_tokens_are_noted() {
    let directory = Directory::without_tokenizer();
    let of = |content: &str, special: bool| {
        let mut tokens = base()["added_tokens"].as_array().unwrap().clone();
        tokens.push(json!({"id": 347, "content": content, "special": special, "normalized": false}));
        directory.write("tokenizer.json", patched(&base(), &json!({"added_tokens": tokens})).to_string());
        directory.open().unwrap().notes().join("\n")
    };
    assert!(of("<fim_prefix>", false).contains("texts that have \"<fim_prefix>\" become that token"));
    assert_eq!((of("<fim_prefix>", true), of("<x>", false)), (String::new(), String::new()));
}

#[test]
fn files_that_are_something_else_are_called_what_they_are() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 499723\n";
    for name in [
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
        "config.json",
    ] {
        for (bytes, what) in
            [(pointer, "Git LFS pointer"), ("<!DOCTYPE html>\n<html></html>", "HTML"), ("", "empty")]
        {
            if name == "chat_template.jinja" && what != "Git LFS pointer" {
                continue;
            }
            let directory = Directory::without_tokenizer();
            directory.write("tokenizer.json", base().to_string());
            let refusal = directory.write(name, bytes).refusal();
            assert!(refusal.starts_with(&format!("{name}: ")) && refusal.contains(what), "{refusal}");
        }
    }
}

#[test]
fn a_tokenizer_bin_is_only_of_what_it_can_say() {
    let write = |patch: &Value| {
        let directory = Directory::without_tokenizer();
        directory.write("tokenizer.json", patched(&base(), patch).to_string());
        let mut file = Vec::new();
        to_tokenizer_bin(&directory.open().unwrap(), &mut file)
            .map(|()| Tokenizer::from_llama2c(&file).unwrap())
    };
    assert_eq!(write(&json!({})).unwrap().vocab_size(), 352);
    let first =
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": false});
    let error = write(&json!({"normalizer": null, "pre_tokenizer": first})).unwrap_err();
    assert!(error.to_string().contains("GGUF can"), "{error}");
}

#[test]
fn keys_of_our_own_that_are_wrong_are_refused_or_nothing() {
    let added = json!({"id": 347, "content": "<a>", "special": false, "lstrip": true, "rstrip": false,
        "single_word": false, "normalized": false});
    let directory = Directory::without_tokenizer();
    let mut tokens = base()["added_tokens"].as_array().unwrap().clone();
    tokens.push(added);
    directory.write("tokenizer.json", patched(&base(), &json!({"added_tokens": tokens})).to_string());
    let file = gguf(&directory.open().unwrap(), &GgufOptions::new());
    let at = |key: &[u8]| file.windows(key.len()).position(|bytes| bytes == key).unwrap() + key.len();
    // The type, the elements' type and their number; and then the only one.
    let value = |key: &[u8]| at(key) + 4 + 4 + 8;
    let with = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        Model::from_bytes(file)
    };
    let encode = |model: Model| model.tokenizer().unwrap().encode("x <a>");
    let ids = value(b"babyllama.tokenizer.added_tokens");
    let flags = value(b"babyllama.tokenizer.added_token_flags");
    assert_eq!(encode(with(ids, &[]).unwrap()).last(), Some(&347));
    // A token beyond the vocabulary, and flags that nobody knows.
    encode(with(ids, &u32::MAX.to_le_bytes()).unwrap());
    encode(with(flags, &u32::MAX.to_le_bytes()).unwrap());
    // As signed numbers it is -1, which no token is.
    let mut signed = file.clone();
    signed[ids - 12..ids - 8].copy_from_slice(&5_u32.to_le_bytes());
    signed[ids..ids + 4].copy_from_slice(&(-1_i32).to_le_bytes());
    assert_says(&Model::from_bytes(signed).unwrap_err().to_string(), &["babyllama.tokenizer.added_tokens"]);
}

#[test]
fn another_tokenizer_brings_its_own_keys() {
    let directory = Directory::without_tokenizer();
    let first =
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": true});
    let patch = json!({"normalizer": null, "pre_tokenizer": first});
    directory.write("tokenizer.json", patched(&base(), &patch).to_string());
    let file = TempFile::new("model.gguf", &gguf(&directory.open().unwrap(), &GgufOptions::new()));
    directory.write("tokenizer.json", base().to_string());
    let other = ModelOptions::new().tokenizer_path(directory.folder().join("tokenizer.json"));
    let bytes = gguf(&Source::open(&file, &other).unwrap(), &GgufOptions::new());
    assert!(!bytes.windows(OWN_KEYS.len()).any(|bytes| bytes == OWN_KEYS));
    let tokens = |file: Vec<u8>| Model::from_bytes(file).unwrap().tokenizer().unwrap().encode(" Lily  and");
    assert_ne!(tokens(bytes), tokens(fs::read(&file).unwrap()));
}

#[test]
fn no_text_becomes_what_ends_one() {
    let directory = Directory::without_tokenizer();
    let mut tokens = base()["added_tokens"].as_array().unwrap().clone();
    for (id, content) in [(347, "<end>"), (348, "<a>")] {
        tokens.push(json!({"id": id, "content": content, "special": false, "lstrip": true}));
    }
    directory.write("tokenizer.json", patched(&base(), &json!({"added_tokens": tokens})).to_string());
    let encode = || directory.open().unwrap().tokenizer().unwrap().unwrap().encode("x <end> <a>");
    assert_eq!(encode().iter().filter(|&&id| id >= 347).count(), 2);
    directory.write("tokenizer_config.json", json!({"eos_token": "<end>"}).to_string());
    assert_eq!(encode().iter().filter(|&&id| id >= 347).count(), 1);
}

#[test]
fn a_patch_is_what_rfc_7396_says() {
    let value = json!({"a": {"b": 1, "c": 2}, "d": [1]});
    assert_eq!(
        patched(&value, &json!({"a": {"b": null, "e": 3}, "d": [2]})),
        json!({"a": {"c": 2, "e": 3}, "d": [2]})
    );
    assert_eq!(patched(&Value::Null, &json!({"a": null})), Value::Object(Map::new()));
}

#[test]
fn tokenizers_that_cannot_be_honored_are_refused() {
    let edits = [
        ("\"type\":\"BPE\"", "\"type\":\"Unigram\"", "tokenizers of the kind \"Unigram\""),
        ("{1,3}", "{1,4}", "the pre_tokenizer is not supported"),
        ("\"normalizer\":null", "\"normalizer\":{\"type\":\"NFKC\"}", "the normalizer is not supported"),
        ("\"merges\":[[", "\"merges\":[[\"a\"],[", "key model.merges: expected pairs of texts"),
        ("\"!\":0,", "\"!\":352,", "the tokenizer has 353 pieces"),
        ("\"!\":0,", "\"!\":1,", "are both token 1"),
    ];
    for (from, to, expected) in edits {
        let copy = Directory::of("llama3");
        // It is written with spaces; without them it reads the same.
        let text = fs::read_to_string(copy.path("tokenizer.json")).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        fs::write(copy.path("tokenizer.json"), value.to_string()).unwrap();
        copy.edit("tokenizer.json", from, to);
        let refusal = copy.refusal();
        assert!(refusal.starts_with("tokenizer.json: ") && refusal.contains(expected), "{to}: {refusal}");
    }
    let copy = Directory::of("llama2");
    let bytes = fs::read(copy.path("tokenizer.model")).unwrap();
    // Without optimization this takes long, and the settings at the end are what is worth each
    // byte.
    let step = if cfg!(debug_assertions) { 7 } else { 1 };
    let end = bytes.len() - 200;
    for len in (1..end).step_by(step).chain(end..bytes.len()) {
        fs::write(copy.path("tokenizer.model"), &bytes[..len]).unwrap();
        // A message may end after any field, but the settings come last.
        if let Err(error) = copy.open() {
            assert!(error.path().is_some(), "{error}");
        } else {
            assert!(len > bytes.len() - 100, "{len} of {} bytes", bytes.len());
        }
    }
}
