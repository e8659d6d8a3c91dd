//! Generations with drafts, and many at once: the same tokens, pieces, ends and random numbers as
//! one alone without a guess.

use std::sync::LazyLock;

use babyllama::{
    Constraint, Draft, DraftModel, ErrorKind, FinishReason, Generation, Model, Piece, Prompt, PromptLookup,
    Result, Sampler, SamplerOptions, SessionOptions, TokenMask,
};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

use crate::common::{BUNDLED, RandomModel, SplitMix64, one_thread};
use crate::{BOS, COMMA, ONCE, PIECES, open_with, rambler, script};

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

/// Allows all tokens but some, and says of any that they must come.
struct Mask {
    n: usize,
    every: usize,
    forces: bool,
}

impl Constraint for Mask {
    fn allow(&mut self, next: &mut TokenMask) -> Result<()> {
        let all = 0..next.vocab_size();
        all.filter(|token| !(token + self.n).is_multiple_of(self.every))
            .for_each(|token| next.allow(token as u32));
        Ok(())
    }

    fn accept(&mut self, _: u32) -> Result<()> {
        self.n += 1;
        Ok(())
    }

    fn forced(&mut self, out: &mut Vec<u32>) {
        if self.forces {
            out.extend((0..self.n % 4).map(|i| (self.n * 5 + i) as u32 % 20));
        }
    }
}

/// A generation, except for its draft.
#[derive(Clone, Debug)]
struct Kind {
    options: SamplerOptions,
    max_tokens: usize,
    stops: Vec<&'static str>,
    /// Of how many tokens one is never allowed, and whether some are said to come.
    mask: Option<(usize, bool)>,
    logprobs: Option<usize>,
    context: usize,
    /// It is dropped after this number of pieces.
    cut: usize,
}

enum DraftOf {
    Nothing,
    Lookup,
    Oracle(Oracle),
    Model(Box<DraftModel>),
}

/// Pieces, how it ended, the session as it is saved, what another generation then says, and the
/// sampler with what it draws afterwards.
type Run = (Vec<Piece>, Option<FinishReason>, Vec<u8>, std::result::Result<String, String>, String, u32);

/// Also what the session has read, and what is pending.
fn run(model: &Model, prompt: Prompt<'_>, kind: &Kind, draft: DraftOf) -> (Run, Vec<u32>) {
    let mut sampler = Sampler::new(kind.options.clone());
    let mut session = model.session_with(SessionOptions::new().context_length(kind.context));
    let mut generate = session.generate(prompt, &mut sampler).unwrap().max_tokens(kind.max_tokens);
    for &stop in &kind.stops {
        generate = generate.stop(stop);
    }
    if let Some((every, forces)) = kind.mask {
        generate = generate.constrain(Mask { n: 0, every, forces });
    }
    if let Some(n) = kind.logprobs {
        generate = generate.logprobs(n);
    }
    generate = match draft {
        DraftOf::Nothing => generate,
        DraftOf::Lookup => generate.draft(PromptLookup::new()),
        DraftOf::Oracle(oracle) => generate.draft(oracle),
        DraftOf::Model(model) => generate.draft(*model),
    };
    let pieces = generate.by_ref().take(kind.cut).map(|piece| piece.unwrap()).collect();
    let reason = generate.finish_reason();
    drop(generate);
    let mut saved = Vec::new();
    session.save(&mut saved).unwrap();
    // Another generation goes on from there, and draws the same.
    let more =
        session.generate("", &mut sampler).and_then(|more| more.max_tokens(5).collect::<Result<String>>());
    let tokens = session.tokens().iter().copied().chain(session.pending()).collect();
    let drawn = sampler.sample(&[0.0; 1000]).unwrap();
    let more = more.map_err(|error| error.to_string());
    ((pieces, reason, saved, more, format!("{sampler:?}"), drawn), tokens)
}

fn samplers() -> [SamplerOptions; 6] {
    let base = SamplerOptions::new();
    [
        base.clone().temperature(0.0),
        base.clone().top_p(0.9).seed(3),
        base.clone().temperature(0.8).top_k(20).repetition_penalty(1.2).seed(9),
        base.clone().top_p(1.0).frequency_penalty(0.4).presence_penalty(0.3),
        base.clone().xtc_probability(0.5).xtc_threshold(0.05).typical_p(0.9),
        base.temperature(1.3).min_p(0.02).dry_multiplier(0.8).logit_bias(vec![(2, -1.0)]),
    ]
}

const PROMPT: &str = "Lily had a cat. Lily had a dog. Lily had";

#[test]
fn law_09_drafts_change_nothing_of_a_story() {
    let model = Model::open_with(BUNDLED, &one_thread()).unwrap();
    for options in samplers() {
        for (max_tokens, cut) in [(60, usize::MAX), (60, 17), (3, usize::MAX), (1, usize::MAX)] {
            let options = options.clone();
            let (stops, context) = (vec!["Tom"], 512);
            let kind = Kind { options, max_tokens, stops, mask: None, logprobs: None, context, cut };
            let (plain, text) = run(&model, PROMPT.into(), &kind, DraftOf::Nothing);
            let oracle = Oracle { text, rng: SplitMix64::new(max_tokens as u64) };
            let small = DraftModel::new(&model, &model).unwrap();
            for draft in [DraftOf::Oracle(oracle), DraftOf::Lookup, DraftOf::Model(Box::new(small))] {
                assert!(run(&model, PROMPT.into(), &kind, draft).0 == plain, "{kind:?}");
            }
        }
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    let stops = vec(select(vec![" ha ho", ".", " upon a", ", the", " again again"]), 0..3);
    let mask = of((2..6_usize, any::<bool>()));
    (
        select(samplers().to_vec()),
        any::<u64>(),
        0..40_usize,
        stops,
        mask,
        of(0..4_usize),
        4..64_usize,
        0..45_usize,
    )
        .prop_map(|(options, seed, max_tokens, stops, mask, logprobs, context, cut)| {
            let options = options.seed(seed);
            Kind { options, max_tokens, stops, mask, logprobs, context, cut }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn law_09_drafts_change_neither_tokens_nor_pieces_nor_ends_nor_random_numbers(
        kind in kinds(),
        seed in any::<u64>(),
    ) {
        static MODEL: LazyLock<[Model; 2]> = LazyLock::new(|| {
            let other = RandomModel::new(script().shape.layers(1).tied(), 10);
            [rambler(), open_with(&other, &PIECES)]
        });
        let [model, small] = &*MODEL;
        let prompt = &[BOS, ONCE, COMMA];
        let (plain, text) = run(model, prompt.into(), &kind, DraftOf::Nothing);
        let oracle = Oracle { text, rng: SplitMix64::new(seed) };
        let drafts = [small, model].map(|small| DraftOf::Model(Box::new(DraftModel::new(small, model).unwrap())));
        for draft in drafts.into_iter().chain([DraftOf::Lookup, DraftOf::Oracle(oracle)]) {
            let (found, _) = run(model, prompt.into(), &kind, draft);
            prop_assert!(found == plain, "{:?}, and not {:?}", found, plain);
        }
    }
}

#[test]
fn law_03_generations_in_one_loop_are_what_each_is_alone() {
    let model = Model::open(BUNDLED).unwrap();
    let prompts = ["Once upon a time", PROMPT, "Tom", "The", "Lily and Tom went to the park. They saw a big"];
    let alone: Vec<String> = (prompts.iter().enumerate())
        .map(|(i, prompt)| {
            let mut sampler = Sampler::new(samplers()[i % 3].clone());
            let mut session = model.session();
            let generate = session.generate(*prompt, &mut sampler).unwrap().max_tokens(10 + 7 * i);
            generate.collect::<Result<String>>().unwrap()
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
