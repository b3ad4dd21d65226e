//! Limits and rights of API keys.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jamba_serve::{Clock, Keys, Rules, ServeOptions};
use serde_json::{Value, json};

use crate::client::{Response, Running, post};

/// A file of keys: each with its line.
fn keys(folder: &Path, lines: &[(&str, &str)]) -> Keys {
    let path = folder.join("keys");
    let lines: Vec<String> = lines.iter().map(|(key, rules)| format!("{} {rules}", Keys::digest(key))).collect();
    std::fs::write(&path, lines.join("\n")).expect("a file");
    Keys::read(&path).expect("keys")
}

fn ask(server: &Running, key: &str, more: Value) -> Response {
    let mut body = json!({ "prompt": [1, 20, 30], "max_tokens": 2, "ignore_eos": true });
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let request = post("/v1/completions", "application/json", &body.to_string());
    server.send(&request.replacen("\r\n", &format!("\r\nAuthorization: Bearer {key}\r\n"), 1))
}

/// Status, and the requests and tokens that are left.
fn left(response: &Response) -> (u16, Option<&str>, Option<&str>) {
    let header = |name: &str| response.header(&format!("x-ratelimit-remaining-{name}"));
    (response.status, header("requests"), header("tokens"))
}

#[test]
fn a_key_waits_when_it_has_used_its_minute() {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = keys(folder.path(), &[("a", ""), ("b", "tokens-per-minute=6")]);
    let now = Arc::new(Mutex::new(Instant::now()));
    let of_clock = Arc::clone(&now);
    let clock = Clock::new(move || *of_clock.lock().expect("no panic"));
    let later = |seconds| *now.lock().expect("no panic") += Duration::from_secs(seconds);
    let rules = Rules { requests_per_minute: Some(2), ..Rules::default() };
    let server = Running::new(ServeOptions { keys, rules, clock, ..ServeOptions::default() });
    assert_eq!(left(&ask(&server, "a", json!({}))), (200, Some("1"), None));
    assert_eq!(left(&ask(&server, "a", json!({}))), (200, Some("0"), None));
    let refused = ask(&server, "a", json!({}));
    assert_eq!((left(&refused), refused.header("retry-after")), ((429, Some("0"), None), Some("30")));
    let error = refused.json()["error"].clone();
    assert_eq!((&error["type"], &error["code"]), (&json!("requests"), &json!("rate_limit_exceeded")), "{error}");
    assert!(server.get("/metrics").status == 401 && refused.header("x-ratelimit-limit-requests") == Some("2"));
    // The other key has its own: three tokens of a prompt, two of the answer.
    let first = ask(&server, "b", json!({}));
    assert_eq!(left(&first), (200, Some("1"), Some("1")));
    assert_eq!(left(&ask(&server, "b", json!({ "max_tokens": 4 }))), (200, Some("0"), Some("0")));
    later(30);
    // One request is back; of the tokens, 6 were overdrawn and 3 are back.
    assert_eq!(left(&ask(&server, "a", json!({}))), (200, Some("0"), None));
    let refused = ask(&server, "b", json!({}));
    assert_eq!((refused.status, &refused.json()["error"]["type"]), (429, &json!("tokens")), "{}", refused.body);
    assert_eq!(refused.header("retry-after"), Some("40"));
    later(40);
    assert_eq!(ask(&server, "b", json!({})).status, 200);
}

#[test]
fn priority_above_the_normal_one_is_a_right() {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = keys(folder.path(), &[("a", ""), ("b", "Ben allow-priority")]);
    let server = Running::new(ServeOptions { keys, ..ServeOptions::default() });
    let refused = ask(&server, "a", json!({ "priority": -1 }));
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("priority")), "{}", refused.body);
    for (key, priority) in [("a", 0), ("a", 7), ("b", -1)] {
        assert_eq!(ask(&server, key, json!({ "priority": priority })).status, 200, "{key} {priority}");
    }
    let rules = Rules { allow_priority: true, ..Rules::default() };
    let server = Running::new(ServeOptions { rules, ..ServeOptions::default() });
    assert_eq!(ask(&server, "", json!({ "priority": -1 })).status, 200);
}
