//! What is looked at in a grammar before `llguidance` compiles it: how deep that would recurse, and
//! numbers that it would take for others.

use std::collections::HashSet;

use serde_json::{Map, Value};

/// Compiling recurses for every level of a schema, through references too, and for every rule; this
/// many times at most. [`COMPILER_STACK`] is enough for it, several times over.
const MAX_LEVELS: usize = 10_000;

/// Bytes of stack for the compiler.
pub(super) const COMPILER_STACK: usize = 128 << 20;

/// Brackets that may be open in a grammar.
const MAX_BRACKETS: usize = 200;

/// What the JSON parser takes, at most.
const MAX_NESTING: usize = 128;

/// Up to it all integers are f64, and so is the next one.
const MAX_EXACT: f64 = 9_007_199_254_740_991.0;

/// Says bounds of numbers so that they are kept, and refuses what can't be.
pub(super) fn check_schema(schema: &mut Value) -> Result<(), String> {
    check_numbers(schema)?;
    let mut targets = HashSet::new();
    references(schema, &mut targets);
    let nesting_of = |target: &str| match target.strip_prefix('#').and_then(|path| schema.pointer(path)) {
        Some(target) => nesting(target),
        None => MAX_NESTING, // by a name of its own
    };
    let levels = nesting(schema) + targets.iter().map(|target| nesting_of(target)).sum::<usize>();
    if levels > MAX_LEVELS {
        return Err(format!(
            "its {} references could be {levels} levels deep in each other; at most {MAX_LEVELS} are followed",
            targets.len(),
        ));
    }
    Ok(())
}

fn nesting(value: &Value) -> usize {
    let deepest = match value {
        Value::Array(values) => values.iter().map(nesting).max(),
        Value::Object(object) => object.values().map(nesting).max(),
        _ => return 0,
    };
    1 + deepest.unwrap_or(0)
}

/// All that is referred to.
fn references<'a>(value: &'a Value, targets: &mut HashSet<&'a str>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| references(value, targets)),
        Value::Object(object) => {
            let names = ["$ref", "$dynamicRef", "$recursiveRef"];
            targets.extend(names.iter().filter_map(|&name| object.get(name)?.as_str()));
            object.values().for_each(|value| references(value, targets));
        }
        _ => {}
    }
}

fn check_numbers(schema: &mut Value) -> Result<(), String> {
    match schema {
        Value::Array(schemas) => schemas.iter_mut().try_for_each(check_numbers),
        Value::Object(keywords) => {
            check_bounds(keywords)?;
            for (keyword, value) in keywords {
                match keyword.as_str() {
                    "const" | "enum" => check_values(keyword, value)?,
                    "default" | "examples" => {}
                    _ => check_numbers(value)?,
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Values that come up as they are are read as f64.
fn check_values(keyword: &str, value: &Value) -> Result<(), String> {
    match value {
        Value::Array(values) => values.iter().try_for_each(|value| check_values(keyword, value)),
        Value::Object(object) => object.values().try_for_each(|value| check_values(keyword, value)),
        Value::Number(number) => {
            let integer = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
            match integer {
                Some(integer) if integer.unsigned_abs() > MAX_EXACT as u128 => {
                    Err(format!("{keyword} has {number}, but integers are exact only up to {MAX_EXACT}"))
                }
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// `exclusiveMinimum` and `exclusiveMaximum` become the next number's `minimum` and `maximum`: the
/// compiler lets an excluded integer through, if the other bound begins with it too.
fn check_bounds(keywords: &mut Map<String, Value>) -> Result<(), String> {
    for (inclusive, exclusive, sign) in
        [("minimum", "exclusiveMinimum", 1.0), ("maximum", "exclusiveMaximum", -1.0)]
    {
        let bound = number(keywords, inclusive)?;
        let excluded = match keywords.get(exclusive) {
            // As drafts before the sixth have it.
            Some(&Value::Bool(is_excluded)) => bound.filter(|_| is_excluded),
            _ => number(keywords, exclusive)?,
        };
        let Some(excluded) = excluded else { continue };
        let next = after(excluded, sign);
        let tighter = match bound {
            Some(bound) if sign > 0.0 => bound.max(next),
            Some(bound) => bound.min(next),
            None => next,
        };
        keywords.remove(exclusive);
        keywords.insert(inclusive.into(), Value::from(tighter));
    }
    if number(keywords, "multipleOf")?.is_some_and(|step| step.abs() < 1e-9 && step != 0.0) {
        return Err("multipleOf is below 1e-9, and has too many digits to be followed".into());
    }
    Ok(())
}

/// A keyword's number, if it has one: what is none of a schema's bounds may have the same name.
fn number(keywords: &Map<String, Value>, keyword: &str) -> Result<Option<f64>, String> {
    let Some(Value::Number(written)) = keywords.get(keyword) else { return Ok(None) };
    match written.as_f64() {
        Some(number) if number.abs() <= MAX_EXACT => Ok(Some(number)),
        _ => Err(format!("{keyword} is {written}, but only numbers up to {MAX_EXACT} are exact")),
    }
}

/// The next f64 above a number, or below it; from 0, what is written with few digits.
fn after(number: f64, sign: f64) -> f64 {
    let next = if sign > 0.0 { number.next_up() } else { number.next_down() };
    if number == 0.0 { sign * 1e-15 } else { next }
}

/// A grammar in Lark whose schemas were checked. An error has its place.
pub(super) fn check_lark(grammar: &str) -> Result<String, ((usize, usize), String)> {
    let mut checked = String::with_capacity(grammar.len());
    let (mut rest, mut open, mut n_rules) = (grammar, 0_usize, 0);
    let place = |rest: &str| {
        let before = &grammar[..grammar.len() - rest.len()];
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    };
    while let Some(c) = rest.chars().next() {
        match c {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open = open.saturating_sub(1),
            ':' => n_rules += 1,
            _ => {}
        }
        if open > MAX_BRACKETS {
            return Err((place(rest), format!("more than {MAX_BRACKETS} brackets are open")));
        }
        if n_rules > MAX_LEVELS {
            return Err((place(rest), format!("there are more than {MAX_LEVELS} rules")));
        }
        let token;
        (token, rest) = rest.split_at(token_len(rest));
        checked += token;
        if token == JSON {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
            // What is no JSON the compiler says.
            if let Some(Ok(mut schema)) = values.next() {
                let len = values.byte_offset();
                check_schema(&mut schema).map_err(|reason| (place(rest), reason))?;
                checked += " ";
                checked += &schema.to_string();
                checked.extend(rest[..len].matches('\n')); // so that what is after it has its place
                rest = &rest[len..];
            }
        }
    }
    Ok(checked)
}

/// Before a schema in a grammar.
const JSON: &str = "%json";

/// Bytes of what a text begins with: a comment, a string, a regular expression, `%json`, or one
/// character.
fn token_len(text: &str) -> usize {
    // Only where it is needed: a grammar may be one long line.
    let line = || text.lines().next().unwrap_or_default();
    let quoted = |quote: char| {
        let (line, mut is_escaped) = (line(), false);
        let end = line.char_indices().skip(1).find(|&(_, c)| {
            let ends = c == quote && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            ends
        });
        end.map_or(line.len(), |(i, _)| i + 1)
    };
    match text.as_bytes() {
        [b'#', ..] | [b'/', b'/', ..] => line().len(),
        [b'"', ..] => quoted('"'),
        [b'/', ..] => quoted('/'),
        _ if text.starts_with(JSON) => JSON.len(),
        _ => text.chars().next().map_or(0, char::len_utf8),
    }
}
