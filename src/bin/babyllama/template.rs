//! How `chat` lays out a conversation, and shows what a model thinks before it replies.

use babyllama::chat::{ChatTemplate, JinjaTemplate, Message, Part, Template, Variables};
use babyllama::{ErrorKind, Model};
use serde_json::Value;

use crate::commands::ChatArgs;
use crate::error::CliError;
use crate::models;
use crate::output::{note, print, print_text, takes_escapes_on_stdout};

/// The template that was selected, or else the model file's own, or Llama 2's if it has none. One
/// that can't be run is an error: with another in its place the model would reply badly, and nobody
/// would know why.
pub(crate) fn choose(args: &ChatArgs, model: &Model) -> Result<ChatTemplate, CliError> {
    let mut template = match args.template.as_deref() {
        Some(name) => match name.parse::<Template>() {
            Ok(layout) => layout.into(),
            Err(_) => named(name, args, model)?,
        },
        None => own(args, model)?,
    };
    for (name, value) in &args.set {
        set(&mut template, name, value)?;
    }
    Ok(template)
}

/// One of the templates that the model's file brings, by its name.
fn named(name: &str, args: &ChatArgs, model: &Model) -> Result<ChatTemplate, CliError> {
    models::tokenizer(model, &args.model)?;
    ChatTemplate::named(model, name).map_err(|error| match error.kind() {
        ErrorKind::InvalidOption { .. } => CliError::Usage(format!(
            "--template {name}: {} has {}, and the layouts are {}",
            args.model.display(),
            match &model.chat_template_names()[..] {
                [] => "no templates".into(),
                names => names.join(", "),
            },
            layouts()
        )),
        _ => CliError::of(args.model.display(), format!("template {name}: {error}")),
    })
}

/// The names of all layouts.
fn layouts() -> String {
    Template::ALL.iter().map(|template| template.name()).collect::<Vec<_>>().join(", ")
}

fn own(args: &ChatArgs, model: &Model) -> Result<ChatTemplate, CliError> {
    let names = model.chat_template_names();
    let Ok(own) = model.chat_template_named("default") else {
        if !names.is_empty() {
            let reason =
                format!("it has no default chat template: select one with --template: {}", names.join(", "));
            return Err(CliError::of(args.model.display(), reason));
        }
        note("note: the file has no chat template: taking Llama 2's; --template selects another");
        return Ok(Template::Llama2.into());
    };
    if own.contains(char::REPLACEMENT_CHARACTER) {
        note("note: the file's chat template is not valid UTF-8");
    }
    // Some files have a template's name instead of Jinja.
    let name = Some(own.trim()).filter(|name| name.len() < 64 && !name.contains(['{', '\n']));
    models::tokenizer(model, &args.model)?;
    let template = ChatTemplate::of_model(model).map_err(|error| {
        // The file means llama.cpp's template, and ours of this name is not the same.
        let is_near = name.is_some_and(|name| name.parse::<Template>().is_ok());
        let reason = match name {
            Some(name) if is_near => {
                format!("its chat template, {name:?}, is llama.cpp's, which differs from the one here")
            }
            Some(name) => format!("its chat template, {name:?}, isn't known here"),
            None => error.to_string(),
        };
        CliError::of(
            args.model.display(),
            format!("{reason}: select a similar one with --template: {}", layouts()),
        )
    })?;
    match name {
        Some(name) => note(&format!("note: the file names its chat template: {name}")),
        None if names.len() > 1 => note(&format!(
            "note: the chat template is the file's default; --template selects another, of the file's too: {}",
            names[1..].join(", ")
        )),
        None => note("note: the chat template is the file's own; --template selects another"),
    }
    Ok(template)
}

/// Sets a variable of the file's own template to a value: JSON, or else a text.
pub(crate) fn set(template: &mut ChatTemplate, name: &str, value: &str) -> Result<(), CliError> {
    let variables = variables(template)?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    variables.insert(name.into(), value);
    Ok(())
}

/// The variables of the file's own template.
pub(crate) fn variables(template: &mut ChatTemplate) -> Result<&mut Variables, CliError> {
    match template {
        ChatTemplate::Jinja(template) => Ok(template.variables_mut()),
        _ => Err(CliError::Error("only a model file's own chat template has variables".into())),
    }
}

/// `name=value`.
pub(crate) fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    if name.is_empty() { Err("needs a name".into()) } else { Ok((name.into(), value.into())) }
}

/// What a model writes around its thoughts.
const MARKS: [&str; 2] = ["<think>", "</think>"];

/// Shows a reply, and dims its thoughts where the terminal can show that.
pub(crate) struct Shown {
    is_dimming: bool,
    is_thinking: bool,
    /// Text that may be the beginning of a mark.
    held: String,
}

impl Shown {
    /// For a reply with this template, which may have opened the thoughts itself.
    pub(crate) fn new(template: &ChatTemplate) -> Self {
        let is_dimming = takes_escapes_on_stdout();
        let is_thinking = match template {
            ChatTemplate::Jinja(template) if is_dimming => opens_thoughts(template),
            _ => false,
        };
        let mut shown = Self { is_dimming, is_thinking: false, held: String::new() };
        shown.think(is_thinking);
        shown
    }

    /// Prints a piece of the reply.
    pub(crate) fn push(&mut self, text: &str) -> Result<(), CliError> {
        if !self.is_dimming {
            return print_text(text);
        }
        self.held.push_str(text);
        loop {
            let mark = MARKS[usize::from(self.is_thinking)];
            let Some(at) = self.held.find(mark) else { break };
            let end = at + mark.len();
            // The marks themselves are dimmed.
            let shown = if self.is_thinking { end } else { at };
            print_text(&self.held[..shown])?;
            self.held.drain(..shown);
            self.think(!self.is_thinking);
            if self.is_thinking {
                print_text(mark)?;
                self.held.drain(..mark.len());
            }
        }
        let mark = MARKS[usize::from(self.is_thinking)];
        let begins = |at: &usize| mark.starts_with(&self.held[*at..]);
        let certain = self.held.char_indices().map(|(at, _)| at).find(begins).unwrap_or(self.held.len());
        print_text(&self.held[..certain])?;
        self.held.drain(..certain);
        Ok(())
    }

    /// Prints what is held back, and ends the dimming.
    pub(crate) fn end(&mut self) -> Result<(), CliError> {
        print_text(&std::mem::take(&mut self.held))?;
        self.think(false);
        Ok(())
    }

    fn think(&mut self, is_thinking: bool) {
        if self.is_dimming && is_thinking != self.is_thinking {
            // A failure comes up when the next text is printed.
            let _ = print(if is_thinking { b"\x1b[2m" } else { b"\x1b[0m" });
        }
        self.is_thinking = is_thinking;
    }
}

/// Whether a template asks for thoughts by their mark.
fn opens_thoughts(template: &JinjaTemplate) -> bool {
    let Ok(parts) = template.render(&[Message::user("a")], &Variables::new()) else { return false };
    let text: String = parts
        .iter()
        .map(|part| match part {
            Part::Text(text) => text.as_str(),
            Part::Control(name) => name,
            _ => "",
        })
        .collect();
    text.trim_end().ends_with(MARKS[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_a_name_and_a_value() {
        assert_eq!(parse_variable("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_variable("a="), Ok(("a".into(), String::new())));
        assert!(parse_variable("a").is_err() && parse_variable("=a").is_err());
    }
}
