//! Results of a step.

use crate::{Finish, NewToken, RequestId, RuntimeError, Usage};

/// A result of a step for one answer of a request: a token, the end of the answer, or both.
#[derive(Debug)]
pub struct Event {
    /// The request.
    pub request: RequestId,
    /// Which of the request's [`n`](crate::Request::n) answers, from 0.
    pub choice: usize,
    /// The new token; None if the answer ended without one.
    pub token: Option<NewToken>,
    /// The held back end of the text, in the last event of an answer.
    pub rest: String,
    /// The reason why the answer ended, in its last event.
    pub finish: Option<Finish>,
    /// The error, if `finish` is [`Finish::Failed`].
    pub error: Option<RuntimeError>,
    /// Tokens and times so far.
    pub usage: Usage,
}
