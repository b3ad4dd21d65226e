//! Options of batches and requests.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use jamba_runtime::{BatchOptions, Request, Snapshot};

use crate::arguments::{Versioned, options, slice, store_defaults, tokens};
use crate::generate::{generate_options, jamba_generate_options};
use crate::snapshot::{self, jamba_snapshot};
use crate::status::{Failure, entry, jamba_status};

/// Options of a batch. jamba_batch_options_init sets the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_batch_options {
    /// Size of this struct in bytes, set by jamba_batch_options_init.
    pub size: usize,
    /// Most tokens per step; 0, the default, for the plan's. Answers always get their token; prompts use the rest.
    pub step_tokens: usize,
    /// The time that a step should take at most, in seconds; 0, the default, for no limit. Prompts are cut to keep to it.
    pub step_target: f64,
    /// Host memory for the states of requests that gave way to others, in bytes; 1 GiB by default.
    pub swap_bytes: u64,
    /// Host memory of the prefix cache, in bytes; 0, the default, for no cache.
    pub cache_bytes: u64,
    /// Interval between snapshots of one prompt in the cache, in tokens; 512 by default.
    pub cache_interval: usize,
    /// Most answers that wait; 0, the default, for no limit. Each of the `n` of a request counts.
    pub max_waiting: usize,
    /// Most prompt tokens of waiting requests; 0, the default, for no limit. A request is taken if no other one waits.
    pub max_waiting_tokens: usize,
    /// How often later requests may join before one that finds no room; 4 by default.
    pub skip_ahead: u32,
    /// Nonzero, the default: the states of answers go into the cache, for the next turn of a chat.
    pub cache_answers: c_int,
}

// SAFETY: the struct starts with its size, and any bytes are valid numbers.
unsafe impl Versioned for jamba_batch_options {
    const FIRST: usize = size_of::<jamba_batch_options>();

    fn defaults() -> Self {
        let defaults = BatchOptions::default();
        jamba_batch_options {
            size: size_of::<Self>(),
            step_tokens: 0,
            step_target: 0.0,
            swap_bytes: defaults.swap_bytes,
            cache_bytes: 0,
            cache_interval: jamba_runtime::PrefixCache::new(0).interval(),
            max_waiting: 0,
            max_waiting_tokens: 0,
            skip_ahead: defaults.skip_ahead,
            cache_answers: c_int::from(defaults.cache_answers),
        }
    }
}

impl jamba_batch_options {
    /// The options of the runtime.
    pub(crate) fn to_runtime(self) -> Result<BatchOptions, Failure> {
        let some = |n: usize| Some(n).filter(|&n| n > 0);
        Ok(BatchOptions {
            step_tokens: some(self.step_tokens),
            step_target: seconds("step_target", self.step_target)?,
            swap_bytes: self.swap_bytes,
            skip_ahead: self.skip_ahead,
            max_waiting: some(self.max_waiting),
            max_waiting_tokens: some(self.max_waiting_tokens),
            cache_answers: self.cache_answers != 0,
        })
    }
}

/// A time; None for 0.
fn seconds(name: &str, given: f64) -> Result<Option<Duration>, Failure> {
    match Duration::try_from_secs_f64(given) {
        Ok(time) => Ok(Some(time).filter(|time| !time.is_zero())),
        Err(error) => Err(Failure::argument(format!("{name} is {given}, expected seconds, 0 or more: {error}"))),
    }
}

/// A request for a batch. jamba_request_init sets the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct jamba_request {
    /// Size of this struct in bytes, set by jamba_request_init.
    pub size: usize,
    /// Tokens of the prompt.
    pub prompt: *const u32,
    /// Number of tokens of the prompt, at least 1.
    pub n_prompt: usize,
    /// Options for generation; null for the defaults.
    pub options: *const jamba_generate_options,
    /// Number of answers; 1 by default. The prompt is read once. Answer i draws with the seed plus i.
    pub n: usize,
    /// Time after which the answers end with JAMBA_FINISH_DEADLINE, in seconds; 0, the default, for no limit.
    pub timeout: f64,
    /// Lengths of the prompt, 1 … `n_prompt`, at which the cache takes snapshots besides its own, for example where turns of
    /// a chat end; may be null if there are none.
    pub snapshot_at: *const usize,
    /// Number of entries of `snapshot_at`.
    pub n_snapshot_at: usize,
    /// Requests with lower numbers come first; 0 by default.
    pub priority: i32,
    /// Number of most likely tokens to report for each token of the prompt, with answer 0; -1, the default, for no log
    /// probabilities of the prompt. `max_new` may be 0 with them.
    pub prompt_logprobs: i32,
    /// The state of the prompt's first tokens, to start from; 0, the default, for none. At least the last token follows it.
    pub state: jamba_snapshot,
    /// Nonzero: the last event of answer 0 has the state of the prompt without its last token. `max_new` may be 0 then.
    pub keeps_state: c_int,
    /// The request starts from cached beginnings of requests with the same number only, so that the time of its answer does not
    /// tell what others have sent; 0 by default.
    pub cache_salt: u64,
}

// SAFETY: the struct starts with its size, and any bytes are valid numbers and raw pointers.
unsafe impl Versioned for jamba_request {
    const FIRST: usize = size_of::<jamba_request>();

    fn defaults() -> Self {
        jamba_request {
            size: size_of::<Self>(),
            prompt: std::ptr::null(),
            n_prompt: 0,
            options: std::ptr::null(),
            n: 1,
            timeout: 0.0,
            snapshot_at: std::ptr::null(),
            n_snapshot_at: 0,
            priority: 0,
            prompt_logprobs: -1,
            state: jamba_snapshot { id: 0 },
            keeps_state: 0,
            cache_salt: 0,
        }
    }
}

/// Converts a request to that of the runtime, for an engine with this maximum context.
///
/// # Safety
/// `raw`, and pointers in it, are null or valid during the call, as jamba.h requires of C callers.
pub(crate) unsafe fn request(raw: *const jamba_request, max_context: u64) -> Result<Request, Failure> {
    if raw.is_null() {
        return Err(Failure::argument("request is null"));
    }
    // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
    let given = unsafe { options("request", raw) }?;
    // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
    let prompt = unsafe { tokens("prompt", given.prompt, given.n_prompt, max_context) }?;
    // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
    let snapshot_at = unsafe { slice("snapshot_at", given.snapshot_at, given.n_snapshot_at) }?;
    // SAFETY: the caller guarantees that the pointers are null or valid, see `# Safety`.
    let options = unsafe { generate_options(&options("generate options", given.options)?) }?;
    let timeout = seconds("timeout", given.timeout)?;
    let state = match given.state.id {
        0 => None,
        id => Some(Snapshot::clone(&*snapshot::find(id)?)),
    };
    Ok(Request {
        prompt: prompt.to_vec(),
        options,
        n: given.n,
        priority: given.priority,
        deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        snapshot_at: snapshot_at.to_vec(),
        prompt_logprobs: usize::try_from(given.prompt_logprobs).ok(),
        state,
        keeps_state: given.keeps_state != 0,
        cache_salt: given.cache_salt,
    })
}

/// Sets options to their defaults; `size` is sizeof(jamba_batch_options).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_batch_options_init(options: *mut jamba_batch_options, size: usize) -> jamba_status {
    // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
    entry(|| unsafe { store_defaults(options, size) })
}

/// Sets a request to the defaults; `size` is sizeof(jamba_request).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jamba_request_init(request: *mut jamba_request, size: usize) -> jamba_status {
    // SAFETY: pointers from C are null or valid during this call (contract of jamba.h); the callee rejects null.
    entry(|| unsafe { store_defaults(request, size) })
}
