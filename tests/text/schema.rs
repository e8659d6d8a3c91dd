//! Checks JSON against a schema by the words of JSON Schema 2020-12, for the keywords that the
//! tests use; it knows nothing of grammars.

use regex::Regex;
use serde_json::Value;

/// What is wrong with `value`, or nothing. `root` is the whole schema, which references are in.
pub(crate) fn check(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let Value::Object(keywords) = schema else {
        return if schema == &Value::Bool(false) { Err("nothing is valid".into()) } else { Ok(()) };
    };
    for (keyword, rule) in keywords {
        if !holds(root, schema, keyword, rule, value)? {
            return Err(format!("{value} breaks {keyword}: {rule}"));
        }
    }
    Ok(())
}

/// Keywords that say nothing of values of another type, or nothing at all.
const KNOWN: [&str; 15] = [
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "minItems",
    "maxItems",
    "prefixItems",
    "items",
    "required",
    "properties",
    "additionalProperties",
    "$defs",
    "x-guidance",
];

fn holds(root: &Value, schema: &Value, keyword: &str, rule: &Value, value: &Value) -> Result<bool, String> {
    let is_valid = |schema: &Value, value: &Value| check(root, schema, value).is_ok();
    let list = || rule.as_array().expect("a list");
    Ok(match (keyword, value) {
        ("type", _) => match rule {
            Value::Array(types) => types.iter().any(|name| has_type(name, value)),
            name => has_type(name, value),
        },
        ("enum", _) => list().contains(value),
        ("const", _) => rule == value,
        ("$ref", _) => {
            let pointer = rule.as_str().and_then(|r| r.strip_prefix('#')).expect("a reference to the root");
            is_valid(root.pointer(pointer).expect("it is there"), value)
        }
        ("anyOf", _) => list().iter().any(|schema| is_valid(schema, value)),
        ("allOf", _) => list().iter().all(|schema| is_valid(schema, value)),
        ("minLength", Value::String(text)) => text.chars().count() as u64 >= rule.as_u64().unwrap(),
        ("maxLength", Value::String(text)) => text.chars().count() as u64 <= rule.as_u64().unwrap(),
        ("pattern", Value::String(text)) => Regex::new(rule.as_str().unwrap()).unwrap().is_match(text),
        ("minimum", Value::Number(n)) => n.as_f64() >= rule.as_f64(),
        ("maximum", Value::Number(n)) => n.as_f64() <= rule.as_f64(),
        ("exclusiveMinimum", Value::Number(n)) => n.as_f64() > rule.as_f64(),
        ("minItems", Value::Array(items)) => items.len() as u64 >= rule.as_u64().unwrap(),
        ("maxItems", Value::Array(items)) => items.len() as u64 <= rule.as_u64().unwrap(),
        ("prefixItems", Value::Array(items)) => items.iter().zip(list()).all(|(item, s)| is_valid(s, item)),
        ("items", Value::Array(items)) => {
            let n = schema.get("prefixItems").and_then(Value::as_array).map_or(0, Vec::len);
            items.iter().skip(n).all(|item| is_valid(rule, item))
        }
        ("required", Value::Object(object)) => {
            list().iter().all(|name| object.contains_key(name.as_str().unwrap()))
        }
        ("properties", Value::Object(object)) => {
            object.iter().all(|(name, value)| rule.get(name).is_none_or(|schema| is_valid(schema, value)))
        }
        ("additionalProperties", Value::Object(object)) => object.iter().all(|(name, value)| {
            schema.get("properties").and_then(|known| known.get(name)).is_some() || is_valid(rule, value)
        }),
        _ if KNOWN.contains(&keyword) => true,
        _ => return Err(format!("the check doesn't know {keyword}")),
    })
}

fn has_type(name: &Value, value: &Value) -> bool {
    match name.as_str().expect("a type's name") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        other => panic!("{other} is no type"),
    }
}

#[test]
fn the_check_refuses_what_breaks_a_keyword() {
    let bad = [
        (r#"{"type": "integer"}"#, "1.5"),
        (r#"{"type": ["string", "null"]}"#, "1"),
        (r#"{"enum": [1, "a"]}"#, "\"b\""),
        (r##"{"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}"##, "0"),
        (r#"{"anyOf": [{"type": "null"}, {"minimum": 3}]}"#, "2"),
        (r#"{"maxLength": 1}"#, "\"\u{e9}\u{e9}\""),
        (r#"{"pattern": "^a+$"}"#, "\"ab\""),
        (r#"{"exclusiveMinimum": 2}"#, "2"),
        (r#"{"minItems": 2}"#, "[1]"),
        (r#"{"prefixItems": [{"type": "null"}], "items": {"type": "string"}}"#, "[null, 1]"),
        (r#"{"required": ["a"]}"#, "{}"),
        (r#"{"properties": {"a": {"type": "null"}}, "additionalProperties": false}"#, r#"{"b": null}"#),
        (r#"{"properties": {"a": {"type": "null"}}}"#, r#"{"a": 1}"#),
        (r#"{"oneOf": []}"#, "1"),
    ];
    for (schema, value) in bad {
        let [schema, value] = [schema, value].map(|text| serde_json::from_str::<Value>(text).unwrap());
        assert!(check(&schema, &schema, &value).is_err(), "{schema} {value}");
    }
}
