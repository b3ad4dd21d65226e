//! Streams of server-sent events. Each event is one JSON object; `[DONE]` ends the stream. An error ends it without `[DONE]`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;

use crate::error::{ApiError, Result};

/// Time without an event after which a comment keeps proxies from closing the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Events that wait to be sent.
#[derive(Default)]
pub(super) struct Events(VecDeque<String>);

impl Events {
    pub(super) fn push(&mut self, object: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(object).map_err(ApiError::internal)?;
        self.0.push_back(text);
        Ok(())
    }
}

/// A source of events.
pub(super) trait Source: Send + 'static {
    /// Waits for the next events. False at the end.
    fn more(&mut self, events: &mut Events) -> impl Future<Output = Result<bool>> + Send;
}

enum State<S> {
    Open(S, Events),
    /// After the last object: `[DONE]` follows, unless there was an error.
    Ending {
        is_done: bool,
    },
}

/// The response that sends all events of a source. Dropping the response drops the source.
pub(super) fn respond(source: impl Source) -> Response {
    let events = stream::unfold(State::Open(source, Events::default()), async |mut state| {
        loop {
            state = match state {
                State::Open(mut source, mut events) => {
                    if let Some(text) = events.0.pop_front() {
                        return Some((text, State::Open(source, events)));
                    }
                    match source.more(&mut events).await {
                        Ok(true) => State::Open(source, events),
                        Ok(false) if events.0.is_empty() => State::Ending { is_done: true },
                        Ok(false) => State::Open(source, events),
                        Err(error) => return Some((error.to_json(), State::Ending { is_done: false })),
                    }
                }
                State::Ending { is_done: true } => {
                    return Some(("[DONE]".to_owned(), State::Ending { is_done: false }));
                }
                State::Ending { is_done: false } => return None,
            }
        }
    });
    let events = futures_util::StreamExt::map(events, |text| Ok::<_, Infallible>(Event::default().data(text)));
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would buffer the stream.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
