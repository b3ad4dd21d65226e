//! Whatever is wrong gets OpenAI's error object, and names what is wrong.

use jamba_serve::{Keys, ServeOptions};
use serde_json::{Value, json};

use crate::client::{Response, Running, engine, post};

/// Checks that a response is an error object, and returns it.
fn error(response: &Response) -> Value {
    let object = response.json()["error"].clone();
    assert!(object["message"].as_str().is_some_and(|text| !text.is_empty()), "{}", response.body);
    assert!(object["type"].is_string(), "{}", response.body);
    // Clients in typed languages fail on other types.
    assert!(object["code"].is_null() || object["code"].is_string(), "{}", response.body);
    assert!(object.get("param").is_some(), "{}", response.body);
    object
}

#[test]
fn fields_that_are_wrong_are_named() {
    let server = Running::new(ServeOptions::default());
    let long = json!(vec![1; 101]);
    let many_stops = json!(vec!["a"; 65]);
    for (field, value, param) in [
        ("prompt", json!(null), "prompt"),
        ("prompt", json!([]), "prompt"),
        ("prompt", json!([[]]), "prompt"),
        ("prompt", json!([1, "a"]), "prompt[1]"),
        ("prompt", json!(["a", 1]), "prompt[1]"),
        ("prompt", json!([[1], [-1]]), "prompt[1][0]"),
        ("prompt", json!([{}]), "prompt[0]"),
        ("prompt", json!(5), "prompt"),
        ("prompt", long, ""),
        ("prompt", json!([300]), ""),
        ("n", json!(0), "n"),
        ("n", json!(4), "n"),
        ("n", json!("two"), "n"),
        ("max_tokens", json!(0), "max_tokens"),
        ("max_tokens", json!(-1), "max_tokens"),
        ("temperature", json!(-0.5), "temperature"),
        ("temperature", json!("hot"), "temperature"),
        ("top_p", json!(0), "top_p"),
        ("top_k", json!(-2), "top_k"),
        ("min_p", json!(1.5), "min_p"),
        ("presence_penalty", json!(3), "presence_penalty"),
        ("repetition_penalty", json!(0), "repetition_penalty"),
        ("logit_bias", json!({ "300": 1 }), "logit_bias"),
        ("logit_bias", json!({ "5": 101 }), "logit_bias"),
        ("logit_bias", json!({ "05": 1 }), "logit_bias"),
        ("allowed_token_ids", json!([]), "allowed_token_ids"),
        ("allowed_token_ids", json!(vec![1; 301]), "allowed_token_ids"),
        ("stop_token_ids", json!(vec![1; 301]), "stop_token_ids"),
        ("stop", json!("a".repeat(1025)), "stop"),
        ("stop", json!([""]), "stop"),
        ("stop", many_stops, "stop"),
        ("logprobs", json!(21), "logprobs"),
        ("best_of", json!(2), "best_of"),
        ("suffix", json!("x"), "suffix"),
        ("response_format", json!({ "type": "xml" }), "response_format.type"),
        ("guided_regex", json!("("), ""),
    ] {
        let mut body = json!({ "prompt": [1, 2, 3] });
        body[field] = value.clone();
        let response = server.post("/v1/completions", &body);
        assert_eq!(response.status, 400, "{field} {value}: {}", response.body);
        for word in ["usize", "i64", "f32", "untagged"] {
            assert!(!response.body.contains(word), "{field} {value}: {}", response.body);
        }
        let found = error(&response)["param"].clone();
        assert_eq!(found.as_str().unwrap_or_default(), param, "{field} {value}: {}", response.body);
    }
    // Requests after all of these are answered.
    assert_eq!(server.post("/v1/completions", &json!({ "prompt": [1], "unknown": {} })).status, 200);
}

#[test]
fn chats_that_are_wrong_are_named() {
    let server = Running::new(ServeOptions::default());
    let user = json!([{ "role": "user", "content": "Hi" }]);
    for (body, param) in [
        (json!({}), "messages"),
        (json!({ "messages": [] }), "messages"),
        (json!({ "messages": vec![user[0].clone(); 101] }), "messages"),
        (json!({ "messages": [{ "role": "user", "content": "a".repeat(1 << 17) }] }), "messages"),
        (json!({ "messages": [{ "role": "user", "content": 5 }] }), "messages[0].content"),
        (json!({ "messages": user, "top_logprobs": 2 }), "top_logprobs"),
        (json!({ "messages": user, "logprobs": true, "top_logprobs": 21 }), "top_logprobs"),
        (json!({ "messages": user, "chat_template": "{{ 1 }}" }), "chat_template"),
        (json!({ "messages": user, "allowed_token_ids": [] }), "allowed_token_ids"),
        (json!({ "messages": user, "allowed_token_ids": [99999] }), "allowed_token_ids"),
        (json!({ "messages": user, "stop_token_ids": [99999] }), "stop_token_ids"),
        (json!({ "messages": user, "tool_choice": "required" }), "tool_choice"),
        (json!({ "messages": user, "tools": [{ "type": "x" }] }), "tools[0].type"),
        (json!({ "messages": user, "tool_choice": { "function": { "name": "f" } } }), "tool_choice.function.name"),
    ] {
        let response = server.post("/v1/chat/completions", &body);
        assert_eq!(response.status, 400, "{body}: {}", response.body);
        assert_eq!(error(&response)["param"], param, "{body}: {}", response.body);
    }
}

#[test]
fn requests_that_are_no_requests() {
    let options = ServeOptions { max_body_bytes: 1000, ..ServeOptions::default() };
    let server = Running::new(options);
    let path = "/v1/completions";
    let deep = "[".repeat(900);
    for (request, status) in [
        (post(path, "application/json", "{"), 400),
        (post(path, "application/json", &deep), 400),
        (post(path, "application/json", "[]"), 400),
        (post(path, "application/json", "{\"prompt\": \"\\ud800\"}"), 400),
        (post(path, "application/json", "{\"temperature\": 1e400}"), 400),
        (post(path, "application/json", &format!("{{\"prompt\": \"{}\"}}", "a".repeat(1000))), 413),
        (post(path, "text/plain", "{}"), 415),
        (post(path, "application/json\r\nContent-Encoding: gzip", "{}"), 415),
        (post("/v1/embeddings", "application/json", "{}"), 404),
        (post("/v1/models", "application/json", "{}"), 405),
        ("GET /v1/models/other HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(), 404),
        ("GET /v1/models HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n".to_owned(), 403),
        ("GET /v1/models HTTP/1.1\r\nHost: ex\u{e4}mple.org\r\nConnection: close\r\n\r\n".to_owned(), 403),
        ("GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: a.b\r\nConnection: close\r\n\r\n".to_owned(), 403),
        ("GET http://example.org/v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(), 403),
        (
            "GET http://localhost/v1/models/other HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(),
            404,
        ),
        // Refused before it arrives.
        (post(path, "application/json\r\nX: ", &"a".repeat(1001)).replace(&"a".repeat(1001), ""), 413),
    ] {
        let response = server.send(&request);
        assert_eq!(response.status, status, "{request}: {}", response.body);
        error(&response);
    }
    let unknown = server.post(path, &json!({ "prompt": [1], "model": "gpt" }));
    assert_eq!((unknown.status, error(&unknown)["code"].as_str()), (404, Some("model_not_found")));
    let utf8 = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json; charset=utf-8\r\n\
                X-Request-Id: mine-1\r\nContent-Length: 17\r\nConnection: close\r\n\r\n{\"prompt\": [1,2]}";
    let response = server.send(utf8);
    assert_eq!((response.status, response.header("x-request-id")), (200, Some("mine-1")));
    let injected = server.send(&utf8.replace("mine-1", "a b"));
    assert!(injected.header("x-request-id").is_some_and(|id| id.len() == 32));
}

#[test]
fn without_a_key_only_the_health_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keys");
    std::fs::write(&path, Keys::digest("secret")).expect("a file");
    let server = Running::new(ServeOptions { keys: Keys::read(&path).expect("keys"), ..ServeOptions::default() });
    for path in ["/v1/models", "/metrics", "/slots", "/models"] {
        let response = server.get(path);
        assert_eq!(response.status, 401, "{path}");
        assert_eq!(error(&response)["code"], "invalid_api_key");
    }
    assert_eq!((server.get("/health").status, server.get("/ready").status), (200, 200));
    let with = |key: &str| {
        let head = format!(
            "GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
        );
        server.send(&head).status
    };
    assert_eq!((with("secret"), with("Secret"), with("")), (200, 401, 401));
}

#[test]
fn keys_have_cached_prompts_of_their_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("keys");
    std::fs::write(&path, format!("{}\n{}\n", Keys::digest("a"), Keys::digest("b"))).expect("a file");
    let keys = Keys::read(&path).expect("keys");
    let body = json!({ "prompt": [1, 20, 30, 40, 50, 60, 70], "max_tokens": 2 }).to_string();
    for (shares_cache, expected) in [(false, [0, 6, 0, 6]), (true, [0, 6, 6, 6])] {
        let server = Running::new(ServeOptions { keys: keys.clone(), shares_cache, ..ServeOptions::default() });
        let cached = ["a", "a", "b", "b"].map(|key| {
            let request = post("/v1/completions", "application/json", &body);
            let request = request.replacen("\r\n", &format!("\r\nAuthorization: Bearer {key}\r\n"), 1);
            let usage = server.send(&request).json()["usage"].clone();
            usage["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number")
        });
        assert_eq!(cached, expected);
    }
}

#[test]
fn a_full_server_refuses_at_once() {
    let server = Running::new(ServeOptions { queue: 0, queue_tokens: 50, ..ServeOptions::default() });
    // Three answers at a time: a request of four is more than fits, whatever runs.
    let two = json!({ "prompt": [[1, 2], [3, 4]], "n": 2 });
    let response = server.post("/v1/completions", &two);
    assert_eq!((response.status, response.header("retry-after")), (400, None));
    assert!(response.body.contains("--queue"), "{}", response.body);
    let tokens: Vec<u32> = (3..63).collect();
    assert_eq!(server.post("/v1/completions", &json!({ "prompt": tokens, "max_tokens": 1 })).status, 200, "alone");
    assert_eq!(server.get("/slots").json(), json!([]));
}

#[test]
fn an_answer_that_no_token_may_continue_is_the_requests_fault() {
    let server = Running::new(ServeOptions::default());
    let n_tokens = engine().manifest().model.vocab;
    let bias: serde_json::Map<String, Value> = (0..n_tokens).map(|id| (id.to_string(), json!(-100))).collect();
    let response = server.post("/v1/completions", &json!({ "prompt": [1, 2], "max_tokens": 4, "logit_bias": bias }));
    assert_eq!(response.status, 400, "{}", response.body);
    assert_eq!(response.json()["error"]["type"], "invalid_request_error");
}

#[test]
fn large_bodies_share_a_room() {
    let n = 100_000;
    let server = Running::new(ServeOptions { max_body_bytes: n, ..ServeOptions::default() });
    let body = |n: usize| format!("{{\"prompt\": [1], \"x\": \"{}\"}}", "a".repeat(n - 24));
    let large = post("/v1/completions", "application/json", &body(n));
    assert_eq!(server.send(&large).status, 200);
    // Bodies whose last byte does not come.
    let held: Vec<_> = (0..4).map(|_| server.open(&large[..large.len() - 1])).collect();
    // The server reads them meanwhile.
    let refused = (0..10_000).map(|_| server.send(&large)).find(|response| response.status != 200).expect("no room");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{}", refused.body);
    assert_eq!(error(&refused)["code"], "queue_full");
    assert_eq!(server.send(&post("/v1/completions", "application/json", &body(1000))).status, 200, "a small one");
    drop(held);
    (0..10_000).map(|_| server.send(&large)).find(|response| response.status == 200).expect("room again");
}
