//! The checkpoint's tokenizer: text to tokens and back.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};
use tokenizers::DecoderWrapper;

use super::fewest::{Cover, Steps};
use super::growth::{self, Growth};
use super::stream::TextStream;
use super::tokenizer_json::{Parts, without_mark};
use crate::contain::contained;
use crate::{ChatTemplate, RuntimeError};

/// A tokenizer.
///
/// All tokenizers that tokenizer.json can describe are supported: byte-level ones, and SentencePiece's with byte fallback, as
/// the official Jamba models have. The checkpoint's post-processor decides which special tokens a prompt gets. As in
/// transformers 5, `add_bos_token` and `add_eos_token` of tokenizer_config.json are ignored. Truncation and padding, which a
/// file may remember of the last call before it was saved, never apply.
///
/// ```
/// # use jamba_runtime::{Engine, OpenOptions};
/// let engine = Engine::open("examples/toy.plan", OpenOptions::default())?;
/// let tokenizer = engine.tokenizer()?;
/// let tokens = tokenizer.encode("Once upon a time")?;
/// assert_eq!(tokens[0], tokenizer.bos().expect("this tokenizer has a start token"));
/// assert_eq!(tokenizer.decode(&tokens)?, "Once upon a time");
/// # Ok::<(), jamba_runtime::RuntimeError>(())
/// ```
pub struct Tokenizer {
    pub(super) inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
    has_bytes: bool,
    /// Special tokens and their texts, in the order of ids.
    special: BTreeMap<u32, String>,
    /// Tokens that the vocabulary got after it was trained, special or not.
    added: HashSet<u32>,
    /// Special tokens that the chat template writes around tool calls and reasoning.
    marks: HashSet<u32>,
    pub(super) growth: Growth,
    /// None if the tokenizer has no lower bound on the tokens of a text.
    pub(super) steps: Option<Steps>,
    pub(super) cover: OnceLock<Option<Cover>>,
}

/// The special tokens that are part of decoded text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpecialTokens {
    /// Those that the chat template writes around tool calls and reasoning, such as `<tool_calls>` and `<think>`: parsers and
    /// the next turn's prompt need them.
    #[default]
    Marks,
    /// All.
    All,
    /// None.
    Hidden,
}

/// The object in `tokenizer_config.json`.
pub(crate) fn read_config(bytes: Option<&[u8]>) -> Result<Map<String, Value>, RuntimeError> {
    let Some(bytes) = bytes else { return Ok(Map::new()) };
    serde_json::from_slice(without_mark(bytes)).map_err(|error| in_config(format!("JSON error: {error}")))
}

/// The text of a special token in `tokenizer_config.json`: a string, or an object with `content`.
pub(crate) fn special_token<'a>(config: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, RuntimeError> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_str().or_else(|| value.get("content")?.as_str()) {
            Some(text) => Ok(Some(text)),
            None => Err(in_config(format!("{key}: found {value}, expected a token, or an object with its content"))),
        },
    }
}

fn in_config(reason: String) -> RuntimeError {
    RuntimeError::Tokenizer { section: "tokenizer config", reason }
}

impl Tokenizer {
    /// Parses `tokenizer.json` and, if present, `tokenizer_config.json`. `bos` is the start token if the latter names none.
    pub fn new(tokenizer: &[u8], config: Option<&[u8]>, bos: Option<u32>) -> Result<Tokenizer, RuntimeError> {
        let tokenizer = without_mark(tokenizer);
        let parts = Parts::read(tokenizer).map_err(failed)?;
        let growth = growth::of(&parts).map_err(failed)?;
        let mut inner = contained(|| tokenizers::Tokenizer::from_bytes(tokenizer))
            .map_err(failed)?
            .map_err(|error| failed(parts.fault().unwrap_or_else(|| error.to_string())))?;
        inner.with_truncation(None).map_err(failed)?;
        inner.with_padding(None);
        let config = read_config(config)?;
        match config.get("split_special_tokens") {
            None | Some(Value::Null) => {}
            Some(Value::Bool(splits)) => inner.set_encode_special_tokens(*splits),
            Some(other) => {
                return Err(in_config(format!("split_special_tokens: found {other}, expected true or false")));
            }
        }
        let id = |key: &str| -> Result<Option<u32>, RuntimeError> {
            Ok(special_token(&config, key)?.and_then(|token| inner.token_to_id(token)))
        };
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, token)| (id, token.content.clone()));
        let special: BTreeMap<u32, String> = special.collect();
        Ok(Tokenizer {
            bos: id("bos_token")?.or(bos),
            eos: id("eos_token")?,
            has_bytes: inner.get_decoder().is_some_and(has_byte_fallback),
            special,
            added: added.into_keys().collect(),
            marks: HashSet::new(),
            growth,
            steps: Steps::of(&parts, &inner),
            cover: OnceLock::new(),
            inner,
        })
    }

    /// Finds the special tokens that [`SpecialTokens::Marks`] keeps: those of `template` around tool calls and reasoning.
    pub fn with_template(mut self, template: &ChatTemplate) -> Tokenizer {
        let is_in_template = |text: &str| template.sources().any(|source| source.contains(text));
        let marks = self
            .special
            .iter()
            .filter(|(_, text)| is_mark_name(text) && is_in_template(text) && !template.names_special(text));
        self.marks = marks.map(|(&id, _)| id).collect();
        self
    }

    pub(super) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// The special tokens.
    pub(super) fn special_ids(&self) -> impl Iterator<Item = u32> {
        self.special.keys().copied()
    }

    /// True for special tokens that the chat template writes around tool calls and reasoning.
    pub(super) fn is_mark(&self, token: u32) -> bool {
        self.marks.contains(&token)
    }

    /// Decodes tokens. Special tokens are skipped.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, RuntimeError> {
        contained(|| self.inner.decode(tokens, true)).map_err(failed)?.map_err(failed)
    }

    /// Decodes tokens to text with these special tokens.
    pub fn decode_with(&self, tokens: &[u32], special: SpecialTokens) -> Result<String, RuntimeError> {
        self.decode_without(tokens, &self.hidden(special, &[]))
    }

    /// Decodes tokens except those in `hidden`.
    pub(super) fn decode_without(&self, tokens: &[u32], hidden: &HashSet<u32>) -> Result<String, RuntimeError> {
        let shown: Vec<u32> = tokens.iter().copied().filter(|token| !hidden.contains(token)).collect();
        contained(|| self.inner.decode(&shown, false)).map_err(failed)?.map_err(failed)
    }

    /// Special tokens that are no part of the text. Those that a stop string contains are.
    pub(super) fn hidden(&self, special: SpecialTokens, stops: &[String]) -> HashSet<u32> {
        let is_kept = |id: u32| match special {
            SpecialTokens::Marks => self.marks.contains(&id),
            SpecialTokens::All => true,
            SpecialTokens::Hidden => false,
        };
        let is_in_stop = |text: &str| stops.iter().any(|stop| stop.contains(text));
        let hidden = self.special.iter().filter(|&(&id, text)| !is_kept(id) && !is_in_stop(text));
        hidden.map(|(&id, _)| id).collect()
    }

    /// A decoder for tokens that arrive one at a time, without special tokens.
    pub fn stream(self: &Arc<Self>) -> TextStream {
        self.stream_after(&[], SpecialTokens::Hidden)
    }

    /// A decoder for tokens that follow those `before`. Both together read as one text: a decoder that strips the first space
    /// of a text keeps it.
    pub fn stream_after(self: &Arc<Self>, before: &[u32], special: SpecialTokens) -> TextStream {
        TextStream::new(Arc::clone(self), before, self.hidden(special, &[]))
    }

    /// [`Tokenizer::stream_after`] for an answer with stop strings.
    pub(crate) fn answer_stream(
        self: &Arc<Self>,
        before: &[u32],
        special: SpecialTokens,
        stops: &[String],
    ) -> TextStream {
        TextStream::new(Arc::clone(self), before, self.hidden(special, stops))
    }

    /// The start token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end token, if `tokenizer_config.json` names one. The plan's manifest may list more.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token with this name in the vocabulary, for example `<|endoftext|>`.
    pub fn id(&self, name: &str) -> Option<u32> {
        self.inner.token_to_id(name)
    }

    /// Name of a token in the vocabulary; empty if there is none.
    fn text(&self, token: u32) -> String {
        self.inner.id_to_token(token).unwrap_or_default()
    }

    /// The bytes that a token adds to a text: part of a character, a word with the space before it, or the name of a special
    /// token. None outside the vocabulary.
    ///
    /// ```
    /// # use jamba_runtime::{Engine, OpenOptions};
    /// # let engine = Engine::open("examples/toy.plan", OpenOptions::default())?;
    /// let tokenizer = engine.tokenizer()?;
    /// let tokens = tokenizer.encode_plain("a für")?;
    /// let bytes: Vec<u8> = tokens.iter().filter_map(|&token| tokenizer.token_bytes(token)).flatten().collect();
    /// assert_eq!(bytes, "a für".as_bytes());
    /// # Ok::<(), jamba_runtime::RuntimeError>(())
    /// ```
    pub fn token_bytes(&self, token: u32) -> Option<Vec<u8>> {
        let name = self.inner.id_to_token(token)?;
        if self.added.contains(&token) {
            return Some(name.into_bytes());
        }
        match (self.inner.get_decoder(), byte_of(&name)) {
            (_, Some(byte)) if self.has_bytes => Some(vec![byte]),
            (Some(decoder), _) => contained(|| super::bytes::of_token(decoder, name)).ok(),
            (None, _) => Some(name.into_bytes()),
        }
    }

    /// The text of a token alone: its bytes, where parts of characters are replaced. None outside the vocabulary.
    pub fn token_text(&self, token: u32) -> Option<String> {
        Some(String::from_utf8_lossy(&self.token_bytes(token)?).into_owned())
    }

    /// True if the tokenizer falls back to one token per byte for characters that are not in the vocabulary.
    pub(crate) fn has_bytes(&self) -> bool {
        self.has_bytes
    }

    /// True for byte-fallback tokens.
    pub(crate) fn is_byte(&self, token: u32) -> bool {
        self.has_bytes && byte_of(&self.text(token)).is_some()
    }
}

/// True for the names of tokens around tool calls and reasoning: tags such as `<think>` and `</tool_call>`, and names with these
/// words.
fn is_mark_name(text: &str) -> bool {
    let tag = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).map(|name| name.trim_start_matches('/'));
    let is_tag =
        tag.is_some_and(|name| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "_-".contains(c)));
    let lower = text.to_lowercase();
    is_tag || ["call", "think", "reason", "function"].into_iter().any(|word| lower.contains(word))
}

/// Parses the name of a byte-fallback token, such as `<0xE4>`.
pub(crate) fn byte_of(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
}

fn has_byte_fallback(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteFallback(_) => true,
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().any(has_byte_fallback),
        _ => false,
    }
}

pub(super) fn failed(error: impl ToString) -> RuntimeError {
    RuntimeError::Tokenizer { section: "tokenizer", reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte-level tokenizer like the tiny model's: `Ġ` is a space, `Ã` and `¼` are the two bytes of `ü`.
    const TOKENIZER: &str = r#"{
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": [
            {"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"<s>": 0, "a": 1, "b": 2, "Ġ": 3, "Ġa": 4, "Ã": 5, "¼": 6}, "merges": [["Ġ", "a"]]}
    }"#;

    /// The same with a post-processor that adds `<s>`.
    fn with_bos(config: Option<&str>) -> Tokenizer {
        let processor = r#""post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}}"#;
        let json = TOKENIZER.replace("\"post_processor\": null", processor);
        Tokenizer::new(json.as_bytes(), config.map(str::as_bytes), None).unwrap()
    }

    fn tokenizer(config: Option<&str>) -> Arc<Tokenizer> {
        Arc::new(Tokenizer::new(TOKENIZER.as_bytes(), config.map(str::as_bytes), Some(0)).unwrap())
    }

    #[test]
    fn the_post_processor_decides_about_bos() {
        // As transformers 5 does for any `tokenizer_class`; tests/api/sentencepiece.rs has recorded values.
        for config in
            [None, Some(r#"{"add_bos_token": true, "bos_token": "<s>"}"#), Some(r#"{"add_bos_token": false}"#)]
        {
            assert_eq!(tokenizer(config).encode("b a").unwrap(), [2, 4]);
            assert_eq!(tokenizer(config).encode("<s>b").unwrap(), [0, 2]);
            let adds = with_bos(config);
            assert_eq!(adds.encode("b a").unwrap(), [0, 2, 4]);
            assert_eq!(adds.encode("<s>b").unwrap(), [0, 0, 2]);
            assert_eq!([adds.encode_plain("b").unwrap(), adds.encode("").unwrap()], [[2], [0]]);
        }
    }

    #[test]
    fn nothing_that_a_file_remembers_reaches_a_prompt() {
        let saved = TOKENIZER
            .replace("\"truncation\": null", r#""truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}"#)
            .replace("\"padding\": null", r#""padding": {"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"}"#);
        let tokenizer = Tokenizer::new(saved.as_bytes(), None, None).unwrap();
        assert_eq!(tokenizer.encode("abababab").unwrap(), [1, 2, 1, 2, 1, 2, 1, 2]);
        assert_eq!([tokenizer.encode("b").unwrap(), tokenizer.encode_plain("b").unwrap()], [[2], [2]]);
    }

    #[test]
    fn special_tokens_are_text_on_request() {
        let tokenizer = tokenizer(None);
        let texts = [SpecialTokens::Hidden, SpecialTokens::Marks, SpecialTokens::All]
            .map(|special| tokenizer.decode_with(&[0, 2, 4], special).unwrap());
        assert_eq!(texts, ["b a", "b a", "<s>b a"]);
        let marks = [
            "<think>",
            "</tool_call>",
            "<tool_calls>",
            "[TOOL_CALLS]",
            "<|tool_call|>",
            "<|im_start|>",
            "<|user|>",
            "a",
        ];
        assert_eq!(marks.map(is_mark_name), [true, true, true, true, true, false, false, false]);
    }

    #[test]
    fn special_tokens_of_the_prompt_can_be_split() {
        let tokenizer = tokenizer(Some(r#"{"split_special_tokens": true}"#));
        assert_ne!(tokenizer.encode("<s>").unwrap(), [0]);
    }

    #[test]
    fn special_tokens_have_no_text() {
        assert_eq!(tokenizer(None).decode(&[0, 2, 4, 5, 6]).unwrap(), "b aü");
    }

    #[test]
    fn streamed_text_is_the_whole_text_and_always_whole_characters() {
        let tokenizer = tokenizer(None);
        let mut stream = tokenizer.stream();
        let parts: Vec<String> = [0, 2, 4, 5, 6, 1].iter().map(|&token| stream.push(token).unwrap()).collect();
        assert_eq!(parts, ["", "b", " a", "", "ü", "a"]);
        assert_eq!(stream.finish().unwrap(), "");
        let mut stream = tokenizer.stream();
        assert_eq!([stream.push(1).unwrap(), stream.push(5).unwrap()], ["a", ""]);
        assert_eq!(stream.finish().unwrap(), "\u{fffd}");
    }

    #[test]
    fn a_broken_tokenizer_is_refused_by_name() {
        let error = Tokenizer::new(b"{}", None, None).map(|_| ()).unwrap_err();
        assert!(error.to_string().starts_with("tokenizer: "), "{error}");
    }

    #[test]
    fn a_refused_part_is_named() {
        let with =
            |key: &str, value: &str| TOKENIZER.replace(&format!("\"{key}\": null"), &format!("\"{key}\": {value}"));
        let step = r#"{"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Swap", "content": "x"}]}"#;
        let template = r#"{"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}], "pair": []}"#;
        let fixed = r#"{"type": "Sequence", "pretokenizers": [{"type": "FixedLength", "length": 0}]}"#;
        let split = r#"{"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}"#;
        let pre = |value: &str| {
            let from = TOKENIZER.find("\"pre_tokenizer\"").unwrap();
            let to = from + TOKENIZER[from..].find('\n').unwrap();
            format!("{}\"pre_tokenizer\": {value},{}", &TOKENIZER[..from], &TOKENIZER[to..])
        };
        let decoder = TOKENIZER.replace("\"decoder\": {\"type\": \"ByteLevel\"", "\"decoder\": {\"type\": \"Words\"");
        for (file, says) in [
            (
                with("normalizer", step),
                &["normalizer.normalizers[1].type: found \"Swap\", expected one of", "Prepend"][..],
            ),
            (with("normalizer", "5"), &["normalizer"]),
            (with("post_processor", template), &["post_processor (TemplateProcessing): ", "type_id"]),
            (pre(fixed), &["pre_tokenizer.pretokenizers[0].length: found 0, expected 1 or more"]),
            (pre(split), &["pre_tokenizer (Split): "]),
            (decoder, &["decoder.type: found \"Words\", expected one of BPEDecoder"]),
            (TOKENIZER.replace("\"BPE\"", "\"LSTM\""), &["model.type: found \"LSTM\", expected one of BPE"]),
            (TOKENIZER[..TOKENIZER.len() / 2].to_owned(), &["JSON error", "line"]),
            ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_owned(), &["Git LFS", "git lfs pull"]),
            ("{}".to_owned(), &["missing field `model`"]),
        ] {
            let error = Tokenizer::new(file.as_bytes(), None, None).map(|_| ()).unwrap_err().to_string();
            assert!(says.iter().all(|part| error.contains(part)), "{error}");
        }
        let config = |text: &str| {
            Tokenizer::new(TOKENIZER.as_bytes(), Some(text.as_bytes()), None).map(|_| ()).unwrap_err().to_string()
        };
        let error = config(r#"{"bos_token": 5}"#);
        assert_eq!(error, "tokenizer config: bos_token: found 5, expected a token, or an object with its content");
        assert!(config(r#"{"split_special_tokens": 1}"#).contains("split_special_tokens: found 1, expected true"));
        // A byte order mark is no part of the file.
        let marked = [b"\xef\xbb\xbf", TOKENIZER.as_bytes()].concat();
        let config = b"\xef\xbb\xbf{\"bos_token\": \"<s>\"}";
        assert_eq!(Tokenizer::new(&marked, Some(config), None).unwrap().bos(), Some(0));
    }
}
