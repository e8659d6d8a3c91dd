//! A chat service: `POST /chat` takes a conversation and answers with server-sent events, pieces of
//! text and then why it ended.
//!
//! The model has a thread of its own, which writes all texts as one batch: see `batch`. Requests go
//! there over a bounded channel, and each text comes back over a channel of its own, whose receiver
//! is gone when the client is.

mod batch;
#[cfg(test)]
mod tests;

use std::future::{Future, IntoFuture};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{io, thread};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Result};
use axum::serve::ListenerExt;
use axum::{Router, routing::post};
use babyllama::chat::{self, Message, Role, Template};
use babyllama::{Error, ErrorKind, Generation, Model, Sampler, SamplerOptions, TokenId};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use batch::{Batch, Job, Reply, Stats};

/// The most bytes of a request: more than a context holds.
const MAX_BODY: usize = 256 << 10;

/// How long a client may take to read the end of its text when the service ends.
const GRACE: Duration = Duration::from_secs(5);

/// How the service runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// How conversations are laid out for the model.
    pub template: Template,
    /// How tokens are chosen, where a request doesn't say.
    pub sampling: SamplerOptions,
    /// Texts that are written at the same time.
    pub running: usize,
    /// Requests that wait until one of these ends; others are refused.
    pub queued: usize,
    /// Sessions that are kept for conversations that go on.
    pub kept: usize,
    /// The time that a request may take.
    pub deadline: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    messages: Vec<Message>,
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    seed: Option<u64>,
    deadline_ms: Option<u64>,
}

/// What requests need.
type Front = (Model, Arc<Options>, mpsc::WeakSender<Job>);

/// Serves until `shutdown`, when all texts end where they are.
pub async fn serve(
    model: Model,
    options: Options,
    listener: TcpListener,
    stats: watch::Sender<Stats>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let (options, stop) = (Arc::new(options), Arc::new(AtomicBool::new(false)));
    let (queue, jobs) = mpsc::channel(options.queued.max(1));
    let front: Front = (model.clone(), options.clone(), queue.downgrade());
    let batch = Batch { model, options, stop: stop.clone(), stats, running: Vec::new(), kept: Vec::new() };
    let worker = thread::Builder::new().name("model".into()).spawn(move || batch.run(jobs))?;

    let app = Router::new().route("/chat", post(chat));
    let app = app.layer(DefaultBodyLimit::max(MAX_BODY)).with_state(front);
    let (leave, leaving) = oneshot::channel::<()>();
    let listener = listener.tap_io(|tcp| drop(tcp.set_nodelay(true))); // a piece waits for no other
    let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(leaving.await) });
    let server = tokio::spawn(server.into_future());

    shutdown.await;
    stop.store(true, Ordering::Relaxed);
    drop((queue, leave)); // nothing can be asked any more: the thread ends
    let ended = tokio::task::spawn_blocking(move || worker.join()).await?;
    drop(tokio::time::timeout(GRACE, server).await); // what is still open, the runtime's end closes
    ended.map_err(|_| io::Error::other("the model's thread panicked"))
}

async fn chat(State((model, options, queue)): State<Front>, body: Bytes) -> Result<impl IntoResponse> {
    let invalid = |reason: String| (StatusCode::BAD_REQUEST, reason);
    let ask: Ask = serde_json::from_slice(&body).map_err(|error| invalid(error.to_string()))?;
    if ask.messages.last().is_none_or(|message| message.role != Role::User) {
        return Err(invalid("the last message must be the user's".into()).into());
    }
    let (tokens, sampler) = prepared(&ask, &model, &options).map_err(|error| refusal(&error))?;
    let time = ask.deadline_ms.map_or(options.deadline, Duration::from_millis).min(options.deadline);
    let (reply, mut replies) = mpsc::unbounded_channel(); // the context bounds a text
    let job = Job {
        tokens,
        max_tokens: ask.max_tokens.unwrap_or(usize::MAX),
        sampler,
        deadline: Instant::now() + time,
        reply,
    };
    let busy = |reason| (StatusCode::SERVICE_UNAVAILABLE, reason);
    let queue = queue.upgrade().ok_or(busy("the service is ending"))?;
    queue.try_send(job).map_err(|_| busy("too many requests are waiting"))?;
    let event = |reply: Reply| serde_json::to_string(&reply).map(|json| Event::default().data(json));
    let events = futures_util::stream::poll_fn(move |cx| replies.poll_recv(cx).map(|reply| reply.map(event)));
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

/// The prompt, which the library checks here without reading it, and the sampler.
fn prepared(ask: &Ask, model: &Model, options: &Options) -> babyllama::Result<(Vec<TokenId>, Sampler)> {
    let mut sampling = options.sampling.clone();
    sampling.temperature = ask.temperature.unwrap_or(sampling.temperature);
    sampling.seed = ask.seed.unwrap_or_else(|| RandomState::new().hash_one(())); // a random number
    sampling.validate()?;
    let tokenizer = model.tokenizer().ok_or(ErrorKind::NoTokenizer)?;
    let tokens = chat::encode(&options.template.render(&ask.messages), tokenizer)?;
    Generation::new(&model.session(), &tokens)?;
    Ok((tokens, Sampler::new(sampling)))
}

/// The library's message, with the status that fits it.
fn refusal(error: &Error) -> (StatusCode, String) {
    let status = match error.kind() {
        ErrorKind::ContextFull { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::InvalidOption { .. } => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, error.to_string())
}
