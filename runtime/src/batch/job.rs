//! One answer and its progress.

use std::time::Instant;

use jamba_plan::format::Setting;

use super::common::Common;
use super::event::{Event, PromptToken};
use super::limits::Limits;
use super::request::{RequestId, Usage};
use crate::device::Row;
use crate::generate::Picker;
use crate::{
    Cancel, Feed, Finish, NewToken, Outputs, RuntimeError, Sampler, SamplerOptions, SequenceId, Snapshot, sample,
};

/// One answer of a request, waiting or running.
pub(super) struct Job {
    pub(super) id: RequestId,
    pub(super) choice: usize,
    /// The prompt and the new tokens.
    pub(super) tokens: Vec<u32>,
    pub(super) n_prompt: usize,
    pub(super) max_new: usize,
    pub(super) priority: i32,
    pub(super) cache_salt: u64,
    pub(super) deadline: Option<Instant>,
    pub(super) cancel: Cancel,
    /// None after the end.
    pub(super) picker: Option<Picker>,
    /// Options for the sampler, until it is created.
    pub(super) options: SamplerOptions,
    /// None before the job joins for the first time.
    pub(super) sampler: Option<Sampler>,
    /// Lengths at which the request wants snapshots.
    pub(super) snapshot_at: Vec<usize>,
    /// Number of most likely tokens to report for each prompt token, until all were reported.
    pub(super) prompt_logprobs: Option<usize>,
    /// Number of prompt tokens that were reported.
    pub(super) reported: usize,
    pub(super) seed: u64,
    /// The state that the request brought.
    pub(super) given: Option<Snapshot>,
    /// The state of the prompt but its last token, if the request wants it.
    pub(super) kept: Kept,
    /// The state after the first tokens, of a job that waits to go on.
    pub(super) state: Option<Snapshot>,
    /// The other answers of the request, until the prompt was read but for its last token.
    pub(super) siblings: Vec<Job>,
    /// What its prompt has in common with others, while it waits.
    pub(super) common: Common,
    /// How often later jobs joined before this one.
    pub(super) passed: u32,
    pub(super) times: Times,
    pub(super) cached: usize,
    pub(super) preemptions: u32,
}

/// The state that a request keeps.
pub(super) enum Kept {
    Unwanted,
    /// Not there yet.
    Wanted,
    Taken(Snapshot),
}

/// When a job reached its stages.
#[derive(Clone, Copy)]
pub(super) struct Times {
    pub(super) submitted: Instant,
    pub(super) joined: Option<Instant>,
    pub(super) first: Option<Instant>,
    pub(super) last: Option<Instant>,
}

impl Times {
    pub(super) fn new(now: Instant) -> Times {
        Times { submitted: now, joined: None, first: None, last: None }
    }
}

impl Job {
    /// The order of waiting jobs.
    pub(super) fn rank(&self) -> (i32, RequestId, usize) {
        (self.priority, self.id, self.choice)
    }

    /// The job among all of the batch.
    pub(super) fn key(&self) -> (RequestId, usize) {
        (self.id, self.choice)
    }

    /// The tokens that run before the last one of the prompt.
    pub(super) fn head(&self) -> &[u32] {
        &self.tokens[..self.n_prompt - 1]
    }

    /// Reports the prompt token that follows the first `n` tokens, from their row of logits; before the second one also the
    /// first.
    pub(super) fn report(&mut self, n: usize, row: Row<'_>, told: &mut Vec<PromptToken>) {
        let Some(n_top) = self.prompt_logprobs else { return };
        if self.reported == 0 {
            told.push(PromptToken { token: self.tokens[0], logprob: None, top: Vec::new() });
            self.reported = 1;
        }
        if n == self.reported
            && n < self.n_prompt
            && let Row::Logits(logits) = row
        {
            let token = self.tokens[n];
            let (logprob, top) = (sample::logprob(logits, token), sample::top_logprobs(logits, n_top));
            told.push(PromptToken { token, logprob, top });
            self.reported += 1;
        }
        if self.reported == self.n_prompt {
            self.prompt_logprobs = None;
        }
    }

    /// Picks a token from the result of a step.
    pub(super) fn pick(&mut self, row: Row<'_>, limits: &Limits, now: Instant) -> Event {
        if self.max_new == 0 {
            return self.end(Finish::Length, now);
        }
        let (Some(picker), Some(sampler)) = (&mut self.picker, &mut self.sampler) else { unreachable!("it runs") };
        match picker.pick(sampler, row) {
            Ok((token, finish)) => {
                self.tokens.push(token.token);
                self.times.first.get_or_insert(now);
                self.times.last = Some(now);
                match finish.or_else(|| self.spent(limits)) {
                    Some(finish) => Event { token: Some(token), ..self.end(finish, now) },
                    None => self.event(Some(token), now),
                }
            }
            Err(error) => self.fail(error, now),
        }
    }

    /// How a device may pick the next token.
    pub(super) fn setting(&self) -> Option<Setting> {
        self.picker.as_ref().zip(self.sampler.as_ref()).and_then(|(picker, sampler)| picker.setting(sampler))
    }

    pub(super) fn event(&self, token: Option<NewToken>, now: Instant) -> Event {
        Event {
            request: self.id,
            choice: self.choice,
            token,
            prompt: Vec::new(),
            rest: String::new(),
            finish: None,
            error: None,
            seed: self.seed,
            state: None,
            usage: self.usage(now),
        }
    }

    /// The last event.
    pub(super) fn end(&mut self, finish: Finish, now: Instant) -> Event {
        let state = match std::mem::replace(&mut self.kept, Kept::Unwanted) {
            Kept::Taken(state) => Some(state),
            Kept::Wanted | Kept::Unwanted => None,
        };
        match self.picker.take().map(Picker::finish) {
            Some(Err(error)) => self.fail(error, now),
            Some(Ok((_, rest))) => Event { rest, state, finish: Some(finish), ..self.event(None, now) },
            None => Event { state, finish: Some(finish), ..self.event(None, now) },
        }
    }

    fn fail(&mut self, error: RuntimeError, now: Instant) -> Event {
        self.picker = None;
        Event { finish: Some(Finish::Failed), error: Some(error), ..self.event(None, now) }
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

    /// The reason why the job ends before a step that begins now, if any.
    pub(super) fn is_over(&self, now: Instant) -> Option<Finish> {
        if self.cancel.is_cancelled() {
            Some(Finish::Cancelled)
        } else {
            self.deadline.filter(|&deadline| deadline <= now).map(|_| Finish::Deadline)
        }
    }

    fn usage(&self, now: Instant) -> Usage {
        let Times { submitted, joined, first, last, .. } = self.times;
        let began = joined.unwrap_or(now);
        Usage {
            prompt_tokens: self.n_prompt,
            cached_tokens: self.cached,
            new_tokens: self.tokens.len() - self.n_prompt,
            preemptions: self.preemptions,
            queue: began.saturating_duration_since(submitted),
            prefill: first.unwrap_or(now).saturating_duration_since(began),
            decode: last
                .zip(first)
                .map_or_else(Default::default, |(last, first)| last.saturating_duration_since(first)),
        }
    }
}

/// A job with a sequence.
pub(super) struct Running {
    pub(super) job: Job,
    pub(super) sequence: SequenceId,
    /// Number of tokens that the sequence has processed.
    pub(super) fed: usize,
    /// Number of tokens in the current step.
    pub(super) share: usize,
    /// Number of steps since its last share.
    pub(super) starved: u32,
    /// Lengths at which a snapshot is due, the next one at the end.
    pub(super) borders: Vec<usize>,
    pub(super) ended: bool,
    /// The job has ended with an answer that may be continued.
    pub(super) answered: bool,
}

impl Running {
    pub(super) fn new(job: Job, sequence: SequenceId, fed: usize) -> Running {
        Running { job, sequence, fed, share: 0, starved: 0, borders: Vec::new(), ended: false, answered: false }
    }

    /// Number of tokens not yet processed.
    pub(super) fn rest(&self) -> usize {
        self.job.tokens.len() - self.fed
    }

    /// Number of tokens up to the next place where a step must end.
    pub(super) fn run(&self) -> usize {
        let stops = !self.job.siblings.is_empty() || matches!(self.job.kept, Kept::Wanted);
        let branch = stops.then_some(self.job.n_prompt - 1);
        let next = branch.into_iter().chain(self.borders.last().copied()).filter(|&at| at > self.fed).min();
        next.map_or(self.rest(), |at| (at - self.fed).min(self.rest()))
    }

    /// True if the next tokens need a row of logits each.
    pub(super) fn is_reported(&self) -> bool {
        self.job.prompt_logprobs.is_some() && self.fed < self.job.n_prompt
    }

    pub(super) fn feed(&self) -> Feed<'_> {
        let outputs = match () {
            () if self.is_reported() => Outputs::All,
            () if self.share == self.rest() => Outputs::Last,
            () => Outputs::None,
        };
        Feed { sequence: self.sequence, tokens: &self.job.tokens[self.fed..self.fed + self.share], outputs }
    }
}
