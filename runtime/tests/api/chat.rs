//! Chat templates render as transformers does; tests/record/chat.py recorded the expectations.

use jamba_runtime::{Chat, ChatTemplate, RuntimeError};
use serde_json::Value;

const RECORDED: &str = include_str!("../chat/parity.json");
const JAMBA: &str = include_str!("../chat/jamba.jinja");

#[test]
fn chats_are_rendered_as_transformers_renders_them() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let mut n_chats = 0;
    for suite in recorded["suites"].as_array().unwrap() {
        let config = suite["config"].to_string();
        let file = suite["config"]["chat_template"].is_null().then_some(JAMBA.as_bytes());
        let template = ChatTemplate::new(file, Some(config.as_bytes())).unwrap();
        for case in suite["cases"].as_array().unwrap() {
            let chat: Chat = serde_json::from_value(case["chat"].clone()).unwrap();
            let (name, rendered) = (&case["name"], template.render_chat(&chat));
            match (case["text"].as_str(), case["refused"].as_str(), rendered) {
                (Some(expected), None, Ok(text)) => assert_eq!(text, expected, "{name}"),
                (None, Some(expected), Err(RuntimeError::Tokenizer { reason, .. })) => {
                    assert!(reason.contains(expected), "{name}: {reason}");
                }
                (text, refused, rendered) => panic!("{name}: {rendered:?}, expected {text:?} or {refused:?}"),
            }
            n_chats += 1;
        }
    }
    assert!(n_chats >= 15, "{n_chats} chats");
}
