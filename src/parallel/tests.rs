//! Regions on several threads: every unit once, whoever panics or sleeps.

use super::*;

/// Every element of every matrix gets its own value exactly once.
fn fill(threads: &Threads, rows: usize, widths: [usize; 3]) {
    let mut data = widths.map(|w| vec![0.0f32; rows * w]);
    for pass in 1..=3 {
        threads.enter(false, |team| {
            for _ in 0..50 {
                let [a, b, c] = &mut data;
                let [wa, wb, wc] = widths;
                let columns = [
                    ColumnPartition::new(a, wa, 4),
                    ColumnPartition::new(b, wb, 4),
                    ColumnPartition::new(c, wc, 4),
                ];
                team.bands(columns.map(|c| [c]), 1 << 20, |group, units, [mut band]| {
                    for row in 0..band.n_rows() {
                        for (x, column) in band.row(row).iter_mut().zip(units.start * 4..) {
                            *x += (group * 1000 + row * 300 + column) as f32;
                        }
                    }
                });
            }
        });
        for (group, (data, width)) in data.iter().zip(widths).enumerate() {
            for (i, &x) in data.iter().enumerate() {
                let want = (group * 1000 + i / width * 300 + i % width) as f32 * 50.0 * pass as f32;
                assert_eq!(x, want);
            }
        }
    }
}

#[test]
fn every_column_is_filled_once_by_any_number_of_threads() {
    for count in [1, 2, 3, 8] {
        fill(&Threads::new(count).unwrap(), 3, [64, 10, 257]);
    }
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
fn helpers_leave_when_they_are_not_called() {
    let threads = Threads::new(2).unwrap();
    fill(&threads, 1, [64, 64, 64]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while threads.crew.present.load(Ordering::Relaxed) > 0 {
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
fn a_join_of_the_callers_returns_while_a_pass_that_it_helps_goes_on() {
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap());
    let threads = Threads::from_pool(Arc::clone(&pool));
    let [begun, helped, joined] = [const { AtomicBool::new(false) }; 3];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_for(&begun);
            // A pass that goes on until the join has returned.
            threads.enter(false, |team| {
                let deadline = Instant::now() + Duration::from_secs(10);
                while !joined.load(Ordering::Acquire) && Instant::now() < deadline {
                    team.for_each_mut(&mut [(); 8], 1 << 20, |_, ()| {
                        if rayon::current_thread_index().is_some() {
                            helped.store(true, Ordering::Release);
                        }
                    });
                }
            });
        });
        // The second half is stolen and goes on until somebody has helped: that is the thread that
        // waits for it.
        let second = || {
            begun.store(true, Ordering::Release);
            wait_for(&helped)
        };
        let start = Instant::now();
        let (stolen, helped) = pool.join(|| wait_for(&begun), second);
        joined.store(true, Ordering::Release);
        assert!(stolen && helped);
        assert!(start.elapsed() < Duration::from_secs(9), "the join waited for the whole pass");
    });
}

#[test]
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
