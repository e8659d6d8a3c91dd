//! Decode: tokens/s and the memory read for them, for each shape, format and instruction set.
//!
//! `cargo bench --bench decode -- 15M int8 avx512` runs the lines whose name holds all of the
//! words.

mod common;

use babyllama::{Isa, Model, ModelOptions};
use common::{Report, SHAPES, llama2c_file, smoke, time, wanted};

fn main() {
    let report = Report::new();
    for shape in &SHAPES[..if smoke() { 1 } else { SHAPES.len() }] {
        for int8 in [false, true] {
            for threads in [1, 2] {
                for isa in Isa::available() {
                    let format = if int8 { "int8" } else { "f32" };
                    let name = format!("decode/{}/{format}/{}/threads={threads}", shape.name, isa.name());
                    if wanted(&name) {
                        decode(&report, &name, &llama2c_file(shape, int8), isa, threads);
                    }
                }
            }
        }
    }
}

fn decode(report: &Report, name: &str, file: &[u8], isa: Isa, threads: usize) {
    let options = ModelOptions::new().isa(isa).threads(threads);
    let model = Model::from_bytes_with(file.to_vec(), &options).expect("a synthetic file is valid");
    let mut session = model.session();
    // The first 64 positions again and again, so that attention stays a small part.
    let tokens: Vec<u32> = (0..64).map(|i| i * 7 % 500 + 3).collect();
    let (median, _) = time(|| {
        session.truncate(0);
        for token in &tokens {
            session.forward(&[*token]).expect("the context is long enough");
        }
    });
    let per_second = tokens.len() as f64 / median.as_secs_f64();
    report.line(name, per_second, "tok/s");
    report.line(&format!("{name}/memory"), file.len() as f64 * per_second / 1e9, "GB/s");
}
