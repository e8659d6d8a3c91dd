//! A model file's own template, run as Jinja.
//!
//! Invariant: whatever a template is, running it ends, soon and without a panic; and what a user
//! writes never becomes a control token, whatever a template does with it. (What fuel doesn't
//! bound is the text of a list that holds one text many times: that may take gigabytes first.)
//!
//! What a template gets is what Python gives it, down to white space and `repr`, or an error that
//! names what isn't run. Left otherwise, since no prompt has them: the text of a range, of a
//! map's `keys()` and of a macro's `arguments`; exponents of a template's own numbers beside `~`;
//! floats with an exponent that are compared or reckoned with; markup that goes through a method;
//! `map['items']` of a map without such a field, which in Python is the method; and what Python
//! refuses, such as a sum of a list and a range.
//!
//! - here: the template
//! - `source`: its text as it is run
//! - `data`: what it is given
//! - `disguise`: which characters of a rendering are whose
//! - `python`: what templates take from Python, with its `strings`, `numbers`, `time` and `object`s
//!
//! Source: the behavior of `apply_chat_template` in transformers.

mod data;
mod disguise;
mod numbers;
mod object;
mod python;
mod source;
mod strings;
mod time;

use std::cell::Cell;
use std::collections::HashSet;
use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Value};
use serde_json::{Map, Value as Json};

use super::{Message, Part, joined, layouts, literals};
use crate::error::{Error, ErrorKind, Result, TokenId};
use crate::tokenizer::{Fragment, PieceKind, Tokenizer};
use data::Data;
use disguise::{Author, Characters, Disguise, Kept, Names};
use python::Raised;

/// What a template is given beside the messages: `tools`, `documents`, and variables of its own
/// such as `enable_thinking`.
pub type Variables = Map<String, Json>;

/// Fuel of a rendering, beside what its input justifies: an instruction takes one, and so do 64
/// bytes of text. Using it up takes about a second.
const FUEL: u64 = 1_000_000;
/// Levels of blocks and macros.
const MAX_RECURSION: usize = 150;
/// How many names of control tokens a template may compare with one at a time, before all of them
/// are taken for text.
const MAX_COMPARED: usize = 24;

/// A model file's own template: text in Jinja, run as `transformers` runs it. Where it writes no
/// BOS itself, [`Part::Begin`] comes first, at which a tokenizer that adds BOS adds it: as in
/// llama.cpp, where transformers takes the template's text alone.
///
/// ```
/// use babyllama::chat::{JinjaTemplate, Message, Part, Variables};
/// # use babyllama::Model;
/// # fn main() -> babyllama::Result<()> {
/// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
/// let source = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}";
/// let template = JinjaTemplate::new(source, model.tokenizer().unwrap())?;
/// let parts = template.render(&[Message::user("Who is <s>?")], &Variables::new())?;
/// // What the user wrote is text, the template's own is a control token.
/// assert_eq!(parts, [Part::Bos, Part::Text("[user] Who is <s>?".into())]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct JinjaTemplate {
    inner: Arc<Inner>,
    variables: Variables,
    /// What is run in its place when there are tools, or why that can't be.
    tool_use: Option<Result<Arc<Inner>, (usize, String)>>,
}

struct Inner {
    source: String,
    env: Environment<'static>,
    names: Names,
    /// The strings of the template.
    strings: Vec<String>,
    /// `bos_token` and so on.
    tokens: Vec<(&'static str, String)>,
    tokenizer: Tokenizer,
}

impl fmt::Debug for JinjaTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner, variables, .. } = self;
        let mut shown = f.debug_struct("JinjaTemplate");
        shown.field("source", &inner.source).field("variables", variables).finish_non_exhaustive()
    }
}

impl JinjaTemplate {
    /// A template for a model with this tokenizer, whose control tokens it may write.
    ///
    /// # Errors
    /// [`ErrorKind::ChatTemplate`] if it isn't Jinja, or has what isn't run.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Self> {
        Self::at(source, tokenizer, SystemTime::now())
    }

    /// The same at another time than the present, for templates that tell the model today's date.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn at(source: &str, tokenizer: &Tokenizer, now: SystemTime) -> Result<Self> {
        // As Jinja reads it, whoever wrote it on which system.
        let source = &source.replace("\r\n", "\n").replace('\r', "\n");
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| failed(&e))?);
        env.set_recursion_limit(MAX_RECURSION);
        python::add_to(&mut env, now);
        env.add_template_owned(NAME, source::prepare(source)?).map_err(|e| failed(&e))?;
        let strings = literals::strings(source);
        let is_steering = |id: TokenId, name: &str| match tokenizer.kind(id) {
            Some(PieceKind::Control) => !name.is_empty(),
            // Other pieces steer where the template writes them, if they read as more than text.
            _ => layouts::MARKS.contains(&name) || reads_special(name) && source.contains(name),
        };
        let names: Vec<(TokenId, &str, bool)> = tokenizer
            .controls()
            .filter(|&(id, name)| is_steering(id, name))
            .map(|(id, name)| (id, name, tokenizer.kind(id) != Some(PieceKind::Control)))
            .collect();
        let names = Names::new(&names);
        let ids =
            [("bos_token", tokenizer.bos()), ("eos_token", tokenizer.eos()), ("unk_token", tokenizer.unk())];
        let text =
            |id| String::from_utf8_lossy(tokenizer.piece(id).unwrap_or_default().trim_ascii()).into_owned();
        let tokens = ids.into_iter().filter_map(|(name, id)| Some((name, text(id?)))).collect();
        let (source, tokenizer) = (source.to_owned(), tokenizer.clone());
        let inner = Inner { source, env, names, strings, tokens, tokenizer };
        Ok(Self { inner: Arc::new(inner), variables: Variables::new(), tool_use: None })
    }

    /// The same with another template, which is run in its place whenever `tools` are among the
    /// variables, as a file's own named `tool_use` is. An error in it comes up only then.
    ///
    /// ```
    /// use babyllama::chat::{JinjaTemplate, Message, Part, Variables};
    /// # use babyllama::Model;
    /// # fn main() -> babyllama::Result<()> {
    /// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
    /// let template = JinjaTemplate::new("{{ messages[0].content }}", model.tokenizer().unwrap())?;
    /// let mut template = template.tool_use("{{ tools[0].name }}");
    /// template.variables_mut().insert("tools".into(), serde_json::json!([{"name": "time"}]));
    /// let parts = template.render(&[Message::user("What time is it?")], &Variables::new())?;
    /// assert_eq!(parts, [Part::Begin, Part::Text("time".into())]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn tool_use(mut self, source: &str) -> Self {
        let made = Self::new(source, &self.inner.tokenizer).map(|template| template.inner);
        self.tool_use = Some(made.map_err(|error| match error.kind() {
            ErrorKind::ChatTemplate { line, reason } => (*line, format!("that for tools: {reason}")),
            _ => (1, error.to_string()),
        }));
        self
    }

    /// The variables that every rendering is given.
    #[must_use]
    pub fn variables(&self) -> &Variables {
        &self.variables
    }

    /// The variables that every rendering is given, to be changed: `enable_thinking`, `tools`, or
    /// whatever the template knows.
    pub fn variables_mut(&mut self) -> &mut Variables {
        &mut self.variables
    }

    /// The Jinja text, without that of [`tool_use`](Self::tool_use).
    #[must_use]
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// Lays out a conversation. If its last message isn't the assistant's, up to where the
    /// assistant's turn begins, unless `add_generation_prompt` is among the variables.
    ///
    /// # Errors
    /// [`ErrorKind::ConversationRefused`] if the template raises an error;
    /// [`ErrorKind::ChatTemplate`] if it can't be run, or takes too long.
    pub fn render(&self, messages: &[Message], variables: &Variables) -> Result<Vec<Part>> {
        let json = |message: &Message| {
            let (role, content) = (message.role.name(), message.content.as_str());
            let fields = [("role", role), ("content", content)];
            Json::Object(fields.map(|(name, text)| (name.to_owned(), Json::from(text))).into_iter().collect())
        };
        self.render_json(&messages.iter().map(json).collect::<Vec<_>>(), variables)
    }

    /// The same of messages that have more than role and content, such as `tool_calls`: each is an
    /// object, as in the chat interfaces of HTTP services.
    ///
    /// ```
    /// use babyllama::chat::{JinjaTemplate, Part};
    /// use serde_json::json;
    /// # use babyllama::Model;
    /// # fn main() -> babyllama::Result<()> {
    /// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
    /// let source = "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}\
    ///               {% for m in messages %}{{ m.name }}: {{ m.content }}\n{% endfor %}";
    /// let template = JinjaTemplate::new(source, model.tokenizer().unwrap())?;
    /// let messages = [json!({"role": "tool", "name": "time", "content": "9:00"})];
    /// let variables = [("tools".to_string(), json!([{"name": "time"}]))].into_iter().collect();
    /// let parts = template.render_json(&messages, &variables)?;
    /// let text = "{\"name\": \"time\"}\ntime: 9:00\n".to_string();
    /// assert_eq!(parts, [Part::Begin, Part::Text(text)]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`render`](Self::render); and [`ErrorKind::InvalidOption`] for a message that is no
    /// object.
    pub fn render_json(&self, messages: &[Json], variables: &Variables) -> Result<Vec<Part>> {
        let tools = variables.get("tools").or_else(|| self.variables.get("tools"));
        if let Some(tool_use) = self.tool_use.as_ref().filter(|_| tools.is_some_and(|tools| !tools.is_null()))
        {
            let inner =
                tool_use.clone().map_err(|(line, reason)| ErrorKind::ChatTemplate { line, reason })?;
            let tool_use = Self { inner, variables: self.variables.clone(), tool_use: None };
            return tool_use.render_json(messages, variables);
        }
        let names = &self.inner.names;
        let bare = Disguise::none(names);
        let text = self.run(messages, variables, &bare)?;
        let mut seen = bare.seen();
        seen.extend(self.inner.source.chars().filter(|c| !c.is_alphanumeric()));
        for kept in self.plans(&bare.plain()) {
            let Some(disguise) = Disguise::new(names, &seen, &kept) else { break };
            if let Ok(disguised) = self.run(messages, variables, &disguise)
                && disguise.off(&disguised) == text
            {
                return Ok(self.parts(&disguised, &disguise, &disguise.plain()));
            }
        }
        // Nothing shows who wrote what: a name that may be a user's to one character is text.
        let is_theirs = |name: &str| name.chars().any(|c| !c.is_alphanumeric() && seen_by_users(&bare, c));
        let all = names.of(&text).into_iter();
        let theirs = all.filter(|&id| is_theirs(&self.name(id)) || names.user_defined.contains(&id));
        Ok(self.parts(&text, &bare, &theirs.collect()))
    }

    /// What to keep of the users' texts, the least first, if they have these names.
    fn plans<'a>(&'a self, present: &HashSet<TokenId>) -> Vec<Kept<'a>> {
        let (names, strings) = (&self.inner.names, &self.inner.strings);
        let has =
            |text: &str, is_counted: &dyn Fn(TokenId) -> bool| names.of(text).into_iter().any(is_counted);
        let says = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).count() > 1;
        let strings = || strings.iter().map(String::as_str);
        let all: Vec<&str> = strings().filter(|text| says(text) && !has(text, &|_| true)).collect();
        let is_control = |id: TokenId| !names.user_defined.contains(&id);
        let assistant: Vec<&str> =
            strings().filter(|text| has(text, &|_| true) && !has(text, &is_control)).collect();
        let usual = Kept { all, assistant, characters: Characters::None };
        let compared = |id: &TokenId| {
            let name = self.name(*id);
            let found = strings().find_map(|text| text.find(&name).map(|at| &text[at..at + name.len()]));
            found.filter(|_| present.contains(id))
        };
        let mut compared: Vec<&str> = present.iter().filter_map(compared).collect();
        compared.sort_unstable();
        let mut plans = vec![usual.clone()];
        let with = |names: &[&'a str]| Kept { all: [&usual.all, names].concat(), ..usual.clone() };
        if (2..=MAX_COMPARED).contains(&compared.len()) {
            plans.extend(compared.iter().map(|name| with(&[name])));
        }
        if !compared.is_empty() {
            plans.push(with(&compared));
        }
        plans.push(Kept { characters: Characters::Html, ..usual.clone() });
        let every = strings().filter(|text| !has(text, &|_| true)).chain(compared);
        plans.push(Kept { all: every.collect(), characters: Characters::Letters, ..usual });
        plans
    }

    /// Runs the template.
    fn run(&self, messages: &[Json], variables: &Variables, disguise: &Disguise<'_>) -> Result<String> {
        let Inner { env, source, tokens, .. } = &*self.inner;
        let data = Data { disguise, source, n_bytes: Cell::new(0) };
        let is_assistants = messages.last().is_some_and(|message| message["role"] == "assistant");
        let mut context = vec![
            ("messages".to_owned(), data.messages(messages)?),
            ("add_generation_prompt".to_owned(), Value::from(!is_assistants)),
            (python::DISGUISED.to_owned(), Value::from(disguise.is_on())),
            ("tools".to_owned(), Value::from(())),
            ("documents".to_owned(), Value::from(())),
        ];
        context.extend(tokens.iter().map(|(name, text)| ((*name).to_owned(), Value::from(text.as_str()))));
        context.extend(data.variables(&self.variables)?);
        context.extend(data.variables(variables)?);
        let n = (messages.len() as u64).min(1000);
        let mut env = env.clone();
        env.set_fuel(Some(FUEL + data.n_bytes.get() + 10 * n * n));
        let template = env.get_template(NAME).map_err(|e| failed(&e))?;
        template.render(Value::from_pairs(context)).map_err(|e| failed(&e))
    }

    /// The parts of a rendering in disguise. These names are text, whoever wrote them.
    fn parts(&self, disguised: &str, disguise: &Disguise<'_>, text: &HashSet<TokenId>) -> Vec<Part> {
        let Inner { names, tokenizer, .. } = &*self.inner;
        let mut parts = vec![Part::Begin];
        let push_text = |parts: &mut Vec<Part>, fragment: &str| {
            self.push_text(parts, fragment, disguise, text);
        };
        for fragment in names.found.split(disguised) {
            match fragment {
                Fragment::Text(fragment) => push_text(&mut parts, fragment),
                Fragment::Token(id) if text.contains(&id) => push_text(&mut parts, &self.name(id)),
                Fragment::Token(id) if tokenizer.bos() == Some(id) => parts.push(Part::Bos),
                Fragment::Token(id) if tokenizer.eos() == Some(id) => parts.push(Part::Eos),
                Fragment::Token(id) => parts.push(Part::control(self.name(id))),
            }
        }
        let parts = joined(parts);
        let writes_bos = parts.get(1) == Some(&Part::Bos);
        if writes_bos { parts[1..].to_vec() } else { parts }
    }

    /// Appends text, cut where a user wrote the name of a piece that is found in any text.
    fn push_text(
        &self,
        parts: &mut Vec<Part>,
        fragment: &str,
        disguise: &Disguise<'_>,
        text: &HashSet<TokenId>,
    ) {
        let names = &self.inner.names;
        let faces: Vec<(char, Option<Author>)> = fragment.chars().map(|c| disguise.face(c)).collect();
        let plain: String = faces.iter().map(|face| face.0).collect();
        let mut done = 0; // characters
        for fragment in names.found.split(&plain) {
            let (id, piece) = match fragment {
                Fragment::Text(piece) => (None, piece.to_owned()),
                Fragment::Token(id) => (Some(id), self.name(id)),
            };
            let n = piece.chars().count();
            let is_others = faces[done..done + n].iter().any(|face| face.1 == Some(Author::Other));
            done += n;
            let is_cut = |id: &TokenId| names.user_defined.contains(id) && (is_others || text.contains(id));
            match id.filter(is_cut) {
                Some(_) => {
                    let first = piece.chars().next().map_or(0, char::len_utf8);
                    let (start, end) = piece.split_at(first);
                    parts.extend([Part::Text(start.into()), Part::Cut, Part::Text(end.into())]);
                }
                None => parts.push(Part::Text(piece)),
            }
        }
    }

    fn name(&self, id: TokenId) -> String {
        let piece = self.inner.tokenizer.piece(id).unwrap_or_default();
        String::from_utf8_lossy(piece.trim_ascii()).into_owned()
    }
}

/// What the template goes by in its environment: not a name that would escape HTML.
const NAME: &str = "chat";

/// Whether any message or variable has this character.
fn seen_by_users(bare: &Disguise<'_>, c: char) -> bool {
    bare.seen().contains(&c)
}

/// Whether a piece reads as more than text: `<think>`, `[TOOL_CALLS]`.
fn reads_special(name: &str) -> bool {
    let ends = [('<', '>'), ('[', ']')];
    let is_between = ends.iter().any(|&(start, end)| name.starts_with(start) && name.ends_with(end));
    is_between && name.chars().any(char::is_alphanumeric)
}

/// What the engine says.
fn failed(error: &minijinja::Error) -> Error {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(Raised(reason)) = cause.downcast_ref::<Raised>() {
            return ErrorKind::ConversationRefused { reason: reason.clone() }.into();
        }
        source = cause.source();
    }
    let reason = match (error.kind(), error.detail()) {
        (minijinja::ErrorKind::OutOfFuel, _) => "it takes too long, or writes too much".into(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    ErrorKind::ChatTemplate { line: error.line().unwrap_or(1), reason }.into()
}
