//! The Responses API over the same core.

use jamba_serve::ServeOptions;
use serde_json::{Value, json};

use crate::client::Running;

fn ask(more: Value) -> Value {
    let mut body = json!({ "model": "toy", "input": "Hi", "max_output_tokens": 12, "seed": 4 });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

#[test]
fn a_response_streams_what_it_answers_whole() {
    let server = Running::new(ServeOptions::default());
    let more = json!({ "instructions": "Be brief.", "metadata": { "a": "b" }, "temperature": 0.5, "store": false });
    let whole = server.post("/v1/responses", &ask(more.clone())).json();
    let chat = json!({
        "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Hi" }],
        "seed": 4, "max_tokens": 12, "temperature": 0.5,
    });
    let chat = server.post("/v1/chat/completions", &chat).json();
    let message = &whole["output"][0];
    assert_eq!((&message["type"], &message["role"]), (&json!("message"), &json!("assistant")), "{whole}");
    assert_eq!(message["content"][0]["text"], chat["choices"][0]["message"]["content"]);
    assert_eq!(whole["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
    assert_eq!(whole["usage"]["output_tokens"], chat["usage"]["completion_tokens"]);
    assert_eq!((&whole["temperature"], &whole["metadata"]), (&json!(0.5), &more["metadata"]));
    assert_eq!((&whole["instructions"], &whole["store"]), (&more["instructions"], &json!(false)));
    let mut streamed = ask(more);
    streamed["stream"] = json!(true);
    let events = server.post("/v1/responses", &streamed).named_events();
    for (index, (name, event)) in events.iter().enumerate() {
        assert_eq!((&event["type"], &event["sequence_number"]), (&json!(name), &json!(index)));
    }
    let names: Vec<&str> =
        events.iter().map(|(name, _)| name.as_str()).filter(|name| !name.ends_with(".delta")).collect();
    let end = if whole["status"] == "incomplete" { "response.incomplete" } else { "response.completed" };
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        end,
    ];
    assert_eq!(names, expected);
    let text: String = events.iter().filter_map(|(_, event)| event["delta"].as_str()).collect();
    assert_eq!(message["content"][0]["text"], text);
    let last = &events.last().expect("an end").1["response"];
    assert_eq!((&last["output"][0]["content"], &last["status"]), (&message["content"], &whole["status"]));
    assert_eq!(last["id"], events[0].1["response"]["id"]);
    assert_eq!(last["incomplete_details"], whole["incomplete_details"]);
}

#[test]
fn a_response_goes_on_from_one_that_is_kept() {
    let server = Running::new(ServeOptions::default());
    let first = server.post("/v1/responses", &ask(json!({ "instructions": "Be brief." }))).json();
    let id = first["id"].as_str().expect("an id");
    let path = format!("/v1/responses/{id}");
    assert_eq!(server.get(&path).json(), first);
    let said = first["output"][0]["content"][0]["text"].clone();
    let items = json!([
        { "role": "user", "content": "Hi" },
        { "type": "message", "role": "assistant", "content": said },
        { "role": "user", "content": "And?" },
    ]);
    let text = |answer: &Value| answer["output"][0]["content"].clone();
    let whole = server.post("/v1/responses", &ask(json!({ "input": items }))).json();
    let next = server.post("/v1/responses", &ask(json!({ "input": "And?", "previous_response_id": id }))).json();
    assert_eq!((text(&next), &next["usage"]["input_tokens"]), (text(&whole), &whole["usage"]["input_tokens"]));
    assert_eq!(next["previous_response_id"], id);
    let unkept = server.post("/v1/responses", &ask(json!({ "store": false }))).json()["id"].clone();
    let refused = server.post("/v1/responses", &ask(json!({ "previous_response_id": unkept })));
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (400, &json!("previous_response_not_found")));
    let delete = || server.send(&format!("DELETE {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    assert_eq!(delete().json(), json!({ "id": id, "object": "response", "deleted": true }));
    for gone in [delete(), server.get(&path)] {
        assert_eq!((gone.status, &gone.json()["error"]["code"]), (404, &json!("response_not_found")));
    }
    let none = Running::new(ServeOptions { responses_bytes: 0, ..ServeOptions::default() });
    let id = none.post("/v1/responses", &ask(json!({}))).json()["id"].clone();
    let refused = none.post("/v1/responses", &ask(json!({ "previous_response_id": id })));
    assert!(refused.status == 400 && refused.body.contains("--responses-mib"), "{}", refused.body);
}

#[test]
fn what_a_response_cannot_be_is_named() {
    let server = Running::new(ServeOptions::default());
    for (more, param) in [
        (json!({ "input": [{ "type": "image_generation_call" }] }), "input[0].type"),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0].type"),
        (json!({ "background": true }), "background"),
        (json!({ "max_output_tokens": -1 }), "max_output_tokens"),
        (json!({ "temperature": 200 }), "temperature"),
    ] {
        let response = server.post("/v1/responses", &ask(more));
        assert_eq!((response.status, &response.json()["error"]["param"]), (400, &json!(param)), "{}", response.body);
    }
}
