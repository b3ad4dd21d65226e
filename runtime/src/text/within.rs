//! Text to tokens, within limits: encoding takes about 150 bytes of memory for each byte of text. A text that has too many tokens
//! is refused before it is encoded, and a text of any length is encoded in parts.

use tokenizers::{NormalizedString, Normalizer};

use super::fewest::Cover;
use super::tokenizer::{Tokenizer, failed};
use crate::contain::contained;
use crate::{RuntimeError, TextLimit};

/// Longest part, in bytes.
const PART: usize = 1 << 20;

/// The special tokens that encoding adds to a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddedTokens {
    /// Those of the tokenizer's post-processor, such as a start token.
    AsConfigured,
    /// None: for a rendered chat, which contains them already, or for a text that continues another.
    None,
}

impl Tokenizer {
    /// The largest text that is encoded at once if its number of tokens has no limit, in bytes. Encoding takes about 150 bytes of
    /// memory for each.
    pub const MAX_BYTES: u64 = 8 << 20;

    /// Encodes text, with the special tokens that the tokenizer's post-processor adds.
    ///
    /// # Errors
    /// [`RuntimeError::TextTooLong`] if the text has more than [`Tokenizer::MAX_BYTES`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, RuntimeError> {
        self.encode_within(text, None, AddedTokens::AsConfigured)
    }

    /// Encodes text without adding special tokens, for example a rendered chat, which contains them already.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, RuntimeError> {
        self.encode_within(text, None, AddedTokens::None)
    }

    /// Encodes text that should have at most `most` tokens. A text that has many more is refused before it is encoded: first
    /// because of its length, then because even the longest tokens of the vocabulary would be too many. Texts with at most
    /// `most` tokens are never refused, unless they have more than 64 bytes per token and more than [`Tokenizer::MAX_BYTES`].
    ///
    /// # Errors
    /// [`RuntimeError::TextTooLong`] if the text has more tokens.
    pub fn encode_within(&self, text: &str, most: Option<u64>, added: AddedTokens) -> Result<Vec<u32>, RuntimeError> {
        self.check_length(text, most)?;
        let encode = || self.inner.encode_fast(text, added == AddedTokens::AsConfigured);
        let encoded = contained(encode).map_err(failed)?.map_err(failed)?;
        let tokens = encoded.get_ids();
        match most {
            Some(most) if tokens.len() as u64 > most => {
                let limit = TextLimit::Tokens { tokens: tokens.len() as u64, most };
                Err(RuntimeError::TextTooLong { bytes: text.len() as u64, limit })
            }
            _ => Ok(tokens.to_vec()),
        }
    }

    /// Refuses a text that cannot be encoded to at most `most` tokens, or takes too much memory.
    pub(super) fn check_length(&self, text: &str, most: Option<u64>) -> Result<(), RuntimeError> {
        let bytes = text.len() as u64;
        let max_bytes = most.map_or(0, |most| most.saturating_mul(64)).max(Self::MAX_BYTES);
        if bytes > max_bytes {
            return Err(RuntimeError::TextTooLong { bytes, limit: TextLimit::Bytes(max_bytes) });
        }
        if let (Some(most), Some(steps)) = (most, self.steps) {
            // Shorter texts are encoded in less time than the vocabulary takes.
            if bytes > most.saturating_mul(4).max(1 << 16) {
                let cover = self.cover.get_or_init(|| contained(|| Cover::new(&self.inner, steps)).ok().flatten());
                let fewest = cover.as_ref().map_or(0, |cover| cover.fewest(text, most));
                if fewest > most {
                    let limit = TextLimit::Tokens { tokens: fewest, most };
                    return Err(RuntimeError::TextTooLong { bytes, limit });
                }
            }
        }
        self.check_normalized(text, max_bytes)
    }

    /// Refuses a text that the normalizer makes much longer than others, measured piece by piece.
    fn check_normalized(&self, text: &str, max_bytes: u64) -> Result<(), RuntimeError> {
        /// Bytes of a piece.
        const PIECE: usize = 1 << 14;
        /// What common normalizers make of a byte at most: `▁` for a space, and one before it.
        const USUAL: u64 = 4;
        let Some(normalizer) = self.inner.get_normalizer().filter(|_| self.growth.times > USUAL) else { return Ok(()) };
        let (mut rest, mut normalized) = (text, 0);
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(boundary(rest, PIECE));
            let mut piece = NormalizedString::from(piece);
            contained(|| normalizer.normalize(&mut piece)).map_err(failed)?.map_err(failed)?;
            normalized += piece.get().len() as u64;
            if normalized > max_bytes.saturating_mul(USUAL) {
                return Err(RuntimeError::TextTooLong {
                    bytes: normalized,
                    limit: TextLimit::Normalized(max_bytes.saturating_mul(USUAL)),
                });
            }
            rest = more;
        }
        Ok(())
    }

    /// Encodes a text of any length, for example a file whose perplexity is measured. A text of at most
    /// [`Tokenizer::MAX_BYTES`] has the tokens of [`Tokenizer::encode`]. A longer one is encoded in parts of at most 1 MiB,
    /// which end after a line where there is one. The tokens at the ends of parts may be others than those of the whole text.
    pub fn encode_long(&self, text: &str, added: AddedTokens) -> Result<Vec<u32>, RuntimeError> {
        if text.len() as u64 <= Self::MAX_BYTES {
            return self.encode_within(text, None, added);
        }
        self.encode_in_parts(text, PART, added)
    }

    fn encode_in_parts(&self, text: &str, most: usize, added: AddedTokens) -> Result<Vec<u32>, RuntimeError> {
        let (first, mut rest) = text.split_at(cut(text, most));
        let mut tokens = self.encode_plain(first)?;
        let mut end = Vec::new();
        if added == AddedTokens::AsConfigured {
            let with_added = self.encode(first)?;
            let begin = with_added.windows(tokens.len().max(1)).position(|window| window == tokens).unwrap_or(0);
            end = with_added[(begin + tokens.len()).min(with_added.len())..].to_vec();
            tokens.splice(..0, with_added[..begin].iter().copied());
        }
        while !rest.is_empty() {
            let (part, more) = rest.split_at(cut(rest, most));
            tokens.extend(self.encode_plain(part)?);
            rest = more;
        }
        tokens.extend(end);
        Ok(tokens)
    }
}

/// The last boundary between characters up to `most`.
pub(super) fn boundary(text: &str, most: usize) -> usize {
    (0..=most.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// The length of the first part: up to a line break before another line, if there is one, and otherwise up to a space.
fn cut(text: &str, most: usize) -> usize {
    if text.len() <= most {
        return text.len();
    }
    let head = &text[..boundary(text, most)];
    let before_text = |&(at, _): &(usize, &str)| text[at + 1..].starts_with(|c: char| !c.is_whitespace());
    let line = head.rmatch_indices('\n').find(before_text).map(|(at, _)| at + 1);
    // A part has at least one character.
    let whole = if head.is_empty() { text.chars().next().map_or(0, char::len_utf8) } else { head.len() };
    line.or_else(|| head.rfind(' ').filter(|&at| at > 0)).unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = include_str!("../../../models/tiny/tokenizer.json");

    fn tiny() -> Tokenizer {
        Tokenizer::new(TINY.as_bytes(), None, None).unwrap()
    }

    #[test]
    fn a_text_that_is_too_long_is_refused_early() {
        let tokenizer = tiny();
        let within = |text: &str, most| tokenizer.encode_within(text, Some(most), AddedTokens::None);
        let tokens = tokenizer.encode_plain("Once upon").unwrap();
        let n = tokens.len() as u64;
        assert_eq!(within("Once upon", n).unwrap(), tokens);
        let error = within("Once upon", n - 1).unwrap_err().to_string();
        let expected =
            format!("the text of 9 bytes has at least {n} tokens, and there is room for {}: shorten it", n - 1);
        assert_eq!(error, expected);
        // More bytes than the longest tokens can cover are refused before they are counted.
        let long = "Once upon a time ".repeat(10_000);
        let limit = |most| match within(&long, most) {
            Err(RuntimeError::TextTooLong { bytes: 170_000, limit }) => limit,
            other => panic!("{other:?}"),
        };
        assert_eq!(limit(1000), TextLimit::Tokens { tokens: 1001, most: 1000 });
        let n = tokenizer.encode_plain(&long).unwrap().len() as u64;
        assert_eq!(limit(n - 1), TextLimit::Tokens { tokens: n, most: n - 1 });
        assert_eq!(within(&long, n).unwrap().len() as u64, n);
        let huge = "b".repeat(Tokenizer::MAX_BYTES as usize + 1);
        let limit = TextLimit::Bytes(Tokenizer::MAX_BYTES);
        assert!(matches!(tokenizer.encode(&huge), Err(RuntimeError::TextTooLong { limit: l, .. }) if l == limit));
        assert!(matches!(within(&huge, 1000), Err(RuntimeError::TextTooLong { limit: l, .. }) if l == limit));
    }

    #[test]
    fn a_normalizer_that_makes_too_much_of_a_text_is_stopped() {
        let with = |content: &str| {
            let mut json: serde_json::Value = serde_json::from_str(TINY).unwrap();
            json["normalizer"] = serde_json::json!({"type": "Replace", "pattern": {"String": "a"}, "content": content});
            Tokenizer::new(json.to_string().as_bytes(), None, None)
        };
        let tokenizer = with(&"b".repeat(60)).unwrap();
        assert_eq!(tokenizer.encode_plain("a").unwrap(), tiny().encode_plain(&"b".repeat(60)).unwrap());
        let limit = TextLimit::Normalized(4 * Tokenizer::MAX_BYTES);
        let refused = tokenizer.encode(&"a".repeat(1 << 20));
        assert!(matches!(refused, Err(RuntimeError::TextTooLong { limit: l, .. }) if l == limit));
        // With a worse step it is no tokenizer.
        let error = with(&"b".repeat(1000)).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("tokenizer: normalizer: its steps make up to 1000 bytes"), "{error}");
    }

    #[test]
    fn parts_end_after_lines() {
        let parts = |mut text: &str, most: usize| {
            let mut parts = Vec::new();
            while !text.is_empty() {
                let (part, rest) = text.split_at(cut(text, most));
                parts.push(part.to_owned());
                text = rest;
            }
            parts
        };
        assert_eq!(parts("one\ntwo\n\nthree four", 10), ["one\ntwo\n\n", "three four"]);
        assert_eq!(parts("a word\n  and more", 8), ["a word\n", "  and", " more"]);
        assert_eq!(parts("ääää", 3), ["ä"; 4]);
        assert_eq!(parts("", 3), [""; 0]);
    }

    #[test]
    fn a_long_text_has_the_tokens_of_its_lines() {
        let processor = r#""post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|startoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}], "pair": [],
            "special_tokens": {
                "<|startoftext|>": {"id": "<|startoftext|>", "ids": [1], "tokens": ["<|startoftext|>"]},
                "<|endoftext|>": {"id": "<|endoftext|>", "ids": [2], "tokens": ["<|endoftext|>"]}}}"#;
        let mut json: serde_json::Value = serde_json::from_str(TINY).unwrap();
        let processor: serde_json::Value = serde_json::from_str(&format!("{{{processor}}}")).unwrap();
        json["post_processor"] = processor["post_processor"].clone();
        let tokenizer = Tokenizer::new(json.to_string().as_bytes(), None, None).unwrap();
        let line = "Once upon a time there was a red kite.\n";
        let of_line = tokenizer.encode_plain(line).unwrap();
        let tokens = tokenizer.encode_in_parts(&line.repeat(10), 100, AddedTokens::AsConfigured).unwrap();
        assert_eq!((tokens.first(), tokens.last()), (Some(&1), Some(&2)));
        assert_eq!(tokens[1..tokens.len() - 1], of_line.repeat(10));
        let plain = tokenizer.encode_in_parts(&line.repeat(10), 100, AddedTokens::None).unwrap();
        assert_eq!(plain, tokens[1..tokens.len() - 1]);
        // A short text is one part.
        assert_eq!(
            tokenizer.encode_long("a\nb", AddedTokens::AsConfigured).unwrap(),
            tokenizer.encode("a\nb").unwrap()
        );
    }
}
