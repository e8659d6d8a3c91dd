//! Classification: which of some labels is the likeliest to follow a text, after examples that all
//! texts have before them?
//!
//! The examples are read once. Forks, which share what was read, read the texts in two passes for
//! some of them at a time: in the second, each last token has a label after it as a guess.

#[cfg(test)]
mod tests;

use std::slice;

use babyllama::{ErrorKind, Model, Result, Session, TokenId};

/// Texts that are read together.
const BATCH: usize = 16;

/// A classifier by examples.
#[derive(Debug)]
pub struct Classifier {
    /// It has read the examples.
    examples: Session,
    labels: Vec<Vec<TokenId>>,
    /// Tokens that were read.
    pub n_read: usize,
}

impl Classifier {
    /// Examples are texts, each with its label, in the form that the texts to come have.
    pub fn new(model: &Model, examples: &str, labels: &[&str]) -> Result<Self> {
        let tokenizer = model.tokenizer().ok_or(ErrorKind::NoTokenizer)?;
        let mut session = model.session();
        session.forward(&tokenizer.encode_prompt(examples))?;
        let labels = labels.iter().map(|label| tokenizer.encode_continuation(label)).collect();
        Ok(Self { labels, n_read: session.position(), examples: session })
    }

    /// The log-probability of each label after each text.
    pub fn logprobs(&mut self, texts: &[String]) -> Result<Vec<Vec<f64>>> {
        let mut all = Vec::with_capacity(texts.len());
        for texts in texts.chunks(BATCH) {
            all.extend(self.of_batch(texts)?);
        }
        Ok(all)
    }

    fn of_batch(&mut self, texts: &[String]) -> Result<Vec<Vec<f64>>> {
        let (model, labels) = (self.examples.model(), &self.labels);
        let tokenizer = model.tokenizer().ok_or(ErrorKind::NoTokenizer)?;
        let mut texts: Vec<_> = texts.iter().map(|text| tokenizer.encode_continuation(text)).collect();
        let lasts = texts.iter_mut().map(|text| Ok(text.pop().ok_or(ErrorKind::EmptyInput)?));
        let lasts = lasts.collect::<Result<Vec<_>>>()?;

        let mut forks = texts.iter().map(|_| self.examples.fork()).collect::<Result<Vec<_>>>()?;
        model.forward_together(forks.iter_mut().zip(&texts).map(|(fork, text)| fork.feed(text)))?;

        // A fork for each label of each text.
        let mut asked = Vec::with_capacity(texts.len() * labels.len());
        for (fork, last) in forks.iter().zip(&lasts) {
            for label in labels {
                asked.push((fork.fork()?, slice::from_ref(last), label));
            }
        }
        let feeds = asked.iter_mut().map(|(fork, last, label)| fork.feed(last).guessing(label));
        model.forward_together(feeds)?;
        let n_asked: usize = asked.iter().map(|(_, _, label)| 1 + label.len()).sum();
        self.n_read += texts.iter().map(Vec::len).sum::<usize>() + n_asked;

        // Each label was read as a guess, so that its score takes no pass.
        let mut logprobs: Vec<f64> = Vec::with_capacity(asked.len());
        for (fork, _, label) in &mut asked {
            logprobs.push(fork.score(label)?.iter().map(|score| score.logprob).sum());
        }
        Ok(logprobs.chunks(labels.len().max(1)).map(<[_]>::to_vec).collect())
    }
}
