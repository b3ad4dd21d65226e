//! `/openapi.json`: the API as an OpenAPI 3.1 document, for clients that are generated from it and for fuzzers.
//!
//! Bodies are read in parts that several routes share; the types here put them together again.

use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi, ToSchema};

use crate::error::ErrorBody;
use crate::openai::{chat, completions, responses};
use crate::sampling::{OneOrMany, Sampling};
use crate::{anthropic, ollama};

/// A failed request.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorObject<'a> {
    pub(crate) error: &'a ErrorBody,
}

/// The body of `/v1/completions`.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "a schema")]
pub(crate) struct CompletionBody {
    #[serde(flatten)]
    sampling: Sampling,
    #[serde(flatten)]
    fields: completions::Fields,
}

/// The body of `/v1/chat/completions`.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "a schema")]
pub(crate) struct ChatBody {
    #[serde(flatten)]
    sampling: Sampling,
    #[serde(flatten)]
    fields: crate::conversation::Fields,
    #[serde(flatten)]
    chat: ChatFields,
}

/// The body of `/v1/responses`.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "a schema")]
pub(crate) struct ResponseBody {
    #[serde(flatten)]
    sampling: Sampling,
    #[serde(flatten)]
    fields: responses::Fields,
}

/// The body of `/v1/messages`.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "a schema")]
pub(crate) struct MessagesRequest {
    #[serde(flatten)]
    sampling: Sampling,
    #[serde(flatten)]
    fields: anthropic::Body,
}

/// `input` of a response.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "a schema")]
pub(crate) enum ResponseInput {
    Text(String),
    Items(Vec<ResponseItem>),
}

/// What was said, called, or found before.
#[derive(Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[expect(dead_code, reason = "a schema")]
pub(crate) enum ResponseItem {
    Message {
        role: ResponseRole,
        content: String,
    },
    FunctionCall {
        call_id: String,
        name: String,
        #[schema(example = "{}", pattern = r"^\{\}$")]
        arguments: String,
    },
    FunctionCallOutput {
        call_id: String,
        output: String,
    },
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ResponseRole {
    User,
    Assistant,
    System,
    Developer,
}

/// The messages of a chat, and what its template shows beside them.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "a schema")]
pub(crate) struct ChatFields {
    #[schema(min_items = 1)]
    messages: Vec<Message>,
    /// Texts that the template shows to the model.
    #[schema(value_type = Option<Vec<Object>>)]
    documents: Option<Vec<serde_json::Value>>,
    /// The answer goes on in the last message, which is the assistant's.
    continue_final_message: Option<bool>,
    /// Further variables of the template.
    #[schema(value_type = Option<Object>)]
    chat_template_kwargs: Option<serde_json::Value>,
}

/// A message in the form of OpenAI's clients.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "a schema")]
struct Message {
    role: Role,
    /// Null beside calls.
    content: Option<Content>,
    name: Option<String>,
    /// Calls by the model.
    tool_calls: Option<Vec<ToolCall>>,
    /// The call whose result this is.
    tool_call_id: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    Developer,
    User,
    Assistant,
    Tool,
}

#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "a schema")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "a schema")]
struct Part {
    #[serde(rename = "type")]
    kind: PartKind,
    text: String,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum PartKind {
    Text,
}

#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "a schema")]
struct ToolCall {
    id: Option<String>,
    function: CalledFunction,
}

#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "a schema")]
struct CalledFunction {
    name: String,
    /// A JSON text.
    #[schema(example = "{}", pattern = r"^\{\}$")]
    arguments: String,
}

/// The models of the server: one, under all its names.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelList {
    pub(crate) object: &'static str,
    pub(crate) data: Vec<ModelObject>,
}

/// The model under one of its names.
#[derive(Serialize, ToSchema)]
pub(crate) struct ModelObject {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    /// When the server opened it, in seconds since 1970.
    pub(crate) created: u64,
    pub(crate) owned_by: &'static str,
    pub(crate) root: String,
    /// Tokens of the context.
    pub(crate) max_model_len: usize,
}

struct Key;

impl Modify for Key {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        document.components.get_or_insert_default().add_security_scheme("key", scheme);
    }
}

#[derive(OpenApi)]
#[openapi(
    info(title = "jamba serve", description = "One Jamba model, with the APIs of OpenAI, Anthropic and Ollama. Unknown fields are ignored."),
    paths(
        chat::chat,
        completions::complete,
        responses::create,
        responses::one,
        responses::delete,
        anthropic::messages,
        anthropic::count_tokens,
        ollama::chat,
        ollama::generate,
        ollama::tags,
        ollama::ps,
        ollama::show,
        ollama::version,
        crate::states::create,
        crate::states::list,
        crate::states::one,
        crate::states::delete,
        crate::openai::models::list,
        crate::openai::models::one,
        crate::text::tokenize,
        crate::text::detokenize,
        crate::text::apply_template,
        crate::app::health,
        crate::app::ready,
        crate::app::version,
        crate::app::slots,
    ),
    components(schemas(OneOrMany<String>, ResponseInput, ollama::Message)),
    modifiers(&Key),
    security((), ("key" = []))
)]
struct Document;

static TEXT: LazyLock<String> = LazyLock::new(|| Document::openapi().to_pretty_json().unwrap_or_default());

pub(crate) async fn document() -> Response {
    ([(CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_has_its_schema() {
        let document: serde_json::Value = serde_json::from_str(&TEXT).expect("JSON");
        let names: Vec<&str> =
            TEXT.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(names.len() > 10, "{names:?}");
        for name in names {
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
        for path in ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/api/chat"] {
            assert!(document["paths"][path]["post"]["requestBody"].is_object(), "{path}");
        }
    }
}
