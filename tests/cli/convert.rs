//! `convert`, and files that must stay: none of a source is written to, none is left half written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use babyllama::convert::{GgufOptions, OutputFile, Recipe, Source, to_gguf};
use babyllama::{ErrorKind, ModelOptions};

use crate::common::{BUNDLED, RandomModel, Shape, TempFile, assert_says};
use crate::{SMALL, babyllama, beside, command, fails, names, published, rambler, stdout, succeeds, text};

#[test]
fn convert_writes_what_the_library_writes_and_then_runs() {
    let model = rambler();
    let target = model.beside("rambler.gguf");
    let (source, target) = (model.text(), text(&target));
    let args = ["convert", source, target, "-z", BUNDLED, "--dtype", "q8_0", "--norm-eps", "1e-6"];
    let args = [&args[..], &["--set", "general.name=a = b"]].concat();
    assert_eq!(stdout(&babyllama(&args)), "");
    let options = GgufOptions::new().recipe(Recipe::Q8_0).metadata("general.name", "a = b");
    let open = ModelOptions::new().tokenizer_path(BUNDLED).norm_eps(1e-6);
    let mut expected = Vec::new();
    to_gguf(&Source::open(source, &open).unwrap(), &options, &mut expected).unwrap();
    assert!(fs::read(target).unwrap() == expected, "the file differs");
    assert!(!stdout(&babyllama(&["run", target, "-n", "9"])).trim().is_empty());

    fails(&babyllama(&args), 1, &["rambler.gguf: the file is there already"]);
    fs::write(target, b"old").unwrap();
    assert_eq!(stdout(&babyllama(&[&args[..], &["--force"]].concat())), "");
    assert!(fs::read(target).unwrap() == expected, "the file differs");
}

#[test]
fn failed_conversions_leave_nothing_behind() {
    let model = rambler();
    let folder = model.folder();
    let target = folder.join("out.gguf");
    let (source, target) = (model.text(), text(&target));
    fails(&babyllama(&["convert", "no/such.bin", target]), 1, &["no/such.bin: "]);
    let twice = ["convert", source, target, "--set", "general.file_type=1"];
    fails(&babyllama(&twice), 1, &["out.gguf: key \"general.file_type\" can't be written"]);
    fails(&babyllama(&["convert", source, text(folder)]), 1, &["is a directory"]);
    fails(&babyllama(&["convert", source, target, "--dtype", "q9"]), 2, &["f32, f16, bf16, q8_0, q4_0"]);
    fails(&babyllama(&["convert", source, target, "--set", "llama.x=1"]), 2, &["begin with general."]);
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "something was left behind");
}

#[test]
fn published_models_become_files_that_run() {
    let marker = TempFile::new("marker", b"");
    let target = |name: &str| -> PathBuf { marker.beside(name) };
    let runs = |path: &Path| succeeds(&["run", path.to_str().unwrap(), "-i", "Once", "-n", "8", "-t", "0"]).0;
    for name in ["llama3", "llama2", "meta_1", "meta_2"] {
        let gguf = target(&format!("{name}.gguf"));
        let (stdout, stderr) = succeeds(&["convert", &published(name), gguf.to_str().unwrap(), "--check"]);
        assert_eq!((&*stdout, stderr.contains("match the source")), ("", true), "{stderr}");
        assert!(runs(&gguf).starts_with("Once"));
        if name == "llama3" {
            let output = babyllama(&["convert", &published(name), target("l3.bin").to_str().unwrap()]);
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_says(&stderr, &["its rotary frequencies are scaled"]);
            continue;
        }
        let bin = target(&format!("{name}.bin"));
        succeeds(&["convert", &published(name), bin.to_str().unwrap(), "--check"]);
        assert_eq!(runs(&bin), runs(&gguf), "{name}: the same weights and tokenizer tell the same");
        let v2 = target(&format!("{name}.v2.bin"));
        succeeds(&["convert", &published(name), v2.to_str().unwrap(), "--to", "llama2c-v2", "--check"]);
        assert!(succeeds(&["inspect", v2.to_str().unwrap()]).0.contains("int8 (groups of 16)"));
    }
    let left: Vec<_> = names(marker.folder()).into_iter().filter(|n| n.contains("l3")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A matrix of a safetensors file: its name and its shape; all numbers are 1.
fn ones(matrices: &[(&str, [usize; 2])]) -> Vec<u8> {
    let (mut header, mut data) = (Vec::new(), Vec::new());
    for (name, [rows, columns]) in matrices {
        let start = data.len();
        data.extend(1_f32.to_le_bytes().repeat(rows * columns));
        let end = data.len();
        let shape = format!("\"dtype\":\"F32\",\"shape\":[{rows},{columns}]");
        header.push(format!("\"{name}\":{{{shape},\"data_offsets\":[{start},{end}]}}"));
    }
    let header = format!("{{{}}}", header.join(","));
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

#[test]
fn adapters_are_merged_and_alone_are_called_what_they_are() {
    let config = br#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "base_model_name_or_path": "some/base"}"#;
    let adapter = TempFile::new("adapter_config.json", config);
    let module = "base_model.model.model.layers.0.mlp.down_proj";
    let [a, b] = ["A", "B"].map(|part| format!("{module}.lora_{part}.weight"));
    let weights = ones(&[(&a, [1, 40]), (&b, [16, 1])]);
    fs::write(adapter.beside("adapter_model.safetensors"), weights).unwrap();
    let (folder, base) = (text(adapter.folder()), published("llama3"));
    let target = |name: &str| text(&adapter.beside(name)).to_owned();
    succeeds(&["convert", &base, &target("plain.gguf"), "--dtype", "f32"]);
    let merge = |name: &str, lora: &[&str]| {
        let target = target(name);
        let args = [&["convert", &base, &target, "--dtype", "f32", "--check"][..], lora].concat();
        succeeds(&args);
        fs::read(target).unwrap()
    };
    let (whole, none) = (merge("whole.gguf", &["--lora", folder]), fs::read(target("plain.gguf")).unwrap());
    assert!(whole != none && whole.len() == none.len());
    assert!(merge("zero.gguf", &["--lora", &format!("{folder}=0")]) == none);
    let half = format!("{folder}=0.5");
    assert!(merge("halves.gguf", &["--lora", &half, "--lora", &half]) == whole);

    let into = ["convert", &base, &target("x.gguf"), "--lora"];
    fails(&babyllama(&[&into[..], &[&format!("{folder}=x")]].concat()), 2, &["must be a finite number"]);
    fails(&babyllama(&[&into[..], &["no/such"]].concat()), 1, &["no/such"]);
    let alone = ["LoRA adapter", "some/base", "--lora", folder];
    fails(&babyllama(&["convert", folder, &target("x.gguf")]), 1, &alone);
    fails(&babyllama(&["run", folder]), 1, &alone);
    let file = adapter.beside("adapter_model.safetensors");
    fails(&babyllama(&["convert", text(&file), &target("x.gguf")]), 1, &alone);
    fails(&babyllama(&["run", text(&file)]), 1, &["LoRA", "some/base", "--lora"]);
}

/// A file that takes a while to convert.
fn large_model() -> TempFile {
    let shape = Shape::new(256, 688).layers(6).heads(8, 4).vocab(4096).context(64);
    TempFile::new("large.bin", &RandomModel::new(shape, 1).to_v1())
}

#[test]
fn a_killed_conversion_leaves_no_file_under_its_name() {
    let source = large_model();
    let folder = source.folder();
    let target = folder.join("out.gguf");
    let args = ["convert", source.path().to_str().unwrap(), target.to_str().unwrap()];
    let start_time = Instant::now();
    succeeds(&args);
    let whole_time = start_time.elapsed();
    let whole = fs::read(&target).unwrap();
    fs::remove_file(&target).unwrap();
    let (mut killed, rounds) = (0, 50);
    for round in 0..rounds {
        let mut child = command(&args).spawn().unwrap();
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
    let target = source.beside("out.gguf");
    let ours = OutputFile::create(&target, false).unwrap();
    let before = names(source.folder());
    // Another one of the same name, whose process is gone.
    fs::write(source.beside(".out.gguf.999999999.tmp"), b"half").unwrap();
    fs::write(source.beside(".out.gguf.mine.tmp"), b"not ours to remove").unwrap();
    let output = babyllama(&["convert", &published("llama2"), target.to_str().unwrap()]);
    assert!(output.status.success());
    let mut expected = [before, vec![".out.gguf.mine.tmp".into(), "out.gguf".into()]].concat();
    expected.sort();
    assert_eq!(names(source.folder()), expected);
    drop(ours);
}

#[cfg(unix)]
#[test]
fn no_file_of_the_source_is_written_to() {
    let model = TempFile::new("s.bin", &RandomModel::new(SMALL, 1).to_v0());
    let folder = model.folder();
    let at = |name: &str| folder.join(name);
    let tokenizer = [&6_u32.to_le_bytes()[..], &[0; 4], &5_u32.to_le_bytes(), b"<unk>"].concat();
    fs::write(at("s.tokenizer.bin"), &tokenizer).unwrap();
    fs::write(at("other.bin"), &tokenizer).unwrap();
    fs::hard_link(model.path(), at("hard.bin")).unwrap();
    std::os::unix::fs::symlink(model.path(), at("soft.bin")).unwrap();
    let source = model.text();
    let link = at("./../").join(folder.file_name().unwrap()).join("s.bin");
    for (target, more) in [
        (at("s.bin"), &[][..]),
        (link, &[]),
        (at("hard.bin"), &[]),
        (at("soft.bin"), &[]),
        (at("s.tokenizer.bin"), &[]),
        (at("other.bin"), &["-z", text(&at("other.bin"))]),
    ] {
        let args = [&["convert", source, text(&target), "--force", "--to", "gguf"][..], more].concat();
        let before = fs::read(&target).unwrap();
        fails(&babyllama(&args), 1, &["the model is read from this file"]);
        assert!(fs::read(&target).unwrap() == before, "{} was written to", target.display());
    }
    fails(
        &babyllama(&["logits", source, "--tokens", "1", "-o", source, "--force"]),
        1,
        &["the model is read from this file"],
    );
    // What an earlier conversion wrote may be replaced.
    let target = at("out.gguf");
    for force in [&[][..], &["--force"]] {
        stdout(&babyllama(&[&["convert", source, text(&target), "-z", BUNDLED][..], force].concat()));
    }
    // llama2.c's tokenizer goes beside the weights, where the source's may lie.
    let gguf = text(&target);
    fails(&babyllama(&["convert", gguf, gguf, "--force"]), 1, &["the model is read from this file"]);
}

/// Of a published model none of the files is written to, whether or not it is read today.
#[cfg(unix)]
#[test]
fn no_file_of_a_published_model_is_written_to() {
    let config = TempFile::new("config.json", b"{\"model_type\": \"llama\"}");
    let folder = config.folder();
    let linked = TempFile::new("blob", b"\x10\0\0\0\0\0\0\0{\"a\":1}         ");
    std::os::unix::fs::symlink(linked.path(), config.beside("model.safetensors")).unwrap();
    for (name, bytes) in [
        ("vocab.json", &b"{\"a\": 1}"[..]),
        ("chat_template.jinja", b"{{ messages }}"),
        ("tokenizer.model", b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02"),
        ("consolidated.00.pth", b"PK\x03\x04"),
        ("earlier.gguf", b"GGUF\x03\0\0\0"),
    ] {
        beside(&config, name, bytes);
    }
    for source in [folder, config.path()] {
        for entry in fs::read_dir(folder).unwrap() {
            let target = entry.unwrap().path();
            let created = OutputFile::create_apart(&target, true, &[source]);
            let is_refused = matches!(&created, Err(e) if matches!(e.kind(), ErrorKind::IsSource));
            assert_eq!(is_refused, !target.ends_with("earlier.gguf"), "{}", target.display());
        }
        assert!(OutputFile::create_apart(linked.path(), true, &[source]).is_err());
        OutputFile::create_apart(folder.join("new.gguf"), false, &[source]).unwrap();
    }
    let parts: Vec<PathBuf> =
        (1..=2).map(|i| beside(&config, &format!("m-0000{i}-of-00002.gguf"), b"GGUF")).collect();
    assert!(OutputFile::create_apart(&parts[1], true, &[&parts[0]]).is_err());
    assert!(OutputFile::create_apart(folder.join("earlier.gguf"), true, &[&parts[0]]).is_ok());
}

#[test]
fn a_file_is_replaced_only_when_asked() {
    let out = TempFile::new("logits.f32", b"precious");
    let args = ["logits", BUNDLED, "--tokens", "1", "--out", out.text()];
    fails(&babyllama(&args), 1, &["the file is there already: --force replaces it"]);
    assert_eq!(fs::read(out.path()).unwrap(), b"precious");
    stdout(&babyllama(&[&args[..], &["--force"]].concat()));
    assert_eq!(fs::read(out.path()).unwrap().len(), 4 * 1024);
    // An empty one is lost to nobody: it is how programs reserve a name.
    fs::write(out.path(), b"").unwrap();
    stdout(&babyllama(&args));
}

#[test]
fn a_dash_is_never_the_name_of_an_output() {
    let folder = TempFile::new("x", b"");
    let mut convert = command(&["convert", BUNDLED, "-"]);
    fails(&convert.current_dir(folder.folder()).output().unwrap(), 2, &["standard output"]);
    assert!(!folder.beside("-").exists());
}

/// A model that takes long to convert, and no room on the disk.
#[cfg(target_os = "linux")]
fn vast() -> TempFile {
    let ints = [2048_i32, 8192, 2, 16, 16, 32_000, 16];
    let header: Vec<u8> = ints.iter().flat_map(|int| int.to_le_bytes()).collect();
    let layer = 4 * 2048 * 2048 + 3 * 2048 * 8192 + 2 * 2048;
    let bytes = 28 + 4 * (32_000 * 2048 + 2 * layer + 2048 + 16 * 128);
    let file = TempFile::new("vast.bin", &header);
    fs::File::options().write(true).open(file.path()).unwrap().set_len(bytes).unwrap();
    file
}

#[cfg(target_os = "linux")]
#[test]
fn a_signal_leaves_no_unfinished_file() {
    use std::os::unix::process::ExitStatusExt;

    let model = vast();
    let folder = model.folder();
    let target = folder.join("out");
    let tokens = "1 ".repeat(16);
    let convert = ["convert", model.text(), text(&target), "--to", "gguf", "--dtype", "q3_k_s"];
    let logits = ["logits", model.text(), "--tokens", &tokens, "-o", text(&target)];
    for (args, signals, code) in [
        (&convert[..], &["TERM"][..], 143),
        (&convert, &["HUP"], 129),
        (&convert, &["INT"], 130),
        (&logits, &["TERM"], 143),
        // The second is for who can't wait: whether it comes in time is chance.
        (&logits, &["TERM", "TERM"], 143),
        (&logits, &["TERM", "HUP"], 143),
        (&logits, &["INT", "INT"], 130),
        (&convert, &["INT", "INT"], 130),
    ] {
        let mut child = command(args).spawn().unwrap();
        while fs::read_dir(folder).unwrap().count() == 1 {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it wrote anything");
            std::thread::sleep(Duration::from_millis(1));
        }
        for signal in signals {
            let kill = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
            assert!(kill.unwrap().success());
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = child.wait().unwrap();
        // As a shell tells it.
        let found = status.code().or(status.signal().map(|signal| 128 + signal));
        let by_second = matches!((signals, found), ([_, "HUP"], Some(129)));
        assert!(found == Some(code) || by_second, "{signals:?}: {status:?}");
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "{args:?}: something was left behind");
    }
}
