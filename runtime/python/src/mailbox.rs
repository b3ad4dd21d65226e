//! What becomes known of answers, on its way from the step thread to Python. A mailbox has a bell that an event loop can watch.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jamba_runtime::{AnswerSyntax, Cancel, ErrorClass, Finish, NewToken, PromptToken, RuntimeError, Usage};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::errors::{EngineError, exception};
use crate::parts::Parts;

/// Time between two looks for signals while Python waits.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// What happened to one choice of a request.
pub(crate) struct Letter {
    /// The request, by the number that its caller gave it.
    pub(crate) key: u64,
    pub(crate) choice: usize,
    pub(crate) token: Option<NewToken>,
    /// Tokens of the prompt that ran, if their probabilities are asked for.
    pub(crate) prompt: Vec<PromptToken>,
    pub(crate) end: Option<End>,
}

/// The end of an answer.
pub(crate) enum End {
    Answered { finish: Finish, rest: String, seed: u64, usage: Usage },
    Failed(Failure),
}

/// An error on its way to Python.
pub(crate) enum Failure {
    Runtime(RuntimeError),
    /// What was asked is wrong.
    Wrong(String),
    /// The engine cannot do it.
    Engine(String),
}

impl Failure {
    /// Of an error that somebody else holds.
    pub(crate) fn of(error: &RuntimeError) -> Failure {
        match error.class() {
            ErrorClass::Caller | ErrorClass::TooLong => Failure::Wrong(error.to_string()),
            _ => Failure::Engine(error.to_string()),
        }
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Failure {
        Failure::Runtime(error)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> PyErr {
        match failure {
            Failure::Runtime(error) => exception(&error),
            Failure::Wrong(text) => PyValueError::new_err(text),
            Failure::Engine(text) => EngineError::new_err(text),
        }
    }
}

impl Letter {
    /// `(key, choice, token, text, more)`: a token or None, its text, and a dict with what most letters do not have.
    fn into_tuple(self, py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
        let Letter { key, choice, token, prompt, end } = self;
        let is_plain = end.is_none() && prompt.is_empty() && token.as_ref().is_some_and(|t| t.logprob.is_none());
        let more = if is_plain { None } else { Some(PyDict::new(py)) };
        let (mut id, mut text) = (None, String::new());
        if let Some(token) = token {
            if let Some(more) = more.as_ref().filter(|_| token.logprob.is_some()) {
                more.set_item("logprob", token.logprob)?;
                more.set_item("top", token.top)?;
            }
            (id, text) = (Some(token.token), token.text);
        }
        if let Some(more) = more.as_ref().filter(|_| !prompt.is_empty()) {
            let entry = |t: PromptToken| (t.token, t.logprob, t.top);
            more.set_item("prompt", prompt.into_iter().map(entry).collect::<Vec<_>>())?;
        }
        if let (Some(end), Some(more)) = (end, &more) {
            match end {
                End::Answered { finish, rest, seed, usage } => {
                    text += &rest;
                    more.set_item("finish", finish.name())?;
                    more.set_item("seed", seed)?;
                    more.set_item("prompt_tokens", usage.prompt_tokens)?;
                    more.set_item("cached_tokens", usage.cached_tokens)?;
                    more.set_item("queue_seconds", usage.queue.as_secs_f64())?;
                    more.set_item("prefill_seconds", usage.prefill.as_secs_f64())?;
                    more.set_item("decode_seconds", usage.decode.as_secs_f64())?;
                }
                End::Failed(failure) => more.set_item("error", PyErr::from(failure).into_value(py))?,
            }
        }
        (key, choice, id, text, more).into_pyobject(py)
    }
}

/// The letters of some requests.
#[derive(Default)]
pub(crate) struct Letters {
    letters: Mutex<Vec<Letter>>,
    arrived: Condvar,
    /// Written to when letters come into an empty box.
    bell: Option<UnixStream>,
}

impl Letters {
    fn lock(&self) -> MutexGuard<'_, Vec<Letter>> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, new: impl IntoIterator<Item = Letter>) {
        let mut letters = self.lock();
        let was_empty = letters.is_empty();
        letters.extend(new);
        let rings = was_empty && !letters.is_empty();
        drop(letters);
        if rings {
            self.arrived.notify_one();
            if let Some(mut bell) = self.bell.as_ref() {
                let _ = bell.write(&[1]); // a full pipe has rung already
            }
        }
    }
}

/// The letters of some requests, for one reader.
#[pyclass(frozen)]
pub(crate) struct Mailbox {
    pub(crate) letters: Arc<Letters>,
    bell: Option<UnixStream>,
}

#[pymethods]
impl Mailbox {
    /// With `has_bell`, an event loop can watch it.
    #[new]
    fn new(has_bell: bool) -> PyResult<Mailbox> {
        if !has_bell {
            return Ok(Mailbox { letters: Arc::default(), bell: None });
        }
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        let letters = Letters { bell: Some(writer), ..Letters::default() };
        Ok(Mailbox { letters: Arc::new(letters), bell: Some(reader) })
    }

    fn fileno(&self) -> Option<i32> {
        self.bell.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// The letters that have come.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        if let Some(mut bell) = self.bell.as_ref() {
            // Before the box is emptied, so that no bell goes unheard.
            let _ = bell.read(&mut [0; 64]);
        }
        let letters = std::mem::take(&mut *self.letters.lock());
        let tuples = letters.into_iter().map(|letter| letter.into_tuple(py)).collect::<PyResult<Vec<_>>>()?;
        PyList::new(py, tuples)
    }

    /// Waits for letters without the interpreter's lock.
    fn wait<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        loop {
            let is_empty = py.detach(|| {
                let letters = self.letters.lock();
                let wait = self.letters.arrived.wait_timeout_while(letters, POLL, |letters| letters.is_empty());
                wait.unwrap_or_else(PoisonError::into_inner).0.is_empty()
            });
            if !is_empty {
                return self.take(py);
            }
            py.check_signals()?;
        }
    }
}

/// A request that was submitted.
#[pyclass(frozen)]
pub(crate) struct Ticket {
    pub(crate) cancel: Cancel,
    /// Tokens of the prompt.
    #[pyo3(get)]
    pub(crate) prompt: Vec<u32>,
    /// Number of answers.
    #[pyo3(get)]
    pub(crate) n: usize,
    pub(crate) syntax: AnswerSyntax,
    pub(crate) max_calls: usize,
}

#[pymethods]
impl Ticket {
    /// The answers end before the next step.
    fn cancel(&self) {
        self.cancel.cancel();
    }

    /// A parser for one of the answers.
    fn parts(&self, id_prefix: String) -> Parts {
        Parts::new(self.syntax, id_prefix, self.max_calls)
    }
}
