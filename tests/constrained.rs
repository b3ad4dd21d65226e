//! Constrained answers of models/tiny match their schema or expression for every seed.

use std::ops::ControlFlow;
use std::path::Path;

use jamba_runtime::{Constraint, Finish, GenerateOptions, SamplerOptions};
use jambac::compile::{Progress, Request, build};
use jambac::manifest::ModelFile;
use serde_json::{Value, json};

use crate::oracle::open;

#[test]
fn fifty_stories_of_the_tiny_model_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("tiny.plan");
    let model = ModelFile::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny")).unwrap();
    build(&Request::new(model, output.clone()), &Progress::hidden()).unwrap();
    let mut engine = open(&output, 1);
    let prompt = engine.tokenizer().unwrap().encode("Once upon a time there was").unwrap();
    let mut answer = |constraint: &Constraint, seed| {
        let sampler = SamplerOptions { temperature: 1.0, seed: Some(seed), ..SamplerOptions::default() };
        let constraint = Some(constraint.clone());
        let options = GenerateOptions { max_new: 200, sampler, constraint, ..GenerateOptions::default() };
        engine.generate(&prompt, &options, |_| ControlFlow::Continue(())).unwrap()
    };
    let schema = Constraint::JsonSchema(json!({
        "type": "object",
        "properties": {
            "hero": { "type": "string", "minLength": 1, "maxLength": 20 },
            "age": { "type": "integer", "minimum": 1, "maximum": 12 },
            "friends": { "type": "array", "items": { "enum": ["dog", "cat", "bird"] }, "maxItems": 3 },
        },
        "required": ["hero", "age", "friends"],
        "additionalProperties": false,
    }));
    let places =
        Constraint::Regex("In the (park|house|garden), (Tom|Lily|Mia) (saw|found) a [a-z]{1,12}\\.".to_owned());
    for seed in 0..50 {
        let generated = answer(&schema, seed);
        let value: Value = serde_json::from_str(&generated.text)
            .unwrap_or_else(|error| panic!("seed {seed}: {:?}: {error}", generated.text));
        let friends = value["friends"].as_array().expect("friends");
        let is_friend = |friend: &Value| ["dog", "cat", "bird"].iter().any(|name| friend == name);
        let hero = value["hero"].as_str().expect("a hero").chars().count();
        let age = value["age"].as_u64().expect("an age");
        let fits = (1..=20).contains(&hero) && (1..=12).contains(&age) && friends.len() <= 3;
        assert!(fits && friends.iter().all(is_friend), "seed {seed}: {}", generated.text);
        assert_eq!(value.as_object().map(|object| object.len()), Some(3), "seed {seed}: {}", generated.text);

        let generated = answer(&places, seed);
        let rest = generated.text.strip_prefix("In the ").and_then(|rest| rest.split_once(" a "));
        let (_, thing) = rest.unwrap_or_else(|| panic!("seed {seed}: {:?}", generated.text));
        let thing = thing.strip_suffix('.').expect("a full stop");
        assert!((1..=12).contains(&thing.len()) && thing.bytes().all(|byte| byte.is_ascii_lowercase()), "{thing}");
        assert_eq!(generated.finish, Finish::Complete);
        if seed < 3 {
            println!("{} | {}", value, generated.text);
        }
    }
}
