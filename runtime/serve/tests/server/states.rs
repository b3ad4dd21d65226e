//! Named states: what goes on from one is what a whole prompt gets.

use std::path::Path;

use jamba_serve::{Keys, ServeOptions};
use serde_json::{Value, json};

use crate::client::{Response, Running};

fn ok(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{}", response.body);
    response.json()
}

fn refused(response: &Response, status: u16, code: &str) {
    assert_eq!(response.status, status, "{}", response.body);
    assert_eq!(response.json()["error"]["code"].as_str().unwrap_or_default(), code, "{}", response.body);
}

fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number")
}

/// Servers without a prefix cache, so that what is not read came from a state; in memory and with files.
fn servers(folder: &Path) -> [ServeOptions; 2] {
    let options = ServeOptions { cache_bytes: 0, ..ServeOptions::default() };
    [options.clone(), ServeOptions { states: Some(folder.join("states")), ..options }]
}

#[test]
fn completions_go_on_from_a_state_with_any_seed() {
    let folder = tempfile::tempdir().expect("a folder");
    for options in servers(folder.path()) {
        let server = Running::new(options);
        let begin: Vec<u32> = (3..40).collect();
        let made = ok(&server.post("/v1/states", &json!({ "name": "book/1", "prompt": begin })));
        assert_eq!((&made["tokens"], &made["usage"]["prompt_tokens"]), (&json!(37), &json!(37)));
        let ask = |body: Value| ok(&server.post("/v1/completions", &body));
        for seed in 1..4 {
            // The same prompt again, then one that goes on, several answers, and a stream.
            let fresh = ask(json!({ "prompt": begin, "seed": seed, "max_tokens": 9 }));
            let again = ask(json!({ "state": "book/1", "seed": seed, "max_tokens": 9 }));
            assert_eq!((&fresh["choices"], cached(&fresh)), (&again["choices"], 0));
            assert_eq!((cached(&again), &again["usage"]["prompt_tokens"]), (36, &json!(37)));
            let longer = [&begin[..], &[50, 60]].concat();
            let fresh = ask(json!({ "prompt": longer, "seed": seed, "max_tokens": 9, "n": 2 }));
            let rest = ask(json!({ "state": "book/1", "prompt": [50, 60], "seed": seed, "max_tokens": 9, "n": 2 }));
            assert_eq!((&fresh["choices"], cached(&rest)), (&rest["choices"], 36));
            let body = json!({ "state": "book/1", "prompt": [50, 60], "seed": seed, "max_tokens": 9, "stream": true });
            let events = server.post("/v1/completions", &body).events();
            let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
            assert_eq!(text, fresh["choices"][0]["text"].as_str().expect("a text"));
        }
        // Text follows without a start token of its own.
        let text = ask(json!({ "state": "book/1", "prompt": "a time", "max_tokens": 1 }));
        let tokens = ok(&server.post("/tokenize", &json!({ "prompt": "a time", "add_special_tokens": false })));
        assert_eq!(text["usage"]["prompt_tokens"].as_u64(), tokens["count"].as_u64().map(|n| n + 37));
        // A state of one token is one too.
        ok(&server.post("/v1/states", &json!({ "name": "short", "prompt": [7] })));
        let fresh = ask(json!({ "prompt": [7], "seed": 5, "max_tokens": 9 }));
        assert_eq!(fresh["choices"], ask(json!({ "state": "short", "seed": 5, "max_tokens": 9 }))["choices"]);
    }
}

#[test]
fn two_clients_at_once_go_on_from_one_state_while_it_is_replaced() {
    let folder = tempfile::tempdir().expect("a folder");
    for options in servers(folder.path()) {
        let server = Running::new(options);
        let (old, new): (Vec<u32>, Vec<u32>) = ((3..30).collect(), (60..90).collect());
        let keep = |prompt: &[u32]| ok(&server.post("/v1/states", &json!({ "name": "s", "prompt": prompt })));
        let ask = |body: &Value| ok(&server.post("/v1/completions", body))["choices"][0]["text"].clone();
        keep(&old);
        let expected: Vec<[Value; 2]> = (0..4)
            .map(|seed| [&old, &new].map(|prompt| ask(&json!({ "prompt": prompt, "seed": seed, "max_tokens": 12 }))))
            .collect();
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|seed| scope.spawn(move || ask(&json!({ "state": "s", "seed": seed, "max_tokens": 12 }))))
                .collect();
            keep(&new);
            for (client, expected) in clients.into_iter().zip(&expected) {
                assert!(expected.contains(&client.join().expect("an answer")), "of the old state or the new one");
            }
        });
        for (seed, expected) in expected.iter().enumerate() {
            assert_eq!(ask(&json!({ "state": "s", "seed": seed, "max_tokens": 12 })), expected[1]);
        }
    }
}

#[test]
fn chats_begin_with_the_messages_of_a_state() {
    let folder = tempfile::tempdir().expect("a folder");
    for options in servers(folder.path()) {
        let server = Running::new(options);
        let user = |text: &str| json!({ "role": "user", "content": text });
        let begin = json!([user("Hi"), { "role": "assistant", "content": "Ho" }]);
        let made = ok(&server.post("/v1/states", &json!({ "name": "talk", "messages": begin })));
        let n = made["tokens"].as_u64().expect("a number");
        let messages = json!([begin[0], begin[1], user("and")]);
        let ask = |body: Value| server.post("/v1/chat/completions", &body);
        let body = json!({ "messages": messages, "seed": 3, "max_tokens": 8 });
        let mut from_state = body.clone();
        from_state["state"] = json!("talk");
        let (fresh, again) = (ok(&ask(body)), ok(&ask(from_state.clone())));
        assert_eq!((&fresh["choices"], cached(&again)), (&again["choices"], n - 1));
        from_state["messages"] = json!([user("Other")]);
        let other = ask(from_state);
        refused(&other, 400, "");
        assert_eq!(other.json()["error"]["param"], "state");
    }
}

#[test]
fn states_are_listed_and_deleted() {
    let folder = tempfile::tempdir().expect("a folder");
    for options in servers(folder.path()) {
        let server = Running::new(options);
        let delete = |path: &str| {
            server.send(&format!("DELETE {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
        };
        for name in ["b", "a", "../../etc/passwd"] {
            ok(&server.post("/v1/states", &json!({ "name": name, "prompt": [1, 2, 3] })));
        }
        let list = ok(&server.get("/v1/states"));
        let names: Vec<&str> =
            list["data"].as_array().expect("a list").iter().filter_map(|one| one["name"].as_str()).collect();
        assert_eq!(names, ["../../etc/passwd", "a", "b"]);
        assert_eq!(ok(&server.get("/v1/states/a"))["tokens"], 3);
        assert_eq!(ok(&server.get("/v1/states/..%2F..%2Fetc%2Fpasswd"))["name"], "../../etc/passwd");
        assert_eq!(ok(&delete("/v1/states/a"))["deleted"], true);
        refused(&delete("/v1/states/a"), 404, "state_not_found");
        refused(&server.get("/v1/states/a"), 404, "state_not_found");
        refused(&server.post("/v1/completions", &json!({ "state": "a" })), 404, "state_not_found");
        ok(&delete("/v1/states/..%2F..%2Fetc%2Fpasswd"));
    }
    let files = std::fs::read_dir(folder.path().join("states")).expect("the folder").count();
    assert_eq!(files, 1, "the state b");
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 1, "nothing beside it");
}

#[test]
fn files_outlive_the_server_and_damaged_ones_are_left_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let [_, options] = servers(folder.path());
    let begin: Vec<u32> = (3..40).collect();
    let body = json!({ "state": "s", "seed": 2, "max_tokens": 9 });
    let first = {
        let server = Running::new(options.clone());
        ok(&server.post("/v1/states", &json!({ "name": "s", "prompt": begin })));
        ok(&server.post("/v1/states", &json!({ "name": "damaged", "prompt": begin })));
        ok(&server.post("/v1/completions", &body))
    };
    let states = folder.path().join("states");
    let damaged = states.join(format!("{}.state", blake3::hash(b"damaged")));
    let mut bytes = std::fs::read(&damaged).expect("the file");
    bytes[250] ^= 1;
    std::fs::write(&damaged, &bytes).expect("the file");
    std::fs::copy(states.join(format!("{}.state", blake3::hash(b"s"))), states.join("renamed.state")).expect("a copy");
    let server = Running::new(options);
    assert_eq!(ok(&server.get("/v1/states"))["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(ok(&server.post("/v1/completions", &body))["choices"], first["choices"]);
    // A file that vanishes or changes under the server is an error of that request alone, which tells no path.
    std::fs::remove_file(states.join(format!("{}.state", blake3::hash(b"s")))).expect("the file");
    let gone = server.post("/v1/completions", &body);
    refused(&gone, 500, "internal_error");
    assert!(!gone.body.contains(".state"), "{}", gone.body);
    ok(&server.post("/v1/completions", &json!({ "prompt": [1], "max_tokens": 1 })));
}

#[test]
fn a_state_belongs_to_its_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys");
    std::fs::write(&file, format!("{}\n{}\n", Keys::digest("anna"), Keys::digest("ben"))).expect("a file");
    for options in servers(folder.path()) {
        let server = Running::new(ServeOptions { keys: Keys::read(&file).expect("keys"), ..options });
        let send = |key: &str, method: &str, path: &str, body: &Value| {
            let body = body.to_string();
            let n = body.len();
            server.send(&format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
                 Content-Type: application/json\r\nContent-Length: {n}\r\nConnection: close\r\n\r\n{body}"
            ))
        };
        let none = json!({});
        ok(&send("anna", "POST", "/v1/states", &json!({ "name": "s", "prompt": [1, 2, 3] })));
        refused(&send("ben", "GET", "/v1/states/s", &none), 404, "state_not_found");
        refused(&send("ben", "DELETE", "/v1/states/s", &none), 404, "state_not_found");
        refused(&send("ben", "POST", "/v1/completions", &json!({ "state": "s" })), 404, "state_not_found");
        assert_eq!(ok(&send("ben", "GET", "/v1/states", &none))["data"], json!([]));
        ok(&send("ben", "POST", "/v1/states", &json!({ "name": "s", "prompt": [4, 5, 6, 7] })));
        assert_eq!(ok(&send("anna", "GET", "/v1/states/s", &none))["tokens"], 3);
        assert_eq!(ok(&send("ben", "GET", "/v1/states/s", &none))["tokens"], 4);
        refused(&send("eve", "GET", "/v1/states", &none), 401, "invalid_api_key");
    }
}

#[test]
fn names_and_sizes_are_limited() {
    let server = Running::new(ServeOptions::default());
    let make = |name: Value| server.post("/v1/states", &json!({ "name": name, "prompt": [1, 2] }));
    for name in [json!(""), json!("x".repeat(129)), json!("a\nb"), json!("a\u{0}"), json!(null), json!(5)] {
        let response = make(name.clone());
        assert_eq!((response.status, &response.json()["error"]["param"]), (400, &json!("name")), "{name}");
    }
    ok(&make(json!("x".repeat(128))));
    for body in [
        json!({ "name": "s" }),
        json!({ "name": "s", "prompt": [] }),
        json!({ "name": "s", "prompt": "a", "messages": [] }),
    ] {
        assert_eq!(server.post("/v1/states", &body).status, 400, "{body}");
    }
    let echo = server.post("/v1/completions", &json!({ "state": "x", "prompt": "a", "echo": true }));
    assert_eq!(echo.json()["error"]["param"], "echo");
    let state = ok(&make(json!("sized")))["bytes"].as_u64().expect("a size");

    let small = Running::new(ServeOptions { states_bytes: 2 * state, ..ServeOptions::default() });
    let make = |name: &str| small.post("/v1/states", &json!({ "name": name, "prompt": [1, 2] }));
    ok(&make("a"));
    ok(&make("a")); // in place of the first one
    let all: Vec<u16> = ["b", "c", "d"].iter().map(|name| make(name).status).collect();
    assert!(all.contains(&507), "{all:?}");
    refused(&make("e"), 507, "states_full");
    ok(&small.send("DELETE /v1/states/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    let none = Running::new(ServeOptions { states_bytes: 0, ..ServeOptions::default() });
    refused(&none.post("/v1/states", &json!({ "name": "a", "prompt": [1] })), 507, "states_full");
}

#[test]
fn a_state_goes_on_from_another() {
    let folder = tempfile::tempdir().expect("a folder");
    for options in servers(folder.path()) {
        let server = Running::new(options);
        let begin: Vec<u32> = (3..40).collect();
        ok(&server.post("/v1/states", &json!({ "name": "a", "prompt": begin })));
        let more = json!({ "name": "b", "state": "a", "prompt": [50, 60] });
        let made = ok(&server.post("/v1/states", &more));
        assert_eq!((&made["tokens"], cached(&made)), (&json!(39), 36));
        let ask = |body: Value| ok(&server.post("/v1/completions", &body))["choices"].clone();
        let whole = [&begin[..], &[50, 60, 70]].concat();
        let fresh = ask(json!({ "prompt": whole, "seed": 3, "max_tokens": 9 }));
        assert_eq!(ask(json!({ "state": "b", "prompt": [70], "seed": 3, "max_tokens": 9 })), fresh);
        // In its own place, and a text without a start token.
        let made = ok(&server.post("/v1/states", &json!({ "name": "b", "state": "b", "prompt": [70] })));
        assert_eq!(made["tokens"], 40);
        assert_eq!(ask(json!({ "state": "b", "seed": 3, "max_tokens": 9 })), fresh);
        let text = json!({ "prompt": "a time", "add_special_tokens": false });
        let n = ok(&server.post("/tokenize", &text))["count"].as_u64();
        let made = ok(&server.post("/v1/states", &json!({ "name": "c", "state": "a", "prompt": "a time" })));
        assert_eq!(made["tokens"].as_u64(), n.map(|n| n + 37));
        let hi = json!({ "role": "user", "content": "Hi" });
        ok(&server.post("/v1/states", &json!({ "name": "chat", "messages": [hi] })));
        let longer =
            json!({ "name": "longer", "state": "chat", "messages": [hi, { "role": "assistant", "content": "Hi." }] });
        assert!(cached(&ok(&server.post("/v1/states", &longer))) > 0);
        let other = json!({ "name": "other", "state": "chat", "messages": [{ "role": "user", "content": "No" }] });
        let response = server.post("/v1/states", &other);
        assert_eq!((response.status, &response.json()["error"]["param"]), (400, &json!("state")));
        refused(
            &server.post("/v1/states", &json!({ "name": "x", "state": "none", "prompt": [1] })),
            404,
            "state_not_found",
        );
    }
}
