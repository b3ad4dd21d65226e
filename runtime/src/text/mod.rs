//! Text in and out of tokens.
//!
//! - [`sections`] finds the text sections of a plan and reads them on first use.
//! - [`tokenizer`] converts between text and tokens; [`bytes`] tells the bytes of one token; [`stream`] decodes tokens that arrive
//!   one at a time.
//! - [`chat`] renders the checkpoint's chat templates, with [`jinja`]; [`rendered`] keeps apart what a template writes and what
//!   a chat contains, and [`encode`] encodes both.
//! - [`messages`] reads chats in the JSON of OpenAI's chat completions.
//! - [`answer`] splits answers into reasoning, calls of functions, and content.
//! - [`stop`] finds stop strings in a stream of text.
//! - [`constrain`] restricts tokens to those that a JSON schema, a regular expression or a grammar allows.

pub(crate) mod answer;
mod bytes;
pub(crate) mod chat;
#[cfg(feature = "constrain")]
pub(crate) mod constrain;
mod encode;
mod jinja;
pub(crate) mod messages;
pub(crate) mod rendered;
pub(crate) mod sections;
pub(crate) mod stop;
pub(crate) mod stream;
pub(crate) mod tokenizer;
