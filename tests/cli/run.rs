//! `run`: the text, where it ends, and what a signal or a closed pipe does.

use std::fs;
use std::io::Read;
use std::process::{Child, Command};

use babyllama::{Isa, Model, SamplerOptions, Tokenizer};

use crate::common::gguf::Value;
use crate::common::{BUNDLED, TempFile, assert_says, shared};
use crate::{babyllama, command, fails, generate, rambler, stderr, stdout, with_input, with_keys};

/// Starts an endless text.
fn endless(model: &TempFile) -> Child {
    let args = ["run", model.text(), "-z", BUNDLED, "-t", "0", "-n", "0", "--context-length", "10000000"];
    command(&args).spawn().unwrap()
}

#[test]
fn bundled_story_is_what_the_library_generates() {
    let model = Model::open(BUNDLED).unwrap();
    let story = generate(&model, "", usize::MAX, SamplerOptions::new().temperature(0.8).seed(7));
    assert!(story.len() > 100);
    let alone = babyllama(&["-s", "7"]);
    assert_eq!(stdout(&alone), story.clone() + "\n");
    assert!(stderr(&alone).contains("seed 7"), "{}", stderr(&alone));
    assert_eq!(stdout(&babyllama(&["run", "-t", "0.8", "-s", "7", "-n", "0"])), story.clone() + "\n");
    assert_eq!(stdout(&babyllama(&["run", BUNDLED, "-t", "0.8", "-s", "7", "-n", "0"])), story + "\n");
}

#[test]
fn story_can_be_had_again_with_the_seed_that_is_printed() {
    let first = babyllama(&[]);
    let message = stderr(&first);
    let (_, seed) = message.trim_end().rsplit_once("seed ").unwrap();
    assert_eq!(stdout(&babyllama(&["-s", seed])), stdout(&first));
    assert_ne!(stdout(&babyllama(&[])), stdout(&first), "two runs tell the same story");
}

#[test]
fn run_prints_what_run_c_prints() {
    let Some(shared) = shared("run_prints_what_run_c_prints") else { return };
    let cases = [
        ("real", "stories260K.bin", "tok512.bin", "stories260K.greedy.txt", "-t 0 -n 256"),
        ("real", "stories260K.bin", "tok512.bin", "stories260K.t1.0-p0.9-s133742.txt", "-s 133742"),
        (
            "real",
            "stories260K.bin",
            "tok512.bin",
            "stories260K.t0.8-p0-s42-n200-OneDayTom.txt",
            "-t 0.8 -p 0 -s 42 -n 200 -i One day, Tom",
        ),
        ("models/512", "babyllama.v0.bin", "../babyllama.tokenizer.bin", "v0.greedy.txt", "-t 0"),
        ("models/512", "babyllama.v0.bin", "babyllama.tokenizer.bin", "v0.t0.8-p0.9-s1.txt", "-t 0.8 -s 1"),
        (
            "models/512",
            "babyllama.v0.bin",
            "babyllama.tokenizer.bin",
            "v0.t1.0-p0.9-s7-n300-LilyFoundALlama.txt",
            "-s 7 -n 300 -i Lily found a llama",
        ),
        ("models/512", "babyllama.v2.bin", "../babyllama.tokenizer.bin", "v2.greedy.txt", "-t 0"),
        ("models/512", "babyllama.v2.bin", "babyllama.tokenizer.bin", "v2.t0.8-p0.9-s1.txt", "-t 0.8 -s 1"),
    ];
    // Without optimization each of these takes seconds: one of them then stands for all.
    let (isas, threads): (_, &[_]) =
        if cfg!(debug_assertions) { (vec![Isa::best()], &["2"]) } else { (Isa::available(), &["1", "2"]) };
    for (folder, model, tokenizer, expected, options) in cases {
        let path = |name: &str| shared.join(folder).join(name).to_str().unwrap().to_string();
        let expected = fs::read_to_string(path(expected)).unwrap();
        let (model, tokenizer) = (path(model), path(tokenizer));
        // A prompt comes last.
        let (flags, prompt) = options.split_once(" -i ").map_or((options, None), |(a, b)| (a, Some(b)));
        for isa in &isas {
            for threads in threads {
                let mut args =
                    vec!["run", &model, "-z", &tokenizer, "--isa", isa.name(), "--threads", threads];
                args.extend(flags.split(' ').chain(prompt.into_iter().flat_map(|prompt| ["-i", prompt])));
                assert_eq!(stdout(&babyllama(&args)), expected, "{args:?}");
            }
        }
    }
}

#[test]
fn steps_count_the_prompts_tokens() {
    let prompt = "Lily found a llama";
    let model = Model::open(BUNDLED).unwrap();
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
fn sampling_options_are_the_librarys() {
    let model = Model::open(BUNDLED).unwrap();
    let options =
        SamplerOptions::new().temperature(1.4).temperature_last(true).typical_p(0.9).top_n_sigma(2.5);
    let options = options.xtc_probability(0.5).xtc_threshold(0.05).seed(3);
    let dry = options.clone().dry_multiplier(0.9).dry_base(1.5).dry_allowed_length(1).dry_window(99);
    let filters = "run -s 3 -n 60 -t 1.4 --temperature-last --typical-p 0.9 --top-n-sigma 2.5 --xtc-probability 0.5 \
                   --xtc-threshold 0.05";
    let dry_args = "--dry-multiplier 0.9 --dry-base 1.5 --dry-allowed-length 1 --dry-window 99";
    let default = ["\n", ":", "\"", "*"];
    for (args, options, breakers) in [
        (vec![], options, &[][..]),
        (dry_args.split(' ').collect(), dry.clone(), &default),
        (dry_args.split(' ').chain(["--dry-breaker", ""]).collect(), dry.clone(), &[]),
        (
            dry_args.split(' ').chain(["--dry-breaker", ". ", "--dry-breaker", "a"]).collect(),
            dry,
            &[". ", "a"],
        ),
    ] {
        let tokenizer = model.tokenizer().unwrap();
        let breakers = breakers.iter().flat_map(|text| tokenizer.breakers(text)).collect();
        let expected = generate(&model, "", 60, options.dry_breakers(breakers));
        let args: Vec<_> = filters.split_whitespace().chain(args).collect();
        assert_eq!(stdout(&babyllama(&args)), expected + "\n", "{args:?}");
    }
}

#[test]
fn prompt_longer_than_the_context_is_cut() {
    let (model, prompt) = (rambler(), "One day ".repeat(100));
    let output = babyllama(&["run", model.text(), "-z", BUNDLED, "-n", "0", "-i", &prompt]);
    let tokenizer = Tokenizer::open(BUNDLED).unwrap();
    let expected = tokenizer.decode(&tokenizer.encode_prompt(&prompt)[..=64]);
    assert_eq!(stdout(&output), expected + "\n");
    assert_says(&stderr(&output), &["the context holds 64 of the prompt's"]);
}

#[test]
fn run_ends_where_the_context_does() {
    let model = rambler();
    let args = ["run", model.text(), "-z", BUNDLED, "-t", "0", "-n", "1000"];
    let message = stderr(&babyllama(&args));
    assert_says(&message, &["prompt: 1 token,", "generation: 64 tokens,"]);
    assert!(!message.contains("seed"), "without chance there is no seed: {message}");
    let longer = stderr(&babyllama(&[&args[..], &["--context-length", "100"]].concat()));
    assert_says(&longer, &["generation: 100 tokens,"]);
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
    assert_says(&stderr(&output), &["tok/s"]);
}

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
    fails(&babyllama(&["run", file.text(), "-n", "3"]), 1, &["no token to feed", "-i"]);
    stdout(&babyllama(&["run", file.text(), "-n", "3", "-i", "a"]));
    assert_eq!(stdout(&babyllama(&["tokenize", file.text(), "a"])), "97\n");
    // A tokenizer needs no model that runs.
    let mut other = with_keys(&[("general.architecture", Value::str("gemma3"))]);
    other.keys.extend(keys.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.clone())));
    other.tensors.clear();
    let other = TempFile::new("m.gguf", &other.to_bytes());
    assert_eq!(stdout(&babyllama(&["tokenize", other.text(), "a"])), "97\n");
    assert_eq!(stdout(&babyllama(&["tokenize", "-z", other.text(), "a"])), "97\n");
}
