//! What Ollama's clients ask of the model: there is one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State as Extract;
use chrono::{DateTime, SecondsFormat, Utc};
use jamba_runtime::Reasoning;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{ErrorText, Result, known_name};
use crate::app::{App, State};
use crate::body::Object;
use crate::error::ApiError;

fn time(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// The time, in RFC 3339.
pub(super) fn now() -> String {
    time(SystemTime::now())
}

fn opened(app: &App) -> String {
    time(UNIX_EPOCH + Duration::from_secs(app.model.created))
}

/// `3.0B`, as people call models.
fn size_in_words(n: u64) -> String {
    let n = n as f64;
    match n {
        n if n >= 1e9 => format!("{:.1}B", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n => format!("{:.1}K", n / 1e3),
    }
}

fn details(app: &App) -> Value {
    let facts = &app.model.facts;
    json!({
        "parent_model": "",
        "format": "plan",
        "family": "jamba",
        "families": ["jamba"],
        "parameter_size": size_in_words(facts.n_parameters),
        "quantization_level": facts.weights,
    })
}

fn object(app: &App, name: &str) -> Value {
    let facts = &app.model.facts;
    json!({
        "name": name,
        "model": name,
        "modified_at": opened(app),
        "size": facts.bytes,
        "digest": facts.digest,
        "details": details(app),
    })
}

/// The names of the model.
#[utoipa::path(get, path = "/api/tags", responses((status = 200, body = Object)))]
pub(crate) async fn tags(Extract(app): Extract<State>) -> Json<Value> {
    let models: Vec<Value> = app.model.names.iter().map(|name| object(&app, name)).collect();
    Json(json!({ "models": models }))
}

/// The model, which is always loaded.
#[utoipa::path(get, path = "/api/ps", responses((status = 200, body = Object)))]
pub(crate) async fn ps(Extract(app): Extract<State>) -> Json<Value> {
    let mut model = object(&app, &app.model.names[0]);
    // Ollama unloads a model when it expires. This server never does.
    model["expires_at"] = "9999-12-31T23:59:59Z".into();
    model["size_vram"] = app.model.facts.device_bytes.into();
    model["context_length"] = app.model.max_context.into();
    Json(json!({ "models": [model] }))
}

/// The body of `/api/show`.
#[derive(Deserialize, ToSchema)]
#[schema(as = OllamaShow)]
pub(crate) struct Show {
    model: Option<String>,
    name: Option<String>,
}

/// What is known of the model.
#[utoipa::path(post, path = "/api/show", request_body = Show, responses(
    (status = 200, body = Object),
    (status = "4XX", body = ErrorText),
))]
pub(crate) async fn show(
    Extract(app): Extract<State>,
    body: std::result::Result<Object, ApiError>,
) -> Result<Json<Value>> {
    let Show { model, name } = body?.read()?;
    known_name(&app, model.or(name).as_deref())?;
    let sampler = &app.model.defaults.sampler;
    let parameters = [
        ("temperature", sampler.temperature.to_string()),
        ("top_k", sampler.top_k.to_string()),
        ("top_p", sampler.top_p.to_string()),
        ("num_ctx", app.model.max_context.to_string()),
    ];
    let parameters: Vec<String> = parameters.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let syntax = &app.model.syntax;
    let mut capabilities = vec!["completion"];
    capabilities.extend(syntax.calls.is_some().then_some("tools"));
    capabilities.extend((syntax.reasoning != Reasoning::None).then_some("thinking"));
    let facts = &app.model.facts;
    Ok(Json(json!({
        "modelfile": "",
        "parameters": parameters.join("\n"),
        "template": "",
        "modified_at": opened(&app),
        "details": details(&app),
        "model_info": {
            "general.architecture": "jamba",
            "general.parameter_count": facts.n_parameters,
            "jamba.block_count": facts.n_layers,
            "jamba.context_length": app.model.max_context,
            "jamba.embedding_length": facts.d_model,
            "jamba.vocab_size": app.model.vocab,
        },
        "capabilities": capabilities,
    })))
}

/// The version of the program.
#[utoipa::path(get, path = "/api/version", responses((status = 200, body = Object)))]
pub(crate) async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_words() {
        assert_eq!([319_000, 51_500_000, 398_600_000_000].map(size_in_words), ["319.0K", "51.5M", "398.6B"]);
        assert_eq!(time(UNIX_EPOCH + Duration::from_millis(1500)), "1970-01-01T00:00:01.500000000Z");
    }
}
