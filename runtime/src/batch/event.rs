//! Results of a step.

use crate::{Finish, NewToken, RequestId, RuntimeError, Snapshot, Usage};

/// A result of a step for one answer of a request: a token, the end of the answer, or both.
#[derive(Debug)]
pub struct Event {
    /// The request.
    pub request: RequestId,
    /// Which of the request's [`n`](crate::Request::n) answers, from 0.
    pub choice: usize,
    /// The new token; None if the answer ended without one.
    pub token: Option<NewToken>,
    /// Prompt tokens that ran in this step, in order, if [`prompt_logprobs`](crate::Request::prompt_logprobs) asks for them.
    /// Together, the events of an answer have each token of the prompt once.
    pub prompt: Vec<PromptToken>,
    /// The held back end of the text, in the last event of an answer.
    pub rest: String,
    /// The reason why the answer ended, in its last event.
    pub finish: Option<Finish>,
    /// The error, if `finish` is [`Finish::Failed`].
    pub error: Option<RuntimeError>,
    /// The seed of the answer's draws.
    pub seed: u64,
    /// The state of the prompt without its last token, in the last event of an answer that
    /// [keeps it](crate::Request::keeps_state) and has read so much.
    pub state: Option<Snapshot>,
    /// Tokens and times so far.
    pub usage: Usage,
}

/// A token of a prompt and its probability.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptToken {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability after the tokens before it: the log softmax of the model's logits. None for the
    /// first token.
    pub logprob: Option<f32>,
    /// The most likely tokens in its place and the logarithms of their probabilities, most likely first.
    pub top: Vec<(u32, f32)>,
}
