//! A chat in progress, whatever the API: its request in the fields of OpenAI's, and its answers with calls and reasoning told
//! apart.

use jamba_runtime::{
    AddedTokens, AnswerEvent, AnswerParser, AnswerSyntax, Chat, ChatRequest, Finish, GenerateOptions, NewToken,
    SpecialTokens,
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::answer::{Answers, Job};
use crate::app::{RequestLabel, State, random_id};
use crate::body::{self, Object};
use crate::error::{ApiError, Result};
use crate::model::Model;
use crate::sampling::{Sampling, UsageChunks};
use crate::states::{self, Owner};
use crate::tools::{ToolChoice, Tools};

/// The most likely tokens of a position.
const MAX_TOP: usize = 20;

/// The fields about the chat that [`ChatRequest`] does not have.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ChatOptions)]
pub(crate) struct Fields {
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    #[schema(value_type = Option<Object>)]
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    #[schema(value_type = Option<Object>)]
    chat_template: Option<Value>,
    #[schema(value_type = Option<String>)]
    reasoning_effort: Option<Value>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
    /// vLLM's: the tokens of the answer beside its text.
    return_token_ids: Option<bool>,
    /// A named state: the chat begins with it.
    state: Option<String>,
}

/// The variables of the chat template that a request names. Without `offers_tools`, the model does not see the functions.
pub(crate) fn read_chat(body: &Value, offers_tools: bool) -> Result<Chat> {
    let fields: Fields = body::read(body)?;
    if fields.chat_template.is_some() {
        return Err(ApiError::unsupported("chat_template", "requests cannot bring a template, which is a program"));
    }
    let mut request = ChatRequest::from_value(body).map_err(|error| {
        // The message begins with the path of the field.
        let text = error.to_string();
        let text = text.strip_prefix("chat: ").unwrap_or(&text);
        match text.split_once(": ") {
            Some((path, reason)) => ApiError::field(path, reason),
            None => ApiError::invalid(text),
        }
    })?;
    if !offers_tools {
        request.tools.clear();
    }
    let mut chat = request.chat();
    if let Some(effort) = fields.reasoning_effort {
        chat.variables.entry("reasoning_effort").or_insert(effort);
    }
    Ok(chat)
}

/// The answers to a chat.
pub(crate) struct Conversation {
    pub(crate) answers: Answers,
    /// The name that the request gave the model.
    pub(crate) model: String,
    /// Seed of the first answer's draws.
    pub(crate) seed: Option<u64>,
    /// The form of the answer.
    pub(crate) form: Form,
    choices: Vec<Progress>,
    /// Maximum number of tool calls in an answer.
    max_calls: usize,
}

/// What the request says of the form of its answer.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    pub(crate) streams: bool,
    /// What a stream tells about usage.
    pub(crate) usage: UsageChunks,
    /// The tokens beside the text.
    pub(crate) has_token_ids: bool,
}

struct Progress {
    /// None after the end.
    parser: Option<AnswerParser>,
    n_calls: usize,
}

/// What an event makes known of an answer.
pub(crate) struct Step {
    pub(crate) choice: usize,
    pub(crate) token: Option<NewToken>,
    /// Parts of the answer, each with the index of the call that it belongs to, if any.
    pub(crate) parts: Vec<(usize, AnswerEvent)>,
    pub(crate) end: Option<End>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The model ended it.
    Answered,
    /// A stop string or a stop token occurred.
    Stopped,
    /// A limit was reached.
    Cut,
    /// It calls functions.
    Calls,
}

/// The answers before their first token.
fn progress(n: usize, syntax: AnswerSyntax) -> Vec<Progress> {
    let id = random_id();
    let parser = |choice| AnswerParser::new(syntax).with_id_prefix(format!("call_{}_{choice}_", &id[..12]));
    (0..n).map(|choice| Progress { parser: Some(parser(choice)), n_calls: 0 }).collect()
}

/// The limit on new tokens: the request's, the model's, or the context.
fn max_new(model: &Model, sampling: &Sampling, n_prompt: usize) -> usize {
    let rest = (model.max_context + 1).saturating_sub(n_prompt);
    let limit = match sampling.max_new() {
        // OpenAI's clients send 0 for no limit.
        Some(0) | None if model.has_own_limit => model.defaults.max_new,
        Some(0) | None => rest,
        Some(limit) => limit,
    };
    limit.clamp(1, rest.max(1))
}

/// A request in the fields of `/v1/chat/completions`, before its prompt is encoded.
pub(crate) struct Asked {
    pub(crate) sampling: Sampling,
    fields: Fields,
    pub(crate) chat: Chat,
    /// The message that the answer continues.
    said: Option<String>,
    /// Without `max_new`.
    pub(crate) options: GenerateOptions,
    syntax: AnswerSyntax,
}

impl Asked {
    pub(crate) fn read(model: &Model, body: &Value) -> Result<Asked> {
        let sampling: Sampling = body::read(body)?;
        let fields: Fields = body::read(body)?;
        let n_top = match (fields.logprobs.unwrap_or(false), fields.top_logprobs) {
            (_, Some(n)) if n > MAX_TOP => {
                return Err(ApiError::field("top_logprobs", format!("expected at most {MAX_TOP}")));
            }
            (false, Some(n)) if n > 0 => return Err(ApiError::field("top_logprobs", "expected logprobs to be true")),
            (true, n) => Some(n.unwrap_or(0)),
            (false, _) => None,
        };
        let tools = Tools::new(fields.tools.as_deref().unwrap_or_default(), fields.tool_choice.as_ref())?;
        let offers_tools = !tools.list.is_empty() && tools.choice != ToolChoice::None;
        let chat = read_chat(body, offers_tools)?;
        let said = chat.messages.last().filter(|_| chat.continue_final_message);
        let said = said.and_then(|message| message["content"].as_str()).map(str::to_owned);
        let mut options = sampling.options(model)?;
        options.logprobs = n_top;
        let mut syntax = model.syntax;
        if !offers_tools {
            syntax = AnswerSyntax { calls: None, ..syntax };
        }
        if let Some(constraint) = tools.constraint(&syntax, model.tokenizer()?)? {
            if options.constraint.is_some() {
                return Err(ApiError::field("tool_choice", "a required call and response_format exclude each other"));
            }
            options.constraint = Some(constraint);
        }
        Ok(Asked { sampling, fields, chat, said, options, syntax })
    }

    /// The markup of the answer to the prompt.
    pub(crate) fn syntax(&self, model: &Model, prompt: &[u32]) -> Result<AnswerSyntax> {
        match &self.said {
            Some(said) => Ok(self.syntax.within(said)),
            None => {
                let end = &prompt[prompt.len().saturating_sub(8)..];
                Ok(self.syntax.after(&model.tokenizer()?.decode_with(end, SpecialTokens::All)?))
            }
        }
    }

    /// Maximum number of tool calls in an answer.
    pub(crate) fn max_calls(&self) -> usize {
        if self.fields.parallel_tool_calls == Some(false) { 1 } else { usize::MAX }
    }
}

impl Conversation {
    /// Reads a request in the fields of `/v1/chat/completions`, and submits it.
    pub(crate) async fn start(app: &State, label: RequestLabel, owner: Owner, body: Object) -> Result<Conversation> {
        let mut asked = Asked::read(&app.model, body.value())?;
        drop(body);
        let model = app.model.check_name(asked.sampling.model.as_deref())?;
        let n = asked.sampling.n(&app.model)?;
        let permit = app.admit(n)?;
        app.compile(&mut asked.options).await?;
        let state = app.state(owner, asked.fields.state.as_deref()).await?;
        let prompt = app.encode_chat(std::mem::take(&mut asked.chat)).await?;
        states::check_begin(state.as_ref(), &prompt.tokens)?;
        asked.options.max_new = max_new(&app.model, &asked.sampling, prompt.tokens.len());
        let syntax = asked.syntax(&app.model, &prompt.tokens)?;
        let max_calls = asked.max_calls();
        let Asked { sampling, fields, options, .. } = asked;
        let job = Job {
            turn_ends: prompt.turn_ends,
            priority: sampling.priority.unwrap_or(0),
            state,
            ..Job::new(prompt.tokens, options, n)
        };
        let form = Form {
            streams: sampling.streams(),
            usage: sampling.usage_chunks(),
            has_token_ids: fields.return_token_ids == Some(true),
        };
        let seed = job.options.sampler.seed;
        let answers = app.start(label, vec![job], permit).await?;
        let choices = progress(n, syntax);
        Ok(Conversation { answers, model, seed, form, choices, max_calls })
    }

    /// Goes on in a text, which is no chat: nothing is told apart in its answer.
    pub(crate) async fn start_text(
        app: &State,
        label: RequestLabel,
        body: Object,
        text: String,
    ) -> Result<Conversation> {
        let sampling: Sampling = body.read()?;
        drop(body);
        let model = app.model.check_name(sampling.model.as_deref())?;
        let mut options = sampling.options(&app.model)?;
        let permit = app.admit(1)?;
        app.compile(&mut options).await?;
        let prompt = app.encode(text, AddedTokens::AsConfigured).await?;
        options.max_new = max_new(&app.model, &sampling, prompt.len());
        let seed = options.sampler.seed;
        let job = Job { priority: sampling.priority.unwrap_or(0), ..Job::new(prompt, options, 1) };
        let answers = app.start(label, vec![job], permit).await?;
        let form = Form { streams: sampling.streams(), usage: sampling.usage_chunks(), has_token_ids: false };
        let choices = progress(1, AnswerSyntax::default());
        Ok(Conversation { answers, model, seed, form, choices, max_calls: 0 })
    }

    pub(crate) fn n_choices(&self) -> usize {
        self.choices.len()
    }

    /// The next step of any answer; None when all have ended.
    pub(crate) async fn next(&mut self) -> Result<Option<Step>> {
        let Some(event) = self.answers.next().await? else { return Ok(None) };
        let Progress { parser, n_calls } = &mut self.choices[event.choice];
        let mut found = Vec::new();
        if let Some(parser) = parser {
            found.extend(event.token.iter().flat_map(|token| parser.push(&token.text)));
            if !event.rest.is_empty() {
                found.extend(parser.push(&event.rest));
            }
        }
        if event.finish.is_some()
            && let Some(parser) = parser.take()
        {
            found.extend(parser.finish());
        }
        let mut parts = Vec::new();
        for part in found {
            *n_calls += usize::from(matches!(part, AnswerEvent::CallStarted { .. }));
            let is_of_call =
                matches!(part, AnswerEvent::CallStarted { .. } | AnswerEvent::Arguments(_) | AnswerEvent::CallEnded);
            if !is_of_call || *n_calls <= self.max_calls {
                parts.push((n_calls.saturating_sub(1), part));
            }
        }
        let end = event.finish.map(|finish| match finish {
            // A call that was cut off is no call to make.
            Finish::Length | Finish::NoRoom => End::Cut,
            _ if *n_calls > 0 => End::Calls,
            Finish::Stopped => End::Stopped,
            _ => End::Answered,
        });
        Ok(Some(Step { choice: event.choice, token: event.token, parts, end }))
    }
}
