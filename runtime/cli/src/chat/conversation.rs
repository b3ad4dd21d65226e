//! The messages of a conversation and its sequence.

use std::path::Path;
use std::sync::Arc;

use jamba_runtime::{Chat, ChatTemplate, Engine, SequenceId, Snapshot, Tokenizer};
use serde_json::{Value, json};

use crate::failure::Failure;

/// A conversation.
pub(crate) struct Conversation {
    sequence: SequenceId,
    messages: Vec<Value>,
    tools: Option<Vec<Value>>,
    documents: Option<Vec<Value>>,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
}

impl Conversation {
    pub(crate) fn new(
        engine: &mut Engine,
        tools: Option<Vec<Value>>,
        documents: Option<Vec<Value>>,
    ) -> Result<Conversation, Failure> {
        let (tokenizer, template) = (engine.tokenizer()?, engine.chat_template()?);
        let sequence = engine.add_sequence()?;
        Ok(Conversation { sequence, messages: Vec::new(), tools, documents, tokenizer, template })
    }

    pub(crate) fn sequence(&self) -> SequenceId {
        self.sequence
    }

    /// Adds a message.
    pub(crate) fn push(&mut self, role: &str, content: String) {
        // Two slashes escape one at the start of a message.
        let content = if role == "user" && content.starts_with("//") { content[1..].to_owned() } else { content };
        self.messages.push(json!({ "role": role, "content": content }));
    }

    /// Removes the last message if it has this role. Returns true if it was removed.
    pub(crate) fn pop(&mut self, role: &str) -> bool {
        self.messages.pop_if(|message| message["role"] == role).is_some()
    }

    /// Sets or removes the system message.
    pub(crate) fn set_system(&mut self, text: Option<&str>) {
        if self.messages.first().is_some_and(|message| message["role"] == "system") {
            self.messages.remove(0);
        }
        if let Some(text) = text {
            self.messages.insert(0, json!({ "role": "system", "content": text }));
        }
    }

    /// Removes all messages except the system message.
    pub(crate) fn reset(&mut self, engine: &mut Engine) -> Result<(), Failure> {
        self.messages.retain(|message| message["role"] == "system");
        self.begin_again(engine)
    }

    /// The tokens of the conversation that are not in the sequence yet. Starts a new sequence if the conversation no longer
    /// starts with the tokens of the old one.
    pub(crate) fn unread(&mut self, engine: &mut Engine) -> Result<Vec<u32>, Failure> {
        let chat = Chat {
            messages: self.messages.clone(),
            tools: self.tools.clone(),
            documents: self.documents.clone(),
            add_generation_prompt: true,
            ..Chat::default()
        };
        let tokens = self.tokenizer.encode_plain(&self.template.render_chat(&chat)?)?;
        let read = engine.tokens(self.sequence)?;
        if tokens.len() > read.len() && tokens.starts_with(read) {
            return Ok(tokens[read.len()..].to_vec());
        }
        self.begin_again(engine)?;
        Ok(tokens)
    }

    fn begin_again(&mut self, engine: &mut Engine) -> Result<(), Failure> {
        engine.remove_sequence(self.sequence)?;
        self.sequence = engine.add_sequence()?;
        Ok(())
    }

    pub(crate) fn save(&self, engine: &Engine, path: &Path) -> Result<(), Failure> {
        let note = serde_json::to_string(&self.messages).map_err(|error| Failure::Ours(error.to_string()))?;
        Ok(engine.snapshot(self.sequence)?.with_note(&note).save(path)?)
    }

    pub(crate) fn load(&mut self, engine: &mut Engine, path: &Path) -> Result<(), Failure> {
        let snapshot = Snapshot::load(path, engine)?;
        let messages = serde_json::from_str(snapshot.note()).map_err(|error| {
            Failure::Input(format!("{}: note: expected the messages of a chat: {error}", path.display()))
        })?;
        // What fitted an engine of this plan fits one without other sequences.
        engine.remove_sequence(self.sequence)?;
        self.sequence = engine.restore(&snapshot)?;
        self.messages = messages;
        Ok(())
    }
}

#[cfg(test)]
#[path = "../../../tests/fixture/mod.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod fixture;

#[cfg(test)]
mod tests {
    use jamba_runtime::OpenOptions;

    use super::*;

    #[test]
    fn a_conversation_is_saved_with_its_state() {
        let folder = tempfile::tempdir().unwrap();
        let plan = fixture::Toy::with_text().write(folder.path(), "toy.plan");
        let mut engine = Engine::open(&plan, OpenOptions::default()).unwrap();
        let mut conversation = Conversation::new(&mut engine, None, None).unwrap();
        conversation.push("user", "Hi".to_owned());
        let all = conversation.unread(&mut engine).unwrap();
        engine.prefill(conversation.sequence, &all, None, None).unwrap();
        let path = folder.path().join("a chat.state");
        conversation.save(&engine, &path).unwrap();
        let saved = conversation.messages.clone();

        // A changed system message starts a new sequence; a loaded conversation continues its state.
        conversation.set_system(Some("No"));
        let other = conversation.unread(&mut engine).unwrap();
        assert!(other.len() > all.len() && engine.len(conversation.sequence).unwrap() == 0);
        conversation.load(&mut engine, &path).unwrap();
        assert_eq!((&conversation.messages, engine.tokens(conversation.sequence).unwrap()), (&saved, &all[..]));
        conversation.push("assistant", "Hello".to_owned());
        conversation.push("user", "//a".to_owned());
        assert_eq!(conversation.messages[2]["content"], "/a");
        let new = conversation.unread(&mut engine).unwrap();
        assert!(!new.is_empty() && engine.tokens(conversation.sequence).unwrap() == all);
        assert_eq!(engine.free().0, 2);

        // A state without a conversation changes nothing.
        engine.snapshot(conversation.sequence).unwrap().save(&path).unwrap();
        let refused = conversation.load(&mut engine, &path);
        assert!(matches!(refused, Err(Failure::Input(text)) if text.contains("a chat.state: note")));
        conversation.reset(&mut engine).unwrap();
        assert_eq!((conversation.messages.len(), engine.len(conversation.sequence).unwrap()), (0, 0));
    }
}
