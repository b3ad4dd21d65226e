//! The tokens that end a text: those of config.json, generation_config.json and the tokenizer together.
//!
//! transformers' `generate` stops at those of generation_config.json, chat templates end turns with the tokenizer's `eos_token`, and
//! published checkpoints name different tokens in the three places. All of them end an answer.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::json::{Keys, show};
use crate::remark::Remark;
use crate::tokenizer::TokenizerFiles;

/// The end of a text in transformers' `JambaConfig`, for checkpoints that name none.
const DEFAULT: u32 = 2;

/// The places that name end tokens.
pub(crate) struct Places<'a> {
    /// config.json; `None` if it has no `eos_token_id`.
    pub(crate) config: Option<&'a [u32]>,
    /// generation_config.json.
    pub(crate) generation: &'a [u32],
    /// The tokenizer's files.
    pub(crate) tokenizer: &'a TokenizerFiles,
}

impl Places<'_> {
    /// All end tokens inside a vocabulary of `vocab` tokens, in the order of the places, without duplicates.
    pub(crate) fn union(&self, dir: &Path, vocab: usize) -> Result<(Vec<u32>, Vec<Remark>)> {
        let mut remarks = Vec::new();
        let from_tokenizer = of_tokenizer(self.tokenizer, dir, vocab, &mut remarks)?;
        let all = self.config.into_iter().flatten().chain(self.generation).chain(&from_tokenizer);
        let mut union = Vec::new();
        for &token in all {
            if !union.contains(&token) {
                union.push(token);
            }
        }
        if !union.is_empty() {
            return Ok((union, remarks));
        }
        let places = "config.json, generation_config.json and the tokenizer name no token that ends a text";
        // An explicit null means that there is none.
        let text = match self.config {
            None if (DEFAULT as usize) < vocab => {
                union.push(DEFAULT);
                format!("{}: {places}: token {DEFAULT}, transformers' default for Jamba, ends one", dir.display())
            }
            _ => format!(
                "{}: {places}: answers end only at their maximum length or at a stop string; add \"eos_token_id\" to \
                 generation_config.json",
                dir.display()
            ),
        };
        remarks.push(Remark::Warning(text));
        Ok((union, remarks))
    }
}

/// The `eos_token` of tokenizer_config.json or, in older checkpoints, of special_tokens_map.json.
fn of_tokenizer(files: &TokenizerFiles, dir: &Path, vocab: usize, remarks: &mut Vec<Remark>) -> Result<Option<u32>> {
    for (name, text) in
        [("tokenizer_config.json", &files.tokenizer_config), ("special_tokens_map.json", &files.special_tokens_map)]
    {
        let Some(text) = text else { continue };
        let path = dir.join(name);
        let mut keys = Keys::parse(text, &path)?;
        let Some(value) = keys.take_non_null("eos_token") else { continue };
        let Some(token) = token_text(&value) else {
            return Err(keys.refuse("eos_token", show(&value), "a token, or an object with its content"));
        };
        let ids = Ids::read(files, dir)?;
        let found = match ids.get(token) {
            Some(id) if (id as usize) < vocab => return Ok(Some(id)),
            Some(id) => format!("token {id}, which is not below vocab_size = {vocab}"),
            None if files.tokenizer.is_none() => continue,
            None => "not in the tokenizer's vocabulary".to_owned(),
        };
        remarks.push(Remark::Warning(format!("{}: eos_token: {token:?} is {found}: ignored", path.display())));
        return Ok(None);
    }
    Ok(None)
}

/// The text of a special token: a string, or an object with `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A token that a file adds to the vocabulary.
#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

/// The parts of a tokenizer that give tokens their ids.
struct Ids {
    added: Vec<Added>,
    vocab: Value,
}

impl Ids {
    fn read(files: &TokenizerFiles, dir: &Path) -> Result<Ids> {
        #[derive(Default, Deserialize)]
        struct Tokenizer {
            #[serde(default)]
            added_tokens: Vec<Added>,
            #[serde(default)]
            model: Model,
        }
        #[derive(Default, Deserialize)]
        struct Model {
            #[serde(default)]
            vocab: Value,
        }
        let path = dir.join("tokenizer.json");
        let Tokenizer { mut added_tokens, model } = match &files.tokenizer {
            Some(text) => serde_json::from_slice(text).map_err(|cause| Error::Json { path, cause })?,
            None => Tokenizer::default(),
        };
        added_tokens.extend(decoder_tokens(files, dir)?);
        Ok(Ids { added: added_tokens, vocab: model.vocab })
    }

    /// The id of a token. A vocabulary is a map to ids (BPE, WordPiece) or a list of tokens with scores (Unigram).
    fn get(&self, token: &str) -> Option<u32> {
        if let Some(added) = self.added.iter().find(|added| added.content == token) {
            return Some(added.id);
        }
        match &self.vocab {
            Value::Object(ids) => ids.get(token)?.as_u64()?.try_into().ok(),
            Value::Array(pieces) => {
                pieces.iter().position(|piece| piece.get(0).is_some_and(|text| text == token))?.try_into().ok()
            }
            _ => None,
        }
    }
}

/// The `added_tokens_decoder` of tokenizer_config.json: ids as keys, tokens as values.
fn decoder_tokens(files: &TokenizerFiles, dir: &Path) -> Result<Vec<Added>> {
    #[derive(Default, Deserialize)]
    struct Config {
        #[serde(default)]
        added_tokens_decoder: BTreeMap<u32, Token>,
    }
    #[derive(Deserialize)]
    struct Token {
        content: String,
    }
    let Some(text) = &files.tokenizer_config else { return Ok(Vec::new()) };
    let path = dir.join("tokenizer_config.json");
    let config: Config = serde_json::from_slice(text).map_err(|cause| Error::Json { path, cause })?;
    Ok(config.added_tokens_decoder.into_iter().map(|(id, token)| Added { id, content: token.content }).collect())
}
