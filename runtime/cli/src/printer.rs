//! Prints tokens as they come.

use std::ops::ControlFlow;

use jamba_runtime::{Generated, NewToken};

use crate::failure::{Failure, print};

/// Prints text, or ids where there is no tokenizer. A failure stops generation and is told at the end.
pub(crate) struct Printer {
    has_text: bool,
    n_tokens: usize,
    failed: Option<Failure>,
}

impl Printer {
    pub(crate) fn new(has_text: bool) -> Printer {
        Printer { has_text, n_tokens: 0, failed: None }
    }

    /// Takes the next token; says whether to go on.
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

    /// Prints what is left and ends the line.
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
