//! A lower bound on the number of tokens of a text, much faster than encoding it and in constant memory.
//!
//! The tokens of a text cover it from its first byte to its last. So their number is at least that of a shortest cover by
//! tokens of the vocabulary, whichever cover the model chooses. [`Cover`] follows the farthest place that a number of tokens
//! can reach: from every place up to there, it looks for the longest token.
//!
//! What a tokenizer may drop or fuse into one token is free: white space, and characters that are no tokens. There is no bound
//! for tokenizers whose steps change a text in ways that those of published Jambas do not.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use tokenizers::ModelWrapper;

use super::bytes::byte_level;
use super::tokenizer::byte_of;
use super::tokenizer_json::Parts;

/// How the names of tokens spell text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    /// As it is.
    Plain,
    /// With `▁` for a space, SentencePiece's way.
    Underlined,
    /// With a character for each byte, GPT-2's way.
    ByteLevel,
}

/// What the steps of a tokenizer do to a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Steps {
    spelling: Spelling,
    /// Some white space may have no token.
    drops_space: bool,
    /// Characters without a token have tokens of their bytes.
    byte_fallback: bool,
    /// Characters without any token leave no trace, and their neighbors become one token.
    drops_unknown: bool,
}

impl Steps {
    /// None if the steps change a text in unknown ways.
    pub(super) fn of(parts: &Parts, tokenizer: &tokenizers::Tokenizer) -> Option<Steps> {
        let (byte_fallback, drops_unknown) = match tokenizer.get_model() {
            ModelWrapper::BPE(bpe) => {
                let is_marked = bpe.continuing_subword_prefix.is_some() || bpe.end_of_word_suffix.is_some();
                (!is_marked).then_some((bpe.byte_fallback, bpe.unk_token.is_none()))?
            }
            // It falls back to bytes if its file says so; without knowing, its unknown characters count as free.
            ModelWrapper::Unigram(_) => (false, false),
            // Others have one token for an unknown word.
            ModelWrapper::WordLevel(_) | ModelWrapper::WordPiece(_) => return None,
        };
        let mut steps = Steps { spelling: Spelling::Plain, drops_space: false, byte_fallback, drops_unknown };
        steps.normalizer(&parts.normalizer)?;
        steps.pre_tokenizer(&parts.pre_tokenizer)?;
        steps.drops_space |= tokenizer.get_added_tokens_decoder().values().any(|token| token.lstrip || token.rstrip);
        Some(steps)
    }

    fn spell(&mut self, spelling: Spelling) -> Option<()> {
        let is_first = self.spelling == Spelling::Plain;
        let is_again = self.spelling == spelling && spelling == Spelling::Underlined;
        self.spelling = spelling;
        (is_first || is_again).then_some(())
    }

    fn normalizer(&mut self, step: &Value) -> Option<()> {
        match step["type"].as_str() {
            None if step.is_null() => Some(()),
            Some("Prepend") if step["prepend"] == "▁" => self.spell(Spelling::Underlined),
            Some("Replace") if step["pattern"]["String"] == " " && step["content"] == "▁" => {
                self.spell(Spelling::Underlined)
            }
            Some("ByteLevel") => self.spell(Spelling::ByteLevel),
            Some("Sequence") => step["normalizers"].as_array()?.iter().try_for_each(|step| self.normalizer(step)),
            _ => None,
        }
    }

    fn pre_tokenizer(&mut self, step: &Value) -> Option<()> {
        match step["type"].as_str() {
            None if step.is_null() => Some(()),
            Some("Digits" | "UnicodeScripts" | "FixedLength") => Some(()),
            Some("Split" | "Punctuation") if step["behavior"] != "Removed" => Some(()),
            Some("Whitespace" | "WhitespaceSplit") => {
                self.drops_space = true;
                Some(())
            }
            Some("ByteLevel") => self.spell(Spelling::ByteLevel),
            Some("Metaspace") if step["replacement"] == "▁" => self.spell(Spelling::Underlined),
            Some("Sequence") => step["pretokenizers"].as_array()?.iter().try_for_each(|step| self.pre_tokenizer(step)),
            _ => None,
        }
    }
}

/// The tokens of a vocabulary as UTF-8 text.
pub(super) struct Cover {
    /// The child of a node by its byte. Node 0 is the root.
    children: HashMap<(u32, u8), u32>,
    /// By node.
    is_token: Vec<bool>,
    steps: Steps,
    /// Characters that are tokens.
    characters: HashSet<char>,
    /// Bytes that are tokens.
    bytes: [bool; 256],
}

impl Cover {
    /// None if a token may cover text that is not in one piece.
    pub(super) fn new(tokenizer: &tokenizers::Tokenizer, steps: Steps) -> Option<Cover> {
        let mut cover = Cover {
            children: HashMap::new(),
            is_token: vec![false],
            steps,
            characters: HashSet::new(),
            bytes: [false; 256],
        };
        for name in tokenizer.get_vocab(true).into_keys() {
            cover.add(name.as_bytes()); // special tokens are spelled as they are
            match steps.spelling {
                Spelling::ByteLevel => {
                    if let Some(bytes) = name.chars().map(byte_level).collect::<Option<Vec<u8>>>() {
                        cover.add_spaced(&bytes);
                        if let [byte] = bytes[..] {
                            cover.bytes[usize::from(byte)] = true;
                        }
                    }
                }
                Spelling::Plain | Spelling::Underlined => {
                    let text = if steps.spelling == Spelling::Plain { name.clone() } else { name.replace('▁', " ") };
                    cover.add_spaced(text.as_bytes());
                    let mut characters = text.chars();
                    if let (Some(c), None) = (characters.next(), characters.next()) {
                        cover.characters.insert(c);
                    }
                    if let Some(byte) = byte_of(&name).filter(|_| steps.byte_fallback) {
                        cover.add(&[byte]);
                        cover.bytes[usize::from(byte)] = true;
                    }
                }
            }
        }
        (!steps.drops_unknown || cover.bytes.iter().all(|&is_token| is_token)).then_some(cover)
    }

    /// Adds a token; also without its first spaces, which may be the tokenizer's own.
    fn add_spaced(&mut self, mut token: &[u8]) {
        self.add(token);
        while let Some(rest) = token.strip_prefix(b" ") {
            self.add(rest);
            token = rest;
        }
    }

    fn add(&mut self, token: &[u8]) {
        let mut node = 0;
        for &byte in token {
            let new = self.is_token.len() as u32;
            node = *self.children.entry((node, byte)).or_insert(new);
            if node == new {
                self.is_token.push(false);
            }
        }
        self.is_token[node as usize] |= node > 0;
    }

    /// The length of the longest token at the beginning of `text`; 0 if there is none.
    fn longest(&self, text: &[u8]) -> usize {
        let (mut node, mut longest) = (0, 0);
        for (index, &byte) in text.iter().enumerate() {
            let Some(&child) = self.children.get(&(node, byte)) else { break };
            node = child;
            if self.is_token[node as usize] {
                longest = index + 1;
            }
        }
        longest
    }

    /// True if a tokenizer may drop the character, or fuse it with others into one token.
    fn is_free(&self, c: char, bytes: &[u8]) -> bool {
        let has_bytes = bytes.iter().all(|&byte| self.bytes[usize::from(byte)]);
        self.steps.drops_space && c.is_whitespace() || !has_bytes && !self.characters.contains(&c)
    }

    /// The fewest tokens that cover `text`; a number above `most` as soon as there are that many.
    pub(super) fn fewest(&self, text: &str, most: u64) -> u64 {
        let bytes = text.as_bytes();
        // `reach`: the end of what `count` tokens can cover. `next`: the end of what one more can.
        let (mut count, mut reach, mut next) = (0, 0, 0);
        for (start, c) in text.char_indices() {
            let end = start + c.len_utf8();
            // Tokens may begin and end inside of a character.
            for place in start..end {
                next = next.max(place + self.longest(&bytes[place..]));
                if place < reach {
                    continue;
                }
                if self.is_free(c, &bytes[start..end]) {
                    reach = end;
                    continue;
                }
                count += 1;
                if count > most {
                    return count;
                }
                reach = next.max(place + 1);
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const TINY: &str = include_str!("../../../models/tiny/tokenizer.json");

    struct Tested {
        inner: tokenizers::Tokenizer,
        cover: Cover,
    }

    fn tested(file: &Value) -> Option<Tested> {
        let file = file.to_string();
        let inner = tokenizers::Tokenizer::from_bytes(file.as_bytes()).unwrap();
        let steps = Steps::of(&Parts::read(file.as_bytes()).unwrap(), &inner)?;
        Some(Tested { cover: Cover::new(&inner, steps)?, inner })
    }

    impl Tested {
        /// The bound and the number of tokens.
        fn counts(&self, text: &str) -> (u64, u64) {
            let tokens = self.inner.encode_fast(text, false).unwrap().len() as u64;
            (self.cover.fewest(text, u64::MAX), tokens)
        }
    }

    fn tiny() -> Value {
        serde_json::from_str(TINY).unwrap()
    }

    /// A tokenizer in SentencePiece's way of a few pieces, with `changes` to its parts.
    fn pieces(changes: Value) -> Value {
        let bytes = (0..=255).map(|byte: u8| format!("<0x{byte:02X}>"));
        let names = ["<unk>", "<s>", "▁", "a", "b", "▁a", "ab", "▁▁", "ä", "aba"].map(str::to_owned);
        let vocab: serde_json::Map<String, Value> =
            names.into_iter().chain(bytes).enumerate().map(|(id, name)| (name, id.into())).collect();
        let mut file = json!({
            "version": "1.0", "truncation": null, "padding": null, "post_processor": null, "decoder": null,
            "pre_tokenizer": null,
            "added_tokens": [{"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": vocab, "merges": [["▁", "a"], ["a", "b"], ["▁", "▁"], ["ab", "a"]]}
        });
        for (pointer, value) in changes.as_object().unwrap() {
            *file.pointer_mut(pointer).unwrap() = value.clone();
        }
        file
    }

    /// Tokenizers that drop white space or fuse unknown characters, beside ordinary ones.
    static ALL: LazyLock<Vec<Tested>> = LazyLock::new(all);

    fn all() -> Vec<Tested> {
        let token = json!([{"id": 1, "content": "<s>", "single_word": false, "lstrip": true, "rstrip": true,
            "normalized": false, "special": true}]);
        let split = json!({"type": "Split", "pattern": {"String": "b"}, "behavior": "MergedWithNext", "invert": false});
        let prefix = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        let mut spaced = tiny();
        spaced["pre_tokenizer"] = prefix;
        [
            tiny(),
            spaced,
            pieces(json!({})),
            pieces(json!({"/model/byte_fallback": false})),
            pieces(json!({"/added_tokens": token})),
            pieces(json!({"/normalizer": null, "/pre_tokenizer": {"type": "Metaspace", "replacement": "▁"}})),
            pieces(json!({"/normalizer": null, "/pre_tokenizer": {"type": "Whitespace"}})),
            pieces(json!({"/pre_tokenizer": split})),
        ]
        .iter()
        .map(|file| tested(file).unwrap())
        .collect()
    }

    #[test]
    fn the_bound_is_near_the_number_of_tokens() {
        let text = "Anna has a red kite. Ben likes soup. Clara lives in the mill.\n".repeat(50);
        let (fewest, tokens) = tested(&tiny()).unwrap().counts(&text);
        assert!(fewest <= tokens && fewest * 10 > tokens * 8, "{fewest} of {tokens}");
        let pieces = tested(&pieces(json!({}))).unwrap();
        assert_eq!(pieces.counts("ab ab"), (3, 4));
        assert_eq!(pieces.counts("ü"), (2, 3), "two bytes, and the first space");
        assert_eq!(pieces.cover.fewest(&"ü".repeat(1000), 10), 11, "it ends above the limit");
    }

    #[test]
    fn steps_that_change_a_text_have_no_bound() {
        for step in [
            json!({"type": "NFC"}),
            json!({"type": "Strip", "strip_left": true, "strip_right": true}),
            json!({"type": "Prepend", "prepend": "ab"}),
            json!({"type": "Replace", "pattern": {"String": "a"}, "content": ""}),
            json!({"type": "Replace", "pattern": {"Regex": " +"}, "content": "▁"}),
        ] {
            assert!(tested(&pieces(json!({"/normalizer": step}))).is_none(), "{step}");
        }
        let removed = json!({"type": "Split", "pattern": {"String": "b"}, "behavior": "Removed", "invert": false});
        let twice = json!({"type": "Sequence", "pretokenizers": vec![tiny()["pre_tokenizer"].clone(); 2]});
        for step in [removed, twice, json!({"type": "CharDelimiterSplit", "delimiter": "a"})] {
            assert!(tested(&pieces(json!({"/normalizer": null, "/pre_tokenizer": step}))).is_none(), "{step}");
        }
        assert!(tested(&pieces(json!({"/model/end_of_word_suffix": "▁"}))).is_none());
        // Without a token for unknown characters, those around them become one: `▁` of `x x x ` are two tokens.
        let drops = pieces(json!({"/model/byte_fallback": false, "/model/unk_token": null}));
        assert!(tested(&drops).is_none());
        let tokenizer = tokenizers::Tokenizer::from_bytes(drops.to_string().as_bytes()).unwrap();
        assert_eq!(tokenizer.encode_fast("x x x ", false).unwrap().get_ids().len(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_has_fewer_tokens_than_the_bound(text in "([ab \n]|<s>|ä|ü|日|the |[a-z]|[0-9]|\\PC){0,60}") {
            for tested in ALL.iter() {
                let (fewest, tokens) = tested.counts(&text);
                prop_assert!(fewest <= tokens, "{} > {} of {:?}", fewest, tokens, text);
            }
        }
    }
}
