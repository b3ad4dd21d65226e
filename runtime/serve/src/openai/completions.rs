//! `/v1/completions`.

use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};

use super::logprobs::CompletionTokens;
use super::sse::{self, Events, Source};
use super::{UsageObject, finish_reason};
use crate::answer::{Answers, Job};
use crate::app::{RequestLabel, State, random_id};
use crate::body::Object;
use crate::error::{ApiError, Result};
use crate::sampling::{OneOrMany, Sampling, UsageChunks};
use crate::steps::ChoiceEvent;

/// New tokens where the request names no limit, as OpenAI has it.
const MAX_NEW: usize = 16;
/// Most log probabilities of a position.
const MAX_LOGPROBS: usize = 20;
/// Most prompts of a request.
const MAX_PROMPTS: usize = 1024;

/// The fields of completions alone.
#[derive(Debug, Deserialize)]
struct Fields {
    prompt: Option<Prompt>,
    echo: Option<bool>,
    logprobs: Option<usize>,
    add_special_tokens: Option<bool>,
}

/// A text, tokens, or a list of either.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Prompt {
    Texts(OneOrMany<String>),
    Tokens(Vec<u32>),
    Many(Vec<Vec<u32>>),
}

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: Vec<Choice>,
    usage: Option<UsageObject>,
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    text: String,
    logprobs: Option<CompletionTokens>,
    finish_reason: Option<&'static str>,
}

/// The header of all objects of an answer.
struct Head {
    app: State,
    id: String,
    created: u64,
    model: String,
}

impl Head {
    fn object(&self, choices: Vec<Choice>, usage: Option<UsageObject>) -> Completion<'_> {
        Completion {
            id: &self.id,
            object: "text_completion",
            created: self.created,
            model: &self.model,
            system_fingerprint: &self.app.model.fingerprint,
            choices,
            usage,
        }
    }
}

/// A choice so far.
#[derive(Default)]
struct Progress {
    text: String,
    logprobs: CompletionTokens,
}

pub(crate) async fn complete(
    Extract(app): Extract<State>,
    Extension(label): Extension<RequestLabel>,
    body: Object,
) -> Result<Response> {
    let sampling: Sampling = body.read()?;
    let fields: Fields = body.read()?;
    let model = app.model.check_name(sampling.model.as_deref())?;
    if fields.echo == Some(true) {
        return Err(ApiError::unsupported("echo", "not supported yet"));
    }
    if fields.logprobs.is_some_and(|n| n > MAX_LOGPROBS) {
        return Err(ApiError::field("logprobs", format!("expected at most {MAX_LOGPROBS}")));
    }
    let n = sampling.n(&app.model)?;
    let mut options = sampling.options(&app.model)?;
    options.logprobs = fields.logprobs;
    options.max_new = sampling.max_new().unwrap_or(MAX_NEW);
    if options.max_new == 0 {
        return Err(ApiError::field("max_tokens", "found 0, expected 1 or more"));
    }
    let prompts = match fields.prompt {
        None => return Err(ApiError::field("prompt", "missing: a text, a list of tokens, or a list of either")),
        Some(Prompt::Texts(texts)) => texts.into_vec().into_iter().map(Ok).collect::<Vec<_>>(),
        Some(Prompt::Tokens(tokens)) => vec![Err(tokens)],
        Some(Prompt::Many(all)) => all.into_iter().map(Err).collect(),
    };
    if prompts.is_empty() || prompts.len() > MAX_PROMPTS {
        return Err(ApiError::field("prompt", format!("found {} prompts, expected 1 to {MAX_PROMPTS}", prompts.len())));
    }
    let permit = app.admission.admit(n * prompts.len()).inspect_err(|_| app.metrics.refused("queue_full"))?;
    let mut jobs = Vec::new();
    for prompt in prompts {
        let prompt = match prompt {
            Ok(text) => app.encode(text, fields.add_special_tokens.unwrap_or(true)).await?,
            Err(tokens) => tokens,
        };
        if prompt.is_empty() {
            return Err(ApiError::field("prompt", "found no tokens, expected at least one"));
        }
        let priority = sampling.priority.unwrap_or(0);
        jobs.push(Job { prompt, turn_ends: Vec::new(), options: options.clone(), n, priority });
    }
    let n_choices = n * jobs.len();
    let head = Head { id: format!("cmpl-{}", random_id()), created: app.now(), model, app: app.clone() };
    let answers = app.start(label.0, jobs, permit).await?;
    let choices = (0..n_choices).map(|_| Progress::default()).collect();
    let has_logprobs = fields.logprobs.is_some();
    let mut run = Run { head, answers, choices, has_logprobs, usage: sampling.usage_chunks() };
    if sampling.streams() { Ok(sse::respond(run)) } else { run.collect().await }
}

/// The answers of a request.
struct Run {
    head: Head,
    answers: Answers,
    choices: Vec<Progress>,
    has_logprobs: bool,
    usage: UsageChunks,
}

impl Run {
    /// The new text of an event, and its log probabilities.
    fn news(&mut self, event: &ChoiceEvent) -> (String, CompletionTokens) {
        let tokenizer = self.head.app.model.tokenizer().ok().map(|tokenizer| &**tokenizer);
        let progress = &mut self.choices[event.choice];
        let mut news = CompletionTokens::after(progress.logprobs.n_chars());
        let mut text = String::new();
        if let Some(token) = &event.token {
            text += &token.text;
            if self.has_logprobs {
                news.push(tokenizer, token.token, token.logprob, &token.top);
            }
        }
        text += &event.rest;
        (text, news)
    }

    async fn collect(&mut self) -> Result<Response> {
        let mut finishes = vec![None; self.choices.len()];
        while let Some(event) = self.answers.next().await? {
            let has_logprobs = self.has_logprobs;
            let tokenizer = self.head.app.model.tokenizer().ok().map(|tokenizer| &**tokenizer);
            let progress = &mut self.choices[event.choice];
            if let Some(token) = &event.token {
                progress.text += &token.text;
                if has_logprobs {
                    progress.logprobs.push(tokenizer, token.token, token.logprob, &token.top);
                }
            }
            progress.text += &event.rest;
            if let Some(finish) = event.finish {
                finishes[event.choice] = Some(finish_reason(finish));
            }
        }
        let has_logprobs = self.has_logprobs;
        let choices = std::mem::take(&mut self.choices).into_iter().zip(finishes).enumerate();
        let choices = choices.map(|(index, (Progress { text, logprobs }, finish_reason))| Choice {
            index,
            text,
            logprobs: has_logprobs.then_some(logprobs),
            finish_reason,
        });
        let usage = Some(self.answers.total().into());
        Ok(Json(self.head.object(choices.collect(), usage)).into_response())
    }
}

impl Source for Run {
    async fn more(&mut self, events: &mut Events) -> Result<bool> {
        let Some(event) = self.answers.next().await? else {
            if self.usage.at_end {
                self.usage.at_end = false;
                events.push(&self.head.object(Vec::new(), Some(self.answers.total().into())))?;
            }
            return Ok(false);
        };
        let (text, news) = self.news(&event);
        self.choices[event.choice].logprobs = CompletionTokens::after(news.n_chars());
        let choice = Choice {
            index: event.choice,
            text,
            logprobs: (self.has_logprobs && event.token.is_some()).then_some(news),
            finish_reason: event.finish.map(finish_reason),
        };
        let usage = self.usage.always.then(|| self.answers.total().into());
        events.push(&self.head.object(vec![choice], usage))?;
        Ok(true)
    }
}
