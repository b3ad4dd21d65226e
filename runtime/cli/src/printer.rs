//! Streams tokens to standard output.

use std::ops::ControlFlow;

use jamba_runtime::{Generated, NewToken};

use crate::failure::{Failure, print};

/// Prints text, or token ids without a tokenizer. A failure stops the generation and is returned by [`Printer::finish`].
pub(crate) struct Printer {
    has_text: bool,
    n_tokens: usize,
    failed: Option<Failure>,
}

impl Printer {
    pub(crate) fn new(has_text: bool) -> Printer {
        Printer { has_text, n_tokens: 0, failed: None }
    }

    /// Prints a token.
    pub(crate) fn push(&mut self, token: &NewToken) -> ControlFlow<()> {
        let printed = match self.has_text {
            true => self.print(&token.text),
            false if self.n_tokens == 0 => self.print(&token.token.to_string()),
            false => self.print(&format!(",{}", token.token)),
        };
        self.n_tokens += 1;
        match printed {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                self.failed = Some(failure);
                ControlFlow::Break(())
            }
        }
    }

    /// Prints the rest of the text and a line break.
    pub(crate) fn finish(self, generated: &Generated) -> Result<(), Failure> {
        if let Some(failure) = self.failed {
            return Err(failure);
        }
        self.print(&generated.rest)?;
        print("\n")
    }

    fn print(&self, text: &str) -> Result<(), Failure> {
        if text.is_empty() { Ok(()) } else { print(text) }
    }
}
