//! Byte-level tokenizers, and tokens that files beside `tokenizer.json` name: they are what
//! transformers makes of them, refused by name, or noted.

use babyllama::convert::Source;
use serde_json::{Map, Value, json};

use crate::Directory;
use crate::tokenizers::{patched, tokens};

/// A byte-level `tokenizer.json`, changed by a patch.
fn byte_level(patch: &Value) -> Value {
    let stays = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0x100..;
    let mut vocab = Map::new();
    for byte in 0..=u8::MAX {
        let c = if stays(byte) { u32::from(byte) } else { others.next().unwrap() };
        vocab.insert(char::from_u32(c).unwrap().to_string(), byte.into());
    }
    let value = json!({"model": {"type": "BPE", "vocab": vocab, "merges": []},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false}});
    patched(&value, patch)
}

#[test]
fn byte_level_tokenizers_may_have_normalizers_that_most_texts_passed() {
    let directory = Directory::without_tokenizer();
    let of = |patch: &Value| {
        directory.write("tokenizer.json", byte_level(patch).to_string());
        directory.open().map(|source| source.notes().join("\n")).map_err(|e| e.to_string())
    };
    assert_eq!(of(&json!({})).unwrap(), "");
    assert!(of(&json!({"normalizer": {"type": "NFC"}})).unwrap().contains("with decomposed characters"));
    // Of tokenizers: e and U+0301 are one character, whose bytes these are.
    assert_eq!(tokens(&directory, "e\u{301}"), tokens(&directory, "\u{e9}"));
    assert_eq!(tokens(&directory, "e\u{301}").len(), 2);
    of(&json!({})).unwrap();
    assert_eq!(tokens(&directory, "e\u{301}").len(), 3);
    for kind in ["NFKC", "NFD", "Lowercase"] {
        assert!(of(&json!({"normalizer": {"type": kind}})).unwrap_err().contains(kind));
    }
    // A name in GGUF says both how words are found and whether they may be pieces as they are.
    let whole = of(&json!({"model": {"ignore_merges": true}})).unwrap_err();
    assert!(whole.contains("model.ignore_merges is true: GGUF's name"), "{whole}");
    // Without a normalizer, tokens of the normalized text are found in the text.
    let token = json!({"id": 256, "content": "a b", "special": false, "normalized": true});
    of(&json!({"added_tokens": [token]})).unwrap();
    assert_eq!(tokens(&directory, "xa b"), [u32::from(b'x'), 256]);
}

#[test]
fn names_of_special_tokens_are_in_the_vocabulary() {
    let directory = Directory::without_tokenizer();
    let tokens = ["<|a|>", "<|b|>"].into_iter().zip(256..);
    let tokens: Vec<Value> =
        tokens.map(|(text, id)| json!({"id": id, "content": text, "special": true})).collect();
    directory.write("tokenizer.json", byte_level(&json!({"added_tokens": tokens})).to_string());
    let of = |config: Value, map: Value| {
        directory.write("tokenizer_config.json", config.to_string());
        directory.write("special_tokens_map.json", map.to_string());
        directory.open().map_err(|e| e.to_string())
    };
    let eos = |source: &Source| source.tokenizer().unwrap().unwrap().eos();
    // The map counts where tokenizer_config.json says nothing, as in transformers.
    let source = of(json!({}), json!({"eos_token": {"content": "<|b|>"}})).unwrap();
    assert_eq!((eos(&source), source.notes().join("\n").as_str()), (Some(257), ""));
    let source = of(json!({"eos_token": "<|a|>"}), json!({"eos_token": "<|b|>"})).unwrap();
    assert_eq!(eos(&source), Some(256));
    assert!(source.notes().join("\n").contains("\"<|a|>\", which counts, and special_tokens_map.json says"));
    // transformers makes tokens of names that the vocabulary hasn't: the model has room for 352.
    for (file, config, map) in [
        ("tokenizer_config.json", json!({"eos_token": "<|c|>"}), json!({})),
        ("special_tokens_map.json", json!({}), json!({"bos_token": {"content": "<|c|>"}})),
    ] {
        let refusal = of(config, map).unwrap_err();
        assert!(refusal.contains(file) && refusal.contains("adds it as token 258"), "{refusal}");
    }
    for named in [
        json!({"additional_special_tokens": ["<|a|>", "<|c|>"]}),
        json!({"extra_special_tokens": {"image_token": "<|c|>"}}),
        json!({"pad_token": "<|c|>"}),
    ] {
        let source = of(named, json!({})).unwrap();
        assert!(source.notes().join("\n").contains("\"<|c|>\", which is no token"), "{:?}", source.notes());
    }
    // Classes that put a space before each text.
    let gpt2 = json!({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": true});
    assert!(of(gpt2, json!({})).unwrap_err().contains("add_prefix_space is true"));
    of(json!({"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": true}), json!({})).unwrap();
}

#[test]
fn an_added_token_takes_no_piece_of_text_away() {
    let directory = Directory::without_tokenizer();
    directory.write("tokenizer.json", byte_level(&json!({})).to_string());
    let of = |added: Value| {
        directory.write("added_tokens.json", added.to_string());
        directory.open().map(drop).map_err(|e| e.to_string())
    };
    of(json!({"<|a|>": 256, "a": 97})).unwrap();
    let refusal = of(json!({"<|a|>": 97})).unwrap_err();
    assert!(
        refusal.contains("added_tokens.json: ") && refusal.contains("in the vocabulary it is \"a\""),
        "{refusal}"
    );
}
