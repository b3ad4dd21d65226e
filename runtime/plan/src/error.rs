//! Why a plan was refused. Every message names the section, what was found and what was expected.

use std::path::PathBuf;

/// Why a plan was refused, or could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file does not begin as a plan does.
    #[error("not a plan: the file begins with {found:02x?}, a plan with {expected:02x?}", expected = crate::header::MAGIC)]
    NotAPlan {
        /// The first bytes, at most eight.
        found: Vec<u8>,
    },
    /// A newer compiler wrote the plan, and says that this reader does not understand it.
    #[error(
        "header: the plan has format version {version}, which needs a reader of version {oldest_reader} or newer; this one has version {ours}"
    )]
    NewerFormat {
        /// Format version of the plan.
        version: u32,
        /// Oldest reader that understands it.
        oldest_reader: u32,
        /// Version of this reader.
        ours: u32,
    },
    /// An older compiler wrote the plan, and this reader no longer understands it.
    #[error(
        "header: the plan has format version {version}; this reader understands {oldest} to {ours}: build the plan again"
    )]
    OlderFormat {
        /// Format version of the plan.
        version: u32,
        /// Oldest version that this reader understands.
        oldest: u32,
        /// Version of this reader.
        ours: u32,
    },
    /// The file ends too early.
    #[error("{section}: the file is cut short: it has {found} bytes, {expected} were expected")]
    Truncated {
        /// The section that the end of the file cuts.
        section: String,
        /// Length of the file, in bytes.
        found: u64,
        /// Length that was expected, in bytes: of the file, where the header tells, else of what must be there.
        expected: u64,
    },
    /// A section's bytes are not those that were written.
    #[error("{section}: damaged: its digest is {found}, {expected} was written")]
    Digest {
        /// Name of the section.
        section: String,
        /// BLAKE3 of the bytes found.
        found: blake3::Hash,
        /// BLAKE3 that the plan states.
        expected: blake3::Hash,
    },
    /// Bytes between sections are not zero.
    #[error("padding after {section}: damaged: byte {offset} of the file is {found:#04x}, 0 was written")]
    Padding {
        /// Name of the section before the padding.
        section: String,
        /// Offset in the file, in bytes.
        offset: u64,
        /// The byte found.
        found: u8,
    },
    /// A record has the right digest and yet makes no sense: a fault of the compiler that wrote the plan.
    #[error("{section}: {field}: found {found}, expected {expected}")]
    Record {
        /// Name of the section.
        section: String,
        /// The field: `entries[1].steps[7].args[0]`.
        field: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// A section that every plan has, or that this one needs, is absent.
    #[error("section table: the plan has no section \"{section}\"")]
    MissingSection {
        /// Name of the section.
        section: String,
    },
    /// The manifest or the program could not be decoded.
    #[error("{section}: cannot be decoded: {reason}")]
    Decode {
        /// Name of the section.
        section: String,
        /// The decoder's message.
        reason: String,
    },
    /// The file system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done to it.
        action: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
}

impl PlanError {
    /// A record that makes no sense.
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

    /// The section that the complaint is about, where it is about one.
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
            PlanError::Io { .. } => None,
        }
    }
}
