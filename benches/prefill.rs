//! Prefill: tokens/s of prompts of several lengths, for a small model in some formats, on all
//! threads.

mod common;

use babyllama::{Dtype, Isa, Model, ModelOptions};
use common::synthetic::shape;
use common::{Report, smoke, time, wanted};

fn main() {
    let report = Report::new();
    let layers = if smoke() { 1 } else { 12 };
    let shape = shape("110M", [768, 2048, layers], [12, 12], [32_000, 2048], true);
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Q8_0, Dtype::Q4_0, Dtype::Q4K] {
        let names: Vec<_> = Isa::available().into_iter().skip(1).collect();
        for isa in names {
            for n_tokens in [16, 128, 512] {
                let name =
                    format!("prefill/{}/{dtype}/{}/tokens={n_tokens}", shape.name, isa.name()).to_lowercase();
                if !wanted(&name) || smoke() && n_tokens > 16 {
                    continue;
                }
                let file = shape.make(dtype, layers).expect("there is memory for a small model");
                let options = ModelOptions::new().isa(isa).no_tokenizer();
                let model = Model::from_bytes_with(file, &options).expect("a synthetic file is valid");
                let mut session = model.session();
                let tokens = vec![1; n_tokens];
                let (median, _) = time(|| {
                    session.truncate(0);
                    session.forward(&tokens).expect("the context is long enough");
                });
                report.line(&name, n_tokens as f64 / median.as_secs_f64(), "tok/s");
            }
        }
    }
}
