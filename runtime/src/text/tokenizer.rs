//! The checkpoint's tokenizer: text to tokens and back.

use std::sync::Arc;

use serde::Deserialize;
use tokenizers::DecoderWrapper;

use super::stream::TextStream;
use crate::RuntimeError;

/// A tokenizer.
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
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: Add,
    add_eos: Add,
    has_bytes: bool,
}

/// The setting of `add_bos_token` or `add_eos_token` in `tokenizer_config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Add {
    /// True: every text has the token, even if the tokenizer itself does not add it.
    Yes,
    /// False: the token is not added.
    No,
    /// Absent: the tokenizer's post-processor decides.
    Tokenizer,
}

impl From<Option<bool>> for Add {
    fn from(value: Option<bool>) -> Self {
        match value {
            Some(true) => Add::Yes,
            Some(false) => Add::No,
            None => Add::Tokenizer,
        }
    }
}

#[derive(Default, Deserialize)]
struct Config {
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
}

/// A special token in `tokenizer_config.json`: its text, or an object that contains it.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum SpecialToken {
    Text(String),
    Record { content: String },
}

impl SpecialToken {
    pub(crate) fn text(&self) -> &str {
        match self {
            SpecialToken::Text(text) | SpecialToken::Record { content: text } => text,
        }
    }
}

impl Tokenizer {
    /// Parses `tokenizer.json` and, if present, `tokenizer_config.json`. `bos` is the start token if the latter names none.
    pub fn new(tokenizer: &[u8], config: Option<&[u8]>, bos: Option<u32>) -> Result<Tokenizer, RuntimeError> {
        let inner = tokenizers::Tokenizer::from_bytes(tokenizer).map_err(failed)?;
        let config: Config = match config {
            None => Config::default(),
            Some(bytes) => serde_json::from_slice(bytes)
                .map_err(|error| RuntimeError::Tokenizer { section: "tokenizer config", reason: error.to_string() })?,
        };
        let id = |token: &Option<SpecialToken>| token.as_ref().and_then(|token| inner.token_to_id(token.text()));
        Ok(Tokenizer {
            bos: id(&config.bos_token).or(bos),
            eos: id(&config.eos_token),
            add_bos: config.add_bos_token.into(),
            add_eos: config.add_eos_token.into(),
            has_bytes: inner.get_decoder().is_some_and(has_byte_fallback),
            inner,
        })
    }

    /// Encodes text, with the start and end tokens that the checkpoint's configuration asks for.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, RuntimeError> {
        let mut tokens = self.encode_with(text, self.add_bos != Add::No)?;
        if let Some(bos) = self.bos.filter(|bos| self.add_bos == Add::Yes && tokens.first() != Some(bos)) {
            tokens.insert(0, bos);
        }
        match self.eos {
            Some(eos) if self.add_eos == Add::Yes && tokens.last() != Some(&eos) => tokens.push(eos),
            Some(eos) if self.add_eos == Add::No && tokens.last() == Some(&eos) && !text.ends_with(&self.text(eos)) => {
                tokens.pop();
            }
            _ => {}
        }
        Ok(tokens)
    }

    /// Encodes text without adding special tokens, for example a rendered chat, which contains them already.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, RuntimeError> {
        self.encode_with(text, false)
    }

    fn encode_with(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, RuntimeError> {
        let encoded = self.inner.encode_fast(text, add_special_tokens).map_err(failed)?;
        Ok(encoded.get_ids().to_vec())
    }

    /// Decodes tokens. Special tokens are skipped.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, RuntimeError> {
        self.inner.decode(tokens, true).map_err(failed)
    }

    /// A decoder for tokens that arrive one at a time.
    pub fn stream(self: &Arc<Self>) -> TextStream {
        TextStream::new(Arc::clone(self))
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

    /// True if the tokenizer falls back to one token per byte for characters that are not in the vocabulary.
    pub(crate) fn has_bytes(&self) -> bool {
        self.has_bytes
    }

    /// True for byte-fallback tokens.
    pub(crate) fn is_byte(&self, token: u32) -> bool {
        self.has_bytes && byte_of(&self.text(token)).is_some()
    }
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

fn failed(error: tokenizers::Error) -> RuntimeError {
    RuntimeError::Tokenizer { section: "tokenizer", reason: error.to_string() }
}
#[cfg(test)]
mod tests {
    use super::*;

    /// A byte-level tokenizer like Jamba's and the tiny model's: `Ġ` is a space, `Ã` and `¼` are the two bytes of `ü`.
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

    fn tokenizer(config: Option<&str>) -> Arc<Tokenizer> {
        Arc::new(Tokenizer::new(TOKENIZER.as_bytes(), config.map(str::as_bytes), Some(0)).unwrap())
    }

    #[test]
    fn the_config_decides_about_bos() {
        let yes = tokenizer(Some(r#"{"add_bos_token": true, "bos_token": "<s>"}"#));
        assert_eq!(yes.encode("b a").unwrap(), [0, 2, 4]);
        assert_eq!(yes.encode("<s>b").unwrap(), [0, 2]);
        assert_eq!(yes.encode_plain("b").unwrap(), [2]);
        assert_eq!(tokenizer(Some(r#"{"add_bos_token": false}"#)).encode("b").unwrap(), [2]);
        assert_eq!(tokenizer(None).encode("b").unwrap(), [2]);
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
}
