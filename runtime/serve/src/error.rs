//! Errors of requests, as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}`, for every status.

use axum::Json;
use axum::http::header::{HeaderValue, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use jamba_runtime::{ErrorClass, RuntimeError};
use serde::Serialize;

use crate::openapi::ErrorObject;

/// The reason why a request failed.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) body: ErrorBody,
    /// Seconds after which the client may retry.
    retry_after: Option<u32>,
}

/// The content of `error`. `code` is always text or null: clients in typed languages fail on numbers.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ErrorBody {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

pub(crate) type Result<T> = std::result::Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        kind: &'static str,
        code: Option<&'static str>,
        message: impl ToString,
    ) -> ApiError {
        let body = ErrorBody { message: message.to_string(), kind, param: None, code };
        ApiError { status, body, retry_after: None }
    }

    /// A request that is wrong.
    pub(crate) fn invalid(message: impl ToString) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_request_error", None, message)
    }

    /// A wrong field of a request.
    pub(crate) fn field(name: impl Into<String>, message: impl ToString) -> ApiError {
        let name = name.into();
        ApiError::invalid(format!("{name}: {}", message.to_string())).at(name)
    }

    /// A field that this server does not support.
    pub(crate) fn unsupported(name: &str, advice: &str) -> ApiError {
        let mut error = ApiError::field(name, advice);
        error.body.code = Some("unsupported_parameter");
        error
    }

    /// A request that is wrong in a way that clients know by its code.
    pub(crate) fn with_code(code: &'static str, message: impl ToString) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_request_error", Some(code), message)
    }

    /// A prompt that does not fit the context.
    pub(crate) fn too_long(message: impl ToString) -> ApiError {
        ApiError::with_code("context_length_exceeded", message)
    }

    pub(crate) fn not_found(code: &'static str, message: impl ToString) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "invalid_request_error", Some(code), message)
    }

    /// The server cannot take the request now.
    pub(crate) fn busy(code: &'static str, message: impl ToString, retry_after: u32) -> ApiError {
        let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some(code), message);
        ApiError { retry_after: Some(retry_after), ..error }
    }

    /// The client has used what it may use: requests, or tokens.
    pub(crate) fn limited(what: &'static str, message: impl ToString, retry_after: u32) -> ApiError {
        let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, what, Some("rate_limit_exceeded"), message);
        ApiError { retry_after: Some(retry_after), ..error }
    }

    pub(crate) fn internal(message: impl ToString) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", Some("internal_error"), message)
    }

    /// Names the field that is wrong.
    pub(crate) fn at(mut self, param: impl Into<String>) -> ApiError {
        self.body.param = Some(param.into());
        self
    }

    /// The status and the headers of the response, in every API.
    pub(crate) fn head(&self) -> (StatusCode, HeaderMap) {
        let retry_after = self.retry_after.map(|seconds| (RETRY_AFTER, HeaderValue::from(seconds)));
        (self.status, retry_after.into_iter().collect())
    }

    pub(crate) fn message(&self) -> &str {
        &self.body.message
    }

    /// The code, or the kind where there is none.
    pub(crate) fn code(&self) -> &'static str {
        self.body.code.unwrap_or(self.body.kind)
    }

    /// The object as one line of JSON.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(&ErrorObject { error: &self.body }).unwrap_or_default()
    }
}

impl From<RuntimeError> for ApiError {
    fn from(error: RuntimeError) -> ApiError {
        ApiError::from(&error)
    }
}

impl From<&RuntimeError> for ApiError {
    fn from(error: &RuntimeError) -> ApiError {
        match error.class() {
            ErrorClass::Caller => ApiError::invalid(error),
            ErrorClass::TooLong => ApiError::too_long(error),
            ErrorClass::Busy => ApiError::busy("queue_full", error, 1),
            ErrorClass::Cancelled => {
                ApiError::new(StatusCode::REQUEST_TIMEOUT, "server_error", Some("cancelled"), error)
            }
            ErrorClass::Machine | ErrorClass::Ours | ErrorClass::DeviceGone => ApiError::internal(error),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, headers) = self.head();
        (status, headers, Json(ErrorObject { error: &self.body })).into_response()
    }
}
