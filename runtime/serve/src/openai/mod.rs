//! OpenAI's API: completions, chats, responses, and models.

pub(crate) mod chat;
pub(crate) mod completions;
mod logprobs;
pub(crate) mod models;
pub(crate) mod responses;

use jamba_runtime::Finish;
use serde::Serialize;
use utoipa::ToSchema;

use crate::answer::Total;
use crate::app::{State, random_id, unix_seconds};

/// `usage` of an answer.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct UsageObject {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
}

#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
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

/// What all objects of an answer have in common.
struct Head {
    app: State,
    /// The value of `object`.
    object: &'static str,
    id: String,
    created: u64,
    model: String,
    /// The seed of the first answer; the next ones count on.
    seed: Option<i64>,
}

/// An object: a whole answer, or a chunk of a stream.
#[derive(Serialize, ToSchema)]
struct AnswerObject<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<i64>,
    choices: Vec<C>,
    usage: Option<UsageObject>,
}

impl Head {
    fn new(app: &State, object: &'static str, id_prefix: &str, model: String) -> Head {
        let id = format!("{id_prefix}-{}", random_id());
        Head { app: State::clone(app), object, id, created: unix_seconds(), model, seed: None }
    }

    /// Tells the seed of the options.
    fn with_seed(self, seed: Option<u64>) -> Head {
        Head { seed: seed.map(|seed| seed as i64), ..self }
    }

    fn object<C>(&self, choices: Vec<C>, usage: Option<UsageObject>) -> AnswerObject<'_, C> {
        AnswerObject {
            id: &self.id,
            object: self.object,
            created: self.created,
            model: &self.model,
            system_fingerprint: &self.app.model.fingerprint,
            seed: self.seed,
            choices,
            usage,
        }
    }

    /// The last object of a stream: usage without choices.
    fn usage(&self, total: Total) -> AnswerObject<'_, ()> {
        self.object(Vec::new(), Some(total.into()))
    }
}
