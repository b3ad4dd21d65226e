//! Continuous batching: requests join and leave between steps and share each step's token budget. The tokens of a request do
//! not depend on the other requests.
//!
//! 1. join: admit waiting requests in order, while a state slot and KV pages for all of their tokens are free
//! 2. share: one token for every decoding sequence, then chunks of prompts in order, up to the step's token budget
//! 3. run: if the KV pool is exhausted, preempt the request that joined last; it waits and is recomputed later
//! 4. pick: pick the next token of every sequence that has processed all of its tokens; finished requests leave

use std::collections::VecDeque;

use jamba_plan::format::{KV_PAGE_TOKENS, Setting};

use crate::device::Row;
use crate::generate::Picker;
use crate::sequence::session::Origin;
use crate::{Cancel, Engine, Feed, Finish, GenerateOptions, NewToken, Outputs, Pool, RuntimeError};
use crate::{Sampler, SamplerOptions, SequenceId};

/// A request of a client.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Prompt tokens, at least one.
    pub prompt: Vec<u32>,
    /// Generation options with `max_new` ≥ 1. `chunk` is ignored; see [`Batch::set_step_tokens`].
    pub options: GenerateOptions,
}

/// Identifies a request of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// A result of a step for one request: a token, the end of the request, or both.
#[derive(Debug)]
pub struct Event {
    /// The request.
    pub request: RequestId,
    /// The new token; None if the request ended without one.
    pub token: Option<NewToken>,
    /// The held back end of the text, in the last event of a request.
    pub rest: String,
    /// The reason why the request ended, in its last event.
    pub finish: Option<Finish>,
    /// The error, if `finish` is [`Finish::Failed`].
    pub error: Option<RuntimeError>,
}

/// The requests of one engine.
///
/// ```
/// use jamba_runtime::{Batch, Engine, GenerateOptions, OpenOptions, Request};
///
/// let mut engine = Engine::open("examples/toy.plan", OpenOptions::default())?;
/// let mut batch = Batch::new(&engine);
/// let options = GenerateOptions { max_new: 20, ..GenerateOptions::default() };
/// let first = batch.submit(&engine, Request { prompt: vec![1, 20, 30], options: options.clone() })?;
/// let second = batch.submit(&engine, Request { prompt: vec![1, 40], options })?;
/// while !batch.is_idle() {
///     for event in batch.step(&mut engine)? {
///         let text = event.token.as_ref().map(|token| &token.text);
///         println!("{:?}: {text:?} {:?} {:?}", event.request, event.rest, event.finish);
///     }
///     // Requests may be submitted or cancelled between steps:
///     batch.cancel(&mut engine, second)?;
/// }
/// # let _ = first;
/// # Ok::<(), jamba_runtime::RuntimeError>(())
/// ```
///
/// Once every slot has been in use, steps do not allocate, except for texts, log probabilities and constraints. Other
/// sequences of the same engine are not affected; their pool memory is not available to requests.
pub struct Batch {
    waiting: VecDeque<Job>,
    /// In order of joining.
    running: Vec<Running>,
    events: Vec<Event>,
    /// Device settings for the rows of the current step.
    settings: Vec<Option<Setting>>,
    /// Samplers of ended requests, for reuse.
    samplers: Vec<Sampler>,
    n_submitted: u64,
    limits: Limits,
}

/// Limits of the plan.
struct Limits {
    max_context: u64,
    max_sequences: usize,
    /// Total number of KV pages; None for models without attention.
    n_pages: Option<u64>,
    vocab: usize,
    step_tokens: usize,
    step_outputs: usize,
}

impl Limits {
    fn pages(&self, n_tokens: usize) -> u64 {
        self.n_pages.map_or(0, |_| (n_tokens as u64).div_ceil(KV_PAGE_TOKENS))
    }
}

/// A request and its progress.
struct Job {
    id: RequestId,
    /// The prompt and the new tokens.
    tokens: Vec<u32>,
    n_prompt: usize,
    max_new: usize,
    cancel: Cancel,
    /// None after the end.
    picker: Option<Picker>,
    /// Options for the sampler, until it is created.
    options: SamplerOptions,
    /// None before the request joins for the first time.
    sampler: Option<Sampler>,
}

impl Job {
    /// Picks a token from the result of a step.
    fn pick(&mut self, row: Row<'_>, limits: &Limits) -> Event {
        let (Some(picker), Some(sampler)) = (&mut self.picker, &mut self.sampler) else { unreachable!("it runs") };
        match picker.pick(sampler, row) {
            Ok((token, finish)) => {
                self.tokens.push(token.token);
                match finish.or_else(|| self.spent(limits)) {
                    Some(finish) => Event { token: Some(token), ..self.end(finish) },
                    None => self.event(Some(token)),
                }
            }
            Err(error) => self.fail(error),
        }
    }

    /// How a device may pick the next token.
    fn setting(&self) -> Option<Setting> {
        self.picker.as_ref().zip(self.sampler.as_ref()).and_then(|(picker, sampler)| picker.setting(sampler))
    }

    fn event(&self, token: Option<NewToken>) -> Event {
        Event { request: self.id, token, rest: String::new(), finish: None, error: None }
    }

    /// The last event.
    fn end(&mut self, finish: Finish) -> Event {
        match self.picker.take().map(Picker::finish) {
            Some(Err(error)) => self.fail(error),
            Some(Ok((_, rest))) => Event { rest, finish: Some(finish), ..self.event(None) },
            None => Event { finish: Some(finish), ..self.event(None) },
        }
    }

    fn fail(&mut self, error: RuntimeError) -> Event {
        self.picker = None;
        Event { finish: Some(Finish::Failed), error: Some(error), ..self.event(None) }
    }

    /// The reason why no further token can follow, if any.
    fn spent(&self, limits: &Limits) -> Option<Finish> {
        if self.tokens.len() - self.n_prompt >= self.max_new {
            Some(Finish::Length)
        } else if self.tokens.len() as u64 > limits.max_context {
            Some(Finish::NoRoom)
        } else {
            None
        }
    }
}

/// A request with a sequence.
struct Running {
    job: Job,
    sequence: SequenceId,
    /// Number of tokens that the sequence has processed.
    fed: usize,
    /// Number of tokens in the current step.
    share: usize,
    ended: bool,
}

impl Running {
    /// Number of tokens not yet processed.
    fn rest(&self) -> usize {
        self.job.tokens.len() - self.fed
    }

    fn feed(&self) -> Feed<'_> {
        let outputs = if self.share == self.rest() { Outputs::Last } else { Outputs::None };
        Feed { sequence: self.sequence, tokens: &self.job.tokens[self.fed..self.fed + self.share], outputs }
    }
}

impl Batch {
    /// An empty batch for this engine.
    pub fn new(engine: &Engine) -> Batch {
        let manifest = engine.manifest();
        let max_sequences = manifest.limits.max_sequences as usize;
        let limits = Limits {
            max_context: manifest.limits.max_context,
            max_sequences,
            n_pages: (engine.memory().kv_page > 0).then_some(manifest.limits.kv_tokens / KV_PAGE_TOKENS),
            vocab: manifest.model.vocab as usize,
            step_tokens: engine.max_step_tokens(),
            step_outputs: engine.max_step_outputs(),
        };
        Batch {
            waiting: VecDeque::new(),
            running: Vec::with_capacity(max_sequences),
            events: Vec::with_capacity(max_sequences),
            settings: Vec::with_capacity(max_sequences),
            samplers: Vec::with_capacity(max_sequences),
            n_submitted: 0,
            limits,
        }
    }

    /// Sets the token budget per step, by default [`Engine::max_step_tokens`]. A smaller budget makes steps shorter and
    /// latency more even. Decoding sequences always get their token; prefills use the rest of the budget.
    pub fn set_step_tokens(&mut self, engine: &Engine, n_tokens: usize) {
        self.limits.step_tokens = n_tokens.clamp(1, engine.max_step_tokens());
    }

    /// Appends a request to the queue.
    ///
    /// # Errors
    /// Fails if the request is invalid or can never run.
    pub fn submit(&mut self, engine: &Engine, request: Request) -> Result<RequestId, RuntimeError> {
        let Request { prompt: mut tokens, options } = request;
        let max_new = options.max_new;
        self.check(&tokens, max_new, &options.sampler)?;
        let picker = Some(Picker::new(engine, &options, [&[], &tokens])?);
        let (cancel, options) = (options.cancel, options.sampler);
        let n_prompt = tokens.len();
        let longest = (self.limits.max_context as usize).saturating_add(1);
        tokens.reserve_exact(longest.min(n_prompt.saturating_add(max_new)) - n_prompt);
        let id = RequestId(self.n_submitted);
        self.n_submitted += 1;
        self.waiting.push_back(Job { id, tokens, n_prompt, max_new, cancel, picker, options, sampler: None });
        self.waiting.reserve(self.limits.max_sequences); // for preempted requests
        self.events.reserve(self.waiting.len() + self.limits.max_sequences);
        Ok(id)
    }

    fn check(&self, prompt: &[u32], max_new: usize, options: &SamplerOptions) -> Result<(), RuntimeError> {
        let limits = &self.limits;
        options.check(limits.vocab)?;
        if max_new == 0 {
            return Err(RuntimeError::Option { name: "max new", found: "0".to_owned(), expected: "1 or more" });
        }
        if prompt.is_empty() {
            return Err(RuntimeError::NoTokens);
        }
        if let Some(&token) = prompt.iter().find(|&&token| token as usize >= limits.vocab) {
            return Err(RuntimeError::TokenOutOfRange { token, vocab: limits.vocab as u64 });
        }
        let (wanted, max_context) = (prompt.len() as u64, limits.max_context);
        if wanted > max_context {
            return Err(RuntimeError::ContextFull { wanted, max_context });
        }
        match (limits.pages(prompt.len()), limits.n_pages) {
            (wanted, Some(free)) if wanted > free => Err(RuntimeError::PoolExhausted { pool: Pool::Kv, wanted, free }),
            _ => Ok(()),
        }
    }

    /// Cancels a request without an event. Returns false if it had ended already.
    pub fn cancel(&mut self, engine: &mut Engine, id: RequestId) -> Result<bool, RuntimeError> {
        if let Some(index) = self.waiting.iter().position(|job| job.id == id) {
            self.samplers.extend(self.waiting.remove(index).and_then(|job| job.sampler));
            return Ok(true);
        }
        let Some(running) = self.running.iter_mut().find(|running| running.job.id == id) else { return Ok(false) };
        running.ended = true;
        self.leave(engine)?;
        Ok(true)
    }

    /// Number of requests that wait for a state slot or for KV pages.
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Number of requests that have a sequence.
    pub fn n_running(&self) -> usize {
        self.running.len()
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
        self.drop_cancelled(engine)?;
        self.join(engine)?;
        while self.share() {
            let of_prompt = self.running.iter().any(|running| running.fed < running.job.n_prompt && running.share > 0);
            let origin = if of_prompt { Origin::Prompt } else { Origin::Any };
            let last = self.running.iter().filter(|running| running.share > 0 && running.share == running.rest());
            self.settings.clear();
            self.settings.extend(last.map(|running| running.job.setting()));
            let feeds = self.running.iter().filter(|running| running.share > 0).map(Running::feed);
            match engine.run(feeds, origin, &self.settings) {
                Ok(admitted) => {
                    self.pick(engine.rows(admitted));
                    self.leave(engine)?;
                    break;
                }
                Err(RuntimeError::PoolExhausted { pool: Pool::Kv, .. }) => self.give_way(engine)?,
                Err(error) => return Err(error),
            }
        }
        Ok(&self.events)
    }

    /// Ends requests whose [`Cancel`] is set.
    fn drop_cancelled(&mut self, engine: &mut Engine) -> Result<(), RuntimeError> {
        let Batch { waiting, running, events, samplers, .. } = self;
        waiting.retain_mut(|job| {
            let goes_on = !job.cancel.is_cancelled();
            if !goes_on {
                events.push(job.end(Finish::Cancelled));
                samplers.extend(job.sampler.take());
            }
            goes_on
        });
        for running in running.iter_mut().filter(|running| running.job.cancel.is_cancelled()) {
            running.ended = true;
            events.push(running.job.end(Finish::Cancelled));
        }
        self.leave(engine)
    }

    /// Step 1: join.
    fn join(&mut self, engine: &mut Engine) -> Result<(), RuntimeError> {
        while let Some(job) = self.waiting.front() {
            // If others run, require room for one more token each, to avoid immediate preemption.
            let one = usize::from(!self.running.is_empty());
            let limits = &self.limits;
            let owed = |running: &Running| limits.pages(running.job.tokens.len() + one) - limits.pages(running.fed);
            let wanted = limits.pages(job.tokens.len() + one) + self.running.iter().map(owed).sum::<u64>();
            let (slots, pages) = engine.free();
            if slots == 0 || wanted > pages {
                break;
            }
            let sequence = engine.add_sequence()?;
            let Some(mut job) = self.waiting.pop_front() else { break };
            if job.sampler.is_none() {
                let options = std::mem::take(&mut job.options);
                let mut sampler = match self.samplers.pop() {
                    Some(sampler) => sampler.with_options(options, self.limits.vocab)?,
                    None => Sampler::new(options, self.limits.vocab)?,
                };
                sampler.observe(&job.tokens);
                job.sampler = Some(sampler);
            }
            self.running.push(Running { job, sequence, fed: 0, share: 0, ended: false });
        }
        Ok(())
    }

    /// Step 2: share. Returns false if no sequence has tokens in this step.
    fn share(&mut self) -> bool {
        let (mut tokens, mut rows) = (self.limits.step_tokens, self.limits.step_outputs);
        for running in &mut self.running {
            running.share = usize::from(running.rest() == 1 && rows > 0);
            rows -= running.share;
            tokens = tokens.saturating_sub(running.share);
        }
        for running in self.running.iter_mut().filter(|running| running.rest() > 1) {
            let last = usize::from(rows == 0); // no row of logits left for its last token
            running.share = tokens.min(running.rest() - last);
            rows -= usize::from(running.share == running.rest());
            tokens -= running.share;
        }
        self.running.iter().any(|running| running.share > 0)
    }

    /// Step 3, if the KV pool is exhausted: preempts the request that joined last. A single request ends instead, since no
    /// other can free pages.
    fn give_way(&mut self, engine: &mut Engine) -> Result<(), RuntimeError> {
        if let [only] = &mut self.running[..] {
            only.ended = true;
            self.events.push(only.job.end(Finish::NoRoom));
            return self.leave(engine);
        }
        if let Some(last) = self.running.pop() {
            engine.remove_sequence(last.sequence)?;
            self.waiting.push_front(last.job);
        }
        Ok(())
    }

    /// Step 4: pick. `rows` are the results of the sequences that have processed all of their tokens, in order.
    fn pick<'a>(&mut self, mut rows: impl Iterator<Item = Row<'a>>) {
        for running in self.running.iter_mut().filter(|running| running.share > 0) {
            running.fed += running.share;
            if running.fed < running.job.tokens.len() {
                continue;
            }
            let Some(row) = rows.next() else { continue };
            let event = running.job.pick(row, &self.limits);
            running.ended = event.finish.is_some();
            self.events.push(event);
        }
    }

    /// Removes ended requests and their sequences.
    fn leave(&mut self, engine: &mut Engine) -> Result<(), RuntimeError> {
        while let Some(index) = self.running.iter().position(|running| running.ended) {
            let ended = self.running.remove(index);
            self.samplers.extend(ended.job.sampler);
            engine.remove_sequence(ended.sequence)?;
        }
        Ok(())
    }
}
