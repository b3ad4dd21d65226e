//! Colors, if the output is a terminal that supports them and NO_COLOR is not set.

use std::io::{self, IsTerminal};

use jamba_plan::printable::printable;

/// Kinds of colored text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Times and hints.
    Quiet,
    /// Input prompts.
    Prompt,
    /// Errors.
    Fault,
}

/// Colors text for stderr.
pub(crate) fn on_stderr(kind: Kind, text: &str) -> String {
    paint(kind, text, io::stderr().is_terminal() && wanted())
}

/// Colors text for stdout.
pub(crate) fn on_stdout(kind: Kind, text: &str) -> String {
    paint(kind, text, io::stdout().is_terminal() && wanted())
}

fn wanted() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb")
}

fn paint(kind: Kind, text: &str, coloured: bool) -> String {
    let text = printable(text);
    let code = match kind {
        _ if !coloured => return text.into_owned(),
        Kind::Quiet => "2",
        Kind::Prompt => "1;32",
        Kind::Fault => "1;31",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_painted_where_it_is_wanted_alone() {
        assert_eq!(paint(Kind::Fault, "no", false), "no");
        assert_eq!(paint(Kind::Fault, "no", true), "\x1b[1;31mno\x1b[0m");
        // A name from a file has no colors of its own.
        assert_eq!(paint(Kind::Quiet, "a\x1b[31mb", false), "a\\u001b[31mb");
        assert_eq!(paint(Kind::Quiet, "a\x1b[0mb", true), "\x1b[2ma\\u001b[0mb\x1b[0m");
    }
}
