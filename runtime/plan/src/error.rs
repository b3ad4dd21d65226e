//! Errors of reading and writing plans. Every message names the section, the value found and the value expected.

use std::path::PathBuf;

/// The reason for which a plan was rejected or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file does not start with the magic bytes of a plan.
    #[error("not a plan: the file begins with {found:02x?}, a plan with {expected:02x?}", expected = crate::header::MAGIC)]
    NotAPlan {
        /// The first bytes of the file, at most eight.
        found: Vec<u8>,
    },
    /// The plan is too new: its header requires a newer reader.
    #[error(
        "header: the plan has format version {version}, which needs a reader of version {oldest_reader} or newer; this one has version {ours}"
    )]
    NewerFormat {
        /// Format version of the plan.
        version: u32,
        /// Oldest reader version that understands the plan, from its header.
        oldest_reader: u32,
        /// Version of this reader.
        ours: u32,
    },
    /// The plan is too old: this reader no longer supports its format version.
    #[error(
        "header: the plan has format version {version}; this reader understands {oldest} to {ours}: build the plan again"
    )]
    OlderFormat {
        /// Format version of the plan.
        version: u32,
        /// Oldest format version that this reader supports.
        oldest: u32,
        /// Version of this reader.
        ours: u32,
    },
    /// The file is truncated.
    #[error("{section}: the file is cut short: it has {found} bytes, {expected} were expected")]
    Truncated {
        /// The section that is incomplete.
        section: String,
        /// Length of the file, in bytes.
        found: u64,
        /// Expected length in bytes: the length of the file if the header is readable, else of the part that is missing.
        expected: u64,
    },
    /// The digest of a section does not match its bytes.
    #[error("{section}: damaged: its digest is {found}, {expected} was written")]
    Digest {
        /// Name of the section.
        section: String,
        /// BLAKE3 digest of the bytes found.
        found: blake3::Hash,
        /// BLAKE3 digest in the plan.
        expected: blake3::Hash,
    },
    /// Padding between sections is not zero.
    #[error("padding after {section}: damaged: byte {offset} of the file is {found:#04x}, 0 was written")]
    Padding {
        /// The section before the padding.
        section: String,
        /// Offset in the file, in bytes.
        offset: u64,
        /// The byte found.
        found: u8,
    },
    /// A record is invalid although its digest matches: a bug in the compiler that wrote the plan.
    #[error("{section}: {field}: found {found}, expected {expected}")]
    Record {
        /// Name of the section.
        section: String,
        /// Path of the invalid field: `entries[1].steps[7].args[0]`.
        field: String,
        /// The value found.
        found: String,
        /// The value expected.
        expected: String,
    },
    /// A required section is missing.
    #[error("section table: the plan has no section \"{section}\"")]
    MissingSection {
        /// Name of the missing section.
        section: String,
    },
    /// The manifest or the program could not be decoded.
    #[error("{section}: cannot be decoded: {reason}")]
    Decode {
        /// Name of the section.
        section: String,
        /// The decoder's error message.
        reason: String,
    },
    /// An operation on a file failed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// The operation, as an infinitive for the message: `read`.
        action: &'static str,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The plan cannot be written to its path.
    #[error(transparent)]
    Output(#[from] crate::output::OutputError),
}

impl PlanError {
    /// Builds the error for an invalid record.
    pub(crate) fn record(
        section: &str,
        field: impl Into<String>,
        found: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> Self {
        PlanError::Record {
            section: section.to_owned(),
            field: field.into(),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// The section in which the error was found; `None` if the error is about the file as a whole.
    pub fn section(&self) -> Option<&str> {
        match self {
            PlanError::NotAPlan { .. } | PlanError::NewerFormat { .. } | PlanError::OlderFormat { .. } => {
                Some("header")
            }
            PlanError::Truncated { section, .. }
            | PlanError::Digest { section, .. }
            | PlanError::Padding { section, .. }
            | PlanError::Record { section, .. }
            | PlanError::MissingSection { section }
            | PlanError::Decode { section, .. } => Some(section),
            PlanError::Io { .. } | PlanError::Output(_) => None,
        }
    }
}
