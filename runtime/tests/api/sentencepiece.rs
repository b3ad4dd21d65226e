//! A SentencePiece tokenizer with byte fallback, as all official Jamba models have; tests/record/sentencepiece.py recorded what
//! transformers makes of it, and of chats in the styles of their templates.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use jamba_runtime::{
    Batch, Chat, ChatTemplate, Constraint, Engine, Finish, GenerateOptions, Generated, OpenOptions, Request,
    SamplerOptions, SpecialTokens, Tokenizer,
};
use serde_json::Value;

use crate::fixture::Toy;
use crate::fixture::text::Text;

const TOKENIZER: &str = include_str!("../chat/sentencepiece/tokenizer.json");
const CONFIG: &str = include_str!("../chat/sentencepiece/tokenizer_config.json");
const RECORDED: &str = include_str!("../chat/sentencepiece.json");
const TEMPLATES: [(&str, &str); 2] =
    [("jamba1", include_str!("../chat/jamba1.jinja")), ("chatml", include_str!("../chat/chatml.jinja"))];

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::new(TOKENIZER.as_bytes(), Some(CONFIG.as_bytes()), Some(1)).unwrap())
}

fn recorded() -> Value {
    serde_json::from_str(RECORDED).unwrap()
}

fn tokens(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn texts_have_the_tokens_of_transformers() {
    let (tokenizer, recorded) = (tokenizer(), recorded());
    let rows = recorded["texts"].as_array().unwrap();
    for row in rows {
        let text = row["text"].as_str().unwrap();
        let all = tokenizer.encode(text).unwrap();
        assert_eq!(all, tokens(&row["tokens"]), "{text:?}");
        assert_eq!(tokenizer.encode_plain(text).unwrap(), tokens(&row["plain"]), "{text:?}");
        assert_eq!(tokenizer.decode(&all).unwrap(), row["decoded"].as_str().unwrap(), "{text:?}");
        let with_special = tokenizer.decode_with(&all, SpecialTokens::All).unwrap();
        assert_eq!(with_special, row["with_special"].as_str().unwrap(), "{text:?}");
        let mut stream = tokenizer.stream();
        let streamed: String = all.iter().map(|&token| stream.push(token).unwrap()).collect();
        assert_eq!(streamed + &stream.finish().unwrap(), row["decoded"].as_str().unwrap(), "{text:?}");
    }
    assert!(rows.len() > 15);
}

#[test]
fn a_prompt_and_its_answer_read_as_one_text() {
    let (tokenizer, recorded) = (tokenizer(), recorded());
    let rows = recorded["answers"].as_array().unwrap();
    for row in rows {
        let mut stream = tokenizer.stream_after(&tokens(&row["prompt"]), SpecialTokens::Hidden);
        let text: String = tokens(&row["tokens"]).iter().map(|&token| stream.push(token).unwrap()).collect();
        assert_eq!(text + &stream.finish().unwrap(), row["text"].as_str().unwrap(), "{row}");
    }
    assert!(rows.len() > 6);
}

#[test]
fn chats_have_the_texts_and_tokens_of_transformers() {
    let (tokenizer, recorded) = (tokenizer(), recorded());
    for suite in recorded["suites"].as_array().unwrap() {
        let (name, source) = TEMPLATES.into_iter().find(|(name, _)| suite["template"] == *name).unwrap();
        let template = ChatTemplate::new(Some(source.as_bytes()), Some(CONFIG.as_bytes())).unwrap();
        let chats = suite["chats"].as_array().unwrap();
        assert_eq!(chats.len(), 13);
        for case in chats {
            let chat: Chat = serde_json::from_value(case["chat"].clone()).unwrap();
            match (template.render_parts(&chat), case["text"].as_str()) {
                (Ok(rendered), Some(expected)) => {
                    let expected_tokens = tokens(&case["tokens"]);
                    assert_eq!(rendered.text(), expected, "{name}: {}", case["name"]);
                    let all = tokenizer.encode_plain(rendered.text()).unwrap();
                    assert_eq!(all, expected_tokens, "{name}: {}", case["name"]);
                    let apart = tokenizer.encode_chat(&rendered).unwrap().tokens;
                    assert_eq!(apart, expected_tokens, "{name}: {}", case["name"]);
                }
                (Err(error), None) => {
                    let reason = case["refused"].as_str().unwrap();
                    assert!(error.to_string().contains(reason), "{name}: {}: {error}", case["name"]);
                }
                (found, expected) => panic!("{name}: {}: {found:?}, expected {expected:?}", case["name"]),
            }
        }
    }
}

fn open(folder: &Path) -> Engine {
    let plan = Toy::new().and_text_of(Text::sentencepiece()).write(folder, "toy.plan");
    Engine::open(&plan, OpenOptions { threads: Some(1), ..OpenOptions::default() }).unwrap()
}

/// Greedy, with a bias that makes the tokens of `text` all that the constraint leaves or the sampler picks.
fn forced(engine: &Engine, name: &str, max_new: usize) -> GenerateOptions {
    let token = engine.tokenizer().unwrap().id(name).unwrap();
    let sampler = SamplerOptions { logit_bias: vec![(token, 1000.0)], ..SamplerOptions::default() };
    GenerateOptions { max_new, sampler, ..GenerateOptions::default() }
}

fn answer(engine: &mut Engine, prompt: &[u32], options: &GenerateOptions) -> Generated {
    let mut told = String::new();
    let generated = engine.generate(prompt, options, |token| {
        told += &token.text;
        ControlFlow::Continue(())
    });
    let generated = generated.unwrap();
    assert_eq!(told + &generated.rest, generated.text);
    // A batch gives the same text.
    let mut batch = Batch::new(engine);
    batch.submit(engine, Request { prompt: prompt.to_vec(), options: options.clone(), ..Request::default() }).unwrap();
    let mut text = String::new();
    while !batch.is_idle() {
        for event in batch.step(engine).unwrap() {
            text += event.token.as_ref().map_or("", |token| &token.text);
            text += &event.rest;
        }
    }
    assert_eq!(text, generated.text);
    generated
}

#[test]
fn the_first_space_of_an_answer_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path());
    let tokenizer = engine.tokenizer().unwrap();
    let prompt = tokenizer.encode("ab").unwrap();
    assert_eq!(prompt[0], 1, "the start token of the post-processor");
    let options = forced(&engine, "▁a", 3);
    assert_eq!(answer(&mut engine, &prompt, &options).text, " a a a");
    // After the start token alone, the answer begins the text.
    assert_eq!(answer(&mut engine, &[1], &options).text, "a a a");
    // Stop strings and constraints see the same text.
    let stopped = answer(&mut engine, &prompt, &GenerateOptions { stop: vec![" a a".to_owned()], ..options.clone() });
    assert_eq!((stopped.text.as_str(), stopped.finish, stopped.tokens.len()), ("", Finish::Stopped, 2));
    let constraint = Some(Constraint::Regex("( a){2}".to_owned()));
    let matched = answer(&mut engine, &prompt, &GenerateOptions { constraint, ..options.clone() });
    assert_eq!((matched.text.as_str(), matched.finish), (" a a", Finish::Complete));
    // A restored sequence is context too.
    let sequence = engine.add_sequence().unwrap();
    engine.prefill(sequence, &prompt, None, None).unwrap();
    let snapshot = engine.snapshot(sequence).unwrap();
    let restored = engine.restore(&snapshot).unwrap();
    let start = tokenizer.id("<|im_start|>").unwrap();
    let continued = engine.generate_in(restored, &[start], &options, |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(continued.text, " a a a");
}

#[test]
fn an_answer_ends_no_earlier_than_it_may_and_has_only_allowed_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path());
    let tokenizer = engine.tokenizer().unwrap();
    let (prompt, [a, b]) = (tokenizer.encode("ab").unwrap(), ["▁a", "▁b"].map(|name| tokenizer.id(name).unwrap()));
    let options = forced(&engine, "▁a", 6);
    // A stop token is not picked before its time.
    let early = GenerateOptions { stop_tokens: vec![a], min_new: 3, ..options.clone() };
    let found = answer(&mut engine, &prompt, &early);
    assert_eq!(
        (found.tokens.len(), found.finish, found.tokens.iter().position(|&token| token == a)),
        (4, Finish::Stopped, Some(3))
    );
    // Nor does a stop string count before, and it may be kept.
    let stop = vec![" a a".to_owned()];
    let early = GenerateOptions { stop: stop.clone(), min_new: 3, ..options.clone() };
    assert_eq!(answer(&mut engine, &prompt, &early).text, " a a a");
    let kept = GenerateOptions { include_stop: true, stop: stop.clone(), ..options.clone() };
    assert_eq!(answer(&mut engine, &prompt, &kept).text, " a a");
    let kept = GenerateOptions { min_new: 1, ..kept };
    assert_eq!(answer(&mut engine, &prompt, &kept).text, " a a a");
    // A constraint that is satisfied ends the answer all the same.
    let constraint = Some(Constraint::Regex(" a".to_owned()));
    let short = answer(&mut engine, &prompt, &GenerateOptions { constraint, min_new: 5, ..options.clone() });
    assert_eq!((short.text.as_str(), short.finish), (" a", Finish::Complete));
    // The only tokens that may be picked.
    let only = GenerateOptions { allowed_tokens: Some(vec![b]), ..options.clone() };
    assert_eq!(answer(&mut engine, &prompt, &only).text, " b b b b b b");
    let unknown = GenerateOptions { allowed_tokens: Some(vec![1 << 30]), ..options.clone() };
    assert!(engine.generate(&prompt, &unknown, |_| ControlFlow::Continue(())).is_err());
    let none = GenerateOptions { allowed_tokens: Some(Vec::new()), ..options };
    assert!(engine.generate(&prompt, &none, |_| ControlFlow::Continue(())).is_err());
}

#[test]
fn constraints_hold_where_characters_are_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path());
    let prompt = engine.tokenizer().unwrap().encode("ab").unwrap();
    for (seed, expression, n_characters) in [(1, "é{3}", 3), (2, "(日|é|a){4}", 4), (3, "[a-c]{2} 本", 4)] {
        let sampler = SamplerOptions { temperature: 1.0, seed: Some(seed), ..SamplerOptions::default() };
        let constraint = Some(Constraint::Regex(expression.to_owned()));
        let options = GenerateOptions { max_new: 60, sampler, constraint, ..GenerateOptions::default() };
        let Generated { text, finish, .. } = answer(&mut engine, &prompt, &options);
        assert_eq!((text.chars().count(), finish), (n_characters, Finish::Complete), "{text:?}");
        assert!(!text.contains(char::REPLACEMENT_CHARACTER), "{text:?}");
    }
}

#[test]
fn special_tokens_of_calls_and_reasoning_are_text() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = open(folder.path());
    let prompt = engine.tokenizer().unwrap().encode("ab").unwrap();
    let mut text = |name: &str, special_tokens: SpecialTokens, stop: &[&str]| {
        let stop = stop.iter().map(|&stop| stop.to_owned()).collect();
        let options = GenerateOptions { special_tokens, stop, ..forced(&engine, name, 2) };
        let generated = answer(&mut engine, &prompt, &options);
        (generated.text, generated.finish)
    };
    let whole = |text: &str| (text.to_owned(), Finish::Length);
    // The template names these; roles of messages are not part of an answer.
    assert_eq!(text("</think>", SpecialTokens::Marks, &[]), whole("</think></think>"));
    assert_eq!(text("<tool_call>", SpecialTokens::default(), &[]), whole("<tool_call><tool_call>"));
    assert_eq!(text("<|im_start|>", SpecialTokens::Marks, &[]), whole(""));
    assert_eq!(text("<think>", SpecialTokens::Marks, &[]), whole(""), "the template does not name it");
    assert_eq!(text("<|im_start|>", SpecialTokens::All, &[]), whole("<|im_start|><|im_start|>"));
    assert_eq!(text("</think>", SpecialTokens::Hidden, &[]), whole(""));
    // A stop string names one that is hidden otherwise.
    assert_eq!(text("<|im_start|>", SpecialTokens::Hidden, &["<|im_start|>"]), (String::new(), Finish::Stopped));
    assert_eq!(text("</tool_call>", SpecialTokens::Marks, &["</tool_call>"]), (String::new(), Finish::Stopped));
}
