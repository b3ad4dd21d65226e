//! Answers of a chat model, split into reasoning, calls of functions, and content while the text arrives.
//!
//! The result depends on the text only, not on how it is cut into pieces. Markup that holds no call is content. White space
//! between the parts belongs to none of them.
//!
//! - [`calls`] reads the JSON of calls; [`syntax`] finds the markup that a model uses.

mod calls;
mod syntax;

use calls::{Calls, Step};
pub use syntax::{AnswerSyntax, CallTags, Reasoning};

const THINK: &str = "<think>";
const END_THINK: &str = "</think>";

/// A part of an answer that became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerEvent {
    /// Text for the user.
    Content(String),
    /// Text of the model's reasoning.
    Reasoning(String),
    /// The model calls a function. Calls follow one another: each ends before the next one starts.
    CallStarted {
        /// Position among the calls of the answer.
        index: usize,
        /// A name for the call: the parser's prefix and `index`.
        id: String,
        /// The function.
        name: String,
    },
    /// The next part of the arguments of the call that started last: JSON text as the model wrote it. Models make mistakes, so
    /// all parts together may be invalid.
    Arguments(String),
    /// No arguments follow.
    CallEnded,
}

/// A whole call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerCall {
    /// The name of the call, for the message with its result.
    pub id: String,
    /// The function.
    pub name: String,
    /// JSON text, as the model wrote it.
    pub arguments: String,
}

/// The parts of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Text for the user; None if the model wrote none.
    pub content: Option<String>,
    /// The model's reasoning.
    pub reasoning: Option<String>,
    /// Calls of functions, in order.
    pub calls: Vec<AnswerCall>,
}

impl Answer {
    /// Adds what an event tells.
    pub fn add(&mut self, event: &AnswerEvent) {
        match event {
            AnswerEvent::Content(text) => *self.content.get_or_insert_default() += text,
            AnswerEvent::Reasoning(text) => *self.reasoning.get_or_insert_default() += text,
            AnswerEvent::CallStarted { id, name, .. } => {
                self.calls.push(AnswerCall { id: id.clone(), name: name.clone(), arguments: String::new() });
            }
            AnswerEvent::Arguments(text) => {
                if let Some(call) = self.calls.last_mut() {
                    call.arguments += text;
                }
            }
            AnswerEvent::CallEnded => {}
        }
    }
}

/// Where the parser is.
enum State {
    /// In content, or before it.
    Text,
    /// At the start of an answer that begins inside of reasoning: a repeated tag is skipped.
    OpenReasoning,
    Reasoning,
    Calls(Calls),
    /// Behind a call or a list of calls: an end tag or another call may follow.
    AfterCalls,
}

/// What was read of the input.
struct Read {
    n_bytes: usize,
    /// The end of what was read, if it is to be read again.
    back: String,
}

impl Read {
    /// All of the input but `rest`.
    fn before(input: &str, rest: &str) -> Option<Read> {
        Some(Read { n_bytes: input.len() - rest.len(), back: String::new() })
    }
}

/// Splits an answer into its parts while its text arrives in pieces.
///
/// ```
/// use jamba_runtime::{Answer, AnswerParser, AnswerSyntax, CallTags, Reasoning};
///
/// let syntax = AnswerSyntax { calls: Some(CallTags::Each), reasoning: Reasoning::Tagged };
/// let text = "<think>Rome?</think>\n<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}</tool_call>";
/// let answer = AnswerParser::parse(syntax, text);
/// assert_eq!(answer.reasoning.as_deref(), Some("Rome?"));
/// assert_eq!(answer.calls[0].arguments, r#"{"city": "Rome"}"#);
/// assert_eq!(answer.content, None);
/// ```
pub struct AnswerParser {
    syntax: AnswerSyntax,
    id_prefix: String,
    state: State,
    /// The end of the text, which may be the beginning of a tag.
    held: String,
    /// White space that is told only if more of the same kind follows.
    blank: String,
    /// True while white space may begin the content: no other part came before it.
    leads: bool,
    has_content: bool,
    has_reasoning: bool,
    /// True after the first text between two tags of reasoning.
    is_reasoning_told: bool,
    n_calls: usize,
    events: Vec<AnswerEvent>,
}

impl AnswerParser {
    /// A parser for one answer.
    pub fn new(syntax: AnswerSyntax) -> AnswerParser {
        AnswerParser {
            state: if syntax.reasoning == Reasoning::Open { State::OpenReasoning } else { State::Text },
            syntax,
            id_prefix: "call_".to_owned(),
            held: String::new(),
            blank: String::new(),
            leads: true,
            has_content: false,
            has_reasoning: false,
            is_reasoning_told: false,
            n_calls: 0,
            events: Vec::new(),
        }
    }

    /// Replaces the prefix of the calls' ids, `call_`. Ids of a whole chat differ if each answer has a prefix of its own.
    pub fn with_id_prefix(mut self, prefix: impl Into<String>) -> AnswerParser {
        self.id_prefix = prefix.into();
        self
    }

    /// Splits a whole answer.
    pub fn parse(syntax: AnswerSyntax, text: &str) -> Answer {
        let mut parser = AnswerParser::new(syntax);
        let mut answer = Answer::default();
        parser.push(text).iter().for_each(|event| answer.add(event));
        parser.finish().iter().for_each(|event| answer.add(event));
        answer
    }

    /// Number of calls that started so far.
    pub fn n_calls(&self) -> usize {
        self.n_calls
    }

    /// Appends text and returns what it makes known.
    pub fn push(&mut self, text: &str) -> Vec<AnswerEvent> {
        let mut input = std::mem::take(&mut self.held) + text;
        let mut at = 0;
        while at < input.len() {
            let Some(Read { n_bytes, back }) = self.advance(&input[at..]) else { break };
            at += n_bytes;
            match at.checked_sub(back.len()) {
                Some(before) => at = before,
                // The text to read again began in an earlier piece.
                None => (input, at) = (back + &input[at..], 0),
            }
        }
        self.told()
    }

    /// Ends the answer. What was held back is content, unless it belongs to the reasoning or to a call.
    pub fn finish(mut self) -> Vec<AnswerEvent> {
        loop {
            let held = std::mem::take(&mut self.held);
            match std::mem::replace(&mut self.state, State::Text) {
                State::Text | State::AfterCalls => self.content(&held),
                State::OpenReasoning | State::Reasoning => self.reasoning(&held),
                State::Calls(mut calls) => {
                    let (mut events, is_call) = (Vec::new(), calls.finish());
                    calls.tell(&mut events);
                    self.take(events);
                    if !is_call {
                        // The tag is text, and what follows it is read again: it may hold another tag.
                        let text = self.give_back(calls);
                        let more = self.push(&text);
                        self.events = more;
                        continue;
                    }
                }
            }
            break;
        }
        let is_content = self.n_calls == 0 && (self.has_content || self.leads);
        if is_content && !self.blank.is_empty() {
            let blank = std::mem::take(&mut self.blank);
            self.tell(AnswerEvent::Content(blank));
        }
        self.told()
    }

    /// Reads a part of the input; None if more text is needed.
    fn advance(&mut self, input: &str) -> Option<Read> {
        match std::mem::replace(&mut self.state, State::Text) {
            State::Text => self.text(input),
            State::OpenReasoning => {
                let text = input.trim_start();
                if text.is_empty() || text.len() < THINK.len() && THINK.starts_with(text) {
                    self.state = State::OpenReasoning;
                    self.held = input.to_owned();
                    return None;
                }
                self.state = State::Reasoning;
                self.leads = false;
                Read::before(input, text.strip_prefix(THINK).unwrap_or(text))
            }
            State::Reasoning => match input.split_once(END_THINK) {
                Some((reasoning, rest)) => {
                    self.reasoning(reasoning);
                    self.blank.clear();
                    self.leads = false;
                    Read::before(input, rest)
                }
                None => {
                    let (reasoning, held) = input.split_at(input.len() - overlap(input, END_THINK));
                    self.reasoning(reasoning);
                    self.held = held.to_owned();
                    self.state = State::Reasoning;
                    None
                }
            },
            State::Calls(mut calls) => {
                let (step, mut events) = (calls.push(input), Vec::new());
                calls.tell(&mut events);
                self.take(events);
                match step {
                    Step::More => {
                        self.state = State::Calls(calls);
                        None
                    }
                    Step::Done(rest) => {
                        self.state = State::AfterCalls;
                        Read::before(input, rest)
                    }
                    Step::Failed(rest) => {
                        let n_bytes = input.len() - rest.len();
                        Some(Read { n_bytes, back: self.give_back(calls) })
                    }
                }
            }
            State::AfterCalls => {
                let Some(tags) = self.syntax.calls else { return Read::before(input, input) };
                let text = input.trim_start();
                self.blank += &input[..input.len() - text.len()];
                if let Some(rest) = text.strip_prefix(tags.end()) {
                    return Read::before(input, rest);
                }
                if tags.end().starts_with(text) {
                    self.state = State::AfterCalls;
                    self.held = text.to_owned();
                    return None;
                }
                if text.starts_with('{') {
                    self.state = State::Calls(Calls::further());
                }
                Read::before(input, text)
            }
        }
    }

    /// Reads content up to a tag.
    fn text(&mut self, input: &str) -> Option<Read> {
        let thinks = self.syntax.reasoning != Reasoning::None && !self.has_content;
        // Only white space may come before reasoning.
        let n_blank = input.len() - input.trim_start().len();
        let think = Some(n_blank).filter(|&at| thinks && input[at..].starts_with(THINK));
        let call = self.syntax.calls.and_then(|tags| Some((input.find(tags.begin())?, tags)));
        match (think, call) {
            (Some(at), call) if call.is_none_or(|(other, _)| at < other) => {
                (self.leads, self.is_reasoning_told) = (false, false);
                self.state = State::Reasoning;
                self.blank.clear();
                Read::before(input, &input[at + THINK.len()..])
            }
            (_, Some((at, tags))) => {
                self.content(&input[..at]);
                self.state = State::Calls(Calls::new());
                Read::before(input, &input[at + tags.begin().len()..])
            }
            _ => {
                let call = self.syntax.calls.map_or(0, |tags| overlap(input, tags.begin()));
                let n_held = call.max(if thinks { overlap(input, THINK) } else { 0 });
                let (content, held) = input.split_at(input.len() - n_held);
                self.content(content);
                self.held = held.to_owned();
                None
            }
        }
    }

    /// Leaves markup that cannot be read. Returns the text to read again: all that belongs to no call.
    fn give_back(&mut self, calls: Calls) -> String {
        match self.syntax.calls {
            _ if calls.has_call() => self.state = State::AfterCalls,
            Some(tags) if !calls.is_further() => self.content(tags.begin()),
            _ => {}
        }
        calls.into_raw()
    }

    fn content(&mut self, text: &str) {
        let (body, blank) = text.split_at(text.trim_end().len());
        if !body.is_empty() {
            let lead = std::mem::take(&mut self.blank) + body;
            let is_cut = !self.has_content && !self.leads;
            self.has_content = true;
            self.tell(AnswerEvent::Content(if is_cut { lead.trim_start().to_owned() } else { lead }));
        }
        self.blank += blank;
    }

    fn reasoning(&mut self, text: &str) {
        let (body, blank) = text.split_at(text.trim_end().len());
        if !body.is_empty() {
            let lead = std::mem::take(&mut self.blank) + body;
            let lead = if self.is_reasoning_told { &lead } else { lead.trim_start() };
            // A later block is told apart from the one before it.
            let between = if self.has_reasoning && !self.is_reasoning_told { "\n" } else { "" };
            self.tell(AnswerEvent::Reasoning(format!("{between}{lead}")));
            (self.has_reasoning, self.is_reasoning_told) = (true, true);
        }
        self.blank += blank;
    }

    /// Adds events of calls, with their numbers and names.
    fn take(&mut self, events: Vec<AnswerEvent>) {
        for event in events {
            let event = match event {
                AnswerEvent::CallStarted { name, .. } => {
                    let index = self.n_calls;
                    self.n_calls += 1;
                    self.leads = false;
                    AnswerEvent::CallStarted { index, id: format!("{}{index}", self.id_prefix), name }
                }
                event => event,
            };
            self.tell(event);
        }
    }

    /// Adds an event; text joins the text before it.
    fn tell(&mut self, event: AnswerEvent) {
        match (self.events.last_mut(), &event) {
            (Some(AnswerEvent::Content(text)), AnswerEvent::Content(more))
            | (Some(AnswerEvent::Reasoning(text)), AnswerEvent::Reasoning(more))
            | (Some(AnswerEvent::Arguments(text)), AnswerEvent::Arguments(more)) => *text += more,
            _ => self.events.push(event),
        }
    }

    fn told(&mut self) -> Vec<AnswerEvent> {
        std::mem::take(&mut self.events)
    }
}

/// Length of the longest end of a text that begins a tag without being all of it.
fn overlap(text: &str, tag: &str) -> usize {
    (1..tag.len().min(text.len() + 1)).rev().find(|&n| text.as_bytes().ends_with(&tag.as_bytes()[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests;
