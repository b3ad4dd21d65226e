//! Requests of Ollama's API, turned into chats of OpenAI's.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::body;
use crate::error::{ApiError, Result};
use crate::sampling::OneOrMany;

/// The body of `/api/chat`.
#[derive(Deserialize, ToSchema)]
#[schema(as = OllamaChat)]
pub(crate) struct ChatFields {
    /// Without any, the answer says that the model is loaded.
    #[schema(value_type = Option<Vec<Message>>)]
    messages: Option<Vec<Value>>,
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    #[serde(flatten)]
    common: Common,
}

/// The body of `/api/generate`.
#[derive(Deserialize, ToSchema)]
#[schema(as = OllamaGenerate)]
pub(crate) struct GenerateFields {
    /// Without one, the answer says that the model is loaded.
    prompt: Option<String>,
    system: Option<String>,
    /// The prompt is continued as it is, without the model's template.
    raw: Option<bool>,
    suffix: Option<String>,
    template: Option<String>,
    context: Option<Vec<u32>>,
    images: Option<Vec<String>>,
    #[serde(flatten)]
    common: Common,
}

/// A message as Ollama's clients send it.
#[derive(Deserialize, ToSchema)]
#[schema(as = OllamaMessage)]
#[expect(dead_code, reason = "a schema")]
pub(crate) struct Message {
    #[schema(pattern = "^(system|user|assistant|tool)$")]
    role: String,
    content: Option<String>,
    thinking: Option<String>,
    #[schema(value_type = Option<Vec<Object>>, max_items = 0)]
    tool_calls: Option<Vec<Value>>,
    /// The function whose result this is.
    tool_name: Option<String>,
}

/// What both bodies have.
#[derive(Deserialize, ToSchema)]
#[schema(as = OllamaCommon)]
struct Common {
    model: Option<String>,
    /// True unless told otherwise.
    stream: Option<bool>,
    /// `"json"`, or a JSON schema.
    #[schema(value_type = Option<Object>)]
    format: Option<Value>,
    options: Option<Options>,
    /// Whether, or how much, the model reasons first.
    #[schema(value_type = Option<bool>)]
    think: Option<Value>,
    #[schema(value_type = Option<String>)]
    keep_alive: Option<Value>,
}

/// `options`; others are ignored. The context is the plan's, whatever `num_ctx`.
#[derive(Default, Deserialize, ToSchema)]
#[schema(as = OllamaOptions)]
struct Options {
    /// Most new tokens; 0 or less is no limit.
    num_predict: Option<i64>,
    #[schema(minimum = 0, maximum = 100)]
    temperature: Option<f32>,
    #[schema(minimum = -1)]
    top_k: Option<i64>,
    #[schema(exclusive_minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f32>,
    seed: Option<i64>,
    stop: Option<OneOrMany<String>>,
    #[schema(exclusive_minimum = 0)]
    repeat_penalty: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f32>,
}

/// What becomes of a request.
pub(super) struct Asked {
    pub(super) model: Option<String>,
    pub(super) work: Work,
    /// Reasoning is told.
    pub(super) shows_thinking: bool,
}

/// The bodies are those of `/v1/chat/completions`.
#[derive(Debug, PartialEq)]
pub(super) enum Work {
    Chat(Value),
    /// A text that is continued as it is, and the fields about sampling.
    Text(String, Value),
    /// Nothing: the model is there.
    Load {
        /// Ollama's clients ask so that the model is unloaded, which this server does not do.
        ends: bool,
    },
}

/// The body of `/api/chat`.
pub(super) fn chat(value: &Value) -> Result<Asked> {
    let ChatFields { messages, tools, common } = body::read(value)?;
    let mut messages = messages.unwrap_or_default();
    if messages.is_empty() {
        return Ok(common.asked(|ends, _| Work::Load { ends }));
    }
    for (index, message) in messages.iter_mut().enumerate() {
        if message["images"].as_array().is_some_and(|images| !images.is_empty()) {
            return Err(ApiError::unsupported(&format!("messages[{index}].images"), "the model reads text only"));
        }
        if let Some(fields) = message.as_object_mut() {
            fields.shift_remove("images");
            if let Some(name) = fields.shift_remove("tool_name") {
                fields.insert("name".to_owned(), name);
            }
        }
    }
    let fields = common.fields()?;
    Ok(common.asked(|_, common| {
        let mut chat = fields;
        let last = messages.last();
        let has_text = last.is_some_and(|last| last["content"].as_str().is_some_and(|text| !text.is_empty()));
        let calls = last.is_some_and(|last| last["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty()));
        if last.is_some_and(|last| last["role"] == "assistant") && has_text && !calls {
            // Ollama goes on in the model's own message.
            chat.insert("continue_final_message".to_owned(), true.into());
        }
        chat.insert("messages".to_owned(), messages.into());
        chat.extend(tools.map(|tools| ("tools".to_owned(), tools.into())));
        common.add_thinking(&mut chat);
        Work::Chat(chat.into())
    }))
}

/// The body of `/api/generate`. Without a template, prompts are continued as they are.
pub(super) fn generate(value: &Value, has_template: bool) -> Result<Asked> {
    let GenerateFields { prompt, system, raw, suffix, template, context, images, common } = body::read(value)?;
    let is_given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if is_given(&suffix) {
        return Err(ApiError::unsupported("suffix", "Jamba models have no tokens to fill in the middle of a text"));
    }
    if is_given(&template) {
        return Err(ApiError::unsupported("template", "requests cannot bring a template, which is a program"));
    }
    if context.is_some_and(|context| !context.is_empty()) {
        return Err(ApiError::unsupported("context", "not supported: use /api/chat, whose messages are the context"));
    }
    if images.is_some_and(|images| !images.is_empty()) {
        return Err(ApiError::unsupported("images", "the model reads text only"));
    }
    let prompt = prompt.unwrap_or_default();
    if prompt.is_empty() {
        return Ok(common.asked(|ends, _| Work::Load { ends }));
    }
    let fields = common.fields()?;
    Ok(common.asked(|_, common| {
        let mut chat = fields;
        if raw == Some(true) || !has_template {
            return Work::Text(prompt, chat.into());
        }
        let system = system.filter(|system| !system.is_empty());
        let mut messages: Vec<Value> =
            system.map(|system| json!({ "role": "system", "content": system })).into_iter().collect();
        messages.push(json!({ "role": "user", "content": prompt }));
        chat.insert("messages".to_owned(), messages.into());
        common.add_thinking(&mut chat);
        Work::Chat(chat.into())
    }))
}

impl Common {
    fn asked(self, work: impl FnOnce(bool, &Common) -> Work) -> Asked {
        let ends = self.keep_alive.as_ref().is_some_and(|time| *time == 0 || time == "0" || time == "0s");
        let work = work(ends, &self);
        Asked { model: self.model, work, shows_thinking: self.think != Some(Value::Bool(false)) }
    }

    /// The fields about sampling and output.
    fn fields(&self) -> Result<Map<String, Value>> {
        let none = Options::default();
        let Options {
            num_predict,
            temperature,
            top_k,
            top_p,
            min_p,
            seed,
            stop,
            repeat_penalty,
            presence_penalty,
            frequency_penalty,
        } = self.options.as_ref().unwrap_or(&none);
        let format = match &self.format {
            None | Some(Value::Null) => Value::Null,
            Some(Value::String(name)) if name.is_empty() => Value::Null,
            Some(Value::String(name)) if name == "json" => json!({ "type": "json_object" }),
            Some(schema @ Value::Object(_)) => json!({ "type": "json_schema", "json_schema": { "schema": schema } }),
            Some(_) => return Err(ApiError::field("format", "expected \"json\", or a JSON schema")),
        };
        let all = json!({
            "stream": self.stream.unwrap_or(true),
            "max_completion_tokens": num_predict.filter(|&n| n > 0),
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "seed": seed,
            "stop": stop.clone().map(OneOrMany::into_vec),
            "repetition_penalty": repeat_penalty,
            "presence_penalty": presence_penalty,
            "frequency_penalty": frequency_penalty,
            "response_format": format,
        });
        match all {
            Value::Object(all) => Ok(all.into_iter().filter(|(_, value)| !value.is_null()).collect()),
            _ => Ok(Map::new()),
        }
    }

    fn add_thinking(&self, chat: &mut Map<String, Value>) {
        match &self.think {
            Some(Value::Bool(thinks)) => {
                chat.insert("chat_template_kwargs".to_owned(), json!({ "enable_thinking": thinks }));
            }
            Some(effort @ Value::String(_)) => {
                chat.insert("reasoning_effort".to_owned(), effort.clone());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chats_keep_their_calls_and_results() {
        let messages = json!([
            { "role": "user", "content": "Rome?", "images": [] },
            {
                "role": "assistant", "content": "", "thinking": "Hm.",
                "tool_calls": [{ "function": { "name": "weather", "arguments": { "place": "Rome" } } }],
            },
            { "role": "tool", "content": "Rain.", "tool_name": "weather" },
        ]);
        let schema = json!({ "type": "null" });
        let body = json!({
            "model": "m", "messages": messages, "format": schema, "think": false, "tools": [],
            "options": { "num_predict": 7, "seed": 3, "repeat_penalty": 1.5, "stop": "x", "num_ctx": 4096 },
        });
        let expected = json!({
            "stream": true, "max_completion_tokens": 7, "seed": 3, "stop": ["x"], "repetition_penalty": 1.5,
            "response_format": { "type": "json_schema", "json_schema": { "schema": schema } },
            "messages": [
                { "role": "user", "content": "Rome?" },
                messages[1],
                { "role": "tool", "content": "Rain.", "name": "weather" },
            ],
            "tools": [],
            "chat_template_kwargs": { "enable_thinking": false },
        });
        let Asked { model, work, shows_thinking } = chat(&body).expect("a chat");
        assert_eq!((model.as_deref(), shows_thinking), (Some("m"), false));
        assert_eq!(work, Work::Chat(expected));
        let body = json!({ "messages": [{ "role": "assistant", "content": "Once" }], "stream": false });
        let Work::Chat(chat) = chat(&body).expect("a chat").work else { panic!("no chat") };
        assert_eq!((&chat["continue_final_message"], &chat["stream"]), (&json!(true), &json!(false)));
    }

    #[test]
    fn prompts_are_chats_or_stay_as_they_are() {
        let body = json!({ "prompt": "Hi", "system": "Be brief.", "format": "json", "options": { "num_predict": -1 } });
        let expected = json!({
            "stream": true, "response_format": { "type": "json_object" },
            "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Hi" }],
        });
        assert_eq!(generate(&body, true).expect("a chat").work, Work::Chat(expected));
        let Work::Text(text, _) = generate(&body, false).expect("a text").work else { panic!("no text") };
        assert_eq!(text, "Hi");
        let raw = json!({ "prompt": "Hi", "raw": true, "stream": false });
        let expected = Work::Text("Hi".to_owned(), json!({ "stream": false }));
        assert_eq!(generate(&raw, true).expect("a text").work, expected);
        let load = json!({ "model": "m", "keep_alive": 0 });
        assert_eq!(generate(&load, true).expect("nothing").work, Work::Load { ends: true });
        assert_eq!(chat(&load).expect("nothing").work, Work::Load { ends: true });
        for (body, param) in [
            (json!({ "prompt": "a", "suffix": "b" }), "suffix"),
            (json!({ "prompt": "a", "template": "b" }), "template"),
            (json!({ "prompt": "a", "context": [1] }), "context"),
            (json!({ "prompt": "a", "images": ["b"] }), "images"),
            (json!({ "prompt": "a", "format": "xml" }), "format"),
        ] {
            let Err(error) = generate(&body, true) else { panic!("{body} was read") };
            assert!(error.to_json().contains(&format!("\"param\":\"{param}\"")), "{body}: {}", error.to_json());
        }
    }
}
