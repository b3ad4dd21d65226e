//! Error reports and exit codes: 0 success; 1 error in the input, with file, key or tensor, what was found and what was expected;
//! 2 usage error, reported by clap; 3 internal error, with the phase.

use std::fmt;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use jamba_plan::identify::refusal_of_a_plan;
use jamba_plan::printable::printable;
use jamba_program::say;

/// An internal error: one that no input should cause. Names the phase.
#[derive(Debug)]
pub struct OurFault {
    phase: &'static str,
    source: anyhow::Error,
}

impl fmt::Display for OurFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:#}", self.phase, self.source)
    }
}

impl std::error::Error for OurFault {}

/// Marks errors as internal.
pub trait Ours<T> {
    /// Wraps an error in [`OurFault`] with this phase.
    fn ours(self, phase: &'static str) -> Result<T>;
}

impl<T, E: Into<anyhow::Error>> Ours<T> for Result<T, E> {
    fn ours(self, phase: &'static str) -> Result<T> {
        self.map_err(|error| OurFault { phase, source: error.into() }.into())
    }
}

/// Runs a command, prints its error on stderr and returns the exit code.
pub fn guard(command: impl FnOnce() -> Result<()>) -> ExitCode {
    let outcome = panic::catch_unwind(AssertUnwindSafe(command)); // the panic hook has printed message and line
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) if error.is::<OurFault>() => {
            tell(&format!("jambac: internal error in {}\n{PLEA}", causes(&error)));
            ExitCode::from(3)
        }
        Ok(Err(error)) => {
            let help = help(&error).map(|help| format!("\n{help}")).unwrap_or_default();
            tell(&format!("jambac: {}{help}", causes(&error)));
            ExitCode::from(1)
        }
        Err(_) => {
            tell(PLEA);
            ExitCode::from(3)
        }
    }
}

/// The chain of an error on one line. Causes that an earlier message already contains are left out, and so is a context whose path
/// the next message begins with.
fn causes(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        if parts.iter().any(|part| part.contains(&cause)) {
            continue;
        }
        let names_path = |part: &String| {
            let path = part.rsplit_once(' ').map_or(part.as_str(), |(_, path)| path);
            cause.starts_with(&format!("{path}: "))
        };
        if parts.last().is_some_and(names_path) {
            parts.pop();
        }
        parts.push(cause);
    }
    parts.join(": ")
}

/// A command that fixes the error, if there is one and the message does not name it.
fn help(error: &anyhow::Error) -> Option<&'static str> {
    use jamba_plan::PlanError as Error;
    match error.chain().find_map(|cause| cause.downcast_ref::<Error>())? {
        Error::NotAPlan { .. } => Some("A plan is built by: jambac build MODEL -o OUT.plan"),
        Error::Truncated { .. } | Error::Digest { .. } | Error::Padding { .. } => {
            Some("Copy the file again, or build the plan again: jambac build MODEL -o OUT.plan")
        }
        Error::NewerFormat { .. } => Some("Build the plan with this jambac, or run the jambac that built it."),
        _ => None,
    }
}

/// Refuses a file that is something else than a plan, by what it is. Damaged plans and missing files have better errors when they
/// are opened.
///
/// # Errors
/// Names what the file is, and the command that helps.
pub fn check_plan(path: &Path) -> Result<()> {
    match refusal_of_a_plan(path) {
        Some(refusal) => bail!("{refusal}"),
        None => Ok(()),
    }
}

/// The beginning of a text that comes from a file, for a message.
pub fn beginning(text: &str) -> String {
    const LONGEST: usize = 400;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

const PLEA: &str = "This is a bug in jambac, not an error in your input. Please report it with the command line and the messages above.";

/// Prints a line to stderr. Names from files may hold control characters: they are shown as escapes. A closed stderr is not an
/// error.
pub fn tell(text: &str) {
    say!("{}", printable(text));
}

/// Prints to stdout, with control characters as escapes. A closed pipe (`| head`) is not an error.
pub fn print(text: &str) -> Result<()> {
    print_raw(&printable(text))
}

/// As [`print()`], for a program that reads the text: as it is.
pub fn print_raw(text: &str) -> Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow!("no such file").context("x.plan: cannot open it: no such file").context("reading x.plan");
        assert_eq!(causes(&error), "x.plan: cannot open it: no such file");
        assert_eq!(causes(&anyhow!("x.plan: damaged").context("x.plan")), "x.plan: damaged");
        assert_eq!(
            causes(&anyhow!("line 3: found 5").context("x.toml is not a model file")),
            "x.toml is not a model file: line 3: found 5"
        );
    }

    #[test]
    fn a_refused_plan_says_what_helps() {
        let error =
            anyhow::Error::from(jamba_plan::PlanError::NotAPlan { found: Vec::new() }).context("x.plan is refused");
        assert!(help(&error).is_some_and(|help| help.contains("jambac build")));
        assert_eq!(help(&anyhow!("something else")), None);
    }
}
