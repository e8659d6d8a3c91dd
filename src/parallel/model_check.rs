//! The claim protocol, run by loom in every order that its threads may run in (with a few
//! preemptions), and with every value that a weakly ordered processor may show them.
//!
//! Not checked: how helpers wait between regions, which has a timeout, so that nothing rests on it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use super::crew::Crew;
use super::sync::{AtomicBool, AtomicUsize, Ordering, yield_now};

/// A region of `callers + helpers` chunks, and what they leave behind. Its orderings are relaxed,
/// so that a thread sees of it what the protocol makes it see.
struct Region {
    callers: usize,
    helpers: usize,
    panics: fn(usize) -> bool,
    is_over: AtomicBool,
    runs: Vec<AtomicUsize>,
}

impl Region {
    fn new(callers: usize, helpers: usize, panics: fn(usize) -> bool) -> Self {
        let runs = (0..callers + helpers).map(|_| AtomicUsize::new(0)).collect();
        Self { callers, helpers, panics, is_over: AtomicBool::new(false), runs }
    }

    /// Runs the regions in one pass; nothing if another thread has one. They outlive the pass, so
    /// that a chunk that runs too late finds that it does.
    fn run_all(regions: &[Self], crew: &Crew) {
        let run = |region: &Self, chunk: usize| {
            assert!(!region.is_over.load(Ordering::Relaxed), "chunk {chunk} after its region");
            region.runs[chunk].fetch_add(1, Ordering::Relaxed);
            if (region.panics)(chunk) {
                resume_unwind(Box::new("meant"));
            }
        };
        let works: Vec<_> = regions.iter().map(|region| move |chunk| run(region, chunk)).collect();
        let Some(pass) = crew.open() else { return };
        for (region, work) in regions.iter().zip(&works) {
            let run = || pass.run_region(region.callers, region.helpers, work, || ());
            let outcome = catch_unwind(AssertUnwindSafe(run));
            region.is_over.store(true, Ordering::Relaxed);
            let runs: Vec<_> = region.runs.iter().map(|n| n.load(Ordering::Relaxed)).collect();
            match outcome {
                Ok(()) => assert!(runs.iter().all(|&n| n == 1), "chunks ran {runs:?} times"),
                Err(payload) if payload.downcast_ref() == Some(&"meant") => {
                    assert!(runs.iter().all(|&n| n <= 1), "chunks ran {runs:?} times");
                }
                Err(payload) => resume_unwind(payload),
            }
        }
    }
}

/// Each caller runs its regions in a pass, while helpers look for chunks.
fn explore<const N: usize>(preemptions: usize, looks: &'static [usize], callers: fn() -> [Vec<Region>; N]) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        let crew = Arc::new(Crew::new(false));
        let callers = callers().map(Arc::new);
        let helper = |&looks: &usize| {
            // A chunk that runs too late must find its region.
            let kept = (Arc::clone(&crew), callers.clone());
            loom::thread::spawn(move || {
                for _ in 0..looks {
                    kept.0.run_chunks(|| true);
                    yield_now();
                }
            })
        };
        let helpers: Vec<_> = looks.iter().map(helper).collect();
        let others: Vec<_> = callers[1..]
            .iter()
            .map(|regions| {
                let (crew, regions) = (Arc::clone(&crew), Arc::clone(regions));
                loom::thread::spawn(move || Region::run_all(&regions, &crew))
            })
            .collect();
        Region::run_all(&callers[0], &crew);
        helpers.into_iter().chain(others).for_each(|thread| thread.join().unwrap());
    });
}

const NEVER: fn(usize) -> bool = |_| false;

#[test]
fn each_chunk_runs_once_within_its_region() {
    explore(3, &[2], || [vec![Region::new(1, 1, NEVER), Region::new(1, 1, NEVER)]]);
    explore(3, &[1], || [vec![Region::new(1, 2, NEVER), Region::new(2, 1, NEVER)]]);
}

#[test]
fn two_helpers_share_a_region() {
    explore(2, &[1, 1], || [vec![Region::new(1, 2, NEVER)]]);
}

#[test]
fn passes_of_two_callers_follow_each_other() {
    explore(2, &[2], || [1, 2].map(|helpers| vec![Region::new(1, helpers, NEVER)]));
}

#[test]
fn a_region_ends_when_chunks_panic() {
    explore(2, &[2], || [vec![Region::new(2, 1, |i| i == 0), Region::new(1, 1, NEVER)]]);
    explore(2, &[2], || [vec![Region::new(1, 2, |i| i == 1), Region::new(1, 1, NEVER)]]);
    explore(2, &[1], || [vec![Region::new(2, 2, |_| true)]]);
}
