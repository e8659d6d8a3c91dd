//! Sixteen sessions of one model at work at once, on threads and in rayon's tasks: none waits for
//! ever, and each has the bits that it would have had alone.
//!
//! It takes a second or two; with `BABYLLAMA_SOAK_MINUTES=3`, three minutes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use babyllama::{ErrorKind, Isa, Model, Result, Session};

use crate::common::{RandomModel, SplitMix64, open_on};
use crate::fresh::bits;
use crate::{LARGE, UNOPTIMIZED, run};

const N_WORKERS: usize = 16;

/// An operation takes milliseconds. One that takes longer than this hangs.
const HANGS_AFTER: Duration = Duration::from_secs(120);

static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| RandomModel::new(LARGE, 12).to_v2(32));

fn model(threads: usize) -> Model {
    open_on(FILE.clone(), Isa::best(), threads)
}

/// How long all of a test's scenarios take.
fn duration() -> Duration {
    let minutes = std::env::var_os("BABYLLAMA_SOAK_MINUTES");
    let minutes = minutes.map(|n| n.to_str().and_then(|n| n.parse::<f64>().ok()).expect("a number"));
    minutes.map_or(Duration::from_millis(1500), |minutes| Duration::from_secs_f64(minutes * 60.0))
}

/// Some texts, and what a session alone computes of each token.
struct Alone {
    texts: Vec<Vec<u32>>,
    bits: Vec<Vec<Vec<u32>>>, // of each text, after each token
}

static ALONE: LazyLock<Alone> = LazyLock::new(|| {
    let (model, mut rng) = (model(1), SplitMix64::new(7));
    let n = if UNOPTIMIZED { 20 } else { 80 };
    let mut text = || (0..n).map(|_| rng.below(LARGE.vocab_size) as u32).collect::<Vec<_>>();
    let texts: Vec<_> = (0..4).map(|_| text()).collect();
    let after_each = |text: &Vec<u32>| {
        let mut session = model.session();
        let read = |&token: &u32| {
            session.forward(&[token]).unwrap();
            bits(&session)
        };
        text.iter().map(read).collect()
    };
    let bits = texts.iter().map(after_each).collect();
    Alone { texts, bits }
});

/// What all workers are doing, and since when.
struct Watch {
    doing: Vec<Mutex<Option<(Instant, &'static str)>>>,
    n_done: AtomicU64,
    is_over: AtomicBool,
    /// Cancels a worker's passes; its neighbor sets it.
    stops: Vec<Arc<AtomicBool>>,
}

impl Watch {
    fn new() -> Self {
        Self {
            doing: (0..N_WORKERS).map(|_| Mutex::default()).collect(),
            n_done: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            stops: (0..N_WORKERS).map(|_| Arc::default()).collect(),
        }
    }

    /// Ends the process, and says what hung, if an operation takes too long, or all together.
    fn guard(&self, scenario: &str) {
        let (mut since, mut n_done) = (Instant::now(), 0);
        while !self.is_over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
            let now = self.n_done.load(Ordering::Relaxed);
            if now != n_done {
                (since, n_done) = (Instant::now(), now);
            }
            let doing: Vec<_> = self.doing.iter().map(|doing| *doing.lock().unwrap()).collect();
            let hangs = |begun: &Instant| begun.elapsed() > HANGS_AFTER;
            if hangs(&since) || doing.iter().flatten().any(|(begun, _)| hangs(begun)) {
                eprintln!("{scenario}: hangs after {n_done} operations");
                for (i, doing) in doing.iter().enumerate() {
                    let what = doing.map(|(begun, what)| format!("{what} for {:?}", begun.elapsed()));
                    eprintln!("worker {i}: {}", what.unwrap_or_else(|| "idle".into()));
                }
                std::process::exit(101);
            }
        }
    }

    /// Runs some work under guard; how many operations it did.
    fn over(&self, scenario: &str, work: impl FnOnce()) -> u64 {
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed); // also if the work panicked
            }
        }
        std::thread::scope(|scope| {
            scope.spawn(|| self.guard(scenario));
            let _over = Over(&self.is_over);
            work();
        });
        self.n_done.load(Ordering::Relaxed)
    }
}

/// A session that reads one of the texts.
struct Worker<'a> {
    watch: &'a Watch,
    i: usize,
    session: Session,
    text: usize,
    rng: SplitMix64,
}

impl<'a> Worker<'a> {
    fn all(model: &Model, watch: &'a Watch) -> Vec<Self> {
        let worker = |i| {
            let mut session = model.session();
            session.cancel_on(Arc::clone(&watch.stops[i]));
            Self { watch, i, session, text: i % 4, rng: SplitMix64::new(i as u64) }
        };
        (0..N_WORKERS).map(worker).collect()
    }

    fn say(&self, what: Option<&'static str>) {
        *self.watch.doing[self.i].lock().unwrap() = what.map(|what| (Instant::now(), what));
    }

    /// One random operation, which any other worker may cancel.
    fn operate(&mut self) {
        let text = &ALONE.texts[self.text];
        if self.session.position() == text.len() {
            self.session.truncate(self.rng.below(text.len()));
        }
        let at = self.session.position();
        let rest = &text[at..];
        let part = &rest[..rest.len().min(1 + self.rng.below(5))];
        match self.rng.below(8) {
            0 => {
                self.say(Some("fork"));
                self.session = self.session.fork().unwrap();
            }
            1 => {
                self.say(Some("another text"));
                self.text = (self.text + 1) % 4;
                self.session.truncate(0);
            }
            2 => {
                self.say(Some("cancel"));
                self.watch.stops[(self.i + 1) % N_WORKERS].store(true, Ordering::Relaxed);
            }
            3 => {
                self.say(Some("forward_together"));
                let (model, mut fork) = (self.session.model().clone(), self.session.fork().unwrap());
                let one = &rest[..1];
                let guess = &rest[..rest.len().min(4)];
                let fed = model.forward_together([self.session.feed(part).guessing(guess), fork.feed(one)]);
                self.cancelled_or(fed);
                check(&fork, self.text);
            }
            4 => {
                self.say(Some("forward_guessing"));
                let guess = &rest[part.len()..rest.len().min(8)];
                let fed = self.session.forward_guessing(part, guess).map(|_| ());
                self.cancelled_or(fed);
            }
            _ => {
                self.say(Some("forward"));
                let fed = self.session.forward(part).map(|_| ());
                self.cancelled_or(fed);
            }
        }
        check(&self.session, self.text);
        self.say(None);
        self.watch.n_done.fetch_add(1, Ordering::Relaxed);
    }

    fn cancelled_or(&self, fed: Result<()>) {
        if let Err(error) = fed {
            assert!(matches!(error.kind(), ErrorKind::Cancelled), "{error}");
            self.watch.stops[self.i].store(false, Ordering::Relaxed);
        }
    }
}

/// That a session has what one alone has of the same tokens.
fn check(session: &Session, text: usize) {
    let n = session.position();
    assert_eq!(session.tokens(), &ALONE.texts[text][..n]);
    if session.logits().is_some() {
        assert!(bits(session) == ALONE.bits[text][n - 1], "text {text} after {n} tokens");
    }
}

/// All workers, each on a thread of its own.
fn on_threads(workers: &mut [Worker<'_>], until: Instant) {
    std::thread::scope(|scope| {
        for worker in workers {
            scope.spawn(move || {
                worker.operate();
                while Instant::now() < until {
                    worker.operate();
                }
            });
        }
    });
}

#[test]
fn law_01_sixteen_threads_with_a_session_each_change_no_bit() {
    LazyLock::force(&ALONE);
    for threads in [1, 2, 5] {
        let (model, watch) = (model(threads), Watch::new());
        let until = Instant::now() + duration() / 6;
        let scenario = format!("threads, a model with {threads}");
        let n = watch.over(&scenario, || on_threads(&mut Worker::all(&model, &watch), until));
        eprintln!("{scenario}: {n} operations");
    }
}

#[cfg(feature = "rayon")]
mod pools {
    use babyllama::ModelOptions;
    use rayon::prelude::*;
    use rayon::{ThreadPool, ThreadPoolBuilder};

    use super::*;

    /// An operation of each worker.
    type Round = fn(&ThreadPool, &mut [Worker<'_>]);

    fn joins(pool: &ThreadPool, workers: &mut [Worker<'_>]) {
        match workers {
            [] => {}
            [worker] => worker.operate(),
            _ => {
                let (some, others) = workers.split_at_mut(workers.len() / 2);
                pool.join(|| joins(pool, some), || joins(pool, others));
            }
        }
    }

    fn scope(pool: &ThreadPool, workers: &mut [Worker<'_>]) {
        pool.scope(|scope| workers.iter_mut().for_each(|worker| scope.spawn(|_| worker.operate())));
    }

    fn par_iter(_: &ThreadPool, workers: &mut [Worker<'_>]) {
        workers.par_iter_mut().for_each(Worker::operate);
    }

    /// An operation of each worker in turn, in tasks of a pool.
    fn in_pool(pool: &ThreadPool, workers: &mut [Worker<'_>], until: Instant, round: Round) {
        pool.install(|| round(pool, workers));
        while Instant::now() < until {
            pool.install(|| round(pool, workers));
        }
    }

    #[test]
    fn law_01_sixteen_sessions_in_a_pools_tasks_change_no_bit() {
        LazyLock::force(&ALONE);
        let rounds: [(&str, Round); 3] = [("joins", joins), ("scope", scope), ("par_iter", par_iter)];
        // Fewer threads than processors, and more.
        for threads in [1, 5] {
            let pool = Arc::new(ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
            let lent = ModelOptions::new().pool(Arc::clone(&pool));
            let lent = Model::from_bytes_with(FILE.clone(), &lent).unwrap();
            for (whose, model) in [("that lends its threads", lent), ("beside the model's", model(2))] {
                for (name, round) in rounds {
                    for alone in [true, false] {
                        let watch = Watch::new();
                        let until = Instant::now() + duration() / 24;
                        let outside = if alone { "" } else { ", and on threads" };
                        let scenario = format!("{name} in a pool of {threads} {whose}{outside}");
                        let n = watch.over(&scenario, || {
                            let mut workers = Worker::all(&model, &watch);
                            let n_tasks = if alone { N_WORKERS } else { N_WORKERS / 2 };
                            let (tasks, others) = workers.split_at_mut(n_tasks);
                            std::thread::scope(|scope| {
                                scope.spawn(|| on_threads(others, until));
                                in_pool(&pool, tasks, until, round);
                            });
                        });
                        eprintln!("{scenario}: {n} operations");
                    }
                }
            }
        }
    }
}

/// Processes that keep all processors busy. They end with it.
struct Busy(Vec<std::process::Child>);

impl Busy {
    const VARIABLE: &str = "BABYLLAMA_KEEPS_A_PROCESSOR_BUSY";

    fn new(test: &str) -> Self {
        let n = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let process = |_| {
            let mut process = std::process::Command::new(std::env::current_exe().unwrap());
            process.args([test, "--exact", "--ignored"]).env(Self::VARIABLE, "1");
            process.stdout(std::process::Stdio::null()).spawn().unwrap()
        };
        let busy = Self((0..n).map(process).collect());
        std::thread::sleep(Duration::from_millis(300));
        busy
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for process in &mut self.0 {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

#[test]
#[ignore = "it needs the machine to itself: cargo test busy -- --ignored --nocapture"]
fn law_01_a_busy_machine_changes_no_bit_and_leaves_a_share() {
    let most = duration().max(Duration::from_secs(40));
    if std::env::var_os(Busy::VARIABLE).is_some() {
        let begun = Instant::now(); // it ends by itself, should the test be killed
        while begun.elapsed() < most {
            std::hint::spin_loop();
        }
        return;
    }
    let test = "crowd::law_01_a_busy_machine_changes_no_bit_and_leaves_a_share";
    let n_processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for threads in [1, n_processors, 2 * n_processors] {
        let model = model(threads);
        let expected: Vec<u32> = run(&model).iter().map(|x| x.to_bits()).collect();
        let one = || {
            let (watch, begun, mut n) = (Watch::new(), Instant::now(), 0);
            watch.over("a session", || {
                while begun.elapsed() < most / 40 {
                    assert!(run(&model).iter().map(|x| x.to_bits()).eq(expected.iter().copied()));
                    n += 1;
                    watch.n_done.fetch_add(1, Ordering::Relaxed);
                }
            });
            f64::from(n) / begun.elapsed().as_secs_f64()
        };
        let sixteen = || {
            let (watch, begun) = (Watch::new(), Instant::now());
            let until = begun + most / 40;
            let n = watch.over("sixteen", || on_threads(&mut Worker::all(&model, &watch), until));
            n as f64 / begun.elapsed().as_secs_f64()
        };
        let rates: [&dyn Fn() -> f64; 2] = [&one, &sixteen];
        for (what, rate) in ["one session", "16 sessions"].into_iter().zip(rates) {
            let mut speeds = [0.0; 2];
            for _ in 0..3 {
                speeds[0] += rate() / 3.0;
                let busy = Busy::new(test);
                speeds[1] += rate() / 3.0;
                drop(busy);
            }
            let [alone, beside] = speeds;
            eprintln!(
                "{what}, {threads} threads, beside {n_processors} busy processes: {:.2} of the speed alone \
                 ({beside:.0} and {alone:.0} a second)",
                beside / alone
            );
        }
    }
}
