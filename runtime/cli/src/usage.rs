//! Parses the command line. Options of other programs get one sentence that names ours, and numbers that are none, the range.

use clap::error::ErrorKind;
use clap::{Command, CommandFactory, FromArgMatches};

use crate::failure::Failure;

/// Options of llama.cpp, Ollama and vLLM that have no counterpart of the same meaning here, and what to use.
const FOREIGN: [(&[&str], &str); 8] = [
    (
        &["-ngl", "--n-gpu-layers", "--gpu-layers", "--num-gpu"],
        "--device cuda:0 runs the whole model on the first GPU; without it, the CPU does",
    ),
    (
        &["-cnv", "--conversation", "-i", "--interactive", "--interactive-first"],
        "`jamba chat PLAN` is the conversation",
    ),
    (&["-sys", "--system-prompt"], "--system TEXT sets the system message"),
    (&["-b", "-ub", "--batch-size", "--ubatch-size"], "--chunk N sets the tokens of a prefill step"),
    (&["-np", "--parallel", "--max-num-seqs"], "--sequences N sets the number of sequences"),
    (&["--mlock", "--no-mmap"], "--prefault makes all memory resident"),
    (
        &["--gpu-memory-utilization", "--tensor-parallel-size", "-tp"],
        "a plan has fixed memory on one device: `jambac fit`",
    ),
    (&["-hf", "--hf-repo", "--hf"], "name the model as the first argument: jamba run ORG/NAME"),
];

/// Parses the arguments. Help and version are printed; the exit code of a usage error is 2.
pub(crate) fn parse<T: CommandFactory + FromArgMatches>() -> Result<T, Failure> {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    if let Some(hint) = foreign(&arguments) {
        return Err(Failure::Usage(hint));
    }
    let command = with_negative_numbers(T::command());
    let parsed = command.try_get_matches().and_then(|mut matches| T::from_arg_matches_mut(&mut matches));
    parsed.map_err(|error| match range(&error) {
        Some(message) => Failure::Usage(message),
        None => error.exit(),
    })
}

/// The sentence for the first option of another program.
fn foreign(arguments: &[String]) -> Option<String> {
    let options = arguments.iter().take_while(|argument| *argument != "--");
    for argument in options {
        let name = argument.split('=').next().unwrap_or_default();
        if let Some((_, hint)) = FOREIGN.iter().find(|(names, _)| names.contains(&name)) {
            return Some(format!("{name} is an option of another program: {hint}"));
        }
    }
    None
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

    #[test]
    fn foreign_options_name_ours() {
        let hint = |arguments: &[&str]| foreign(&arguments.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>());
        assert!(hint(&["run", "a.plan", "-ngl", "99"]).is_some_and(|hint| hint.contains("--device cuda:0")));
        assert!(hint(&["run", "--n-gpu-layers=99"]).is_some_and(|hint| hint.starts_with("--n-gpu-layers is")));
        assert_eq!(hint(&["run", "a.plan", "--", "-ngl"]), None);
        assert_eq!(hint(&["run", "a.plan", "-n", "3"]), None);
    }
}
