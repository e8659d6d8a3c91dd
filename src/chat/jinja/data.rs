//! What a template is given: the conversation and its variables as Jinja's values.

use std::cell::Cell;

use minijinja::Value;
use serde_json::{Map, Value as Json};

use super::disguise::{Author, Disguise};
use super::numbers::Exponent;
use super::object::{Fields, Items};
use crate::error::{ErrorKind, Result};

/// Levels of a value. Schemas of tools have about ten.
const MAX_DEPTH: usize = 64;

/// Who may say something. Other names are text like any other.
const ROLES: [&str; 9] =
    ["system", "user", "assistant", "tool", "developer", "function", "ipython", "environment", "observation"];

/// Names of what the model thought before it said something, the usual one first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Puts what users wrote in disguise.
pub(super) struct Data<'a> {
    pub(super) disguise: &'a Disguise<'a>,
    /// The template's text, which names the keys that it knows.
    pub(super) source: &'a str,
    /// How much text there is.
    pub(super) n_bytes: Cell<u64>,
}

impl Data<'_> {
    /// The messages.
    pub(super) fn messages(&self, messages: &[Json]) -> Result<Value> {
        messages.iter().map(|message| self.message(message)).collect::<Result<Vec<_>>>().map(Items::of)
    }

    fn message(&self, message: &Json) -> Result<Value> {
        let Json::Object(fields) = message else {
            let reason = "a message is an object with role and content".into();
            return Err(
                ErrorKind::InvalidOption { name: "messages", value: message.to_string(), reason }.into()
            );
        };
        let role = fields.get("role").and_then(Json::as_str).unwrap_or_default();
        let author = if role == "assistant" { Author::Assistant } else { Author::Other };
        let mut pairs = Vec::with_capacity(fields.len() + 2);
        for (name, field) in fields {
            let is_role = name == "role" && ROLES.contains(&role);
            // What names a call is compared with the answer's.
            let author = if name == "tool_calls" { Author::Other } else { author };
            let value = if is_role { Value::from(role) } else { self.value(field, author, 1)? };
            pairs.push((self.key(name), value));
        }
        let reasoning = REASONING.iter().find_map(|name| fields.get(*name).filter(|field| !field.is_null()));
        if let Some(reasoning) = reasoning {
            let value = self.value(reasoning, author, 1)?;
            if !fields.contains_key("thinking") {
                pairs.insert(0, (Value::from("thinking"), value.clone()));
            }
            pairs.retain(|(name, _)| name.as_str() != Some(REASONING[0]));
            pairs.push((Value::from(REASONING[0]), value));
        }
        Ok(Fields::of(pairs))
    }

    /// The variables.
    pub(super) fn variables(&self, variables: &Map<String, Json>) -> Result<Vec<(String, Value)>> {
        let variable =
            |(name, value): (&String, &Json)| Ok((name.clone(), self.value(value, Author::Other, 0)?));
        variables.iter().map(variable).collect()
    }

    fn value(&self, json: &Json, author: Author, depth: usize) -> Result<Value> {
        if depth > MAX_DEPTH {
            let reason = format!("values may have {MAX_DEPTH} levels");
            return Err(ErrorKind::InvalidOption { name: "messages", value: "deeper".into(), reason }.into());
        }
        Ok(match json {
            Json::Null => Value::from(()),
            Json::Bool(value) => Value::from(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Value::from(number),
                (None, Some(number)) => Value::from(number),
                (None, None) => Exponent::or_float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => {
                self.n_bytes.set(self.n_bytes.get() + text.len() as u64);
                Value::from(self.disguise.of(text, author))
            }
            Json::Array(items) => {
                let items = items.iter().map(|item| self.value(item, author, depth + 1));
                Items::of(items.collect::<Result<Vec<_>>>()?)
            }
            Json::Object(fields) => {
                let field = |(name, value): (&String, &Json)| -> Result<(Value, Value)> {
                    Ok((self.key(name), self.value(value, author, depth + 1)?))
                };
                Fields::of(fields.iter().map(field).collect::<Result<Vec<_>>>()?)
            }
        })
    }

    /// The name of a field: as it is, if the template knows it and it is no more than a name.
    fn key(&self, name: &str) -> Value {
        let is_name = name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
        if is_name && self.source.contains(name) {
            Value::from(name)
        } else {
            Value::from(self.disguise.of(name, Author::Other))
        }
    }
}
