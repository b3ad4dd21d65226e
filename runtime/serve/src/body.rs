//! Bodies of requests: JSON of a limited size that arrives in a limited time. Whatever is wrong gets an error object.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use crate::app::State;
use crate::error::{ApiError, Result};

/// Time for a whole body.
const BODY_TIME: Duration = Duration::from_secs(30);

/// Bytes of a body that need no room of their own. All larger bodies share [`App::bodies`](crate::app::App::bodies).
const SMALL: usize = 64 << 10;
/// Unit of that room, in bytes.
pub(crate) const ROOM_UNIT: usize = 1 << 10;

/// The object in the body of a request.
pub(crate) struct Object {
    value: Value,
    /// Given back when the object is dropped.
    _room: Option<OwnedSemaphorePermit>,
}

impl Object {
    /// Another object in the place of this one.
    pub(crate) fn replaced(self, value: Value) -> Object {
        Object { value, ..self }
    }

    /// Reads the fields of `T`; others are ignored.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        read(&self.value)
    }

    /// The object as it came.
    pub(crate) fn value(&self) -> &Value {
        &self.value
    }
}

/// Reads the fields of `T`.
pub(crate) fn read<T: DeserializeOwned>(value: &Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        ApiError::field(path, in_words(&error.into_inner().to_string()))
    })
}

/// An error of a field, without the names of Rust's types.
fn in_words(error: &str) -> String {
    let Some((found, expected)) = error.rsplit_once(", expected ") else { return error.to_owned() };
    let expected = match expected {
        "usize" | "u32" => "a whole number, 0 or more",
        "i64" | "i32" => "a whole number",
        "f32" => "a number",
        other => other,
    };
    format!("{found}, expected {expected}")
}

/// The bytes of a body, and their room.
async fn collect(body: Body, app: &State) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>)> {
    let limit = app.options.max_body_bytes;
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            Some("request_too_large"),
            format!("the body is larger than {limit} bytes, more than the model's context can hold"),
        )
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut body = pin!(Limited::new(body, limit));
    let (mut bytes, mut room) = (Vec::new(), None::<OwnedSemaphorePermit>);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error.is::<LengthLimitError>() {
            true => too_large(),
            false => ApiError::invalid(format!("the body did not arrive: {error}")),
        })?;
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        let has = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wants = if bytes.len() > SMALL { bytes.len().div_ceil(ROOM_UNIT) } else { 0 };
        if wants > has {
            let more = u32::try_from(wants - has).unwrap_or(u32::MAX);
            let more = Arc::clone(&app.bodies).try_acquire_many_owned(more).map_err(|_| {
                ApiError::busy("queue_full", "the server reads as many large bodies as it has room for; retry later", 1)
            })?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
        }
    }
    Ok((bytes, room))
}

fn parse(bytes: &[u8]) -> Result<Value> {
    match serde_json::from_slice(bytes) {
        Ok(object @ Value::Object(_)) => Ok(object),
        Ok(_) => Err(ApiError::invalid("the body is JSON but not an object")),
        Err(error) => Err(ApiError::invalid(format!("the body is not JSON: {error}"))),
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
        let (bytes, room) = match tokio::time::timeout(BODY_TIME, collect(request.into_body(), app)).await {
            Ok(collected) => collected?,
            Err(_) => {
                return Err(ApiError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "invalid_request_error",
                    Some("request_timeout"),
                    format!("the body did not arrive within {} seconds", BODY_TIME.as_secs()),
                ));
            }
        };
        // A large body takes long to parse: other connections go on meanwhile.
        let value = match room {
            Some(_) => app.off_thread(move || parse(&bytes)).await?,
            None => parse(&bytes)?,
        };
        Ok(Object { value, _room: room })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_words() {
        assert_eq!(in_words("invalid type: null, expected f32"), "invalid type: null, expected a number");
        assert_eq!(in_words("missing field `x`"), "missing field `x`");
    }
}
