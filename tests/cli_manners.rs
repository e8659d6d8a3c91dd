//! How the binary behaves towards files, terminals and people who made a mistake.

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use babyllama::ErrorKind;
use babyllama::convert::OutputFile;
use babyllama::inspect::GgufFile;
use common::gguf::{Gguf, Value};
use common::{RandomModel, Shape, TempFile};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf");

const SMALL: Shape = Shape {
    dim: 32,
    hidden_dim: 48,
    n_layers: 2,
    n_heads: 2,
    n_kv_heads: 1,
    vocab_size: 1024,
    max_seq_len: 64,
    tied: false,
};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_babyllama"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn babyllama(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn with_input(args: &[&str], input: &str) -> Output {
    let mut child = command(args).stdin(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn fails(output: &Output, code: i32, parts: &[&str]) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.starts_with("error: ") && !message.contains("panicked"), "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file beside another, with this in it.
fn beside(file: &TempFile, name: &str, bytes: &[u8]) -> PathBuf {
    let path = file.path().with_file_name(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// A small model with the bundled one's tokenizer, but for these keys.
fn with_keys(keys: &[(&str, Value)]) -> Gguf {
    let mut file = RandomModel::new(SMALL, 1).to_gguf(1e-5, 1e4);
    for (key, value) in keys {
        file.set(key, value.clone());
    }
    file
}

// --- files that must stay -----------------------------------------------------------------------

#[cfg(unix)]
#[test]
fn no_file_of_the_source_is_written_to() {
    let model = TempFile::new("s.bin", &RandomModel::new(SMALL, 1).to_v0());
    let folder = model.path().parent().unwrap();
    let at = |name: &str| folder.join(name);
    let tokenizer = [&6_u32.to_le_bytes()[..], &[0; 4], &5_u32.to_le_bytes(), b"<unk>"].concat();
    fs::write(at("s.tokenizer.bin"), &tokenizer).unwrap();
    fs::write(at("other.bin"), &tokenizer).unwrap();
    fs::hard_link(model.path(), at("hard.bin")).unwrap();
    std::os::unix::fs::symlink(model.path(), at("soft.bin")).unwrap();
    let source = text(model.path());
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
        stdout(&babyllama(&[&["convert", source, text(&target), "-z", MODEL][..], force].concat()));
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
    let folder = config.path().parent().unwrap();
    let linked = TempFile::new("blob", b"\x10\0\0\0\0\0\0\0{\"a\":1}         ");
    std::os::unix::fs::symlink(linked.path(), config.path().with_file_name("model.safetensors")).unwrap();
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
    let args = ["logits", MODEL, "--tokens", "1", "--out", text(out.path())];
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
    let mut convert = command(&["convert", MODEL, "-"]);
    fails(&convert.current_dir(folder.path().parent().unwrap()).output().unwrap(), 2, &["standard output"]);
    assert!(!folder.path().with_file_name("-").exists());
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
    let folder = model.path().parent().unwrap();
    let target = folder.join("out");
    let tokens = "1 ".repeat(16);
    let convert = ["convert", text(model.path()), text(&target), "--to", "gguf", "--dtype", "q3_k_s"];
    let logits = ["logits", text(model.path()), "--tokens", &tokens, "-o", text(&target)];
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
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        for signal in signals {
            let kill = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status();
            assert!(kill.unwrap().success());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let status = child.wait().unwrap();
        // As a shell tells it.
        let found = status.code().or(status.signal().map(|signal| 128 + signal));
        let by_second = matches!((signals, found), ([_, "HUP"], Some(129)));
        assert!(found == Some(code) || by_second, "{signals:?}: {status:?}");
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "{args:?}: something was left behind");
    }
}

// --- terminals and pipes ------------------------------------------------------------------------

/// What a terminal shows of a chat to which all of this is typed at once; `None`, and says so,
/// where there is no `script`.
#[cfg(target_os = "linux")]
fn typed(settings: &[(&str, &str)], args: &str, keys: &str) -> Option<String> {
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("skipped: there is no `script`");
        return None;
    }
    let chat = format!("'{}' {args}; echo exit code $?", env!("CARGO_BIN_EXE_babyllama"));
    let mut script = Command::new("timeout");
    script.args(["60", "script", "-qc", &chat, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
    script.envs(settings.iter().copied()).env("SHELL", "/bin/sh");
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // The pipe stays open, since its end is the terminal's.
    let mut pipe = script.stdin.take().unwrap();
    pipe.write_all(keys.as_bytes()).unwrap();
    let shown = script.wait_with_output().unwrap().stdout;
    drop(pipe);
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(shown.contains("exit code 0"), "{shown:?}");
    Some(shown)
}

/// The questions of a conversation that was saved.
#[cfg(target_os = "linux")]
fn questions(saved: &Path) -> Vec<String> {
    let messages = fs::read_to_string(saved).unwrap();
    let messages = messages.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let questions = messages.filter(|message| message["role"] == "user");
    questions.map(|message| message["content"].as_str().unwrap().into()).collect()
}

#[cfg(target_os = "linux")]
#[test]
fn no_line_of_a_paste_is_lost() {
    let folder = TempFile::new("x", b"");
    let many = (0..100).map(|i| format!("question {i}\r")).collect::<String>();
    let lines = |n: usize| (0..n).map(|i| format!("question {i}")).collect::<Vec<_>>();
    for (i, (settings, keys, expected)) in [
        (&[("TERM", "xterm")][..], many.as_str(), lines(100)),
        (&[("TERM", "dumb")], "question 0\rquestion 1\r", lines(2)),
        (
            &[],
            "\x1b[200~/usr/bin is\rwhere \"\"\"programs\"\"\"\nare.\x1b[201~\r",
            vec!["/usr/bin is\nwhere \"\"\"programs\"\"\"\nare.".into()],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let saved = folder.path().with_file_name(format!("{i}.jsonl"));
        let keys = format!("{keys}/save {}\r/quit\r", text(&saved));
        let args = format!("chat '{MODEL}' -t 0 -n 1 --context-length 5000");
        let Some(shown) = typed(settings, &args, &keys) else { return };
        assert!(saved.exists(), "{shown:?}");
        assert_eq!(questions(&saved), expected);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_conversation_is_saved_and_loaded() {
    let saved = TempFile::new("saved.jsonl", b"precious");
    let path = text(saved.path());
    let args = format!("chat '{MODEL}' -t 0 -n 2");
    let keys = format!("Who?\r/save {path}\r/save -\r/quit\r");
    let Some(shown) = typed(&[], &args, &keys) else { return };
    assert!(shown.contains("it is there already; /save! replaces it"), "{shown:?}");
    assert!(shown.contains(r#"{"content":"Who?","role":"user"}"#), "{shown:?}");
    assert_eq!(fs::read(saved.path()).unwrap(), b"precious");
    typed(&[], &args, &format!("Who?\r/save! {path}\r/quit\r")).unwrap();
    let keys = format!("/load {path}\rWhy?\r/save! {path}\r/load /dev/zero\r/load {path}.no\r/quit\r");
    let shown = typed(&[], &args, &keys).unwrap();
    assert_eq!(questions(saved.path()), ["Who?", "Why?"]);
    assert!(shown.contains("/dev/zero: only regular files of at most 64 MiB are loaded"), "{shown:?}");
    fs::write(saved.path(), "nonsense").unwrap();
    let shown = typed(&[], &args, &format!("/load {path}\r/nonsense\r/help\r/quit\r")).unwrap();
    for part in ["line 1 is not a message", "there is no command /nonsense", "/system TEXT"] {
        assert!(shown.contains(part), "{part:?}: {shown:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn no_escape_sequence_goes_where_none_is_wanted() {
    let text_file = TempFile::new("text.txt", "Once upon a time, there was a girl. ".repeat(30).as_bytes());
    let target = text_file.path().with_file_name("out.gguf");
    let perplexity = format!("perplexity '{MODEL}' '{}' --ctx 64", text(text_file.path()));
    let convert = format!("convert '{MODEL}' '{}' --force --check", text(&target));
    for args in
        ["chat -t 0 -n 2", "run -n 5", &perplexity, &convert, "inspect", "run --nonsense || true", "--help"]
    {
        for settings in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let Some(shown) = typed(&[settings], args, "Who?\r/quit\r") else { return };
            assert!(!shown.contains('\x1b'), "{args} {settings:?}: {shown:?}");
        }
    }
    assert!(typed(&[("NO_COLOR", "")], "chat -t 0 -n 2", "Who?\r/quit\r").unwrap().contains('\x1b'));
    // Who types has commands, wherever the answers go.
    let shown = typed(&[], "chat -t 0 -n 2 2>&1 | cat", "Who?\r/help\r/quit\r").unwrap();
    assert!(shown.contains("/system TEXT") && !shown.contains('\x1b'), "{shown:?}");
}

/// SIGTERM at the prompt: the terminal is as it was before, and marks no pastes.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_at_the_prompt_leaves_the_terminal_as_it_was() {
    if Command::new("script").arg("--version").output().is_err() {
        return eprintln!("skipped: there is no `script`");
    }
    for signal in ["TERM", "HUP"] {
        let chat = format!(
            "before=$(stty -g)
            (tries=0; until stty -a </dev/tty | grep -q -- -icanon || [ $tries = 500 ]; do \
                tries=$((tries + 1)); sleep 0.05; done; kill -{signal} $(cat pid)) &
            sh -c 'echo $$ >pid; exec \"{}\" chat'
            echo; echo code $?; [ \"$before\" = \"$(stty -g)\" ] && echo the same",
            env!("CARGO_BIN_EXE_babyllama")
        );
        let folder = TempFile::new("x", b"");
        let mut script = Command::new("timeout");
        script.args(["60", "script", "-qc", &chat, "/dev/null"]).env("TERM", "xterm").env_remove("NO_COLOR");
        script.env("SHELL", "/bin/sh").current_dir(folder.path().parent().unwrap());
        let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let pipe = script.stdin.take();
        let shown = script.wait_with_output().unwrap().stdout;
        drop(pipe);
        let shown = String::from_utf8_lossy(&shown).into_owned();
        assert!(shown.contains("the same"), "{signal}: {shown:?}");
        let marks = |mark: &str| shown.matches(mark).count();
        assert!(
            marks("\x1b[?2004h") > 0 && marks("\x1b[?2004h") == marks("\x1b[?2004l"),
            "{signal}: {shown:?}"
        );
    }
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
        let path = text(file.path());
        for args in [
            &["inspect", path, "--metadata", "--tensors"][..],
            &["inspect", path, "--metadata", "--tensors", "--json"],
            &["run", path, "-n", "2"],
            &["chat", path, "-n", "1", "-z", MODEL],
            &["convert", path, &format!("{path}.out"), "--force"],
        ] {
            let output = with_input(args, "Hi\n");
            for shown in [output.stdout, output.stderr] {
                let shown = String::from_utf8(shown).unwrap();
                let hidden = |c: char| c.is_control() && c != '\n';
                assert!(
                    args[0] != "inspect" && args[0] == "run" || !shown.contains(hidden),
                    "{args:?}: {shown:?}"
                );
                assert!(!shown.contains(['\x1b', '\u{9b}', '\x07']), "{args:?}: {shown:?}");
            }
        }
    }
}

/// A line ends a question, whatever is in it.
#[test]
fn a_piped_line_is_a_question_as_it_stands() {
    let output = with_input(
        &["chat", "-n", "1", "-q", "-t", "0", "--template", "vicuna"],
        "C:\\\nfoo \\\n\"\"\"one\ntwo\"\"\"\n\"\"\"\nlast\\",
    );
    assert_eq!(stdout(&output).lines().count(), 6);
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_piped_question_may_begin_with_a_slash() {
    let output =
        with_input(&["chat", "-n", "1", "-q", "-t", "0"], "/no_think hello\n/quit\n/save /x\nsecond\n");
    assert_eq!(stdout(&output).lines().count(), 4);
    assert_eq!(stderr(&output), "");
}

#[test]
fn quiet_is_quiet_in_every_command() {
    let model = TempFile::new("m.bin", &RandomModel::new(SMALL, 1).to_v0());
    let (out, story) =
        (beside(&model, "out.bin", b""), beside(&model, "story", "Tom ".repeat(99).as_bytes()));
    let bin = text(model.path());
    for args in [
        &["-q"][..],
        &["run", "-q", "-n", "2", "-i", "One two three four five"],
        &["run", bin, "-q", "-z", MODEL],
        &["chat", "-q"],
        &["tokenize", "-q", "bundled", "Tom"],
        &["perplexity", "-q", "bundled", text(&story), "--ctx", "16"],
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

// --- words that help ----------------------------------------------------------------------------

#[test]
fn what_is_no_model_is_named() {
    let folder = TempFile::new("config.json", b"{\"architectures\": [\"LlamaForCausalLM\"]}");
    let directory = folder.path().parent().unwrap();
    let file = |name: &str, bytes: &[u8]| text(&beside(&folder, name, bytes)).to_string();
    let lfs = file("lfs.gguf", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 75\n");
    let html = file("html.gguf", b"<!doctype html><html><title>Hugging Face</title>");
    let json = file("tokenizer.json", b"{\"version\":\"1.0\",\"model\":{\"type\":\"BPE\"}}");
    let part = file("m.gguf.part", &fs::read(MODEL).unwrap()[..50_000]);
    let cut = file("cut.gguf", &fs::read(MODEL).unwrap()[..50_000]);
    let convert = format!("`babyllama convert {} ", text(directory));
    let settings = file("tokenizer_config.json", b"{\"tokenizer_class\": \"LlamaTokenizer\"}");
    let config = text(folder.path()).to_string();
    let other = file("vocab.json", b"{\"a\": 1}");
    let empty = file("tokenizer.bin", b"");
    let weights = file("w.bin", &RandomModel::new(SMALL, 1).to_v0());
    let header = file("header.gguf", &fs::read(MODEL).unwrap()[..500]);
    let swapped = file("swapped.gguf", b"GGUF\0\0\0\x03\0\0\0\0\0\0\0\0");
    let adapter = TempFile::new(
        "adapter_config.json",
        b"{\"peft_type\": \"LORA\", \"base_model_name_or_path\": \"Llama 2 7B\"}",
    );
    let lora = beside(&adapter, "m.safetensors", b"\x20\0\0\0\0\0\0\0{\"model.q.lora_A.weight\":{}     }");
    let gptq = TempFile::new("config.json", b"{\"quantization_config\": {}}");
    let folder_of = |file: &TempFile| text(file.path().parent().unwrap()).to_string();
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
        (&["run", &folder_of(&adapter)], &["a LoRA adapter", "merge it into its base, Llama 2 7B, first"]),
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
    extra.tensor("blk.0.attn_q.bias", &[32], &[0.0; 32]);
    for (file, reason) in [
        (adapter, "a LoRA adapter, which only changes another model: merge it into its base, Llama 2 7B,"),
        (typed("mmproj"), "an image or audio encoder"),
        (with_keys(&[("general.architecture", Value::str("clip"))]), "an image or audio encoder"),
        (typed("imatrix"), "an importance matrix"),
        (vocabulary, "a tokenizer alone: name a model's file, and give this with -z"),
        (with_keys(&[("general.architecture", Value::str("qwen3"))]), "architecture \"qwen3\""),
        (old_type, "weights of type Q4_0_4_4 (which was taken back: download the model in Q4_0)"),
        (unknown_type, "blk.1.ffn_up.weight"),
        (extra, "tensor blk.0.attn_q.bias is not supported"),
        (with_keys(&[("split.no", Value::U16(1)), ("split.count", Value::U16(2))]), "this is part 2 of 2"),
    ] {
        let n_tensors = file.tensors.len();
        let file = TempFile::new("m.gguf", &file.to_bytes());
        let path = text(file.path());
        fails(&babyllama(&["run", path]), 1, &[reason]);
        let shown = stdout(&babyllama(&["inspect", path, "--metadata", "--tensors"]));
        for part in ["GGUF v3", "general.architecture", &format!("{n_tensors} tensors"), reason] {
            assert!(shown.contains(part), "{part:?} is not in\n{shown}");
        }
        let shown = stdout(&babyllama(&["inspect", path, "--json", "--metadata", "--tensors"]));
        let json: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert!(json["cannot_run"].as_str().unwrap().contains(reason), "{json}");
        assert_eq!(json["tensors"].as_array().unwrap().len(), n_tensors);
        assert_eq!(GgufFile::open(path).unwrap().tensors().len(), n_tensors);
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
        (&["convert", MODEL, "x", "--max-seq-len", "0"], 2, "--max-seq-len"),
        (&["bench", "--depth", "18446744073709551615"], 2, "--depth"),
        // Options that would do nothing, and names as they are typed.
        (&["bench", "--dtype", "q8_0"], 2, "--shape"),
        (&["convert", MODEL, "x.gguf", "--group-size", "32"], 2, "--group-size is for --to llama2c-v2 alone"),
        (&["convert", MODEL, "x.bin", "--dtype", "q8_0"], 2, ".bin chose one: --to gguf changes it"),
        (&["perplexity", MODEL, MODEL, "--context-length", "9"], 2, "--ctx says"),
        (&["run", "--top-p", "2"], 2, "--top-p 2: must be from 0 to 1"),
        (&["run", "--top-p", "2"], 2, "Usage: babyllama run "),
        (&["chat", "--repetition-penalty", "0"], 2, "--repetition-penalty 0: must be"),
        (&["run", text(few.path()), "-z", MODEL], 1, "babyllama.gguf: the tokenizer has 1024 pieces"),
        (&["run", text(small.path()), "-z", "no/such"], 1, "no/such: "),
    ] {
        fails(&babyllama(args), code, &[part]);
    }
    let short = TempFile::new("short.txt", b"Once upon a time, there was a");
    let perplexity =
        |ctx| babyllama(&["perplexity", MODEL, text(short.path()), "--ctx", ctx, "--chunks", "1"]);
    fails(&perplexity("50"), 1, &["short.txt: it has 9 tokens, and --ctx needs 50"]);
    // One prediction has no spread.
    assert_eq!(stderr(&perplexity("4")), "perplexity of 1 token\n");
    let cut = babyllama(&["run", "-n", "2", "-i", "One two three four five"]);
    assert!(stdout(&cut).ends_with('\n') && stderr(&cut).starts_with("note: -n allows 2 of"));
    let shown = stdout(&babyllama(&["inspect", text(small.path()), "-z", "no/such"]));
    assert!(shown.contains("unusable: no/such: "), "{shown}");
}

// --- models that people have --------------------------------------------------------------------

/// The bundled tokenizer's keys are of no use here: bytes are enough, and no piece begins a text.
#[test]
fn a_model_that_nothing_begins_needs_a_prompt() {
    let bytes: Vec<String> =
        (0..256_u32).map(|i| char::from_u32(if i < 33 { i + 256 } else { i }).unwrap().into()).collect();
    let pieces: Vec<&str> = bytes.iter().map(String::as_str).collect();
    let keys = [
        ("tokenizer.ggml.model", Value::str("gpt2")),
        ("tokenizer.ggml.tokens", Value::strings(&pieces)),
        ("tokenizer.ggml.merges", Value::strings(&[])),
    ];
    let file = with_keys(&keys);
    let file = TempFile::new("m.gguf", &file.to_bytes());
    fails(&babyllama(&["run", text(file.path()), "-n", "3"]), 1, &["no token to feed", "-i"]);
    stdout(&babyllama(&["run", text(file.path()), "-n", "3", "-i", "a"]));
    assert_eq!(stdout(&babyllama(&["tokenize", text(file.path()), "a"])), "97\n");
    // A tokenizer needs no model that runs.
    let mut other = with_keys(&[("general.architecture", Value::str("qwen3"))]);
    other.keys.extend(keys.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.clone())));
    other.tensors.clear();
    let other = TempFile::new("m.gguf", &other.to_bytes());
    assert_eq!(stdout(&babyllama(&["tokenize", text(other.path()), "a"])), "97\n");
    assert_eq!(stdout(&babyllama(&["tokenize", "-z", text(other.path()), "a"])), "97\n");
}

/// A chat template that isn't known isn't replaced by another, and one that can't be read doesn't
/// matter to those who don't chat.
#[test]
fn chat_takes_only_a_template_that_is_known() {
    let with = |template: &[u8]| {
        let file = with_keys(&[("tokenizer.chat_template", Value::Str(template.to_vec()))]);
        TempFile::new("m.gguf", &file.to_bytes())
    };
    for (template, part) in [
        (&b"{{ messages }}"[..], "chat template isn't known here"),
        (b"phi3", "its chat template, \"phi3\", isn't known here"),
        (b"llama2", "its chat template, \"llama2\", is llama.cpp's, which differs"),
        (b"zephyr", "its chat template, \"zephyr\", is llama.cpp's, which differs"),
        (b"vicuna", "its chat template, \"vicuna\", is llama.cpp's, which differs"),
        (b"llama2-sys-strip", "its chat template, \"llama2-sys-strip\", isn't known here"),
        (b"{{ '\xff' }}", "chat template isn't known here"),
    ] {
        let file = with(template);
        let args = ["chat", text(file.path()), "-z", MODEL, "-n", "1", "-q"];
        fails(&with_input(&args, "Hi\n"), 1, &[part, "--template", "llama2, llama3, chatml"]);
        stdout(&with_input(&[&args[..], &["--template", "vicuna"]].concat(), "Hi\n"));
        stdout(&babyllama(&["run", text(file.path()), "-z", MODEL, "-n", "2"]));
        stdout(&babyllama(&["inspect", text(file.path())]));
    }
    let prompt = |template: &[u8]| {
        let file = with(template);
        let output = with_input(&["chat", text(file.path()), "-z", MODEL, "-n", "1", "-t", "0"], "Hi\n");
        stdout(&output);
        stderr(&output)
    };
    let named = prompt(b"mistral-v7-tekken");
    assert!(
        named.starts_with("note: the file names its chat template: mistral-v7-tekken\nprompt: "),
        "{named}"
    );
    let jinja = b"{{'<|im_start|>' + m['role'] + '\xff' + m['content'] + '<|im_end|>'}}";
    assert!(prompt(jinja).starts_with("note: the file's chat template is not valid UTF-8\nprompt: "));
    let system = b"{{ 'A chat with a kind assistant. ' }}{{ 'USER: ' + m + ' ASSISTANT:' }}";
    let words = "note: the file's chat template has words that the model isn't fed, \"A chat with a kind assistant.\": -y sets";
    assert!(prompt(system).starts_with(words), "{}", prompt(system));
    // The names are options too.
    for name in ["mistral-v1", "mistral-v3-tekken", "mistral-v7-tekken"] {
        stdout(&with_input(&["chat", "--template", name, "-n", "1", "-q"], "Hi\n"));
    }
    for empty in [&b""[..], b" \n"] {
        assert!(prompt(empty).starts_with("note: the file has no chat template: taking Llama 2's"));
    }
    let number = with_keys(&[("tokenizer.chat_template", Value::U32(1))]);
    let number = TempFile::new("m.gguf", &number.to_bytes());
    let output = babyllama(&["run", text(number.path()), "-z", MODEL, "-n", "2"]);
    stdout(&output);
    assert!(
        stderr(&output).contains("key tokenizer.chat_template: expected a string"),
        "{}",
        stderr(&output)
    );
    // A file that says nothing, as llama2.c's: said in a pipe too.
    let output = with_input(&["chat", "-n", "1"], "Hi\n");
    assert!(stderr(&output).contains("taking Llama 2's; --template selects another"), "{}", stderr(&output));
}

#[cfg(target_os = "linux")]
#[test]
fn a_split_model_may_have_any_name() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let whole = with_keys(&[]);
    let folder = TempFile::new("x", b"");
    let path = |i: usize| {
        let name = [&b"m\xff\xfe"[..], format!("-{i:05}-of-00002.gguf").as_bytes()].concat();
        folder.path().with_file_name(OsStr::from_bytes(&name))
    };
    // The first part may have no tensors, and is then no tokenizer alone.
    for n_first in [5, 0] {
        let (first, second) = whole.tensors.split_at(n_first);
        for (i, tensors) in [first, second].into_iter().enumerate() {
            let mut part = Gguf { tensors: tensors.to_vec(), ..Gguf::default() };
            if i == 0 {
                part.keys.clone_from(&whole.keys);
                part.set("tokenizer.ggml.tokens", Value::strings(&["a", "b"]));
            }
            part.set("split.no", Value::U16(i as u16)).set("split.count", Value::U16(2));
            fs::write(path(i + 1), part.to_bytes()).unwrap();
        }
        babyllama::Model::open(path(1)).unwrap();
    }
    let error = babyllama::Model::open(path(2)).unwrap_err();
    assert!(error.to_string().contains("this is part 2 of 2: open "), "{error}");
}
