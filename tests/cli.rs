//! The binary, run as a user runs it.

mod common;

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::mem;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use babyllama::chat::Template;
use babyllama::convert::{GgufOptions, Recipe, Source, to_gguf};
use babyllama::{
    CacheDtype, Chat, Isa, Model, ModelOptions, Sampler, SamplerOptions, SessionOptions, Tokenizer,
};
use common::gguf::Value;
use common::{RandomModel, Shape, TempFile, shared, tokenizer_bin};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf");
/// A GGUF file brings its tokenizer, which serves other models too.
const TOKENIZER: &str = MODEL;

const RAMBLER: Shape = Shape {
    dim: 32,
    hidden_dim: 48,
    n_layers: 1,
    n_heads: 2,
    n_kv_heads: 1,
    vocab_size: 1024,
    max_seq_len: 64,
    tied: false,
};

/// The binary with these arguments, and pipes.
fn command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_babyllama"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn babyllama<S: AsRef<OsStr>>(args: &[S]) -> Output {
    command(args).output().unwrap()
}

/// Runs it with something on standard input.
fn with_input(args: &[&str], input: &[u8]) -> Output {
    let mut child = command(args).stdin(Stdio::piped()).spawn().unwrap();
    // It may end before it has read all of it.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Asserts that it failed with this code and a message that has these parts, and gives the message.
#[track_caller]
fn fails(output: &Output, code: i32, parts: &[&str]) -> String {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.starts_with("error: "), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    message
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A model that takes the bundled tokenizer and, choosing the likeliest token, talks without end.
fn rambler() -> TempFile {
    let mut model = RandomModel::new(RAMBLER, 1);
    // BOS and EOS: of 1,024 random logits, zero is never the greatest.
    model.output.as_mut().unwrap()[RAMBLER.dim..3 * RAMBLER.dim].fill(0.0);
    TempFile::new("rambler.bin", &model.to_v0())
}

/// Starts an endless text.
fn endless(model: &TempFile) -> Child {
    let args =
        ["run", text(model.path()), "-z", TOKENIZER, "-t", "0", "-n", "0", "--context-length", "10000000"];
    command(&args).spawn().unwrap()
}

/// What the library makes of a prompt.
fn generate(model: &Model, prompt: &str, max_tokens: usize, options: SamplerOptions) -> String {
    let (mut session, mut sampler) = (model.session(), Sampler::new(options));
    let generate = session.generate(prompt, &mut sampler).unwrap().max_tokens(max_tokens);
    generate.map(|piece| piece.unwrap().to_string()).collect()
}

// --- run

#[test]
fn bundled_story_is_what_the_library_generates() {
    let model = Model::open(MODEL).unwrap();
    let story = generate(&model, "", usize::MAX, SamplerOptions::new().temperature(0.8).seed(7));
    assert!(story.len() > 100);
    let alone = babyllama(&["-s", "7"]);
    assert_eq!(stdout(&alone), story.clone() + "\n");
    assert!(stderr(&alone).contains("seed 7"), "{}", stderr(&alone));
    assert_eq!(stdout(&babyllama(&["run", "-t", "0.8", "-s", "7", "-n", "0"])), story.clone() + "\n");
    assert_eq!(stdout(&babyllama(&["run", MODEL, "-t", "0.8", "-s", "7", "-n", "0"])), story + "\n");
}

#[test]
fn story_can_be_had_again_with_the_seed_that_is_printed() {
    let first = babyllama::<&str>(&[]);
    let message = stderr(&first);
    let (_, seed) = message.trim_end().rsplit_once("seed ").unwrap();
    assert_eq!(stdout(&babyllama(&["-s", seed])), stdout(&first));
    assert_ne!(stdout(&babyllama::<&str>(&[])), stdout(&first), "two runs tell the same story");
}

#[test]
fn run_prints_what_run_c_prints() {
    let Some(folder) = shared("run_prints_what_run_c_prints") else { return };
    let path = |name: &str| folder.join(name).to_str().unwrap().to_string();
    let cases: [(&str, &str, &str, &[&str]); 8] = [
        ("real/stories260K.bin", "real/tok512.bin", "real/stories260K.greedy.txt", &["-t", "0", "-n", "256"]),
        (
            "real/stories260K.bin",
            "real/tok512.bin",
            "real/stories260K.t1.0-p0.9-s133742.txt",
            &["-s", "133742"],
        ),
        (
            "real/stories260K.bin",
            "real/tok512.bin",
            "real/stories260K.t0.8-p0-s42-n200-OneDayTom.txt",
            &["-t", "0.8", "-p", "0", "-s", "42", "-n", "200", "-i", "One day, Tom"],
        ),
        (
            "models/512/babyllama.v0.bin",
            "models/babyllama.tokenizer.bin",
            "models/512/v0.greedy.txt",
            &["-t", "0"],
        ),
        (
            "models/512/babyllama.v0.bin",
            "models/512/babyllama.tokenizer.bin",
            "models/512/v0.t0.8-p0.9-s1.txt",
            &["-t", "0.8", "-s", "1"],
        ),
        (
            "models/512/babyllama.v0.bin",
            "models/512/babyllama.tokenizer.bin",
            "models/512/v0.t1.0-p0.9-s7-n300-LilyFoundALlama.txt",
            &["-s", "7", "-n", "300", "-i", "Lily found a llama"],
        ),
        (
            "models/512/babyllama.v2.bin",
            "models/babyllama.tokenizer.bin",
            "models/512/v2.greedy.txt",
            &["-t", "0"],
        ),
        (
            "models/512/babyllama.v2.bin",
            "models/512/babyllama.tokenizer.bin",
            "models/512/v2.t0.8-p0.9-s1.txt",
            &["-t", "0.8", "-s", "1"],
        ),
    ];
    // Without optimisation each of these takes seconds: one of them then stands for all.
    let (isas, threads): (_, &[_]) =
        if cfg!(debug_assertions) { (vec![Isa::best()], &["2"]) } else { (Isa::available(), &["1", "2"]) };
    for (model, tokenizer, expected, options) in cases {
        let expected = fs::read_to_string(path(expected)).unwrap();
        let (model, tokenizer) = (path(model), path(tokenizer));
        for isa in &isas {
            for threads in threads {
                let mut args =
                    vec!["run", &model, "-z", &tokenizer, "--isa", isa.name(), "--threads", threads];
                args.extend(options);
                assert_eq!(stdout(&babyllama(&args)), expected, "{args:?}");
            }
        }
    }
}

#[test]
fn steps_count_the_prompts_tokens() {
    let prompt = "Lily found a llama";
    let model = Model::open(MODEL).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let tokens = tokenizer.encode_prompt(prompt);
    let greedy = SamplerOptions::new().temperature(0.0);
    for steps in 1..tokens.len() + 5 {
        let n = steps.to_string();
        let output = babyllama(&["run", "-t", "0", "-i", prompt, "-n", &n]);
        let expected = match steps.checked_sub(tokens.len() - 1) {
            // A prompt that is longer is cut.
            None | Some(0) => tokenizer.decode(&tokens[..=steps]),
            Some(more) => prompt.to_string() + &generate(&model, prompt, more, greedy.clone()),
        };
        assert_eq!(stdout(&output), expected + "\n", "-n {steps}");
        assert_eq!(stderr(&output).contains("-n allows"), steps < tokens.len() - 1, "{}", stderr(&output));
    }
}

#[test]
fn prompt_longer_than_the_context_is_cut() {
    let (model, prompt) = (rambler(), "One day ".repeat(100));
    let output = babyllama(&["run", text(model.path()), "-z", TOKENIZER, "-n", "0", "-i", &prompt]);
    let tokenizer = Tokenizer::open(TOKENIZER).unwrap();
    let expected = tokenizer.decode(&tokenizer.encode_prompt(&prompt)[..=64]);
    assert_eq!(stdout(&output), expected + "\n");
    assert!(stderr(&output).contains("the context holds 64 of the prompt's"), "{}", stderr(&output));
}

#[test]
fn run_ends_where_the_context_does() {
    let model = rambler();
    let args = ["run", text(model.path()), "-z", TOKENIZER, "-t", "0", "-n", "1000"];
    let message = stderr(&babyllama(&args));
    assert!(message.contains("prompt: 1 token,") && message.contains("generation: 64 tokens,"), "{message}");
    assert!(!message.contains("seed"), "without chance there is no seed: {message}");
    let longer = stderr(&babyllama(&[&args[..], &["--context-length", "100"]].concat()));
    assert!(longer.contains("generation: 100 tokens,"), "{longer}");
}

#[test]
fn prompt_comes_from_standard_input_without_its_last_newline() {
    let expected = stdout(&babyllama(&["run", "-t", "0", "-n", "20", "-i", "One day"]));
    assert_eq!(stdout(&with_input(&["run", "-t", "0", "-n", "20", "-i", "-"], b"One day\n")), expected);
    let output = with_input(&["run", "-i", "-"], b"One\xff day");
    fails(&output, 1, &["error: standard input: is not UTF-8 from byte 3 on"]);
}

#[test]
fn run_stops_before_a_stop_text() {
    let all = stdout(&babyllama(&["run", "-t", "0"]));
    let output = babyllama(&["run", "-t", "0", "--stop", "never said", "--stop", "Lily", "--quiet"]);
    assert_eq!(stdout(&output), all[..all.find("Lily").unwrap()].to_string() + "\n");
    assert_eq!(stderr(&output), "");
}

// --- Errors, pipes and signals
// ------------------------------------------------------------------------------

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
        args.push(text(model.path()));
        args.extend((args[0] == "tokenize").then_some("text"));
        fails(&babyllama(&args), 1, &["rambler.bin: no tokenizer beside it (rambler.tokenizer.bin or"]);
    }
}

#[test]
fn damaged_files_are_errors() {
    let bytes = fs::read(MODEL).unwrap();
    for len in [0, 1, 4, 36, 255, 256, 1000, bytes.len() - 1] {
        let file = TempFile::new("damaged.bin", &bytes[..len]);
        for command in ["run", "chat", "inspect"] {
            let output = babyllama(&[command, text(file.path())]);
            if command == "inspect" && len == bytes.len() - 1 {
                assert!(stdout(&output).contains("It can't be run: "), "its keys and tensors are shown");
                continue;
            }
            fails(&output, 1, &["damaged.bin: "]);
        }
    }
    let tokenizer = tokenizer_bin(&[b"a"]);
    let file = TempFile::new("damaged.bin", &tokenizer[..tokenizer.len() - 1]);
    fails(&babyllama(&["run", "-z", text(file.path())]), 1, &["damaged.bin: "]);
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
        &["run", "--repetition-penalty", "0"],
        &["run", "--threads", "0"],
        &["run", "--isa", "abacus"],
        &["run", "--context-length", "0"],
        &["chat", "-t", "-1"],
        &["tokenize", "text"],
        &["tokenize", "-z", TOKENIZER, MODEL, "text"],
        &["logits", MODEL, "--tokens", "1 x", "--out", "/dev/null"],
        &["logits", MODEL, "--tokens", "", "--out", "/dev/null"],
        &["nonsense"],
        &["-s", "1", "run"],
    ] {
        fails(&babyllama(args), 2, &[]);
    }
    fails(&babyllama(&[MODEL]), 2, &["tip: to run a model: babyllama run "]);
}

#[test]
fn help_and_version_are_there() {
    for command in ["run", "chat", "tokenize", "perplexity", "logits", "inspect", "convert", "bench"] {
        assert!(stdout(&babyllama(&["--help"])).contains(command));
        assert!(stdout(&babyllama(&[command, "--help"])).contains("Usage: babyllama"));
    }
    let version = format!("babyllama {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(stdout(&babyllama(&["-V"])), version);
    let long = stdout(&babyllama(&["--version"]));
    assert!(long.starts_with(&version) && long.contains(Isa::best().name()), "{long}");
}

#[test]
fn closed_pipe_is_no_error() {
    let model = rambler();
    let mut child = endless(&model);
    let mut begin = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut begin).unwrap(); // and closes it
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    assert_eq!(stderr(&output), "");
}

#[cfg(target_os = "linux")]
#[test]
fn full_disk_is_an_error() {
    let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
    for args in [&[][..], &["inspect"], &["tokenize", "bundled", "text"], &["run", "-n", "3"]] {
        let output = command(args).stdout(full()).output().unwrap();
        fails(&output, 1, &["error: standard output: No space left on device"]);
    }
    let output = babyllama(&["logits", MODEL, "--tokens", "1", "--out", "/dev/full"]);
    fails(&output, 1, &["error: /dev/full: No space left on device"]);
    // Nobody can be told, but it must not panic.
    let status = command(&["run", "no/such.bin"]).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_text_and_prints_the_speed() {
    let model = rambler();
    let mut child = endless(&model);
    let mut out = child.stdout.take().unwrap();
    let mut begin = [0; 100];
    out.read_exact(&mut begin).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(rest.last(), Some(&b'\n'));
    assert!(stderr(&output).contains("tok/s"), "{}", stderr(&output));
}

// --- chat

/// What the library makes of a conversation: each answer on a line.
fn conversation(
    model: &Model,
    system: Option<&str>,
    questions: &[&str],
    max_tokens: usize,
    options: SamplerOptions,
) -> String {
    let mut sampler = Sampler::new(options);
    let mut chat = Chat::new(model.session(), Template::Llama2).unwrap();
    chat.set_system(system);
    let mut answers = String::new();
    for question in questions {
        let answer = chat.ask(question, &mut sampler).unwrap().max_tokens(max_tokens);
        answer.for_each(|piece| answers += piece.unwrap().as_str());
        answers.push('\n');
    }
    answers
}

#[test]
fn chat_answers_as_the_library_does() {
    let model = Model::open(MODEL).unwrap();
    let questions = ["Who is Lily?", "And  Tom?", "Why?"];
    let input = b"Who is Lily?\n\n  And  Tom?\r\nWhy?"; // an empty line is no question
    let drawn = (211, 1.0, None, 120);
    for (seed, temperature, system, max_tokens) in [(1, 0.0, None, 5), (1, 0.0, Some("Be brief."), 5), drawn]
    {
        let (t, s, n) = (temperature.to_string(), seed.to_string(), max_tokens.to_string());
        let mut args = vec!["chat", MODEL, "--template", "llama2", "-t", &t, "-s", &s, "-n", &n];
        args.extend(system.into_iter().flat_map(|system| ["-y", system]));
        let output = with_input(&args, input);
        let options = SamplerOptions::new().temperature(temperature).seed(seed);
        assert_eq!(stdout(&output), conversation(&model, system, &questions, max_tokens, options));
        assert!(stderr(&output).starts_with("prompt: "), "no prompts in a pipe: {}", stderr(&output));
    }
}

#[test]
fn chat_says_that_the_context_is_full() {
    let model = rambler();
    let args = ["chat", text(model.path()), "-z", TOKENIZER, "-t", "0", "--template", "llama2"];
    let output = with_input(&args, b"Hello\n");
    assert!(!stdout(&output).trim().is_empty());
    assert!(stderr(&output).contains("[the context is full, 64 tokens"), "{}", stderr(&output));
    let output = with_input(&args, b"Hello\nAre you there?\n");
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("error: the context is full: it holds 64 tokens, 64 are used"), "{message}");
    let output = with_input(&args, "Hello ".repeat(100).as_bytes());
    fails(&output, 1, &["it holds 64 tokens, 0 are used"]);
}

#[test]
fn perplexity_is_the_last_line() {
    let story = stdout(&babyllama(&["-s", "7"])).repeat(3);
    let model = Model::open(MODEL).unwrap();
    let tokens = model.tokenizer().unwrap().encode_prompt(&story);
    let options = babyllama::PerplexityOptions::new().context_length(64).max_windows(3);
    let go_on = |_: &babyllama::Perplexity| std::ops::ControlFlow::Continue(());
    let expected = model.perplexity(&tokens, options, go_on).unwrap();
    let args = ["perplexity", MODEL, "-", "--ctx", "64", "--chunks", "3"];
    let output = with_input(&args, story.as_bytes());
    let shown = stdout(&output);
    assert_eq!(shown.lines().count(), 4, "{shown}");
    assert_eq!(shown.lines().last(), Some(format!("{:.4}", expected.value()).as_str()));
    assert!(stderr(&output).contains("of 93 tokens"), "{}", stderr(&output));
    fails(&with_input(&["perplexity", MODEL, "-"], b"short"), 1, &["it has 3 tokens, and --ctx needs 512"]);
}

#[test]
fn chat_without_a_question_ends_well() {
    assert_eq!(stdout(&babyllama(&["chat"])), "");
    fails(&with_input(&["chat", "-q"], b"\xff\n"), 1, &["standard input: a line is not UTF-8"]);
}

/// What the line editor tells a terminal once it reads keys: behind this, Ctrl-C is a key at the
/// prompt. A model can't say it, since the binary shows no ESC of a model's.
#[cfg(target_os = "linux")]
const PROMPT: &str = "\x1b[?2004h";
/// What it tells the terminal when a line was entered.
#[cfg(target_os = "linux")]
const ENTERED: &str = "\x1b[?2004l";

/// A chat at a terminal, which is `script`'s.
#[cfg(target_os = "linux")]
struct Terminal {
    script: Child,
    shown: Vec<u8>,
}

#[cfg(target_os = "linux")]
impl Terminal {
    /// Starts a chat; `None`, and says so, where there is no `script`.
    fn chat(args: &str) -> Option<Self> {
        if Command::new("script").arg("--version").output().is_err() {
            eprintln!("skipped: there is no `script`");
            return None;
        }
        // `script` has its own ways to end, so it is the shell that shows how the chat did. Ctrl-C
        // is the shell's too.
        let chat =
            format!("trap : INT; '{}' chat {args}; echo exit code $?", env!("CARGO_BIN_EXE_babyllama"));
        // Whatever happens, it ends.
        let mut script = Command::new("timeout");
        script.args(["60", "script", "-qc", &chat, "/dev/null"]).env("TERM", "xterm").env("SHELL", "/bin/sh");
        let script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        Some(Self { script, shown: Vec::new() })
    }

    fn types(&mut self, keys: &str) {
        self.script.stdin.as_ref().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Reads until this is shown and so many bytes behind it, and gives what was shown until then.
    fn read_until(&mut self, text: &str, n_behind: usize) -> String {
        let mut buffer = [0; 4096];
        loop {
            let shown = &self.shown;
            if let Some(at) = shown.windows(text.len()).position(|part| part == text.as_bytes())
                && at + text.len() + n_behind <= shown.len()
            {
                let rest = self.shown.split_off(at + text.len() + n_behind);
                return String::from_utf8_lossy(&mem::replace(&mut self.shown, rest)).into_owned();
            }
            let n = self.script.stdout.as_mut().unwrap().read(&mut buffer).unwrap();
            assert!(n > 0, "{text:?} doesn't come: {:?}", String::from_utf8_lossy(&self.shown));
            self.shown.extend_from_slice(&buffer[..n]);
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_at_a_terminal_stops_the_answer_and_then_the_chat() {
    let model = rambler();
    let args = format!("'{}' -z '{TOKENIZER}' -t 0 --context-length 10000000", text(model.path()));
    let Some(mut terminal) = Terminal::chat(&args) else { return };
    for question in ["Hello\r", "Again\r"] {
        terminal.read_until(PROMPT, 0);
        terminal.types(question);
        terminal.read_until(ENTERED, 100);
        terminal.types("\x03");
    }
    terminal.read_until(PROMPT, 0);
    terminal.types("\x03");
    terminal.read_until("tok/s", 0);
    terminal.read_until("exit code 0", 0);
}

#[cfg(target_os = "linux")]
#[test]
fn lines_at_a_terminal_are_edited_and_remembered() {
    let saved = TempFile::new("saved.jsonl", b"");
    let Some(mut terminal) = Terminal::chat(&format!("'{MODEL}' -t 0 -n 3")) else { return };
    let lines = [
        "/system Be brief.\r",
        "Lily?\x1b[D\x7fX\x05!\r", // left, backspace, X, to the end: LilX?!
        "\x1b[A\x01And \r",        // up, to the start
        "Who\\\r",                 // goes on
        "is she?\r",
        "\"\"\"\r",
        "a\r",
        "b\"\"\"\r",
    ];
    for line in lines {
        terminal.read_until(PROMPT, 0);
        terminal.types(line);
        terminal.read_until(ENTERED, 0);
    }
    let shown = terminal.read_until(PROMPT, 0);
    assert!(shown.contains("\x1b[2m3 tokens, ") && shown.contains(" tok/s\x1b[0m"), "{shown:?}");
    terminal.types(&format!("/save {}\r", text(saved.path())));
    terminal.read_until(PROMPT, 0);
    terminal.types("/reset\r");
    terminal.read_until(PROMPT, 0);
    terminal.types("/nonsense\r");
    terminal.read_until("error: there is no command /nonsense", 0);
    terminal.read_until(PROMPT, 0);
    terminal.types("\x04");
    terminal.read_until("exit code 0", 0);
    let said: Vec<serde_json::Value> = fs::read_to_string(saved.path())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|message: &serde_json::Value| message["role"] != "assistant")
        .collect();
    let said: Vec<_> = said.iter().map(|message| message["content"].as_str().unwrap()).collect();
    assert_eq!(said, ["Be brief.", "LilX?!", "And LilX?!", "Who\nis she?", "a\nb"]);
}

#[cfg(target_os = "linux")]
#[test]
fn speed_in_a_file_has_no_escape_sequences() {
    let notes = TempFile::new("notes.txt", b"");
    let args = format!("'{MODEL}' -t 0 -n 3 2>'{}'", text(notes.path()));
    let Some(mut terminal) = Terminal::chat(&args) else { return };
    for keys in ["Lily?\r", "\x04"] {
        terminal.read_until(PROMPT, 0);
        terminal.types(keys);
    }
    terminal.read_until("exit code 0", 0);
    let notes = fs::read_to_string(notes.path()).unwrap();
    assert!(notes.contains("\n3 tokens, ") && !notes.contains('\x1b'), "{notes:?}");
}

// --- tokenize

#[test]
fn tokenize_prints_what_a_prompt_is_fed_as() {
    let tokenizer = Tokenizer::open(TOKENIZER).unwrap();
    let line = |ids: &[u32]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ") + "\n";
    for text in ["Once upon a time", "", " ", "- a dash", "--no-bos", "a\nb\n", "\u{1f999} caf\u{e9} <s>"] {
        let (with, without) = (line(&tokenizer.encode_prompt(text)), line(&tokenizer.encode(text)));
        assert_eq!(stdout(&babyllama(&["tokenize", MODEL, "--", text])), with);
        assert_eq!(stdout(&babyllama(&["tokenize", "bundled", "--", text])), with);
        assert_eq!(stdout(&babyllama(&["tokenize", "-z", TOKENIZER, "--", text])), with);
        assert_eq!(stdout(&babyllama(&["tokenize", "--no-bos", MODEL, "--", text])), without);
        assert_eq!(stdout(&with_input(&["tokenize", MODEL, "-"], text.as_bytes())), with);
        assert_eq!(stdout(&with_input(&["tokenize", "-z", TOKENIZER, "-"], text.as_bytes())), with);
    }
}

#[test]
fn tokenize_rejects_input_that_is_not_utf_8() {
    let output = with_input(&["tokenize", "-z", TOKENIZER, "-"], b"abc\xf0\x9f");
    fails(&output, 1, &["error: standard input: is not UTF-8 from byte 3 on"]);
}

// --- logits

#[test]
fn logits_file_holds_what_forward_all_gives() {
    let model = rambler();
    let folder = model.path().parent().unwrap();
    // A tokenizer that doesn't fit the model must not matter.
    fs::write(folder.join("tokenizer.bin"), b"nonsense").unwrap();
    let out = folder.join("logits.f32");
    let options = ModelOptions::new().no_tokenizer().norm_eps(1e-3).rope_theta(1e6);
    let opened = Model::open_with(model.path(), &options).unwrap();
    // More than are fed at once.
    let tokens: Vec<u32> = (0..300).map(|i| i * 7 % 1024).collect();
    let list = tokens.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let args = ["logits", text(model.path()), "--tokens", &list, "--out", text(&out)];
    fails(&babyllama(&args), 1, &["the context holds 64 tokens, and there are 300"]);
    assert!(!out.exists());

    let more = ["--context-length", "300", "--norm-eps", "1e-3", "--rope-theta", "1e6", "--threads", "2"];
    let args = [&args[..], &more].concat();
    assert_eq!(stdout(&babyllama(&args)), "");
    let mut session = opened.session_with(SessionOptions::new().context_length(300));
    let expected = session.forward_all(&tokens).unwrap();
    let expected: Vec<u8> = expected.iter().flat_map(|logit| logit.to_le_bytes()).collect();
    assert_eq!(expected.len(), 300 * 1024 * 4);
    assert!(fs::read(&out).unwrap() == expected, "the file differs");
    let args: Vec<_> = args.iter().map(|&arg| if arg == text(&out) { "-" } else { arg }).collect();
    assert!(babyllama(&args).stdout == expected, "standard output differs");
}

#[test]
fn failed_logits_leave_the_file_as_it_was() {
    let model = rambler();
    let folder = model.path().parent().unwrap();
    let out = folder.join("logits.f32");
    fs::write(&out, b"before").unwrap();
    let args = ["logits", text(model.path()), "--tokens", "1 1024", "-f", "--out", text(&out)];
    fails(&babyllama(&args), 1, &["token 1024 is not below the vocabulary's size, 1024"]);
    assert_eq!(fs::read(&out).unwrap(), b"before");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 2, "something was left behind");
    let out = folder.join("no/such/folder/logits.f32");
    let args = ["logits", text(model.path()), "--tokens", "1", "--out", text(&out)];
    fails(&babyllama(&args), 1, &["no/such/folder/logits.f32: "]);
}

// --- bench

#[test]
fn bench_measures_files_and_made_up_models() {
    let args = ["bench", "--prompt", "20", "--gen", "3", "--repetitions", "1", "--threads", "1,2", "--json"];
    for (model, name) in
        [(&[MODEL][..], MODEL), (&["--shape", "stories15m", "--dtype", "q6_k"], "stories15m Q6_K")]
    {
        // A row of 288 is no whole number of blocks of 256.
        let output = babyllama(&[&args[..], model].concat());
        if name.ends_with("Q6_K") {
            fails(&output, 1, &["can't be stored as Q6_K"]);
            continue;
        }
        let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(json["model"], name);
        assert_eq!(json["runs"].as_array().unwrap().len(), 2);
        for part in ["prefill", "decode"] {
            assert!(json[part]["tokens_per_second"].as_f64().unwrap() > 0.0, "{json}");
        }
        assert!(json["decode"]["gb_per_second"].as_f64().unwrap() > 0.0, "{json}");
    }
    let synthetic = ["bench", "--shape", "stories15m", "--dtype", "q4_1", "--prompt", "9", "--gen", "2"];
    let shown = stdout(&babyllama(&[&synthetic[..], &["--repetitions", "1", "--depth", "3"]].concat()));
    assert!(shown.starts_with("stories15m Q4_1, ") && shown.lines().count() == 3, "{shown}");
    fails(&babyllama(&["bench", MODEL, "--shape", "stories15m"]), 2, &["cannot be used with"]);
    fails(&babyllama(&["bench", "--prompt", "0"]), 2, &["0 is not in 1.."]);
}

// --- inspect

#[test]
fn inspect_shows_what_is_in_a_model() {
    let shown = stdout(&babyllama(&["inspect", "--threads", "2", "--isa", "scalar"]));
    for part in [
        "GGUF v3",
        "1.3 MiB (1,347,040 bytes)",
        "parameters    1,238,656",
        "n_kv_heads    2",
        "rope_dim      32",
        "rope_scaling  none",
        "chat template none",
        "max_seq_len   512",
        "1,024 pieces, 256 of them bytes; BOS 1, EOS 2",
        "instructions  scalar",
        "threads       2",
        "3.1 KiB (3,136 bytes) a position used",
        "6 x layers.*.attention.wk     (64, 128)    Q8_0",
        "56 tensors",
    ] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
    assert!(!shown.contains("layers.5."));
    let shown = stdout(&babyllama(&["inspect", MODEL, "--tensors"]));
    assert!(shown.contains("layers.5.feed_forward.w3"), "{shown}");
    assert!(!shown.contains("general."), "{shown}");
    let shown = stdout(&babyllama(&["inspect", "--metadata"]));
    for part in [
        "28 keys\ngeneral.architecture                    string \"llama\"\n",
        "\ngeneral.name                            string \"Baby Llama\"\n",
        "\nllama.attention.head_count_kv           u32 2\n",
        "\ntokenizer.ggml.tokens                   array of 1024 string\n",
    ] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
    let model = Model::open(MODEL).unwrap();
    for (dtype, option) in [(CacheDtype::F32, None), (CacheDtype::F16, Some("--f16-cache"))] {
        let options = SessionOptions::new().context_length(2000).cache_dtype(dtype);
        let memory = options.memory_bytes(model.config());
        let args = [&["inspect", "--context-length", "2000"][..], option.as_slice()].concat();
        let shown = stdout(&babyllama(&args)).replace(',', "");
        assert!(shown.contains(&format!("({memory} bytes) when all 2000 positions")), "{shown}");
    }
}

#[test]
fn inspect_shows_a_model_whose_tokenizer_is_bad() {
    let model = rambler();
    assert!(stdout(&babyllama(&["inspect", text(model.path())])).contains("tokenizer     none"));
    fs::write(model.path().with_file_name("tokenizer.bin"), b"nonsense").unwrap();
    let shown = stdout(&babyllama(&["inspect", text(model.path())]));
    assert!(shown.contains("tokenizer     unusable: ") && shown.contains("tokenizer.bin: "), "{shown}");
}

#[test]
fn inspect_shows_how_a_model_was_stretched() {
    let mut file = RandomModel::new(RAMBLER, 1).to_gguf(1e-5, 1e4);
    file.set("llama.rope.scaling.type", Value::str("yarn"))
        .set("llama.rope.scaling.factor", Value::F32(4.0))
        .set("llama.rope.scaling.original_context_length", Value::U32(16))
        .set("llama.rope.dimension_count", Value::U32(8))
        .set("tokenizer.chat_template", Value::str("{{ messages }} \u{e9}"));
    let file = TempFile::new("stretched.gguf", &file.to_bytes());
    let shown = stdout(&babyllama(&["inspect", text(file.path())]));
    for part in [
        "rope_dim      8\n",
        "rope_scaling  yarn, factor 4, from 16 positions\n",
        "chat template in the file, 16 characters\n",
    ] {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
}

// --- convert

#[test]
fn convert_writes_what_the_library_writes_and_then_runs() {
    let model = rambler();
    let target = model.path().with_file_name("rambler.gguf");
    let (source, target) = (text(model.path()), text(&target));
    let args = ["convert", source, target, "-z", TOKENIZER, "--dtype", "q8_0", "--norm-eps", "1e-6"];
    let args = [&args[..], &["--set", "general.name=a = b"]].concat();
    assert_eq!(stdout(&babyllama(&args)), "");
    let options = GgufOptions::new().recipe(Recipe::Q8_0).metadata("general.name", "a = b");
    let open = ModelOptions::new().tokenizer_path(TOKENIZER).norm_eps(1e-6);
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
    let folder = model.path().parent().unwrap();
    let target = folder.join("out.gguf");
    let (source, target) = (text(model.path()), text(&target));
    fails(&babyllama(&["convert", "no/such.bin", target]), 1, &["no/such.bin: "]);
    let twice = ["convert", source, target, "--set", "general.file_type=1"];
    fails(&babyllama(&twice), 1, &["out.gguf: key \"general.file_type\" can't be written"]);
    fails(&babyllama(&["convert", source, text(folder)]), 1, &["is a directory"]);
    fails(&babyllama(&["convert", source, target, "--dtype", "q9"]), 2, &["f32, f16, bf16, q8_0, q4_0"]);
    fails(&babyllama(&["convert", source, target, "--set", "llama.x=1"]), 2, &["begin with general."]);
    assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "something was left behind");
}
