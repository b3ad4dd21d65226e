//! The answers of one HTTP request, from its submission to their ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jamba_runtime::{Cancel, Finish, GenerateOptions, Request, Snapshot, Usage};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::admission::Permit;
use crate::app::{App, RequestLabel};
use crate::error::{ApiError, Result};
use crate::listen::HangUp;
use crate::rates::Meter;
use crate::steps::{ChoiceEvent, Submission};

/// Time to read the rest of an answer after the longest time of a request.
const READ_TIME: Duration = Duration::from_secs(60);

/// A prompt that is ready for the batch.
pub(crate) struct Job {
    pub(crate) prompt: Vec<u32>,
    /// Lengths of the prompt at which its turns end.
    pub(crate) turn_ends: Vec<usize>,
    pub(crate) options: GenerateOptions,
    pub(crate) n: usize,
    pub(crate) priority: i32,
    /// Reports the prompt's tokens with this many most likely ones.
    pub(crate) prompt_logprobs: Option<usize>,
    /// The state of the prompt's first tokens.
    pub(crate) state: Option<Snapshot>,
    /// The last event has the state of the prompt without its last token.
    pub(crate) keeps_state: bool,
}

impl Job {
    pub(crate) fn new(prompt: Vec<u32>, options: GenerateOptions, n: usize) -> Job {
        Job {
            prompt,
            turn_ends: Vec::new(),
            options,
            n,
            priority: 0,
            prompt_logprobs: None,
            state: None,
            keeps_state: false,
        }
    }
}

/// A request in `/slots`. It has no text.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Slot {
    id: String,
    state: &'static str,
    n_answers: usize,
    prompt_tokens: usize,
    cached_tokens: usize,
    new_tokens: usize,
    seconds: f64,
}

/// The requests that run or wait, by their number.
#[derive(Default)]
pub(crate) struct Slots(Mutex<Requests>);

#[derive(Default)]
struct Requests {
    n_added: u64,
    by_number: BTreeMap<u64, OpenRequest>,
}

struct OpenRequest {
    slot: Slot,
    since: Instant,
    cancel: Cancel,
}

impl Slots {
    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, slot: Slot, cancel: Cancel) -> u64 {
        let mut all = self.lock();
        all.n_added += 1;
        let number = all.n_added;
        all.by_number.insert(number, OpenRequest { slot, since: Instant::now(), cancel });
        number
    }

    fn change(&self, number: u64, change: impl FnOnce(&mut Slot)) {
        if let Some(request) = self.lock().by_number.get_mut(&number) {
            change(&mut request.slot);
        }
    }

    fn remove(&self, number: u64) {
        self.lock().by_number.remove(&number);
    }

    /// Cancels all requests.
    pub(crate) fn cancel_all(&self) {
        self.lock().by_number.values().for_each(|request| request.cancel.cancel());
    }

    pub(crate) fn list(&self) -> Vec<Slot> {
        let all = self.lock();
        let list = all.by_number.values().map(|OpenRequest { slot, since, .. }| {
            let seconds = since.elapsed().as_secs_f64();
            Slot { seconds, ..slot.clone() }
        });
        list.collect()
    }
}

/// The answers in progress. Dropping them cancels them.
pub(crate) struct Answers {
    app: Arc<App>,
    id: String,
    events: mpsc::UnboundedReceiver<ChoiceEvent>,
    meter: Option<Arc<Meter>>,
    cancel: Cancel,
    _deadline: Option<ReadDeadline>,
    slot: u64,
    n_open: usize,
    /// Answers to one prompt.
    n_per_job: usize,
    /// By choice.
    usage: Vec<Usage>,
    finishes: Vec<Option<Finish>>,
    last_token: Vec<Option<Instant>>,
    began: Instant,
}

/// Tokens of all answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Total {
    pub(crate) prompt_tokens: usize,
    pub(crate) cached_tokens: usize,
    pub(crate) new_tokens: usize,
}

impl App {
    /// Admits this many answers.
    pub(crate) fn admit(&self, n_answers: usize) -> Result<Permit> {
        self.counted(self.admission.admit(n_answers))
    }

    /// Counts a refusal.
    fn counted<T>(&self, admitted: Result<T>) -> Result<T> {
        admitted.inspect_err(|error| self.metrics.refused(error.code()))
    }

    /// Submits the jobs of one HTTP request. Their choices follow one another.
    pub(crate) async fn start(
        self: &Arc<App>,
        label: RequestLabel,
        jobs: Vec<Job>,
        mut permit: Permit,
    ) -> Result<Answers> {
        let RequestLabel { id, cache_salt, meter, hang_up } = label;
        let may_raise = meter.as_ref().is_some_and(|meter| meter.allows_priority);
        if let Some(job) = jobs.iter().find(|job| job.priority < 0 && !may_raise) {
            let found = job.priority;
            let message = format!(
                "found {found}, expected 0 or more: a priority above the normal one needs --allow-priority, or a key with allow-priority"
            );
            return Err(ApiError::field("priority", message));
        }
        self.counted(permit.add_tokens(jobs.iter().map(|job| job.prompt.len()).sum()))?;
        let permit = Arc::new(permit);
        let (sender, events) = mpsc::unbounded_channel();
        let cancel = Cancel::new();
        let n_open: usize = jobs.iter().map(|job| job.n).sum();
        let slot = Slot {
            id: id.clone(),
            state: "waiting",
            n_answers: n_open,
            prompt_tokens: jobs.iter().map(|job| job.prompt.len()).sum(),
            cached_tokens: 0,
            new_tokens: 0,
            seconds: 0.0,
        };
        let slot = self.slots.add(slot, cancel.clone());
        // From here on, dropping the answers cleans up.
        let mut answers = Answers {
            app: Arc::clone(self),
            id,
            events,
            meter: meter.clone(),
            cancel,
            _deadline: self.options.timeout.zip(hang_up).map(|(timeout, hang_up)| ReadDeadline::new(timeout, hang_up)),
            slot,
            n_open,
            n_per_job: (n_open / jobs.len().max(1)).max(1),
            usage: vec![Usage::default(); n_open],
            finishes: vec![None; n_open],
            last_token: vec![None; n_open],
            began: Instant::now(),
        };
        let mut first_choice = 0;
        let mut taken = Vec::new();
        for Job { prompt, turn_ends, mut options, n, priority, prompt_logprobs, state, keeps_state } in jobs {
            options.cancel = answers.cancel.clone();
            for usage in &mut answers.usage[first_choice..first_choice + n] {
                usage.prompt_tokens = prompt.len();
            }
            let deadline = self.options.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
            let request = Request {
                prompt,
                options,
                n,
                priority,
                deadline,
                cache_salt,
                snapshot_at: turn_ends,
                prompt_logprobs,
                state,
                keeps_state,
            };
            let (sent, result) = oneshot::channel();
            let submission =
                Submission { request, first_choice, events: sender.clone(), taken: sent, permit: Arc::clone(&permit) };
            self.commands.try_send(submission).map_err(|error| match error {
                std::sync::mpsc::TrySendError::Full(_) => {
                    ApiError::busy("queue_full", "too many requests arrive at a time; retry later", 1)
                }
                std::sync::mpsc::TrySendError::Disconnected(_) => engine_gone(),
            })?;
            taken.push(result);
            first_choice += n;
        }
        for result in taken {
            result.await.map_err(|_| engine_gone())??;
        }
        if let Some(meter) = meter {
            meter.charge(answers.total().prompt_tokens);
        }
        Ok(answers)
    }
}

/// Closes the connection of a client that takes too long to read its answer. Dropping it lifts the deadline.
struct ReadDeadline(AbortHandle);

impl ReadDeadline {
    fn new(timeout: Duration, hang_up: HangUp) -> ReadDeadline {
        let close = async move {
            tokio::time::sleep(timeout.saturating_add(READ_TIME)).await;
            hang_up.now();
        };
        ReadDeadline(tokio::spawn(close).abort_handle())
    }
}

impl Drop for ReadDeadline {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn engine_gone() -> ApiError {
    ApiError::internal("the engine has stopped after an internal error: restart the server")
}

impl Answers {
    /// The next event; None when all answers have ended.
    ///
    /// # Errors
    /// The answer failed, its deadline passed, or the engine stopped.
    pub(crate) async fn next(&mut self) -> Result<Option<ChoiceEvent>> {
        if self.n_open == 0 {
            return Ok(None);
        }
        let event = self.events.recv().await.ok_or_else(engine_gone)?;
        let choice = event.choice;
        if let Some(meter) = &self.meter {
            meter.charge(event.usage.new_tokens.saturating_sub(self.usage[choice].new_tokens));
        }
        self.usage[choice] = event.usage;
        if event.token.is_some() {
            let now = Instant::now();
            if let Some(last) = self.last_token[choice].replace(now) {
                self.app.metrics.gap(now.duration_since(last).as_secs_f64());
            }
        }
        if let Some(finish) = event.finish {
            self.n_open -= 1;
            self.finishes[choice] = Some(finish);
            self.app.metrics.ended(finish.name(), &event.usage);
        }
        let total = self.total();
        self.app.slots.change(self.slot, |slot| {
            slot.state = if total.new_tokens > 0 { "decoding" } else { "reading" };
            (slot.cached_tokens, slot.new_tokens) = (total.cached_tokens, total.new_tokens);
        });
        match event.finish {
            Some(Finish::Failed) => Err(event.error.unwrap_or_else(|| ApiError::internal("the answer failed"))),
            Some(Finish::Deadline) => Err(ApiError::new(
                axum::http::StatusCode::GATEWAY_TIMEOUT,
                "server_error",
                Some("timeout"),
                "the request took longer than the server allows (--timeout)",
            )),
            Some(Finish::Cancelled) => Err(ApiError::new(
                axum::http::StatusCode::SERVICE_UNAVAILABLE,
                "server_error",
                Some("server_shutting_down"),
                "the answer was cancelled",
            )),
            _ => Ok(Some(event)),
        }
    }

    /// Tokens and times of a choice.
    pub(crate) fn usage(&self, choice: usize) -> &Usage {
        &self.usage[choice]
    }

    /// Tokens so far. Prompts count once for each job.
    pub(crate) fn total(&self) -> Total {
        let mut total = Total::default();
        for (choice, usage) in self.usage.iter().enumerate() {
            total.new_tokens += usage.new_tokens;
            if choice.is_multiple_of(self.n_per_job) {
                total.prompt_tokens += usage.prompt_tokens;
                total.cached_tokens += usage.cached_tokens;
            }
        }
        total
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.app.slots.remove(self.slot);
        let Total { prompt_tokens, cached_tokens, new_tokens } = self.total();
        let finish: Vec<&str> = self.finishes.iter().map(|finish| finish.map_or("left", Finish::name)).collect();
        tracing::info!(
            id = self.id,
            prompt_tokens,
            cached_tokens,
            new_tokens,
            finish = finish.join(","),
            seconds = self.began.elapsed().as_secs_f64(),
            "answered"
        );
    }
}
