//! Generation under a constraint of the caller's.

use std::sync::{Arc, Mutex};

use babyllama::{
    Constraint, ErrorKind, FinishReason, PromptLookup, Result, Sampler, SamplerOptions, Session, TokenId,
    TokenMask,
};
use proptest::prelude::*;

use crate::common::{greedy, refuses};
use crate::{BOS, COMMA, DOT, EOS, LOOP, ONCE, PIECES, finish, open_script, open_with, rambler, script};

/// Allows what a function of the tokens so far allows, and remembers what was asked.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) masks: Vec<TokenMask>,
    pub(crate) begun: Vec<Option<TokenId>>,
}

/// A constraint, and a record of it that outlives the generation.
pub(crate) struct Recorded<C> {
    pub(crate) inner: C,
    pub(crate) record: Arc<Mutex<Record>>,
}

impl<C> Recorded<C> {
    pub(crate) fn new(inner: C) -> (Self, Arc<Mutex<Record>>) {
        let record = Arc::default();
        (Self { inner, record: Arc::clone(&record) }, record)
    }
}

impl<C: Constraint> Constraint for Recorded<C> {
    fn begin(&mut self, previous: Option<TokenId>) -> Result<()> {
        self.record.lock().unwrap().begun.push(previous);
        self.inner.begin(previous)
    }

    fn allow(&mut self, next: &mut TokenMask) -> Result<()> {
        assert!(next.words().iter().all(|word| *word == 0), "the mask is clear");
        self.inner.allow(next)?;
        self.record.lock().unwrap().masks.push(next.clone());
        Ok(())
    }

    fn accept(&mut self, token: TokenId) -> Result<()> {
        let mut record = self.record.lock().unwrap();
        assert!(record.masks.last().unwrap().is_allowed(token), "{token} was in its mask");
        record.tokens.push(token);
        drop(record);
        self.inner.accept(token)
    }

    fn forced(&mut self, out: &mut Vec<TokenId>) {
        self.inner.forced(out);
    }
}

/// Allows by the number of tokens accepted and the last of them, and fails at some number.
#[derive(Clone)]
struct Rule<F> {
    allows: F,
    n: usize,
    last: Option<TokenId>,
    fails_at: usize,
}

fn rule<F: Fn(usize, TokenId) -> bool>(allows: F) -> Rule<F> {
    Rule { allows, n: 0, last: None, fails_at: usize::MAX }
}

impl<F: Fn(usize, TokenId) -> bool + Send> Constraint for Rule<F> {
    fn allow(&mut self, next: &mut TokenMask) -> Result<()> {
        let all = 0..next.vocab_size() as TokenId;
        all.filter(|&token| (self.allows)(self.n, token)).for_each(|token| next.allow(token));
        Ok(())
    }

    fn accept(&mut self, token: TokenId) -> Result<()> {
        if self.n == self.fails_at {
            return Err(ErrorKind::Constraint { reason: "enough".into() }.into());
        }
        (self.n, self.last) = (self.n + 1, Some(token));
        Ok(())
    }
}

#[test]
fn a_text_ends_only_where_the_constraint_lets_it() {
    let model = open_script();
    let mut sampler = greedy();
    // The script would end after the dot; it says a comma instead until five more were said.
    let constraint = rule(|n, token| if n < 6 { token != EOS && token != BOS } else { token == EOS });
    let mut session = model.session();
    let generate = session.generate(&[DOT], &mut sampler).unwrap().constrain(constraint);
    let (texts, reason, n) = finish(generate);
    assert_eq!((reason, n, texts.len()), (FinishReason::EndOfText(EOS), 6, 6));
    assert_eq!(session.position(), 7);

    // An end that is allowed alone comes, whatever the logits.
    let mut session = model.session();
    let generate = session.generate(&[ONCE], &mut sampler).unwrap().constrain(rule(|_, token| token == EOS));
    assert_eq!(finish(generate), (vec![], FinishReason::EndOfText(EOS), 0));
}

#[test]
fn a_constraint_is_told_what_the_text_comes_after() {
    let model = open_script();
    let mut session = model.session();
    let mut begun = Vec::new();
    for prompt in [&[BOS][..], &[], &[LOOP]] {
        let (constraint, record) = Recorded::new(rule(|_, _| true));
        let mut sampler = greedy();
        let generate = session.generate(prompt, &mut sampler).unwrap().constrain(constraint).max_tokens(1);
        finish(generate);
        begun.extend(record.lock().unwrap().begun.clone());
    }
    // The second begins after the token that the first left pending.
    assert_eq!(begun, [Some(BOS), Some(ONCE), Some(LOOP)]);
}

#[test]
fn an_error_of_a_constraint_ends_the_generation_and_leaves_the_session() {
    let model = open_script();
    let (mut session, mut sampler) = (model.session(), greedy());
    let mut constraint = rule(|_, _| true);
    constraint.fails_at = 2;
    let mut generate = session.generate(&[BOS], &mut sampler).unwrap().constrain(constraint);
    assert_eq!(generate.by_ref().take(2).filter(Result::is_ok).count(), 2);
    refuses!(generate.next().unwrap(), ErrorKind::Constraint { .. }, "the constraint can't go on: enough");
    assert!(generate.next().is_none() && generate.finish_reason().is_none());
    assert_eq!(session.tokens(), [BOS, 3, 4]);
    assert_eq!(session.pending(), None);
    // It goes on as a fresh one would.
    assert_eq!(finish(session.generate("", &mut sampler).unwrap()).0.concat(), " a time, the end.");

    let mut generate = session.generate(&[LOOP], &mut sampler).unwrap().constrain(rule(|_, _| false));
    refuses!(generate.next().unwrap(), ErrorKind::NoCandidate, "or a constraint");
}

#[test]
fn a_padded_models_logits_without_a_piece_have_no_bit() {
    let padded = open_with(&script(), &PIECES[..11]);
    assert_eq!((padded.config().vocab_size, padded.tokenizer().unwrap().vocab_size()), (16, 14));
    let (constraint, record) = Recorded::new(rule(|_, token| token == 13));
    let (mut session, mut sampler) = (padded.session(), greedy());
    finish(session.generate(&[BOS], &mut sampler).unwrap().constrain(constraint).max_tokens(3));
    let record = record.lock().unwrap();
    assert_eq!(record.tokens, [13, 13, 13]);
    assert!(record.masks.iter().all(|mask| mask.vocab_size() == 14));
}

fn run(session: &mut Session, sampler: &mut Sampler, cuts: &[usize]) -> (String, Vec<TokenId>) {
    let (constraint, record) = Recorded::new(rule(|n, token| !(token + n as u32).is_multiple_of(3)));
    let shared: Arc<Mutex<dyn Constraint>> = Arc::new(Mutex::new(constraint));
    let mut text = String::new();
    for (i, &cut) in cuts.iter().enumerate() {
        let prompt: &[TokenId] = if i == 0 { &[BOS] } else { &[] };
        let generate = session.generate(prompt, sampler).unwrap().constrain(Arc::clone(&shared));
        text.extend(generate.take(cut).map(|piece| piece.unwrap()));
    }
    let tokens = record.lock().unwrap().tokens.clone();
    (text, tokens)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, ..ProptestConfig::default() })]
    #[test]
    fn generations_that_share_a_constraint_are_one_wherever_they_are_cut(
        cuts in proptest::collection::vec(1..6_usize, 2..5),
        temperature in prop::sample::select(vec![0.0_f32, 1.0]),
        seed in any::<u64>(),
    ) {
        let model = rambler();
        let options = SamplerOptions::new().temperature(temperature).seed(seed).repetition_penalty(1.2)
            .logit_bias(vec![(BOS, f32::NEG_INFINITY), (EOS, f32::NEG_INFINITY)]);
        let (mut whole, mut parts) = (Sampler::new(options.clone()), Sampler::new(options));
        let total = cuts.iter().sum();
        let expected = run(&mut model.session(), &mut whole, &[total]);
        let found = run(&mut model.session(), &mut parts, &cuts);
        prop_assert_eq!(expected.1.len(), total);
        prop_assert_eq!(found, expected);
    }

    /// [`Recorded`] holds each token to its mask; here the text is held to the rule as a whole.
    #[test]
    fn law_10_each_constrained_token_was_in_its_mask(
        table in proptest::collection::vec(1..u16::MAX, 1..8),
        temperature in prop::sample::select(vec![0.0_f32, 0.7, 2.0]),
        seed in any::<u64>(),
        max_tokens in 0..40_usize,
        drafts in any::<bool>(),
    ) {
        // Of 16 tokens, those of a bit set; which set, goes by the number of tokens before.
        let allows = |n: usize, token: TokenId| table[n % table.len()] >> token & 1 == 1;
        let (constraint, record) = Recorded::new(rule({
            let table = table.clone();
            move |n, token| table[n % table.len()] >> token & 1 == 1
        }));
        let options = SamplerOptions::new().temperature(temperature).seed(seed).presence_penalty(0.5);
        let (model, mut sampler) = (rambler(), Sampler::new(options));
        let mut session = model.session();
        let generate = session.generate(&[BOS, ONCE], &mut sampler).unwrap().constrain(constraint);
        let mut generate = generate.max_tokens(max_tokens);
        if drafts {
            generate = generate.draft(PromptLookup::new());
        }
        let said: Vec<TokenId> = generate.by_ref().filter_map(|piece| piece.unwrap().token()).collect();
        for (n, &token) in said.iter().enumerate() {
            prop_assert!(allows(n, token), "{} after {}", token, n);
        }
        match generate.finish_reason().unwrap() {
            FinishReason::EndOfText(end) => prop_assert!(allows(said.len(), end)),
            reason => prop_assert_eq!((reason, said.len()), (FinishReason::MaxTokens, max_tokens)),
        }
        let record = record.lock().unwrap();
        prop_assert_eq!(&record.tokens, &said);
        for (n, mask) in record.masks.iter().enumerate() {
            prop_assert!((0..16).all(|token| mask.is_allowed(token) == allows(n, token)));
        }
    }

    #[test]
    fn a_constraint_that_allows_all_changes_nothing(seed in any::<u64>(), top_k in 0..4_usize) {
        let model = rambler();
        let options = SamplerOptions::new().top_k(top_k).seed(seed).frequency_penalty(0.3);
        let mut results = [true, false].map(|constrained| {
            let mut sampler = Sampler::new(options.clone());
            let mut session = model.session();
            let mut generate = session.generate(&[COMMA], &mut sampler).unwrap().max_tokens(20);
            if constrained {
                generate = generate.constrain(rule(|_, _| true));
            }
            let result = finish(generate);
            (result, session.tokens().to_vec(), format!("{sampler:?}"))
        });
        let (found, expected) = results.split_at_mut(1);
        prop_assert_eq!(&found[0], &expected[0]);
    }
}
