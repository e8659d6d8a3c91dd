//! `babyllama convert` and `inspect` on models as they are published, and what becomes of a
//! conversion that is killed.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{RandomModel, Shape, TempFile};

fn published(name: &str) -> String {
    format!("{}/tests/golden/published/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn start(args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_babyllama"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn babyllama(args: &[&str]) -> Output {
    start(args).wait_with_output().unwrap()
}

/// What it printed on standard output and on standard error.
#[track_caller]
fn succeeds(args: &[&str]) -> (String, String) {
    let output = babyllama(args);
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{args:?}: {stderr}");
    (stdout, stderr)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn published_models_become_files_that_run() {
    let marker = TempFile::new("marker", b"");
    let target = |name: &str| -> PathBuf { marker.path().with_file_name(name) };
    let runs = |path: &Path| succeeds(&["run", path.to_str().unwrap(), "-i", "Once", "-n", "8", "-t", "0"]).0;
    for name in ["llama3", "llama2", "meta_1", "meta_2"] {
        let gguf = target(&format!("{name}.gguf"));
        let (stdout, stderr) = succeeds(&["convert", &published(name), gguf.to_str().unwrap(), "--check"]);
        assert_eq!((&*stdout, stderr.contains("match the source")), ("", true), "{stderr}");
        assert!(runs(&gguf).starts_with("Once"));
        if name == "llama3" {
            let output = babyllama(&["convert", &published(name), target("l3.bin").to_str().unwrap()]);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(stderr.contains("its rotary frequencies are scaled"), "{stderr}");
            continue;
        }
        let bin = target(&format!("{name}.bin"));
        succeeds(&["convert", &published(name), bin.to_str().unwrap(), "--check"]);
        assert_eq!(runs(&bin), runs(&gguf), "{name}: the same weights and tokenizer tell the same");
        let v2 = target(&format!("{name}.v2.bin"));
        succeeds(&["convert", &published(name), v2.to_str().unwrap(), "--to", "llama2c-v2", "--check"]);
        assert!(succeeds(&["inspect", v2.to_str().unwrap()]).0.contains("int8 (groups of 16)"));
    }
    let left: Vec<_> =
        names(marker.path().parent().unwrap()).into_iter().filter(|n| n.contains("l3")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn inspect_shows_published_models() {
    for (name, format, scaling) in [
        ("llama3", "Hugging Face", "none"),
        ("llama2", "Hugging Face", "none"),
        ("meta_2", "Meta's PyTorch checkpoint", "none"),
    ] {
        let (shown, _) = succeeds(&["inspect", &published(name)]);
        for part in [format!("format        {format}\n"), format!("rope_scaling  {scaling}\n")] {
            assert!(shown.contains(&part), "{part:?} is not in\n{shown}");
        }
        assert!(shown.contains("2 x layers.*.attention.wk     (8, 16)"), "{shown}");
        let (json, _) = succeeds(&["inspect", &published(name), "--json", "--tensors", "--metadata"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["config"]["n_kv_heads"], 2);
        assert_eq!(json["tied"], name == "llama3");
        let n_tensors = 2 + 2 * 9 + usize::from(name != "llama3");
        assert_eq!(json["tensors"].as_array().unwrap().len(), n_tensors);
        assert_eq!(json["tensors"][0]["shape"], serde_json::json!([352, 16]));
        let key = if name == "meta_2" { "multiple_of" } else { "hidden_act" };
        assert!(json["metadata"][key].is_string(), "{json}");
    }
    let (json, _) = succeeds(&["inspect", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["config"]["dim"], &json["parameters"]), (&128.into(), &1_238_656.into()));
    assert!(json.get("tensors").is_none() && json["threads"].is_number());
}

/// A file that takes a while to convert.
fn large_model() -> TempFile {
    let shape = Shape {
        dim: 256,
        hidden_dim: 688,
        n_layers: 6,
        n_heads: 8,
        n_kv_heads: 4,
        vocab_size: 4096,
        max_seq_len: 64,
        tied: false,
    };
    TempFile::new("large.bin", &RandomModel::new(shape, 1).to_v1())
}

#[test]
fn a_killed_conversion_leaves_no_file_under_its_name() {
    let source = large_model();
    let folder = source.path().parent().unwrap();
    let target = folder.join("out.gguf");
    let args = ["convert", source.path().to_str().unwrap(), target.to_str().unwrap()];
    let start_time = Instant::now();
    succeeds(&args);
    let whole_time = start_time.elapsed();
    let whole = fs::read(&target).unwrap();
    fs::remove_file(&target).unwrap();
    let (mut killed, rounds) = (0, 50);
    for round in 0..rounds {
        let mut child = start(&args);
        // Moments spread over all of it, and a little beyond.
        std::thread::sleep(
            whole_time.mul_f64(f64::from(round) / f64::from(rounds)) + Duration::from_micros(137),
        );
        child.kill().unwrap();
        let was_killed = !child.wait().unwrap().success();
        if target.exists() {
            assert!(fs::read(&target).unwrap() == whole, "half a file has its name");
            fs::remove_file(&target).unwrap();
        }
        killed += usize::from(was_killed);
    }
    assert!(killed > 10, "{killed} of {rounds} were killed before they ended");
    // The next one that isn't killed clears away what the others left.
    succeeds(&args);
    assert_eq!(names(folder), ["large.bin", "out.gguf"]);
    assert!(fs::read(&target).unwrap() == whole);
}

#[test]
fn a_file_that_another_process_makes_is_left_alone() {
    let source = TempFile::new("model.bin", b"");
    let target = source.path().with_file_name("out.gguf");
    let ours = babyllama::convert::OutputFile::create(&target, false).unwrap();
    let before = names(source.path().parent().unwrap());
    // Another one of the same name, whose process is gone.
    fs::write(source.path().with_file_name(".out.gguf.999999999.tmp"), b"half").unwrap();
    fs::write(source.path().with_file_name(".out.gguf.mine.tmp"), b"not ours to remove").unwrap();
    let output = babyllama(&["convert", &published("llama2"), target.to_str().unwrap()]);
    assert!(output.status.success());
    let mut expected = [before, vec![".out.gguf.mine.tmp".into(), "out.gguf".into()]].concat();
    expected.sort();
    assert_eq!(names(source.path().parent().unwrap()), expected);
    drop(ours);
}
