//! Requests enter the queue and leave it.

#[cfg(feature = "constrain")]
use std::time::Duration;
use std::time::Instant;

use super::Batch;
use super::common::Common;
use super::job::{Job, Kept, Times};
use super::request::{Request, RequestId};
use crate::generate::Picker;
use crate::sample::random_seed;
use crate::{Engine, Finish, GenerateOptions, RuntimeError, SamplerOptions};

impl Batch {
    /// Appends a request to the queue.
    ///
    /// # Errors
    /// Fails if the request is invalid or can never run, and with [`RuntimeError::QueueFull`] if the queue is full.
    pub fn submit(&mut self, engine: &Engine, request: Request) -> Result<RequestId, RuntimeError> {
        self.check(engine, &request)?;
        self.check_queue(&request)?;
        let now = (self.clock)();
        #[cfg(feature = "constrain")]
        let request = compiled_once(engine, request, now)?;
        let id = RequestId(self.n_submitted);
        let seed = request.options.sampler.seed.unwrap_or_else(random_seed);
        let mut siblings: Vec<Job> = (1..request.n)
            .map(|choice| self.job(engine, (id, choice, seed), &request, now))
            .collect::<Result<_, _>>()?;
        let mut first = self.job(engine, (id, 0, seed), &request, now)?;
        self.n_submitted += 1;
        let n_jobs = self.n_jobs() + request.n;
        self.events.reserve(n_jobs);
        self.waiting.reserve(request.n + self.limits.max_sequences); // for preempted jobs and siblings
        if first.n_prompt > 1 {
            first.siblings = siblings;
            self.enqueue(first);
        } else {
            self.enqueue(first); // no token is shared
            siblings.drain(..).for_each(|sibling| self.enqueue(sibling));
        }
        Ok(id)
    }

    fn job(
        &self,
        engine: &Engine,
        (id, choice, seed): (RequestId, usize, u64),
        request: &Request,
        now: Instant,
    ) -> Result<Job, RuntimeError> {
        let Request { prompt, options, priority, cache_salt, deadline, snapshot_at, prompt_logprobs, state, .. } =
            request;
        let GenerateOptions { max_new, sampler, cancel, .. } = options;
        let picker = Some(Picker::new(engine, options, [&[], prompt])?);
        let longest = (self.limits.max_context as usize).saturating_add(1);
        let mut tokens = Vec::with_capacity(longest.min(prompt.len().saturating_add(*max_new)));
        tokens.extend_from_slice(prompt);
        let seed = seed.wrapping_add(choice as u64);
        Ok(Job {
            id,
            choice,
            tokens,
            n_prompt: prompt.len(),
            max_new: *max_new,
            priority: *priority,
            cache_salt: *cache_salt,
            deadline: *deadline,
            cancel: cancel.clone(),
            picker,
            options: SamplerOptions { seed: Some(seed), ..sampler.clone() },
            sampler: None,
            snapshot_at: if choice == 0 { snapshot_at.clone() } else { Vec::new() },
            prompt_logprobs: prompt_logprobs.filter(|_| choice == 0),
            reported: 0,
            seed,
            given: state.clone(),
            kept: if request.keeps_state && choice == 0 { Kept::Wanted } else { Kept::Unwanted },
            state: None,
            siblings: Vec::new(),
            common: Common::default(),
            passed: 0,
            times: Times::new(now),
            cached: 0,
            preemptions: 0,
        })
    }

    fn check(&self, engine: &Engine, request: &Request) -> Result<(), RuntimeError> {
        let Request { prompt, options, n, snapshot_at, state, .. } = request;
        engine.check_head()?;
        options.sampler.check(self.limits.vocab)?;
        let option = |name, found: usize, expected| RuntimeError::Option { name, found: found.to_string(), expected };
        if options.max_new == 0 && request.prompt_logprobs.is_none() && !request.keeps_state {
            return Err(option("max new", 0, "1 or more"));
        }
        if *n == 0 {
            return Err(option("n", 0, "1 or more"));
        }
        if let Some(&at) = snapshot_at.iter().find(|&&at| at == 0 || at > prompt.len()) {
            return Err(option("snapshot at", at, "1 … the length of the prompt"));
        }
        if let Some(state) = state {
            engine.check_plan("state", state.plan)?;
            engine.check_kind(&state.target)?;
            if state.tokens.len() >= prompt.len() || !prompt.starts_with(&state.tokens) {
                let found = format!("one of {} tokens", state.tokens.len());
                return Err(RuntimeError::Option {
                    name: "state",
                    found,
                    expected: "that of a beginning of the prompt",
                });
            }
        }
        self.limits.check_prompt(prompt)
    }

    fn check_queue(&self, request: &Request) -> Result<(), RuntimeError> {
        let refuse = |what, found: usize, most: Option<usize>| match most {
            Some(most) if found > most => Err(RuntimeError::QueueFull { what, found: found as u64, most: most as u64 }),
            _ => Ok(()),
        };
        let waiting = || self.waiting.iter().map(|job| 1 + job.siblings.len());
        refuse("requests", waiting().sum::<usize>() + request.n, self.options.max_waiting)?;
        if self.waiting.is_empty() {
            return Ok(());
        }
        let n_tokens = self.waiting.iter().map(|job| job.n_prompt).sum::<usize>() + request.prompt.len();
        refuse("prompt tokens", n_tokens, self.options.max_waiting_tokens)
    }

    /// Number of answers that have not ended.
    fn n_jobs(&self) -> usize {
        let jobs = self.waiting.iter().chain(self.running.iter().map(|running| &running.job));
        jobs.map(|job| 1 + job.siblings.len()).sum()
    }

    /// True if an answer of a request has not ended.
    pub fn holds(&self, id: RequestId) -> bool {
        self.waiting.iter().chain(self.running.iter().map(|running| &running.job)).any(|job| job.id == id)
    }

    /// Puts a job into the queue, behind those that come before it.
    pub(super) fn enqueue(&mut self, job: Job) {
        let index = self.waiting.partition_point(|other| other.rank() < job.rank());
        self.waiting.insert(index, job);
    }

    /// Cancels all answers of a request without an event. Returns false if they had ended already.
    pub fn cancel(&mut self, engine: &mut Engine, id: RequestId) -> Result<bool, RuntimeError> {
        let mut is_found = false;
        while let Some(index) = self.waiting.iter().position(|job| job.id == id) {
            is_found = true;
            if let Some(job) = self.waiting.remove(index) {
                self.retire(job);
            }
        }
        for running in self.running.iter_mut().filter(|running| running.job.id == id) {
            is_found = true;
            running.ended = true;
        }
        self.leave(engine)?;
        Ok(is_found)
    }

    /// Ends jobs whose [`Cancel`](crate::Cancel) is set or whose deadline has passed.
    pub(super) fn drop_over(&mut self, engine: &mut Engine, now: Instant) -> Result<(), RuntimeError> {
        while let Some(index) = self.waiting.iter().position(|job| job.is_over(now).is_some()) {
            let Some(mut job) = self.waiting.remove(index) else { break };
            let finish = job.is_over(now).unwrap_or(Finish::Cancelled);
            self.tell_end(&mut job, finish, now);
            self.retire(job);
        }
        for index in 0..self.running.len() {
            if let Some(finish) = self.running[index].job.is_over(now) {
                self.end_running(index, finish, now);
            }
        }
        self.leave(engine)
    }

    /// Ends a running job. [`Batch::leave`] removes it.
    pub(super) fn end_running(&mut self, index: usize, finish: Finish, now: Instant) {
        let Batch { running, events, .. } = self;
        running[index].ended = true;
        tell_end(&mut running[index].job, finish, now, events);
    }

    fn tell_end(&mut self, job: &mut Job, finish: Finish, now: Instant) {
        tell_end(job, finish, now, &mut self.events);
    }

    /// Frees what a job holds that has left.
    pub(super) fn retire(&mut self, mut job: Job) {
        if let Some(state) = job.state.take() {
            self.swapped.remove(&state);
        }
        self.samplers.extend(job.sampler.take());
    }
}

/// Compiles the constraint of a request once for all its answers, with the request's deadline as a timeout.
#[cfg(feature = "constrain")]
fn compiled_once(engine: &Engine, mut request: Request, now: Instant) -> Result<Request, RuntimeError> {
    let time = request.deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(now));
    let options = &mut request.options;
    if let (Some(constraint), None) = (&options.constraint, &options.compiled) {
        let compiled = engine.constraint_compiler()?.compile_within(constraint, time, &options.cancel)?;
        options.compiled = Some(compiled);
    }
    Ok(request)
}

/// Appends the last events of a job and its siblings.
fn tell_end(job: &mut Job, finish: Finish, now: Instant, events: &mut Vec<super::Event>) {
    events.push(job.end(finish, now));
    for mut sibling in job.siblings.drain(..) {
        events.push(sibling.end(finish, now));
    }
}
