//! What an assistant turn has of the generation inside it: log-probabilities, constraints, drafts.

use std::sync::{Arc, Mutex};

use babyllama::chat::Template;
use babyllama::{
    Chat, Constraint, DraftModel, FinishReason, Model, Piece, PromptLookup, Result, Sampler, SamplerOptions,
    TokenId, TokenMask,
};

use crate::common::{BUNDLED, greedy};

fn open() -> Model {
    Model::open(BUNDLED).unwrap()
}

fn samplers() -> [SamplerOptions; 2] {
    [
        SamplerOptions::new().temperature(0.0),
        SamplerOptions::new().temperature(1.0).seed(7).repetition_penalty(1.2),
    ]
}

#[test]
fn pieces_of_an_answer_tell_the_scores_of_their_tokens() {
    let model = open();
    for options in samplers() {
        for (template, words) in [(Template::Llama2, ""), (Template::ChatMl, "Once upon")] {
            let answers = [false, true].map(|logprobs| {
                let mut chat = Chat::new(model.session(), template).unwrap();
                let mut sampler = Sampler::new(options.clone());
                let mut answer = chat.ask("Who is Lily?", &mut sampler).unwrap().max_tokens(20);
                if logprobs {
                    answer = answer.logprobs(4);
                }
                let pieces: Result<Vec<Piece>> = answer.begin_with(words).unwrap().collect();
                (pieces.unwrap(), chat.into_session())
            });
            let [(plain, _), (pieces, session)] = &answers;
            let shown = |piece: &Piece| (piece.token(), piece.to_string());
            assert_eq!(
                pieces.iter().map(shown).collect::<Vec<_>>(),
                plain.iter().map(shown).collect::<Vec<_>>()
            );
            assert!(plain.iter().all(|piece| piece.logprob().is_none()));

            let tokens: Vec<_> = pieces.iter().filter_map(Piece::token).collect();
            let read: Vec<_> = session.tokens().iter().copied().chain(session.pending()).collect();
            let (prompt, said) = read.split_at(read.len() - tokens.len());
            assert_eq!(said, tokens);
            let mut fresh = model.session();
            fresh.forward(prompt).unwrap();
            let scores = fresh.score(&tokens).unwrap();
            let told = pieces.iter().filter(|piece| piece.token().is_some());
            for (piece, score) in told.zip(&scores) {
                assert_eq!(piece.logprob().map(f64::to_bits), Some(score.logprob.to_bits()));
                assert_eq!(piece.top_logprobs().len(), 4);
            }
            let others = pieces.iter().filter(|piece| piece.token().is_none());
            assert!(others.into_iter().all(|piece| piece.logprob().is_none()));
        }
    }
}

/// No token twice, except that the text may end.
#[derive(Default)]
struct Once {
    previous: Vec<Option<TokenId>>,
    said: Vec<TokenId>,
}

impl Constraint for Once {
    fn begin(&mut self, previous: Option<TokenId>) -> Result<()> {
        self.previous.push(previous);
        Ok(())
    }

    fn allow(&mut self, next: &mut TokenMask) -> Result<()> {
        let all = 0..next.vocab_size() as TokenId;
        all.filter(|token| !self.said.contains(token)).for_each(|token| next.allow(token));
        Ok(())
    }

    fn accept(&mut self, token: TokenId) -> Result<()> {
        self.said.push(token);
        Ok(())
    }
}

#[test]
fn a_constraint_is_told_what_an_answer_says() {
    let model = open();
    for options in samplers() {
        for words in ["", "Once upon a time"] {
            let mut chat = Chat::new(model.session(), Template::Llama2).unwrap();
            let mut sampler = Sampler::new(options.clone());
            let once = Arc::new(Mutex::new(Once::default()));
            let answer = chat.ask("Who is Lily?", &mut sampler).unwrap().begin_with(words).unwrap();
            let n_prompt = answer.n_prompt();
            let answer = answer.constrain(Arc::clone(&once)).max_tokens(40);
            let tokens: Vec<_> = answer.filter_map(|piece| piece.unwrap().token()).collect();
            let once = once.lock().unwrap();
            assert_eq!(once.said, tokens);
            let prompt = &chat.session().tokens()[..n_prompt];
            assert_eq!(once.previous, [prompt.last().copied()], "words are not told");

            // It is what a generation makes of the same tokens.
            let (mut session, mut sampler) = (model.session(), Sampler::new(options.clone()));
            let generate = session.generate(prompt, &mut sampler).unwrap().constrain(Once::default());
            let expected = generate.max_tokens(tokens.len()).filter_map(|piece| piece.unwrap().token());
            assert_eq!(expected.collect::<Vec<_>>(), tokens);
        }
    }
}

#[test]
fn drafts_change_no_answer() {
    let model = open();
    let lookup = || Arc::new(Mutex::new(PromptLookup::new()));
    let small = || Arc::new(Mutex::new(DraftModel::new(&model, &model).unwrap()));
    for options in samplers() {
        let talk = |draft: &dyn Fn(babyllama::Answer<'_>) -> Vec<Piece>| {
            let mut chat = Chat::new(model.session(), Template::Vicuna).unwrap().stop("Tom");
            let mut sampler = Sampler::new(options.clone());
            let mut pieces = Vec::new();
            for question in ["Who is Lily?", "Who is Lily? Who is Lily?", "Why?"] {
                pieces.extend(draft(chat.ask(question, &mut sampler).unwrap().max_tokens(25)));
            }
            let drawn = sampler.sample(&[0.0; 1000]).unwrap();
            (pieces, chat.messages().to_vec(), chat.session().tokens().to_vec(), drawn)
        };
        let all = |answer: babyllama::Answer<'_>| answer.map(|piece| piece.unwrap()).collect();
        let plain = talk(&all);
        let (lookup, small) = (lookup(), small());
        assert!(talk(&|answer| all(answer.draft(Arc::clone(&lookup)))) == plain);
        assert!(talk(&|answer| all(answer.draft(Arc::clone(&small)))) == plain);
    }
}

/// A stop string of the chat's ends what a constraint would let go on.
#[test]
fn stops_end_a_constrained_answer() {
    let model = open();
    let answer = |stop: &str| {
        let mut chat = Chat::new(model.session(), Template::Llama2).unwrap().stop(stop);
        let mut sampler = greedy();
        let mut answer =
            chat.ask("Who is Lily?", &mut sampler).unwrap().constrain(Once::default()).max_tokens(30);
        answer.by_ref().for_each(|piece| drop(piece.unwrap()));
        (answer.text().to_string(), answer.finish_reason())
    };
    let (whole, _) = answer("\u{1}");
    let stop = &whole[10..14];
    let (text, reason) = answer(stop);
    assert!(matches!(reason, Some(FinishReason::StopString(_))));
    assert_eq!(text, whole[..whole.find(stop).unwrap()].trim_end());
}

#[cfg(feature = "grammar")]
#[test]
fn an_answer_follows_a_regular_expression() {
    let model = open();
    let pattern = "[a-z]{3,9}( [a-z]{2,9}){2}[.]";
    let whole = regex::Regex::new(&format!("^{pattern}$")).unwrap();
    let grammar = babyllama::Grammar::regex(pattern).unwrap();
    for options in samplers() {
        for template in [Template::Llama2, Template::ChatMl, Template::Vicuna] {
            let mut chat = Chat::new(model.session(), template).unwrap();
            let mut sampler = Sampler::new(options.clone());
            for question in ["Who is Lily?", "And Tom?"] {
                let answer = chat.ask(question, &mut sampler).unwrap();
                let mut answer = answer.constrain(grammar.constraint(&model).unwrap());
                answer.by_ref().for_each(|piece| drop(piece.unwrap()));
                assert!(matches!(answer.finish_reason(), Some(FinishReason::EndOfText(_))));
                assert!(whole.is_match(answer.text()), "{template}: {:?}", answer.text());
            }
        }
    }
}
