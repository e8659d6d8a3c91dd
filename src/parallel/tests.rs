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
                let columns = [Columns::new(a, wa, 4), Columns::new(b, wb, 4), Columns::new(c, wc, 4)];
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
    while lock(&threads.crew.helpers).present > 0 {
        assert!(Instant::now() < deadline, "the helper still holds its thread");
        std::thread::sleep(Duration::from_millis(5));
    }
    fill(&threads, 1, [64, 64, 64]);
}
