//! Prints tokens as they come.

use std::ops::ControlFlow;

use jamba_runtime::{TextStream, Tokenizer};

use crate::failure::{Failure, print};

/// Prints text, or ids where there is no tokenizer. A failure stops generation and is told at the end.
pub(crate) struct Printer<'a> {
    stream: Option<TextStream<'a>>,
    text: String,
    n_tokens: usize,
    failed: Option<Failure>,
}

impl<'a> Printer<'a> {
    pub(crate) fn new(tokenizer: Option<&'a Tokenizer>) -> Printer<'a> {
        Printer { stream: tokenizer.map(Tokenizer::stream), text: String::new(), n_tokens: 0, failed: None }
    }

    /// Takes the next token; says whether to go on.
    pub(crate) fn push(&mut self, token: u32) -> ControlFlow<()> {
        let text = match &mut self.stream {
            Some(stream) => stream.push(token),
            None if self.n_tokens == 0 => Ok(token.to_string()),
            None => Ok(format!(",{token}")),
        };
        self.n_tokens += 1;
        match text.map_err(Failure::from).and_then(|text| self.print(&text)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                self.failed = Some(failure);
                ControlFlow::Break(())
            }
        }
    }

    /// Prints what is left and ends the line; the whole text.
    pub(crate) fn finish(mut self) -> Result<String, Failure> {
        if let Some(failure) = self.failed {
            return Err(failure);
        }
        if let Some(stream) = self.stream.take() {
            let rest = stream.finish()?;
            self.print(&rest)?;
        }
        print("\n")?;
        Ok(self.text)
    }

    fn print(&mut self, text: &str) -> Result<(), Failure> {
        self.text.push_str(text);
        if text.is_empty() { Ok(()) } else { print(text) }
    }
}
