//! The binary at a terminal, which is `script`'s.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::{fs, mem};

use crate::common::gguf::Value;
use crate::common::{BUNDLED, TempFile, assert_says};
use crate::{rambler, text, with_keys};

/// What the line editor tells a terminal once it reads keys: after this, Ctrl-C is a key at the
/// prompt. A model can't say it, since the binary shows no ESC of a model's.
const PROMPT: &str = "\x1b[?2004h";
/// What it tells the terminal when a line was entered.
const ENTERED: &str = "\x1b[?2004l";

/// A shell command at a terminal, which is `script`'s. `None`, and says so, where there is no
/// `script`.
fn at_terminal(command: &str) -> Option<Command> {
    if Command::new("script").arg("--version").output().is_err() {
        eprintln!("skipped: there is no `script`");
        return None;
    }
    let mut script = Command::new("timeout"); // whatever happens, it ends
    script.args(["60", "script", "-qc", command, "/dev/null"]);
    script.env("TERM", "xterm").env_remove("NO_COLOR").env("SHELL", "/bin/sh");
    script.stdin(Stdio::piped()).stdout(Stdio::piped());
    Some(script)
}

/// What a terminal shows to whom types all of this at once, until the end.
fn shown(mut script: Command, keys: &str) -> String {
    let mut script = script.spawn().unwrap();
    // The pipe stays open, since its end is the terminal's.
    let mut pipe = script.stdin.take().unwrap();
    pipe.write_all(keys.as_bytes()).unwrap();
    let shown = script.wait_with_output().unwrap().stdout;
    drop(pipe);
    String::from_utf8_lossy(&shown).into_owned()
}

/// A chat at a terminal.
struct Terminal {
    script: Child,
    shown: Vec<u8>,
}

impl Terminal {
    fn chat(args: &str) -> Option<Self> {
        // `script` has its own ways to end, so it is the shell that shows how the chat did. Ctrl-C
        // is the shell's too.
        Self::of(&format!("trap : INT; '{}' chat {args}; echo exit code $?", env!("CARGO_BIN_EXE_babyllama")))
    }

    fn of(command: &str) -> Option<Self> {
        Some(Self { script: at_terminal(command)?.spawn().unwrap(), shown: Vec::new() })
    }

    /// Types at the next prompt.
    fn answers(&mut self, keys: &str) {
        self.read_until(PROMPT, 0);
        self.types(keys);
    }

    fn types(&mut self, keys: &str) {
        self.script.stdin.as_ref().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Reads until this is shown and `n_after` bytes after it, and gives what was shown until then.
    fn read_until(&mut self, text: &str, n_after: usize) -> String {
        let mut buffer = [0; 4096];
        loop {
            let shown = &self.shown;
            if let Some(at) = shown.windows(text.len()).position(|part| part == text.as_bytes())
                && at + text.len() + n_after <= shown.len()
            {
                let rest = self.shown.split_off(at + text.len() + n_after);
                return String::from_utf8_lossy(&mem::replace(&mut self.shown, rest)).into_owned();
            }
            let n = self.script.stdout.as_mut().unwrap().read(&mut buffer).unwrap();
            assert!(n > 0, "{text:?} doesn't come: {:?}", String::from_utf8_lossy(&self.shown));
            self.shown.extend_from_slice(&buffer[..n]);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        let _ = self.script.wait();
    }
}

#[test]
fn ctrl_c_at_a_terminal_stops_the_answer_and_then_the_chat() {
    let model = rambler();
    let args = format!("'{}' -z '{BUNDLED}' -t 0 --context-length 10000000", model.text());
    let Some(mut terminal) = Terminal::chat(&args) else { return };
    for question in ["Hello\r", "Again\r"] {
        terminal.answers(question);
        terminal.read_until(ENTERED, 100);
        terminal.types("\x03");
    }
    terminal.answers("\x03");
    terminal.read_until("tok/s", 0);
    terminal.read_until("exit code 0", 0);
}

#[test]
fn lines_at_a_terminal_are_edited_and_remembered() {
    let saved = TempFile::new("saved.jsonl", b"");
    let Some(mut terminal) = Terminal::chat(&format!("'{BUNDLED}' -t 0 -n 3")) else { return };
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
        terminal.answers(line);
        terminal.read_until(ENTERED, 0);
    }
    let shown = terminal.read_until(PROMPT, 0);
    assert_says(&shown, &["\x1b[2m3 tokens, ", " tok/s\x1b[0m"]);
    terminal.types(&format!("/save {}\r", saved.text()));
    terminal.answers("/reset\r");
    terminal.answers("/nonsense\r");
    terminal.read_until("error: there is no command /nonsense", 0);
    terminal.answers("\x04");
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

#[test]
fn speed_in_a_file_has_no_escape_sequences() {
    let notes = TempFile::new("notes.txt", b"");
    let args = format!("'{BUNDLED}' -t 0 -n 3 2>'{}'", notes.text());
    let Some(mut terminal) = Terminal::chat(&args) else { return };
    for keys in ["Lily?\r", "\x04"] {
        terminal.answers(keys);
    }
    terminal.read_until("exit code 0", 0);
    let notes = fs::read_to_string(notes.path()).unwrap();
    assert!(notes.contains("\n3 tokens, ") && !notes.contains('\x1b'), "{notes:?}");
}

/// What a terminal shows of the binary, to which all of this is typed at once.
fn typed(settings: &[(&str, &str)], args: &str, keys: &str) -> Option<String> {
    let mut script =
        at_terminal(&format!("'{}' {args}; echo exit code $?", env!("CARGO_BIN_EXE_babyllama")))?;
    script.envs(settings.iter().copied());
    let shown = shown(script, keys);
    assert_says(&shown, &["exit code 0"]);
    Some(shown)
}

/// The questions of a conversation that was saved.
fn questions(saved: &Path) -> Vec<String> {
    let messages = fs::read_to_string(saved).unwrap();
    let messages = messages.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let questions = messages.filter(|message| message["role"] == "user");
    questions.map(|message| message["content"].as_str().unwrap().into()).collect()
}

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
        let saved = folder.beside(format!("{i}.jsonl"));
        let keys = format!("{keys}/save {}\r/quit\r", text(&saved));
        let args = format!("chat '{BUNDLED}' -t 0 -n 1 --context-length 5000");
        let Some(shown) = typed(settings, &args, &keys) else { return };
        assert!(saved.exists(), "{shown:?}");
        assert_eq!(questions(&saved), expected);
    }
}

#[test]
fn a_conversation_is_saved_and_loaded() {
    let saved = TempFile::new("saved.jsonl", b"precious");
    let path = saved.text();
    let args = format!("chat '{BUNDLED}' -t 0 -n 2");
    let keys = format!("Who?\r/save {path}\r/save -\r/quit\r");
    let Some(shown) = typed(&[], &args, &keys) else { return };
    assert_says(&shown, &["it is there already; /save! replaces it"]);
    assert!(shown.contains(r#"{"content":"Who?","role":"user"}"#), "{shown:?}");
    assert_eq!(fs::read(saved.path()).unwrap(), b"precious");
    typed(&[], &args, &format!("Who?\r/save! {path}\r/quit\r")).unwrap();
    let keys = format!("/load {path}\rWhy?\r/save! {path}\r/load /dev/zero\r/load {path}.no\r/quit\r");
    let shown = typed(&[], &args, &keys).unwrap();
    assert_eq!(questions(saved.path()), ["Who?", "Why?"]);
    assert_says(&shown, &["/dev/zero: only regular files of at most 64 MiB are loaded"]);
    fs::write(saved.path(), "nonsense").unwrap();
    let shown = typed(&[], &args, &format!("/load {path}\r/nonsense\r/help\r/quit\r")).unwrap();
    assert_says(&shown, &["line 1 is not a message", "there is no command /nonsense", "/system TEXT"]);
}

#[test]
fn no_escape_sequence_goes_where_none_is_wanted() {
    let text_file = TempFile::new("text.txt", "Once upon a time, there was a girl. ".repeat(30).as_bytes());
    let target = text_file.beside("out.gguf");
    let perplexity = format!("perplexity '{BUNDLED}' '{}' --ctx 64", text_file.text());
    let convert = format!("convert '{BUNDLED}' '{}' --force --check", text(&target));
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
#[test]
fn a_signal_at_the_prompt_leaves_the_terminal_as_it_was() {
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
        let Some(mut script) = at_terminal(&chat) else { return };
        script.current_dir(folder.folder());
        let shown = shown(script, "");
        assert!(shown.contains("the same"), "{signal}: {shown:?}");
        let marks = |mark: &str| shown.matches(mark).count();
        assert!(
            marks("\x1b[?2004h") > 0 && marks("\x1b[?2004h") == marks("\x1b[?2004l"),
            "{signal}: {shown:?}"
        );
    }
}

#[test]
fn a_signal_at_the_prompt_saves_the_session() {
    for (signal, code) in [("TERM", 143), ("HUP", 129)] {
        let folder = TempFile::new("x", b"");
        let (saved, pid) = (folder.beside("saved"), folder.beside("pid"));
        let command = format!(
            "before=$(stty -g)
            sh -c 'echo $$ >\"{}\"; exec \"{}\" chat -t 0 -n 3 --session \"{}\"'
            code=$?; [ \"$before\" = \"$(stty -g)\" ] && echo the same, code $code",
            text(&pid),
            env!("CARGO_BIN_EXE_babyllama"),
            text(&saved)
        );
        let Some(mut terminal) = Terminal::of(&command) else { return };
        terminal.answers("Who?\r");
        terminal.answers("Who is");
        terminal.read_until("W", 0);
        let pid = fs::read_to_string(pid).unwrap();
        let kill = Command::new("kill").args([&format!("-{signal}"), pid.trim()]).status().unwrap();
        assert!(kill.success());
        terminal.read_until(&format!("the same, code {code}"), 0);
        let messages = String::from_utf8_lossy(&fs::read(saved).unwrap()).into_owned();
        assert_says(&messages, &[r#"{"content":"Who?","role":"user"}"#, r#""role":"assistant"}"#]);
        assert!(!messages.contains("Who is"));
    }
}

/// What the model has forgotten is part of the conversation still.
#[test]
fn a_conversation_that_outgrew_its_context_is_saved_whole() {
    let folder = TempFile::new("x", b"");
    let saved = folder.beside("saved.jsonl");
    let lines: Vec<_> = (0..30).map(|i| format!("question {i}")).collect();
    let keys = format!("/system Be brief.\r{}\r/save {}\r/quit\r", lines.join("\r"), text(&saved));
    let args = format!("chat '{BUNDLED}' -t 0 -n 1 --context-length 200");
    let Some(shown) = typed(&[("TERM", "dumb")], &args, &keys) else { return };
    assert_says(&shown, &["[the context is full: the model has forgotten the oldest "]);
    assert_eq!(questions(&saved), lines);
    assert!(fs::read_to_string(&saved).unwrap().starts_with(r#"{"content":"Be brief.","role":"system"}"#));
}

#[test]
fn variables_of_a_template_are_set_at_a_terminal() {
    let template = "{{ bos_token }}{{ mood }} {{ messages[-1].content }}";
    let file = with_keys(&[("tokenizer.chat_template", Value::str(template))]);
    let file = TempFile::new("m.gguf", &file.to_bytes());
    let args = format!("'{}' -z '{BUNDLED}' -t 0 -n 3", file.text());
    let Some(mut terminal) = Terminal::chat(&args) else { return };
    terminal.answers("/set mood very kind\r");
    terminal.answers("/set enable_thinking false\r");
    terminal.answers("/set\r");
    terminal.read_until("mood = \"very kind\"", 0);
    terminal.read_until("enable_thinking = false", 0);
    terminal.answers("/set mood\r");
    terminal.answers("/set\r");
    assert!(!terminal.read_until("enable_thinking = false", 0).contains("mood ="));
    terminal.answers("/quit\r");
    terminal.read_until("exit code 0", 0);
}

#[test]
fn thoughts_are_dimmed_at_a_terminal_alone() {
    // The template opens the thoughts, and the model never ends them.
    let template = "{{ bos_token }}{{ messages[-1].content }}<think>\n";
    let file = with_keys(&[("tokenizer.chat_template", Value::str(template))]);
    let file = TempFile::new("m.gguf", &file.to_bytes());
    let args = format!("'{}' -z '{BUNDLED}' -t 0 -n 3", file.text());
    let Some(mut terminal) = Terminal::chat(&args) else { return };
    terminal.answers("Hello\r");
    terminal.read_until(ENTERED, 0);
    terminal.read_until("\x1b[2m", 1);
    terminal.read_until("\x1b[0m", 0);
    terminal.answers("/quit\r");
    terminal.read_until("exit code 0", 0);
}
