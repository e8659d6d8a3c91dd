//! This machine's memory bandwidth and arithmetic peak, with which `bench` compares a model.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use babyllama::{Isa, machine};
#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::MmapMut;

/// A buffer much larger than the caches, in pages of the same size as the model's weights where the
/// system has a choice.
pub(crate) struct Memory(MmapMut);

impl Memory {
    /// A gigabyte, or a sixteenth of the available memory if that is less.
    #[cfg_attr(not(target_os = "linux"), allow(unused_mut, unused_variables, reason = "one size of pages"))]
    pub(crate) fn new(huge_pages: bool) -> std::io::Result<Self> {
        let limit = available_memory().map_or(u64::MAX, |bytes| bytes / 16);
        let mut memory = MmapMut::map_anon(limit.clamp(64 << 20, 1 << 30) as usize)?;
        #[cfg(target_os = "linux")]
        {
            // An error means that the system has only one page size.
            let _ = memory.advise(if huge_pages { Advice::HugePage } else { Advice::NoHugePage });
        }
        memory.fill(1);
        Ok(Self(memory))
    }

    /// The bandwidth at which `threads` threads read the buffer, in bytes per second: in one stream
    /// each or in four, whichever is faster here.
    pub(crate) fn read(&self, threads: usize) -> f64 {
        self.read_in(threads, false).max(self.read_in(threads, true))
    }

    fn read_in(&self, threads: usize, four_streams: bool) -> f64 {
        let part = self.0.len().div_ceil(threads);
        let all_are_there = Barrier::new(self.0.len().div_ceil(part));
        let read = |part| {
            all_are_there.wait();
            let start = Instant::now();
            black_box(machine::read(Isa::best(), part, four_streams));
            start.elapsed()
        };
        thread::scope(|scope| {
            let threads: Vec<_> = self.0.chunks(part).map(|part| scope.spawn(move || read(part))).collect();
            let slowest = threads.into_iter().filter_map(|thread| thread.join().ok()).max();
            self.0.len() as f64 / slowest.unwrap_or(Duration::MAX).as_secs_f64()
        })
    }
}

/// The operations per second that `threads` threads reach together: the best of five passes. Each
/// thread measures its own time, long enough that its start and the processor's ramp-up to full
/// frequency don't matter.
pub(crate) fn peak(isa: Isa, threads: usize, int8: bool) -> f64 {
    const PASS: Duration = Duration::from_millis(10);
    let rate = move || {
        let (start, mut operations) = (Instant::now(), 0);
        while start.elapsed() < PASS {
            operations +=
                if int8 { machine::multiply_int8(isa, 1 << 12) } else { machine::multiply_f32(isa, 1 << 12) };
        }
        operations as f64 / start.elapsed().as_secs_f64()
    };
    let pass = || {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(rate)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(0.0)).sum()
        })
    };
    (0..5).map(|_| pass()).fold(1.0, f64::max)
}

/// The memory that Linux can give without swapping; `None` on other systems.
pub(crate) fn available_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}
