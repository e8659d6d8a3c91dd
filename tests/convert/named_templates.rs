//! Templates that have names: carried to the byte however they are written down, chosen by name,
//! and chosen for tools as transformers does.

use babyllama::chat::{ChatTemplate, Part, Template};
use babyllama::convert::{GgufOptions, Source};
use babyllama::{Chat, ErrorKind, Model, ModelOptions};
use serde_json::{Map, Value, json};

use crate::common::{BUNDLED, assert_says, golden_bytes};
use crate::{Directory, gguf};

type Templates = Vec<(String, String)>;

/// Models with these templates, from a directory in each of the spellings, and from GGUF to GGUF.
fn models(templates: &Templates) -> Vec<Model> {
    let list: Vec<Value> =
        templates.iter().map(|(name, text)| json!({"name": name, "template": text})).collect();
    let directory = |config: &str, template: Value| {
        let directory = Directory::of("llama3");
        for name in ["tokenizer_config.json", "chat_template.json"] {
            let bytes = std::fs::read(directory.path(name)).unwrap_or(b"{}".into());
            let mut said: Map<String, Value> = serde_json::from_slice(&bytes).unwrap();
            said.remove("chat_template");
            said.extend((name == config).then(|| ("chat_template".into(), template.clone())));
            directory.write(name, Value::Object(said).to_string());
        }
        directory
    };
    let files = directory("tokenizer_config.json", json!("not this one"));
    std::fs::create_dir(files.path("additional_chat_templates")).unwrap();
    for (name, text) in templates {
        let own = format!("additional_chat_templates/{name}.jinja");
        files.write(if name == "default" { "chat_template.jinja" } else { &own }, text);
    }
    let listed = ["tokenizer_config.json", "chat_template.json"].map(|name| directory(name, json!(list)));
    let directories = listed.into_iter().chain([files]);
    let mut models = Vec::new();
    for directory in directories {
        let bytes = gguf(&directory.open().unwrap(), &GgufOptions::new());
        let source = Source::from_bytes(bytes.clone(), &ModelOptions::new()).unwrap();
        let again = gguf(&source, &GgufOptions::new());
        models.extend([bytes, again].map(|bytes| Model::from_bytes(bytes).unwrap()));
    }
    models
}

#[test]
fn all_templates_are_carried_to_the_byte_and_found_by_name() {
    let texts =
        [("default", "{{ 1 }}\r\n\n"), ("rag", " {{ messages }}\u{1f999}\t"), ("tool_use", "{# 東京 #}\n")];
    let expected: Templates = texts.map(|(name, text)| (name.into(), text.into())).into();
    for model in models(&expected) {
        assert_eq!(model.chat_template_names(), ["default", "rag", "tool_use"]);
        for (name, text) in &expected {
            assert_eq!(model.chat_template_named(name).unwrap().as_bytes(), text.as_bytes());
        }
        for error in [model.chat_template_named("x").map(drop), ChatTemplate::named(&model, "x").map(drop)] {
            let error = error.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::InvalidOption { name: "chat_template", .. }));
            assert_says(
                &error.to_string(),
                &["= x: must be one of the model file's: default, rag, tool_use"],
            );
        }
    }
    let model = Model::open(BUNDLED).unwrap();
    let missing = model.chat_template_named("rag").unwrap_err();
    assert_says(&missing.to_string(), &["= rag: the model file has no templates"]);
    let missing = ChatTemplate::of_model(&model).unwrap_err();
    assert_says(&missing.to_string(), &["the model file has none"]);
}

#[test]
fn layouts_are_chosen_by_name_too() {
    let templates = [("default", "llama3"), ("short", "chatml"), ("tool_use", "{{ tools }}")];
    let templates: Templates = templates.map(|(name, text)| (name.into(), text.into())).into();
    let model = models(&templates).remove(0);
    let default = ChatTemplate::of_model(&model).unwrap();
    assert!(matches!(default, ChatTemplate::Layout(Template::Llama3)));
    let short = ChatTemplate::named(&model, "short").unwrap();
    assert!(matches!(short, ChatTemplate::Layout(Template::ChatMl)));
    assert_eq!(Chat::new(model.session(), short).unwrap().template().to_string(), "chatml");
}

/// A rendering as Jinja gives it.
fn text(parts: &[Part]) -> String {
    let say = |part: &Part| match part {
        Part::Begin | Part::Cut => String::new(),
        Part::Control(name) => name.to_string(),
        Part::Text(text) => text.clone(),
        _ => panic!("{part:?}"),
    };
    parts.iter().map(say).collect()
}

#[test]
fn a_template_is_chosen_by_name_or_for_tools_as_transformers_does() {
    let golden = String::from_utf8(golden_bytes("named_templates.jsonl")).unwrap();
    let (mut set, mut n) = (Vec::new(), 0);
    for line in golden.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        if let Some(templates) = case["templates"].as_object() {
            let text = |(name, text): (&String, &Value)| (name.clone(), text.as_str().unwrap().to_owned());
            set = models(&templates.iter().map(text).collect());
            continue;
        }
        for model in &set {
            let template = match case["name"].as_str() {
                Some(name) => ChatTemplate::named(model, name).unwrap(),
                None if model.chat_template().is_some() => ChatTemplate::of_model(model).unwrap(),
                None => {
                    // Refused even with tools: whether there are any isn't known yet.
                    let error = ChatTemplate::of_model(model).unwrap_err();
                    assert_says(&error.to_string(), &["none that is the default, only rag, tool_use"]);
                    continue;
                }
            };
            let ChatTemplate::Jinja(mut template) = template else { panic!("{case}") };
            let (messages, variables) = (case["messages"].as_array().unwrap(), case["variables"].as_object());
            let variables = variables.unwrap();
            let given = template.render_json(messages, variables).unwrap();
            assert_eq!(text(&given), case["text"].as_str().unwrap(), "{case}");
            // The template's own variables count in the same way.
            *template.variables_mut() = variables.clone();
            assert_eq!(template.render_json(messages, &Map::new()).unwrap(), given);
            n += 1;
        }
    }
    assert_eq!(n, 6 * 27);
}

#[test]
fn a_bad_template_for_tools_counts_only_with_tools() {
    let templates = [("default", "{{ messages[0].content }}"), ("tool_use", "\n{% for %}")];
    let templates: Templates = templates.map(|(name, text)| (name.into(), text.into())).into();
    let model = models(&templates).remove(0);
    let ChatTemplate::Jinja(template) = ChatTemplate::of_model(&model).unwrap() else {
        panic!("it is Jinja")
    };
    let messages = [json!({"role": "user", "content": "Hi"})];
    assert_eq!(text(&template.render_json(&messages, &Map::new()).unwrap()), "Hi");
    let tools = [("tools".to_owned(), json!([]))].into_iter().collect();
    let error = template.render_json(&messages, &tools).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ChatTemplate { line: 2, .. }), "{error}");
    assert_says(&error.to_string(), &["that for tools: syntax error"]);
    assert!(ChatTemplate::named(&model, "tool_use").is_err());
}
