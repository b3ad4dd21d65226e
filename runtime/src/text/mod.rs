//! Text in and out of tokens.
//!
//! - [`sections`] finds the text sections of a plan and reads them on first use.
//! - [`tokenizer`] converts between text and tokens; [`stream`] decodes tokens that arrive one at a time.
//! - [`chat`] renders the checkpoint's chat templates, with [`jinja`].
//! - [`stop`] finds stop strings in a stream of text.
//! - [`constrain`] restricts tokens to those that a JSON schema, a regular expression or a grammar allows.

pub(crate) mod chat;
#[cfg(feature = "constrain")]
pub(crate) mod constrain;
mod jinja;
pub(crate) mod sections;
pub(crate) mod stop;
pub(crate) mod stream;
pub(crate) mod tokenizer;
