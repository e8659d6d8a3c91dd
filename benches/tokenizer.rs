//! The tokenizer: MB/s of text encoded, and of tokens decoded, with the bundled vocabulary.

mod common;

use babyllama::Tokenizer;
use common::{Report, time, wanted};

fn main() {
    let report = Report::new();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf");
    let tokenizer = Tokenizer::open(path).expect("the bundled model has a tokenizer");
    let sentence = "Once upon a time there was a little fish, and 3 friends of hers; \u{e9}t\u{e9}!\n";
    for copies in [1, 1000] {
        let text = sentence.repeat(copies);
        let megabytes = text.len() as f64 / 1e6;
        let tokens = tokenizer.encode(&text);
        let lines = format!("lines={copies}");
        if wanted(&format!("tokenizer/encode/{lines}")) {
            let (median, _) = time(|| drop(tokenizer.encode(&text)));
            report.line(&format!("tokenizer/encode/{lines}"), megabytes / median.as_secs_f64(), "MB/s");
        }
        if wanted(&format!("tokenizer/decode/{lines}")) {
            let (median, _) = time(|| drop(tokenizer.decode(&tokens)));
            report.line(&format!("tokenizer/decode/{lines}"), megabytes / median.as_secs_f64(), "MB/s");
        }
    }
}
