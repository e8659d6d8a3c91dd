//! Whatever the model makes of a text, it parses and is what the schema says.

use babyllama::{Model, Sampler, SamplerOptions};
use serde::Deserialize;
use serde_json::Value;

use super::{Extractor, Failure};

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "name": { "type": "string", "pattern": "^[A-Z][a-z]{1,9}$" },
        "animal": { "enum": ["cat", "dog", "bird"] },
        "age": { "type": "integer", "minimum": 1, "maximum": 20 },
        "friends": { "type": "array", "items": { "enum": ["Tom", "Lily", "Ben"] }, "maxItems": 3 },
        "happy": { "type": "boolean" }
    },
    "required": ["name", "animal", "friends", "happy"],
    "additionalProperties": false,
    "x-guidance": { "whitespace_flexible": false }
}"#;

const EXAMPLES: &str = r#"Rex is a dog. Rex plays with Tom. Rex smiles.
{"name":"Rex","animal":"dog","friends":["Tom"],"happy":true}
Pip is a bird of 3 years. Pip is sad.
{"name":"Pip","animal":"bird","age":3,"friends":[],"happy":false}
"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "that they can be read is what is tested")]
struct Pet {
    name: String,
    animal: Animal,
    age: Option<u8>,
    friends: Vec<Friend>,
    happy: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Animal {
    Cat,
    Dog,
    Bird,
}

#[derive(Deserialize)]
enum Friend {
    Tom,
    Lily,
    Ben,
}

fn texts() -> Vec<String> {
    let pets = [("Mimi", "cat"), ("Max", "dog"), ("Tweet", "bird"), ("Luna", "cat")];
    let lives =
        ["of 5 years. It plays with Lily and Ben. It is happy.", "and lost its ball. It is sad.", "."];
    let text = |(name, animal), life| format!("{name} is a {animal} {life}\n");
    pets.iter().flat_map(|&pet| lives.map(|life| text(pet, life))).collect()
}

fn extractor(schema: &str, sampling: SamplerOptions) -> Extractor {
    Extractor::new(&Model::bundled().unwrap(), EXAMPLES, schema, Sampler::new(sampling)).unwrap()
}

#[test]
fn whatever_is_extracted_is_what_the_schema_says() {
    let greedy = SamplerOptions::new().temperature(0.0);
    for sampling in [greedy, SamplerOptions::new().seed(1), SamplerOptions::new().temperature(2.0).top_p(1.0)]
    {
        let extractor = extractor(SCHEMA, sampling);
        for text in texts() {
            // Types and required fields are serde's to check; there are no others.
            let Pet { name, animal: _, age, friends, happy: _ } = extractor.extract(&text).unwrap();
            let (first, rest) = name.split_at(1);
            assert!(first.chars().all(|c| c.is_ascii_uppercase()), "{name}");
            assert!(rest.chars().all(|c| c.is_ascii_lowercase()), "{name}");
            assert!((1..10).contains(&rest.len()), "{name}");
            assert!(age.is_none_or(|age| (1..=20).contains(&age)) && friends.len() <= 3, "{text}");
        }
    }
}

#[test]
fn the_same_text_gives_the_same_fields_whatever_came_before() {
    let sampling = SamplerOptions::new().seed(5);
    let all = extractor(SCHEMA, sampling.clone());
    let before: Vec<Value> = texts().iter().map(|text| all.extract(text).unwrap()).collect();
    for (text, value) in texts().iter().zip(before).rev() {
        assert_eq!(all.extract::<Value>(text).unwrap(), value);
        assert_eq!(extractor(SCHEMA, sampling.clone()).extract::<Value>(text).unwrap(), value);
    }
}

#[test]
fn what_cannot_be_extracted_says_why() {
    let text = &texts()[0];
    let endless = extractor(r#"{"type": "string", "minLength": 900}"#, SamplerOptions::new());
    let failure = endless.extract::<Value>(text).unwrap_err();
    assert!(matches!(&failure, Failure::Unfinished(json) if json.starts_with('"')), "{failure}");
    let failure = extractor(SCHEMA, SamplerOptions::new()).extract::<Vec<u8>>(text).unwrap_err();
    assert!(
        matches!(failure, Failure::Type(_)) && failure.to_string().contains("expected a sequence"),
        "{failure}"
    );
    let failure = endless.extract::<Value>(&text.repeat(99)).unwrap_err();
    assert!(
        matches!(failure, Failure::Library(_)) && failure.to_string().contains("512 tokens"),
        "{failure}"
    );
    let model = Model::bundled().unwrap();
    let wrong = Extractor::new(&model, EXAMPLES, r#"{"type": "cat"}"#, Sampler::default()).unwrap_err();
    assert!(wrong.to_string().starts_with("JSON schema: "), "{wrong}");
}
