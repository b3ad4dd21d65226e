//! Requests, and the options of a batch.

use std::time::{Duration, Instant};

use crate::{GenerateOptions, Snapshot};

/// A request of a client.
#[derive(Clone, Debug)]
pub struct Request {
    /// Prompt tokens, at least one.
    pub prompt: Vec<u32>,
    /// Generation options with `max_new` ≥ 1. `chunk` is ignored; see [`BatchOptions::step_tokens`].
    pub options: GenerateOptions,
    /// Number of answers, at least one. The prompt is read once. Answer i draws with the seed plus i; without a seed, with a
    /// random one plus i.
    pub n: usize,
    /// Lower ones come first, as in vLLM; 0 by default. Requests of one priority join in the order of their arrival. A request
    /// that finds no room preempts requests with a greater number.
    pub priority: i32,
    /// The request ends with [`Finish::Deadline`](crate::Finish::Deadline) in the first step that begins at this time or
    /// later.
    pub deadline: Option<Instant>,
    /// The request starts from cached prefixes of requests with the same salt only, so that the time of its answer does not tell
    /// what others have sent. 0 by default.
    pub cache_salt: u64,
    /// Lengths of the prompt at which the cache takes snapshots, besides its own: for example where turns of a chat end. Each
    /// is 1 … the length of the prompt. Ignored without a cache.
    pub snapshot_at: Vec<usize>,
    /// Reports the log probability of each prompt token and of this many most likely tokens in its place, with answer 0. The
    /// whole prompt is read for them: it does not start from the cache. `max_new` may be 0 then.
    pub prompt_logprobs: Option<usize>,
    /// The state of the prompt's first tokens, to start from; at least the prompt's last token follows it. The cache goes
    /// before it if it knows more of the prompt.
    pub state: Option<Snapshot>,
    /// The last event of answer 0 has the state of the prompt without its last token. `max_new` may be 0 then.
    pub keeps_state: bool,
}

impl Default for Request {
    fn default() -> Request {
        Request {
            prompt: Vec::new(),
            options: GenerateOptions::default(),
            n: 1,
            priority: 0,
            deadline: None,
            cache_salt: 0,
            snapshot_at: Vec::new(),
            prompt_logprobs: None,
            state: None,
            keeps_state: false,
        }
    }
}

/// Identifies a request of a [`Batch`](crate::Batch).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

/// Options of a [`Batch`](crate::Batch).
#[derive(Clone, Debug, PartialEq)]
pub struct BatchOptions {
    /// Token budget per step; by default, and at most, [`Engine::max_step_tokens`](crate::Engine::max_step_tokens). Decoding
    /// sequences always get their token; prompts use the rest.
    pub step_tokens: Option<usize>,
    /// The time that a step should take at most. Prompts are cut so that steps keep to it, as far as the times of earlier steps
    /// tell; at least 16 prompt tokens run in every step. The shortest remaining prompt goes first, and before it one that had
    /// no token in four steps. By default steps are as large as `step_tokens` allows, and prompts run in order of joining.
    pub step_target: Option<Duration>,
    /// Host memory for the states of preempted requests, in bytes; 1 GiB by default. A request that finds no room there is
    /// read again later.
    pub swap_bytes: u64,
    /// How often later requests may join before one that finds no room yet; 4 by default.
    pub skip_ahead: u32,
    /// Most requests that wait; further ones are refused with
    /// [`RuntimeError::QueueFull`](crate::RuntimeError::QueueFull). Each of `n` answers counts.
    pub max_waiting: Option<usize>,
    /// Most prompt tokens of waiting requests. A request is not refused if no other one waits.
    pub max_waiting_tokens: Option<usize>,
    /// Puts a snapshot of every answer's end into the cache, for the next turn of a chat. True by default. On a GPU the
    /// tokens of an answer were computed by other kernels than those of a prompt, which round otherwise, so a continuation
    /// of a cached answer is not bit-identical there.
    pub cache_answers: bool,
}

impl Default for BatchOptions {
    fn default() -> BatchOptions {
        BatchOptions {
            step_tokens: None,
            step_target: None,
            swap_bytes: 1 << 30,
            skip_ahead: 4,
            max_waiting: None,
            max_waiting_tokens: None,
            cache_answers: true,
        }
    }
}

/// What a request has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Prompt tokens that were not read for this answer: they came from the cache or, for answers after the first of a
    /// request, from the first one.
    pub cached_tokens: usize,
    /// Tokens of the answer.
    pub new_tokens: usize,
    /// How often the request was preempted.
    pub preemptions: u32,
    /// Time before the request joined.
    pub queue: Duration,
    /// Time from then to the first new token.
    pub prefill: Duration,
    /// Time from then to the last new token.
    pub decode: Duration,
}
