//! The bytes of a token, as its tokenizer's decoder would join them to others.

use std::collections::HashMap;
use std::sync::LazyLock;

use tokenizers::{Decoder, DecoderWrapper};

/// The bytes of a token that is no added one.
pub(super) fn of_token(decoder: &DecoderWrapper, name: String) -> Vec<u8> {
    match decoder {
        DecoderWrapper::ByteLevel(_) => name.chars().flat_map(of_character).collect(),
        DecoderWrapper::Sequence(sequence) => {
            let decoders = sequence.get_decoders();
            if decoders.iter().any(|decoder| matches!(decoder, DecoderWrapper::ByteLevel(_))) {
                return name.chars().flat_map(of_character).collect();
            }
            decoders.iter().fold(name, behind_another).into_bytes()
        }
        decoder => behind_another(name, decoder).into_bytes(),
    }
}

/// The text of a token that follows another one: decoders treat the first token in another way.
fn behind_another(name: String, decoder: &DecoderWrapper) -> String {
    match decoder {
        // These join tokens, or cut the ends of the whole text.
        DecoderWrapper::ByteFallback(_) | DecoderWrapper::Fuse(_) | DecoderWrapper::Strip(_) => name,
        decoder => {
            let decoded = decoder.decode_chain(vec!["a".to_owned(), name.clone()]);
            decoded.ok().filter(|parts| parts.len() == 2).and_then(|mut parts| parts.pop()).unwrap_or(name)
        }
    }
}

fn of_character(c: char) -> Vec<u8> {
    byte_level(c).map_or_else(|| c.to_string().into_bytes(), |byte| vec![byte])
}

/// The byte of a character in byte-level vocabularies, as GPT-2 encodes bytes: printable bytes are the characters of the same
/// code, the other bytes those from U+0100 on, in order.
pub(super) fn byte_level(c: char) -> Option<u8> {
    static BYTES: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
        let is_printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let printable = (0..=255u8).filter(is_printable).map(|byte| (char::from(byte), byte));
        let others = (0..=255u8).filter(|byte| !is_printable(byte)).zip(256u32..);
        printable.chain(others.filter_map(|(byte, code)| Some((char::from_u32(code)?, byte)))).collect()
    });
    BYTES.get(&c).copied()
}

#[cfg(test)]
mod tests {
    use crate::Tokenizer;

    const TINY: &str = include_str!("../../../models/tiny/tokenizer.json");
    const SENTENCEPIECE: &str = include_str!("../../tests/chat/sentencepiece/tokenizer.json");

    #[test]
    fn the_bytes_of_tokens_make_the_text() {
        let all_bytes: String = ('\u{1}'..='\u{2ff}').collect();
        for text in ["Anna has a red kite.", " ü 日本 \n\t🌅", all_bytes.as_str(), "a<|endoftext|>b"] {
            let byte_level = Tokenizer::new(TINY.as_bytes(), None, None).unwrap();
            let sentencepiece = Tokenizer::new(SENTENCEPIECE.as_bytes(), None, None).unwrap();
            for (tokenizer, lead) in [(byte_level, ""), (sentencepiece, " ")] {
                let tokens = tokenizer.encode_plain(text).unwrap();
                let bytes: Vec<u8> = tokens.iter().flat_map(|&token| tokenizer.token_bytes(token).unwrap()).collect();
                let found = String::from_utf8(bytes).unwrap();
                // The normalizer writes a space before the text behind a special token as well.
                let expected = format!("{lead}{}", text.replace("|>b", &format!("|>{lead}b")));
                assert_eq!(found, expected, "{text}");
            }
        }
    }

    #[test]
    fn tokens_outside_the_vocabulary_have_none() {
        let tokenizer = Tokenizer::new(TINY.as_bytes(), None, None).unwrap();
        assert_eq!((tokenizer.token_bytes(1 << 20), tokenizer.token_text(1 << 20)), (None, None));
        let end = tokenizer.id("<|endoftext|>").unwrap();
        assert_eq!(tokenizer.token_text(end).as_deref(), Some("<|endoftext|>"));
    }
}
