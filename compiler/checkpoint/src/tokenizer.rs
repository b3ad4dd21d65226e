//! The optional small files: tokenizer, chat template, generation defaults.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::json::{Keys, show};
use crate::small_file;

/// Name of the template for chats without tools, and of a single template.
const DEFAULT: &str = "default";

/// A chat template and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedTemplate {
    pub name: String,
    /// The Jinja source.
    pub source: String,
    pub file: PathBuf,
}

/// The tokenizer and related files, byte for byte but for byte order marks; all are optional.
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
    /// The Jinja source of the chat template `default`.
    pub chat_template: Option<String>,
    /// All chat templates: chat_template.jinja (`default`) and the files of
    /// additional_chat_templates, as transformers 5 saves them; otherwise the `chat_template` of chat_template.json or of
    /// tokenizer_config.json: one template, a list of objects with `name` and `template`, or an object.
    pub chat_templates: Vec<NamedTemplate>,
}

impl TokenizerFiles {
    /// Reads the files that `dir` has.
    pub fn read(dir: &Path) -> Result<Self> {
        let tokenizer_config = read_if_there(&dir.join("tokenizer_config.json"))?;
        let chat_templates = chat_templates(dir, tokenizer_config.as_deref())?;
        let default = chat_templates.iter().find(|template| template.name == DEFAULT);
        Ok(Self {
            tokenizer: read_if_there(&dir.join("tokenizer.json"))?,
            special_tokens_map: read_if_there(&dir.join("special_tokens_map.json"))?,
            generation_config: read_if_there(&dir.join("generation_config.json"))?,
            chat_template: default.map(|template| template.source.clone()),
            chat_templates,
            tokenizer_config,
        })
    }

    /// The texts of tokenizer.json and tokenizer_config.json that are made of `file`.
    pub(crate) fn of(file: &Path, tokenizer: Option<Vec<u8>>, tokenizer_config: Option<Vec<u8>>) -> Result<Self> {
        let chat_templates = match &tokenizer_config {
            Some(text) => templates_in(text, file)?,
            None => Vec::new(),
        };
        let default = chat_templates.iter().find(|template| template.name == DEFAULT);
        let chat_template = default.map(|template| template.source.clone());
        Ok(Self { tokenizer, tokenizer_config, chat_template, chat_templates, ..Self::default() })
    }
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match small_file::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(Error::Io { cause, .. }) if cause.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn chat_templates(dir: &Path, tokenizer_config: Option<&[u8]>) -> Result<Vec<NamedTemplate>> {
    let mut templates = Vec::new();
    templates.extend(jinja_file(DEFAULT.to_owned(), dir.join("chat_template.jinja"))?);
    for (name, path) in jinja_files(&dir.join("additional_chat_templates"))? {
        templates.extend(jinja_file(name, path)?);
    }
    if !templates.is_empty() {
        return Ok(templates);
    }
    let json = dir.join("chat_template.json");
    if let Some(bytes) = read_if_there(&json)? {
        templates = templates_in(&bytes, &json)?;
    }
    match tokenizer_config {
        Some(bytes) if templates.is_empty() => templates_in(bytes, &dir.join("tokenizer_config.json")),
        _ => Ok(templates),
    }
}

fn jinja_file(name: String, file: PathBuf) -> Result<Option<NamedTemplate>> {
    let Some(bytes) = read_if_there(&file)? else { return Ok(None) };
    match String::from_utf8(bytes) {
        Ok(source) => Ok(Some(NamedTemplate { name, source, file })),
        Err(cause) => Err(Error::file(&file, cause.utf8_error().to_string(), "UTF-8")),
    }
}

/// The .jinja files of a folder, by their names without the extension. None if there is no folder.
fn jinja_files(dir: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(cause) => return Err(Error::io(dir, cause)),
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(|cause| Error::io(dir, cause))?.path();
        if let (Some(name), Some("jinja")) =
            (path.file_stem(), path.extension().and_then(|extension| extension.to_str()))
        {
            files.insert(name.to_string_lossy().into_owned(), path);
        }
    }
    Ok(files)
}

/// The key `chat_template` of a JSON file.
fn templates_in(text: &[u8], path: &Path) -> Result<Vec<NamedTemplate>> {
    let mut keys = Keys::parse(text, path)?;
    let Some(value) = keys.take_non_null("chat_template") else { return Ok(Vec::new()) };
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let named: Option<Vec<(String, String)>> = match &value {
        Value::String(template) => Some(vec![(DEFAULT.to_owned(), template.clone())]),
        Value::Array(list) => list.iter().map(|one| text(one.get("name")).zip(text(one.get("template")))).collect(),
        Value::Object(names) => names.iter().map(|(name, one)| Some(name.clone()).zip(text(Some(one)))).collect(),
        _ => None,
    };
    let expected = "a template, a list of objects with name and template, or an object of templates";
    let named = named.ok_or_else(|| keys.refuse("chat_template", show(&value), expected))?;
    let of_file = |(name, source)| NamedTemplate { name, source, file: path.to_owned() };
    Ok(named.into_iter().map(of_file).collect())
}
