//! Generation: what it says, when it ends and why, and what the session has read then.

use babyllama::{
    ErrorKind, FinishReason, Model, ModelOptions, Sampler, SamplerOptions, SessionOptions, TokenId, Tokenizer,
};

use crate::common::{RandomModel, greedy, refuses, scripted_model, tokenizer_bin};
use crate::{BOS, EOS, LOOP, ONCE, PIECES, STORY, TO_BOS, finish, open_script, open_with, rambler, script};

#[test]
fn generation_says_what_the_model_says_until_eos() {
    let model = open_script();
    let mut session = model.session();
    let mut sampler = greedy();
    let (texts, reason, n) = finish(session.generate(&[BOS], &mut sampler).unwrap());
    // the space after BOS is stripped
    assert_eq!(texts, ["once", " upon", " a time", ",", " the end", "."]);
    assert_eq!((reason, n), (FinishReason::EndOfText(EOS), 6));
    // All that was said has been read; EOS has not.
    assert_eq!(session.tokens(), [BOS, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn generation_ends_at_bos_too() {
    let model = open_script();
    let mut session = model.session();
    let (texts, reason, n) = finish(session.generate(&[TO_BOS], &mut greedy()).unwrap());
    assert_eq!((texts.len(), reason, n), (0, FinishReason::EndOfText(BOS), 0));
    assert_eq!(session.tokens(), [TO_BOS]);
}

#[test]
fn a_text_prompt_begins_with_bos_only_at_the_start_of_a_session() {
    let model = open_script();
    let mut session = model.session();
    let mut sampler = greedy();
    // The pieces spell no single letters, so a text is unknown tokens, and " upon" follows those.
    for round in 0..2 {
        let before = session.position();
        let (texts, ..) = finish(session.generate("?", &mut sampler).unwrap());
        assert_eq!(texts.concat(), " upon a time, the end.");
        let read = &session.tokens()[before..];
        let prompt = [&[BOS][round..], model.tokenizer().unwrap().encode("?").as_slice()].concat();
        assert_eq!(read[..prompt.len()], prompt);
        assert_eq!(read.iter().filter(|token| **token == BOS).count(), 1 - round);
    }
}

#[test]
fn an_empty_text_at_the_start_is_bos_alone() {
    let model = open_script();
    let mut session = model.session();
    assert_eq!(finish(session.generate("", &mut greedy()).unwrap()).0.concat(), STORY);
}

#[test]
fn an_empty_prompt_goes_on_from_what_was_fed() {
    let model = open_script();
    let mut session = model.session();
    session.forward(&[BOS, ONCE]).unwrap();
    assert_eq!(finish(session.generate("", &mut greedy()).unwrap()).0.concat(), " upon a time, the end.");
    session.truncate(2); // the logits are gone, so there is nothing to go on from
    refuses!(session.generate(&[], &mut greedy()), ErrorKind::EmptyInput);
    let mut fresh = model.session();
    assert!(fresh.generate(&[], &mut greedy()).is_err());
}

#[test]
fn max_tokens_ends_it_and_the_last_token_is_unfed() {
    let model = open_script();
    for n in 0..=6 {
        let mut session = model.session();
        let mut sampler = greedy();
        let (texts, reason, found) = finish(session.generate(&[BOS], &mut sampler).unwrap().max_tokens(n));
        assert_eq!((texts.len(), reason, found), (n, FinishReason::MaxTokens, n));
        assert_eq!(session.position(), n.max(1), "the prompt and all tokens but the last");
        assert_eq!(session.pending(), [None, Some(3), Some(4), Some(5), Some(6), Some(7), Some(8)][n]);
    }
    let mut session = model.session();
    let mut sampler = greedy();
    let (_, reason, n) = finish(session.generate(&[BOS], &mut sampler).unwrap().max_tokens(7));
    assert_eq!((reason, n), (FinishReason::EndOfText(EOS), 6), "EOS comes first");
}

#[test]
fn the_end_of_the_context_is_a_reason_and_not_an_error() {
    let model = open_script();
    for context in 1..=8 {
        let mut session = model.session_with(SessionOptions::new().context_length(context));
        let mut sampler = greedy();
        let (texts, reason, n) = finish(session.generate(&[LOOP], &mut sampler).unwrap());
        // Each position that is read gives one token more.
        assert_eq!((texts.len(), reason, n), (context, FinishReason::ContextFull, context));
        assert_eq!((session.position(), session.capacity()), (context, context));
        refuses!(session.forward(&[LOOP]), ErrorKind::ContextFull { .. });
    }
}

#[test]
fn a_prompt_that_cannot_be_fed_is_an_error_at_once_and_changes_nothing() {
    let model = open_script();
    let mut session = model.session_with(SessionOptions::new().context_length(4));
    session.forward(&[BOS]).unwrap();
    let logits = session.logits().unwrap().to_vec();
    let mut error = |prompt: &[TokenId]| session.generate(prompt, &mut greedy()).map(|_| ()).unwrap_err();
    assert!(matches!(error(&[ONCE; 4]).kind(), ErrorKind::ContextFull { capacity: 4, requested: 5 }));
    assert!(matches!(error(&[99]).kind(), ErrorKind::TokenOutOfRange { token: 99, vocab_size: 16 }));
    assert_eq!((session.position(), session.logits().unwrap()), (1, &logits[..]));
}

#[test]
fn text_needs_a_tokenizer_and_so_do_tokens() {
    let model = Model::from_bytes(script().to_v1()).unwrap();
    let mut session = model.session();
    refuses!(session.generate("once", &mut greedy()), ErrorKind::NoTokenizer, "tokenizer");
    refuses!(session.generate(&[BOS], &mut greedy()), ErrorKind::NoTokenizer, "tokenizer");
    session.forward(&[BOS]).unwrap(); // it still takes tokens alone
}

#[test]
fn nan_logits_are_a_typed_error_and_end_it() {
    let mut broken = script();
    broken.tok_embeddings[5 * 16 + 5] = f32::NAN; // " a time" can be said, and poisons what follows
    let model = open_with(&broken, &PIECES);
    let mut session = model.session();
    let mut sampler = greedy();
    let mut generate = session.generate(&[BOS], &mut sampler).unwrap();
    for expected in ["once", " upon", " a time"] {
        assert_eq!(generate.next().unwrap().unwrap().as_str(), expected);
    }
    refuses!(generate.next().unwrap(), ErrorKind::NanLogit { .. });
    assert!(generate.next().is_none(), "an error ends it");
    assert_eq!(generate.finish_reason(), None);
    drop(generate);
    // The session goes on from before the damage.
    session.truncate(2);
    assert_eq!(session.forward(&[4]).unwrap().iter().filter(|x| x.is_nan()).count(), 0);
}

#[test]
fn nan_in_any_kind_of_weight_is_a_typed_error() {
    type Weight = fn(&mut RandomModel) -> &mut f32;
    let weights: [(&str, Weight); 12] = [
        ("tok_embeddings", |m| &mut m.tok_embeddings[16]), // of BOS
        ("attention_norm", |m| &mut m.layers[0].attention_norm[1]),
        ("wq", |m| &mut m.layers[0].wq[0]),
        ("wk", |m| &mut m.layers[0].wk[0]),
        ("wv", |m| &mut m.layers[0].wv[0]),
        ("wo", |m| &mut m.layers[0].wo[0]),
        ("ffn_norm", |m| &mut m.layers[0].ffn_norm[1]),
        ("w1", |m| &mut m.layers[0].w1[0]),
        ("w2", |m| &mut m.layers[0].w2[0]),
        ("w3", |m| &mut m.layers[0].w3[0]),
        ("norm", |m| &mut m.norm[1]),
        ("output", |m| &mut m.output.as_mut().unwrap()[5]),
    ];
    for (name, weight) in weights {
        let mut broken = script();
        *weight(&mut broken) = f32::NAN;
        let model = open_with(&broken, &PIECES);
        for sampler in [greedy(), Sampler::new(SamplerOptions::default())] {
            let mut sampler = sampler;
            let mut session = model.session();
            let mut generate = session.generate(&[BOS], &mut sampler).unwrap();
            let error = generate.next().unwrap().map(|piece| piece.to_string()).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::NanLogit { .. }), "{name}: {error:?}");
        }
    }
}

#[test]
fn options_of_the_sampler_that_are_out_of_range_are_an_error_of_the_first_token() {
    let model = open_script();
    let mut session = model.session();
    let mut sampler = Sampler::new(SamplerOptions::new().temperature(-1.0));
    let mut generate = session.generate(&[BOS], &mut sampler).unwrap();
    refuses!(generate.next().unwrap(), ErrorKind::InvalidOption { name: "temperature", .. });
    assert!(generate.next().is_none());
}

#[test]
fn ids_without_a_piece_are_never_generated() {
    // The model would say token 15 after each, which the tokenizer of 14 pieces doesn't have; of
    // the others " ha".
    let mut padded = scripted_model(&[15; 16], 64);
    for value in &mut padded.output.as_mut().unwrap()[12 * 16..13 * 16] {
        *value = 0.5;
    }
    let model = open_with(&padded, &PIECES[..11]);
    assert_eq!(model.tokenizer().unwrap().vocab_size(), 14);
    assert_eq!(model.config().vocab_size, 16);
    let mut session = model.session();
    assert_eq!(session.forward(&[BOS]).unwrap().len(), 16, "logits are the model's");
    let mut sampler = greedy();
    let pieces: Vec<_> =
        session.generate("", &mut sampler).unwrap().max_tokens(3).map(|piece| piece.unwrap()).collect();
    assert_eq!(pieces.iter().map(babyllama::Piece::token).collect::<Vec<_>>(), [Some(12); 3]);

    for seed in 0..200 {
        let mut sampler = Sampler::new(SamplerOptions::new().temperature(5.0).top_p(1.0).seed(seed));
        let mut session = model.session();
        for piece in session.generate(&[BOS], &mut sampler).unwrap().max_tokens(4) {
            assert!(piece.unwrap().token().is_none_or(|token| token < 14));
        }
    }
    session.forward(&[15]).unwrap(); // a padded id may be fed
}

#[test]
fn a_tokenizer_with_more_pieces_than_the_model_has_logits_is_refused() {
    let tokenizer = Tokenizer::from_llama2c(&tokenizer_bin(&[b"x".as_slice(); 14])).unwrap();
    let opened = Model::from_bytes_with(script().to_v1(), &ModelOptions::new().tokenizer(tokenizer));
    let error = refuses!(opened, ErrorKind::VocabMismatch { tokenizer: 17, model: 16 });
    assert_eq!(error.to_string(), "the tokenizer has 17 pieces, the model knows only 16 tokens");
}

#[test]
fn penalties_count_the_prompt_and_what_was_said() {
    // " ha" and " ho" would go on for ever; a presence penalty above the margin ends that.
    let model = open_script();
    let mut session = model.session();
    let options = SamplerOptions::new().temperature(0.0).presence_penalty(100.0);
    let mut sampler = Sampler::new(options);
    let generate = session.generate(&[LOOP], &mut sampler).unwrap().max_tokens(3);
    let tokens: Vec<_> = generate.map(|piece| piece.unwrap().token()).collect();
    assert_eq!(tokens[0], Some(13));
    assert_ne!(tokens[1], Some(LOOP), "the prompt's token is penalized");
}

#[test]
fn the_same_seed_says_the_same() {
    let model = rambler();
    let say = |seed| {
        let mut sampler = Sampler::new(SamplerOptions::new().seed(seed));
        let mut session = model.session();
        let generate = session.generate("once", &mut sampler).unwrap().max_tokens(30);
        generate.map(|piece| piece.unwrap().to_string()).collect::<String>()
    };
    assert_eq!(say(3), say(3));
    let different = (0..20).map(say).collect::<std::collections::HashSet<_>>();
    assert!(different.len() > 10, "{different:?}");
}
