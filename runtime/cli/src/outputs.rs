//! The files that options name: inputs and outputs of a command.

use std::path::Path;

use jamba_plan::output::{Content, Kind, Output, OutputError, Outputs};
use jamba_program::files::contains;

use crate::failure::Failure;

pub(crate) use jamba_program::files::ForceArg;

/// Claims an output that cannot go to stdout, which has the answer.
pub(crate) fn claim_file(
    outputs: &mut Outputs,
    option: &str,
    path: Option<&Path>,
    kind: Kind,
) -> Result<Option<Output>, Failure> {
    match path {
        None => Ok(None),
        Some(path) if path == Path::new("-") => {
            Err(Failure::Usage(format!("{option} -: found stdout, which has the answer, expected a file")))
        }
        Some(path) => Ok(Some(outputs.claim(option, path, kind)?)),
    }
}

/// Chrome's trace format.
pub(crate) const TRACE: Kind = Kind {
    name: "a trace",
    content: Content::Text,
    recognizes: |head| head.starts_with(b"{") && contains(head, b"\"traceEvents\""),
};

/// Logits in safetensors: the length of a JSON header, then the header, whose only tensor is `logits`.
pub(crate) const LOGITS: Kind = Kind {
    name: "a file of logits",
    content: Content::Binary,
    recognizes: |head| head.get(8..).is_some_and(|header| header.starts_with(b"{\"logits\":")),
};

/// A manual page.
pub(crate) const MANUAL: Kind =
    Kind { name: "a manual page of jamba", content: Content::Text, recognizes: |head| contains(head, b".TH jamba") };

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Failure {
        Failure::Input(error.to_string())
    }
}
