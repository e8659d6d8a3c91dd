//! `babyllama chat`: a conversation.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use babyllama::chat::{ChatTemplate, Message, Role};
use babyllama::convert::OutputFile;
use babyllama::{Answer, Chat, ContextPolicy, ErrorKind, FinishReason, Model, Sampler, Session};
use serde_json::{Value, json};

use crate::args::chat_defaults;
use crate::commands::ChatArgs;
use crate::draft::CountedDraft;
use crate::error::CliError;
use crate::generator::Statistics;
use crate::input::Input;
use crate::interrupt::{self, Watch, is_terminated};
use crate::models;
use crate::output::{aside, count, holds_something, note, print, tell};
use crate::session_file::{MAX_MESSAGES, SessionFile};
use crate::template::{self, Shown};

const HELP: &str = "\
/help          list the commands
/reset         start over, with the same system prompt
/system TEXT   set the system prompt; without TEXT, the one in the model file
/set NAME VALUE set a variable of the model file's template, such as enable_thinking false or date_string;
               without VALUE remove it, and without NAME list those that are set
/save FILE     write the conversation to a new file, one JSON object per line; /save! FILE replaces a file
/load FILE     continue a saved conversation
/quit          leave, as Ctrl-D does
A line that ends with \\ continues on the next one; \"\"\" encloses a message of several lines.";

pub(crate) fn run(args: &ChatArgs) -> Result<(), CliError> {
    args.sampling.options(chat_defaults())?; // before a model is opened
    let tokenizer_file = args.tokenizer.path.as_deref();
    let model = models::open(&args.model, &args.engine.model_options(tokenizer_file))?;
    models::notes(&model);
    let sampling = args.sampling.options(model.sampling_defaults().apply(chat_defaults()))?;
    let sampler = args.sampling.sampler(sampling, models::tokenizer(&model, &args.model)?);
    let draft = args.draft.draft(&model, &args.engine.draft_options(tokenizer_file))?;
    let (file, session, messages) = restore(args, &model)?;
    let mut input = Input::new();
    let is_typed = input.is_typed();
    let template = template::choose(args, &model)?;
    let max_tokens = if args.max_tokens == 0 { usize::MAX } else { args.max_tokens };
    let policy = args.context_policy.policy(max_tokens, session.capacity());
    let mut chat = Chat::new(session, template)?.context_policy(policy);
    let default_system = default_system(chat.template(), &model);
    let is_new = messages.is_empty();
    let file_name = args.session.as_deref().unwrap_or(Path::new("")).display();
    let n_messages = count(messages.len(), "message");
    chat.set_messages(messages).map_err(|e| CliError::of(&file_name, e))?;
    if let Some(system) = args.system.as_deref().or(default_system.as_deref().filter(|_| is_new)) {
        chat.set_system(Some(system));
    }
    for stop in &args.sampling.stop {
        chat = chat.stop(stop);
    }
    if is_typed {
        let what = args.model.display();
        note(&format!(
            "{what}, template {}: Ctrl-C stops a reply, Ctrl-D leaves, /help lists the commands.",
            chat.template()
        ));
        if !is_new {
            note(&format!("{file_name}: the conversation goes on after {n_messages}."));
        }
    }

    let statistics = Statistics::of(draft.as_ref().map(|draft| draft.guesses.clone()));
    let draft = draft.map(|draft| Arc::new(Mutex::new(draft)));
    let (dropped, model_file) = (Vec::new(), args.model.clone());
    let mut conversation = Conversation {
        chat,
        policy,
        dropped,
        default_system,
        sampler,
        draft,
        max_tokens,
        statistics,
        is_typed,
        model_file,
    };
    let result = conversation.talk(&mut input);
    if result.is_ok() && conversation.statistics.has_any() {
        note(&conversation.statistics.line(&conversation.sampler));
    }
    let saved = file.map_or(Ok(()), |file| conversation.save_session(file));
    if let (Err(CliError::Error(reason)), Err(_)) = (&result, &saved) {
        tell(&format!("error: {reason}"));
    }
    saved.and(result)
}

/// What --session names, and what it holds.
fn restore(args: &ChatArgs, model: &Model) -> Result<(Option<SessionFile>, Session, Vec<Message>), CliError> {
    let (path, options) = (args.session.as_deref(), args.engine.session_options());
    let sources = [Some(&*args.model), args.tokenizer.path.as_deref(), args.draft.draft.as_deref()];
    let sources: Vec<&Path> = sources.into_iter().flatten().collect();
    let (file, session, text) = SessionFile::open(path, model, options, &sources)?;
    let name = path.unwrap_or(Path::new("")).display().to_string();
    let messages = parse(&text, &name)?;
    if messages.is_empty() && session.position() > 0 {
        return Err(CliError::of(
            name,
            "it holds no conversation, but a text that `run --session` continues",
        ));
    }
    Ok((file, session, messages))
}

/// The system prompt that a layout leaves to the model file, if it has one.
fn default_system(template: &ChatTemplate, model: &Model) -> Option<String> {
    match (template, model.chat_template()) {
        (ChatTemplate::Layout(layout), Some(jinja)) => layout.default_system(jinja),
        _ => None, // the file's own template says it
    }
}

/// Whether input that begins with / is a command: pasted text of several lines isn't, except a
/// system prompt.
fn may_be_command(text: &str) -> bool {
    !text.contains('\n') || text.starts_with("system ")
}

/// A conversation and its settings.
struct Conversation {
    chat: Chat,
    policy: ContextPolicy,
    /// The messages before those of `chat`, which no longer fit the context.
    dropped: Vec<Message>,
    /// The file's own system prompt.
    default_system: Option<String>,
    sampler: Sampler,
    /// What guesses the tokens of replies.
    draft: Option<Arc<Mutex<CountedDraft>>>,
    max_tokens: usize,
    statistics: Statistics,
    is_typed: bool,
    model_file: PathBuf,
}

impl Conversation {
    /// Replies to messages until there are no more.
    fn talk(&mut self, input: &mut Input) -> Result<(), CliError> {
        while let Some(message) = input.next()? {
            if message.trim().is_empty() {
                continue;
            }
            // Only at a terminal: the lines of a script may begin with anything.
            let command =
                message.strip_prefix('/').filter(|command| self.is_typed && may_be_command(command));
            let result = match command.map(str::trim) {
                Some("quit") => break,
                Some(command) => self.command(command),
                None => self.turn(&message),
            };
            if is_terminated() {
                return Err(CliError::Interrupted);
            }
            match result {
                // At a terminal one can try a shorter message; a script can't.
                Err(CliError::Error(reason)) if self.is_typed => tell(&format!("error: {reason}")),
                result => result?,
            }
        }
        Ok(())
    }

    /// Writes all that it takes to continue.
    fn save_session(&mut self, file: SessionFile) -> Result<(), CliError> {
        if self.chat.messages().is_empty() {
            self.chat.reset(); // without messages, what the session has read is of no use
        }
        file.save(self.chat.session(), &lines(self.chat.messages()))
    }

    /// Prints the reply to a message. After an error the message is not part of the conversation.
    fn turn(&mut self, message: &str) -> Result<(), CliError> {
        let (position, capacity) = (self.chat.session().position(), self.chat.session().capacity());
        let longer = models::LONGER;
        let mut shown = Shown::new(self.chat.template());
        let answer = self.chat.ask(message.trim(), &mut self.sampler);
        let answer = answer.map_err(|error| match (error.kind(), self.policy) {
            (ErrorKind::ContextFull { requested, .. }, ContextPolicy::Refuse) => CliError::Error(format!(
                "the context is full: it holds {capacity} tokens, {position} are used, and this message takes \
                 it to {requested}; {longer}, and /reset starts over"
            )),
            (ErrorKind::ContextFull { requested, .. }, _) => CliError::Error(format!(
                "the context holds {capacity} tokens, and this message takes {requested} even without those \
                 before it; {longer}"
            )),
            _ => error.into(),
        });
        let mut answer = answer?.max_tokens(self.max_tokens);
        if let Some(draft) = &self.draft {
            answer = answer.draft(Arc::clone(draft));
        }
        let time = speak(&mut answer, &mut self.statistics, &mut shown);
        let (reason, n_generated) = (answer.finish_reason(), answer.n_generated());
        if answer.has_begun() {
            self.dropped.extend_from_slice(answer.dropped());
        }
        drop(answer);
        let time = shown.end().and(time)?;
        print(b"\n")?;
        if reason == Some(FinishReason::ContextFull) {
            let capacity = count(capacity, "token");
            note(&format!("[the context is full, {capacity}: the reply ends here]"));
        }
        if self.is_typed && n_generated > 1 {
            let rate = n_generated as f64 / time.as_secs_f64();
            aside(&format!("{}, {rate:.1} tok/s", count(n_generated, "token")));
        }
        Ok(())
    }

    /// The whole conversation, with what the model has forgotten.
    fn history(&self) -> Vec<Message> {
        let n_system = usize::from(self.chat.system().is_some());
        let (system, rest) = self.chat.messages().split_at(n_system);
        [system, &self.dropped, rest].concat()
    }

    /// Sets, removes or lists variables of the template.
    fn set(&mut self, rest: &str) -> Result<(), CliError> {
        let template = self.chat.template_mut();
        match rest.split_once(char::is_whitespace) {
            Some((name, value)) => template::set(template, name, value.trim())?,
            None if rest.is_empty() => {
                for (name, value) in template::variables(template)? {
                    tell(&format!("{name} = {value}"));
                }
            }
            None => drop(template::variables(template)?.remove(rest)),
        }
        Ok(())
    }

    fn command(&mut self, command: &str) -> Result<(), CliError> {
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match (name, rest) {
            ("help", _) => tell(HELP),
            ("reset", _) => {
                self.chat.reset();
                self.dropped.clear();
            }
            ("system", "") => self.chat.set_system(self.default_system.as_deref()),
            ("system", text) => self.chat.set_system(Some(text)),
            ("set", rest) => self.set(rest)?,
            ("save" | "save!" | "load", "") => {
                return Err(CliError::Error(format!("/{name} needs a file name")));
            }
            ("save", file) if file != "-" && holds_something(Path::new(file)) => {
                return Err(CliError::of(file, "it is there already; /save! replaces it"));
            }
            ("save" | "save!", file) => save(&self.history(), file, &self.model_file)?,
            ("load", file) => {
                self.chat.set_messages(load(file)?)?;
                self.dropped.clear();
            }
            _ => {
                return Err(CliError::Error(format!(
                    "there is no command /{name}; /help lists them, and a space before the / makes it a message"
                )));
            }
        }
        Ok(())
    }
}

/// Prints a reply piece by piece, and returns how long it took after its message was read. Ctrl-C
/// ends it.
fn speak(
    answer: &mut Answer<'_>,
    statistics: &mut Statistics,
    shown: &mut Shown,
) -> Result<Duration, CliError> {
    let watch = Watch::new();
    let start = Instant::now();
    let mut begun = start;
    while !watch.interrupted() {
        let reading = !answer.has_begun();
        let Some(piece) = answer.next().transpose()? else { break };
        if reading {
            begun = Instant::now();
            tell_dropped(answer);
        }
        statistics.compare(piece.token());
        shown.push(piece.as_str())?;
    }
    if answer.has_begun() {
        statistics.add_prompt(answer.n_prompt(), begun - start);
    }
    statistics.add_generation(answer.n_generated(), begun.elapsed());
    Ok(begun.elapsed())
}

/// Says what the model has forgotten, once it has.
fn tell_dropped(answer: &Answer<'_>) {
    let dropped = answer.dropped().len();
    if answer.has_begun() && dropped > 0 {
        note(&format!("[the context is full: the model has forgotten the oldest {dropped} messages]"));
    }
}

/// A JSON object for each message, on a line of its own.
fn lines(messages: &[Message]) -> String {
    // By hand: whether serde_json sorts names depends on features that other crates ask for.
    let line = |message: &Message| {
        let (content, role) = (json!(message.content), json!(message.role.name()));
        format!("{{\"content\":{content},\"role\":{role}}}\n")
    };
    messages.iter().map(line).collect()
}

/// Writes messages; `-` is standard output.
fn save(messages: &[Message], file: &str, model: &Path) -> Result<(), CliError> {
    let lines = lines(messages);
    if file == "-" {
        return print(lines.as_bytes());
    }
    let mut target = OutputFile::create_apart(file, true, &[model])?;
    interrupt::remove_when_killed(&target);
    target.write_all(lines.as_bytes()).map_err(|e| CliError::of(file, e))?;
    Ok(target.persist()?)
}

fn load(file: &str) -> Result<Vec<Message>, CliError> {
    let of_file = |e: io::Error| CliError::of(file, e);
    // Checked before it is opened: opening a pipe waits until somebody writes to it.
    let found = fs::metadata(file).map_err(of_file)?;
    if !found.is_file() || found.len() > MAX_MESSAGES {
        let limit = MAX_MESSAGES >> 20;
        return Err(CliError::of(file, format!("only regular files of at most {limit} MiB are loaded")));
    }
    let mut text = String::new();
    File::open(file).map_err(of_file)?.take(MAX_MESSAGES).read_to_string(&mut text).map_err(of_file)?;
    parse(&text, file)
}

/// The messages in the lines of a file.
fn parse(text: &str, file: &str) -> Result<Vec<Message>, CliError> {
    let message = |line: &str| {
        let value: Value = serde_json::from_str(line).ok()?;
        let role: Role = value.get("role")?.as_str()?.parse().ok()?;
        Some(Message { role, content: value.get("content")?.as_str()?.into() })
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let wrong = |i| CliError::of(file, format!("line {} is not a message", i + 1));
    lines.map(|(i, line)| message(line).ok_or_else(|| wrong(i))).collect()
}
