//! `/v1/chat/completions`.

use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use jamba_runtime::{Answer, AnswerCall, AnswerEvent};
use serde::Serialize;
use utoipa::ToSchema;

use super::logprobs::ChatToken;
use super::{AnswerObject, Head};
use crate::app::{RequestLabel, State};
use crate::body::Object;
use crate::conversation::{Conversation, End, Form, Step};
use crate::error::Result;
use crate::openapi::{ChatBody, ErrorObject};
use crate::sampling::UsageChunks;
use crate::states::Owner;
use crate::stream::{self, Events, Source};

#[derive(Serialize, ToSchema)]
#[schema(as = ChatChoice)]
struct Choice {
    index: usize,
    message: Message,
    logprobs: Option<Logprobs>,
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChatLogprobs)]
struct Logprobs {
    content: Vec<ChatToken>,
    refusal: Option<()>,
}

impl Logprobs {
    fn new(content: Vec<ChatToken>) -> Logprobs {
        Logprobs { content, refusal: None }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChatMessage)]
struct Message {
    role: &'static str,
    /// Null where there are calls and no text.
    content: Option<String>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call>,
}

impl Delta {
    fn is_empty(&self) -> bool {
        self.role.is_none() && self.content.is_none() && self.reasoning_content.is_none() && self.tool_calls.is_empty()
    }
}

/// A call, or a part of one in a stream.
#[derive(Serialize, ToSchema)]
#[schema(as = ChatCall)]
struct Call {
    /// In streams; clients merge the parts of a call by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: Function,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChatFunction)]
struct Function {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// JSON text, never an object.
    arguments: String,
}

/// A choice in progress.
struct Progress {
    has_role: bool,
    /// Log probabilities of tokens whose text is held back.
    logprobs: Vec<ChatToken>,
    /// Tokens that have not been told, if the request wants them.
    token_ids: Option<Vec<u32>>,
}

/// Answers a chat.
#[utoipa::path(post, path = "/v1/chat/completions", request_body = ChatBody, responses(
    (status = 200, description = "The answer, or with `stream` its chunks as server-sent events", content(
        (AnswerObject<'static, Choice> = "application/json"),
        (String = "text/event-stream"),
    )),
    (status = "4XX", body = ErrorObject),
    (status = "5XX", body = ErrorObject),
))]
pub(crate) async fn chat(
    Extract(app): Extract<State>,
    Extension(label): Extension<RequestLabel>,
    Extension(owner): Extension<Owner>,
    body: Object,
) -> Result<Response> {
    let conversation = Conversation::start(&app, label, owner, body).await?;
    let Form { streams, usage, has_token_ids } = conversation.form;
    let object = if streams { "chat.completion.chunk" } else { "chat.completion" };
    let head = Head::new(&app, object, "chatcmpl", conversation.model.clone()).with_seed(conversation.seed);
    let progress = || Progress { has_role: false, logprobs: Vec::new(), token_ids: has_token_ids.then(Vec::new) };
    let choices = (0..conversation.n_choices()).map(|_| progress()).collect();
    let mut run = Run { head, conversation, choices, usage };
    if streams { Ok(stream::respond(run)) } else { run.collect().await }
}

/// The answers of a request.
struct Run {
    head: Head,
    conversation: Conversation,
    choices: Vec<Progress>,
    usage: UsageChunks,
}

impl Run {
    /// The next step, with its token noted.
    async fn next(&mut self) -> Result<Option<Step>> {
        let Some(step) = self.conversation.next().await? else { return Ok(None) };
        let progress = &mut self.choices[step.choice];
        if let Some(token) = step.token.as_ref().filter(|token| token.logprob.is_some()) {
            progress.logprobs.extend(ChatToken::new(self.head.app.model.tokenizer()?, token));
        }
        if let (Some(ids), Some(token)) = (&mut progress.token_ids, &step.token) {
            ids.push(token.token);
        }
        Ok(Some(step))
    }

    async fn collect(&mut self) -> Result<Response> {
        let mut found: Vec<(Answer, &'static str)> = self.choices.iter().map(|_| (Answer::default(), "stop")).collect();
        while let Some(step) = self.next().await? {
            let (answer, reason) = &mut found[step.choice];
            step.parts.iter().for_each(|(_, part)| answer.add(part));
            if let Some(end) = step.end {
                *reason = finish_reason(end);
            }
        }
        let choices = found.into_iter().enumerate().map(|(index, (answer, finish_reason))| {
            let call = |call: AnswerCall| Call {
                index: None,
                id: Some(call.id),
                kind: Some("function"),
                function: Function { name: Some(call.name), arguments: call.arguments },
            };
            let has_calls = !answer.calls.is_empty();
            let logprobs = std::mem::take(&mut self.choices[index].logprobs);
            let content = answer.content.or((!has_calls).then(String::new));
            let message = Message {
                role: "assistant",
                content,
                refusal: None,
                reasoning_content: answer.reasoning,
                tool_calls: answer.calls.into_iter().map(call).collect(),
            };
            let logprobs = (!logprobs.is_empty()).then(|| Logprobs::new(logprobs));
            let token_ids = self.choices[index].token_ids.take();
            Choice { index, message, logprobs, finish_reason, token_ids }
        });
        let choices: Vec<Choice> = choices.collect();
        let usage = Some(self.conversation.answers.total().into());
        Ok(Json(self.head.object(choices, usage)).into_response())
    }

    fn chunk(
        &mut self,
        events: &mut Events,
        index: usize,
        delta: Delta,
        finish_reason: Option<&'static str>,
    ) -> Result<()> {
        let logprobs = std::mem::take(&mut self.choices[index].logprobs);
        let logprobs = (!logprobs.is_empty()).then(|| Logprobs::new(logprobs));
        let usage = self.usage.always.then(|| self.conversation.answers.total().into());
        let token_ids = self.choices[index].token_ids.as_mut().map(std::mem::take);
        let choice = ChunkChoice { index, delta, logprobs, finish_reason, token_ids };
        events.push(&self.head.object(vec![choice], usage))
    }
}

/// The part of a message that an event adds.
fn delta(event: AnswerEvent, call: usize) -> Delta {
    let of_call = |id, kind, name, arguments| Delta {
        tool_calls: vec![Call { index: Some(call), id, kind, function: Function { name, arguments } }],
        ..Delta::default()
    };
    match event {
        AnswerEvent::Content(text) => Delta { content: Some(text), ..Delta::default() },
        AnswerEvent::Reasoning(text) => Delta { reasoning_content: Some(text), ..Delta::default() },
        AnswerEvent::CallStarted { id, name, .. } => of_call(Some(id), Some("function"), Some(name), String::new()),
        AnswerEvent::Arguments(text) => of_call(None, None, None, text),
        AnswerEvent::CallEnded => Delta::default(),
    }
}

impl Source for Run {
    async fn more(&mut self, events: &mut Events) -> Result<bool> {
        let Some(step) = self.next().await? else {
            if self.usage.at_end {
                self.usage.at_end = false;
                events.push(&self.head.usage(self.conversation.answers.total()))?;
            }
            return Ok(false);
        };
        let choice = step.choice;
        if !self.choices[choice].has_role {
            self.choices[choice].has_role = true;
            let logprobs = std::mem::take(&mut self.choices[choice].logprobs);
            // The first chunk has the role, and nothing that a client could mistake for the end of the answer.
            let delta = Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
            self.chunk(events, choice, delta, None)?;
            self.choices[choice].logprobs = logprobs;
        }
        for (call, part) in step.parts {
            let delta = delta(part, call);
            if !delta.is_empty() {
                self.chunk(events, choice, delta, None)?;
            }
        }
        if let Some(end) = step.end {
            self.chunk(events, choice, Delta::default(), Some(finish_reason(end)))?;
        } else if !self.choices[choice].logprobs.is_empty() && step.token.is_some() {
            // Logarithms of tokens without text of their own.
            self.chunk(events, choice, Delta { content: Some(String::new()), ..Delta::default() }, None)?;
        }
        Ok(true)
    }
}

/// `finish_reason` of an answer.
fn finish_reason(end: End) -> &'static str {
    match end {
        End::Answered | End::Stopped => "stop",
        End::Cut => "length",
        End::Calls => "tool_calls",
    }
}
