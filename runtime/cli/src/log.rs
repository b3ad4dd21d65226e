//! Log output on stderr, filtered by the environment variable `JAMBA_LOG`.
//!
//! The runtime has one span per phase of opening a plan (level debug) and one per step (level trace). Each span is logged
//! when it closes, with its duration. Without the variable only `jamba serve` logs.

use std::env::VarError;

use jamba_program::say::Log;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::failure::Failure;

/// Directives of `tracing_subscriber`'s `EnvFilter`: `debug`, or `jamba_runtime=trace`.
const VARIABLE: &str = "JAMBA_LOG";

/// Installs the subscriber if the variable is set, or else if the command has directives of its own.
pub(crate) fn begin(default: Option<&str>) -> Result<(), Failure> {
    let refused = |reason: String| Failure::Usage(format!("{VARIABLE}: {reason}"));
    let directives = match (std::env::var(VARIABLE), default) {
        (Ok(directives), _) => directives,
        (Err(VarError::NotPresent), Some(default)) => default.to_owned(),
        (Err(VarError::NotPresent), None) => return Ok(()),
        (Err(error), _) => return Err(refused(error.to_string())),
    };
    let filter = EnvFilter::try_new(directives).map_err(|error| refused(error.to_string()))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::CLOSE)
        .with_writer(|| Log)
        .with_ansi(false)
        .init();
    Ok(())
}
