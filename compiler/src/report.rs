//! How a run ends: exit codes, and whose fault an error is.
//!
//! 0 done; 1 the input is at fault (the message says file, key or tensor, found, expected); 2 usage (clap's); 3 our fault:
//! the message names the phase and asks for a report.

use std::fmt;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use anyhow::Result;

/// An error that no input should be able to cause, with the phase it came from.
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

/// Marks errors of a phase as ours.
pub trait Ours<T> {
    /// The phase is named in the message.
    fn ours(self, phase: &'static str) -> Result<T>;
}

impl<T, E: Into<anyhow::Error>> Ours<T> for Result<T, E> {
    fn ours(self, phase: &'static str) -> Result<T> {
        self.map_err(|error| OurFault { phase, source: error.into() }.into())
    }
}

/// Runs a command, reports what went wrong on stderr, and gives the exit code.
pub fn guard(command: impl FnOnce() -> Result<()>) -> ExitCode {
    let outcome = panic::catch_unwind(AssertUnwindSafe(command)); // the panic hook has printed message and line
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) if error.is::<OurFault>() => {
            eprintln!("jambac: internal error in {error:#}");
            eprintln!("{PLEA}");
            ExitCode::from(3)
        }
        Ok(Err(error)) => {
            eprintln!("jambac: {error:#}");
            ExitCode::from(1)
        }
        Err(_) => {
            eprintln!("{PLEA}");
            ExitCode::from(3)
        }
    }
}

const PLEA: &str =
    "This is a fault of jambac's, not of your input. Please report it with the command line and the messages above.";

/// Prints to stdout; a reader that has gone away (`| head`) is no error.
pub fn print(text: &str) -> Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
