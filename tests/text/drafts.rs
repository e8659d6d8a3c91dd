//! Generations with drafts, and many at once: the same tokens, pieces, ends and random numbers as
//! one alone without a guess.

use babyllama::{
    Draft, DraftModel, ErrorKind, FinishReason, Generation, Model, PromptLookup, Sampler, SamplerOptions,
};

use crate::common::{BUNDLED, SplitMix64};

/// Proposes what came once, with mistakes.
struct Oracle {
    text: Vec<u32>,
    rng: SplitMix64,
}

impl Draft for Oracle {
    fn draft(&mut self, tokens: &[u32], max: usize, out: &mut Vec<u32>) {
        for i in 0..self.rng.below(max + 1) {
            let right = self.text.get(tokens.len() + i).copied().unwrap_or(1);
            out.push(if self.rng.below(5) == 0 { self.rng.below(100_000) as u32 } else { right });
        }
    }
}

fn samplers() -> [SamplerOptions; 3] {
    [
        SamplerOptions::new().temperature(0.0),
        SamplerOptions::new().temperature(1.0).top_p(0.9).seed(3),
        SamplerOptions::new().temperature(0.8).top_k(20).repetition_penalty(1.2).seed(9),
    ]
}

const PROMPT: &str = "Lily had a cat. Lily had a dog. Lily had";

/// Pieces, tokens, how it ended, the session's tokens, and what the sampler draws afterwards.
type Run = (Vec<(Option<u32>, String)>, Option<FinishReason>, Vec<u32>, u32);

fn run(
    model: &Model,
    options: &SamplerOptions,
    n: usize,
    cut: usize,
    draft: Option<Box<dyn FnOnce() -> DraftOf>>,
) -> Run {
    let mut sampler = Sampler::new(options.clone());
    let mut session = model.session();
    let generate = session.generate(PROMPT, &mut sampler).unwrap().max_tokens(n).stop("Tom");
    let mut generate = match draft.map(|draft| draft()) {
        None => generate,
        Some(DraftOf::Lookup) => generate.draft(PromptLookup::new()),
        Some(DraftOf::Oracle(oracle)) => generate.draft(oracle),
        Some(DraftOf::Model(model)) => generate.draft(*model),
    };
    let pieces = generate.by_ref().take(cut).map(|piece| {
        let piece = piece.unwrap();
        (piece.token(), piece.as_str().to_owned())
    });
    let pieces = pieces.collect();
    let reason = generate.finish_reason();
    drop(generate);
    // Another generation goes on from there, and draws the same.
    for piece in session.generate("", &mut sampler).unwrap().max_tokens(5) {
        piece.unwrap();
    }
    let mut tokens = session.tokens().to_vec();
    tokens.extend(session.pending());
    (pieces, reason, tokens, sampler.sample(&[0.0; 1000]).unwrap())
}

enum DraftOf {
    Lookup,
    Oracle(Oracle),
    Model(Box<DraftModel>),
}

#[test]
fn drafts_change_neither_tokens_nor_pieces_nor_ends_nor_random_numbers() {
    let model = Model::open(BUNDLED).unwrap();
    for options in samplers() {
        for (n, cut) in [(60, usize::MAX), (60, 17), (3, usize::MAX), (1, usize::MAX)] {
            let plain = run(&model, &options, n, cut, None);
            let text = plain.2.clone();
            for seed in 0..4 {
                let oracle = Oracle { text: text.clone(), rng: SplitMix64::new(seed) };
                let found = run(&model, &options, n, cut, Some(Box::new(|| DraftOf::Oracle(oracle))));
                assert_eq!(found, plain, "oracle {seed}");
            }
            assert_eq!(run(&model, &options, n, cut, Some(Box::new(|| DraftOf::Lookup))), plain);
            let small = DraftModel::new(&model, &model).unwrap();
            assert_eq!(
                run(&model, &options, n, cut, Some(Box::new(|| DraftOf::Model(Box::new(small))))),
                plain
            );
        }
    }
}

#[test]
fn generations_in_one_loop_are_what_each_is_alone() {
    let model = Model::open(BUNDLED).unwrap();
    let prompts = ["Once upon a time", PROMPT, "Tom", "The", "Lily and Tom went to the park. They saw a big"];
    let alone: Vec<String> = (prompts.iter().enumerate())
        .map(|(i, prompt)| {
            let mut sampler = Sampler::new(samplers()[i % 3].clone());
            let mut session = model.session();
            let generate = session.generate(*prompt, &mut sampler).unwrap().max_tokens(10 + 7 * i);
            generate.collect::<Result<String, _>>().unwrap()
        })
        .collect();
    for at_most in [1, 3, 128] {
        let mut running: Vec<_> = (prompts.iter().enumerate())
            .map(|(i, prompt)| {
                let session = model.session();
                let generation = Generation::new(&session, *prompt).unwrap().max_tokens(10 + 7 * i);
                let generation = if i % 2 == 0 { generation.draft(PromptLookup::new()) } else { generation };
                (i, session, Sampler::new(samplers()[i % 3].clone()), generation, String::new())
            })
            .collect();
        while !running.is_empty() {
            let feeds =
                running.iter_mut().map(|(_, session, _, generation, _)| generation.feed(session, at_most));
            model.forward_together(feeds).unwrap();
            running.retain_mut(|(i, session, sampler, generation, text)| {
                match generation.next(session, sampler).unwrap() {
                    Some(piece) => text.push_str(piece.as_str()),
                    None => {
                        assert_eq!(*text, alone[*i], "prompt {i}, {at_most} at a time");
                        assert_eq!(generation.finish_reason(), Some(FinishReason::MaxTokens));
                        return false;
                    }
                }
                true
            });
        }
    }
}

#[test]
fn a_draft_of_another_vocabulary_is_refused() {
    let error = DraftModel::new(&crate::open_script(), &Model::open(BUNDLED).unwrap()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidOption { name: "draft", .. }), "{error}");
}
