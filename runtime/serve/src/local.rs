//! Requests of programs that run the engine themselves, in the fields that the server takes.

use std::fmt;

use jamba_runtime::{AnswerSyntax, Chat, ChatTemplate, ConstraintCompiler, EncodedChat, Engine, GenerateOptions};
use jamba_runtime::{RuntimeError, Tokenizer};
use serde::Deserialize;
use serde_json::Value;

use crate::body;
use crate::conversation::{Asked, read_chat};
use crate::error::ApiError;
use crate::model::Model;
use crate::sampling::Sampling;

/// Most log probabilities of a position.
const MAX_LOGPROBS: usize = 20;

/// A request that is wrong. The message begins with the field.
#[derive(Debug)]
pub struct RequestError(String);

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RequestError {}

impl From<ApiError> for RequestError {
    fn from(error: ApiError) -> RequestError {
        RequestError(error.message().to_owned())
    }
}

impl From<RuntimeError> for RequestError {
    fn from(error: RuntimeError) -> RequestError {
        RequestError(error.to_string())
    }
}

/// A request that was read.
#[derive(Clone, Debug)]
pub struct LocalRequest {
    /// The tokens to read; at least one is needed.
    pub prompt: Vec<u32>,
    /// Numbers of tokens up to the ends of turns; see [`EncodedChat::turn_ends`].
    pub turn_ends: Vec<usize>,
    /// The constraint is compiled. `max_new` is the request's, the model's, or [`GenerateOptions::MAX_NEW`].
    pub options: GenerateOptions,
    /// Number of answers.
    pub n: usize,
    /// As in [`Request::priority`](jamba_runtime::Request::priority).
    pub priority: i32,
    /// Report the log probabilities of the prompt; see [`Request::prompt_logprobs`](jamba_runtime::Request::prompt_logprobs).
    pub prompt_logprobs: Option<usize>,
    /// The markup of the answer; none outside of chats.
    pub syntax: AnswerSyntax,
    /// Maximum number of tool calls to report.
    pub max_calls: usize,
}

/// Fields of a request for text that [`Sampling`] does not have.
#[derive(Debug, Deserialize)]
struct Fields {
    logprobs: Option<usize>,
    prompt_logprobs: Option<usize>,
    detokenize: Option<bool>,
}

/// Reads requests for one plan. It needs no engine once it is made.
///
/// ```
/// use jamba_runtime::{Engine, OpenOptions};
/// use jamba_serve::LocalRequests;
///
/// let engine = Engine::open("../examples/toy.plan", OpenOptions::default())?;
/// let requests = LocalRequests::new(&engine)?;
/// let request = requests.completion(vec![1, 20, 30], &serde_json::json!({ "max_tokens": 5, "temperature": 0 }))?;
/// assert_eq!(request.options.max_new, 5);
/// let error = requests.completion(vec![1], &serde_json::json!({ "top_p": 2 })).unwrap_err();
/// assert_eq!(error.to_string(), "top_p: found 2, expected above 0, up to 1");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LocalRequests(Model);

impl LocalRequests {
    /// # Errors
    /// Fails if the plan's tokenizer or chat template is invalid.
    pub fn new(engine: &Engine) -> Result<LocalRequests, RuntimeError> {
        Ok(LocalRequests(Model::new(engine, Vec::new(), true)?))
    }

    /// # Errors
    /// Fails if the plan has no tokenizer.
    pub fn tokenizer(&self) -> Result<&Tokenizer, RequestError> {
        Ok(self.0.tokenizer()?)
    }

    /// # Errors
    /// Fails if the plan has no chat template.
    pub fn template(&self) -> Result<&ChatTemplate, RequestError> {
        Ok(self.0.template()?)
    }

    /// A request for text, in the fields of `/v1/completions` without `prompt`; and vLLM's `prompt_logprobs`, and `detokenize`,
    /// without which answers have no text.
    ///
    /// # Errors
    /// A field has an invalid value. Unknown fields are ignored.
    pub fn completion(&self, prompt: Vec<u32>, fields: &Value) -> Result<LocalRequest, RequestError> {
        let sampling: Sampling = body::read(fields)?;
        let others: Fields = body::read(fields)?;
        for (name, value) in [("logprobs", others.logprobs), ("prompt_logprobs", others.prompt_logprobs)] {
            if let Some(n) = value.filter(|&n| n > MAX_LOGPROBS) {
                return Err(ApiError::field(name, format!("found {n}, expected at most {MAX_LOGPROBS}")).into());
            }
        }
        let mut options = sampling.options(&self.0)?;
        options.logprobs = others.logprobs;
        options.tokens_only = others.detokenize == Some(false);
        let request = LocalRequest {
            prompt,
            turn_ends: Vec::new(),
            options,
            n: sampling.n(&self.0)?,
            priority: sampling.priority.unwrap_or(0),
            prompt_logprobs: others.prompt_logprobs,
            syntax: AnswerSyntax::default(),
            max_calls: 0,
        };
        self.limited(request, &sampling)
    }

    /// A chat, in the fields of `/v1/chat/completions`.
    ///
    /// # Errors
    /// A field has a wrong value, or the plan has no chat template. Fields that nobody knows are ignored.
    pub fn chat(&self, fields: &Value) -> Result<LocalRequest, RequestError> {
        let mut asked = Asked::read(&self.0, fields)?;
        let EncodedChat { tokens, turn_ends } = self.encode(&std::mem::take(&mut asked.chat))?;
        let request = LocalRequest {
            syntax: asked.syntax(&self.0, &tokens)?,
            max_calls: asked.max_calls(),
            prompt: tokens,
            turn_ends,
            options: asked.options,
            n: asked.sampling.n(&self.0)?,
            priority: asked.sampling.priority.unwrap_or(0),
            prompt_logprobs: None,
        };
        self.limited(request, &asked.sampling)
    }

    /// The chat of a request in the fields of `/v1/chat/completions`.
    ///
    /// # Errors
    /// A field has a wrong value.
    pub fn read_chat(&self, fields: &Value) -> Result<Chat, RequestError> {
        Ok(read_chat(fields, true)?)
    }

    /// # Errors
    /// The plan has no chat template, or it refuses the chat; or the chat does not fit the context.
    pub fn encode(&self, chat: &Chat) -> Result<EncodedChat, RequestError> {
        let parts = self.template()?.render_parts(chat)?;
        Ok(self.tokenizer()?.encode_chat_within(&parts, Some(self.0.max_context as u64))?)
    }

    /// Sets the limit on new tokens, and compiles the constraint.
    fn limited(&self, mut request: LocalRequest, sampling: &Sampling) -> Result<LocalRequest, RequestError> {
        let options = &mut request.options;
        options.max_new = sampling.max_new().unwrap_or(self.0.defaults.max_new);
        if let Some(constraint) = options.constraint.take() {
            let compiler: &ConstraintCompiler = self.0.constraints()?;
            options.compiled = Some(compiler.compile(&constraint)?);
        }
        Ok(request)
    }
}
