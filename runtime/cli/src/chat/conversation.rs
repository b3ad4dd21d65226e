//! The messages of a conversation and its sequence.

use std::path::Path;
use std::sync::Arc;

use jamba_runtime::{
    AnswerCall, AnswerParser, AnswerSyntax, Cancel, Chat, ChatMessage, ChatTemplate, EncodedChat, Engine, Role,
    RuntimeError, SavePoint, SequenceId, Snapshot, TextLimit, Tokenizer, ToolCall,
};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::generate::Content;
use crate::prompt::empty_chat;

/// Save points to keep, each a slot of conv and SSM state in host memory. Three per turn: at the ends of the answer before the
/// message and of the message, and before the prompt's last token.
const MAX_POINTS: usize = 32;

pub(crate) struct Conversation {
    sequence: SequenceId,
    messages: Vec<Value>,
    tools: Option<Vec<Value>>,
    documents: Option<Vec<Value>>,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    /// How the model writes calls.
    syntax: AnswerSyntax,
    content: Content,
    /// Places in the sequence, in order.
    points: Vec<Point>,
}

/// A place in the sequence.
struct Point {
    /// Number of messages that the sequence has read there.
    n_messages: usize,
    state: SavePoint,
}

/// What the model has to read before it answers.
pub(crate) struct Unread {
    /// At least one token.
    pub(crate) tokens: Vec<u32>,
    /// Numbers of these tokens up to the ends of turns, where other chats may go on.
    pub(crate) turn_ends: Vec<usize>,
    /// Number of old messages that were removed because the context is full.
    pub(crate) n_removed: usize,
}

/// A rendered conversation.
enum Rendered {
    Encoded(EncodedChat),
    /// It has at least this many tokens, more than the context has.
    TooLong(u64),
}

impl Rendered {
    /// Number of tokens, at least.
    fn len(&self) -> u64 {
        match self {
            Rendered::Encoded(encoded) => encoded.tokens.len() as u64,
            Rendered::TooLong(tokens) => *tokens,
        }
    }
}

impl Conversation {
    pub(crate) fn new(
        engine: &mut Engine,
        (template, content): (ChatTemplate, Content),
        tools: Option<Vec<Value>>,
        documents: Option<Vec<Value>>,
    ) -> Result<Conversation, Failure> {
        let tokenizer = engine.tokenizer()?;
        let sequence = engine.add_sequence()?;
        let (messages, points) = (Vec::new(), Vec::new());
        let syntax =
            AnswerSyntax { calls: AnswerSyntax::of(&template, Some(&tokenizer)).calls, ..AnswerSyntax::default() };
        Ok(Conversation { sequence, messages, tools, documents, tokenizer, template, syntax, content, points })
    }

    pub(crate) fn sequence(&self) -> SequenceId {
        self.sequence
    }

    /// The messages, the system message first.
    pub(crate) fn messages(&self) -> &[Value] {
        &self.messages
    }

    /// Replaces all messages. The next prompt continues as much of the sequence as they have in common.
    pub(crate) fn set_messages(&mut self, messages: Vec<Value>) {
        self.messages = messages;
    }

    /// Adds a message.
    pub(crate) fn push(&mut self, role: &str, content: String) {
        // Two slashes escape one at the start of a message.
        let content = if role == "user" && content.starts_with("//") { content[1..].to_owned() } else { content };
        self.messages.push(json!({ "role": role, "content": content }));
    }

    /// Adds the model's answer. Its calls become fields of the message, from which the template writes them again.
    pub(crate) fn push_answer(&mut self, text: String) {
        let answer = AnswerParser::parse(self.syntax, &text);
        if answer.calls.is_empty() {
            return self.push("assistant", text);
        }
        let mut message = ChatMessage::new(Role::Assistant, answer.content.unwrap_or_default());
        let call = |call: AnswerCall| ToolCall { id: call.id, name: call.name, arguments: call.arguments };
        message.tool_calls = answer.calls.into_iter().map(call).collect();
        self.messages.push(message.for_template());
    }

    /// Removes the last message if it has this role. Returns true if it was removed.
    pub(crate) fn pop(&mut self, role: &str) -> bool {
        self.messages.pop_if(|message| message["role"] == role).is_some()
    }

    /// True if there is a system message.
    pub(crate) fn has_system(&self) -> bool {
        self.messages.first().is_some_and(is_system)
    }

    /// Sets or removes the system message.
    pub(crate) fn set_system(&mut self, text: Option<&str>) {
        if self.has_system() {
            self.messages.remove(0);
        }
        if let Some(text) = text {
            self.messages.insert(0, json!({ "role": "system", "content": text }));
        }
    }

    /// Removes all messages except the system message.
    pub(crate) fn reset(&mut self, engine: &mut Engine) -> Result<(), Failure> {
        self.messages.retain(is_system);
        self.begin_again(engine)
    }

    /// Removes the last user message and everything after it, and returns the sequence to the place before it. Returns the
    /// text of the message; None if there is none.
    pub(crate) fn undo(&mut self, engine: &mut Engine) -> Result<Option<String>, Failure> {
        let Some(last) = self.messages.iter().rposition(|message| message["role"] == "user") else { return Ok(None) };
        let text = self.messages[last]["content"].as_str().unwrap_or_default().to_owned();
        self.messages.truncate(last);
        match self.points.iter().rposition(|point| point.n_messages <= last) {
            Some(place) => self.rewind(engine, place)?,
            None => self.begin_again(engine)?,
        }
        Ok(Some(text))
    }

    /// The tokens of the conversation that are not in the sequence yet. If the conversation no longer starts with the tokens
    /// of the sequence, the sequence returns to its last save point in common, or starts again. If the context has no room
    /// for the conversation and `n_reserved` new tokens, the oldest turns are removed.
    ///
    /// # Errors
    /// The messages are unchanged.
    pub(crate) fn unread(&mut self, engine: &mut Engine, n_reserved: u64) -> Result<Unread, Failure> {
        let capacity = capacity(engine);
        let mut messages = self.messages.clone();
        let mut rendered = self.render(&messages, capacity)?;
        if rendered.len() + n_reserved > capacity {
            // The rest is read again, so half of the context becomes free at once.
            while rendered.len() > capacity / 2 && remove_oldest(&mut messages) {
                rendered = self.render(&messages, capacity)?;
            }
        }
        let EncodedChat { mut tokens, mut turn_ends } = match rendered {
            Rendered::Encoded(encoded) if (encoded.tokens.len() as u64) < capacity => encoded,
            long => {
                return Err(Failure::Input(format!(
                    "the message has {}{} tokens, and the context has {capacity}: shorten the message, or raise the context: \
                     jambac limits PLAN --context N -o OUT.plan",
                    if matches!(long, Rendered::TooLong(_)) { "at least " } else { "" },
                    long.len()
                )));
            }
        };
        if tokens.is_empty() {
            return Err(empty_chat(&self.template));
        }
        let n_removed = self.messages.len() - messages.len();
        self.messages = messages;
        let read = engine.tokens(self.sequence)?;
        let common = tokens.iter().zip(read).take_while(|(new, old)| new == old).count();
        if common < read.len() || common == tokens.len() {
            let is_before =
                |point: &Point| point.state.n_tokens() <= common as u64 && point.state.n_tokens() < tokens.len() as u64;
            match self.points.iter().rposition(is_before) {
                Some(place) => self.rewind(engine, place)?,
                None => self.begin_again(engine)?,
            }
        }
        let n_read = engine.len(self.sequence)? as usize;
        turn_ends.retain(|&end| end > n_read && end < tokens.len());
        turn_ends.iter_mut().for_each(|end| *end -= n_read);
        Ok(Unread { tokens: tokens.split_off(n_read), turn_ends, n_removed })
    }

    /// Reads all tokens but the last, with places to return to at the ends of turns and at the end. Returns false if it was
    /// cancelled.
    ///
    /// A template may write an answer in another way than the model did, for example without the space before it. Then the
    /// sequence returns to the end of the message before the answer, and reads no more than the answer and what is new.
    pub(crate) fn read(
        &mut self,
        engine: &mut Engine,
        unread: &Unread,
        chunk: Option<usize>,
        cancel: &Cancel,
    ) -> Result<bool, Failure> {
        let n_messages = self.messages.len();
        let end = unread.tokens.len() - 1;
        if unread.turn_ends.is_empty() {
            self.mark(engine, n_messages - 1)?;
        }
        let mut at = 0;
        for &stop in unread.turn_ends.iter().chain([&end]) {
            if at < stop {
                match engine.prefill(self.sequence, &unread.tokens[at..stop], chunk, Some(cancel)) {
                    Ok(_) => {}
                    Err(RuntimeError::Cancelled) => return Ok(false),
                    Err(error) => return Err(error.into()),
                }
                at = stop;
            }
            let is_message_read = stop == end || unread.turn_ends.last() == Some(&stop);
            self.mark(engine, if is_message_read { n_messages } else { n_messages - 1 })?;
        }
        Ok(true)
    }

    /// Makes the current end of the sequence a place to return to; the sequence has read `n_messages` messages.
    fn mark(&mut self, engine: &Engine, n_messages: usize) -> Result<(), Failure> {
        let n_tokens = engine.len(self.sequence)?;
        if n_tokens == 0 || self.points.last().is_some_and(|point| point.state.n_tokens() == n_tokens) {
            return Ok(());
        }
        if self.points.len() == MAX_POINTS {
            self.points.remove(0);
        }
        self.points.push(Point { n_messages, state: engine.save_point(self.sequence)? });
        Ok(())
    }

    /// Renders messages and encodes them, unless they have more than `most` tokens.
    fn render(&self, messages: &[Value], most: u64) -> Result<Rendered, Failure> {
        let chat = Chat {
            messages: messages.to_vec(),
            tools: self.tools.clone(),
            documents: self.documents.clone(),
            add_generation_prompt: true,
            ..Chat::default()
        };
        match self.content.encode(&self.tokenizer, &self.template, &chat, most) {
            Ok(encoded) => Ok(Rendered::Encoded(encoded)),
            Err(RuntimeError::TextTooLong { limit: TextLimit::Tokens { tokens, .. }, .. }) => {
                Ok(Rendered::TooLong(tokens))
            }
            Err(RuntimeError::TextTooLong { limit: TextLimit::Bytes(_), .. }) => Ok(Rendered::TooLong(most + 1)),
            Err(error) => Err(error.into()),
        }
    }

    fn rewind(&mut self, engine: &mut Engine, place: usize) -> Result<(), Failure> {
        engine.rewind(self.sequence, &self.points[place].state)?;
        self.points.truncate(place + 1);
        Ok(())
    }

    fn begin_again(&mut self, engine: &mut Engine) -> Result<(), Failure> {
        engine.remove_sequence(self.sequence)?;
        self.sequence = engine.add_sequence()?;
        self.points.clear();
        Ok(())
    }

    /// Saves the sequence with the save points of the last turn, so that a loaded conversation can undo it or answer again.
    pub(crate) fn save(&self, engine: &Engine, path: &Path) -> Result<(), Failure> {
        let last = self.messages.iter().rposition(|message| message["role"] == "user").unwrap_or_default();
        let first = self.points.iter().rposition(|point| point.n_messages <= last).unwrap_or_default();
        let points = &self.points[first..];
        let counts = points.iter().map(|point| point.n_messages).collect();
        let saved = Saved { messages: self.messages.clone(), points: counts };
        let note = serde_json::to_string(&saved).map_err(|error| Failure::Ours(error.to_string()))?;
        let snapshot = engine.snapshot(self.sequence)?.with_points(points.iter().map(|point| point.state.clone()));
        Ok(snapshot.with_note(&note).save(path)?)
    }

    pub(crate) fn load(&mut self, engine: &mut Engine, path: &Path) -> Result<(), Failure> {
        let snapshot = Snapshot::load(path, engine)?;
        let Saved { messages, points } = Saved::parse(snapshot.note()).map_err(|error| {
            Failure::Input(format!("{}: note: expected the messages of a chat: {error}", path.display()))
        })?;
        // What fitted an engine of this plan fits one without other sequences.
        engine.remove_sequence(self.sequence)?;
        self.sequence = engine.restore(&snapshot)?;
        self.messages = messages;
        self.points.clear();
        for (&n_messages, state) in points.iter().zip(snapshot.points()) {
            // A state of another target can go on, but not return.
            if engine.can_rewind(self.sequence, state)? {
                self.points.push(Point { n_messages, state: state.clone() });
            }
        }
        Ok(())
    }
}

/// The note of a saved conversation.
#[derive(serde::Serialize, serde::Deserialize)]
struct Saved {
    messages: Vec<Value>,
    /// Number of messages at each save point of the state.
    points: Vec<usize>,
}

impl Saved {
    /// Parses a note. Older ones are the array of the messages.
    fn parse(note: &str) -> serde_json::Result<Saved> {
        match serde_json::from_str(note)? {
            Value::Array(messages) => Ok(Saved { messages, points: Vec::new() }),
            object => serde_json::from_value(object),
        }
    }
}

/// Tokens that one sequence can have.
pub(crate) fn capacity(engine: &Engine) -> u64 {
    let limits = &engine.manifest().limits;
    limits.max_context.min(limits.kv_tokens)
}

fn is_system(message: &Value) -> bool {
    message["role"] == "system"
}

/// Removes the oldest turn: the first message that is not the system message, and all up to the next user message. Returns
/// false if that would leave no user message.
fn remove_oldest(messages: &mut Vec<Value>) -> bool {
    let begin = messages.iter().take_while(|message| is_system(message)).count();
    let mut later = messages.iter().enumerate().skip(begin + 1);
    let Some((end, _)) = later.find(|(_, message)| message["role"] == "user") else { return false };
    messages.drain(begin..end);
    true
}

#[cfg(test)]
#[path = "../../../tests/fixture/mod.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod fixture;

#[cfg(test)]
#[path = "conversation/tests.rs"]
mod tests;
