//! The stages between logits and the token that is drawn, in their order.
//!
//! A new one is a function here, its row in a list, and its options' rows in `options.rs`.

use super::candidates::Candidates;
use super::history::History;
use super::options::SamplerOptions;

/// A stage, and whether the options ask for it.
pub(super) struct Stage<F> {
    is_on: fn(&SamplerOptions) -> bool,
    apply: F,
}

/// Changes logits. One of minus infinity must stay that, and none may become NaN.
type Adjustment = fn(&SamplerOptions, &History, &mut [f32]);

/// Drops candidates, but never the likeliest.
type Filter = fn(&SamplerOptions, &mut Candidates<'_>);

/// Before the logits are divided by the temperature and softmax makes probabilities of them.
pub(super) static ADJUSTMENTS: [Stage<Adjustment>; 3] = [
    Stage { is_on: |options| !options.logit_bias.is_empty(), apply: logit_bias },
    Stage { is_on: SamplerOptions::has_repetition_penalty, apply: repetition_penalty },
    Stage { is_on: SamplerOptions::has_count_penalties, apply: count_penalties },
];

/// After softmax, before a token is drawn.
pub(super) static FILTERS: [Stage<Filter>; 3] = [
    Stage { is_on: |options| options.min_p > 0.0, apply: min_p },
    Stage { is_on: |options| options.top_k > 0, apply: |options, left| left.keep_likeliest(options.top_k) },
    Stage {
        is_on: |options| options.top_p > 0.0 && options.top_p < 1.0,
        apply: |options, left| left.keep_nucleus(options.top_p),
    },
];

/// The stages of a list that the options ask for.
pub(super) fn chosen<F: Copy>(stages: &[Stage<F>], options: &SamplerOptions) -> impl Iterator<Item = F> {
    stages.iter().filter(|stage| (stage.is_on)(options)).map(|stage| stage.apply)
}

fn logit_bias(options: &SamplerOptions, _: &History, logits: &mut [f32]) {
    for &(token, bias) in &options.logit_bias {
        if let Some(logit) = logits.get_mut(token as usize) {
            // Added to plus infinity, a ban would give NaN.
            *logit = if bias == f32::NEG_INFINITY { bias } else { *logit + bias };
        }
    }
}

fn repetition_penalty(options: &SamplerOptions, history: &History, logits: &mut [f32]) {
    let penalty = options.repetition_penalty;
    for &(token, _) in &history.counts {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

/// The frequency and the presence penalty.
fn count_penalties(options: &SamplerOptions, history: &History, logits: &mut [f32]) {
    for &(token, count) in &history.counts {
        if let Some(logit) = logits.get_mut(token as usize) {
            let penalty = count as f32 * options.frequency_penalty + options.presence_penalty;
            // Finite, because the difference of two infinities is NaN.
            *logit -= penalty.clamp(f32::MIN, f32::MAX);
        }
    }
}

fn min_p(options: &SamplerOptions, candidates: &mut Candidates<'_>) {
    candidates.keep_at_least(options.min_p * candidates.greatest());
}
