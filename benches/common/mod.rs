//! Made-up models of real shapes, and timing that is worth comparing. The cost of a model doesn't
//! depend on its weights.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each bench includes this file and uses a part of it"
)]

#[path = "../../tests/common/rng.rs"]
mod rng;
#[path = "../../src/bin/babyllama/synthetic.rs"]
pub mod synthetic;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use babyllama::convert::{Llama2c, Source, to_llama2c};
use babyllama::{Dtype, ModelOptions};
use synthetic::{Shape, shape};

/// llama2.c's baby llamas, all tied.
pub const SHAPES: [Shape; 4] = [
    shape("stories260K", [64, 172, 5], [8, 4], [512, 512], true),
    shape("stories15M", [288, 768, 6], [6, 6], [32_000, 256], true),
    shape("stories42M", [512, 1376, 8], [8, 8], [32_000, 1024], true),
    shape("stories110M", [768, 2048, 12], [12, 12], [32_000, 1024], true),
];

/// A model as llama2.c's v1 (f32) or v2 (int8) file.
pub fn llama2c_file(shape: &Shape, int8: bool) -> Vec<u8> {
    let gguf = shape.make(Dtype::F32, shape.n_layers).expect("there is memory for a small model");
    let source = Source::from_bytes(gguf, &ModelOptions::new()).expect("a synthetic file is valid");
    let version = if int8 { Llama2c::V2 { group_size: Llama2c::GROUP_SIZE } } else { Llama2c::V1 };
    let mut file = Vec::new();
    to_llama2c(&source, version, &mut file).expect("llama2.c's formats hold such a shape");
    file
}

/// Prints measurements, one a line: a name, a number and its unit. With `--baseline FILE`, the
/// output of an earlier run, each line ends with what it is of the number there.
pub struct Report {
    baseline: HashMap<String, f64>,
}

impl Report {
    pub fn new() -> Self {
        let mut args = std::env::args().skip_while(|arg| arg != "--baseline").skip(1);
        let text = args.next().map(|path| std::fs::read_to_string(&path).expect("the baseline can be read"));
        let line = |line: &str| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        };
        Self { baseline: text.iter().flat_map(|text| text.lines().filter_map(line)).collect() }
    }

    pub fn line(&self, name: &str, value: f64, unit: &str) {
        let ratio = self.baseline.get(name).map(|before| format!("   {:.2} of the baseline", value / before));
        println!("{name:<44} {value:>12.2} {unit:<6}{}", ratio.unwrap_or_default());
    }
}

/// Whether this run is only to see that the bench works (`cargo test --benches`, or an option
/// `--test`).
pub fn smoke() -> bool {
    std::env::args().any(|arg| arg == "--test")
}

/// Whether a line's name holds the filter that was given on the command line.
pub fn wanted(name: &str) -> bool {
    let words = std::env::args().skip(1).take_while(|arg| arg != "--baseline");
    words.filter(|arg| !arg.starts_with('-')).all(|filter| name.contains(&filter))
}

/// The median and the least time of a call, over about a second at most, or of seven calls.
pub fn time(mut call: impl FnMut()) -> (Duration, Duration) {
    let (limit, least) = if smoke() { (Duration::ZERO, 1) } else { (Duration::from_millis(700), 7) };
    call();
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < least || start.elapsed() < limit {
        let t = Instant::now();
        call();
        times.push(t.elapsed());
    }
    times.sort();
    (times[times.len() / 2], times[0])
}
