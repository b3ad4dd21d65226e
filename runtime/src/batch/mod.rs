//! Continuous batching: requests join and leave between steps and share each step's token budget. The tokens of a request do
//! not depend on the other requests.
//!
//! 1. [`admit`]: waiting jobs join by priority and arrival, while a state slot and KV pages for all of their tokens are free
//! 2. [`share`]: one token for every decoding sequence, then chunks of prompts, up to the step's token budget or, by the
//!    prices of [`cost`], its target time
//! 3. run: if the KV pool is exhausted, the job of the lowest priority that joined last gives way ([`swap`])
//! 4. pick: pick the next token of every sequence that has processed all of its tokens; snapshots that are due go into the
//!    prefix cache; jobs that have ended leave
//!
//! A request for n answers is n jobs, of which the first reads the prompt.

mod admit;
mod common;
mod cost;
mod event;
mod job;
mod limits;
mod request;
mod share;
mod submit;
mod swap;

use std::collections::VecDeque;
use std::time::Instant;

use jamba_plan::format::Setting;

pub use event::{Event, PromptToken};
pub use request::{BatchOptions, Request, RequestId, Usage};

use self::cost::{CostModel, Load};
use self::job::{Job, Running};
use self::limits::Limits;
use crate::device::Row;
use crate::sequence::held::Held;
use crate::sequence::session::Origin;
use crate::{Engine, Finish, Pool, PrefixCache, RuntimeError, Sampler};

/// The requests of one engine.
///
/// ```
/// use jamba_runtime::{Batch, Engine, GenerateOptions, OpenOptions, PrefixCache, Request};
///
/// let mut engine = Engine::open("examples/toy.plan", OpenOptions::default())?;
/// let mut batch = Batch::new(&engine);
/// batch.set_cache(&engine, PrefixCache::new(1 << 20))?;
/// let options = GenerateOptions { max_new: 20, ..GenerateOptions::default() };
/// let request = Request { prompt: vec![1, 20, 30], options, ..Request::default() };
/// let first = batch.submit(&engine, request.clone())?;
/// let second = batch.submit(&engine, Request { n: 2, priority: 1, ..request })?;
/// while !batch.is_idle() {
///     for event in batch.step(&mut engine)? {
///         let text = event.token.as_ref().map(|token| &token.text);
///         println!("{:?}.{}: {text:?} {:?} {:?}", event.request, event.choice, event.rest, event.finish);
///     }
///     // Requests may be submitted or cancelled between steps:
///     batch.cancel(&mut engine, second)?;
/// }
/// # let _ = first;
/// # Ok::<(), jamba_runtime::RuntimeError>(())
/// ```
///
/// Once every slot has been in use, steps do not allocate, except for texts, log probabilities, constraints and snapshots.
/// Other sequences of the same engine are not affected; their pool memory is not available to requests.
pub struct Batch {
    /// By priority and arrival.
    waiting: VecDeque<Job>,
    /// In order of joining.
    running: Vec<Running>,
    events: Vec<Event>,
    /// Device settings for the rows of the current step.
    settings: Vec<Option<Setting>>,
    /// Indices of the running jobs that read more than one token.
    prompts: Vec<usize>,
    /// The load of the current step.
    load: Load,
    cost: CostModel,
    /// Samplers of ended requests, for reuse.
    samplers: Vec<Sampler>,
    n_submitted: u64,
    n_preemptions: u64,
    limits: Limits,
    options: BatchOptions,
    cache: Option<PrefixCache>,
    /// States of waiting jobs.
    swapped: Held,
    clock: Box<dyn FnMut() -> Instant + Send>,
}

impl Batch {
    /// An empty batch for this engine, with the default options.
    pub fn new(engine: &Engine) -> Batch {
        Batch::with_options(engine, BatchOptions::default())
    }

    /// An empty batch for this engine.
    pub fn with_options(engine: &Engine, options: BatchOptions) -> Batch {
        let limits = Limits::new(engine);
        let max_sequences = limits.max_sequences;
        let mut batch = Batch {
            waiting: VecDeque::new(),
            running: Vec::with_capacity(max_sequences),
            events: Vec::with_capacity(max_sequences),
            settings: Vec::with_capacity(max_sequences),
            prompts: Vec::with_capacity(max_sequences),
            load: Load::default(),
            cost: CostModel::default(),
            samplers: Vec::with_capacity(max_sequences),
            n_submitted: 0,
            n_preemptions: 0,
            limits,
            cache: None,
            swapped: Held::default(),
            clock: Box::new(Instant::now),
            options,
        };
        if let Some(n_tokens) = batch.options.step_tokens {
            batch.set_step_tokens(engine, n_tokens);
        }
        batch
    }

    /// Sets [`BatchOptions::step_tokens`]. A smaller budget makes steps shorter and latency more even.
    pub fn set_step_tokens(&mut self, engine: &Engine, n_tokens: usize) {
        self.limits.step_tokens = n_tokens.clamp(1, engine.max_step_tokens());
    }

    /// Sets the prefix cache: requests start from the longest prefix in it, and their prompts and answers go into it.
    ///
    /// # Errors
    /// Fails if the cache belongs to another plan or target.
    pub fn set_cache(&mut self, engine: &Engine, cache: PrefixCache) -> Result<(), RuntimeError> {
        cache.check_origin(engine)?;
        self.cache = Some(cache);
        Ok(())
    }

    /// The prefix cache, if one was set.
    pub fn cache(&self) -> Option<&PrefixCache> {
        self.cache.as_ref()
    }

    /// The prefix cache, for its changes.
    pub fn cache_mut(&mut self) -> Option<&mut PrefixCache> {
        self.cache.as_mut()
    }

    /// Removes the prefix cache and returns it.
    pub fn take_cache(&mut self) -> Option<PrefixCache> {
        self.cache.take()
    }

    /// Replaces the clock, by default [`Instant::now`], which times requests and steps and is compared with deadlines.
    pub fn set_clock(&mut self, clock: impl FnMut() -> Instant + Send + 'static) {
        self.clock = Box::new(clock);
    }

    /// Number of answers that wait for a state slot, for KV pages, or for a prefix that another request reads. Answers that
    /// wait for the first one of their request do not count.
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Number of answers that have a sequence.
    pub fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Number of times that a job was preempted.
    pub fn n_preemptions(&self) -> u64 {
        self.n_preemptions
    }

    /// Host memory for the states of waiting jobs, in bytes; at most [`BatchOptions::swap_bytes`].
    pub fn swapped_bytes(&self) -> u64 {
        self.swapped.bytes()
    }

    /// True if there are no requests.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Runs one step for all requests that fit and returns its events. There are none if the step only processed parts of
    /// prompts, or if other sequences of the engine hold the memory that the first request waits for.
    ///
    /// # Errors
    /// An internal error, or the caller removed a sequence of the batch. The batch is unusable after an error.
    pub fn step(&mut self, engine: &mut Engine) -> Result<&[Event], RuntimeError> {
        self.events.clear();
        let began = (self.clock)();
        self.drop_over(engine, began)?;
        self.branch(engine, began)?;
        self.join(engine, began)?;
        self.branch(engine, began)?;
        while self.share() {
            let of_prompt = self.sharing().any(|running| running.fed < running.job.n_prompt);
            let origin = if of_prompt { Origin::Prompt } else { Origin::Any };
            let mut settings = std::mem::take(&mut self.settings);
            settings.clear();
            for running in self.sharing() {
                let is_last = running.share == running.rest();
                let n_reported = if running.is_reported() { running.share - usize::from(is_last) } else { 0 };
                settings.extend(std::iter::repeat_n(None, n_reported));
                settings.extend(is_last.then(|| running.job.setting()));
            }
            let ready = (self.clock)();
            let result = engine.run(self.sharing().map(Running::feed), origin, &settings);
            self.settings = settings;
            match result {
                Ok(admitted) => {
                    let now = (self.clock)();
                    self.cost.observe(self.load, now.saturating_duration_since(ready).as_secs_f64());
                    self.count_starved();
                    self.pick(engine.rows(admitted), now);
                    self.take_snapshots(engine)?;
                    self.leave(engine)?;
                    break;
                }
                Err(RuntimeError::PoolExhausted { pool: Pool::Kv, .. }) => self.give_way(engine, began)?,
                Err(error) => return Err(error),
            }
        }
        Ok(&self.events)
    }

    /// Step 3, if the KV pool is exhausted: preempts a job. A single job ends instead, since no other can free pages.
    fn give_way(&mut self, engine: &mut Engine, now: Instant) -> Result<(), RuntimeError> {
        if self.running.len() == 1 {
            self.end_running(0, Finish::NoRoom, now);
            return self.leave(engine);
        }
        match self.last_in_rank() {
            Some(last) => self.preempt(engine, last),
            None => Ok(()),
        }
    }

    /// Step 4: pick. `rows` are the results of the step, in order: one for each sequence that has processed all of its tokens,
    /// and one for each token that is reported.
    fn pick<'a>(&mut self, mut rows: impl Iterator<Item = Row<'a>>, now: Instant) {
        for running in self.running.iter_mut().filter(|running| running.share > 0) {
            let is_reported = running.is_reported();
            let is_last = running.share == running.rest();
            let mut prompt = Vec::new();
            if is_reported {
                let n_rows = running.share - usize::from(is_last);
                for (n, row) in (running.fed + 1..).zip(rows.by_ref().take(n_rows)) {
                    running.job.report(n, row, &mut prompt);
                }
            }
            running.fed += running.share;
            let row = if is_last { rows.next() } else { None };
            let Some(row) = row else {
                if !prompt.is_empty() {
                    self.events.push(Event { prompt, ..running.job.event(None, now) });
                }
                continue;
            };
            if is_reported {
                running.job.report(running.fed, row, &mut prompt); // a prompt of one token
            }
            let event = Event { prompt, ..running.job.pick(row, &self.limits, now) };
            running.ended = event.finish.is_some();
            running.answered = event.finish.is_some_and(|finish| finish != Finish::Failed);
            self.events.push(event);
        }
    }
}
