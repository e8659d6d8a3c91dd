//! Classes by a fork of what was read are those of texts that are read whole.

use std::time::Instant;

use babyllama::{Model, TokenId};

use super::Classifier;

const LABELS: [&str; 3] = [" happy", " sad", " scared"];

const EVENTS: [(&str, usize); 20] = [
    ("got a new toy", 0),
    ("lost the ball", 1),
    ("heard a loud noise in the dark", 2),
    ("ate a big cake", 0),
    ("fell and hurt a knee", 1),
    ("saw a big bad wolf", 2),
    ("played with a friend", 0),
    ("broke the red cup", 1),
    ("met a monster", 2),
    ("won the game", 0),
    ("could not find mom", 1),
    ("saw a snake", 2),
    ("found a pretty flower", 0),
    ("had no friend to play with", 1),
    ("was alone in the dark forest", 2),
    ("got a hug from mom", 0),
    ("said goodbye to the dog", 1),
    ("heard the lion roar", 2),
    ("went to the park to play", 0),
    ("had to go home", 1),
];
const NAMES: [&str; 11] = ["Lily", "Tom", "Ben", "Mia", "Max", "Sue", "Anna", "Tim", "Sam", "Jack", "Lucy"];

/// The form of the texts, up to their labels.
fn text(name: &str, event: &str) -> String {
    format!("\n{name} {event}. {name} was very")
}

/// Each event as an example, of the first name.
fn examples() -> String {
    EVENTS.map(|(event, label)| text(NAMES[0], event) + LABELS[label] + ".").concat()
}

/// 200 texts and their labels, of the other names.
fn texts() -> (Vec<String>, Vec<usize>) {
    let all = NAMES[1..].iter().flat_map(|name| EVENTS.map(|(event, label)| (text(name, event), label)));
    all.unzip()
}

/// The same by reading each text whole, with all examples; and the tokens that were read.
fn logprobs_of_whole_texts(model: &Model, texts: &[String]) -> (Vec<Vec<f64>>, usize) {
    let tokenizer = model.tokenizer().unwrap();
    let examples = tokenizer.encode_prompt(&examples());
    let labels = LABELS.map(|label| tokenizer.encode_continuation(label));
    let mut n_read = 0;
    let of_text = |text: &String| {
        let mut session = model.session();
        session.forward(&[&examples[..], &tokenizer.encode_continuation(text)].concat()).unwrap();
        n_read += session.position();
        let of_label = |label: &Vec<TokenId>| {
            let scores = session.fork().unwrap().score(label).unwrap();
            n_read += label.len();
            scores.iter().map(|score| score.logprob).sum()
        };
        labels.iter().map(of_label).collect()
    };
    (texts.iter().map(of_text).collect(), n_read)
}

fn likeliest(logprobs: &[f64]) -> usize {
    (0..logprobs.len()).max_by(|&a, &b| logprobs[a].total_cmp(&logprobs[b])).unwrap()
}

#[test]
fn classes_have_the_scores_of_texts_that_are_read_whole() {
    let model = Model::bundled().unwrap();
    let (mut texts, mut labels) = texts();
    if cfg!(debug_assertions) {
        texts.truncate(20);
        labels.truncate(20);
    }
    let mut classifier = Classifier::new(&model, &examples(), &LABELS).unwrap();
    let found = classifier.logprobs(&texts).unwrap();
    let (expected, n_read) = logprobs_of_whole_texts(&model, &texts);
    let bits = |all: &[Vec<f64>]| all.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&found), bits(&expected));
    assert!(classifier.n_read * 5 <= n_read, "{} and {n_read} tokens", classifier.n_read);
    // Far more than by chance.
    let n_right =
        found.iter().zip(&labels).filter(|(logprobs, label)| likeliest(logprobs) == **label).count();
    eprintln!("{n_right} of {} are right; {} and {n_read} tokens", texts.len(), classifier.n_read);
    assert!(n_right * 2 > texts.len(), "{n_right} of {} are right", texts.len());
}

/// `cargo test --all-features --test programs -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn forks_classify_faster_than_whole_texts() {
    let model = Model::bundled().unwrap();
    let (texts, _) = texts();
    let mut ratios: Vec<f64> = (0..7)
        .map(|_| {
            let start = Instant::now();
            Classifier::new(&model, &examples(), &LABELS).unwrap().logprobs(&texts).unwrap();
            let forked = start.elapsed();
            let start = Instant::now();
            logprobs_of_whole_texts(&model, &texts);
            let whole = start.elapsed();
            println!("{forked:?}, whole {whole:?}");
            whole.as_secs_f64() / forked.as_secs_f64()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    println!(
        "{} texts {:.1} times as fast (median of {})",
        texts.len(),
        ratios[ratios.len() / 2],
        ratios.len()
    );
}
