//! The binary, run as a user runs it.

#[path = "../common/mod.rs"]
mod common;

mod chat;
mod commands;
mod constraint;
mod convert;
mod errors;
mod run;
mod session;
#[cfg(target_os = "linux")]
mod terminal;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use babyllama::{Model, Sampler, SamplerOptions};

use common::gguf::{Gguf, Value};
use common::{RandomModel, Shape, TempFile, assert_says, golden};

const SMALL: Shape = Shape::new(32, 48).layers(2).heads(2, 1).vocab(1024).context(64);

/// The binary with these arguments, and pipes.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_babyllama"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn babyllama(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// Runs it with something on standard input.
fn with_input(args: &[&str], input: impl AsRef<[u8]>) -> Output {
    let mut child = command(args).stdin(Stdio::piped()).spawn().unwrap();
    // It may end before it has read all of it.
    let _ = child.stdin.take().unwrap().write_all(input.as_ref());
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

/// Runs it, and gives what it printed on standard output and on standard error.
#[track_caller]
fn succeeds(args: &[&str]) -> (String, String) {
    let output = babyllama(args);
    (stdout(&output), stderr(&output))
}

/// Asserts that it failed with this code and a message that has these parts, and gives the message.
#[track_caller]
fn fails(output: &Output, code: i32, parts: &[&str]) -> String {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.starts_with("error: ") && !message.contains("panicked"), "{message}");
    assert_says(&message, parts);
    message
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A file beside another, with this in it.
fn beside(file: &TempFile, name: &str, bytes: &[u8]) -> PathBuf {
    let path = file.beside(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn published(name: &str) -> String {
    golden("published").join(name).to_str().unwrap().into()
}

/// A small model without a tokenizer, with these keys too.
fn with_keys(keys: &[(&str, Value)]) -> Gguf {
    let mut file = RandomModel::new(SMALL, 1).to_gguf(1e-5, 1e4);
    for (key, value) in keys {
        file.set(key, value.clone());
    }
    file
}

/// A model that takes the bundled tokenizer and, choosing the likeliest token, talks without end.
fn rambler() -> TempFile {
    let mut model = RandomModel::new(SMALL.layers(1), 1);
    // BOS and EOS: of 1,024 random logits, zero is never the greatest.
    model.output.as_mut().unwrap()[SMALL.dim..3 * SMALL.dim].fill(0.0);
    TempFile::new("rambler.bin", &model.to_v0())
}

/// What the library makes of a prompt.
fn generate(model: &Model, prompt: &str, max_tokens: usize, options: SamplerOptions) -> String {
    let (mut session, mut sampler) = (model.session(), Sampler::new(options));
    let generate = session.generate(prompt, &mut sampler).unwrap().max_tokens(max_tokens);
    generate.map(|piece| piece.unwrap().to_string()).collect()
}
