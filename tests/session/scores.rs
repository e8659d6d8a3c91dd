//! Scores are the log-softmax of `forward_all`, wherever a text is cut and whatever came between.

use std::ops::ControlFlow;
use std::sync::LazyLock;

use babyllama::{
    CacheDtype, ErrorKind, Model, ModelOptions, PerplexityOptions, Score, Session, SessionOptions,
};
use proptest::prelude::*;

use crate::common::{
    BUNDLED, GOLDEN, RandomModel, Shape, assert_same_bits, greedy, max_abs_diff, open, refuses, std_dev,
};
use crate::{SHAPE, open_small, tokens};

/// The logarithm of softmax, by its definition.
fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|x| (x - max).exp()).sum();
    logits.iter().map(|x| x - max - sum.ln()).collect()
}

/// What each token of a text has by rows of logits, `(n_tokens, vocab_size)`: its log-probability,
/// and whether it is the first of the greatest.
fn expected(rows: &[f64], tokens: &[u32]) -> Vec<(f64, bool)> {
    let vocab_size = rows.len() / tokens.len();
    let mut all = vec![(0.0, true)]; // the first is given
    for (row, &token) in rows.chunks_exact(vocab_size).zip(&tokens[1..]) {
        let greatest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let first = row.iter().position(|&x| x == greatest).unwrap();
        all.push((log_softmax(row)[token as usize], first == token as usize));
    }
    all
}

fn widened(logits: &[f32]) -> Vec<f64> {
    logits.iter().map(|&x| f64::from(x)).collect()
}

/// The bits of scores.
fn bits(scores: &[Score]) -> Vec<(u64, bool)> {
    scores.iter().map(|score| (score.logprob.to_bits(), score.is_greatest)).collect()
}

/// That scores are those that rows of f32 logits give, except for the rounding of f64.
#[track_caller]
fn assert_are_of(scores: &[Score], logits: &[f32], tokens: &[u32]) {
    assert_eq!(scores.len(), tokens.len());
    for (score, (logprob, is_greatest)) in scores.iter().zip(expected(&widened(logits), tokens)) {
        assert!((score.logprob - logprob).abs() < 1e-12, "{score:?}, and not {logprob}");
        assert_eq!(score.is_greatest, is_greatest);
    }
}

fn with_cache(model: &Model, dtype: CacheDtype) -> Session {
    model.session_with(SessionOptions::new().cache_dtype(dtype))
}

/// One way to read a part of a text, and what may be done between two parts.
#[derive(Clone, Copy, Debug)]
enum Step {
    Score,
    /// Read without scores.
    Forward,
    /// Something else is scored, and taken back.
    ScoreOther,
    /// The part is scored and taken back, and scored again.
    ScoreTwice,
    /// A fork goes on.
    Fork,
    /// The session forgets its logits.
    Forget,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn law_11_scores_are_the_same_bits_for_any_cut(
        text in proptest::collection::vec(0..SHAPE.vocab_size as u32, 1..50),
        steps in proptest::collection::vec(
            (prop::sample::select(vec![
                Step::Score, Step::Score, Step::Forward, Step::ScoreOther, Step::ScoreTwice, Step::Fork,
                Step::Forget,
            ]), 0..9_usize),
            20,
        ),
        halves in any::<bool>(),
    ) {
        static MODEL: LazyLock<Model> = LazyLock::new(open_small);
        let dtype = if halves { CacheDtype::F16 } else { CacheDtype::F32 };
        let logits = with_cache(&MODEL, dtype).forward_all(&text).unwrap().to_vec();
        let whole = with_cache(&MODEL, dtype).score(&text).unwrap();
        assert_are_of(&whole, &logits, &text);

        let mut session = with_cache(&MODEL, dtype);
        for (step, n) in steps {
            let at = session.position();
            let part = &text[at..text.len().min(at + n)];
            let of_part = bits(&whole[at..at + part.len()]);
            match step {
                Step::Score => prop_assert_eq!(bits(&session.score(part).unwrap()), of_part),
                Step::Forward if part.is_empty() => {}
                Step::Forward => drop(session.forward(part).unwrap()),
                Step::ScoreOther => {
                    let other: Vec<u32> = part.iter().map(|token| (token + 1) % 61).collect();
                    session.score(&other).unwrap();
                    session.truncate(at);
                }
                Step::ScoreTwice => {
                    prop_assert_eq!(bits(&session.score(part).unwrap()), of_part.clone());
                    session.truncate(at);
                    prop_assert_eq!(bits(&session.score(part).unwrap()), of_part);
                }
                Step::Fork => session = session.fork().unwrap(),
                Step::Forget if at < text.len() => {
                    session.forward(&text[at..at + 1]).unwrap();
                    session.truncate(at);
                }
                Step::Forget => {}
            }
            prop_assert_eq!(session.tokens(), &text[..session.position()]);
        }
        let rest = session.position();
        prop_assert_eq!(bits(&session.score(&text[rest..]).unwrap()), bits(&whole[rest..]));
        prop_assert_eq!(session.tokens(), &text[..]);
        if let Some(last) = session.logits() {
            assert_same_bits(last, &logits[(text.len() - 1) * SHAPE.vocab_size..], "the last logits");
        }
    }
}

#[test]
fn scores_of_many_steps_are_those_of_one_pass() {
    // A step has at most 128 tokens; of logits that are 1 MiB each, 16.
    let wide = Shape::new(2, 1).layers(1).heads(1, 1).vocab(1 << 18).context(40).tied();
    for (model, n) in [(open_small(), 300), (open(RandomModel::new(wide, 3).to_v1()), 40)] {
        let tokens = tokens(n, model.config().vocab_size);
        let logits = model.session().forward_all(&tokens).unwrap().to_vec();
        assert_are_of(&model.session().score(&tokens).unwrap(), &logits, &tokens);
    }
}

#[test]
fn scores_are_those_of_hugging_faces_logits() {
    for case in GOLDEN {
        let options = ModelOptions::new().norm_eps(case.norm_eps as f32).rope_theta(case.rope_theta);
        let model = Model::from_bytes_with(case.model().to_v1(), &options).unwrap();
        let scores = model.session().score(case.tokens).unwrap();
        let rows = case.logits();
        let expected = expected(&rows, case.tokens);
        // The logarithm of a sum of exponentials moves no farther than the logits do.
        let tolerance = 2.0 * case.f32_tolerance() * std_dev(&rows);
        let logprobs = |all: &mut dyn Iterator<Item = f64>| all.collect::<Vec<_>>();
        let found = logprobs(&mut scores.iter().map(|score| score.logprob));
        let error = max_abs_diff(&found, &logprobs(&mut expected.iter().map(|(logprob, _)| *logprob)));
        assert!(error < tolerance, "{}: {error:e}, tolerance {tolerance:e}", case.name);
        assert!(
            scores.iter().zip(&expected).all(|(score, (_, is_greatest))| score.is_greatest == *is_greatest)
        );
    }
}

#[test]
fn perplexity_is_by_the_scores_of_the_second_half_of_each_window() {
    let model = open_small();
    let tokens = tokens(250, SHAPE.vocab_size);
    let options = PerplexityOptions::new().context_length(100);
    let measured = model.perplexity(&tokens, options, |_| ControlFlow::Continue(())).unwrap();
    let (mut sum, mut n) = (0.0, 0_u32);
    for window in tokens.chunks_exact(100) {
        for score in &model.session().score(window).unwrap()[51..] {
            sum -= score.logprob;
            n += 1;
        }
    }
    assert_eq!((measured.n_predictions, measured.mean()), (n as usize, sum / f64::from(n)));
}

#[test]
fn what_greedy_decoding_says_is_always_the_greatest() {
    let model = Model::open(BUNDLED).unwrap();
    let (mut session, mut sampler) = (model.session(), greedy());
    session.generate("Once", &mut sampler).unwrap().max_tokens(30).for_each(|piece| drop(piece.unwrap()));
    session.forward(&[]).unwrap(); // the last token
    let mut text = session.tokens().to_vec();
    let n_prompt = text.len() - 30;
    let scores = model.session().score(&text).unwrap();
    assert!(scores[n_prompt..].iter().all(|score| score.is_greatest && score.logprob > -3.0), "{scores:?}");
    text[n_prompt + 7] ^= 1;
    let scores = model.session().score(&text).unwrap();
    assert!(!scores[n_prompt + 7].is_greatest, "{scores:?}");
}

#[test]
fn a_pending_token_is_fed_and_has_no_score() {
    let model = Model::open(BUNDLED).unwrap();
    let (mut session, mut sampler) = (model.session(), greedy());
    session.generate("Once", &mut sampler).unwrap().max_tokens(5).for_each(|piece| drop(piece.unwrap()));
    let pending = session.pending().unwrap();
    assert_eq!(session.score(&[]).unwrap(), []);
    assert_eq!(session.pending(), Some(pending), "without tokens nothing is fed");

    let text = [session.tokens(), &[pending]].concat();
    let mut fresh = model.session();
    fresh.forward(&text).unwrap();
    let more = [7, 300, 9];
    assert_eq!(bits(&session.score(&more).unwrap()), bits(&fresh.score(&more).unwrap()));
    assert_eq!((session.pending(), session.tokens()), (None, fresh.tokens()));
}

#[test]
fn law_08_tokens_that_cannot_be_scored_change_nothing() {
    let model = open_small();
    for forgets in [false, true] {
        let mut session = model.session_with(SessionOptions::new().context_length(10));
        session.forward(&[1, 2, 3, 4]).unwrap();
        if forgets {
            session.truncate(3);
        }
        let (before, logits) = (session.tokens().to_vec(), session.logits().map(<[f32]>::to_vec));
        refuses!(session.score(&[5, 61]), ErrorKind::TokenOutOfRange { token: 61, vocab_size: 61 });
        refuses!(session.score(&[5; 9]), ErrorKind::ContextFull { capacity: 10, .. });
        assert_eq!((session.tokens(), session.logits()), (&before[..], logits.as_deref()));
        let fits = 10 - session.position();
        assert_eq!(session.score(&vec![5; fits]).unwrap().len(), fits);
        assert_eq!(session.score(&[]).unwrap(), [], "also in a full context");
    }
}

#[test]
fn law_08_a_logit_that_is_not_a_number_is_refused_and_the_session_is_whole() {
    let mut damaged = RandomModel::new(SHAPE, 11);
    damaged.output = Some(damaged.tok_embeddings.clone());
    damaged.shape.tied = false;
    damaged.tok_embeddings[7 * SHAPE.dim] = f32::NAN; // token 7 spoils what comes after it
    let model = open(damaged.to_v1());
    let mut session = model.session();
    refuses!(session.score(&[1, 2, 7, 3]), ErrorKind::NanLogit { token: 0 }, "not a number");
    let position = session.position();
    session.truncate(position.min(2));
    let mut fresh = model.session();
    fresh.score(&[1, 2]).unwrap();
    assert_eq!(session.tokens(), fresh.tokens());
    assert_eq!(bits(&session.score(&[3, 4]).unwrap()), bits(&fresh.score(&[3, 4]).unwrap()));
}
