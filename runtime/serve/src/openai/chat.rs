//! `/v1/chat/completions`.

use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use jamba_runtime::{
    Answer, AnswerCall, AnswerEvent, AnswerParser, AnswerSyntax, Chat, ChatRequest, Finish, SpecialTokens,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::logprobs::{ChatToken, MAX_TOP};
use super::sse::{self, Events, Source};
use super::tools::{ToolChoice, Tools};
use super::{AnswerObject, Head, finish_reason};
use crate::answer::{Answers, Job};
use crate::app::{RequestLabel, State};
use crate::body::Object;
use crate::error::{ApiError, Result};
use crate::openapi::{ChatBody, ErrorObject};
use crate::sampling::{Sampling, UsageChunks};
use crate::states::Owner;
use crate::steps::ChoiceEvent;

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
pub(crate) fn read_chat(body: &Object, offers_tools: bool) -> Result<Chat> {
    let fields: Fields = body.read()?;
    if fields.chat_template.is_some() {
        return Err(ApiError::unsupported("chat_template", "requests cannot bring a template, which is a program"));
    }
    let mut request = ChatRequest::from_value(body.value()).map_err(|error| {
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

#[derive(Serialize, ToSchema)]
#[schema(as = ChatChoice)]
struct Choice {
    index: usize,
    message: Message,
    logprobs: Option<Logprobs>,
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChatLogprobs)]
struct Logprobs {
    content: Vec<ChatToken>,
    refusal: Option<()>,
}

impl Logprobs {
    fn new(content: Vec<ChatToken>) -> Logprobs {
        Logprobs { content, refusal: None }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChatMessage)]
struct Message {
    role: &'static str,
    /// Null where there are calls and no text.
    content: Option<String>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Call>,
}

impl Delta {
    fn is_empty(&self) -> bool {
        self.role.is_none() && self.content.is_none() && self.reasoning_content.is_none() && self.tool_calls.is_empty()
    }
}

/// A call, or a part of one in a stream.
#[derive(Serialize, ToSchema)]
#[schema(as = ChatCall)]
struct Call {
    /// In streams; clients merge the parts of a call by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: Function,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ChatFunction)]
struct Function {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// JSON text, never an object.
    arguments: String,
}

/// A choice in progress.
struct Progress {
    /// None after the end.
    parser: Option<AnswerParser>,
    has_role: bool,
    n_calls: usize,
    /// Log probabilities of tokens whose text is held back.
    logprobs: Vec<ChatToken>,
    /// Tokens that have not been told, if the request wants them.
    token_ids: Option<Vec<u32>>,
}

/// Answers a chat.
#[utoipa::path(post, path = "/v1/chat/completions", request_body = ChatBody, responses(
    (status = 200, description = "The answer, or with `stream` its chunks as server-sent events", content(
        (AnswerObject<'static, Choice> = "application/json"),
        (String = "text/event-stream"),
    )),
    (status = "4XX", body = ErrorObject),
    (status = "5XX", body = ErrorObject),
))]
pub(crate) async fn chat(
    Extract(app): Extract<State>,
    Extension(label): Extension<RequestLabel>,
    Extension(owner): Extension<Owner>,
    body: Object,
) -> Result<Response> {
    let sampling: Sampling = body.read()?;
    let fields: Fields = body.read()?;
    let model = app.model.check_name(sampling.model.as_deref())?;
    let n_top = match (fields.logprobs.unwrap_or(false), fields.top_logprobs) {
        (_, Some(n)) if n > MAX_TOP => {
            return Err(ApiError::field("top_logprobs", format!("expected at most {MAX_TOP}")));
        }
        (false, Some(n)) if n > 0 => return Err(ApiError::field("top_logprobs", "expected logprobs to be true")),
        (true, n) => Some(n.unwrap_or(0)),
        (false, _) => None,
    };
    let n = sampling.n(&app.model)?;
    let tools = Tools::new(fields.tools.as_deref().unwrap_or_default(), fields.tool_choice.as_ref())?;
    let offers_tools = !tools.list.is_empty() && tools.choice != ToolChoice::None;
    let chat = read_chat(&body, offers_tools)?;
    drop(body);
    let said = chat.messages.last().filter(|_| chat.continue_final_message);
    let said = said.and_then(|message| message["content"].as_str()).map(str::to_owned);
    let mut options = sampling.options(&app.model)?;
    options.logprobs = n_top;
    let mut syntax = app.model.syntax;
    if !offers_tools {
        syntax = AnswerSyntax { calls: None, ..syntax };
    }
    if let Some(constraint) = tools.constraint(&syntax, app.model.tokenizer()?)? {
        if options.constraint.is_some() {
            return Err(ApiError::field("tool_choice", "a required call and response_format exclude each other"));
        }
        options.constraint = Some(constraint);
    }
    let permit = app.admit(n)?;
    app.compile(&mut options).await?;
    let state = app.state(owner, fields.state.as_deref()).await?;
    let prompt = app.encode_chat(chat).await?;
    if let Some(state) = &state
        && (!prompt.tokens.starts_with(state.tokens()) || prompt.tokens.len() == state.tokens().len())
    {
        return Err(ApiError::field(
            "state",
            "the chat does not begin with it: expected its messages, and further ones",
        ));
    }
    let rest = (app.model.max_context + 1).saturating_sub(prompt.tokens.len());
    options.max_new = match sampling.max_new() {
        // OpenAI's clients send 0 for no limit.
        Some(0) | None if app.model.has_own_limit => app.model.defaults.max_new,
        Some(0) | None => rest,
        Some(limit) => limit,
    }
    .clamp(1, rest.max(1));
    let end = &prompt.tokens[prompt.tokens.len().saturating_sub(8)..];
    let syntax = match said {
        Some(said) => syntax.within(&said),
        None => syntax.after(&app.model.tokenizer()?.decode_with(end, SpecialTokens::All)?),
    };
    let priority = sampling.priority.unwrap_or(0);
    let object = if sampling.streams() { "chat.completion.chunk" } else { "chat.completion" };
    let head = Head::new(&app, object, "chatcmpl", model).with_seed(&options);
    let job = Job { turn_ends: prompt.turn_ends, priority, state, ..Job::new(prompt.tokens, options, n) };
    let answers = app.start(label, vec![job], permit).await?;
    let progress = |choice| Progress {
        parser: Some(AnswerParser::new(syntax).with_id_prefix(format!("call_{}_{choice}_", &head.id[9..21]))),
        has_role: false,
        n_calls: 0,
        logprobs: Vec::new(),
        token_ids: (fields.return_token_ids == Some(true)).then(Vec::new),
    };
    let choices = (0..n).map(progress).collect();
    let max_calls = if fields.parallel_tool_calls == Some(false) { 1 } else { usize::MAX };
    let mut run = Run { head, answers, choices, max_calls, usage: sampling.usage_chunks() };
    if sampling.streams() { Ok(sse::respond(run)) } else { run.collect().await }
}

/// The answers of a request.
struct Run {
    head: Head,
    answers: Answers,
    choices: Vec<Progress>,
    max_calls: usize,
    usage: UsageChunks,
}

impl Run {
    /// What an event makes known.
    fn parse(&mut self, event: &ChoiceEvent) -> Result<Vec<AnswerEvent>> {
        let progress = &mut self.choices[event.choice];
        if let Some(token) = event.token.as_ref().filter(|token| token.logprob.is_some()) {
            progress.logprobs.extend(ChatToken::new(self.head.app.model.tokenizer()?, token));
        }
        if let (Some(ids), Some(token)) = (&mut progress.token_ids, &event.token) {
            ids.push(token.token);
        }
        let Some(parser) = &mut progress.parser else { return Ok(Vec::new()) };
        let mut parts = Vec::new();
        if let Some(token) = &event.token {
            parts.extend(parser.push(&token.text));
        }
        if !event.rest.is_empty() {
            parts.extend(parser.push(&event.rest));
        }
        if event.finish.is_some()
            && let Some(parser) = progress.parser.take()
        {
            parts.extend(parser.finish());
        }
        let (n_calls, max_calls) = (&mut progress.n_calls, self.max_calls);
        parts.retain(|part| {
            *n_calls += usize::from(matches!(part, AnswerEvent::CallStarted { .. }));
            let is_of_call =
                matches!(part, AnswerEvent::CallStarted { .. } | AnswerEvent::Arguments(_) | AnswerEvent::CallEnded);
            !is_of_call || *n_calls <= max_calls
        });
        Ok(parts)
    }

    fn reason(&self, choice: usize, finish: Finish) -> &'static str {
        // A call that was cut off is no call to make.
        match finish_reason(finish) {
            "stop" if self.choices[choice].n_calls > 0 => "tool_calls",
            reason => reason,
        }
    }

    async fn collect(&mut self) -> Result<Response> {
        let mut found: Vec<(Answer, &'static str)> = self.choices.iter().map(|_| (Answer::default(), "stop")).collect();
        while let Some(event) = self.answers.next().await? {
            for part in self.parse(&event)? {
                found[event.choice].0.add(&part);
            }
            if let Some(finish) = event.finish {
                found[event.choice].1 = self.reason(event.choice, finish);
            }
        }
        let choices = found.into_iter().enumerate().map(|(index, (answer, finish_reason))| {
            let call = |call: AnswerCall| Call {
                index: None,
                id: Some(call.id),
                kind: Some("function"),
                function: Function { name: Some(call.name), arguments: call.arguments },
            };
            let has_calls = !answer.calls.is_empty();
            let logprobs = std::mem::take(&mut self.choices[index].logprobs);
            let content = answer.content.or((!has_calls).then(String::new));
            let message = Message {
                role: "assistant",
                content,
                refusal: None,
                reasoning_content: answer.reasoning,
                tool_calls: answer.calls.into_iter().map(call).collect(),
            };
            let logprobs = (!logprobs.is_empty()).then(|| Logprobs::new(logprobs));
            let token_ids = self.choices[index].token_ids.take();
            Choice { index, message, logprobs, finish_reason, token_ids }
        });
        let choices: Vec<Choice> = choices.collect();
        let usage = Some(self.answers.total().into());
        Ok(Json(self.head.object(choices, usage)).into_response())
    }

    fn chunk(
        &mut self,
        events: &mut Events,
        index: usize,
        delta: Delta,
        finish_reason: Option<&'static str>,
    ) -> Result<()> {
        let logprobs = std::mem::take(&mut self.choices[index].logprobs);
        let logprobs = (!logprobs.is_empty()).then(|| Logprobs::new(logprobs));
        let usage = self.usage.always.then(|| self.answers.total().into());
        let token_ids = self.choices[index].token_ids.as_mut().map(std::mem::take);
        let choice = ChunkChoice { index, delta, logprobs, finish_reason, token_ids };
        events.push(&self.head.object(vec![choice], usage))
    }
}

/// The part of a message that an event adds.
fn delta(event: AnswerEvent, call: usize) -> Delta {
    let of_call = |id, kind, name, arguments| Delta {
        tool_calls: vec![Call { index: Some(call), id, kind, function: Function { name, arguments } }],
        ..Delta::default()
    };
    match event {
        AnswerEvent::Content(text) => Delta { content: Some(text), ..Delta::default() },
        AnswerEvent::Reasoning(text) => Delta { reasoning_content: Some(text), ..Delta::default() },
        AnswerEvent::CallStarted { id, name, .. } => of_call(Some(id), Some("function"), Some(name), String::new()),
        AnswerEvent::Arguments(text) => of_call(None, None, None, text),
        AnswerEvent::CallEnded => Delta::default(),
    }
}

impl Source for Run {
    async fn more(&mut self, events: &mut Events) -> Result<bool> {
        let Some(event) = self.answers.next().await? else {
            if self.usage.at_end {
                self.usage.at_end = false;
                events.push(&self.head.usage(self.answers.total()))?;
            }
            return Ok(false);
        };
        let choice = event.choice;
        if !self.choices[choice].has_role {
            self.choices[choice].has_role = true;
            let logprobs = std::mem::take(&mut self.choices[choice].logprobs);
            // The first chunk has the role, and nothing that a client could mistake for the end of the answer.
            let delta = Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
            self.chunk(events, choice, delta, None)?;
            self.choices[choice].logprobs = logprobs;
        }
        let mut call = self.choices[choice].n_calls.saturating_sub(1);
        for part in self.parse(&event)? {
            if let AnswerEvent::CallStarted { index, .. } = &part {
                call = *index;
            }
            let delta = delta(part, call);
            if !delta.is_empty() {
                self.chunk(events, choice, delta, None)?;
            }
        }
        if let Some(finish) = event.finish {
            let reason = self.reason(choice, finish);
            self.chunk(events, choice, Delta::default(), Some(reason))?;
        } else if !self.choices[choice].logprobs.is_empty() && event.token.is_some() {
            // Logarithms of tokens without text of their own.
            self.chunk(events, choice, Delta { content: Some(String::new()), ..Delta::default() }, None)?;
        }
        Ok(true)
    }
}
