//! `/v1/completions`.

use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use jamba_runtime::{AddedTokens, PromptToken};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::logprobs::CompletionTokens;
use super::{AnswerObject, Head, finish_reason};
use crate::answer::{Answers, Job};
use crate::app::{RequestLabel, State};
use crate::body::Object;
use crate::error::{ApiError, Result};
use crate::openapi::{CompletionBody, ErrorObject};
use crate::sampling::{OneOrMany, Sampling, UsageChunks};
use crate::states::{self, Owner};
use crate::steps::ChoiceEvent;
use crate::stream::{self, Events, Source};

/// New tokens where the request names no limit, as OpenAI has it.
const MAX_NEW: usize = 16;
/// Most log probabilities of a position.
const MAX_LOGPROBS: usize = 20;
/// Most prompts of a request.
const MAX_PROMPTS: usize = 1024;

/// The fields of completions alone.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CompletionOptions)]
pub(crate) struct Fields {
    #[serde(default, deserialize_with = "read_prompt")]
    prompt: Option<Prompt>,
    echo: Option<bool>,
    logprobs: Option<usize>,
    add_special_tokens: Option<bool>,
    /// vLLM's: the tokens of the answer beside its text.
    return_token_ids: Option<bool>,
    /// A named state: the prompt follows it.
    state: Option<String>,
}

/// A text, tokens, or a list of either.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
enum Prompt {
    Texts(OneOrMany<String>),
    Tokens(Vec<u32>),
    Many(Vec<Vec<u32>>),
}

/// The first element of a list, which tells what the others are.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a text, a token, or a list of tokens")]
enum First {
    Text(String),
    Token(u32),
    Tokens(Vec<u32>),
}

/// Reads each element once: derived code would copy the list, and try each form.
fn read_prompt<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Prompt>, D::Error> {
    struct Once(Prompt);
    impl<'de> Deserialize<'de> for Once {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Once, D::Error> {
            deserializer.deserialize_any(PromptVisitor).map(Once)
        }
    }
    Ok(Option::<Once>::deserialize(deserializer)?.map(|Once(prompt)| prompt))
}

struct PromptVisitor;

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = Prompt;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a text, a list of tokens, or a list of either")
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Prompt, E> {
        Ok(Prompt::Texts(OneOrMany::One(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Prompt, A::Error> {
        Ok(match list.next_element()? {
            None => Prompt::Texts(OneOrMany::Many(Vec::new())),
            Some(First::Text(first)) => Prompt::Texts(OneOrMany::Many(rest(first, list)?)),
            Some(First::Token(first)) => Prompt::Tokens(rest(first, list)?),
            Some(First::Tokens(first)) => Prompt::Many(rest(first, list)?),
        })
    }
}

/// The first element and those that follow it.
fn rest<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(first: T, mut list: A) -> std::result::Result<Vec<T>, A::Error> {
    let mut all = vec![first];
    while let Some(next) = list.next_element()? {
        all.push(next);
    }
    Ok(all)
}

#[derive(Serialize, ToSchema)]
#[schema(as = CompletionChoice)]
struct Choice {
    index: usize,
    text: String,
    logprobs: Option<CompletionTokens>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

/// A choice so far.
#[derive(Default)]
struct Progress {
    /// The prompt, until it has been told.
    echo: Option<String>,
    text: String,
    logprobs: CompletionTokens,
    /// New tokens, if the request wants them.
    token_ids: Option<Vec<u32>>,
}

/// Continues texts or tokens.
#[utoipa::path(post, path = "/v1/completions", request_body = CompletionBody, responses(
    (status = 200, description = "The answer, or with `stream` its chunks as server-sent events", content(
        (AnswerObject<'static, Choice> = "application/json"),
        (String = "text/event-stream"),
    )),
    (status = "4XX", body = ErrorObject),
    (status = "5XX", body = ErrorObject),
))]
pub(crate) async fn complete(
    Extract(app): Extract<State>,
    Extension(label): Extension<RequestLabel>,
    Extension(owner): Extension<Owner>,
    body: Object,
) -> Result<Response> {
    let sampling: Sampling = body.read()?;
    let fields: Fields = body.read()?;
    drop(body);
    let model = app.model.check_name(sampling.model.as_deref())?;
    let echoes = fields.echo == Some(true);
    if fields.logprobs.is_some_and(|n| n > MAX_LOGPROBS) {
        return Err(ApiError::field("logprobs", format!("expected at most {MAX_LOGPROBS}")));
    }
    let n = sampling.n(&app.model)?;
    let mut options = sampling.options(&app.model)?;
    options.logprobs = fields.logprobs;
    options.max_new = sampling.max_new().unwrap_or(MAX_NEW);
    if options.max_new == 0 && !echoes {
        return Err(ApiError::field("max_tokens", "found 0, expected 1 or more, or echo"));
    }
    if echoes && fields.logprobs.is_some() && n > 1 {
        return Err(ApiError::field("n", "echo with logprobs gives one answer to each prompt"));
    }
    // With no new tokens, the prompt is read for its probabilities alone.
    let prompt_logprobs = fields.logprobs.or((options.max_new == 0).then_some(0)).filter(|_| echoes);
    if echoes && fields.state.is_some() {
        return Err(ApiError::field("echo", "an answer that follows a state has no echo"));
    }
    let prompts = match fields.prompt {
        None if fields.state.is_some() => vec![Err(Vec::new())],
        None => return Err(ApiError::field("prompt", "missing: a text, a list of tokens, or a list of either")),
        Some(Prompt::Texts(texts)) => texts.into_vec().into_iter().map(Ok).collect::<Vec<_>>(),
        Some(Prompt::Tokens(tokens)) => vec![Err(tokens)],
        Some(Prompt::Many(all)) => all.into_iter().map(Err).collect(),
    };
    if prompts.is_empty() || prompts.len() > MAX_PROMPTS {
        return Err(ApiError::field("prompt", format!("found {} prompts, expected 1 to {MAX_PROMPTS}", prompts.len())));
    }
    let permit = app.admit(n * prompts.len())?;
    app.compile(&mut options).await?;
    let state = app.state(owner, fields.state.as_deref()).await?;
    let begin = state.as_ref().map(states::tokens).unwrap_or_default();
    let follows = state.is_some() || fields.add_special_tokens == Some(false);
    let added = if follows { AddedTokens::None } else { AddedTokens::AsConfigured };
    let (mut jobs, mut choices) = (Vec::new(), Vec::new());
    for prompt in prompts {
        let (text, prompt) = match prompt {
            Ok(text) => (Some(text.clone()), app.encode(text, added).await?),
            Err(tokens) => (None, tokens),
        };
        let prompt = [&begin[..], &prompt].concat();
        if prompt.is_empty() {
            return Err(ApiError::field("prompt", "found no tokens, expected at least one"));
        }
        let priority = sampling.priority.unwrap_or(0);
        let echo = match (echoes, text) {
            (false, _) => None,
            (true, Some(text)) => Some(text),
            (true, None) => Some(app.model.tokenizer()?.decode(&prompt)?),
        };
        let token_ids = (fields.return_token_ids == Some(true)).then(Vec::new);
        let choice = || Progress { echo: echo.clone(), token_ids: token_ids.clone(), ..Progress::default() };
        choices.extend((0..n).map(|_| choice()));
        let state = state.clone();
        jobs.push(Job { priority, prompt_logprobs, state, ..Job::new(prompt, options.clone(), n) });
    }
    let head = Head::new(&app, "text_completion", "cmpl", model).with_seed(options.sampler.seed);
    let answers = app.start(label, jobs, permit).await?;
    let has_logprobs = fields.logprobs.is_some();
    let mut run = Run { head, answers, choices, has_logprobs, usage: sampling.usage_chunks() };
    if sampling.streams() { Ok(stream::respond(run)) } else { run.collect().await }
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
    /// The new text of an event. Its log probabilities go to those of the choice.
    fn news(&mut self, event: &ChoiceEvent) -> String {
        let tokenizer = self.head.app.model.tokenizer().ok().map(|tokenizer| &**tokenizer);
        let progress = &mut self.choices[event.choice];
        let mut text = progress.echo.take().unwrap_or_default();
        if self.has_logprobs {
            for PromptToken { token, logprob, top } in &event.prompt {
                progress.logprobs.push(tokenizer, *token, *logprob, top);
            }
        }
        if let Some(token) = &event.token {
            text += &token.text;
            progress.token_ids.iter_mut().for_each(|ids| ids.push(token.token));
            if self.has_logprobs {
                progress.logprobs.push(tokenizer, token.token, token.logprob, &token.top);
            }
        }
        text + &event.rest
    }

    async fn collect(&mut self) -> Result<Response> {
        let mut finishes = vec![None; self.choices.len()];
        while let Some(event) = self.answers.next().await? {
            let news = self.news(&event);
            self.choices[event.choice].text += &news;
            if let Some(finish) = event.finish {
                finishes[event.choice] = Some(finish_reason(finish));
            }
        }
        let has_logprobs = self.has_logprobs;
        let choices = std::mem::take(&mut self.choices).into_iter().zip(finishes).enumerate();
        let choices = choices.map(|(index, (Progress { text, logprobs, token_ids, .. }, finish_reason))| Choice {
            index,
            text,
            logprobs: has_logprobs.then_some(logprobs),
            finish_reason,
            token_ids,
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
                events.push(&self.head.usage(self.answers.total()))?;
            }
            return Ok(false);
        };
        let text = self.news(&event);
        let logprobs = &mut self.choices[event.choice].logprobs;
        let after = CompletionTokens::after(logprobs.n_chars());
        let logprobs = std::mem::replace(logprobs, after);
        let choice = Choice {
            index: event.choice,
            text,
            logprobs: (!logprobs.is_empty()).then_some(logprobs),
            finish_reason: event.finish.map(finish_reason),
            token_ids: self.choices[event.choice].token_ids.as_mut().map(std::mem::take),
        };
        let usage = self.usage.always.then(|| self.answers.total().into());
        events.push(&self.head.object(vec![choice], usage))?;
        Ok(true)
    }
}
