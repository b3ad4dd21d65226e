//! A rendered chat whose text remembers what the template wrote and what the chat contains.

use std::ops::Range;

use crate::{RuntimeError, TextLimit, Tokenizer};

/// A rendered chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedChat {
    text: String,
    /// The parts of the text that come from the chat, in order.
    content: Vec<Range<usize>>,
}

/// The tokens of a chat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedChat {
    /// The tokens of the whole text.
    pub tokens: Vec<u32>,
    /// Numbers of tokens up to the ends of turns, in order: behind the special token that ends each of them. The tokens up to
    /// there are those of the same chat with other turns after them, so that a state saved there can be used again.
    pub turn_ends: Vec<usize>,
}

impl RenderedChat {
    pub(super) fn new(text: String, content: Vec<Range<usize>>) -> RenderedChat {
        RenderedChat { text, content }
    }

    /// The chat up to the end of the text of `message`: the part of its content that has most of the message's end, and of
    /// several the last one. Templates write names before a message, drop its reasoning, change its whitespace, and may write
    /// other content after it.
    pub(super) fn up_to_the_end_of(mut self, message: &str) -> Option<RenderedChat> {
        let squeezed = |text: &str| text.split_whitespace().collect::<String>();
        let message = squeezed(message);
        let shared = |part: &Range<usize>| {
            let part = squeezed(&self.text[part.clone()]);
            let is_end = message.ends_with(&part) || part.ends_with(&message);
            if is_end { part.len().min(message.len()) } else { 0 }
        };
        let found = self.content.iter().map(shared).enumerate().filter(|&(_, shared)| shared > 0);
        let (place, _) = found.max_by_key(|&(_, shared)| shared)?;
        self.text.truncate(self.content[place].end);
        self.content.truncate(place + 1);
        Some(self)
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Drops what is known about its parts.
    pub fn into_text(self) -> String {
        self.text
    }

    /// The parts of the text, as ranges of bytes, that come from messages, tools, documents and other variables of the chat.
    pub fn content(&self) -> &[Range<usize>] {
        &self.content
    }
}

impl Tokenizer {
    /// Encodes a rendered chat. Special tokens in its content are text: a user cannot end a turn. Everything else is encoded as
    /// [`Tokenizer::encode_plain`] encodes the text, which makes special tokens of them.
    ///
    /// ```
    /// # use jamba_runtime::{Chat, ChatTemplate, Message, Tokenizer};
    /// # let tokenizer = include_bytes!("../../../models/tiny/tokenizer.json");
    /// # let tokenizer = Tokenizer::new(tokenizer, None, None)?;
    /// let template = ChatTemplate::new(Some(b"{{ messages[0].content }}<|endoftext|>"), None)?;
    /// let message = Message { role: "user".to_owned(), content: "a<|endoftext|>b".to_owned() };
    /// let chat = template.render_parts(&Chat::new(&[message]))?;
    /// let end = tokenizer.id("<|endoftext|>").expect("this tokenizer has an end token");
    /// let n_ends = |tokens: &[u32]| tokens.iter().filter(|&&token| token == end).count();
    /// assert_eq!(n_ends(&tokenizer.encode_chat(&chat)?.tokens), 1);
    /// assert_eq!(n_ends(&tokenizer.encode_plain(chat.text())?), 2);
    /// # Ok::<(), jamba_runtime::RuntimeError>(())
    /// ```
    pub fn encode_chat(&self, chat: &RenderedChat) -> Result<EncodedChat, RuntimeError> {
        self.encode_chat_within(chat, None)
    }

    /// As [`Tokenizer::encode_chat`], of a chat that should have at most `most` tokens. As [`Tokenizer::encode_within`], it
    /// refuses one that has many more before it is encoded.
    ///
    /// # Errors
    /// [`RuntimeError::TextTooLong`] if the chat has more tokens.
    pub fn encode_chat_within(&self, chat: &RenderedChat, most: Option<u64>) -> Result<EncodedChat, RuntimeError> {
        self.check_length(&chat.text, most)?;
        let encoded = self.encode_parts(&chat.text, &chat.content)?;
        if let Some(most) = most.filter(|&most| encoded.len() as u64 > most) {
            let limit = TextLimit::Tokens { tokens: encoded.len() as u64, most };
            return Err(RuntimeError::TextTooLong { bytes: chat.text.len() as u64, limit });
        }
        let mut turn_ends = Vec::new();
        let mut content = chat.content.iter().peekable();
        // Between two parts of content, the first special token that is no mark of calls or reasoning ends a turn.
        let mut is_after_content = false;
        for (index, token) in encoded.iter().enumerate() {
            while content.next_if(|part| part.start < token.range.end).is_some() {
                is_after_content = true;
            }
            if token.is_special && is_after_content && !self.is_mark(token.id) {
                turn_ends.push(index + 1);
                is_after_content = false;
            }
        }
        Ok(EncodedChat { tokens: encoded.into_iter().map(|token| token.id).collect(), turn_ends })
    }
}
