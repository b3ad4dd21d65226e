//! Bodies of requests: JSON of a limited size that arrives in a limited time. Whatever is wrong gets an error object.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::app::State;
use crate::error::{ApiError, Result};

/// Time for a whole body.
const BODY_TIME: Duration = Duration::from_secs(30);

/// The object in the body of a request.
pub(crate) struct Object(Value);

impl Object {
    /// Reads the fields of `T`; others are ignored.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        serde_path_to_error::deserialize(&self.0).map_err(|error| {
            let path = error.path().to_string();
            ApiError::field(path, error.into_inner())
        })
    }

    /// The object as it came.
    pub(crate) fn value(&self) -> &Value {
        &self.0
    }
}

fn check_headers(headers: &HeaderMap) -> Result<()> {
    let unsupported = |message: &str| {
        ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "invalid_request_error",
            Some("unsupported_media_type"),
            message,
        )
    };
    let essence = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()?.split(';').next());
    if !essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json")) {
        return Err(unsupported("expected a body of JSON: send `Content-Type: application/json`"));
    }
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(unsupported("compressed bodies are not supported: send the JSON as it is"));
    }
    Ok(())
}

impl FromRequest<State> for Object {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &State) -> Result<Object> {
        check_headers(request.headers())?;
        let limit = app.options.max_body_bytes;
        let body = Limited::new(request.into_body(), limit);
        let bytes = match tokio::time::timeout(BODY_TIME, body.collect()).await {
            Err(_) => {
                return Err(ApiError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "invalid_request_error",
                    Some("request_timeout"),
                    format!("the body did not arrive within {} seconds", BODY_TIME.as_secs()),
                ));
            }
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return Err(ApiError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "invalid_request_error",
                    Some("request_too_large"),
                    format!("the body is larger than {limit} bytes, more than the model's context can hold"),
                ));
            }
            Ok(Err(error)) => return Err(ApiError::invalid(format!("the body did not arrive: {error}"))),
            Ok(Ok(body)) => body.to_bytes(),
        };
        match serde_json::from_slice(&bytes) {
            Ok(object @ Value::Object(_)) => Ok(Object(object)),
            Ok(_) => Err(ApiError::invalid("the body is JSON but not an object")),
            Err(error) => Err(ApiError::invalid(format!("the body is not JSON: {error}"))),
        }
    }
}
