//! The BOS/EOS template of `tokenizer.json`: what it puts before a text and after it. GGUF knows
//! BOS and EOS, and nothing else.

use serde_json::{Map, Value};

use super::json::Object;
use super::tokenizer_json::{kind_of, stages, unsupported};
use crate::error::{Result, TokenId};

/// The tokens before a text and after it.
pub(super) fn bos_eos(processor: Option<&Value>) -> Result<(Option<TokenId>, Option<TokenId>)> {
    let mut template = None;
    for stage in stages(processor, "processors") {
        let refuse = || unsupported("post_processor", &Value::Object(stage.clone()));
        let found = match kind_of(stage) {
            // It only moves the places that tokens are said to come from.
            Some("ByteLevel") => continue,
            Some("TemplateProcessing") => single(stage).ok_or_else(refuse)?,
            Some("BertProcessing" | "RobertaProcessing") => {
                let id = |key| token_id(stage.get(key)?.get(1)?);
                (Some(id("cls").ok_or_else(refuse)?), Some(id("sep").ok_or_else(refuse)?))
            }
            _ => return Err(refuse()),
        };
        // A second template would be put around the first.
        if template.replace(found).is_some() {
            return Err(refuse());
        }
    }
    Ok(template.unwrap_or_default())
}

/// The tokens of a template that is a text with no more than one token before it and one after it.
fn single(stage: &Map<String, Value>) -> Option<(Option<TokenId>, Option<TokenId>)> {
    let stage = Object::of(stage);
    let specials = stage.get("special_tokens")?;
    let id = |part: &Value| {
        let ids = specials.get(part.get("SpecialToken")?.get("id")?.as_str()?)?.get("ids")?.as_array()?;
        if let [id] = &**ids { token_id(id) } else { None }
    };
    let is_text = |part: &Value| part.get("Sequence").is_some_and(|text| text.get("id") == Some(&"A".into()));
    match &**stage.get("single")?.as_array()? {
        [text] if is_text(text) => Some((None, None)),
        [bos, text] if is_text(text) => Some((Some(id(bos)?), None)),
        [text, eos] if is_text(text) => Some((None, Some(id(eos)?))),
        [bos, text, eos] if is_text(text) => Some((Some(id(bos)?), Some(id(eos)?))),
        _ => None,
    }
}

fn token_id(value: &Value) -> Option<TokenId> {
    value.as_u64()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_is_bos_and_eos_or_it_is_refused() {
        let special = |name: &str| json!({"SpecialToken": {"id": name, "type_id": 0}});
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let template = |single: Value| {
            let specials = json!({"<s>": {"id": "<s>", "ids": [1]}, "</s>": {"id": "</s>", "ids": [2]},
                "<two>": {"id": "<two>", "ids": [3, 4]}});
            json!({"type": "TemplateProcessing", "single": single, "special_tokens": specials})
        };
        let (bos, eos) = (special("<s>"), special("</s>"));
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false});
        let bert = |kind: &str| json!({"type": kind, "sep": ["</s>", 2], "cls": ["<s>", 1]});
        let sequence = |parts: Value| json!({"type": "Sequence", "processors": parts});
        for (processor, expected) in [
            (Value::Null, (None, None)),
            (bytes.clone(), (None, None)),
            (template(json!([text])), (None, None)),
            (template(json!([bos, text])), (Some(1), None)),
            (template(json!([text, eos])), (None, Some(2))),
            (template(json!([eos, text, bos])), (Some(2), Some(1))),
            (bert("BertProcessing"), (Some(1), Some(2))),
            (bert("RobertaProcessing"), (Some(1), Some(2))),
            (sequence(json!([bytes, template(json!([bos, text]))])), (Some(1), None)),
            (sequence(json!([])), (None, None)),
        ] {
            assert_eq!(bos_eos(Some(&processor)).unwrap(), expected, "{processor}");
        }
        for refused in [
            template(json!([bos, eos, text])),
            template(json!([text, bos, eos])),
            template(json!([text, text])),
            template(json!([special("<two>"), text])),
            template(json!([special("<none>"), text])),
            template(json!([])),
            sequence(json!([bert("BertProcessing"), template(json!([bos, text]))])),
            json!({"type": "Other"}),
        ] {
            assert!(bos_eos(Some(&refused)).is_err(), "{refused}");
        }
    }
}
