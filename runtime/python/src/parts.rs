//! The parts of an answer in a chat: reasoning, calls, content.

use std::sync::{Mutex, PoisonError};

use jamba_runtime::{AnswerEvent, AnswerParser, AnswerSyntax};
use pyo3::prelude::*;

/// `(kind, index of the call, text, name)`, with the id of a call as the text of `call`.
type Part = (&'static str, usize, String, String);

/// Reads the text of one answer.
#[pyclass(frozen)]
pub(crate) struct Parts(Mutex<State>);

struct State {
    /// None after the end.
    parser: Option<AnswerParser>,
    n_calls: usize,
    max_calls: usize,
}

impl State {
    fn tell(&mut self, events: Vec<AnswerEvent>) -> Vec<Part> {
        let mut parts = Vec::new();
        for event in events {
            self.n_calls += usize::from(matches!(event, AnswerEvent::CallStarted { .. }));
            let index = self.n_calls.saturating_sub(1);
            let is_told = self.n_calls <= self.max_calls;
            match event {
                AnswerEvent::Content(text) => parts.push(("content", 0, text, String::new())),
                AnswerEvent::Reasoning(text) => parts.push(("reasoning", 0, text, String::new())),
                AnswerEvent::CallStarted { id, name, .. } if is_told => parts.push(("call", index, id, name)),
                AnswerEvent::Arguments(text) if is_told => parts.push(("arguments", index, text, String::new())),
                AnswerEvent::CallStarted { .. } | AnswerEvent::Arguments(_) | AnswerEvent::CallEnded => {}
            }
        }
        parts
    }
}

impl Parts {
    pub(crate) fn new(syntax: AnswerSyntax, id_prefix: String, max_calls: usize) -> Parts {
        let parser = Some(AnswerParser::new(syntax).with_id_prefix(id_prefix));
        Parts(Mutex::new(State { parser, n_calls: 0, max_calls }))
    }
}

#[pymethods]
impl Parts {
    /// What more text makes known.
    fn push(&self, text: &str) -> Vec<Part> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let events = state.parser.as_mut().map(|parser| parser.push(text)).unwrap_or_default();
        state.tell(events)
    }

    /// What the end of the text makes known.
    fn finish(&self) -> Vec<Part> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let events = state.parser.take().map(AnswerParser::finish).unwrap_or_default();
        state.tell(events)
    }
}
