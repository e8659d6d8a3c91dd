//! Regions on several threads: every item once, whoever panics or sleeps.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use super::crew::{Crew, MAX_STINT, Pass};
use super::*;

/// What some threads do often, and Miri, which is a thousand times slower, a few times.
const fn times(n: usize) -> usize {
    if cfg!(miri) { n.div_ceil(25) } else { n }
}

/// Every element of every matrix gets its own value exactly once in each region.
fn fill(threads: &Threads, rows: usize, widths: [usize; 3]) {
    let mut data = widths.map(|w| vec![0.0f32; rows * w]);
    for pass in 1..=3 {
        threads.enter(false, |team| add_to_all(team, &mut data, widths));
        check_all(&data, widths, pass * times(50));
    }
}

fn add_to_all(team: &Team<'_>, data: &mut [Vec<f32>; 3], widths: [usize; 3]) {
    for _ in 0..times(50) {
        let [a, b, c] = &mut *data;
        let [wa, wb, wc] = widths;
        let columns =
            [ColumnPartition::new(a, wa, 4), ColumnPartition::new(b, wb, 4), ColumnPartition::new(c, wc, 4)];
        team.columns(columns.map(|c| [c]), 1 << 20, |group, items, [mut slice]| {
            for row in 0..slice.n_rows() {
                for (x, column) in slice.row(row).iter_mut().zip(items.start * 4..) {
                    *x += (group * 1000 + row * 300 + column) as f32;
                }
            }
        });
    }
}

fn check_all(data: &[Vec<f32>; 3], widths: [usize; 3], times: usize) {
    for (group, (data, width)) in data.iter().zip(widths).enumerate() {
        for (i, &x) in data.iter().enumerate() {
            let want = (group * 1000 + i / width * 300 + i % width) as f32 * times as f32;
            assert_eq!(x, want);
        }
    }
}

/// Every element of a matrix in strips gets its own value exactly once, by its column's number.
fn fill_strips(team: &Team<'_>, rows: usize, width: usize, item_width: usize, n_strips: usize) {
    let floats = &mut vec![0.0; rows * width];
    let columns = ColumnPartition::new(floats, width, item_width).in_strips(n_strips);
    team.columns([[columns]], 1 << 20, |_, items, [mut slice]| {
        for strip in 0..slice.n_strips() {
            let columns = slice.columns(strip);
            assert!(columns.len() <= items.len() * item_width);
            assert!(columns.len() <= slice.columns(0).len());
            for row in 0..slice.n_rows() {
                for (x, column) in slice.strip(strip, row).iter_mut().zip(columns.clone()) {
                    *x += (row * width + column + 1) as f32;
                }
            }
        }
    });
    for (i, &x) in floats.iter().enumerate() {
        assert_eq!(x, (i + 1) as f32, "{width} in items of {item_width}, {n_strips} strips");
    }
}

/// A helper that no pool runs: Miri's stricter rules fail in rayon's own data structures.
fn spawn_plain_helper(crew: &'static Crew) -> std::thread::JoinHandle<()> {
    assert_eq!(crew.recruit(1), 1);
    std::thread::spawn(|| crew.help())
}

#[test]
fn every_column_is_filled_once_without_a_pool() {
    static CREW: LazyLock<Crew> = LazyLock::new(|| Crew::new(false));
    let threads = Threads::of_option(Some(2)).unwrap();
    let (widths, mut counts) = ([8, 10, 33], [0; 6]);
    let mut data = widths.map(|w| vec![0.0f32; 2 * w]);
    let pass = CREW.open();
    let helper = spawn_plain_helper(&CREW);
    let team = Team::new(&threads, pass);
    add_to_all(&team, &mut data, widths);
    team.for_each_mut(&mut counts, 1 << 20, |i, count| *count += i);
    fill_strips(&team, 2, 21, 2, 4);
    drop(team);
    check_all(&data, widths, times(50));
    assert_eq!(counts, [0, 1, 2, 3, 4, 5]);
    helper.join().unwrap();
}

#[test]
fn every_column_is_filled_once_by_any_number_of_threads() {
    for count in [1, 2, 3, 8] {
        fill(&Threads::new(count).unwrap(), 3, [64, 10, 257]);
    }
}

#[test]
fn strips_are_all_columns_once() {
    let threads = Threads::new(3).unwrap();
    threads.enter(false, |team| {
        for n_strips in [1, 2, 4] {
            // Whole strips, strips that lack items or are empty, and items that lack columns.
            for width in [1, 7, 8, 9, 31, 64, 255, 1000] {
                fill_strips(team, 3, width, 8, n_strips);
            }
        }
    });
}

#[test]
fn a_pool_that_is_busy_or_is_the_callers_own_never_blocks() {
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap());
    let threads = Threads::from_pool(Arc::clone(&pool));
    pool.install(|| fill(&threads, 2, [40, 41, 42]));
    pool.broadcast(|_| fill(&threads, 2, [40, 41, 42]));
}

#[test]
fn two_passes_at_once_both_finish() {
    let threads = Threads::new(2).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| fill(&threads, 2, [100, 30, 5]));
        }
    });
}

#[test]
fn a_panic_in_a_chunk_reaches_the_caller_and_the_team_survives() {
    let threads = Threads::new(2).unwrap();
    for bad in [0, 40, 79] {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            threads.enter(false, |team| {
                team.for_each_mut(&mut [(); 80], 1 << 20, |i, ()| {
                    std::thread::sleep(Duration::from_micros(20));
                    assert!(i != bad, "chunk {bad}");
                });
            });
        }));
        assert!(outcome.is_err());
        fill(&threads, 2, [40, 41, 42]);
    }
}

#[test]
#[cfg_attr(miri, ignore = "it is about times, which Miri can't keep")]
fn helpers_leave_when_they_are_not_called() {
    let threads = Threads::new(2).unwrap();
    fill(&threads, 1, [64, 64, 64]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while threads.n_helpers() > 0 {
        assert!(Instant::now() < deadline, "the helper still holds its thread");
        std::thread::sleep(Duration::from_millis(5));
    }
    fill(&threads, 1, [64, 64, 64]);
}

/// Waits until `flag` is set, which takes moments; false if it wasn't in ten seconds.
fn wait_for(flag: &AtomicBool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !flag.load(Ordering::Acquire) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

#[test]
#[cfg_attr(miri, ignore = "it is about times, which Miri can't keep")]
fn a_join_of_the_callers_returns_while_a_pass_that_it_helps_goes_on() {
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap());
    let threads = Threads::from_pool(Arc::clone(&pool));
    let [begun, helped, joined] = [const { AtomicBool::new(false) }; 3];
    std::thread::scope(|scope| {
        let pass = scope.spawn(|| {
            wait_for(&begun);
            // A pass that goes on until the join has returned. The deadline only ends a test that
            // fails.
            threads.enter(false, |team| {
                let deadline = Instant::now() + Duration::from_secs(10);
                while !joined.load(Ordering::Acquire) && Instant::now() < deadline {
                    team.for_each_mut(&mut [(); 8], 1 << 20, |_, ()| {
                        if rayon::current_thread_index().is_some() {
                            helped.store(true, Ordering::Release);
                        }
                    });
                }
                joined.load(Ordering::Acquire)
            })
        });
        // The second half is stolen and goes on until somebody has helped: that is the thread that
        // waits for it.
        let second = || {
            begun.store(true, Ordering::Release);
            wait_for(&helped)
        };
        let (stolen, helped) = pool.join(|| wait_for(&begun), second);
        joined.store(true, Ordering::Release);
        assert!(stolen && helped);
        assert!(pass.join().unwrap(), "the join waited for the whole pass");
    });
}

#[test]
#[cfg_attr(miri, ignore = "it is about times, which Miri can't keep")]
fn helpers_of_the_callers_pool_come_back_for_as_long_as_a_pass_goes_on() {
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap());
    let threads = Threads::from_pool(Arc::clone(&pool));
    threads.enter(false, |team| {
        for _ in 0..5 {
            let helped = AtomicBool::new(false);
            let deadline = Instant::now() + Duration::from_secs(10);
            while !helped.load(Ordering::Acquire) {
                assert!(Instant::now() < deadline, "nobody came back");
                team.for_each_mut(&mut [(); 8], 1 << 20, |_, ()| {
                    std::thread::sleep(Duration::from_micros(50));
                    helped.fetch_or(rayon::current_thread_index().is_some(), Ordering::AcqRel);
                });
            }
            std::thread::sleep(2 * MAX_STINT); // it has left
        }
    });
}

/// Fails to compile for a type that is `Sync`, since then it isn't clear which of the two is meant.
trait NotSync<Why> {
    fn holds() {}
}
impl<T: ?Sized> NotSync<()> for T {}
impl<T: ?Sized + Sync> NotSync<((),)> for T {}

/// So nothing that is `Sync`, as what a region runs must be, can hold a team and open another.
#[test]
fn regions_that_nest_do_not_compile() {
    <Team<'_> as NotSync<_>>::holds();
    <Pass<'_> as NotSync<_>>::holds();
}

#[test]
fn a_region_that_comes_by_its_own_pass_runs_alone_without_a_pool() {
    thread_local!(static PASS: RefCell<Option<Pass<'static>>> = const { RefCell::new(None) });
    static INNER: AtomicUsize = AtomicUsize::new(0);
    static CREW: LazyLock<Crew> = LazyLock::new(|| Crew::new(false));

    PASS.set(CREW.open());
    let helper = spawn_plain_helper(&CREW);
    let (on_caller, outer) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let caller = std::thread::current().id();
    PASS.with_borrow(|pass| {
        let work = |_| {
            outer.fetch_add(1, Ordering::Relaxed);
            on_caller.fetch_add((std::thread::current().id() == caller).into(), Ordering::Relaxed);
            PASS.with_borrow(|pass| {
                let Some(pass) = pass else { return };
                let work = |_| {
                    assert_eq!(std::thread::current().id(), caller);
                    INNER.fetch_add(1, Ordering::Relaxed);
                };
                pass.run_region(1, 2, &work, || ());
            });
        };
        pass.as_ref().unwrap().run_region(10, 10, &work, || ());
    });
    assert_eq!(outer.into_inner(), 20);
    assert_eq!(INNER.load(Ordering::Relaxed), 3 * on_caller.into_inner());
    PASS.set(None);
    helper.join().unwrap();
}

/// Each chunk of a region opens a pass with other threads, and runs a region with it.
fn nest(outer: &Threads, inner: &Threads) {
    let mut counts = [0; 40];
    for _ in 0..times(10) {
        outer.enter(false, |team| {
            team.for_each_mut(&mut counts, 1 << 20, |_, count| {
                let mut inner_counts = [0; 10];
                inner.enter(false, |team| team.for_each_mut(&mut inner_counts, 1 << 20, |i, n| *n += i));
                *count += inner_counts.iter().sum::<usize>();
            });
        });
    }
    assert_eq!(counts, [45 * times(10); 40]);
}

#[test]
fn a_pass_inside_a_chunk_finishes() {
    let own = Threads::new(3).unwrap();
    nest(&own, &own);
    nest(&own, &Threads::new(2).unwrap());
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap());
    let [first, second] = [(); 2].map(|()| Threads::from_pool(Arc::clone(&pool)));
    nest(&first, &first);
    nest(&first, &second);
    nest(&own, &first);
    // Every thread of the pool is a caller and would be a helper.
    pool.broadcast(|_| nest(&first, &second));
}

#[test]
fn a_panic_of_caller_and_helper_does_not_reach_the_next_pass() {
    let threads = Threads::new(2).unwrap();
    let begun = [const { AtomicBool::new(false) }; 2];
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        threads.enter(false, |team| {
            team.for_each_mut(&mut [(); 2], 1 << 20, |i, ()| {
                begun[i].store(true, Ordering::Release);
                assert!(!begun.iter().all(wait_for), "both");
            });
        });
    }));
    assert!(outcome.is_err());
    fill(&threads, 2, [40, 41, 42]);
}
