//! Remarks on a checkpoint that is accepted.

use std::fmt;

/// A remark for the user on a checkpoint that builds. The text names the file and the key or tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    /// A choice that needs no action.
    Note(String),
    /// A fault that the build survives, with its effect.
    Warning(String),
}

impl Remark {
    /// The text without the kind of remark.
    pub fn text(&self) -> &str {
        match self {
            Remark::Note(text) | Remark::Warning(text) => text,
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Remark::Note(text) => write!(f, "note: {text}"),
            Remark::Warning(text) => write!(f, "warning: {text}"),
        }
    }
}
