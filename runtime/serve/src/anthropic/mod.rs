//! Anthropic's API: `/v1/messages` and `/v1/messages/count_tokens`. Requests become chats of OpenAI's API; answers and errors take
//! Anthropic's form.

mod request;

use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use jamba_runtime::{Answer, AnswerEvent};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

pub(crate) use request::Body;

use crate::answer::Total;
use crate::app::{RequestLabel, State, random_id};
use crate::body::Object;
use crate::conversation::{Conversation, End, read_chat};
use crate::error::{self, ApiError};
use crate::openapi::MessagesRequest;
use crate::states::Owner;
use crate::stream::{self, Events, Source};

/// An error in Anthropic's form: `{"type": "error", "error": {"type", "message"}}`.
pub(crate) struct Failed(ApiError);

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Failed {
        Failed(error)
    }
}

/// An error as it is sent.
#[derive(Serialize, ToSchema)]
#[schema(as = MessagesError)]
pub(crate) struct ErrorObject<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: ErrorBody<'a>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = MessagesErrorBody)]
struct ErrorBody<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'a str,
}

fn error_object(error: &ApiError) -> ErrorObject<'_> {
    let kind = match error.status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    };
    ErrorObject { kind: "error", error: ErrorBody { kind, message: error.message() } }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let (status, headers) = self.0.head();
        (status, headers, Json(error_object(&self.0))).into_response()
    }
}

/// `usage` of an answer.
#[derive(Serialize)]
struct UsageObject {
    /// Prompt tokens that were read.
    input_tokens: usize,
    cache_creation_input_tokens: usize,
    cache_read_input_tokens: usize,
    output_tokens: usize,
}

impl From<Total> for UsageObject {
    fn from(Total { prompt_tokens, cached_tokens, new_tokens }: Total) -> UsageObject {
        UsageObject {
            input_tokens: prompt_tokens - cached_tokens,
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: cached_tokens,
            output_tokens: new_tokens,
        }
    }
}

fn stop_reason(end: End) -> &'static str {
    match end {
        End::Answered => "end_turn",
        End::Stopped => "stop_sequence",
        End::Cut => "max_tokens",
        End::Calls => "tool_use",
    }
}

type Result<T> = std::result::Result<T, Failed>;

/// The body as one of OpenAI's.
fn chat_body(body: std::result::Result<Object, ApiError>) -> Result<Object> {
    let body = body?;
    let chat = request::to_chat(body.value())?;
    Ok(body.replaced(chat))
}

/// Answers a chat.
#[utoipa::path(post, path = "/v1/messages", request_body = MessagesRequest, responses(
    (status = 200, description = "The message, or with `stream` its events as server-sent events", content(
        (Object = "application/json"),
        (String = "text/event-stream"),
    )),
    (status = "4XX", body = ErrorObject),
    (status = "5XX", body = ErrorObject),
))]
pub(crate) async fn messages(
    Extract(app): Extract<State>,
    Extension(label): Extension<RequestLabel>,
    Extension(owner): Extension<Owner>,
    body: std::result::Result<Object, ApiError>,
) -> Result<Response> {
    let body = chat_body(body)?;
    let conversation = Conversation::start(&app, label, owner, body).await?;
    let mut run = Run { id: format!("msg_{}", random_id()), conversation, n_blocks: 0, open: None, is_started: false };
    if run.conversation.form.streams { Ok(stream::respond(run)) } else { run.collect().await }
}

/// Counts the tokens of a chat.
#[utoipa::path(post, path = "/v1/messages/count_tokens", request_body = MessagesRequest, responses(
    (status = 200, body = Object),
    (status = "4XX", body = ErrorObject),
    (status = "5XX", body = ErrorObject),
))]
pub(crate) async fn count_tokens(
    Extract(app): Extract<State>,
    body: std::result::Result<Object, ApiError>,
) -> Result<Json<Value>> {
    let prompt = app.encode_chat(read_chat(chat_body(body)?.value(), true)?).await?;
    Ok(Json(json!({ "input_tokens": prompt.tokens.len() })))
}

/// A kind of block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Thinking,
    ToolUse,
}

/// The answer of a request.
struct Run {
    id: String,
    conversation: Conversation,
    /// Blocks that have ended.
    n_blocks: usize,
    /// The block in progress.
    open: Option<Kind>,
    is_started: bool,
}

impl Run {
    /// The message without content.
    fn message(&self, content: &[Value], end: Option<End>) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.conversation.model,
            "content": content,
            "stop_reason": end.map(stop_reason),
            "stop_sequence": null,
            "usage": UsageObject::from(self.conversation.answers.total()),
        })
    }

    async fn collect(&mut self) -> Result<Response> {
        let (mut answer, mut end) = (Answer::default(), None);
        while let Some(step) = self.conversation.next().await? {
            step.parts.iter().for_each(|(_, part)| answer.add(part));
            end = step.end.or(end);
        }
        let mut content = Vec::new();
        if let Some(thinking) = answer.reasoning {
            content.push(json!({ "type": "thinking", "thinking": thinking, "signature": "" }));
        }
        if let Some(text) = answer.content.filter(|text| !text.is_empty() || answer.calls.is_empty()) {
            content.push(json!({ "type": "text", "text": text }));
        }
        for call in answer.calls {
            // What the model wrote may be no JSON; its text then is the only argument.
            let input = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({ "text": call.arguments }));
            content.push(json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": input }));
        }
        Ok(Json(self.message(&content, end)).into_response())
    }

    /// Begins a block, unless one of its kind is open.
    fn begin(&mut self, events: &mut Events, kind: Kind, block: &Value) -> error::Result<()> {
        if self.open == Some(kind) && kind != Kind::ToolUse {
            return Ok(());
        }
        self.end_block(events)?;
        self.open = Some(kind);
        let start = json!({ "type": "content_block_start", "index": self.n_blocks, "content_block": block });
        events.push_named("content_block_start", &start)
    }

    fn delta(&self, events: &mut Events, delta: &Value) -> error::Result<()> {
        let delta = json!({ "type": "content_block_delta", "index": self.n_blocks, "delta": delta });
        events.push_named("content_block_delta", &delta)
    }

    fn end_block(&mut self, events: &mut Events) -> error::Result<()> {
        if self.open.take().is_some() {
            let stop = json!({ "type": "content_block_stop", "index": self.n_blocks });
            events.push_named("content_block_stop", &stop)?;
            self.n_blocks += 1;
        }
        Ok(())
    }

    fn add(&mut self, events: &mut Events, part: AnswerEvent) -> error::Result<()> {
        match part {
            AnswerEvent::Content(text) => {
                self.begin(events, Kind::Text, &json!({ "type": "text", "text": "" }))?;
                self.delta(events, &json!({ "type": "text_delta", "text": text }))
            }
            AnswerEvent::Reasoning(text) => {
                let block = json!({ "type": "thinking", "thinking": "", "signature": "" });
                self.begin(events, Kind::Thinking, &block)?;
                self.delta(events, &json!({ "type": "thinking_delta", "thinking": text }))
            }
            AnswerEvent::CallStarted { id, name, .. } => {
                let block = json!({ "type": "tool_use", "id": id, "name": name, "input": {} });
                self.begin(events, Kind::ToolUse, &block)
            }
            AnswerEvent::Arguments(text) => {
                self.delta(events, &json!({ "type": "input_json_delta", "partial_json": text }))
            }
            AnswerEvent::CallEnded => self.end_block(events),
        }
    }
}

impl Source for Run {
    const LAST: Option<&'static str> = None;

    fn error(&mut self, error: &ApiError) -> (Option<&'static str>, String) {
        (Some("error"), serde_json::to_string(&error_object(error)).unwrap_or_default())
    }

    async fn more(&mut self, events: &mut Events) -> error::Result<bool> {
        let Some(step) = self.conversation.next().await? else { return Ok(false) };
        if !self.is_started {
            self.is_started = true;
            let start = json!({ "type": "message_start", "message": self.message(&[], None) });
            events.push_named("message_start", &start)?;
        }
        for (_, part) in step.parts {
            self.add(events, part)?;
        }
        if let Some(end) = step.end {
            if self.n_blocks == 0 && self.open.is_none() {
                self.begin(events, Kind::Text, &json!({ "type": "text", "text": "" }))?;
            }
            self.end_block(events)?;
            let delta = json!({
                "type": "message_delta",
                "delta": { "stop_reason": stop_reason(end), "stop_sequence": null },
                "usage": UsageObject::from(self.conversation.answers.total()),
            });
            events.push_named("message_delta", &delta)?;
            events.push_named("message_stop", &json!({ "type": "message_stop" }))?;
        }
        Ok(true)
    }
}
