//! Conversations that a model file's own template lays out, over the bundled model.

use babyllama::chat::{ChatTemplate, JinjaTemplate, Message, Template, Variables, encode};
use babyllama::{Chat, ContextPolicy, ErrorKind, FinishReason, Model, SessionOptions, TokenId};
use serde_json::json;

use crate::common::{BUNDLED, greedy};

/// Earlier replies lose all but their last word, as others lose their thoughts.
const FORGETFUL: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} \
    {{ m.content.split(' ')[-1] }}\n{% else %}{{ m.role }}: {{ m.content }}\n{{ mood }}{% endif %}\
    {% endfor %}{% if add_generation_prompt %}A:{% endif %}";

fn model() -> Model {
    Model::open(BUNDLED).unwrap()
}

fn template(model: &Model, source: &str) -> JinjaTemplate {
    JinjaTemplate::new(source, model.tokenizer().unwrap()).unwrap()
}

fn rendered(chat: &Chat, question: &str) -> Vec<TokenId> {
    let ChatTemplate::Jinja(template) = chat.template() else { panic!("it is Jinja") };
    let messages = [chat.messages(), &[Message::user(question)]].concat();
    let parts = template.render(&messages, &Variables::new()).unwrap();
    encode(&parts, chat.session().model().tokenizer().unwrap()).unwrap()
}

#[test]
fn a_session_reads_what_the_template_renders_though_it_rewrites_history() {
    let model = model();
    let mut chat = Chat::new(model.session(), template(&model, FORGETFUL)).unwrap();
    chat.set_system(Some("Be brief."));
    for (i, question) in ["Who is Lily?", "And Tom?", "Why?"].into_iter().enumerate() {
        let ChatTemplate::Jinja(template) = chat.template_mut() else { panic!("it is Jinja") };
        template.variables_mut().insert("mood".into(), json!(["", "kind ", "kind "][i]));
        let expected = rendered(&chat, question);
        let held = chat.session().tokens().to_vec();
        let kept = held.iter().zip(&expected[..expected.len() - 1]).take_while(|(a, b)| a == b).count();
        assert!((i == 0) == (kept == 0));
        let mut sampler = greedy();
        let mut answer = chat.ask(question, &mut sampler).unwrap().max_tokens(6);
        assert_eq!(answer.n_prompt(), expected.len() - kept);
        answer.by_ref().for_each(|piece| drop(piece.unwrap()));
        drop(answer);
        assert_eq!(chat.session().tokens()[..expected.len()], expected);
        let mut fresh = model.session();
        assert_eq!(fresh.forward(chat.session().tokens()).unwrap(), chat.session().logits().unwrap());
    }
    let undone = chat.undo().unwrap();
    assert_eq!(undone[0].content, "Why?");
    assert!(chat.ask("Why?", &mut greedy()).unwrap().max_tokens(1).count() > 0);
}

#[test]
fn a_turn_begins_and_ends_as_the_template_has_it() {
    let model = model();
    // The words after a reply end it; the space before one is the template's.
    let source = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}\
                  {{ ' ' + m.content }} the {% endif %}{% endfor %}";
    let mut chat = Chat::new(model.session(), template(&model, source)).unwrap();
    let mut sampler = greedy();
    let mut answer = chat.ask("Once upon a time, Lily went to", &mut sampler).unwrap().max_tokens(90);
    answer.by_ref().for_each(|piece| drop(piece.unwrap()));
    assert_eq!(answer.finish_reason(), Some(FinishReason::StopString(0)));
    assert!(!answer.text().contains("the"));
    drop(answer);

    let mut chat = Chat::new(model.session(), template(&model, source)).unwrap();
    let answer = chat.ask("Once", &mut sampler).unwrap().begin_with(" upon a").unwrap().max_tokens(1);
    answer.for_each(|piece| drop(piece.unwrap()));
    let expected = model.tokenizer().unwrap().encode_prompt("Once upon a");
    assert_eq!(chat.session().tokens()[..expected.len()], expected);
}

#[test]
fn a_conversation_that_is_refused_is_unchanged() {
    let model = model();
    let source = "{% if messages | length > 1 %}{{ raise_exception('One turn!') }}{% endif %}{{ messages[0].content }}";
    let mut chat = Chat::new(model.session(), template(&model, source)).unwrap();
    chat.ask("Lily", &mut greedy()).unwrap().max_tokens(2).for_each(|piece| drop(piece.unwrap()));
    let error = chat.ask("Tom", &mut greedy()).map(drop).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ConversationRefused { reason } if reason == "One turn!"));
    assert_eq!(chat.messages().len(), 2);
}

#[test]
fn the_oldest_turns_are_dropped_with_a_template_too() {
    let model = model();
    let session = model.session_with(SessionOptions::new().context_length(96));
    let policy = ContextPolicy::DropOldest { reserve: 20 };
    let mut chat = Chat::new(session, template(&model, FORGETFUL)).unwrap().context_policy(policy);
    let mut n_dropped = 0;
    for _ in 0..9 {
        let mut sampler = greedy();
        let mut answer = chat.ask("Who is Lily, and who is Tom?", &mut sampler).unwrap().max_tokens(20);
        n_dropped += answer.dropped().len();
        answer.by_ref().for_each(|piece| drop(piece.unwrap()));
    }
    assert!(n_dropped > 0 && n_dropped + chat.messages().len() == 18);
}

#[test]
fn a_files_template_is_run_or_is_a_layout_by_its_name() {
    let model = model();
    let tokenizer = model.tokenizer().unwrap();
    let jinja = ChatTemplate::of_file("{{ messages[0].content }}", tokenizer).unwrap();
    assert_eq!(jinja.to_string(), "jinja");
    let named = ChatTemplate::of_file("chatml", tokenizer).unwrap();
    assert!(matches!(named, ChatTemplate::Layout(Template::ChatMl)));
    for (wrong, said) in [
        ("phi3", "the chat template, line 1: its name isn't known; no layout here is like it"),
        ("{% if %}", "the chat template, line 1: syntax error"),
    ] {
        let error = ChatTemplate::of_file(wrong, tokenizer).unwrap_err().to_string();
        assert!(error.starts_with(said), "{error}");
    }
    let error = Chat::with_own_template(model.session()).unwrap_err();
    assert_eq!(error.to_string(), "the chat template, line 1: the model file has none");
}
