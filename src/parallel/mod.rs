//! Threads: how a forward pass shares its loops out among them.
//!
//! A forward pass is a few hundred regions of some microseconds each, so entering a pool for each
//! of them would cost more than it gains (a region costs 0.3 to 2 us this way, a rayon `install` 6
//! to 15). Instead the calling thread opens a [`Team`] once for a forward pass; helpers from the
//! pool join it, and claim chunks of the current region from an atomic word.
//!
//! - `threads.rs`: the pool. With its tests it is the only file that names rayon.
//! - `team.rs`: what a forward pass calls: loops over items, and over the columns of matrices.
//! - `columns.rs`: columns of a matrix, each for one thread to write.
//! - `crew.rs`, `queue.rs`: the protocol by which chunks are claimed. `sync.rs` swaps its atomics
//!   for loom's, with which `model_check.rs` runs it in every order that matters.
//! - `chunks.rs`: how large chunks are.
//!
//! What holds:
//! - The caller works too, and waits only for chunks that helpers have claimed. So a pool that is
//!   busy, or whose threads all wait for the caller, costs speed and never liveness.
//! - Regions don't nest: not in code that compiles, and not at run time either. A pass inside a
//!   pass of the same model runs on its own thread alone.
//! - A chunk computes the same numbers on any thread, so results are the same bits for any number
//!   of threads.
//! - The process-global pool is never built or used.
//! - In a pool of our own entering allocates nothing after the first time: a helper lingers for
//!   some milliseconds before it gives its thread back.
//! - In a lent pool a helper gives its thread back after a millisecond or two, and another is
//!   spawned, which queues after the work that waits there. For rayon may run a helper inside a
//!   `join` of the pool's owner, which goes on only when the helper returns.

#![cfg_attr(not(feature = "rayon"), allow(dead_code, reason = "without it nobody helps"))]

mod chunks;
mod columns;
mod crew;
#[cfg(all(test, loom))]
mod model_check;
mod queue;
mod sync;
mod team;
mod threads;

pub(crate) use columns::{ColumnPartition, ColumnSlice, MAX_STRIPS};
pub(crate) use team::Team;
#[cfg(feature = "rayon")]
pub(crate) use threads::ThreadPool;
pub(crate) use threads::Threads;

#[cfg(all(test, feature = "rayon", not(loom)))]
mod tests;
