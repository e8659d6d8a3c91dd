//! Texts that are written together: a pass reads the model's weights once for all of them. Each
//! becomes what it would have become alone.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use babyllama::{Error, ErrorKind, FinishReason, Generation, Model, Result, Sampler, Session, TokenId};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::Options;

/// Tokens of prompts that a pass reads, so that a long one holds up no text.
const MAX_READ: usize = 128;

/// A request.
pub struct Job {
    pub tokens: Vec<TokenId>,
    pub max_tokens: usize,
    pub sampler: Sampler,
    pub deadline: Instant,
    pub reply: mpsc::UnboundedSender<Reply>, // no text is longer than the context
}

/// A part of the answer; as JSON, such as `{"piece":" a cat"}`.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Piece(String),
    End { finish_reason: &'static str, prompt_tokens: usize, reused_tokens: usize, generated_tokens: usize },
    Error(String),
}

/// What was done, as of the last pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub running: usize,
    pub ended: usize,
    /// Of those that ended, those that nobody waited for any more.
    pub cancelled: usize,
    /// Tokens that they read, of prompts and of their own.
    pub read_tokens: usize,
}

pub struct Batch {
    pub model: Model,
    pub options: Arc<Options>,
    pub stop: Arc<AtomicBool>,
    pub stats: watch::Sender<Stats>,
    pub running: Vec<Running>,
    /// Sessions of texts that ended, the oldest first.
    pub kept: Vec<Session>,
}

/// A text that is being written.
pub struct Running {
    job: Job,
    session: Session,
    generation: Generation,
    reused: usize,
}

impl Batch {
    /// Runs until there is nobody left who could ask.
    pub fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        loop {
            while self.running.len() < self.options.running {
                let is_idle = self.running.is_empty();
                let job = if is_idle { queue.blocking_recv() } else { queue.try_recv().ok() };
                let Some(job) = job else { break };
                let reply = job.reply.clone();
                match self.begin(job) {
                    Ok(text) => self.running.push(text),
                    Err(error) => drop(reply.send(Reply::Error(error.to_string()))),
                }
            }
            if self.running.is_empty() {
                return;
            }
            self.step();
        }
    }

    /// With the session that has read most of the prompt.
    fn begin(&mut self, mut job: Job) -> Result<Running> {
        let shared = |session: &Session| {
            session.tokens().iter().zip(&job.tokens).take_while(|(read, token)| read == token).count()
        };
        let mut session = match self.kept.iter().map(shared).enumerate().max_by_key(|&(_, n)| n) {
            // The conversation goes on.
            Some((i, n)) if n == self.kept[i].position() => self.kept.remove(i),
            // It takes another way from some point, and may go on from its end later.
            Some((i, 1..)) => self.kept[i].fork()?,
            _ => self.model.session(),
        };
        session.cancel_on(self.stop.clone());
        let reused = session.keep_prefix(&job.tokens);
        job.tokens[..reused].iter().for_each(|&token| job.sampler.accept(token)); // for penalties
        let mut generation = Generation::new(&session, &job.tokens[reused..])?.max_tokens(job.max_tokens);
        let tokenizer = self.model.tokenizer().ok_or(ErrorKind::NoTokenizer)?;
        for stop in self.options.template.stops(tokenizer) {
            generation = generation.stop(stop);
        }
        Ok(Running { job, session, generation, reused })
    }

    /// One pass: each text gets a token, or reads a part of its prompt.
    fn step(&mut self) {
        let n_reading = self.running.iter().filter(|text| text.is_reading()).count();
        let at_most = MAX_READ.div_ceil(n_reading.max(1));
        let feeds = self.running.iter_mut().map(|text| text.generation.feed(&mut text.session, at_most));
        let outcome = self.model.forward_together(feeds);
        let mut stats = *self.stats.borrow();
        for mut text in mem::take(&mut self.running) {
            let Some(end) = text.next(outcome.as_ref().err()) else {
                self.running.push(text);
                continue;
            };
            stats.ended += 1;
            stats.cancelled += usize::from(text.job.reply.send(end).is_err());
            stats.read_tokens += text.session.position() - text.reused;
            self.kept.push(text.session);
        }
        self.kept.drain(..self.kept.len().saturating_sub(self.options.kept));
        stats.running = self.running.len();
        self.stats.send_replace(stats);
    }
}

impl Running {
    fn is_reading(&self) -> bool {
        self.session.position() < self.job.tokens.len()
    }

    /// Sends what was written in a pass, or returns how the text ends.
    fn next(&mut self, error: Option<&Error>) -> Option<Reply> {
        match error.map(Error::kind) {
            Some(ErrorKind::Cancelled) => return Some(self.end("shutdown")),
            Some(kind) => return Some(Reply::Error(kind.to_string())),
            None if self.job.reply.is_closed() => return Some(self.end("cancelled")),
            None if self.job.deadline <= Instant::now() => return Some(self.end("deadline")),
            None => {}
        }
        match self.generation.next(&mut self.session, &mut self.job.sampler) {
            Ok(Some(piece)) => {
                send(&self.job.reply, piece.as_str());
                None
            }
            Ok(None) => match self.generation.finish_reason() {
                Some(FinishReason::EndOfText(_) | FinishReason::StopString(_)) => Some(self.end("stop")),
                _ => Some(self.end("length")),
            },
            Err(error) => Some(Reply::Error(error.to_string())),
        }
    }

    fn end(&mut self, finish_reason: &'static str) -> Reply {
        // Text that might have begun a stop string was held back. It didn't.
        if finish_reason != "stop"
            && let Ok(rest) = self.session.generate("", &mut self.job.sampler)
        {
            send(&self.job.reply, rest.held());
        }
        let (prompt_tokens, reused_tokens) = (self.job.tokens.len(), self.reused);
        let generated_tokens = self.generation.n_generated();
        Reply::End { finish_reason, prompt_tokens, reused_tokens, generated_tokens }
    }
}

fn send(reply: &mpsc::UnboundedSender<Reply>, text: &str) {
    if !text.is_empty() {
        drop(reply.send(Reply::Piece(text.into()))); // the next step sees whether anybody is there
    }
}
