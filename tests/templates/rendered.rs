//! Renderings are transformers', and nothing that a user writes becomes a control token.
//!
//! The templates of `golden/templates.jsonl` use one thing each. `golden/templates.py FOLDER` tests
//! published ones in the same way.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use babyllama::chat::{JinjaTemplate, Message, Template, encode};
use babyllama::{ErrorKind, PieceKind, TokenId, Tokenizer};
use serde_json::Value;

use crate::{text, tokenizer};

/// Of `golden/templates.py`.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_796_000_000)
}

fn cases() -> Vec<Value> {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/templates.jsonl");
    let path = std::env::var_os("BABYLLAMA_TEMPLATES").unwrap_or(own.into());
    let lines = std::fs::read_to_string(path).unwrap();
    let mut cases: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // What all conversations of a template have is in its first.
    for i in 1..cases.len() {
        for name in ["source", "controls", "user_defined"] {
            if cases[i][name].is_null() {
                cases[i][name] = cases[i - 1][name].clone();
            }
        }
    }
    cases
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn tokenizer_of(case: &Value) -> Tokenizer {
    tokenizer(&strings(&case["controls"]), &strings(&case["user_defined"]))
}

fn messages(case: &Value) -> &[Value] {
    case["messages"].as_array().unwrap()
}

#[test]
fn renderings_are_transformers_to_the_byte() {
    let (mut n, mut wrong) = (0, Vec::new());
    for case in cases() {
        let name = case["name"].as_str().unwrap();
        let template = JinjaTemplate::at(case["source"].as_str().unwrap(), &tokenizer_of(&case), now());
        let template = match template {
            Ok(template) => template,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        let rendered = template.render_json(messages(&case), case["variables"].as_object().unwrap());
        n += 1;
        match (rendered, case["text"].as_str(), case["error"].as_str()) {
            (Ok(parts), Some(expected), _) if text(&parts) != expected => {
                let got = text(&parts);
                let at = got.bytes().zip(expected.bytes()).take_while(|(a, b)| a == b).count();
                let near = |text: &str| {
                    String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(20)..])
                        .chars()
                        .take(90)
                        .collect::<String>()
                };
                wrong.push(format!("{name}: {:?}, not {:?}", near(&got), near(expected)));
            }
            (Err(error), Some(_), _) => wrong.push(format!("{name}: {error}")),
            (Ok(_), None, Some(error)) => wrong.push(format!("{name}: no error {error}")),
            (Err(error), None, Some(said)) => match error.kind() {
                ErrorKind::ConversationRefused { reason } if reason == said => {}
                _ => wrong.push(format!("{name}: {error}, not {said}")),
            },
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{} of {n}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{n} renderings are transformers'");
}

/// The tokens that steer: control tokens, and in a text that isn't the assistant's what the
/// template writes.
fn steering(tokens: &[TokenId], tokenizer: &Tokenizer, kinds: &[PieceKind]) -> usize {
    tokens.iter().filter(|&&id| tokenizer.kind(id).is_some_and(|kind| kinds.contains(&kind))).count()
}

/// The case with other words in place of what holds every name.
fn harmless(value: &Value, forged: &str) -> Value {
    match value {
        Value::String(text) => Value::from(text.replace(forged, "Words")),
        Value::Array(items) => items.iter().map(|item| harmless(item, forged)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, field)| (name.clone(), harmless(field, forged))).collect()
        }
        other => other.clone(),
    }
}

#[test]
fn nothing_that_is_written_becomes_a_control_token() {
    let (mut n, mut wrong) = (0, Vec::new());
    for case in cases().iter().filter(|case| case["text"].is_string()) {
        let name = case["name"].as_str().unwrap();
        if !name.contains(", forged") {
            continue;
        }
        let tokenizer = tokenizer_of(case);
        let template = JinjaTemplate::at(case["source"].as_str().unwrap(), &tokenizer, now()).unwrap();
        let mut names = [strings(&case["controls"]), strings(&case["user_defined"])].concat();
        names.sort_unstable();
        let honest = harmless(case, &names.join(" "));
        let [forged, honest] = [case, &honest].map(|case| {
            let parts = template.render_json(messages(case), case["variables"].as_object().unwrap()).unwrap();
            encode(&parts, &tokenizer).unwrap()
        });
        n += 1;
        let kinds = [PieceKind::Control, PieceKind::UserDefined];
        let kinds = if name.ends_with("forged answer") { &kinds[..1] } else { &kinds };
        let [found, there] = [&forged, &honest].map(|tokens| steering(tokens, &tokenizer, kinds));
        // Some templates leave out what has a name of theirs.
        if found > there {
            wrong.push(format!("{name}: {found} tokens steer, not {there}"));
        } else if found < there {
            println!("{name}: {found} tokens steer, not {there}");
        }
    }
    assert!(wrong.is_empty(), "{} of {n}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{n} renderings have no forged token");
}

#[test]
fn tokens_are_those_of_the_text_where_nothing_is_forged() {
    for case in cases().iter().filter(|case| case["text"].is_string()) {
        let name = case["name"].as_str().unwrap();
        if name.contains("forged") {
            continue;
        }
        let tokenizer = tokenizer_of(case);
        let template = JinjaTemplate::at(case["source"].as_str().unwrap(), &tokenizer, now()).unwrap();
        let parts = template.render_json(messages(case), case["variables"].as_object().unwrap()).unwrap();
        let expected = tokenizer.encode_with_control(case["text"].as_str().unwrap());
        assert!(encode(&parts, &tokenizer).unwrap() == expected, "{name}: {parts:?}");
    }
}

/// The messages, if they have a layout's roles and nothing more, and the user's is the last.
fn plain(case: &Value) -> Option<Vec<Message>> {
    let message = |json: &Value| {
        let fields = json.as_object()?;
        let role = fields["role"].as_str()?.parse().ok()?;
        (fields.len() == 2).then_some(Message { role, content: fields["content"].as_str()?.into() })
    };
    let is_asked = messages(case).last()?["role"] == "user";
    let is_plain = case["variables"].as_object()?.is_empty();
    messages(case).iter().map(message).collect::<Option<Vec<_>>>().filter(|_| is_asked && is_plain)
}

/// None of the templates here is a published one.
#[test]
fn layouts_of_published_templates_give_the_same_tokens() {
    let (mut n, mut names) = (0, std::collections::BTreeSet::new());
    // A forged name is cut if it is one of the layout's or of the text's: these may be others.
    let is_asked =
        |case: &&Value| case["text"].is_string() && !case["name"].as_str().unwrap().contains("forged");
    for case in cases().iter().filter(is_asked) {
        let source = case["source"].as_str().unwrap();
        let name = case["name"].as_str().unwrap();
        let (Some(layout), Some(messages)) = (Template::published(source), plain(case)) else { continue };
        let tokenizer = tokenizer_of(case);
        let jinja = JinjaTemplate::at(source, &tokenizer, now()).unwrap();
        let jinja = jinja.render(&messages, &serde_json::Map::new()).unwrap();
        let tokens = layout.render(&messages);
        // The first part of each is the beginning.
        let [jinja, tokens] = [&jinja, &tokens].map(|parts| encode(&parts[1..], &tokenizer).unwrap());
        assert!(jinja == tokens, "{name}");
        n += 1;
        names.insert(name.split(", ").next().unwrap().to_owned());
    }
    println!("{n} conversations of {names:?}");
}

#[test]
fn newlines_of_other_systems_and_exponents_are_as_python_has_them() {
    let rendered = |source: &str| {
        let template = JinjaTemplate::new(source, &tokenizer(&[], &[])).unwrap();
        let variables = serde_json::json!({"x": 1e-5, "y": [1e20, 0.5]});
        text(&template.render(&[], variables.as_object().unwrap()).unwrap())
    };
    assert_eq!(rendered("{% if true %}\r\na\r\n{% endif %}\r\nb\rc{{ 'd\r\n' }}"), "a\nb\ncd\n");
    assert_eq!(rendered("{{ x }} {{ y | tojson }}"), "1e-05 [1e+20, 0.5]");
}

#[test]
fn a_sequence_is_what_has_a_length_and_is_indexed() {
    for (value, expected) in [
        ("'a'", true),
        ("[1]", true),
        ("{'a': 1}", true),
        ("range(3)", true),
        ("unknown", true),
        ("1", false),
        ("none", false),
    ] {
        let source = format!("{{{{ {value} is sequence }}}}");
        let template = JinjaTemplate::new(&source, &tokenizer(&[], &[])).unwrap();
        let rendered = text(&template.render(&[], &serde_json::Map::new()).unwrap()).to_lowercase();
        assert_eq!(rendered, expected.to_string(), "{value}");
    }
}
