//! Text and tokens without the model: `/tokenize`, `/detokenize`, `/apply-template`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use jamba_runtime::{AddedTokens, SpecialTokens};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::app::State;
use crate::body::Object;
use crate::conversation::read_chat;
use crate::error::{ApiError, Result};
use crate::openapi::{ChatFields, ErrorObject};

/// The body of `/tokenize`: a text (llama.cpp's `content` or vLLM's `prompt`), or a chat.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Tokenize {
    content: Option<String>,
    prompt: Option<String>,
    #[schema(value_type = Option<Vec<Object>>)]
    messages: Option<Vec<Value>>,
    add_special: Option<bool>,
    add_special_tokens: Option<bool>,
}

/// The tokens of a text or a chat.
#[utoipa::path(post, path = "/tokenize", request_body = Tokenize, responses(
    (status = 200, body = Object),
    (status = "4XX", body = ErrorObject),
    (status = "5XX", body = ErrorObject),
))]
pub(crate) async fn tokenize(Extract(app): Extract<State>, body: Object) -> Result<Json<Value>> {
    let fields: Tokenize = body.read()?;
    let tokens = match (fields.content.or(fields.prompt), fields.messages) {
        (Some(text), None) => {
            // vLLM adds special tokens unless told not to; so do prompts here.
            let adds = fields.add_special_tokens.or(fields.add_special).unwrap_or(true);
            app.encode(text, if adds { AddedTokens::AsConfigured } else { AddedTokens::None }).await?
        }
        (None, Some(_)) => app.encode_chat(read_chat(body.value(), true)?).await?.tokens,
        _ => return Err(ApiError::invalid("expected content or prompt (a text), or messages (a chat)")),
    };
    Ok(Json(json!({ "tokens": tokens, "count": tokens.len(), "max_model_len": app.model.max_context })))
}

/// The body of `/detokenize`.
#[derive(Deserialize, ToSchema)]
pub(crate) struct Detokenize {
    tokens: Vec<u32>,
    skip_special_tokens: Option<bool>,
}

/// The text of tokens.
#[utoipa::path(post, path = "/detokenize", request_body = Detokenize, responses(
    (status = 200, body = Object),
    (status = "4XX", body = ErrorObject),
))]
pub(crate) async fn detokenize(Extract(app): Extract<State>, body: Object) -> Result<Json<Value>> {
    let Detokenize { tokens, skip_special_tokens } = body.read()?;
    let special = if skip_special_tokens == Some(true) { SpecialTokens::Hidden } else { SpecialTokens::All };
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= app.model.vocab) {
        return Err(ApiError::field("tokens", format!("found {token}, expected tokens below {}", app.model.vocab)));
    }
    let tokenizer = Arc::clone(app.model.tokenizer()?);
    let text = app.off_thread(move || Ok(tokenizer.decode_with(&tokens, special)?)).await?;
    Ok(Json(json!({ "content": text, "prompt": text })))
}

/// The prompt that a chat becomes.
#[utoipa::path(post, path = "/apply-template", request_body = ChatFields, responses(
    (status = 200, body = Object),
    (status = "4XX", body = ErrorObject),
))]
pub(crate) async fn apply_template(Extract(app): Extract<State>, body: Object) -> Result<Json<Value>> {
    let text = app.render(read_chat(body.value(), true)?).await?;
    Ok(Json(json!({ "prompt": text })))
}
