//! models/tiny answers questions about stories with the same text as in Hugging Face transformers.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use jamba_runtime::GenerateOptions;
use jambac::compile::{Progress, Request, build};
use jambac::manifest::ModelFile;
use serde_json::Value;

use crate::oracle::open;

/// Token limit of an answer, as in the recording.
const MAX_NEW: usize = 16;

#[test]
fn answers_are_those_of_transformers() {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny");
    let recorded = std::fs::read_to_string(checkpoint.join("questions.jsonl")).expect("models/tiny/questions.jsonl");
    let questions: Vec<Value> = recorded.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    assert!(questions.len() >= 200, "only {} questions", questions.len());

    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("tiny.plan");
    let model = ModelFile::open(&checkpoint).unwrap();
    build(&Request::new(model, output.clone()), &Progress::hidden()).unwrap();
    let mut engine = open(&output, 2);
    let tokenizer = engine.tokenizer().unwrap().clone();

    let options = GenerateOptions { max_new: MAX_NEW, ..GenerateOptions::default() };
    // Number of filler sentences → (correct answers, questions).
    let mut scores: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    for question in &questions {
        let text = |key: &str| question[key].as_str().expect("a text");
        let prompt = tokenizer.encode(text("prompt")).unwrap();
        assert_eq!(Some(prompt.len() as u64), question["prompt_tokens"].as_u64(), "tokens of {:?}", text("prompt"));
        let generated = engine.generate(&prompt, &options, |_| ControlFlow::Continue(())).unwrap();
        let said = tokenizer.decode(&generated.tokens).unwrap();
        let said = said.split('\n').next().unwrap_or_default().trim();
        assert_eq!(said, text("transformers_answer"), "asked {:?}", text("prompt"));
        let score = scores.entry(question["filler"].as_u64().expect("a number")).or_default();
        *score = (score.0 + u32::from(said == text("answer")), score.1 + 1);
    }
    for (filler, (right, asked)) in &scores {
        println!("{filler} filler sentences: {right} of {asked} exact");
        assert!(*filler > 8 || right * 100 >= asked * 95, "{filler} filler sentences: {right} of {asked} exact");
    }
}
