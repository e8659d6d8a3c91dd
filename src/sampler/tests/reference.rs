//! All stages after the penalties in plain f64, from the papers.

use super::*;

/// Which tokens are left, and how far the closest decision was from going the other way, where
/// rounding may decide it.
struct Reference<'a> {
    logits: &'a [f32],
    /// Those that are left.
    tokens: Vec<usize>,
    margin: f64,
}

impl Reference<'_> {
    fn logit(&self, token: usize) -> f64 {
        f64::from(self.logits[token])
    }

    /// The probabilities of what is left, which add up to 1.
    fn probs(&self, temperature: f64) -> Vec<f64> {
        let max = self.tokens.iter().map(|&t| self.logit(t)).fold(f64::NEG_INFINITY, f64::max);
        let exps: Vec<_> = self.tokens.iter().map(|&t| ((self.logit(t) - max) / temperature).exp()).collect();
        let sum: f64 = exps.iter().sum();
        exps.iter().map(|x| x / sum).collect()
    }

    fn margin(&mut self, distance: f64) {
        self.margin = self.margin.min(distance.abs());
    }

    /// Notes how far a token that stays is from one that goes. Equal logits are no matter of
    /// rounding.
    fn gap(&mut self, stays: usize, goes: usize, distance: f64) {
        if self.logits[stays] != self.logits[goes] {
            self.margin(distance);
        }
    }

    /// Orders what is left by a number, the smallest first, and returns it with its probabilities.
    fn order_by(&mut self, temperature: f64, number: impl Fn(f64) -> f64) -> Vec<f64> {
        let mut pairs: Vec<_> = self.tokens.iter().copied().zip(self.probs(temperature)).collect();
        pairs.sort_by(|a, b| number(a.1).total_cmp(&number(b.1)).then(a.0.cmp(&b.0)));
        self.tokens = pairs.iter().map(|pair| pair.0).collect();
        pairs.iter().map(|pair| pair.1).collect()
    }

    /// Keeps the first `n` of what is ordered by numbers.
    fn cut(&mut self, n: usize, numbers: &[f64]) {
        if n < self.tokens.len() {
            self.gap(self.tokens[n - 1], self.tokens[n], numbers[n - 1] - numbers[n]);
            self.tokens.truncate(n);
        }
    }

    /// How many of these it takes to reach a sum.
    fn reach(&mut self, sum: f64, probs: &[f64]) -> usize {
        let mut cumulative = 0.0;
        for (i, p) in probs.iter().enumerate() {
            cumulative += p;
            self.margin(cumulative - sum);
            if cumulative >= sum {
                return i + 1;
            }
        }
        probs.len()
    }

    fn top_n_sigma(&mut self, n: f64) {
        self.tokens.retain(|&t| self.logits[t] > f32::NEG_INFINITY);
        let logits: Vec<_> = self.tokens.iter().map(|&t| self.logit(t)).collect();
        let mean = logits.iter().sum::<f64>() / logits.len() as f64;
        let variance = logits.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / logits.len() as f64;
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let cutoff = max - n * variance.sqrt();
        logits.iter().filter(|&&x| x != max).for_each(|x| self.margin(x - cutoff));
        self.tokens = self
            .tokens
            .iter()
            .copied()
            .filter(|&t| self.logit(t) >= cutoff || self.logit(t) == max)
            .collect();
    }

    fn min_p(&mut self, min_p: f64, temperature: f64) {
        let probs = self.order_by(temperature, |p| -p);
        let n = probs.iter().filter(|&&p| p >= min_p * probs[0]).count();
        probs.iter().filter(|&&p| p != probs[0]).for_each(|p| self.margin(p / (min_p * probs[0]) - 1.0));
        self.tokens.truncate(n);
    }

    fn top_k(&mut self, k: usize, temperature: f64) {
        let logs: Vec<_> = self.order_by(temperature, |p| -p).iter().map(|p| p.ln()).collect();
        self.cut(k, &logs);
    }

    /// The closest to the entropy first, until they reach the mass.
    fn typical_p(&mut self, mass: f64, temperature: f64) {
        let entropy: f64 = self.probs(temperature).iter().map(|p| -p * p.ln()).sum();
        let distance = |p: f64| (-p.ln() - entropy).abs();
        let probs = self.order_by(temperature, distance);
        let n = self.reach(mass, &probs);
        self.cut(n, &probs.iter().map(|&p| distance(p)).collect::<Vec<_>>());
    }

    fn top_p(&mut self, top_p: f64, temperature: f64) {
        let probs = self.order_by(temperature, |p| -p);
        let n = self.reach(top_p, &probs);
        self.cut(n, &probs.iter().map(|p| p.ln()).collect::<Vec<_>>());
    }

    fn xtc(&mut self, threshold: f64, temperature: f64) {
        let probs = self.order_by(temperature, |p| -p);
        probs.iter().for_each(|p| self.margin(p / threshold - 1.0));
        let n = probs.iter().filter(|&&p| p >= threshold).count();
        self.tokens.drain(..n.saturating_sub(1));
    }
}

/// What the options leave of logits, with the probabilities.
fn reference<'a>(options: &SamplerOptions, logits: &'a [f32]) -> (Reference<'a>, Vec<f64>) {
    let mut left = Reference { logits, tokens: (0..logits.len()).collect(), margin: f64::INFINITY };
    let temperature = f64::from(options.temperature);
    let first = if options.temperature_last { 1.0 } else { temperature };
    left.tokens.retain(|&t| logits[t] > f32::NEG_INFINITY);
    if options.top_n_sigma > 0.0 {
        left.top_n_sigma(f64::from(options.top_n_sigma));
    }
    if options.min_p > 0.0 {
        left.min_p(f64::from(options.min_p), first);
    }
    if options.top_k > 0 {
        left.top_k(options.top_k, first);
    }
    if options.typical_p < 1.0 {
        left.typical_p(f64::from(options.typical_p), first);
    }
    if options.top_p < 1.0 {
        left.top_p(f64::from(options.top_p), first);
    }
    if Rng::new(options.seed).next_f32() < options.xtc_probability {
        left.xtc(f64::from(options.xtc_threshold), first);
    }
    let probs = left.probs(temperature);
    (left, probs)
}

/// Logits of which many are equal, or few, or some impossible; the exponents stay below 16 / 0.3.
fn some_logits() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![
        3 => -8.0..8.0_f32,
        3 => (-8..8_i8).prop_map(f32::from),
        1 => Just(f32::NEG_INFINITY),
    ];
    proptest::collection::vec(logit, 1..40).prop_filter("none is possible", |x| max_of(x) > f32::NEG_INFINITY)
}

fn max_of(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

fn some_filters() -> impl Strategy<Value = SamplerOptions> {
    let off_or = |range: std::ops::Range<f32>, off: f32| prop_oneof![2 => Just(off), 1 => range];
    let old = (off_or(0.05..0.99, 1.0), prop_oneof![Just(0_usize), 1..30_usize], off_or(0.001..0.5, 0.0));
    let new = (off_or(0.02..0.99, 1.0), off_or(0.1..4.0, 0.0), off_or(0.0..1.0, 0.0), 0.01..0.5_f32);
    (old, new, prop_oneof![Just(1.0), 0.3..3.0_f32], any::<bool>(), any::<u64>()).prop_map(
        |(
            (top_p, top_k, min_p),
            (typical_p, top_n_sigma, xtc_probability, xtc_threshold),
            temperature,
            last,
            seed,
        )| {
            let options = SamplerOptions::new().temperature(temperature).temperature_last(last).seed(seed);
            let options = options.top_p(top_p).top_k(top_k).min_p(min_p).typical_p(typical_p);
            options.top_n_sigma(top_n_sigma).xtc_probability(xtc_probability).xtc_threshold(xtc_threshold)
        },
    )
}

/// The relative error of a probability in f32: a quotient of at most 16 / 0.3, its difference from
/// another and the greatest one are rounded, which an exponential makes relative; then a sum of 40,
/// a quotient and another sum.
const PROB_ERROR: f64 = (3.0 * 16.0 / 0.3 + 2.0 * 40.0 + 8.0) / 16_777_216.0;

proptest! {
    // At most one case in ten may be so close to a border that rounding decides it.
    #![proptest_config(ProptestConfig { cases: 4000, max_global_rejects: 400, ..ProptestConfig::default() })]

    /// Of equals typical sampling may keep others than the reference, so logits are compared, not
    /// tokens.
    #[test]
    fn filters_leave_what_the_reference_leaves(options in some_filters(), logits in some_logits()) {
        let found = kept(&options, &logits);
        let (left, probs) = reference(&options, &logits);
        prop_assert!(!found.is_empty());
        prop_assert!(found.iter().all(|&(token, _)| logits[token as usize] > f32::NEG_INFINITY));
        // An entropy's error is a few times that of a probability.
        prop_assume!(left.margin > 4.0 * PROB_ERROR);
        let mut expected: Vec<_> = left.tokens.iter().map(|&token| logits[token]).zip(probs).collect();
        let mut found: Vec<_> = found.into_iter().map(|(token, p)| (logits[token as usize], p)).collect();
        for kept in [&mut expected, &mut found] {
            kept.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
        let only_logits = |kept: &[(f32, f64)]| kept.iter().map(|&(logit, _)| logit).collect::<Vec<_>>();
        prop_assert_eq!(only_logits(&found), only_logits(&expected));
        for ((_, p), (_, expected)) in found.into_iter().zip(expected) {
            prop_assert!((p / expected - 1.0).abs() <= 2.0 * PROB_ERROR, "{} {}", p, expected);
        }
    }

    #[test]
    fn the_temperature_may_come_last_without_filters(logits in some_logits(), temperature in 0.1..9.0_f32, seed in any::<u64>()) {
        let first = plain().temperature(temperature).seed(seed);
        let (mut first, mut last) = (sampler(first.clone()), sampler(first.temperature_last(true)));
        for _ in 0..4 {
            prop_assert_eq!(first.sample(&logits).unwrap(), last.sample(&logits).unwrap());
        }
        prop_assert_eq!(first.probs, last.probs);
    }
}

#[test]
fn xtc_keeps_the_least_likely_top_choice() {
    let logits = logits_of(&[0.1, 0.25, 0.4, 0.25]);
    let options = plain().xtc_probability(1.0);
    let drawn = |options: &SamplerOptions| counts(options.clone(), &logits, 20_000);
    assert_distribution(&drawn(&options.clone().xtc_threshold(0.2)), &[0.1 / 0.35, 0.0, 0.0, 0.25 / 0.35]);
    assert_distribution(&drawn(&options.clone().xtc_threshold(0.3)), &[0.1, 0.25, 0.4, 0.25]);
    let half = options.xtc_threshold(0.05).xtc_probability(0.5);
    assert_distribution(&drawn(&half), &[0.5 + 0.05, 0.125, 0.2, 0.125]);
}

#[test]
fn xtc_takes_a_random_number_of_its_own_when_it_is_on() {
    for (probability, threshold, temperature, n) in
        [(0.0, 0.1, 1.0, 1), (0.5, 0.6, 1.0, 1), (0.5, 0.1, 1.0, 2), (1.0, 0.5, 1.0, 2), (1.0, 0.1, 0.0, 0)]
    {
        let mut sampler =
            sampler(plain().xtc_probability(probability).xtc_threshold(threshold).temperature(temperature));
        let mut rng = sampler.rng.clone();
        for logits in [&[0.0][..], &[1.0, 2.0, 3.0]] {
            sampler.sample(logits).unwrap();
            (0..n).for_each(|_| _ = rng.next_f32());
            assert_eq!(sampler.rng, rng, "{probability} {threshold}");
        }
    }
}

#[test]
fn typical_sampling_can_drop_the_likeliest() {
    // The entropy is 1.33, and the information 0.92 and 1.61: 0.4 is farther from it than 0.2.
    let logits = logits_of(&[0.4, 0.2, 0.2, 0.2]);
    assert_eq!(kept(&plain().typical_p(0.5), &logits).iter().map(|t| t.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(kept(&plain().typical_p(1e-9), &[0.0; 9]).len(), 1);
}

#[test]
fn top_n_sigma_is_the_same_at_every_temperature() {
    let logits = [0.0, 1.0, 2.0, 3.0, 10.0, f32::NEG_INFINITY]; // mean 3.2, deviation 3.54
    for temperature in [0.1, 1.0, 9.0] {
        let options = plain().top_n_sigma(2.0).temperature(temperature);
        let tokens: Vec<_> = kept(&options, &logits).iter().map(|t| t.0).collect();
        assert_eq!(tokens, [3, 4]);
    }
    let infinite = [f32::INFINITY, 1.0, f32::INFINITY];
    assert_eq!(kept(&plain().top_n_sigma(1.0), &infinite).len(), 2);
}
