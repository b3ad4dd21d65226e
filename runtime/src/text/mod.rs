//! Text in and out of tokens.
//!
//! - [`sections`] finds the text sections of a plan and reads them on first use.
//! - [`tokenizer`] converts between text and tokens; [`bytes`] tells the bytes of one token; [`stream`] decodes tokens that arrive
//!   one at a time.
//! - [`tokenizer_json`] checks the file, and with [`backtracking`] its regular expressions. [`within`] encodes text within limits:
//!   [`growth`] refuses steps that multiply a text, and [`fewest`] bounds the number of tokens of a text, so that a text that is
//!   too long is refused before it is encoded.
//! - [`chat`] renders the checkpoint's chat templates, with [`jinja`]; [`rehearsal`] checks them before anybody chats.
//!   [`rendered`] keeps apart what a template writes and what a chat contains, and [`encode`] encodes both.
//! - [`messages`] reads chats in the JSON of OpenAI's chat completions.
//! - [`answer`] splits answers into reasoning, calls of functions, and content.
//! - [`stop`] finds stop strings in a stream of text.
//! - [`constrain`] restricts tokens to those that a JSON schema, a regular expression or a grammar allows; [`compiled`]
//!   compiles them apart from the engine, and [`timeout`] limits the time.

pub(crate) mod answer;
mod backtracking;
mod bytes;
pub(crate) mod chat;
#[cfg(feature = "constrain")]
pub(crate) mod compiled;
#[cfg(feature = "constrain")]
pub(crate) mod constrain;
mod encode;
mod fewest;
mod growth;
pub(crate) mod jinja;
pub(crate) mod messages;
pub(crate) mod rehearsal;
pub(crate) mod rendered;
pub(crate) mod sections;
pub(crate) mod stop;
pub(crate) mod stream;
#[cfg(feature = "constrain")]
mod timeout;
pub(crate) mod tokenizer;
mod tokenizer_json;
pub(crate) mod within;
