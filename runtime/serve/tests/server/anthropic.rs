//! Anthropic's API over the same core.

use jamba_serve::ServeOptions;
use serde_json::{Value, json};

use crate::client::Running;

fn ask(stream: bool) -> Value {
    json!({
        "model": "toy", "max_tokens": 12, "seed": 4, "stream": stream, "system": "Be brief.",
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": "Hi" }] }],
    })
}

#[test]
fn a_message_streams_what_it_answers_whole() {
    let server = Running::new(ServeOptions::default());
    let whole = server.post("/v1/messages", &ask(false)).json();
    assert_eq!(
        (&whole["type"], &whole["role"], &whole["model"]),
        (&json!("message"), &json!("assistant"), &json!("toy"))
    );
    let chat = json!({
        "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Hi" }],
        "seed": 4, "max_tokens": 12,
    });
    let chat = server.post("/v1/chat/completions", &chat).json();
    assert_eq!(whole["content"], json!([{ "type": "text", "text": chat["choices"][0]["message"]["content"] }]));
    let events = server.post("/v1/messages", &ask(true)).named_events();
    assert!(events.iter().all(|(name, object)| object["type"] == *name), "{events:?}");
    let names: Vec<&str> =
        events.iter().map(|(name, _)| name.as_str()).filter(|name| *name != "content_block_delta").collect();
    assert_eq!(names, ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"]);
    let text: String = events.iter().filter_map(|(_, object)| object["delta"]["text"].as_str()).collect();
    assert_eq!(whole["content"][0]["text"], text);
    let end = &events[events.len() - 2].1;
    assert_eq!(end["delta"]["stop_reason"], whole["stop_reason"]);
    assert_eq!(end["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
    let count = server.post("/v1/messages/count_tokens", &ask(false)).json();
    let usage = &whole["usage"];
    let read = usage["input_tokens"].as_u64().zip(usage["cache_read_input_tokens"].as_u64());
    assert_eq!(count["input_tokens"].as_u64(), read.map(|(read, cached)| read + cached));
}

#[test]
fn errors_have_anthropics_form() {
    let server = Running::new(ServeOptions::default());
    let image = json!({ "messages": [{ "role": "user", "content": [{ "type": "image", "source": {} }] }] });
    for (body, status, kind, part) in [
        (
            json!({ "model": "other", "messages": [{ "role": "user", "content": "Hi" }] }),
            404,
            "not_found_error",
            "other",
        ),
        (image, 400, "invalid_request_error", "messages[0].content[0].type"),
        (json!({ "messages": 3 }), 400, "invalid_request_error", "messages"),
        (json!({ "messages": [{ "role": "user", "content": "Hi" }], "n": 2 }), 400, "invalid_request_error", "n"),
    ] {
        let response = server.post("/v1/messages", &body);
        let object = response.json();
        assert_eq!((response.status, &object["type"]), (status, &json!("error")), "{}", response.body);
        assert_eq!(object["error"]["type"], kind);
        assert!(object["error"]["message"].as_str().is_some_and(|text| text.contains(part)), "{}", response.body);
    }
}
