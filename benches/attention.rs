//! Attention: what a token costs at several depths of the context beyond what it costs at none,
//! with keys and values in f32 and in f16, on one thread.

mod common;

use babyllama::{CacheDtype, Dtype, Isa, Model, ModelOptions, SessionOptions};
use common::synthetic::shape;
use common::{Report, smoke, time, wanted};

fn main() {
    let report = Report::new();
    // Heads and a cache like TinyLlama's, and next to no weights beside them.
    let shape = shape("attention", [2048, 32, 1], [32, 4], [32, 8192], true);
    let file = shape.make(Dtype::Q4_0, 1).expect("there is memory for a small model");
    for isa in Isa::available().into_iter().skip(1) {
        let options = ModelOptions::new().isa(isa).threads(1).no_tokenizer();
        let model = Model::from_bytes_with(file.clone(), &options).expect("a synthetic file is valid");
        for (cache, name) in [(CacheDtype::F32, "f32"), (CacheDtype::F16, "f16"), (CacheDtype::Q8_0, "q8_0")]
        {
            let mut session = model.session_with(SessionOptions::new().cache_dtype(cache));
            let mut at = |depth: usize| {
                session.truncate(0);
                session.forward(&vec![1; depth]).expect("the context is long enough");
                let (median, _) = time(|| {
                    session.truncate(depth);
                    session.forward(&[1]).expect("the context is long enough");
                });
                median.as_secs_f64()
            };
            let nothing = at(1);
            for depth in if smoke() { vec![64] } else { vec![512, 2048, 8000] } {
                let name = format!("attention/{name}/{}/depth={depth}", isa.name());
                if wanted(&name) {
                    report.line(&name, (at(depth) - nothing) * 1e6, "us");
                }
            }
        }
    }
}
