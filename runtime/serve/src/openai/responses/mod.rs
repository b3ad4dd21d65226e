//! The Responses API: `/v1/responses`. Requests become chats; an answer is a list of items.

mod kept;
mod request;

use axum::extract::{Path, State as Extract};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use jamba_runtime::AnswerEvent;
use serde_json::{Map, Value, json};

pub(crate) use kept::Responses;
pub(crate) use request::Fields;

use crate::answer::Total;
use crate::app::{App, RequestLabel, State, random_id, unix_seconds};
use crate::body::Object;
use crate::conversation::{Conversation, End};
use crate::error::{ApiError, Result};
use crate::openapi::{ErrorObject, ResponseBody};
use crate::states::Owner;
use crate::stream::{self, Events, Source};

/// Answers a text or a list of items.
#[utoipa::path(post, path = "/v1/responses", request_body = ResponseBody, responses(
    (status = 200, description = "The response, or with `stream` its events as server-sent events", content(
        (Object = "application/json"),
        (String = "text/event-stream"),
    )),
    (status = "4XX", body = ErrorObject),
    (status = "5XX", body = ErrorObject),
))]
pub(crate) async fn create(
    Extract(app): Extract<State>,
    Extension(label): Extension<RequestLabel>,
    Extension(owner): Extension<Owner>,
    body: Object,
) -> Result<Response> {
    let earlier = match request::previous(body.value()) {
        Some(id) => app.responses.messages(owner, id)?,
        None => Vec::new(),
    };
    let request::Asked { chat, messages, mut repeated } = request::read(body.value(), earlier)?;
    repeated.extend(sampling(&app, &chat));
    let conversation = Conversation::start(&app, label, owner, body.replaced(chat)).await?;
    let mut run = Run {
        app,
        conversation,
        id: format!("resp_{}", random_id()),
        created: unix_seconds(),
        repeated,
        keeps: messages.map(|messages| (owner, messages)),
        items: Vec::new(),
        is_open: false,
        n_reasoning: 0,
        end: None,
        n_events: 0,
    };
    if run.conversation.form.streams {
        return Ok(stream::respond(run));
    }
    while run.more(&mut Events::default()).await? {}
    Ok(Json(run.response()).into_response())
}

/// A response that the server has kept.
#[utoipa::path(get, path = "/v1/responses/{id}", params(("id" = String, Path)), responses(
    (status = 200, body = Object),
    (status = "4XX", body = ErrorObject),
))]
pub(crate) async fn one(
    Extract(app): Extract<State>,
    Extension(owner): Extension<Owner>,
    Path(id): Path<String>,
) -> Result<Json<Value>> {
    app.responses.get(owner, &id).map(Json)
}

/// Forgets a response.
#[utoipa::path(delete, path = "/v1/responses/{id}", params(("id" = String, Path)), responses(
    (status = 200, body = Object),
    (status = "4XX", body = ErrorObject),
))]
pub(crate) async fn delete(
    Extract(app): Extract<State>,
    Extension(owner): Extension<Owner>,
    Path(id): Path<String>,
) -> Result<Json<Value>> {
    app.responses.remove(owner, &id)?;
    Ok(Json(json!({ "id": id, "object": "response", "deleted": true })))
}

/// The temperature and the nucleus of a request, or the model's.
fn sampling(app: &App, chat: &Value) -> Map<String, Value> {
    let sampler = &app.model.defaults.sampler;
    let defaults = [("temperature", sampler.temperature), ("top_p", sampler.top_p)];
    // The digits of the f32, not those of the f64 that is nearest to it.
    let number = |x: f32| Value::from(x.to_string().parse::<f64>().unwrap_or_default());
    let value = |(name, default): (&str, f32)| match &chat[name] {
        Value::Null => (name.to_owned(), number(default)),
        value => (name.to_owned(), value.clone()),
    };
    defaults.into_iter().map(value).collect()
}

fn usage(Total { prompt_tokens, cached_tokens, new_tokens }: Total, reasoning_tokens: usize) -> Value {
    json!({
        "input_tokens": prompt_tokens,
        "input_tokens_details": { "cached_tokens": cached_tokens },
        "output_tokens": new_tokens,
        "output_tokens_details": { "reasoning_tokens": reasoning_tokens },
        "total_tokens": prompt_tokens + new_tokens,
    })
}

/// A part of an answer.
struct Item {
    id: String,
    kind: Kind,
    /// The text, or the arguments of a call.
    text: String,
}

#[derive(PartialEq, Eq)]
enum Kind {
    Message,
    Reasoning,
    Call { id: String, name: String },
}

impl Item {
    /// The text as a part of the item's content. Calls have none.
    fn part(&self) -> Option<Value> {
        match self.kind {
            Kind::Message => {
                Some(json!({ "type": "output_text", "text": self.text, "annotations": [], "logprobs": [] }))
            }
            Kind::Reasoning => Some(json!({ "type": "reasoning_text", "text": self.text })),
            Kind::Call { .. } => None,
        }
    }

    fn object(&self, status: &str) -> Value {
        // An item without text has no part yet.
        let content: Vec<Value> = self.part().into_iter().filter(|_| status != "in_progress").collect();
        let id = &self.id;
        match &self.kind {
            Kind::Message => {
                json!({ "id": id, "type": "message", "role": "assistant", "status": status, "content": content })
            }
            Kind::Reasoning => {
                json!({ "id": id, "type": "reasoning", "status": status, "summary": [], "content": content })
            }
            Kind::Call { id: call_id, name } => json!({
                "id": id, "type": "function_call", "status": status, "call_id": call_id, "name": name,
                "arguments": self.text,
            }),
        }
    }
}

/// The answer to a request.
struct Run {
    app: State,
    conversation: Conversation,
    id: String,
    created: u64,
    repeated: Map<String, Value>,
    /// Whose response is kept, and after which messages.
    keeps: Option<(Owner, Vec<Value>)>,
    items: Vec<Item>,
    /// The last item goes on.
    is_open: bool,
    /// New tokens of reasoning.
    n_reasoning: usize,
    end: Option<End>,
    n_events: usize,
}

impl Run {
    /// The status of the response and of its last item.
    fn status(&self) -> &'static str {
        match self.end {
            None => "in_progress",
            Some(End::Cut) => "incomplete",
            Some(_) => "completed",
        }
    }

    fn response(&self) -> Value {
        let Run { id, created, end, .. } = self;
        let item = |(index, item): (usize, &Item)| match index + 1 == self.items.len() {
            true => item.object(self.status()),
            false => item.object("completed"),
        };
        let output: Vec<Value> = self.items.iter().enumerate().map(item).collect();
        let mut response = json!({
            "id": id,
            "object": "response",
            "created_at": created,
            "completed_at": end.filter(|end| *end != End::Cut).map(|_| unix_seconds()),
            "status": self.status(),
            "error": null,
            "incomplete_details": end.filter(|end| *end == End::Cut).map(|_| json!({ "reason": "max_output_tokens" })),
            "model": self.conversation.model,
            "output": output,
            "usage": end.map(|_| usage(self.conversation.answers.total(), self.n_reasoning)),
            "seed": self.conversation.seed.map(|seed| seed as i64),
            "system_fingerprint": self.app.model.fingerprint,
        });
        for (name, value) in &self.repeated {
            response[name] = value.clone();
        }
        response
    }

    /// Adds an event with these fields.
    fn event(&mut self, events: &mut Events, name: &'static str, fields: Value) -> Result<()> {
        let mut event = json!({ "type": name, "sequence_number": self.n_events });
        self.n_events += 1;
        if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
            event.extend(fields);
        }
        events.push_named(name, &event)
    }

    /// Adds an event about the last item.
    fn item_event(&mut self, events: &mut Events, name: &'static str, fields: Value) -> Result<()> {
        let Some(item) = self.items.last() else { return Ok(()) };
        let mut all = json!({ "item_id": item.id, "output_index": self.items.len() - 1 });
        if item.part().is_some() {
            all["content_index"] = 0.into();
        }
        if let (Value::Object(all), Value::Object(fields)) = (&mut all, fields) {
            all.extend(fields);
        }
        self.event(events, name, all)
    }

    /// Begins an item, unless one of its kind is open.
    fn begin(&mut self, events: &mut Events, kind: Kind) -> Result<()> {
        if self.is_open && self.items.last().is_some_and(|item| item.kind == kind) {
            return Ok(());
        }
        self.end_item(events, "completed")?;
        let prefix = match kind {
            Kind::Message => "msg",
            Kind::Reasoning => "rs",
            Kind::Call { .. } => "fc",
        };
        let item = Item { id: format!("{prefix}_{}", random_id()), kind, text: String::new() };
        let (object, part) = (item.object("in_progress"), item.part());
        self.items.push(item);
        self.is_open = true;
        let index = self.items.len() - 1;
        self.event(events, "response.output_item.added", json!({ "output_index": index, "item": object }))?;
        match part {
            Some(part) => self.item_event(events, "response.content_part.added", json!({ "part": part })),
            None => Ok(()),
        }
    }

    /// Adds to the last item.
    fn add_text(&mut self, events: &mut Events, text: &str) -> Result<()> {
        let Some(item) = self.items.last_mut() else { return Ok(()) };
        item.text += text;
        let (name, fields) = match item.kind {
            Kind::Message => ("response.output_text.delta", json!({ "delta": text, "logprobs": [] })),
            Kind::Reasoning => ("response.reasoning_text.delta", json!({ "delta": text })),
            Kind::Call { .. } => ("response.function_call_arguments.delta", json!({ "delta": text })),
        };
        self.item_event(events, name, fields)
    }

    /// Ends the last item, if it is open.
    fn end_item(&mut self, events: &mut Events, status: &str) -> Result<()> {
        if !std::mem::take(&mut self.is_open) {
            return Ok(());
        }
        let Some(item) = self.items.last() else { return Ok(()) };
        let (name, fields) = match &item.kind {
            Kind::Message => ("response.output_text.done", json!({ "text": item.text, "logprobs": [] })),
            Kind::Reasoning => ("response.reasoning_text.done", json!({ "text": item.text })),
            Kind::Call { name, .. } => {
                ("response.function_call_arguments.done", json!({ "name": name, "arguments": item.text }))
            }
        };
        let (object, part, index) = (item.object(status), item.part(), self.items.len() - 1);
        self.item_event(events, name, fields)?;
        if let Some(part) = part {
            self.item_event(events, "response.content_part.done", json!({ "part": part }))?;
        }
        self.event(events, "response.output_item.done", json!({ "output_index": index, "item": object }))
    }

    fn add(&mut self, events: &mut Events, part: AnswerEvent) -> Result<()> {
        match part {
            AnswerEvent::Content(text) => {
                self.begin(events, Kind::Message)?;
                self.add_text(events, &text)
            }
            AnswerEvent::Reasoning(text) => {
                self.begin(events, Kind::Reasoning)?;
                self.add_text(events, &text)
            }
            AnswerEvent::CallStarted { id, name, .. } => self.begin(events, Kind::Call { id, name }),
            AnswerEvent::Arguments(text) => self.add_text(events, &text),
            AnswerEvent::CallEnded => self.end_item(events, "completed"),
        }
    }

    /// Ends the response, and keeps it if the request wants that.
    fn finish(&mut self, events: &mut Events, end: End) -> Result<()> {
        if self.items.is_empty() {
            self.begin(events, Kind::Message)?;
        }
        self.end = Some(end);
        self.end_item(events, self.status())?;
        let response = self.response();
        if let Some((owner, messages)) = self.keeps.take() {
            let messages = request::answered(messages, &response["output"])?;
            self.app.responses.keep(owner, &self.id, &messages, &response);
        }
        let name = if end == End::Cut { "response.incomplete" } else { "response.completed" };
        self.event(events, name, json!({ "response": response }))
    }
}

impl Source for Run {
    const LAST: Option<&'static str> = None;

    fn error(&mut self, error: &ApiError) -> (Option<&'static str>, String) {
        let ApiError { body, .. } = error;
        let mut event = json!({ "type": "error", "sequence_number": self.n_events });
        if let (Value::Object(event), Ok(Value::Object(fields))) = (&mut event, serde_json::to_value(body)) {
            event.extend(fields.into_iter().filter(|(name, _)| name != "type"));
        }
        (Some("error"), event.to_string())
    }

    async fn more(&mut self, events: &mut Events) -> Result<bool> {
        let Some(step) = self.conversation.next().await? else { return Ok(false) };
        if self.n_events == 0 {
            let response = self.response();
            self.event(events, "response.created", json!({ "response": response }))?;
            self.event(events, "response.in_progress", json!({ "response": response }))?;
        }
        for (_, part) in step.parts {
            self.add(events, part)?;
        }
        let reasons = self.is_open && self.items.last().is_some_and(|item| item.kind == Kind::Reasoning);
        self.n_reasoning += usize::from(reasons && step.token.is_some());
        if let Some(end) = step.end {
            self.finish(events, end)?;
        }
        Ok(true)
    }
}
