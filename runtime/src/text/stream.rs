//! Incremental decoding of tokens. The result equals decoding all tokens at once and never contains part of a character.
//!
//! The text of a token depends on its neighbors: a character may span several tokens, invalid bytes are replaced as a group,
//! and some decoders treat the first token of a text differently. New tokens are therefore decoded together with the last
//! emitted ones as context, and held back while later tokens may change their text.

use std::collections::HashSet;
use std::sync::Arc;

use super::tokenizer::Tokenizer;
use crate::RuntimeError;

/// Number of held back tokens after which invalid bytes are emitted as far as later tokens cannot change them.
const MANY: usize = 64;

/// Number of tokens before a stream that are its context. They contain the bytes of any character that goes on in it.
const CONTEXT: usize = 16;

/// Decodes tokens one at a time. A character that spans several tokens is emitted when it is complete.
///
/// ```
/// # use jamba_runtime::{Engine, OpenOptions};
/// let engine = Engine::open("examples/toy.plan", OpenOptions::default())?;
/// let tokenizer = engine.tokenizer()?;
/// let tokens = tokenizer.encode_plain("für")?;
/// let mut stream = tokenizer.stream();
/// let mut text = String::new();
/// for &token in &tokens {
///     text += &stream.push(token)?; // often a word, sometimes empty, never half an `ü`
/// }
/// text += &stream.finish()?;
/// assert_eq!(text, "für");
/// # Ok::<(), jamba_runtime::RuntimeError>(())
/// ```
pub struct TextStream {
    tokenizer: Arc<Tokenizer>,
    /// Tokens without text.
    hidden: HashSet<u32>,
    /// The last emitted tokens, then the held back ones.
    tokens: Vec<u32>,
    /// Number of emitted tokens in `tokens`.
    told: usize,
}

impl TextStream {
    /// A stream of tokens that follow those `before`.
    pub(super) fn new(tokenizer: Arc<Tokenizer>, before: &[u32], hidden: HashSet<u32>) -> TextStream {
        // The last tokens, with at least one that has text: the beginning of a text may be decoded in another way.
        let last = before.iter().rposition(|token| !hidden.contains(token)).unwrap_or(0);
        let tokens = before[last.min(before.len().saturating_sub(CONTEXT))..].to_vec();
        TextStream { tokenizer, hidden, told: tokens.len(), tokens }
    }

    /// Appends a token and returns the text that is now complete: often a word, sometimes empty.
    pub fn push(&mut self, token: u32) -> Result<String, RuntimeError> {
        self.tokens.push(token);
        let news = self.news(self.tokens.len())?;
        let open = news.is_empty() || news.ends_with(char::REPLACEMENT_CHARACTER);
        if !open && !self.tokenizer.is_byte(token) {
            self.tell(self.tokens.len());
            return Ok(news);
        }
        if self.tokens.len() - self.told > MANY {
            return self.tell_what_is_settled(&news);
        }
        Ok(String::new())
    }

    /// Returns the held back text at the end of the stream.
    pub fn finish(self) -> Result<String, RuntimeError> {
        self.news(self.tokens.len())
    }

    fn decode(&self, tokens: &[u32]) -> Result<String, RuntimeError> {
        self.tokenizer.decode_without(tokens, &self.hidden)
    }

    /// The text of the tokens before `end` that was not emitted yet.
    fn news(&self, end: usize) -> Result<String, RuntimeError> {
        let before = self.decode(&self.tokens[..self.told])?;
        let mut after = self.decode(&self.tokens[..end])?;
        let common = before.chars().zip(after.chars()).take_while(|(a, b)| a == b);
        let common = common.map(|(_, same)| same.len_utf8()).sum();
        Ok(after.split_off(common))
    }

    /// Marks all tokens before `end` as emitted and keeps the newest of them as context.
    fn tell(&mut self, end: usize) {
        self.tokens.drain(..self.told);
        self.told = end - self.told;
    }

    /// Emits what later tokens cannot change, after a long run of invalid bytes or of byte-fallback tokens.
    fn tell_what_is_settled(&mut self, news: &str) -> Result<String, RuntimeError> {
        let all = self.tokens.len();
        if self.tokenizer.has_bytes() {
            // A run of byte tokens decodes to characters or, if invalid, to one replacement character per byte. Emit it if it
            // is valid so far, or if it is too long to become valid.
            if !news.contains(char::REPLACEMENT_CHARACTER) || all - self.told > 2 * MANY {
                self.tell(all);
                return Ok(news.to_owned());
            }
            return Ok(String::new());
        }
        // Find a cut where both sides decode alone as they do together. A character has at most four bytes.
        for end in (all - 4..all).rev() {
            let rest = self.decode(&self.tokens[end..])?;
            let part = self.news(end)?;
            if !rest.is_empty() && news.strip_prefix(&*part) == Some(&rest) {
                self.tell(end);
                return Ok(part);
            }
        }
        Ok(String::new())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const TINY: &str = include_str!("../../../models/tiny/tokenizer.json");

    fn tiny() -> Arc<Tokenizer> {
        Arc::new(Tokenizer::new(TINY.as_bytes(), None, None).unwrap())
    }

    /// A tokenizer like Llama's and the released Jambas': `▁` for a space, and a token for every byte.
    fn with_bytes() -> Arc<Tokenizer> {
        let mut vocab: serde_json::Map<String, Value> =
            ["<unk>", "<s>"].into_iter().enumerate().map(|(id, text)| (text.to_owned(), id.into())).collect();
        let bytes = (0..=255).map(|byte: u8| format!("<0x{byte:02X}>"));
        let pieces = ["▁", "a", "▁a", "ü", "▁ü", "\n", "你"].map(str::to_owned);
        for text in bytes.chain(pieces) {
            vocab.insert(text, vocab.len().into());
        }
        let special = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        };
        let text = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "pre_tokenizer": null, "added_tokens": [special(0, "<unk>"), special(1, "<s>")],
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": vocab, "merges": []}
        });
        Arc::new(Tokenizer::new(text.to_string().as_bytes(), None, None).unwrap())
    }

    /// The streamed text, and the maximum number of held back tokens.
    fn streamed(tokenizer: &Arc<Tokenizer>, tokens: &[u32]) -> (String, usize) {
        let (mut stream, mut text, mut most) = (tokenizer.stream(), String::new(), 0);
        for &token in tokens {
            text += &stream.push(token).unwrap();
            most = most.max(stream.tokens.len() - stream.told);
        }
        (text + &stream.finish().unwrap(), most)
    }

    /// Encodes bytes with a byte-level tokenizer that has one token per byte after three special ones.
    fn byte_tokens(tokenizer: &Tokenizer) -> Vec<u32> {
        let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let others: Vec<u8> = (0..=255).filter(|byte| !printable(byte)).collect();
        let character = |byte: u8| match others.iter().position(|&other| other == byte) {
            Some(index) => char::from_u32(256 + index as u32).unwrap(),
            None => char::from(byte),
        };
        (0..=255).map(|byte| tokenizer.id(&character(byte).to_string()).unwrap()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn random_bytes_stream_as_the_whole_text(bytes in vec(any::<u8>(), 0..200)) {
            let tokenizer = tiny();
            let of_byte = byte_tokens(&tokenizer);
            let tokens: Vec<u32> = bytes.iter().map(|&byte| of_byte[byte as usize]).collect();
            let (text, _) = streamed(&tokenizer, &tokens);
            prop_assert_eq!(&text, &String::from_utf8_lossy(&bytes));
            prop_assert_eq!(text, tokenizer.decode(&tokens).unwrap());
        }

        #[test]
        fn random_tokens_stream_as_the_whole_text(tokens in vec(0u32..512, 0..100)) {
            let tokenizer = tiny();
            prop_assert_eq!(streamed(&tokenizer, &tokens).0, tokenizer.decode(&tokens).unwrap());
        }

        /// Bytes of characters, some cut short, between pieces.
        #[test]
        fn bytes_between_pieces_stream_as_the_whole_text(
            parts in vec(prop_oneof![Just(None), any::<char>().prop_map(Some)], 0..15), cut in 0usize..5, pieces in vec(258u32..265, 15),
        ) {
            let tokenizer = with_bytes();
            let mut tokens = vec![1];
            for (part, piece) in parts.iter().zip(pieces) {
                match part {
                    Some(character) => {
                        let mut bytes = character.to_string().into_bytes();
                        bytes.truncate(bytes.len().max(cut + 1) - cut.min(1));
                        tokens.extend(bytes.iter().map(|&byte| 2 + u32::from(byte)));
                    }
                    None => tokens.push(piece),
                }
            }
            prop_assert_eq!(streamed(&tokenizer, &tokens).0, tokenizer.decode(&tokens).unwrap());
        }
    }

    #[test]
    fn a_stream_goes_on_where_the_prompt_ends() {
        use crate::SpecialTokens::Hidden;
        let tokenizer = with_bytes();
        let id = |text: &str| tokenizer.id(text).unwrap();
        let text = |before: &[u32], tokens: &[u32]| {
            let mut stream = tokenizer.stream_after(before, Hidden);
            let text: String = tokens.iter().map(|&token| stream.push(token).unwrap()).collect();
            text + &stream.finish().unwrap()
        };
        let (bos, a, space_a, space_u) = (1, id("a"), id("▁a"), id("▁ü"));
        // The first space of a text is stripped, and no other.
        assert_eq!(text(&[], &[space_a, space_u]), "a ü");
        assert_eq!(text(&[bos], &[space_a, space_u]), "a ü");
        assert_eq!(text(&[bos, a], &[space_a, space_u]), " a ü");
        assert_eq!(text(&[bos, a, bos], &[space_a]), " a");
        assert_eq!(text(&[vec![a], vec![bos; 40]].concat(), &[space_a]), " a");
        // A character that the prompt begins and the answer ends.
        let bytes: Vec<u32> = "日".bytes().map(|byte| 2 + u32::from(byte)).collect();
        assert_eq!(text(&[a, bytes[0]], &[bytes[1], bytes[2], a]), "日a");
        assert_eq!(text(&[a, bytes[0], bytes[1]], &[bytes[2]]), "日");
    }

    #[test]
    fn bytes_that_never_make_a_character_are_not_held_for_ever() {
        let tokenizer = tiny();
        let of_byte = byte_tokens(&tokenizer);
        for bytes in [&[0xff][..], &[0xe4, 0xbd], &[0xf0, 0x9f, 0x98], &[0x80, 0xc3]] {
            let tokens: Vec<u32> = bytes.iter().cycle().take(1001).map(|&byte| of_byte[byte as usize]).collect();
            let (text, most) = streamed(&tokenizer, &tokens);
            assert_eq!(text, tokenizer.decode(&tokens).unwrap());
            assert!(most <= MANY + 4, "{most}");
        }
        // A long run of byte tokens that is whole characters, and one that is none.
        let tokenizer = with_bytes();
        let smiles: Vec<u32> = "😀".repeat(100).bytes().map(|byte| 2 + u32::from(byte)).collect();
        let (text, most) = streamed(&tokenizer, &smiles);
        assert_eq!((text, most), ("😀".repeat(100), MANY + 3));
        let (text, most) = streamed(&tokenizer, &[2 + 0xff; 500]);
        assert_eq!((text.chars().count(), most), (500, 2 * MANY));
    }
}
