//! PTX text to tokens, without comments.

use crate::fault::ParseError;

/// A word, a quoted string, or one other character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub text: &'a str,
    /// Byte offset in the text.
    pub at: usize,
    /// Counted from one.
    pub line: u32,
}

impl Token<'_> {
    pub fn end(&self) -> usize {
        self.at + self.text.len()
    }

    pub fn is_word(&self) -> bool {
        self.text.bytes().next().is_some_and(word_byte)
    }
}

fn word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}

/// Splits a text. Words consist of letters, digits, `_ $ % .` and double colons.
pub(crate) fn tokenize(text: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let bytes = text.as_bytes();
    let (mut at, mut line) = (0, 1);
    let mut tokens = Vec::new();
    while at < bytes.len() {
        let rest = &bytes[at..];
        match rest[0] {
            b'\n' => {
                line += 1;
                at += 1;
            }
            byte if byte.is_ascii_whitespace() => at += 1,
            b'/' if rest.starts_with(b"//") => at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with(b"/*") => {
                let end = text[at..].find("*/").ok_or_else(|| error(line, "a comment that does not end"))?;
                line += text[at..at + end].matches('\n').count() as u32;
                at += end + 2;
            }
            b'"' => {
                let end = text[at + 1..].find('"').ok_or_else(|| error(line, "a string that does not end"))?;
                tokens.push(Token { text: &text[at..at + end + 2], at, line });
                at += end + 2;
            }
            byte if word_byte(byte) => {
                let mut end = at + 1;
                while end < bytes.len() {
                    if word_byte(bytes[end]) {
                        end += 1;
                    } else if bytes[end..].starts_with(b"::") {
                        end += 2;
                    } else {
                        break;
                    }
                }
                tokens.push(Token { text: &text[at..end], at, line });
                at = end;
            }
            byte if byte.is_ascii() => {
                tokens.push(Token { text: &text[at..at + 1], at, line });
                at += 1;
            }
            _ => return Err(error(line, "a character outside ASCII")),
        }
    }
    Ok(tokens)
}

pub(crate) fn error(line: u32, what: impl Into<String>) -> ParseError {
    ParseError { line, what: what.into() }
}
