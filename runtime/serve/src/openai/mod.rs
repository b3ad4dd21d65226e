//! OpenAI's API: completions, chats, and models.

pub(crate) mod chat;
pub(crate) mod completions;
mod logprobs;
pub(crate) mod models;
mod sse;
mod tools;

use jamba_runtime::Finish;
use serde::Serialize;

use crate::answer::Total;

/// `usage` of an answer.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct UsageObject {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct PromptDetails {
    cached_tokens: usize,
}

impl From<Total> for UsageObject {
    fn from(Total { prompt_tokens, cached_tokens, new_tokens }: Total) -> UsageObject {
        UsageObject {
            prompt_tokens,
            completion_tokens: new_tokens,
            total_tokens: prompt_tokens + new_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens },
        }
    }
}

/// `finish_reason` of an answer without calls.
fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Length | Finish::NoRoom => "length",
        _ => "stop",
    }
}
