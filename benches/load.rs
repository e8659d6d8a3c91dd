//! Loading: from a file's name to a session, and its first token, with the file in the system's
//! cache.

mod common;

use babyllama::{Dtype, Model, ModelOptions};
use common::synthetic::shape;
use common::{Report, smoke, time, wanted};

fn main() {
    let report = Report::new();
    let layers = if smoke() { 1 } else { 12 };
    let shape = shape("110M", [768, 2048, layers], [12, 12], [32_000, 1024], true);
    let synthetic = std::env::temp_dir().join(format!("babyllama-bench-{}.gguf", std::process::id()));
    std::fs::write(&synthetic, shape.make(Dtype::Q4_0, layers).expect("there is memory for a small model"))
        .expect("the temporary folder can be written");
    let bundled = concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf");
    for (name, path) in [("bundled", bundled.as_ref()), ("110m", synthetic.as_path())] {
        for huge_pages in [false, true] {
            let options = ModelOptions::new().huge_pages(huge_pages);
            let pages = if huge_pages { "huge" } else { "mapped" };
            let open = || Model::open_with(path, &options).expect("the file is valid").session();
            if wanted(&format!("load/{name}/{pages}/session")) {
                let (median, _) = time(|| drop(open()));
                report.line(&format!("load/{name}/{pages}/session"), median.as_secs_f64() * 1e3, "ms");
            }
            if wanted(&format!("load/{name}/{pages}/token")) {
                let (median, _) = time(|| {
                    open().forward(&[1]).expect("a token fits");
                });
                report.line(&format!("load/{name}/{pages}/token"), median.as_secs_f64() * 1e3, "ms");
            }
        }
    }
    std::fs::remove_file(&synthetic).expect("our own file can be removed");
}
