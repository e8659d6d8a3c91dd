//! Conversations that outgrow their context, over the bundled model.

use babyllama::chat::{ChatTemplate, Message, Template, encode};
use babyllama::{
    Chat, ContextPolicy, ErrorKind, FinishReason, Model, Sampler, SamplerOptions, SessionOptions, TokenId,
};

use crate::common::{BUNDLED, SplitMix64, assert_same_bits, greedy, refuses};

fn new(model: &Model, template: Template, context: usize, reserve: usize) -> Chat {
    let session = model.session_with(SessionOptions::new().context_length(context));
    Chat::new(session, template).unwrap().context_policy(ContextPolicy::DropOldest { reserve })
}

fn rendered(chat: &Chat, messages: &[Message]) -> Vec<TokenId> {
    let &ChatTemplate::Layout(layout) = chat.template() else { panic!("a layout was given") };
    encode(&layout.render(messages), chat.session().model().tokenizer().unwrap()).unwrap()
}

/// A conversation with a user turn at its end, after its oldest exchanges were dropped: as few as
/// are needed, found by trying each number of them.
fn left(chat: &Chat, question: &str, reserve: usize) -> Vec<Message> {
    let messages = [chat.messages(), &[Message::user(question)]].concat();
    let start = usize::from(chat.system().is_some());
    let all = (messages.len() - start) / 2;
    let without = |n: usize| [&messages[..start], &messages[start + 2 * n..]].concat();
    let n_tokens = |n: usize| rendered(chat, &without(n)).len();
    let limit = chat.session().capacity().saturating_sub(reserve);
    if n_tokens(0) <= limit {
        return messages;
    }
    let most = limit - limit.saturating_sub(n_tokens(all)) / 4;
    without((1..=all).find(|&n| n_tokens(n) <= most).unwrap_or(all))
}

/// What a chat in a fresh session, to which nothing else was ever said, gives.
fn is_fresh(chat: &Chat, sampler: &mut Sampler, n: usize, words: &str) {
    let (answer, before) = chat.messages().split_last().unwrap();
    let (question, before) = before.split_last().unwrap();
    let options = SessionOptions::new().context_length(chat.session().capacity());
    let session = chat.session().model().session_with(options);
    let mut fresh = Chat::new(session, chat.template().clone()).unwrap();
    fresh.set_messages(before.to_vec()).unwrap();
    let asked = fresh.ask(&question.content, sampler).unwrap().begin_with(words).unwrap();
    asked.max_tokens(n).for_each(|piece| drop(piece.unwrap()));
    assert_eq!(fresh.messages().last(), Some(answer));
    assert_eq!(fresh.session().tokens(), chat.session().tokens());
    assert_same_bits(fresh.session().logits().unwrap(), chat.session().logits().unwrap(), "the logits");
}

/// Whatever is done to a long conversation, the next answer is that of a fresh chat with the
/// messages that are left, to the bit.
#[test]
fn a_conversation_that_outgrows_its_context_is_the_one_that_is_left() {
    const RESERVE: usize = 24;
    let model = Model::open(BUNDLED).unwrap();
    let mut random = SplitMix64::new(11);
    let mut n_drops = 0;
    for &template in Template::ALL {
        let systems = [None, Some("Be brief and kind.")];
        for system in systems.into_iter().take(1 + usize::from(template.takes_system())) {
            // Room for the longest of what templates say by themselves.
            let mut chat = new(&model, template, 200, RESERVE);
            chat.set_system(system);
            let n_steps = if cfg!(debug_assertions) { 8 } else { 16 };
            for step in 0..n_steps {
                let question = "Who is Lily? ".repeat(1 + random.below(5));
                let (question, n) = (question.trim(), 1 + random.below(RESERVE));
                let options = SamplerOptions::new().seed(step).repetition_penalty(1.2);
                let mut sampler = Sampler::new(options.clone());
                let messages = chat.messages().to_vec();
                match random.below(9) {
                    0 => {
                        drop(chat.ask(question, &mut sampler).unwrap());
                        assert_eq!(chat.messages(), messages, "nothing was read");
                        continue;
                    }
                    1 => {
                        drop(chat.undo());
                        continue;
                    }
                    2 if chat.messages().len() > 1 => {
                        let answer = chat.regenerate(&mut sampler).unwrap();
                        assert!(answer.dropped().is_empty() && answer.n_prompt() <= 4, "{template}");
                        answer.max_tokens(n).for_each(|piece| drop(piece.unwrap()));
                        is_fresh(&chat, &mut Sampler::new(options), n, "");
                        continue;
                    }
                    _ => {}
                }
                let words = if random.below(3) == 0 { "Once upon a time" } else { "" };
                let expected = left(&chat, question, RESERVE);
                let mut answer = chat.ask(question, &mut sampler).unwrap().max_tokens(n);
                let start = usize::from(system.is_some());
                let n_dropped = messages.len() + 1 - expected.len();
                assert_eq!(answer.dropped(), &messages[start..start + n_dropped], "{template} {step}");
                if !words.is_empty() {
                    answer = answer.begin_with(words).unwrap();
                }
                answer.by_ref().for_each(|piece| drop(piece.unwrap()));
                n_drops += usize::from(!answer.dropped().is_empty());
                let dropped = answer.dropped().to_vec();
                drop(answer);
                let (_, asked) = chat.messages().split_last().unwrap();
                let history = [&messages[..start], &dropped, &asked[start..]].concat();
                assert_eq!(history, [&messages[..], &[Message::user(question)]].concat());
                assert!(!words.is_empty() || asked == expected, "{template} {step}");
                assert!(chat.session().tokens().starts_with(&rendered(&chat, asked)));
                is_fresh(&chat, &mut Sampler::new(options), n, words);
            }
        }
    }
    assert!(n_drops > if cfg!(debug_assertions) { 15 } else { 50 }, "{n_drops}");
}

/// Each token is read about four times, however long the conversation is: not most of the context
/// at every turn.
#[test]
fn what_is_read_again_stays_in_proportion() {
    const RESERVE: usize = 16;
    let model = Model::open(BUNDLED).unwrap();
    for system in [None, Some("Be brief. ".repeat(8))] {
        let mut chat = new(&model, Template::Vicuna, 768, RESERVE);
        chat.set_system(system.as_deref());
        let (mut history, mut n_read, mut n_drops) = (Vec::new(), 0, 0);
        let n_turns = if cfg!(debug_assertions) { 60 } else { 100 };
        for turn in 0..n_turns {
            let question = ["Who is Lily?", "And Tom?", "Why did she say so?"][turn % 3];
            let mut sampler = greedy();
            let mut answer = chat.ask(question, &mut sampler).unwrap().max_tokens(RESERVE);
            n_read += answer.n_prompt();
            n_drops += usize::from(!answer.dropped().is_empty());
            answer.by_ref().for_each(|piece| drop(piece.unwrap()));
            n_read += answer.n_generated().saturating_sub(1);
            history.extend_from_slice(answer.dropped());
        }
        history.extend_from_slice(chat.messages());
        let whole = rendered(&chat, &history).len();
        eprintln!("{whole} tokens, {n_read} read, {n_drops} drops");
        assert!(n_drops > 4 && n_drops < n_turns / 4, "{n_drops} drops in {n_turns} turns");
        assert!(n_read <= 4 * whole, "{n_read} tokens were read of {whole}");
    }
}

#[test]
fn what_fits_not_even_alone_is_refused_and_changes_nothing() {
    let model = Model::open(BUNDLED).unwrap();
    for template in [Template::Llama2, Template::Zephyr] {
        let mut chat = new(&model, template, 400, 16);
        chat.set_system(Some("Be brief."));
        for _ in 0..3 {
            chat.ask("Who is Lily?", &mut greedy()).unwrap().max_tokens(9).for_each(drop);
        }
        let (tokens, messages) = (chat.session().tokens().to_vec(), chat.messages().to_vec());
        let long = "long ".repeat(500);
        let alone = rendered(&chat, &[Message::system("Be brief."), Message::user(&long)]).len();
        let mut sampler = greedy();
        let error = chat.ask(&long, &mut sampler).map(drop).unwrap_err();
        let ErrorKind::ContextFull { capacity: 400, requested } = *error.kind() else { panic!("{error}") };
        assert_eq!(requested, alone);
        let answer = chat.ask("And Tom?", &mut sampler).unwrap();
        refuses!(answer.begin_with(&long), ErrorKind::ContextFull { capacity: 400, .. });
        assert_eq!((chat.session().tokens(), chat.messages()), (&tokens[..], &messages[..]));

        // Nor does what is given up before it is read.
        let mut fits = String::new();
        while rendered(&chat, &[Message::system("Be brief."), Message::user(&fits)]).len() < 350 {
            fits += "Who is Lily? ";
        }
        let mut answer = chat.ask(&fits, &mut sampler).unwrap();
        assert_eq!(answer.dropped(), &messages[1..]);
        answer.next().unwrap().unwrap();
        assert!(!answer.has_begun(), "it takes two steps");
        drop(answer);
        assert_eq!(chat.messages(), messages);
        assert!(rendered(&chat, &messages).starts_with(chat.session().tokens()));
        chat.ask("And Tom?", &mut sampler).unwrap().max_tokens(5).for_each(|piece| drop(piece.unwrap()));
        assert_eq!(chat.messages().len(), messages.len() + 2);
        is_fresh(&chat, &mut greedy(), 5, "");
    }
}

#[test]
fn an_answer_ends_with_the_context_and_the_conversation_goes_on() {
    let model = Model::open(BUNDLED).unwrap();
    let talks_on =
        || Sampler::new(SamplerOptions::new().temperature(0.0).logit_bias(vec![(1, -1e9), (2, -1e9)]));
    // More than there is of the context: each question has all of it.
    for reserve in [0, 10, 1000] {
        let mut chat = new(&model, Template::Vicuna, 64, reserve);
        for _ in 0..3 {
            let mut sampler = talks_on();
            let mut answer = chat.ask("Who is Lily?", &mut sampler).unwrap();
            answer.by_ref().for_each(|piece| drop(piece.unwrap()));
            assert_eq!(answer.finish_reason(), Some(FinishReason::ContextFull), "{reserve}");
            drop(answer);
            assert_eq!((chat.messages().len(), chat.session().position()), (2, 64));
            is_fresh(&chat, &mut talks_on(), usize::MAX, "");
        }
        let mut sampler = talks_on();
        let answer = chat.regenerate(&mut sampler).unwrap();
        assert_eq!((answer.dropped(), answer.n_prompt()), (&[][..], 1));
    }
}

#[test]
fn a_conversation_longer_than_the_context_is_taken_over() {
    let model = Model::open(BUNDLED).unwrap();
    let turn = |i: usize| [Message::user(format!("Who is number {i}?")), Message::assistant("A girl.")];
    let messages: Vec<_> = [Message::system("Be kind.")].into_iter().chain((0..100).flat_map(turn)).collect();
    let mut chat = new(&model, Template::Llama2, 256, 20);
    chat.set_messages(messages.clone()).unwrap();
    let expected = left(&chat, "Why?", 20);
    let mut sampler = greedy();
    let answer = chat.ask("Why?", &mut sampler).unwrap().max_tokens(20);
    assert_eq!(answer.n_prompt(), rendered(&new(&model, Template::Llama2, 256, 20), &expected).len());
    answer.for_each(|piece| drop(piece.unwrap()));
    assert_eq!(chat.messages()[..chat.messages().len() - 1], expected);
    is_fresh(&chat, &mut greedy(), 20, "");
    // As ever without a policy.
    let mut chat = Chat::new(chat.into_session(), Template::Llama2).unwrap();
    chat.set_messages(messages).unwrap();
    refuses!(chat.ask("Why?", &mut sampler), ErrorKind::ContextFull { capacity: 256, .. });
}
