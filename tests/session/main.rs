//! Sessions: feeding, taking back, forking, and the same bits whoever computes them.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/counting.rs"]
mod counting;

mod architectures;
mod crowd;
mod errors;
mod feeding;
mod forks;
mod fresh;
mod laws;
mod limits;
mod long_rope;
mod memory;
mod saved;
mod scores;
mod soak;
mod threads;
mod windows;

use babyllama::Model;

use common::{RandomModel, Shape, open};

/// Of each thread, so that a test sees how much its own sessions hold.
#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

const SHAPE: Shape = Shape::new(24, 44).layers(2).heads(6, 2).vocab(61).context(700).tied();

/// More than 2 MiB of weights as int8 too, so that threads share them; heads and rows that aren't
/// multiples of 3 threads.
const LARGE: Shape = Shape::new(256, 704).layers(3).heads(8, 4).vocab(501).context(700).tied();

/// Without optimization the kernels are some fifty times slower: the longest tests do less then.
const UNOPTIMIZED: bool = cfg!(debug_assertions);

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

fn open_small() -> Model {
    open(RandomModel::new(SHAPE, 11).to_v1())
}

/// What a session of some prefills and decodes gives.
fn run(model: &Model) -> Vec<f32> {
    let mut session = model.session();
    let n = if UNOPTIMIZED { 5 } else { 11 };
    let tokens = tokens(n, model.config().vocab_size);
    let mut all = session.forward_all(&tokens[..2]).unwrap().to_vec();
    all.extend_from_slice(session.forward(&tokens[2..n - 2]).unwrap());
    for &token in &tokens[n - 2..] {
        all.extend_from_slice(session.forward(&[token]).unwrap());
    }
    all
}
