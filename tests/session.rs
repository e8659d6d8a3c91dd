//! Sessions: feeding, taking back, forking, and the same bits whoever computes them.

mod common;

use std::sync::Arc;

use babyllama::{
    CacheDtype, Error, ErrorKind, Isa, Model, ModelBytes, ModelOptions, Session, SessionOptions,
};
use common::{RandomModel, Shape};

const SHAPE: Shape = Shape {
    dim: 24,
    hidden_dim: 44,
    n_layers: 2,
    n_heads: 6,
    n_kv_heads: 2,
    vocab_size: 61,
    max_seq_len: 700,
    tied: true,
};

/// More than 2 MiB of weights as int8 too, so that threads share them; heads and rows that 3
/// threads don't divide.
const LARGE: Shape = Shape {
    dim: 256,
    hidden_dim: 700,
    n_layers: 3,
    n_heads: 8,
    n_kv_heads: 4,
    vocab_size: 501,
    max_seq_len: 700,
    tied: true,
};

/// Without optimisation the kernels are some fifty times slower: the longest tests do less then.
const UNOPTIMISED: bool = cfg!(debug_assertions);

fn small_files() -> [(&'static str, Vec<u8>); 3] {
    let model = RandomModel::new(SHAPE, 11);
    [("v0", model.to_v0()), ("v1", model.to_v1()), ("v2", model.to_v2(8))]
}

fn large_files() -> [(&'static str, Vec<u8>); 2] {
    let model = RandomModel::new(LARGE, 12);
    [("f32", model.to_v1()), ("int8", model.to_v2(32))]
}

fn tokens(n: usize, vocab_size: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * i + 3 * i + 1) % vocab_size) as u32).collect()
}

fn open(file: Vec<u8>, isa: Isa, threads: usize) -> Model {
    Model::from_bytes_with(file, &ModelOptions::new().isa(isa).threads(threads)).unwrap()
}

fn open_small() -> Model {
    open(RandomModel::new(SHAPE, 11).to_v1(), Isa::best(), 1)
}

/// That two rows of logits are the same bits, and that they are numbers.
#[track_caller]
fn assert_same(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}: lengths");
    let first = a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!(first, None, "{what}: the first logit that differs");
    assert!(!a.is_empty() && a.iter().all(|x| x.is_finite()), "{what}: finite");
}

/// Every token's logits, fed one by one.
fn step_by_step(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut session = model.session();
    let mut all = Vec::new();
    for (i, &token) in tokens.iter().enumerate() {
        assert_eq!(session.position(), i);
        all.extend_from_slice(session.forward(&[token]).unwrap());
    }
    all
}

// --- Prefill and decode

#[test]
fn prefill_gives_the_bits_of_as_many_decodes() {
    // 255 to 257 are around the batch that passes through the layers at once, and 600 are three of
    // them. 1 to 9 have all remainders of the tiles of tokens.
    let lengths = [1, 2, 3, 4, 5, 6, 7, 8, 9, 63, 64, 65, 255, 256, 257, 300, 600];
    let longest = if UNOPTIMISED { 300 } else { 600 };
    for (name, file) in small_files().into_iter().skip(usize::from(UNOPTIMISED)) {
        for isa in Isa::available() {
            let model = open(file.clone(), isa, 1);
            let tokens = tokens(longest, SHAPE.vocab_size);
            let one_by_one = step_by_step(&model, &tokens);
            for n in lengths
                .into_iter()
                .filter(|n| *n <= longest && !(UNOPTIMISED && [1, 6, 8, 9, 63, 255, 256].contains(n)))
            {
                let mut session = model.session();
                let expected = &one_by_one[(n - 1) * SHAPE.vocab_size..][..SHAPE.vocab_size];
                let what = format!("{name} {} {n} tokens", isa.name());
                assert_same(session.forward(&tokens[..n]).unwrap(), expected, &what);
                assert_eq!((session.position(), session.tokens()), (n, &tokens[..n]), "{what}");
            }
        }
    }
}

#[test]
fn every_row_of_forward_all_is_a_decodes() {
    for (name, file) in small_files() {
        let model = open(file, Isa::best(), 1);
        let tokens = tokens(300, SHAPE.vocab_size);
        let one_by_one = step_by_step(&model, &tokens);
        let mut session = model.session();
        assert_same(session.forward_all(&tokens).unwrap(), &one_by_one, name);
        assert_same(session.logits().unwrap(), &one_by_one[299 * SHAPE.vocab_size..], name);
        assert_eq!(session.position(), 300);
    }
}

#[test]
fn a_text_may_be_fed_in_any_parts() {
    let model = open_small();
    let tokens = tokens(600, SHAPE.vocab_size);
    let expected = step_by_step(&model, &tokens);
    for parts in [&[1, 599][..], &[599, 1], &[256, 256, 88], &[10, 300, 1, 1, 288], &[63, 2, 62, 2, 471]] {
        let mut session = model.session();
        let mut all = Vec::new();
        let mut at = 0;
        for (i, &n) in parts.iter().enumerate() {
            let part = &tokens[at..at + n];
            at += n;
            if i % 2 == 0 {
                all.extend_from_slice(session.forward_all(part).unwrap());
            } else {
                let last = session.forward(part).unwrap();
                assert_eq!(last.len(), SHAPE.vocab_size);
                all.extend_from_slice(&expected[all.len()..(at - 1) * SHAPE.vocab_size]);
                all.extend_from_slice(last);
            }
        }
        assert_eq!(at, 600);
        assert_same(&all, &expected, &format!("{parts:?}"));
    }
}

#[test]
fn logits_depend_on_every_token_before_them() {
    // The tests above would pass if attention saw nothing but its own position.
    let model = open_small();
    let mut other = tokens(100, SHAPE.vocab_size);
    let before = step_by_step(&model, &other);
    for changed in [0, 40, 63, 64] {
        other[changed] ^= 1;
        let after = model.session().forward(&other).unwrap().to_vec();
        assert_ne!(after, before[99 * SHAPE.vocab_size..], "token {changed} must matter");
        other[changed] ^= 1;
    }
}

// --- Taking back and forking

#[test]
fn truncating_and_feeding_again_is_as_if_fresh() {
    for (name, file) in small_files() {
        let model = open(file, Isa::best(), 1);
        let tokens = tokens(130, SHAPE.vocab_size);
        let other: Vec<u32> = tokens.iter().map(|t| (t + 1) % SHAPE.vocab_size as u32).collect();
        for keep in [0, 1, 63, 64, 65, 129] {
            let mut session = model.session();
            session.forward(&tokens).unwrap();
            session.truncate(keep);
            assert_eq!((session.position(), session.tokens()), (keep, &tokens[..keep]));
            assert_eq!(session.logits(), None, "what followed a token that is gone says nothing");
            let again = session.forward(&other[keep..]).unwrap().to_vec();

            let mut fresh = model.session();
            let mixed = [&tokens[..keep], &other[keep..]].concat();
            assert_same(&again, fresh.forward(&mixed).unwrap(), &format!("{name} truncated to {keep}"));
            assert_eq!(session.tokens(), mixed);
        }
    }
}

#[test]
fn truncating_to_what_is_there_or_more_changes_nothing() {
    let mut session = open_small().session();
    session.truncate(0);
    session.truncate(9);
    assert_eq!((session.position(), session.logits()), (0, None));
    let logits = session.forward(&[1, 2, 3]).unwrap().to_vec();
    for position in [3, 4, usize::MAX] {
        session.truncate(position);
        assert_eq!((session.position(), session.logits()), (3, Some(&logits[..])));
    }
}

#[test]
fn a_fork_goes_on_as_its_session_would_and_each_its_own_way() {
    for (name, file) in small_files() {
        let model = open(file, Isa::best(), 1);
        let tokens = tokens(200, SHAPE.vocab_size);
        for at in [1, 64, 100] {
            let mut session = model.session();
            session.forward(&tokens[..at]).unwrap();
            let mut fork = session.fork().unwrap();
            assert_eq!((fork.position(), fork.tokens()), (at, session.tokens()));
            assert_eq!(fork.logits(), session.logits());
            assert_eq!(fork.capacity(), session.capacity());

            // Interleave by turn with different tokens; then each must be what a fresh session
            // makes of its text.
            let (mut ours, mut theirs) = (tokens[..at].to_vec(), tokens[..at].to_vec());
            for &token in &tokens[at..] {
                session.forward(&[token]).unwrap();
                ours.push(token);
                let other = (token + 7) % SHAPE.vocab_size as u32;
                fork.forward(&[other]).unwrap();
                theirs.push(other);
            }
            for (session, text) in [(&session, ours), (&fork, theirs)] {
                let mut fresh = model.session();
                let expected = fresh.forward(&text).unwrap();
                assert_same(session.logits().unwrap(), expected, &format!("{name} forked at {at}"));
            }
            assert_ne!(session.logits(), fork.logits());
        }
    }
}

#[test]
fn a_fork_of_nothing_is_a_fresh_session_and_a_fork_outlives_its_session() {
    let model = open_small();
    let mut fork = model.session().fork().unwrap();
    assert_eq!((fork.position(), fork.logits()), (0, None));
    let expected = fork.forward(&[5, 6]).unwrap().to_vec();
    let mut session = model.session();
    session.forward(&[5]).unwrap();
    let mut fork = session.fork().unwrap();
    drop(session);
    drop(model);
    assert_same(fork.forward(&[6]).unwrap(), &expected, "fork");
}

// --- Errors

/// What was refused must not have changed anything.
#[track_caller]
fn assert_refused(session: &mut Session, tokens: &[u32], expected: impl Fn(&ErrorKind) -> bool) {
    let before = (session.tokens().to_vec(), session.logits().map(<[f32]>::to_vec));
    let error = session.forward(tokens).map(<[f32]>::len).unwrap_err();
    assert!(expected(error.kind()), "{error:?}");
    let error = session.forward_all(tokens).map(<[f32]>::len).unwrap_err();
    assert!(expected(error.kind()), "{error:?}");
    assert_eq!((session.tokens().to_vec(), session.logits().map(<[f32]>::to_vec)), before);
}

#[test]
fn an_error_leaves_the_session_as_it_was() {
    let model = open_small();
    let mut session = model.session_with(SessionOptions::new().context_length(10));
    assert_eq!((session.capacity(), session.position()), (10, 0));
    let vocab = SHAPE.vocab_size as u32;
    for fed in [&[][..], &[4, 5, 6], &[7; 7]] {
        if !fed.is_empty() {
            session.forward(fed).unwrap();
        }
        let left = 10 - session.position();
        assert_refused(&mut session, &[], |kind| matches!(kind, ErrorKind::EmptyInput));
        for bad in [vocab, u32::MAX] {
            let out_of_range = |kind: &ErrorKind| matches!(kind, ErrorKind::TokenOutOfRange { token, vocab_size: 61 } if *token == bad);
            if left > 0 {
                assert_refused(&mut session, &[bad], out_of_range);
            }
            if left > 1 {
                assert_refused(&mut session, &[1, bad], out_of_range);
            }
        }
        for more in [1, 2, 1000] {
            assert_refused(
                &mut session,
                &vec![1; left + more],
                |kind| matches!(kind, ErrorKind::ContextFull { capacity: 10, requested } if *requested == 10 + more),
            );
        }
    }
    // The context is full to the last position, and those errors have left no trace.
    assert_eq!(session.position(), 10);
    let mut fresh = model.session();
    let expected = fresh.forward(&[4, 5, 6, 7, 7, 7, 7, 7, 7, 7]).unwrap();
    assert_same(session.logits().unwrap(), expected, "after errors");
    session.truncate(9);
    assert_same(session.forward(&[7]).unwrap(), expected, "after making room");
}

#[test]
fn messages_name_both_values() {
    let model = open_small();
    let mut session = model.session_with(SessionOptions::new().context_length(3));
    let mut message = |tokens: &[u32]| session.forward(tokens).map(<[f32]>::len).unwrap_err().to_string();
    assert_eq!(message(&[0; 5]), "the context holds 3 tokens, and this would make 5");
    assert_eq!(message(&[61]), "token 61 is not below the vocabulary's size, 61");
    assert_eq!(message(&[]), "no token to run");
}

#[test]
fn context_length_may_be_less_or_more_than_the_model_was_made_for() {
    let model = open_small();
    assert_eq!(model.session().capacity(), 700);
    let tokens = tokens(900, SHAPE.vocab_size);
    let mut long = model.session_with(SessionOptions::new().context_length(900));
    let all = long.forward_all(&tokens).unwrap().to_vec();
    assert_eq!(long.position(), 900);
    assert!(long.forward(&[1]).is_err());

    let mut short = model.session_with(SessionOptions::new().context_length(1));
    assert_same(short.forward(&tokens[..1]).unwrap(), &all[..SHAPE.vocab_size], "one position");
    let mut none = model.session_with(SessionOptions::new().context_length(0));
    assert_refused(&mut none, &[1], |kind| {
        matches!(kind, ErrorKind::ContextFull { capacity: 0, requested: 1 })
    });

    // Only what is used takes memory.
    let mut endless = model.session_with(SessionOptions::new().context_length(usize::MAX));
    assert_same(endless.forward(&tokens).unwrap(), &all[899 * SHAPE.vocab_size..], "endless");
}

#[test]
fn a_session_says_how_much_memory_it_will_take_whatever_its_length() {
    let model = open_small();
    let memory = |n: usize, dtype| {
        SessionOptions::new().context_length(n).cache_dtype(dtype).memory_bytes(model.config())
    };
    for (dtype, bytes) in [(CacheDtype::F32, 4), (CacheDtype::F16, 2)] {
        let (more, less) = (memory(64 * 30, dtype), memory(64 * 20, dtype));
        assert_eq!(
            more - less,
            640 * (2 * 2 * 8 * bytes + 2 * 8 * 4),
            "{dtype:?}: keys and values, 2 layers of 8, and scores for two tasks of eight queries"
        );
        assert!(memory(65, dtype) - memory(64, dtype) > 64 * 32, "blocks of 64");
        assert!(memory(usize::MAX, dtype) > 1 << 60, "no overflow");
    }
    let default = SessionOptions::new().memory_bytes(model.config());
    assert_eq!(default, memory(model.config().max_seq_len, CacheDtype::F32), "the model's context");
}

// --- The same bits everywhere

/// What a session of some prefills and decodes gives.
fn run(model: &Model) -> Vec<f32> {
    let mut session = model.session();
    let n = if UNOPTIMISED { 5 } else { 11 };
    let tokens = tokens(n, model.config().vocab_size);
    let mut all = session.forward_all(&tokens[..2]).unwrap().to_vec();
    all.extend_from_slice(session.forward(&tokens[2..n - 2]).unwrap());
    for &token in &tokens[n - 2..] {
        all.extend_from_slice(session.forward(&[token]).unwrap());
    }
    all
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for (name, file) in large_files() {
        assert!(file.len() > 9 << 18, "shared out among threads");
        for isa in Isa::available() {
            let expected = run(&open(file.clone(), isa, 1));
            for threads in if UNOPTIMISED { &[3][..] } else { &[2, 3, 8] } {
                let threads = *threads;
                let model = open(file.clone(), isa, threads);
                if cfg!(feature = "rayon") {
                    assert_eq!(model.threads(), threads);
                }
                assert_same(&run(&model), &expected, &format!("{name} {} {threads} threads", isa.name()));
            }
        }
    }
}

#[test]
fn many_sessions_of_one_model_at_once_give_the_same_bits() {
    for (name, file) in large_files() {
        let model = open(file, Isa::best(), 2);
        let expected = run(&model);
        std::thread::scope(|scope| {
            for i in 0..if UNOPTIMISED { 4 } else { 6 } {
                let (model, expected) = (model.clone(), &expected);
                scope.spawn(move || {
                    for _ in 0..if UNOPTIMISED { 1 } else { 20 } {
                        assert_same(&run(&model), expected, &format!("{name} thread {i}"));
                    }
                });
            }
        });
    }
}

#[test]
fn a_session_may_move_to_another_thread_between_tokens() {
    let model = open(large_files()[1].1.clone(), Isa::best(), 2);
    let tokens = tokens(6, LARGE.vocab_size);
    let mut expected = model.session();
    let expected = expected.forward(&tokens).unwrap();
    let mut session = model.session();
    for &token in &tokens {
        session = std::thread::spawn(move || {
            session.forward(&[token]).unwrap();
            session
        })
        .join()
        .unwrap();
    }
    assert_same(session.logits().unwrap(), expected, "moved");
}

#[test]
fn threads_out_of_range_are_refused() {
    for threads in [0, 1025, usize::MAX] {
        let options = ModelOptions::new().threads(threads);
        let error = Model::from_bytes_with(small_files()[0].1.clone(), &options).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidOption { name: "threads", .. }), "{error:?}");
        assert!(error.to_string().contains(&threads.to_string()), "{error}");
    }
}

#[cfg(feature = "rayon")]
mod pools {
    use super::*;
    use rayon::{ThreadPool, ThreadPoolBuilder};

    fn pool(threads: usize) -> Arc<ThreadPool> {
        Arc::new(ThreadPoolBuilder::new().num_threads(threads).build().unwrap())
    }

    fn open_in(pool: &Arc<ThreadPool>, file: Vec<u8>) -> Model {
        Model::from_bytes_with(file, &ModelOptions::new().pool(Arc::clone(pool))).unwrap()
    }

    #[test]
    fn a_pool_of_the_callers_gives_the_same_bits_from_outside_and_from_inside() {
        for (name, file) in large_files() {
            let expected = run(&open(file.clone(), Isa::best(), 1));
            for threads in [1, 2, 4] {
                let ours = pool(threads);
                let model = open_in(&ours, file.clone());
                // No more than the machine runs at once, or than two.
                let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
                assert_eq!(model.threads(), threads.min(available.max(2)));
                let what = |place: &str| format!("{name} {threads} threads, {place}");
                assert_same(&run(&model), &expected, &what("outside"));
                ours.install(|| assert_same(&run(&model), &expected, &what("inside")));
                let other = pool(2);
                other.install(|| assert_same(&run(&model), &expected, &what("inside another")));
            }
        }
    }

    #[test]
    fn a_pool_whose_every_thread_runs_a_session_never_blocks() {
        let ours = pool(3);
        let model = open_in(&ours, large_files()[1].1.clone());
        let expected = run(&model);
        ours.broadcast(|_| assert_same(&run(&model), &expected, "all at once"));
        ours.scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|_| assert_same(&run(&model), &expected, "as tasks"));
            }
        });
        ours.join(
            || assert_same(&run(&model), &expected, "one side"),
            || assert_same(&run(&model), &expected, "the other"),
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_model_starts_no_thread_before_its_first_shared_pass() {
        // In a process of its own, as the tests beside it start threads.
        if std::env::var_os("BABYLLAMA_COUNTS_THREADS").is_none() {
            let this = std::env::current_exe().unwrap();
            let name = "pools::a_model_starts_no_thread_before_its_first_shared_pass";
            let mut test = std::process::Command::new(this);
            test.args([name, "--exact", "--test-threads", "1"]).env("BABYLLAMA_COUNTS_THREADS", "1");
            assert!(test.status().unwrap().success());
            return;
        }
        let count = || std::fs::read_dir("/proc/self/task").unwrap().count();
        let before = count();
        let small = open(small_files()[0].1.clone(), Isa::best(), 16);
        small.session().forward(&[1]).unwrap();
        let model = open(large_files()[1].1.clone(), Isa::best(), 16);
        let mut session = model.session();
        assert_eq!((model.threads(), count()), (16, before));
        assert!(session.forward(&[u32::MAX]).is_err());
        assert_eq!(count(), before, "what is refused needs none");
        session.forward(&[1]).unwrap();
        assert_eq!(count(), before + 15);
        let clone = model.clone();
        clone.session().forward(&[1]).unwrap();
        assert_eq!(count(), before + 15, "clones share them");
    }

    #[test]
    fn a_models_own_pool_serves_a_caller_inside_another_pool() {
        let model = open(large_files()[0].1.clone(), Isa::best(), 2);
        let expected = run(&model);
        pool(2).broadcast(|_| assert_same(&run(&model), &expected, "from a pool"));
    }

    #[test]
    fn two_models_share_a_pool() {
        let ours = pool(2);
        let models = large_files().map(|(_, file)| open_in(&ours, file));
        let expected = models.each_ref().map(run);
        std::thread::scope(|scope| {
            for (model, expected) in models.iter().zip(&expected) {
                scope.spawn(move || assert_same(&run(model), expected, "shared pool"));
            }
        });
    }
}

#[test]
fn types_cross_threads_as_promised() {
    fn send_sync_clone<T: Send + Sync + Clone + 'static>() {}
    fn send<T: Send + 'static>() {}
    fn error<T: std::error::Error + Send + Sync + 'static>() {}
    send_sync_clone::<Model>();
    send_sync_clone::<babyllama::Tokenizer>();
    send_sync_clone::<ModelOptions>();
    send::<Session>();
    send::<babyllama::Sampler>();
    send::<babyllama::Piece>();
    error::<Error>();
}

#[test]
fn debug_prints_what_they_are_and_not_the_weights_or_the_cache() {
    let model = open_small();
    let mut session = model.session();
    session.forward(&[1; 100]).unwrap();
    let mut sampler = babyllama::Sampler::new(babyllama::SamplerOptions::default());
    sampler.sample(session.logits().unwrap()).unwrap();
    for text in [format!("{model:?}"), format!("{session:?}"), format!("{sampler:?}")] {
        assert!(text.len() < 1000, "{text}");
    }
    assert!(format!("{session:?}").contains("position: 100"));
}

// --- Bytes in memory

#[test]
fn bytes_of_every_kind_and_alignment_make_the_same_model() {
    for (name, file) in small_files() {
        let expected = run(&open(file.clone(), Isa::best(), 1));
        let check = |model: babyllama::Result<Model>, kind: &str| {
            let model = model.unwrap();
            assert_eq!(model.file_bytes(), file.len() as u64);
            assert_same(&run(&model), &expected, &format!("{name} {kind}"));
        };
        check(Model::from_bytes(file.clone()), "Vec");
        check(Model::from_bytes(Arc::<[u8]>::from(&file[..])), "Arc");
        check(Model::from_bytes(file.clone().into_boxed_slice()), "Box");
        let mut map = memmap2::MmapMut::map_anon(file.len()).unwrap();
        map.copy_from_slice(&file);
        check(Model::from_bytes(ModelBytes::from_owner(map.make_read_only().unwrap())), "Mmap");
        let leaked: &'static mut [u8] = vec![0; file.len() + 64].leak();
        for offset in 0..=17 {
            let mut shifted = vec![0xFF; file.len() + 64];
            shifted[offset..][..file.len()].copy_from_slice(&file);
            let shifted: &'static [u8] = shifted.leak();
            check(Model::from_bytes(&shifted[offset..][..file.len()]), &format!("static at {offset}"));
        }
        leaked[..file.len()].copy_from_slice(&file);
        let leaked: &'static [u8] = leaked;
        check(Model::from_bytes(&leaked[..file.len()]), "static");
        let on_disk = common::TempFile::new("model.bin", &file);
        check(Model::open(&on_disk), "mapped");
    }
}

#[test]
fn the_owner_of_bytes_lives_as_long_as_the_last_clone_of_the_model() {
    struct Owner {
        bytes: Vec<u8>,
        _alive: Arc<()>,
    }
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    let (_, file) = small_files()[0].clone();
    let alive = Arc::new(());
    let owner = |bytes| ModelBytes::from_owner(Owner { bytes, _alive: Arc::clone(&alive) });
    let model = Model::from_bytes(owner(file)).unwrap();
    let session = model.session();
    drop(model);
    assert_eq!(Arc::strong_count(&alive), 2, "used in place");
    drop(session);
    assert_eq!(Arc::strong_count(&alive), 1);
    // What can't be a model is given back, too.
    assert!(Model::from_bytes(owner(vec![1; 99])).is_err());
    assert_eq!(Arc::strong_count(&alive), 1);
}

#[test]
fn a_model_that_is_included_is_used_in_place() {
    let bytes = babyllama::include_model!("../models/babyllama.gguf");
    assert!(bytes.as_ptr().addr().is_multiple_of(64));
    assert_eq!(bytes, std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf")).unwrap());
    let model = Model::from_bytes(bytes).unwrap();
    assert_eq!(model.file_bytes(), bytes.len() as u64);
    #[cfg(feature = "bundled")]
    assert_eq!(format!("{:?}", Model::bundled().unwrap()), format!("{model:?}"));
}

#[test]
fn a_model_outlives_its_file() {
    let (_, file) = small_files()[2].clone();
    let expected = run(&open(file.clone(), Isa::best(), 1));
    let on_disk = common::TempFile::new("model.bin", &file);
    let model = Model::open(&on_disk).unwrap();
    drop(on_disk); // unlinked, yet mapped
    assert_same(&run(&model), &expected, "unlinked");
}

// --- Caches of half precision, weights in huge pages
// ---------------------------------------------------------

#[test]
fn a_cache_of_halves_changes_logits_by_no_more_than_its_rounding() {
    let options = SessionOptions::new().cache_dtype(CacheDtype::F16);
    for (name, file) in small_files() {
        for isa in Isa::available() {
            let model = open(file.clone(), isa, 1);
            let tokens = tokens(150, SHAPE.vocab_size);
            let exact = step_by_step(&model, &tokens);
            let mut session = model.session_with(options);
            let mut halves = Vec::new();
            for &token in &tokens {
                halves.extend_from_slice(session.forward(&[token]).unwrap());
            }
            // What is read of the first token is its own value alone, so its logits differ too.
            let first = SHAPE.vocab_size;
            assert_ne!(halves[..first], exact[..first], "{name} {}: halves are rounded", isa.name());
            let squares = |x: &[f32]| x.iter().map(|x| f64::from(x * x)).sum::<f64>();
            let difference: Vec<f32> = halves.iter().zip(&exact).map(|(a, b)| a - b).collect();
            // Each key and value is off by 2^-11 at most; int8 activations turn some of that into
            // whole steps of 1 / 127.
            let share = (squares(&difference) / squares(&exact)).sqrt();
            assert!(
                share < if name == "v2" { 1e-2 } else { 1.0 / 2048.0 },
                "{name} {}: {share:e}",
                isa.name()
            );

            let mut at_once = model.session_with(options);
            let prefilled = at_once.forward(&tokens).unwrap().to_vec();
            assert_same(&prefilled, &halves[halves.len() - first..], name);
            let mut fork = at_once.fork().unwrap();
            assert_same(fork.forward(&[5]).unwrap(), at_once.forward(&[5]).unwrap(), name);
            at_once.truncate(70);
            assert_same(at_once.forward(&tokens[70..]).unwrap(), &prefilled, name);
        }
    }
}

#[test]
fn weights_in_huge_pages_give_the_same_bits() {
    for (name, file) in small_files().into_iter().chain(large_files()) {
        let options = ModelOptions::new().threads(2);
        let mapped = Model::from_bytes_with(file.clone(), &options).unwrap();
        let copied = Model::from_bytes_with(file, &options.huge_pages(true)).unwrap();
        assert_same(&run(&copied), &run(&mapped), name);
        assert_eq!(copied.tensors(), mapped.tensors());
    }
}
