//! Named states: `/v1/states`. A client reads a long beginning once, names it, and lets requests go on from it.

mod store;

use axum::extract::{Path, State as Extract};
use axum::{Extension, Json};
use jamba_runtime::{AddedTokens, Snapshot};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

pub(crate) use store::{Owner, Store};

use self::store::Kept;
use crate::answer::Job;
use crate::app::{App, RequestLabel, State};
use crate::body::Object;
use crate::conversation::read_chat;
use crate::error::{ApiError, Result};
use crate::openai::UsageObject;
use crate::openapi::ErrorObject;
use crate::sampling::Sampling;

/// The body of `POST /v1/states`, besides the fields of a chat.
#[derive(Deserialize, ToSchema)]
#[schema(as = StateBody)]
pub(crate) struct Fields {
    /// Up to 128 bytes without control characters.
    #[schema(value_type = String)]
    name: Option<String>,
    prompt: Option<Prompt>,
    /// A chat, in place of a prompt.
    #[schema(value_type = Option<Vec<Object>>)]
    messages: Option<Value>,
    add_generation_prompt: Option<bool>,
    add_special_tokens: Option<bool>,
    /// A named state: the prompt follows it, or the chat begins with it.
    state: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = StatePrompt)]
enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

/// A state as the API shows it.
#[derive(Serialize, ToSchema)]
pub(crate) struct StateObject {
    object: &'static str,
    name: String,
    /// Seconds since 1970.
    created: u64,
    tokens: usize,
    bytes: u64,
    /// What reading it took, when it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageObject>,
}

/// All states of a client.
#[derive(Serialize, ToSchema)]
pub(crate) struct StateList {
    object: &'static str,
    data: Vec<StateObject>,
}

/// A state that is gone.
#[derive(Serialize, ToSchema)]
pub(crate) struct DeletedState {
    object: &'static str,
    name: String,
    deleted: bool,
}

fn object(name: String, kept: &Kept) -> StateObject {
    let &Kept { created, n_tokens: tokens, bytes, .. } = kept;
    StateObject { object: "state", name, created, tokens, bytes, usage: None }
}

/// Reads a prompt or a chat and keeps its state under a name, in place of one that had it.
#[utoipa::path(post, path = "/v1/states", request_body = Fields, responses(
    (status = 200, body = StateObject),
    (status = "4XX", body = ErrorObject),
    (status = "5XX", body = ErrorObject),
))]
pub(crate) async fn create(
    Extract(app): Extract<State>,
    Extension(label): Extension<RequestLabel>,
    Extension(owner): Extension<Owner>,
    body: Object,
) -> Result<Json<StateObject>> {
    let sampling: Sampling = body.read()?;
    let fields: Fields = body.read()?;
    app.model.check_name(sampling.model.as_deref())?;
    let name = fields.name.ok_or_else(|| ApiError::field("name", "missing: a name for the state"))?;
    store::check_name(&name)?;
    let permit = app.admit(1)?;
    let state = app.state(owner, fields.state.as_deref()).await?;
    let begin = state.as_ref().map(tokens).unwrap_or_default();
    let (prompt, turn_ends) = match (fields.prompt, fields.messages) {
        (Some(Prompt::Text(text)), None) => {
            let adds = state.is_none() && fields.add_special_tokens != Some(false);
            let added = if adds { AddedTokens::AsConfigured } else { AddedTokens::None };
            ([begin, app.encode(text, added).await?].concat(), Vec::new())
        }
        (Some(Prompt::Tokens(more)), None) => ([begin, more].concat(), Vec::new()),
        (None, Some(_)) => {
            let mut chat = read_chat(body.value(), true)?;
            // Longer chats do not begin with the beginning of an answer.
            chat.add_generation_prompt = fields.add_generation_prompt == Some(true);
            let chat = app.encode_chat(chat).await?;
            check_begin(state.as_ref(), &chat.tokens)?;
            (chat.tokens, chat.turn_ends)
        }
        _ => return Err(ApiError::invalid("expected prompt (a text or tokens), or messages (a chat)")),
    };
    let Some(&last) = prompt.last() else {
        return Err(ApiError::field("prompt", "found no tokens, expected at least one"));
    };
    app.states.check_room(owner, &name, prompt.len() as u64)?;
    let mut options = sampling.options(&app.model)?;
    (options.max_new, options.constraint) = (0, None);
    let priority = sampling.priority.unwrap_or(0);
    let job = Job { turn_ends, priority, state, keeps_state: true, ..Job::new(prompt, options, 1) };
    let mut answers = app.start(label, vec![job], permit).await?;
    let mut read = None;
    while let Some(event) = answers.next().await? {
        read = event.state.or(read);
    }
    let read = read.ok_or_else(|| ApiError::internal("the prompt was read, but its state is missing"))?;
    let kept = app.keep(owner, name.clone(), read.with_next(&[last])).await?;
    Ok(Json(StateObject { usage: Some(answers.total().into()), ..object(name, &kept) }))
}

/// The states, by name.
#[utoipa::path(get, path = "/v1/states", responses((status = 200, body = StateList)))]
pub(crate) async fn list(Extract(app): Extract<State>, Extension(owner): Extension<Owner>) -> Json<StateList> {
    let data = app.states.list(owner).into_iter().map(|(name, kept)| object(name, &kept)).collect();
    Json(StateList { object: "list", data })
}

/// What is known of a state.
#[utoipa::path(get, path = "/v1/states/{name}", params(("name" = String, Path)), responses(
    (status = 200, body = StateObject),
    (status = "4XX", body = ErrorObject),
))]
pub(crate) async fn one(
    Extract(app): Extract<State>,
    Extension(owner): Extension<Owner>,
    Path(name): Path<String>,
) -> Result<Json<StateObject>> {
    let kept = app.states.get(owner, &name)?;
    Ok(Json(object(name, &kept)))
}

/// Deletes a state. Requests that go on from it are not affected.
#[utoipa::path(delete, path = "/v1/states/{name}", params(("name" = String, Path)), responses(
    (status = 200, body = DeletedState),
    (status = "4XX", body = ErrorObject),
    (status = "5XX", body = ErrorObject),
))]
pub(crate) async fn delete(
    Extract(app): Extract<State>,
    Extension(owner): Extension<Owner>,
    Path(name): Path<String>,
) -> Result<Json<DeletedState>> {
    app.forget(owner, name.clone()).await?;
    Ok(Json(DeletedState { object: "state", name, deleted: true }))
}

impl App {
    /// The state that a request names in `state`.
    pub(crate) async fn state(&self, owner: Owner, name: Option<&str>) -> Result<Option<Snapshot>> {
        match name {
            Some(name) => self.load(owner, name).await.map(Some).map_err(|error| error.at("state")),
            None => Ok(None),
        }
    }
}

/// Refuses the prompt of a chat that does not begin with the state.
pub(crate) fn check_begin(state: Option<&Snapshot>, prompt: &[u32]) -> Result<()> {
    match state {
        Some(state) if !prompt.starts_with(state.tokens()) || prompt.len() == state.tokens().len() => {
            Err(ApiError::field("state", "the chat does not begin with it: expected its messages, and further ones"))
        }
        _ => Ok(()),
    }
}

/// The tokens of a state and those that it reads next.
pub(crate) fn tokens(state: &Snapshot) -> Vec<u32> {
    [state.tokens(), state.next()].concat()
}
