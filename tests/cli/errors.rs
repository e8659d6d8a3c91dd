//! Files, arguments and options that are wrong: an exit code, and words that help.

use std::fs;
use std::process::Stdio;

use babyllama::Isa;
use babyllama::inspect::GgufFile;

use crate::common::gguf::Value;
use crate::common::{BUNDLED, RandomModel, TempFile, assert_says, tokenizer_bin};
use crate::{SMALL, babyllama, beside, command, fails, rambler, stderr, stdout, text, with_input, with_keys};

#[test]
fn missing_file_is_named() {
    for args in [
        &["run", "no/such.bin"][..],
        &["chat", "no/such.bin"],
        &["inspect", "no/such.bin"],
        &["tokenize", "no/such.bin", "text"],
        &["tokenize", "-z", "no/such.bin", "text"],
        &["logits", "no/such.bin", "--tokens", "1", "--out", "/dev/null"],
        &["run", "-z", "no/such.bin"],
    ] {
        let message = fails(&babyllama(args), 1, &["error: no/such.bin: "]);
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn model_without_a_tokenizer_is_named() {
    let model = rambler();
    for args in [&["run"][..], &["chat"], &["tokenize", "--"]] {
        let mut args = args.to_vec();
        args.push(model.text());
        args.extend((args[0] == "tokenize").then_some("text"));
        fails(&babyllama(&args), 1, &["rambler.bin: no tokenizer beside it (rambler.tokenizer.bin or"]);
    }
}

#[test]
fn damaged_files_are_errors() {
    let bytes = fs::read(BUNDLED).unwrap();
    for len in [0, 1, 4, 36, 255, 256, 1000, bytes.len() - 1] {
        let file = TempFile::new("damaged.bin", &bytes[..len]);
        for command in ["run", "chat", "inspect"] {
            let output = babyllama(&[command, file.text()]);
            if command == "inspect" && len == bytes.len() - 1 {
                assert!(stdout(&output).contains("It can't be run: "), "its keys and tensors are shown");
                continue;
            }
            fails(&output, 1, &["damaged.bin: "]);
        }
    }
    let tokenizer = tokenizer_bin(&[b"a"]);
    let file = TempFile::new("damaged.bin", &tokenizer[..tokenizer.len() - 1]);
    fails(&babyllama(&["run", "-z", file.text()]), 1, &["damaged.bin: "]);
    fails(&babyllama(&["run", env!("CARGO_MANIFEST_DIR")]), 1, &[env!("CARGO_MANIFEST_DIR")]);
}

#[test]
fn wrong_usage_exits_with_2() {
    for args in [
        &["run", "-t", "-1"][..],
        &["run", "-t", "nan"],
        &["run", "-p", "1.5"],
        &["run", "-n", "-1"],
        &["run", "--min-p", "2"],
        &["run", "--dry-base", "0.5"],
        &["run", "--repetition-penalty", "0"],
        &["run", "--threads", "0"],
        &["run", "--isa", "abacus"],
        &["run", "--context-length", "0"],
        &["chat", "-t", "-1"],
        &["tokenize", "text"],
        &["tokenize", "-z", BUNDLED, BUNDLED, "text"],
        &["logits", BUNDLED, "--tokens", "1 x", "--out", "/dev/null"],
        &["logits", BUNDLED, "--tokens", "", "--out", "/dev/null"],
        &["nonsense"],
        &["-s", "1", "run"],
    ] {
        fails(&babyllama(args), 2, &[]);
    }
    fails(&babyllama(&[BUNDLED]), 2, &["tip: to run a model: babyllama run "]);
}

#[test]
fn help_and_version_are_there() {
    for command in
        ["run", "chat", "tokenize", "perplexity", "score", "embed", "logits", "inspect", "convert", "bench"]
    {
        assert!(stdout(&babyllama(&["--help"])).contains(command));
        assert!(stdout(&babyllama(&[command, "--help"])).contains("Usage: babyllama"));
    }
    let version = format!("babyllama {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(stdout(&babyllama(&["-V"])), version);
    let long = stdout(&babyllama(&["--version"]));
    assert!(long.starts_with(&version) && long.contains(Isa::best().name()), "{long}");
}

#[cfg(target_os = "linux")]
#[test]
fn full_disk_is_an_error() {
    let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
    for args in [&[][..], &["inspect"], &["tokenize", "bundled", "text"], &["run", "-n", "3"]] {
        let output = command(args).stdout(full()).output().unwrap();
        fails(&output, 1, &["error: standard output: No space left on device"]);
    }
    let output = babyllama(&["logits", BUNDLED, "--tokens", "1", "--out", "/dev/full"]);
    fails(&output, 1, &["error: /dev/full: No space left on device"]);
    // Nobody can be told, but it must not panic.
    let status = command(&["run", "no/such.bin"]).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn what_is_no_model_is_named() {
    let folder = TempFile::new("config.json", b"{\"architectures\": [\"LlamaForCausalLM\"]}");
    let directory = folder.folder();
    let file = |name: &str, bytes: &[u8]| text(&beside(&folder, name, bytes)).to_string();
    let lfs = file("lfs.gguf", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 75\n");
    let html = file("html.gguf", b"<!doctype html><html><title>Hugging Face</title>");
    let json = file("tokenizer.json", b"{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\"}}");
    let part = file("m.gguf.part", &fs::read(BUNDLED).unwrap()[..50_000]);
    let cut = file("cut.gguf", &fs::read(BUNDLED).unwrap()[..50_000]);
    let convert = format!("`babyllama convert {} ", text(directory));
    let settings = file("tokenizer_config.json", b"{\"tokenizer_class\": \"LlamaTokenizer\"}");
    let config = folder.text().to_string();
    let other = file("vocab.json", b"{\"a\": 1}");
    let empty = file("tokenizer.bin", b"");
    let weights = file("w.bin", &RandomModel::new(SMALL, 1).to_v0());
    let header = file("header.gguf", &fs::read(BUNDLED).unwrap()[..500]);
    let swapped = file("swapped.gguf", b"GGUF\0\0\0\x03\0\0\0\0\0\0\0\0");
    let adapter = TempFile::new(
        "adapter_config.json",
        b"{\"peft_type\": \"LORA\", \"base_model_name_or_path\": \"Llama 2 7B\"}",
    );
    let lora = beside(&adapter, "m.safetensors", b"\x20\0\0\0\0\0\0\0{\"model.q.lora_A.weight\":{}     }");
    let gptq = TempFile::new("config.json", b"{\"quantization_config\": {}}");
    let folder_of = |file: &TempFile| text(file.folder()).to_string();
    for (args, parts) in [
        (&["run", text(directory)][..], &["it is a directory", convert.as_str()][..]),
        (&["chat", text(directory)], &[&convert]),
        (&["tokenize", text(directory), "x"], &[&convert]),
        (&["run", "bundled", "-z", text(directory)], &["name the tokenizer's file"]),
        (&["run", &lfs], &["a Git LFS pointer", "git lfs pull"]),
        (&["run", &html], &["an HTML page"]),
        (&["run", &json], &["a tokenizer.json", "another file"]),
        (&["run", "bundled", "-z", &json], &["tokenizer.json: ", "only `babyllama convert` takes it"]),
        (&["tokenize", "-z", &json, "x"], &["only `babyllama convert` takes it"]),
        (&["run", &part], &["its download isn't done"]),
        (&["run", &cut], &["was it downloaded whole?"]),
        (&["run", &header], &["are left: was it downloaded whole?"]),
        (&["run", &swapped], &["gguf_convert_endian"]),
        (&["run", "bundled", "-z", &settings], &["it holds settings", "tokenizer.json or tokenizer.model"]),
        (&["run", "bundled", "-z", &config], &["it holds settings", "tokenizer.json or tokenizer.model"]),
        (&["run", "bundled", "-z", &other], &["it is JSON: name a tokenizer's file"]),
        (&["run", "bundled", "-z", &empty], &["it is empty: download the tokenizer's file again"]),
        (&["run", "bundled", "-z", &html], &["an HTML page", "download the tokenizer's file again"]),
        (&["run", "bundled", "-z", &weights], &["it is a model of llama2.c's: the tokenizer is another"]),
        (
            &["run", &folder_of(&adapter)],
            &["a LoRA adapter", "--lora", "merges it into its base, Llama 2 7B"],
        ),
        (&["run", text(&lora)], &["a LoRA adapter in safetensors", "its base is Llama 2 7B"]),
        (&["run", &folder_of(&gptq)], &["quantized already", "take the model that it was made of"]),
    ] {
        fails(&babyllama(args), 1, parts);
    }
}

#[test]
fn gguf_files_that_are_no_models_are_named_and_shown() {
    let model = || with_keys(&[]);
    let typed = |name: &str| with_keys(&[("general.type", Value::str(name))]);
    let mut adapter = typed("adapter");
    adapter.set("general.base_model.0.name", Value::str("Llama 2 7B"));
    let mut old_type = model();
    old_type.find("blk.1.ffn_up.weight").kind = 31;
    let mut unknown_type = model();
    unknown_type.find("blk.1.ffn_up.weight").kind = 16;
    let mut vocabulary = with_keys(&[("tokenizer.ggml.tokens", Value::strings(&["a", "b"]))]);
    vocabulary.tensors.clear();
    let mut extra = model();
    extra.tensor("blk.0.attn_sinks.weight", &[32], &[0.0; 32]);
    for (file, reason) in [
        (adapter, "a LoRA adapter, which only changes another model: merge it into its base, Llama 2 7B,"),
        (typed("mmproj"), "an image or audio encoder"),
        (with_keys(&[("general.architecture", Value::str("clip"))]), "an image or audio encoder"),
        (typed("imatrix"), "an importance matrix"),
        (vocabulary, "a tokenizer alone: name a model's file, and give this with -z"),
        (with_keys(&[("general.architecture", Value::str("gemma3"))]), "architecture \"gemma3\""),
        (old_type, "weights of type Q4_0_4_4 (which was taken back: download the model in Q4_0)"),
        (unknown_type, "blk.1.ffn_up.weight"),
        (extra, "tensor blk.0.attn_sinks.weight is not supported"),
        (with_keys(&[("split.no", Value::U16(1)), ("split.count", Value::U16(2))]), "this is part 2 of 2"),
    ] {
        let n_tensors = file.tensors.len();
        let file = TempFile::new("m.gguf", &file.to_bytes());
        let path = file.text();
        fails(&babyllama(&["run", path]), 1, &[reason]);
        let shown = stdout(&babyllama(&["inspect", path, "--metadata", "--tensors"]));
        assert_says(&shown, &["GGUF v3", "general.architecture", &format!("{n_tensors} tensors"), reason]);
        let shown = stdout(&babyllama(&["inspect", path, "--json", "--metadata", "--tensors"]));
        let json: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert!(json["cannot_run"].as_str().unwrap().contains(reason), "{json}");
        assert_eq!(json["tensors"].as_array().unwrap().len(), n_tensors);
        assert_eq!(GgufFile::open(path).unwrap().tensors.len(), n_tensors);
    }
    fails(&babyllama(&["inspect", text(TempFile::new("x", b"nonsense").path())]), 1, &["it is text"]);
}

#[test]
fn an_option_that_is_wrong_is_blamed() {
    let small = TempFile::new("small.gguf", &with_keys(&[]).to_bytes());
    let mut fewer = SMALL;
    fewer.vocab_size = 256;
    let few = TempFile::new("few.bin", &RandomModel::new(fewer, 1).to_v0());
    for (args, code, part) in [
        (&["run", "--threads", "0"][..], 2, "--threads"),
        (&["run", "--isa", "none"], 2, "--isa"),
        (&["run", "--context-length", "0"], 2, "--context-length"),
        (&["run", "--norm-eps", "NaN"], 2, "--norm-eps"),
        (&["run", "--norm-eps", "-1"], 2, "--norm-eps"),
        (&["run", "--rope-theta", "0"], 2, "--rope-theta"),
        (&["convert", BUNDLED, "x", "--max-seq-len", "0"], 2, "--max-seq-len"),
        (&["bench", "--depth", "18446744073709551615"], 2, "--depth"),
        // Options that would do nothing, and names as they are typed.
        (&["bench", "--dtype", "q8_0"], 2, "--shape"),
        (
            &["convert", BUNDLED, "x.gguf", "--group-size", "32"],
            2,
            "--group-size is for --to llama2c-v2 alone",
        ),
        (&["convert", BUNDLED, "x.bin", "--dtype", "q8_0"], 2, ".bin chose one: --to gguf changes it"),
        (&["perplexity", BUNDLED, BUNDLED, "--context-length", "9"], 2, "--ctx says"),
        (&["run", "--top-p", "2"], 2, "--top-p 2: must be from 0 to 1"),
        (&["run", "--top-p", "2"], 2, "Usage: babyllama run "),
        (&["run", "--typical-p", "0"], 2, "--typical-p 0: must be above 0"),
        (&["chat", "--xtc-threshold", "2"], 2, "--xtc-threshold 2: must be from 0 to 1"),
        (&["chat", "--repetition-penalty", "0"], 2, "--repetition-penalty 0: must be"),
        (&["run", few.text(), "-z", BUNDLED], 1, "babyllama.gguf: the tokenizer has 1024 pieces"),
        (&["run", small.text(), "-z", "no/such"], 1, "no/such: "),
    ] {
        fails(&babyllama(args), code, &[part]);
    }
    let short = TempFile::new("short.txt", b"Once upon a time, there was a");
    let perplexity = |ctx| babyllama(&["perplexity", BUNDLED, short.text(), "--ctx", ctx, "--chunks", "1"]);
    fails(&perplexity("50"), 1, &["short.txt: it has 9 tokens, and --ctx needs 50"]);
    // One prediction has no spread.
    assert_eq!(stderr(&perplexity("4")), "perplexity of 1 token\n");
    let cut = babyllama(&["run", "-n", "2", "-i", "One two three four five"]);
    assert!(stdout(&cut).ends_with('\n') && stderr(&cut).starts_with("note: -n allows 2 of"));
    let shown = stdout(&babyllama(&["inspect", small.text(), "-z", "no/such"]));
    assert_says(&shown, &["unusable: no/such: "]);
}

/// What a file says doesn't steer the terminal of whoever looks at it.
#[test]
fn no_control_character_of_a_file_is_shown() {
    let evil = "\x1b[2J\u{9b}31m\x07";
    let with = |key: &str, value: &str| with_keys(&[(key, Value::str(value))]);
    let mut named = with_keys(&[]);
    named.tensor(&format!("{evil}.weight"), &[32], &[0.0; 32]);
    for file in [
        named,
        with(&format!("some.{evil}"), evil),
        with("general.architecture", evil),
        with("general.name", evil),
        with("tokenizer.ggml.pre", evil),
        with("tokenizer.chat_template", evil),
        with("tokenizer.chat_template", &format!("{evil}<|im_start|>")),
        with("tokenizer.chat_template", &format!("{evil} is what he said to them <|im_start|>")),
    ] {
        let file = TempFile::new("m.gguf", &file.to_bytes());
        let path = file.text();
        for args in [
            &["inspect", path, "--metadata", "--tensors"][..],
            &["inspect", path, "--metadata", "--tensors", "--json"],
            &["run", path, "-n", "2"],
            &["chat", path, "-n", "1", "-z", BUNDLED],
            &["convert", path, &format!("{path}.out"), "--force"],
        ] {
            let output = with_input(args, "Hi\n");
            for shown in [output.stdout, output.stderr] {
                let shown = String::from_utf8(shown).unwrap();
                let hidden = |c: char| c.is_control() && c != '\n';
                assert!(args[0] == "run" || !shown.contains(hidden), "{args:?}: {shown:?}");
                assert!(!shown.contains(['\x1b', '\u{9b}', '\x07']), "{args:?}: {shown:?}");
            }
        }
    }
}

#[test]
fn quiet_is_quiet_in_every_command() {
    let model = TempFile::new("m.bin", &RandomModel::new(SMALL, 1).to_v0());
    let (out, story) =
        (beside(&model, "out.bin", b""), beside(&model, "story", "Tom ".repeat(99).as_bytes()));
    let bin = model.text();
    for args in [
        &["-q"][..],
        &["run", "-q", "-n", "2", "-i", "One two three four five"],
        &["run", bin, "-q", "-z", BUNDLED],
        &["chat", "-q"],
        &["tokenize", "-q", "bundled", "Tom"],
        &["perplexity", "-q", "bundled", text(&story), "--ctx", "16"],
        &["score", "-q", "bundled", text(&story)],
        &["embed", "-q", "bundled", "Tom"],
        &["logits", "-q", "bundled", "--tokens", "1", "-o", "-"],
        &["inspect", "-q"],
        &["convert", "-q", "--force", "--norm-eps", "1e-6", bin, text(&out)],
        &["bench", "-q", "--prompt", "1", "--gen", "1", "--repetitions", "1"],
    ] {
        let output = with_input(args, "Who?\n");
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        assert_eq!(stderr(&output), "", "{args:?}");
    }
}
