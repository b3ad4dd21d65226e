//! Text to tokens and back, by the checkpoint's own tokenizer.

use serde::Deserialize;

use crate::RuntimeError;

/// The plan's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    bos: Option<u32>,
    add_bos: AddBos,
}

/// What `tokenizer_config.json` says about the token that begins a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddBos {
    /// `add_bos_token: true`: every text begins with it, whether or not the tokenizer puts it there.
    Yes,
    /// `add_bos_token: false`: no special token is added.
    No,
    /// Nothing: the tokenizer decides.
    Tokenizer,
}

#[derive(Default, Deserialize)]
struct Config {
    add_bos_token: Option<bool>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, where there is one, `tokenizer_config.json`.
    pub(crate) fn new(tokenizer: &[u8], config: Option<&[u8]>, bos: Option<u32>) -> Result<Tokenizer, RuntimeError> {
        let inner = tokenizers::Tokenizer::from_bytes(tokenizer)
            .map_err(|error| RuntimeError::Tokenizer { section: "tokenizer", reason: error.to_string() })?;
        let config: Config = match config {
            None => Config::default(),
            Some(bytes) => serde_json::from_slice(bytes)
                .map_err(|error| RuntimeError::Tokenizer { section: "tokenizer config", reason: error.to_string() })?,
        };
        let add_bos = match config.add_bos_token {
            Some(true) => AddBos::Yes,
            Some(false) => AddBos::No,
            None => AddBos::Tokenizer,
        };
        Ok(Tokenizer { inner, bos, add_bos })
    }

    /// The tokens of a text, with the token that begins a text where the checkpoint wants one.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, RuntimeError> {
        let mut tokens = self.encode_with(text, self.add_bos != AddBos::No)?;
        if let Some(bos) = self.bos.filter(|bos| self.add_bos == AddBos::Yes && tokens.first() != Some(bos)) {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }

    /// The tokens of a text that already says how it begins: a rendered chat.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, RuntimeError> {
        self.encode_with(text, false)
    }

    fn encode_with(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, RuntimeError> {
        let encoded = self.inner.encode_fast(text, add_special_tokens).map_err(failed)?;
        Ok(encoded.get_ids().to_vec())
    }

    /// The text of tokens, without special ones.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, RuntimeError> {
        self.inner.decode(tokens, true).map_err(failed)
    }

    /// The text of tokens that come one by one.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, tokens: Vec::new(), begin: 0, told: 0 }
    }
}

fn failed(error: tokenizers::Error) -> RuntimeError {
    RuntimeError::Tokenizer { section: "tokenizer", reason: error.to_string() }
}

/// Turns tokens into text as they come; characters that several tokens make up appear when they are whole.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    /// Tokens from here to `told` are the context that decoding the next ones needs.
    begin: usize,
    /// Tokens before this one were told.
    told: usize,
}

impl TextStream<'_> {
    /// Takes the next token; returns the text that is now complete, often a word, sometimes nothing.
    pub fn push(&mut self, token: u32) -> Result<String, RuntimeError> {
        self.tokens.push(token);
        let news = self.news()?;
        if news.is_empty() || news.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new()); // perhaps the beginning of a character
        }
        (self.begin, self.told) = (self.told, self.tokens.len());
        Ok(news)
    }

    /// The rest: what was held back because a character might have become whole.
    pub fn finish(self) -> Result<String, RuntimeError> {
        self.news()
    }

    fn news(&self) -> Result<String, RuntimeError> {
        let before = self.tokenizer.decode(&self.tokens[self.begin..self.told])?;
        let after = self.tokenizer.decode(&self.tokens[self.begin..])?;
        Ok(after.strip_prefix(&before).unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte-level, as Jamba's and the tiny model's: `Ġ` is a space, `Ã` and `¼` are the two bytes of `ü`.
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

    fn tokenizer(config: Option<&str>) -> Tokenizer {
        Tokenizer::new(TOKENIZER.as_bytes(), config.map(str::as_bytes), Some(0)).unwrap()
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
