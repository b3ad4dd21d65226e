//! Chats in the JSON of OpenAI's chat completions, and their form for templates.
//!
//! Templates expect what transformers users pass: content as one text, arguments of calls as objects. Clients send null, lists
//! of parts, and arguments as JSON text.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use super::chat::Chat;
use crate::RuntimeError;

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions. `developer` means the same.
    System,
    /// The person who asks.
    User,
    /// The model.
    Assistant,
    /// The result of a call. `function` means the same.
    Tool,
}

impl Role {
    /// The name in templates.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// A call in a message of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// The name that its result refers to; empty if there is none.
    pub id: String,
    /// The function.
    pub name: String,
    /// Arguments as JSON text.
    pub arguments: String,
}

/// A message of a chat.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatMessage {
    /// Who says it.
    pub role: Role,
    /// The text. Parts of text are joined by line breaks; null is empty.
    pub content: String,
    /// The reasoning before the text, which most templates leave out of all turns but the last.
    pub reasoning: Option<String>,
    /// Calls by the model.
    pub tool_calls: Vec<ToolCall>,
    /// The call whose result this is.
    pub tool_call_id: Option<String>,
    /// The name of the function or of the person.
    pub name: Option<String>,
    /// Further fields, for templates that know them.
    pub other: Map<String, Value>,
}

impl ChatMessage {
    /// A message with text.
    pub fn new(role: Role, content: impl Into<String>) -> ChatMessage {
        ChatMessage {
            role,
            content: content.into(),
            reasoning: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
            other: Map::new(),
        }
    }

    /// The message as templates expect it: arguments are objects, if their text is one.
    pub fn for_template(&self) -> Value {
        let mut fields = self.other.clone();
        fields.insert("role".to_owned(), self.role.name().into());
        fields.insert("content".to_owned(), self.content.clone().into());
        let texts =
            [("reasoning_content", &self.reasoning), ("tool_call_id", &self.tool_call_id), ("name", &self.name)];
        for (name, text) in texts {
            if let Some(text) = text {
                fields.insert(name.to_owned(), text.clone().into());
            }
        }
        if !self.tool_calls.is_empty() {
            let calls = self.tool_calls.iter().map(|ToolCall { id, name, arguments }| {
                let text = if arguments.trim().is_empty() { "{}" } else { arguments };
                let parsed = serde_json::from_str::<Value>(text).ok().filter(Value::is_object);
                let arguments = parsed.unwrap_or_else(|| arguments.clone().into());
                json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
            });
            fields.insert("tool_calls".to_owned(), calls.collect());
        }
        fields.into()
    }
}

/// What a client asks of a chat model. Keys that say how to generate, such as `temperature`, are ignored.
///
/// ```
/// use jamba_runtime::ChatRequest;
///
/// let request = ChatRequest::from_json(
///     r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "How warm is it in Rome?"}]}]}"#,
/// )?;
/// assert_eq!(request.chat().messages[0]["content"], "How warm is it in Rome?");
/// let error = ChatRequest::from_json(r#"{"messages": [{"role": "user", "content": 5}]}"#).unwrap_err();
/// assert_eq!(error.to_string(), "chat: messages[0].content: found 5, expected text, a list of parts, or null");
/// # Ok::<(), jamba_runtime::RuntimeError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// At least one.
    pub messages: Vec<ChatMessage>,
    /// Functions that the model may call, as JSON schemas.
    pub tools: Vec<Value>,
    /// Documents for the model: objects with `title` and `text`.
    pub documents: Vec<Value>,
    /// Variables of the template.
    pub chat_template_kwargs: Map<String, Value>,
    /// Appends the beginning of an answer. Default: true, unless the last message is the model's own.
    pub add_generation_prompt: bool,
    /// The answer continues the last message, which is the model's own, in place of beginning a new one.
    pub continue_final_message: bool,
}

impl ChatRequest {
    /// Reads a request, or a list of messages alone.
    ///
    /// # Errors
    /// The error names the field, what was found and what is expected.
    pub fn from_json(text: &str) -> Result<ChatRequest, RuntimeError> {
        let value: Value = serde_json::from_str(text).map_err(|error| failed(error.to_string()))?;
        ChatRequest::from_value(&value)
    }

    /// As [`ChatRequest::from_json`].
    ///
    /// # Errors
    /// As [`ChatRequest::from_json`].
    pub fn from_value(value: &Value) -> Result<ChatRequest, RuntimeError> {
        request(value).map_err(failed)
    }

    /// The variables of the chat template.
    pub fn chat(&self) -> Chat {
        let list = |values: &Vec<Value>| Some(values.clone()).filter(|values| !values.is_empty());
        Chat {
            messages: self.messages.iter().map(ChatMessage::for_template).collect(),
            tools: list(&self.tools),
            documents: list(&self.documents),
            add_generation_prompt: self.add_generation_prompt,
            continue_final_message: self.continue_final_message,
            template: None,
            variables: self.chat_template_kwargs.clone(),
        }
    }
}

impl<'de> Deserialize<'de> for ChatRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ChatRequest, D::Error> {
        request(&Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

fn failed(reason: String) -> RuntimeError {
    RuntimeError::Tokenizer { section: "chat", reason }
}

type Parsed<T> = Result<T, String>;

/// A value and the way to it.
#[derive(Clone)]
struct Field<'v> {
    path: String,
    value: &'v Value,
}

impl<'v> Field<'v> {
    fn wrong<T>(&self, expected: &str) -> Parsed<T> {
        let mut found = self.value.to_string();
        if let Some((end, _)) = found.char_indices().nth(60) {
            found.truncate(end);
            found.push('…');
        }
        let path = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
        Err(format!("{path}found {found}, expected {expected}"))
    }

    fn text(&self, expected: &str) -> Parsed<&'v str> {
        self.value.as_str().map_or_else(|| self.wrong(expected), Ok)
    }

    fn boolean(&self) -> Parsed<bool> {
        self.value.as_bool().map_or_else(|| self.wrong("true or false"), Ok)
    }

    fn object(&self, expected: &str) -> Parsed<&'v Map<String, Value>> {
        self.value.as_object().map_or_else(|| self.wrong(expected), Ok)
    }

    fn list(&self, expected: &str) -> Parsed<Vec<Field<'v>>> {
        let Some(items) = self.value.as_array() else { return self.wrong(expected) };
        let field = |(index, value)| Field { path: format!("{}[{index}]", self.path), value };
        Ok(items.iter().enumerate().map(field).collect())
    }

    /// A field of this object, unless it is absent or null.
    fn get(&self, name: &str) -> Option<Field<'v>> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(Field { path: self.join(name), value })
    }

    fn need(&self, name: &str, expected: &str) -> Parsed<Field<'v>> {
        self.get(name).map_or_else(|| Err(format!("{}: found nothing, expected {expected}", self.join(name))), Ok)
    }

    fn join(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

fn request(value: &Value) -> Parsed<ChatRequest> {
    let whole = Field { path: String::new(), value };
    let messages = match value {
        Value::Array(_) => Field { path: "messages".to_owned(), value },
        _ => {
            whole.object("an object with messages, or a list of messages")?;
            whole.need("messages", "a list of messages")?
        }
    };
    let messages: Vec<ChatMessage> = messages.list("a list of messages")?.iter().map(message).collect::<Parsed<_>>()?;
    let Some(last) = messages.last() else { return Err("messages: found none, expected at least one".to_owned()) };
    let objects = |name: &str, check: fn(&Field<'_>) -> Parsed<()>| {
        let Some(field) = whole.get(name) else { return Ok(Vec::new()) };
        let items = field.list("a list")?;
        items.iter().map(|item| check(item).map(|()| item.value.clone())).collect::<Parsed<Vec<Value>>>()
    };
    let add_generation_prompt = match whole.get("add_generation_prompt") {
        None => last.role != Role::Assistant,
        Some(field) => field.boolean()?,
    };
    let continue_final_message = match whole.get("continue_final_message") {
        None => false,
        Some(field) if !field.boolean()? => false,
        Some(field) if last.role != Role::Assistant => field.wrong("false, since the last message is no answer")?,
        Some(field) if add_generation_prompt => field.wrong("false with add_generation_prompt")?,
        Some(_) => true,
    };
    Ok(ChatRequest {
        tools: objects("tools", tool)?,
        documents: objects("documents", |item| item.object("an object with title and text").map(|_| ()))?,
        chat_template_kwargs: match whole.get("chat_template_kwargs") {
            None => Map::new(),
            Some(field) => field.object("an object with variables of the chat template")?.clone(),
        },
        add_generation_prompt,
        continue_final_message,
        messages,
    })
}

fn tool(tool: &Field<'_>) -> Parsed<()> {
    tool.object("an object with type and function")?;
    if let Some(kind) = tool.get("type")
        && kind.value != "function"
    {
        return kind.wrong("\"function\"");
    }
    // Templates take functions without a wrapper as well.
    let function = if tool.value.get("name").is_some() { tool.clone() } else { tool.need("function", "an object")? };
    function.need("name", "the name of a function")?.text("the name of a function").map(|_| ())
}

fn message(field: &Field<'_>) -> Parsed<ChatMessage> {
    const KNOWN: [&str; 8] =
        ["role", "content", "reasoning_content", "reasoning", "thinking", "tool_calls", "tool_call_id", "name"];
    let fields = field.object("a message: an object with role and content")?;
    const ROLES: &str = "system, developer, user, assistant or tool";
    let role_field = field.need("role", ROLES)?;
    let role = match role_field.text(ROLES)? {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" | "function" => Role::Tool,
        _ => return role_field.wrong(ROLES),
    };
    let text = |name: &str| field.get(name).map(|field| field.text("text").map(str::to_owned)).transpose();
    let reasoning = match text("reasoning_content")? {
        Some(reasoning) => Some(reasoning),
        None => text("reasoning")?.or(text("thinking")?),
    };
    let tool_calls = match field.get("tool_calls") {
        None => Vec::new(),
        Some(calls) if role != Role::Assistant && calls.value.as_array().is_some_and(|calls| !calls.is_empty()) => {
            return Err(format!(
                "{}: found calls in a message of role {}, expected role assistant",
                calls.path,
                role.name()
            ));
        }
        Some(calls) => calls.list("a list of calls")?.iter().map(call).collect::<Parsed<_>>()?,
    };
    let other = fields.iter().filter(|(name, value)| !KNOWN.contains(&name.as_str()) && !value.is_null());
    Ok(ChatMessage {
        role,
        content: content(field)?,
        reasoning,
        tool_calls,
        tool_call_id: text("tool_call_id")?,
        name: text("name")?,
        other: other.map(|(name, value)| (name.clone(), value.clone())).collect(),
    })
}

fn content(message: &Field<'_>) -> Parsed<String> {
    let Some(content) = message.get("content") else { return Ok(String::new()) };
    if let Some(text) = content.value.as_str() {
        return Ok(text.to_owned());
    }
    let parts = content.list("text, a list of parts, or null")?;
    let texts = parts.iter().map(|part| {
        const PART: &str = "a part: an object with type and text";
        if let Some(text) = part.value.as_str() {
            return Ok(text);
        }
        part.object(PART)?;
        let kind = part.need("type", "\"text\"")?;
        match kind.value.as_str() {
            Some("text" | "input_text" | "output_text") => part.need("text", "text")?.text("text"),
            _ => kind.wrong("\"text\": the model reads text only"),
        }
    });
    Ok(texts.collect::<Parsed<Vec<&str>>>()?.join("\n"))
}

fn call(field: &Field<'_>) -> Parsed<ToolCall> {
    field.object("a call: an object with id, type and function")?;
    if let Some(kind) = field.get("type")
        && kind.value != "function"
    {
        return kind.wrong("\"function\"");
    }
    let function = field.need("function", "an object with name and arguments")?;
    function.object("an object with name and arguments")?;
    let arguments = match function.get("arguments") {
        None => "{}".to_owned(),
        Some(arguments) => match arguments.value {
            Value::String(text) => text.clone(),
            Value::Object(_) => arguments.value.to_string(),
            _ => return arguments.wrong("JSON text, or an object"),
        },
    };
    let name = function.need("name", "the name of a function")?.text("the name of a function")?.to_owned();
    let id = field.get("id").map_or(Ok(""), |id| id.text("text"))?.to_owned();
    Ok(ToolCall { id, name, arguments })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_messages_become_those_of_templates() {
        let request = ChatRequest::from_json(
            r#"{
                "model": "any", "temperature": 0.5, "stream": true,
                "messages": [
                    {"role": "developer", "content": "Be brief."},
                    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ann"},
                    {"role": "assistant", "content": null, "reasoning": "Hm.", "tool_calls": [
                        {"id": "c0", "type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": [null]}"}},
                        {"id": "c1", "type": "function", "function": {"name": "g", "arguments": "{broken"}},
                        {"function": {"name": "h", "arguments": ""}}
                    ]},
                    {"role": "tool", "content": "5", "tool_call_id": "c0", "refusal": null, "extra": [1]}
                ],
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}, {"name": "g"}],
                "documents": [{"title": "t", "text": "x"}],
                "chat_template_kwargs": {"enable_thinking": false}
            }"#,
        )
        .unwrap();
        let chat = request.chat();
        assert_eq!(
            chat.messages,
            [
                json!({"role": "system", "content": "Be brief."}),
                json!({"role": "user", "content": "a\nb", "name": "Ann"}),
                json!({"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [
                    {"id": "c0", "type": "function", "function": {"name": "f", "arguments": {"b": 1, "a": [null]}}},
                    {"id": "c1", "type": "function", "function": {"name": "g", "arguments": "{broken"}},
                    {"id": "", "type": "function", "function": {"name": "h", "arguments": {}}},
                ]}),
                json!({"role": "tool", "content": "5", "tool_call_id": "c0", "extra": [1]}),
            ]
        );
        // The order of keys is the model's.
        assert!(chat.messages[2].to_string().contains(r#"{"b":1,"a":[null]}"#));
        assert_eq!((chat.tools.unwrap().len(), chat.documents.unwrap().len()), (2, 1));
        assert_eq!(chat.variables["enable_thinking"], false);
        assert!(chat.add_generation_prompt && chat.template.is_none());
        let alone = ChatRequest::from_json(r#"[{"role": "user"}, {"role": "assistant", "content": "Well"}]"#).unwrap();
        assert!(!alone.add_generation_prompt && alone.chat().tools.is_none());
        let by_serde: ChatRequest = serde_json::from_str(r#"[{"role": "user", "content": ["a", "b"]}]"#).unwrap();
        assert_eq!(by_serde.messages, [ChatMessage::new(Role::User, "a\nb")]);
    }

    #[test]
    fn errors_name_the_field() {
        let table = [
            ("5", "found 5, expected an object with messages, or a list of messages"),
            ("{}", "messages: found nothing, expected a list of messages"),
            ("[]", "messages: found none, expected at least one"),
            (r#"["Hi"]"#, "messages[0]: found \"Hi\", expected a message: an object with role and content"),
            (
                r#"[{"content": "a"}]"#,
                "messages[0].role: found nothing, expected system, developer, user, assistant or tool",
            ),
            (
                r#"[{"role": "robot"}]"#,
                "messages[0].role: found \"robot\", expected system, developer, user, assistant or tool",
            ),
            (
                r#"[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]}]"#,
                "messages[0].content[1].type: found \"image_url\", expected \"text\": the model reads text only",
            ),
            (
                r#"[{"role": "user", "content": [{"type": "text"}]}]"#,
                "messages[0].content[0].text: found nothing, expected text",
            ),
            (
                r#"[{"role": "user", "tool_calls": [{}]}]"#,
                "messages[0].tool_calls: found calls in a message of role user, expected role assistant",
            ),
            (
                r#"[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]}]"#,
                "messages[0].tool_calls[0].function.arguments: found 5, expected JSON text, or an object",
            ),
            (
                r#"[{"role": "assistant", "tool_calls": [{"type": "web"}]}]"#,
                "messages[0].tool_calls[0].type: found \"web\", expected \"function\"",
            ),
            (
                r#"{"messages": [{"role": "user"}], "tools": [{"type": "function", "function": {}}]}"#,
                "tools[0].function.name: found nothing, expected the name of a function",
            ),
            (
                r#"{"messages": [{"role": "user"}], "documents": ["a"]}"#,
                "documents[0]: found \"a\", expected an object with title and text",
            ),
            (
                r#"{"messages": [{"role": "user"}], "chat_template_kwargs": []}"#,
                "chat_template_kwargs: found [], expected an object",
            ),
            (
                r#"{"messages": [{"role": "user"}], "add_generation_prompt": 1}"#,
                "add_generation_prompt: found 1, expected true or false",
            ),
            (
                r#"{"messages": [{"role": "user"}], "continue_final_message": true}"#,
                "continue_final_message: found true, expected false, since the last message is no answer",
            ),
            (
                r#"{"messages": [{"role": "assistant"}], "continue_final_message": true, "add_generation_prompt": true}"#,
                "continue_final_message: found true, expected false with add_generation_prompt",
            ),
        ];
        for (text, expected) in table {
            let error = ChatRequest::from_json(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("chat: {expected}")), "{text}: {error}");
        }
        let long = format!(r#"[{{"role": {:?}}}]"#, "r".repeat(1000));
        assert!(ChatRequest::from_json(&long).unwrap_err().to_string().len() < 200);
        assert!(ChatRequest::from_json("[{").unwrap_err().to_string().contains("line 1"));
    }
}
