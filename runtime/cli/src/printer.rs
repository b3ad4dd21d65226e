//! Streams tokens to standard output.

use std::ops::ControlFlow;

use std::io::IsTerminal;

use jamba_program::say;
use jamba_runtime::{Engine, Finish, Generated, NewToken};

use crate::failure::{Failure, Lowered, print_raw};
use crate::style;

/// Prints text, or token ids without a tokenizer. A failure stops the generation and is returned by [`Printer::finish`].
pub(crate) struct Printer {
    has_text: bool,
    /// Drops white space until the first other character.
    trims: bool,
    n_tokens: usize,
    failed: Option<Failure>,
}

impl Printer {
    pub(crate) fn new(has_text: bool) -> Printer {
        Printer { has_text, trims: false, n_tokens: 0, failed: None }
    }

    /// For a message of a chat, whose leading white space only separates it from the prompt.
    pub(crate) fn for_message() -> Printer {
        Printer { trims: true, ..Printer::new(true) }
    }

    /// Prints a token.
    pub(crate) fn push(&mut self, token: &NewToken) -> ControlFlow<()> {
        let printed = match self.has_text {
            true => self.print(&token.text),
            false if self.n_tokens == 0 => self.print(&token.token.to_string()),
            false => self.print(&format!(",{}", token.token)),
        };
        self.n_tokens += 1;
        self.hold(printed)
    }

    /// Holds a failure until the generation has stopped.
    pub(crate) fn hold(&mut self, printed: Result<(), Failure>) -> ControlFlow<()> {
        match printed {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                self.failed = Some(failure);
                ControlFlow::Break(())
            }
        }
    }

    /// The failure that stopped the generation.
    pub(crate) fn fail(self) -> Result<(), Failure> {
        self.failed.map_or(Ok(()), Err)
    }

    /// Prints the rest of the text and a line break.
    pub(crate) fn finish(mut self, generated: &Generated) -> Result<(), Failure> {
        if let Some(failure) = self.failed {
            return Err(failure);
        }
        self.print(&generated.rest)?;
        print_raw("\n")
    }

    fn print(&mut self, text: &str) -> Result<(), Failure> {
        let text = if self.trims { text.trim_start() } else { text };
        if text.is_empty() {
            return Ok(());
        }
        self.trims = false;
        print_raw(text)
    }
}

/// Says that the context is full, and whose limit that is.
pub(crate) fn full(context: u64) -> String {
    match Lowered::current() {
        lowered if lowered.lowers_context() => {
            format!("the context of {context} tokens, which -c set, is full; the plan has {}", lowered.plan.0)
        }
        _ => format!("the context of {context} tokens is full"),
    }
}

/// Why an answer was cut before the model ended it.
pub(crate) enum Cut {
    /// After the maximum number of tokens.
    Length { n_tokens: usize },
    /// After this many tokens, because the context or the KV pool is full.
    NoRoom { n_tokens: usize, context: u64 },
}

impl Cut {
    /// None if the answer is whole, or was stopped.
    pub(crate) fn of(generated: &Generated, engine: &Engine) -> Option<Cut> {
        let (n_tokens, limits) = (generated.tokens.len(), &engine.manifest().limits);
        match generated.finish {
            Finish::Length if n_tokens > 0 => Some(Cut::Length { n_tokens }),
            Finish::NoRoom => Some(Cut::NoRoom { n_tokens, context: limits.max_context.min(limits.kv_tokens) }),
            _ => None,
        }
    }

    /// Marks the cut on a terminal; a full context also where stderr is none. `advice` says what to do about a full context.
    pub(crate) fn show(&self, advice: &str) {
        let text = match self {
            Cut::Length { .. } if !std::io::stderr().is_terminal() => return,
            Cut::Length { n_tokens } => format!("[cut after {n_tokens} tokens: -n N allows more]"),
            Cut::NoRoom { n_tokens, context } => {
                format!("[cut after {n_tokens} tokens: {}{advice}]", full(*context))
            }
        };
        say!("{}", style::on_stderr(style::Kind::Quiet, &text));
    }
}
