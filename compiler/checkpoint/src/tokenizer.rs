//! The optional small files: tokenizer, chat template, generation defaults.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::folder::Folder;
use crate::json::{Keys, show};

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
    /// Reads the files that the folder has.
    pub fn read(folder: &Folder) -> Result<Self> {
        let tokenizer_config = folder.read_if_there("tokenizer_config.json")?;
        let chat_templates = chat_templates(folder, tokenizer_config.as_deref())?;
        let default = chat_templates.iter().find(|template| template.name == DEFAULT);
        Ok(Self {
            tokenizer: folder.read_if_there("tokenizer.json")?,
            special_tokens_map: folder.read_if_there("special_tokens_map.json")?,
            generation_config: folder.read_if_there("generation_config.json")?,
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

fn chat_templates(folder: &Folder, tokenizer_config: Option<&[u8]>) -> Result<Vec<NamedTemplate>> {
    let mut templates = Vec::new();
    templates.extend(jinja_file(folder, DEFAULT.to_owned(), "chat_template.jinja".into())?);
    for (name, path) in jinja_files(folder)? {
        templates.extend(jinja_file(folder, name, path)?);
    }
    if !templates.is_empty() {
        return Ok(templates);
    }
    if let Some(bytes) = folder.read_if_there("chat_template.json")? {
        templates = templates_in(&bytes, &folder.path().join("chat_template.json"))?;
    }
    match tokenizer_config {
        Some(bytes) if templates.is_empty() => templates_in(bytes, &folder.path().join("tokenizer_config.json")),
        _ => Ok(templates),
    }
}

/// The template in the file at `path` of the folder.
fn jinja_file(folder: &Folder, name: String, path: PathBuf) -> Result<Option<NamedTemplate>> {
    let file = folder.path().join(&path);
    let Some(bytes) = folder.read_if_there(path)? else { return Ok(None) };
    match String::from_utf8(bytes) {
        Ok(source) => Ok(Some(NamedTemplate { name, source, file })),
        Err(cause) => Err(Error::file(&file, cause.utf8_error().to_string(), "UTF-8")),
    }
}

/// The .jinja files of additional_chat_templates, by their names without the extension. None if there is no such folder.
fn jinja_files(folder: &Folder) -> Result<BTreeMap<String, PathBuf>> {
    const ADDITIONAL: &str = "additional_chat_templates";
    let dir = &folder.path().join(ADDITIONAL);
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(cause) => return Err(Error::io(dir, cause)),
    };
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = Path::new(ADDITIONAL).join(entry.map_err(|cause| Error::io(dir, cause))?.file_name());
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
