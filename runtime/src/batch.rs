//! Continuous batching: requests join and leave between steps and share each step's tokens. What a request gets does
//! not depend on the others: its tokens are those it gets alone, bit for bit.
//!
//! 1. join: requests that wait, in order, while a state slot and KV pages for all of their tokens are free
//! 2. share: a token for every sequence that generates, then chunks of prompts, in order, until the step is full
//! 3. run: where the KV pool is spent nevertheless, the last request to join goes back to wait, and will be fed again
//! 4. pick: the next token of every sequence that has taken all of its own; requests that end leave

use std::collections::VecDeque;

use jamba_plan::format::{KV_PAGE_TOKENS, Setting};

use crate::device::Row;
use crate::generate::Picker;
use crate::session::Origin;
use crate::{Cancel, Engine, Feed, Finish, GenerateOptions, NewToken, Outputs, Pool, RuntimeError};
use crate::{Sampler, SamplerOptions, SequenceId};

/// What a client asks for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Tokens of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// How to answer it, with one new token at least. `chunk` means nothing here: see [`Batch::set_step_tokens`].
    pub options: GenerateOptions,
}

/// A request of a [`Batch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// What a step brought a request: a token, its end, or both.
#[derive(Debug)]
pub struct Event {
    /// The request.
    pub request: RequestId,
    /// Its next token, with its text; None where the request ended before it.
    pub token: Option<NewToken>,
    /// With the last event of a request, the end of its text: held back until it was known that no more comes.
    pub rest: String,
    /// Why there are no more, with the last event of a request.
    pub finish: Option<Finish>,
    /// What went wrong, where it is [`Finish::Failed`].
    pub error: Option<RuntimeError>,
}

/// The requests of one engine.
///
/// ```
/// use jamba_runtime::{Batch, Engine, GenerateOptions, OpenOptions, Request};
///
/// let mut engine = Engine::open("examples/toy.plan".as_ref(), OpenOptions::default())?;
/// let mut batch = Batch::new(&engine);
/// let options = GenerateOptions { max_new: 20, ..GenerateOptions::default() };
/// let first = batch.submit(&engine, Request { prompt: vec![1, 20, 30], options: options.clone() })?;
/// let second = batch.submit(&engine, Request { prompt: vec![1, 40], options })?;
/// while !batch.is_idle() {
///     for event in batch.step(&mut engine)? {
///         let text = event.token.as_ref().map(|token| &token.text);
///         println!("{:?}: {text:?} {:?} {:?}", event.request, event.rest, event.finish);
///     }
///     // Between steps more may be submitted, or a client may have gone:
///     batch.cancel(&mut engine, second)?;
/// }
/// # let _ = first;
/// # Ok::<(), jamba_runtime::RuntimeError>(())
/// ```
///
/// A step allocates nothing once every slot was in use, beside the texts, probabilities and constraints that requests
/// ask for. Sequences that the caller adds to the same engine are left alone; what they hold of its pools is not there for
/// requests.
pub struct Batch {
    waiting: VecDeque<Job>,
    /// In the order in which they joined.
    running: Vec<Running>,
    events: Vec<Event>,
    /// Empty between steps: kept for its memory.
    feeds: Vec<Feed<'static>>,
    /// How a device may pick from the rows of the step under way.
    settings: Vec<Option<Setting>>,
    /// Of requests that ended, for those to come.
    samplers: Vec<Sampler>,
    n_submitted: u64,
    limits: Limits,
}

/// What the plan allows.
struct Limits {
    max_context: u64,
    max_sequences: usize,
    /// KV pages in all; None for models without attention.
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

/// A request and how far it is.
struct Job {
    id: RequestId,
    /// The prompt, and what was generated after it.
    tokens: Vec<u32>,
    n_prompt: usize,
    max_new: usize,
    cancel: Cancel,
    /// None once it ended.
    picker: Option<Picker>,
    /// The sampler's, until there is one.
    options: SamplerOptions,
    /// None until it joins for the first time.
    sampler: Option<Sampler>,
}

impl Job {
    /// What a row of logits brings it.
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

    /// How a device may pick its next token.
    fn setting(&self) -> Option<Setting> {
        self.picker.as_ref().zip(self.sampler.as_ref()).and_then(|(picker, sampler)| picker.setting(sampler))
    }

    fn event(&self, token: Option<NewToken>) -> Event {
        Event { request: self.id, token, rest: String::new(), finish: None, error: None }
    }

    /// Its last event.
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

    /// Why no token follows its last, where none does.
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
    /// Tokens that the sequence has taken.
    fed: usize,
    /// Tokens that it takes in this step.
    share: usize,
    ended: bool,
}

impl Running {
    /// Tokens that it has yet to take.
    fn rest(&self) -> usize {
        self.job.tokens.len() - self.fed
    }

    fn feed(&self) -> Feed<'_> {
        let outputs = if self.share == self.rest() { Outputs::Last } else { Outputs::None };
        Feed { sequence: self.sequence, tokens: &self.job.tokens[self.fed..self.fed + self.share], outputs }
    }
}

impl Batch {
    /// No requests yet, for this engine.
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
            feeds: Vec::with_capacity(max_sequences),
            settings: Vec::with_capacity(max_sequences),
            samplers: Vec::with_capacity(max_sequences),
            n_submitted: 0,
            limits,
        }
    }

    /// Gives a step at most this many tokens, so that it takes less time and answers come more evenly; as many as the
    /// plan allows, unless set. Sequences that generate get their token in any case; prompts share what is left, so they
    /// wait while there are as many of those.
    pub fn set_step_tokens(&mut self, engine: &Engine, n_tokens: usize) {
        self.limits.step_tokens = n_tokens.clamp(1, engine.max_step_tokens());
    }

    /// Puts a request behind those that wait. Refuses what could never run.
    pub fn submit(&mut self, engine: &Engine, request: Request) -> Result<RequestId, RuntimeError> {
        let Request { prompt: mut tokens, options } = request;
        let max_new = options.max_new;
        self.check(&tokens, max_new, &options.sampler)?;
        let picker = Some(Picker::new(engine, &options)?);
        let (cancel, options) = (options.cancel, options.sampler);
        let n_prompt = tokens.len();
        let longest = (self.limits.max_context as usize).saturating_add(1);
        tokens.reserve_exact(longest.min(n_prompt.saturating_add(max_new)) - n_prompt);
        let id = RequestId(self.n_submitted);
        self.n_submitted += 1;
        self.waiting.push_back(Job { id, tokens, n_prompt, max_new, cancel, picker, options, sampler: None });
        self.waiting.reserve(self.limits.max_sequences); // for those that have to go back
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

    /// Ends a request; false where it had ended already. No event follows.
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

    /// Requests that wait for a slot or for pages.
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests that have a sequence.
    pub fn n_running(&self) -> usize {
        self.running.len()
    }

    /// True when there are no requests.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Takes one step with all requests that there is room for; what it brought each of them. Nothing, where all
    /// that run got chunks of their prompts, and where the caller's own sequences hold what the first one waits for.
    ///
    /// An error is a fault of ours, or of a caller who removed a sequence of the batch; the batch is of no use then.
    pub fn step(&mut self, engine: &mut Engine) -> Result<&[Event], RuntimeError> {
        self.events.clear();
        self.drop_cancelled(engine)?;
        self.join(engine)?;
        while self.share() {
            let mut feeds = with_other_lifetime(std::mem::take(&mut self.feeds));
            feeds.extend(self.running.iter().filter(|running| running.share > 0).map(Running::feed));
            let of_prompt = self.running.iter().any(|running| running.fed < running.job.n_prompt && running.share > 0);
            let origin = if of_prompt { Origin::Prompt } else { Origin::Any };
            let last = self.running.iter().filter(|running| running.share > 0 && running.share == running.rest());
            self.settings.clear();
            self.settings.extend(last.map(|running| running.job.setting()));
            let stepped = engine.run(&feeds, origin, &self.settings);
            self.feeds = with_other_lifetime(feeds);
            match stepped {
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

    /// Ends what was cancelled from elsewhere.
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

    /// Step 1.
    fn join(&mut self, engine: &mut Engine) -> Result<(), RuntimeError> {
        while let Some(job) = self.waiting.front() {
            // Where others run, room for one token more: or it would soon have to give way.
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

    /// Step 2; true where there is anything to do.
    fn share(&mut self) -> bool {
        let (mut tokens, mut rows) = (self.limits.step_tokens, self.limits.step_outputs);
        for running in &mut self.running {
            running.share = usize::from(running.rest() == 1 && rows > 0);
            rows -= running.share;
            tokens = tokens.saturating_sub(running.share);
        }
        for running in self.running.iter_mut().filter(|running| running.rest() > 1) {
            let last = usize::from(rows == 0); // its row of logits has to wait
            running.share = tokens.min(running.rest() - last);
            rows -= usize::from(running.share == running.rest());
            tokens -= running.share;
        }
        self.running.iter().any(|running| running.share > 0)
    }

    /// Step 3, where the KV pool is spent: the last request to join frees its pages. Where it is alone, nobody else
    /// will free any.
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

    /// Step 4: `rows` are those of the sequences that have now taken all of their tokens, in order.
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

    /// Frees what requests that ended hold.
    fn leave(&mut self, engine: &mut Engine) -> Result<(), RuntimeError> {
        while let Some(index) = self.running.iter().position(|running| running.ended) {
            let ended = self.running.remove(index);
            self.samplers.extend(ended.job.sampler);
            engine.remove_sequence(ended.sequence)?;
        }
        Ok(())
    }
}

/// An empty vector in the memory of another one.
fn with_other_lifetime<'b>(mut feeds: Vec<Feed<'_>>) -> Vec<Feed<'b>> {
    feeds.clear();
    // Collecting in place: there is nothing to collect but the memory.
    feeds.into_iter().map(|_| unreachable!("the vector was emptied")).collect()
}
