//! The routes, and what every request passes: the host, the key, an id, a line of log.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{Request, State as Extract};
use axum::http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::ServeOptions;
use crate::admission::Admission;
use crate::answer::{Slot, Slots};
use crate::error::ApiError;
use crate::listen::HangUp;
use crate::metrics::{self, Metrics};
use crate::model::Model;
use crate::openai::responses::Responses;
use crate::openapi::ErrorObject;
use crate::rates::{Meter, Rates};
use crate::states::{self, Owner, Store};
use crate::steps::{Load, Submission};
use crate::{anthropic, auth, ollama, openai, openapi, page, text};

/// What all handlers share.
pub(crate) struct App {
    pub(crate) options: ServeOptions,
    pub(crate) model: Model,
    pub(crate) admission: Arc<Admission>,
    pub(crate) commands: SyncSender<Submission>,
    pub(crate) load: Arc<Load>,
    pub(crate) metrics: Metrics,
    pub(crate) slots: Slots,
    pub(crate) states: Store,
    pub(crate) responses: Responses,
    pub(crate) rates: Rates,
    /// Permits to encode a prompt or compile a constraint, which takes a core.
    pub(crate) prepare: Arc<Semaphore>,
    /// Room for large bodies, in units of [`ROOM_UNIT`](crate::body::ROOM_UNIT).
    pub(crate) bodies: Arc<Semaphore>,
}

pub(crate) type State = Arc<App>;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken over from a client.
const MAX_ID: usize = 128;

/// What the layers found out about a request.
#[derive(Clone)]
pub(crate) struct RequestLabel {
    /// For logs and headers.
    pub(crate) id: String,
    /// Requests with other salts share no cached prompts with it.
    pub(crate) cache_salt: u64,
    /// What its key may still use.
    pub(crate) meter: Option<Arc<Meter>>,
    /// Closes its connection.
    pub(crate) hang_up: Option<HangUp>,
}

/// All routes.
pub(crate) fn router(app: State) -> Router {
    let open = Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/version", get(version))
        .route("/", get(page::page))
        .route("/openapi.json", get(openapi::document));
    let api = Router::new()
        .route("/models", get(openai::models::list))
        .route("/models/{id}", get(openai::models::one))
        .route("/completions", post(openai::completions::complete))
        .route("/chat/completions", post(openai::chat::chat))
        .route("/responses", post(openai::responses::create))
        .route("/responses/{id}", get(openai::responses::one).delete(openai::responses::delete))
        .route("/messages", post(anthropic::messages))
        .route("/messages/count_tokens", post(anthropic::count_tokens))
        .route("/states", get(states::list).post(states::create))
        .route("/states/{name}", get(states::one).delete(states::delete));
    let ollama = Router::new()
        .route("/chat", post(ollama::chat))
        .route("/generate", post(ollama::generate))
        .route("/show", post(ollama::show))
        .route("/tags", get(ollama::tags))
        .route("/ps", get(ollama::ps))
        .route("/version", get(ollama::version))
        .fallback(ollama::not_found);
    let keyed = Router::new()
        // Clients leave out /v1 as often as not.
        .merge(api.clone())
        .nest("/v1", api)
        .nest("/api", ollama)
        .route("/tokenize", post(text::tokenize))
        .route("/detokenize", post(text::detokenize))
        .route("/apply-template", post(text::apply_template))
        .route("/metrics", get(metrics))
        .route("/slots", get(slots))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), check_key));
    let mut router = open
        .merge(keyed)
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), label));
    if !app.options.cors_origins.is_empty() {
        let origins = app.options.cors_origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
        let layer = CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods([Method::GET, Method::POST, Method::DELETE])
            .allow_headers([axum::http::header::AUTHORIZATION, CONTENT_TYPE]);
        router = router.layer(layer);
    }
    router.with_state(app)
}

/// The routes of the socket for metrics: no keys, no texts, no log.
pub(crate) fn metrics_router(app: State) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .route("/slots", get(slots))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(app)
}

/// Gives the request an id, checks its host, and logs it.
async fn label(Extract(app): Extract<State>, mut request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let id = match given.filter(|id| !id.is_empty() && id.len() <= MAX_ID && id.chars().all(is_plain)) {
        Some(id) => id.to_owned(),
        None => random_id(),
    };
    let hang_up = request.extensions().get::<HangUp>().cloned();
    request.extensions_mut().insert(RequestLabel { id: id.clone(), cache_salt: 0, meter: None, hang_up });
    let (method, path, began) = (request.method().clone(), request.uri().path().to_owned(), Instant::now());
    let mut hosts = request.headers().get_all(HOST).iter();
    // A target that names a host overrides the header (RFC 9112, 3.2.2).
    let is_expected = hosts.all(|host| host.to_str().is_ok_and(is_local)) && request.uri().host().is_none_or(is_local);
    let mut response = match app.options.any_host || is_expected {
        true => next.run(request).await,
        false => ApiError::new(
            StatusCode::FORBIDDEN,
            "invalid_request_error",
            Some("wrong_host"),
            "this server listens on loopback only, but the request names another host",
        )
        .into_response(),
    };
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let status = response.status().as_u16();
    tracing::info!(id, %method, path, status, seconds = began.elapsed().as_secs_f64(), "request");
    response
}

/// True for the names of this machine, with or without a port: a page in a browser that reaches loopback under another name has
/// been rebound to it.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.chars().all(|c| c.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Refuses requests without a key, and those of a key that has used what it may use. Tells the others whose states and cached
/// prompts are theirs.
async fn check_key(Extract(app): Extract<State>, mut request: Request, next: Next) -> Response {
    let keys = &app.options.keys;
    let (owner, salt) = match keys.check(request.headers()) {
        _ if keys.is_empty() => (Owner::EVERYBODY, 0),
        None => return auth::refusal(),
        Some(digest) if app.options.shares_cache => (Owner::of_key(digest), 0),
        Some(digest) => (Owner::of_key(digest), auth::cache_salt(&digest)),
    };
    let meter = app.rates.of(owner).cloned();
    request.extensions_mut().insert(owner);
    if let Some(label) = request.extensions_mut().get_mut::<RequestLabel>() {
        (label.cache_salt, label.meter) = (salt, meter.clone());
    }
    let Some(meter) = meter.filter(|_| request.method() == Method::POST) else { return next.run(request).await };
    let mut response = match meter.admit() {
        Ok(()) => next.run(request).await,
        Err(error) => {
            app.metrics.refused(error.code());
            error.into_response()
        }
    };
    meter.add_headers(response.headers_mut());
    response
}

/// Seconds since 1970.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// 32 hexadecimal digits.
pub(crate) fn random_id() -> String {
    let mut bytes = [0; 16];
    // Without random numbers, ids repeat; nothing depends on them.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::not_found("not_found", format!("there is no {}; see GET /v1/models and README.md", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "invalid_request_error",
        Some("method_not_allowed"),
        format!("{} does not take {method}", uri.path()),
    )
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    ApiError::internal("an internal error, which the server's log describes; other requests go on").into_response()
}

/// Whether the engine runs.
#[utoipa::path(get, path = "/health", responses((status = 200, body = Object), (status = 500, body = ErrorObject)))]
pub(crate) async fn health(Extract(app): Extract<State>) -> Response {
    match app.load.has_failed.load(Ordering::Relaxed) {
        false => Json(serde_json::json!({ "status": "ok" })).into_response(),
        true => ApiError::internal("the engine has stopped: restart the server").into_response(),
    }
}

/// Whether a request would be taken now.
#[utoipa::path(get, path = "/ready", responses((status = 200, body = Object), (status = 503, body = ErrorObject)))]
pub(crate) async fn ready(Extract(app): Extract<State>) -> Response {
    if app.admission.drains() {
        ApiError::busy("server_shutting_down", "the server is shutting down", 5).into_response()
    } else if app.admission.is_full() {
        ApiError::busy("queue_full", "the server is full", 1).into_response()
    } else {
        health(Extract(app)).await
    }
}

/// The version of the program.
#[utoipa::path(get, path = "/version", responses((status = 200, body = Object)))]
pub(crate) async fn version() -> Response {
    Json(serde_json::json!({ "version": env!("CARGO_PKG_VERSION") })).into_response()
}

async fn metrics(Extract(app): Extract<State>) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], app.metrics.text()).into_response()
}

/// The requests that run or wait, without their texts.
#[utoipa::path(get, path = "/slots", responses((status = 200, body = Vec<Slot>)))]
pub(crate) async fn slots(Extract(app): Extract<State>) -> Response {
    Json(app.slots.list()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine() {
        for host in ["localhost", "LocalHost:8080", "127.0.0.1:1", "[::1]:8080", "[::1]", "127.1.2.3"] {
            assert!(is_local(host), "{host}");
        }
        for host in ["example.org", "localhost.example.org:8080", "10.0.0.1", "127.0.0.1.nip.io", "", "::2"] {
            assert!(!is_local(host), "{host}");
        }
    }
}
