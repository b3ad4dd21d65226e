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
        steps(&parts.post_processor, "post_processor", "processors", &mut |place, step| {
            check_template(step).map_err(|reason| format!("{place}.{reason}"))
        })?;
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

/// Most tokens that a post-processor may add to a text.
const MOST_ADDED: usize = 4096;

/// Refuses a step `TemplateProcessing` that names a special token without its ids, a second text, or the text twice. The library looks
/// tokens and texts up when it encodes, and panics where they are missing.
fn check_template(step: &Value) -> Result<(), String> {
    // The library goes by the keys, whatever the type is.
    for (list, texts) in [("single", &["A"][..]), ("pair", &["A", "B"])] {
        let (mut n_texts, mut n_added) = (0, 0);
        for (index, piece) in step[list].as_array().into_iter().flatten().enumerate() {
            let place = format!("{list}[{index}]");
            if let Some(text) = piece["Sequence"]["id"].as_str() {
                n_texts += 1;
                if !texts.contains(&text) {
                    return Err(format!("{place}.Sequence.id: found {text:?}, expected one of {texts:?}"));
                }
            }
            if let Some(token) = piece["SpecialToken"]["id"].as_str() {
                let ids = step["special_tokens"][token]["ids"].as_array();
                let ids = ids.ok_or_else(|| format!("{place}: found {token:?}, expected a key of special_tokens"))?;
                n_added += ids.len();
            }
        }
        if n_texts > texts.len() {
            return Err(format!("{list}: found the text {n_texts} times, expected it once"));
        }
        if n_added > MOST_ADDED {
            return Err(format!("{list}: it adds {n_added} tokens, expected at most {MOST_ADDED}"));
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Tokenizer;

    /// Why a tokenizer with this post-processor is refused.
    fn refused(processor: Value) -> Option<String> {
        let file = json!({ "model": { "type": "WordLevel", "vocab": { "a": 0 }, "unk_token": "a" }, "post_processor": processor });
        Tokenizer::new(file.to_string().as_bytes(), None, None).err().map(|error| error.to_string())
    }

    #[test]
    fn templates_of_tokens_that_the_library_would_not_find_are_refused() {
        let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
        let token = json!({ "SpecialToken": { "id": "<s>", "type_id": 0 } });
        let known = json!({ "<s>": { "id": "<s>", "ids": [0], "tokens": ["a"] } });
        let many = json!({ "<s>": { "id": "<s>", "ids": vec![0; 3000], "tokens": vec!["a"; 3000] } });
        let template = |single: Value, tokens: &Value| json!({ "type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": tokens });
        assert_eq!(refused(template(json!([token, text("A")]), &known)), None);
        for (single, tokens, says) in [
            (json!([token, text("A")]), &json!({}), "single[0]: found \"<s>\", expected a key of special_tokens"),
            (json!([text("A"), text("B")]), &known, "single[1].Sequence.id: found \"B\", expected one of [\"A\"]"),
            (json!([text("A"), text("A")]), &known, "single: found the text 2 times"),
            (json!([token, token]), &many, "single: it adds 6000 tokens, expected at most 4096"),
        ] {
            let alone = refused(template(single.clone(), tokens)).unwrap();
            assert!(alone.starts_with(&format!("tokenizer: post_processor.{says}")), "{alone}");
            let inner = json!({ "type": "Sequence", "processors": [template(single, tokens)] });
            let inner = refused(inner).unwrap();
            assert!(inner.starts_with("tokenizer: post_processor.processors[0].") && inner.contains(says), "{inner}");
        }
    }

    #[test]
    fn a_control_character_is_an_error_and_no_panic() {
        let file = "{\"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}, \"decoder\": {\"type\": \"Byte\u{1}Level\"}}";
        let error = Tokenizer::new(file.as_bytes(), None, None).err().unwrap().to_string();
        assert!(error.starts_with("tokenizer: JSON error: control character"), "{error}");
    }
}
