//! Chat templates render as transformers does; tests/record/chat.py recorded the expectations.

use jamba_runtime::{Chat, ChatTemplate, RuntimeError};
use serde_json::{Value, json};

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

#[test]
fn a_last_message_is_continued_where_its_text_ends() {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let mut n_chats = 0;
    for suite in recorded["suites"].as_array().unwrap() {
        let config = suite["config"].to_string();
        let file = suite["config"]["chat_template"].is_null().then_some(JAMBA.as_bytes());
        let template = ChatTemplate::new(file, Some(config.as_bytes())).unwrap();
        for case in suite["cases"].as_array().unwrap().iter().filter(|case| case["text"].is_string()) {
            let mut chat: Chat = serde_json::from_value(case["chat"].clone()).unwrap();
            chat.messages.push(json!({ "role": "assistant", "content": "It is,\n I think, ab" }));
            chat.add_generation_prompt = false;
            let Ok(whole) = template.render_chat(&chat) else { continue };
            chat.continue_final_message = true;
            if !whole.contains("I think, ab") {
                assert!(template.render_chat(&chat).is_err(), "{}: {whole}", case["name"]);
                continue;
            }
            let open = template.render_chat(&chat).unwrap_or_else(|error| panic!("{}: {error}", case["name"]));
            assert!(open.ends_with("I think, ab") && whole.starts_with(&open), "{}: {open}", case["name"]);
            assert_eq!(whole.matches("I think, ab").count(), 1, "{}", case["name"]);
            n_chats += 1;
        }
    }
    assert!(n_chats >= 8, "{n_chats} chats");
}

#[test]
fn what_cannot_be_continued_is_refused() {
    let template = |text: &str| ChatTemplate::new(Some(text.as_bytes()), None).unwrap();
    let plain = template("{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<end>{% endfor %}");
    let chat = |text: &str| Chat {
        messages: vec![json!({ "role": "user", "content": "ab" }), json!({ "role": "assistant", "content": text })],
        continue_final_message: true,
        ..Chat::default()
    };
    assert_eq!(plain.render_chat(&chat(" ab \n")).unwrap(), "<user>ab<end><assistant>ab");
    // Names before the text, reasoning that is dropped, other whitespace.
    let named = template("{% for m in messages %}{{ m.role + ': ' + m.content.split('</think>')[-1] }}\n{% endfor %}");
    assert_eq!(named.render_chat(&chat("<think>x</think>It is")).unwrap(), "user: ab\nassistant: It is");
    let narrow = template("{{ messages[-1].content.split() | join(' ') }}<end>");
    assert_eq!(narrow.render_chat(&chat("a \n b")).unwrap(), "a b");
    let refused = |template: &ChatTemplate, chat: &Chat| template.render_chat(chat).unwrap_err().to_string();
    assert!(refused(&plain, &chat("  ")).contains("found no text in the last message"));
    assert!(refused(&template("{{ messages[0].role }}"), &chat("It")).contains("does not write the text"));
    let both = Chat { add_generation_prompt: true, ..chat("It") };
    assert!(refused(&plain, &both).contains("add_generation_prompt"));
}
