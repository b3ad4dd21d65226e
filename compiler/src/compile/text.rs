//! The tokenizer and the chat template of a plan: checked when the plan is built, so that they do not fail when it runs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use jamba_runtime::{ChatTemplate, RuntimeError, TemplateFault, Tokenizer};
use jambac_checkpoint::{Metadata, NamedTemplate, Remark, small_file};
use serde::Deserialize;
use tokenizers::AddedToken;

/// The text sections of a plan, and remarks on their files.
pub(super) struct Text<'a> {
    /// tokenizer.json, with the tokens that only tokenizer_config.json lists.
    pub(super) tokenizer: Option<Cow<'a, [u8]>>,
    /// tokenizer_config.json, with all chat templates if there are several.
    pub(super) tokenizer_config: Option<Cow<'a, [u8]>>,
    /// The only chat template.
    pub(super) chat_template: Option<Cow<'a, str>>,
    pub(super) remarks: Vec<Remark>,
}

/// Checks the tokenizer and the chat templates. `chosen` is the name of a template or a file that replaces all of them.
///
/// # Errors
/// A file that the runtime could not use, with the place in it.
pub(super) fn check<'a>(metadata: &'a Metadata, chosen: Option<&str>) -> Result<Text<'a>> {
    let mut remarks = Vec::new();
    let tokenizer = match &metadata.tokenizer().tokenizer {
        Some(bytes) => Some(tokenizer(bytes, metadata, &mut remarks)?),
        None => None,
    };
    let files = metadata.tokenizer();
    let chat_template = match (chosen, &files.chat_templates[..]) {
        (Some(chosen), _) => Some(chosen_template(metadata, chosen)?),
        (None, [template]) if template.name == DEFAULT => Some(Cow::Borrowed(template.source.as_str())),
        (None, _) => None,
    };
    let mut tokenizer_config = files.tokenizer_config.as_deref().map(Cow::Borrowed);
    if chat_template.is_none() && !files.chat_templates.is_empty() {
        tokenizer_config = Some(Cow::Owned(with_templates(metadata)?));
    }
    let places = Places { metadata, chosen };
    let template = chat_template.as_deref().map(str::as_bytes);
    let config = tokenizer_config.as_deref();
    match ChatTemplate::new(template, config) {
        Ok(templates) => places.rehearse(&templates, &mut remarks)?,
        Err(RuntimeError::NoSection(_)) => {}
        Err(error) => return Err(places.error(error, config)),
    }
    Ok(Text { tokenizer, tokenizer_config, chat_template, remarks })
}

/// The name of a template that needs none, and of that for chats without tools.
const DEFAULT: &str = "default";

/// Where chat templates come from.
struct Places<'a> {
    metadata: &'a Metadata,
    chosen: Option<&'a str>,
}

impl Places<'_> {
    /// The place of a template.
    fn of(&self, name: &str) -> String {
        let templates = &self.metadata.tokenizer().chat_templates;
        let file = |name: &str| templates.iter().find(|template| template.name == name).map(|found| &found.file);
        match (self.chosen, file(name)) {
            (Some(chosen), _) => match file(chosen) {
                Some(file) => format!("{}: chat template {chosen}", file.display()),
                None => format!("--chat-template {chosen}: chat template"),
            },
            (None, Some(file)) if name == DEFAULT => format!("{}: chat template", file.display()),
            (None, Some(file)) => format!("{}: chat template {name}", file.display()),
            (None, None) => format!("{}: chat template {name}", self.metadata.dir().display()),
        }
    }

    /// The error of the first template that does not parse, with its place.
    fn error(&self, error: RuntimeError, config: Option<&[u8]>) -> anyhow::Error {
        if !matches!(error, RuntimeError::Tokenizer { section: "chat template", .. }) {
            return in_file(error, self.metadata);
        }
        for template in &self.metadata.tokenizer().chat_templates {
            let parsed = ChatTemplate::new(Some(template.source.as_bytes()), config);
            if let (None, Err(RuntimeError::Tokenizer { reason, .. })) = (self.chosen, parsed) {
                return anyhow!("{}: {reason}", self.of(&template.name));
            }
        }
        let RuntimeError::Tokenizer { reason, .. } = error else { return error.into() };
        anyhow!("{}: {reason}", self.of(DEFAULT))
    }

    /// Renders small chats with each template.
    fn rehearse(&self, templates: &ChatTemplate, remarks: &mut Vec<Remark>) -> Result<()> {
        let names = templates.names();
        if !names.contains(&DEFAULT) {
            let first = names.first().copied().unwrap_or_default();
            remarks.push(Remark::Warning(format!(
                "{}: found the chat templates {names:?}, and none named {DEFAULT}: chats without tools need \
                 --chat-template NAME, for example --chat-template {first}",
                self.metadata.dir().display()
            )));
        }
        for TemplateFault { template, reason, is_fatal } in templates.faults() {
            let place = self.of(&template);
            if is_fatal {
                bail!("{place}: {reason}; to build with another template: --chat-template FILE");
            }
            remarks.push(Remark::Warning(format!("{place}: {reason}")));
        }
        Ok(())
    }
}

/// The template of this name, or in this file.
fn chosen_template<'a>(metadata: &'a Metadata, chosen: &str) -> Result<Cow<'a, str>> {
    let templates = &metadata.tokenizer().chat_templates;
    if let Some(template) = templates.iter().find(|template| template.name == chosen) {
        return Ok(Cow::Borrowed(&template.source));
    }
    if !Path::new(chosen).exists() {
        let names: Vec<&str> = templates.iter().map(|template| template.name.as_str()).collect();
        bail!(
            "--chat-template: found {chosen:?}, expected a file, or the name of one of the checkpoint's templates: {names:?}"
        );
    }
    let bytes = small_file::read(Path::new(chosen)).context("--chat-template")?;
    Ok(Cow::Owned(String::from_utf8(bytes).with_context(|| format!("--chat-template: {chosen}"))?))
}

/// tokenizer_config.json with the list of all chat templates.
fn with_templates(metadata: &Metadata) -> Result<Vec<u8>> {
    let files = metadata.tokenizer();
    let mut config: serde_json::Map<String, serde_json::Value> = match &files.tokenizer_config {
        Some(text) => serde_json::from_slice(text)
            .with_context(|| metadata.file("tokenizer_config.json").display().to_string())?,
        None => serde_json::Map::new(),
    };
    let named = |template: &NamedTemplate| serde_json::json!({ "name": template.name, "template": template.source });
    config.insert("chat_template".to_owned(), files.chat_templates.iter().map(named).collect());
    Ok(serde_json::to_vec(&config)?)
}

/// The warning for a checkpoint without tokenizer.json.
pub(super) fn no_tokenizer(metadata: &Metadata) -> Option<Remark> {
    if metadata.tokenizer().tokenizer.is_some() {
        return None;
    }
    let dir = metadata.dir().display();
    let effect = "the plan has no tokenizer: it takes and returns token ids only";
    let sources = ["tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"];
    Some(Remark::Warning(match sources.into_iter().find(|name| metadata.dir().join(name).is_file()) {
        Some(source) => format!(
            "{dir}: found {source} and no tokenizer.json: {effect}; to make tokenizer.json, in Python: \
             transformers.AutoTokenizer.from_pretrained({dir:?}).save_pretrained({dir:?})",
            dir = metadata.dir().display().to_string()
        ),
        None => format!("{dir}: found no tokenizer.json: {effect}"),
    }))
}

/// The tokenizer's section: tokenizer.json unchanged, unless tokenizer_config.json lists more tokens.
fn tokenizer<'a>(bytes: &'a [u8], metadata: &Metadata, remarks: &mut Vec<Remark>) -> Result<Cow<'a, [u8]>> {
    let files = metadata.tokenizer();
    let path = metadata.file("tokenizer.json");
    let named = || path.display().to_string();
    let config = files.tokenizer_config.as_deref();
    let used = Tokenizer::new(bytes, config, metadata.config().bos).map_err(|error| in_file(error, metadata))?;
    begin_and_end(&used, metadata, remarks)?;
    let mut parsed =
        tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| anyhow!("{error}")).with_context(named)?;
    let added = add_tokens(&mut parsed, metadata, remarks)?;
    let (n_tokens, vocab) = (parsed.get_vocab_size(true), metadata.config().vocab);
    if n_tokens > vocab {
        remarks.push(Remark::Warning(format!(
            "{}: found {n_tokens} tokens, and config.json has vocab_size = {vocab}: the model has no embedding for the last {}, and \
             refuses prompts with them",
            named(),
            n_tokens - vocab
        )));
    }
    if added == 0 {
        return Ok(Cow::Borrowed(bytes));
    }
    let section = parsed.to_string(false).map_err(|error| anyhow!("{}: {error}", named()))?.into_bytes();
    Tokenizer::new(&section, config, metadata.config().bos).map_err(|error| in_file(error, metadata))?;
    Ok(Cow::Owned(section))
}

/// Warns of `add_bos_token` and `add_eos_token` in tokenizer_config.json that tokenizer.json contradicts.
fn begin_and_end(tokenizer: &Tokenizer, metadata: &Metadata, remarks: &mut Vec<Remark>) -> Result<()> {
    let Some(text) = &metadata.tokenizer().tokenizer_config else { return Ok(()) };
    let path = metadata.file("tokenizer_config.json").display().to_string();
    let config: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(text).with_context(|| path.clone())?;
    // What is added to a text is all that the empty text has.
    let added = tokenizer.encode("").map_err(|error| in_file(error, metadata))?;
    for (key, token, place, found) in [
        ("add_bos_token", tokenizer.bos(), "begin with", added.first()),
        ("add_eos_token", tokenizer.eos(), "end with", added.last()),
    ] {
        let (Some(wanted), Some(token)) = (config.get(key).and_then(serde_json::Value::as_bool), token) else {
            continue;
        };
        let does = found == Some(&token);
        if does != wanted {
            remarks.push(Remark::Warning(format!(
                "{path}: {key} is {wanted}, and by the post-processor of tokenizer.json prompts {}{place} token {token}: \
                 the post-processor decides, as in transformers 5",
                if does { "" } else { "do not " }
            )));
        }
    }
    Ok(())
}

/// Adds the tokens of `added_tokens_decoder` in tokenizer_config.json that tokenizer.json lacks, as transformers does: in the order of
/// their ids. Returns their number.
fn add_tokens(tokenizer: &mut tokenizers::Tokenizer, metadata: &Metadata, remarks: &mut Vec<Remark>) -> Result<usize> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        added_tokens_decoder: BTreeMap<u32, Listed>,
    }
    #[derive(Deserialize)]
    struct Listed {
        content: String,
        #[serde(default)]
        special: bool,
        #[serde(default)]
        single_word: bool,
        #[serde(default)]
        lstrip: bool,
        #[serde(default)]
        rstrip: bool,
        normalized: Option<bool>,
    }
    let Some(text) = &metadata.tokenizer().tokenizer_config else { return Ok(0) };
    let path = metadata.file("tokenizer_config.json").display().to_string();
    let config: Config = serde_json::from_slice(text).with_context(|| path.clone())?;
    let mut added = Vec::new();
    for (id, listed) in config.added_tokens_decoder {
        let Listed { content, special, single_word, lstrip, rstrip, normalized } = listed;
        if content.is_empty() || tokenizer.get_added_vocabulary().get_vocab().contains_key(&content) {
            continue;
        }
        let token = AddedToken::from(content.as_str(), special)
            .single_word(single_word)
            .lstrip(lstrip)
            .rstrip(rstrip)
            .normalized(normalized.unwrap_or(!special));
        match special {
            true => tokenizer.add_special_tokens(&[token]),
            false => tokenizer.add_tokens(&[token]),
        };
        let given = tokenizer.token_to_id(&content);
        if given != Some(id) {
            let given = given.map_or("none".to_owned(), |given| given.to_string());
            let text = format!(
                "{path}: added_tokens_decoder: {content:?} has id {id} here, and gets id {given} in the vocabulary of tokenizer.json"
            );
            remarks.push(Remark::Warning(text));
        }
        added.push(content);
    }
    if !added.is_empty() {
        let text =
            format!("{path}: tokens that tokenizer.json lacks, added to the plan's tokenizer: {}", added.join(" "));
        remarks.push(Remark::Note(text));
    }
    Ok(added.len())
}

/// An error of a text section as an error of its file.
fn in_file(error: RuntimeError, metadata: &Metadata) -> anyhow::Error {
    let RuntimeError::Tokenizer { section, reason } = error else { return error.into() };
    let name = if section == "tokenizer" { "tokenizer.json" } else { "tokenizer_config.json" };
    anyhow!("{}: {reason}", metadata.file(name).display())
}
