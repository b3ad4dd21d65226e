//! The tokenizer and the chat template of a plan: checked when the plan is built, so that they do not fail when it runs.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use jamba_runtime::{ChatTemplate, RuntimeError, Tokenizer};
use jambac_checkpoint::{Metadata, Remark};
use serde::Deserialize;
use tokenizers::AddedToken;

/// The text sections of a plan, and remarks on their files.
pub(super) struct Text<'a> {
    /// tokenizer.json, with the tokens that only tokenizer_config.json lists.
    pub(super) tokenizer: Option<Cow<'a, [u8]>>,
    pub(super) remarks: Vec<Remark>,
}

/// Checks the tokenizer and the chat template.
///
/// # Errors
/// A file that the runtime could not use, with the place in it.
pub(super) fn check(metadata: &Metadata) -> Result<Text<'_>> {
    let mut remarks = Vec::new();
    let tokenizer = match &metadata.tokenizer().tokenizer {
        Some(bytes) => Some(tokenizer(bytes, metadata, &mut remarks)?),
        None => None,
    };
    check_template(metadata)?;
    Ok(Text { tokenizer, remarks })
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
    let path = metadata.dir().join("tokenizer.json");
    let named = || path.display().to_string();
    let mut parsed =
        tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| anyhow!("{error}")).with_context(named)?;
    let config = files.tokenizer_config.as_deref();
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
    let section = match added {
        0 => Cow::Borrowed(bytes),
        _ => Cow::Owned(parsed.to_string(false).map_err(|error| anyhow!("{}: {error}", named()))?.into_bytes()),
    };
    Tokenizer::new(&section, config, metadata.config().bos).map_err(|error| in_file(error, metadata))?;
    Ok(section)
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
    let path = metadata.dir().join("tokenizer_config.json").display().to_string();
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

/// Checks that the chat template parses.
fn check_template(metadata: &Metadata) -> Result<()> {
    let files = metadata.tokenizer();
    let template = files.chat_template.as_deref().map(str::as_bytes);
    match ChatTemplate::new(template, files.tokenizer_config.as_deref()) {
        Ok(_) | Err(RuntimeError::NoSection(_)) => Ok(()),
        Err(error) => Err(in_file(error, metadata)),
    }
}

/// An error of a text section as an error of its file.
fn in_file(error: RuntimeError, metadata: &Metadata) -> anyhow::Error {
    let RuntimeError::Tokenizer { section, reason } = error else { return error.into() };
    let templates = ["chat_template.jinja", "chat_template.json"];
    let name = match section {
        "tokenizer" => "tokenizer.json",
        "chat template" => {
            templates.into_iter().find(|name| metadata.dir().join(name).is_file()).unwrap_or("tokenizer_config.json")
        }
        _ => "tokenizer_config.json",
    };
    anyhow!("{}: {section}: {reason}", metadata.dir().join(name).display())
}
