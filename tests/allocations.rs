//! Nothing is allocated for a token after the first.
//!
//! Calls to the allocator are counted on all threads, so this is one test: another's would be
//! counted too.

mod common;
#[path = "common/counting.rs"]
mod counting;

use std::hint::black_box;

use babyllama::{
    CacheDtype, Model, ModelOptions, Sampler, SamplerOptions, SessionOptions, TokenMask, Tokenizer,
};
use common::{RandomModel, Shape};
use counting::{Counting, calls, peak};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// More than 2 MiB of weights for each token as int8 too, so that threads share them.
const LARGE: Shape = Shape::new(256, 688).layers(3).heads(8, 4).vocab(512).context(512).tied();

const SMALL: Shape = Shape { dim: 32, hidden_dim: 44, n_layers: 2, ..LARGE };

/// Calls to the allocator while `work` runs.
fn counted(work: impl FnOnce()) -> u64 {
    let before = calls();
    work();
    calls() - before
}

#[test]
fn nothing_is_allocated_for_a_token_after_the_first() {
    assert_eq!(counted(|| drop(black_box(vec![1]))), 1, "the allocator counts");
    let on_another = || std::thread::scope(|scope| drop(scope.spawn(|| drop(black_box(vec![1])))));
    assert!(counted(on_another) > 1, "on every thread");

    sessions_take_what_is_said();
    sampling_allocates_nothing();
    scoring_holds_few_rows_of_logits();
    for shape in [SMALL, LARGE] {
        let model = RandomModel::new(shape, 21);
        for (name, file) in [("f32", model.to_v0()), ("int8", model.to_v2(32))] {
            for threads in [1, 2] {
                let options = ModelOptions::new().threads(threads);
                let model = Model::from_bytes_with(file.clone(), &options).unwrap();
                let what = format!("{name}, dim {}, {threads} threads", shape.dim);
                start_threads(&model);
                allocates_nothing(&model, &format!("{what}, decoding"), decoding);
                allocates_nothing(&model, &format!("{what}, after a prompt"), decoding_after_a_prompt);
            }
            // The pool that was dropped ends its threads when its helper has left, and that may
            // allocate.
            std::thread::sleep(std::time::Duration::from_millis(100));
            if shape.dim < 100 {
                generating_allocates_nothing(&file, name);
            }
        }
    }
}

/// What a cache of halves spares is what the session's options say that it spares.
fn sessions_take_what_is_said() {
    let options = ModelOptions::new().threads(1);
    let model = Model::from_bytes_with(RandomModel::new(SMALL, 21).to_v0(), &options).unwrap();
    for context in [64, 100, 512] {
        // The buffers of a pass are the model's, and stay for the next session.
        model.session().forward(&vec![1; context]).unwrap();
        let [exact, halves, int8] = [CacheDtype::F32, CacheDtype::F16, CacheDtype::Q8_0].map(|dtype| {
            let options = SessionOptions::new().context_length(context).cache_dtype(dtype);
            let (_session, taken) = peak(|| {
                let mut session = model.session_with(options);
                session.forward(&vec![1; context]).unwrap();
                session
            });
            (taken, options.memory_bytes(model.config()) as usize)
        });
        assert_eq!(exact.0 - halves.0, exact.1 - halves.1, "{context}: {exact:?} {halves:?}");
        assert_eq!(
            exact.0.wrapping_sub(int8.0),
            exact.1.wrapping_sub(int8.1),
            "{context}: {exact:?} {int8:?}"
        );
    }
}

/// The logits of a whole text would take five times as much.
fn scoring_holds_few_rows_of_logits() {
    let shape =
        Shape { dim: 4, hidden_dim: 1, n_layers: 1, n_heads: 1, n_kv_heads: 1, vocab_size: 1 << 16, ..LARGE };
    let options = ModelOptions::new().threads(1);
    let model = Model::from_bytes_with(RandomModel::new(shape, 21).to_v0(), &options).unwrap();
    let tokens: Vec<u32> = (0..320).collect();
    let (scores, taken) = peak(|| model.session().score(&tokens).unwrap());
    assert_eq!(scores.len(), 320);
    let all = 320 * shape.vocab_size * size_of::<f32>();
    assert!(taken < 20 << 20 && taken * 4 < all, "{taken} bytes of {all}");
}

fn sampling_allocates_nothing() {
    // At first one token is possible, and then all are.
    let mut logits = vec![-1000.0; 1000];
    logits[7] = 0.0;
    for top_k in [0, 900] {
        let mut sampler = Sampler::new(SamplerOptions::new().top_k(top_k).top_p(0.99));
        sampler.sample(&logits).unwrap();
        let even = vec![0.0; 1000];
        let count = counted(|| {
            sampler.sample(&even).unwrap();
        });
        assert_eq!(count, 0, "top_k {top_k}: from one possible token to a thousand");

        let mut allowed = TokenMask::new(1000);
        allowed.allow(7);
        sampler.sample_among(&logits, &allowed).unwrap();
        let count = counted(|| {
            allowed.allow_all();
            sampler.sample_among(&even, &allowed).unwrap();
        });
        assert_eq!(count, 0, "top_k {top_k}: from one allowed token to a thousand");
    }
}

/// Waits until the pool's threads run: a thread allocates when it starts, and that may be after
/// `open`.
fn start_threads(model: &Model) {
    model.session().forward(&[1, 2, 3]).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
}

/// Where a session allocated when it decoded: (position, calls).
fn decoding(model: &Model) -> Vec<(usize, u64)> {
    // Past 64 and 128 positions, which is where a cache's blocks begin; without optimization past
    // 64.
    let n = if cfg!(debug_assertions) && model.config().dim > 100 { 68 } else { 200 };
    let mut session = model.session();
    session.forward(&[1]).unwrap();
    let mut allocating = Vec::with_capacity(n);
    for token in 0..n {
        let count = counted(|| {
            session.forward(&[token as u32 % 500]).unwrap();
        });
        if count > 0 {
            allocating.push((session.position(), count));
        }
    }
    allocating
}

/// Where a session allocated when it decoded after a prompt.
fn decoding_after_a_prompt(model: &Model) -> Vec<(usize, u64)> {
    let mut session = model.session();
    session.forward(&[1; 60]).unwrap();
    let count = counted(|| {
        for token in 0..20 {
            session.forward(&[token]).unwrap();
        }
        session.forward(&[7; 30]).unwrap(); // no more tokens than the longest before
        session.truncate(3);
        session.forward(&[7; 30]).unwrap();
    });
    if count > 0 { vec![(session.position(), count)] } else { Vec::new() }
}

/// That nothing is allocated in at least one of some runs. A helper gives its thread back after 20
/// ms without work, and calling it again allocates its job: that happens where the machine is so
/// busy that this thread stands still for so long, but not each time.
fn allocates_nothing(model: &Model, what: &str, run: fn(&Model) -> Vec<(usize, u64)>) {
    let runs = if model.threads() == 1 { 1 } else { 10 };
    let mut found = Vec::new();
    for _ in 0..runs {
        found = run(model);
        if found.is_empty() {
            return;
        }
    }
    panic!("{what}: (position, allocations) {found:?}");
}

fn generating_allocates_nothing(file: &[u8], what: &str) {
    // Pieces short enough to be kept without an allocation, as nearly all are.
    let pieces: Vec<String> = (3..512).map(|id| format!(" p{id}{}", "x".repeat(id % 30))).collect();
    let pieces: Vec<&[u8]> = pieces.iter().map(String::as_bytes).collect();
    let tokenizer = Tokenizer::from_llama2c(&common::tokenizer_bin(&pieces)).unwrap();
    let options = ModelOptions::new().threads(1).tokenizer(tokenizer);
    let model = Model::from_bytes_with(file.to_vec(), &options).unwrap();
    let bans = vec![(1, f32::NEG_INFINITY), (2, f32::NEG_INFINITY)]; // it never ends
    for options in [
        SamplerOptions::new().temperature(0.0),
        SamplerOptions::new().temperature(1.0),
        SamplerOptions::new().top_k(40).min_p(0.01),
        SamplerOptions::new().repetition_penalty(1.1).frequency_penalty(0.1),
        SamplerOptions::new().typical_p(0.9).xtc_probability(0.5).temperature(0.7).temperature_last(true),
        SamplerOptions::new().top_n_sigma(2.0).dry_multiplier(0.8).dry_breakers(vec![vec![5], vec![7, 9]]),
    ] {
        let mut sampler = Sampler::new(options.clone().logit_bias(bans.clone()));
        let mut session = model.session();
        let mut generate = session.generate(&[1], &mut sampler).unwrap().stop(" p3 p3 p3 p3").stop("###");
        generate.next().unwrap().unwrap();
        let mut said = 0;
        let count = counted(|| {
            for piece in generate.by_ref().take(200) {
                said += piece.unwrap().as_str().len();
            }
        });
        assert!(said > 100, "{said} bytes of text");
        assert_eq!(count, 0, "{what}: {options:?}");
        // The likeliest tokens of a piece are what logprobs allocate.
        let mut generate = session.generate(&[1], &mut sampler).unwrap().logprobs(0);
        generate.next().unwrap().unwrap();
        let count = counted(|| generate.by_ref().take(50).for_each(|piece| drop(piece.unwrap())));
        assert_eq!(count, 0, "{what}: {options:?}, with logprobs of the tokens alone");
    }
}
