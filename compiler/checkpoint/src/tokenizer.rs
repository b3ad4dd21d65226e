//! The optional small files: tokenizer, chat template, generation defaults.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::json::{Keys, show};

/// The tokenizer and related files, byte for byte; all are optional.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// tokenizer.json.
    pub tokenizer: Option<Vec<u8>>,
    /// tokenizer_config.json.
    pub tokenizer_config: Option<Vec<u8>>,
    /// special_tokens_map.json, the place of special tokens before tokenizer_config.json.
    pub special_tokens_map: Option<Vec<u8>>,
    /// generation_config.json.
    pub generation_config: Option<Vec<u8>>,
    /// The Jinja source of the chat template: chat_template.jinja, or the `chat_template` of chat_template.json or of
    /// tokenizer_config.json.
    pub chat_template: Option<String>,
}

impl TokenizerFiles {
    /// Reads the files that `dir` has.
    pub fn read(dir: &Path) -> Result<Self> {
        let tokenizer_config = read_if_there(&dir.join("tokenizer_config.json"))?;
        Ok(Self {
            tokenizer: read_if_there(&dir.join("tokenizer.json"))?,
            special_tokens_map: read_if_there(&dir.join("special_tokens_map.json"))?,
            generation_config: read_if_there(&dir.join("generation_config.json"))?,
            chat_template: chat_template(dir, tokenizer_config.as_deref())?,
            tokenizer_config,
        })
    }
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(Error::io(path, cause)),
    }
}

fn chat_template(dir: &Path, tokenizer_config: Option<&[u8]>) -> Result<Option<String>> {
    let jinja = dir.join("chat_template.jinja");
    if let Some(bytes) = read_if_there(&jinja)? {
        return match String::from_utf8(bytes) {
            Ok(template) => Ok(Some(template)),
            Err(cause) => Err(Error::file(&jinja, cause.utf8_error().to_string(), "UTF-8")),
        };
    }
    let json = dir.join("chat_template.json");
    if let Some(bytes) = read_if_there(&json)?
        && let Some(template) = template_in(&bytes, &json)?
    {
        return Ok(Some(template));
    }
    match tokenizer_config {
        Some(bytes) => template_in(bytes, &dir.join("tokenizer_config.json")),
        None => Ok(None),
    }
}

/// The key `chat_template` of a JSON file: a template, or the template "default" of a list of named ones.
fn template_in(text: &[u8], path: &Path) -> Result<Option<String>> {
    let mut keys = Keys::parse(text, path)?;
    let Some(value) = keys.take_non_null("chat_template") else { return Ok(None) };
    let template = match &value {
        Value::Array(named) => {
            let default = named.iter().find(|one| one.get("name").is_some_and(|name| name == "default"));
            default.and_then(|one| one.get("template"))
        }
        single => Some(single),
    };
    match template.and_then(Value::as_str) {
        Some(template) => Ok(Some(template.to_owned())),
        None => Err(keys.refuse("chat_template", show(&value), "a template, or a list with one named \"default\"")),
    }
}
