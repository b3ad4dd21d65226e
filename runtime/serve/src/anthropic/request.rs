//! Requests of Anthropic's API, turned into chats of OpenAI's.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::body;
use crate::error::{ApiError, Result};

/// The fields that have other names or forms in OpenAI's API. The rest is handed on as it is.
#[derive(Deserialize, ToSchema)]
#[schema(as = MessagesBody)]
pub(crate) struct Body {
    #[schema(min_items = 1)]
    messages: Vec<Message>,
    system: Option<Content>,
    stop_sequences: Option<Vec<String>>,
    tools: Option<Vec<Tool>>,
    tool_choice: Option<ToolChoice>,
    n: Option<usize>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = MessagesMessage)]
struct Message {
    role: Role,
    content: Content,
}

#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = MessagesRole)]
enum Role {
    User,
    Assistant,
    System,
}

/// A text, or blocks.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = MessagesContent)]
enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

#[derive(Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = MessagesBlock)]
enum Block {
    Text {
        text: String,
    },
    Thinking {
        thinking: String,
    },
    ToolUse {
        id: String,
        name: String,
        #[schema(value_type = Object)]
        input: Value,
    },
    ToolResult {
        tool_use_id: String,
        /// A text, or blocks of text.
        #[schema(value_type = Option<String>)]
        content: Option<Content>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = MessagesTool)]
struct Tool {
    name: String,
    description: Option<String>,
    #[schema(value_type = Option<Object>)]
    input_schema: Option<Value>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = MessagesToolChoice)]
struct ToolChoice {
    #[serde(rename = "type")]
    #[schema(pattern = "^(auto|any|none|tool)$")]
    kind: String,
    name: Option<String>,
    disable_parallel_tool_use: Option<bool>,
}

impl Content {
    /// The text of a content that has nothing else.
    fn into_text(self, path: &str) -> Result<String> {
        match self {
            Content::Text(text) => Ok(text),
            Content::Blocks(blocks) => {
                let texts = blocks.into_iter().map(|block| match block {
                    Block::Text { text } => Ok(text),
                    _ => Err(ApiError::field(path, "expected text alone")),
                });
                Ok(texts.collect::<Result<Vec<_>>>()?.join("\n"))
            }
        }
    }
}

/// The body as one of `/v1/chat/completions`.
pub(super) fn to_chat(value: &Value) -> Result<Value> {
    let Body { messages, system, stop_sequences, tools, tool_choice, n } = body::read(value)?;
    if n.is_some_and(|n| n != 1) {
        return Err(ApiError::unsupported("n", "a message has one answer"));
    }
    let mut chat = Vec::new();
    if let Some(system) = system {
        chat.push(json!({ "role": "system", "content": system.into_text("system")? }));
    }
    for (index, message) in messages.into_iter().enumerate() {
        add_message(&mut chat, message, &format!("messages[{index}].content"))?;
    }
    let mut fields: Map<String, Value> = value.as_object().cloned().unwrap_or_default();
    for name in ["system", "stop_sequences", "tools", "tool_choice", "thinking", "metadata"] {
        fields.remove(name);
    }
    fields.insert("messages".to_owned(), chat.into());
    if let Some(stop) = stop_sequences {
        fields.insert("stop".to_owned(), stop.into());
    }
    if let Some(tools) = tools {
        let function = |tool: Tool| {
            let Tool { name, description, input_schema } = tool;
            json!({
                "type": "function",
                "function": { "name": name, "description": description, "parameters": input_schema },
            })
        };
        fields.insert("tools".to_owned(), tools.into_iter().map(function).collect());
    }
    if let Some(ToolChoice { kind, name, disable_parallel_tool_use }) = tool_choice {
        let choice = match (kind.as_str(), name) {
            ("auto" | "none", _) => json!(kind),
            ("any", _) => json!("required"),
            ("tool", Some(name)) => json!({ "type": "function", "function": { "name": name } }),
            _ => {
                let expected = "expected \"auto\", \"any\", \"none\", or \"tool\" with a name";
                return Err(ApiError::field("tool_choice.type", format!("found {kind:?}, {expected}")));
            }
        };
        fields.insert("tool_choice".to_owned(), choice);
        fields.insert("parallel_tool_calls".to_owned(), (disable_parallel_tool_use != Some(true)).into());
    }
    Ok(fields.into())
}

/// Adds the messages that one of Anthropic's is: results of calls are messages of their own in OpenAI's API.
fn add_message(chat: &mut Vec<Value>, Message { role, content }: Message, path: &str) -> Result<()> {
    let blocks = match content {
        Content::Text(text) => vec![Block::Text { text }],
        Content::Blocks(blocks) => blocks,
    };
    let (mut texts, mut reasoning, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for (index, block) in blocks.into_iter().enumerate() {
        match (block, role) {
            (Block::Text { text }, _) => texts.push(text),
            (Block::Thinking { thinking }, Role::Assistant) => reasoning.push(thinking),
            (Block::ToolUse { id, name, input }, Role::Assistant) => calls.push(json!({
                "id": id, "type": "function", "function": { "name": name, "arguments": input.to_string() },
            })),
            (Block::ToolResult { tool_use_id, content }, Role::User) => {
                let path = format!("{path}[{index}].content");
                let text = content.map_or_else(|| Ok(String::new()), |content| content.into_text(&path))?;
                chat.push(json!({ "role": "tool", "tool_call_id": tool_use_id, "content": text }));
            }
            _ => {
                return Err(ApiError::field(
                    format!("{path}[{index}].type"),
                    "expected \"text\", \"tool_result\" of the user, or \"tool_use\" or \"thinking\" of the assistant",
                ));
            }
        }
    }
    let text = texts.join("\n");
    match role {
        Role::User | Role::System if texts.is_empty() => {}
        Role::User => chat.push(json!({ "role": "user", "content": text })),
        Role::System => chat.push(json!({ "role": "system", "content": text })),
        Role::Assistant => {
            let mut message = json!({ "role": "assistant", "content": text });
            if !calls.is_empty() {
                message["tool_calls"] = calls.into();
            }
            if !reasoning.is_empty() {
                message["reasoning_content"] = reasoning.join("\n").into();
            }
            chat.push(message);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chats_keep_their_calls_and_results() {
        let body = json!({
            "model": "m", "max_tokens": 5, "stop_sequences": ["x"], "metadata": {},
            "system": [{ "type": "text", "text": "Be brief." }],
            "tools": [{ "name": "weather", "input_schema": { "type": "object" } }],
            "tool_choice": { "type": "any", "disable_parallel_tool_use": true },
            "messages": [
                { "role": "user", "content": "Rome?" },
                { "role": "assistant", "content": [
                    { "type": "thinking", "thinking": "Hm.", "signature": "" },
                    { "type": "tool_use", "id": "t1", "name": "weather", "input": { "place": "Rome" } },
                ] },
                { "role": "user", "content": [
                    { "type": "tool_result", "tool_use_id": "t1", "content": [{ "type": "text", "text": "Rain." }] },
                    { "type": "text", "text": "And?" },
                ] },
            ],
        });
        let arguments = json!({ "place": "Rome" }).to_string();
        let expected = json!({
            "model": "m", "max_tokens": 5, "stop": ["x"], "tool_choice": "required", "parallel_tool_calls": false,
            "messages": [
                { "role": "system", "content": "Be brief." },
                { "role": "user", "content": "Rome?" },
                {
                    "role": "assistant", "content": "", "reasoning_content": "Hm.",
                    "tool_calls": [
                        { "id": "t1", "type": "function", "function": { "name": "weather", "arguments": arguments } },
                    ],
                },
                { "role": "tool", "tool_call_id": "t1", "content": "Rain." },
                { "role": "user", "content": "And?" },
            ],
            "tools": [{
                "type": "function",
                "function": { "name": "weather", "description": null, "parameters": { "type": "object" } },
            }],
        });
        assert_eq!(to_chat(&body).expect("a chat"), expected);
    }

    #[test]
    fn what_is_no_text_is_named() {
        let image = json!({ "messages": [{ "role": "user", "content": [{ "type": "image", "source": {} }] }] });
        let error = to_chat(&image).expect_err("an image").to_json();
        assert!(error.contains("messages[0].content[0].type"), "{error}");
        let choice = json!({ "messages": [], "tool_choice": { "type": "tool" } });
        assert!(to_chat(&choice).expect_err("no name").to_json().contains("tool_choice.type"));
    }
}
