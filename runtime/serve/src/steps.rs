//! The step thread: it owns the engine and the batch. Commands come in between steps, events go out after each step, all in one
//! message. It never waits for a client.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;

use jamba_runtime::{
    Batch, BatchOptions, Engine, Event, Finish, NewToken, PrefixCache, PrefixCounters, PromptToken, Request, RequestId,
    RuntimeError, Snapshot, Usage,
};
use tokio::sync::{mpsc, oneshot};

use crate::admission::Permit;
use crate::error::{ApiError, Result};
use crate::kv_events::Follower;

/// A request for the step thread.
pub(crate) struct Submission {
    pub(crate) request: Request,
    /// Number of the request's first choice among those of the HTTP request.
    pub(crate) first_choice: usize,
    pub(crate) events: mpsc::UnboundedSender<ChoiceEvent>,
    /// Told when the batch has taken the request or refused it.
    pub(crate) taken: oneshot::Sender<Result<()>>,
    /// Returned when the answers have ended, whether or not the client has read them.
    pub(crate) permit: Arc<Permit>,
}

/// What happened to one choice of an HTTP request.
#[derive(Debug)]
pub(crate) struct ChoiceEvent {
    pub(crate) choice: usize,
    /// Tokens of the prompt that ran, if the request asks for their probabilities.
    pub(crate) prompt: Vec<PromptToken>,
    pub(crate) token: Option<NewToken>,
    /// The held back end of the text, with `finish`.
    pub(crate) rest: String,
    pub(crate) finish: Option<Finish>,
    /// With [`Finish::Failed`].
    pub(crate) error: Option<ApiError>,
    /// The state that the request keeps, with `finish`.
    pub(crate) state: Option<Snapshot>,
    pub(crate) usage: Usage,
}

/// The events of one step, each with the client that it is for.
pub(crate) type Told = Vec<(mpsc::UnboundedSender<ChoiceEvent>, ChoiceEvent)>;

/// What the batch holds, for whoever asks without the step thread.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) running: AtomicU64,
    pub(crate) waiting: AtomicU64,
    pub(crate) free_slots: AtomicU64,
    pub(crate) free_pages: AtomicU64,
    pub(crate) steps: AtomicU64,
    pub(crate) preemptions: AtomicU64,
    pub(crate) cache: CacheLoad,
    /// After an internal error of the engine.
    pub(crate) has_failed: AtomicBool,
}

/// [`PrefixCounters`], shared.
#[derive(Debug, Default)]
pub(crate) struct CacheLoad {
    pub(crate) prompts: AtomicU64,
    pub(crate) hits: AtomicU64,
    pub(crate) tokens_saved: AtomicU64,
    pub(crate) tokens_read: AtomicU64,
    pub(crate) evictions: AtomicU64,
    pub(crate) snapshots: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

fn set(to: &AtomicU64, value: u64) {
    to.store(value, Ordering::Relaxed);
}

impl Load {
    pub(crate) fn update(&self, engine: &Engine, batch: &Batch) {
        let (slots, pages) = engine.free();
        set(&self.running, batch.n_running() as u64);
        set(&self.waiting, batch.n_waiting() as u64);
        set(&self.free_slots, slots);
        set(&self.free_pages, pages);
        set(&self.preemptions, batch.n_preemptions());
        if let Some(PrefixCounters { prompts, hits, tokens_saved, tokens_read, evictions, snapshots, bytes }) =
            batch.cache().map(PrefixCache::counters)
        {
            let cache = &self.cache;
            set(&cache.prompts, prompts);
            set(&cache.hits, hits);
            set(&cache.tokens_saved, tokens_saved);
            set(&cache.tokens_read, tokens_read);
            set(&cache.evictions, evictions);
            set(&cache.snapshots, snapshots);
            set(&cache.bytes, bytes);
        }
    }
}

/// The step thread's state.
pub(crate) struct Steps {
    engine: Engine,
    batch: Batch,
    clients: HashMap<RequestId, Client>,
    told: mpsc::UnboundedSender<Told>,
    follower: Option<Follower>,
    load: Arc<Load>,
}

struct Client {
    events: mpsc::UnboundedSender<ChoiceEvent>,
    first_choice: usize,
    /// Choices that have not ended.
    n_open: usize,
    _permit: Arc<Permit>,
}

impl Steps {
    pub(crate) fn new(
        engine: Engine,
        options: BatchOptions,
        (cache, follower): (Option<PrefixCache>, Option<Follower>),
        told: mpsc::UnboundedSender<Told>,
        load: Arc<Load>,
    ) -> std::result::Result<Steps, RuntimeError> {
        let mut batch = Batch::with_options(&engine, options);
        if let Some(cache) = cache {
            batch.set_cache(&engine, cache)?;
        }
        load.update(&engine, &batch);
        Ok(Steps { engine, batch, clients: HashMap::new(), told, follower, load })
    }

    /// Runs until no command can come any more and all requests have ended.
    ///
    /// # Errors
    /// An internal error, after which the engine is of no use.
    pub(crate) fn run(mut self, commands: &Receiver<Submission>) -> std::result::Result<(), RuntimeError> {
        let result = self.run_steps(commands);
        self.load.has_failed.store(result.is_err(), Ordering::Relaxed);
        result
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    fn run_steps(&mut self, commands: &Receiver<Submission>) -> std::result::Result<(), RuntimeError> {
        loop {
            if self.batch.is_idle() {
                match commands.recv() {
                    Ok(command) => self.submit(command),
                    Err(_) => return Ok(()),
                }
            }
            while let Ok(command) = commands.try_recv() {
                self.submit(command);
            }
            if self.batch.is_idle() {
                continue; // all were refused
            }
            let events = self.batch.step(&mut self.engine)?;
            let told: Told = events.iter().filter_map(|event| tell(&mut self.clients, event)).collect();
            if let (Some(follower), Some(cache)) = (&self.follower, self.batch.cache_mut()) {
                follower.follow(cache);
            }
            self.load.update(&self.engine, &self.batch);
            set(&self.load.steps, self.load.steps.load(Ordering::Relaxed) + 1);
            if !told.is_empty() && self.told.send(told).is_err() {
                return Ok(()); // the HTTP thread has ended
            }
        }
    }

    fn submit(&mut self, submission: Submission) {
        let Submission { request, first_choice, events, taken, permit } = submission;
        let n_open = request.n;
        let result = match self.batch.submit(&self.engine, request) {
            Ok(id) => {
                self.clients.insert(id, Client { events, first_choice, n_open, _permit: permit });
                Ok(())
            }
            Err(error) => Err(error.into()),
        };
        // If the client is gone, its Cancel is set.
        let _ = taken.send(result);
        self.load.update(&self.engine, &self.batch);
    }
}

/// The message for the client of an event. Forgets clients whose last choice ended.
fn tell(
    clients: &mut HashMap<RequestId, Client>,
    event: &Event,
) -> Option<(mpsc::UnboundedSender<ChoiceEvent>, ChoiceEvent)> {
    let client = clients.get_mut(&event.request)?;
    let message = ChoiceEvent {
        choice: client.first_choice + event.choice,
        prompt: event.prompt.clone(),
        token: event.token.clone(),
        rest: event.rest.clone(),
        finish: event.finish,
        error: event.error.as_ref().map(ApiError::from),
        state: event.state.clone(),
        usage: event.usage,
    };
    let events = client.events.clone();
    client.n_open -= usize::from(event.finish.is_some());
    if client.n_open == 0 {
        clients.remove(&event.request);
    }
    Some((events, message))
}

/// Hands the events of the step thread to their clients.
pub(crate) async fn dispatch(mut told: mpsc::UnboundedReceiver<Told>) {
    while let Some(events) = told.recv().await {
        for (client, event) in events {
            let _ = client.send(event); // it may be gone
        }
    }
}
