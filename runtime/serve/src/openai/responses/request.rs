//! Requests of the Responses API, turned into chats of `/v1/chat/completions`.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::body;
use crate::error::{ApiError, Result};
use crate::openapi::ResponseInput;

/// The fields that have other names or forms in chats, and those that are refused. The rest is handed on as it is.
#[derive(Deserialize, ToSchema)]
#[schema(as = ResponseOptions)]
pub(crate) struct Fields {
    /// A text, or a list of items.
    #[schema(value_type = ResponseInput)]
    input: Option<Value>,
    instructions: Option<String>,
    #[schema(minimum = 1)]
    max_output_tokens: Option<usize>,
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    #[schema(value_type = Option<Object>)]
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    text: Option<Text>,
    reasoning: Option<Reasoning>,
    /// The answer goes on from this response, which the server has kept.
    previous_response_id: Option<String>,
    /// Keeps the response for `previous_response_id`: true unless told otherwise.
    store: Option<bool>,
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
    #[schema(value_type = Option<String>)]
    user: Option<Value>,
    background: Option<bool>,
    #[schema(value_type = Option<Object>)]
    conversation: Option<Value>,
    #[schema(value_type = Option<Object>)]
    prompt: Option<Value>,
    truncation: Option<String>,
    include: Option<Vec<String>>,
    top_logprobs: Option<usize>,
    n: Option<usize>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = ResponseText)]
struct Text {
    format: Option<Format>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = ResponseTextFormat)]
struct Format {
    #[serde(rename = "type")]
    #[schema(pattern = "^(text|json_object|json_schema)$")]
    kind: String,
    #[schema(value_type = Option<Object>)]
    schema: Option<Value>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = ResponseReasoning)]
struct Reasoning {
    effort: Option<String>,
}

/// What becomes of a request.
pub(super) struct Asked {
    /// The body of `/v1/chat/completions`.
    pub(super) chat: Value,
    /// Its messages without the instructions, if the response is to be kept.
    pub(super) messages: Option<Vec<Value>>,
    /// The fields of the request that its response repeats.
    pub(super) repeated: Map<String, Value>,
}

/// The response that a request goes on from.
pub(super) fn previous(value: &Value) -> Option<&str> {
    value["previous_response_id"].as_str()
}

/// Reads a request that goes on from `earlier` messages.
pub(super) fn read(value: &Value, earlier: Vec<Value>) -> Result<Asked> {
    let fields: Fields = body::read(value)?;
    refuse_unsupported(&fields)?;
    let mut turns = Turns { messages: earlier, said: None };
    match &fields.input {
        Some(Value::String(text)) => turns.add(json!({ "role": "user", "content": text })),
        Some(Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                turns.add_item(item, &format!("input[{index}]"))?;
            }
        }
        None | Some(Value::Null) if fields.previous_response_id.is_some() => {}
        _ => return Err(ApiError::field("input", "expected a text, or a list of items")),
    }
    let mut messages = turns.end();
    if messages.is_empty() {
        return Err(ApiError::field("input", "found no items, expected at least one"));
    }
    let kept = (fields.store != Some(false)).then(|| messages.clone());
    // Instructions are those of this request alone.
    if let Some(text) = &fields.instructions {
        messages.insert(0, json!({ "role": "system", "content": text }));
    }
    let mut chat: Map<String, Value> = value.as_object().cloned().unwrap_or_default();
    for name in OWN {
        chat.shift_remove(name);
    }
    chat.insert("messages".to_owned(), messages.into());
    if let Some(most) = fields.max_output_tokens {
        if most == 0 {
            return Err(ApiError::field("max_output_tokens", "found 0, expected 1 or more"));
        }
        chat.insert("max_completion_tokens".to_owned(), most.into());
    }
    if let Some(tools) = &fields.tools {
        chat.insert("tools".to_owned(), tools.iter().enumerate().map(function).collect::<Result<_>>()?);
    }
    if let Some(choice) = &fields.tool_choice {
        chat.insert("tool_choice".to_owned(), tool_choice(choice)?);
    }
    if let Some(format) = fields.text.as_ref().and_then(|text| text.format.as_ref()) {
        let Format { kind, schema } = format;
        if kind == "json_schema" && schema.is_none() {
            return Err(ApiError::field("text.format.schema", "missing"));
        }
        if !["text", "json_object", "json_schema"].contains(&kind.as_str()) {
            let expected = "expected \"text\", \"json_object\" or \"json_schema\"";
            return Err(ApiError::field("text.format.type", format!("found {kind:?}, {expected}")));
        }
        let format = json!({ "type": kind, "json_schema": { "schema": schema } });
        chat.insert("response_format".to_owned(), format);
    }
    if let Some(effort) = fields.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_ref()) {
        chat.insert("reasoning_effort".to_owned(), effort.as_str().into());
    }
    Ok(Asked { chat: chat.into(), messages: kept, repeated: repeated(value, &fields) })
}

/// The messages of a chat, with the items of its answer.
pub(super) fn answered(messages: Vec<Value>, output: &Value) -> Result<Vec<Value>> {
    let mut turns = Turns { messages, said: None };
    for item in output.as_array().into_iter().flatten() {
        turns.add_item(item, "output")?;
    }
    Ok(turns.end())
}

/// Fields of a request that no chat has under these names.
const OWN: [&str; 18] = [
    "input",
    "instructions",
    "max_output_tokens",
    "max_tokens",
    "tools",
    "tool_choice",
    "text",
    "reasoning",
    "previous_response_id",
    "store",
    "metadata",
    "background",
    "conversation",
    "prompt",
    "truncation",
    "include",
    "top_logprobs",
    "logprobs",
];

fn refuse_unsupported(fields: &Fields) -> Result<()> {
    let is_given = |value: &Option<Value>| value.as_ref().is_some_and(|value| !value.is_null());
    if fields.background == Some(true) {
        return Err(ApiError::unsupported("background", "not supported: wait for the answer, or stream it"));
    }
    if is_given(&fields.conversation) {
        return Err(ApiError::unsupported(
            "conversation",
            "not supported: use previous_response_id, or send all items",
        ));
    }
    if is_given(&fields.prompt) {
        return Err(ApiError::unsupported("prompt", "the server keeps no templates of prompts: use input"));
    }
    if fields.truncation.as_ref().is_some_and(|truncation| truncation != "disabled") {
        return Err(ApiError::unsupported("truncation", "not supported but for \"disabled\": send fewer items"));
    }
    let wants_logprobs = |include: &Vec<String>| include.iter().any(|name| name.ends_with("logprobs"));
    if fields.top_logprobs.is_some_and(|n| n > 0) || fields.include.as_ref().is_some_and(wants_logprobs) {
        return Err(ApiError::unsupported("top_logprobs", "not supported here: use /v1/chat/completions"));
    }
    if fields.n.is_some_and(|n| n != 1) {
        return Err(ApiError::unsupported("n", "a response has one answer"));
    }
    Ok(())
}

/// What a response repeats of its request.
fn repeated(value: &Value, fields: &Fields) -> Map<String, Value> {
    let given = |name: &str, default: Value| match &value[name] {
        Value::Null => default,
        value => value.clone(),
    };
    let format = value["text"].get("format").filter(|format| !format.is_null()).cloned();
    let effort = fields.reasoning.as_ref().and_then(|reasoning| reasoning.effort.clone());
    let fields = json!({
        "instructions": fields.instructions,
        "max_output_tokens": fields.max_output_tokens,
        "metadata": fields.metadata.clone().unwrap_or_default(),
        "parallel_tool_calls": fields.parallel_tool_calls.unwrap_or(true),
        "previous_response_id": fields.previous_response_id,
        "reasoning": { "effort": effort, "summary": null },
        "store": fields.store.unwrap_or(true),
        "text": { "format": format.unwrap_or_else(|| json!({ "type": "text" })) },
        "tool_choice": given("tool_choice", json!("auto")),
        "tools": given("tools", json!([])),
        "truncation": "disabled",
        "user": fields.user,
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// A function, in the form that chats have.
fn function((index, tool): (usize, &Value)) -> Result<Value> {
    if tool["type"] != "function" {
        let found = &tool["type"];
        let message = format!("found {found}, expected \"function\": the server runs no tools of its own");
        return Err(ApiError::field(format!("tools[{index}].type"), message));
    }
    if !tool["name"].is_string() {
        return Err(ApiError::field(format!("tools[{index}].name"), "expected the name of the function"));
    }
    let mut function = Map::new();
    for name in ["name", "description", "parameters", "strict"] {
        function.extend(tool.get(name).filter(|value| !value.is_null()).map(|value| (name.to_owned(), value.clone())));
    }
    Ok(json!({ "type": "function", "function": function }))
}

fn tool_choice(choice: &Value) -> Result<Value> {
    match (choice, choice["type"].as_str(), choice["name"].as_str()) {
        (Value::String(_) | Value::Null, ..) => Ok(choice.clone()),
        (_, Some("function"), Some(name)) => Ok(json!({ "type": "function", "function": { "name": name } })),
        _ => {
            let expected = "\"none\", \"auto\", \"required\" or {\"type\": \"function\", \"name\": …}";
            Err(ApiError::field("tool_choice", format!("expected {expected}")))
        }
    }
}

/// Items as messages. Reasoning, text and calls that follow one another are one message of the model.
struct Turns {
    messages: Vec<Value>,
    /// The model's message in progress.
    said: Option<Value>,
}

impl Turns {
    fn add(&mut self, message: Value) {
        self.messages.extend(self.said.take());
        self.messages.push(message);
    }

    fn end(mut self) -> Vec<Value> {
        self.messages.extend(self.said.take());
        self.messages
    }

    /// The model's message in progress, unless `name` or what comes after it is said; else a new one.
    fn said(&mut self, before: &[&str]) -> &mut Value {
        if self.said.as_ref().is_some_and(|said| before.iter().any(|name| said.get(name).is_some())) {
            self.messages.extend(self.said.take());
        }
        self.said.get_or_insert_with(|| json!({ "role": "assistant" }))
    }

    fn add_item(&mut self, item: &Value, path: &str) -> Result<()> {
        let field = |name: &str| {
            let missing = || ApiError::field(format!("{path}.{name}"), "expected text");
            item[name].as_str().ok_or_else(missing)
        };
        match item.get("type").map_or(Some("message"), Value::as_str) {
            Some("message") => {
                let text = text_of(&item["content"], &format!("{path}.content"))?;
                match field("role")? {
                    role @ ("user" | "system" | "developer") => self.add(json!({ "role": role, "content": text })),
                    "assistant" => self.said(&["content", "tool_calls"])["content"] = text.into(),
                    role => {
                        let expected = "expected \"user\", \"assistant\", \"system\" or \"developer\"";
                        return Err(ApiError::field(format!("{path}.role"), format!("found {role:?}, {expected}")));
                    }
                }
            }
            Some("reasoning") => {
                let parts = [("content", &item["content"]), ("summary", &item["summary"])];
                let part = parts.into_iter().find(|(_, part)| part.as_array().is_some_and(|parts| !parts.is_empty()));
                if let Some((name, part)) = part {
                    let text = text_of(part, &format!("{path}.{name}"))?;
                    self.said(&["reasoning_content", "content", "tool_calls"])["reasoning_content"] = text.into();
                }
            }
            Some("function_call") => {
                let function = json!({ "name": field("name")?, "arguments": field("arguments")? });
                let call = json!({ "id": field("call_id")?, "type": "function", "function": function });
                let said = self.said(&[]);
                match said["tool_calls"].as_array_mut() {
                    Some(calls) => calls.push(call),
                    None => said["tool_calls"] = json!([call]),
                }
            }
            Some("function_call_output") => {
                let text = text_of(&item["output"], &format!("{path}.output"))?;
                self.add(json!({ "role": "tool", "tool_call_id": field("call_id")?, "content": text }));
            }
            kind => {
                let expected = "expected \"message\", \"reasoning\", \"function_call\" or \"function_call_output\"";
                let found = kind.map_or_else(String::new, |kind| format!("found {kind:?}, "));
                return Err(ApiError::field(format!("{path}.type"), format!("{found}{expected}")));
            }
        }
        Ok(())
    }
}

/// A text, or parts of text.
fn text_of(content: &Value, path: &str) -> Result<String> {
    let parts = match content {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        _ => return Err(ApiError::field(path, "expected a text, or a list of parts")),
    };
    let texts = parts.iter().enumerate().map(|(index, part)| {
        let name = match part["type"].as_str() {
            Some("input_text" | "output_text" | "text" | "summary_text" | "reasoning_text") => "text",
            Some("refusal") => "refusal",
            _ => {
                let message = "expected \"input_text\" or \"output_text\": the model reads text only";
                return Err(ApiError::field(format!("{path}[{index}].type"), message));
            }
        };
        part[name].as_str().ok_or_else(|| ApiError::field(format!("{path}[{index}].{name}"), "expected text"))
    });
    Ok(texts.collect::<Result<Vec<_>>>()?.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_the_turns_of_a_chat() {
        let body = json!({
            "model": "m", "seed": 3, "instructions": "Be brief.", "max_output_tokens": 5, "store": false,
            "text": { "format": { "type": "json_schema", "name": "n", "schema": { "type": "null" } } },
            "tools": [{ "type": "function", "name": "weather", "parameters": { "type": "object" }, "strict": true }],
            "tool_choice": { "type": "function", "name": "weather" },
            "reasoning": { "effort": "low" },
            "input": [
                { "role": "user", "content": [{ "type": "input_text", "text": "Rome?" }] },
                { "type": "reasoning", "id": "r", "summary": [], "content": [{ "type": "reasoning_text", "text": "Hm." }] },
                { "type": "function_call", "call_id": "a", "name": "weather", "arguments": "{}" },
                { "type": "function_call", "call_id": "b", "name": "weather", "arguments": "{}" },
                { "type": "function_call_output", "call_id": "a", "output": "Rain." },
                { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "Wet." }] },
                { "type": "message", "role": "assistant", "content": "Cold." },
                { "role": "developer", "content": "Go on." },
            ],
        });
        let call =
            |id: &str| json!({ "id": id, "type": "function", "function": { "name": "weather", "arguments": "{}" } });
        let expected = json!({
            "model": "m", "seed": 3, "max_completion_tokens": 5, "reasoning_effort": "low",
            "messages": [
                { "role": "system", "content": "Be brief." },
                { "role": "user", "content": "Rome?" },
                { "role": "assistant", "reasoning_content": "Hm.", "tool_calls": [call("a"), call("b")] },
                { "role": "tool", "tool_call_id": "a", "content": "Rain." },
                { "role": "assistant", "content": "Wet." },
                { "role": "assistant", "content": "Cold." },
                { "role": "developer", "content": "Go on." },
            ],
            "tools": [{
                "type": "function",
                "function": { "name": "weather", "parameters": { "type": "object" }, "strict": true },
            }],
            "tool_choice": { "type": "function", "function": { "name": "weather" } },
            "response_format": { "type": "json_schema", "json_schema": { "schema": { "type": "null" } } },
        });
        let Asked { chat, messages, repeated } = read(&body, Vec::new()).expect("a chat");
        assert_eq!((chat, messages), (expected, None));
        assert_eq!(repeated["text"], body["text"]);
        let earlier =
            vec![json!({ "role": "user", "content": "Hi" }), json!({ "role": "assistant", "content": "Hi." })];
        let more = json!({ "input": "And?", "instructions": "Be long." });
        let Asked { chat, messages, .. } = read(&more, earlier).expect("a chat");
        let kept = messages.expect("kept");
        assert_eq!((kept.len(), &kept[2]), (3, &json!({ "role": "user", "content": "And?" })));
        let messages = chat["messages"].clone();
        let roles: Vec<_> = messages.as_array().expect("a list").iter().map(|message| &message["role"]).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, param) in [
            (json!({}), "input"),
            (json!({ "input": [] }), "input"),
            (json!({ "input": 5 }), "input"),
            (
                json!({ "input": [{ "role": "user", "content": [{ "type": "input_image" }] }] }),
                "input[0].content[0].type",
            ),
            (
                json!({ "input": [{ "role": "user", "content": [{ "type": "input_text" }] }] }),
                "input[0].content[0].text",
            ),
            (json!({ "input": [{ "role": "judge", "content": "a" }] }), "input[0].role"),
            (json!({ "input": [{ "type": "item_reference", "id": "a" }] }), "input[0].type"),
            (json!({ "input": [{ "type": "function_call", "name": "a" }] }), "input[0].arguments"),
            (json!({ "input": "a", "tools": [{ "type": "web_search" }] }), "tools[0].type"),
            (json!({ "input": "a", "tools": [{ "type": "function" }] }), "tools[0].name"),
            (json!({ "input": "a", "tool_choice": { "type": "mcp" } }), "tool_choice"),
            (json!({ "input": "a", "text": { "format": { "type": "xml" } } }), "text.format.type"),
            (json!({ "input": "a", "text": { "format": { "type": "json_schema" } } }), "text.format.schema"),
            (json!({ "input": "a", "max_output_tokens": 0 }), "max_output_tokens"),
            (json!({ "input": "a", "background": true }), "background"),
            (json!({ "input": "a", "conversation": "c" }), "conversation"),
            (json!({ "input": "a", "truncation": "auto" }), "truncation"),
            (json!({ "input": "a", "top_logprobs": 2 }), "top_logprobs"),
            (json!({ "input": "a", "n": 2 }), "n"),
        ] {
            let Err(error) = read(&body, Vec::new()) else { panic!("{body} was read") };
            assert!(error.to_json().contains(&format!("\"param\":\"{param}\"")), "{body}: {}", error.to_json());
        }
    }
}
