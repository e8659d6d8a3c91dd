//! The service over a socket. HTTP by hand is version 1.0: a connection ends with its answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use babyllama::chat::{self, Message, Template};
use babyllama::{FinishReason, Model, ModelOptions, Sampler, SamplerOptions};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::batch::Stats;
use super::{Options, serve};

/// After this time something hangs.
const PATIENCE: Duration = Duration::from_secs(120);

fn options(sampling: SamplerOptions) -> Options {
    let template = Template::Llama2;
    Options { template, sampling, running: 6, queued: 16, kept: 32, deadline: 10 * PATIENCE }
}

/// A model and a sampler that never come to an end.
fn endless() -> (Model, SamplerOptions) {
    let model = Model::bundled_with(&ModelOptions::new().max_seq_len(1 << 20)).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let ends = (0..tokenizer.vocab_size() as u32).filter(|&token| tokenizer.is_end(token));
    let banned = ends.map(|token| (token, f32::NEG_INFINITY)).collect();
    (model, SamplerOptions::new().logit_bias(banned))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

struct Server {
    address: SocketAddr,
    stats: watch::Receiver<Stats>,
    stop: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Server {
    fn start(model: &Model, options: &Options) -> Self {
        let (runtime, model, options) = (runtime(), model.clone(), options.clone());
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (told, stats) = watch::channel(Stats::default());
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        thread::spawn(move || {
            let shutdown = async { drop(stopped.await) };
            runtime.block_on(serve(model, options, listener, told, shutdown)).unwrap();
            end.send(()).unwrap();
        });
        Self { address, stats, stop, ended }
    }

    fn post(&self, body: &str) -> Client {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("POST /chat HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        while !line.trim().is_empty() {
            line.clear();
            lines.read_line(&mut line).unwrap();
        }
        Client { status, lines, patience: Instant::now() + PATIENCE }
    }

    #[track_caller]
    fn refuses(&self, body: &str, status: u16, reason: &str) {
        let mut client = self.post(body);
        let mut text = String::new();
        client.lines.read_to_string(&mut text).unwrap();
        assert!(client.status == status && text.contains(reason), "{}: {text}", client.status);
    }

    /// The first figures for which something holds.
    fn wait(&self, holds: impl FnMut(&Stats) -> bool) -> Stats {
        let mut stats = self.stats.clone();
        let found = async { *timeout(PATIENCE, stats.wait_for(holds)).await.unwrap().unwrap() };
        runtime().block_on(found)
    }

    fn stop(self) {
        self.stop.send(()).unwrap();
        runtime().block_on(async { timeout(PATIENCE, self.ended).await }).unwrap().unwrap();
    }
}

struct Client {
    status: u16,
    lines: BufReader<TcpStream>,
    /// While it waits, comments keep the connection alive.
    patience: Instant,
}

impl Client {
    /// The next event, if there is one.
    fn event(&mut self) -> Option<Value> {
        let mut line = String::new();
        while self.lines.read_line(&mut line).unwrap() > 0 {
            if let Some(json) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(json).unwrap());
            }
            assert!(Instant::now() < self.patience, "nothing comes");
            line.clear();
        }
        None
    }

    /// The whole text, and what the last event says.
    #[track_caller]
    fn finish(mut self) -> (String, Value) {
        let mut text = String::new();
        loop {
            let event = self.event().expect("an end");
            match event["piece"].as_str() {
                Some(piece) => text += piece,
                None => {
                    assert_eq!(self.event(), None, "nothing comes after the end");
                    return (text, event["end"].clone());
                }
            }
        }
    }
}

/// A conversation, and how it is asked to go on.
struct Asked {
    messages: Vec<Message>,
    max_tokens: usize,
    temperature: f32,
    seed: u64,
}

impl Asked {
    fn body(&self) -> String {
        let Self { messages, max_tokens, temperature, seed } = self;
        json!({"messages": messages, "max_tokens": max_tokens, "temperature": temperature, "seed": seed})
            .to_string()
    }

    /// What a session of its own says.
    fn alone(&self, model: &Model, options: &Options) -> (String, &'static str) {
        let tokenizer = model.tokenizer().unwrap();
        let prompt = chat::encode(&options.template.render(&self.messages), tokenizer).unwrap();
        let sampling = options.sampling.clone().temperature(self.temperature).seed(self.seed);
        let (mut session, mut sampler) = (model.session(), Sampler::new(sampling));
        let mut generate = session.generate(&prompt, &mut sampler).unwrap().max_tokens(self.max_tokens);
        for stop in options.template.stops(tokenizer) {
            generate = generate.stop(stop);
        }
        let text: String = generate.by_ref().map(|piece| piece.unwrap()).collect();
        match generate.finish_reason().unwrap() {
            FinishReason::EndOfText(_) | FinishReason::StopString(_) => (text, "stop"),
            _ => (text + generate.held(), "length"),
        }
    }
}

/// Conversations of different kinds.
fn asked(i: usize) -> Asked {
    let questions = ["Who is Lily?", "Tell me a story about a cat and a dog.", "Why?", "What did Tom say?"];
    let mut messages = vec![Message::user(questions[i % 4])];
    if i.is_multiple_of(3) {
        messages.insert(0, Message::system("Once upon a time there was a bird. ".repeat(1 + i)));
    }
    if i.is_multiple_of(5) {
        messages.extend([Message::assistant("A girl."), Message::user("And then?")]);
    }
    Asked { messages, max_tokens: 30 + 9 * i, temperature: [0.0, 0.8, 1.5][i % 3], seed: i as u64 }
}

#[test]
fn clients_get_the_text_of_a_lone_session_while_half_of_all_hang_up() {
    let (model, sampling) = endless();
    let options = options(sampling.repetition_penalty(1.1));
    let server = Server::start(&model, &options);
    thread::scope(|scope| {
        for i in 0..16 {
            let (server, model, options) = (&server, &model, &options);
            scope.spawn(move || {
                let mut asked = asked(i);
                if i % 2 == 1 {
                    asked.max_tokens = usize::MAX;
                    let mut client = server.post(&asked.body());
                    (0..3).for_each(|_| assert!(client.event().unwrap()["piece"].is_string()));
                    return; // it hangs up
                }
                let (text, end) = server.post(&asked.body()).finish();
                assert_eq!((text, "length"), asked.alone(model, options), "of client {i}");
                assert_eq!(
                    (&end["finish_reason"], &end["generated_tokens"]),
                    (&json!("length"), &json!(asked.max_tokens))
                );
            });
        }
    });
    // The other eight would go on for ever.
    let before = server.wait(|stats| stats.running == 0 && stats.ended == 16);
    assert_eq!(before.cancelled, 8);

    // What was asked before is read already, except for the last token.
    let mut again = asked(6);
    let (text, end) = server.post(&again.body()).finish();
    assert_eq!(text, again.alone(&model, &options).0);
    let n = |value: &Value| value.as_u64().unwrap() as usize;
    let n_prompt = n(&end["prompt_tokens"]);
    assert_eq!(n(&end["reused_tokens"]), n_prompt - 1);
    let after = server.wait(|stats| stats.ended == 17);
    // The last token that was written isn't read.
    assert_eq!(after.read_tokens - before.read_tokens, 1 + again.max_tokens - 1);

    // A conversation that goes on reads no turn again.
    again.messages.extend([Message::assistant(text), Message::user("And Tom?")]);
    let (text, end) = server.post(&again.body()).finish();
    assert_eq!(text, again.alone(&model, &options).0);
    assert!(n(&end["reused_tokens"]) >= n_prompt, "{end}");
    server.stop();
}

#[test]
fn texts_end_by_themselves() {
    let model = Model::bundled().unwrap();
    for template in [Template::ChatMl, Template::Alpaca] {
        let options = Options { template, ..options(SamplerOptions::new()) };
        let server = Server::start(&model, &options);
        let clients: Vec<_> = (1..5).map(|i| Asked { max_tokens: 400, ..asked(i) }).collect();
        let answers: Vec<_> = clients.iter().map(|asked| server.post(&asked.body())).collect();
        for (asked, client) in clients.iter().zip(answers) {
            let (text, end) = client.finish();
            let (expected, reason) = asked.alone(&model, &options);
            assert_eq!((text, &end["finish_reason"]), (expected, &json!(reason)));
        }
        server.stop();
    }
}

#[test]
fn what_cannot_be_served_is_refused_with_a_reason() {
    let server = Server::start(&Model::bundled().unwrap(), &options(SamplerOptions::new()));
    let ask = |text: &str, temperature: f32| {
        json!({"messages": [Message::user(text)], "temperature": temperature}).to_string()
    };
    server.refuses("{", 400, "EOF while parsing");
    server.refuses(r#"{"messages": [], "max_token": 3}"#, 400, "unknown field `max_token`");
    server.refuses(r#"{"messages": [{"role": "cat", "content": ""}]}"#, 400, "must be one of system, user");
    server.refuses(r#"{"messages": []}"#, 400, "the last message must be the user's");
    server.refuses(&ask("Why?", -1.0), 400, "option temperature = -1: must be a finite number, 0 or more");
    server.refuses(
        &ask(&"a story ".repeat(500), 1.0),
        413,
        "the context holds 512 tokens, and this would make",
    );
    server.refuses(&ask(&"a story ".repeat(50_000), 1.0), 413, "length limit");
    assert_eq!(server.wait(|_| true).ended, 0);
    server.stop();
}

#[test]
fn a_deadline_ends_a_text() {
    let (model, sampling) = endless();
    let server = Server::start(&model, &options(sampling));
    let ask = |deadline| json!({"messages": [Message::user("Why?")], "deadline_ms": deadline}).to_string();
    let (text, end) = server.post(&ask(0)).finish();
    assert_eq!((&*text, &end["finish_reason"]), ("", &json!("deadline")));
    let (_, end) = server.post(&ask(50)).finish();
    assert_eq!(end["finish_reason"], json!("deadline"));
    server.stop();
}

#[test]
fn requests_wait_in_a_queue_and_are_refused_when_it_is_full() {
    let (model, sampling) = endless();
    let server = Server::start(&model, &Options { running: 1, queued: 1, ..options(sampling) });
    let ask = json!({"messages": [Message::user("Why?")]}).to_string();
    let mut first = server.post(&ask);
    assert!(first.event().unwrap()["piece"].is_string());
    let mut second = server.post(&ask);
    assert_eq!(second.status, 200);
    server.refuses(&ask, 503, "too many requests are waiting");
    drop(first);
    assert!(second.event().unwrap()["piece"].is_string());

    // One more waits while the service ends.
    let third = server.post(&ask);
    let reader = thread::spawn(|| [second, third].map(|client| client.finish().1["finish_reason"].clone()));
    server.stop();
    assert_eq!(reader.join().unwrap(), [json!("shutdown"), json!("shutdown")]);
}
