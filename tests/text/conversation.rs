//! Conversations over the bundled model.

use babyllama::chat::{ChatTemplate, Message, Template, encode};
use babyllama::{Chat, ErrorKind, FinishReason, Model, Sampler, SamplerOptions, SessionOptions, TokenId};

use crate::common::{BUNDLED, SplitMix64, greedy, refuses};

fn model() -> Model {
    Model::open(BUNDLED).unwrap()
}

/// Asks, and gives the answer, its tokens and why it ended.
fn ask(chat: &mut Chat, question: &str, n: usize) -> (String, Vec<u32>, Option<FinishReason>) {
    let mut sampler = greedy();
    let mut answer = chat.ask(question, &mut sampler).unwrap().max_tokens(n);
    let (mut text, mut tokens) = (String::new(), Vec::new());
    for piece in answer.by_ref() {
        let piece = piece.unwrap();
        text += piece.as_str();
        tokens.extend(piece.token());
    }
    assert_eq!(text, answer.text());
    let reason = answer.finish_reason();
    (text, tokens, reason)
}

/// The tokens that a session should have read when a conversation with this question is answered.
fn rendered(chat: &Chat, question: &str) -> Vec<TokenId> {
    let messages = [chat.messages(), &[Message::user(question)]].concat();
    let tokenizer = chat.session().model().tokenizer().unwrap();
    let &ChatTemplate::Layout(layout) = chat.template() else { panic!("a layout was given") };
    encode(&layout.render(&messages), tokenizer).unwrap()
}

#[test]
fn a_session_reads_the_conversation_as_laid_out_and_nothing_twice() {
    let model = model();
    for &template in Template::ALL {
        let mut chat = Chat::new(model.session(), template).unwrap();
        for question in ["Who is Lily?", "And Tom?", "Why?"] {
            let expected = rendered(&chat, question);
            let held = chat.session().tokens().to_vec();
            let kept = held.iter().zip(&expected[..expected.len() - 1]).take_while(|(a, b)| a == b).count();
            let mut sampler = greedy();
            let mut answer = chat.ask(question, &mut sampler).unwrap().max_tokens(6);
            assert_eq!(answer.n_prompt(), expected.len() - kept, "{template}");
            answer.by_ref().for_each(|piece| drop(piece.unwrap()));
            drop(answer);
            assert_eq!(chat.session().tokens()[..expected.len()], expected, "{template}");
            let mut fresh = model.session();
            let logits = fresh.forward(chat.session().tokens()).unwrap();
            assert_eq!(logits, chat.session().logits().unwrap(), "{template}");
        }
        // A conversation that was saved gives the same; in its own session only what is new is
        // read.
        let messages = chat.messages().to_vec();
        let expected = rendered(&chat, "Where?");
        let mut loaded = Chat::new(model.session(), template).unwrap();
        loaded.set_messages(messages.clone()).unwrap();
        assert_eq!(loaded.ask("Where?", &mut greedy()).unwrap().n_prompt(), expected.len());
        let (text, ..) = ask(&mut loaded, "Where?", 6);
        assert_eq!(loaded.session().tokens()[..expected.len()], expected, "{template}");
        let mut adopted = Chat::new(loaded.into_session(), template).unwrap();
        adopted.set_messages(messages).unwrap();
        assert_eq!(adopted.ask("Where?", &mut greedy()).unwrap().n_prompt(), 1, "only for its logits");
        assert_eq!(ask(&mut adopted, "Where?", 6).0, text, "{template}");
    }
}

#[test]
fn turns_are_taken_back_and_answered_anew_as_if_they_had_never_been() {
    let model = model();
    for &template in Template::ALL.iter().filter(|template| template.takes_system()) {
        let mut chat = Chat::new(model.session(), template).unwrap();
        chat.set_system(Some("Be brief."));
        ask(&mut chat, "Who is Lily?", 6);
        let first = chat.messages().to_vec();
        let (wrong, ..) = ask(&mut chat, "And Tom?", 6);
        assert_eq!(chat.undo(), Some([Message::user("And Tom?"), Message::assistant(wrong)]));
        assert_eq!(chat.messages(), first);
        let whole = encode(&template.render(&first), model.tokenizer().unwrap()).unwrap();
        assert!(whole.starts_with(chat.session().tokens()), "{template}: nothing of it is left");

        let (text, ..) = ask(&mut chat, "And Sue?", 6);
        let mut fresh = Chat::new(model.session(), template).unwrap();
        fresh.set_messages(first.clone()).unwrap();
        assert_eq!(ask(&mut fresh, "And Sue?", 6).0, text, "{template}");
        assert_eq!(chat.session().tokens(), fresh.session().tokens(), "{template}");
        assert_eq!(chat.messages(), fresh.messages());

        // Again, and again with another seed: no question is read again.
        for seed in 0..3 {
            let options = SamplerOptions::new().seed(seed).repetition_penalty(1.3).dry_multiplier(0.8);
            let mut sampler = Sampler::new(options.clone());
            let answer = chat.regenerate(&mut sampler).unwrap().max_tokens(6);
            assert_eq!(answer.n_prompt(), 1, "{template}");
            answer.for_each(|piece| drop(piece.unwrap()));
            fresh.undo().unwrap();
            let mut sampler = Sampler::new(options);
            let answer = fresh.ask("And Sue?", &mut sampler).unwrap().max_tokens(6);
            let said: String = answer.map(|piece| piece.unwrap().to_string()).collect();
            assert_eq!(chat.messages().last().unwrap().content, said, "{template} {seed}");
            assert_eq!(chat.session().tokens(), fresh.session().tokens(), "{template} {seed}");
            assert_eq!(chat.messages().len(), 5);
        }
        assert!(chat.undo().is_some() && chat.undo().is_some());
        assert!(chat.undo().is_none(), "the system prompt stays");
        assert_eq!((chat.messages().len(), chat.system()), (1, Some("Be brief.")));
        let error = chat.regenerate(&mut greedy()).map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "option messages = none: there is no assistant turn to generate again");
    }
}

#[test]
fn an_answer_that_is_replaced_stays_until_the_new_one_begins() {
    let model = model();
    let mut chat = Chat::new(model.session(), Template::Zephyr).unwrap();
    let long = "Who is Lily? ".repeat(30);
    let (text, ..) = ask(&mut chat, &long, 3);
    let mut sampler = greedy();
    drop(chat.regenerate(&mut sampler).unwrap());
    assert_eq!(chat.messages()[1].content, text);
    let mut whole = Chat::new(model.session(), Template::Zephyr).unwrap();
    whole.set_messages(chat.messages().to_vec()).unwrap();
    let mut answer = whole.regenerate(&mut sampler).unwrap();
    answer.next().unwrap().unwrap();
    assert!(!answer.has_begun());
    drop(answer);
    assert_eq!(whole.messages(), chat.messages());
}

#[test]
fn an_answer_begins_with_the_words_that_are_given() {
    let model = model();
    let tokenizer = model.tokenizer().unwrap();
    for &template in Template::ALL {
        for (words, shown) in [
            ("Once upon a", "Once upon a"),
            (" Lily ", "Lily"),
            ("", ""),
            ("1. ", "1."),
            ("\u{e9}", "\u{e9}"),
        ] {
            let mut chat = Chat::new(model.session(), template).unwrap();
            ask(&mut chat, "Tell!", 4);
            let mut expected = rendered(&chat, "More!");
            if !words.is_empty() {
                let mut parts = template.render(&[chat.messages(), &[Message::user("More!")]].concat());
                parts.extend(template.assistant_start(words.trim_start()));
                expected = encode(&parts, tokenizer).unwrap();
            }
            let mut sampler = greedy();
            let mut answer =
                chat.ask("More!", &mut sampler).unwrap().begin_with(words).unwrap().max_tokens(5);
            let n_prompt = answer.n_prompt();
            let said: String = answer.by_ref().map(|piece| piece.unwrap().to_string()).collect();
            assert_eq!(said, answer.text());
            assert_eq!(answer.n_generated(), 5);
            drop(answer);
            assert!(said.starts_with(shown), "{template}: {said:?}");
            assert!(n_prompt <= expected.len());
            assert_eq!(chat.session().tokens()[..expected.len()], expected, "{template} {words:?}");
            assert_eq!(chat.messages().last().unwrap().content, said);
            // What was begun is a beginning of the whole: the words stand where the answer would.
            let mut fresh = Chat::new(model.session(), template).unwrap();
            fresh.set_messages(chat.messages().to_vec()).unwrap();
            let whole = rendered(&fresh, "Why?");
            let next = ask(&mut chat, "Why?", 3).0;
            assert_eq!(chat.session().tokens()[..whole.len()], whole, "{template}");
            assert_eq!(ask(&mut fresh, "Why?", 3).0, next, "{template}");
        }
    }
}

#[test]
fn words_to_begin_with_are_refused_where_they_cannot_be() {
    let model = model();
    let session = model.session_with(SessionOptions::new().context_length(64));
    let mut chat = Chat::new(session, Template::Llama2).unwrap();
    let mut sampler = greedy();
    refuses!(
        chat.ask("Lily?", &mut sampler).unwrap().begin_with(&"long ".repeat(60)),
        ErrorKind::ContextFull { capacity: 64, .. }
    );
    let mut answer = chat.ask("Lily?", &mut sampler).unwrap();
    answer.next().unwrap().unwrap();
    refuses!(answer.begin_with("Once"), ErrorKind::InvalidOption { name: "begin_with", .. });
    // Words alone are an answer, too.
    let answer = chat.regenerate(&mut sampler).unwrap().begin_with("Once").unwrap().max_tokens(0);
    answer.for_each(|piece| drop(piece.unwrap()));
    assert_eq!(chat.messages()[1].content, "Once");
    // And a stop string in them doesn't count.
    let mut chat = chat.stop("nce");
    let answer = chat.regenerate(&mut sampler).unwrap().begin_with("Once").unwrap().max_tokens(1);
    answer.for_each(|piece| drop(piece.unwrap()));
    assert!(chat.messages()[1].content.len() > 4, "{:?}", chat.messages());
}

/// Whatever is done to a conversation and wherever answers are dropped, the next answer is a fresh
/// chat's.
#[test]
fn any_history_of_a_chat_leads_to_what_a_fresh_one_gives() {
    let model = model();
    let mut random = SplitMix64::new(7);
    for &template in Template::ALL {
        let mut chat = Chat::new(model.session(), template).unwrap().stop(".");
        for step in 0..if cfg!(debug_assertions) { 5 } else { 8 } {
            let n = random.below(3);
            let mut sampler = Sampler::new(SamplerOptions::new().seed(step));
            let question = ["Who?", "And Tom? ".repeat(60).as_str(), "Why \u{e9}?"][n].to_string();
            match random.below(7) {
                0 => drop(chat.undo()),
                1 => {
                    let system = [None, Some("Be brief."), Some("Be kind.")][n];
                    chat.set_system(system.filter(|_| template.takes_system()));
                }
                2 => drop(chat.ask(&question, &mut sampler).map(|answer| answer.take(n).for_each(drop))),
                3 => drop(chat.regenerate(&mut sampler).map(|answer| answer.take(n).for_each(drop))),
                4 => {
                    let answer =
                        chat.ask(&question, &mut sampler).and_then(|answer| answer.begin_with("Once"));
                    drop(answer.map(|answer| answer.take(n + 1).for_each(drop)));
                }
                5 => {
                    let mut messages = chat.messages().to_vec();
                    if let Some(last) = messages.last_mut() {
                        last.content.truncate(0);
                        chat.set_messages(messages).unwrap_or(());
                    }
                }
                _ => drop(ask(&mut chat, "Hm?", 9)),
            }
            if chat.session().position() > 350 {
                chat.reset();
            }
            let expected = rendered(&chat, "So?");
            let mut fresh = Chat::new(model.session(), template).unwrap().stop(".");
            fresh.set_messages(chat.messages().to_vec()).unwrap();
            if expected.len() < 400 {
                assert_eq!(ask(&mut fresh, "So?", 4).0, ask(&mut chat, "So?", 4).0, "{template} {step}");
                assert_eq!(chat.session().tokens(), fresh.session().tokens(), "{template} {step}");
                assert_eq!(chat.session().tokens()[..expected.len()], expected, "{template} {step}");
                chat.undo().unwrap();
            }
        }
    }
}

#[test]
fn answer_that_is_dropped_can_be_followed_by_another() {
    let model = model();
    let mut chat = Chat::new(model.session(), Template::Llama2).unwrap();
    let mut sampler = greedy();
    let long = "Who is Lily? ".repeat(30);
    let mut answer = chat.ask(&long, &mut sampler).unwrap();
    answer.next().unwrap().unwrap();
    assert!(!answer.has_begun());
    drop(answer);
    assert_eq!((chat.messages().len(), chat.session().position()), (0, 0), "the question was taken back");
    drop(chat.ask("Lily?", &mut sampler).unwrap().take(4).collect::<Vec<_>>());
    assert_eq!(chat.messages().len(), 2);
    let before = chat.session().position();
    let (_, expected, _) = ask(&mut chat, "Tom?", 3);
    assert_eq!(expected.len(), 3);
    assert!(chat.session().position() > before);
    chat.reset();
    assert_eq!((chat.messages().len(), chat.session().position()), (0, 0));
}

#[test]
fn full_context_leaves_the_conversation_as_it_was() {
    let model = model();
    let session = model.session_with(SessionOptions::new().context_length(64));
    let mut chat = Chat::new(session, Template::Vicuna).unwrap();
    chat.set_system(Some("Be brief."));
    ask(&mut chat, "Who?", 5);
    let (tokens, messages) = (chat.session().tokens().to_vec(), chat.messages().to_vec());
    refuses!(chat.ask(&"long ".repeat(100), &mut greedy()), ErrorKind::ContextFull { capacity: 64, .. });
    assert_eq!((chat.session().tokens(), chat.messages()), (&tokens[..], &messages[..]));
    ask(&mut chat, "Why?", 2);
}

#[test]
fn text_that_stops_an_answer_is_not_in_the_cache_after_it() {
    let model = model();
    let tokenizer = model.tokenizer().unwrap();
    let whole = ask(&mut Chat::new(model.session(), Template::StableBeluga).unwrap(), "Lily", 30).0;
    // Stops within a token, and between two.
    for at in 5..12 {
        let stop = &whole[at..at + 6];
        let mut chat = Chat::new(model.session(), Template::StableBeluga).unwrap().stop(stop);
        let (text, _, reason) = ask(&mut chat, "Lily", 30);
        assert!(matches!(reason, Some(FinishReason::StopString(_))));
        assert_eq!(text, whole[..whole.find(stop).unwrap()].trim_end());
        ask(&mut chat, "Tom", 1);
        let read = tokenizer.decode(chat.session().tokens());
        let expected = format!("{text}\n\n### User:\nTom\n\n### Assistant:\n");
        assert!(read.ends_with(&expected), "{read:?} {expected:?}");
    }
}

#[test]
fn an_answer_has_what_is_held_at_its_end_and_nothing_after_a_stop_string() {
    let model = model();
    let new = || Chat::new(model.session(), Template::StableBeluga).unwrap();
    let (whole, tokens, _) = ask(&mut new(), "Lily", 30);
    assert_eq!(tokens.len(), 30);
    // Of one letter: most tokens that have it say more after it.
    for stop in ["a", "e", "h", "o", "t", "y"].into_iter().filter(|stop| whole.contains(stop)) {
        let (text, _, reason) = ask(&mut new().stop(stop), "Lily", 30);
        assert!(matches!(reason, Some(FinishReason::StopString(_))));
        assert_eq!(text, whole[..whole.find(stop).unwrap()].trim_end(), "{stop}");
    }
    // Held back since more may come, which doesn't.
    for n in 1..20 {
        let (text, ..) = ask(&mut new(), "Lily", n);
        let stop = format!("{}\u{1}", text.chars().last().unwrap());
        assert_eq!(ask(&mut new().stop(stop), "Lily", n).0, text, "{n}");
    }
}
