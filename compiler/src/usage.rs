//! Parses the command line. Numbers that are none get the range of their option.

use clap::error::ErrorKind;
use clap::{Command, CommandFactory, FromArgMatches};

/// Exit code of usage errors.
const USAGE: i32 = 2;

/// Parses the arguments. Prints help, version and usage errors, and exits.
pub fn parse<T: CommandFactory + FromArgMatches>() -> T {
    let command = with_negative_numbers(T::command());
    let parsed = command.try_get_matches().and_then(|mut matches| T::from_arg_matches_mut(&mut matches));
    parsed.unwrap_or_else(|error| match range(&error) {
        Some(message) => {
            eprintln!("error: {message}\n\nFor more information, try '--help'.");
            std::process::exit(USAGE)
        }
        None => error.exit(),
    })
}

/// Lets options take `-1`, so that the error is about the number.
fn with_negative_numbers(command: Command) -> Command {
    command.mut_subcommands(|command| {
        command.mut_args(|arg| match arg.get_action().takes_values() && !arg.is_positional() {
            true => arg.allow_negative_numbers(true),
            false => arg,
        })
    })
}

/// For a value that is no number of the option's type: the option, the value and what it takes.
fn range(error: &clap::Error) -> Option<String> {
    if error.kind() != ErrorKind::ValueValidation {
        return None;
    }
    let text = error.to_string();
    let line = text.lines().next()?.strip_prefix("error: ")?;
    let (value, reason) = line.rsplit_once(": ")?;
    let expected = match reason {
        "invalid digit found in string" => "a whole number, 0 or more",
        "number too large to fit in target type" => "a smaller number",
        "invalid float literal" => "a number",
        _ => return None,
    };
    Some(format!("{value}: expected {expected}"))
}
