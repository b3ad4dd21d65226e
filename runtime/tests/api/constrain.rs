//! Constrained answers satisfy their constraint for any seed; invalid constraints are rejected.

use std::ops::ControlFlow;

use jamba_runtime::{
    Batch, Constraint, Engine, Finish, GenerateOptions, Generated, Request, RuntimeError, SamplerOptions,
};
use serde_json::{Value, json};

use crate::generate::open;

fn answer(engine: &mut Engine, constraint: Constraint, seed: u64) -> Result<Generated, RuntimeError> {
    let sampler = SamplerOptions { temperature: 1.0, seed: Some(seed), ..SamplerOptions::default() };
    let options = GenerateOptions { max_new: 90, sampler, constraint: Some(constraint), ..GenerateOptions::default() };
    engine.generate(&[1, 20, 30], &options, |_| ControlFlow::Continue(()))
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 12 },
            "kind": { "enum": ["cat", "dog", null] },
            "age": { "type": "integer", "minimum": 0, "maximum": 30 },
            "tags": { "type": "array", "items": { "type": "boolean" }, "maxItems": 3 },
        },
        "required": ["name", "kind", "age", "tags"],
        "additionalProperties": false,
    })
}

fn satisfies(value: &Value) -> bool {
    let object = value.as_object().filter(|object| object.len() == 4);
    let tags = value["tags"].as_array().filter(|tags| tags.len() <= 3 && tags.iter().all(Value::is_boolean));
    object.is_some()
        && tags.is_some()
        && value["name"].as_str().is_some_and(|name| name.chars().count() <= 12)
        && (value["kind"].is_null() || value["kind"] == "cat" || value["kind"] == "dog")
        && value["age"].as_u64().is_some_and(|age| age <= 30)
}

#[test]
fn every_answer_under_a_schema_is_json_that_satisfies_it() {
    let mut engine = open();
    let mut texts = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let Generated { text, finish, .. } = answer(&mut engine, Constraint::JsonSchema(schema()), seed).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{seed}: {text:?}: {error}"));
        assert!(satisfies(&value), "{seed}: {text}");
        assert!(matches!(finish, Finish::Complete | Finish::Eos), "{seed}: {finish:?}");
        texts.insert(text);
    }
    assert!(texts.len() > 45, "{} different answers", texts.len());
}

#[test]
fn every_answer_under_an_expression_matches_it() {
    let mut engine = open();
    let date = |text: &str| {
        let parts: Vec<&str> = text.split('-').collect();
        let digits = |part: &str, n: usize| part.len() == n && part.bytes().all(|byte| byte.is_ascii_digit());
        parts.len() == 3
            && parts[0].starts_with("20")
            && digits(parts[0], 4)
            && digits(parts[1], 2)
            && digits(parts[2], 2)
    };
    for seed in 0..50 {
        let dates = Constraint::Regex("20[0-9]{2}-[01][0-9]-[0-3][0-9]".to_owned());
        let generated = answer(&mut engine, dates, seed).unwrap();
        assert!(date(&generated.text), "{seed}: {:?}", generated.text);
        assert_eq!(generated.finish, Finish::Complete, "nothing may follow a date");
        let list = "start: item (\", \" item)*\nitem: \"yes\" | \"no\"";
        let generated = answer(&mut engine, Constraint::Lark(list.to_owned()), seed).unwrap();
        let is_cut = generated.finish == Finish::Length;
        let whole = generated.text.split(", ").all(|item| ["yes", "no"].contains(&item));
        assert!(whole || is_cut, "{seed}: {:?}", generated.text);
    }
}

#[test]
fn the_end_comes_only_where_it_may() {
    let mut engine = open();
    // The end token is by far the most likely one, but no answer is empty.
    let sampler = SamplerOptions { logit_bias: vec![(2, 100.0)], ..SamplerOptions::default() };
    let constraint = Some(Constraint::Regex("[a-c]{3,9}".to_owned()));
    let options = GenerateOptions { max_new: 20, sampler, constraint, ..GenerateOptions::default() };
    let generated = engine.generate(&[1, 20], &options, |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((generated.text.len(), generated.finish), (3, Finish::Eos));
    // If end tokens are ignored, the text ends where the constraint allows no more.
    let options = GenerateOptions { ignore_eos: true, ..options };
    let generated = engine.generate(&[1, 20], &options, |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((generated.text.len(), generated.finish), (9, Finish::Complete));
}

#[test]
fn constraints_that_are_none_are_refused_by_name() {
    let mut engine = open();
    let refused = |engine: &mut Engine, constraint: Constraint| match answer(engine, constraint, 1) {
        Err(RuntimeError::Constraint { kind, reason }) => format!("{kind}: {reason}"),
        other => panic!("{other:?}"),
    };
    let cases = [
        (Constraint::JsonSchema(json!({ "type": "squirrel" })), "JSON schema: ", "squirrel"),
        (Constraint::JsonSchema(json!("object")), "JSON schema: ", "neither an object nor true"),
        (Constraint::JsonSchema(json!({ "type": "string", "minLength": 5, "maxLength": 2 })), "JSON schema: ", ""),
        (Constraint::JsonSchema(json!({ "$ref": "#/$defs/absent" })), "JSON schema: ", "absent"),
        (Constraint::JsonSchema(json!({ "$ref": "https://example.com/schema.json" })), "JSON schema: ", ""),
        (Constraint::Regex("[a".to_owned()), "regular expression: ", ""),
        (Constraint::Lark("start: nothing".to_owned()), "grammar: ", "nothing"),
        (Constraint::Lark(String::new()), "grammar: ", ""),
    ];
    for (constraint, begin, part) in cases {
        let message = refused(&mut engine, constraint);
        assert!(message.starts_with(begin) && message.contains(part), "{message}");
    }
    assert_eq!(engine.free().0, engine.manifest().limits.max_sequences);
    assert!(answer(&mut engine, Constraint::JsonSchema(json!(true)), 1).is_ok());
}

#[test]
fn a_constraint_compiled_on_another_thread_is_the_same() {
    let mut engine = open();
    let constraints = [Constraint::JsonSchema(schema()), Constraint::Regex("[a-z]{3,9}( [a-z]+){2}".to_owned())];
    for constraint in constraints {
        let (compiler, ours) = (engine.constraint_compiler().unwrap(), constraint.clone());
        let compiled = std::thread::spawn(move || compiler.compile(&ours).unwrap()).join().unwrap();
        // Used again and again, it begins anew each time.
        for seed in 0..4 {
            let expected = answer(&mut engine, constraint.clone(), seed).unwrap();
            let sampler = SamplerOptions { temperature: 1.0, seed: Some(seed), ..SamplerOptions::default() };
            let options = GenerateOptions { max_new: 90, sampler, ..GenerateOptions::default() };
            let options = GenerateOptions { compiled: Some(compiled.clone()), ..options };
            let found = engine.generate(&[1, 20, 30], &options, |_| ControlFlow::Continue(())).unwrap();
            assert_eq!((found.tokens, found.text, found.finish), (expected.tokens, expected.text, expected.finish));
        }
        // Several answers of one request share one compilation; each has a state of its own.
        for compiled in [None, Some(compiled)] {
            let sampler = SamplerOptions { temperature: 1.0, seed: Some(0), ..SamplerOptions::default() };
            let constraint_of = compiled.is_none().then(|| constraint.clone());
            let options = GenerateOptions { max_new: 90, sampler, ..GenerateOptions::default() };
            let options = GenerateOptions { compiled, constraint: constraint_of, ..options };
            let mut batch = Batch::new(&engine);
            batch.submit(&engine, Request { prompt: vec![1, 20, 30], options, n: 4, ..Request::default() }).unwrap();
            let mut texts = vec![String::new(); 4];
            while !batch.is_idle() {
                for event in batch.step(&mut engine).unwrap() {
                    let text = &mut texts[event.choice];
                    text.extend(event.token.iter().map(|token| &*token.text));
                    *text += &event.rest;
                }
            }
            for (seed, text) in texts.into_iter().enumerate() {
                assert_eq!(text, answer(&mut engine, constraint.clone(), seed as u64).unwrap().text);
            }
        }
    }
    let other = open().constraint_compiler().unwrap().compile(&Constraint::JsonSchema(json!(true))).unwrap();
    let options = GenerateOptions { max_new: 3, compiled: Some(other), ..GenerateOptions::default() };
    let error = engine.generate(&[1], &options, |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, RuntimeError::Option { name: "compiled constraint", .. }), "{error}");
    let refused = engine.constraint_compiler().unwrap().compile(&Constraint::Regex("[a".to_owned())).unwrap_err();
    assert!(matches!(refused, RuntimeError::Constraint { kind: "regular expression", .. }), "{refused}");
}
