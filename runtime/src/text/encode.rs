//! Encodes text of which some parts are content, where special tokens are text.
//!
//! The text is encoded as one piece, as transformers encodes it: content and template may merge into one token. Only matches of
//! special tokens that touch content are left out. Text without such matches goes through the tokenizer unchanged.

use std::collections::HashSet;
use std::ops::Range;

use tokenizers::tokenizer::normalizer::Range as PieceRange;
use tokenizers::{
    AddedToken, Encoding, Model, NormalizedString, Normalizer, OffsetType, PreTokenizedString, PreTokenizer, Token,
};

use super::tokenizer::{Tokenizer, failed};
use crate::RuntimeError;
use crate::contain::contained;

/// A token of a text.
pub(super) struct Encoded {
    pub(super) id: u32,
    /// The range of bytes in the text.
    pub(super) range: Range<usize>,
    pub(super) is_special: bool,
}

/// An added token, and the text that it matches.
struct Added {
    id: u32,
    token: AddedToken,
    /// Normalized, if the token matches normalized text.
    form: String,
}

impl Tokenizer {
    /// Encodes text without adding special tokens. Those that touch `content`, ranges of bytes in order, are text.
    pub(super) fn encode_parts(&self, text: &str, content: &[Range<usize>]) -> Result<Vec<Encoded>, RuntimeError> {
        let inner = self.inner();
        let specials: HashSet<u32> = match inner.get_encode_special_tokens() {
            true => HashSet::new(),
            false => self.special_ids().collect(),
        };
        let touches = |range: Range<usize>| {
            let next = content.partition_point(|part| part.end <= range.start);
            content.get(next).is_some_and(|part| part.start < range.end)
        };
        let added = self.added_tokens()?;
        let is_in_content = |added: &Added| {
            let special = specials.contains(&added.id);
            // What a normalizer makes of the text may match as well.
            special && (added.token.normalized || places(text, &added.form).any(&touches))
        };
        let encode = || match !content.is_empty() && added.iter().any(is_in_content) {
            true => self.encode_apart(text, &added, &|added, range| !specials.contains(&added.id) || !touches(range)),
            false => inner.encode(text, false),
        };
        let encoding = contained(encode).map_err(failed)?.map_err(failed)?;
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
        let encoded = tokens
            .map(|(&id, &(start, end))| Encoded { id, range: start..end, is_special: specials.contains(&id) })
            .collect();
        Ok(encoded)
    }

    /// The steps of `tokenizers::Tokenizer::encode`, with the added tokens for which `is_match` holds of their range of bytes.
    fn encode_apart(
        &self,
        text: &str,
        added: &[Added],
        is_match: &dyn Fn(&Added, Range<usize>) -> bool,
    ) -> tokenizers::Result<Encoding> {
        let inner = self.inner();
        let mut pieces = PreTokenizedString::from(text);
        for normalized in [false, true] {
            pieces.split(|_, mut piece| {
                if let (true, Some(normalizer)) = (normalized, inner.get_normalizer()) {
                    normalizer.normalize(&mut piece)?;
                }
                let begin = piece.offsets_original().0;
                let original = |range: &Range<usize>| {
                    let range = piece.convert_offsets(PieceRange::Normalized(range.clone()))?;
                    Some(begin + range.start..begin + range.end)
                };
                let mut found = Vec::new();
                for added in added.iter().filter(|added| added.token.normalized == normalized) {
                    let ranges = places(piece.get(), &added.form);
                    let is_allowed =
                        |range: &Range<usize>| original(range).is_some_and(|original| is_match(added, original));
                    found.extend(ranges.filter(is_allowed).map(|range| (range, added)));
                }
                // The leftmost, of these the longest.
                found.sort_by_key(|(range, _)| (range.start, usize::MAX - range.end));
                cut(&piece, &found)
            })?;
        }
        if let Some(pre_tokenizer) = inner.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces)?;
        }
        pieces.tokenize(|piece| inner.get_model().tokenize(piece.get()))?;
        pieces.into_encoding(None, 0, OffsetType::Byte)
    }

    fn added_tokens(&self) -> Result<Vec<Added>, RuntimeError> {
        let inner = self.inner();
        let tokens = inner.get_added_tokens_decoder().into_iter().filter(|(_, token)| !token.content.is_empty());
        let added = tokens.map(|(id, token)| {
            let mut form = NormalizedString::from(token.content.as_str());
            if let (true, Some(normalizer)) = (token.normalized, inner.get_normalizer()) {
                contained(|| normalizer.normalize(&mut form)).map_err(failed)?.map_err(failed)?;
            }
            Ok(Added { id, form: form.get().to_owned(), token })
        });
        added.filter(|added| added.as_ref().is_ok_and(|added| !added.form.is_empty()) || added.is_err()).collect()
    }
}

/// All places of a word in a text. They may overlap.
fn places<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = Range<usize>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let at = from + text.get(from..)?.find(word)?;
        from = at + text[at..].chars().next().map_or(1, char::len_utf8);
        Some(at..at + word.len())
    })
}

type Pieces = Vec<(NormalizedString, Option<Vec<Token>>)>;

/// Cuts a piece at its matches, in order, of which earlier ones win.
fn cut(piece: &NormalizedString, found: &[(Range<usize>, &Added)]) -> tokenizers::Result<Pieces> {
    let text = piece.get();
    let (mut parts, mut at, mut last) = (Vec::new(), 0, 0);
    for (range, added) in found {
        if range.start < last {
            continue;
        }
        last = range.end;
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let (before, after) = (&text[..range.start], &text[range.end..]);
        if added.token.single_word && (before.ends_with(is_word) || after.starts_with(is_word)) {
            continue;
        }
        let start = if added.token.lstrip { before.trim_end().len() } else { range.start };
        let end = if added.token.rstrip { text.len() - after.trim_start().len() } else { range.end };
        let start = start.max(at);
        parts.push((at..start, None));
        parts.push((start..end, Some(added.id)));
        at = end;
    }
    parts.push((at..text.len(), None));
    let parts = parts.into_iter().filter(|(range, _)| !range.is_empty()).map(|(range, id)| {
        let Some(part) = piece.slice(PieceRange::Normalized(range)) else {
            return Err("a token ends inside of a character".into());
        };
        let length = part.get().len();
        let tokens = id.map(|id| vec![Token::new(id, part.get().to_owned(), (0, length))]);
        Ok((part, tokens))
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const TINY: &str = include_str!("../../../models/tiny/tokenizer.json");
    const SENTENCEPIECE: &str = include_str!("../../tests/chat/sentencepiece/tokenizer.json");

    static TOKENIZERS: std::sync::LazyLock<Vec<Tokenizer>> = std::sync::LazyLock::new(tokenizers);

    fn ids(encoded: Vec<Encoded>) -> Vec<u32> {
        encoded.into_iter().map(|token| token.id).collect()
    }

    /// The tokenizers, and the same with special tokens of every kind.
    fn tokenizers() -> Vec<Tokenizer> {
        let mut all = Vec::new();
        for source in [TINY, SENTENCEPIECE] {
            for kind in ["", "lstrip", "rstrip", "normalized", "single_word"] {
                let mut source: serde_json::Value = serde_json::from_str(source).unwrap();
                for token in source["added_tokens"].as_array_mut().unwrap() {
                    if !kind.is_empty() {
                        token[kind] = true.into();
                    }
                }
                all.push(Tokenizer::new(source.to_string().as_bytes(), None, None).unwrap());
            }
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        /// Without content, or with content that has no special tokens, text has the tokens that the library finds; content has
        /// those that it finds when it is told to split special tokens.
        #[test]
        fn steps_apart_are_those_of_the_library(
            parts in vec((prop::sample::select(vec![
                "a", " ", "Anna has", "\n", "ü", "日本", "<", "|", ">", "<|endoftext|>", "<|startoftext|>", "<|pad|>", "  ", "x_", ".",
            ]), any::<bool>()), 0..12),
        ) {
            for tokenizer in &*TOKENIZERS {
                let text: String = parts.iter().map(|(part, _)| *part).collect();
                let plain = tokenizer.encode_plain(&text).unwrap();
                let added = tokenizer.added_tokens().unwrap();
                let apart = tokenizer.encode_apart(&text, &added, &|_, _| true).unwrap();
                prop_assert_eq!(apart.get_ids(), &plain[..], "{:?}", text);
                prop_assert_eq!(&ids(tokenizer.encode_parts(&text, &[]).unwrap()), &plain);
                let mut split = tokenizer.inner().clone();
                split.set_encode_special_tokens(true);
                let all = std::slice::from_ref(&(0..text.len())).to_vec();
                let as_text = ids(tokenizer.encode_parts(&text, &all).unwrap());
                let split = split.encode(text.as_str(), false).unwrap();
                prop_assert_eq!(&as_text[..], split.get_ids(), "{:?}", text);
                // Special tokens of the template, and no others.
                let (mut content, mut at, mut n_special) = (Vec::new(), 0, 0);
                for (part, is_content) in &parts {
                    if *is_content {
                        content.push(at..at + part.len());
                    }
                    n_special += usize::from(!is_content && part.ends_with("|>") && part.len() > 2);
                    at += part.len();
                }
                let encoded = tokenizer.encode_parts(&text, &content).unwrap();
                let n_found = encoded.iter().filter(|token| token.is_special).count();
                prop_assert!(n_found <= n_special, "{:?} {:?}", text, content);
                // Those that match whole words or normalized text are not found everywhere.
                if added.iter().all(|added| !added.token.single_word && !added.token.normalized) {
                    prop_assert_eq!(n_found, n_special, "{:?} {:?}", text, content);
                }
            }
        }
    }

    #[test]
    fn a_match_that_touches_content_hides_no_other() {
        let tokenizer = Tokenizer::new(TINY.as_bytes(), None, None).unwrap();
        let end = tokenizer.id("<|endoftext|>").unwrap();
        let text = "x<|endoftext|><|endoftext|>";
        let n_ends = |content: Range<usize>| {
            ids(tokenizer.encode_parts(text, std::slice::from_ref(&content)).unwrap())
                .iter()
                .filter(|&&id| id == end)
                .count()
        };
        // Half of the first token is content, and its end alone.
        assert_eq!([n_ends(0..0), n_ends(0..1), n_ends(0..6), n_ends(13..14)], [2, 2, 1, 1]);
        assert_eq!([n_ends(0..14), n_ends(0..text.len()), n_ends(13..15)], [1, 0, 0]);
    }
}
