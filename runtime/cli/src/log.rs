//! Log output on stderr, filtered by the environment variable `JAMBA_LOG`.
//!
//! The runtime has one span per phase of opening a plan (level debug) and one per step (level trace). Each span is logged
//! when it closes, with its duration. Without the variable nothing is logged.

use std::env::VarError;

use jamba_program::say::Stderr;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::failure::Failure;

/// Directives of `tracing_subscriber`'s `EnvFilter`: `debug`, or `jamba_runtime=trace`.
const VARIABLE: &str = "JAMBA_LOG";

fn refused(reason: String) -> Failure {
    Failure::Usage(format!("{VARIABLE}: {reason}"))
}

fn directives() -> Result<Option<String>, Failure> {
    match std::env::var(VARIABLE) {
        Ok(directives) => Ok(Some(directives)),
        Err(VarError::NotPresent) => Ok(None),
        Err(error) => Err(refused(error.to_string())),
    }
}

/// Installs the subscriber if the variable is set.
pub(crate) fn begin() -> Result<(), Failure> {
    match directives()? {
        Some(directives) => install(&directives),
        None => Ok(()),
    }
}

/// Installs the subscriber with these directives, unless the variable has others.
#[cfg(feature = "serve")]
pub(crate) fn begin_with(default: &str) -> Result<(), Failure> {
    install(&directives()?.unwrap_or_else(|| default.to_owned()))
}

fn install(directives: &str) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(directives).map_err(|error| refused(error.to_string()))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(|| Stderr)
        .with_ansi(false)
        .init();
    Ok(())
}
