//! Parsing of a command line. What people type who know other programs gets one sentence that names our command; a number that is
//! none, the numbers that the option takes; stdout that is a file of the command line is refused.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory, FromArgMatches};
use jamba_plan::printable::printable;

use crate::say;

/// Words, and the sentence for all of them.
pub type Hint = (&'static [&'static str], &'static str);

/// What a program says to the words of other programs.
pub struct Hints {
    /// Options that it does not have.
    pub options: &'static [Hint],
    /// Commands that it does not have.
    pub commands: &'static [Hint],
    /// What a command line means that has no command: the sentence for its first word.
    pub no_command: fn(&str) -> Option<String>,
    /// Options and arguments that a command does not take: its name, the word, and the sentence.
    pub unexpected: fn(&str, &str) -> Option<String>,
}

/// Parses the arguments. Help and version are printed, and so are usage errors that clap words best; these end the program.
///
/// # Errors
/// The sentence of any other usage error.
pub fn parse<T: CommandFactory + FromArgMatches>(hints: &Hints) -> Result<T, String> {
    let given: Vec<OsString> = std::env::args_os().skip(1).collect();
    let arguments = as_text(&given);
    if let Some(file) = stdout_file(&arguments) {
        return Err(format!("{file}: is the standard output too: write to another file"));
    }
    read(&mut command::<T>(), hints, &given).map_err(|refusal| match refusal {
        Refusal::Sentence(sentence) => sentence,
        Refusal::Clap(error) => exit(&error, &arguments),
    })
}

/// What is wrong with a command line.
pub enum Refusal {
    Sentence(String),
    /// Help, the version, or a usage error that clap words best.
    Clap(clap::Error),
}

/// Arguments as text, for messages.
fn as_text(given: &[OsString]) -> Vec<String> {
    given.iter().map(|argument| argument.to_string_lossy().into_owned()).collect()
}

/// The command that [`read`] takes.
pub fn command<T: CommandFactory>() -> Command {
    with_negative_numbers(T::command())
}

/// Reads arguments, without the program's name, as those of `command`. Prints nothing.
///
/// # Errors
/// Help, the version, and usage errors.
pub fn read<T: FromArgMatches>(command: &mut Command, hints: &Hints, given: &[OsString]) -> Result<T, Refusal> {
    let arguments = as_text(given);
    if let Some(hint) = hints.of(command, &arguments) {
        return Err(Refusal::Sentence(hint));
    }
    let all = [command.get_name().into()].into_iter().chain(given.iter().cloned());
    let parsed = command.try_get_matches_from_mut(all).and_then(|mut matches| T::from_arg_matches_mut(&mut matches));
    parsed.map_err(|error| match hints.explain(&error, &arguments).or_else(|| range(&error)) {
        Some(sentence) => Refusal::Sentence(sentence),
        None => Refusal::Clap(error),
    })
}

/// A function that says whether arguments, without the program's name, are a command line. It makes the command once, which takes longer
/// than most command lines.
pub fn acceptor<T: CommandFactory + FromArgMatches>(hints: &'static Hints) -> impl FnMut(&[OsString]) -> bool {
    let mut command = command::<T>();
    move |arguments| read::<T>(&mut command, hints, arguments).is_ok()
}

/// Prints the error and ends the program. clap repeats arguments as they are: control characters in them are shown as escapes.
fn exit(error: &clap::Error, arguments: &[String]) -> ! {
    if arguments.iter().all(|argument| matches!(printable(argument), Cow::Borrowed(_))) {
        error.exit();
    }
    say!("{}", printable(error.to_string().trim_end()));
    std::process::exit(error.exit_code())
}

impl Hints {
    /// The sentence for the first word of another program.
    fn of(&self, command: &Command, arguments: &[String]) -> Option<String> {
        let first = arguments.first()?;
        let find = |hints: &'static [Hint], word: &str| hints.iter().find(|(words, _)| words.contains(&word));
        let is_known = |word: &str| word == "help" || command.find_subcommand(word).is_some();
        if !is_known(first) && !["-h", "--help", "-V", "--version"].contains(&first.as_str()) {
            let hint = find(self.commands, first).map(|(_, hint)| format!("there is no command {first}: {hint}"));
            if let Some(hint) = hint.or_else(|| (self.no_command)(first)) {
                return Some(hint);
            }
        }
        arguments.iter().take_while(|argument| *argument != "--").find_map(|argument| {
            let name = argument.split('=').next().unwrap_or_default();
            find(self.options, name).map(|(_, hint)| format!("{name} is an option of another program: {hint}"))
        })
    }

    /// The sentence for a word that the command does not take.
    fn explain(&self, error: &clap::Error, arguments: &[String]) -> Option<String> {
        let (ErrorKind::UnknownArgument, Some(ContextValue::String(word))) =
            (error.kind(), error.get(ContextKind::InvalidArg))
        else {
            return None;
        };
        (self.unexpected)(arguments.first()?, word)
    }
}

/// The argument that leads to the file behind stdout, if one does: the command would write over what it reads, as `cat a >> a`.
fn stdout_file(arguments: &[String]) -> Option<&str> {
    let stdout = io::stdout().as_fd().try_clone_to_owned().ok()?;
    let stdout = File::from(stdout).metadata().ok().filter(|metadata| metadata.is_file())?;
    let is_it = |path: &&str| {
        std::fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (stdout.dev(), stdout.ino()))
    };
    arguments.iter().map(|argument| value_of(argument)).find(is_it)
}

/// The value of `--option=value`; any other argument itself.
fn value_of(argument: &str) -> &str {
    argument.strip_prefix("--").and_then(|rest| rest.split_once('=')).map_or(argument, |(_, value)| value)
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

#[cfg(test)]
mod tests {
    use super::*;

    const HINTS: Hints = Hints {
        options: &[(&["-ngl", "--n-gpu-layers"], "--device cuda:0 runs the whole model on the first GPU")],
        commands: &[(&["serve"], "there is no server")],
        no_command: |word| word.starts_with('-').then(|| format!("{word} needs a command before it")),
        unexpected: |_, _| None,
    };

    fn hint(arguments: &[&str]) -> Option<String> {
        let command = Command::new("jamba").subcommand(Command::new("run"));
        HINTS.of(&command, &arguments.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn words_of_other_programs_name_ours() {
        assert!(hint(&["run", "a.plan", "-ngl", "99"]).is_some_and(|hint| hint.contains("--device cuda:0")));
        assert!(hint(&["run", "--n-gpu-layers=99"]).is_some_and(|hint| hint.starts_with("--n-gpu-layers is")));
        assert_eq!(hint(&["serve", "-ngl"]).as_deref(), Some("there is no command serve: there is no server"));
        assert_eq!(hint(&["-m", "a.plan"]).as_deref(), Some("-m needs a command before it"));
        for ours in [&["run", "a.plan", "--", "-ngl"][..], &["run", "a.plan", "-n", "3"], &["--help"], &["help"], &[]] {
            assert_eq!(hint(ours), None, "{ours:?}");
        }
    }
}
