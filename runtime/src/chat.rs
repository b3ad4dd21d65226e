//! Chats to text, by the checkpoint's own template (Jinja, as Hugging Face renders it).

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, context};
use serde::{Deserialize, Serialize};

use crate::RuntimeError;

/// One message of a chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it: `system`, `user`, `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// The plan's chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

#[derive(Default, Deserialize)]
struct Config {
    chat_template: Option<Template>,
    bos_token: Option<Token>,
    eos_token: Option<Token>,
}

/// One template, or several by name of which `default` is taken.
#[derive(Deserialize)]
#[serde(untagged)]
enum Template {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

/// A special token: its text, or a record that holds it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Record { content: String },
}

impl Token {
    fn text(self) -> String {
        match self {
            Token::Text(text) | Token::Record { content: text } => text,
        }
    }
}

const SECTION: &str = "chat template";

fn failed(section: &'static str, reason: impl ToString) -> RuntimeError {
    RuntimeError::Tokenizer { section, reason: reason.to_string() }
}

impl ChatTemplate {
    /// Takes the template of its own section, else that of `tokenizer_config.json`.
    pub(crate) fn new(template: Option<&[u8]>, config: Option<&[u8]>) -> Result<ChatTemplate, RuntimeError> {
        let config: Config = match config {
            None => Config::default(),
            Some(bytes) => serde_json::from_slice(bytes).map_err(|error| failed("tokenizer config", error))?,
        };
        let text = match (template, config.chat_template) {
            (Some(bytes), _) => String::from_utf8(bytes.to_vec()).map_err(|error| failed(SECTION, error))?,
            (None, Some(Template::One(text))) => text,
            (None, Some(Template::Named(all))) => {
                let default = all.into_iter().find(|named| named.name == "default");
                default.ok_or_else(|| failed(SECTION, "several templates, none of them named default"))?.template
            }
            (None, None) => return Err(RuntimeError::NoSection(SECTION)),
        };
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_template_owned("chat", text).map_err(|error| failed(SECTION, error))?;
        let text = |token: Option<Token>| token.map(Token::text).unwrap_or_default();
        Ok(ChatTemplate { environment, bos: text(config.bos_token), eos: text(config.eos_token) })
    }

    /// The chat as text, up to where the assistant's answer begins.
    pub fn render(&self, messages: &[Message]) -> Result<String, RuntimeError> {
        let values = context! {
            messages => messages,
            add_generation_prompt => true,
            bos_token => self.bos,
            eos_token => self.eos,
        };
        let template = self.environment.get_template("chat").map_err(|error| failed(SECTION, error))?;
        template.render(values).map_err(|error| failed(SECTION, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "{{ bos_token }}\n{%- for message in messages %}\n<|{{ message['role'] }}|>{{ message.content.strip() }}\n{%- endfor %}\n{%- if add_generation_prompt %}<|assistant|>{% endif %}";

    fn ask(text: &str) -> Vec<Message> {
        vec![Message { role: "user".to_owned(), content: text.to_owned() }]
    }

    #[test]
    fn renders_as_hugging_face_does() {
        let config = br#"{"bos_token": {"content": "<s>"}}"#;
        let template = ChatTemplate::new(Some(TEMPLATE.as_bytes()), Some(config)).unwrap();
        assert_eq!(template.render(&ask(" Hello ")).unwrap(), "<s><|user|>Hello<|assistant|>");
    }

    #[test]
    fn the_config_may_hold_it() {
        let config = br#"{"chat_template": [{"name": "default", "template": "{{ messages[0].content }}"}]}"#;
        let template = ChatTemplate::new(None, Some(config)).unwrap();
        assert_eq!(template.render(&ask("Hi")).unwrap(), "Hi");
        assert!(matches!(ChatTemplate::new(None, Some(b"{}")), Err(RuntimeError::NoSection("chat template"))));
    }

    #[test]
    fn the_template_can_refuse() {
        let template = ChatTemplate::new(Some(b"{{ raise_exception('no system') }}"), None).unwrap();
        assert!(template.render(&ask("Hi")).unwrap_err().to_string().contains("no system"));
    }
}
