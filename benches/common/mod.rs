//! Made-up models of real shapes, and timing that is worth comparing. The cost of a model doesn't
//! depend on its weights.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each bench includes this file and uses a part of it"
)]

#[path = "../../src/bin/babyllama/synthetic.rs"]
pub mod synthetic;

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A shape: dim, `hidden_dim`, `n_layers`, `n_heads`, `n_kv_heads`, `vocab_size`, `max_seq_len`.
pub struct Shape(pub &'static str, pub [i32; 7]);

/// llama2.c's baby llamas, all tied.
pub const SHAPES: [Shape; 4] = [
    Shape("stories260K", [64, 172, 5, 8, 4, 512, 512]),
    Shape("stories15M", [288, 768, 6, 6, 6, 32000, 256]),
    Shape("stories42M", [512, 1376, 8, 8, 8, 32000, 1024]),
    Shape("stories110M", [768, 2048, 12, 12, 12, 32000, 1024]),
];

impl Shape {
    /// The numbers of f32 in norms, and of weights in each matrix, in the order of v1 and v2.
    fn counts(&self) -> (usize, Vec<usize>) {
        let [dim, hidden, layers, heads, kv_heads, vocab, _] = self.1.map(|n| n as usize);
        let kv = dim / heads * kv_heads;
        let kinds = [dim * dim, dim * kv, dim * kv, dim * dim, dim * hidden, dim * hidden, dim * hidden];
        let matrices = kinds.iter().flat_map(|&n| std::iter::repeat_n(n, layers));
        ((2 * layers + 1) * dim, std::iter::once(vocab * dim).chain(matrices).collect())
    }

    /// A v1 (f32) or, with a group size, v2 (int8) file.
    pub fn file(&self, group_size: Option<i32>) -> Vec<u8> {
        let mut random = 0x9E37_79B9_7F4A_7C15u64;
        let mut next = move || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 40) as i32 - (1 << 23)
        };
        let mut file = 0x616b_3432u32.to_le_bytes().to_vec();
        file.extend(if group_size.is_some() { 2i32 } else { 1 }.to_le_bytes());
        file.extend(self.1.iter().flat_map(|n| n.to_le_bytes()));
        file.push(1);
        file.extend(group_size.unwrap_or(0).to_le_bytes());
        file.resize(256, 0);
        let (norms, matrices) = self.counts();
        file.extend(std::iter::repeat_n(1f32.to_le_bytes(), norms).flatten());
        for n in matrices {
            match group_size {
                None => file.extend((0..n).flat_map(|_| (next() as f32 * 4e-9).to_le_bytes())),
                Some(group_size) => {
                    file.extend((0..n).map(|_| (next() >> 16) as i8 as u8));
                    file.extend((0..n / group_size as usize).flat_map(|_| 3e-4f32.to_le_bytes()));
                }
            }
        }
        file
    }

    /// The greatest group size up to 64 that divides dim, as llama2.c's exporter chooses it.
    pub fn group_size(&self) -> i32 {
        [64, 32, 16, 8, 4].into_iter().find(|group| self.1[0] % group == 0).unwrap_or(1)
    }
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
