//! Products of one thread, from its second-level cache or near it: GB/s of weights with one token,
//! GOP/s with many, for each format and instruction set. A number near scalar's betrays a kernel
//! that wasn't compiled for its instruction set.
//!
//! What is timed is a model of one layer that is nearly all products.

mod common;

use babyllama::{Dtype, Isa, Model, ModelOptions};
use common::synthetic::shape;
use common::{Report, smoke, time, wanted};

fn main() {
    let report = Report::new();
    let shape = shape("products", [512, 1024, 1], [8, 8], [32, 512], true);
    for &dtype in Dtype::ALL {
        let file = shape.make(dtype, 1).expect("there is memory for a small model");
        for isa in Isa::available() {
            if isa.name() == "scalar" && smoke() {
                continue;
            }
            let options = ModelOptions::new().isa(isa).threads(1).no_tokenizer();
            let model = Model::from_bytes_with(file.clone(), &options).expect("a synthetic file is valid");
            let bytes: usize = model.tensors().iter().filter(|t| t.shape.len() == 2).map(|t| t.bytes).sum();
            let weights: usize = model
                .tensors()
                .iter()
                .filter(|t| t.shape.len() == 2)
                .map(|t| t.shape.iter().product::<usize>())
                .sum();
            for n_tokens in [1, 128] {
                let name = format!("kernels/{dtype}/{}/tokens={n_tokens}", isa.name()).to_lowercase();
                if !wanted(&name) {
                    continue;
                }
                let mut session = model.session();
                let tokens = vec![1; n_tokens];
                let (median, _) = time(|| {
                    session.truncate(0);
                    session.forward(&tokens).expect("the context is long enough");
                });
                let seconds = median.as_secs_f64();
                if n_tokens == 1 {
                    report.line(&name, bytes as f64 / seconds / 1e9, "GB/s");
                } else {
                    report.line(&name, 2.0 * (weights * n_tokens) as f64 / seconds / 1e9, "GOP/s");
                }
            }
        }
    }
}
