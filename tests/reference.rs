//! Whole stories: the texts that llama2.c's `run` and `runq` print, byte for byte, for the same
//! options and seed.
//!
//! They need real model files: set `BABYLLAMA_SHARED` to their folder. A test whose files are
//! absent says so and passes. The stories of the bundled model, which is GGUF, lie in the
//! repository: llama.cpp told them.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use babyllama::{FinishReason, Isa, Model, ModelOptions, Sampler, SamplerOptions};

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What run.c is told on its command line, and what it answers.
struct Story<'a> {
    model: PathBuf,
    /// `None`: the model's own.
    tokenizer: Option<PathBuf>,
    /// The text, and a newline.
    text: PathBuf,
    prompt: &'a str,
    temperature: f32,
    top_p: f32,
    seed: u64,
    steps: usize,
}

/// What run.c prints for a story, with this crate.
///
/// It feeds BOS and the prompt, and prints `steps` pieces in all, those of the prompt included, or
/// fewer if BOS comes.
fn tell(story: &Story<'_>, isa: Isa, threads: usize) -> String {
    let mut options = ModelOptions::new().isa(isa).threads(threads);
    if let Some(tokenizer) = &story.tokenizer {
        options = options.tokenizer_path(tokenizer);
    }
    let model = Model::open_with(&story.model, &options).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let prompt = tokenizer.encode(story.prompt);
    let mut text = tokenizer.decode(&prompt);
    let &Story { temperature, top_p, seed, .. } = story;
    let mut sampler = Sampler::new(SamplerOptions::new().temperature(temperature).top_p(top_p).seed(seed));
    let mut session = model.session();
    let generate = session.generate(story.prompt, &mut sampler).unwrap();
    let mut generate = generate.max_tokens(story.steps - prompt.len());
    for piece in &mut generate {
        text += piece.unwrap().as_str();
    }
    let reason = generate.finish_reason();
    let ended = matches!(reason, Some(FinishReason::MaxTokens | FinishReason::EndOfText(_)));
    assert!(ended, "{reason:?}");
    text
}

/// That a story is told as it should be, with 1 and 2 threads. Models this small stay on one thread
/// whatever they are told; tests/session.rs holds that threads change no bit.
#[track_caller]
fn assert_told(story: &Story<'_>) {
    let expected = fs::read_to_string(&story.text).unwrap();
    let expected = expected.strip_suffix('\n').expect("a newline is added to each story");
    assert!(expected.len() > 200 && expected.starts_with(story.prompt), "{}", story.text.display());
    let isas = Isa::available();
    // Without optimisation a story takes seconds: the fastest alone tells it then.
    for &isa in if cfg!(debug_assertions) { &isas[isas.len() - 1..] } else { &isas[..] } {
        for threads in if cfg!(debug_assertions) { &[2][..] } else { &[1, 2] } {
            let name = format!("{} {} {threads} threads", story.text.display(), isa.name());
            assert_eq!(tell(story, isa, *threads), expected, "{name}");
        }
    }
}

#[test]
fn the_bundled_model_tells_llama_cpps_stories() {
    for (text, prompt) in [("bird", "One day, a bird"), ("small_fish", "A small fish")] {
        assert_told(&Story {
            model: in_repository("models/babyllama.gguf"),
            tokenizer: None,
            text: in_repository(&format!("tests/golden/bundled_{text}.txt")),
            prompt,
            temperature: 0.0,
            top_p: 0.9,
            seed: 42,
            steps: 512,
        });
    }
}

#[test]
fn the_int8_form_of_the_bundled_model_tells_runqs_stories() {
    let Some(shared) = common::shared("the int8 form of the bundled model") else { return };
    for (text, temperature, seed) in [("v2.greedy.txt", 0.0, 42), ("v2.t0.8-p0.9-s1.txt", 0.8, 1)] {
        assert_told(&Story {
            model: shared.join("models/512/babyllama.v2.bin"),
            tokenizer: Some(shared.join("models/512/babyllama.tokenizer.bin")),
            text: shared.join("models/512").join(text),
            prompt: "",
            temperature,
            top_p: 0.9,
            seed,
            steps: 256,
        });
    }
}

#[test]
fn the_f32_form_of_the_bundled_model_tells_runs_stories() {
    let Some(shared) = common::shared("the f32 form of the bundled model") else { return };
    let story = |text: &str, prompt, temperature, seed, steps| {
        assert_told(&Story {
            model: shared.join("models/512/babyllama.v0.bin"),
            tokenizer: Some(shared.join("models/512/babyllama.tokenizer.bin")),
            text: shared.join("models/512").join(text),
            prompt,
            temperature,
            top_p: 0.9,
            seed,
            steps,
        });
    };
    story("v0.greedy.txt", "", 0.0, 42, 256);
    story("v0.t0.8-p0.9-s1.txt", "", 0.8, 1, 256);
    story("v0.t1.0-p0.9-s7-n300-LilyFoundALlama.txt", "Lily found a llama", 1.0, 7, 300);
}

#[test]
fn stories_260k_tells_runs_stories() {
    let Some(shared) = common::shared("stories260K") else { return };
    let story = |text: &str, prompt, temperature, top_p, seed, steps| {
        assert_told(&Story {
            model: shared.join("real/stories260K.bin"),
            tokenizer: Some(shared.join("real/tok512.bin")),
            text: shared.join("real").join(text),
            prompt,
            temperature,
            top_p,
            seed,
            steps,
        });
    };
    story("stories260K.greedy.txt", "", 0.0, 0.9, 42, 256);
    story("stories260K.t1.0-p0.9-s133742.txt", "", 1.0, 0.9, 133_742, 256);
    story("stories260K.t0.8-p0-s42-n200-OneDayTom.txt", "One day, Tom", 0.8, 0.0, 42, 200);
}

#[test]
fn another_seed_tells_another_story() {
    // The sampled stories would agree with anything if the sampler took no notice of its options.
    let story = |temperature, seed| Story {
        model: in_repository("models/babyllama.gguf"),
        tokenizer: None,
        text: PathBuf::new(),
        prompt: "Once",
        temperature,
        top_p: 0.9,
        seed,
        steps: 40,
    };
    let tell = |temperature, seed| tell(&story(temperature, seed), Isa::best(), 1);
    let told = [tell(0.0, 1), tell(1.0, 1), tell(1.0, 2), tell(1.0, 3)];
    for (i, text) in told.iter().enumerate() {
        assert!(text.starts_with("Once"), "{text}");
        assert!(told[..i].iter().all(|other| other != text), "{text}");
    }
    assert_eq!(told[0], tell(0.0, 9), "greedy takes no seed");
}
