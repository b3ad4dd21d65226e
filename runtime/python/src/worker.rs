//! The step thread: it owns the engine, the batch, and the answers of sequences. Commands come in between steps. It never takes
//! the interpreter's lock and never waits for Python.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use jamba_runtime::{
    Batch, BatchOptions, Engine, Event, Finish, Generated, PrefixCache, Request, RequestId, RuntimeError, StreamEvent,
    Turn, Usage,
};
use pyo3::prelude::*;

use crate::errors::{EngineError, closed, exception};
use crate::mailbox::{End, Failure, Letter, Letters, POLL};

type Command = Box<dyn FnOnce(&mut Steps) + Send>;

/// A handle of the step thread.
pub(crate) struct Worker {
    /// None once it was closed.
    commands: Mutex<Option<Sender<Command>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The process that has the thread.
    process: u32,
}

/// The state of the step thread.
pub(crate) struct Steps {
    pub(crate) engine: Engine,
    pub(crate) batch: Batch,
    clients: HashMap<RequestId, Client>,
    turns: Vec<Running>,
    /// The error after which the engine is of no use.
    failed: Option<String>,
}

/// Where the answers to a request go.
pub(crate) struct Client {
    pub(crate) letters: Arc<Letters>,
    pub(crate) key: u64,
    /// Choices that have not ended.
    pub(crate) n_open: usize,
}

/// An answer in a sequence that goes on after it.
pub(crate) struct Running {
    pub(crate) turn: Turn,
    pub(crate) letters: Arc<Letters>,
    pub(crate) key: u64,
    pub(crate) n_prompt: usize,
    pub(crate) n_new: usize,
    pub(crate) sequence: Arc<Held>,
}

/// A sequence that outlives its answers.
#[derive(Default)]
pub(crate) struct Held {
    /// Tokens that the sequence has not read: those behind which the model goes on.
    pub(crate) pending: Mutex<Vec<u32>>,
    /// True while an answer runs.
    pub(crate) is_answering: AtomicBool,
}

impl Held {
    pub(crate) fn pending(&self) -> Vec<u32> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_pending(&self, tokens: Vec<u32>) {
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner) = tokens;
    }
}

/// Receives without the interpreter's lock. The exception of a signal handler ends the wait.
pub(crate) fn receive<T: Send>(py: Python<'_>, receiver: Receiver<T>) -> PyResult<T> {
    receive_while(py, receiver, || Ok(()))
}

/// As [`receive`]. Calls `look` every few milliseconds, whose exception ends the wait too.
pub(crate) fn receive_while<T: Send>(
    py: Python<'_>,
    mut receiver: Receiver<T>,
    look: impl Fn() -> PyResult<()>,
) -> PyResult<T> {
    loop {
        let (back, received) = py.detach(move || {
            let received = receiver.recv_timeout(POLL);
            (receiver, received)
        });
        receiver = back;
        match received {
            Ok(value) => return Ok(value),
            Err(RecvTimeoutError::Timeout) => {
                py.check_signals()?;
                look()?;
            }
            Err(RecvTimeoutError::Disconnected) => return Err(closed()),
        }
    }
}

impl Worker {
    /// Starts the thread. It opens the plan with `open` and tells what `describe` says of it.
    pub(crate) fn start<T: Send + 'static>(
        py: Python<'_>,
        open: impl FnOnce() -> Result<Engine, RuntimeError> + Send + 'static,
        (options, cache): (BatchOptions, Option<PrefixCache>),
        describe: impl FnOnce(&Engine) -> Result<T, RuntimeError> + Send + 'static,
    ) -> PyResult<(Worker, T)> {
        let (commands, receiver) = channel();
        let (opened, wait) = channel();
        let work = move || {
            let begin = || {
                let engine = open()?;
                let mut batch = Batch::with_options(&engine, options);
                if let Some(cache) = cache {
                    batch.set_cache(&engine, cache)?;
                }
                let described = describe(&engine)?;
                Ok((Steps { engine, batch, clients: HashMap::new(), turns: Vec::new(), failed: None }, described))
            };
            match begin() {
                Ok((mut steps, described)) => {
                    if opened.send(Ok(described)).is_ok() {
                        steps.run(&receiver);
                    }
                }
                Err(error) => {
                    let _ = opened.send(Err(error)); // fails if a signal ended the wait for it
                }
            }
        };
        let thread = std::thread::Builder::new().name("jamba-steps".to_owned()).spawn(work)?;
        let described = receive(py, wait)?.map_err(|error| exception(&error))?;
        let worker = Worker {
            commands: Mutex::new(Some(commands)),
            thread: Mutex::new(Some(thread)),
            process: std::process::id(),
        };
        Ok((worker, described))
    }

    /// Sends a command.
    ///
    /// # Errors
    /// The model was closed, or this process is a fork of the one that opened it.
    pub(crate) fn send(&self, command: impl FnOnce(&mut Steps) + Send + 'static) -> PyResult<()> {
        self.check_process()?;
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = commands.as_ref().map(|commands| commands.send(Box::new(command)));
        sent.and_then(Result::ok).ok_or_else(closed)
    }

    /// Runs `command` between two steps and returns its result.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        py: Python<'_>,
        command: impl FnOnce(&mut Steps) -> Result<T, RuntimeError> + Send + 'static,
    ) -> PyResult<T> {
        let (told, wait) = channel();
        self.send(move |steps| {
            let result = match &steps.failed {
                Some(reason) => Err(Failure::Engine(reason.clone())),
                None => command(steps).map_err(Failure::from),
            };
            let _ = told.send(result); // fails if a signal ended the wait for it
        })?;
        Ok(receive(py, wait)??)
    }

    /// # Errors
    /// This process is a fork of the one that opened the model.
    pub(crate) fn check_process(&self) -> PyResult<()> {
        if self.is_ours() {
            return Ok(());
        }
        Err(EngineError::new_err(format!(
            "the model was opened by process {}, of which this process is a fork without its threads: open the plan in \
             this process, or start it by multiprocessing's method \"spawn\"",
            self.process
        )))
    }

    fn is_ours(&self) -> bool {
        self.process == std::process::id()
    }

    /// Ends the thread and frees the engine. Answers that run are cancelled.
    pub(crate) fn close(&self) {
        if !self.is_ours() {
            return;
        }
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(commands) = commands {
            let _ = commands.send(Box::new(Steps::end_all));
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join(); // a panic there was reported
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.close();
    }
}

impl Steps {
    /// Runs until no command can come any more.
    fn run(&mut self, commands: &Receiver<Command>) {
        loop {
            if self.batch.is_idle() && self.turns.is_empty() {
                match commands.recv() {
                    Ok(command) => command(self),
                    Err(_) => return,
                }
            }
            while let Ok(command) = commands.try_recv() {
                command(self);
            }
            if !self.batch.is_idle() {
                let told = match self.batch.step(&mut self.engine) {
                    Ok(events) => events.iter().filter_map(|event| letter(&mut self.clients, event)).collect(),
                    Err(error) => {
                        self.fail(&error.to_string());
                        Vec::new()
                    }
                };
                deliver(told);
            }
            self.take_turns();
        }
    }

    /// Submits a request. Errors go to its mailbox.
    pub(crate) fn submit(&mut self, request: Request, client: Client) {
        let submitted = match &self.failed {
            Some(reason) => Err(Failure::Engine(reason.clone())),
            None => self.batch.submit(&self.engine, request).map_err(Failure::from),
        };
        match submitted {
            Ok(id) => {
                self.clients.insert(id, client);
            }
            Err(failure) => refuse(&client.letters, client.key, failure),
        }
    }

    /// Begins an answer in a sequence.
    pub(crate) fn begin(&mut self, turn: Result<Running, (RuntimeError, Arc<Held>, Arc<Letters>, u64)>) {
        match turn {
            Ok(turn) => self.turns.push(turn),
            Err((error, sequence, letters, key)) => {
                sequence.is_answering.store(false, Ordering::Release);
                refuse(&letters, key, error.into());
            }
        }
    }

    /// A step of every answer in a sequence.
    fn take_turns(&mut self) {
        let Steps { engine, turns, .. } = self;
        turns.retain_mut(|running| {
            let Running { turn, letters, key, n_prompt, n_new, sequence } = running;
            let (mut token, mut end) = (None, None);
            while end.is_none() {
                match turn.next(engine) {
                    Some(Ok(StreamEvent::Token(new))) => {
                        *n_new += 1;
                        sequence.set_pending(vec![new.token]);
                        token = Some(new);
                        if !turn.has_ended() {
                            break;
                        }
                    }
                    Some(Ok(StreamEvent::Done(done))) => {
                        let usage = Usage {
                            prompt_tokens: *n_prompt,
                            new_tokens: *n_new,
                            prefill: done.prefill,
                            decode: done.decode,
                            ..Usage::default()
                        };
                        let Generated { finish, rest, seed, .. } = done;
                        end = Some(End::Answered { finish, rest, seed, usage });
                    }
                    Some(Err(error)) => end = Some(End::Failed(error.into())),
                    None => return false,
                }
            }
            let goes_on = end.is_none();
            sequence.is_answering.store(goes_on, Ordering::Release);
            letters.put([Letter { key: *key, choice: 0, token, prompt: Vec::new(), end }]);
            goes_on
        });
    }

    /// Ends all answers with an error, after which the engine is of no use.
    fn fail(&mut self, reason: &str) {
        self.failed = Some(reason.to_owned());
        self.end_with(|| Failure::Engine(reason.to_owned()));
    }

    /// Ends all answers.
    fn end_all(&mut self) {
        self.end_with(|| Failure::Engine("the model was closed".to_owned()));
    }

    fn end_with(&mut self, failure: impl Fn() -> Failure) {
        for client in std::mem::take(&mut self.clients).into_values() {
            refuse(&client.letters, client.key, failure());
        }
        for running in std::mem::take(&mut self.turns) {
            running.sequence.is_answering.store(false, Ordering::Release);
            refuse(&running.letters, running.key, failure());
        }
        self.batch = Batch::new(&self.engine);
    }
}

/// Ends all answers of a request with an error.
fn refuse(letters: &Letters, key: u64, failure: Failure) {
    letters.put([Letter { key, choice: 0, token: None, prompt: Vec::new(), end: Some(End::Failed(failure)) }]);
}

/// The letter of an event, and where it goes. Forgets requests whose last answer ended.
fn letter(clients: &mut HashMap<RequestId, Client>, event: &Event) -> Option<(Arc<Letters>, Letter)> {
    let client = clients.get_mut(&event.request)?;
    let end = event.finish.map(|finish| match (&event.error, finish) {
        (Some(error), _) => End::Failed(Failure::of(error)),
        (None, Finish::Failed) => End::Failed(Failure::Engine("the request failed".to_owned())),
        (None, finish) => End::Answered { finish, rest: event.rest.clone(), seed: event.seed, usage: event.usage },
    });
    client.n_open -= usize::from(end.is_some());
    let letters = Arc::clone(&client.letters);
    let letter =
        Letter { key: client.key, choice: event.choice, token: event.token.clone(), prompt: event.prompt.clone(), end };
    if client.n_open == 0 {
        clients.remove(&event.request);
    }
    Some((letters, letter))
}

/// Delivers the letters of a step, all of a mailbox at once.
fn deliver(told: Vec<(Arc<Letters>, Letter)>) {
    let mut boxes: Vec<(Arc<Letters>, Vec<Letter>)> = Vec::new();
    for (letters, letter) in told {
        match boxes.iter_mut().find(|(other, _)| Arc::ptr_eq(other, &letters)) {
            Some((_, together)) => together.push(letter),
            None => boxes.push((letters, vec![letter])),
        }
    }
    for (letters, together) in boxes {
        letters.put(together);
    }
}
