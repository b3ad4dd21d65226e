//! Tests of save points, and of turns that give way when the context is full.

use std::path::PathBuf;

use jamba_runtime::OpenOptions;

use super::fixture::text::Text;
use super::fixture::{LIMITS, Toy};
use super::*;

fn opened() -> (tempfile::TempDir, PathBuf, Engine, Conversation) {
    let folder = tempfile::tempdir().unwrap();
    let plan = Toy::with_text().write(folder.path(), "toy.plan");
    let mut engine = Engine::open(&plan, OpenOptions::default()).unwrap();
    let template = (engine.chat_template().unwrap(), Content::Text);
    let conversation = Conversation::new(&mut engine, template, None, None).unwrap();
    let path = folder.path().join("a chat.state");
    (folder, path, engine, conversation)
}

/// Reads the conversation as a turn of the chat does. Returns the number of tokens that were read.
fn read(engine: &mut Engine, conversation: &mut Conversation) -> usize {
    let unread = conversation.unread(engine, 1).unwrap();
    assert!(conversation.read(engine, &unread, None, &Cancel::default()).unwrap());
    let last = unread.tokens.last().unwrap();
    engine.prefill(conversation.sequence, &[*last], None, None).unwrap();
    unread.tokens.len()
}

#[test]
fn a_template_that_trims_answers_reads_no_turn_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = Text::sentencepiece();
    // The prompt begins the reasoning, which histories leave out.
    text.template = text.template.replace("[-1] }}", "[-1] | trim }}") + "<think>a";
    let plan = Toy::new().and_text_of(text).write(folder.path(), "toy.plan");
    let mut engine = Engine::open(&plan, OpenOptions::default()).unwrap();
    let template = (engine.chat_template().unwrap(), Content::Text);
    let mut conversation = Conversation::new(&mut engine, template, None, None).unwrap();
    let tokenizer = engine.tokenizer().unwrap();
    let mut counts = Vec::new();
    for _ in 0..3 {
        conversation.push("user", "ab".to_owned());
        counts.push(read(&mut engine, &mut conversation));
        // The model begins its answer with a space and ends it with another, which the template leaves out.
        let answer = tokenizer.encode_plain(" b ").unwrap();
        engine.prefill(conversation.sequence(), &answer, None, None).unwrap();
        conversation.push("assistant", " b ".to_owned());
    }
    // A later turn reads the header of the answer, the answer, and what is new: the turn before ended at the last `<|im_end|>`.
    let turn = "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n";
    let first = tokenizer.encode_plain(&format!("{turn}<think>a")).unwrap().len();
    let later = format!("\n<|im_start|>assistant\nb<|im_end|>\n{turn}<think>a");
    let later = tokenizer.encode_plain(&later).unwrap().len();
    assert_eq!(counts, [first, later, later]);
}

#[test]
fn calls_in_an_answer_are_the_templates_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut text = Text::sentencepiece();
    text.template = text.template.replace(
        "[-1] }}",
        "[-1] }}{% for c in m.tool_calls %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}",
    );
    let plan = Toy::new().and_text_of(text).write(folder.path(), "toy.plan");
    let mut engine = Engine::open(&plan, OpenOptions::default()).unwrap();
    let template = (engine.chat_template().unwrap(), Content::Text);
    let mut conversation = Conversation::new(&mut engine, template, None, None).unwrap();
    conversation.push("user", "a".to_owned());
    let answer = r#"b<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>"#;
    conversation.push_answer(answer.to_owned());
    conversation.push("user", "</tool_call>".to_owned());
    assert_eq!(conversation.messages()[1]["tool_calls"][0]["function"]["arguments"]["a"], 1);
    let Rendered::Encoded(EncodedChat { tokens, .. }) = conversation.render(conversation.messages(), 1000).unwrap()
    else {
        panic!("the chat is short")
    };
    let count = |name: &str| tokens.iter().filter(|&&token| Some(token) == conversation.tokenizer.id(name)).count();
    assert_eq!((count("<tool_call>"), count("</tool_call>")), (1, 1));
    conversation.push_answer("plain <tool_call>".to_owned());
    assert_eq!(conversation.messages()[3]["content"], "plain <tool_call>");
}

#[test]
fn a_conversation_is_saved_with_its_state() {
    let (_folder, path, mut engine, mut conversation) = opened();
    conversation.push("user", "Hi".to_owned());
    let all = conversation.unread(&mut engine, 1).unwrap().tokens;
    engine.prefill(conversation.sequence, &all, None, None).unwrap();
    conversation.save(&engine, &path).unwrap();
    let saved = conversation.messages.clone();

    // A changed system message starts a new sequence; a loaded conversation continues its state.
    conversation.set_system(Some("No"));
    let other = conversation.unread(&mut engine, 1).unwrap().tokens;
    assert!(other.len() > all.len() && engine.len(conversation.sequence).unwrap() == 0);
    conversation.load(&mut engine, &path).unwrap();
    assert_eq!((&conversation.messages, engine.tokens(conversation.sequence).unwrap()), (&saved, &all[..]));
    conversation.push("assistant", "Hello".to_owned());
    conversation.push("user", "//a".to_owned());
    assert_eq!(conversation.messages[2]["content"], "/a");
    let new = conversation.unread(&mut engine, 1).unwrap().tokens;
    assert!(!new.is_empty() && engine.tokens(conversation.sequence).unwrap() == all);
    assert_eq!(engine.free().0, 2);

    // A state without a conversation changes nothing.
    engine.snapshot(conversation.sequence).unwrap().save(&path).unwrap();
    let refused = conversation.load(&mut engine, &path);
    assert!(matches!(refused, Err(Failure::Input(text)) if text.contains("a chat.state: note")));
    conversation.reset(&mut engine).unwrap();
    assert_eq!((conversation.messages.len(), engine.len(conversation.sequence).unwrap()), (0, 0));
}

#[test]
fn a_loaded_conversation_answers_again_and_undoes_without_reading() {
    let (_folder, path, mut engine, mut conversation) = opened();
    let answer = |engine: &mut Engine, conversation: &mut Conversation, text: &str| {
        conversation.push("user", text.to_owned());
        let n = read(engine, conversation);
        engine.prefill(conversation.sequence, &[40, 41, 42], None, None).unwrap();
        conversation.push("assistant", "No".to_owned());
        n
    };
    answer(&mut engine, &mut conversation, "Hi");
    answer(&mut engine, &mut conversation, "you");
    let all = engine.tokens(conversation.sequence).unwrap().to_vec();
    conversation.save(&engine, &path).unwrap();
    conversation.reset(&mut engine).unwrap();

    conversation.load(&mut engine, &path).unwrap();
    assert_eq!(engine.tokens(conversation.sequence).unwrap(), all);
    assert!(conversation.pop("assistant"));
    assert_eq!(read(&mut engine, &mut conversation), 1);
    assert_eq!(engine.tokens(conversation.sequence).unwrap(), &all[..all.len() - 3]);

    conversation.load(&mut engine, &path).unwrap();
    assert_eq!(conversation.undo(&mut engine).unwrap().as_deref(), Some("you"));
    let n_left = engine.len(conversation.sequence).unwrap();
    assert!(n_left > 0, "the first turn was thrown away");
    assert_eq!(engine.tokens(conversation.sequence).unwrap(), &all[..n_left as usize]);

    // Files of older versions have the messages alone, and no points.
    let note = serde_json::to_string(conversation.messages()).unwrap();
    engine.snapshot(conversation.sequence).unwrap().with_note(&note).save(&path).unwrap();
    conversation.load(&mut engine, &path).unwrap();
    assert_eq!((conversation.messages().len(), conversation.points.len()), (2, 0));
}

#[test]
fn another_answer_reads_one_token() {
    let (_folder, _, mut engine, mut conversation) = opened();
    conversation.push("user", "Hi you".to_owned());
    let all = read(&mut engine, &mut conversation);
    let prompt = engine.tokens(conversation.sequence).unwrap().to_vec();
    assert_eq!(prompt.len(), all);
    engine.prefill(conversation.sequence, &[40, 41, 42], None, None).unwrap();
    conversation.push("assistant", "No".to_owned());
    assert!(conversation.pop("assistant"));
    assert_eq!(read(&mut engine, &mut conversation), 1);
    assert_eq!(engine.tokens(conversation.sequence).unwrap(), prompt);
}

#[test]
fn undone_turns_are_not_read_again() {
    let (_folder, _, mut engine, mut conversation) = opened();
    assert_eq!(conversation.undo(&mut engine).unwrap(), None);
    let mut lengths = Vec::new();
    for text in ["a", "b", "c"] {
        conversation.push("user", text.to_owned());
        read(&mut engine, &mut conversation);
        lengths.push(engine.len(conversation.sequence).unwrap());
        conversation.push("assistant", "x".to_owned());
    }
    assert_eq!(conversation.undo(&mut engine).unwrap().as_deref(), Some("c"));
    assert_eq!((conversation.messages().len(), engine.len(conversation.sequence).unwrap()), (4, lengths[1]));
    assert_eq!(conversation.undo(&mut engine).unwrap().as_deref(), Some("b"));
    assert_eq!(engine.len(conversation.sequence).unwrap(), lengths[0]);
    conversation.push("user", "d".to_owned());
    assert_eq!(read(&mut engine, &mut conversation) as u64, lengths[1] - lengths[0]);
    for undone in ["d", "a"] {
        assert_eq!(conversation.undo(&mut engine).unwrap().as_deref(), Some(undone));
    }
    assert_eq!((conversation.messages().len(), engine.len(conversation.sequence).unwrap()), (0, 0));
}

#[test]
fn the_oldest_turns_give_way() {
    let (_folder, _, mut engine, mut conversation) = opened();
    conversation.set_system(Some("S"));
    let mut removed = 0;
    for turn in 0..30 {
        conversation.push("user", format!("u{turn}"));
        let unread = conversation.unread(&mut engine, 10).unwrap();
        removed += unread.n_removed;
        engine.prefill(conversation.sequence, &unread.tokens, None, None).unwrap();
        assert!(engine.len(conversation.sequence).unwrap() + 10 <= LIMITS.max_context);
        conversation.push("assistant", format!("a{turn}"));
        assert_eq!(conversation.messages().len() + removed, 3 + 2 * turn);
        assert!(conversation.has_system() && conversation.messages()[1]["role"] == "user");
    }
    assert!(removed > 20, "{removed}");

    // One message that is too long is refused; the rest of the conversation stays.
    let before = conversation.messages().to_vec();
    conversation.push("user", "long ".repeat(100));
    let refused = conversation.unread(&mut engine, 1).map(|_| ());
    assert!(matches!(refused, Err(Failure::Input(text)) if text.contains("jambac limits")));
    assert!(conversation.pop("user") && conversation.messages() == before);
}
