//! Streams of server-sent events, or of lines. Each is one JSON object. An error ends a stream without its last word.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;

use crate::error::{ApiError, Result};

/// Time without an event after which a comment keeps proxies from closing the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Events that wait to be sent: the name, if it has one, and the JSON.
#[derive(Default)]
pub(crate) struct Events(VecDeque<(Option<&'static str>, String)>);

impl Events {
    pub(crate) fn push(&mut self, object: &impl Serialize) -> Result<()> {
        self.add(None, object)
    }

    /// Adds an event with a name.
    pub(crate) fn push_named(&mut self, name: &'static str, object: &impl Serialize) -> Result<()> {
        self.add(Some(name), object)
    }

    fn add(&mut self, name: Option<&'static str>, object: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(object).map_err(ApiError::internal)?;
        self.0.push_back((name, text));
        Ok(())
    }
}

/// A source of events.
pub(crate) trait Source: Send + 'static {
    /// What follows the last event.
    const LAST: Option<&'static str> = Some("[DONE]");

    /// The event of an error.
    fn error(&mut self, error: &ApiError) -> (Option<&'static str>, String) {
        (None, error.to_json())
    }

    /// Waits for the next events. False at the end.
    fn more(&mut self, events: &mut Events) -> impl Future<Output = Result<bool>> + Send;
}

enum State<S> {
    Open(S, Events),
    /// After the last object.
    Ending {
        last: Option<&'static str>,
    },
}

/// All events of a source. Dropping the stream drops the source.
fn all<S: Source>(source: S) -> impl Stream<Item = (Option<&'static str>, String)> {
    stream::unfold(State::Open(source, Events::default()), async |mut state| {
        loop {
            state = match state {
                State::Open(mut source, mut events) => {
                    if let Some(event) = events.0.pop_front() {
                        return Some((event, State::Open(source, events)));
                    }
                    match source.more(&mut events).await {
                        Ok(true) => State::Open(source, events),
                        Ok(false) if events.0.is_empty() => State::Ending { last: S::LAST },
                        Ok(false) => State::Open(source, events),
                        Err(error) => return Some((source.error(&error), State::Ending { last: None })),
                    }
                }
                State::Ending { last: Some(last) } => {
                    return Some(((None, last.to_owned()), State::Ending { last: None }));
                }
                State::Ending { last: None } => return None,
            }
        }
    })
}

/// The response that sends all events of a source. Dropping the response drops the source.
pub(crate) fn respond<S: Source>(source: S) -> Response {
    let events = all(source).map(|(name, text)| {
        let event = name.map_or_else(Event::default, |name| Event::default().event(name));
        Ok::<_, Infallible>(event.data(text))
    });
    let response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    unbuffered(response.into_response())
}

/// The response that sends all objects of a source, one a line.
pub(crate) fn respond_lines<S: Source>(source: S) -> Response {
    let lines = all(source).map(|(_, text)| Ok::<_, Infallible>(text + "\n"));
    unbuffered(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

fn unbuffered(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would buffer the stream.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}
