//! The parts of a tokenizer.json: checked before the library reads the file, and named when the library refuses it.

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use tokenizers::processors::{bert, roberta, template};
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper};

use super::backtracking;

const NORMALIZERS: &[&str] = &[
    "BertNormalizer",
    "ByteLevel",
    "Lowercase",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Nmt",
    "Precompiled",
    "Prepend",
    "Replace",
    "Sequence",
    "Strip",
    "StripAccents",
];
const PRE_TOKENIZERS: &[&str] = &[
    "BertPreTokenizer",
    "ByteLevel",
    "CharDelimiterSplit",
    "Digits",
    "FixedLength",
    "Metaspace",
    "Punctuation",
    "Sequence",
    "Split",
    "UnicodeScripts",
    "Whitespace",
    "WhitespaceSplit",
];
const POST_PROCESSORS: &[&str] =
    &["BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing"];
const DECODERS: &[&str] = &[
    "BPEDecoder",
    "ByteFallback",
    "ByteLevel",
    "CTC",
    "Fuse",
    "Metaspace",
    "Replace",
    "Sequence",
    "Strip",
    "WordPiece",
];
const MODELS: &[&str] = &["BPE", "Unigram", "WordLevel", "WordPiece"];

/// The parts that are steps, as JSON, and the kind of the model. The library refuses other keys too, without naming them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with the key model")]
pub(super) struct Parts {
    #[serde(default, rename = "version")]
    _version: IgnoredAny,
    #[serde(default, rename = "truncation")]
    _truncation: IgnoredAny,
    #[serde(default, rename = "padding")]
    _padding: IgnoredAny,
    #[serde(default, rename = "added_tokens")]
    _added_tokens: IgnoredAny,
    #[serde(default)]
    pub(super) normalizer: Value,
    #[serde(default)]
    pub(super) pre_tokenizer: Value,
    #[serde(default)]
    pub(super) post_processor: Value,
    #[serde(default)]
    pub(super) decoder: Value,
    model: Model,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with the vocabulary")]
struct Model {
    #[serde(default, rename = "type")]
    kind: Value,
}

impl Parts {
    /// Reads the parts, and checks what the library takes for granted.
    pub(super) fn read(file: &[u8]) -> Result<Parts, String> {
        if file.starts_with(b"version https://git-lfs") {
            return Err("found a pointer of Git LFS, expected the tokenizer itself: git lfs pull fetches it".to_owned());
        }
        let parts: Parts = serde_json::from_slice(file).map_err(|error| format!("JSON error: {error}"))?;
        check_kind("model", &parts.model.kind, MODELS)?;
        steps(&parts.normalizer, "normalizer", "normalizers", &mut |place, step| match step["type"].as_str() {
            Some("Precompiled") => charsmap(step).map(|_| ()).map_err(|reason| format!("{place}: {reason}")),
            _ => check_pattern(place, step),
        })?;
        steps(&parts.pre_tokenizer, "pre_tokenizer", "pretokenizers", &mut |place, step| match (
            step["type"].as_str(),
            &step["length"],
        ) {
            (Some("FixedLength"), length) if *length == 0 => {
                Err(format!("{place}.length: found 0, expected 1 or more"))
            }
            _ => check_pattern(place, step),
        })?;
        steps(&parts.decoder, "decoder", "decoders", &mut check_pattern)?;
        Ok(parts)
    }

    /// The part that the library refuses and why, if it is one of the steps.
    pub(super) fn fault(&self) -> Option<String> {
        fault::<NormalizerWrapper>("normalizer", &self.normalizer, "normalizers", NORMALIZERS)
            .or_else(|| {
                fault::<PreTokenizerWrapper>("pre_tokenizer", &self.pre_tokenizer, "pretokenizers", PRE_TOKENIZERS)
            })
            .or_else(|| {
                fault::<PostProcessorWrapper>("post_processor", &self.post_processor, "processors", POST_PROCESSORS)
            })
            .or_else(|| fault::<DecoderWrapper>("decoder", &self.decoder, "decoders", DECODERS))
    }
}

/// The bytes without the byte order mark that some editors write before UTF-8.
pub(super) fn without_mark(file: &[u8]) -> &[u8] {
    file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file)
}

/// Refuses a regular expression of a step whose search would not end.
fn check_pattern(place: &str, step: &Value) -> Result<(), String> {
    let Some(expression) = step["pattern"]["Regex"].as_str() else { return Ok(()) };
    backtracking::check(expression).map_err(|reason| format!("{place}.pattern.Regex: {reason}"))
}

/// Visits a step and those in it, with their places.
fn steps(
    step: &Value,
    place: &str,
    inner: &str,
    visit: &mut dyn FnMut(&str, &Value) -> Result<(), String>,
) -> Result<(), String> {
    visit(place, step)?;
    for (index, step) in step[inner].as_array().into_iter().flatten().enumerate() {
        steps(step, &format!("{place}.{inner}[{index}]"), inner, visit)?;
    }
    Ok(())
}

/// The innermost step that is no `T`.
fn fault<T: DeserializeOwned>(place: &str, step: &Value, inner: &str, kinds: &[&str]) -> Option<String> {
    if step.is_null() {
        return None;
    }
    let reason = T::deserialize(step).err()?;
    let parts = step[inner].as_array().into_iter().flatten().enumerate();
    let mut in_parts = parts.map(|(index, part)| fault::<T>(&format!("{place}.{inner}[{index}]"), part, inner, kinds));
    if let Some(reason) = in_parts.find_map(|fault| fault) {
        return Some(reason);
    }
    if let Err(reason) = check_kind(place, &step["type"], kinds) {
        return Some(reason);
    }
    let kind = step["type"].as_str().unwrap_or("without a type");
    // The library tries all processors in turn; the reason is in the one of this type.
    let reason = match kind {
        "TemplateProcessing" => template::TemplateProcessing::deserialize(step).err(),
        "BertProcessing" => bert::BertProcessing::deserialize(step).err(),
        "RobertaProcessing" => roberta::RobertaProcessing::deserialize(step).err(),
        _ => None,
    }
    .unwrap_or(reason);
    Some(format!("{place} ({kind}): {reason}"))
}

/// Refuses a type that is not in the list. Old files name none.
fn check_kind(place: &str, kind: &Value, kinds: &[&str]) -> Result<(), String> {
    if kind.is_null() || kind.as_str().is_some_and(|kind| kinds.contains(&kind)) {
        return Ok(());
    }
    Err(format!("{place}.type: found {kind}, expected one of {}", kinds.join(", ")))
}

/// The replacements of a step `Precompiled`, each with a zero byte at its end.
///
/// The layout is SentencePiece's: the length of a trie in bytes, u32; the trie; the replacements.
pub(super) fn charsmap(step: &Value) -> Result<Vec<u8>, String> {
    let wrong = |reason: &str| format!("precompiled_charsmap: {reason}");
    let text = step["precompiled_charsmap"].as_str().ok_or_else(|| wrong("found no text, expected base64"))?;
    let map = base64::decode(text).map_err(|error| wrong(&error.to_string()))?;
    let (length, rest) = map.split_first_chunk::<4>().ok_or_else(|| wrong("it is shorter than its header"))?;
    let trie = u32::from_le_bytes(*length) as usize;
    let replacements = rest.get(trie..).filter(|_| trie.is_multiple_of(4) && trie > 0);
    let replacements = replacements.ok_or_else(|| wrong("its trie has another length than its header says"))?;
    str::from_utf8(replacements).map_err(|error| wrong(&error.to_string()))?;
    Ok(replacements.to_vec())
}
