//! Whole stories: the texts that llama2.c's `run` and `runq` print, byte for byte, for the same options and seed.
//!
//! The story of the bundled model lies in the repository. The others need real model files: set `BABYLLAMA_SHARED` to
//! their folder. A test whose files are absent says so and passes.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use babyllama::{FinishReason, Isa, Model, ModelOptions, Sampler, SamplerOptions};

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What run.c is told on its command line.
struct Story<'a> {
    model: PathBuf,
    tokenizer: PathBuf,
    /// What run.c printed, and a newline.
    text: PathBuf,
    prompt: &'a str,
    temperature: f32,
    top_p: f32,
    seed: u64,
    steps: usize,
}

/// What run.c prints for a story, with this crate.
///
/// It feeds BOS and the prompt, and prints `steps` pieces in all, those of the prompt included, or fewer if BOS comes.
fn tell(story: &Story<'_>, isa: Isa, threads: usize) -> String {
    let options = ModelOptions::new().isa(isa).threads(threads).tokenizer_path(&story.tokenizer);
    let model = Model::open_with(&story.model, &options).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let prompt = tokenizer.encode(story.prompt);
    let mut text = tokenizer.decode(&prompt);
    let &Story { temperature, top_p, seed, .. } = story;
    let mut sampler = Sampler::new(SamplerOptions { temperature, top_p, seed, ..Default::default() });
    let mut session = model.session();
    let generate = session.generate(story.prompt, &mut sampler).unwrap();
    let mut generate = generate.max_tokens(story.steps - prompt.len());
    for piece in &mut generate {
        text += &piece.unwrap();
    }
    let reason = generate.finish_reason();
    let ended = matches!(reason, Some(FinishReason::MaxTokens | FinishReason::EndOfText(_)));
    assert!(ended, "{reason:?}");
    text
}

/// That a story is told as run.c tells it, with 1 and 2 threads. Models this small stay on one thread whatever they are told;
/// tests/session.rs holds that threads change no bit.
#[track_caller]
fn assert_told(story: &Story<'_>) {
    let expected = fs::read_to_string(&story.text).unwrap();
    let expected = expected.strip_suffix('\n').expect("a newline is added to what run.c prints");
    assert!(expected.len() > 300 && expected.starts_with(story.prompt), "{}", story.text.display());
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
fn the_bundled_model_tells_runqs_greedy_story() {
    assert_told(&Story {
        model: in_repository("models/babyllama.bin"),
        tokenizer: in_repository("models/babyllama.tokenizer.bin"),
        text: in_repository("tests/golden/bundled_v2_greedy.txt"),
        prompt: "",
        temperature: 0.0,
        top_p: 0.9,
        seed: 42,
        steps: 256,
    });
}

#[test]
fn the_bundled_files_are_the_shared_ones() {
    let Some(shared) = common::shared("the comparison of bundled files") else { return };
    for (ours, theirs) in [
        ("models/babyllama.bin", "models/babyllama.v2.bin"),
        ("models/babyllama.tokenizer.bin", "models/babyllama.tokenizer.bin"),
        ("tests/golden/bundled_v2_greedy.txt", "models/v2.greedy.txt"),
    ] {
        let same = fs::read(in_repository(ours)).unwrap() == fs::read(shared.join(theirs)).unwrap();
        assert!(same, "{ours}");
    }
}

#[test]
fn the_bundled_model_tells_runqs_sampled_story() {
    let Some(shared) = common::shared("the bundled model's sampled story") else { return };
    assert_told(&Story {
        model: in_repository("models/babyllama.bin"),
        tokenizer: in_repository("models/babyllama.tokenizer.bin"),
        text: shared.join("models/v2.t0.8-p0.9-s1.txt"),
        prompt: "",
        temperature: 0.8,
        top_p: 0.9,
        seed: 1,
        steps: 256,
    });
}

#[test]
fn the_f32_form_of_the_bundled_model_tells_runs_stories() {
    let Some(shared) = common::shared("the f32 form of the bundled model") else { return };
    let story = |text: &str, prompt, temperature, seed, steps| {
        assert_told(&Story {
            model: shared.join("models/babyllama.v0.bin"),
            tokenizer: shared.join("models/babyllama.tokenizer.bin"),
            text: shared.join("models").join(text),
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
            tokenizer: shared.join("real/tok512.bin"),
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
        model: in_repository("models/babyllama.bin"),
        tokenizer: in_repository("models/babyllama.tokenizer.bin"),
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
