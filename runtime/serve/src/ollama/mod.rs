//! Ollama's API: `/api/chat`, `/api/generate`, and what its clients ask of the model. Requests become chats of OpenAI's API; answers
//! are objects, one a line, and errors a text.

mod model;
mod request;

use std::time::Instant;

use axum::extract::State as Extract;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use jamba_runtime::{Answer, AnswerCall, AnswerEvent};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

pub(crate) use model::*;
pub(crate) use request::{ChatFields, GenerateFields, Message};

use self::request::{Asked, Work};
use crate::app::{App, RequestLabel, State};
use crate::body::Object;
use crate::conversation::{Conversation, End};
use crate::error::{self, ApiError};
use crate::states::Owner;
use crate::stream::{self, Events, Source};

/// An error in Ollama's form.
#[derive(Serialize, ToSchema)]
#[schema(as = OllamaError)]
pub(crate) struct ErrorText {
    error: String,
}

/// The reason why a request failed.
pub(crate) struct Failed(ApiError);

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Failed {
        Failed(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let (status, headers) = self.0.head();
        (status, headers, Json(ErrorText { error: self.0.message().to_owned() })).into_response()
    }
}

type Result<T> = std::result::Result<T, Failed>;

/// Answers a chat.
#[utoipa::path(post, path = "/api/chat", request_body = ChatFields, responses(
    (status = 200, description = "The parts of the answer, one a line; without `stream` one object", content(
        (Object = "application/json"),
        (String = "application/x-ndjson"),
    )),
    (status = "4XX", body = ErrorText),
    (status = "5XX", body = ErrorText),
))]
pub(crate) async fn chat(
    Extract(app): Extract<State>,
    Extension(label): Extension<RequestLabel>,
    Extension(owner): Extension<Owner>,
    body: std::result::Result<Object, ApiError>,
) -> Result<Response> {
    let body = body?;
    let asked = request::chat(body.value())?;
    answer(&app, (label, owner), body, asked, Form::Chat).await
}

/// Answers a prompt.
#[utoipa::path(post, path = "/api/generate", request_body = GenerateFields, responses(
    (status = 200, description = "The parts of the answer, one a line; without `stream` one object", content(
        (Object = "application/json"),
        (String = "application/x-ndjson"),
    )),
    (status = "4XX", body = ErrorText),
    (status = "5XX", body = ErrorText),
))]
pub(crate) async fn generate(
    Extract(app): Extract<State>,
    Extension(label): Extension<RequestLabel>,
    Extension(owner): Extension<Owner>,
    body: std::result::Result<Object, ApiError>,
) -> Result<Response> {
    let body = body?;
    let asked = request::generate(body.value(), app.model.template().is_ok())?;
    answer(&app, (label, owner), body, asked, Form::Generate).await
}

pub(crate) async fn not_found(uri: Uri) -> Failed {
    let message =
        format!("there is no /api{uri}: of Ollama's API, this server has chat, generate, tags, ps, show and version");
    Failed(ApiError::not_found("not_found", message))
}

async fn answer(
    app: &State,
    (label, owner): (RequestLabel, Owner),
    body: Object,
    asked: Asked,
    form: Form,
) -> Result<Response> {
    let Asked { model, work, shows_thinking } = asked;
    let known = known_name(app, model.as_deref())?;
    let model = model.unwrap_or_else(|| known.clone());
    let began = Instant::now();
    let named = |mut body: Value| {
        body["model"] = known.clone().into();
        body
    };
    let conversation = match work {
        Work::Load { ends } => {
            let reason = if ends { "unload" } else { "load" };
            let mut object = form.object(&model, &Answer::default());
            object["done"] = true.into();
            object["done_reason"] = reason.into();
            return Ok(Json(object).into_response());
        }
        Work::Chat(chat) => Conversation::start(app, label, owner, body.replaced(named(chat))).await?,
        Work::Text(text, fields) => Conversation::start_text(app, label, body.replaced(named(fields)), text).await?,
    };
    let mut run = Run { conversation, form, model, shows_thinking, began, call: None };
    if run.conversation.form.streams { Ok(stream::respond_lines(run)) } else { run.collect().await }
}

/// The name of the model, if a request may use this one. Ollama's clients add a version.
fn known_name(app: &App, name: Option<&str>) -> error::Result<String> {
    match (app.model.check_name(name), name.and_then(|name| name.strip_suffix(":latest"))) {
        (Err(error), Some(name)) => app.model.check_name(Some(name)).map_err(|_| error),
        (known, _) => known,
    }
}

/// The form of an answer.
#[derive(Clone, Copy)]
enum Form {
    Chat,
    Generate,
}

impl Form {
    /// An object with a part of an answer.
    fn object(self, model: &str, Answer { content, reasoning, calls, .. }: &Answer) -> Value {
        let mut object = json!({ "model": model, "created_at": model::now() });
        let text = content.as_deref().unwrap_or_default();
        let (name, place) = match self {
            Form::Chat => {
                object["message"] = json!({ "role": "assistant" });
                ("content", &mut object["message"])
            }
            Form::Generate => ("response", &mut object),
        };
        place[name] = text.into();
        if let Some(reasoning) = reasoning {
            place["thinking"] = reasoning.as_str().into();
        }
        if !calls.is_empty() {
            place["tool_calls"] = calls.iter().map(call).collect();
        }
        object["done"] = false.into();
        object
    }
}

fn call(AnswerCall { id, name, arguments }: &AnswerCall) -> Value {
    // What the model wrote may be no object; its text then is the only argument.
    let object = serde_json::from_str(arguments).ok().filter(Value::is_object);
    let arguments = object.unwrap_or_else(|| json!({ "text": arguments }));
    json!({ "id": id, "function": { "name": name, "arguments": arguments } })
}

/// The answer to a request.
struct Run {
    conversation: Conversation,
    form: Form,
    model: String,
    shows_thinking: bool,
    began: Instant,
    /// The call in progress.
    call: Option<AnswerCall>,
}

impl Run {
    /// The last object.
    fn last(&self, answer: &Answer, end: End) -> Value {
        let mut object = self.form.object(&self.model, answer);
        let usage = self.conversation.answers.usage(0);
        let nanoseconds = |time: std::time::Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let fields = json!({
            "done": true,
            "done_reason": if end == End::Cut { "length" } else { "stop" },
            "total_duration": nanoseconds(self.began.elapsed()),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": nanoseconds(usage.prefill),
            "eval_count": usage.new_tokens,
            "eval_duration": nanoseconds(usage.decode),
        });
        for (name, value) in fields.as_object().into_iter().flatten() {
            object[name] = value.clone();
        }
        object
    }

    async fn collect(&mut self) -> Result<Response> {
        let (mut answer, mut end) = (Answer::default(), End::Answered);
        while let Some(step) = self.conversation.next().await? {
            step.parts.iter().for_each(|(_, part)| answer.add(part));
            end = step.end.unwrap_or(end);
        }
        answer.reasoning = answer.reasoning.filter(|_| self.shows_thinking);
        Ok(Json(self.last(&answer, end)).into_response())
    }

    /// What an event adds to the answer. A call is told when it is whole.
    fn add(&mut self, part: AnswerEvent) -> Option<Answer> {
        let mut answer = Answer::default();
        match part {
            AnswerEvent::Reasoning(_) if !self.shows_thinking => return None,
            AnswerEvent::Content(_) | AnswerEvent::Reasoning(_) => answer.add(&part),
            AnswerEvent::CallStarted { id, name, .. } => {
                self.call = Some(AnswerCall { id, name, arguments: String::new() });
                return None;
            }
            AnswerEvent::Arguments(text) => {
                if let Some(call) = &mut self.call {
                    call.arguments += &text;
                }
                return None;
            }
            AnswerEvent::CallEnded => answer.calls.extend(self.call.take()),
        }
        Some(answer)
    }
}

impl Source for Run {
    const LAST: Option<&'static str> = None;

    fn error(&mut self, error: &ApiError) -> (Option<&'static str>, String) {
        (None, json!({ "error": error.message() }).to_string())
    }

    async fn more(&mut self, events: &mut Events) -> error::Result<bool> {
        let Some(step) = self.conversation.next().await? else { return Ok(false) };
        for (_, part) in step.parts {
            if let Some(answer) = self.add(part) {
                events.push(&self.form.object(&self.model, &answer))?;
            }
        }
        if let Some(end) = step.end {
            let mut answer = Answer::default();
            answer.calls.extend(self.call.take());
            events.push(&self.last(&answer, end))?;
        }
        Ok(true)
    }
}
