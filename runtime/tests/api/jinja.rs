//! Templates evaluate as Jinja2 evaluates them; tests/record/jinja.py recorded the expectations.

use jamba_runtime::{Chat, ChatTemplate};
use serde_json::{Map, Value, json};

const RECORDED: &str = include_str!("../chat/jinja.json");

#[test]
fn expressions_have_jinjas_values() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let variables = recorded["variables"].as_object().unwrap();
    let mut wrong = Vec::new();
    let (mut n_equal, mut n_refused) = (0, 0);
    for row in recorded["rows"].as_array().unwrap() {
        let source = row["source"].as_str().unwrap();
        match (row["text"].as_str(), row["refused"].as_str(), rendered(source, variables)) {
            (Some(expected), None, Ok(text)) if text == expected => n_equal += 1,
            // An expected error, or a construct that is documented as not supported.
            (None, None, Err(_)) => n_equal += 1,
            (None, Some(part), Err(message)) if message.contains(part) => n_refused += 1,
            (_, _, found) => wrong.push(format!("{source}\n  found    {found:?}\n  expected {row}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), n_equal + wrong.len(), wrong.join("\n"));
    assert!(n_equal > 1500 && n_refused < 30, "{n_equal} rows, {n_refused} refused");
}

fn rendered(source: &str, variables: &Map<String, Value>) -> Result<String, String> {
    let template = ChatTemplate::new(Some(source.as_bytes()), None).map_err(|error| error.to_string())?;
    let messages = vec![json!({"role": "system", "content": "Be brief."}), json!({"role": "user", "content": "Hello"})];
    let chat = Chat { messages, add_generation_prompt: true, variables: variables.clone(), ..Chat::default() };
    template.render_chat(&chat).map_err(|error| error.to_string())
}
