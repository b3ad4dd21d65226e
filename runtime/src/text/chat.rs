//! Chat templates (Jinja) of the checkpoint, rendered as Hugging Face transformers renders them.
//!
//! As in transformers, null fields of messages are treated as absent, and the reasoning of a message is available under every
//! name that templates use for it. [`jinja`](super::jinja) evaluates the templates.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::jinja::{Lack, Template, Variables};
use super::rendered::RenderedChat;
use super::tokenizer::{read_config, special_token};
use crate::{Cancel, RuntimeError};

/// Special tokens that are variables of templates.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Field names for the reasoning of a message; the first is the usual one.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or another role that the template supports.
    pub role: String,
    /// The text.
    pub content: String,
}

/// The variables of a chat template. In JSON, unknown keys become [`Chat::variables`].
///
/// ```
/// use jamba_runtime::Chat;
///
/// let chat: Chat = serde_json::from_str(
///     r#"{
///         "messages": [{ "role": "user", "content": "How warm is it in Rome?" }],
///         "tools": [{ "type": "function", "function": { "name": "weather" } }],
///         "add_generation_prompt": true
///     }"#,
/// )?;
/// assert_eq!(chat.messages.len(), 1);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Chat {
    /// Messages: JSON objects with `role`, `content`, and further fields that the template uses, such as `tool_calls`.
    pub messages: Vec<Value>,
    /// Functions that the model may call, as JSON schemas.
    pub tools: Option<Vec<Value>>,
    /// Documents for the model: JSON objects with `title` and `text`.
    pub documents: Option<Vec<Value>>,
    /// Appends the beginning of an assistant message.
    pub add_generation_prompt: bool,
    /// Ends with the text of the last message, without what the template writes after it, so that an answer continues the
    /// message. Excludes `add_generation_prompt`.
    pub continue_final_message: bool,
    /// Name of the template, if the plan has several, or the source of another one. Default: `tool_use` if there are tools,
    /// otherwise `default`.
    pub template: Option<String>,
    /// Other variables of the template.
    #[serde(flatten)]
    pub variables: Map<String, Value>,
}

impl Chat {
    /// A chat of these messages that ends with the beginning of an assistant message.
    pub fn new(messages: &[Message]) -> Chat {
        let message = |Message { role, content }: &Message| serde_json::json!({ "role": role, "content": content });
        let messages = messages.iter().map(message).collect();
        Chat { messages, add_generation_prompt: true, ..Chat::default() }
    }
}

/// The plan's chat templates.
///
/// ```
/// use jamba_runtime::{ChatTemplate, Message};
///
/// let template = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
/// let template = ChatTemplate::new(Some(template.as_bytes()), Some(br#"{"bos_token": "<s>"}"#))?;
/// let hello = Message { role: "user".to_owned(), content: "Hello".to_owned() };
/// assert_eq!(template.render(&[hello])?, "<s><user>Hello");
/// # Ok::<(), jamba_runtime::RuntimeError>(())
/// ```
#[derive(Clone)]
pub struct ChatTemplate {
    /// By name, in the checkpoint's order.
    templates: Vec<(String, Arc<Template>)>,
    special_tokens: Vec<(&'static str, String)>,
    /// What errors begin with, for example the file.
    origin: Option<String>,
}

/// One template, or several by name.
#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    List(Vec<Named>),
    Names(Map<String, Value>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

const SECTION: &str = "chat template";
const DEFAULT: &str = "default";

fn failed(section: &'static str, reason: impl ToString) -> RuntimeError {
    RuntimeError::Tokenizer { section, reason: reason.to_string() }
}

impl ChatTemplate {
    /// Parses `chat_template.jinja` (`template`) or, without it, the templates in `tokenizer_config.json` (`config`). Special
    /// tokens come from `config`.
    pub fn new(template: Option<&[u8]>, config: Option<&[u8]>) -> Result<ChatTemplate, RuntimeError> {
        let config = read_config(config)?;
        let templates = match (template, config.get("chat_template").filter(|template| !template.is_null())) {
            (Some(bytes), _) => {
                Templates::One(str::from_utf8(bytes).map_err(|error| failed(SECTION, error))?.to_owned())
            }
            (None, Some(value)) => Templates::deserialize(value).map_err(|_| {
                failed(
                    "tokenizer config",
                    "chat_template is neither a string nor a list or an object of named templates",
                )
            })?,
            (None, None) => return Err(RuntimeError::NoSection(SECTION)),
        };
        let named = match templates {
            Templates::One(template) => vec![Named { name: DEFAULT.to_owned(), template }],
            Templates::List(all) => all,
            Templates::Names(all) => {
                let named = |(name, template): (String, Value)| match template {
                    Value::String(template) => Ok(Named { name, template }),
                    other => Err(failed(
                        "tokenizer config",
                        format!("chat_template: {name}: found {other}, expected a template"),
                    )),
                };
                all.into_iter().map(named).collect::<Result<_, _>>()?
            }
        };
        let parsed = named.into_iter().map(|Named { name, template }| match Template::of(&template) {
            Ok(template) => Ok((name, Arc::new(template))),
            Err(reason) if name == DEFAULT => Err(failed(SECTION, reason)),
            Err(reason) => Err(failed(SECTION, format!("{name}: {reason}"))),
        });
        let templates = parsed.collect::<Result<_, _>>()?;
        let mut special_tokens = Vec::new();
        for name in SPECIAL_TOKENS {
            special_tokens.extend(special_token(&config, name)?.map(|text| (name, text.to_owned())));
        }
        Ok(ChatTemplate { templates, special_tokens, origin: None })
    }

    /// The place that [`Engine::chat_template_of`](crate::Engine::chat_template_of) gave the template.
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// The template whose errors begin with `origin`, for example its file.
    pub(crate) fn with_origin(self, origin: &str) -> ChatTemplate {
        ChatTemplate { origin: Some(origin.to_owned()), ..self }
    }

    /// Names of the templates; a single template is called `default`.
    pub fn names(&self) -> Vec<&str> {
        self.templates.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Uses the template `name` for all chats, with and without tools.
    ///
    /// # Errors
    /// Fails if there is no template of this name.
    pub fn choose(mut self, name: &str) -> Result<ChatTemplate, RuntimeError> {
        match self.templates.iter().position(|(known, _)| known == name) {
            Some(index) => {
                self.templates = vec![(DEFAULT.to_owned(), self.templates.swap_remove(index).1)];
                Ok(self)
            }
            None => Err(self.unknown(name)),
        }
    }

    /// What the interpreter lacks for the template `name`.
    pub(super) fn lacks(&self, name: &str) -> Vec<Lack> {
        let template = self.templates.iter().find(|(known, _)| known == name);
        template.map(|(_, template)| template.lacks()).unwrap_or_default()
    }

    /// The sources of the templates.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &str> {
        self.templates.iter().map(|(_, template)| template.source())
    }

    /// True if this is the text of a special token with a role, such as `bos_token`.
    pub(crate) fn names_special(&self, text: &str) -> bool {
        self.special_tokens.iter().any(|(_, token)| token == text)
    }

    fn unknown(&self, name: &str) -> RuntimeError {
        let names = self.names();
        failed(SECTION, format!("found no template named {name:?}, only {names:?}: choose one of them by its name"))
    }

    /// Renders messages and the beginning of an assistant message. Encode the result with
    /// [`Tokenizer::encode_plain`](crate::Tokenizer::encode_plain): it contains its special tokens already.
    pub fn render(&self, messages: &[Message]) -> Result<String, RuntimeError> {
        self.render_chat(&Chat::new(messages))
    }

    /// Renders a chat with tools, documents and other variables.
    ///
    /// # Errors
    /// Fails if there are no messages, if a message is not an object, if the template raises an exception, or if it does
    /// not terminate.
    pub fn render_chat(&self, chat: &Chat) -> Result<String, RuntimeError> {
        Ok(self.render_parts(chat)?.into_text())
    }

    /// Renders a chat, and keeps apart what the template writes and what the chat contains. Encode the result with
    /// [`Tokenizer::encode_chat`](crate::Tokenizer::encode_chat).
    ///
    /// # Errors
    /// As [`ChatTemplate::render_chat`].
    pub fn render_parts(&self, chat: &Chat) -> Result<RenderedChat, RuntimeError> {
        self.render_parts_until(chat, &Cancel::new())
    }

    /// As [`ChatTemplate::render_parts`]. `cancel` is checked every few hundred instructions of the template.
    ///
    /// # Errors
    /// [`RuntimeError::Cancelled`] if `cancel` was set.
    pub fn render_parts_until(&self, chat: &Chat, cancel: &Cancel) -> Result<RenderedChat, RuntimeError> {
        let own;
        let template = match &chat.template {
            // As in transformers, the source of another template. Names have no braces.
            Some(source) if source.contains(['{', '\n']) && !self.names().contains(&source.as_str()) => {
                own = Template::of(source).map_err(|reason| failed(SECTION, reason))?;
                &own
            }
            _ => self.template(chat)?,
        };
        if chat.messages.is_empty() {
            return Err(failed(SECTION, "a chat needs at least one message"));
        }
        let messages: Vec<Value> = chat.messages.iter().map(message).collect::<Result<_, _>>()?;
        let mut variables = chat.variables.clone();
        variables.insert("messages".to_owned(), messages.into());
        variables.insert("tools".to_owned(), chat.tools.clone().into());
        variables.insert("documents".to_owned(), chat.documents.clone().into());
        variables.insert("add_generation_prompt".to_owned(), chat.add_generation_prompt.into());
        let variables = Variables { own: &self.special_tokens, outside: &variables };
        let rendered = template.render(&variables, cancel).map_err(|reason| match &self.origin {
            _ if cancel.is_cancelled() => RuntimeError::Cancelled,
            Some(origin) => failed(SECTION, format!("{origin}: {reason}")),
            None => failed(SECTION, reason),
        })?;
        let rendered = RenderedChat::new(rendered.text, rendered.outside);
        if chat.continue_final_message { continued(chat, rendered) } else { Ok(rendered) }
    }

    /// The template for a chat.
    fn template(&self, chat: &Chat) -> Result<&Template, RuntimeError> {
        let named =
            |name: &str| self.templates.iter().find(|(known, _)| known == name).map(|(_, template)| &**template);
        let name = match &chat.template {
            Some(name) => name,
            None if chat.tools.is_some() && named("tool_use").is_some() => "tool_use",
            None => DEFAULT,
        };
        named(name).ok_or_else(|| self.unknown(name))
    }
}

/// The chat up to the end of its last message's text.
fn continued(chat: &Chat, rendered: RenderedChat) -> Result<RenderedChat, RuntimeError> {
    let refused = |reason: &str| failed(SECTION, format!("continue_final_message: {reason}"));
    if chat.add_generation_prompt {
        return Err(refused("found add_generation_prompt as well, expected one of the two"));
    }
    let last = chat.messages.last().and_then(|message| message["content"].as_str()).unwrap_or_default();
    if last.trim().is_empty() {
        return Err(refused("found no text in the last message, expected text to continue"));
    }
    rendered.up_to_the_end_of(last).ok_or_else(|| refused("the template does not write the text of the last message"))
}

/// A message in the form that templates expect.
fn message(message: &Value) -> Result<Value, RuntimeError> {
    let Value::Object(fields) = message else {
        return Err(failed(SECTION, format!("message: found {message}, expected an object with role and content")));
    };
    let mut fields: Map<String, Value> = fields
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if let Some(reasoning) = REASONING.iter().find_map(|name| fields.get(*name)).cloned() {
        fields.entry("thinking").or_insert_with(|| reasoning.clone());
        fields.insert(REASONING[0].to_owned(), reasoning);
    }
    Ok(Value::Object(fields))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ask(text: &str) -> Vec<Message> {
        vec![Message { role: "user".to_owned(), content: text.to_owned() }]
    }

    fn rendered(template: &str) -> Result<String, RuntimeError> {
        ChatTemplate::new(Some(template.as_bytes()), None)?.render(&ask("Hi"))
    }

    #[test]
    fn the_config_may_hold_one_or_several() {
        let config =
            br#"{"chat_template": "{{ messages[0].content }}{{ eos_token }}", "eos_token": {"content": "</s>"}}"#;
        assert_eq!(ChatTemplate::new(None, Some(config)).unwrap().render(&ask("Hi")).unwrap(), "Hi</s>");
        let named = |names: &[&str]| {
            let all: Vec<Value> = names.iter().map(|name| json!({ "name": name, "template": name })).collect();
            ChatTemplate::new(None, Some(json!({ "chat_template": all }).to_string().as_bytes())).unwrap()
        };
        let both = named(&["default", "tool_use", "rag"]);
        let chat = Chat::new(&ask("Hi"));
        let tools = Chat { tools: Some(Vec::new()), ..chat.clone() };
        let rag = Chat { template: Some("rag".to_owned()), ..tools.clone() };
        let list_of_one = br#"{"chat_template": [{"name": "tool_use", "template": "only with tools"}]}"#;
        let only = ChatTemplate::new(None, Some(list_of_one)).unwrap();
        assert!(only.render_chat(&chat).is_err() && only.render_chat(&tools).unwrap() == "only with tools");
        let texts = [&chat, &tools, &rag].map(|chat| both.render_chat(chat).unwrap());
        assert_eq!(texts, ["default", "tool_use", "rag"]);
        let source = Chat { template: Some("<{{ messages[0].content }}>".to_owned()), ..tools.clone() };
        assert_eq!(both.render_chat(&source).unwrap(), "<Hi>");
        let dict = br#"{"chat_template": {"default": "d", "tool_use": "t"}}"#;
        let dict = ChatTemplate::new(None, Some(dict)).unwrap();
        assert_eq!((dict.names(), dict.render_chat(&tools).unwrap()), (vec!["default", "tool_use"], "t".to_owned()));
        assert_eq!(both.choose("rag").unwrap().render_chat(&tools).unwrap(), "rag");
        assert!(dict.choose("rag").is_err());
        let error = named(&["rag"]).render_chat(&chat).unwrap_err().to_string();
        assert!(error.contains(r#"no template named "default", only ["rag"]"#), "{error}");
        assert!(matches!(ChatTemplate::new(None, Some(b"{}")), Err(RuntimeError::NoSection("chat template"))));
    }

    #[test]
    fn a_template_can_refuse_and_cannot_run_forever() {
        assert!(rendered("{{ raise_exception('no system') }}").unwrap_err().to_string().contains("no system"));
        let endless = |body: &str| {
            let loops = "{% for a in range(9999) %}{% for b in range(9999) %}";
            rendered(&format!("{loops}{body}{{% endfor %}}{{% endfor %}}")).unwrap_err().to_string()
        };
        let bounds = ["its texts and lists have taken more than", "loop forever"];
        // Each inner list counts as memory that was taken; on a slow machine the time ends first. Long lists are soon too much.
        let error = endless("");
        assert!(bounds.iter().any(|bound| error.contains(bound)), "{error}");
        let lists = "{% for a in range(9999) %}{% set b = range(99999)|list %}{% endfor %}";
        let error = rendered(lists).unwrap_err().to_string();
        assert!(error.contains(bounds[0]), "{error}");
        let error = endless(&"{% if a %}{% endif %}".repeat(8));
        assert!(error.contains(bounds[1]), "{error}");
        let recursive = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
        assert!(rendered(recursive).is_err());
        assert!(rendered("{% for %}").unwrap_err().to_string().starts_with("chat template: "));
    }

    #[test]
    fn rendering_ends_when_it_is_cancelled() {
        // Without the flag, it takes some millions of instructions, and then more memory than it may.
        let loops = "{% for a in range(9999) %}".repeat(3) + "{% if a %}{% endif %}" + &"{% endfor %}".repeat(3);
        let template = ChatTemplate::new(Some(loops.as_bytes()), None).unwrap();
        let (chat, cancel) = (Chat::new(&ask("Hi")), Cancel::new());
        std::thread::scope(|threads| {
            let rendering = threads.spawn(|| template.render_parts_until(&chat, &cancel).map(|_| ()));
            cancel.cancel();
            assert!(matches!(rendering.join().unwrap(), Err(RuntimeError::Cancelled)));
        });
        let error = template.render_parts_until(&chat, &cancel).map(|_| ()).unwrap_err();
        assert!(matches!(error, RuntimeError::Cancelled), "{error}");
        // What is finished stays so.
        let short = ChatTemplate::new(Some(b"x"), None).unwrap();
        cancel.reset();
        assert_eq!(short.render_parts_until(&chat, &cancel).unwrap().text(), "x");
    }

    #[test]
    fn bad_chats_are_refused() {
        let template = ChatTemplate::new(Some(b"x"), None).unwrap();
        let refused = |chat: &Chat| template.render_chat(chat).unwrap_err().to_string();
        assert!(refused(&Chat::default()).contains("at least one message"));
        let chat = Chat { messages: vec![json!("Hi")], ..Chat::default() };
        assert!(refused(&chat).contains("expected an object with role and content"));
        let chat = Chat { template: Some("rag".to_owned()), ..Chat::new(&ask("Hi")) };
        assert!(refused(&chat).contains("no template named \"rag\""));
    }

    #[test]
    fn marks_of_generation_have_no_effect() {
        assert!(rendered("{%-generation-%} b {%endgeneration%}c{% if").is_err());
        assert_eq!(rendered("a {%- generation %} b {% endgeneration -%} c").unwrap(), "a b c");
    }
}
