//! The layouts beside what their makers' texts and llama.cpp render: `tests/golden/layouts.jsonl`,
//! which `layouts.py` there makes.

use serde_json::{Map, Value};

use super::tokens::tokenizer;
use super::*;
use crate::tokenizer::PieceKind;

/// The conversations by their titles, and the lines of the layouts.
fn golden() -> (Map<String, Value>, Vec<Value>) {
    let text = include_str!("../../../tests/golden/layouts.jsonl");
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (lines.remove(0).as_object().unwrap().clone(), lines)
}

fn messages(conversation: &Value) -> Vec<Message> {
    let message = |said: &Value| {
        let text = |name: &str| said[name].as_str().unwrap().to_owned();
        Message { role: text("role").parse().unwrap(), content: text("content") }
    };
    conversation.as_array().unwrap().iter().map(message).collect()
}

/// A rendering as Jinja gives it, without the BOS at its beginning.
fn text(template: Template, conversation: &Value) -> String {
    template.render(&messages(conversation)).into_iter().skip(1).map(say).collect()
}

/// The renderings by the titles of the conversations; null if one is refused.
fn texts(line: &Value) -> impl Iterator<Item = (&String, &Value)> {
    line["texts"].as_object().unwrap().iter()
}

#[test]
fn published_texts_are_rendered_as_jinja2_does() {
    let (conversations, lines) = golden();
    let mut hashes = Vec::new();
    for line in lines.iter().filter(|line| line["template"].is_string()) {
        let is_it = |template: &&Template| format!("{template:?}") == line["template"].as_str().unwrap();
        let &template = Template::ALL.iter().find(is_it).unwrap();
        assert!(texts(line).count() + 1 >= conversations.len());
        for (title, expected) in texts(line) {
            if template.takes_system() || conversations[title][0]["role"] != "system" {
                assert_eq!(text(template, &conversations[title]), *expected, "{template}, {title}");
            } else {
                assert!(expected.is_null(), "{template}, {title}");
            }
        }
        let hash = |hash: &Value| u64::from_str_radix(hash.as_str().unwrap(), 16).unwrap();
        hashes.extend(line["hashes"].as_array().unwrap().iter().map(|it| (hash(it), template)));
    }
    let mut published = detect::PUBLISHED;
    published.sort_unstable_by_key(|it| it.0);
    hashes.sort_unstable_by_key(|it| it.0);
    assert_eq!(hashes, published);
}

/// Where llama.cpp has a space, SentencePiece puts one: before any text but an empty one.
#[test]
fn templates_by_llama_cpps_names_are_rendered_as_it_does() {
    let (conversations, lines) = golden();
    let tokenizer = tokenizer(PieceKind::Control);
    let mut names = Vec::new();
    for line in lines.iter().filter(|line| line["name"].is_string()) {
        let name = line["name"].as_str().unwrap();
        let template: Template = name.parse().unwrap();
        assert_eq!(Template::detect(name), Some(template));
        names.push((name, template));
        let has_spaces = ["mistral-v1", "mistral-v3", "mistral-v7"].contains(&name);
        for (title, expected) in texts(line) {
            let conversation = &conversations[title];
            if !has_spaces {
                assert_eq!(text(template, conversation), *expected, "{name}, {title}");
            } else if !["empty system", "nothing"].contains(&title.as_str()) {
                let tokens = encode(&template.render(&messages(conversation)), &tokenizer).unwrap();
                // Each token's piece as it stands in the vocabulary, without BOS.
                let piece = |&token: &TokenId| match tokenizer.kind(token) {
                    Some(PieceKind::Byte) => tokenizer.bytes(token).to_vec(),
                    _ => tokenizer.piece(token).unwrap_or_default().to_vec(),
                };
                let text: Vec<u8> = tokens[1..].iter().flat_map(piece).collect();
                let text = String::from_utf8(text).unwrap().replace('\u{2581}', " ");
                assert_eq!(text, *expected, "{name}, {title}");
            }
        }
    }
    assert_eq!(names, detect::NAMES);
}

#[test]
fn a_layout_without_a_place_for_a_system_prompt_refuses_one() {
    let tokenizer = tokenizer(PieceKind::Control);
    let messages = [Message::system(""), Message::user("Q")];
    for &template in Template::ALL {
        let tokens = ChatTemplate::from(template).tokens(&messages, "", None, &tokenizer);
        let refused = tokens.map_err(|error| error.to_string()).err();
        let expected = format!(
            "the chat template refuses the conversation: the layout {template} has no place for a system prompt"
        );
        assert_eq!(refused, (!template.takes_system()).then_some(expected));
    }
    assert!(!Template::Mixtral.takes_system());
}

/// `ChatML`, as `OpenHermes` 2.5 has it.
const TEXT: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + \
                    message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if \
                    add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// The text with one more space, line's end or other character in each place.
fn changed() -> impl Iterator<Item = String> {
    let at = |at: usize| [" ", "\n", "-", "x"].map(|more| [&TEXT[..at], more, &TEXT[at..]].concat());
    // An end of line after a tag of a block isn't rendered.
    (0..=TEXT.len()).flat_map(at).filter(|text| text.strip_suffix('\n') != Some(TEXT))
}

#[test]
fn published_texts_are_known_to_the_character() {
    for end in ["", "\n", "\n\n"] {
        assert_eq!(Template::published(&format!("{TEXT}{end}")), Some(Template::ChatMl), "{end:?}");
    }
    for text in changed().chain([format!("{TEXT}\n\n\n"), format!("{TEXT} \n"), String::new()]) {
        assert_eq!(Template::published(&text), None, "{text}");
    }
}

#[cfg(not(feature = "jinja"))]
#[test]
fn texts_that_may_differ_are_refused_by_name() {
    let tokenizer = tokenizer(PieceKind::Control);
    let template = ChatTemplate::of_file(TEXT, &tokenizer).unwrap();
    assert!(matches!(template, ChatTemplate::Layout(Template::ChatMl)));
    for text in changed() {
        let error = ChatTemplate::of_file(&text, &tokenizer).unwrap_err().to_string();
        assert!(error.contains("it is Jinja, which needs the feature jinja; "), "{text}: {error}");
    }
    let dated = "{{ '<|start_header_id|><|end_header_id|>Cutting Knowledge Date: ' + strftime_now('%d') }}";
    let error = ChatTemplate::of_file(dated, &tokenizer).unwrap_err().to_string();
    assert!(error.ends_with("; the layout llama3.1 is near, but may differ"), "{error}");
}
