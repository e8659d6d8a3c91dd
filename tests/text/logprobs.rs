//! The log-probabilities of a generation's pieces.

use babyllama::{Model, Piece, Sampler, SamplerOptions, TokenLogprob};

use crate::common::{assert_same_bits, scripted_model};
use crate::{BOS, PIECES, open_with, rambler};

fn samplers() -> [SamplerOptions; 4] {
    // It doesn't end, nor say only what it likes best.
    let bans = [1, 2, 5].map(|token| (token, f32::NEG_INFINITY)).to_vec();
    [
        SamplerOptions::new().temperature(0.0),
        SamplerOptions::new().temperature(1.7).top_p(1.0),
        SamplerOptions::new().temperature(0.7).top_k(5).min_p(0.05),
        SamplerOptions::new().repetition_penalty(1.3).presence_penalty(0.5),
    ]
    .map(|options| options.logit_bias(bans.clone()).seed(5))
}

/// Generates 24 tokens in parts of this length.
fn pieces(model: &Model, options: &SamplerOptions, n: usize, part: usize) -> Vec<Piece> {
    let (mut session, mut sampler) = (model.session(), Sampler::new(options.clone()));
    let mut pieces = Vec::new();
    while pieces.len() < 24 {
        let prompt = if pieces.is_empty() { &[BOS][..] } else { &[] };
        let generate = session.generate(prompt, &mut sampler).unwrap();
        let part = part.min(24 - pieces.len());
        pieces.extend(generate.logprobs(n).max_tokens(part).map(|piece| piece.unwrap()));
    }
    pieces
}

/// All tokens of a vocabulary of 16 and their logits, sorted.
fn sorted(logits: &[f32]) -> Vec<u32> {
    let mut tokens: Vec<u32> = (0..16).collect();
    tokens.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
    tokens
}

#[test]
fn law_11_the_logprobs_of_pieces_are_the_scores_of_their_tokens() {
    let model = rambler();
    for options in samplers() {
        let whole = pieces(&model, &options, 4, 24);
        let tokens: Vec<_> = whole.iter().map(|piece| piece.token().unwrap()).collect();
        let mut session = model.session();
        session.forward(&[BOS]).unwrap();
        for (piece, &token) in whole.iter().zip(&tokens) {
            let logits = session.logits().unwrap().to_vec();
            let score = session.score(&[token]).unwrap()[0];
            assert_eq!(piece.logprob().map(f64::to_bits), Some(score.logprob.to_bits()), "{options:?}");
            let top = piece.top_logprobs();
            assert_eq!(top.iter().map(|top| top.token).collect::<Vec<_>>(), sorted(&logits)[..4]);
            assert!(top.is_sorted_by(|a, b| a.logprob >= b.logprob));
            // The token itself is in its place, if it is among them.
            assert!(top.iter().all(|top| top.token != token || top.logprob == score.logprob));
            assert_eq!(top[0].token == token, score.is_greatest);
        }
        for part in [1, 5] {
            assert!(pieces(&model, &options, 4, part) == whole, "{options:?} in parts of {part}");
        }
        if options.temperature == 0.0 {
            assert!(
                whole.iter().any(|piece| piece.top_logprobs()[0].token != piece.token().unwrap()),
                "bans count only for the sampler"
            );
        }
    }
}

#[test]
fn logprobs_change_nothing_else_and_are_there_only_on_request() {
    let model = rambler();
    for options in samplers() {
        let (mut session, mut sampler) = (model.session(), Sampler::new(options.clone()));
        let generate = session.generate(&[BOS], &mut sampler).unwrap().max_tokens(24);
        let plain: Vec<_> = generate.map(|piece| piece.unwrap()).collect();
        assert!(plain.iter().all(|piece| piece.logprob().is_none() && piece.top_logprobs().is_empty()));
        for n in [0, 1, 16, usize::MAX] {
            let asked = pieces(&model, &options, n, 24);
            for (plain, asked) in plain.iter().zip(&asked) {
                assert_eq!((plain.token(), plain.as_str()), (asked.token(), asked.as_str()));
                assert_eq!(asked.top_logprobs().len(), n.min(16));
                let sum: f64 = asked.top_logprobs().iter().map(|top| top.logprob.exp()).sum();
                assert!(n < 16 || (sum - 1.0).abs() < 1e-12, "{sum}");
            }
        }
        let mut same = model.session();
        let fed: Vec<_> = [BOS].into_iter().chain(plain.iter().filter_map(Piece::token)).collect();
        let last = same.forward(&fed[..fed.len() - 1]).unwrap();
        assert_same_bits(session.logits().unwrap(), last, "the logits");
    }
}

#[test]
fn ids_without_a_piece_are_not_listed_but_have_their_part_of_the_probability() {
    // The model would say token 15 after each, which the tokenizer of 14 pieces doesn't have.
    let mut padded = scripted_model(&[15; 16], 64);
    padded.output.as_mut().unwrap()[12 * 16..13 * 16].fill(0.5);
    let model = open_with(&padded, &PIECES[..11]);
    let all = pieces(&model, &samplers()[0], 99, 24);
    for piece in all {
        let top = piece.top_logprobs();
        let ids: Vec<_> = top.iter().map(|top| top.token).collect();
        assert_eq!(ids, [12, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]);
        let probs = |top: &[TokenLogprob]| top.iter().map(|top| top.logprob.exp()).sum::<f64>();
        assert!(probs(top) < 0.5, "{}", probs(top));
        assert_eq!(piece.logprob(), Some(top[0].logprob));
    }
}

#[test]
fn text_without_a_token_has_no_logprob() {
    let model = crate::open_script();
    let (mut session, mut sampler) = (model.session(), crate::common::greedy());
    let generate = session.generate(&[BOS], &mut sampler).unwrap().stop("end.###").logprobs(2);
    let pieces: Vec<_> = generate.map(|piece| piece.unwrap()).collect();
    let last = pieces.last().unwrap();
    assert_eq!(last, "end.");
    assert_eq!((last.token(), last.logprob(), last.top_logprobs()), (None, None, &[][..]));
}
