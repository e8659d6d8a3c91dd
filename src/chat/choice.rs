//! Which template lays out a conversation: one of the layouts, or the model file's own.

use super::encode::encode_whole;
#[cfg(feature = "jinja")]
use super::{JinjaTemplate, Part, Variables, encode, joined};
use super::{Message, Role, Template};
use crate::error::{ErrorKind, Result, TokenId};
use crate::tokenizer::Tokenizer;

/// What the template for chats is called among those that have names.
pub(crate) const DEFAULT: &str = "default";

/// How a conversation is laid out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ChatTemplate {
    /// By one of the layouts here.
    Layout(Template),
    /// By the model file's own template.
    #[cfg(feature = "jinja")]
    Jinja(JinjaTemplate),
}

impl From<Template> for ChatTemplate {
    fn from(template: Template) -> Self {
        Self::Layout(template)
    }
}

#[cfg(feature = "jinja")]
impl From<JinjaTemplate> for ChatTemplate {
    fn from(template: JinjaTemplate) -> Self {
        Self::Jinja(template)
    }
}

impl ChatTemplate {
    /// The template that a model file brings
    /// ([`Model::chat_template`](crate::Model::chat_template)): Jinja, or a layout's name. Without
    /// the feature `jinja` it is the layout that renders the same, if one is known to: see
    /// [`Template::published`].
    ///
    /// ```
    /// use babyllama::chat::ChatTemplate;
    /// # use babyllama::Model;
    /// # fn main() -> babyllama::Result<()> {
    /// # let model = Model::open(concat!(env!("CARGO_MANIFEST_DIR"), "/models/babyllama.gguf"))?;
    /// let template = ChatTemplate::of_file("llama3", model.tokenizer().unwrap())?;
    /// assert!(matches!(template, ChatTemplate::Layout(_)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::ChatTemplate`] if it can't be run; without the feature, if no layout is known
    /// to render the same, with the one that is nearest.
    pub fn of_file(template: &str, tokenizer: &Tokenizer) -> Result<Self> {
        let is_jinja = ["{{", "{%"].iter().any(|tag| template.contains(tag));
        #[cfg(feature = "jinja")]
        if is_jinja {
            return JinjaTemplate::new(template, tokenizer).map(Self::Jinja);
        }
        let same = if is_jinja { Template::published(template) } else { Template::detect(template) };
        match same {
            Some(layout) => Ok(Self::Layout(layout)),
            None => {
                let near = Template::detect(template).map_or("no layout here is like it".into(), |layout| {
                    format!("the layout {layout} is near, but may differ")
                });
                let what = if is_jinja { "it is Jinja" } else { "its name isn't known" };
                let needs = if is_jinja { ", which needs the feature jinja" } else { "" };
                let _ = tokenizer;
                Err(ErrorKind::ChatTemplate { line: 1, reason: format!("{what}{needs}; {near}") }.into())
            }
        }
    }

    /// A conversation's tokens, with the beginning of the assistant's turn. `file` is the template
    /// that the model file brings.
    pub(crate) fn tokens(
        &self,
        messages: &[Message],
        beginning: &str,
        file: Option<&str>,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<TokenId>> {
        match self {
            Self::Layout(layout) => {
                if !layout.takes_system() && messages.iter().any(|message| message.role == Role::System) {
                    let reason = format!("the layout {layout} has no place for a system prompt");
                    return Err(ErrorKind::ConversationRefused { reason }.into());
                }
                let mut parts = layout.render(messages);
                parts.extend(layout.assistant_start(beginning));
                encode_whole(parts, *layout, file, tokenizer)
            }
            #[cfg(feature = "jinja")]
            Self::Jinja(template) => {
                let mut parts = template.render(messages, &Variables::new())?;
                if !beginning.is_empty() {
                    parts.push(Part::Text(space_before(template, messages, beginning, &parts) + beginning));
                }
                encode(&joined(parts), tokenizer)
            }
        }
    }

    /// The texts and the tokens that end an assistant turn, beside the tokens that end any text.
    pub(crate) fn ends(&self, tokenizer: &Tokenizer) -> (Vec<String>, Vec<TokenId>) {
        match self {
            Self::Layout(layout) => {
                (layout.stops(tokenizer).into_iter().map(str::to_owned).collect(), Vec::new())
            }
            #[cfg(feature = "jinja")]
            Self::Jinja(template) => end_of_turn(template, tokenizer).unwrap_or_default(),
        }
    }
}

/// The name of a layout, or `jinja`.
impl std::fmt::Display for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Layout(layout) => layout.fmt(f),
            #[cfg(feature = "jinja")]
            Self::Jinja(_) => f.pad("jinja"),
        }
    }
}

/// The text of a rendering.
#[cfg(feature = "jinja")]
fn text(parts: &[Part]) -> String {
    let say = |part: &Part| match part {
        Part::Control(name) => name.to_string(),
        Part::Text(text) => text.clone(),
        Part::Bos | Part::Eos => "\0".into(),
        Part::Begin | Part::Cut => String::new(),
    };
    parts.iter().map(say).collect()
}

/// The white space that a template puts before what the assistant says, after what it asks for.
#[cfg(feature = "jinja")]
fn space_before(template: &JinjaTemplate, messages: &[Message], beginning: &str, asked: &[Part]) -> String {
    let told = [messages, &[Message::assistant(beginning)]].concat();
    let Ok(told) = template.render(&told, &Variables::new()) else { return String::new() };
    let told = text(&told);
    let rest = told.strip_prefix(&*text(asked)).unwrap_or_default();
    let space = rest.split_once(beginning).map_or("", |(space, _)| space);
    if space.trim().is_empty() { space.to_owned() } else { String::new() }
}

/// What a template writes after the assistant's words: a token, or text before the next words.
#[cfg(feature = "jinja")]
fn end_of_turn(template: &JinjaTemplate, tokenizer: &Tokenizer) -> Option<(Vec<String>, Vec<TokenId>)> {
    const WORDS: [&str; 3] = ["one question", "one reply", "more questions"];
    let messages = [Message::user(WORDS[0]), Message::assistant(WORDS[1]), Message::user(WORDS[2])];
    let parts = template.render(&messages, &Variables::new()).ok()?;
    let mut after =
        parts.iter().skip_while(|part| !matches!(part, Part::Text(text) if text.contains(WORDS[1])));
    let Some(Part::Text(own)) = after.next() else { return None };
    let rest = own.split_once(WORDS[1])?.1;
    let stop = rest.split(WORDS[2]).next()?.trim();
    if !stop.is_empty() {
        return Some((vec![stop.to_owned()], Vec::new()));
    }
    let token = match after.next()? {
        Part::Control(name) => tokenizer.control(name)?,
        Part::Eos => tokenizer.eos()?,
        Part::Bos => tokenizer.bos()?,
        _ => return None,
    };
    Some((Vec::new(), vec![token]))
}
