//! The stages between logits and the token that is drawn, in their order.
//!
//! A new one is a function here, its row in a list, and its options' rows in `options.rs`.

use super::candidates::{Candidates, max};
use super::history::History;
use super::options::SamplerOptions;
use super::rng::Rng;

/// A stage, and whether the options ask for it.
pub(super) struct Stage<F> {
    is_on: fn(&SamplerOptions) -> bool,
    apply: F,
}

/// Changes logits. One of minus infinity must stay that, and none may become NaN.
type Adjustment = fn(&SamplerOptions, &mut History, &mut [f32]);

/// Drops candidates, but never all.
type Filter = fn(&SamplerOptions, &mut Rng, &mut Candidates<'_>);

/// Before the logits are divided by the temperature and softmax makes probabilities of them.
pub(super) static ADJUSTMENTS: [Stage<Adjustment>; 5] = [
    Stage { is_on: |options| !options.logit_bias.is_empty(), apply: logit_bias },
    Stage { is_on: SamplerOptions::has_repetition_penalty, apply: repetition_penalty },
    Stage { is_on: SamplerOptions::has_count_penalties, apply: count_penalties },
    Stage { is_on: SamplerOptions::has_dry, apply: dry },
    // It needs the logits' standard deviation, which probabilities that rounded to 0 have lost.
    Stage { is_on: |options| options.top_n_sigma > 0.0, apply: top_n_sigma },
];

/// After softmax, before a token is drawn.
pub(super) static FILTERS: [Stage<Filter>; 5] = [
    Stage { is_on: |options| options.min_p > 0.0, apply: min_p },
    Stage {
        is_on: |options| options.top_k > 0,
        apply: |options, _, left| left.keep_likeliest(options.top_k),
    },
    Stage {
        is_on: |options| options.typical_p < 1.0,
        apply: |options, _, left| left.keep_typical(options.typical_p),
    },
    Stage {
        is_on: |options| options.top_p > 0.0 && options.top_p < 1.0,
        apply: |options, _, left| left.keep_nucleus(options.top_p),
    },
    Stage { is_on: SamplerOptions::has_xtc, apply: xtc },
];

/// The stages of a list that the options ask for.
pub(super) fn chosen<F: Copy>(stages: &[Stage<F>], options: &SamplerOptions) -> impl Iterator<Item = F> {
    stages.iter().filter(|stage| (stage.is_on)(options)).map(|stage| stage.apply)
}

fn logit_bias(options: &SamplerOptions, _: &mut History, logits: &mut [f32]) {
    for &(token, bias) in &options.logit_bias {
        if let Some(logit) = logits.get_mut(token as usize) {
            // Added to plus infinity, a ban would give NaN.
            *logit = if bias == f32::NEG_INFINITY { bias } else { *logit + bias };
        }
    }
}

fn repetition_penalty(options: &SamplerOptions, history: &mut History, logits: &mut [f32]) {
    let penalty = options.repetition_penalty;
    for &(token, _) in &history.counts {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

/// The frequency and the presence penalty.
fn count_penalties(options: &SamplerOptions, history: &mut History, logits: &mut [f32]) {
    for &(token, count) in &history.counts {
        if let Some(logit) = logits.get_mut(token as usize) {
            let penalty = count as f32 * options.frequency_penalty + options.presence_penalty;
            // Finite, because the difference of two infinities is NaN.
            *logit -= penalty.clamp(f32::MIN, f32::MAX);
        }
    }
}

fn dry(options: &SamplerOptions, history: &mut History, logits: &mut [f32]) {
    let (text, dry) = history.last(options.dry_window);
    dry.penalize(options, text, logits);
}

/// Drops logits that are more than some standard deviations below the greatest. Of the deviation,
/// those that are possible count.
fn top_n_sigma(options: &SamplerOptions, _: &mut History, logits: &mut [f32]) {
    let possible =
        || logits.iter().filter(|&&logit| logit > f32::NEG_INFINITY).map(|&logit| f64::from(logit));
    let count = possible().count() as f64;
    let mean = possible().sum::<f64>() / count;
    let variance = possible().map(|logit| (logit - mean) * (logit - mean)).sum::<f64>() / count;
    let cutoff = f64::from(max(logits)) - f64::from(options.top_n_sigma) * variance.sqrt();
    // With a logit of plus infinity the cutoff is not a number, and softmax drops the others.
    logits
        .iter_mut()
        .filter(|logit| f64::from(**logit) < cutoff)
        .for_each(|logit| *logit = f32::NEG_INFINITY);
}

fn min_p(options: &SamplerOptions, _: &mut Rng, candidates: &mut Candidates<'_>) {
    candidates.keep_at_least(options.min_p * candidates.greatest());
}

/// Takes its random number whether there is something to drop or not, so that the random numbers
/// after it don't depend on the logits.
fn xtc(options: &SamplerOptions, rng: &mut Rng, candidates: &mut Candidates<'_>) {
    if rng.next_f32() < options.xtc_probability {
        candidates.drop_top_choices(options.xtc_threshold);
    }
}
