//! Ollama's API over the same core.

use jamba_serve::ServeOptions;
use serde_json::{Value, json};

use crate::client::{Response, Running};

/// The objects of a stream.
fn lines(response: &Response) -> Vec<Value> {
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/x-ndjson")));
    response.body.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

#[test]
fn a_chat_streams_what_it_answers_whole() {
    let server = Running::new(ServeOptions::default());
    let messages = json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Hi" }]);
    let options = json!({ "num_predict": 12, "seed": 4, "temperature": 0.5, "num_ctx": 99 });
    let ask = json!({ "model": "toy:latest", "messages": messages, "options": options });
    let whole = server.post("/api/chat", &with(ask.clone(), json!({ "stream": false }))).json();
    let chat = json!({ "messages": messages, "max_tokens": 12, "seed": 4, "temperature": 0.5 });
    let chat = server.post("/v1/chat/completions", &chat).json();
    assert_eq!(whole["message"]["content"], chat["choices"][0]["message"]["content"], "{whole}");
    assert_eq!((&whole["model"], &whole["done"]), (&json!("toy:latest"), &json!(true)));
    assert_eq!(whole["done_reason"], chat["choices"][0]["finish_reason"]);
    let (prompt, new) = (&chat["usage"]["prompt_tokens"], &chat["usage"]["completion_tokens"]);
    assert_eq!((&whole["prompt_eval_count"], &whole["eval_count"]), (prompt, new));
    assert!(["total_duration", "prompt_eval_duration", "eval_duration"].iter().all(|name| whole[name].is_u64()));
    let events = lines(&server.post("/api/chat", &ask));
    let (last, parts) = events.split_last().expect("objects");
    assert!(parts.iter().all(|part| part["done"] == false && part["message"]["role"] == "assistant"));
    let text: String = events.iter().filter_map(|event| event["message"]["content"].as_str()).collect();
    assert_eq!(whole["message"]["content"], text);
    assert_eq!((&last["done"], &last["eval_count"]), (&json!(true), new));
}

#[test]
fn a_prompt_is_a_chat_or_goes_on_as_it_is() {
    let server = Running::new(ServeOptions::default());
    let options = json!({ "num_predict": 9, "seed": 2 });
    let ask = json!({ "model": "toy", "prompt": "Once upon", "options": options, "stream": false });
    let found = server.post("/api/generate", &ask).json();
    let chat = json!({ "messages": [{ "role": "user", "content": "Once upon" }], "max_tokens": 9, "seed": 2 });
    let chat = server.post("/v1/chat/completions", &chat).json();
    assert_eq!(found["response"], chat["choices"][0]["message"]["content"], "{found}");
    let raw = with(ask, json!({ "raw": true }));
    let found = server.post("/api/generate", &raw).json();
    let text = json!({ "prompt": "Once upon", "max_tokens": 9, "seed": 2 });
    let text = server.post("/v1/completions", &text).json();
    assert_eq!(found["response"], text["choices"][0]["text"], "{found}");
    assert_eq!(found["prompt_eval_count"], text["usage"]["prompt_tokens"]);
    let events = lines(&server.post("/api/generate", &with(raw, json!({ "stream": true }))));
    let streamed: String = events.iter().filter_map(|event| event["response"].as_str()).collect();
    assert_eq!(text["choices"][0]["text"], streamed);
    let load = server.post("/api/generate", &json!({ "model": "toy" })).json();
    assert_eq!((&load["done_reason"], &load["response"]), (&json!("load"), &json!("")));
}

#[test]
fn the_model_is_described() {
    let server = Running::new(ServeOptions { aliases: vec!["other".into()], ..ServeOptions::default() });
    let tags = server.get("/api/tags").json();
    let names: Vec<&Value> = tags["models"].as_array().expect("models").iter().map(|model| &model["name"]).collect();
    assert_eq!(names, ["toy", "other"]);
    assert!(tags["models"][0]["digest"].as_str().is_some_and(|digest| digest.len() == 64));
    assert_eq!(server.get("/api/ps").json()["models"][0]["context_length"], 100);
    let show = server.post("/api/show", &json!({ "model": "other" })).json();
    assert_eq!(show["model_info"]["jamba.context_length"], 100);
    assert!(show["capabilities"].as_array().is_some_and(|all| all.contains(&json!("completion"))));
    assert!(server.get("/api/version").json()["version"].is_string());
}

#[test]
fn errors_are_texts() {
    let server = Running::new(ServeOptions::default());
    let hi = json!([{ "role": "user", "content": "Hi" }]);
    for (path, body, status, part) in [
        ("/api/chat", json!({ "model": "gpt", "messages": hi }), 404, "gpt"),
        ("/api/chat", json!({ "messages": hi, "options": { "temperature": -1 } }), 400, "temperature"),
        ("/api/chat", json!({ "messages": [{ "role": "user", "images": ["x"] }] }), 400, "images"),
        ("/api/generate", json!({ "prompt": "a", "suffix": "b" }), 400, "suffix"),
        ("/api/pull", json!({ "model": "m" }), 404, "/api/pull"),
        ("/api/show", json!({ "model": "gpt" }), 404, "gpt"),
    ] {
        let response = server.post(path, &body);
        assert_eq!(response.status, status, "{path} {body}: {}", response.body);
        assert!(response.json()["error"].as_str().is_some_and(|text| text.contains(part)), "{}", response.body);
    }
}
