//! The same bits for any number of threads, sessions and pools.

use babyllama::{ErrorKind, Isa, Model, ModelOptions};

use crate::common::{assert_same_bits, open_on, refuses};
use crate::{LARGE, UNOPTIMIZED, large_files, run, small_files, tokens};

#[test]
fn law_01_any_number_of_threads_gives_the_same_bits() {
    for (name, file) in large_files() {
        assert!(file.len() > 9 << 18, "shared out among threads");
        for isa in Isa::available() {
            let expected = run(&open_on(file.clone(), isa, 1));
            for threads in if UNOPTIMIZED { &[3][..] } else { &[2, 3, 8] } {
                let threads = *threads;
                let model = open_on(file.clone(), isa, threads);
                if cfg!(feature = "rayon") {
                    assert_eq!(model.threads(), threads);
                }
                assert_same_bits(
                    &run(&model),
                    &expected,
                    &format!("{name} {} {threads} threads", isa.name()),
                );
            }
        }
    }
}

#[test]
fn many_sessions_of_one_model_at_once_give_the_same_bits() {
    for (name, file) in large_files() {
        let model = open_on(file, Isa::best(), 2);
        let expected = run(&model);
        std::thread::scope(|scope| {
            for i in 0..if UNOPTIMIZED { 4 } else { 6 } {
                let (model, expected) = (model.clone(), &expected);
                scope.spawn(move || {
                    for _ in 0..if UNOPTIMIZED { 1 } else { 20 } {
                        assert_same_bits(&run(&model), expected, &format!("{name} thread {i}"));
                    }
                });
            }
        });
    }
}

#[test]
fn a_session_may_move_to_another_thread_between_tokens() {
    let model = open_on(large_files()[1].1.clone(), Isa::best(), 2);
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
    assert_same_bits(session.logits().unwrap(), expected, "moved");
}

#[test]
fn threads_out_of_range_are_refused() {
    for threads in [0, 1025, usize::MAX] {
        let options = ModelOptions::new().threads(threads);
        let opened = Model::from_bytes_with(small_files()[0].1.clone(), &options);
        refuses!(opened, ErrorKind::InvalidOption { name: "threads", .. }, threads.to_string());
    }
}

#[cfg(feature = "rayon")]
mod pools {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, LazyLock};

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;
    use rayon::{ThreadPool, ThreadPoolBuilder};

    use super::*;
    use crate::common::{open, step_by_step};

    fn pool(threads: usize) -> Arc<ThreadPool> {
        Arc::new(ThreadPoolBuilder::new().num_threads(threads).build().unwrap())
    }

    fn open_in(pool: &Arc<ThreadPool>, file: Vec<u8>) -> Model {
        Model::from_bytes_with(file, &ModelOptions::new().pool(Arc::clone(pool))).unwrap()
    }

    #[test]
    fn a_pool_of_the_callers_gives_the_same_bits_from_outside_and_from_inside() {
        for (name, file) in large_files() {
            let expected = run(&open(file.clone()));
            for threads in [1, 2, 4] {
                let ours = pool(threads);
                let model = open_in(&ours, file.clone());
                // No more than the machine runs at once, or than two.
                let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
                assert_eq!(model.threads(), threads.min(available.max(2)));
                let what = |place: &str| format!("{name} {threads} threads, {place}");
                assert_same_bits(&run(&model), &expected, &what("outside"));
                ours.install(|| assert_same_bits(&run(&model), &expected, &what("inside")));
                let other = pool(2);
                other.install(|| assert_same_bits(&run(&model), &expected, &what("inside another")));
            }
        }
    }

    #[test]
    fn a_pool_whose_every_thread_runs_a_session_never_blocks() {
        let ours = pool(3);
        let model = open_in(&ours, large_files()[1].1.clone());
        let expected = run(&model);
        ours.broadcast(|_| assert_same_bits(&run(&model), &expected, "all at once"));
        ours.scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|_| assert_same_bits(&run(&model), &expected, "as tasks"));
            }
        });
        ours.join(
            || assert_same_bits(&run(&model), &expected, "one side"),
            || assert_same_bits(&run(&model), &expected, "the other"),
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_model_starts_no_thread_before_its_first_shared_pass() {
        // In a process of its own, as the tests beside it start threads.
        if std::env::var_os("BABYLLAMA_COUNTS_THREADS").is_none() {
            let this = std::env::current_exe().unwrap();
            let name = "threads::pools::a_model_starts_no_thread_before_its_first_shared_pass";
            let mut test = std::process::Command::new(this);
            test.args([name, "--exact", "--test-threads", "1"]).env("BABYLLAMA_COUNTS_THREADS", "1");
            assert!(test.status().unwrap().success());
            return;
        }
        let count = || std::fs::read_dir("/proc/self/task").unwrap().count();
        let before = count();
        let small = open_on(small_files()[0].1.clone(), Isa::best(), 16);
        small.session().forward(&[1]).unwrap();
        let model = open_on(large_files()[1].1.clone(), Isa::best(), 16);
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
        let model = open_on(large_files()[0].1.clone(), Isa::best(), 2);
        let expected = run(&model);
        pool(2).broadcast(|_| assert_same_bits(&run(&model), &expected, "from a pool"));
    }

    #[test]
    fn two_models_share_a_pool() {
        let ours = pool(2);
        let models = large_files().map(|(_, file)| open_in(&ours, file));
        let expected = models.each_ref().map(run);
        std::thread::scope(|scope| {
            for (model, expected) in models.iter().zip(&expected) {
                scope.spawn(move || assert_same_bits(&run(model), expected, "shared pool"));
            }
        });
    }

    /// Where a session is used.
    #[derive(Clone, Copy, Debug)]
    enum Place {
        Outside,
        Inside,
        InsideAnother,
        InJoin,
        AsTask,
    }

    const PLACES: [Place; 5] =
        [Place::Outside, Place::Inside, Place::InsideAnother, Place::InJoin, Place::AsTask];

    /// Ends what keeps threads busy, also by a panic.
    struct Over<'a>(&'a AtomicBool);

    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if UNOPTIMIZED { 5 } else { 25 }))]

        #[test]
        fn law_01_busy_pools_and_tasks_change_no_bit(
            threads in 1..5_usize,
            n_busy in 0..5_usize,
            lends in any::<bool>(),
            place in select(PLACES.to_vec()),
            parts in vec(1..12_usize, 1..4),
        ) {
            static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| large_files()[1].1.clone());
            static ROWS: LazyLock<Vec<f32>> =
                LazyLock::new(|| step_by_step(&open(FILE.clone()), &tokens(40, LARGE.vocab_size)));
            let ours = pool(threads);
            let model = if lends { open_in(&ours, FILE.clone()) } else { open_on(FILE.clone(), Isa::best(), 3) };
            let read = || {
                let (mut session, text) = (model.session(), tokens(40, LARGE.vocab_size));
                for &n in &parts {
                    let end = session.position() + n;
                    let found = session.forward(&text[end - n..end]).unwrap();
                    let row = &ROWS[(end - 1) * LARGE.vocab_size..][..LARGE.vocab_size];
                    assert_same_bits(found, row, &format!("{end} tokens"));
                }
            };
            // Some of the pool's threads, or all, do something else all the time. What is to be
            // done inside needs one of them.
            let is_inside = matches!(place, Place::Inside | Place::InJoin | Place::AsTask);
            let over = AtomicBool::new(false);
            ours.in_place_scope(|scope| {
                let _over = Over(&over);
                for _ in 0..n_busy.min(threads - usize::from(is_inside)) {
                    scope.spawn(|_| while !over.load(Ordering::Relaxed) { std::thread::yield_now() });
                }
                match place {
                    Place::Outside => read(),
                    Place::Inside => ours.install(read),
                    Place::InsideAnother => pool(2).install(read),
                    Place::InJoin => drop(ours.join(read, read)),
                    Place::AsTask => ours.scope(|scope| (0..3).for_each(|_| scope.spawn(|_| read()))),
                }
            });
        }
    }
}
