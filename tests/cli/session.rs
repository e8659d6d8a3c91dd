//! `--session`, `--lookup` and `--draft`.

use std::fs;
use std::path::PathBuf;

use babyllama::{Model, Sampler, SamplerOptions};

use crate::common::{BUNDLED, TempFile, assert_says};
use crate::{babyllama, fails, names, rambler, stderr, stdout, succeeds, text, with_input};

/// Where a session may be saved: a folder of its own.
fn nowhere() -> (TempFile, PathBuf) {
    let folder = TempFile::new("other", b"other");
    let path = folder.beside("saved");
    (folder, path)
}

/// What `run --session` prints, without the newline.
fn goes_on(file: &str, args: &[&str]) -> String {
    let (text, _) = succeeds(&[&["run", "-q", "--session", file], args].concat());
    text.strip_suffix('\n').unwrap().into()
}

#[test]
fn a_text_resumed_is_one_long_text() {
    let (folder, path) = nowhere();
    let file = text(&path);
    for options in [&["-t", "0"][..], &["-t", "0", "--repetition-penalty", "1.3", "--f16-cache"]] {
        let one = [&["run", "-q", "-i", "Lily had", "-n", "30"][..], options].concat();
        let whole = succeeds(&one).0;
        let resumed: String = [&["-i", "Lily had", "-n", "9"][..], &["-n", "1"], &["-n", "20", "--lookup"]]
            .map(|args| goes_on(file, &[options, args].concat()))
            .concat();
        assert_eq!(resumed + "\n", whole, "{options:?}");
        assert_eq!(names(folder.folder()), ["other", "saved"], "an unfinished file is left");
        fs::remove_file(&path).unwrap();
    }
    // An empty file, as `mktemp` makes it, is no other.
    fs::write(&path, b"").unwrap();
    goes_on(file, &["-t", "0", "-n", "3"]);
    assert!(fs::metadata(&path).unwrap().len() > 0);
}

#[cfg(unix)]
#[test]
fn a_session_that_is_saved_again_can_be_read_by_nobody_else() {
    use std::os::unix::fs::PermissionsExt;

    let (_folder, path) = nowhere();
    let file = text(&path);
    goes_on(file, &["-t", "0", "-n", "3"]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    goes_on(file, &["-t", "0", "-n", "3"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_prompt_goes_on_in_the_middle_of_a_word() {
    let (_folder, path) = nowhere();
    let model = Model::open(BUNDLED).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let mut tokens = tokenizer.encode_prompt("Once upon a ti");
    // With a session, a prompt that -n leaves nothing after is read too.
    let n = (tokens.len() - 1).to_string();
    assert_eq!(goes_on(text(&path), &["-t", "0", "-i", "Once upon a ti", "-n", &n]), "Once upon a ti");
    let prompt = tokenizer.encode_continuation("me");
    let n = (prompt.len() + 9).to_string();
    let resumed = goes_on(text(&path), &["-t", "0", "-i", "me", "-n", &n]);
    tokens.extend(prompt);
    let mut sampler = Sampler::new(SamplerOptions::new().temperature(0.0));
    let mut session = model.session();
    let generate = session.generate(&tokens, &mut sampler).unwrap().max_tokens(9);
    assert_eq!(resumed, "me".to_string() + &generate.map(Result::unwrap).collect::<String>());
}

#[test]
fn a_stop_string_may_begin_in_one_run_and_end_in_the_next() {
    let (_folder, path) = nowhere();
    let options = ["-t", "0", "--stop", "Lily"];
    let (whole, message) = succeeds(&[&["run", "-n", "60"], &options[..]].concat());
    let (_, n) = message.split_once("generation: ").unwrap();
    let n: usize = n.split(' ').next().unwrap().parse().unwrap();
    for cut in n.saturating_sub(4).max(1)..n {
        let resumed = [cut.to_string(), "60".into()].map(|n| {
            let args = [&options[..], &["-n", &n]].concat();
            goes_on(text(&path), &args)
        });
        assert_eq!(resumed.concat() + "\n", whole, "{cut} of {n} tokens first");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn what_is_no_session_of_this_model_is_refused_and_stays() {
    let (_folder, path) = nowhere();
    let file = text(&path);
    goes_on(file, &["-t", "0", "-n", "9"]);
    let saved = fs::read(&path).unwrap();
    let mut damaged = saved.clone();
    damaged[saved.len() / 2] ^= 1;
    for (bytes, reason) in [
        (&damaged[..], "is damaged: the checksum differs"),
        (&saved[..saved.len() - 1], "it ends in its results"),
        (b"a letter to Lily", "it isn't a saved session"),
        (&fs::read(BUNDLED).unwrap(), "it isn't a saved session"),
    ] {
        fs::write(&path, bytes).unwrap();
        for command in ["run", "chat"] {
            fails(&babyllama(&[command, "-q", "--session", file]), 1, &[file, reason]);
            assert!(fs::read(&path).unwrap() == bytes, "{reason}: it was changed");
        }
    }
    fs::write(&path, &saved).unwrap();
    let model = rambler();
    let args = ["run", model.text(), "-z", BUNDLED, "--session"];
    fails(&babyllama(&[&args[..], &[file]].concat()), 1, &[file, "it is of another model"]);
    fails(&babyllama(&["run", "--session", file, "--f16-cache"]), 1, &[file, "cache_dtype"]);
    let message = ["it holds no conversation, but a text that `run --session` continues"];
    fails(&babyllama(&["chat", "-q", "--session", file]), 1, &message);
    assert!(fs::read(&path).unwrap() == saved);
    // Nor is the model.
    let model_bytes = fs::read(model.path()).unwrap();
    fails(&babyllama(&[&args[..], &[model.text()]].concat()), 1, &[model.text()]);
    assert!(fs::read(model.path()).unwrap() == model_bytes);
}

#[test]
fn a_restored_context_that_is_full_says_so() {
    let (model, (_folder, path)) = (rambler(), nowhere());
    let args = ["run", model.text(), "-z", BUNDLED, "-t", "0", "-n", "0", "--session", text(&path)];
    let (first, message) = succeeds(&args);
    assert_says(&message, &["generation: 64 tokens"]);
    let full = ["the context is full: it holds 64 tokens", "the text has 65;", "--context-length"];
    fails(&babyllama(&args), 1, &full);
    let longer = |n| [&args[..], &["--context-length", n]].concat();
    let (second, message) = succeeds(&longer("70"));
    assert_says(&message, &["prompt: 0 tokens; generation: 6 tokens"]);
    let whole = ["run", model.text(), "-z", BUNDLED, "-t", "0", "-n", "0", "--context-length", "70"];
    assert_eq!(first.trim_end_matches('\n').to_string() + &second, succeeds(&whole).0);
    fails(&babyllama(&args), 1, &["it holds 70 tokens, and the context 64; --context-length"]);
    let prompt = [&longer("72")[..], &["-i", "One day, Tom went"]].concat();
    fails(&babyllama(&prompt), 1, &["the context is full: it holds 72 tokens"]);
}

/// Starts an endless text, sends a signal when some of it is there, and gives what was printed.
#[cfg(unix)]
fn stopped(args: &[&str], input: &str, signal: &str, code: i32) -> String {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    let mut child = crate::command(args).stdin(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(input.as_bytes()).unwrap();
    let (mut out, mut shown) = (child.stdout.take().unwrap(), vec![0; 100]);
    out.read_exact(&mut shown).unwrap();
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    out.read_to_end(&mut shown).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
    shown.pop(); // the newline
    String::from_utf8(shown).unwrap()
}

#[cfg(unix)]
#[test]
fn signals_save_the_text_up_to_there() {
    let (model, (_folder, path)) = (rambler(), nowhere());
    let context = ["-z", BUNDLED, "-t", "0", "--context-length", "10000000", "-q"];
    let run = [&["run", model.text()], &context[..]].concat();
    let endless = [&run[..], &["-n", "0", "--session", text(&path)]].concat();
    let shown = stopped(&endless, "", "-INT", 130);
    let resumed = shown + &succeeds(&[&run[..], &["-n", "5", "--session", text(&path)]].concat()).0;
    let n = (resumed.len() + 5).to_string();
    let whole = succeeds(&[&run[..], &["-n", &n]].concat()).0;
    assert!(whole.starts_with(resumed.trim_end_matches('\n')), "{resumed:?} isn't a part of {whole:?}");

    fs::remove_file(&path).unwrap();
    let session = ["--template", "llama2", "--session", text(&path)];
    let chat = [&["chat", model.text()], &context[..], &session].concat();
    let shown = stopped(&chat, "Hello\n", "-TERM", 143);
    let saved = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
    let line = saved.lines().last().unwrap();
    let last: serde_json::Value = serde_json::from_str(line).unwrap();
    // Control characters are part of the text, but aren't shown.
    let hidden = |c: char| c.is_control() && !matches!(c, '\t'..='\r');
    assert_eq!(last["content"].as_str().unwrap().replace(hidden, ""), shown);
    stdout(&with_input(&[&chat[..], &["-n", "3"]].concat(), "Go on\n"));
}

/// Also one that waits for input when the signal comes.
#[cfg(unix)]
#[test]
fn signals_save_a_conversation_that_waits() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};
    use std::thread;
    use std::time::Duration;

    let (folder, path) = nowhere();
    // The first newline is the reply's last.
    let options = ["chat", "--template", "llama2", "-q", "-t", "0", "-n", "9", "--stop", "\n"];
    let chat = [&options[..], &["--session", text(&path)]].concat();
    let whole = stdout(&with_input(&options, "Who is Lily?\nAnd Tom?\nWhy?\n"));
    let mut replies = String::new();
    for (question, signal, code) in
        [("Who is Lily?", "-TERM", 143), ("And Tom?", "-HUP", 129), ("Why?", "-INT", 130)]
    {
        let mut child = crate::command(&chat).stdin(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(format!("{question}\n").as_bytes()).unwrap();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut replies).unwrap();
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        // The end of input would end it too, if the signal doesn't within a minute.
        let has_ended = |_: &u32| child.try_wait().unwrap().is_some();
        let _ = (0..1200).inspect(|_| thread::sleep(Duration::from_millis(50))).find(has_ended);
        drop(pipe);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert_eq!(names(folder.folder()), ["other", "saved"], "an unfinished file is left");
    }
    assert_eq!(replies, whole);
    let saved = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
    let last: serde_json::Value = serde_json::from_str(saved.lines().last().unwrap()).unwrap();
    assert_eq!(last["content"].as_str(), whole.lines().last());
}

#[test]
fn a_conversation_resumed_reads_nothing_again() {
    let (_folder, path) = nowhere();
    let file = text(&path);
    let options = ["--template", "llama2", "-t", "0", "-n", "7"];
    let chat = |more: &[&str], input: &str| {
        let output = with_input(&[&["chat"], &options[..], more].concat(), input);
        let shown = stdout(&output);
        let message = stderr(&output);
        let n_prompt = message.lines().find_map(|line| line.strip_prefix("prompt: "));
        let n_prompt = n_prompt.and_then(|line| line.split(' ').next()).unwrap_or("0");
        (shown, n_prompt.parse::<usize>().unwrap())
    };
    let (whole, n_whole) = chat(&["-y", "Be kind."], "Who is Lily?\nAnd Tom?\nWhy?\n");
    let (first, n_first) = chat(&["-y", "Be kind.", "--session", file], "Who is Lily?\n");
    let (second, n_second) = chat(&["--session", file], "And Tom?\n");
    assert_eq!(chat(&["--session", file], ""), (String::new(), 0));
    let (third, n_third) = chat(&["--session", file], "Why?\n");
    assert_eq!(first + &second + &third, whole);
    assert_eq!(n_first + n_second + n_third, n_whole);
    let saved = fs::read(file).unwrap();
    let line = saved.split(|&byte| byte == b'\n').rfind(|line| !line.is_empty()).unwrap();
    let last: serde_json::Value = serde_json::from_slice(line).unwrap();
    assert_eq!(last["content"].as_str().unwrap().to_string() + "\n", third);
    let message = ["it holds a conversation, which `chat --session` continues"];
    fails(&babyllama(&["run", "--session", file]), 1, &message);

    // An error that ends the chat loses nothing that was said before.
    let before = fs::read(file).unwrap();
    let output = with_input(&[&["chat", "-q", "--session", file], &options[..]].concat(), b"And\n\xff\n");
    fails(&output, 1, &["a line is not UTF-8"]);
    assert_ne!(fs::read(file).unwrap(), before);
    let mut damaged = fs::read(file).unwrap();
    damaged.extend(b"{}\n");
    fs::write(file, &damaged).unwrap();
    fails(&babyllama(&["chat", "-q", "--session", file]), 1, &[file, "is not a message"]);
    assert!(fs::read(file).unwrap() == damaged);
}

#[test]
fn guesses_change_no_text_and_are_counted() {
    let prompt = "Lily had a cat. Lily had a dog. Lily had a cat. Lily had";
    for options in [["-t", "0"], ["-s", "5"]] {
        let args = [&["run", "-i", prompt, "-n", "60"], &options[..]].concat();
        let (plain, _) = succeeds(&args);
        for draft in [&["--lookup"][..], &["--draft", "bundled"]] {
            let (guessed, message) = succeeds(&[&args[..], draft].concat());
            assert_eq!(guessed, plain, "{draft:?}");
            let (_, counts) = message.split_once("guesses: ").unwrap_or_else(|| panic!("{message}"));
            let counts: Vec<usize> = counts.split(' ').filter_map(|word| word.parse().ok()).collect();
            assert!(counts.len() == 2 && counts[0] <= counts[1], "{message}");
            // At temperature 0 the model guesses what it says.
            assert!(draft.len() == 1 || options[1] != "0" || counts[0] > 0, "{message}");
        }
    }
    fails(&babyllama(&["run", "--lookup", "--draft", "bundled"]), 2, &["cannot be used with"]);
    fails(&babyllama(&["run", "--draft", "no/such.bin"]), 1, &["no/such.bin"]);
}
